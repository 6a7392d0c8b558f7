//! Stage 3: `o = sum_j p_j v_j`.

use crate::{
    kernel::{multiply, multiply_where},
    score::mask::Visible,
    simd::{Simd, prefetch},
    view::Rows,
};

/// `output[c][query] = output[c][query] * rescale[query] + sum_j values[j][c] * weights[j][query]`, over the keys that the
/// query sees.
///
/// Plain form:
///
/// ```text
/// for c in value_dim { output[c] *= rescale; for j in keys { output[c] += values[j][c] * weights[j] } }
/// ```
///
/// 1. `ROWS` columns at a time, so that a vector of weights that was loaded is used `ROWS` times, from registers.
/// 2. A tile's products are summed up by themselves before they are added: rounding errors grow with the length of a
///    tile and with the number of tiles, not with their product.
/// 3. A last group of fewer than `ROWS` columns repeats its last column.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    weights: &[[S::Vector; COLS]],
    values: Rows<'_, f32>,
    visible: &Visible<S, COLS>,
    rescale: [S::Vector; COLS],
    output: &mut [[S::Vector; COLS]],
) {
    let (groups, rest) = output.as_chunks_mut::<ROWS>();
    let mut first = 0;
    for group in groups {
        let sum = columns::<S, ROWS, COLS>(simd, weights, values, visible, |i| first + i);
        add(simd, group, rescale, sum);
        first += ROWS;
    }
    if let Some(last) = rest.len().checked_sub(1) {
        let sum = columns::<S, ROWS, COLS>(simd, weights, values, visible, |i| first + i.min(last));
        add(simd, rest, rescale, sum);
    }
}

/// `sum_j values[j][column(i)] * weights[j][query]` for `ROWS` columns.
///
/// The sum starts from -0, which leaves anything it is added to as it is. Where a query does not see a key, the value is
/// not multiplied by zero but left out: it may be NaN.
#[inline(always)]
fn columns<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    weights: &[[S::Vector; COLS]],
    values: Rows<'_, f32>,
    visible: &Visible<S, COLS>,
    column: impl Fn(usize) -> usize,
) -> [[S::Vector; COLS]; ROWS] {
    debug_assert!(weights.len() <= values.len() && column(ROWS - 1) < values.dim());
    let (seen_by_all, seen_by_some) = weights.split_at_checked(visible.full).unwrap_or((weights, &[]));
    // SAFETY: there are as many rows as weights, and each column is one of the rows' `dim`.
    let value = |i, j| unsafe { *values.row_ptr(j).add(column(i)) };
    let later_row = |j| prefetch(values.row_ptr(j + ROWS_AHEAD).wrapping_add(column(0)));
    let full = seen_by_all.len();
    let sum = multiply(simd, [[simd.splat(-0.0); COLS]; ROWS], seen_by_all, value, later_row);
    multiply_where(simd, sum, seen_by_some, |i, j| value(i, full + j), |j| visible.lanes(simd, full + j))
}

/// How long before it is read a row of values is fetched.
const ROWS_AHEAD: usize = 24;

/// `output = output * rescale + sum`
#[inline(always)]
fn add<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    output: &mut [[S::Vector; COLS]],
    rescale: [S::Vector; COLS],
    sum: [[S::Vector; COLS]; ROWS],
) {
    for (output, sum) in output.iter_mut().zip(sum) {
        for c in 0..COLS {
            output[c] = simd.mul_add(output[c], rescale[c], sum[c]);
        }
    }
}
