//! The rooms: a task each, holding a `Conference`; everybody else holds the sender of its inbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use tertulia_conference::{Conference, Input, Output};
use tertulia_model::{BridgeEvent, BridgeRequest, ConferenceId, EventSink};
use tertulia_xmpp::{BareJid, Element};
use tokio::sync::{Notify, mpsc};
use tracing::{Instrument, error, info, info_span};

use crate::chance;
use crate::hub::Hub;

/// Inputs that may wait. Sockets wait with them; the bridge's events do not, and what does not fit is lost with an error in the log.
const INBOX_MAX: usize = 4_096;

/// The directory of rooms.
pub(crate) struct Rooms {
    hub: Weak<Hub>,
    max: usize,
    inboxes: Mutex<HashMap<BareJid, mpsc::Sender<Input>>>,
    /// No further rooms: the server is about to stop.
    closing: AtomicBool,
    /// A room has ended.
    ended: Notify,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// No further one can be held now.
    Full,
    /// The server is about to stop.
    Closing,
}

impl Rooms {
    pub(crate) fn new(hub: Weak<Hub>, max: usize) -> Self {
        Self { hub, max, inboxes: Mutex::default(), closing: AtomicBool::new(false), ended: Notify::new() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// From now on there are no new rooms.
    pub(crate) fn close_doors(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether there are no new rooms any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Waits until there is no room.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Makes sure that a room is there.
    pub(crate) async fn open(&self, room: &BareJid) -> Result<(), NoRoom> {
        // A room may end between finding it and asking it; then there is a new one.
        for _ in 0..3 {
            let inbox = self.find_or_start(room)?;
            if inbox.send(Input::Requested).await.is_ok() {
                return Ok(());
            }
        }
        Err(NoRoom::Full)
    }

    /// Gives a stanza to a room, waiting for its inbox. Returns the stanza when there is no such room.
    pub(crate) async fn say(&self, room: &BareJid, input: Input) -> Option<Element> {
        let inbox = self.lock().get(room).cloned();
        let unsaid = match inbox {
            Some(inbox) => inbox.send(input).await.err().map(|error| error.0),
            None => Some(input),
        };
        match unsaid? {
            Input::Stanza { stanza, .. } => Some(stanza),
            Input::Requested | Input::Gone { .. } | Input::Bridge(_) => None,
        }
    }

    /// Tells a room something, if it is there, without waiting here.
    pub(crate) fn tell(&self, room: &BareJid, input: Input) {
        let Some(inbox) = self.lock().get(room).cloned() else { return };
        match inbox.try_send(input) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(input)) => {
                // Nobody may be forgotten in a room: this waits in a task of its own.
                tokio::spawn(async move { inbox.send(input).await });
            }
        }
    }

    fn find_or_start(&self, room: &BareJid) -> Result<mpsc::Sender<Input>, NoRoom> {
        let mut inboxes = self.lock();
        if let Some(inbox) = inboxes.get(room).filter(|inbox| !inbox.is_closed()) {
            return Ok(inbox.clone());
        }
        let hub = self.hub.upgrade().filter(|_| !self.is_closing()).ok_or(NoRoom::Closing)?;
        if inboxes.len() >= self.max {
            info!("a room was refused: raise `limits.rooms`");
            return Err(NoRoom::Full);
        }
        let (inbox, inputs) = mpsc::channel(INBOX_MAX);
        inboxes.insert(room.clone(), inbox.clone());
        let span = info_span!("room", %room);
        tokio::spawn(run(hub, room.clone(), inbox.downgrade(), inputs).instrument(span));
        Ok(inbox)
    }

    /// Forgets a room whose task ends.
    fn forget(&self, room: &BareJid) {
        let mut inboxes = self.lock();
        if inboxes.get(room).is_some_and(mpsc::Sender::is_closed) {
            inboxes.remove(room);
            drop(inboxes);
            self.ended.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BareJid, mpsc::Sender<Input>>> {
        // A map is whole after any panic between its operations.
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room's life.
async fn run(hub: Arc<Hub>, room: BareJid, inbox: mpsc::WeakSender<Input>, mut inputs: mpsc::Receiver<Input>) {
    info!("room opened");
    let mut out = Vec::new();
    let settings = Arc::clone(&hub.settings.conference);
    let (now, created) = (Instant::now(), SystemTime::now());
    let mut conference = Conference::new(now, created, room.clone(), settings, chance::seed(), &mut out);
    let mut shell = Shell { hub: Arc::clone(&hub), inbox, bridge: None, closed: false };
    shell.perform(&mut out);
    while !shell.closed {
        let deadline = conference.next_timeout().map(tokio::time::Instant::from_std);
        let input = tokio::select! {
            input = inputs.recv() => match input {
                Some(input) => Some(input),
                None => break,
            },
            () = sleep_until(deadline) => None,
        };
        // A defect of ours may cost this room, never the process.
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Some(input) = input {
                conference.handle(Instant::now(), input, &mut out);
            }
            conference.on_timeout(Instant::now(), &mut out); // a busy inbox must not starve the timers
        }));
        if survived.is_err() {
            error!("a defect ended a room");
            break;
        }
        shell.perform(&mut out);
    }
    drop(shell);
    inputs.close();
    hub.rooms.forget(&room);
    // What came in the last moment is answered as if the room had been gone already: clients ask for it again.
    while let Some(input) = inputs.recv().await {
        if let Input::Stanza { from, stanza, .. } = input
            && let Some(answer) = tertulia_conference::domain::no_such_room(&stanza)
        {
            hub.deliver(&from, answer.with_attr("to", from.to_string()).to_string());
        }
    }
    info!("room closed");
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Does what a room says.
struct Shell {
    hub: Arc<Hub>,
    inbox: mpsc::WeakSender<Input>,
    bridge: Option<ConferenceId>,
    closed: bool,
}

impl Shell {
    fn perform(&mut self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send { to, stanza } => self.hub.deliver(&to, stanza.to_string()),
                Output::Broadcast { to, stanza } => {
                    for recipient in to {
                        let mut text = String::new();
                        stanza.for_recipient(&recipient.to_string(), &mut text);
                        self.hub.deliver(&recipient, text);
                    }
                }
                Output::OpenBridge(id) => {
                    self.bridge = Some(id);
                    self.hub.bridge.open(id, Arc::new(RoomEvents(self.inbox.clone())));
                }
                Output::Bridge(request) => {
                    if let Some(id) = self.bridge {
                        self.hub.bridge.request(id, request);
                    }
                }
                Output::Closed => self.closed = true,
            }
        }
    }
}

impl Drop for Shell {
    /// However a room ends, the bridge forgets it.
    fn drop(&mut self) {
        if let Some(id) = self.bridge {
            self.hub.bridge.request(id, BridgeRequest::ExpireConference);
        }
    }
}

/// The bridge's way into a room's inbox.
struct RoomEvents(mpsc::WeakSender<Input>);

impl EventSink for RoomEvents {
    fn event(&self, event: BridgeEvent) {
        if let Some(inbox) = self.0.upgrade()
            && let Err(mpsc::error::TrySendError::Full(_)) = inbox.try_send(Input::Bridge(event))
        {
            error!("a room does not keep up: an event of the bridge was lost");
        }
    }
}
