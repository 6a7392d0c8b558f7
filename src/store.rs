//! Keys or values in memory, whatever the type of their elements, and in pages or not.

use crate::{
    Shape, View,
    element::Bf16,
    floats::{FloatRow, FloatStrip, FloatView, with_floats},
    scalar::Scalar,
    view::Strip,
};

/// Keys or values `[batch, kv_heads, kv_len, dim]`; if they are paged, `[page, kv_heads, page_size, dim]`.
#[derive(Clone, Copy)]
pub enum Store<'a, E> {
    Floats(FloatView<'a, E>),
    /// With their scales, `[.., groups]`; there are always some.
    I8(View<'a, i8>, Option<View<'a, f32>>),
}

/// Those of one head of one sequence.
#[derive(Clone, Copy)]
pub(crate) enum Strips<'a, E> {
    Floats(FloatStrip<'a, E>),
    I8(Strip<'a, i8>, Strip<'a, f32>),
}

/// One key or value.
#[derive(Clone, Copy)]
pub(crate) enum StoreRow<'a, E> {
    Floats(FloatRow<'a, E>),
    /// With its scales.
    I8(&'a [i8], &'a [f32]),
}

/// `$body` with `$strip` bound to what there is of numbers, of whatever type.
macro_rules! with_elements {
    ($strips:expr, $strip:ident => $body:expr) => {
        match $strips {
            $crate::store::Strips::Floats(floats) => {
                $crate::floats::with_floats!(FloatStrip::floats, $strip => $body)
            }
            $crate::store::Strips::I8($strip, _) => $body,
        }
    };
}
pub(crate) use with_elements;

impl<'a, E: Copy> Store<'a, E> {
    pub(crate) const fn shape(&self) -> Shape {
        match self {
            Self::Floats(view) => view.shape(),
            Self::I8(view, _) => view.shape(),
        }
    }

    pub(crate) const fn is_scalars(&self) -> bool {
        matches!(self, Self::Floats(FloatView::Scalars(_)))
    }

    pub(crate) const fn is_bf16(&self) -> bool {
        matches!(self, Self::Floats(view) if view.is_bf16())
    }

    pub(crate) fn has_single_scales(&self) -> bool {
        matches!(self, Self::I8(_, Some(scales)) if scales.shape().dim == 1)
    }

    /// Those of a head: of a sequence of the batch, or in the pages that a row of a table names.
    #[inline(always)]
    pub(crate) fn head(&self, batch: usize, head: usize, pages: Option<&'a [u32]>) -> Option<Strips<'a, E>> {
        Some(match self {
            Self::Floats(view) => {
                Strips::Floats(with_floats!(FloatView::view, view => FloatStrip(view.strip(batch, head, pages)?)))
            }
            Self::I8(view, scales) => {
                Strips::I8(view.strip(batch, head, pages)?, scales.as_ref()?.strip(batch, head, pages)?)
            }
        })
    }
}

impl<'a, E: Scalar> Strips<'a, E> {
    pub(crate) const fn dim(&self) -> usize {
        with_elements!(self, strip => strip.dim())
    }

    /// Whether no row has several scales.
    pub(crate) const fn has_plain_rows(&self) -> bool {
        match self {
            Self::I8(_, scales) => scales.dim() == 1,
            _ => true,
        }
    }

    /// Those that are of `bf16`.
    pub(crate) const fn bf16(&self) -> Option<Strip<'a, Bf16>> {
        match self {
            #[cfg(feature = "half")]
            Self::Floats(FloatStrip::Bf16(strip)) => Some(*strip),
            _ => None,
        }
    }

    pub(crate) const fn have_scales(&self) -> bool {
        matches!(self, Self::I8(..))
    }

    pub(crate) fn row(&self, i: usize) -> StoreRow<'a, E> {
        match self {
            Self::Floats(strip) => StoreRow::Floats(strip.row(i)),
            Self::I8(numbers, scales) => StoreRow::I8(numbers.row(i), scales.row(i)),
        }
    }
}

impl<E: Scalar> StoreRow<'_, E> {
    /// What element `c` stands for, or zero where there is none.
    #[inline]
    pub(crate) fn at(&self, c: usize) -> f64 {
        let (numbers, scales) = match self {
            Self::Floats(row) => return row.at(c),
            Self::I8(numbers, scales) => (numbers, scales),
        };
        let of_group = numbers.len().checked_div(scales.len()).and_then(|group| c.checked_div(group));
        let scale = of_group.and_then(|group| scales.get(group)).copied();
        numbers.get(c).copied().map_or(0.0, f64::from) * scale.map_or(0.0, f64::from)
    }
}
