//! Which pages are free, and how many sequences have each of the others.

use crate::{random::Random, tokens::shuffled};

pub struct Pool {
    free: Vec<u32>,
    owners: Vec<usize>,
}

impl Pool {
    /// So many free pages, in the order in which those are left that came and went with earlier sequences: any.
    pub fn new(pages: u32, random: &mut Random) -> Self {
        let free = shuffled(pages as usize, random).into_iter().map(|page| page as u32).collect();
        Self { free, owners: vec![0; pages as usize] }
    }

    /// A free page, for its first owner.
    pub fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.owners[page as usize] = 1;
        Some(page)
    }

    /// One more owner of a page that is in use.
    pub fn share(&mut self, page: u32) {
        self.owners[page as usize] += 1;
    }

    /// One owner less; the last one leaves the page free.
    pub fn release(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free.push(page);
        }
    }

    pub fn pages(&self) -> usize {
        self.owners.len()
    }

    pub fn in_use(&self) -> usize {
        self.pages() - self.free.len()
    }

    /// How many more pages would be in use if each had one owner.
    pub fn saved(&self) -> usize {
        self.owners.iter().map(|owners| owners.saturating_sub(1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_owner_is_gone() {
        let mut pool = Pool::new(3, &mut Random(1));
        let mut pages = [(); 3].map(|()| pool.take().unwrap_or(u32::MAX));
        assert_eq!((pool.take(), pool.in_use(), pool.saved()), (None, 3, 0));
        pool.share(pages[1]);
        assert_eq!((pool.in_use(), pool.saved()), (3, 1));
        pool.release(pages[1]);
        assert_eq!(pool.take(), None);
        pool.release(pages[1]);
        assert_eq!((pool.in_use(), pool.take()), (2, Some(pages[1])));
        pages.sort_unstable();
        assert_eq!(pages, [0, 1, 2]);
    }
}
