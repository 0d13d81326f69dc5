//! Handling a datagram allocates nothing: a counting allocator around a worker whose caches and buffers are warm.
//!
//! Timers are not counted: the agent of `is` allocates for each of its checks, one in some seconds for each endpoint.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

#[path = "world/pair.rs"]
mod pair;
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use pair::Pair;
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_model::{
    BridgeRequest, EndpointId, GroupSemantics, MediaKind, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};
use tertulia_rtp::rtcp::Writer;
use world::{World, bridge};

/// Counts what the current thread allocates while it says so.
struct Counting;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    if ARMED.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches only cells of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `run` allocates.
fn allocations(run: impl FnOnce()) -> usize {
    COUNT.set(0);
    ARMED.set(true);
    run();
    ARMED.set(false);
    COUNT.get()
}

const RECEIVERS: usize = 4;

/// Counts datagrams, and does nothing else.
#[derive(Default)]
struct Gone(usize);

impl Flush for Gone {
    fn flush(&mut self, batch: &Batch) {
        self.0 += batch.iter().count();
    }
}

/// What a receiver says about losses.
fn sealed_nack(world: &mut World, client: usize, media_ssrc: u32, lost: u16) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.nack(1, media_ssrc, [lost, lost.wrapping_add(3)].into_iter());
    let mut packet = writer.bytes().to_vec();
    let len = packet.len();
    packet.resize(len + 64, 0);
    let (len, ..) = world.clients[client].transport.seal_rtcp(&mut packet, len).unwrap();
    packet.truncate(len);
    packet
}

/// A camera of three encodings, with retransmissions, and a microphone.
fn sources(id: &EndpointId) -> SourceSet {
    let source = |ssrc, kind, index| Source {
        ssrc: Ssrc(ssrc),
        kind,
        name: SourceName::of(id, kind, index),
        msid: Some("m".into()),
        video_type: VideoType::Camera,
    };
    let group = |semantics, ssrcs: &[u32]| SourceGroup {
        semantics,
        kind: MediaKind::Video,
        ssrcs: ssrcs.iter().map(|ssrc| Ssrc(*ssrc)).collect(),
    };
    let mut all: Vec<Source> = [1, 11, 2, 12, 3, 13].iter().map(|ssrc| source(*ssrc, MediaKind::Video, 0)).collect();
    all.push(source(50, MediaKind::Audio, 0));
    let groups = vec![
        group(GroupSemantics::Sim, &[1, 2, 3]),
        group(GroupSemantics::Fid, &[1, 11]),
        group(GroupSemantics::Fid, &[2, 12]),
        group(GroupSemantics::Fid, &[3, 13]),
    ];
    SourceSet { sources: all, groups }
}

/// VP8 with a picture id; one packet a frame, every hundredth a key frame.
fn picture(number: u16) -> Vec<u8> {
    let delta = u8::from(number % 100 != 1);
    let mut payload = vec![0x90, 0xf0, 0x80 | (number >> 8) as u8 & 0x7f, number as u8, number as u8, 0, delta, 0, 0];
    payload.extend([0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
    payload.resize(900, 0x55);
    payload
}

/// Five seconds of pictures in three encodings and of sound, and some complaints, made before anything is counted.
fn script(world: &mut World) -> Vec<(Duration, SocketAddr, Vec<u8>)> {
    let (from, mut script) = (world.clients[0].address, Vec::new());
    for frame in 1..=150u16 {
        let at = Duration::from_millis(u64::from(frame) * 33);
        for ssrc in 1..=3 {
            let bytes = world.sealed(ssrc, 100, frame, u32::from(frame) * 3_000, &picture(frame));
            script.push((at, from, bytes));
        }
        let bytes = world.sealed(50, 111, frame, u32::from(frame) * 960, &[0x33; 80]);
        script.push((at, from, bytes));
        if frame % 10 == 0 {
            for receiver in 1..world.clients.len() {
                let bytes = sealed_nack(world, receiver, 1, frame);
                script.push((at, world.clients[receiver].address, bytes));
            }
        }
    }
    script
}

#[test]
fn a_packet_is_forwarded_without_an_allocation() {
    let mut world = World::new(10);
    for name in ["pub", "r1", "r2", "r3", "r4"] {
        world.join(name);
    }
    world.connect();
    let publisher = world.clients[0].id.clone();
    world.request(BridgeRequest::SetSources { endpoint: publisher.clone(), sources: sources(&publisher) });
    let mut script = script(&mut world);
    let start = world.now;
    let half = script.len() / 2;
    let mut sent = Gone::default();
    let (mut count, mut counted_from) = (0, 0);
    for (index, (at, from, bytes)) in script.iter_mut().enumerate() {
        let (now, worker) = (start + *at, &mut world.worker);
        worker.on_timeout(now, &mut sent);
        let here = allocations(|| {
            worker.handle_datagram(now, bridge(), *from, bytes, &mut sent);
            worker.finish_turn(now, &mut sent);
        });
        match index.cmp(&half) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => counted_from = sent.0,
            std::cmp::Ordering::Greater => count += here,
        }
    }
    let forwarded = sent.0 - counted_from;
    assert!(forwarded > 70 * 2 * RECEIVERS, "{forwarded} datagrams");
    assert_eq!(count, 0, "allocations for {forwarded} datagrams");
}

#[test]
fn a_packet_crosses_to_another_worker_and_is_forwarded_there_without_an_allocation() {
    let mut worlds = [World::new(10), World::at(1, 10)];
    for (world, names) in worlds.iter_mut().zip([["pub", "r1", "r2"], ["r3", "r4", "r5"]]) {
        names.iter().for_each(|name| world.join(name));
        world.connect();
    }
    let mut pair = Pair::of(worlds);
    let publisher = pair.worlds[0].clients[0].id.clone();
    pair.worlds[0].request(BridgeRequest::SetSources { endpoint: publisher.clone(), sources: sources(&publisher) });
    let mut script = script(&mut pair.worlds[0]);
    let (mut count, mut sent, mut counted_from) = (0, Gone::default(), 0);
    (0..10).for_each(|_| pair.pass(Duration::from_millis(20), &mut sent));
    let (start, half) = (pair.worlds[0].now, script.len() / 2);
    for (index, (at, from, bytes)) in script.iter_mut().enumerate() {
        let now = start + *at;
        pair.pass(now - pair.worlds[0].now, &mut sent);
        let [home, other] = &mut pair.worlds;
        let here = allocations(|| home.worker.handle_datagram(now, bridge(), *from, bytes, &mut sent))
            + allocations(|| home.worker.finish_turn(now, &mut sent));
        let before = sent.0;
        let there = allocations(|| {
            assert!(!other.worker.handle_copies(now, &mut sent), "one packet fits into a turn");
            other.worker.finish_turn(now, &mut sent);
        });
        if index > half {
            count += here + there;
            counted_from += sent.0 - before;
        }
    }
    let copied = pair.worlds[0].worker.counters().copied;
    assert!(copied > 270 && counted_from > 70 * 2 * 3, "{copied} copies, {counted_from} datagrams");
    assert_eq!(count, 0, "allocations for {counted_from} datagrams of the other worker");
}
