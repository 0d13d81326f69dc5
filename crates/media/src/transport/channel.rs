//! The bridge channel inside a transport: SCTP (RFC 9260) of `sctp-proto` over DTLS, and on it one data channel (RFC 8831).
//!
//! One association and one channel count; further ones are refused. Only this module names `sctp-proto`.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event, Payload,
    PayloadProtocolIdentifier, ServerConfig, StreamEvent, TransportConfig,
};

use super::dcep::Dcep;

/// Longest message either way; what clients assume of a bridge.
pub(super) const MESSAGE_MAX: usize = 256 * 1024;
/// Room for one message and what is in flight behind it. Messages are handed over whole, so it bounds what a peer can make us keep.
const RECEIVE_BUFFER: u32 = 512 * 1024;
/// Bytes that may wait for a client; more is dropped until most of it is gone.
const SEND_BUFFER_MAX: usize = 1024 * 1024;
/// Streams of an association; a client needs one, and every stream costs memory.
const STREAMS_MAX: u16 = 16;
/// Keeps a DTLS record with one packet below 1200 bytes.
const PACKET_MAX: u32 = 1_100;
/// Longest wait before something lost is sent again.
const RETRANSMISSION_MAX_MS: u64 = 3_000;
/// What a client says of the channel; a bridge opens none itself.
const LABEL: &str = "JVB data channel";
const PROTOCOL: &str = "http://jitsi.org/protocols/colibri";

/// What a channel tells its transport.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is open, or open for sending again after it was full and texts were dropped.
    Open,
    /// A text came.
    Text(String),
    /// The peer wanted another one.
    Refused,
    /// It is closed; the peer may open it anew.
    Closed,
}

/// An association and the channel on it.
pub struct DataChannel {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    /// The stream of the one channel.
    open: Option<u16>,
    packets: VecDeque<Vec<u8>>,
    /// Texts wait to become packets.
    due: Option<Instant>,
    is_full: bool,
    is_over: bool,
}

impl DataChannel {
    /// Whether a packet asks for an association: verification tag 0, and INIT as its first chunk (RFC 9260 §8.5.1).
    pub fn is_asked_for(packet: &[u8]) -> bool {
        const INIT: u8 = 1;
        packet.get(4..8) == Some(&[0; 4]) && packet.get(12) == Some(&INIT)
    }

    /// The side that waits.
    pub fn accept() -> Self {
        let endpoint = Endpoint::new(Arc::clone(&CONFIG.endpoint), Some(Arc::clone(&CONFIG.server)));
        Self {
            endpoint,
            association: None,
            open: None,
            packets: VecDeque::new(),
            due: None,
            is_full: false,
            is_over: false,
        }
    }

    /// The side that asks, as clients do; `None` when the association cannot be begun.
    pub fn connect() -> Option<Self> {
        let mut channel = Self::accept();
        let mut config = ClientConfig::new();
        config.transport = transport_config();
        channel.association = Some(channel.endpoint.connect(config, PEER).ok()?);
        Some(channel)
    }

