//! Numbers of outgoing streams under switches, layers left out, loss and reordering.

use super::*;
use crate::stream::Stream;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tertulia_model::profile::Codec;
use tertulia_rtp::codec::{Inspector, Layer, LayerMask};

const KEEP: Duration = Duration::from_secs(1);

/// What numbers a stream has besides those of RTP, and how many spatial layers, each a frame of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Picture ids that may not have gaps.
    Vp8,
    /// And dependency descriptors beside them.
    Vp8Described,
    /// Picture ids of all that is shown at one time.
    Vp9,
    /// Frame numbers and template ids of the dependency descriptor.
    Av1,
}

impl Kind {
    fn spatial_layers(self) -> u8 {
        if self.counts_pictures() { 1 } else { 2 }
    }

    fn counts_pictures(self) -> bool {
        matches!(self, Self::Vp8 | Self::Vp8Described)
    }

    fn is_described(self) -> bool {
        matches!(self, Self::Vp8Described | Self::Av1)
    }
}

/// One packet of a stream with three temporal layers (0 2 1 2), as it comes in.
#[derive(Debug, Clone, Copy)]
struct Sent {
    kind: Kind,
    encoding: u8,
    number: SeqNo,
    frame: u32,
    spatial: u8,
    /// First and last packet of its frame.
    first: bool,
    last: bool,
    key: bool,
}

impl Sent {
    fn temporal(&self) -> u8 {
        if self.key { 0 } else { [0, 2, 1, 2][(self.frame % 4) as usize] }
    }

    fn incoming(&self) -> Incoming {
        let temporal = self.temporal();
        let from = |spatial: u8, temporal: u8| LayerMask::product(0b1111 << spatial & 0b1111, 0xff << temporal);
        let begins = self.key && self.first && self.spatial == 0;
        let (has_pictures, is_described) = (self.kind != Kind::Av1, self.kind.is_described());
        let step = self.frame as u16 * u16::from(self.kind.spatial_layers());
        let info = FrameInfo {
            starts_frame: self.first,
            ends_frame: self.last,
            starts_keyframe: begins,
            layer: Layer::new(self.spatial, temporal),
            highest_spatial: self.kind.spatial_layers() - 1,
            present: from(self.spatial, temporal),
            decodable: from(0, 0),
            // Every frame of the pattern refers to the base only, so that any layer may begin with its own frames.
            switchable: if self.key { LayerMask::ALL } else { from(0, temporal) },
            // The lower spatial layer is a part of what receivers of the upper one have.
            crossing: if self.spatial == 0 { LayerMask::product(1, 0xff) } else { LayerMask::EMPTY },
            picture: has_pictures.then(|| picture(self.encoding, self.frame)),
            tl0: has_pictures.then(|| (250 + 90 * u32::from(self.encoding) + self.frame / 4) as u8),
            frame_number: is_described
                .then(|| (65_500 + 30_000 * u32::from(self.encoding)) as u16)
                .map(|first| first.wrapping_add(step + u16::from(self.spatial))),
            templates: (is_described && begins)
                .then(|| (((7 * self.frame + 20 * u32::from(self.encoding)) & 0x3f) as u8, 6)),
            ..FrameInfo::default()
        };
        Incoming {
            encoding: self.encoding,
            number: self.number,
            timestamp: self.frame.wrapping_mul(3_000).wrapping_add(u32::from(self.encoding) * 77_777),
            marker: self.last && self.spatial + 1 == self.kind.spatial_layers(),
            counts_pictures: self.kind.counts_pictures(),
            info,
        }
    }
}

fn picture(encoding: u8, frame: u32) -> u16 {
    (32_700 + u16::from(encoding) * 1_000 + frame as u16) & 0x7fff
}

/// Three encodings with a key frame every `keys` frames, `parts` packets a frame.
fn stream(frames: u32, parts: u64, keys: u32) -> Vec<Sent> {
    stream_of(Kind::Vp8, frames, parts, keys)
}

