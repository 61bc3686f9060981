//! Where codes for new rows are drawn from, for families without a prior: a distribution that is fitted to the codes of the
//! training rows and saved with the model.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::losses::LN_2_PI;
use super::noise::{Purpose, generator};
use super::parameters::{Named, values};
use crate::domain::refusal::Faults;

/// Which distribution is fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// `mixture` for codes of up to 256 units, `gaussian` up to 1,024, else `kernel_density`.
    #[default]
    Auto,
    /// One normal distribution with its full covariance.
    Gaussian,
    /// Several of them, as many as give held-out codes the greatest likelihood.
    Mixture,
    /// A small normal around each of up to 4,096 training codes, as wide as gives held-out codes the greatest likelihood.
    KernelDensity,
}

/// What codes for new rows are drawn from, for families without a prior.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerSpec {
    /// Which distribution is fitted to the codes of the training rows.
    pub kind: SamplerKind,
    /// How many normals a mixture has; found out when it is left out.
    #[schema(minimum = 1, maximum = 100)]
    pub components: Option<u32>,
}

impl SamplerSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        let Some(components) = self.components else { return };
        faults.require_within("/sampler/components", components, 1..=100);
        if !matches!(self.kind, SamplerKind::Auto | SamplerKind::Mixture) {
            faults.push("/sampler/components", "conflict", "goes with a mixture");
        }
    }
}

/// A distribution of codes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampler {
    /// Normals, each N(mean, factor · factorᵀ) with its weight.
    Mixture {
        /// `[components]`; they sum to 1.
        weights: Vec<f32>,
        /// `[components, latent]`.
        means: Vec<f32>,
        /// Lower triangular, `[components, latent, latent]`.
        factors: Vec<f32>,
    },
    /// A normal around each code, with a deviation a unit.
    KernelDensity {
        /// `[kernels, latent]`.
        codes: Vec<f32>,
        /// `[latent]`.
        deviations: Vec<f32>,
    },
}

const WEIGHTS: &str = "sampler.weights";
const MEANS: &str = "sampler.means";
const FACTORS: &str = "sampler.factors";
const CODES: &str = "sampler.codes";
const DEVIATIONS: &str = "sampler.deviations";

/// Codes that a mixture is fitted to.
const MIXTURE_CODES: usize = 10_000;
/// Codes that kernels stand on.
const KERNELS: usize = 4_096;
/// Numbers of components that are tried, as long as they help.
const COMPONENTS: [usize; 8] = [1, 2, 3, 5, 8, 12, 18, 27];
/// Nats that more components must gain to be worth it.
const WORTH: f64 = 0.01;
/// Widths of kernels that are tried, in deviations of the units.
const WIDTHS: [f64; 8] = [0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 0.9];

impl Sampler {
    /// Fits a distribution to codes `[rows, latent]`. What is chosen is chosen by `held_out` codes, or a tenth of the codes
    /// where there are none. `None` when codes are not finite.
    pub fn fit(spec: &SamplerSpec, codes: &Tensor, held_out: Option<&Tensor>, seed: u64) -> Option<Self> {
        let _guard = tch::no_grad_guard();
        let codes = codes.to_device(tch::Device::Cpu).to_kind(Kind::Double);
        if codes.size()[0] == 0 || codes.isfinite().all().int64_value(&[]) == 0 {
            return None;
        }
        let (fitted, judges) = match held_out {
            Some(held_out) => (codes, held_out.to_device(tch::Device::Cpu).to_kind(Kind::Double)),
            None => {
                let rows = codes.size()[0];
                let tenth = rows / 10;
                if tenth == 0 {
                    (codes.shallow_clone(), codes)
                } else {
                    (codes.narrow(0, tenth, rows - tenth), codes.narrow(0, 0, tenth))
                }
            }
        };
        let latent = fitted.size()[1];
        let mut random = generator(seed, Purpose::Sampler, 0);
        match spec.kind {
            SamplerKind::KernelDensity => kernels(&fitted, &judges),
            SamplerKind::Auto if latent > 1024 => kernels(&fitted, &judges),
            SamplerKind::Gaussian => mixture(&fitted, &judges, &[1], &mut random),
            SamplerKind::Auto if latent > 256 => mixture(&fitted, &judges, &[1], &mut random),
            SamplerKind::Auto | SamplerKind::Mixture => match spec.components {
                Some(components) => mixture(&fitted, &judges, &[components as usize], &mut random),
                None => mixture(&fitted, &judges, &COMPONENTS, &mut random),
            },
        }
    }

