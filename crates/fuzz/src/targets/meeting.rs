//! A conference in which packets of every kind come, and receivers want now this and now that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tertulia_model::profile::{Codec, PAYLOAD_TYPES, payload_type};
use tertulia_model::{Capabilities, ConferenceId, EndpointId, FeedbackSsrcs, SourceSet, Ssrc};
use tertulia_rtp::codec::{vp8, vp9};
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, Writer};
use tertulia_rtp::{Packet, rtx};
use tertulia_sfu::{Conference, Egress, EndpointKey, Output, Policy};

/// Steps of one input; the rest of it is ignored.
const STEPS_MAX: usize = 150;
/// Who sends, and two who receive.
const SENDER: EndpointKey = EndpointKey(0);
const VIEWER: EndpointKey = EndpointKey(1);
const OTHER: EndpointKey = EndpointKey(2);
/// The sender's, which mutated packets are likely to hit: a camera of three encodings, their retransmissions, a microphone.
const CAMERA: [u32; 3] = [0x0101_0101, 0x0101_0102, 0x0101_0103];
const REPAIRS: [u32; 3] = [0x0202_0201, 0x0202_0202, 0x0202_0203];
const MICROPHONE: u32 = 0x0303_0303;
const FEEDBACK: FeedbackSsrcs = FeedbackSsrcs { audio: Ssrc(1), video: Ssrc(2) };
const SEQUENCE_START: u16 = 65_500;

/// A conference takes any text on a channel.
pub fn channel(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let mut meeting = Meeting::new();
        meeting.say(VIEWER, text);
        meeting.wait(1_000);
    }
}

/// A script: each step is what happens, how long it is, and that many bytes. Whatever happens, nobody gets what is their own, and no number
/// is used twice.
pub fn sfu(input: &[u8]) {
    encodings_seen(input);
}

/// How many of the sender's encodings somebody got by a script.
pub fn encodings_seen(mut input: &[u8]) -> usize {
    let mut meeting = Meeting::new();
    for _ in 0..STEPS_MAX {
        let Some(([kind, len], rest)) = input.split_first_chunk().map(|(head, rest)| (*head, rest)) else { break };
        let (body, rest) = rest.split_at(rest.len().min(len.into()));
        input = rest;
        meeting.step(kind, body);
    }
    meeting.sent.encodings.len()
}

/// Payloads of retransmissions to a stream with holes, each after a byte that says how long it is and one that says which codec's it is. What
/// is unwrapped goes out under the number and the SSRC of the original, with the bytes behind the number, as often as such bytes came.
pub fn retransmission(mut input: &[u8]) {
    let mut meeting = Meeting::new();
    meeting.say(VIEWER, &wish(720));
    meeting.picture(0, Codec::Vp8, true, 0, &[], &[]);
    let mut came: BTreeMap<(u8, Vec<u8>), BTreeSet<u16>> = BTreeMap::new();
    for sent in &meeting.sent.pictures {
        came.entry(essence(sent.payload_type, &sent.payload)).or_default().insert(SEQUENCE_START);
    }
    for number in 0..STEPS_MAX as u16 {
        let Some(([len, codec], rest)) = input.split_first_chunk().map(|(head, rest)| (*head, rest)) else { break };
        let (payload, rest) = rest.split_at(rest.len().min(len.into()));
        input = rest;
        let rows: Vec<_> = PAYLOAD_TYPES.iter().filter_map(|row| Some((row.number, row.rtx?))).collect();
        let (original, own) = rows[usize::from(codec) % rows.len()];
        if let Some((sequence, content)) = rtx::unwrap(payload) {
            assert_eq!([&sequence.to_be_bytes()[..], content].concat(), payload);
            came.entry(essence(original, content)).or_default().insert(sequence);
        }
        meeting.packet(
            Header { marker: true, payload_type: own, sequence: number, timestamp: number.into(), ssrc: REPAIRS[0] },
            &[],
            payload,
        );
        meeting.wait(5);
    }
    let mut went: BTreeMap<(u8, Vec<u8>), usize> = BTreeMap::new();
    for sent in meeting.sent.pictures.iter().filter(|sent| sent.to == VIEWER && !sent.payload.is_empty()) {
        *went.entry(essence(sent.payload_type, &sent.payload)).or_default() += 1;
    }
    for (content, count) in went {
        let times = came.get(&content).map_or(0, BTreeSet::len);
        assert!(count <= times, "{content:x?} came {times} times and went out {count} times");
    }
}

