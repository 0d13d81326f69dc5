//! One source on its way to one receiver: which layer, and how its numbers continue over switches and layers left out.
//!
//! Outgoing numbers have no gaps except where a packet may still come: a packet that is left out takes no number, one that is missing keeps
//! its place, and one that comes late and is not wanted is replaced by padding. What a frame's fate is, is decided once, when it begins.

use std::cmp::Ordering;
use std::ops::Range;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_rtp::codec::{FrameInfo, Layer, Shifts};
use tertulia_rtp::sequence::{SeqNo, low16, low32};

use crate::history::{Entry, Fate, History};
use crate::stream::{Last, Stream};

/// Remembered segments: retransmissions are asked for within a second or two of a switch.
const SEGMENTS_MAX: usize = 4;
/// Remembered changes of the layer: late packets belong to pictures of the last second.
const TUNINGS_MAX: usize = 8;
/// In units of the clock: ten seconds.
const TUNING_AGE_MAX: u32 = 10 * CLOCK_RATE;
/// Missing packets for which places are kept; a larger gap is not repaired, and the picture waits for a key frame.
const GAP_MAX: u64 = 100;
/// How long a spatial layer may be waited for without asking for a key frame.
const STEP_PATIENCE: Duration = Duration::from_millis(100);
/// Encodings of a source.
pub(crate) const ENCODINGS_MAX: usize = 8;
/// How many key frames a receiver may ask of one source in [`PLI_WINDOW_MS`].
const PLIS_MAX: usize = 3;
const PLI_WINDOW_MS: u128 = 10_000;

/// What should be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aim {
    pub(crate) encoding: u8,
    pub(crate) layer: Layer,
}

/// A video packet as a subscription sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    pub(crate) encoding: u8,
    /// Among the packets of its encoding.
    pub(crate) number: SeqNo,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    /// Whether picture ids must follow each other without gaps: VP8, whose receivers conclude references from them.
    pub(crate) counts_pictures: bool,
    pub(crate) info: FrameInfo,
}

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Skip,
    /// Send it under this number.
    Send(SeqNo),
    /// It is not wanted, but a place was kept for it: send padding there.
    Fill(SeqNo),
}

/// How a packet is changed on its way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) sequence: u16,
    pub(crate) marker: bool,
    pub(crate) timestamp_by: u32,
    pub(crate) shifts: Shifts,
}

/// The outgoing side of one (source, receiver).
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The receiver's place in the conference.
    pub(crate) receiver: u32,
    pub(crate) stream: Stream,
    pub(crate) course: Course,
}

/// How numbers run.
#[derive(Debug)]
pub(crate) enum Course {
    Audio(AudioCourse),
    Video(Box<VideoCourse>),
}

/// Sound: every packet goes out, and every one can be the first.
#[derive(Debug)]
pub(crate) struct AudioCourse {
    /// Incoming and outgoing number of the first packet of the run, and the shift of the clock.
    from_in: SeqNo,
    from_out: SeqNo,
    timestamp_by: u32,
    run: Run,
    /// Goes on also when the source is not among the loudest.
    pub(crate) always: bool,
}

/// Where sound is in a run of packets under constant shifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    NotBegun,
    GoesOn,
    /// It is over; the clock goes on.
    Paused,
}

/// Pictures.
#[derive(Debug, Default)]
pub(crate) struct VideoCourse {
    aim: Option<Aim>,
    aimed_at: Option<Instant>,
    segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Whether the last segment is going on.
    flowing: bool,
    /// Whether it was ended because the path cannot carry it.
    halted: bool,
    /// Newest packet of each encoding that was decided on.
    newest: [SeqNo; ENCODINGS_MAX],
    /// Which layer goes out from which picture on, of the encoding of the last segment.
    tunings: ArrayVec<Tuning, TUNINGS_MAX>,
    /// The newest picture that was decided on.
    picture: Option<Picture>,
    /// Where packets may be that were passed over although they belong to the segment.
    passed_over: Range<SeqNo>,
    /// Pictures left out since the segment began.
    left_out: u16,
    history: History,
    plis: ArrayVec<Instant, PLIS_MAX>,
}

/// A run of packets of one encoding under constant shifts.
#[derive(Debug, Clone, Copy)]
struct Segment {
    encoding: u8,
    from_in: SeqNo,
    from_out: SeqNo,
    timestamp_by: u32,
    shifts: Shifts,
}

