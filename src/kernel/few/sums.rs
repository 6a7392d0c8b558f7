//! Sums of weighted values, columns in the lanes.

use core::{hint::black_box, ops::Range, ptr::null};

use super::{
    product::RowProduct,
    readers::{Asked, ReadRows, is_wide, read},
    room, touch, touch_line,
};
use crate::{
    pieces::pieces,
    scalar::Scalar,
    simd::{CACHE_LINE, Simd, Task, prefetch, prefetch_elements},
    softmax::{FEW_TILES, FewScores},
    view::{ByAddress, Reader, Soon, Strip},
};

/// Weights of some queries, and what else the sums want.
#[derive(Clone, Copy)]
pub(super) struct Weights<'t, S: Simd> {
    pub(super) simd: S,
    /// Those of a query, one number or pair of numbers after the other; there is room for [`FEW`](Simd::FEW) queries.
    pub(super) elements: &'t [S::Scalar],
    /// Queries.
    pub(super) count: usize,
    /// Keys.
    pub(super) len: usize,
    /// The number of the first key, if sums are to have the order that they have for many queries.
    pub(super) in_order: Option<usize>,
    /// Whether keys that are masked are marked by negative weights.
    pub(super) are_marked: bool,
    /// What sums of integers are to be multiplied with, of each query.
    pub(super) factors: &'t [S::Scalar; 16],
    /// What earlier sums are to be multiplied with, of each query.
    pub(super) rescale: S::Vector,
}

impl<S: Simd> Weights<'_, S> {
    /// From a query to the next, where each element is of so many weights.
    pub(super) const fn stride(n: usize) -> usize {
        if n == 1 { FewScores::<S>::OF_QUERY * S::LANES } else { FEW_TILES * S::KEY_TILE / n }
    }
}

/// [`Sums`] of so many queries.
#[inline(always)]
pub(super) fn accumulate<S: Simd, P: RowProduct<S, N>, const N: usize>(
    product: P,
    weights: Weights<'_, S>,
    values: Strip<'_, P::Element>,
    first: usize,
    output: &mut [S::Vector],
) {
    if const { !P::EXISTS } {
        return;
    }
    // Where columns are summed up in several passes, each asks for a part of the next tile, if long before.
    let asked = Asked { first, soon: first + values.rows_ahead(), ahead: first + weights.len.min(S::KEY_TILE) };
    let done = if P::HAS_MARKS && weights.are_marked {
        0
    } else {
        let to = SumsOf::<_, _, N> { product, weights, output: &mut *output };
        read::<S, _, _>(product.simd(), weights.count, values, asked, to)
    };
    if done < values.dim().div_ceil(N * S::LANES) {
        let rows = ByAddress::<_, _, Soon>::new(|row| values.walk(row), [first, asked.soon]);
        let to = SumsOf::<_, _, N> { product, weights, output };
        match room::<S>(weights.count) {
            8 if const { S::FEW == 8 } => to.rest::<8>(rows, done),
            4 if const { S::FEW >= 4 } => to.rest::<4>(rows, done),
            _ => to.rest::<1>(rows, done),
        }
    }
}

/// All of [`Sums`] but the values.
struct SumsOf<'t, S: Simd, P, const N: usize> {
    product: P,
    weights: Weights<'t, S>,
    output: &'t mut [S::Vector],
}

impl<'t, S: Simd, P: RowProduct<S, N>, const N: usize> SumsOf<'t, S, P, N> {
    #[inline(always)]
    fn of<R, const QUERIES: usize>(self, values: R) -> Sums<'t, S, P, R, N, QUERIES> {
        let Self { product, weights, output } = self;
        Sums { product, weights, values, output, rest: 0 }
    }

    /// [`WholeGroups`]
    #[inline(always)]
    fn run<const QUERIES: usize, const WIDTH: usize>(self, values: impl Reader<P::Element>) -> usize {
        self.product.call(WholeGroups::<_, _, _, N, QUERIES, WIDTH>(self.of(values)))
    }

    #[inline(always)]
    fn rest<const QUERIES: usize>(self, values: impl Reader<P::Element>, first: usize) {
        self.product.call(RestOfGroups::<_, _, _, N, QUERIES> { sums: self.of(values), first });
    }
}

