//! The program itself, started as a person starts it: meetings of headless participants on real sockets, its end, its complaints.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tertulia_participant::{Client, Equipment, Event, Participant, ServerAddress, VideoWishes};

const ON_FREE_PORTS: [&str; 12] = [
    "--listen",
    "127.0.0.1:0",
    "--set",
    "private.listen=127.0.0.1:0",
    "--set",
    "media.port=0",
    "--set",
    "media.bind=127.0.0.1",
    "--set",
    "log.format=json",
    "--set",
    "server.grace=1",
];

/// A running server; what it says is kept.
struct Server {
    process: Child,
    public: String,
    private: String,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let arguments = ON_FREE_PORTS.iter().chain(more);
        let mut process = program().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (stderr, kept) = (process.stderr.take().unwrap(), Arc::clone(&lines));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}")));
            }
        });
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("Tertulia is ready: http://localhost:"), "{ready}");
        let mut server = Self { process, public: String::new(), private: String::new(), lines, reader: Some(reader) };
        server.public = server.logged("listening", "address");
        server.private = server.logged("health and statistics", "address");
        server
    }

    /// A field of the first line with this message; waits for it.
    fn logged(&self, message: &str, field: &str) -> String {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let lines = self.lines.lock().unwrap();
            if let Some(line) = lines.iter().find(|line| line["message"] == message) {
                return line[field].as_str().unwrap().to_owned();
            }
            drop(lines);
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not log `{message}`");
    }

    fn room(&self, room: &str) -> ServerAddress {
        ServerAddress { host: self.public.clone(), domain: "meet.jitsi".into(), room: room.into() }
    }

    /// What is held: sessions, rooms, conferences, endpoints.
    fn load(&self) -> Value {
        serde_json::from_str(&http(&self.private, "/about/load").1).unwrap()
    }

    fn is_empty(&self) -> bool {
        self.load().as_object().unwrap().values().all(|count| *count == 0)
    }

    /// Asks it to end, as init systems do, and looks through what it said.
    fn stop(mut self) {
        let asked = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(asked.success());
        let end = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                None => panic!("it does not end"),
            }
        };
        assert!(status.success(), "{status}");
        self.reader.take().unwrap().join().unwrap();
        let lines = self.lines.lock().unwrap();
        for line in lines.iter() {
            let text = line.to_string();
            assert_ne!(line["level"], "ERROR", "{text}");
            let tells_address = ["listening", "health and statistics"].contains(&line["message"].as_str().unwrap());
            assert!(tells_address || !text.contains("127.0.0.1"), "somebody's address is in the log: {text}");
            assert!(!text.contains("Headless"), "somebody's name is in the log: {text}");
        }
        assert_eq!(lines.last().unwrap()["message"], "stopped");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // a test that failed leaves no server behind
        let _ = self.process.wait();
    }
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tertulia"));
    program.current_dir(std::env::temp_dir()).env_remove("TERTULIA_CONFIG");
    program
}

