//! Keys and values: what callers say of them, and what the kernels see.

use core::ops::Range;

use crate::{
    Element, Error, Float, Shape, View,
    error::{Axis, Operand},
    floats::FloatView,
    pages::PageTable,
    simd::Simd,
    store::{Store, Strips},
};

/// Keys `[batch, kv_heads, kv_len, head_dim]` with their values `[batch, kv_heads, kv_len, value_dim]`, of `f32`, `f64`, `f16`, `bf16` or
/// [quantised](Quantized) `i8`, contiguous or [in pages](Self::pages).
#[derive(Clone, Copy, Debug)]
pub struct Kv<'a, T> {
    keys: View<'a, T>,
    values: View<'a, T>,
    scales: Option<[View<'a, f32>; 2]>,
    lens: Option<&'a [usize]>,
    pages: Option<View<'a, u32>>,
}

impl<'a, T: Float> Kv<'a, T> {
    /// Pairs keys with values; `head_dim` and `value_dim` may differ.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `batch`, `heads` or `len` differ.
    pub fn new(keys: View<'a, T>, values: View<'a, T>) -> Result<Self, Error> {
        Self::pair([keys, values], None)
    }
}

impl<'a> Kv<'a, i8> {
    /// Pairs quantised keys with quantised values; `head_dim` and `value_dim` may differ, and so may the groups that have scales.
    ///
    /// A row's only scale may be multiplied with once its integers have been summed up: products of these with queries, times the scale of
    /// scores, are to be in the range of `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `batch`, `heads` or `len` differ.
    pub fn quantized(keys: Quantized<'a>, values: Quantized<'a>) -> Result<Self, Error> {
        Self::pair([keys.numbers, values.numbers], Some([keys.scales, values.scales]))
    }
}

impl<'a, T> Kv<'a, T> {
    fn pair([keys, values]: [View<'a, T>; 2], scales: Option<[View<'a, f32>; 2]>) -> Result<Self, Error> {
        let expected = Shape { dim: values.shape().dim, ..keys.shape() };
        expect_shape(Operand::Value, expected, values.shape())?;
        Ok(Self { keys, values, scales, lens: None, pages: None })
    }

    /// How many keys each sequence of the batch has, where there is room for `kv_len`. What lies past them is never read
    /// (unless scores from before the mask are asked for, by [`Output::scores`](crate::Output::scores)); the diagonal of [causal
    /// masks](crate::Attention::causal) ends at the last one.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Two sequences with room for three keys; the second has only one.
    /// let (q, k, v) = ([0f32; 2], [0.0; 6], [1.0, 2.0, 3.0, 4.0, f32::NAN, f32::NAN]);
    /// let mut out = [0f32; 2];
    /// let view = |data| View::heads_first(data, [2, 1, 3, 1]);
    /// Attention::new().forward(
    ///     View::heads_first(&q, [2, 1, 1, 1])?,
    ///     Kv::new(view(&k)?, view(&v)?)?.lens(&[3, 1]),
    ///     ViewMut::heads_first(&mut out, [2, 1, 1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [2.0, 4.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn lens(self, lens: &'a [usize]) -> Self
    where
        T: Copy,
    {
        Self { lens: Some(lens), ..self }
    }

