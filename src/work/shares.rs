//! Ranges of keys shared out over the threads of a pool.

use super::{Located, Place, Plan};
use crate::{
    partition::Partition,
    ranges::{Partial, RANGE},
    scalar::Scalar,
    score::function::Score,
};

/// Units whose ranges of keys are shared out over threads.
pub(super) struct Shares {
    /// The most ranges that a unit has.
    ranges: usize,
    slots: usize,
    slots_per_thread: usize,
    /// Elements of a result over one range.
    slot_len: usize,
}

impl Shares {
    pub(super) const fn scratch_len(&self) -> usize {
        self.slots.saturating_mul(self.slot_len)
    }
}

/// Fewer units than this for each thread leave some idle at the end.
const UNITS_PER_THREAD: usize = 4;

impl<E: Scalar> Plan<'_, E> {
    /// How ranges of keys are shared out, if that is what takes all threads.
    pub(super) fn shares<F: Score>(&self, threads: usize) -> Option<Shares> {
        let call = &self.problem.call;
        let (len, group) = (call.queries.shape().len, call.group.get());
        let heads = Partition::new(len, &self.split).grouped(&self.split).heads.get();
        let ranges = call.kv.shape().len.div_ceil(RANGE);
        let has_idle = (1..threads.saturating_mul(UNITS_PER_THREAD)).contains(&self.units);
        let is_worthwhile = threads > 1 && ranges > 1 && has_idle;
        let slots = self.units.saturating_mul(ranges);
        (is_worthwhile && self.products::<F>(1, len.saturating_mul(heads)).are_of_rows()).then(|| Shares {
            ranges,
            slots,
            slots_per_thread: slots.div_ceil(threads),
            // As many queries as there are, or as any unit has that has ranges.
            slot_len: Partial::<E>::len(len.saturating_mul(group).min(self.split.few), self.problem.output.shape().dim),
        })
    }

    /// Computes the units that are left, range by range. Each thread has a share of the slots, where the results over single ranges are kept until
    /// all are there.
    pub(super) fn run_shares<F: Score + Sync>(&self, score: &F, shares: &Shares, slots: &mut [E], scratch: &mut [E]) {
        let left = &self.next.take_rest(self.units);
        rayon::scope(|scope| {
            let slots = slots.chunks_mut(shares.slots_per_thread * shares.slot_len);
            let scratch = scratch.chunks_exact_mut(self.problem.scratch_len);
            for ((thread, slots), scratch) in slots.enumerate().zip(scratch) {
                let first = thread * shares.slots_per_thread;
                scope.spawn(move |_| {
                    let mut at = Place::start(&self.problem.call, &self.split);
                    for (i, slot) in (first..).zip(slots.chunks_exact_mut(shares.slot_len)) {
                        let (unit, range) = (i / shares.ranges, i % shares.ranges);
                        if left.contains(&unit) {
                            at.advance(&self.problem.call, &self.split, unit);
                            self.run_share(score, &at, (unit, range), slot, scratch);
                        }
                    }
                });
            }
        });
        let mut at = Place::start(&self.problem.call, &self.split);
        for unit in left.clone() {
            at.advance(&self.problem.call, &self.split, unit);
            if let Some(located) = self.locate(score, &at, unit) {
                self.join_shares(&located, unit, shares, slots);
            }
        }
    }

    /// Computes a range of a unit, if it has that many; all of a unit that is not divided.
    fn run_share<F: Score>(
        &self,
        score: &F,
        at: &Place,
        (unit, range): (usize, usize),
        slot: &mut [E],
        scratch: &mut [E],
    ) {
        let Some(located) = self.locate(score, at, unit) else { return };
        if !located.has_ranges() && range == 0 {
            self.run_whole(located, scratch);
        } else if located.has_ranges()
            && located.ranges.contains(&range)
            && let Some(mut partial) = self.partial(&located, slot)
        {
            self.run_range(&located, range, &mut partial, scratch);
        }
    }

    /// Joins the results over the ranges of a unit, in order.
    fn join_shares<F: Score>(&self, at: &Located<'_, F, E>, unit: usize, shares: &Shares, slots: &mut [E]) {
        let ranges = &at.ranges;
        if !at.has_ranges() {
            return;
        }
        let slots =
            slots.chunks_exact_mut(shares.slot_len).skip(unit * shares.ranges + ranges.start).take(ranges.len());
        let mut partials = slots.filter_map(|slot| self.partial(at, slot));
        if let Some(mut joined) = partials.next() {
            partials.for_each(|partial| joined.join(&partial));
            self.store(at, &joined);
        }
    }
}
