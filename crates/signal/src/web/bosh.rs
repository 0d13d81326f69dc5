//! BOSH (XEP-0124, XEP-0206): a stream in HTTP requests, for networks that let no WebSocket through.
//!
//! The client keeps at most two requests open. One is held until there is something to say; requests are worked off in the order of their
//! numbers, and a repeated one gets the same answer again.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tertulia_xmpp::stanza::result_for;
use tertulia_xmpp::{Element, MAX_STANZA_LEN, ns, parse};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Origin, Web, body_of, cors};
use crate::chance;
use crate::hub::{Hub, server_full};
use crate::session::{Frame, SOCKET_QUEUE_MAX, Session};
use crate::stream::{Framing, Opening, Step, login_features, stream_end};

/// Longest time a request is held, whatever the client asks.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A session without a request for so long is over.
const INACTIVITY: Duration = Duration::from_secs(60);
/// From the first request to a bound session.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that are kept for repeated requests; the client has at most two requests open.
const ANSWERS_KEPT: usize = 5;
/// How far ahead of the expected number a request may be.
const AHEAD_MAX: u64 = 5;
/// Sessions at once that have not bound yet or have: each costs a little memory before login.
const SESSIONS_MAX: usize = 10_000;
/// Several stanzas to one answer, but not without end.
const STANZAS_PER_ANSWER: usize = 100;

/// BOSH sessions by id.
#[derive(Default)]
pub(crate) struct Boshes {
    sessions: StdMutex<HashMap<String, Arc<Bosh>>>,
}

/// One session.
struct Bosh {
    sid: String,
    wait: Duration,
    stream: Mutex<Stream>,
    frames: Mutex<mpsc::Receiver<Frame>>,
    sender: mpsc::Sender<Frame>,
    origin: Arc<str>,
    /// A newer request has come: a held one is to be released.
    newer: Notify,
    /// The expected number has moved.
    moved: Notify,
    /// An answer has been kept.
    kept: Notify,
    seen: StdMutex<Instant>,
    login_by: Instant,
    bound: AtomicBool,
}

/// What requests change in order.
struct Stream {
    stage: Stage,
    /// Number of the last request worked off.
    done: u64,
    /// Number of the newest request that came.
    newest: u64,
    answers: VecDeque<(u64, String)>,
}

enum Stage {
    Opening(Opening),
    Bound(Arc<Session>),
    Over,
}

pub(crate) async fn handle(State(web): State<Web>, asked: Request) -> Response {
    let (method, headers, uri) = (asked.method().clone(), asked.headers().clone(), asked.uri().clone());
    if method == Method::OPTIONS {
        return cors::preflight("POST, OPTIONS", "Content-Type");
    }
    if method != Method::POST {
        return cors::allow("It works! BOSH wants POST.".into_response());
    }
    let Some(bytes) = body_of(asked.into_body(), MAX_STANZA_LEN).await else {
        return cors::allow(StatusCode::PAYLOAD_TOO_LARGE.into_response());
    };
    let body =
        std::str::from_utf8(&bytes).ok().and_then(|text| parse(text).ok()).filter(|body| body.is("body", ns::HTTPBIND));
    let Some(body) = body else { return answer(&terminated("bad-request")) };
    let Some(rid) = body.attr("rid").and_then(|rid| rid.parse::<u64>().ok()).filter(|rid| *rid < 1 << 53) else {
        return answer(&terminated("bad-request"));
    };
    match body.attr("sid") {
        None => answer(&web.boshes.create(&web, rid, &body, Origin::of(&web, &headers, &uri).websocket().into())),
        Some(sid) => match web.boshes.find(sid) {
            Some(bosh) => {
                // A task of its own: a connection that breaks must not break off what its request has begun.
                let worked = tokio::spawn(async move { bosh.request(&web, rid, &body).await });
                answer(&worked.await.unwrap_or_else(|_| terminated("internal-server-error")))
            }
            None => answer(&terminated("item-not-found")),
        },
    }
}

impl Boshes {
    fn find(&self, sid: &str) -> Option<Arc<Bosh>> {
        self.lock().get(sid).cloned()
    }

