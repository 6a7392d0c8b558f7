//! Attention between its projections: the layer that models are built of.

use crate::{
    Attention, Backend, Error, Kv, Linear, Output, Shape, View, ViewMut,
    error::Operand,
    kv::expect_shape,
    score::function::{Dot, Score},
    scratch::scratch_len,
};

/// Multi-head attention with its four projections (Vaswani et al., 2017, "Attention Is All You Need", section 3.2.2):
///
/// ```text
/// out = concat(head_1, .., head_h) Wo' + bo       head_i = attention(x Wq_i' + bq_i, s Wk_i' + bk_i, s Wv_i' + bv_i)
/// ```
///
/// The source `s` of keys and values is `x` itself (self-attention) or another sequence (cross-attention).
///
/// ```
/// use simd_attention::{Attention, Linear, MultiHead, View, ViewMut, multi_head_scratch_len};
///
/// // Six tokens of eight elements, two heads; causal self-attention. All projections leave their input as it is.
/// let x: [f32; 6 * 8] = core::array::from_fn(|i| (i % 5) as f32);
/// let identity: [f32; 8 * 8] = core::array::from_fn(|i| if i % 9 == 0 { 1.0 } else { 0.0 });
/// let mut out = [0f32; 6 * 8];
/// let project = Linear::new(View::matrix(&identity, [8, 8])?);
/// let tokens = View::matrix(&x, [6, 8])?;
/// MultiHead::new(2, [project; 4]).attention(Attention::new().causal()).forward(
///     tokens,
///     tokens,
///     ViewMut::matrix(&mut out, [6, 8])?,
///     &mut [0.0; multi_head_scratch_len([6, 6], 8, 2)],
/// )?;
/// // The first token sees only itself.
/// assert_eq!(out[..8], x[..8]);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MultiHead<'a, F = Dot> {
    /// Of queries, keys, values and output.
    projections: [Linear<'a>; 4],
    heads: usize,
    kv_heads: usize,
    kv_lens: Option<&'a [usize]>,
    attention: Attention<'a, F>,
}

/// Elements of scratch for [`MultiHead::forward`] where every token has `model_dim` elements before and after each projection:
/// `tokens` are those of the whole batch, of `x` and of the source.
///
/// Saturates at `usize::MAX`, which no slice has.
#[must_use]
pub const fn multi_head_scratch_len(tokens: [usize; 2], model_dim: usize, heads: usize) -> usize {
    scratch(tokens, [[model_dim; 2]; 4], [share(model_dim, heads); 2])
}

/// What each projection takes and gives, in the order of [`MultiHead::new`]; the head dimensions are those of scores and values.
const fn scratch(tokens: [usize; 2], projections: [[usize; 2]; 4], head_dims: [usize; 2]) -> usize {
    let ([q_tokens, kv_tokens], [query, key, value, output]) = (tokens, projections);
    // Queries, and what is gathered for them; keys and values.
    let for_queries = q_tokens.saturating_mul(query[1].saturating_add(output[0]));
    let for_keys = kv_tokens.saturating_mul(key[1].saturating_add(value[1]));
    let mut most = scratch_len(head_dims[0], head_dims[1]);
    let mut i = 0;
    while i < projections.len() {
        let needed = scratch_len(projections[i][0], 0);
        most = if needed > most { needed } else { most };
        i += 1;
    }
    for_queries.saturating_add(for_keys).saturating_add(most)
}

/// The elements of each of so many heads; all of them where there is none, which is an error later on.
const fn share(dim: usize, heads: usize) -> usize {
    match dim.checked_div(heads) {
        Some(share) => share,
        None => dim,
    }
}

