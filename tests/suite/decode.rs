//! Few queries with many keys, as in decoding and in the pieces of a long prompt: bit for bit the same as ever, where that is asked for.

use crate::common::{self, Band, BiasPlan, Content, Layout, Lens, Plan, assert_same_row, backends};

/// With either order of summation.
fn check(plan: &Plan) {
    for batch_invariant in [false, true] {
        common::check(&Plan { batch_invariant, ..*plan });
    }
}

/// Group sizes and numbers of queries on both sides of where vectors are shared and where the products for few queries begin.
fn sizes() -> impl Iterator<Item = [usize; 2]> {
    [1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 32]
        .into_iter()
        .flat_map(|group| [1, 2, 3, 4, 5, 8, 9, 17].map(|q_len| [group, q_len]))
}

#[test]
fn groups_and_queries_of_any_number() {
    for [group, q_len] in sizes() {
        check(&Plan { q_heads: 2 * group, kv_heads: 2, ..Plan::new([q_len, 70], [5, 3]) });
    }
}

#[test]
fn dimensions_about_vectors() {
    for dim in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200] {
        for group in [1, 3, 6] {
            check(&Plan { q_heads: group, ..Plan::new([1, 40], [dim, 2]) });
            check(&Plan { q_heads: group, ..Plan::new([1, 40], [2, dim]) });
        }
    }
}

#[test]
fn keys_about_vectors_and_tiles() {
    for kv_len in
        [1, 3, 4, 5, 8, 9, 15, 16, 17, 63, 64, 65, 80, 81, 95, 96, 97, 128, 129, 255, 256, 257, 300, 321, 385, 800]
    {
        for q_heads in [1, 4] {
            check(&Plan { q_heads, band: Band::window(Some(90), Some(0)), ..Plan::new([1, kv_len], [20, 9]) });
        }
    }
}

#[test]
fn each_head_has_its_own_modifiers() {
    let own = Content::Normal(1.0);
    let plan = Plan {
        q_heads: 6,
        kv_heads: 2,
        softcap: Some(5.0),
        bias: Some(BiasPlan::new(own)),
        ..Plan::new([1, 150], [16, 16])
    };
    check(&Plan { alibi_slopes: Some(own), sinks: Some(own), ..plan });
    check(&Plan { q_len: 3, q: (Layout::TokensFirst, own), out: Layout::TokensFirst, ..plan });
}

/// A token of each sequence, in a batch and alone.
#[test]
fn a_batch_changes_no_bit() {
    let plan = Plan { batch: 3, q_heads: 6, kv_heads: 2, lens: Lens::Random, ..Plan::new([1, 500], [20, 12]) };
    let together = plan.case();
    for backend in backends() {
        let expected = together.run(backend);
        for sequence in together.sequences() {
            let alone = together.alone(&sequence, 0).run(backend);
            for head in 0..6 {
                assert_same_row(&backend.to_string(), (&alone, [0, head, 0]), (&expected, [sequence.batch, head, 0]));
            }
        }
    }
}

/// A prompt in one call, in pieces, and a token at a time.
#[test]
fn pieces_give_the_bits_of_the_whole() {
    for (q_heads, band) in [(1, Band::CAUSAL), (4, Band::CAUSAL), (4, Band::window(Some(70), Some(0)))] {
        let whole = Plan { q_heads, band, batch_invariant: true, ..Plan::new([150, 200], [20, 12]) }.case();
        let [sequence] = &whole.sequences()[..] else { panic!("one sequence") };
        for backend in backends() {
            let expected = whole.run(backend);
            for size in [1, 2, 7, 16, 50] {
                for first in (0..150).step_by(size) {
                    let queries = first..150.min(first + size);
                    let piece = whole.only(sequence, queries.clone()).run(backend);
                    for row in queries.flat_map(|i| (0..q_heads).map(move |h| [0, h, i])) {
                        assert_same_row(&format!("{backend}, pieces of {size}"), (&piece, row), (&expected, row));
                    }
                }
            }
        }
    }
}

/// Distances so far that `f32` cannot tell them from their neighbours are rounded the same, whatever the first key is that anybody sees.
#[test]
fn slopes_over_any_distance() {
    use simd_attention::{Attention, Kv, View, ViewMut, Window, scratch_len};
    const DIM: usize = 8;
    const Q_LEN: usize = 20;
    let numbers: [f32; 64 * DIM] = core::array::from_fn(|i| (i as f32).sin());
    let kv = Kv::new(View::matrix(&numbers, [64, DIM]).unwrap(), View::matrix(&numbers, [64, DIM]).unwrap()).unwrap();
    for (backend, distance) in backends().flat_map(|backend| [23, 24, 25, 26].map(|e| (backend, 1_usize << e))) {
        let run = |first: usize, len: usize| {
            let (mut out, mut scratch) = ([0f32; Q_LEN * DIM], [0.0; scratch_len(DIM, DIM)]);
            Attention::new()
                .backend(backend)
                .batch_invariant()
                .alibi_slopes(&[0.01])
                .window(Window { left: Some(distance - 5), right: None })
                .offset((distance + first) as i64)
                .forward(
                    View::matrix(&numbers[first * DIM..], [len, DIM]).unwrap(),
                    kv,
                    ViewMut::matrix(&mut out, [len, DIM]).unwrap(),
                    &mut scratch,
                )
                .unwrap();
            out
        };
        let whole = run(0, Q_LEN);
        for (i, row) in whole.as_chunks::<DIM>().0.iter().enumerate() {
            assert_eq!(run(i, 1)[..DIM], *row, "{backend}, query {i} at {distance}");
        }
    }
}
