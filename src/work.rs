//! A computation split into independent units, to be run from any number of threads.

#[cfg(feature = "rayon")]
mod shares;

use core::{num::NonZeroUsize, ops::Range};

use crate::{
    Error,
    floats::{FloatRows, FloatRowsMut, SharedFloats, with_floats},
    kernel::{
        HasPairs, Products,
        prefill::{KeyRange, Unit},
    },
    partition::{Part, Partition, Split},
    ranges::{Partial, RANGE},
    scalar::Scalar,
    score::{
        function::{Dot, Score},
        head::{Head, Queries},
    },
    scratch,
    simd::{Simd, with_simd},
    validate::{Call, Problem, Sequence},
    view::{RowsMut, SharedRows},
};

/// A checked computation, split into units: each some blocks of queries of one head of one sequence, or few queries of several heads that
/// share keys.
///
/// Where the CPU has no atomic integers of a pointer's size, it is not [`Sync`]: all units are then one thread's.
///
/// Call [`run`](Self::run) once, or from as many threads as there are cores, each with scratch of its own. Which thread computes
/// which unit changes no bit of the result. When every call has returned, the output is complete.
///
/// ```
/// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
///
/// let (q, k, v) = ([0.5f32; 6 * 16], [0.25f32; 6 * 16], [1f32; 6 * 16]);
/// let mut out = [0f32; 6 * 16];
/// let work = Attention::new().prepare(
///     View::matrix(&q, [6, 16])?,
///     Kv::new(View::matrix(&k, [6, 16])?, View::matrix(&v, [6, 16])?)?,
///     ViewMut::matrix(&mut out, [6, 16])?,
/// )?;
/// std::thread::scope(|threads| {
///     for _ in 0..2 {
///         threads.spawn(|| work.run(&mut [0.0; scratch_len(16, 16)]));
///     }
/// });
/// # Ok::<(), simd_attention::Error>(())
/// ```
pub struct Work<'a, F = Dot, E = f32> {
    plan: Plan<'a, E>,
    score: F,
}

impl<'a, F: Score, E: Scalar> Work<'a, F, E> {
    pub(crate) fn new(problem: Problem<'a, E>, score: F) -> Self {
        Self { plan: Plan::new(problem), score }
    }

    /// How many units there are; more threads than that have nothing to do in [`run`](Self::run).
    #[must_use]
    pub const fn units(&self) -> usize {
        self.plan.units
    }

    /// Elements of scratch that each call of [`run`](Self::run) needs: [`scratch_len`](crate::scratch_len) of the dimensions, or
    /// [`cache_scratch_len`](crate::cache_scratch_len).
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        self.plan.problem.scratch_len
    }

    /// Computes units that no other call has taken, until none is left.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`], before taking a unit.
    pub fn run(&self, scratch: &mut [E]) -> Result<(), Error> {
        self.plan.check(scratch)?;
        self.score.run(&self.plan, scratch);
        Ok(())
    }

    /// Elements of scratch with which [`run_parallel`](Self::run_parallel) keeps so many threads busy: [`scratch_len`](Self::scratch_len) for
    /// each; and where a handful of queries attend to many keys, and there are too few units for all threads, room for results over
    /// ranges of keys, which are shared out then. `threads` is the pool's number of them, `rayon::current_num_threads()`: with room for
    /// fewer, no ranges are shared out.
    #[cfg(feature = "rayon")]
    #[must_use]
    pub fn parallel_scratch_len(&self, threads: usize) -> usize {
        let of_threads = self.scratch_len().saturating_mul(threads);
        of_threads.saturating_add(self.plan.shares::<F>(threads).map_or(0, |shares| shares.scratch_len()))
    }

    /// [`run`](Self::run) on the threads of the current rayon pool, as many at a time as `scratch` has room for (a multiple of
    /// [`scratch_len`](Self::scratch_len), or more) and the pool has threads; with [`parallel_scratch_len`](Self::parallel_scratch_len), those share single
    /// heads of long caches too. The bits are those of one thread.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`] if there is not room for one.
    #[cfg(feature = "rayon")]
    pub fn run_parallel(&self, scratch: &mut [E]) -> Result<(), Error>
    where
        F: Sync,
    {
        self.plan.check(scratch)?;
        let threads = rayon::current_num_threads();
        if let Some(shares) = self.plan.shares::<F>(threads)
            && let Some((slots, scratch)) = scratch.split_at_mut_checked(shares.scratch_len())
            && scratch.len() / threads >= self.scratch_len()
        {
            self.plan.run_shares(&self.score, &shares, slots, scratch);
            return Ok(());
        }
        let threads = threads.min(self.units());
        rayon::scope(|scope| {
            for scratch in scratch.chunks_exact_mut(self.scratch_len()).take(threads) {
                scope.spawn(move |_| self.score.run(&self.plan, scratch));
            }
        });
        Ok(())
    }
}

