//! Keys or values in memory, whatever the type of their elements, and in pages or not.

#[cfg(feature = "half")]
use half::{bf16, f16};

use crate::{Shape, View, element::Bf16, view::Strip};

/// Keys or values `[batch, kv_heads, kv_len, dim]`; if they are paged, `[page, kv_heads, page_size, dim]`.
#[derive(Clone, Copy)]
pub enum Store<'a> {
    F32(View<'a, f32>),
    #[cfg(feature = "half")]
    F16(View<'a, f16>),
    #[cfg(feature = "half")]
    Bf16(View<'a, bf16>),
    /// With their scales, `[.., groups]`; there are always some.
    I8(View<'a, i8>, Option<View<'a, f32>>),
}

/// Those of one head of one sequence.
#[derive(Clone, Copy)]
pub(crate) enum Strips<'a> {
    F32(Strip<'a, f32>),
    #[cfg(feature = "half")]
    F16(Strip<'a, f16>),
    #[cfg(feature = "half")]
    Bf16(Strip<'a, bf16>),
    I8(Strip<'a, i8>, Strip<'a, f32>),
}

/// `$body` with `$rows` bound to what there is of numbers, of whatever type.
macro_rules! with_elements {
    ($of:ident::$value:expr, $rows:ident => $body:expr) => {
        match $value {
            $of::F32($rows) => $body,
            #[cfg(feature = "half")]
            $of::F16($rows) => $body,
            #[cfg(feature = "half")]
            $of::Bf16($rows) => $body,
            $of::I8($rows, _) => $body,
        }
    };
}
pub(crate) use with_elements;

impl<'a> Store<'a> {
    pub(crate) const fn shape(&self) -> Shape {
        with_elements!(Store::self, view => view.shape())
    }

    pub(crate) const fn is_bf16(&self) -> bool {
        match self {
            #[cfg(feature = "half")]
            Self::Bf16(_) => true,
            _ => false,
        }
    }

    /// Those of a head: of a sequence of the batch, or in the pages that a row of a table names.
    pub(crate) fn head(&self, batch: usize, head: usize, pages: Option<&'a [u32]>) -> Option<Strips<'a>> {
        Some(match self {
            Self::F32(view) => Strips::F32(view.strip(batch, head, pages)?),
            #[cfg(feature = "half")]
            Self::F16(view) => Strips::F16(view.strip(batch, head, pages)?),
            #[cfg(feature = "half")]
            Self::Bf16(view) => Strips::Bf16(view.strip(batch, head, pages)?),
            Self::I8(view, scales) => {
                Strips::I8(view.strip(batch, head, pages)?, scales.as_ref()?.strip(batch, head, pages)?)
            }
        })
    }
}

impl<'a> Strips<'a> {
    pub(crate) const fn dim(&self) -> usize {
        with_elements!(Strips::self, strip => strip.dim())
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
            Self::Bf16(strip) => Some(*strip),
            _ => None,
        }
    }

    pub(crate) const fn have_scales(&self) -> bool {
        matches!(self, Self::I8(..))
    }

    /// What element `c` of a row stands for, or zero where there is none.
    pub(crate) fn at(&self, row: usize, c: usize) -> f64 {
        let number = with_elements!(Strips::self, strip => strip.row(row).get(c).map_or(0.0, |x| f64::from(*x)));
        let Self::I8(_, scales) = self else { return number };
        let scales = scales.row(row);
        let of_group = self.dim().checked_div(scales.len()).and_then(|group| c.checked_div(group));
        number * of_group.and_then(|group| scales.get(group)).copied().map_or(0.0, f64::from)
    }
}
