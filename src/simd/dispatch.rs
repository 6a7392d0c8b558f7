//! Which backends there are, and which of them this CPU can run.

use core::fmt;

use super::Portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use crate::Error;

/// A set of CPU instructions that the kernels are compiled for.
///
/// The best one is chosen at run time. A caller who needs the same bits from different machines can
/// [force one](crate::Attention::backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// What the build's own target features offer, through `wide`: SSE2, NEON, wasm simd128 or scalar code. Everywhere.
    Portable,
    /// AVX2, FMA and F16C, on x86-64.
    Avx2,
    /// AVX-512 F, DQ, BW and VL, on x86-64.
    Avx512,
    /// Those and AVX512-BF16, on x86-64: [`Avx512`](Self::Avx512), but that queries of `bf16` with keys and values of `bf16` are
    /// [multiplied two elements at a time](crate::Attention::forward).
    Avx512Bf16,
    /// Those, AMX-TILE and AMX-BF16, on x86-64: [`Avx512Bf16`](Self::Avx512Bf16), but that many queries of `bf16` are multiplied with keys and values of `bf16` a matrix at
    /// a time, and few of them one element at a time, which is faster on CPUs with AMX. Only after [`request_amx`](Self::request_amx).
    Avx512Amx,
}

impl Backend {
    /// All there are, each with more instructions than the one before.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Avx512Amx];

    /// Those that this CPU can run, each with more instructions than the one before; never none.
    ///
    /// ```
    /// use simd_attention::Backend;
    /// assert_eq!(Backend::available().next(), Some(Backend::Portable));
    /// ```
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| backend.is_available())
    }

    /// The fastest one that this CPU can run: the last that is available, but not [`Avx512Bf16`](Self::Avx512Bf16) on a CPU with AMX, be that asked
    /// for or not, as such a CPU multiplies pairs of `bf16` more slowly than single numbers.
    ///
    /// ```
    /// use simd_attention::Backend;
    /// assert!(Backend::best().is_available());
    /// ```
    #[must_use]
    pub fn best() -> Self {
        Self::available().rfind(|backend| !backend.is_slow()).unwrap_or(Self::Portable)
    }

    /// Whether one with fewer instructions is faster on this CPU.
    fn is_slow(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16 && Avx512::has_matrices();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether this CPU can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        self.token().is_some()
    }

    /// Asks the operating system to let this process use AMX, and says whether it may: [`Avx512Amx`](Self::Avx512Amx) is available from then on.
    ///
    /// It must be asked for since it changes the whole process, for good: what is saved of a thread when a signal interrupts it grows by 8 KB, which
    /// alternative signal stacks must have room for. On Linux, this is `arch_prctl(ARCH_REQ_XCOMP_PERM)`. Without an operating system nothing need be asked for; others are not
    /// supported. `false` where the CPU has no AMX.
    ///
    /// ```
    /// use simd_attention::Backend;
    /// assert_eq!(Backend::request_amx(), Backend::Avx512Amx.is_available());
    /// ```
    pub fn request_amx() -> bool {
        #[cfg(target_arch = "x86_64")]
        return Avx512::request_matrices();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The proof that this CPU can run what is wanted, or, if nothing is, the fastest.
    pub(crate) fn token_of(wanted: Option<Self>) -> Result<Token, Error> {
        let backend = wanted.unwrap_or_else(Self::best);
        backend.token().ok_or(Error::BackendUnavailable { backend })
    }

    /// The proof that this CPU can run it.
    pub(crate) fn token(self) -> Option<Token> {
        match self {
            Self::Portable => Some(Token::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::new().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::new().map(Token::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Avx512::with_pairs().map(Token::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx => Avx512::with_matrices().map(Token::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 | Self::Avx512Amx => None,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512Amx => "avx512amx",
        })
    }
}

/// A backend that this CPU has been seen to run.
#[derive(Clone, Copy)]
pub(crate) enum Token {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// `$body` with `$simd` bound to the backend in `$token`.
macro_rules! with_simd {
    ($token:expr, $simd:ident => $body:expr) => {
        match $token {
            $crate::simd::Token::Portable($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Token::Avx2($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Token::Avx512($simd) => $body,
        }
    };
}
pub(crate) use with_simd;

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn pairs_of_bf16_are_no_choice_where_there_are_matrices() {
        use super::{Avx512, Backend};
        if Avx512::has_matrices() {
            assert!(Backend::Avx512Bf16.is_available());
            assert_ne!(Backend::best(), Backend::Avx512Bf16);
        } else {
            assert_eq!(Some(Backend::best()), Backend::available().last());
        }
    }
}
