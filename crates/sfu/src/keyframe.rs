//! When to ask a sender for a key frame: once for everybody who needs it, and seldom when the need comes from losses.

use std::time::{Duration, Instant};

/// Shortest gap between two requests to the same source, whichever encoding they are for: two hundred receivers that
/// lose their picture at once are five requests a second.
const SOURCE_GAP: Duration = Duration::from_millis(200);
/// A request that stays unanswered is repeated at growing intervals, up to this one: a sender that cannot answer is not
/// helped by more.
const REPEAT_MAX: Duration = Duration::from_secs(1);
/// Key frames for the sake of losses come no closer than this. A key frame is several times the size of other frames:
/// asking for more of them over a link that loses packets makes it lose more.
const LOSS_GAP: Duration = Duration::from_secs(1);
/// Most encodings of a source.
const ENCODINGS_MAX: usize = 8;
/// A pre-emptive key frame comes this much after stages changed rather than a little before, where nobody would get it.
const AHEAD_MARGIN: Duration = Duration::from_millis(10);

/// Some encodings of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EncodingSet(u8);

impl EncodingSet {
    /// Whether it has none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One bit for each.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// Their numbers, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..ENCODINGS_MAX).filter(move |encoding| self.contains(*encoding))
    }

    fn contains(self, encoding: usize) -> bool {
        encoding < ENCODINGS_MAX && self.0 & (1 << encoding) != 0
    }

    fn insert(&mut self, encoding: usize) {
        if encoding < ENCODINGS_MAX {
            self.0 |= 1 << encoding;
        }
    }

    fn remove(&mut self, encoding: usize) {
        if encoding < ENCODINGS_MAX {
            self.0 &= !(1 << encoding);
        }
    }
}

/// The key frames that are needed of one source, and the requests for them.
///
/// A receiver that starts (it joined, or is to switch) is served as fast as the sender can answer. One that lost its
/// picture is served at once too, but the next such key frame of the source is a second away.
#[derive(Debug, Default)]
pub(crate) struct KeyframeRequests {
    to_start: EncodingSet,
    to_switch: EncodingSet,
    after_loss: EncodingSet,
    /// The last request for any encoding.
    last_request: Option<Instant>,
    /// When the last key frame of any encoding came that had been asked for by those who can wait. One for somebody who starts does not
    /// count: what he starts with is seldom what he is to see, because senders switch off what nobody watches.
    last_answer: Option<Instant>,
    /// As far as there was anything to remember: sound has none, a camera three.
    encodings: Vec<Asked>,
}

/// Requests for one encoding.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    at: Option<Instant>,
    /// In a row, since the last key frame.
    unanswered: u8,
    keyframe: Option<Instant>,
}

impl KeyframeRequests {
    /// A receiver that sees nothing waits for a key frame of `encoding`.
    pub(crate) fn want_start(&mut self, encoding: usize) {
        self.to_start.insert(encoding);
    }

    /// A receiver is to go over to `encoding`, and sees another one as long as it waits.
    pub(crate) fn want_switch(&mut self, encoding: usize) {
        self.to_switch.insert(encoding);
    }

    /// Which encodings somebody waits for to start, and which to switch.
    pub(crate) fn awaited(&self) -> (EncodingSet, EncodingSet) {
        (self.to_start, self.to_switch)
    }

    /// A receiver, or we, lost the picture of `encoding`. `receiver_rtt` is the round trip between us and the receiver,
    /// zero when the loss is ours: a complaint that left before the last key frame can have arrived there is answered
    /// by that one.
    pub(crate) fn want_after_loss(&mut self, now: Instant, encoding: usize, receiver_rtt: Duration) {
        let keyframe = self.encodings.get(encoding).and_then(|asked| asked.keyframe);
        if keyframe.is_none_or(|at| now.saturating_duration_since(at) >= receiver_rtt) {
            self.after_loss.insert(encoding);
        }
    }

    /// A key frame of `encoding` begins to come in.
    pub(crate) fn keyframe_arrived(&mut self, now: Instant, encoding: usize) {
        let patient = self.to_switch.contains(encoding) || self.after_loss.contains(encoding);
        self.to_start.remove(encoding);
        self.to_switch.remove(encoding);
        self.after_loss.remove(encoding);
        let Some(asked) = self.asked(encoding) else { return };
        let is_answer = patient && asked.unanswered > 0;
        *asked = Asked { at: asked.at, keyframe: Some(now), ..Asked::default() };
        if is_answer {
            self.last_answer = Some(now);
        }
    }