    /// The keys and values are pages that all sequences share, `[pages, kv_heads, page_size, head_dim]` (paged attention: Kwon et al.,
    /// 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention"): key `j` of sequence `b` is row
    /// `j % page_size` of page `table[b][j / page_size]`.
    ///
    /// The table is a matrix `[batch, pages of a sequence]`. Pages may be of any size, come in any order, and belong to several sequences. There is
    /// room for as many keys as a sequence's pages have; with [`lens`](Self::lens), numbers of pages past a sequence's length are not looked
    /// at, and nothing past it is ever read: its [scores](crate::Output::scores) are those of masked keys at every stage. Pages of 64 tokens or
    /// more are read faster than small ones. [`cache_scratch_len`](crate::cache_scratch_len) says how much scratch this takes.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, cache_scratch_len};
    ///
    /// // Three pages of two tokens. The first sequence has three tokens; the second has four, the first two of which are shared.
    /// let (k, v) = ([0.0; 6], [5.0, 6.0, 1.0, 2.0, 3.0, f32::NAN]);
    /// let table = [1, 2, 1, 0];
    /// let mut out = [0f32; 2];
    /// let pool = |data| View::heads_first(data, [3, 1, 2, 1]);
    /// Attention::new().forward(
    ///     View::heads_first(&[0f32; 2], [2, 1, 1, 1])?,
    ///     Kv::new(pool(&k)?, pool(&v)?)?.pages(View::matrix(&table, [2, 2])?).lens(&[3, 4]),
    ///     ViewMut::heads_first(&mut out, [2, 1, 1, 1])?,
    ///     &mut [0.0; cache_scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [2.0, 3.5]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn pages(self, table: View<'a, u32>) -> Self
    where
        T: Copy,
    {
        Self { pages: Some(table), ..self }
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> View<'a, T>
    where
        T: Copy,
    {
        self.keys
    }

    /// The values.
    #[must_use]
    pub const fn values(&self) -> View<'a, T>
    where
        T: Copy,
    {
        self.values
    }

    /// Whatever the type of the elements.
    pub(crate) fn cache(self) -> Cache<'a, T::Sum>
    where
        T: Element,
    {
        let Self { keys, values, scales, lens, pages } = self;
        let [key_scales, value_scales] = scales.map_or([None; 2], |scales| scales.map(Some));
        Cache { keys: T::store(keys, key_scales), values: T::store(values, value_scales), lens, pages }
    }
}

/// Numbers of 8 bits `[batch, kv_heads, kv_len, dim]` with scales `[batch, kv_heads, kv_len, groups]`: the elements of a row are divided into as
/// many groups as it has scales, each of `dim / groups` neighbours, and each element stands for its number times the scale of its group.
///
/// One scale for each token and head (`groups = 1`) is fastest. Rows are quantised by [`quantize`](crate::quantize).
///
/// ```
/// use simd_attention::{Attention, Kv, Quantized, View, ViewMut, cache_scratch_len};
///
/// // Two tokens of two elements.
/// let (numbers, scales) = ([100, -50, 127, 0], [0.01f32, 1.0]);
/// let values = Quantized::new(View::matrix(&numbers, [2, 2])?, View::matrix(&scales, [2, 1])?)?;
/// let keys = Quantized::new(View::matrix(&[0; 4], [2, 2])?, View::matrix(&scales, [2, 1])?)?;
/// let mut out = [0f32; 2];
/// Attention::new().forward(
///     View::matrix(&[0f32; 2], [1, 2])?,
///     Kv::quantized(keys, values)?,
///     ViewMut::matrix(&mut out, [1, 2])?,
///     &mut [0.0; cache_scratch_len(2, 2)],
/// )?;
/// // Half of `[1, -0.5]` and half of `[127, 0]`.
/// assert!((out[0] - 64.0).abs() < 0.01 && (out[1] + 0.25).abs() < 0.01);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    numbers: View<'a, i8>,
    scales: View<'a, f32>,
}

impl<'a> Quantized<'a> {
    /// Numbers with their scales.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `batch`, `heads` or `len` differ, [`Error::GroupsNotDivisible`] where `dim` cannot be divided evenly into
    /// groups.
    pub fn new(numbers: View<'a, i8>, scales: View<'a, f32>) -> Result<Self, Error> {
        expect_scales(numbers.shape(), scales.shape())?;
        Ok(Self { numbers, scales })
    }

    /// The numbers.
    #[must_use]
    pub const fn numbers(&self) -> View<'a, i8> {
        self.numbers
    }

    /// The scales.
    #[must_use]
    pub const fn scales(&self) -> View<'a, f32> {
        self.scales
    }
}

