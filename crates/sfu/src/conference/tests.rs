//! A conference seen from outside: packets in, packets out, in virtual time.

mod e2ee;
mod kept;

use std::collections::BTreeSet;

use super::*;
use tertulia_model::profile::Codec;
use tertulia_model::{GroupSemantics, Source as Signalled, SourceGroup, Ssrc};
use tertulia_rtp::Packet;
use tertulia_rtp::codec::{Inspector, vp8};
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, Rtcp, SenderInfo};

const FULL: Capabilities = Capabilities::USUAL;

/// Collects what a conference sends.
#[derive(Default)]
struct Sink {
    rtp: Vec<(EndpointKey, Vec<u8>)>,
    rtcp: Vec<(EndpointKey, Vec<u8>)>,
}

impl Egress for Sink {
    fn rtp(&mut self, to: EndpointKey, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut buffer = vec![0; 1500];
        let len = write(&mut buffer);
        buffer.truncate(len);
        if len > 0 {
            self.rtp.push((to, buffer));
        }
    }

    fn rtcp(&mut self, to: EndpointKey, compound: &[u8]) {
        self.rtcp.push((to, compound.to_vec()));
    }
}

struct Room {
    conference: Conference,
    now: Instant,
    sink: Sink,
    out: Vec<Output>,
}

impl Room {
    fn of(people: u32) -> Self {
        let feedback = FeedbackSsrcs { audio: Ssrc(1_000_001), video: Ssrc(1_000_002) };
        let mut room = Self {
            conference: Conference::new(ConferenceId(1), feedback, Policy::default(), 7),
            now: Instant::now(),
            sink: Sink::default(),
            out: Vec::new(),
        };
        for n in 0..people {
            let id = EndpointId::parse(&format!("p{n}")).unwrap();
            room.conference.add_endpoint(room.now, EndpointKey(n), id, FULL);
            room.conference.set_sources(room.now, EndpointKey(n), &sources(n));
            room.conference.handle_connected(room.now, EndpointKey(n), &mut room.out);
            room.conference.handle_channel_open(room.now, EndpointKey(n), &mut room.out);
        }
        room.wait(50);
        room
    }

    /// One VP8 packet that is a whole frame, `height` for key frames.
    fn video(&mut self, from: u32, layer: u32, sequence: u16, key: Option<u16>) {
        let ssrc = 100 * (from + 1) + layer;
        let mut packet = vec![0u8; 64];
        let header = Header { marker: true, payload_type: 100, sequence, timestamp: u32::from(sequence) * 3_000, ssrc };
        let start = write_header(&mut packet, header, &[(5, &sequence.to_be_bytes())]);
        let id = (sequence & 0x7fff) | 0x8000;
        packet.truncate(start);
        packet.extend_from_slice(&[0x90, 0xe0, (id >> 8) as u8, id as u8, sequence as u8, 0x20]);
        match key {
            Some(height) => {
                packet.extend_from_slice(&[0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, height as u8, (height >> 8) as u8]);
            }
            None => packet.extend_from_slice(&[0x11, 0, 0, 1, 2, 3]),
        }
        self.conference.handle_rtp(self.now, EndpointKey(from), &packet, &mut self.sink, &mut self.out);
        self.conference.finish_turn(self.now, &mut self.sink);
    }

    fn audio(&mut self, from: u32, sequence: u16, level: u8) {
        self.sound(from, sequence, level, (111, &[0; 20]));
    }

    fn sound(&mut self, from: u32, sequence: u16, level: u8, (payload_type, payload): (u8, &[u8])) {
        let mut packet = vec![0u8; 64];
        let header = Header {
            marker: false,
            payload_type,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: 100 * (from + 1) + 50,
        };
        let start = write_header(&mut packet, header, &[(1, &[level])]);
        packet.truncate(start);
        packet.extend_from_slice(payload);
        self.conference.handle_rtp(self.now, EndpointKey(from), &packet, &mut self.sink, &mut self.out);
        self.conference.finish_turn(self.now, &mut self.sink);
    }