    /// Codes for `count` rows, one after the other. They depend on `seed` alone, not on who else draws. A temperature below 1
    /// gives more typical codes, above 1 more varied ones.
    pub fn draw(&self, count: usize, seed: u64, temperature: f32) -> Vec<f32> {
        let mut random = generator(seed, Purpose::Inference, 0);
        let mut codes = Vec::new();
        for _ in 0..count {
            match self {
                Self::Mixture { weights, means, factors } => {
                    let latent = means.len() / weights.len();
                    let component = pick(weights.iter().map(|weight| f64::from(*weight)), &mut random);
                    let mean = &means[component * latent..][..latent];
                    let factor = &factors[component * latent * latent..][..latent * latent];
                    let draw = normals(latent, temperature, &mut random);
                    codes.extend((0..latent).map(|row| {
                        mean[row] + (0..=row).map(|column| factor[row * latent + column] * draw[column]).sum::<f32>()
                    }));
                }
                Self::KernelDensity { codes: kernels, deviations } => {
                    let latent = deviations.len();
                    let kernel = random.random_range(0..kernels.len() / latent);
                    let draw = normals(latent, temperature, &mut random);
                    let center = &kernels[kernel * latent..][..latent];
                    codes.extend((0..latent).map(|unit| center[unit] + deviations[unit] * draw[unit]));
                }
            }
        }
        codes
    }

    /// What is saved.
    pub fn named(&self) -> Vec<Named> {
        let one = |name: &str, shape: Vec<usize>, values: &Vec<f32>| Named {
            name: name.to_owned(),
            shape,
            values: values.clone(),
        };
        match self {
            Self::Mixture { weights, means, factors } => {
                let (components, latent) = (weights.len(), means.len() / weights.len());
                vec![
                    one(WEIGHTS, vec![components], weights),
                    one(MEANS, vec![components, latent], means),
                    one(FACTORS, vec![components, latent, latent], factors),
                ]
            }
            Self::KernelDensity { codes, deviations } => {
                let latent = deviations.len();
                vec![one(CODES, vec![codes.len() / latent, latent], codes), one(DEVIATIONS, vec![latent], deviations)]
            }
        }
    }

    /// The names and shapes of what is saved of a sampler of codes of this width, where `first` tells the first side of a tensor
    /// that there is: which kind of sampler it is, and how large, only the file knows.
    pub fn expected(latent: usize, first: impl Fn(&str) -> Option<usize>) -> Vec<(String, Vec<usize>)> {
        let own = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        match first(WEIGHTS) {
            Some(components) => {
                let components = components.max(1);
                vec![
                    own(WEIGHTS, &[components]),
                    own(MEANS, &[components, latent]),
                    own(FACTORS, &[components, latent, latent]),
                ]
            }
            None => vec![own(CODES, &[first(CODES).unwrap_or(1).max(1), latent]), own(DEVIATIONS, &[latent])],
        }
    }

    /// Takes a sampler of codes of this width out of what was saved; `None` where there is none that fits.
    pub fn take(latent: usize, tensors: &mut Vec<Named>) -> Option<Self> {
        let mut take = |name: &str| {
            let position = tensors.iter().position(|tensor| tensor.name == name)?;
            Some(tensors.swap_remove(position).values)
        };
        if let Some(weights) = take(WEIGHTS) {
            let (means, factors) = (take(MEANS)?, take(FACTORS)?);
            let components = weights.len();
            let fits =
                components > 0 && means.len() == components * latent && factors.len() == components * latent * latent;
            return fits.then_some(Self::Mixture { weights, means, factors });
        }
        let (codes, deviations) = (take(CODES)?, take(DEVIATIONS)?);
        let fits = deviations.len() == latent && !codes.is_empty() && codes.len() % latent == 0;
        fits.then_some(Self::KernelDensity { codes, deviations })
    }
}

fn normals(count: usize, temperature: f32, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..count).map(|_| temperature * random.sample::<f32, _>(StandardNormal)).collect()
}

