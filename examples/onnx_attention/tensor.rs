//! Tensors of a file. Numbers of half precision are f32 in memory, and what they were where they are computed with.

use std::borrow::Cow;

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use simd_attention::Float;

/// A contiguous tensor, and the type that its elements have in a file.
#[derive(Clone, Debug)]
pub struct Tensor<T> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<T>,
}

impl Tensor<f32> {
    pub fn floats(view: &TensorView<'_>) -> Result<Self, String> {
        match view.dtype() {
            dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
                Ok(Self { dtype, shape: view.shape().to_vec(), data: decode_floats(dtype, view.data()) })
            }
            dtype => Err(format!("has elements of {dtype}; F32, F16 or BF16 are needed")),
        }
    }

    /// A tensor whose numbers are rounded to those that `dtype` has.
    pub fn rounded(dtype: Dtype, shape: Vec<usize>, data: &[f32]) -> Self {
        Self { dtype, shape, data: decode_floats(dtype, &encode_floats(dtype, data)) }
    }

    /// The same numbers in memory as they are in a file, if that is what `T` is.
    pub fn kept_as<T: Float>(&self) -> Tensor<T> {
        let data = self.data.iter().map(|&x| T::from_f32(x)).collect();
        Tensor { dtype: self.dtype, shape: self.shape.clone(), data }
    }
}

impl Tensor<bool> {
    pub fn bools(view: &TensorView<'_>) -> Result<Self, String> {
        Self::of(Dtype::BOOL, view, |[byte]: [u8; 1]| byte != 0)
    }
}

impl Tensor<i64> {
    pub fn integers(view: &TensorView<'_>) -> Result<Self, String> {
        Self::of(Dtype::I64, view, i64::from_le_bytes)
    }
}

impl<T> Tensor<T> {
    fn of<const N: usize>(dtype: Dtype, view: &TensorView<'_>, element: impl Fn([u8; N]) -> T) -> Result<Self, String> {
        if view.dtype() != dtype {
            return Err(format!("has elements of {}; {dtype} is needed", view.dtype()));
        }
        Ok(Self { dtype, shape: view.shape().to_vec(), data: decode(view.data(), element) })
    }

    /// The extents, as `2x3x4`.
    pub fn extents(&self) -> String {
        self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
    }
}

impl safetensors::View for &Tensor<f32> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        encode_floats(self.dtype, &self.data).into()
    }

    fn data_len(&self) -> usize {
        self.data.len() * self.dtype.bitsize() / 8
    }
}

/// Numbers of half precision, or of f32.
fn decode_floats(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F16 => decode(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => decode(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        _ => decode(bytes, f32::from_le_bytes),
    }
}

/// The inverse, which rounds to nearest.
fn encode_floats(dtype: Dtype, data: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => encode(data, |x| f16::from_f32(x).to_le_bytes()),
        Dtype::BF16 => encode(data, |x| bf16::from_f32(x).to_le_bytes()),
        _ => encode(data, f32::to_le_bytes),
    }
}

fn decode<T, const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks();
    elements.iter().map(|&bytes| element(bytes)).collect()
}

fn encode<const N: usize>(data: &[f32], bytes: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    data.iter().flat_map(|&x| bytes(x)).collect()
}
