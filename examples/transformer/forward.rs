//! The layers in f32: attention and linear layers by the crate, the little between them by plain loops.
//!
//! The norm follows the sum with the residual, `norm(x + sublayer(x))`, as in the paper ("post-norm").

use simd_attention::{Attention, Error, Linear, MultiHead, Output, Stage, View, ViewMut, scratch_len};

use crate::model::{Affine, Attend, FeedForward, Model, Norm, Tokens};

/// What the layers give, and the weights of two attentions, `[heads, q_len, kv_len]`.
pub struct Activations {
    pub encoder: Tokens,
    pub decoder: Tokens,
    /// Of the decoder's self-attention.
    pub causal: Vec<f32>,
    pub cross: Vec<f32>,
}

impl Model {
    pub fn forward(&self, source: &Tokens, target: &Tokens) -> Result<Activations, Error> {
        let Self { encoder, decoder, .. } = self;
        let (x, _) = encoder.self_attention.forward(source, source)?;
        let encoded = encoder.feed_forward.forward(&x)?;

        let (y, causal) = decoder.self_attention.forward(target, target)?;
        let (y, cross) = decoder.cross_attention.forward(&y, &encoded)?;
        let decoded = decoder.feed_forward.forward(&y)?;
        Ok(Activations { encoder: encoded, decoder: decoded, causal, cross })
    }
}

impl Attend {
    /// The sublayer's output, and the weights with which the tokens of `x` attend to those of the source.
    fn forward(&self, x: &Tokens, source: &Tokens) -> Result<(Tokens, Vec<f32>), Error> {
        let [query, key, value, output] = &self.projections;
        let attention = if self.causal { Attention::new().causal() } else { Attention::new() };
        let projections = [query.linear()?, key.linear()?, value.linear()?, output.linear()?];
        let layer = MultiHead::new(self.heads, projections).attention(attention);

        let mut out = Tokens { dim: x.dim, data: vec![0.0; x.data.len()] };
        let mut weights = vec![0.0; self.heads * x.len() * source.len()];
        let weights_view = ViewMut::heads_first(&mut weights, [1, self.heads, x.len(), source.len()])?;
        let (x_view, source_view) = (x.view()?, source.view()?);
        let mut scratch = vec![0.0; layer.scratch_len(x_view.shape(), source_view.shape())];
        let output = Output::new(out.view_mut()?).scores(Stage::Weights, weights_view);
        layer.forward(x_view, source_view, output, &mut scratch)?;
        self.norm.add_residual(x, &mut out);
        Ok((out, weights))
    }
}

impl FeedForward {
    fn forward(&self, x: &Tokens) -> Result<Tokens, Error> {
        let mut hidden = self.expand.forward(x)?;
        hidden.data.iter_mut().for_each(|x| *x = x.max(0.0));
        let mut out = self.contract.forward(&hidden)?;
        self.norm.add_residual(x, &mut out);
        Ok(out)
    }
}

impl Affine {
    fn linear(&self) -> Result<Linear<'_>, Error> {
        let out_dim = self.bias.len();
        Ok(Linear::new(View::matrix(&self.weights, [out_dim, self.weights.len() / out_dim])?).bias(&self.bias))
    }

    fn forward(&self, x: &Tokens) -> Result<Tokens, Error> {
        let dim = self.bias.len();
        let mut y = Tokens { dim, data: vec![0.0; x.len() * dim] };
        self.linear()?.forward(x.view()?, y.view_mut()?, &mut vec![0.0; scratch_len(x.dim, 0)])?;
        Ok(y)
    }
}

impl Norm {
    /// `y = norm(x + y)`
    fn add_residual(&self, x: &Tokens, y: &mut Tokens) {
        for (x, y) in x.data.chunks(x.dim).zip(y.data.chunks_mut(x.dim)) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            let mean = y.iter().sum::<f32>() / y.len() as f32;
            let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f32>() / y.len() as f32;
            let scale = 1.0 / (variance + Self::EPSILON).sqrt();
            for ((y, gain), bias) in y.iter_mut().zip(&self.gain).zip(&self.bias) {
                *y = (*y - mean) * scale * gain + bias;
            }
        }
    }
}

impl Tokens {
    fn view(&self) -> Result<View<'_, f32>, Error> {
        View::matrix(&self.data, [self.len(), self.dim])
    }

    fn view_mut(&mut self) -> Result<ViewMut<'_, f32>, Error> {
        let extents = [self.len(), self.dim];
        ViewMut::matrix(&mut self.data, extents)
    }
}
