//! The two ends of a block: queries come in, of whatever type and in whatever order its products want them, and results go out.

use super::{Columns, Products, few, transpose};
use crate::{
    floats::{FloatRows, FloatRowsMut, with_floats},
    simd::{Simd, Task},
};

/// A block's queries become vectors, times `factor`.
pub(super) struct LoadQueries<'t, 'a, S: Simd, const COLS: usize> {
    pub(super) simd: S,
    /// The block's are those from number `first` on.
    pub(super) from: &'t FloatRows<'a, S::Scalar>,
    pub(super) first: usize,
    pub(super) products: Products,
    pub(super) factor: S::Scalar,
    /// As many rows as queries have elements, or as [the products want](Products::rows): those past the elements stay as they are.
    pub(super) to: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for LoadQueries<'_, '_, S, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, from, first, products, factor, to } = self;
        with_floats!(FloatRows::from, rows => {
            let Some(queries) = rows.walk(first) else { return };
            let size = [rows.len() - first, rows.dim()];
            // SAFETY: these rows exist, and have as many elements.
            unsafe {
                if const { COLS == 1 } && products.are_of_rows() {
                    few::load(simd, |i| rows.row_ptr(first + i), size, factor, to.as_flattened_mut());
                } else {
                    transpose::load(simd, queries, factor, cut(to, rows.dim()));
                }
            }
        });
    }
}

/// A block's results are written, times `factor`.
pub(super) struct StoreOutput<'t, 'a, S: Simd, const COLS: usize> {
    pub(super) simd: S,
    pub(super) from: &'t [[S::Vector; COLS]],
    pub(super) products: Products,
    pub(super) factor: [S::Vector; COLS],
    /// The block's are those from number `first` on.
    pub(super) to: &'t mut FloatRowsMut<'a, S::Scalar>,
    pub(super) first: usize,
}

impl<S: Simd, const COLS: usize> Task for StoreOutput<'_, '_, S, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, from, products, factor, to, first } = self;
        with_floats!(FloatRowsMut::to, rows => {
            if const { COLS == 1 } && products.are_for_few() {
                few::store(simd, from.as_flattened(), factor[0], rows);
            } else {
                let from = from.get(..rows.dim()).unwrap_or(from);
                transpose::store(simd, from, Columns::new(0), factor, rows, [first, 0]);
            }
        });
    }
}

/// The first rows, if there are more than so many.
#[inline(always)]
fn cut<T>(rows: &mut [T], len: usize) -> &mut [T] {
    let len = len.min(rows.len());
    rows.get_mut(..len).unwrap_or_default()
}
