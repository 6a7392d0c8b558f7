//! Rows in memory, one for each query, from and to vectors in which each query has a lane.

use super::Columns;
use crate::{
    element::{Load, Store},
    simd::Simd,
    view::RowsMut,
};

/// `to[t][query] = from[query][t] * scale`; lanes without a query repeat the last one.
///
/// # Safety
///
/// `row(i)` is where row `i` of `1 <= len` begins, and has as many elements as there are rows in `to`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, T: Load, const COLS: usize>(
    simd: S,
    row: impl Fn(usize) -> *const T,
    len: usize,
    scale: f32,
    to: &mut [[S::Vector; COLS]],
) {
    let scale = simd.splat(scale);
    for c in 0..COLS {
        let rows: [*const T; 16] = core::array::from_fn(|i| row((c * S::LANES + i).min(len - 1)));
        for (chunk, t) in to.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
            let len = chunk.len();
            // SAFETY: the caller's promise, for columns that exist.
            let square = unsafe {
                if len == S::LANES { load_square(simd, &rows, t, S::LANES) } else { load_square(simd, &rows, t, len) }
            };
            for (to, from) in chunk.iter_mut().zip(square.as_ref()) {
                if let Some(to) = to.get_mut(c) {
                    *to = simd.mul(*from, scale);
                }
            }
        }
    }
}

/// Columns `t .. t + len` of `LANES` rows, transposed.
///
/// # Safety
///
/// The rows have these columns.
#[inline(always)]
pub(crate) unsafe fn load_square<S: Simd, T: Load>(simd: S, rows: &[*const T; 16], t: usize, len: usize) -> S::Square {
    let mut square = simd.zeros();
    for (to, row) in square.as_mut().iter_mut().zip(rows) {
        // SAFETY: the caller's promise.
        *to = T::load(simd, unsafe { core::slice::from_raw_parts(row.add(t), len) });
    }
    simd.transpose(&mut square);
    square
}

/// `to[row + query][element + t] = from[t][query] * factor[query]`, with `at = (row, element)`, for some of the queries.
#[inline(always)]
pub(crate) fn store<S: Simd, T: Store, const N: usize, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    columns: Columns<N>,
    factor: [S::Vector; N],
    to: &mut RowsMut<'_, T>,
    (row, element): (usize, usize),
) {
    for (c, factor) in (0..N).zip(factor) {
        for (chunk, t) in from.chunks(S::LANES).zip((element..).step_by(S::LANES)) {
            let mut square = simd.zeros();
            for (to, from) in square.as_mut().iter_mut().zip(chunk) {
                // Which zero a zero is depends on keys that are masked; here it becomes the positive one.
                *to = simd.mul_add(columns.of(from)[c], factor, simd.splat(0.0));
            }
            simd.transpose(&mut square);
            let len = chunk.len();
            if len == S::LANES {
                store_square(simd, &square, to, row + c * S::LANES, t, S::LANES);
            } else {
                store_square(simd, &square, to, row + c * S::LANES, t, len);
            }
        }
    }
}

/// Writes columns `t .. t + len` of the rows from `first` on, at most `LANES` of them.
#[inline(always)]
fn store_square<S: Simd, T: Store>(
    simd: S,
    square: &S::Square,
    to: &mut RowsMut<'_, T>,
    first: usize,
    t: usize,
    len: usize,
) {
    let rows = to.len().saturating_sub(first);
    for (i, row) in square.as_ref().iter().enumerate().take(rows) {
        // SAFETY: `first + i < to.len()`; callers ask for columns that exist.
        T::store(simd, *row, unsafe { to.slice_mut(first + i, t, len) });
    }
}
