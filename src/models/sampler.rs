//! Where codes for new rows are drawn from.
//!
//! Families with a prior use it. For the others a normal distribution is fitted to the codes of the training rows, with their
//! full covariance; it is saved with the model.

use rand::RngExt;
use rand_distr::StandardNormal;
use tch::{Kind, Tensor};

use super::noise::{Purpose, generator};
use super::parameters::values;

/// A distribution of codes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampler {
    /// N(0, I).
    StandardNormal {
        /// Width of the code.
        latent: usize,
    },
    /// N(mean, factor · factorᵀ).
    Gaussian {
        /// `[latent]`.
        mean: Vec<f32>,
        /// Lower triangular, `[latent, latent]`, row after row.
        factor: Vec<f32>,
    },
}

impl Sampler {
    /// Codes for `count` rows, one after the other. They depend on `seed` alone, not on who else draws.
    pub fn draw(&self, count: usize, seed: u64, temperature: f32) -> Vec<f32> {
        let mut random = generator(seed, Purpose::Inference, 0);
        let mut normal = |count: usize| -> Vec<f32> {
            (0..count).map(|_| temperature * random.sample::<f32, _>(StandardNormal)).collect()
        };
        match self {
            Self::StandardNormal { latent } => normal(count * latent),
            Self::Gaussian { mean, factor } => {
                let latent = mean.len();
                let draws = normal(count * latent);
                let mut codes = Vec::with_capacity(count * latent);
                for draw in draws.chunks_exact(latent) {
                    codes.extend((0..latent).map(|row| {
                        mean[row] + (0..=row).map(|column| factor[row * latent + column] * draw[column]).sum::<f32>()
                    }));
                }
                codes
            }
        }
    }
}

/// Gathers codes batch by batch and fits a normal distribution to them.
#[derive(Default)]
pub struct GaussianFit {
    count: f64,
    sum: Option<Tensor>,
    products: Option<Tensor>,
}

impl GaussianFit {
    /// Adds codes `[rows, latent]`.
    pub fn add(&mut self, codes: &Tensor) {
        let codes = codes.to_kind(Kind::Double);
        self.count += codes.size()[0] as f64;
        let sum = codes.sum_dim_intlist([0].as_slice(), false, Kind::Double);
        let products = codes.transpose(0, 1).matmul(&codes);
        self.sum = Some(self.sum.take().map_or(sum.shallow_clone(), |before| before + sum));
        self.products = Some(self.products.take().map_or(products.shallow_clone(), |before| before + products));
    }

    /// The fitted distribution; `None` when there are no codes, or when they are not finite.
    pub fn finish(self) -> Option<Sampler> {
        let (sum, products) = (self.sum?, self.products?);
        let mean = sum / self.count;
        let covariance = products / self.count - mean.outer(&mean);
        let latent = mean.size()[0];
        let eye = Tensor::eye(latent, (Kind::Double, mean.device()));
        let typical = covariance.trace().double_value(&[]) / latent as f64;
        // Dead units have no variance: a growing bit of the identity makes the matrix one that can be factored.
        let factor = [1e-6, 1e-4, 1e-2].iter().find_map(|share| {
            let floor = (typical * share).max(1e-9);
            (&covariance + &eye * floor).f_linalg_cholesky(false).ok()
        })?;
        let (mean, factor) = (values(&mean), values(&factor));
        mean.iter().chain(&factor).all(|value| value.is_finite()).then_some(Sampler::Gaussian { mean, factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::Noise;
    use tch::Device;

    #[test]
    fn a_fitted_sampler_draws_codes_like_those_it_saw() {
        let white = Noise::new(1, Purpose::Training, 0, Device::Cpu).normal(&[20_000, 2]);
        let mix = Tensor::from_slice(&[2.0_f32, 1.0, 0.0, 0.5]).view([2, 2]);
        let codes = white.matmul(&mix) + Tensor::from_slice(&[3.0_f32, -1.0]);
        let mut fit = GaussianFit::default();
        fit.add(&codes.narrow(0, 0, 5_000));
        fit.add(&codes.narrow(0, 5_000, 15_000));
        let sampler = fit.finish().unwrap();
        let drawn = sampler.draw(20_000, 9, 1.0);
        // The mix has the covariance [[4, 2], [2, 1.25]].
        let mean =
            |column: usize| drawn.iter().skip(column).step_by(2).map(|value| f64::from(*value)).sum::<f64>() / 20_000.0;
        let means = [mean(0), mean(1)];
        let covariance = |a: usize, b: usize| {
            drawn
                .chunks_exact(2)
                .map(|code| (f64::from(code[a]) - means[a]) * (f64::from(code[b]) - means[b]))
                .sum::<f64>()
                / 20_000.0
        };
        assert!((means[0] - 3.0).abs() < 0.06 && (means[1] + 1.0).abs() < 0.04, "{means:?}");
        for (a, b, expected) in [(0, 0, 4.0), (0, 1, 2.0), (1, 1, 1.25)] {
            assert!((covariance(a, b) - expected).abs() < 0.15, "{a}{b}: {}", covariance(a, b));
        }
    }

    #[test]
    fn a_dead_unit_does_not_stop_the_fit() {
        let codes =
            Noise::new(1, Purpose::Training, 0, Device::Cpu).normal(&[100, 2]) * Tensor::from_slice(&[1.0_f32, 0.0]);
        let mut fit = GaussianFit::default();
        fit.add(&codes);
        let drawn = fit.finish().unwrap().draw(50, 0, 1.0);
        assert!(drawn.iter().skip(1).step_by(2).all(|value| value.abs() < 0.1));
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let sampler = Sampler::StandardNormal { latent: 3 };
        assert_eq!(sampler.draw(4, 7, 1.0), sampler.draw(4, 7, 1.0));
        assert_ne!(sampler.draw(4, 7, 1.0), sampler.draw(4, 8, 1.0));
        assert_eq!(sampler.draw(2, 7, 1.0)[..], sampler.draw(4, 7, 1.0)[..6]);
    }
}
