//! The oracle on cases worked by hand, before anything is held to it; and each backend on the same cases.

use crate::common::{
    Answer, Band, Case, Elements, Function, Grid, Layout, MARKER, MaskKind, MaskRule, Pattern, Plan, ScoreKind,
    ScoreRule, Tensor, backends,
};
use core::f64::consts::LN_2;
use simd_attention::{Attention, Error, Operand, Output, Shape, Stage, ViewMut, Window, reference};

/// One head of one sequence. Unscaled: the scores are the dot products.
fn case<const D: usize, const V: usize>(q: &[[f32; D]], k: &[[f32; D]], v: &[[f32; V]]) -> Case {
    let mut case = Plan { scale: Some(1.0), ..Plan::new([q.len(), k.len()], [D, V]) }.case();
    case.q.data = q.concat();
    case.k.data = k.concat();
    case.v.data = v.concat();
    case
}

/// The answers of the reference, to be right to 1e-15, and of every backend, to be right to 1e-6.
fn answers(case: &Case) -> Vec<(String, f64, Answer<f64>)> {
    let reference = ("reference".into(), 1e-15, case.reference());
    let backends = backends().map(|backend| {
        let Answer { out, lse, scores } = case.run(backend);
        let lse = lse.into_iter().map(f64::from).collect();
        (backend.to_string(), 1e-6, Answer { out: exact(out), lse, scores: scores.map(exact) })
    });
    [reference].into_iter().chain(backends).collect()
}

fn exact(tensor: Tensor<f32>) -> Tensor<f64> {
    let data = tensor.data.into_iter().map(f64::from).collect();
    Tensor { data, shape: tensor.shape, strides: tensor.strides }
}

/// Equal to the given relative error.
#[track_caller]
fn assert_close(by: &str, actual: &[f64], expected: &[f64], error: f64) {
    assert_eq!(actual.len(), expected.len());
    for (a, e) in actual.iter().zip(expected) {
        assert!(a == e || (a - e).abs() <= error * e.abs().max(1.0), "{by}: {actual:?}, not {expected:?}");
    }
}

fn assert_rows<const V: usize>(case: &Case, expected: &[[f64; V]]) {
    for (by, error, answer) in answers(case) {
        assert_close(&by, &answer.out.data, &expected.concat(), error);
    }
}

fn assert_lse(case: &Case, expected: &[f64]) {
    for (by, error, answer) in answers(case) {
        assert_close(&by, &answer.lse, expected, error);
    }
}

/// The scores of a case at some stage.
#[track_caller]
fn assert_scores<const K: usize>(case: &Case, stage: Stage, expected: &[[f64; K]]) {
    let shape = Shape { dim: K, ..case.q.shape };
    let scores = Tensor::filled(shape, Layout::HeadsFirst, MARKER);
    for (by, error, answer) in answers(&case.clone().with(|case| case.scores = Some((stage, scores)))) {
        assert_close(&format!("{by}, {stage:?}"), &answer.scores.unwrap().data, &expected.concat(), error);
    }
}

#[test]
fn equal_scores_average_the_values() {
    let case = case(&[[0.0, 0.0]], &[[1.0, 5.0], [-3.0, 2.0], [0.5, 0.0], [7.0, 7.0]], &[[1.0], [2.0], [3.0], [10.0]]);
    assert_rows(&case, &[[4.0]]);
    assert_lse(&case, &[4f64.ln()]);
}

#[test]
fn a_score_far_above_the_rest_picks_its_value() {
    // e^-1000 is zero even in f64, so the result is exact.
    let case = case(&[[1000.0, 0.0], [0.0, 1000.0]], &[[1.0, 0.0], [0.0, 1.0]], &[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]);
    for (by, _, answer) in answers(&case) {
        let expected: Vec<f64> = case.v.data.iter().map(|x| f64::from(*x)).collect();
        assert_eq!(answer.out.data, expected, "{by}");
    }
    assert_lse(&case, &[1000.0, 1000.0]);
}

/// A weight of e^-3000 is zero in every format, but it is no zero.
#[test]
fn an_infinite_value_stays_so_however_small_its_weight() {
    let keys: Vec<[f32; 1]> = (0..=600).map(|j| [j as f32]).collect();
    let values: Vec<[f32; 2]> = keys.iter().map(|[j]| [if *j == 0.0 { f32::NEG_INFINITY } else { *j }, 1.0]).collect();
    for (by, error, answer) in answers(&case(&[[5.0]], &keys, &values)) {
        let [infinite, one] = answer.out.data[..] else { unreachable!() };
        // In f32 it may get there by way of `0 * inf`.
        assert!(infinite == f64::NEG_INFINITY || (by != "reference" && infinite.is_nan()), "{by}: {infinite}");
        assert_close(&by, &[one], &[1.0], error);
    }
}

