//! Random calls on every backend, held to the reference: shapes, layouts, masks, scales and ranges of values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Content, Layout, Mask, Plan, check};
use proptest::prelude::*;

fn mask() -> impl Strategy<Value = Mask> {
    prop_oneof![
        2 => Just(Mask::Dense),
        2 => Just(Mask::Causal),
        4 => (-150i64..300).prop_map(Mask::Offset),
        1 => any::<i64>().prop_map(Mask::Offset),
    ]
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
fn scale() -> impl Strategy<Value = Option<f32>> {
    prop_oneof![
        4 => Just(None),
        2 => (-2f32..2.0).prop_map(Some),
        1 => (10f32..1000.0).prop_map(Some),
        1 => (-1000f32..-10.0).prop_map(Some),
        1 => prop_oneof![Just(0.0f32), Just(-0.0), Just(f32::MIN_POSITIVE), Just(1e-40), Just(1e30)].prop_map(Some),
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

prop_compose! {
    fn plan()(
        lens in lens(),
        dims in dims(),
        [batch, kv_heads, group] in heads(),
        mask in mask(),
        scale in scale(),
        q in (input_layout(), content()),
        k in (input_layout(), content()),
        v in (input_layout(), content()),
        out in layout(),
        seed in any::<u64>(),
    ) -> Plan {
        Plan { batch, q_heads: group * kv_heads, kv_heads, mask, scale, q, k, v, out, seed, ..Plan::new(lens, dims) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_backend_agrees_with_the_reference(plan in plan()) {
        check(&plan);
    }
}
