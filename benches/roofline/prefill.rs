//! One shape of the prefill kernel, in turn with the peak.

use std::fmt;

use half::{bf16, f16};
use simd_attention::{Attention, Backend, Dot, Error, Float, Kv, Mask, Scalar, View, ViewMut, Window, Work, reference};

use crate::{
    cache::{Dtype, Format, Kept, Memory},
    measure::{backend, in_turn, number, random, text},
    peak,
};

/// What is measured.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub q: usize,
    pub kv: usize,
    pub dim: usize,
    pub format: Format,
    pub causal: bool,
    /// How many keys a query sees, its own being the last.
    pub window: Option<usize>,
    /// A boolean mask `[q, kv]`, in which one pair of sixteen is masked, at random.
    pub mask: bool,
    /// A bias `[heads, q, kv]`.
    pub bias: bool,
    pub softcap: Option<f32>,
    /// Whether decoding keeps prefill's order of summation.
    pub batch_invariant: bool,
    pub threads: usize,
    pub backend: Backend,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            heads: 8,
            kv_heads: 8,
            q: 2048,
            kv: 2048,
            dim: 64,
            format: Format::default(),
            causal: false,
            window: None,
            mask: false,
            bias: false,
            softcap: None,
            batch_invariant: false,
            threads: 1,
            backend: Backend::best(),
        }
    }
}

/// What came out.
pub struct Line {
    shape: Shape,
    pub gflops: f64,
    pub peak: f64,
    /// What is read of keys and values a second, in GB, for one query; then `peak` is a streaming read of as much memory.
    gbs: Option<f64>,
}

impl Line {
    /// What `peak` is compared with.
    pub fn rate(&self) -> f64 {
        self.gbs.unwrap_or(self.gflops)
    }

    pub fn unit(&self) -> &'static str {
        if self.gbs.is_some() { "GB/s" } else { "GFLOP/s" }
    }

    pub fn percent(&self) -> f64 {
        100.0 * self.rate() / self.peak
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { heads, kv_heads, q, kv, dim, format, causal, threads, backend, .. } = self.shape;
        let kernel = if self.gbs.is_some() { "decode" } else { "prefill" };
        write!(
            f,
            "roofline {kernel} backend={backend} dtype={} heads={heads} kv_heads={kv_heads} q={q} kv={kv} dim={dim} causal={} \
             {}threads={threads} gflops={:.1} ",
            format.dtype,
            u8::from(causal),
            self.shape.extras(),
            self.gflops,
        )?;
        match self.gbs {
            Some(gbs) => write!(f, "gbs={gbs:.2} peak={:.2} percent={:.1}", self.peak, self.percent()),
            None => write!(f, "peak={:.1} percent={:.1}", self.peak, self.percent()),
        }
    }
}

