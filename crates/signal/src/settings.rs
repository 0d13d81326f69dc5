//! What a server is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tertulia_conference::Settings as ConferenceSettings;

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// No TLS.
    Off,
    /// PEM files.
    Files {
        /// The chain, own certificate first.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made here and kept in a directory.
    SelfSigned {
        /// Where it is kept.
        directory: PathBuf,
        /// Host names and addresses under which this machine is reached; one that the kept certificate lacks makes a new one.
        names: Vec<String>,
    },
}

/// Bounds of what is held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rooms.
    pub rooms: usize,
    /// Sessions, lost ones that may come back included.
    pub sessions: usize,
}

/// The whole.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Public addresses.
    pub listen: Vec<SocketAddr>,
    /// Where health is served.
    pub private_listen: SocketAddr,
    /// HTTPS or not.
    pub tls: Tls,
    /// `https://host`, when the server is reached under one name; else each browser's own word for it is used.
    pub public_url: Option<String>,
    /// Tells clients to ask for rewritten SSRCs.
    pub ssrc_rewriting: bool,
    /// How long meetings may go on after the server was told to stop.
    pub grace: Duration,
    /// Bounds.
    pub limits: Limits,
    /// For the rooms.
    pub conference: Arc<ConferenceSettings>,
}
