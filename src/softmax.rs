//! Stage 2: the online softmax of Milakov and Gimelshein (2018), in base 2.

use core::ops::Range;

use crate::{
    kernel::Columns,
    pieces::{begins_piece, pieces},
    ranges::RANGE,
    scalar::Scalar,
    score::modify::Strided,
    scratch::{elements, elements_mut},
    simd::{Bf16Pairs, Simd},
    view::{RowsMut, Strip},
};

/// For each query: the largest score so far, and the sum of `2^(score - max)`.
pub(crate) struct Softmax<S: Simd, const COLS: usize> {
    simd: S,
    max: [S::Vector; COLS],
    sum: [S::Vector; COLS],
}

/// What a tile's maxima have come to.
struct Raised<S: Simd, const COLS: usize> {
    /// What is to be subtracted from its scores.
    offset: [S::Vector; COLS],
    /// What sums so far are to be multiplied with.
    rescale: [S::Vector; COLS],
}

impl<S: Simd, const COLS: usize> Softmax<S, COLS> {
    /// No key yet, but a sink for each lane, the same in all vectors: a score that takes weight and has no value, or negative infinity.
    #[inline(always)]
    pub(crate) fn new(simd: S, sink: S::Vector) -> Self {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let sum = simd.select(simd.less(sink, simd.broadcast(S::Scalar::MIN)), zero, one);
        Self { simd, max: [sink; COLS], sum: [sum; COLS] }
    }

    /// Turns scores with keys of a tile, from number `first` on, the largest of which are `tile_max`, into weights. Returns what is to be multiplied with
    /// all that was summed up before: exactly 1 for a query whose maximum did not move.
    #[inline(always)]
    pub(crate) fn update(
        &mut self,
        tile_max: [S::Vector; COLS],
        first: usize,
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let simd = self.simd;
        let mut raised = self.raise(tile_max, 0.0);
        for offset in &mut raised.offset {
            *offset = simd.sub(simd.splat(0.0), *offset);
        }
        // A sum, which can take scores from memory.
        let pieces = pieces(first, scores.len(), PIECE);
        self.update_with(raised, pieces, scores, |score, negative| simd.add(negative, score))
    }

    /// [`update`](Self::update) with scores yet to be multiplied with a positive number.
    #[inline(always)]
    pub(crate) fn update_scaled(
        &mut self,
        tile_max: [S::Vector; COLS],
        factor: S::Scalar,
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let (simd, factor) = (self.simd, self.simd.broadcast(factor));
        let raised = self.raise_scaled(tile_max, factor, scores);
        let pieces = core::iter::once(0..scores.len());
        self.update_with(raised, pieces, scores, |score, offset| less(simd, score, factor, offset))
    }

    /// The weights of each piece are summed up by themselves.
    #[inline(always)]
    fn update_with(
        &mut self,
        Raised { offset, rescale }: Raised<S, COLS>,
        pieces: impl Iterator<Item = Range<usize>>,
        scores: &mut [[S::Vector; COLS]],
        exponent: impl Fn(S::Vector, S::Vector) -> S::Vector,
    ) -> [S::Vector; COLS] {
        let (simd, nothing) = (self.simd, [self.simd.splat(0.0); COLS]);
        let mut sum = nothing;
        for piece in pieces {
            let mut of_piece = nothing;
            for row in scores.get_mut(piece).unwrap_or_default() {
                for c in 0..COLS {
                    row[c] = exponent(row[c], offset[c]);
                }
                *row = simd.exp2_each(*row);
                for c in 0..COLS {
                    of_piece[c] = simd.add(of_piece[c], row[c]);
                }
            }
            for c in 0..COLS {
                sum[c] = simd.add(sum[c], of_piece[c]);
            }
        }
        self.add(sum, rescale);
        rescale
    }

    /// [`update_scaled`](Self::update_scaled) for an even number of scores, the weights of which become pairs: the first half of the rows.
    #[inline(always)]
    pub(crate) fn update_in_pairs(
        &mut self,
        pairs: S::Bf16Pairs,
        tile_max: [S::Vector; COLS],
        factor: S::Scalar,
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let (simd, factor) = (self.simd, self.simd.broadcast(factor));
        let Raised { offset, rescale } = self.raise_scaled(tile_max, factor, scores);
        let mut sum = [simd.splat(0.0); COLS];
        for i in 0..scores.len() / 2 {
            let Some([first, second]) = scores.get(2 * i..).and_then(<[_]>::first_chunk) else { break };
            let [mut first, mut second] = [*first, *second];
            for c in 0..COLS {
                first[c] = less(simd, first[c], factor, offset[c]);
                second[c] = less(simd, second[c], factor, offset[c]);
            }
            (first, second) = (simd.exp2_each(first), simd.exp2_each(second));
            for c in 0..COLS {
                sum[c] = simd.add(simd.add(sum[c], first[c]), second[c]);
            }
            if let Some(to) = scores.get_mut(i) {
                for c in 0..COLS {
                    to[c] = pairs.pair(first[c], second[c]);
                }
            }
        }
        self.add(sum, rescale);
        rescale
    }

