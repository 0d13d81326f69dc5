//! A running server: the media bridge's threads, the web server's tasks, and the signal that ends both.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tertulia_conference::{Domains, Settings as ConferenceSettings};
use tertulia_media::{MediaBridge, Policy};
use tertulia_model::ChannelKinds;
use tertulia_signal::{Limits, Server, Settings, Stop, Tls};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::config::{Config, OfferedChannel};

/// Endpoints that one worker holds at most; a core forwards for about that many.
const ENDPOINTS_PER_WORKER: usize = 5_000;
/// Without TLS: this machine only, because browsers allow cameras on http://localhost alone.
const LOCAL_PORT: u16 = 8_000;
const HTTPS_PORT: u16 = 443;

/// Serves until SIGTERM or Ctrl-C.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let media = MediaBridge::start(&media_settings(config))?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the tasks of the web server")?;
    let served = runtime.block_on(async {
        let server = Server::bind(signal_settings(config), Arc::new(media.handle())).await?;
        announce(config, &server);
        let stop = Stop::default();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = stop.clone();
        tokio::spawn(async move {
            // An init system gives meetings the time of grace; a person at the keyboard, or a second signal, does not.
            tokio::select! { _ = terminate.recv() => told.soon.cancel(), _ = interrupt.recv() => told.now.cancel() }
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            told.now.cancel();
        });
        server.run(stop).await;
        anyhow::Ok(())
    });
    // Tasks that are left hold handles; they end with their runtime.
    runtime.shutdown_background();
    media.shutdown();
    served?;
    info!("stopped");
    Ok(())
}

/// The line that a person looks for.
fn announce(config: &Config, server: &Server) {
    for address in server.addresses() {
        info!(%address, "listening");
    }
    if let Some(address) = server.private_address() {
        info!(%address, "health and statistics");
    }
    let url = if config.server_public_url.is_empty() {
        let addresses = server.addresses();
        let port = addresses.first().map_or(0, SocketAddr::port);
        let scheme = if is_https(config) { "https" } else { "http" };
        let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
        format!("{scheme}://localhost{port}")
    } else {
        config.server_public_url.clone()
    };
    println!("Tertulia is ready: {url}");
}

fn is_https(config: &Config) -> bool {
    tls(config) != Tls::Off
}

fn tls(config: &Config) -> Tls {
    if !config.tls_certificate.as_os_str().is_empty() {
        Tls::Files { certificate: config.tls_certificate.clone(), key: config.tls_key.clone() }
    } else if config.tls_self_signed {
        Tls::SelfSigned { directory: config.server_data.clone(), names: names(config) }
    } else {
        Tls::Off
    }
}

/// Under which this machine is reached: its names and addresses, and the one that the operator gave.
fn names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    let own = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let public = config.server_public_url.split_once("://").map_or("", |(_, rest)| rest);
    let public = public.split('/').next().unwrap_or("");
    // Without a port, and an IPv6 address without its brackets.
    let public = public.strip_prefix('[').map_or_else(|| public.split(':').next(), |rest| rest.split(']').next());
    names.extend(
        [own.trim(), public.unwrap_or("")].iter().filter(|name| !name.is_empty()).map(|name| (*name).to_owned()),
    );
    // A machine that cannot list its addresses still has its names.
    let mut addresses = tertulia_media::local_addresses().unwrap_or_default();
    addresses.extend(config.http_listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()));
    names.extend(addresses.iter().map(ToString::to_string));
    names.sort();
    names.dedup();
    names
}

fn signal_settings(config: &Config) -> Settings {
    let listen = if !config.http_listen.is_empty() {
        config.http_listen.clone()
    } else if is_https(config) {
        vec![(Ipv4Addr::UNSPECIFIED, HTTPS_PORT).into()]
    } else {
        let mut local = vec![(Ipv4Addr::LOCALHOST, LOCAL_PORT).into()];
        local.extend(has_ipv6_loopback().then_some(SocketAddr::from((Ipv6Addr::LOCALHOST, LOCAL_PORT))));
        local
    };
    let conference = ConferenceSettings {
        domains: Domains::of(&config.server_domain),
        occupants_max: usize::try_from(config.limits_occupants).unwrap_or(usize::MAX),
        opus_red: config.media_red,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Settings {
        listen,
        private_listen: config.private_listen,
        tls: tls(config),
        public_url: Some(config.server_public_url.clone()).filter(|url| !url.is_empty()),
        ssrc_rewriting: config.web_ssrc_rewriting,
        grace: Duration::from_secs(config.server_grace.into()),
        limits: Limits {
            rooms: usize::try_from(config.limits_rooms).unwrap_or(usize::MAX),
            sessions: usize::try_from(config.limits_sessions).unwrap_or(usize::MAX),
        },
        conference: Arc::new(conference),
    }
}

fn media_settings(config: &Config) -> tertulia_media::Settings {
    tertulia_media::Settings {
        bind: config.media_bind.clone(),
        port: config.media_port,
        workers: usize::from(config.media_workers),
        advertised: config.media_advertise.iter().map(|mapping| (mapping.public, mapping.local)).collect(),
        policy: Policy {
            loudest: Some(usize::from(config.media_loudest)).filter(|loudest| *loudest != 0),
            last_n: Some(config.media_last_n).filter(|last_n| *last_n != 0),
            last_n_by_size: config.media_last_n_by_size.iter().map(|limit| (limit.people, limit.last_n)).collect(),
        },
        overload: Some(f32::from(config.media_overload) / 100.0).filter(|share| *share > 0.0),
        endpoints_per_worker: ENDPOINTS_PER_WORKER,
        spread_at: usize::from(config.media_spread_at),
        tcp_port: Some(config.media_tcp_port).filter(|port| *port != 0),
        channels: match config.media_channel {
            OfferedChannel::WebSocket => ChannelKinds::WebSocket,
            OfferedChannel::DataChannel => ChannelKinds::DataChannel,
            OfferedChannel::Both => ChannelKinds::Both,
        },
    }
}

/// Machines with IPv6 switched off have no `::1`, and `localhost` is IPv4 there.
fn has_ipv6_loopback() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
