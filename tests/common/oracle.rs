//! How close to the reference an answer has to be.
//!
//! The tolerance is not a knob: it is the textbook bound on the rounding errors of an f32 computation (Higham, "Accuracy and
//! Stability of Numerical Algorithms", chapter 3), evaluated for the case at hand. With `U` the unit roundoff:
//!
//! - A dot product of length `d` is off by at most `(d + few) U sum |q_t k_t|`.
//! - Other score functions: `Function::sizes` says what takes the place of the sum; a projection adds its own dimension to `d`.
//! - A softcap makes no error larger (its slope is at most 1) and adds some ulp of its result, which is no larger than its argument.
//! - What is added to a score, a bias or `slope * distance`, adds some `U` of its own size and of the sum's.
//! - If each score `s_j` is off by at most `e_j`, the weight of a key is off by at most the factor `e^(e_j + E)`, where
//!   `E = ln sum_j p_j e^(e_j)` bounds what the sum is off by; and a sum of `n` weights adds `(n + few) U`.
//!
//! - Pairs of `bf16`: a weight is off by `U_BF16` more, subnormal numbers count as zeros, and scores are scaled last.
//! - Pairs of integers: elements of a query are off by `STEP` of its largest, weights with their scales by `STEP` of the largest of those, and scores are
//!   scaled last.
//!
//! No correct kernel can fail, whatever the input; one that loses a key, a rescaling or a lane cannot pass.
//! How much *better* than the bound the kernels are is measured by `promises.rs` and `minilm.rs`.

use super::{
    backends,
    cache::{Kind, scale},
    case::{Answer, Case, MARKER, Pairs},
    has_bf16_pairs, has_i8_pairs,
    modifiers::Modifiers,
    pattern::{Band, Pattern, Sequence},
    plan::Plan,
    rules::MOST_ADDED,
    tensor::{Layout, Row, Tensor},
};
use core::fmt::Display;
use simd_attention::{Backend, Float, Shape, Stage};

/// Unit roundoff of f32.
pub const U: f64 = f32::EPSILON as f64 / 2.0;
/// Unit roundoff of `bf16`.
const U_BF16: f64 = 1.0 / 256.0;
/// Half the distance of two numbers of 16 bits, in proportion to the largest, and some roundings.
const STEP: f64 = 0.501 / 32633.0;
/// Half the smallest subnormal: the most that rounding a subnormal result is off by.
const SUBNORMAL: f64 = f32::MIN_POSITIVE as f64 * U;
/// Roundings besides those that grow with a dimension: scale (2), difference to the maximum and rescaling (4), exponential (4),
/// normalisation (2), and as many again for second-order terms.
const FEW: f64 = 24.0;
/// Roundings of a score that is modified: softcap (12, of which the tangent 8), bias (4), ALiBi (4), a caller's own modification (9, its
/// own ones and those to base e and back), and few more of second order.
const FEW_OF_MODIFIED: f64 = 32.0;
/// Roundings of a term of another score function than the dot product: the tangent (6), the scale (2), and few more of second order.
const FEW_OF_FUNCTION: f64 = 16.0;
/// Distances up to here are exact.
const EXACT: i128 = 1 << 23;
/// As far below zero as a finite bias counts.
const LEAST_BIAS: f64 = -1e38;
/// Sums of two scores or biases of this size are within the range of f32 in base 2 too.
const LIMIT: f64 = f32::MAX as f64 / 8.0;

/// The answer a case must have, and how far off it may be.
pub struct Oracle {
    name: String,
    exact: Answer<f64>,
    tolerance: Answer<f64>,
    /// That of products of pairs, if there may be some.
    of_pairs: Option<(Pairs, Answer<f64>)>,
}

impl Oracle {
    pub fn new(case: &Case) -> Self {
        let exact = case.reference();
        let bounds = Bounds::new(case, &exact);
        let tolerance = bounds.tolerance();
        let of_pairs = case.pairs().map(|pairs| (pairs, Bounds { pairs: Some(pairs), ..bounds }.tolerance()));
        Self { name: case.name.clone(), tolerance, of_pairs, exact }
    }