    /// Takes a tile's maxima into account, if they are larger than those before by more than `slack`.
    #[inline(always)]
    fn raise(&mut self, tile_max: [S::Vector; COLS], slack: f32) -> Raised<S, COLS> {
        let simd = self.simd;
        let max = &mut self.max;
        let (mut offset, mut rescale) = (tile_max, tile_max);
        for c in 0..COLS {
            let old = max[c];
            max[c] = simd.max(old, tile_max[c]);
            if slack > 0.0 {
                let stays = simd.less(max[c], simd.add(old, simd.splat(slack)));
                max[c] = simd.select(stays, old, max[c]);
            }
            offset[c] = finite_or_zero(simd, max[c]);
            rescale[c] = simd.exp2(simd.sub(old, offset[c]));
        }
        Raised { offset, rescale }
    }

    /// [`raise`](Self::raise) for scores yet to be multiplied with a positive number.
    ///
    /// [`less`] rounds the product with the largest score less than the maximum here was rounded. Of maxima so large that this is more than an
    /// exponential bears, what is subtracted is zero, and scores become such that they have been rounded first.
    #[inline(always)]
    fn raise_scaled(
        &mut self,
        mut tile_max: [S::Vector; COLS],
        factor: S::Vector,
        scores: &mut [[S::Vector; COLS]],
    ) -> Raised<S, COLS> {
        let (simd, zero, one) = (self.simd, self.simd.splat(0.0), self.simd.splat(1.0));
        tile_max.iter_mut().for_each(|max| *max = simd.mul(*max, factor));
        let Raised { mut offset, rescale } = self.raise(tile_max, SLACK);
        let is_huge = |x: S::Vector| simd.less(simd.splat(S::Scalar::SPARSE), simd.max(x, simd.sub(zero, x)));
        let any = offset.iter().fold(zero, |any, offset| simd.select(is_huge(*offset), one, any));
        if simd.max_each([any; 4])[0] > S::Scalar::ZERO {
            for row in scores {
                for c in 0..COLS {
                    let rounded = simd.div(simd.sub(simd.mul(row[c], factor), offset[c]), factor);
                    row[c] = simd.select(is_huge(offset[c]), rounded, row[c]);
                }
            }
            for offset in &mut offset {
                *offset = simd.select(is_huge(*offset), zero, *offset);
            }
        }
        Raised { offset, rescale }
    }

    /// Adds the sums of a tile's weights.
    #[inline(always)]
    fn add(&mut self, sum: [S::Vector; COLS], rescale: [S::Vector; COLS]) {
        let total = &mut self.sum;
        for c in 0..COLS {
            total[c] = self.simd.mul_add(total[c], rescale[c], sum[c]);
        }
    }

    /// [`update`](Self::update) for few queries, with the same bits if weights are to be summed `in_order`: key after key, from this number on.
    #[inline(always)]
    pub(crate) fn update_few(&mut self, in_order: Option<usize>, scores: &mut FewScores<'_, S>) -> S::Vector {
        let simd = self.simd;
        let (max, total) = (&mut self.max[0], &mut self.sum[0]);
        let old = *max;
        *max = simd.max(old, simd.load(&scores.largest()));
        let offset = finite_or_zero(simd, *max);
        let rescale = simd.exp2(simd.sub(old, offset));
        let mut offsets = [S::Scalar::ZERO; 16];
        simd.store(offset, &mut offsets);
        let sums = scores.exponentiate(&offsets);
        let mut sum = simd.load(&sums);
        if let Some(mut key) = in_order {
            let mut of_piece = simd.splat(0.0);
            sum = of_piece;
            for group in 0..scores.tiles * FewScores::<S>::OF_TILE {
                for weight in scores.group(group).as_ref() {
                    if begins_piece(key, PIECE) {
                        sum = simd.add(sum, of_piece);
                        of_piece = simd.splat(0.0);
                    }
                    of_piece = simd.add(of_piece, *weight);
                    key += 1;
                }
            }
            sum = simd.add(sum, of_piece);
        }
        *total = simd.mul_add(*total, rescale, sum);
        rescale
    }

