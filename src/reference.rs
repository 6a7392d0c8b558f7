//! The formula, naively, in f64: the oracle that the kernels are held to.

use crate::{
    Attention, Element, Error, Float, Kv, Output, Position, Score, Stage, View,
    floats::FloatRow,
    scalar::Scalar,
    score::{function::Form, projection::HeadProjection},
    store::Strips,
    validate::{Call, Sequence},
};

/// What [`Attention::forward`] computes, in f64 (a caller's own modification excepted, which is of f32).
///
/// A query with no key left, or none whose score is above `-inf`, gives zeros and a log-sum-exp of `-inf`, if there is no sink.
///
/// Each score is computed three times instead of stored: `O(3 * head_dim + value_dim)` for each query-key pair.
///
/// # Errors
///
/// Those of [`Attention::prepare`] but for the backend, which does not matter here.
pub fn forward<'a, F: Score, Q: Float, T: Element<Sum = Q::Sum>>(
    attention: &Attention<'a, F>,
    q: View<'a, Q>,
    kv: Kv<'a, T>,
    out: impl Into<Output<'a, f64>>,
) -> Result<(), Error> {
    let mut out = out.into();
    let Attention { config, score } = attention;
    let kv = kv.cache();
    let call = Call::new(config, Form::new(score, kv.shape()), Q::view(q), kv, &out)?;
    let sequences = if q.shape().has_no_rows() { 0 } else { call.sequences() };
    for index in 0..sequences {
        let sequence = call.sequence(index);
        for head in 0..q.shape().heads {
            let (call, function, sequence, key_dim) = (&call, score, &sequence, call.kv.shape().dim);
            let kv_len = sequence.room.start.saturating_add(sequence.kv_len);
            let kv = call.kv.head(sequence.batch, head / call.group, kv_len);
            let projection = score.projection().and_then(|of| of.head(q.shape(), key_dim, sequence.batch, head));
            for i in 0..sequence.queries.len() {
                let query = call.queries.row(sequence.batch, head, sequence.queries.start + i);
                Row { call, function, sequence, query, kv, projection, head, i }.forward(&mut out);
            }
        }
    }
    Ok(())
}

/// One query of one head.
struct Row<'r, 'a, F, E> {
    call: &'r Call<'a, E>,
    function: &'r F,
    sequence: &'r Sequence,
    query: FloatRow<'a, E>,
    /// Keys and values, if there are any.
    kv: Option<[Strips<'a, E>; 2]>,
    /// Of queries, if there is one.
    projection: Option<HeadProjection<'r>>,
    head: usize,
    i: usize,
}

impl<'a, F: Score, E: Scalar> Row<'_, 'a, F, E> {
    fn forward(&self, out: &mut Output<'_, f64>) {
        let Self { call, sequence, head, .. } = *self;
        let (batch, row, heads) = (sequence.batch, sequence.queries.start + self.i, call.queries.shape());
        let (max, sum) = self.max_and_sum();

        let result = out.values.row_mut(batch, head, row);
        result.fill(0.0);
        let attended = if max == f64::NEG_INFINITY { 0 } else { sequence.kv_len };
        for j in (0..attended).filter(|j| self.sees(*j)) {
            let weight = weight(self.score(j), max, sum);
            let value = self.kv.map(|[_, values]| values.row(sequence.room.start + j));
            for (c, out) in result.iter_mut().enumerate() {
                *out += weight * value.map_or(0.0, |value| value.at(c));
            }
        }

        let index = (batch * heads.heads + head) * heads.len + row;
        if let Some(lse) = out.lse.as_deref_mut().and_then(|lse| lse.get_mut(index)) {
            *lse = if max == f64::NEG_INFINITY { max } else { max + libm::log(sum) };
        }
        if let Some((stage, scores)) = &mut out.scores {
            let result = scores.row_mut(batch, head, row);
            result.fill(if *stage == Stage::Weights { 0.0 } else { f64::NEG_INFINITY });
            for (j, score) in result.iter_mut().skip(sequence.room.start).take(sequence.room.len()).enumerate() {
                *score = match stage {
                    // Pages past the length are of no use to anybody.
                    _ if call.kv.is_paged() && j >= sequence.kv_len => *score,
                    Stage::Scaled => self.scaled(j),
                    Stage::Capped => self.capped(j),
                    _ if j >= sequence.kv_len || !self.sees(j) => *score,
                    Stage::Masked => self.score(j),
                    Stage::Weights => weight(self.score(j), max, sum),
                };
            }
        }
    }

