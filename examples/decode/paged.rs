//! A cache of bytes in pages, which sequences take as they grow and share where they begin alike.

use std::{error::Error, ops::Range};

use simd_attention::{Kv, KvMut, View};

use crate::{
    cache::{Cache, Outputs, attend},
    options::{Layer, Options},
    pool::Pool,
    random::Random,
    rows::Rows,
    table::{NONE, Table},
};

/// Keys and values in pages, and which pages each sequence has.
pub struct Paged {
    layer: Layer,
    page_size: usize,
    keys: Rows,
    values: Rows,
    pool: Pool,
    table: Table,
    lens: Vec<usize>,
}

impl Paged {
    /// With as many pages as there must be if none is shared.
    pub fn new(options: &Options, sequences: usize, random: &mut Random) -> Result<Self, Box<dyn Error>> {
        let Options { layer, page_size, .. } = *options;
        let pages_of_sequence = options.room().div_ceil(page_size);
        let pages = sequences * pages_of_sequence;
        let shape = [pages, layer.kv_heads, page_size, layer.dim];
        Ok(Self {
            layer,
            page_size,
            keys: Rows::zeros(shape)?,
            values: Rows::zeros(shape)?,
            pool: Pool::new(u32::try_from(pages).map_err(|_| format!("{pages} pages are too many"))?, random),
            table: Table::new(sequences, pages_of_sequence),
            lens: vec![0; sequences],
        })
    }

    /// Lets a new sequence begin with the first tokens of another one. A page that is not full of them is not shared, since both would write to
    /// it; returns how many tokens are on those that are.
    pub fn share(&mut self, from: usize, to: usize, tokens: usize) -> usize {
        let pages = tokens / self.page_size;
        for i in 0..pages {
            let page = self.table.row(from)[i];
            self.pool.share(page);
            self.table.row_mut(to)[i] = page;
        }
        self.lens[to] = pages * self.page_size;
        self.lens[to]
    }

    /// A sequence is over: nobody has its pages any more but those that share them.
    pub fn end(&mut self, sequence: usize) {
        for page in self.table.row_mut(sequence) {
            if *page != NONE {
                self.pool.release(std::mem::replace(page, NONE));
            }
        }
        self.lens[sequence] = 0;
    }

    /// Those that there is memory for.
    pub fn pages(&self) -> usize {
        self.pool.pages()
    }

    pub fn pages_in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// How many more it would be without sharing.
    pub fn pages_saved(&self) -> usize {
        self.pool.saved()
    }

    pub fn bytes_of_page(&self) -> usize {
        self.page_size * self.bytes_of_token()
    }

    /// Takes pages for the tokens of a sequence up to this number of them.
    fn grow(&mut self, sequence: usize, len: usize) -> Result<(), Box<dyn Error>> {
        let [first, end] = [self.lens[sequence], len].map(|len| len.div_ceil(self.page_size));
        for page in &mut self.table.row_mut(sequence)[first..end] {
            *page = self.pool.take().ok_or("all pages are in use")?;
        }
        Ok(())
    }
}

impl Cache for Paged {
    fn append(&mut self, sequences: Range<usize>, [keys, values]: [View<'_, f32>; 2]) -> Result<(), Box<dyn Error>> {
        let new_len = keys.shape().len;
        for sequence in sequences.clone() {
            self.grow(sequence, self.lens[sequence] + new_len)?;
        }
        let table = self.table.view(&sequences)?;
        let lens = &mut self.lens[sequences];
        let (to_keys, to_values) = (self.keys.view_mut()?.pages(table), self.values.view_mut()?.pages(table));
        KvMut::new(to_keys, to_values).append(keys, values, lens)?;
        lens.iter_mut().for_each(|len| *len += new_len);
        Ok(())
    }

    fn attend(&self, sequences: Range<usize>, queries: &[f32], to: Outputs<'_>) -> Result<(), Box<dyn Error>> {
        let kv = Kv::quantized(self.keys.view()?, self.values.view()?)?;
        let kv = kv.pages(self.table.view(&sequences)?).lens(&self.lens[sequences]);
        Ok(attend(&self.layer, queries, kv, to)?)
    }

    fn lens(&self) -> &[usize] {
        &self.lens
    }

    fn bytes_of_token(&self) -> usize {
        2 * (self.layer.row() * size_of::<i8>() + self.layer.kv_heads * size_of::<f32>())
    }

    fn bytes(&self) -> usize {
        self.pages_in_use() * self.bytes_of_page()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequences of six and seven tokens on pages of three, the first five of which are alike.
    fn forked() -> Result<Paged, Box<dyn Error>> {
        let layer = Layer { heads: 2, kv_heads: 1, dim: 4, ..Options::default().layer };
        let options = Options { layer, page_size: 3, prompt: 6, steps: 1, ..Options::default() };
        let mut paged = Paged::new(&options, 2, &mut Random(1))?;
        let rows = Random(2).vector(7 * 4, 1.0);
        let view = |tokens: Range<usize>| View::heads_first(&rows[tokens.start * 4..], [1, 1, tokens.len(), 4]);
        paged.append(0..1, [view(0..6)?; 2])?;
        assert_eq!(paged.share(0, 1, 5), 3);
        paged.append(1..2, [view(3..7)?; 2])?;
        Ok(paged)
    }

    fn attend_all(paged: &Paged) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut outputs = vec![0.0; 16];
        let scratch = &mut vec![0.0; simd_attention::cache_scratch_len(4, 4)];
        paged.attend(0..2, &[1.0; 16], Outputs { rows: &mut outputs, scratch })?;
        Ok(outputs)
    }

    #[test]
    fn full_pages_of_a_common_beginning_are_shared() -> Result<(), Box<dyn Error>> {
        let paged = forked()?;
        let [first, second] = [0, 1].map(|sequence| paged.table.row(sequence));
        assert_eq!(first[0], second[0]);
        assert!(first[1] != second[1] && first[2] == NONE && second[2] != NONE);
        assert_eq!((paged.pages_in_use(), paged.pages_saved(), paged.lens()), (4, 1, &[6, 7][..]));
        assert_eq!(paged.bytes(), 4 * 3 * 2 * (4 + 4));
        Ok(())
    }

    #[test]
    fn what_is_on_a_shared_page_is_seen_by_both() -> Result<(), Box<dyn Error>> {
        for (page, expected) in [(0, [true, true]), (1, [true, false])] {
            let mut paged = forked()?;
            let scale = paged.table.row(0)[page] as usize * 3;
            paged.values.spoil(scale);
            let outputs = attend_all(&paged)?;
            assert_eq!([&outputs[..8], &outputs[8..]].map(|of_one| of_one.iter().all(|x| x.is_nan())), expected);
        }
        Ok(())
    }

    #[test]
    fn pages_are_free_when_all_sequences_are_over() -> Result<(), Box<dyn Error>> {
        let mut paged = forked()?;
        paged.end(0);
        assert_eq!((paged.pages_in_use(), paged.pages_saved(), paged.lens()), (3, 0, &[0, 7][..]));
        paged.end(1);
        assert_eq!(paged.pages_in_use(), 0);
        Ok(())
    }
}
