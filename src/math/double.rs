//! Functions over vectors of `f64` held to what they should give, on pseudo-random arguments.

use core::f64::consts::{LN_2, LOG2_E};
use std::println;

use super::tanh::tanh;
use crate::{
    Backend, Scalar,
    simd::{Kernel, Simd, with_simd},
};

/// The sum of two `f64`, of which the second is below the last place of the first: some 105 bits.
type Double = [f64; 2];

fn normal(large: f64, small: f64) -> Double {
    let sum = large + small;
    [sum, small - (sum - large)]
}

fn add(a: Double, b: Double) -> Double {
    let sum = a[0] + b[0];
    let of_b = sum - a[0];
    normal(sum, (a[0] - (sum - of_b)) + (b[0] - of_b) + (a[1] + b[1]))
}

fn mul(a: Double, b: Double) -> Double {
    let product = a[0] * b[0];
    normal(product, a[0].mul_add(b[0], -product) + (a[0] * b[1] + a[1] * b[0]))
}

fn div(a: Double, b: Double) -> Double {
    let quotient = a[0] / b[0];
    normal(quotient, add(a, mul([-quotient, 0.0], b))[0] / b[0])
}

/// `e^t - 1` for `|t|` up to ln(2)/2: the first terms of its series, those that matter little in f64.
fn exp_less_one(t: Double) -> Double {
    let rest = (7..=18).rev().fold(1.0, |sum, k| 1.0 + sum * t[0] / f64::from(k));
    let sum = (2..7).rev().fold([rest, 0.0], |sum, k| add([1.0, 0.0], div(mul(sum, t), [f64::from(k), 0.0])));
    mul(t, sum)
}

const EXACT_LN_2: Double = [LN_2, f64::from_bits(0x3c7a_bc9e_3b39_803f)];

/// `2^r` for `|r|` up to 1/2, off by some 1e-21 of it.
fn exact_exp2(r: f64) -> Double {
    add([1.0, 0.0], exp_less_one(mul([r, 0.0], EXACT_LN_2)))
}

/// `tanh(x)`, likewise, for `|x|` from 1e-300 to 300.
fn exact_tanh(x: f64) -> Double {
    let n = (2.0 * LOG2_E * x).round();
    let less_one = exp_less_one(add([2.0 * x, 0.0], mul([-n, 0.0], EXACT_LN_2)));
    let less_one = less_one.map(|part| part * 2f64.powi(n as i32));
    let less_one = add(less_one, add([2f64.powi(n as i32), 0.0], [-1.0, 0.0]));
    div(less_one, add(less_one, [2.0, 0.0]))
}

/// The distance in units of the last place of an f64 of `exact`'s magnitude.
fn ulps(actual: f64, exact: Double) -> f64 {
    let power_of_two = f64::from_bits(exact[0].to_bits() & f64::INFINITY.to_bits());
    ((actual - exact[0]) - exact[1]).abs() / (power_of_two * f64::EPSILON)
}

/// How far off `2^x` is, for a normal result.
fn exp2_ulps(actual: f64, x: f64) -> f64 {
    let n = x.round();
    // What it is a power of two too large by is taken from its exponent.
    ulps(f64::from_bits(actual.to_bits().wrapping_sub((n as i64).cast_unsigned() << 52)), exact_exp2(x - n))
}

/// How far off `tanh(x)` is.
fn tanh_ulps(actual: f64, x: f64) -> f64 {
    ulps(actual, exact_tanh(x))
}

