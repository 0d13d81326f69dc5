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
use tertulia_rtp::Packet;
use tertulia_rtp::rtcp::{ReportBlock, SenderInfo, Writer};
use tertulia_rtp::transport_cc::Recorder;
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

/// Takes datagrams, and remembers the transport-wide numbers that went to each address.
#[derive(Default)]
struct Gone {
    count: usize,
    numbers: Vec<(SocketAddr, Vec<u16>)>,
}

impl Gone {
    fn to(worlds: &[&World]) -> Self {
        let clients = worlds.iter().flat_map(|world| &world.clients);
        Self { count: 0, numbers: clients.map(|client| (client.address, Vec::with_capacity(1_000))).collect() }
    }
}

impl Flush for Gone {
    fn flush(&mut self, batch: &Batch) {
        for (entry, bytes) in batch.iter() {
            self.count += 1;
            let Some(number) = Packet::parse(bytes).and_then(|packet| packet.extension(5)?.try_into().ok()) else {
                continue;
            };
            let to = self.numbers.iter_mut().find(|(address, _)| *address == entry.remote);
            to.unwrap().1.push(u16::from_be_bytes(number));
        }
    }
}

/// What a client says in one compound.
fn sealed(world: &mut World, client: usize, writer: &Writer) -> Vec<u8> {
    let mut packet = writer.bytes().to_vec();
    let len = packet.len();
    packet.resize(len + 64, 0);
    let (len, ..) = world.clients[client].transport.seal_rtcp(&mut packet, len).unwrap();
    packet.truncate(len);
    packet
}

/// What a receiver says after a frame: which of these transport-wide numbers came, and from time to time that packets are lost, how the stream
/// is received, that the picture is.
fn said(frame: u16, recorder: &mut Recorder, came: &mut Vec<u16>) -> Writer {
    let mut writer = Writer::default();
    let at = Duration::from_millis(u64::from(frame) * 33);
    came.drain(..).for_each(|number| recorder.record(number, at));
    let mut feedback = [0; 1024];
    let len = recorder.write(&mut feedback);
    if len > 0 {
        writer.transport_cc(1, 1, &feedback[..len]);
    }
    if frame.is_multiple_of(10) {
        writer.receiver_report(
            1,
            &[ReportBlock {
                ssrc: 1,
                fraction_lost: 3,
                lost: 1,
                highest_sequence: frame.into(),
                jitter: 90,
                last_sr: (u32::from(frame) / 30 * 30) << 8,
                delay_since_last_sr: 300,
            }],
        );
        writer.nack(1, 1, [frame, frame.wrapping_sub(3)].into_iter());
        writer.receiver_estimate(1, 2_000_000, &[1]);
    }
    if frame.is_multiple_of(50) {
        writer.picture_loss(1, 1);
    }
    writer
}

/// What all of a world's receivers say, and from where.
fn replies(frame: u16, world: &mut World, recorders: &mut [Recorder], sent: &mut Gone) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut replies = Vec::new();
    for (client, recorder) in recorders.iter_mut().enumerate() {
        let address = world.clients[client].address;
        let (_, came) = sent.numbers.iter_mut().find(|(to, _)| *to == address).unwrap();
        let writer = said(frame, recorder, came);
        if !writer.is_empty() {
            replies.push((address, sealed(world, client, &writer)));
        }
    }
    replies
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

/// Ten seconds of pictures in three encodings, of sound and of reports, frame by frame, made before anything is counted.
fn script(world: &mut World) -> Vec<Vec<Vec<u8>>> {
    let frame = |frame: u16| {
        let mut packets: Vec<Vec<u8>> =
            (1..=3).map(|ssrc| world.sealed(ssrc, 100, frame, u32::from(frame) * 3_000, &picture(frame))).collect();
        packets.push(world.sealed(50, 111, frame, u32::from(frame) * 960, &[0x33; 80]));
        if frame.is_multiple_of(30) {
            let mut report = Writer::default();
            let (ntp, rtp_timestamp) = (u64::from(frame) << 24, u32::from(frame) * 3_000);
            report.sender_report(SenderInfo { ssrc: 1, ntp, rtp_timestamp, packets: 30, octets: 27_000 });
            packets.push(sealed(world, 0, &report));
        }
        packets
    };
    (1..=300).map(frame).collect()
}

