//! Random tensors that depend on nothing but a key.
//!
//! libtorch has one generator for the whole process, whose state tch cannot save. So every draw here comes from a ChaCha
//! generator keyed by seed, step and purpose: a step draws the same numbers whether the run was interrupted before it or
//! not, and whoever else draws in the same process.

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::{Device, Tensor};

/// What random numbers are for; two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// First weights of a network.
    Initial = 1,
    /// Order of the rows in an epoch.
    Shuffle = 2,
    /// Corruption, dropout and draws of codes in a training step.
    Training = 3,
    /// The same in validation; keyed by batch alone, so that epochs are compared under the same draws.
    Validation = 4,
    /// Importance samples.
    Likelihood = 5,
    /// What a caller of inference draws.
    Inference = 6,
}

/// A generator for `seed`, `purpose` and `index`.
pub fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Draws tensors of 32-bit floats on a device.
pub struct Noise {
    random: RefCell<ChaCha8Rng>,
    device: Device,
}

impl Noise {
    /// Noise for one step of one purpose.
    pub fn new(seed: u64, purpose: Purpose, step: u64, device: Device) -> Self {
        Self { random: RefCell::new(generator(seed, purpose, step)), device }
    }

    /// Standard normal numbers.
    pub fn normal(&self, shape: &[i64]) -> Tensor {
        self.draw(shape, |random| random.sample(StandardNormal))
    }

    /// Uniform numbers from 0 up to, not including, 1.
    pub fn uniform(&self, shape: &[i64]) -> Tensor {
        self.draw(shape, |random| random.random())
    }

    /// Ones with probability `keep`, else zeros.
    pub fn mask(&self, shape: &[i64], keep: f64) -> Tensor {
        let keep = keep as f32;
        self.draw(shape, |random| f32::from(u8::from(random.random::<f32>() < keep)))
    }

    fn draw(&self, shape: &[i64], one: impl Fn(&mut ChaCha8Rng) -> f32) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        let mut random = self.random.borrow_mut();
        let values: Vec<f32> = (0..count).map(|_| one(&mut random)).collect();
        Tensor::from_slice(&values).view(shape).to_device(self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_the_same_numbers_and_another_key_others() {
        let draw = |seed, purpose, step| Noise::new(seed, purpose, step, Device::Cpu).normal(&[4, 3]);
        let first = draw(1, Purpose::Training, 7);
        assert_eq!(first, draw(1, Purpose::Training, 7));
        for other in [draw(2, Purpose::Training, 7), draw(1, Purpose::Validation, 7), draw(1, Purpose::Training, 8)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let noise = Noise::new(3, Purpose::Training, 0, Device::Cpu);
        let moments =
            |tensor: Tensor| (tensor.mean(tch::Kind::Double).double_value(&[]), tensor.std(true).double_value(&[]));
        let (mean, deviation) = moments(noise.normal(&[100_000]));
        assert!(mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
        let (mean, deviation) = moments(noise.uniform(&[100_000]));
        assert!((mean - 0.5).abs() < 0.01 && (deviation - 12_f64.sqrt().recip()).abs() < 0.01, "{mean} {deviation}");
        let (mean, _) = moments(noise.mask(&[100_000], 0.3));
        assert!((mean - 0.3).abs() < 0.01, "{mean}");
    }
}
