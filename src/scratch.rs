//! The working memory of a unit, carved from a slice that the caller owns.

use crate::{
    Error,
    simd::{Portable, Simd},
};

/// Elements that a unit takes, with room to align the first vector.
const fn required<S: Simd>(head_dim: usize, value_dim: usize) -> usize {
    let rows = head_dim.saturating_add(value_dim).saturating_mul(S::BLOCKS).saturating_add(S::KEY_TILE);
    // Few queries have whole vectors of columns each: at most one more of them than `value_dim` takes.
    let rows = rows.saturating_add(S::LANES);
    rows.saturating_mul(S::MAX_COLS * S::LANES).saturating_add(S::LANES - 1)
}

/// Elements of scratch that one thread needs, whatever the backend, `q_len`, `kv_len` and number of heads.
///
/// Saturates at `usize::MAX`, which no slice has.
///
/// ```
/// use simd_attention::scratch_len;
/// static SCRATCH: [f32; scratch_len(64, 64)] = [0.0; scratch_len(64, 64)];
/// ```
#[must_use]
pub const fn scratch_len(head_dim: usize, value_dim: usize) -> usize {
    let most = required::<Portable>(head_dim, value_dim);
    #[cfg(target_arch = "x86_64")]
    let most = {
        let avx2 = required::<crate::simd::Avx2>(head_dim, value_dim);
        let avx512 = required::<crate::simd::Avx512>(head_dim, value_dim);
        let most = if avx2 > most { avx2 } else { most };
        if avx512 > most { avx512 } else { most }
    };
    most
}

/// The elements of a row of vectors, lane after lane.
#[inline(always)]
pub(crate) fn elements<S: Simd, const COLS: usize>(row: &[S::Vector; COLS]) -> &[f32] {
    // SAFETY: vectors are `LANES` `f32`, with no padding (see `Simd::Vector`).
    unsafe { core::slice::from_raw_parts(row.as_ptr().cast(), COLS * S::LANES) }
}

/// Whether there is as much scratch as is needed.
pub(crate) const fn check(required: usize, scratch: &[f32]) -> Result<(), Error> {
    let actual = scratch.len();
    if actual < required { Err(Error::ScratchTooShort { required, actual }) } else { Ok(()) }
}

/// Rows of `COLS` vectors to be handed out.
pub(crate) struct Scratch<'s, S: Simd, const COLS: usize> {
    rows: &'s mut [[S::Vector; COLS]],
}

impl<'s, S: Simd, const COLS: usize> Scratch<'s, S, COLS> {
    #[inline(always)]
    pub(crate) fn new(scratch: &'s mut [f32]) -> Self {
        // SAFETY: vectors are `LANES` `f32`, any bits of which are valid, with no padding (see `Simd::Vector`).
        let (_, vectors, _) = unsafe { scratch.align_to_mut::<S::Vector>() };
        Self { rows: vectors.as_chunks_mut().0 }
    }

    /// Rows for the scores of a tile of keys; `None` only if the scratch was shorter than [`scratch_len`].
    #[inline(always)]
    pub(crate) fn score_tile(&mut self) -> Option<&'s mut [[S::Vector; COLS]]> {
        self.take(S::KEY_TILE)
    }

    /// The next rows; `None` only if the scratch was shorter than [`scratch_len`].
    #[inline(always)]
    pub(crate) fn take(&mut self, rows: usize) -> Option<&'s mut [[S::Vector; COLS]]> {
        let (taken, rest) = core::mem::take(&mut self.rows).split_at_mut_checked(rows)?;
        self.rows = rest;
        Some(taken)
    }
}
