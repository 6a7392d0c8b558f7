//! Rows appended to caches of every type, in pages and not, and the error of quantising them.

use crate::common::{Content, Layout, Random, Tensor};
use half::{bf16, f16};
use simd_attention::{
    Attention, Axis, CacheMut, Error, Float, Kv, KvMut, Operand, Quantized, Shape, View, ViewMut, cache_scratch_len,
    quantize,
};

fn random(shape: Shape, seed: u64) -> Tensor<f32> {
    Tensor::random(shape, Layout::HeadsFirst, Content::Normal(1.0), &mut Random::new(seed))
}

const ROWS: Shape = Shape { batch: 2, heads: 3, len: 4, dim: 6 };

/// Where each row of the cache comes from: of a sequence, the new rows begin at `at`.
fn expected<T: Float<Sum = f32>>(rows: &Tensor<f32>, at: [usize; 2], room: usize, blank: T) -> Vec<T> {
    let Shape { batch, heads, len, dim } = rows.shape;
    let mut cache = vec![blank; batch * heads * room * dim];
    for row @ [b, h, i] in rows.rows() {
        assert!(i < len);
        let first = ((b * heads + h) * room + at[b] + i) * dim;
        for (to, x) in cache[first..first + dim].iter_mut().zip(rows.row(row)) {
            *to = T::from_f32(*x);
        }
    }
    cache
}

fn contiguous<T: Float<Sum = f32> + PartialEq + core::fmt::Debug>() {
    let (rows, room, at) = (random(ROWS, 1), 9, [5, 0]);
    let blank = T::from_f32(77.0);
    let mut cache = vec![blank; 2 * 3 * room * 6];
    let view = ViewMut::heads_first(&mut cache, [2, 3, room, 6]).unwrap();
    CacheMut::new(view).append(rows.view().unwrap(), &at).unwrap();
    assert_eq!(cache, expected(&rows, at, room, blank));
}

#[test]
fn rows_of_floats() {
    contiguous::<f32>();
    contiguous::<f16>();
    contiguous::<bf16>();
}

/// Tokens that come a few at a time, into pages in disorder, are attended to as all of them at once.
#[test]
fn pages_fill_up() {
    let (page_size, table) = (3, [7, 2, 5, 0, 1, 6, 3, 4]);
    let table = View::matrix(&table, [2, 4]).unwrap();
    let rows = random(Shape { len: 11, ..ROWS }, 2);
    let mut pool = vec![f16::NAN; 8 * page_size * 3 * 6];
    let shape = [8, page_size, 3, 6];
    for (first, len) in [(0, 4), (4, 1), (5, 1), (6, 5)] {
        let new = View::strided(&rows.data[first * 6..], Shape { len, ..rows.shape }, rows.strides).unwrap();
        let pool = ViewMut::tokens_first(&mut pool, shape).unwrap();
        CacheMut::new(pool).pages(table).append(new, &[first; 2]).unwrap();
    }
    let rounded: Vec<f16> = rows.data.iter().map(|x| f16::from_f32(*x)).collect();
    let whole = View::heads_first(&rounded, [2, 3, 11, 6]).unwrap();
    let pool = View::tokens_first(&pool, shape).unwrap();
    let q = random(Shape { len: 1, ..ROWS }, 3);
    let attend = |kv: Kv<'_, f16>| {
        let mut out = vec![0f32; 2 * 3 * 6];
        let view = ViewMut::heads_first(&mut out, [2, 3, 1, 6]).unwrap();
        let mut scratch = [0.0; cache_scratch_len(6, 6)];
        Attention::new().forward(q.view().unwrap(), kv, view, &mut scratch).unwrap();
        out
    };
    let paged = attend(Kv::new(pool, pool).unwrap().pages(table).lens(&[11; 2]));
    assert_eq!(paged, attend(Kv::new(whole, whole).unwrap()));
}

