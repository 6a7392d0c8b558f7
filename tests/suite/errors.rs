//! Every precondition: what is wrong is told exactly, before anything is written.

use crate::common::{
    Answer, Case, Elements, Function, FunctionKind, Grid, Layout, MARKER, Modifiers, Pattern, Plan, Tensor, backends,
};
use simd_attention::{
    Attention, Axis, Backend, Error, Kv, Operand, Output, Shape, Stage, Strides, View, ViewMut, merge, reference,
    scratch_len,
};

const SHAPE: Shape = Shape { batch: 2, heads: 3, len: 4, dim: 5 };
const STRIDES: Strides = Strides { batch: 60, heads: 20, len: 5 };
const STORAGE: usize = 120;

/// The error of viewing `len` elements, which a view to read and one to write agree about.
#[track_caller]
fn view_error(len: usize, shape: Shape, strides: Strides) -> Option<Error> {
    let mut data = vec![0.0f32; len];
    let read = View::strided(&data, shape, strides).err();
    let write = ViewMut::strided(&mut data, shape, strides).err();
    assert_eq!(read, write);
    read
}

#[test]
fn storage_too_short() {
    assert_eq!(view_error(STORAGE, SHAPE, STRIDES), None);
    for actual in [0, 1, STORAGE - 1] {
        assert_eq!(view_error(actual, SHAPE, STRIDES), Some(Error::StorageTooShort { required: STORAGE, actual }));
    }
    // Up to the last row's end, not to where the next would begin.
    let padded = Strides { batch: 1000, heads: 100, len: 10 };
    let required = 1000 + 2 * 100 + 3 * 10 + 5;
    assert_eq!(view_error(required, SHAPE, padded), None);
    assert_eq!(
        view_error(required - 1, SHAPE, padded),
        Some(Error::StorageTooShort { required, actual: required - 1 })
    );
    assert_eq!(View::matrix(&[0.0; 5], [2, 3]).unwrap_err(), Error::StorageTooShort { required: 6, actual: 5 });
    let too_short = ViewMut::tokens_first(&mut [0.0; 119], [2, 4, 3, 5]).unwrap_err();
    assert_eq!(too_short, Error::StorageTooShort { required: STORAGE, actual: 119 });
}

#[test]
fn nothing_is_needed_where_there_are_no_rows() {
    for shape in [Shape { batch: 0, ..SHAPE }, Shape { heads: 0, ..SHAPE }, Shape { len: 0, ..SHAPE }] {
        assert_eq!(view_error(0, shape, STRIDES), None);
        assert_eq!(view_error(0, shape, Strides { batch: usize::MAX, heads: usize::MAX, len: 0 }), None);
    }
}

#[test]
fn zero_dim() {
    assert_eq!(view_error(STORAGE, Shape { dim: 0, ..SHAPE }, STRIDES), Some(Error::ZeroDim));
    assert_eq!(View::<f32>::matrix(&[], [0, 0]).unwrap_err(), Error::ZeroDim);
}

#[test]
fn size_overflow() {
    let overflow =
        |shape, strides| assert_eq!(view_error(STORAGE, shape, strides), Some(Error::SizeOverflow { shape }));
    for huge in [usize::MAX, usize::MAX / 2, isize::MAX as usize] {
        overflow(SHAPE, Strides { batch: huge, ..STRIDES });
        overflow(SHAPE, Strides { heads: huge, ..STRIDES });
        overflow(SHAPE, Strides { len: huge, ..STRIDES });
        overflow(Shape { dim: huge, ..SHAPE }, STRIDES);
        overflow(Shape { batch: huge, ..SHAPE }, STRIDES);
        overflow(Shape { heads: huge, ..SHAPE }, STRIDES);
        overflow(Shape { len: huge, ..SHAPE }, STRIDES);
    }
    // Nor are there more rows than that if they are all the same one.
    let (shape, repeated) = (Shape { len: 1 << (usize::BITS - 3), ..SHAPE }, Strides { batch: 0, heads: 0, len: 0 });
    overflow(Shape { batch: 1, heads: 1, ..shape }, repeated);
    overflow(Shape { batch: 1 << (usize::BITS - 4), heads: 1 << 4, ..shape }, repeated);
    let data = [0.0f32; 1];
    for extents @ [batch, heads, len, dim] in
        [[1, 1, usize::MAX, 2], [1, usize::MAX, 2, 1], [usize::MAX, 2, 1, 1], [1 << 20, 1 << 20, 1 << 20, 1 << 20]]
    {
        let shape = Shape { batch, heads, len, dim };
        assert_eq!(View::heads_first(&data, extents).unwrap_err(), Error::SizeOverflow { shape });
        let shape = Shape { batch, heads: len, len: heads, dim };
        assert_eq!(View::tokens_first(&data, extents).unwrap_err(), Error::SizeOverflow { shape });
    }
}

