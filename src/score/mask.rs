//! Which keys a query sees.

use crate::simd::Simd;

/// Which keys the queries of a head see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    pub(crate) kv_len: usize,
    /// Query `i` sees the keys `j <= i + offset`.
    pub(crate) causal_offset: Option<i64>,
}

impl Mask {
    /// What the queries `first .. first + rows` see, `rows >= 1`.
    pub(crate) fn reach(&self, first: usize, rows: usize) -> Reach {
        match self.causal_offset {
            None => Reach::dense(self.kv_len),
            Some(offset) => Reach::causal(offset, first, rows, self.kv_len),
        }
    }
}

/// The keys that a block of queries sees: row `i` of the block sees the keys below `first_end + i * step`, and
/// none at or past `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Keys below this are seen by every query of the block.
    pub(crate) full: usize,
    /// Keys from here on are seen by none.
    pub(crate) end: usize,
    /// One past the last key that the first query would see, were there enough; may lie before the first key.
    first_end: i64,
}

impl Reach {
    /// Every query sees every key.
    pub(crate) const fn dense(kv_len: usize) -> Self {
        Self { full: kv_len, end: kv_len, first_end: i64::MAX }
    }

    /// Query `i` sees key `j` where `j <= i + offset`, for the queries `first .. first + rows`, `rows >= 1`.
    pub(crate) fn causal(offset: i64, first: usize, rows: usize, kv_len: usize) -> Self {
        let end = |i: usize| i64::try_from(i).unwrap_or(i64::MAX).saturating_add(offset).saturating_add(1);
        let clamp = |end: i64| usize::try_from(end.max(0)).unwrap_or(usize::MAX).min(kv_len);
        let first_end = end(first);
        Self { full: clamp(first_end), end: clamp(end(first + (rows - 1))), first_end }
    }

    /// What of it lies in the tile `start .. start + len`.
    #[inline(always)]
    pub(crate) fn tile<S: Simd, const COLS: usize>(&self, simd: S, start: usize, len: usize) -> Visible<S, COLS> {
        let full = self.full.saturating_sub(start).min(len);
        // Exact in f32: past these bounds all queries of a block see all keys of the tile, or none.
        let bound = i64::from(u16::MAX);
        let first_end = self.first_end.saturating_sub(start as i64).clamp(-bound, bound);
        let mut ends = [simd.iota(); COLS];
        for (c, ends) in ends.iter_mut().enumerate() {
            *ends = simd.add(simd.splat((first_end + (c * S::LANES) as i64) as f32), *ends);
        }
        Visible { full, ends }
    }
}

/// The keys of one tile that each lane's query sees: those below `ends`, counted from the tile's first.
pub(crate) struct Visible<S: Simd, const COLS: usize> {
    /// Keys below this are seen by every query.
    pub(crate) full: usize,
    ends: [S::Vector; COLS],
}

impl<S: Simd, const COLS: usize> Visible<S, COLS> {
    /// The queries that see key `j` of the tile.
    #[inline(always)]
    pub(crate) fn lanes(&self, simd: S, j: usize) -> [S::Mask; COLS] {
        let j = simd.splat(j as f32);
        let mut lanes = [simd.less(j, j); COLS];
        for (lanes, ends) in lanes.iter_mut().zip(&self.ends) {
            *lanes = simd.less(j, *ends);
        }
        lanes
    }
}
