//! The same clients on Janus' VideoRoom plugin: its HTTP interface and as much SDP as it takes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tertulia_media::identity::{Identity, ice_credentials};
use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials, MediaKind};

use crate::client::{Foreign, Spec};
use crate::measure::{Pace, Round, Window};
use crate::process::{cores, cpu_of};
use crate::publisher::{OPUS, TRANSPORT_CC_ID, VP8, VP8_RTX};
use crate::record::Record;
use crate::shard::{Network, Order, Shard};
use crate::sources::{Slot, ssrc};

const FEED: u32 = 1;
/// Of the clients. Janus binds what it sends to one interface and leaves loopback out; `docs/performance.md` says which
/// interface to make.
const NETWORK: Network = Network { prefix: [198, 19], interface: c"load0" };
const PATIENCE: Duration = Duration::from_secs(20);

/// Where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Of its HTTP interface.
    pub(crate) address: SocketAddr,
    /// Its process, for its CPU time.
    pub(crate) process: u32,
}

/// One sends, others watch; as scenario `stage` with one room, but without simulcast.
///
/// # Errors
/// When Janus refuses something, or something is not there.
pub(crate) fn run(target: Target, subscribers: u32, pace: Pace) -> io::Result<Record> {
    let identity = Identity::generate().map_err(|_| io::Error::other("no certificate can be made"))?;
    let core = cores() - 1;
    let shard = Shard::start(NETWORK, Some(core), Instant::now(), identity.clone())?;
    let mut api = Api::open(target.address)?;
    let handle = api.attach()?;
    let room =
        json!({ "request": "create", "room": room_number(), "publishers": 4, "bitrate": 0, "videocodec": "vp8" });
    let created = api.message(handle, room, None)?;
    if created["plugindata"]["data"]["videoroom"] != "created" {
        return Err(io::Error::other(format!("Janus makes no room: {created}")));
    }
    publish(&mut api, handle, &shard, &identity)?;
    wait_for(&shard, 1)?; // before, nobody can subscribe
    for person in 1..=subscribers {
        subscribe(&mut api, person, &shard, &identity)?;
    }
    wait_for(&shard, subscribers as usize + 1)?;
    let mut rounds = Vec::new();
    for _ in 0..pace.rounds {
        api.keep_alive()?;
        rounds.push(Round { bridge: window(target, &shard, pace)?, ..Round::default() });
    }
    let mut record = Record::new("janus stage", json!({ "subscribers": subscribers }));
    record.rounds(&rounds, 1, 1);
    record.put("violations", json!(shard.read()?.tally.violations));
    shard.end();
    Ok(record)
}

