//! 8 lanes: `f64` in the registers of AVX-512.

use core::arch::x86_64::*;

use super::Avx512;
use crate::{
    element::Bf16,
    math::exp::{NEAREST_F64, polynomial},
    simd::{Double, Kernel, NoPairs, Simd, Task, instructions},
};

impl Double<Avx512> {
    /// The function in which a kernel is compiled for this backend. The features are those that `Avx512::new` checks.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    fn enabled<K: Kernel<Scalar = f64>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            1 => kernel.run::<Self, 16, 16, 1>(self),
            2 => kernel.run::<Self, 8, 8, 2>(self),
            _ => kernel.run::<Self, 8, 8, 3>(self),
        }
    }
}

/// The lanes that the first `len` elements fill.
#[inline(always)]
fn lanes(len: usize) -> __mmask8 {
    if len >= 8 { u8::MAX } else { (1 << len) - 1 }
}

/// All lanes of each of four vectors become one, by a sum or whatever else in whatever order: pairs of lanes that stand side by side as two vectors meet,
/// then halves of the register and quarters.
macro_rules! reduce {
    ($of:expr, $of_8:ident, $of_4:ident) => {{
        let [a, b, c, d] = $of;
        let ab = $of_8(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        let cd = $of_8(_mm512_unpacklo_pd(c, d), _mm512_unpackhi_pd(c, d));
        let ab = $of_4(_mm512_castpd512_pd256(ab), _mm512_extractf64x4_pd::<1>(ab));
        let cd = $of_4(_mm512_castpd512_pd256(cd), _mm512_extractf64x4_pd::<1>(cd));
        let all = $of_4(_mm256_blend_pd::<0b1100>(ab, cd), _mm256_permute2f128_pd::<0x21>(ab, cd));
        core::mem::transmute::<__m256d, [f64; 4]>(all)
    }};
}

impl Simd for Double<Avx512> {
    type Scalar = f64;
    type Vector = __m512d;
    type Mask = __mmask8;
    type Square = [__m512d; 8];
    type Bf16Pairs = NoPairs<Bf16>;
    type I8Pairs = NoPairs<i8>;
    type I8Fours = NoPairs<[i8; 4]>;
    type Double = Self;

    const LANES: usize = 8;
    const MAX_COLS: usize = <Avx512 as Simd>::MAX_COLS;
    const FEW: usize = <Avx512 as Simd>::FEW;
    const BLOCKS: usize = <Avx512 as Simd>::BLOCKS;
    const KEY_TILE: usize = <Avx512 as Simd>::KEY_TILE;
    const FAR: Option<usize> = <Avx512 as Simd>::FAR;

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
    fn splat(self, x: f32) -> __m512d {
        self.broadcast(f64::from(x))
    }

    #[inline(always)]
    fn broadcast(self, x: f64) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_set1_pd(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f64]) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F; lanes past the end of the slice are masked off.
        unsafe { _mm512_maskz_loadu_pd(lanes(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F and VL; lanes past the end of the slice are masked off.
        unsafe { _mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes(from.len()), from.as_ptr())) }
    }

    #[inline(always)]
    fn load_f64(self, from: &[f64]) -> __m512d {
        self.load(from)
    }

    #[inline(always)]
    fn store(self, x: __m512d, to: &mut [f64]) {
        // SAFETY: `self` exists, so the CPU has AVX-512F; lanes past the end of the slice are masked off.
        unsafe { _mm512_mask_storeu_pd(to.as_mut_ptr(), lanes(to.len()), x) }
    }

    #[inline(always)]
    fn store_f64(self, x: __m512d, to: &mut [f64]) {
        self.store(x, to);
    }

    instructions! {
        __m512d:
        add(a, b) = _mm512_add_pd;
        sub(a, b) = _mm512_sub_pd;
        mul(a, b) = _mm512_mul_pd;
        div(a, b) = _mm512_div_pd;
        mul_add(a, b, c) = _mm512_fmadd_pd;
        max(a, b) = _mm512_max_pd;
    }

    #[inline(always)]
    fn less(self, a: __m512d, b: __m512d) -> __mmask8 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask8, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_mask_blend_pd(mask, b, a) }
    }

    #[inline(always)]
    fn exp2(self, x: __m512d) -> __m512d {
        // The first and the last take care of what is out of range: the rest of an infinity is zero.
        // SAFETY: `self` exists, so the CPU has AVX-512F and DQ.
        unsafe {
            let r = _mm512_reduce_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm512_scalef_pd(polynomial(self, r, NEAREST_F64), self.sub(x, r))
        }
    }

    #[inline(always)]
    fn round(self, x: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_roundscale_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_scalef_pd(self.splat(1.0), n) }
    }

    #[inline(always)]
    fn has_bit(self, bits: __m512d, bit: u32) -> __mmask8 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_test_epi64_mask(_mm512_castpd_si512(bits), _mm512_set1_epi64(1 << (bit % 32))) }
    }

    #[inline(always)]
    fn bitmask(self, of: &[bool; 32]) -> u32 {
        self.0.bitmask(of)
    }

    #[inline(always)]
    fn zeros(self) -> [__m512d; 8] {
        [self.splat(0.0); 8]
    }

    #[inline(always)]
    fn transpose(self, square: &mut [__m512d; 8]) {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { transpose(square) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m512d; 4]) -> [f64; 4] {
        // SAFETY: `self` exists, so the CPU has AVX-512F and AVX2.
        unsafe { reduce!(of, _mm512_add_pd, _mm256_add_pd) }
    }

    #[inline(always)]
    fn max_each(self, of: [__m512d; 4]) -> [f64; 4] {
        // SAFETY: as above.
        unsafe { reduce!(of, _mm512_max_pd, _mm256_max_pd) }
    }
}

/// Three rounds of pairwise exchanges: single lanes, then quarters of the register, then halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(m: &mut [__m512d; 8]) {
    let mut t = *m;
    // t[2 g + k]: column 2 q + k of rows 2 g and 2 g + 1 in quarter q.
    for g in 0..4 {
        t[2 * g] = _mm512_unpacklo_pd(m[2 * g], m[2 * g + 1]);
        t[2 * g + 1] = _mm512_unpackhi_pd(m[2 * g], m[2 * g + 1]);
    }
    for k in 0..2 {
        let lo = _mm512_shuffle_f64x2::<0b01_00_01_00>(t[k], t[2 + k]);
        let hi = _mm512_shuffle_f64x2::<0b11_10_11_10>(t[k], t[2 + k]);
        let lo2 = _mm512_shuffle_f64x2::<0b01_00_01_00>(t[4 + k], t[6 + k]);
        let hi2 = _mm512_shuffle_f64x2::<0b11_10_11_10>(t[4 + k], t[6 + k]);
        m[k] = _mm512_shuffle_f64x2::<0b10_00_10_00>(lo, lo2);
        m[2 + k] = _mm512_shuffle_f64x2::<0b11_01_11_01>(lo, lo2);
        m[4 + k] = _mm512_shuffle_f64x2::<0b10_00_10_00>(hi, hi2);
        m[6 + k] = _mm512_shuffle_f64x2::<0b11_01_11_01>(hi, hi2);
    }
}