/// More queries than a `usize` counts, all of them the same.
#[test]
fn size_overflow_of_the_queries() {
    let half = 1 << (usize::BITS / 2);
    let shape = Shape { batch: half, heads: half, len: 0, dim: 1 };
    let nowhere = Strides { batch: 0, heads: 0, len: 0 };
    let view = View::strided(&[0.0f32; 1], shape, nowhere).unwrap();
    let mut out = [0.0f32; 1];
    let out = ViewMut::strided(&mut out, shape, nowhere).unwrap();
    let result = Attention::new().prepare(view, Kv::new(view, view).unwrap(), out);
    assert_eq!(result.err(), Some(Error::SizeOverflow { shape }));
}

#[test]
fn overlapping_rows() {
    let error = |strides| {
        let mut data = [0.0f32; 1000];
        ViewMut::strided(&mut data, SHAPE, strides).err()
    };
    let overlap = |axis, required, actual| Some(Error::OverlappingRows { axis, required, actual });
    assert_eq!(error(STRIDES), None);
    assert_eq!(error(Strides { len: 4, ..STRIDES }), overlap(Axis::Len, 5, 4));
    assert_eq!(error(Strides { len: 0, ..STRIDES }), overlap(Axis::Len, 5, 0));
    assert_eq!(error(Strides { heads: 19, ..STRIDES }), overlap(Axis::Heads, 20, 19));
    assert_eq!(error(Strides { batch: 59, ..STRIDES }), overlap(Axis::Batch, 60, 59));
    // Heads within a token, tokens within a sequence.
    let tokens_first = Strides { batch: 60, heads: 5, len: 15 };
    assert_eq!(error(tokens_first), None);
    assert_eq!(error(Strides { len: 14, ..tokens_first }), overlap(Axis::Len, 15, 14));
    assert_eq!(error(Strides { heads: 4, ..tokens_first }), overlap(Axis::Heads, 5, 4));
    // Two axes of one stride.
    assert_eq!(error(Strides { batch: 60, heads: 5, len: 5 }), overlap(Axis::Len, 15, 5));
    // An axis of one element may have any stride.
    let single = Shape { batch: 1, heads: 1, ..SHAPE };
    let strides = Strides { batch: 0, heads: 1, len: 5 };
    assert!(ViewMut::strided(&mut [0.0f32; 20], single, strides).is_ok());
}

/// A call in which everything fits: 4 query heads over 2, 6 queries, 7 keys, dimensions 3 and 5.
fn fitting() -> Case {
    Plan { batch: 2, q_heads: 4, kv_heads: 2, ..Plan::new([6, 7], [3, 5]) }.case()
}

/// The error of a call on each backend and of the reference, none of which may have written anything.
#[track_caller]
fn call_error(case: &Case) -> Error {
    let errors: Vec<Error> = backends().map(|backend| backend_error(case, backend)).collect();
    let reference = case.try_reference().unwrap_err();
    // As text, since a scale of NaN does not equal itself.
    errors.iter().for_each(|error| assert_eq!(format!("{error:?}"), format!("{reference:?}")));
    reference
}

#[track_caller]
fn backend_error(case: &Case, backend: Backend) -> Error {
    let mut answer = case.blank();
    let Err(error) = case.execute(backend, &mut answer, 1, 0) else { panic!("{backend}: no error") };
    assert_unwritten(&answer);
    error
}

#[track_caller]
fn assert_unwritten(answer: &Answer<f32>) {
    assert!(answer.elements().all(|x| *x == MARKER));
}

fn zeros(shape: Shape) -> Tensor<f32> {
    Tensor::filled(shape, Layout::HeadsFirst, 0.0)
}

