//! What a packet costs that crosses to another worker: a camera on one, some receivers on the other, real keys, nothing
//! behind the batches.
//!
//! `cargo run --release -p tertulia-media --example copies` prints nanoseconds of the thread for each packet that comes
//! in.

#![allow(clippy::unwrap_used)] // a measurement may end where it is surprised

#[path = "../tests/world/pair.rs"]
mod pair;
#[path = "../tests/world/mod.rs"]
mod world;

use std::time::Duration;

use pair::Pair;
use tertulia_media::ring::ring;
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_model::{BridgeRequest, MediaKind, Source, SourceName, SourceSet, Ssrc, VideoType};
use world::{World, bridge};

const CAMERA: u32 = 1;
/// Bytes of one packet's payload: with headers and trailer about 1200, what browsers fill.
const PAYLOAD_LEN: usize = 1_140;
/// Packets of a turn, turns of a round, rounds of which the median is shown.
const RUN: u16 = 8;
const TURNS: usize = 1_500;
const ROUNDS: usize = 7;

fn main() {
    println!("a packet of 1200 bytes into the ring and out of it: {} ns", through_the_ring());
    for receivers in [0, 1, 10, 100] {
        let (home, other) = measure(receivers);
        println!("{receivers:3} receivers on the other worker: {home} ns on the sender's, {other} ns there");
    }
}

fn through_the_ring() -> u128 {
    let (mut producer, mut consumer) = ring();
    let (packet, mut buffer) = ([7; 1_200], [0; 2_048]);
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = thread_time();
            for _ in 0..10_000 {
                (0..RUN).for_each(|_| assert!(producer.push(&packet)));
                (0..RUN).for_each(|_| assert_eq!(consumer.pop(&mut buffer), Some(1_200)));
            }
            (thread_time() - start).as_nanos() / (10_000 * u128::from(RUN))
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

/// Nanoseconds for each packet that comes in, on the worker of its sender and on the other.
fn measure(receivers: usize) -> (u128, u128) {
    let mut worlds = [World::new(2), World::at(1, receivers + 1)];
    worlds[0].join("camera");
    (0..receivers).for_each(|n| worlds[1].join(&format!("r{n}")));
    worlds.iter_mut().for_each(World::connect);
    let mut pair = Pair::of(worlds);
    let endpoint = pair.worlds[0].clients[0].id.clone();
    let (kind, name) = (MediaKind::Video, SourceName::of(&endpoint, MediaKind::Video, 0));
    let source = Source { ssrc: Ssrc(CAMERA), kind, name, msid: Some("m".into()), video_type: VideoType::Camera };
    let sources = SourceSet { sources: vec![source], groups: vec![] };
    pair.worlds[0].request(BridgeRequest::SetSources { endpoint, sources });
    (0..10).for_each(|_| pair.pass(Duration::from_millis(20), &mut Gone::default()));
    let mut sequence = 0;
    let mut rounds: Vec<(u128, u128)> = (0..ROUNDS).map(|_| round(&mut pair, &mut sequence, receivers)).collect();
    let mut median = |of: fn(&(u128, u128)) -> u128| {
        rounds.sort_by_key(of);
        of(&rounds[ROUNDS / 2])
    };
    (median(|round| round.0), median(|round| round.1))
}

fn round(pair: &mut Pair, sequence: &mut u16, receivers: usize) -> (u128, u128) {
    let (mut home_took, mut other_took, mut sent) = (Duration::ZERO, Duration::ZERO, Gone::default());
    for _ in 0..TURNS {
        // Endpoints' own timers rest: nobody answers checks here.
        pair.worlds.iter_mut().for_each(|world| world.now += Duration::from_millis(33));
        pair.exchange(&mut Gone::default());
        let mut frame: Vec<Vec<u8>> = (0..RUN).map(|place| packet(&mut pair.worlds[0], sequence, place)).collect();
        let [home, other] = &mut pair.worlds;
        let (now, from, start) = (home.now, home.clients[0].address, thread_time());
        frame.iter_mut().for_each(|packet| home.worker.handle_datagram(now, bridge(), from, packet, &mut sent));
        home.worker.finish_turn(now, &mut sent);
        let crossed = thread_time();
        other.worker.handle_copies(now, &mut sent);
        other.worker.finish_turn(now, &mut sent);
        (home_took, other_took) = (home_took + (crossed - start), other_took + (thread_time() - crossed));
    }
    let packets = TURNS * usize::from(RUN);
    assert!(sent.0 >= packets * receivers * 9 / 10, "{} datagrams for {packets} packets", sent.0);
    (home_took.as_nanos() / packets as u128, other_took.as_nanos() / packets as u128)
}

/// The next packet, sealed by its sender. VP8 with a picture id; every hundredth frame is a key frame.
fn packet(world: &mut World, sequence: &mut u16, place: u16) -> Vec<u8> {
    let frame = *sequence / RUN % 0x7fff + 1;
    let (number, delta) = (frame.to_be_bytes(), u8::from(frame % 100 != 1));
    let start = if place == 0 { 0x90 } else { 0x80 };
    let mut payload = vec![start, 0xf0, 0x80 | number[0], number[1], number[1], 0, delta, 0, 0];
    payload.extend([0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
    payload.resize(PAYLOAD_LEN, 0x55);
    let marker = if place + 1 == RUN { 0x80 } else { 0 };
    let sealed = world.sealed(CAMERA, marker | 100, *sequence, u32::from(frame) * 3_000, &payload);
    *sequence = sequence.wrapping_add(1);
    sealed
}

/// What this thread has run.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// Counts, and does nothing else.
#[derive(Default)]
struct Gone(usize);

impl Flush for Gone {
    fn flush(&mut self, batch: &Batch) {
        self.0 += batch.iter().count();
    }
}
