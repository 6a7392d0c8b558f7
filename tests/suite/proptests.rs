//! Random calls on every backend: shapes, layouts, all kinds of masks and modifiers in any combination, ranges of values.

use crate::common::{
    Band, BiasPlan, Cache, Case, Content, Extent, FunctionKind, GARBAGE, GridPlan, Kind, Layout, Lens, MaskKind, Plan,
    Row, ScoreKind, Sequence, assert_same, assert_same_row, backends, check, same,
};
use proptest::{option, prelude::*};
use simd_attention::{Stage, Window};

fn band() -> impl Strategy<Value = Band> {
    let offset = || prop_oneof![5 => Just(None), 4 => (-150i64..300).prop_map(Some), 1 => any::<i64>().prop_map(Some)];
    let limit = || prop_oneof![6 => Just(None), 4 => (0usize..100).prop_map(Some), 1 => any::<usize>().prop_map(Some)];
    (any::<bool>(), limit(), limit(), offset()).prop_map(|(causal, left, right, offset)| Band {
        causal,
        window: Window { left, right },
        offset,
    })
}

fn key_lens() -> impl Strategy<Value = Lens> {
    prop_oneof![3 => Just(Lens::Full), 1 => Just(Lens::Random)]
}

fn extents() -> impl Strategy<Value = [Extent; 4]> {
    let extent = || prop_oneof![3 => Just(Extent::Own), 1 => Just(Extent::One), 1 => Just(Extent::Strideless)];
    let of_keys = prop_oneof![9 => Just(Extent::Own), 1 => Just(Extent::One)];
    (extent(), extent(), extent(), of_keys).prop_map(|(batch, heads, len, dim)| [batch, heads, len, dim])
}

fn grid() -> impl Strategy<Value = GridPlan> {
    let block = prop_oneof![2 => Just([1, 1]), 1 => [1usize..10, 1usize..100]];
    let eighths = prop_oneof![Just(0usize), Just(1), Just(4), Just(7), Just(8)];
    let of = |(bits, block, extents, eighths)| GridPlan { bits, block, extents, eighths };
    (any::<bool>(), block, extents(), eighths).prop_map(of)
}

fn mask_kind() -> impl Strategy<Value = MaskKind> {
    prop_oneof![4 => Just(MaskKind::Parity), 4 => Just(MaskKind::Sparse), 1 => Just(MaskKind::Nothing)]
}

fn score_kind() -> impl Strategy<Value = ScoreKind> {
    prop_oneof![Just(ScoreKind::Halved), Just(ScoreKind::Shifted), Just(ScoreKind::Clamped)]
}

fn bias() -> impl Strategy<Value = BiasPlan> {
    let content = prop_oneof![3 => Just(Content::Masking), 2 => content()];
    (content, extents()).prop_map(|(content, extents)| BiasPlan { content, extents })
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![Just(Stage::Scaled), Just(Stage::Capped), Just(Stage::Masked), Just(Stage::Weights)]
}

/// One time in three.
fn seldom<T: core::fmt::Debug>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    option::weighted(1.0 / 3.0, strategy)
}

/// Where rows lie apart.
fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::HeadsFirst),
        Just(Layout::TokensFirst),
        Just(Layout::Fused),
        (1usize..20).prop_map(Layout::Padded),
    ]
}

/// Also where rows coincide.
fn input_layout() -> impl Strategy<Value = Layout> {
    prop_oneof![4 => layout(), 1 => any::<[bool; 3]>().prop_map(Layout::Broadcast)]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        4 => Just(Content::Normal(1.0)),
        1 => Just(Content::Normal(1e-3)),
        1 => Just(Content::Normal(10.0)),
        1 => Just(Content::Subnormal),
        1 => Just(Content::Magnitudes(-60, 10)),
        2 => Just(Content::Mixed),
        1 => prop_oneof![Just(0.0f32), Just(-0.0), Just(1.0), -10f32..10.0].prop_map(Content::Constant),
    ]
}

/// The default, ordinary ones, and those that make logits of 1e2 to 1e4, of one sign or the other.
fn scale() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        4 => Just(None),
        2 => (-2f64..2.0).prop_map(Some),
        1 => (10f64..1000.0).prop_map(Some),
        1 => (-1000f64..-10.0).prop_map(Some),
        1 => prop_oneof![Just(0.0f64), Just(-0.0), Just(f32::MIN_POSITIVE.into()), Just(1e-40), Just(1e30)].prop_map(Some),
    ]
}

