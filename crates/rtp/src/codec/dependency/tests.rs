//! Descriptors written by hand and by chance, and whole streams of them.

use proptest::prelude::*;
use tertulia_model::profile::Codec;

use super::super::{DeclaredLayer, FrameInfo, Inspector};
use super::*;

/// A descriptor to be written.
#[derive(Debug, Clone, Default)]
struct Draft {
    start: bool,
    end: bool,
    template_id: u8,
    frame_number: u16,
    structure: Option<StructureDraft>,
    active_targets: Option<u32>,
    indications: Option<Vec<u8>>,
    references: Option<Vec<u16>>,
    chains: Option<Vec<u8>>,
    /// Of the structure in force, for the width of the bit mask.
    target_count: usize,
}

/// A structure to be written.
#[derive(Debug, Clone, Default)]
struct StructureDraft {
    offset: u8,
    rows: Vec<Row>,
    /// For each decode target the chain that protects it.
    protected_by: Vec<u8>,
    chain_count: u8,
    resolutions: Vec<(u16, u16)>,
}

/// One template.
#[derive(Debug, Clone, Default)]
struct Row {
    spatial: u8,
    temporal: u8,
    indications: Vec<u8>,
    references: Vec<u16>,
    chains: Vec<u8>,
}

#[derive(Default)]
struct BitWriter(Vec<bool>);

impl BitWriter {
    fn number(&mut self, value: u32, bits: usize) {
        self.0.extend((0..bits).rev().map(|bit| value >> bit & 1 != 0));
    }

    fn below(&mut self, value: u32, limit: u32) {
        let width = limit.ilog2();
        let short = (2 << width) - limit;
        if value < short {
            self.number(value, width as usize);
        } else {
            self.number(value + short, width as usize + 1);
        }
    }

    fn bytes(self) -> Vec<u8> {
        let byte =
            |bits: &[bool]| (0..8).fold(0, |sum, at| sum << 1 | u8::from(bits.get(at).copied().unwrap_or(false)));
        self.0.chunks(8).map(byte).collect()
    }
}

impl StructureDraft {
    fn write(&self, out: &mut BitWriter) {
        let targets = self.rows[0].indications.len();
        out.number(self.offset.into(), 6);
        out.number(targets as u32 - 1, 5);
        for (row, next) in self.rows.iter().zip(self.rows.iter().skip(1).map(Some).chain([None])) {
            let step = match next {
                None => 3,
                Some(next) if next.spatial > row.spatial => 2,
                Some(next) if next.temporal > row.temporal => 1,
                Some(_) => 0,
            };
            out.number(step, 2);
        }
        self.rows.iter().flat_map(|row| &row.indications).for_each(|own| out.number((*own).into(), 2));
        for row in &self.rows {
            row.references.iter().for_each(|distance| out.number(0x10 | u32::from(distance - 1), 5));
            out.number(0, 1);
        }
        out.below(self.chain_count.into(), targets as u32 + 1);
        if self.chain_count > 0 {
            self.protected_by.iter().for_each(|chain| out.below((*chain).into(), self.chain_count.into()));
            self.rows.iter().flat_map(|row| &row.chains).for_each(|distance| out.number((*distance).into(), 4));
        }
        out.number(u32::from(!self.resolutions.is_empty()), 1);
        for (width, height) in &self.resolutions {
            out.number(u32::from(width - 1), 16);
            out.number(u32::from(height - 1), 16);
        }
    }
}

impl Draft {
    fn write(&self) -> Vec<u8> {
        let mut out = BitWriter::default();
        out.number(self.start.into(), 1);
        out.number(self.end.into(), 1);
        out.number(self.template_id.into(), 6);
        out.number(self.frame_number.into(), 16);
        let flags = [
            self.structure.is_some(),
            self.active_targets.is_some(),
            self.indications.is_some(),
            self.references.is_some(),
            self.chains.is_some(),
        ];
        if flags == [false; 5] {
            return out.bytes();
        }
        flags.iter().for_each(|flag| out.number((*flag).into(), 1));
        if let Some(structure) = &self.structure {
            structure.write(&mut out);
        }
        if let Some(active) = self.active_targets {
            out.number(active, self.target_count);
        }
        self.indications.iter().flatten().for_each(|own| out.number((*own).into(), 2));
        if let Some(references) = &self.references {
            for distance in references {
                let size = match distance - 1 {
                    0..=0xf => 1,
                    0x10..=0xff => 2,
                    _ => 3,
                };
                out.number(size, 2);
                out.number(u32::from(distance - 1), 4 * size as usize);
            }
            out.number(0, 2);
        }
        self.chains.iter().flatten().for_each(|distance| out.number((*distance).into(), 8));
        out.bytes()
    }
}

