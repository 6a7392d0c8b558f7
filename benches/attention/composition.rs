//! The rival: attention composed of two matrix products (`gemm`) and a softmax over rows (`pulp`, the SIMD layer of the same
//! author), on AVX-512 where the CPU has it. Done as well as the composition allows:
//!
//! - Queries in blocks, so that the scores between the two products stay in a cache, and so that the keys behind a
//!   causal block's diagonal are skipped.
//! - The scale and `log2(e)` come free of charge with the first product, and rows are divided by their sums after the second one,
//!   where there is less to divide.
//! - Scores and sums are allocated beforehand.

use std::{
    f32::consts::{LN_2, LOG2_E},
    ops::Range,
};

use gemm_common::Parallelism;
use pulp::{Arch, Simd, WithSimd};

use crate::case::{Case, Shape};

/// Queries of a block, the best of 64, 128 and 256: the longer, the better for the products, but the more keys behind the
/// diagonal are multiplied.
const BLOCK: usize = 256;
const CAUSAL_BLOCK: usize = 64;

/// Rows of scores are a multiple of this long, so that whole vectors of any CPU make them up.
const LANES: usize = 16;

/// The composition, with room for the scores of one block of queries.
pub struct Composition {
    arch: Arch,
    block: usize,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

impl Composition {
    pub fn new(shape: Shape) -> Self {
        let block = if shape.causal { CAUSAL_BLOCK } else { BLOCK };
        let scores = vec![0.0; block * shape.len.next_multiple_of(LANES)];
        Self { arch: Arch::new(), block, scores, sums: vec![0.0; block] }
    }

    pub fn forward(&mut self, case: &Case, out: &mut [f32]) {
        let Shape { heads, len, dim, .. } = case.shape;
        for head in 0..heads {
            let head = head * len * dim..(head + 1) * len * dim;
            for first in (0..len).step_by(self.block) {
                self.forward_block(case, head.clone(), first..len.min(first + self.block), &mut out[head.clone()]);
            }
        }
    }

    /// Some queries of one head, and their rows of the head's output.
    fn forward_block(&mut self, case: &Case, head: Range<usize>, queries: Range<usize>, out: &mut [f32]) {
        let Shape { len, dim, causal, .. } = case.shape;
        let keys = if causal { queries.end } else { len };
        let block = queries.start * dim..queries.end * dim;
        let (q, out) = (&case.q[head.clone()][block.clone()], &mut out[block]);
        let (k, v) = (&case.k[head.clone()][..keys * dim], &case.v[head][..keys * dim]);
        let stride = keys.next_multiple_of(LANES);
        let scores = &mut self.scores[..queries.len() * stride];
        let sums = &mut self.sums[..queries.len()];

        let scale = case.shape.scale() * LOG2_E;
        product(scale, Matrix::new(q, dim, dim), Matrix::new(k, dim, dim).transposed(), scores, stride);
        for (query, scores) in queries.zip(scores.chunks_exact_mut(stride)) {
            let seen = if causal { query + 1 } else { len };
            scores[seen..].fill(f32::NEG_INFINITY);
        }
        self.arch.dispatch(Exponentials { scores, stride, sums });
        product(1.0, Matrix::new(scores, keys, stride), Matrix::new(v, dim, dim), out, dim);
        self.arch.dispatch(|| divide(out, dim, sums));
    }
}

/// A matrix to read.
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` elements, one every `row_stride`.
    fn new(data: &'a [f32], columns: usize, row_stride: usize) -> Self {
        assert!(columns <= row_stride && data.len().is_multiple_of(row_stride));
        Self { data, rows: data.len() / row_stride, columns, row_stride, column_stride: 1 }
    }

    fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

/// `out = scale * left * right`, a row of `out` every `stride` elements.
fn product(scale: f32, left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32], stride: usize) {
    assert!(left.columns == right.rows && right.columns <= stride && left.rows * stride <= out.len());
    // What `gemm::gemm` makes of it: the other way round, as it wants a result's columns to be contiguous.
    let (left, right) = (right.transposed(), left.transposed());
    // SAFETY: by the assertions here and in `Matrix::new`, every element lies within its slice; the slices don't overlap, as
    // `out` is borrowed exclusively; with `read_dst` false, `out` is only written.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            stride as isize,
            1,
            false,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The softmax before its division: `2^(x - max)` for each row in place, and the sum of each row.
struct Exponentials<'a> {
    scores: &'a mut [f32],
    stride: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (row, row_sum) in self.scores.chunks_exact_mut(self.stride).zip(self.sums) {
            // No tail: the stride is a multiple of any vector's lanes.
            let (row, _) = S::as_mut_simd_f32s(row);
            let mut max = simd.splat_f32s(f32::NEG_INFINITY);
            for &mut x in &mut *row {
                max = simd.max_f32s(max, x);
            }
            let max = simd.splat_f32s(simd.reduce_max_f32s(max));
            let mut sum = simd.splat_f32s(0.0);
            for x in row {
                *x = exp2(simd, simd.sub_f32s(*x, max));
                sum = simd.add_f32s(sum, *x);
            }
            *row_sum = simd.reduce_sum_f32s(sum);
        }
    }
}

/// `2^x` for `x <= 0`, to f32 accuracy; zero below `2^-126`.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Close to minimax for `2^r` with `r` in `-1/2 ..= 1/2`, from `r^5` down to 1.
    const POLYNOMIAL: [f32; 6] = [0.001_326_47, 0.009_671_51, 0.055_507_34, 0.240_222_42, LN_2, 1.0];
    /// Added to a number, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 1.5 * (1u32 << 23) as f32;
    const MANTISSA_BITS: u32 = 23;

    let tiny = simd.less_than_f32s(x, simd.splat_f32s(-126.0));
    let round = simd.splat_f32s(ROUND);
    let rounded = simd.add_f32s(x, round);
    let r = simd.sub_f32s(x, simd.sub_f32s(rounded, round));
    let [highest, lower @ ..] = POLYNOMIAL;
    let mut p = simd.splat_f32s(highest);
    for coefficient in lower {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(coefficient));
    }
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(MANTISSA_BITS));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), exponent));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), power)
}

#[inline(always)]
fn divide(out: &mut [f32], dim: usize, sums: &[f32]) {
    for (row, sum) in out.chunks_exact_mut(dim).zip(sums) {
        let reciprocal = 1.0 / sum;
        for x in row {
            *x *= reciprocal;
        }
    }
}
