//! Which keys a query sees: all kinds of masks, owned, and what they mean, stated once more.

use super::{
    random::Random,
    rules::MaskRule,
    tensor::{Extent, Row, Tensor},
};
use core::ops::Range;
use simd_attention::{Attention, Error, Mask, Score, Shape, Window};

/// What position alone decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Band {
    pub causal: bool,
    pub window: Window,
    pub offset: Option<i64>,
}

impl Band {
    pub const DENSE: Self = Self { causal: false, window: Window { left: None, right: None }, offset: None };
    /// Bottom-right aligned.
    pub const CAUSAL: Self = Self { causal: true, ..Self::DENSE };

    /// Query `i` sees the keys `j <= i + offset`.
    pub const fn offset(offset: i64) -> Self {
        Self { offset: Some(offset), ..Self::CAUSAL }
    }

    /// So many keys to the left and right of the diagonal.
    pub const fn window(left: Option<usize>, right: Option<usize>) -> Self {
        Self { window: Window { left, right }, ..Self::DENSE }
    }

    fn sees(&self, distance: i128) -> bool {
        let Window { left, right } = self.window;
        (!self.causal || distance <= 0)
            && left.is_none_or(|left| distance >= -(left as i128))
            && right.is_none_or(|right| distance <= right as i128)
    }
}

/// How many keys the sequences have.
#[derive(Clone, Copy, Debug)]
pub enum Lens {
    /// As many as there is room for.
    Full,
    /// So many each.
    Each(usize),
    Random,
}

/// A [`Mask`] in numbers.
#[derive(Clone, Copy, Debug)]
pub struct GridPlan {
    pub bits: bool,
    /// Queries and keys that an element speaks for.
    pub block: [usize; 2],
    /// Along batch, heads, queries and keys; bits are not repeated along the keys.
    pub extents: [Extent; 4],
    /// How many elements of eight let a query attend.
    pub eighths: usize,
}

impl GridPlan {
    /// Half of the pairs, each with an element of its own.
    pub const HALF: Self = Self { bits: false, block: [1, 1], extents: [Extent::Own; 4], eighths: 4 };

    /// `shape` is that of the scores.
    pub fn grid(&self, shape: Shape, random: &mut Random) -> Grid {
        let Self { bits, block, extents, eighths } = *self;
        let blocks = Shape { len: shape.len.div_ceil(block[0]), dim: shape.dim.div_ceil(block[1]), ..shape };
        let elements = if bits {
            let [batch, heads, queries, _] = extents;
            let bytes = Shape { dim: blocks.dim.div_ceil(8), ..blocks };
            let mut byte = || (0..8).fold(0, |byte, _| byte << 1 | u8::from(random.eighths(eighths)));
            Elements::Bits(Tensor::repeated(bytes, [batch, heads, queries, Extent::Own], &mut byte))
        } else {
            Elements::Bools(Tensor::repeated(blocks, extents, || random.eighths(eighths)))
        };
        Grid { elements, block }
    }
}

/// A [`Mask`], owned.
#[derive(Clone, Debug)]
pub struct Grid {
    pub elements: Elements,
    pub block: [usize; 2],
}

#[derive(Clone, Debug)]
pub enum Elements {
    Bools(Tensor<bool>),
    Bits(Tensor<u8>),
}

impl Grid {
    fn mask(&self) -> Result<Mask<'_>, Error> {
        let mask = match &self.elements {
            Elements::Bools(tensor) => Mask::new(tensor.view()?),
            Elements::Bits(tensor) => Mask::bits(tensor.view()?),
        };
        let [queries, keys] = self.block;
        // Without asking for blocks, elements speak for themselves.
        Ok(if self.block == [1, 1] { mask } else { mask.blocks(queries, keys) })
    }

    fn sees(&self, [b, h, i]: Row, j: usize) -> bool {
        let (row, j) = ([b, h, i / self.block[0]], j / self.block[1]);
        match &self.elements {
            Elements::Bools(tensor) => tensor.at(row, j).unwrap_or(false),
            Elements::Bits(tensor) => tensor.at(row, j / 8).is_some_and(|byte| byte >> (j % 8) & 1 == 1),
        }
    }

    /// Query `i` alone.
    fn part(&self, batch: usize, i: usize) -> Self {
        let row = i / self.block[0];
        let elements = match &self.elements {
            Elements::Bools(tensor) => Elements::Bools(tensor.part(batch, row, 1)),
            Elements::Bits(tensor) => Elements::Bits(tensor.part(batch, row, 1)),
        };
        Self { elements, block: self.block }
    }
}

/// All that decides which keys a query sees, but for a bias of -infinity.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    pub band: Band,
    pub lens: Option<Vec<usize>>,
    /// Where packed sequences begin and end, among queries and among keys.
    pub packed: Option<[Vec<usize>; 2]>,
    pub mask: Option<Grid>,
    pub block_mask: Option<Grid>,
    pub rule: Option<MaskRule>,
}