fn stream_of(kind: Kind, frames: u32, parts: u64, keys: u32) -> Vec<Sent> {
    let mut all = Vec::new();
    let mut numbers = [0, 1, 2].map(|encoding| 65_536 + 1_000 * encoding);
    for (frame, encoding) in (0..frames).flat_map(|frame| [0u8, 1, 2].map(|encoding| (frame, encoding))) {
        for (spatial, part) in (0..kind.spatial_layers()).flat_map(|s| (0..parts).map(move |part| (s, part))) {
            let number = numbers[usize::from(encoding)];
            numbers[usize::from(encoding)] += 1;
            let (first, last, key) = (part == 0, part + 1 == parts, frame % keys == 0);
            all.push(Sent { kind, encoding, number, frame, spatial, first, last, key });
        }
    }
    all
}

/// What a receiver got, by outgoing number.
#[derive(Default)]
struct Got {
    sent: BTreeMap<SeqNo, Sent>,
    filled: Vec<SeqNo>,
    shapes: BTreeMap<SeqNo, (u32, u16)>,
    /// Every decision, in order.
    decisions: Vec<(Sent, Step, Option<Shape>)>,
}

/// What was decided while one encoding went out, by incoming number.
#[derive(Debug, Default)]
struct Run {
    encoding: u8,
    from: SeqNo,
    /// Decisions before it.
    after: usize,
    decisions: BTreeMap<SeqNo, (Sent, Step, Option<Shape>)>,
}

impl Got {
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (after, (packet, step, shape)) in self.decisions.iter().enumerate() {
            let (encoding, from) = (packet.encoding, packet.number);
            if matches!(step, Step::Send(_)) && runs.last().is_none_or(|run| run.encoding != encoding) {
                runs.push(Run { encoding, from, after, decisions: BTreeMap::new() });
            }
            if let Some(run) = runs.last_mut().filter(|run| run.encoding == encoding && run.from <= packet.number) {
                run.decisions.insert(packet.number, (*packet, *step, *shape));
            }
        }
        runs
    }
}

/// Feeds packets in the given order; `aims` are (before which packet, aim).
fn run(packets: &[Sent], aims: &[(usize, Aim)]) -> (Got, Stream, VideoCourse) {
    let start = Instant::now();
    let (mut stream, mut course, mut got) = (Stream::new(7, Some(8), 100), VideoCourse::default(), Got::default());
    let mut cache: BTreeMap<(u8, SeqNo), Sent> = BTreeMap::new();
    let mut arriving: VecDeque<(usize, Sent)> = packets.iter().copied().enumerate().collect();
    while let Some((index, packet)) = arriving.pop_front() {
        cache.insert((packet.encoding, packet.number), packet);
        if let Some((_, aim)) = aims.iter().find(|(at, _)| *at == index) {
            course.aim(start, Some(*aim));
        }
        let now = start + Duration::from_millis(u64::from(packet.frame) * 33);
        let step = course.project(now, KEEP, &mut stream, &packet.incoming());
        let passed_over = course.take_passed_over().filter_map(|number| cache.get(&(packet.encoding, number)));
        passed_over.rev().for_each(|again| arriving.push_front((usize::MAX, *again)));
        let shape = if let Step::Send(out) = step { course.shape(out).map(|(shape, ..)| shape) } else { None };
        got.decisions.push((packet, step, shape));
        match step {
            Step::Skip => {}
            Step::Fill(out) => got.filled.push(out),
            Step::Send(out) => {
                let (shape, encoding, number) = course.shape(out).expect("was just sent");
                assert_eq!((encoding, number), (packet.encoding, packet.number));
                assert_eq!(shape.sequence, low16(out));
                let timestamp = packet.incoming().timestamp.wrapping_add(shape.timestamp_by);
                let id = picture(packet.encoding, packet.frame).wrapping_add(shape.shifts.picture_id_by) & 0x7fff;
                assert!(got.sent.insert(out, packet).is_none(), "number {out} was used twice");
                got.shapes.insert(out, (timestamp, id));
            }
        }
    }
    (got, stream, course)
}

fn aim(encoding: u8, temporal: u8) -> Aim {
    Aim { encoding, layer: Layer::new(0, temporal) }
}

