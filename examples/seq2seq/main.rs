//! Dates as people write them become ISO dates: a trained encoder-decoder with additive attention (Bahdanau et al., 2015, "Neural
//! Machine Translation by Jointly Learning to Align and Translate"), character by character, and a picture of where it looked.
//!
//! ```text
//! cargo run --release --example seq2seq -- [--output FILE] [DATE]...
//! ```
//!
//! `train.py` made the weights, and `test.tsv` with the days that it kept from training.

mod model;
mod options;
#[path = "../picture/mod.rs"]
mod picture;
mod translator;

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use model::Model;
use options::Options;
use picture::{Axis, Heatmap, Terminal};
use simd_attention::Backend;
use translator::{Attended, Translation, Translator};

const WEIGHTS: &[u8] = include_bytes!("weights.safetensors");
/// A date as written and its ISO form, in each line.
const HELD_OUT: &str = include_str!("test.tsv");

/// The date to draw if none is given.
const EXAMPLE: &str = "the 3rd of March 2021";

/// Held-out dates that are listed.
const LISTED: usize = 8;

/// Per cent of the held-out dates that the model has to get exactly right.
const REQUIRED: f64 = 98.0;

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seq2seq: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<(), Box<dyn Error>> {
    match Options::parse(std::env::args_os().skip(1))? {
        Some(options) => run(&Model::parse(WEIGHTS)?, &options, Terminal::stdout(), &mut io::stdout().lock()),
        None => Ok(write!(io::stdout(), "{}", options::HELP)?),
    }
}

/// Translates and draws the dates that are given; without any, measures the model and draws an example.
fn run(model: &Model, options: &Options, terminal: Terminal, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut translator = Translator::new(model, Backend::best());
    if options.dates.is_empty() {
        let report = Report::measure(model, Backend::best())?;
        writeln!(out, "{report}")?;
        draw(&translator.translate(EXAMPLE)?, &options.output, terminal, out)?;
        return report.check();
    }
    for (i, date) in options.dates.iter().enumerate() {
        draw(&translator.translate(date)?, &options.output_of(i), terminal, out)?;
    }
    Ok(())
}

/// Prints a translation and its alignment, and writes the picture to a file.
fn draw(
    translation: &Translation,
    output: &Path,
    terminal: Terminal,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let Translation { text, iso, alignment } = translation;
    let (rows, columns) = (labels(iso), labels(text));
    let heatmap = Heatmap {
        title: &format!("{text:?} is {iso}"),
        rows: Axis { name: "output", labels: &rows },
        columns: Axis { name: "input", labels: &columns },
        weights: alignment,
    };
    heatmap.save(output)?;
    writeln!(out, "{}\npicture   {}\n", heatmap.terminal(terminal), output.display())?;
    Ok(())
}

/// One for each character, all of which can be seen.
fn labels(text: &str) -> Vec<String> {
    let visible = |c: char| match c {
        ' ' => '␣',
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    };
    text.chars().map(|c| visible(c).to_string()).collect()
}

/// How the model does on the dates that were kept from training.
struct Report {
    backend: Backend,
    dates: usize,
    /// The first translations, right or wrong.
    listed: Vec<Translation>,
    /// Each with what would have been right.
    failures: Vec<(Translation, &'static str)>,
    time: Duration,
    attended: Attended,
}

impl Report {
    fn measure(model: &Model, backend: Backend) -> Result<Self, Box<dyn Error>> {
        let pairs: Vec<_> = HELD_OUT.lines().filter_map(|line| line.split_once('\t')).collect();
        let mut translator = Translator::new(model, backend);
        let start = Instant::now();
        let translations: Vec<_> =
            pairs.iter().map(|(text, _)| translator.translate(text)).collect::<Result<_, _>>()?;
        let (time, attended) = (start.elapsed(), translator.attended);

        let listed = translations.iter().take(LISTED).cloned().collect();
        let results = translations.into_iter().zip(pairs.iter().map(|&(_, iso)| iso));
        let failures = results.filter(|(translation, iso)| translation.iso != *iso).collect();
        Ok(Self { backend, dates: pairs.len(), listed, failures, time, attended })
    }

    /// Per cent that are exactly right.
    fn accuracy(&self) -> f64 {
        100.0 * (self.dates - self.failures.len()) as f64 / self.dates as f64
    }