/// A [`Work`] but for the score function.
pub struct Plan<'a, E> {
    problem: Problem<'a, E>,
    split: Split,
    has_pairs: HasPairs,
    units: usize,
    next: Counter,
}

impl<'a, E: Scalar> Plan<'a, E> {
    fn new(problem: Problem<'a, E>) -> Self {
        let split = with_simd!(problem.backend, simd => Split::new(E::simd(simd), &problem.call));
        let call = &problem.call;
        let heads = call.queries.shape().heads;
        // No overflow: the views counted `batch * heads * len` elements.
        let units = match call.packed_sequences() {
            None => call.queries.shape().batch * split.sequence(call, 0).all_units(heads),
            Some(sequences) => (0..sequences).map(|s| split.sequence(call, s).all_units(heads)).sum(),
        };
        let has_pairs = with_simd!(problem.backend, simd => call.has_pairs(E::simd(simd)));
        Self { problem, split, has_pairs, units, next: Counter::new() }
    }

    fn check(&self, scratch: &[E]) -> Result<(), Error> {
        scratch::check(self.problem.scratch_len, scratch)
    }

    /// [`Work::run`] with the score function that the problem was checked for.
    pub(crate) fn run<F: Score>(&self, score: &F, scratch: &mut [E]) {
        let mut at = Place::start(&self.problem.call, &self.split);
        while let Some(unit) = self.next.take(self.units) {
            at.advance(&self.problem.call, &self.split, unit);
            self.run_unit(score, &at, unit, scratch);
        }
    }

    /// Computes a unit, which nobody else has taken.
    fn run_unit<F: Score>(&self, score: &F, at: &Place, unit: usize, scratch: &mut [E]) {
        let Some(unit) = self.locate(score, at, unit) else { return };
        if !unit.has_ranges() {
            return self.run_whole(unit, scratch);
        }
        let len = Partial::<E>::len(unit.queries.len, self.problem.output.shape().dim);
        let Some((own, rest)) = scratch.split_at_mut_checked(len) else { return };
        let Some((other, scratch)) = rest.split_at_mut_checked(len) else { return };
        let [Some(mut joined), Some(mut other)] = [own, other].map(|room| self.partial(&unit, room)) else { return };
        self.run_range(&unit, unit.ranges.start, &mut joined, scratch);
        for range in unit.ranges.start + 1..unit.ranges.end {
            self.run_range(&unit, range, &mut other, scratch);
            joined.join(&other);
        }
        self.store(&unit, &joined);
    }

    /// Computes a unit in one go.
    fn run_whole<F: Score>(&self, at: Located<'_, F, E>, scratch: &mut [E]) {
        let Problem { output, lse, scores, .. } = &self.problem;
        let (Some(output), lse) = (at.output_of(output), lse.as_ref().and_then(|lse| at.rows_of(lse))) else { return };
        let scores = scores.as_ref().and_then(|(stage, scores)| Some((*stage, at.rows_of(scores)?)));
        self.launch(at.cols, Unit { lse, scores, ..at.unit(output, scratch) });
    }

    /// Computes the results over one of the ranges of keys.
    fn run_range<F: Score>(&self, at: &Located<'_, F, E>, range: usize, to: &mut Partial<'_, E>, scratch: &mut [E]) {
        let (output, states) = to.rows_mut();
        let (start, is_first) = (range.saturating_mul(RANGE), range == at.ranges.start);
        let range = KeyRange { keys: start..start.saturating_add(RANGE), is_first, states };
        self.launch(at.cols, Unit { range: Some(range), ..at.unit(output, scratch) });
    }

