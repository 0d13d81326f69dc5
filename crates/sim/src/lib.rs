//! Whole meetings in virtual time over a bad network: the real room, the real worker, headless participants.
//!
//! [`Sim`] owns the clock. Nothing sleeps and no socket is opened; what is random comes from a seed, except keys and credentials, which
//! the cryptography makes by itself.

#![forbid(unsafe_code)]

mod link;
mod outlet;
mod sim;

pub use link::{Link, LinkStats};
pub use sim::{Left, PersonId, Sim};