impl Shape {
    /// With these options instead of its own.
    pub fn parse(self, options: &[String]) -> Result<Self, String> {
        let mut shape = self;
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.as_str() {
                "--causal" => shape.causal = true,
                "--mask" => shape.mask = true,
                "--bias" => shape.bias = true,
                "--batch-invariant" => shape.batch_invariant = true,
                _ => {
                    let value = options.next().ok_or_else(|| format!("{option} takes a value"))?;
                    shape.set(option, value)?;
                }
            }
        }
        shape.format.check()?;
        Ok(shape)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        let number = || number(option, value);
        match option {
            "--dtype" => self.format.dtype = Dtype::parse(value)?,
            "--groups" => self.format.groups = Some(number()?),
            "--page-size" => self.format.page_size = Some(number()?),
            "--capacity" => self.format.capacity = Some(number()?),
            "--heads" => self.heads = number()?,
            "--kv-heads" => self.kv_heads = number()?,
            "--q" => self.q = number()?,
            "--kv" => self.kv = number()?,
            "--dim" => self.dim = number()?,
            "--window" => self.window = Some(number()?),
            "--softcap" => self.softcap = Some(value.parse().map_err(|error| format!("{option} {value}: {error}"))?),
            "--threads" => self.threads = number()?,
            "--backend" => self.backend = backend(value)?,
            _ => return Err(format!("unknown option {option}")),
        }
        Ok(())
    }

    /// Those options that are seldom given, as fields of a line.
    fn extras(&self) -> String {
        let Format { groups, page_size, capacity, .. } = self.format;
        let counts = [("groups", groups), ("page_size", page_size), ("capacity", capacity), ("window", self.window)];
        let counts = counts.into_iter().filter_map(|(name, count)| Some(format!("{name}={} ", count?)));
        let softcap = self.softcap.map(|softcap| format!("softcap={softcap} "));
        let flags = [(self.mask, "mask=1 "), (self.bias, "bias=1 "), (self.batch_invariant, "batch_invariant=1 ")];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, field)| field.to_string());
        counts.chain(flags).chain(softcap).collect()
    }

    fn attention<'a>(&self, extra: &'a Extra) -> Result<Attention<'a>, Error> {
        let mut attention = Attention::new().backend(self.backend);
        if self.causal || self.window.is_some() {
            attention = attention.causal().window(Window { left: self.window.map(|window| window - 1), right: None });
        }
        if self.mask {
            attention = attention.mask(Mask::new(View::matrix(&extra.mask, [self.q, self.kv])?));
        }
        if self.bias {
            attention = attention.bias(View::heads_first(&extra.bias, [1, self.heads, self.q, self.kv])?);
        }
        if self.batch_invariant {
            attention = attention.batch_invariant();
        }
        Ok(self.softcap.map_or(attention, |softcap| attention.softcap(softcap.into())))
    }

    /// Query-key pairs that the masks leave standing, over all heads.
    fn pairs(&self, extra: &Extra) -> usize {
        let seen = |i: usize| {
            let end = if self.causal || self.window.is_some() {
                (i + 1 + self.kv).saturating_sub(self.q).min(self.kv)
            } else {
                self.kv
            };
            let keys = self.window.map_or(0, |window| end.saturating_sub(window))..end;
            if self.mask { extra.mask[i * self.kv..][keys].iter().filter(|seen| **seen).count() } else { keys.len() }
        };
        self.heads * (0..self.q).map(seen).sum::<usize>()
    }

    /// Bytes of the cache that one query reads.
    fn bytes<T>(&self) -> usize {
        let keys = self.window.map_or(self.kv, |window| window.min(self.kv));
        2 * self.kv_heads * keys * self.format.row_bytes::<T>(self.dim)
    }

    /// Times the kernel and the peak in turn for about `seconds`; medians.
    pub fn measure(&self, seconds: f64) -> Result<Line, String> {
        match self.format.dtype {
            Dtype::F32 => self.measure_as::<f32>(seconds),
            Dtype::F64 => self.measure_as::<f64>(seconds),
            Dtype::F16 => self.measure_as::<f16>(seconds),
            Dtype::Bf16 => self.measure_as::<bf16>(seconds),
            Dtype::Int8 => self.measure_as::<i8>(seconds),
        }
    }

    fn measure_as<T: Kept>(&self, seconds: f64) -> Result<Line, String> {
        let Self { heads, kv_heads, q: q_len, kv: kv_len, dim, threads, .. } = *self;
        let q: Vec<_> = random(heads * q_len * dim, 1).into_iter().map(T::Query::from_f32).collect();
        let queries = View::heads_first(&q, [1, heads, q_len, dim]).map_err(text)?;
        let (memory, lens) = (Memory::<T>::new(self.format, [kv_heads, kv_len, dim]).map_err(text)?, [kv_len]);
        let kv = memory.kv(&lens).map_err(text)?;
        let extra = Extra::new(self);
        let attention = self.attention(&extra).map_err(text)?;
        let (mut out, mut scratch) = (vec![T::Query::default(); q.len()], Vec::new());
        let mut call = || {
            let out = ViewMut::heads_first(&mut out, [1, heads, q_len, dim])?;
            let work = attention.prepare(queries, kv, out)?;
            scratch.resize(work.parallel_scratch_len(threads), Default::default());
            run(&work, &mut scratch)
        };

        let (flops, bytes) = (4 * self.pairs(&extra) * dim, self.bytes::<T>());
        let decodes = q_len == 1;
        let stream = if decodes { random(bytes.div_ceil(size_of::<f32>()), 6) } else { Vec::new() };
        let peak = |time| {
            let of_one = match self.format.dtype {
                _ if decodes => peak::read_gbs(self.backend, &stream, time),
                // Half as many lanes.
                Dtype::F64 => peak::gflops(self.backend, false, time) / 2.0,
                dtype => peak::gflops(self.backend, dtype == Dtype::Bf16 && !self.batch_invariant, time),
            };
            of_one * threads as f64
        };
        let [rate, peak] = in_turn(seconds, 1e-9, || call().map_err(text), peak)?;
        check(&attention, queries, (kv, kv_len), &out)?;
        Ok(Line { shape: *self, gflops: rate * flops as f64, peak, gbs: decodes.then_some(rate * bytes as f64) })
    }
}

