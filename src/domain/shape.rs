//! What one row looks like: how many columns feed the model, and whether they are the pixels of an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The shape of an image whose pixels are the feature columns, in row-major order `[channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageShape {
    /// 1 for grey, 3 for colour.
    pub channels: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// Pixels from left to right.
    pub width: u32,
}

impl ImageShape {
    /// How many columns such an image takes; `None` when the number does not fit.
    pub fn pixels(&self) -> Option<usize> {
        (self.channels as usize).checked_mul(self.height as usize)?.checked_mul(self.width as usize)
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

impl FromStr for ImageShape {
    type Err = String;

    /// Reads `8x8` (grey) or `3x32x32`.
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "`{text}` is not an image shape: write HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, for example 8x8 or 3x32x32"
            )
        };
        let sides: Vec<u32> =
            text.split('x').map(|side| side.trim().parse().map_err(|_| fault())).collect::<Result<_, _>>()?;
        let shape = match sides[..] {
            [height, width] => Self { channels: 1, height, width },
            [channels, height, width] => Self { channels, height, width },
            _ => return Err(fault()),
        };
        if sides.contains(&0) || !matches!(shape.channels, 1 | 3) {
            return Err(format!(
                "`{text}` is not a possible image: sides start at 1, and channels are 1 (grey) or 3 (colour)"
            ));
        }
        Ok(shape)
    }
}

/// What a model is told of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowShape {
    /// Number of feature columns.
    pub width: usize,
    /// Set when the columns are pixels.
    pub image: Option<ImageShape>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_shapes_are_read_with_and_without_channels() {
        assert_eq!("8x8".parse(), Ok(ImageShape { channels: 1, height: 8, width: 8 }));
        assert_eq!("3x32x16".parse(), Ok(ImageShape { channels: 3, height: 32, width: 16 }));
        for bad in ["", "8", "0x8", "2x8x8", "8x8x8x8", "axb"] {
            assert!(bad.parse::<ImageShape>().is_err(), "{bad}");
        }
    }
}
