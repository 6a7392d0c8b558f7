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
    /// The output of scores.
    Scores,
    /// The mask.
    Mask,
    /// The mask of blocks.
    BlockMask,
    /// The bias.
    Bias,
    /// The slopes of ALiBi.
    AlibiSlopes,
    /// The attention sinks.
    Sinks,
    /// The numbers of keys.
    KeyLens,
    /// The numbers of a paged cache's pages.
    PageTable,
    /// The scales of quantised keys or values.
    QuantizationScales,
    /// Rows for a cache.
    NewRows,
    /// Where in a cache new rows go.
    Places,
    /// What a linear layer is given.
    Input,
    /// The matrix of a linear layer or of a score function; in [`MultiHead`](crate::MultiHead) that of the output.
    Weights,
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
    /// A shape and its strides reach further than there are addresses, or repeat rows more often.
    SizeOverflow {
        /// The shape.
        shape: Shape,
    },
    /// The last extent of a tensor is zero: `head_dim`, `value_dim`, or what there is of it in a mask, scores, a table of pages, scales
    /// or weights.
    ZeroDim,
    /// The strides of what is written let two of its rows share an element.
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
    /// The elements of a projection cannot be divided evenly into heads.
    DimNotDivisible {
        /// What is projected.
        operand: Operand,
        /// Its elements.
        dim: usize,
        /// Heads that it is to be divided into.
        heads: usize,
    },
    /// The elements of a quantised row cannot be divided evenly into groups with a scale each.
    GroupsNotDivisible {
        /// Its elements.
        dim: usize,
        /// Its scales.
        groups: usize,
    },
    /// A page table names a page that there is not.
    NoSuchPage {
        /// The row of the table: the sequence.
        sequence: usize,
        /// Which of its pages.
        index: usize,
        /// The number found there.
        page: u32,
        /// How many pages there are.
        pages: usize,
    },
    /// The scale, or its product with `log2(e)`, is not a finite number.
    ScaleNotFinite {
        /// The scale given.
        scale: f64,
    },
    /// The scale is not zero, but so small that its product with `log2(e)`, or with a softcap its quotient by that, is.
    ScaleVanishes {
        /// The scale given.
        scale: f64,
    },
    /// The softcap, or its product with `log2(e)`, is not a positive, finite number.
    SoftcapNotPositive {
        /// The softcap given.
        softcap: f64,
    },
    /// A slope of ALiBi, or its product with `log2(e)`, is not a finite number.
    SlopeNotFinite {
        /// The head.
        head: usize,
        /// Its slope.
        slope: f32,
    },
    /// An attention sink, or its product with `log2(e)`, is NaN or positive infinity.
    SinkNotFinite {
        /// The head.
        head: usize,
        /// Its sink.
        sink: f32,
    },
    /// A mask whose elements speak for blocks of no queries or no keys.
    ZeroBlock,
    /// A slice does not have as many elements as it must.
    LengthMismatch {
        /// What the slice is.
        operand: Operand,
        /// One for each query ([`Operand::LogSumExp`]), query head ([`Operand::AlibiSlopes`], [`Operand::Sinks`]) or
        /// sequence ([`Operand::KeyLens`], [`Operand::Places`]); as many as the elements of a linear layer's output ([`Operand::Bias`]); for the cumulative lengths of packed keys, as many as there are for queries ([`Operand::Key`]).
        expected: usize,
        /// Elements in the slice.
        actual: usize,
    },
    /// A sequence is said to have more keys than there is room for.
    TooManyKeys {
        /// The sequence.
        sequence: usize,
        /// The keys there is room for.
        room: usize,
        /// The keys it is said to have.
        actual: usize,
    },
    /// Cumulative lengths decrease.
    CumulativeLensDecrease {
        /// [`Operand::Query`] or [`Operand::Key`].
        operand: Operand,
        /// The sequence that would end before it starts.
        sequence: usize,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Cumulative lengths reach past the last query or key.
    CumulativeLensTooLong {
        /// [`Operand::Query`] or [`Operand::Key`].
        operand: Operand,
        /// How many there are.
        len: usize,
        /// Where the last sequence ends.
        end: usize,
    },
    /// The scratch slice is too short.
    ScratchTooShort {
        /// What the function's own documentation says is needed.
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
            Self::ZeroDim => {
                write!(f, "the last extent of a tensor (such as head_dim or value_dim) must be at least 1")
            }
            Self::OverlappingRows { axis, required, actual } => {
                write!(
                    f,
                    "rows to be written overlap: the stride of {axis:?} is {actual}, at least {required} is needed"
                )
            }
            Self::ShapeMismatch { operand, axis, expected, actual } => {
                write!(f, "{operand:?} has {axis:?} = {actual}, the other operands ask for {expected}")
            }
            Self::HeadsNotDivisible { q_heads, kv_heads } => {
                write!(f, "{q_heads} query heads cannot share {kv_heads} key/value heads evenly")
            }
            Self::DimNotDivisible { operand, dim, heads } => {
                write!(f, "{operand:?} of {dim} elements cannot be divided evenly into {heads} heads")
            }
            Self::GroupsNotDivisible { dim, groups } => {
                write!(f, "rows of {dim} elements cannot be divided evenly into {groups} groups")
            }
            Self::NoSuchPage { sequence, index, page, pages } => {
                write!(f, "page {index} of sequence {sequence} is said to be {page}, there are {pages} pages")
            }
            Self::ScaleNotFinite { scale } => write!(f, "scale {scale} (or scale * log2(e)) is not finite"),
            Self::ScaleVanishes { scale } => {
                write!(f, "scale {scale} becomes zero when multiplied by log2(e), or divided by the softcap")
            }
            Self::SoftcapNotPositive { softcap } => {
                write!(f, "softcap {softcap} (or softcap * log2(e)) is not a positive, finite number")
            }
            Self::SlopeNotFinite { head, slope } => {
                write!(f, "slope {slope} of head {head} (or slope * log2(e)) is not finite")
            }
            Self::SinkNotFinite { head, sink } => {
                write!(f, "sink {sink} of head {head} (or sink * log2(e)) is neither finite nor -inf")
            }
            Self::ZeroBlock => write!(f, "the blocks of a mask must have at least 1 query and 1 key"),
            Self::LengthMismatch { operand, expected, actual } => {
                write!(f, "{operand:?} has {actual} elements, {expected} are needed")
            }
            Self::TooManyKeys { sequence, room, actual } => {
                write!(f, "sequence {sequence} is said to have {actual} keys, there is room for {room}")
            }
            Self::CumulativeLensDecrease { operand, sequence, start, end } => {
                write!(f, "{operand:?}: packed sequence {sequence} starts at {start} and ends at {end}")
            }
            Self::CumulativeLensTooLong { operand, len, end } => {
                write!(f, "{operand:?}: the last packed sequence ends at {end}, there are {len}")
            }
            Self::ScratchTooShort { required, actual } => {
                write!(f, "scratch has {actual} elements, {required} are needed")
            }
            Self::BackendUnavailable { backend } => write!(f, "this CPU has no {backend}"),
        }
    }
}

impl core::error::Error for Error {}