    fn say(&mut self, from: u32, text: &str) {
        self.conference.handle_channel_message(self.now, EndpointKey(from), text, &mut self.out);
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.conference.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.conference.on_timeout(self.now, &mut self.sink, &mut self.out);
        }
        self.now = end;
    }

    fn rtcp_to(&self, key: u32) -> Vec<Rtcp<'_>> {
        let own = self.sink.rtcp.iter().filter(|(to, _)| *to == EndpointKey(key));
        own.flat_map(|(_, bytes)| Compound::new(bytes)).collect()
    }

    fn rtp_to(&self, key: u32) -> Vec<Packet<'_>> {
        self.sink
            .rtp
            .iter()
            .filter(|(to, _)| *to == EndpointKey(key))
            .map(|(_, bytes)| Packet::parse(bytes).unwrap())
            .collect()
    }

    fn said_to(&self, key: u32) -> Vec<String> {
        let own = self.out.iter().filter_map(|output| match output {
            Output::Channel { to, text } if *to == EndpointKey(key) => Some(text.to_string()),
            _ => None,
        });
        own.collect()
    }
}

/// A camera of three layers, 100·(n + 1) + 1…3, with RTX 11…13, and a microphone 50.
pub(super) fn sources(n: u32) -> SourceSet {
    let base = 100 * (n + 1);
    let name = |letter| SourceName::parse(&format!("p{n}-{letter}0")).unwrap();
    let source = |ssrc, kind, letter| Signalled {
        ssrc: Ssrc(base + ssrc),
        kind,
        name: name(letter),
        msid: None,
        video_type: VideoType::Camera,
    };
    let group = |semantics, ssrcs: &[u32]| SourceGroup {
        semantics,
        kind: MediaKind::Video,
        ssrcs: ssrcs.iter().map(|s| Ssrc(base + s)).collect(),
    };
    let mut all: Vec<Signalled> =
        [1, 11, 2, 12, 3, 13].into_iter().map(|ssrc| source(ssrc, MediaKind::Video, 'v')).collect();
    all.push(source(50, MediaKind::Audio, 'a'));
    let groups = vec![
        group(GroupSemantics::Sim, &[1, 2, 3]),
        group(GroupSemantics::Fid, &[1, 11]),
        group(GroupSemantics::Fid, &[2, 12]),
        group(GroupSemantics::Fid, &[3, 13]),
    ];
    SourceSet { sources: all, groups }
}

