//! HTTP, WebSocket, BOSH, sessions and room tasks around the conference.
//!
//! [`Server::bind`] takes the ports, [`Server::run`] serves until a [`Stop`] tells it not to. What a room does is decided in `conference`; this
//! crate carries stanzas, keeps sessions over lost sockets, and owns clocks, tasks and chance.

mod chance;
mod hub;
mod readiness;
mod rooms;
mod server;
mod session;
mod settings;
mod stream;
mod tls;
mod web;

pub use server::{BindError, Server, Stop};
pub use settings::{Limits, Settings, Tls};
