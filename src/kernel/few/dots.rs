//! Products of queries with keys, elements in the lanes.

use core::{
    hint::black_box,
    mem::replace,
    sync::atomic::{Ordering, compiler_fence},
};

use super::{
    product::RowProduct,
    readers::{Asked, ReadRows, read},
};
use crate::{
    simd::{Simd, Task},
    softmax::FewScores,
    view::{Reader, Strip},
};

/// [`Dots`] of so many queries.
#[inline(always)]
pub(super) fn dots<S: Simd, P: RowProduct<S, N>, const N: usize>(
    product: P,
    queries: &[S::Vector],
    keys: Strip<'_, P::Element>,
    first: usize,
    scores: &mut FewScores<'_, S>,
) {
    if const { !P::EXISTS } {
        return;
    }
    let (later, to) = (first + keys.rows_ahead(), DotsOf::<_, _, N> { product, queries, scores });
    read::<S, _, _>(product.simd(), to.scores.count, keys, Asked { first, soon: later, ahead: later }, to);
}

/// All of [`Dots`] but the keys.
struct DotsOf<'t, 's, S: Simd, P, const N: usize> {
    product: P,
    queries: &'t [S::Vector],
    scores: &'t mut FewScores<'s, S>,
}

impl<S: Simd, P: RowProduct<S, N>, const N: usize> DotsOf<'_, '_, S, P, N> {
    #[inline(always)]
    fn run<const QUERIES: usize, const KEYS: usize, const RUN: usize>(self, keys: impl Reader<P::Element>) {
        let Self { product, queries, scores } = self;
        product.call(Dots::<_, _, _, N, QUERIES, KEYS, RUN> { product, queries, keys, scores });
    }
}

impl<S: Simd, P: RowProduct<S, N>, const N: usize> ReadRows<P::Element> for DotsOf<'_, '_, S, P, N> {
    const AS_STORED: bool = P::AS_STORED;

    type Output = ();

    /// Up to 512 bytes in one go, where registers suffice: each vector of the query is loaded but once for several keys.
    #[inline(always)]
    fn one<R: Reader<P::Element>>(self, keys: R) {
        if const { P::DIGITS == 2 } {
            self.run::<2, 4, 2>(keys);
        } else if const { N == 2 && S::FEW == 8 && size_of::<P::Element>() == 1 } {
            self.run::<1, 4, 4>(keys);
        } else if const { N == 2 && S::FEW == 8 } {
            self.run::<1, 2, 4>(keys);
        } else if const { S::FEW == 8 && size_of::<P::Element>() < size_of::<f32>() } {
            self.run::<1, 2, 8>(keys);
        } else {
            self.run::<1, 1, 8>(keys);
        }
    }

    #[inline(always)]
    fn several<R: Reader<P::Element>>(self, keys: R) {
        if const { P::DIGITS > 1 } {
            // These are of one query.
        } else if const { S::FEW == 8 && N == 2 && R::SOON && R::BY_ADDRESS } {
            self.run::<4, 2, 4>(keys);
        } else if const { S::FEW == 8 && !R::SOON } {
            // The fewer rows at once, the fewer streams for a CPU to follow.
            self.run::<4, 4, 1>(keys);
        } else if const { S::FEW == 4 && R::SOON && size_of::<P::Element>() < size_of::<S::Scalar>() } {
            // Sums for all registers, and of each key a cache line.
            self.run::<4, 3, 4>(keys);
        } else if const { S::FEW == 4 && R::SOON } {
            self.run::<4, 3, 2>(keys);
        } else {
            self.run::<4, 2, 1>(keys);
        }
    }
}

/// `scores[query][j] = queries[query] . keys[j]` for at most `QUERIES` queries, with elements in the lanes; `RUN` vectors of `KEYS` keys in one go.
///
/// One query has each key read from its first element to its last, one after the other. Several queries are loaded for several keys at a time instead, vector by
/// vector. Lanes are added up for four keys with each query or, if three keys are multiplied at a time, for four queries with each key.
struct Dots<
    't,
    's,
    S: Simd,
    P: RowProduct<S, N>,
    R,
    const N: usize,
    const QUERIES: usize,
    const KEYS: usize,
    const RUN: usize,
> {
    product: P,
    /// `[vector of elements][query]`
    queries: &'t [S::Vector],
    /// As many as scores, or more.
    keys: R,
    scores: &'t mut FewScores<'s, S>,
}

