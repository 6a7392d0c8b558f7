#![no_std]
#![doc = include_str!("../README.md")]

#[cfg(test)]
extern crate std;

mod append;
mod attention;
mod element;
mod error;
mod floats;
mod kernel;
mod kv;
mod linear;
mod math;
mod merge;
mod multi_head;
mod output;
mod pages;
mod partition;
mod pieces;
mod ranges;
pub mod reference;
mod scalar;
mod score;
mod scratch;
mod simd;
mod softmax;
mod store;
mod validate;
mod view;
mod weighted_sum;
mod work;

pub use append::{CacheMut, KvMut, quantize};
pub use attention::{Attention, Window};
pub use element::{Element, Float};
pub use error::{Axis, Error, Operand};
pub use kv::{Kv, Quantized};
pub use linear::Linear;
pub use merge::merge;
pub use multi_head::{MultiHead, multi_head_scratch_len};
pub use output::{Output, Stage};
pub use scalar::Scalar;
pub use score::{
    additive::Additive,
    bilinear::Bilinear,
    custom::{MaskMod, Position, ScoreMod},
    function::{Dot, Score},
    lanes::Lanes,
    mask::Mask,
    projection::Projection,
};
pub use scratch::{cache_scratch_len, scratch_len};
pub use simd::Backend;
pub use view::{Shape, Strides, View, ViewMut};
pub use work::Work;
