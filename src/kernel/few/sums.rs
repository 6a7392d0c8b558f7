//! Sums of weighted values, columns in the lanes.

use core::{ops::Range, ptr::null};

use super::{
    product::RowProduct,
    readers::{Asked, ReadRows, is_wide, read},
    room, touch, touch_line,
};
use crate::{
    pieces::pieces,
    scalar::Scalar,
    simd::{CACHE_LINE, Simd, Task, prefetch_elements, prefetch_into, prefetch_row},
    softmax::FewScores,
    view::{ByAddress, Reader, Soon, Strip, rows_ahead},
};

/// Weights of some queries, and what else the sums want.
#[derive(Clone, Copy)]
pub struct Weights<'t, S: Simd> {
    pub(super) simd: S,
    /// Those of a query, one number or pair of numbers after the other; there is room for four queries, or for one.
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
    pub(super) factors: [S::Scalar; 4],
    /// What earlier sums are to be multiplied with, of each query.
    pub(super) rescale: [S::Scalar; 4],
}

impl<S: Simd> Weights<'_, S> {
    /// From a query to the next, where each element is of so many weights.
    pub(super) const fn stride(n: usize) -> usize {
        FewScores::<S>::STRIDE / n
    }

    /// The keys in blocks, of so many if they need not be in order.
    #[inline(always)]
    fn blocks(&self, keys_at_once: usize) -> impl Iterator<Item = Range<usize>> + use<S> {
        match self.in_order {
            Some(key) => pieces(key, self.len, S::PIECE),
            // From the second piece on, as the first one is cut in two.
            None => pieces(keys_at_once, self.len, keys_at_once),
        }
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
    let keys_at_once = keys_at_once::<_, _, N>(&weights, &values);
    let done = if P::HAS_MARKS && weights.are_marked {
        0
    } else {
        let to = SumsOf::<_, _, N> { product, weights, keys_at_once, output: &mut *output };
        read::<S, _, _>(product.simd(), weights.count, values, asked, to)
    };
    // Rows of digits are whole groups.
    if const { P::DIGITS == 1 } && done < values.dim().div_ceil(N * S::LANES) {
        let rows = ByAddress::<_, _, Soon<1>>::new(|row| values.walk(row), [first, asked.soon]);
        let to = SumsOf::<_, _, N> { product, weights, keys_at_once, output };
        match room::<S>(weights.count) {
            4 if const { S::FEW >= 4 } => to.rest::<4>(rows, done),
            _ => to.rest::<1>(rows, done),
        }
    }
}

/// All of [`Sums`] but the values.
struct SumsOf<'t, S: Simd, P, const N: usize> {
    product: P,
    weights: Weights<'t, S>,
    /// [`keys_at_once`]
    keys_at_once: usize,
    output: &'t mut [S::Vector],
}

impl<'t, S: Simd, P: RowProduct<S, N>, const N: usize> SumsOf<'t, S, P, N> {
    #[inline(always)]
    fn of<R, const QUERIES: usize>(self, values: R) -> Sums<'t, S, P, R, N, QUERIES> {
        let Self { product, weights, keys_at_once, output } = self;
        Sums { product, weights, values, keys_at_once, output }
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
    const AS_STORED: bool = P::AS_STORED;

    /// How many groups of columns are done.
    type Output = usize;

    #[inline(always)]
    fn one<R: Reader<P::Element>>(self, values: R) -> usize {
        if const { P::DIGITS == 2 } {
            self.run::<2, 2>(values)
        } else if const { N == 2 && S::FEW == 4 } {
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
        if const { P::DIGITS > 1 } {
            0
        } else if const { S::FEW == 8 && R::SOON && N == 2 } {
            // Columns for all registers, or more: weights are read again for each product, or sums kept in memory, but rows are read once.
            self.run::<4, 4>(values)
        } else if const { S::FEW == 8 && R::SOON } {
            self.run::<4, 8>(values)
        } else if const { S::FEW == 8 && N == 2 } {
            self.run::<4, 2>(values)
        } else if const { S::FEW == 8 } {
            self.run::<4, 4>(values)
        } else if const { N == 2 } {
            self.run::<4, { width_in_turn(2) }>(values)
        } else if const { R::SOON } {
            self.run::<4, { width_in_turn(1) }>(values)
        } else {
            self.run::<4, 2>(values)
        }
    }
}

/// `output[query][c] = output[query][c] * rescale[query] + sum_j values[j][c] * weights[query][j]` over some keys, for at most `QUERIES` queries.
struct Sums<'t, S: Simd, P, R, const N: usize, const QUERIES: usize> {
    product: P,
    weights: Weights<'t, S>,
    /// As many rows as weights, or more.
    values: R,
    /// [`keys_at_once`]
    keys_at_once: usize,
    /// `[query][column]`, as many vectors for each query as its columns take.
    output: &'t mut [S::Vector],
}

