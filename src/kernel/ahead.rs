//! What will be wanted later, asked for in good time.

use core::{cell::Cell, ops::Range};

/// Asks for one thing after the other, a few at each of so many steps: more than can be under way at once have to be waited for.
pub(crate) struct Ahead<'a> {
    ask: &'a dyn Fn(usize),
    /// Things a step, and how many were due so far, in fractions of [`ONE`](Self::ONE).
    per_step: usize,
    due: Cell<usize>,
    takes_all_steps: bool,
}

impl<'a> Ahead<'a> {
    const ONE: usize = 1 << 12;

    /// For so many things, and about so many steps: those that cost the least, and [others](Self::or_never), to be taken where those are too few.
    #[inline(always)]
    pub(crate) fn new(ask: &'a dyn Fn(usize), things: usize, [cheap, others]: [usize; 2]) -> Self {
        let takes_all_steps = things > cheap;
        let steps = if takes_all_steps { cheap + others } else { cheap };
        let per_step = things.saturating_mul(Self::ONE).checked_div(steps).unwrap_or(0);
        Self { ask, per_step, due: Cell::new(0), takes_all_steps }
    }

    /// For the steps that are not always taken.
    #[inline(always)]
    pub(crate) fn or_never(&self) -> Option<&Self> {
        self.takes_all_steps.then_some(self)
    }

    #[inline(always)]
    pub(crate) fn step(&self) {
        let (asked, due) = (self.due.get(), self.due.get().saturating_add(self.per_step));
        self.due.set(due);
        if asked / Self::ONE < due / Self::ONE {
            self.ask(asked / Self::ONE..due / Self::ONE);
        }
    }

    #[inline(never)]
    fn ask(&self, things: Range<usize>) {
        things.for_each(self.ask);
    }
}
