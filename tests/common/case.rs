//! A call of the crate with all that it needs, owned.

use super::{
    cache::{Cache, Kept, Kind, divisor, with_kv},
    functions::{Distance, Function, Sizes},
    modifiers::Modifiers,
    pattern::{Pattern, Sequence},
    rules::{mask_mod, score_mod},
    tensor::{Layout, Row, Tensor},
};
use core::ops::Range;
use simd_attention::{
    Additive, Attention, Backend, Bilinear, Error, Float, Kv, Output, Scalar, Score, Shape, Stage, Work, reference,
};

/// What an output holds before a call, to tell what was written.
pub const MARKER: f32 = -12_345.678;

#[derive(Clone, Debug)]
pub struct Case {
    /// For messages.
    pub name: String,
    pub function: Function,
    pub pattern: Pattern,
    pub modifiers: Modifiers,
    pub q: Tensor<f32>,
    pub k: Tensor<f32>,
    pub v: Tensor<f32>,
    /// What queries are kept in, of which they are numbers: floating-point ones.
    pub queries: Kind,
    /// What keys and values are kept in, of which they are numbers.
    pub cache: Cache,
    /// The output before the call, full of [`MARKER`].
    pub out: Tensor<f32>,
    /// That of scores, likewise, if they are asked for.
    pub scores: Option<(Stage, Tensor<f32>)>,
}

/// What a call gives.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub out: Tensor<T>,
    /// One for each row of `out`, in order.
    pub lse: Vec<T>,
    pub scores: Option<Tensor<T>>,
}

impl<T: Float<Sum = T>> Answer<T> {
    pub fn output(&mut self, stage: Option<Stage>) -> Result<Output<'_, T>, Error> {
        let output = Output::new(self.out.view_mut()?).lse(&mut self.lse);
        Ok(match stage.zip(self.scores.as_mut()) {
            Some((stage, scores)) => output.scores(stage, scores.view_mut()?),
            None => output,
        })
    }

    /// Everything, in the storage's order.
    pub fn elements(&self) -> impl Iterator<Item = &T> {
        let scores = self.scores.iter().flat_map(|scores| &scores.data);
        self.out.data.iter().chain(&self.lse).chain(scores)
    }
}

/// The expression, of a case's queries.
macro_rules! with_queries {
    ($case:expr, $q:ident => $result:expr) => {{
        macro_rules! of {
            ($type:ty) => {{
                let (queries, _) = <$type>::keep(&$case.q, $case.queries);
                let $q = queries.view()?;
                $result
            }};
        }
        match $case.queries {
            Kind::F16 => of!(half::f16),
            Kind::Bf16 => of!(half::bf16),
            _ => {
                let $q = $case.q.view()?;
                $result
            }
        }
    }};
}

/// The expression, of a case's attention, the type of which depends on its score function and its closures. Kernels are compiled for each of those.
macro_rules! with_attention {
    ($case:expr, $attention:ident => $result:expr) => {{
        let case: &Case = $case;
        match (&case.function, case.pattern.rule, case.modifiers.rule) {
            #[cfg(not(elsewhere))]
            (Function::Bilinear(weights), ..) => {
                let $attention = case.configure(Attention::with_score(Bilinear::new(weights.view()?)))?;
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Distance, ..) => {
                let $attention = case.configure(Attention::with_score(Distance))?;
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Sizes(_), ..) => panic!("only the reference is asked for sizes: {}", case.name),
            #[cfg(not(elsewhere))]
            (Function::Additive(v, weights), None, None) => {
                let $attention = case.configure(Attention::with_score(additive(v, weights.as_ref())?))?;
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Additive(v, weights), mask, rule) => {
                let $attention = case
                    .configure(Attention::with_score(additive(v, weights.as_ref())?))?
                    .score_mod(score_mod(rule))
                    .mask_mod(mask_mod(mask));
                $result
            }
            (Function::Dot, None, None) => {
                let $attention = case.attention()?;
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Dot, mask @ Some(_), None) => {
                let $attention = case.attention()?.mask_mod(mask_mod(mask));
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Dot, None, rule @ Some(_)) => {
                let $attention = case.attention()?.score_mod(score_mod(rule));
                $result
            }
            #[cfg(not(elsewhere))]
            (Function::Dot, mask, rule) => {
                let $attention = case.attention()?.score_mod(score_mod(rule)).mask_mod(mask_mod(mask));
                $result
            }
            #[cfg(elsewhere)]
            _ => panic!("elsewhere, kernels of the crate's own are tested, not such as are compiled with the tests"),
        }
    }};
}

