//! What is done to each element or each row between the linear layers.
//!
//! Plain loops, compiled by `pulp` for the vectors of the CPU that runs them. They are shaped so that the compiler vectorises them: no
//! branches, and sums in lanes.

use pulp::Arch;

/// Where `Q` is taken to end: past it, a GELU is its argument or zero as far as f32 can tell.
const END: f32 = 5.5;

/// `Q(a) = P(Z > a)` for a normally distributed `Z`, as a polynomial in `2 a / END - 1`, the highest power first: a least-squares
/// fit at the Chebyshev nodes, weighted by `max(a, 0.3)`.
const TAIL: [f32; 17] = [
    0.0021495197,
    -0.0076698954,
    -0.001708811,
    0.036942225,
    -0.03437705,
    -0.05786517,
    0.12723136,
    -0.029218247,
    -0.16098772,
    0.21647912,
    -0.051762313,
    -0.17682731,
    0.2719181,
    -0.20683327,
    0.09455726,
    -0.025007533,
    0.0029797752,
];

/// Lanes of the sums below: independent, so that any vector's width divides them.
const LANES: usize = 32;

/// Gaussian error linear units (Hendrycks & Gimpel, 2016), the exact ones: `x (1 + erf(x / sqrt(2))) / 2`.
///
/// Computed as `max(x, 0) - |x| Q(|x|)`, which is the same but cancels nothing: the error stays below 3e-7, or that much of a result
/// above 1.
pub fn gelu(xs: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || xs.iter_mut().for_each(|x| *x = gelu_of(*x)),
    );
}

#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    let a = if x.abs() < END { x.abs() } else { END };
    let u = a * (2.0 / END) - 1.0;
    let tail = TAIL.iter().fold(0.0, |sum, coefficient| sum * u + coefficient);
    0.5 * (x + x.abs()) - a * tail
}

/// Layer normalisation (Ba et al., 2016): rows of mean 0 and variance 1, then stretched and moved.
pub struct LayerNorm {
    pub gain: Vec<f32>,
    pub bias: Vec<f32>,
    pub epsilon: f32,
}

impl LayerNorm {
    /// Normalises each row of `x + y` into `x`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        let dim = self.gain.len();
        Arch::new().dispatch(
            #[inline(always)]
            || x.chunks_exact_mut(dim).zip(y.chunks_exact(dim)).for_each(|(x, y)| self.add_row(x, y)),
        );
    }

    #[inline(always)]
    fn add_row(&self, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
        let dim = x.len() as f32;
        let mean = sum(x, |x| x) / dim;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / dim;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for (x, (gain, bias)) in x.iter_mut().zip(self.gain.iter().zip(&self.bias)) {
            *x = (*x - mean) * scale * gain + bias;
        }
    }
}

#[inline(always)]
fn sum(xs: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = xs.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += of(x);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| of(x)).sum::<f32>()
}

/// The mean of some rows, scaled to length 1. Of no rows, or of a mean of zero, it is NaN.
pub fn mean_direction(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        for (mean, x) in mean.iter_mut().zip(row) {
            *mean += x;
        }
    }
    // The number of rows cancels out.
    let length = dot(&mean, &mean).sqrt();
    mean.iter_mut().for_each(|x| *x /= length);
    mean
}

/// Of two directions, this is the cosine of the angle between them.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gelu_at(x: f32) -> f32 {
        let mut x = [x];
        gelu(&mut x);
        x[0]
    }

    /// Of the normal distribution, in f64: its series (Marsaglia, 2004), which converges everywhere.
    fn exact_gelu(x: f64) -> f64 {
        let (mut term, mut series) = (x, x);
        for i in 1..200 {
            term *= x * x / f64::from(2 * i + 1);
            series += term;
        }
        x * (0.5 + series * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }

    #[test]
    fn gelu_is_exact_to_f32() {
        // Neither end of the polynomial, nor a last incomplete vector, is left out.
        let xs: Vec<f32> = (-70_003..70_000).map(|i| i as f32 * 1e-4).collect();
        let mut actual = xs.clone();
        gelu(&mut actual);
        for (x, actual) in xs.into_iter().zip(actual) {
            let expected = exact_gelu(x.into());
            let error = (f64::from(actual) - expected).abs();
            assert!(error < 3e-7 * expected.abs().max(1.0), "gelu({x}) = {actual}, not {expected}");
            // Near zero, also relatively.
            assert!(x.abs() > 1.0 || error <= 1e-6 * expected.abs(), "gelu({x}) = {actual}, not {expected}");
        }
    }

    #[test]
    fn gelu_ends_as_it_should() {
        assert_eq!(gelu_at(0.0), 0.0);
        assert_eq!(gelu_at(1e30), 1e30);
        assert!(gelu_at(-1e30).abs() < 3e-7);
        assert!(gelu_at(f32::NAN).is_nan());
    }

    #[test]
    fn layer_norm_of_toy_numbers() {
        let norm = LayerNorm { gain: vec![1.0, 2.0, 1.0, 1.0], bias: vec![0.0, 0.0, 10.0, 0.0], epsilon: 0.0 };
        // Rows of mean 5 and variance 4, and of mean 0 and variance 1.
        let mut x = [1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0];
        norm.add(&mut x, &[2.0, 6.0, 2.0, 6.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(x, [-1.0, 2.0, 9.0, 1.0, 1.0, -2.0, 11.0, -1.0]);
    }

    #[test]
    fn layer_norm_sums_every_element() {
        let dim = 3 * LANES + 5;
        let norm = LayerNorm { gain: vec![1.0; dim], bias: vec![0.0; dim], epsilon: 1e-12 };
        let mut x: Vec<f32> = (0..dim).map(|i| (i % 7) as f32).collect();
        norm.add(&mut x, &vec![100.0; dim]);
        let mean = x.iter().sum::<f32>() / dim as f32;
        let variance = dot(&x, &x) / dim as f32;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
    }

    #[test]
    fn mean_of_toy_numbers() {
        assert_eq!(mean_direction(&[1.0, 8.0, 5.0, 0.0], 2), [0.6, 0.8]);
    }
}
