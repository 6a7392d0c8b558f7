//! 8 lanes and 16 registers: AVX2, FMA and F16C.

mod double;

use core::arch::{asm, x86_64::*};

use super::{Double, Joins, Kernel, Known, LARGEST_INTEGER, NoPairs, Pairs, Simd, Task, extension, instructions};
use crate::{
    element::Bf16,
    math::exp::{NEAREST, polynomial},
};

cpufeatures::new!(cpu, "avx2", "fma");

/// Sums of vectors of integers, which are handed about as those of floats.
macro_rules! add_integers {
    ($($name:ident: $vector:ident, $add:ident, $to_integers:ident, $back:ident;)*) => {$(
        #[inline(always)]
        unsafe fn $name(a: $vector, b: $vector) -> $vector {
            // SAFETY: whoever asks for it has the instructions.
            unsafe { $back($add($to_integers(a), $to_integers(b))) }
        }
    )*};
}
pub(super) use add_integers;

/// Exists only on a CPU (and OS) with the features that `new` asks for.
#[derive(Clone, Copy)]
pub struct Avx2 {
    vnni: Option<Vnni>,
}

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        (cpu::get() && has_f16c()).then(|| Self { vnni: Vnni::new() })
    }

    /// As on a CPU that has none.
    #[cfg(test)]
    pub(super) const fn without_vnni(mut self) -> Self {
        self.vnni = None;
        self
    }

    /// The function in which a kernel is compiled for this backend. The features are those that `new` checks.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn enabled<K: Kernel<Scalar = f32>>(self, cols: usize, kernel: K) -> K::Output {
        match cols {
            1 => kernel.run::<Self, 8, 8, 1>(self),
            _ => kernel.run::<Self, 6, 4, 2>(self),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn outlined<T: Task>(self, task: T) -> T::Output {
        task.run()
    }
}

/// Whether the CPU converts half-precision numbers, as all known ones with AVX2 do; `cpufeatures` does not know of it.
fn has_f16c() -> bool {
    static KNOWN: Known = Known::new();
    KNOWN.get_or(|| __cpuid(1).ecx >> 29 & 1 == 1)
}

extension! {
    /// Multiplies pairs of integers and adds them up in one instruction.
    Vnni, "avx2,fma,f16c,avxvnni",
    __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax >> 4 & 1 == 1
}

/// All ones in the lanes that the first `len` elements fill.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(len: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(len.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Which of some booleans are true.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn bitmask(of: &[bool; 32]) -> u32 {
    // SAFETY: the 32 bytes that are read exist.
    let bytes = unsafe { _mm256_loadu_si256(of.as_ptr().cast()) };
    // `true` is the lowest bit of a byte; looked at is the highest.
    _mm256_movemask_epi8(_mm256_slli_epi16::<7>(bytes)).cast_unsigned()
}

/// Loads `N` elements, or as many as there are and zeros.
#[inline(always)]
fn whole_or_padded<T: Copy + Default, const N: usize>(from: &[T], load: impl Fn(&[T; N]) -> __m256) -> __m256 {
    if let Some(whole) = from.first_chunk() {
        return load(whole);
    }
    let mut padded = [T::default(); N];
    padded.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    load(&padded)
}

/// Writes eight elements, or as many as there is room for.
#[cfg(feature = "half")]
#[inline(always)]
fn store_halves<T>(halves: __m128i, to: &mut [T], from_bits: impl Fn(u16) -> T) {
    // SAFETY: the same 128 bits.
    let halves: [u16; 8] = unsafe { core::mem::transmute(halves) };
    to.iter_mut().zip(&halves).for_each(|(to, bits)| *to = from_bits(*bits));
}

