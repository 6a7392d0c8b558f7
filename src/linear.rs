//! `x W' + b`: the projections around attention.

use crate::{
    Backend, Error, Shape, View, ViewMut,
    error::Operand,
    kernel::{Columns, Groups, Products, multiply, prefetch_next_group, transpose},
    kv::expect_shape,
    partition::{Partition, Split},
    score::product::Function,
    scratch::{self, Scratch, scratch_len},
    simd::{Kernel, MAX_BLOCKS, Simd, Task, Token, with_simd},
    validate::expect_len,
    view::{Rows, RowsMut},
};

/// A linear layer: `y = x W' + b`, with `W` `[out_dim, in_dim]`, as PyTorch's `Linear` and ONNX's `Gemm` (`transB`) have it.
///
/// One call runs on one thread; as rows do not depend on each other, several calls can share them.
///
/// ```
/// use simd_attention::{Linear, View, ViewMut, scratch_len};
///
/// // Two tokens of two elements become two tokens of three.
/// let (x, w, b) = ([1f32, 2.0, 3.0, 4.0], [1f32, 0.0, 0.0, 1.0, 1.0, 1.0], [0f32, 0.0, 10.0]);
/// let mut y = [0f32; 6];
/// Linear::new(View::matrix(&w, [3, 2])?).bias(&b).forward(
///     View::matrix(&x, [2, 2])?,
///     ViewMut::matrix(&mut y, [2, 3])?,
///     &mut [0.0; scratch_len(2, 0)],
/// )?;
/// assert_eq!(y, [1.0, 2.0, 13.0, 3.0, 4.0, 17.0]);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    weights: View<'a, f32>,
    bias: Option<&'a [f32]>,
    backend: Option<Backend>,
}

impl<'a> Linear<'a> {
    /// `W`, `[batch, heads, out_dim, in_dim]`; extents of 1 are repeated along batch and heads. Weights that lie in the order
    /// `[in_dim, out_dim]` must be transposed first.
    #[must_use]
    pub const fn new(weights: View<'a, f32>) -> Self {
        Self { weights, bias: None, backend: None }
    }

    /// Adds a number to each element of every output row.
    #[must_use]
    pub const fn bias(self, bias: &'a [f32]) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// Runs on this backend instead of the fastest one.
    #[must_use]
    pub const fn backend(self, backend: Backend) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Elements that an input row must have.
    #[must_use]
    pub const fn in_dim(&self) -> usize {
        self.weights.shape().dim
    }

    /// Elements that an output row must have.
    #[must_use]
    pub const fn out_dim(&self) -> usize {
        self.weights.shape().len
    }

    /// Computes `y = x W' + b`: `x [batch, heads, len, in_dim]`, `y [batch, heads, len, out_dim]`. `scratch` is working memory of at least
    /// [`scratch_len(in_dim, 0)`](crate::scratch_len) elements, whose contents don't matter before or after.
    ///
    /// A row of `y` depends on the same row of `x` alone, bit for bit. Time is `O(in_dim * out_dim)` for each row.
    ///
    /// # Errors
    ///
    /// Before anything is written:
    ///
    /// - [`Error::ShapeMismatch`]: the extents of `x`, weights and `y` disagree.
    /// - [`Error::LengthMismatch`]: there are not as many biases as output elements.
    /// - [`Error::ScratchTooShort`], [`Error::BackendUnavailable`].
    pub fn forward(&self, x: View<'_, f32>, y: ViewMut<'_, f32>, scratch: &mut [f32]) -> Result<(), Error> {
        let (weights, backend) = self.check(Operand::Input, x.shape(), y.shape())?;
        scratch::check(scratch_len(x.shape().dim, 0), scratch)?;

        let (x, y) = merged(x, y, weights);
        let (shape, y) = (x.shape(), y.into_shared());
        let split = with_simd!(backend, simd => split(simd));
        let partition = Partition::new(shape.len, &split);
        for (batch, head) in (0..shape.batch).flat_map(|batch| (0..shape.heads).map(move |head| (batch, head))) {
            let (Some(x), Some(weights)) = (x.rows(batch, head), weights.rows(batch, head)) else { break };
            for part in (0..partition.units).map(|unit| partition.part(unit)) {
                let rows = x.range(part.first, part.len);
                // SAFETY: nobody else has any of these rows.
                let y = rows.and_then(|rows| unsafe { y.rows_mut(batch, &(head..head + 1), part.first, rows.len()) });
                let Some((x, y)) = rows.zip(y) else { break };
                let unit = Unit { x, weights, bias: self.bias, y, scratch: &mut *scratch };
                with_simd!(backend, simd => simd.run(part.cols, unit));
            }
        }
        Ok(())
    }

    /// The weights of every batch and head, and the backend, if the layer fits such an output and such an input, which is an operand's.
    pub(crate) fn check(&self, operand: Operand, x: Shape, y: Shape) -> Result<(View<'a, f32>, Token), Error> {
        let expected = Shape { batch: x.batch, heads: x.heads, ..self.weights.shape() };
        let weights = self.weights.broadcast(Operand::Weights, expected)?;
        expect_shape(operand, Shape { dim: expected.dim, ..x }, x)?;
        expect_shape(Operand::Output, Shape { dim: expected.len, ..x }, y)?;
        expect_len(Operand::Bias, expected.len, self.bias)?;
        Ok((weights, Backend::token_of(self.backend)?))
    }
}

/// A batch of rows that lie evenly and are multiplied with the same weights is one sequence: blocks may then go from one to the next.
fn merged<'x, 'y>(x: View<'x, f32>, y: ViewMut<'y, f32>, weights: View<'_, f32>) -> (View<'x, f32>, ViewMut<'y, f32>) {
    let is_even = weights.strides().batch == 0 && y.strides().merged(y.shape()).is_some();
    match x.joined().filter(|_| is_even) {
        Some(x) => (x, y.joined()),
        None => (x, y),
    }
}

/// A unit has as many blocks of rows as there is room for: weights are fetched once for all of them.
fn split<S: Simd>(simd: S) -> Split {
    Split::with_blocks(simd, S::BLOCKS)
}

/// Elements of `x` that are multiplied in one go: as many as stay in the first cache for all the vectors of a block.
const CHUNK: usize = 128;

/// Consecutive rows of `x`, each in a lane of its own.
struct Unit<'a> {
    x: Rows<'a, f32>,
    weights: Rows<'a, f32>,
    bias: Option<&'a [f32]>,
    y: RowsMut<'a, f32>,
    scratch: &'a mut [f32],
}

