//! The keys or the values of all pages.

use std::error::Error;

use simd_attention::{CacheMut, Quantized, View, ViewMut};

use crate::cache::zeros;

/// Numbers `[pages, kv_heads, page_size, dim]` with one scale for each token and head, `[pages, kv_heads, page_size, 1]`.
pub struct Rows {
    shape: [usize; 4],
    numbers: Vec<i8>,
    scales: Vec<f32>,
}

impl Rows {
    pub fn zeros([pages, heads, page_size, dim]: [usize; 4]) -> Result<Self, Box<dyn Error>> {
        let numbers = zeros([pages, heads, page_size, dim])?;
        Ok(Self { shape: [pages, heads, page_size, dim], numbers, scales: zeros([pages, heads, page_size, 1])? })
    }

    fn shape_of_scales(&self) -> [usize; 4] {
        let [pages, heads, page_size, _] = self.shape;
        [pages, heads, page_size, 1]
    }

    pub fn view(&self) -> Result<Quantized<'_>, simd_attention::Error> {
        let scales = View::heads_first(&self.scales, self.shape_of_scales())?;
        Quantized::new(View::heads_first(&self.numbers, self.shape)?, scales)
    }

    pub fn view_mut(&mut self) -> Result<CacheMut<'_, i8>, simd_attention::Error> {
        let shape = self.shape_of_scales();
        let scales = ViewMut::heads_first(&mut self.scales, shape)?;
        CacheMut::quantized(ViewMut::heads_first(&mut self.numbers, self.shape)?, scales)
    }

    /// Makes a scale NaN, and all that sees it.
    #[cfg(test)]
    pub fn spoil(&mut self, scale: usize) {
        self.scales[scale] = f32::NAN;
    }
}