    /// Whether the channel is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the association is gone and everything is sent.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the content of one DTLS record.
    pub fn handle(&mut self, now: Instant, packet: &[u8], heard: &mut Vec<Heard>) {
        match self.endpoint.handle(now, PEER, None, None, packet.to_vec().into()) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                // A browser has one; whoever asks again with another tag is ignored.
                self.endpoint.reject_new_associations();
                self.association = Some((handle, association));
            }
            Some((_, DatagramEvent::AssociationEvent(event))) => {
                if let Some((_, association)) = &mut self.association {
                    association.handle_event(event);
                }
            }
            None => {}
        }
        self.settle(heard);
    }

    /// Runs what is due.
    pub fn on_timeout(&mut self, now: Instant, heard: &mut Vec<Heard>) {
        self.due = None;
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.settle(heard);
    }

    /// When [`DataChannel::on_timeout`] next has work to do. An idle association has none.
    pub fn next_timeout(&self) -> Option<Instant> {
        let timer = self.association.as_ref().and_then(|(_, association)| association.poll_timeout());
        self.due.into_iter().chain(timer).min()
    }

    /// Puts a text into the queue of the open channel; `false` when it is not open, full, or the text is too long.
    pub fn send(&mut self, now: Instant, text: &str) -> bool {
        let Some((stream, (_, association))) = self.open.zip(self.association.as_mut()) else { return false };
        let Ok(mut stream) = association.stream(stream) else { return false };
        let waiting = stream.buffered_amount().unwrap_or(0);
        if text.len() > MESSAGE_MAX || self.is_full || waiting + text.len() > SEND_BUFFER_MAX {
            self.is_full |= text.len() <= MESSAGE_MAX;
            return false;
        }
        // An empty message has its own identifier and one byte (RFC 8831 §6.6).
        let written = match text {
            "" => stream.write_with_ppi(&[0], PayloadProtocolIdentifier::StringEmpty),
            text => stream.write_with_ppi(text.as_bytes(), PayloadProtocolIdentifier::String),
        };
        self.due = Some(now);
        written.is_ok()
    }

    /// Asks for a channel on a stream, as no client of ours does.
    #[cfg(test)]
    pub(super) fn open_another(&mut self, now: Instant, id: u16) {
        let (_, association) = self.association.as_mut().expect("connected");
        let _ = association.open_stream(id, PayloadProtocolIdentifier::String);
        let open = Dcep::Open { label: "another".into(), protocol: String::new() };
        let mut stream = association.stream(id).expect("just opened");
        stream.write_with_ppi(&open.write(), PayloadProtocolIdentifier::Dcep).expect("has room");
        self.due = Some(now);
    }

    /// The next packet to send as a DTLS record.
    pub fn next_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.packets.is_empty() {
            let association = self.association.as_mut();
            let transmit =
                self.endpoint.poll_transmit().or_else(|| association.and_then(|(_, a)| a.poll_transmit(now)));
            if let Payload::RawEncode(packets) = transmit?.payload {
                self.packets.extend(packets.into_iter().map(Vec::from));
            }
        }
        self.packets.pop_front()
    }

    fn settle(&mut self, heard: &mut Vec<Heard>) {
        while let Some(event) = self.association.as_mut().and_then(|(_, association)| association.poll()) {
            match event {
                Event::Connected => self.connected(),
                Event::Stream(StreamEvent::Opened { .. }) => self.accept_streams(heard),
                Event::Stream(StreamEvent::Readable { id }) => self.read(id, heard),
                Event::Stream(StreamEvent::Finished { id }) if self.open == Some(id) => {
                    self.open = None;
                    heard.push(Heard::Closed);
                }
                Event::AssociationLost { .. } | Event::HandshakeFailed { .. } => self.end(heard),
                _ => {}
            }
        }
        if let Some((handle, association)) = &mut self.association {
            while let Some(event) = association.poll_endpoint_event() {
                self.is_over |= event.is_drained();
                // Nothing comes back: the endpoint only forgets.
                let _ = self.endpoint.handle_event(*handle, event);
            }
        }
        self.resume(heard);
    }

    fn connected(&mut self) {
        let Some((_, association)) = &mut self.association else { return };
        association.set_max_send_message_size(u32::try_from(MESSAGE_MAX).unwrap_or(u32::MAX));
        if association.side().is_client()
            && let Ok(mut stream) = association.open_stream(0, PayloadProtocolIdentifier::String)
        {
            let open = Dcep::Open { label: LABEL.into(), protocol: PROTOCOL.into() };
            // The queue of a new association has room.
            let _ = stream.write_with_ppi(&open.write(), PayloadProtocolIdentifier::Dcep);
        }
    }

    fn accept_streams(&mut self, heard: &mut Vec<Heard>) {
        let Some((_, association)) = &mut self.association else { return };
        while association.accept_stream().is_some() {}
        if association.stream_ids().len() > usize::from(STREAMS_MAX) {
            let _ = association.close();
            self.end(heard);
        }
    }

    fn read(&mut self, id: u16, heard: &mut Vec<Heard>) {
        loop {
            let Some((_, association)) = &mut self.association else { return };
            let Ok(mut stream) = association.stream(id) else { return };
            let Ok(Some(message)) = stream.read_sctp() else { return };
            let mut bytes = vec![0; message.len()];
            if message.read(&mut bytes).is_err() {
                continue;
            }
            match message.ppi {
                PayloadProtocolIdentifier::Dcep => self.handle_dcep(id, &bytes, heard),
                PayloadProtocolIdentifier::StringEmpty if self.open == Some(id) => {
                    heard.push(Heard::Text(String::new()));
                }
                PayloadProtocolIdentifier::String if self.open == Some(id) => {
                    heard.extend(String::from_utf8(bytes).ok().map(Heard::Text));
                }
                // Nothing binary is spoken, and nothing on streams that nobody opened.
                _ => {}
            }
        }
    }

    fn handle_dcep(&mut self, id: u16, bytes: &[u8], heard: &mut Vec<Heard>) {
        let Some((_, association)) = &mut self.association else { return };
        let Ok(mut stream) = association.stream(id) else { return };
        match (Dcep::parse(bytes), self.open) {
            (Some(Dcep::Open { .. }), None) => {
                // A lost acknowledgement is SCTP's to repeat.
                let _ = stream.write_with_ppi(&Dcep::Ack.write(), PayloadProtocolIdentifier::Dcep);
                self.open = Some(id);
                heard.push(Heard::Open);
            }
            (Some(Dcep::Open { .. }), Some(open)) => {
                // RFC 8832 §6 closes a channel that is opened twice. It is kept: the mistake harms nobody.
                if open != id {
                    let _ = stream.close();
                }
                heard.push(Heard::Refused);
            }
            (Some(Dcep::Ack), None) if association.side().is_client() => {
                self.open = Some(id);
                heard.push(Heard::Open);
            }
            (Some(Dcep::Ack) | None, _) => {}
        }
    }

    /// Says once that a full channel has room again: whoever sends must tell anew what was dropped.
    fn resume(&mut self, heard: &mut Vec<Heard>) {
        let Some((stream, (_, association))) = self.open.zip(self.association.as_mut()).filter(|_| self.is_full) else {
            return;
        };
        let waiting = association.stream(stream).and_then(|stream| stream.buffered_amount());
        if waiting.is_ok_and(|waiting| waiting <= SEND_BUFFER_MAX / 4) {
            self.is_full = false;
            heard.push(Heard::Open);
        }
    }

    fn end(&mut self, heard: &mut Vec<Heard>) {
        self.is_over = true;
        if self.open.take().is_some() {
            heard.push(Heard::Closed);
        }
    }
}

