//! Rank-4 strided views `[batch, heads, len, dim]` of slices that the caller owns.
//!
//! A view's constructor proves, once, that every element its shape and strides reach lies within the slice. What the
//! kernels take from it, [`Rows`] and [`RowsMut`], carries that proof on, and so does [`Strip`].

mod strip;

use core::{array::from_fn, marker::PhantomData, num::NonZeroUsize, ops::Range};

use crate::{
    element::Bf16,
    error::{Axis, Error, Operand},
    kv::expect_shape,
    scalar::Scalar,
    simd::{CACHE_LINE, prefetch},
};

pub(crate) use strip::{Ahead, Ask, ByAddress, ByStretch, Evenly, Reader, Soon, Strip, Walk, Walker, rows_ahead};

/// Extents of a rank-4 tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Independent sequences.
    pub batch: usize,
    /// Heads of each sequence.
    pub heads: usize,
    /// Tokens of each sequence: `q_len` or `kv_len`.
    pub len: usize,
    /// Elements of each token's vector: `head_dim` or `value_dim`.
    pub dim: usize,
}

impl Shape {
    /// Whether the tensor has no element although its `dim` may be positive.
    pub(crate) const fn has_no_rows(&self) -> bool {
        self.batch == 0 || self.heads == 0 || self.len == 0
    }

    /// `batch * heads * len`, the number of rows, if a `usize` can count them.
    pub(crate) fn rows(&self) -> Option<usize> {
        self.batch.checked_mul(self.heads)?.checked_mul(self.len)
    }
}

/// Distances, in elements, between neighbours along each axis but the last; along `dim`, elements are contiguous.
///
/// A stride of an input may be zero, which repeats (broadcasts) it along that axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one sequence to the next.
    pub batch: usize,
    /// From one head to the next.
    pub heads: usize,
    /// From one token to the next.
    pub len: usize,
}

/// The most elements, or rows, that a tensor has: offsets are later computed in bytes as an `isize`, and numbers of rows somewhat beyond
/// the last one.
pub(crate) const MOST: usize = isize::MAX as usize / size_of::<u64>();

impl Strides {
    /// Elements from the first to one past the last that `shape` reaches.
    fn span(&self, shape: Shape) -> Result<usize, Error> {
        if shape.dim == 0 {
            return Err(Error::ZeroDim);
        }
        if shape.has_no_rows() {
            return Ok(0);
        }
        let span = [(self.batch, shape.batch), (self.heads, shape.heads), (self.len, shape.len)]
            .iter()
            .try_fold(shape.dim, |span, &(stride, extent)| stride.checked_mul(extent - 1)?.checked_add(span));
        // Repeated rows are counted, too.
        match (span, shape.rows()) {
            (Some(span), Some(rows)) if span.max(rows) <= MOST => Ok(span),
            _ => Err(Error::SizeOverflow { shape }),
        }
    }

    /// The shape that has all batches as one, if they lie evenly one after the other and there are no heads.
    pub(crate) fn merged(&self, shape: Shape) -> Option<Shape> {
        let Shape { batch, heads, len, .. } = shape;
        let is_even = heads == 1 && (batch <= 1 || Some(self.batch) == self.len.checked_mul(len));
        (is_even && len > 0).then_some(Shape {
            batch: batch.min(1),
            len: if batch == 0 { 0 } else { batch * len },
            ..shape
        })
    }

    /// Strides that nest: each axis steps over all that the axes below it reach, so no two rows share an element.
    fn check_disjoint(&self, shape: Shape) -> Result<(), Error> {
        if shape.has_no_rows() {
            return Ok(());
        }
        let a = (self.batch, shape.batch, Axis::Batch);
        let b = (self.heads, shape.heads, Axis::Heads);
        let c = (self.len, shape.len, Axis::Len);
        let (a, b) = by_stride(a, b);
        let (b, c) = by_stride(b, c);
        let (a, b) = by_stride(a, b);
        let mut span = shape.dim;
        for (stride, extent, axis) in [a, b, c] {
            if extent > 1 {
                if stride < span {
                    return Err(Error::OverlappingRows { axis, required: span, actual: stride });
                }
                // Cannot overflow: `span` was called first.
                span += stride * (extent - 1);
            }
        }
        Ok(())
    }
}

/// Two axes `(stride, ..)`, the smaller stride first.
fn by_stride<A>(a: (usize, usize, A), b: (usize, usize, A)) -> ((usize, usize, A), (usize, usize, A)) {
    if b.0 < a.0 { (b, a) } else { (a, b) }
}

