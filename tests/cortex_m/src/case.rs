//! One problem, and what the crate and its reference make of it.

use simd_attention::{Attention, Error, Kv, Output, View, ViewMut, reference, scratch_len};

/// Elements that any operand of any case has at most.
const MOST: usize = 4096;

/// Largest distance from the reference, for values between -1 and 1.
const TOLERANCE: f64 = 2e-6;

/// `head_dim` and `value_dim` of any case at most.
pub const MOST_DIM: usize = 32;

#[derive(Clone, Copy)]
pub struct Case {
    pub attention: Attention<'static>,
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
}

/// The operands of a case, each in a slice of its own.
pub struct Tensors {
    pub q: [f32; MOST],
    pub k: [f32; MOST],
    pub v: [f32; MOST],
    pub out: [f32; MOST],
    pub lse: [f32; MOST],
    scratch: [f32; scratch_len(MOST_DIM, MOST_DIM)],
}

impl Tensors {
    /// Inputs between -1 and 1, the same in every run; outputs that no call gives.
    pub fn new() -> Self {
        let mut state = 1_u32;
        let mut noise = [(); 3].map(|()| {
            [(); MOST].map(|()| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
        });
        let [q, k, v] = core::mem::replace(&mut noise, [[0.0; MOST]; 3]);
        Self { q, k, v, out: [-7.0; MOST], lse: [-7.0; MOST], scratch: [f32::NAN; scratch_len(MOST_DIM, MOST_DIM)] }
    }
}

impl Case {
    /// One head of one sequence.
    pub const fn head(q_len: usize, kv_len: usize, dim: usize) -> Self {
        let attention = Attention::new();
        Self { attention, batch: 1, q_heads: 1, kv_heads: 1, q_len, kv_len, head_dim: dim, value_dim: dim }
    }

    pub const fn with(self, attention: Attention<'static>) -> Self {
        Self { attention, ..self }
    }

    /// Queries of all heads, and elements of the output.
    pub const fn sizes(&self) -> (usize, usize) {
        let queries = self.batch * self.q_heads * self.q_len;
        (queries, queries * self.value_dim)
    }

    fn inputs<'a>(&self, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Result<(View<'a, f32>, Kv<'a, f32>), Error> {
        let keys = View::heads_first(k, [self.batch, self.kv_heads, self.kv_len, self.head_dim])?;
        let values = View::heads_first(v, [self.batch, self.kv_heads, self.kv_len, self.value_dim])?;
        Ok((View::heads_first(q, [self.batch, self.q_heads, self.q_len, self.head_dim])?, Kv::new(keys, values)?))
    }

    /// Fills `tensors.out` and `tensors.lse`.
    pub fn run(&self, tensors: &mut Tensors) -> Result<(), Error> {
        let Tensors { q, k, v, out, lse, scratch } = tensors;
        let (q, kv) = self.inputs(q, k, v)?;
        let out = ViewMut::heads_first(out, [self.batch, self.q_heads, self.q_len, self.value_dim])?;
        let lse = &mut lse[..self.sizes().0];
        let scratch = &mut scratch[..scratch_len(self.head_dim, self.value_dim)];
        self.attention.forward(q, kv, Output::new(out).lse(lse), scratch)
    }

    /// Runs and compares with the reference.
    pub fn check(&self, tensors: &mut Tensors) {
        self.run(tensors).unwrap();
        let (mut out, mut lse) = ([f64::NAN; MOST], [f64::NAN; MOST]);
        let (queries, elements) = self.sizes();
        let (q, kv) = self.inputs(&tensors.q, &tensors.k, &tensors.v).unwrap();
        let shape = [self.batch, self.q_heads, self.q_len, self.value_dim];
        let view = ViewMut::heads_first(&mut out, shape).unwrap();
        reference::forward(&self.attention, q, kv, Output::new(view).lse(&mut lse[..queries])).unwrap();
        assert_near(&tensors.out[..elements], &out[..elements]);
        assert_near(&tensors.lse[..queries], &lse[..queries]);
    }
}

/// Equal (so may infinities be) or near.
fn assert_near(actual: &[f32], expected: &[f64]) {
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let a = f64::from(a);
        assert!(a == e || (a - e).abs() <= TOLERANCE * e.abs().max(1.0), "element {i} is {a}, not {e}");
    }
}
