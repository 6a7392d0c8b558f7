//! What the measurements share.

use std::time::{Duration, Instant};

use simd_attention::{Backend, Error};

/// Times `call` and what it is held to in turn for about `seconds`. Medians of their rates: `work` a second of each call, and what
/// `peak`, given a time to spend, says of itself.
pub fn in_turn(
    seconds: f64,
    work: f64,
    mut call: impl FnMut() -> Result<(), String>,
    mut peak: impl FnMut(Duration) -> f64,
) -> Result<[f64; 2], String> {
    call()?;
    let (mut rates, mut peaks) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds || rates.len() < 5 {
        let (mut calls, round) = (0, Instant::now());
        while round.elapsed() < Duration::from_millis(10) {
            call()?;
            calls += 1;
        }
        let time = round.elapsed();
        rates.push(work * f64::from(calls) / time.as_secs_f64());
        peaks.push(peak(time));
    }
    Ok([median(rates), median(peaks)])
}

/// Calls `set` with each option and its value.
pub fn parse(options: &[String], mut set: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), String> {
    options.chunks(2).try_for_each(|pair| match pair {
        [option, value] => set(option, value),
        _ => Err(format!("{} takes a value", pair.concat())),
    })
}

/// The value of an option, a positive number.
pub fn number(option: &str, value: &str) -> Result<usize, String> {
    value.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{option} {value}: not a positive number"))
}

/// The backend of this name, if this CPU has it.
pub fn backend(name: &str) -> Result<Backend, String> {
    let named = Backend::available().find(|backend| backend.to_string() == name);
    named.ok_or_else(|| format!("no backend {name} on this CPU"))
}

pub fn text(error: Error) -> String {
    error.to_string()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sums of uniform numbers, near enough to normal ones: mean 0, variance 1.
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform()) * 2.0).collect()
}
