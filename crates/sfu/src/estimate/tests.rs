//! The estimator on paths in virtual time.

mod path;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use self::path::{Link, Loss, Path, Source};
use super::*;

const SEEDS: [u64; 6] = [1, 2, 3, 7, 99, 2026];

fn path_of(seed: u64, link: Link, source: Source) -> Path {
    Path::new(Instant::now(), seed, link, source)
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn one_megabit_is_found_within_five_seconds_and_its_queue_stays_short() {
    for seed in SEEDS {
        let mut path = path_of(seed, Link::new(1e6, 50), Source::Smooth(3_000_000));
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
        let mut path = path_of(seed, Link::new(3e6, 50), Source::Smooth(4_000_000));
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
fn a_receiver_whose_clock_begins_anew_is_followed_all_the_same() {
    // The reference time of a feedback has 24 bits of 64 ms: twelve days.
    const WRAP_US: u64 = (1 << 24) * 64_000;
    for (seed, before_s) in SEEDS.into_iter().zip([1, 10, 20, 29, 31, 45]) {
        let mut path = path_of(seed, Link::new(3e6, 50), Source::Smooth(4_000_000));
        path.clock_us = WRAP_US - before_s * 1_000_000;
        path.run(30.0);
        path.link.bps = 0.5e6;
        path.link.queue_max = Duration::from_secs(2);
        path.run(30.0);
        let queue = path.queue_p95_ms(35.0, 60.0);
        path.link.bps = 3e6;
        path.run(20.0);
        let rose = path.first(60.0, |bps| bps >= 2_500_000).map(|at| at - 60.0);
        println!("seed {seed}: {before_s} s before it begins anew; queue {queue:.0} ms, rose in {rose:?} s");
        assert!(queue < 150.0 && rose.is_some_and(|s| s < 12.0), "seed {seed}: {queue} {rose:?}");
    }
}

#[test]
fn who_gets_nothing_any_more_is_asked_whether_the_path_is_wider_now() {
    for (seed, narrow_bps) in SEEDS.into_iter().zip([40e3, 80e3, 120e3].into_iter().cycle()) {
        let mut path = path_of(seed, Link::new(3e6, 50), Source::Layers(&[200_000, 500_000, 1_900_000]));
        path.has_audio = false;
        path.link.queue_max = Duration::from_secs(1);
        path.run(20.0);
        path.link.bps = narrow_bps;
        path.run(15.0);
        path.link.bps = 3e6;
        path.run(30.0);
        let back = path.first(35.0, |bps| bps > 1_950_000).map(|at| at - 35.0);
        println!("seed {seed}: {narrow_bps} bit/s for 15 s, back after {back:?} s");
        assert!(back.is_some_and(|s| s < 12.0), "seed {seed}: {back:?}");
    }
}

#[test]
fn one_packet_without_an_answer_does_not_make_a_path_unlimited() {
    let (start, mut estimator) = (Instant::now(), Estimator::new(Instant::now()));
    let sent = |estimator: &mut Estimator, packets: u64| {
        (0..packets).for_each(|n| _ = estimator.sent(start + Duration::from_millis(n), 1_000, None));
        estimator.on_tick(start + Duration::from_secs(3), 0, 0);
        estimator.estimate_bps()
    };
    assert_eq!(sent(&mut estimator, 1), Some(START_BPS as u64));
    assert_eq!(sent(&mut estimator, 20), None, "this one never answers");
}

#[test]
fn five_percent_of_random_loss_costs_no_layer() {
    for seed in SEEDS {
        let mut link = Link::new(10e6, 40);
        link.loss = Loss::Random(0.05);
        let mut path = path_of(seed, link, Source::Smooth(2_000_000));
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
        let mut path = path_of(seed, Link::new(10e6, 40), source);
        path.run(20.0);
        assert!(path.rates().1 > 1_900_000, "seed {seed}: {:?}", path.rates());
        // 20 % on average, in bursts of four packets: short enough that two seconds see the average.
        path.link.loss = Loss::Bursts { fall: 1.0 / 15.0, leave: 0.2, lost: 0.8 };
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
        let mut path = path_of(seed, link, Source::Smooth(300_000));
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
        let mut path = path_of(seed, Link::new(1e6, 50), source);
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
        let mut path = path_of(seed, link, Source::Smooth(3_000_000));
        path.feedback_lost = 0.1;
        path.feedback_late = 0.1;
        path.run(60.0);
        let estimates = path.estimates_in(5.0, 60.0);
        let (low, high) = (percentile(&estimates, 5), percentile(&estimates, 95));
        let queue = path.queue_p95_ms(5.0, 60.0);
        println!("seed {seed}: {low}..{high} bit/s, queue {queue:.0} ms");
        assert!(low >= 700_000 && high <= 1_200_000, "seed {seed}: {low}..{high}");
        assert!(queue < 150.0, "seed {seed}: {queue}");
    }
}

#[test]
fn the_numbers_wrap_and_the_log_stays_within_its_memory() {
    let mut path = path_of(3, Link::new(12e6, 20), Source::Smooth(10_000_000));
    path.run(80.0);
    let sent = path.queues.len();
    assert!(sent > 65_536 + 2048, "{sent} packets do not wrap");
    assert!(path.estimates_in(5.0, 80.0)[0] >= 8_500_000, "{:?}", path.estimator.diagnostics());
    assert!(path.estimator.log.footprint() <= 2048 * 12);
    assert_eq!(path.estimator.diagnostics().counters.overdue, 0);
}

#[test]
fn a_path_that_narrows_below_a_modest_sender_is_noticed() {
    for seed in SEEDS {
        let mut path = path_of(seed, Link::new(20e6, 40), Source::Smooth(1_000_000));
        path.run(10.0);
        path.link.bps = 0.4e6;
        path.run(20.0);
        let fell = path.first(10.0, |bps| bps < 450_000).unwrap() - 10.0;
        let queue = path.queue_p95_ms(15.0, 30.0);
        assert!(fell < 2.0 && queue < 100.0, "seed {seed}: {fell} s, {queue} ms");
    }
}

#[test]
fn a_full_queue_that_loses_is_drained() {
    for (bps, highest) in [(300e3, 360_000), (100e3, 130_000)] {
        let mut path = path_of(4, Link::new(bps, 50), Source::Smooth(3_000_000));
        path.link.queue_max = Duration::from_millis(300);
        path.run(40.0);
        let estimates = path.estimates_in(6.0, 40.0);
        let high = percentile(&estimates, 95);
        assert!(high <= highest, "{bps}: {high}");
        assert!(percentile(&estimates, 50) as f64 > bps * 0.7, "{bps}: {}", percentile(&estimates, 50));
        let standing = path.queue_p95_ms(6.0, 40.0);
        assert!(standing < 250.0, "{bps}: {standing}");
    }
}

#[test]
fn silence_lowers_the_estimate_and_a_voice_raises_it_again() {
    let mut path = path_of(5, Link::new(5e6, 40), Source::Smooth(2_000_000));
    path.run(10.0);
    path.has_feedback = false;
    path.run(8.0);
    assert!(path.estimator.estimate_bps().unwrap() < 100_000, "{:?}", path.estimator.diagnostics());
    path.has_feedback = true;
    path.run(6.0);
    assert!(path.estimator.estimate_bps().unwrap() >= 2_000_000, "{:?}", path.estimator.diagnostics());
}

#[test]
fn a_pause_after_which_the_last_feedback_is_lost_costs_nothing() {
    let mut path = path_of(5, Link::new(5e6, 40), Source::Smooth(2_000_000));
    path.run(10.0);
    let (start, before) = (path.now(), path.estimator.estimate_bps());
    path.estimator.sent(start, 1_000, None);
    for tick in 1..400 {
        path.estimator.on_tick(start + tick * Duration::from_millis(50), 2_000_000, 2_000_000);
    }
    assert_eq!(path.estimator.estimate_bps(), before, "{:?}", path.estimator.diagnostics());
}

#[test]
fn who_cannot_pad_grows_all_the_same() {
    let mut path = path_of(6, Link::new(6e6, 40), Source::Smooth(4_000_000));
    path.has_padding = false;
    path.run(15.0);
    assert!(path.estimator.estimate_bps().unwrap() >= 4_000_000, "{:?}", path.estimator.diagnostics());
}

#[test]
fn the_pacer_keeps_video_less_than_a_frame() {
    let mut path = path_of(8, Link::new(3e6, 40), Source::Smooth(2_500_000));
    path.run(20.0);
    assert!(path.paced_max <= Duration::from_millis(33), "{:?}", path.paced_max);
}

#[test]
fn a_receiver_that_tells_nothing_is_unlimited_after_a_while() {
    let mut path = path_of(9, Link::new(50e6, 40), Source::Smooth(8_000_000));
    path.has_feedback = false;
    assert_eq!(path.estimator.estimate_bps(), Some(2_500_000));
    path.run(1.0);
    assert_eq!(path.estimator.estimate_bps(), Some(2_500_000));
    path.run(2.0);
    assert_eq!(path.estimator.estimate_bps(), None);
    path.has_feedback = true;
    path.run(1.0);
    assert!(path.estimator.estimate_bps().is_some());
}

#[test]
fn a_receiver_with_remb_alone_is_believed_within_bounds() {
    let start = Instant::now();
    let mut estimator = Estimator::new(start);
    estimator.handle_remb(900_000);
    assert_eq!(estimator.estimate_bps(), Some(900_000));
    estimator.handle_remb(u64::MAX);
    assert_eq!(estimator.estimate_bps(), Some(20_000_000));
    estimator.set_cap(50_000_000);
    estimator.handle_remb(0);
    assert_eq!(estimator.estimate_bps(), Some(30_000));
    estimator.handle_remb(2_000_000);
    for second in 1..=3 {
        estimator.handle_report(start + Duration::from_secs(second), 77);
    }
    let estimate = estimator.estimate_bps().unwrap();
    assert!((400_000..1_500_000).contains(&estimate) && (0.28..0.32).contains(&estimator.loss()), "{estimate}");
    estimator.handle_rtt(Duration::from_millis(70));
    assert_eq!(estimator.rtt(), Some(Duration::from_millis(70)));
}

/// What a hostile or broken receiver may send between honest packets.
#[derive(Debug, Clone)]
enum Act {
    Send(usize),
    Garbage(Vec<u8>),
    /// A well-formed feedback that begins somewhere: base, count, reference time, number, chunks and deltas.
    Feedback(u16, u16, u32, u8, Vec<u8>),
    Remb(u64),
    Report(u8),
    Rtt(u64),
    Tick(u64, u64),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        4 => (0..70_000usize).prop_map(Act::Send),
        1 => bytes().prop_map(Act::Garbage),
        4 => (0..300u16, 0..400u16, any::<u32>(), any::<u8>(), bytes())
            .prop_map(|(base, count, reference, number, rest)| Act::Feedback(base, count, reference, number, rest)),
        1 => any::<u64>().prop_map(Act::Remb),
        1 => any::<u8>().prop_map(Act::Report),
        1 => any::<u64>().prop_map(Act::Rtt),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(ideal, allocated)| Act::Tick(ideal, allocated)),
        2 => (0..5_000_000u64).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn nothing_a_receiver_says_breaks_the_estimate(acts in proptest::collection::vec(act(), 1..200)) {
        let start = Instant::now();
        let mut estimator = Estimator::new(start);
        let mut now = start;
        for act in acts {
            match act {
                Act::Send(bytes) => {
                    for _ in 0..20 {
                        estimator.sent(now, bytes, None);
                    }
                }
                Act::Garbage(bytes) => estimator.handle_feedback(now, &bytes, |_| {}),
                Act::Feedback(base, count, reference, number, rest) => {
                    let mut feedback = base.to_be_bytes().to_vec();
                    feedback.extend(count.to_be_bytes());
                    feedback.extend(&reference.to_be_bytes()[1..]);
                    feedback.push(number);
                    feedback.extend(rest);
                    estimator.handle_feedback(now, &feedback, |_| {});
                }
                Act::Remb(bps) => estimator.handle_remb(bps),
                Act::Report(lost) => estimator.handle_report(now, lost),
                Act::Rtt(us) => estimator.handle_rtt(Duration::from_micros(us)),
                Act::Tick(ideal, allocated) => {
                    estimator.on_tick(now, ideal, allocated);
                }
                Act::Wait(us) => now += Duration::from_micros(us),
            }
            let known = estimator.estimate_bps();
            prop_assert!(known.is_none_or(|bps| (30_000..=20_000_000).contains(&bps)), "{:?}", known);
            prop_assert!((0.0..=1.0).contains(&estimator.loss()));
            prop_assert!(estimator.diagnostics().queue < Duration::from_secs(100));
        }
    }
}
