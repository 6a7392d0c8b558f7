//! Deterministic values: the same on every run and machine.

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In `0 .. end`.
    pub const fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// So many times in eight.
    pub const fn eighths(&mut self, times: usize) -> bool {
        self.below(8) < times
    }

    /// In `0 < x <= 1`.
    fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, variance 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f32 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), core::f64::consts::TAU * self.unit());
        (radius * angle.cos()) as f32
    }
}

/// What the elements of a tensor are drawn from.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Mean 0 and this standard deviation.
    Normal(f32),
    /// All the same.
    Constant(f32),
    /// Subnormal numbers of either sign, zeros among them.
    Subnormal,
    /// Numbers of either sign and any magnitude between these powers of two.
    Magnitudes(i32, i32),
    /// Ordinary, large, small and subnormal numbers and zeros of either sign, side by side.
    Mixed,
    /// Biases: ordinary numbers, and those with which people mask, infinite and finite.
    Masking,
}

impl Content {
    pub fn sample(self, random: &mut Random) -> f32 {
        match self {
            Self::Normal(deviation) => deviation * random.normal(),
            Self::Constant(value) => value,
            Self::Subnormal => f32::from_bits(random.bits() as u32 & 0x807f_ffff),
            Self::Magnitudes(low, high) => {
                let power = low + random.below((high - low + 1) as usize) as i32;
                // Twice, as 2^-149 is not a normal number.
                random.normal().signum() * 2f32.powi(power / 2) * 2f32.powi(power - power / 2)
            }
            Self::Mixed => match random.below(8) {
                0 => 0.0,
                1 => -0.0,
                2 => Self::Subnormal.sample(random),
                3 => Self::Magnitudes(-100, 10).sample(random),
                4 => 100.0 * random.normal(),
                _ => random.normal(),
            },
            Self::Masking => match random.below(8) {
                0 | 1 => f32::NEG_INFINITY,
                2 => f32::MIN,
                3 => -1e9,
                _ => random.normal(),
            },
        }
    }
}