fn mismatch(operand: Operand, axis: Axis, expected: usize, actual: usize) -> Error {
    Error::ShapeMismatch { operand, axis, expected, actual }
}

#[test]
fn shape_mismatch_of_keys_and_values() {
    let error = |shape| {
        let (keys, values) = (zeros(SHAPE), zeros(shape));
        Kv::new(keys.view().unwrap(), values.view().unwrap()).err()
    };
    assert_eq!(error(SHAPE), None);
    assert_eq!(error(Shape { dim: 9, ..SHAPE }), None);
    assert_eq!(error(Shape { batch: 3, ..SHAPE }), Some(mismatch(Operand::Value, Axis::Batch, 2, 3)));
    assert_eq!(error(Shape { heads: 1, ..SHAPE }), Some(mismatch(Operand::Value, Axis::Heads, 3, 1)));
    assert_eq!(error(Shape { len: 5, ..SHAPE }), Some(mismatch(Operand::Value, Axis::Len, 4, 5)));
}

#[test]
fn shape_mismatch_of_queries_and_keys() {
    let error = |batch, dim| {
        let case = fitting();
        let (k, v) = (Shape { batch, dim, ..case.k.shape }, Shape { batch, ..case.v.shape });
        call_error(&Case { k: zeros(k), v: zeros(v), ..case })
    };
    assert_eq!(error(1, 3), mismatch(Operand::Key, Axis::Batch, 2, 1));
    assert_eq!(error(2, 4), mismatch(Operand::Key, Axis::Dim, 3, 4));
}

#[test]
fn shape_mismatch_of_the_output() {
    let shape = fitting().out.shape;
    let error = |shape| call_error(&Case { out: Tensor::filled(shape, Layout::HeadsFirst, MARKER), ..fitting() });
    assert_eq!(error(Shape { batch: 1, ..shape }), mismatch(Operand::Output, Axis::Batch, 2, 1));
    assert_eq!(error(Shape { heads: 2, ..shape }), mismatch(Operand::Output, Axis::Heads, 4, 2));
    assert_eq!(error(Shape { len: 7, ..shape }), mismatch(Operand::Output, Axis::Len, 6, 7));
    assert_eq!(error(Shape { dim: 3, ..shape }), mismatch(Operand::Output, Axis::Dim, 5, 3));
}

#[test]
fn heads_not_divisible() {
    let error = |q_heads, kv_heads| call_error(&Plan { q_heads, kv_heads, ..Plan::new([6, 7], [3, 5]) }.case());
    for (q_heads, kv_heads) in [(4, 3), (2, 4), (1, 2), (3, 0)] {
        assert_eq!(error(q_heads, kv_heads), Error::HeadsNotDivisible { q_heads, kv_heads });
    }
}

#[test]
fn scale_not_finite() {
    for scale in [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f32::MAX.into(), f32::MIN.into(), 2.4e38] {
        let error = call_error(&fitting().with(|case| case.modifiers.scale = Some(scale)));
        assert_eq!(error, Error::ScaleNotFinite { scale });
    }
    let error = call_error(&fitting().with(|case| case.modifiers.scale = Some(f64::NAN)));
    assert!(matches!(error, Error::ScaleNotFinite { scale } if scale.is_nan()));
}

/// The shape of the fitting call's scores.
const MATRIX: Shape = Shape { batch: 2, heads: 4, len: 6, dim: 7 };

/// Each axis with an extent that is wrong, and is not repeated.
fn wrong_shapes(right: Shape) -> [(Axis, usize, usize, Shape); 4] {
    let Shape { batch, heads, len, dim } = right;
    [
        (Axis::Batch, batch, batch + 1, Shape { batch: batch + 1, ..right }),
        (Axis::Heads, heads, heads - 1, Shape { heads: heads - 1, ..right }),
        (Axis::Len, len, len + 1, Shape { len: len + 1, ..right }),
        (Axis::Dim, dim, dim + 1, Shape { dim: dim + 1, ..right }),
    ]
}

fn bools(shape: Shape, block: [usize; 2]) -> Grid {
    Grid { elements: Elements::Bools(Tensor::filled(shape, Layout::HeadsFirst, true)), block }
}

