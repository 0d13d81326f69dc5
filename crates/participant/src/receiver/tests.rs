//! The judge is judged: what is right passes, in any order and in every codec, and what is wrong is noticed.

use super::*;
use crate::camera::{Camera, VideoPacket};
use crate::coding::Coding;
use tertulia_model::Ssrc;

/// Some pictures of one encoding, of several packets each, as they are sent, and what would judge them.
fn shoot(coding: Coding, count: u64) -> (VideoReceiver, Vec<VideoPacket>) {
    shoot_as("a-v0", coding, count)
}

fn shoot_as(name: &str, coding: Coding, count: u64) -> (VideoReceiver, Vec<VideoPacket>) {
    let name = SourceName::parse(name).unwrap();
    let mut camera = Camera::new(name.clone(), coding, &[(Ssrc(1), Ssrc(2))], 10, [2_000, 2_000, 2_000], 3);
    let (start, mut packets) = (Instant::now(), Vec::new());
    for frame in 0..count {
        let now = start + Duration::from_millis(frame * 100);
        camera.on_timeout(now, Clock::starting(start), |packet| packets.push(packet));
    }
    (VideoReceiver::new(name, EndpointId::parse("a").unwrap()), packets)
}

fn feed(receiver: &mut VideoReceiver, coding: Coding, now: Instant, packet: &VideoPacket) {
    let arrival = VideoArrival {
        codec: coding.codec(),
        sequence: packet.sequence,
        timestamp: u64::from(packet.timestamp.wrapping_add(1 << 30)) + (1 << 32),
        marker: packet.marker,
        payload: &packet.payload,
        descriptor: packet.descriptor.as_deref(),
    };
    receiver.handle(now, Clock::starting(now), arrival);
}

/// Sequence numbers close up over what is left out, as a bridge does that leaves it out on purpose.
fn close_up(packets: &mut [VideoPacket]) {
    let first = packets[0].sequence;
    (first..).zip(packets).for_each(|(sequence, packet)| packet.sequence = sequence);
}

fn layer(coding: Coding, packet: &VideoPacket) -> Stamp {
    coding::read(coding.codec(), &packet.payload, packet.descriptor.as_deref()).unwrap().stamp
}

#[test]
fn all_frames_of_all_codecs_decode_in_any_order_of_packets() {
    for coding in Coding::ALL {
        let (mut receiver, mut packets) = shoot(coding, 13);
        let now = Instant::now();
        packets[4..].reverse();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!((receiver.report.decoded, receiver.report.freezes), (13, 0), "{coding:?}");
        assert_eq!(receiver.report.violations, [""; 0], "{coding:?}");
        assert_eq!((receiver.report.missing, receiver.next_timeout()), (0, None), "{coding:?}");
    }
}

#[test]
fn a_hole_stops_the_picture_until_it_is_closed_and_a_key_frame_is_asked_for() {
    let (mut receiver, mut packets) = shoot(Coding::Vp8, 10);
    let hole = packets.remove(8);
    let now = Instant::now();
    packets.iter().for_each(|packet| feed(&mut receiver, Coding::Vp8, now, packet));
    assert!(receiver.report.decoded < 10);
    assert_eq!(receiver.report.missing, 1);
    assert!(!receiver.on_timeout(now + Duration::from_millis(499)));
    assert!(receiver.on_timeout(now + Duration::from_millis(500)));
    assert!(!receiver.on_timeout(now + Duration::from_millis(900)));
    feed(&mut receiver, Coding::Vp8, now, &hole);
    assert_eq!((receiver.report.decoded, receiver.report.freezes, receiver.report.missing), (10, 0, 0));
    assert_eq!(receiver.report.violations, [""; 0]);
}

#[test]
fn a_lost_picture_of_the_top_temporal_layer_stops_nothing() {
    for coding in
        Coding::ALL.into_iter().filter(|coding| ![Coding::Vp8, Coding::H264, Coding::H264L1T3].contains(coding))
    {
        let (mut receiver, mut packets) = shoot(coding, 13);
        packets.retain(|packet| layer(coding, packet).frame != 4); // T2 before the next T0
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!(receiver.report.decoded, 12, "{coding:?}");
        assert_eq!(receiver.next_timeout(), None, "{coding:?}");
        assert_eq!(receiver.report.violations, [""; 0], "{coding:?}");
    }
}