/// Queries and keys that belong together, as indices into the whole call's.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub index: usize,
    pub batch: usize,
    pub queries: Range<usize>,
    pub room: Range<usize>,
    pub kv_len: usize,
    /// Query `i` stands at key `i + diagonal`.
    pub diagonal: i128,
}

impl Sequence {
    /// How far after the key at which query `i` of the call stands key `j` of the call is.
    pub fn distance(&self, i: usize, j: usize) -> i128 {
        let (i, j) = (i - self.queries.start, j as i128 - self.room.start as i128);
        j - (i as i128 + self.diagonal)
    }

    /// The offset with which a call stands as it does that begins at one of the sequence's queries.
    fn offset(&self, query: usize) -> i64 {
        (self.diagonal + query as i128).min(i64::MAX.into()) as i64
    }
}

impl Pattern {
    /// What can be said without a closure.
    pub fn apply<'a, F: Score>(&'a self, mut attention: Attention<'a, F>) -> Result<Attention<'a, F>, Error> {
        let Self { band: Band { causal, window, offset }, packed, mask, block_mask, .. } = self;
        attention = attention.window(*window);
        if *causal {
            attention = attention.causal();
        }
        if let Some(offset) = offset {
            attention = attention.offset(*offset);
        }
        if let Some([queries, keys]) = packed {
            attention = attention.packed(queries, keys);
        }
        if let Some(mask) = mask {
            attention = attention.mask(mask.mask()?);
        }
        if let Some(mask) = block_mask {
            attention = attention.block_mask(mask.mask()?);
        }
        Ok(attention)
    }

    /// Of a call with queries of this shape, and room for so many keys.
    pub fn sequences(&self, q: Shape, kv_len: usize) -> Vec<Sequence> {
        let count = self.packed.as_ref().map_or(q.batch, |[queries, _]| queries.len().saturating_sub(1));
        let sequence = |index| {
            let (batch, queries, room) = match &self.packed {
                None => (index, 0..q.len, 0..kv_len),
                Some([queries, keys]) => (0, queries[index]..queries[index + 1], keys[index]..keys[index + 1]),
            };
            let kv_len = self.lens.as_ref().map_or(room.len(), |lens| lens[index]);
            let diagonal = self.band.offset.map_or(kv_len as i128 - queries.len() as i128, i128::from);
            Sequence { index, batch, queries, room, kv_len, diagonal }
        };
        (0..count).map(sequence).collect()
    }

    /// Whether a query of a sequence sees a key; both are counted as in the whole call.
    pub fn sees(&self, sequence: &Sequence, row @ [_, h, i]: Row, j: usize) -> bool {
        let Sequence { index, room, kv_len, queries, .. } = sequence;
        room.contains(&j)
            && j - room.start < *kv_len
            && self.band.sees(sequence.distance(i, j))
            && [&self.mask, &self.block_mask].into_iter().flatten().all(|mask| mask.sees(row, j))
            && self.rule.is_none_or(|rule| rule.sees([*index, h, i - queries.start, j - room.start]))
    }

    /// That of query `i` of a sequence in a call of its own, with all keys of the batch's sequence.
    pub fn alone(&self, sequence: &Sequence, i: usize) -> Self {
        let part = |mask: &Option<Grid>| mask.as_ref().map(|mask| mask.part(sequence.batch, i));
        let query = i - sequence.queries.start;
        Self {
            band: Band { offset: Some(sequence.offset(query)), ..self.band },
            lens: self.lens.as_ref().map(|_| vec![sequence.kv_len]),
            packed: self.packed.as_ref().map(|_| [vec![0, 1], vec![sequence.room.start, sequence.room.end]]),
            mask: part(&self.mask),
            block_mask: part(&self.block_mask),
            rule: self.rule.map(|rule| rule.moved(sequence.index, query)),
        }
    }

    /// That of the call of which only some queries of a sequence are computed, of a batch of one.
    pub fn only(&self, sequence: &Sequence, queries: Range<usize>) -> Self {
        let first = queries.start - sequence.queries.start;
        Self {
            band: Band { offset: Some(sequence.offset(first)), ..self.band },
            lens: Some(vec![sequence.kv_len]),
            packed: Some([vec![queries.start, queries.end], vec![sequence.room.start, sequence.room.end]]),
            rule: self.rule.map(|rule| rule.moved(sequence.index, first)),
            ..self.clone()
        }
    }
}

/// So many packed sequences in all of `len` tokens or fewer: where they begin and end.
pub fn cumulative(sequences: usize, len: usize, random: &mut Random) -> Vec<usize> {
    let mut ends: Vec<usize> = (0..=sequences).map(|_| random.below(len + 1)).collect();
    ends.sort_unstable();
    // Mostly all of them belong to a sequence.
    if random.eighths(6) {
        (ends[0], ends[sequences]) = (0, len);
    }
    ends
}