fn bits(shape: Shape, block: [usize; 2]) -> Grid {
    Grid { elements: Elements::Bits(Tensor::filled(shape, Layout::HeadsFirst, 255)), block }
}

#[track_caller]
fn pattern_error(change: impl FnOnce(&mut Pattern)) -> Error {
    call_error(&fitting().with(|case| change(&mut case.pattern)))
}

#[track_caller]
fn modifier_error(change: impl FnOnce(&mut Modifiers)) -> Error {
    call_error(&fitting().with(|case| change(&mut case.modifiers)))
}

#[test]
fn shape_mismatch_of_masks() {
    let of_bits = Shape { dim: 1, ..MATRIX };
    let blocks = Shape { len: 2, dim: 3, ..MATRIX };
    let grids: [(Shape, &dyn Fn(Shape) -> Grid); 4] = [
        (MATRIX, &|shape| bools(shape, [1, 1])),
        (of_bits, &|shape| bits(shape, [1, 1])),
        (blocks, &|shape| bools(shape, [4, 3])),
        (Shape { dim: 1, ..blocks }, &|shape| bits(shape, [4, 3])),
    ];
    for (right, grid) in grids {
        for (axis, expected, actual, shape) in wrong_shapes(right) {
            let error = pattern_error(|pattern| pattern.mask = Some(grid(shape)));
            assert_eq!(error, mismatch(Operand::Mask, axis, expected, actual));
            let error = pattern_error(|pattern| pattern.block_mask = Some(grid(shape)));
            assert_eq!(error, mismatch(Operand::BlockMask, axis, expected, actual));
        }
    }
}

/// Extents of one are repeated, but for bytes along the keys.
#[test]
fn what_is_one_is_repeated() {
    let one = Shape { batch: 1, heads: 1, len: 1, dim: 1 };
    for shape in [one, Shape { dim: 7, ..one }, Shape { len: 6, ..one }, Shape { heads: 4, ..one }, MATRIX] {
        let case = fitting().with(|case| {
            case.pattern.mask = Some(bools(shape, [1, 1]));
            case.pattern.block_mask = Some(bits(Shape { dim: 1, ..shape }, [1, 1]));
            case.modifiers.bias = Some(Tensor::filled(shape, Layout::HeadsFirst, 0.0));
        });
        assert_eq!(case.try_reference().err(), None, "{shape:?}");
    }
    let long = Plan::new([3, 20], [2, 2]).case().with(|case| case.pattern.mask = Some(bits(one, [1, 1])));
    assert_eq!(call_error(&long), mismatch(Operand::Mask, Axis::Dim, 3, 1));
}

#[test]
fn zero_block() {
    for block in [[0, 1], [1, 0], [0, 0]] {
        assert_eq!(pattern_error(|pattern| pattern.mask = Some(bools(MATRIX, block))), Error::ZeroBlock);
        assert_eq!(pattern_error(|pattern| pattern.block_mask = Some(bits(MATRIX, block))), Error::ZeroBlock);
    }
}

#[test]
fn shape_mismatch_of_the_bias() {
    for (axis, expected, actual, shape) in wrong_shapes(MATRIX) {
        let error = modifier_error(|modifiers| modifiers.bias = Some(zeros(shape)));
        assert_eq!(error, mismatch(Operand::Bias, axis, expected, actual));
    }
}

/// Nothing that is written is repeated.
#[test]
fn shape_mismatch_of_the_scores() {
    let once = [
        (Axis::Batch, 2, 1, Shape { batch: 1, ..MATRIX }),
        (Axis::Heads, 4, 1, Shape { heads: 1, ..MATRIX }),
        (Axis::Len, 6, 1, Shape { len: 1, ..MATRIX }),
        (Axis::Dim, 7, 1, Shape { dim: 1, ..MATRIX }),
    ];
    for (axis, expected, actual, shape) in wrong_shapes(MATRIX).into_iter().chain(once) {
        for stage in [Stage::Scaled, Stage::Capped, Stage::Masked, Stage::Weights] {
            let scores = Tensor::filled(shape, Layout::HeadsFirst, MARKER);
            let error = call_error(&fitting().with(|case| case.scores = Some((stage, scores))));
            assert_eq!(error, mismatch(Operand::Scores, axis, expected, actual));
        }
    }
}

