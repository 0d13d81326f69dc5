//! Windows of a measurement, rounds of windows, and what follows from them.

use std::io;
use std::time::{Duration, Instant};

use crate::meeting::Meeting;
use crate::process::Cpu;
use crate::protocol::Counters;
use crate::shard::{Order, Reading};

/// After the last packet was sent, until it counts as lost.
const DRAIN: Duration = Duration::from_millis(400);
/// What an overloaded machine left in its queues is waited for this long.
const CALM_WITHIN: Duration = Duration::from_secs(30);

/// How long, how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// Whether fan-outs are measured beside the bridge.
    pub(crate) baselines: bool,
}

/// What is done within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Media flows in the first so many rooms.
    Flow(u32),
    /// Media flows, and the stage changes every second.
    Switch,
}

/// One window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// Of the worker threads, or of the fan-out.
    pub(crate) busy: Cpu,
    /// Of all threads of the bridge's process.
    pub(crate) process: Cpu,
    /// Of the same threads as `busy`, where the processor counts them.
    pub(crate) instructions: Option<u64>,
    pub(crate) generator_s: f64,
    pub(crate) seen: Reading,
    /// Packets of the window, its beginning and end included, that never came.
    pub(crate) lost: u64,
    /// What the bridge counted before and after; nothing where there is another server.
    pub(crate) counters: Option<(Counters, Counters)>,
    /// Datagrams for which some socket of this machine had no room.
    pub(crate) kernel_drops: u64,
}

impl Window {
    /// Nanoseconds of a worker for a packet that a subscriber verified.
    pub(crate) fn ns_per_packet(&self) -> Option<f64> {
        (self.seen.tally.verified > 0).then(|| self.busy.busy_ns as f64 / self.seen.tally.verified as f64)
    }

    /// Packets a second that subscribers verified.
    pub(crate) fn pps(&self) -> f64 {
        self.seen.tally.verified as f64 / self.seconds
    }
}

/// One round: the bridge and, interleaved, its limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) bridge: Window,
    pub(crate) raw: Option<Window>,
    pub(crate) sealed: Option<Window>,
    /// Run length of the fan-outs, that of the bridge.
    pub(crate) run: usize,
}

impl Round {
    /// By how much this quantile of the bridge's latencies exceeds that of raw UDP. Microseconds; negative where raw UDP was slower.
    pub(crate) fn latency_added_us(&self, share: f64) -> Option<f64> {
        let quantile = |window: &Window| window.seen.tally.latency.quantile(share);
        let (bridge, raw) = (quantile(&self.bridge)?, quantile(self.raw.as_ref()?)?);
        Some(bridge as f64 - raw as f64)
    }
}

/// Measures round after round.
///
/// # Errors
/// When a part of the measurement is gone.
pub(crate) fn rounds(meeting: &mut Meeting, pace: Pace, activity: Activity) -> io::Result<Vec<Round>> {
    let mut all = Vec::new();
    for _ in 0..pace.rounds {
        let bridge = window(meeting, pace, activity, "media")?;
        meeting.weigh()?;
        let run = mean_run(&bridge.seen.runs).round().clamp(1.0, 16.0) as usize;
        let mut round = Round { bridge, run, ..Round::default() };
        if pace.baselines {
            round.raw = Some(fan_out(meeting, pace, activity, false, run)?);
            round.sealed = Some(fan_out(meeting, pace, activity, true, run)?);
        }
        all.push(round);
    }
    Ok(all)
}

/// One window of the bridge, or of what stands in its place: `threads` are those whose time counts.
///
/// # Errors
/// As [`rounds`].
pub(crate) fn window(meeting: &mut Meeting, pace: Pace, activity: Activity, threads: &str) -> io::Result<Window> {
    let rooms = match activity {
        Activity::Flow(rooms) => rooms,
        Activity::Switch => u32::MAX,
    };
    let beginning = meeting.read()?;
    let drops = kernel_drops();
    meeting.tell(|| Order::Send(rooms));
    meeting.pump(pace.warm_up)?;
    let before = meeting.counters()?;
    meeting.tell(|| Order::Clear);
    let cpu_before = meeting.read()?.cpu;
    let instructions = meeting.process.instructions(threads);
    let (busy, process, start) = (meeting.process.cpu(threads)?, meeting.process.cpu("")?, Instant::now());
    match activity {
        Activity::Flow(_) => meeting.pump(pace.window)?,
        Activity::Switch => change_the_stage(meeting, pace.window)?,
    }
    let (busy, process) = (meeting.process.cpu(threads)?.since(busy), meeting.process.cpu("")?.since(process));
    let instructions = instructions.and_then(|instructions| instructions.count());
    let seconds = start.elapsed().as_secs_f64();
    let seen = meeting.read()?;
    let after = meeting.counters()?;
    meeting.tell(|| Order::Send(0));
    meeting.pump(DRAIN)?;
    let end = meeting.read()?;
    let lost = |reading: &Reading| reading.expected.saturating_sub(reading.received);
    Ok(Window {
        seconds,
        busy,
        process,
        instructions,
        generator_s: seen.cpu.saturating_sub(cpu_before).as_secs_f64(),
        lost: lost(&end).saturating_sub(lost(&beginning)),
        seen,
        counters: Some((before, after)),
        kernel_drops: kernel_drops().saturating_sub(drops),
    })
}