#[test]
fn upper_layers_may_be_left_out_if_the_numbers_are_those_that_the_codec_wants() {
    for coding in [
        Coding::Vp9L1T3,
        Coding::Vp9L3T3Key,
        Coding::Vp9L3T3,
        Coding::Av1L3T3Key,
        Coding::Av1L3T3,
        Coding::Av1L1T3,
        Coding::H264L1T3,
    ] {
        let (mut receiver, mut packets) = shoot(coding, 13);
        packets.retain(|packet| layer(coding, packet).temporal < 2);
        close_up(&mut packets);
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!(receiver.report.decoded, 7, "{coding:?}");
        assert_eq!(receiver.report.violations, [""; 0], "{coding:?}");
    }
}

#[test]
fn a_picture_without_its_upper_layers_ends_with_a_marker() {
    for coding in [Coding::Vp9L3T3Key, Coding::Vp9L3T3, Coding::Av1L3T3Key, Coding::Av1L3T3] {
        for moved in [true, false] {
            let (mut receiver, mut packets) = shoot(coding, 13);
            packets.retain(|packet| layer(coding, packet).spatial < 2);
            close_up(&mut packets);
            for packet in packets.iter_mut().filter(|_| moved) {
                let stamp = layer(coding, packet);
                packet.marker = stamp.spatial == 1 && stamp.index + 1 == stamp.count;
            }
            let now = Instant::now();
            packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
            assert_eq!(receiver.report.violations.is_empty(), moved, "{coding:?}");
            assert_eq!(receiver.report.decoded, if moved { 13 } else { 0 }, "{coding:?}");
            assert_eq!(receiver.report.height, if moved { 360 } else { 0 });
        }
    }
}

#[test]
fn what_others_need_cannot_be_left_out() {
    for coding in Coding::ALL {
        let (mut receiver, mut packets) = shoot(coding, 13);
        packets.retain(|packet| layer(coding, packet).frame != 5); // T0 of the second group
        close_up(&mut packets);
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert!(!receiver.report.violations.is_empty(), "{coding:?}");
    }
}

#[test]
fn a_gap_in_the_picture_ids_of_vp8_is_noticed() {
    let coding = Coding::Vp8L1T3;
    let (mut receiver, mut packets) = shoot(coding, 13);
    packets.retain(|packet| layer(coding, packet).temporal < 2);
    close_up(&mut packets);
    let now = Instant::now();
    packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
    assert!(receiver.report.violations[0].contains("do not follow"), "{:?}", receiver.report.violations);
}

#[test]
fn what_no_loss_excuses_is_written_down() {
    let now = Instant::now();
    let broken: [fn(&mut Vec<VideoPacket>); 7] = [
        |packets| packets[3].payload[20] ^= 1,
        |packets| packets[5].sequence = packets[4].sequence,
        |packets| packets.iter_mut().skip(12).for_each(|packet| packet.timestamp -= 900_000),
        |packets| packets.iter_mut().skip(12).for_each(|packet| packet.payload[3] ^= 0x40),
        |packets| packets.iter_mut().for_each(|packet| packet.payload[13] ^= 1),
        |packets| packets[7].marker ^= true,
        |packets| packets[8].payload[4] ^= 1,
    ];
    for (index, damage) in broken.into_iter().enumerate() {
        let (mut receiver, mut packets) = shoot(Coding::Vp8, 10);
        damage(&mut packets);
        packets.iter().for_each(|packet| feed(&mut receiver, Coding::Vp8, now, packet));
        assert!(!receiver.report.violations.is_empty(), "damage {index}");
    }
}

#[test]
fn delays_and_standstills_are_measured_from_capture() {
    let coding = Coding::Vp8L1T3;
    let (mut receiver, packets) = shoot(coding, 10);
    let start = Instant::now();
    for packet in &packets {
        let stamp = layer(coding, packet);
        let late = if stamp.frame == 6 { 400 } else { 50 };
        let now = start + Duration::from_micros(stamp.captured_us) + Duration::from_millis(late);
        let arrival = VideoArrival {
            codec: coding.codec(),
            sequence: packet.sequence,
            timestamp: u64::from(stamp.frame),
            marker: packet.marker,
            payload: &packet.payload,
            descriptor: None,
        };
        receiver.handle(now, Clock::starting(start), arrival);
    }
    let millis = Duration::from_millis;
    let report = &receiver.report;
    // Picture 6, and picture 8 of the same layer, which cannot know that it does not need it.
    assert_eq!(report.on_time(millis(0), millis(1_000), millis(300)), (9, 10));
    assert_eq!(report.heights(millis(0), millis(1_000)), Some((180, 180)));
    assert!(report.longest_still(millis(50), millis(950)) >= millis(100));
    assert_eq!(report.shown_between(millis(400), millis(600)).count(), 2);
}

