//! Which backend runs, on whatever CPU this is. `.ci/run` repeats it on emulated ones, with `EXPECT_BACKEND` set to the best.

use crate::common::backends;
use simd_attention::{Attention, Backend, Error, Kv, View, ViewMut, scratch_len};

/// Whether the CPU has a backend's instructions, as the standard library sees it.
fn detected(backend: Backend) -> bool {
    match backend {
        Backend::Portable => true,
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
        }
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512Bf16 => detected(Backend::Avx512) && is_x86_feature_detected!("avx512bf16"),
        // Of this one it does not tell; the kernel does, if it is Linux.
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512Amx => {
            let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            detected(Backend::Avx512Bf16) && cpus.split_whitespace().any(|word| word == "amx_bf16")
        }
        _ => false,
    }
}

/// Two queries over three keys, the same in every call.
fn attend(attention: Attention<'_>, out: &mut [f32; 4]) -> Result<(), Error> {
    attention.forward(
        View::matrix(&[0.5f32, -1.0, 2.0, 0.25], [2, 2])?,
        Kv::new(
            View::matrix(&[1f32, 0.5, -0.5, 1.5, 0.0, -2.0], [3, 2])?,
            View::matrix(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2])?,
        )?,
        ViewMut::matrix(out, [2, 2])?,
        &mut [0.0; scratch_len(2, 2)],
    )
}

#[test]
fn detection_agrees_with_the_standard_library() {
    // Nobody may use AMX without having asked for it; other tests may have done so.
    Backend::request_amx();
    for backend in Backend::ALL {
        assert_eq!(backend.is_available(), detected(backend), "{backend}");
    }
}

#[test]
fn the_best_backend_is_the_expected_one() {
    let best = backends().last().unwrap();
    println!("best backend: {best}");
    assert_eq!(Backend::best(), best);
    if let Ok(expected) = std::env::var("EXPECT_BACKEND") {
        assert_eq!(best.to_string(), expected);
    }
}

#[test]
fn the_best_backend_is_the_default() {
    Backend::request_amx();
    let (mut default, mut best) = ([f32::NAN; 4], [f32::NAN; 4]);
    attend(Attention::new(), &mut default).unwrap();
    attend(Attention::new().backend(Backend::best()), &mut best).unwrap();
    assert_eq!(default.map(f32::to_bits), best.map(f32::to_bits));
}

#[test]
fn available_backends_run_and_the_others_are_refused() {
    Backend::request_amx();
    let mut portable = [f32::NAN; 4];
    attend(Attention::new().backend(Backend::Portable), &mut portable).unwrap();
    for backend in Backend::ALL {
        let mut out = [-7f32; 4];
        let done = attend(Attention::new().backend(backend), &mut out);
        if backend.is_available() {
            assert_eq!(done, Ok(()));
            assert!(
                out.iter().zip(portable).all(|(a, b)| (a - b).abs() < 1e-5),
                "{backend}: {out:?}, not {portable:?}"
            );
        } else {
            assert_eq!(done, Err(Error::BackendUnavailable { backend }));
            assert_eq!(out, [-7.0; 4], "written before the error");
        }
    }
}
