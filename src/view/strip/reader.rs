//! Rows of a head as they are read, and how they are asked for before.

use core::{array::from_fn, marker::PhantomData};

use super::{Even, Strip, Walker, rows_ahead};
use crate::simd::{CACHE_LINE, prefetch_elements, prefetch_far, prefetch_into};

/// How rows are asked for before they are read.
///
/// Those that are read soon are to be in the first cache or, where a CPU reads faster then, the second one; others in one that has room for them. Whether to ask twice, then for later rows as well, depends on how large
/// elements are: it takes instructions, and where these are what a CPU is busy with, more time than it saves.
pub(crate) trait When: Copy {
    const SOON: bool;
    /// Of the cache.
    const LEVEL: usize;
    const SMALL_TWICE: bool;
    const LARGE_TWICE: bool;
}

/// Soon before, and once.
#[derive(Clone, Copy)]
pub(crate) struct Soon<const LEVEL: usize>;

/// Long before, and twice where elements are small, or large.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<const SMALL_TWICE: bool, const LARGE_TWICE: bool>;

impl<const LEVEL: usize> When for Soon<LEVEL> {
    const SOON: bool = true;
    const LEVEL: usize = LEVEL;
    const SMALL_TWICE: bool = false;
    const LARGE_TWICE: bool = false;
}

impl<const SMALL_TWICE: bool, const LARGE_TWICE: bool> When for Ahead<SMALL_TWICE, LARGE_TWICE> {
    const SOON: bool = false;
    const LEVEL: usize = 2;
    const SMALL_TWICE: bool = SMALL_TWICE;
    const LARGE_TWICE: bool = LARGE_TWICE;
}

/// Rows that are mostly read side by side.
const GROUP: usize = 4;

/// How later rows are asked for while some are read.
pub(crate) trait Ask<T>: Copy {
    /// Whether rows are read soon after they have been asked for, or long after.
    const SOON: bool;

    /// That of the cache they are fetched into; zero, if they are not asked for.
    const LEVEL: usize;

    /// Whether they are asked for once more, further ahead.
    const TWICE: bool;

    /// Whether they are asked for in the order of addresses even where several are read side by side.
    const BY_ADDRESS: bool;

    /// While so many elements of some rows are read, from here on, asks for as many of later ones.
    fn ask<const N: usize>(&mut self, rows: [*const T; N], elements: usize);

    /// The same, where each time it is for all elements of a row.
    #[inline(always)]
    fn ask_whole<const N: usize>(&mut self, rows: [*const T; N], elements: usize) {
        self.ask(rows, elements);
    }

    /// Where later rows begin that are to be asked for, as a whole, while some are read.
    fn later<const N: usize>(&mut self, rows: [*const T; N]) -> [*const T; N];
}

/// Goes from row to row, several times if need be, and asks for later ones before they are read.
pub(crate) trait Reader<T>: Ask<T> {
    fn dim(&self) -> usize;

    /// Where the next row begins, whose `dim` elements may be read; only as long as there are rows.
    fn next(&mut self) -> *const T;

    /// Where the next rows begin, of which there are so many; past the last one, it is repeated.
    #[inline(always)]
    fn next_group<const N: usize>(&mut self, count: usize) -> [*const T; N] {
        one_by_one(self, count)
    }

    /// Goes back to the first row.
    fn restart(&mut self);

    /// Has the next row be the first one from now on.
    fn stay(&mut self);
}

/// [`Reader::next_group`]
#[inline(always)]
fn one_by_one<T, const N: usize>(reader: &mut impl Reader<T>, count: usize) -> [*const T; N] {
    let mut last = reader.next();
    let mut rows = [last; N];
    for (i, row) in rows.iter_mut().enumerate().skip(1) {
        if i < count {
            last = reader.next();
        }
        *row = last;
    }
    rows
}

