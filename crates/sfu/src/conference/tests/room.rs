//! A conference with people in it, what it sends, and what a person sends.

use super::*;

/// Collects what a conference sends.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) rtp: Vec<(EndpointKey, Vec<u8>)>,
    pub(super) rtcp: Vec<(EndpointKey, Vec<u8>)>,
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

pub(super) struct Room {
    pub(super) conference: Conference,
    pub(super) now: Instant,
    pub(super) sink: Sink,
    pub(super) out: Vec<Output>,
}

impl Room {
    pub(super) fn of(people: u32) -> Self {
        let feedback = FeedbackSsrcs { audio: Ssrc(1_000_001), video: Ssrc(1_000_002) };
        let mut room = Self {
            conference: Conference::new(ConferenceId(1), feedback, Policy::default(), 7),
            now: beginning(),
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
    pub(super) fn video(&mut self, from: u32, layer: u32, sequence: u16, key: Option<u16>) {
        self.picture(from, layer, sequence, &[0], key);
    }

    /// A VP8 picture in one turn: packets that are so many bytes long at least, numbered from `first` on.
    pub(super) fn picture(&mut self, from: u32, layer: u32, first: u16, lens: &[usize], key: Option<u16>) {
        let ssrc = 100 * (from + 1) + layer;
        let timestamp = u32::from(first) * 3_000;
        let id = (first & 0x7fff) | 0x8000;
        for (sequence, len) in (first..).zip(lens) {
            let mut packet = vec![0u8; 64];
            let (starts, marker) = (sequence == first, usize::from(sequence - first) + 1 == lens.len());
            let header = Header { marker, payload_type: 100, sequence, timestamp, ssrc };
            let start = write_header(&mut packet, header, &[(5, &sequence.to_be_bytes())]);
            packet.truncate(start);
            // The partition's start with the first packet (RFC 7741 §4.2).
            let extended = if starts { 0x90 } else { 0x80 };
            packet.extend_from_slice(&[extended, 0xe0, (id >> 8) as u8, id as u8, first as u8, 0x20]);
            match key.filter(|_| starts) {
                Some(height) => {
                    packet.extend_from_slice(&[0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, height as u8, (height >> 8) as u8]);
                }
                None => packet.extend_from_slice(&[0x11, 0, 0, 1, 2, 3]),
            }
            packet.resize(packet.len().max(*len), 7);
            self.conference.handle_rtp(self.now, EndpointKey(from), &packet, &mut self.sink, &mut self.out);
        }
        self.conference.finish_turn(self.now, &mut self.sink);
    }

    pub(super) fn audio(&mut self, from: u32, sequence: u16, level: u8) {
        self.sound(from, sequence, level, (111, &[0; 20]));
    }

    pub(super) fn sound(&mut self, from: u32, sequence: u16, level: u8, (payload_type, payload): (u8, &[u8])) {
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

    /// A receiver has lost a packet.
    pub(super) fn complain(&mut self, key: u32, lost: Header) {
        let mut writer = Writer::default();
        writer.nack(9, lost.ssrc, std::iter::once(lost.sequence));
        self.conference.handle_rtcp(self.now, EndpointKey(key), writer.bytes(), &mut self.sink);
    }

    pub(super) fn say(&mut self, from: u32, text: &str) {
        self.conference.handle_channel_message(self.now, EndpointKey(from), text, &mut self.out);
    }

    pub(super) fn wait(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.conference.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.conference.on_timeout(self.now, &mut self.sink, &mut self.out);
        }
        self.now = end;
    }

    pub(super) fn rtcp_to(&self, key: u32) -> Vec<Rtcp<'_>> {
        let own = self.sink.rtcp.iter().filter(|(to, _)| *to == EndpointKey(key));
        own.flat_map(|(_, bytes)| Compound::new(bytes)).collect()
    }

    pub(super) fn rtp_to(&self, key: u32) -> Vec<Packet<'_>> {
        self.sink
            .rtp
            .iter()
            .filter(|(to, _)| *to == EndpointKey(key))
            .map(|(_, bytes)| Packet::parse(bytes).unwrap())
            .collect()
    }

    pub(super) fn said_to(&self, key: u32) -> Vec<String> {
        let own = self.out.iter().filter_map(|output| match output {
            Output::Channel { to, text } if *to == EndpointKey(key) => Some(text.to_string()),
            _ => None,
        });
        own.collect()
    }
}

/// A camera of three layers, 100·(n + 1) + 1…3, with RTX 11…13, and a microphone 50.
pub(in crate::conference) fn sources(n: u32) -> SourceSet {
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

pub(super) fn want(height: i32) -> String {
    format!(r#"{{"colibriClass":"ReceiverVideoConstraints","lastN":-1,"defaultConstraints":{{"maxHeight":{height}}}}}"#)
}