#[test]
fn scores_ln_2_apart_weigh_1_to_2() {
    // The f32 nearest to ln 2 is off by 4e-9, more than the reference's 1e-15: as a product of two numbers it comes closer.
    let high = LN_2 as f32;
    let low = (LN_2 - f64::from(high)) as f32;
    let two_keys = case(&[[1.0, 1.0]], &[[0.0, 0.0], [high, low]], &[[0.0, 3.0], [3.0, 9.0]]);
    assert_rows(&two_keys, &[[2.0, 7.0]]);
    assert_lse(&two_keys, &[3f64.ln()]);

    // A third key, as heavy as the other two together: 1/6, 2/6, 3/6 would need ln 3; 1/7, 2/7, 4/7 is ln 4.
    let three_keys = case(&[[1.0, 1.0]], &[[0.0, 0.0], [high, low], [2.0 * high, 2.0 * low]], &[[7.0], [14.0], [28.0]]);
    assert_rows(&three_keys, &[[1.0 + 4.0 + 16.0]]);
    assert_lse(&three_keys, &[7f64.ln()]);
}

/// Queries of two elements, keys of three: `W' q = [1, 2, 4]`, scores of 3, 6 and -1.
#[test]
fn a_bilinear_score_has_a_matrix_between_query_and_key() {
    let keys = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, -1.0, 0.0]];
    let mut case = case(&[[1.0, 2.0, 0.0]], &keys, &[[1.0], [2.0], [3.0]]);
    case.q = row(&[1.0, 2.0]);
    case.function = Function::Bilinear(matrix([2, 3], &[1.0, 0.0, 4.0, 0.0, 1.0, 0.0]));
    let [a, b, c] = [3f64, 6.0, -1.0].map(f64::exp);
    let sum = a + b + c;
    assert_rows(&case, &[[(a + 2.0 * b + 3.0 * c) / sum]]);
    assert_lse(&case, &[sum.ln()]);
}

/// `Wq q = [1, -1]` with keys of `[1, 1]` and `[-1, 2]`: scores of `3 tanh(2)` and `2 tanh(1)`.
#[test]
fn an_additive_score_has_hidden_units() {
    let mut case = case(&[[0.0, 0.0]], &[[1.0, 1.0], [-1.0, 2.0]], &[[0.0], [1.0]]);
    case.q = row(&[0.5]);
    case.function = Function::Additive(vec![3.0, 2.0], Some(matrix([2, 1], &[2.0, -2.0])));
    let (a, b) = (3.0 * 2f64.tanh(), 2.0 * 1f64.tanh());
    assert_rows(&case, &[[1.0 / (1.0 + (a - b).exp())]]);
    assert_lse(&case, &[(a.exp() + b.exp()).ln()]);
}

/// By a score function that is not the crate's own: `-|q - k|^2` are -1, 0 and -4, halved.
#[test]
fn a_score_function_of_ones_own_is_scaled_like_any_other() {
    let near = case(&[[1.0, 2.0]], &[[0.0, 2.0], [1.0, 2.0], [1.0, 4.0]], &[[1.0], [2.0], [3.0]]).with(|case| {
        case.function = Function::Distance;
        case.modifiers.scale = Some(0.5);
    });
    let [a, b, c] = [-0.5f64, 0.0, -2.0].map(f64::exp);
    assert_rows(&near, &[[(a + 2.0 * b + 3.0 * c) / (a + b + c)]]);
    assert_lse(&near, &[(a + b + c).ln()]);
}

fn matrix([len, dim]: [usize; 2], data: &[f32]) -> Tensor<f32> {
    let shape = Shape { batch: 1, heads: 1, len, dim };
    Tensor { data: data.to_vec(), ..Tensor::filled(shape, Layout::HeadsFirst, 0.0) }
}

fn row(data: &[f32]) -> Tensor<f32> {
    matrix([1, data.len()], data)
}

#[test]
fn the_default_scale_is_one_over_the_root_of_head_dim() {
    let unscaled = case(&[[1.0; 4]], &[[0.5; 4], [1.0; 4]], &[[0.0], [1.0]]);
    let default = unscaled.clone().with(|case| case.modifiers.scale = None);
    let weight = |score: f64| 1.0 / (1.0 + (-score).exp());
    assert_rows(&unscaled, &[[weight(2.0)]]);
    assert_rows(&default, &[[weight(1.0)]]);
    assert_lse(&default, &[1.0 + 1f64.exp().ln_1p()]);
}