fn wait_for(shard: &Shard, wanted: usize) -> io::Result<()> {
    let (start, patience) = (Instant::now(), PATIENCE + Duration::from_millis(100) * wanted as u32);
    loop {
        let connected = shard.read()?.connected;
        if connected >= wanted {
            return Ok(());
        }
        if start.elapsed() > patience {
            return Err(io::Error::other(format!("{connected} of {wanted} clients connected to Janus")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All threads of Janus count: it has one for each connection, or loops that share them.
fn window(target: Target, shard: &Shard, pace: Pace) -> io::Result<Window> {
    let beginning = shard.read()?;
    shard.send(Order::Send(1));
    std::thread::sleep(pace.warm_up);
    shard.send(Order::Clear);
    let generator = shard.read()?.cpu;
    let (busy, start) = (cpu_of(target.process, "")?, Instant::now());
    std::thread::sleep(pace.window);
    let busy = cpu_of(target.process, "")?.since(busy);
    let (seconds, seen) = (start.elapsed().as_secs_f64(), shard.read()?);
    shard.send(Order::Send(0));
    std::thread::sleep(Duration::from_millis(400));
    let end = shard.read()?;
    let lost = |expected: u64, received: u64| expected.saturating_sub(received);
    Ok(Window {
        seconds,
        busy,
        process: busy,
        generator_s: seen.cpu.saturating_sub(generator).as_secs_f64(),
        lost: lost(end.expected, end.received).saturating_sub(lost(beginning.expected, beginning.received)),
        seen,
        ..Window::default()
    })
}

fn publish(api: &mut Api, handle: u64, shard: &Shard, identity: &Identity) -> io::Result<()> {
    let own = Side::new(identity, shard.address_of(0));
    let body = json!({ "request": "joinandconfigure", "ptype": "publisher", "room": room_number(), "id": FEED });
    let answer = api.negotiate(handle, body, Some(("offer", own.offer())))?;
    add(shard, 0, own, &answer)
}

fn subscribe(api: &mut Api, person: u32, shard: &Shard, identity: &Identity) -> io::Result<()> {
    let handle = api.attach()?;
    let body =
        json!({ "request": "join", "ptype": "subscriber", "room": room_number(), "streams": [{ "feed": FEED }] });
    let offer = api.negotiate(handle, body, None)?;
    let own = Side::new(identity, shard.address_of(person as usize));
    let answer = own.answer(&offer);
    add(shard, person, own, &offer)?;
    api.message(handle, json!({ "request": "start" }), Some(("answer", answer)))?;
    Ok(())
}

fn add(shard: &Shard, person: u32, own: Side, sdp: &str) -> io::Result<()> {
    let (remote, bridge) =
        read_transport(sdp).ok_or_else(|| io::Error::other(format!("Janus' SDP has no transport:\n{sdp}")))?;
    // Janus has payload types of its own towards subscribers.
    let (opus, vp8) = (payload_type(sdp, "opus/48000").unwrap_or(OPUS), payload_type(sdp, "VP8/90000").unwrap_or(VP8));
    let foreign = Foreign { person: 0, opus, vp8 };
    let publishes = person == 0;
    let spec = Spec {
        person,
        room: 0,
        bridge,
        remote,
        credentials: own.credentials,
        camera: publishes,
        voice: publishes.then_some(true),
        badness: None,
        seed: 0,
        created: Instant::now(),
        cross: None,
        offers: publishes,
        foreign: Some(foreign),
    };
    shard.send(Order::Add(Box::new(spec)));
    Ok(())
}

/// Our side of one connection.
struct Side {
    credentials: IceCredentials,
    fingerprint: String,
    address: SocketAddr,
}

impl Side {
    fn new(identity: &Identity, address: SocketAddr) -> Self {
        let fingerprint = identity.fingerprint(DtlsSetup::Active).to_hex();
        Self { credentials: ice_credentials(), fingerprint, address }
    }

    fn offer(&self) -> String {
        let (audio, video, rtx) = (ssrc(0, Slot::Audio), ssrc(0, Slot::Video(2)), ssrc(0, Slot::Rtx(2)));
        let sound = format!("a=rtpmap:{OPUS} opus/48000/2\r\na=sendonly\r\na=ssrc:{audio} cname:load\r\n");
        let pictures = format!(
            "a=rtpmap:{VP8} VP8/90000\r\na=rtcp-fb:{VP8} nack\r\na=rtcp-fb:{VP8} nack pli\r\n\
             a=rtcp-fb:{VP8} transport-cc\r\n\
             a=rtpmap:{VP8_RTX} rtx/90000\r\na=fmtp:{VP8_RTX} apt={VP8}\r\n\
             a=extmap:{TRANSPORT_CC_ID} http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
             a=sendonly\r\na=ssrc-group:FID {video} {rtx}\r\na=ssrc:{video} cname:load\r\na=ssrc:{rtx} cname:load\r\n"
        );
        let both = [
            self.section(MediaKind::Audio, &OPUS.to_string(), "0", DtlsSetup::Passive, &sound),
            self.section(MediaKind::Video, &format!("{VP8} {VP8_RTX}"), "1", DtlsSetup::Passive, &pictures),
        ];
        self.session(&["0", "1"], &both.concat())
    }

    /// Takes everything that an offer offers.
    fn answer(&self, offer: &str) -> String {
        let (mut mids, mut sections) = (Vec::new(), String::new());
        for section in offer.split("\r\nm=").skip(1) {
            let mut words = section.lines().next().unwrap_or("").split(' ');
            let kind = if words.next() == Some("audio") { MediaKind::Audio } else { MediaKind::Video };
            let formats: Vec<&str> = words.skip(2).collect();
            let mid = section.lines().find_map(|line| line.strip_prefix("a=mid:")).unwrap_or("0");
            let kept = |line: &&str| ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().any(|name| line.starts_with(name));
            let mut lines: String = section.lines().filter(kept).map(|line| format!("{line}\r\n")).collect();
            lines.push_str("a=recvonly\r\n");
            sections.push_str(&self.section(kind, &formats.join(" "), mid, DtlsSetup::Active, &lines));
            mids.push(mid);
        }
        self.session(&mids, &sections)
    }

    fn session(&self, mids: &[&str], sections: &str) -> String {
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n{sections}", mids.join(" "))
    }

    fn section(&self, kind: MediaKind, formats: &str, mid: &str, setup: DtlsSetup, lines: &str) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        let IceCredentials { ufrag, pwd } = &self.credentials;
        let (kind, setup, fingerprint) = (kind.as_str(), setup.as_str(), &self.fingerprint);
        format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 {ip}\r\na=mid:{mid}\r\n\
             a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\na=rtcp-mux\r\n{lines}\
             a=candidate:1 1 udp 2130706431 {ip} {port} typ host\r\na=end-of-candidates\r\n"
        )
    }
}

/// Credentials, fingerprint and the first IPv4 address of a session description.
fn read_transport(sdp: &str) -> Option<((IceCredentials, Fingerprint), SocketAddr)> {
    let value = |name: &str| sdp.lines().find_map(|line| line.trim().strip_prefix(name));
    let credentials = IceCredentials { ufrag: value("a=ice-ufrag:")?.to_owned(), pwd: value("a=ice-pwd:")?.to_owned() };
    let print = value("a=fingerprint:sha-256 ")?;
    let fingerprint = Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Passive, print)?;
    let candidates = sdp.lines().filter_map(|line| line.trim().strip_prefix("a=candidate:"));
    let address = candidates.filter_map(|candidate| {
        let words: Vec<&str> = candidate.split(' ').collect();
        let udp = words.get(2)?.eq_ignore_ascii_case("udp");
        let ip = words.get(4)?.parse().ok().filter(IpAddr::is_ipv4)?;
        udp.then_some(SocketAddr::new(ip, words.get(5)?.parse().ok()?))
    });
    Some(((credentials, fingerprint), address.into_iter().next()?))
}

/// The number of a codec.
fn payload_type(sdp: &str, codec: &str) -> Option<u8> {
    let rows = sdp.lines().filter_map(|line| line.trim().strip_prefix("a=rtpmap:")?.split_once(' '));
    let mut found = rows.filter(|(_, name)| name.starts_with(codec));
    found.next().and_then(|(number, _)| number.parse().ok())
}

/// One session of Janus' HTTP interface.
struct Api {
    address: SocketAddr,
    session: u64,
    count: u64,
}

impl Api {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let mut api = Self { address, session: 0, count: 0 };
        api.session = api.ask("/janus", json!({ "janus": "create" }))?["data"]["id"].as_u64().ok_or_else(odd)?;
        Ok(api)
    }

    fn attach(&mut self) -> io::Result<u64> {
        let path = format!("/janus/{}", self.session);
        let order = json!({ "janus": "attach", "plugin": "janus.plugin.videoroom" });
        self.ask(&path, order)?["data"]["id"].as_u64().ok_or_else(odd)
    }

    fn keep_alive(&mut self) -> io::Result<()> {
        let path = format!("/janus/{}", self.session);
        self.ask(&path, json!({ "janus": "keepalive" })).map(|_| ())
    }

    fn message(&mut self, handle: u64, body: Value, jsep: Option<(&str, String)>) -> io::Result<Value> {
        let mut order = json!({ "janus": "message", "body": body });
        if let Some((kind, sdp)) = jsep {
            order["jsep"] = json!({ "type": kind, "sdp": sdp, "trickle": false });
        }
        let path = format!("/janus/{}/{handle}", self.session);
        self.ask(&path, order)
    }

    /// A message that is answered by a session description.
    fn negotiate(&mut self, handle: u64, body: Value, jsep: Option<(&str, String)>) -> io::Result<String> {
        self.message(handle, body, jsep)?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let event = self.http(&format!("GET /janus/{}?maxev=1 HTTP/1.0\r\n", self.session), "")?;
            let events = if let Value::Array(events) = event { events } else { vec![event] };
            for event in events {
                if event["sender"].as_u64() != Some(handle) {
                    continue;
                }
                if let Some(error) = event["plugindata"]["data"]["error"].as_str() {
                    return Err(io::Error::other(format!("Janus refuses: {error}")));
                }
                if let Some(sdp) = event["jsep"]["sdp"].as_str() {
                    return Ok(sdp.to_owned());
                }
            }
        }
        Err(io::Error::other("Janus does not answer"))
    }

    fn ask(&mut self, path: &str, mut order: Value) -> io::Result<Value> {
        self.count += 1;
        order["transaction"] = json!(self.count.to_string());
        let answer =
            self.http(&format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\n"), &order.to_string())?;
        if answer["janus"] == "error" {
            return Err(io::Error::other(format!("Janus refuses: {answer}")));
        }
        Ok(answer)
    }

    /// In the old version of the protocol: answers then come in one piece.
    fn http(&self, head: &str, body: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(35)))?; // its long poll ends after 30
        let len = body.len();
        write!(stream, "{head}Host: janus\r\nContent-Length: {len}\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(|_| io::Error::other(format!("Janus answers {answer:?}")))
    }
}

