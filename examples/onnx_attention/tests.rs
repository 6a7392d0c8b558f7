//! The bundled cases, and files made from them.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fs,
    path::PathBuf,
};

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use simd_attention::Backend;

use crate::{case::Tolerance, execute, options::BUNDLED, tensor::Tensor};

type Outcome = Result<(), Box<dyn Error>>;

/// What the program prints, and what is wrong if it fails.
fn executed(args: &[&str]) -> (String, Result<(), String>) {
    let mut out = Vec::new();
    let result = execute(args, &mut out).map_err(|error| error.to_string());
    (String::from_utf8_lossy(&out).into_owned(), result)
}

/// A file to be written, tensors and metadata.
struct Draft {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl Draft {
    /// The bundled cases that are chosen.
    fn bundled(is_chosen: impl Fn(&str) -> bool) -> Result<Self, Box<dyn Error>> {
        let bytes = fs::read(BUNDLED)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let mut metadata = header.metadata().clone().unwrap_or_default();
        metadata.retain(|case, _| is_chosen(case));
        let file = SafeTensors::deserialize(&bytes)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            if name.split('/').next().is_some_and(&is_chosen) {
                tensors.insert(name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
            }
        }
        Ok(Self { tensors, metadata })
    }

    fn one(case: &str) -> Result<Self, Box<dyn Error>> {
        Self::bundled(|name| name == case)
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        let zeros = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec(), zeros));
    }

    fn attributes(&mut self, case: &str, attributes: &str) {
        self.metadata.insert(case.to_owned(), format!("{{\"attributes\": {attributes}}}"));
    }

    /// Written, and run by the program.
    fn executed(&self, backend: Backend) -> Result<Executed, Box<dyn Error>> {
        let mut views = BTreeMap::new();
        for (name, (dtype, shape, data)) in &self.tensors {
            views.insert(name, TensorView::new(*dtype, shape.clone(), data)?);
        }
        let (input, output) = (TemporaryFile::new("in"), TemporaryFile::new("out"));
        fs::write(&input.0, safetensors::serialize(views, Some(self.metadata.clone()))?)?;
        let paths = [input.0.to_str(), output.0.to_str()].map(Option::unwrap_or_default);
        let (printed, result) = executed(&[paths[0], paths[1], "--backend", &backend.to_string()]);
        Ok(Executed { printed, result, written: fs::read(&output.0)? })
    }
}

/// What the program prints, what is wrong if it fails, and what it writes.
struct Executed {
    printed: String,
    result: Result<(), String>,
    written: Vec<u8>,
}

impl Executed {
    fn floats(&self, name: &str) -> Result<Tensor<f32>, Box<dyn Error>> {
        Ok(Tensor::floats(&SafeTensors::deserialize(&self.written)?.tensor(name)?)?)
    }
}

/// A path of its own, removed at the end.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str) -> Self {
        let (process, thread) = (std::process::id(), std::thread::current().id());
        Self(std::env::temp_dir().join(format!("onnx_attention_{name}_{process}_{thread:?}.safetensors")))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn bundled_cases_are_within_tolerance_on_every_backend() {
    for backend in Backend::available() {
        let (printed, result) = executed(&["--backend", &backend.to_string()]);
        assert_eq!(result, Ok(()), "{printed}");
        assert_eq!(printed.lines().filter(|line| line.contains(": within rtol ")).count(), 61, "{printed}");
        let total =
            "61 cases (96 outputs compared): 61 within tolerance, 0 out of tolerance, 0 not compared, 0 failed\n";
        assert!(printed.ends_with(total), "{printed}");
    }
}

#[test]
fn every_output_is_written_as_it_is_expected() -> Outcome {
    for backend in Backend::available() {
        let draft = Draft::bundled(|_| true)?;
        let executed = draft.executed(backend)?;
        let file = SafeTensors::deserialize(&executed.written)?;
        let mut compared = 0;
        for (name, (dtype, shape, bytes)) in &draft.tensors {
            let Some((case, output)) = name.split_once("/out.") else { continue };
            let actual = executed.floats(&format!("{case}/{output}"))?;
            assert_eq!((actual.dtype, &actual.shape), (*dtype, shape), "{name}");
            let expected = Tensor::floats(&TensorView::new(*dtype, shape.clone(), bytes)?)?;
            // Of bf16, two units in the last place: see `Tolerance::of`.
            let tolerance = Tolerance { rtol: if *dtype == Dtype::BF16 { 1.0 / 64.0 } else { 1e-3 }, atol: 1e-7 };
            let is_within = actual.data.iter().zip(&expected.data).all(|(a, e)| tolerance.allows(*a, *e));
            assert!(is_within, "{name} on {backend}");
            compared += 1;
        }
        assert_eq!((draft.metadata.len(), compared), (61, 96));

        for case in draft.metadata.keys() {
            let has_past = draft.tensors.contains_key(&format!("{case}/past_key"));
            for (output, is_due) in
                [("Y", true), ("qk_matmul_output", true), ("present_key", has_past), ("present_value", has_past)]
            {
                assert_eq!(file.tensor(&format!("{case}/{output}")).is_ok(), is_due, "{case}/{output}");
            }
        }
    }
    Ok(())
}