#[test]
fn lengths_of_slopes_and_sinks() {
    for actual in [0, 1, 3, 5] {
        let error = modifier_error(|modifiers| modifiers.alibi_slopes = Some(vec![0.0; actual]));
        assert_eq!(error, Error::LengthMismatch { operand: Operand::AlibiSlopes, expected: 4, actual });
        let error = modifier_error(|modifiers| modifiers.sinks = Some(vec![0.0; actual]));
        assert_eq!(error, Error::LengthMismatch { operand: Operand::Sinks, expected: 4, actual });
    }
}

#[test]
fn softcap_not_positive() {
    for softcap in [0.0, -0.0, -1.0, f64::MIN, 2.4e38, f64::MAX, f64::INFINITY, f64::NEG_INFINITY] {
        let error = modifier_error(|modifiers| modifiers.softcap = Some(softcap));
        assert_eq!(error, Error::SoftcapNotPositive { softcap });
    }
    let error = modifier_error(|modifiers| modifiers.softcap = Some(f64::NAN));
    assert!(matches!(error, Error::SoftcapNotPositive { softcap } if softcap.is_nan()));
}

#[test]
fn slopes_and_sinks_not_finite() {
    let with = |number| vec![0.5, -1e30, number, f32::NAN];
    for number in [f32::INFINITY, f32::MAX, 2.4e38] {
        let error = modifier_error(|modifiers| modifiers.alibi_slopes = Some(with(number)));
        assert_eq!(error, Error::SlopeNotFinite { head: 2, slope: number });
        let error = modifier_error(|modifiers| modifiers.alibi_slopes = Some(with(-number)));
        assert_eq!(error, Error::SlopeNotFinite { head: 2, slope: -number });
        let error = modifier_error(|modifiers| modifiers.sinks = Some(with(number)));
        assert_eq!(error, Error::SinkNotFinite { head: 2, sink: number });
    }
    // What is but far below zero is a sink that takes no weight.
    for number in [2.3e38, f32::NEG_INFINITY, f32::MIN] {
        let error = modifier_error(|modifiers| modifiers.sinks = Some(with(number)));
        assert!(matches!(error, Error::SinkNotFinite { head: 3, sink } if sink.is_nan()));
    }
    let error = modifier_error(|modifiers| modifiers.alibi_slopes = Some(with(2.3e38)));
    assert!(matches!(error, Error::SlopeNotFinite { head: 3, slope } if slope.is_nan()));
}

/// A scale that is fine by itself, but not over the softcap.
#[test]
fn scale_overflows_over_the_softcap() {
    for (scale, softcap) in [(1e30, 1e-30), (-1e30, 1e-30), (10.0, f32::MIN_POSITIVE.into())] {
        let error = modifier_error(|modifiers| {
            modifiers.scale = Some(scale);
            modifiers.softcap = Some(softcap);
        });
        assert_eq!(error, Error::ScaleNotFinite { scale });
    }
}

#[test]
fn scale_vanishes() {
    for (scale, softcap) in [(1e-60, None), (-1e-60, None), (1e-30, Some(1e30)), (-1e-30, Some(1e30))] {
        let error = modifier_error(|modifiers| {
            modifiers.scale = Some(scale);
            modifiers.softcap = softcap;
        });
        assert_eq!(error, Error::ScaleVanishes { scale });
    }
}

#[test]
fn key_lens() {
    for actual in [0, 1, 3] {
        let error = pattern_error(|pattern| pattern.lens = Some(vec![0; actual]));
        assert_eq!(error, Error::LengthMismatch { operand: Operand::KeyLens, expected: 2, actual });
    }
    for (lens, sequence, actual) in [([8, 0], 0, 8), ([7, 8], 1, 8), ([0, usize::MAX], 1, usize::MAX)] {
        let error = pattern_error(|pattern| pattern.lens = Some(lens.to_vec()));
        assert_eq!(error, Error::TooManyKeys { sequence, room: 7, actual });
    }
}

/// Six queries, seven keys, and where sequences begin and end among them.
fn packed(queries: &[usize], keys: &[usize]) -> Case {
    let case = Plan { q_heads: 4, kv_heads: 2, ..Plan::new([6, 7], [3, 5]) }.case();
    case.with(|case| case.pattern.packed = Some([queries.to_vec(), keys.to_vec()]))
}

