//! How queries are divided into units.

use core::num::NonZeroUsize;

use crate::{Shape, kernel::matrices::BLOCKS as MATRIX_BLOCKS, scalar::Scalar, simd::Simd, validate::Call};

/// How the queries of a head are divided into units: runs of blocks, each of `COLS` vectors of queries.
///
/// A block has `narrow` vectors or one more, so that none is much smaller than the others; those with one more come first.
pub(crate) struct Partition {
    /// How many a unit has; several only where one unit has all their queries.
    pub(crate) heads: NonZeroUsize,
    q_len: usize,
    lanes: usize,
    blocks: usize,
    narrow: usize,
    wide_blocks: usize,
    /// Units of wide blocks; those of narrow ones come after.
    wide_units: usize,
    pub(crate) units: usize,
    blocks_per_unit: NonZeroUsize,
}

/// The queries of one unit.
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) cols: usize,
}

impl Partition {
    pub(crate) fn new(q_len: usize, split: &Split) -> Self {
        let &Split { lanes, max_cols, blocks_per_unit, .. } = split;
        let vectors = div_ceil(q_len, lanes);
        let blocks = div_ceil(vectors, max_cols);
        let (narrow, wide_blocks) =
            NonZeroUsize::new(blocks).map_or((0, 0), |blocks| (vectors / blocks, vectors % blocks));
        let units = |blocks: usize| div_ceil(blocks, blocks_per_unit);
        let wide_units = units(wide_blocks);
        let all_units = wide_units + units(blocks - wide_blocks);
        Self {
            heads: NonZeroUsize::MIN,
            q_len,
            lanes: lanes.get(),
            blocks,
            narrow,
            wide_blocks,
            wide_units,
            units: all_units,
            blocks_per_unit,
        }
    }

    /// Heads that share keys and values share vectors too, where all their queries fit into one; else as many of them as have few
    /// queries, if they can be divided evenly.
    pub(crate) fn grouped(self, split: &Split) -> Self {
        let Split { group, few, .. } = *split;
        let have_at_most = |rows: usize, heads: NonZeroUsize| heads.get().saturating_mul(self.q_len) <= rows;
        let heads = if have_at_most(self.lanes, group) {
            Some(group)
        } else {
            let mut numbers = (2..=few).rev().filter_map(NonZeroUsize::new);
            numbers.find(|&heads| group.get().is_multiple_of(heads.get()) && have_at_most(few, heads))
        };
        Self { heads: heads.unwrap_or(NonZeroUsize::MIN), ..self }
    }

    /// The units of all heads, so many.
    pub(crate) fn all_units(&self, heads: usize) -> usize {
        (heads / self.heads).saturating_mul(self.units)
    }

    pub(crate) fn part(&self, unit: usize) -> Part {
        let per_unit = self.blocks_per_unit.get();
        let (block, end, cols) = match unit.checked_sub(self.wide_units) {
            None => (unit * per_unit, self.wide_blocks, self.narrow + 1),
            Some(unit) => (self.wide_blocks + unit * per_unit, self.blocks, self.narrow),
        };
        let blocks = per_unit.min(end - block);
        let first = block * self.narrow + block.min(self.wide_blocks);
        let first = first * self.lanes;
        Part { first, len: (blocks * cols * self.lanes).min(self.q_len - first), cols }
    }
}

/// Without the panic that `usize` keeps for a divisor of zero.
fn div_ceil(number: usize, by: NonZeroUsize) -> usize {
    number / by + usize::from(number % by != 0)
}

/// Bytes of keys and values that stay in a core's cache from one unit to the next.
const CACHED: usize = 1 << 18;

/// Likewise, if they lie so [far apart](Simd::FAR) that they share few of its sets.
const FAR_CACHED: usize = 1 << 16;

/// Bytes of all there is to a call that are probably in a core's cache.
const ALL_CACHED: usize = 1 << 19;

/// Multiply-adds next to which it does not matter what it takes to begin a unit.
const ENOUGH_WORK: usize = 1 << 20;

/// Units that leave the threads of a large machine enough to share out.
const ENOUGH_UNITS: usize = 32;

/// How sequences are divided, whatever their length.
pub(crate) struct Split {
    pub(crate) lanes: NonZeroUsize,
    pub(crate) max_cols: NonZeroUsize,
    pub(crate) blocks_per_unit: NonZeroUsize,
    /// Heads that may share a unit.
    pub(crate) group: NonZeroUsize,
    /// Queries that have [products of their own](crate::kernel::Products::Few), at most.
    pub(crate) few: usize,
    /// Whether to ask for queries and outputs before they are needed.
    pub(crate) asks_ahead: bool,
}

impl Split {
    /// A unit has several blocks where that saves fetching keys and values again for each of them, or where one is over in no time.
    pub(crate) fn new<S: Simd>(simd: S, call: &Call<'_, S::Scalar>) -> Self {
        let (q, kv, value_dim) = (call.queries.shape(), call.kv.shape(), call.kv.value_dim());
        let dims = q.dim.saturating_add(value_dim);
        let bytes = |rows: usize| rows.saturating_mul(dims).saturating_mul(size_of::<f32>());
        let heads = |of: Shape| of.batch.saturating_mul(of.heads);
        let blocks = heads(q).saturating_mul(q.len.div_ceil(S::LANES * S::MAX_COLS));
        let most_blocks = if call.has_pairs(simd).matrices { MATRIX_BLOCKS } else { S::BLOCKS };
        let cached = if call.kv.has_far_values::<S>() { FAR_CACHED } else { CACHED };
        let work = kv.len.saturating_mul(dims).saturating_mul(S::LANES * S::MAX_COLS);
        let wanted = if bytes(kv.len) <= cached { ENOUGH_WORK / work.max(1) } else { blocks / ENOUGH_UNITS };
        let blocks_per_unit = wanted.min(most_blocks);
        let [queries, keys] = [q, kv].map(|of| heads(of).saturating_mul(of.len));
        let asks_ahead = bytes(queries.saturating_add(keys)) > ALL_CACHED;
        let split = Self { asks_ahead, ..Self::with_blocks(simd, blocks_per_unit) };
        if call.is_projected { split } else { Self { group: call.group, ..split } }
    }

    /// With so many blocks in a unit, at least one, and heads by themselves.
    pub(crate) fn with_blocks<S: Simd>(_: S, blocks_per_unit: usize) -> Self {
        let [lanes, max_cols, blocks_per_unit] = [S::LANES, S::MAX_COLS, blocks_per_unit]
            .map(|number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN));
        Self { lanes, max_cols, blocks_per_unit, group: NonZeroUsize::MIN, few: S::FEW, asks_ahead: true }
    }

    pub(crate) fn sequence(&self, call: &Call<'_, impl Scalar>, sequence: usize) -> Partition {
        Partition::new(call.queries_of(sequence).len(), self).grouped(self)
    }
}
