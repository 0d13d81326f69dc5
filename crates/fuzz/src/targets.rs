//! The targets and what each promises.

mod meeting;
mod secure;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tertulia_conference::{Conference, Domains, Input, Settings};
use tertulia_media::identity::{Identity, ice_credentials};
use tertulia_media::registry::Registry;
use tertulia_media::tcp::{FRAME_MAX, Unframer};
use tertulia_media::transport::{Dcep, Role, Transport, Wire, username_of};
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_media::worker::{self, Command, Worker};
use tertulia_model::profile::Codec;
use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, ConferenceId, DtlsSetup, EndpointId, EventSink, RemoteTransport,
};
use tertulia_rtp::codec::dependency::{Head, Structure};
use tertulia_rtp::codec::{self, FrameInfo, Inspector, Layer};
use tertulia_rtp::rtcp::{Compound, Rtcp};
use tertulia_rtp::transport_cc::{self, Recorder};
use tertulia_rtp::{Packet, packet, red};
use tertulia_xmpp::jingle::offer::ReceivedOffer;
use tertulia_xmpp::{BareJid, FullJid};

pub use meeting::{channel, encodings_seen, retransmission, sfu};
pub use secure::{sctp, srtp};

/// A named target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Target] = &[
    ("stanza", stanza),
    ("jingle", jingle),
    ("room", room),
    ("rtp", rtp),
    ("rtcp", rtcp),
    ("vp8", vp8),
    ("vp9", vp9),
    ("h264", h264),
    ("av1", av1),
    ("dependency", dependency),
    ("red", redundant),
    ("rtx", retransmission),
    ("feedback", feedback),
    ("transport-cc", recorder),
    ("channel", channel),
    ("sfu", sfu),
    ("stun-user", stun_user),
    ("srtp", srtp),
    ("sctp", sctp),
    ("frames", frames),
    ("dcep", dcep),
    ("datagram", datagram),
];

const FULL: Capabilities = Capabilities::USUAL;

/// What is parsed is written and read back the same.
pub fn stanza(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(element) = tertulia_xmpp::parse(text) else { return };
    let written = element.to_string();
    assert_eq!(tertulia_xmpp::parse(&written).as_ref(), Ok(&element), "{written}");
    let mut broadcast = String::new();
    element.write_broadcast().for_recipient("a@b/c", &mut broadcast);
    if element.ns() == tertulia_xmpp::ns::CLIENT {
        assert!(tertulia_xmpp::parse(&broadcast).is_ok(), "{broadcast}");
    }
}

/// Offers, answers and sources of any shape are read or refused; sources that are read survive both forms.
pub fn jingle(input: &[u8]) {
    let Some(element) = std::str::from_utf8(input).ok().and_then(|text| tertulia_xmpp::parse(text).ok()) else {
        return;
    };
    let own = EndpointId::parse("aaaa0001").unwrap();
    let _ = tertulia_xmpp::jingle::transport(&element);
    let _ = ReceivedOffer::parse(&element);
    if let Ok(all) = tertulia_xmpp::sources::from_focus(&element) {
        let json = tertulia_xmpp::sources::to_json(&all);
        assert!(json.starts_with('{'));
    }
    if let Ok(set) = tertulia_xmpp::sources::from_client(&element, &own) {
        let _ = tertulia_xmpp::sources::strip_simulcast(&set);
    }
}

/// A room takes any stanza of a stranger, an occupant, or two.
pub fn room(input: &[u8]) {
    let Some(stanza) = std::str::from_utf8(input).ok().and_then(|text| tertulia_xmpp::parse(text).ok()) else { return };
    let settings = Settings { domains: Domains::of("d"), occupants_max: 5, opus_red: false, version: "f".into() };
    let (now, mut out) = (Instant::now(), Vec::new());
    let name = BareJid::new("r@muc.d").unwrap();
    let mut room = Conference::new(now, SystemTime::UNIX_EPOCH, name, Arc::new(settings), [1; 32], &mut out);
    let join =
        |nick: &str| format!("<presence to='r@muc.d/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>");
    for nick in ["aaaa0001", "bbbb0002"] {
        let from = FullJid::new(&format!("{nick}@d/r")).unwrap();
        let origin: Arc<str> = "ws://d".into();
        let joins = tertulia_xmpp::parse(&join(nick)).unwrap();
        room.handle(now, Input::Stanza { from: from.clone(), stanza: joins, origin: origin.clone() }, &mut out);
        room.handle(now, Input::Stanza { from, stanza: stanza.clone(), origin }, &mut out);
    }
    room.on_timeout(now + Duration::from_secs(60), &mut out);
    for nick in ["aaaa0001", "bbbb0002"] {
        room.handle(now, Input::Gone { from: FullJid::new(&format!("{nick}@d/r")).unwrap() }, &mut out);
    }
    assert_eq!(
        room.next_timeout().map(|_| room.occupant_count()),
        None,
        "a room that everybody left waits for nothing"
    );
}

