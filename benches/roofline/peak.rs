//! The fastest that multiply-adds can go: independent chains on registers, with each backend's own instructions.

use core::hint::black_box;
use std::time::{Duration, Instant};

use simd_attention::Backend;

/// GFLOP/s of one thread, over at least this time: as long as what it is compared with, so that whatever else the machine
/// does takes its share of both. In pairs of `bf16`, where those are what is computed with.
pub fn gflops(backend: Backend, in_pairs: bool, time: Duration) -> f64 {
    let (mut flops, start) = (0, Instant::now());
    while start.elapsed() < time || flops == 0 {
        flops += run(backend, in_pairs, 1 << 16);
    }
    flops as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Runs some steps and returns the floating-point operations they had.
fn run(backend: Backend, in_pairs: bool, steps: usize) -> usize {
    match backend {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers measure only backends that are available, so the CPU has the features.
        Backend::Avx512Amx if in_pairs => unsafe { amx(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Backend::Avx512Bf16 if in_pairs => unsafe { avx512_bf16(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Backend::Avx512 | Backend::Avx512Bf16 | Backend::Avx512Amx => unsafe { avx512(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Backend::Avx2 => unsafe { avx2(steps) },
        _ => portable(steps),
    }
}

/// The loops differ in nothing but their vectors: `chains` of `x = x * a + b` that converge, so that no value is subnormal.
macro_rules! chains {
    ($steps:expr, $count:literal, $lanes:expr, $splat:expr, $mul_add:expr) => {{
        let (a, b) = (black_box($splat(0.5)), black_box($splat(1.0)));
        let mut x = [$splat(1.5); $count];
        for _ in 0..$steps {
            for x in &mut x {
                *x = $mul_add(*x, a, b);
            }
        }
        black_box(x);
        2 * $lanes * $count * $steps
    }};
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(steps: usize) -> usize {
    use core::arch::x86_64::*;
    chains!(steps, 24, 16, |x| _mm512_set1_ps(x), |x, a, b| _mm512_fmadd_ps(x, a, b))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_bf16(steps: usize) -> usize {
    use core::arch::x86_64::*;
    // SAFETY: vectors of 512 bits, all of which mean something.
    let pairs = black_box(unsafe { core::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(0x3f00_bf00)) });
    let (splat, dot) = (|x| _mm512_set1_ps(x), |x, _, _| _mm512_dpbf16_ps(x, pairs, pairs));
    2 * chains!(steps, 24, 16, splat, dot)
}

/// Tiles of zeros, which take as long as others; four sums, none of which is waited for.
///
/// # Safety
///
/// The CPU has AMX, and the process may use it.
#[cfg(target_arch = "x86_64")]
unsafe fn amx(steps: usize) -> usize {
    /// Palette 1; eight tiles of 64 bytes in each of 16 rows.
    #[repr(align(64))]
    struct Configuration([u8; 64]);
    let mut configuration = Configuration([0; 64]);
    configuration.0[0] = 1;
    for tile in 0..8 {
        (configuration.0[16 + 2 * tile], configuration.0[48 + tile]) = (64, 16);
    }
    // SAFETY: the caller's promise; the configuration is a valid one, and is given back.
    unsafe {
        core::arch::asm!(
            "ldtilecfg [{configuration}]",
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "dec {steps}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &configuration,
            steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    4 * 2 * 16 * 16 * 32 * steps
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(steps: usize) -> usize {
    use core::arch::x86_64::*;
    chains!(steps, 12, 8, |x| _mm256_set1_ps(x), |x, a, b| _mm256_fmadd_ps(x, a, b))
}

/// As wide as the crate's portable backend is in this build.
fn portable(steps: usize) -> usize {
    #[cfg(not(target_feature = "avx2"))]
    use wide::f32x4 as Floats;
    #[cfg(all(target_feature = "avx2", not(target_feature = "avx512f")))]
    use wide::f32x8 as Floats;
    #[cfg(target_feature = "avx512f")]
    use wide::f32x16 as Floats;
    chains!(steps, 12, size_of::<Floats>() / 4, Floats::splat, |x: Floats, a, b| x.mul_add(a, b))
}

/// Hyperbolic tangents a second, in billions, of one thread, over at least this time.
pub fn gtanh(backend: Backend, time: Duration) -> f64 {
    let (mut count, start) = (0, Instant::now());
    while start.elapsed() < time || count == 0 {
        count += run_tanh(backend, 1 << 14);
    }
    count as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn run_tanh(backend: Backend, steps: usize) -> usize {
    match backend {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers measure only backends that are available, so the CPU has the features.
        Backend::Avx512 | Backend::Avx512Bf16 | Backend::Avx512Amx => unsafe { avx512_tanh(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Backend::Avx2 => unsafe { avx2_tanh(steps) },
        _ => portable_tanh(steps),
    }
}

/// The crate's own form of the tangent, on registers: several sums of the tangents of arguments that move on.
macro_rules! tangents {
    ($steps:expr, $lanes:expr, $splat:expr, $add:expr, $sub:expr, $mul:expr, $div:expr, $mul_add:expr, $max:expr, $round:expr, $power:expr) => {{
        let (splat, power) = ($splat, $power);
        let [one, two, zero, least] = [1.0, 2.0, 0.0, -10.0].map(splat);
        let [factor, high, low] = [2.0 * core::f32::consts::LOG2_E, -0.693_145_75, -1.428_606_8e-6].map(splat);
        let coefficients = [1.387_066_8e-3, 8.366_263e-3, 4.166_743_5e-2, 0.166_665_46, 0.499_999_97].map(splat);
        let (mut x, step) = (black_box([splat(-1.0), splat(-0.5), splat(0.1), splat(0.7)]), black_box(splat(1e-4)));
        let mut sums = [zero; 4];
        for _ in 0..$steps {
            for (x, sum) in x.iter_mut().zip(&mut sums) {
                *x = $add(*x, step);
                let y = $sub(zero, $max(least, $sub(zero, $max(least, *x))));
                let n = $round($mul(y, factor));
                let t = $mul_add(n, low, $mul_add(n, high, $mul(y, two)));
                let [mut p, lower @ ..] = coefficients;
                for coefficient in lower {
                    p = $mul_add(p, t, coefficient);
                }
                let power = power(n);
                let less_one = $mul_add(power, $mul_add($mul(t, t), p, t), $sub(power, one));
                *sum = $add(*sum, $div(less_one, $add(less_one, two)));
            }
        }
        black_box(sums);
        4 * $lanes * $steps
    }};
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512_tanh(steps: usize) -> usize {
    use core::arch::x86_64::*;
    tangents!(
        steps,
        16,
        |x| _mm512_set1_ps(x),
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_roundscale_ps::<8>,
        |n| _mm512_scalef_ps(_mm512_set1_ps(1.0), n)
    )
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_tanh(steps: usize) -> usize {
    use core::arch::x86_64::*;
    tangents!(
        steps,
        8,
        |x| _mm256_set1_ps(x),
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_round_ps::<8>,
        |n| {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    )
}

/// As wide as the crate's portable backend is in this build.
fn portable_tanh(steps: usize) -> usize {
    use core::ops::{Add, Div, Mul, Sub};
    use wide::f32x4 as Floats;
    /// Added and taken away again, it rounds to an integer.
    const MAGIC: f32 = 12_582_912.0;
    tangents!(
        steps,
        4,
        |x| Floats::splat(x),
        Floats::add,
        Floats::sub,
        Floats::mul,
        Floats::div,
        Floats::mul_add,
        Floats::fast_max,
        |x: Floats| (x + Floats::splat(MAGIC)) - Floats::splat(MAGIC),
        |n: Floats| Floats::new(n.to_array().map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    )
}

/// GB/s at which one thread reads some memory from its first element to its last, over at least this time.
pub fn read_gbs(backend: Backend, memory: &[f32], time: Duration) -> f64 {
    let (mut rounds, start) = (0, Instant::now());
    while start.elapsed() < time || rounds == 0 {
        match backend {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: callers measure only backends that are available, so the CPU has the features.
            Backend::Avx512 | Backend::Avx512Bf16 | Backend::Avx512Amx => unsafe { avx512_read(memory) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Backend::Avx2 => unsafe { avx2_read(memory) },
            _ => read(memory),
        }
        rounds += 1;
    }
    (rounds * size_of_val(memory)) as f64 / start.elapsed().as_secs_f64() / 1e9
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512_read(memory: &[f32]) {
    read(memory);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2_read(memory: &[f32]) {
    read(memory);
}

/// Several sums, so that the reads need not wait for them.
#[inline(always)]
fn read(memory: &[f32]) {
    let mut sums = [0.0; 128];
    for chunk in memory.chunks_exact(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    black_box(sums);
}
