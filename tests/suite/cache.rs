//! Keys and values of every type of elements, in pages and not.

use crate::common::{
    Band, BiasPlan, Cache, Content, FunctionKind, GARBAGE, GridPlan, Kind, Lens, Plan, assert_same, assert_same_row,
    backends, check, has_i8_pairs,
};
use half::{bf16, f16};
use simd_attention::{
    Attention, Backend, Element, Error, Float, Kv, Operand, Quantized, Shape, Stage, Strides, View, ViewMut,
    cache_scratch_len, scratch_len,
};

/// All kinds, in pages of several sizes and without.
fn caches() -> impl Iterator<Item = Cache> {
    let page_sizes = [None, Some(1), Some(3), Some(16), Some(100)];
    Kind::ALL.into_iter().flat_map(move |kind| page_sizes.map(|page_size| Cache { kind, page_size }))
}

#[test]
fn few_and_many_queries() {
    for cache in caches() {
        for (q_heads, q_len) in [(2, 1), (6, 1), (16, 1), (2, 5), (2, 40)] {
            for batch_invariant in [false, true] {
                let plan =
                    Plan { batch: 2, q_heads, kv_heads: 2, batch_invariant, ..Plan::new([q_len, 300], [20, 12]) };
                check(&Plan { cache, ..plan });
                check(&Plan { cache, band: Band::window(Some(70), Some(0)), lens: Lens::Random, ..plan });
            }
        }
    }
}

#[test]
fn dimensions_about_vectors() {
    for kind in Kind::ALL {
        for dim in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200] {
            for q_len in [1, 3, 20] {
                check(&Plan { cache: Cache::of(kind), ..Plan::new([q_len, 40], [dim, 2]) });
                check(&Plan { cache: Cache::of(kind), ..Plan::new([q_len, 40], [2, dim]) });
            }
        }
    }
}

#[test]
fn lengths_about_tiles_and_pages() {
    for kv_len in [1, 15, 16, 17, 63, 64, 65, 80, 96, 97, 128, 255, 256, 257, 320, 512, 1024] {
        for page_size in [1, 2, 16, 64, 128, 256] {
            for q_len in [1, 20] {
                let cache = Cache { kind: Kind::F32, page_size: Some(page_size) };
                check(&Plan { cache, ..Plan::new([q_len, kv_len], [9, 5]) });
            }
        }
    }
}

/// Everything that is done to scores, and the scores themselves at each stage.
#[test]
fn with_masks_modifiers_and_scores() {
    let own = Content::Normal(1.0);
    for cache in caches() {
        for q_len in [1, 18] {
            let plan = Plan { cache, q_heads: 4, kv_heads: 2, ..Plan::new([q_len, 150], [16, 8]) };
            check(&Plan { mask: Some(GridPlan::HALF), softcap: Some(5.0), bias: Some(BiasPlan::new(own)), ..plan });
            check(&Plan { alibi_slopes: Some(own), sinks: Some(own), packed: Some(3), ..plan });
            check(&Plan { function: FunctionKind::Bilinear(7), ..plan });
            check(&Plan { function: FunctionKind::Distance, ..plan });
            for stage in [Stage::Scaled, Stage::Capped, Stage::Masked, Stage::Weights] {
                check(&Plan { scores: Some((stage, crate::common::Layout::HeadsFirst)), lens: Lens::Random, ..plan });
            }
        }
    }
}

/// Whatever keeps the same numbers gives the same bits.
#[test]
fn pages_change_no_bit_nor_do_types() {
    let shapes = [[4, 2, 24, 20], [4, 1, 64, 160], [1, 1, 160, 160], [4, 1, 32, 28]];
    let ways = [(1, false), (1, true), (30, false)].into_iter().flat_map(|way| shapes.map(|shape| (way, shape)));
    for ((q_len, batch_invariant), [q_heads, kv_heads, dim, value_dim]) in ways {
        let kv_len = if dim > 24 { 700 } else { 320 };
        let plan = Plan { q_heads, kv_heads, batch_invariant, ..Plan::new([q_len, kv_len], [dim, value_dim]) };
        for kind in Kind::ALL {
            let kept = Plan { cache: Cache::of(kind), ..plan }.case();
            for backend in backends() {
                let expected = kept.run(backend);
                for page_size in [1, 7, 16, 64, 320] {
                    let cache = Cache { kind, page_size: Some(page_size) };
                    let paged = kept.clone().with(|case| case.cache = cache);
                    assert_same(&format!("{backend}, {cache:?}"), &paged.run(backend), &expected);
                }
                // Several scales a row are multiplied a tile at a time, and the softmax goes on from tile to tile; with single ones, queries are rounded
                // where there are pairs of integers.
                let is_of_bytes = matches!(kind, Kind::I8(_));
                if is_of_bytes && q_len == 1 && !batch_invariant && (kind != Kind::I8(1) || has_i8_pairs(backend)) {
                    continue;
                }
                // Bytes times scales, which are powers of two here, are rounded as numbers are.
                let plain = kept.clone().with(|case| case.cache = Cache::PLAIN);
                assert_same(&format!("{backend}, {kind:?}"), &plain.run(backend), &expected);
            }
        }
    }
}

