//! How close to the reference an answer has to be.
//!
//! The tolerance is not a knob: it is the textbook bound on the rounding errors of an f32 computation (Higham, "Accuracy and
//! Stability of Numerical Algorithms", chapter 3), evaluated for the case at hand. With `U` the unit roundoff, a dot product of length
//! `d` is off by at most `(d + few) U sum |q_t k_t|`, a sum of `n` weights by `(n + few) U`, and a weight by the relative error that its
//! score is off by. No correct kernel can fail, whatever the input; one that loses a key, a rescaling or a lane cannot pass.
//! How much *better* than the bound the kernels are is measured by `promises.rs` and `minilm.rs`.

use super::case::{Answer, Case, Plan};
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
        Self { name: case.name.clone(), exact: case.reference(), tolerance: tolerance(case) }
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
        f64::NEG_INFINITY => actual == f32::NEG_INFINITY,
        exact => value_agrees(actual, exact, tolerance),
    }
}

/// The bound for every element. Non-finite inputs count as zero: where they arrive there is nothing to be close to.
fn tolerance(case: &Case) -> Answer<f64> {
    let magnitude = |x: f32| if x.is_finite() { x.abs() } else { 0.0 };
    let (q, k, v) = (case.q.map(magnitude), case.k.map(magnitude), case.v.map(magnitude));
    let [max_q, max_k, max_v] = [&q, &k, &v].map(|x| x.rows().flat_map(|row| x.row(row).to_vec()).fold(0.0, f32::max));
    let [max_q, max_k, max_v] = [max_q, max_k, max_v].map(f64::from);
    let (head_dim, kv_len) = (case.q.shape.dim as f64, case.kv_len() as f64);
    let scale = f64::from(case.scale()).abs();

    // The oracle itself knows `sum_j p_j |v_j|`, and (no less than) the largest `sum_t |scale q_t k_t|` of the keys that a row sees.
    let sum_of_values = Case { v: v.clone(), ..case.clone() }.reference().out;
    let score_sizes = Case { scale: Some(scale as f32), q, k, v, ..case.clone() }.reference().lse;

    // A scale so small that it is rounded as a subnormal, and queries that become subnormal when scaled.
    let scale_error = if scale > 0.0 { SUBNORMAL / scale } else { 0.0 };
    let scaling_error = head_dim * SUBNORMAL * (max_k + 2.0);
    let score_error = |size: f64| ((head_dim + FEW) * U + scale_error) * size + scaling_error;
    let sum_error = (kv_len + FEW) * U;
    // Weights below the smallest normal number may be zero, and so may products with them.
    let underflow = 2.0 * kv_len * (f64::from(f32::MIN_POSITIVE) * max_v + SUBNORMAL);

    let limit = f64::from(f32::MAX) / 4.0;
    let in_range = |score_size: f64| scale * max_q < limit && score_size < limit && kv_len.max(1.0) * max_v < limit;

    let mut out = sum_of_values;
    for row in out.rows() {
        let size = score_sizes[out.index(row)];
        let relative = (2.0 * (score_error(size) + sum_error)).exp_m1();
        for x in out.row_mut(row) {
            // However wrong the weights: both results are averages of the values.
            let rounding = (relative * *x).min(2.0 * max_v);
            *x = if in_range(size) { rounding + underflow } else { f64::INFINITY };
        }
    }
    let lse = score_sizes.iter().map(|&size| {
        let rounding = score_error(size) + sum_error + 2.0 * U * size;
        if in_range(size) { rounding } else { f64::INFINITY }
    });
    Answer { lse: lse.collect(), out }
}