impl Segment {
    /// A structure goes out, maybe late: the ids behind the newest one are free.
    fn note_structure(&self, stream: &mut Stream, out: SeqNo, packet: &Incoming) {
        let Some((first, count)) = packet.info.templates else { return };
        if low32(out).wrapping_sub(stream.structure_out) < 1 << 31 {
            stream.structure_out = low32(out);
            stream.next_template = first.wrapping_add(self.shifts.template_id_by).wrapping_add(count) & 0x3f;
        }
    }

    /// A packet is the newest that goes out.
    fn note_newest(&self, now: Instant, stream: &mut Stream, out: SeqNo, packet: &Incoming, left_out: u16) {
        let by = self.shifts.picture_id_by.wrapping_sub(left_out);
        stream.last = Some(Last {
            encoding: packet.encoding,
            picture_id: packet.info.picture.unwrap_or(0).wrapping_add(by),
            frame_number: packet.info.frame_number.unwrap_or(0).wrapping_add(self.shifts.frame_number_by),
            tl0: packet.info.tl0.unwrap_or(0).wrapping_add(self.shifts.tl0_by),
            ..Last::new(now, out, packet.number, packet.timestamp.wrapping_add(self.timestamp_by))
        });
    }
}

/// A picture that was decided on.
#[derive(Debug, Clone, Copy)]
struct Picture {
    timestamp: u32,
    left_out: bool,
}

/// From the picture of this timestamp on, this layer goes out.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    from: u32,
    layer: Layer,
}

impl AudioCourse {
    /// A course that has not begun.
    pub(crate) fn new(always: bool) -> Self {
        Self { from_in: 0, from_out: 0, timestamp_by: 0, run: Run::NotBegun, always }
    }

    /// The outgoing number and the shift of the clock for one packet.
    pub(crate) fn follow(
        &mut self,
        now: Instant,
        stream: &mut Stream,
        number: SeqNo,
        timestamp: u32,
        clock_rate: u32,
    ) -> Option<(u16, u32)> {
        if self.run != Run::GoesOn {
            if let (Run::NotBegun, Some(last)) = (self.run, stream.last) {
                self.timestamp_by = continued(now, last, clock_rate).wrapping_sub(timestamp);
            }
            (self.from_in, self.from_out, self.run) = (number, stream.highest_out + 1, Run::GoesOn);
        }
        let out = self.from_out + number.checked_sub(self.from_in)?;
        if out > stream.highest_out {
            stream.highest_out = out;
            stream.last = Some(Last::new(now, out, number, timestamp.wrapping_add(self.timestamp_by)));
        }
        Some((low16(out), self.timestamp_by))
    }

    /// The next packet will not go out, and shall not be missed.
    pub(crate) fn pause(&mut self) {
        if self.run == Run::GoesOn {
            self.run = Run::Paused;
        }
    }

    /// Shift of the clock, while it flows.
    pub(crate) fn timestamp_by(&self) -> Option<u32> {
        (self.run == Run::GoesOn).then_some(self.timestamp_by)
    }
}

impl VideoCourse {
    /// The course of a stream that carried this source before: it does not begin with anything older than what went out then.
    pub(crate) fn resuming(stream: &Stream) -> Self {
        let mut course = Self::default();
        if let Some(last) = stream.last {
            course.newest[usize::from(last.encoding) % ENCODINGS_MAX] = last.number;
        }
        course
    }

    /// Sets what should be forwarded. `None` stops at once; anything else goes on until a frame allows the switch.
    pub(crate) fn aim(&mut self, now: Instant, aim: Option<Aim>) {
        if self.aim != aim {
            self.aimed_at = Some(now);
        }
        self.aim = aim;
        if aim.is_none() {
            self.flowing = false;
        }
    }

    /// Ends what goes out, and repeats nothing of it; what is aimed at begins with its key frame.
    pub(crate) fn halt(&mut self) {
        (self.flowing, self.halted) = (false, true);
    }

    /// What should be forwarded.
    pub(crate) fn aimed(&self) -> Option<Aim> {
        self.aim
    }

    /// What goes out at the moment.
    pub(crate) fn current(&self) -> Option<Aim> {
        let segment = self.segments.last().filter(|_| self.flowing)?;
        Some(Aim { encoding: segment.encoding, layer: self.tuned() })
    }

    /// Whether an encoding goes out, or may from its next key frame on: the first one may be any up to the aim.
    pub(crate) fn watches(&self, encoding: u8) -> bool {
        let goes_out = self.current().is_some_and(|current| current.encoding == encoding);
        goes_out || self.aim.is_some_and(|aim| encoding <= aim.encoding)
    }