/// A row does not depend on what it does not see, nor on what is asked for besides.
#[test]
fn masked_garbage_is_not_observed() {
    for cache in caches() {
        for (q_len, value_dim) in [(1, 16), (2, 144), (20, 16)] {
            for batch_invariant in [false, true] {
                let plan = Plan {
                    cache,
                    q_heads: 2,
                    band: Band::CAUSAL,
                    lens: Lens::Random,
                    mask: Some(GridPlan::HALF),
                    batch_invariant,
                    ..Plan::new([q_len, 96], [16, value_dim])
                };
                let case = plan.case();
                let [sequence] = &case.sequences()[..] else { panic!("one sequence") };
                for backend in backends() {
                    let expected = case.run(backend);
                    for garbage in GARBAGE {
                        let row = [0, 1, q_len / 2];
                        let spoilt = case.spoilt(sequence, row, garbage).run(backend);
                        assert_same_row(
                            &format!("{backend}, {}, {garbage}", case.name),
                            (&spoilt, row),
                            (&expected, row),
                        );
                    }
                }
            }
        }
    }
}

/// What attention to a single key gives is its value.
fn value<T: Element<Sum = f32>>(backend: Backend, kv: Kv<'_, T>, q_len: usize) -> Vec<f32> {
    let dim = kv.values().shape().dim;
    let (q, mut out) = (vec![0f32; q_len], vec![0f32; q_len * dim]);
    let mut scratch = vec![f32::NAN; cache_scratch_len(1, dim)];
    let out_view = ViewMut::matrix(&mut out, [q_len, dim]).unwrap();
    let q = View::matrix(&q, [q_len, 1]).unwrap();
    Attention::new().backend(backend).forward(q, kv, out_view, &mut scratch).unwrap();
    out.split_off((q_len - 1) * dim)
}

