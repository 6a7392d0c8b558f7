//! The linear layer, in turn with the peak.

use std::fmt;

use simd_attention::{Backend, Linear, View, ViewMut, scratch_len};

use crate::{
    measure::{backend, in_turn, number, parse, random, text},
    peak,
};

/// What is measured.
#[derive(Clone, Copy)]
pub struct Layer {
    pub rows: usize,
    pub in_dim: usize,
    pub out_dim: usize,
    pub backend: Backend,
}

impl Default for Layer {
    fn default() -> Self {
        Self { rows: 512, in_dim: 768, out_dim: 768, backend: Backend::best() }
    }
}

/// What came out.
pub struct Line {
    layer: Layer,
    pub gflops: f64,
    pub peak: f64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer: Layer { rows, in_dim, out_dim, backend }, gflops, peak } = self;
        write!(
            f,
            "roofline linear backend={backend} dtype=f32 rows={rows} in={in_dim} out={out_dim} threads=1 gflops={gflops:.1} \
             peak={peak:.1} percent={:.1}",
            100.0 * gflops / peak,
        )
    }
}

impl Layer {
    pub fn parse(options: &[String]) -> Result<Self, String> {
        let mut layer = Self::default();
        parse(options, |option, value| {
            match option {
                "--rows" => layer.rows = number(option, value)?,
                "--in" => layer.in_dim = number(option, value)?,
                "--out" => layer.out_dim = number(option, value)?,
                "--backend" => layer.backend = backend(value)?,
                _ => return Err(format!("unknown option {option}")),
            }
            Ok(())
        })?;
        Ok(layer)
    }

    pub fn measure(&self, seconds: f64) -> Result<Line, String> {
        let Self { rows, in_dim, out_dim, backend } = *self;
        let (x, w, b) = (random(rows * in_dim, 1), random(out_dim * in_dim, 2), random(out_dim, 3));
        let (mut y, mut scratch) = (vec![0.0; rows * out_dim], vec![0.0; scratch_len(in_dim, 0)]);
        let weights = View::matrix(&w, [out_dim, in_dim]).map_err(text)?;
        let layer = Linear::new(weights).bias(&b).backend(backend);
        let mut call = || {
            layer.forward(View::matrix(&x, [rows, in_dim])?, ViewMut::matrix(&mut y, [rows, out_dim])?, &mut scratch)
        };
        let flops = (2 * rows * in_dim * out_dim) as f64 / 1e9;
        let [gflops, peak] =
            in_turn(seconds, flops, || call().map_err(text), |time| peak::gflops(backend, false, time))?;
        for (i, row) in y.chunks(out_dim).enumerate().step_by(1 + rows / 8) {
            for (j, y) in row.iter().enumerate().step_by(1 + out_dim / 8) {
                let products = x[i * in_dim..][..in_dim].iter().zip(&w[j * in_dim..]);
                let exact: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() + f64::from(b[j]);
                if (f64::from(*y) - exact).abs() > 1e-6 * in_dim as f64 {
                    return Err(format!("row {i}, column {j}: {y} instead of {exact}"));
                }
            }
        }
        Ok(Line { layer: *self, gflops, peak })
    }
}
