//! Frames that are encrypted end to end: RTP headers, payload descriptors and header extensions say all that is needed.

use super::*;
use tertulia_model::profile::PAYLOAD_TYPES;

/// Bytes of each packet that may be encrypted.
const HIDDEN: usize = 20;
/// Pictures between two key frames.
const KEYS: u32 = 30;
/// The descriptor of a key frame that declares L3T3_KEY as libwebrtc does, with five templates a spatial layer: T0, key frame, T1, two of T2.
const STRUCTURE: &str = "c1000980081485214ea000aaaa8600004000100002a000aaa00600004000100002a000a80006000040001d954926d055249b4154\
                         923157f908000c4264330e396222eca8655304384230eca87753013f00b3027f016704ff02cf";

/// What a camera sends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Three streams. The first bytes of each frame stay in the clear.
    Vp8,
    /// Three streams of slices; each other picture is one that nothing refers to.
    H264,
    /// Three spatial layers that stand alone but for key frames.
    Vp9,
    /// The same, with dependency descriptors.
    Av1,
    /// One stream, of which the aggregation header alone tells anything.
    Av1Alone,
}

/// One packet before it is encrypted.
struct Made {
    encoding: u32,
    marker: bool,
    descriptor: Vec<u8>,
    /// What RTP says of the payload.
    head: Vec<u8>,
    /// What a reader of the codec would see first.
    plain: u8,
}

impl Kind {
    fn payload_type(self) -> u8 {
        let codec = match self {
            Self::Vp8 => Codec::Vp8,
            Self::H264 => Codec::H264,
            Self::Vp9 => Codec::Vp9,
            Self::Av1 | Self::Av1Alone => Codec::Av1,
        };
        PAYLOAD_TYPES.iter().find(|row| row.codec == codec).unwrap().number
    }

    /// The packets of one picture.
    fn picture(self, number: u32) -> Vec<Made> {
        match self {
            Self::Vp8 => (1..4).flat_map(|encoding| vp8(encoding, number)).collect(),
            Self::H264 => (1..4).flat_map(|encoding| h264(encoding, number)).collect(),
            Self::Vp9 => (0..3).flat_map(|spatial| vp9(spatial, number)).collect(),
            Self::Av1 => (0..3).flat_map(|spatial| av1(Some(spatial), number)).collect(),
            Self::Av1Alone => av1(None, number),
        }
    }
}

fn made(encoding: u32, marker: bool, head: &[u8], plain: u8) -> Made {
    Made { encoding, marker, descriptor: Vec::new(), head: head.to_vec(), plain }
}

/// Of the pattern 0 2 1 2.
fn temporal(number: u32) -> u8 {
    [0, 2, 1, 2][(number % KEYS % 4) as usize]
}

fn vp8(encoding: u32, number: u32) -> Vec<Made> {
    let [.., high, low] = number.to_be_bytes();
    let ids = [0xe0, high | 0x80, low, low, temporal(number) << 6 | 0x20];
    let head: &[u8] = if number.is_multiple_of(KEYS) {
        &[0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, 90 << encoding.min(2), 0]
    } else {
        &[0x11, 0, 0]
    };
    vec![
        made(encoding, false, &[&[0x90][..], &ids, head].concat(), 0),
        made(encoding, true, &[&[0x80][..], &ids].concat(), 0),
    ]
}

/// Two slices, and before those of a key frame the parameter sets. The first bit of a slice says whether it is the first of its picture.
fn h264(encoding: u32, number: u32) -> Vec<Made> {
    let (first, later) = (0x88, 0x48);
    if number.is_multiple_of(KEYS) {
        return vec![
            made(encoding, false, &[0x67], 0x42),
            made(encoding, false, &[0x68], 0xce),
            made(encoding, false, &[0x7c, 0x85], first),
            made(encoding, false, &[0x7c, 0x45], 0),
            made(encoding, true, &[0x65], later),
        ];
    }
    let header = if number % 2 == 1 { 0x01 } else { 0x41 };
    vec![made(encoding, false, &[header], first), made(encoding, true, &[header], later)]
}

/// Not flexible; the key picture declares three sizes.
fn vp9(spatial: u8, number: u32) -> Vec<Made> {
    let [.., high, low] = number.to_be_bytes();
    let key = number.is_multiple_of(KEYS);
    let temporal = temporal(number);
    let layer = [
        high | 0x80,
        low,
        temporal << 5 | u8::from(temporal > 0) << 4 | spatial << 1 | u8::from(key && spatial > 0),
        (number / 4) as u8,
    ];
    let flags = 0xa0 | u8::from(!key) << 6 | u8::from(!key || spatial == 2);
    let structure: &[u8] = &[0x58, 1, 64, 0, 180, 2, 128, 1, 104, 5, 0, 2, 208, 4, 0x04, 4, 0x54, 1, 0x34, 2, 0x54, 1];
    let declares = key && spatial == 0;
    let declared = if declares { structure } else { &[] };
    vec![
        made(1, false, &[&[flags | 0x08 | u8::from(declares) << 1][..], &layer, declared].concat(), 0),
        made(1, spatial == 2, &[&[flags | 0x04][..], &layer].concat(), 0),
    ]
}

