//! What the README promises, each promise on every backend.

use crate::common::{
    Answer, Band, BiasPlan, Case, Content, Elements, GARBAGE, GridPlan, Layout, Lens, MARKER, MaskKind, Oracle, Plan,
    Row, ScoreKind, Tensor, assert_same, assert_same_row, backends, nans,
};
use core::time::Duration;
use simd_attention::{Attention, Backend, Kv, Shape, Stage, Strides, View, ViewMut, scratch_len};
use std::time::Instant;

/// Each kind of mask by itself; none that hides everything.
fn kinds_of_masks(plain: Plan) -> impl Iterator<Item = Plan> {
    let grid = |bits, block| Some(GridPlan { bits, block, ..GridPlan::HALF });
    let window = |left, right| Plan { band: Band::window(left, right), ..plain };
    [
        Plan { band: Band::CAUSAL, ..plain },
        Plan { band: Band::offset(-20), ..plain },
        window(Some(20), None),
        window(None, Some(2)),
        window(Some(70), Some(9)),
        // Vectors of queries see nothing in common.
        window(Some(3), Some(5)),
        Plan { lens: Lens::Each(101), ..plain },
        Plan { lens: Lens::Each(70), band: Band::CAUSAL, ..plain },
        Plan { packed: Some(3), ..plain },
        Plan { mask: grid(false, [1, 1]), ..plain },
        Plan { mask: grid(true, [1, 1]), ..plain },
        Plan { block_mask: grid(false, [16, 32]), ..plain },
        Plan { block_mask: grid(true, [5, 7]), ..plain },
        Plan { mask_rule: Some(MaskKind::Parity), ..plain },
        Plan { mask_rule: Some(MaskKind::Sparse), ..plain },
        Plan { bias: Some(BiasPlan::new(Content::Masking)), ..plain },
        Plan { bias: Some(BiasPlan::new(Content::Masking)), score_rule: Some(ScoreKind::Clamped), ..plain },
    ]
    .into_iter()
}

/// Each kind of modifier by itself.
fn kinds_of_modifiers(plain: Plan) -> impl Iterator<Item = Plan> {
    [
        Plan { softcap: Some(2.0), ..plain },
        Plan { bias: Some(BiasPlan::new(Content::Normal(1.0))), ..plain },
        Plan { alibi_slopes: Some(Content::Normal(0.1)), ..plain },
        Plan { sinks: Some(Content::Normal(1.0)), ..plain },
        Plan { score_rule: Some(ScoreKind::Shifted), ..plain },
    ]
    .into_iter()
}

/// Whether a query sees a key.
fn sees(case: &Case, row @ [b, ..]: Row, j: usize) -> bool {
    case.sees(&case.sequences()[b], row, j)
}

mod rows_without_keys {
    use super::*;

    #[track_caller]
    fn assert_zeros(backend: Backend, answer: &Answer<f32>, row: Row) {
        // Not even the sign of zero is left open.
        assert!(answer.out.row(row).iter().all(|x| x.to_bits() == 0), "{backend}: {:?}", answer.out.row(row));
    }

    #[track_caller]
    fn assert_empty(backend: Backend, answer: &Answer<f32>, row: Row) {
        assert_zeros(backend, answer, row);
        assert_eq!(answer.lse[answer.out.index(row)], f32::NEG_INFINITY, "{backend}");
    }

    /// Calls in which no query sees any key, one for each kind of mask.
    fn blind() -> impl Iterator<Item = Case> {
        let plain = Plan { q_heads: 4, kv_heads: 2, ..Plan::new([40, 150], [9, 7]) };
        let nothing = |bits, block| Some(GridPlan { bits, block, eighths: 0, ..GridPlan::HALF });
        let packed = |case: &mut Case| case.pattern.packed = Some([vec![0, 7, 40], vec![150; 3]]);
        [
            Plan { band: Band::offset(-41), ..plain },
            Plan { band: Band { offset: Some(500), ..Band::window(Some(100), None) }, ..plain },
            Plan { band: Band { offset: Some(-100), ..Band::window(None, Some(50)) }, ..plain },
            Plan { lens: Lens::Each(0), ..plain },
            Plan { mask: nothing(false, [1, 1]), ..plain },
            Plan { mask: nothing(true, [1, 1]), ..plain },
            Plan { block_mask: nothing(false, [16, 16]), ..plain },
            Plan { block_mask: nothing(true, [3, 100]), ..plain },
            Plan { mask_rule: Some(MaskKind::Nothing), ..plain },
            Plan { bias: Some(BiasPlan::new(Content::Constant(f32::NEG_INFINITY))), ..plain },
        ]
        .into_iter()
        .map(|plan| plan.case())
        .chain([plain.case().with(packed)])
    }