/// All lanes of each of four vectors become one, by a sum or whatever else in whatever order: pairs of lanes that stand side by side as two vectors meet,
/// then pairs of pairs, then halves of the register.
macro_rules! reduce {
    ($of:expr, $of_8:ident, $of_4:ident) => {{
        let [a, b, c, d] = $of;
        let ab = _mm256_castps_pd($of_8(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
        let cd = _mm256_castps_pd($of_8(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d)));
        let (front, back) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
        let halves = $of_8(_mm256_castpd_ps(front), _mm256_castpd_ps(back));
        $of_4(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
    }};
}

/// Pairs of integers: bytes in memory, 16 bits in registers, with sums of 32.
#[derive(Clone, Copy)]
pub struct I8s(Avx2);

impl Joins<Avx2, 2, 1> for I8s {
    const LARGEST: Option<f32> = Some(LARGEST_INTEGER);

    #[inline(always)]
    fn join(self, [a, b]: [__m256; 2]) -> [__m256; 1] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let in_halves = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            [_mm256_castsi256_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(in_halves))]
        }
    }
}

impl Pairs<Avx2> for I8s {
    type Number = i8;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        match self.0.vnni {
            Some(vnni) => vnni.call(task),
            None => self.0.call(task),
        }
    }

    #[inline(always)]
    fn load(self, row: &[i8]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2; the elements that are read exist.
        whole_or_padded(row, |row: &[i8; 16]| unsafe {
            _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(row.as_ptr().cast())))
        })
    }

    #[inline(always)]
    fn load_raw(self, row: &[i8]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2; the elements that are read exist.
        whole_or_padded(row, |row: &[i8; 16]| unsafe {
            _mm256_castsi256_ps(_mm256_castsi128_si256(_mm_loadu_si128(row.as_ptr().cast())))
        })
    }

    #[inline(always)]
    fn zip(self, [a, b]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let a = _mm256_castsi256_si128(_mm256_castps_si256(a));
            let b = _mm256_castsi256_si128(_mm256_castps_si256(b));
            let first = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
            let second = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
            [_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)]
        }
    }

    #[inline(always)]
    fn unzip(self, [first, second]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let (first, second) = (_mm256_castps_si256(first), _mm256_castps_si256(second));
            [_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(second)]
        }
    }

    #[inline(always)]
    fn split(self, pairs: __m256) -> [__m256; 2] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let pairs = _mm256_castps_si256(pairs);
            let first = _mm256_srli_epi32::<16>(_mm256_slli_epi32::<16>(pairs));
            let second = _mm256_slli_epi32::<16>(_mm256_srli_epi32::<16>(pairs));
            [_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)]
        }
    }

    /// With [`Vnni`], the compiler makes one instruction of the two.
    #[inline(always)]
    fn dot(self, a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let products = _mm256_madd_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), products))
        }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m256; 4]) -> [f32; 4] {
        add_integers! {
            add_8: __m256, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps;
            add_4: __m128, _mm_add_epi32, _mm_castps_si128, _mm_castsi128_ps;
        }
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let sums = _mm_castps_si128(reduce!(of, add_8, add_4));
            core::mem::transmute::<__m128, [f32; 4]>(_mm_cvtepi32_ps(sums))
        }
    }
}

impl Simd for Avx2 {
    type Scalar = f32;
    type Vector = __m256;
    type Mask = __m256;
    type Square = [__m256; 8];
    type Bf16Pairs = NoPairs<Bf16>;
    type I8Pairs = I8s;
    type I8Fours = NoPairs<[i8; 4]>;
    type Double = Double<Self>;

    const LANES: usize = 8;
    const MAX_COLS: usize = 2;
    const FEW: usize = 4;
    const BLOCKS: usize = 6;
    const KEY_TILE: usize = 192;
    const PIECE: usize = 64;
    const FAR: Option<usize> = Some(1 << 12);

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
    fn i8_pairs(self) -> Option<I8s> {
        Some(I8s(self))
    }