    /// The first request: a session and the features before login.
    fn create(&self, web: &Web, rid: u64, body: &Element, origin: Arc<str>) -> String {
        let domain = &web.hub.settings.conference.domains.main;
        if body.attr("to").is_some_and(|to| to != domain) {
            return terminated("improper-addressing");
        }
        if self.lock().len() >= SESSIONS_MAX {
            return terminated("policy-violation");
        }
        let asked = body.attr("wait").and_then(|wait| wait.parse().ok()).map_or(WAIT_MAX, Duration::from_secs);
        let (sender, frames) = mpsc::channel(SOCKET_QUEUE_MAX);
        let opening = Stage::Opening(Opening::new(Framing::Bosh, domain));
        let bosh = Arc::new(Bosh {
            sid: chance::token(24),
            wait: asked.min(WAIT_MAX),
            stream: Mutex::new(Stream { stage: opening, done: rid, newest: rid, answers: VecDeque::new() }),
            frames: Mutex::new(frames),
            sender,
            origin,
            newer: Notify::new(),
            moved: Notify::new(),
            kept: Notify::new(),
            seen: StdMutex::new(Instant::now()),
            login_by: Instant::now() + LOGIN_TIMEOUT,
            bound: AtomicBool::new(false),
        });
        let greeting = Element::new("body", ns::HTTPBIND)
            .with_attr("sid", &bosh.sid)
            .with_attr("wait", bosh.wait.as_secs().to_string())
            .with_attr("hold", "1")
            .with_attr("requests", "2")
            .with_attr("inactivity", INACTIVITY.as_secs().to_string())
            .with_attr("polling", "5")
            .with_attr("ver", "1.6")
            .with_attr("from", domain);
        let features = login_features().to_string();
        let text = body_text(&greeting, &[features], "xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0' ");
        self.lock().insert(bosh.sid.clone(), Arc::clone(&bosh));
        tokio::spawn(watch(Arc::clone(&web.hub), Arc::clone(&web.boshes), bosh));
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Bosh>>> {
        // A map is whole after any panic between its operations.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a session that is no longer asked for, or into which nobody logs in.
async fn watch(hub: Arc<Hub>, boshes: Arc<Boshes>, bosh: Arc<Bosh>) {
    while bosh.deadline() > Instant::now() {
        tokio::time::sleep_until(bosh.deadline()).await;
    }
    boshes.lock().remove(&bosh.sid);
    bosh.finish(&hub).await;
}

impl Bosh {
    /// When it ends if nothing happens until then.
    fn deadline(&self) -> Instant {
        let idle = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) + INACTIVITY + self.wait;
        if self.bound.load(Ordering::Relaxed) { idle } else { idle.min(self.login_by) }
    }

    async fn request(&self, web: &Web, rid: u64, body: &Element) -> String {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let deadline = Instant::now() + self.wait;
        // In order: a request that came too early waits for the one before it.
        loop {
            let mut stream = self.stream.lock().await;
            if rid <= stream.done {
                if let Some((_, text)) = stream.answers.iter().find(|(number, _)| *number == rid) {
                    return text.clone();
                }
                if rid + ANSWERS_KEPT as u64 <= stream.done {
                    return terminated("item-not-found");
                }
                // Repeated while the first one is held: it gets the same answer.
                let kept = self.kept.notified();
                tokio::pin!(kept);
                kept.as_mut().enable();
                drop(stream);
                if timeout_at(deadline, kept).await.is_err() {
                    return terminated("item-not-found");
                }
                continue;
            }
            if rid == stream.done + 1 {
                stream.done = rid;
                stream.newest = stream.newest.max(rid);
                self.newer.notify_waiters();
                let replies = self.work_off(web, &mut stream, body).await;
                self.moved.notify_waiters();
                let over = matches!(stream.stage, Stage::Over);
                drop(stream);
                if over {
                    web.boshes.lock().remove(&self.sid);
                    let failed = replies.iter().any(|reply| reply.starts_with("<stream:error"));
                    let condition = failed.then_some("remote-stream-error");
                    return self.keep(rid, body_text(&terminate_body(condition), &replies, "")).await;
                }
                return self.hold(rid, replies, deadline).await;
            }
            if rid > stream.done + AHEAD_MAX {
                drop(stream);
                web.boshes.lock().remove(&self.sid);
                self.finish(&web.hub).await;
                return terminated("item-not-found");
            }
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            drop(stream);
            if timeout_at(deadline, moved).await.is_err() {
                return terminated("item-not-found");
            }
        }
    }

    /// Does what the request says; returns what is answered at once.
    async fn work_off(&self, web: &Web, stream: &mut Stream, body: &Element) -> Vec<String> {
        let mut replies = Vec::new();
        if (body.attr("restart") == Some("true") || is_restart(body))
            && let Stage::Opening(opening) = &stream.stage
        {
            replies.push(opening.session_features().to_string());
        }
        for element in body.children() {
            let mut element = element.clone();
            // A child without a namespace of its own stands in that of the body.
            if element.ns() == ns::HTTPBIND {
                element = with_client_ns(&element);
            }
            match &mut stream.stage {
                Stage::Opening(opening) => {
                    let step = opening.handle(&element);
                    self.take_step(web, stream, step, &mut replies);
                }
                Stage::Bound(session) => {
                    let session = Arc::clone(session);
                    web.hub.handle(&session, element).await;
                }
                Stage::Over => break,
            }
        }
        if body.attr("type") == Some("terminate") {
            self.end(&web.hub, stream);
        }
        replies
    }

    fn take_step(&self, web: &Web, stream: &mut Stream, step: Step, replies: &mut Vec<String>) {
        match step {
            Step::Reply(said) => replies.extend(said.iter().map(ToString::to_string)),
            Step::Login => {
                let user = web.hub.login(None);
                if let Stage::Opening(opening) = &mut stream.stage {
                    replies.push(opening.logged_in(user).to_string());
                }
            }
            Step::Bind { user, iq } => match web.hub.bind(&user, Arc::clone(&self.origin), self.sender.clone()) {
                Ok(session) => {
                    let jid = session.jid.to_string();
                    replies.push(
                        tertulia_conference::domain::pushed_at_bind(&web.hub.settings.conference, &jid).to_string(),
                    );
                    let bound =
                        Element::new("bind", ns::BIND).with_child(Element::new("jid", ns::BIND).with_text(&jid));
                    replies.push(result_for(&iq, Some(bound)).to_string());
                    stream.stage = Stage::Bound(session);
                    self.bound.store(true, Ordering::Relaxed);
                }
                Err(_) => replies.push(server_full(&iq).to_string()),
            },
            // There is nothing to resume here: the features do not offer it.
            Step::Resume { .. } => replies.push(tertulia_xmpp::sm::failed(None, "item-not-found").to_string()),
            Step::End(said) => {
                replies.extend(said.iter().map(ToString::to_string));
                stream.stage = Stage::Over;
            }
        }
    }

    /// Holds the request until there is something to say, a newer one comes, or it has waited long enough.
    async fn hold(&self, rid: u64, mut replies: Vec<String>, deadline: Instant) -> String {
        let released = self.newer.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let is_newest = self.stream.lock().await.newest == rid;
        let mut frames = self.frames.lock().await;
        let mut ended = false;
        if replies.is_empty() && is_newest {
            let first = tokio::select! {
                frame = frames.recv() => frame,
                () = &mut released => None,
                () = tokio::time::sleep_until(deadline) => None,
            };
            ended |= take(first, &mut replies);
        }
        while replies.len() < STANZAS_PER_ANSWER && !ended {
            let Ok(frame) = frames.try_recv() else { break };
            ended |= take(Some(frame), &mut replies);
        }
        drop(frames);
        let head = if ended { terminate_body(None) } else { Element::new("body", ns::HTTPBIND) };
        // Kept before it is sent: a connection that breaks now loses nothing.
        self.keep(rid, body_text(&head, &replies, "")).await
    }

    async fn keep(&self, rid: u64, text: String) -> String {
        let mut stream = self.stream.lock().await;
        if stream.answers.len() >= ANSWERS_KEPT {
            stream.answers.pop_front();
        }
        stream.answers.push_back((rid, text.clone()));
        drop(stream);
        self.kept.notify_waiters();
        text
    }

    /// Ends the session from outside a request.
    async fn finish(&self, hub: &Arc<Hub>) {
        if let Ok(mut stream) = timeout(WAIT_MAX, self.stream.lock()).await {
            self.end(hub, &mut stream);
        }
        self.newer.notify_waiters();
    }

    fn end(&self, hub: &Arc<Hub>, stream: &mut Stream) {
        if let Stage::Bound(session) = std::mem::replace(&mut stream.stage, Stage::Over) {
            hub.end(&session, Vec::new());
        }
    }
}

/// Collects a frame; `true` when it is the last.
fn take(frame: Option<Frame>, replies: &mut Vec<String>) -> bool {
    match frame {
        Some(Frame::Text(text)) => {
            replies.push(text);
            false
        }
        Some(Frame::End(texts)) => {
            replies.extend(texts);
            true
        }
        None => false,
    }
}

/// `xmpp:restart` is an attribute of a foreign namespace, which the parser drops: a body with `to`, without children and terminate, after
/// login is a restart.
fn is_restart(body: &Element) -> bool {
    body.attr("to").is_some() && body.children().next().is_none() && body.attr("type").is_none()
}

fn with_client_ns(element: &Element) -> Element {
    let mut copy = Element::new(element.name(), ns::CLIENT);
    for (name, value) in element.attrs() {
        copy.set_attr(name, value);
    }
    for node in element.nodes() {
        match node {
            tertulia_xmpp::Node::Element(child) if child.ns() == ns::HTTPBIND => copy.push(with_client_ns(child)),
            tertulia_xmpp::Node::Element(child) => copy.push(child.clone()),
            tertulia_xmpp::Node::Text(text) => copy.push_text(text),
        }
    }
    copy
}

fn terminated(condition: &str) -> String {
    let said: Vec<String> = if condition == "remote-stream-error" {
        stream_end(Framing::Bosh, "undefined-condition", "").iter().map(ToString::to_string).collect()
    } else {
        Vec::new()
    };
    body_text(&terminate_body(Some(condition)), &said, "")
}

fn terminate_body(condition: Option<&str>) -> Element {
    Element::new("body", ns::HTTPBIND).with_attr("type", "terminate").with_attr_opt("condition", condition)
}

/// A body around stanzas that are serialised already. `extra` are attributes with prefixes, which the tree does not know.
fn body_text(body: &Element, stanzas: &[String], extra: &str) -> String {
    let mut text = String::from(
        "<body xmlns='http://jabber.org/protocol/httpbind' xmlns:stream='http://etherx.jabber.org/streams' ",
    );
    text.push_str(extra);
    let mut head = String::new();
    body.write(&mut head);
    let attributes =
        head.trim_start_matches("<body xmlns='http://jabber.org/protocol/httpbind'").trim_end_matches("/>").trim();
    text.push_str(attributes);
    text.push('>');
    for stanza in stanzas {
        text.push_str(stanza);
    }
    text.push_str("</body>");
    text
}

fn answer(text: &str) -> Response {
    let mut response = cors::allow(text.to_owned().into_response());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bosh(bound: bool) -> Arc<Bosh> {
        let (sender, frames) = mpsc::channel(4);
        Arc::new(Bosh {
            sid: "s".into(),
            wait: WAIT_MAX,
            stream: Mutex::new(Stream { stage: Stage::Over, done: 0, newest: 0, answers: VecDeque::new() }),
            frames: Mutex::new(frames),
            sender,
            origin: "ws://d".into(),
            newer: Notify::new(),
            moved: Notify::new(),
            kept: Notify::new(),
            seen: StdMutex::new(Instant::now()),
            login_by: Instant::now() + LOGIN_TIMEOUT,
            bound: AtomicBool::new(bound),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_but_does_not_log_in_is_forgotten_soon_and_who_has_is_not() {
        let start = Instant::now();
        let (stranger, known) = (bosh(false), bosh(true));
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for one in [&stranger, &known] {
                *one.seen.lock().unwrap() = Instant::now();
            }
        }
        assert_eq!(stranger.deadline(), start + LOGIN_TIMEOUT);
        assert_eq!(known.deadline(), start + Duration::from_secs(20) + INACTIVITY + WAIT_MAX);
    }
}
