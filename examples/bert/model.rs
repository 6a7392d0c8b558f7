//! The weights of a BERT, read from a folder as Hugging Face publishes them.

use std::{error::Error, fs, path::Path};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use simd_attention::{Attention, Linear, MultiHead, View};

use crate::{elementwise::LayerNorm, tokenizer::Tokenizer};

type Outcome<T> = Result<T, Box<dyn Error>>;

pub struct Model {
    pub config: Config,
    pub tokenizer: Tokenizer,
    pub embeddings: Embeddings,
    pub layers: Vec<Layer>,
}

/// The part of `config.json` that matters here.
#[derive(Deserialize)]
pub struct Config {
    #[serde(rename = "hidden_size")]
    pub dim: usize,
    #[serde(rename = "intermediate_size")]
    pub inner_dim: usize,
    #[serde(rename = "num_attention_heads")]
    pub heads: usize,
    #[serde(rename = "num_hidden_layers")]
    pub layers: usize,
    /// Tokens that it can read at once.
    #[serde(rename = "max_position_embeddings")]
    pub positions: usize,
    #[serde(rename = "type_vocab_size")]
    segments: usize,
    #[serde(rename = "vocab_size")]
    vocabulary: usize,
    #[serde(rename = "layer_norm_eps")]
    epsilon: f32,
    #[serde(rename = "hidden_act")]
    activation: String,
}

/// What a token is, where it stands and to which sentence it belongs: a row for each.
pub struct Embeddings {
    pub tokens: Vec<f32>,
    pub positions: Vec<f32>,
    pub segments: Vec<f32>,
    pub norm: LayerNorm,
}

pub struct Layer {
    heads: usize,
    /// Of queries, keys, values and output.
    projections: [Dense; 4],
    pub attention_norm: LayerNorm,
    pub widen: Dense,
    pub narrow: Dense,
    pub norm: LayerNorm,
}

/// A linear layer's weights `[out_dim, in_dim]`.
pub struct Dense {
    shape: [usize; 2],
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Model {
    pub fn read(folder: &Path) -> Outcome<Self> {
        let read = |name: &str| fs::read(folder.join(name)).map_err(|error| in_file(folder, name, error));
        let config: Config =
            serde_json::from_slice(&read("config.json")?).map_err(|error| in_file(folder, "config.json", error))?;
        if config.activation != "gelu" {
            return Err(in_file(folder, "config.json", format!("the activation is {:?}", config.activation)).into());
        }
        let tokenizer = Tokenizer::read(&folder.join("vocab.txt"))?;
        if tokenizer.len() > config.vocabulary || config.segments < 2 {
            return Err(in_file(folder, "config.json", "there are fewer embeddings than tokens or segments").into());
        }
        let bytes = read("model.safetensors")?;
        Self::parse(config, tokenizer, &bytes).map_err(|error| in_file(folder, "model.safetensors", error).into())
    }

    fn parse(config: Config, tokenizer: Tokenizer, bytes: &[u8]) -> Outcome<Self> {
        let weights = Weights { file: SafeTensors::deserialize(bytes)?, config: &config };
        let (embeddings, dim) = ("embeddings", config.dim);
        let table = |name, rows| weights.floats(&format!("{embeddings}.{name}.weight"), &[rows, dim]);
        let embeddings = Embeddings {
            tokens: table("word_embeddings", config.vocabulary)?,
            positions: table("position_embeddings", config.positions)?,
            segments: table("token_type_embeddings", config.segments)?,
            norm: weights.norm(embeddings)?,
        };
        let layers = (0..config.layers).map(|i| weights.layer(i)).collect::<Outcome<_>>()?;
        Ok(Self { config, tokenizer, embeddings, layers })
    }
}

impl Layer {
    /// Elements of what is known of a token.
    pub fn dim(&self) -> usize {
        self.norm.gain.len()
    }

    /// Attention to the first `lens` tokens of each input, with the same bits however short it is and whatever the batch pads it to.
    pub fn attention<'a>(&'a self, lens: &'a [usize]) -> Result<MultiHead<'a>, simd_attention::Error> {
        let [query, key, value, output] = &self.projections;
        let projections = [query.linear()?, key.linear()?, value.linear()?, output.linear()?];
        Ok(MultiHead::new(self.heads, projections).kv_lens(lens).attention(Attention::new().batch_invariant()))
    }
}

impl Dense {
    pub fn linear(&self) -> Result<Linear<'_>, simd_attention::Error> {
        Ok(Linear::new(View::matrix(&self.weights, self.shape)?).bias(&self.bias))
    }
}

/// Tensors by the names that the layers have in PyTorch.
struct Weights<'a> {
    file: SafeTensors<'a>,
    config: &'a Config,
}

impl Weights<'_> {
    fn layer(&self, index: usize) -> Outcome<Layer> {
        let &Config { dim, inner_dim, heads, .. } = self.config;
        let within = |name: &str| format!("encoder.layer.{index}.{name}");
        let projection = |name: &str| self.dense(&within(name), [dim, dim]);
        Ok(Layer {
            heads,
            projections: [
                projection("attention.self.query")?,
                projection("attention.self.key")?,
                projection("attention.self.value")?,
                projection("attention.output.dense")?,
            ],
            attention_norm: self.norm(&within("attention.output"))?,
            widen: self.dense(&within("intermediate.dense"), [inner_dim, dim])?,
            narrow: self.dense(&within("output.dense"), [dim, inner_dim])?,
            norm: self.norm(&within("output"))?,
        })
    }

    fn dense(&self, name: &str, shape: [usize; 2]) -> Outcome<Dense> {
        let weights = self.floats(&format!("{name}.weight"), &shape)?;
        Ok(Dense { shape, weights, bias: self.floats(&format!("{name}.bias"), &shape[..1])? })
    }

    fn norm(&self, name: &str) -> Outcome<LayerNorm> {
        let floats = |part| self.floats(&format!("{name}.LayerNorm.{part}"), &[self.config.dim]);
        Ok(LayerNorm { gain: floats("weight")?, bias: floats("bias")?, epsilon: self.config.epsilon })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Outcome<Vec<f32>> {
        let tensor = self.file.tensor(name).map_err(|error| format!("{name}: {error}"))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(format!("{name}: {:?} {:?}, not F32 {shape:?}", tensor.dtype(), tensor.shape()).into());
        }
        let (elements, _) = tensor.data().as_chunks();
        Ok(elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}

fn in_file(folder: &Path, name: &str, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", folder.join(name).display())
}