impl<
    S: Simd,
    P: RowProduct<S, N>,
    R: Reader<P::Element>,
    const N: usize,
    const QUERIES: usize,
    const KEYS: usize,
    const RUN: usize,
> Task for Dots<'_, '_, S, P, R, N, QUERIES, KEYS, RUN>
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (dim, width) = (self.keys.dim(), N * S::LANES);
        let (queries, _) = self.queries.as_chunks::<QUERIES>();
        let Some((whole, rest)) = queries.split_at_checked(dim / width) else { return };
        let last = rest.first().filter(|_| dim % width > 0).map(|queries| (queries, dim % width));
        let (runs, whole) = whole.as_chunks::<RUN>();
        // Rows that are multiplied with digits are whole runs.
        let (whole, last) = if const { P::DIGITS > 1 } { (&[][..], None) } else { (whole, last) };
        let queries = Queries { runs, whole, last };
        match queries {
            _ if const { takes_registers(KEYS) } => self.multiply_by_threes(queries),
            _ if const { !Self::HAS_REGISTERS } => self.multiply(queries),
            Queries { runs: [run], whole: [], last: None } => self.multiply(Queries::run(&[*run])),
            // With several keys at a time, it was no faster.
            Queries { runs: [], whole: [a, b, c, d], last: None } if const { RUN == 8 && KEYS == 1 } => {
                self.multiply(Queries::run(&[[*a, *b, *c, *d]]));
            }
            Queries { runs: [], whole: [a, b], last: None } if const { RUN == 4 } => {
                self.multiply(Queries::run(&[[*a, *b]]));
            }
            _ => self.multiply(queries),
        }
    }
}

impl<
    S: Simd,
    P: RowProduct<S, N>,
    R: Reader<P::Element>,
    const N: usize,
    const QUERIES: usize,
    const KEYS: usize,
    const RUN: usize,
> Dots<'_, '_, S, P, R, N, QUERIES, KEYS, RUN>
{
    /// Whether rows are multiplied with one query.
    const OF_ONE: bool = QUERIES == P::DIGITS;

    /// Whether there are registers for a run of the queries, if that is all of them.
    const HAS_REGISTERS: bool = S::FEW == 8 && RUN > 1 && QUERIES * RUN <= 16;

    /// What sums begin with, so that those with a row of zeros are zero.
    #[inline(always)]
    fn start(&self) -> [S::Vector; QUERIES] {
        let mut start = [self.scores.simd.splat(0.0); QUERIES];
        if const { P::DIGITS > 1 } {
            let vectors = self.keys.dim().div_ceil(N * S::LANES);
            for queries in self.queries.as_chunks::<QUERIES>().0.iter().take(vectors) {
                for i in 0..QUERIES {
                    start[i] = self.product.less_zeros(start[i], queries[i]);
                }
            }
        }
        start
    }

    /// For four keys at a time.
    #[inline(always)]
    fn multiply<const OF: usize>(self, queries: Queries<'_, S::Vector, QUERIES, OF>) {
        let start = self.start();
        let Self { product, mut keys, scores, .. } = self;
        let (simd, len) = (scores.simd, scores.len);
        let mut waiting = [[simd.splat(0.0); QUERIES]; 4];
        for first in (0..len).step_by(4) {
            let (rows, mut sums) = (keys.next_group(len - first), [start; 4]);
            if const { S::FEW == 1 } {
                (0..4).step_by(KEYS).for_each(|k| Self::add_keys(k, product, queries, rows, &mut sums, &mut keys));
            } else {
                // A loop would keep sums in memory.
                Self::add_keys(0, product, queries, rows, &mut sums, &mut keys);
                if const { KEYS < 2 } {
                    Self::add_keys(1, product, queries, rows, &mut sums, &mut keys);
                }
                if const { KEYS < 4 } {
                    Self::add_keys(2, product, queries, rows, &mut sums, &mut keys);
                }
                if const { KEYS < 2 } {
                    Self::add_keys(3, product, queries, rows, &mut sums, &mut keys);
                }
            }
            if Self::OF_ONE {
                // To add up lanes takes long: while this is done for some keys, the products with the next ones are under way.
                add_lanes(product, replace(&mut waiting, sums), first.saturating_sub(4), scores);
            } else {
                add_lanes(product, sums, first, scores);
            }
        }
        if Self::OF_ONE {
            add_lanes(product, waiting, len.saturating_sub(1) / 4 * 4, scores);
        }
    }

    /// Adds the products with `KEYS` of four rows, from number `first` on.
    #[inline(always)]
    fn add_keys<const OF: usize>(
        first: usize,
        product: P,
        queries: Queries<'_, S::Vector, QUERIES, OF>,
        rows: [*const P::Element; 4],
        sums: &mut [[S::Vector; QUERIES]; 4],
        reader: &mut R,
    ) {
        let Some(rows) = rows.get(first..).and_then(<[_]>::first_chunk::<KEYS>) else { return };
        let Some(sums) = sums.get_mut(first..).and_then(<[_]>::first_chunk_mut::<KEYS>) else { return };
        // SAFETY: the rows exist, and have as many elements.
        unsafe { add_rows(product, queries, *rows, sums, reader) };
        if QUERIES == 4 && KEYS == 2 && S::FEW < 8 {
            // With sixteen registers, those are for the next keys.
            *sums = black_box(*sums);
        }
    }

    /// The same for three keys at a time, whose sums with four queries take all registers, and are scores before the next keys are read.
    #[inline(always)]
    fn multiply_by_threes(self, queries: Queries<'_, S::Vector, QUERIES, RUN>) {
        let Self { product, mut keys, scores, .. } = self;
        let len = scores.len;
        for first in (0..len).step_by(KEYS) {
            let rows = keys.next_group(len - first);
            let mut sums = [[scores.simd.splat(0.0); QUERIES]; KEYS];
            // SAFETY: the rows exist, and have as many elements.
            unsafe { add_rows(product, queries, rows, &mut sums, &mut keys) };
            for k in 0..KEYS {
                if first + k < len
                    && let Some(sums) = sums[k].first_chunk()
                {
                    scores.set_key(first + k, product.sum_each(*sums));
                }
            }
        }
    }
}

