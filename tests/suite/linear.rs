//! The linear layer: held to its formula in f64, row by row, on every backend.

use crate::common::{Content, Extent, Layout, MARKER, Random, Tensor, U, backends, same};
use proptest::{option, prelude::*};
use simd_attention::{Axis, Backend, Error, Linear, Operand, Shape, scratch_len};

/// Where `x`, weights and `y` lie, and what is in them.
#[derive(Clone, Debug)]
struct Layer {
    x: Tensor<f32>,
    weights: Tensor<f32>,
    bias: Option<Vec<f32>>,
    y: Tensor<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    batch: usize,
    heads: usize,
    len: usize,
    in_dim: usize,
    out_dim: usize,
    /// Whether weights differ along batch and heads.
    own: [bool; 2],
    x: (Layout, Content),
    bias: Option<Content>,
    y: Layout,
    seed: u64,
}

impl Plan {
    const fn new([len, in_dim, out_dim]: [usize; 3]) -> Self {
        let x = (Layout::HeadsFirst, Content::Normal(1.0));
        let bias = Some(Content::Normal(1.0));
        Self { batch: 1, heads: 1, len, in_dim, out_dim, own: [false; 2], x, bias, y: Layout::HeadsFirst, seed: 1 }
    }

    fn layer(&self) -> Layer {
        let Self { batch, heads, len, in_dim, out_dim, own, x: (layout, content), bias, y, seed } = *self;
        let mut random = Random::new(seed);
        let shape = Shape { batch, heads, len, dim: in_dim };
        let x = Tensor::random(shape, layout, content, &mut random);
        let [batch_extent, head_extent] = own.map(|own| if own { Extent::Own } else { Extent::One });
        let extents = [batch_extent, head_extent, Extent::Own, Extent::Own];
        let weights =
            Tensor::repeated(Shape { len: out_dim, ..shape }, extents, || Content::Normal(1.0).sample(&mut random));
        let bias = bias.map(|content| (0..out_dim).map(|_| content.sample(&mut random)).collect());
        Layer { x, weights, bias, y: Tensor::filled(Shape { dim: out_dim, ..shape }, y, MARKER) }
    }
}

impl Layer {
    fn execute(&self, backend: Backend, y: &mut Tensor<f32>, scratch: &mut [f32]) -> Result<(), Error> {
        let layer = Linear::new(self.weights.view()?).backend(backend);
        let layer = self.bias.as_ref().map_or(layer, |bias| layer.bias(bias));
        layer.forward(self.x.view()?, y.view_mut()?, scratch)
    }

    fn scratch(&self) -> Vec<f32> {
        vec![f32::NAN; scratch_len(self.x.shape.dim, 0)]
    }

    fn run(&self, backend: Backend) -> Tensor<f32> {
        let mut y = self.y.clone();
        self.execute(backend, &mut y, &mut self.scratch()).unwrap_or_else(|error| panic!("{error}"));
        assert!(y.gaps().iter().all(|y| *y == MARKER), "wrote between rows: {backend}");
        y
    }

    /// On each backend this is refused, before anything is written.
    #[track_caller]
    fn error(&self) -> Error {
        let errors = backends().map(|backend| {
            let mut y = self.y.clone();
            let error = self.execute(backend, &mut y, &mut self.scratch()).unwrap_err();
            assert!(y.data.iter().all(|y| *y == MARKER));
            error
        });
        errors.reduce(|a, b| if a == b { a } else { panic!("{a}, but {b}") }).unwrap()
    }

    /// Holds each element to `sum_t x_t w_t + b`, which a sum of `n` rounded products is off by at most `(n + few) U` in proportion to its
    /// terms (Higham).
    fn check(&self, backend: Backend) {
        let actual = self.run(backend);
        for row @ [b, h, _] in self.x.rows() {
            let x = self.x.row(row);
            for (o, y) in actual.row(row).iter().enumerate() {
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                let terms = || {
                    let weight = |t| f64::from(self.weights.at([b, h, o], t).unwrap());
                    x.iter().enumerate().map(move |(t, x)| f64::from(*x) * weight(t)).chain([bias])
                };
                let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let tolerance = (x.len() + 4) as f64 * (U * size + f64::from(f32::MIN_POSITIVE) * U);
                let error = (f64::from(*y) - exact).abs();
                assert!(error <= tolerance, "{backend}: {row:?}[{o}] is {y}, not {exact} +- {tolerance:e}");
            }
        }
    }
}

