//! The trained model as `train.py` has saved it.

use std::error::Error;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use simd_attention::{Linear, View};

pub struct Model {
    pub symbols: Symbols,
    pub encoder: Encoder,
    pub attention: Alignment,
    pub decoder: Decoder,
}

/// What the metadata says about input and output.
#[derive(Deserialize)]
pub struct Symbols {
    /// Index 0 stands for every character that is not in the list.
    #[serde(rename = "input_vocabulary")]
    input: Vec<String>,
    #[serde(rename = "output_vocabulary")]
    pub output: Vec<String>,
    /// What the decoder is told to have written before its first symbol.
    #[serde(rename = "output_start")]
    pub start: usize,
    #[serde(rename = "output_length")]
    pub len: usize,
    lowercase: bool,
}

/// Reads the input in both directions.
pub struct Encoder {
    pub embedding: Matrix,
    pub forward: Gru,
    pub backward: Gru,
}

/// `v' tanh(query s + key h)`
pub struct Alignment {
    pub key: Layer,
    pub query: Matrix,
    pub v: Vec<f32>,
}

/// Writes one symbol after the other.
pub struct Decoder {
    /// From the last states of the encoder to the first one of the decoder, before its tanh.
    pub initial: Layer,
    pub embedding: Matrix,
    pub gru: Gru,
    pub output: Layer,
}

/// Gated recurrent unit (Cho et al., 2014), in PyTorch's form. Its gates are three blocks of rows: reset, update, new.
pub struct Gru {
    pub input: Layer,
    pub recurrent: Layer,
}

/// A matrix `[out, in]`, and a bias if there is one.
pub struct Layer {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

/// Contiguous, row by row.
pub struct Matrix {
    data: Vec<f32>,
    extents: [usize; 2],
}

impl Model {
    pub fn parse(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get("seq2seq"));
        let file = File(SafeTensors::deserialize(bytes)?);
        Ok(Self {
            symbols: serde_json::from_str(about.ok_or("the metadata has no \"seq2seq\"")?)?,
            encoder: Encoder {
                embedding: file.matrix("encoder.embedding")?,
                forward: file.gru("encoder.forward")?,
                backward: file.gru("encoder.backward")?,
            },
            attention: Alignment {
                key: Layer { weights: file.matrix("attention.key")?, bias: None },
                query: file.matrix("attention.query")?,
                v: file.vector("attention.v")?,
            },
            decoder: Decoder {
                initial: file.layer("decoder.initial.weight", "decoder.initial.bias")?,
                embedding: file.matrix("decoder.embedding")?,
                gru: file.gru("decoder")?,
                output: file.layer("output.weight", "output.bias")?,
            },
        })
    }
}

impl Symbols {
    /// One index for each character of the text.
    pub fn indices(&self, text: &str) -> impl Iterator<Item = usize> {
        text.chars().map(|c| {
            let c = if self.lowercase { c.to_ascii_lowercase() } else { c };
            self.input.iter().position(|symbol| symbol.chars().eq([c])).unwrap_or(0)
        })
    }
}

impl Gru {
    /// Elements of its state.
    pub fn dim(&self) -> usize {
        self.recurrent.weights.extents[1]
    }

    /// The next state, from what the input and the present state give to the gates.
    pub fn update(from_input: &[f32], from_state: &[f32], state: &mut [f32]) {
        let dim = state.len();
        for (i, h) in state.iter_mut().enumerate() {
            let [r, z, n] = [i, dim + i, 2 * dim + i];
            let reset = sigmoid(from_input[r] + from_state[r]);
            let update = sigmoid(from_input[z] + from_state[z]);
            let new = (from_input[n] + reset * from_state[n]).tanh();
            *h = (1.0 - update) * new + update * *h;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Layer {
    pub fn linear(&self) -> Result<Linear<'_>, simd_attention::Error> {
        let linear = Linear::new(self.weights.view()?);
        Ok(self.bias.as_ref().map_or(linear, |bias| linear.bias(bias)))
    }
}

impl Matrix {
    pub fn view(&self) -> Result<View<'_, f32>, simd_attention::Error> {
        View::matrix(&self.data, self.extents)
    }

    pub fn extents(&self) -> [usize; 2] {
        self.extents
    }

    pub fn row(&self, i: usize) -> &[f32] {
        let [_, dim] = self.extents;
        &self.data[i * dim..][..dim]
    }
}

struct File<'a>(SafeTensors<'a>);

impl File<'_> {
    fn vector(&self, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
        let tensor = self.0.tensor(name)?;
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("{name} is not of f32").into());
        }
        let (elements, _) = tensor.data().as_chunks();
        Ok(elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    fn matrix(&self, name: &str) -> Result<Matrix, Box<dyn Error>> {
        let extents = self.0.tensor(name)?.shape().try_into().map_err(|_| format!("{name} is not of rank 2"))?;
        Ok(Matrix { data: self.vector(name)?, extents })
    }

    fn layer(&self, weights: &str, bias: &str) -> Result<Layer, Box<dyn Error>> {
        Ok(Layer { weights: self.matrix(weights)?, bias: Some(self.vector(bias)?) })
    }

    fn gru(&self, name: &str) -> Result<Gru, Box<dyn Error>> {
        let layer = |of: &str| self.layer(&format!("{name}.weight_{of}"), &format!("{name}.bias_{of}"));
        Ok(Gru { input: layer("ih")?, recurrent: layer("hh")? })
    }
}
