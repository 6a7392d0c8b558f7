//! A shape with its operands and the result that is right.

use std::fmt;

use simd_attention::{Attention, Backend, Kv, View, ViewMut, reference};

/// Self-attention: as many keys as queries, and values as long as keys.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub len: usize,
    pub dim: usize,
    pub causal: bool,
}

impl Shape {
    /// Useful floating-point operations: a product and a sum for each element, of `q k'` and of `p v`.
    pub fn flops(&self) -> u64 {
        let pairs = if self.causal { self.len * (self.len + 1) / 2 } else { self.len * self.len };
        (4 * self.heads * pairs * self.dim) as u64
    }

    pub fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn extents(&self) -> [usize; 4] {
        [1, self.heads, self.len, self.dim]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, len, dim, causal } = self;
        write!(f, "{len}x{len} dim={dim} heads={heads}{}", if *causal { " causal" } else { "" })
    }
}

/// Operands, contiguous `[heads, len, dim]`.
pub struct Case {
    pub shape: Shape,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    expected: Vec<f64>,
}

impl Case {
    pub fn new(shape: Shape) -> Self {
        let elements = shape.heads * shape.len * shape.dim;
        let mut random = random();
        let mut tensor = || random.by_ref().take(elements).collect();
        let (q, k, v) = (tensor(), tensor(), tensor());
        let mut case = Self { shape, q, k, v, expected: Vec::new() };
        let mut expected = vec![0.0; elements];
        case.reference(&mut expected);
        case.expected = expected;
        case
    }

    pub fn expected(&self) -> &[f64] {
        &self.expected
    }

    pub fn reference(&self, out: &mut [f64]) {
        let out = ViewMut::heads_first(out, self.shape.extents()).unwrap();
        reference::forward(&self.attention(), self.queries(), self.kv(), out).unwrap();
    }

    pub fn kernel(&self, backend: Backend, out: &mut [f32], scratch: &mut [f32]) {
        let out = ViewMut::heads_first(out, self.shape.extents()).unwrap();
        self.attention().backend(backend).forward(self.queries(), self.kv(), out, scratch).unwrap();
    }

    /// Stops if `out` is further from the reference than f32 arithmetic explains: weighted means of values between -1 and 1.
    pub fn check(&self, name: &str, out: &[f32]) {
        const TOLERANCE: f64 = 2e-6;
        for (i, (&actual, &expected)) in out.iter().zip(&self.expected).enumerate() {
            let error = (f64::from(actual) - expected).abs();
            assert!(error <= TOLERANCE, "{name}, {}: element {i} is {actual}, not {expected}", self.shape);
        }
    }

    fn attention(&self) -> Attention<'_> {
        let attention = Attention::new().scale(self.shape.scale().into());
        if self.shape.causal { attention.causal() } else { attention }
    }

    fn queries(&self) -> View<'_, f32> {
        View::heads_first(&self.q, self.shape.extents()).unwrap()
    }

    fn kv(&self) -> Kv<'_, f32> {
        let view = |data| View::heads_first(data, self.shape.extents()).unwrap();
        Kv::new(view(&self.k), view(&self.v)).unwrap()
    }
}

/// Numbers between -1 and 1, the same ones every time (SplitMix64; Steele, Lea and Flood, 2014).
fn random() -> impl Iterator<Item = f32> {
    (1u64..).map(|i| {
        let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}