#[test]
fn a_negative_scale_turns_the_order_round_and_zero_levels_it() {
    let case = case(&[[1.0]], &[[0.0], [1000.0]], &[[1.0], [2.0]]);
    let of = |scale| case.clone().with(|case| case.modifiers.scale = Some(scale));
    assert_rows(&of(1.0), &[[2.0]]);
    assert_rows(&of(-1.0), &[[1.0]]);
    assert_rows(&of(0.0), &[[1.5]]);
}

/// Which keys each query sees: equal scores and one-hot values make the output's row its weights, of which none is zero but
/// those of masked keys.
fn grids(q_len: usize, kv_len: usize, change: impl FnOnce(&mut Case)) -> Vec<(String, Vec<String>)> {
    let mut case = Plan::new([q_len, kv_len], [1, kv_len]).case().with(change);
    case.k.data.fill(0.0);
    for (j, row) in case.v.rows().enumerate().collect::<Vec<_>>() {
        case.v.row_mut(row).iter_mut().enumerate().for_each(|(c, x)| *x = f32::from(u8::from(c == j)));
    }
    let draw = |row: &[f64]| row.iter().map(|weight| if *weight > 0.0 { '1' } else { '0' }).collect();
    answers(&case)
        .into_iter()
        .map(|(by, _, answer)| (by, answer.out.rows().map(|row| draw(answer.out.row(row))).collect()))
        .collect()
}

#[track_caller]
fn assert_sees<const Q: usize>(expected: [&str; Q], change: impl FnOnce(&mut Case)) {
    for (by, grid) in grids(Q, expected[0].len(), change) {
        assert_eq!(grid, expected, "{by}");
    }
}

#[track_caller]
fn assert_grid<const Q: usize>(band: Band, expected: [&str; Q]) {
    assert_sees(expected, |case| case.pattern.band = band);
}

#[track_caller]
fn assert_pattern<const Q: usize>(pattern: Pattern, expected: [&str; Q]) {
    assert_sees(expected, |case| case.pattern = pattern);
}

/// A mask drawn with zeros and ones, an element each.
fn bools(rows: &[&str], block: [usize; 2]) -> Option<Grid> {
    let shape = Shape { batch: 1, heads: 1, len: rows.len(), dim: rows[0].len() };
    let data = rows.concat().chars().map(|c| c == '1').collect();
    Some(Grid { elements: Elements::Bools(Tensor { data, shape, strides: Layout::HeadsFirst.strides(shape) }), block })
}

/// Rows of bytes.
fn bits<const B: usize>(rows: &[[u8; B]], block: [usize; 2]) -> Option<Grid> {
    let shape = Shape { batch: 1, heads: 1, len: rows.len(), dim: B };
    let strides = Layout::HeadsFirst.strides(shape);
    Some(Grid { elements: Elements::Bits(Tensor { data: rows.concat(), shape, strides }), block })
}

#[test]
fn causal_is_bottom_right_aligned() {
    assert_grid(Band::CAUSAL, ["100", "110", "111"]);
    assert_grid(Band::CAUSAL, ["1110", "1111"]);
    assert_grid(Band::CAUSAL, ["00", "00", "10", "11"]);
    assert_grid(Band::CAUSAL, ["11111"]);
    assert_grid(Band::CAUSAL, ["0", "0", "1"]);
}

#[test]
fn offset_zero_is_top_left_aligned() {
    assert_grid(Band::offset(0), ["1000", "1100"]);
    assert_grid(Band::offset(0), ["10", "11", "11", "11"]);
}

#[test]
fn an_offset_moves_the_diagonal() {
    assert_grid(Band::offset(2), ["1110", "1111", "1111"]);
    assert_grid(Band::offset(-1), ["000", "100", "110", "111"]);
    assert_grid(Band::offset(-2), ["000", "000", "100"]);
    assert_grid(Band::offset(-3), ["000", "000", "000"]);
    assert_grid(Band::offset(100), ["111", "111"]);
    assert_grid(Band::offset(i64::MAX), ["111", "111"]);
    assert_grid(Band::offset(i64::MIN), ["000", "000"]);
}

#[test]
fn dense_sees_everything() {
    assert_grid(Band::DENSE, ["11111", "11111"]);
}

#[test]
fn a_window_is_counted_from_where_a_query_stands() {
    assert_grid(Band::window(Some(1), Some(1)), ["1100", "1110", "0111", "0011"]);
    assert_grid(Band::window(Some(0), Some(0)), ["100", "010", "001"]);
    assert_grid(Band::window(None, Some(1)), ["1100", "1110", "1111", "1111"]);
    assert_grid(Band::window(Some(1), None), ["1111", "1111", "0111", "0011"]);
    // Bottom-right aligned as the causal mask is, or moved.
    assert_grid(Band::window(Some(1), Some(0)), ["0110", "0011"]);
    assert_grid(Band { offset: Some(0), ..Band::window(Some(0), Some(1)) }, ["1100", "0110"]);
    assert_grid(Band { offset: Some(100), ..Band::window(Some(1), None) }, ["000", "000"]);
    assert_grid(Band { offset: Some(-100), ..Band::window(Some(1), Some(99)) }, ["000", "100", "110"]);
    assert_grid(Band::window(Some(usize::MAX), Some(usize::MAX)), ["11", "11"]);
}

