//! What is printed of a scenario: one JSON object, and a line of the table below its machine. A field that was not measured is absent.

use serde_json::{Map, Value, json};

use crate::histogram::Histogram;
use crate::machine::Machine;
use crate::measure::{Round, Window, median, settled};
use crate::meeting::Joined;
use crate::protocol::Counters;

/// A result in the making.
#[derive(Debug, Default)]
pub(crate) struct Record(Map<String, Value>);

impl Record {
    /// A result of this name and these parameters.
    pub(crate) fn new(scenario: &str, parameters: Value) -> Self {
        let mut record = Self::default();
        record.put("scenario", scenario);
        record.put("parameters", parameters);
        record
    }

    /// Adds a field.
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds a field if there is a value.
    pub(crate) fn put_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// Adds a number to three significant digits after it: nobody measures more.
    pub(crate) fn put_number(&mut self, name: &str, value: Option<f64>) {
        self.put_some(name, value.filter(|value| value.is_finite()).map(round));
    }

    /// The object.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// What joining took.
    pub(crate) fn joined(&mut self, joined: &Joined) {
        self.put("participants", joined.completed);
        self.put("joins_offered_per_s", joined.offered_per_s);
        self.put_number("handshakes_per_s", Some(f64::from(joined.completed) / joined.took.as_secs_f64()));
        self.quantiles("join_to_connected_ms", &joined.connected_ms);
    }

