//! The vector operations that the kernels need, and the CPUs that have them.
//!
//! A backend is a token ([`Portable`], `Avx2`, `Avx512`) that exists only where the CPU has its instructions, so that
//! arithmetic on it is safe. Kernels are written once, generic over [`Simd`], inlined whole into one function per backend
//! that is compiled for the backend's instructions: [`Simd::run`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod portable;

pub use dispatch::Backend;
pub(crate) use dispatch::{Token, with_simd};
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

use core::{convert::Infallible, marker::PhantomData, ops::Range};

use crate::{
    element::{Bf16, Store},
    kernel::{RawRows, Weights},
    scalar::Scalar,
    softmax::FewScores,
    view::{Pair, Rows},
};

/// A computation to be compiled for each backend.
///
/// `ROWS x COLS` is the register tile that keeps the backend's multipliers busy: `COLS` vectors of queries by `ROWS`
/// keys, or columns of values. `NARROW x COLS` is a smaller one for what `ROWS` does not divide, or the same one.
pub trait Kernel {
    /// What it computes in.
    type Scalar: Scalar;
    type Output;

    /// Implementations are `#[inline(always)]`, as is all that they call.
    fn run<S, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> Self::Output
    where
        S: Simd<Scalar = Self::Scalar>;
}

/// A part of a kernel that is compiled for each backend as a function of its own, once for all the places that call it: an inner loop,
/// which has all registers to itself then, or what is seldom run, out of the way of such loops.
pub trait Task {
    type Output;

    /// Implementations are `#[inline(always)]`, as is all that they call.
    fn run(self) -> Self::Output;
}

/// What is asked of the CPU once: a virtual one takes its time to answer.
#[cfg(target_arch = "x86_64")]
struct Known(core::sync::atomic::AtomicU8);

#[cfg(target_arch = "x86_64")]
impl Known {
    const YES: u8 = 2;

    const fn new() -> Self {
        Self(core::sync::atomic::AtomicU8::new(0))
    }

    fn get_or(&self, ask: impl FnOnce() -> bool) -> bool {
        use core::sync::atomic::Ordering::Relaxed;
        let mut known = self.0.load(Relaxed);
        if known == 0 {
            known = if ask() { Self::YES } else { 1 };
            self.0.store(known, Relaxed);
        }
        known == Self::YES
    }
}

/// Who made the CPU, in its own words.
#[cfg(target_arch = "x86_64")]
fn maker() -> [u8; 12] {
    let core::arch::x86_64::CpuidResult { ebx, ecx, edx, .. } = core::arch::x86_64::__cpuid(0);
    let mut name = [0; 12];
    for (to, word) in name.as_chunks_mut::<4>().0.iter_mut().zip([ebx, edx, ecx]) {
        *to = word.to_le_bytes();
    }
    name
}

#[cfg(target_arch = "x86_64")]
fn is_of_intel() -> bool {
    static KNOWN: Known = Known::new();
    KNOWN.get_or(|| maker() == *b"GenuineIntel")
}

/// Whether the CPU is a Zen 4: of AMD's family 25, and with AVX-512.
#[cfg(target_arch = "x86_64")]
fn is_zen_4() -> bool {
    static KNOWN: Known = Known::new();
    KNOWN.get_or(|| {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        const FAMILY: u32 = 0x0ff0_0f00;
        maker() == *b"AuthenticAMD" && __cpuid(1).eax & FAMILY == 0x00a0_0f00 && __cpuid_count(7, 0).ebx & 1 << 16 != 0
    })
}

/// How a CPU is asked for rows, so that it reads them fastest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Soon before, into the first cache.
    First,
    /// Soon before, into the second one: what a Zen 4 reads waits for what it fetches into the first one.
    Second,
    /// Long before, even if rows lie evenly: Intel's CPUs foresee no further than a page of 4 KB.
    Ahead,
}

/// Bytes that come from memory together.
pub(crate) const CACHE_LINE: usize = 64;