impl<'a> MultiHead<'a> {
    /// The projections are those of queries, keys, values and output, in this order. The query's output is divided evenly into `heads`.
    #[must_use]
    pub const fn new(heads: usize, projections: [Linear<'a>; 4]) -> Self {
        Self { projections, heads, kv_heads: heads, kv_lens: None, attention: Attention::new() }
    }
}

impl<'a, F: Score> MultiHead<'a, F> {
    /// Fewer heads of keys and values than of queries (grouped-query attention).
    #[must_use]
    pub const fn kv_heads(self, kv_heads: usize) -> Self {
        Self { kv_heads, ..self }
    }

    /// How many tokens of the source each sequence of the batch has: see [`Kv::lens`].
    #[must_use]
    pub const fn kv_lens(self, lens: &'a [usize]) -> Self {
        Self { kv_lens: Some(lens), ..self }
    }

    /// Attends like this, instead of to every token by scaled dot products: masks, modifiers and score functions.
    #[must_use]
    pub const fn attention<G: Score>(self, attention: Attention<'a, G>) -> MultiHead<'a, G> {
        let Self { projections, heads, kv_heads, kv_lens, .. } = self;
        MultiHead { projections, heads, kv_heads, kv_lens, attention }
    }

    /// Runs on this backend instead of the fastest one.
    #[must_use]
    pub const fn backend(mut self, backend: Backend) -> Self {
        let [query, key, value, output] = self.projections;
        self.projections =
            [query.backend(backend), key.backend(backend), value.backend(backend), output.backend(backend)];
        self.attention = self.attention.backend(backend);
        self
    }

    /// Elements of scratch that [`forward`](Self::forward) needs for inputs of these shapes; [`multi_head_scratch_len`] where all
    /// dimensions are one.
    #[must_use]
    pub fn scratch_len(&self, x: Shape, source: Shape) -> usize {
        let Self { projections: [query, key, value, output], heads, kv_heads, .. } = self;
        let tokens = [x.batch.saturating_mul(x.len), source.batch.saturating_mul(source.len)];
        let [q, k] = [share(query.out_dim(), *heads), share(key.out_dim(), *kv_heads)];
        let scored = if self.attention.score.projection().is_some() { q.saturating_add(k) } else { q };
        let value_dim = share(value.out_dim(), *kv_heads);
        let context = heads.saturating_mul(value_dim);
        let projections = [
            [x.dim, query.out_dim()],
            [source.dim, key.out_dim()],
            [source.dim, value.out_dim()],
            [context, output.out_dim()],
        ];
        scratch(tokens, projections, [scored, value_dim])
    }

    /// Computes the layer: `x [batch, 1, q_len, in_dim]`, `source [batch, 1, kv_len, source_dim]`, `out [batch, 1, q_len, out_dim]`. An
    /// [`Output`] may also ask for each head's log-sum-exp `[batch, heads, q_len]` and scores `[batch, heads, q_len, kv_len]`. `scratch` is working memory of at least
    /// [`scratch_len`](Self::scratch_len) elements, whose contents don't matter before or after.
    ///
    /// A row of the output depends on its own row of `x` and on the source alone, bit for bit; and on whether there are
    /// [few rows](Attention::batch_invariant). One call runs on one thread.
    ///
    /// # Errors
    ///
    /// Before anything is written:
    ///
    /// - [`Error::ShapeMismatch`]: the extents of inputs, projections and output disagree.
    /// - [`Error::DimNotDivisible`]: a projection's output cannot be divided evenly into heads.
    /// - [`Error::ScratchTooShort`], and those of [`Linear::forward`] and [`Attention::prepare`].
    pub fn forward<'b>(
        &self,
        x: View<'b, f32>,
        source: View<'b, f32>,
        out: impl Into<Output<'b, f32>>,
        scratch: &mut [f32],
    ) -> Result<(), Error>
    where
        'a: 'b,
    {
        let Output { values: out, lse, scores } = out.into();
        let Layout { q, k, v, context } = self.layout(x.shape(), source.shape(), out.shape())?;
        let (required, actual) = (self.scratch_len(x.shape(), source.shape()), scratch.len());
        let too_short = Error::ScratchTooShort { required, actual };
        if actual < required {
            return Err(too_short);
        }
        let mut rest = scratch;
        let mut take =
            |shape: Shape| rest.split_off_mut(..shape.batch * shape.len * shape.dim * shape.heads).ok_or(too_short);
        let (q_data, k_data, v_data, context_data) = (take(q)?, take(k)?, take(v)?, take(context)?);
        let scratch = rest;

        let [query, key, value, output] = &self.projections;
        query.forward(x, merged_mut(q_data, q)?, scratch)?;
        key.forward(source, merged_mut(k_data, k)?, scratch)?;
        value.forward(source, merged_mut(v_data, v)?, scratch)?;

        let kv = Kv::new(heads(k_data, k)?, heads(v_data, v)?)?;
        let kv = self.kv_lens.map_or(kv, |lens| kv.lens(lens));
        let [batch, len] = [context.batch, context.len];
        let values = ViewMut::tokens_first(context_data, [batch, len, context.heads, context.dim])?;
        self.attention.forward(heads(q_data, q)?, kv, Output { values, lse, scores }, scratch)?;
        output.forward(View::heads_first(context_data, [batch, 1, len, context.heads * context.dim])?, out, scratch)
    }

