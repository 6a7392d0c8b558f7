//! The working memory of a unit, carved from a slice that the caller owns.

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::{
    Error,
    kernel::{MatricesOf, Products, matrices::BLOCKS as MATRIX_BLOCKS},
    ranges::Partial,
    simd::{Bf16Pairs, CACHE_LINE, Double, Matrices, Portable, Simd},
    softmax::FEW_TILES,
};

const fn larger(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// The larger of what a backend needs for either type that is computed in.
macro_rules! of_both {
    ($of:ident::<$backend:ident>($($argument:expr),*)) => {
        larger($of::<$backend>($($argument),*), $of::<Double<$backend>>($($argument),*))
    };
}

/// The largest of what backends need.
macro_rules! largest {
    ($of:ident($($argument:expr),*)) => {{
        let most = of_both!($of::<Portable>($($argument),*));
        #[cfg(target_arch = "x86_64")]
        let most = larger(larger(most, of_both!($of::<Avx2>($($argument),*))), of_both!($of::<Avx512>($($argument),*)));
        most
    }};
}

/// Rows of so many vectors for the scores of a tile of keys. Where there is but one vector, it may be of few queries, which want more.
const fn score_rows<S: Simd>(cols: usize) -> usize {
    if cols > 1 { S::KEY_TILE } else { S::KEY_TILE + FEW_TILES * S::FEW * (S::KEY_TILE / S::LANES) }
}

/// Elements that a unit takes, with room to align the first vector, and for the results over two ranges of keys.
const fn required<S: Simd>(head_dim: usize, value_dim: usize) -> usize {
    let dims = head_dim.saturating_add(value_dim);
    // Few queries have whole vectors of elements each: for queries and output at most one more of them than the dimensions take.
    let few = dims.saturating_add(2 * S::LANES + score_rows::<S>(1));
    let many = dims.saturating_mul(S::BLOCKS).saturating_add(score_rows::<S>(S::MAX_COLS));
    let many = many.saturating_mul(S::MAX_COLS);
    let vectors = if few > many { few } else { many };
    let partials = Partial::<S::Scalar>::len(2 * S::FEW, value_dim);
    let others = (S::LANES - 1).saturating_add(partials).saturating_add(copied::<S>(value_dim));
    vectors.saturating_mul(S::LANES).saturating_add(others)
}

/// Elements that a copy of a tile's values takes, if they lie [far apart](Simd::FAR), with a whole row of vectors.
const fn copied<S: Simd>(value_dim: usize) -> usize {
    if S::FAR.is_none() {
        return 0;
    }
    spacing::<S>(value_dim).saturating_mul(S::KEY_TILE).saturating_add(S::MAX_COLS * S::LANES)
}

/// Elements from one row of a tile in scratch to the next: an odd number of cache lines, so that rows do not share but a few sets of a cache.
pub(crate) const fn spacing<S: Simd>(dim: usize) -> usize {
    let line = CACHE_LINE / size_of::<S::Scalar>();
    if S::FAR.is_none() { dim } else { (dim.div_ceil(line) | 1).saturating_mul(line) }
}

/// Elements of scratch that one thread needs, whatever the backend, `q_len`, `kv_len` and number of heads; of `f64`, where that is computed in, else of
/// `f32`.
///
/// Saturates at `usize::MAX`, which no slice has.
///
/// ```
/// use simd_attention::scratch_len;
/// static SCRATCH: [f32; scratch_len(64, 64)] = [0.0; scratch_len(64, 64)];
/// ```
#[must_use]
pub const fn scratch_len(head_dim: usize, value_dim: usize) -> usize {
    largest!(required(head_dim, value_dim))
}

/// Elements that a tile of keys and one of values take, as `f32` or pairs of smaller ones, with whole rows of vectors for each; and scores of as long
/// a tile as pairs have. The room for [copies](copied), which are not made of such values, is part of it.
const fn staging<S: Simd>(head_dim: usize, value_dim: usize) -> usize {
    let single = spacing::<S>(head_dim).saturating_add(spacing::<S>(value_dim));
    let paired = padded::<S>(head_dim).saturating_add(padded::<S>(value_dim));
    let single = single.saturating_mul(staged_rows::<S>(Products::Many));
    let paired = paired.saturating_mul(staged_rows::<S>(Products::ManyInPairs));
    let rows = (2 + S::Bf16Pairs::KEY_TILE).saturating_add(matrix_rows::<S>(head_dim, value_dim));
    let tiles = larger(single, paired).saturating_sub(copied::<S>(value_dim));
    tiles.saturating_add(rows.saturating_mul(S::MAX_COLS * S::LANES))
}

/// Rows of vectors that queries and outputs of matrices take besides [those of others](required): whole ones, and of more blocks.
const fn matrix_rows<S: Simd>(head_dim: usize, value_dim: usize) -> usize {
    let rows = MatricesOf::<S>::ROWS;
    if rows == 1 {
        return 0;
    }
    let all = head_dim.saturating_add(value_dim).saturating_add(2 * rows).saturating_mul(MATRIX_BLOCKS);
    all - head_dim.saturating_add(value_dim).saturating_mul(S::BLOCKS)
}

/// A number of elements such that rows of them are made up of whole rows of matrices, if there is a unit for those.
const fn padded<S: Simd>(dim: usize) -> usize {
    let pairs = MatricesOf::<S>::ROWS;
    if pairs == 1 { dim } else { dim.saturating_add(2 * pairs - 1) / (2 * pairs) * (2 * pairs) }
}

/// Rows of `f32`, or of pairs, that a tile of keys or of values takes.
const fn staged_rows<S: Simd>(products: Products) -> usize {
    let keys = products.key_tile::<S>().get();
    if products.are_many_in_pairs() { keys / 2 } else { keys }
}

/// Elements of scratch that keys and values take, besides [`scratch_len`], where they must be converted or gathered.
pub(crate) const fn staging_len(head_dim: usize, value_dim: usize) -> usize {
    largest!(staging(head_dim, value_dim))
}

/// [`scratch_len`] where keys and values are not `f32`, or are [paged](crate::Kv::pages): a tile of them is made `f32` in scratch.
///
/// ```
/// use simd_attention::{cache_scratch_len, scratch_len};
/// assert!(cache_scratch_len(64, 64) > scratch_len(64, 64));
/// ```
#[must_use]
pub const fn cache_scratch_len(head_dim: usize, value_dim: usize) -> usize {
    scratch_len(head_dim, value_dim).saturating_add(staging_len(head_dim, value_dim))
}

/// The elements of vectors, lane after lane.
#[inline(always)]
pub(crate) fn elements<S: Simd>(vectors: &[S::Vector]) -> &[S::Scalar] {
    // SAFETY: vectors are `LANES` scalars, with no padding (see `Simd::Vector`).
    unsafe { core::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len() * S::LANES) }
}