/// [`Sums`] in whole groups of `N` vectors of columns, `WIDTH` of them at a time, then fewer, down to two. Says how many are done: mostly all.
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
        let mut done = 0;
        for keys in self.0.weights.blocks(self.0.keys_at_once) {
            done = self.add(&mut values, &keys);
            self.0.weights.rescale = [S::Scalar::ONE; 4];
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
    fn add(&mut self, values: &mut R, keys: &Range<usize>) -> usize {
        let (groups, mut group) = (values.dim() / const { N * S::LANES }, 0);
        // Three and one take longer than two and two.
        while group + WIDTH <= groups && !(const { WIDTH == 3 } && groups - group == 4) {
            self.pass::<WIDTH>(values, keys, &mut group);
        }
        if const { WIDTH == 16 } && group + 8 <= groups {
            self.pass::<8>(values, keys, &mut group);
        }
        if const { WIDTH >= 8 } && group + 4 <= groups {
            self.pass::<4>(values, keys, &mut group);
        }
        while const { WIDTH >= 3 } && group + 2 <= groups {
            self.pass::<2>(values, keys, &mut group);
        }
        group
    }

    #[inline(always)]
    fn pass<const GROUPS: usize>(&mut self, values: &mut R, keys: &Range<usize>, group: &mut usize) {
        let (first, len, dim) = (*group, N * S::LANES, values.dim());
        *group += GROUPS;
        // Those that are left to others.
        let rest = if first == 0 { dim % if const { WIDTH > 1 } { 2 * len } else { len } } else { 0 };
        let columns = Columns { first, lens: [len; N], rest, turn: Some(passes::<S, N>(dim)) };
        self.0.columns::<GROUPS, false>(values, keys, &columns);
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
    fn run(self) {
        let Self { mut sums, first } = self;
        let (mut values, width) = (sums.values, N * S::LANES);
        let dim = values.dim();
        for keys in sums.weights.blocks(sums.keys_at_once) {
            for first in first..dim.div_ceil(width) {
                let len = width.min(dim - first * width);
                let turn = (first == 0).then_some(1);
                let columns = Columns { first, lens: [len; N], rest: 0, turn };
                if P::HAS_MARKS && sums.weights.are_marked {
                    sums.columns::<1, true>(&mut values, &keys, &columns);
                } else if len == width {
                    sums.columns::<1, false>(&mut values, &keys, &Columns { lens: [width; N], ..columns });
                } else {
                    sums.columns::<1, false>(&mut values, &keys, &columns);
                }
            }
            sums.weights.rescale = [S::Scalar::ONE; 4];
            values.stay();
        }
    }
}

/// Groups of `n` vectors of columns for four queries and sixteen registers: eight sums or, as their latency is hidden even where a core is shared, twelve.
const fn width_in_turn(n: usize) -> usize {
    if n == 2 { 1 } else { 3 }
}

/// Passes over whole groups of `N` vectors of so many elements' sums, if they ask in turn.
#[inline(always)]
const fn passes<S: Simd, const N: usize>(dim: usize) -> usize {
    (dim / const { N * S::LANES }).div_ceil(width_in_turn(N))
}

/// Whether each pass over some rows asks for some of the later ones, in the order of their addresses, and not the first one for all.
const fn are_asked_in_turn<S: Simd>(several: bool) -> bool {
    S::FEW == 4 && is_wide::<S>() && several
}

/// How many keys are summed up by themselves: what is passed over several times is to stay in the first cache. As sums are rounded accordingly, this is for all that
/// are to have the same bits: rows as they lie and in pages, single numbers of whatever type, values with marked weights and without, on any CPU.
#[inline(always)]
fn keys_at_once<S: Simd, T: Copy, const N: usize>(weights: &Weights<'_, S>, values: &Strip<'_, T>) -> usize {
    let (dim, several) = (values.dim(), weights.count > 1);
    let passes = passes::<S, N>(dim);
    if are_asked_in_turn::<S>(several) && passes > 1 {
        // About as many as rows are asked for before, and so that each pass asks for as many.
        let rows = if N == 1 { rows_ahead::<S::Scalar>(dim) } else { values.rows_ahead() };
        rows.next_multiple_of(N * passes)
    } else if dim <= if several { 4 } else { 8 } * S::LANES {
        // One pass will do, or two where there are few lanes.
        weights.len
    } else {
        S::KEY_TILE
    }
}

/// Groups of columns that are summed up in one pass: from this one on, each of so many elements of `N` rows.
struct Columns<const N: usize> {
    first: usize,
    lens: [usize; N],
    /// How many more elements are asked for long before.
    rest: usize,
    /// Or how often it is the turn of `N` rows to ask for as many that are read soon, if ever.
    turn: Option<usize>,
}

/// One for all lanes, and by itself.
#[derive(Clone, Copy)]
struct Weight<S: Simd> {
    in_lanes: S::Vector,
    scalar: S::Scalar,
}

/// `N` rows that are added to some columns.
#[derive(Clone, Copy)]
struct NextRows<'t, T, E, const N: usize> {
    rows: [*const T; N],
    /// Where what they are multiplied with for the first query is.
    weights: *const E,
    columns: &'t Columns<N>,
}

