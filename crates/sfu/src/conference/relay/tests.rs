//! One conference on several shards, wired by hand, in virtual time.

use super::*;
use crate::Policy;
use crate::conference::tests::sources;
use tertulia_model::{BridgeEvent, ConferenceId, FeedbackSsrcs, Ssrc, VideoType};
use tertulia_rtp::Packet;
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, Rtcp, Writer};

/// Collects what a shard sends.
#[derive(Default)]
struct Sink {
    rtp: Vec<(EndpointKey, Vec<u8>)>,
    rtcp: Vec<(EndpointKey, Vec<u8>)>,
    frames: Vec<(Shards, Vec<u8>)>,
    /// The ways to other shards are full.
    is_full: bool,
}

impl Egress for Sink {
    fn rtp(&mut self, to: EndpointKey, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut buffer = vec![0; 1500];
        let len = write(&mut buffer);
        buffer.truncate(len);
        self.rtp.push((to, buffer));
    }

    fn rtcp(&mut self, to: EndpointKey, compound: &[u8]) {
        self.rtcp.push((to, compound.to_vec()));
    }

    fn frame(&mut self, to: Shards, frame: &[u8]) -> Shards {
        if self.is_full {
            return to;
        }
        self.frames.push((to, frame.to_vec()));
        Shards::default()
    }
}

struct Part {
    conference: Conference,
    sink: Sink,
    out: Vec<Output>,
}

/// Person n is on shard `n % shards`, under key n.
struct Room {
    now: Instant,
    parts: Vec<Part>,
}

impl Room {
    fn of(shards: usize, people: u32) -> Self {
        let feedback = FeedbackSsrcs { audio: Ssrc(1_000_001), video: Ssrc(1_000_002) };
        let policy = Policy { loudest: Some(1), ..Policy::default() };
        let part = |own: usize| {
            let mut conference = Conference::new(ConferenceId(1), feedback, policy.clone(), own as u64);
            conference.set_shard(shard(own), shard(0));
            Part { conference, sink: Sink::default(), out: Vec::new() }
        };
        let parts = (0..shards).map(part).collect();
        let mut room = Self { now: Instant::now(), parts };
        room.introduce();
        (0..people).for_each(|n| room.join(n));
        room.wait(200);
        room
    }

    fn introduce(&mut self) {
        for own in 0..self.parts.len() {
            for peer in (0..self.parts.len()).filter(|peer| *peer != own) {
                self.parts[own].conference.greet(self.now, shard(peer));
            }
        }
        self.carry();
    }

    fn part(&mut self, n: u32) -> &mut Part {
        let count = self.parts.len();
        &mut self.parts[n as usize % count]
    }

    fn join(&mut self, n: u32) {
        let now = self.now;
        let part = self.part(n);
        part.conference.add_endpoint(now, EndpointKey(n), id(n), Capabilities::USUAL);
        part.conference.set_sources(now, EndpointKey(n), &sources(n));
        part.conference.handle_connected(now, EndpointKey(n), &mut part.out);
        part.conference.handle_channel_open(now, EndpointKey(n), &mut part.out);
        self.carry();
    }