    #[test]
    fn give_zeros_whatever_masks_them() {
        for mut case in blind() {
            for garbage in GARBAGE.into_iter().chain([1.0]) {
                case.k.data.fill(garbage);
                case.v.data.fill(garbage);
                for backend in backends() {
                    let answer = case.run(backend);
                    case.out.rows().for_each(|row| assert_empty(backend, &answer, row));
                }
            }
        }
    }

    /// To within its rounding to base 2 and back.
    #[test]
    fn know_of_their_sink_alone() {
        let sinks = [0.0, -3.5, 1000.0, f32::NEG_INFINITY];
        for mut case in blind() {
            case.modifiers.sinks = Some(sinks.to_vec());
            for backend in backends() {
                let answer = case.run(backend);
                for row @ [_, h, _] in case.out.rows() {
                    assert_zeros(backend, &answer, row);
                    let (lse, sink) = (answer.lse[answer.out.index(row)], sinks[h]);
                    let is_close = lse == sink || (lse - sink).abs() <= 2.0 * f32::EPSILON * sink.abs();
                    assert!(is_close, "{backend}: {lse}, not {sink}");
                }
            }
        }
    }

    #[test]
    fn give_zeros_whatever_the_keys() {
        for garbage in GARBAGE.into_iter().chain([1.0, -1.0]) {
            for offset in [-1, -5, -20, -69, -70, -1000, i64::MIN] {
                let mut case = Plan { band: Band::offset(offset), ..Plan::new([70, 130], [9, 7]) }.case();
                case.k.data.fill(garbage);
                case.v.data.fill(garbage);
                for backend in backends() {
                    let answer = case.run(backend);
                    let empty = |&[_, _, i]: &Row| !sees(&case, [0, 0, i], 0);
                    case.out.rows().filter(empty).for_each(|row| assert_empty(backend, &answer, row));
                }
            }
        }
    }

    #[test]
    fn give_zeros_without_keys() {
        for q_len in [1, 5, 50] {
            let case = Plan { batch: 2, q_heads: 2, ..Plan::new([q_len, 0], [3, 5]) }.case();
            for backend in backends() {
                let answer = case.run(backend);
                case.out.rows().for_each(|row| assert_empty(backend, &answer, row));
            }
        }
    }

    /// Scores of -infinity are as good as a mask.
    #[test]
    fn give_zeros_where_every_score_is_minus_infinity() {
        let mut case = Plan { q: (Layout::HeadsFirst, Content::Constant(1.0)), ..Plan::new([20, 200], [4, 3]) }.case();
        case.k.data.fill(f32::NEG_INFINITY);
        for backend in backends() {
            let answer = case.run(backend);
            case.out.rows().for_each(|row| assert_empty(backend, &answer, row));
        }
    }
}

mod masked_keys_are_never_observed {
    use super::*;

    const LENS: [usize; 2] = [70, 300];

    /// Every key and value from `cut` on is spoilt; the rows that see none of them must not change.
    #[test]
    fn whatever_they_are() {
        for band in [Band::CAUSAL, Band::offset(-20), Band::offset(0), Band::offset(100), Band::offset(180)] {
            let clean = Plan { q_heads: 2, band, ..Plan::new(LENS, [9, 7]) }.case();
            for backend in backends() {
                let expected = clean.run(backend);
                for cut in [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 150, 170, 231, 249, 256, 270, 299] {
                    for garbage in GARBAGE {
                        let mut spoilt = clean.clone();
                        for row in clean.k.rows().filter(|[_, _, j]| *j >= cut) {
                            spoilt.k.row_mut(row).fill(garbage);
                            spoilt.v.row_mut(row).fill(garbage);
                        }
                        let actual = spoilt.run(backend);
                        for row in clean.out.rows().filter(|row| !sees(&clean, *row, cut)) {
                            let what = format!("{backend}, {band:?}, {garbage:?} from key {cut} on");
                            assert_same_row(&what, (&actual, row), (&expected, row));
                        }
                    }
                }
            }
        }
    }