    /// The encoding that must start anew before the aim is reached: another one, or one whose other spatial layers cannot be reached from
    /// where we are, which shows when the first pictures have passed.
    pub(crate) fn awaits_keyframe(&self, now: Instant) -> Option<u8> {
        let aim = self.aim?;
        let waits = match self.current() {
            Some(current) if current.encoding == aim.encoding => {
                let long = self.aimed_at.is_none_or(|at| now.saturating_duration_since(at) >= STEP_PATIENCE);
                long && current.layer.spatial() != aim.layer.spatial()
            }
            Some(_) | None => true,
        };
        waits.then_some(aim.encoding)
    }

    /// Whether the aim is not reached, for whatever reason.
    pub(crate) fn is_on_the_way(&self) -> bool {
        self.aim.is_some() && self.current().is_none_or(|current| Some(current) != self.aim)
    }

    /// Shift of the clock for the encoding that goes out, if it is this one.
    pub(crate) fn timestamp_by(&self, encoding: u8) -> Option<u32> {
        let segment = self.segments.last().filter(|segment| self.flowing && segment.encoding == encoding)?;
        Some(segment.timestamp_by)
    }

    /// Decides on one packet, and remembers that for `keep` at least.
    pub(crate) fn project(&mut self, now: Instant, keep: Duration, stream: &mut Stream, packet: &Incoming) -> Step {
        let Some(aim) = self.aim else { return Step::Skip };
        let place = usize::from(packet.encoding) % ENCODINGS_MAX;
        let mut goes_on = self.current().is_some_and(|current| current.encoding == packet.encoding);
        if goes_on && packet.number.saturating_sub(self.newest[place] + 1) > GAP_MAX {
            (self.flowing, goes_on) = (false, false);
        }
        if !goes_on {
            if !self.may_start(aim, packet) {
                return Step::Skip;
            }
            self.start_segment(now, stream, packet);
            // On the way to another encoding: whatever this one has.
            let layer = if aim.encoding == packet.encoding { aim.layer } else { Layer::HIGHEST };
            self.tunings.push(Tuning { from: packet.timestamp, layer });
        } else if packet.number <= self.newest[place] {
            return self.late(now, stream, packet);
        }
        let Some(segment) = self.segments.last().copied() else { return Step::Skip };
        if packet.number < segment.from_in {
            return Step::Skip;
        }
        let missing = packet.number.saturating_sub((self.newest[place] + 1).max(segment.from_in));
        self.newest[place] = packet.number;
        for number in packet.number - missing..packet.number {
            stream.highest_out += 1;
            let entry = Entry::new(number, self.left_out, Fate::Reserved);
            self.history.push(now, keep, stream.highest_out, entry);
        }
        let wanted = self.decide(aim, packet);
        if !wanted {
            return Step::Skip;
        }
        stream.highest_out += 1;
        let out = stream.highest_out;
        let fate = Fate::Sent { marker: ends_picture(packet, self.tuned()) };
        self.history.push(now, keep, out, Entry::new(packet.number, self.left_out, fate));
        segment.note_structure(stream, out, packet);
        segment.note_newest(now, stream, out, packet, self.left_out);
        Step::Send(out)
    }

    /// Numbers to look for in the cache and to decide on once more, after a segment began: whatever overtook the first packet of its key
    /// frame was passed over, and would be missed for good.
    pub(crate) fn take_passed_over(&mut self) -> Range<SeqNo> {
        std::mem::take(&mut self.passed_over)
    }

    /// How the packet of an outgoing number is changed, and its (encoding, number). `None` when it is unknown or never came.
    pub(crate) fn shape(&self, out: SeqNo) -> Option<(Shape, u8, SeqNo)> {
        let entry = self.history.get(out)?;
        let Fate::Sent { marker } = entry.fate() else { return None };
        let segment = self.segments.iter().rev().find(|segment| segment.from_out <= out)?;
        let mut shifts = segment.shifts;
        shifts.picture_id_by = shifts.picture_id_by.wrapping_sub(entry.left_out);
        let shape = Shape { sequence: low16(out), marker, timestamp_by: segment.timestamp_by, shifts };
        let encoding = segment.encoding;
        Some((shape, encoding, entry.wide(self.newest[usize::from(encoding) % ENCODINGS_MAX])))
    }