/// A template from a line like the tables of A.6: spatial and temporal layer, the letters of its indications, its
/// references.
fn row(spatial: u8, temporal: u8, letters: &str, references: &[u16]) -> Row {
    let number = |letter| "-DSR".find(letter).unwrap() as u8;
    let indications = letters.chars().map(number).collect();
    Row { spatial, temporal, indications, references: references.to_vec(), chains: vec![] }
}

const SIZES: [(u16, u16); 3] = [(320, 180), (640, 360), (1280, 720)];

/// A.6.3: three spatial layers, each of which needs those below, and three temporal ones. Targets ascend here.
fn full_svc(offset: u8) -> StructureDraft {
    let rows = vec![
        row(0, 0, "SSSSSSSSS", &[]),
        row(0, 0, "SSSRRRRRR", &[12]),
        row(0, 1, "-DS-RR-RR", &[6]),
        row(0, 2, "--D--R--R", &[3]),
        row(1, 0, "---SSSSSS", &[1]),
        row(1, 0, "---SSSRRR", &[12, 1]),
        row(1, 1, "----DS-RR", &[6, 1]),
        row(1, 2, "-----D--R", &[3, 1]),
        row(2, 0, "------SSS", &[1]),
        row(2, 0, "------SSS", &[12, 1]),
        row(2, 1, "-------DS", &[6, 1]),
        row(2, 2, "--------D", &[3, 1]),
    ];
    StructureDraft { offset, rows, resolutions: SIZES.to_vec(), ..StructureDraft::default() }
}

/// The same layers, but only key pictures refer to the layer below.
fn key_svc(offset: u8) -> StructureDraft {
    let rows = vec![
        row(0, 0, "SSSSSSSSS", &[]),
        row(0, 0, "SSS------", &[12]),
        row(0, 1, "-DS------", &[6]),
        row(0, 2, "--D------", &[3]),
        row(1, 0, "---SSSSSS", &[1]),
        row(1, 0, "---SSS---", &[12]),
        row(1, 1, "----DS---", &[6]),
        row(1, 2, "-----D---", &[3]),
        row(2, 0, "------SSS", &[1]),
        row(2, 0, "------SSS", &[12]),
        row(2, 1, "-------DS", &[6]),
        row(2, 2, "--------D", &[3]),
    ];
    StructureDraft { offset, rows, resolutions: SIZES.to_vec(), ..StructureDraft::default() }
}

/// Three streams in one.
fn simulcast(offset: u8) -> StructureDraft {
    let mut own = key_svc(offset);
    own.rows[0] = row(0, 0, "SSS------", &[]);
    own.rows[4] = row(1, 0, "---SSS---", &[]);
    own.rows[8] = row(2, 0, "------SSS", &[]);
    own
}

/// Writes the frames of a stream of three spatial and three temporal layers, one packet each.
struct Sender {
    structure: StructureDraft,
    picture: u16,
    /// Pictures since the key picture.
    since_key: u16,
}

impl Sender {
    fn new(structure: StructureDraft, first_picture: u16) -> Self {
        Self { structure, picture: first_picture, since_key: 0 }
    }

    /// The three frames of the next picture, with what they refer to.
    fn picture(&mut self, key: bool) -> [Draft; 3] {
        if key {
            self.since_key = 0;
        }
        let kind = [1, 3, 2, 3][usize::from(self.since_key % 4)];
        let kind = if self.since_key == 0 { 0 } else { kind };
        let frames = [0u8, 1, 2].map(|spatial| Draft {
            start: true,
            end: true,
            template_id: (self.structure.offset + 4 * spatial + kind) % 64,
            frame_number: self.picture.wrapping_mul(3).wrapping_add(spatial.into()),
            structure: (kind == 0 && spatial == 0).then(|| self.structure.clone()),
            target_count: 9,
            ..Draft::default()
        });
        self.picture = self.picture.wrapping_add(1);
        self.since_key += 1;
        frames
    }

