//! What is kept for repetition: all of what somebody watches or may begin with, and nothing of the rest.

use super::*;

fn has_grown(room: &Room) -> [bool; 3] {
    let camera = room.conference.sources.iter().find(|(_, source)| source.primary_ssrc() == 101).unwrap().1;
    [0, 1, 2].map(|encoding: usize| camera.encodings[encoding].cache.has_grown())
}

#[test]
fn who_waits_for_a_large_picture_may_begin_with_a_smaller_one_and_gets_all_of_it() {
    let mut room = Room::of(2);
    room.say(1, &want(720));
    room.wait(50);
    room.picture(0, 2, 1, &[1_000; 8], Some(360));
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
                let lens = vec![1_000; usize::from(packets)];
                room.picture(0, layer, packets * first, &lens, (n == 0).then_some(height));
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
    room.complain(1, lost);
    room.wait(30);
    assert_eq!(room.rtp_to(1).iter().filter(|packet| packet.header.ssrc == 111).count(), 1);
    room.say(1, &want(180));
    (0..4).for_each(|_| second(&mut room));
    assert_eq!(has_grown(&room), [true, false, false]);
}