    /// For some rows, all that they do not see is spoilt.
    #[test]
    fn whatever_masks_them() {
        let plain = Plan { q_heads: 4, kv_heads: 2, ..Plan::new([70, 200], [9, 7]) };
        for plan in kinds_of_masks(plain) {
            let clean = plan.case();
            for backend in backends() {
                let expected = clean.run(backend);
                for sequence in clean.sequences() {
                    for i in sequence.queries.clone().step_by(9) {
                        let row = [sequence.batch, i % 4, i];
                        for garbage in [f32::NAN, f32::INFINITY, f32::MAX] {
                            let actual = clean.spoilt(&sequence, row, garbage).run(backend);
                            let what = format!("{backend}, {garbage:?}: {}", clean.name);
                            assert_same_row(&what, (&actual, row), (&expected, row));
                        }
                    }
                }
            }
        }
    }

    /// A row has the bits of a call that has only the keys it sees.
    #[test]
    fn as_if_they_were_not_there() {
        let masked = Plan { band: Band::offset(130), ..Plan::new(LENS, [9, 7]) }.case();
        for backend in backends() {
            let expected = masked.run(backend);
            let dense = masked.clone().with(|case| case.pattern.band = Band::DENSE);
            for row @ [_, _, i] in masked.out.rows() {
                let seen = i + 131;
                let cut = |x: &Tensor<f32>| Tensor { shape: Shape { len: seen, ..x.shape }, ..x.clone() };
                let dense = Case { k: cut(&masked.k), v: cut(&masked.v), ..dense.clone() };
                assert_same_row(&format!("{backend}"), (&dense.run(backend), row), (&expected, row));
            }
        }
    }

    /// There are so many keys that a call which looked at each masked one, or at each tile of them, would never return.
    #[test]
    fn nor_do_they_cost_time() {
        let endless = Plan {
            k: (Layout::Broadcast([true; 3]), Content::Normal(1.0)),
            v: (Layout::Broadcast([true; 3]), Content::Normal(1.0)),
            band: Band::offset(10),
            ..Plan::new([40, 1], [8, 8])
        };
        let mut case = endless.case();
        let few = Case { k: lengthen(&case.k, 50), v: lengthen(&case.v, 50), ..case.clone() };
        case.k = lengthen(&case.k, isize::MAX as usize / 8);
        case.v = lengthen(&case.v, isize::MAX as usize / 8);
        for backend in backends() {
            assert_same(&format!("{backend}"), &case.run(backend), &few.run(backend));
        }

        // A window somewhere among them (at the same place of a tile, none of them the first), and keys there is only room for.
        let somewhere = 1920 + 128;
        let window = |offset| Band { offset: Some(offset), ..Band::window(Some(100), Some(30)) };
        let [there, here] = [somewhere + (960 << 30), somewhere]
            .map(|offset| case.clone().with(|case| case.pattern.band = window(offset)));
        let of_length = case.clone().with(|case| {
            case.pattern.band = Band::DENSE;
            case.pattern.lens = Some(vec![50]);
        });
        let dense = few.with(|case| case.pattern.band = Band::DENSE);
        for backend in backends() {
            assert_same(&format!("{backend}, window"), &there.run(backend), &here.run(backend));
            assert_same(&format!("{backend}, length"), &of_length.run(backend), &dense.run(backend));
        }
    }

    /// The shortest of several times.
    fn time(case: &Case, backend: Backend) -> Duration {
        let mut answer = case.blank();
        let mut scratch = vec![0.0; scratch_len(case.q.shape.dim, case.v.shape.dim)];
        let times = (0..5).map(|_| {
            let start = Instant::now();
            case.forward(backend, &mut answer, &mut scratch).unwrap();
            start.elapsed()
        });
        times.min().unwrap()
    }

    /// Windows, lengths and blocks leave a sixteenth of the keys or fewer: at the very least, half of the time is saved.
    #[test]
    fn nor_do_they_cost_much_time_where_a_few_are_seen() {
        const KEYS: usize = 8192;
        let plain = Plan { v: (Layout::HeadsFirst, Content::Constant(1.0)), ..Plan::new([64, KEYS], [64, 64]) };
        let blocks = GridPlan { block: [64, 128], ..GridPlan::HALF };
        let [dense, window, lens, mut sparse] = [
            plain,
            Plan { band: Band { causal: true, ..Band::window(Some(128), None) }, ..plain },
            Plan { lens: Lens::Each(KEYS / 16), ..plain },
            Plan { block_mask: Some(blocks), ..plain },
        ]
        .map(|plan| plan.case());
        let mut nth = 0;
        if let Some(Elements::Bools(elements)) = sparse.pattern.block_mask.as_mut().map(|grid| &mut grid.elements) {
            elements.data.fill_with(|| (nth % 16 == 0, nth += 1).0);
        }
        for backend in backends() {
            let most = time(&dense, backend) / 2;
            for (what, case) in [("window", &window), ("lens", &lens), ("blocks", &sparse)] {
                let time = time(case, backend);
                assert!(time <= most, "{backend}, {what}: {time:?}, half of a dense call is {most:?}");
            }
        }
    }