#[test]
fn a_switch_waits_for_a_key_frame_and_continues_all_numbers() {
    let packets = stream(20, 1, 10);
    let (got, ..) = run(&packets, &[(0, aim(0, 7)), (9, aim(2, 7))]);
    let encodings: Vec<u8> = got.sent.values().map(|sent| sent.encoding).collect();
    assert_eq!(encodings, [vec![0u8; 11], vec![2; 10]].concat(), "the key frame is the tenth, of both");
    let ids: Vec<u16> = got.shapes.values().map(|(_, id)| *id).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == (pair[0] + 1) & 0x7fff), "{ids:?}");
    let times: Vec<u32> = got.shapes.values().map(|(timestamp, _)| *timestamp).collect();
    assert!(times.windows(2).all(|pair| (1_000..6_000).contains(&pair[1].wrapping_sub(pair[0]))), "{times:?}");
}

#[test]
fn temporal_layers_are_left_out_without_a_gap_in_any_number() {
    let packets: Vec<Sent> = stream(40, 2, 100).into_iter().filter(|sent| sent.encoding == 0).collect();
    let (got, ..) = run(&packets, &[(0, aim(0, 7)), (40, aim(0, 0)), (60, aim(0, 1))]);
    let late: Vec<u8> = got.sent.values().filter(|s| (20..30).contains(&s.frame)).map(Sent::temporal).collect();
    assert!(late.iter().all(|temporal| *temporal == 0), "{late:?}");
    let last: Vec<u8> = got.sent.values().filter(|s| s.frame >= 32).map(Sent::temporal).collect();
    assert_eq!(last.iter().filter(|temporal| **temporal == 1).count(), 4, "{last:?}");
    let numbers: Vec<SeqNo> = got.sent.keys().copied().collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let mut ids: Vec<u16> = got.shapes.values().map(|(_, id)| *id).collect();
    ids.dedup();
    assert!(ids.windows(2).all(|pair| pair[1] == (pair[0] + 1) & 0x7fff), "{ids:?}");
}

#[test]
fn a_late_packet_of_a_layer_that_is_left_out_becomes_padding() {
    let mut packets: Vec<Sent> = stream(8, 1, 100).into_iter().filter(|sent| sent.encoding == 0).collect();
    let late = packets.remove(1); // temporal layer 2
    let wanted = packets.remove(3); // frame 4: temporal layer 0
    packets.push(late);
    packets.push(wanted);
    let (got, stream, mut course) = run(&packets, &[(0, aim(0, 0))]);
    let frames: Vec<u32> = got.sent.values().map(|sent| sent.frame).collect();
    assert_eq!(frames, [0, 4]);
    let first = got.sent.keys().next().copied().unwrap();
    assert_eq!(got.filled, [first + 1]);
    let never = |_, _| None;
    let (first, stranger) = (low16(first), low16(first).wrapping_sub(50));
    assert!(course.lookup(&stream, first, (1_000, 30), never).is_some());
    assert!(course.lookup(&stream, first, (1_010, 30), never).is_none(), "repeated a moment ago");
    assert!(course.lookup(&stream, first, (1_030, 30), never).is_some());
    assert!(course.lookup(&stream, stranger, (2_000, 30), never).is_none(), "never sent");
    assert!(course.lookup(&stream, first.wrapping_add(1), (2_000, 30), never).is_none(), "padding is not repeated");
}

/// A picture of two spatial layers that stand alone, each in one packet; the first is a key picture.
fn spatial_pair(picture: u32) -> [Incoming; 2] {
    [0, 1].map(|spatial| {
        let present =
            if picture == 0 && spatial == 0 { LayerMask::ALL } else { LayerMask::product(1 << spatial, 0xff) };
        let info = FrameInfo {
            starts_frame: true,
            ends_frame: true,
            starts_keyframe: picture == 0 && spatial == 0,
            layer: Layer::new(spatial, 0),
            present,
            decodable: LayerMask::ALL,
            // The third picture lets receivers cross from one layer to the other.
            crossing: if picture == 2 { LayerMask::ALL } else { LayerMask::EMPTY },
            ..FrameInfo::default()
        };
        Incoming {
            encoding: 0,
            number: 70_000 + u64::from(picture * 2) + u64::from(spatial),
            timestamp: picture * 3_000,
            marker: spatial == 1,
            counts_pictures: false,
            info,
        }
    })
}

