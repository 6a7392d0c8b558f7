//! What can be wrong with a call, told precisely.

use core::fmt;

use crate::{Backend, Shape};

/// Which argument of a call an [`Error`] speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operand {
    /// The queries.
    Query,
    /// The keys.
    Key,
    /// The values.
    Value,
    /// The output.
    Output,
    /// The log-sum-exp output.
    LogSumExp,
}

/// Which axis of a [`Shape`] an [`Error`] speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// Independent sequences.
    Batch,
    /// Heads.
    Heads,
    /// Tokens of one sequence.
    Len,
    /// Elements of one token's vector: `head_dim` or `value_dim`.
    Dim,
}

/// A precondition that a call did not meet. Nothing has been written when one is returned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A slice is shorter than its shape and strides reach.
    StorageTooShort {
        /// Elements that shape and strides reach.
        required: usize,
        /// Elements in the slice.
        actual: usize,
    },
    /// A shape and its strides reach further than a `usize` counts.
    SizeOverflow {
        /// The shape.
        shape: Shape,
    },
    /// `head_dim` or `value_dim` is zero.
    ZeroDim,
    /// The strides of an output let two of its rows share an element.
    OverlappingRows {
        /// The axis whose stride is too small.
        axis: Axis,
        /// The smallest stride with which the rows lie apart.
        required: usize,
        /// The stride given.
        actual: usize,
    },
    /// Two operands disagree about an axis they share.
    ShapeMismatch {
        /// The operand at fault.
        operand: Operand,
        /// The axis.
        axis: Axis,
        /// The extent the other operands ask for.
        expected: usize,
        /// The extent found.
        actual: usize,
    },
    /// The query heads cannot be shared out evenly over the key/value heads.
    HeadsNotDivisible {
        /// Heads of the queries.
        q_heads: usize,
        /// Heads of the keys and values.
        kv_heads: usize,
    },
    /// The scale, or its product with `log2(e)`, is not a finite number.
    ScaleNotFinite {
        /// The scale given.
        scale: f32,
    },
    /// The log-sum-exp slice does not have one element for each query.
    LseLength {
        /// `batch * q_heads * q_len`.
        expected: usize,
        /// Elements in the slice.
        actual: usize,
    },
    /// The scratch slice is too short.
    ScratchTooShort {
        /// What [`scratch_len`](crate::scratch_len) gives for these dimensions.
        required: usize,
        /// Elements in the slice.
        actual: usize,
    },
    /// The CPU lacks the instructions of the backend that was asked for.
    BackendUnavailable {
        /// The backend asked for.
        backend: Backend,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StorageTooShort { required, actual } => {
                write!(f, "shape and strides reach {required} elements, the slice has {actual}")
            }
            Self::SizeOverflow { shape } => {
                write!(f, "the elements of {shape:?} with its strides exceed the address space")
            }
            Self::ZeroDim => write!(f, "head_dim and value_dim must be at least 1"),
            Self::OverlappingRows { axis, required, actual } => {
                write!(f, "output rows overlap: the stride of {axis:?} is {actual}, at least {required} is needed")
            }
            Self::ShapeMismatch { operand, axis, expected, actual } => {
                write!(f, "{operand:?} has {axis:?} = {actual}, the other operands ask for {expected}")
            }
            Self::HeadsNotDivisible { q_heads, kv_heads } => {
                write!(f, "{q_heads} query heads cannot share {kv_heads} key/value heads evenly")
            }
            Self::ScaleNotFinite { scale } => write!(f, "scale {scale} (or scale * log2(e)) is not finite"),
            Self::LseLength { expected, actual } => {
                write!(f, "the log-sum-exp slice has {actual} elements, one for each of {expected} queries is needed")
            }
            Self::ScratchTooShort { required, actual } => {
                write!(f, "scratch has {actual} elements, {required} are needed")
            }
            Self::BackendUnavailable { backend } => write!(f, "this CPU has no {backend}"),
        }
    }
}

impl core::error::Error for Error {}
