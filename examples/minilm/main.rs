//! Attention on the queries, keys and values of a real BERT: computed, checked, timed and shown.
//!
//! ```text
//! cargo run --release --example minilm -- [--layer 3] [--head 1] [--output FILE] [--backend BACKEND]
//! ```

mod model;
mod naive;
mod options;
#[path = "../picture/mod.rs"]
mod picture;

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use model::{Layer, Model};
use options::Options;
use picture::{Axis, Heatmap, Terminal};
use simd_attention::{Attention, Backend};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minilm_l6.safetensors");

/// How far f32 arithmetic may be off, relative to the largest value. Outputs are weighted means of values; what the weights are
/// off by, relatively, is what the scores are off by, absolutely: some units in the last place of a sum of 32 products.
const TOLERANCE: f32 = 1e-6;

/// Links that are listed.
const LINKS: usize = 12;

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minilm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<(), Box<dyn Error>> {
    const ROUNDS: usize = 51;
    let model = Model::read(DATA)?;
    match Options::parse(std::env::args_os().skip(1), &model)? {
        Some(options) => run(&model, &options, ROUNDS, Terminal::stdout(), &mut io::stdout().lock()),
        None => Ok(write!(io::stdout(), "{}", options::HELP)?),
    }
}

/// Computes and checks everything, shows the chosen head, and tells how it went.
fn run(
    model: &Model,
    options: &Options<'_>,
    rounds: usize,
    terminal: Terminal,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let &Options { layer, head, ref output, backend } = options;
    let attention = Attention::new().backend(backend);
    let accuracy = Accuracy::measure(&model.layers, &attention)?;
    let speed = Speed::measure(&model.layers, &attention, rounds)?;

    let title = format!("What each word attends to: {}, layer {}, head {head}", model.name, layer.index);
    let weights = layer.weights(&attention, head)?;
    let heatmap = Heatmap {
        title: &title,
        rows: Axis { name: "query", labels: &model.tokens },
        columns: Axis { name: "key", labels: &model.tokens },
        weights: &weights,
    };
    heatmap.save(output)?;

    writeln!(out, "{}\n\n{}", model.text, heatmap.terminal(terminal))?;
    writeln!(out, "Strongest links between words:\n\n{}", strongest_links(&model.tokens, &weights))?;
    let available: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
    writeln!(out, "backend   {backend} (this CPU has {})", available.join(", "))?;
    writeln!(out, "accuracy  {accuracy}")?;
    writeln!(out, "speed     {speed}")?;
    writeln!(out, "picture   {}", output.display())?;
    accuracy.check()
}

/// The largest deviation from the expected outputs, beside what f32 allows and what the naive form reaches.
struct Accuracy {
    elements: usize,
    error: f32,
    naive_error: f32,
    tolerance: f32,
}

impl Accuracy {
    fn measure(layers: &[Layer], attention: &Attention<'_>) -> Result<Self, simd_attention::Error> {
        let mut accuracy = Self { elements: 0, error: 0.0, naive_error: 0.0, tolerance: 0.0 };
        for layer in layers {
            let mut out = vec![f32::NAN; layer.expected.len()];
            layer.forward(attention, &mut out, &mut layer.scratch())?;
            accuracy.error = accuracy.error.max(max_error(&out, &layer.expected));
            naive::forward(layer, &mut out);
            accuracy.naive_error = accuracy.naive_error.max(max_error(&out, &layer.expected));
            let largest = layer.v.iter().fold(0.0, |largest: f32, v| largest.max(v.abs()));
            accuracy.tolerance = accuracy.tolerance.max(TOLERANCE * largest);
            accuracy.elements += out.len();
        }
        Ok(accuracy)
    }

    fn check(&self) -> Result<(), Box<dyn Error>> {
        if self.error <= self.tolerance { Ok(()) } else { Err(format!("beyond f32 accuracy: {self}").into()) }
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elements, error, naive_error, tolerance } = self;
        write!(
            f,
            "max error {error:.1e} of {elements} outputs against the stored f64 results (allowed {tolerance:.1e}; naive f32 loops \
             {naive_error:.1e})"
        )
    }
}