/// What the rarer options ask for; empty without them.
struct Extra {
    mask: Vec<bool>,
    bias: Vec<f32>,
}

impl Extra {
    fn new(shape: &Shape) -> Self {
        let Shape { heads, q, kv, mask, bias, .. } = *shape;
        // Below -1.53: one number of sixteen.
        let mask = if mask { random(q * kv, 4).iter().map(|x| *x > -1.53).collect() } else { Vec::new() };
        Self { mask, bias: if bias { random(heads * q * kv, 5) } else { Vec::new() } }
    }
}

/// Compares queries spread over the sequence with the reference. Keys and values come with how many there are.
fn check<T: Kept>(
    attention: &Attention<'_>,
    q: View<'_, T::Query>,
    kv: (Kv<'_, T>, usize),
    out: &[T::Query],
) -> Result<(), String> {
    let simd_attention::Shape { heads, len, dim, .. } = q.shape();
    let mut expected = vec![0.0; out.len()];
    for sample in 0..len.min(16) {
        let i = (sample * 131 + sample / 15 * (len - 1)) % len;
        one_query(attention, q, kv, &mut expected, i).map_err(text)?;
        for head in 0..heads {
            let row = (head * len + i) * dim..(head * len + i + 1) * dim;
            let [part, besides] = T::ERROR;
            let wrong = |(a, b): &(f64, &f64)| (a - **b).abs() > part * b.abs() + besides;
            let actual = out[row.clone()].iter().map(|x| (*x).into());
            if let Some((a, b)) = actual.zip(&expected[row]).find(wrong) {
                return Err(format!("head {head}, query {i}: {a} where the reference has {b}"));
            }
        }
    }
    Ok(())
}

/// Query `i` of each head by the reference, as if it were the only one of a sequence with all keys.
fn one_query<T: Kept>(
    attention: &Attention<'_>,
    q: View<'_, T::Query>,
    (kv, kv_len): (Kv<'_, T>, usize),
    out: &mut [f64],
    i: usize,
) -> Result<(), Error> {
    let simd_attention::Shape { heads, len, dim, .. } = q.shape();
    let (queries, keys) = ([i, i + 1], [0, kv_len]);
    let alone = attention.packed(&queries, &keys).offset(i as i64 + kv_len as i64 - len as i64);
    reference::forward(&alone, q, kv, ViewMut::heads_first(out, [1, heads, len, dim])?)
}

/// On as many threads as there is scratch for.
fn run<E: Scalar>(work: &Work<'_, Dot, E>, scratch: &mut [E]) -> Result<(), Error> {
    if scratch.len() == work.scratch_len() { work.run(scratch) } else { work.run_parallel(scratch) }
}
