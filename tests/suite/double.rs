//! Queries, keys, values and outputs of `f64`, and what is computed too.

use crate::common::{
    self, Answer, Band, BiasPlan, Cache, Case, Content, Function, FunctionKind, GARBAGE, GridPlan, Kind, Layout, Lens,
    MARKER, Oracle, Plan, Random, Tensor, additive, assert_same, assert_same_row, fuzz_input::answered, has_bf16_pairs,
    run,
};
use simd_attention::{
    Attention, Backend, Bilinear, CacheMut, Error, Kv, Output, Shape, Stage, View, ViewMut, Window, cache_scratch_len,
    merge, reference, scratch_len,
};

/// A case with queries, keys and values in `f64`.
struct Double<'c> {
    case: &'c Case,
    q: Tensor<f64>,
    k: Tensor<f64>,
    v: Tensor<f64>,
}

/// The expression, of a case's attention, whatever its score function; of cases without closures.
macro_rules! with_score {
    ($case:expr, $attention:ident => $result:expr) => {{
        let case: &Case = $case;
        match &case.function {
            Function::Dot => {
                let $attention = case.attention()?;
                $result
            }
            Function::Bilinear(weights) => {
                let $attention = case.configure(Attention::with_score(Bilinear::new(weights.view()?)))?;
                $result
            }
            Function::Additive(v, weights) => {
                let $attention = case.configure(Attention::with_score(additive(v, weights.as_ref())?))?;
                $result
            }
            other => panic!("{other:?} is not tested in f64"),
        }
    }};
}

impl<'c> Double<'c> {
    /// Each number off by so little that `f32` does not know the difference.
    fn new(case: &'c Case) -> Self {
        let mut random = Random::new(99);
        Self::with(case, || 1.0 + random.below(1 << 20) as f64 * 2f64.powi(-48))
    }

    /// Each number times a factor.
    fn with(case: &'c Case, mut factor: impl FnMut() -> f64) -> Self {
        let [q, k, v] = [&case.q, &case.k, &case.v].map(|of| {
            let data = of.data.iter().map(|x| f64::from(*x) * factor());
            Tensor { data: data.collect(), shape: of.shape, strides: of.strides }
        });
        Self { case, q, k, v }
    }

    fn kv(&self) -> Result<Kv<'_, f64>, Error> {
        let kv = Kv::new(self.k.view()?, self.v.view()?)?;
        Ok(self.case.pattern.lens.as_ref().map_or(kv, |lens| kv.lens(lens)))
    }

    /// An answer not yet given.
    fn blank(&self, layout: Layout) -> Answer<f64> {
        let marked = |of: &Tensor<f32>| Tensor::filled(of.shape, layout, f64::from(MARKER));
        Answer {
            out: marked(&self.case.out),
            lse: vec![f64::from(MARKER); self.case.out.rows().count()],
            scores: self.case.scores.as_ref().map(|(_, scores)| marked(scores)),
        }
    }

    /// What a backend gives.
    fn run(&self, backend: Backend, threads: usize) -> Answer<f64> {
        let mut answer = self.blank(Layout::Padded(3));
        self.run_into(backend, threads, &mut answer).unwrap_or_else(|error| panic!("{error}: {}", self.case.name));
        assert!(answer.out.gaps().iter().all(|x| *x == f64::from(MARKER)), "wrote between rows: {}", self.case.name);
        answer
    }

    fn run_into(&self, backend: Backend, threads: usize, answer: &mut Answer<f64>) -> Result<(), Error> {
        with_score!(self.case, attention => {
            let output = answer.output(self.case.stage())?;
            run(&attention.backend(backend).prepare(self.q.view()?, self.kv()?, output)?, threads, 0)
        })
    }

    fn reference(&self) -> Answer<f64> {
        let mut answer = self.blank(Layout::HeadsFirst);
        self.reference_into(&mut answer).unwrap_or_else(|error| panic!("{error}: {}", self.case.name));
        answer
    }

    fn reference_into(&self, answer: &mut Answer<f64>) -> Result<(), Error> {
        with_score!(self.case, attention => {
            reference::forward(&attention, self.q.view()?, self.kv()?, answer.output(self.case.stage())?)
        })
    }
}

