//! Rows in memory, one for each query, from and to vectors in which each query has a lane.

use super::Columns;
use crate::{
    element::{Load, Store},
    simd::{Simd, prefetch},
    view::{GroupWalk, RowsMut},
};

/// `to[t][query] = from[query][t] * scale`; lanes without a query repeat the last one.
///
/// # Safety
///
/// `queries` comes to rows that have as many elements as there are rows in `to`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, T: Load, const COLS: usize>(
    simd: S,
    mut queries: GroupWalk<T>,
    scale: S::Scalar,
    to: &mut [[S::Vector; COLS]],
) {
    let scale = simd.broadcast(scale);
    for c in 0..COLS {
        let rows = queries.next_rows(S::LANES);
        for (chunk, t) in to.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
            let len = chunk.len();
            // SAFETY: the caller's promise, for columns that exist.
            unsafe {
                // A whole square stays in registers.
                if len == S::LANES {
                    scatter(simd, load_square(simd, &rows, t, S::LANES), c, scale, chunk);
                } else {
                    scatter(simd, load_square(simd, &rows, t, len), c, scale, chunk);
                }
            }
        }
    }
}

/// `to[t][c] = from[t] * factor`
#[inline(always)]
fn scatter<S: Simd, const COLS: usize>(
    simd: S,
    from: S::Square,
    c: usize,
    factor: S::Vector,
    to: &mut [[S::Vector; COLS]],
) {
    for (to, from) in to.iter_mut().zip(from.as_ref()) {
        if let Some(to) = to.get_mut(c) {
            *to = simd.mul(*from, factor);
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

/// `to[row + query][element + t] = from[t][query] * factor[query]` for some of the queries. Rows are asked for before
/// they are written, as each write waits for the one before.
#[inline(always)]
pub(crate) fn store<S: Simd, T: Store, const N: usize, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    columns: Columns<N>,
    factor: [S::Vector; N],
    to: &mut RowsMut<'_, T>,
    [row, element]: [usize; 2],
) {
    let Some(mut queries) = to.walk(row) else { return };
    for (c, factor) in (0..N).zip(factor) {
        let first = row + c * S::LANES;
        let rows = queries.next_rows(S::LANES);
        let ask = |t| rows.iter().take(S::LANES).for_each(|row| prefetch(row.wrapping_add(t)));
        ask(element);
        let count = to.len().saturating_sub(first).min(S::LANES);
        for (chunk, t) in from.chunks(S::LANES).zip((element..).step_by(S::LANES)) {
            let len = chunk.len();
            ask(t + S::LANES);
            // SAFETY: so many rows exist; callers ask for columns that exist.
            unsafe {
                // A whole square stays in registers.
                if len == S::LANES && count == S::LANES {
                    store_square(simd, gather(simd, chunk, columns, c, factor), &rows, t, [S::LANES; 2]);
                } else {
                    store_square(simd, gather(simd, chunk, columns, c, factor), &rows, t, [count, len]);
                }
            }
        }
    }
}

/// `from[t][c] * factor`
#[inline(always)]
fn gather<S: Simd, const N: usize, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    columns: Columns<N>,
    c: usize,
    factor: S::Vector,
) -> S::Square {
    let mut square = simd.zeros();
    for (to, from) in square.as_mut().iter_mut().zip(from.iter().filter_map(|from| columns.of(from))) {
        // Which zero a zero is depends on keys that are masked; here it becomes the positive one.
        *to = simd.mul_add(from[c], factor, simd.splat(0.0));
    }
    square
}

/// Transposes a square, and writes it to columns `t .. t + len` of the first `count` rows.
///
/// # Safety
///
/// The rows have these columns.
#[inline(always)]
unsafe fn store_square<S: Simd, T: Store>(
    simd: S,
    mut square: S::Square,
    rows: &[*const T; 16],
    t: usize,
    [count, len]: [usize; 2],
) {
    simd.transpose(&mut square);
    for (from, row) in square.as_ref().iter().zip(rows).take(count) {
        // SAFETY: the caller's promise.
        T::store(simd, *from, unsafe { core::slice::from_raw_parts_mut(row.cast_mut().add(t), len) });
    }
}
