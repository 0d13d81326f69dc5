//! How much an encoding costs, layer by layer, over the last second, or over some seconds when it has few frames.

use std::time::{Duration, Instant};

use tertulia_rtp::codec::{FrameInfo, Layer, LayerMask};

/// A window is cut into so many buckets.
const BUCKETS: usize = 5;
const BUCKET: Duration = Duration::from_millis(200);
/// Key frames count as if they were spread over some time: one alone is as much as several other frames, and whoever has room for those shall
/// not lose the layer for it. What is left of them after a bucket, and how many seconds that makes.
const SPREAD_LEFT: f32 = 0.95;
const SPREAD_S: f32 = 4.0;
/// What has just begun is measured over no less than this: its key frame is as much as several other frames, and one frame says nothing of how
/// many will come.
const YOUNG: Duration = Duration::from_millis(400);
/// With fewer frames than one in so long a window of buckets is now full, now empty: bytes are spread like those of key frames then.
const SPARSE: Duration = Duration::from_millis(250);
/// A layer is there until nothing has come of it for the length of a window, and for so many frames: more than lie between two frames of the
/// rarest temporal layer.
const WINDOW: Duration = Duration::from_secs(1);
const PATIENCE_FRAMES: u32 = 6;
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// More time between two frames is a pause: Chromium repeats the picture of a screen on which nothing moves once a second.
const PAUSE: Duration = Duration::from_secs(5);
/// Own layers that are told apart: three spatial times three temporal, and some.
const LAYERS_MAX: usize = 12;

/// Bytes and frames of each layer that frames belong to.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    own: Vec<Own>,
    bucket: usize,
    since: Option<Instant>,
    /// The picture that is coming in is one from which decoding can start.
    in_key: bool,
    /// When a picture began last, and the time between two, smoothed.
    picture_at: Option<Instant>,
    interval: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    layer: Layer,
    /// Who needs frames of this layer, key frames aside.
    present: LayerMask,
    /// First packet after a pause, and the last one.
    began: Instant,
    last: Instant,
    /// Key frames left out.
    bytes: [u32; BUCKETS],
    /// Bytes of key frames, and of others, that still count when they are spread.
    keys: f32,
    others: f32,
    /// Bits per second before the last pause, key frames left out; 0 when there was none lately.
    before_bps: u64,
    frames: [u16; BUCKETS],
}

/// What a layer costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) layer: Layer,
    /// With everything it needs.
    pub(crate) bps: u64,
    /// 0 when it began too short a time ago to know, or was switched off.
    pub(crate) frames_per_second: u16,
}

impl Rates {
    /// Counts one packet of `bytes` on the wire.
    pub(crate) fn count(&mut self, now: Instant, info: &FrameInfo, bytes: usize) {
        self.turn(now);
        let off = self.off();
        if info.starts_frame && info.layer.spatial() == 0 {
            let passed = self.picture_at.replace(now).map(|at| now.saturating_duration_since(at));
            self.interval =
                passed.filter(|passed| *passed < PAUSE).map_or(Duration::ZERO, |p| (self.interval * 3 + p) / 4);
        }
        let patience = self.patience();
        if info.starts_frame && (info.starts_keyframe || info.layer.spatial() == 0) {
            self.in_key = info.starts_keyframe;
        }
        let place = self.own.partition_point(|own| own.layer < info.layer);
        if self.own.get(place).is_none_or(|own| own.layer != info.layer) {
            if self.own.len() >= LAYERS_MAX {
                return;
            }
            let (bytes, frames) = ([0; BUCKETS], [0; BUCKETS]);
            let (layer, present, began, last, before_bps) = (info.layer, info.present, now, now, 0);
            let own = Own { layer, present, began, last, bytes, keys: 0.0, others: 0.0, before_bps, frames };
            self.own.insert(place, own);
        }
        let own = &mut self.own[place];
        if own.is_over(now, patience.min(off)) {
            own.before_bps = own.usual_bps(now);
            (own.began, own.keys, own.others) = (now, 0.0, 0.0);
            (own.bytes, own.frames) = ([0; BUCKETS], [0; BUCKETS]);
        }
        own.last = now;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.in_key {
            own.keys += bytes as f32;
        } else {
            own.bytes[self.bucket] = own.bytes[self.bucket].saturating_add(bytes);
            own.others += bytes as f32;
        }
        if info.ends_frame && info.layer.spatial() >= info.highest_spatial {
            self.in_key = false; // not every codec tells where the next one starts
        }
        if info.starts_frame {
            own.frames[self.bucket] = own.frames[self.bucket].saturating_add(1);
            if !info.starts_keyframe {
                own.present = info.present;
            }
        }
    }

