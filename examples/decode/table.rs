//! Which pages each sequence has.

use std::ops::Range;

use simd_attention::View;

/// Where a sequence has no page yet: the number of none, so that looking there would be an error.
pub const NONE: u32 = u32::MAX;

/// Numbers of pages `[sequences, width]`.
pub struct Table {
    numbers: Vec<u32>,
    width: usize,
}

impl Table {
    pub fn new(sequences: usize, width: usize) -> Self {
        Self { numbers: vec![NONE; sequences * width], width }
    }

    pub fn row(&self, sequence: usize) -> &[u32] {
        &self.numbers[sequence * self.width..][..self.width]
    }

    pub fn row_mut(&mut self, sequence: usize) -> &mut [u32] {
        &mut self.numbers[sequence * self.width..][..self.width]
    }

    /// The rows of these sequences.
    pub fn view(&self, sequences: &Range<usize>) -> Result<View<'_, u32>, simd_attention::Error> {
        let numbers = &self.numbers[sequences.start * self.width..sequences.end * self.width];
        View::matrix(numbers, [sequences.len(), self.width])
    }
}
