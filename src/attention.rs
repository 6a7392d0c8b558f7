//! Configuration and entry points: validate, then dispatch.

use crate::{
    Backend, Element, Error, Float, Kv, Mask, Output, View, Work,
    score::{
        custom::{MaskMod, Position, ScoreMod},
        function::{Dot, Form, Score},
    },
    validate,
};

/// How to attend: what is done to scores, and which keys a query sees. Reusable; `const` as far as it borrows nothing.
///
/// ```text
/// score[i][j] = cap * tanh(F(q[i], k[j]) * scale / cap) + bias[i][j] - slope * |i + offset - j|          F(q, k) = q . k
/// out[i] = sum_j e^score[i][j] v[j] / (sum_j e^score[i][j] + e^sink)       over the keys j that query i sees
/// ```
///
/// (Vaswani et al., 2017, "Attention Is All You Need", equation 1, where nothing else is asked for), computed in one pass over keys and
/// values with the online softmax of FlashAttention (Dao et al., 2022). The order of operations is that of the ONNX operator
/// `Attention`: scale, softcap, bias, mask, softmax. Everything can be combined with everything.
///
/// ```
/// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
///
/// let (q, k, v) = ([0.5f32; 6 * 16], [0.25f32; 6 * 16], [1f32; 6 * 16]);
/// let mut out = [0f32; 6 * 16];
/// let mut scratch = [0f32; scratch_len(16, 16)];
/// Attention::new().causal().forward(
///     View::matrix(&q, [6, 16])?,
///     Kv::new(View::matrix(&k, [6, 16])?, View::matrix(&v, [6, 16])?)?,
///     ViewMut::matrix(&mut out, [6, 16])?,
///     &mut scratch,
/// )?;
/// assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6));
/// # Ok::<(), simd_attention::Error>(())
/// ```
///
/// `F` is the [score function](Score), with the [mask](Self::mask_mod) and the [modification](Self::score_mod) that a caller has
/// added to it in Rust.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a, F = Dot> {
    pub(crate) config: Config<'a>,
    pub(crate) score: F,
}

/// All that is known only when the program runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Config<'a> {
    pub(crate) scale: Option<f64>,
    pub(crate) softcap: Option<f64>,
    pub(crate) bias: Option<View<'a, f32>>,
    pub(crate) alibi_slopes: Option<&'a [f32]>,
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) causal: bool,
    pub(crate) window: Window,
    pub(crate) offset: Option<i64>,
    pub(crate) mask: Option<Mask<'a>>,
    pub(crate) block_mask: Option<Mask<'a>>,
    pub(crate) packed: Option<Packed<'a>>,
    pub(crate) batch_invariant: bool,
    pub(crate) backend: Option<Backend>,
}

/// How far a query sees from where it stands, in keys; `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Keys before it.
    pub left: Option<usize>,
    /// Keys after it.
    pub right: Option<usize>,
}

/// Where packed sequences begin and end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    pub(crate) queries: &'a [usize],
    pub(crate) keys: &'a [usize],
}

impl Config<'_> {
    const DEFAULT: Self = Self {
        scale: None,
        softcap: None,
        bias: None,
        alibi_slopes: None,
        sinks: None,
        causal: false,
        window: Window { left: None, right: None },
        offset: None,
        mask: None,
        block_mask: None,
        packed: None,
        batch_invariant: false,
        backend: None,
    };
}

impl Attention<'_> {
    /// Every query attends to every key; scores are dot products, scaled by `1 / sqrt(head_dim)`.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_score(Dot)
    }
}

impl<'a, F: Score> Attention<'a, F> {
    /// As [`new`](Attention::new), with another score function: [`Bilinear`](crate::Bilinear), [`Additive`](crate::Additive) or [one of your
    /// own](Score).
    #[must_use]
    pub const fn with_score(score: F) -> Self {
        Self { config: Config::DEFAULT, score }
    }

