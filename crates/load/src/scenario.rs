//! The scenarios: which plan, what is done, what is reported.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::child::How;
use crate::link::Badness;
use crate::measure::{self, Activity, Pace, Round};
use crate::meeting::{Joined, Meeting};
use crate::plan::Plan;
use crate::process::cores;
use crate::record::Record;
use crate::shard::{Order, Reading};

/// Joins a second where joining is not what is measured.
const JOINS_PER_S: u32 = 400;
/// Media has to flow for so long until what the bridge believes of a path is worth asking.
const SETTLING: Duration = Duration::from_secs(5);
/// It tells that to clients every ten seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(11);

/// What is measured.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Scenario {
    /// Rooms in which one person sends and all others watch.
    Stage {
        /// Watching, in each room.
        #[arg(long, default_value_t = 100)]
        subscribers: u32,
        /// Rooms; each has a publisher.
        #[arg(long, default_value_t = 1)]
        rooms: u32,
    },
    /// Rooms in which everybody has a camera and sees one large and others small.
    Gallery {
        /// In each room.
        #[arg(long, default_value_t = 25)]
        people: u32,
        /// Most pictures each of them sees.
        #[arg(long, default_value_t = 25)]
        last_n: i32,
        /// Rooms.
        #[arg(long, default_value_t = 1)]
        rooms: u32,
    },
    /// Sound only.
    Audio {
        /// Listening, in each room.
        #[arg(long, default_value_t = 1000)]
        listeners: u32,
        /// Speaking at once, in each room.
        #[arg(long, default_value_t = 3)]
        speakers: u32,
        /// Rooms.
        #[arg(long, default_value_t = 1)]
        rooms: u32,
    },
    /// Many small rooms.
    Rooms {
        /// Rooms.
        #[arg(long, default_value_t = 1000)]
        rooms: u32,
        /// In each room.
        #[arg(long, default_value_t = 4)]
        people: u32,
    },
    /// Everybody joins one room, in which somebody speaks, within some seconds.
    JoinStorm {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        people: u32,
        /// Within this time.
        #[arg(long, default_value_t = 10)]
        within: u32,
    },
    /// Connected, and nobody sends.
    Idle {
        /// How many, in one room.
        #[arg(long, default_value_t = 1000)]
        people: u32,
    },
    /// Two people take turns on everybody's stage.
    Switch {
        /// Watching.
        #[arg(long, default_value_t = 1000)]
        subscribers: u32,
    },
    /// A stage whose subscribers have bad networks.
    Lossy(Lossy),
    /// The stage with 1, 2, 4, … workers.
    Cores {
        /// Watching, in each room.
        #[arg(long, default_value_t = 100)]
        subscribers: u32,
        /// Rooms for each worker.
        #[arg(long, default_value_t = 4)]
        rooms: u32,
    },
}

/// How bad the network of `lossy` is.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Lossy {
    /// Watching.
    #[arg(long, default_value_t = 20)]
    subscribers: u32,
    /// Per cent lost at random, each way.
    #[arg(long, default_value_t = 5.0)]
    loss: f64,
    /// Per cent lost in bursts of five, each way.
    #[arg(long, default_value_t = 0.0)]
    bursts: f64,
    /// Round trip.
    #[arg(long, default_value_t = 80)]
    rtt_ms: u32,
    /// Jitter, each way.
    #[arg(long, default_value_t = 5)]
    jitter_ms: u32,
    /// Per cent that may be overtaken.
    #[arg(long, default_value_t = 0.0)]
    reordered: f64,
    /// Bottleneck in kbit/s; 0 is none.
    #[arg(long, default_value_t = 0)]
    rate_kbps: u64,
    /// Queue before the bottleneck.
    #[arg(long, default_value_t = 300)]
    queue_ms: u32,
}

