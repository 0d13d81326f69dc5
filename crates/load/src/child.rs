//! The process with the real bridge: reads orders, passes them on, reports what the bridge says.

use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;
use tertulia_media::srtp::Profile;
use tertulia_media::{BridgeHandle, MediaBridge, Policy, Settings};
use tertulia_model::{
    Bridge, BridgeEvent, BridgeRequest, Capabilities, ChannelKinds, ChannelSink, ConferenceId, DtlsSetup, EventSink,
    Fingerprint, HashFunction, IceCredentials, RemoteTransport,
};

use crate::allocator;
use crate::echo;
use crate::fanout;
use crate::process::pin_to_core;
use crate::protocol::{Counters, Order, Report};
use crate::sources;

/// How it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Worker threads, on the first cores.
    pub(crate) workers: usize,
    /// People of a room on one worker before its next ones go to another; 0 is never.
    pub(crate) spread_at: usize,
}

/// Runs until its input ends.
///
/// # Errors
/// When input or output break.
pub(crate) fn run(how: How) -> std::io::Result<()> {
    allocator::leave_out_this_thread();
    let (reports, outbox) = crossbeam_channel::unbounded::<Report>();
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        allocator::leave_out_this_thread();
        let mut out = std::io::stdout().lock();
        for report in outbox {
            serde_json::to_writer(&mut out, &report)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Ok(())
    });
    let settings = Settings {
        bind: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port: 0,
        workers: how.workers,
        advertised: Vec::new(),
        endpoints_per_worker: 1 << 20,
        spread_at: how.spread_at,
        policy: Policy::default(),
        overload: None,
        channels: ChannelKinds::WebSocket,
        tcp_port: None,
    };
    match MediaBridge::start(&settings) {
        Ok(bridge) => {
            // The workers pinned themselves to the first cores; what follows must not take their time.
            pin_to_core(crate::process::cores() - 1);
            allocator::start();
            let _ = reports.send(Report::Started { ports: bridge.ports().to_vec() });
            serve(&bridge.handle(), &reports)?;
            bridge.shutdown();
        }
        Err(error) => {
            let _ = reports.send(Report::Failed { why: error.to_string() });
        }
    }
    drop(reports);
    writer.join().map_err(|_| std::io::Error::other("the writer failed"))?
}

fn serve(bridge: &BridgeHandle, reports: &Sender<Report>) -> std::io::Result<()> {
    let texts = Arc::new(AtomicU64::new(0));
    let mut fan_out: Option<fanout::Running> = None;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        match order {
            Order::Open { room } => {
                bridge.open(ConferenceId(room), Arc::new(Events { room, reports: reports.clone() }));
            }
            Order::Channel { room, person, estimates } => {
                let sink = Channel { person, estimates, reports: reports.clone(), texts: Arc::clone(&texts) };
                bridge.attach_channel(ConferenceId(room), sources::endpoint(person), Arc::new(sink));
            }
            Order::Message { room, person, text } => {
                bridge.channel_message(ConferenceId(room), sources::endpoint(person), text);
            }
            Order::Counters => {
                let _ = reports.send(Report::Counters(counters(bridge, &texts)));
            }
            Order::Close { room } => bridge.request(ConferenceId(room), BridgeRequest::ExpireConference),
            Order::FanOut(orders) => {
                fan_out = Some(announced(fanout::start(orders, negotiated(bridge))?, reports));
            }
            Order::Echo => fan_out = Some(announced(echo::start()?, reports)),
            Order::EndFanOut => {
                fan_out.take().into_iter().for_each(fanout::Running::end);
                let _ = reports.send(Report::FanOutEnded);
            }
            Order::Allocate { .. } | Order::Transport { .. } | Order::Sources { .. } => {
                if let Some((room, request)) = request_of(order) {
                    bridge.request(ConferenceId(room), request);
                }
            }
        }
    }
    Ok(())
}

fn announced(running: fanout::Running, reports: &Sender<Report>) -> fanout::Running {
    let _ = reports.send(Report::FanOut { address: running.address });
    running
}

/// The profile that most clients of the bridge have: a fan-out seals under the same.
fn negotiated(bridge: &BridgeHandle) -> Profile {
    let workers = bridge.counters().workers;
    let profiles = [
        (workers.connected_aead_128, Profile::AeadAes128Gcm),
        (workers.connected_sha1, Profile::AesCm128HmacSha1),
        (workers.connected_aead_256, Profile::AeadAes256Gcm),
    ];
    profiles.into_iter().max_by_key(|(count, _)| *count).map_or(Profile::AeadAes256Gcm, |(_, profile)| profile)
}

