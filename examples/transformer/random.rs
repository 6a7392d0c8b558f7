//! Numbers that look random and are the same on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// So many numbers between `-bound` and `bound`.
    pub fn vector(&mut self, len: usize, bound: f32) -> Vec<f32> {
        const STEPS: f32 = (1 << 23) as f32;
        // 24 bits are what an f32 holds exactly.
        (0..len).map(|_| bound * ((self.next() >> 40) as f32 / STEPS - 1.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_that_others_get() {
        let mut random = Random(0);
        let expected = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        assert_eq!([(); 3].map(|()| random.next()), expected);
    }
}