/// Waits until nothing comes any more: after an overload, queues of the kernel hold seconds of packets.
///
/// # Errors
/// As [`rounds`].
pub(crate) fn calm(meeting: &mut Meeting) -> io::Result<()> {
    let (start, mut before) = (Instant::now(), meeting.read()?.received);
    while start.elapsed() < CALM_WITHIN {
        meeting.pump(DRAIN)?;
        let now = meeting.read()?.received;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}

fn fan_out(meeting: &mut Meeting, pace: Pace, activity: Activity, sealed: bool, run: usize) -> io::Result<Window> {
    meeting.start_fan_out(sealed, run)?;
    let window = window(meeting, pace, activity, crate::fanout::THREAD);
    meeting.end_fan_out()?;
    window
}

/// The share of a core that an echo takes which is sent, and sends back, so many datagrams a second: the limit of an idle bridge. It ends the
/// meeting: while it runs, there is nothing that the bridge could do.
///
/// # Errors
/// As [`rounds`], and when a hundredth of the datagrams does not come back.
pub(crate) fn echo(meeting: &mut Meeting, pace: Pace, datagrams_per_s: f64, time: Duration) -> io::Result<f64> {
    meeting.start_echo(Duration::from_secs_f64(f64::from(meeting.plan.count()) / datagrams_per_s.max(1.0)))?;
    meeting.pump(pace.warm_up)?;
    meeting.tell(|| Order::Clear);
    let (busy, start) = (meeting.process.cpu(crate::echo::THREAD)?, Instant::now());
    meeting.pump(time)?;
    let (busy, seconds) = (meeting.process.cpu(crate::echo::THREAD)?.since(busy), start.elapsed().as_secs_f64());
    let back_per_s = meeting.read()?.tally.others as f64 / seconds;
    meeting.end_fan_out()?;
    if back_per_s < 0.99 * datagrams_per_s {
        return Err(io::Error::other(format!("of {datagrams_per_s:.0} datagrams a second {back_per_s:.0} came back")));
    }
    Ok(busy.busy_ns as f64 / 1e9 / seconds)
}

/// Two people take turns on everybody's stage, once a second.
fn change_the_stage(meeting: &mut Meeting, time: Duration) -> io::Result<()> {
    let end = Instant::now() + time;
    let mut turn = 0;
    while Instant::now() < end {
        turn = 1 - turn;
        meeting.speak(turn, true);
        meeting.speak(1 - turn, false);
        meeting.tell(|| Order::Watch { person: turn, encoding: 2 });
        for person in 2..meeting.plan.count() {
            meeting.plan.people[person as usize].stage = Some(turn);
            meeting.wish(person)?;
        }
        meeting.pump(Duration::from_secs(1))?;
    }
    Ok(())
}

/// Those that count: caches grow in the first one, and paths are not known yet. A single one counts.
pub(crate) fn settled(rounds: &[Round]) -> &[Round] {
    if rounds.len() > 1 { &rounds[1..] } else { rounds }
}

/// Datagrams per run, as they arrived.
pub(crate) fn mean_run(runs: &[u64]) -> f64 {
    let (mut pieces, mut datagrams) = (0, 0);
    for (len, count) in runs.iter().enumerate() {
        pieces += count;
        datagrams += count * len as u64;
    }
    if pieces == 0 { 1.0 } else { datagrams as f64 / pieces as f64 }
}

/// The median of some numbers, with the lowest and the highest; `None` without any.
pub(crate) fn median(mut numbers: Vec<f64>) -> Option<(f64, f64, f64)> {
    numbers.sort_by(f64::total_cmp);
    let (lowest, highest) = (*numbers.first()?, *numbers.last()?);
    let middle = f64::midpoint(numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
    Some((middle, lowest, highest))
}

/// How far estimates are from what is true, as a share of it, in the median: negative is too low.
pub(crate) fn median_error(estimates: impl Iterator<Item = u64>, rate_bps: u64) -> Option<f64> {
    let rate = rate_bps as f64;
    median(estimates.map(|bps| (bps as f64 - rate) / rate).collect()).map(|(middle, ..)| middle)
}

/// Datagrams that found a full buffer on this machine (`RcvbufErrors` of RFC 4113's table, as Linux shows it).
fn kernel_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut fields = names.split(' ').zip(values.split(' '));
    fields.find(|(name, _)| *name == "RcvbufErrors").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_run_weighs_pieces() {
        assert!((mean_run(&[0, 3, 0, 0, 1]) - 7.0 / 4.0).abs() < 1e-9);
        assert!((mean_run(&[]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_first_of_several_rounds_does_not_count() {
        let rounds: Vec<Round> = (1..=3).map(|run| Round { run, ..Round::default() }).collect();
        let runs = |rounds: &[Round]| settled(rounds).iter().map(|round| round.run).collect::<Vec<_>>();
        assert_eq!((runs(&rounds), runs(&rounds[..1]), runs(&[])), (vec![2, 3], vec![1], vec![]));
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_that_are_next_to_it() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(median(vec![3.0, 1.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn an_estimate_below_the_rate_is_a_negative_error() {
        assert_eq!(median_error([500, 750, 2_000].into_iter(), 1_000), Some(-0.25));
        assert_eq!(median_error([].into_iter(), 1_000), None);
    }
}