/// Asks for so many elements of each of some rows, as many bytes later.
#[inline(always)]
fn ask_later<T, const N: usize>(rows: [*const T; N], distance: usize, elements: usize, level: usize) {
    for row in rows {
        prefetch_elements(row.wrapping_byte_add(distance), 0..elements, level);
    }
}

/// Reads rows as they are walked along, and asks for others by themselves.
#[derive(Clone, Copy)]
pub(crate) struct Passes<W, A> {
    first: W,
    walk: W,
    later: A,
}

impl<W: Copy, A> Passes<W, A> {
    #[inline(always)]
    fn new(first: W, later: A) -> Self {
        Self { first, walk: first, later }
    }
}

impl<T, W: Walker<T>, A: Ask<T>> Ask<T> for Passes<W, A> {
    const SOON: bool = A::SOON;
    const LEVEL: usize = A::LEVEL;
    const TWICE: bool = A::TWICE;
    const BY_ADDRESS: bool = A::BY_ADDRESS;

    #[inline(always)]
    fn ask<const N: usize>(&mut self, rows: [*const T; N], elements: usize) {
        self.later.ask(rows, elements);
    }

    #[inline(always)]
    fn ask_whole<const N: usize>(&mut self, rows: [*const T; N], elements: usize) {
        self.later.ask_whole(rows, elements);
    }

    #[inline(always)]
    fn later<const N: usize>(&mut self, rows: [*const T; N]) -> [*const T; N] {
        self.later.later(rows)
    }
}

impl<T, W: Walker<T>, A: Ask<T>> Reader<T> for Passes<W, A> {
    #[inline(always)]
    fn dim(&self) -> usize {
        self.walk.dim()
    }

    #[inline(always)]
    fn next(&mut self) -> *const T {
        self.walk.next()
    }

    /// Does not ask again for what has been asked for.
    #[inline(always)]
    fn restart(&mut self) {
        self.walk = self.first;
    }

    #[inline(always)]
    fn stay(&mut self) {
        self.first = self.walk;
    }
}

/// Asks, soon before it is read, for what is always so many bytes from what is read.
#[derive(Clone, Copy)]
pub(crate) struct Evenly<const LEVEL: usize>(usize);

impl<const LEVEL: usize> Evenly<LEVEL> {
    /// For rows that lie evenly, from the first one on, asking for those from the second on, of which there need not be any.
    #[inline(always)]
    pub(crate) fn new<'a, T: Copy>(
        rows: impl Fn(usize) -> Even<'a, T>,
        [first, later]: [usize; 2],
    ) -> Passes<Even<'a, T>, Self> {
        let walk = rows(first);
        let distance = (later - first).wrapping_mul(walk.page.stride).wrapping_mul(size_of::<T>());
        Passes::new(walk, Self(distance))
    }
}

impl<T, const LEVEL: usize> Ask<T> for Evenly<LEVEL> {
    const SOON: bool = true;
    const LEVEL: usize = LEVEL;
    const TWICE: bool = false;
    const BY_ADDRESS: bool = false;

    #[inline(always)]
    fn ask<const N: usize>(&mut self, rows: [*const T; N], elements: usize) {
        ask_later(rows, self.0, elements, LEVEL);
    }

    #[inline(always)]
    fn later<const N: usize>(&mut self, mut rows: [*const T; N]) -> [*const T; N] {
        rows.iter_mut().for_each(|row| *row = row.wrapping_byte_add(self.0));
        rows
    }
}

/// Reads rows in pages of whole groups, and asks, soon before, for what is as far from what is read until either turns a page.
#[derive(Clone, Copy)]
pub(crate) struct ByStretch<'a, T> {
    strip: Strip<'a, T>,
    first: usize,
    /// How many rows later those are that are asked for.
    ahead: usize,
    now: Stretch<T>,
    /// The row behind it.
    end: usize,
}

/// Rows that lie evenly, as far from later ones.
#[derive(Clone, Copy)]
struct Stretch<T> {
    /// Rows that are still to come.
    left: usize,
    next: *const T,
    /// In bytes, to those that are asked for, and to the same two pages later.
    near: usize,
    far: usize,
}