    /// Turns scores into weights, once all keys have been seen.
    #[inline(always)]
    pub(crate) fn weights<const N: usize>(&self, columns: Columns<N>, scores: &mut [[S::Vector; COLS]]) {
        let simd = self.simd;
        let factor = self.normaliser();
        let (Some(max), Some(factor)) = (columns.of(&self.max), columns.of(&factor)) else { return };
        for row in scores.iter_mut().filter_map(|row| columns.of_mut(row)) {
            for c in 0..N {
                row[c] = simd.mul(simd.exp2(simd.sub(row[c], finite_or_zero(simd, max[c]))), factor[c]);
            }
        }
    }

    /// The factor that normalises each query's weighted sum: 1 / sum, or zero where no key had weight.
    #[inline(always)]
    pub(crate) fn normaliser(&self) -> [S::Vector; COLS] {
        let simd = self.simd;
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let mut factor = self.sum;
        for factor in &mut factor {
            // A sum that is not zero is at least near 1, or NaN, which stays.
            *factor = simd.select(simd.less(*factor, simd.splat(0.5)), zero, simd.div(one, *factor));
        }
        factor
    }

    /// Writes what is made of each query's maximum, a logarithm to base 2, and its sum, to rows of as many elements, from row `first` on.
    #[inline(always)]
    pub(crate) fn store_state<const N: usize>(
        &self,
        to: &mut RowsMut<'_, S::Scalar>,
        first: usize,
        f: impl Fn(S::Scalar, S::Scalar) -> [S::Scalar; N],
    ) {
        for c in 0..COLS {
            let (mut maxima, mut sums) = ([S::Scalar::ZERO; 16], [S::Scalar::ZERO; 16]);
            self.simd.store(self.max[c], &mut maxima);
            self.simd.store(self.sum[c], &mut sums);
            for (i, (max, sum)) in maxima.into_iter().zip(sums).take(S::LANES).enumerate() {
                if let Some(state) = to.row_mut(first + c * S::LANES + i).first_chunk_mut() {
                    *state = f(max, sum);
                }
            }
        }
    }
}

/// Keys whose weights are summed up by themselves, before they are added to others: errors of a sum grow with its length.
const PIECE: usize = 16;

/// By how much scores of pairs, in base 2, may be larger than what counts as the largest one, so that sums need not be multiplied with anything for most tiles: weights are
/// at most 2^8 then, and as exact. (Sums of single numbers are multiplied on their way to memory, which costs nothing.)
pub(crate) const SLACK: f32 = 8.0;

/// Tiles of keys that few queries attend to at once: what happens between the products is time in which nothing is read from memory.
pub(crate) const FEW_TILES: usize = 4;

/// Keys that are multiplied in one go, at most: sums of as many products of integers, of 8 bits with 16, do not overflow.
pub(crate) const MOST_KEYS: usize = 512;

/// Scores or weights of few queries with the keys of some tiles: those of one query, with room for [`FEW_TILES`], then those of the next.
pub struct FewScores<'t, S: Simd> {
    pub(crate) simd: S,
    vectors: &'t mut [S::Vector],
    /// Queries.
    pub(crate) count: usize,
    pub(crate) tiles: usize,
    /// Keys that are meant, the first ones.
    pub(crate) len: usize,
}

impl<'t, S: Simd> FewScores<'t, S> {
    /// Vectors of a tile, and of a query.
    const OF_TILE: usize = S::KEY_TILE / S::LANES;
    pub(crate) const OF_QUERY: usize = FEW_TILES * Self::OF_TILE;

    /// From a query's elements to the next one's.
    pub(crate) const STRIDE: usize = Self::OF_QUERY * S::LANES;

    #[inline(always)]
    pub(crate) fn new(simd: S, vectors: &'t mut [S::Vector], count: usize, tiles: usize) -> Self {
        const { assert!(S::KEY_TILE.is_multiple_of(2 * S::LANES) && S::KEY_TILE <= MOST_KEYS) };
        const { assert!(RANGE.is_multiple_of(S::KEY_TILE)) };
        Self { simd, vectors, count, tiles, len: tiles * S::KEY_TILE }
    }