#[test]
fn a_picture_that_comes_late_as_a_whole_is_held_against_the_layer_of_its_time() {
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    let aim = |spatial| Some(Aim { encoding: 0, layer: Layer::new(spatial, 0) });
    course.aim(now, aim(1));
    for packet in spatial_pair(0) {
        assert!(matches!(course.project(now, KEEP, &mut stream, &packet), Step::Send(_)));
    }
    course.aim(now, aim(0));
    // Nothing of picture 1 comes; picture 2 lowers the layer.
    let lower = spatial_pair(2).map(|packet| course.project(now, KEEP, &mut stream, &packet));
    assert!(matches!(lower, [Step::Send(_), Step::Skip]), "{lower:?}");
    let late = spatial_pair(1).map(|packet| course.project(now, KEEP, &mut stream, &packet));
    let [Step::Fill(_), Step::Send(upper)] = late else { panic!("{late:?}") };
    assert!(course.shape(upper).is_some_and(|(shape, ..)| shape.marker));
}

#[test]
fn a_receiver_of_whatever_there_is_needs_no_key_frame_when_that_is_known() {
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    let aim = |layer| Some(Aim { encoding: 0, layer });
    let feed = |course: &mut VideoCourse, stream: &mut Stream, picture| {
        spatial_pair(picture).map(|mut packet| {
            packet.info.highest_spatial = 1;
            packet.info.present |= LayerMask::product(0b1110 * packet.info.layer.spatial(), 0xff);
            matches!(course.project(now, KEEP, stream, &packet), Step::Send(_))
        })
    };
    course.aim(now, aim(Layer::HIGHEST));
    assert_eq!(feed(&mut course, &mut stream, 0), [true, true]);
    course.aim(now, aim(Layer::new(0, 0)));
    assert_eq!(feed(&mut course, &mut stream, 1), [false, true], "the lower layer was not sent alone before");
    course.aim(now, aim(Layer::new(1, 0)));
    assert_eq!(feed(&mut course, &mut stream, 3), [false, true]);
    assert_eq!(course.awaits_keyframe(now + STEP_PATIENCE), None);
}

/// A frame of VP9 in one packet, of a stream whose spatial layers depend on each other in key pictures only. A key
/// picture brings the structure: so many layers.
fn of_k_svc(inspector: &mut Inspector, picture: u8, spatial: u8, layers: u8, key: bool) -> Incoming {
    let bit = |flag: bool, at: u8| u8::from(flag) << at;
    let structure = key && spatial == 0;
    // I, P, L, B, E, V, Z; picture id; spatial layer and D; TL0PICIDX; N_S.
    let flags = 0xac | bit(!key, 6) | bit(structure, 1) | bit(!key, 0);
    let payload = [flags, picture, spatial << 1 | bit(key && spatial > 0, 0), picture, (layers - 1) << 5];
    let marker = spatial + 1 == layers;
    let (number, timestamp) = (70_000 + 2 * u64::from(picture) + u64::from(spatial), u32::from(picture) * 3_000);
    let info = inspector.inspect(Codec::Vp9, number, &payload, marker, None);
    Incoming { encoding: 0, number, timestamp, marker, counts_pictures: false, info }
}