/// A room that no other run has left behind: they last as long as Janus.
fn room_number() -> u32 {
    std::process::id()
}

fn odd() -> io::Error {
    io::Error::other("Janus answers without an id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side() -> Side {
        Side::new(&Identity::generate().unwrap(), "127.64.0.1:5000".parse().unwrap())
    }

    #[test]
    fn an_offer_of_ours_is_understood_by_the_same_rules() {
        let side = side();
        let ((credentials, fingerprint), address) = read_transport(&side.offer()).unwrap();
        assert_eq!((credentials, address), (side.credentials.clone(), side.address));
        assert_eq!(fingerprint.to_hex(), side.fingerprint);
    }

    #[test]
    fn an_answer_takes_every_section_with_its_formats() {
        let offer = "v=0\r\na=group:BUNDLE 0 x\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
                     a=mid:0\r\na=rtpmap:111 opus/48000/2\r\n\
                     a=sendonly\r\nm=video 9 UDP/TLS/RTP/SAVPF 100 96\r\na=mid:x\r\na=rtpmap:100 VP8/90000\r\n";
        let answer = side().answer(offer);
        assert!(answer.contains("a=group:BUNDLE 0 x\r\n"), "{answer}");
        assert!(answer.contains("m=video 9 UDP/TLS/RTP/SAVPF 100 96\r\n") && answer.matches("a=recvonly").count() == 2);
        assert!(!answer.contains("sendonly"));
    }
}