/// Shape and strides of a tensor whose axes lie in memory in the order `[batch, heads, len, dim]`.
fn heads_first([batch, heads, len, dim]: [usize; 4]) -> Result<(Shape, Strides), Error> {
    let shape = Shape { batch, heads, len, dim };
    let strides = (|| {
        let per_head = len.checked_mul(dim)?;
        Some(Strides { batch: heads.checked_mul(per_head)?, heads: per_head, len: dim })
    })();
    Ok((shape, strides.ok_or(Error::SizeOverflow { shape })?))
}

/// Shape and strides of a tensor whose axes lie in memory in the order `[batch, len, heads, dim]`.
fn tokens_first([batch, len, heads, dim]: [usize; 4]) -> Result<(Shape, Strides), Error> {
    let shape = Shape { batch, heads, len, dim };
    let strides = (|| {
        let per_token = heads.checked_mul(dim)?;
        Some(Strides { batch: len.checked_mul(per_token)?, heads: dim, len: per_token })
    })();
    Ok((shape, strides.ok_or(Error::SizeOverflow { shape })?))
}

/// A tensor `[batch, heads, len, dim]` to read.
///
/// ```
/// use simd_attention::{Shape, Strides, View};
///
/// // The keys of a fused projection [token][query | key | value], two heads of 4, read where they lie.
/// let qkv = [0.0f32; 10 * 3 * 2 * 4];
/// let shape = Shape { batch: 1, heads: 2, len: 10, dim: 4 };
/// let keys = View::strided(&qkv[8..], shape, Strides { batch: 0, heads: 4, len: 24 })?;
/// assert_eq!(keys.shape().len, 10);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    shape: Shape,
    strides: Strides,
}

/// A tensor `[batch, heads, len, dim]` to write, no two rows of which share an element.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    data: &'a mut [T],
    shape: Shape,
    strides: Strides,
}

macro_rules! constructors {
    ($slice:ty) => {
        /// One head of one sequence: a contiguous matrix `[len, dim]`.
        ///
        /// # Errors
        ///
        /// As [`strided`](Self::strided).
        pub fn matrix(data: $slice, [len, dim]: [usize; 2]) -> Result<Self, Error> {
            Self::heads_first(data, [1, 1, len, dim])
        }

        /// A contiguous tensor in the order `[batch, heads, len, dim]` ("BHSD").
        ///
        /// # Errors
        ///
        /// As [`strided`](Self::strided).
        pub fn heads_first(data: $slice, extents: [usize; 4]) -> Result<Self, Error> {
            let (shape, strides) = heads_first(extents)?;
            Self::strided(data, shape, strides)
        }

        /// A contiguous tensor in the order `[batch, len, heads, dim]` ("BSHD").
        ///
        /// # Errors
        ///
        /// As [`strided`](Self::strided).
        pub fn tokens_first(data: $slice, extents: [usize; 4]) -> Result<Self, Error> {
            let (shape, strides) = tokens_first(extents)?;
            Self::strided(data, shape, strides)
        }

        /// The extents.
        #[must_use]
        pub const fn shape(&self) -> Shape {
            self.shape
        }

        /// The distances between neighbours.
        #[must_use]
        pub const fn strides(&self) -> Strides {
            self.strides
        }
    };
}