    fn lengthen(x: &Tensor<f32>, len: usize) -> Tensor<f32> {
        Tensor { shape: Shape { len, ..x.shape }, ..x.clone() }
    }
}

mod nan {
    use super::*;

    const LENS: [usize; 2] = [50, 200];
    const BANDS: [Band; 2] = [Band::DENSE, Band::CAUSAL];
    const KEYS: [usize; 9] = [0, 1, 63, 64, 127, 150, 151, 180, 199];

    fn plan(band: Band) -> Plan {
        Plan { batch: 2, q_heads: 4, kv_heads: 2, band, ..Plan::new(LENS, [9, 7]) }
    }

    /// The rows that attend to key `j` of sequence 1 and KV head 1 are those of its query heads, 2 and 3, that see it.
    fn attends(case: &Case, row @ [b, h, _]: Row, j: usize) -> bool {
        b == 1 && h / 2 == 1 && sees(case, row, j)
    }

    /// `reached` says which elements must be NaN (for the lse, column `None`); the others must be those of the clean case.
    fn assert_reaches(
        what: &str,
        clean: &Answer<f32>,
        actual: &Answer<f32>,
        reached: impl Fn(Row, Option<usize>) -> bool,
    ) {
        let assert_element = |row, column, clean: f32, actual: f32| {
            let right = if reached(row, column) { actual.is_nan() } else { clean.to_bits() == actual.to_bits() };
            assert!(right, "{what}: {row:?} {column:?} is {actual}, without NaN {clean}");
        };
        for row in clean.out.rows() {
            let i = clean.out.index(row);
            assert_element(row, None, clean.lse[i], actual.lse[i]);
            for (c, (clean, actual)) in clean.out.row(row).iter().zip(actual.out.row(row)).enumerate() {
                assert_element(row, Some(c), *clean, *actual);
            }
        }
    }

    /// Runs the case with each NaN put in by `spoil`.
    fn check(band: Band, spoil: impl Fn(&mut Case, f32), reached: impl Fn(&Case, Row, Option<usize>) -> bool) {
        let case = plan(band).case();
        for backend in backends() {
            let clean = case.run(backend);
            for nan in nans() {
                let mut spoilt = case.clone();
                spoil(&mut spoilt, nan);
                let what = format!("{backend}, {band:?}, NaN {:#x}", nan.to_bits());
                assert_reaches(&what, &clean, &spoilt.run(backend), |row, column| reached(&case, row, column));
            }
        }
    }

    #[test]
    fn of_a_key_reaches_the_rows_that_attend_to_it() {
        for band in BANDS {
            for j in KEYS {
                check(band, |case, nan| case.k.row_mut([1, 1, j])[j % 9] = nan, |case, row, _| attends(case, row, j));
            }
        }
    }

    #[test]
    fn of_a_value_reaches_its_column_of_the_rows_that_attend_to_it() {
        for band in BANDS {
            for j in KEYS {
                check(
                    band,
                    |case, nan| case.v.row_mut([1, 1, j])[j % 7] = nan,
                    |case, row, column| attends(case, row, j) && column == Some(j % 7),
                );
            }
        }
    }

    #[test]
    fn of_a_query_reaches_its_row() {
        for band in BANDS {
            for i in [0, 1, 15, 16, 33, 49] {
                check(band, |case, nan| case.q.row_mut([1, 3, i])[i % 9] = nan, |_, row, _| row == [1, 3, i]);
            }
        }
    }

    /// What is masked has no weight in a row that is not a number either.
    #[test]
    fn of_a_row_leaves_masked_weights_zero() {
        let weights = Some((Stage::Weights, Layout::HeadsFirst));
        for plan in kinds_of_masks(Plan { scores: weights, ..Plan::new([40, 150], [9, 7]) }) {
            let mut case = plan.case();
            case.q.data.fill(f32::NAN);
            for backend in backends() {
                let scores = case.run(backend).scores.unwrap();
                for sequence in case.sequences() {
                    for row in sequence.queries.clone().map(|i| [0, 0, i]) {
                        for (j, weight) in scores.row(row).iter().enumerate() {
                            let right =
                                if case.sees(&sequence, row, j) { weight.is_nan() } else { weight.to_bits() == 0 };
                            assert!(right, "{backend}: {row:?}[{j}] is {weight}: {}", case.name);
                        }
                    }
                }
            }
        }
    }

