//! `f64` in `wide`'s vectors: half as many lanes.

use super::{Portable, SCALAR};
use crate::{
    element::Bf16,
    math::exp::{NEAREST_F64, polynomial},
    simd::{Double, Kernel, NoPairs, Simd, Task},
};

#[cfg(target_feature = "avx512f")]
mod width {
    pub(super) use wide::f64x8 as Floats;
    pub(super) const LANES: usize = 8;
}
#[cfg(all(target_feature = "avx2", not(target_feature = "avx512f")))]
mod width {
    pub(super) use wide::f64x4 as Floats;
    pub(super) const LANES: usize = 4;
}
#[cfg(not(target_feature = "avx2"))]
mod width {
    pub(super) use wide::f64x2 as Floats;
    pub(super) const LANES: usize = 2;
}

use width::{Floats, LANES};

/// At this magnitude the spacing of f64 is one: what is added to it is rounded to an integer, in the sum's last bits. With 1023 added too, the
/// biased exponent of that power of two.
const MAGIC: f64 = 6_755_399_441_055_744.0;

impl Simd for Double<Portable> {
    type Scalar = f64;
    type Vector = Floats;
    type Mask = Floats;
    type Square = [Floats; LANES];
    type Bf16Pairs = NoPairs<Bf16>;
    type I8Pairs = NoPairs<i8>;
    type I8Fours = NoPairs<[i8; 4]>;
    type Double = Self;

    const LANES: usize = LANES;
    const MAX_COLS: usize = <Portable as Simd>::MAX_COLS;
    const FEW: usize = if LANES < 4 { 1 } else { 4 };
    const BLOCKS: usize = <Portable as Simd>::BLOCKS;
    const KEY_TILE: usize = <Portable as Simd>::KEY_TILE;
    const FAR: Option<usize> = <Portable as Simd>::FAR;

    crate::kernel::products_of_rows!(#[inline]);

    #[inline(always)]
    fn double(self) -> Self {
        self
    }

    #[inline(always)]
    fn run<K: Kernel<Scalar = f64>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            _ if SCALAR => kernel.run::<Self, 4, 4, 1>(self),
            1 => kernel.run::<Self, 8, 8, 1>(self),
            2 => kernel.run::<Self, 5, 4, 2>(self),
            _ => kernel.run::<Self, 3, 2, 3>(self),
        }
    }

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.0.call(task)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        Floats::splat(f64::from(x))
    }

    #[inline(always)]
    fn broadcast(self, x: f64) -> Floats {
        Floats::splat(x)
    }

    #[inline(always)]
    fn load(self, from: &[f64]) -> Floats {
        padded(from, |x| x)
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> Floats {
        padded(from, f64::from)
    }

    #[inline(always)]
    fn load_f64(self, from: &[f64]) -> Floats {
        self.load(from)
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut [f64]) {
        let lanes = x.to_array();
        match to.first_chunk_mut::<LANES>() {
            Some(full) => *full = lanes,
            None => to.iter_mut().zip(&lanes).for_each(|(x, lane)| *x = *lane),
        }
    }

    #[inline(always)]
    fn store_f64(self, x: Floats, to: &mut [f64]) {
        self.store(x, to);
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        a * b
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        a / b
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        // Where an operand is NaN, `fast_max` differs between targets; on these it is what is wanted.
        if cfg!(target_feature = "sse2") { a.fast_max(b) } else { b.simd_lt(a).select(a, b) }
    }

    #[inline(always)]
    fn less(self, a: Floats, b: Floats) -> Floats {
        a.simd_lt(b)
    }

    #[inline(always)]
    fn select(self, mask: Floats, a: Floats, b: Floats) -> Floats {
        mask.select(a, b)
    }

    #[inline(always)]
    fn exp2(self, x: Floats) -> Floats {
        // The power of -1023 comes out as zero. In this order, a NaN in `x` stays.
        let x = self.max(self.splat(-1023.0), x);
        let biased = self.broadcast(MAGIC + 1023.0);
        let shifted = x + biased;
        polynomial(self, x - (shifted - biased), NEAREST_F64) * exponent(shifted)
    }

    #[inline(always)]
    fn round(self, x: Floats) -> Floats {
        (x + self.broadcast(MAGIC)) - self.broadcast(MAGIC)
    }

    #[inline(always)]
    fn power_of_two(self, n: Floats) -> Floats {
        exponent(n + self.broadcast(MAGIC + 1023.0))
    }

    #[inline(always)]
    fn has_bit(self, bits: Floats, bit: u32) -> Floats {
        // SSE2 compares no integers of 64 bits: the bit becomes one of the last of a number between 1 and 2.
        let one = self.splat(1.0);
        one.simd_lt((bits & self.broadcast(f64::from_bits(1 << (bit % 32)))) | one)
    }

    #[inline(always)]
    fn zeros(self) -> [Floats; LANES] {
        [Floats::splat(0.0); LANES]
    }

    #[inline(always)]
    fn transpose(self, square: &mut [Floats; LANES]) {
        *square = Floats::transpose(*square);
    }

    #[inline(always)]
    fn sum_each(self, of: [Floats; 4]) -> [f64; 4] {
        let mut sums = [0.0; 4];
        for i in 0..4 {
            sums[i] = of[i].reduce_add();
        }
        sums
    }

    #[inline(always)]
    fn max_each(self, of: [Floats; 4]) -> [f64; 4] {
        let mut largest = [f64::NEG_INFINITY; 4];
        for i in 0..4 {
            for lane in of[i].to_array() {
                largest[i] = if lane > largest[i] { lane } else { largest[i] };
            }
        }
        largest
    }
}

/// Whole vectors, or as many elements as there are and zeros.
#[inline(always)]
fn padded<T: Copy>(from: &[T], convert: impl Fn(T) -> f64) -> Floats {
    let mut lanes = [0.0; LANES];
    match from.first_chunk::<LANES>() {
        Some(full) => {
            for i in 0..LANES {
                lanes[i] = convert(full[i]);
            }
        }
        None => lanes.iter_mut().zip(from).for_each(|(lane, x)| *lane = convert(*x)),
    }
    Floats::new(lanes)
}

/// The power of two whose biased exponent is in the last bits of each lane.
#[inline(always)]
fn exponent(biased: Floats) -> Floats {
    Floats::from_bits(biased.to_bits() << 52)
}