    /// The same for queries, keys and values off by little from a case's, computed in `f64`, to which all roundings are in proportion, though those of
    /// the reference are of the same size; but nothing is said where those of `f32` leave little of the weights.
    pub fn in_f64(case: &Case, exact: Answer<f64>) -> Self {
        let of_f32 = Self::new(case);
        let fine = |most: f64| {
            move |bound: f64| {
                if bound > most { f64::INFINITY } else { 2.0 * (f64::EPSILON / f64::from(f32::EPSILON)) * bound }
            }
        };
        let Answer { out, lse, scores } = &of_f32.tolerance;
        let most = if case.stage() == Some(Stage::Weights) { 0.01 } else { f64::MAX };
        let tolerance = Answer {
            out: out.map(fine(0.01 * Range::of(&case.v).largest)),
            lse: lse.iter().copied().map(fine(f64::MAX)).collect(),
            scores: scores.as_ref().map(|scores| scores.map(fine(most))),
        };
        Self { exact, tolerance, of_pairs: None, ..of_f32 }
    }

    /// Panics unless each element of `actual` is as close to the reference as it must be.
    pub fn check<T: Float<Sum = T> + Display>(&self, backend: Backend, actual: &Answer<T>) {
        let Self { name, exact, tolerance, of_pairs } = self;
        let tolerance = match of_pairs {
            Some((Pairs::Bf16, of_pairs)) if has_bf16_pairs(backend) => of_pairs,
            Some((Pairs::I8, of_pairs)) if has_i8_pairs(backend) => of_pairs,
            _ => tolerance,
        };
        for row in exact.out.rows() {
            let i = exact.out.index(row);
            let (got, want, within) = (actual.lse[i], exact.lse[i], tolerance.lse[i]);
            assert!(agrees(got, want, within), "{backend}: lse of {row:?} is {got}, not {want} +- {within:e}: {name}");
            let check = |what, actual: &Tensor<T>, exact: &Tensor<f64>, tolerance: &Tensor<f64>| {
                let elements = actual.row(row).iter().zip(exact.row(row)).zip(tolerance.row(row));
                for (c, ((got, want), within)) in elements.enumerate() {
                    let agrees = agrees(*got, *want, *within);
                    assert!(agrees, "{backend}: {what} {row:?}[{c}] is {got}, not {want} +- {within:e}: {name}");
                }
            };
            check("output", &actual.out, &exact.out, &tolerance.out);
            if let (Some(actual), Some(exact), Some(tolerance)) = (&actual.scores, &exact.scores, &tolerance.scores) {
                check("score", actual, exact, tolerance);
            }
        }
    }
}

/// Holds every backend of this machine to the reference; those for pairs of `bf16`, which without them is another's code, where there may be some.
pub fn check(plan: &Plan) {
    let case = plan.case();
    let oracle = Oracle::new(&case);
    for backend in backends().filter(|backend| !has_bf16_pairs(*backend) || case.pairs() == Some(Pairs::Bf16)) {
        oracle.check(backend, &case.run(backend));
    }
}

