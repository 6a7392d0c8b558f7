//! Which keys a query sees by its position alone: causal masks, windows, the number of keys.

use core::ops::Range;

/// Query `i` stands at key `i + diagonal` and sees the keys from `left` before it to `right` after it, where there are
/// limits; `left` and `right` are inclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Band {
    pub(crate) kv_len: usize,
    pub(crate) diagonal: i64,
    pub(crate) left: Option<usize>,
    pub(crate) right: Option<usize>,
}

impl Band {
    /// The keys that a query sees. Neither end moves back from one query to the next.
    #[inline]
    pub(crate) fn keys(&self, query: usize) -> Range<usize> {
        // As wide as lengths and offsets of any size ask for.
        let clamp = |key: i128| usize::try_from(key.max(0)).unwrap_or(usize::MAX).min(self.kv_len);
        let position = query as i128 + i128::from(self.diagonal);
        let end = self.right.map_or(self.kv_len, |right| clamp(position + right as i128 + 1));
        let start = self.left.map_or(0, |left| clamp(position - left as i128));
        start.min(end)..end
    }

    /// What the queries `first ..= last` see, `first <= last`.
    #[inline]
    pub(crate) fn span(&self, first: usize, last: usize) -> Span {
        let (first, last) = (self.keys(first), self.keys(last));
        Span { some: first.start..last.end, all: last.start..first.end }
    }

    /// Where the keys that a query sees start and end, from some key on, as far as a tile of them goes.
    #[inline(always)]
    pub(crate) fn ends(&self, query: usize, key: usize) -> [i32; 2] {
        /// Further away than any key of a tile, for any query of a vector, it does not matter how far.
        const FAR: i128 = 1 << 20;
        let near = |key: i128| key.clamp(-FAR, FAR) as i32;
        let position = query as i128 + i128::from(self.diagonal) - key as i128;
        let end = self.right.map_or(FAR as i32, |right| near(position + right as i128 + 1));
        [self.left.map_or(-FAR as i32, |left| near(position - left as i128)), end]
    }
}

/// Which of 32 keys, from number `first` on of those that [ends](Band::ends) are counted in, are seen by queries that come so much later than the one
/// whose ends those are; the first key in the lowest bit.
///
/// The ends of what a query sees move on by one with each query, so that all lanes are alike.
#[inline(always)]
pub(crate) fn words([start, end]: [i32; 2], offsets: &[i32; 16], first: i32) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, offset) in words.iter_mut().zip(offsets) {
        *word = below(end + offset - first) & !below(start + offset - first);
    }
    words
}

/// The lowest `n` bits; none, or all, where there are not so many.
#[inline(always)]
pub(super) fn below(n: i32) -> u32 {
    u32::MAX.checked_shr(32 - n.clamp(0, 32) as u32).unwrap_or(0)
}

/// The shortest range that has all that either has.
#[inline(always)]
pub(crate) fn hull(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    a.start.min(b.start)..a.end.max(b.end)
}

/// The keys that several consecutive queries see.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// Outside of these, none sees any.
    pub(crate) some: Range<usize>,
    /// These are seen by all; empty if it ends before it starts.
    pub(crate) all: Range<usize>,
}

impl Span {
    /// What of `some` lies in a tile, and whether all queries see all of that.
    #[inline(always)]
    pub(crate) fn within(&self, tile: &Range<usize>) -> (Range<usize>, bool) {
        let start = self.some.start.max(tile.start).min(tile.end);
        let end = self.some.end.min(tile.end).max(start);
        (start..end, self.all.start <= start && end <= self.all.end)
    }
}

#[cfg(test)]
mod tests {
    use super::{Band, words};

    /// Word for word from the definition.
    fn sees(band: &Band, query: usize, key: usize) -> bool {
        let distance = key as i128 - (query as i128 + i128::from(band.diagonal));
        key < band.kv_len
            && band.left.is_none_or(|left| distance >= -(left as i128))
            && band.right.is_none_or(|right| distance <= right as i128)
    }

    #[test]
    fn keys_are_those_of_the_definition() {
        let limits = [None, Some(0), Some(1), Some(3), Some(usize::MAX)];
        for diagonal in [i64::MIN, -20, -3, 0, 2, 9, 100, i64::MAX] {
            for (left, right) in limits.into_iter().flat_map(|left| limits.map(|right| (left, right))) {
                for kv_len in [0, 1, 7] {
                    let band = Band { kv_len, diagonal, left, right };
                    for query in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
                        let keys = band.keys(query);
                        for key in 0..10 {
                            assert_eq!(keys.contains(&key), sees(&band, query, key), "{band:?} {query} {key}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn words_are_the_keys_of_each_query() {
        for diagonal in [i64::MIN, -200, -40, -1, 0, 3, 31, 32, 70, 300, i64::MAX] {
            for (left, right) in
                [(None, None), (None, Some(0)), (Some(3), Some(40)), (Some(usize::MAX), Some(1)), (Some(0), None)]
            {
                let band = Band { kv_len: 1000, diagonal, left, right };
                for (first, last, key) in
                    [(0, 15, 0), (5, 7, 0), (3, 30, 33), (90, 91, 64), (0, 0, 200), (400, 500, 350)]
                {
                    let offsets = core::array::from_fn(|lane| ((first + lane).min(last) - first) as i32);
                    for (lane, word) in words(band.ends(first, key), &offsets, 0).into_iter().enumerate() {
                        let query = (first + lane).min(last);
                        for bit in 0..32 {
                            assert_eq!(
                                word >> bit & 1 == 1,
                                sees(&band, query, key + bit),
                                "{band:?} {query} {key} {bit}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn spans_hold_what_some_and_all_see() {
        for diagonal in -6..12 {
            for (left, right) in
                [(None, Some(0)), (Some(2), Some(0)), (Some(0), None), (Some(1), Some(4)), (None, None)]
            {
                let band = Band { kv_len: 9, diagonal, left, right };
                for (first, last) in [(0, 0), (0, 3), (2, 4), (1, 7)] {
                    let span = band.span(first, last);
                    for key in 0..12 {
                        let seen = (first..=last).filter(|&query| sees(&band, query, key)).count();
                        assert!(seen == 0 || span.some.contains(&key), "{band:?} {first} {last} {key}");
                        assert_eq!(span.all.contains(&key), seen == last - first + 1, "{band:?} {first} {last} {key}");
                    }
                }
            }
        }
    }
}
