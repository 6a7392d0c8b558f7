use simd_attention::Backend;

use super::*;
use crate::{
    accuracy::{Accuracy, Magnitudes},
    cache::Cache,
    options::Layer,
};

type Outcome = Result<(), Box<dyn Error>>;

/// Small layers, some of dimensions that no vector's length divides, on every backend and pages of several sizes.
fn small() -> impl Iterator<Item = Options> {
    Backend::available().flat_map(|backend| {
        [(4, 2, 16), (6, 2, 10), (3, 3, 33), (24, 2, 8)].into_iter().flat_map(move |(heads, kv_heads, dim)| {
            let layer = Layer { heads, kv_heads, dim, backend };
            [1, 3, 16].map(|page_size| Options { layer, page_size, sequences: 3, prompt: 40, steps: 30 })
        })
    })
}

fn bits(outputs: &[f32]) -> Vec<u32> {
    outputs.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn errors_are_those_of_bytes() -> Outcome {
    for options in small() {
        let mut out = Vec::new();
        run(&options, &mut out)?;
        let out = String::from_utf8(out)?;
        assert!(out.contains(&format!("backend {}", options.layer.backend)), "{out}");
        let is_numbers =
            |line: &&str| !line.is_empty() && line.split_whitespace().all(|word| word.parse::<f64>().is_ok());
        assert_eq!(out.lines().filter(is_numbers).count(), CHECKPOINTS, "{out}");
    }
    Ok(())
}

#[test]
fn prompts_share_pages_and_generated_tokens_do_not() -> Outcome {
    for options in small() {
        let mut decoder = Decoder::new(&options, 0..3)?;
        let shared: usize = (1..3).map(|sequence| options.prompt_of(sequence) / options.page_size).sum();
        for step in 0..=options.steps {
            let needed: usize = decoder.paged.lens().iter().map(|len| len.div_ceil(options.page_size)).sum();
            assert_eq!(decoder.paged.lens(), [0, 1, 2].map(|sequence| options.prompt_of(sequence) + step));
            assert_eq!((decoder.paged.pages_in_use(), decoder.paged.pages_saved()), (needed - shared, shared));
            if step < options.steps {
                decoder.step()?;
            }
        }
    }
    Ok(())
}

/// Alone, a sequence shares nothing, and its pages are others.
#[test]
fn a_sequence_has_the_bits_that_it_has_alone() -> Outcome {
    for options in small() {
        let mut together = Decoder::new(&options, 0..3)?;
        let mut alone: Vec<Decoder> =
            (0..3).map(|sequence| Decoder::new(&options, sequence..sequence + 1)).collect::<Result<_, _>>()?;
        for _ in 0..options.steps {
            together.step()?;
            for (i, alone) in alone.iter_mut().enumerate() {
                alone.step()?;
                for (of_all, of_one) in together.outputs.iter().zip(&alone.outputs) {
                    assert_eq!(bits(&of_all[i * of_one.len()..][..of_one.len()]), bits(of_one));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_bytes_do_not_explain_is_an_error() {
    let mut magnitudes = Magnitudes::default();
    magnitudes.observe(&[1.0, -1.0], &[1.0, 1.0]);
    let bound = magnitudes.bound(&[1.0, 1.0], 2);
    let complaint = |actual: [f32; 2]| {
        let accuracy = Accuracy::new(&[0.5, 0.5], &actual, bound);
        accuracy.check(&magnitudes).map_err(|error| error.to_string())
    };
    assert_eq!(complaint([0.502, 0.5]), Ok(()));
    let expected = "the rms error is 0.800 % of the output's, more than the 0.643 % that bytes explain";
    assert_eq!(complaint([0.496, 0.504]), Err(expected.to_owned()));
    let expected = "an output is off by 1.036 times as much as bytes can be to blame for";
    assert_eq!(complaint([0.49, 0.5]), Err(expected.to_owned()));
    assert_eq!(complaint([0.5, f32::NAN]), Err(expected.replace("1.036", "inf")));
}

#[test]
fn a_cache_that_has_lost_its_keys_is_told() -> Outcome {
    for options in small() {
        let mut decoder = Decoder::new(&options, 0..3)?;
        decoder.step()?.accuracy.check(&decoder.magnitudes)?;
        decoder.paged.end(1);
        assert!(decoder.step()?.accuracy.check(&decoder.magnitudes).is_err());
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_told_with_the_right_ones() {
    let complaint = |args: &[&str]| Options::parse(args).map(|_| ()).map_err(|error| error.to_string());
    let expected = "--heads 30: must be a multiple of --kv-heads, which is 8";
    assert_eq!(complaint(&["--heads", "30"]), Err(expected.to_owned()));
    let expected = "--page-size \"0\": must be a number from 1 to 1048576";
    assert_eq!(complaint(&["--page-size=0"]), Err(expected.to_owned()));
    let expected = "--heads 1048576, --dim 128: must have a product of at most 1048576";
    assert_eq!(complaint(&["--heads", "1048576"]), Err(expected.to_owned()));
    assert_eq!(complaint(&["--layer"]), Err("invalid option '--layer'; --help lists the options".to_owned()));
    assert!(
        complaint(&["--backend", "x"])
            .is_err_and(|error| error.starts_with("--backend \"x\": must be one of portable"))
    );
    assert!(Options::parse(["-h"]).is_ok_and(|options| options.is_none()));
}
