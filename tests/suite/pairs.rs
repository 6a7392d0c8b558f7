//! Products of pairs, where a CPU has them: of queries, keys and values that are all `bf16`, and of few queries with integers.

use crate::common::{
    Band, BiasPlan, Cache, Content, GARBAGE, GridPlan, Kind, Layout, Lens, MaskKind, Oracle, Plan, assert_same,
    assert_same_row, backends, check,
};
use simd_attention::Backend;

const PAIRS: Cache = Cache::of(Kind::Bf16);
const BYTES: Cache = Cache::of(Kind::I8(1));

fn of_bytes([q_len, kv_len]: [usize; 2], dims: [usize; 2]) -> Plan {
    Plan { cache: BYTES, ..Plan::new([q_len, kv_len], dims) }
}

fn plan([q_len, kv_len]: [usize; 2], dims: [usize; 2]) -> Plan {
    Plan { queries: Kind::Bf16, cache: PAIRS, ..Plan::new([q_len, kv_len], dims) }
}

/// Bands whose edges are odd for some queries and even for others, wide and narrow.
const BANDS: [Band; 5] = [
    Band::DENSE,
    Band::CAUSAL,
    Band::window(Some(70), Some(0)),
    Band::window(Some(3), Some(4)),
    Band::window(Some(0), Some(0)),
];

#[test]
fn dimensions_about_vectors() {
    for dim in [1, 2, 3, 4, 6, 7, 8, 10, 14, 15, 16, 17, 18, 30, 31, 32, 34, 62, 64, 66, 100, 128, 130] {
        for q_len in [1, 3, 8, 9, 40] {
            check(&plan([q_len, 40], [dim, 2]));
            check(&plan([q_len, 41], [2, dim]));
            if q_len <= 8 {
                check(&of_bytes([q_len, 40], [dim, 2]));
                check(&of_bytes([q_len, 41], [2, dim]));
            }
        }
    }
}

/// A single query's bytes are multiplied by the four, if rows are whole runs of 128, and rows of values are by the four as well.
#[test]
fn rows_of_bytes_in_runs() {
    for dim in [128, 256, 384] {
        for kv_len in [1, 2, 3, 4, 5, 63, 65, 66, 127, 130, 255, 511, 514, 700] {
            check(&of_bytes([1, kv_len], [dim, 2]));
            check(&of_bytes([1, kv_len], [2, dim]));
            let both = of_bytes([1, kv_len], [dim; 2]);
            check(&Plan { cache: Cache { page_size: Some(7), ..BYTES }, ..both });
            check(&Plan { mask: Some(GridPlan::HALF), ..both });
            check(&Plan { band: Band::window(Some(kv_len / 2), Some(0)), ..both });
        }
    }
}

/// Sums of 32 bits might not hold the products of more than 512 elements.
#[test]
fn rows_of_many_bytes() {
    for dims in [[511, 2], [512, 3], [513, 2], [3, 513], [600, 700]] {
        for q_len in [1, 4] {
            check(&of_bytes([q_len, 300], dims));
            let plan = of_bytes([q_len, 30], dims);
            check(&Plan { q: (plan.q.0, Content::Constant(1.0)), k: (plan.k.0, Content::Constant(-3.0)), ..plan });
        }
    }
}

/// Nor those of more than 512 rows, where each of the weights is the largest one.
#[test]
fn columns_of_many_bytes() {
    for kv_len in [511, 512, 513, 1200] {
        for q_len in [1, 4, 8] {
            let plan = of_bytes([q_len, kv_len], [2, 3]);
            for value in [3.0, -3.0] {
                let (layout, _) = plan.q;
                check(&Plan { q: (layout, Content::Constant(0.0)), v: (layout, Content::Constant(value)), ..plan });
            }
        }
    }
}

#[test]
fn lengths_about_vectors_and_tiles() {
    for kv_len in
        [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 258, 300, 383, 385, 513]
    {
        for band in BANDS {
            for q_len in [1, 2, 8, 9, 17, 33, 49, 100] {
                check(&Plan { band, ..plan([q_len, kv_len], [6, 5]) });
            }
            for q_len in [1, 2, 8] {
                check(&Plan { band, ..of_bytes([q_len, kv_len], [6, 5]) });
            }
        }
    }
}

