//! Bytes as they are in memory, four of them in a lane, with sums of 32 bits.

use core::arch::x86_64::*;

use super::{Avx512, I8s, Vnni};
use crate::simd::{Fours, Joins, LARGEST_INTEGER, Pairs, Task};

/// The instruction multiplies bytes of one sign with bytes of both: rows become the former.
#[derive(Clone, Copy)]
pub struct I8Fours {
    pub(super) simd: Avx512,
    pub(super) vnni: Vnni,
}

impl Joins<Avx512, 4, 2> for I8Fours {
    const LARGEST: Option<f32> = Some(LARGEST_INTEGER);

    #[inline(always)]
    fn join(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 2] {
        /// Four lanes of each vector lie in each quarter of the register.
        const IN_ORDER: [i32; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
            // The low digit may be negative, so that the high one is that of the nearest multiple.
            let half = _mm512_set1_epi16(1 << 7);
            let high = |numbers| _mm512_srai_epi16::<8>(_mm512_add_epi16(numbers, half));
            let low = |numbers| _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(numbers));
            let in_order = _mm512_loadu_epi32(IN_ORDER.as_ptr());
            let high = _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(high(ab), high(cd)));
            let low = _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(low(ab), low(cd)));
            [_mm512_castsi512_ps(high), _mm512_castsi512_ps(low)]
        }
    }
}

impl Fours<Avx512> for I8Fours {
    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.vnni.call(task)
    }

    #[inline(always)]
    fn load(self, row: &[i8]) -> __m512 {
        let whole = if row.len() >= 64 { u64::MAX } else { (1 << row.len()) - 1 };
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW; bytes past the end of the slice are masked off.
        unsafe {
            let bytes = _mm512_maskz_loadu_epi8(whole, row.as_ptr());
            _mm512_castsi512_ps(_mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN)))
        }
    }

    #[inline(always)]
    fn zip(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let (c, d) = (_mm512_castps_si512(c), _mm512_castps_si512(d));
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (first, second) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
            let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            let (third, fourth) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
            [
                _mm512_castsi512_ps(first),
                _mm512_castsi512_ps(second),
                _mm512_castsi512_ps(third),
                _mm512_castsi512_ps(fourth),
            ]
        }
    }

    /// Each quarter of a row has become one of each vector.
    #[inline(always)]
    fn unzip(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let (a, b) = (_mm512_cvtepi32_ps(_mm512_castps_si512(a)), _mm512_cvtepi32_ps(_mm512_castps_si512(b)));
            let (c, d) = (_mm512_cvtepi32_ps(_mm512_castps_si512(c)), _mm512_cvtepi32_ps(_mm512_castps_si512(d)));
            let (ab, cd) = (_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d));
            let first = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
            let second = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
            let (ab, cd) = (_mm512_shuffle_f32x4::<0b11_10_11_10>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d));
            let third = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
            let fourth = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
            [first, second, third, fourth]
        }
    }

    #[inline(always)]
    fn dot(self, bytes: __m512, digits: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX512-VNNI.
        unsafe {
            let (bytes, digits) = (_mm512_castps_si512(bytes), _mm512_castps_si512(digits));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), bytes, digits))
        }
    }

    #[inline(always)]
    fn carry(self, high: __m512, low: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let high = _mm512_slli_epi32::<8>(_mm512_castps_si512(high));
            _mm512_castsi512_ps(_mm512_add_epi32(high, _mm512_castps_si512(low)))
        }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
    }

    #[inline(always)]
    fn spread(self, sums: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_add_epi32(_mm512_castps_si512(sums)))) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m512; 4]) -> [f32; 4] {
        I8s(self.simd).sum_each(of)
    }
}
