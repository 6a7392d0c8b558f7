//! Every precondition, checked once: raw arguments become a [`Problem`], on which nothing can fail any more.

use core::{f64::consts::LOG2_E, num::NonZeroUsize, ops::Range};

use crate::{
    Backend, Error, Float, Output, Shape, Stage, View, ViewMut, Window,
    attention::{Config, Packed},
    error::{Axis, Operand},
    floats::{FloatView, SharedFloats},
    kernel::HasPairs,
    kv::{Cache, expect_shape},
    scalar::Scalar,
    score::{function::Form, mask::Fitted},
    scratch::{scratch_len, staging_len},
    simd::{Bf16Pairs, Simd, Token},
    view::SharedRows,
};

/// Arguments that fit together, and what the caller wants to know.
pub(crate) struct Problem<'a, E> {
    pub(crate) call: Call<'a, E>,
    pub(crate) output: SharedFloats<'a, E>,
    /// `[batch, q_heads, q_len, 1]`
    pub(crate) lse: Option<SharedRows<'a, E>>,
    /// `[batch, q_heads, q_len, kv_len]`
    pub(crate) scores: Option<(Stage, SharedRows<'a, E>)>,
    pub(crate) backend: Token,
    pub(crate) scratch_len: usize,
}

pub(crate) fn problem<'a, O: Float>(
    config: &Config<'a>,
    form: Form<'_>,
    queries: FloatView<'a, O::Sum>,
    kv: Cache<'a, O::Sum>,
    output: Output<'a, O>,
) -> Result<Problem<'a, O::Sum>, Error> {
    let call = Call::new(config, form, queries, kv, &output)?;
    let backend = Backend::token_of(config.backend)?;
    let (q, k, value_dim) = (queries.shape(), kv.shape(), kv.value_dim());
    let query_rows = if form.projection.is_some() { q.dim.saturating_add(k.dim) } else { q.dim };
    let staging = if kv.is_plain() { 0 } else { staging_len(k.dim, value_dim) };
    let Output { values, lse, scores } = output;
    Ok(Problem {
        call,
        output: O::output(values).into_shared(),
        lse: lse
            .map(|lse| ViewMut::heads_first(lse, [q.batch, q.heads, q.len, 1]))
            .transpose()?
            .map(ViewMut::into_shared),
        scores: scores.map(|(stage, scores)| (stage, scores.into_shared())),
        backend,
        scratch_len: scratch_len(query_rows, value_dim).saturating_add(staging),
    })
}

/// Inputs that fit together, and with an output.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a, E> {
    pub(crate) queries: FloatView<'a, E>,
    pub(crate) kv: Cache<'a, E>,
    /// Query heads that share one key/value head.
    pub(crate) group: NonZeroUsize,
    pub(crate) scale: f64,
    /// What queries are multiplied with, and what becomes of the score function, so that scores are in base 2, or over the softcap.
    pub(crate) query_factor: E,
    pub(crate) score_factor: E,
    /// Whether queries are multiplied with a matrix, which may be another one for each head.
    pub(crate) is_projected: bool,
    pub(crate) softcap: Option<f64>,
    /// `[batch, q_heads, q_len, kv_len or 1]`
    pub(crate) bias: Option<View<'a, f32>>,
    /// One for each query head.
    pub(crate) alibi_slopes: Option<&'a [f32]>,
    /// One for each query head.
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) window: Window,
    offset: Option<i64>,
    pub(crate) masks: [Option<Fitted<'a>>; 2],
    packed: Option<Packed<'a>>,
    /// Whether sums have one order, however many queries there are.
    pub(crate) batch_invariant: bool,
}

/// Queries and keys that belong together, as indices into the views.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) index: usize,
    pub(crate) batch: usize,
    pub(crate) queries: Range<usize>,
    /// There may be room for more keys than there are.
    pub(crate) room: Range<usize>,
    pub(crate) kv_len: usize,
    /// Query `i` stands at key `i + diagonal`.
    pub(crate) diagonal: i64,
}