impl<S: Simd, P: RowProduct<S, N>, const N: usize> ReadRows<P::Element> for SumsOf<'_, S, P, N> {
    /// How many groups of columns are done.
    type Output = usize;

    #[inline(always)]
    fn one<R: Reader<P::Element>>(self, values: R) -> usize {
        if const { N == 2 && S::FEW == 4 } {
            self.run::<1, 8>(values)
        } else if const { N == 2 } {
            self.run::<1, 4>(values)
        } else if const { S::FEW == 4 && (is_wide::<S>() || size_of::<P::Element>() == size_of::<S::Scalar>()) } {
            self.run::<1, 16>(values)
        } else {
            self.run::<1, 8>(values)
        }
    }

    #[inline(always)]
    fn several<R: Reader<P::Element>>(self, values: R) -> usize {
        match room::<S>(self.weights.count) {
            8 if const { S::FEW == 8 && N == 2 } => self.run::<8, 1>(values),
            8 if const { S::FEW == 8 } => self.run::<8, 2>(values),
            // Columns for all registers, or more: weights are read again for each product, or sums kept in memory, but rows are read once.
            _ if const { S::FEW == 8 && R::SOON && N == 2 } => self.run::<4, 4>(values),
            _ if const { S::FEW == 8 && R::SOON } => self.run::<4, 8>(values),
            _ if const { S::FEW == 8 && N == 2 } => self.run::<4, 2>(values),
            _ if const { S::FEW == 8 } => self.run::<4, 4>(values),
            _ if const { N == 2 } => self.run::<4, 8>(values),
            _ if const { R::SOON } => self.run::<4, 16>(values),
            _ => self.run::<4, 2>(values),
        }
    }
}

/// `output[query][c] = output[query][c] * rescale[query] + sum_j values[j][c] * weights[query][j]` over some keys, for at most `QUERIES` queries.
struct Sums<'t, S: Simd, P, R, const N: usize, const QUERIES: usize> {
    product: P,
    weights: Weights<'t, S>,
    /// As many rows as weights, or more.
    values: R,
    /// `[query][column]`, as many vectors for each query as its columns take.
    output: &'t mut [S::Vector],
    /// How many elements of a row are left to others.
    rest: usize,
}

/// [`Sums`] in whole groups of `N` vectors of columns, `WIDTH` of them at a time, then half as many, down to two. Says how many are done: mostly all.
struct WholeGroups<'t, S: Simd, P, R, const N: usize, const QUERIES: usize, const WIDTH: usize>(
    Sums<'t, S, P, R, N, QUERIES>,
);

impl<S: Simd, P: RowProduct<S, N>, R: Reader<P::Element>, const N: usize, const QUERIES: usize, const WIDTH: usize> Task
    for WholeGroups<'_, S, P, R, N, QUERIES, WIDTH>
{
    type Output = usize;

    #[inline(always)]
    fn run(mut self) -> usize {
        // By itself, it stays in registers.
        let mut values = self.0.values;
        let (len, dim, width) = (self.0.weights.len, values.dim(), N * S::LANES);
        self.0.rest = dim % if const { WIDTH > 1 } { 2 * width } else { width };
        // What is passed over several times is to stay in the first cache.
        let at_once = if dim <= WIDTH * width { len } else { S::KEY_TILE };
        let (mut start, mut done) = (0, 0);
        while start < len {
            let keys = start..len.min(start + at_once);
            start = keys.end;
            done = self.add(&mut values, &keys, dim / width);
            self.0.weights.rescale = self.0.weights.simd.splat(1.0);
            values.stay();
        }
        done
    }
}