/// With a spatial layer there are descriptors.
fn av1(spatial: Option<u8>, number: u32) -> Vec<Made> {
    let (key, top) = (number.is_multiple_of(KEYS), spatial.is_none_or(|spatial| spatial == 2));
    let starts_sequence = u8::from(key && spatial.is_none_or(|spatial| spatial == 0)) << 3;
    let mut both = [made(1, false, &[0x50 | starts_sequence], 0x32), made(1, top, &[0x90], 0)];
    if let Some(spatial) = spatial {
        let template = 5 * spatial + if key { 1 } else { [0, 3, 2, 4][(number % KEYS % 4) as usize] };
        let frame = (9 + 3 * number + u32::from(spatial)) as u16;
        for (part, flag) in both.iter_mut().zip([0x80, 0x40]) {
            part.descriptor = [&[flag | template][..], &frame.to_be_bytes()].concat();
        }
        if key && spatial == 0 {
            both[0].descriptor.extend(hex(STRUCTURE).drain(3..));
        }
    }
    both.into()
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Knuth's MMIX generator; without a seed what the codec would have.
fn body(noise: &mut Option<u64>, plain: u8) -> [u8; HIDDEN] {
    let mut bytes = [0; HIDDEN];
    bytes[0] = plain;
    if let Some(state) = noise {
        bytes.fill_with(|| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        });
    }
    bytes
}

impl Room {
    fn take(&mut self, kind: Kind, (sequence, number): (u16, u32), made: &Made, noise: &mut Option<u64>) {
        let ssrc = 100 + made.encoding;
        let (payload_type, timestamp) = (kind.payload_type(), 3_000 * number);
        let header = Header { marker: made.marker, payload_type, sequence, timestamp, ssrc };
        let mut packet = vec![0; 300];
        let described = (!made.descriptor.is_empty()).then_some((11, &made.descriptor[..]));
        let count = sequence.to_be_bytes();
        let extensions: Vec<(u8, &[u8])> = std::iter::once((5, &count[..])).chain(described).collect();
        let start = write_header(&mut packet, header, &extensions);
        packet.truncate(start);
        packet.extend(&made.head);
        packet.extend(body(noise, made.plain));
        self.conference.handle_rtp(self.now, EndpointKey(0), &packet, &mut self.sink, &mut self.out);
        self.conference.finish_turn(self.now, &mut self.sink);
    }
}

/// What goes to whom of four seconds: two who want now much and now little, and one who comes later. Some packets are lost, some change
/// places. What is encrypted is left out.
fn forwarded(kind: Kind, mut noise: Option<u64>) -> Vec<(u32, Header, Vec<u8>)> {
    let mut room = Room::of(3);
    let mut sequences = [1u16; 4];
    for number in 0..120 {
        match number {
            0 | 80 => [(1, 180), (2, 720)].into_iter().for_each(|(viewer, height)| room.say(viewer, &want(height))),
            20 => {
                let id = EndpointId::parse("p3").unwrap();
                room.conference.add_endpoint(room.now, EndpointKey(3), id, FULL);
                room.conference.handle_connected(room.now, EndpointKey(3), &mut room.out);
                room.say(3, &want(360));
            }
            45 => [(1, 720), (2, 180)].into_iter().for_each(|(viewer, height)| room.say(viewer, &want(height))),
            _ => {}
        }
        let mut packets: Vec<(u16, Made)> = Vec::new();
        for made in kind.picture(number) {
            let sequence = &mut sequences[made.encoding as usize];
            packets.push((*sequence, made));
            *sequence += 1;
        }
        if number % 11 == 5 {
            packets.reverse();
        }
        for (sequence, made) in packets.iter().filter(|(sequence, _)| sequence % 37 != 36) {
            room.take(kind, (*sequence, number), made, &mut noise);
        }
        room.wait(33);
    }
    let clear = |packet: &Packet<'_>| {
        let described = packet.extension(11).unwrap_or(&[]);
        [described, &packet.payload()[..packet.payload().len().saturating_sub(HIDDEN)]].concat()
    };
    let of = |viewer| {
        room.rtp_to(viewer).into_iter().map(|packet| (viewer, packet.header, clear(&packet))).collect::<Vec<_>>()
    };
    (1..4).flat_map(of).collect()
}

