//! Sums in pieces: the rounding errors of a sum grow with its length.

use core::ops::Range;

/// Cuts `len` summands, from number `first` on, at multiples of so many. Where a piece begins depends on the summands' numbers alone, so that sums that begin
/// later, or end earlier, have the same order otherwise.
#[inline(always)]
pub(crate) fn pieces(first: usize, len: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    let (mut start, mut end) = (0, len.min(piece - first.checked_rem(piece).unwrap_or(0)));
    core::iter::from_fn(move || {
        let this = start..end;
        (start, end) = (end, len.min(end.saturating_add(piece)));
        (!this.is_empty()).then_some(this)
    })
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
        assert_eq!(ends(0, 8, 8), [[0, 8]]);
        assert_eq!(ends(8, 9, 8), [[0, 8], [8, 9]]);
        assert_eq!(ends(5, 2, 8), [[0, 2]]);
        assert_eq!(ends(5, 20, 8), [[0, 3], [3, 11], [11, 19], [19, 20]]);
        assert_eq!(ends(3, 5, usize::MAX), [[0, 5]]);
    }
}
