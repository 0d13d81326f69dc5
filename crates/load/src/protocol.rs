//! What generator and bridge process say to each other: a JSON object a line, orders to its input, reports from its
//! output.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the process with the bridge is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Opens a conference.
    Open { room: u64 },
    /// Makes room for a person. Answered by [`Report::Allocated`].
    Allocate { room: u64, person: u32 },
    /// The client's side. `fingerprint` is of SHA-256, in hexadecimal pairs.
    Transport { room: u64, person: u32, ufrag: String, pwd: String, fingerprint: String },
    /// What it sends.
    Sources { room: u64, person: u32, camera: bool, voice: bool },
    /// Its channel opens. `estimates` asks for [`Report::Estimate`] whenever it is told one.
    Channel { room: u64, person: u32, estimates: bool },
    /// It says something on its channel.
    Message { room: u64, person: u32, text: String },
    /// Asks for [`Report::Counters`].
    Counters,
    /// Ends a conference, and with it everybody's connection.
    Close { room: u64 },
    /// Starts a fan-out beside the bridge, which rests meanwhile. Answered by [`Report::FanOut`].
    FanOut(FanOut),
    /// Starts an echo beside the bridge. Answered by [`Report::FanOut`] too.
    Echo,
    /// Ends either. Answered by [`Report::FanOutEnded`].
    EndFanOut,
}

/// A fan-out without any decision: the limit of what a bridge could do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FanOut {
    /// Whether each copy is sealed.
    pub(crate) sealed: bool,
    /// Most packets of one subscriber that are sent as one run.
    pub(crate) run: usize,
    /// Who gets what of whom.
    pub(crate) routes: Vec<Route>,
}

/// The subscribers of one publisher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// Number of the publisher.
    pub(crate) person: u32,
    /// Address, and a bit per slot that is wanted.
    pub(crate) subscribers: Vec<(SocketAddr, u16)>,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// The bridge runs on these ports of 127.0.0.1.
    Started { ports: Vec<u16> },
    /// It cannot.
    Failed { why: String },
    /// The bridge's side of a transport.
    Allocated { room: u64, person: String, ufrag: String, pwd: String, fingerprint: String, port: u16 },
    /// Media can flow.
    Connected { room: u64, person: String },
    /// An endpoint was refused or lost, or a conference was.
    Ended { room: u64, person: String, why: String },
    /// How large anybody wants a camera.
    MaxHeight { person: String, max_height: i32 },
    /// What the bridge told a person that the path to it takes.
    Estimate { person: u32, bps: u64 },
    /// Answer to [`Order::Counters`].
    Counters(Counters),
    /// The fan-out, or the echo, listens here.
    FanOut { address: SocketAddr },
    /// It is over.
    FanOutEnded,
}

/// What the bridge counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Datagrams received.
    pub(crate) datagrams: u64,
    /// Dropped for any reason.
    pub(crate) dropped: u64,
    /// Datagrams that the kernel took, did not take, and had no room for.
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    pub(crate) dropped_full: u64,
    /// Messages to the kernel by datagrams in them: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64.
    pub(crate) runs: Vec<u64>,
    /// Sending calls by messages in them, receiving calls by datagrams in them, in the same classes.
    pub(crate) sending_calls: Vec<u64>,
    pub(crate) receiving_calls: Vec<u64>,
    /// Handshakes that ended well.
    pub(crate) connected: u64,
    pub(crate) failed: u64,
    pub(crate) panics: u64,
    /// Texts on channels to clients.
    pub(crate) texts: u64,
    /// Allocations of its threads.
    pub(crate) allocations: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back() {
        let route = Route { person: 3, subscribers: vec![("127.64.0.1:9".parse().unwrap(), 5)] };
        let orders = [
            Order::Counters,
            Order::Allocate { room: u64::MAX, person: 7 },
            Order::FanOut(FanOut { sealed: true, run: 8, routes: vec![route] }),
        ];
        for order in orders {
            let line = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order, "{line}");
        }
    }
}
