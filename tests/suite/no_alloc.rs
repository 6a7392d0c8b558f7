//! Nothing allocates: an allocator that counts is asked.

use crate::common::{
    Band, BiasPlan, Content, GridPlan, Layout as TensorLayout, Lens, MaskKind, Plan, ScoreKind, backends,
};
use simd_attention::{Attention, Kv, Stage, View, ViewMut, scratch_len};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

struct Counting;

thread_local! {
    /// Of this thread: tests run side by side.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc`, that is from `System`, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `f` allocates.
fn allocations<R>(f: impl FnOnce() -> R) -> usize {
    let before = ALLOCATIONS.get();
    black_box(f());
    ALLOCATIONS.get() - before
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| ()), 0);
    assert_eq!(allocations(|| Box::new(1)), 1);
    assert_eq!(allocations(|| vec![0u8; 100]), 1);
    assert_eq!(allocations(|| black_box([[0u8; 64]; 2].map(Vec::from))), 2);
}

const LENS: [usize; 2] = [70, 300];
const DIMS: [usize; 2] = [33, 20];

#[test]
fn views_prepare_run_and_forward() {
    for band in [Band::DENSE, Band::CAUSAL] {
        let case = Plan { batch: 2, q_heads: 4, kv_heads: 2, band, ..Plan::new(LENS, DIMS) }.case();
        for backend in backends() {
            let mut answer = case.blank();
            let mut scratch = vec![0.0; scratch_len(DIMS[0], DIMS[1])];
            let count = allocations(|| {
                let work = case.prepare(backend, &mut answer)?;
                black_box((work.units(), work.scratch_len()));
                work.run(&mut scratch)
            });
            assert_eq!(count, 0, "prepare and run on {backend}, {band:?}");

            let count = allocations(|| case.forward(backend, &mut answer, &mut scratch));
            assert_eq!(count, 0, "forward on {backend}, {band:?}");
        }
    }
}

/// Every mask, every modifier, scores too.
const EVERYTHING: Plan = Plan {
    q_heads: 4,
    kv_heads: 2,
    band: Band { causal: true, ..Band::window(Some(200), None) },
    lens: Lens::Random,
    packed: Some(3),
    mask: Some(GridPlan::HALF),
    block_mask: Some(GridPlan { bits: true, block: [16, 16], ..GridPlan::HALF }),
    mask_rule: Some(MaskKind::Parity),
    softcap: Some(20.0),
    bias: Some(BiasPlan::new(Content::Masking)),
    alibi_slopes: Some(Content::Normal(0.1)),
    sinks: Some(Content::Normal(1.0)),
    score_rule: Some(ScoreKind::Shifted),
    scores: Some((Stage::Weights, TensorLayout::HeadsFirst)),
    ..Plan::new(LENS, DIMS)
};

#[test]
fn forward_with_everything() {
    for stage in [Stage::Scaled, Stage::Weights] {
        let case = Plan { scores: Some((stage, TensorLayout::HeadsFirst)), ..EVERYTHING }.case();
        let mut scratch = vec![0.0; scratch_len(DIMS[0], DIMS[1])];
        for backend in backends() {
            let mut answer = case.blank();
            let count = allocations(|| case.forward(backend, &mut answer, &mut scratch).unwrap());
            assert_eq!(count, 0, "{backend}, {stage:?}");
        }
        let mut answer = case.reference();
        assert_eq!(allocations(|| case.reference_into(&mut answer).unwrap()), 0, "reference, {stage:?}");
    }
}

#[test]
fn reference() {
    let case = Plan { band: Band::CAUSAL, ..Plan::new(LENS, DIMS) }.case();
    let mut answer = case.reference();
    let count = allocations(|| case.reference_into(&mut answer));
    assert_eq!(count, 0);
}

#[test]
fn errors() {
    let data = [0f32; 4];
    let mut out = [0f32; 4];
    let count = allocations(|| {
        let q = View::matrix(&data, [4, 1]).unwrap();
        let kv = Kv::new(View::matrix(&data, [2, 2]).unwrap(), View::matrix(&data, [2, 2]).unwrap()).unwrap();
        Attention::new().forward(q, kv, ViewMut::matrix(&mut out, [4, 1]).unwrap(), &mut []).unwrap_err();
        View::matrix(&data, [usize::MAX, 2]).unwrap_err();
    });
    assert_eq!(count, 0);
}
