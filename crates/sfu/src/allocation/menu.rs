//! Which layers of one source come into question for one receiver, and what each costs. Bandwidth is left to the walk
//! over them.

use tertulia_model::VideoType;

use crate::constraints::Limit;

/// Most layers of a source; eight encodings of three spatial layers with three temporal ones each are more than anybody
/// sends.
const LAYERS_MAX: usize = 64;
/// A camera on a stage should have this many lines at this many frames a second before anything else improves: fewer
/// lines look bad large, fewer frames look like a fault, more of either is a luxury.
const PREFERRED_HEIGHT: u16 = 360;
const PREFERRED_FPS: f32 = 30.0;
/// Pictures that may have no more lines than this are thumbnails: any frame rate will do.
const THUMBNAIL_HEIGHT: i32 = 180;
/// Frame rates are measured: one that lacks less than a tenth is not lower.
const SAME_FPS: f32 = 0.9;
/// Bits per second and line squared of a camera at 30 frames a second, for layers that nothing was measured of yet.
const GUESSED_BPS: u64 = 4;

/// One choice for a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layer {
    pub(crate) encoding: u8,
    /// Spatial layer times eight plus temporal layer.
    pub(crate) layer: u8,
    /// Lines of the smaller dimension.
    pub(crate) height: u16,
    /// Frames per second, 0 when unknown.
    pub(crate) fps: f32,
    /// Bits per second over the last second, everything it depends on included. 0 when nothing is being sent.
    pub(crate) bps: u64,
}

/// The layers of a source that come into question, as indices into its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Menu {
    /// All of them.
    pub(super) considered: Set,
    /// Those that cost less than every better one: nobody would choose the others.
    pub(super) offered: Set,
    /// What the source should have before anything less important gets more than its lowest layer. One of `considered`.
    pub(super) preferred: Option<usize>,
    /// The cheapest of full size, for the sake of which the bandwidth may be exceeded. One of `considered`.
    pub(super) oversend: Option<usize>,
    /// Nothing was measured: costs are guessed.
    unmeasured: bool,
}

impl Menu {
    /// Chooses from `layers`, which are ordered from the lowest to the highest.
    pub(super) fn of(layers: &[Layer], limit: Limit, video_type: VideoType, on_stage: bool) -> Self {
        let layers = &layers[..layers.len().min(LAYERS_MAX)];
        if limit.is_off() || layers.is_empty() {
            return Self::default();
        }
        // Nothing is sent of a source that was just signalled: then everything may come.
        let unmeasured = layers.iter().all(|layer| layer.bps == 0);
        let sent = Set::of(layers, |layer| unmeasured || layer.bps > 0);
        let slow_enough = sent.only(layers, |layer| layer.fps <= 0.0 || limit.allows_frame_rate(layer.fps));
        let usable = if slow_enough.is_empty() { slowest(sent, layers) } else { slow_enough };
        let mut menu = Self { unmeasured, ..Self::default() };
        match video_type {
            VideoType::Camera => menu.choose_camera(layers, usable, limit),
            VideoType::Desktop | VideoType::DesktopHighFps => menu.choose_screen(layers, usable, limit, on_stage),
            VideoType::None => {}
        }
        menu.offer(layers);
        menu
    }

    /// Bits per second of a layer.
    pub(super) fn cost(&self, layer: &Layer) -> u64 {
        if self.unmeasured { GUESSED_BPS * u64::from(layer.height).pow(2) } else { layer.bps }
    }

    /// Frame rate first, up to the preferred height; above it only layers that have the frame rate.
    fn choose_camera(&mut self, layers: &[Layer], usable: Set, limit: Limit) {
        let Some(lowest) = usable.lines(layers).min() else { return };
        let fastest = usable.iter().map(|index| layers[index].fps).fold(0.0, f32::max);
        let is_thumbnail = (0..=THUMBNAIL_HEIGHT).contains(&limit.max_height);
        let enough = if fastest > 0.0 { PREFERRED_FPS.min(fastest) * SAME_FPS } else { 0.0 };
        self.considered = usable.only(layers, |layer| {
            let is_fast = is_thumbnail || layer.fps <= 0.0 || layer.fps >= enough;
            let is_small = layer.height < PREFERRED_HEIGHT;
            layer.height == lowest || (limit.allows_height(layer.height) && (is_small || is_fast))
        });
        let preferred = if is_thumbnail { lowest } else { PREFERRED_HEIGHT.max(lowest) };
        self.preferred = self.considered.only(layers, |layer| layer.height <= preferred).highest();
    }

