//! The proof that no panic, no allocation and no operating system can be reached from the crate's entry points.
//!
//! Each entry point is exported from a shared library that is linked without any other library, and with no symbol left
//! undefined. The panic handler calls a function that does not exist: the library links only if the optimiser and the
//! linker's garbage collection have found every panic unreachable. Allocation would need a `#[global_allocator]`, and
//! anything else the C library, of which only the five functions are here that any bare machine has. Nothing is ever run.
//!
//! Out of scope: `Debug` and `Display` (`core::fmt` itself can panic), and builds without optimisation, in which `core`'s own
//! checks remain.

#![no_std]

use half::{bf16, f16};
use simd_attention::{
    Additive, Attention, Backend, CacheMut, Error, Kv, KvMut, Linear, Mask, MultiHead, Output, Quantized, Shape,
    Strides, View, ViewMut, Work, cache_scratch_len, merge, multi_head_scratch_len, quantize, reference, scratch_len,
};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        safe fn a_panic_is_reachable() -> !;
    }
    a_panic_is_reachable()
}

// What a bare machine has (and what `core`, built for unwinding, mentions). In assembly, as the optimiser would look into
// a Rust function and conclude from what it does.
core::arch::global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp, rust_eh_personality",
    "memcpy: memmove: memset: memcmp: bcmp: rust_eh_personality:",
);

/// Exports functions by their names, with all that they call.
macro_rules! entry_points {
    ($(fn $name:ident $(<$life:lifetime>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub fn $name $(<$life>)? ($($argument: $type),*) $(-> $result)? $body
        )*
    };
}

/// Those that are generic over what keys and values are kept in, and over what queries and outputs are. Masks, modifiers and backend are run-time
/// values of `attention`, what else is written one of `out`: these cover them all.
macro_rules! entry_points_of {
    ($element:ty, $float:ty, $sum:ty, $append:ident, $forward:ident, $reference:ident) => {
        entry_points! {
            fn $append(
                cache: &mut KvMut<'_, $element>,
                keys: View<'_, $sum>,
                values: View<'_, $sum>,
                at: &[usize],
            ) -> Result<(), Error> {
                cache.append(keys, values, at)
            }
            fn $forward<'a>(
                attention: &Attention<'a>,
                q: View<'a, $float>,
                kv: Kv<'a, $element>,
                out: Output<'a, $float>,
                scratch: &mut [$sum],
            ) -> Result<(), Error> {
                attention.forward(q, kv, out, scratch)
            }
            fn $reference<'a>(
                attention: &Attention<'a>,
                q: View<'a, $float>,
                kv: Kv<'a, $element>,
                out: Output<'a, f64>,
            ) -> Result<(), Error> {
                reference::forward(attention, q, kv, out)
            }
        }
    };
}
entry_points_of!(f32, f32, f32, kv_mut_append_f32, attention_forward_f32, reference_forward_f32);
entry_points_of!(f16, f16, f32, kv_mut_append_f16, attention_forward_f16, reference_forward_f16);
entry_points_of!(bf16, bf16, f32, kv_mut_append_bf16, attention_forward_bf16, reference_forward_bf16);
#[cfg(feature = "generic")]
entry_points_of!(f64, f64, f64, kv_mut_append_f64, attention_forward_f64, reference_forward_f64);
entry_points_of!(i8, f32, f32, kv_mut_append_i8, attention_forward_i8, reference_forward_i8);

