//! The dependency descriptor (AV1 RTP payload specification, appendix A): frames of any codec, their layers, and for
//! whom they are.

use super::bits::Bits;
use super::history::History;
use super::layer::{Layer, LayerMask};

/// Templates of one structure (A.8.4).
const TEMPLATES_MAX: usize = 64;
/// Decode targets of one structure (A.8.4).
const TARGETS_MAX: usize = 32;
/// Spatial layers of one structure: as many as its layers can be told apart by.
const SPATIAL_MAX: usize = Layer::SPATIAL as usize;
/// References of one frame that are kept. AV1 has seven; a frame with more is no place to switch.
const REFERENCES_MAX: usize = 8;
/// A structure whose frame is this far behind the newest comes late; further, the stream began anew.
const LATE_MAX: u16 = 1_024;

/// What a frame is to one decode target (A.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indication {
    /// Not part of it.
    NotPresent,
    /// Part of it, and nothing of it refers to this frame.
    Discardable,
    /// Whoever can decode this frame can decode all of the target from here on.
    Switch,
    /// Part of it.
    Required,
}

/// The indications of one frame, for up to 32 decode targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indications(u64);

impl Indications {
    /// The indication for one decode target.
    pub fn of(self, target: usize) -> Indication {
        match self.0.checked_shr(u32::try_from(2 * target).unwrap_or(u32::MAX)).unwrap_or(0) & 3 {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        }
    }

    fn read(bits: &mut Bits<'_>, targets: usize) -> Option<Self> {
        let mut all = 0;
        for target in 0..targets {
            all |= u64::from(bits.number(2)?) << (2 * target);
        }
        Some(Self(all))
    }

    fn is_only_discardable(self) -> bool {
        // One bit of each pair.
        const LOW: u64 = 0x5555_5555_5555_5555;
        self.0 != 0 && self.0 & !LOW == 0
    }
}

/// Which frames a frame refers to, as distances of frame numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct References {
    distances: [u16; REFERENCES_MAX],
    count: u8,
}

impl References {
    /// The distances that are kept, in wire order.
    pub fn distances(&self) -> &[u16] {
        &self.distances[..usize::from(self.count).min(REFERENCES_MAX)]
    }

    /// Whether the frame refers to nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there are more than are kept.
    pub fn is_incomplete(&self) -> bool {
        usize::from(self.count) > REFERENCES_MAX
    }

    fn push(&mut self, distance: u32) {
        if let Some(place) = self.distances.get_mut(usize::from(self.count)) {
            *place = u16::try_from(distance).unwrap_or(u16::MAX);
        }
        self.count = self.count.saturating_add(1);
    }

    /// `template_fdiffs()` of one template.
    fn of_template(bits: &mut Bits<'_>) -> Option<Self> {
        let mut references = Self::default();
        while bits.flag()? {
            references.push(bits.number(4)? + 1);
        }
        Some(references)
    }

    /// `frame_fdiffs()`.
    fn of_frame(bits: &mut Bits<'_>) -> Option<Self> {
        let mut references = Self::default();
        loop {
            match usize::from(bits.small(2)?) {
                0 => return Some(references),
                size => references.push(bits.number(4 * size)? + 1),
            }
        }
    }
}

/// The fields at the head of every descriptor (A.8.2), which can be read without a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// First packet of a frame.
    pub start_of_frame: bool,
    /// Last packet of a frame.
    pub end_of_frame: bool,
    /// 0…63.
    pub template_id: u8,
    /// Modulo 2¹⁶.
    pub frame_number: u16,
    /// A structure is carried, which only the first packets of key frames do.
    pub has_structure: bool,
}

impl Head {
    /// Reads the head; `None` when the descriptor is shorter than that.
    pub fn parse(descriptor: &[u8]) -> Option<Self> {
        let fixed = descriptor.get(..3)?;
        Some(Self {
            start_of_frame: fixed[0] & 0x80 != 0,
            end_of_frame: fixed[0] & 0x40 != 0,
            template_id: fixed[0] & 0x3f,
            frame_number: u16::from_be_bytes([fixed[1], fixed[2]]),
            has_structure: descriptor.get(3).is_some_and(|flags| flags & 0x80 != 0),
        })
    }
}