/// Two sources under one SSRC, the second right behind the first; pictures are 0 to 4 of each.
fn one_after_the_other(coding: Coding) -> (VideoReceiver, Vec<VideoPacket>, Vec<VideoPacket>) {
    let (first, second) = (shoot_as("a-v0", coding, 5), shoot_as("b-v0", coding, 5));
    let (receiver, mut before, mut after) = (VideoReceiver::changing(first.0.report), first.1, second.1);
    let behind = before.len() as u64;
    let start = before[0].sequence;
    (start..).zip(&mut before).for_each(|(sequence, packet)| packet.sequence = sequence);
    (start + behind..).zip(&mut after).for_each(|(sequence, packet)| packet.sequence = sequence);
    for packet in before.iter_mut().chain(&mut after) {
        let stamp = layer(coding, packet);
        let picture = stamp.frame + if stamp.source == receiver.carried.present() { 0 } else { 5 };
        packet.timestamp = picture * 9_000;
    }
    (receiver, before, after)
}

fn report_of(name: &str) -> VideoReport {
    VideoReport::new(SourceName::parse(name).unwrap(), EndpointId::parse("b").unwrap())
}

#[test]
fn one_source_goes_on_where_another_stops() {
    let (now, coding) = (Instant::now(), Coding::H264);
    for announced_before in [true, false] {
        let (mut receiver, before, after) = one_after_the_other(coding);
        before.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        let mut first = announced_before.then(|| receiver.change_source(now, report_of("b-v0")));
        after[..2].iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        let first = first.get_or_insert_with(|| receiver.change_source(now, report_of("b-v0")));
        after[2..].iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!((first.decoded, &first.violations[..]), (5, &[][..]));
        let second = &receiver.report;
        assert_eq!((second.source.as_str(), &second.violations[..]), ("b-v0", &[][..]));
        assert!(second.decoded >= 4, "what came before the announcement is shown under the wrong name");
    }
}

/// What is done to the packets of the second source.
type Flaw = fn(&mut Vec<VideoPacket>);

#[test]
fn every_flaw_of_a_change_is_noticed() {
    let now = Instant::now();
    let flaws: [(&str, Coding, Flaw); 4] = [
        ("picture ids start anew", Coding::Vp8, |_| ()),
        ("it begins with no key frame", Coding::H264, |packets| {
            let key = packets.iter().position(|packet| packet.marker).unwrap() + 1;
            packets.drain(..key);
            packets.iter_mut().for_each(|packet| packet.sequence -= key as u64);
        }),
        ("time runs backwards", Coding::H264, |packets| {
            packets.iter_mut().for_each(|packet| packet.timestamp -= 27_000);
        }),
        ("numbers are used twice", Coding::H264, |packets| packets.iter_mut().for_each(|packet| packet.sequence -= 1)),
    ];
    for (name, coding, flaw) in flaws {
        let (mut receiver, before, mut after) = one_after_the_other(coding);
        flaw(&mut after);
        before.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!(receiver.change_source(now, report_of("b-v0")).violations, [""; 0], "{name}");
        after.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert!(!receiver.report.violations.is_empty(), "{name}");
    }
}

#[test]
fn a_descriptor_that_says_something_else_than_the_payload_beside_it_is_noticed() {
    for coding in [Coding::Vp8L1T3Described, Coding::H264L1T3] {
        let (mut receiver, mut packets) = shoot(coding, 9);
        for packet in packets.iter_mut().skip_while(|packet| !packet.marker).skip(1) {
            // A frame number that the structure's references do not lead to.
            packet.descriptor.iter_mut().for_each(|bytes| bytes[2] ^= 0x40);
        }
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert!(receiver.report.decoded < 9, "{coding:?}");
        assert!(!receiver.report.violations.is_empty(), "{coding:?}");
    }
}

#[test]
fn padding_in_the_place_of_a_frame_of_h264_keeps_nobody_waiting_in_any_order() {
    let coding = Coding::H264L1T3;
    let is_top = |packet: &VideoPacket| layer(coding, packet).temporal == 2;
    for backwards in [false, true] {
        let (mut receiver, mut packets) = shoot(coding, 9);
        packets.retain(|packet| !is_top(packet) || packet.marker);
        close_up(&mut packets);
        packets.iter_mut().filter(|packet| is_top(packet)).for_each(|packet| packet.payload.clear());
        if backwards {
            packets[4..].reverse();
        }
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, coding, now, packet));
        assert_eq!((receiver.report.decoded, receiver.report.violations.len()), (5, 0), "{backwards}");
    }
}