/// Whether scales can be those of numbers of this shape.
pub(crate) fn expect_scales(numbers: Shape, scales: Shape) -> Result<(), Error> {
    let (dim, groups) = (numbers.dim, scales.dim);
    expect_shape(Operand::QuantizationScales, Shape { dim: groups, ..numbers }, scales)?;
    if dim.checked_rem(groups) == Some(0) { Ok(()) } else { Err(Error::GroupsNotDivisible { dim, groups }) }
}

/// A [`Kv`], whatever the type of its elements.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'a, E> {
    keys: Store<'a, E>,
    values: Store<'a, E>,
    pub(crate) lens: Option<&'a [usize]>,
    pages: Option<View<'a, u32>>,
}

impl<'a, E: Copy> Cache<'a, E> {
    /// `[batch, kv_heads, kv_len, head_dim]`, where `kv_len` is what there is room for.
    pub(crate) fn shape(&self) -> Shape {
        self.table().map_or(self.keys.shape(), |table| table.shape())
    }

    pub(crate) const fn value_dim(&self) -> usize {
        self.values.shape().dim
    }

    pub(crate) const fn is_paged(&self) -> bool {
        self.pages.is_some()
    }

    /// Whether keys and values are of what is computed in, and lie evenly.
    pub(crate) const fn is_plain(&self) -> bool {
        self.keys.is_scalars() && self.values.is_scalars() && !self.is_paged()
    }

    /// Whether values that lie evenly are so [far apart](Simd::FAR) that they are copied for several blocks.
    pub(crate) fn has_far_values<S: Simd>(&self) -> bool {
        let (Store::Floats(FloatView::Scalars(values)), Some(far)) = (&self.values, S::FAR) else { return false };
        let bytes = values.strides().len.wrapping_mul(size_of::<E>());
        self.is_plain() && bytes > 0 && bytes.is_multiple_of(far)
    }

    /// Whether keys and values are `bf16`.
    pub(crate) const fn is_bf16(&self) -> bool {
        self.keys.is_bf16() && self.values.is_bf16()
    }

    /// Whether keys and values are integers, with one scale for each row, and keys are so short that sums of their products with 16 bits fit into 32.
    pub(crate) fn is_i8_with_single_scales(&self) -> bool {
        self.keys.has_single_scales() && self.values.has_single_scales() && self.shape().dim <= 1 << 9
    }

    /// Whether the pages of all these keys of a sequence exist.
    pub(crate) fn check_pages(&self, sequence: usize, keys: &Range<usize>) -> Result<(), Error> {
        self.table().map_or(Ok(()), |table| table.check(sequence, keys))
    }

    /// Keys and values of one head of a sequence that has this many keys.
    pub(crate) fn head(&self, batch: usize, head: usize, kv_len: usize) -> Option<[Strips<'a, E>; 2]> {
        let pages = self.table().map(|table| {
            let all = table.of_sequence(batch);
            all.get(..kv_len.div_ceil(table.pages.len.max(1))).unwrap_or(all)
        });
        Some([self.keys.head(batch, head, pages)?, self.values.head(batch, head, pages)?])
    }

    fn table(&self) -> Option<PageTable<'a>> {
        self.pages.map(|numbers| PageTable { numbers, pages: self.keys.shape() })
    }
}

/// Names the first axis in which two shapes differ.
pub(crate) fn expect_shape(operand: Operand, expected: Shape, actual: Shape) -> Result<(), Error> {
    [
        (Axis::Batch, expected.batch, actual.batch),
        (Axis::Heads, expected.heads, actual.heads),
        (Axis::Len, expected.len, actual.len),
        (Axis::Dim, expected.dim, actual.dim),
    ]
    .into_iter()
    .find(|&(_, expected, actual)| expected != actual)
    .map_or(Ok(()), |(axis, expected, actual)| Err(Error::ShapeMismatch { operand, axis, expected, actual }))
}