    /// What rounds of windows showed, as far as they count.
    pub(crate) fn rounds(&mut self, rounds: &[Round], workers: usize, shards: usize) {
        let rounds = settled(rounds);
        let of = |pick: &dyn Fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(pick).collect());
        self.put("rounds", rounds.len());
        let cost = of(&|round| round.bridge.ns_per_packet());
        self.put_number("forwarded_pps_per_core", cost.map(|(ns, ..)| 1e9 / ns));
        self.put_number("ns_per_packet", cost.map(|(ns, ..)| ns));
        self.put_number("ns_per_packet_lowest", cost.map(|(_, lowest, _)| lowest));
        self.put_number("ns_per_packet_highest", cost.map(|(.., highest)| highest));
        self.put_number("forwarded_pps", of(&|round| Some(round.bridge.pps())).map(|(pps, ..)| pps));
        let share = |window: &Window| window.busy.busy_ns as f64 / 1e9 / window.seconds;
        self.put_number("worker_busy", of(&|round| Some(share(&round.bridge) / workers as f64)).map(first));
        let generator = |round: &Round| Some(round.bridge.generator_s / round.bridge.seconds / shards as f64);
        self.put_number("generator_busy", of(&generator).map(first));
        let instructions = |round: &Round| {
            let verified = round.bridge.seen.tally.verified;
            round.bridge.instructions.filter(|_| verified > 0).map(|count| count as f64 / verified as f64)
        };
        self.put_number("instructions_per_packet", of(&instructions).map(first));
        self.limits(rounds);
        self.split(rounds);
        let gigabytes = |round: &Round| {
            let bytes = round.bridge.seen.tally.bytes;
            (bytes > 0).then(|| round.bridge.process.busy_ns as f64 / bytes as f64)
        };
        self.put_number("cpu_seconds_per_GB", of(&gigabytes).map(first));
        self.put_number(
            "payload_gbit_per_s",
            of(&|round| Some(round.bridge.seen.tally.bytes as f64 * 8.0 / 1e9 / round.bridge.seconds)).map(first),
        );
        self.checks(rounds);
        self.counted(rounds);
        let mut latency = Histogram::default();
        rounds.iter().for_each(|round| latency.add(&round.bridge.seen.tally.latency));
        self.latency("latency", &latency);
        let through = |pick: fn(&Round) -> Option<&Window>| {
            let mut all = Histogram::default();
            rounds.iter().filter_map(pick).for_each(|window| all.add(&window.seen.tally.latency));
            all
        };
        self.latency("latency_raw", &through(|round| round.raw.as_ref()));
        self.latency("latency_seal_send", &through(|round| round.sealed.as_ref()));
        for (suffix, share) in QUANTILES {
            let added = of(&|round| round.latency_added_us(share));
            self.put_number(&format!("latency_added_{suffix}"), added.map(first));
        }
    }

    /// The bridge beside what is possible, as the median of the ratios within a round.
    fn limits(&mut self, rounds: &[Round]) {
        let cost = |window: &Option<Window>| window.as_ref().and_then(Window::ns_per_packet);
        for (name, pick) in [
            ("raw_udp", (|round: &Round| round.raw.clone()) as fn(&Round) -> Option<Window>),
            ("seal_send", |round: &Round| round.sealed.clone()),
        ] {
            let limits = median(rounds.iter().filter_map(|round| cost(&pick(round))).collect());
            self.put_number(&format!("{name}_ns_per_packet"), limits.map(first));
            let ratios = rounds.iter().filter_map(|round| Some(cost(&pick(round))? / round.bridge.ns_per_packet()?));
            self.put_number(&format!("ratio_to_{name}"), median(ratios.collect()).map(first));
        }
        if rounds.iter().any(|round| round.raw.is_some()) {
            self.put_number("limit_run", median(rounds.iter().map(|round| round.run as f64).collect()).map(first));
        }
    }

    /// In the kernel or outside it, by the kernel's own sampling.
    fn split(&mut self, rounds: &[Round]) {
        let mut busy = crate::process::Cpu::default();
        let mut verified = 0;
        for round in rounds {
            busy.busy_ns += round.bridge.busy.busy_ns;
            busy.user_ticks += round.bridge.busy.user_ticks;
            busy.system_ticks += round.bridge.busy.system_ticks;
            verified += round.bridge.seen.tally.verified;
        }
        if let Some(user) = busy.user_share().filter(|_| verified > 0) {
            let ns = busy.busy_ns as f64 / verified as f64;
            self.put_number("ns_per_packet_user", Some(ns * user));
            self.put_number("ns_per_packet_sys", Some(ns * (1.0 - user)));
        }
    }

    /// What the subscribers checked.
    fn checks(&mut self, rounds: &[Round]) {
        let sum = |pick: &dyn Fn(&Window) -> u64| rounds.iter().map(|round| pick(&round.bridge)).sum::<u64>();
        let mut runs = Vec::new();
        for round in rounds {
            runs.resize(round.bridge.seen.runs.len().max(runs.len()), 0);
            runs.iter_mut().zip(&round.bridge.seen.runs).for_each(|(own, more)| *own += more);
        }
        self.put("verified", sum(&|window| window.seen.tally.verified));
        self.put("loss_added", sum(&|window| window.lost));
        self.put("reorder_added", sum(&|window| window.seen.tally.reordered));
        self.put("replayed", sum(&|window| window.seen.tally.replayed));
        self.put("kernel_drops", sum(&|window| window.kernel_drops));
        self.put("generator_late_frames", sum(&|window| window.seen.tally.late_frames));
        self.put("keyframe_requests", sum(&|window| window.seen.tally.plis));
        let (frames, on_time) =
            (sum(&|window| window.seen.tally.frames), sum(&|window| window.seen.tally.frames_on_time));
        self.put_number("frames_on_time", (frames > 0).then(|| (on_time as f64 / frames as f64).min(1.0)));
        let histogram = runs.iter().enumerate().filter(|(_, count)| **count > 0);
        let histogram: Map<String, Value> = histogram.map(|(len, count)| (len.to_string(), json!(count))).collect();
        self.put("arrived_run_histogram", histogram);
        let violations = rounds.last().map(|round| &round.bridge.seen.tally.violations);
        self.put("violations", json!(violations.cloned().unwrap_or_default()));
    }

    /// What the bridge itself counted.
    fn counted(&mut self, rounds: &[Round]) {
        let pairs: Option<Vec<_>> = rounds.iter().map(|round| round.bridge.counters.as_ref()).collect();
        let Some(pairs) = pairs else { return };
        let sum = |pick: &dyn Fn(&Counters) -> u64| -> u64 {
            pairs.iter().map(|(before, after)| pick(after).saturating_sub(pick(before))).sum()
        };
        self.put("bridge_refused", sum(&|counters| counters.refused));
        self.put("bridge_dropped", sum(&|counters| counters.dropped));
        self.put("bridge_dropped_full", sum(&|counters| counters.dropped_full));
        let classes = |pick: &dyn Fn(&Counters) -> &Vec<u64>| -> [u64; CLASSES.len() + 1] {
            std::array::from_fn(|class| sum(&|counters| pick(counters).get(class).copied().unwrap_or(0)))
        };
        let runs = classes(&|counters| &counters.runs);
        self.put("gso_run_histogram", by_class(&runs, "33-64"));
        self.put("recv_batch_histogram", by_class(&classes(&|counters| &counters.receiving_calls), "33+"));
        let calls = classes(&|counters| &counters.sending_calls);
        let (messages, count) = (runs.iter().sum::<u64>(), calls.iter().sum::<u64>());
        if count > 0 {
            let mean = round(messages as f64 / count as f64);
            self.put("sendmmsg_fill", json!({ "mean": mean, "histogram": by_class(&calls, "33-64") }));
        }
        let verified: u64 = rounds.iter().map(|round| round.bridge.seen.tally.verified).sum();
        let allocations = sum(&|counters| counters.allocations);
        self.put_number("heap_allocs_per_packet", (verified > 0).then(|| allocations as f64 / verified as f64));
    }

    fn latency(&mut self, name: &str, histogram: &Histogram) {
        for (suffix, share) in QUANTILES {
            self.put_some(&format!("{name}_{suffix}"), histogram.quantile(share));
        }
    }

    /// Three quantiles of a histogram of milliseconds.
    pub(crate) fn quantiles(&mut self, name: &str, histogram: &Histogram) {
        let quantile = |share| histogram.quantile(share);
        let all = quantile(0.5).zip(quantile(0.99)).zip(quantile(1.0));
        self.put_some(
            name,
            all.map(|((p50, p99), max)| json!({ "p50": p50, "p99": p99, "max": max, "count": histogram.total() })),
        );
    }
}

