//! The fastest that multiply-adds can go: independent chains on registers, with each backend's own instructions.

use core::hint::black_box;
use std::time::{Duration, Instant};

use simd_attention::Backend;

/// GFLOP/s of one thread, over at least this time: as long as what it is compared with, so that whatever else the machine
/// does takes its share of both.
pub fn gflops(backend: Backend, time: Duration) -> f64 {
    let (mut flops, start) = (0, Instant::now());
    while start.elapsed() < time || flops == 0 {
        flops += run(backend, 1 << 16);
    }
    flops as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Runs some steps and returns the floating-point operations they had.
fn run(backend: Backend, steps: usize) -> usize {
    match backend {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers measure only backends that are available, so the CPU has the features.
        Backend::Avx512 => unsafe { avx512(steps) },
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
