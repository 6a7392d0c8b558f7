//! Additive scores, in turn with a bare loop of hyperbolic tangents.

use std::{
    fmt,
    time::{Duration, Instant},
};

use simd_attention::{Additive, Attention, Backend, Kv, View, ViewMut, scratch_len};

use crate::{
    measure::{backend, in_turn, number, parse, random, text},
    peak,
};

/// What is measured: one head of values as wide as there are hidden units.
#[derive(Clone, Copy)]
pub struct Units {
    pub q: usize,
    pub kv: usize,
    pub hidden: usize,
    pub backend: Backend,
}

impl Default for Units {
    fn default() -> Self {
        Self { q: 512, kv: 512, hidden: 128, backend: Backend::best() }
    }
}

/// What came out, in hyperbolic tangents a second.
pub struct Line {
    units: Units,
    rate: f64,
    peak: f64,
    naive: f64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { units: Units { q, kv, hidden, backend }, rate, peak, naive } = self;
        write!(
            f,
            "roofline additive backend={backend} dtype=f32 q={q} kv={kv} hidden={hidden} threads=1 gtanh={rate:.3} peak={peak:.3} \
             percent={:.1} naive={naive:.4} times={:.1}",
            100.0 * rate / peak,
            rate / naive,
        )
    }
}

impl Units {
    pub fn parse(options: &[String]) -> Result<Self, String> {
        let mut units = Self::default();
        parse(options, |option, value| {
            match option {
                "--q" => units.q = number(option, value)?,
                "--kv" => units.kv = number(option, value)?,
                "--hidden" => units.hidden = number(option, value)?,
                "--backend" => units.backend = backend(value)?,
                _ => return Err(format!("unknown option {option}")),
            }
            Ok(())
        })?;
        Ok(units)
    }

    pub fn measure(&self, seconds: f64) -> Result<Line, String> {
        let Self { q: q_len, kv: kv_len, hidden, backend } = *self;
        let [q, k, values] = [(q_len, 1), (kv_len, 2), (kv_len, 3)].map(|(len, seed)| random(len * hidden, seed));
        let v = random(hidden, 4);
        let (mut out, mut scratch) = (vec![0.0; q.len()], vec![0.0; scratch_len(hidden, hidden)]);
        let attention = Attention::with_score(Additive::new(&v)).backend(backend);
        let mut call = || {
            let kv = Kv::new(View::matrix(&k, [kv_len, hidden])?, View::matrix(&values, [kv_len, hidden])?)?;
            attention.forward(
                View::matrix(&q, [q_len, hidden])?,
                kv,
                ViewMut::matrix(&mut out, [q_len, hidden])?,
                &mut scratch,
            )
        };
        let tangents = (q_len * kv_len * hidden) as f64 / 1e9;
        let [rate, peak] = in_turn(seconds, tangents, || call().map_err(text), |time| peak::gtanh(backend, time))?;
        let mut expected = vec![0.0; q.len()];
        let naive = rate_of(tangents, || naive([&q, &k, &values], &v, &mut expected));
        match out.iter().zip(&expected).find(|(a, b)| (**a - **b).abs() > 1e-4) {
            Some((a, b)) => Err(format!("{a} where the naive form has {b}")),
            None => Ok(Line { units: *self, rate, peak, naive }),
        }
    }
}

fn rate_of(work: f64, mut call: impl FnMut()) -> f64 {
    let (mut calls, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_millis(200) {
        call();
        calls += 1;
    }
    work * f64::from(calls) / start.elapsed().as_secs_f64()
}

/// The formula as it is written, in f32.
fn naive([q, k, values]: [&[f32]; 3], v: &[f32], out: &mut [f32]) {
    let hidden = v.len();
    let mut weights = vec![0.0; k.len() / hidden];
    for (q, out) in q.chunks(hidden).zip(out.chunks_mut(hidden)) {
        for (weight, k) in weights.iter_mut().zip(k.chunks(hidden)) {
            *weight = v.iter().zip(q.iter().zip(k)).map(|(v, (q, k))| v * (q + k).tanh()).sum();
        }
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        weights.iter_mut().for_each(|weight| *weight = (*weight - max).exp());
        let sum: f32 = weights.iter().sum();
        out.fill(0.0);
        for (weight, value) in weights.iter().zip(values.chunks(hidden)) {
            out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / sum * value);
        }
    }
}
