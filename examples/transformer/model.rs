//! The weights of an encoder layer and a decoder layer, and what goes into them.

use crate::random::Random;

/// How large a model is.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Elements of a token between the layers.
    pub model: usize,
    pub heads: usize,
    /// Elements of a token within the feed-forward network.
    pub hidden: usize,
}

pub struct Model {
    pub sizes: Sizes,
    pub encoder: Encoder,
    pub decoder: Decoder,
}

pub struct Encoder {
    pub self_attention: Attend,
    pub feed_forward: FeedForward,
}

pub struct Decoder {
    pub self_attention: Attend,
    pub cross_attention: Attend,
    pub feed_forward: FeedForward,
}

/// Multi-head attention with the norm that follows it.
pub struct Attend {
    /// Of queries, keys, values and output.
    pub projections: [Affine; 4],
    pub heads: usize,
    pub causal: bool,
    pub norm: Norm,
}

/// `relu(x W1' + b1) W2' + b2`, with the norm that follows it.
pub struct FeedForward {
    pub expand: Affine,
    pub contract: Affine,
    pub norm: Norm,
}

/// `x W' + b`
pub struct Affine {
    /// `[out_dim, in_dim]`
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Each token with mean 0 and variance 1, then `gain` and `bias` for each element.
pub struct Norm {
    pub gain: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Norm {
    /// Added to the variance, which may be zero.
    pub const EPSILON: f32 = 1e-5;
}

/// One sequence: a vector for each token, one after the other.
#[derive(Clone)]
pub struct Tokens {
    pub dim: usize,
    pub data: Vec<f32>,
}

impl Model {
    /// With weights of the size that training begins with.
    pub fn random(sizes: Sizes, seed: u64) -> Self {
        let mut random = Random(seed);
        let encoder = Encoder {
            self_attention: Attend::random(sizes, false, &mut random),
            feed_forward: FeedForward::random(sizes, &mut random),
        };
        let decoder = Decoder {
            self_attention: Attend::random(sizes, true, &mut random),
            cross_attention: Attend::random(sizes, false, &mut random),
            feed_forward: FeedForward::random(sizes, &mut random),
        };
        Self { sizes, encoder, decoder }
    }
}

impl Attend {
    fn random(Sizes { model, heads, .. }: Sizes, causal: bool, random: &mut Random) -> Self {
        let projections = std::array::from_fn(|_| Affine::random([model, model], random));
        Self { projections, heads, causal, norm: Norm::random(model, random) }
    }
}

impl FeedForward {
    fn random(Sizes { model, hidden, .. }: Sizes, random: &mut Random) -> Self {
        Self {
            expand: Affine::random([hidden, model], random),
            contract: Affine::random([model, hidden], random),
            norm: Norm::random(model, random),
        }
    }
}

impl Affine {
    /// Within the bound of Glorot and Bengio (2010), which keeps the variance of what comes out near that of what goes in.
    fn random([out_dim, in_dim]: [usize; 2], random: &mut Random) -> Self {
        let bound = (6.0 / (out_dim + in_dim) as f32).sqrt();
        Self { weights: random.vector(out_dim * in_dim, bound), bias: random.vector(out_dim, 0.1) }
    }
}

impl Norm {
    fn random(dim: usize, random: &mut Random) -> Self {
        let gain = random.vector(dim, 0.1).into_iter().map(|x| 1.0 + x).collect();
        Self { gain, bias: random.vector(dim, 0.1) }
    }
}

impl Tokens {
    /// Embeddings of variance 1, drawn for each number of a word, and added to them where the word stands: sines and
    /// cosines of wavelengths from 2 pi to 20000 pi (Vaswani et al. 2017, section 3.5).
    pub fn embed(words: &[u64], dim: usize) -> Self {
        let embed = |(position, &word): (usize, &u64)| {
            let embedding = Random(word).vector(dim, 3f32.sqrt());
            embedding.into_iter().enumerate().map(move |(i, x)| x + position_encoding(position, i, dim))
        };
        Self { dim, data: words.iter().enumerate().flat_map(embed).collect() }
    }

    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }
}

fn position_encoding(position: usize, element: usize, dim: usize) -> f32 {
    let pair = element - element % 2;
    let angle = position as f64 / 10_000f64.powf(pair as f64 / dim as f64);
    (if element == pair { angle.sin() } else { angle.cos() }) as f32
}