    /// Messages and packets cross until nothing is under way.
    fn carry(&mut self) {
        loop {
            let (mut messages, mut frames) = (Vec::new(), Vec::new());
            for (own, part) in self.parts.iter_mut().enumerate() {
                messages.extend(part.conference.messages().map(|(to, message)| (shard(own), to, message)));
                frames.extend(part.sink.frames.drain(..).map(|(to, frame)| (shard(own), to, frame)));
            }
            if messages.is_empty() && frames.is_empty() {
                return;
            }
            for (from, to, message) in messages {
                assert!(!to.contains(from));
                for peer in to.iter() {
                    let Part { conference, sink, out } = &mut self.parts[peer.worker()];
                    conference.handle_message(self.now, from, message.clone(), sink, out);
                }
            }
            for (from, to, frame) in frames {
                for peer in to.iter() {
                    let Part { conference, sink, out } = &mut self.parts[peer.worker()];
                    conference.handle_frame(self.now, from, &frame, sink, out);
                    conference.finish_turn(self.now, sink);
                }
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now += Duration::from_millis(5);
            for Part { conference, sink, out } in &mut self.parts {
                if conference.next_timeout().is_some_and(|at| at <= self.now) {
                    conference.on_timeout(self.now, sink, out);
                }
            }
            self.carry();
        }
    }

    fn packet(&mut self, from: u32, bytes: &[u8]) {
        let now = self.now;
        let Part { conference, sink, out } = self.part(from);
        conference.handle_rtp(now, EndpointKey(from), bytes, sink, out);
        conference.finish_turn(now, sink);
        self.carry();
    }

    /// A VP8 packet that is a whole frame, `key` lines high when it is a key frame.
    fn video(&mut self, from: u32, layer: u32, sequence: u16, key: Option<u16>) {
        let mut packet = vec![0u8; 64];
        let ssrc = 100 * (from + 1) + layer;
        let header = Header { marker: true, payload_type: 100, sequence, timestamp: u32::from(sequence) * 3_000, ssrc };
        let start = write_header(&mut packet, header, &[]);
        packet.truncate(start);
        let picture = (sequence & 0x7fff) | 0x8000;
        packet.extend_from_slice(&[0x90, 0xe0, (picture >> 8) as u8, picture as u8, sequence as u8, 0x20]);
        match key {
            Some(height) => {
                packet.extend_from_slice(&[0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, height as u8, (height >> 8) as u8]);
            }
            None => packet.extend_from_slice(&[0x11, 0, 0, 1, 2, 3]),
        }
        self.packet(from, &packet);
    }

    fn audio(&mut self, from: u32, sequence: u16, level: u8) {
        let mut packet = vec![0u8; 64];
        let (timestamp, ssrc) = (u32::from(sequence) * 960, 100 * (from + 1) + 50);
        let start = write_header(
            &mut packet,
            Header { marker: false, payload_type: 111, sequence, timestamp, ssrc },
            &[(1, &[level])],
        );
        packet.truncate(start + 20);
        self.packet(from, &packet);
    }

    fn say(&mut self, from: u32, text: &str) {
        let now = self.now;
        let Part { conference, out, .. } = self.part(from);
        conference.handle_channel_message(now, EndpointKey(from), text, out);
        self.carry();
    }

    fn rtp_to(&mut self, n: u32) -> Vec<(u32, u16)> {
        let own = self.part(n).sink.rtp.iter().filter(|(to, _)| *to == EndpointKey(n));
        own.map(|(_, bytes)| Packet::parse(bytes).unwrap().header).map(|h| (h.ssrc, h.sequence)).collect()
    }

    fn said_to(&mut self, n: u32) -> Vec<String> {
        let said = self.part(n).out.iter().filter_map(|output| match output {
            Output::Channel { to, text } if *to == EndpointKey(n) => Some(text.to_string()),
            _ => None,
        });
        said.collect()
    }

    /// SSRCs of which somebody was asked for key frames.
    fn asked(&mut self, n: u32) -> Vec<u32> {
        let own = self.part(n).sink.rtcp.iter().filter(|(to, _)| *to == EndpointKey(n));
        let parts = own.flat_map(|(_, bytes)| Compound::new(bytes).collect::<Vec<_>>());
        let asked = parts.filter_map(|part| match part {
            Rtcp::PictureLossIndication { media_ssrc } => Some(media_ssrc),
            _ => None,
        });
        asked.collect()
    }

    fn speakers(&self) -> Vec<EndpointId> {
        let all = self.parts.iter().flat_map(|part| &part.out).filter_map(|output| match output {
            Output::Event(BridgeEvent::DominantSpeaker { endpoint }) => Some(endpoint.clone()),
            _ => None,
        });
        all.collect()
    }

    /// Three encodings of somebody for a time, 30 a second, with key frames when asked.
    fn film(&mut self, from: u32, sequence: &mut u16, frames: u16) {
        for _ in 0..frames {
            let asked = self.asked(from);
            self.part(from).sink.rtcp.retain(|(to, _)| *to != EndpointKey(from));
            for (layer, height) in [(1, 180), (2, 360), (3, 720)] {
                let is_key = *sequence == 1 || asked.contains(&(100 * (from + 1) + layer));
                self.video(from, layer, *sequence, is_key.then_some(height));
            }
            *sequence += 1;
            self.wait(35);
        }
    }
}

fn shard(n: usize) -> Shard {
    Shard::new(n).unwrap()
}

fn id(n: u32) -> EndpointId {
    EndpointId::parse(&format!("p{n}")).unwrap()
}

const LARGE: &str =
    r#"{"colibriClass":"ReceiverVideoConstraints","defaultConstraints":{"maxHeight":720},"onStageSources":["p0-v0"]}"#;

#[test]
fn everybody_sees_and_hears_everybody_across_three_shards() {
    let mut room = Room::of(3, 6);
    let mut sequence = 1;
    room.film(0, &mut sequence, 20);
    (1..20).for_each(|n| room.audio(0, n, 20));
    for n in 1..6 {
        let got = room.rtp_to(n);
        let pictures = got.iter().filter(|(ssrc, _)| *ssrc == 101).count();
        assert!(pictures > 15, "{n}: {pictures}");
        assert_eq!(got.iter().filter(|(ssrc, _)| *ssrc == 150).count(), 19, "{n}");
    }
    assert!(room.rtp_to(0).is_empty());
    let counters = *room.parts[0].conference.counters();
    assert_eq!(
        counters.copied,
        room.parts[1].conference.counters().crossed + room.parts[2].conference.counters().crossed
    );
    assert_eq!(room.parts[1].conference.counters().dropped, 0);
}

#[test]
fn only_what_somebody_wants_is_copied_and_a_wish_reaches_the_sender_and_the_picture() {
    let mut room = Room::of(2, 2);
    let mut sequence = 1;
    room.film(0, &mut sequence, 20);
    let small = room.parts[0].conference.counters().copied;
    assert!((18..=24).contains(&small), "one encoding of three: {small}");
    assert!(room.said_to(0).iter().any(|text| text.contains(r#""maxHeight":180"#)), "{:?}", room.said_to(0));
    room.say(1, LARGE);
    assert!(room.said_to(0).iter().any(|text| text.contains(r#""maxHeight":720"#)), "{:?}", room.said_to(0));
    room.film(0, &mut sequence, 20);
    assert!(room.parts[1].conference.sources.iter().any(|(_, source)| source.subscriptions.iter().any(|s| {
        matches!(&s.course, Course::Video(course) if course.current().is_some_and(|aim| aim.encoding == 2))
    })));
    let before = room.parts[0].conference.counters().copied;
    room.film(0, &mut sequence, 10);
    assert_eq!(room.parts[0].conference.counters().copied - before, 10, "the small ones are not copied any more");
    let numbers: Vec<u16> = room.rtp_to(1).iter().filter(|(ssrc, _)| *ssrc == 101).map(|(_, n)| *n).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
    room.say(1, r#"{"colibriClass":"ReceiverVideoConstraints","lastN":0}"#);
    room.wait(200);
    let before = room.parts[0].conference.counters().copied;
    room.film(0, &mut sequence, 5);
    assert_eq!(room.parts[0].conference.counters().copied, before, "nobody wants any");
    room.wait(1_000);
    assert!(room.said_to(0).last().unwrap().contains(r#""maxHeight":0"#), "{:?}", room.said_to(0).last());
}

#[test]
fn requests_for_key_frames_cross_and_are_one_for_all() {
    let mut room = Room::of(3, 6);
    let mut sequence = 1;
    room.film(0, &mut sequence, 40);
    room.part(0).sink.rtcp.clear();
    for layer in 1..=3 {
        room.video(0, layer, sequence, None);
    }
    let mut complaint = Writer::default();
    complaint.picture_loss(1, 101);
    let now = room.now;
    for n in 1..6 {
        let Part { conference, sink, .. } = room.part(n);
        conference.handle_rtcp(now, EndpointKey(n), complaint.bytes(), sink);
    }
    room.carry();
    assert_eq!(room.asked(0), [101]);
}

#[test]
fn losses_behind_a_full_way_are_counted_and_a_key_frame_makes_up_for_them() {
    let mut room = Room::of(2, 2);
    let mut sequence = 1;
    room.film(0, &mut sequence, 40);
    room.parts[0].sink.is_full = true;
    room.film(0, &mut sequence, 1);
    room.parts[0].sink.is_full = false;
    assert_eq!(room.parts[0].conference.counters().uncopied, 1);
    assert_eq!(room.asked(0), [101]);
    let before = room.rtp_to(1).len();
    room.film(0, &mut sequence, 5);
    assert_eq!(room.rtp_to(1).len(), before + 5);
}

#[test]
fn all_shards_say_the_same_dominant_speaker_and_the_room_hears_it_once() {
    let mut room = Room::of(2, 4);
    for n in 1..200 {
        room.audio(3, n, 20);
        room.audio(0, n, 127);
        room.wait(20);
    }
    assert_eq!(room.speakers(), [id(3)]);
    for n in [0, 1, 2] {
        let text = room.said_to(n).into_iter().find(|text| text.contains("DominantSpeaker"));
        assert!(text.is_some_and(|text| text.contains(r#""p3""#)), "{n}");
    }
    for part in &room.parts {
        let (key, _) = part.conference.find(&id(3)).unwrap();
        assert_eq!((part.conference.speakers.dominant(), part.conference.speakers.rank(key)), (Some(&id(3)), 0));
    }
    // A shard that comes later is told.
    let mut late = Room::of(3, 0).parts.remove(2);
    late.conference.set_shard(shard(2), shard(0));
    room.parts.push(late);
    room.introduce();
    assert_eq!(room.parts[2].conference.speakers.dominant(), Some(&id(3)));
}

#[test]
fn of_those_who_are_not_loud_only_levels_cross_unless_somebody_insists() {
    let mut room = Room::of(2, 3);
    let talk = |room: &mut Room, from: u16| {
        for n in from..from + 50 {
            room.audio(0, n, 10);
            room.audio(2, n, 60);
            room.wait(20);
        }
    };
    talk(&mut room, 1);
    let heard = |room: &mut Room, ssrc| room.rtp_to(1).iter().filter(|(own, _)| *own == ssrc).count();
    let quiet = heard(&mut room, 350);
    assert!(heard(&mut room, 150) >= 49 && quiet < 40, "{quiet}");
    assert_eq!(room.parts[1].conference.counters().crossed, 100);
    room.say(1, r#"{"colibriClass":"ReceiverAudioSubscription","mode":"Include","list":["p2-a0"]}"#);
    room.wait(200);
    talk(&mut room, 51);
    assert_eq!(heard(&mut room, 350), quiet + 50);
}

#[test]
fn messages_and_changes_of_connectivity_reach_channels_of_other_shards() {
    let mut room = Room::of(2, 4);
    room.parts.iter_mut().for_each(|part| part.out.clear());
    room.say(0, r#"{"colibriClass":"EndpointMessage","to":"p3","msgPayload":{"type":"whisper"}}"#);
    room.say(0, r#"{"colibriClass":"EndpointMessage","to":"","msgPayload":{"type":"shout"}}"#);
    room.say(0, r#"{"colibriClass":"EndpointStats","bitrate":7}"#);
    let heard = |room: &mut Room, n, what: &str| room.said_to(n).iter().filter(|text| text.contains(what)).count();
    let whispers: Vec<usize> = (0..4).map(|n| heard(&mut room, n, "whisper")).collect();
    let shouts: Vec<usize> = (0..4).map(|n| heard(&mut room, n, "shout")).collect();
    let stats: Vec<usize> = (0..4).map(|n| heard(&mut room, n, "EndpointStats")).collect();
    assert_eq!((whispers, shouts, stats), (vec![0, 0, 0, 1], vec![0, 1, 1, 1], vec![0, 1, 1, 1]));
    for _ in 0..100 {
        room.wait(100);
        let now = room.now;
        (1..4).for_each(|n| room.part(n).conference.handle_activity(now, EndpointKey(n)));
    }
    assert_eq!(heard(&mut room, 1, "EndpointConnectivityStatusChangeEvent"), 1);
}

#[test]
fn a_video_type_holds_everywhere_and_for_those_who_come_later() {
    let mut room = Room::of(2, 2);
    room.say(0, r#"{"colibriClass":"SourceVideoTypeMessage","sourceName":"p0-v0","videoType":"desktop"}"#);
    let late = Room::of(3, 0).parts.remove(2);
    room.parts.push(late);
    room.introduce();
    for part in &room.parts {
        let types: Vec<VideoType> = part
            .conference
            .sources
            .iter()
            .filter(|(_, source)| source.name.to_string() == "p0-v0")
            .map(|(_, source)| source.video_type)
            .collect();
        assert_eq!(types, [VideoType::Desktop]);
    }
}

#[test]
fn sender_reports_cross_and_lead_to_round_trips() {
    let mut room = Room::of(2, 2);
    let mut sequence = 1;
    room.film(0, &mut sequence, 3);
    let mut report = Writer::default();
    let info = SenderInfo { ssrc: 101, ntp: 0x1234_5678_9abc_def0, rtp_timestamp: 9_000, packets: 1, octets: 1 };
    report.sender_report(info);
    let now = room.now;
    let Part { conference, sink, .. } = room.part(0);
    conference.handle_rtcp(now, EndpointKey(0), report.bytes(), sink);
    room.carry();
    let got = room.parts[1].sink.rtcp.iter().flat_map(|(_, bytes)| Compound::new(bytes).collect::<Vec<_>>());
    let passed =
        got.filter(|part| matches!(part, Rtcp::SenderReport { info, .. } if info.ntp == 0x1234_5678_9abc_def0));
    assert_eq!(passed.count(), 1);
    // Nobody reports on somebody else's stream.
    let copied = room.parts[1].conference.counters().copied;
    let now = room.now;
    room.join(3);
    let Part { conference, sink, .. } = room.part(3);
    report.clear();
    report.sender_report(SenderInfo { ssrc: 201, ..info });
    conference.handle_rtcp(now, EndpointKey(3), report.bytes(), sink);
    assert_eq!(room.parts[1].conference.counters().copied, copied);
}

#[test]
fn whoever_leaves_leaves_nothing_in_any_shard() {
    let mut room = Room::of(3, 6);
    let mut sequence = 1;
    room.film(0, &mut sequence, 10);
    for n in 0..6 {
        let now = room.now;
        room.part(n).conference.remove_endpoint(now, EndpointKey(n));
        room.carry();
        for part in &room.parts {
            assert_eq!(part.conference.endpoints.len(), 5 - n as usize);
            assert!(part.conference.sources.iter().all(|(_, source)| source.crossing.from != Some(shard(9))));
        }
    }
    room.wait(100);
    for part in &room.parts {
        assert!(part.conference.is_empty() && part.conference.relay.listening.is_empty());
        assert_eq!(part.conference.next_timeout(), None);
    }
}

#[test]
fn a_shard_that_missed_everything_is_told_anew() {
    let mut room = Room::of(2, 4);
    let mut sequence = 1;
    room.film(0, &mut sequence, 10);
    // What the first shard says is lost for a while.
    let now = room.now;
    room.parts[0].conference.remove_endpoint(now, EndpointKey(2));
    let lost = room.parts[0].conference.messages().count();
    assert!(lost > 0);
    assert!(room.parts[1].conference.find(&id(2)).is_some());
    room.parts[0].conference.greet(now, shard(1));
    room.carry();
    assert!(room.parts[1].conference.find(&id(2)).is_none());
    room.wait(100);
    let before = room.rtp_to(1).len();
    room.film(0, &mut sequence, 10);
    assert!(room.rtp_to(1).len() > before + 5, "pictures go on");
}