    /// Size first: text must be legible, and screens seldom move.
    fn choose_screen(&mut self, layers: &[Layer], usable: Set, limit: Limit, on_stage: bool) {
        self.considered = usable.only(layers, |layer| limit.allows_height(layer.height));
        if self.considered.is_empty() {
            let Some(lowest) = usable.lines(layers).min() else { return };
            self.considered = usable.only(layers, |layer| layer.height == lowest);
            // Encodings of one size and no known frame rate differ in quality; a thumbnail needs the least.
            let first = self.considered.lowest().filter(|first| !on_stage && layers[*first].fps <= 0.0);
            if let Some(first) = first {
                self.considered = Set(1 << first);
            }
        }
        self.preferred = self.considered.highest();
        let Some(full) = self.considered.lines(layers).max().filter(|_| on_stage) else { return };
        let of_full_size = self.considered.only(layers, |layer| layer.height == full);
        self.oversend = of_full_size.iter().min_by_key(|index| self.cost(&layers[*index]));
    }

    fn offer(&mut self, layers: &[Layer]) {
        let mut cheapest_above = u64::MAX;
        for index in (0..layers.len()).rev().filter(|index| self.considered.contains(*index)) {
            let cost = self.cost(&layers[index]);
            if cost < cheapest_above {
                cheapest_above = cost;
                self.offered.0 |= 1 << index;
            }
        }
    }
}

/// Those with the fewest frames, when all have more than allowed: a picture that is too fast is better than none.
fn slowest(sent: Set, layers: &[Layer]) -> Set {
    let fewest = sent.iter().map(|index| layers[index].fps).fold(f32::INFINITY, f32::min);
    sent.only(layers, |layer| layer.fps * SAME_FPS <= fewest)
}

/// Some of a source's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set(u64);

impl Set {
    fn of(layers: &[Layer], keep: impl Fn(&Layer) -> bool) -> Self {
        let kept = layers.iter().enumerate().filter(|(_, layer)| keep(layer));
        Self(kept.fold(0, |bits, (index, _)| bits | (1 << index)))
    }