    /// The largest score, and the sum of the exponentials of all with respect to it.
    fn max_and_sum(&self) -> (f64, f64) {
        let sink = self.call.sinks.and_then(|sinks| sinks.get(self.head)).map(|sink| f64::from(*sink));
        let seen = || (0..self.sequence.kv_len).filter(|j| self.sees(*j)).map(|j| self.score(j)).chain(sink);
        let max = seen().fold(f64::NEG_INFINITY, |max, s| if s > max || s.is_nan() { s } else { max });
        (max, seen().map(|score| libm::exp(score - max)).sum())
    }

    /// Whether the query attends to key `j` of the sequence.
    fn sees(&self, j: usize) -> bool {
        let Self { call, sequence, head, i, .. } = *self;
        let distance = j as i128 - (i as i128 + i128::from(sequence.diagonal));
        let (row, column) = (sequence.queries.start + i, sequence.room.start + j);
        call.window.left.is_none_or(|left| -distance <= left as i128)
            && call.window.right.is_none_or(|right| distance <= right as i128)
            && call.masks.iter().flatten().all(|mask| mask.sees(sequence.batch, head, row, column))
            && self.bias(j) != f64::NEG_INFINITY
            && self.function.sees(self.position(j))
    }

    /// What the softmax is taken of.
    fn score(&self, j: usize) -> f64 {
        let Self { call, sequence, head, i, .. } = *self;
        let mut score = self.capped(j) + self.bias(j);
        if let Some(slope) = call.alibi_slopes.and_then(|slopes| slopes.get(head)) {
            let distance = i as i128 + i128::from(sequence.diagonal) - j as i128;
            score -= f64::from(*slope) * distance.unsigned_abs() as f64;
        }
        // What is finite stays so for the closure, which is of f32.
        let narrow = if score.is_finite() { score.clamp(f32::MIN.into(), f32::MAX.into()) } else { score };
        if F::MODIFIES { f64::from(self.function.modify(narrow as f32, self.position(j))) } else { score }
    }

    fn capped(&self, j: usize) -> f64 {
        let score = self.scaled(j);
        self.call.softcap.map_or(score, |cap| cap * libm::tanh(score / cap))
    }

    fn scaled(&self, j: usize) -> f64 {
        let sum = self.kv.map_or(0.0, |[keys, _]| {
            let key = keys.row(self.sequence.room.start + j);
            (0..keys.dim()).fold(0.0, |sum, t| self.function.add(sum, self.projected(t), key.at(t), t))
        });
        self.call.scale * sum
    }

    /// Element `t` of the query, after its projection.
    fn projected(&self, t: usize) -> f64 {
        match self.projection {
            None => self.query.at(t),
            Some(HeadProjection::Rows(weights)) => dot(weights.row(t).iter().copied(), self.query),
            Some(HeadProjection::Columns(weights)) => {
                dot((0..weights.len()).map(|s| weights.row(s).get(t).copied().unwrap_or_default()), self.query)
            }
        }
    }

    fn bias(&self, j: usize) -> f64 {
        let Self { call, sequence, head, i, .. } = *self;
        let row = call.bias.and_then(|bias| bias.rows(sequence.batch, head));
        match row.map_or(&[][..], |rows| rows.row(sequence.queries.start + i)) {
            [only] => f64::from(*only),
            row => row.get(sequence.room.start + j).map_or(0.0, |bias| f64::from(*bias)),
        }
    }

    fn position(&self, key: usize) -> Position {
        Position { sequence: self.sequence.index, head: self.head, query: self.i, key }
    }
}

/// A key's share. Where no score is above `-inf`, none has any; elsewhere only a score of `-inf` has none: an infinite value stays
/// infinite, however small its weight.
fn weight(score: f64, max: f64, sum: f64) -> f64 {
    let least = if score == f64::NEG_INFINITY { 0.0 } else { f64::MIN_POSITIVE };
    if max == f64::NEG_INFINITY { 0.0 } else { libm::exp(score - max).max(least) / sum }
}

fn dot(weights: impl Iterator<Item = f32>, query: FloatRow<'_, impl Scalar>) -> f64 {
    weights.enumerate().map(|(s, weight)| f64::from(weight) * query.at(s)).sum()
}
