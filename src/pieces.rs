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

/// How many summands from number `i` on belong to the same piece: all of it where that is the first.
#[inline(always)]
pub(crate) fn until_cut(i: usize, piece: usize) -> usize {
    match (piece / 2).checked_sub(i) {
        Some(left @ 1..) => left,
        _ => piece - i.checked_rem(piece).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::pieces;

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
}