/// Views stay inside the packet; what is written anew reads the same.
pub fn rtp(input: &[u8]) {
    let Some(view) = Packet::parse(input) else { return };
    assert_eq!(view.header_len() + view.payload().len() + view.padding_len(), input.len());
    let extensions: Vec<(u8, &[u8])> = view.extensions().filter(|(id, _)| (1..15).contains(id)).take(8).collect();
    let mut buffer = [0u8; 4_096];
    let len = packet::write_header(&mut buffer, view.header, &extensions);
    if len > 0 {
        let again = Packet::parse(&buffer[..len]).unwrap();
        assert_eq!(again.header, view.header);
        assert_eq!(again.extensions().collect::<Vec<_>>(), extensions);
    }
}

/// Compounds end; their lists are finite.
pub fn rtcp(input: &[u8]) {
    let mut parts = 0;
    for part in Compound::new(input) {
        parts += 1;
        match part {
            Rtcp::SenderReport { blocks, .. } | Rtcp::ReceiverReport { blocks, .. } => assert!(blocks.count() <= 31),
            Rtcp::Nack { losses, .. } => assert!(losses.sequences().count() <= input.len() * 5),
            Rtcp::TransportCc { feedback } => {
                let _ = transport_cc::read(feedback, |_, _| {});
            }
            Rtcp::ReceiverEstimate { ssrcs, .. } => assert!(ssrcs.len() <= 4 * 255),
            Rtcp::PictureLossIndication { .. } | Rtcp::FullIntraRequest { .. } | Rtcp::Other { .. } => {}
        }
    }
    assert!(parts <= input.len() / 4);
}

/// What is known of a packet holds together, whatever came before it.
fn inspected(
    inspector: &mut Inspector,
    codec: Codec,
    number: u64,
    payload: &[u8],
    descriptor: Option<&[u8]>,
) -> FrameInfo {
    let marker = payload.len().is_multiple_of(2);
    let info = inspector.inspect(codec, number, payload, marker, descriptor);
    assert!(!info.starts_keyframe || info.starts_frame, "a key frame starts a frame");
    for (from, to) in
        [(None, Layer::HIGHEST), (Some(Layer::LOWEST), Layer::HIGHEST), (Some(Layer::HIGHEST), Layer::LOWEST)]
    {
        let step = info.towards(from, to);
        assert!(step == from || step.is_some_and(|step| info.allows(from, step)), "only steps that are allowed");
    }
    let mut moved = payload.to_vec();
    info.places.shift(&mut moved, 1, 1);
    info.places.shift(&mut moved, u16::MAX, u8::MAX);
    assert_eq!(moved, payload, "forth and back");
    let layers: Vec<_> = inspector.layers().map(|declared| declared.layer).collect();
    assert!(layers.is_sorted_by(|one, other| one < other), "{layers:?}");
    info
}

/// Packets of a stream, each after a byte that says how long it is: the inspector stays sound, and what may be encrypted end to end changes
/// nothing.
fn stream(codec: Codec, mut input: &[u8]) {
    let (mut inspector, mut blind) = (Inspector::default(), Inspector::default());
    let mut number = 0;
    while let Some((len, rest)) = input.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        // Now and then one is missing.
        number += 1 + u64::from(payload.len() % 8 == 7);
        let info = inspected(&mut inspector, codec, number, payload, None);
        assert_eq!(inspected(&mut blind, codec, number, &veiled(codec, payload), None), info);
        input = rest;
    }
}

