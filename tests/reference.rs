//! The oracle on cases worked by hand, before anything is held to it; and each backend on the same cases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Answer, Band, Case, Layout, Plan, Tensor};
use core::f64::consts::LN_2;
use simd_attention::{Attention, Backend, Error, Operand, Output, Shape, ViewMut, reference};

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
    let backends = Backend::available().map(|backend| {
        let Answer { out, lse, .. } = case.run(backend);
        let out =
            Tensor { data: out.data.into_iter().map(f64::from).collect(), shape: out.shape, strides: out.strides };
        (backend.to_string(), 1e-6, Answer { out, lse: lse.into_iter().map(f64::from).collect(), scores: None })
    });
    [reference].into_iter().chain(backends).collect()
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
fn grids(q_len: usize, kv_len: usize, band: Band) -> Vec<(String, Vec<String>)> {
    let mut case = Plan { band, ..Plan::new([q_len, kv_len], [1, kv_len]) }.case();
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
fn assert_grid<const Q: usize>(band: Band, expected: [&str; Q]) {
    for (by, grid) in grids(Q, expected[0].len(), band) {
        assert_eq!(grid, expected, "{by}");
    }
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
    let wrong = case(&[[1.0]], &[[1.0]], &[[1.0]]).with(|case| case.modifiers.scale = Some(f32::NAN));
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
