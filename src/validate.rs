//! Every precondition, checked once: raw arguments become a [`Problem`], on which nothing can fail any more.

use core::{f64::consts::LOG2_E, num::NonZeroUsize, ops::Range};

use crate::{
    Attention, Backend, Error, Kv, Output, Shape, Stage, View, ViewMut, Window, attention::Packed, error::Operand,
    kv::expect_shape, score::mask::Fitted, scratch::scratch_len, simd::Token, view::SharedRows,
};

/// Arguments that fit together, and what the caller wants to know.
pub(crate) struct Problem<'a, M> {
    pub(crate) call: Call<'a, M>,
    pub(crate) output: SharedRows<'a, f32>,
    /// `[batch, q_heads, q_len, 1]`
    pub(crate) lse: Option<SharedRows<'a, f32>>,
    /// `[batch, q_heads, q_len, kv_len]`
    pub(crate) scores: Option<(Stage, SharedRows<'a, f32>)>,
    pub(crate) backend: Token,
    pub(crate) scratch_len: usize,
}

pub(crate) fn problem<'a, M: Copy>(
    attention: &Attention<'a, M>,
    queries: View<'a, f32>,
    kv: Kv<'a, f32>,
    output: Output<'a, f32>,
) -> Result<Problem<'a, M>, Error> {
    let call = Call::new(attention, queries, kv, &output)?;
    let wanted = attention.backend.unwrap_or_else(Backend::best);
    let backend = wanted.token().ok_or(Error::BackendUnavailable { backend: wanted })?;
    let q = queries.shape();
    let Output { values, lse, scores } = output;
    Ok(Problem {
        call,
        output: values.into_shared(),
        lse: lse
            .map(|lse| ViewMut::heads_first(lse, [q.batch, q.heads, q.len, 1]))
            .transpose()?
            .map(ViewMut::into_shared),
        scores: scores.map(|(stage, scores)| (stage, scores.into_shared())),
        backend,
        scratch_len: scratch_len(q.dim, kv.values.shape().dim),
    })
}

/// Inputs that fit together, and with an output.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a, M> {
    pub(crate) queries: View<'a, f32>,
    pub(crate) kv: Kv<'a, f32>,
    /// Query heads that share one key/value head.
    pub(crate) group: NonZeroUsize,
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
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
    pub(crate) modify: M,
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

impl<'a, M: Copy> Call<'a, M> {
    pub(crate) fn new<T>(
        attention: &Attention<'a, M>,
        queries: View<'a, f32>,
        kv: Kv<'a, f32>,
        output: &Output<'_, T>,
    ) -> Result<Self, Error> {
        let (q, kv_len) = (queries.shape(), kv.keys.shape().len);
        let group = shapes(q, kv.keys.shape(), kv.values.shape(), output.values.shape())?;
        let matrix = Shape { dim: kv_len, ..q };
        if let Some((_, scores)) = &output.scores {
            expect_shape(Operand::Scores, matrix, scores.shape())?;
        }
        let rows = q.rows().ok_or(Error::SizeOverflow { shape: q })?;
        expect_len(Operand::LogSumExp, rows, output.lse.as_deref())?;
        expect_len(Operand::AlibiSlopes, q.heads, attention.alibi_slopes)?;
        expect_len(Operand::Sinks, q.heads, attention.sinks)?;
        if let Some(softcap) = attention.softcap.filter(|cap| !(*cap > 0.0 && (*cap * LOG2_E as f32).is_finite())) {
            return Err(Error::SoftcapNotPositive { softcap });
        }
        let right = if attention.causal { Some(0) } else { attention.window.right };
        let call = Self {
            queries,
            kv,
            group,
            scale: scale(attention, q.dim)?,
            softcap: attention.softcap,
            bias: attention.bias.map(|bias| bias.broadcast(Operand::Bias, matrix)).transpose()?,
            alibi_slopes: attention.alibi_slopes,
            sinks: attention.sinks,
            window: Window { right, ..attention.window },
            offset: attention.offset,
            masks: [
                attention.mask.map(|mask| mask.fit(Operand::Mask, q, kv_len)).transpose()?,
                attention.block_mask.map(|mask| mask.fit(Operand::BlockMask, q, kv_len)).transpose()?,
            ],
            packed: attention.packed,
            modify: attention.modify,
        };
        call.check_sequences()?;
        Ok(call)
    }

    fn check_sequences(&self) -> Result<(), Error> {
        let (q, kv_len) = (self.queries.shape(), self.kv.keys.shape().len);
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
        Ok(())
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
        self.packed.map_or(0..self.kv.keys.shape().len, |packed| between(packed.keys, sequence))
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

    /// `scale * log2(e)`, or with a softcap `scale / cap`: what the queries are multiplied with.
    pub(crate) fn query_scale(&self) -> f32 {
        match self.softcap {
            Some(cap) => self.scale / cap,
            None => (f64::from(self.scale) * LOG2_E) as f32,
        }
    }
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
fn shapes(q: Shape, k: Shape, v: Shape, out: Shape) -> Result<NonZeroUsize, Error> {
    expect_shape(Operand::Key, Shape { batch: q.batch, dim: q.dim, ..k }, k)?;
    expect_shape(Operand::Output, Shape { dim: v.dim, ..q }, out)?;
    match q.heads.checked_rem(k.heads) {
        Some(0) => Ok(NonZeroUsize::new(q.heads / k.heads).unwrap_or(NonZeroUsize::MIN)),
        None if q.heads == 0 => Ok(NonZeroUsize::MIN),
        _ => Err(Error::HeadsNotDivisible { q_heads: q.heads, kv_heads: k.heads }),
    }
}

/// The scale asked for, or the default.
fn scale<M>(attention: &Attention<'_, M>, head_dim: usize) -> Result<f32, Error> {
    let scale = attention.scale.unwrap_or_else(|| libm::sqrt(1.0 / head_dim as f64) as f32);
    let overflows = |factor: f32| !(scale * factor).is_finite();
    if overflows(LOG2_E as f32) || attention.softcap.is_some_and(|cap| overflows(1.0 / cap)) {
        return Err(Error::ScaleNotFinite { scale });
    }
    Ok(scale)
}

fn expect_len<T>(operand: Operand, expected: usize, slice: Option<&[T]>) -> Result<(), Error> {
    match slice.map(<[T]>::len) {
        Some(actual) if actual != expected => Err(Error::LengthMismatch { operand, expected, actual }),
        _ => Ok(()),
    }
}
