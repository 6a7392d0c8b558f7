//! Few queries with many keys, range by range: the way to share one head out over threads.
//!
//! Ranges have a fixed size and are joined in order, so that nobody can tell from the result how many threads there were.

use core::f32::consts::LN_2;

use crate::{floats::FloatRowsMut, view::RowsMut};

/// Keys of a range: whole tiles on every backend.
pub(crate) const RANGE: usize = 1920;

/// Of each query the outputs, then the largest score in base 2 and the sum of the exponentials with respect to it.
const STATE: usize = 2;

/// Results over some of the keys, a row for each query.
pub(crate) struct Partial<'s> {
    outputs: RowsMut<'s, f32>,
    states: RowsMut<'s, f32>,
}

impl<'s> Partial<'s> {
    /// Elements that those of so many queries take.
    pub(crate) const fn len(queries: usize, dim: usize) -> usize {
        dim.saturating_add(STATE).saturating_mul(queries)
    }

    /// Of so many queries, of which there are some; `None` if there is not room for all.
    pub(crate) fn new(room: &'s mut [f32], queries: usize, dim: usize) -> Option<Self> {
        let (outputs, rest) = room.split_at_mut_checked(queries.checked_mul(dim)?)?;
        let states = rest.get_mut(..queries * STATE)?;
        Some(Self { outputs: RowsMut::of(outputs, dim)?, states: RowsMut::of(states, STATE)? })
    }

    /// Outputs and states.
    pub(crate) const fn rows_mut(&mut self) -> (FloatRowsMut<'_>, RowsMut<'_, f32>) {
        (FloatRowsMut::F32(self.outputs.reborrow()), self.states.reborrow())
    }

    /// Adds the result over other keys.
    pub(crate) fn join(&mut self, other: &Partial<'_>) {
        for i in 0..self.outputs.len() {
            if let (Some(state), Some(other_state)) =
                (self.states.row_mut(i).first_chunk_mut(), other.states.row(i).first_chunk())
            {
                join_row((self.outputs.row_mut(i), state), (other.outputs.row(i), other_state));
            }
        }
    }

    /// Writes the outputs, and the log-sum-exps, if they are asked for.
    pub(crate) fn store(&self, to: &mut FloatRowsMut<'_>, mut lse: Option<RowsMut<'_, f32>>) {
        for i in 0..self.outputs.len() {
            to.write(i, self.outputs.row(i));
            if let (Some([lse]), [max, sum]) = (lse.as_mut().map(|lse| lse.row_mut(i)), self.states.row(i)) {
                *lse = log_sum_exp(*max, *sum);
            }
        }
    }
}

/// Of a softmax in base 2, a natural logarithm.
pub(crate) fn log_sum_exp(max: f32, sum: f32) -> f32 {
    max * LN_2 + libm::logf(sum)
}

fn join_row((out, state): (&mut [f32], &mut [f32; STATE]), (other, &[other_max, other_sum]): (&[f32], &[f32; STATE])) {
    let [max, sum] = *state;
    if other_sum == 0.0 {
        return;
    }
    if sum == 0.0 {
        out.iter_mut().zip(other).for_each(|(out, x)| *out = *x);
        *state = [other_max, other_sum];
        return;
    }
    let larger = if max < other_max { other_max } else { max };
    let weight = |max: f32, sum: f32| libm::exp2f(max - larger) * sum;
    let [own, others] = [weight(max, sum), weight(other_max, other_sum)];
    let total = own + others;
    let [own, others] = [own / total, others / total];
    for (out, x) in out.iter_mut().zip(other) {
        *out = *out * own + x * others;
    }
    *state = [larger, total];
}