/// SCTP's idea of an address; DTLS has none.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5_000);

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let mut endpoint = EndpointConfig::new();
    endpoint.max_payload_size(PACKET_MAX);
    let mut server = ServerConfig::new();
    server.transport = transport_config();
    Config { endpoint: Arc::new(endpoint), server: Arc::new(server) }
});

struct Config {
    endpoint: Arc<EndpointConfig>,
    server: Arc<ServerConfig>,
}

fn transport_config() -> Arc<TransportConfig> {
    let message_max = u32::try_from(MESSAGE_MAX).unwrap_or(u32::MAX);
    let config = TransportConfig::default()
        .with_max_receive_buffer_size(RECEIVE_BUFFER)
        .with_max_receive_message_size(message_max)
        .with_max_send_message_size(message_max)
        .with_max_num_inbound_streams(STREAMS_MAX)
        .with_max_num_outbound_streams(STREAMS_MAX)
        .with_max_init_retransmits(None)
        .with_max_data_retransmits(None)
        .with_rto_max_ms(RETRANSMISSION_MAX_MS);
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// CRC-32C (RFC 9260, Appendix A), bit by bit.
    fn checksum(packet: &[u8]) -> u32 {
        !packet.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
        })
    }

    fn pass(now: Instant, from: &mut DataChannel, to: &mut DataChannel, seen: &mut Vec<Vec<u8>>) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(packet) = from.next_packet(now) {
            to.handle(now, &packet, &mut heard);
            seen.push(packet);
        }
        heard
    }

    /// A client and a server with an open channel, and every packet the client sent.
    fn open(now: Instant) -> (DataChannel, DataChannel, Vec<Vec<u8>>) {
        let (mut client, mut server) = (DataChannel::connect().unwrap(), DataChannel::accept());
        let (mut seen, mut other) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            pass(now, &mut client, &mut server, &mut seen);
            pass(now, &mut server, &mut client, &mut other);
        }
        assert!(client.is_open() && server.is_open());
        (client, server, seen)
    }

    #[test]
    fn a_hostile_peer_ends_its_own_association_at_most() {
        let mut now = Instant::now();
        let (_, mut server, mut seen) = open(now);
        let mut random = 7u64;
        let mut draw = |below: usize| {
            // Knuth's MMIX generator: the seed is above, so a failure repeats.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % below
        };
        for round in 0..20_000 {
            if server.is_over() || round % 500 == 0 {
                let mut client;
                (client, server, seen) = open(now);
                client.send(now, &"x".repeat(5_000));
                pass(now, &mut client, &mut server, &mut seen);
            }
            let mut packet = seen[draw(seen.len())].clone();
            for _ in 0..=draw(4) {
                let at = 12 + draw(packet.len() - 12);
                packet[at] = [0, 1, 0xff, 0x80, packet[at] ^ 1, packet[at].wrapping_add(1)][draw(6)];
            }
            packet[8..12].fill(0);
            let sum = checksum(&packet);
            packet[8..12].copy_from_slice(&sum.to_le_bytes());
            let mut heard = Vec::new();
            server.handle(now, &packet, &mut heard);
            now += Duration::from_millis(10);
            server.on_timeout(now, &mut heard);
            let answers = (0..100).map_while(|_| server.next_packet(now)).count();
            assert!(answers < 100 && heard.len() < 100, "round {round}: one packet, {answers} answers");
        }
    }
}
