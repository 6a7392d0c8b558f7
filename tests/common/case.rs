//! A call of the crate with all that it needs, owned.

use super::{
    random::{Content, Random},
    tensor::{Layout, Tensor},
};
use simd_attention::{Attention, Backend, Error, Kv, Output, Shape, Work, reference};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    Dense,
    /// Bottom-right aligned.
    Causal,
    /// Query `i` sees the keys `j <= i + offset`.
    Offset(i64),
}

/// A case in numbers. Its random values are always the same.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub mask: Mask,
    /// `None`: the default, `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    pub q: (Layout, Content),
    pub k: (Layout, Content),
    pub v: (Layout, Content),
    pub out: Layout,
    pub seed: u64,
}

impl Plan {
    /// One dense head, contiguous, of normally distributed values.
    pub const fn new([q_len, kv_len]: [usize; 2], [head_dim, value_dim]: [usize; 2]) -> Self {
        let plain = (Layout::HeadsFirst, Content::Normal(1.0));
        Self {
            batch: 1,
            q_heads: 1,
            kv_heads: 1,
            q_len,
            kv_len,
            head_dim,
            value_dim,
            mask: Mask::Dense,
            scale: None,
            q: plain,
            k: plain,
            v: plain,
            out: Layout::HeadsFirst,
            seed: 1,
        }
    }

    pub fn case(&self) -> Case {
        let Self { batch, q_heads, kv_heads, q_len, kv_len, head_dim, value_dim, mask, scale, .. } = *self;
        let mut random = Random::new(self.seed);
        let mut tensor = |heads, len, dim, (layout, content)| {
            Tensor::random(Shape { batch, heads, len, dim }, layout, content, &mut random)
        };
        Case {
            name: format!("{self:?}"),
            mask,
            scale,
            q: tensor(q_heads, q_len, head_dim, self.q),
            k: tensor(kv_heads, kv_len, head_dim, self.k),
            v: tensor(kv_heads, kv_len, value_dim, self.v),
            out: Tensor::filled(Shape { batch, heads: q_heads, len: q_len, dim: value_dim }, self.out, MARKER),
        }
    }
}

/// What an output holds before a call, to tell what was written.
pub const MARKER: f32 = -12_345.678;

#[derive(Clone, Debug)]
pub struct Case {
    /// For messages.
    pub name: String,
    pub mask: Mask,
    pub scale: Option<f32>,
    pub q: Tensor<f32>,
    pub k: Tensor<f32>,
    pub v: Tensor<f32>,
    /// The output before the call, full of [`MARKER`].
    pub out: Tensor<f32>,
}

/// What a call gives.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub out: Tensor<T>,
    /// One for each row of `out`, in order.
    pub lse: Vec<T>,
}

impl Case {
    pub fn attention(&self) -> Attention<'_> {
        let attention = match self.mask {
            Mask::Dense => Attention::new(),
            Mask::Causal => Attention::new().causal(),
            Mask::Offset(offset) => Attention::new().causal().offset(offset),
        };
        self.scale.map_or(attention, |scale| attention.scale(scale))
    }

    pub fn kv(&self) -> Result<Kv<'_, f32>, Error> {
        Kv::new(self.k.view()?, self.v.view()?)
    }

    pub fn kv_len(&self) -> usize {
        self.k.shape.len
    }

    /// The scale in effect.
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or_else(|| (1.0 / self.q.shape.dim as f64).sqrt() as f32)
    }

    /// An answer not yet given.
    pub fn blank(&self) -> Answer<f32> {
        let Shape { batch, heads, len, .. } = self.out.shape;
        Answer { out: self.out.clone(), lse: vec![MARKER; batch.saturating_mul(heads).saturating_mul(len)] }
    }

    /// The prepared call, to be run by the caller.
    pub fn prepare<'a>(&'a self, backend: Backend, answer: &'a mut Answer<f32>) -> Result<Work<'a>, Error> {
        let (q, kv) = (self.q.view()?, self.kv()?);
        let output = Output::new(answer.out.view_mut()?).lse(&mut answer.lse);
        self.attention().backend(backend).prepare(q, kv, output)
    }

    /// The answer of a backend. Elements between the output's rows must stay as they are.
    pub fn run(&self, backend: Backend) -> Answer<f32> {
        self.run_on_threads(backend, 1)
    }

    /// As [`run`](Self::run), with the work shared out over threads.
    pub fn run_on_threads(&self, backend: Backend, threads: usize) -> Answer<f32> {
        let mut answer = self.blank();
        let work = self.prepare(backend, &mut answer).unwrap_or_else(|error| panic!("{error}: {}", self.name));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| work.run(&mut scratch(&work)).unwrap());
            }
            work.run(&mut scratch(&work)).unwrap();
        });
        assert!(answer.out.gaps().iter().all(|x| *x == MARKER), "wrote between rows: {backend}, {}", self.name);
        answer
    }

    /// The answer of the reference.
    pub fn reference(&self) -> Answer<f64> {
        self.try_reference().unwrap_or_else(|error| panic!("{error}: {}", self.name))
    }

    pub fn try_reference(&self) -> Result<Answer<f64>, Error> {
        let mut answer = Answer {
            out: Tensor::filled(self.out.shape, Layout::HeadsFirst, f64::NAN),
            lse: vec![f64::NAN; self.out.rows().count()],
        };
        let output = Output::new(answer.out.view_mut()?).lse(&mut answer.lse);
        reference::forward(&self.attention(), self.q.view()?, self.kv()?, output)?;
        Ok(answer)
    }
}

/// As much scratch as the work asks for and no more; what is in it must not matter.
fn scratch(work: &Work<'_>) -> Vec<f32> {
    vec![f32::NAN; work.scratch_len()]
}