/// Status and body.
fn http(server: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(server).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

const SMALL: Equipment = Equipment { frames_per_second: 10, frame_lens: [150, 600, 2_400], ..Equipment::USUAL };

/// Takes part for some seconds, speaking or not; what is wrong with what was seen and heard.
async fn take_part(server: ServerAddress, seed: u64, speaks: bool, others: usize) -> Vec<String> {
    let mut client = Client::join(&server, SMALL, seed).await.unwrap();
    assert!(client.run_until(Duration::from_secs(20), Participant::is_connected).await.unwrap(), "{:?}", client.events);
    client.command(|participant, out| participant.wish(VideoWishes::all_at(180), out)).await.unwrap();
    client.command(|participant, _| participant.speak(Instant::now(), speaks)).await.unwrap();
    client.command(|participant, out| participant.chat("hello", out)).await.unwrap();
    let sees_all = |participant: &Participant| {
        participant.video().filter(|video| video.decoded > 30).count() == others
            && (speaks || participant.audio().any(|audio| audio.packets > 100))
    };
    let good = client.run_until(Duration::from_secs(20), sees_all).await.unwrap();
    // The others may still be looking.
    client.run_for(Duration::from_secs(2)).await.unwrap();
    let mut wrong = client.participant().violations();
    if !good {
        wrong.push(format!("{:?}", client.participant().video().collect::<Vec<_>>()));
    }
    if !client.events.iter().any(|event| matches!(event, Event::Chat { text, .. } if text == "hello")) {
        wrong.push("nobody said hello".into());
    }
    client.leave().await.unwrap();
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meetings_take_place_side_by_side_and_leave_nothing() {
    let server = Server::start();
    assert_eq!(http(&server.private, "/readyz").0, 200);
    let mut people = Vec::new();
    for (room, size) in [("three", 3u64), ("two", 2), ("others", 2)] {
        for number in 0..size {
            let others = usize::try_from(size - 1).unwrap();
            let name = server.room(room);
            people.push(tokio::spawn(take_part(name, number + 10 * size, number == 0, others)));
        }
    }
    for person in people {
        assert_eq!(person.await.unwrap(), [""; 0]);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while !server.is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(server.is_empty(), "{}", server.load());
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meeting_of_two_workers_is_one_for_everybody_in_it() {
    let server = Server::start_with(&["--set", "media.workers=2", "--set", "media.spread_at=2"]);
    let join = |number: u64| tokio::spawn(take_part(server.room("wide"), 50 + number, number == 0, 3));
    let people: Vec<_> = (0..4).map(join).collect();
    for person in people {
        assert_eq!(person.await.unwrap(), [""; 0]);
    }
    server.logged("conference goes to another worker", "conference");
    let end = Instant::now() + Duration::from_secs(10);
    while !server.is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(server.is_empty(), "{}", server.load());
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meeting_over_data_channels_follows_wishes_and_speakers() {
    let server = Server::start_with(&["--set", "media.channel=datachannel"]);
    let other = tokio::spawn(take_part(server.room("data"), 21, true, 1));
    let mut client = Client::join(&server.room("data"), SMALL, 22).await.unwrap();
    client.command(|participant, out| participant.wish(VideoWishes::all_at(180), out)).await.unwrap();
    let heard = |participant: &Participant| {
        participant.has_data_channel()
            && participant.dominant_speaker().is_some()
            && !participant.forwarded_sources().is_empty()
    };
    let good = client.run_until(Duration::from_secs(20), heard).await.unwrap();
    let (open, who) = (client.participant().has_data_channel(), client.participant().dominant_speaker());
    assert!(good, "{open} {who:?} {:?} {:?}", client.participant().forwarded_sources(), client.events);
    client.command(|participant, out| participant.chat("hello", out)).await.unwrap();
    let sees = |participant: &Participant| participant.video().any(|video| video.decoded > 30);
    assert!(client.run_until(Duration::from_secs(20), sees).await.unwrap());
    // The other one looks for as long.
    client.run_for(Duration::from_secs(2)).await.unwrap();
    client.leave().await.unwrap();
    assert_eq!(other.await.unwrap(), [""; 0]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_is_back_within_seconds_of_a_change_of_address() {
    let server = Server::start();
    let place = server.room("moving");
    let speaker = tokio::spawn(async move {
        let mut client = Client::join(&place, SMALL, 31).await.unwrap();
        assert!(client.run_until(Duration::from_secs(20), Participant::is_connected).await.unwrap());
        client.command(|participant, _| participant.speak(Instant::now(), true)).await.unwrap();
        client.run_for(Duration::from_secs(14)).await.unwrap();
        client.leave().await.unwrap();
    });
    let mut client = Client::join(&server.room("moving"), SMALL, 32).await.unwrap();
    let heard = |participant: &Participant| participant.audio().map(|audio| audio.packets).max().unwrap_or(0);
    assert!(client.run_until(Duration::from_secs(20), |p| heard(p) > 50).await.unwrap());
    client.change_address().await.unwrap();
    let (before, moved) = (heard(client.participant()), Instant::now());
    assert!(client.run_until(Duration::from_secs(8), |p| heard(p) > before + 10).await.unwrap(), "{:?}", client.events);
    let took = moved.elapsed();
    // The client's next check comes within 3 s of its last one; the rest is ours.
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert_eq!(client.participant().violations(), [""; 0]);
    client.leave().await.unwrap();
    speaker.await.unwrap();
    server.stop();
}

#[tokio::test]
async fn it_ends_cleanly_in_the_middle_of_a_meeting() {
    let server = Server::start();
    let mut client = Client::join(&server.room("standup"), SMALL, 1).await.unwrap();
    client.run_for(Duration::from_secs(1)).await.unwrap();
    server.stop();
    assert!(client.run_for(Duration::from_secs(5)).await.is_err(), "the stream is closed");
}

#[test]
fn a_port_in_use_is_one_sentence_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut arguments = ON_FREE_PORTS;
    arguments[1] = &address;
    let output = program().args(arguments).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let sentence = said.lines().last().unwrap();
    assert!(sentence.contains(&address[10..]) && sentence.contains("http.listen"), "{said}");
}

#[test]
fn an_unknown_key_names_the_nearest_and_a_good_configuration_is_called_good() {
    let output = program().args(["--set", "medai.port=1", "config", "check"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("medai.port") && said.contains("media.port"), "{said}");
    assert!(program().args(["config", "check"]).output().unwrap().status.success());
    let output = program().args(["config", "print"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("[media]"));
}