/// The sender ends the upper layer with picture 2, whose key picture is lost and comes between pictures 4 and 5.
#[test]
fn receivers_of_a_layer_that_ends_with_a_late_key_frame_are_sent_nothing_that_they_cannot_decode() {
    let (mut inspector, mut stream, now) = (Inspector::default(), Stream::new(7, None, 0), Instant::now());
    let (mut lower, mut upper) = (VideoCourse::default(), VideoCourse::default());
    let mut stream_of_lower = Stream::new(8, None, 0);
    let aim = |spatial| Some(Aim { encoding: 0, layer: Layer::new(spatial, 0) });
    lower.aim(now, aim(0));
    upper.aim(now, aim(1));
    let (mut sent, mut sent_lower) = (Vec::new(), Vec::new());
    let mut feed = |upper: &mut VideoCourse, picture: u8, layers: u8, key: bool| {
        for spatial in 0..layers {
            let packet = of_k_svc(&mut inspector, picture, spatial, layers, key);
            let send = |course: &mut VideoCourse, stream: &mut Stream, sent: &mut Vec<(u8, u8)>| {
                let step = course.project(now, KEEP, stream, &packet);
                sent.extend(matches!(step, Step::Send(_)).then_some((picture, spatial)));
            };
            send(upper, &mut stream, &mut sent);
            send(&mut lower, &mut stream_of_lower, &mut sent_lower);
        }
    };
    feed(&mut upper, 0, 2, true);
    feed(&mut upper, 1, 2, false);
    for (picture, key) in [(3, false), (4, false), (2, true), (5, false), (6, false)] {
        feed(&mut upper, picture, 1, key);
    }
    assert_eq!(upper.current().map(|current| current.layer), Some(Layer::new(1, 0)));
    upper.aim(now, aim(0));
    feed(&mut upper, 7, 1, false);
    assert_eq!(upper.awaits_keyframe(now + STEP_PATIENCE), Some(0));
    feed(&mut upper, 8, 1, true);
    feed(&mut upper, 9, 1, false);
    assert_eq!(upper.awaits_keyframe(now + STEP_PATIENCE), None);
    assert_eq!(sent, [(0, 0), (0, 1), (1, 1), (2, 0), (8, 0), (9, 0)], "3 is not there, and all to 7 refer to it");
    let all_lower = [0, 1, 3, 4, 2, 5, 6, 7, 8, 9].map(|picture| (picture, 0));
    assert_eq!(sent_lower, all_lower);
}

#[test]
fn what_was_halted_is_not_repeated_and_numbers_go_on_with_the_next_key_frame() {
    let (mut course, mut stream, now) = (VideoCourse::default(), Stream::new(7, None, 0), Instant::now());
    let frame = |encoding: u8, number: SeqNo, key: bool| Incoming {
        encoding,
        number,
        timestamp: u32::try_from(number % 1_000).unwrap() * 3_000,
        marker: true,
        counts_pictures: false,
        info: FrameInfo { starts_frame: true, starts_keyframe: key, ..FrameInfo::default() },
    };
    course.aim(now, Some(Aim { encoding: 1, layer: Layer::HIGHEST }));
    let Step::Send(first) = course.project(now, KEEP, &mut stream, &frame(1, 70_000, true)) else {
        panic!("a key frame")
    };
    course.aim(now, Some(Aim { encoding: 0, layer: Layer::HIGHEST }));
    assert_eq!(course.lookup(&stream, low16(first), (0, 20), |_, _| None), Some(first));
    course.halt();
    assert_eq!((course.current(), course.awaits_keyframe(now)), (None, Some(0)));
    assert_eq!(course.project(now, KEEP, &mut stream, &frame(1, 70_001, false)), Step::Skip);
    assert_eq!(course.lookup(&stream, low16(first), (1_000, 20), |_, _| None), None);
    assert_eq!(course.project(now, KEEP, &mut stream, &frame(0, 80_000, true)), Step::Send(first + 1));
    assert_eq!(course.lookup(&stream, low16(first + 1), (2_000, 20), |_, _| None), Some(first + 1));
}

