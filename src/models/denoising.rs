//! Denoising autoencoder: restores rows that were damaged on purpose.
//!
//! loss = -log p(x given g(f(x̃))), x̃ drawn from the corruption of x   (Vincent et al., 2008)
//!
//! The loss is against the clean row. Levels are in scaled units: with a scaling from 0 to 1, a gaussian level of 0.3 is
//! three tenths of the range.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::network::Plan;
use super::noise::Noise;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Stack, Step};
use crate::domain::refusal::Faults;

/// How rows are damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Adds normal noise; the level is its standard deviation.
    Gaussian,
    /// Sets values to zero; the level is their share.
    #[default]
    Masking,
    /// Sets values to the least or the greatest of their batch, by a fair coin; the level is their share.
    SaltAndPepper,
}

impl Corruption {
    /// Damaged rows.
    pub fn apply(self, x: &Tensor, level: f64, noise: &Noise) -> Tensor {
        let shape = x.size();
        match self {
            Self::Gaussian => x + noise.normal(&shape) * level,
            Self::Masking => x * noise.mask(&shape, 1.0 - level),
            Self::SaltAndPepper => {
                let kept = noise.mask(&shape, 1.0 - level);
                let salt = noise.mask(&shape, 0.5);
                let (low, high) = (x.min(), x.max());
                let grains = &salt * (&high - &low) + &low;
                x * &kept + grains * (1.0 - kept)
            }
        }
    }
}

/// Settings of a denoising autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// Width of the code. It may exceed the width of the rows: the noise keeps the network from copying them.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// How rows are damaged.
    pub corruption: Corruption,
    /// How much: a standard deviation for `gaussian` (up to 10), a share for the others (up to 0.95).
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub level: f64,
}

impl Default for Denoising {
    fn default() -> Self {
        Self { latent: 16, corruption: Corruption::Masking, level: 0.3 }
    }
}

impl Family for Denoising {
    const FORMULA: &'static str = "-log p(x | g(f(x̃))), x̃ = corrupted x";
    const PAPER: &'static str =
        "Vincent et al., Extracting and composing robust features with denoising autoencoders, 2008";
    const SAMPLING: Sampling = Sampling::Chain;
    const VARIANCE: Variance = Variance::Fixed;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        let most = if self.corruption == Corruption::Gaussian { 10.0 } else { 0.95 };
        faults.require_within("/level", self.level, 0.0..=most);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        Box::new(Denoiser { inner, corruption: self.corruption, level: self.level })
    }
}

struct Denoiser {
    inner: EncoderDecoder,
    corruption: Corruption,
    level: f64,
}

impl Network for Denoiser {
    fn encode(&self, x: &Tensor) -> Code {
        self.inner.encode(x)
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.inner.outputs(z)
    }

    fn likelihood(&self) -> &Likelihood {
        self.inner.likelihood()
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let seen = self.corruption.apply(&self.inner.encoder.filling().fill(x), self.level, step.noise);
        let reconstruction = self.inner.restore(&seen, x, step);
        Loss::new(reconstruction.shallow_clone(), vec![("reconstruction", reconstruction)])
    }

    /// Damages a row and restores it, again and again (Bengio et al., 2013). The damage alone is random: rows that were drawn around
    /// what is restored would have noise that the network never saw in training.
    fn chain(&self, start: &Tensor, steps: u32, known: Option<&Tensor>, noise: &Noise) -> Option<Tensor> {
        let walked = (0..steps).fold(start.shallow_clone(), |state, _| {
            let seen = self.corruption.apply(&state, self.level, noise);
            clamped(self.decode(&self.encode(&seen).mean), start, known)
        });
        Some(walked)
    }

    /// r(x) - x, which points to where rows are more likely (Vincent, 2011; Alain and Bengio, 2014). With gaussian corruption of
    /// a small level it is the gradient of log p(x) times the square of the level. A gap has none.
    fn score_estimate(&self, x: &Tensor) -> Option<Tensor> {
        let difference = (self.decode(&self.encode(x).mean) - x).masked_fill(&x.isnan(), 0.0);
        let gaussian = self.corruption == Corruption::Gaussian && self.level > 0.0;
        Some(if gaussian { difference / self.level.powi(2) } else { difference })
    }

    fn stack(&self) -> Option<Stack<'_>> {
        self.inner.stack()
    }
}

/// Rows that keep the values of `start` where `known` is 1.
pub(super) fn clamped(rows: Tensor, start: &Tensor, known: Option<&Tensor>) -> Tensor {
    match known {
        Some(known) => start.where_self(&known.gt(0.5), &rows),
        None => rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::Purpose;
    use crate::models::parameters::values;
    use tch::Device;

    fn corrupted(corruption: Corruption, level: f64) -> (Vec<f32>, Vec<f32>) {
        let x = Noise::new(1, Purpose::Training, 0, Device::Cpu).uniform(&[100, 100]) + 0.5;
        let noise = Noise::new(2, Purpose::Training, 0, Device::Cpu);
        (values(&x), values(&corruption.apply(&x, level, &noise)))
    }

    #[test]
    fn masking_zeroes_its_share_and_leaves_the_rest() {
        let (clean, damaged) = corrupted(Corruption::Masking, 0.3);
        let zeros = damaged.iter().filter(|value| **value == 0.0).count();
        assert!((2_700..3_300).contains(&zeros), "{zeros}");
        assert!(clean.iter().zip(&damaged).all(|(clean, damaged)| *damaged == 0.0 || clean == damaged));
    }

    #[test]
    fn gaussian_adds_noise_of_its_level() {
        let (clean, damaged) = corrupted(Corruption::Gaussian, 0.25);
        let squares: f32 = clean.iter().zip(&damaged).map(|(clean, damaged)| (clean - damaged).powi(2)).sum();
        assert!(((squares / 10_000.0).sqrt() - 0.25).abs() < 0.01);
    }

    #[test]
    fn salt_and_pepper_goes_to_the_ends() {
        let (clean, damaged) = corrupted(Corruption::SaltAndPepper, 0.4);
        let (low, high) =
            clean.iter().fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
        let changed: Vec<f32> = clean
            .iter()
            .zip(&damaged)
            .filter(|(clean, damaged)| clean != damaged)
            .map(|(_, damaged)| *damaged)
            .collect();
        assert!((3_700..4_300).contains(&changed.len()), "{}", changed.len());
        let salt = changed.iter().filter(|value| (**value - high).abs() < 1e-6).count();
        assert!(changed.iter().all(|value| (value - high).abs() < 1e-6 || (value - low).abs() < 1e-6));
        assert!((changed.len() * 4 / 10..changed.len() * 6 / 10).contains(&salt));
    }
}