/// Everything that is done to scores.
#[test]
fn with_masks_and_modifiers() {
    let own = Content::Normal(1.0);
    for page_size in [None, Some(1), Some(7), Some(16), Some(128)] {
        for band in BANDS {
            for plan in [plan([60, 200], [16, 8]), plan([3, 200], [16, 8]), of_bytes([3, 200], [16, 8])] {
                let cache = Cache { page_size, ..plan.cache };
                let plan = Plan { band, cache, batch: 2, q_heads: 4, kv_heads: 2, ..plan };
                check(&Plan { mask: Some(GridPlan::HALF), softcap: Some(5.0), bias: Some(BiasPlan::new(own)), ..plan });
                check(&Plan { alibi_slopes: Some(own), sinks: Some(own), batch: 1, packed: Some(3), ..plan });
                check(&Plan { scale: Some(-0.3), lens: Lens::Random, mask_rule: Some(MaskKind::Parity), ..plan });
                check(&Plan { bias: Some(BiasPlan::new(Content::Masking)), ..plan });
            }
        }
    }
}

#[test]
fn numbers_of_any_size() {
    for content in [
        Content::Mixed,
        Content::Subnormal,
        Content::Magnitudes(-140, 127),
        Content::Normal(30.0),
        Content::Normal(0.0),
    ] {
        let layout = Layout::HeadsFirst;
        for plan in [plan([40, 150], [12, 10]), plan([5, 150], [12, 10]), of_bytes([5, 150], [12, 10])] {
            check(&Plan { q: (layout, content), ..plan });
            check(&Plan { k: (layout, content), ..plan });
            check(&Plan { v: (layout, content), ..plan });
        }
    }
}

/// However large scores are, and however coarse, the key with the largest one has all the weight.
#[test]
fn the_largest_score_is_found() {
    for (size, scale) in [(1e3, None), (1e7, None), (1e7, Some(-0.7)), (1e15, Some(1.3)), (1e18, None)] {
        for plan in [plan([40, 300], [2, 6]), plan([3, 300], [2, 6]), of_bytes([3, 300], [2, 6])] {
            let case = Plan { scale, ..plan }.case().with(|case| {
                case.q.data.fill(size);
                case.k.data.fill(1.0);
                case.k.row_mut([0, 0, 170]).fill(if scale.is_none_or(|scale| scale > 0.0) { 2.0 } else { -2.0 });
            });
            for backend in backends() {
                let (answer, value) = (case.run(backend), case.v.row([0, 0, 170]));
                for row in answer.out.rows() {
                    let actual = answer.out.row(row).iter().zip(value);
                    assert!(
                        actual.clone().all(|(x, y)| (x - y).abs() <= y.abs() / 256.0),
                        "{backend}: {row:?} {}",
                        case.name
                    );
                }
            }
        }
    }
}

/// Queries of blocks that see a tile in part, and of those after them, which see it whole; so many that they go over the keys together.
#[test]
fn an_infinite_value_reaches_whoever_sees_it() {
    const OFFSET: usize = 100;
    for key in [0, 110, 250, 390] {
        let plan = Plan { q_heads: 16, band: Band::offset(OFFSET as i64), ..plan([300, 400], [64, 104]) };
        let mut case = plan.case();
        case.v.row_mut([0, 0, key])[3] = f32::INFINITY;
        for backend in backends() {
            let answer = case.run(backend);
            for row @ [_, _, i] in answer.out.rows() {
                let reached = answer.out.row(row).iter().enumerate().map(|(c, x)| (c, !x.is_finite()));
                assert!(
                    reached.eq((0..104).map(|c| (c, c == 3 && i + OFFSET >= key))),
                    "{backend}: query {i}, key {key}"
                );
            }
        }
    }
}

