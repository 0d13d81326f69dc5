//! Authentic and hostile packets at the doors of SRTP, SRTCP and the data channel.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tertulia_media::srtp::{Inbound, OVERHEAD_MAX, OpenError, Outbound, Profile, STREAMS_OF_ONE};
use tertulia_media::transport::{DataChannel, Heard};

/// Packets of one input; the rest of it is ignored.
const STEPS_MAX: usize = 200;
/// Packet indices behind the highest that SRTP tells apart, RFC 3711's least times eight.
const WINDOW: u64 = 512;

/// A script of three bytes a step: what a sender seals, in which order and how often it comes, and what is forged in between. What opens was
/// sealed with these bytes and has not opened before; whatever an authentic sender may send opens, and forgeries change nothing in that.
pub fn srtp(input: &[u8]) {
    let Some((first, script)) = input.split_first() else { return };
    let profile =
        [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::AesCm128HmacSha1][usize::from(first >> 1) % 3];
    let mut line = Line::new(profile, first & 1 != 0);
    for step in script.chunks_exact(3).take(STEPS_MAX) {
        let (kind, value) = (step[0], u16::from_be_bytes([step[1], step[2]]));
        match kind % 8 {
            0..=2 => line.seal(kind >> 4, u64::from(value % 300) + 1),
            3 => line.seal(kind >> 4, u64::from(value % 0x7000) + 1),
            4 | 5 => line.deliver(usize::from(value)),
            6 => line.forge(usize::from(step[1]), usize::from(step[2]), kind >> 3),
            _ => line.garbage(script),
        }
    }
    for index in 0..line.sealed.len() {
        line.deliver(index);
    }
}

/// A sender, a receiver, and what is between them.
struct Line {
    outbound: Outbound,
    inbound: Inbound,
    is_rtcp: bool,
    sealed: Vec<Sealed>,
    streams: [Stream; 2],
}

struct Sealed {
    stream: usize,
    /// Sequence number and roll-overs.
    index: u64,
    plain: Vec<u8>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Stream {
    sent: Option<u64>,
    opened: BTreeSet<u64>,
}

impl Line {
    fn new(profile: Profile, is_rtcp: bool) -> Self {
        let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
        Self {
            outbound: Outbound::new(profile, &key, &salt).unwrap(),
            inbound: Inbound::new(profile, &key, &salt, STREAMS_OF_ONE).unwrap(),
            is_rtcp,
            sealed: Vec::new(),
            streams: Default::default(),
        }
    }

    /// The sender's next packet, so many numbers further.
    fn seal(&mut self, stream: u8, step: u64) {
        let stream = usize::from(stream % 2);
        let own = &mut self.streams[stream];
        // Its first number is anywhere, near the roll-over as well; control packets are counted together and one by one.
        let next = own.sent.map_or(0xff00 + step % 0x100, |sent| sent + step);
        let index = if self.is_rtcp { self.sealed.len() as u64 + 1 } else { next };
        own.sent = Some(next);
        let [high, low] = ((index & 0xffff) as u16).to_be_bytes();
        let ssrc = stream as u8 + 1;
        let mut plain = if self.is_rtcp {
            vec![0x81, 206, 0, 2, 0, 0, 0, ssrc, 0, 0, high, low]
        } else {
            vec![0x90, 100, high, low, 0, 0, 0, 1, 0, 0, 0, ssrc, 0xbe, 0xde, 0, 1, 0x10, 0x2a, 0, 0]
        };
        plain.extend(std::iter::repeat_n(low, usize::from(low) % 40));
        let (len, mut bytes) = (plain.len(), plain.clone());
        bytes.resize(len + OVERHEAD_MAX, 0);
        let sealed = if self.is_rtcp { Outbound::seal_rtcp } else { Outbound::seal_rtp };
        let len = sealed(&mut self.outbound, &mut bytes, len).expect("a new number, and room");
        bytes.truncate(len);
        self.sealed.push(Sealed { stream, index, plain, bytes });
    }

    fn open(&mut self, bytes: &mut [u8]) -> Result<usize, OpenError> {
        if self.is_rtcp { self.inbound.open_rtcp(bytes) } else { self.inbound.open_rtp(bytes) }
    }

    /// What was sealed comes, for the first time or again.
    fn deliver(&mut self, at: usize) {
        if self.sealed.is_empty() {
            return;
        }
        let at = at % self.sealed.len();
        let (stream, index) = (self.sealed[at].stream, self.sealed[at].index);
        let mut copy = self.sealed[at].bytes.clone();
        let opened = self.open(&mut copy);
        let own = &mut self.streams[stream].opened;
        let is_due = !own.contains(&index)
            && match own.last() {
                // A roll-over that nothing came of cannot be known of; those of control packets are told.
                None => self.is_rtcp || index < 1 << 16,
                Some(highest) if index <= *highest => highest - index < WINDOW,
                Some(highest) => self.is_rtcp || index - highest < 1 << 15,
            };
        match opened {
            Ok(len) => {
                assert_eq!(copy[..len], self.sealed[at].plain, "other bytes than were sealed");
                assert!(own.insert(index), "{index} opened twice");
            }
            Err(error) => assert!(!is_due, "{index} of an authentic sender, after {:?}: {error:?}", own.last()),
        }
    }

    /// A packet is changed on its way, in one of its bytes or its length.
    fn forge(&mut self, at: usize, place: usize, how: u8) {
        if self.sealed.is_empty() {
            return;
        }
        let mut copy = self.sealed[at % self.sealed.len()].bytes.clone();
        let place = place % copy.len();
        match how % 4 {
            0 => copy.truncate(place),
            1 => copy.push(0),
            _ => copy[place] ^= 1 << (how >> 2),
        }
        assert!(self.open(&mut copy).is_err(), "a forgery is let in");
    }

