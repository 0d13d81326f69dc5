//! What is lost, on either side, and what is done about it: complaints, repetitions, key frames asked for, and the path that all of it takes.

use super::*;

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
    room.complain(1, lost);
    room.complain(1, lost);
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
    room.complain(key, last);
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
