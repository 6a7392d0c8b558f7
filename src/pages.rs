//! Rows in pages, and the table that says where.

use core::ops::Range;

use crate::{Error, Shape, View, error::Operand, kv::expect_shape, view::MOST};

/// A table `[sequence, page]` of pages `[page, heads, page_size, dim]`.
#[derive(Clone, Copy)]
pub(crate) struct PageTable<'a> {
    pub(crate) numbers: View<'a, u32>,
    pub(crate) pages: Shape,
}

impl<'a> PageTable<'a> {
    /// `[batch, heads, room, dim]` of what is in the pages.
    pub(crate) fn shape(&self) -> Shape {
        let Shape { len: batch, dim: of_sequence, .. } = self.numbers.shape();
        Shape { batch, len: of_sequence.saturating_mul(self.pages.len), ..self.pages }
    }

    /// The numbers of a sequence's pages.
    pub(crate) fn of_sequence(&self, sequence: usize) -> &'a [u32] {
        self.numbers.rows(0, 0).map_or(&[], |table| table.row(sequence))
    }

    /// Whether there are pages for all these rows of a sequence.
    pub(crate) fn check(&self, sequence: usize, rows: &Range<usize>) -> Result<(), Error> {
        let (shape, Shape { batch: pages, len: page_size, .. }) = (self.numbers.shape(), self.pages);
        expect_shape(Operand::PageTable, Shape { batch: 1, heads: 1, ..shape }, shape)?;
        if shape.dim.checked_mul(page_size).is_none_or(|room| room > MOST) {
            return Err(Error::SizeOverflow { shape });
        }
        let used = rows.end.div_ceil(page_size.max(1));
        let first = rows.start.checked_div(page_size).unwrap_or(used);
        for (index, &page) in self.of_sequence(sequence).iter().enumerate().take(used).skip(first) {
            if page as usize >= pages {
                return Err(Error::NoSuchPage { sequence, index, page, pages });
            }
        }
        Ok(())
    }

    /// Where row `i` of a sequence lies: in which page, and which of its rows it is; `None` where there is no page for it.
    pub(crate) fn place(&self, sequence: usize, i: usize) -> Option<[usize; 2]> {
        let page_size = self.pages.len;
        let page = *self.of_sequence(sequence).get(i.checked_div(page_size)?)?;
        Some([page as usize, i.checked_rem(page_size)?])
    }
}
