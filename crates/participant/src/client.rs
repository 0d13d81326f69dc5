//! The shell: a participant on real sockets. WebSockets for signalling and the bridge channel, UDP for media; it decides nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use tertulia_model::EndpointId;
use tertulia_xmpp::{Element, ns};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::clock::Clock;
use crate::login::{Login, LoginError, Step};
use crate::participant::{Equipment, Event, Input, Output, Participant, Settings};
use crate::signalling::Addresses;

/// From the first socket to a bound session.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams are at most this long.
const DATAGRAM_MAX: usize = 2_048;

/// Where a server is, and which room to join.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    /// `host:port` of its plain HTTP.
    pub host: String,
    /// The XMPP domain, `meet.jitsi` unless configured otherwise.
    pub domain: String,
    /// Name of the room.
    pub room: String,
}

/// Why a client cannot go on.
#[derive(Debug)]
pub enum ClientError {
    /// No such host, or no way there.
    Unreachable(std::io::Error),
    /// A WebSocket broke.
    Socket(Box<tokio_tungstenite::tungstenite::Error>),
    /// The server does not let us in.
    Login(LoginError),
    /// The server closed the stream, or what it says is no XML.
    Closed(String),
    /// Nothing came for too long.
    TimedOut,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "the server cannot be reached: {error}"),
            Self::Socket(error) => write!(f, "the connection broke: {error}"),
            Self::Login(error) => error.fmt(f),
            Self::Closed(text) => write!(f, "the server closed the stream: {text}"),
            Self::TimedOut => f.write_str("the server does not answer"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<tokio_tungstenite::tungstenite::Error> for ClientError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A participant and its sockets.
pub struct Client {
    participant: Participant,
    signalling: Socket,
    channel: Option<Socket>,
    media: UdpSocket,
    out: Vec<Output>,
    /// What happened, in order; the owner may take it.
    pub events: Vec<Event>,
}

impl Client {
    /// Logs in and asks for the room; [`Client::run_for`] goes on from there.
    ///
    /// # Errors
    /// When the server cannot be reached or does not let us in.
    pub async fn join(server: &ServerAddress, equipment: Equipment, seed: u64) -> Result<Self, ClientError> {
        let media = UdpSocket::bind((route_to(&server.host).await?, 0)).await.map_err(ClientError::Unreachable)?;
        let local = media.local_addr().map_err(ClientError::Unreachable)?;
        let url = format!("ws://{}/xmpp-websocket?room={}", server.host, server.room);
        let (signalling, user) = timeout(LOGIN_TIMEOUT, log_in(&url, &server.domain)).await.map_err(timed_out)??;
        let nick = EndpointId::parse(user.get(..8).unwrap_or(&user));
        let nick = nick.map_err(|_| ClientError::Closed(format!("{user} makes no nick")))?;
        let settings = Settings {
            addresses: Addresses::of(&server.domain, &server.room),
            display_name: format!("Headless {nick}"),
            nick,
            local,
            equipment,
            // Delays are measured between machines whose clocks agree.
            clock: Clock { at: Instant::now(), shows: since_epoch() },
            seed,
        };
        let mut out = Vec::new();
        let participant = Participant::new(settings, &mut out);
        let mut client = Self { participant, signalling, channel: None, media, out, events: Vec::new() };
        client.perform().await?;
        Ok(client)
    }

    /// The participant, for its reports.
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    /// Lets the owner do something with the participant, and does what follows.
    ///
    /// # Errors
    /// When a socket broke.
    pub async fn command<T>(
        &mut self,
        run: impl FnOnce(&mut Participant, &mut Vec<Output>) -> T,
    ) -> Result<T, ClientError> {
        let result = run(&mut self.participant, &mut self.out);
        self.perform().await?;
        Ok(result)
    }

    /// Takes part for some time.
    ///
    /// # Errors
    /// When a socket broke.
    pub async fn run_for(&mut self, duration: Duration) -> Result<(), ClientError> {
        self.run_until(duration, |_| false).await.map(|_| ())
    }

    /// Takes part until something is true, or for so long; whether it became true.
    ///
    /// # Errors
    /// When a socket broke.
    pub async fn run_until(
        &mut self,
        duration: Duration,
        mut done: impl FnMut(&Participant) -> bool,
    ) -> Result<bool, ClientError> {
        let end = Instant::now() + duration;
        let mut buffer = [0u8; DATAGRAM_MAX];
        while Instant::now() < end {
            if done(&self.participant) {
                return Ok(true);
            }
            let next = self.participant.next_timeout().map_or(end, |at| at.min(end));
            tokio::select! {
                stanza = self.signalling.next() => {
                    if let Some(stanza) = read_stanza(stanza)? {
                        self.participant.handle(Instant::now(), Input::Stanza(stanza), &mut self.out);
                    }
                }
                received = self.media.recv_from(&mut buffer) => {
                    // An unreachable port shows up here as an error of one datagram.
                    if let Ok((len, from)) = received {
                        let bytes = buffer[..len].to_vec();
                        self.participant.handle(Instant::now(), Input::Datagram { from, bytes }, &mut self.out);
                    }
                }
                message = next_of(&mut self.channel) => match message {
                    Some(Ok(Message::Text(text))) => {
                        self.participant.handle(Instant::now(), Input::Channel(text.to_string()), &mut self.out);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => self.channel = None,
                },
                () = sleep_until(next.into()) => {}
            }
            self.participant.on_timeout(Instant::now(), &mut self.out);
            self.perform().await?;
        }
        Ok(done(&self.participant))
    }

    /// Sends and receives media from another port, as behind a NAT that forgot the old one. Nobody is told.
    ///
    /// # Errors
    /// When there is no other port.
    pub async fn change_address(&mut self) -> Result<(), ClientError> {
        let ip = self.media.local_addr().map_err(ClientError::Unreachable)?.ip();
        self.media = UdpSocket::bind((ip, 0)).await.map_err(ClientError::Unreachable)?;
        Ok(())
    }

    /// Says goodbye and closes the sockets.
    ///
    /// # Errors
    /// When a socket broke before.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        self.participant.leave(&mut self.out);
        self.perform().await?;
        self.signalling.send(text(&Element::new("close", ns::FRAMING))).await?;
        // The server closes its side; one that does not is left alone.
        let _ =
            timeout(Duration::from_secs(2), async { while let Some(Ok(_)) = self.signalling.next().await {} }).await;
        Ok(())
    }

    /// Does what piled up, and what follows from that.
    async fn perform(&mut self) -> Result<(), ClientError> {
        while !self.out.is_empty() {
            for output in std::mem::take(&mut self.out) {
                self.perform_one(output).await?;
            }
        }
        Ok(())
    }

    async fn perform_one(&mut self, output: Output) -> Result<(), ClientError> {
        match output {
            Output::Stanza(stanza) => self.signalling.send(text(&stanza)).await?,
            Output::Datagram { to, bytes } => {
                // A full buffer loses datagrams, as everywhere on the way.
                let _ = self.media.try_send_to(&bytes, to);
            }
            Output::OpenChannel(url) => {
                let (channel, _) = connect_async(url.as_str()).await?;
                self.channel = Some(channel);
                self.participant.handle(Instant::now(), Input::ChannelOpen, &mut self.out);
            }
            Output::Channel(text) => {
                if let Some(channel) = &mut self.channel {
                    channel.send(Message::Text(text.into())).await?;
                }
            }
            Output::Event(event) => self.events.push(event),
        }
        Ok(())
    }
}

/// The address of this machine from which datagrams to a host leave.
async fn route_to(host: &str) -> Result<IpAddr, ClientError> {
    let mut addresses = lookup_host(host).await.map_err(ClientError::Unreachable)?;
    let target = addresses.find(SocketAddr::is_ipv4).or_else(|| addresses.next());
    let nowhere = || ClientError::Unreachable(std::io::ErrorKind::NotFound.into());
    let target = target.ok_or_else(nowhere)?;
    let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(ClientError::Unreachable)?;
    socket.connect(target).await.map_err(ClientError::Unreachable)?;
    socket.local_addr().map(|local| local.ip()).map_err(ClientError::Unreachable)
}

/// A bound session and its user name.
async fn log_in(url: &str, domain: &str) -> Result<(Socket, String), ClientError> {
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "xmpp".parse().expect("a valid header"));
    let (mut socket, _) = connect_async(request).await?;
    let (mut login, open) = Login::anonymous(domain);
    socket.send(text(&open)).await?;
    loop {
        let Some(element) = read_stanza(socket.next().await)? else { continue };
        match login.handle(&element).map_err(ClientError::Login)? {
            Step::Wait => {}
            Step::Send(element) => socket.send(text(&element)).await?,
            Step::Bound(jid) => {
                let user = jid.node().map(ToString::to_string).unwrap_or_default();
                return Ok((socket, user));
            }
        }
    }
}

fn read_stanza(
    message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
) -> Result<Option<Element>, ClientError> {
    match message {
        Some(Ok(Message::Text(text))) => {
            let element = tertulia_xmpp::parse(&text).map_err(|error| ClientError::Closed(error.to_string()))?;
            if element.is("close", ns::FRAMING) {
                Err(ClientError::Closed(element.to_string()))
            } else {
                Ok(Some(element))
            }
        }
        Some(Ok(Message::Close(_))) | None => Err(ClientError::Closed("no word".into())),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
    }
}

/// The next message of a channel that may not be there: then never.
async fn next_of(channel: &mut Option<Socket>) -> Option<Result<Message, tokio_tungstenite::tungstenite::Error>> {
    match channel {
        Some(channel) => channel.next().await,
        None => std::future::pending().await,
    }
}

fn text(element: &Element) -> Message {
    Message::Text(element.to_string().into())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn timed_out(_: tokio::time::error::Elapsed) -> ClientError {
    ClientError::TimedOut
}