#[test]
fn quantised_rows_with_their_scales() {
    for groups in [1, 2, 3, 6] {
        let rows = random(ROWS, 4);
        let (mut numbers, mut scales) = (vec![9; 2 * 3 * 7 * 6], vec![9.0; 2 * 3 * 7 * groups]);
        let to = ViewMut::heads_first(&mut numbers, [2, 3, 7, 6]).unwrap();
        let to_scales = ViewMut::heads_first(&mut scales, [2, 3, 7, groups]).unwrap();
        CacheMut::quantized(to, to_scales).unwrap().append(rows.view().unwrap(), &[3, 1]).unwrap();
        for row @ [b, h, i] in rows.rows() {
            let at = (b * 3 + h) * 7 + [3, 1][b] + i;
            let (mut expected, mut expected_scales) = ([0; 6], vec![0.0; groups]);
            quantize(rows.row(row), &mut expected, &mut expected_scales).unwrap();
            assert_eq!(
                (&numbers[at * 6..][..6], &scales[at * groups..][..groups]),
                (&expected[..], &expected_scales[..])
            );
        }
        // Of the first sequence, rows 3 to 6 are new.
        for h in 0..3 {
            for i in 0..3 {
                assert_eq!(numbers[(h * 7 + i) * 6..][..6], [9; 6], "head {h}, row {i} is not new");
            }
        }
    }
}

/// The bound that is documented, over all magnitudes.
#[test]
fn quantised_numbers_are_near() {
    let mut random = Random::new(5);
    for content in [Content::Normal(1.0), Content::Mixed, Content::Subnormal, Content::Magnitudes(-149, 127)] {
        for _ in 0..2000 {
            let row: [f32; 24] = core::array::from_fn(|_| content.sample(&mut random));
            for groups in [1, 4, 24] {
                let (mut numbers, mut scales) = ([0; 24], vec![0.0; groups]);
                quantize(&row, &mut numbers, &mut scales).unwrap();
                for ((group, numbers), scale) in row.chunks(24 / groups).zip(numbers.chunks(24 / groups)).zip(scales) {
                    let max = group.iter().fold(0.0f64, |max, x| max.max(f64::from(x.abs())));
                    // Half a step, and what rounding the scale adds up to over 127 of them.
                    let bound = (max / 254.0 * (1.0 + 1e-4)).max(f64::from(f32::MIN_POSITIVE));
                    for (x, number) in group.iter().zip(numbers) {
                        let error = (f64::from(*number) * f64::from(scale) - f64::from(*x)).abs();
                        assert!(error <= bound, "{x} became {number} * {scale}");
                    }
                }
            }
        }
    }
}

/// The largest number there is has a scale with which it does not become infinite.
#[test]
fn the_largest_number_stays_finite() {
    let (mut numbers, mut scales) = ([0; 2], [0f32]);
    quantize(&[f32::MAX, -f32::MAX / 2.0], &mut numbers, &mut scales).unwrap();
    assert_eq!(numbers, [127, -64]);
    assert!((127.0 * scales[0]).is_finite() && 127.0 * scales[0] > 0.999 * f32::MAX, "{scales:?}");
}

#[test]
fn what_is_not_finite_stays_so() {
    let (mut numbers, mut scales) = ([0; 4], [0.0; 2]);
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        quantize(&[1.0, x, 2.0, -2.0], &mut numbers, &mut scales).unwrap();
        assert!(scales[0].is_nan());
        assert_eq!((scales[1], &numbers[2..]), (2.0 / 127.0, &[127, -127][..]));
    }
    quantize(&[0.0; 4], &mut numbers, &mut scales).unwrap();
    assert_eq!((numbers, scales), ([0; 4], [f32::MIN_POSITIVE; 2]));
}