    /// Writes the results of a unit over all ranges.
    fn store<F: Score>(&self, at: &Located<'_, F, E>, joined: &Partial<'_, E>) {
        let Problem { output, lse, .. } = &self.problem;
        let (Some(mut output), lse) = (at.output_of(output), lse.as_ref().and_then(|lse| at.rows_of(lse))) else {
            return;
        };
        joined.store(&mut output, lse);
    }

    /// Room for the results of a unit over one of the ranges.
    fn partial<'s, F>(&self, at: &Located<'_, F, E>, room: &'s mut [E]) -> Option<Partial<'s, E>> {
        Partial::new(room, at.queries.len, self.problem.output.shape().dim)
    }

    /// Has a backend compute a unit.
    #[inline(never)]
    fn launch<F: Score>(&self, cols: usize, unit: Unit<'_, F, E>) {
        with_simd!(self.problem.backend, simd => E::simd(simd).run(cols, unit));
    }

    fn locate<'p, F: Score>(&'p self, score: &'p F, at: &'p Place, unit: usize) -> Option<Located<'p, F, E>> {
        let call = &self.problem.call;
        let (heads, part) = at.locate(call, unit)?;
        let rows = at.rows(call, &heads, &part)?;
        let per_head = NonZeroUsize::new(part.len)?;
        let next = if self.split.asks_ahead { at.locate(call, unit + 1) } else { None };
        let head = Head::new(call, score, &at.sequence, heads.start);
        let queries = Queries { head: heads.start, first: part.first, per_head, len: rows.len() };
        // Not those of this unit: the last ones of a long sequence are summed up as all others are.
        let products = self.products::<F>(part.cols, at.sequence.queries.len().saturating_mul(heads.len()));
        Some(Located {
            head,
            queries,
            rows,
            next_rows: next.and_then(|(heads, part)| at.rows(call, &heads, &part)),
            heads,
            cols: part.cols,
            products,
            ranges: if products.are_of_rows() { ranges(&head, &queries) } else { 0..1 },
        })
    }

    /// How the products of so many queries, in blocks of so many vectors, are computed.
    fn products<F: Score>(&self, cols: usize, queries: usize) -> Products {
        let in_order = self.problem.call.batch_invariant || self.problem.scores.is_some();
        Products::new::<F>(cols, queries <= self.split.few, in_order, self.has_pairs)
    }
}

/// The queries of a unit, and where its results go.
struct Located<'p, F, E> {
    head: Head<'p, F, E>,
    queries: Queries,
    rows: FloatRows<'p, E>,
    next_rows: Option<FloatRows<'p, E>>,
    heads: Range<usize>,
    cols: usize,
    products: Products,
    /// Which [ranges](crate::ranges) of keys its queries see; of no meaning if there is but one.
    ranges: Range<usize>,
}

impl<'p, F: Score, E: Scalar> Located<'p, F, E> {
    fn has_ranges(&self) -> bool {
        self.ranges.len() > 1
    }

    /// The rows of the output that are this unit's.
    fn output_of<'s>(&self, output: &'s SharedFloats<'_, E>) -> Option<FloatRowsMut<'s, E>> {
        Some(with_floats!(SharedFloats::output, rows => FloatRowsMut(self.rows_of(rows)?)))
    }

    /// The rows of whatever is written that are this unit's.
    fn rows_of<'s, T>(&self, output: &'s SharedRows<'_, T>) -> Option<RowsMut<'s, T>> {
        let (sequence, Queries { first, per_head, .. }) = (self.head.sequence, self.queries);
        let first = sequence.queries.start + first;
        // SAFETY: each unit is taken once, no two units have a row in common, and each asks for its rows of an output once.
        unsafe { output.rows_mut(sequence.batch, &self.heads, first, per_head.get()) }
    }

