//! Whether this server can hold a meeting now: its doors are open, and the bridge answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tertulia_model::{BridgeEvent, BridgeRequest, Capabilities, ConferenceId, EndpointId, EventSink};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::chance;
use crate::hub::Hub;

/// A bridge that needs longer for one answer holds no meeting either.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReady {
    Stopping,
    BridgeSilent,
}

impl NotReady {
    /// For a person who looks.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stopping => "not ready: stopping\n",
            Self::BridgeSilent => "not ready: the bridge does not answer\n",
        }
    }
}

/// Asks the bridge for an endpoint in a conference of its own, as a room does.
pub(crate) async fn check(hub: &Hub) -> Result<(), NotReady> {
    if hub.rooms.is_closing() {
        return Err(NotReady::Stopping);
    }
    let Ok(endpoint) = EndpointId::parse("readiness") else { return Err(NotReady::BridgeSilent) };
    let [a, b, c, d, e, f, g, h, ..] = chance::seed();
    let conference = ConferenceId(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let (answer, answered) = oneshot::channel();
    hub.bridge.open(conference, Arc::new(FirstAnswer(Mutex::new(Some(answer)))));
    let request = BridgeRequest::Allocate { endpoint, capabilities: Capabilities::USUAL };
    hub.bridge.request(conference, request);
    let answered = timeout(PATIENCE, answered).await;
    hub.bridge.request(conference, BridgeRequest::ExpireConference);
    if matches!(answered, Ok(Ok(()))) { Ok(()) } else { Err(NotReady::BridgeSilent) }
}

/// Hears one answer. A refusal is one: a full bridge still serves whoever is there.
struct FirstAnswer(Mutex<Option<oneshot::Sender<()>>>);

impl EventSink for FirstAnswer {
    fn event(&self, event: BridgeEvent) {
        if matches!(event, BridgeEvent::Allocated { .. } | BridgeEvent::Refused { .. }) {
            let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Who asked may have lost patience.
            let _ = waiting.map(|waiting| waiting.send(()));
        }
    }
}
