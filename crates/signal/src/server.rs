//! The listeners: accepting, TLS, and ending.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tertulia_model::Bridge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::hub::Hub;
use crate::settings::Settings;
use crate::tls;
use crate::web::{private_router, public_router};

/// From the connection to the end of the request's headers: slow ones cost a slot.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(15);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections on top of sessions: pages, keep-alives, bridge channels.
const CONNECTIONS_PER_SESSION: usize = 3;
const PRIVATE_CONNECTIONS: usize = 64;
/// How long connections may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server cannot start: one sentence for whoever started it.
#[derive(Debug)]
pub enum BindError {
    /// A port cannot be had.
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which key says so.
        key: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// The certificate cannot be used.
    Certificate(String),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, key, error } => match error.kind() {
                std::io::ErrorKind::AddrInUse => write!(
                    f,
                    "port {} of {} is in use: stop the other program, or set `{key}` to another address",
                    address.port(),
                    address.ip()
                ),
                std::io::ErrorKind::PermissionDenied => write!(
                    f,
                    "port {} needs rights that this user has not: give the program CAP_NET_BIND_SERVICE, or set `{key}` to a port above 1023",
                    address.port()
                ),
                _ => write!(f, "cannot listen on {address}: {error}; check `{key}`"),
            },
            Self::Certificate(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for BindError {}

/// A server with its ports.
pub struct Server {
    hub: Arc<Hub>,
    public: Vec<TcpListener>,
    private: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Takes the ports.
    ///
    /// # Errors
    /// When one cannot be had, or the certificate cannot be used.
    pub async fn bind(settings: Settings, bridge: Arc<dyn Bridge>) -> Result<Self, BindError> {
        let tls = tls::acceptor(&settings.tls).map_err(BindError::Certificate)?;
        let mut public = Vec::new();
        for address in &settings.listen {
            public.push(listen(*address, "http.listen").await?);
        }
        let private = listen(settings.private_listen, "private.listen").await?;
        Ok(Self { hub: Hub::new(Arc::new(settings), bridge), public, private, tls })
    }

    /// Where it listens, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.public.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where health is served.
    pub fn private_address(&self) -> Option<SocketAddr> {
        self.private.local_addr().ok()
    }

    /// Serves until told to stop, then lets meetings and connections end.
    pub async fn run(self, stop: Stop) {
        let hub = Arc::clone(&self.hub);
        let connections = hub.settings.limits.sessions.saturating_mul(CONNECTIONS_PER_SESSION).saturating_add(64);
        let slots = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let over = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        let public = public_router(Arc::clone(&hub));
        for listener in self.public {
            tasks.spawn(accept(listener, self.tls.clone(), public.clone(), Arc::clone(&slots), over.clone()));
        }
        // The operator gets in when the public side is full.
        let private = Arc::new(Semaphore::new(PRIVATE_CONNECTIONS));
        tasks.spawn(accept(self.private, None, private_router(self.hub), private, over.clone()));
        tokio::select! { () = stop.soon.cancelled() => {}, () = stop.now.cancelled() => {} }
        hub.rooms.close_doors();
        info!(rooms = hub.rooms.count(), "stopping");
        tokio::select! {
            () = hub.rooms.all_ended() => {}
            () = tokio::time::sleep(hub.settings.grace) => {}
            () = stop.now.cancelled() => {}
        }
        over.cancel();
        let _ = timeout(SHUTDOWN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
    }
}

/// How a server is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new rooms from now on; those that are there may go on for the time of grace.
    pub soon: CancellationToken,
    /// At once.
    pub now: CancellationToken,
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| BindError::Listen { address, key, error })
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of descriptors, most likely: accepting at once would only fail again.
                debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            serve_socket(socket, tls, router, stop).await;
            drop(slot);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_socket(socket: TcpStream, tls: Option<TlsAcceptor>, router: Router, stop: CancellationToken) {
    let _ = socket.set_nodelay(true); // a hint: without it small stanzas wait for others
    match tls {
        None => serve(socket, router, stop).await,
        Some(tls) => {
            if let Ok(Ok(socket)) = timeout(TLS_TIMEOUT, tls.accept(socket)).await {
                serve(socket, router, stop).await;
            }
        }
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, router: Router, stop: CancellationToken) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}