    fn asked(&mut self, encoding: usize) -> Option<&mut Asked> {
        if encoding < ENCODINGS_MAX && encoding >= self.encodings.len() {
            self.encodings.reserve_exact(encoding + 1 - self.encodings.len());
            self.encodings.resize(encoding + 1, Asked::default());
        }
        self.encodings.get_mut(encoding)
    }

    /// Which encodings to ask for now, in one go; counts them as asked. `answer` is how long an answer takes at best:
    /// the round trip to the sender and one frame. A request is in flight for so long.
    pub(crate) fn take_due(&mut self, now: Instant, answer: Duration) -> EncodingSet {
        let mut due = EncodingSet::default();
        if is_within(self.last_request, now, SOURCE_GAP) {
            return due;
        }
        let patient = self.to_switch.0 | self.after_loss.0;
        let wanted =
            EncodingSet(self.to_start.0 | if is_within(self.last_answer, now, LOSS_GAP) { 0 } else { patient });
        for encoding in wanted.iter() {
            let Some(asked) = self.asked(encoding).filter(|asked| !asked.is_in_flight(now, answer)) else { continue };
            due.insert(encoding);
            asked.at = Some(now);
            asked.unanswered = asked.unanswered.saturating_add(1);
        }
        if !due.is_empty() {
            self.last_request = Some(now);
        }
        due
    }
}

impl Asked {
    fn is_in_flight(&self, now: Instant, answer: Duration) -> bool {
        // Repairs of the answer take as long as the answer: a second request waits twice as long as the first, and so
        // on.
        let patience = answer.max(SOURCE_GAP) * (1 << self.unanswered.min(4)) / 2;
        self.unanswered > 0 && is_within(self.at, now, patience.min(REPEAT_MAX.max(answer)))
    }
}

/// How long to wait before asking the new dominant speaker for a key frame nobody asked for yet, so that it reaches the
/// receivers when they have put the speaker on their stages; `None` when it is of no use.
///
/// It is of use when more than two are there and somebody else's camera is on some stage, because only then will stages
/// change. `receiver_rtt_max` is the longest round trip to those who will look, `sender_rtt` that to the speaker.
pub(crate) fn preemptive_delay(
    endpoints: usize,
    camera_of_another_on_stage: bool,
    receiver_rtt_max: Duration,
    sender_rtt: Duration,
) -> Option<Duration> {
    let of_use = endpoints > 2 && camera_of_another_on_stage;
    of_use.then(|| (receiver_rtt_max + AHEAD_MARGIN).saturating_sub(sender_rtt))
}

