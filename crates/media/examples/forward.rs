//! What a forwarded packet costs: a worker with one camera and many receivers, real keys both ways, and nothing behind its batches.
//!
//! `cargo run --release -p tertulia-media --example forward` prints nanoseconds of the thread for each packet that leaves, for several sizes
//! of the room and runs of packets; three numbers after `--` (receivers, packets a turn, turns) measure one of them. `feedback` prints what
//! it costs that they answer. `instructions` does a fixed amount of work once, for `script/instructions`.

#![allow(clippy::unwrap_used)] // a measurement may end where it is surprised

#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tertulia_media::srtp::provider::{self, Provider};
use tertulia_media::srtp::{Outbound, Profile};
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_model::{
    BridgeRequest, GroupSemantics, MediaKind, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};
use tertulia_rtp::Packet;
use tertulia_rtp::extension::parse_transport_cc;
use tertulia_rtp::rtcp::Writer;
use tertulia_rtp::transport_cc::Recorder;
use world::{World, bridge};

const CAMERA: u32 = 1;
const RTX: u32 = 11;
/// Of every offer (`tertulia_model::profile`).
const TRANSPORT_CC_ID: u8 = 5;
/// Bytes of one packet's payload: with headers and trailer about 1200, what browsers fill.
const PAYLOAD_LEN: usize = 1_140;
/// Turns before anything is measured: two seconds and some.
const WARM_UP_TURNS: usize = 110;
/// Rounds of one measurement; the median is shown.
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            println!("cipher: {:?}", provider::chosen());
            for receivers in [10, 100, 1000] {
                for run in [1, 4, 8] {
                    measure(receivers, run, (400_000 / (receivers * run)).max(20));
                }
            }
        }
        ["instructions"] => count_instructions(),
        ["ciphers"] => time_ciphers(),
        ["feedback"] => time_feedback(),
        [receivers, run, turns] => {
            measure(receivers.parse().unwrap(), run.parse().unwrap(), turns.parse().unwrap());
        }
        _ => eprintln!("forward [instructions | ciphers | feedback | RECEIVERS PACKETS_PER_TURN TURNS]"),
    }
}

/// Prints one line: medians over rounds.
fn measure(receivers: usize, run: usize, turns: usize) {
    let mut stage = Stage::new(receivers, run);
    stage.round(turns.min(50));
    let mut nanoseconds = Vec::new();
    let mut gone = Gone::default();
    for _ in 0..ROUNDS {
        let (took, sent) = stage.round(turns);
        nanoseconds.push(took.as_nanos() as f64 / sent.datagrams as f64);
        gone = sent;
    }
    nanoseconds.sort_by(f64::total_cmp);
    println!(
        "receivers {receivers:4}  packets a turn {run}  {:6.0} ns (least {:.0}) for each of {} datagrams, {:.1} a message",
        nanoseconds[ROUNDS / 2],
        nanoseconds[0],
        gone.datagrams,
        gone.datagrams as f64 / gone.messages as f64,
    );
}

/// Always the same work, with the cipher that every machine and every simulator of one runs alike.
fn count_instructions() {
    assert!(provider::choose(Provider::Ring), "nothing was sealed before");
    let mut stage = Stage::new(20, 4);
    let (_, sent) = stage.round(50);
    println!("datagrams {}", sent.datagrams);
}

/// What sealing alone costs, under each profile that is negotiated and by each library.
fn time_ciphers() {
    let (aws_lc, ring) = provider::self_test();
    println!("AES-256-GCM, one key: aws-lc {} ns, ring {} ns", aws_lc.as_nanos(), ring.as_nanos());
    for profile in [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::AesCm128HmacSha1] {
        let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
        let mut outbound = Outbound::new(profile, &key, &salt).unwrap();
        let mut buffer = [0u8; 1_500];
        buffer[0] = 0x80;
        let before = thread_time();
        for sequence in 0..=u16::MAX {
            buffer[2..4].copy_from_slice(&sequence.to_be_bytes());
            outbound.seal_rtp(&mut buffer, 1_200).unwrap();
        }
        let each = thread_time().saturating_sub(before) / 65_536;
        println!("{profile:?} with {:?}: {} ns", provider::chosen(), each.as_nanos());
    }
}