impl<'a, T: Copy> Strip<'a, T> {
    /// Whether no group of rows from this one on is in two pages.
    #[inline(always)]
    pub(crate) const fn has_whole_groups(&self, first: usize) -> bool {
        self.page_size.get().is_multiple_of(GROUP) && first.is_multiple_of(GROUP)
    }

    #[inline(always)]
    fn stretch(&self, row: usize, ahead: usize) -> Stretch<T> {
        let (read, later) = (self.walk(row), self.walk(row + ahead));
        let near = later.next.addr().wrapping_sub(read.next.addr());
        let far = near.wrapping_add(later.two_pages.wrapping_mul(size_of::<T>()));
        Stretch { left: read.left.min(later.left), next: read.next, near, far }
    }
}

impl<'a, T: Copy> ByStretch<'a, T> {
    /// The rows from the first one on, asking for those from about the second on, of which there need not be any: so that both turn pages together, or seldom.
    #[inline(always)]
    pub(crate) fn new(strip: Strip<'a, T>, [first, later]: [usize; 2]) -> Self {
        let (ahead, page_size) = ((later - first).saturating_sub(1).max(1), strip.page_size.get());
        let ahead = ahead.next_multiple_of(if page_size <= ahead { page_size } else { GROUP });
        let now = Stretch { left: 0, next: strip.page.first, near: 0, far: 0 };
        Self { strip, first, ahead, now, end: first }
    }

    /// Where the next rows begin, all of one stretch. Asks for the first line of the same row two pages later than those that are asked for, as [`Walk`](super::Walk) does.
    #[inline(always)]
    fn advance(&mut self, rows: usize) -> *const T {
        if self.now.left == 0 {
            self.now = self.strip.stretch(self.end, self.ahead);
            self.end += self.now.left;
        }
        let row = self.now.next;
        self.now.next = row.wrapping_add(rows * self.strip.page.stride);
        self.now.left -= rows;
        prefetch_far(row.wrapping_byte_add(self.now.far));
        row
    }
}

impl<T: Copy> Ask<T> for ByStretch<'_, T> {
    const SOON: bool = true;
    const LEVEL: usize = 1;
    const TWICE: bool = false;
    const BY_ADDRESS: bool = false;

    #[inline(always)]
    fn ask<const N: usize>(&mut self, rows: [*const T; N], elements: usize) {
        ask_later(rows, self.now.near, elements, <Self as Ask<T>>::LEVEL);
    }

    #[inline(always)]
    fn later<const N: usize>(&mut self, mut rows: [*const T; N]) -> [*const T; N] {
        rows.iter_mut().for_each(|row| *row = row.wrapping_byte_add(self.now.near));
        rows
    }
}

impl<T: Copy> Reader<T> for ByStretch<'_, T> {
    #[inline(always)]
    fn dim(&self) -> usize {
        self.strip.dim()
    }

    #[inline(always)]
    fn next(&mut self) -> *const T {
        self.advance(1)
    }

    /// A whole group is in one stretch.
    #[inline(always)]
    fn next_group<const N: usize>(&mut self, count: usize) -> [*const T; N] {
        if N != GROUP || count < GROUP {
            return one_by_one(self, count);
        }
        let first = self.advance(GROUP);
        from_fn(|i| first.wrapping_add(i * self.strip.page.stride))
    }

    #[inline(always)]
    fn restart(&mut self) {
        self.end = self.first;
        self.now.left = 0;
    }

    #[inline(always)]
    fn stay(&mut self) {
        self.first = self.end - self.now.left;
    }
}

/// Asks in the order of addresses even where several rows are read side by side, wherever they lie; piece by piece, as some CPUs drop what they are asked for all at once.
#[derive(Clone, Copy)]
pub(crate) struct ByAddress<R, T, W> {
    near: R,
    far: R,
    /// Those of `near` and `far` that are asked for.
    rows: [*const T; 2],
    /// Elements of them that have been asked for.
    asked: usize,
    when: PhantomData<W>,
}

