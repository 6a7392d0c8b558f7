//! Matrices of `bf16` in tiles of 16 rows of 64 bytes: AMX.
//!
//! An operating system may want to be asked by a process before that uses the tiles, as they make what it saves of a thread larger by 8 KB. That is
//! a change to the whole process, and so is not done unless the caller says so.

use core::{
    arch::{asm, x86_64::*},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::Avx512;
use crate::{
    element::Bf16,
    simd::{Known, Matrices, Task},
    view::{Pair, Rows},
};

/// Exists only where the CPU has AMX-TILE and AMX-BF16, besides what [`Avx512`] asks for, and the operating system lets this process use them.
#[derive(Clone, Copy)]
pub struct Amx(());

/// Whether [`request`] was granted.
static GRANTED: AtomicBool = AtomicBool::new(false);

/// Whether this process may use the tiles, having asked for it; only where there is AVX-512.
pub(super) fn request() -> bool {
    if !GRANTED.load(Relaxed) && has_tiles() && ask() {
        GRANTED.store(true, Relaxed);
    }
    GRANTED.load(Relaxed)
}

/// Whether the CPU has the instructions, and the operating system keeps the registers; only where there is AVX-512.
pub(super) fn has_tiles() -> bool {
    static KNOWN: Known = Known::new();

    /// AMX-BF16 and AMX-TILE.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    /// The tiles' configuration and data.
    const STATE: u64 = 0b11 << 17;

    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: where there is AVX-512, the operating system keeps registers by what this instruction tells of.
        unsafe { _xgetbv(0) }
    }
    KNOWN.get_or(|| {
        let has_instructions = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES;
        // SAFETY: as above.
        has_instructions && unsafe { kept() } & STATE == STATE
    })
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, without a C library.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;

    let result: isize;
    // SAFETY: the call touches no memory of this process, and no registers but those that it says.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Where there is no operating system, nobody need be asked; of others, it is not known how.
#[cfg(not(target_os = "linux"))]
const fn ask() -> bool {
    cfg!(target_os = "none")
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles as large as they come.
static WHOLE: Configuration = {
    let (mut row_bytes, mut rows, mut i) = ([0; 16], [0; 16], 0);
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, 16);
        i += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Amx {
    pub(super) fn new() -> Option<Self> {
        GRANTED.load(Relaxed).then_some(Self(()))
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    fn outlined<T: Task>(self, task: T) -> T::Output {
        // SAFETY: `self` exists, so the CPU has AMX, and the process may use it; the configuration is a valid one. No code but that of `multiply` uses tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly, preserves_flags)) }
        let output = task.run();
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
        output
    }
}

/// One group of 16 rows or two: for each 32 numbers of them, a tile of the left factor is multiplied with a tile for each of some vectors of columns.
macro_rules! groups {
    ($operands:expr; $([$($left:ident $sum:literal $at:literal),*])*) => {{
        let Operands { left, left_stride, right, to, stride, steps, adds } = $operands;
        // SAFETY: the caller's promise.
        asm!(
            "test {adds:e}, {adds:e}",
            "jz 2f",
            $($(concat!("tileloadd ", $sum, ", [{to} + {stride} * 1 + ", $at, "]"),)*
            "add {to}, {tile}",)*
            "mov {to}, {first}",
            "jmp 3f",
            "2:",
            $($(concat!("tilezero ", $sum),)*)*
            "3:",
            $($(
                groups!(@load $left),
                concat!("tileloadd tmm7, [{right} + {stride} * 1 + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm6, tmm7"),
            )*)*
            "add {left}, 64",
            "add {next}, 64",
            "add {right}, {tile}",
            "dec {steps}",
            "jnz 3b",
            $($(concat!("tilestored [{to} + {stride} * 1 + ", $at, "], ", $sum),)*
            "add {to}, {tile}",)*
            left = inout(reg) left => _,
            next = inout(reg) left.wrapping_byte_add(16 * left_stride) => _,
            left_stride = in(reg) left_stride,
            right = inout(reg) right => _,
            to = inout(reg) to => _,
            first = in(reg) to,
            stride = in(reg) stride,
            tile = in(reg) 16 * stride,
            steps = inout(reg) steps => _,
            adds = in(reg) u32::from(adds),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }};
    (@load left) => { "tileloadd tmm6, [{left} + {left_stride} * 1]" };
    (@load next) => { "tileloadd tmm6, [{next} + {left_stride} * 1]" };
    (@load same) => { "" };
}

/// Where the factors and the product of a group begin; strides are in bytes, the right factor's is that of the product.
struct Operands {
    left: *const Pair,
    left_stride: usize,
    right: *const __m512,
    to: *mut __m512,
    stride: usize,
    /// Of 16 pairs, at least one.
    steps: usize,
    adds: bool,
}

impl Matrices<Avx512> for Amx {
    const ROWS: usize = 16;

    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { self.outlined(task) }
    }

    #[inline(always)]
    fn multiply<const COLS: usize>(
        self,
        left: Rows<'_, Pair>,
        right: &[[__m512; COLS]],
        to: &mut [[__m512; COLS]],
        adds: bool,
    ) {
        const { assert!(1 <= COLS && COLS <= 3) };
        let (rows, steps) = (to.len(), right.len() / 16);
        debug_assert!((rows == 16 || rows == 32) && steps > 0 && left.len() >= rows && left.dim() >= 16 * steps);
        let (Some(from), Some(first)) = (right.first(), to.first_mut()) else { return };
        if rows < 16 || steps == 0 || left.len() < rows || left.dim() < 16 * steps {
            return;
        }
        let operands = Operands {
            left: left.row_ptr(0),
            left_stride: size_of::<Pair>() * left.stride(),
            right: from.as_ptr(),
            to: first.as_mut_ptr(),
            stride: size_of::<[__m512; COLS]>(),
            steps,
            adds,
        };
        // SAFETY: `self` exists, so the CPU has AMX, and `call` has configured it. The rows of the left factor are there, and as long; of the right factor and of the
        // product, there are as many rows.
        unsafe {
            match (COLS, rows >= 32) {
                (1, false) => groups!(operands; [left "tmm0" "0"]),
                (1, true) => groups!(operands; [left "tmm0" "0"] [next "tmm3" "0"]),
                (2, false) => groups!(operands; [left "tmm0" "0", same "tmm1" "64"]),
                (2, true) => {
                    groups!(operands; [left "tmm0" "0", same "tmm1" "64"] [next "tmm3" "0", same "tmm4" "64"]);
                }
                (_, false) => groups!(operands; [left "tmm0" "0", same "tmm1" "64", same "tmm2" "128"]),
                (_, true) => groups!(operands;
                    [left "tmm0" "0", same "tmm1" "64", same "tmm2" "128"]
                    [next "tmm3" "0", same "tmm4" "64", same "tmm5" "128"]
                ),
            }
        }
    }

    #[inline(always)]
    unsafe fn columns(self, rows: &[*const Bf16; 32], t: usize) -> [__m512; 8] {
        // SAFETY: `self` exists, so the CPU has AVX-512F and BW; the rest is the caller's promise.
        unsafe { transpose_eights(rows, t) }
    }
}

/// Quarter `l` of a vector is of rows `8 l .. 8 l + 8`, which are transposed there: single numbers, pairs, then fours change places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose_eights(rows: &[*const Bf16; 32], t: usize) -> [__m512; 8] {
    let mut a = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        // SAFETY: the caller's promise.
        let eight = |row: *const Bf16| unsafe { _mm_loadu_si128(row.add(t).cast()) };
        let half = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(eight(rows[i])), eight(rows[8 + i]));
        a[i] = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(half, eight(rows[16 + i])), eight(rows[24 + i]));
    }
    let mut b = a;
    for i in 0..4 {
        b[i] = _mm512_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[4 + i] = _mm512_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    // b[4 h + i]: columns 4 h .. 4 h + 4 of rows 2 i and 2 i + 1.
    for i in 0..4 {
        a[2 * i] = _mm512_unpacklo_epi32(b[2 * i], b[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(b[2 * i], b[2 * i + 1]);
    }
    // a[4 h + 2 i + k]: columns 4 h + 2 k and the next of rows 4 i .. 4 i + 4.
    for h in 0..2 {
        for k in 0..2 {
            b[4 * h + 2 * k] = _mm512_unpacklo_epi64(a[4 * h + k], a[4 * h + 2 + k]);
            b[4 * h + 2 * k + 1] = _mm512_unpackhi_epi64(a[4 * h + k], a[4 * h + 2 + k]);
        }
    }
    let mut columns = [_mm512_setzero_ps(); 8];
    columns.iter_mut().zip(&b).for_each(|(column, pairs)| *column = _mm512_castsi512_ps(*pairs));
    columns
}
