//! `wide`'s vectors, as wide as the build's target features allow: SSE2, AVX, AVX-512, NEON, wasm simd128, or plain scalar code.

mod double;

use super::{Double, Kernel, NoPairs, Simd, Task};
use crate::{
    element::Bf16,
    math::exp::{NEAREST, polynomial},
};

#[cfg(target_feature = "avx512f")]
mod width {
    pub(super) use wide::{f32x16 as Floats, i32x16 as Ints};
    pub(super) const LANES: usize = 16;
}
#[cfg(all(target_feature = "avx2", not(target_feature = "avx512f")))]
mod width {
    pub(super) use wide::{f32x8 as Floats, i32x8 as Ints};
    pub(super) const LANES: usize = 8;
}
#[cfg(not(target_feature = "avx2"))]
mod width {
    pub(super) use wide::{f32x4 as Floats, i32x4 as Ints};
    pub(super) const LANES: usize = 4;
}

use width::{Floats, Ints, LANES};

/// Without vector instructions, as on a microcontroller, registers and memory are few and there is no cache to think of.
const SCALAR: bool = !cfg!(any(
    target_feature = "sse2",
    target_feature = "simd128",
    all(target_feature = "neon", target_arch = "aarch64")
));

/// At this magnitude the spacing of f32 is one: what is added to it is rounded to an integer, in the sum's last bits. With 127 added too, the
/// biased exponent of that power of two.
const MAGIC: f32 = 12_582_912.0;

/// Available everywhere.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type Scalar = f32;
    type Vector = Floats;
    type Mask = Floats;
    type Square = [Floats; LANES];
    type Bf16Pairs = NoPairs<Bf16>;
    type I8Pairs = NoPairs<i8>;
    type I8Fours = NoPairs<[i8; 4]>;
    type Double = Double<Self>;

    const LANES: usize = LANES;
    const MAX_COLS: usize = if SCALAR { 1 } else { 3 };
    const FEW: usize = if SCALAR { 1 } else { 4 };
    const BLOCKS: usize = if SCALAR { 1 } else { 8 };
    const KEY_TILE: usize = if SCALAR { 16 } else { 96 };
    const FAR: Option<usize> = if SCALAR { None } else { Some(1 << 13) };

    #[inline(always)]
    fn run<K: Kernel<Scalar = f32>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            _ if SCALAR => kernel.run::<Self, 4, 4, 1>(self),
            1 => kernel.run::<Self, 8, 8, 1>(self),
            2 => kernel.run::<Self, 5, 4, 2>(self),
            _ => kernel.run::<Self, 3, 2, 3>(self),
        }
    }

    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        task.run()
    }

    crate::kernel::products_of_rows!();

    #[inline(always)]
    fn double(self) -> Double<Self> {
        Double(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        Floats::splat(x)
    }

    #[inline(always)]
    fn broadcast(self, x: f32) -> Floats {
        self.splat(x)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Floats {
        padded(from, |x| x)
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> Floats {
        self.load(from)
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> Floats {
        padded(from, f32::from)
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_f16(self, from: &[half::f16]) -> Floats {
        padded(from, |x| {
            let (sign, magnitude) = (u32::from(x.to_bits() & 0x8000), u32::from(x.to_bits() & 0x7fff));
            // With the bits where `f32` has them, the number is this much too small; infinities and NaN get their exponent back.
            let magnitude = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
            let infinite = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
            f32::from_bits(magnitude.to_bits() | infinite | sign << 16)
        })
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_bf16(self, from: &[half::bf16]) -> Floats {
        padded(from, |x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut [f32]) {
        let lanes = x.to_array();
        match to.first_chunk_mut::<LANES>() {
            Some(full) => *full = lanes,
            None => to.iter_mut().zip(&lanes).for_each(|(x, lane)| *x = *lane),
        }
    }

    #[inline(always)]
    fn store_f32(self, x: Floats, to: &mut [f32]) {
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
        if cfg!(target_feature = "sse") { a.fast_max(b) } else { b.simd_lt(a).select(a, b) }
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
        // The power of -127 comes out as zero. In this order, a NaN in `x` stays.
        let x = self.max(self.splat(-127.0), x);
        let biased = self.splat(MAGIC + 127.0);
        let shifted = x + biased;
        polynomial(self, x - (shifted - biased), NEAREST) * floats(bits(shifted) << 23)
    }

    #[inline(always)]
    fn round(self, x: Floats) -> Floats {
        (x + self.splat(MAGIC)) - self.splat(MAGIC)
    }

    #[inline(always)]
    fn power_of_two(self, n: Floats) -> Floats {
        floats(bits(n + self.splat(MAGIC + 127.0)) << 23)
    }

    #[inline(always)]
    fn has_bit(self, x: Floats, bit: u32) -> Floats {
        let bit = Ints::splat((1u32 << (bit % 32)).cast_signed());
        floats((bits(x) & bit).simd_eq(bit))
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
    fn sum_each(self, of: [Floats; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        for i in 0..4 {
            sums[i] = of[i].reduce_add();
        }
        sums
    }

    #[inline(always)]
    fn max_each(self, of: [Floats; 4]) -> [f32; 4] {
        let mut largest = [f32::NEG_INFINITY; 4];
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
fn padded<T: Copy>(from: &[T], convert: impl Fn(T) -> f32) -> Floats {
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

/// The bits of each lane.
#[inline(always)]
fn bits(x: Floats) -> Ints {
    let (lanes, mut bits) = (x.to_array(), [0; LANES]);
    for i in 0..LANES {
        bits[i] = lanes[i].to_bits().cast_signed();
    }
    Ints::new(bits)
}

/// The lanes of these bits.
#[inline(always)]
fn floats(x: Ints) -> Floats {
    let (bits, mut lanes) = (x.to_array(), [0.0; LANES]);
    for i in 0..LANES {
        lanes[i] = f32::from_bits(bits[i].cast_unsigned());
    }
    Floats::new(lanes)
}