#[test]
fn sizes_at_the_edges_of_lanes_blocks_and_tiles() {
    for backend in backends() {
        for len in [0, 1, 3, 4, 5, 8, 9, 16, 17, 33, 48, 49, 97, 193, 200] {
            Plan::new([len, 7, 9]).layer().check(backend);
        }
        for in_dim in [1, 15, 16, 17, 127, 128, 129, 256, 300] {
            Plan::new([5, in_dim, 3]).layer().check(backend);
        }
        for out_dim in [1, 5, 6, 8, 13, 14, 63, 64, 65, 80, 81, 95, 96, 97, 200] {
            Plan::new([50, 3, out_dim]).layer().check(backend);
        }
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::HeadsFirst),
        Just(Layout::TokensFirst),
        Just(Layout::Fused),
        (1usize..9).prop_map(Layout::Padded)
    ]
}

prop_compose! {
    fn plan()(
        [batch, heads] in [1usize..3, 1usize..4],
        [len, in_dim, out_dim] in [0usize..70, 1usize..200, 1usize..150],
        own in any::<[bool; 2]>(),
        x in (layout(), prop_oneof![Just(Content::Normal(1.0)), Just(Content::Normal(1e3)), Just(Content::Subnormal)]),
        bias in option::of(Just(Content::Normal(1.0))),
        y in layout(),
        seed in any::<u64>(),
    ) -> Plan {
        Plan { batch, heads, len, in_dim, out_dim, own, x, bias, y, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_formula(plan in plan()) {
        let layer = plan.layer();
        backends().for_each(|backend| layer.check(backend));
    }

    /// Bit for bit: with other rows or without, and whatever is in them.
    #[test]
    fn a_row_depends_on_itself_alone(plan in plan(), at in any::<usize>()) {
        let layer = Plan { len: plan.len + 1, ..plan }.layer();
        let rows: Vec<_> = layer.x.rows().collect();
        let row @ [b, h, i] = rows[at % rows.len()];
        let mut spoilt = layer.clone();
        rows.iter().filter(|other| **other != row).for_each(|other| spoilt.x.row_mut(*other).fill(f32::NAN));
        let alone = Layer { x: layer.x.part(b, i, 1), weights: layer.weights.part(b, 0, plan.out_dim), y: layer.y.part(b, i, 1), ..layer.clone() };
        for backend in backends() {
            let expected = layer.run(backend);
            for (other, row_there) in [(spoilt.run(backend), row), (alone.run(backend), [0, h, 0])] {
                let is_same = other.row(row_there).iter().zip(expected.row(row)).all(|(a, b)| same(*a, *b));
                prop_assert!(is_same, "{backend}");
            }
        }
    }
}

#[test]
fn what_does_not_fit() {
    let layer = Plan { batch: 2, heads: 3, own: [true, true], ..Plan::new([4, 5, 6]) }.layer();
    let mismatch = |operand, axis, expected, actual| Error::ShapeMismatch { operand, axis, expected, actual };
    let weights = |shape| Layer { weights: Tensor::filled(shape, Layout::HeadsFirst, 0.0), ..layer.clone() }.error();
    let shape = layer.weights.shape;
    assert_eq!(weights(Shape { batch: 3, ..shape }), mismatch(Operand::Weights, Axis::Batch, 2, 3));
    assert_eq!(weights(Shape { heads: 2, ..shape }), mismatch(Operand::Weights, Axis::Heads, 3, 2));
    assert_eq!(weights(Shape { dim: 4, ..shape }), mismatch(Operand::Input, Axis::Dim, 4, 5));
    assert_eq!(weights(Shape { dim: 1, ..shape }), mismatch(Operand::Input, Axis::Dim, 1, 5));
    assert_eq!(weights(Shape { len: 7, ..shape }), mismatch(Operand::Output, Axis::Dim, 7, 6));

    let output = |shape| Layer { y: Tensor::filled(shape, Layout::HeadsFirst, MARKER), ..layer.clone() }.error();
    assert_eq!(output(Shape { len: 5, ..layer.y.shape }), mismatch(Operand::Output, Axis::Len, 4, 5));

    let bias = Layer { bias: Some(vec![0.0; 7]), ..layer.clone() }.error();
    assert_eq!(bias, Error::LengthMismatch { operand: Operand::Bias, expected: 6, actual: 7 });

    let (required, mut y) = (scratch_len(5, 0), layer.y.clone());
    for backend in backends() {
        let error = layer.execute(backend, &mut y, &mut vec![0.0; required - 1]).unwrap_err();
        assert_eq!(error, Error::ScratchTooShort { required, actual: required - 1 });
    }
    assert!(y.data.iter().all(|y| *y == MARKER));
}
