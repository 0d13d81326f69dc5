//! The dependency descriptor (AV1 RTP payload specification, appendix A), written and read whole, independently of the bridge.

use crate::bits::{BitReader, BitWriter};

/// One frame's descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Descriptor {
    pub(crate) start: bool,
    pub(crate) end: bool,
    /// Template id, 0…63.
    pub(crate) template: u8,
    /// Frame number modulo 2¹⁶.
    pub(crate) number: u16,
    pub(crate) structure: Option<Structure>,
    /// Bit by decode target: those that are sent.
    pub(crate) active: Option<u32>,
    pub(crate) custom_dtis: Option<Vec<u8>>,
    pub(crate) custom_fdiffs: Option<Vec<u32>>,
    pub(crate) custom_chains: Option<Vec<u32>>,
}

/// What key frames say of the frames to come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Structure {
    /// Id of the first template.
    pub(crate) offset: u8,
    pub(crate) targets: usize,
    /// By target.
    pub(crate) protected_by: Vec<u8>,
    pub(crate) chains: usize,
    /// Ordered by spatial, then by temporal layer.
    pub(crate) templates: Vec<Template>,
    /// Width and height by spatial layer.
    pub(crate) resolutions: Vec<(u16, u16)>,
}

/// One kind of frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Template {
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
    /// By target: 0 not present, 1 discardable, 2 switch, 3 required.
    pub(crate) dtis: Vec<u8>,
    /// How many frames ago what it needs is.
    pub(crate) fdiffs: Vec<u32>,
    /// By chain: how many frames ago its last frame is; 0 for none.
    pub(crate) chains: Vec<u32>,
}

/// What a frame needs, templates and exceptions put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
    pub(crate) fdiffs: Vec<u32>,
}

impl Descriptor {
    /// Writes it. `targets`: how many the structure in force has.
    pub(crate) fn write(&self, targets: usize) -> Vec<u8> {
        let mut bits = BitWriter::default();
        bits.put(u32::from(self.start), 1);
        bits.put(u32::from(self.end), 1);
        bits.put(self.template.into(), 6);
        bits.put(self.number.into(), 16);
        let optional = [
            self.structure.is_some(),
            self.active.is_some(),
            self.custom_dtis.is_some(),
            self.custom_fdiffs.is_some(),
            self.custom_chains.is_some(),
        ];
        if optional == [false; 5] {
            return bits.into_bytes();
        }
        optional.iter().for_each(|flag| bits.put(u32::from(*flag), 1));
        if let Some(structure) = &self.structure {
            structure.write(&mut bits);
        }
        if let Some(active) = self.active {
            bits.put(active, u32::try_from(targets).unwrap_or(32));
        }
        for dti in self.custom_dtis.iter().flatten() {
            bits.put((*dti).into(), 2);
        }
        if let Some(fdiffs) = &self.custom_fdiffs {
            for fdiff in fdiffs {
                let nibbles = if *fdiff <= 16 { 1 } else { 2 };
                bits.put(nibbles, 2);
                bits.put(fdiff - 1, 4 * nibbles);
            }
            bits.put(0, 2);
        }
        for chain in self.custom_chains.iter().flatten() {
            bits.put((*chain).min(255), 8);
        }
        bits.into_bytes()
    }

    /// Reads it. `known` is the structure in force, which a frame that carries one replaces.
    pub(crate) fn parse(bytes: &[u8], known: Option<&Structure>) -> Option<Self> {
        let mut bits = BitReader::new(bytes);
        let mut descriptor = Self {
            start: bits.flag()?,
            end: bits.flag()?,
            template: u8::try_from(bits.take(6)?).ok()?,
            number: u16::try_from(bits.take(16)?).ok()?,
            ..Self::default()
        };
        if bytes.len() <= 3 {
            return Some(descriptor);
        }
        let [structure, active, dtis, fdiffs, chains] =
            [bits.flag()?, bits.flag()?, bits.flag()?, bits.flag()?, bits.flag()?];
        if structure {
            descriptor.structure = Some(Structure::read(&mut bits)?);
        }
        let known = descriptor.structure.as_ref().or(known)?;
        let (targets, chain_count) = (known.targets, known.chains);
        if active {
            descriptor.active = Some(bits.take(u32::try_from(targets).ok()?)?);
        }
        if dtis {
            descriptor.custom_dtis = Some(read_dtis(&mut bits, targets)?);
        }
        if fdiffs {
            let mut all = Vec::new();
            loop {
                match bits.take(2)? {
                    0 => break,
                    nibbles => all.push(bits.take(4 * nibbles)? + 1),
                }
            }
            descriptor.custom_fdiffs = Some(all);
        }
        if chains {
            descriptor.custom_chains = Some((0..chain_count).map(|_| bits.take(8)).collect::<Option<_>>()?);
        }
        Some(descriptor)
    }

    /// Whether these bytes carry a structure.
    pub(crate) fn has_structure(bytes: &[u8]) -> bool {
        bytes.get(3).is_some_and(|flags| flags & 0x80 != 0)
    }

    /// What the frame needs; `None` when its template is not one of the structure's.
    pub(crate) fn resolve(&self, structure: &Structure) -> Option<Resolved> {
        let index = self.template.wrapping_sub(structure.offset) & 0x3f;
        let template = structure.templates.get(usize::from(index))?;
        let fdiffs = self.custom_fdiffs.clone().unwrap_or_else(|| template.fdiffs.clone());
        Some(Resolved { spatial: template.spatial, temporal: template.temporal, fdiffs })
    }
}

