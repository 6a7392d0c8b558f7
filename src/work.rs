//! A computation split into independent units, to be run from any number of threads.

use core::{num::NonZeroUsize, ops::Range};

use crate::{
    Error,
    kernel::prefill::Unit,
    score::{
        function::{Dot, Score},
        head::{Head, Queries},
    },
    scratch,
    simd::{Simd, with_simd},
    validate::{Call, Problem, Sequence},
    view::GroupRows,
};

/// A checked computation, split into units: each a block of queries of one head of one sequence.
///
/// Call [`run`](Self::run) once, or from as many threads as there are cores, each with scratch of its own. Which thread computes
/// which unit changes no bit of the result. When every call has returned, the output is complete.
///
/// ```
/// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
///
/// let (q, k, v) = ([0.5; 6 * 16], [0.25; 6 * 16], [1.0; 6 * 16]);
/// let mut out = [0.0; 6 * 16];
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
pub struct Work<'a, F = Dot> {
    plan: Plan<'a>,
    score: F,
}

impl<'a, F: Score> Work<'a, F> {
    pub(crate) fn new(problem: Problem<'a>, score: F) -> Self {
        Self { plan: Plan::new(problem), score }
    }

    /// How many units there are; more threads than that have nothing to do.
    #[must_use]
    pub const fn units(&self) -> usize {
        self.plan.units
    }

    /// Elements of scratch that each call of [`run`](Self::run) needs: [`scratch_len`](crate::scratch_len) of the dimensions.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        self.plan.problem.scratch_len
    }

    /// Computes units that no other call has taken, until none is left.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`], before taking a unit.
    pub fn run(&self, scratch: &mut [f32]) -> Result<(), Error> {
        self.plan.check(scratch)?;
        self.score.run(&self.plan, scratch);
        Ok(())
    }

    /// [`run`](Self::run) on the threads of the current rayon pool, as many at a time as `scratch` has room for (a multiple of
    /// [`scratch_len`](Self::scratch_len), or more) and the pool has threads. The bits are those of one thread.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`] if there is not room for one.
    #[cfg(feature = "rayon")]
    pub fn run_parallel(&self, scratch: &mut [f32]) -> Result<(), Error>
    where
        F: Sync,
    {
        self.plan.check(scratch)?;
        let threads = rayon::current_num_threads().min(self.units());
        rayon::scope(|scope| {
            for scratch in scratch.chunks_exact_mut(self.scratch_len()).take(threads) {
                scope.spawn(move |_| self.score.run(&self.plan, scratch));
            }
        });
        Ok(())
    }
}

/// A [`Work`] but for the score function.
pub struct Plan<'a> {
    problem: Problem<'a>,
    split: Split,
    units: usize,
    next: Counter,
}

impl<'a> Plan<'a> {
    fn new(problem: Problem<'a>) -> Self {
        let split = with_simd!(problem.backend, simd => Split::new(simd, &problem.call));
        let call = &problem.call;
        let heads = call.queries.shape().heads;
        // No overflow: the views counted `batch * heads * len` elements.
        let units = match call.packed_sequences() {
            None => call.queries.shape().batch * split.sequence(call, 0).all_units(heads),
            Some(sequences) => (0..sequences).map(|s| split.sequence(call, s).all_units(heads)).sum(),
        };
        Self { problem, split, units, next: Counter::new() }
    }

    fn check(&self, scratch: &[f32]) -> Result<(), Error> {
        scratch::check(self.problem.scratch_len, scratch)
    }

    /// [`Work::run`] with the score function that the problem was checked for.
    pub(crate) fn run<F: Score>(&self, score: &F, scratch: &mut [f32]) {
        let mut at = Place::start(&self.problem.call, &self.split);
        while let Some(unit) = self.next.take(self.units) {
            at.advance(&self.problem.call, &self.split, unit);
            self.run_unit(score, &at, unit, scratch);
        }
    }

