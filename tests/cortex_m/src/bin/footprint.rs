//! One call and nothing else: how much code it links.

#![no_std]
#![no_main]

use core::hint::black_box;

use cortex_m_rt::entry;
use simd_attention::{Attention, Error, Kv, View, ViewMut, scratch_len};

#[entry]
fn main() -> ! {
    let (q, k, v) = black_box(([0.0; 64], [0.0; 64], [0.0; 64]));
    let done = attend(black_box(Attention::new()), &q, &k, &v, &mut [0.0; 64]);
    black_box(done.is_ok());
    loop {}
}

fn attend(attention: Attention, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) -> Result<(), Error> {
    let kv = Kv::new(View::matrix(k, [4, 16])?, View::matrix(v, [4, 16])?)?;
    attention.forward(View::matrix(q, [4, 16])?, kv, ViewMut::matrix(out, [4, 16])?, &mut [0.0; scratch_len(16, 16)])
}

/// Never linked, as nothing here can panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
