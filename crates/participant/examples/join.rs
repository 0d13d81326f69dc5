//! Joins a meeting with some headless participants and says how they fared:
//! `cargo run --release -p tertulia-participant --example join -- localhost:8000 standup 3 20`
//! (host, room, people, seconds, frames a second of their cameras if not 15, and the most pictures that each wants if not all).

use std::time::{Duration, Instant};

use tertulia_participant::{Client, ClientError, Equipment, Participant, ServerAddress, VideoWishes};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let server = ServerAddress { host: next("localhost:8000"), room: next("standup"), domain: "meet.jitsi".into() };
    let (people, seconds): (u64, u64) = (next("3").parse()?, next("20").parse()?);
    let equipment = Equipment { frames_per_second: next("15").parse()?, ..Equipment::default() };
    let wishes = VideoWishes { last_n: next("-1").parse()?, ..VideoWishes::all_at(180) };
    let person = |seed| take_part(server.clone(), equipment, wishes.clone(), seed, seconds);
    let tasks: Vec<_> = (0..people).map(|seed| tokio::spawn(person(seed))).collect();
    for task in tasks {
        println!("{}", task.await??);
    }
    Ok(())
}

/// One person; a line about what it saw and heard.
async fn take_part(
    server: ServerAddress,
    equipment: Equipment,
    wishes: VideoWishes,
    seed: u64,
    seconds: u64,
) -> Result<String, ClientError> {
    tokio::time::sleep(Duration::from_millis(50 * seed)).await;
    let start = Instant::now();
    let mut client = Client::join(&server, equipment, seed).await?;
    client.command(|participant, out| participant.wish(wishes, out)).await?;
    let connected = client.run_until(Duration::from_secs(20), Participant::is_connected).await?;
    let took = start.elapsed();
    client.command(|participant, _| participant.speak(Instant::now(), seed < 3)).await?;
    client.run_for(Duration::from_secs(seconds)).await?;
    let participant = client.participant();
    let mut line = format!("{} connected: {connected} in {} ms;", participant.nick(), took.as_millis());
    for video in participant.video() {
        line += &format!(" {} {}p {} frames {} freezes;", video.source, video.height, video.decoded, video.freezes);
    }
    for audio in participant.audio() {
        line += &format!(" {} {} packets;", audio.source, audio.packets);
    }
    for violation in participant.violations() {
        line += &format!("\n  ! {violation}");
    }
    client.leave().await?;
    Ok(line)
}