#[test]
fn template_ids_go_on_behind_the_structure_that_went_out_last() {
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    let aim = Some(Aim { encoding: 0, layer: Layer::LOWEST });
    let mut key = |course: &mut VideoCourse, picture: u32, templates| {
        let [mut packet, _] = spatial_pair(0);
        packet.info.templates = Some(templates);
        (packet.number, packet.timestamp) = (packet.number + u64::from(picture), picture * 3_000);
        let Step::Send(out) = course.project(now, KEEP, &mut stream, &packet) else { panic!("a key frame") };
        course.shape(out).map(|(shape, ..)| shape.shifts.template_id_by)
    };
    course.aim(now, aim);
    assert_eq!(key(&mut course, 0, (40, 15)), Some(24), "the first is 0");
    assert_eq!(key(&mut course, 1, (55, 15)), Some(24), "15 to 29");
    course.aim(now, None);
    course.aim(now, aim);
    assert_eq!(key(&mut course, 90, (20, 15)), Some(10), "from 30 on");
}

#[test]
fn stopping_is_immediate_and_starting_again_needs_a_new_key_frame() {
    let packets: Vec<Sent> = stream(21, 1, 10).into_iter().filter(|sent| sent.encoding == 0).collect();
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    let mut feed =
        |course: &mut VideoCourse, index: usize| course.project(now, KEEP, &mut stream, &packets[index].incoming());
    course.aim(now, Some(aim(0, 7)));
    assert!(matches!(feed(&mut course, 0), Step::Send(_)) && matches!(feed(&mut course, 10), Step::Send(_)));
    course.aim(now, None);
    assert_eq!(feed(&mut course, 11), Step::Skip);
    course.aim(now, Some(aim(0, 7)));
    assert_eq!(course.awaits_keyframe(now), Some(0));
    assert_eq!(feed(&mut course, 12), Step::Skip);
    assert_eq!(feed(&mut course, 10), Step::Skip, "a key frame from before the pause, repaired late");
    assert!(matches!(feed(&mut course, 20), Step::Send(_)));
}

#[test]
fn what_overtakes_the_first_packet_of_a_key_frame_is_sent_behind_it() {
    let mut packets: Vec<Sent> = stream(12, 3, 10).into_iter().filter(|sent| sent.encoding == 0).collect();
    packets.swap(30, 32); // the parts of the second key frame, backwards
    let (got, ..) = run(&packets[3..], &[(0, aim(0, 7))]);
    let numbers: Vec<SeqNo> = got.sent.values().map(|sent| sent.number - 65_536).collect();
    assert_eq!(numbers, [30, 31, 32, 33, 34, 35]);
    let outgoing: Vec<SeqNo> = got.sent.keys().copied().collect();
    assert!(outgoing.windows(2).all(|pair| pair[1] == pair[0] + 1), "{outgoing:?}");
}

#[test]
fn a_part_of_a_picture_that_was_left_out_long_ago_does_not_go_out_when_it_is_repaired() {
    let mut packets: Vec<Sent> = stream(40, 2, 100).into_iter().filter(|sent| sent.encoding == 0).collect();
    let late = packets.remove(10); // the first half of frame 5, temporal layer 2
    packets.insert(34, late);
    let (got, ..) = run(&packets, &[(0, aim(0, 0)), (12, aim(0, 7))]);
    let five: Vec<_> = got.sent.iter().filter(|(_, sent)| sent.frame == 5).collect();
    assert_eq!((five.len(), got.filled.len()), (0, 1), "{five:?}");
    let mut ids: Vec<u16> = got.shapes.values().map(|(_, id)| *id).collect();
    ids.dedup();
    assert!(ids.windows(2).all(|pair| pair[1] == (pair[0] + 1) & 0x7fff), "{ids:?}");
}

#[test]
fn a_gap_too_large_to_repair_stops_the_picture_until_a_key_frame() {
    let packets: Vec<Sent> = stream(400, 1, 300).into_iter().filter(|sent| sent.encoding == 0).collect();
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    course.aim(now, Some(aim(0, 7)));
    let mut feed = |index: usize| course.project(now, KEEP, &mut stream, &packets[index].incoming());
    assert!(matches!(feed(0), Step::Send(_)));
    assert_eq!((feed(150), feed(151)), (Step::Skip, Step::Skip));
    assert!(matches!(feed(300), Step::Send(_)));
}