/// Pseudo-random, from 0 up to 1.
fn unit(seed: u64) -> f64 {
    let x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// So many numbers of a range, any as likely; or of one with a sign of its own, any `f64`.
fn numbers(count: u64, low: f64, high: f64) -> impl Iterator<Item = f64> {
    (1..=count).map(move |seed| low + (high - low) * unit(seed))
}

fn floats(count: u64, near: f64, far: f64) -> impl Iterator<Item = f64> {
    let bits = (far.to_bits() - near.to_bits()) as f64;
    (1..=count).map(move |seed| f64::from_bits(near.to_bits() + (bits * unit(seed)) as u64))
}

/// The worst, and where; NaN if any is.
fn worst(errors: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    errors.fold((0.0, 0.0), |worst, error| if error.0 > worst.0 || error.0.is_nan() { error } else { worst })
}

/// The largest error of `2^x`, in ulp, over `-1022 < x < 1023`, and where it is.
fn exp2_error(of: impl Fn(f64) -> f64, count: u64) -> (f64, f64) {
    let all = numbers(count, (-1022f64).next_up(), 1023.0).chain(numbers(count, -1.5, 1.5));
    let all = all.chain(floats(count / 4, 1e-20, 0.5)).chain(floats(count / 4, -1e-20, -0.5));
    worst(all.map(|x| (exp2_ulps(of(x), x), x)))
}

/// The largest error of `tanh(x)`, in ulp, over `1e-300 < |x| < 22`, and where it is.
fn tanh_error(of: impl Fn(f64) -> f64, count: u64) -> (f64, f64) {
    let all = [1.0, -1.0].into_iter().flat_map(|sign| {
        let near = floats(count / 4, 1e-300, 1e-9).chain(floats(count / 4, 1e-9, 0.1));
        // Where it is furthest off, and the rest.
        near.chain(floats(count, 0.1, 0.7)).chain(floats(count / 2, 0.7, 22.0)).map(move |x| x.copysign(sign))
    });
    worst(all.map(|x| (tanh_ulps(of(x), x), x)))
}

/// `2^x` where it is not normal, or exact.
fn exp2_edges(of: impl Fn(f64) -> f64) {
    for (x, expected) in [(0.0, 1.0), (-0.0, 1.0), (f64::NEG_INFINITY, 0.0), (f64::MIN, 0.0)] {
        assert_eq!(of(x).to_bits(), f64::to_bits(expected), "2^{x}");
    }
    for n in -1021..=1023 {
        assert_eq!(of(f64::from(n)), 2f64.powi(n), "2^{n}");
    }
    for x in numbers(20_000, -1080.0, -1022.0).chain(floats(20_000, -1080.0, f64::MIN)) {
        // The exact result lies there too.
        assert!((0.0..=f64::MIN_POSITIVE).contains(&of(x)), "2^{x} is not {:e}", of(x));
    }
    assert!(nans().all(|nan| of(nan).is_nan()));
}

/// `tanh(x)` where it is 1, or `x`.
fn tanh_edges(of: impl Fn(f64) -> f64) {
    for (x, expected) in [(0.0, 0.0), (20.0, 1.0), (f64::MAX, 1.0), (f64::INFINITY, 1.0)] {
        assert_eq!(of(x), expected, "tanh {x}");
        assert_eq!(of(-x), -expected, "tanh -{x}");
    }
    for x in floats(20_000, f64::from_bits(1), 1e-300) {
        for x in [x, -x] {
            // To within two units, be they of the subnormal numbers.
            assert!((of(x) - x).abs() <= (2.0 * f64::EPSILON * x.abs()).max(1e-323), "tanh {x:e}");
        }
    }
    for x in floats(20_000, 1.0, f64::MAX) {
        assert!(of(x) <= 1.0 && of(-x) >= -1.0, "tanh {x:e}");
    }
    assert!(nans().all(|nan| of(nan).is_nan()));
}

fn nans() -> impl Iterator<Item = f64> {
    let payloads = (0..52).map(|bit| f64::INFINITY.to_bits() | 1 << bit);
    payloads.flat_map(|bits| [bits, bits | 1 << 63]).map(f64::from_bits)
}

#[derive(Clone, Copy)]
enum Function {
    Exp2,
    Tanh,
}

/// Of one number, in all lanes.
struct Once {
    x: f64,
    of: Function,
}

impl Kernel for Once {
    type Scalar = f64;
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd<Scalar = f64>, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> f64 {
        let (x, mut lanes) = (simd.broadcast(self.x), [0.0; 16]);
        let result = match self.of {
            Function::Exp2 => simd.exp2(x),
            Function::Tanh => tanh(simd, x),
        };
        simd.store(result, &mut lanes);
        lanes[0]
    }
}

/// On each backend.
fn each(of: Function, check: impl Fn(Backend, &dyn Fn(f64) -> f64)) {
    for backend in Backend::available() {
        let Some(token) = backend.token() else { continue };
        check(backend, &|x| with_simd!(token, simd => f64::simd(simd).run(1, Once { x, of })));
    }
}

/// Of each function.
const COUNT: u64 = 200_000;

/// 0.798 units in the last place are seen with fused multiply-add and 1.081 without, over millions of numbers.
#[test]
fn exp2_of_many() {
    each(Function::Exp2, |backend, of| {
        let (error, x) = exp2_error(of, COUNT);
        println!("{backend}: at most {error:.3} ulp off, at {x:e}");
        assert!(error <= 1.15);
        exp2_edges(of);
    });
}

/// Likewise, 2.597 and 2.557.
#[test]
fn tanh_of_many() {
    each(Function::Tanh, |backend, of| {
        let (error, x) = tanh_error(of, COUNT);
        println!("{backend}: at most {error:.3} ulp off, at {x:e}");
        assert!(error <= 2.65);
        tanh_edges(of);
    });
}

/// What they are compared with: the standard library's are off by little more than half a unit, and by some two.
#[test]
fn exact_is_as_exact_as_it_says() {
    let (error, x) = exp2_error(f64::exp2, COUNT);
    assert!(error <= 0.8, "{error} at {x:e}");
    let (error, x) = tanh_error(f64::tanh, COUNT);
    assert!(error <= 2.3, "{error} at {x:e}");
}
