//! The tutorial's numbers, and all that follows from them by calls of the crate.

use simd_attention::{Attention, Error, Kv, Linear, Output, Shape, Stage, Strides, View, ViewMut, scratch_len};

/// A row for each input, and three columns.
pub type Matrix = [[f32; 3]; 3];

pub const INPUTS: [[f32; 4]; 3] = [[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]];
pub const KEY_WEIGHTS: [[f32; 3]; 4] = [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]];
pub const QUERY_WEIGHTS: [[f32; 3]; 4] = [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]];
pub const VALUE_WEIGHTS: [[f32; 3]; 4] = [[0.0, 2.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 3.0], [1.0, 1.0, 0.0]];

/// The softmax as the tutorial writes it; 0.063 is not rounded to 0.1, which would make the first row sum up to 1.1.
pub const ROUNDED_WEIGHTS: Matrix = [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]];

/// What is computed on the way to the outputs.
pub struct Steps {
    pub keys: Matrix,
    pub queries: Matrix,
    pub values: Matrix,
    pub scores: Matrix,
    pub weights: Matrix,
    /// `[query][key]`
    pub weighted_values: [Matrix; 3],
    pub outputs: Matrix,
    /// Of the rounded weights.
    pub rounded_outputs: Matrix,
}

impl Steps {
    pub fn compute() -> Result<Self, Error> {
        let (keys, queries, values) = (project(KEY_WEIGHTS)?, project(QUERY_WEIGHTS)?, project(VALUE_WEIGHTS)?);
        let (_, scores) = attend(&queries, &keys, &values, Stage::Scaled)?;
        let (outputs, weights) = attend(&queries, &keys, &values, Stage::Weights)?;
        Ok(Self {
            keys,
            queries,
            values,
            scores,
            weights,
            weighted_values: weigh(&weights, &values)?,
            outputs,
            rounded_outputs: multiply(&ROUNDED_WEIGHTS, values)?,
        })
    }
}

fn project(weights: [[f32; 3]; 4]) -> Result<Matrix, Error> {
    multiply(&INPUTS, weights)
}

/// `x w`. A linear layer computes `x W'`, so that `W` is `w` transposed.
fn multiply<const N: usize>(x: &[[f32; N]; 3], w: [[f32; 3]; N]) -> Result<Matrix, Error> {
    let transposed: [[f32; N]; 3] = core::array::from_fn(|i| w.map(|row| row[i]));
    let mut product = Matrix::default();
    Linear::new(View::matrix(transposed.as_flattened(), [3, N])?).forward(
        View::matrix(x.as_flattened(), [3, N])?,
        ViewMut::matrix(product.as_flattened_mut(), [3, 3])?,
        &mut vec![0.0; scratch_len(N, 0)],
    )?;
    Ok(product)
}

/// The outputs, and the scores at some stage. A scale of 1 leaves the dot products as they are.
fn attend(queries: &Matrix, keys: &Matrix, values: &Matrix, stage: Stage) -> Result<(Matrix, Matrix), Error> {
    let (mut outputs, mut scores) = (Matrix::default(), Matrix::default());
    Attention::new().scale(1.0).forward(
        View::matrix(queries.as_flattened(), [3, 3])?,
        Kv::new(View::matrix(keys.as_flattened(), [3, 3])?, View::matrix(values.as_flattened(), [3, 3])?)?,
        Output::new(ViewMut::matrix(outputs.as_flattened_mut(), [3, 3])?)
            .scores(stage, ViewMut::matrix(scores.as_flattened_mut(), [3, 3])?),
        &mut [0.0; scratch_len(3, 3)],
    )?;
    Ok((outputs, scores))
}

/// Each value times its weight: a linear layer for each key, from its weight, one for each query, to its weighted value.
///
/// An attention call never holds these; they are computed here to be looked at.
fn weigh(weights: &Matrix, values: &Matrix) -> Result<[Matrix; 3], Error> {
    let mut weighted = [Matrix::default(); 3];
    // The keys take the place of heads; what belongs to one is found in every row, hence the strides.
    let shape = Shape { batch: 1, heads: 3, len: 3, dim: 1 };
    Linear::new(View::heads_first(values.as_flattened(), [1, 3, 3, 1])?).forward(
        View::strided(weights.as_flattened(), shape, Strides { batch: 0, heads: 1, len: 3 })?,
        ViewMut::strided(
            weighted.as_flattened_mut().as_flattened_mut(),
            Shape { dim: 3, ..shape },
            Strides { batch: 0, heads: 3, len: 9 },
        )?,
        &mut [0.0; scratch_len(1, 0)],
    )?;
    Ok(weighted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (&actual, expected) in actual.iter().zip(expected) {
            assert!((f64::from(actual) - expected).abs() < 1e-6, "{actual} {expected}");
        }
    }

    #[test]
    fn whole_numbers_are_exact() -> Result<(), Error> {
        let steps = Steps::compute()?;
        assert_eq!(steps.keys, [[0.0, 1.0, 1.0], [4.0, 4.0, 0.0], [2.0, 3.0, 1.0]]);
        assert_eq!(steps.queries, [[1.0, 0.0, 2.0], [2.0, 2.0, 2.0], [2.0, 1.0, 3.0]]);
        assert_eq!(steps.values, [[1.0, 2.0, 3.0], [2.0, 8.0, 0.0], [2.0, 6.0, 3.0]]);
        assert_eq!(steps.scores, [[2.0, 4.0, 4.0], [4.0, 16.0, 12.0], [4.0, 12.0, 10.0]]);
        Ok(())
    }

    #[test]
    fn weights_and_outputs_are_those_worked_out_by_hand() -> Result<(), Error> {
        let steps = Steps::compute()?;
        // A softmax is unchanged when the largest score is taken off all: 2 4 4, 4 16 12 and 4 12 10 become these.
        for (i, scores) in [[-2f64, 0.0, 0.0], [-12.0, 0.0, -4.0], [-8.0, 0.0, -2.0]].into_iter().enumerate() {
            let sum: f64 = scores.map(f64::exp).iter().sum();
            let [a, b, c] = scores.map(|score| score.exp() / sum);
            assert_close(&steps.weights[i], &[a, b, c]);
            let weighted = [[a, 2.0 * a, 3.0 * a], [2.0 * b, 8.0 * b, 0.0], [2.0 * c, 6.0 * c, 3.0 * c]];
            assert_close(steps.weighted_values[i].as_flattened(), weighted.as_flattened());
            assert_close(&steps.outputs[i], &[a + 2.0 * b + 2.0 * c, 2.0 * a + 8.0 * b + 6.0 * c, 3.0 * (a + c)]);
        }
        Ok(())
    }

    #[test]
    fn rounded_weights_are_near_and_give_the_outputs_of_the_tutorial() -> Result<(), Error> {
        let steps = Steps::compute()?;
        for (rounded, weight) in ROUNDED_WEIGHTS.as_flattened().iter().zip(steps.weights.as_flattened()) {
            assert!((rounded - weight).abs() < 0.1, "{rounded} {weight}");
        }
        assert_close(steps.rounded_outputs.as_flattened(), &[2.0, 7.0, 1.5, 2.0, 8.0, 0.0, 2.0, 7.8, 0.3]);
        Ok(())
    }
}