#[test]
fn scores_are_written_unasked_in_types_and_shapes_of_the_case() -> Outcome {
    let executed = Draft::bundled(|_| true)?.executed(Backend::best())?;
    for (case, dtype, shape) in [
        ("attention_3d_gqa_softcap", Dtype::F32, [2, 9, 4, 6]),
        ("attention_4d_causal_fp16", Dtype::F16, [2, 3, 4, 6]),
        ("attention_4d_padded_kv_bf16", Dtype::BF16, [2, 3, 4, 6]),
        ("attention_4d_causal_with_past_and_present", Dtype::F32, [2, 3, 4, 7]),
    ] {
        let scores = executed.floats(&format!("{case}/qk_matmul_output"))?;
        assert_eq!((scores.dtype, scores.shape.as_slice()), (dtype, &shape[..]), "{case}");
    }
    Ok(())
}

#[test]
fn values_may_be_of_another_type_than_keys() -> Outcome {
    let mut draft = Draft::one("attention_4d")?;
    let (dtype, _, bytes) = draft.tensors.get_mut("attention_4d/V").ok_or("no values")?;
    *bytes = bytes.as_chunks().0.iter().flat_map(|x| f16::from_f32(f32::from_le_bytes(*x)).to_le_bytes()).collect();
    *dtype = Dtype::F16;
    let executed = draft.executed(Backend::best())?;
    assert_eq!(executed.result, Ok(()), "{}", executed.printed);
    assert_eq!(executed.floats("attention_4d/Y")?.dtype, Dtype::F32);
    Ok(())
}

#[test]
fn results_need_not_be_expected() -> Outcome {
    let mut draft = Draft::bundled(|_| true)?;
    let expected = draft.executed(Backend::best())?;
    draft.tensors.retain(|name, _| !name.contains("/out."));
    draft.metadata.insert("format".to_owned(), "pt".to_owned());
    let executed = draft.executed(Backend::best())?;
    assert_eq!(executed.result, Ok(()));
    assert_eq!(executed.printed.lines().filter(|line| line.ends_with(": nothing to compare with")).count(), 61);
    assert_eq!(executed.written, expected.written);
    Ok(())
}

#[test]
fn a_result_that_is_off_is_an_error() -> Outcome {
    let mut draft = Draft::bundled(|case| case.starts_with("attention_4d_gqa"))?;
    draft.put("attention_4d_gqa_scaled/out.Y", Dtype::F32, &[2, 9, 4, 8]);
    let Executed { printed, result, .. } = draft.executed(Backend::best())?;
    assert_eq!(result, Err("1 out of tolerance, 0 failed".to_owned()));
    let line = printed.lines().find(|line| line.starts_with("attention_4d_gqa_scaled ")).ok_or("no line")?;
    assert!(line.ends_with(": OUT OF rtol 1e-3, atol 1e-7"), "{line}");
    assert!(printed.ends_with(": 5 within tolerance, 1 out of tolerance, 0 not compared, 0 failed\n"), "{printed}");
    Ok(())
}

/// What is said of a case once it has been changed. Another one is still run.
fn complaint(case: &str, change: impl FnOnce(&mut Draft)) -> Result<String, Box<dyn Error>> {
    let sound = "attention_4d_fp16";
    let mut draft = Draft::bundled(|name| name == case || name == sound)?;
    change(&mut draft);
    let executed = draft.executed(Backend::best())?;
    assert_eq!(executed.result, Err("0 out of tolerance, 1 failed".to_owned()), "{case}");
    executed.floats(&format!("{sound}/Y"))?;
    let line = executed.printed.lines().find(|line| line.starts_with(case)).ok_or("no line")?;
    Ok(line.split_once("  ERROR: ").map_or(line, |(_, error)| error).to_owned())
}