fn want(height: i32) -> String {
    format!(r#"{{"colibriClass":"ReceiverVideoConstraints","lastN":-1,"defaultConstraints":{{"maxHeight":{height}}}}}"#)
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
fn a_loss_on_the_way_out_is_answered_from_the_cache_as_a_retransmission() {
    let mut room = Room::of(2);
    for sequence in 1..=5 {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
        room.wait(20);
    }
    let lost = room.rtp_to(1)[2].header;
    let original = room.rtp_to(1)[2].payload().to_vec();
    room.sink.rtp.clear();
    let mut writer = Writer::default();
    writer.nack(1, lost.ssrc, std::iter::once(lost.sequence));
    room.conference.handle_rtcp(room.now, EndpointKey(1), writer.bytes(), &mut room.sink);
    room.conference.handle_rtcp(room.now, EndpointKey(1), writer.bytes(), &mut room.sink);
    let answers = room.rtp_to(1);
    assert_eq!(answers.len(), 1, "asked twice within a round trip, answered once");
    assert_eq!((answers[0].header.ssrc, answers[0].header.payload_type), (111, 96));
    assert_eq!(tertulia_rtp::rtx::unwrap(answers[0].payload()), Some((lost.sequence, &original[..])));
}

#[test]
fn a_loss_on_the_way_in_is_asked_for_and_its_repair_fills_the_gap() {
    let mut room = Room::of(2);
    for sequence in [1, 2, 4] {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
    }
    room.wait(30);
    let asked = room.rtcp_to(0).into_iter().find_map(|part| match part {
        Rtcp::Nack { media_ssrc, losses } => Some((media_ssrc, losses.sequences().collect::<Vec<_>>())),
        _ => None,
    });
    assert_eq!(asked, Some((101, vec![3])));
    let mut repair = vec![0u8; 64];
    let header = Header { marker: true, payload_type: 96, sequence: 900, timestamp: 9_000, ssrc: 111 };
    let start = write_header(&mut repair, header, &[]);
    repair.truncate(start);
    repair.extend_from_slice(&[0, 3, 0x90, 0xe0, 0x80, 3, 3, 0x20, 0x11, 0, 0]);
    room.conference.handle_rtp(room.now, EndpointKey(0), &repair, &mut room.sink, &mut room.out);
    room.conference.finish_turn(room.now, &mut room.sink);
    let sequences: Vec<u16> = room.rtp_to(1).iter().map(|packet| packet.header.sequence).collect();
    let first = sequences[0];
    assert_eq!(sequences.iter().map(|s| s.wrapping_sub(first)).collect::<Vec<_>>(), [0, 1, 3, 2]);
}

#[test]
fn two_hundred_viewers_who_lose_the_picture_cost_the_sender_few_requests() {
    let mut room = Room::of(200);
    room.video(0, 1, 1, Some(180));
    room.wait(50);
    room.sink.rtcp.clear();
    for ms in 0..10 {
        for viewer in 1..200 {
            let mut writer = Writer::default();
            writer.picture_loss(9, 101);
            room.conference.handle_rtcp(room.now, EndpointKey(viewer), writer.bytes(), &mut room.sink);
        }
        room.video(0, 1, 2 + ms, None);
        room.wait(100);
    }
    let requests = room.rtcp_to(0).iter().filter(|part| matches!(part, Rtcp::PictureLossIndication { .. })).count();
    assert!((1..=5).contains(&requests), "{requests}");
}

#[test]
fn lasting_silence_is_left_out_without_a_gap() {
    let mut room = Room::of(2);
    for sequence in 0..20u16 {
        room.audio(0, sequence, if (5..15).contains(&sequence) { 127 } else { 30 });
        room.wait(20);
    }
    let sequences: Vec<u16> = room.rtp_to(1).iter().map(|packet| packet.header.sequence).collect();
    assert_eq!(sequences.len(), 5 + 3 + 5);
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{sequences:?}");
}

#[test]
fn a_microphone_that_is_on_and_silent_costs_nobody_anything_until_it_is_spoken_into() {
    let mut room = Room::of(2);
    for sequence in 0..20 {
        room.audio(0, sequence, 127);
        room.wait(20);
    }
    let microphone = |room: &Room| {
        room.conference.sources.iter().find(|(_, s)| s.primary_ssrc() == 150).map(|(_, s)| s.subscriptions.len())
    };
    assert_eq!((room.sink.rtp.len(), microphone(&room)), (0, Some(0)));
    room.conference.add_endpoint(room.now, EndpointKey(2), EndpointId::parse("p2").unwrap(), FULL);
    room.conference.handle_connected(room.now, EndpointKey(2), &mut room.out);
    room.audio(0, 20, 30);
    assert_eq!((room.rtp_to(1).len(), room.rtp_to(2).len(), microphone(&room)), (1, 1, Some(2)));
}

#[test]
fn redundancy_goes_to_those_who_take_it_and_opus_passes_byte_for_byte() {
    let mut room = Room::of(2);
    let takes_red = Capabilities { opus_red: true, ..FULL };
    room.conference.add_endpoint(room.now, EndpointKey(2), EndpointId::parse("p2").unwrap(), takes_red);
    room.conference.handle_connected(room.now, EndpointKey(2), &mut room.out);
    // One earlier block of three bytes, then a stereo packet of SILK and CELT.
    let (redundant, opus) = ([0xef, 0x0f, 0x00, 3, 111, 1, 2, 3, 0x7c, 9, 8, 7], [0x7c, 9, 8, 7]);
    room.sound(0, 1, 30, (112, &redundant));
    room.sound(0, 2, 30, (111, &opus));
    room.sound(0, 3, 30, (112, &[0xef, 0x0f, 0x00, 200, 111, 1]));
    room.sound(0, 4, 30, (112, &[112, 1]));
    room.sound(0, 5, 30, (112, &[111, 5, 6]));
    let got = |key| -> Vec<(u8, Vec<u8>)> {
        room.rtp_to(key).iter().map(|packet| (packet.header.payload_type, packet.payload().to_vec())).collect()
    };
    assert_eq!(got(1), [(111, opus.to_vec()), (111, opus.to_vec()), (111, vec![5, 6])]);
    let malformed = [vec![0xef, 0x0f, 0x00, 200, 111, 1], vec![112, 1]].map(|payload| (112, payload));
    let [long, nested] = malformed;
    assert_eq!(got(2), [(112, redundant.to_vec()), (111, opus.to_vec()), long, nested, (112, vec![111, 5, 6])]);
    let numbers: Vec<u16> = room.rtp_to(1).iter().map(|packet| packet.header.sequence).collect();
    assert_eq!(numbers[2].wrapping_sub(numbers[0]), 2, "what is malformed is not missed");
}

#[test]
fn the_speaker_is_announced_on_channels_and_to_the_room() {
    let mut room = Room::of(3);
    for sequence in 0..100u16 {
        room.audio(1, sequence, 20);
        room.audio(2, sequence, 100);
        room.wait(20);
    }
    assert!(room.said_to(0).iter().any(|text| text.contains(r#""dominantSpeakerEndpoint":"p1""#)));
    let p1 = EndpointId::parse("p1").unwrap();
    assert!(room.out.contains(&Output::Event(BridgeEvent::DominantSpeaker { endpoint: p1 })));
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
fn a_stream_that_comes_back_goes_on_where_it_ended() {
    let mut room = Room::of(2);
    room.audio(0, 1, 30);
    let before = room.rtp_to(1)[0].header.sequence;
    room.conference.set_sources(room.now, EndpointKey(0), &SourceSet::default());
    room.conference.set_sources(room.now, EndpointKey(0), &sources(0));
    room.audio(0, 2, 30);
    assert_eq!(room.rtp_to(1)[1].header.sequence, before.wrapping_add(1));
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
fn feedback_asks_nobody_for_anything_and_a_complaint_asks_its_sender_at_once() {
    let mut room = Room::of(3);
    room.video(0, 1, 1, Some(180));
    room.video(0, 1, 3, None);
    room.wait(30);
    room.sink.rtcp.clear();
    room.video(0, 1, 5, None);
    let mut report = Writer::default();
    report.receiver_report(9, &[]);
    room.conference.handle_rtcp(room.now, EndpointKey(2), report.bytes(), &mut room.sink);
    let asked = |room: &Room| {
        let count = |wanted: fn(&Rtcp<'_>) -> bool| room.rtcp_to(0).iter().filter(|part| wanted(part)).count();
        (
            count(|part| matches!(part, Rtcp::Nack { .. })),
            count(|part| matches!(part, Rtcp::PictureLossIndication { .. })),
        )
    };
    assert_eq!(asked(&room), (0, 0), "the tick looks for losses, not every datagram of a thousand receivers");
    room.now += Duration::from_secs(3);
    room.video(0, 1, 6, None);
    room.sink.rtcp.clear();
    let mut complaint = Writer::default();
    complaint.picture_loss(9, 101);
    room.conference.handle_rtcp(room.now, EndpointKey(2), complaint.bytes(), &mut room.sink);
    assert_eq!(asked(&room), (0, 1));
    room.wait(30);
    assert_eq!(asked(&room).0, 1);
}

fn sender_report(room: &mut Room, from: u32) {
    let mut writer = Writer::default();
    let (ssrc, packets, octets) = (100 * (from + 1) + 50, 1, 1);
    writer.sender_report(SenderInfo { ssrc, ntp: 1 << 40, rtp_timestamp: 0, packets, octets });
    room.conference.handle_rtcp(room.now, EndpointKey(from), writer.bytes(), &mut room.sink);
}

fn reports_to(room: &Room, key: u32) -> usize {
    room.rtcp_to(key).iter().filter(|part| matches!(part, Rtcp::SenderReport { .. })).count()
}

#[test]
fn a_conference_in_which_nobody_sends_sends_nothing() {
    let mut room = Room::of(3);
    room.audio(0, 1, 30);
    sender_report(&mut room, 0);
    assert_eq!(reports_to(&room, 1), 1);
    room.wait(12_000);
    room.sink.rtcp.clear();
    sender_report(&mut room, 0);
    room.wait(5_000);
    assert_eq!(room.sink.rtcp, [], "reports on what nobody sends");
    room.audio(0, 2, 30);
    sender_report(&mut room, 0);
    assert_eq!(reports_to(&room, 1), 1);
}

#[test]
fn who_is_not_among_the_loudest_costs_receivers_nothing_and_is_heard_again_without_a_gap() {
    let mut room = Room::of(3);
    room.conference.loudest.set_places(Some(1));
    let mut sequence = 0;
    let mut talk = |room: &mut Room, levels: [u8; 2]| {
        for _ in 0..100 {
            sequence += 1;
            room.audio(0, sequence, levels[0]);
            room.audio(1, sequence, levels[1]);
            room.wait(20);
        }
    };
    talk(&mut room, [20, 100]);
    room.sink.rtp.clear();
    talk(&mut room, [20, 100]);
    assert!(room.rtp_to(2).iter().all(|packet| packet.header.ssrc == 150));
    sender_report(&mut room, 0);
    sender_report(&mut room, 1);
    assert_eq!(reports_to(&room, 2), 1, "nor are there reports on it");
    let all = r#"{"colibriClass":"ReceiverAudioSubscription","mode":"Include","list":["p1-a0"]}"#;
    room.say(2, all);
    room.sink.rtp.clear();
    talk(&mut room, [20, 100]);
    let numbers: Vec<u16> =
        room.rtp_to(2).iter().filter(|p| p.header.ssrc == 250).map(|packet| packet.header.sequence).collect();
    assert_eq!(numbers.len(), 100, "asked for by name");
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
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
fn a_key_frame_whose_packets_change_places_starts_a_picture_all_the_same() {
    let mut room = Room::of(2);
    let send = |room: &mut Room, sequence: u16, timestamp: u32, payload: &[u8]| {
        let mut packet = vec![0u8; 64];
        let header = Header { marker: sequence != 1, payload_type: 100, sequence, timestamp, ssrc: 101 };
        let start = write_header(&mut packet, header, &[]);
        packet.truncate(start);
        packet.extend_from_slice(payload);
        room.conference.handle_rtp(room.now, EndpointKey(0), &packet, &mut room.sink, &mut room.out);
        room.conference.finish_turn(room.now, &mut room.sink);
    };
    send(&mut room, 2, 3_000, &[0x80, 0xe0, 0x80, 1, 1, 0x20, 9, 9, 9]);
    assert!(room.rtp_to(1).is_empty());
    send(&mut room, 1, 3_000, &[0x90, 0xe0, 0x80, 1, 1, 0x20, 0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, 180, 0]);
    send(&mut room, 3, 6_000, &[0x90, 0xe0, 0x80, 2, 2, 0x20, 0x11, 0, 0, 1]);
    let sequences: Vec<u16> = room.rtp_to(1).iter().map(|packet| packet.header.sequence).collect();
    let first = sequences[0];
    assert_eq!(sequences.iter().map(|s| s.wrapping_sub(first)).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(room.rtp_to(1)[1].header.marker);
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

fn join_without_feedback(room: &mut Room, key: u32) {
    let id = EndpointId::parse(&format!("p{key}")).unwrap();
    room.conference.add_endpoint(room.now, EndpointKey(key), id, Capabilities { transport_cc: false, ..FULL });
    room.conference.handle_connected(room.now, EndpointKey(key), &mut room.out);
}

/// One who sends, and one whose path takes so much.
fn with_limit(bits_per_second: u64) -> Room {
    let mut room = Room::of(1);
    join_without_feedback(&mut room, 1);
    room.conference.endpoints[1].path.handle_remb(bits_per_second);
    room
}

/// The receiver complains of the last picture packet that it got.
fn complain_of_last(room: &mut Room, key: u32) {
    let last = room.rtp_to(key).iter().rev().find(|packet| packet.header.payload_type == 100).unwrap().header;
    let mut writer = Writer::default();
    writer.nack(9, last.ssrc, std::iter::once(last.sequence));
    room.conference.handle_rtcp(room.now, EndpointKey(key), writer.bytes(), &mut room.sink);
}

/// The SSRCs of which key frames were asked of somebody.
fn asked_of(room: &Room, key: u32) -> Vec<u32> {
    let ssrc = |part| if let Rtcp::PictureLossIndication { media_ssrc } = part { Some(media_ssrc) } else { None };
    room.rtcp_to(key).into_iter().filter_map(ssrc).collect()
}

#[test]
fn who_sends_no_transport_wide_feedback_tells_their_limit_by_remb() {
    let mut room = Room::of(1);
    join_without_feedback(&mut room, 1);
    let mut writer = Writer::default();
    writer.receiver_estimate(9, 250_000, &[]);
    room.conference.handle_rtcp(room.now, EndpointKey(1), writer.bytes(), &mut room.sink);
    room.conference.handle_channel_open(room.now, EndpointKey(1), &mut room.out);
    room.video(0, 1, 1, Some(180));
    room.wait(50);
    assert!(room.said_to(1).iter().any(|text| text.contains("250000")), "{:?}", room.said_to(1));
}

#[test]
fn a_full_intra_request_asks_the_sender_for_a_key_frame() {
    let mut room = Room::of(2);
    room.video(0, 1, 1, Some(180));
    room.wait(200);
    room.sink.rtcp.clear();
    // RFC 5104 §4.3.1: who asks, nothing, the stream, a number.
    let request = [0x84, 206, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 101, 1, 0, 0, 0];
    room.conference.handle_rtcp(room.now, EndpointKey(1), &request, &mut room.sink);
    assert_eq!(asked_of(&room, 0), [101]);
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

#[test]
fn who_begins_to_dominate_is_asked_ahead_for_the_key_frame_that_stages_will_need() {
    for (stage, is_asked) in [("p1-v0", true), ("", false)] {
        let mut room = Room::of(3);
        room.say(0, &format!(r#"{{"colibriClass":"ReceiverVideoConstraints","onStageSources":["{stage}"]}}"#));
        for sequence in 1..=100u16 {
            for (layer, height) in [(1, 180), (2, 360), (3, 720)] {
                room.video(2, layer, sequence, (sequence == 1).then_some(height));
            }
            room.audio(2, sequence, 20);
            room.wait(20);
        }
        // Everybody watches the lowest layer and goes on to: only what is to come needs the highest.
        assert_eq!(asked_of(&room, 2).contains(&303), is_asked, "{stage}");
    }
}

#[test]
fn a_probe_of_a_receiver_with_rtx_repeats_what_was_sent_lately() {
    let mut room = Room::of(2);
    let mut recorder = tertulia_rtp::transport_cc::Recorder::default();
    for sequence in 1..=20 {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
        room.wait(20);
    }
    let since = room.conference.since_start(room.now);
    let sent: Vec<(u16, Vec<u8>)> =
        room.rtp_to(1).iter().map(|packet| (packet.header.sequence, packet.payload().to_vec())).collect();
    for packet in room.rtp_to(1) {
        recorder.record(tertulia_rtp::extension::parse_transport_cc(packet.extension(5).unwrap()).unwrap(), since);
    }
    let (mut feedback, mut writer) = ([0; 1024], Writer::default());
    let len = recorder.write(&mut feedback);
    writer.transport_cc(9, 101, &feedback[..len]);
    room.conference.handle_rtcp(room.now, EndpointKey(1), writer.bytes(), &mut room.sink);
    room.sink.rtp.clear();
    let estimator = &mut room.conference.endpoints[1].path.estimator;
    estimator.on_tick(room.now, 5_000_000, 0).expect("there is something to find out");
    room.wait(50);
    let probes = room.rtp_to(1);
    assert!(probes.len() >= 5, "{}", probes.len());
    for probe in probes {
        assert_eq!((probe.header.ssrc, probe.header.payload_type), (111, 96));
        let (sequence, payload) = tertulia_rtp::rtx::unwrap(probe.payload()).expect("not padding alone");
        assert!(sent[4..].contains(&(sequence, payload.to_vec())), "{sequence}");
    }
}

#[test]
fn repetitions_take_no_more_than_a_fifth_of_a_path() {
    let mut room = with_limit(400_000);
    for sequence in 1..=300 {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
        room.wait(10);
        complain_of_last(&mut room, 1);
    }
    // Of 1000 bytes each: 10 a second, beside the six that may be saved up.
    let repeated = room.conference.counters().retransmitted;
    assert!((25..=36).contains(&repeated), "{repeated}");
}

#[test]
fn a_retransmission_waits_for_the_pacer() {
    let mut room = with_limit(100_000);
    for sequence in 1..=20 {
        room.video(0, 1, sequence, (sequence == 1).then_some(180));
        room.wait(100);
    }
    room.sound(0, 1, 30, (111, &[0; 1_300]));
    complain_of_last(&mut room, 1);
    assert_eq!(room.conference.counters().retransmitted, 0, "the path is full of sound");
    room.wait(100);
    complain_of_last(&mut room, 1);
    assert_eq!(room.conference.counters().retransmitted, 1);
}