/// When a frame of the script is sent.
fn time_of(frame: usize) -> Duration {
    Duration::from_millis(33 * frame as u64)
}

#[test]
fn a_packet_is_forwarded_without_an_allocation() {
    let mut world = World::new(10);
    for name in ["pub", "r1", "r2", "r3", "r4"] {
        world.join(name);
    }
    world.connect();
    let (publisher, from) = (world.clients[0].id.clone(), world.clients[0].address);
    world.request(BridgeRequest::SetSources { endpoint: publisher.clone(), sources: sources(&publisher) });
    let (script, start) = (script(&mut world), world.now);
    let half = script.len() / 2;
    let mut recorders: Vec<Recorder> = world.clients.iter().map(|_| Recorder::default()).collect();
    let mut sent = Gone::to(&[&world]);
    let (mut count, mut counted_from) = (0, 0);
    for (frame, mut packets) in script.into_iter().enumerate() {
        let now = start + time_of(frame);
        let said = replies(frame as u16, &mut world, &mut recorders, &mut sent);
        world.worker.on_timeout(now, &mut sent);
        let all = packets.iter_mut().map(|bytes| (from, &mut bytes[..]));
        let mut said = said;
        for (from, bytes) in all.chain(said.iter_mut().map(|(from, bytes)| (*from, &mut bytes[..]))) {
            let here = allocations(|| {
                world.worker.handle_datagram(now, bridge(), from, bytes, &mut sent);
                world.worker.finish_turn(now, &mut sent);
            });
            count += if frame > half { here } else { 0 };
        }
        if frame == half {
            counted_from = sent.count;
        }
    }
    let forwarded = sent.count - counted_from;
    assert!(forwarded > 140 * 2 * RECEIVERS, "{forwarded} datagrams");
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
    let (publisher, from) = (pair.worlds[0].clients[0].id.clone(), pair.worlds[0].clients[0].address);
    pair.worlds[0].request(BridgeRequest::SetSources { endpoint: publisher.clone(), sources: sources(&publisher) });
    let script = script(&mut pair.worlds[0]);
    let mut recorders =
        pair.worlds.each_ref().map(|world| world.clients.iter().map(|_| Recorder::default()).collect::<Vec<_>>());
    let mut sent = Gone::to(&pair.worlds.each_ref());
    (0..10).for_each(|_| pair.pass(Duration::from_millis(20), &mut sent));
    let (start, half) = (pair.worlds[0].now, script.len() / 2);
    let (mut count, mut counted_from) = (0, 0);
    for (frame, mut packets) in script.into_iter().enumerate() {
        let now = start + time_of(frame);
        pair.pass(now - pair.worlds[0].now, &mut sent);
        for bytes in &mut packets {
            let [home, other] = &mut pair.worlds;
            let here = allocations(|| home.worker.handle_datagram(now, bridge(), from, bytes, &mut sent))
                + allocations(|| home.worker.finish_turn(now, &mut sent));
            let before = sent.count;
            let there = allocations(|| {
                assert!(!other.worker.handle_copies(now, &mut sent), "one packet fits into a turn");
                other.worker.finish_turn(now, &mut sent);
            });
            if frame > half {
                count += here + there;
                counted_from += sent.count - before;
            }
        }
        for (world, recorders) in pair.worlds.iter_mut().zip(&mut recorders) {
            for (from, mut bytes) in replies(frame as u16, world, recorders, &mut sent) {
                let here = allocations(|| {
                    world.worker.handle_datagram(now, bridge(), from, &mut bytes, &mut sent);
                    world.worker.finish_turn(now, &mut sent);
                });
                count += if frame > half { here } else { 0 };
            }
        }
    }
    let copied = pair.worlds[0].worker.counters().copied;
    assert!(copied > 540 && counted_from > 140 * 2 * 3, "{copied} copies, {counted_from} datagrams");
    assert_eq!(count, 0, "allocations for {counted_from} datagrams of the other worker");
}