/// What is said of a case of which a tensor has been replaced with zeros.
fn complaint_about(name: &str, dtype: Dtype, shape: &[usize]) -> Result<String, Box<dyn Error>> {
    let (case, _) = name.split_once('/').ok_or("no case")?;
    complaint(case, |draft| draft.put(name, dtype, shape))
}

#[test]
fn tensors_that_do_not_fit_are_errors() -> Outcome {
    use Dtype::{BOOL, F16, F32, F64, I32, I64};
    for (name, dtype, shape, error) in [
        ("attention_4d/Q", F64, &[2, 3, 4, 8][..], "Q has elements of F64; F32, F16 or BF16 are needed"),
        ("attention_4d/Q", F16, &[2, 3, 4, 8], "Q is of F16, K of F32"),
        ("attention_4d/Q", F32, &[2, 2, 4, 8], "2 query heads cannot share 3 key/value heads evenly"),
        ("attention_4d/K", F32, &[2, 3, 6], "K 2x3x6 is of an unknown number of heads"),
        ("attention_3d_scaled/V", F32, &[2, 6, 25], "V 2x6x25 is not of 3 heads"),
        ("attention_4d/V", F32, &[2, 3, 5, 8], "Value has Len = 5, the other operands ask for 6"),
        ("attention_4d/W", F32, &[1], "unknown tensor \"W\""),
        ("attention_4d/out.Z", F32, &[1], "there is no output Z"),
        ("attention_4d/out.Y", F32, &[2, 4, 24], "Y is F32 2x3x4x8, F32 2x4x24 is expected"),
        ("attention_4d/out.Y", I32, &[1], "out.Y has elements of I32; F32, F16 or BF16 are needed"),
        ("attention_4d/attn_mask", I32, &[4, 6], "attn_mask has elements of I32; F32, F16 or BF16 are needed"),
        ("attention_4d/attn_mask", BOOL, &[3, 6], "Mask has Len = 3, the other operands ask for 4"),
        ("attention_4d/attn_mask", F32, &[2, 4, 6], "Bias has Heads = 2, the other operands ask for 3"),
        ("attention_4d/attn_mask", F32, &[4, 7], "attn_mask 4x7 does not fit 6 keys"),
        ("attention_4d/attn_mask", F32, &[4, 0], "attn_mask 4x0 does not fit 6 keys"),
        ("attention_4d/attn_mask", F32, &[1, 1, 1, 4, 6], "attn_mask 1x1x1x4x6 is of rank 5"),
        ("attention_4d/past_key", F32, &[2, 3, 6, 8], "past_key and past_value go together"),
        ("attention_4d/nonpad_kv_seqlen", I32, &[2], "nonpad_kv_seqlen has elements of I32; I64 is needed"),
        ("attention_4d/nonpad_kv_seqlen", I64, &[3], "KeyLens has 3 elements, 2 are needed"),
    ] {
        assert_eq!(complaint_about(name, dtype, shape)?, error);
    }
    let past = "attention_4d_with_past_and_present_qk_matmul";
    for (tensor, dtype, shape, error) in [
        ("past_key", F32, &[2, 3, 12, 9][..], "past_key F32 2x3x12x9 does not go before F32 2x3x6x8"),
        ("past_value", F16, &[2, 3, 12, 8], "past_value F16 2x3x12x8 does not go before F32 2x3x6x8"),
        ("past_value", F32, &[2, 3, 11, 8], "Value has Len = 17, the other operands ask for 18"),
        ("past_key", F32, &[6, 12, 8], "past_key 6x12x8 is not of rank 4"),
        ("nonpad_kv_seqlen", I64, &[2], "nonpad_kv_seqlen does not go together with past_key"),
    ] {
        assert_eq!(complaint_about(&format!("{past}/{tensor}"), dtype, shape)?, error);
    }
    Ok(())
}

#[test]
fn lengths_that_cannot_be_are_errors() -> Outcome {
    let name = "attention_4d/nonpad_kv_seqlen";
    for (len, error) in [
        (-1_i64, "nonpad_kv_seqlen has a negative number: -1"),
        (7, "sequence 1 is said to have 7 keys, there is room for 6"),
    ] {
        let lens = [6, len].map(i64::to_le_bytes).concat();
        let change = |draft: &mut Draft| _ = draft.tensors.insert(name.to_owned(), (Dtype::I64, vec![2], lens));
        assert_eq!(complaint("attention_4d", change)?, error);
    }
    Ok(())
}