/// The quantiles of latencies that are told: ends of the fields' names, and shares.
const QUANTILES: [(&str, f64); 3] = [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)];

/// The classes of the bridge's histograms; the last one has no common name.
const CLASSES: [&str; 6] = ["1", "2", "3-4", "5-8", "9-16", "17-32"];

fn by_class(counts: &[u64; CLASSES.len() + 1], last: &str) -> Map<String, Value> {
    let names = CLASSES.into_iter().chain([last]);
    names.zip(counts).map(|(class, count)| (class.to_owned(), json!(count))).collect()
}

/// The columns of the table: header and field.
const COLUMNS: &[(&str, &str)] = &[
    ("kpps", "forwarded_pps"),
    ("kpps/core", "forwarded_pps_per_core"),
    ("ns/packet", "ns_per_packet"),
    ("of raw UDP", "ratio_to_raw_udp"),
    ("of seal+send", "ratio_to_seal_send"),
    ("worker", "worker_busy"),
    ("generator", "generator_busy"),
    ("p50 µs", "latency_p50_us"),
    ("p99 µs", "latency_p99_us"),
    ("p999 µs", "latency_p999_us"),
    ("p99 added µs", "latency_added_p99_us"),
    ("lost", "loss_added"),
    ("on time", "frames_on_time"),
    ("allocs/packet", "heap_allocs_per_packet"),
    ("KB/person", "rss_per_participant"),
];

