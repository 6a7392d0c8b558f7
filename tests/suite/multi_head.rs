//! The multi-head layer: held to its projections and the reference, one step after the other, on every backend.

use crate::common::{Random, U, backends};
use simd_attention::{
    Additive, Attention, Axis, Backend, Error, Kv, Linear, MultiHead, Operand, Output, Score, Stage, View, ViewMut,
    multi_head_scratch_len, reference,
};

/// Dimensions of a layer, none of which is another's.
#[derive(Clone, Copy, Debug)]
struct Dims {
    batch: usize,
    q_len: usize,
    kv_len: usize,
    in_dim: usize,
    source_dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    out_dim: usize,
}

const DIMS: Dims = Dims {
    batch: 2,
    q_len: 5,
    kv_len: 7,
    in_dim: 6,
    source_dim: 9,
    heads: 4,
    kv_heads: 2,
    head_dim: 3,
    value_dim: 5,
    out_dim: 8,
};

/// `W` and `b` of a projection.
struct Weights {
    w: Vec<f32>,
    b: Vec<f32>,
    in_dim: usize,
}

impl Weights {
    fn new(in_dim: usize, out_dim: usize, random: &mut Random) -> Self {
        let mut numbers = |n: usize| (0..n).map(|_| random.normal() * 0.5).collect();
        Self { w: numbers(in_dim * out_dim), b: numbers(out_dim), in_dim }
    }

    fn linear(&self) -> Linear<'_> {
        Linear::new(View::matrix(&self.w, [self.b.len(), self.in_dim]).unwrap()).bias(&self.b)
    }

    /// In f64, of rows.
    fn exact(&self, x: &[f64]) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
            self.w.chunks(self.in_dim).zip(&self.b).map(|(w, b)| dot(w) + f64::from(*b)).collect()
        };
        x.chunks(self.in_dim).flat_map(row).collect()
    }
}

struct Layer {
    dims: Dims,
    projections: [Weights; 4],
    x: Vec<f32>,
    source: Vec<f32>,
}

impl Layer {
    fn new(dims: Dims) -> Self {
        let Dims { batch, q_len, kv_len, in_dim, source_dim, heads, kv_heads, head_dim, value_dim, out_dim } = dims;
        let mut random = Random::new(5);
        let projections = [
            (in_dim, heads * head_dim),
            (source_dim, kv_heads * head_dim),
            (source_dim, kv_heads * value_dim),
            (heads * value_dim, out_dim),
        ]
        .map(|(from, to)| Weights::new(from, to, &mut random));
        let mut numbers = |n: usize| (0..n).map(|_| random.normal()).collect();
        Self { dims, projections, x: numbers(batch * q_len * in_dim), source: numbers(batch * kv_len * source_dim) }
    }