impl<'a, E: Scalar> Call<'a, E> {
    pub(crate) fn new<O: Float>(
        config: &Config<'a>,
        form: Form<'_>,
        queries: FloatView<'a, E>,
        kv: Cache<'a, E>,
        output: &Output<'_, O>,
    ) -> Result<Self, Error> {
        let (q, kv_len) = (queries.shape(), kv.shape().len);
        let key_dim = form.key_dim(q)?;
        let group = shapes(q, key_dim, &kv, output.values.shape())?;
        let matrix = Shape { dim: kv_len, ..q };
        if let Some((_, scores)) = &output.scores {
            expect_shape(Operand::Scores, matrix, scores.shape())?;
        }
        let rows = q.rows().ok_or(Error::SizeOverflow { shape: q })?;
        expect_len(Operand::LogSumExp, rows, output.lse.as_deref())?;
        expect_len(Operand::AlibiSlopes, q.heads, config.alibi_slopes)?;
        expect_len(Operand::Sinks, q.heads, config.sinks)?;
        if let Some((head, slope)) = find(config.alibi_slopes, |slope| !slope.is_finite()) {
            return Err(Error::SlopeNotFinite { head, slope });
        }
        if let Some((head, sink)) = find(config.sinks, |sink| sink.is_nan() || sink == f32::INFINITY) {
            return Err(Error::SinkNotFinite { head, sink });
        }
        if let Some(softcap) = config.softcap.filter(|cap| !(*cap > 0.0 && E::from_f64(*cap * LOG2_E).is_finite())) {
            return Err(Error::SoftcapNotPositive { softcap });
        }
        let scale = config.scale.unwrap_or(form.default_scale);
        let (factor, one) = (factor(scale, config.softcap)?, E::ONE);
        let right = if config.causal { Some(0) } else { config.window.right };
        let call = Self {
            queries,
            kv,
            group,
            scale,
            query_factor: if form.is_linear { factor } else { one },
            score_factor: if form.is_linear { one } else { factor },
            is_projected: form.projection.is_some(),
            softcap: config.softcap,
            bias: config.bias.map(|bias| bias.broadcast(Operand::Bias, matrix)).transpose()?,
            alibi_slopes: config.alibi_slopes,
            sinks: config.sinks,
            window: Window { right, ..config.window },
            offset: config.offset,
            masks: [
                config.mask.map(|mask| mask.fit(Operand::Mask, q, kv_len)).transpose()?,
                config.block_mask.map(|mask| mask.fit(Operand::BlockMask, q, kv_len)).transpose()?,
            ],
            packed: config.packed,
            batch_invariant: config.batch_invariant,
        };
        call.check_sequences()?;
        Ok(call)
    }

    fn check_sequences(&self) -> Result<(), Error> {
        let (q, kv_len) = (self.queries.shape(), self.kv.shape().len);
        if let Some(Packed { queries, keys }) = self.packed {
            expect_shape(Operand::Query, Shape { batch: 1, ..q }, q)?;
            expect_len(Operand::Key, queries.len(), Some(keys))?;
            check_cumulative(Operand::Query, queries, q.len)?;
            check_cumulative(Operand::Key, keys, kv_len)?;
        }
        if let Some(lens) = self.kv.lens {
            expect_len(Operand::KeyLens, self.sequences(), Some(lens))?;
            for (sequence, &actual) in lens.iter().enumerate() {
                let room = self.room(sequence).len();
                if actual > room {
                    return Err(Error::TooManyKeys { sequence, room, actual });
                }
            }
        }
        let with_pages = if self.kv.is_paged() { self.sequences() } else { 0 };
        for index in 0..with_pages {
            let Sequence { batch, room, kv_len, .. } = self.sequence(index);
            self.kv.check_pages(batch, &(room.start..room.start + kv_len))?;
        }
        Ok(())
    }

    /// Where this backend multiplies pairs of what is to be multiplied.
    pub(crate) fn has_pairs<S: Simd>(&self, simd: S) -> HasPairs {
        let of_bf16 = self.queries.is_bf16() && self.kv.is_bf16() && !self.is_projected && simd.bf16_pairs().is_some();
        let many = of_bf16 && self.kv.shape().dim.is_multiple_of(2);
        let has_matrices = simd.bf16_pairs().is_some_and(|pairs| pairs.matrices().is_some());
        // CPUs that have a unit for matrices take longer to multiply pairs than to multiply two single numbers.
        let few = of_bf16 && !has_matrices || self.kv.is_i8_with_single_scales() && simd.i8_pairs().is_some();
        HasPairs { many, matrices: many && has_matrices, few }
    }

    pub(crate) fn sequences(&self) -> usize {
        self.packed_sequences().unwrap_or(self.queries.shape().batch)
    }

