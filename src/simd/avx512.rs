//! 16 lanes and 32 registers: AVX-512 F, DQ, BW and VL.

mod amx;
mod double;
mod fours;

use core::{arch::x86_64::*, mem::transmute};

use self::{amx::Amx, fours::I8Fours};
use super::{
    Bf16Pairs, Double, Joins, Kernel, Known, LARGEST_INTEGER, Pairs, Simd, Task,
    avx2::{add_integers, bitmask},
    extension, instructions,
};
use crate::{
    element::Bf16,
    math::exp::{BELOW, polynomials},
};

cpufeatures::new!(cpu, "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma");

/// Exists only on a CPU (and OS) with the features that `new` asks for.
#[derive(Clone, Copy)]
pub struct Avx512 {
    bf16s: Option<Bf16s>,
    vnni: Option<Vnni>,
}

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        cpu::get().then(|| Self { bf16s: None, vnni: Vnni::new() })
    }

    /// With instructions for pairs of `bf16`.
    pub(super) fn with_pairs() -> Option<Self> {
        let bf16s = Some(Bf16s { bf16: Bf16Dot::new()?, matrices: None });
        Some(Self { bf16s, ..Self::new()? })
    }

    /// With those, and a unit for matrices of them.
    pub(super) fn with_matrices() -> Option<Self> {
        let simd = Self::with_pairs()?;
        let matrices = Some(Amx::new()?);
        Some(Self { bf16s: simd.bf16s.map(|bf16s| Bf16s { matrices, ..bf16s }), ..simd })
    }

    /// Whether the CPU has such a unit, be it one that may be used or not: it takes longer then to multiply pairs than to multiply two single numbers.
    pub(super) fn has_matrices() -> bool {
        Self::with_pairs().is_some() && amx::has_tiles()
    }

    /// Asks the operating system to let this process use that unit, if the CPU has one.
    pub(super) fn request_matrices() -> bool {
        Self::with_pairs().is_some() && amx::request()
    }

    /// As on a CPU that has none.
    #[cfg(test)]
    pub(super) const fn without_vnni(mut self) -> Self {
        self.vnni = None;
        self
    }

    /// The function in which a kernel is compiled for this backend. The features are those that `new` checks.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    fn enabled<K: Kernel<Scalar = f32>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            1 => kernel.run::<Self, 16, 16, 1>(self),
            2 => kernel.run::<Self, 8, 8, 2>(self),
            _ => kernel.run::<Self, 8, 8, 3>(self),
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    fn outlined<T: Task>(self, task: T) -> T::Output {
        task.run()
    }
}

extension! {
    /// Multiplies pairs of `bf16` numbers.
    Bf16Dot, "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma",
    __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax >> 5 & 1 == 1
}
extension! {
    /// Multiplies two or four integers and adds them up in one instruction.
    Vnni, "avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma",
    __cpuid_count(7, 0).ecx >> 11 & 1 == 1
}

