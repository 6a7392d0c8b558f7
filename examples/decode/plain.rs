//! A cache in one piece, with room for all tokens that there will be.

use std::{error::Error, ops::Range};

use simd_attention::{CacheMut, Kv, KvMut, View, ViewMut};

use crate::{
    cache::{Cache, Outputs, attend, zeros},
    options::{Layer, Options},
};

/// Keys and values `[sequences, kv_heads, room, dim]`, and how many there are of each sequence.
pub struct Plain {
    layer: Layer,
    room: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    lens: Vec<usize>,
}

impl Plain {
    pub fn new(options: &Options, sequences: usize) -> Result<Self, Box<dyn Error>> {
        let (layer, room) = (options.layer, options.room());
        let shape = [sequences, layer.kv_heads, room, layer.dim];
        Ok(Self { layer, room, keys: zeros(shape)?, values: zeros(shape)?, lens: vec![0; sequences] })
    }

    /// The elements of these sequences, and their shape.
    fn part(&self, sequences: &Range<usize>) -> (Range<usize>, [usize; 4]) {
        let of_sequence = self.room * self.layer.row();
        let elements = sequences.start * of_sequence..sequences.end * of_sequence;
        (elements, [sequences.len(), self.layer.kv_heads, self.room, self.layer.dim])
    }
}

impl Cache for Plain {
    fn append(&mut self, sequences: Range<usize>, [keys, values]: [View<'_, f32>; 2]) -> Result<(), Box<dyn Error>> {
        let (part, shape) = self.part(&sequences);
        let lens = &mut self.lens[sequences];
        let to_keys = CacheMut::new(ViewMut::heads_first(&mut self.keys[part.clone()], shape)?);
        let to_values = CacheMut::new(ViewMut::heads_first(&mut self.values[part], shape)?);
        KvMut::new(to_keys, to_values).append(keys, values, lens)?;
        lens.iter_mut().for_each(|len| *len += keys.shape().len);
        Ok(())
    }

    fn attend(&self, sequences: Range<usize>, queries: &[f32], to: Outputs<'_>) -> Result<(), Box<dyn Error>> {
        let (part, shape) = self.part(&sequences);
        let keys = View::heads_first(&self.keys[part.clone()], shape)?;
        let values = View::heads_first(&self.values[part], shape)?;
        Ok(attend(&self.layer, queries, Kv::new(keys, values)?.lens(&self.lens[sequences]), to)?)
    }

    fn lens(&self) -> &[usize] {
        &self.lens
    }

    fn bytes_of_token(&self) -> usize {
        2 * self.layer.row() * size_of::<f32>()
    }

    fn bytes(&self) -> usize {
        self.lens.len() * self.room * self.bytes_of_token()
    }
}
