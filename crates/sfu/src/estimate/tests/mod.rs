//! The estimator on paths in virtual time.

mod path;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tertulia_rtp::transport_cc::Recorder;

use self::path::{Chance, Link, Loss, Path, Source};
use super::*;

const SEEDS: [u64; 3] = [1, 7, 2026];

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn one_megabit_is_found_within_five_seconds_and_its_queue_stays_short() {
    for seed in SEEDS {
        let mut path = Path::new(seed, Link::new(1e6, 50), Source::Smooth(3_000_000));
        path.run(60.0);
        let estimates = path.estimates_in(5.0, 60.0);
        let (low, high) = (percentile(&estimates, 5), percentile(&estimates, 95));
        let queue = path.queue_p95_ms(5.0, 60.0);
        println!("seed {seed}: {low}..{high} bit/s, queue {queue:.0} ms, {:?}", path.estimator.diagnostics());
        assert!(low >= 850_000 && high <= 1_150_000, "seed {seed}: {low}..{high}");
        assert!(queue < 100.0, "seed {seed}: {queue}");
    }
}

#[test]
fn a_path_that_narrows_and_widens_is_followed_both_ways() {
    for seed in SEEDS {
        let mut path = Path::new(seed, Link::new(3e6, 50), Source::Smooth(4_000_000));
        path.run(20.0);
        path.link.bps = 0.5e6;
        path.run(20.0);
        path.link.bps = 3e6;
        path.run(20.0);
        let fell = path.first(20.0, |bps| bps < 550_000).unwrap() - 20.0;
        let rose = path.first(40.0, |bps| bps >= 2_500_000).unwrap() - 40.0;
        let queues = [(5.0, 20.0), (25.0, 40.0), (50.0, 60.0)].map(|(from, to)| path.queue_p95_ms(from, to));
        let steady = path.estimates_in(25.0, 40.0);
        let (low, high) = (percentile(&steady, 5), percentile(&steady, 95));
        println!("seed {seed}: fell in {fell} s, rose in {rose} s, queues {queues:?} ms, {low}..{high}");
        assert!(fell < 2.0 && rose < 10.0, "seed {seed}: {fell} {rose}");
        assert!(queues.iter().all(|ms| *ms < 100.0), "seed {seed}: {queues:?}");
        assert!(low >= 400_000 && high <= 600_000, "seed {seed}: {low}..{high}");
    }
}

#[test]
fn five_percent_of_random_loss_costs_no_layer() {
    for seed in SEEDS {
        let mut link = Link::new(10e6, 40);
        link.loss = Loss::Random(0.05);
        let mut path = Path::new(seed, link, Source::Smooth(2_000_000));
        path.run(60.0);
        let lowest = path.estimates_in(0.0, 60.0)[0];
        println!("seed {seed}: lowest {lowest}, {:?}", path.estimator.diagnostics());
        assert!(lowest >= 1_200_000, "seed {seed}: {lowest}");
        assert!((0.02..0.08).contains(&path.estimator.loss()), "{}", path.estimator.loss());
    }
}

#[test]
fn bursts_of_loss_choose_a_lower_layer_within_two_seconds_and_leave_the_lowest() {
    for seed in SEEDS {
        let source = Source::Layers(&[150_000, 500_000, 1_900_000]);
        let mut path = Path::new(seed, Link::new(10e6, 40), source);
        path.run(20.0);
        assert!(path.rates().1 > 1_900_000, "seed {seed}: {:?}", path.rates());
        // 20 % on average, in bursts of ten packets.
        path.link.loss = Loss::Bursts { fall: 1.0 / 30.0, leave: 0.1, lost: 0.8 };
        path.run(20.0);
        let fell = path.first(20.0, |bps| bps < 1_900_000).unwrap() - 20.0;
        let lowest = path.estimates_in(20.0, 40.0)[0];
        path.link.loss = Loss::Random(0.0);
        path.run(20.0);
        let rose = path.first(40.0, |bps| bps > 1_940_000).unwrap() - 40.0;
        println!("seed {seed}: fell in {fell} s to {lowest}, rose in {rose} s");
        assert!(fell < 2.0, "seed {seed}: {fell}");
        assert!(lowest >= 190_000, "seed {seed}: {lowest}");
        assert!(rose < 10.0, "seed {seed}: {rose}");
    }
}

#[test]
fn a_wide_path_never_holds_back_who_wants_little_and_gives_more_at_once() {
    for seed in SEEDS {
        let mut link = Link::new(30e6, 30);
        link.jitter = Duration::from_millis(10);
        let mut path = Path::new(seed, link, Source::Smooth(300_000));
        path.run(60.0);
        assert!(path.estimates_in(0.0, 60.0)[0] >= 300_000);
        path.source = Source::Smooth(8_000_000);
        path.run(10.0);
        let rose = path.first(60.0, |bps| bps >= 8_000_000).unwrap() - 60.0;
        println!("seed {seed}: lowest {}, rose in {rose} s", path.estimates_in(0.0, 60.0)[0]);
        assert!(rose < 3.0, "seed {seed}: {rose}");
    }
}

#[test]
fn layers_on_a_narrow_path_settle_on_the_one_that_fits() {
    for seed in SEEDS {
        let source = Source::Layers(&[150_000, 500_000, 1_500_000, 3_000_000]);
        let mut path = Path::new(seed, Link::new(1e6, 50), source);
        path.run(60.0);
        let estimates = path.estimates_in(5.0, 60.0);
        let fits = estimates.iter().filter(|bps| (540_000..1_540_000).contains(*bps)).count();
        let queue = path.queue_p95_ms(5.0, 60.0);
        println!("seed {seed}: {} of {}, queue {queue:.0} ms", fits, estimates.len());
        assert!(fits * 100 > estimates.len() * 95 && queue < 100.0, "seed {seed}: {fits} {queue}");
    }
}

#[test]
fn lost_late_and_reordered_feedback_is_lived_with() {
    for seed in SEEDS {
        let mut link = Link::new(1e6, 50);
        link.jitter = Duration::from_millis(15);
        link.reorders = true;
        let mut path = Path::new(seed, link, Source::Smooth(3_000_000));
        path.feedback_lost = 0.1;
        path.run(60.0);
        let estimates = path.estimates_in(5.0, 60.0);
        let (low, high) = (percentile(&estimates, 5), percentile(&estimates, 95));
        let queue = path.queue_p95_ms(5.0, 60.0);
        println!("seed {seed}: {low}..{high} bit/s, queue {queue:.0} ms");
        assert!(low >= 700_000 && high <= 1_200_000, "seed {seed}: {low}..{high}");
        assert!(queue < 150.0, "seed {seed}: {queue}");
    }
}
