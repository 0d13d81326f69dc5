//! XMPP over WebSocket (RFC 7395): a socket's task.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use tertulia_xmpp::sm::is_stanza;
use tertulia_xmpp::{Element, MAX_STANZA_LEN, ns, parse, sm};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::{Origin, Web, cors, query_value};
use crate::hub::{Hub, server_full};
use crate::session::{Frame, SOCKET_QUEUE_MAX, Session};
use crate::stream::{Framing, Opening, Step, close, stream_end};

/// From the upgrade to a bound session.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pings of the socket; two in a row without a word end it.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A message slightly over the limit is still read, so that its sender is told what is wrong.
const MESSAGE_MAX: usize = MAX_STANZA_LEN + 64 * 1024;
/// Bytes a second that a client may send in the long run, and at once. A join is 10–20 kB; what is over waits.
const BYTES_PER_SECOND: f64 = 64.0 * 1024.0;
const BYTES_BURST: f64 = 512.0 * 1024.0;
/// How long a client that was refused is listened to, so that it can read why.
const LINGER: Duration = Duration::from_secs(1);
/// A client that does not take a frame for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// The upgrade; without one the client's keep-alive, which wants a quick 200.
pub(crate) async fn handle(
    State(web): State<Web>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    uri: Uri,
    asked: Request,
) -> Response {
    if asked.method() == Method::OPTIONS {
        return cors::preflight("GET, OPTIONS", "Content-Type, Authorization");
    }
    let Ok(upgrade) = upgrade else {
        let mut response = cors::allow("It works! Connect with a WebSocket.".into_response());
        let expose = HeaderValue::from_static("X-Jitsi-Shard");
        response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        return response;
    };
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !offered.split(',').any(|protocol| protocol.trim() == "xmpp") {
        // After an upgrade without it browsers would drop the socket and say nothing.
        return (StatusCode::NOT_IMPLEMENTED, "the sub-protocol xmpp must be offered").into_response();
    }
    let Ok(slot) = Arc::clone(&web.sockets).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is full: try again later").into_response();
    };
    let origin: Arc<str> = Origin::of(&web, &headers, &uri).websocket().into();
    let previd = query_value(&uri, "previd").map(str::to_owned);
    upgrade
        .protocols(["xmpp"])
        // The defaults cost 137 KB for each connection.
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .on_upgrade(move |socket| async move {
            let (sender, frames) = mpsc::channel(SOCKET_QUEUE_MAX);
            let opening = Opening::new(Framing::WebSocket, &web.hub.settings.conference.domains.main);
            let stage = Stage::Opening(opening);
            let connection = Connection { hub: web.hub, socket, sender: Some(sender), previd, origin, stage };
            connection.run(frames).await;
            drop(slot);
        })
}

/// What a connection is for.
enum Stage {
    Opening(Opening),
    Bound {
        session: Arc<Session>,
        attachment: u64,
    },
    /// Over: the session has gone on without it, or ended.
    Done,
}

/// One socket.
struct Connection {
    hub: Arc<Hub>,
    socket: WebSocket,
    /// The session's way to this socket. Given away when the session has it: a session that drops it ends the socket.
    sender: Option<mpsc::Sender<Frame>>,
    previd: Option<String>,
    origin: Arc<str>,
    stage: Stage,
}

