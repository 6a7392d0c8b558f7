//! The working memory of a query block, carved from a slice that the caller owns.

use crate::simd::{Portable, Simd};

/// Elements that [`Tiles::carve`] takes, with room to align the first vector.
const fn required<S: Simd>(head_dim: usize, value_dim: usize) -> usize {
    let rows = head_dim.saturating_add(value_dim).saturating_add(score_rows::<S>());
    rows.saturating_mul(S::MAX_COLS * S::LANES).saturating_add(S::LANES - 1)
}

/// A tile of scores is written whole register tiles at a time, the last of which may reach past the last key.
const fn score_rows<S: Simd>() -> usize {
    S::KEY_TILE + S::MAX_ROWS
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

/// The three tiles of one block of `COLS` vectors of queries; each query owns a lane.
pub(crate) struct Tiles<'s, S: Simd, const COLS: usize> {
    /// `[head_dim][queries]`
    pub(crate) queries: &'s mut [[S::Vector; COLS]],
    /// `[keys of a tile][queries]`
    pub(crate) scores: &'s mut [[S::Vector; COLS]],
    /// `[value_dim][queries]`
    pub(crate) output: &'s mut [[S::Vector; COLS]],
}

impl<'s, S: Simd, const COLS: usize> Tiles<'s, S, COLS> {
    /// `None` only if `scratch` is shorter than [`scratch_len`].
    #[inline(always)]
    pub(crate) fn carve(scratch: &'s mut [f32], head_dim: usize, value_dim: usize) -> Option<Self> {
        // SAFETY: vectors are `LANES` `f32`, any bits of which are valid, with no padding (see `Simd::Vector`).
        let (_, vectors, _) = unsafe { scratch.align_to_mut::<S::Vector>() };
        let (rows, _) = vectors.as_chunks_mut::<COLS>();
        let (queries, rows) = rows.split_at_mut_checked(head_dim)?;
        let (output, rows) = rows.split_at_mut_checked(value_dim)?;
        let (scores, _) = rows.split_at_mut_checked(score_rows::<S>())?;
        Some(Self { queries, scores, output })
    }
}
