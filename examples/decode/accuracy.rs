//! How far bytes may be off, and how far they are.
//!
//! A row whose largest magnitude is `M` is quantised to multiples of `M / 127`, so that each element is off by at most `M / 254`
//! ([`simd_attention::quantize`]). With keys of magnitudes up to `K` and values up to `V`, two things follow.
//!
//! 1. No score `scale * q . k` is off by more than `d = scale * |q|_1 * K / 254`. From some keys to others, softmax weights of such scores move
//!    by `tanh(d / 2)` at most, and those keys' values differ by at most `2 V`; the values themselves are off as well. So no element of an
//!    output is off by more than `2 V tanh(d / 2) + V / 254`: always, but hardly ever by nearly as much, as rounding errors would all have to be
//!    as large as they can be, and to point the same way.
//! 2. Rounding errors are much like independent random numbers, whose mean square is that of their step over 12. Queries have a mean
//!    square of 1 here, so that scores are off by as much as the elements of keys: by `(K / 127)^2 / 12` in the mean square. Values have one
//!    of 1 too and are about independent, so that of an output `sum p v` is at least `sum p^2`; its errors add up to `sum p^2` times those of
//!    scores and values. Their root mean square is therefore expected to be `sqrt((K^2 + V^2) / 12) / 127` of the output's, or less.

use std::{error::Error, fmt};

/// In place of 254: the difference is far more than what f32 rounds.
const PARTS: f64 = 250.0;
/// How often the expected error is allowed: for chance, which has few numbers to even out in small layers.
const ALLOWED: f64 = 2.0;

/// The largest magnitudes among all keys and all values so far.
#[derive(Clone, Copy, Default)]
pub struct Magnitudes {
    key: f64,
    value: f64,
}

impl Magnitudes {
    pub fn observe(&mut self, keys: &[f32], values: &[f32]) {
        self.key = largest(keys).max(self.key);
        self.value = largest(values).max(self.value);
    }

    /// What the error of no element exceeds, for queries of `dim` elements.
    pub fn bound(&self, queries: &[f32], dim: usize) -> f64 {
        let norm = |query: &[f32]| query.iter().map(|&x| f64::from(x).abs()).sum::<f64>();
        let norm = queries.chunks_exact(dim).map(norm).fold(0.0, f64::max);
        let of_scores = norm / (dim as f64).sqrt() * self.key / PARTS;
        self.value * (2.0 * (of_scores / 2.0).tanh() + 1.0 / PARTS)
    }

    /// The root mean square of the error relative to that of the output.
    pub fn expected(&self) -> f64 {
        ((self.key * self.key + self.value * self.value) / 12.0).sqrt() / 127.0
    }
}

fn largest(numbers: &[f32]) -> f64 {
    numbers.iter().map(|&x| f64::from(x).abs()).fold(0.0, f64::max)
}

/// Errors over some steps, relative to the root mean square of each step's outputs.
#[derive(Clone, Copy, Default)]
pub struct Accuracy {
    steps: usize,
    mean_squares: f64,
    largest: f64,
    /// The largest part of its bound that an error has reached.
    of_bound: f64,
}

impl Accuracy {
    /// Of one step. NaN is infinitely far off.
    pub fn new(exact: &[f32], actual: &[f32], bound: f64) -> Self {
        let differences =
            exact.iter().zip(actual).map(|(&exact, &actual)| (f64::from(exact) - f64::from(actual)).abs());
        let differences = differences.map(|d| if d.is_nan() { f64::INFINITY } else { d });
        let (largest, squares) = differences.fold((0f64, 0.0), |(largest, sum), d| (largest.max(d), sum + d * d));
        let output_squares: f64 = exact.iter().map(|&x| f64::from(x).powi(2)).sum();
        let rms = (output_squares / exact.len() as f64).sqrt();
        Self { steps: 1, mean_squares: squares / output_squares, largest: largest / rms, of_bound: largest / bound }
    }

    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.mean_squares += other.mean_squares;
        self.largest = self.largest.max(other.largest);
        self.of_bound = self.of_bound.max(other.of_bound);
    }

    pub fn largest(&self) -> f64 {
        self.largest
    }

    pub fn rms(&self) -> f64 {
        (self.mean_squares / self.steps as f64).sqrt()
    }

    /// Whether all is within the two bounds.
    pub fn check(&self, magnitudes: &Magnitudes) -> Result<(), Box<dyn Error>> {
        let [rms, allowed] = [self.rms(), ALLOWED * magnitudes.expected()];
        if self.of_bound > 1.0 {
            let times = self.of_bound;
            return Err(format!("an output is off by {times:.3} times as much as bytes can be to blame for").into());
        }
        if rms <= allowed {
            return Ok(());
        }
        let [rms, allowed] = [rms, allowed].map(|part| 100.0 * part);
        Err(format!("the rms error is {rms:.3} % of the output's, more than the {allowed:.3} % that bytes explain")
            .into())
    }

    /// The errors beside what is allowed.
    pub fn beside<'a>(&'a self, magnitudes: &'a Magnitudes) -> impl fmt::Display + 'a {
        fmt::from_fn(|f| {
            let [largest, rms, expected] = [self.largest, self.rms(), magnitudes.expected()].map(|part| 100.0 * part);
            let (of_bound, allowed) = (100.0 * self.of_bound, ALLOWED * expected);
            writeln!(
                f,
                "largest error  {largest:.2} % of the output's rms, {of_bound:.1} % of what bytes can do at worst"
            )?;
            writeln!(
                f,
                "rms error      {rms:.2} % of the output's rms; expected: up to {expected:.2} %, allowed: {allowed:.2} %"
            )
        })
    }
}
