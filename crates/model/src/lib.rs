//! Ids, units, sources and the bridge interface: the words that every floor shares.
//!
//! Nothing here decides anything and nothing here is serialisable: the shell that owns a wire format
//! owns its structs and converts.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod id;
pub mod profile;
pub mod source;
pub mod transport;

pub use bridge::{
    Bridge, BridgeEvent, BridgeRequest, Capabilities, ChannelSink, EventSink, ExpireReason, FeedbackSsrcs, Load,
    Refusal,
};
pub use id::{ConferenceId, EndpointId, InvalidId, SourceName, Ssrc};
pub use source::{GroupSemantics, MediaKind, Source, SourceGroup, SourceSet, VideoType};
pub use transport::{
    Candidate, CandidateKind, ChannelAddress, ChannelKinds, DtlsSetup, Fingerprint, HashFunction, IceCredentials,
    LocalTransport, RemoteTransport, TransportProtocol,
};