impl Lossy {
    fn badness(&self) -> Badness {
        let burst_ends = 0.2;
        let bursts = self.bursts / 100.0;
        Badness {
            loss: self.loss / 100.0,
            // Share of time in a burst: begins / (begins + ends).
            burst_begins: if bursts > 0.0 { burst_ends * bursts / (1.0 - bursts.min(0.9)) } else { 0.0 },
            burst_ends,
            delay_ms: self.rtt_ms / 2,
            jitter_ms: self.jitter_ms,
            reordered: self.reordered / 100.0,
            rate_bps: self.rate_kbps * 1_000,
            queue_ms: self.queue_ms,
        }
    }
}

/// How every scenario is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner<'a> {
    /// The program, to be started again as a bridge.
    pub(crate) program: &'a Path,
    pub(crate) how: How,
    pub(crate) pace: Pace,
    /// Whether the number of sending rooms is raised until packets are lost.
    pub(crate) climb: bool,
    /// How many of the people are clients of other hands.
    pub(crate) cross_check: usize,
    pub(crate) seed: u64,
}

/// Runs a scenario.
///
/// # Errors
/// When a part of the measurement fails; what was measured before is lost.
pub(crate) fn run(scenario: Scenario, manner: Manner<'_>) -> io::Result<Vec<Value>> {
    let one = match scenario {
        Scenario::Stage { subscribers, rooms } => {
            let parameters = json!({ "subscribers": subscribers, "rooms": rooms });
            flowing("stage", parameters, Plan::stage(rooms, subscribers), manner)
        }
        Scenario::Gallery { people, last_n, rooms } => {
            let parameters = json!({ "people": people, "last_n": last_n, "rooms": rooms });
            flowing("gallery", parameters, Plan::gallery(rooms, people, last_n), manner)
        }
        Scenario::Audio { listeners, speakers, rooms } => {
            let parameters = json!({ "speakers": speakers, "listeners": listeners, "rooms": rooms });
            flowing("audio", parameters, Plan::audio(rooms, speakers, listeners), manner)
        }
        Scenario::Rooms { rooms, people } => {
            flowing("rooms", json!({ "rooms": rooms, "people": people }), Plan::rooms(rooms, people), manner)
        }
        Scenario::JoinStorm { people, within } => join_storm(people, within, manner),
        Scenario::Idle { people } => idle(people, manner),
        Scenario::Switch { subscribers } => switch(subscribers, manner),
        Scenario::Lossy(network) => lossy(network, manner),
        Scenario::Cores { subscribers, rooms } => return cores_scenario(subscribers, rooms, manner),
    };
    Ok(vec![one?.json()])
}

/// Joins everybody, measures rounds, reports.
fn flowing(name: &str, parameters: Value, plan: Plan, manner: Manner<'_>) -> io::Result<Record> {
    let mut record = Record::new(name, parameters);
    let (mut meeting, joined) = assemble(plan, manner)?;
    record.joined(&joined);
    let rooms = if manner.climb { climb(&mut meeting, manner, &mut record)? } else { meeting.plan.room_count() };
    let rounds = measure::rounds(&mut meeting, manner.pace, Activity::Flow(rooms))?;
    conclude(&mut record, &mut meeting, &rounds)?;
    meeting.end();
    Ok(record)
}

fn assemble(mut plan: Plan, manner: Manner<'_>) -> io::Result<(Meeting, Joined)> {
    plan.cross_check(manner.cross_check);
    let everybody = 0..plan.count();
    let mut meeting = Meeting::start(manner.program, plan, manner.how, manner.seed)?;
    let joined = meeting.join(everybody, JOINS_PER_S)?;
    Ok((meeting, joined))
}

fn conclude(record: &mut Record, meeting: &mut Meeting, rounds: &[Round]) -> io::Result<()> {
    record.put("workers", meeting.workers);
    record.rounds(rounds, meeting.workers, meeting.shard_count());
    memory(record, meeting)?;
    let reading = meeting.read()?;
    record.quantiles("join_to_first_frame_ms", &reading.tally.first_frame);
    record.put("bridge_panics", meeting.counters()?.panics);
    record.put("violations", json!(reading.tally.violations));
    let clients = meeting.plan.people.iter().filter(|person| person.cross).count();
    if clients > 0 {
        let verified: u64 = measure::settled(rounds).iter().map(|round| round.bridge.seen.cross.verified).sum();
        let violations = &reading.cross.violations;
        record.put("cross_check", json!({ "clients": clients, "verified": verified, "violations": violations }));
    }
    Ok(())
}