/// Functions that ask for the cache line of an address, which need not be valid, to be fetched.
macro_rules! prefetches {
    ($($(#[$attribute:meta])* $name:ident: $hint:ident;)*) => {$(
        $(#[$attribute])*
        #[inline(always)]
        pub(crate) fn $name<T>(address: *const T) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 CPU has SSE; prefetching reads nothing and never faults.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::$hint }>(address.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = address;
        }
    )*};
}

prefetches! {
    /// Into the first cache.
    prefetch: _MM_HINT_T0;
    /// Into a cache that has room for it until it is wanted.
    prefetch_early: _MM_HINT_T1;
    /// Into whatever cache has room until it is asked for again.
    prefetch_far: _MM_HINT_T2;
}

/// Into the cache of this level, the first or the second; not at all, if it is zero.
#[inline(always)]
pub(crate) fn prefetch_into<T>(level: usize, address: *const T) {
    match level {
        0 => {}
        1 => prefetch(address),
        _ => prefetch_early(address),
    }
}

/// The same for the cache lines of some elements of a row.
#[inline(always)]
pub(crate) fn prefetch_elements<T>(row: *const T, elements: Range<usize>, level: usize) {
    for t in elements.step_by(const { CACHE_LINE / size_of::<T>() }) {
        prefetch_into(level, row.wrapping_add(t));
    }
}

/// The same for a whole row, of which the first elements, of a number known when it is compiled, take no loop.
#[inline(always)]
pub(crate) fn prefetch_row<T>(row: *const T, known: usize, dim: usize, level: usize) {
    prefetch_elements(row, 0..known, level);
    prefetch_elements(row, known..dim, level);
}

/// A backend for `f64` that has the instructions of one for `f32`, and exists where that does.
#[derive(Clone, Copy)]
pub struct Double<S>(S);

/// Operations that are one instruction of a backend.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($vector:ident: $($name:ident($($argument:ident),*) = $instruction:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $vector),*) -> $vector {
            // SAFETY: `self` exists, so the CPU has the instruction.
            unsafe { $instruction($($argument),*) }
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
use instructions;

/// A token for instructions that only some of a backend's CPUs have, as `$has` finds out.
#[cfg(target_arch = "x86_64")]
macro_rules! extension {
    ($(#[$attribute:meta])* $name:ident, $features:literal, $has:expr) => {
        $(#[$attribute])*
        #[derive(Clone, Copy)]
        struct $name(());

        impl $name {
            fn new() -> Option<Self> {
                static KNOWN: Known = Known::new();
                (cpu::get() && KNOWN.get_or(|| __cpuid(0).eax >= 7 && $has)).then_some(Self(()))
            }

            // `inline(never)` has no effect where features are enabled.
            #[inline(never)]
            fn call<T: Task>(self, task: T) -> T::Output {
                // SAFETY: `self` exists, so the CPU has the features.
                unsafe { self.outlined(task) }
            }

            #[target_feature(enable = $features)]
            fn outlined<T: Task>(self, task: T) -> T::Output {
                task.run()
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use extension;

/// The most blocks of queries that any backend lets go over the keys together.
pub(crate) const MAX_BLOCKS: usize = 8;

/// Vectors of `LANES` scalars and what can be done with them.
pub trait Simd: Copy {
    /// What a lane holds.
    type Scalar: Scalar;
    /// `LANES` scalars. Any bit pattern is valid, and there is no padding.
    type Vector: Copy;
    /// One boolean a lane.
    type Mask: Copy;
    /// `LANES` vectors.
    type Square: AsRef<[Self::Vector]> + AsMut<[Self::Vector]>;
    /// What this backend has for pairs of `bf16`.
    type Bf16Pairs: Bf16Pairs<Self>;
    /// What this backend has for pairs of integers.
    type I8Pairs: Pairs<Self, Number = i8>;
    /// What this backend has for bytes by the four.
    type I8Fours: Fours<Self>;
    /// The same instructions, for `f64`.
    type Double: Simd<Scalar = f64>;

    /// Elements of a vector.
    const LANES: usize;
    /// The most vectors of queries a block has: the largest `COLS` of [`run`](Self::run).
    const MAX_COLS: usize;
    /// Up to so many queries have [products of their own](crate::kernel::Products::Few): 1, 4 or 8.
    const FEW: usize;
    /// The most blocks that go over the keys together, at most [`MAX_BLOCKS`].
    const BLOCKS: usize;
    /// Keys of a tile, for which scores are held at a time.
    const KEY_TILE: usize;
    /// Keys, or pairs of them, whose values are summed up in one go. Longer pieces are a little faster, shorter ones a little more accurate.
    const PIECE: usize = Self::KEY_TILE;
    /// Rows of values that lie a multiple of so many bytes apart share so few sets of the first cache that a tile of them is copied, if several
    /// blocks go over it. A power of two; `None` where that makes no difference.
    const FAR: Option<usize>;

    /// Runs `kernel`, compiled for this backend, with the register tile for `cols` vectors of queries (1 to `MAX_COLS`).
    fn run<K: Kernel<Scalar = Self::Scalar>>(self, cols: usize, kernel: K) -> K::Output;

    /// Runs `task`, compiled for this backend.
    fn call<T: Task>(self, task: T) -> T::Output;

    /// [`kernel::multiply_keys`](crate::kernel::multiply_keys). Of `f32`, it is compiled with the crate, not once more with each that names a score function.
    fn multiply_keys(
        self,
        queries: &[Self::Vector],
        in_pairs: bool,
        keys: RawRows<'_, Self::Scalar>,
        scores: &mut FewScores<'_, Self>,
    );

    /// [`kernel::add_values`](crate::kernel::add_values), likewise.
    fn add_values(
        self,
        weights: Weights<'_, Self>,
        in_pairs: bool,
        values: RawRows<'_, Self::Scalar>,
        output: &mut [Self::Vector],
    );

    /// The backend that has these instructions for `f64`.
    fn double(self) -> Self::Double;

    /// `None` where the CPU has nothing of the kind, or it is not wanted.
    #[inline(always)]
    fn bf16_pairs(self) -> Option<Self::Bf16Pairs> {
        None
    }

    /// `None` likewise.
    #[inline(always)]
    fn i8_pairs(self) -> Option<Self::I8Pairs> {
        None
    }

    /// `None` likewise.
    #[inline(always)]
    fn i8_fours(self) -> Option<Self::I8Fours> {
        None
    }

    /// How this CPU is asked for rows.
    #[inline(always)]
    fn asking(self) -> Asking {
        #[cfg(target_arch = "x86_64")]
        if is_of_intel() {
            return Asking::Ahead;
        } else if is_zen_4() {
            return Asking::Second;
        }
        Asking::First
    }

    /// The same vector, computed before anything is loaded that comes later. Where all registers are taken, a compiler that loads earlier keeps some of them in memory.
    #[inline(always)]
    fn settled(self, x: Self::Vector) -> Self::Vector {
        x
    }

    /// A number that `f32` has, in all lanes.
    fn splat(self, x: f32) -> Self::Vector;

    /// One number in all lanes.
    fn broadcast(self, x: Self::Scalar) -> Self::Vector;

    /// The first `LANES` elements; zero where there are fewer.
    fn load(self, from: &[Self::Scalar]) -> Self::Vector;

    /// [`load`](Self::load) of what `f64` has, and the nearest scalars.
    #[inline(always)]
    fn load_others<T: Copy + Into<f64>>(self, from: &[T]) -> Self::Vector {
        let mut lanes = [Self::Scalar::ZERO; 16];
        lanes.iter_mut().zip(from).take(Self::LANES).for_each(|(lane, x)| *lane = Scalar::from_f64((*x).into()));
        self.load(&lanes)
    }

    /// [`load`](Self::load), of this type.
    #[inline(always)]
    fn load_f32(self, from: &[f32]) -> Self::Vector {
        self.load_others(from)
    }

    /// [`load`](Self::load), of this type.
    #[inline(always)]
    fn load_f64(self, from: &[f64]) -> Self::Vector {
        self.load_others(from)
    }

    /// [`load`](Self::load) of integers.
    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> Self::Vector {
        self.load_others(from)
    }

    /// [`load`](Self::load) of half-precision numbers.
    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_f16(self, from: &[half::f16]) -> Self::Vector {
        self.load_others(from)
    }

    /// [`load`](Self::load) of numbers that are the upper half of an `f32`.
    #[cfg(feature = "half")]
    #[inline(always)]
    fn load_bf16(self, from: &[half::bf16]) -> Self::Vector {
        self.load_others(from)
    }

    /// Writes as many of the lanes as fit.
    fn store(self, x: Self::Vector, to: &mut [Self::Scalar]);

    /// [`store`](Self::store) of the nearest numbers, of two the even one.
    #[inline(always)]
    fn store_others<T: Store>(self, x: Self::Vector, to: &mut [T]) {
        let mut lanes = [Self::Scalar::ZERO; 16];
        self.store(x, &mut lanes);
        to.iter_mut().zip(&lanes).take(Self::LANES).for_each(|(to, lane)| *to = T::nearest(*lane));
    }

    /// [`store_others`](Self::store_others)
    #[inline(always)]
    fn store_f32(self, x: Self::Vector, to: &mut [f32]) {
        self.store_others(x, to);
    }

    /// [`store_others`](Self::store_others)
    #[inline(always)]
    fn store_f64(self, x: Self::Vector, to: &mut [f64]) {
        self.store_others(x, to);
    }

    /// [`store_others`](Self::store_others)
    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_f16(self, x: Self::Vector, to: &mut [half::f16]) {
        self.store_others(x, to);
    }

    /// [`store_others`](Self::store_others): numbers that are the upper half of an `f32`.
    #[cfg(feature = "half")]
    #[inline(always)]
    fn store_bf16(self, x: Self::Vector, to: &mut [half::bf16]) {
        self.store_others(x, to);
    }

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `a * b + c`, rounded once where the CPU can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// The larger one; `b` where either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `a < b`; false where either is NaN.
    fn less(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;

    /// `a` where the mask is true, else `b`.
    fn select(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `2^x` for `x <= 127` (of `f64`, 1023), by a [polynomial](crate::math::exp::polynomial), with `x` divided into an integer and the rest in the way that is cheapest
    /// here.
    ///
    /// At most 2.2 ulp off for `x > -126` (checked over every such `f32`); below, off by less than `f32::MIN_POSITIVE`. Of `f64`, at most 1.15 ulp off
    /// for `x > -1022`; below, off by less than `f64::MIN_POSITIVE`. Exactly 1
    /// at 0, exactly 0 at -infinity, NaN at NaN.
    fn exp2(self, x: Self::Vector) -> Self::Vector;

    /// [`exp2`](Self::exp2) of each; in step, if it takes its instructions so long that they would be waited for.
    #[inline(always)]
    fn exp2_each<const N: usize>(self, mut x: [Self::Vector; N]) -> [Self::Vector; N] {
        for x in &mut x {
            *x = self.exp2(*x);
        }
        x
    }

    /// The nearest integer, the even one of two; for magnitudes below 2^22 (of `f64`, 2^51).
    fn round(self, x: Self::Vector) -> Self::Vector;

    /// `2^n` for an integer `n` in `-126 ..= 127` (of `f64`, `-1022 ..= 1023`).
    fn power_of_two(self, n: Self::Vector) -> Self::Vector;

    /// Of the [word](Scalar::from_word) that each lane's bits are, whether this one, counted from the lowest, is set.
    fn has_bit(self, bits: Self::Vector, bit: u32) -> Self::Mask;

    /// Which of some booleans are true, the first in the lowest bit.
    #[inline(always)]
    fn bitmask(self, of: &[bool; 32]) -> u32 {
        // The product with the factor has eight of them in its topmost byte.
        let gather =
            |eight: [bool; 8]| u64::from_le_bytes(eight.map(u8::from)).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        let (eights, _) = of.as_chunks();
        eights.iter().rev().fold(0, |bits, eight| bits << 8 | gather(*eight) as u32)
    }

    /// `LANES` vectors of zeros.
    fn zeros(self) -> Self::Square;

    /// Lane `i` of vector `j` changes places with lane `j` of vector `i`.
    fn transpose(self, square: &mut Self::Square);

    /// The sum of all lanes of each.
    fn sum_each(self, of: [Self::Vector; 4]) -> [Self::Scalar; 4];

    /// The largest of all lanes of each; of no use where one is NaN.
    fn max_each(self, of: [Self::Vector; 4]) -> [Self::Scalar; 4];
}

/// What numbers become, which are multiplied with others that stand `N` by `N` in the lanes of a vector.
pub trait Joins<S: Simd, const N: usize, const DIGITS: usize>: Copy {
    /// The largest of them, if they are integers. If not, subnormal ones count as zeros.
    const LARGEST: Option<f32>;

    /// The nearest numbers, of two the even one: those of the first vector, then those of the next; a vector of each digit.
    fn join(self, numbers: [S::Vector; N]) -> [S::Vector; DIGITS];
}

/// The largest integer of 16 bits that is used: of those with two digits to base 256 from -128 to 127, it is the largest with a reciprocal that is nearly an
/// `f32`, so that a power of two which becomes this becomes itself again, times any byte.
const LARGEST_INTEGER: f32 = 32633.0;
const _: () = assert!(LARGEST_INTEGER <= (127 * 256 + 127) as f32);

/// Instructions for numbers of 16 bits that stand two by two in the lanes of a vector, the first in the lower half of the 32 bits.
pub trait Pairs<S: Simd>: Joins<S, 2, 1> {
    /// What keys and values are kept as.
    type Number: Copy;

    /// Runs `task`, compiled for these instructions too.
    fn call<T: Task>(self, task: T) -> T::Output;

    /// The first `2 * LANES` numbers of a row as they lie; zero where there are fewer.
    fn load(self, row: &[Self::Number]) -> S::Vector;

    /// The first `2 * LANES` numbers of a row for [`zip`](Self::zip); zero where there are fewer.
    fn load_raw(self, row: &[Self::Number]) -> S::Vector;

    /// Numbers of two rows, each with its counterpart, in an order of its own.
    fn zip(self, rows: [S::Vector; 2]) -> [S::Vector; 2];

    /// What was summed up of such pairs, in the order of the rows, as `f32`.
    fn unzip(self, sums: [S::Vector; 2]) -> [S::Vector; 2];

    /// The same pairs with zeros in the place of the second, and in the place of the first.
    fn split(self, pairs: S::Vector) -> [S::Vector; 2];

    /// `sum + a[1] * b[1] + a[0] * b[0]`, of floats rounded after either sum.
    fn dot(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector;

    /// The sum of all lanes of each of such sums.
    fn sum_each(self, of: [S::Vector; 4]) -> [S::Scalar; 4];
}

/// Instructions for bytes that stand four by four in the lanes of a vector, the first in the lowest bits. They are multiplied with integers of 16 bits, which are two
/// digits of base 256, the higher one first, both from -128 to 127.
pub trait Fours<S: Simd>: Joins<S, 4, 2> {
    /// Runs `task`, compiled for these instructions too.
    fn call<T: Task>(self, task: T) -> T::Output;

    /// The first `4 * LANES` bytes of a row, each 128 more than it is; that of zero where there are fewer.
    fn load(self, row: &[i8]) -> S::Vector;

    /// Bytes of four rows, each with its counterparts, in an order of its own.
    fn zip(self, rows: [S::Vector; 4]) -> [S::Vector; 4];

    /// What was summed up of such bytes, in the order of the rows, as `f32`.
    fn unzip(self, sums: [S::Vector; 4]) -> [S::Vector; 4];

    /// `sum`, and the products of four bytes, as they were loaded, with a digit each.
    fn dot(self, bytes: S::Vector, digits: S::Vector, sum: S::Vector) -> S::Vector;

    /// `256 * high + low`, of sums.
    fn carry(self, high: S::Vector, low: S::Vector) -> S::Vector;

    /// `a - b`, of sums.
    fn sub(self, a: S::Vector, b: S::Vector) -> S::Vector;

    /// The sum of all lanes, in each of them.
    fn spread(self, sums: S::Vector) -> S::Vector;

    /// The sum of all lanes of each.
    fn sum_each(self, of: [S::Vector; 4]) -> [S::Scalar; 4];
}

/// [`Pairs`] of `bf16`, for many queries too.
pub trait Bf16Pairs<S: Simd>: Pairs<S, Number = Bf16> {
    /// Keys of a tile, an even number.
    const KEY_TILE: usize;

    /// What the CPU has to multiply matrices of such numbers.
    type Matrices: Matrices<S>;

    /// `None` where it has nothing of the kind, or it is not wanted.
    #[inline(always)]
    fn matrices(self) -> Option<Self::Matrices> {
        None
    }

    /// The first `LANES` numbers of each row, each with its counterpart; zero where there are fewer.
    fn load_both(self, rows: [&[Bf16]; 2]) -> S::Vector;

    /// The nearest numbers, of two the even one, each with its counterpart.
    fn pair(self, first: S::Vector, second: S::Vector) -> S::Vector;
}

/// A unit of the CPU that multiplies matrices of pairs of `bf16`, [`ROWS`](Self::ROWS) rows and as many pairs of each at a time.
pub trait Matrices<S: Simd>: Copy {
    /// As many as a vector has lanes; 1 where there is no such unit.
    const ROWS: usize;

    /// Runs `task`, in which alone the unit may be used.
    fn call<T: Task>(self, task: T) -> T::Output;

    /// `to[i][c] = sum_t left[i][t] * right[t][c]`, added to what there is or not, for as many rows as `to` has: [`ROWS`](Self::ROWS), or twice as many. `left`
    /// has them too, of at least as many pairs as `right` has rows, a multiple of `ROWS`. Each sum is that of its row and column alone.
    fn multiply<const COLS: usize>(
        self,
        left: Rows<'_, Pair>,
        right: &[[S::Vector; COLS]],
        to: &mut [[S::Vector; COLS]],
        adds: bool,
    );

    /// Numbers `t..t + 8` of `2 * ROWS` rows: a vector for each, of all rows.
    ///
    /// # Safety
    ///
    /// The rows have as many.
    unsafe fn columns(self, rows: &[*const Bf16; 32], t: usize) -> [S::Vector; 8];
}

/// Of a backend without, for numbers of some type.
#[derive(Clone, Copy)]
pub struct NoPairs<T>(Infallible, PhantomData<T>);

impl<S: Simd, T: Copy, const N: usize, const DIGITS: usize> Joins<S, N, DIGITS> for NoPairs<T> {
    const LARGEST: Option<f32> = None;

    fn join(self, _: [S::Vector; N]) -> [S::Vector; DIGITS] {
        match self.0 {}
    }
}

impl<S: Simd> Fours<S> for NoPairs<[i8; 4]> {
    fn call<T: Task>(self, _: T) -> T::Output {
        match self.0 {}
    }

    fn load(self, _: &[i8]) -> S::Vector {
        match self.0 {}
    }

    fn zip(self, _: [S::Vector; 4]) -> [S::Vector; 4] {
        match self.0 {}
    }

    fn unzip(self, _: [S::Vector; 4]) -> [S::Vector; 4] {
        match self.0 {}
    }

    fn dot(self, _: S::Vector, _: S::Vector, _: S::Vector) -> S::Vector {
        match self.0 {}
    }

    fn carry(self, _: S::Vector, _: S::Vector) -> S::Vector {
        match self.0 {}
    }

    fn sub(self, _: S::Vector, _: S::Vector) -> S::Vector {
        match self.0 {}
    }

    fn spread(self, _: S::Vector) -> S::Vector {
        match self.0 {}
    }

    fn sum_each(self, _: [S::Vector; 4]) -> [S::Scalar; 4] {
        match self.0 {}
    }
}

impl<S: Simd, N: Copy> Pairs<S> for NoPairs<N> {
    type Number = N;

    fn call<T: Task>(self, _: T) -> T::Output {
        match self.0 {}
    }

    fn load(self, _: &[N]) -> S::Vector {
        match self.0 {}
    }

    fn load_raw(self, _: &[N]) -> S::Vector {
        match self.0 {}
    }

    fn zip(self, _: [S::Vector; 2]) -> [S::Vector; 2] {
        match self.0 {}
    }

    fn unzip(self, _: [S::Vector; 2]) -> [S::Vector; 2] {
        match self.0 {}
    }

    fn split(self, _: S::Vector) -> [S::Vector; 2] {
        match self.0 {}
    }

    fn dot(self, _: S::Vector, _: S::Vector, _: S::Vector) -> S::Vector {
        match self.0 {}
    }

    fn sum_each(self, _: [S::Vector; 4]) -> [S::Scalar; 4] {
        match self.0 {}
    }
}

impl<S: Simd> Bf16Pairs<S> for NoPairs<Bf16> {
    const KEY_TILE: usize = 2;

    type Matrices = Self;

    fn load_both(self, _: [&[Bf16]; 2]) -> S::Vector {
        match self.0 {}
    }

    fn pair(self, _: S::Vector, _: S::Vector) -> S::Vector {
        match self.0 {}
    }
}

impl<S: Simd> Matrices<S> for NoPairs<Bf16> {
    const ROWS: usize = 1;

    fn call<T: Task>(self, _: T) -> T::Output {
        match self.0 {}
    }

    fn multiply<const COLS: usize>(
        self,
        _: Rows<'_, Pair>,
        _: &[[S::Vector; COLS]],
        _: &mut [[S::Vector; COLS]],
        _: bool,
    ) {
        match self.0 {}
    }

    unsafe fn columns(self, _: &[*const Bf16; 32], _: usize) -> [S::Vector; 8] {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use core::array::from_fn;

    use super::{Backend, Fours, LARGEST_INTEGER, Pairs, Simd, Task, Token, with_simd};

    /// Integers, which have the same sum in any order.
    #[test]
    fn all_lanes_of_each_of_four() {
        fn check<S: Simd<Scalar = f32>>(simd: S) {
            let lanes: [[f32; 16]; 4] = from_fn(|i| from_fn(|lane| ((7 * i + 5 * lane) % 16) as f32 - 8.0));
            let vectors = lanes.map(|lanes| simd.load(&lanes[..S::LANES]));
            let sums = lanes.map(|lanes| lanes[..S::LANES].iter().sum());
            let maxima = lanes.map(|lanes| lanes[..S::LANES].iter().fold(f32::MIN, |max, lane| lane.max(max)));
            assert_eq!((simd.sum_each(vectors), simd.max_each(vectors)), (sums, maxima));
        }
        for token in Backend::available().filter_map(Backend::token) {
            with_simd!(token, simd => check(simd));
        }
    }

    /// Four rows of bytes with a query of 16 bits, and two of them with two weights.
    struct OfBytes<S, P> {
        simd: S,
        pairs: P,
    }

    impl<S: Simd<Scalar = f32>, P: Pairs<S, Number = i8>> Task for OfBytes<S, P> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let Self { simd, pairs } = self;
            let len = 2 * S::LANES;
            let rows: [[i8; 32]; 4] = from_fn(|i| from_fn(|t| (113 * t + 31 * i + 5) as u8 as i8));
            let query: [i16; 32] = from_fn(|t| (4999 * t + 77) as u16 as i16);
            let floats = query.map(f32::from);
            let [joined] = pairs.join([simd.load(&floats[..S::LANES]), simd.load(&floats[S::LANES..len])]);
            let dots = rows.map(|row| pairs.dot(pairs.load(&row[..len]), joined, simd.splat(0.0)));
            let expected = rows.map(|row| {
                row.iter().zip(query).take(len).map(|(x, y)| i32::from(*x) * i32::from(y)).sum::<i32>() as f32
            });
            assert_eq!(pairs.sum_each(dots), expected);

            let [a, b, ..] = rows;
            let weights = [32767_i16, 12345];
            let both =
                f32::from_bits(u32::from(weights[0].cast_unsigned()) | u32::from(weights[1].cast_unsigned()) << 16);
            let columns = pairs.zip([a, b].map(|row| pairs.load_raw(&row[..len])));
            let sums = pairs.unzip(columns.map(|columns| pairs.dot(columns, simd.splat(both), simd.splat(0.0))));
            let mut lanes = [0.0; 32];
            simd.store(sums[0], &mut lanes[..S::LANES]);
            simd.store(sums[1], &mut lanes[S::LANES..len]);
            for c in 0..len {
                let [a, b] = [a[c], b[c]].map(i32::from);
                assert_eq!(lanes[c], (a * i32::from(weights[0]) + b * i32::from(weights[1])) as f32, "column {c}");
            }
        }
    }

    /// Four rows of bytes with a query of 16 bits, and with four weights.
    struct OfFours<S, F> {
        simd: S,
        fours: F,
    }

    impl<S: Simd<Scalar = f32>, F: Fours<S>> OfFours<S, F> {
        /// The products of bytes with numbers of both digits, less those of as many zeros.
        #[inline(always)]
        fn dot(&self, bytes: S::Vector, [high, low]: [S::Vector; 2]) -> S::Vector {
            let Self { simd, fours } = self;
            let product =
                |bytes| fours.carry(fours.dot(bytes, high, simd.splat(0.0)), fours.dot(bytes, low, simd.splat(0.0)));
            fours.sub(product(bytes), product(fours.load(&[])))
        }
    }

    impl<S: Simd<Scalar = f32>, F: Fours<S>> Task for OfFours<S, F> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let Self { simd, fours } = self;
            let len = 4 * S::LANES;
            let rows: [[i8; 64]; 4] = from_fn(|i| from_fn(|t| (113 * t + 31 * i + 5) as u8 as i8));
            let largest = LARGEST_INTEGER as i32;
            let query: [i32; 64] = from_fn(|t| (4999 * t as i32).rem_euclid(2 * largest + 1) - largest);
            assert!(query.contains(&-largest));
            let floats = query.map(|x| x as f32);
            let digits = fours.join(from_fn(|i| simd.load(&floats[i * S::LANES..][..S::LANES])));
            // The last bytes are left out.
            for len in [len, len - 3] {
                let dots = rows.map(|row| self.dot(fours.load(&row[..len]), digits));
                let expected =
                    rows.map(|row| row.iter().zip(query).take(len).map(|(x, y)| i32::from(*x) * y).sum::<i32>() as f32);
                assert_eq!(fours.sum_each(dots), expected);
            }
            let sum = self.dot(fours.load(&rows[0][..len]), digits);
            let mut lanes = [0.0; 16];
            simd.store(fours.unzip([fours.spread(sum); 4])[0], &mut lanes[..S::LANES]);
            assert_eq!(lanes[..S::LANES], [fours.sum_each([sum; 4])[0]; 16][..S::LANES]);

            let weights = [largest, -12345, 128, -129];
            let both = fours.join([
                simd.load(&weights.map(|weight| weight as f32)),
                simd.splat(0.0),
                simd.splat(0.0),
                simd.splat(0.0),
            ]);
            let both = both.map(|digits| simd.splat(crate::scratch::elements::<S>(&[digits])[0]));
            let sums =
                fours.unzip(fours.zip(rows.map(|row| fours.load(&row[..len]))).map(|columns| self.dot(columns, both)));
            let mut lanes = [0.0; 64];
            for (sum, lanes) in sums.into_iter().zip(lanes.chunks_mut(S::LANES)) {
                simd.store(sum, lanes);
            }
            for c in 0..len {
                let expected: i32 = rows.iter().zip(weights).map(|(row, weight)| i32::from(row[c]) * weight).sum();
                assert_eq!(lanes[c], expected as f32, "column {c}");
            }
        }
    }

    /// Sums of integers are the same, whatever instructions a CPU has for them.
    #[test]
    fn bytes() {
        fn check<S: Simd<Scalar = f32>>(simd: S) {
            if let Some(pairs) = simd.i8_pairs() {
                pairs.call(OfBytes { simd, pairs });
            }
            if let Some(fours) = simd.i8_fours() {
                fours.call(OfFours { simd, fours });
            }
        }
        for token in Backend::available().filter_map(Backend::token) {
            with_simd!(token, simd => check(simd));
            match token {
                Token::Portable(_) => {}
                #[cfg(target_arch = "x86_64")]
                Token::Avx2(simd) => check(simd.without_vnni()),
                #[cfg(target_arch = "x86_64")]
                Token::Avx512(simd) => check(simd.without_vnni()),
            }
        }
    }
}
