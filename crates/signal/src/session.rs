//! One bound client: its address, its counters, the socket it has or has lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tertulia_xmpp::sm::{self, Inbound, Outbound};
use tertulia_xmpp::{BareJid, Element, FullJid};
use tokio::sync::mpsc;

/// Stanzas for a socket that waits to be written; more means that the client does not keep up.
pub(crate) const SOCKET_QUEUE_MAX: usize = 2_000;
/// Stanzas kept for a client that is away; more cannot be resumed.
const UNACKNOWLEDGED_MAX: usize = 500;
/// Stanzas kept for a client that is there and slow to acknowledge: the roster of a large room comes at once.
const UNACKNOWLEDGED_ATTACHED_MAX: usize = 5_000;
/// Unacknowledged stanzas after which the client is asked.
const ASK_AFTER: usize = 5;

/// What a socket's task is told.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Write this.
    Text(String),
    /// Write this, then close.
    End(Vec<String>),
}

/// A client's session. Its state is behind a lock that is held for the length of an operation, never over an await.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) jid: FullJid,
    /// How the client reached us, for its bridge channel.
    pub(crate) origin: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    socket: Option<mpsc::Sender<Frame>>,
    /// Counts sockets: a socket's end matters only while it is the current one.
    attachment: u64,
    resumption: Option<Resumption>,
    rooms: BTreeSet<BareJid>,
    over: bool,
}

#[derive(Debug)]
struct Resumption {
    id: String,
    inbound: Inbound,
    outbound: Outbound,
    asked_at: usize,
}

/// What the end of a socket means for its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Another socket has taken over, or the session is over: nothing.
    Nothing,
    /// The client may come back; wait for it, and ask with this number whether it did.
    Wait(u64),
    /// The session is over.
    End,
}

impl Session {
    pub(crate) fn new(jid: FullJid, origin: Arc<str>, socket: mpsc::Sender<Frame>) -> Self {
        let state =
            State { socket: Some(socket), attachment: 0, resumption: None, rooms: BTreeSet::new(), over: false };
        Self { jid, origin, state: Mutex::new(state) }
    }

    /// Sends one stanza, or keeps it for a client that may come back. `false` when the session cannot go on.
    pub(crate) fn deliver(&self, text: String) -> bool {
        let mut state = self.lock();
        if state.over {
            return true;
        }
        let mut ask = false;
        let limit = if state.socket.is_some() { UNACKNOWLEDGED_ATTACHED_MAX } else { UNACKNOWLEDGED_MAX };
        if let Some(resumption) = &mut state.resumption {
            let waiting = resumption.outbound.sent(text.clone());
            if waiting > limit {
                return false;
            }
            ask = waiting >= resumption.asked_at + ASK_AFTER;
            if ask {
                resumption.asked_at = waiting;
            }
        } else if state.socket.is_none() {
            return false;
        }
        state.write(text);
        if ask {
            state.write(sm::request().to_string());
        }
        true
    }

    /// Sends something that does not count, if there is a socket.
    pub(crate) fn send_uncounted(&self, element: &Element) {
        self.lock().write(element.to_string());
    }

    /// Counts what came on a socket. `false` when that socket is no longer the session's: what it still brings was told to be lost, and its
    /// client sends it again.
    pub(crate) fn received(&self, attachment: u64, element: &Element) -> bool {
        let mut state = self.lock();
        if state.over || state.attachment != attachment {
            return false;
        }
        if let Some(resumption) = &mut state.resumption {
            resumption.inbound.received(element);
        }
        true
    }

    /// Starts counting and says so, at one moment: everything after `<enabled>` counts. `None` when it counts already.
    pub(crate) fn enable(&self, id: String, max_s: u64) -> Option<String> {
        let mut state = self.lock();
        if state.resumption.is_some() {
            return None;
        }
        state.write(sm::enabled(&id, max_s).to_string());
        let fresh =
            Resumption { id: id.clone(), inbound: Inbound::default(), outbound: Outbound::default(), asked_at: 0 };
        state.resumption = Some(fresh);
        Some(id)
    }

    /// The number of stanzas received, for `<a/>`.
    pub(crate) fn h(&self) -> Option<u32> {
        self.lock().resumption.as_ref().map(|resumption| resumption.inbound.h())
    }

    /// The id under which it can be resumed.
    pub(crate) fn resumption_id(&self) -> Option<String> {
        self.lock().resumption.as_ref().map(|resumption| resumption.id.clone())
    }

    /// Takes the client's count. A count that cannot be true is ignored: ending the stream for it would reload the page.
    pub(crate) fn acknowledge(&self, h: u32) {
        if let Some(resumption) = &mut self.lock().resumption {
            if resumption.outbound.acknowledge(h).is_err() {
                tracing::debug!(h, "an acknowledgement that cannot be true");
            }
            resumption.asked_at = resumption.outbound.len();
        }
    }

