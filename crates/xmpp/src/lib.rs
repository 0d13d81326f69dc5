//! Stanzas: a bounded XML tree, its writer, and Jitsi's vocabulary on top of it.

#![forbid(unsafe_code)]

pub mod element;
pub mod jingle;
pub mod ns;
mod parse;
pub mod sm;
pub mod sources;
pub mod stanza;

pub use element::{Broadcast, Element, Node};
pub use jid::{BareJid, FullJid, Jid};
pub use parse::{MAX_STANZA_LEN, ParseError, parse};