/// A payload with other bytes behind what RTP says of it.
fn veiled(codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mut clear: Vec<usize> = match codec {
        // Clients leave the first ten bytes of a frame as they are.
        Codec::Vp8 => (0..codec::vp8::Descriptor::parse(payload).map_or(payload.len(), |own| own.len + 10)).collect(),
        Codec::Vp9 => (0..codec::vp9::Descriptor::parse(payload).map_or(payload.len(), |own| own.len)).collect(),
        _ => vec![0],
    };
    match payload.first().map(|first| first & 0x1f) {
        Some(24) if codec == Codec::H264 => {
            let mut at = 1;
            while let Some(&[high, low]) = payload.get(at..at + 2) {
                clear.extend([at, at + 1, at + 2]);
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
        Some(28) if codec == Codec::H264 => clear.push(1),
        _ => {}
    }
    payload.iter().enumerate().map(|(at, byte)| byte ^ if clear.contains(&at) { 0 } else { 0xa5 }).collect()
}

/// VP8's descriptor; its ids move inside the payload and nothing else does.
pub fn vp8(input: &[u8]) {
    stream(Codec::Vp8, input);
    if let Some(found) = codec::vp8::Descriptor::parse(input) {
        let mut copy = input.to_vec();
        found.places().shift(&mut copy, 1, 1);
        let moved = codec::vp8::Descriptor::parse(&copy).unwrap();
        assert_eq!((moved.len, moved.temporal_id), (found.len, found.temporal_id));
        assert_eq!(moved.tl0_pic_idx, found.tl0_pic_idx.map(|(value, at)| (value.wrapping_add(1), at)));
        assert_eq!(copy[found.len..], input[found.len..]);
    }
}

/// VP9's descriptor and structure, likewise.
pub fn vp9(input: &[u8]) {
    stream(Codec::Vp9, input);
    if let Some(found) = codec::vp9::Descriptor::parse(input) {
        let mut copy = input.to_vec();
        found.places().shift(&mut copy, 1, 1);
        let moved = codec::vp9::Descriptor::parse(&copy).unwrap();
        assert_eq!((moved.len, moved.layer, moved.structure), (found.len, found.layer, found.structure));
        assert_eq!(copy[found.len..], input[found.len..]);
    }
}

/// H.264's unit headers.
pub fn h264(input: &[u8]) {
    stream(Codec::H264, input);
}

/// AV1's aggregation header and dependency descriptors: payloads and descriptors by turns, each after a byte that says how long it is. What
/// waits for its structure tells nothing but its number, and what brings one says so at its head.
pub fn av1(mut input: &[u8]) {
    let (mut inspector, mut number) = (Inspector::default(), 0);
    let mut part = || {
        let (len, rest) = input.split_first()?;
        let part;
        (part, input) = rest.split_at(rest.len().min(usize::from(*len)));
        Some(part)
    };
    while let Some(payload) = part() {
        let descriptor = part().filter(|descriptor| !descriptor.is_empty());
        number += 1;
        let info = inspected(&mut inspector, Codec::Av1, number, payload, descriptor);
        let head = descriptor.and_then(Head::parse);
        assert_eq!(info.frame_number, head.map(|head| head.frame_number));
        if info.needs_structure {
            assert!(info.templates.is_none() && head.is_some_and(|head| !head.has_structure));
        }
        if info.templates.is_some() {
            assert!(head.is_some_and(|head| head.has_structure && head.start_of_frame == info.starts_frame));
        }
    }
}

/// Dependency descriptors, each after a byte that says how long it is, as one stream; and each moved: it reads the same
/// but for the numbers.
pub fn dependency(mut input: &[u8]) {
    let (mut inspector, mut known) = (Inspector::default(), None);
    while let Some((len, rest)) = input.split_first() {
        let (descriptor, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        input = rest;
        inspected(&mut inspector, Codec::Av1, 0, &[0x10, 0], Some(descriptor));
        known = Structure::parse(descriptor).or(known);
        let mut copy = descriptor.to_vec();
        codec::dependency::shift(&mut copy, 1_000, 60);
        let Some((structure, found)) =
            known.as_ref().and_then(|own| Some((own, codec::dependency::parse(descriptor, own)?)))
        else {
            continue;
        };
        if found.head.has_structure {
            let moved_structure = Structure::parse(&copy).unwrap();
            assert_eq!(moved_structure.template_id_offset(), (structure.template_id_offset() + 60) % 64);
            let moved = codec::dependency::parse(&copy, &moved_structure).unwrap();
            assert_eq!(moved.head.frame_number, found.head.frame_number.wrapping_add(1_000));
            assert_eq!((moved.layer, moved.indications), (found.layer, found.indications));
            assert_eq!((moved.references, moved.active_targets), (found.references, found.active_targets));
        }
        codec::dependency::shift(&mut copy, 1_000u16.wrapping_neg(), 4);
        assert_eq!(copy, descriptor, "forth and back");
    }
}

/// A primary block lies inside its payload.
pub fn redundant(input: &[u8]) {
    if let Some((payload_type, start)) = red::primary(input) {
        assert!(payload_type < 128 && (1..=input.len()).contains(&start));
    }
}

/// Feedback of any bytes: as many packets as it says, in order.
pub fn feedback(input: &[u8]) {
    let mut told = Vec::new();
    if transport_cc::read(input, |sequence, _| told.push(sequence)).is_some() {
        let count = usize::from(u16::from_be_bytes([input[2], input[3]]));
        assert_eq!(told.len(), count);
        assert!(told.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
    }
}

/// Whatever arrives in whatever order, feedback is readable and says of no packet that it came when it did not.
pub fn recorder(input: &[u8]) {
    let mut recorder = Recorder::default();
    let mut came = std::collections::BTreeSet::new();
    for (n, pair) in input.chunks_exact(3).enumerate() {
        let sequence = u16::from_be_bytes([pair[0] & 3, pair[1]]);
        recorder.record(sequence, Duration::from_micros(n as u64 * u64::from(pair[2]) * 400));
        came.insert(sequence);
    }
    let mut buffer = [0u8; 1024];
    loop {
        let len = recorder.write(&mut buffer);
        if len == 0 {
            return;
        }
        transport_cc::read(&buffer[..len], |sequence, at| assert!(at.is_none() || came.contains(&sequence))).unwrap();
    }
}

/// The walk over a check's attributes ends inside it.
pub fn stun_user(input: &[u8]) {
    if let Some(user) = username_of(input) {
        assert!(user.len() <= input.len());
    }
}

/// A stream taken apart byte for byte or at once gives the same frames, and what is given back is what was written.
pub fn frames(input: &[u8]) {
    let take = |step: usize| {
        let (mut unframer, mut frames, mut whole) = (Unframer::default(), Vec::new(), true);
        let mut rest = input;
        while whole && !rest.is_empty() {
            let room = unframer.room();
            let len = step.min(rest.len()).min(room.len());
            room[..len].copy_from_slice(&rest[..len]);
            unframer.advance(len);
            rest = &rest[len..];
            whole = loop {
                match unframer.next_frame() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
        }
        frames
    };
    let frames = take(usize::MAX);
    assert_eq!(frames, take(1));
    assert!(frames.iter().all(|frame| !frame.is_empty() && frame.len() <= FRAME_MAX));
    let written = frames.iter().map(|frame| frame.len() + 2).sum::<usize>();
    assert!(written <= input.len());
}

/// What is parsed is written and read back the same.
pub fn dcep(input: &[u8]) {
    if let Some(message) = Dcep::parse(input) {
        assert_eq!(Dcep::parse(&message.write()), Some(message));
    }
}

/// A worker with a connected client takes any datagrams from it and from strangers, and the client stays connected: its checks are answered.
pub fn datagram(input: &[u8]) {
    thread_local!(static WORLD: RefCell<World> = RefCell::new(World::connected()));
    WORLD.with_borrow_mut(|world| {
        for (n, bytes) in input.chunks(120).enumerate() {
            let stranger = SocketAddr::from(([10, 9, 9, 9], 9));
            let from = if n % 2 == 0 { world.client_at } else { stranger };
            let mut copy = bytes.to_vec();
            world.now += Duration::from_millis(1);
            world.worker.handle_datagram(world.now, world.bridge_at, from, &mut copy, &mut Nowhere);
            world.worker.finish_turn(world.now, &mut Nowhere);
        }
        let (mut post, mut check) = (Post::default(), world.check.clone());
        world.worker.handle_datagram(world.now, world.bridge_at, world.client_at, &mut check, &mut post);
        world.worker.finish_turn(world.now, &mut post);
        assert!(post.0.iter().any(|(_, to, bytes)| *to == world.client_at && bytes[..2] == BINDING_SUCCESS));
        assert_eq!(world.worker.held().endpoints, 1, "the endpoint is still there");
        assert_eq!(world.worker.counters().panics, 0);
    });
}

struct Nowhere;

impl Flush for Nowhere {
    fn flush(&mut self, _: &Batch) {}
}

/// RFC 8489 §5: the types of a request and of the answer to it.
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];

/// A worker and a client that has connected to it.
struct World {
    now: Instant,
    worker: Worker,
    bridge_at: SocketAddr,
    client_at: SocketAddr,
    /// The client's last.
    check: Vec<u8>,
}

#[derive(Default)]
struct Post(Vec<(SocketAddr, SocketAddr, Vec<u8>)>);

impl Flush for Post {
    fn flush(&mut self, batch: &Batch) {
        self.0.extend(batch.iter().map(|(entry, bytes)| (entry.local, entry.remote, bytes.to_vec())));
    }
}

impl Wire for Post {
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.0.push((local, remote, bytes.to_vec()));
    }
}

#[derive(Default)]
struct Told(std::sync::Mutex<Vec<BridgeEvent>>);

impl EventSink for Told {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl World {
    fn connected() -> Self {
        let (bridge_at, client_at) =
            (SocketAddr::from(([10, 0, 0, 1], 10_000)), SocketAddr::from(([10, 0, 0, 2], 5_000)));
        let (identity, own) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let settings =
            worker::Settings { locals: vec![bridge_at], bridge: "b".into(), endpoints_max: 10, ..Default::default() };
        let mut worker = Worker::new(settings, identity.clone(), Arc::new(Registry::default()));
        let told = Arc::new(Told::default());
        let (mut now, conference) = (Instant::now(), ConferenceId(7));
        let endpoint = EndpointId::parse("ana").unwrap();
        let ice = ice_credentials();
        let events: Arc<dyn EventSink> = Arc::clone(&told) as Arc<dyn EventSink>;
        worker.handle_command(now, Command::Open { conference, events }, &mut Nowhere);
        let allocate = BridgeRequest::Allocate { endpoint: endpoint.clone(), capabilities: FULL };
        worker.handle_command(now, Command::Request { conference, request: allocate }, &mut Nowhere);
        let BridgeEvent::Allocated { transport, .. } = told.0.lock().unwrap()[0].clone() else { panic!() };
        let mut client = Transport::new(now, Role::Client, &own, ice.clone(), &[client_at]);
        let (mut post, mut events) = (Post::default(), Vec::new());
        let print = identity.fingerprint(DtlsSetup::Passive);
        client.set_remote(now, &transport.ice, Some(print), None, &mut post, &mut events);
        client.add_remote_address(now, bridge_at, &mut post, &mut events);
        let remote =
            RemoteTransport { ice, fingerprint: Some(own.fingerprint(DtlsSetup::Active)), ice_generation: None };
        let request = BridgeRequest::SetTransport { endpoint, transport: remote };
        worker.handle_command(now, Command::Request { conference, request }, &mut post);
        let mut check = Vec::new();
        // Long enough that checks are answered without a turn of the agent.
        for _ in 0..600 {
            now += Duration::from_millis(10);
            worker.on_timeout(now, &mut post);
            client.on_timeout(now, &mut post, &mut events);
            for (from, to, mut bytes) in std::mem::take(&mut post.0) {
                if to == bridge_at {
                    if bytes[..2] == BINDING_REQUEST {
                        check.clone_from(&bytes);
                    }
                    worker.handle_datagram(now, to, from, &mut bytes, &mut post);
                } else if bytes[0] <= 3 {
                    client.handle_stun(now, to, from, &bytes, &mut post, &mut events);
                } else if bytes[0] < 128 {
                    client.handle_dtls(now, &bytes, &mut post, &mut events);
                }
            }
        }
        assert!(client.is_connected());
        Self { now, worker, bridge_at, client_at, check }
    }
}