/// The elements of vectors, lane after lane.
#[inline(always)]
pub(crate) fn elements_mut<S: Simd>(vectors: &mut [S::Vector]) -> &mut [S::Scalar] {
    // SAFETY: vectors are `LANES` scalars, any bits of which are valid, with no padding (see `Simd::Vector`).
    unsafe { core::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * S::LANES) }
}

/// Whether there is as much scratch as is needed.
pub(crate) const fn check<E>(required: usize, scratch: &[E]) -> Result<(), Error> {
    let actual = scratch.len();
    if actual < required { Err(Error::ScratchTooShort { required, actual }) } else { Ok(()) }
}

/// Rows of `COLS` vectors to be handed out.
pub(crate) struct Scratch<'s, S: Simd, const COLS: usize> {
    rows: &'s mut [[S::Vector; COLS]],
}

impl<'s, S: Simd, const COLS: usize> Scratch<'s, S, COLS> {
    #[inline(always)]
    pub(crate) fn new(scratch: &'s mut [S::Scalar]) -> Self {
        // SAFETY: vectors are `LANES` scalars, any bits of which are valid, with no padding (see `Simd::Vector`).
        let (_, vectors, _) = unsafe { scratch.align_to_mut::<S::Vector>() };
        Self { rows: vectors.as_chunks_mut().0 }
    }

    /// Rows for the scores of a tile of keys, of several where few queries may want them; `None` only if the scratch was shorter than
    /// [`scratch_len`], or in pairs [`cache_scratch_len`].
    #[inline(always)]
    pub(crate) fn score_tile(&mut self, products: Products) -> Option<&'s mut [[S::Vector; COLS]]> {
        self.take(if products.are_many_in_pairs() { S::Bf16Pairs::KEY_TILE } else { score_rows::<S>(COLS) })
    }

    /// Room for a tile of keys or values, so many elements of each; `None` only if the scratch was shorter than it must be.
    #[inline(always)]
    pub(crate) fn staging(&mut self, products: Products, dim: usize) -> Option<&'s mut [S::Scalar]> {
        let dim = match products {
            Products::ManyInMatrices => padded::<S>(dim),
            Products::ManyInPairs => dim,
            _ => spacing::<S>(dim),
        };
        let vectors = dim.saturating_mul(staged_rows::<S>(products).div_ceil(S::LANES));
        Some(elements_mut::<S>(self.take(vectors.div_ceil(COLS))?.as_flattened_mut()))
    }

    /// The next rows; `None` only if the scratch was shorter than [`scratch_len`].
    #[inline(always)]
    pub(crate) fn take(&mut self, rows: usize) -> Option<&'s mut [[S::Vector; COLS]]> {
        let (taken, rest) = core::mem::take(&mut self.rows).split_at_mut_checked(rows)?;
        self.rows = rest;
        Some(taken)
    }
}