    /// The shapes of what is between the projections.
    fn layout(&self, x: Shape, source: Shape, out: Shape) -> Result<Layout, Error> {
        let [query, key, value, output] = &self.projections;
        expect_shape(Operand::Query, Shape { heads: 1, ..x }, x)?;
        expect_shape(Operand::Key, Shape { batch: x.batch, heads: 1, ..source }, source)?;
        let q = divide(Operand::Query, Shape { dim: query.out_dim(), ..x }, self.heads)?;
        let k = divide(Operand::Key, Shape { dim: key.out_dim(), ..source }, self.kv_heads)?;
        let v = divide(Operand::Value, Shape { dim: value.out_dim(), ..source }, self.kv_heads)?;
        let context = Shape { dim: v.dim, ..q };
        let concatenated =
            Shape { heads: 1, dim: v.dim.checked_mul(q.heads).ok_or(Error::SizeOverflow { shape: v })?, ..x };
        query.check(Operand::Query, x, merged(q))?;
        key.check(Operand::Key, source, merged(k))?;
        value.check(Operand::Value, source, merged(v))?;
        let weights = Shape { batch: 1, heads: 1, len: out.dim, dim: output.in_dim() };
        expect_shape(Operand::Weights, Shape { dim: concatenated.dim, ..weights }, weights)?;
        output.check(Operand::Input, concatenated, out)?;
        Ok(Layout { q, k, v, context })
    }
}

/// `[batch, heads, len, dim]`, but in memory in the order `[batch, len, heads, dim]`.
struct Layout {
    q: Shape,
    k: Shape,
    v: Shape,
    context: Shape,
}

/// The heads of a projection's output.
fn divide(operand: Operand, merged: Shape, heads: usize) -> Result<Shape, Error> {
    match merged.dim.checked_rem(heads) {
        Some(0) => Ok(Shape { heads, dim: merged.dim / heads.max(1), ..merged }),
        _ => Err(Error::DimNotDivisible { operand, dim: merged.dim, heads }),
    }
}

/// With all heads in one.
const fn merged(Shape { batch, heads, len, dim }: Shape) -> Shape {
    Shape { batch, heads: 1, len, dim: heads * dim }
}

fn merged_mut(data: &mut [f32], shape: Shape) -> Result<ViewMut<'_, f32>, Error> {
    let Shape { batch, len, dim, .. } = merged(shape);
    ViewMut::heads_first(data, [batch, 1, len, dim])
}

fn heads(data: &[f32], Shape { batch, heads, len, dim }: Shape) -> Result<View<'_, f32>, Error> {
    View::tokens_first(data, [batch, len, heads, dim])
}