fn memory(record: &mut Record, meeting: &Meeting) -> io::Result<()> {
    let grown = meeting.grown()?;
    record.put("rss_empty", meeting.resident_empty);
    record.put("rss_per_participant", grown / u64::from(meeting.plan.count().max(1)));
    Ok(())
}

/// Doubles the number of sending rooms until packets are lost; returns the most without loss.
fn climb(meeting: &mut Meeting, manner: Manner<'_>, record: &mut Record) -> io::Result<u32> {
    let all = meeting.plan.room_count();
    let (mut rooms, mut best, mut steps) = (1, 1, Vec::new());
    loop {
        let window = measure::window(meeting, manner.pace, Activity::Flow(rooms), "media")?;
        let full = window.counters.as_ref().map_or(0, |(before, after)| after.dropped_full - before.dropped_full);
        let lost = window.lost + window.kernel_drops;
        steps.push(json!({
            "rooms": rooms,
            "forwarded_pps": window.pps().round(),
            "lost": window.lost,
            "kernel_drops": window.kernel_drops,
            "bridge_dropped_full": full,
            "worker_busy": window.busy.busy_ns as f64 / 1e9 / window.seconds / meeting.workers as f64,
            "generator_busy": window.generator_s / window.seconds / meeting.shard_count() as f64,
            "latency_p99_us": window.seen.tally.latency.quantile(0.99),
        }));
        if lost > 0 {
            measure::calm(meeting)?;
            break;
        }
        best = rooms;
        if rooms == all {
            break;
        }
        rooms = (rooms * 2).min(all);
    }
    record.put("steps", steps);
    record.put("sending_rooms", best);
    Ok(best)
}

/// Everybody joins while somebody sends.
fn join_storm(people: u32, within: u32, manner: Manner<'_>) -> io::Result<Record> {
    let mut record = Record::new("join-storm", json!({ "people": people, "within_s": within }));
    let mut meeting = Meeting::start(manner.program, Plan::storm(people), manner.how, manner.seed)?;
    meeting.join(0..1, 1)?;
    meeting.tell(|| Order::Send(u32::MAX));
    meeting.pump(manner.pace.warm_up)?;
    let (busy, start) = (meeting.process.cpu("media")?, Instant::now());
    let joined = meeting.join(1..people + 1, people.div_ceil(within.max(1)))?;
    let (busy, took) = (meeting.process.cpu("media")?.since(busy), start.elapsed());
    meeting.pump(Duration::from_secs(2))?;
    let reading = meeting.read()?;
    record.joined(&joined);
    record.put("worker_busy", busy.busy_ns as f64 / 1e9 / took.as_secs_f64() / meeting.workers as f64);
    record.put("verified", reading.tally.verified);
    record.put("keyframes_asked_by_clients", reading.tally.plis);
    record.quantiles("join_to_first_frame_ms", &reading.tally.first_frame);
    ending(&mut record, &mut meeting, &reading)?;
    meeting.end();
    Ok(record)
}

/// How long the bridge asks often whether somebody who joined is there; afterwards once in five minutes: a window sees nothing of that, which
/// is a hundredth of all datagrams.
const SETTLES_IN: Duration = Duration::from_secs(15);