#[test]
fn packed_sequences() {
    assert_eq!(packed(&[0, 6], &[0, 7]).try_reference().err(), None);
    let error = |queries: &[usize], keys: &[usize]| call_error(&packed(queries, keys));
    assert_eq!(error(&[0, 2, 6], &[0, 7]), Error::LengthMismatch { operand: Operand::Key, expected: 3, actual: 2 });
    let decrease = |operand, sequence, start, end| Error::CumulativeLensDecrease { operand, sequence, start, end };
    assert_eq!(error(&[0, 4, 3, 6], &[0, 1, 2, 7]), decrease(Operand::Query, 1, 4, 3));
    assert_eq!(error(&[0, 1, 2, 6], &[0, 5, 7, 6]), decrease(Operand::Key, 2, 7, 6));
    assert_eq!(error(&[9, 0], &[0, 7]), decrease(Operand::Query, 0, 9, 0));
    let too_long = |operand, len, end| Error::CumulativeLensTooLong { operand, len, end };
    assert_eq!(error(&[0, 7], &[0, 7]), too_long(Operand::Query, 6, 7));
    assert_eq!(error(&[0, 6], &[0, 8]), too_long(Operand::Key, 7, 8));
    assert_eq!(error(&[7], &[7]), too_long(Operand::Query, 6, 7));
    assert_eq!(error(&[0, 6], &[0, usize::MAX]), too_long(Operand::Key, 7, usize::MAX));

    let several = pattern_error(|pattern| pattern.packed = Some([vec![0, 6], vec![0, 7]]));
    assert_eq!(several, mismatch(Operand::Query, Axis::Batch, 1, 2));
}

#[test]
fn key_lens_of_packed_sequences() {
    let error = |lens: &[usize]| {
        call_error(&packed(&[0, 2, 6], &[0, 4, 7]).with(|case| case.pattern.lens = Some(lens.to_vec())))
    };
    assert_eq!(error(&[1]), Error::LengthMismatch { operand: Operand::KeyLens, expected: 2, actual: 1 });
    assert_eq!(error(&[4, 4]), Error::TooManyKeys { sequence: 1, room: 3, actual: 4 });
    assert_eq!(error(&[5, 3]), Error::TooManyKeys { sequence: 0, room: 4, actual: 5 });
}

#[test]
fn lse_length() {
    let case = fitting();
    for actual in [0, 1, 47, 49] {
        let mut answer = Answer { lse: vec![MARKER; actual], ..case.blank() };
        for backend in backends() {
            let error = case.prepare(backend, &mut answer).err();
            assert_eq!(error, Some(Error::LengthMismatch { operand: Operand::LogSumExp, expected: 48, actual }));
            assert_unwritten(&answer);
        }
        let (mut out, mut lse) = (case.reference().out, vec![0.0; actual]);
        let (q, kv, out) = (case.q.view().unwrap(), case.kv().unwrap(), out.view_mut().unwrap());
        let error = reference::forward(&Attention::new(), q, kv, Output::new(out).lse(&mut lse));
        assert_eq!(error, Err(Error::LengthMismatch { operand: Operand::LogSumExp, expected: 48, actual }));
    }
}

#[test]
fn scratch_too_short() {
    let case = fitting();
    let required = scratch_len(3, 5);
    for backend in backends() {
        for actual in [0, 1, required - 1] {
            let mut answer = case.blank();
            let work = case.prepare(backend, &mut answer).unwrap();
            let error = Err(Error::ScratchTooShort { required, actual });
            assert_eq!(work.run(&mut vec![0.0; actual]), error);
            #[cfg(feature = "rayon")]
            assert_eq!(work.run_parallel(&mut vec![0.0; actual]), error);
            assert_unwritten(&answer);

            assert_eq!(case.forward(backend, &mut answer, &mut vec![0.0; actual]), error);
            assert_unwritten(&answer);
        }
    }
}

