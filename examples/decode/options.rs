//! The command line.

use std::{error::Error, ffi::OsString};

use lexopt::{
    Arg::{Long, Short},
    Parser, ValueExt,
};
use simd_attention::Backend;

pub const HELP: &str = "\
Generates tokens through the attention layer of a language model's decoder, with a paged int8 cache next to an f32 one, and shows
speed, memory and the error between them.

Usage: cargo run --release --example decode -- [OPTIONS]

Options:
  --heads N          query heads [default: 32]
  --kv-heads N       key/value heads, which the query heads share [default: 8]
  --dim N            elements of a head [default: 128]
  --page-size N      tokens of a page [default: 16]
  --sequences N      sequences that are generated at once [default: 2]
  --prompt N         tokens of the first sequence's prompt; the others begin with a part of it [default: 1000]
  --steps N          tokens to generate for each sequence [default: 2000]
  --backend BACKEND  the instructions to compute with [default: the fastest that this CPU has]
  --help             this text
";

/// What to generate, and with what.
#[derive(Clone, Copy)]
pub struct Options {
    pub layer: Layer,
    pub page_size: usize,
    pub sequences: usize,
    /// Tokens of the first sequence's prompt.
    pub prompt: usize,
    pub steps: usize,
}

/// An attention layer.
#[derive(Clone, Copy)]
pub struct Layer {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub backend: Backend,
}

impl Layer {
    /// Elements of a token's queries.
    pub const fn query(&self) -> usize {
        self.heads * self.dim
    }

    /// Elements of a token's keys, or of its values.
    pub const fn row(&self) -> usize {
        self.kv_heads * self.dim
    }
}

impl Default for Options {
    fn default() -> Self {
        let layer = Layer { heads: 32, kv_heads: 8, dim: 128, backend: Backend::best() };
        Self { layer, page_size: 16, sequences: 2, prompt: 1000, steps: 2000 }
    }
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Option<Self>, Box<dyn Error>> {
        let mut options = Self::default();
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("heads") => options.layer.heads = count("--heads", &mut parser)?,
                Long("kv-heads") => options.layer.kv_heads = count("--kv-heads", &mut parser)?,
                Long("dim") => options.layer.dim = count("--dim", &mut parser)?,
                Long("page-size") => options.page_size = count("--page-size", &mut parser)?,
                Long("sequences") => options.sequences = count("--sequences", &mut parser)?,
                Long("prompt") => options.prompt = count("--prompt", &mut parser)?,
                Long("steps") => options.steps = count("--steps", &mut parser)?,
                Long("backend") => options.layer.backend = find_backend(&parser.value()?.string()?)?,
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        options.check()?;
        Ok(Some(options))
    }

    /// Whether the options fit together.
    fn check(&self) -> Result<(), String> {
        let Layer { heads, kv_heads, dim, .. } = self.layer;
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("--heads {heads}: must be a multiple of --kv-heads, which is {kv_heads}"));
        }
        if self.layer.query() > MOST {
            return Err(format!("--heads {heads}, --dim {dim}: must have a product of at most {MOST}"));
        }
        Ok(())
    }

    /// Tokens of a sequence's prompt: all of it, or a part that gets shorter from sequence to sequence, but never below half of it.
    pub const fn prompt_of(&self, sequence: usize) -> usize {
        self.prompt - self.prompt * sequence / (2 * self.sequences)
    }

    /// Tokens of the longest sequence when all is generated.
    pub const fn room(&self) -> usize {
        self.prompt + self.steps
    }
}

/// Far more than is of use.
const MOST: usize = 1 << 20;

fn count(option: &str, parser: &mut Parser) -> Result<usize, Box<dyn Error>> {
    let value = parser.value()?.string()?;
    let count = value.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("{option} {value:?}: must be a number from 1 to {MOST}").into())
}

fn find_backend(name: &str) -> Result<Backend, String> {
    Backend::available().find(|backend| backend.to_string() == name).ok_or_else(|| {
        let names: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
        format!("--backend {name:?}: must be one of {}", names.join(", "))
    })
}