impl<'a, T> View<'a, T> {
    constructors!(&'a [T]);

    /// Any layout whose last axis is contiguous. `data[0]` is the first element; elements past the last are ignored.
    ///
    /// # Errors
    ///
    /// - [`Error::ZeroDim`]: `shape.dim` is zero (any other extent may be).
    /// - [`Error::SizeOverflow`]: shape and strides reach further than a `usize` counts.
    /// - [`Error::StorageTooShort`]: shape and strides reach past the end of `data`.
    pub fn strided(data: &'a [T], shape: Shape, strides: Strides) -> Result<Self, Error> {
        let required = strides.span(shape)?;
        if data.len() < required {
            return Err(Error::StorageTooShort { required, actual: data.len() });
        }
        Ok(Self { data, shape, strides })
    }

    /// The same rows [as one sequence](Strides::merged).
    pub(crate) fn joined(self) -> Option<Self> {
        let shape = self.strides.merged(self.shape)?;
        Some(Self { shape, ..self })
    }

    /// Repeated along the axes in which it has an extent of 1, to be of this shape; a `dim` of 1 stays.
    pub(crate) fn broadcast(self, operand: Operand, to: Shape) -> Result<Self, Error> {
        let Self { data, shape, strides } = self;
        let stretch = |from: usize, to: usize, stride: usize| if from == 1 { (to, 0) } else { (from, stride) };
        let (batch, batch_stride) = stretch(shape.batch, to.batch, strides.batch);
        let (heads, head_stride) = stretch(shape.heads, to.heads, strides.heads);
        let (len, row_stride) = stretch(shape.len, to.len, strides.len);
        let dim = if shape.dim == 1 { to.dim } else { shape.dim };
        expect_shape(operand, to, Shape { batch, heads, len, dim })?;
        let shape = Shape { batch, heads, len, dim: shape.dim };
        Ok(Self { data, shape, strides: Strides { batch: batch_stride, heads: head_stride, len: row_stride } })
    }

    /// The rows `first .. first + len` of some heads of one sequence, those of one head after those of another; `None` unless there are
    /// all of them, and some.
    pub(crate) fn group(
        &self,
        batch: usize,
        heads: &Range<usize>,
        first: usize,
        len: usize,
    ) -> Option<GroupRows<'a, T>> {
        let Self { shape, strides, .. } = *self;
        let per_head = NonZeroUsize::new(len).filter(|_| first.checked_add(len).is_some_and(|end| end <= shape.len))?;
        let rows = self.rows(batch, heads.start)?.range(first, len)?;
        let heads = (heads.end <= shape.heads).then_some(heads.len())?;
        Some(GroupRows { rows, heads, per_head, head_stride: strides.heads })
    }

    /// The rows of one head of one sequence, or `None` past the end.
    pub(crate) fn rows(&self, batch: usize, head: usize) -> Option<Rows<'a, T>> {
        let Self { data, shape, strides } = *self;
        if batch >= shape.batch || head >= shape.heads || shape.len == 0 {
            return None;
        }
        let first = data.get(batch * strides.batch + head * strides.heads..)?;
        Some(Rows { first: first.as_ptr(), stride: strides.len, len: shape.len, dim: shape.dim, data: PhantomData })
    }
}

impl<'a, T> ViewMut<'a, T> {
    constructors!(&'a mut [T]);

    /// Any layout whose last axis is contiguous and whose rows lie apart: sorted by stride, each axis must step over all
    /// that the axes below it reach. Elements between and past the rows are never written.
    ///
    /// # Errors
    ///
    /// Those of [`View::strided`], and [`Error::OverlappingRows`] where two rows could share an element.
    pub fn strided(data: &'a mut [T], shape: Shape, strides: Strides) -> Result<Self, Error> {
        let required = strides.span(shape)?;
        strides.check_disjoint(shape)?;
        if data.len() < required {
            return Err(Error::StorageTooShort { required, actual: data.len() });
        }
        Ok(Self { data, shape, strides })
    }

    /// As [`View::joined`], or unchanged.
    pub(crate) fn joined(self) -> Self {
        Self { shape: self.strides.merged(self.shape).unwrap_or(self.shape), ..self }
    }

    /// One row, or an empty slice where there is none.
    pub(crate) fn row_mut(&mut self, batch: usize, head: usize, i: usize) -> &mut [T] {
        let Self { shape, strides, .. } = *self;
        if batch >= shape.batch || head >= shape.heads || i >= shape.len {
            return &mut [];
        }
        let first = batch * strides.batch + head * strides.heads + i * strides.len;
        self.data.get_mut(first..first + shape.dim).unwrap_or_default()
    }

    /// Gives the storage away as rows that several threads may write, each its own.
    pub(crate) fn into_shared(self) -> SharedRows<'a, T> {
        SharedRows { first: self.data.as_mut_ptr(), shape: self.shape, strides: self.strides, data: PhantomData }
    }
}

/// Rows of one head to read: `len >= 1` of them, each of `dim` contiguous elements.
///
/// Invariant, from [`View`]: for `i < len` and `t < dim`, `first + i * stride + t` is readable for `'a`.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    first: *const T,
    stride: usize,
    len: usize,
    dim: usize,
    data: PhantomData<&'a [T]>,
}

/// Two numbers side by side.
pub type Pair = [u16; 2];