/// Beyond the range of f32 nothing is promised; within it, NaN is NaN, and what is infinite is not finite (the f32 form may get there by
/// way of `0 * inf`). What must be exact, as the marks of keys and rows that are masked must, may be infinite too.
fn agrees(actual: impl Into<f64>, exact: f64, tolerance: f64) -> bool {
    let actual = actual.into();
    match exact {
        _ if tolerance == f64::INFINITY => true,
        exact if exact.is_nan() => actual.is_nan(),
        exact if tolerance == 0.0 => actual == exact,
        exact if exact.is_infinite() => !actual.is_finite() || tolerance > f64::from(f32::MAX),
        exact => (actual - exact).abs() <= tolerance,
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

/// A number's size; those that are not finite count as zero, as where they arrive there is nothing to be close to.
fn size(x: f64) -> f64 {
    if x.is_finite() { x.abs() } else { 0.0 }
}

/// The scores of a case at some stage, by the reference.
fn scores(case: &Case, stage: Stage) -> Tensor<f64> {
    let shape = Shape { dim: case.kv_len(), ..case.q.shape };
    if shape.dim == 0 {
        return Tensor::filled(shape, Layout::HeadsFirst, 0.0);
    }
    let case = Case { scores: Some((stage, Tensor::filled(shape, Layout::HeadsFirst, MARKER))), ..case.clone() };
    case.reference().scores.unwrap_or_else(|| unreachable!())
}

/// `sum_t |q_t k_t|`, or what takes its place: of that case which has the magnitudes, and in which nobody sees anything.
fn products(case: &Case) -> Tensor<f64> {
    // The tangent of an infinite number has the size of 1.
    let infinite = if case.function.is_dot() { 0.0 } else { 1.0 };
    let magnitude = |x: f32| if x.is_finite() { x.abs() } else { infinite };
    let magnitudes = Case {
        q: case.q.map(magnitude),
        k: case.k.map(magnitude),
        function: case.function.sizes(),
        modifiers: Modifiers { scale: Some(1.0), ..Modifiers::default() },
        pattern: Pattern { band: Band::offset(i64::MIN), packed: case.pattern.packed.clone(), ..Pattern::default() },
        ..case.clone()
    };
    scores(&magnitudes, Stage::Scaled)
}

/// All that the bounds of a case are made of.
struct Bounds<'a> {
    case: &'a Case,
    exact: &'a Answer<f64>,
    /// What the softmax is taken of; -infinity where masked.
    scores: Tensor<f64>,
    products: Tensor<f64>,
    /// Of queries, keys and values.
    ranges: [Range; 3],
    /// What products are of pairs of, if they are.
    pairs: Option<Pairs>,
}

/// A key that a query sees.
#[derive(Clone, Copy)]
struct Key {
    index: usize,
    score: f64,
    /// What its score is off by at most; infinite beyond the range of f32.
    error: f64,
}

impl<'a> Bounds<'a> {
    fn new(case: &'a Case, exact: &'a Answer<f64>) -> Self {
        let ranges = [&case.q, &case.k, &case.v].map(Range::of);
        Self { case, exact, scores: scores(case, Stage::Masked), products: products(case), ranges, pairs: None }
    }

    /// The bound for every element; zero for rows of no sequence, which stay as they are.
    fn tolerance(&self) -> Answer<f64> {
        let zeros = |tensor: &Tensor<f64>| tensor.map(|_| 0.0);
        let Answer { out, lse, scores } = self.exact;
        let mut bounds = Answer { out: zeros(out), lse: vec![0.0; lse.len()], scores: scores.as_ref().map(zeros) };
        for sequence in self.case.sequences() {
            for head in 0..out.shape.heads {
                for i in sequence.queries.clone() {
                    self.bound_row(&sequence, [sequence.batch, head, i], &mut bounds);
                }
            }
        }
        bounds
    }

    fn bound_row(&self, sequence: &Sequence, row: Row, bounds: &mut Answer<f64>) {
        let index = self.exact.out.index(row);
        let lse = self.exact.lse[index];
        let seen = sequence.room.clone().filter(|&j| self.case.sees(sequence, row, j));
        let keys: Vec<Key> = seen.map(|j| self.key(sequence, row, j)).collect();
        let sink = self.sink(row);
        let shares = Shares::new(lse, &keys, sink, self.sum_error());

        bounds.lse[index] = shares.lse_error;
        self.bound_output(row, &keys, &shares, bounds.out.row_mut(row));
        let Some((stage, bounds)) = self.case.stage().zip(bounds.scores.as_mut()) else { return };
        let bounds = bounds.row_mut(row);
        if stage < Stage::Masked {
            for j in sequence.room.clone() {
                bounds[j] = self.score_error(sequence, row, j, stage);
            }
        } else {
            for (key, share) in keys.iter().zip(&shares.errors) {
                bounds[key.index] = if stage == Stage::Masked { key.error } else { share + 2.0 * TINY };
            }
        }
    }

    fn bound_output(&self, [b, h, _]: Row, keys: &[Key], shares: &Shares, bounds: &mut [f64]) {
        let Shape { heads, len, .. } = self.case.v.shape;
        let [_, _, v] = &self.ranges;
        let [rounding, flushed] = if self.pairs == Some(Pairs::Bf16) { [U_BF16, TINY] } else { [0.0; 2] };
        if keys.is_empty() {
            return;
        }
        let kv_head = h / (self.case.q.shape.heads / heads);
        // Weights that are all zero: zeros, but for values that make NaN with them.
        let is_undefined = shares.are_none && !v.is_finite;
        if shares.is_out_of_range || is_undefined || len as f64 * v.largest >= LIMIT {
            return bounds.fill(f64::INFINITY);
        }
        for ((key, error), share) in keys.iter().zip(&shares.errors).zip(&shares.shares) {
            let error = error + (share + error) * rounding;
            let values = self.case.v.row([b, kv_head, key.index]);
            for (bound, value) in bounds.iter_mut().zip(values) {
                *bound += error * size((*value).into());
            }
        }
        if self.pairs == Some(Pairs::I8) {
            self.bound_steps([b, kv_head], keys, shares, bounds);
        }
        // Weights below the smallest normal number may be zero, and so may products with them.
        let underflow = 2.0 * len as f64 * (TINY * v.largest + SUBNORMAL + flushed);
        for bound in bounds {
            // However wrong the weights: both results are averages of the values.
            *bound = bound.min(2.0 * v.largest) + underflow;
        }
    }

    /// Adds what weights that are integers are off by.
    fn bound_steps(&self, [b, kv_head]: [usize; 2], keys: &[Key], shares: &Shares, bounds: &mut [f64]) {
        let row = |key: &Key| self.case.v.row([b, kv_head, key.index]);
        let scale = |key: &Key| size(scale(row(key)).into());
        let weights = keys.iter().zip(shares.shares.iter().zip(&shares.errors));
        let heaviest = weights.map(|(key, (share, error))| (share + error) * scale(key)).fold(0.0, f64::max);
        for key in keys.iter().filter(|key| scale(key) > 0.0) {
            for (bound, value) in bounds.iter_mut().zip(row(key)) {
                *bound += STEP * heaviest * size((*value).into()) / scale(key);
            }
        }
    }

    /// What an inexact query makes a score off by.
    fn steps(&self, [b, h, i]: Row, j: usize) -> f64 {
        let kv_head = h / (self.case.q.shape.heads / self.case.k.shape.heads);
        let sizes = |row: &[f32]| row.iter().map(|x| size((*x).into())).collect::<Vec<_>>();
        let (query, key) = (sizes(self.case.q.row([b, h, i])), sizes(self.case.k.row([b, kv_head, j])));
        let scale = self.case.scale().abs();
        STEP * query.into_iter().fold(0.0, f64::max) * key.into_iter().sum::<f64>() * scale
    }

    fn key(&self, sequence: &Sequence, row: Row, index: usize) -> Key {
        let score = self.scores.row(row)[index];
        Key { index, score, error: self.score_error(sequence, row, index, Stage::Masked) }
    }

    /// The sink, a score without a key.
    fn sink(&self, [_, h, _]: Row) -> Option<Key> {
        let sink = f64::from(self.case.modifiers.sinks.as_ref()?[h]);
        let error = if size(sink) >= LIMIT { f64::INFINITY } else { FEW * U * size(sink) };
        (sink != f64::NEG_INFINITY).then_some(Key { index: 0, score: sink, error })
    }

    /// What a score is off by at some stage.
    fn score_error(&self, sequence: &Sequence, row @ [_, h, i]: Row, j: usize, stage: Stage) -> f64 {
        let Modifiers { softcap, alibi_slopes, bias, rule, .. } = &self.case.modifiers;
        let ([q, k, _], function) = (&self.ranges, &self.case.function);
        let gain = function.gain();
        let head_dim = match gain {
            1.0 => self.case.k.shape.dim,
            _ => self.case.k.shape.dim + self.case.q.shape.dim,
        } as f64;
        let cap = *softcap;
        let is_modified = cap.is_some() || alibi_slopes.is_some() || bias.is_some() || rule.is_some();
        let few = FEW
            + if is_modified { FEW_OF_MODIFIED } else { 0.0 }
            + if function.is_dot() { 0.0 } else { FEW_OF_FUNCTION };

        let unscaled = self.products.row(row)[j];
        let product = self.case.scale().abs() * unscaled;
        let scale = self.case.scale().abs() / cap.unwrap_or(1.0);
        // Times an infinite key, a query that vanishes when scaled is NaN instead of infinity.
        let (in_pairs, of_bf16) = (self.pairs.is_some(), self.pairs == Some(Pairs::Bf16));
        let least = if of_bf16 { TINY } else { 2.0 * SUBNORMAL / scale };
        let vanishes = (q.smallest < least || gain > 1.0) && !k.is_finite;
        let vanishes = vanishes || of_bf16 && k.smallest < TINY && !q.is_finite;
        let scales_queries = function.is_linear() && !in_pairs;
        let late_scale = if scales_queries { 1.0 } else { scale.max(1.0) };
        let largest = if scales_queries { scale * q.largest * gain } else { (q.largest * gain).max(unscaled) };
        // A scale of a whole key meets its bytes when these have been summed up.
        let of_bytes = if self.case.has_single_scales(&self.case.k) { 128.0 * head_dim } else { 0.0 };
        let largest = largest.max(of_bytes * scale * q.largest * gain);
        let is_out_of_range = largest >= LIMIT || product >= LIMIT || product / cap.unwrap_or(1.0) >= LIMIT || vanishes;
        // A scale so small that it is rounded as a subnormal, and queries and products that become subnormal when scaled.
        let scale_error = if scale > 0.0 { SUBNORMAL / scale } else { 0.0 };
        let scaling_error = head_dim * SUBNORMAL * gain * (k.largest + 10.0) * (cap.unwrap_or(0.0) + 1.0) * late_scale;
        let inexact = if of_bf16 {
            2.0 * head_dim * TINY * (q.largest + k.largest + 1.0) * self.case.scale().abs()
        } else if in_pairs {
            self.steps(row, j)
        } else {
            0.0
        };
        let error = ((head_dim + few) * U + scale_error) * product + scaling_error + inexact;
        if is_out_of_range {
            return f64::INFINITY;
        }
        // The softcap's own error is in proportion to its result: at most the cap, and at most the score, if that is finite.
        let most = if q.is_finite && k.is_finite { product } else { f64::INFINITY };
        let error = error + few * U * cap.map_or(0.0, |cap| cap.min(most));
        if stage < Stage::Masked {
            return error;
        }

        let bias = f64::from(self.case.modifiers.bias_at(row, j));
        let slope = size(alibi_slopes.as_ref().map_or(0.0, |slopes| slopes[h].into()));
        let distance = sequence.distance(i, j).abs();
        let biases = slope * distance.max(1) as f64;
        if biases >= LIMIT || (bias.is_finite() && bias >= LIMIT) {
            return f64::INFINITY;
        }
        let roundings = if distance + (self.case.kv_len() as i128) < EXACT { few } else { 2.0 * few };
        let added = if rule.is_some() { MOST_ADDED } else { 0.0 };
        let score = self.scores.row(row)[j];
        let sizes = size(score) + size(bias) + added;
        let excess = match bias {
            // Beyond the range of f32, which a caller's own modification is given.
            _ if score.is_infinite() && bias < LEAST_BIAS => 2.0 * f64::from(f32::MAX),
            bias if bias.is_finite() => (LEAST_BIAS - bias).max(0.0),
            _ => 0.0,
        };
        error + few * U * sizes + roundings * U * biases + excess
    }

    /// What a sum of weights is off by, in proportion.
    fn sum_error(&self) -> f64 {
        (self.case.kv_len() as f64 + FEW) * U
    }
}

/// The smallest normal number.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// How far off the softmax of a row may be.
struct Shares {
    /// Each key's weight, and what it is off by.
    shares: Vec<f64>,
    errors: Vec<f64>,
    lse_error: f64,
    /// Where f32 promises nothing.
    is_out_of_range: bool,
    /// No score is above -infinity.
    are_none: bool,
}

impl Shares {
    fn new(lse: f64, keys: &[Key], sink: Option<Key>, sum_error: f64) -> Self {
        let all = || keys.iter().copied().chain(sink);
        let is_out_of_range = all().any(|key| key.error == f64::INFINITY);
        let are_none = lse == f64::NEG_INFINITY;
        if is_out_of_range || !lse.is_finite() {
            let lse_error = match (is_out_of_range, are_none) {
                (true, _) => f64::INFINITY,
                (_, true) => 0.0,
                // Not a number, or infinite.
                _ => U,
            };
            let error = if is_out_of_range { f64::INFINITY } else { 0.0 };
            let shares = vec![0.0; keys.len()];
            return Self { shares, errors: vec![error; keys.len()], lse_error, is_out_of_range, are_none };
        }
        // Differences to the maximum are rounded too.
        let max = lse.abs() + (all().count() as f64).ln();
        let error = |key: &Key| key.error + 4.0 * U * (size(key.score) + max);
        let total: f64 = all().map(|key| raised(key.score - lse, error(&key))).sum();
        let total_error = total.ln().max(0.0);
        let share_error = |key: &Key| {
            let exponent = error(key) + total_error + 2.0 * sum_error;
            let gain = (key.score - lse).exp() * exponent.exp_m1();
            if exponent < 1.0 { gain } else { raised(key.score - lse, exponent) }
        };
        let lse_error = if keys.is_empty() { sink.map_or(0.0, |sink| sink.error) } else { total_error + sum_error };
        Self {
            shares: keys.iter().map(|key| raised(key.score - lse, 0.0)).collect(),
            errors: keys.iter().map(share_error).collect(),
            lse_error: lse_error + 4.0 * U * lse.abs(),
            is_out_of_range,
            are_none,
        }
    }
}

/// `e^(x + error)`, zero where `x` is -infinity.
fn raised(x: f64, error: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { (x + error).exp() }
}