/// Attention to a quantised cache is off by no more than its values are, and what the scores' errors do to the weights.
#[test]
fn attention_to_bytes_is_near() {
    let shape = Shape { batch: 1, heads: 2, len: 500, dim: 64 };
    let (k, v, q) = (random(shape, 6), random(shape, 7), random(Shape { len: 3, ..shape }, 8));
    let quantise = |tensor: &Tensor<f32>| {
        let (mut numbers, mut scales) = (vec![0; tensor.data.len()], vec![0.0; 1000]);
        let view = ViewMut::heads_first(&mut numbers, [1, 2, 500, 64]).unwrap();
        let view_scales = ViewMut::heads_first(&mut scales, [1, 2, 500, 1]).unwrap();
        CacheMut::quantized(view, view_scales).unwrap().append(tensor.view().unwrap(), &[0]).unwrap();
        (numbers, scales)
    };
    let ((k8, ks), (v8, vs)) = (quantise(&k), quantise(&v));
    let quantized = |numbers, scales| {
        let numbers = View::heads_first(numbers, [1, 2, 500, 64])?;
        Quantized::new(numbers, View::heads_first(scales, [1, 2, 500, 1])?)
    };
    let (mut exact, mut near) = (vec![0f32; 2 * 3 * 64], vec![0f32; 2 * 3 * 64]);
    let mut scratch = [0.0; cache_scratch_len(64, 64)];
    let view = |out| ViewMut::heads_first(out, [1, 2, 3, 64]).unwrap();
    let q = q.view().unwrap();
    let kv = Kv::new(k.view().unwrap(), v.view().unwrap()).unwrap();
    Attention::new().forward(q, kv, view(&mut exact), &mut scratch).unwrap();
    let kv = Kv::quantized(quantized(&k8, &ks).unwrap(), quantized(&v8, &vs).unwrap()).unwrap();
    Attention::new().forward(q, kv, view(&mut near), &mut scratch).unwrap();
    // Half a step of values; and of keys, 8 standard errors of sums of 64 terms, over sqrt(64).
    let max = |tensor: &Tensor<f32>| tensor.data.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let score = max(&k) / 254.0 * 8.0;
    let bound = max(&v) / 254.0 + 2.0 * score * max(&v);
    for (near, exact) in near.iter().zip(&exact) {
        assert!((near - exact).abs() <= bound, "{near} is not near {exact}");
    }
}

#[test]
fn errors_come_before_anything_is_written() {
    let append = |rows: [usize; 4], at: &[usize], table: Option<&[u32]>| {
        let mut cache = [0.0; 4 * 3 * 2];
        let view = ViewMut::heads_first(&mut cache, [4, 1, 3, 2]).unwrap();
        let data = [1.0; 64];
        let mut cache_mut = CacheMut::new(view);
        let rows = View::heads_first(&data, rows).unwrap();
        let result = match table {
            None => cache_mut.append(rows, at),
            Some(table) => cache_mut.pages(View::matrix(table, [2, 2]).unwrap()).append(rows, at),
        };
        assert!(result.is_ok() || cache == [0.0; 4 * 3 * 2], "wrote before the error");
        result
    };
    let mismatch =
        |axis, expected, actual| Err(Error::ShapeMismatch { operand: Operand::NewRows, axis, expected, actual });
    assert_eq!(append([4, 1, 3, 2], &[0; 4], None), Ok(()));
    assert_eq!(append([2, 1, 3, 2], &[0; 2], None), mismatch(Axis::Batch, 4, 2));
    assert_eq!(append([4, 2, 3, 2], &[0; 4], None), mismatch(Axis::Heads, 1, 2));
    assert_eq!(append([4, 1, 3, 1], &[0; 4], None), mismatch(Axis::Dim, 2, 1));
    let places = Error::LengthMismatch { operand: Operand::Places, expected: 4, actual: 3 };
    assert_eq!(append([4, 1, 3, 2], &[0; 3], None), Err(places));
    let full = |sequence, room, actual| Err(Error::TooManyKeys { sequence, room, actual });
    assert_eq!(append([4, 1, 2, 2], &[0, 1, 1, 2], None), full(3, 3, 4));
    assert_eq!(append([4, 1, 2, 2], &[0, usize::MAX, 1, 2], None), full(1, 3, usize::MAX));
    assert_eq!(append([2, 1, 3, 2], &[3, 3], Some(&[9, 3, 9, 0])), Ok(()));
    assert_eq!(append([2, 1, 3, 2], &[3, 4], Some(&[9, 3, 9, 0])), full(1, 6, 7));
    let (numbers, at) = (View::matrix(&[0], [1, 1]).unwrap(), [usize::MAX]);
    let endless = ViewMut::<f32>::heads_first(&mut [], [0, 1, usize::MAX, 1]).unwrap();
    let beyond = CacheMut::new(endless).pages(numbers).append(View::matrix(&[1f32; 2], [2, 1]).unwrap(), &at);
    assert_eq!(beyond, Err(Error::SizeOverflow { shape: numbers.shape() }));
    let missing = Err(Error::NoSuchPage { sequence: 1, index: 0, page: 9, pages: 4 });
    assert_eq!(append([2, 1, 3, 2], &[3, 2], Some(&[9, 3, 9, 0])), missing);
}