fn request_of(order: Order) -> Option<(u64, BridgeRequest)> {
    Some(match order {
        Order::Allocate { room, person } => {
            let endpoint = sources::endpoint(person);
            (room, BridgeRequest::Allocate { endpoint, capabilities: Capabilities::USUAL })
        }
        Order::Transport { room, person, ufrag, pwd, fingerprint } => {
            let fingerprint = Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Active, &fingerprint)?;
            let ice = IceCredentials { ufrag, pwd };
            let transport = RemoteTransport { ice, fingerprint: Some(fingerprint), ice_generation: None };
            (room, BridgeRequest::SetTransport { endpoint: sources::endpoint(person), transport })
        }
        Order::Sources { room, person, camera, voice } => {
            let sources = sources::set(person, camera, voice);
            (room, BridgeRequest::SetSources { endpoint: sources::endpoint(person), sources })
        }
        _ => return None, // the others are no requests
    })
}

fn counters(bridge: &BridgeHandle, texts: &AtomicU64) -> Counters {
    let counters = bridge.counters();
    let workers = counters.workers;
    Counters {
        datagrams: workers.datagrams,
        dropped: workers.dropped_unknown_protocol
            + workers.dropped_unknown_address
            + workers.dropped_unknown_user
            + workers.dropped_replayed
            + workers.dropped_forged
            + workers.dropped_malformed,
        sent: counters.sent,
        refused: counters.refused,
        dropped_full: counters.dropped_full,
        runs: counters.runs.to_vec(),
        sending_calls: counters.sending_calls.to_vec(),
        receiving_calls: counters.receiving_calls.to_vec(),
        connected: workers.connected_aead_256 + workers.connected_aead_128 + workers.connected_sha1,
        failed: workers.failed_certificate + workers.failed_handshake,
        panics: workers.panics,
        texts: texts.load(Ordering::Relaxed),
        allocations: allocator::count(),
    }
}

/// Passes a conference's events on.
struct Events {
    room: u64,
    reports: Sender<Report>,
}

impl EventSink for Events {
    fn event(&self, event: BridgeEvent) {
        let room = self.room;
        let report = match event {
            BridgeEvent::Allocated { endpoint, transport, .. } => Report::Allocated {
                room,
                person: endpoint.to_string(),
                ufrag: transport.ice.ufrag,
                pwd: transport.ice.pwd,
                fingerprint: transport.fingerprint.to_hex(),
                port: transport.candidates.first().map_or(0, |candidate| candidate.port),
            },
            BridgeEvent::Connected { endpoint } => Report::Connected { room, person: endpoint.to_string() },
            BridgeEvent::Refused { endpoint, refusal } => {
                Report::Ended { room, person: endpoint.to_string(), why: format!("{refusal:?}") }
            }
            BridgeEvent::Expired { endpoint, reason } => {
                Report::Ended { room, person: endpoint.to_string(), why: format!("{reason:?}") }
            }
            BridgeEvent::Lost => Report::Ended { room, person: String::new(), why: "lost".into() },
            BridgeEvent::Restarted { .. } | BridgeEvent::Activity { .. } | BridgeEvent::DominantSpeaker { .. } => {
                return;
            }
        };
        let _ = self.reports.send(report); // the writer ends last
    }
}

/// A channel to a client that reads only what concerns its camera, and what is believed of its path where that is wanted.
struct Channel {
    person: u32,
    estimates: bool,
    reports: Sender<Report>,
    texts: Arc<AtomicU64>,
}

impl ChannelSink for Channel {
    fn send(&self, text: Arc<str>) -> bool {
        self.texts.fetch_add(1, Ordering::Relaxed);
        if text.contains("SenderSourceConstraints")
            && let Ok(value) = serde_json::from_str::<serde_json::Value>(&text)
            && let Some(max_height) = value["maxHeight"].as_i64().and_then(|height| i32::try_from(height).ok())
        {
            let person = sources::endpoint(self.person).to_string();
            let _ = self.reports.send(Report::MaxHeight { person, max_height });
        }
        if self.estimates
            && text.contains("ConnectionStats")
            && let Ok(value) = serde_json::from_str::<serde_json::Value>(&text)
            && let Some(bps) = value["estimatedDownlinkBandwidth"].as_u64()
        {
            let _ = self.reports.send(Report::Estimate { person: self.person, bps });
        }
        true
    }

    fn close(&self, _: u16, _: &'static str) {}
}