/// Those that compute in different ways.
fn backends() -> impl Iterator<Item = Backend> {
    common::backends().filter(|backend| !has_bf16_pairs(*backend))
}

fn check(plan: &Plan) {
    check_double(&Double::new(&plan.case()));
}

fn check_double(double: &Double<'_>) {
    let oracle = Oracle::in_f64(double.case, double.reference());
    for backend in backends() {
        oracle.check(backend, &double.run(backend, 1));
    }
}

/// Lanes are 2, 4 or 8 queries, half as many as of `f32`; tiles of keys are the same.
#[test]
fn sizes_at_which_something_begins_or_ends() {
    for q_len in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 49, 70, 130] {
        for [kv_len, head_dim, value_dim] in
            [[1, 1, 1], [7, 5, 3], [39, 8, 8], [41, 17, 33], [64, 64, 64], [97, 3, 20], [193, 33, 16], [200, 128, 48]]
        {
            for band in [Band::DENSE, Band::CAUSAL] {
                check(&Plan { band, ..Plan::new([q_len, kv_len], [head_dim, value_dim]) });
            }
        }
    }
}

/// Few queries with several ranges of keys, alone and with others that share keys.
#[test]
fn few_queries_with_many_keys() {
    for [q_len, q_heads, kv_heads] in [[1, 1, 1], [1, 2, 2], [1, 8, 2], [2, 6, 2], [3, 2, 1], [8, 1, 1], [1, 9, 1]] {
        for [kv_len, dim] in [[1919, 16], [1921, 7], [4000, 40]] {
            for batch_invariant in [false, true] {
                let plan = Plan { q_heads, kv_heads, batch_invariant, ..Plan::new([q_len, kv_len], [dim, dim]) };
                check(&Plan { band: Band::CAUSAL, ..plan });
            }
        }
    }
}

/// All that is done to scores, by itself and together, with every stage of them.
#[test]
fn modifiers_and_masks() {
    for lens in [[1, 300], [5, 90], [40, 170]] {
        let plain = Plan { batch: 2, q_heads: 4, kv_heads: 2, ..Plan::new(lens, [24, 20]) };
        let content = Content::Normal(2.0);
        let plans = [
            Plan { scale: Some(-0.3), ..plain },
            Plan { softcap: Some(3.0), ..plain },
            Plan { bias: Some(BiasPlan::new(content)), ..plain },
            Plan { bias: Some(BiasPlan::new(Content::Masking)), ..plain },
            Plan { alibi_slopes: Some(Content::Normal(0.1)), ..plain },
            Plan { sinks: Some(content), ..plain },
            Plan { mask: Some(GridPlan::HALF), ..plain },
            Plan { band: Band::window(Some(20), Some(3)), ..plain },
            Plan { lens: Lens::Random, ..plain },
            Plan { packed: Some(3), batch: 1, band: Band::CAUSAL, ..plain },
            Plan { q: (Layout::Fused, content), k: (Layout::TokensFirst, content), ..plain },
        ];
        let last = Plan {
            softcap: Some(5.0),
            bias: Some(BiasPlan::new(content)),
            alibi_slopes: Some(Content::Normal(0.1)),
            sinks: Some(content),
            mask: Some(GridPlan::HALF),
            ..plain
        };
        for plan in plans.into_iter().chain([last]) {
            check(&plan);
            for stage in [Stage::Scaled, Stage::Capped, Stage::Masked, Stage::Weights] {
                check(&Plan { scores: Some((stage, Layout::HeadsFirst)), ..plan });
            }
        }
    }
}

/// Their parameters are `f32`.
#[test]
fn score_functions() {
    for lens in [[1, 130], [7, 70], [60, 100]] {
        for function in [FunctionKind::Bilinear(11), FunctionKind::Additive(None), FunctionKind::Additive(Some(13))] {
            check(&Plan { function, q_heads: 4, kv_heads: 2, ..Plan::new(lens, [19, 12]) });
        }
    }
}