/// Nobody sends.
fn idle(people: u32, manner: Manner<'_>) -> io::Result<Record> {
    let mut record = Record::new("idle", json!({ "people": people }));
    let plan = Plan::audio(1, 0, people);
    let (mut meeting, joined) = assemble(plan, manner)?;
    meeting.pump(SETTLES_IN)?;
    let seconds = manner.pace.window * u32::try_from(manner.pace.rounds).unwrap_or(1);
    let before = meeting.counters()?;
    let (busy, start) = (meeting.process.cpu("media")?, Instant::now());
    meeting.pump(seconds)?;
    let (busy, took) = (meeting.process.cpu("media")?.since(busy), start.elapsed());
    let after = meeting.counters()?;
    let share = busy.busy_ns as f64 / 1e9 / took.as_secs_f64();
    let reading = meeting.read()?;
    let datagrams_per_s = (after.datagrams - before.datagrams) as f64 / took.as_secs_f64();
    let per_1000 = |share: f64| share * 1_000.0 / f64::from(people.max(1));
    record.joined(&joined);
    record.put("core_share_per_1000", per_1000(share));
    record.put("worker_busy", share / meeting.workers as f64);
    record.put("datagrams_per_s", datagrams_per_s);
    let allocations = after.allocations - before.allocations;
    record.put_number("heap_allocs_per_s", Some(allocations as f64 / took.as_secs_f64()));
    record.put("verified", reading.tally.verified);
    record.put("keep_alives", reading.tally.others);
    ending(&mut record, &mut meeting, &reading)?;
    // It has one thread: beside several workers it would be no limit.
    if manner.pace.baselines && meeting.workers == 1 {
        let limit = measure::echo(&mut meeting, manner.pace, datagrams_per_s, seconds)?;
        record.put("raw_udp_core_share_per_1000", per_1000(limit));
        record.put_number("ratio_to_raw_udp", Some(limit / share));
    }
    meeting.end();
    Ok(record)
}

fn ending(record: &mut Record, meeting: &mut Meeting, reading: &Reading) -> io::Result<()> {
    record.put("workers", meeting.workers);
    memory(record, meeting)?;
    record.put("bridge_panics", meeting.counters()?.panics);
    record.put("violations", json!(reading.tally.violations));
    Ok(())
}

/// The stage changes every second.
fn switch(subscribers: u32, manner: Manner<'_>) -> io::Result<Record> {
    let mut record = Record::new("switch", json!({ "subscribers": subscribers }));
    let (mut meeting, joined) = assemble(Plan::switch(subscribers), manner)?;
    record.joined(&joined);
    let pace = Pace { baselines: false, ..manner.pace };
    let rounds = measure::rounds(&mut meeting, pace, Activity::Switch)?;
    let mut switched = crate::histogram::Histogram::default();
    measure::settled(&rounds).iter().for_each(|round| switched.add(&round.bridge.seen.tally.switched));
    record.quantiles("switch_to_first_frame_ms", &switched);
    conclude(&mut record, &mut meeting, &rounds)?;
    meeting.end();
    Ok(record)
}

/// Subscribers have bad networks.
fn lossy(network: Lossy, manner: Manner<'_>) -> io::Result<Record> {
    let badness = network.badness();
    let mut record =
        Record::new("lossy", json!({ "subscribers": network.subscribers, "network": badness, "seed": manner.seed }));
    let mut plan = Plan::stage(1, network.subscribers);
    plan.spoil_downlinks(badness);
    let (mut meeting, joined) = assemble(plan, manner)?;
    record.joined(&joined);
    let pace = Pace { baselines: false, ..manner.pace };
    let rounds = measure::rounds(&mut meeting, pace, Activity::Flow(1))?;
    let (mut all, counted) = (Reading::default(), measure::settled(&rounds));
    counted.iter().for_each(|round| all.add(&round.bridge.seen));
    let share = |part: u64| part as f64 / all.tally.verified.max(1) as f64;
    record.put("rtx_ratio", share(all.tally.recovered + all.tally.probes));
    record.put("recovered", all.tally.recovered);
    record.put("nacked", all.tally.nacked);
    record.quantiles("time_to_recover_ms", &all.tally.freezes);
    if badness.rate_bps > 0 {
        record.put("queue_max_ms", all.queued_max.as_millis() as u64);
        let bits = all.tally.bytes as f64 * 8.0 / counted.iter().map(|round| round.bridge.seconds).sum::<f64>();
        record.put("received_share_of_bottleneck", bits / f64::from(network.subscribers) / badness.rate_bps as f64);
        hear_estimates(&mut meeting)?;
        record.put_number("bwe_error", measure::median_error(meeting.estimates.values().copied(), badness.rate_bps));
    }
    conclude(&mut record, &mut meeting, &rounds)?;
    meeting.end();
    Ok(record)
}