/// `[q_len, kv_len]`: mostly small, at times several blocks and tiles.
fn lens() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![3 => [0usize..40, 0usize..80], 1 => [0usize..140, 0usize..600]]
}

/// `[batch, kv_heads, q_heads of each]`
fn heads() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![2 => Just([1, 1, 1]), 1 => [1usize..3, 1usize..4, 1usize..4]]
}

/// `[head_dim, value_dim]`
fn dims() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![3 => [1usize..20, 1usize..20], 1 => [1usize..140, 1usize..140]]
}

fn function() -> impl Strategy<Value = FunctionKind> {
    prop_oneof![
        5 => Just(FunctionKind::Dot),
        1 => (1usize..40).prop_map(FunctionKind::Bilinear),
        1 => option::of(1usize..40).prop_map(FunctionKind::Additive),
        1 => Just(FunctionKind::Distance),
    ]
}

fn cache() -> impl Strategy<Value = Cache> {
    let kind = prop_oneof![
        4 => Just(Kind::F32),
        1 => Just(Kind::F16),
        3 => Just(Kind::Bf16),
        1 => Just(Kind::I8(1)),
        1 => (1usize..20).prop_map(Kind::I8),
    ];
    (kind, seldom(1usize..100)).prop_map(|(kind, page_size)| Cache { kind, page_size })
}

fn queries() -> impl Strategy<Value = Kind> {
    prop_oneof![4 => Just(Kind::F32), 1 => Just(Kind::F16), 2 => Just(Kind::Bf16)]
}

prop_compose! {
    /// All but masks and modifiers.
    fn plain()(
        lens in lens(),
        dims in dims(),
        [batch, kv_heads, group] in heads(),
        scale in scale(),
        q in (input_layout(), content()),
        k in (input_layout(), content()),
        v in (input_layout(), content()),
        out in layout(),
        seed in any::<u64>(),
    ) -> Plan {
        Plan { batch, q_heads: group * kv_heads, kv_heads, scale, q, k, v, out, seed, ..Plan::new(lens, dims) }
    }
}

prop_compose! {
    fn masked()(
        plain in plain(),
        band in band(),
        lens in key_lens(),
        packed in seldom(0usize..5),
        mask in seldom(grid()),
        block_mask in seldom(grid()),
        mask_rule in seldom(mask_kind()),
    ) -> Plan {
        let batch = if packed.is_some() { 1 } else { plain.batch };
        Plan { batch, band, lens, packed, mask, block_mask, mask_rule, ..plain }
    }
}

prop_compose! {
    fn plan()(
        masked in masked(),
        softcap in seldom(prop_oneof![1f64..100.0, Just(1e-3), Just(1e4)]),
        bias in seldom(bias()),
        alibi_slopes in seldom(prop_oneof![Just(Content::Normal(0.1)), Just(Content::Normal(10.0)), Just(Content::Mixed)]),
        sinks in seldom(prop_oneof![2 => Just(Content::Normal(2.0)), 1 => Just(Content::Masking)]),
        score_rule in seldom(score_kind()),
        scores in seldom((stage(), layout())),
        (function, batch_invariant) in (function(), any::<bool>()),
        (queries, cache) in (queries(), cache()),
    ) -> Plan {
        let kept = Plan { queries, cache, ..masked };
        Plan { function, batch_invariant, softcap, bias, alibi_slopes, sinks, score_rule, scores, ..kept }
    }
}

/// Whether a row sees the same in both cases.
fn sees_the_same(case: &Case, spoilt: &Case, sequence: &Sequence, row @ [b, h, _]: Row) -> bool {
    let kv_head = h / (case.q.shape.heads / case.k.shape.heads);
    let all_same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| same(*a, *b));
    (0..case.kv_len()).filter(|&j| case.pattern.sees(sequence, row, j)).all(|j| {
        let same_key = all_same(case.k.row([b, kv_head, j]), spoilt.k.row([b, kv_head, j]))
            && all_same(case.v.row([b, kv_head, j]), spoilt.v.row([b, kv_head, j]));
        same(case.modifiers.bias_at(row, j), spoilt.modifiers.bias_at(row, j))
            && (same_key || !case.sees(sequence, row, j))
    })
}

