//! Everybody who is connected, and where their stanzas go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tertulia_conference::{Input, Route, domain, request, route};
use tertulia_model::Bridge;
use tertulia_xmpp::sm;
use tertulia_xmpp::stanza::{Condition, StanzaError, error_for};
use tertulia_xmpp::{Element, FullJid, ns};
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::chance;
use crate::rooms::{NoRoom, Rooms};
use crate::session::{Frame, Loss, Session};
use crate::settings::Settings;
use crate::stream::{Framing, stream_end};

/// How long a session without a socket is kept.
pub(crate) const HIBERNATION: Duration = Duration::from_secs(60);
/// How long the end of a session is remembered, to answer a late resumption properly.
const REMEMBER_ENDED: Duration = Duration::from_secs(600);
const REMEMBER_ENDED_MAX: usize = 10_000;

/// The sessions and rooms of this server.
pub(crate) struct Hub {
    pub(crate) settings: Arc<Settings>,
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) rooms: Rooms,
    directory: Mutex<Directory>,
}

/// Held for the length of a map operation.
#[derive(Default)]
struct Directory {
    by_jid: HashMap<FullJid, Arc<Session>>,
    by_resumption: HashMap<String, Arc<Session>>,
    /// First eight digits of user names in use: they become endpoint ids.
    prefixes: HashSet<String>,
    ended: VecDeque<(Instant, String, u32)>,
}

/// No further session can be held.
pub(crate) struct Full;

impl Hub {
    pub(crate) fn new(settings: Arc<Settings>, bridge: Arc<dyn Bridge>) -> Arc<Self> {
        Arc::new_cyclic(|hub| Self {
            rooms: Rooms::new(hub.clone(), settings.limits.rooms),
            settings,
            bridge,
            directory: Mutex::default(),
        })
    }

    /// A user name: that of the session to be resumed, or a new one.
    pub(crate) fn login(&self, previd: Option<&str>) -> String {
        let directory = self.lock();
        let previous = previd.and_then(|previd| directory.by_resumption.get(previd));
        if let Some(node) = previous.and_then(|session| session.jid.node()) {
            return node.to_string();
        }
        loop {
            let user = chance::uuid();
            if !directory.prefixes.contains(&user[..8]) {
                return user;
            }
        }
    }

    /// Binds a resource: the session is there.
    pub(crate) fn bind(&self, user: &str, origin: Arc<str>, socket: mpsc::Sender<Frame>) -> Result<Arc<Session>, Full> {
        let mut directory = self.lock();
        if directory.by_jid.len() >= self.settings.limits.sessions {
            return Err(Full);
        }
        let domain = &self.settings.conference.domains.main;
        let jid = FullJid::new(&format!("{user}@{domain}/{}", chance::token(12))).map_err(|_| Full)?;
        let session = Arc::new(Session::new(jid.clone(), origin, socket));
        directory.by_jid.insert(jid, Arc::clone(&session));
        directory.prefixes.insert(user[..8.min(user.len())].to_owned());
        Ok(session)
    }

    /// Starts resumption for a session.
    pub(crate) fn enable_resumption(&self, session: &Arc<Session>) -> Option<String> {
        let id = session.enable(chance::token(16), HIBERNATION.as_secs())?;
        self.lock().by_resumption.insert(id.clone(), Arc::clone(session));
        Some(id)
    }

    /// Resumes a session on another socket; the error is what to tell the client.
    pub(crate) fn resume(
        &self,
        user: &str,
        previd: &str,
        h: u32,
        socket: mpsc::Sender<Frame>,
    ) -> Result<(Arc<Session>, u64), Element> {
        let found = self.lock().by_resumption.get(previd).cloned();
        let found = found.filter(|session| session.jid.node().is_some_and(|node| node.as_str() == user));
        if let Some(session) = found
            && let Some(attachment) = session.resume(h, socket)
        {
            return Ok((session, attachment));
        }
        let known_h = self.lock().ended.iter().find(|(_, id, _)| id == previd).map(|(_, _, h)| *h);
        Err(sm::failed(known_h, "item-not-found"))
    }