/// Lets media flow on until the bridge has told everybody behind a bottleneck what it believes of it.
fn hear_estimates(meeting: &mut Meeting) -> io::Result<()> {
    meeting.tell(|| Order::Send(u32::MAX));
    meeting.pump(SETTLING)?;
    meeting.estimates.clear();
    let (start, told) = (Instant::now(), meeting.plan.people.iter().filter(|person| person.badness.is_some()).count());
    while meeting.estimates.len() < told && start.elapsed() < TOLD_WITHIN {
        meeting.pump(Duration::from_millis(50))?;
    }
    meeting.tell(|| Order::Send(0));
    Ok(())
}

/// The same load for each worker, on more and more of them.
fn cores_scenario(subscribers: u32, rooms: u32, manner: Manner<'_>) -> io::Result<Vec<Value>> {
    let mut results = Vec::new();
    let mut workers = 1;
    while workers <= cores() {
        let how = How { workers, ..manner.how };
        let rooms = rooms * u32::try_from(workers).unwrap_or(1);
        let parameters = json!({ "subscribers": subscribers, "rooms": rooms, "workers": workers });
        // The fan-outs have one thread: beside several workers they would be no limit.
        let pace = Pace { baselines: manner.pace.baselines && workers == 1, ..manner.pace };
        let manner = Manner { how, pace, ..manner };
        results.push(flowing("cores", parameters, Plan::stage(rooms, subscribers), manner)?.json());
        workers *= 2;
    }
    Ok(results)
}

/// The scenarios of the published table, and whether each climbs. A thousand small rooms do, because few machines can take them all at once,
/// and of an overloaded one nothing is learnt.
pub(crate) fn report(quick: bool, climb: bool) -> Vec<(Scenario, bool)> {
    let size = |full: u32, small: u32| if quick { small } else { full };
    let lossy = |loss, bursts, rtt_ms, rate_kbps| {
        let (jitter_ms, reordered, queue_ms) = (5, 0.0, 300);
        Scenario::Lossy(Lossy { subscribers: 20, loss, bursts, rtt_ms, jitter_ms, reordered, rate_kbps, queue_ms })
    };
    let all = [
        Scenario::Stage { subscribers: 10, rooms: size(20, 4) },
        Scenario::Stage { subscribers: 100, rooms: size(4, 1) },
        Scenario::Stage { subscribers: size(1_000, 200), rooms: 1 },
        Scenario::Gallery { people: 25, last_n: 25, rooms: size(4, 1) },
        Scenario::Gallery { people: size(200, 50), last_n: 25, rooms: 1 },
        Scenario::Audio { listeners: size(1_000, 200), speakers: 3, rooms: 1 },
        Scenario::Rooms { rooms: size(1_000, 50), people: 4 },
        Scenario::JoinStorm { people: size(1_000, 200), within: size(10, 2) },
        Scenario::Idle { people: size(1_000, 200) },
        Scenario::Idle { people: size(10_000, 500) },
        Scenario::Switch { subscribers: size(1_000, 100) },
        lossy(1.0, 0.0, 50, 0),
        lossy(5.0, 0.0, 80, 0),
        lossy(10.0, 0.0, 150, 0),
        lossy(0.0, 20.0, 80, 0),
        lossy(0.0, 0.0, 50, 1_000),
        Scenario::Cores { subscribers: 100, rooms: size(2, 1) },
    ];
    all.map(|scenario| (scenario, climb || matches!(scenario, Scenario::Rooms { .. }))).into()
}