    /// Multiplies scores by `scale` instead of what the score function has by default (`1 / sqrt(head_dim)` for dot products). Any finite number, zero and negative ones included.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Scores of 0 and 2 ln(3): the second key weighs nine times as much as the first.
    /// let (q, k, v) = ([1f32], [0f32, 3f32.ln()], [0f32, 10.0]);
    /// let mut out = [0f32; 1];
    /// Attention::new().scale(2.0).forward(
    ///     View::matrix(&q, [1, 1])?,
    ///     Kv::new(View::matrix(&k, [2, 1])?, View::matrix(&v, [2, 1])?)?,
    ///     ViewMut::matrix(&mut out, [1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!((out[0] - 9.0).abs() < 1e-5);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn scale(mut self, scale: f64) -> Self {
        self.config.scale = Some(scale);
        self
    }

    /// Keeps scores between `-cap` and `cap`: `cap * tanh(score / cap)` (Gemma 2, 2024).
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Scores of 100 and -100 become 2 and -2.
    /// let (q, k, v) = ([100f32], [1f32, -1.0], [1f32, 0.0]);
    /// let mut out = [0f32; 1];
    /// Attention::new().softcap(2.0).forward(
    ///     View::matrix(&q, [1, 1])?,
    ///     Kv::new(View::matrix(&k, [2, 1])?, View::matrix(&v, [2, 1])?)?,
    ///     ViewMut::matrix(&mut out, [1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!((out[0] - 1.0 / (1.0 + (-4f32).exp())).abs() < 1e-6);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn softcap(mut self, cap: f64) -> Self {
        self.config.softcap = Some(cap);
        self
    }

    /// Adds a bias `[batch, q_heads, q_len, kv_len]` to the scores. An extent of 1 is repeated along its axis, and so is a stride of
    /// 0. A bias of `-inf` masks.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Two queries share one bias, which makes the second key weigh thrice as much as the first.
    /// let (q, k, v) = ([0f32; 2], [0f32; 2], [0f32, 4.0]);
    /// let (bias, mut out) = ([0f32, 3f32.ln()], [0f32; 2]);
    /// Attention::new().bias(View::matrix(&bias, [1, 2])?).forward(
    ///     View::matrix(&q, [2, 1])?,
    ///     Kv::new(View::matrix(&k, [2, 1])?, View::matrix(&v, [2, 1])?)?,
    ///     ViewMut::matrix(&mut out, [2, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!(out.iter().all(|x| (x - 3.0).abs() < 1e-6));
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn bias(mut self, bias: View<'a, f32>) -> Self {
        self.config.bias = Some(bias);
        self
    }

    /// Subtracts `slope * |i + offset - j|`, with one slope for each query head: attention with linear biases (Press et al., 2021, "Train
    /// Short, Test Long"; symmetrical as in FlashAttention).
    ///
    /// ```text
    /// q_len = 2, kv_len = 4, slope 1:   -2 -1  0 -1
    ///                                   -3 -2 -1  0
    /// ```
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Each key further away weighs half as much.
    /// let (q, k, v) = ([0f32], [0f32; 3], [7f32, 0.0, 0.0]);
    /// let mut out = [0f32];
    /// Attention::new().alibi_slopes(&[2f32.ln()]).forward(
    ///     View::matrix(&q, [1, 1])?,
    ///     Kv::new(View::matrix(&k, [3, 1])?, View::matrix(&v, [3, 1])?)?,
    ///     ViewMut::matrix(&mut out, [1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!((out[0] - 7.0 * 0.25 / 1.75).abs() < 1e-6);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn alibi_slopes(mut self, slopes: &'a [f32]) -> Self {
        self.config.alibi_slopes = Some(slopes);
        self
    }

    /// One more score for each query head, which takes weight from the keys and has no value (Xiao et al., 2023, "Efficient Streaming
    /// Language Models with Attention Sinks"; as learned in gpt-oss, 2025). It counts in the log-sum-exp, so that a
    /// query without keys gives zeros and the sink. A sink of `-inf` is none; NaN and positive infinity are errors.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // The sink weighs as much as either of the two keys.
    /// let (q, k, v) = ([0f32], [0f32; 2], [3f32, 3.0]);
    /// let mut out = [0f32];
    /// Attention::new().sinks(&[0.0]).forward(
    ///     View::matrix(&q, [1, 1])?,
    ///     Kv::new(View::matrix(&k, [2, 1])?, View::matrix(&v, [2, 1])?)?,
    ///     ViewMut::matrix(&mut out, [1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!((out[0] - 2.0).abs() < 1e-6);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn sinks(mut self, sinks: &'a [f32]) -> Self {
        self.config.sinks = Some(sinks);
        self
    }

    /// Where the first query stands among the keys: query `i` stands at key `i + offset`. From there causal masks, windows and ALiBi
    /// count. By default the last query stands at the last key: `offset = kv_len - q_len` (bottom-right alignment, as in
    /// FlashAttention and in decoding with a cache). With 0, the first one stands at the first (top-left).
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // The first query stands at the second key.
    /// let (q, k, v) = ([0f32; 2], [0f32; 4], [1f32, 3.0, 5.0, 7.0]);
    /// let mut out = [0f32; 2];
    /// Attention::new().causal().offset(1).forward(
    ///     View::matrix(&q, [2, 1])?,
    ///     Kv::new(View::matrix(&k, [4, 1])?, View::matrix(&v, [4, 1])?)?,
    ///     ViewMut::matrix(&mut out, [2, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [2.0, 3.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn offset(mut self, offset: i64) -> Self {
        self.config.offset = Some(offset);
        self
    }

    /// A query sees no key after the one at which it [stands](Self::offset).
    ///
    /// ```text
    /// q_len = 2, kv_len = 4:   1 1 1 0      q_len = 4, kv_len = 2:   0 0      q_len = 2, kv_len = 4, offset 0:   1 0 0 0
    ///                          1 1 1 1                               0 0                                         1 1 0 0
    ///                                                                1 0
    ///                                                                1 1
    /// ```
    ///
    /// A query that sees no key gives zeros, and its log-sum-exp is `-inf`. Keys that no query sees are never read.
    #[must_use]
    pub const fn causal(mut self) -> Self {
        self.config.causal = true;
        self
    }

    /// A query sees no more keys than these before and after the one at which it [stands](Self::offset) (sliding-window attention: Beltagy
    /// et al., 2020, "Longformer").
    ///
    /// ```text
    /// left 1, right 1:   1 1 0 0      left 1, causal:   1 0 0 0
    ///                    1 1 1 0                        1 1 0 0
    ///                    0 1 1 1                        0 1 1 0
    ///                    0 0 1 1                        0 0 1 1
    /// ```
    ///
    /// Time grows with the window, not with the keys.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, Window, scratch_len};
    ///
    /// let (q, k, v) = ([0f32; 4], [0f32; 4], [1f32, 3.0, 5.0, 7.0]);
    /// let mut out = [0f32; 4];
    /// Attention::new().causal().window(Window { left: Some(1), right: None }).forward(
    ///     View::matrix(&q, [4, 1])?,
    ///     Kv::new(View::matrix(&k, [4, 1])?, View::matrix(&v, [4, 1])?)?,
    ///     ViewMut::matrix(&mut out, [4, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [1.0, 2.0, 4.0, 6.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn window(mut self, window: Window) -> Self {
        self.config.window = window;
        self
    }

    /// A query sees only keys for which its element of the mask is true. There is an example at [`Mask`].
    #[must_use]
    pub const fn mask(mut self, mask: Mask<'a>) -> Self {
        self.config.mask = Some(mask);
        self
    }

    /// Another mask, besides [`mask`](Self::mask): one whose elements speak for [blocks](Mask::blocks), for example.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, Mask, View, ViewMut, scratch_len};
    ///
    /// // Blocks of 2 by 2: a query sees the keys of its own block up to itself.
    /// let (q, k, v) = ([0f32; 4], [0f32; 4], [1f32, 3.0, 5.0, 7.0]);
    /// let mut out = [0f32; 4];
    /// let blocks = [true, false, false, true];
    /// Attention::new().causal().block_mask(Mask::new(View::matrix(&blocks, [2, 2])?).blocks(2, 2)).forward(
    ///     View::matrix(&q, [4, 1])?,
    ///     Kv::new(View::matrix(&k, [4, 1])?, View::matrix(&v, [4, 1])?)?,
    ///     ViewMut::matrix(&mut out, [4, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [1.0, 2.0, 5.0, 6.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn block_mask(mut self, mask: Mask<'a>) -> Self {
        self.config.block_mask = Some(mask);
        self
    }

    /// Several sequences of different lengths, one after the other without padding: sequence `s` has the queries
    /// `queries[s] .. queries[s + 1]` and the keys `keys[s] .. keys[s + 1]` of a batch of 1 (`cu_seqlens` in FlashAttention). No query
    /// sees a key of another sequence. Queries before the first and past the last number are not computed.
    ///
    /// Masks and biases have the extents of the whole: row `i` and column `j` are those of the views.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Sequences of 2 and 1 tokens.
    /// let (q, k, v) = ([0f32; 3], [0f32; 3], [1f32, 3.0, 5.0]);
    /// let mut out = [0f32; 3];
    /// Attention::new().packed(&[0, 2, 3], &[0, 2, 3]).forward(
    ///     View::matrix(&q, [3, 1])?,
    ///     Kv::new(View::matrix(&k, [3, 1])?, View::matrix(&v, [3, 1])?)?,
    ///     ViewMut::matrix(&mut out, [3, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [2.0, 2.0, 5.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn packed(mut self, queries: &'a [usize], keys: &'a [usize]) -> Self {
        self.config.packed = Some(Packed { queries, keys });
        self
    }

    /// A query's result has the same bits whether it comes alone, among the first tokens of a prompt, or among thousands.
    ///
    /// Of a sequence with few queries, heads that share keys are computed together: all of them where their queries
    /// (`q_len * q_heads / kv_heads`) fit into one vector, else as many as divide their number and have few queries together: up to 8 with
    /// AVX-512, 4 with other backends, 1 without vectors and for `f64` in two lanes. So few have their dot products summed in the order that
    /// reads keys fastest, which is not that of longer sequences, and depends on how many they are and on which keys all of them see; this
    /// keeps to the latter one, at up to twice the time (as do other score functions, and calls that ask for
    /// [scores](crate::Output::scores)). Nothing else that is in the batch, and no number of threads, changes a bit of a sequence's results,
    /// with or without this.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// let k: [f32; 300 * 4] = core::array::from_fn(|i| (i as f32).sin());
    /// let kv = Kv::new(View::matrix(&k, [300, 4])?, View::matrix(&k, [300, 4])?)?;
    /// let (mut prompt, mut last) = ([0f32; 300 * 4], [0f32; 4]);
    /// let attention = Attention::new().causal().batch_invariant();
    /// let mut scratch = [0f32; scratch_len(4, 4)];
    /// attention.forward(View::matrix(&k, [300, 4])?, kv, ViewMut::matrix(&mut prompt, [300, 4])?, &mut scratch)?;
    /// attention.forward(View::matrix(&k[299 * 4..], [1, 4])?, kv, ViewMut::matrix(&mut last, [1, 4])?, &mut scratch)?;
    /// assert_eq!(prompt[299 * 4..], last);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn batch_invariant(mut self) -> Self {
        self.config.batch_invariant = true;
        self
    }

    /// Runs on this backend instead of the fastest one: the same build then gives the same bits on every CPU that has it.
    #[must_use]
    pub const fn backend(mut self, backend: Backend) -> Self {
        self.config.backend = Some(backend);
        self
    }

    /// A mask written in Rust, compiled into the kernel: a query sees only keys for which `sees` says so. Asked only about tiles that the
    /// other masks leave standing.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // A query sees every second key.
    /// let (q, k, v) = ([0f32; 2], [0f32; 4], [1f32, 3.0, 5.0, 7.0]);
    /// let mut out = [0f32; 2];
    /// Attention::new().mask_mod(|at| at.query % 2 == at.key % 2).forward(
    ///     View::matrix(&q, [2, 1])?,
    ///     Kv::new(View::matrix(&k, [4, 1])?, View::matrix(&v, [4, 1])?)?,
    ///     ViewMut::matrix(&mut out, [2, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [3.0, 5.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn mask_mod<C: Fn(Position) -> bool + Copy>(self, sees: C) -> Attention<'a, MaskMod<F, C>> {
        let Self { config, score } = self;
        Attention { config, score: MaskMod { score, sees } }
    }

    /// A change of scores written in Rust, compiled into the kernel. The score that it is given is scaled, capped and biased; what it
    /// returns takes its place, if the key is not masked. Where it returns `-inf`, the key has no weight; but to mask it, so that its value is not even
    /// multiplied by zero, takes [`mask_mod`](Self::mask_mod).
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // The last of three keys weighs twice as much as the others.
    /// let (q, k, v) = ([0f32], [0f32; 3], [0f32, 0.0, 4.0]);
    /// let mut out = [0f32];
    /// let favour = |score, at: simd_attention::Position| if at.key == 2 { score + 2f32.ln() } else { score };
    /// Attention::new().score_mod(favour).forward(
    ///     View::matrix(&q, [1, 1])?,
    ///     Kv::new(View::matrix(&k, [3, 1])?, View::matrix(&v, [3, 1])?)?,
    ///     ViewMut::matrix(&mut out, [1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert!((out[0] - 2.0).abs() < 1e-6);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn score_mod<C: Fn(f32, Position) -> f32 + Copy>(self, modify: C) -> Attention<'a, ScoreMod<F, C>> {
        let Self { config, score } = self;
        Attention { config, score: ScoreMod { score, modify } }
    }

    /// Computes attention: `q [batch, q_heads, q_len, head_dim]`, `k [batch, kv_heads, kv_len, head_dim]`,
    /// `v [batch, kv_heads, kv_len, value_dim]`, `out [batch, q_heads, q_len, value_dim]`.
    ///
    /// Queries and output are of `f32`, or with the feature `half` of its `f16` or `bf16`, each for itself; keys and values of any other [`Element`] than
    /// `f64`. Or all of them are of `f64`, and so is what is computed; biases, slopes, sinks, and parameters of score functions, are `f32` even then.
    ///
    /// Some dot products are computed two elements at a time, unless [scores](Output::scores) or
    /// [the same bits whatever the number of queries](Self::batch_invariant) are asked for:
    ///
    /// - with [`Backend::Avx512Bf16`], of `bf16` queries with `bf16` keys and values, if `head_dim` is even or there are at most 8 queries of heads that
    ///   share keys. Products are exact, sums `f32`; weights are rounded to `bf16` before they are multiplied with values; numbers below
    ///   `f32::MIN_POSITIVE` count as zeros. [`Backend::Avx512Amx`] does the same with 16 by 16 of them at a time, if `head_dim` is even and there are more
    ///   queries; fewer are computed with in `f32` there.
    /// - with [`Backend::Avx2`] and all that have AVX-512, of at most 4 queries of heads that share keys, or 8, with [bytes](crate::Quantized) that have
    ///   one scale a row, if `head_dim` is at most 512. Queries become integers of 16 bits, off by up to 1/65266 of their largest element; so do
    ///   weights times scales, with up to 512 keys at a time. That is less by far than what the bytes are off by. Sums are exact for as many, and `f32` from then on.
    ///
    /// Query head `h` uses key/value head `h * kv_heads / q_heads`. `scratch` is working memory of at least
    /// [`scratch_len(head_dim, value_dim)`](crate::scratch_len) elements, whose contents don't matter before or after;
    /// [`cache_scratch_len`](crate::cache_scratch_len) of them where keys and values are neither `f32` nor `f64`, or are paged; [`Work::scratch_len`] where the
    /// score function projects queries.
    ///
    /// Time is `O(head_dim + value_dim)` for each query-key pair that the masks leave standing, in tiles.
    ///
    /// # Errors
    ///
    /// Before anything is written, as [`prepare`](Self::prepare), and [`Error::ScratchTooShort`].
    pub fn forward<'b, Q: Float, T: Element<Sum = Q::Sum>, O: Float<Sum = Q::Sum>>(
        &self,
        q: View<'b, Q>,
        kv: Kv<'b, T>,
        out: impl Into<Output<'b, O>>,
        scratch: &mut [Q::Sum],
    ) -> Result<(), Error>
    where
        'a: 'b,
    {
        self.prepare(q, kv, out)?.run(scratch)
    }

    /// Checks all that [`forward`](Self::forward) would check but the scratch, and returns the computation, to be [run](Work::run)
    /// from as many threads as the caller likes.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`]: `batch`, heads, `len` or `dim` of two operands disagree; a mask or a bias does not broadcast.
    /// - [`Error::HeadsNotDivisible`]: `q_heads` is not a multiple of `kv_heads`.
    /// - [`Error::ScaleNotFinite`]: the scale is infinite or NaN, or overflows when multiplied by `log2(e)` or divided by the softcap.
    /// - [`Error::ScaleVanishes`]: the scale is not zero, but so small that it becomes zero by one of these.
    /// - [`Error::SoftcapNotPositive`]: the softcap is zero, negative, infinite or NaN, or overflows when multiplied by `log2(e)`.
    /// - [`Error::SlopeNotFinite`]: a slope is infinite or NaN, or overflows when multiplied by `log2(e)`.
    /// - [`Error::SinkNotFinite`]: a sink is positive infinity or NaN, or overflows to it when multiplied by `log2(e)`.
    /// - [`Error::ZeroBlock`]: the elements of a mask speak for blocks of no queries or no keys.
    /// - [`Error::LengthMismatch`]: as many log-sum-exps, slopes, sinks or lengths are needed as there are queries, heads or
    ///   sequences.
    /// - [`Error::NoSuchPage`]: a page table names a page that there is not.
    /// - [`Error::TooManyKeys`], [`Error::CumulativeLensDecrease`], [`Error::CumulativeLensTooLong`]: lengths that cannot be.
    /// - [`Error::BackendUnavailable`]: this CPU cannot run the backend that was asked for.
    pub fn prepare<'b, Q: Float, T: Element<Sum = Q::Sum>, O: Float<Sum = Q::Sum>>(
        &self,
        q: View<'b, Q>,
        kv: Kv<'b, T>,
        out: impl Into<Output<'b, O>>,
    ) -> Result<Work<'b, F, Q::Sum>, Error>
    where
        'a: 'b,
    {
        let kv = kv.cache();
        let form = Form::new(&self.score, kv.shape());
        validate::problem(&self.config, form, Q::view(q), kv, out.into()).map(|problem| Work::new(problem, self.score))
    }
}
