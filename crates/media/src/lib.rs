//! The bridge: sockets, worker threads, ICE, DTLS and SRTP around the sfu.
//!
//! [`MediaBridge::start`] makes a running one; everything that decides is in [`worker::Worker`], which knows no socket.

mod bridge;
mod epoll;
pub mod identity;
mod interfaces;
mod load;
mod placement;
pub mod registry;
pub mod ring;
mod socket;
pub mod srtp;
pub mod tcp;
mod thread;
pub mod transport;
pub mod worker;

pub use bridge::{BridgeCounters, BridgeHandle, MediaBridge, Settings, StartError};
pub use interfaces::addresses as local_addresses;
pub use tertulia_sfu::Policy;
pub use thread::NAP;