#[test]
fn a_causal_window_has_no_right() {
    let causal = |left, right| Band { causal: true, window: Window { left, right }, offset: None };
    assert_grid(causal(Some(1), None), ["1000", "1100", "0110", "0011"]);
    assert_grid(causal(Some(1), Some(2)), ["1000", "1100", "0110", "0011"]);
    assert_grid(causal(None, Some(9)), ["100", "110", "111"]);
}

#[test]
fn keys_past_the_length_are_not_there() {
    let of = |len, band| Pattern { lens: Some(vec![len]), band, ..Pattern::default() };
    assert_pattern(of(2, Band::DENSE), ["1100", "1100"]);
    assert_pattern(of(0, Band::DENSE), ["000", "000"]);
    // The last query stands at the last key there is.
    assert_pattern(of(2, Band::CAUSAL), ["1000", "1100"]);
    assert_pattern(of(3, Band::window(Some(0), Some(0))), ["01000", "00100"]);
    assert_pattern(of(2, Band::offset(1)), ["1100", "1100"]);
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let of = |queries: &[usize], keys: &[usize], lens, band| Pattern {
        packed: Some([queries.to_vec(), keys.to_vec()]),
        lens,
        band,
        ..Pattern::default()
    };
    assert_pattern(of(&[0, 1, 3], &[0, 2, 5], None, Band::DENSE), ["11000", "00111", "00111"]);
    assert_pattern(of(&[0, 1, 3], &[0, 2, 5], None, Band::CAUSAL), ["11000", "00110", "00111"]);
    assert_pattern(of(&[0, 1, 3], &[0, 2, 5], Some(vec![1, 2]), Band::DENSE), ["10000", "00110", "00110"]);
    assert_pattern(of(&[0, 1, 3], &[0, 2, 5], None, Band::offset(0)), ["10000", "00100", "00110"]);
    // Sequences without keys and without queries; queries and keys of no sequence.
    assert_pattern(of(&[0, 1, 1, 2], &[0, 0, 2, 3], None, Band::DENSE), ["000", "001"]);
    assert_pattern(of(&[1, 2], &[1, 3], None, Band::DENSE), ["0000", "0110", "0000"]);
}

#[test]
fn a_mask_says_element_by_element() {
    let drawn = ["10100", "01010", "00000"];
    assert_pattern(Pattern { mask: bools(&drawn, [1, 1]), ..Pattern::default() }, drawn);
    assert_pattern(Pattern { mask: bools(&["101"], [1, 1]), ..Pattern::default() }, ["101", "101"]);
    assert_pattern(Pattern { mask: bools(&["1", "0"], [1, 1]), ..Pattern::default() }, ["111", "000"]);
    let causal = Pattern { mask: bools(&["0110", "1011"], [1, 1]), band: Band::offset(1), ..Pattern::default() };
    assert_pattern(causal, ["0100", "1010"]);
}

#[test]
fn bits_count_from_the_lowest() {
    let mask = bits(&[[0b0000_0101, 0b1111_1110], [0b1000_0000, 0b0000_0001]], [1, 1]);
    assert_pattern(Pattern { mask, ..Pattern::default() }, ["101000000", "000000011"]);
}

#[test]
fn an_element_may_speak_for_a_block() {
    let blocks = |drawn: &[&str], block| Pattern { block_mask: bools(drawn, block), ..Pattern::default() };
    assert_pattern(blocks(&["10", "01"], [2, 2]), ["1100", "1100", "0011", "0011"]);
    // The last ones are cut.
    assert_pattern(blocks(&["10", "01"], [2, 3]), ["11100", "11100", "00011"]);
    assert_pattern(blocks(&["1"], [100, 100]), ["11", "11"]);
    let mask = bits(&[[0b10], [0b01]], [1, 2]);
    assert_pattern(Pattern { mask, ..Pattern::default() }, ["001", "110"]);
    // Blocks count from the first query and key of all, not of a sequence.
    let packed = Some([vec![1, 3], vec![1, 4]]);
    assert_pattern(Pattern { packed, ..blocks(&["10", "01"], [2, 2]) }, ["0000", "0100", "0011"]);
}

