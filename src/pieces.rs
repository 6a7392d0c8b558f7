//! Sums in pieces: the rounding errors of a sum grow with its length.

use core::ops::Range;

/// Cuts `len` summands, from number `first` on, at multiples of so many, and once before the first of these, as short sums gain more by it. Where a piece
/// begins depends on the summands' numbers alone, so that sums that begin later, or end earlier, have the same order otherwise.
#[inline(always)]
pub(crate) fn pieces(first: usize, len: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0_usize;
    core::iter::from_fn(move || {
        let start = end;
        end = len.min(start.saturating_add(until_cut(first + start, piece)));
        (start < end).then_some(start..end)
    })
}

/// How many summands from number `i` on belong to the same piece.
#[inline(always)]
fn until_cut(i: usize, piece: usize) -> usize {
    let first = piece / 2;
    if i < first { first - i } else { piece - i.checked_rem(piece).unwrap_or(0) }
}

/// Whether a piece begins with summand number `i`.
#[inline(always)]
pub(crate) fn begins_piece(i: usize, piece: usize) -> bool {
    i == piece / 2 || i.is_multiple_of(piece)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{begins_piece, pieces};

    #[test]
    fn pieces_are_cut_at_multiples() {
        let ends =
            |first, len, piece| pieces(first, len, piece).map(|piece| [piece.start, piece.end]).collect::<Vec<_>>();
        assert_eq!(ends(0, 0, 8), [[0; 2]; 0]);
        assert_eq!(ends(7, 0, 8), [[0; 2]; 0]);
        assert_eq!(ends(8, 8, 8), [[0, 8]]);
        assert_eq!(ends(16, 9, 8), [[0, 8], [8, 9]]);
        assert_eq!(ends(5, 2, 8), [[0, 2]]);
        assert_eq!(ends(5, 20, 8), [[0, 3], [3, 11], [11, 19], [19, 20]]);
        assert_eq!(ends(1, 20, 8), [[0, 3], [3, 7], [7, 15], [15, 20]]);
        assert_eq!(ends(0, 4, 8), [[0, 4]]);
        assert_eq!(ends(3, 5, usize::MAX), [[0, 5]]);
    }

    #[test]
    fn pieces_begin_at_cuts() {
        let begins = pieces(0, 30, 8).map(|piece| piece.start).collect::<Vec<_>>();
        assert_eq!((0..30).filter(|i| begins_piece(*i, 8)).collect::<Vec<_>>(), begins);
    }
}
