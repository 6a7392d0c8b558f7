//! The kernels beside the naive reference and beside what a Rust user has today: two products of the `gemm` crate around a
//! vectorised softmax.
//!
//! ```text
//! cargo bench --bench attention
//! ```
//!
//! All on one thread. An element of the throughput is a useful floating-point operation, `4 * attended query-key pairs * dim`: read
//! `Gelem/s` as GFLOP/s. Every form proves its result against the reference before it is timed.

#![expect(clippy::unwrap_used, reason = "a bench that cannot run has nothing better to do than to stop")]

mod case;
mod composition;

use std::time::Duration;

use case::{Case, Shape};
use composition::Composition;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use simd_attention::{Backend, scratch_len};

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .nresamples(10_000);
    targets = attention
}
criterion_main!(benches);

const SHAPES: [Shape; 6] = [
    Shape { heads: 12, len: 56, dim: 32, causal: false },
    Shape { heads: 8, len: 128, dim: 64, causal: false },
    Shape { heads: 8, len: 512, dim: 64, causal: false },
    Shape { heads: 8, len: 512, dim: 128, causal: false },
    Shape { heads: 8, len: 512, dim: 64, causal: true },
    Shape { heads: 8, len: 512, dim: 128, causal: true },
];

/// The reference takes too long to be timed on longer ones.
const REFERENCE_LEN: usize = 128;

fn attention(criterion: &mut Criterion) {
    for shape in SHAPES {
        let case = Case::new(shape);
        let mut group = criterion.benchmark_group(shape.to_string());
        group.throughput(Throughput::Elements(shape.flops())).sampling_mode(SamplingMode::Flat);
        if shape.len <= REFERENCE_LEN {
            let mut out = case.expected().to_vec();
            group.bench_function("reference", |bencher| bencher.iter(|| case.reference(&mut out)));
        }
        for backend in Backend::available() {
            let mut scratch = vec![0.0; scratch_len(shape.dim, shape.dim)];
            bench(&mut group, &backend.to_string(), &case, |out| case.kernel(backend, out, &mut scratch));
        }
        let mut composition = Composition::new(shape);
        bench(&mut group, "gemm", &case, |out| composition.forward(&case, out));
        group.finish();
    }
}

/// Checks what `forward` writes, then times it.
fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, case: &Case, mut forward: impl FnMut(&mut [f32])) {
    let mut out = vec![f32::NAN; case.expected().len()];
    forward(&mut out);
    case.check(name, &out);
    group.bench_function(name, |bencher| bencher.iter(|| forward(&mut out)));
}