impl<S: Simd, P: RowProduct<S, N>, R: Reader<P::Element>, const N: usize, const QUERIES: usize, const WIDTH: usize>
    WholeGroups<'_, S, P, R, N, QUERIES, WIDTH>
{
    /// Sums for some keys, in as many passes over their values as it takes.
    #[inline(always)]
    fn add(&mut self, values: &mut R, keys: &Range<usize>, groups: usize) -> usize {
        let (sums, width) = (&mut self.0, N * S::LANES);
        let mut group = 0;
        while group + WIDTH <= groups {
            sums.columns::<WIDTH, false>(values, keys, group, width);
            group += WIDTH;
        }
        if const { WIDTH == 16 } && group + 8 <= groups {
            sums.columns::<8, false>(values, keys, group, width);
            group += 8;
        }
        if const { WIDTH >= 8 } && group + 4 <= groups {
            sums.columns::<4, false>(values, keys, group, width);
            group += 4;
        }
        if const { WIDTH >= 4 } && group + 2 <= groups {
            sums.columns::<2, false>(values, keys, group, width);
            group += 2;
        }
        group
    }
}

/// [`Sums`] of the columns from group `first` on, one group at a time.
struct RestOfGroups<'t, S: Simd, P, R, const N: usize, const QUERIES: usize> {
    sums: Sums<'t, S, P, R, N, QUERIES>,
    first: usize,
}

impl<S: Simd, P: RowProduct<S, N>, R: Reader<P::Element>, const N: usize, const QUERIES: usize> Task
    for RestOfGroups<'_, S, P, R, N, QUERIES>
{
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let (mut values, width) = (self.sums.values, N * S::LANES);
        let (dim, keys) = (values.dim(), 0..self.sums.weights.len);
        for group in self.first..dim.div_ceil(width) {
            let len = width.min(dim - group * width);
            if P::HAS_MARKS && self.sums.weights.are_marked {
                self.sums.columns::<1, true>(&mut values, &keys, group, len);
            } else if len == width {
                self.sums.columns::<1, false>(&mut values, &keys, group, width);
            } else {
                self.sums.columns::<1, false>(&mut values, &keys, group, len);
            }
        }
    }
}

/// One for all lanes, and by itself.
#[derive(Clone, Copy)]
struct Weight<S: Simd> {
    in_lanes: S::Vector,
    scalar: S::Scalar,
}

/// `TIMES` times `N` rows, and how many elements of each are added to the columns from group `first` on.
#[derive(Clone, Copy)]
struct NextRows<S: Simd, T, const N: usize, const QUERIES: usize, const TIMES: usize> {
    rows: [[*const T; N]; TIMES],
    lens: [[usize; N]; TIMES],
    /// What they are multiplied with for each query.
    weights: [[Weight<S>; TIMES]; QUERIES],
    first: usize,
}

