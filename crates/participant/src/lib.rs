//! A headless client: joins over the real signalling, sends synthetic sound and pictures, checks what it receives.
//!
//! [`Participant`] decides and knows no socket, task or clock: stanzas, datagrams, channel texts and time go in, the same and events come
//! out. Meetings in virtual time drive it directly; [`Client`] is the shell for real servers. Its transport and its RTP are str0m's, so
//! that our own are never tested against themselves.

#![forbid(unsafe_code)]

mod bits;
mod camera;
mod client;
mod clock;
mod coding;
mod descriptor;
mod login;
mod media;
mod participant;
mod receiver;
mod signalling;
mod stamp;
mod voice;

pub use camera::SentReport;
pub use client::{Client, ClientError, ServerAddress};
pub use clock::Clock;
pub use coding::Coding;
pub use login::{Login, LoginError, Step};
pub use participant::{Equipment, Event, Input, Output, Participant, Settings};
pub use receiver::{AudioReport, Shown, VideoReport};
pub use signalling::{Addresses, VideoWishes};