fn is_within(last: Option<Instant>, now: Instant, interval: Duration) -> bool {
    last.is_some_and(|at| now.saturating_duration_since(at) < interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Round trip of 80 ms and a frame of 33 ms.
    const ANSWER: Duration = Duration::from_millis(113);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn two_hundred_receivers_at_once_are_at_most_five_requests_a_second() {
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        let mut times = Vec::new();
        for at in (0..10_000).step_by(5) {
            let now = start + ms(at);
            for receiver in 0..200 {
                requests.want_after_loss(now, receiver % 3, ms(0));
                requests.want_start(receiver % 3);
            }
            if !requests.take_due(now, ANSWER).is_empty() {
                times.push(at);
            }
        }
        assert_eq!(times[0], 0, "the first does not wait");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 200), "{times:?}");
        assert!(times.windows(2).skip(3).all(|pair| pair[1] - pair[0] >= 1_000), "nobody answers: {times:?}");
    }

    #[test]
    fn what_somebody_starts_with_does_not_delay_what_he_is_to_see() {
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        requests.want_start(0);
        assert!(!requests.take_due(start, ANSWER).is_empty());
        requests.keyframe_arrived(start + ms(100), 0);
        requests.want_switch(2);
        assert_eq!(requests.take_due(start + ms(250), ANSWER).iter().collect::<Vec<_>>(), [2]);
        requests.keyframe_arrived(start + ms(350), 2);
        requests.want_switch(1);
        assert!(requests.take_due(start + ms(1_300), ANSWER).is_empty(), "the next one waits for its second");
        assert!(!requests.take_due(start + ms(1_360), ANSWER).is_empty());
    }

    #[test]
    fn a_request_is_in_flight_until_it_is_answered_or_the_time_for_it_is_over() {
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        requests.want_start(2);
        assert_eq!(requests.take_due(start, ms(300)).iter().collect::<Vec<_>>(), [2]);
        requests.want_start(2);
        assert!(requests.take_due(start + ms(250), ms(300)).is_empty());
        requests.want_start(0);
        assert_eq!(requests.take_due(start + ms(260), ms(300)).iter().collect::<Vec<_>>(), [0], "another encoding");
        assert_eq!(requests.take_due(start + ms(460), ms(300)).iter().collect::<Vec<_>>(), [2], "it got lost");
        requests.keyframe_arrived(start + ms(500), 2);
        requests.keyframe_arrived(start + ms(500), 0);
        assert!(requests.take_due(start + ms(5_000), ms(300)).is_empty());
        requests.want_start(2);
        assert!(!requests.take_due(start + ms(5_001), ms(300)).is_empty());
    }

    #[test]
    fn a_receiver_that_starts_does_not_wait_for_the_pause_after_a_loss() {
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        requests.want_after_loss(start, 0, ms(40));
        assert!(!requests.take_due(start, ANSWER).is_empty(), "nor does the first loss");
        requests.keyframe_arrived(start + ms(100), 0);
        requests.want_after_loss(start + ms(120), 0, ms(40));
        requests.want_after_loss(start + ms(300), 0, ms(40));
        assert!(requests.take_due(start + ms(300), ANSWER).is_empty());
        requests.want_start(0);
        assert!(!requests.take_due(start + ms(310), ANSWER).is_empty());
        requests.keyframe_arrived(start + ms(400), 0);
        assert!(requests.take_due(start + ms(2_000), ANSWER).is_empty(), "it served both");
    }

    #[test]
    fn a_complaint_that_crossed_a_key_frame_is_not_a_wish() {
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        requests.keyframe_arrived(start, 0);
        requests.want_after_loss(start + ms(50), 0, ms(80));
        assert!(requests.take_due(start + ms(2_000), ANSWER).is_empty());
        requests.want_after_loss(start + ms(100), 0, ms(80));
        assert!(!requests.take_due(start + ms(2_000), ANSWER).is_empty());
    }

    /// Bursts of 20 % on both ways, a receiver that complains every 200 ms unless its last key frame came through
    /// whole.
    #[test]
    fn losses_cost_a_source_at_most_one_key_frame_a_second() {
        for seed in 1..20u64 {
            let start = Instant::now();
            let mut requests = KeyframeRequests::default();
            let mut random = seed;
            let mut lost = |percent: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % 100 < percent
            };
            let (mut sent, mut arrivals, mut broken, mut first) = (0, Vec::new(), true, None);
            for at in (0..60_000u64).step_by(20) {
                let now = start + ms(at);
                while let Some(index) = arrivals.iter().position(|arrival| *arrival <= at) {
                    arrivals.remove(index);
                    requests.keyframe_arrived(now, 0);
                    broken = lost(60);
                }
                broken |= lost(4);
                if broken && at % 200 == 0 {
                    requests.want_after_loss(now, 0, ms(60));
                }
                if !requests.take_due(now, ANSWER).is_empty() {
                    first.get_or_insert(at);
                    if !lost(20) {
                        sent += 1;
                        // Its first packet may need one repair, or two.
                        arrivals.push(at + if !lost(20) { 100 } else { 200 + 100 * u64::from(lost(20)) });
                    }
                }
            }
            assert_eq!(first, Some(0));
            assert!((30..=60).contains(&sent), "{sent} key frames in a minute, seed {seed}");
        }
    }

    #[test]
    fn a_new_speaker_is_asked_so_that_the_picture_comes_when_stages_change() {
        assert_eq!(preemptive_delay(3, true, ms(100), ms(30)), Some(ms(80)));
        assert_eq!(preemptive_delay(3, true, ms(20), ms(90)), Some(ms(0)));
        assert_eq!(preemptive_delay(2, true, ms(100), ms(30)), None);
        assert_eq!(preemptive_delay(3, false, ms(100), ms(30)), None);
    }
}