    fn check(&self) -> Result<(), Box<dyn Error>> {
        let accuracy = self.accuracy();
        // Not so for NaN either.
        if accuracy >= REQUIRED {
            Ok(())
        } else {
            Err(format!("{accuracy:.2} % of the dates are right, less than {REQUIRED} %").into())
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, dates, ref listed, ref failures, time, attended } = *self;
        writeln!(f, "Some of the dates that training has never seen:\n")?;
        for Translation { text, iso, .. } in listed {
            writeln!(f, "  {iso}  {text:?}")?;
        }
        if !failures.is_empty() {
            writeln!(f, "\nWrong:\n")?;
        }
        for (Translation { text, iso, .. }, right) in failures {
            writeln!(f, "  {iso}  {text:?}, which is {right}")?;
        }
        writeln!(f, "\naccuracy  {} of {dates} exactly right ({:.2} %)", dates - failures.len(), self.accuracy())?;
        let per_date = |time: Duration| time.div_f64(dates as f64);
        writeln!(
            f,
            "speed     {:.1?} a date, {:.1?} of it for attention ({:.0} calls a second), on one thread, backend {backend}",
            per_date(time),
            per_date(attended.time),
            attended.calls as f64 / attended.time.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    /// What the program prints for these arguments.
    fn printed(args: &[&str]) -> Result<String, Box<dyn Error>> {
        let options = Options::parse(args)?.ok_or("no options")?;
        let mut out = Vec::new();
        run(&Model::parse(WEIGHTS)?, &options, Terminal { color: false, width: 128 }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn complaint(args: &[&str]) -> String {
        printed(args).map_or_else(|error| error.to_string(), |printed| format!("no complaint: {printed}"))
    }

    /// A folder that does not exist yet, and a file in it.
    fn temporary_file(name: &str) -> Result<(std::path::PathBuf, String), Box<dyn Error>> {
        let folder = std::env::temp_dir().join(format!("seq2seq_{name}_{}", std::process::id()));
        let file = folder.join("picture.svg");
        let file = file.to_str().ok_or("the temporary folder is not Unicode")?.to_owned();
        Ok((folder, file))
    }

    /// Some weights `(output character, input character, weight)` of what NumPy has computed from the same file.
    struct Expected {
        text: &'static str,
        iso: &'static str,
        weights: &'static [(usize, usize, f32)],
    }

    const EXPECTED: [Expected; 3] = [
        Expected {
            text: EXAMPLE,
            iso: "2021-03-03",
            weights: &[
                (0, 17, 0.999_209_1),
                (0, 18, 0.000_606_243),
                (5, 12, 0.937_025_8),
                (6, 11, 0.256_163_6),
                (6, 12, 0.635_443_2),
                (8, 0, 0.033_857_9),
                (8, 4, 0.318_760_9),
                (8, 13, 0.132_476_1),
                (9, 4, 0.999_027_6),
            ],
        },
        Expected {
            text: "21 Aug 99",
            iso: "1999-08-21",
            weights: &[
                (0, 7, 0.999_081_5),
                (3, 7, 0.011_335_7),
                (4, 1, 0.002_471_7),
                (6, 3, 0.214_512_9),
                (6, 4, 0.769_571_4),
                (7, 1, 0.046_463_0),
                (9, 1, 0.999_026_2),
            ],
        },
        Expected {
            text: "Tuesday, March 9, 2004",
            iso: "2004-03-09",
            weights: &[
                (2, 20, 0.999_584_3),
                (5, 9, 0.015_633_1),
                (6, 9, 0.148_759_8),
                (6, 10, 0.752_720_3),
                (7, 15, 0.007_055_5),
                (8, 11, 0.014_629_5),
                (8, 15, 0.942_777_5),
            ],
        },
    ];

    #[test]
    fn every_backend_agrees_with_numpy() -> Outcome {
        let model = Model::parse(WEIGHTS)?;
        for backend in Backend::available() {
            let mut translator = Translator::new(&model, backend);
            for Expected { text, iso, weights } in EXPECTED {
                let translation = translator.translate(text)?;
                assert_eq!(translation.iso, iso, "{text} on {backend}");
                for &(row, column, expected) in weights {
                    let weight = translation.alignment[row * text.len() + column];
                    assert!((weight - expected).abs() < 1e-5, "{weight} instead of {expected}: {text} on {backend}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn days_kept_from_training_are_read_on_every_backend() -> Outcome {
        let model = Model::parse(WEIGHTS)?;
        for backend in Backend::available() {
            let report = Report::measure(&model, backend)?;
            assert_eq!(report.dates, 1000);
            assert_eq!(report.attended.calls, 10_000);
            report.check()?;
        }
        Ok(())
    }

    #[test]
    fn too_many_failures_are_an_error() -> Outcome {
        let model = Model::parse(WEIGHTS)?;
        let mut report = Report::measure(&model, Backend::best())?;
        let wrong = Translation { text: "yesterday".into(), iso: "0000-00-00".into(), alignment: Vec::new() };
        report.failures = vec![(wrong, "2026-11-21"); 21];
        assert!(report.to_string().contains("  0000-00-00  \"yesterday\", which is 2026-11-21\n"), "{report}");
        assert!(report.check().is_err());
        Ok(())
    }

    #[test]
    fn weights_of_an_output_character_sum_to_one() -> Outcome {
        let translation = Translator::new(&Model::parse(WEIGHTS)?, Backend::best()).translate(EXAMPLE)?;
        assert_eq!(translation.alignment.len(), "YYYY-MM-DD".len() * EXAMPLE.len());
        for row in translation.alignment.chunks(EXAMPLE.len()) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        Ok(())
    }

    #[test]
    fn without_a_date_the_model_is_measured_and_an_example_drawn() -> Outcome {
        let (folder, file) = temporary_file("example")?;
        let printed = printed(&["--output", &file])?;
        let svg = std::fs::read_to_string(&file)?;
        std::fs::remove_dir_all(folder)?;
        assert!(printed.contains("\naccuracy  1000 of 1000 exactly right (100.00 %)\n"), "{printed}");
        assert!(printed.contains("\n\"the 3rd of March 2021\" is 2021-03-03\n"), "{printed}");
        assert!(svg.contains("<title>2 → 2: 1.00</title>"), "{svg}");
        Ok(())
    }

    #[test]
    fn every_date_has_its_own_picture() -> Outcome {
        let (folder, file) = temporary_file("several")?;
        let printed = printed(&["21 Aug 99", "--output", &file, EXAMPLE])?;
        let pictures = [1, 2].map(|i| std::fs::read_to_string(folder.join(format!("picture_{i}.svg"))));
        std::fs::remove_dir_all(folder)?;
        for (picture, title) in pictures.into_iter().zip(["21 Aug 99\" is 1999-08-21", "2021\" is 2021-03-03"]) {
            assert!(printed.contains(title), "{printed}");
            assert!(picture?.contains(&title.replace('"', "&quot;")), "{title}");
        }
        Ok(())
    }

    #[test]
    fn any_text_but_the_empty_one_is_read() -> Outcome {
        let model = Model::parse(WEIGHTS)?;
        let mut translator = Translator::new(&model, Backend::best());
        let long = "31 December 1999 ".repeat(50);
        for text in [" ", "?", "\0\u{1b}[31m", "三月三日", "🗓\u{fe0f}", &long] {
            let translation = translator.translate(text)?;
            assert_eq!(translation.iso.len(), 10, "{text:?}");
            assert_eq!(translation.alignment.len(), 10 * text.chars().count(), "{text:?}");
        }
        assert_eq!(translator.translate("21 AUG 99")?.iso, translator.translate("21 aug 99")?.iso);
        Ok(())
    }

    #[test]
    fn control_characters_are_not_printed() -> Outcome {
        let (folder, file) = temporary_file("control")?;
        let printed = printed(&["21\tAug\u{1b}99", "--output", &file]);
        std::fs::remove_dir_all(folder)?;
        assert!(!printed?.contains(|c: char| c.is_control() && c != '\n'));
        Ok(())
    }

    #[test]
    fn wrong_arguments_are_told() {
        assert_eq!(complaint(&[""]), "the date is empty");
        assert_eq!(complaint(&["--output"]), "missing argument for option '--output'");
        assert_eq!(complaint(&["--date", "x"]), "invalid option '--date'; --help lists the options");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/no.svg");
        assert!(complaint(&["21 Aug 99", "--output", file]).contains("Cargo.toml/no.svg: "));
    }
}
