//! Views and writers for RTP, RTCP, header extensions and codec headers.
//!
//! Views borrow the datagram and allocate nothing; writers fill the caller's buffer. Every parser fails cleanly on any bytes.

#![forbid(unsafe_code)]

pub mod codec;
pub mod extension;
pub mod packet;
pub mod red;
pub mod rtcp;
pub mod rtx;
pub mod sequence;
pub mod transport_cc;

pub use packet::{Header, Packet};
pub use rtcp::{Compound, Rtcp};
pub use sequence::{SeqNo, SequenceExtender};

/// Whether a datagram of the RTP range is RTCP (RFC 5761 §4): packet types 192 to 223.
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram.get(1).is_some_and(|byte| (192..=223).contains(byte))
}