#[test]
fn a_key_frame_behind_a_gap_too_large_to_repair_goes_on_without_it() {
    let packets: Vec<Sent> = stream(400, 1, 300).into_iter().filter(|sent| sent.encoding == 0).collect();
    let (mut stream, mut course, now) = (Stream::new(7, None, 0), VideoCourse::default(), Instant::now());
    course.aim(now, Some(aim(0, 7)));
    let mut feed = |index: usize| course.project(now, KEEP, &mut stream, &packets[index].incoming());
    let [Step::Send(first), Step::Send(second)] = [feed(0), feed(300)] else { panic!("both are key frames") };
    assert_eq!(second, first + 1, "nothing is waited for");
}

#[test]
fn a_subscription_that_comes_back_begins_with_nothing_older_than_what_went_out() {
    let packets: Vec<Sent> = stream(21, 1, 10).into_iter().filter(|sent| sent.encoding == 0).collect();
    let (mut stream, now) = (Stream::new(7, None, 0), Instant::now());
    let mut before = VideoCourse::default();
    before.aim(now, Some(aim(0, 7)));
    for packet in [&packets[0], &packets[12]] {
        before.project(now, KEEP, &mut stream, &packet.incoming());
    }
    let mut course = VideoCourse::resuming(&stream);
    course.aim(now, Some(aim(0, 7)));
    assert_eq!(
        course.project(now, KEEP, &mut stream, &packets[10].incoming()),
        Step::Skip,
        "a key frame repaired late"
    );
    assert!(matches!(course.project(now, KEEP, &mut stream, &packets[20].incoming()), Step::Send(_)));
}

#[test]
fn a_receiver_may_ask_three_times_in_ten_seconds() {
    let (mut course, now) = (VideoCourse::default(), Instant::now());
    let asked = (0..10).filter(|n| course.may_ask_keyframe(now + Duration::from_secs(*n))).count();
    assert_eq!(asked, 3);
    assert!(course.may_ask_keyframe(now + Duration::from_secs(11)));
}

#[test]
fn sound_that_is_paused_goes_on_with_the_next_number_and_its_own_clock() {
    let (mut stream, mut course, now) = (Stream::new(7, None, 9), AudioCourse::new(false), Instant::now());
    let mut follow = |course: &mut AudioCourse, n: u64| course.follow(now, &mut stream, n, 960 * n as u32, 48_000);
    assert_eq!(follow(&mut course, 100), Some((10, 0)));
    assert_eq!(follow(&mut course, 102), Some((12, 0)));
    assert_eq!(follow(&mut course, 101), Some((11, 0)));
    course.pause();
    assert_eq!(follow(&mut course, 150), Some((13, 0)), "no gap, and time goes on as it did");
    assert_eq!(follow(&mut course, 120), None);
}