pub fn additive<'a>(v: &'a [f32], query_weights: Option<&'a Tensor<f32>>) -> Result<Additive<'a>, Error> {
    let score = Additive::new(v);
    query_weights.map_or(Ok(score), |weights| Ok(score.query_weights(weights.view()?)))
}

/// Numbers that backends may multiply two at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    Bf16,
    I8,
}

impl Case {
    /// All but the closures, of a case of dot products.
    pub fn attention(&self) -> Result<Attention<'_>, Error> {
        self.configure(Attention::new())
    }

    pub fn configure<'a, F: Score>(&'a self, attention: Attention<'a, F>) -> Result<Attention<'a, F>, Error> {
        self.modifiers.apply(self.pattern.apply(attention)?)
    }

    /// Without closures if its score function goes without.
    pub fn without_idle_closures(mut self) -> Self {
        if !self.function.takes_closures() {
            (self.pattern.rule, self.modifiers.rule) = (None, None);
        }
        self
    }

    /// Changed.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn kv(&self) -> Result<Kv<'_, f32>, Error> {
        let kv = Kv::new(self.k.view()?, self.v.view()?)?;
        Ok(self.pattern.lens.as_ref().map_or(kv, |lens| kv.lens(lens)))
    }

    /// What products may be of pairs of.
    pub fn pairs(&self) -> Option<Pairs> {
        let may_be = matches!(self.function, Function::Dot) && !self.modifiers.batch_invariant && self.scores.is_none();
        match (self.queries, self.cache.kind) {
            (Kind::Bf16, Kind::Bf16) if may_be => Some(Pairs::Bf16),
            _ if may_be && [&self.k, &self.v].into_iter().all(|rows| self.has_single_scales(rows)) => Some(Pairs::I8),
            _ => None,
        }
    }

    /// Whether keys or values are kept as bytes, with one scale a row.
    pub fn has_single_scales(&self, rows: &Tensor<f32>) -> bool {
        matches!(self.cache.kind, Kind::I8(scales) if divisor(rows.shape.dim, scales) == 1)
    }

    pub fn kv_len(&self) -> usize {
        self.k.shape.len
    }

    pub fn stage(&self) -> Option<Stage> {
        self.scores.as_ref().map(|(stage, _)| *stage)
    }

    /// The scale in effect.
    pub fn scale(&self) -> f64 {
        self.modifiers.scale.unwrap_or_else(|| self.function.default_scale(self.k.shape.dim))
    }

    pub fn sequences(&self) -> Vec<Sequence> {
        self.pattern.sequences(self.q.shape, self.kv_len())
    }

    /// Whether a query of a sequence sees a key.
    pub fn sees(&self, sequence: &Sequence, row: Row, j: usize) -> bool {
        self.pattern.sees(sequence, row, j) && self.modifiers.bias_at(row, j) != f32::NEG_INFINITY
    }

    /// Query `i` of a sequence, as a call of its own.
    pub fn alone(&self, sequence: &Sequence, i: usize) -> Self {
        let whole = |tensor: &Tensor<f32>| tensor.part(sequence.batch, 0, tensor.shape.len);
        let row = |tensor: &Tensor<f32>| tensor.part(sequence.batch, i, 1);
        Self {
            name: format!("query {i} of sequence {}: {}", sequence.index, self.name),
            function: self.function.clone(),
            pattern: self.pattern.alone(sequence, i),
            modifiers: self.modifiers.alone(sequence, i),
            q: row(&self.q),
            k: whole(&self.k),
            v: whole(&self.v),
            queries: self.queries,
            cache: self.cache,
            out: row(&self.out),
            scores: self.scores.as_ref().map(|(stage, scores)| (*stage, row(scores))),
        }
    }

    /// The same call, of a batch of one, in which only some queries of a sequence are computed.
    pub fn only(&self, sequence: &Sequence, queries: Range<usize>) -> Self {
        let mut modifiers = self.modifiers.clone();
        let first = queries.start - sequence.queries.start;
        modifiers.rule = modifiers.rule.map(|rule| rule.moved(sequence.index, first));
        Self {
            name: format!("only {queries:?} of sequence {}: {}", sequence.index, self.name),
            pattern: self.pattern.only(sequence, queries),
            modifiers,
            ..self.clone()
        }
    }

    /// With garbage in all that a row does not see, be it masked by whatever: keys, values, and biases if something else masks as well.
    pub fn spoilt(&self, sequence: &Sequence, row @ [b, h, _]: Row, garbage: f32) -> Self {
        let mut spoilt = self.clone();
        let kv_head = h / (self.q.shape.heads / self.k.shape.heads);
        for j in (0..self.kv_len()).filter(|&j| !self.sees(sequence, row, j)) {
            spoilt.k.row_mut([b, kv_head, j]).fill(garbage);
            spoilt.v.row_mut([b, kv_head, j]).fill(garbage);
            let is_masked = !self.pattern.sees(sequence, row, j);
            if let Some(bias) = spoilt.modifiers.bias.as_mut().filter(|bias| is_masked && bias.shape.dim > 1)
                && let Some(at) = bias.position(row, j)
            {
                bias.data[at] = garbage;
            }
        }
        spoilt
    }

    /// An answer not yet given.
    pub fn blank(&self) -> Answer<f32> {
        let Shape { batch, heads, len, .. } = self.out.shape;
        Answer {
            out: self.out.clone(),
            lse: vec![MARKER; batch.saturating_mul(heads).saturating_mul(len)],
            scores: self.scores.as_ref().map(|(_, scores)| scores.clone()),
        }
    }

    /// The prepared call, to be run by the caller; without closures, and with keys and values as they are.
    pub fn prepare<'a>(&'a self, backend: Backend, answer: &'a mut Answer<f32>) -> Result<Work<'a>, Error> {
        self.attention()?.backend(backend).prepare(self.q.view()?, self.kv()?, answer.output(self.stage())?)
    }

    /// Gives the answer, the work shared out over threads, each with so much less scratch than is needed.
    pub fn execute(
        &self,
        backend: Backend,
        answer: &mut Answer<f32>,
        threads: usize,
        shortage: usize,
    ) -> Result<(), Error> {
        self.compute(backend, answer, By::Threads { threads, shortage })
    }

    /// Gives the answer, the work shared out over threads of a pool several times: after the first, there is nothing left.
    #[cfg(feature = "rayon")]
    pub fn share(
        &self,
        backend: Backend,
        answer: &mut Answer<f32>,
        pool: &rayon::ThreadPool,
        times: usize,
    ) -> Result<(), Error> {
        self.compute(backend, answer, By::Pool { pool, times })
    }

    /// [`Attention::forward`].
    pub fn forward(&self, backend: Backend, answer: &mut Answer<f32>, scratch: &mut [f32]) -> Result<(), Error> {
        self.compute(backend, answer, By::Forward(scratch))
    }

    fn compute(&self, backend: Backend, answer: &mut Answer<f32>, by: By<'_>) -> Result<(), Error> {
        with_attention!(self, attention => with_kv!(self, kv => with_queries!(self, q => {
            let (attention, output) = (attention.backend(backend), answer.output(self.stage())?);
            match by {
                By::Threads { threads, shortage } => run(&attention.prepare(q, kv, output)?, threads, shortage),
                #[cfg(feature = "rayon")]
                By::Pool { pool, times } => share(&attention.prepare(q, kv, output)?, pool, times),
                By::Forward(scratch) => attention.forward(q, kv, output, scratch),
            }
        })))
    }

    /// The answer of a backend. Elements between the output's rows must stay as they are.
    pub fn run(&self, backend: Backend) -> Answer<f32> {
        self.run_on_threads(backend, 1)
    }

    /// As [`run`](Self::run), with the work shared out over threads.
    pub fn run_on_threads(&self, backend: Backend, threads: usize) -> Answer<f32> {
        let mut answer = self.blank();
        self.execute(backend, &mut answer, threads, 0).unwrap_or_else(|error| panic!("{error}: {}", self.name));
        for tensor in [Some(&answer.out), answer.scores.as_ref()].into_iter().flatten() {
            assert!(tensor.gaps().iter().all(|x| *x == MARKER), "wrote between rows: {backend}, {}", self.name);
        }
        answer
    }

    /// The answer of the reference.
    pub fn reference(&self) -> Answer<f64> {
        self.try_reference().unwrap_or_else(|error| panic!("{error}: {}", self.name))
    }

    pub fn try_reference(&self) -> Result<Answer<f64>, Error> {
        let marked = |tensor: &Tensor<f32>| Tensor::filled(tensor.shape, Layout::HeadsFirst, f64::from(MARKER));
        let mut answer = Answer {
            out: marked(&self.out),
            lse: vec![f64::from(MARKER); self.out.rows().count()],
            scores: self.scores.as_ref().map(|(_, scores)| marked(scores)),
        };
        self.reference_into(&mut answer)?;
        Ok(answer)
    }

    pub fn reference_into(&self, answer: &mut Answer<f64>) -> Result<(), Error> {
        match &self.function {
            Function::Sizes(of) => self.reference_with(&self.configure(Attention::with_score(Sizes(of)))?, answer),
            _ => with_attention!(self, attention => self.reference_with(&attention, answer)),
        }
    }

    fn reference_with<F: Score>(&self, attention: &Attention<'_, F>, answer: &mut Answer<f64>) -> Result<(), Error> {
        with_kv!(self, kv => with_queries!(self, q => {
            reference::forward(attention, q, kv, answer.output(self.stage())?)
        }))
    }
}