    /// Finds what went out under a sequence number, for a receiver that lost it. `None` when it is unknown, never came, or was repeated
    /// less than `gap_ms` ago, or when another encoding has taken over since: it began with a key frame, and nobody needs what was before.
    ///
    /// `came` tells whether a packet is there: one for which a place was kept may have come before the picture that it is part of began
    /// late, by its repaired first packet.
    pub(crate) fn lookup(
        &mut self,
        stream: &Stream,
        sequence: u16,
        (at_ms, gap_ms): (u64, u16),
        came: impl FnOnce(u8, SeqNo) -> Option<Incoming>,
    ) -> Option<SeqNo> {
        let behind = low16(stream.highest_out).wrapping_sub(sequence);
        let out = stream.highest_out.checked_sub(SeqNo::from(behind)).filter(|_| behind < 0x8000)?;
        let encoding = self.segments.last().filter(|current| out >= current.from_out && !self.halted)?.encoding;
        if self.history.get(out)?.fate() == Fate::Reserved {
            let newest = self.newest[usize::from(encoding) % ENCODINGS_MAX];
            let packet = came(encoding, self.history.get(out)?.wide(newest))?;
            let tuned = self.tuned_at(packet.timestamp);
            if !packet.info.present.contains(tuned) {
                return None;
            }
            self.history.get_mut(out)?.set_fate(Fate::Sent { marker: ends_picture(&packet, tuned) });
        }
        let entry = self.history.get_mut(out)?;
        (matches!(entry.fate(), Fate::Sent { .. }) && entry.may_repeat(at_ms, gap_ms)).then_some(out)
    }

    /// Shift of the clock under which padding fills a place, and the marker-free number.
    pub(crate) fn filler(&self, out: SeqNo) -> Option<(u16, u32)> {
        let segment = self.segments.iter().rev().find(|segment| segment.from_out <= out)?;
        Some((low16(out), segment.timestamp_by))
    }

    /// Counts a receiver's request for a key frame; `false` when it asks too often.
    pub(crate) fn may_ask_keyframe(&mut self, now: Instant) -> bool {
        self.plis.retain(|at| now.saturating_duration_since(*at).as_millis() < PLI_WINDOW_MS);
        self.plis.try_push(now).is_ok()
    }

    /// Whether a packet of another encoding than the current one can take over.
    fn may_start(&self, aim: Aim, packet: &Incoming) -> bool {
        // The first picture may be any up to the aim, later ones wait for the aim itself: each step costs a key frame.
        let towards = packet.encoding == aim.encoding || (self.current().is_none() && packet.encoding < aim.encoding);
        // A key frame that was repaired late may lie before what went out already: starting there would go back in time.
        let newest = self.newest[usize::from(packet.encoding) % ENCODINGS_MAX];
        towards && packet.info.starts_keyframe && packet.number > newest
    }

    /// A packet older than the newest: it belongs to a place that was kept, or to nothing.
    fn late(&mut self, now: Instant, stream: &mut Stream, packet: &Incoming) -> Step {
        let Some(segment) = self.segments.last().copied() else { return Step::Skip };
        if packet.number < segment.from_in {
            return Step::Skip;
        }
        let Some(out) = self.history.reserved(segment.from_out, packet.number) else { return Step::Skip };
        let tuned = self.tuned_at(packet.timestamp);
        let wanted = packet.info.present.contains(tuned);
        let Some(entry) = self.history.get_mut(out) else { return Step::Skip };
        if !wanted {
            entry.set_fate(Fate::Filled);
            return Step::Fill(out);
        }
        entry.set_fate(Fate::Sent { marker: ends_picture(packet, tuned) });
        segment.note_structure(stream, out, packet);
        // Late as it is, it may be the newest that went out: those after it may have been left out.
        if stream.last.is_none_or(|last| last.is_before(out)) {
            segment.note_newest(now, stream, out, packet, entry.left_out);
        }
        Step::Send(out)
    }

    /// The layer that goes out.
    fn tuned(&self) -> Layer {
        self.tunings.last().map_or(Layer::HIGHEST, |tuning| tuning.layer)
    }

    /// The layer that went out in the picture of this timestamp, whether or not anything of it has come before.
    fn tuned_at(&self, timestamp: u32) -> Layer {
        let is_past = |tuning: &&Tuning| timestamp.wrapping_sub(tuning.from) < 1 << 31;
        let found = self.tunings.iter().rev().find(is_past).or(self.tunings.first());
        found.map_or(Layer::HIGHEST, |tuning| tuning.layer)
    }

    /// Forgets what no late packet can belong to, before timestamps wrap around to it.
    fn forget_tunings(&mut self, timestamp: u32) {
        let is_old = |tuning: &Tuning| (TUNING_AGE_MAX..1 << 31).contains(&timestamp.wrapping_sub(tuning.from));
        if self.tunings.get(1).is_some_and(is_old) {
            self.tunings.remove(0);
        }
    }