/// If there is room for the keys and none for the values, neither is written.
#[test]
fn keys_and_values_are_written_both_or_not_at_all() {
    let append = |room: [usize; 2], new: [[usize; 2]; 2], at: usize| {
        let (mut keys, mut values, data) = ([0.0; 16], [0.0; 16], [1.0; 16]);
        let result = {
            let to_keys = CacheMut::new(ViewMut::matrix(&mut keys, [room[0], 2]).unwrap());
            let to_values = CacheMut::new(ViewMut::matrix(&mut values, [room[1], 3]).unwrap());
            let [new_keys, new_values] = new.map(|shape| View::matrix(&data, shape).unwrap());
            KvMut::new(to_keys, to_values).append(new_keys, new_values, &[at])
        };
        let written = [&keys[..], &values[..]].map(|cache| cache.iter().filter(|x| **x == 1.0).count());
        assert_eq!(written, if result.is_ok() { [4, 6] } else { [0; 2] });
        result
    };
    let mismatch = |axis, [expected, actual]: [usize; 2]| {
        Err(Error::ShapeMismatch { operand: Operand::NewRows, axis, expected, actual })
    };
    assert_eq!(append([5, 5], [[2, 2], [2, 3]], 3), Ok(()));
    assert_eq!(append([5, 5], [[2, 2], [1, 3]], 3), mismatch(Axis::Len, [2, 1]));
    assert_eq!(append([5, 5], [[2, 1], [2, 3]], 3), mismatch(Axis::Dim, [2, 1]));
    assert_eq!(append([5, 5], [[2, 2], [2, 2]], 3), mismatch(Axis::Dim, [3, 2]));
    let full = |room| Err(Error::TooManyKeys { sequence: 0, room, actual: 5 });
    assert_eq!(append([5, 4], [[2, 2], [2, 3]], 3), full(4));
    assert_eq!(append([3, 5], [[2, 2], [2, 3]], 3), full(3));
}

#[test]
fn groups_and_lengths_that_do_not_fit() {
    let (mut numbers, mut scales) = ([0; 6], [0.0; 4]);
    assert_eq!(quantize(&[1.0; 6], &mut numbers, &mut scales), Err(Error::GroupsNotDivisible { dim: 6, groups: 4 }));
    let length = Error::LengthMismatch { operand: Operand::Output, expected: 5, actual: 6 };
    assert_eq!(quantize(&[1.0; 5], &mut numbers, &mut scales[..1]), Err(length));
    assert_eq!(quantize(&[1.0; 6], &mut numbers, &mut []), Err(Error::GroupsNotDivisible { dim: 6, groups: 0 }));
}
