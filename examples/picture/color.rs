//! One sequential scale of a single hue, readable with every kind of colour vision and in grey.

use std::fmt;

/// An sRGB colour; displayed as `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color(pub [u8; 3]);

/// "Blues" of ColorBrewer 2.0 (Cynthia Brewer), from nothing to the most.
pub const SCALE: [Color; 9] = [
    Color([247, 251, 255]),
    Color([222, 235, 247]),
    Color([198, 219, 239]),
    Color([158, 202, 225]),
    Color([107, 174, 214]),
    Color([66, 146, 198]),
    Color([33, 113, 181]),
    Color([8, 81, 156]),
    Color([8, 48, 107]),
];

impl Color {
    /// The scale's colour at `intensity` from 0 to 1, interpolated linearly.
    pub fn at(intensity: f32) -> Self {
        let position = intensity.clamp(0.0, 1.0) * (SCALE.len() - 1) as f32;
        let below = position as usize;
        let above = (below + 1).min(SCALE.len() - 1);
        let (Self(from), Self(to)) = (SCALE[below], SCALE[above]);
        let mix =
            |from: u8, to: u8| (f32::from(from) + (f32::from(to) - f32::from(from)) * position.fract()).round() as u8;
        Self(std::array::from_fn(|i| mix(from[i], to[i])))
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([red, green, blue]) = self;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}