/// Neither pages nor rows that cannot be read in pairs where they lie change a bit.
#[test]
fn layouts_and_pages_change_no_bit() {
    for band in BANDS {
        let few = [[4, 320], [1, 700]].into_iter().zip([[24, 20], [48, 160]]);
        let few = few.flat_map(|(lens, dims)| [plan(lens, dims), of_bytes(lens, dims)]);
        for even in few.chain([plan([60, 320], [24, 20])]) {
            let even = Plan { band, q_heads: 4, kv_heads: 2, ..even };
            for backend in backends() {
                let expected = even.case().run(backend);
                for page_size in [1, 7, 16, 64, 320] {
                    let cache = Cache { page_size: Some(page_size), ..even.cache };
                    let paged = even.case().with(|case| case.cache = cache);
                    assert_same(&format!("{backend}, {cache:?}"), &paged.run(backend), &expected);
                }
                let content = Content::Normal(1.0);
                let odd = Plan { k: (Layout::Padded(1), content), v: (Layout::Padded(3), content), ..even };
                assert_same(&format!("{backend}, odd strides"), &odd.case().run(backend), &expected);
            }
        }
    }
}

/// A row does not depend on what it does not see, even if others do.
#[test]
fn masked_garbage_is_not_observed() {
    for band in BANDS {
        for (plan, mask) in [(60, None), (60, Some(GridPlan::HALF)), (3, None), (3, Some(GridPlan::HALF))]
            .into_iter()
            .flat_map(|(q_len, mask)| {
                let plans = move |dims| [plan([q_len, 200], dims), of_bytes([q_len, 200], dims)];
                [[16, 16], [16, 144]].into_iter().flat_map(plans).map(move |plan| (plan, mask))
            })
        {
            let case = Plan { q_heads: 2, band, mask, lens: Lens::Random, ..plan }.case();
            let [sequence] = &case.sequences()[..] else { panic!("one sequence") };
            for backend in backends() {
                let expected = case.run(backend);
                for garbage in GARBAGE {
                    for i in [0, 1, 2, 20, 21, 59].into_iter().filter(|i| *i < case.q.shape.len) {
                        let row = [0, 1, i];
                        let spoilt = case.spoilt(sequence, row, garbage).run(backend);
                        let what = format!("{backend}, {}, {garbage}", case.name);
                        assert_same_row(&what, (&spoilt, row), (&expected, row));
                    }
                }
            }
        }
    }
}

/// A prompt in one call and in pieces of more queries than count as few.
#[test]
fn pieces_give_the_bits_of_the_whole() {
    for (q_heads, band) in [(1, Band::CAUSAL), (4, Band::CAUSAL), (4, Band::window(Some(71), Some(0)))] {
        let whole = Plan { q_heads, band, ..plan([150, 301], [20, 12]) }.case();
        let [sequence] = &whole.sequences()[..] else { panic!("one sequence") };
        for backend in backends() {
            let expected = whole.run(backend);
            for size in [10, 15, 50] {
                for first in (0..150).step_by(size) {
                    let queries = first..first + size;
                    let piece = whole.only(sequence, queries.clone()).run(backend);
                    for row in queries.flat_map(|i| (0..q_heads).map(move |h| [0, h, i])) {
                        assert_same_row(&format!("{backend}, pieces of {size}"), (&piece, row), (&expected, row));
                    }
                }
            }
        }
    }
}

/// Integers of 16 bits have neither infinities nor numbers of all sizes at a time: a query that is so, be it of the first four or of the next, is computed by itself,
/// and no other one changes.
#[test]
fn queries_that_no_integers_stand_for() {
    let plain = of_bytes([5, 150], [12, 10]).case();
    for backend in backends() {
        let expected = plain.run(backend);
        for (x, i) in GARBAGE.into_iter().chain([1e-38, 1e-42, 3e38]).flat_map(|x| [(x, 2), (x, 4)]) {
            let spoilt = plain.clone().with(|case| case.q.row_mut([0, 0, i])[3] = x);
            let actual = spoilt.run(backend);
            for other in (0..5).filter(|other| *other != i) {
                let row = [0, 0, other];
                assert_same_row(&format!("{backend}, {x}"), (&actual, row), (&expected, row));
            }
            let tiny = plain.clone().with(|case| case.q.row_mut([0, 0, i]).fill(x));
            Oracle::new(&tiny).check(backend, &tiny.run(backend));
        }
    }
    let single = of_bytes([1, 150], [128, 128]).case();
    for x in GARBAGE.into_iter().chain([1e-38, 1e-42, 3e38]) {
        let spoilt = single.clone().with(|case| case.q.row_mut([0, 0, 0])[3] = x);
        let oracle = Oracle::new(&spoilt);
        backends().for_each(|backend| oracle.check(backend, &spoilt.run(backend)));
    }
}