    /// Tunes where the packet allows it; whether the packet is wanted.
    fn decide(&mut self, aim: Aim, packet: &Incoming) -> bool {
        let goal = match aim.encoding.cmp(&packet.encoding) {
            Ordering::Equal => aim.layer,
            Ordering::Greater => Layer::HIGHEST,
            // On the way down the key frame is not waited for at full rate.
            Ordering::Less => Layer::new(Layer::HIGHEST.spatial(), 0),
        };
        // Never within a picture: the marker that ends it may have gone out.
        if self.picture.is_none_or(|picture| picture.timestamp != packet.timestamp) {
            self.picture = Some(Picture { timestamp: packet.timestamp, left_out: false });
            self.forget_tunings(packet.timestamp);
            let before = known(self.tuned(), goal, packet.info.highest_spatial);
            let layer = packet.info.towards(Some(before), goal).unwrap_or(before);
            if layer != self.tuned() {
                if self.tunings.is_full() {
                    self.tunings.remove(0);
                }
                self.tunings.push(Tuning { from: packet.timestamp, layer });
            }
        }
        let wanted = packet.info.present.contains(self.tuned());
        if !wanted
            && packet.counts_pictures
            && let Some(picture) = self.picture.as_mut().filter(|picture| !picture.left_out)
        {
            picture.left_out = true;
            self.left_out = self.left_out.wrapping_add(1);
        }
        wanted
    }

    /// Numbers go on by one; time by the wall clock, at least by one frame; picture ids by one.
    fn start_segment(&mut self, now: Instant, stream: &mut Stream, packet: &Incoming) {
        let mut segment = Segment {
            encoding: packet.encoding,
            from_in: packet.number,
            from_out: stream.highest_out + 1,
            timestamp_by: 0,
            shifts: Shifts::default(),
        };
        if let Some(last) = stream.last {
            segment.timestamp_by = continued(now, last, CLOCK_RATE).wrapping_sub(packet.timestamp);
            if let Some(picture) = packet.info.picture {
                segment.shifts.picture_id_by = last.picture_id.wrapping_add(1).wrapping_sub(picture);
            }
            if let Some(number) = packet.info.frame_number {
                segment.shifts.frame_number_by = last.frame_number.wrapping_add(1).wrapping_sub(number);
            }
            if let Some(tl0) = packet.info.tl0 {
                segment.shifts.tl0_by = last.tl0.wrapping_add(1).wrapping_sub(tl0);
            }
        }
        // Template ids go on too, so that a late descriptor is never read with the structure of another encoding.
        if let Some((first, _)) = packet.info.templates {
            segment.shifts.template_id_by = stream.next_template.wrapping_sub(first) & 0x3f;
        }
        if self.segments.is_full() {
            self.segments.remove(0);
        }
        self.segments.push(segment);
        self.newest[usize::from(packet.encoding) % ENCODINGS_MAX] = packet.number - 1;
        self.passed_over = packet.number + 1..packet.number + 1 + GAP_MAX;
        self.left_out = 0;
        self.tunings.clear();
        self.picture = None;
        (self.flowing, self.halted) = (true, false);
    }
}

impl Subscription {
    /// The video side; `None` for sound.
    pub(crate) fn video(&mut self) -> Option<(&mut VideoCourse, &mut Stream)> {
        match &mut self.course {
            Course::Video(course) => Some((course, &mut self.stream)),
            Course::Audio(_) => None,
        }
    }
}

/// In Hz: every video codec of the profile has the same.
const CLOCK_RATE: u32 = 90_000;

/// Whether a packet is the last one of its picture for somebody tuned to a layer: what lies above is not sent to them.
fn ends_picture(packet: &Incoming, tuned: Layer) -> bool {
    packet.marker || (packet.info.ends_frame && packet.info.layer.spatial() == tuned.spatial())
}

/// The layer to which a receiver is tuned that was tuned to more than there is, when it became known what there is.
fn known(tuned: Layer, goal: Layer, highest_spatial: u8) -> Layer {
    let is_guess = tuned.spatial() > highest_spatial && goal.spatial() <= highest_spatial;
    if is_guess { Layer::new(highest_spatial, tuned.temporal()) } else { tuned }
}

/// The timestamp with which a stream goes on.
fn continued(now: Instant, last: Last, clock_rate: u32) -> u32 {
    let elapsed = now.saturating_duration_since(last.at).as_micros() * u128::from(clock_rate) / 1_000_000;
    let step = u32::try_from(elapsed).unwrap_or(u32::MAX).max(clock_rate / 60);
    last.timestamp.wrapping_add(step)
}

#[cfg(test)]
mod tests;
