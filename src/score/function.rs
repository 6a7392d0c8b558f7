//! `F(query, key)`: the score functions that there are, and the trait for more.

use super::{custom::Position, lanes::Lanes, projection::Projection};
use crate::{
    Error, Shape,
    error::{Axis, Operand},
    scalar::Scalar,
    work::Plan,
};

/// Stage 1 of attention: what a query and a key have to do with each other, `F(query, key)`, before softcap, biases and masks.
///
/// ```text
/// F(q, k) = scale * sum_t term(p[t], k[t], t)      p = W q, or the query itself
/// ```
///
/// There are [`Dot`], [`Bilinear`](crate::Bilinear) and [`Additive`](crate::Additive); any function of this form is computed by the same kernel, with all masks,
/// modifiers and outputs. It may be asked about any query and key of the call, more than once, in any order and from any thread that runs
/// it, and must give the same answer each time.
///
/// Implementations of [`add`](Self::add) should be `#[inline(always)]`, as they are compiled for each backend's instructions only where
/// they are inlined.
///
/// ```
/// use simd_attention::{Attention, Kv, Lanes, Score, View, ViewMut, scratch_len};
///
/// /// The nearer a key, the more it weighs: `-|q - k|^2`.
/// #[derive(Clone, Copy)]
/// struct Distance;
///
/// impl Score for Distance {
///     #[inline(always)]
///     fn add<V: Lanes>(&self, sum: V, query: V, key: V, _: usize) -> V {
///         let difference = query - key;
///         sum - difference * difference
///     }
/// }
///
/// let (q, k, v) = ([1f32, 0.0], [1f32, 0.0, 0.0, 1.0], [1f32, 0.0]);
/// let mut out = [0f32];
/// Attention::with_score(Distance).forward(
///     View::matrix(&q, [1, 2])?,
///     Kv::new(View::matrix(&k, [2, 2])?, View::matrix(&v, [2, 1])?)?,
///     ViewMut::matrix(&mut out, [1, 1])?,
///     &mut [0.0; scratch_len(2, 1)],
/// )?;
/// // Scores of 0 and -2.
/// assert!((out[0] - 1.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
/// # Ok::<(), simd_attention::Error>(())
/// ```
pub trait Score: Copy {
    /// Whether a query that is multiplied by a number has its scores multiplied by it: the scale is then applied to the queries, which
    /// costs less.
    const LINEAR: bool = false;

    /// Whether [`add`](Self::add) is the product's, whatever `t`: its terms may then be summed in any order.
    #[doc(hidden)]
    const IS_DOT: IsDot = IsDot(false);

    /// Whether [`sees`](Self::sees) ever says no.
    const MASKS: bool = false;

    /// Whether [`modify`](Self::modify) ever changes anything.
    const MODIFIES: bool = false;

    /// What queries are multiplied with before they meet the keys.
    fn projection(&self) -> Option<Projection<'_>> {
        None
    }

    /// The elements that a key must have; as many as a query after its projection, if nothing is said.
    fn key_dim(&self) -> Option<usize> {
        None
    }

    /// The scale, if the caller asks for none.
    fn default_scale(&self, key_dim: usize) -> f64 {
        let _ = key_dim;
        1.0
    }

    /// `sum`, and what element `t` of a key and of each query adds to it.
    fn add<V: Lanes>(&self, sum: V, query: V, key: V, t: usize) -> V;

    /// Whether the query may attend to the key, as far as this function has a say.
    fn sees(&self, at: Position) -> bool {
        let _ = at;
        true
    }

    /// The score that is to take the place of `score`, which is scaled, capped and biased, and rounded to `f32` if it is of `f64`.
    fn modify(&self, score: f32, at: Position) -> f32 {
        let _ = at;
        score
    }

    /// Computes the units that are left.
    #[doc(hidden)]
    fn run<E: Scalar>(&self, plan: &Plan<'_, E>, scratch: &mut [E]) {
        plan.run(self, scratch);
    }
}

/// Whether a score function is [`Dot`], which others cannot say of themselves, as they cannot name this type: kernels rely on it to read
/// as many elements as a query has.
#[derive(Clone, Copy)]
pub struct IsDot(pub(crate) bool);

/// What of a score function decides about shapes and scale.
#[derive(Clone, Copy)]
pub(crate) struct Form<'f> {
    pub(crate) projection: Option<Projection<'f>>,
    pub(crate) is_linear: bool,
    pub(crate) default_scale: f64,
    key_dim: Option<usize>,
}

impl<'f> Form<'f> {
    pub(crate) fn new<F: Score>(score: &'f F, keys: Shape) -> Self {
        Self {
            projection: score.projection(),
            is_linear: F::LINEAR,
            default_scale: score.default_scale(keys.dim),
            key_dim: score.key_dim(),
        }
    }

    /// The elements that a key must have.
    pub(crate) fn key_dim(&self, q: Shape) -> Result<usize, Error> {
        let projected = self.projection.map_or(Ok(q.dim), |projection| projection.key_dim(q))?;
        match self.key_dim {
            Some(expected) if expected != projected => Err(match self.projection {
                Some(_) => mismatch(Operand::Weights, Axis::Len, expected, projected),
                None => mismatch(Operand::Query, Axis::Dim, expected, projected),
            }),
            _ => Ok(projected),
        }
    }
}

const fn mismatch(operand: Operand, axis: Axis, expected: usize, actual: usize) -> Error {
    Error::ShapeMismatch { operand, axis, expected, actual }
}

/// `q . k`, by default over `sqrt(head_dim)` (Vaswani et al., 2017, "Attention Is All You Need"; without the scale, Luong et al., 2015,
/// "Effective Approaches to Attention-based Neural Machine Translation").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dot;

impl Score for Dot {
    const LINEAR: bool = true;
    const IS_DOT: IsDot = IsDot(true);

    fn default_scale(&self, key_dim: usize) -> f64 {
        libm::sqrt(1.0 / key_dim as f64)
    }

    #[inline(always)]
    fn add<V: Lanes>(&self, sum: V, query: V, key: V, _: usize) -> V {
        key.mul_add(query, sum)
    }

    fn run<E: Scalar>(&self, plan: &Plan<'_, E>, scratch: &mut [E]) {
        E::run_dot(plan, scratch);
    }
}
