//! Which reader reads rows.

use crate::{
    simd::{Asking, CACHE_LINE, Simd},
    view::{Ahead, ByAddress, ByStretch, Evenly, Reader, Soon, Strip},
};

/// What reads rows for one query, or for several.
pub(super) trait ReadRows<T> {
    /// [`RowProduct::AS_STORED`](super::product::RowProduct::AS_STORED)
    const AS_STORED: bool;

    type Output;

    fn one<R: Reader<T>>(self, rows: R) -> Self::Output;

    fn several<R: Reader<T>>(self, rows: R) -> Self::Output;
}

/// Which rows to ask for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// The first one that is read.
    pub(super) first: usize,
    /// From which on, if for what is read soon.
    pub(super) soon: usize,
    /// From which on, if long before.
    pub(super) ahead: usize,
}

/// Has rows read for `count` queries. Choices by constants are such to the compiler, too: what is not chosen is not compiled.
///
/// Asked for soon before they are read, and into the first cache, rows that lie evenly come as fast as memory is, and those in pages faster than
/// otherwise. On CPUs of Intel, it was faster to ask for even rows long before, and for several queries, it is so for bytes with many registers and for narrow
/// vectors on others too. For one query, [`Evenly`] takes the fewest instructions, and in pages [`ByStretch`]; for
/// numbers of 32 bits or more with sixteen registers, for narrow vectors, and for several queries, but in pages on AVX-512, [`ByAddress`] was faster.
///
/// A Zen 4 foresees one query's even rows by itself, and requests but disturb it, unless products take so little time that it reads as fast as memory is: for what is multiplied as it is stored, some
/// 4 KB before. Other numbers had better be fetched into the second cache: in pages, they come up to twice as fast then, for several queries if they are asked for long before.
#[inline(always)]
pub(super) fn read<S: Simd, T: Copy, To: ReadRows<T>>(
    simd: S,
    count: usize,
    strip: Strip<'_, T>,
    Asked { first, soon, ahead }: Asked,
    to: To,
) -> To::Output {
    let (walk, soon, ahead) = (|row| strip.walk(row), [first, soon], [first, ahead]);
    let asking = simd.asking();
    let is_zen_4 = const { S::FEW == 8 } && asking == Asking::Second;
    let second = is_zen_4 && const { size_of::<T>() > 1 };
    if const { S::FEW == 1 } {
        // Microcontrollers, which have little room for code, and `f64` in two lanes, where one way will do.
        to.one(ByAddress::<_, _, Soon<1>>::new(walk, soon))
    } else if count == 1 {
        let in_stretches = const { asks_from_rows::<S, T>() } && strip.has_whole_groups(first);
        match strip.even() {
            Some(rows) if asking == Asking::Ahead => to.one(ByAddress::<_, _, Ahead<true, false>>::new(rows, ahead)),
            Some(rows) if is_zen_4 && const { To::AS_STORED } => to.one(Evenly::<2>::new(rows, half_as_far(soon))),
            Some(rows) if is_zen_4 => to.one(Evenly::<0>::new(rows, soon)),
            Some(rows) if const { asks_from_rows::<S, T>() } => to.one(Evenly::<1>::new(rows, soon)),
            Some(rows) => to.one(ByAddress::<_, _, Soon<1>>::new(rows, soon)),
            None if second => to.one(ByAddress::<_, _, Soon<2>>::new(walk, soon)),
            None if in_stretches => to.one(ByStretch::new(strip, soon)),
            None => to.one(ByAddress::<_, _, Soon<1>>::new(walk, soon)),
        }
    } else {
        let in_stretches = const { S::FEW == 8 } && strip.has_whole_groups(first);
        match strip.even() {
            // Only with many lanes: else it is more code than it is worth.
            Some(rows) if const { S::FEW == 8 } && asking == Asking::Ahead => {
                to.several(ByAddress::<_, _, Ahead<true, true>>::new(rows, ahead))
            }
            Some(rows) if second => to.several(ByAddress::<_, _, Soon<2>>::new(rows, soon)),
            Some(rows) if const { is_soon::<S, T>() } => to.several(ByAddress::<_, _, Soon<1>>::new(rows, soon)),
            Some(rows) => to.several(ByAddress::<_, _, Ahead<false, true>>::new(rows, ahead)),
            None if second => to.several(ByAddress::<_, _, Ahead<true, true>>::new(walk, ahead)),
            None if in_stretches => to.several(ByStretch::new(strip, soon)),
            None if const { is_soon::<S, T>() } => to.several(ByAddress::<_, _, Soon<1>>::new(walk, soon)),
            None => to.several(ByAddress::<_, _, Ahead<false, true>>::new(walk, ahead)),
        }
    }
}

/// Half as long before it is read, or a little more.
const fn half_as_far([first, soon]: [usize; 2]) -> [usize; 2] {
    [first, first.midpoint(soon + 1)]
}

/// Whether several queries ask for rows soon before: but for bytes with many registers, and for narrow vectors.
const fn is_soon<S: Simd, T>() -> bool {
    is_wide::<S>() && (S::FEW == 4 || size_of::<T>() > 1)
}

/// Whether there are registers enough to read a row of one query's, and ask from where that is.
const fn asks_from_rows<S: Simd, T>() -> bool {
    is_wide::<S>() && (S::FEW == 8 || size_of::<T>() < size_of::<f32>())
}

/// Whether vectors are half a cache line at least: products of narrower ones take longer than memory does.
pub(super) const fn is_wide<S: Simd>() -> bool {
    size_of::<S::Vector>() >= CACHE_LINE / 2
}