    fn references(&self, draft: &Draft) -> Vec<u16> {
        let index = usize::from(draft.template_id.wrapping_sub(self.structure.offset) & 0x3f);
        let distances = self.structure.rows[index].references.iter();
        distances.map(|distance| draft.frame_number.wrapping_sub(*distance)).collect()
    }
}

fn inspect(inspector: &mut Inspector, draft: &Draft) -> FrameInfo {
    inspector.inspect(Codec::Av1, 0, &[0x10, 0], true, Some(&draft.write()))
}

#[test]
#[allow(clippy::unusual_byte_groupings)] // grouped by field
fn a_descriptor_by_hand() {
    let descriptor = [
        0b1_0_000101,
        0x12,
        0x34,            // start; template 5; frame 0x1234
        0b1_0_0_0_0_000, // a structure; its offset 000101
        0b101_00001,     // two decode targets
        0b00_01_11_10,   // same layer, next temporal layer, end; template 0: S
        0b10_10_10_00,   // S; template 1: SS; template 2: -
        0b01_0_1_0011,   // D; template 0: none; template 1: 4
        0b0_1_0001_0_0,  // template 2: 2; chains: none, of up to two
        0b1_0000000,     // resolutions
        0b00011011,
        0b1_0000000, // 56 wide
        0b00001000,
        0b0_0000000, // 17 high
    ];
    let structure = Structure::parse(&descriptor).unwrap();
    let layers: Vec<_> = structure.templates().iter().map(|own| (own.layer.spatial(), own.layer.temporal())).collect();
    assert_eq!((structure.template_id_offset(), layers), (5, vec![(0, 0), (0, 0), (0, 1)]));
    assert_eq!(structure.targets(), [Layer::new(0, 0), Layer::new(0, 1)]);
    let references: Vec<_> = structure.templates().iter().map(|own| own.references.distances().to_vec()).collect();
    assert_eq!(references, [vec![], vec![4], vec![2]]);
    assert_eq!((structure.chain_count(), structure.resolution(0)), (0, Some((56, 17))));
    let found = parse(&descriptor, &structure).unwrap();
    assert_eq!((found.head.template_id, found.head.frame_number, found.active_targets), (5, 0x1234, Some(3)));
}

#[test]
fn a_layer_that_there_is_not_stands_for_the_best_below_it() {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(full_svc(0), 0);
    sender.picture(true).iter().for_each(|draft| {
        inspect(&mut inspector, draft);
    });
    let [low, middle, high] = sender.picture(false).map(|draft| inspect(&mut inspector, &draft).present);
    for (layer, needed) in [
        (Layer::HIGHEST, [true, true, true]),
        (Layer::new(1, 7), [true, true, false]),
        (Layer::new(3, 1), [false, false, false]),
        (Layer::new(0, 2), [true, false, false]),
    ] {
        assert_eq!([low, middle, high].map(|present| present.contains(layer)), needed, "{layer:?}");
    }
}

#[test]
fn a_key_frame_tells_layers_and_heights() {
    let mut inspector = Inspector::default();
    let key = inspect(&mut inspector, &Sender::new(key_svc(60), 7).picture(true)[0]);
    assert!(key.starts_keyframe && key.starts_frame && key.ends_frame && !key.discardable);
    assert_eq!((key.height, key.frame_number, key.templates), (Some(720), Some(21), Some((60, 12))));
    assert_eq!(key.towards(None, Layer::new(1, 1)), Some(Layer::new(1, 1)));
    let declared: Vec<_> = inspector.layers().collect();
    let expected = (0..3u8).flat_map(|s| (0..3).map(move |t| Layer::new(s, t)));
    let expected = expected.map(|layer| DeclaredLayer { layer, height: Some(SIZES[usize::from(layer.spatial())].1) });
    assert_eq!(declared, expected.collect::<Vec<_>>());
}

