//! 4 lanes: `f64` in the registers of AVX2.

use core::arch::x86_64::*;

use super::Avx2;
use crate::{
    element::Bf16,
    math::exp::{NEAREST_F64, polynomial},
    simd::{Double, Kernel, NoPairs, Simd, Task, instructions},
};

/// At this magnitude the spacing of f64 is one: what is added to it is rounded to an integer, in the sum's last bits. With 1023 added too, the
/// biased exponent of that power of two, which no instruction of AVX2 makes of an f64.
const BIASED: f64 = 6_755_399_441_055_744.0 + 1023.0;

impl Double<Avx2> {
    /// The function in which a kernel is compiled for this backend. The features are those that `Avx2::new` checks.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn enabled<K: Kernel<Scalar = f64>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            1 => kernel.run::<Self, 8, 8, 1>(self),
            _ => kernel.run::<Self, 6, 4, 2>(self),
        }
    }
}

/// All ones in the words of 32 bits that the first `len` elements fill.
#[inline]
#[target_feature(enable = "avx2")]
fn words(len: usize) -> __m128i {
    _mm_cmpgt_epi32(_mm_set1_epi32(len.min(4) as i32), _mm_setr_epi32(0, 1, 2, 3))
}

/// All ones in the lanes that the first `len` elements fill.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(len: usize) -> __m256i {
    _mm256_cvtepi32_epi64(words(len))
}

/// All lanes of each of four vectors become one, by a sum or whatever else in whatever order: pairs of lanes that stand side by side as two vectors meet,
/// then halves of the register.
macro_rules! reduce {
    ($of:expr, $of_4:ident) => {{
        let [a, b, c, d] = $of;
        let ab = $of_4(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        let cd = $of_4(_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d));
        let all = $of_4(_mm256_blend_pd::<0b1100>(ab, cd), _mm256_permute2f128_pd::<0x21>(ab, cd));
        core::mem::transmute::<__m256d, [f64; 4]>(all)
    }};
}

impl Simd for Double<Avx2> {
    type Scalar = f64;
    type Vector = __m256d;
    type Mask = __m256d;
    type Square = [__m256d; 4];
    type Bf16Pairs = NoPairs<Bf16>;
    type I8Pairs = NoPairs<i8>;
    type I8Fours = NoPairs<[i8; 4]>;
    type Double = Self;

    const LANES: usize = 4;
    const MAX_COLS: usize = <Avx2 as Simd>::MAX_COLS;
    const FEW: usize = <Avx2 as Simd>::FEW;
    const BLOCKS: usize = <Avx2 as Simd>::BLOCKS;
    const KEY_TILE: usize = <Avx2 as Simd>::KEY_TILE;
    const FAR: Option<usize> = <Avx2 as Simd>::FAR;

    crate::kernel::products_of_rows!(#[inline]);

    #[inline(always)]
    fn double(self) -> Self {
        self
    }

    #[inline(always)]
    fn run<K: Kernel<Scalar = f64>>(self, cols: usize, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { self.enabled(cols, kernel) }
    }

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.0.call(task)
    }