    /// The cost of each layer of which something came lately, lowest first.
    pub(crate) fn costs(&mut self, now: Instant) -> impl Iterator<Item = Cost> + '_ {
        self.turn(now);
        let (all, since, patience, interval) = (&self.own, self.since.unwrap_or(now), self.patience(), self.interval);
        let off = self.off();
        // The window reaches back over the full buckets; what has just begun is measured over its own time.
        let window = BUCKET * (BUCKETS as u32 - 1) + now.saturating_duration_since(since);
        all.iter().filter(move |own| !own.is_over(now, patience)).map(move |own| {
            let age = now.saturating_duration_since(own.began);
            let window_ms = u64::try_from(window.min(age.max(YOUNG)).as_millis()).unwrap_or(1).max(1);
            let needed = all.iter().filter(|other| !other.is_over(now, patience) && other.present.contains(own.layer));
            let (mut bytes, mut keys, mut others, mut frames, mut before_bps) = (0, 0.0, 0.0, 0, 0);
            for other in needed {
                bytes += other.bytes.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
                keys += other.keys;
                others += other.others;
                before_bps += if other.is_young(now) { other.before_bps } else { 0 };
                frames += if other.layer.spatial() == own.layer.spatial() { other.frame_count() } else { 0 };
            }
            let is_young = own.is_young(now);
            // Where it is known what comes after its key frame, that need not stand for it.
            let keys_per_s = keys / if is_young && before_bps == 0 { YOUNG.as_secs_f32() } else { SPREAD_S };
            let (others_bps, frames_per_second) = if interval < SPARSE || is_young {
                // The first frame after a pause says less of those to come than what was before.
                let least_bps = if is_young { before_bps } else { 0 };
                ((bytes * 8_000 / window_ms).max(least_bps), (frames * 1_000).div_ceil(window_ms))
            } else {
                ((others * 8.0 / counted_s(age)) as u64, (1.0 / interval.as_secs_f32()).ceil() as u64)
            };
            Cost {
                layer: own.layer,
                bps: others_bps + (keys_per_s * 8.0) as u64,
                frames_per_second: if is_young || own.is_over(now, off) {
                    0
                } else {
                    u16::try_from(frames_per_second).unwrap_or(u16::MAX)
                },
            }
        })
    }

    /// After how long without a frame a layer was switched off: what was counted before says nothing of how many frames it will have. Where
    /// frames are sparse that cannot be told from a picture that stands still.
    fn off(&self) -> Duration {
        let is_usual = !self.interval.is_zero() && self.interval < SPARSE;
        if is_usual { SPARSE.max(self.interval * PATIENCE_FRAMES) } else { Duration::MAX }
    }

    /// How long nothing may come of a layer that is there.
    fn patience(&self) -> Duration {
        WINDOW.max(self.interval * PATIENCE_FRAMES).min(PATIENCE_MAX)
    }

    /// Empties buckets whose time has passed.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = usize::try_from(now.saturating_duration_since(since).as_millis() / BUCKET.as_millis());
        let passed = passed.unwrap_or(BUCKETS);
        if passed == 0 {
            return;
        }
        self.since = Some(since + BUCKET * u32::try_from(passed).unwrap_or(u32::MAX));
        let left = SPREAD_LEFT.powi(i32::try_from(passed).unwrap_or(i32::MAX));
        for own in &mut self.own {
            own.keys *= left;
            own.others *= left;
        }
        for _ in 0..passed.min(BUCKETS) {
            self.bucket = (self.bucket + 1) % BUCKETS;
            for own in &mut self.own {
                (own.bytes[self.bucket], own.frames[self.bucket]) = (0, 0);
            }
        }
    }
}