#[test]
fn masks_combine() {
    let pattern = Pattern {
        band: Band::CAUSAL,
        mask: bools(&["1011", "1101", "0111", "1110"], [1, 1]),
        block_mask: bools(&["10", "11"], [2, 2]),
        ..Pattern::default()
    };
    assert_pattern(pattern, ["1000", "1100", "0110", "1110"]);
}

#[test]
fn a_mask_may_be_a_rule() {
    let rule = |kind| Pattern { rule: Some(MaskRule::new(kind)), ..Pattern::default() };
    assert_pattern(rule(MaskKind::Parity), ["1010", "0101", "1010"]);
    assert_pattern(rule(MaskKind::Nothing), ["00", "00"]);
    // Query and key are counted from the beginning of their sequence, the second of which is odd.
    let packed = Some([vec![0, 1, 3], vec![0, 2, 4]]);
    assert_pattern(Pattern { packed, ..rule(MaskKind::Parity) }, ["1000", "0001", "0010"]);
}

/// A bias for each score of one head.
fn bias<const K: usize>(rows: &[[f32; K]]) -> Option<Tensor<f32>> {
    let shape = Shape { batch: 1, heads: 1, len: rows.len(), dim: K };
    Some(Tensor { data: rows.concat(), shape, strides: Layout::HeadsFirst.strides(shape) })
}

const MASKED: f32 = f32::NEG_INFINITY;

#[test]
fn a_bias_of_minus_infinity_masks() {
    assert_sees(["101", "010", "000"], |case| {
        case.modifiers.bias = bias(&[[0.0, MASKED, 1.0], [MASKED, -5.0, MASKED], [MASKED; 3]]);
    });
    assert_sees(["000", "111"], |case| case.modifiers.bias = bias(&[[MASKED], [0.0]]));
    // Whatever becomes of scores.
    assert_sees(["01"], |case| {
        case.modifiers.bias = bias(&[[MASKED, 0.0]]);
        case.modifiers.rule = Some(ScoreRule::new(ScoreKind::Clamped));
    });
}

/// Whatever else becomes of the score.
#[test]
fn a_bias_masks_scores_beyond_the_range_of_f32() {
    let far = |slope| {
        Plan::new([1, 3], [1, 1]).case().with(|case| {
            case.q.data = vec![1.0];
            case.k.data = vec![1.0, 1.0, 0.0];
            case.v.data = vec![1.0, 2.0, 3.0];
            case.modifiers.alibi_slopes = Some(vec![slope]);
            case.modifiers.bias = bias(&[[MASKED, MASKED, 0.0]]);
        })
    };
    for slope in [2e38, -2e38] {
        assert_rows(&far(slope), &[[3.0]]);
        assert_lse(&far(slope), &[0.0]);
    }
}

/// The weight of a key whose score is that much larger than the other one's.
fn share(difference: f64) -> f64 {
    1.0 / (1.0 + (-difference).exp())
}

/// Two queries, two keys; the value of the first is 1, that of the second 0, the scores are 0.
fn level() -> Case {
    case(&[[0.0], [0.0]], &[[1.0], [1.0]], &[[1.0], [0.0]])
}

#[test]
fn a_bias_is_added_to_scores() {
    let of = |rows| level().with(|case| case.modifiers.bias = rows);
    assert_rows(&of(bias(&[[1.0, 0.0], [0.0, 2.0]])), &[[share(1.0)], [share(-2.0)]]);
    assert_lse(&of(bias(&[[1.0, 0.0], [0.0, 2.0]])), &[1f64.exp().ln_1p(), 2f64.exp().ln_1p()]);
    assert_rows(&of(bias(&[[1.0, 0.0]])), &[[share(1.0)], [share(1.0)]]);
    assert_rows(&of(bias(&[[3.0], [-1.0]])), &[[0.5], [0.5]]);
    assert_lse(&of(bias(&[[3.0], [-1.0]])), &[3.0 + LN_2, -1.0 + LN_2]);
    // The most negative numbers outweigh everything, but not each other.
    assert_rows(&of(bias(&[[f32::MIN, 0.0], [f32::MIN, f32::MIN]])), &[[0.0], [0.5]]);
}

#[test]
fn a_softcap_bends_scores() {
    let case = case(&[[1.0], [-1.0]], &[[30.0], [0.0]], &[[1.0], [0.0]]);
    let capped = case.with(|case| case.modifiers.softcap = Some(20.0));
    assert_rows(&capped, &[[share(20.0 * 1.5f64.tanh())], [share(-20.0 * 1.5f64.tanh())]]);
    // Before biases are added.
    let biased = capped.with(|case| case.modifiers.bias = bias(&[[0.0, 100.0]]));
    assert_rows(&biased, &[[share(20.0 * 1.5f64.tanh() - 100.0)], [share(-20.0 * 1.5f64.tanh() - 100.0)]]);
}