    fn garbage(&mut self, bytes: &[u8]) {
        let mut copy = bytes.to_vec();
        assert!(self.open(&mut copy).is_err(), "nobody sealed this");
    }
}

/// Packets of chunks for an association with an open data channel, each after two bytes: flags, and how long it is. They have the peer's tag
/// and a right checksum, and count from where the peer is, or else are a stranger's. No packet has many answers, all answers are whole
/// packets for the peer, and after strangers alone the channel goes on as if nothing had come.
pub fn sctp(mut input: &[u8]) {
    const STRANGE: u8 = 1;
    let mut now = Instant::now();
    let mut pair = Pair::open(now);
    let (mut heard, mut strangers_alone) = (Vec::new(), true);
    for _ in 0..STEPS_MAX {
        let Some(([flags, len], rest)) = input.split_first_chunk().map(|(head, rest)| (*head, rest)) else { break };
        let (chunks, rest) = rest.split_at(rest.len().min(len.into()));
        input = rest;
        let is_strange = flags & STRANGE != 0;
        strangers_alone &= is_strange;
        let packet = if is_strange { chunks.to_vec() } else { pair.packet(chunks) };
        let before = heard.len();
        pair.server.handle(now, &packet, &mut heard);
        now += Duration::from_millis(10 << (flags >> 5));
        if pair.server.next_timeout().is_some_and(|at| at <= now) {
            pair.server.on_timeout(now, &mut heard);
        }
        let answers = pair.answers(now);
        assert!(answers < 100 && heard.len() - before < 100, "one packet, {answers} answers, {heard:?}");
    }
    let mut is_open = true;
    for heard in &heard {
        match heard {
            Heard::Open => is_open = true, // it may have been full
            Heard::Closed => assert!(std::mem::take(&mut is_open), "closed twice"),
            Heard::Text(_) => assert!(is_open, "a text on a closed channel"),
            Heard::Refused => {}
        }
    }
    assert_eq!(is_open, pair.server.is_open());
    if strangers_alone {
        assert_eq!(heard, [], "strangers have no say");
        assert!(pair.client.send(now, "still here"));
        pair.pass(now, &mut heard);
        assert_eq!(heard, [Heard::Text("still here".into())]);
    }
}

/// Two ends of an association whose channel is open.
struct Pair {
    client: DataChannel,
    server: DataChannel,
    /// Ports and tag of the client's packets, and of the server's.
    heads: [[u8; 8]; 2],
    /// The client's next transmission sequence number, and the server's last.
    numbers: [u32; 2],
}

/// RFC 9260 §3.3.
const DATA: u8 = 0;
const SACK: u8 = 3;
/// RFC 3758 §3.2.
const FORWARD_TSN: u8 = 192;
/// RFC 6525 §3.1: a parameter that begins with the number of a request.
const RE_CONFIG: u8 = 130;

impl Pair {
    fn open(now: Instant) -> Self {
        let (client, server) = (DataChannel::connect().unwrap(), DataChannel::accept());
        let mut pair = Self { client, server, heads: [[0; 8]; 2], numbers: [0; 2] };
        let mut heard = Vec::new();
        (0..6).for_each(|_| pair.pass(now, &mut heard));
        assert_eq!(heard, [Heard::Open]);
        pair
    }

    /// What both have to say to each other.
    fn pass(&mut self, now: Instant, heard: &mut Vec<Heard>) {
        self.client.on_timeout(now, &mut Vec::new());
        while let Some(packet) = self.client.next_packet(now) {
            self.note(0, &packet);
            self.server.handle(now, &packet, heard);
        }
        while let Some(packet) = self.server.next_packet(now) {
            self.note(1, &packet);
            self.client.handle(now, &packet, &mut Vec::new());
        }
    }

    fn note(&mut self, side: usize, packet: &[u8]) {
        self.heads[side].copy_from_slice(&packet[..8]);
        if packet[12] == DATA {
            let number = u32::from_be_bytes(packet[16..20].try_into().unwrap());
            self.numbers[side] = if side == 0 { number.wrapping_add(1) } else { number };
        }
    }

    /// Chunks as a packet of the client; their numbers count from its own.
    fn packet(&self, chunks: &[u8]) -> Vec<u8> {
        let mut packet = [&self.heads[0][..], &[0; 4], chunks].concat();
        let mut at = 12;
        while let Some(&[kind, _, high, low]) = packet.get(at..at + 4) {
            let counted = match kind {
                DATA | FORWARD_TSN => Some((self.numbers[0], at + 4)),
                SACK => Some((self.numbers[1], at + 4)),
                RE_CONFIG => Some((self.numbers[0], at + 8)),
                _ => None,
            };
            if let Some((base, at)) = counted
                && let Some(number) = packet.get_mut(at..at + 4)
            {
                let told = u32::from_be_bytes(number.try_into().unwrap());
                number.copy_from_slice(&base.wrapping_add(told).to_be_bytes());
            }
            at += usize::from(u16::from_be_bytes([high, low])).max(4).next_multiple_of(4);
        }
        let sum = checksum(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    /// How many packets the server has to send.
    fn answers(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(mut packet) = self.server.next_packet(now).filter(|_| count < 100) {
            count += 1;
            assert!((12..=1_200).contains(&packet.len()), "{} bytes", packet.len());
            let told: [u8; 4] = packet[8..12].try_into().unwrap();
            packet[8..12].fill(0);
            assert_eq!(u32::from_le_bytes(told), checksum(&packet));
        }
        count
    }
}

/// CRC-32C (RFC 9260, Appendix A), bit by bit.
fn checksum(packet: &[u8]) -> u32 {
    !packet.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}
