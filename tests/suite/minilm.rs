//! Real queries, keys and values: three layers of a sentence encoder (see `data/README.md`).

use crate::common::backends;
use safetensors::SafeTensors;
use simd_attention::{Attention, Backend, Kv, View, ViewMut, scratch_len};

const HEADS: usize = 12;
const TOKENS: usize = 56;
const DIM: usize = 32;
const LAYERS: [usize; 3] = [0, 3, 5];

/// The largest error of an element, relative to the largest value of its head: four units in the last place.
const TOLERANCE: f32 = 4.0 * f32::EPSILON;

struct Layer {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
}

impl Layer {
    fn read(layer: usize) -> Self {
        let file = SafeTensors::deserialize(include_bytes!("../data/minilm_l6.safetensors")).unwrap();
        let tensor = |name: &str| {
            let tensor = file.tensor(&format!("layer{layer}.{name}")).unwrap();
            assert_eq!(tensor.shape(), [HEADS, TOKENS, DIM]);
            let (elements, []) = tensor.data().as_chunks() else { panic!("{name} is not of f32") };
            elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        Self { q: tensor("q"), k: tensor("k"), v: tensor("v"), out: tensor("out") }
    }

    fn forward(&self, backend: Backend) -> Vec<f32> {
        let view = |data| View::heads_first(data, [1, HEADS, TOKENS, DIM]).unwrap();
        let mut out = vec![f32::NAN; HEADS * TOKENS * DIM];
        let values = ViewMut::heads_first(&mut out, [1, HEADS, TOKENS, DIM]).unwrap();
        Attention::new()
            .backend(backend)
            .forward(
                view(&self.q),
                Kv::new(view(&self.k), view(&self.v)).unwrap(),
                values,
                &mut [0.0; scratch_len(DIM, DIM)],
            )
            .unwrap();
        out
    }
}

#[test]
fn every_head_is_reproduced() {
    crate::common::report_backends();
    for backend in backends() {
        let mut worst = 0f32;
        for layer in LAYERS {
            let data = Layer::read(layer);
            let out = data.forward(backend);
            let heads = out.chunks(TOKENS * DIM).zip(data.out.chunks(TOKENS * DIM)).zip(data.v.chunks(TOKENS * DIM));
            for (head, ((actual, expected), values)) in heads.enumerate() {
                let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
                let errors = actual.iter().zip(expected).map(|(a, e)| (a - e).abs() / largest);
                for error in errors {
                    assert!(error <= TOLERANCE, "{backend}, layer {layer}, head {head}: relative error {error:e}");
                    worst = worst.max(error);
                }
            }
        }
        println!("{backend}: largest error {worst:.1e} of the head's largest value");
    }
}

/// What the example shows: in layer 3, head 1 (counted from zero), "it" looks at "animal".
#[test]
fn it_looks_at_the_animal() {
    const HEAD: usize = 1;
    const IT: usize = 9;
    const ANIMAL: usize = 2;
    let layer = Layer::read(3);
    let head = |data: &[f32]| data[HEAD * TOKENS * DIM..][..TOKENS * DIM].to_vec();
    let (q, k) = (head(&layer.q), head(&layer.k));
    let mut one_hot = [0.0; TOKENS * TOKENS];
    one_hot.iter_mut().step_by(TOKENS + 1).for_each(|x| *x = 1.0);

    for backend in backends() {
        let mut weights = [0f32; TOKENS];
        let keys = View::matrix(&k, [TOKENS, DIM]).unwrap();
        let kv = Kv::new(keys, View::matrix(&one_hot, [TOKENS, TOKENS]).unwrap()).unwrap();
        Attention::new()
            .backend(backend)
            .forward(
                View::matrix(&q[IT * DIM..][..DIM], [1, DIM]).unwrap(),
                kv,
                ViewMut::matrix(&mut weights, [1, TOKENS]).unwrap(),
                &mut [0.0; scratch_len(DIM, TOKENS)],
            )
            .unwrap();
        assert!((weights[ANIMAL] - 0.49).abs() < 0.005, "{backend}: {}", weights[ANIMAL]);
        assert!(weights.iter().all(|weight| *weight <= weights[ANIMAL]), "{backend}");
    }
}