impl<'a> Rows<'a, Bf16> {
    /// The same in pairs, if that goes evenly.
    #[inline(always)]
    pub(crate) fn pairs(&self) -> Option<Rows<'a, Pair>> {
        let Self { first, stride, len, dim, data: _ } = *self;
        // They lie as those of `u16` do; a pair is aligned as one of them is.
        (stride % 2 == 0 && dim % 2 == 0).then_some(Rows {
            first: first.cast(),
            stride: stride / 2,
            len,
            dim: dim / 2,
            data: PhantomData,
        })
    }
}

impl<T> Rows<'_, T> {
    /// Row by row, if there is one.
    #[inline(always)]
    pub(crate) fn walk(&self) -> Option<GroupWalk<T>> {
        Some(GroupWalk::new(self.first, 0, (self.len, NonZeroUsize::new(self.len)?), [self.stride, 0]))
    }
}

impl<'a, E: Scalar> Rows<'a, E> {
    /// Each number taken for a pair, if it has as many bits: on a little-endian CPU, as all with such products are, the lower half of its bits, and the upper one.
    #[inline(always)]
    pub(crate) fn as_pairs(&self) -> Option<Rows<'a, Pair>> {
        let Self { first, stride, len, dim, data: _ } = *self;
        let has_as_many_bits = size_of::<E>() == size_of::<Pair>();
        has_as_many_bits.then_some(Rows { first: first.cast(), stride, len, dim, data: PhantomData })
    }
}

impl<'a, T> Rows<'a, T> {
    /// As many rows, one after the other, as a slice has; `None` if it has none.
    #[inline(always)]
    pub(crate) fn of(data: &'a [T], dim: NonZeroUsize) -> Option<Self> {
        let len = data.len() / dim;
        (len > 0).then_some(Self { first: data.as_ptr(), stride: dim.get(), len, dim: dim.get(), data: PhantomData })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) const fn stride(&self) -> usize {
        self.stride
    }

    /// Rows `start..start + len`, cut to those that exist; `None` if none does.
    #[inline(always)]
    pub(crate) fn range(&self, start: usize, len: usize) -> Option<Self> {
        if start >= self.len || len == 0 {
            return None;
        }
        // In bounds: `start < self.len`.
        let first = self.first.wrapping_add(start * self.stride);
        Some(Self { first, len: len.min(self.len - start), ..*self })
    }

    /// Elements `start..start + dim` of each row; `None` if they have not as many.
    #[inline(always)]
    pub(crate) fn columns(&self, start: usize, dim: usize) -> Option<Self> {
        // In bounds: `start <= self.dim`.
        let is_within = start <= self.dim && dim <= self.dim - start;
        is_within.then_some(Self { first: self.first.wrapping_add(start), dim, ..*self })
    }

    /// Where row `i` begins, or would begin; `dim` elements may be read there if `i < len`.
    #[inline(always)]
    pub(crate) fn row_ptr(&self, i: usize) -> *const T {
        self.first.wrapping_add(i.wrapping_mul(self.stride))
    }

    /// Row `i`, or an empty slice where there is none.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        if i >= self.len {
            return &[];
        }
        // SAFETY: `i < len`, so by the type's invariant `dim` elements are readable there for `'a`.
        unsafe { core::slice::from_raw_parts(self.row_ptr(i), self.dim) }
    }
}

/// Rows of some heads to read, as many of each.
#[derive(Clone, Copy)]
pub(crate) struct GroupRows<'a, T> {
    /// Those of the first head.
    rows: Rows<'a, T>,
    heads: usize,
    per_head: NonZeroUsize,
    head_stride: usize,
}

impl<T> GroupRows<'_, T> {
    pub(crate) const fn len(&self) -> usize {
        // No overflow: there are as many rows.
        self.heads * self.per_head.get()
    }

    pub(crate) const fn dim(&self) -> usize {
        self.rows.dim
    }

    /// Where row `i` begins; `dim` elements may be read there if `i < len`.
    #[inline(always)]
    pub(crate) fn row_ptr(&self, i: usize) -> *const T {
        let [head, i] = split_index(i, self.per_head);
        self.rows.row_ptr(i).wrapping_add(head * self.head_stride)
    }

    /// Row by row from number `first` on, if there is one.
    #[inline(always)]
    pub(crate) fn walk(&self, first: usize) -> Option<GroupWalk<T>> {
        let strides = [self.rows.stride, self.head_stride];
        (first < self.len()).then(|| GroupWalk::new(self.row_ptr(first), first, (self.len(), self.per_head), strides))
    }

    /// Asks for row `i`, if there is one.
    #[inline(always)]
    pub(crate) fn prefetch(&self, i: usize) {
        if i < self.len() {
            lines(self.row_ptr(i), self.rows.dim).for_each(prefetch);
        }
    }
}

