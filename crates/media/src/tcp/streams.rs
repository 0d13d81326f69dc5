//! The connections of one worker, beside its UDP sockets. Everything here happens on the worker's thread and never waits.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use slab::Slab;

use super::connection::Reading;
use super::{Connection, Counters, count};
use crate::epoll::{Epoll, Ready};
use crate::transport::{is_stream, username_of};
use crate::worker::Worker;
use crate::worker::batch::{Batch, Flush};

/// Reads of one connection before the others are looked at.
const READS_PER_TURN: usize = 4;
/// How often connections are looked through for those to close.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Connections by their remote address.
pub(crate) struct Streams {
    epoll: Epoll,
    all: Slab<Connection>,
    by_remote: FxHashMap<SocketAddr, usize>,
    /// Written to in the flush that is under way.
    touched: Vec<usize>,
    ready: Vec<Ready>,
    next_sweep: Option<Instant>,
    counters: Arc<Counters>,
}

impl Streams {
    pub(crate) fn new(counters: Arc<Counters>) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            all: Slab::new(),
            by_remote: FxHashMap::default(),
            touched: Vec::new(),
            ready: Vec::new(),
            next_sweep: None,
            counters,
        })
    }

    /// When [`Wires::handle_streams`] has work to do even if nothing is ready.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    fn push(&mut self, batch: &Batch) {
        for (entry, bytes) in batch.iter().filter(|(entry, _)| is_stream(entry.local)) {
            // A connection that is gone loses what was meant for it.
            let Some(key) = self.by_remote.get(&entry.remote).copied() else { continue };
            let Some(connection) = self.all.get_mut(key) else { continue };
            if !connection.push(bytes) {
                self.counters.dropped_full.fetch_add(1, Ordering::Relaxed);
            }
            if !std::mem::replace(&mut connection.touched, true) {
                self.touched.push(key);
            }
        }
        while let Some(key) = self.touched.pop() {
            self.flush(key);
        }
    }

    fn flush(&mut self, key: usize) {
        let Some(connection) = self.all.get_mut(key) else { return };
        connection.touched = false;
        if !connection.flush() {
            // Reading then says that it is over, and the worker is told there.
            let _ = connection.stream.shutdown(Shutdown::Both);
            return;
        }
        let wanted = connection.is_backed_up();
        if wanted != connection.watches_writable {
            connection.watches_writable = wanted;
            let _ = self.epoll.watch_writable(&connection.stream, token_of(key), wanted);
        }
    }
}

impl AsRawFd for Streams {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// All ways out of a worker: datagrams by UDP as they always went, those of connections to their streams.
pub(crate) struct Wires<U> {
    pub(crate) udp: U,
    pub(crate) streams: Streams,
}

impl<U: Flush> Flush for Wires<U> {
    fn flush(&mut self, batch: &Batch) {
        self.udp.flush(batch);
        if !self.streams.all.is_empty() {
            self.streams.push(batch);
        }
    }
}

impl<U: Flush> Wires<U> {
    /// Takes a connection whose first frame is for a user of this worker; closes any other.
    pub(crate) fn adopt(&mut self, now: Instant, mut connection: Connection, worker: &mut Worker) {
        let remote = connection.remote;
        let known = match connection.unframer.next_frame() {
            Ok(Some(frame)) => {
                let len = frame.len();
                let known = username_of(frame).is_some_and(|ufrag| worker.has_user(ufrag));
                connection.unframer.give_back(len);
                known
            }
            Ok(None) | Err(_) => false,
        };
        let key = self.streams.all.vacant_key();
        let is_new = !self.streams.by_remote.contains_key(&remote);
        if !known || !is_new || self.streams.epoll.add(&connection.stream, token_of(key)).is_err() {
            count(&self.streams.counters.unproven);
            return;
        }
        self.streams.all.insert(connection);
        self.streams.by_remote.insert(remote, key);
        self.streams.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        if !self.take_frames(now, key, worker) {
            self.close(now, key, worker);
        }
    }

    /// Reads what waits, writes what can be written, closes what is over.
    pub(crate) fn handle_streams(&mut self, now: Instant, worker: &mut Worker) {
        let mut ready = std::mem::take(&mut self.streams.ready);
        // An error shows again in the next turn, and never without a broken kernel.
        let _ = self.streams.epoll.wait(Some(Duration::ZERO), &mut ready);
        for Ready { token, readable, writable } in ready.drain(..) {
            let Ok(key) = usize::try_from(token) else { continue };
            if writable {
                self.streams.flush(key);
            }
            if readable && !self.read(now, key, worker) {
                self.close(now, key, worker);
            }
        }
        self.streams.ready = ready;
        if self.streams.next_sweep.is_some_and(|at| now >= at) {
            self.sweep(now, worker);
        }
    }

    /// `false` when the connection is over.
    fn read(&mut self, now: Instant, key: usize, worker: &mut Worker) -> bool {
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.streams.all.get_mut(key) else { return true };
            match connection.read(now) {
                Reading::Some if self.take_frames(now, key, worker) => {}
                Reading::None => return true,
                Reading::Some | Reading::Over => return false,
            }
        }
        true
    }

    /// Hands whole frames to the worker; `false` when the peer does not keep to the framing.
    fn take_frames(&mut self, now: Instant, key: usize, worker: &mut Worker) -> bool {
        let Some(connection) = self.streams.all.get_mut(key) else { return true };
        let (local, remote) = (connection.local, connection.remote);
        // The worker may write to this very connection meanwhile.
        let mut unframer = std::mem::take(&mut connection.unframer);
        let whole = loop {
            match unframer.next_frame() {
                Ok(Some(frame)) => worker.handle_frame(now, local, remote, frame, self),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if let Some(connection) = self.streams.all.get_mut(key) {
            connection.unframer = unframer;
        }
        whole
    }

    fn close(&mut self, now: Instant, key: usize, worker: &mut Worker) {
        let Some(connection) = self.streams.all.try_remove(key) else { return };
        self.streams.by_remote.remove(&connection.remote);
        worker.handle_stream_end(now, connection.remote, self);
    }

    fn sweep(&mut self, now: Instant, worker: &mut Worker) {
        let mut over = Vec::new();
        for (key, connection) in &mut self.streams.all {
            let is_proven = worker.has_stream(connection.remote);
            if connection.is_overdue(now, is_proven) {
                if !is_proven {
                    count(&self.streams.counters.unproven);
                }
                over.push(key);
            }
        }
        for key in over {
            self.close(now, key, worker);
        }
        self.streams.next_sweep = (!self.streams.all.is_empty()).then(|| now + SWEEP_INTERVAL);
    }
}

fn token_of(key: usize) -> u64 {
    u64::try_from(key).unwrap_or(u64::MAX)
}
