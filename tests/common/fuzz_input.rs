//! Bytes read as a call of the crate, and all that must hold of it. The fuzzer and the replay of its corpus share this.

use super::{
    case::{Answer, Case, MARKER, Mask},
    oracle::Oracle,
    random::{Content, Random},
    tensor::{Layout, Tensor},
};
use simd_attention::{Backend, Error, Output, Shape, Strides, View, ViewMut};

/// Reads on as zeros after the end, so that any bytes are a call.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// In `0 .. end`.
    fn below(&mut self, end: u8) -> usize {
        usize::from(self.byte() % end)
    }

    /// One time in sixteen; never after the end.
    fn seldom(&mut self) -> bool {
        self.byte() % 16 == 15
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|_| self.byte()))
    }

    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(core::array::from_fn(|_| self.byte()))
    }

    /// Mostly small, at times anything.
    fn size(&mut self) -> usize {
        if self.seldom() { self.u64() as usize } else { usize::from(self.byte()) }
    }

    fn mask(&mut self) -> Mask {
        match self.below(4) {
            0 => Mask::Dense,
            1 => Mask::Causal,
            2 => Mask::Offset(i64::from(self.byte()) - 100),
            _ => Mask::Offset(self.u64().cast_signed()),
        }
    }

    fn scale(&mut self) -> Option<f32> {
        match self.below(3) {
            0 => None,
            1 => Some(f32::from(self.byte().cast_signed()) / 16.0),
            _ => Some(self.f32()),
        }
    }

    fn strides(&mut self, shape: Shape) -> Strides {
        if self.seldom() {
            return Strides { batch: self.size(), heads: self.size(), len: self.size() };
        }
        let layout = match self.below(8) {
            0 | 1 => Layout::HeadsFirst,
            2 | 3 => Layout::TokensFirst,
            4 | 5 => Layout::Fused,
            6 => Layout::Padded(self.below(32)),
            _ => {
                let axes = self.byte();
                Layout::Broadcast([1, 2, 4].map(|bit| axes & bit != 0))
            }
        };
        layout.strides(shape)
    }

    fn content(&mut self) -> Content {
        match self.below(6) {
            0 | 1 => Content::Normal(1.0),
            2 => Content::Normal(f32::from(self.byte())),
            3 => Content::Mixed,
            4 => Content::Magnitudes(-149, 127),
            _ => Content::Constant(self.f32()),
        }
    }

    /// A tensor of nearly the wanted shape in any layout, with storage that mostly suffices; some elements are given by the bytes.
    fn tensor(&mut self, shape: Shape) -> Tensor<f32> {
        let shape = self.nearly(shape);
        let strides = self.strides(shape);
        let shortage = if self.seldom() { self.below(5) } else { 0 };
        let len = span(shape, strides).unwrap_or(u128::MAX).min(STORAGE) as usize;
        let (content, mut random) = (self.content(), Random::new(u64::from(self.byte())));
        let data = (0..len.saturating_sub(shortage)).map(|_| content.sample(&mut random)).collect();
        let mut tensor = Tensor { data, shape, strides };
        for _ in 0..self.below(8) {
            let (at, value) = (usize::from(self.byte()) << self.below(8), self.f32());
            if let Some(x) = tensor.data.get_mut(at) {
                *x = value;
            }
        }
        tensor
    }

    /// Seldom one of the extents is another.
    fn nearly(&mut self, mut shape: Shape) -> Shape {
        if self.seldom() {
            let Shape { batch, heads, len, dim } = &mut shape;
            *[batch, heads, len, dim][self.below(4)] = self.size();
        }
        shape
    }
}

/// Elements that a tensor may have at most, and products that a call may take.
const STORAGE: u128 = 1 << 17;
const WORK: u128 = 1 << 21;

/// Elements that shape and strides reach, worked out without care for overflow; `None` where even that is too narrow.
fn span(shape: Shape, strides: Strides) -> Option<u128> {
    let Shape { batch, heads, len, dim } = shape;
    if batch == 0 || heads == 0 || len == 0 {
        return Some(0);
    }
    let axes = [(batch, strides.batch), (heads, strides.heads), (len, strides.len)];
    axes.iter().try_fold(dim as u128, |span, &(extent, stride)| {
        ((extent - 1) as u128).checked_mul(stride as u128)?.checked_add(span)
    })
}

/// A call: everything in it may be wrong.
struct Call {
    case: Case,
    backend: Backend,
    /// How many elements too many (or, if negative, too few).
    lse_excess: Option<i8>,
    scratch_shortage: usize,
}

impl Call {
    fn read(bytes: &mut Bytes<'_>) -> Self {
        let available: Vec<Backend> = Backend::available().collect();
        let backend = available[bytes.below(12) % available.len()];
        let (mask, scale) = (bytes.mask(), bytes.scale());
        let lse_excess = bytes.seldom().then(|| bytes.byte().cast_signed() % 3);
        let scratch_shortage = if bytes.seldom() { bytes.below(20) } else { 0 };

        let (batch, kv_heads, group) = (1 + bytes.below(2), 1 + bytes.below(2), 1 + bytes.below(3));
        let (q_len, kv_len) = (bytes.below(80), usize::from(bytes.byte()) + bytes.below(80));
        let (head_dim, value_dim) = (1 + bytes.below(24), 1 + bytes.below(24));
        let shape = |heads, len, dim| Shape { batch, heads, len, dim };
        let q_heads = group * kv_heads;

        let out = bytes.tensor(shape(q_heads, q_len, value_dim));
        let case = Case {
            name: String::from("fuzz"),
            mask,
            scale,
            q: bytes.tensor(shape(q_heads, q_len, head_dim)),
            k: bytes.tensor(shape(kv_heads, kv_len, head_dim)),
            v: bytes.tensor(shape(kv_heads, kv_len, value_dim)),
            out: Tensor { data: vec![MARKER; out.data.len()], ..out },
        };
        Self { case, backend, lse_excess, scratch_shortage }
    }