/// An index, drawn by weight.
fn pick(weights: impl Iterator<Item = f64> + Clone, random: &mut ChaCha8Rng) -> usize {
    let mut left = random.random::<f64>() * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Every so manieth row, so that there are `most` at most.
fn thinned(codes: &Tensor, most: usize) -> Tensor {
    let rows = codes.size()[0];
    let step = (rows + most as i64 - 1) / most as i64;
    codes.slice(0, 0, rows, step.max(1))
}

/// The mixture with the number of components that `judges` like best.
fn mixture(codes: &Tensor, judges: &Tensor, tried: &[usize], random: &mut ChaCha8Rng) -> Option<Sampler> {
    let codes = thinned(codes, MIXTURE_CODES);
    let rows = codes.size()[0] as usize;
    let mut best: Option<(f64, Normals)> = None;
    for components in tried {
        // A component needs some rows of its own.
        if *components > 1 && *components * 10 > rows {
            break;
        }
        let Some(fitted) = Normals::fit(&codes, *components, random) else { continue };
        let likelihood = fitted.joint(judges).logsumexp([1].as_slice(), false).mean(Kind::Double).double_value(&[]);
        if best.as_ref().is_none_or(|(other, _)| likelihood > *other + WORTH) {
            best = Some((likelihood, fitted));
        } else {
            break;
        }
    }
    let (_, fitted) = best?;
    let [weights, means, factors] = [fitted.log_weights.exp(), fitted.means, fitted.factors].map(|one| values(&one));
    let finite = weights.iter().chain(&means).chain(&factors).all(|value| value.is_finite());
    finite.then_some(Sampler::Mixture { weights, means, factors })
}

/// Normals at work, in 64 bits.
struct Normals {
    log_weights: Tensor, // [components]
    means: Tensor,       // [components, latent]
    factors: Tensor,     // [components, latent, latent]
}

/// Rounds of expectation and maximisation, at most.
const ROUNDS: usize = 100;
/// Nats that a round must gain for another one; a tenth of what more components must gain.
const GAIN: f64 = 1e-3;

impl Normals {
    /// Fits by expectation maximisation (Dempster, Laird and Rubin, 1977) from centres spread out as by k-means++ (Arthur and
    /// Vassilvitskii, 2007).
    fn fit(codes: &Tensor, components: usize, random: &mut ChaCha8Rng) -> Option<Self> {
        let rows = codes.size()[0];
        let mut centers = vec![random.random_range(0..rows)];
        while centers.len() < components {
            let chosen = codes.index_select(0, &Tensor::from_slice(&centers));
            let distances = squared_distances(codes, &chosen).min_dim(1, false).0.clamp_min(0.0);
            let mut weights = vec![0.0; rows as usize];
            distances.copy_data(&mut weights, rows as usize);
            centers.push(pick(weights.iter().copied(), random) as i64);
        }
        let chosen = codes.index_select(0, &Tensor::from_slice(&centers));
        let nearest = squared_distances(codes, &chosen).argmin(1, false);
        let mut shares = nearest.one_hot(components as i64).to_kind(Kind::Double); // [rows, components]
        let mut fitted = Self::maximise(codes, &shares)?;
        let mut before = f64::NEG_INFINITY;
        for _ in 0..if components == 1 { 0 } else { ROUNDS } {
            let joint = fitted.joint(codes);
            let whole = joint.logsumexp([1].as_slice(), true);
            let likelihood = whole.mean(Kind::Double).double_value(&[]);
            if likelihood - before < GAIN {
                break;
            }
            before = likelihood;
            shares = (joint - whole).exp();
            fitted = Self::maximise(codes, &shares)?;
        }
        Some(fitted)
    }

    fn maximise(codes: &Tensor, shares: &Tensor) -> Option<Self> {
        let latent = codes.size()[1];
        let eye = Tensor::eye(latent, (Kind::Double, codes.device()));
        let (whole_variance, _) = codes.var_mean(false);
        let typical = whole_variance.double_value(&[]).max(1e-9);
        let counts = shares.sum_dim_intlist([0].as_slice(), false, Kind::Double) + 1e-9; // [components]
        let means = shares.transpose(0, 1).matmul(codes) / counts.unsqueeze(1);
        let mut factors = Vec::new();
        for component in 0..shares.size()[1] {
            let centered = codes - means.select(0, component);
            let weighted = &centered * shares.select(1, component).unsqueeze(1);
            let covariance = weighted.transpose(0, 1).matmul(&centered) / counts.select(0, component);
            // Dead units have no variance: a growing bit of the identity makes the matrix one that can be factored.
            let factor = [1e-6, 1e-4, 1e-2]
                .iter()
                .find_map(|share| (&covariance + &eye * (typical * share)).f_linalg_cholesky(false).ok())?;
            factors.push(factor);
        }
        let log_weights = (&counts / counts.sum(Kind::Double)).log();
        Some(Self { log_weights, means, factors: Tensor::stack(&factors, 0) })
    }

    /// log weight + log density of each component, `[rows, components]`.
    fn joint(&self, codes: &Tensor) -> Tensor {
        let latent = codes.size()[1] as f64;
        let columns: Vec<Tensor> = (0..self.means.size()[0])
            .map(|component| {
                let factor = self.factors.select(0, component);
                let centered = (codes - self.means.select(0, component)).transpose(0, 1); // [latent, rows]
                let white = factor.linalg_solve_triangular(&centered, false, true, false);
                let squares = white.square().sum_dim_intlist([0].as_slice(), false, Kind::Double);
                let log_determinant = factor.diagonal(0, 0, 1).log().sum(Kind::Double);
                squares * -0.5 - log_determinant - 0.5 * latent * LN_2_PI + self.log_weights.select(0, component)
            })
            .collect();
        Tensor::stack(&columns, 1)
    }
}

/// `[rows, others]`.
fn squared_distances(codes: &Tensor, others: &Tensor) -> Tensor {
    Tensor::cdist(codes, others, 2.0, None::<i64>).square()
}

/// Kernels of the width that `judges` like best.
fn kernels(codes: &Tensor, judges: &Tensor) -> Option<Sampler> {
    let codes = thinned(codes, KERNELS);
    let judges = thinned(judges, KERNELS / 4);
    let latent = codes.size()[1];
    let spread = codes.std_dim([0].as_slice(), false, false).clamp_min(1e-6);
    let distances = squared_distances(&(&judges / &spread), &(&codes / &spread)); // [judges, kernels]
    let score = |width: f64| {
        // A judge that is itself a kernel would like the narrowest kernels best.
        let apart = distances.where_self(&distances.gt(1e-12), &Tensor::from(f64::INFINITY));
        let logs = (apart * (-0.5 / (width * width))).logsumexp([1].as_slice(), false);
        logs.mean(Kind::Double).double_value(&[]) - latent as f64 * width.ln()
    };
    let width = WIDTHS.into_iter().max_by(|a, b| score(*a).total_cmp(&score(*b)))?;
    Some(Sampler::KernelDensity { codes: values(&codes), deviations: values(&(spread * width)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::Noise;
    use tch::Device;

    fn noise(seed: u64) -> Noise {
        Noise::new(seed, Purpose::Training, 0, Device::Cpu)
    }

    fn spec(kind: SamplerKind) -> SamplerSpec {
        SamplerSpec { kind, components: None }
    }

    fn moments(drawn: &[f32]) -> ([f64; 2], [f64; 3]) {
        let count = (drawn.len() / 2) as f64;
        let mean = [0, 1].map(|unit| drawn.iter().skip(unit).step_by(2).map(|x| f64::from(*x)).sum::<f64>() / count);
        let product = |a: usize, b: usize| {
            let each = drawn.chunks_exact(2).map(|x| (f64::from(x[a]) - mean[a]) * (f64::from(x[b]) - mean[b]));
            each.sum::<f64>() / count
        };
        (mean, [product(0, 0), product(0, 1), product(1, 1)])
    }

    #[test]
    fn every_kind_draws_codes_like_those_it_saw() {
        let mix = Tensor::from_slice(&[2.0_f32, 1.0, 0.0, 0.5]).view([2, 2]);
        let codes = noise(1).normal(&[20_000, 2]).matmul(&mix) + Tensor::from_slice(&[3.0_f32, -1.0]);
        for (kind, tolerance) in
            [(SamplerKind::Gaussian, 0.15), (SamplerKind::Mixture, 0.15), (SamplerKind::KernelDensity, 0.35)]
        {
            let sampler = Sampler::fit(&spec(kind), &codes, None, 0).unwrap();
            let (mean, covariance) = moments(&sampler.draw(20_000, 9, 1.0));
            assert!((mean[0] - 3.0).abs() < 0.1 && (mean[1] + 1.0).abs() < 0.06, "{kind:?} {mean:?}");
            // The mix has the covariance [[4, 2], [2, 1.25]].
            for (found, expected) in covariance.iter().zip([4.0, 2.0, 1.25]) {
                assert!((found - expected).abs() < tolerance, "{kind:?} {covariance:?}");
            }
            let mut saved = sampler.named();
            assert_eq!(Sampler::take(2, &mut saved), Some(sampler.clone()));
            assert!(saved.is_empty());
            assert_eq!(Sampler::take(3, &mut sampler.named()), None);
        }
    }

    #[test]
    fn held_out_codes_choose_the_number_of_components() {
        // Three heaps far apart.
        let which = noise(2).integers(6_000, 3).to_kind(Kind::Float).unsqueeze(1);
        let heaps = noise(3).normal(&[6_000, 2]) + which * 20.0;
        let Some(Sampler::Mixture { weights, .. }) = Sampler::fit(&spec(SamplerKind::Auto), &heaps, None, 0) else {
            panic!()
        };
        assert!((3..=5).contains(&weights.len()), "{weights:?}");
        let one = noise(4).normal(&[6_000, 2]);
        let Some(Sampler::Mixture { weights, .. }) = Sampler::fit(&spec(SamplerKind::Auto), &one, None, 0) else {
            panic!()
        };
        assert!(weights.len() <= 2, "{weights:?}");
        let fixed = SamplerSpec { kind: SamplerKind::Mixture, components: Some(2) };
        let Some(Sampler::Mixture { weights, .. }) = Sampler::fit(&fixed, &heaps, None, 0) else { panic!() };
        assert_eq!(weights.len(), 2);
    }

    #[test]
    fn the_density_of_a_fitted_normal_is_the_formula() {
        let codes = noise(1).normal(&[500, 2]).to_kind(Kind::Double) * 2.0 + 1.0;
        let fitted = Normals::fit(&codes, 1, &mut generator(0, Purpose::Sampler, 0)).unwrap();
        let (mean, covariance) = moments(&values(&codes));
        let determinant = covariance[0] * covariance[2] - covariance[1] * covariance[1];
        let x = [0.3 - mean[0], -0.8 - mean[1]];
        let square = (covariance[2] * x[0] * x[0] - 2.0 * covariance[1] * x[0] * x[1] + covariance[0] * x[1] * x[1])
            / determinant;
        let expected = -0.5 * (square + determinant.ln()) - LN_2_PI;
        let found = fitted.joint(&Tensor::from_slice(&[0.3_f64, -0.8]).view([1, 2])).double_value(&[0, 0]);
        assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
    }

    #[test]
    fn dead_units_and_strange_codes_do_not_stop_the_fit() {
        let codes = noise(1).normal(&[100, 2]) * Tensor::from_slice(&[1.0_f32, 0.0]);
        for kind in [SamplerKind::Auto, SamplerKind::KernelDensity] {
            let drawn = Sampler::fit(&spec(kind), &codes, None, 0).unwrap().draw(50, 0, 1.0);
            assert!(drawn.iter().skip(1).step_by(2).all(|value| value.abs() < 0.1));
        }
        assert!(Sampler::fit(&spec(SamplerKind::Auto), &(&codes / 0.0), None, 0).is_none());
        assert!(Sampler::fit(&spec(SamplerKind::Auto), &codes.narrow(0, 0, 1), None, 0).is_some());
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let codes = noise(1).normal(&[200, 3]);
        let sampler = Sampler::fit(&spec(SamplerKind::Auto), &codes, None, 0).unwrap();
        assert_eq!(sampler.draw(4, 7, 1.0), sampler.draw(4, 7, 1.0));
        assert_ne!(sampler.draw(4, 7, 1.0), sampler.draw(4, 8, 1.0));
        assert_eq!(sampler.draw(2, 7, 1.0)[..], sampler.draw(4, 7, 1.0)[..6]);
    }
}