/// A walk over where rows of some heads begin; it stays at the last one.
pub(crate) struct GroupWalk<T> {
    next: *const T,
    /// Rows of its head from this one on, at least one, and those of later heads.
    rows: usize,
    later_rows: usize,
    per_head: NonZeroUsize,
    stride: usize,
    head_stride: usize,
}

impl<T> GroupWalk<T> {
    /// From row `i < len` on, which begins at `next`.
    #[inline(always)]
    fn new(
        next: *const T,
        i: usize,
        (len, per_head): (usize, NonZeroUsize),
        [stride, head_stride]: [usize; 2],
    ) -> Self {
        let [_, of_head] = split_index(i, per_head);
        let rows = per_head.get() - of_head;
        Self { next, rows, later_rows: len - i - rows, per_head, stride, head_stride }
    }

    /// So many rows, at most 16.
    #[inline(always)]
    pub(crate) fn next_rows(&mut self, count: usize) -> [*const T; 16] {
        // Past the end, strides may be of any size.
        let mut rows = from_fn(|i| self.next.wrapping_add(self.stride.wrapping_mul(i)));
        if self.rows > count {
            self.next = self.next.wrapping_add(count * self.stride);
            self.rows -= count;
        } else {
            for row in rows.iter_mut().take(count) {
                *row = self.next;
                self.step();
            }
        }
        rows
    }

    #[inline(always)]
    fn step(&mut self) {
        if self.rows > 1 {
            self.next = self.next.wrapping_add(self.stride);
            self.rows -= 1;
        } else if self.later_rows > 0 {
            let first = self.next.wrapping_sub((self.per_head.get() - 1) * self.stride);
            self.next = first.wrapping_add(self.head_stride);
            self.rows = self.per_head.get();
            self.later_rows -= self.rows;
        }
    }
}

/// Which head row `i` belongs to, and which of its rows it is.
#[inline(always)]
pub(crate) fn split_index(i: usize, per_head: NonZeroUsize) -> [usize; 2] {
    // Mostly there is but one, and a division takes its time.
    if i < per_head.get() { [0, i] } else { [i / per_head, i % per_head] }
}

/// The storage of an output, to be written row by row from several threads.
///
/// Invariant, from [`ViewMut`]: every row that `shape` counts lies within storage borrowed exclusively for `'a`, and no two
/// rows share an element.
pub(crate) struct SharedRows<'a, T> {
    first: *mut T,
    shape: Shape,
    strides: Strides,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of a `[T]`, which may move to another thread if `T` may.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}
// SAFETY: through a shared reference nothing is reached but by `rows_mut`, whose callers promise that no row is in use
// twice at a time; that amounts to sending disjoint `&mut [T]` to other threads.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<T> SharedRows<'_, T> {
    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    /// The rows `first .. first + len` of some heads to write, those of one head after those of another; `None` unless there are all of
    /// them, and some.
    ///
    /// # Safety
    ///
    /// While they live, nobody else asks for any of these rows.
    #[inline]
    pub(crate) unsafe fn rows_mut(
        &self,
        batch: usize,
        heads: &Range<usize>,
        first: usize,
        len: usize,
    ) -> Option<RowsMut<'_, T>> {
        let Self { shape, strides, .. } = *self;
        let fits = first.checked_add(len).is_some_and(|end| end <= shape.len);
        if batch >= shape.batch || heads.end > shape.heads || heads.is_empty() || !fits {
            return None;
        }
        let offset = batch * strides.batch + heads.start * strides.heads + first * strides.len;
        Some(RowsMut {
            first: self.first.wrapping_add(offset),
            stride: strides.len,
            per_head: NonZeroUsize::new(len)?,
            head_stride: strides.heads,
            len: len * heads.len(),
            dim: shape.dim,
            data: PhantomData,
        })
    }
}

/// Rows of some heads to write: `len >= 1` of them, `per_head` of each head, each of `dim` contiguous elements, no two of which share an
/// element.
///
/// Invariant, from [`SharedRows`]: for `i < len` and `t < dim`, `row_mut_ptr(i) + t` is this value's alone for `'a`.
pub(crate) struct RowsMut<'a, T> {
    first: *mut T,
    stride: usize,
    per_head: NonZeroUsize,
    head_stride: usize,
    len: usize,
    dim: usize,
    data: PhantomData<&'a mut [T]>,
}