impl<R: Walker<T>, T: Copy, W: When> ByAddress<R, T, W> {
    /// For rows from the first one on, asking for those from the second on, of which there need not be any.
    #[inline(always)]
    pub(crate) fn new(rows: impl Fn(usize) -> R, [first, later]: [usize; 2]) -> Passes<R, Self> {
        let (first, mut near) = (rows(first), rows(later));
        let mut far = if Self::TWICE { rows(later + rows_ahead::<T>(first.dim())) } else { near };
        let rows = [near.next(), far.next()];
        Passes::new(first, Self { near, far, rows, asked: 0, when: PhantomData })
    }

    /// Asks for so many elements more.
    #[inline(always)]
    fn ask_for(&mut self, elements: usize) {
        self.ask_from(self.asked, elements);
        self.asked += elements;
        let dim = self.near.dim();
        if self.asked >= dim {
            // What goes beyond the row is of the next one. Long before rows are read, it is faster to leave it out.
            self.asked = if Self::SOON { (self.asked - dim).min(dim) } else { 0 };
            self.turn();
        }
    }

    /// Asks for so many elements of each of some rows, of so many at once.
    #[inline(always)]
    fn ask_in_turn(&mut self, rows: usize, at_once: usize, elements: usize) {
        let mut left = rows;
        while left > 0 {
            self.ask_for(at_once.min(left) * elements);
            left = left.saturating_sub(at_once);
        }
    }

    /// Asks for so many elements from this one on.
    #[inline(always)]
    fn ask_from(&self, first: usize, elements: usize) {
        for t in (0..elements).step_by(const { CACHE_LINE / size_of::<T>() }) {
            let [near, far] = self.rows;
            prefetch_into(Self::LEVEL, near.wrapping_add(first + t));
            if Self::TWICE {
                prefetch_far(far.wrapping_add(first + t));
            }
        }
    }

    /// To the next rows that are asked for.
    #[inline(always)]
    fn turn(&mut self) {
        self.rows[0] = self.near.next_early();
        if Self::TWICE {
            self.rows[1] = self.far.next_early();
        }
    }
}

impl<R: Walker<T>, T: Copy, W: When> Ask<T> for ByAddress<R, T, W> {
    const SOON: bool = W::SOON;
    const LEVEL: usize = W::LEVEL;
    const TWICE: bool = if size_of::<T>() < size_of::<f32>() { W::SMALL_TWICE } else { W::LARGE_TWICE };
    const BY_ADDRESS: bool = true;

    /// Soon before they are read, for all at once as long as it is of one row, else for two where it is less than a cache line of each; long before, as many as have two lines together, and of each turn no more than a row
    /// has.
    #[inline(always)]
    fn ask<const N: usize>(&mut self, _: [*const T; N], elements: usize) {
        let line = const { CACHE_LINE / size_of::<T>() };
        if Self::SOON {
            if self.asked + N * elements <= self.near.dim() {
                return self.ask_for(N * elements);
            }
            return self.ask_in_turn(N, if elements < line { N.min(2) } else { 1 }, elements);
        }
        let most = self.near.dim().min(2 * line);
        if N * elements <= most {
            self.ask_for(N * elements);
        } else if N > 2 && 2 * elements <= most {
            self.ask_in_turn(N, 2, elements);
        } else {
            self.ask_in_turn(N, 1, elements);
        }
    }

    #[inline(always)]
    fn ask_whole<const N: usize>(&mut self, _: [*const T; N], elements: usize) {
        for _ in 0..N {
            self.ask_from(0, elements);
            self.turn();
        }
    }

    #[inline(always)]
    fn later<const N: usize>(&mut self, mut rows: [*const T; N]) -> [*const T; N] {
        for row in &mut rows {
            *row = self.rows[0];
            self.turn();
        }
        rows
    }
}
