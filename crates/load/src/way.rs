//! A client's way out: through its bad network, if it has one, to the socket that it shares with others.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use tertulia_media::transport::Wire;

use crate::link::Link;
use crate::socket::{Net, SLOT_LEN};

/// The way out.
pub(crate) struct Way<'a> {
    pub(crate) now: Instant,
    /// Whose it is.
    pub(crate) ip: Ipv4Addr,
    pub(crate) net: &'a mut Net,
    pub(crate) up: &'a mut Option<Link>,
}

impl Way<'_> {
    /// Sends what `fill` writes: its length and where it goes, or nothing.
    pub(crate) fn send(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<(usize, SocketAddr)>) {
        match self.up {
            None => self.net.push(self.ip, fill),
            Some(link) => {
                let mut bytes = [0; SLOT_LEN];
                if let Some((len, _)) = fill(&mut bytes) {
                    link.push(self.now, &bytes[..len]);
                }
            }
        }
    }
}

impl Wire for Way<'_> {
    fn datagram(&mut self, _: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.send(|slot| {
            slot.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some((bytes.len(), remote))
        });
    }
}