entry_points! {
    fn view_matrix(data: &[f32], extents: [usize; 2]) -> Result<View<'_, f32>, Error> {
        View::matrix(data, extents)
    }
    fn view_heads_first(data: &[f32], extents: [usize; 4]) -> Result<View<'_, f32>, Error> {
        View::heads_first(data, extents)
    }
    fn view_tokens_first(data: &[f32], extents: [usize; 4]) -> Result<View<'_, f32>, Error> {
        View::tokens_first(data, extents)
    }
    fn view_strided(data: &[f32], shape: Shape, strides: Strides) -> Result<View<'_, f32>, Error> {
        View::strided(data, shape, strides)
    }

    fn view_mut_matrix(data: &mut [f32], extents: [usize; 2]) -> Result<ViewMut<'_, f32>, Error> {
        ViewMut::matrix(data, extents)
    }
    fn view_mut_heads_first(data: &mut [f32], extents: [usize; 4]) -> Result<ViewMut<'_, f32>, Error> {
        ViewMut::heads_first(data, extents)
    }
    fn view_mut_tokens_first(data: &mut [f32], extents: [usize; 4]) -> Result<ViewMut<'_, f32>, Error> {
        ViewMut::tokens_first(data, extents)
    }
    fn view_mut_strided(data: &mut [f32], shape: Shape, strides: Strides) -> Result<ViewMut<'_, f32>, Error> {
        ViewMut::strided(data, shape, strides)
    }

    fn kv_new<'a>(keys: View<'a, f32>, values: View<'a, f32>) -> Result<Kv<'a, f32>, Error> {
        Kv::new(keys, values)
    }

    fn kv_new_f16<'a>(keys: View<'a, f16>, values: View<'a, f16>) -> Result<Kv<'a, f16>, Error> {
        Kv::new(keys, values)
    }
    fn kv_new_bf16<'a>(keys: View<'a, bf16>, values: View<'a, bf16>) -> Result<Kv<'a, bf16>, Error> {
        Kv::new(keys, values)
    }
    fn quantized_new<'a>(numbers: View<'a, i8>, scales: View<'a, f32>) -> Result<Quantized<'a>, Error> {
        Quantized::new(numbers, scales)
    }
    fn kv_quantized<'a>(keys: Quantized<'a>, values: Quantized<'a>) -> Result<Kv<'a, i8>, Error> {
        Kv::quantized(keys, values)
    }
    fn kv_pages<'a>(kv: Kv<'a, f32>, table: View<'a, u32>) -> Kv<'a, f32> {
        kv.pages(table)
    }
    fn cache_mut_append(cache: &mut CacheMut<'_, f32>, rows: View<'_, f32>, at: &[usize]) -> Result<(), Error> {
        cache.append(rows, at)
    }
    fn cache_mut_pages<'a>(cache: CacheMut<'a, f32>, table: View<'a, u32>) -> CacheMut<'a, f32> {
        cache.pages(table)
    }
    fn quantize_row(row: &[f32], numbers: &mut [i8], scales: &mut [f32]) -> Result<(), Error> {
        quantize(row, numbers, scales)
    }
    fn kv_lens<'a>(kv: Kv<'a, f32>, lens: &'a [usize]) -> Kv<'a, f32> {
        kv.lens(lens)
    }

    fn view_bools(data: &[bool], shape: Shape, strides: Strides) -> Result<View<'_, bool>, Error> {
        View::strided(data, shape, strides)
    }
    fn view_bytes(data: &[u8], shape: Shape, strides: Strides) -> Result<View<'_, u8>, Error> {
        View::strided(data, shape, strides)
    }
    fn mask_of_bools(elements: View<'_, bool>, queries: usize, keys: usize) -> Mask<'_> {
        Mask::new(elements).blocks(queries, keys)
    }
    fn mask_of_bits(elements: View<'_, u8>, queries: usize, keys: usize) -> Mask<'_> {
        Mask::bits(elements).blocks(queries, keys)
    }

    fn linear_forward(
        linear: &Linear<'_>,
        x: View<'_, f32>,
        y: ViewMut<'_, f32>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        linear.forward(x, y, scratch)
    }
    fn multi_head_forward<'a>(
        layer: &MultiHead<'a>,
        x: View<'a, f32>,
        source: View<'a, f32>,
        out: Output<'a, f32>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        layer.forward(x, source, out, scratch)
    }
    fn multi_head_scratch(q_tokens: usize, kv_tokens: usize, model_dim: usize, heads: usize) -> usize {
        multi_head_scratch_len([q_tokens, kv_tokens], model_dim, heads)
    }
    fn multi_head_scratch_of_shapes(layer: &MultiHead<'_>, x: Shape, source: Shape) -> usize {
        layer.scratch_len(x, source)
    }
    fn merge_states(
        out: ViewMut<'_, f32>,
        lse: &mut [f32],
        other: View<'_, f32>,
        other_lse: &[f32],
    ) -> Result<(), Error> {
        merge(out, lse, other, other_lse)
    }
    fn attention_prepare<'a>(
        attention: &Attention<'a>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f32>,
    ) -> Result<Work<'a>, Error> {
        attention.prepare(q, kv, out)
    }
    fn work_units(work: &Work<'_>) -> usize {
        work.units()
    }
    fn work_scratch_len(work: &Work<'_>) -> usize {
        work.scratch_len()
    }
    fn work_run(work: &Work<'_>, scratch: &mut [f32]) -> Result<(), Error> {
        work.run(scratch)
    }

    fn cache_scratch_length(head_dim: usize, value_dim: usize) -> usize {
        cache_scratch_len(head_dim, value_dim)
    }
    fn scratch_length(head_dim: usize, value_dim: usize) -> usize {
        scratch_len(head_dim, value_dim)
    }
    fn backend_best() -> Backend {
        Backend::best()
    }
    fn backend_is_available(backend: Backend) -> bool {
        backend.is_available()
    }
    fn backend_request_amx() -> bool {
        Backend::request_amx()
    }

    fn reference_forward_with_closures<'a>(
        attention: &Attention<'a>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f64>,
    ) -> Result<(), Error> {
        let attention = attention.mask_mod(|at| at.query & 1 == at.key & 1);
        reference::forward(&attention.score_mod(|score, at| score + at.head as f32), q, kv, out)
    }
    fn reference_forward_with_projection<'a>(
        v: &'a [f32],
        weights: View<'a, f32>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f64>,
    ) -> Result<(), Error> {
        reference::forward(&Attention::with_score(Additive::new(v).query_weights(weights)), q, kv, out)
    }
    fn view_mut_strided_f64(data: &mut [f64], shape: Shape, strides: Strides) -> Result<ViewMut<'_, f64>, Error> {
        ViewMut::strided(data, shape, strides)
    }
}

#[cfg(feature = "generic")]
entry_points! {
    fn attention_forward_with_closures<'a>(
        attention: &Attention<'a>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f32>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let attention = attention.mask_mod(|at| at.query & 1 == at.key & 1);
        attention.score_mod(|score, at| score + at.head as f32).forward(q, kv, out, scratch)
    }
    fn bilinear_forward<'a>(
        weights: View<'a, f32>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f32>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        Attention::with_score(simd_attention::Bilinear::new(weights)).forward(q, kv, out, scratch)
    }
    fn additive_forward<'a>(
        v: &'a [f32],
        weights: View<'a, f32>,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: Output<'a, f32>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        Attention::with_score(Additive::new(v).query_weights(weights)).forward(q, kv, out, scratch)
    }
}

/// Negative control: a panic that can be reached.
#[cfg(feature = "panics")]
#[unsafe(no_mangle)]
pub fn panics(data: &[f32], i: usize) -> f32 {
    data[i]
}

#[cfg(feature = "allocates")]
extern crate alloc;

/// Negative control: an allocation.
#[cfg(feature = "allocates")]
#[unsafe(no_mangle)]
pub fn allocates(data: &[f32]) -> alloc::boxed::Box<[f32]> {
    data.into()
}