/// A call that failed for want of scratch has taken no work from those that follow.
#[test]
fn projection_does_not_fit() {
    // Queries of 3 elements, keys of 5.
    let error = |function| {
        let plan = Plan {
            batch: 2,
            q_heads: 4,
            kv_heads: 2,
            function: FunctionKind::Bilinear(3),
            ..Plan::new([6, 7], [5, 2])
        };
        call_error(&plan.case().with(|case| case.function = function))
    };
    let weights = |[batch, heads, len, dim]: [usize; 4]| {
        Tensor::filled(Shape { batch, heads, len, dim }, Layout::HeadsFirst, 0.0)
    };
    let projection = |axis, expected, actual| mismatch(Operand::Weights, axis, expected, actual);
    let bilinear = |extents| error(Function::Bilinear(weights(extents)));
    assert_eq!(bilinear([3, 1, 3, 5]), projection(Axis::Batch, 2, 3));
    assert_eq!(bilinear([2, 2, 3, 5]), projection(Axis::Heads, 4, 2));
    assert_eq!(bilinear([1, 1, 5, 3]), projection(Axis::Len, 3, 5));
    assert_eq!(bilinear([1, 1, 3, 4]), mismatch(Operand::Key, Axis::Dim, 4, 5));

    let additive = |v: usize, extents: Option<_>| error(Function::Additive(vec![0.0; v], extents.map(weights)));
    assert_eq!(additive(5, Some([1, 1, 3, 5])), projection(Axis::Dim, 3, 5));
    assert_eq!(additive(5, Some([1, 1, 4, 3])), projection(Axis::Len, 5, 4));
    assert_eq!(additive(4, Some([1, 1, 4, 3])), mismatch(Operand::Key, Axis::Dim, 4, 5));
    assert_eq!(additive(5, None), mismatch(Operand::Query, Axis::Dim, 5, 3));
    assert_eq!(error(Function::Dot), mismatch(Operand::Key, Axis::Dim, 3, 5));
}

#[test]
fn scratch_too_short_leaves_the_work_whole() {
    let case = fitting();
    for backend in backends() {
        let mut answer = case.blank();
        let work = case.prepare(backend, &mut answer).unwrap();
        work.run(&mut []).unwrap_err();
        work.run(&mut vec![0.0; work.scratch_len()]).unwrap();
        assert_eq!(answer.out.data, case.run(backend).out.data);
    }
}

/// Where there is such a backend: on another CPU, or under an emulator of one.
#[test]
fn backend_unavailable() {
    for backend in Backend::ALL.into_iter().filter(|backend| !backend.is_available()) {
        assert_eq!(backend_error(&fitting(), backend), Error::BackendUnavailable { backend });
    }
}

/// Every field's number, and the names of operand and axis, are in the message.
#[test]
fn messages_name_what_is_wrong() {
    for (error, parts) in [
        (Error::StorageTooShort { required: 120, actual: 119 }, &["120", "119"][..]),
        (Error::SizeOverflow { shape: SHAPE }, &["batch: 2", "heads: 3", "len: 4", "dim: 5"]),
        (Error::ZeroDim, &["head_dim", "value_dim", "1"]),
        (Error::OverlappingRows { axis: Axis::Len, required: 15, actual: 14 }, &["Len", "15", "14"]),
        (mismatch(Operand::Key, Axis::Dim, 31, 32), &["Key", "Dim", "31", "32"]),
        (Error::HeadsNotDivisible { q_heads: 7, kv_heads: 3 }, &["7", "3"]),
        (Error::DimNotDivisible { operand: Operand::Value, dim: 31, heads: 4 }, &["Value", "31", "4"]),
        (Error::ScaleNotFinite { scale: f64::INFINITY }, &["scale", "inf"]),
        (Error::ScaleVanishes { scale: 0.5 }, &["scale", "0.5", "zero"]),
        (Error::LengthMismatch { operand: Operand::LogSumExp, expected: 48, actual: 47 }, &["LogSumExp", "48", "47"]),
        (mismatch(Operand::BlockMask, Axis::Len, 31, 32), &["BlockMask", "Len", "31", "32"]),
        (mismatch(Operand::Scores, Axis::Batch, 31, 32), &["Scores", "Batch", "31", "32"]),
        (Error::SoftcapNotPositive { softcap: -2.5 }, &["softcap", "-2.5"]),
        (Error::SlopeNotFinite { head: 3, slope: f32::INFINITY }, &["slope", "inf", "head 3"]),
        (Error::SinkNotFinite { head: 3, sink: f32::INFINITY }, &["sink", "inf", "head 3"]),
        (Error::ZeroBlock, &["block", "1 query", "1 key"]),
        (Error::TooManyKeys { sequence: 3, room: 20, actual: 21 }, &["sequence 3", "20", "21"]),
        (
            Error::CumulativeLensDecrease { operand: Operand::Key, sequence: 3, start: 20, end: 19 },
            &["Key", "sequence 3", "20", "19"],
        ),
        (Error::CumulativeLensTooLong { operand: Operand::Query, len: 20, end: 21 }, &["Query", "20", "21"]),
        (Error::ScratchTooShort { required: 1000, actual: 999 }, &["1000", "999"]),
        (Error::BackendUnavailable { backend: Backend::Avx512 }, &["avx512"]),
    ] {
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
        assert!(!message.ends_with('.') && !message.contains('\n'), "{message:?}");
        let _: &dyn core::error::Error = &error;
    }
}