#[test]
fn targets_that_the_sender_switches_off_are_no_layers() {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(full_svc(0), 0);
    sender.picture(true).iter().for_each(|draft| {
        inspect(&mut inspector, draft);
    });
    let mut draft = sender.picture(false)[0].clone();
    draft.active_targets = Some(0b000_001_011);
    inspect(&mut inspector, &draft);
    let layers: Vec<_> = inspector.layers().map(|declared| declared.layer).collect();
    assert_eq!(layers, [Layer::new(0, 0), Layer::new(0, 1), Layer::new(1, 0)]);
    draft.frame_number -= 1;
    draft.active_targets = Some(0x1ff);
    inspect(&mut inspector, &draft);
    assert_eq!(inspector.layers().count(), 3, "an older one comes late");
}

#[test]
fn a_target_that_rests_since_the_key_frame_is_replaced_by_the_best_below_it() {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(key_svc(0), 0);
    let [mut lowest, ..] = sender.picture(true);
    lowest.active_targets = Some(0b000_000_111);
    assert_eq!(inspect(&mut inspector, &lowest).highest_spatial, 0);
    let [lowest, middle, _] = sender.picture(false);
    let info = inspect(&mut inspector, &lowest);
    assert!(info.present.contains(Layer::new(0, 2)) && info.present.contains(Layer::HIGHEST));
    let back = Draft { active_targets: Some(0b000_111_111), ..middle };
    inspect(&mut inspector, &back);
    let [lowest, middle, _] = sender.picture(false).map(|draft| inspect(&mut inspector, &draft));
    assert!(middle.present.contains(Layer::HIGHEST) && !lowest.present.contains(Layer::HIGHEST));
    assert_eq!(middle.highest_spatial, 1);
}

#[test]
fn a_frame_that_nobody_refers_to_may_be_dropped() {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(key_svc(0), 0);
    let mut discardable = Vec::new();
    for number in 0..4 {
        discardable.push(sender.picture(number == 0).map(|draft| inspect(&mut inspector, &draft).discardable));
    }
    assert_eq!(discardable, [[false; 3], [true; 3], [false; 3], [true; 3]]);
}

#[test]
fn a_template_of_a_lost_structure_leaves_what_the_payload_says() {
    let mut inspector = Inspector::default();
    let draft = Draft { start: true, template_id: 3, frame_number: 9, ..Draft::default() };
    let info = inspect(&mut inspector, &draft);
    assert_eq!((info.present, info.starts_keyframe, info.frame_number), (LayerMask::ALL, false, Some(9)));
    assert_eq!(inspector.layers().count(), 0);
    let vp9 = inspector.inspect(Codec::Vp9, 0, &[0x8c, 0], true, Some(&draft.write()));
    assert!(vp9.starts_keyframe && !vp9.needs_structure, "such a payload tells enough");
    assert!(
        inspector.inspect(Codec::H264, 1, &[0x41, 0x88], true, Some(&draft.write())).needs_structure,
        "this does not"
    );
}

/// One spatial layer as libwebrtc declares it beside codecs that tell their layers themselves: whatever is there may be begun with any frame.
fn temporal_layers() -> StructureDraft {
    let row = |(temporal, indications, distance): (u8, [u8; 3], u16)| Row {
        temporal,
        indications: indications.to_vec(),
        references: vec![distance],
        ..Row::default()
    };
    let rows = [(0, [2, 2, 2], 4), (1, [0, 2, 2], 2), (2, [0, 0, 2], 1)].map(row).into();
    StructureDraft { rows, ..StructureDraft::default() }
}

#[test]
fn receivers_of_vp8_go_up_where_its_own_numbers_allow_it_too() {
    let (slow, fast) = (Layer::new(0, 1), Layer::new(0, 2));
    let allows = |payload: fn(u8) -> Vec<u8>| {
        let mut inspector = Inspector::default();
        let mut at = |template_id: u8, frame_number: u16, key: bool| {
            let (structure, references) = (key.then(temporal_layers), key.then(Vec::new));
            let draft = Draft {
                start: true,
                end: true,
                template_id,
                frame_number,
                structure,
                references,
                target_count: 3,
                ..Draft::default()
            };
            let payload = if key { vec![0x90, 0x60, 0, 0, 0] } else { payload(template_id) };
            inspector.inspect(Codec::Vp8, 0, &payload, true, Some(&draft.write())).allows(Some(slow), fast)
        };
        at(0, 8, true);
        [at(2, 9, false), at(1, 10, false)]
    };
    // The frame of the middle layer leads to the upper one by its descriptor, but who knows picture ids alone waits for the one missing.
    assert_eq!(allows(|temporal| vec![0x90, 0x60, 0, temporal << 6 | 0x20, 1]), [true, false]);
    assert_eq!(allows(|_| vec![0x10, 1]), [true, true], "no layers but those of descriptors");
}

