//! The narrow interface between a room and the bridge that carries its media.
//!
//! A room does not know whether the bridge is a thread of this process, a node across a cluster or somebody else's:
//! it sends [`BridgeRequest`]s and receives [`BridgeEvent`]s, both in order per conference, neither ever blocking.

use std::sync::Arc;

use crate::{ConferenceId, EndpointId, LocalTransport, RemoteTransport, SourceSet, Ssrc};

/// What an endpoint's client can do, as the focus learned from its features.
///
/// They are read once, at the first invitation, and never change during a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Wants audio at all.
    pub audio: bool,
    /// Wants video at all.
    pub video: bool,
    /// Understands RTX (RFC 4588).
    pub rtx: bool,
    /// Sends and understands transport-wide congestion control feedback.
    pub transport_cc: bool,
    /// Tells how much it can take (REMB), for want of transport-wide feedback.
    pub remb: bool,
    /// Knows sources by name on the bridge channel; clients of 2022 know endpoints only.
    pub source_names: bool,
    /// Wants a fixed set of SSRCs under which the bridge sends whatever it forwards
    /// (it announces on its channel what each carries),
    /// instead of everybody's own.
    pub ssrc_rewriting: bool,
    /// Can carry its bridge channel inside the media transport (data channel, RFC 8831).
    pub data_channel: bool,
    /// Takes redundant sound (RFC 2198), where that is offered at all; everybody else gets it without the redundancy.
    pub opus_red: bool,
}

impl Capabilities {
    /// What Jitsi's clients can do without being told to: everything but SSRC rewriting and redundant sound, and REMB, which they do not need.
    pub const USUAL: Self = Self {
        audio: true,
        video: true,
        rtx: true,
        transport_cc: true,
        remb: false,
        source_names: true,
        ssrc_rewriting: false,
        data_channel: true,
        opus_red: false,
    };
}

/// What a room asks of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeRequest {
    /// Make room for an endpoint. Answered by [`BridgeEvent::Allocated`] or [`BridgeEvent::Refused`].
    Allocate {
        /// Who. Allocating an existing endpoint replaces it: transport and sources start anew.
        endpoint: EndpointId,
        /// What its client can do.
        capabilities: Capabilities,
    },
    /// The client answered, or moved its transport.
    SetTransport {
        /// Who.
        endpoint: EndpointId,
        /// The client's side.
        transport: RemoteTransport,
    },
    /// Everything the endpoint sends from now on; replaces what was said before.
    SetSources {
        /// Who.
        endpoint: EndpointId,
        /// All of them, layers included.
        sources: SourceSet,
    },
    /// How many video sources it wants until it says so itself on its channel.
    SetInitialLastN {
        /// Who.
        endpoint: EndpointId,
        /// Upper limit of forwarded video sources.
        last_n: u32,
    },
    /// New ICE credentials beside the old ones, keys kept. Answered by [`BridgeEvent::Restarted`].
    RestartIce {
        /// Who.
        endpoint: EndpointId,
    },
    /// Forward nothing of the endpoint's sound or pictures. They are taken in as before, so that its estimate and its numbers go on.
    ForceMute {
        /// Who.
        endpoint: EndpointId,
        /// Drop audio.
        audio: bool,
        /// Drop video.
        video: bool,
    },
    /// Forget the endpoint. No event follows.
    Expire {
        /// Who.
        endpoint: EndpointId,
    },
    /// Forget the whole conference. No event follows.
    ExpireConference,
}

/// The SSRCs under which a bridge sends its own RTCP in a conference; clients must know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedbackSsrcs {
    /// `jvb-a0`.
    pub audio: Ssrc,
    /// `jvb-v0`.
    pub video: Ssrc,
}

/// Why a bridge did not take an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is full.
    Full,
    /// It is shutting down.
    ShuttingDown,
}

/// Why an endpoint ended on the bridge's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpireReason {
    /// ICE or DTLS did not come up in time.
    NeverConnected,
    /// Nothing was heard from it for a minute, or the peer closed DTLS.
    Silent,
    /// Its certificate is not the signalled one, or no SRTP profile is shared.
    Insecure,
}

/// What a bridge tells a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeEvent {
    /// Answer to [`BridgeRequest::Allocate`].
    Allocated {
        /// Who.
        endpoint: EndpointId,
        /// What to put into the offer.
        transport: LocalTransport,
        /// The bridge's own SSRCs, the same for the whole conference.
        feedback: FeedbackSsrcs,
    },
    /// The other answer to [`BridgeRequest::Allocate`].
    Refused {
        /// Who.
        endpoint: EndpointId,
        /// Why.
        refusal: Refusal,
    },
    /// Answer to [`BridgeRequest::RestartIce`].
    Restarted {
        /// Who.
        endpoint: EndpointId,
        /// New credentials; same certificate and channel.
        transport: LocalTransport,
        /// 1 for the first restart of this endpoint, counting up.
        generation: u32,
    },
    /// Media can flow both ways: ICE nominated, DTLS done, keys installed.
    Connected {
        /// Who.
        endpoint: EndpointId,
    },
    /// Nothing was heard for 8 s, or something was again.
    Activity {
        /// Who.
        endpoint: EndpointId,
        /// Whether it is heard.
        active: bool,
    },
    /// Somebody else speaks now.
    DominantSpeaker {
        /// Who.
        endpoint: EndpointId,
    },
    /// The bridge gave up on the endpoint and forgot it.
    Expired {
        /// Who.
        endpoint: EndpointId,
        /// Why.
        reason: ExpireReason,
    },
    /// The whole conference is lost: the worker that held it is gone.
    Lost,
}

/// Receives the events of one conference. Called from the bridge's threads: must not block.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: BridgeEvent);
}

/// The bridge's way to one client: an open WebSocket. Called from the bridge's threads: must not block.
pub trait ChannelSink: Send + Sync {
    /// Takes one JSON text. `false` means that the queue is full or the socket gone; the bridge then drops the sink.
    fn send(&self, text: Arc<str>) -> bool;

    /// Closes the socket with an RFC 6455 §7.4 code.
    fn close(&self, code: u16, reason: &'static str);
}

/// A bridge.
pub trait Bridge: Send + Sync {
    /// Opens a conference. Its events go to `events` until it is expired.
    fn open(&self, conference: ConferenceId, events: Arc<dyn EventSink>);

    /// Asks for something in an open conference. Requests of one conference are handled in order; those for an unknown
    /// conference or endpoint are ignored, except that an allocation is then refused.
    fn request(&self, conference: ConferenceId, request: BridgeRequest);

    /// Whether `password` opens the channel of this endpoint. One answer for all that is wrong. Constant time in the password.
    fn may_open_channel(&self, bridge: &str, conference: ConferenceId, endpoint: &EndpointId, password: &str) -> bool;

    /// Attaches an opened channel; an earlier one is closed with 1000 `replaced`. Expiry closes with 1001.
    fn attach_channel(&self, conference: ConferenceId, endpoint: EndpointId, sink: Arc<dyn ChannelSink>);

    /// One JSON text of the client. A shell stops reading a socket whose sink was closed.
    fn channel_message(&self, conference: ConferenceId, endpoint: EndpointId, text: String);

    /// What it serves now.
    fn load(&self) -> Load;
}

/// What a bridge serves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Open conferences.
    pub conferences: usize,
    /// Allocated endpoints.
    pub endpoints: usize,
}
