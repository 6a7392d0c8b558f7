//! Rows of a head one after the other, in one piece or in pages.

use core::{mem::take, num::NonZeroUsize, ops::Range};

mod reader;

pub(crate) use self::reader::{Ahead, Ask, ByAddress, ByStretch, Evenly, Reader, Soon};
use super::{Rows, View, split_index};
use crate::simd::{CACHE_LINE, prefetch_early, prefetch_elements, prefetch_far};

/// Rows of one head of one sequence, in pages of as many each.
///
/// Invariant, from [`View`]: for each number in the table that is a page's, row `i` of that page is readable for `'a`, as that of `page` is.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a, T> {
    /// That of number 0.
    page: Rows<'a, T>,
    page_size: NonZeroUsize,
    page_stride: usize,
    /// Which pages, in order.
    table: &'a [u32],
}

impl<'a, T: Copy> View<'a, T> {
    /// The rows of one head of one sequence, which are one page, or those in the pages of a table, of which those that are read have numbers within
    /// the batch; `None` where there are none.
    pub(crate) fn strip(&self, batch: usize, head: usize, pages: Option<&'a [u32]>) -> Option<Strip<'a, T>> {
        let Some(table) = pages else { return Strip::one_page(self.rows(batch, head)?) };
        Some(Strip { page_stride: self.strides.batch, table, ..Strip::one_page(self.rows(0, head)?)? })
    }
}

impl<'a, T: Copy> Strip<'a, T> {
    pub(crate) const fn dim(&self) -> usize {
        self.page.dim
    }

    /// Rows that lie evenly.
    pub(crate) fn one_page(rows: Rows<'a, T>) -> Option<Self> {
        let page_size = NonZeroUsize::new(rows.len)?;
        Some(Self { page: rows, page_size, page_stride: 0, table: &[0] })
    }

    /// Rows of this range, of which there are some, if they lie in one page.
    #[inline(always)]
    pub(crate) fn rows(&self, range: &Range<usize>) -> Option<Rows<'a, T>> {
        let [page, row] = split_index(range.start, self.page_size);
        let rows = Rows { first: self.page_ptr(page)?, ..self.page }.range(row, range.len())?;
        (rows.len == range.len()).then_some(rows)
    }

    /// Row `i`, or an empty slice where there is none.
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        self.rows(&(i..i.saturating_add(1))).map_or(&[], |rows| rows.row(0))
    }

    /// One row after the other, from this one on.
    #[inline(always)]
    pub(crate) fn walk(&self, row: usize) -> Walk<'a, T> {
        let [page, row] = split_index(row, self.page_size);
        let (next, two_pages) = self.page_start(page).unwrap_or((self.page.first, 0));
        let next = next.wrapping_add(row * self.page.stride);
        Walk { strip: *self, page, left: self.page_size.get() - row, next, two_pages }
    }

    /// One row after the other, from any one on, if all lie in one page.
    #[inline(always)]
    pub(crate) fn even(&self) -> Option<impl Fn(usize) -> Even<'a, T> + use<'a, T>> {
        let page = Rows { first: self.walk(0).next, ..self.page };
        self.is_even().then_some(move |row| Even { page, next: page.row_ptr(row) })
    }

    /// Whether all rows lie in one page.
    #[inline(always)]
    const fn is_even(&self) -> bool {
        self.table.len() <= 1
    }

    /// How many rows it takes memory to answer.
    #[inline(always)]
    pub(crate) fn rows_ahead(&self) -> usize {
        rows_ahead::<T>(self.dim())
    }

    /// Where a page begins, as elements from where that of number 0 does.
    #[inline(always)]
    fn page_offset(&self, page: usize) -> Option<usize> {
        Some((*self.table.get(page)? as usize).wrapping_mul(self.page_stride))
    }

    #[inline(always)]
    fn page_ptr(&self, page: usize) -> Option<*const T> {
        Some(self.page.first.wrapping_add(self.page_offset(page)?))
    }

    /// Where a page begins, and how many elements from there the one after the next does, if there is one.
    #[inline(always)]
    fn page_start(&self, page: usize) -> Option<(*const T, usize)> {
        let offset = self.page_offset(page)?;
        let two_pages = self.page_offset(page + 2).map_or(0, |later| later.wrapping_sub(offset));
        Some((self.page.first.wrapping_add(offset), two_pages))
    }
}

/// How many rows of so many elements it takes memory to answer: some 8 KB.
#[inline(always)]
pub(crate) fn rows_ahead<T>(dim: usize) -> usize {
    1 + const { (1 << 13) / size_of::<T>() } / NonZeroUsize::MIN.saturating_add(dim)
}

impl<'a> Strip<'a, f32> {
    /// Where some rows of a number each begin, if they lie side by side.
    #[inline(always)]
    fn side_by_side(&self, range: &Range<usize>) -> Option<*const f32> {
        self.rows(range).filter(|rows| rows.stride == 1).map(|rows| rows.first)
    }