/// Who computes an answer.
enum By<'a> {
    /// See [`Case::execute`].
    Threads { threads: usize, shortage: usize },
    /// See [`Case::share`].
    #[cfg(feature = "rayon")]
    Pool { pool: &'a rayon::ThreadPool, times: usize },
    /// With this scratch.
    Forward(&'a mut [f32]),
}

/// With as much scratch as the work asks for and no more, or with less; what is in it must not matter.
pub fn run<F: Score + Sync, E: Scalar>(work: &Work<'_, F, E>, threads: usize, shortage: usize) -> Result<(), Error> {
    let scratch = || vec![E::from(f32::NAN); work.scratch_len().saturating_sub(shortage)];
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work.run(&mut scratch()))).collect();
        let own = work.run(&mut scratch());
        others.into_iter().fold(own, |result, other| result.and(other.join().expect("no panic")))
    })
}

#[cfg(feature = "rayon")]
fn share<F: Score + Sync, E: Scalar>(
    work: &Work<'_, F, E>,
    pool: &rayon::ThreadPool,
    times: usize,
) -> Result<(), Error> {
    let mut scratch = vec![E::from(f32::NAN); work.parallel_scratch_len(pool.current_num_threads())];
    for _ in 0..times {
        pool.install(|| work.run_parallel(&mut scratch))?;
    }
    work.run(&mut scratch)
}