impl<'a, T> RowsMut<'a, T> {
    /// As many rows, one after the other, as a slice has; `None` if it has none.
    pub(crate) fn of(data: &'a mut [T], dim: usize) -> Option<Self> {
        let len = data.len().checked_div(dim)?;
        let per_head = NonZeroUsize::new(len)?;
        Some(Self { first: data.as_mut_ptr(), stride: dim, per_head, head_stride: 0, len, dim, data: PhantomData })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn dim(&self) -> usize {
        self.dim
    }

    /// The same rows, to be given back.
    pub(crate) const fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut { ..*self }
    }

    /// Where row `i < len` begins; `dim` elements may be written there.
    #[inline(always)]
    pub(crate) fn row_mut_ptr(&self, i: usize) -> *mut T {
        let [head, i] = split_index(i, self.per_head);
        self.first.wrapping_add(head * self.head_stride + i * self.stride)
    }

    /// Row by row from number `first` on, if there is one; they may be written.
    #[inline(always)]
    pub(crate) fn walk(&mut self, first: usize) -> Option<GroupWalk<T>> {
        let (sizes, strides) = ((self.len, self.per_head), [self.stride, self.head_stride]);
        (first < self.len).then(|| GroupWalk::new(self.row_mut_ptr(first), first, sizes, strides))
    }

    /// Asks for row `i`, if there is one.
    #[inline(always)]
    pub(crate) fn prefetch(&self, i: usize) {
        if i < self.len {
            lines(self.row_mut_ptr(i), self.dim).for_each(prefetch);
        }
    }

    /// Row `i`, or an empty slice where there is none.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &[T] {
        if i >= self.len {
            return &[];
        }
        // SAFETY: `i < len`, so by the type's invariant `dim` elements are this value's there, and it is borrowed.
        unsafe { core::slice::from_raw_parts(self.row_mut_ptr(i), self.dim) }
    }

    /// Row `i`, or an empty slice where there is none.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [T] {
        if i >= self.len {
            return &mut [];
        }
        // SAFETY: `i < len`, so by the type's invariant `dim` elements are this value's there, and it is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.row_mut_ptr(i), self.dim) }
    }
}

/// An element in each cache line of so many.
#[inline(always)]
fn lines<T>(first: *const T, len: usize) -> impl Iterator<Item = *const T> {
    (0..len).step_by(CACHE_LINE / size_of::<T>()).map(move |t| first.wrapping_add(t))
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::{Shape, Strides, View};

    /// Rows of three of four heads, walked over by whatever number at a time, are those that are found one by one; the last one is repeated.
    #[test]
    fn a_walk_meets_every_row() -> Result<(), Box<dyn core::error::Error>> {
        let data = [0f32; 4 * 5 * 3];
        let view = View::heads_first(&data, [1, 4, 5, 3])?;
        for (per_head, heads) in [(1, 1..4), (4, 0..3), (5, 1..2)] {
            let rows = view.group(0, &heads, 0, per_head).ok_or("there are such rows")?;
            for (first, count) in (0..rows.len()).flat_map(|first| (1..=16).map(move |count| (first, count))) {
                let mut walk = rows.walk(first).ok_or("there is such a row")?;
                for i in (first..rows.len() + 20).step_by(count) {
                    for (k, row) in walk.next_rows(count).into_iter().enumerate().take(count) {
                        assert_eq!(row, rows.row_ptr((i + k).min(rows.len() - 1)), "{per_head} a head, row {i} + {k}");
                    }
                }
            }
            assert!(rows.walk(rows.len()).is_none());
        }
        Ok(())
    }

    /// Of a row by itself, the next one may be any distance away.
    #[test]
    fn a_walk_over_one_row_goes_nowhere() -> Result<(), Box<dyn core::error::Error>> {
        let (data, shape) = ([0f32; 3], Shape { batch: 1, heads: 1, len: 1, dim: 3 });
        for far in [0, 1, usize::MAX / 2, usize::MAX] {
            let view = View::strided(&data, shape, Strides { batch: far, heads: far, len: far })?;
            let rows = view.group(0, &(0..1), 0, 1).ok_or("there is a row")?;
            for count in 1..=16 {
                let mut walk = rows.walk(0).ok_or("there is a row")?;
                for row in (0..2).flat_map(|_| walk.next_rows(count).into_iter().take(count)) {
                    assert_eq!(row, data.as_ptr(), "{count} rows, {far} apart");
                }
            }
        }
        Ok(())
    }
}