#[test]
fn what_came_before_its_structure_is_told_when_the_structure_comes() {
    let mut inspector = Inspector::default();
    let mut old = Sender::new(key_svc(0), 0);
    old.picture(true).iter().for_each(|draft| {
        inspect(&mut inspector, draft);
    });
    let mut new = Sender::new(key_svc(12), old.picture);
    let [first, middle, _] = new.picture(true);
    assert!(inspect(&mut inspector, &middle).needs_structure);
    assert!(!inspect(&mut inspector, &old.picture(false)[1]).needs_structure, "its structure is known");
    inspect(&mut inspector, &first);
    let told = inspect(&mut inspector, &middle);
    assert_eq!((told.needs_structure, told.layer.spatial()), (false, 1));
    assert!(!told.present.contains(Layer::new(0, 2)));
}

#[test]
fn nothing_waits_for_a_structure_that_cannot_be_read() {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(key_svc(0), 0);
    let whole = sender.picture(true)[0].write();
    inspector.inspect(Codec::Av1, 0, &[0x18, 0], true, Some(&whole[..whole.len() - 8]));
    let info = inspect(&mut inspector, &sender.picture(false)[0]);
    assert_eq!((info.needs_structure, info.present), (false, LayerMask::ALL));
}

#[test]
fn late_packets_are_read_by_the_structure_before() {
    let mut inspector = Inspector::default();
    let mut old = Sender::new(key_svc(0), 0);
    old.picture(true).iter().for_each(|draft| {
        inspect(&mut inspector, draft);
    });
    let late = old.picture(false);
    let mut new = Sender::new(full_svc(12), old.picture);
    let key = new.picture(true);
    inspect(&mut inspector, &key[0]);
    let info = inspect(&mut inspector, &late[2]);
    assert_eq!((info.layer, info.present.contains(Layer::new(1, 2))), (Layer::new(2, 2), false));
    // The key frame of the old structure, repaired late, does not bring it back.
    inspect(&mut inspector, &Sender::new(key_svc(0), 0).picture(true)[0]);
    let middle = inspect(&mut inspector, &new.picture(false)[1]);
    assert!(middle.present.contains(Layer::new(2, 2)), "full SVC");
}

/// Forwards a stream to receivers that wish for other layers again and again: everything that a frame refers to went
/// out before it.
fn audit(make: fn(u8) -> StructureDraft, wishes: &[(u8, u8, u8)], keys: &[u8]) -> usize {
    let mut inspector = Inspector::default();
    let mut sender = Sender::new(make(50), 65_500);
    let (mut tuned, mut target) = (None, Layer::HIGHEST);
    let mut sent = std::collections::BTreeSet::new();
    let mut switches = 0;
    let mut wishes = wishes.iter().copied().cycle();
    let mut change_in = 0;
    for picture in 0..200u8 {
        for draft in sender.picture(picture == 0 || keys.contains(&picture)) {
            if change_in == 0 {
                let (spatial, temporal, after) = wishes.next().unwrap();
                (target, change_in) = (Layer::new(spatial, temporal), after);
            }
            change_in -= 1;
            let info = inspect(&mut inspector, &draft);
            let next = info.towards(tuned, target);
            switches += usize::from(next != tuned);
            tuned = next;
            if tuned.is_some_and(|layer| info.present.contains(layer)) {
                for reference in sender.references(&draft) {
                    assert!(sent.contains(&reference), "picture {picture}, {draft:?}, tuned to {tuned:?}");
                }
                sent.insert(draft.frame_number);
            }
        }
    }
    switches
}