    /// The numbers of some rows of one each, copied to `room` if they do not lie side by side.
    ///
    /// # Safety
    ///
    /// There are as many rows.
    #[inline(always)]
    pub(crate) unsafe fn numbers<'t, const N: usize>(
        &self,
        range: &Range<usize>,
        room: &'t mut Option<[f32; N]>,
    ) -> &'t [f32]
    where
        'a: 't,
    {
        if let Some(first) = self.side_by_side(range) {
            // SAFETY: the caller's promise; each begins where the last one ends.
            return unsafe { core::slice::from_raw_parts(first, range.len()) };
        }
        let numbers = room.insert([0.0; N]).get_mut(..range.len()).unwrap_or_default();
        // SAFETY: the caller's promise.
        unsafe { self.walk(range.start).next_numbers(numbers) };
        numbers
    }

    /// Asks for the same, of rows that need not be.
    #[inline(always)]
    pub(crate) fn ask_for_numbers(&self, range: &Range<usize>) {
        match self.side_by_side(range) {
            Some(first) => prefetch_elements(first, 0..range.len(), 2),
            None => self.walk(range.start).ask(range.len()),
        }
    }
}

/// Goes from row to row.
pub(crate) trait Walker<T>: Copy {
    fn dim(&self) -> usize;

    /// Where the next row begins, whose `dim` elements may be read; only as long as there are rows.
    fn next(&mut self) -> *const T;

    /// The same, for a row that is only asked for.
    #[inline(always)]
    fn next_early(&mut self) -> *const T {
        self.next()
    }
}

/// Goes from row to row of a [`Strip`].
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a, T> {
    strip: Strip<'a, T>,
    page: usize,
    /// Rows of the page that are still to come.
    left: usize,
    next: *const T,
    /// Elements from a row to the same one two pages later, if there is one.
    two_pages: usize,
}

impl<'a, T: Copy> Walk<'a, T> {
    /// The next row.
    ///
    /// # Safety
    ///
    /// There is one.
    #[inline(always)]
    pub(crate) unsafe fn next_row(&mut self) -> &'a [T] {
        let dim = self.strip.page.dim;
        // SAFETY: the caller's promise, and the invariant of `Strip`.
        unsafe { core::slice::from_raw_parts(self.next(), dim) }
    }

    /// Asks for the next rows, of a single number each, a cache line of them at a time.
    #[inline(always)]
    fn ask(mut self, mut rows: usize) {
        while rows > 0 {
            let first = self.next();
            let more = self.left.min(rows - 1).min(const { CACHE_LINE / size_of::<T>() - 1 });
            prefetch_early(first);
            prefetch_early(first.wrapping_add(more * self.strip.page.stride));
            self.skip(more);
            rows -= 1 + more;
        }
    }

    /// To the next page, if none of this one's rows is left.
    #[inline(always)]
    fn turn(&mut self) {
        if self.left == 0 {
            self.page += 1;
            self.left = self.strip.page_size.get();
            (self.next, self.two_pages) = self.strip.page_start(self.page).unwrap_or((self.next, 0));
        }
    }

    /// Passes over some rows of the page, of which there are as many left.
    #[inline(always)]
    const fn skip(&mut self, rows: usize) {
        self.next = self.next.wrapping_add(rows * self.strip.page.stride);
        self.left -= rows;
    }
}

impl Walk<'_, f32> {
    /// The first number of each of the next rows.
    ///
    /// # Safety
    ///
    /// There are as many, each of at least one.
    #[inline(always)]
    pub(crate) unsafe fn next_numbers(&mut self, mut to: &mut [f32]) {
        let stride = self.strip.page.stride;
        while !to.is_empty() {
            self.turn();
            let of_page = to.len().min(self.left);
            let Some((now, later)) = take(&mut to).split_at_mut_checked(of_page) else { return };
            if stride == 1 {
                // SAFETY: the caller's promise; they lie one after the other.
                let numbers = unsafe { core::slice::from_raw_parts(self.next, now.len()) };
                now.iter_mut().zip(numbers).for_each(|(to, number)| *to = *number);
            } else {
                for (i, to) in now.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *to = unsafe { *self.next.wrapping_add(i * stride) };
                }
            }
            self.skip(of_page);
            to = later;
        }
    }
}

impl<T: Copy> Walker<T> for Walk<'_, T> {
    #[inline(always)]
    fn dim(&self) -> usize {
        self.strip.page.dim
    }

    #[inline(always)]
    fn next(&mut self) -> *const T {
        self.turn();
        let row = self.next;
        self.skip(1);
        row
    }

    /// Asks for the first line of the same row two pages later, too: not so much to fetch it as to have its address translated in time.
    #[inline(always)]
    fn next_early(&mut self) -> *const T {
        let row = self.next();
        prefetch_far(row.wrapping_add(self.two_pages));
        row
    }
}

/// Goes from row to row of those that lie evenly.
#[derive(Clone, Copy)]
pub(crate) struct Even<'a, T> {
    page: Rows<'a, T>,
    next: *const T,
}

impl<T: Copy> Walker<T> for Even<'_, T> {
    #[inline(always)]
    fn dim(&self) -> usize {
        self.page.dim
    }

    #[inline(always)]
    fn next(&mut self) -> *const T {
        let row = self.next;
        self.next = row.wrapping_add(self.page.stride);
        row
    }
}