/// All lanes of each of four vectors become one, by a sum or whatever else in whatever order: pairs of lanes that stand side by side as two vectors meet,
/// then pairs of pairs, then halves of the register and quarters.
macro_rules! reduce {
    ($of:expr, $of_16:ident, $of_8:ident, $of_4:ident) => {{
        let [a, b, c, d] = $of;
        let ab = _mm512_castps_pd($of_16(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let cd = _mm512_castps_pd($of_16(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
        let (front, back) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        let quarters = $of_16(_mm512_castpd_ps(front), _mm512_castpd_ps(back));
        let halves = $of_8(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps::<1>(quarters));
        $of_4(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
    }};
}

/// Pairs of `bf16`.
#[derive(Clone, Copy)]
pub struct Bf16s {
    bf16: Bf16Dot,
    matrices: Option<Amx>,
}

impl Joins<Avx512, 2, 1> for Bf16s {
    const LARGEST: Option<f32> = None;

    #[inline(always)]
    fn join(self, [a, b]: [__m512; 2]) -> [__m512; 1] {
        // SAFETY: `self` exists, so the CPU has AVX512-BF16; the vectors have 512 bits, all of which mean something.
        unsafe { [transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(b, a))] }
    }
}

impl Pairs<Avx512> for Bf16s {
    type Number = Bf16;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.bf16.call(task)
    }

    #[inline(always)]
    fn load(self, row: &[Bf16]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW; lanes past the end of the slice are masked off. The numbers have 16 bits.
        unsafe { _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(halves(row.len()), row.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_raw(self, row: &[Bf16]) -> __m512 {
        self.load(row)
    }

    #[inline(always)]
    fn zip(self, [a, b]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let (first, second) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
        }
    }

    /// Each quarter of a row has become one of either vector.
    #[inline(always)]
    fn unzip(self, [a, b]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let (front, back) =
                (_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
            [_mm512_shuffle_f32x4::<0b11_01_10_00>(front, front), _mm512_shuffle_f32x4::<0b11_01_10_00>(back, back)]
        }
    }

    #[inline(always)]
    fn split(self, pairs: __m512) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { split(pairs) }
    }

    #[inline(always)]
    fn dot(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX512-BF16; the vectors have 512 bits, all of which mean something.
        unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` exists, so the CPU has AVX-512F, DQ and VL.
        unsafe { transmute::<__m128, [f32; 4]>(reduce!(of, _mm512_add_ps, _mm256_add_ps, _mm_add_ps)) }
    }
}

impl Bf16Pairs<Avx512> for Bf16s {
    /// Without the numbers, no tile is to have room.
    const KEY_TILE: usize = if cfg!(feature = "half") { 256 } else { 2 };

    type Matrices = Amx;

    #[inline(always)]
    fn matrices(self) -> Option<Amx> {
        self.matrices
    }

    #[inline(always)]
    fn load_both(self, [first, second]: [&[Bf16]; 2]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F, BW and VL; lanes past the end of a slice are masked off. The numbers have 16 bits.
        let load = |row: &[Bf16]| unsafe {
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes(row.len()), row.as_ptr().cast()))
        };
        let (first, second) = (load(first), load(second));
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32::<16>(second))) }
    }

    #[inline(always)]
    fn pair(self, first: __m512, second: __m512) -> __m512 {
        /// The numbers of both vectors in turn.
        const IN_TURN: [u16; 32] = {
            let (mut numbers, mut i) = ([0; 32], 0);
            while i < 32 {
                numbers[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            numbers
        };
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let in_turn = _mm512_loadu_epi16(IN_TURN.as_ptr().cast());
            let [numbers] = self.join([first, second]);
            let numbers = _mm512_castps_si512(numbers);
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(in_turn, numbers))
        }
    }
}

/// Pairs of integers: bytes in memory, 16 bits in registers, with sums of 32.
#[derive(Clone, Copy)]
pub struct I8s(Avx512);

impl Joins<Avx512, 2, 1> for I8s {
    const LARGEST: Option<f32> = Some(LARGEST_INTEGER);

    #[inline(always)]
    fn join(self, [a, b]: [__m512; 2]) -> [__m512; 1] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let a = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a));
            let b = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(b));
            [_mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b))]
        }
    }
}

impl Pairs<Avx512> for I8s {
    type Number = i8;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        match self.0.vnni {
            Some(vnni) => vnni.call(task),
            None => self.0.call(task),
        }
    }

    #[inline(always)]
    fn load(self, row: &[i8]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F, BW and VL; lanes past the end of the slice are masked off.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(halves(row.len()), row.as_ptr()))) }
    }

    #[inline(always)]
    fn load_raw(self, row: &[i8]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F, BW and VL; lanes past the end of the slice are masked off.
        unsafe {
            let bytes = _mm256_maskz_loadu_epi8(halves(row.len()), row.as_ptr());
            _mm512_castsi512_ps(_mm512_castsi256_si512(bytes))
        }
    }

    #[inline(always)]
    fn zip(self, [a, b]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let a = _mm512_castsi512_si256(_mm512_castps_si512(a));
            let b = _mm512_castsi512_si256(_mm512_castps_si512(b));
            let first = _mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(a, b));
            let second = _mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(a, b));
            [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
        }
    }

    /// Each quarter of a row has become half of either vector.
    #[inline(always)]
    fn unzip(self, [a, b]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let a = _mm512_cvtepi32_ps(_mm512_castps_si512(a));
            let b = _mm512_cvtepi32_ps(_mm512_castps_si512(b));
            [_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b)]
        }
    }

    #[inline(always)]
    fn split(self, pairs: __m512) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { split(pairs) }
    }

    /// With [`Vnni`], the compiler makes one instruction of the two.
    #[inline(always)]
    fn dot(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW.
        unsafe {
            let products = _mm512_madd_epi16(_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), products))
        }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m512; 4]) -> [f32; 4] {
        add_integers! {
            add_16: __m512, _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps;
            add_8: __m256, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps;
            add_4: __m128, _mm_add_epi32, _mm_castps_si128, _mm_castsi128_ps;
        }
        // SAFETY: `self` exists, so the CPU has AVX-512F, DQ and VL.
        unsafe {
            let sums = _mm_castps_si128(reduce!(of, add_16, add_8, add_4));
            transmute::<__m128, [f32; 4]>(_mm_cvtepi32_ps(sums))
        }
    }
}

/// [`Pairs::split`]
#[inline]
#[target_feature(enable = "avx512f")]
fn split(pairs: __m512) -> [__m512; 2] {
    let pairs = _mm512_castps_si512(pairs);
    let first = _mm512_srli_epi32::<16>(_mm512_slli_epi32::<16>(pairs));
    let second = _mm512_slli_epi32::<16>(_mm512_srli_epi32::<16>(pairs));
    [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
}

/// The halves of lanes that the first `len` numbers fill.
#[inline(always)]
fn halves(len: usize) -> __mmask32 {
    if len >= 32 { u32::MAX } else { (1 << len) - 1 }
}

/// The lanes that the first `len` elements fill.
#[inline(always)]
fn lanes(len: usize) -> __mmask16 {
    if len >= 16 { u16::MAX } else { (1 << len) - 1 }
}

impl Simd for Avx512 {
    type Scalar = f32;
    type Vector = __m512;
    type Mask = __mmask16;
    type Square = [__m512; 16];
    type Bf16Pairs = Bf16s;
    type I8Pairs = I8s;
    type I8Fours = I8Fours;
    type Double = Double<Self>;

    const LANES: usize = 16;
    const MAX_COLS: usize = 3;
    const FEW: usize = 8;
    const BLOCKS: usize = 4;
    const KEY_TILE: usize = 128;
    const FAR: Option<usize> = Some(1 << 13);

    #[inline(always)]
    fn run<K: Kernel<Scalar = f32>>(self, cols: usize, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { self.enabled(cols, kernel) }
    }

    // `inline(never)` has no effect where features are enabled.
    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { self.outlined(task) }
    }

    crate::kernel::products_of_rows!();

    #[inline(always)]
    fn double(self) -> Double<Self> {
        Double(self)
    }

    #[inline(always)]
    fn bf16_pairs(self) -> Option<Bf16s> {
        self.bf16s
    }

    #[inline(always)]
    fn i8_pairs(self) -> Option<I8s> {
        Some(I8s(self))
    }

    #[inline(always)]
    fn i8_fours(self) -> Option<I8Fours> {
        self.vnni.map(|vnni| I8Fours { simd: self, vnni })
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn broadcast(self, x: f32) -> __m512 {
        self.splat(x)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F; lanes past the end of the slice are masked off.
        unsafe { _mm512_maskz_loadu_ps(lanes(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> __m512 {
        self.load(from)
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F, BW and VL; lanes past the end of the slice are masked off.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes(from.len()), from.as_ptr()))) }
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_f16(self, from: &[half::f16]) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(from.len()), from.as_ptr().cast())) }
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_bf16(self, from: &[half::bf16]) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let upper_halves = _mm256_maskz_loadu_epi16(lanes(from.len()), from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(upper_halves)))
        }
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32]) {
        // SAFETY: `self` exists, so the CPU has AVX-512F; lanes past the end of the slice are masked off.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), lanes(to.len()), x) }
    }

    #[inline(always)]
    fn store_f32(self, x: __m512, to: &mut [f32]) {
        self.store(x, to);
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_f16(self, x: __m512, to: &mut [half::f16]) {
        // SAFETY: `self` exists, so the CPU has AVX-512F, BW and VL; lanes past the end of the slice are masked off.
        unsafe {
            let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), lanes(to.len()), halves);
        }
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_bf16(self, x: __m512, to: &mut [half::bf16]) {
        // SAFETY: as above.
        unsafe {
            let (bits, one) = (_mm512_castps_si512(x), _mm512_set1_epi32(1));
            // Half of the last place that is kept, or just less where that is even.
            let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), one);
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(is_odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22));
            let rounded = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), rounded, nan);
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), lanes(to.len()), halves);
        }
    }

    instructions! {
        __m512:
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        mul_add(a, b, c) = _mm512_fmadd_ps;
        max(a, b) = _mm512_max_ps;
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        let [power] = self.exp2_each([x]);
        power
    }

    /// The first instruction and the last take care of what is out of range: the rest of an infinity is zero. The latter takes the integer below by itself.
    #[inline(always)]
    fn exp2_each<const N: usize>(self, x: [__m512; N]) -> [__m512; N] {
        let mut r = x;
        for r in &mut r {
            // SAFETY: `self` exists, so the CPU has AVX-512DQ.
            *r = unsafe { _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(*r) };
        }
        let mut powers = polynomials(self, r, BELOW);
        for n in 0..N {
            // SAFETY: `self` exists, so the CPU has AVX-512F.
            powers[n] = unsafe { _mm512_scalef_ps(powers[n], x[n]) };
        }
        powers
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m512) -> __m512 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_scalef_ps(self.splat(1.0), n) }
    }

    #[inline(always)]
    fn has_bit(self, bits: __m512, bit: u32) -> __mmask16 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_test_epi32_mask(_mm512_castps_si512(bits), _mm512_set1_epi32(1 << (bit % 32))) }
    }

    #[inline(always)]
    fn bitmask(self, of: &[bool; 32]) -> u32 {
        // SAFETY: `self` exists, so the CPU has AVX2, too.
        unsafe { bitmask(of) }
    }

    #[inline(always)]
    fn zeros(self) -> [__m512; 16] {
        [self.splat(0.0); 16]
    }

    #[inline(always)]
    fn transpose(self, square: &mut [__m512; 16]) {
        // SAFETY: `self` exists, so the CPU has AVX-512F and DQ.
        unsafe { transpose(square) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` exists, so the CPU has AVX-512F, DQ and VL.
        unsafe { transmute::<__m128, [f32; 4]>(reduce!(of, _mm512_add_ps, _mm256_add_ps, _mm_add_ps)) }
    }

    #[inline(always)]
    fn max_each(self, of: [__m512; 4]) -> [f32; 4] {
        // SAFETY: as above.
        unsafe { transmute::<__m128, [f32; 4]>(reduce!(of, _mm512_max_ps, _mm256_max_ps, _mm_max_ps)) }
    }
}

/// Four rounds of pairwise exchanges: single lanes, pairs of lanes, then quarters of the register, then halves.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn transpose(m: &mut [__m512; 16]) {
    let mut t = *m;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(m[2 * i], m[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(m[2 * i], m[2 * i + 1]);
    }
    // m[4 g + k]: column 4 q + k of rows 4 g .. 4 g + 4 in quarter q.
    for g in 0..4 {
        let (a, b) = (_mm512_castps_pd(t[4 * g]), _mm512_castps_pd(t[4 * g + 1]));
        let (c, d) = (_mm512_castps_pd(t[4 * g + 2]), _mm512_castps_pd(t[4 * g + 3]));
        m[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        m[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        m[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        m[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for k in 0..4 {
        let lo = _mm512_shuffle_f32x4::<0b01_00_01_00>(m[k], m[4 + k]);
        let hi = _mm512_shuffle_f32x4::<0b11_10_11_10>(m[k], m[4 + k]);
        let lo2 = _mm512_shuffle_f32x4::<0b01_00_01_00>(m[8 + k], m[12 + k]);
        let hi2 = _mm512_shuffle_f32x4::<0b11_10_11_10>(m[8 + k], m[12 + k]);
        m[k] = _mm512_shuffle_f32x4::<0b10_00_10_00>(lo, lo2);
        m[4 + k] = _mm512_shuffle_f32x4::<0b11_01_11_01>(lo, lo2);
        m[8 + k] = _mm512_shuffle_f32x4::<0b10_00_10_00>(hi, hi2);
        m[12 + k] = _mm512_shuffle_f32x4::<0b11_01_11_01>(hi, hi2);
    }
}
