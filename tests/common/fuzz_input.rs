//! Bytes read as a call of the crate, and all that must hold of it. The fuzzer and the replay of its corpus share this.

use super::{
    backends,
    bits::assert_same,
    cache::{Cache, Kind},
    case::{Answer, Case, MARKER},
    functions::Function,
    modifiers::Modifiers,
    oracle::Oracle,
    pattern::{Band, Elements, Grid, Pattern},
    random::{Content, Random},
    rules::{MaskKind, MaskRule, ScoreKind, ScoreRule},
    tensor::{Extent, Layout, Tensor},
};
use simd_attention::{Backend, Error, Operand, Shape, Stage, Strides, Window};

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

    fn band(&mut self) -> Band {
        match self.below(4) {
            0 => Band::DENSE,
            1 => Band::CAUSAL,
            2 => Band::offset(i64::from(self.byte()) - 100),
            _ => Band::offset(self.u64().cast_signed()),
        }
    }

    /// Seldom anything; never after the end.
    fn some<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(4) == 3).then(|| read(self))
    }

    fn window(&mut self) -> Window {
        Window { left: self.some(Self::size), right: self.some(Self::size) }
    }

    /// As many as are wanted, but seldom one more or fewer.
    fn count(&mut self, wanted: usize) -> usize {
        if self.seldom() { (wanted + self.below(3)).saturating_sub(1) } else { wanted }
    }

    /// Where `sequences` begin and end; seldom in disorder.
    fn cumulative(&mut self, sequences: usize, len: usize) -> Vec<usize> {
        let ends = self.count(sequences + 1);
        let mut ends: Vec<usize> =
            (0..ends).map(|_| if self.seldom() { self.size() } else { usize::from(self.byte()).min(len) }).collect();
        if !self.seldom() {
            ends.sort_unstable();
        }
        ends
    }

    /// A mask for scores of nearly this shape.
    fn grid(&mut self, shape: Shape) -> Grid {
        let bits = self.below(2) == 1;
        let block = if self.below(2) == 1 { [1, 1] } else { [self.below(100), self.below(100)] };
        let of = |extent: usize, block: usize| extent.checked_div(block).map_or(extent, |n| n.saturating_add(1));
        let blocks =
            |extent: usize, block: usize| if block == 1 { extent } else { of(extent.saturating_sub(1), block) };
        let mut grid = Shape { len: blocks(shape.len, block[0]), dim: blocks(shape.dim, block[1]), ..shape };
        let eighths = self.below(9);
        let elements = if bits {
            grid.dim = grid.dim.div_ceil(8);
            Elements::Bits(
                self.repeated(grid, |random| (0..8).fold(0, |byte, _| byte << 1 | u8::from(random.eighths(eighths)))),
            )
        } else {
            Elements::Bools(self.repeated(grid, |random| random.eighths(eighths)))
        };
        Grid { elements, block }
    }

    /// Repeated along some axes.
    fn repeated<T: Copy>(&mut self, shape: Shape, fill: impl Fn(&mut Random) -> T) -> Tensor<T> {
        let shape = self.nearly(shape);
        let extents =
            core::array::from_fn(|_| [Extent::Own, Extent::One, Extent::Strideless, Extent::Own][self.below(4)]);
        let (shape, strides) = Tensor::<T>::repeated_shape(shape, extents);
        let mut random = Random::new(u64::from(self.byte()));
        let len = span(shape, strides).unwrap_or(u128::MAX).min(STORAGE) as usize;
        Tensor { data: (0..len).map(|_| fill(&mut random)).collect(), shape, strides }
    }

    /// One for each head, of nearly so many.
    fn of_heads(&mut self, heads: usize) -> Vec<f32> {
        (0..self.count(heads.min(100))).map(|_| self.number()).collect()
    }

    /// Mostly ordinary.
    fn number(&mut self) -> f32 {
        if self.seldom() { self.f32() } else { f32::from(self.byte().cast_signed()) / 16.0 }
    }

    /// What besides the band decides which keys are seen.
    fn pattern(&mut self, band: Band, matrix: Shape) -> Pattern {
        let offset =
            self.some(|bytes| if bytes.seldom() { bytes.u64().cast_signed() } else { i64::from(bytes.byte()) - 100 });
        let band = Band { window: self.window(), offset: offset.or(band.offset), ..band };
        let packed = self.some(|bytes| {
            let sequences = bytes.below(5);
            [bytes.cumulative(sequences, matrix.len), bytes.cumulative(sequences, matrix.dim)]
        });
        // They go with a batch of one, and with another only to be refused.
        let packed = packed.filter(|_| matrix.batch == 1 || self.seldom());
        let sequences = packed.as_ref().map_or(matrix.batch.min(100), |[queries, _]| queries.len().saturating_sub(1));
        let lens = self.some(|bytes| {
            let room = |s: usize| packed.as_ref().and_then(|[_, keys]| keys.get(s + 1)?.checked_sub(*keys.get(s)?));
            let len = |bytes: &mut Self, s| {
                let room = room(s).unwrap_or(matrix.dim);
                if bytes.seldom() { bytes.size() } else { usize::from(bytes.byte()).min(room) }
            };
            (0..bytes.count(sequences)).map(|s| len(bytes, s)).collect()
        });
        let kinds = [MaskKind::Parity, MaskKind::Sparse, MaskKind::Nothing, MaskKind::Parity];
        Pattern {
            band,
            lens,
            packed,
            mask: self.some(|bytes| bytes.grid(matrix)),
            block_mask: self.some(|bytes| bytes.grid(matrix)),
            rule: self.some(|bytes| MaskRule::new(kinds[bytes.below(4)])),
        }
    }

    fn modifiers(&mut self, scale: Option<f64>, matrix: Shape) -> Modifiers {
        let kinds = [ScoreKind::Halved, ScoreKind::Shifted, ScoreKind::Clamped];
        Modifiers {
            scale,
            softcap: self.some(|bytes| if bytes.seldom() { bytes.f32().into() } else { f64::from(bytes.byte()) / 4.0 }),
            bias: self.some(|bytes| {
                let content = if bytes.below(2) == 1 { Content::Masking } else { bytes.content() };
                bytes.repeated(matrix, |random| content.sample(random))
            }),
            alibi_slopes: self.some(|bytes| bytes.of_heads(matrix.heads)),
            sinks: self.some(|bytes| bytes.of_heads(matrix.heads)),
            rule: self.some(|bytes| ScoreRule::new(kinds[bytes.below(3)])),
            batch_invariant: false,
        }
    }

    /// Scores to be asked for: where, and at which stage.
    fn scores(&mut self, matrix: Shape) -> Option<(Stage, Tensor<f32>)> {
        self.some(|bytes| {
            let stages = [Stage::Scaled, Stage::Capped, Stage::Masked, Stage::Weights];
            (stages[bytes.below(4)], marked(bytes.tensor(matrix)))
        })
    }

    fn scale(&mut self) -> Option<f64> {
        match self.below(3) {
            0 => None,
            1 => Some(f64::from(self.byte().cast_signed()) / 16.0),
            _ => Some(self.f32().into()),
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

    /// Dot products, if the bytes have ended.
    fn function(&mut self, q: Shape, key_dim: usize) -> Function {
        let rows = Shape { batch: 1, len: key_dim, ..q };
        let weight = |random: &mut Random| Content::Normal(0.5).sample(random);
        match self.below(8) {
            5 => Function::Bilinear(self.repeated(Shape { len: q.dim, dim: key_dim, ..rows }, weight)),
            6 => Function::Additive(self.of_heads(key_dim), self.some(|bytes| bytes.repeated(rows, weight))),
            7 => Function::Distance,
            _ => Function::Dot,
        }
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
    // Rows are counted, repeated or not, and something beyond them too.
    let rows = [heads, len].iter().try_fold(batch as u128, |rows, extent| rows.checked_mul(*extent as u128))?;
    if rows > isize::MAX as u128 / 8 {
        return None;
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
        let available: Vec<Backend> = backends().collect();
        let backend = available[bytes.below(12) % available.len()];
        let (band, scale) = (bytes.band(), bytes.scale());
        let lse_excess = bytes.seldom().then(|| bytes.byte().cast_signed() % 3);
        let scratch_shortage = if bytes.seldom() { bytes.below(20) } else { 0 };

        let (batch, kv_heads, group) = (1 + bytes.below(2), 1 + bytes.below(2), 1 + bytes.below(3));
        let (q_len, kv_len) = (bytes.below(80), usize::from(bytes.byte()) + bytes.below(80));
        let (head_dim, value_dim) = (1 + bytes.below(24), 1 + bytes.below(24));
        let shape = |heads, len, dim| Shape { batch, heads, len, dim };
        let q_heads = group * kv_heads;

        let out = marked(bytes.tensor(shape(q_heads, q_len, value_dim)));
        let q = bytes.tensor(shape(q_heads, q_len, head_dim));
        let k = bytes.tensor(shape(kv_heads, kv_len, head_dim));
        let v = bytes.tensor(shape(kv_heads, kv_len, value_dim));
        // What came later; bytes that end before it ask for nothing of it.
        let matrix = Shape { dim: k.shape.len, ..q.shape };
        let case = Case {
            name: String::from("fuzz"),
            pattern: bytes.pattern(band, matrix),
            modifiers: bytes.modifiers(scale, matrix),
            scores: bytes.scores(matrix),
            function: bytes.function(q.shape, k.shape.dim),
            q,
            k,
            v,
            queries: Kind::F32,
            cache: Cache::PLAIN,
            out,
        };
        let batch_invariant = bytes.below(2) == 1;
        let case = case.without_idle_closures().with(|case| case.modifiers.batch_invariant = batch_invariant);
        let cache = Cache {
            kind: [Kind::F32, Kind::F16, Kind::Bf16, Kind::I8(1), Kind::I8(4)][bytes.below(5)],
            page_size: bytes.some(|bytes| 1 + bytes.below(64)),
        };
        let queries = [Kind::F32, Kind::F16, Kind::Bf16][bytes.below(3)];
        Self { case, backend, lse_excess, scratch_shortage }.with_kinds(queries, cache)
    }

    /// With queries of some type, and with keys and values kept in a cache, if there can be such.
    fn with_kinds(mut self, queries: Kind, cache: Cache) -> Self {
        let Case { q, k, v, .. } = &self.case;
        let is_small = |tensor: &Tensor<f32>| {
            let Shape { batch, heads, len, dim } = tensor.shape;
            let elements = [heads, len, dim].iter().try_fold(batch, |n, extent| n.checked_mul(*extent));
            tensor.view().is_ok() && elements.is_some_and(|n| n as u128 <= STORAGE)
        };
        let is_pair = Shape { dim: v.shape.dim, ..k.shape } == v.shape;
        if is_pair && is_small(q) && is_small(k) && is_small(v) && !self.is_heavy() {
            let Case { q, k, v, .. } = &mut self.case;
            queries.round(q);
            [k, v].into_iter().for_each(|tensor| cache.kind.round(tensor));
            (self.case.queries, self.case.cache) = (queries, cache);
        }
        self
    }

    /// Whether it takes too long: broadcast operands, and such without elements, can be endless.
    fn is_heavy(&self) -> bool {
        let Case { q, k, v, .. } = &self.case;
        let projection = if self.case.function.gain() > 1.0 { q.shape.dim.saturating_mul(k.shape.dim) } else { 0 };
        let dims = q.shape.dim.saturating_add(v.shape.dim).saturating_add(projection);
        let factors = [q.shape.batch, q.shape.heads, q.shape.len, v.shape.len, dims];
        let product = |work: u128, &factor: &usize| work.checked_mul(factor.max(1) as u128);
        factors.iter().try_fold(1, product).is_none_or(|work| work > WORK)
    }

    /// An answer not yet given, with as many elements for the log-sum-exp as asked for.
    fn blank(&self) -> Answer<f32> {
        let Shape { batch, heads, len, .. } = self.case.q.shape;
        let rows = (batch.saturating_mul(heads).saturating_mul(len)).min(STORAGE as usize);
        let lse = rows.saturating_add_signed(self.lse_excess.unwrap_or(0).into());
        let scores = self.case.scores.as_ref().map(|(_, scores)| scores.clone());
        Answer { out: self.case.out.clone(), lse: vec![MARKER; lse], scores }
    }

    /// Runs it; `parallel` calls of `run` share the work.
    fn run(&self, parallel: usize) -> (Result<(), Error>, Answer<f32>) {
        let mut answer = self.blank();
        let result = self.case.execute(self.backend, &mut answer, parallel, self.scratch_shortage);
        (result, answer)
    }
}

/// As it is before a call.
fn marked(tensor: Tensor<f32>) -> Tensor<f32> {
    tensor.map(|_| MARKER)
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Refused,
    /// It would take too long.
    Skipped,
}

/// What the call that the bytes say is of, if there is nothing wrong with it and it does not take too long.
pub fn answered(bytes: &[u8]) -> Option<Case> {
    let call = Call::read(&mut Bytes(bytes));
    (!call.is_heavy() && call.run(1).0.is_ok()).then_some(call.case)
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
    for tensor in [Some(&answer.out), answer.scores.as_ref()].into_iter().flatten() {
        assert!(tensor.gaps().iter().all(|x| *x == MARKER), "wrote between rows");
    }
    let (result, shared) = call.run(2);
    assert_eq!(result, Ok(()), "two threads");
    assert_same("two threads", answer, &shared);
}

/// Nothing was written, and the reference, which knows nothing of scratch and backends, sees the same.
fn check_error(call: &Call, error: Error, answer: &Answer<f32>) {
    assert!(answer.elements().all(|x| *x == MARKER), "wrote before {error}");
    assert!(!error.to_string().is_empty());
    let outputs = [Some(&call.case.out), call.case.scores.as_ref().map(|(_, scores)| scores)];
    match error {
        Error::ScratchTooShort { required, actual } => assert_eq!(required - actual, call.scratch_shortage),
        Error::LengthMismatch { operand: Operand::LogSumExp, expected, actual } => assert_ne!(expected, actual),
        Error::BackendUnavailable { .. } => panic!("{error}"),
        // The reference is given outputs of its own, which there are none for shapes without storage.
        _ if outputs.into_iter().flatten().any(|tensor| tensor.clone().view_mut().is_err()) => {}
        error => {
            let reference = call.case.try_reference().err();
            // As text, since NaN does not equal itself.
            assert_eq!(format!("{reference:?}"), format!("{:?}", Some(error)));
        }
    }
}