/// What of a payload no forwarder changes.
fn essence(number: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let head = match payload_type(number).map(|row| row.codec) {
        Some(Codec::Vp8) => vp8::Descriptor::parse(payload).map(|descriptor| descriptor.len),
        Some(Codec::Vp9) => vp9::Descriptor::parse(payload).map(|descriptor| descriptor.len),
        _ => None,
    };
    (number, payload[head.unwrap_or(0)..].to_vec())
}

fn wish(height: i16) -> String {
    format!(r#"{{"colibriClass":"ReceiverVideoConstraints","lastN":-1,"defaultConstraints":{{"maxHeight":{height}}}}}"#)
}

struct Meeting {
    conference: Conference,
    now: Instant,
    out: Vec<Output>,
    sent: Sent,
    /// Of the encodings, and of sound.
    sequences: [u16; 4],
    is_other_here: bool,
    is_muted: bool,
}

impl Meeting {
    fn new() -> Self {
        let now = Instant::now();
        let mut meeting = Self {
            conference: Conference::new(ConferenceId(1), FEEDBACK, Policy::default(), 7),
            now,
            out: Vec::new(),
            sent: Sent::default(),
            sequences: [SEQUENCE_START; 4],
            is_other_here: true,
            is_muted: false,
        };
        [SENDER, VIEWER, OTHER].into_iter().for_each(|key| meeting.join(key));
        meeting.conference.set_sources(now, SENDER, &sources());
        meeting.wait(50);
        meeting
    }

    fn join(&mut self, key: EndpointKey) {
        let id = EndpointId::parse(&format!("p{}", key.0)).unwrap();
        self.conference.add_endpoint(self.now, key, id, Capabilities::USUAL);
        self.conference.handle_connected(self.now, key, &mut self.out);
        self.conference.handle_channel_open(self.now, key, &mut self.out);
    }

    fn step(&mut self, kind: u8, body: &[u8]) {
        let first = body.first().copied().unwrap_or(0);
        let viewer = if kind & 0x80 == 0 { VIEWER } else { OTHER };
        match kind & 7 {
            0 => self.shoot(body),
            1 => {
                self.conference.handle_rtp(self.now, SENDER, body, &mut self.sent, &mut self.out);
                self.conference.finish_turn(self.now, &mut self.sent);
            }
            2 => self.conference.handle_rtcp(self.now, viewer, body, &mut self.sent),
            3 => self.say(viewer, &wish([0, 180, 360, 720, -1][usize::from(first) % 5])),
            4 => self.wait(u64::from(first) * 8 + 1),
            5 => self.complain(viewer, first),
            6 => self.speak(first & 0x7f),
            _ => self.happen(first),
        }
    }

    /// A picture of this description: encoding and codec, length of its dependency descriptor, the descriptor, more payload.
    fn shoot(&mut self, body: &[u8]) {
        let Some(([what, len], rest)) = body.split_first_chunk().map(|(head, rest)| (*head, rest)) else { return };
        let (descriptor, tail) = rest.split_at(rest.len().min(usize::from(len)));
        let codec = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1][usize::from(what >> 2 & 3)];
        self.picture(usize::from(what & 3) % 3, codec, what & 0x10 != 0, what >> 6, descriptor, tail);
    }

    fn picture(&mut self, encoding: usize, codec: Codec, key: bool, temporal: u8, descriptor: &[u8], tail: &[u8]) {
        let sequence = self.sequences[encoding];
        let [high, low] = sequence.to_be_bytes();
        let mark = 0xe0 | encoding as u8;
        let [shorter, longer] = (180u16 << encoding).to_le_bytes();
        let head = match (codec, key) {
            (Codec::Vp8, true) => {
                vec![0x90, 0xe0, high | 0x80, low, low, 0x20, 0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, shorter, longer]
            }
            (Codec::Vp8, false) => vec![0x90, 0xe0, high | 0x80, low, low, temporal << 6 | 0x20, 0x11, 0, 0],
            (Codec::Vp9, key) => vec![0xac | u8::from(!key) << 6, high | 0x80, low, temporal << 5 | 0x10, low],
            (Codec::H264, key) => vec![if key { 0x67 } else { 0x41 }, 0x88],
            (_, key) => vec![0x10 | u8::from(key) << 3],
        };
        let payload_type = PAYLOAD_TYPES.iter().find(|row| row.codec == codec).unwrap().number;
        let timestamp = u32::from(sequence.wrapping_sub(SEQUENCE_START)) * 3_000;
        let header = Header { marker: true, payload_type, sequence, timestamp, ssrc: CAMERA[encoding] };
        self.packet(header, descriptor, &[&head[..], tail, &[mark]].concat());
        self.sequences[encoding] = sequence.wrapping_add(1);
    }

    fn packet(&mut self, header: Header, descriptor: &[u8], payload: &[u8]) {
        let mut packet = [0; 1_500];
        let number = header.sequence.to_be_bytes();
        let described = (!descriptor.is_empty()).then_some((11, descriptor));
        let extensions: Vec<(u8, &[u8])> = std::iter::once((5, &number[..])).chain(described).collect();
        let start = write_header(&mut packet, header, &extensions);
        let end = start + payload.len();
        packet[start..end].copy_from_slice(payload);
        self.conference.handle_rtp(self.now, SENDER, &packet[..end], &mut self.sent, &mut self.out);
        self.conference.finish_turn(self.now, &mut self.sent);
    }

    fn speak(&mut self, level: u8) {
        let sequence = self.sequences[3];
        let header = Header {
            marker: false,
            payload_type: 111,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: MICROPHONE,
        };
        let mut packet = [0; 64];
        let start = write_header(&mut packet, header, &[(1, &[level])]);
        self.conference.handle_rtp(self.now, SENDER, &packet[..start + 20], &mut self.sent, &mut self.out);
        self.conference.finish_turn(self.now, &mut self.sent);
        self.sequences[3] = sequence.wrapping_add(1);
    }

    fn say(&mut self, from: EndpointKey, text: &str) {
        self.conference.handle_channel_message(self.now, from, text, &mut self.out);
    }

    /// A viewer misses one of the last packets, or the picture.
    fn complain(&mut self, viewer: EndpointKey, which: u8) {
        let own = self.sent.pictures.iter().rev().filter(|sent| sent.to == viewer);
        let Some((ssrc, sequence)) = own.map(|sent| (sent.ssrc, sent.sequence)).nth(usize::from(which >> 1)) else {
            return;
        };
        let mut writer = Writer::default();
        match which & 1 {
            0 => writer.nack(9, ssrc, std::iter::once(sequence)),
            _ => writer.picture_loss(9, ssrc),
        }
        self.conference.handle_rtcp(self.now, viewer, writer.bytes(), &mut self.sent);
    }

    /// Something that signalling brings.
    fn happen(&mut self, what: u8) {
        match what % 4 {
            0 => self.conference.set_sources(self.now, SENDER, &SourceSet::default()),
            1 => self.conference.set_sources(self.now, SENDER, &sources()),
            2 => {
                self.is_muted = !self.is_muted;
                self.conference.set_force_mute(SENDER, self.is_muted, self.is_muted);
            }
            _ if self.is_other_here => {
                self.is_other_here = false;
                self.conference.remove_endpoint(self.now, OTHER);
                self.sent.forget(OTHER);
            }
            _ => {
                self.is_other_here = true;
                self.join(OTHER);
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.conference.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.conference.on_timeout(self.now, &mut self.sent, &mut self.out);
        }
        self.now = end;
    }
}

/// What the conference sent, held against what it promises.
#[derive(Default)]
struct Sent {
    /// Under the camera's own SSRC.
    pictures: Vec<Picture>,
    numbers: BTreeSet<(EndpointKey, u32, u16)>,
    encodings: BTreeSet<u8>,
}

struct Picture {
    to: EndpointKey,
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    payload: Vec<u8>,
}

impl Sent {
    fn forget(&mut self, key: EndpointKey) {
        self.pictures.retain(|sent| sent.to != key);
        self.numbers.retain(|(to, ..)| *to != key);
    }
}

impl Egress for Sent {
    fn rtp(&mut self, to: EndpointKey, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut buffer = [0u8; 1_500];
        let len = write(&mut buffer);
        if len == 0 {
            return;
        }
        let packet = Packet::parse(&buffer[..len]).expect("RTP");
        let Header { ssrc, sequence, payload_type, .. } = packet.header;
        assert!(to != SENDER || ssrc == FEEDBACK.video.0, "somebody gets what is their own");
        assert!(self.numbers.insert((to, ssrc, sequence)), "number {sequence} of {ssrc:x} is used twice");
        let payload = packet.payload().to_vec();
        if ssrc == CAMERA[0] {
            self.encodings.extend(payload.last().filter(|last| (0xe0..0xe3).contains(*last)));
            self.pictures.push(Picture { to, ssrc, payload_type, sequence, payload });
        } else if ssrc == REPAIRS[0] && !payload.is_empty() {
            let (number, content) = rtx::unwrap(&payload).expect("what is repeated has a number");
            let mut own = self.pictures.iter().filter(|sent| (sent.to, sent.sequence) == (to, number));
            // What came late is sent as a repetition, if it is missed, and never before.
            assert!(own.all(|sent| sent.payload == content), "{number} is repeated with other bytes");
        } else {
            assert!([MICROPHONE, FEEDBACK.video.0, REPAIRS[0]].contains(&ssrc), "SSRC {ssrc:x} was not signalled");
        }
    }

    fn rtcp(&mut self, _: EndpointKey, compound: &[u8]) {
        assert!(Compound::new(compound).next().is_some());
    }
}

fn sources() -> SourceSet {
    let source = |ssrc: u32, name: char| {
        format!("<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='{ssrc}' name='p0-{name}0'/>")
    };
    let group = |semantics: &str, ssrcs: &[u32]| {
        let all: String = ssrcs.iter().map(|ssrc| format!("<source ssrc='{ssrc}'/>")).collect();
        format!("<ssrc-group xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' semantics='{semantics}'>{all}</ssrc-group>")
    };
    let video: String = CAMERA.iter().chain(&REPAIRS).map(|ssrc| source(*ssrc, 'v')).collect();
    let repairs: String = CAMERA.iter().zip(&REPAIRS).map(|(own, repair)| group("FID", &[*own, *repair])).collect();
    let description = "<description xmlns='urn:xmpp:jingle:apps:rtp:1' media=";
    let text = format!(
        "<jingle xmlns='urn:xmpp:jingle:1'><content name='video'>{description}'video'>{video}{}{repairs}</description></content>\
         <content name='audio'>{description}'audio'>{}</description></content></jingle>",
        group("SIM", &CAMERA),
        source(MICROPHONE, 'a')
    );
    let own = EndpointId::parse("p0").unwrap();
    tertulia_xmpp::sources::from_client(&tertulia_xmpp::parse(&text).unwrap(), &own).unwrap()
}
