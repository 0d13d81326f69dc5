//! Forwarding: layers, allocation, loss recovery, speakers. Pure: no clock, no socket.
//!
//! One [`Conference`] per conference, owned by the worker that holds its transports. Packets come in decrypted and leave through an
//! [`Egress`]; everything else leaves as an [`Output`]. A large conference has one on each of several workers:
//! shards, which know each other by [`Shard`] and exchange [`Message`]s and copies of packets.

#![forbid(unsafe_code)]

mod allocation;
mod cache;
mod channel;
mod conference;
mod constraints;
mod egress;
mod encoding;
mod endpoint;
mod estimate;
mod history;
mod keyframe;
mod lately;
mod limit;
mod loudest;
mod nack;
mod rates;
mod shard;
mod source;
mod speech;
mod stream;
mod subscription;

pub use conference::{Conference, Counters, Policy};
pub use egress::{Egress, EndpointKey, Output};
pub use shard::{FRAME_MAX, Message, Shard, Shards, conference_of};
