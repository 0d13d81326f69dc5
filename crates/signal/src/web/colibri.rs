//! The bridge channel: a WebSocket between a client and the bridge, opened with the password of its offer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tertulia_model::{ChannelSink, ConferenceId, EndpointId};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Web, query_value};

/// Longest message in bytes.
const MESSAGE_MAX: usize = 64 * 1024;
/// Messages that may wait for a client.
const QUEUE_MAX: usize = 512;
/// Silence after which the client is pinged, and pings without a word after which it is gone.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PINGS_UNANSWERED_MAX: u32 = 4;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the bridge tells a channel.
enum Order {
    Text(Arc<str>),
    Close(u16, &'static str),
}

/// The bridge's end.
struct Sink(mpsc::Sender<Order>);

impl ChannelSink for Sink {
    fn send(&self, text: Arc<str>) -> bool {
        self.0.try_send(Order::Text(text)).is_ok()
    }

    fn close(&self, code: u16, reason: &'static str) {
        // A full queue ends the socket too: dropping this end is seen there.
        let _ = self.0.try_send(Order::Close(code, reason));
    }
}

/// One text for everything that is wrong with the address, and for everything that is wrong with the password: stale tabs ask for ever.
pub(crate) async fn handle(
    State(web): State<Web>,
    Path((bridge, conference, endpoint)): Path<(String, String, String)>,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let (Ok(conference), Ok(endpoint)) = (ConferenceId::parse(&conference), EndpointId::parse(&endpoint)) else {
        return (StatusCode::NOT_FOUND, "invalid path").into_response();
    };
    let password = query_value(&uri, "pwd").unwrap_or("");
    if !web.hub.bridge.may_open_channel(&bridge, conference, &endpoint, password) {
        return (StatusCode::FORBIDDEN, "authentication failed").into_response();
    }
    let Ok(slot) = Arc::clone(&web.sockets).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is full: try again later").into_response();
    };
    match upgrade {
        Ok(upgrade) => upgrade
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(MESSAGE_MAX)
            .max_frame_size(MESSAGE_MAX)
            .on_upgrade(move |socket| async move {
                run(web, socket, conference, endpoint).await;
                drop(slot);
            }),
        Err(_) => (StatusCode::BAD_REQUEST, "connect with a WebSocket").into_response(),
    }
}

async fn run(web: Web, mut socket: WebSocket, conference: ConferenceId, endpoint: EndpointId) {
    let (sender, mut orders) = mpsc::channel(QUEUE_MAX);
    web.hub.bridge.attach_channel(conference, endpoint.clone(), Arc::new(Sink(sender)));
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let mut unanswered = 0;
    loop {
        let written = tokio::select! {
            message = socket.next() => {
                unanswered = 0;
                match message {
                    Some(Ok(Message::Text(text))) => {
                        web.hub.bridge.channel_message(conference, endpoint.clone(), text.to_string());
                        true
                    }
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => true,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => false,
                }
            }
            order = orders.recv() => match order {
                Some(Order::Text(text)) => write(&mut socket, Message::Text(text.as_ref().into())).await,
                Some(Order::Close(code, reason)) => {
                    write(&mut socket, Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
                    false
                }
                // The bridge dropped its end: the client did not keep up.
                None => false,
            },
            _ = pings.tick() => {
                unanswered += 1;
                unanswered < PINGS_UNANSWERED_MAX && write(&mut socket, Message::Ping(Vec::new().into())).await
            }
        };
        if !written {
            return;
        }
    }
}

async fn write(socket: &mut WebSocket, message: Message) -> bool {
    matches!(timeout(WRITE_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}