impl<S: Simd, P: RowProduct<S, N>, R: Reader<P::Element>, const N: usize, const QUERIES: usize>
    Sums<'_, S, P, R, N, QUERIES>
{
    /// Whether columns are multiplied as they are loaded, and not after a whole row has been: the fewer instructions there are to a row, the more rows a CPU looks ahead
    /// while memory answers. For several queries, it leaves registers for sums.
    const AT_ONCE: bool = match S::FEW {
        8 => N == 1 && (QUERIES == 1 || R::SOON),
        4 => R::SOON,
        _ => false,
    };

    /// `GROUPS` of `N` vectors of columns from number `first` on, of `len` elements each.
    #[inline(always)]
    fn columns<const GROUPS: usize, const MARKED: bool>(
        &mut self,
        values: &mut R,
        keys: &Range<usize>,
        first: usize,
        len: usize,
    ) {
        let Weights { simd, in_order, mut rescale, .. } = self.weights;
        values.restart();
        let (first_key, piece) = in_order.map_or((0, usize::MAX), |key| (key + keys.start, S::PIECE));
        for piece in pieces(first_key, keys.len(), piece) {
            let piece = keys.start + piece.start..keys.start + piece.end;
            let mut sums = [[[simd.splat(0.0); N]; GROUPS]; QUERIES];
            let mut weights = piece.start / N..piece.end / N;
            if const { S::FEW == 4 && Self::AT_ONCE && QUERIES * GROUPS * N > 16 } {
                // Sums that registers have no room for are in memory, and each is loaded and stored but once for twice as many rows.
                let sums = black_box(&mut sums);
                while weights.len() >= 2 {
                    self.add_rows::<GROUPS, MARKED, 2>(values, weights.start, first, [[len; N]; 2], sums);
                    weights.start += 2;
                }
            }
            for j in weights {
                self.add_rows::<GROUPS, MARKED, 1>(values, j, first, [[len; N]], &mut sums);
            }
            if !piece.end.is_multiple_of(N) {
                // The last row has zeros for a counterpart.
                let mut lens = [0; N];
                lens[0] = len;
                self.add_rows::<GROUPS, MARKED, 1>(values, piece.end / N, first, [lens], &mut sums);
            }
            self.store(first * N, sums, rescale);
            rescale = simd.splat(1.0);
        }
    }

    /// Adds the next `TIMES` times `N` rows to the sums, as [`NextRows`] has it.
    #[inline(always)]
    fn add_rows<const GROUPS: usize, const MARKED: bool, const TIMES: usize>(
        &self,
        values: &mut R,
        j: usize,
        first: usize,
        lens: [[usize; N]; TIMES],
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let mut rows = [[null(); N]; TIMES];
        for (rows, lens) in rows.iter_mut().zip(lens) {
            for n in 0..N {
                rows[n] = if lens[n] > 0 { values.next() } else { rows[0] };
            }
        }
        let simd = self.weights.simd;
        let mut weights = [[Weight { in_lanes: simd.splat(0.0), scalar: S::Scalar::ZERO }; TIMES]; QUERIES];
        for (i, weights) in weights.iter_mut().enumerate() {
            for (weight, j) in weights.iter_mut().zip(j..) {
                // SAFETY: there is room for `QUERIES` rows, all of which have weights or what else is a number.
                weight.scalar = unsafe { *self.weights.elements.as_ptr().add(i * Weights::<S>::stride(N) + j) };
                weight.in_lanes = simd.broadcast(weight.scalar);
            }
        }
        let rows = NextRows { rows, lens, weights, first };
        if const { Self::AT_ONCE && S::FEW == 4 && GROUPS.is_multiple_of(TIMES * N) } {
            self.add_asking_by_line::<GROUPS, MARKED, TIMES>(values, rows, sums);
        } else if const { Self::AT_ONCE } {
            for group in 0..GROUPS {
                self.add_group::<GROUPS, MARKED, TIMES>(rows, group, sums);
            }
            for rows in rows.rows {
                self.ask(values, rows, first, GROUPS * N * S::LANES);
            }
        } else {
            for t in 0..TIMES {
                self.add_whole::<GROUPS, MARKED, TIMES>(values, rows, t, sums);
            }
        }
    }

    /// Asks for later rows line by line, as groups of columns are added: asked for all at once, they would keep those waiting that are read.
    #[inline(always)]
    fn add_asking_by_line<const GROUPS: usize, const MARKED: bool, const TIMES: usize>(
        &self,
        values: &mut R,
        rows: NextRows<S, P::Element, N, QUERIES, TIMES>,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let (line, part) = const { (CACHE_LINE / size_of::<P::Element>(), GROUPS * N * S::LANES) };
        let mut later = rows.rows;
        if rows.first == 0 {
            for later in &mut later {
                *later = values.later(*later);
            }
        }
        let groups_of_row = const { GROUPS / (TIMES * N) };
        for (i, later) in later.as_flattened().iter().enumerate() {
            for group in 0..groups_of_row {
                let t = group * part / groups_of_row;
                if rows.first == 0 && t.is_multiple_of(line) {
                    prefetch(later.wrapping_add(t));
                }
                self.add_group::<GROUPS, MARKED, TIMES>(rows, i * groups_of_row + group, sums);
            }
            if rows.first == 0 {
                // What later passes read.
                prefetch_elements(*later, part..values.dim());
            }
        }
    }

    /// Adds a group of columns of some rows as they are loaded.
    #[inline(always)]
    fn add_group<const GROUPS: usize, const MARKED: bool, const TIMES: usize>(
        &self,
        NextRows { rows, lens, weights, first }: NextRows<S, P::Element, N, QUERIES, TIMES>,
        group: usize,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let mut columns = [[self.weights.simd.splat(0.0); N]; TIMES];
        for t in 0..TIMES {
            for n in 0..N {
                columns[t][n] = self.load(rows[t][n], first + group, lens[t][n]);
            }
            columns[t] = self.product.columns(columns[t]);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            if let Some(sums) = sums.get_mut(group) {
                let mut sum = *sums;
                for (columns, weight) in columns.into_iter().zip(weights) {
                    sum = self.add::<MARKED>(columns, weight, sum);
                }
                *sums = sum;
            }
        }
    }

    /// Adds the `N` rows of turn `t` after all of their columns have been loaded.
    #[inline(always)]
    fn add_whole<const GROUPS: usize, const MARKED: bool, const TIMES: usize>(
        &self,
        values: &mut R,
        NextRows { rows, lens, weights, first }: NextRows<S, P::Element, N, QUERIES, TIMES>,
        t: usize,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let (rows, lens) = (rows[t], lens[t]);
        let mut columns = [[self.weights.simd.splat(0.0); N]; GROUPS];
        for n in 0..N {
            for (g, columns) in columns.iter_mut().enumerate() {
                columns[n] = self.load(rows[n], first + g, lens[n]);
            }
            if !R::SOON && !R::TWICE && first == 0 && lens[n] > 0 {
                // The rest of the row too, in the order of addresses: asked for but once, it may not have come, and later passes find it in the cache.
                let rest = GROUPS * N * S::LANES..values.dim();
                // Of two rows of bytes, mostly a line each.
                if const { N == 2 } { touch_line(rows[n], rest) } else { touch(rows[n], rest) }
            }
        }
        self.ask(values, rows, first, GROUPS * N * S::LANES);
        for columns in &mut columns {
            *columns = self.product.columns(*columns);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            for g in 0..GROUPS {
                sums[g] = self.add::<MARKED>(columns[g], weights[t], sums[g]);
            }
        }
    }

    /// Adds columns, times a weight.
    #[inline(always)]
    fn add<const MARKED: bool>(
        &self,
        columns: [S::Vector; N],
        weight: Weight<S>,
        mut sums: [S::Vector; N],
    ) -> [S::Vector; N] {
        let product = self.product;
        if MARKED {
            return product.add_unmarked(columns, weight.scalar, sums);
        }
        for n in 0..N {
            sums[n] = product.add(columns[n], weight.in_lanes, sums[n]);
        }
        sums
    }

    /// So many elements of a row's columns, those of one group.
    #[inline(always)]
    fn load(&self, row: *const P::Element, group: usize, len: usize) -> S::Vector {
        // SAFETY: there are as many rows as weights, and each has these columns.
        self.product.load_columns(unsafe { core::slice::from_raw_parts(row.add(group * N * S::LANES), len) })
    }

    /// While a part of `N` rows is summed up, asks for as much of later ones; for all of those at first, if they are read soon.
    #[inline(always)]
    fn ask(&self, values: &mut R, rows: [*const P::Element; N], first: usize, part: usize) {
        if !R::SOON {
            values.ask(rows, part);
            if first == 0 && self.rest > 0 {
                values.ask(rows, self.rest);
            }
        } else if first == 0 {
            for later in values.later(rows) {
                // Mostly, the part is the row; of known length, it takes no loop.
                prefetch_elements(later, 0..part);
                prefetch_elements(later, part..values.dim());
            }
        }
    }

    /// Adds sums of so many columns from vector `first` on to the output, multiplied with a number for each query.
    #[inline(always)]
    fn store<const GROUPS: usize>(
        &mut self,
        first: usize,
        sums: [[[S::Vector; N]; GROUPS]; QUERIES],
        factors: S::Vector,
    ) {
        let Self { product, weights, ref values, .. } = *self;
        let (simd, per_query) = (weights.simd, values.dim().div_ceil(S::LANES));
        let mut rescale = [S::Scalar::ZERO; 16];
        simd.store(factors, &mut rescale);
        for (i, ((sums, rescale), factor)) in sums.iter().zip(rescale).zip(weights.factors).enumerate() {
            let rescale = simd.broadcast(rescale);
            for (g, sums) in sums.iter().enumerate() {
                // Each by itself: along with a slice of the output, the sums would be kept in memory.
                for (column, sum) in (first + g * N..per_query).zip(product.in_order(*sums, *factor)) {
                    if let Some(output) = self.output.get_mut(i * per_query + column) {
                        *output = simd.mul_add(*output, rescale, sum);
                    }
                }
            }
        }
    }
}