    /// A socket of a session ended.
    pub(crate) fn socket_lost(self: &Arc<Self>, session: Arc<Session>, attachment: u64, goodbye: bool) {
        match session.lost(attachment, goodbye) {
            Loss::Nothing => {}
            Loss::End => self.end(&session, Vec::new()),
            Loss::Wait(attachment) => {
                let hub = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(HIBERNATION).await;
                    if session.is_still_lost(attachment) {
                        hub.end(&session, Vec::new());
                    }
                });
            }
        }
    }

    /// Ends a session: its rooms are told.
    pub(crate) fn end(&self, session: &Arc<Session>, said: Vec<String>) {
        let Some(rooms) = session.end(said) else { return };
        {
            let mut directory = self.lock();
            directory.by_jid.remove(&session.jid);
            if let Some(node) = session.jid.node() {
                directory.prefixes.remove(&node.as_str()[..8.min(node.as_str().len())]);
            }
            if let Some((id, h)) = session.resumption_id().zip(session.h()) {
                directory.by_resumption.remove(&id);
                directory.remember_ended(id, h);
            }
        }
        debug!("session ended");
        for room in rooms {
            self.rooms.tell(&room, Input::Gone { from: session.jid.clone() });
        }
    }

    /// How many sessions there are.
    pub(crate) fn session_count(&self) -> usize {
        self.lock().by_jid.len()
    }

    /// Delivers a serialised stanza. A session that cannot go on is ended.
    pub(crate) fn deliver(&self, to: &FullJid, text: String) {
        let session = self.lock().by_jid.get(to).cloned();
        if let Some(session) = session.filter(|session| !session.deliver(text)) {
            let said = stream_end(Framing::WebSocket, "resource-constraint", "too much is unacknowledged");
            self.end(&session, said.iter().map(ToString::to_string).collect());
        }
    }

    /// Takes one stanza of a session. Waits while the room it is for does not keep up.
    pub(crate) async fn handle(&self, session: &Arc<Session>, stanza: Element) {
        let conference = &self.settings.conference;
        let answer = match route(&conference.domains, &stanza) {
            Route::Domain if stanza.name() == "presence" => {
                if stanza.attr("type") == Some("unavailable") {
                    for room in session.rooms() {
                        session.leaves(&room);
                        self.rooms.tell(&room, Input::Gone { from: session.jid.clone() });
                    }
                }
                None
            }
            Route::Domain => domain::answer(conference, &stanza),
            Route::Focus => self.handle_request(&stanza).await,
            Route::Component(_) => match session.rooms().into_iter().next() {
                Some(room) => {
                    let (from, origin) = (session.jid.clone(), Arc::clone(&session.origin));
                    let unsaid = self.rooms.say(&room, Input::Stanza { from, stanza, origin }).await;
                    unsaid.and_then(|stanza| domain::nowhere(&stanza))
                }
                None => domain::nowhere(&stanza),
            },
            Route::Room(room) => {
                let leaves = stanza.name() == "presence" && stanza.attr("type") == Some("unavailable");
                if stanza.name() == "presence" && stanza.has_child("x", ns::MUC) {
                    session.joins(room.clone());
                }
                let (from, origin) = (session.jid.clone(), Arc::clone(&session.origin));
                let unsaid = self.rooms.say(&room, Input::Stanza { from, stanza, origin }).await;
                if leaves || unsaid.is_some() {
                    session.leaves(&room);
                }
                unsaid.and_then(|stanza| domain::no_such_room(&stanza))
            }
            Route::Nowhere => domain::nowhere(&stanza),
        };
        if let Some(answer) = answer {
            let text = answer.with_attr("to", session.jid.to_string()).to_string();
            self.deliver(&session.jid, text);
        }
    }

    async fn handle_request(&self, iq: &Element) -> Option<Element> {
        let domains = &self.settings.conference.domains;
        match request::parse_iq(domains, iq) {
            Ok(None) => None,
            Err(answer) => Some(*answer),
            Ok(Some(request)) => Some(match self.rooms.open(&request.room).await {
                Ok(()) => request.ready_iq(domains, iq),
                Err(NoRoom::Full) => request.not_ready_iq(domains, iq),
                Err(NoRoom::Closing) => request::closing_iq(iq),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        // A directory is whole after any panic between its operations.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    fn remember_ended(&mut self, id: String, h: u32) {
        let now = Instant::now();
        while self.ended.front().is_some_and(|(at, ..)| now.duration_since(*at) > REMEMBER_ENDED)
            || self.ended.len() >= REMEMBER_ENDED_MAX
        {
            self.ended.pop_front();
        }
        self.ended.push_back((now, id, h));
    }
}

/// The error to a bind when no further session can be held.
pub(crate) fn server_full(iq: &Element) -> Element {
    info!("a session was refused: the server is full");
    let text = "The server is full: try again later, or raise `limits.sessions`.";
    error_for(iq, &StanzaError::new(Condition::ResourceConstraint).with_text(text))
}
