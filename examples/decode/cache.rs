//! What both caches can do.

use std::{error::Error, ops::Range};

use simd_attention::{Attention, Element, Kv, View, ViewMut};

use crate::options::Layer;

/// The keys and values of some sequences.
pub trait Cache {
    /// Takes keys and values `[sequences, kv_heads, new_len, dim]` that follow those of these sequences.
    fn append(&mut self, sequences: Range<usize>, new: [View<'_, f32>; 2]) -> Result<(), Box<dyn Error>>;

    /// Attends with one query for each head of each of these sequences, the last one of which stands at the last key.
    fn attend(&self, sequences: Range<usize>, queries: &[f32], to: Outputs<'_>) -> Result<(), Box<dyn Error>>;

    /// How many keys each sequence has.
    fn lens(&self) -> &[usize];

    /// Memory of a token's keys and values.
    fn bytes_of_token(&self) -> usize;

    /// Memory of all.
    fn bytes(&self) -> usize;
}

/// Where outputs `[sequences, heads, dim]` go, and working memory.
pub struct Outputs<'a> {
    pub rows: &'a mut [f32],
    pub scratch: &'a mut [f32],
}

/// The call that all this is about.
pub fn attend<T: Element<Sum = f32>>(
    layer: &Layer,
    queries: &[f32],
    kv: Kv<'_, T>,
    to: Outputs<'_>,
) -> Result<(), simd_attention::Error> {
    let Layer { heads, dim, backend, .. } = *layer;
    let shape = [queries.len() / layer.query(), heads, 1, dim];
    Attention::new().backend(backend).forward(
        View::heads_first(queries, shape)?,
        kv,
        ViewMut::heads_first(to.rows, shape)?,
        to.scratch,
    )
}

/// Zeros, if there is memory for so many.
pub fn zeros<T: Copy + Default>(extents: [usize; 4]) -> Result<Vec<T>, Box<dyn Error>> {
    let mut zeros = Vec::new();
    let len = extents.iter().try_fold(1, |len: usize, &extent| len.checked_mul(extent)).unwrap_or(usize::MAX);
    zeros.try_reserve_exact(len).map_err(|_| {
        let [a, b, c, dim] = extents;
        format!("there is no memory for a cache of {a} x {b} x {c} x {dim} elements")
    })?;
    zeros.resize(len, T::default());
    Ok(zeros)
}
