//! Few queries with more keys than one range has: as ever, and on any number of threads.

use crate::common::{Band, BiasPlan, Cache, Content, Kind, Lens, Plan, assert_same_row, backends, check};

/// Keys of a range.
const RANGE: usize = 1920;

fn plan() -> Plan {
    Plan { q_heads: 4, kv_heads: 2, ..Plan::new([1, 2 * RANGE + 100], [9, 7]) }
}

fn plans() -> impl Iterator<Item = Plan> {
    let own = Content::Normal(1.0);
    let lengths = [RANGE - 1, RANGE, RANGE + 1, 2 * RANGE, 3 * RANGE + 700].map(|kv_len| Plan { kv_len, ..plan() });
    let bands = [
        Band::window(Some(1000), Some(0)),
        Band::window(Some(3000), Some(0)),
        Band::offset(RANGE as i64 - 1),
        Band::offset(RANGE as i64),
        Band::offset(-5),
    ];
    let others = [
        Plan { sinks: Some(own), ..plan() },
        Plan { bias: Some(BiasPlan::new(Content::Masking)), alibi_slopes: Some(own), ..plan() },
        Plan { q: (crate::common::Layout::HeadsFirst, Content::Normal(100.0)), ..plan() },
        Plan { batch: 3, lens: Lens::Random, ..plan() },
        Plan { q_heads: 2, q_len: 4, band: Band::CAUSAL, ..plan() },
        Plan { cache: Cache { kind: Kind::F16, page_size: Some(7) }, ..plan() },
        Plan { cache: Cache::of(Kind::I8(3)), ..plan() },
        Plan { queries: Kind::Bf16, cache: Cache::of(Kind::Bf16), ..plan() },
        Plan { packed: Some(3), q_heads: 2, q_len: 3, ..plan() },
        Plan { q_heads: 32, kv_heads: 1, ..plan() },
        Plan { packed: Some(3), q_heads: 32, kv_heads: 1, q_len: 3, ..plan() },
    ];
    lengths.into_iter().chain(bands.map(|band| Plan { band, ..plan() })).chain(others)
}

#[test]
fn joined_ranges_are_the_whole() {
    plans().for_each(|plan| check(&plan));
}

/// What is not finite in one range reaches the results, and what is masked there doesn't.
#[test]
fn garbage_in_one_range() {
    for garbage in crate::common::GARBAGE {
        for at in [5, RANGE + 5] {
            let case = Plan { lens: Lens::Each(RANGE + 3), ..plan() }.case();
            let spoilt = case.clone().with(|case| case.v.row_mut([0, 1, at]).fill(garbage));
            for backend in backends() {
                let (expected, spoilt) = (case.run(backend), spoilt.run(backend));
                for head in [0, 1] {
                    assert_same_row(
                        &format!("{backend}, {garbage}"),
                        (&spoilt, [0, head, 0]),
                        (&expected, [0, head, 0]),
                    );
                }
                let is_seen = at < RANGE + 3;
                let changed = spoilt.out.row([0, 2, 0]) != expected.out.row([0, 2, 0]);
                assert_eq!(changed, is_seen, "{backend}, {garbage} at {at}");
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn threads_that_share_ranges() {
    use crate::common::{MARKER, assert_same};
    for plan in plans() {
        let case = plan.case();
        for backend in backends() {
            let expected = case.run(backend);
            for threads in [1, 2, 3, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                for times in [1, 2] {
                    let mut shared = case.blank();
                    case.share(backend, &mut shared, &pool, times).unwrap();
                    assert!(shared.lse.iter().all(|lse| *lse != MARKER) || plan.packed.is_some());
                    assert_same(&format!("{backend}, {threads} threads: {}", case.name), &shared, &expected);
                }
            }
        }
    }
}
