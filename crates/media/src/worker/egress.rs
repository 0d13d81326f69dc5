//! The ways out of a worker: into its batch.

use std::net::SocketAddr;

use slab::Slab;
use tertulia_sfu::{Egress, EndpointKey, Shards};

use super::batch::{Batch, Flush};
use super::counters::Counters;
use super::endpoint::Endpoint;
use super::links::Links;
use super::slot_of_key;
use crate::transport::Wire;

/// Room for plaintext in an egress slot.
const PLAINTEXT_MAX: usize = 1500;

/// ICE's and DTLS's way out.
pub(super) struct BatchWire<'a> {
    pub(super) slot: usize,
    pub(super) batch: &'a mut Batch,
    pub(super) flush: &'a mut dyn Flush,
}

impl Wire for BatchWire<'_> {
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.batch.push(self.flush, self.slot, |slot| {
            slot.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some((bytes.len(), local, remote))
        });
    }
}

/// Media's way out: plaintext in, sealed in place.
pub(super) struct BatchEgress<'a> {
    pub(super) slots: &'a mut Slab<Endpoint>,
    pub(super) batch: &'a mut Batch,
    pub(super) links: &'a mut Links,
    pub(super) counters: &'a mut Counters,
    pub(super) flush: &'a mut dyn Flush,
}

impl Egress for BatchEgress<'_> {
    fn rtp(&mut self, to: EndpointKey, write: impl FnOnce(&mut [u8]) -> usize) {
        let Some(endpoint) = self.slots.get_mut(slot_of_key(to)) else { return };
        self.batch.push(self.flush, slot_of_key(to), |slot| {
            let len = write(&mut slot[..PLAINTEXT_MAX]);
            if len == 0 { None } else { endpoint.transport.seal_rtp(slot, len) }
        });
    }

    fn rtcp(&mut self, to: EndpointKey, compound: &[u8]) {
        let Some(endpoint) = self.slots.get_mut(slot_of_key(to)) else { return };
        self.batch.push(self.flush, slot_of_key(to), |slot| {
            slot.get_mut(..compound.len())?.copy_from_slice(compound);
            endpoint.transport.seal_rtcp(slot, compound.len())
        });
    }

    fn frame(&mut self, to: Shards, frame: &[u8]) -> Shards {
        let lost = self.links.copy(to, frame);
        self.counters.copied += to.without(lost).len();
        self.counters.uncopied += lost.len();
        lost
    }
}