impl Kernel for Unit<'_> {
    type Scalar = f32;
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<Scalar = f32>, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) {
        let Self { x, weights, bias, mut y, scratch } = self;
        let mut scratch = Scratch::<S, COLS>::new(scratch);
        let Some(sums) = scratch.score_tile(Products::Many) else { return };
        let mut blocks = [const { None }; MAX_BLOCKS];
        for (block, first) in blocks.iter_mut().zip((0..x.len()).step_by(COLS * S::LANES)) {
            let rows = x.range(first, COLS * S::LANES).and_then(|rows| rows.walk());
            let (Some(rows), Some(to)) = (rows, scratch.take(x.dim())) else { break };
            // SAFETY: these rows exist, each as long as the block.
            unsafe { transpose::load(simd, rows, 1.0, to) };
            *block = Some(to);
        }
        let one = [simd.splat(1.0); COLS];
        for first in (0..weights.len()).step_by(S::KEY_TILE) {
            let Some(weights) = weights.range(first, S::KEY_TILE) else { break };
            let Some(sums) = sums.get_mut(..weights.len()) else { break };
            for (block, row) in blocks.iter().flatten().zip((0..).step_by(COLS * S::LANES)) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let bias = bias.and_then(|bias| bias.get(first + i)).copied().unwrap_or_default();
                    *sum = [simd.splat(bias); COLS];
                }
                for (x, start) in block.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
                    simd.call(Project::<_, ROWS, NARROW, COLS> { simd, x, weights, start, sums: &mut *sums });
                }
                transpose::store(simd, sums, Columns::new(0), one, &mut y, [row, first]);
            }
        }
    }
}

/// `sums[i][row] += weights[i][start..] . x[..][row]`
struct Project<'a, S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize> {
    simd: S,
    /// `[element][row]`
    x: &'a [[S::Vector; COLS]],
    weights: Rows<'a, S::Scalar>,
    /// The element of the weights that belongs to the first one of `x`.
    start: usize,
    /// `[row of the weights][row]`
    sums: &'a mut [[S::Vector; COLS]],
}

impl<S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize> Task for Project<'_, S, ROWS, NARROW, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let sums = core::mem::take(&mut self.sums);
        self.all::<ROWS, NARROW>(sums);
    }
}

impl<S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize> Groups<[S::Vector; COLS]>
    for Project<'_, S, ROWS, NARROW, COLS>
{
    #[inline(always)]
    fn group<const N: usize>(&mut self, first: usize, sums: &mut [[S::Vector; COLS]; N]) {
        let Self { simd, x, weights, start, .. } = *self;
        debug_assert!(first + N <= weights.len() && start + x.len() <= weights.dim());
        let rows: [*const S::Scalar; N] = core::array::from_fn(|i| weights.row_ptr(first + i).wrapping_add(start));
        // SAFETY: there are as many rows as sums, and each has these elements.
        let weight = |i: usize, t| unsafe { *rows[i].add(t) };
        let next_group = |t: usize| prefetch_next_group(&rows, weights.stride(), t);
        let products: [[S::Vector; COLS]; N] = multiply(Function::dot(simd), Columns::new(0), x, weight, next_group);
        for (sums, products) in sums.iter_mut().zip(&products) {
            for (sum, product) in sums.iter_mut().zip(products) {
                *sum = simd.add(*sum, *product);
            }
        }
    }
}