/// Prints what transport-wide feedback costs, from its datagram to the end of the turn: keys, reading, the estimator. Three frames of
/// thirteen packets are answered at once, as ten times a second.
fn time_feedback() {
    let (receivers, run, frames) = (20, 13, 3);
    let mut stage = Stage::new(receivers, run);
    let mut answering =
        Answering { start: stage.world.now, now: stage.world.now, recorders: HashMap::new(), packets: 0 };
    let (mut nanoseconds, mut answers) = (Vec::new(), 0);
    for _ in 0..500 {
        for _ in 0..frames {
            stage.answered_turn(&mut answering);
        }
        let mut feedback = answering.feedback(&mut stage.world);
        let (begun, mut gone) = (Instant::now(), Gone::default());
        for (from, bytes) in &mut feedback {
            stage.world.worker.handle_datagram(stage.world.now, bridge(), *from, bytes, &mut gone);
        }
        stage.world.worker.finish_turn(stage.world.now, &mut gone);
        nanoseconds.push(begun.elapsed().as_nanos() as f64 / feedback.len().max(1) as f64);
        answers += feedback.len();
    }
    let counters = stage.world.worker.counters();
    assert_eq!(counters.dropped_forged + counters.dropped_replayed + counters.dropped_malformed, 0, "all is read");
    nanoseconds.sort_by(f64::total_cmp);
    println!(
        "feedback: {:.0} ns for each of {answers}, of {:.1} packets",
        nanoseconds[nanoseconds.len() / 2],
        answering.packets as f64 / answers as f64,
    );
}

/// Notes what arrives, for feedback.
struct Answering {
    start: Instant,
    now: Instant,
    recorders: HashMap<SocketAddr, Recorder>,
    packets: usize,
}

impl Answering {
    /// What everybody says to what came since they last said something: sealed.
    fn feedback(&mut self, world: &mut World) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        for client in &mut world.clients {
            let Some(recorder) = self.recorders.get_mut(&client.address) else { continue };
            let (mut compound, mut feedback) = (Writer::default(), [0; 1_024]);
            let len = recorder.write(&mut feedback);
            compound.transport_cc(1, CAMERA, &feedback[..len]);
            let mut bytes = compound.bytes().to_vec();
            let len = bytes.len();
            bytes.resize(len + 64, 0);
            let (len, ..) = client.transport.seal_rtcp(&mut bytes, len).unwrap();
            bytes.truncate(len);
            all.push((client.address, bytes));
        }
        all
    }
}

impl Flush for Answering {
    fn flush(&mut self, batch: &Batch) {
        for (entry, bytes) in batch.iter() {
            // Numbers are in the clear.
            let packet = Packet::parse(bytes).filter(|_| !tertulia_rtp::is_rtcp(bytes));
            let number = packet.and_then(|packet| packet.extension(TRANSPORT_CC_ID).and_then(parse_transport_cc));
            if let Some(number) = number {
                self.packets += 1;
                let at = self.now.saturating_duration_since(self.start) + Duration::from_millis(20);
                self.recorders.entry(entry.remote).or_default().record(number, at);
            }
        }
    }
}

/// A camera and its audience.
struct Stage {
    world: World,
    run: usize,
    receivers: usize,
    sequence: u16,
    frame: u16,
}

impl Stage {
    fn new(receivers: usize, run: usize) -> Self {
        let mut world = World::new(receivers + 1);
        (0..=receivers).for_each(|n| world.join(&format!("p{n}")));
        world.connect();
        let endpoint = world.clients[0].id.clone();
        let name = SourceName::of(&endpoint, MediaKind::Video, 0);
        let source = |ssrc| Source {
            ssrc: Ssrc(ssrc),
            kind: MediaKind::Video,
            name: name.clone(),
            msid: Some("m".into()),
            video_type: VideoType::Camera,
        };
        let ssrcs = vec![Ssrc(CAMERA), Ssrc(RTX)];
        let group = SourceGroup { semantics: GroupSemantics::Fid, kind: MediaKind::Video, ssrcs };
        let sources = SourceSet { sources: vec![source(CAMERA), source(RTX)], groups: vec![group] };
        world.request(BridgeRequest::SetSources { endpoint, sources });
        let mut stage = Self { world, run, receivers, sequence: 0, frame: 0 };
        stage.warm_up();
        stage
    }

