//! The sinks: what a conference sends and tells.

use std::sync::Arc;

use tertulia_model::BridgeEvent;

use crate::shard::Shards;

/// An endpoint's slot on its worker. A slot may be used again after [`crate::Conference::remove_endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub u32);

/// Where packets go. Implemented by the worker, which seals them into its batch, and by tests, which collect them.
pub trait Egress {
    /// Sends one RTP packet. `write` fills the buffer, which has at least 1500 bytes of room for plaintext, and returns
    /// the length; 0 sends nothing. The trailer of SRTP comes on top.
    fn rtp(&mut self, to: EndpointKey, write: impl FnOnce(&mut [u8]) -> usize);

    /// Sends one plaintext RTCP compound.
    fn rtcp(&mut self, to: EndpointKey, compound: &[u8]);

    /// Copies a packet to other shards of the conference, which take it by [`crate::Conference::handle_frame`]. Returns
    /// those to which there was no room: for them it is lost.
    fn frame(&mut self, to: Shards, _frame: &[u8]) -> Shards {
        to
    }
}

/// What a conference says beside packets.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A JSON text for an endpoint's bridge channel.
    Channel {
        /// Whose channel.
        to: EndpointKey,
        /// The text, shared between receivers of the same message.
        text: Arc<str>,
    },
    /// Something for the room.
    Event(BridgeEvent),
}
