//! How many connections there may be: of all, and of one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one address. A company behind one address may send everybody this way, each with a few connections.
const OF_ADDRESS_MAX: usize = 512;
/// Connections of all.
const MAX: usize = 8_192;

/// Counts connections. Held for the length of a map operation, never by a worker that forwards.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    of_address: HashMap<IpAddr, usize>,
    all: usize,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    /// A place for one more connection from here, if there is one.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Seat> {
        let address = network(from);
        let mut counts = self.counts();
        let of_address = counts.of_address.get(&address).copied().unwrap_or(0);
        if counts.all >= MAX || of_address >= OF_ADDRESS_MAX {
            return None;
        }
        counts.all += 1;
        counts.of_address.insert(address, of_address + 1);
        Some(Seat { gate: Arc::clone(self), address })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // The numbers are whole after any panic between their operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.all -= 1;
        if let Some(of_address) = counts.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.of_address.remove(&self.address);
            }
        }
    }
}

/// One customer has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_every_place_and_places_come_back() {
        let gate = Arc::new(Gate::default());
        let near = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, n, 0, 0, 1));
        let mut seats: Vec<Seat> = (0..).map_while(|n| gate.enter(near(n))).collect();
        assert_eq!(seats.len(), OF_ADDRESS_MAX);
        let other = gate.enter("192.0.2.1".parse().unwrap());
        assert!(other.is_some() && gate.enter(near(0)).is_none());
        seats.pop();
        assert!(gate.enter(near(0)).is_some());
        drop((seats, other));
        let counts = gate.counts();
        assert_eq!((counts.all, counts.of_address.len()), (0, 0));
    }
}
