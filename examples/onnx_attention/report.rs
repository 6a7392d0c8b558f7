//! How cases went.

use std::{error::Error, fmt};

use safetensors::Dtype;

use crate::{
    case::{Case, Tolerance},
    operator::Outputs,
    tensor::Tensor,
};

/// How a case went that could be computed.
pub struct Report {
    inputs: String,
    tolerance: Tolerance,
    comparisons: Vec<Comparison>,
}

/// An output beside what it should be.
struct Comparison {
    output: String,
    /// The largest absolute difference.
    error: f64,
    is_within: bool,
}

impl Report {
    /// Compares with all that is expected.
    pub fn new(case: &Case, outputs: &Outputs) -> Result<Self, Box<dyn Error>> {
        let tolerance = case.tolerance.of(case.inputs.q.dtype);
        let compare = |(name, expected): (&String, &Tensor<f32>)| {
            let actual = outputs.iter().find(|(output, _)| output == name);
            let (_, actual) = actual.ok_or_else(|| format!("there is no output {name}"))?;
            Comparison::new(name, actual, expected, tolerance)
        };
        let comparisons = case.expected.iter().map(compare).collect::<Result<_, String>>()?;
        Ok(Self { inputs: case.inputs.to_string(), tolerance, comparisons })
    }

    fn is_within(&self) -> bool {
        self.comparisons.iter().all(|comparison| comparison.is_within)
    }
}

impl Comparison {
    fn new(output: &str, actual: &Tensor<f32>, expected: &Tensor<f32>, tolerance: Tolerance) -> Result<Self, String> {
        if (actual.dtype, &actual.shape) != (expected.dtype, &expected.shape) {
            let [actual, expected] = [actual, expected].map(|tensor| format!("{} {}", tensor.dtype, tensor.extents()));
            return Err(format!("{output} is {actual}, {expected} is expected"));
        }
        let pairs = || actual.data.iter().copied().zip(expected.data.iter().copied());
        Ok(Self {
            output: output.to_owned(),
            error: pairs().map(|(actual, expected)| distance(actual, expected)).fold(0.0, f64::max),
            is_within: pairs().all(|(actual, expected)| tolerance.allows(actual, expected)),
        })
    }
}

impl Tolerance {
    /// What is allowed of a case in this type. The results that ONNX expects in bf16 come from arithmetic in bf16, rounded
    /// after each operation; its own test runner allows two units in the last place.
    fn of(self, dtype: Dtype) -> Self {
        const TWO_UNITS: f64 = 1.0 / 64.0;
        if dtype == Dtype::BF16 { Self { rtol: self.rtol.max(TWO_UNITS), ..self } } else { self }
    }

    /// As `numpy.isclose`: a NaN is close to nothing, an infinity to itself.
    pub fn allows(self, actual: f32, expected: f32) -> bool {
        let allowed = self.atol + self.rtol * f64::from(expected.abs());
        actual == expected || expected.is_finite() && distance(actual, expected) <= allowed
    }
}

/// The absolute difference: none of equal infinities, an infinite one from NaN.
fn distance(actual: f32, expected: f32) -> f64 {
    let difference = (f64::from(actual) - f64::from(expected)).abs();
    match (actual == expected, difference.is_nan()) {
        (true, _) => 0.0,
        (false, true) => f64::INFINITY,
        (false, false) => difference,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, tolerance: Tolerance { rtol, atol }, comparisons } = self;
        if comparisons.is_empty() {
            return write!(f, "{inputs}: nothing to compare with");
        }
        let errors: Vec<String> = comparisons.iter().map(Comparison::to_string).collect();
        let verdict = if self.is_within() { "within" } else { "OUT OF" };
        write!(f, "{inputs}: max error of {}: {verdict} rtol {rtol:e}, atol {atol:e}", errors.join(", "))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.1e}", self.output, self.error)
    }
}

/// How all cases went.
#[derive(Default)]
pub struct Tally {
    within: usize,
    out: usize,
    not_compared: usize,
    failed: usize,
    comparisons: usize,
}

impl Tally {
    pub fn count(&mut self, report: &Result<Report, Box<dyn Error>>) {
        let count = match report {
            Err(_) => &mut self.failed,
            Ok(report) if report.comparisons.is_empty() => &mut self.not_compared,
            Ok(report) if report.is_within() => &mut self.within,
            Ok(_) => &mut self.out,
        };
        *count += 1;
        self.comparisons += report.as_ref().map_or(0, |report| report.comparisons.len());
    }

    /// Whether all could be computed, and nothing is out of tolerance.
    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        match self {
            Self { out: 0, failed: 0, .. } => Ok(()),
            Self { out, failed, .. } => Err(format!("{out} out of tolerance, {failed} failed").into()),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { within, out, not_compared, failed, comparisons } = self;
        write!(
            f,
            "{} cases ({comparisons} outputs compared): {within} within tolerance, {out} out of tolerance, \
             {not_compared} not compared, {failed} failed",
            within + out + not_compared + failed
        )
    }
}