    fn run_unit<F: Score>(&self, score: &F, at: &Place, unit: usize, scratch: &mut [f32]) {
        let Problem { call, output, lse, scores, backend, .. } = &self.problem;
        let Some((heads, part)) = at.locate(call, unit) else { return };
        let Some(rows) = at.rows(call, &heads, &part) else { return };
        let Some(per_head) = NonZeroUsize::new(part.len) else { return };
        let next = at.locate(call, unit + 1);
        let (batch, first) = (at.sequence.batch, at.sequence.queries.start + part.first);
        // SAFETY: each unit is taken once, and no two units have a row in common.
        let Some(output) = (unsafe { output.rows_mut(batch, &heads, first, part.len) }) else { return };
        // SAFETY: as above.
        let lse = lse.as_ref().and_then(|lse| unsafe { lse.rows_mut(batch, &heads, first, part.len) });
        let scores = scores.as_ref().and_then(|(stage, scores)| {
            // SAFETY: as above.
            let rows = unsafe { scores.rows_mut(batch, &heads, first, part.len) };
            Some((*stage, rows?))
        });
        let unit = Unit {
            head: Head::new(call, score, &at.sequence, heads.start),
            queries: Queries { head: heads.start, first: part.first, per_head, len: rows.len() },
            rows,
            next_rows: next.and_then(|(heads, part)| at.rows(call, &heads, &part)),
            output,
            lse,
            scores,
            scratch,
        };
        with_simd!(*backend, simd => simd.run(part.cols, unit));
    }
}

/// A sequence, and which unit is its first. It moves on with the units, of which a thread takes ever later ones.
struct Place {
    sequence: Sequence,
    partition: Partition,
    first_unit: usize,
}

impl Place {
    fn start(call: &Call<'_>, split: &Split) -> Self {
        Self { sequence: call.sequence(0), partition: split.sequence(call, 0), first_unit: 0 }
    }

    /// Goes to the sequence that this unit belongs to, which there is and which is no earlier one.
    fn advance(&mut self, call: &Call<'_>, split: &Split, unit: usize) {
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
    fn rows<'a>(&self, call: &Call<'a>, heads: &Range<usize>, part: &Part) -> Option<GroupRows<'a, f32>> {
        let Sequence { batch, queries, .. } = &self.sequence;
        call.queries.group(*batch, heads, queries.start + part.first, part.len)
    }

    /// Heads and queries of a unit, if it belongs to this sequence.
    fn locate(&self, call: &Call<'_>, unit: usize) -> Option<(Range<usize>, Part)> {
        let Partition { units, heads, .. } = self.partition;
        let per_head = NonZeroUsize::new(units)?;
        let unit = unit.checked_sub(self.first_unit)?;
        let (first, unit) = (unit / per_head * heads.get(), unit % per_head);
        // The last part first: under a causal mask it has the most keys, and the short ones even out the threads.
        let part = || self.partition.part(per_head.get() - 1 - unit);
        (first < call.queries.shape().heads).then(|| (first..first + heads.get(), part()))
    }
}

/// How the queries of a head are divided into units: runs of blocks, each of `COLS` vectors of queries.
///
/// A block has `narrow` vectors or one more, so that none is much smaller than the others; those with one more come first.
pub(crate) struct Partition {
    /// How many a unit has; several only where one unit has all their queries.
    heads: NonZeroUsize,
    q_len: usize,
    lanes: usize,
    blocks: usize,
    narrow: usize,
    wide_blocks: usize,
    /// Units of wide blocks; those of narrow ones come after.
    wide_units: usize,
    units: usize,
    blocks_per_unit: NonZeroUsize,
}

/// The queries of one unit.
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) cols: usize,
}

