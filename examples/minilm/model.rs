//! The bundled file: what all-MiniLM-L6-v2 asks, offers and tells while it reads three sentences.

use std::{error::Error, path::Path};

use safetensors::SafeTensors;
use simd_attention::{Attention, Kv, Output, Stage, View, ViewMut, scratch_len};

/// Some layers of a model, on one text.
pub struct Model {
    pub name: String,
    pub text: String,
    pub tokens: Vec<String>,
    pub layers: Vec<Layer>,
}

/// Queries, keys, values and the expected output of one layer, each contiguous `[heads, len, dim]`.
pub struct Layer {
    pub index: usize,
    pub heads: usize,
    pub len: usize,
    pub dim: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// Computed in f64, then rounded.
    pub expected: Vec<f32>,
}

impl Model {
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Box<dyn Error>> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn parse(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let about = |key: &str| {
            let value = header.metadata().as_ref().and_then(|metadata| metadata.get(key));
            value.cloned().ok_or_else(|| format!("the metadata has no {key:?}"))
        };
        let file = SafeTensors::deserialize(bytes)?;
        let index = |name: &str| name.strip_prefix("layer")?.strip_suffix(".q")?.parse().ok();
        let mut indices: Vec<usize> = file.names().into_iter().filter_map(index).collect();
        indices.sort_unstable();
        Ok(Self {
            // The licence follows in brackets.
            name: about("model")?.split(" (").next().unwrap_or_default().to_owned(),
            text: about("text")?,
            tokens: serde_json::from_str(&about("tokens")?)?,
            layers: indices.into_iter().map(|index| Layer::parse(&file, index)).collect::<Result<_, _>>()?,
        })
    }
}

impl Layer {
    /// Working memory of [`forward`](Self::forward).
    pub fn scratch(&self) -> Vec<f32> {
        vec![0.0; scratch_len(self.dim, self.dim)]
    }

    fn parse(file: &SafeTensors<'_>, index: usize) -> Result<Self, Box<dyn Error>> {
        let tensor = |name: &str| file.tensor(&format!("layer{index}.{name}"));
        let floats = |name: &str| -> Result<Vec<f32>, Box<dyn Error>> {
            let (elements, _) = tensor(name)?.data().as_chunks();
            Ok(elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
        };
        let &[heads, len, dim] = tensor("q")?.shape() else {
            return Err(format!("layer{index}.q is not of rank 3").into());
        };
        let (q, k, v, expected) = (floats("q")?, floats("k")?, floats("v")?, floats("out")?);
        Ok(Self { index, heads, len, dim, q, k, v, expected })
    }

    /// The attention of all heads, in one call of the crate, with scratch of [`scratch`](Self::scratch).
    pub fn forward(
        &self,
        attention: &Attention<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), simd_attention::Error> {
        let extents = [1, self.heads, self.len, self.dim];
        attention.forward(
            View::heads_first(&self.q, extents)?,
            Kv::new(View::heads_first(&self.k, extents)?, View::heads_first(&self.v, extents)?)?,
            ViewMut::heads_first(out, extents)?,
            scratch,
        )
    }

    /// The weights `[len, len]` with which the queries of one head attend to its keys. The kernel never holds this matrix; it is
    /// computed because it is asked for.
    pub fn weights(&self, attention: &Attention<'_>, head: usize) -> Result<Vec<f32>, simd_attention::Error> {
        let Self { len, dim, .. } = *self;
        let (mut out, mut weights) = (vec![0f32; len * dim], vec![0.0; len * len]);
        let first = head * len * dim;
        attention.forward(
            View::matrix(&self.q[first..], [len, dim])?,
            Kv::new(View::matrix(&self.k[first..], [len, dim])?, View::matrix(&self.v[first..], [len, dim])?)?,
            Output::new(ViewMut::matrix(&mut out, [len, dim])?)
                .scores(Stage::Weights, ViewMut::matrix(&mut weights, [len, len])?),
            &mut vec![0.0; scratch_len(dim, dim)],
        )?;
        Ok(weights)
    }

    /// Useful floating-point operations of [`forward`](Self::forward): a product and a sum for each query, key and element, in `q k'`
    /// and in `p v`.
    pub fn flops(&self) -> usize {
        4 * self.heads * self.len * self.len * self.dim
    }
}