    /// A query that sees no key is not looked at either: its row is zero.
    #[test]
    fn of_a_query_without_keys_reaches_nothing() {
        check(Band::offset(-10), |case, nan| case.q.row_mut([0, 0, 9]).fill(nan), |_, _, _| false);
    }
}

/// Infinities make the same rows finite, infinite or NaN as in the reference.
#[test]
fn infinities_do_what_they_do_in_the_reference() {
    type Operand = fn(&mut Case) -> &mut Tensor<f32>;
    let operands: [(Operand, usize); 3] =
        [(|case| &mut case.q, 30), (|case| &mut case.k, 150), (|case| &mut case.v, 150)];
    for band in [Band::DENSE, Band::CAUSAL] {
        for infinity in [f32::INFINITY, f32::NEG_INFINITY] {
            for (operand, len) in operands {
                for i in [0, 1, len / 2, len - 1] {
                    let plan = Plan { q_heads: 2, kv_heads: 2, band, ..Plan::new([30, 150], [5, 3]) };
                    let mut case = plan.case();
                    operand(&mut case).row_mut([0, 1, i])[2] = infinity;
                    case.name += &format!(" with {infinity} in row {i} of {len}");
                    let oracle = Oracle::new(&case);
                    for backend in backends() {
                        oracle.check(backend, &case.run(backend));
                    }
                }
            }
        }
    }
}

mod a_row_depends_on_itself_alone {
    use super::*;

    const Q_LEN: usize = 300;
    const KV_LEN: usize = 200;

    /// What the rows are made of: easy values, and such as make a difference where operations are reordered or left out.
    fn cases(band: Band) -> impl Iterator<Item = Case> {
        let contents =
            [Content::Normal(1.0), Content::Normal(40.0), Content::Mixed, Content::Subnormal, Content::Constant(-0.0)];
        contents.into_iter().flat_map(move |content| {
            let source = (Layout::HeadsFirst, content);
            let sizes = Plan { batch_invariant: true, ..Plan::new([Q_LEN, KV_LEN], [9, 7]) };
            let plan = Plan { q: source, k: source, v: source, band, ..sizes };
            let finite = plan.case();
            let mut special = finite.clone();
            special.name += " with NaN and infinities";
            special.k.row_mut([0, 0, 70])[3] = f32::NAN;
            special.k.row_mut([0, 0, 30])[4] = f32::NEG_INFINITY;
            special.v.row_mut([0, 0, 90])[5] = f32::INFINITY;
            special.q.row_mut([0, 0, 20])[6] = f32::INFINITY;
            [finite, special]
        })
    }

    /// Only the queries `first .. first + len`, which see the keys they saw.
    fn slice(case: &Case, first: usize, len: usize) -> Case {
        let cut = |x: &Tensor<f32>| Tensor {
            data: x.data[first * x.strides.len..].to_vec(),
            shape: Shape { len, ..x.shape },
            strides: x.strides,
        };
        let mut slice = Case { q: cut(&case.q), out: cut(&case.out), ..case.clone() };
        slice.pattern.band.offset = case.pattern.band.offset.map(|offset| offset + first as i64);
        slice
    }

