//! Attention on a Cortex-M4F: a self-test whose exit status is QEMU's.

#![no_std]
#![no_main]

mod case;
mod stack;

use cortex_m_rt::{ExceptionFrame, entry, exception};
use cortex_m_semihosting::{debug, hprintln};
use panic_semihosting as _;
use simd_attention::{Attention, Backend, Error, Kv, View, ViewMut, scratch_len};

use case::{Case, Tensors};

const DENSE: Attention = Attention::new();
const CAUSAL: Attention = Attention::new().causal();

#[entry]
fn main() -> ! {
    let mut tensors = Tensors::new();
    agrees_with_the_reference(&mut tensors);
    empty_rows_are_zero(&mut tensors);
    masked_keys_are_not_observed(&mut tensors);
    work_gives_the_same_bits();
    errors_come_before_writes();
    only_the_portable_backend_is_there();
    let mut depth = |case: Case| stack::depth(&mut || case.run(&mut tensors).unwrap());
    hprintln!(
        "stack: {} bytes dense, {} causal",
        depth(Case::head(9, 65, 16)),
        depth(Case::head(9, 65, 16).with(CAUSAL))
    );
    debug::exit(debug::EXIT_SUCCESS);
    unreachable!("exit does not return")
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("hard fault: {frame:?}")
}

fn agrees_with_the_reference(tensors: &mut Tensors) {
    let grouped = Case { batch: 2, q_heads: 4, kv_heads: 2, value_dim: 5, ..Case::head(9, 11, 3) };
    let mut checked = 0;
    for attention in [DENSE, CAUSAL, DENSE.causal().offset(0), DENSE.causal().offset(-3), DENSE.scale(-2.0)] {
        for (q_len, kv_len) in [(1, 1), (1, 64), (3, 63), (4, 65), (5, 4), (9, 7), (8, 0)] {
            for dim in [1, 4, 7, 16] {
                Case::head(q_len, kv_len, dim).with(attention).check(tensors);
                checked += 1;
            }
        }
        grouped.with(attention).check(tensors);
        checked += 1;
    }
    hprintln!("{} cases agree with the reference", checked);
}

/// The first four of six queries see no key of two.
fn empty_rows_are_zero(tensors: &mut Tensors) {
    Case::head(6, 2, 3).with(CAUSAL).run(tensors).unwrap();
    assert_eq!(tensors.out[..12], [0.0; 12]);
    assert_eq!(tensors.lse[..4], [f32::NEG_INFINITY; 4]);
    assert!(tensors.lse[4..6].iter().all(|lse| lse.is_finite()));
}

/// NaN in the last key and value reaches the last query only.
fn masked_keys_are_not_observed(tensors: &mut Tensors) {
    const DIM: usize = 4;
    let case = Case::head(9, 9, DIM).with(CAUSAL);
    case.run(tensors).unwrap();
    let clean = tensors.out.map(f32::to_bits);
    let last = 8 * DIM..9 * DIM;
    let kept = (tensors.k, tensors.v);
    tensors.k[last.clone()].fill(f32::NAN);
    tensors.v[last.clone()].fill(f32::NAN);
    case.run(tensors).unwrap();
    assert_eq!(tensors.out.map(f32::to_bits)[..last.start], clean[..last.start]);
    assert!(tensors.out[last].iter().all(|x| x.is_nan()));
    (tensors.k, tensors.v) = kept;
}

/// Four queries over four keys, in `out`.
fn attend(attention: Attention<'_>, out: &mut [f32; 8], scratch: &mut [f32]) -> Result<(), Error> {
    let x = [0.5f32, -1.0, 2.0, 0.25, 1.5, 0.0, -0.75, 1.0];
    let x = View::matrix(&x, [4, 2])?;
    attention.forward(x, Kv::new(x, x)?, ViewMut::matrix(out, [4, 2])?, scratch)
}

fn work_gives_the_same_bits() {
    const SCRATCH: usize = scratch_len(2, 2);
    let (mut at_once, mut as_work) = ([0f32; 8], [0f32; 8]);
    attend(CAUSAL, &mut at_once, &mut [f32::NAN; SCRATCH]).unwrap();
    let x = [0.5f32, -1.0, 2.0, 0.25, 1.5, 0.0, -0.75, 1.0];
    let x = View::matrix(&x, [4, 2]).unwrap();
    let work = CAUSAL.prepare(x, Kv::new(x, x).unwrap(), ViewMut::matrix(&mut as_work, [4, 2]).unwrap()).unwrap();
    work.run(&mut [f32::NAN; SCRATCH]).unwrap();
    assert_eq!(at_once.map(f32::to_bits), as_work.map(f32::to_bits));
}

fn errors_come_before_writes() {
    const REQUIRED: usize = scratch_len(2, 2);
    let mut out = [-7f32; 8];
    let mut scratch = [0.0; REQUIRED];
    let short = attend(DENSE, &mut out, &mut scratch[1..]);
    assert_eq!(short, Err(Error::ScratchTooShort { required: REQUIRED, actual: REQUIRED - 1 }));
    let infinite = attend(DENSE.scale(f64::INFINITY), &mut out, &mut scratch);
    assert_eq!(infinite, Err(Error::ScaleNotFinite { scale: f64::INFINITY }));
    assert_eq!(View::matrix(&out, [3, 3]).err(), Some(Error::StorageTooShort { required: 9, actual: 8 }));
    // What only a small address space overflows.
    assert!(matches!(View::matrix(&out, [1 << 16, 1 << 16]).err(), Some(Error::SizeOverflow { .. })));
    assert_eq!(out, [-7.0; 8]);
}

fn only_the_portable_backend_is_there() {
    let mut out = [-7f32; 8];
    assert!(Backend::available().eq([Backend::Portable]));
    for backend in [Backend::Avx2, Backend::Avx512] {
        let refused = attend(DENSE.backend(backend), &mut out, &mut [0.0; scratch_len(2, 2)]);
        assert_eq!(refused, Err(Error::BackendUnavailable { backend }));
    }
    assert_eq!(out, [-7.0; 8]);
}