    /// Whether it takes too long: broadcast operands, and such without elements, can be endless.
    fn is_heavy(&self) -> bool {
        let Case { q, v, .. } = &self.case;
        let dims = q.shape.dim.saturating_add(v.shape.dim);
        let factors = [q.shape.batch, q.shape.heads, q.shape.len, v.shape.len, dims];
        let product = |work: u128, &factor: &usize| work.checked_mul(factor.max(1) as u128);
        factors.iter().try_fold(1, product).is_none_or(|work| work > WORK)
    }

    /// An answer not yet given, with as many elements for the log-sum-exp as asked for.
    fn blank(&self) -> Answer<f32> {
        let Shape { batch, heads, len, .. } = self.case.q.shape;
        let rows = (batch.saturating_mul(heads).saturating_mul(len)).min(STORAGE as usize);
        let lse = rows.saturating_add_signed(self.lse_excess.unwrap_or(0).into());
        Answer { out: self.case.out.clone(), lse: vec![MARKER; lse] }
    }

    /// Runs it; `parallel` calls of `run` share the work.
    fn run(&self, parallel: usize) -> (Result<(), Error>, Answer<f32>) {
        let mut answer = self.blank();
        let result = self.execute(&mut answer, parallel);
        (result, answer)
    }

    fn execute(&self, answer: &mut Answer<f32>, parallel: usize) -> Result<(), Error> {
        let work = self.case.prepare(self.backend, answer)?;
        let scratch = || vec![f32::NAN; work.scratch_len().saturating_sub(self.scratch_shortage)];
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..parallel).map(|_| scope.spawn(|| work.run(&mut scratch()))).collect();
            let own = work.run(&mut scratch());
            others.into_iter().fold(own, |result, other| result.and(other.join().expect("no panic")))
        })
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Refused,
    /// It would take too long.
    Skipped,
}

/// Panics unless the call that the bytes say gives what it must, or the error it must.
pub fn check(bytes: &[u8]) -> Outcome {
    let call = Call::read(&mut Bytes(bytes));
    let Case { q, k, v, out, .. } = &call.case;
    [q, k, v].into_iter().for_each(check_view);
    check_view_mut(out);
    if call.is_heavy() {
        return Outcome::Skipped;
    }
    match call.run(1) {
        (Ok(()), answer) => {
            check_answer(&call, &answer);
            Outcome::Answered
        }
        (Err(error), answer) => {
            check_error(&call, error, &answer);
            Outcome::Refused
        }
    }
}

/// A view exists exactly if all it reaches is there.
fn check_view(tensor: &Tensor<f32>) {
    let Tensor { data, shape, strides } = tensor;
    let fits = shape.dim > 0 && span(*shape, *strides).is_some_and(|span| span <= data.len() as u128);
    let view = tensor.view();
    assert_eq!(view.is_ok(), fits, "{shape:?} {strides:?} of {}: {view:?}", data.len());
}

/// A view to write exists only if one to read does and no two rows share an element.
fn check_view_mut(tensor: &Tensor<f32>) {
    let mut tensor = tensor.clone();
    let readable = tensor.view().is_ok();
    match tensor.view_mut() {
        Err(error) => assert!(!readable || matches!(error, Error::OverlappingRows { .. }), "{error}"),
        Ok(_) => {
            assert!(readable);
            let mut starts: Vec<usize> = tensor.rows().map(|row| tensor.start(row)).collect();
            starts.sort_unstable();
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= tensor.shape.dim), "rows overlap");
        }
    }
}

/// Close to the reference, the same bits from two threads, and nothing written between rows.
fn check_answer(call: &Call, answer: &Answer<f32>) {
    Oracle::new(&call.case).check(call.backend, answer);
    assert!(answer.out.gaps().iter().all(|x| *x == MARKER), "wrote between rows");
    let (result, shared) = call.run(2);
    assert_eq!(result, Ok(()), "two threads");
    let bits = |answer: &Answer<f32>| -> Vec<u32> {
        // All NaNs are one.
        let all = answer.out.data.iter().chain(&answer.lse);
        all.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    };
    assert_eq!(bits(answer), bits(&shared), "two threads");
}

/// Nothing was written, and the reference, which knows nothing of scratch and backends, sees the same.
fn check_error(call: &Call, error: Error, answer: &Answer<f32>) {
    assert!(answer.out.data.iter().chain(&answer.lse).all(|x| *x == MARKER), "wrote before {error}");
    assert!(!error.to_string().is_empty());
    match error {
        Error::ScratchTooShort { required, actual } => assert_eq!(required - actual, call.scratch_shortage),
        Error::LengthMismatch { expected, actual, .. } => assert_ne!(expected, actual),
        Error::BackendUnavailable { .. } => panic!("{error}"),
        // The reference is given an output of its own, which there is none for a shape without storage.
        _ if call.case.out.clone().view_mut().is_err() => {}
        error => {
            let reference = call.case.try_reference().err();
            // As text, since NaN does not equal itself.
            assert_eq!(format!("{reference:?}"), format!("{:?}", Some(error)));
        }
    }
}
