//! New keys and values for a cache, on the caller's storage.

use crate::{
    Element, Error, Float, Shape, View, ViewMut,
    error::Operand,
    kv::{expect_scales, expect_shape},
    pages::PageTable,
    validate::expect_len,
};

/// The keys or the values of a cache, to be written: `[batch, kv_heads, room, dim]`, or [in pages](Self::pages) `[pages, kv_heads,
/// page_size, dim]`. Attended to through a [`Kv`](crate::Kv) on the same storage.
///
/// ```
/// use simd_attention::{CacheMut, View, ViewMut};
///
/// // Room for four tokens of two elements; one is there already.
/// let mut keys = [1f32, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
/// CacheMut::new(ViewMut::matrix(&mut keys, [4, 2])?).append(View::matrix(&[3.0, 4.0], [1, 2])?, &[1])?;
/// assert_eq!(keys[..4], [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct CacheMut<'a, T> {
    rows: ViewMut<'a, T>,
    scales: Option<ViewMut<'a, f32>>,
    pages: Option<View<'a, u32>>,
}

impl<'a, T: Float> CacheMut<'a, T> {
    /// A cache of numbers that need no scales.
    #[must_use]
    pub const fn new(rows: ViewMut<'a, T>) -> Self {
        Self { rows, scales: None, pages: None }
    }
}

impl<'a> CacheMut<'a, i8> {
    /// A cache of bytes with scales, which are laid out as those of [`Quantized`](crate::Quantized) are.
    ///
    /// # Errors
    ///
    /// Those of [`Quantized::new`](crate::Quantized::new).
    pub fn quantized(numbers: ViewMut<'a, i8>, scales: ViewMut<'a, f32>) -> Result<Self, Error> {
        expect_scales(numbers.shape(), scales.shape())?;
        Ok(Self { rows: numbers, scales: Some(scales), pages: None })
    }
}

impl<'a, T: Element> CacheMut<'a, T> {
    /// Rows go to pages, as those of [`Kv::pages`](crate::Kv::pages) are found there. Numbers of pages where no row goes are not looked at. A page
    /// that several sequences share gets what is written to it last.
    #[must_use]
    pub fn pages(self, table: View<'a, u32>) -> Self {
        Self { pages: Some(table), ..self }
    }

    /// Writes rows `[batch, kv_heads, new_len, dim]`, converted or [quantised](quantize), those of sequence `b` from its row `at[b]` on:
    /// the number of its keys until then.
    ///
    /// # Errors
    ///
    /// Before anything is written:
    ///
    /// - [`Error::ShapeMismatch`]: `batch`, heads or `dim` are not the cache's.
    /// - [`Error::LengthMismatch`]: there are not as many places as sequences.
    /// - [`Error::TooManyKeys`]: there is no room for the last row.
    /// - [`Error::NoSuchPage`]: the table names a page that there is not, where a row would go.
    pub fn append(&mut self, rows: View<'_, T::Sum>, at: &[usize]) -> Result<(), Error> {
        self.check(rows.shape(), at)?;
        self.write(rows, at);
        Ok(())
    }

    /// [`append`](Self::append) what is known to fit.
    fn write(&mut self, rows: View<'_, T::Sum>, at: &[usize]) {
        let Shape { batch, heads, len, .. } = rows.shape();
        if rows.shape().has_no_rows() {
            return;
        }
        for (b, at) in (0..batch).zip(at) {
            for head in 0..heads {
                let Some(from) = rows.rows(b, head) else { continue };
                for i in 0..len {
                    let place = self.table().map_or(Some([b, at + i]), |table| table.place(b, at + i));
                    let Some([b, to]) = place else { continue };
                    let scales = self.scales.as_mut().map(|scales| scales.row_mut(b, head, to));
                    T::convert(from.row(i), self.rows.row_mut(b, head, to), scales.unwrap_or_default());
                }
            }
        }
    }

    fn check(&self, new: Shape, at: &[usize]) -> Result<(), Error> {
        let rows = self.rows.shape();
        let Shape { batch, len: room, .. } = self.table().map_or(rows, |table| table.shape());
        expect_shape(Operand::NewRows, Shape { batch, len: new.len, ..rows }, new)?;
        expect_len(Operand::Places, batch, Some(at))?;
        for (sequence, &at) in at.iter().enumerate() {
            let end = at.saturating_add(new.len);
            if end > room {
                return Err(Error::TooManyKeys { sequence, room, actual: end });
            }
            if let Some(table) = self.table().filter(|_| new.len > 0) {
                table.check(sequence, &(at..end))?;
            }
        }
        Ok(())
    }