/// A sequence that has queries and heads, if any, and one of its rows.
fn pick(case: &Case, at: usize) -> Option<(Sequence, Row)> {
    let sequences: Vec<Sequence> = case.sequences().into_iter().filter(|s| !s.queries.is_empty()).collect();
    let sequence = sequences.get(at % sequences.len().max(1))?.clone();
    let i = sequence.queries.start + at / 7 % sequence.queries.len();
    let row = [sequence.batch, at / 3 % case.q.shape.heads.max(1), i];
    Some((sequence, row))
}

/// As many sizes as make a difference, and not more.
fn small(plan: Plan) -> Plan {
    Plan { q_len: plan.q_len % 70, kv_len: plan.kv_len % 300, head_dim: plan.head_dim % 20 + 1, ..plan }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_backend_agrees_with_the_reference(plan in plan()) {
        check(&plan);
    }

    /// As it was before there were modifiers, and with the fastest path of each.
    #[test]
    fn without_modifiers_too(plan in masked()) {
        check(&Plan { mask: None, block_mask: None, mask_rule: None, ..plan });
    }

    #[test]
    fn what_is_masked_is_never_observed(plan in plan().prop_map(small), at in any::<usize>()) {
        // Before they are masked, scores show everything.
        let scores = plan.scores.filter(|(stage, _)| *stage >= Stage::Masked);
        let clean = Plan { scores, ..plan }.case();
        let Some((sequence, row)) = pick(&clean, at) else { return Ok(()) };
        let spoilt = clean.spoilt(&sequence, row, GARBAGE[at % GARBAGE.len()]);
        let sequences = clean.sequences();
        let untouched: Vec<Row> = sequences.iter().flat_map(|sequence| {
            let rows = sequence.queries.clone().flat_map(|i| (0..clean.q.shape.heads).map(move |h| [sequence.batch, h, i]));
            rows.filter(|row| sees_the_same(&clean, &spoilt, sequence, *row)).collect::<Vec<_>>()
        }).collect();
        for backend in backends() {
            let (clean, spoilt) = (clean.run(backend), spoilt.run(backend));
            for row in &untouched {
                assert_same_row(&format!("{backend}: {plan:?}"), (&spoilt, *row), (&clean, *row));
            }
        }
    }

    #[test]
    fn a_row_depends_on_itself_alone(plan in plan().prop_map(small), at in any::<usize>()) {
        let plan = Plan { batch_invariant: true, ..plan };
        let whole = plan.case();
        let Some((sequence, [b, h, i])) = pick(&whole, at) else { return Ok(()) };
        for backend in backends() {
            let expected = whole.run(backend);
            assert_same(&format!("{backend}, threads: {plan:?}"), &whole.run_on_threads(backend, 3), &expected);
            let alone = whole.alone(&sequence, i).run(backend);
            assert_same_row(&format!("{backend}, alone: {plan:?}"), (&alone, [0, h, 0]), (&expected, [b, h, i]));
            if whole.q.shape.batch == 1 {
                let some = sequence.queries.start.max(i.saturating_sub(at % 40))..(i + 1 + at % 11).min(sequence.queries.end);
                let part = whole.only(&sequence, some.clone()).run(backend);
                for i in some.clone() {
                    assert_same_row(&format!("{backend}, {some:?}: {plan:?}"), (&part, [b, h, i]), (&expected, [b, h, i]));
                }
            }
        }
    }
}

/// A finite mask and a huge scale together are beyond the range of f32, and a closure is given a finite score even so.
#[test]
fn closures_beyond_the_range_of_f32() {
    let plan = Plan {
        scale: Some(1e30),
        bias: Some(BiasPlan::new(Content::Masking)),
        score_rule: Some(ScoreKind::Halved),
        mask_rule: Some(MaskKind::Parity),
        k: (Layout::HeadsFirst, Content::Normal(10.0)),
        ..Plan::new([19, 3], [6, 13])
    };
    for seed in (0..200).chain([7_007_069_866_888_426_120]) {
        check(&Plan { seed, packed: Some(1), ..plan });
    }
}