proptest! {
    /// For any order of loss, repair, reordering and switches: every number is used once, or kept for a packet that did not come in time;
    /// within a run of one encoding all shifts stay, and the next run goes on behind the last packet in everything.
    #[test]
    fn outgoing_numbers_are_whole_whatever_happens_to_incoming_ones(
        kind in prop_oneof![Just(Kind::Vp8), Just(Kind::Vp8Described), Just(Kind::Vp9), Just(Kind::Av1)],
        parts in 1u64..4,
        // Up to four packets that are lost, or come later by some; the first may be that of the next key frame.
        lost in proptest::collection::vec(
            (0usize..900, any::<bool>(), 1usize..5, proptest::option::of(1usize..60)),
            0..25,
        ),
        switches in proptest::collection::vec((1usize..900, 0u8..3, 0u8..2, 0u8..3), 0..12),
    ) {
        let mut packets = stream_of(kind, 100 / u32::from(kind.spatial_layers()), parts, 12);
        for (index, is_key, count, late_by) in lost {
            let starts = |packet: &Sent| packet.incoming().info.starts_keyframe;
            let next_key = packets.iter().skip(index).position(starts).filter(|_| is_key);
            let index = index + next_key.unwrap_or(0);
            let (from, to) = (index.min(packets.len()), (index + count).min(packets.len()));
            let out: Vec<Sent> = packets.drain(from..to).collect();
            if let Some(at) = late_by.map(|by| (from + by).min(packets.len())) {
                packets.splice(at..at, out);
            }
        }
        let mut aims = vec![(0, aim(0, 7))];
        aims.extend(switches.into_iter().map(|(at, encoding, s, t)| (at, Aim { encoding, layer: Layer::new(s, t) })));
        let (got, stream, _) = run(&packets, &aims);
        let (mut next, mut last, mut template) = (Stream::new(7, Some(8), 100).highest_out + 1, None, 0);
        for run in got.runs() {
            let (begin, _, Some(shape)) = run.decisions[&run.from] else { panic!("it begins with what is sent") };
            let first = outgoing(&begin, &shape);
            if let Some(last) = last {
                prop_assert_eq!(first.counters, following(last));
                prop_assert!((1..1 << 31).contains(&first.timestamp.wrapping_sub(last.timestamp)));
            }
            prop_assert!(first.templates.is_none_or(|(first, _)| first == template), "{first:?} but {template}");
            let (mut left_out, newest) = (BTreeSet::new(), run.decisions.keys().copied().max().unwrap_or(0));
            for number in run.from..=newest {
                match run.decisions.get(&number) {
                    Some((packet, Step::Skip, _)) => {
                        left_out.insert(packet.frame);
                        continue;
                    }
                    Some((_, Step::Fill(out), _)) => prop_assert_eq!(*out, next),
                    Some((packet, Step::Send(out), now)) => {
                        prop_assert_eq!(*out, next);
                        let mut expected = shape.shifts;
                        if kind.counts_pictures() {
                            expected.picture_id_by = expected.picture_id_by.wrapping_sub(left_out.len() as u16);
                        }
                        let now = now.expect("was just sent");
                        prop_assert_eq!((now.shifts, now.timestamp_by), (expected, shape.timestamp_by));
                        let sent = outgoing(packet, &now);
                        template = sent.templates.map_or(template, |(first, count)| (first + count) & 0x3f);
                        last = Some(sent);
                    }
                    None => {
                        let is_it = |packet: &Sent| (packet.encoding, packet.number) == (run.encoding, number);
                        let came = got.decisions[..run.after].iter().any(|(packet, ..)| is_it(packet));
                        prop_assert!(!came, "{next} is kept for what came before");
                    }
                }
                next += 1;
            }
        }
        prop_assert_eq!(next, stream.highest_out + 1);
    }
}

/// The numbers under which a packet goes out.
#[derive(Debug, Clone, Copy)]
struct Outgoing {
    timestamp: u32,
    /// Picture id, TL0PICIDX, and frame number.
    counters: (Option<u16>, Option<u8>, Option<u16>),
    templates: Option<(u8, u8)>,
}

fn outgoing(packet: &Sent, shape: &Shape) -> Outgoing {
    let (Incoming { timestamp, info, .. }, by) = (packet.incoming(), shape.shifts);
    let picture = info.picture.map(|id| id.wrapping_add(by.picture_id_by) & 0x7fff);
    let tl0 = info.tl0.map(|tl0| tl0.wrapping_add(by.tl0_by));
    let frame = info.frame_number.map(|number| number.wrapping_add(by.frame_number_by));
    let templates = info.templates.map(|(first, count)| (first.wrapping_add(by.template_id_by) & 0x3f, count));
    Outgoing { timestamp: timestamp.wrapping_add(shape.timestamp_by), counters: (picture, tl0, frame), templates }
}

/// The numbers of a key frame that goes on behind a packet.
fn following(last: Outgoing) -> (Option<u16>, Option<u8>, Option<u16>) {
    let (picture, tl0, frame) = last.counters;
    (picture.map(|id| (id + 1) & 0x7fff), tl0.map(|tl0| tl0.wrapping_add(1)), frame.map(|n| n.wrapping_add(1)))
}

#[test]
fn what_everybody_has_of_everybody_is_small() {
    assert!(size_of::<Subscription>() <= 104, "{}", size_of::<Subscription>());
    assert!(size_of::<VideoCourse>() <= 440, "{}", size_of::<VideoCourse>());
}
