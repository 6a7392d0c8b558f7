//! Stage 3: `o = sum_j p_j v_j`.

use crate::{
    kernel::{
        Ahead, Columns, Groups, multiply, multiply_unmarked,
        reach::{Reach, multiply_within},
    },
    score::product::Product,
    simd::{Simd, Task, prefetch},
    view::Rows,
};

/// How long before it is read a row of values is asked for.
const ROWS_AHEAD: usize = 24;

/// `output[c][query] = output[c][query] * rescale[query] + sum_j values[j][c] * weights[j][query]` over some keys.
///
/// Plain form:
///
/// ```text
/// for c in value_dim { output[c] *= rescale; for j in keys { output[c] += values[j][c] * weights[j] } }
/// ```
///
/// 1. `ROWS` columns at a time, so that a vector of weights that was loaded is used `ROWS` times, from registers; the
///    last ones in smaller groups.
/// 2. These products are summed up by themselves before they are added: rounding errors grow with the number of keys at a time and with how many
///    times there are, not with their product.
/// 3. Where not all vectors of queries see the same keys, as at the edges of a window, it is another loop (`WITHIN` their reach).
pub(crate) struct Accumulate<
    'a,
    S: Simd,
    P: Product<S>,
    const ROWS: usize,
    const NARROW: usize,
    const COLS: usize,
    const WITHIN: bool,
> {
    pub(crate) sums: Sums<'a, S, P, COLS>,
    /// `[value_dim][query]`
    pub(crate) output: &'a mut [[S::Vector; COLS]],
}

/// The values of some keys, and what each query weighs them with.
#[derive(Clone, Copy)]
pub(crate) struct Sums<'a, S: Simd, P: Product<S>, const COLS: usize> {
    pub(crate) product: P,
    /// `[key][query]`, or of as many keys at a time as the product takes
    pub(crate) weights: &'a [[S::Vector; COLS]],
    /// Of the weights; others are zero.
    pub(crate) reach: Reach<COLS>,
    /// As many rows, or more.
    pub(crate) values: Rows<'a, P::Element>,
    /// Whether keys that are masked are marked by negative weights; else all values are finite, or all keys seen by all.
    pub(crate) is_marked: bool,
    /// What the sums over earlier keys are to be multiplied with, if there are any.
    pub(crate) rescale: Option<[S::Vector; COLS]>,
    /// Goes on with each group of columns.
    pub(crate) ahead: Option<&'a Ahead<'a>>,
}

impl<S: Simd, P: Product<S>, const ROWS: usize, const NARROW: usize, const COLS: usize, const WITHIN: bool> Task
    for Accumulate<'_, S, P, ROWS, NARROW, COLS, WITHIN>
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        Tile::<_, _, COLS, WITHIN>(self.sums).all::<ROWS, NARROW>(self.output);
    }
}

struct Tile<'a, S: Simd, P: Product<S>, const COLS: usize, const WITHIN: bool>(Sums<'a, S, P, COLS>);

impl<S: Simd, P: Product<S>, const COLS: usize, const WITHIN: bool> Groups<[S::Vector; COLS]>
    for Tile<'_, S, P, COLS, WITHIN>
{
    #[inline(always)]
    fn group<const ROWS: usize>(&mut self, first: usize, output: &mut [[S::Vector; COLS]; ROWS]) {
        let Sums { product, weights, ref reach, values, is_marked, rescale, ahead } = self.0;
        ahead.inspect(|ahead| ahead.step());
        let columns = Columns::new(0);
        debug_assert!(weights.len() <= values.len() && first + ROWS <= values.dim());
        // SAFETY: there are as many rows as weights, and each has these columns.
        let value = |i, j| unsafe { *values.row_ptr(j).add(first + i) };
        let later_row = |j| prefetch(values.row_ptr(j + ROWS_AHEAD).wrapping_add(first));
        let sum: [[S::Vector; COLS]; ROWS] = if is_marked {
            multiply_unmarked(product, columns, weights, value)
        } else if WITHIN {
            multiply_within(product, reach, weights, value, later_row)
        } else {
            multiply(product, columns, weights, value, later_row)
        };
        let simd = product.simd();
        for (output, sum) in output.iter_mut().zip(&sum) {
            match &rescale {
                None => *output = *sum,
                Some(rescale) => {
                    for c in 0..COLS {
                        output[c] = simd.mul_add(output[c], rescale[c], sum[c]);
                    }
                }
            }
        }
    }
}