    #[inline(always)]
    fn settled(self, x: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { settled(x) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn broadcast(self, x: f32) -> __m256 {
        self.splat(x)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2; eight elements are read only if there are as many, else lanes past
        // the end of the slice are masked off.
        unsafe {
            if from.len() >= 8 {
                _mm256_loadu_ps(from.as_ptr())
            } else {
                _mm256_maskload_ps(from.as_ptr(), lanes(from.len()))
            }
        }
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> __m256 {
        self.load(from)
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2; the elements that are read exist.
        whole_or_padded(from, |from: &[i8; 8]| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(from.as_ptr().cast())))
        })
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_f16(self, from: &[half::f16]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has F16C; the elements that are read exist.
        whole_or_padded(from, |from: &[half::f16; 8]| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) })
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_bf16(self, from: &[half::bf16]) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2; the elements that are read exist.
        whole_or_padded(from, |from: &[half::bf16; 8]| unsafe {
            let upper_halves = _mm_loadu_si128(from.as_ptr().cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(upper_halves)))
        })
    }

    #[inline(always)]
    fn store(self, x: __m256, to: &mut [f32]) {
        // SAFETY: `self` exists, so the CPU has AVX2; eight elements are written only if there are as many, else lanes past
        // the end of the slice are masked off.
        unsafe {
            if to.len() >= 8 {
                _mm256_storeu_ps(to.as_mut_ptr(), x);
            } else {
                _mm256_maskstore_ps(to.as_mut_ptr(), lanes(to.len()), x);
            }
        }
    }

    #[inline(always)]
    fn store_f32(self, x: __m256, to: &mut [f32]) {
        self.store(x, to);
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_f16(self, x: __m256, to: &mut [half::f16]) {
        // SAFETY: `self` exists, so the CPU has F16C.
        let halves = unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x) };
        store_halves(halves, to, half::f16::from_bits);
    }

    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_bf16(self, x: __m256, to: &mut [half::bf16]) {
        // SAFETY: `self` exists, so the CPU has AVX2.
        let halves = unsafe {
            let bits = _mm256_castps_si256(x);
            // Half of the last place that is kept, or just less where that is even.
            let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, nan, is_nan));
            _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper))
        };
        store_halves(halves, to, half::bf16::from_bits);
    }

    instructions! {
        __m256:
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        mul_add(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
    }

    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        // The power of -127 comes out as zero. In this order, a NaN in `x` stays.
        let x = self.max(self.splat(-127.0), x);
        // SAFETY: `self` exists, so the CPU has AVX2.
        let n = unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) };
        let power = polynomial(self, self.sub(x, n), NEAREST);
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), exponent))
        }
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m256) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn has_bit(self, bits: __m256, bit: u32) -> __m256 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let bit = _mm256_set1_epi32(1 << (bit % 32));
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(bits), bit), bit))
        }
    }

    #[inline(always)]
    fn bitmask(self, of: &[bool; 32]) -> u32 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { bitmask(of) }
    }

    #[inline(always)]
    fn zeros(self) -> [__m256; 8] {
        [self.splat(0.0); 8]
    }

    #[inline(always)]
    fn transpose(self, square: &mut [__m256; 8]) {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { transpose(square) }
    }

    #[inline(always)]
    fn sum_each(self, of: [__m256; 4]) -> [f32; 4] {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { core::mem::transmute::<__m128, [f32; 4]>(reduce!(of, _mm256_add_ps, _mm_add_ps)) }
    }

    #[inline(always)]
    fn max_each(self, of: [__m256; 4]) -> [f32; 4] {
        // SAFETY: as above.
        unsafe { core::mem::transmute::<__m128, [f32; 4]>(reduce!(of, _mm256_max_ps, _mm_max_ps)) }
    }
}

/// Three rounds of pairwise exchanges: single lanes, pairs of lanes, then halves of the register.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(m: &mut [__m256; 8]) {
    let mut t = *m;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(m[2 * i], m[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(m[2 * i], m[2 * i + 1]);
    }
    // m[4 g + k]: column 4 h + k of rows 4 g .. 4 g + 4 in half h.
    for g in 0..2 {
        let (a, b) = (_mm256_castps_pd(t[4 * g]), _mm256_castps_pd(t[4 * g + 1]));
        let (c, d) = (_mm256_castps_pd(t[4 * g + 2]), _mm256_castps_pd(t[4 * g + 3]));
        m[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        m[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        m[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        m[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    for k in 0..4 {
        let (lo, hi) = (m[k], m[4 + k]);
        m[k] = _mm256_permute2f128_ps::<0x20>(lo, hi);
        m[4 + k] = _mm256_permute2f128_ps::<0x31>(lo, hi);
    }
}

/// [`Simd::settled`]
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut x: __m256) -> __m256 {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {} */", inout(ymm_reg) x, options(nostack, preserves_flags)) };
    x
}
