//! Keys and values as a cache keeps them: of any type, in pages or not.

use super::{
    case::Case,
    random::Random,
    tensor::{Layout, Tensor},
};
use core::ops::Range;
use half::{bf16, f16};
use simd_attention::{Element, Error, Float, Kv, Quantized, Shape};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    pub kind: Kind,
    /// The most tokens that a page has, if there are pages: the largest number of them that divides all.
    pub page_size: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    /// With at most so many scales for each row: the largest number of them that divides its elements.
    I8(usize),
}

impl Cache {
    pub const PLAIN: Self = Self { kind: Kind::F32, page_size: None };

    pub const fn of(kind: Kind) -> Self {
        Self { kind, ..Self::PLAIN }
    }
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8(1), Self::I8(4)];

    /// Makes all elements numbers that there are of this kind.
    pub fn round(self, tensor: &mut Tensor<f32>) {
        for row in tensor.rows() {
            let row = tensor.row_mut(row);
            match self {
                Self::F32 => {}
                Self::F16 => row.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
                Self::Bf16 => row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
                Self::I8(groups) => {
                    for group in row.chunks_mut(row.len() / divisor(row.len(), groups)) {
                        let scale = scale(group);
                        group.iter_mut().for_each(|x| *x = (*x / scale).round() * scale);
                    }
                }
            }
        }
    }
}

/// The largest divisor of `n` that is at most `wanted`.
pub fn divisor(n: usize, wanted: usize) -> usize {
    (1..=wanted.clamp(1, n)).rev().find(|d| n.is_multiple_of(*d)).unwrap_or(1)
}

/// A power of two that makes bytes of all, so that what was rounded once stays; what is not finite, where something is not.
pub fn scale(group: &[f32]) -> f32 {
    match group.iter().find(|x| !x.is_finite()) {
        Some(x) => *x,
        None => {
            let max = group.iter().fold(f32::MIN_POSITIVE, |max, x| x.abs().max(max));
            2f32.powi((max / 127.0).log2().ceil() as i32).max(f32::MIN_POSITIVE)
        }
    }
}

/// Keys and values in memory.
pub struct Stored<T> {
    keys: Side<T>,
    values: Side<T>,
    /// A row for each sequence.
    table: Option<Tensor<u32>>,
}

struct Side<T> {
    numbers: Tensor<T>,
    scales: Option<Tensor<f32>>,
}

/// What a cache is made of.
pub trait Kept: Element {
    const FILLER: Self;

    /// A tensor that was rounded to what there is.
    fn keep(tensor: &Tensor<f32>, kind: Kind) -> (Tensor<Self>, Option<Tensor<f32>>);

    fn kv(stored: &Stored<Self>) -> Result<Kv<'_, Self>, Error>;
}

macro_rules! floats {
    ($($type:ty: $filler:expr),*) => {$(
        impl Kept for $type {
            const FILLER: Self = $filler;

            fn keep(tensor: &Tensor<f32>, _: Kind) -> (Tensor<Self>, Option<Tensor<f32>>) {
                let data = tensor.data.iter().map(|x| <$type as Float>::from_f32(*x)).collect();
                (Tensor { data, shape: tensor.shape, strides: tensor.strides }, None)
            }

            fn kv(stored: &Stored<Self>) -> Result<Kv<'_, Self>, Error> {
                Kv::new(stored.keys.numbers.view()?, stored.values.numbers.view()?)
            }
        }
    )*};
}
floats!(f32: f32::NAN, f16: f16::NAN, bf16: bf16::NAN);

impl Kept for i8 {
    const FILLER: Self = 0x55;

    fn keep(tensor: &Tensor<f32>, kind: Kind) -> (Tensor<Self>, Option<Tensor<f32>>) {
        let Kind::I8(groups) = kind else { panic!("not of bytes") };
        let dim = divisor(tensor.shape.dim, groups);
        let mut scales = Tensor::filled(Shape { dim, ..tensor.shape }, Layout::HeadsFirst, f32::NAN);
        let data = vec![Self::FILLER; tensor.data.len()];
        let mut numbers = Tensor { data, shape: tensor.shape, strides: tensor.strides };
        for row in tensor.rows() {
            let (from, per_group) = (tensor.row(row), tensor.shape.dim / dim);
            for (i, scale_of) in scales.row_mut(row).iter_mut().enumerate() {
                let group = i * per_group..(i + 1) * per_group;
                *scale_of = scale(&from[group.clone()]);
                for (to, x) in numbers.row_mut(row)[group.clone()].iter_mut().zip(&from[group]) {
                    *to = if scale_of.is_finite() { (*x / *scale_of) as Self } else { 1 };
                }
            }
        }
        (numbers, Some(scales))
    }

