//! Layers inside one stream, and sets of them.

use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign};

/// What a receiver may be tuned to, and what a frame belongs to: a spatial and a temporal layer. Both count from 0, the
/// lowest.
///
/// Ordered by spatial layer, then by temporal layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Layer(u8);

impl Layer {
    /// Spatial layers that are told apart.
    pub const SPATIAL: u8 = 4;
    /// Temporal layers that are told apart.
    pub const TEMPORAL: u8 = 8;
    /// The lowest layer.
    pub const LOWEST: Self = Self(0);
    /// The highest: everything there is.
    pub const HIGHEST: Self = Self(31);

    /// Spatial 0…3, temporal 0…7. What is above counts as the highest: VP9 may name eight spatial layers, nobody sends
    /// them.
    pub const fn new(spatial: u8, temporal: u8) -> Self {
        let spatial = if spatial < Self::SPATIAL { spatial } else { Self::SPATIAL - 1 };
        let temporal = if temporal < Self::TEMPORAL { temporal } else { Self::TEMPORAL - 1 };
        Self(spatial * Self::TEMPORAL + temporal)
    }

    /// 0…3.
    pub const fn spatial(self) -> u8 {
        self.0 / Self::TEMPORAL
    }

    /// 0…7.
    pub const fn temporal(self) -> u8 {
        self.0 % Self::TEMPORAL
    }

    /// `spatial * 8 + temporal`, 0…31.
    pub const fn index(self) -> u8 {
        self.0
    }
}

/// A set of layers: bit `n` stands for the layer with index `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LayerMask(u32);

impl LayerMask {
    /// No layer.
    pub const EMPTY: Self = Self(0);
    /// Every layer.
    pub const ALL: Self = Self(u32::MAX);

    /// One layer.
    pub const fn only(layer: Layer) -> Self {
        Self(1 << layer.0)
    }

    /// Every pair of one of these spatial layers (bits 0…3) and one of these temporal layers (bits 0…7).
    pub const fn product(spatial_bits: u8, temporal_bits: u8) -> Self {
        let spatial = spatial_bits as u32;
        // One bit at the foot of each chosen spatial layer's byte.
        let feet = (spatial & 1) | ((spatial & 2) << 7) | ((spatial & 4) << 14) | ((spatial & 8) << 21);
        Self(feet * temporal_bits as u32)
    }

    /// Whether the set has this layer.
    pub const fn contains(self, layer: Layer) -> bool {
        self.0 >> layer.0 & 1 != 0
    }

    /// Whether the set has all of the other.
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Puts a layer in.
    pub const fn insert(&mut self, layer: Layer) {
        self.0 |= 1 << layer.0;
    }

    /// The highest layer of the set.
    pub const fn highest(self) -> Option<Layer> {
        match self.0.checked_ilog2() {
            Some(index) => Some(Layer(index as u8)),
            None => None,
        }
    }

    /// The highest temporal layer of any spatial one; 0 for the empty set.
    pub const fn highest_temporal(self) -> u8 {
        let bits = (self.0 | self.0 >> 8 | self.0 >> 16 | self.0 >> 24) & 0xff;
        match bits.checked_ilog2() {
            Some(temporal) => temporal as u8,
            None => 0,
        }
    }

    /// The layers, ascending.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        (0..32).map(Layer).filter(move |layer| self.contains(*layer))
    }
}

impl BitAnd for LayerMask {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for LayerMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAndAssign for LayerMask {
    fn bitand_assign(&mut self, other: Self) {
        self.0 &= other.0;
    }
}

impl BitOrAssign for LayerMask {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl FromIterator<Layer> for LayerMask {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        let mut mask = Self::EMPTY;
        layers.into_iter().for_each(|layer| mask.insert(layer));
        mask
    }
}

/// Bits from `first` upwards, of eight.
pub(crate) const fn from(first: u8) -> u8 {
    if first >= 8 { 0 } else { 0xff << first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_above_the_highest_count_as_the_highest() {
        let layer = Layer::new(7, 9);
        assert_eq!((layer.spatial(), layer.temporal(), layer), (3, 7, Layer::HIGHEST));
    }

    #[test]
    fn a_product_holds_every_pair_and_nothing_else() {
        let mask = LayerMask::product(0b0110, from(6));
        let pairs: Vec<_> = mask.iter().map(|layer| (layer.spatial(), layer.temporal())).collect();
        assert_eq!(pairs, [(1, 6), (1, 7), (2, 6), (2, 7)]);
        assert_eq!(mask, pairs.iter().map(|(s, t)| Layer::new(*s, *t)).collect());
        assert_eq!(LayerMask::product(0xff, 0xff), LayerMask::ALL);
        assert_eq!(mask.highest(), Some(Layer::new(2, 7)));
        assert_eq!(LayerMask::product(0b0011, 0b0010).highest_temporal(), 1);
    }
}
