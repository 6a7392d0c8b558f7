//! Owned rank-4 tensors in any layout.

use super::random::{Content, Random};
use simd_attention::{Error, Shape, Strides, View, ViewMut};

/// How a tensor `[batch, heads, len, dim]` lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    HeadsFirst,
    TokensFirst,
    /// One third of a fused projection, `[batch][token][query | key | value]`.
    Fused,
    /// Heads first, with this many unused elements after every row, twice as many after every head, and three times as many after every
    /// sequence.
    Padded(usize),
    /// Heads first, repeated along some of `batch`, `heads` and `len`. Only to be read.
    Broadcast([bool; 3]),
}

impl Layout {
    /// Meaningless where they exceed a `usize`: such shapes are the crate's to refuse.
    pub fn strides(self, Shape { heads, len, dim, .. }: Shape) -> Strides {
        let tokens_first = |row: usize| Strides { batch: len.wrapping_mul(row), heads: dim, len: row };
        let heads_first = |row: usize, gap: usize| {
            let head = len.wrapping_mul(row).wrapping_add(2 * gap);
            Strides { batch: heads.wrapping_mul(head).wrapping_add(3 * gap), heads: head, len: row }
        };
        match self {
            Self::HeadsFirst => heads_first(dim, 0),
            Self::TokensFirst => tokens_first(heads.wrapping_mul(dim)),
            Self::Fused => tokens_first(heads.wrapping_mul(dim).wrapping_mul(3)),
            Self::Padded(gap) => heads_first(dim.wrapping_add(gap), gap),
            Self::Broadcast([batch, heads, len]) => {
                let once = heads_first(dim, 0);
                let unless = |repeated: bool, stride: usize| if repeated { 0 } else { stride };
                Strides {
                    batch: unless(batch, once.batch),
                    heads: unless(heads, once.heads),
                    len: unless(len, once.len),
                }
            }
        }
    }
}

/// How the extent of one axis of a mask or a bias comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Own,
    /// One, which the crate repeats.
    One,
    /// Repeated by a stride of zero; along the keys, which have none, by an extent of one.
    Strideless,
}

/// `[batch, head, token]`
pub type Row = [usize; 3];

#[derive(Clone, Debug)]
pub struct Tensor<T> {
    pub data: Vec<T>,
    pub shape: Shape,
    pub strides: Strides,
}

impl<T: Copy> Tensor<T> {
    /// Just as long as shape and strides need.
    pub fn filled(shape: Shape, layout: Layout, value: T) -> Self {
        let strides = layout.strides(shape);
        let mut tensor = Self { data: Vec::new(), shape, strides };
        tensor.data = vec![value; tensor.span()];
        tensor
    }

    /// Elements from the first to one past the last.
    fn span(&self) -> usize {
        self.rows().map(|row| self.start(row) + self.shape.dim).max().unwrap_or(0)
    }

    /// Every row, in the order of its index.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<T> {
        let Shape { heads, len, .. } = self.shape;
        // Not to count sequences or heads, however many, that have no tokens.
        let batch = if heads == 0 || len == 0 { 0 } else { self.shape.batch };
        (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..len).map(move |i| [b, h, i])))
    }

    pub fn start(&self, [b, h, i]: Row) -> usize {
        b * self.strides.batch + h * self.strides.heads + i * self.strides.len
    }

    pub fn row(&self, row: Row) -> &[T] {
        &self.data[self.start(row)..][..self.shape.dim]
    }

    pub fn row_mut(&mut self, row: Row) -> &mut [T] {
        let start = self.start(row);
        &mut self.data[start..][..self.shape.dim]
    }

    /// The elements that belong to no row.
    pub fn gaps(&self) -> Vec<T> {
        let mut covered = vec![false; self.data.len()];
        for row in self.rows() {
            covered[self.start(row)..][..self.shape.dim].fill(true);
        }
        self.data.iter().zip(covered).filter(|(_, covered)| !covered).map(|(x, _)| *x).collect()
    }

    /// Where `row` is in [`rows`](Self::rows).
    pub fn index(&self, [b, h, i]: Row) -> usize {
        (b * self.shape.heads + h) * self.shape.len + i
    }

    pub fn view(&self) -> Result<View<'_, T>, Error> {
        View::strided(&self.data, self.shape, self.strides)
    }

    pub fn view_mut(&mut self) -> Result<ViewMut<'_, T>, Error> {
        ViewMut::strided(&mut self.data, self.shape, self.strides)
    }

    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        Self { data: self.data.iter().map(|x| f(*x)).collect(), ..*self }
    }

    /// Heads first, repeated along some axes; `fill` gives each element that is in memory.
    pub fn repeated(shape: Shape, extents: [Extent; 4], mut fill: impl FnMut() -> T) -> Self {
        let (shape, strides) = Self::repeated_shape(shape, extents);
        let mut tensor = Self { data: Vec::new(), shape, strides };
        tensor.data = (0..tensor.span()).map(|_| fill()).collect();
        tensor
    }

    pub fn repeated_shape(shape: Shape, [batch, heads, len, dim]: [Extent; 4]) -> (Shape, Strides) {
        let of = |axis: Extent, extent: usize| if axis == Extent::One { extent.min(1) } else { extent };
        let dim = if dim == Extent::Own { shape.dim } else { shape.dim.min(1) };
        let shape =
            Shape { batch: of(batch, shape.batch), heads: of(heads, shape.heads), len: of(len, shape.len), dim };
        let layout = Layout::Broadcast([batch, heads, len].map(|axis| axis == Extent::Strideless));
        (shape, layout.strides(shape))
    }

    /// Where in the storage an element is, or, of an axis that has an extent of one, the one that stands for it.
    pub fn position(&self, [b, h, i]: Row, c: usize) -> Option<usize> {
        let Shape { batch, heads, len, dim } = self.shape;
        let of = |index: usize, extent: usize| if extent == 1 { 0 } else { index };
        let (row, c) = ([of(b, batch), of(h, heads), of(i, len)], of(c, dim));
        (c < dim).then(|| self.start(row) + c)
    }

    pub fn at(&self, row: Row, c: usize) -> Option<T> {
        self.position(row, c).map(|at| self.data[at])
    }

    /// The rows `first .. first + len` of one sequence; of an axis that has an extent of one, all.
    pub fn part(&self, batch: usize, first: usize, len: usize) -> Self {
        let Shape { batch: batches, len: rows, .. } = self.shape;
        let batch = if batches == 1 { 0 } else { batch };
        let (first, len) = if rows == 1 { (0, 1) } else { (first, len) };
        let start = self.start([batch, 0, first]).min(self.data.len());
        Self { data: self.data[start..].to_vec(), shape: Shape { batch: 1, len, ..self.shape }, strides: self.strides }
    }
}

impl Tensor<f32> {
    /// Random rows; whatever lies between them is NaN.
    pub fn random(shape: Shape, layout: Layout, content: Content, random: &mut Random) -> Self {
        let mut tensor = Self::filled(shape, layout, f32::NAN);
        for row in tensor.rows() {
            tensor.row_mut(row).fill_with(|| content.sample(random));
        }
        tensor
    }
}