impl Connection {
    async fn run(mut self, mut frames: mpsc::Receiver<Frame>) {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let mut budget = Budget::new();
        let (login_by, mut unanswered) = (Instant::now() + LOGIN_TIMEOUT, 0);
        let mut goodbye = false;
        loop {
            let opening = matches!(self.stage, Stage::Opening(_));
            let more = tokio::select! {
                message = self.socket.next() => {
                    unanswered = 0;
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            budget.spend(text.len()).await;
                            match self.handle_text(&text).await {
                                After::GoOn => true,
                                After::Close { goodbye: said } => { goodbye = said; false }
                            }
                        }
                        Some(Ok(Message::Binary(_))) => { self.end_with("not-well-formed", "text frames only").await; false }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => true,
                        Some(Err(error)) => { self.say_why(&error).await; false }
                        Some(Ok(Message::Close(_))) | None => false,
                    }
                }
                frame = frames.recv() => match frame {
                    Some(Frame::Text(text)) => self.write(text).await,
                    Some(Frame::End(texts)) => {
                        for text in texts {
                            self.write(text).await;
                        }
                        self.stage = Stage::Done;
                        false
                    }
                    None => false,
                },
                _ = pings.tick() => {
                    unanswered += 1;
                    unanswered <= 2 && self.write_message(Message::Ping(Vec::new().into())).await
                }
                () = tokio::time::sleep_until(login_by), if opening => {
                    self.end_with("connection-timeout", "log in sooner").await;
                    false
                }
            };
            if !more {
                break;
            }
        }
        if let Stage::Bound { session, attachment } = std::mem::replace(&mut self.stage, Stage::Done) {
            self.hub.socket_lost(session, attachment, goodbye);
        }
        let _ = timeout(WRITE_TIMEOUT, self.socket.close()).await; // the other side may be gone
    }

    async fn handle_text(&mut self, text: &str) -> After {
        let element = match parse(text) {
            Ok(element) => element,
            Err(error) => {
                debug!(%error, "a message was not a stanza");
                self.end_with(error.stream_condition(), &error.to_string()).await;
                // What cannot be read once cannot be read after a resumption: the session ends too.
                return After::Close { goodbye: true };
            }
        };
        match &mut self.stage {
            Stage::Opening(opening) => {
                let step = opening.handle(&element);
                self.take_step(step).await
            }
            Stage::Bound { session, attachment } => {
                let (session, attachment) = (Arc::clone(session), *attachment);
                self.handle_bound(&session, attachment, element).await
            }
            Stage::Done => After::Close { goodbye: false },
        }
    }

    async fn take_step(&mut self, step: Step) -> After {
        match step {
            Step::Reply(said) => self.say(&said).await,
            Step::Login => {
                let user = self.hub.login(self.previd.as_deref());
                let Stage::Opening(opening) = &mut self.stage else { return After::Close { goodbye: false } };
                let success = opening.logged_in(user);
                self.say(&[success]).await
            }
            Step::Bind { user, iq } => {
                let Some(sender) = self.sender.clone() else { return After::Close { goodbye: false } };
                let Ok(session) = self.hub.bind(&user, Arc::clone(&self.origin), sender) else {
                    return self.say(&[server_full(&iq)]).await;
                };
                let jid = session.jid.to_string();
                let pushed = tertulia_conference::domain::pushed_at_bind(&self.hub.settings.conference, &jid);
                let bound = Element::new("bind", ns::BIND).with_child(Element::new("jid", ns::BIND).with_text(&jid));
                let result = tertulia_xmpp::stanza::result_for(&iq, Some(bound));
                self.stage = Stage::Bound { session, attachment: 0 };
                self.sender = None;
                self.say(&[pushed, result]).await
            }
            Step::Resume { user, previd, h } => {
                let Some(sender) = self.sender.clone() else { return After::Close { goodbye: false } };
                match self.hub.resume(&user, &previd, h, sender) {
                    Ok((session, attachment)) => {
                        self.stage = Stage::Bound { session, attachment };
                        self.sender = None;
                        After::GoOn
                    }
                    Err(failed) => self.say(&[failed]).await,
                }
            }
            Step::End(said) => {
                let _ = self.say(&said).await;
                After::Close { goodbye: true }
            }
        }
    }

    async fn handle_bound(&mut self, session: &Arc<Session>, attachment: u64, element: Element) -> After {
        if is_stanza(&element) {
            if !session.received(attachment, &element) {
                return After::Close { goodbye: false };
            }
            self.hub.handle(session, element).await;
            return After::GoOn;
        }
        let number = |name| element.attr(name).and_then(|text| text.parse::<u32>().ok());
        match (element.name(), element.ns()) {
            ("r", ns::SM) => {
                if let Some(h) = session.h() {
                    session.send_uncounted(&sm::answer(h));
                }
            }
            ("a", ns::SM) => {
                if let Some(h) = number("h") {
                    session.acknowledge(h);
                }
            }
            ("enable", ns::SM) => {
                if self.hub.enable_resumption(session).is_none() {
                    session.send_uncounted(&sm::failed(None, "unexpected-request"));
                }
            }
            ("close", ns::FRAMING) => {
                let _ = self.say(&[close()]).await;
                return After::Close { goodbye: true };
            }
            _ => {
                self.end_with("unsupported-stanza-type", "not a stanza").await;
                return After::Close { goodbye: true };
            }
        }
        After::GoOn
    }

    /// The library ends the connection when a message is too long; its sender is told all the same.
    async fn say_why(&mut self, error: &axum::Error) {
        debug!(%error, "a socket failed");
        if error.to_string().to_lowercase().contains("too l") {
            self.end_with("policy-violation", "stanza too large").await;
        }
    }

    /// Ends the stream for something that can never succeed, and the session with it: its client would only send the same again.
    async fn end_with(&mut self, condition: &str, text: &str) {
        let _ = self.say(&stream_end(Framing::WebSocket, condition, text)).await;
        if let Stage::Bound { session, .. } = std::mem::replace(&mut self.stage, Stage::Done) {
            self.hub.end(&session, Vec::new());
        }
        // Closing with unread data would reset the connection, and the client would never read why.
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = self.socket.next().await {} }).await;
    }

    async fn say(&mut self, elements: &[Element]) -> After {
        for element in elements {
            if !self.write(element.to_string()).await {
                return After::Close { goodbye: false };
            }
        }
        After::GoOn
    }

    async fn write(&mut self, text: String) -> bool {
        self.write_message(Message::Text(text.into())).await
    }

    async fn write_message(&mut self, message: Message) -> bool {
        matches!(timeout(WRITE_TIMEOUT, self.socket.send(message)).await, Ok(Ok(())))
    }
}

/// Whether a connection goes on.
enum After {
    GoOn,
    /// `goodbye`: the client does not mean to come back.
    Close {
        goodbye: bool,
    },
}

/// Smooths a client's stream: over its rate it waits, and is never cut.
struct Budget {
    available: f64,
    at: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { available: BYTES_BURST, at: Instant::now() }
    }

    async fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        let refill = now.duration_since(self.at).as_secs_f64() * BYTES_PER_SECOND;
        self.at = now;
        self.available =
            (self.available + refill).min(BYTES_BURST) - f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.available < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.available / BYTES_PER_SECOND)).await;
        }
    }
}