/// Whether sums of four queries with so many keys, and what they are made of, take all of sixteen registers.
const fn takes_registers(keys: usize) -> bool {
    keys == 3
}

/// Makes sums with four keys, those from `first` on, scores.
#[inline(always)]
fn add_lanes<S: Simd, P: RowProduct<S, N>, const N: usize, const QUERIES: usize>(
    product: P,
    [a, b, c, d]: [[S::Vector; QUERIES]; 4],
    first: usize,
    scores: &mut FewScores<'_, S>,
) {
    if const { P::DIGITS > 1 } {
        let [a, b, c, d] = [number(product, a), number(product, b), number(product, c), number(product, d)];
        scores.set_four(0, first, product.sum_each([a, b, c, d]));
        return;
    }
    for i in 0..QUERIES {
        scores.set_four(i, first, product.sum_each([a[i], b[i], c[i], d[i]]));
    }
}

/// What sums with the digits of a query come to.
#[inline(always)]
fn number<S: Simd, P: RowProduct<S, N>, const N: usize, const DIGITS: usize>(
    product: P,
    digits: [S::Vector; DIGITS],
) -> S::Vector {
    let mut number = product.simd().splat(0.0);
    for digit in digits {
        number = product.carry(number, digit);
    }
    number
}

/// Vectors of the elements of each query.
#[derive(Clone, Copy)]
struct Queries<'t, V, const QUERIES: usize, const RUN: usize> {
    /// Those that are multiplied in one go.
    runs: &'t [[[V; QUERIES]; RUN]],
    /// Fewer than that.
    whole: &'t [[V; QUERIES]],
    /// One of so many elements.
    last: Option<(&'t [V; QUERIES], usize)>,
}

impl<'t, V, const QUERIES: usize, const RUN: usize> Queries<'t, V, QUERIES, RUN> {
    /// No more than one run.
    #[inline(always)]
    const fn run(run: &'t [[[V; QUERIES]; RUN]; 1]) -> Self {
        Self { runs: run, whole: &[], last: None }
    }
}

/// Adds the products of queries with some rows: of elements that are no whole run, half of `RUN` vectors at a time where these are so wide that it matters,
/// then single ones.
///
/// # Safety
///
/// The rows have as many elements.
#[inline(always)]
unsafe fn add_rows<
    S: Simd,
    P: RowProduct<S, N>,
    const N: usize,
    const QUERIES: usize,
    const KEYS: usize,
    const RUN: usize,