/// One kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Template {
    /// The layer of such frames.
    pub layer: Layer,
    /// For which decode targets they are.
    pub indications: Indications,
    /// What they refer to.
    pub references: References,
    /// The indications as layers.
    present: LayerMask,
    switchable: LayerMask,
}

/// What a key frame says about the frames that follow (A.8.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    offset: u8,
    templates: [Template; TEMPLATES_MAX],
    template_count: u8,
    target_count: u8,
    chain_count: u8,
    spatial_count: u8,
    /// Which decode targets serve anybody, one bit each.
    serving: u32,
    /// Of those.
    highest_spatial: u8,
    /// The layer of each decode target: the highest of the templates in it.
    targets: [Layer; TARGETS_MAX],
    /// The layers whose receivers get each decode target.
    serves: [LayerMask; TARGETS_MAX],
    /// Width and height of each spatial layer.
    resolutions: [Option<(u16, u16)>; SPATIAL_MAX],
}

impl Structure {
    /// Reads the structure of a descriptor; `None` when it carries none or is malformed.
    pub fn parse(descriptor: &[u8]) -> Option<Self> {
        Self::read(&mut after_flags(descriptor).filter(|(_, flags)| flags.structure)?.0)
    }

    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let mut own = Self {
            offset: bits.small(6)?,
            templates: [Template::default(); TEMPLATES_MAX],
            template_count: 0,
            target_count: bits.small(5)? + 1,
            chain_count: 0,
            spatial_count: 1,
            serving: 0,
            highest_spatial: 0,
            targets: [Layer::LOWEST; TARGETS_MAX],
            serves: [LayerMask::EMPTY; TARGETS_MAX],
            resolutions: [None; SPATIAL_MAX],
        };
        own.read_layers(bits)?;
        let targets = usize::from(own.target_count);
        let templates = &mut own.templates[..usize::from(own.template_count)];
        for template in &mut *templates {
            template.indications = Indications::read(bits, targets)?;
        }
        for template in &mut *templates {
            template.references = References::of_template(bits)?;
        }
        own.skip_chains(bits)?;
        if bits.flag()? {
            for spatial in 0..usize::from(own.spatial_count) {
                let (width, height) = (bits.number(16)? + 1, bits.number(16)? + 1);
                let pixels = |wide: u32| u16::try_from(wide).unwrap_or(u16::MAX);
                own.resolutions[spatial] = Some((pixels(width), pixels(height)));
            }
        }
        own.assign_targets();
        own.serve(u32::MAX);
        Some(own)
    }

    /// `template_layers()`.
    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let (mut spatial, mut temporal) = (0u8, 0u8);
        loop {
            if spatial >= Layer::SPATIAL || temporal >= Layer::TEMPORAL {
                return None;
            }
            self.templates.get_mut(usize::from(self.template_count))?.layer = Layer::new(spatial, temporal);
            self.template_count += 1;
            self.spatial_count = spatial + 1;
            match bits.small(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => return Some(()),
            }
        }
    }

    /// `template_chains()`: who wants to know early that a frame is missing reads them; a forwarder does not.
    fn skip_chains(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let chains = bits.below(u32::from(self.target_count) + 1)?;
        if chains > 0 {
            for _ in 0..self.target_count {
                bits.below(chains)?;
            }
            self.chain_count = u8::try_from(chains).ok()?;
            bits.skip(4 * usize::from(self.chain_count) * usize::from(self.template_count))?;
        }
        Some(())
    }

    /// Finds the layer of every decode target.
    fn assign_targets(&mut self) {
        let count = usize::from(self.target_count);
        let templates = &self.templates[..usize::from(self.template_count)];
        for (target, layer) in self.targets[..count].iter_mut().enumerate() {
            for template in templates.iter().filter(|own| own.indications.of(target) != Indication::NotPresent) {
                let spatial = layer.spatial().max(template.layer.spatial());
                *layer = Layer::new(spatial, layer.temporal().max(template.layer.temporal()));
            }
        }
    }

    /// Finds the layers that each decode target serves, and the templates' masks. Of targets that there are not, one bit each, the best that
    /// there is takes the place: whoever starts with the frame that carries the structure gets that one.
    fn serve(&mut self, active: u32) {
        let count = usize::from(self.target_count);
        self.serving = active;
        self.serves = [LayerMask::EMPTY; TARGETS_MAX];
        let is_active = |target: usize| active >> target & 1 != 0;
        let nothing = !(0..count).any(is_active);
        let targets = || self.targets[..count].iter().enumerate().filter(|(target, _)| nothing || is_active(*target));
        self.highest_spatial = targets().map(|(_, own)| own.spatial()).max().unwrap_or(0);
        for layer in LayerMask::ALL.iter() {
            let within = targets()
                .filter(|(_, own)| own.spatial() <= layer.spatial() && own.temporal() <= layer.temporal())
                .max_by_key(|(target, own)| (**own, std::cmp::Reverse(*target)));
            if let Some((target, _)) = within.or_else(|| targets().min_by_key(|(_, own)| **own)) {
                self.serves[target].insert(layer);
            }
        }
        for template in &mut self.templates[..usize::from(self.template_count)] {
            (template.present, template.switchable) = expand(&self.serves[..count], template.indications);
        }
    }

    /// The id of the first template, 0…63.
    pub fn template_id_offset(&self) -> u8 {
        self.offset
    }

    /// The templates.
    pub fn templates(&self) -> &[Template] {
        &self.templates[..usize::from(self.template_count)]
    }

    /// The layer of every decode target.
    pub fn targets(&self) -> &[Layer] {
        &self.targets[..usize::from(self.target_count)]
    }

    /// How many chains there are.
    pub fn chain_count(&self) -> u8 {
        self.chain_count
    }

    /// Width and height of a spatial layer.
    pub fn resolution(&self, spatial: u8) -> Option<(u16, u16)> {
        self.resolutions.get(usize::from(spatial)).copied().flatten()
    }

    fn template(&self, id: u8) -> Option<&Template> {
        self.templates().get(usize::from(id.wrapping_sub(self.offset) & 0x3f))
    }
}

