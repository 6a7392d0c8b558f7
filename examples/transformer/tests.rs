use super::*;

type Outcome = Result<(), Box<dyn Error>>;

/// Dimensions that no vector's length divides.
const SMALL: Sizes = Sizes { model: 10, heads: 2, hidden: 13 };

/// What the program prints, and its two pictures.
fn ran(name: &str, setup: &Setup) -> Result<(String, [String; 2]), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("transformer_{name}_{}", std::process::id()));
    let args = ["--head".as_ref(), "1".as_ref(), "--folder".as_ref(), folder.as_os_str()];
    let options = Options::parse(args, setup.model.sizes.heads)?.ok_or("no options")?;
    let mut out = Vec::new();
    run(setup, &options, Terminal { color: false, width: 80 }, &mut out)?;
    let read = |name: &str| std::fs::read_to_string(folder.join(format!("transformer_{name}_head1.svg")));
    let pictures = [read("self")?, read("cross")?];
    std::fs::remove_dir_all(&folder)?;
    Ok((String::from_utf8(out)?, pictures))
}

fn complaint(name: &str, setup: &Setup) -> String {
    ran(name, setup).map_or_else(|error| error.to_string(), |_| "no complaint".to_owned())
}

#[test]
fn a_small_model_is_right_and_shown() -> Outcome {
    let (printed, [causal, cross]) = ran("small", &Setup::new(SMALL, 1, [5, 3]))?;
    assert!(printed.contains("5 source tokens, 3 target tokens"), "{printed}");
    assert!(printed.contains("The mask: "), "{printed}");
    assert!(printed.contains("Decoder, causal self-attention, head 1\n\n  1 2 3\n1 ██· ·\n"), "{printed}");
    assert!(printed.contains("Decoder, cross-attention to the encoder's output, head 1\n\n  1 2 3 4 5\n"), "{printed}");
    // The first token sees itself only.
    assert!(causal.contains("<title>1 → 1: 1.00</title>") && !causal.contains("<title>1 → 2"), "{causal}");
    assert!(cross.contains("<title>1 → 5: "), "{cross}");
    Ok(())
}

#[test]
fn differences_are_roundings_whatever_the_weights() -> Outcome {
    for seed in 0..50 {
        for sizes in [SMALL, SIZES] {
            let Setup { model, source, target } = Setup::new(sizes, seed, [12, 9]);
            let (source, target) = (Tokens::embed(&source, sizes.model), Tokens::embed(&target, sizes.model));
            let accuracy = Accuracy::new(&model.forward(&source, &target)?, &exact::forward(&model, &source, &target));
            accuracy.check()?;
        }
    }
    Ok(())
}

#[test]
fn what_is_off_is_an_error() -> Outcome {
    let Setup { mut model, source, target } = Setup::new(SMALL, 1, [5, 3]);
    let (source, target) = (Tokens::embed(&source, SMALL.model), Tokens::embed(&target, SMALL.model));
    let exact = exact::forward(&model, &source, &target);
    model.encoder.self_attention.projections[0].weights[0] += 1e-2;
    assert!(Accuracy::new(&model.forward(&source, &target)?, &exact).check().is_err());
    model.encoder.self_attention.projections[0].weights[0] = f32::NAN;
    assert!(Accuracy::new(&model.forward(&source, &target)?, &exact).check().is_err());
    Ok(())
}

#[test]
fn without_the_mask_later_tokens_are_seen() {
    let mut setup = Setup::new(SMALL, 1, [5, 3]);
    setup.model.decoder.self_attention.causal = false;
    let expected = "another word at target token 1 changes the output at token 0";
    assert_eq!(complaint("unmasked", &setup), expected);
}

#[test]
fn weights_of_a_query_sum_to_one() -> Outcome {
    let Setup { model, source, target } = Setup::new(SIZES, SEED, [12, 9]);
    let (source, target) = (Tokens::embed(&source, SIZES.model), Tokens::embed(&target, SIZES.model));
    let activations = model.forward(&source, &target)?;
    for row in activations.causal.chunks(target.len()).chain(activations.cross.chunks(source.len())) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_told_with_the_right_ones() {
    let complaint = |args: &[&str]| Options::parse(args, 4).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(complaint(&["--head", "4"]), Err("--head \"4\": must be a number below 4".to_owned()));
    assert_eq!(complaint(&["--head=x"]), Err("--head \"x\": must be a number below 4".to_owned()));
    assert_eq!(complaint(&["--layer"]), Err("invalid option '--layer'; --help lists the options".to_owned()));
    assert!(Options::parse(["-h"], 4).is_ok_and(|options| options.is_none()));
}
