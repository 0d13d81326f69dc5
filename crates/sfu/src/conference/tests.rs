//! A conference seen from outside: packets in, packets out, in virtual time.

mod e2ee;
mod kept;
mod repair;
mod room;
mod sound;

use std::collections::BTreeSet;

pub(super) use self::room::sources;
use self::room::{Room, want};
use super::*;
use tertulia_model::profile::Codec;
use tertulia_model::{GroupSemantics, Source as Signalled, SourceGroup, Ssrc};
use tertulia_rtp::Packet;
use tertulia_rtp::codec::{Inspector, vp8};
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, Rtcp, SenderInfo};

const FULL: Capabilities = Capabilities::USUAL;

/// When a test's time begins: from there on it is counted, and no clock is read.
fn beginning() -> Instant {
    Instant::now()
}

#[test]
fn a_viewer_of_180_lines_gets_the_lowest_layer_and_one_of_720_the_highest() {
    let mut room = Room::of(3);
    room.say(1, &want(180));
    room.say(2, &want(720));
    for sequence in 1..=120 {
        for (layer, height) in [(1, 180), (2, 360), (3, 720)] {
            room.video(0, layer, sequence, (sequence % 10 == 1).then_some(height));
        }
        room.wait(33);
    }
    for (viewer, height) in [(1, 180), (2, 720)] {
        let packets = room.rtp_to(viewer);
        assert!(packets.len() >= 20, "{viewer}: {}", packets.len());
        assert!(packets.iter().all(|packet| packet.header.ssrc == 101), "under the primary SSRC");
        let last_key = packets
            .iter()
            .rev()
            .find_map(|p| Inspector::default().inspect(Codec::Vp8, 0, p.payload(), true, None).height);
        assert_eq!(last_key, Some(height));
        let sequences: Vec<u16> = packets.iter().map(|packet| packet.header.sequence).collect();
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{sequences:?}");
        let ids: Vec<u16> =
            packets.iter().map(|p| vp8::Descriptor::parse(p.payload()).unwrap().picture_id.unwrap().value).collect();
        assert!(ids.windows(2).all(|pair| pair[1] == (pair[0] + 1) & 0x7fff), "{ids:?}");
        assert!(
            packets
                .windows(2)
                .all(|pair| pair[1].header.timestamp.wrapping_sub(pair[0].header.timestamp) < 0x8000_0000)
        );
    }
    assert!(room.rtp_to(0).is_empty(), "nobody gets what is their own");
}

