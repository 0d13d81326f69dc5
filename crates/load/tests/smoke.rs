//! Each kind of scenario once, very small: packets arrive, all of them are right, and nothing is said of times.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::process::Command;

use serde_json::Value;

/// Runs a scenario in a hurry; its results, without the line that names the machine.
fn run(arguments: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_tertulia-load"))
        .args(["--rounds", "1", "--seconds", "0.4", "--warm-up", "0.8"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap());
    let (machine, results): (Vec<Value>, Vec<Value>) = lines.partition(|line: &Value| line.get("machine").is_some());
    assert!(machine.len() == 1 && machine[0]["machine"]["kernel"].is_string(), "{arguments}: {machine:?}");
    results
}

/// Runs a scenario of which one result comes: verified packets, and nothing that must not be.
fn sound(arguments: &str) -> Value {
    let result = run(arguments).pop().unwrap();
    assert!(result["verified"].as_u64() > Some(0), "{arguments}: {result}");
    assert_eq!(result["violations"], serde_json::json!({}), "{arguments}: {result}");
    assert_eq!(result["bridge_panics"], 0, "{arguments}: {result}");
    result
}

#[test]
fn a_stage_is_measured_beside_its_limits() {
    let result = sound("stage --subscribers 3 --rooms 2");
    let costs = ["ratio_to_raw_udp", "ratio_to_seal_send", "ns_per_packet", "heap_allocs_per_packet"];
    for field in costs.into_iter().chain(["latency_p999_us", "latency_added_p99_us"]) {
        assert!(result[field].is_number(), "{field}: {result}");
    }
    assert_eq!(result["join_to_first_frame_ms"]["count"], 6, "{result}");
    let received = result["recv_batch_histogram"].as_object().unwrap().values().filter_map(Value::as_u64);
    assert!(received.sum::<u64>() > 0, "{result}");
    assert!(result["sendmmsg_fill"]["mean"].as_f64() >= Some(1.0), "{result}");
}

#[test]
fn a_client_of_other_hands_finds_nothing_wrong_either() {
    let result = sound("stage --subscribers 3 --cross-check 1 --no-baselines");
    let cross = &result["cross_check"];
    assert!(cross["verified"].as_u64() > Some(0), "{result}");
    assert_eq!(cross["violations"], serde_json::json!({}), "{result}");
}

#[test]
fn a_gallery_and_small_rooms_bring_everybody_pictures() {
    sound("gallery --people 4 --last-n 2 --no-baselines");
    let rooms = sound("rooms --rooms 2 --people 3 --no-baselines --climb");
    let steps = rooms["steps"].as_array().map_or(0, Vec::len);
    assert!(rooms["steps"][0]["kernel_drops"].is_u64() && (1..=2).contains(&steps), "{rooms}");
    sound("gallery --people 6 --last-n 5 --workers 2 --spread-at 2 --no-baselines");
}

#[test]
fn sound_reaches_listeners() {
    sound("audio --listeners 3 --speakers 2 --no-baselines");
}

#[test]
fn a_storm_and_a_switch_end_with_pictures() {
    let storm = sound("join-storm --people 6 --within 1");
    assert_eq!(storm["join_to_first_frame_ms"]["count"], 6, "{storm}");
    assert!(storm["handshakes_per_s"].as_f64() > Some(0.0) && storm["joins_offered_per_s"] == 6, "{storm}");
    let switch = sound("switch --subscribers 3");
    assert!(switch["switch_to_first_frame_ms"]["count"].as_u64() > Some(0), "{switch}");
}

#[test]
fn those_who_are_idle_keep_their_connection() {
    let result = run("idle --people 4 --seconds 1 --warm-up 0.1").pop().unwrap();
    assert_eq!((&result["violations"], &result["participants"]), (&serde_json::json!({}), &Value::from(4)));
}

#[test]
fn losses_are_repaired() {
    let result = sound("lossy --subscribers 3 --loss 10 --rtt-ms 20 --bursts 2 --reordered 1 --seconds 1.5");
    assert!(result["recovered"].as_u64() > Some(0), "{result}");
}

#[test]
fn what_the_bridge_believes_of_a_bottleneck_is_compared_with_its_rate() {
    let result = sound("lossy --subscribers 2 --loss 0 --rtt-ms 20 --rate-kbps 1000");
    assert!(result["bwe_error"].as_f64().is_some_and(|error| (-1.0..10.0).contains(&error)), "{result}");
}

#[test]
fn more_workers_are_measured_one_after_the_other() {
    let results = run("cores --subscribers 2 --rooms 1 --no-baselines");
    assert!(results.iter().all(|result| result["verified"].as_u64() > Some(0)), "{results:?}");
}
