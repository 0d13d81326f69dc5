//! What is kept for repetition: all of what somebody watches or may begin with, and nothing of the rest.

use super::*;

/// A VP8 picture of so many packets of a thousand bytes, all in one turn.
fn picture(room: &mut Room, layer: u32, first: u16, packets: u16, key: Option<u16>) {
    for n in 0..packets {
        let mut packet = vec![0u8; 64];
        let (sequence, ssrc) = (first + n, 100 + layer);
        let marker = n + 1 == packets;
        let header = Header { marker, payload_type: 100, sequence, timestamp: u32::from(first) * 3_000, ssrc };
        let start = write_header(&mut packet, header, &[(5, &sequence.to_be_bytes())]);
        packet.truncate(start);
        // S with the first packet (RFC 7741 §4.2).
        let (id, starts) = (first | 0x8000, if n == 0 { 0x10 } else { 0 });
        packet.extend_from_slice(&[0x80 | starts, 0xe0, (id >> 8) as u8, id as u8, first as u8, 0x20]);
        match key.filter(|_| n == 0) {
            Some(height) => {
                packet.extend_from_slice(&[0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, height as u8, (height >> 8) as u8]);
            }
            None => packet.push(0x11),
        }
        packet.resize(1_000, 7);
        room.conference.handle_rtp(room.now, EndpointKey(0), &packet, &mut room.sink, &mut room.out);
    }
    room.conference.finish_turn(room.now, &mut room.sink);
}

fn has_grown(room: &Room) -> [bool; 3] {
    let camera = room.conference.sources.iter().find(|(_, source)| source.primary_ssrc() == 101).unwrap().1;
    [0, 1, 2].map(|encoding: usize| camera.encodings[encoding].cache.has_grown())
}

#[test]
fn who_waits_for_a_large_picture_may_begin_with_a_smaller_one_and_gets_all_of_it() {
    let mut room = Room::of(2);
    room.say(1, &want(720));
    room.wait(50);
    picture(&mut room, 2, 1, 8, Some(360));
    room.wait(500);
    assert_eq!(room.rtp_to(1).len(), 8);
}

#[test]
fn what_nobody_watches_takes_no_room_until_somebody_does_and_is_given_up_after() {
    let mut room = Room::of(2);
    room.say(1, &want(180));
    room.wait(50);
    let mut first = 1;
    let mut second = |room: &mut Room| {
        for n in 0..30 {
            for (layer, packets, height) in [(1, 1, 180), (2, 2, 360), (3, 8, 720)] {
                picture(room, layer, packets * first, packets, (n == 0).then_some(height));
            }
            first += 1;
            room.wait(33);
        }
    };
    second(&mut room);
    assert_eq!(has_grown(&room), [true, false, false]);
    room.say(1, &want(720));
    second(&mut room);
    assert_eq!(has_grown(&room), [true; 3]);
    // A second of 720 lines has passed; what is lost went out a fifth of a second ago.
    room.sink.rtp.clear();
    second(&mut room);
    let lost = room.rtp_to(1).iter().rev().nth(60).unwrap().header;
    room.sink.rtp.clear();
    let mut writer = Writer::default();
    writer.nack(1, lost.ssrc, std::iter::once(lost.sequence));
    room.conference.handle_rtcp(room.now, EndpointKey(1), writer.bytes(), &mut room.sink);
    room.wait(30);
    assert_eq!(room.rtp_to(1).iter().filter(|packet| packet.header.ssrc == 111).count(), 1);
    room.say(1, &want(180));
    (0..4).for_each(|_| second(&mut room));
    assert_eq!(has_grown(&room), [true, false, false]);
}