#[test]
fn channels_tell_what_is_forwarded_and_how_much_is_wanted() {
    let mut room = Room::of(2);
    assert!(
        room.said_to(1).contains(&r#"{"colibriClass":"ForwardedSources","forwardedSources":["p0-v0"]}"#.to_owned())
    );
    room.wait(250);
    room.out.clear();
    room.say(1, &want(720));
    let limit =
        |lines| format!(r#"{{"colibriClass":"SenderSourceConstraints","maxHeight":{lines},"sourceName":"p0-v0"}}"#);
    assert_eq!(room.said_to(0), [limit(720)]);
    room.out.clear();
    room.say(1, &want(180));
    room.wait(900);
    assert!(!room.said_to(0).contains(&limit(180)));
    room.wait(100);
    assert!(room.said_to(0).contains(&limit(180)), "nothing else has to happen");
    room.out.clear();
    room.say(0, r#"{"colibriClass":"SourceVideoTypeMessage","sourceName":"p0-v0","videoType":"none"}"#);
    room.wait(50);
    assert!(room.said_to(1).contains(&r#"{"colibriClass":"ForwardedSources","forwardedSources":[]}"#.to_owned()));
    room.out.clear();
    room.say(0, r#"{"colibriClass":"EndpointMessage","to":"p1","from":"forged","msgPayload":{"type":"x"}}"#);
    assert_eq!(room.said_to(1).len(), 1);
    assert!(room.said_to(1)[0].contains(r#""from":"p0""#));
}

#[test]
fn silence_of_eight_seconds_is_told_and_so_is_the_return() {
    let mut room = Room::of(2);
    for _ in 0..9 {
        room.wait(1_000);
        room.conference.handle_activity(room.now, EndpointKey(1));
    }
    let gone = r#"{"active":"false","colibriClass":"EndpointConnectivityStatusChangeEvent","endpoint":"p0"}"#;
    assert!(room.said_to(1).contains(&gone.to_owned()));
    room.conference.handle_activity(room.now, EndpointKey(0));
    room.wait(600);
    assert!(room.said_to(1).contains(&gone.replace("false", "true")));
}

#[test]
fn whoever_is_watched_over_is_active_until_it_is_told_when_they_were_last_heard() {
    let mut room = Room::of(2);
    (0..2).for_each(|n| room.conference.handle_watched(room.now, EndpointKey(n)));
    room.wait(60_000);
    let change = "EndpointConnectivityStatusChangeEvent";
    assert!(!room.said_to(1).iter().any(|text| text.contains(change)));
    let five_seconds_ago = room.now.checked_sub(Duration::from_secs(5)).unwrap();
    room.conference.handle_activity(five_seconds_ago, EndpointKey(0));
    room.wait(2_900);
    assert!(!room.said_to(1).iter().any(|text| text.contains(change)));
    room.wait(700);
    assert!(room.said_to(1).iter().any(|text| text.contains(change) && text.contains(r#""active":"false""#)));
    room.conference.handle_watched(room.now, EndpointKey(0));
    room.wait(600);
    assert!(room.said_to(1).iter().any(|text| text.contains(change) && text.contains(r#""active":"true""#)));
}

#[test]
fn what_is_not_signalled_or_somebody_elses_is_dropped() {
    let mut room = Room::of(3);
    let mut packet = vec![0u8; 40];
    let header = Header { marker: false, payload_type: 100, sequence: 1, timestamp: 0, ssrc: 101 };
    write_header(&mut packet, header, &[]);
    room.conference.handle_rtp(room.now, EndpointKey(1), &packet, &mut room.sink, &mut room.out);
    room.conference.handle_rtp(room.now, EndpointKey(0), b"garbage", &mut room.sink, &mut room.out);
    assert!(room.sink.rtp.is_empty());
    assert_eq!(room.conference.counters().dropped, 2);
}

#[test]
fn nothing_is_left_of_those_who_left() {
    let mut room = Room::of(3);
    room.video(0, 1, 1, Some(180));
    for key in 0..3 {
        room.conference.remove_endpoint(room.now, EndpointKey(key));
    }
    assert!(room.conference.is_empty());
    assert_eq!(room.conference.next_timeout(), None);
}

#[test]
fn senders_get_reports_and_transport_wide_feedback() {
    let mut room = Room::of(2);
    for sequence in 1..=20 {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
        room.wait(100);
    }
    let parts = room.rtcp_to(0);
    let mut told = 0;
    for part in &parts {
        if let Rtcp::TransportCc { feedback } = part {
            tertulia_rtp::transport_cc::read(feedback, |_, at| told += usize::from(at.is_some())).unwrap();
        }
    }
    assert_eq!(told, 20);
    assert!(parts.iter().any(|part| matches!(part, Rtcp::ReceiverReport { .. })));
}

#[test]
fn load_and_size_limit_how_many_pictures_anybody_gets() {
    let mut room = Room::of(4);
    room.say(0, &want(180));
    let forwarded = |room: &mut Room| {
        room.wait(100);
        room.conference.most_forwarded()
    };
    assert_eq!(forwarded(&mut room), 3);
    room.conference.limit_last_n(room.now, Some(2));
    assert_eq!(forwarded(&mut room), 2);
    room.conference.limit_last_n(room.now, None);
    assert_eq!(forwarded(&mut room), 3);
    room.conference.policy.last_n_by_size = [(5, 1), (3, 2), (2, 0)].into();
    room.conference.needs_allocation(room.now);
    assert_eq!(forwarded(&mut room), 2, "of the sizes that are reached the largest counts");
}

#[test]
fn a_large_conference_is_decided_on_in_several_ticks_and_everybody_gets_a_turn() {
    let mut room = Room::of(230); // of 460 sources: more than one tick decides on
    room.wait(100);
    room.out.clear();
    let left = |room: &Room| room.conference.endpoints.iter().filter(|(_, endpoint)| endpoint.needs_allocation).count();
    room.conference.needs_allocation(room.now);
    assert_eq!(left(&room), 230);
    room.conference.on_timeout(room.conference.next_tick.unwrap(), &mut room.sink, &mut room.out);
    assert!((100..200).contains(&left(&room)), "{}", left(&room));
    room.wait(100);
    assert_eq!((left(&room), room.conference.unallocated), (0, None));
}

#[test]
fn nothing_is_decided_again_while_nobody_sends() {
    let mut room = Room::of(3);
    room.wait(5_000);
    room.conference.allocation.decisions.clear();
    room.wait(60_000);
    assert!(room.conference.allocation.decisions.is_empty());
    room.video(0, 1, 1, Some(180));
    room.wait(1_000);
    assert!(!room.conference.allocation.decisions.is_empty());
}

#[test]
fn conferences_whose_ticks_a_long_turn_made_late_do_not_tick_together_afterwards() {
    let mut rooms = [Room::of(2), Room::of(2)];
    let start = rooms[1].now; // of the younger one
    let at = |ms: u64| start + Duration::from_millis(ms);
    for (room, ms) in rooms.iter_mut().zip([0, 7]) {
        room.now = at(ms);
        room.video(0, 1, 1, Some(180));
        room.wait(100);
    }
    for room in &mut rooms {
        room.conference.on_timeout(at(250), &mut room.sink, &mut room.out);
    }
    let [one, other] = rooms.map(|room| room.conference.next_tick.unwrap());
    assert!(one > at(250) && other > at(250) && one.max(other) <= at(250) + TICK, "one beat at most");
    let apart = one.max(other) - one.min(other);
    assert!(apart == Duration::from_millis(7) || apart == Duration::from_millis(13), "{apart:?}");
}

#[test]
fn of_a_kind_of_media_that_was_force_muted_nothing_is_forwarded() {
    let mut room = Room::of(2);
    for (sequence, [audio, video]) in (1..).zip([[false, false], [true, false], [false, true], [false, false]]) {
        room.conference.set_force_mute(EndpointKey(0), audio, video);
        room.sink.rtp.clear();
        room.audio(0, sequence, 30);
        room.video(0, 1, sequence, Some(180));
        let got: Vec<u32> = room.rtp_to(1).iter().map(|packet| packet.header.ssrc).collect();
        let wanted = [(150, audio), (101, video)].into_iter().filter(|(_, muted)| !muted).map(|(ssrc, _)| ssrc);
        assert_eq!(got, wanted.collect::<Vec<_>>(), "muted: {audio}, {video}");
    }
}

#[test]
fn the_policy_and_the_answer_limit_pictures_and_a_client_cannot_raise_what_the_policy_allows() {
    let mut room = Room::of(5);
    let pictures = |room: &mut Room, sequence| {
        room.wait(50);
        room.sink.rtp.clear();
        (1..5).for_each(|from| room.video(from, 1, sequence, Some(180)));
        room.rtp_to(0).len()
    };
    assert_eq!(pictures(&mut room, 1), 4);
    room.conference.set_initial_last_n(room.now, EndpointKey(0), 1, &mut room.out);
    assert_eq!(pictures(&mut room, 2), 1);
    room.say(0, r#"{"colibriClass":"ReceiverVideoConstraints","lastN":4}"#);
    assert_eq!(pictures(&mut room, 3), 4, "a client's word replaces what came with its answer");
    room.conference.policy.last_n = Some(2);
    room.say(0, r#"{"colibriClass":"ReceiverVideoConstraints","lastN":4}"#);
    assert_eq!(pictures(&mut room, 4), 2);
}
