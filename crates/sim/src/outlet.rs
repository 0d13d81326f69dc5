//! Where a worker puts what it says: it is kept until the meeting lets it fly.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_model::{BridgeEvent, ChannelSink, EventSink};

/// The worker's events, until the room is told.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<BridgeEvent>>);

impl Heard {
    /// Everything since it was last taken.
    pub(crate) fn take(&self) -> Vec<BridgeEvent> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl EventSink for Heard {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// The worker's texts for one person, until they fly.
#[derive(Default)]
pub(crate) struct Channel(Mutex<Vec<String>>);

impl Channel {
    /// Everything since it was last taken.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ChannelSink for Channel {
    fn send(&self, text: Arc<str>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_string());
        true
    }

    fn close(&self, _: u16, _: &'static str) {}
}

/// The worker's datagrams, until they fly.
#[derive(Default)]
pub(crate) struct Sent(pub(crate) Vec<(SocketAddr, Vec<u8>)>);

impl Flush for Sent {
    fn flush(&mut self, batch: &Batch) {
        self.0.extend(batch.iter().map(|(entry, bytes)| (entry.remote, bytes.to_vec())));
    }
}