#[test]
fn steps_between_layers_reach_their_target() {
    let wishes = [(2, 2, 60), (0, 2, 60), (0, 0, 60), (2, 2, 60), (1, 1, 60)];
    assert!(audit(full_svc, &wishes, &[50, 100, 150]) >= 7);
    assert!(audit(key_svc, &wishes, &[50, 100, 150]) >= 5);
}

fn rows() -> impl Strategy<Value = (Vec<Row>, usize, u8)> {
    // (targets, chains, steps between templates)
    (1usize..=32, 0u8..=3, prop::collection::vec(0u8..3, 0..20)).prop_flat_map(|(targets, chains, steps)| {
        let chains = chains.min(targets as u8);
        let mut layers = vec![(0u8, 0u8)];
        for step in steps {
            let (spatial, temporal) = *layers.last().unwrap();
            match step {
                1 if temporal < 7 => layers.push((spatial, temporal + 1)),
                2 if spatial < 3 => layers.push((spatial + 1, 0)),
                _ => layers.push((spatial, temporal)),
            }
        }
        let rest = (
            prop::collection::vec(0u8..4, targets),
            prop::collection::vec(1u16..=16, 0..8),
            prop::collection::vec(0u8..16, usize::from(chains)),
        );
        let rests = prop::collection::vec(rest, layers.len());
        rests.prop_map(move |rests| {
            let rows = layers.iter().zip(rests);
            let rows = rows.map(|((spatial, temporal), (indications, references, chains))| Row {
                spatial: *spatial,
                temporal: *temporal,
                indications,
                references,
                chains,
            });
            (rows.collect(), targets, chains)
        })
    })
}

fn drafts() -> impl Strategy<Value = Draft> {
    (rows(), 0u8..64, any::<bool>(), any::<(u16, u32, u8, bool, bool)>()).prop_flat_map(
        |(parts, offset, sizes, rest)| {
            let ((rows, targets, chain_count), (frame_number, active, index, start, end)) = (parts, rest);
            let spatial_count = usize::from(rows.last().unwrap().spatial) + 1;
            let template_id = (offset + index % u8::try_from(rows.len()).unwrap()) % 64;
            let resolution = prop::collection::vec((1u16.., 1u16..), if sizes { spatial_count } else { 0 });
            let protected_by = prop::collection::vec(0..chain_count.max(1), targets);
            let custom = (
                prop::option::of(Just(active & (u32::MAX >> (32 - targets)))),
                prop::option::of(prop::collection::vec(0u8..4, targets)),
                prop::option::of(prop::collection::vec(1u16..=4_096, 0..8)),
                prop::option::of(prop::collection::vec(any::<u8>(), usize::from(chain_count))),
            );
            (resolution, protected_by, custom).prop_map(move |(resolutions, protected_by, custom)| {
                let (active_targets, indications, references, chains) = custom;
                let structure = StructureDraft { offset, rows: rows.clone(), protected_by, chain_count, resolutions };
                Draft {
                    start,
                    end,
                    template_id,
                    frame_number,
                    structure: Some(structure),
                    active_targets,
                    indications,
                    references,
                    chains,
                    target_count: targets,
                }
            })
        },
    )
}