fn every_number<T: Float<Sum = f32>>(numbers: &[T]) {
    for backend in backends() {
        for q_len in [1, 20] {
            for numbers in numbers.chunks(37) {
                let (key, dim) = ([T::from_f32(0.0)], numbers.len());
                let kv =
                    Kv::new(View::matrix(&key, [1, 1]).unwrap(), View::matrix(numbers, [1, dim]).unwrap()).unwrap();
                for (actual, expected) in value(backend, kv, q_len).into_iter().zip(numbers) {
                    let expected = expected.to_f32();
                    assert!(
                        actual == expected || actual.is_nan() && expected.is_nan(),
                        "{backend}: {actual}, {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_f16() {
    every_number(&(0..=u16::MAX).map(f16::from_bits).collect::<Vec<_>>());
}

#[test]
fn every_bf16() {
    // All signs and exponents, and all fractions of one.
    let exponents = (0..=u16::MAX).filter(|bits| matches!(bits & 0x7f, 0 | 1 | 0x55 | 0x7f) || bits & 0x7f80 == 0x3f80);
    every_number(&exponents.map(bf16::from_bits).collect::<Vec<_>>());
}

#[test]
fn every_byte() {
    let numbers: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    for (groups, scales) in [(1, &[0.5][..]), (4, &[0.5, -2.0, 1e-3, 0.0]), (256, &[3.0; 256])] {
        let values =
            Quantized::new(View::matrix(&numbers, [1, 256]).unwrap(), View::matrix(scales, [1, groups]).unwrap());
        let keys = Quantized::new(View::matrix(&[1], [1, 1]).unwrap(), View::matrix(&[1.0], [1, 1]).unwrap());
        let kv = Kv::quantized(keys.unwrap(), values.unwrap()).unwrap();
        for backend in backends() {
            for q_len in [1, 20] {
                for (i, actual) in value(backend, kv, q_len).into_iter().enumerate() {
                    assert_eq!(actual, f32::from(numbers[i]) * scales[i * groups / 256], "{backend}, {groups} groups");
                }
            }
        }
    }
}

/// Two sequences whose first pages are the same.
#[test]
fn sequences_share_pages() {
    let k: Vec<f32> = (0..5 * 4 * 3).map(|i| (i as f32).sin()).collect();
    let pool = View::heads_first(&k, [5, 1, 4, 3]).unwrap();
    let table = [4, 0, 2, 4, 0, 3];
    let kv = Kv::new(pool, pool).unwrap().pages(View::matrix(&table, [2, 3]).unwrap()).lens(&[11, 9]);
    let q = [0.3f32, -0.7, 1.1];
    for backend in backends() {
        let attention = Attention::new().backend(backend);
        let mut scratch = [0.0; cache_scratch_len(3, 3)];
        let (mut out, mut expected) = ([0f32; 6], [0f32; 6]);
        let both =
            View::strided(&q, Shape { batch: 2, heads: 1, len: 1, dim: 3 }, Strides { batch: 0, heads: 0, len: 3 });
        attention
            .forward(both.unwrap(), kv, ViewMut::heads_first(&mut out, [2, 1, 1, 3]).unwrap(), &mut scratch)
            .unwrap();
        for (s, len) in [11, 9].into_iter().enumerate() {
            let rows: Vec<f32> =
                table[3 * s..3 * s + 3].iter().flat_map(|page| &k[*page as usize * 12..][..12]).copied().collect();
            let rows = View::matrix(&rows, [len, 3]).unwrap();
            let out = ViewMut::matrix(&mut expected[3 * s..3 * s + 3], [1, 3]).unwrap();
            let q = View::matrix(&q, [1, 3]).unwrap();
            attention.forward(q, Kv::new(rows, rows).unwrap(), out, &mut scratch).unwrap();
        }
        assert_eq!(out, expected, "{backend}");
    }
}

mod errors {
    use super::*;

    fn paged(table: &[u32], [rows, columns]: [usize; 2], lens: Option<&[usize]>) -> Result<(), Error> {
        let pool = View::heads_first(&[1f32; 3 * 2 * 4], [3, 1, 4, 2])?;
        let kv = Kv::new(pool, pool)?.pages(View::matrix(table, [rows, columns])?);
        let kv = lens.map_or(kv, |lens| kv.lens(lens));
        let mut out = [0f32; 4];
        let q = View::heads_first(&[0f32; 4], [2, 1, 1, 2])?;
        let out = ViewMut::heads_first(&mut out, [2, 1, 1, 2])?;
        Attention::new().forward(q, kv, out, &mut [0.0; cache_scratch_len(2, 2)])
    }

    #[test]
    fn pages_that_there_are_not() {
        assert_eq!(paged(&[0, 1, 2, 0], [2, 2], None), Ok(()));
        let error = Err(Error::NoSuchPage { sequence: 1, index: 1, page: 3, pages: 3 });
        assert_eq!(paged(&[0, 1, 2, 3], [2, 2], None), error);
        assert_eq!(paged(&[0, 1, 2, 3], [2, 2], Some(&[8, 5])), error);
        assert_eq!(paged(&[0, 1, 2, 3], [2, 2], Some(&[8, 4])), Ok(()));
        assert_eq!(paged(&[9, 9, 9, 9], [2, 2], Some(&[0, 0])), Ok(()));
    }

    #[test]
    fn lengths_beyond_the_pages() {
        let error = Err(Error::TooManyKeys { sequence: 0, room: 8, actual: 9 });
        assert_eq!(paged(&[0, 1, 2, 0], [2, 2], Some(&[9, 1])), error);
    }

    #[test]
    fn tables_of_other_batches() {
        let batch = |actual| {
            let (operand, axis) = (Operand::PageTable, simd_attention::Axis::Len);
            Err(Error::ShapeMismatch { operand, axis, expected: 2, actual })
        };
        assert_eq!(paged(&[0, 1, 2], [3, 1], None), batch(3));
        assert_eq!(paged(&[0, 1, 2], [1, 3], None), batch(1));
    }

    #[test]
    fn groups_that_do_not_divide() {
        let (numbers, scales) = ([0; 6], [1.0; 8]);
        let quantized =
            |groups| Quantized::new(View::matrix(&numbers, [1, 6])?, View::matrix(&scales, [1, groups])?).map(|_| ());
        assert_eq!([1, 2, 3, 6].map(quantized), [Ok(()); 4]);
        assert_eq!(quantized(4), Err(Error::GroupsNotDivisible { dim: 6, groups: 4 }));
        assert_eq!(quantized(8), Err(Error::GroupsNotDivisible { dim: 6, groups: 8 }));
    }

    #[test]
    fn scratch_for_plain_keys_does_not_suffice() {
        let view = View::matrix(&[f16::ZERO; 2], [1, 2]).unwrap();
        let (mut out, mut scratch) = ([0f32; 2], [0.0; scratch_len(2, 2)]);
        let out = ViewMut::matrix(&mut out, [1, 2]).unwrap();
        let q = View::matrix(&[0f32; 2], [1, 2]).unwrap();
        let result = Attention::new().forward(q, Kv::new(view, view).unwrap(), out, &mut scratch);
        let (required, actual) = (cache_scratch_len(2, 2), scratch_len(2, 2));
        assert_eq!(result, Err(Error::ScratchTooShort { required, actual }));
    }
}