impl Own {
    /// Whether nothing came for so long.
    fn is_over(&self, now: Instant, patience: Duration) -> bool {
        now.saturating_duration_since(self.last) >= patience
    }

    /// Whether it has just begun, for the first time or after a pause.
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < YOUNG
    }

    /// What others than key frames took when something came last, in bits per second; 0 when that is too long ago.
    fn usual_bps(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.last);
        if passed >= PATIENCE_MAX {
            return 0;
        }
        let since = SPREAD_LEFT.powf(passed.as_secs_f32() / BUCKET.as_secs_f32());
        let age = self.last.saturating_duration_since(self.began).max(YOUNG);
        (self.others / since * 8.0 / counted_s(age)) as u64
    }

    fn frame_count(&self) -> u64 {
        self.frames.iter().map(|frames| u64::from(*frames)).sum()
    }
}

/// For how many seconds bytes count that are spread: what has begun lately has not been counted for all of them.
fn counted_s(age: Duration) -> f32 {
    SPREAD_S * (1.0 - (-age.as_secs_f32() / SPREAD_S).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a temporal layer, whole in one packet.
    fn frame(temporal: u8) -> FrameInfo {
        FrameInfo {
            starts_frame: true,
            layer: Layer::new(0, temporal),
            present: (temporal..8).map(|t| Layer::new(0, t)).collect(),
            ..FrameInfo::default()
        }
    }

    #[test]
    fn a_layer_costs_what_it_needs_too() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for n in 0..60u64 {
            let temporal = [0, 2, 1, 2][(n % 4) as usize];
            rates.count(start + Duration::from_millis(n * 1_000 / 30), &frame(temporal), 1_000);
        }
        let costs: Vec<Cost> = rates.costs(start + Duration::from_secs(2)).collect();
        let bps: Vec<u64> = costs.iter().map(|cost| cost.bps / 1_000).collect();
        assert_eq!(costs.iter().map(|cost| cost.layer.temporal()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(
            (40..=64).contains(&bps[0]) && (90..=130).contains(&bps[1]) && (180..=250).contains(&bps[2]),
            "{bps:?}"
        );
        assert!((24..=31).contains(&costs[2].frames_per_second), "{costs:?}");
    }

    #[test]
    fn a_key_frame_alone_makes_a_layer_little_dearer_and_one_a_second_what_it_is() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut highest = |seconds: std::ops::Range<u64>, is_key: fn(u64) -> bool| {
            let frames = seconds.start * 30..seconds.end * 30;
            let cost = frames.map(|n| {
                let now = start + Duration::from_micros(n * 33_333);
                let (key, bytes) = if is_key(n) { (true, 6_000) } else { (false, 1_000) };
                rates.count(now, &FrameInfo { starts_keyframe: key, ..frame(0) }, bytes);
                rates.count(now, &FrameInfo { starts_frame: false, ends_frame: n % 2 == 0, ..frame(0) }, bytes);
                rates.costs(now).next().unwrap().bps / 1_000
            });
            cost.skip(15).max().unwrap()
        };
        let plain = highest(0..5, |n| n == 0);
        assert!((470..=560).contains(&plain), "{plain}");
        assert!(highest(5..8, |n| n == 160) <= plain + 30);
        let often = highest(8..30, |n| n % 30 == 0);
        assert!((540..=620).contains(&often), "{often}");
        rates.count(start + Duration::from_secs(40), &FrameInfo { starts_keyframe: true, ..frame(0) }, 12_000);
        let begun = rates.costs(start + Duration::from_secs(40)).next().unwrap().bps;
        assert!(begun >= 240_000, "{begun}: what has just begun has nothing else to tell by");
    }

    #[test]
    fn a_layer_that_was_switched_off_for_a_moment_has_no_frame_rate_until_it_is_known_anew() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let told = |rates: &mut Rates, ms| {
            let cost = rates.costs(at(ms)).next().unwrap();
            (cost.frames_per_second, cost.bps / 10_000)
        };
        let film = |rates: &mut Rates, ms: std::ops::Range<u64>| {
            ms.step_by(33).for_each(|ms| rates.count(at(ms), &frame(0), 1_000));
        };
        film(&mut rates, 0..990);
        assert!((29..=31).contains(&told(&mut rates, 999).0));
        assert_eq!(told(&mut rates, 1_250).0, 0, "nobody knows what it will have");
        film(&mut rates, 1_500..1_700);
        assert_eq!(told(&mut rates, 1_710).0, 0, "it has just begun");
        film(&mut rates, 1_700..2_000);
        let (fps, bps) = told(&mut rates, 2_000);
        assert!((28..=34).contains(&fps) && (22..=28).contains(&bps), "{fps} {bps}");
    }

    #[test]
    fn what_comes_back_without_a_key_frame_costs_what_it_did_until_it_is_known_anew() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let film = |rates: &mut Rates, ms: std::ops::Range<u64>, bytes| {
            ms.step_by(33).for_each(|ms| rates.count(at(ms), &frame(0), bytes));
        };
        let kbps = |rates: &mut Rates, ms| rates.costs(at(ms)).next().unwrap().bps / 1_000;
        film(&mut rates, 0..3_000, 7_500);
        let before = kbps(&mut rates, 3_000);
        for (ms, bytes) in [(4_500, 7_500), (9_000, 2_500)] {
            film(&mut rates, ms..ms + 30, bytes);
            let first = kbps(&mut rates, ms + 20);
            assert!((before * 8 / 10..before * 12 / 10).contains(&first), "{before} {first}");
            film(&mut rates, ms + 33..ms + 1_500, bytes);
        }
        let known = kbps(&mut rates, 10_500);
        assert!((550..=700).contains(&known), "it is another one: {known}");
        film(&mut rates, 60_000..60_030, 7_500);
        assert!(kbps(&mut rates, 60_010) < 200, "too long ago");
    }

    #[test]
    fn what_was_before_a_pause_counts_once_and_not_for_long() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let film = |rates: &mut Rates, ms: std::ops::Range<u64>, temporal, bytes| {
            ms.step_by(33).for_each(|ms| rates.count(at(ms), &frame(temporal), bytes));
        };
        film(&mut rates, 0..3_000, 0, 7_500);
        // It comes back with a key frame, which is not also all that is known.
        rates.count(at(5_000), &FrameInfo { starts_keyframe: true, ..frame(0) }, 45_000);
        let kbps = |rates: &mut Rates, ms| rates.costs(at(ms)).last().unwrap().bps / 1_000;
        let back = kbps(&mut rates, 5_010);
        assert!((1_600..2_200).contains(&back), "{back}");
        // Much later it is a smaller one, and a layer above begins.
        film(&mut rates, 5_033..12_000, 0, 1_000);
        film(&mut rates, 12_000..12_030, 1, 1_000);
        let two = kbps(&mut rates, 12_010);
        assert!(two < 700, "{two}");
    }

    #[test]
    fn what_stops_costs_nothing_after_a_second() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.count(start, &frame(0), 1_000);
        assert_eq!(rates.costs(start + Duration::from_millis(100)).next().map(|cost| cost.bps), Some(20_000));
        assert_eq!(rates.costs(start + Duration::from_millis(100)).next().map(|cost| cost.frames_per_second), Some(0));
        assert_eq!(rates.costs(start + YOUNG).next().map(|cost| cost.frames_per_second), Some(3), "2.5, rounded up");
        assert_eq!(rates.costs(start + Duration::from_millis(1_200)).next(), None);
    }

    #[test]
    fn a_still_screen_has_all_its_layers_and_one_cost_between_its_frames() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut seen = Vec::new();
        for n in 0..30u64 {
            let (now, info) = (start + Duration::from_millis(n * 1_050), frame([0, 2, 1, 2][(n % 4) as usize]));
            let (key, bytes) = if n == 0 { (true, 150_000) } else { (false, 3_000) };
            rates.count(now, &FrameInfo { starts_keyframe: key, ends_frame: true, ..info }, bytes);
            for ms in (0..1_050).step_by(210).filter(|_| n >= 12) {
                let costs: Vec<Cost> = rates.costs(now + Duration::from_millis(ms)).collect();
                seen.push((costs.len(), costs[costs.len() - 1].bps / 1_000, costs[0].frames_per_second));
            }
        }
        assert!(seen.iter().all(|(layers, bps, fps)| *layers == 3 && (15..45).contains(bps) && *fps == 1), "{seen:?}");
    }
}