impl Partition {
    pub(crate) fn new(q_len: usize, split: &Split) -> Self {
        let &Split { lanes, max_cols, blocks_per_unit, .. } = split;
        let vectors = div_ceil(q_len, lanes);
        let blocks = div_ceil(vectors, max_cols);
        let (narrow, wide_blocks) =
            NonZeroUsize::new(blocks).map_or((0, 0), |blocks| (vectors / blocks, vectors % blocks));
        let units = |blocks: usize| div_ceil(blocks, blocks_per_unit);
        let wide_units = units(wide_blocks);
        let all_units = wide_units + units(blocks - wide_blocks);
        Self {
            heads: NonZeroUsize::MIN,
            q_len,
            lanes: lanes.get(),
            blocks,
            narrow,
            wide_blocks,
            wide_units,
            units: all_units,
            blocks_per_unit,
        }
    }

    /// Heads that share keys and values share vectors too, where all their queries fit into one.
    fn grouped(self, split: &Split) -> Self {
        let fits = split.group.get().checked_mul(self.q_len).is_some_and(|rows| rows <= self.lanes);
        if fits { Self { heads: split.group, ..self } } else { self }
    }

    /// The units of all heads, so many.
    fn all_units(&self, heads: usize) -> usize {
        heads / self.heads * self.units
    }

    pub(crate) const fn units(&self) -> usize {
        self.units
    }

    pub(crate) fn part(&self, unit: usize) -> Part {
        let per_unit = self.blocks_per_unit.get();
        let (block, end, cols) = match unit.checked_sub(self.wide_units) {
            None => (unit * per_unit, self.wide_blocks, self.narrow + 1),
            Some(unit) => (self.wide_blocks + unit * per_unit, self.blocks, self.narrow),
        };
        let blocks = per_unit.min(end - block);
        let first = block * self.narrow + block.min(self.wide_blocks);
        let first = first * self.lanes;
        Part { first, len: (blocks * cols * self.lanes).min(self.q_len - first), cols }
    }
}

/// Without the panic that `usize` keeps for a divisor of zero.
fn div_ceil(number: usize, by: NonZeroUsize) -> usize {
    number / by + usize::from(number % by != 0)
}

/// Bytes of keys and values that stay in a core's cache from one unit to the next.
const CACHED: usize = 1 << 18;

/// Units that leave the threads of a large machine enough to share out.
const ENOUGH_UNITS: usize = 32;

/// How sequences are divided, whatever their length.
pub(crate) struct Split {
    pub(crate) lanes: NonZeroUsize,
    pub(crate) max_cols: NonZeroUsize,
    pub(crate) blocks_per_unit: NonZeroUsize,
    /// Heads that may share a unit.
    pub(crate) group: NonZeroUsize,
}

impl Split {
    /// A unit has several blocks where that saves fetching keys and values again for each of them.
    fn new<S: Simd>(simd: S, call: &Call<'_>) -> Self {
        let (q, kv_len, value_dim) = (call.queries.shape(), call.kv.shape().len, call.kv.value_dim());
        let bytes = kv_len.saturating_mul(q.dim.saturating_add(value_dim)).saturating_mul(size_of::<f32>());
        let blocks = (q.batch * q.heads).saturating_mul(q.len.div_ceil(S::LANES * S::MAX_COLS));
        let blocks_per_unit = if bytes <= CACHED { 1 } else { (blocks / ENOUGH_UNITS).min(S::BLOCKS) };
        let split = Self::with_blocks(simd, blocks_per_unit);
        if call.is_projected { split } else { Self { group: call.group, ..split } }
    }

    /// With so many blocks in a unit, at least one, and heads by themselves.
    pub(crate) fn with_blocks<S: Simd>(_: S, blocks_per_unit: usize) -> Self {
        let [lanes, max_cols, blocks_per_unit] = [S::LANES, S::MAX_COLS, blocks_per_unit]
            .map(|number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN));
        Self { lanes, max_cols, blocks_per_unit, group: NonZeroUsize::MIN }
    }

    fn sequence(&self, call: &Call<'_>, sequence: usize) -> Partition {
        Partition::new(call.queries_of(sequence).len(), self).grouped(self)
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