fn raw(indications: Indications, targets: usize) -> Vec<u8> {
    (0..targets).map(|target| indications.of(target) as u8).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(draft in drafts()) {
        let bytes = draft.write();
        let own = draft.structure.clone().unwrap();
        let structure = Structure::parse(&bytes).unwrap();
        prop_assert_eq!(structure.template_id_offset(), own.offset);
        prop_assert_eq!(structure.chain_count(), own.chain_count);
        prop_assert_eq!(structure.templates().len(), own.rows.len());
        for (read, row) in structure.templates().iter().zip(&own.rows) {
            prop_assert_eq!(read.layer, Layer::new(row.spatial, row.temporal));
            prop_assert_eq!(raw(read.indications, draft.target_count), row.indications.clone());
            prop_assert_eq!(read.references.distances(), &row.references[..]);
        }
        for (spatial, size) in (0..).zip(&own.resolutions) {
            prop_assert_eq!(structure.resolution(spatial), Some(*size));
        }
        let row = &own.rows[usize::from(draft.template_id.wrapping_sub(own.offset) & 0x3f)];
        // Read with the structure, and then again without it, as later packets come.
        let all = u32::MAX >> (32 - draft.target_count);
        let later = Draft { structure: None, ..draft.clone() };
        for (bytes, active) in [(bytes, draft.active_targets.or(Some(all))), (later.write(), draft.active_targets)] {
            let found = parse(&bytes, &structure).unwrap();
            prop_assert_eq!((found.head.start_of_frame, found.head.end_of_frame), (draft.start, draft.end));
            prop_assert_eq!((found.head.frame_number, found.active_targets), (draft.frame_number, active));
            let indications = draft.indications.as_ref().unwrap_or(&row.indications);
            prop_assert_eq!(&raw(found.indications, draft.target_count), indications);
            prop_assert_eq!(found.references.distances(), &draft.references.as_ref().unwrap_or(&row.references)[..]);
            // A receiver of the layer of a decode target needs what the (first such) target has.
            for (target, layer) in structure.targets().iter().enumerate() {
                if structure.targets()[..target].contains(layer) {
                    continue;
                }
                let indication = found.indications.of(target);
                prop_assert_eq!(found.present.contains(*layer), indication != Indication::NotPresent);
                prop_assert_eq!(found.switchable.contains(*layer), indication == Indication::Switch);
            }
        }
    }

    #[test]
    fn a_moved_descriptor_reads_the_same_but_for_its_numbers(
        draft in drafts(), carried: bool, frames: u16, templates in 0u8..64,
    ) {
        let whole = draft.write();
        let structure = Structure::parse(&whole).unwrap();
        let draft = if carried { draft } else { Draft { structure: None, ..draft } };
        let bytes = draft.write();
        let found = parse(&bytes, &structure).unwrap();
        let (mut copy, mut whole) = (bytes.clone(), whole);
        shift(&mut copy, frames, templates);
        shift(&mut whole, frames, templates);
        let moved_structure = Structure::parse(&whole).unwrap();
        let moved = parse(&copy, &moved_structure).unwrap();
        let head = Head {
            template_id: (found.head.template_id + templates) % 64,
            frame_number: found.head.frame_number.wrapping_add(frames),
            ..found.head
        };
        prop_assert_eq!(moved, Descriptor { head, ..found });
        let offset = (structure.template_id_offset() + templates) % 64;
        prop_assert_eq!(moved_structure, Structure { offset, ..structure });
        shift(&mut copy, frames.wrapping_neg(), templates.wrapping_neg());
        prop_assert_eq!(copy, bytes);
    }

    #[test]
    fn a_shortened_descriptor_is_refused_and_leaves_the_reader_as_it_was(draft in drafts()) {
        let bytes = draft.write();
        let structure = Structure::parse(&bytes).unwrap();
        // Three bytes are a whole descriptor that says nothing more.
        for len in (0..bytes.len()).filter(|len| *len != 3) {
            prop_assert_eq!(parse(&bytes[..len], &structure), None);
            let mut inspector = Inspector::default();
            let info = inspector.inspect(Codec::Av1, 0, &[0x10], false, Some(&bytes[..len]));
            let head = Head::parse(&bytes[..len]).map(|head| head.frame_number);
            prop_assert_eq!((info.frame_number, info.templates, inspector.layers().count()), (head, None, 0));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120), mut copy: [u8; 5]) {
        let mut inspector = Inspector::default();
        inspect(&mut inspector, &Sender::new(full_svc(3), 0).picture(true)[0]);
        let _ = inspector.inspect(Codec::Av1, 0, &bytes, false, Some(&bytes));
        shift(&mut copy, 1, 1);
        shift(&mut copy[..4], 1, 1);
        shift(&mut copy[..2], 1, 1);
    }

    #[test]
    fn no_receiver_gets_a_frame_whose_references_it_did_not_get(
        wishes in prop::collection::vec((0u8..3, 0u8..3, 1u8..30), 1..20),
        keys in prop::collection::vec(1u8..200, 0..6),
    ) {
        audit(full_svc, &wishes, &keys);
        audit(key_svc, &wishes, &keys);
        audit(simulcast, &wishes, &keys);
    }
}