    /// The unit that gives nothing but outputs.
    fn unit<'s>(&self, output: FloatRowsMut<'s, E>, scratch: &'s mut [E]) -> Unit<'s, F, E>
    where
        'p: 's,
    {
        let Self { head, queries, rows, next_rows, products, .. } = *self;
        Unit { head, queries, products, rows, next_rows, output, lse: None, scores: None, range: None, scratch }
    }
}

/// Which ranges of keys some queries see.
fn ranges<F: Score, E: Scalar>(head: &Head<'_, F, E>, queries: &Queries) -> Range<usize> {
    let [first, last] = queries.ends(0, queries.len);
    let keys = head.band.span(first, last).some;
    keys.start / RANGE..keys.end.div_ceil(RANGE)
}

/// A sequence, and which unit is its first. It moves on with the units, of which a thread takes ever later ones.
struct Place {
    sequence: Sequence,
    partition: Partition,
    first_unit: usize,
}

impl Place {
    fn start<E: Scalar>(call: &Call<'_, E>, split: &Split) -> Self {
        Self { sequence: call.sequence(0), partition: split.sequence(call, 0), first_unit: 0 }
    }

    /// Goes to the sequence that this unit belongs to, which there is and which is no earlier one.
    fn advance<E: Scalar>(&mut self, call: &Call<'_, E>, split: &Split, unit: usize) {
        let heads = call.queries.shape().heads;
        let mut index = self.sequence.index;
        while index + 1 < call.sequences() && unit >= self.first_unit + self.partition.all_units(heads) {
            self.first_unit += self.partition.all_units(heads);
            index += 1;
            self.partition = split.sequence(call, index);
        }
        if index != self.sequence.index {
            self.sequence = call.sequence(index);
        }
    }

    /// The queries of a part of this sequence.
    fn rows<'a, E: Scalar>(&self, call: &Call<'a, E>, heads: &Range<usize>, part: &Part) -> Option<FloatRows<'a, E>> {
        let Sequence { batch, queries, .. } = &self.sequence;
        call.queries.group(*batch, heads, queries.start + part.first, part.len)
    }

    /// Heads and queries of a unit, if it belongs to this sequence.
    fn locate<E: Scalar>(&self, call: &Call<'_, E>, unit: usize) -> Option<(Range<usize>, Part)> {
        let Partition { units, heads, .. } = self.partition;
        let per_head = NonZeroUsize::new(units)?;
        let unit = unit.checked_sub(self.first_unit)?;
        let (first, unit) = (unit / per_head * heads.get(), unit % per_head);
        // The last part first: under a causal mask it has the most keys, and the short ones even out the threads.
        let part = || self.partition.part(per_head.get() - 1 - unit);
        (first < call.queries.shape().heads).then(|| (first..first + heads.get(), part()))
    }
}

/// Hands out `0, 1, 2, ...`, each once.
struct Counter {
    #[cfg(target_has_atomic = "ptr")]
    next: core::sync::atomic::AtomicUsize,
    /// Without atomic read-modify-write instructions; this makes [`Work`] `!Sync`.
    #[cfg(not(target_has_atomic = "ptr"))]
    next: core::cell::Cell<usize>,
}

impl Counter {
    fn new() -> Self {
        Self { next: Default::default() }
    }

    /// All numbers below `end` that are left.
    #[cfg(feature = "rayon")]
    fn take_rest(&self, end: usize) -> Range<usize> {
        use core::sync::atomic::Ordering::Relaxed;
        self.next.fetch_max(end, Relaxed).min(end)..end
    }

    /// The next number, if it is below `end`.
    #[cfg(target_has_atomic = "ptr")]
    fn take(&self, end: usize) -> Option<usize> {
        use core::sync::atomic::Ordering::Relaxed;
        // Not `fetch_add`, which would wrap around when called often enough after the end.
        self.next.fetch_update(Relaxed, Relaxed, |next| (next < end).then_some(next + 1)).ok()
    }

    /// The next number, if it is below `end`.
    #[cfg(not(target_has_atomic = "ptr"))]
    fn take(&self, end: usize) -> Option<usize> {
        let next = self.next.get();
        (next < end).then(|| self.next.replace(next + 1))
    }
}