fn bits(plan: Plan, backend: Backend) -> Vec<u32> {
    plan.case().run(backend).out.data.iter().map(|x| x.to_bits()).collect()
}

/// The unit for matrices sums up in an order of its own, and is for many queries; few are multiplied as without pairs.
#[test]
fn matrices_are_what_is_computed_with() {
    if !backends().any(|backend| backend == Backend::Avx512Amx) {
        return;
    }
    let differ = |plan| bits(plan, Backend::Avx512Amx) != bits(plan, Backend::Avx512Bf16);
    let plan = plan([40, 100], [64, 64]);
    assert!(differ(plan));
    assert!(differ(Plan { q_len: 9, ..plan }));
    assert!(differ(Plan { q_len: 8, ..plan }));
    for q_len in [1, 2, 8] {
        let few = Plan { q_len, ..plan };
        assert_eq!(bits(few, Backend::Avx512Amx), bits(few, Backend::Avx512));
    }
    assert!(!differ(Plan { batch_invariant: true, ..plan }));
    assert!(!differ(Plan { queries: Kind::F32, ..plan }));
    assert!(!differ(of_bytes([40, 100], [64, 64])));
}

/// Weights are rounded by the backend that has pairs, and by it alone; and not where sums are to be the same for few queries.
#[test]
fn pairs_are_what_is_computed_with() {
    if !Backend::Avx512Bf16.is_available() {
        return;
    }
    let differ = |plan| bits(plan, Backend::Avx512Bf16) != bits(plan, Backend::Avx512);
    let plan = plan([40, 100], [16, 16]);
    assert!(differ(plan));
    assert!(differ(Plan { q_len: 9, ..plan }));
    assert!(differ(Plan { q_len: 8, ..plan }));
    assert!(!differ(Plan { head_dim: 15, ..plan }));
    assert!(differ(Plan { q_len: 8, head_dim: 15, ..plan }));
    for q_len in [1, 8, 40] {
        let plan = Plan { q_len, ..plan };
        assert!(!differ(Plan { batch_invariant: true, ..plan }));
        assert!(!differ(Plan { queries: Kind::F32, ..plan }));
        assert!(!differ(Plan { cache: Cache::of(Kind::F16), ..plan }));
        for queries in [Kind::F32, Kind::F16, Kind::Bf16] {
            let plan = Plan { queries, cache: BYTES, ..plan };
            assert!(!differ(plan));
            assert!(!differ(Plan { batch_invariant: true, ..plan }));
            assert!(!differ(Plan { cache: Cache::of(Kind::I8(4)), ..plan }));
        }
    }
}

/// Few queries are rounded where there are pairs of integers, if rows have one scale each; not where sums are to be the same for many.
#[test]
fn integers_are_what_bytes_are_multiplied_with() {
    for backend in backends() {
        let few = match backend {
            Backend::Portable => 0,
            Backend::Avx2 => 4,
            _ => 8,
        };
        for queries in [Kind::F32, Kind::F16, Kind::Bf16] {
            for q_len in [1, 4, 5, 8, 9, 40] {
                let plan = Plan { queries, ..of_bytes([q_len, 100], [16, 16]) };
                let differ = |plan: Plan| {
                    let case = plan.case();
                    let plain = case.clone().with(|case| case.cache = Cache::PLAIN);
                    case.run(backend).out.data != plain.run(backend).out.data
                };
                assert_eq!(differ(plan), q_len <= few, "{backend}, {q_len} queries");
                assert!(!differ(Plan { batch_invariant: true, ..plan }), "{backend}, {q_len} queries");
            }
        }
    }
}