    /// Puts another socket in the place of a lost one, or of one that only seems alive. `None` when the client's count cannot be true.
    pub(crate) fn resume(&self, h: u32, socket: mpsc::Sender<Frame>) -> Option<u64> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        let resumption = state.resumption.as_mut()?;
        resumption.outbound.acknowledge(h).ok()?;
        resumption.asked_at = resumption.outbound.len();
        let greeting = sm::resumed(&resumption.id, resumption.inbound.h()).to_string();
        let again: Vec<String> = resumption.outbound.unacknowledged().map(str::to_owned).collect();
        if let Some(old) = state.socket.replace(socket) {
            // It may be gone or full; closing is all that is wanted.
            let _ = old.try_send(Frame::End(Vec::new()));
        }
        state.attachment += 1;
        state.write(greeting);
        for text in again {
            state.write(text);
        }
        Some(state.attachment)
    }

    /// A socket ended. `goodbye` when the client said so.
    pub(crate) fn lost(&self, attachment: u64, goodbye: bool) -> Loss {
        let mut state = self.lock();
        if state.over || state.attachment != attachment {
            return Loss::Nothing;
        }
        state.socket = None;
        if goodbye || state.resumption.is_none() { Loss::End } else { Loss::Wait(attachment) }
    }

    /// Whether nobody came back since that socket was lost.
    pub(crate) fn is_still_lost(&self, attachment: u64) -> bool {
        let state = self.lock();
        !state.over && state.attachment == attachment && state.socket.is_none()
    }

    /// Ends it; the rooms it was in. Only the first call returns any.
    pub(crate) fn end(&self, said: Vec<String>) -> Option<BTreeSet<BareJid>> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.over, true) {
            return None;
        }
        if let Some(socket) = state.socket.take() {
            let _ = socket.try_send(Frame::End(said)); // it may be gone or full
        }
        Some(std::mem::take(&mut state.rooms))
    }

    pub(crate) fn joins(&self, room: BareJid) {
        self.lock().rooms.insert(room);
    }

    pub(crate) fn leaves(&self, room: &BareJid) {
        self.lock().rooms.remove(room);
    }

    pub(crate) fn rooms(&self) -> BTreeSet<BareJid> {
        self.lock().rooms.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Operations leave the state whole or do not change it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A socket whose queue is full is dropped: its client does not keep up, and may resume.
    fn write(&mut self, text: String) {
        let full = self.socket.as_ref().is_some_and(|socket| socket.try_send(Frame::Text(text)).is_err());
        if full {
            self.socket = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> (Session, mpsc::Receiver<Frame>) {
        let (socket, frames) = mpsc::channel(16);
        (Session::new(FullJid::new("u@d/r").unwrap(), "ws://x".into(), socket), frames)
    }

    fn texts(frames: &mut mpsc::Receiver<Frame>) -> Vec<String> {
        std::iter::from_fn(|| frames.try_recv().ok())
            .map(|frame| match frame {
                Frame::Text(text) => text,
                Frame::End(_) => "END".into(),
            })
            .collect()
    }

    #[test]
    fn a_lost_socket_is_replaced_and_what_was_not_acknowledged_comes_again() {
        let (session, mut frames) = session();
        session.enable("id".into(), 60).unwrap();
        for n in 0..3 {
            assert!(session.deliver(format!("<m{n}/>")));
        }
        assert_eq!(texts(&mut frames)[1..], ["<m0/>", "<m1/>", "<m2/>"]);
        assert_eq!(session.lost(0, false), Loss::Wait(0));
        assert!(session.is_still_lost(0));
        session.deliver("<m3/>".into());
        let (socket, mut frames) = mpsc::channel(16);
        assert_eq!(session.resume(9, socket.clone()), None, "more than was sent");
        assert_eq!(session.resume(2, socket), Some(1));
        assert!(!session.is_still_lost(0));
        assert_eq!(texts(&mut frames)[1..], ["<m2/>", "<m3/>"]);
        assert_eq!(session.lost(0, false), Loss::Nothing, "the old socket no longer matters");
        let late = tertulia_xmpp::parse("<message/>").unwrap();
        assert!(!session.received(0, &late) && session.received(1, &late));
        assert_eq!(session.h(), Some(1), "what the old socket still brought is not counted");
    }

    #[test]
    fn the_client_is_asked_now_and_then_and_a_silent_one_is_given_up() {
        let (session, mut frames) = session();
        session.enable("id".into(), 60).unwrap();
        for _ in 0..6 {
            session.deliver("<m/>".into());
        }
        assert_eq!(texts(&mut frames).iter().filter(|text| text.starts_with("<r ")).count(), 1);
        session.lost(0, false);
        let delivered = (0..600).filter(|_| session.deliver("<m/>".into())).count();
        assert_eq!(delivered, UNACKNOWLEDGED_MAX - 6);
    }

    #[test]
    fn without_resumption_a_lost_socket_is_the_end() {
        let (session, _frames) = session();
        assert_eq!(session.lost(0, false), Loss::End);
        let room = BareJid::new("r@m").unwrap();
        session.joins(room.clone());
        assert_eq!(session.end(Vec::new()), Some([room].into()));
        assert_eq!(session.end(Vec::new()), None);
    }
}