    fn only(self, layers: &[Layer], keep: impl Fn(&Layer) -> bool) -> Self {
        Self(self.0 & Self::of(layers, keep).0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn contains(self, index: usize) -> bool {
        index < LAYERS_MAX && self.0 & (1 << index) != 0
    }

    pub(super) fn lowest(self) -> Option<usize> {
        self.at_least(0)
    }

    pub(super) fn highest(self) -> Option<usize> {
        (self.0 != 0).then(|| LAYERS_MAX - 1 - self.0.leading_zeros() as usize)
    }

    /// The lowest that is `index` or higher.
    pub(super) fn at_least(self, index: usize) -> Option<usize> {
        let rest = if index < LAYERS_MAX { self.0 & (u64::MAX << index) } else { 0 };
        (rest != 0).then(|| rest.trailing_zeros() as usize)
    }

    /// The highest below `index`.
    pub(super) fn below(self, index: usize) -> Option<usize> {
        let rest = if index < LAYERS_MAX { self.0 & !(u64::MAX << index) } else { self.0 };
        Self(rest).highest()
    }

    /// Lowest first.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(next)
        })
    }

    fn lines(self, layers: &[Layer]) -> impl Iterator<Item = u16> {
        self.iter().map(|index| layers[index].height)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FULL, KBPS, simulcast};
    use super::*;

    const CAMERA: VideoType = VideoType::Camera;
    const SCREEN: VideoType = VideoType::Desktop;

    /// (considered, preferred, oversend)
    fn menu(
        layers: &[Layer],
        limit: Limit,
        video_type: VideoType,
        stage: bool,
    ) -> (Vec<usize>, Option<usize>, Option<usize>) {
        let menu = Menu::of(layers, limit, video_type, stage);
        (menu.considered.iter().collect(), menu.preferred, menu.oversend)
    }

    #[test]
    fn a_camera_prefers_frames_up_to_360_lines_and_demands_them_above() {
        let all = simulcast(FULL);
        let only_hd = &all[6..];
        for (layers, max_height, considered, preferred) in [
            (&all[..], -1, vec![0, 1, 2, 5, 8], Some(5)),
            (&all, 720, vec![0, 1, 2, 5, 8], Some(5)),
            (&all, 360, vec![0, 1, 2, 5], Some(5)),
            (&all, 200, vec![0, 1, 2], Some(2)),
            (&all, 180, vec![0, 1, 2], Some(2)),
            (&all, 90, vec![0, 1, 2], Some(2)),
            (&all, 0, vec![], None),
            (only_hd, 360, vec![0, 1, 2], Some(2)),
            (&[], 720, vec![], None),
        ] {
            let expected = (considered, preferred, None);
            assert_eq!(menu(layers, Limit::lines(max_height), CAMERA, true), expected, "{max_height}");
        }
    }

    #[test]
    fn layers_that_are_not_sent_do_not_count_unless_none_is() {
        let up_to_360p15 = simulcast([50, 100, 150, 165, 330, 0, 0, 0, 0]);
        assert_eq!(menu(&up_to_360p15, Limit::lines(720), CAMERA, false), (vec![0, 1, 2], Some(2), None));
        let only_720 = simulcast([0, 0, 0, 0, 0, 0, 660, 1_320, 2_000]);
        assert_eq!(menu(&only_720, Limit::lines(180), CAMERA, false), (vec![6, 7, 8], Some(8), None));
        let nothing = simulcast([0; 9]);
        assert_eq!(menu(&nothing, Limit::lines(720), CAMERA, false), (vec![0, 1, 2, 5, 8], Some(5), None));
    }

    #[test]
    fn a_frame_rate_limit_drops_temporal_layers() {
        let all = simulcast(FULL);
        let limit = |max_height, max_frame_rate| Limit { max_height, max_frame_rate };
        assert_eq!(menu(&all, limit(720, 15.0), CAMERA, true), (vec![0, 1, 4, 7], Some(4), None));
        assert_eq!(menu(&all, limit(720, 10.0), CAMERA, true), (vec![0, 3, 6], Some(3), None));
        assert_eq!(menu(&all, limit(180, 10.0), CAMERA, false), (vec![0], Some(0), None));
        assert_eq!(menu(&all, limit(720, 0.0), CAMERA, true), (vec![], None, None));
        assert_eq!(menu(&all, limit(720, 5.0), CAMERA, true), (vec![0, 3, 6], Some(3), None), "nothing is that slow");
        assert_eq!(menu(&all, limit(-1, 15.0), SCREEN, true), (vec![0, 1, 3, 4, 6, 7], Some(7), Some(6)));
        let mut measured = all;
        measured[5].fps = 28.3;
        measured[2].fps = 30.4;
        assert_eq!(menu(&measured, limit(360, 30.0), CAMERA, true), (vec![0, 1, 2, 5], Some(5), None));
    }

    #[test]
    fn a_screen_prefers_size_and_may_exceed_the_bandwidth_on_a_stage_only() {
        let all = simulcast(FULL);
        let up_to_360 = simulcast([50, 100, 150, 165, 330, 500, 0, 0, 0]);
        let only_720 = simulcast([0, 0, 0, 0, 0, 0, 660, 1_320, 2_000]);
        for (layers, max_height, stage, considered, preferred, oversend) in [
            (&all, 720, true, (0..9).collect(), Some(8), Some(6)),
            (&all, 720, false, (0..9).collect(), Some(8), None),
            (&all, 360, true, (0..6).collect(), Some(5), Some(3)),
            (&up_to_360, 720, true, (0..6).collect(), Some(5), Some(3)),
            (&only_720, 720, true, vec![6, 7, 8], Some(8), Some(6)),
            (&only_720, 180, true, vec![6, 7, 8], Some(8), Some(6)),
            (&only_720, 180, false, vec![6, 7, 8], Some(8), None),
        ] {
            let expected = (considered, preferred, oversend);
            assert_eq!(menu(layers, Limit::lines(max_height), SCREEN, stage), expected, "{max_height} {stage}");
        }
    }

    #[test]
    fn a_screen_of_one_size_in_three_qualities_is_a_thumbnail_in_the_least() {
        let quality = |encoding, kbps| Layer { encoding, layer: 0, height: 720, fps: 0.0, bps: kbps * KBPS };
        let layers = [quality(0, 150), quality(1, 370), quality(2, 750)];
        assert_eq!(menu(&layers, Limit::lines(720), SCREEN, true), (vec![0, 1, 2], Some(2), Some(0)));
        assert_eq!(menu(&layers, Limit::lines(180), SCREEN, true), (vec![0, 1, 2], Some(2), Some(0)));
        assert_eq!(menu(&layers, Limit::lines(180), SCREEN, false), (vec![0], Some(0), None));
    }

    #[test]
    fn a_layer_that_costs_no_less_than_a_better_one_is_not_offered() {
        let layers = simulcast([50, 100, 150, 165, 330, 500, 300, 400, 450]);
        let menu = Menu::of(&layers, Limit::lines(720), CAMERA, true);
        assert_eq!(menu.considered.iter().collect::<Vec<_>>(), [0, 1, 2, 5, 8]);
        assert_eq!(menu.offered.iter().collect::<Vec<_>>(), [0, 1, 2, 8]);
        let still = simulcast([50; 9]);
        assert_eq!(Menu::of(&still, Limit::lines(-1), SCREEN, false).offered.iter().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn what_was_not_measured_is_guessed_from_its_size() {
        let layers = simulcast([0; 9]);
        let menu = Menu::of(&layers, Limit::lines(-1), CAMERA, true);
        let costs: Vec<u64> = [0, 5, 8].map(|index: usize| menu.cost(&layers[index]) / KBPS).into();
        assert_eq!(costs, [129, 518, 2_073]);
    }
}