/// Calls as the fuzzer draws them, with whatever numbers; but what is in `f32` or of closures.
#[test]
fn random_calls() {
    let mut random = Random::new(3);
    let mut checked = 0;
    for _ in 0..1500 {
        let bytes: Vec<u8> = (0..200).map(|_| random.bits() as u8).collect();
        let Some(mut case) = answered(&bytes) else { continue };
        (case.cache, case.queries) = (Cache::PLAIN, Kind::F32);
        (case.pattern.rule, case.modifiers.rule) = (None, None);
        if matches!(case.function, Function::Dot | Function::Bilinear(_) | Function::Additive(..)) {
            // Scores of such a size would not bear that a number is off.
            check_double(&Double::with(&case, || 1.0));
            checked += 1;
        }
    }
    assert!(checked > 200, "{checked}");
}

/// What `f32` would round off: two scores that differ in the 40th bit, and values likewise.
#[test]
fn nothing_is_rounded_to_f32() {
    let (tiny, q) = (2f64.powi(-40), [1.0]);
    let (k, v) = ([0.5, 0.5 + tiny], [1.0 + tiny, 1.0 + 3.0 * tiny]);
    for backend in backends() {
        let (mut out, mut lse) = ([0.0], [0.0]);
        let kv = Kv::new(View::matrix(&k, [2, 1]).unwrap(), View::matrix(&v, [2, 1]).unwrap()).unwrap();
        let output = Output::new(ViewMut::matrix(&mut out, [1, 1]).unwrap()).lse(&mut lse);
        let attention = Attention::new().backend(backend);
        attention.forward(View::matrix(&q, [1, 1]).unwrap(), kv, output, &mut [0.0; scratch_len(1, 1)]).unwrap();
        assert!((out[0] - 1.0 - 2.0 * tiny).abs() <= 4.0 * f64::EPSILON, "{backend}: {:e}", out[0] - 1.0);
        let expected = 0.5 + tiny / 2.0 + core::f64::consts::LN_2;
        assert!((lse[0] - expected).abs() <= 4.0 * f64::EPSILON, "{backend}: {}", lse[0]);
    }
}

/// Numbers far beyond the range of `f32`.
#[test]
fn large_and_small_numbers() {
    let (q, k, v) = ([1e-200], [1e200, 3e200], [1e300, -1e300]);
    for backend in backends() {
        let mut out = [0.0];
        let kv = Kv::new(View::matrix(&k, [2, 1]).unwrap(), View::matrix(&v, [2, 1]).unwrap()).unwrap();
        let out_view = ViewMut::matrix(&mut out, [1, 1]).unwrap();
        let attention = Attention::new().backend(backend);
        attention.forward(View::matrix(&q, [1, 1]).unwrap(), kv, out_view, &mut [0.0; scratch_len(1, 1)]).unwrap();
        // Scores of 1 and 3.
        assert!((out[0] / 1e300 + 1f64.tanh()).abs() <= 1e-15, "{backend}: {}", out[0]);
    }
}

mod promises {
    use super::*;

    fn plan(lens: [usize; 2]) -> Plan {
        Plan { q_heads: 4, kv_heads: 2, mask: Some(GridPlan::HALF), band: Band::CAUSAL, ..Plan::new(lens, [18, 21]) }
    }

