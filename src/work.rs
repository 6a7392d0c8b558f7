//! A computation split into independent units, to be run from any number of threads.

use core::num::NonZeroUsize;

use crate::{
    Error,
    kernel::prefill::Unit,
    simd::{Simd, with_simd},
    validate::Problem,
    view::Rows,
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
pub struct Work<'a> {
    problem: Problem<'a>,
    /// How the queries of each head are divided into units.
    partition: Partition,
    units: usize,
    next: Counter,
}

impl<'a> Work<'a> {
    pub(crate) fn new(problem: Problem<'a>) -> Self {
        let partition = with_simd!(problem.backend, simd => partition(simd, &problem));
        let q = problem.queries.shape();
        // No overflow: the views counted `batch * heads * len` elements.
        Self { units: q.batch * q.heads * partition.units(), problem, partition, next: Counter::new() }
    }

    /// How many units there are; more threads than that have nothing to do.
    #[must_use]
    pub const fn units(&self) -> usize {
        self.units
    }

    /// Elements of scratch that each call of [`run`](Self::run) needs: [`scratch_len`](crate::scratch_len) of the dimensions.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        self.problem.scratch_len
    }

    /// Computes units that no other call has taken, until none is left.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`], before taking a unit.
    pub fn run(&self, scratch: &mut [f32]) -> Result<(), Error> {
        let (required, actual) = (self.problem.scratch_len, scratch.len());
        if actual < required {
            return Err(Error::ScratchTooShort { required, actual });
        }
        while let Some(unit) = self.next.take(self.units) {
            self.run_unit(unit, scratch);
        }
        Ok(())
    }

    /// [`run`](Self::run) on the threads of the current rayon pool, as many at a time as `scratch` has room for (a multiple of
    /// [`scratch_len`](Self::scratch_len), or more) and the pool has threads. The bits are those of one thread.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchTooShort`] if there is not room for one.
    #[cfg(feature = "rayon")]
    pub fn run_parallel(&self, scratch: &mut [f32]) -> Result<(), Error> {
        let (required, actual) = (self.problem.scratch_len, scratch.len());
        if actual < required {
            return Err(Error::ScratchTooShort { required, actual });
        }
        let threads = rayon::current_num_threads().min(self.units);
        rayon::scope(|scope| {
            for scratch in scratch.chunks_exact_mut(required).take(threads) {
                scope.spawn(move |_| {
                    // Cannot fail: the chunk is as long as required.
                    let _ = self.run(scratch);
                });
            }
        });
        Ok(())
    }

    fn run_unit(&self, unit: usize, scratch: &mut [f32]) {
        let Self { problem, .. } = self;
        let Some((batch, head, part)) = self.locate(unit) else { return };
        let Part { first, len, cols } = part;
        let kv_head = head / problem.group;
        let (keys, values) = (problem.kv.keys.rows(batch, kv_head), problem.kv.values.rows(batch, kv_head));
        // SAFETY: each unit is taken once, and no two units have a row in common.
        let output = unsafe { problem.output.rows_mut(batch, head, first, len) };
        // SAFETY: as above.
        let lse = problem.lse.as_ref().and_then(|lse| unsafe { lse.rows_mut(batch, head, first, len) });
        let (Some(queries), Some(output)) = (self.queries(unit), output) else { return };
        let unit = Unit {
            queries,
            next_queries: self.queries(unit + 1),
            first,
            kv: keys.zip(values),
            mask: problem.mask,
            scale: problem.scale,
            output,
            lse,
            scratch,
        };
        with_simd!(problem.backend, simd => simd.run(cols, unit));
    }

    /// Sequence, head and queries of a unit.
    fn locate(&self, unit: usize) -> Option<(usize, usize, Part)> {
        // There is no unit where either is zero; the compiler is told, as it would keep a panic for division by zero.
        let per_head = NonZeroUsize::new(self.partition.units())?;
        let heads = NonZeroUsize::new(self.problem.queries.shape().heads)?;
        let (head, unit) = (unit / per_head, unit % per_head);
        // The last part first: under a causal mask it has the most keys, and the short ones even out the threads.
        Some((head / heads, head % heads, self.partition.part(per_head.get() - 1 - unit)))
    }

    fn queries(&self, unit: usize) -> Option<Rows<'a, f32>> {
        let (batch, head, part) = self.locate(unit)?;
        self.problem.queries.rows(batch, head)?.range(part.first, part.len)
    }
}

/// How the queries of a head are divided into units: runs of blocks, each of `COLS` vectors of queries.
///
/// A block has `narrow` vectors or one more, so that none is much smaller than the others; those with one more come first.
struct Partition {
    lanes: usize,
    blocks: usize,
    narrow: usize,
    wide_blocks: usize,
    blocks_per_unit: NonZeroUsize,
}

/// The queries of one unit.
struct Part {
    first: usize,
    /// The last unit may have fewer.
    len: usize,
    cols: usize,
}

impl Partition {
    fn new(q_len: usize, lanes: usize, max_cols: usize, blocks_per_unit: NonZeroUsize) -> Self {
        let vectors = q_len.div_ceil(lanes);
        let blocks = vectors.div_ceil(max_cols);
        let (narrow, wide_blocks) =
            NonZeroUsize::new(blocks).map_or((0, 0), |blocks| (vectors / blocks, vectors % blocks));
        Self { lanes, blocks, narrow, wide_blocks, blocks_per_unit }
    }

    /// Units of wide blocks; those of narrow ones come after.
    fn wide_units(&self) -> usize {
        self.wide_blocks / self.blocks_per_unit + usize::from(self.wide_blocks % self.blocks_per_unit != 0)
    }

    fn units(&self) -> usize {
        let narrow_blocks = self.blocks - self.wide_blocks;
        let narrow_units =
            narrow_blocks / self.blocks_per_unit + usize::from(narrow_blocks % self.blocks_per_unit != 0);
        self.wide_units() + narrow_units
    }

    fn part(&self, unit: usize) -> Part {
        let per_unit = self.blocks_per_unit.get();
        let (block, end, cols) = match unit.checked_sub(self.wide_units()) {
            None => (unit * per_unit, self.wide_blocks, self.narrow + 1),
            Some(unit) => (self.wide_blocks + unit * per_unit, self.blocks, self.narrow),
        };
        let blocks = per_unit.min(end - block);
        let first = block * self.narrow + block.min(self.wide_blocks);
        Part { first: first * self.lanes, len: blocks * cols * self.lanes, cols }
    }
}

/// Bytes of keys and values that stay in a core's cache from one unit to the next.
const CACHED: usize = 1 << 18;

/// Units that leave the threads of a large machine enough to share out.
const ENOUGH_UNITS: usize = 32;

/// A unit has several blocks where that saves fetching keys and values again for each of them.
fn partition<S: Simd>(_: S, problem: &Problem<'_>) -> Partition {
    let (q, v) = (problem.queries.shape(), problem.kv.values.shape());
    let bytes = v.len.saturating_mul(q.dim.saturating_add(v.dim)).saturating_mul(size_of::<f32>());
    let blocks = (q.batch * q.heads).saturating_mul(q.len.div_ceil(S::LANES * S::MAX_COLS));
    let blocks_per_unit = if bytes <= CACHED { 1 } else { (blocks / ENOUGH_UNITS).min(S::BLOCKS) };
    Partition::new(q.len, S::LANES, S::MAX_COLS, NonZeroUsize::new(blocks_per_unit).unwrap_or(NonZeroUsize::MIN))
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
