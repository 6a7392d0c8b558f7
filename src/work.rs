//! A computation split into independent units, to be run from any number of threads.

use core::num::NonZeroUsize;

use crate::{
    Error,
    kernel::prefill::Block,
    simd::{Simd, with_simd},
    validate::Problem,
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
    /// Blocks that each head's queries are divided into, and the vectors of queries they have in all.
    blocks: usize,
    vectors: usize,
    lanes: usize,
    units: usize,
    next: Counter,
}

impl<'a> Work<'a> {
    pub(crate) fn new(problem: Problem<'a>) -> Self {
        let (lanes, most) = with_simd!(problem.backend, simd => block_size(simd));
        let q = problem.queries.shape();
        let vectors = q.len.div_ceil(lanes);
        let blocks = vectors.div_ceil(most);
        // No overflow: the views counted `batch * heads * len` elements.
        Self { units: q.batch * q.heads * blocks, problem, blocks, vectors, lanes, next: Counter::new() }
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
        let Self { ref problem, vectors, lanes, .. } = *self;
        let q = problem.queries.shape();
        // Without blocks or heads there would be no unit; the compiler is told, as it would keep a panic for division by zero.
        let (Some(blocks), Some(heads)) = (NonZeroUsize::new(self.blocks), NonZeroUsize::new(q.heads)) else { return };
        let (head, block) = (unit / blocks, unit % blocks);
        let (batch, head) = (head / heads, head % heads);
        // The last block first: under a causal mask it has the most keys, and the short ones even out the threads.
        let block = blocks.get() - 1 - block;
        // Not `vectors * block / blocks`, whose product may overflow 32 bits.
        let vector = |block: usize| vectors / blocks * block + block.min(vectors % blocks);
        let (first, cols) = (vector(block) * lanes, vector(block + 1) - vector(block));
        let rows = problem.queries.rows(batch, head).and_then(|rows| rows.range(first, cols * lanes));
        let Some(queries) = rows else { return };

        let kv_head = head / problem.group;
        let (keys, values) = (problem.kv.keys.rows(batch, kv_head), problem.kv.values.rows(batch, kv_head));
        // SAFETY: each unit is taken once, and no two units have a row in common.
        let output = unsafe { problem.output.rows_mut(batch, head, first, queries.len()) };
        let Some(output) = output else { return };
        let block = Block {
            queries,
            kv: keys.zip(values),
            reach: problem.reach(first, queries.len()),
            scale: problem.scale,
            output,
            // SAFETY: as above.
            lse: problem.lse.as_ref().and_then(|lse| unsafe { lse.rows_mut(batch, head, first, queries.len()) }),
            scratch,
        };
        with_simd!(problem.backend, simd => simd.run(cols, block));
    }
}

/// Lanes of a vector and the most vectors of a block.
fn block_size<S: Simd>(_: S) -> (usize, usize) {
    (S::LANES, S::MAX_COLS)
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