impl Structure {
    fn write(&self, bits: &mut BitWriter) {
        let targets = u32::try_from(self.targets).unwrap_or(1).max(1);
        bits.put(self.offset.into(), 6);
        bits.put(targets - 1, 5);
        for (index, template) in self.templates.iter().enumerate() {
            let Some(next) = self.templates.get(index + 1) else { break };
            let step = match (next.spatial == template.spatial, next.temporal == template.temporal) {
                (true, true) => 0,
                (true, false) => 1,
                (false, _) => 2,
            };
            bits.put(step, 2);
        }
        bits.put(3, 2);
        for dti in self.templates.iter().flat_map(|template| &template.dtis) {
            bits.put((*dti).into(), 2);
        }
        for template in &self.templates {
            for fdiff in &template.fdiffs {
                bits.put(1, 1);
                bits.put(fdiff - 1, 4);
            }
            bits.put(0, 1);
        }
        let chains = u32::try_from(self.chains).unwrap_or(0);
        bits.put_non_symmetric(chains, targets + 1);
        if chains > 0 {
            self.protected_by.iter().for_each(|chain| bits.put_non_symmetric((*chain).into(), chains));
            self.templates.iter().flat_map(|template| &template.chains).for_each(|diff| bits.put(*diff, 4));
        }
        bits.put(u32::from(!self.resolutions.is_empty()), 1);
        for (width, height) in &self.resolutions {
            bits.put(u32::from(*width) - 1, 16);
            bits.put(u32::from(*height) - 1, 16);
        }
    }

    fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        let offset = u8::try_from(bits.take(6)?).ok()?;
        let targets = usize::try_from(bits.take(5)? + 1).ok()?;
        let mut templates = vec![Template::default()];
        loop {
            let (spatial, temporal) = templates.last().map(|last| (last.spatial, last.temporal))?;
            let (spatial, temporal) = match bits.take(2)? {
                0 => (spatial, temporal),
                1 => (spatial, temporal + 1),
                2 => (spatial + 1, 0),
                _ => break,
            };
            templates.push(Template { spatial, temporal, ..Template::default() });
        }
        for template in &mut templates {
            template.dtis = read_dtis(bits, targets)?;
        }
        for template in &mut templates {
            while bits.flag()? {
                template.fdiffs.push(bits.take(4)? + 1);
            }
        }
        let chains = bits.take_non_symmetric(u32::try_from(targets).ok()? + 1)?;
        let mut protected_by = Vec::new();
        if chains > 0 {
            for _ in 0..targets {
                protected_by.push(u8::try_from(bits.take_non_symmetric(chains)?).ok()?);
            }
            for template in &mut templates {
                template.chains = (0..chains).map(|_| bits.take(4)).collect::<Option<_>>()?;
            }
        }
        let mut resolutions = Vec::new();
        if bits.flag()? {
            let spatial_layers = templates.last().map_or(0, |last| last.spatial) + 1;
            for _ in 0..spatial_layers {
                let size = (bits.take(16)? + 1, bits.take(16)? + 1);
                resolutions.push((u16::try_from(size.0).ok()?, u16::try_from(size.1).ok()?));
            }
        }
        let chains = usize::try_from(chains).ok()?;
        Some(Self { offset, targets, protected_by, chains, templates, resolutions })
    }
}

fn read_dtis(bits: &mut BitReader<'_>, targets: usize) -> Option<Vec<u8>> {
    (0..targets).map(|_| bits.take(2).and_then(|dti| u8::try_from(dti).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure() -> Structure {
        let template = |spatial, temporal, fdiffs: &[u32], chains: &[u32]| Template {
            spatial,
            temporal,
            dtis: vec![2, 1, 0, 3],
            fdiffs: fdiffs.to_vec(),
            chains: chains.to_vec(),
        };
        Structure {
            offset: 62,
            targets: 4,
            protected_by: vec![0, 0, 1, 1],
            chains: 2,
            templates: vec![
                template(0, 0, &[], &[0, 0]),
                template(0, 0, &[4], &[4, 3]),
                template(0, 1, &[2], &[2, 1]),
                template(1, 0, &[4, 1], &[1, 4]),
            ],
            resolutions: vec![(320, 180), (640, 360)],
        }
    }

    #[test]
    fn a_structure_and_all_exceptions_survive_the_wire() {
        let structure = structure();
        let key =
            Descriptor { start: true, number: 65_535, structure: Some(structure.clone()), ..Descriptor::default() };
        let bytes = key.write(4);
        assert!(Descriptor::has_structure(&bytes));
        assert_eq!(Descriptor::parse(&bytes, None), Some(key));
        let special = Descriptor {
            end: true,
            template: 1,
            number: 7,
            active: Some(0b0011),
            custom_dtis: Some(vec![0, 1, 2, 3]),
            custom_fdiffs: Some(vec![1, 17, 200]),
            custom_chains: Some(vec![9, 255]),
            ..Descriptor::default()
        };
        let bytes = special.write(4);
        assert_eq!(Descriptor::parse(&bytes, Some(&structure)), Some(special.clone()));
        // Template 1 is the fourth: ids start with 62 and wrap after 63.
        let resolved = special.resolve(&structure).unwrap();
        assert_eq!((resolved.spatial, resolved.temporal, resolved.fdiffs), (1, 0, vec![1, 17, 200]));
        assert_eq!(Descriptor { template: 2, ..special }.resolve(&structure), None);
    }

    #[test]
    fn a_plain_frame_has_three_bytes() {
        let plain = Descriptor { start: true, end: true, template: 63, number: 258, ..Descriptor::default() };
        assert_eq!(plain.write(4), [0xff, 1, 2]);
        assert_eq!(Descriptor::parse(&[0xff, 1, 2], None), Some(plain));
    }
}