/// One row may say that the next one is any distance away.
#[test]
fn a_row_by_itself_has_no_neighbours() {
    let (data, q) = ([1f32; 64], [0f32; 40 * 64]);
    let far = Strides { batch: usize::MAX, heads: usize::MAX, len: usize::MAX };
    for (backend, q_len) in backends().flat_map(|backend| [1, 5, 40].map(|q_len| (backend, q_len))) {
        let row = View::strided(&data, Shape { batch: 1, heads: 1, len: 1, dim: 64 }, far).unwrap();
        let (mut out, mut scratch) = ([0f32; 40 * 64], [0.0; scratch_len(64, 64)]);
        let q = View::matrix(&q, [q_len, 64]).unwrap();
        let values = ViewMut::matrix(&mut out, [q_len, 64]).unwrap();
        Attention::new().backend(backend).forward(q, Kv::new(row, row).unwrap(), values, &mut scratch).unwrap();
        assert!(out[..q_len * 64].iter().all(|x| *x == 1.0), "{backend}, {q_len}");
    }
}

/// Sizes that no storage bounds, as there are no rows, overflow nothing, and take no time.
#[test]
fn endless_shapes_without_rows() {
    let nowhere = Strides { batch: 0, heads: 0, len: 0 };
    for (batch, heads, len) in
        [(usize::MAX, 0, 1), (usize::MAX, 1, 0), (1, usize::MAX, 0), (0, usize::MAX, 1), (0, usize::MAX, usize::MAX)]
    {
        let shape = Shape { batch, heads, len, dim: 1 };
        let (q, nothing) = (View::<f32>::strided(&[], shape, nowhere).unwrap(), &mut [0f32; 0]);
        let out = ViewMut::strided(nothing, shape, nowhere).unwrap();
        let kv = Kv::new(q, q).unwrap();
        assert_eq!(Attention::new().forward(q, kv, out, &mut [0.0; scratch_len(1, 1)]), Ok(()), "{shape:?}");
        let mut out = [0f64; 0];
        let out = ViewMut::strided(&mut out, shape, nowhere).unwrap();
        assert_eq!(reference::forward(&Attention::new(), q, kv, out), Ok(()), "{shape:?}");
        let out = ViewMut::<f32>::strided(&mut [], shape, nowhere).unwrap();
        assert_eq!(merge(out, &mut [], q, &[]), Ok(()), "{shape:?}");
    }
    let lens = [1, 2, 1 << (usize::BITS - 2), 1 << (usize::BITS - 1), usize::MAX - 1, usize::MAX];
    for [q_len, kv_len] in lens.iter().flat_map(|q_len| lens.map(|kv_len| [*q_len, kv_len])) {
        let shape = |len| Shape { batch: 0, heads: 1, len, dim: 1 };
        let (mut out, nothing) = ([0.0; 0], [0.0; 0]);
        let view = |len| View::strided(&nothing, shape(len), nowhere).unwrap();
        let kv = Kv::new(view(kv_len), view(kv_len)).unwrap();
        let out = ViewMut::strided(&mut out, shape(q_len), nowhere).unwrap();
        let result = Attention::new().causal().forward(view(q_len), kv, out, &mut [0.0; scratch_len(1, 1)]);
        assert_eq!(result, Ok(()), "{q_len} x {kv_len}");
    }
}