#[test]
fn attributes_that_cannot_be_are_errors() -> Outcome {
    let case = "attention_4d";
    for (attributes, error) in [
        ("{\"is_causal\": 2}", "is_causal is 2"),
        ("{\"left_window_size\": -2}", "left_window_size is -2"),
        ("{\"qk_matmul_output_mode\": 4}", "qk_matmul_output_mode is 4"),
        ("{\"softmax_precision\": 7}", "softmax_precision 7 is no type of floating-point numbers"),
        ("{\"softcap\": -1.0}", "softcap -1 (or softcap * log2(e)) is not a positive, finite number"),
        ("{\"q_num_heads\": 4}", "Q 2x3x4x8 is not of 4 heads"),
        ("{\"kv_num_heads\": 0}", "K 2x3x6x8 is not of 0 heads"),
    ] {
        assert_eq!(complaint(case, |draft| draft.attributes(case, attributes))?, error);
    }
    assert!(complaint(case, |draft| draft.attributes(case, "{\"bias\": 1}"))?.starts_with("unknown field `bias`"));
    let undescribed = complaint(case, |draft| _ = draft.metadata.remove(case))?;
    assert_eq!(undescribed, "is not described in the metadata");
    Ok(())
}

#[test]
fn a_case_without_tensors_is_an_error() -> Outcome {
    let case = "attention_4d";
    assert_eq!(
        complaint(case, |draft| draft.tensors.retain(|name, _| !name.starts_with("attention_4d/")))?,
        "Q is missing"
    );
    Ok(())
}

#[test]
fn masked_and_padded_keys_have_scores_before_the_mask_and_none_after_it() -> Outcome {
    let case = "attention_4d_causal_nonpad_attn_mask_composition";
    let mut draft = Draft::one(case)?;
    let scores = [0, 1, 2, 3].map(|mode| {
        draft.attributes(case, &format!("{{\"is_causal\": 1, \"qk_matmul_output_mode\": {mode}}}"));
        Ok::<_, Box<dyn Error>>(draft.executed(Backend::best())?.floats(&format!("{case}/qk_matmul_output"))?.data)
    });
    let [scaled, capped, masked, weights] = scores;
    let (scaled, masked, weights) = (scaled?, masked?, weights?);
    assert!(scaled.iter().all(|score| score.is_finite()));
    assert_eq!(capped?, scaled);
    assert!(masked.iter().any(|score| score.is_finite()));
    for ((scaled, masked), weight) in scaled.iter().zip(&masked).zip(&weights) {
        assert!(masked == scaled && *weight > 0.0 || *masked == f32::NEG_INFINITY && *weight == 0.0);
    }
    Ok(())
}

#[test]
fn closeness_is_that_of_numpy() {
    let tolerance = Tolerance { rtol: 0.125, atol: 0.5 };
    let infinity = f32::INFINITY;
    for (actual, expected, is_allowed) in [
        (9.5, 8.0, true),
        (6.5, 8.0, true),
        (9.625, 8.0, false),
        (-6.5, -8.0, true),
        (infinity, infinity, true),
        (-infinity, infinity, false),
        (8.0, infinity, false),
        (infinity, 8.0, false),
        (f32::NAN, 8.0, false),
        (f32::NAN, f32::NAN, false),
    ] {
        assert_eq!(tolerance.allows(actual, expected), is_allowed, "{actual} {expected}");
    }
}

#[test]
fn wrong_arguments_are_told_with_the_right_ones() {
    let complaint = |args: &[&str]| executed(args).1.err().unwrap_or_default();
    let usage = "Usage: cargo run --release --example onnx_attention -- [IN OUT] [OPTIONS]";
    for (args, error) in [
        (&["in.safetensors"][..], "OUT is missing\n"),
        (&["a", "b", "c"], "unexpected argument \"c\"\n"),
        (&["--heads"], "invalid option '--heads'\n"),
    ] {
        let complaint = complaint(args);
        assert!(complaint.starts_with(error) && complaint.contains(usage), "{complaint}");
    }
    assert!(complaint(&["--backend", "mmx"]).starts_with("--backend \"mmx\": must be one of portable"));
    assert!(complaint(&["/no/such/file", "out"]).starts_with("/no/such/file: "));
    assert!(complaint(&[BUNDLED, "/no/such/folder/out"]).starts_with("/no/such/folder/out: "));
    assert!(executed(&["--help"]).0.contains(usage));
}

#[test]
fn a_file_without_cases_is_an_error() -> Outcome {
    let empty = TemporaryFile::new("empty");
    fs::write(&empty.0, safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), None)?)?;
    let (_, result) = executed(&[empty.0.to_str().unwrap_or_default(), "out"]);
    assert!(result.is_err_and(|error| error.ends_with(": there are no cases")));
    Ok(())
}