#[test]
fn alibi_is_a_slope_times_the_distance() {
    let of = |q_len, kv_len, slope| {
        let case = Plan { scale: Some(0.0), ..Plan::new([q_len, kv_len], [1, 1]) }.case();
        case.with(|case| case.modifiers.alibi_slopes = Some(vec![slope]))
    };
    assert_scores(&of(2, 4, 1.0), Stage::Masked, &[[-2.0, -1.0, 0.0, -1.0], [-3.0, -2.0, -1.0, 0.0]]);
    assert_scores(&of(3, 2, 0.5), Stage::Masked, &[[-0.5, -1.0], [0.0, -0.5], [-0.5, 0.0]]);
    assert_scores(&of(1, 3, -2.0), Stage::Masked, &[[4.0, 2.0, 0.0]]);
    let top_left = of(2, 3, 1.0).with(|case| case.pattern.band.offset = Some(0));
    assert_scores(&top_left, Stage::Masked, &[[0.0, -1.0, -2.0], [-1.0, 0.0, -1.0]]);
    // From the last key there is.
    let short = of(1, 3, 1.0).with(|case| case.pattern.lens = Some(vec![2]));
    assert_scores(&short, Stage::Masked, &[[-1.0, 0.0, f64::NEG_INFINITY]]);
}

#[test]
fn each_head_has_its_slope_and_its_sink() {
    let case = Plan { q_heads: 2, scale: Some(0.0), ..Plan::new([1, 2], [1, 1]) }.case();
    let case = case.with(|case| {
        case.v.data = vec![1.0, 0.0];
        case.modifiers.alibi_slopes = Some(vec![1.0, 3.0]);
        case.modifiers.sinks = Some(vec![MASKED, 0.0]);
    });
    let weight = |score: f64| score.exp() / (score.exp() + 1.0 + 1.0);
    assert_rows(&case, &[[share(-1.0)], [weight(-3.0)]]);
}

#[test]
fn a_sink_takes_weight() {
    let of = |sink| level().with(|case| case.modifiers.sinks = Some(vec![sink]));
    assert_rows(&of(0.0), &[[1.0 / 3.0]; 2]);
    assert_lse(&of(0.0), &[3f64.ln(); 2]);
    assert_rows(&of(1000.0), &[[0.0]; 2]);
    assert_rows(&of(MASKED), &[[0.5]; 2]);
    assert_lse(&of(MASKED), &[LN_2; 2]);
    assert_scores(&of(0.0), Stage::Weights, &[[1.0 / 3.0; 2]; 2]);
    // Alone, it is all that the log-sum-exp knows of.
    let alone = of(2.5).with(|case| case.pattern.band = Band::offset(-1));
    assert_rows(&alone, &[[0.0], [1.0 / (1.0 + 2.5f64.exp())]]);
    assert_lse(&alone, &[2.5, 2.5f64.exp().ln_1p()]);
}

#[test]
fn a_rule_changes_scores_in_the_end() {
    let case = case(&[[1.0]], &[[2.0], [0.0]], &[[1.0], [0.0]]);
    let halved = case.with(|case| case.modifiers.rule = Some(ScoreRule::new(ScoreKind::Halved)));
    assert_rows(&halved, &[[share(1.0)]]);
    let biased = halved.clone().with(|case| case.modifiers.bias = bias(&[[4.0, 0.0]]));
    assert_rows(&biased, &[[share(3.0)]]);
    let clamped = biased.with(|case| case.modifiers.rule = Some(ScoreRule::new(ScoreKind::Clamped)));
    assert_scores(&clamped, Stage::Masked, &[[1.0, 0.0]]);
}

#[test]
fn the_four_stages_of_scores() {
    let nothing = f64::NEG_INFINITY;
    let case = case(&[[2.0]], &[[1.0], [3.0], [5.0], [7.0]], &[[0.0]; 4]).with(|case| {
        case.modifiers.softcap = Some(4.0);
        case.modifiers.bias = bias(&[[1.0, 0.0, MASKED, 0.0]]);
        case.pattern.lens = Some(vec![3]);
    });
    let capped = [0.5, 1.5, 2.5, 3.5].map(|x: f64| 4.0 * x.tanh());
    // Masked keys have scores until they are masked, and so have those there is only room for.
    assert_scores(&case, Stage::Scaled, &[[2.0, 6.0, 10.0, 14.0]]);
    assert_scores(&case, Stage::Capped, &[capped]);
    assert_scores(&case, Stage::Masked, &[[capped[0] + 1.0, capped[1], nothing, nothing]]);
    let weight = share(capped[0] + 1.0 - capped[1]);
    assert_scores(&case, Stage::Weights, &[[weight, 1.0 - weight, 0.0, 0.0]]);
}

