//! Replays what the fuzzer has found worth keeping.

use crate::common::fuzz_input::Outcome;
use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::Path,
};

#[test]
fn every_input_of_the_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return println!("the published package comes without the corpus");
    }
    let inputs: Vec<_> =
        fs::read_dir(fuzz.join("corpus/forward")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        println!("{}", input.display());
        crate::common::fuzz_input::check(&fs::read(input).unwrap());
    }
}

/// Short and empty inputs, which read as calls that end in zeros.
#[test]
fn no_bytes_and_few() {
    for len in 0..64 {
        for byte in [0, 1, 2, 15, 16, 127, 128, 254, 255] {
            crate::common::fuzz_input::check(&vec![byte; len]);
        }
    }
}

/// Calls as random as the fuzzer's first, others each time; most of them are such that there is an answer to check.
#[test]
fn random_bytes() {
    let seed = std::env::var("SEED").map_or_else(|_| RandomState::new().hash_one(0), |seed| seed.parse().unwrap());
    println!("again with SEED={seed}");
    let mut random = crate::common::Random::new(seed);
    let outcomes: Vec<Outcome> = (0..2000)
        .map(|_| {
            let bytes: Vec<u8> = (0..200).map(|_| random.bits() as u8).collect();
            crate::common::fuzz_input::check(&bytes)
        })
        .collect();
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let counts = [Outcome::Answered, Outcome::Refused, Outcome::Skipped].map(count);
    println!("answered, refused, skipped: {counts:?}");
    assert!(counts[0] > 500 && counts[1] > 200, "{counts:?}");
}
