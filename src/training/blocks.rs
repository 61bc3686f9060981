//! Rows go through a trained network in blocks, so that what is told of a row does not depend on the rows beside it.
//!
//! A matrix product, or a function that takes vectors of numbers at once, may round a row otherwise when there are few rows,
//! or when their number is odd: another kernel is chosen, or the last numbers are taken one by one. With a multiple of
//! 32 rows, on one thread, that was not seen: every row comes out the same to the bit, whatever is beside it; with a multiple of 16
//! neither, where all layers have an even number of units. So blocks are filled up with rows of zeros. For a model with a layer of a single unit, whose product goes by the number of rows in any case,
//! all blocks have one size.
//!
//! Blocks are small enough for what a layer hands to the next to stay in the processor's cache, which also makes many rows
//! faster than in one piece.

use tch::Tensor;

use crate::models::parameters::values;

/// Blocks have a multiple of so many rows, or of half of that.
const STEP: usize = 32;
/// The most rows of a block, and of one that goes through convolutions, whose layers hold many numbers of each row. A matrix
/// product packs the weights anew for each block, so these are not smaller than the cache asks for.
const ROWS: usize = 1_024;
const CONV_ROWS: usize = 256;
/// Numbers in the rows of a block, as far as that leaves `STEP` rows.
const NUMBERS: usize = 1 << 20;

/// How rows are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The most rows of a block.
    pub rows: usize,
    step: usize,
}

impl Blocks {
    /// For a network of rows that are so wide, with tensors of these shapes.
    pub fn of<'a>(width: usize, shapes: impl Iterator<Item = &'a [usize]>) -> Self {
        let (mut has_single_unit, mut is_even, mut rows) = (false, width.is_multiple_of(2), ROWS);
        for shape in shapes {
            if shape.len() > 2 {
                rows = CONV_ROWS;
            }
            has_single_unit |= shape.len() == 2 && shape.contains(&1);
            // Further sides are those of the window of a convolution.
            is_even &= shape.iter().take(2).all(|side| side.is_multiple_of(2));
        }
        let most = if has_single_unit { STEP } else { rows };
        let step = if is_even && !has_single_unit { STEP / 2 } else { STEP };
        Self { rows: (NUMBERS / width.max(1)).clamp(STEP, most) / STEP * STEP, step }
    }

    /// How many rows a block of so many is filled up to.
    pub fn padded(self, rows: usize) -> usize {
        rows.next_multiple_of(self.step)
    }

    /// Gives what `network` makes of rows of that width, block by block: a tensor, and another one beside it where there is one.
    /// What it makes of rows of zeros at the end is left out.
    pub fn through(
        self,
        rows: &[f32],
        width: usize,
        mut network: impl FnMut(&[f32]) -> (Tensor, Option<Tensor>),
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let (mut told, mut beside) = (Vec::new(), None);
        for block in rows.chunks(self.rows * width) {
            let count = block.len() / width;
            let (tensor, other) = network(block);
            append(&mut told, &tensor, count);
            if let Some(other) = other {
                append(beside.get_or_insert_default(), &other, count);
            }
        }
        (told, beside)
    }

    /// The same of a network that may have nothing to tell.
    pub fn through_some(
        self,
        rows: &[f32],
        width: usize,
        mut network: impl FnMut(&[f32]) -> Option<Tensor>,
    ) -> Option<Vec<f32>> {
        let mut told = Vec::new();
        for block in rows.chunks(self.rows * width) {
            append(&mut told, &network(block)?, block.len() / width);
        }
        Some(told)
    }
}

/// Appends the first `count` rows.
fn append(to: &mut Vec<f32>, tensor: &Tensor, count: usize) {
    let rows = tensor.size()[0];
    let first = values(&tensor.narrow(0, 0, rows.min(count as i64)));
    if to.is_empty() {
        *to = first;
    } else {
        to.extend(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_and_what_was_added_is_left_out() {
        let blocks = Blocks::of(3, [&[8_usize, 3][..], &[8]].into_iter());
        assert_eq!((blocks.rows, blocks.padded(1), blocks.padded(64), blocks.padded(65)), (1_024, 32, 64, 96));
        let conv = Blocks::of(4, [&[8_usize, 4, 3][..]].into_iter());
        assert_eq!((conv.rows, conv.padded(1)), (256, 16));
        assert_eq!(Blocks::of(4, [&[1_usize, 4][..]].into_iter()).padded(1), 32);
        assert_eq!(Blocks::of(3, [&[1_usize, 3][..]].into_iter()).rows, 32);
        assert_eq!((Blocks::of(65_536, [].into_iter()).rows, Blocks::of(10_000, [].into_iter()).rows), (32, 96));
        let rows: Vec<f32> = (0..1_068 * 3).map(|number| number as f32).collect();
        let mut seen = Vec::new();
        let (told, beside) = blocks.through(&rows, 3, |block| {
            seen.push(block.len() / 3);
            let mut block = block.to_vec();
            block.resize(blocks.padded(block.len() / 3) * 3, -1.0);
            let x = Tensor::from_slice(&block).view([-1, 3]);
            (x.shallow_clone(), Some(x.narrow(1, 0, 1) * 2.0))
        });
        assert_eq!((seen, told), (vec![1_024, 44], rows));
        let beside = beside.unwrap();
        assert_eq!((beside.len(), beside[1_067]), (1_068, 2.0 * 1_067.0 * 3.0));
    }
}