    fn layer(&self) -> MultiHead<'_> {
        MultiHead::new(self.dims.heads, self.projections.each_ref().map(Weights::linear)).kv_heads(self.dims.kv_heads)
    }

    fn inputs(&self) -> [View<'_, f32>; 2] {
        let Dims { batch, q_len, kv_len, in_dim, source_dim, .. } = self.dims;
        [
            View::heads_first(&self.x, [batch, 1, q_len, in_dim]).unwrap(),
            View::heads_first(&self.source, [batch, 1, kv_len, source_dim]).unwrap(),
        ]
    }

    /// Projections in f64, rounded to f32 for the reference between them; and the attention weights.
    fn exact<F: Score>(&self, attention: &Attention<'_, F>, lens: Option<&[usize]>) -> [Vec<f64>; 2] {
        let Dims { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim, .. } = self.dims;
        let [query, key, value, output] = &self.projections;
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
        let narrow = |x: Vec<f64>| -> Vec<f32> { x.into_iter().map(|x| x as f32).collect() };
        let [q, k, v] = [(query, &self.x), (key, &self.source), (value, &self.source)]
            .map(|(projection, x)| narrow(projection.exact(&wide(x))));
        let (mut context, mut weights) =
            (vec![0.0; batch * q_len * heads * value_dim], vec![0.0; batch * heads * q_len * kv_len]);
        let kv = Kv::new(
            View::tokens_first(&k, [batch, kv_len, kv_heads, head_dim]).unwrap(),
            View::tokens_first(&v, [batch, kv_len, kv_heads, value_dim]).unwrap(),
        )
        .unwrap();
        let out = Output::new(ViewMut::tokens_first(&mut context, [batch, q_len, heads, value_dim]).unwrap())
            .scores(Stage::Weights, ViewMut::heads_first(&mut weights, [batch, heads, q_len, kv_len]).unwrap());
        let q = View::tokens_first(&q, [batch, q_len, heads, head_dim]).unwrap();
        reference::forward(attention, q, lens.map_or(kv, |lens| kv.lens(lens)), out).unwrap();
        [output.exact(&context), weights]
    }

    fn check<F: Score>(&self, attention: Attention<'_, F>, lens: Option<&[usize]>) {
        let Dims { batch, q_len, kv_len, heads, out_dim, .. } = self.dims;
        let [expected, expected_weights] = self.exact(&attention, lens);
        for backend in backends() {
            let layer = self.layer().attention(attention).backend(backend);
            let layer = lens.map_or(layer, |lens| layer.kv_lens(lens));
            let [x, source] = self.inputs();
            let (mut out, mut weights) =
                (vec![f32::NAN; batch * q_len * out_dim], vec![f32::NAN; batch * heads * q_len * kv_len]);
            let output = Output::new(ViewMut::heads_first(&mut out, [batch, 1, q_len, out_dim]).unwrap())
                .scores(Stage::Weights, ViewMut::heads_first(&mut weights, [batch, heads, q_len, kv_len]).unwrap());
            let mut scratch = vec![f32::NAN; layer.scratch_len(x.shape(), source.shape())];
            layer.forward(x, source, output, &mut scratch).unwrap();
            for (actual, expected) in [(&out, &expected), (&weights, &expected_weights)] {
                for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                    // Four sums of few terms of size 1, one inside the other.
                    assert!(
                        (f64::from(*actual) - expected).abs() <= 200.0 * U * (1.0 + expected.abs()),
                        "{backend} {i}: {actual}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn cross_attention_of_grouped_heads() {
    let layer = Layer::new(DIMS);
    layer.check(Attention::new(), None);
    layer.check(Attention::new().causal(), None);
    layer.check(Attention::new().scale(0.7).softcap(3.0), Some(&[7, 2]));
}

#[test]
fn other_score_functions() {
    Layer::new(DIMS).check(Attention::with_score(Additive::new(&[0.5, -1.0, 2.0])), None);
}

#[test]
fn one_dimension_for_all_has_a_constant_scratch() {
    let dims =
        Dims { in_dim: 12, source_dim: 12, heads: 4, kv_heads: 4, head_dim: 3, value_dim: 3, out_dim: 12, ..DIMS };
    let layer = Layer::new(dims);
    let [x, source] = layer.inputs();
    assert_eq!(layer.layer().scratch_len(x.shape(), source.shape()), multi_head_scratch_len([10, 14], 12, 4));
    layer.check(Attention::new(), None);
}

/// Nothing is written before, log-sum-exp and scores least of all.
#[test]
fn each_projection_has_a_backend() {
    let layer = Layer::new(DIMS);
    let [x, source] = layer.inputs();
    let Some(backend) = Backend::ALL.into_iter().find(|backend| !backend.is_available()) else { return };
    for i in 0..4 {
        let mut projections = layer.projections.each_ref().map(Weights::linear);
        projections[i] = projections[i].backend(backend);
        let refused = MultiHead::new(4, projections).kv_heads(2);
        let mut scratch = vec![0.0; refused.scratch_len(x.shape(), source.shape())];
        let (mut out, mut lse, mut scores) = ([7f32; 2 * 5 * 8], [7f32; 2 * 4 * 5], [7f32; 2 * 4 * 5 * 7]);
        let values = ViewMut::heads_first(&mut out, [2, 1, 5, 8]).unwrap();
        let scores_view = ViewMut::heads_first(&mut scores, [2, 4, 5, 7]).unwrap();
        let output = Output::new(values).lse(&mut lse).scores(Stage::Weights, scores_view);
        assert_eq!(refused.forward(x, source, output, &mut scratch), Err(Error::BackendUnavailable { backend }));
        assert!(out.iter().chain(&lse).chain(&scores).all(|x| *x == 7.0), "wrote before the error");
    }
}

#[test]
fn what_does_not_fit() {
    let layer = Layer::new(DIMS);
    let [x, source] = layer.inputs();
    let plenty = layer.layer().scratch_len(x.shape(), source.shape());
    let refused = |layer: MultiHead<'_>, x, source, out_dim, scratch: usize| {
        let mut out = vec![7f32; 2 * 5 * out_dim];
        let view = ViewMut::heads_first(&mut out, [2, 1, 5, out_dim]).unwrap();
        let error = layer.forward(x, source, view, &mut vec![0.0; scratch]).unwrap_err();
        assert!(out.iter().all(|x| *x == 7.0), "wrote before {error}");
        error
    };
    let mismatch = |operand, axis, expected, actual| Error::ShapeMismatch { operand, axis, expected, actual };

    let error = refused(layer.layer(), x, source, 8, plenty - 1);
    assert_eq!(error, Error::ScratchTooShort { required: plenty, actual: plenty - 1 });
    assert_eq!(refused(layer.layer(), source, source, 8, plenty), mismatch(Operand::Query, Axis::Dim, 6, 9));
    assert_eq!(refused(layer.layer(), x, x, 8, plenty), mismatch(Operand::Key, Axis::Dim, 9, 6));
    assert_eq!(refused(layer.layer(), x, source, 9, plenty), mismatch(Operand::Output, Axis::Dim, 8, 9));
    let error = refused(layer.layer().kv_heads(4), x, source, 8, plenty);
    assert_eq!(error, Error::DimNotDivisible { operand: Operand::Key, dim: 6, heads: 4 });
    let error = refused(layer.layer().kv_heads(0), x, source, 8, plenty);
    assert_eq!(error, Error::DimNotDivisible { operand: Operand::Key, dim: 6, heads: 0 });
    let error = refused(layer.layer().kv_lens(&[8, 7]), x, source, 8, plenty);
    assert_eq!(error, Error::TooManyKeys { sequence: 0, room: 7, actual: 8 });
    let value = Linear::new(View::matrix(&layer.projections[1].w, [6, 9]).unwrap());
    let [query, key, _, output] = layer.projections.each_ref().map(Weights::linear);
    let narrow = MultiHead::new(4, [query, key, value, output]).kv_heads(2);
    assert_eq!(refused(narrow, x, source, 8, plenty), mismatch(Operand::Weights, Axis::Dim, 12, 20));
    let single = View::heads_first(&layer.source, [1, 1, 7, 9]).unwrap();
    assert_eq!(refused(layer.layer(), x, single, 8, plenty), mismatch(Operand::Key, Axis::Batch, 2, 1));
}
