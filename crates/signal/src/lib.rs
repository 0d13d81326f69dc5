//! HTTP, WebSocket, BOSH, sessions and room tasks around the conference.
//!
//! [`Server::bind`] takes the ports, [`Server::run`] serves until it is told to stop. What a room does is decided in `conference`; this
//! crate carries stanzas, keeps sessions over lost sockets, and owns clocks, tasks and chance.

mod chance;
mod hub;
mod rooms;
mod server;
mod session;
mod settings;
mod stream;
mod tls;
mod web;

pub use server::{BindError, Server};
pub use settings::{Limits, Settings, Tls};