>(
    product: P,
    Queries { runs, mut whole, last }: Queries<'_, S::Vector, QUERIES, RUN>,
    mut rows: [*const P::Element; KEYS],
    sums: &mut [[S::Vector; QUERIES]; KEYS],
    reader: &mut impl Reader<P::Element>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        add_runs(product, runs, &mut rows, sums, reader);
        if whole.is_empty() && last.is_none() {
            return;
        }
        if const { RUN == 8 && S::FEW == 8 } {
            let (run, single) = whole.as_chunks::<4>();
            add_runs(product, run, &mut rows, sums, reader);
            whole = single;
        }
        if const { RUN == 4 } {
            let (run, single) = whole.as_chunks::<2>();
            add_runs(product, run, &mut rows, sums, reader);
            whole = single;
        }
        if const { RUN > 1 } {
            add_runs(product, whole.as_chunks::<1>().0, &mut rows, sums, reader);
        }
        if let Some((queries, len)) = last {
            let mut keys = [product.simd().splat(0.0); KEYS];
            for (key, row) in keys.iter_mut().zip(rows) {
                *key = product.load(core::slice::from_raw_parts(row, len));
            }
            reader.ask(rows, len);
            add_products(product, queries, keys, sums);
        }
    }
}

/// Adds the products of queries with the first elements of some rows, and passes over those.
///
/// # Safety
///
/// The rows have as many elements.
#[inline(always)]
unsafe fn add_runs<
    S: Simd,
    P: RowProduct<S, N>,
    const N: usize,
    const QUERIES: usize,
    const KEYS: usize,
    const RUN: usize,
>(
    product: P,
    runs: &[[[S::Vector; QUERIES]; RUN]],
    rows: &mut [*const P::Element; KEYS],
    sums: &mut [[S::Vector; QUERIES]; KEYS],
    reader: &mut impl Reader<P::Element>,
) {
    let width = N * S::LANES;
    for run in runs {
        // SAFETY: the caller's promise.
        let load = |row: *const P::Element, c| unsafe { core::slice::from_raw_parts(row.add(c * width), width) };
        if const { takes_registers(KEYS) } {
            reader.ask(*rows, RUN * width);
            for (c, queries) in run.iter().enumerate() {
                let mut keys = [product.simd().splat(0.0); KEYS];
                for k in 0..KEYS {
                    keys[k] = product.load(load(rows[k], c));
                }
                add_products(product, queries, keys, sums);
            }
        } else if const { S::FEW == 8 && QUERIES == P::DIGITS } {
            // Asked for first, later rows are not held up by products that wait for memory. These take fewer instructions as elements are loaded, so that a CPU looks further ahead.
            reader.ask(*rows, RUN * width);
            compiler_fence(Ordering::SeqCst);
            for (row, sums) in rows.iter().zip(&mut *sums) {
                // Rows are foreseen in the order of their addresses.
                compiler_fence(Ordering::SeqCst);
                for (c, queries) in run.iter().enumerate() {
                    let key = product.load(load(*row, c));
                    for i in 0..QUERIES {
                        sums[i] = product.add(key, queries[i], sums[i]);
                    }
                }
            }
        } else {
            let mut keys = [[product.simd().splat(0.0); KEYS]; RUN];
            for i in 0..RUN * KEYS {
                let (c, k) = if QUERIES == 1 { (i % RUN, i / RUN) } else { (i / KEYS, i % KEYS) };
                keys[c][k] = product.load(load(rows[k], c));
            }
            if const { RUN > 1 } && reader.dim() == RUN * width {
                reader.ask_whole(*rows, RUN * width);
            } else {
                reader.ask(*rows, RUN * width);
            }
            if QUERIES == 1 {
                // No load is to move to behind the products or another key's, nor to share an index with queries: memory is read slower then.
                compiler_fence(Ordering::SeqCst);
                *rows = black_box(*rows);
            }
            for c in 0..RUN {
                add_products(product, &run[c], keys[c], sums);
            }
        }
        for row in &mut *rows {
            *row = row.wrapping_add(RUN * width);
        }
    }
}

#[inline(always)]
fn add_products<S: Simd, P: RowProduct<S, N>, const N: usize, const QUERIES: usize, const KEYS: usize>(
    product: P,
    queries: &[S::Vector; QUERIES],
    keys: [S::Vector; KEYS],
    sums: &mut [[S::Vector; QUERIES]; KEYS],
) {
    for (i, query) in queries.iter().enumerate() {
        // Loaded once, though products are settled one after the other.
        let query = *query;
        for k in 0..KEYS {
            let sum = product.add(keys[k], query, sums[k][i]);
            // The next query or key is not to be loaded before.
            sums[k][i] = if const { takes_registers(KEYS) } { product.simd().settled(sum) } else { sum };
        }
    }
}