impl<S: Simd, P: RowProduct<S, N>, R: Reader<P::Element>, const N: usize, const QUERIES: usize>
    Sums<'_, S, P, R, N, QUERIES>
{
    /// Whether columns are multiplied as they are loaded, and not after a whole row has been: the fewer instructions there are to a row, the more rows a CPU looks ahead
    /// while memory answers. For several queries, it leaves registers for sums.
    const AT_ONCE: bool = match S::FEW {
        8 => N == 1 && (QUERIES == 1 || R::SOON),
        4 => R::SOON && QUERIES == 1,
        _ => false,
    };

    const ASKS_IN_TURN: bool = are_asked_in_turn::<S>(QUERIES > P::DIGITS);

    /// `GROUPS` of `N` vectors of columns, for some keys.
    #[inline(always)]
    fn columns<const GROUPS: usize, const MARKED: bool>(
        &mut self,
        values: &mut R,
        keys: &Range<usize>,
        columns: &Columns<N>,
    ) {
        values.restart();
        let mut sums = [[[self.weights.simd.splat(0.0); N]; GROUPS]; QUERIES];
        if const { P::DIGITS > 1 } {
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [[self.start(i, keys); N]; GROUPS];
            }
        }
        // By itself, it stays in a register.
        let weights = self.weights.elements.as_ptr();
        let (mut j, end) = (keys.start / N, keys.end / N);
        while j < end {
            let mut until = end;
            if const { Self::ASKS_IN_TURN }
                && let Some(turn) = columns.turn
            {
                until = end.min(j + turn);
                for later in values.later([null(); N]) {
                    // Mostly, bytes are two lines.
                    prefetch_row(later, const { 2 * (CACHE_LINE / size_of::<P::Element>()) }, values.dim(), R::LEVEL);
                }
            }
            for j in j..until {
                self.add_rows::<GROUPS, MARKED>(values, weights.wrapping_add(j), columns, &mut sums);
            }
            j = until;
        }
        if !keys.end.is_multiple_of(N) {
            // The last rows have zeros for counterparts.
            let (of_all, mut lens) = (columns.lens, [0; N]);
            for n in 0..N - 1 {
                if n < keys.end % N {
                    lens[n] = of_all[n];
                }
            }
            self.add_rows::<GROUPS, MARKED>(
                values,
                weights.wrapping_add(end),
                &Columns { lens, ..*columns },
                &mut sums,
            );
        }
        self.store(columns.first * N, sums);
    }

    /// What sums with digit `i` of the weights of some keys begin with, so that those of rows of zeros are zero.
    #[inline(always)]
    fn start(&self, i: usize, keys: &Range<usize>) -> S::Vector {
        let (simd, first) = (self.weights.simd, i * Weights::<S>::stride(N));
        let digits = self.weights.elements.get(first + keys.start / N..first + keys.end.div_ceil(N));
        let start = digits.unwrap_or_default().chunks(S::LANES);
        self.product
            .spread(start.fold(simd.splat(0.0), |start, digits| self.product.less_zeros(start, simd.load(digits))))
    }

    /// Adds the next `N` rows to the sums, as [`NextRows`] has it.
    #[inline(always)]
    fn add_rows<const GROUPS: usize, const MARKED: bool>(
        &self,
        values: &mut R,
        weights: *const S::Scalar,
        columns: &Columns<N>,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let mut rows = [null(); N];
        for n in 0..N {
            rows[n] = if columns.lens[n] > 0 { values.next() } else { rows[0] };
        }
        let next = NextRows { rows, weights, columns };
        if const { Self::AT_ONCE && S::FEW == 4 && GROUPS.is_multiple_of(N) } {
            self.add_asking_by_line::<GROUPS, MARKED>(values, next, sums);
        } else if const { Self::AT_ONCE } {
            let weights = self.weights(&next);
            for group in 0..GROUPS {
                self.add_group::<GROUPS, MARKED>(next, &weights, group, sums);
            }
            self.ask::<GROUPS>(values, next);
        } else {
            self.add_whole::<GROUPS, MARKED>(values, next, sums);
        }
    }

    /// What the next rows are multiplied with for a query.
    #[inline(always)]
    fn weight(&self, next: &NextRows<'_, P::Element, S::Scalar, N>, query: usize) -> Weight<S> {
        // SAFETY: there is room for `QUERIES` rows, all of which have weights or what else is a number.
        let scalar = unsafe { *next.weights.add(query * Weights::<S>::stride(N)) };
        Weight { in_lanes: self.weights.simd.broadcast(scalar), scalar }
    }

    /// The same for all queries.
    #[inline(always)]
    fn weights(&self, next: &NextRows<'_, P::Element, S::Scalar, N>) -> [Weight<S>; QUERIES] {
        let mut weights = [self.weight(next, 0); QUERIES];
        for (query, weight) in weights.iter_mut().enumerate().skip(1) {
            *weight = self.weight(next, query);
        }
        weights
    }

    /// Asks for later rows line by line, as groups of columns are added: asked for all at once, they would keep those waiting that are read.
    #[inline(always)]
    fn add_asking_by_line<const GROUPS: usize, const MARKED: bool>(
        &self,
        values: &mut R,
        next: NextRows<'_, P::Element, S::Scalar, N>,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let (line, part) = const { (CACHE_LINE / size_of::<P::Element>(), GROUPS * N * S::LANES) };
        let weights = self.weights(&next);
        let mut later = next.rows;
        if next.columns.first == 0 {
            later = values.later(later);
        }
        let groups_of_row = const { GROUPS / N };
        for (i, later) in later.into_iter().enumerate() {
            for group in 0..groups_of_row {
                let t = group * part / groups_of_row;
                if next.columns.first == 0 && t.is_multiple_of(line) {
                    prefetch_into(R::LEVEL, later.wrapping_add(t));
                }
                self.add_group::<GROUPS, MARKED>(next, &weights, i * groups_of_row + group, sums);
            }
            if next.columns.first == 0 {
                // What later passes read.
                prefetch_elements(later, part..values.dim(), R::LEVEL);
            }
        }
    }

    /// Adds a group of columns of some rows as they are loaded.
    #[inline(always)]
    fn add_group<const GROUPS: usize, const MARKED: bool>(
        &self,
        next: NextRows<'_, P::Element, S::Scalar, N>,
        weights: &[Weight<S>; QUERIES],
        group: usize,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let mut columns = [self.weights.simd.splat(0.0); N];
        for (columns, (row, len)) in columns.iter_mut().zip(next.rows.iter().zip(&next.columns.lens)) {
            *columns = self.load(*row, next.columns.first + group, *len);
        }
        let columns = self.product.columns(columns);
        for (sums, weight) in sums.iter_mut().zip(weights) {
            if let Some(sums) = sums.get_mut(group) {
                *sums = self.add::<MARKED>(columns, *weight, *sums);
            }
        }
    }

    /// Adds rows after all of their columns have been loaded.
    #[inline(always)]
    fn add_whole<const GROUPS: usize, const MARKED: bool>(
        &self,
        values: &mut R,
        next: NextRows<'_, P::Element, S::Scalar, N>,
        sums: &mut [[[S::Vector; N]; GROUPS]; QUERIES],
    ) {
        let Columns { first, lens, .. } = *next.columns;
        let mut columns = [[self.weights.simd.splat(0.0); N]; GROUPS];
        for n in 0..N {
            for (g, columns) in columns.iter_mut().enumerate() {
                columns[n] = self.load(next.rows[n], first + g, lens[n]);
            }
            if !R::SOON && !R::TWICE && first == 0 && lens[n] > 0 {
                // The rest of the row too, in the order of addresses: asked for but once, it may not have come, and later passes find it in the cache.
                let rest = GROUPS * N * S::LANES..values.dim();
                // SAFETY: it is one of the reader's rows, which have `dim` elements.
                unsafe {
                    // Of rows of bytes, mostly a line each.
                    if const { N > 1 } { touch_line(next.rows[n], rest) } else { touch(next.rows[n], rest) }
                }
            }
        }
        self.ask::<GROUPS>(values, next);
        for columns in &mut columns {
            *columns = self.product.columns(*columns);
        }
        for (query, sums) in sums.iter_mut().enumerate() {
            let weight = self.weight(&next, query);
            for g in 0..GROUPS {
                sums[g] = self.add::<MARKED>(columns[g], weight, sums[g]);
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
            if const { Self::ASKS_IN_TURN } {
                // Registers are taken: the next weight is not to be loaded before.
                sums[n] = self.weights.simd.settled(sums[n]);
            }
        }
        sums
    }

    /// So many elements of a row's columns, those of one group.
    #[inline(always)]
    fn load(&self, row: *const P::Element, group: usize, len: usize) -> S::Vector {
        // SAFETY: there are as many rows as weights, and each has these columns.
        self.product.load_columns(unsafe { core::slice::from_raw_parts(row.add(group * N * S::LANES), len) })
    }

    /// While `GROUPS` of columns of `N` rows are summed up, asks for as much of later ones, or first for all of those.
    #[inline(always)]
    fn ask<const GROUPS: usize>(
        &self,
        values: &mut R,
        NextRows { rows, columns, .. }: NextRows<'_, P::Element, S::Scalar, N>,
    ) {
        let (dim, part) = (values.dim(), const { GROUPS * N * S::LANES });
        if !R::SOON {
            values.ask(rows, part);
            if columns.rest > 0 {
                values.ask(rows, columns.rest);
            }
        } else if const { !Self::ASKS_IN_TURN } && columns.first == 0 {
            for later in values.later(rows) {
                // Mostly, the part is the row.
                prefetch_row(later, part, dim, R::LEVEL);
            }
        }
    }

    /// Adds sums of so many columns from vector `first` on to the output, multiplied with a number for each query.
    #[inline(always)]
    fn store<const GROUPS: usize>(&mut self, first: usize, mut sums: [[[S::Vector; N]; GROUPS]; QUERIES]) {
        let Self { product, weights, ref values, .. } = *self;
        let (simd, per_query) = (weights.simd, values.dim().div_ceil(S::LANES));
        if const { P::DIGITS > 1 }
            && let [number, digits @ ..] = sums.as_mut_slice()
        {
            for digit in digits {
                let sums = number.as_flattened_mut().iter_mut().zip(digit.as_flattened());
                sums.for_each(|(high, low)| *high = product.carry(*high, *low));
            }
        }
        for i in 0..const { QUERIES / P::DIGITS } {
            let (rescale, factor) = (simd.broadcast(weights.rescale[i]), weights.factors[i]);
            let add = |output: &mut S::Vector, sum| *output = simd.mul_add(*output, rescale, sum);
            let Some(row) = self.output.get_mut(i * per_query + first..(i + 1) * per_query) else { return };
            if let Some(groups) = row.as_chunks_mut::<N>().0.first_chunk_mut::<GROUPS>() {
                for g in 0..GROUPS {
                    let sums = product.in_order(sums[i][g], factor);
                    for n in 0..N {
                        add(&mut groups[g][n], sums[n]);
                    }
                }
            } else {
                let sums = sums[i].first().map_or([simd.splat(0.0); N], |sums| product.in_order(*sums, factor));
                row.iter_mut().zip(sums).for_each(|(output, sum)| add(output, sum));
            }
        }
    }
}