    #[inline(always)]
    fn settled(self, x: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX.
        unsafe { _mm256_castps_pd(self.0.settled(_mm256_castpd_ps(x))) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256d {
        self.broadcast(f64::from(x))
    }

    #[inline(always)]
    fn broadcast(self, x: f64) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_set1_pd(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f64]) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2; four elements are read only if there are as many, else lanes past
        // the end of the slice are masked off.
        unsafe {
            if from.len() >= 4 {
                _mm256_loadu_pd(from.as_ptr())
            } else {
                _mm256_maskload_pd(from.as_ptr(), lanes(from.len()))
            }
        }
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> __m256d {
        // SAFETY: as above.
        unsafe {
            _mm256_cvtps_pd(if from.len() >= 4 {
                _mm_loadu_ps(from.as_ptr())
            } else {
                _mm_maskload_ps(from.as_ptr(), words(from.len()))
            })
        }
    }

    #[inline(always)]
    fn load_f64(self, from: &[f64]) -> __m256d {
        self.load(from)
    }

    #[inline(always)]
    fn store(self, x: __m256d, to: &mut [f64]) {
        // SAFETY: `self` exists, so the CPU has AVX2; four elements are written only if there are as many, else lanes past
        // the end of the slice are masked off.
        unsafe {
            if to.len() >= 4 {
                _mm256_storeu_pd(to.as_mut_ptr(), x);
            } else {
                _mm256_maskstore_pd(to.as_mut_ptr(), lanes(to.len()), x);
            }
        }
    }

    #[inline(always)]
    fn store_f64(self, x: __m256d, to: &mut [f64]) {
        self.store(x, to);
    }

    instructions! {
        __m256d:
        add(a, b) = _mm256_add_pd;
        sub(a, b) = _mm256_sub_pd;
        mul(a, b) = _mm256_mul_pd;
        div(a, b) = _mm256_div_pd;
        mul_add(a, b, c) = _mm256_fmadd_pd;
        max(a, b) = _mm256_max_pd;
    }

    #[inline(always)]
    fn less(self, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_cmp_pd::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __m256d, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_blendv_pd(b, a, mask) }
    }

    #[inline(always)]
    fn exp2(self, x: __m256d) -> __m256d {
        // The power of -1023 comes out as zero. In this order, a NaN in `x` stays; the exponent is not added, lest the bits of a NaN make a number of it.
        let x = self.max(self.splat(-1023.0), x);
        let biased = self.broadcast(BIASED);
        let shifted = self.add(x, biased);
        let r = self.sub(x, self.sub(shifted, biased));
        self.mul(polynomial(self, r, NEAREST_F64), self.exponent(shifted))
    }

    #[inline(always)]
    fn round(self, x: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m256d) -> __m256d {
        self.exponent(self.add(n, self.broadcast(BIASED)))
    }

    #[inline(always)]
    fn has_bit(self, bits: __m256d, bit: u32) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let bit = _mm256_set1_epi64x(1 << (bit % 32));
            _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_and_si256(_mm256_castpd_si256(bits), bit), bit))
        }
    }

    #[inline(always)]
    fn bitmask(self, of: &[bool; 32]) -> u32 {
        self.0.bitmask(of)
    }

    #[inline(always)]
    fn zeros(self) -> [__m256d; 4] {
        [self.splat(0.0); 4]
    }

    #[inline(always)]
    fn transpose(self, square: &mut [__m256d; 4]) {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { transpose(square) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m256d; 4]) -> [f64; 4] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { reduce!(of, _mm256_add_pd) }
    }

    #[inline(always)]
    fn max_each(self, of: [__m256d; 4]) -> [f64; 4] {
        // SAFETY: as above.
        unsafe { reduce!(of, _mm256_max_pd) }
    }
}

impl Double<Avx2> {
    /// The power of two whose biased exponent is in the last bits of each lane.
    #[inline(always)]
    fn exponent(self, biased: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(biased))) }
    }
}

/// Two rounds of pairwise exchanges: single lanes, then halves of the register.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(m: &mut [__m256d; 4]) {
    let even = [_mm256_unpacklo_pd(m[0], m[1]), _mm256_unpacklo_pd(m[2], m[3])];
    let odd = [_mm256_unpackhi_pd(m[0], m[1]), _mm256_unpackhi_pd(m[2], m[3])];
    // Of either, one half has the first such column, the other the second.
    *m = [
        _mm256_permute2f128_pd::<0x20>(even[0], even[1]),
        _mm256_permute2f128_pd::<0x20>(odd[0], odd[1]),
        _mm256_permute2f128_pd::<0x31>(even[0], even[1]),
        _mm256_permute2f128_pd::<0x31>(odd[0], odd[1]),
    ];
}