#[test]
fn what_is_encrypted_decides_nothing() {
    for kind in [Kind::Vp8, Kind::H264, Kind::Vp9, Kind::Av1, Kind::Av1Alone] {
        let plain = forwarded(kind, None);
        let counts = [1, 2, 3].map(|viewer| plain.iter().filter(|(to, ..)| *to == viewer).count());
        assert!(counts.iter().all(|count| *count > 60), "{kind:?}: {counts:?}");
        if kind != Kind::Av1Alone {
            assert!(counts[2] < counts[0].min(counts[1]), "{kind:?}: who comes later gets less: {counts:?}");
        }
        for seed in 1..6 {
            let encrypted = forwarded(kind, Some(seed));
            let differs = plain.iter().zip(&encrypted).position(|(one, other)| one != other);
            assert_eq!(differs, None, "{kind:?}, seed {seed}: {:x?}", differs.map(|at| (&plain[at], &encrypted[at])));
            assert_eq!(plain.len(), encrypted.len(), "{kind:?}, seed {seed}");
        }
    }
}

#[test]
fn layers_of_encrypted_streams_are_told_apart() {
    for kind in [Kind::Vp9, Kind::Av1] {
        let all = forwarded(kind, Some(9));
        let spatial = |head: &[u8]| if kind == Kind::Vp9 { head[3] >> 1 & 7 } else { (head[0] & 0x3f) % 15 / 5 };
        // Behind the second key frame, before wishes change.
        let seen = |viewer: u32| -> Vec<u8> {
            let time = 31 * 3_000..45 * 3_000;
            let own = all.iter().filter(|(to, header, _)| *to == viewer && time.contains(&header.timestamp));
            let pictures =
                own.filter(|(_, header, head)| header.payload_type == kind.payload_type() && !head.is_empty());
            let layers: BTreeSet<u8> = pictures.map(|(.., head)| spatial(head)).collect();
            layers.into_iter().collect()
        };
        assert_eq!([seen(1), seen(2), seen(3)], [[0], [2], [1]], "{kind:?}");
    }
}

#[test]
fn every_picture_of_encrypted_h264_is_counted() {
    let (mut room, mut noise, mut sequence) = (Room::of(2), Some(4), 0);
    for number in 0..90 {
        for made in h264(1, number) {
            sequence += 1;
            room.take(Kind::H264, (sequence, number), &made, &mut noise);
        }
        room.wait(33);
    }
    let (_, source) = room.conference.sources.iter().find(|(_, source)| source.primary_ssrc() == 101).unwrap();
    let fps = source.layers.iter().map(|layer| layer.fps).fold(0.0, f32::max);
    assert!((28.0..=32.0).contains(&fps), "{fps}");
}

#[test]
fn a_frame_of_h264_that_is_encrypted_from_its_eleventh_byte_on_begins_with_its_first_packet() {
    // The header of its first unit, and all of it is one unit: fragments of what seems to be a parameter set.
    let fragments = [0x87, 0x07, 0x07, 0x47].map(|header| [0x7c, header]);
    let (mut room, mut noise, mut sequence) = (Room::of(2), Some(5), 0);
    for (number, is_first_lost) in [(0, true), (1, false)] {
        for (index, head) in fragments.iter().enumerate() {
            sequence += 1;
            let packet = made(1, index + 1 == fragments.len(), head, 0);
            if index > 0 || !is_first_lost {
                room.take(Kind::H264, (sequence, number), &packet, &mut noise);
            }
        }
        room.wait(33);
    }
    let got: Vec<u8> = room.rtp_to(1).iter().map(|packet| packet.payload()[1]).collect();
    assert_eq!(got, [0x87, 0x07, 0x07, 0x47]);
}

#[test]
fn redundant_sound_that_cannot_be_taken_apart_goes_to_those_who_take_it_whole() {
    let mut room = Room::of(2);
    room.conference.add_endpoint(
        room.now,
        EndpointKey(2),
        EndpointId::parse("p2").unwrap(),
        Capabilities { opus_red: true, ..FULL },
    );
    room.conference.handle_connected(room.now, EndpointKey(2), &mut room.out);
    // The first byte is in the clear.
    let encrypted: Vec<u8> = [0xef].into_iter().chain(body(&mut Some(6), 0)).collect();
    room.sound(0, 1, 30, (111, &[1, 2]));
    room.sound(0, 2, 30, (112, &encrypted));
    room.sound(0, 3, 30, (111, &[3, 4]));
    let got = |key: u32| -> (Vec<Vec<u8>>, u16) {
        let all = room.rtp_to(key);
        let span = all[all.len() - 1].header.sequence.wrapping_sub(all[0].header.sequence);
        (all.iter().map(|packet| packet.payload().to_vec()).collect(), span)
    };
    assert_eq!(got(2), (vec![vec![1, 2], encrypted, vec![3, 4]], 2));
    assert_eq!(got(1), (vec![vec![1, 2], vec![3, 4]], 1), "the others do not miss it");
}