    fn table(&self) -> Option<PageTable<'a>> {
        self.pages.map(|numbers| PageTable { numbers, pages: self.rows.shape() })
    }
}

/// The keys of a cache with its values, to be written: what a [`Kv`](crate::Kv) reads.
///
/// ```
/// use simd_attention::{CacheMut, KvMut, View, ViewMut};
///
/// let (mut keys, mut values) = ([0f32; 8], [0f32; 4]);
/// let to_keys = CacheMut::new(ViewMut::matrix(&mut keys, [4, 2])?);
/// let to_values = CacheMut::new(ViewMut::matrix(&mut values, [4, 1])?);
/// KvMut::new(to_keys, to_values).append(View::matrix(&[3.0, 4.0], [1, 2])?, View::matrix(&[5.0], [1, 1])?, &[2])?;
/// assert_eq!((keys[4..6].to_vec(), values[2]), (vec![3.0, 4.0], 5.0));
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct KvMut<'a, T> {
    keys: CacheMut<'a, T>,
    values: CacheMut<'a, T>,
}

impl<'a, T: Element> KvMut<'a, T> {
    /// Pairs the two, as [`Kv::new`](crate::Kv::new) does what is read.
    #[must_use]
    pub const fn new(keys: CacheMut<'a, T>, values: CacheMut<'a, T>) -> Self {
        Self { keys, values }
    }

    /// [`CacheMut::append`] of both keys and values, if there is room for both.
    ///
    /// # Errors
    ///
    /// Before anything is written:
    ///
    /// - [`Error::ShapeMismatch`]: there are not as many new keys as values.
    /// - Those of [`CacheMut::append`], of either.
    pub fn append(&mut self, keys: View<'_, T::Sum>, values: View<'_, T::Sum>, at: &[usize]) -> Result<(), Error> {
        let (new_keys, new_values) = (keys.shape(), values.shape());
        expect_shape(Operand::NewRows, Shape { dim: new_values.dim, ..new_keys }, new_values)?;
        self.keys.check(new_keys, at)?;
        self.values.check(new_values, at)?;
        self.keys.write(keys, at);
        self.values.write(values, at);
        Ok(())
    }
}

/// Makes bytes of a row, with a scale for each of as many groups of neighbours as there is room for scales: the largest magnitude of a group
/// over 127, and each number the nearest one.
///
/// Times its scale, no element is off by more than half the scale, that is by 1/254 of the largest one of its group, and its rounding (or by
/// `f32::MIN_POSITIVE`, if that is more). A group that is not finite has a scale of NaN.
///
/// ```
/// use simd_attention::quantize;
///
/// let (mut numbers, mut scales) = ([0; 4], [0f32; 2]);
/// quantize(&[1.0, -2.0, 0.5, 0.25], &mut numbers, &mut scales)?;
/// assert_eq!((numbers, scales), ([64, -127, 127, 64], [2.0 / 127.0, 0.5 / 127.0]));
/// # Ok::<(), simd_attention::Error>(())
/// ```
///
/// # Errors
///
/// Before anything is written: [`Error::LengthMismatch`] where there are not as many numbers as elements, [`Error::GroupsNotDivisible`] where these cannot be
/// divided evenly.
pub fn quantize(row: &[f32], numbers: &mut [i8], scales: &mut [f32]) -> Result<(), Error> {
    expect_len(Operand::Output, row.len(), Some(numbers))?;
    let (dim, groups) = (row.len(), scales.len());
    if dim.checked_rem(groups) != Some(0) {
        return Err(Error::GroupsNotDivisible { dim, groups });
    }
    quantize_row(row, numbers, scales);
    Ok(())
}

/// [`quantize`] what is known to fit.
pub(crate) fn quantize_row(mut row: &[f32], mut numbers: &mut [i8], scales: &mut [f32]) {
    let per_group = row.len().checked_div(scales.len()).unwrap_or(0);
    for scale in scales {
        let (Some((group, row_left)), Some((to, left))) =
            (row.split_at_checked(per_group), core::mem::take(&mut numbers).split_at_mut_checked(per_group))
        else {
            return;
        };
        *scale = scale_of(group);
        for (number, x) in to.iter_mut().zip(group) {
            *number = libm::rintf(x / *scale) as i8;
        }
        (row, numbers) = (row_left, left);
    }
}

fn scale_of(group: &[f32]) -> f32 {
    if group.iter().any(|x| !x.is_finite()) {
        return f32::NAN;
    }
    let scale = (group.iter().fold(0.0, |max, x| x.abs().max(max)) / 127.0).max(f32::MIN_POSITIVE);
    // Rounded up, it may make infinity of the largest number.
    if (127.0 * scale).is_finite() { scale } else { scale.next_down() }
}
