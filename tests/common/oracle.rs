//! How close to the reference an answer has to be.
//!
//! The tolerance is not a knob: it is the textbook bound on the rounding errors of an f32 computation (Higham, "Accuracy and
//! Stability of Numerical Algorithms", chapter 3), evaluated for the case at hand. With `U` the unit roundoff, a dot product of length
//! `d` is off by at most `(d + few) U sum |q_t k_t|`, a sum of `n` weights by `(n + few) U`, and a weight by the relative error that its
//! score is off by. No correct kernel can fail, whatever the input; one that loses a key, a rescaling or a lane cannot pass.
//! How much *better* than the bound the kernels are is measured by `promises.rs` and `minilm.rs`.

use super::{
    case::{Answer, Case, Plan},
    tensor::Tensor,
};
use simd_attention::Backend;

/// Unit roundoff of f32.
pub const U: f64 = f32::EPSILON as f64 / 2.0;
/// Half the smallest subnormal: the most that rounding a subnormal result is off by.
const SUBNORMAL: f64 = f32::MIN_POSITIVE as f64 * U;
/// Roundings besides those that grow with a dimension: scale (2), difference to the maximum and rescaling (4), exponential (4),
/// normalisation (2), and as many again for second-order terms.
const FEW: f64 = 24.0;

/// The answer a case must have, and how far off it may be.
pub struct Oracle {
    name: String,
    exact: Answer<f64>,
    tolerance: Answer<f64>,
}

impl Oracle {
    pub fn new(case: &Case) -> Self {
        let exact = case.reference();
        Self { name: case.name.clone(), tolerance: tolerance(case, &exact), exact }
    }

    /// Panics unless each element of `actual` is as close to the reference as it must be.
    pub fn check(&self, backend: Backend, actual: &Answer<f32>) {
        let Self { name, exact, tolerance } = self;
        for row in exact.out.rows() {
            let i = exact.out.index(row);
            let (got, want, within) = (actual.lse[i], exact.lse[i], tolerance.lse[i]);
            assert!(
                lse_agrees(got, want, within),
                "{backend}: lse of {row:?} is {got}, not {want} +- {within:e}: {name}"
            );

            let elements = actual.out.row(row).iter().zip(exact.out.row(row)).zip(tolerance.out.row(row));
            for (c, ((got, want), within)) in elements.enumerate() {
                let agrees = value_agrees(*got, *want, *within);
                assert!(agrees, "{backend}: {row:?}[{c}] is {got}, not {want} +- {within:e}: {name}");
            }
        }
    }
}

/// Holds every backend of this machine to the reference.
pub fn check(plan: &Plan) {
    let case = plan.case();
    let oracle = Oracle::new(&case);
    for backend in Backend::available() {
        oracle.check(backend, &case.run(backend));
    }
}

/// Beyond the range of f32 nothing is promised; within it, NaN is NaN, and what is infinite is not finite (the f32 form may get there by
/// way of `0 * inf`).
fn value_agrees(actual: f32, exact: f64, tolerance: f64) -> bool {
    match exact {
        _ if tolerance == f64::INFINITY => true,
        exact if exact.is_nan() => actual.is_nan(),
        exact if exact.is_infinite() => !actual.is_finite(),
        exact => (f64::from(actual) - exact).abs() <= tolerance,
    }
}

/// As [`value_agrees`], but -infinity, the mark of a row that sees no key, must be just that.
fn lse_agrees(actual: f32, exact: f64, tolerance: f64) -> bool {
    match exact {
        f64::NEG_INFINITY if tolerance < f64::INFINITY => actual == f32::NEG_INFINITY,
        exact => value_agrees(actual, exact, tolerance),
    }
}

/// What a tensor's elements are like.
struct Range {
    /// The smallest magnitude but zero, and the largest, of those that are finite.
    smallest: f64,
    largest: f64,
    is_finite: bool,
}

impl Range {
    fn of(tensor: &Tensor<f32>) -> Self {
        let mut range = Self { smallest: f64::INFINITY, largest: 0.0, is_finite: true };
        for x in tensor.rows().flat_map(|row| tensor.row(row)) {
            let x = f64::from(x.abs());
            range.is_finite &= x.is_finite();
            if x.is_finite() && x > 0.0 {
                range.smallest = range.smallest.min(x);
                range.largest = range.largest.max(x);
            }
        }
        range
    }
}

/// The bound for every element. Non-finite inputs count as zero: where they arrive there is nothing to be close to.
fn tolerance(case: &Case, exact: &Answer<f64>) -> Answer<f64> {
    let [q, k, v] = [&case.q, &case.k, &case.v].map(Range::of);
    let (head_dim, kv_len) = (case.q.shape.dim as f64, case.kv_len() as f64);
    let scale = f64::from(case.scale()).abs();
    let (sum_of_values, score_sizes) = magnitudes(case);

    // A scale so small that it is rounded as a subnormal, and queries that become subnormal when scaled.
    let scale_error = if scale > 0.0 { SUBNORMAL / scale } else { 0.0 };
    let scaling_error = head_dim * SUBNORMAL * (k.largest + 2.0);
    let score_error = |size: f64| ((head_dim + FEW) * U + scale_error) * size + scaling_error;
    let sum_error = (kv_len + FEW) * U;
    // Weights below the smallest normal number may be zero, and so may products with them.
    let underflow = 2.0 * kv_len * (f64::from(f32::MIN_POSITIVE) * v.largest + SUBNORMAL);

    let limit = f64::from(f32::MAX) / 4.0;
    let overflows = |size: f64| scale * q.largest >= limit || size >= limit || kv_len * v.largest >= limit;
    // Times an infinite key, a query that vanishes when scaled is NaN instead of infinity.
    let vanishes = scale * q.smallest < 2.0 * SUBNORMAL && !k.is_finite;
    let bound = |size: f64, bound: f64| match size {
        // No key, no arithmetic.
        f64::NEG_INFINITY => 0.0,
        size if overflows(size) || vanishes => f64::INFINITY,
        _ => bound,
    };

    let mut out = sum_of_values;
    for row in out.rows() {
        let (size, lse) = (score_sizes[out.index(row)], exact.lse[out.index(row)]);
        let relative = (2.0 * (score_error(size) + sum_error)).exp_m1();
        // Weights that are all zero: zeros, but for values that make NaN with them.
        let is_undefined = lse == f64::NEG_INFINITY && size > lse && !v.is_finite;
        for x in out.row_mut(row) {
            // However wrong the weights: both results are averages of the values.
            let rounding = (relative * *x).min(2.0 * v.largest);
            *x = if is_undefined { f64::INFINITY } else { bound(size, rounding + underflow) };
        }
    }
    let lse = score_sizes.iter().map(|&size| bound(size, score_error(size) + sum_error + 2.0 * U * size));
    Answer { lse: lse.collect(), out }
}

/// `sum_j p_j |v_j|` of each element, and of each row no less than the largest `sum_t |scale q_t k_t|` of the keys it sees: the oracle
/// itself knows them.
fn magnitudes(case: &Case) -> (Tensor<f64>, Vec<f64>) {
    let magnitude = |x: f32| if x.is_finite() { x.abs() } else { 0.0 };
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|tensor| tensor.map(magnitude));
    let sum_of_values = Case { v: v.clone(), ..case.clone() }.reference().out;
    let score_sizes = Case { scale: Some(case.scale().abs()), q, k, v, ..case.clone() }.reference().lse;
    (sum_of_values, score_sizes)
}
