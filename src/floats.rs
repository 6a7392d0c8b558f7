//! Queries, outputs, and keys and values without scales, whatever the type of their elements.

use core::ops::Range;

#[cfg(feature = "half")]
use half::{bf16, f16};

use crate::{
    Shape, View, ViewMut,
    element::Store,
    scalar::Scalar,
    view::{GroupRows, RowsMut, SharedRows, Strip},
};

/// One of some type for each type of floating-point numbers.
macro_rules! floats {
    ($(#[$attribute:meta])* $visibility:vis $name:ident of $of:ident) => {
        $(#[$attribute])*
        $visibility enum $name<'a, E> {
            /// Of what is computed in.
            Scalars($of<'a, E>),
            #[cfg(feature = "half")]
            F16($of<'a, f16>),
            #[cfg(feature = "half")]
            Bf16($of<'a, bf16>),
        }
    };
}

floats! {
    /// Queries `[batch, q_heads, q_len, head_dim]`, or keys or values.
    #[derive(Clone, Copy)]
    pub FloatView of View
}
floats! {
    /// An output `[batch, q_heads, q_len, value_dim]`.
    pub FloatViewMut of ViewMut
}
floats! {
    /// Keys or values of one head of one sequence.
    #[derive(Clone, Copy)]
    pub(crate) FloatStrip of Strip
}
floats! {
    /// A query.
    #[derive(Clone, Copy)]
    pub(crate) FloatRow of Slice
}
type Slice<'a, T> = &'a [T];

floats! {
    /// Queries of a unit.
    #[derive(Clone, Copy)]
    pub(crate) FloatRows of GroupRows
}
floats! {
    /// An output, to be written row by row from several threads.
    pub(crate) SharedFloats of SharedRows
}
floats! {
    /// An output's rows that are a unit's.
    pub(crate) FloatRowsMut of RowsMut
}

/// `$body` with `$rows` bound to what there is of numbers, of whatever type; or what is made of it, of the same type.
macro_rules! with_floats {
    ($of:ident::$value:expr, $rows:ident => $to:ident($body:expr)) => {
        match $value {
            $of::Scalars($rows) => $to::Scalars($body),
            #[cfg(feature = "half")]
            $of::F16($rows) => $to::F16($body),
            #[cfg(feature = "half")]
            $of::Bf16($rows) => $to::Bf16($body),
        }
    };
    ($of:ident::$value:expr, $rows:ident => $body:expr) => {
        match $value {
            $of::Scalars($rows) => $body,
            #[cfg(feature = "half")]
            $of::F16($rows) => $body,
            #[cfg(feature = "half")]
            $of::Bf16($rows) => $body,
        }
    };
}
pub(crate) use with_floats;

impl<'a, E> FloatView<'a, E> {
    pub(crate) const fn shape(&self) -> Shape {
        with_floats!(FloatView::self, view => view.shape())
    }

    pub(crate) const fn is_bf16(&self) -> bool {
        match self {
            #[cfg(feature = "half")]
            Self::Bf16(_) => true,
            _ => false,
        }
    }

    /// [`View::group`]
    pub(crate) fn group(
        &self,
        batch: usize,
        heads: &Range<usize>,
        first: usize,
        len: usize,
    ) -> Option<FloatRows<'a, E>> {
        Some(with_floats!(FloatView::self, view => FloatRows(view.group(batch, heads, first, len)?)))
    }

    pub(crate) fn row(&self, batch: usize, head: usize, i: usize) -> FloatRow<'a, E> {
        with_floats!(FloatView::self, view => FloatRow(view.rows(batch, head).map_or(&[], |rows| rows.row(i))))
    }
}

impl<'a, E: Copy> FloatStrip<'a, E> {
    pub(crate) fn row(&self, i: usize) -> FloatRow<'a, E> {
        with_floats!(FloatStrip::self, strip => FloatRow(strip.row(i)))
    }
}

impl<E: Scalar> FloatRow<'_, E> {
    /// An element, or zero where there is none.
    #[inline]
    pub(crate) fn at(&self, t: usize) -> f64 {
        with_floats!(FloatRow::self, row => row.get(t).map_or(0.0, |x| (*x).into()))
    }
}

impl<'a, E> FloatViewMut<'a, E> {
    pub(crate) fn into_shared(self) -> SharedFloats<'a, E> {
        with_floats!(FloatViewMut::self, view => SharedFloats(view.into_shared()))
    }
}

impl<E> FloatRows<'_, E> {
    pub(crate) const fn len(&self) -> usize {
        with_floats!(FloatRows::self, rows => rows.len())
    }

    pub(crate) const fn dim(&self) -> usize {
        with_floats!(FloatRows::self, rows => rows.dim())
    }

    /// Asks for row `i`, if there is one.
    #[inline(always)]
    pub(crate) fn prefetch(&self, i: usize) {
        with_floats!(FloatRows::self, rows => rows.prefetch(i));
    }
}

impl<E> SharedFloats<'_, E> {
    pub(crate) const fn shape(&self) -> Shape {
        with_floats!(SharedFloats::self, rows => rows.shape())
    }
}

impl<E: Scalar> FloatRowsMut<'_, E> {
    pub(crate) const fn len(&self) -> usize {
        with_floats!(FloatRowsMut::self, rows => rows.len())
    }

    pub(crate) const fn dim(&self) -> usize {
        with_floats!(FloatRowsMut::self, rows => rows.dim())
    }

    /// Asks for row `i`, if there is one.
    #[inline(always)]
    pub(crate) fn prefetch(&self, i: usize) {
        with_floats!(FloatRowsMut::self, rows => rows.prefetch(i));
    }

    /// Writes a row, if there is one, each number rounded.
    pub(crate) fn write(&mut self, i: usize, row: &[E]) {
        with_floats!(FloatRowsMut::self, rows => {
            rows.row_mut(i).iter_mut().zip(row).for_each(|(to, x)| *to = Store::nearest(*x));
        });
    }
}
