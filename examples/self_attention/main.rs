//! Self-attention step by step: the worked example of "Illustrated: Self-Attention" (Raimi Karim, 2019).
//!
//! ```text
//! cargo run --release --example self_attention -- [--output FILE]
//! ```

mod options;
#[path = "../picture/mod.rs"]
mod picture;
mod table;
mod tutorial;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use options::Options;
use picture::{Axis, Heatmap, Terminal};
use table::{Column, Table};
use tutorial::{INPUTS, KEY_WEIGHTS, QUERY_WEIGHTS, ROUNDED_WEIGHTS, Steps, VALUE_WEIGHTS};

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("self_attention: {error}");
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

/// Computes all steps, tells them, and shows the attention matrix.
fn run(Options { output }: &Options, terminal: Terminal, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let steps = Steps::compute()?;
    tell_projections(&steps, out)?;
    tell_attention(&steps, out)?;
    tell_outputs(&steps, out)?;

    let labels = ["1", "2", "3"].map(str::to_owned);
    let heatmap = Heatmap {
        title: "What each input attends to",
        rows: Axis { name: "query of input", labels: &labels },
        columns: Axis { name: "key of input", labels: &labels },
        weights: steps.weights.as_flattened(),
    };
    heatmap.save(output)?;
    writeln!(out, "{}\npicture   {}", heatmap.terminal(terminal), output.display())?;
    Ok(())
}

/// A step: what it computes, and the numbers.
fn tell(out: &mut impl Write, heading: &str, row: &str, columns: &[Column]) -> io::Result<()> {
    writeln!(out, "{heading}\n\n{}", Table { row, columns })
}

/// From the inputs to keys, queries and values.
fn tell_projections(steps: &Steps, out: &mut impl Write) -> io::Result<()> {
    tell(out, "1. The inputs", "input", &[Column::new("", &INPUTS, 0)])?;
    let weights = [
        Column::new("for keys", &KEY_WEIGHTS, 0),
        Column::new("for queries", &QUERY_WEIGHTS, 0),
        Column::new("for values", &VALUE_WEIGHTS, 0),
    ];
    tell(out, "2. The weights, which multiply an input from the right", "", &weights)?;
    let projected = [
        Column::new("key", &steps.keys, 0),
        Column::new("query", &steps.queries, 0),
        Column::new("value", &steps.values, 0),
    ];
    tell(out, "3. The key, query and value of each input", "input", &projected)
}

/// From scores to weighted values.
fn tell_attention(steps: &Steps, out: &mut impl Write) -> io::Result<()> {
    let scores = [Column::new("scores of keys 1, 2, 3", &steps.scores, 0)];
    let heading =
        "4. The scores: dot products of each query with all keys (the tutorial does not divide them by sqrt(3))";
    tell(out, heading, "query", &scores)?;
    let weights = [Column::new("weights of keys 1, 2, 3", &steps.weights, 4)];
    tell(out, "5. The softmax of each query's scores", "query", &weights)?;
    writeln!(out, "6. The values, each times its weight\n")?;
    for (i, (weights, weighted)) in (1..).zip(steps.weights.iter().zip(&steps.weighted_values)) {
        let columns = [
            Column::new(&format!("query {i}"), &weights.map(|weight| [weight]), 4),
            Column::new("x value", &steps.values, 0),
            Column::new("= weighted value", weighted, 4),
        ];
        writeln!(out, "{}", Table { row: "key", columns: &columns })?;
    }
    Ok(())
}

/// The outputs, beside those that readers of the tutorial know.
fn tell_outputs(steps: &Steps, out: &mut impl Write) -> io::Result<()> {
    let outputs = [Column::new("output", &steps.outputs, 4)];
    tell(out, "7. The outputs: sums of each query's weighted values", "query", &outputs)?;
    let rounded =
        [Column::new("rounded weights", &ROUNDED_WEIGHTS, 1), Column::new("output", &steps.rounded_outputs, 1)];
    let heading =
        "The tutorial rounds the softmax to one digit (its 0.06 to 0.0, to keep a sum of 1) and therefore has:";
    tell(out, heading, "query", &rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    /// What the program prints, and the picture that it writes.
    fn printed(name: &str) -> Result<(String, String), Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("self_attention_{name}_{}.svg", std::process::id()));
        let options = Options::parse(["--output".as_ref(), path.as_os_str()])?.ok_or("no options")?;
        let mut out = Vec::new();
        run(&options, Terminal { color: false, width: 80 }, &mut out)?;
        let svg = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        Ok((String::from_utf8(out)?, svg))
    }

    #[test]
    fn the_numbers_of_the_tutorial_are_told() -> Outcome {
        let (printed, svg) = printed("numbers")?;
        for expected in [
            "            key     query   value
   input 1  0 1 1   1 0 2   1 2 3
   input 2  4 4 0   2 2 2   2 8 0
   input 3  2 3 1   2 1 3   2 6 3
",
            "   query 1   2  4  4
   query 2   4 16 12
   query 3   4 12 10
",
            "   query 1  0.0634 0.4683 0.4683
   query 2  0.0000 0.9820 0.0180
   query 3  0.0003 0.8805 0.1192
",
            "   key 2  0.4683    2 8 0     0.9366 3.7465 0.0000\n",
            "   query 1  1.9366 6.6831 1.5951
   query 2  2.0000 7.9640 0.0540
   query 3  1.9997 7.7599 0.3584
",
            "   query 1  0.0 0.5 0.5       2.0 7.0 1.5
   query 2  0.0 1.0 0.0       2.0 8.0 0.0
   query 3  0.0 0.9 0.1       2.0 7.8 0.3
",
            "1 ░░▓▓▓▓\n2 · ██·\n3 · ██░░\n",
        ] {
            assert!(printed.contains(expected), "{expected}in\n{printed}");
        }
        assert!(svg.contains("<title>2 → 2: 0.98</title>"), "{svg}");
        Ok(())
    }

    #[test]
    fn steps_go_from_1_to_7() -> Outcome {
        let (printed, _) = printed("steps")?;
        let steps: Vec<&str> = printed.lines().filter_map(|line| Some(line.split_once(". The ")?.0)).collect();
        assert_eq!(steps, ["1", "2", "3", "4", "5", "6", "7"]);
        Ok(())
    }

    #[test]
    fn wrong_arguments_are_told() {
        let complaint = |args: &[&str]| Options::parse(args).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(complaint(&["--head"]), Err("invalid option '--head'; --help lists the options".to_owned()));
        assert_eq!(complaint(&["--output"]), Err("missing argument for option '--output'".to_owned()));
        assert!(Options::parse(["--help"]).is_ok_and(|options| options.is_none()));
    }
}
