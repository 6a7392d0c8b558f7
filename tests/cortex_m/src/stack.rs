//! How deep the stack grows.

use core::hint::black_box;

use cortex_m::register::msp;

const PAINT: u32 = 0xC0DE_C0DE;

/// Words below the stack pointer that are painted: far more than any call here takes.
const WORDS: usize = 64 * 1024 / size_of::<u32>();

/// Bytes of stack that a call of `f` takes.
#[inline(never)]
pub fn depth(f: &mut dyn FnMut()) -> usize {
    let top = msp::read() as *mut u32;
    for i in 1..=WORDS {
        // SAFETY: the stack has the room (RAM is 4 MiB), and nothing lives below its pointer: no interrupt is enabled.
        unsafe { top.sub(i).write_volatile(PAINT) }
    }
    black_box(f)();
    // SAFETY: as above, and it has been written.
    let untouched = (1..=WORDS).rev().take_while(|&i| unsafe { top.sub(i).read_volatile() } == PAINT).count();
    (WORDS - untouched) * size_of::<u32>()
}