    /// Calls of many lengths, begun at many queries: each query stands at every place of a block, beside others and alone.
    #[test]
    fn not_on_its_place_in_the_call() {
        for band in [Band::DENSE, Band::offset(-30)] {
            for case in cases(band) {
                for backend in backends() {
                    let whole = case.run(backend);
                    for len in [1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 48, 49, 65, 97, 150, 200, 290] {
                        // Seven has no factor in common with any number of lanes.
                        for first in (0..=Q_LEN - len).step_by(7) {
                            let part = slice(&case, first, len).run(backend);
                            for i in 0..len {
                                let what = format!("{backend}, queries {first}.. ({len}), {}", case.name);
                                assert_same_row(&what, (&part, [0, 0, i]), (&whole, [0, 0, first + i]));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Queries alone and among some of their company, whatever masks their keys or changes their scores, which are asked for.
    #[test]
    fn not_on_its_company_whatever_the_masks_and_modifiers() {
        let plain = Plan { q_heads: 4, kv_heads: 2, ..Plan::new([70, 200], [9, 7]) };
        for plan in kinds_of_masks(plain).chain(kinds_of_modifiers(plain)) {
            let whole = Plan { scores: Some((Stage::Masked, Layout::HeadsFirst)), ..plan }.case();
            for backend in backends() {
                let expected = whole.run(backend);
                assert_same(
                    &format!("{backend}, threads, {}", whole.name),
                    &whole.run_on_threads(backend, 3),
                    &expected,
                );
                for sequence in whole.sequences() {
                    let queries = sequence.queries.clone();
                    for i in queries.clone().step_by(5) {
                        let (alone, some) = (whole.alone(&sequence, i), i..queries.end.min(i + 33));
                        let (one, several) = (alone.run(backend), whole.only(&sequence, some.clone()).run(backend));
                        for h in 0..4 {
                            assert_same_row(
                                &format!("{backend}, {}", alone.name),
                                (&one, [0, h, 0]),
                                (&expected, [0, h, i]),
                            );
                            for i in some.clone() {
                                let what = format!("{backend}, queries {some:?}, {}", whole.name);
                                assert_same_row(&what, (&several, [0, h, i]), (&expected, [0, h, i]));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn not_on_other_sequences_and_heads() {
        for band in [Band::DENSE, Band::CAUSAL] {
            let plan = Plan { batch: 3, q_heads: 6, kv_heads: 2, band, ..Plan::new([50, KV_LEN], [9, 7]) };
            let together = plan.case();
            let head = |x: &Tensor<f32>, b, h| Tensor {
                data: x.data[b * x.strides.batch + h * x.strides.heads..].to_vec(),
                shape: Shape { batch: 1, heads: 1, ..x.shape },
                strides: x.strides,
            };
            for backend in backends() {
                let expected = together.run(backend);
                for [b, h] in (0..3).flat_map(|b| (0..6).map(move |h| [b, h])) {
                    let alone = Case {
                        q: head(&together.q, b, h),
                        k: head(&together.k, b, h / 3),
                        v: head(&together.v, b, h / 3),
                        out: head(&together.out, b, h),
                        ..together.clone()
                    }
                    .run(backend);
                    for i in 0..50 {
                        assert_same_row(&format!("{backend}, {band:?}"), (&alone, [0, 0, i]), (&expected, [b, h, i]));
                    }
                }
            }
        }
    }

    #[test]
    fn not_on_the_threads() {
        for band in [Band::DENSE, Band::offset(40)] {
            for case in cases(band) {
                for backend in backends() {
                    let alone = case.run(backend);
                    for threads in [2, 3, 4] {
                        let shared = case.run_on_threads(backend, threads);
                        assert_same(&format!("{backend}, {threads} threads, {}", case.name), &shared, &alone);
                    }
                }
            }
        }
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn not_on_the_threads_of_a_pool() {
        for case in cases(Band::offset(40)) {
            for backend in backends() {
                let mut shared = case.blank();
                let work = case.prepare(backend, &mut shared).unwrap();
                work.run_parallel(&mut vec![f32::NAN; 3 * work.scratch_len() + 1]).unwrap();
                assert_same(&format!("{backend}, {}", case.name), &shared, &case.run(backend));
            }
        }
    }

    /// A pool shares out the keys of single heads, but not those of none.
    #[cfg(feature = "rayon")]
    #[test]
    fn nothing_is_shared_out_over_a_pool() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let keys = vec![0f32; 4000];
        for [batch, heads, q_len] in [[0, 1, 1], [1, 0, 1], [1, 1, 0]] {
            let q = View::<f32>::heads_first(&[], [batch, heads, q_len, 1]).unwrap();
            let kv = View::heads_first(&keys, [batch, 1, 4000, 1]).unwrap();
            let out = ViewMut::<f32>::heads_first(&mut [], [batch, heads, q_len, 1]).unwrap();
            let work = Attention::new().prepare(q, Kv::new(kv, kv).unwrap(), out).unwrap();
            let mut scratch = vec![0.0; work.parallel_scratch_len(2)];
            assert_eq!(pool.install(|| work.run_parallel(&mut scratch)), Ok(()), "{batch} {heads} {q_len}");
        }
    }

    /// Nor on whether anybody asks for the log-sum-exp, on what the scratch held, nor on where it begins.
    #[test]
    fn not_on_scratch_or_log_sum_exp() {
        let case = Plan { band: Band::CAUSAL, ..Plan::new([50, KV_LEN], [9, 7]) }.case();
        for backend in backends() {
            let expected = case.run(backend);
            for start in 0..20 {
                for content in [0.0, f32::NAN, f32::MAX] {
                    let mut out = case.out.clone();
                    let mut scratch = vec![content; start + scratch_len(9, 7)];
                    let values = out.view_mut().unwrap();
                    let attention = case.attention().unwrap().backend(backend);
                    attention
                        .forward(case.q.view().unwrap(), case.kv().unwrap(), values, &mut scratch[start..])
                        .unwrap();
                    assert_eq!(out.data, expected.out.data, "{backend}, scratch from {start} on, full of {content}");
                }
            }
        }
    }

    /// Nor on how the operands lie in memory.
    #[test]
    fn not_on_the_layout() {
        let plan = Plan { batch: 2, q_heads: 4, kv_heads: 2, band: Band::CAUSAL, ..Plan::new([50, KV_LEN], [9, 7]) };
        let plain = plan.case();
        for backend in backends() {
            let expected = plain.run(backend);
            for layout in [Layout::TokensFirst, Layout::Fused, Layout::Padded(1), Layout::Padded(16)] {
                let other = |(_, content)| (layout, content);
                let plan = Plan { q: other(plan.q), k: other(plan.k), v: other(plan.v), out: layout, ..plan };
                assert_same(&format!("{backend}, {layout:?}"), &plan.case().run(backend), &expected);
            }
        }
    }
}

/// A projection `[token][query | key | value]` is read in place: three views of one slice.
#[test]
fn a_fused_projection_is_read_where_it_lies() {
    const TOKENS: usize = 40;
    const HEADS: usize = 3;
    const DIM: usize = 8;
    const WIDTH: usize = HEADS * DIM;
    let qkv = Tensor::random(
        Shape { batch: 1, heads: 1, len: TOKENS, dim: 3 * WIDTH },
        Layout::HeadsFirst,
        Content::Normal(1.0),
        &mut crate::common::Random::new(7),
    );
    let shape = Shape { batch: 1, heads: HEADS, len: TOKENS, dim: DIM };
    let strides = Strides { batch: 0, heads: DIM, len: 3 * WIDTH };
    let third = |n: usize| View::strided(&qkv.data[n * WIDTH..], shape, strides).unwrap();

    let own = |n: usize| Tensor { data: qkv.data[n * WIDTH..].to_vec(), shape, strides };
    let out = Tensor::filled(shape, Layout::TokensFirst, MARKER);
    let case = Case { q: own(0), k: own(1), v: own(2), out, ..Plan::new([1, 1], [1, 1]).case() };
    for backend in backends() {
        let mut out = [MARKER; TOKENS * WIDTH];
        Attention::new()
            .backend(backend)
            .forward(
                third(0),
                Kv::new(third(1), third(2)).unwrap(),
                ViewMut::tokens_first(&mut out, [1, TOKENS, HEADS, DIM]).unwrap(),
                &mut [0.0; scratch_len(DIM, DIM)],
            )
            .unwrap();
        let answer = case.run(backend);
        assert_eq!(out[..], answer.out.data[..], "{backend}");
        Oracle::new(&case).check(backend, &answer);
    }
}

mod memory {
    use super::*;

    #[test]
    fn does_not_grow_with_the_lengths() {
        for backend in backends() {
            for (lens, dims) in
                [([1, 1], [16, 8]), ([1000, 1], [16, 8]), ([1, 100_000], [16, 8]), ([100, 3], [129, 33])]
            {
                let case = Plan::new(lens, dims).case();
                let mut answer = case.blank();
                let work = case.prepare(backend, &mut answer).unwrap();
                assert_eq!(work.scratch_len(), scratch_len(dims[0], dims[1]));
            }
        }
    }

    #[test]
    fn is_known_to_the_compiler() {
        static SCRATCH: [f32; scratch_len(64, 64)] = [0.0; scratch_len(64, 64)];
        // Queries and outputs of some hundred queries, and scores of one tile: less than 1 MiB.
        assert!((64 * 2 * 16..256 * 1024).contains(&SCRATCH.len()), "{}", SCRATCH.len());
        assert_eq!(scratch_len(usize::MAX, 1), usize::MAX);
        assert_eq!(scratch_len(1, usize::MAX), usize::MAX);
    }
}

mod accuracy {
    use super::*;

    /// Softmax attention as a textbook has it, in f32 throughout, one operation after the other.
    fn textbook(case: &Case, [b, h, i]: Row) -> Vec<f32> {
        let keys = (0..case.kv_len()).filter(|j| sees(case, [b, h, i], *j));
        let kv_head = h / (case.q.shape.heads / case.k.shape.heads);
        let q = case.q.row([b, h, i]);
        let dot = |k: &[f32]| q.iter().zip(k).fold(0.0, |sum, (q, k)| sum + q * k);
        let scores: Vec<(usize, f32)> =
            keys.map(|j| (j, dot(case.k.row([b, kv_head, j])) * case.scale() as f32)).collect();
        let max = scores.iter().fold(f32::NEG_INFINITY, |max, (_, score)| max.max(*score));
        let weights: Vec<(usize, f32)> = scores.into_iter().map(|(j, score)| (j, (score - max).exp())).collect();
        let sum = weights.iter().fold(0.0, |sum, (_, weight)| sum + weight);
        let mut out = vec![0f32; case.v.shape.dim];
        for (j, weight) in weights {
            for (out, v) in out.iter_mut().zip(case.v.row([b, kv_head, j])) {
                *out += weight / sum * v;
            }
        }
        out
    }

    /// The root of the mean square of the errors of all elements.
    fn error(exact: &Tensor<f64>, actual: impl Fn(Row) -> Vec<f32>) -> f64 {
        let squares = exact.rows().flat_map(|row| {
            let pairs = actual(row).into_iter().zip(exact.row(row).to_vec());
            pairs.map(|(actual, exact)| (f64::from(actual) - exact).powi(2))
        });
        let (sum, count) = squares.fold((0.0, 0.0), |(sum, count), square| (sum + square, count + 1.0));
        f64::sqrt(sum / count)
    }

    /// Scores of standard deviation 1 to 4: all keys matter, or a few of them.
    fn plans(shape: Plan) -> impl Iterator<Item = Plan> {
        (0..24u8).map(move |seed| {
            let deviation = [1.0, 2.0, 4.0][usize::from(seed % 3)];
            Plan { q: (Layout::HeadsFirst, Content::Normal(deviation)), seed: seed.into(), ..shape }
        })
    }

    /// The logarithms of the backend's errors over the textbook's, one for each plan.
    fn compare(backend: Backend, references: &[(Case, Tensor<f64>, f64)]) -> Vec<f64> {
        let log_ratio = |(case, exact, textbook): &(Case, Tensor<f64>, f64)| {
            let out = case.run(backend).out;
            (error(exact, |row| out.row(row).to_vec()) / textbook).ln()
        };
        references.iter().map(log_ratio).collect()
    }

    /// Mean and standard error of the mean.
    fn mean(samples: &[f64]) -> (f64, f64) {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, (variance / count).sqrt())
    }

    /// On each shape, as far as the samples can tell (three standard errors); over all shapes, in any case.
    #[test]
    fn is_no_worse_than_the_textbooks() {
        let mut overall = vec![0.0; backends().count()];
        for shape in [
            Plan::new([56, 56], [32, 32]),
            Plan::new([64, 128], [64, 64]),
            Plan { band: Band::CAUSAL, ..Plan::new([100, 100], [64, 64]) },
            Plan::new([32, 1000], [128, 128]),
            Plan { band: Band::CAUSAL, ..Plan::new([30, 2000], [16, 16]) },
            Plan::new([50, 300], [256, 8]),
        ] {
            let reference = |plan: Plan| {
                let case = plan.case();
                let exact = case.reference().out;
                let textbook = error(&exact, |row| textbook(&case, row));
                (case, exact, textbook)
            };
            let references: Vec<_> = plans(shape).map(reference).collect();
            for (backend, overall) in backends().zip(&mut overall) {
                let (mean, standard_error) = mean(&compare(backend, &references));
                let Plan { q_len, kv_len, head_dim, band, .. } = shape;
                let what = format!("{backend:8} {q_len:3} x {kv_len:4}, head_dim {head_dim:3}, {band:?}");
                println!("{what}: {:.2} +- {standard_error:.2} of the textbook's error", mean.exp());
                assert!(mean <= 3.0 * standard_error, "{what}: {:.3}", mean.exp());
                *overall += mean;
            }
        }
        assert!(overall.iter().all(|mean| *mean < 0.0), "{overall:?}");
    }
}
