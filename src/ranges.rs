//! Few queries with many keys, range by range: the way to share one head out over threads.
//!
//! Ranges have a fixed size and are joined in order, so that nobody can tell from the result how many threads there were.

use core::f64::consts::LN_2;

use crate::{floats::FloatRowsMut, scalar::Scalar, view::RowsMut};

/// Keys of a range: whole tiles on every backend.
pub(crate) const RANGE: usize = 1920;

/// Of each query the outputs, then the largest score in base 2 and the sum of the exponentials with respect to it.
const STATE: usize = 2;

/// Results over some of the keys, a row for each query.
pub(crate) struct Partial<'s, E> {
    outputs: RowsMut<'s, E>,
    states: RowsMut<'s, E>,
}

impl<'s, E: Scalar> Partial<'s, E> {
    /// Elements that those of so many queries take.
    pub(crate) const fn len(queries: usize, dim: usize) -> usize {
        dim.saturating_add(STATE).saturating_mul(queries)
    }

    /// Of so many queries, of which there are some; `None` if there is not room for all.
    pub(crate) fn new(room: &'s mut [E], queries: usize, dim: usize) -> Option<Self> {
        let (outputs, rest) = room.split_at_mut_checked(queries.checked_mul(dim)?)?;
        let states = rest.get_mut(..queries * STATE)?;
        Some(Self { outputs: RowsMut::of(outputs, dim)?, states: RowsMut::of(states, STATE)? })
    }

    /// Outputs and states.
    pub(crate) const fn rows_mut(&mut self) -> (FloatRowsMut<'_, E>, RowsMut<'_, E>) {
        (FloatRowsMut::Scalars(self.outputs.reborrow()), self.states.reborrow())
    }

    /// Adds the result over other keys.
    pub(crate) fn join(&mut self, other: &Self) {
        for i in 0..self.outputs.len() {
            if let (Some(state), Some(other_state)) =
                (self.states.row_mut(i).first_chunk_mut(), other.states.row(i).first_chunk())
            {
                join_row((self.outputs.row_mut(i), state), (other.outputs.row(i), other_state));
            }
        }
    }

    /// Writes the outputs, and the log-sum-exps, if they are asked for.
    pub(crate) fn store(&self, to: &mut FloatRowsMut<'_, E>, mut lse: Option<RowsMut<'_, E>>) {
        for i in 0..self.outputs.len() {
            to.write(i, self.outputs.row(i));
            if let (Some([lse]), [max, sum]) = (lse.as_mut().map(|lse| lse.row_mut(i)), self.states.row(i)) {
                *lse = log_sum_exp(*max, *sum);
            }
        }
    }
}

/// Of a softmax in base 2, a natural logarithm.
pub(crate) fn log_sum_exp<E: Scalar>(max: E, sum: E) -> E {
    max * E::from_f64(LN_2) + sum.ln()
}

fn join_row<E: Scalar>(
    (out, state): (&mut [E], &mut [E; STATE]),
    (other, &[other_max, other_sum]): (&[E], &[E; STATE]),
) {
    let [max, sum] = *state;
    if other_sum == E::ZERO {
        return;
    }
    if sum == E::ZERO {
        out.iter_mut().zip(other).for_each(|(out, x)| *out = *x);
        *state = [other_max, other_sum];
        return;
    }
    let larger = if max < other_max { other_max } else { max };
    let weight = |max: E, sum: E| (max - larger).exp2() * sum;
    let [own, others] = [weight(max, sum), weight(other_max, other_sum)];
    let total = own + others;
    let [own, others] = [own / total, others / total];
    for (out, x) in out.iter_mut().zip(other) {
        *out = *out * own + *x * others;
    }
    *state = [larger, total];
}