/// The layers whose receivers need a frame, and those that may be begun with it.
fn expand(serves: &[LayerMask], indications: Indications) -> (LayerMask, LayerMask) {
    let (mut present, mut switchable) = (LayerMask::EMPTY, LayerMask::EMPTY);
    for (target, layers) in serves.iter().enumerate() {
        match indications.of(target) {
            Indication::NotPresent => {}
            Indication::Discardable | Indication::Required => present |= *layers,
            Indication::Switch => {
                present |= *layers;
                switchable |= *layers;
            }
        }
    }
    (present, switchable)
}

/// The flags behind the head.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    structure: bool,
    active_targets: bool,
    custom_indications: bool,
    custom_references: bool,
    custom_chains: bool,
}

fn after_flags(descriptor: &[u8]) -> Option<(Bits<'_>, Flags)> {
    let mut bits = Bits::new(descriptor);
    bits.skip(24)?;
    if descriptor.len() == 3 {
        return Some((bits, Flags::default()));
    }
    let flags = Flags {
        structure: bits.flag()?,
        active_targets: bits.flag()?,
        custom_indications: bits.flag()?,
        custom_references: bits.flag()?,
        custom_chains: bits.flag()?,
    };
    Some((bits, flags))
}

/// What one descriptor says, together with its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// What every descriptor has.
    pub head: Head,
    /// The frame's layer.
    pub layer: Layer,
    /// For which decode targets it is.
    pub indications: Indications,
    /// What it refers to.
    pub references: References,
    /// Which decode targets there are from here on, one bit each; `None` when that does not change.
    pub active_targets: Option<u32>,
    /// Layers whose receivers need the frame.
    pub present: LayerMask,
    /// Layers whose decode target may be begun with the frame.
    pub switchable: LayerMask,
}

