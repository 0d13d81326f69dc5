//! Sound: silence, redundancy, the loudest, reports on it.

use super::*;

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
fn a_stream_that_comes_back_goes_on_where_it_ended() {
    let mut room = Room::of(2);
    room.audio(0, 1, 30);
    let before = room.rtp_to(1)[0].header.sequence;
    room.conference.set_sources(room.now, EndpointKey(0), &SourceSet::default());
    room.conference.set_sources(room.now, EndpointKey(0), &sources(0));
    room.audio(0, 2, 30);
    assert_eq!(room.rtp_to(1)[1].header.sequence, before.wrapping_add(1));
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
