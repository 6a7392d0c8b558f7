//! One shape of the prefill kernel, in turn with the peak.

use std::{
    fmt,
    time::{Duration, Instant},
};

use simd_attention::{Attention, Backend, Kv, View, ViewMut, Work, reference, scratch_len};

use crate::peak;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub q: usize,
    pub kv: usize,
    pub dim: usize,
    pub causal: bool,
    pub threads: usize,
    pub backend: Backend,
}

impl Default for Shape {
    fn default() -> Self {
        Self { heads: 8, kv_heads: 8, q: 2048, kv: 2048, dim: 64, causal: false, threads: 1, backend: Backend::best() }
    }
}

/// What came out.
pub struct Line {
    shape: Shape,
    pub gflops: f64,
    pub peak: f64,
}

impl Line {
    pub fn percent(&self) -> f64 {
        100.0 * self.gflops / self.peak
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { heads, kv_heads, q, kv, dim, causal, threads, backend } = self.shape;
        write!(
            f,
            "roofline prefill backend={backend} dtype=f32 heads={heads} kv_heads={kv_heads} q={q} kv={kv} dim={dim} causal={} \
             threads={threads} gflops={:.1} peak={:.1} percent={:.1}",
            u8::from(causal),
            self.gflops,
            self.peak,
            self.percent(),
        )
    }
}

impl Shape {
    pub fn parse(options: &[String]) -> Result<Self, String> {
        let mut shape = Self::default();
        let mut options = options.iter();
        while let Some(option) = options.next() {
            if option == "--causal" {
                shape.causal = true;
                continue;
            }
            let value = options.next().ok_or_else(|| format!("{option} takes a value"))?;
            let number = || {
                value.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{option} {value}: not a positive number"))
            };
            match option.as_str() {
                "--dtype" if value == "f32" => {}
                "--dtype" => return Err(format!("element type {value} is not supported; there is: f32")),
                "--heads" => shape.heads = number()?,
                "--kv-heads" => shape.kv_heads = number()?,
                "--q" => shape.q = number()?,
                "--kv" => shape.kv = number()?,
                "--dim" => shape.dim = number()?,
                "--threads" => shape.threads = number()?,
                "--backend" => {
                    let named = Backend::available().find(|backend| backend.to_string() == *value);
                    shape.backend = named.ok_or_else(|| format!("no backend {value} on this CPU"))?;
                }
                _ => return Err(format!("unknown option {option}")),
            }
        }
        Ok(shape)
    }

    fn attention(&self) -> Attention<'_> {
        let attention = Attention::new().backend(self.backend);
        if self.causal { attention.causal() } else { attention }
    }

    /// Query-key pairs that the mask leaves standing, over all heads.
    fn pairs(&self) -> usize {
        let seen = |i: usize| if self.causal { (i + 1 + self.kv).saturating_sub(self.q).min(self.kv) } else { self.kv };
        self.heads * (0..self.q).map(seen).sum::<usize>()
    }

    /// Times the kernel and the peak in turn for about `seconds`; medians.
    pub fn measure(&self, seconds: f64) -> Result<Line, String> {
        let Self { heads, kv_heads, q: q_len, kv: kv_len, dim, threads, .. } = *self;
        let q = random(heads * q_len * dim, 1);
        let k = random(kv_heads * kv_len * dim, 2);
        let v = random(kv_heads * kv_len * dim, 3);
        let mut out = vec![0.0; q.len()];
        let mut scratch = vec![0.0; threads * scratch_len(dim, dim)];

        let text = |error: simd_attention::Error| error.to_string();
        let queries = View::heads_first(&q, [1, heads, q_len, dim]).map_err(text)?;
        let kv = Kv::new(
            View::heads_first(&k, [1, kv_heads, kv_len, dim]).map_err(text)?,
            View::heads_first(&v, [1, kv_heads, kv_len, dim]).map_err(text)?,
        )
        .map_err(text)?;
        let mut call = || {
            let out = ViewMut::heads_first(&mut out, [1, heads, q_len, dim])?;
            run(&self.attention().prepare(queries, kv, out)?, &mut scratch)
        };

        call().map_err(text)?;
        let flops = (4 * self.pairs() * dim) as f64;
        let (mut rates, mut peaks) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds || rates.len() < 5 {
            let (mut calls, round) = (0, Instant::now());
            while round.elapsed() < Duration::from_millis(10) {
                call().map_err(text)?;
                calls += 1;
            }
            let time = round.elapsed();
            rates.push(flops * f64::from(calls) / time.as_secs_f64() / 1e9);
            peaks.push(peak::gflops(self.backend, time) * threads as f64);
        }
        self.check(&q, kv, &out)?;
        Ok(Line { shape: *self, gflops: median(rates), peak: median(peaks) })
    }

    /// Compares rows spread over the output with the reference.
    fn check(&self, q: &[f32], kv: Kv<'_, f32>, out: &[f32]) -> Result<(), String> {
        let Self { heads, kv_heads, q: q_len, kv: kv_len, dim, .. } = *self;
        for sample in 0..16 {
            let (head, i) = (sample * 7 % heads, (sample * 131 + sample / 15 * (q_len - 1)) % q_len);
            let row = (head * q_len + i) * dim..(head * q_len + i + 1) * dim;
            let mut expected = vec![0.0; kv_heads * dim];
            // The row as a single query of every key/value head; the one of its own head is compared.
            let repeated: Vec<f32> = q[row.clone()].repeat(kv_heads);
            let attention = if self.causal {
                Attention::new().causal().offset(i as i64 + kv_len as i64 - q_len as i64)
            } else {
                Attention::new()
            };
            View::heads_first(&repeated, [1, kv_heads, 1, dim])
                .and_then(|q| {
                    reference::forward(&attention, q, kv, ViewMut::heads_first(&mut expected, [1, kv_heads, 1, dim])?)
                })
                .map_err(|error| error.to_string())?;
            let expected = &expected[head / (heads / kv_heads) * dim..][..dim];
            if let Some((a, b)) = out[row].iter().zip(expected).find(|(a, b)| (f64::from(**a) - **b).abs() > 1e-5) {
                return Err(format!("head {head}, query {i}: {a} where the reference has {b}"));
            }
        }
        Ok(())
    }
}

/// On as many threads as there is scratch for.
fn run(work: &Work<'_>, scratch: &mut [f32]) -> Result<(), simd_attention::Error> {
    if scratch.len() == work.scratch_len() {
        return work.run(scratch);
    }
    #[cfg(feature = "rayon")]
    return work.run_parallel(scratch);
    #[cfg(not(feature = "rayon"))]
    std::thread::scope(|threads| {
        let running: Vec<_> =
            scratch.chunks_mut(work.scratch_len()).map(|scratch| threads.spawn(|| work.run(scratch))).collect();
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sums of uniform numbers, near enough to normal ones: mean 0, variance 1.
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform()) * 2.0).collect()
}