#[test]
fn scores_of_packed_sequences_are_their_own() {
    let nothing = f64::NEG_INFINITY;
    let case = case(&[[1.0], [2.0]], &[[1.0], [3.0], [5.0]], &[[0.0]; 3])
        .with(|case| case.pattern.packed = Some([vec![0, 1, 2], vec![0, 1, 3]]));
    assert_scores(&case, Stage::Scaled, &[[1.0, nothing, nothing], [nothing, 6.0, 10.0]]);
    assert_scores(&case, Stage::Masked, &[[1.0, nothing, nothing], [nothing, 6.0, 10.0]]);
    assert_scores(&case, Stage::Weights, &[[1.0, 0.0, 0.0], [0.0, share(-4.0), share(4.0)]]);
}

#[test]
fn neighbouring_query_heads_share_a_kv_head() {
    // One key each, so that each head's output is its KV head's value: the number of sequence and KV head.
    let mut case = Plan { batch: 2, q_heads: 6, kv_heads: 3, ..Plan::new([1, 1], [1, 1]) }.case();
    case.v.data = vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
    for (by, _, answer) in answers(&case) {
        assert_eq!(answer.out.data, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 10.0, 10.0, 11.0, 11.0, 12.0, 12.0], "{by}");
    }
}

#[test]
fn each_sequence_and_head_has_its_own_queries_and_keys() {
    // Each head's query and first key are its number's root, the second key is zero, the values 1 and 0.
    let mut case = Plan { batch: 2, q_heads: 2, kv_heads: 2, scale: Some(1.0), ..Plan::new([1, 2], [1, 1]) }.case();
    case.q.data = vec![0.0, 1.0, 2.0, 3.0];
    case.k.data = vec![0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0];
    case.v.data = [1.0, 0.0].repeat(4);
    let scores = [0.0, 1.0, 4.0, 9.0];
    for (by, error, answer) in answers(&case) {
        assert_close(&by, &answer.out.data, &scores.map(|s: f64| 1.0 / (1.0 + (-s).exp())), error);
        assert_close(&by, &answer.lse, &scores.map(|s: f64| s.exp().ln_1p()), error);
    }
}

#[test]
fn layouts_name_the_same_elements() {
    // [batch, heads, len, dim] = [1, 2, 2, 1]: values 1, 2 of head 0 and 3, 4 of head 1.
    let mut case = Plan { q_heads: 2, kv_heads: 2, ..Plan::new([1, 2], [1, 1]) }.case();
    case.q.data.fill(0.0);
    case.v.data = vec![1.0, 2.0, 3.0, 4.0];
    let expected = [1.5, 3.5];
    for (layout, data) in [
        (Layout::HeadsFirst, &[1.0, 2.0, 3.0, 4.0][..]),
        (Layout::TokensFirst, &[1.0, 3.0, 2.0, 4.0]),
        (Layout::Fused, &[1.0, 3.0, -1.0, -1.0, -1.0, -1.0, 2.0, 4.0]),
        (Layout::Padded(1), &[1.0, -1.0, 2.0, -1.0, -1.0, -1.0, 3.0, -1.0, 4.0]),
    ] {
        let v = Tensor { data: data.to_vec(), strides: layout.strides(case.v.shape), shape: case.v.shape };
        let case = Case { v, ..case.clone() };
        for (by, error, answer) in answers(&case) {
            assert_close(&by, &answer.out.data, &expected, error);
        }
    }
}

#[test]
fn no_key_left_gives_zeros() {
    let no_keys = Case {
        v: Tensor::filled(Shape { batch: 1, heads: 1, len: 0, dim: 2 }, Layout::HeadsFirst, 0.0),
        ..case(&[[1.0]], &[], &[[0.0; 2]])
    };
    let masked = case(&[[1.0]], &[[1.0]], &[[5.0, 6.0]]).with(|case| case.pattern.band = Band::offset(-1));
    for case in [no_keys, masked] {
        for (by, _, answer) in answers(&case) {
            assert_eq!(answer.out.data, [0.0, 0.0], "{by}");
            assert_eq!(answer.lse, [f64::NEG_INFINITY], "{by}");
        }
    }
}

#[test]
fn the_reference_refuses_what_a_backend_refuses() {
    let wrong = case(&[[1.0]], &[[1.0]], &[[1.0]]).with(|case| case.modifiers.scale = Some(f64::NAN));
    assert!(matches!(wrong.try_reference(), Err(Error::ScaleNotFinite { .. })));

    let right = case(&[[1.0]], &[[1.0]], &[[1.0]]);
    let forward = |lse: &mut [f64]| {
        let mut out = [0.0; 1];
        reference::forward(
            &Attention::new(),
            right.q.view()?,
            right.kv()?,
            Output::new(ViewMut::matrix(&mut out, [1, 1])?).lse(lse),
        )
    };
    assert_eq!(
        forward(&mut [0.0; 2]),
        Err(Error::LengthMismatch { operand: Operand::LogSumExp, expected: 1, actual: 2 })
    );
    assert_eq!(forward(&mut [0.0; 1]), Ok(()));
}

