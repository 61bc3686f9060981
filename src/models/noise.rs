//! Random tensors that depend on nothing but a key.
//!
//! libtorch has one generator for the whole process, whose state tch cannot save. So every draw here comes from a ChaCha
//! generator keyed by seed, step and purpose: a step draws the same numbers whether the run was interrupted before it or
//! not, and whoever else draws in the same process.

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Gamma, Poisson, StandardNormal};
use tch::{Device, Tensor};

use super::parameters::{sent, values};

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
    /// Which values are 1 where rows are binarised, in a training step.
    Binarize = 7,
    /// The same in validation and test.
    BinarizeValidation = 8,
    /// The fit of a sampler to codes.
    Sampler = 9,
    /// Importance samples of rows that judge how strange others are.
    Calibration = 10,
    /// The same of rows that a caller asks about; keyed by the piece of the question that they are in.
    Score = 11,
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

    /// Ones with the probabilities `p`, else zeros, in the shape of `p`.
    pub fn bernoulli(&self, p: &Tensor) -> Tensor {
        self.uniform(&p.size()).less_tensor(&p.detach()).to_kind(p.kind())
    }

    /// Gamma-distributed numbers of these shapes and scale 1.
    pub fn gamma(&self, shapes: &Tensor) -> Tensor {
        self.map(shapes, |random, shape| Gamma::new(shape, 1.0).map_or(shape, |gamma| random.sample(gamma)))
    }

    /// Poisson-distributed numbers of these rates.
    pub fn poisson(&self, rates: &Tensor) -> Tensor {
        self.map(rates, |random, rate| Poisson::new(rate).map_or(0.0, |poisson| random.sample(poisson)))
    }

    /// Whole numbers from 0 up to, not including, `below`; 64-bit integers.
    pub fn integers(&self, count: i64, below: i64) -> Tensor {
        let mut random = self.random.borrow_mut();
        let values: Vec<i64> = (0..count).map(|_| random.random_range(0..below.max(1))).collect();
        sent(&Tensor::from_slice(&values), self.device)
    }

    fn map(&self, of: &Tensor, one: impl Fn(&mut ChaCha8Rng, f32) -> f32) -> Tensor {
        let mut random = self.random.borrow_mut();
        let drawn: Vec<f32> = values(of).into_iter().map(|value| one(&mut random, value)).collect();
        sent(&Tensor::from_slice(&drawn).view(of.size().as_slice()), self.device)
    }

    fn draw(&self, shape: &[i64], one: impl Fn(&mut ChaCha8Rng) -> f32) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        let mut random = self.random.borrow_mut();
        let values: Vec<f32> = (0..count).map(|_| one(&mut random)).collect();
        sent(&Tensor::from_slice(&values).view(shape), self.device)
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
        let all = |value: f64| Tensor::full([100_000], value, (tch::Kind::Float, Device::Cpu));
        let (mean, _) = moments(noise.bernoulli(&all(0.2)));
        assert!((mean - 0.2).abs() < 0.01, "{mean}");
        // A gamma of shape k has mean k and variance k, and so has a poisson of rate k.
        for draws in [noise.gamma(&all(2.5)), noise.poisson(&all(2.5))] {
            let (mean, deviation) = moments(draws);
            assert!((mean - 2.5).abs() < 0.03 && (deviation - 2.5_f64.sqrt()).abs() < 0.03, "{mean} {deviation}");
        }
        let (mean, _) = moments(noise.integers(100_000, 5).to_kind(tch::Kind::Float));
        assert!((mean - 2.0).abs() < 0.03, "{mean}");
    }
}