/// Reads a whole descriptor. `structure` has to be the one that it carries, or if it carries none the one that its
/// template is of.
///
/// `None` when the descriptor is malformed or its template is not of this structure.
pub fn parse(descriptor: &[u8], structure: &Structure) -> Option<Descriptor> {
    let head = Head::parse(descriptor)?;
    let (mut bits, flags) = after_flags(descriptor)?;
    if flags.structure {
        Structure::read(&mut bits)?;
    }
    finish(head, flags, bits, structure)
}

/// What stands behind the structure.
fn finish(head: Head, flags: Flags, mut bits: Bits<'_>, structure: &Structure) -> Option<Descriptor> {
    let template = structure.template(head.template_id)?;
    let targets = usize::from(structure.target_count);
    let all_targets = u32::MAX >> (TARGETS_MAX - targets);
    let active_targets = match (flags.active_targets, flags.structure) {
        (true, _) => Some(bits.number(targets)?),
        (false, true) => Some(all_targets),
        (false, false) => None,
    };
    let (mut indications, mut masks) = (template.indications, (template.present, template.switchable));
    if flags.custom_indications {
        indications = Indications::read(&mut bits, targets)?;
        masks = expand(&structure.serves[..targets], indications);
    }
    let references = if flags.custom_references { References::of_frame(&mut bits)? } else { template.references };
    if flags.custom_chains {
        bits.skip(8 * usize::from(structure.chain_count))?;
    }
    let (present, switchable) = masks;
    Some(Descriptor { head, layer: template.layer, indications, references, active_targets, present, switchable })
}

/// Moves the numbers of a copy of a descriptor in place: frame number, template id, and where a structure is carried
/// its `template_id_offset`, so that copies of several streams read as one.
pub fn shift(descriptor_copy: &mut [u8], frame_number_by: u16, template_id_by: u8) {
    let Some(head) = Head::parse(descriptor_copy) else { return };
    let id = head.template_id.wrapping_add(template_id_by) & 0x3f;
    descriptor_copy[0] = (descriptor_copy[0] & 0xc0) | id;
    descriptor_copy[1..3].copy_from_slice(&head.frame_number.wrapping_add(frame_number_by).to_be_bytes());
    if head.has_structure
        && let Some([high, low]) = descriptor_copy.get_mut(3..5)
    {
        // The offset is bits 5…10 after the head.
        let offset = ((*high & 0x07) << 3 | *low >> 5).wrapping_add(template_id_by) & 0x3f;
        *high = (*high & 0xf8) | offset >> 3;
        *low = (*low & 0x1f) | offset << 5;
    }
}

/// A descriptor's frame, judged against what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) descriptor: Descriptor,
    /// Receivers tuned to these layers so far have all that the frame refers to.
    pub(crate) decodable: LayerMask,
    /// First packet of a frame from which decoding can start.
    pub(crate) starts_keyframe: bool,
    /// Nothing refers to it.
    pub(crate) discardable: bool,
    /// Of its structure.
    pub(crate) highest_spatial: u8,
    /// (offset, count) of the templates that it carries.
    pub(crate) templates: Option<(u8, u8)>,
}

/// What has to be remembered to read the descriptors of one stream. Allocates with the first two structures only.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    current: Option<Box<Known>>,
    /// The structure before it, for packets that come late.
    previous: Option<Box<Structure>>,
    /// The latest structure could not be read: what is written for it never will be.
    is_unreadable: bool,
}

#[derive(Debug)]
struct Known {
    structure: Structure,
    /// The frame that carried it.
    since: u16,
    /// The newest frame that told of active decode targets.
    active_since: u16,
    active_targets: u32,
    history: History,
}