    /// How many sequences are packed, if any are; else all are alike but for the number of keys.
    pub(crate) fn packed_sequences(&self) -> Option<usize> {
        self.packed.map(|packed| packed.queries.len().saturating_sub(1))
    }

    /// The queries of a sequence.
    pub(crate) fn queries_of(&self, sequence: usize) -> Range<usize> {
        self.packed.map_or(0..self.queries.shape().len, |packed| between(packed.queries, sequence))
    }

    /// Where a sequence's keys have room.
    fn room(&self, sequence: usize) -> Range<usize> {
        self.packed.map_or(0..self.kv.shape().len, |packed| between(packed.keys, sequence))
    }

    pub(crate) fn sequence(&self, index: usize) -> Sequence {
        let (queries, room) = (self.queries_of(index), self.room(index));
        let kv_len = self.kv.lens.and_then(|lens| lens.get(index)).copied().unwrap_or(room.len());
        // Broadcast keys, or keys of no sequence, may be more than an `i64` counts.
        let bottom_right = i64::try_from(kv_len).unwrap_or(i64::MAX).saturating_sub_unsigned(queries.len() as u64);
        Sequence {
            index,
            batch: if self.packed.is_some() { 0 } else { index },
            queries,
            room,
            kv_len,
            diagonal: self.offset.unwrap_or(bottom_right),
        }
    }
}

/// The first head whose number, multiplied with `log2(e)`, is wrong.
fn find(of_heads: Option<&[f32]>, is_wrong: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    let numbers = of_heads.unwrap_or_default().iter().copied();
    numbers.enumerate().find(|(_, number)| is_wrong(*number * LOG2_E as f32))
}

/// Elements `i` and `i + 1`.
fn between(cumulative: &[usize], i: usize) -> Range<usize> {
    let end = cumulative.get(i.saturating_add(1)).copied().unwrap_or(0);
    cumulative.get(i).copied().unwrap_or(end)..end
}

fn check_cumulative(operand: Operand, cumulative: &[usize], len: usize) -> Result<(), Error> {
    for sequence in 0..cumulative.len().saturating_sub(1) {
        let Range { start, end } = between(cumulative, sequence);
        if end < start {
            return Err(Error::CumulativeLensDecrease { operand, sequence, start, end });
        }
    }
    match cumulative.last() {
        Some(&end) if end > len => Err(Error::CumulativeLensTooLong { operand, len, end }),
        _ => Ok(()),
    }
}

/// How many query heads share one key/value head.
fn shapes(q: Shape, key_dim: usize, kv: &Cache<'_, impl Scalar>, out: Shape) -> Result<NonZeroUsize, Error> {
    let k = kv.shape();
    if kv.is_paged() && k.batch != q.batch {
        let (operand, axis, expected, actual) = (Operand::PageTable, Axis::Len, q.batch, k.batch);
        return Err(Error::ShapeMismatch { operand, axis, expected, actual });
    }
    expect_shape(Operand::Key, Shape { batch: q.batch, dim: key_dim, ..k }, k)?;
    expect_shape(Operand::Output, Shape { dim: kv.value_dim(), ..q }, out)?;
    match q.heads.checked_rem(k.heads) {
        Some(0) => Ok(NonZeroUsize::new(q.heads / k.heads).unwrap_or(NonZeroUsize::MIN)),
        None if q.heads == 0 => Ok(NonZeroUsize::MIN),
        _ => Err(Error::HeadsNotDivisible { q_heads: q.heads, kv_heads: k.heads }),
    }
}

/// `scale * log2(e)`, or with a softcap `scale / cap`.
fn factor<E: Scalar>(scale: f64, softcap: Option<f64>) -> Result<E, Error> {
    let in_base_2 = E::from_f64(scale * LOG2_E);
    let factor = softcap.map_or(in_base_2, |cap| E::from_f64(scale / cap));
    if !(in_base_2.is_finite() && factor.is_finite()) {
        return Err(Error::ScaleNotFinite { scale });
    }
    // An infinite query would become NaN by it.
    if factor == E::ZERO && scale != 0.0 { Err(Error::ScaleVanishes { scale }) } else { Ok(factor) }
}

pub(crate) fn expect_len<T>(operand: Operand, expected: usize, slice: Option<&[T]>) -> Result<(), Error> {
    match slice.map(<[T]>::len) {
        Some(actual) if actual != expected => Err(Error::LengthMismatch { operand, expected, actual }),
        _ => Ok(()),
    }
}
