//! Answers compared bit for bit.

use core::fmt::{Debug, LowerExp};

use super::{case::Answer, tensor::Row};
use simd_attention::Float;

/// What may lie in memory that nobody is to look at: quiet and signalling NaNs with all kinds of payloads, infinities, extremes.
pub const GARBAGE: [f32; 9] = [
    f32::NAN,
    f32::from_bits(0xffc0_0000),
    f32::from_bits(0x7fc0_0001),
    f32::from_bits(0x7fff_ffff),
    f32::from_bits(0x7f80_0001),
    f32::from_bits(0xffa5_5aff),
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
];

/// Those of [`GARBAGE`] that are NaN.
pub fn nans() -> impl Iterator<Item = f32> {
    GARBAGE.into_iter().filter(|x| x.is_nan())
}

/// The same bits; which NaN a NaN is, Rust leaves open.
pub fn same<T: Into<f64>>(a: T, b: T) -> bool {
    // No two numbers of f32 become one.
    let (a, b) = (a.into(), b.into());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// One row of an answer equals, bit for bit, one of another.
#[track_caller]
pub fn assert_same_row<T>(what: &str, (a, row_a): (&Answer<T>, Row), (b, row_b): (&Answer<T>, Row))
where
    T: Float<Sum = T> + Debug + LowerExp,
{
    let (lse_a, lse_b) = (a.lse[a.out.index(row_a)], b.lse[b.out.index(row_b)]);
    assert!(same(lse_a, lse_b), "{what}: lse of {row_a:?} is {lse_a:e}, that of {row_b:?} {lse_b:e}");
    let assert_all = |kind: &str, a: &[T], b: &[T]| {
        let all_same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
        assert!(all_same, "{what}: {kind} {row_a:?} is\n{a:?}, {row_b:?}\n{b:?}");
    };
    assert_all("output", a.out.row(row_a), b.out.row(row_b));
    if let (Some(a), Some(b)) = (&a.scores, &b.scores) {
        assert_all("scores", a.row(row_a), b.row(row_b));
    }
}

/// As [`assert_same_row`], for every row.
#[track_caller]
pub fn assert_same<T: Float<Sum = T> + Debug + LowerExp>(what: &str, a: &Answer<T>, b: &Answer<T>) {
    a.out.rows().for_each(|row| assert_same_row(what, (a, row), (b, row)));
}
