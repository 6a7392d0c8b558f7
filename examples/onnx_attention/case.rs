//! The cases of a file: what the operator is given, and what it should give.

use std::{collections::BTreeMap, error::Error, fmt};

use safetensors::{SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::tensor::Tensor;

/// One call of the operator.
pub struct Case {
    pub inputs: Inputs,
    pub attributes: Attributes,
    /// Results by the names of outputs; of some outputs, of all, or of none.
    pub expected: BTreeMap<String, Tensor<f32>>,
    pub tolerance: Tolerance,
}

/// `[batch, heads, len, dim]`, or `[batch, len, heads * dim]`.
pub struct Inputs {
    pub q: Tensor<f32>,
    pub k: Tensor<f32>,
    pub v: Tensor<f32>,
    pub mask: Option<AttnMask>,
    pub past: Option<Past>,
    /// How many keys of each sequence are not padding.
    pub lens: Option<Vec<usize>>,
}

/// What stands before the keys and the values: `[batch, heads, len, dim]`.
pub struct Past {
    pub keys: Tensor<f32>,
    pub values: Tensor<f32>,
}

/// What restricts or biases attention, of a shape that broadcasts to `[batch, q_heads, q_len, kv_len]`.
pub enum AttnMask {
    Boolean(Tensor<bool>),
    Additive(Tensor<f32>),
}

/// The operator's attributes, by its names.
#[derive(Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attributes {
    pub is_causal: u8,
    pub scale: Option<f32>,
    /// None if 0.
    pub softcap: f32,
    pub q_num_heads: Option<usize>,
    pub kv_num_heads: Option<usize>,
    /// Unbounded if -1.
    pub left_window_size: i64,
    /// Unbounded if -1.
    pub right_window_size: i64,
    pub qk_matmul_output_mode: u8,
    /// A type's number. The kernels compute their softmax in f32 whatever it is.
    pub softmax_precision: Option<u8>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            is_causal: 0,
            scale: None,
            softcap: 0.0,
            q_num_heads: None,
            kv_num_heads: None,
            left_window_size: -1,
            right_window_size: -1,
            qk_matmul_output_mode: 0,
            softmax_precision: None,
        }
    }
}

/// How far results may be off.
#[derive(Clone, Copy, Deserialize)]
#[serde(default)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

impl Default for Tolerance {
    /// What ONNX allows its own cases.
    fn default() -> Self {
        Self { rtol: 1e-3, atol: 1e-7 }
    }
}

/// What the metadata tells of a case.
#[derive(Deserialize)]
struct About {
    #[serde(default)]
    attributes: Attributes,
    #[serde(flatten)]
    tolerance: Tolerance,
}

/// The cases of a file by name. One that makes no sense does not keep the others from being read.
pub type Cases = BTreeMap<String, Result<Case, Box<dyn Error>>>;

pub fn parse(bytes: &[u8]) -> Result<Cases, Box<dyn Error>> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(bytes)?;
    // Metadata may tell more than of cases: many programs write a `format`.
    let described = metadata.iter().filter(|(_, about)| about.starts_with('{'));
    let mut cases: BTreeMap<&str, Tensors<'_>> = described.map(|(name, _)| (name.as_str(), Tensors::new())).collect();
    for (name, tensor) in file.iter() {
        let (case, name) =
            name.rsplit_once('/').ok_or_else(|| format!("the tensor {name:?} is not named CASE/NAME"))?;
        cases.entry(case).or_default().insert(name, tensor);
    }
    if cases.is_empty() {
        return Err("there are no cases".into());
    }
    let parsed = cases.into_iter().map(|(name, tensors)| {
        let about = metadata.get(name).ok_or_else(|| "is not described in the metadata".into());
        (name.to_owned(), about.and_then(|about| Case::parse(about, tensors)))
    });
    Ok(parsed.collect())
}

/// Tensors of a case, by name, that are still to be read.
type Tensors<'a> = BTreeMap<&'a str, TensorView<'a>>;

impl Case {
    fn parse(about: &str, mut tensors: Tensors<'_>) -> Result<Self, Box<dyn Error>> {
        let About { attributes, tolerance } = serde_json::from_str(about)?;
        let inputs = Inputs::parse(&mut tensors)?;
        let mut expected = BTreeMap::new();
        for (name, tensor) in tensors {
            let output = name.strip_prefix("out.").ok_or_else(|| format!("unknown tensor {name:?}"))?;
            expected.insert(output.to_owned(), Tensor::floats(&tensor).map_err(|error| format!("{name} {error}"))?);
        }
        Ok(Self { inputs, attributes, expected, tolerance })
    }
}

impl Inputs {
    fn parse(tensors: &mut Tensors<'_>) -> Result<Self, String> {
        let (past, lens) = (Past::parse(tensors)?, take(tensors, "nonpad_kv_seqlen", lens)?);
        if past.is_some() && lens.is_some() {
            return Err("nonpad_kv_seqlen does not go together with past_key".to_owned());
        }
        Ok(Self {
            q: require(tensors, "Q")?,
            k: require(tensors, "K")?,
            v: require(tensors, "V")?,
            mask: take(tensors, "attn_mask", AttnMask::parse)?,
            past,
            lens,
        })
    }
}

impl Past {
    fn parse(tensors: &mut Tensors<'_>) -> Result<Option<Self>, String> {
        let keys = take(tensors, "past_key", Tensor::floats)?;
        let values = take(tensors, "past_value", Tensor::floats)?;
        match (keys, values) {
            (Some(keys), Some(values)) => Ok(Some(Self { keys, values })),
            (None, None) => Ok(None),
            _ => Err("past_key and past_value go together".to_owned()),
        }
    }
}

impl AttnMask {
    fn parse(view: &TensorView<'_>) -> Result<Self, String> {
        match view.dtype() {
            safetensors::Dtype::BOOL => Tensor::bools(view).map(Self::Boolean),
            _ => Tensor::floats(view).map(Self::Additive),
        }
    }
}

fn lens(view: &TensorView<'_>) -> Result<Vec<usize>, String> {
    let lens = Tensor::integers(view)?;
    lens.data.iter().map(|&len| usize::try_from(len).map_err(|_| format!("has a negative number: {len}"))).collect()
}

fn take<T>(
    tensors: &mut Tensors<'_>,
    name: &str,
    parse: impl FnOnce(&TensorView<'_>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let tensor = tensors.remove(name);
    tensor.map(|tensor| parse(&tensor)).transpose().map_err(|error| format!("{name} {error}"))
}

fn require(tensors: &mut Tensors<'_>, name: &str) -> Result<Tensor<f32>, String> {
    take(tensors, name, Tensor::floats)?.ok_or_else(|| format!("{name} is missing"))
}

/// Types and shapes, in short.
impl fmt::Display for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { q, k, v, mask, past, .. } = self;
        write!(f, "{} q {} k {} v {}", q.dtype, q.extents(), k.extents(), v.extents())?;
        if let Some(past) = past {
            write!(f, " past {}", past.keys.extents())?;
        }
        match mask {
            Some(AttnMask::Boolean(mask)) => write!(f, " {} mask {}", mask.dtype, mask.extents()),
            Some(AttnMask::Additive(mask)) => write!(f, " {} mask {}", mask.dtype, mask.extents()),
            None => Ok(()),
        }
    }
}