/// Results as a table in Markdown, below the machine they are of. Lines of another machine begin another table.
pub(crate) fn table(lines: &[Value]) -> String {
    let (mut out, mut machine, mut under_header) = (String::new(), None, false);
    for line in lines {
        if let Some(named) = Machine::of(line) {
            if machine.as_ref() != Some(&named) {
                let gap = if out.is_empty() { "" } else { "\n" };
                out.push_str(&format!("{gap}{named}\n\n"));
                (machine, under_header) = (Some(named), false);
            }
            continue;
        }
        if !std::mem::replace(&mut under_header, true) {
            out.push_str(&header());
        }
        out.push_str(&format!("| {} |", title(line)));
        COLUMNS.iter().for_each(|(header, field)| out.push_str(&format!(" {} |", cell(header, &line[*field]))));
        out.push('\n');
    }
    out
}

fn header() -> String {
    let names: String = COLUMNS.iter().map(|(header, _)| format!(" {header} |")).collect();
    format!("| scenario |{names}\n|---|{}\n", "---|".repeat(COLUMNS.len()))
}

fn title(result: &Value) -> String {
    let parameters = result["parameters"].as_object().into_iter().flatten();
    let parameters: Vec<String> = parameters.map(|(name, value)| format!("{name} {value}")).collect();
    format!("{} {}", result["scenario"].as_str().unwrap_or("?"), parameters.join(", "))
}

fn cell(header: &str, value: &Value) -> String {
    let Some(number) = value.as_f64() else { return "–".into() };
    let number = if header.starts_with("kpps") || header.starts_with("KB") { number / 1_000.0 } else { number };
    match header {
        "of raw UDP" | "of seal+send" | "worker" | "generator" => format!("{:.0} %", number * 100.0),
        "on time" => format!("{:.2} %", number * 100.0),
        "allocs/packet" => format!("{number:.4}"),
        _ if number.abs() >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
        _ => format!("{number:.1}"),
    }
}

fn first(triple: (f64, f64, f64)) -> f64 {
    triple.0
}

