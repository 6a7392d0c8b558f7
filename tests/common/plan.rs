//! A case in numbers.

use super::{
    cache::{Cache, Kind},
    case::{Case, MARKER},
    functions::FunctionKind,
    modifiers::{BiasPlan, Modifiers},
    pattern::{Band, GridPlan, Lens, Pattern, cumulative},
    random::{Content, Random},
    rules::{MaskKind, MaskRule, ScoreKind, ScoreRule},
    tensor::{Layout, Tensor},
};
use simd_attention::{Shape, Stage};

/// Its random values are always the same.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    /// Elements of a key.
    pub head_dim: usize,
    pub value_dim: usize,
    pub function: FunctionKind,
    pub band: Band,
    pub lens: Lens,
    /// How many sequences are packed; `batch` is one then.
    pub packed: Option<usize>,
    pub mask: Option<GridPlan>,
    pub block_mask: Option<GridPlan>,
    pub mask_rule: Option<MaskKind>,
    /// `None`: the default, `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    pub softcap: Option<f64>,
    pub bias: Option<BiasPlan>,
    pub alibi_slopes: Option<Content>,
    pub sinks: Option<Content>,
    pub score_rule: Option<ScoreKind>,
    pub batch_invariant: bool,
    pub q: (Layout, Content),
    pub k: (Layout, Content),
    pub v: (Layout, Content),
    /// What queries are kept in, of which they are numbers: floating-point ones.
    pub queries: Kind,
    pub cache: Cache,
    pub out: Layout,
    /// Whether scores are asked for.
    pub scores: Option<(Stage, Layout)>,
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
            function: FunctionKind::Dot,
            band: Band::DENSE,
            lens: Lens::Full,
            packed: None,
            mask: None,
            block_mask: None,
            mask_rule: None,
            scale: None,
            softcap: None,
            bias: None,
            alibi_slopes: None,
            sinks: None,
            score_rule: None,
            batch_invariant: false,
            q: plain,
            k: plain,
            v: plain,
            queries: Kind::F32,
            cache: Cache::PLAIN,
            out: Layout::HeadsFirst,
            scores: None,
            seed: 1,
        }
    }

    pub fn case(&self) -> Case {
        let Self { batch, q_heads, kv_heads, q_len, kv_len, head_dim, value_dim, function, .. } = *self;
        let mut random = Random::new(self.seed);
        let mut tensor = |heads, len, dim, (layout, content)| {
            Tensor::random(Shape { batch, heads, len, dim }, layout, content, &mut random)
        };
        let mut q = tensor(q_heads, q_len, function.query_dim(head_dim), self.q);
        let mut k = tensor(kv_heads, kv_len, head_dim, self.k);
        let mut v = tensor(kv_heads, kv_len, value_dim, self.v);
        self.queries.round(&mut q);
        [&mut k, &mut v].into_iter().for_each(|tensor| self.cache.kind.round(tensor));
        let case = Case {
            name: format!("{self:?}"),
            pattern: self.pattern(&mut random),
            modifiers: self.modifiers(&mut random),
            function: function.function(q_heads, head_dim, &mut random),
            q,
            k,
            v,
            queries: self.queries,
            cache: self.cache,
            out: Tensor::filled(Shape { dim: value_dim, ..self.matrix() }, self.out, MARKER),
            scores: self
                .of_scores(self.scores)
                .map(|(stage, layout)| (stage, Tensor::filled(self.matrix(), layout, MARKER))),
        };
        case.without_idle_closures()
    }

    /// The shape of the scores.
    const fn matrix(&self) -> Shape {
        Shape { batch: self.batch, heads: self.q_heads, len: self.q_len, dim: self.kv_len }
    }

    /// What has the shape of the scores, of which there is no view where there is no key.
    fn of_scores<T>(&self, plan: Option<T>) -> Option<T> {
        plan.filter(|_| self.kv_len > 0)
    }

    fn pattern(&self, random: &mut Random) -> Pattern {
        let packed = self.packed.map(|n| [self.q_len, self.kv_len].map(|len| cumulative(n, len, random)));
        let rooms: Vec<usize> = match &packed {
            None => vec![self.kv_len; self.batch],
            Some([_, keys]) => keys.windows(2).map(|ends| ends[1] - ends[0]).collect(),
        };
        let mut grid = |plan: Option<GridPlan>| self.of_scores(plan).map(|plan| plan.grid(self.matrix(), random));
        Pattern {
            band: self.band,
            mask: grid(self.mask),
            block_mask: grid(self.block_mask),
            rule: self.mask_rule.map(MaskRule::new),
            lens: match self.lens {
                Lens::Full => None,
                Lens::Each(len) => Some(rooms.iter().map(|room| len.min(*room)).collect()),
                Lens::Random => Some(rooms.iter().map(|room| random.below(room + 1)).collect()),
            },
            packed,
        }
    }

    fn modifiers(&self, random: &mut Random) -> Modifiers {
        let mut of_heads = |content: Option<Content>| -> Option<Vec<f32>> {
            content.map(|content| (0..self.q_heads).map(|_| content.sample(random)).collect())
        };
        Modifiers {
            scale: self.scale,
            softcap: self.softcap,
            alibi_slopes: of_heads(self.alibi_slopes),
            sinks: of_heads(self.sinks),
            bias: self.of_scores(self.bias).map(|plan| plan.bias(self.matrix(), random)),
            rule: self.score_rule.map(ScoreRule::new),
            batch_invariant: self.batch_invariant,
        }
    }
}