/// The largest absolute difference; infinite where either is NaN.
fn max_error(actual: &[f32], expected: &[f32]) -> f32 {
    let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// Time for the attention of all layers and heads: with the crate, and with naive loops compiled in the same build.
struct Speed {
    heads: usize,
    flops: usize,
    time: Duration,
    naive_time: Duration,
    rounds: usize,
}

impl Speed {
    /// Medians of `rounds` runs of each, in turn, so that both see the same moods of the machine.
    fn measure(layers: &[Layer], attention: &Attention<'_>, rounds: usize) -> Result<Self, simd_attention::Error> {
        // Allocated once, as a program that runs a model would.
        let mut buffers: Vec<_> =
            layers.iter().map(|layer| (layer, vec![0.0; layer.expected.len()], layer.scratch())).collect();
        let (mut times, mut naive_times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            times.push(time_warm(|| {
                buffers.iter_mut().try_for_each(|(layer, out, scratch)| layer.forward(attention, out, scratch))
            })?);
            naive_times.push(time_warm(|| {
                buffers.iter_mut().for_each(|(layer, out, _)| naive::forward(layer, out));
                Ok(())
            })?);
        }
        Ok(Self {
            heads: layers.iter().map(|layer| layer.heads).sum(),
            flops: layers.iter().map(Layer::flops).sum(),
            time: median(times),
            naive_time: median(naive_times),
            rounds,
        })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, flops, time, naive_time, rounds } = *self;
        write!(
            f,
            "{time:.1?} for {heads} heads on one thread ({:.1} GFLOP/s), {:.1} times as fast as naive f32 loops of the same build \
             ({naive_time:.1?}; medians of {rounds} runs in turn)",
            flops as f64 / time.as_secs_f64() / 1e9,
            naive_time.as_secs_f64() / time.as_secs_f64(),
        )
    }
}

/// Time of a run right after another one, so that its code and data are in the caches.
fn time_warm<E>(mut run: impl FnMut() -> Result<(), E>) -> Result<Duration, E> {
    run()?;
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The largest weights from one token to another, one a line. Leaves out BERT's `[CLS]` and `[SEP]`, where heads rest their
/// attention when they find nothing to attend to.
fn strongest_links(tokens: &[String], weights: &[f32]) -> String {
    let is_word = |token: &str| !token.starts_with('[');
    let rows = tokens.iter().zip(weights.chunks(tokens.len()));
    let mut links: Vec<(f32, &str, &str)> = rows
        .flat_map(|(query, row)| tokens.iter().zip(row).map(|(key, &weight)| (weight, query.as_str(), key.as_str())))
        .filter(|&(_, query, key)| is_word(query) && is_word(key))
        .collect();
    links.sort_by(|a, b| b.0.total_cmp(&a.0));
    links.iter().take(LINKS).map(|(weight, query, key)| format!("  {query} -> {key} {weight:.2}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    /// What the program prints for these arguments.
    fn printed(args: &[&str]) -> Result<String, Box<dyn Error>> {
        let model = Model::read(DATA)?;
        let options = Options::parse(args, &model)?.ok_or("no options")?;
        let mut out = Vec::new();
        run(&model, &options, 1, Terminal { color: false, width: 128 }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn complaint(args: &[&str]) -> String {
        printed(args).map_or_else(|error| error.to_string(), |printed| format!("no complaint: {printed}"))
    }

    fn temporary_file(name: &str) -> Result<String, Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("{name}_{}.svg", std::process::id()));
        Ok(path.to_str().ok_or("the temporary folder is not Unicode")?.to_owned())
    }

    #[test]
    fn it_looks_at_the_animal_on_every_backend() -> Outcome {
        for backend in Backend::available() {
            let path = temporary_file(&backend.to_string())?;
            let printed = printed(&["--backend", &backend.to_string(), "--output", &path])?;
            let svg = std::fs::read_to_string(&path)?;
            std::fs::remove_file(&path)?;
            assert!(printed.contains("\n  it -> animal 0.49\n"), "{printed}");
            assert!(printed.contains(&format!("backend   {backend}")), "{printed}");
            assert!(svg.contains("<title>it → animal: 0.49</title>"));
        }
        Ok(())
    }

    #[test]
    fn weights_of_a_query_sum_to_one() -> Outcome {
        for layer in &Model::read(DATA)?.layers {
            for row in layer.weights(&Attention::new(), layer.heads - 1)?.chunks(layer.len) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn wrong_arguments_are_told_with_the_right_ones() {
        assert_eq!(complaint(&["--layer", "1"]), "--layer \"1\": must be one of 0, 3, 5");
        assert_eq!(complaint(&["--head=12"]), "--head \"12\": must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11");
        assert!(complaint(&["--output", &format!("{DATA}/no.svg")]).contains("safetensors/no.svg: "));
        assert!(complaint(&["--backend", "mmx"]).starts_with("--backend \"mmx\": must be one of portable"));
        assert_eq!(complaint(&["--head"]), "missing argument for option '--head'");
        assert_eq!(complaint(&["--heads", "1"]), "invalid option '--heads'; --help lists the options");
    }

    #[test]
    fn a_result_that_is_off_is_an_error() {
        let accuracy =
            Accuracy { elements: 1, error: max_error(&[f32::NAN], &[0.0]), naive_error: 0.0, tolerance: 1e-6 };
        assert!(accuracy.check().is_err());
    }
}