fn round(value: f64) -> f64 {
    let scale = 10f64.powi(3 - value.abs().max(1e-9).log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent_and_shown_as_a_dash() {
        let mut record = Record::new("stage", json!({ "subscribers": 10 }));
        record.rounds(&[Round::default()], 1, 1);
        let json = record.json();
        assert!(json.get("ns_per_packet").is_none() && json.get("heap_allocs_per_packet").is_none());
        let table = table(&[json]);
        assert!(table.lines().nth(2).is_some_and(|line| line.starts_with("| stage subscribers 10 | ")), "{table}");
        assert!(table.contains(" – |"));
    }

    #[test]
    fn what_the_bridge_counted_is_the_difference_over_all_windows() {
        let counters = |n: u64| Counters {
            runs: vec![0, 0, 0, 6 * n],
            sending_calls: vec![n, 0, n],
            receiving_calls: vec![0, n, 0, 0, 0, 0, 2 * n],
            ..Counters::default()
        };
        let round = |from: u64, to: u64| Round {
            bridge: Window { counters: Some((counters(from), counters(to))), ..Window::default() },
            ..Round::default()
        };
        let mut record = Record::default();
        record.counted(&[round(10, 11), round(20, 22)]);
        let json = record.json();
        assert_eq!((&json["gso_run_histogram"]["5-8"], &json["gso_run_histogram"]["33-64"]), (&json!(18), &json!(0)));
        assert_eq!((&json["recv_batch_histogram"]["2"], &json["recv_batch_histogram"]["33+"]), (&json!(3), &json!(6)));
        let fill = &json["sendmmsg_fill"];
        assert_eq!((&fill["mean"], &fill["histogram"]["3-4"]), (&json!(3.0), &json!(3)), "{fill}");
        let mut idle = Record::default();
        idle.counted(&[round(10, 10)]);
        assert!(idle.json().get("sendmmsg_fill").is_none(), "without a call there is no mean");
        assert!(idle.json().get("heap_allocs_per_packet").is_none(), "nor without a packet");
    }

    #[test]
    fn allocations_are_shared_out_among_the_packets_of_all_windows() {
        let round = |from: u64, to: u64, verified: u64| {
            let counters = |allocations: u64| Counters { allocations, ..Counters::default() };
            let mut round = Round::default();
            round.bridge.counters = Some((counters(from), counters(to)));
            round.bridge.seen.tally.verified = verified;
            round
        };
        let mut record = Record::default();
        record.counted(&[round(1_000, 1_002, 50), round(2_000, 2_001, 150)]);
        assert_eq!(record.json()["heap_allocs_per_packet"], json!(0.015));
        let table = table(&[record.json()]);
        assert!(table.contains("| allocs/packet |") && table.contains("| 0.0150 |"), "{table}");
    }

    #[test]
    fn the_latency_added_is_the_median_of_the_differences_within_a_round() {
        let window = |latency_us: u64| {
            let mut window = Window::default();
            window.seen.tally.latency.record(latency_us);
            window
        };
        let round = |bridge, raw| Round { bridge: window(bridge), raw: Some(window(raw)), ..Round::default() };
        let mut record = Record::default();
        // The first round does not count. A moment that was bad for both is not the bridge's.
        let rounds = [round(30, 1), round(20, 10), round(31, 28), round(10, 17)];
        record.rounds(&rounds, 1, 1);
        let json = record.json();
        assert_eq!((&json["latency_added_p99_us"], &json["latency_added_p999_us"]), (&json!(3.0), &json!(3.0)));
        assert_eq!((&json["latency_p999_us"], &json["latency_raw_p999_us"]), (&json!(31), &json!(28)));
        let table = table(&[json]);
        assert!(table.contains("| p99 µs | p999 µs | p99 added µs |") && table.contains("| 31 | 31 | 3 |"), "{table}");
        let mut alone = Record::default();
        alone.rounds(&[Round { raw: None, ..round(20, 10) }], 1, 1);
        assert!(alone.json().get("latency_added_p99_us").is_none(), "without raw UDP nobody knows");
    }

    #[test]
    fn handshakes_are_those_completed_in_the_time_that_they_took() {
        let mut record = Record::default();
        let took = std::time::Duration::from_millis(2_500);
        record.joined(&Joined { completed: 1_000, took, offered_per_s: 1_000, ..Joined::default() });
        let json = record.json();
        assert_eq!((&json["handshakes_per_s"], &json["joins_offered_per_s"]), (&json!(400.0), &json!(1_000)));
        assert_eq!(json["participants"], 1_000);
    }

    #[test]
    fn a_table_stands_below_its_machine() {
        let machine = |kernel: &str| json!({ "machine": { "cpu": "EPYC", "cores": 2, "kernel": kernel } });
        let result = Record::new("idle", json!({ "people": 7 })).json();
        let again = [machine("6.1"), result.clone(), machine("6.1"), result.clone(), machine("6.2"), result];
        let table = table(&again);
        let starts: Vec<&str> = table.lines().map(|line| line.get(..16).unwrap_or("")).collect();
        let (header, row) = (["| scenario | kpp", "|---|---|---|---"], "| idle people 7 ");
        let one = ["EPYC, 2 cores, L", "", header[0], header[1], row, row, ""];
        let other = ["EPYC, 2 cores, L", "", header[0], header[1], row];
        assert_eq!(starts, [&one[..], &other[..]].concat(), "{table}");
    }

    #[test]
    fn raw_udp_may_be_the_slower_one() {
        assert_eq!(
            (cell("p99 added µs", &json!(-523.5)), cell("p99 added µs", &json!(-7.0))),
            ("-524".into(), "-7".into())
        );
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!((round(123_456.0), round(0.123_456)), (123_500.0, 0.123_5));
    }
}
