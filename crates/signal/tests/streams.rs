//! Clients on real sockets: logging in, losing the socket, BOSH, and what must not pass.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tertulia_conference::{Domains, Settings as ConferenceSettings};
use tertulia_model::{
    Bridge, BridgeEvent, BridgeRequest, ChannelSink, ConferenceId, EndpointId, EventSink, Load, Refusal,
};
use tertulia_signal::{Limits, Server, Settings, Stop, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A bridge that is full, and remembers channels.
#[derive(Default)]
struct FullBridge {
    events: Mutex<Vec<Arc<dyn EventSink>>>,
    channels: Mutex<Vec<Arc<dyn ChannelSink>>>,
}

impl Bridge for FullBridge {
    fn open(&self, _: ConferenceId, events: Arc<dyn EventSink>) {
        self.events.lock().unwrap().push(events);
    }

    fn request(&self, _: ConferenceId, request: BridgeRequest) {
        if let BridgeRequest::Allocate { endpoint, .. } = request {
            let events = self.events.lock().unwrap().last().cloned();
            events.unwrap().event(BridgeEvent::Refused { endpoint, refusal: Refusal::Full });
        }
    }

    fn may_open_channel(&self, bridge: &str, _: ConferenceId, _: &EndpointId, password: &str) -> bool {
        bridge == "b" && password == "secret"
    }

    fn attach_channel(&self, _: ConferenceId, _: EndpointId, sink: Arc<dyn ChannelSink>) {
        self.channels.lock().unwrap().push(sink);
    }

    fn channel_message(&self, _: ConferenceId, _: EndpointId, text: String) {
        let channels = self.channels.lock().unwrap();
        channels.last().unwrap().send(format!("heard {text}").into());
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

/// Starts a server on free ports; its public address.
async fn start() -> SocketAddr {
    Running::start(Arc::new(FullBridge::default()), Duration::from_secs(5)).await.public
}

/// A server with everything by which it is observed and ended.
struct Running {
    public: SocketAddr,
    private: SocketAddr,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(bridge: Arc<dyn Bridge>, grace: Duration) -> Self {
        let settings = Settings {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            private_listen: "127.0.0.1:0".parse().unwrap(),
            tls: Tls::Off,
            public_url: None,
            ssrc_rewriting: true,
            grace,
            limits: Limits { rooms: 10, sessions: 100 },
            conference: Arc::new(ConferenceSettings {
                domains: Domains::of("meet.example"),
                occupants_max: 10,
                opus_red: false,
                version: "test".into(),
            }),
        };
        let server = Server::bind(settings, bridge).await.unwrap();
        let (public, private) = (server.addresses()[0], server.private_address().unwrap());
        let stop = Stop::default();
        let task = tokio::spawn(server.run(stop.clone()));
        Self { public, private, stop, task }
    }

    async fn ready(&self) -> String {
        http(self.private, "GET", "/readyz", "", String::new()).await
    }
}

/// A bridge that hears everything and says nothing.
struct SilentBridge;

impl Bridge for SilentBridge {
    fn open(&self, _: ConferenceId, _: Arc<dyn EventSink>) {}
    fn request(&self, _: ConferenceId, _: BridgeRequest) {}
    fn may_open_channel(&self, _: &str, _: ConferenceId, _: &EndpointId, _: &str) -> bool {
        false
    }
    fn attach_channel(&self, _: ConferenceId, _: EndpointId, _: Arc<dyn ChannelSink>) {}
    fn channel_message(&self, _: ConferenceId, _: EndpointId, _: String) {}
    fn load(&self) -> Load {
        Load::default()
    }
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    jid: String,
}

impl Client {
    async fn connect(server: SocketAddr, query: &str) -> Self {
        Self::connect_at(server, &format!("/xmpp-websocket?room=r{query}")).await
    }

    async fn connect_at(server: SocketAddr, path: &str) -> Self {
        let mut request = format!("ws://{server}{path}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "xmpp".parse().unwrap());
        let (socket, response) = connect_async(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "xmpp");
        Self { socket, jid: String::new() }
    }

    async fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::Text(text.into().into())).await.unwrap();
    }

    /// The next text; `END` when the socket closes.
    async fn hear(&mut self) -> String {
        loop {
            let next = timeout(Duration::from_secs(5), self.socket.next()).await.expect("something within 5 s");
            match next {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return "END".into(),
            }
        }
    }

    async fn hear_until(&mut self, what: &str) -> String {
        loop {
            let text = self.hear().await;
            if text.contains(what) {
                return text;
            }
            assert_ne!(text, "END", "waiting for {what}");
        }
    }

    /// Up to the features after login.
    async fn log_in(&mut self) {
        const OPEN: &str = "<open to='meet.example' version='1.0' xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";
        self.say(OPEN).await;
        assert!(self.hear().await.starts_with("<open "));
        assert!(self.hear().await.contains("<mechanism>ANONYMOUS</mechanism>"));
        self.say("<auth mechanism='ANONYMOUS' xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
        assert_eq!(self.hear().await, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        self.say(OPEN).await;
        assert!(self.hear().await.starts_with("<open "));
        assert!(self.hear().await.contains("urn:xmpp:sm:3"));
    }

    /// A bound session with resumption; its id.
    async fn bind(&mut self) -> String {
        self.log_in().await;
        self.say("<iq id='_bind_auth_2' type='set' xmlns='jabber:client'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>").await;
        let pushed = self.hear().await;
        assert!(
            pushed.starts_with("<message ") && pushed.contains("room_metadata") && pushed.contains("<services "),
            "{pushed}"
        );
        let bound = self.hear().await;
        self.jid = bound.split("<jid>").nth(1).unwrap().split('<').next().unwrap().to_owned();
        self.say("<enable resume='true' xmlns='urn:xmpp:sm:3'/>").await;
        let enabled = self.hear().await;
        assert!(enabled.contains("resume='true'") && enabled.contains("max='60'"), "{enabled}");
        enabled.split("id='").nth(1).unwrap().split('\'').next().unwrap().to_owned()
    }

    fn nick(&self) -> &str {
        &self.jid[..8]
    }

    async fn join(&mut self) {
        self.join_room("r@muc.meet.example").await;
    }

    async fn join_room(&mut self, room: &str) {
        let nick = self.nick().to_owned();
        let answer = self.ask_for(room).await;
        assert!(answer.contains("ready='true'") && answer.contains(&format!("room='{room}'")), "{answer}");
        self.say(format!(
            "<presence to='{room}/{nick}' xmlns='jabber:client'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
        ))
        .await;
        let own = self.hear_until("code='110'").await;
        assert!(own.contains(&format!("from='{room}/{nick}'")), "{own}");
    }

    async fn ask_for(&mut self, room: &str) -> String {
        self.say(format!("<iq id='q' to='focus.meet.example' type='set' xmlns='jabber:client'><conference xmlns='http://jitsi.org/protocol/focus' room='{room}' machine-uid='0b'/></iq>")).await;
        self.hear_until("id='q'").await
    }
}

#[tokio::test]
async fn a_lost_socket_is_resumed_under_the_same_name_and_nothing_is_lost() {
    let server = start().await;
    let (mut ana, mut bo) = (Client::connect(server, "").await, Client::connect(server, "").await);
    let id = ana.bind().await;
    bo.bind().await;
    ana.join().await;
    bo.join().await;
    ana.hear_until(&format!("muc.meet.example/{}", bo.nick())).await;
    let (jid, nick) = (ana.jid.clone(), ana.nick().to_owned());
    drop(ana);
    tokio::time::sleep(Duration::from_millis(200)).await;
    bo.say(
        "<message to='r@muc.meet.example' type='groupchat' xmlns='jabber:client'><body>are you there?</body></message>",
    )
    .await;
    bo.hear_until("are you there?").await;

    let mut again = Client::connect(server, &format!("&previd={id}")).await;
    again.log_in().await;
    again.say(format!("<resume h='0' previd='{id}' xmlns='urn:xmpp:sm:3'/>")).await;
    let resumed = again.hear().await;
    assert!(resumed.starts_with("<resumed ") && resumed.contains("h='2'"), "{resumed}");
    again.hear_until("are you there?").await;
    again.say("<iq id='p' type='get' to='meet.example' xmlns='jabber:client'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    assert!(again.hear_until("id='p'").await.contains(&format!("to='{jid}'")));
    // The other one saw no leave: a whisper arrives.
    bo.say(format!(
        "<message to='r@muc.meet.example/{nick}' type='chat' xmlns='jabber:client'><body>good</body></message>"
    ))
    .await;
    again.hear_until("good").await;
}

#[tokio::test]
async fn a_resumption_takes_over_a_socket_that_seems_alive_and_an_unknown_one_fails() {
    let server = start().await;
    let mut ana = Client::connect(server, "").await;
    let id = ana.bind().await;
    let mut again = Client::connect(server, &format!("&previd={id}")).await;
    again.log_in().await;
    again.say(format!("<resume h='0' previd='{id}' xmlns='urn:xmpp:sm:3'/>")).await;
    assert!(again.hear().await.starts_with("<resumed "));
    assert_eq!(ana.hear().await, "END");
    let mut other = Client::connect(server, "&previd=nobody").await;
    other.log_in().await;
    other.say("<resume h='0' previd='nobody' xmlns='urn:xmpp:sm:3'/>").await;
    assert!(other.hear().await.contains("<item-not-found "));
    // Somebody else's id does not open their session.
    let mut thief = Client::connect(server, "").await;
    thief.log_in().await;
    thief.say(format!("<resume h='0' previd='{id}' xmlns='urn:xmpp:sm:3'/>")).await;
    assert!(thief.hear().await.contains("<item-not-found "));
}

#[tokio::test]
async fn hostile_xml_ends_its_own_stream_and_nobody_elses() {
    let server = start().await;
    let mut witness = Client::connect(server, "").await;
    witness.bind().await;
    let attributes: String = (0..100_000).map(|n| format!(" a{n}='1'")).collect();
    let hostile = [
        "<iq".to_owned(),
        "<iq><a></iq>".to_owned(),
        "<!DOCTYPE a [<!ENTITY b 'c'>]><iq/>".to_owned(),
        "<?xml version='1.0'?><iq/>".to_owned(),
        format!("<iq>{}</iq>", "x".repeat(256 * 1024)),
        format!("<iq>{}</iq>", "x".repeat(2 * 1024 * 1024)),
        format!("<iq{}/>", &attributes[..250_000]),
        format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000)),
    ];
    for text in hostile {
        let mut client = Client::connect(server, "").await;
        client.bind().await;
        let shown = text[..text.len().min(40)].to_owned();
        let _ = client.socket.send(Message::Text(text.into())).await; // the far end may close while this is written
        let said = client.hear().await;
        assert!(said.starts_with("<stream:error ") || said == "END", "{shown}: {said}");
        while client.hear().await != "END" {}
    }
    witness
        .say("<iq id='p' type='get' to='meet.example' xmlns='jabber:client'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await;
    assert!(witness.hear_until("id='p'").await.contains("type='result'"));
}

#[tokio::test]
async fn bosh_logs_in_binds_joins_and_repeats_an_answer() {
    let server = start().await;
    let post = |body: String| http(server, "POST", "/http-bind?room=r", "", body);
    let created = post(
        "<body rid='900' xmlns='http://jabber.org/protocol/httpbind' to='meet.example' wait='1' hold='1'/>".into(),
    )
    .await;
    assert!(created.contains("ANONYMOUS") && created.contains("access-control-allow-origin: *"), "{created}");
    let sid = created.split("sid='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let body = |rid: u32, inner: &str| {
        format!("<body rid='{rid}' sid='{sid}' xmlns='http://jabber.org/protocol/httpbind'>{inner}</body>")
    };
    assert!(
        post(body(901, "<auth mechanism='ANONYMOUS' xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
            .await
            .contains("<success ")
    );
    let restart = format!(
        "<body rid='902' sid='{sid}' to='meet.example' xmpp:restart='true' xmlns:xmpp='urn:xmpp:xbosh' xmlns='http://jabber.org/protocol/httpbind'/>"
    );
    assert!(post(restart).await.contains("<bind "));
    let bind =
        body(903, "<iq id='b' type='set' xmlns='jabber:client'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    let bound = post(bind.clone()).await;
    assert!(bound.contains("<jid>") && bound.contains("room_metadata"));
    assert_eq!(body_of(&post(bind).await), body_of(&bound), "the same number gets the same answer");
    // Out of order: the later one waits for the earlier.
    let ping = |id: &str| {
        format!("<iq id='{id}' type='get' to='meet.example' xmlns='jabber:client'><ping xmlns='urn:xmpp:ping'/></iq>")
    };
    let later = tokio::spawn(http(server, "POST", "/http-bind", "", body(905, &ping("two"))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let earlier = post(body(904, &ping("one"))).await;
    let both = format!("{earlier}{}", later.await.unwrap());
    assert!(both.contains("id='one'") && both.contains("id='two'"), "{both}");
    assert!(post(body(999, "")).await.contains("item-not-found"));
    assert!(post(body(906, "")).await.contains("item-not-found"), "a jump ended the session");
    assert!(post("<body".into()).await.contains("bad-request"));
}

#[tokio::test]
async fn the_web_answers_as_clients_of_other_origins_need_it() {
    let server = start().await;
    let keep_alive = http(server, "GET", "/xmpp-websocket?room=r", "", String::new()).await;
    assert!(keep_alive.starts_with("HTTP/1.1 200") && keep_alive.contains("access-control-allow-origin: *"));
    let preflight = http(server, "OPTIONS", "/conference-request/v1", "", String::new()).await;
    assert!(preflight.to_lowercase().contains("access-control-allow-headers: content-type, authorization"));
    let asked = http(
        server,
        "POST",
        "/conference-request/v1?room=r",
        "content-type: application/json\r\n",
        r#"{"room":"r@muc.meet.example"}"#.into(),
    )
    .await;
    assert!(asked.contains(r#""ready":true"#) && asked.contains(r#""properties":{"#), "{asked}");
    let refused = http(server, "POST", "/conference-request/v1", "", "{}".into()).await;
    assert!(refused.starts_with("HTTP/1.1 400"));
    let config = http(server, "GET", "/config.js", "", String::new()).await;
    assert!(
        config.contains(&format!(r#""websocket":"ws://{server}/xmpp-websocket""#))
            && config.contains(r#""p2p":{"enabled":false"#),
        "{config}"
    );
    let forged = http_as(server, "evil\"};alert(1)//", "GET", "/config.js").await;
    assert!(!forged.contains("alert"), "{forged}");
    assert!(http(server, "GET", "/%00", "", String::new()).await.starts_with("HTTP/1.1 400"));
    assert!(http(server, "GET", "/a/b/c", "", String::new()).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_bridge_channel_opens_with_its_password_alone() {
    let server = start().await;
    let url = |path: &str| format!("ws://{server}/colibri-ws/{path}");
    for (path, status) in [
        ("b/0000000000000001/a?pwd=wrong", 403),
        ("b/0000000000000001/a", 403),
        ("c/0000000000000001/a?pwd=secret", 403),
        ("b/1/a?pwd=secret", 404),
        ("b/0000000000000001/a-b?pwd=secret", 404),
    ] {
        let refused = connect_async(url(path)).await.unwrap_err().to_string();
        assert!(refused.contains(&status.to_string()), "{path}: {refused}");
    }
    let (mut socket, _) = connect_async(url("b/0000000000000001/a?pwd=secret")).await.unwrap();
    socket.send(Message::Text("{}".into())).await.unwrap();
    let heard = timeout(Duration::from_secs(5), socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(heard.into_text().unwrap().as_str(), "heard {}");
}

#[tokio::test]
async fn tenants_meet_in_rooms_of_their_own_and_an_alias_leads_to_the_same_room() {
    let server = start().await;
    for (tenant, muc) in
        [("", "muc.meet.example"), ("/a", "muc.a.meet.example"), ("/Blue.Team", "muc.blue_team.meet.example")]
    {
        let config = http(server, "GET", &format!("{tenant}/config.js?room=x"), "", String::new()).await;
        assert!(config.contains(&format!(r#""muc":"{muc}""#)), "{config}");
        assert!(config.contains(&format!(r#""websocket":"ws://{server}{tenant}/xmpp-websocket""#)), "{config}");
        assert!(config.contains(r#""ssrcRewritingEnabled":true"#), "{config}");
    }
    assert!(http(server, "GET", "/-a/config.js", "", String::new()).await.starts_with("HTTP/1.1 404"));
    for path in ["/-a/x", "/-a/"] {
        assert!(http(server, "GET", path, "", String::new()).await.starts_with("HTTP/1.1 400"), "{path}");
    }
    let start_page = http(server, "GET", "/a/", "", String::new()).await;
    assert!(start_page.starts_with("HTTP/1.1 200") || start_page.contains("not built"), "{start_page}");
    let trailing = http(server, "GET", "//evil.example/x/?a=b", "", String::new()).await;
    assert!(
        trailing.starts_with("HTTP/1.1 308") && trailing.contains("location: /evil.example/x?a=b\r\n"),
        "{trailing}"
    );

    let mut people = Vec::new();
    for (path, room) in [
        ("/a/xmpp-websocket?room=x", "x@muc.a.meet.example"),
        ("/a/xmpp-websocket?room=x", "x@conference.a.meet.example"),
        ("/b/xmpp-websocket?room=x", "x@muc.b.meet.example"),
        ("/xmpp-websocket?room=x", "x@conference.meet.example"),
    ] {
        let mut client = Client::connect_at(server, path).await;
        client.bind().await;
        client.join_room(room).await;
        people.push((client, room));
    }
    let rooms = ["x@muc.a.meet.example", "x@conference.a.meet.example"];
    for (speaker, _) in rooms.iter().enumerate() {
        let (client, room) = &mut people[speaker];
        client
            .say(format!(
                "<message to='{room}' type='groupchat' xmlns='jabber:client'><body>from {speaker}</body></message>"
            ))
            .await;
        let from = people[speaker].0.nick().to_owned();
        for (listener, room) in &mut people[..2] {
            let heard = listener.hear_until(&format!("from {speaker}")).await;
            assert!(heard.contains(&format!("from='{room}/{from}'")), "{heard}");
        }
    }
    // The others are alone: the next thing they hear is the answer to their own question.
    for (client, _) in &mut people[2..] {
        client
            .say("<iq id='p' type='get' to='meet.example' xmlns='jabber:client'><ping xmlns='urn:xmpp:ping'/></iq>")
            .await;
        loop {
            let text = client.hear().await;
            assert!(!text.contains("<body>"), "{text}");
            if text.contains("id='p'") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_refuses_new_rooms_and_lets_meetings_end() {
    let server = Running::start(Arc::new(FullBridge::default()), Duration::from_secs(60)).await;
    assert!(server.ready().await.starts_with("HTTP/1.1 200"));
    let (mut ana, mut bo) = (Client::connect(server.public, "").await, Client::connect(server.public, "").await);
    ana.bind().await;
    bo.bind().await;
    ana.join().await;
    server.stop.soon.cancel();
    let mut ready = server.ready().await;
    while ready.starts_with("HTTP/1.1 200") {
        ready = server.ready().await; // the task hears of it a moment later
    }
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("stopping"), "{ready}");
    let refused = bo.ask_for("other@muc.meet.example").await;
    assert!(refused.contains("graceful-shutdown") && refused.contains("opens no new meetings"), "{refused}");
    let body = r#"{"room":"other@muc.meet.example"}"#.to_owned();
    let refused = http(server.public, "POST", "/conference-request/v1", "", body).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("opens no new meetings"), "{refused}");
    // The meeting goes on: Bo comes in late, both talk, both leave, and that is the end.
    bo.join().await;
    bo.say(
        "<message to='r@muc.meet.example' type='groupchat' xmlns='jabber:client'><body>just in time</body></message>",
    )
    .await;
    ana.hear_until("just in time").await;
    for client in [&mut ana, &mut bo] {
        client.say("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>").await;
    }
    timeout(Duration::from_secs(10), server.task).await.expect("it ends with the last meeting").unwrap();
}

#[tokio::test]
async fn the_time_of_grace_ends_and_a_second_word_ends_it_at_once() {
    for (grace, now) in [(Duration::from_millis(300), false), (Duration::from_secs(60), true)] {
        let server = Running::start(Arc::new(FullBridge::default()), grace).await;
        let mut ana = Client::connect(server.public, "").await;
        ana.bind().await;
        ana.join().await;
        server.stop.soon.cancel();
        if now {
            server.stop.now.cancel();
        }
        timeout(Duration::from_secs(10), server.task).await.expect("it ends with a meeting under way").unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_bridge_is_silent_is_not_ready() {
    let server = Running::start(Arc::new(SilentBridge), Duration::ZERO).await;
    let ready = server.ready().await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the bridge does not answer"), "{ready}");
}

#[tokio::test]
async fn assets_are_sent_compressed_to_those_who_can_read_them() {
    let server = start().await;
    let plain = http(server, "GET", "/any-room", "", String::new()).await;
    if plain.starts_with("HTTP/1.1 503") {
        return; // the page is not built here
    }
    assert!(plain.contains("<!doctype html>") && !plain.contains("content-encoding"), "{plain}");
    let asset = plain.split('"').find(|part| part.starts_with("/assets/")).unwrap().to_owned();
    for (accepted, encoding) in [("gzip, br", "br"), ("gzip", "gzip")] {
        let headers = format!("accept-encoding: {accepted}\r\n");
        let answer = http(server, "GET", &asset, &headers, String::new()).await;
        let head = answer.split("\r\n\r\n").next().unwrap();
        assert!(head.contains(&format!("content-encoding: {encoding}")), "{head}");
        assert!(head.contains("immutable") && head.contains("vary: accept-encoding"), "{head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again = http(server, "GET", &asset, &format!("{headers}if-none-match: {tag}\r\n"), String::new()).await;
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    }
}

fn body_of(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

async fn http(server: SocketAddr, method: &str, path: &str, headers: &str, body: String) -> String {
    let host = server.to_string();
    raw(server, format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())).await
}

async fn http_as(server: SocketAddr, host: &str, method: &str, path: &str) -> String {
    raw(server, format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

async fn raw(server: SocketAddr, request: String) -> String {
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    timeout(Duration::from_secs(10), socket.read_to_end(&mut response)).await.unwrap().unwrap();
    String::from_utf8_lossy(&response).into_owned()
}