impl Dependencies {
    /// Reads the next descriptor; `None` when it is malformed or its structure was never seen.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<Frame> {
        let head = Head::parse(bytes)?;
        let (mut bits, flags) = after_flags(bytes)?;
        let mut carried = None;
        if flags.structure {
            // A structure of a broken descriptor is not believed.
            let structure = Structure::read(&mut bits).and_then(|mut structure| {
                let active = finish(head, flags, bits, &structure)?.active_targets;
                structure.serve(active.unwrap_or(u32::MAX));
                Some(structure)
            });
            self.is_unreadable = structure.is_none();
            let structure = structure?;
            carried = Some(structure.offset);
            self.install(head.frame_number, structure);
        }
        let known = self.current.as_deref_mut()?;
        let previous = self.previous.as_deref();
        let candidates = [Some(&known.structure), previous].into_iter().flatten();
        let structure = candidates.into_iter().find(|own| {
            own.template(head.template_id).is_some() && carried.is_none_or(|offset| offset == own.offset)
        })?;
        let mut descriptor = finish(head, flags, bits, structure)?;
        let templates = flags.structure.then_some((structure.offset, structure.template_count));
        let highest_spatial = structure.highest_spatial;
        if let Some(active) = descriptor.active_targets
            && head.frame_number.wrapping_sub(known.active_since) < 0x8000
        {
            (known.active_targets, known.active_since) = (active, head.frame_number);
        }
        let references = &descriptor.references;
        if references.is_empty() && descriptor.layer.spatial() == 0 {
            // Even where spatial layers stand alone, everybody has to get the structure.
            descriptor.present = LayerMask::ALL;
        }
        let mut decodable = if references.is_incomplete() { LayerMask::EMPTY } else { LayerMask::ALL };
        for distance in references.distances() {
            decodable &= known.history.holders(u32::from(head.frame_number.wrapping_sub(*distance)));
        }
        known.history.note(u32::from(head.frame_number), descriptor.present);
        // What comes back without a key frame can be decoded by those who get the best that there was.
        if known.active_targets & !known.structure.serving != 0 {
            known.structure.serve(known.active_targets | known.structure.serving);
        }
        let starts = head.start_of_frame && descriptor.layer.spatial() == 0;
        Some(Frame {
            descriptor,
            decodable,
            starts_keyframe: starts && flags.structure && references.is_empty(),
            discardable: descriptor.indications.is_only_discardable(),
            highest_spatial,
            templates,
        })
    }

    /// Whether a descriptor is written for a structure that has not come but still may.
    pub(crate) fn lacks_structure_of(&self, bytes: &[u8]) -> bool {
        let Some(head) = Head::parse(bytes).filter(|head| !head.has_structure) else { return false };
        let known = self.current.iter().map(|known| &known.structure).chain(self.previous.as_deref());
        !self.is_unreadable && known.into_iter().all(|structure| structure.template(head.template_id).is_none())
    }

    /// Takes over a structure, unless it is one that comes late.
    fn install(&mut self, frame_number: u16, structure: Structure) {
        let Some(known) = self.current.as_deref_mut() else {
            let all = u32::MAX;
            let history = History::default();
            let (since, active_since) = (frame_number, frame_number);
            self.current = Some(Box::new(Known { structure, since, active_since, active_targets: all, history }));
            return;
        };
        let behind = known.since.wrapping_sub(frame_number);
        let is_late = (1..LATE_MAX).contains(&behind);
        let older = if is_late {
            structure
        } else {
            (known.since, known.active_since) = (frame_number, frame_number);
            std::mem::replace(&mut known.structure, structure)
        };
        if older.template_id_offset() == known.structure.template_id_offset() {
            return; // the same again, or its ids cannot be told from the current ones
        }
        match &mut self.previous {
            Some(previous) => **previous = older,
            None => self.previous = Some(Box::new(older)),
        }
    }

    /// The structure in force.
    pub(crate) fn structure(&self) -> Option<&Structure> {
        self.current.as_deref().map(|known| &known.structure)
    }

    /// The layers of decode targets that there are at the moment.
    pub(crate) fn active(&self) -> LayerMask {
        let Some(known) = self.current.as_deref() else { return LayerMask::EMPTY };
        let targets = known.structure.targets().iter().enumerate();
        targets.filter(|(target, _)| known.active_targets >> target & 1 != 0).map(|(_, layer)| *layer).collect()
    }
}

#[cfg(test)]
mod tests;