/// The worked example of "Illustrated: Self-Attention" (Raimi Karim, 2019): three inputs and the weights that make queries, keys
/// and values of them.
mod worked_example {
    use super::*;

    type Matrix<const R: usize> = [[f32; 3]; R];

    const INPUTS: [[f32; 4]; 3] = [[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]];
    const KEY_WEIGHTS: Matrix<4> = [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]];
    const QUERY_WEIGHTS: Matrix<4> = [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]];
    const VALUE_WEIGHTS: Matrix<4> = [[0.0, 2.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 3.0], [1.0, 1.0, 0.0]];

    fn project(weights: Matrix<4>) -> Matrix<3> {
        INPUTS.map(|x| core::array::from_fn(|c| (0..4).map(|t| x[t] * weights[t][c]).sum()))
    }

    fn example() -> Case {
        case(&project(QUERY_WEIGHTS), &project(KEY_WEIGHTS), &project(VALUE_WEIGHTS))
    }

    /// The weights themselves: the output where the values are one-hot.
    fn weights() -> Case {
        case(&project(QUERY_WEIGHTS), &project(KEY_WEIGHTS), &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    }

    #[test]
    fn projections() {
        assert_eq!(project(KEY_WEIGHTS), [[0.0, 1.0, 1.0], [4.0, 4.0, 0.0], [2.0, 3.0, 1.0]]);
        assert_eq!(project(QUERY_WEIGHTS), [[1.0, 0.0, 2.0], [2.0, 2.0, 2.0], [2.0, 1.0, 3.0]]);
        assert_eq!(project(VALUE_WEIGHTS), [[1.0, 2.0, 3.0], [2.0, 8.0, 0.0], [2.0, 6.0, 3.0]]);
    }

    #[test]
    fn scores_of_the_first_query() {
        for (by, error, Answer { out, lse, .. }) in answers(&weights()) {
            // A weight is e^(score - lse).
            let scores: Vec<f64> = out.row([0, 0, 0]).iter().map(|weight| weight.ln() + lse[0]).collect();
            assert_close(&by, &scores, &[2.0, 4.0, 4.0], 4.0 * error);
        }
    }

    /// The document rounds the weights to one digit (the first of 0.06, 0.47, 0.47 to none, so that they sum up to one).
    const ROUNDED_WEIGHTS: [[f64; 3]; 3] = [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]];
    /// And has these outputs.
    const ROUNDED_OUTPUTS: [[f64; 3]; 3] = [[2.0, 7.0, 1.5], [2.0, 8.0, 0.0], [2.0, 7.8, 0.3]];

    #[test]
    fn outputs_are_close_to_those_of_rounded_weights() {
        for (by, _, answer) in answers(&weights()) {
            assert_close(&by, &answer.out.data, &ROUNDED_WEIGHTS.concat(), 0.07);
        }
        for (by, _, answer) in answers(&example()) {
            for (actual, rounded) in answer.out.data.iter().zip(ROUNDED_OUTPUTS.concat()) {
                assert!((actual - rounded).abs() < 0.33, "{by}: {:?}", answer.out.data);
            }
        }
    }

    #[test]
    fn rounded_weights_give_the_documents_outputs() {
        let values = project(VALUE_WEIGHTS).map(|row| row.map(f64::from));
        let output = |i: usize, c: usize| (0..3).map(|j| ROUNDED_WEIGHTS[i][j] * values[j][c]).sum();
        let outputs: Vec<f64> = (0..9).map(|n| output(n / 3, n % 3)).collect();
        assert_close("by hand", &outputs, &ROUNDED_OUTPUTS.concat(), 1e-15);
    }

    #[test]
    fn outputs() {
        // Worked out with 30 decimal digits: the weights are proportional to e^-2, 1, 1; e^-12, 1, e^-4; e^-8, 1, e^-2.
        assert_rows(
            &example(),
            &[
                [1.936_621_061_666_962_3, 6.683_105_308_334_812, 1.595_068_407_499_556_4],
                [1.999_993_966_335_145_4, 7.963_991_595_132_215_3, 0.053_976_405_312_549_6],
                [1.999_704_612_776_965_4, 7.759_892_254_657_785, 0.358_389_294_675_115_2],
            ],
        );
        assert_lse(&example(), &[4.758_623_675_679_513, 16.018_155_961_600_866, 12.127_223_441_901_405]);
    }
}
