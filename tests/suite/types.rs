//! Queries and outputs of every type of numbers.

use crate::common::{Content, Layout, Random, Tensor, backends};
use core::fmt::Debug;
use half::{bf16, f16};
use simd_attention::{Attention, Backend, Float, Kv, Output, Shape, scratch_len};

/// `q_len`, `kv_len`, `head_dim`, `value_dim`
const SIZES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [1, 70, 64, 64],
    [1, 4100, 20, 33],
    [2, 130, 17, 7],
    [4, 100, 128, 48],
    [16, 65, 15, 16],
    [33, 40, 8, 31],
    [49, 200, 64, 20],
    [200, 90, 33, 5],
];

/// Numbers of a type, and as `f32`.
struct Both<T> {
    own: Tensor<T>,
    wide: Tensor<f32>,
}

impl<T: Float<Sum = f32>> Both<T> {
    fn random(shape: Shape, content: Content, random: &mut Random) -> Self {
        let tensor = Tensor::random(shape, Layout::Padded(3), content, random);
        let own =
            Tensor { data: tensor.data.iter().map(|x| T::from_f32(*x)).collect(), shape, strides: tensor.strides };
        let wide = Tensor { data: own.data.iter().map(|x| x.to_f32()).collect(), ..tensor };
        Self { own, wide }
    }
}

struct Answer<O> {
    out: Tensor<O>,
    lse: Vec<f32>,
}

/// What a backend gives; elements between the rows hold `filler`.
fn answer<Q: Float<Sum = f32>, O: Float<Sum = f32>>(
    backend: Backend,
    q: &Tensor<Q>,
    kv: Kv<'_, f32>,
    dim: usize,
    filler: O,
) -> Answer<O> {
    let shape = Shape { dim, ..q.shape };
    let mut out = Tensor::filled(shape, Layout::Padded(5), filler);
    let mut lse = vec![0.0; shape.batch * shape.heads * shape.len];
    let output = Output::new(out.view_mut().expect("an output")).lse(&mut lse);
    let mut scratch = vec![f32::NAN; scratch_len(q.shape.dim, dim)];
    let attention = Attention::new().causal().backend(backend);
    attention.forward(q.view().expect("queries"), kv, output, &mut scratch).expect("a call");
    Answer { out, lse }
}

fn check<Q: Float<Sum = f32>, O: Float<Sum = f32> + PartialEq + Debug>(content: Content) {
    let mut random = Random::new(7);
    let filler = O::from_f32(-12_345.0);
    for [q_len, kv_len, head_dim, value_dim] in SIZES {
        for group in [1, 3] {
            let shape = |heads, len, dim| Shape { batch: 2, heads, len, dim };
            let own = Content::Normal(1.0);
            let q = Both::<Q>::random(shape(2 * group, q_len, head_dim), own, &mut random);
            let k = Tensor::random(shape(2, kv_len, head_dim), Layout::HeadsFirst, own, &mut random);
            let v = Tensor::random(shape(2, kv_len, value_dim), Layout::HeadsFirst, content, &mut random);
            let kv = Kv::new(k.view().expect("keys"), v.view().expect("values")).expect("a pair");
            for backend in backends() {
                let expected = answer(backend, &q.wide, kv, value_dim, 0f32);
                let actual = answer(backend, &q.own, kv, value_dim, filler);
                assert_eq!(actual.lse, expected.lse, "{backend}, {:?}", q.own.shape);
                let mut untouched = Tensor::filled(actual.out.shape, Layout::Padded(5), filler);
                for row in expected.out.rows() {
                    let rounded = expected.out.row(row).iter().map(|x| O::from_f32(*x));
                    untouched.row_mut(row).iter_mut().zip(rounded).for_each(|(to, x)| *to = x);
                }
                assert!(same(&actual.out.data, &untouched.data), "{backend}, {:?}", q.own.shape);
            }
        }
    }
}

/// Bit for bit, NaN included.
fn same<O: Float<Sum = f32>>(a: &[O], b: &[O]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_f32().to_bits() == b.to_f32().to_bits())
}

#[test]
fn queries_are_what_they_are_as_f32() {
    check::<f16, f32>(Content::Normal(1.0));
    check::<bf16, f32>(Content::Normal(1.0));
}

#[test]
fn outputs_are_rounded() {
    check::<f32, f16>(Content::Normal(1.0));
    check::<f32, bf16>(Content::Normal(1.0));
    check::<f16, bf16>(Content::Normal(1.0));
    check::<bf16, f16>(Content::Normal(1.0));
}

/// Infinities, NaN, and what is too large or too small for half precision.
#[test]
fn outputs_that_are_out_of_range() {
    let constants = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65520.0].map(Content::Constant);
    let others = [Content::Magnitudes(-30, 20), Content::Magnitudes(-140, 127), Content::Subnormal, Content::Mixed];
    for content in constants.into_iter().chain(others) {
        check::<f32, f16>(content);
        check::<f32, bf16>(content);
    }
}