    /// Decides who gets the camera, and lets so much time pass that receivers that never answer count as such: until then their paths are
    /// not trusted.
    fn warm_up(&mut self) {
        let mut gone = Gone::default();
        for _ in 0..10 {
            self.world.now += Duration::from_millis(20);
            self.world.worker.on_timeout(self.world.now, &mut gone);
        }
        for _ in 0..WARM_UP_TURNS {
            let from = self.world.clients[0].address;
            let mut frames = vec![self.frame()];
            turns_of(&mut self.world, from, &mut frames, &mut gone);
        }
    }

    /// So many turns of one frame each. Returns the thread's time and what was sent; all was, or this panics.
    fn round(&mut self, turns: usize) -> (Duration, Gone) {
        let frames: Vec<Vec<Vec<u8>>> = (0..turns).map(|_| self.frame()).collect();
        let (from, mut frames, mut gone) = (self.world.clients[0].address, frames, Gone::default());
        let before = thread_time();
        work(&mut self.world, from, &mut frames, &mut gone);
        let took = thread_time().saturating_sub(before);
        let least = turns * self.run * self.receivers;
        assert!(gone.datagrams >= least, "{} datagrams of {least} were sent", gone.datagrams);
        (took, gone)
    }

    /// A frame whose arrivals are noted, and the time until the next.
    fn answered_turn(&mut self, answering: &mut Answering) {
        let (from, mut frames) = (self.world.clients[0].address, self.frame());
        for packet in &mut frames {
            self.world.worker.handle_datagram(self.world.now, bridge(), from, packet, answering);
        }
        self.world.worker.finish_turn(self.world.now, answering);
        for _ in 0..33 {
            self.world.now += Duration::from_millis(1);
            answering.now = self.world.now;
            self.world.worker.on_timeout(self.world.now, answering); // what the pacer kept
        }
    }

    /// The next frame, sealed by its sender. VP8 with a picture id; every hundredth is a key frame.
    fn frame(&mut self) -> Vec<Vec<u8>> {
        self.frame = self.frame % 0x7fff + 1;
        let number = self.frame.to_be_bytes();
        let delta = u8::from(self.frame % 100 != 1);
        let packets = (0..self.run).map(|place| {
            self.sequence = self.sequence.wrapping_add(1);
            let start = if place == 0 { 0x90 } else { 0x80 };
            let mut payload = vec![start, 0xf0, 0x80 | number[0], number[1], number[1], 0, delta, 0, 0];
            payload.extend([0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
            payload.resize(PAYLOAD_LEN, 0x55);
            let marker = if place + 1 == self.run { 0x80 } else { 0 };
            self.world.sealed(CAMERA, marker | 100, self.sequence, u32::from(self.frame) * 3_000, &payload)
        });
        packets.collect()
    }
}

/// What is measured: nothing else is, so it is not to be inlined.
#[inline(never)]
fn work(world: &mut World, from: SocketAddr, frames: &mut [Vec<Vec<u8>>], gone: &mut Gone) {
    turns_of(world, from, frames, gone);
}

/// One turn for each frame.
fn turns_of(world: &mut World, from: SocketAddr, frames: &mut [Vec<Vec<u8>>], gone: &mut Gone) {
    for frame in frames {
        world.now += Duration::from_millis(33);
        for packet in frame {
            world.worker.handle_datagram(world.now, bridge(), from, packet, gone);
        }
        world.worker.finish_turn(world.now, gone);
    }
}

/// Counts, and does nothing else.
#[derive(Default)]
struct Gone {
    datagrams: usize,
    messages: usize,
}

impl Flush for Gone {
    fn flush(&mut self, batch: &Batch) {
        for run in batch.runs() {
            self.datagrams += run.segments();
            self.messages += 1;
        }
    }
}

/// What this thread has run, to a few milliseconds.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