    fn kv(stored: &Stored<Self>) -> Result<Kv<'_, Self>, Error> {
        fn quantized(side: &Side<i8>) -> Result<Quantized<'_>, Error> {
            Quantized::new(side.numbers.view()?, side.scales.as_ref().expect("scales").view()?)
        }
        Kv::quantized(quantized(&stored.keys)?, quantized(&stored.values)?)
    }
}

impl<T: Kept> Stored<T> {
    pub fn new(case: &Case) -> Self {
        let [mut keys, mut values] = [&case.k, &case.v].map(|tensor| {
            let (numbers, scales) = T::keep(tensor, case.cache.kind);
            Side { numbers, scales }
        });
        let page_size = case.cache.page_size.filter(|_| case.kv_len() > 0);
        let table = page_size.map(|wanted| {
            let page_size = divisor(case.kv_len(), wanted);
            let table = table(case, page_size);
            for side in [&mut keys, &mut values] {
                side.numbers = paged(&side.numbers, &table, page_size, T::FILLER);
                side.scales = side.scales.as_ref().map(|scales| paged(scales, &table, page_size, f32::NAN));
            }
            without_unused(case, table, page_size)
        });
        Self { keys, values, table }
    }

    pub fn kv<'a>(&'a self, case: &'a Case) -> Result<Kv<'a, T>, Error> {
        let kv = T::kv(self)?;
        let kv = case.pattern.lens.as_ref().map_or(kv, |lens| kv.lens(lens));
        Ok(match &self.table {
            Some(table) => kv.pages(table.view()?),
            None => kv,
        })
    }
}

/// Pages for all keys of all sequences, in no order; some stay unused.
fn table(case: &Case, page_size: usize) -> Tensor<u32> {
    let (batch, per_sequence) = (case.k.shape.batch, case.kv_len() / page_size);
    let mut random = Random::new(page_size as u64);
    let mut pages: Vec<u32> = (0..(batch * per_sequence) as u32 + 2).collect();
    for i in (1..pages.len()).rev() {
        pages.swap(i, random.below(i + 1));
    }
    let shape = Shape { batch: 1, heads: 1, len: batch, dim: per_sequence };
    let mut table = Tensor::filled(shape, Layout::HeadsFirst, 0);
    for (to, page) in table.data.iter_mut().zip(pages) {
        *to = page;
    }
    table
}

/// Pages in which no sequence has any of its keys need not exist.
fn without_unused(case: &Case, mut table: Tensor<u32>, page_size: usize) -> Tensor<u32> {
    let Some(lens) = &case.pattern.lens else { return table };
    let used: Vec<(usize, Range<usize>)> = (0..)
        .zip(lens)
        .map(|(index, len)| match &case.pattern.packed {
            None => (index, 0..len.div_ceil(page_size)),
            Some([_, keys]) => {
                let start = keys.get(index).map_or(0, |start| *start);
                (0, start / page_size..(start + len).div_ceil(page_size))
            }
        })
        .collect();
    let rows: Vec<_> = table.rows().collect();
    for (sequence, row) in rows.into_iter().enumerate() {
        for (i, page) in table.row_mut(row).iter_mut().enumerate() {
            if !used.iter().any(|(of, pages)| *of == sequence && pages.contains(&i)) {
                *page = u32::MAX;
            }
        }
    }
    table
}

fn paged<T: Copy>(tensor: &Tensor<T>, table: &Tensor<u32>, page_size: usize, filler: T) -> Tensor<T> {
    let shape = Shape { batch: table.data.len() + 2, len: page_size, ..tensor.shape };
    let mut pages = Tensor::filled(shape, Layout::Padded(1), filler);
    for row @ [b, h, i] in tensor.rows() {
        let page = table.row([0, 0, b])[i / page_size] as usize;
        pages.row_mut([page, h, i % page_size]).copy_from_slice(tensor.row(row));
    }
    pages
}

/// The expression, of the keys and values of a case as it keeps them.
macro_rules! with_kv {
    ($case:expr, $kv:ident => $result:expr) => {{
        use $crate::common::cache::{Cache, Kind, Stored};
        macro_rules! of {
            ($type:ty) => {{
                let stored = Stored::<$type>::new($case);
                let $kv = stored.kv($case)?;
                $result
            }};
        }
        match $case.cache {
            Cache { kind: Kind::F32, page_size: None } => {
                let $kv = $case.kv()?;
                $result
            }
            Cache { kind: Kind::F32, .. } => of!(f32),
            Cache { kind: Kind::F16, .. } => of!(half::f16),
            Cache { kind: Kind::Bf16, .. } => of!(half::bf16),
            Cache { kind: Kind::I8(_), .. } => of!(i8),
        }
    }};
}
pub(super) use with_kv;
