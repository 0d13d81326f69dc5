//! What is printed of a scenario: one JSON object, and a line of a table. A field that was not measured is absent.

use serde_json::{Map, Value, json};

use crate::histogram::Histogram;
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
    pub(crate) fn joined(&mut self, joined: &Joined, people: u32) {
        self.put("participants", people);
        self.put_number("handshakes_per_s", Some(f64::from(people) / joined.took.as_secs_f64()));
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
        let raw = through(|round| round.raw.as_ref());
        self.latency("latency_raw", &raw);
        self.latency("latency_seal_send", &through(|round| round.sealed.as_ref()));
        for (name, share) in
            [("latency_added_p50_us", 0.5), ("latency_added_p99_us", 0.99), ("latency_added_p999_us", 0.999)]
        {
            let added = latency.quantile(share).zip(raw.quantile(share));
            self.put_some(name, added.map(|(bridge, raw)| bridge.cast_signed() - raw.cast_signed()));
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
        let allocations: Option<u64> =
            pairs.iter().map(|(before, after)| Some(after.allocations? - before.allocations?)).sum();
        let each = allocations.filter(|_| verified > 0).map(|count| count as f64 / verified as f64);
        self.put_number("heap_allocs_per_packet", each);
    }

    fn latency(&mut self, name: &str, histogram: &Histogram) {
        for (suffix, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
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
    ("lost", "loss_added"),
    ("on time", "frames_on_time"),
    ("allocs/packet", "heap_allocs_per_packet"),
    ("KB/person", "rss_per_participant"),
];

/// Results as a table in Markdown.
pub(crate) fn table(results: &[Value]) -> String {
    let mut out = String::from("| scenario |");
    COLUMNS.iter().for_each(|(header, _)| out.push_str(&format!(" {header} |")));
    out.push_str("\n|---|");
    COLUMNS.iter().for_each(|_| out.push_str("---|"));
    for result in results {
        out.push_str(&format!("\n| {} |", title(result)));
        for (header, field) in COLUMNS {
            out.push_str(&format!(" {} |", cell(header, &result[*field])));
        }
    }
    out.push('\n');
    out
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
        _ if number >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
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
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!((round(123_456.0), round(0.123_456)), (123_500.0, 0.123_5));
    }
}
