//! Keys and values in memory, of every type of element, in pages or not.

use std::fmt;

use half::{bf16, f16};
use simd_attention::{CacheMut, Element, Error, Float, Kv, Quantized, View, ViewMut};

use crate::measure::random;

/// What keys and values are kept in.
#[derive(Clone, Copy, PartialEq)]
pub enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
    Int8,
}

impl Dtype {
    const ALL: [Self; 5] = [Self::F32, Self::F64, Self::F16, Self::Bf16, Self::Int8];

    /// The one of this name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|dtype| dtype.to_string() == name);
        named.ok_or_else(|| format!("element type {name} is not supported; there are: f32, f64, f16, bf16, int8"))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// How keys and values lie in memory.
#[derive(Clone, Copy)]
pub struct Format {
    pub dtype: Dtype,
    /// Scales of a row of int8; one where none is given.
    pub groups: Option<usize>,
    /// Tokens of a page, if there are pages. They lie in no order.
    pub page_size: Option<usize>,
    /// Tokens that there is room for, if that is more than there are.
    pub capacity: Option<usize>,
}

impl Default for Format {
    fn default() -> Self {
        Self { dtype: Dtype::F32, groups: None, page_size: None, capacity: None }
    }
}

impl Format {
    /// Whether the options go together.
    pub fn check(self) -> Result<Self, String> {
        if self.page_size.is_some() && self.capacity.is_some() {
            return Err("--capacity: pages have room for all tokens".into());
        }
        match (self.dtype, self.groups) {
            (Dtype::Int8, _) | (_, None) => Ok(self),
            (dtype, Some(_)) => Err(format!("--groups: {dtype} has no scales, only int8 has")),
        }
    }

    fn scales(&self) -> usize {
        if self.dtype == Dtype::Int8 { self.groups.unwrap_or(1) } else { 0 }
    }

    /// Bytes of the keys, or of the values, of one token and head.
    pub fn row_bytes<T>(&self, dim: usize) -> usize {
        dim * size_of::<T>() + self.scales() * size_of::<f32>()
    }
}

/// Keys and values of one sequence.
pub struct Memory<T> {
    keys: Rows<T>,
    values: Rows<T>,
    /// Empty without pages.
    table: Vec<u32>,
}

impl<T: Kept> Memory<T> {
    /// Random ones, `[heads, len, dim]`.
    pub fn new(format: Format, [heads, len, dim]: [usize; 3]) -> Result<Self, Error> {
        let table = format.page_size.map_or(Vec::new(), |page_size| scattered(len.div_ceil(page_size)));
        let extents = match format.page_size {
            Some(page_size) => [table.len(), heads, page_size, dim],
            None => [1, heads, format.capacity.unwrap_or(len), dim],
        };
        let fill = |seed| {
            let mut rows = Rows::new(extents, format.scales());
            let mut cache = T::cache(&mut rows)?;
            if !table.is_empty() {
                cache = cache.pages(View::matrix(&table, [1, table.len()])?);
            }
            let new: Vec<T::Sum> = random(heads * len * dim, seed).into_iter().map(T::Sum::from).collect();
            cache.append(View::heads_first(&new, [1, heads, len, dim])?, &[0])?;
            Ok(rows)
        };
        let (keys, values) = (fill(2)?, fill(3)?);
        Ok(Self { keys, values, table })
    }

    /// The first of them, as many as `lens` says.
    pub fn kv<'a>(&'a self, lens: &'a [usize; 1]) -> Result<Kv<'a, T>, Error> {
        let kv = T::kv(&self.keys, &self.values)?.lens(lens);
        Ok(if self.table.is_empty() { kv } else { kv.pages(View::matrix(&self.table, [1, self.table.len()])?) })
    }
}

/// Every page once, in an order that is always the same.
fn scattered(pages: usize) -> Vec<u32> {
    let order = random(pages, 7);
    let mut table: Vec<u32> = (0..).take(pages).collect();
    table.sort_by(|a, b| order[*a as usize].total_cmp(&order[*b as usize]));
    table
}

/// Keys or values.
pub struct Rows<T> {
    numbers: Vec<T>,
    scales: Vec<f32>,
    extents: [usize; 4],
    /// The same but for the last, which is how many scales a row has.
    of_scales: [usize; 4],
}

impl<T: Kept> Rows<T> {
    fn new(extents: [usize; 4], scales: usize) -> Self {
        let [pages, heads, len, _] = extents;
        let of_scales = [pages, heads, len, scales];
        let numbers = vec![T::default(); extents.iter().product()];
        Self { numbers, scales: vec![0.0; of_scales.iter().product()], extents, of_scales }
    }
}

/// Elements whose rows are a cache to write and to read.
pub trait Kept: Element + Default {
    /// What queries and outputs are.
    type Query: Float<Sum = Self::Sum> + Default;

    /// What results may be off by: this part of them, and this much besides, for values of size one.
    const ERROR: [f64; 2];

    fn cache(rows: &mut Rows<Self>) -> Result<CacheMut<'_, Self>, Error>;

    fn kv<'a>(keys: &'a Rows<Self>, values: &'a Rows<Self>) -> Result<Kv<'a, Self>, Error>;
}

macro_rules! kept {
    ($($float:ty: $error:expr),*) => {$(
        impl Kept for $float {
            type Query = Self;

            const ERROR: [f64; 2] = $error;

            fn cache(rows: &mut Rows<Self>) -> Result<CacheMut<'_, Self>, Error> {
                Ok(CacheMut::new(ViewMut::heads_first(&mut rows.numbers, rows.extents)?))
            }

            fn kv<'a>(keys: &'a Rows<Self>, values: &'a Rows<Self>) -> Result<Kv<'a, Self>, Error> {
                let view = |rows: &'a Rows<Self>| View::heads_first(&rows.numbers, rows.extents);
                Kv::new(view(keys)?, view(values)?)
            }
        }
    )*};
}
// An output is rounded, and of `bf16` also each weight may be.
kept!(f32: [0.0, 1e-5], f64: [0.0, 1e-14], f16: [1.0 / 2048.0, 1e-5], bf16: [1.0 / 256.0, 1.0 / 256.0]);

impl Kept for i8 {
    type Query = f32;

    // Queries may be off by 1/65266 of their largest element, some 4, which a score is off by times the sum of a key's sizes, some 100 of 128 elements, and
    // the scale, 1/11.
    const ERROR: [f64; 2] = [0.0, 5e-4];

    fn cache(rows: &mut Rows<Self>) -> Result<CacheMut<'_, Self>, Error> {
        let scales = ViewMut::heads_first(&mut rows.scales, rows.of_scales)?;
        CacheMut::quantized(ViewMut::heads_first(&mut rows.numbers, rows.extents)?, scales)
    }

    fn kv<'a>(keys: &'a Rows<Self>, values: &'a Rows<Self>) -> Result<Kv<'a, Self>, Error> {
        let quantized = |rows: &'a Rows<Self>| {
            let scales = View::heads_first(&rows.scales, rows.of_scales)?;
            Quantized::new(View::heads_first(&rows.numbers, rows.extents)?, scales)
        };
        Kv::quantized(quantized(keys)?, quantized(values)?)
    }
}