    #[test]
    fn masked_keys_are_never_observed() {
        for lens in [[1, 200], [3, 90], [50, 130]] {
            let case = plan(lens).case();
            let sequence = case.sequences().remove(0);
            for row in [[0, 0, 0], [0, 3, lens[0] / 2]] {
                for garbage in GARBAGE {
                    let spoilt = case.spoilt(&sequence, row, garbage);
                    for backend in backends() {
                        let what = format!("{backend}, {lens:?}, {garbage}");
                        let (clean, spoilt) = (Double::new(&case), Double::new(&spoilt));
                        assert_same_row(&what, (&spoilt.run(backend, 1), row), (&clean.run(backend, 1), row));
                    }
                }
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        for lens in [[1, 4100], [150, 90]] {
            let case = plan(lens).case();
            for backend in backends() {
                let double = Double::new(&case);
                assert_same(&format!("{backend}, {lens:?}"), &double.run(backend, 1), &double.run(backend, 3));
            }
        }
    }

    /// Alone, and among others.
    #[test]
    fn a_query_depends_on_itself_alone() {
        let case = Plan { batch_invariant: true, ..plan([60, 160]) }.case();
        let sequence = case.sequences().remove(0);
        let whole = Double::new(&case);
        for backend in backends() {
            let expected = whole.run(backend, 1);
            for i in [0, 1, 30, 59] {
                let alone = case.alone(&sequence, i);
                let q = whole.q.part(0, i, 1);
                let alone = Double { case: &alone, q, ..Double::new(&case) };
                for head in 0..4 {
                    let what = format!("{backend}, query {i}");
                    assert_same_row(&what, (&alone.run(backend, 1), [0, head, 0]), (&expected, [0, head, i]));
                }
            }
        }
    }
}

/// Rows appended to pages in disorder are attended to as if they lay one after the other.
#[test]
fn pages() {
    let (dim, len, page_size, table) = (6, 23, 4, [5, 2, 0, 4, 1, 3]);
    let mut random = Random::new(4);
    let data: Vec<f64> = (0..len * dim).map(|_| f64::from(random.normal()) / 3.0).collect();
    let rows = View::matrix(&data, [len, dim]).unwrap();
    let table = View::matrix(&table, [1, 6]).unwrap();
    let mut pool = vec![f64::NAN; 6 * page_size * dim];
    let pool_shape = [6, 1, page_size, dim];
    CacheMut::new(ViewMut::heads_first(&mut pool, pool_shape).unwrap()).pages(table).append(rows, &[0]).unwrap();
    let pool = View::heads_first(&pool, pool_shape).unwrap();
    for q_len in [1, 5, 23] {
        let q = View::strided(&data, Shape { batch: 1, heads: 1, len: q_len, dim }, rows.strides()).unwrap();
        for attention in backends().map(|backend| Attention::new().backend(backend)) {
            let attention = attention.causal().window(Window { left: Some(15), right: None });
            let (mut out, mut expected) = (vec![0.0; q_len * dim], vec![0.0; q_len * dim]);
            let mut scratch = vec![f64::NAN; cache_scratch_len(dim, dim)];
            let kv = Kv::new(pool, pool).unwrap().pages(table).lens(&[23]);
            attention.forward(q, kv, ViewMut::matrix(&mut out, [q_len, dim]).unwrap(), &mut scratch).unwrap();
            let (kv, to) = (Kv::new(rows, rows).unwrap(), ViewMut::matrix(&mut expected, [q_len, dim]).unwrap());
            attention.forward(q, kv, to, &mut scratch).unwrap();
            assert_eq!(out, expected);
        }
    }
}

/// Results over two parts of the keys are the result over all.
#[test]
fn merged() {
    let case = Plan::new([9, 80], [12, 12]).case();
    let double = Double::new(&case);
    let attend = |keys: core::ops::Range<usize>| {
        let mut answer = double.blank(Layout::HeadsFirst);
        let part = |of: &Tensor<f64>| of.part(0, keys.start, keys.len());
        let (k, v) = (part(&double.k), part(&double.v));
        let kv = Kv::new(k.view().unwrap(), v.view().unwrap()).unwrap();
        let output = answer.output(None).unwrap();
        let mut scratch = vec![0.0; scratch_len(12, 12)];
        Attention::new().forward(double.q.view().unwrap(), kv, output, &mut scratch).unwrap();
        answer
    };
    let (whole, mut first, second) = (attend(0..80), attend(0..31), attend(31..80));
    merge(first.out.view_mut().unwrap(), &mut first.lse, second.out.view().unwrap(), &second.lse).unwrap();
    for (a, b) in first.elements().zip(whole.elements()) {
        // A logarithm of more than one has fewer digits after the point.
        assert!((a - b).abs() <= 4.0 * f64::EPSILON * b.abs().max(1.0), "{a} is not {b}");
    }
}
