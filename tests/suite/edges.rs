//! The sizes at which something in a kernel begins or ends: one less, just as many, one more.
//!
//! Lanes are 4, 8 or 16 queries; a block is 1 to 3 vectors of them; a unit of work is up to 8 blocks; a register tile has up to 16
//! keys, or columns of values; a tile of keys has 96 to 256. The table covers every backend's sizes on each backend, so it need
//! not know them.

use crate::common::{Band, GridPlan, Layout, Lens, Oracle, Plan, backends, check};

/// The product of its columns.
struct Edge {
    reason: &'static str,
    q_len: &'static [usize],
    kv_len: &'static [usize],
    /// `[head_dim, value_dim]`
    dims: &'static [[usize; 2]],
    bands: &'static [Band],
    /// `[batch, q_heads, kv_heads]`
    heads: &'static [[usize; 3]],
}

const DENSE_AND_CAUSAL: &[Band] = &[Band::DENSE, Band::CAUSAL];

/// Five queries, ten keys, one head of 8.
const SMALL: Edge =
    Edge { reason: "", q_len: &[5], kv_len: &[10], dims: &[[8, 8]], bands: &[Band::DENSE], heads: &[[1, 1, 1]] };

const EDGES: &[Edge] = &[
    Edge {
        reason: "queries fill one vector of 4, 8 or 16 lanes",
        q_len: &[1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17],
        kv_len: &[1, 20],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "queries fill blocks of 2, 3 or 4 vectors of 4, 8 or 16 lanes, and begin the next",
        q_len: &[11, 12, 13, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 129],
        kv_len: &[100],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "blocks fill units of up to 8, and begin the next",
        q_len: &[127, 128, 191, 192, 193, 239, 240, 241, 255, 256, 257, 287, 288, 289, 383, 384, 385],
        kv_len: &[30, 140],
        dims: &[[4, 3]],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "keys fill register tiles of up to 16 rows",
        q_len: &[3, 40],
        kv_len: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "keys fill one tile, or several, and begin the next",
        q_len: &[1, 17],
        kv_len: &[
            63, 64, 65, 79, 80, 81, 95, 96, 97, 127, 128, 129, 191, 192, 193, 255, 256, 257, 383, 384, 385, 511, 512,
            513,
        ],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "the diagonal runs through several tiles of keys",
        q_len: &[50],
        kv_len: &[300],
        bands: &[
            Band::offset(0),
            Band::offset(14),
            Band::offset(15),
            Band::offset(16),
            Band::offset(62),
            Band::offset(63),
            Band::offset(64),
            Band::offset(100),
            Band::offset(127),
            Band::offset(128),
            Band::offset(240),
            Band::offset(255),
            Band::offset(256),
        ],
        ..SMALL
    },
    Edge {
        reason: "more queries than keys: whole blocks of empty rows, and blocks with some",
        q_len: &[33, 70, 130],
        kv_len: &[1, 5, 64, 65],
        bands: &[Band::CAUSAL],
        ..SMALL
    },
    Edge {
        reason: "offsets about the first and last row and column, and as far out as they go",
        q_len: &[20],
        kv_len: &[70],
        bands: &[
            Band::offset(i64::MIN),
            Band::offset(i64::MIN + 1),
            Band::offset(-(1 << 32)),
            Band::offset(-65_536),
            Band::offset(-21),
            Band::offset(-20),
            Band::offset(-19),
            Band::offset(-1),
            Band::offset(0),
            Band::offset(1),
            Band::offset(49),
            Band::offset(50),
            Band::offset(51),
            Band::offset(68),
            Band::offset(69),
            Band::offset(70),
            Band::offset(65_536),
            Band::offset(1 << 32),
            Band::offset(i64::MAX - 1),
            Band::offset(i64::MAX),
        ],
        ..SMALL
    },
    Edge {
        reason: "head_dim and value_dim alike, at the edges of vectors and register tiles",
        dims: &[
            [1, 1],
            [2, 2],
            [3, 3],
            [4, 4],
            [5, 5],
            [6, 6],
            [7, 7],
            [9, 9],
            [15, 15],
            [16, 16],
            [17, 17],
            [31, 31],
            [32, 32],
            [33, 33],
            [63, 63],
            [64, 64],
            [65, 65],
            [127, 127],
            [128, 128],
            [129, 129],
            [256, 256],
        ],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "head_dim and value_dim differ",
        q_len: &[5, 33],
        dims: &[[1, 40], [40, 1], [3, 17], [17, 3], [16, 15], [15, 16], [64, 80], [80, 64], [192, 128]],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge {
        reason: "several sequences; heads of their own, shared in groups, and shared by all",
        q_len: &[6, 50],
        heads: &[[2, 1, 1], [1, 3, 3], [2, 4, 2], [2, 6, 2], [3, 5, 1]],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
    Edge { reason: "no key at all", q_len: &[1, 17, 50], kv_len: &[0], bands: DENSE_AND_CAUSAL, ..SMALL },
    Edge { reason: "no query", q_len: &[0], kv_len: &[0, 1, 10], bands: DENSE_AND_CAUSAL, ..SMALL },
    Edge {
        reason: "no sequence, no head",
        heads: &[[0, 1, 1], [0, 2, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]],
        bands: DENSE_AND_CAUSAL,
        ..SMALL
    },
];

impl Edge {
    fn plans(&self) -> impl Iterator<Item = Plan> {
        self.q_len.iter().flat_map(move |&q_len| {
            self.kv_len.iter().flat_map(move |&kv_len| {
                self.dims.iter().flat_map(move |&dims| {
                    self.bands.iter().flat_map(move |&band| {
                        self.heads.iter().map(move |&[batch, q_heads, kv_heads]| Plan {
                            batch,
                            q_heads,
                            kv_heads,
                            band,
                            ..Plan::new([q_len, kv_len], dims)
                        })
                    })
                })
            })
        })
    }
}

fn check_all(change: impl Fn(Plan) -> Plan) {
    crate::common::report_backends();
    for edge in EDGES {
        println!("{}: {} cases", edge.reason, edge.plans().count());
        edge.plans().map(&change).for_each(|plan| check(&plan));
    }
}

#[test]
fn contiguous() {
    check_all(|plan| plan);
}

/// Keys of a tile or of a step within one, on any backend; and its neighbours.
fn about_tiles() -> impl Iterator<Item = usize> {
    [8, 16, 32, 96, 128, 192, 256].into_iter().flat_map(|n| [n - 1, n, n + 1])
}

const LONG: [usize; 2] = [50, 400];

#[test]
fn windows_begin_and_end_about_tiles() {
    for n in about_tiles() {
        for (left, right) in
            [(Some(n), None), (None, Some(n)), (Some(n), Some(n)), (Some(0), Some(n)), (Some(n), Some(0))]
        {
            for offset in [None, Some(0), Some(n as i64)] {
                let band = Band { offset, ..Band::window(left, right) };
                check(&Plan { band, ..Plan::new(LONG, [8, 8]) });
            }
        }
    }
}

#[test]
fn keys_end_about_tiles() {
    for n in about_tiles() {
        for band in [Band::DENSE, Band::CAUSAL, Band::window(Some(20), Some(3))] {
            check(&Plan { band, lens: Lens::Each(n), ..Plan::new(LONG, [8, 8]) });
        }
    }
}

#[test]
fn masks_end_about_words() {
    for kv_len in about_tiles().chain([1, 2, 3, 4, 5]) {
        for bits in [false, true] {
            for band in [Band::DENSE, Band::window(Some(30), Some(1))] {
                let mask = Some(GridPlan { bits, ..GridPlan::HALF });
                check(&Plan { band, mask, ..Plan::new([17, kv_len], [8, 8]) });
            }
        }
    }
}

/// Sparse ones, so that whole tiles of keys are passed over.
#[test]
fn blocks_of_every_size() {
    for size in 1..=100 {
        for bits in [false, true] {
            let block_mask = Some(GridPlan { bits, block: [size, size], eighths: 3, ..GridPlan::HALF });
            check(&Plan { block_mask, ..Plan::new(LONG, [4, 4]) });
        }
    }
}

/// Sequences of every length, one after the other.
#[test]
fn packed_sequences_begin_and_end_anywhere() {
    let mut case = Plan { band: Band::CAUSAL, ..Plan::new([300, 300], [8, 8]) }.case();
    let ends: Vec<usize> = (0..24).map(|n| n * (n + 1) / 2).collect();
    case.pattern.packed = Some([ends.clone(), ends]);
    let oracle = Oracle::new(&case);
    backends().for_each(|backend| oracle.check(backend, &case.run(backend)));
}

/// Rows end where the storage's next element is not theirs: a load or store too wide is seen.
#[test]
fn padded() {
    check_all(|plan| {
        let padded = |(_, content)| (Layout::Padded(1), content);
        Plan { q: padded(plan.q), k: padded(plan.k), v: padded(plan.v), out: Layout::Padded(1), ..plan }
    });
}

/// So many blocks go over each tile of keys, and rows of values lie so far apart, that the tile's values are copied.
#[test]
fn values_far_apart() {
    const DIMS: [usize; 2] = [40, 24];
    for band in [Band::DENSE, Band::CAUSAL, Band::window(Some(150), Some(20))] {
        for mask in [None, Some(GridPlan::HALF)] {
            let plan = Plan { q_heads: 16, band, lens: Lens::Each(290), mask, ..Plan::new([150, 300], DIMS) };
            check(&Plan { v: (Layout::Padded((1 << 11) - DIMS[1]), plan.v.1), ..plan });
        }
    }
}

/// Row after row of different heads.
#[test]
fn tokens_first() {
    check_all(|plan| {
        let tokens_first = |(_, content)| (Layout::TokensFirst, content);
        Plan {
            q: tokens_first(plan.q),
            k: tokens_first(plan.k),
            v: tokens_first(plan.v),
            out: Layout::TokensFirst,
            ..plan
        }
    });
}
