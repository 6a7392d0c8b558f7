//! Results over ranges of keys, merged: the result over all, whatever the ranges, and exactly so where one of them is empty.

use crate::common::{Answer, Case, Layout, MARKER, Plan, Tensor, U, backends, same};
use core::ops::Range;
use simd_attention::{Attention, Axis, Backend, Error, Kv, Operand, Output, Shape, View, ViewMut, merge};

const SHAPE: Shape = Shape { batch: 2, heads: 3, len: 4, dim: 5 };
const KEYS: usize = 90;

fn plan() -> Plan {
    Plan { batch: 2, q_heads: 3, out: Layout::Padded(2), ..Plan::new([4, KEYS], [16, 5]) }
}

/// A state: values and log-sum-exp.
#[derive(Clone)]
struct State {
    answer: Answer<f32>,
}

impl State {
    /// Over some of the keys, which each query sees up to itself.
    fn new(case: &Case, keys: Range<usize>, backend: Backend) -> Self {
        let mut answer = case.blank();
        let attention = Attention::new().causal().offset(80 - keys.start as i64).backend(backend);
        let part = |tensor: &Tensor<f32>| tensor.data[keys.start * tensor.shape.dim..].to_vec();
        let (k, v) = (part(&case.k), part(&case.v));
        let view =
            |data, of: Shape| View::strided(data, Shape { len: keys.len(), ..of }, Layout::HeadsFirst.strides(of));
        let kv = Kv::new(view(&k, case.k.shape).unwrap(), view(&v, case.v.shape).unwrap()).unwrap();
        let out = Output::new(answer.out.view_mut().unwrap()).lse(&mut answer.lse);
        let work = attention.prepare(case.q.view().unwrap(), kv, out).unwrap();
        work.run(&mut vec![0.0; work.scratch_len()]).unwrap();
        Self { answer }
    }

    fn merge(mut self, other: &Self) -> Self {
        let Answer { out, lse, .. } = &mut self.answer;
        merge(out.view_mut().unwrap(), lse, other.answer.out.view().unwrap(), &other.answer.lse).unwrap();
        self
    }

    fn is_same(&self, other: &Self) -> bool {
        self.answer.elements().zip(other.answer.elements()).all(|(a, b)| same(*a, *b))
    }

    fn assert_close(&self, other: &Self) {
        for (a, b) in self.answer.elements().zip(other.answer.elements()) {
            // Some roundings of sums of values of size 1, and of logarithms of up to 10.
            assert!(a == b || f64::from((a - b).abs()) < 60.0 * U * (1.0 + f64::from(b.abs())), "{a} instead of {b}");
        }
    }
}

#[test]
fn any_ranges_in_any_order_give_the_whole() {
    let case = plan().case();
    for backend in backends() {
        let whole = State::new(&case, 0..KEYS, backend);
        for cuts in [[1, 2], [30, 60], [64, 65], [79, 83]] {
            let [a, b, c] = [0..cuts[0], cuts[0]..cuts[1], cuts[1]..KEYS].map(|keys| State::new(&case, keys, backend));
            let left = a.clone().merge(&b).merge(&c);
            let right = a.clone().merge(&b.clone().merge(&c));
            let backwards = c.merge(&b).merge(&a);
            for merged in [&left, &right, &backwards] {
                merged.assert_close(&whole);
            }
            assert!(left.answer.out.gaps().iter().all(|x| *x == MARKER));
        }
    }
}

#[test]
fn nothing_changes_nothing() {
    let case = plan().case();
    for backend in backends() {
        let (state, nothing) = (State::new(&case, 10..50, backend), State::new(&case, 85..KEYS, backend));
        assert!(nothing.answer.lse.iter().all(|lse| *lse == f32::NEG_INFINITY));
        assert!(state.clone().merge(&nothing).is_same(&state));
        assert!(nothing.clone().merge(&state).is_same(&state));
        assert!(nothing.clone().merge(&nothing).is_same(&nothing));
    }
}

#[test]
fn far_apart_and_not_a_number() {
    let merged = |a: f32, b: f32| {
        let (mut out, mut lse) = ([1f32], [a]);
        merge(ViewMut::matrix(&mut out, [1, 1]).unwrap(), &mut lse, View::matrix(&[3.0], [1, 1]).unwrap(), &[b])
            .unwrap();
        [out[0], lse[0]]
    };
    assert_eq!(merged(0.0, 0.0), [2.0, core::f32::consts::LN_2]);
    assert_eq!(merged(1e30, -1e30), [1.0, 1e30]);
    assert_eq!(merged(-1e30, 1e30), [3.0, 1e30]);
    assert!(merged(f32::NAN, 0.0).iter().all(|x| x.is_nan()));
    assert!(merged(0.0, f32::NAN).iter().all(|x| x.is_nan()));
}

#[test]
fn what_does_not_fit() {
    let data = [MARKER; 120];
    let refused = |other: Shape, len: usize, other_len: usize| {
        let (mut out, mut lse) = (data, vec![MARKER; len]);
        let view = ViewMut::strided(&mut out, SHAPE, Layout::HeadsFirst.strides(SHAPE)).unwrap();
        let storage = [0.0; 200];
        let other = View::strided(&storage, other, Layout::HeadsFirst.strides(other)).unwrap();
        let error = merge(view, &mut lse, other, &vec![0.0; other_len]).unwrap_err();
        assert!(out == data && lse.iter().all(|x| *x == MARKER));
        error
    };
    let length = |actual| Error::LengthMismatch { operand: Operand::LogSumExp, expected: 24, actual };
    assert_eq!(refused(SHAPE, 23, 24), length(23));
    assert_eq!(refused(SHAPE, 24, 25), length(25));
    let error = refused(Shape { dim: 6, ..SHAPE }, 24, 24);
    assert_eq!(error, Error::ShapeMismatch { operand: Operand::Value, axis: Axis::Dim, expected: 5, actual: 6 });
}