    /// Those with the keys of some tiles, the first `len` of which are meant.
    #[inline(always)]
    pub(crate) fn some_tiles(&mut self, tiles: &Range<usize>, len: usize) -> FewScores<'_, S> {
        let vectors = self.vectors.get_mut(tiles.start * Self::OF_TILE..).unwrap_or_default();
        FewScores { simd: self.simd, vectors, count: self.count, tiles: tiles.len(), len }
    }

    /// Those of the queries, if there are up to four, or of four from this one on, for which there is room.
    #[inline(always)]
    pub(crate) fn four_queries(&mut self, first: usize) -> FewScores<'_, S> {
        let vectors = self.vectors.get_mut(first * Self::OF_QUERY..).unwrap_or_default();
        FewScores { simd: self.simd, vectors, count: self.count.min(4), tiles: self.tiles, len: self.len }
    }

    pub(crate) const fn vectors(&self) -> &[S::Vector] {
        self.vectors
    }

    /// Those of each query.
    #[inline(always)]
    fn rows(&self) -> impl Iterator<Item = &[S::Vector]> {
        let len = self.tiles * Self::OF_TILE;
        self.vectors.chunks(Self::OF_QUERY).map(move |row| row.get(..len).unwrap_or_default()).take(self.count)
    }

    /// The same, to be changed.
    #[inline(always)]
    fn rows_mut(&mut self) -> impl Iterator<Item = &mut [S::Vector]> {
        let len = self.tiles * Self::OF_TILE;
        self.vectors.chunks_mut(Self::OF_QUERY).map(move |row| row.get_mut(..len).unwrap_or_default()).take(self.count)
    }

    /// Those of all queries, for [`FEW`](Simd::FEW) of which there is room.
    #[inline(always)]
    pub(crate) fn elements(&self) -> &[S::Scalar] {
        elements::<S>(self.vectors)
    }

    /// Those of query `i` with the keys of vector `group`; zeros where there is no such query.
    #[inline(always)]
    fn get(&self, i: usize, group: usize) -> S::Vector {
        self.vectors.get(i * Self::OF_QUERY + group).copied().unwrap_or(self.simd.splat(0.0))
    }

    /// Those of query `i`, if there is one, with the keys of vector `group`.
    #[inline(always)]
    pub(crate) fn set(&mut self, i: usize, group: usize, scores: S::Vector) {
        if let Some(to) = self.vectors.get_mut(i * Self::OF_QUERY + group) {
            *to = scores;
        }
    }

    /// The largest one of each query; negative infinity where there is no query.
    #[inline(always)]
    fn largest(&self) -> [S::Scalar; 16] {
        let (simd, mut rows) = (self.simd, self.rows());
        let mut maxima = [S::Scalar::NEG_INFINITY; 16];
        for fours in maxima.as_chunks_mut().0.iter_mut().take(self.count.div_ceil(4)) {
            let mut largest = [simd.splat(f32::NEG_INFINITY); 4];
            for (largest, row) in largest.iter_mut().zip(&mut rows) {
                for [a, b] in row.as_chunks().0 {
                    *largest = simd.max(*largest, simd.max(*a, *b));
                }
            }
            *fours = simd.max_each(largest);
        }
        maxima
    }

    /// Turns scores into `2^(score - offset)`, with an offset for each query, whose sum is returned.
    #[inline(always)]
    fn exponentiate(&mut self, offsets: &[S::Scalar; 16]) -> [S::Scalar; 16] {
        let (simd, fours) = (self.simd, self.count.div_ceil(4));
        let (mut rows, mut sums) = (self.rows_mut().zip(offsets), [S::Scalar::ZERO; 16]);
        for fours in sums.as_chunks_mut().0.iter_mut().take(fours) {
            let mut sum = [simd.splat(0.0); 4];
            for (sum, (row, offset)) in sum.iter_mut().zip(&mut rows) {
                let offset = simd.broadcast(*offset);
                for [a, b] in row.as_chunks_mut().0 {
                    [*a, *b] = simd.exp2_each([simd.sub(*a, offset), simd.sub(*b, offset)]);
                    *sum = simd.add(*sum, simd.add(*a, *b));
                }
            }
            *fours = simd.sum_each(sum);
        }
        sums
    }

    /// Multiplies those of each query with a number of its own.
    #[inline(always)]
    pub(crate) fn multiply(&mut self, factors: &[S::Scalar; 16]) {
        let simd = self.simd;
        for (row, factor) in self.rows_mut().zip(factors) {
            for score in row {
                *score = simd.mul(*score, simd.broadcast(*factor));
            }
        }
    }

    /// Multiplies those of each query, and those of each key, with a number of its own. Keys' are rows from the first one on.
    ///
    /// # Safety
    ///
    /// There are as many.
    #[inline(always)]
    pub(crate) unsafe fn scale(&mut self, factors: &[S::Scalar; 16], numbers: &Strip<'_, f32>, first: usize) {
        let (simd, of_these) = (self.simd, first..first + self.len);
        // A CPU does not foresee them: too much else is read before it comes to the next ones.
        numbers.ask_for_numbers(&(of_these.end..of_these.end + self.len));
        let mut room = None::<[f32; MOST_KEYS]>;
        // SAFETY: the caller's promise.
        let numbers = unsafe { numbers.numbers(&of_these, &mut room) };
        for (row, factor) in self.rows_mut().zip(factors) {
            let (factor, mut left) = (simd.broadcast(*factor), numbers);
            let mut scores = row.iter_mut();
            while let Some((numbers, later)) = left.split_at_checked(S::LANES)
                && let Some(score) = scores.next()
            {
                *score = simd.mul(simd.mul(*score, factor), simd.load_f32(numbers));
                left = later;
            }
            if let Some(score) = scores.next() {
                *score = simd.mul(simd.mul(*score, factor), simd.load_f32(left));
            }
        }
    }

    /// Those of query `i`, if there is one, with up to four keys from `first` on.
    #[inline(always)]
    pub(crate) fn set_four(&mut self, i: usize, first: usize, scores: [S::Scalar; 4]) {
        let tile = elements_mut::<S>(self.vectors);
        if let Some(to) = tile.get_mut(i * Self::STRIDE + first..).and_then(<[_]>::first_chunk_mut) {
            *to = scores;
        }
    }

    /// Those of the first four queries with key `j`.
    #[inline(always)]
    pub(crate) fn set_key(&mut self, j: usize, scores: [S::Scalar; 4]) {
        if let Some(to) = elements_mut::<S>(self.vectors).get_mut(j..j + 3 * Self::STRIDE + 1) {
            for i in 0..4 {
                to[i * Self::STRIDE] = scores[i];
            }
        }
    }

    /// That of query `i`, if there is one, with key `j`.
    #[inline(always)]
    pub(crate) fn set_one(&mut self, i: usize, j: usize, score: S::Scalar) {
        if let Some(to) = elements_mut::<S>(self.vectors).get_mut(i * Self::STRIDE + j) {
            *to = score;
        }
    }

    /// Gives no weight to what is left of the tiles.
    #[inline(always)]
    pub(crate) fn mask_rest(&mut self) {
        let len = self.len;
        for row in self.rows_mut() {
            elements_mut::<S>(row).get_mut(len..).unwrap_or_default().fill(S::Scalar::NEG_INFINITY);
        }
    }

    /// Changes those of the tile as `[key][query]`, for which `room` is.
    #[inline(always)]
    pub(crate) fn turned(&mut self, room: &mut [S::Vector], change: impl FnOnce(Strided<'_, S::Vector>, usize)) {
        let groups = self.len.div_ceil(S::LANES);
        for (group, to) in room.chunks_mut(S::LANES).enumerate().take(groups) {
            to.iter_mut().zip(self.group(group).as_ref()).for_each(|(to, from)| *to = *from);
        }
        change(Strided { vectors: room, stride: 1 }, self.len);
        for (group, from) in room.chunks(S::LANES).enumerate().take(groups) {
            let mut square = self.simd.zeros();
            square.as_mut().iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            self.simd.transpose(&mut square);
            for (i, of_query) in square.as_ref().iter().enumerate().take(self.count) {
                self.set(i, group, *of_query);
            }
        }
    }

    /// Those with the keys of vector `group`, a vector of queries for each.
    #[inline(always)]
    fn group(&self, group: usize) -> S::Square {
        let mut square = self.simd.zeros();
        for (i, of_query) in square.as_mut().iter_mut().enumerate().take(self.count) {
            *of_query = self.get(i, group);
        }
        self.simd.transpose(&mut square);
        square
    }
}

/// `x * factor - offset`, rounded once where the CPU can.
#[inline(always)]
fn less<S: Simd>(simd: S, x: S::Vector, factor: S::Vector, offset: S::Vector) -> S::Vector {
    simd.mul_add(x, factor, simd.sub(simd.splat(0.0), offset))
}

/// Where no key has been seen: weights of 2^(-inf - 0), zero, instead of NaN.
#[inline(always)]
fn finite_or_zero<S: Simd>(simd: S, max: S::Vector) -> S::Vector {
    simd.select(simd.less(simd.splat(f32::NEG_INFINITY), max), max, simd.splat(0.0))
}
