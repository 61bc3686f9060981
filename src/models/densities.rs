//! The densities that a column may have, as formulas over tensors.
//!
//! Each takes the decoder's output and a prepared value, both `[..., columns]`, and works number by number. A learned
//! parameter is a drift from where it starts, in units of `UNIT`: such a parameter travels several units while weights travel
//! hundredths, and Adam moves each by about the learning rate a step.

use tch::{Kind, Tensor};

use super::fused::{self, Simple};
use super::likelihood::{LikelihoodKind, LikelihoodSpec, Variance};
use super::losses::LN_2_PI;
use super::noise::Noise;
use super::parameters::Builder;
use crate::domain::treatment::Treatment;

/// Where a learned log-variance starts. Well below 0, because a decoder that is thought to be noisy at first lets the KL term
/// win before it has learned anything, and the code collapses.
const START: f64 = -2.0;
/// What a drift of 1 means.
const UNIT: f64 = 10.0;
/// Learned variances stay above e^-12 and below e^12 of a scaled unit, so that a column without noise cannot run away.
const LOG_VARIANCE: f64 = 12.0;
/// Degrees of freedom start at 2 + 8, near a normal; at 2 and below there is no variance.
const LOG_FREEDOM: f64 = 2.0794;
/// The number of failures that a negative binomial starts with is e.
const LOG_DISPERSION: f64 = 1.0;
/// Rates stay below e^20.
const LOG_RATE: f64 = 20.0;
/// Beyond this a sigmoid of 32 bits is 0 or 1.
const FAR: f64 = 40.0;

/// The density of a group of columns.
pub(super) enum Density {
    Gaussian {
        /// Of the log-variance, `[1]` or `[columns]`; absent when the variance is 1.
        drift: Option<Tensor>,
    },
    Bernoulli,
    Categorical {
        /// Levels of each column.
        sizes: Vec<i64>,
    },
    StudentT {
        /// Of the logarithm of the squared scale.
        drift: Option<Tensor>,
        /// Of the logarithm of the degrees of freedom above 2, `[columns]`.
        freedom: Tensor,
    },
    Poisson {
        log: LogScale,
    },
    NegativeBinomial {
        log: LogScale,
        /// Of the logarithm of the number of failures, `[columns]`.
        dispersion: Tensor,
    },
    LogNormal {
        log: LogScale,
        drift: Option<Tensor>,
    },
    Ordinal {
        /// Of each column, one less than its levels: where the first threshold lies, then the logarithms of the steps to the
        /// next, as drifts.
        steps: Vec<Tensor>,
    },
    DiscretizedLogistic {
        /// Of the logarithm of the squared scale.
        drift: Tensor,
        /// How many bins.
        levels: f64,
    },
}

/// Shift and scale of the logarithm that a prepared value is, `[columns]` each.
pub(super) struct LogScale {
    shift: Tensor,
    scale: Tensor,
}

impl LogScale {
    fn of(treatments: &[&Treatment], builder: &Builder) -> Self {
        let (shift, scale): (Vec<f32>, Vec<f32>) = treatments
            .iter()
            .map(|treatment| match treatment {
                Treatment::Log { shift, scale } | Treatment::LogCount { shift, scale } => (*shift, *scale),
                _ => (0.0, 1.0),
            })
            .unzip();
        let tensor = |values: &[f32]| Tensor::from_slice(values).to_device(builder.device());
        Self { shift: tensor(&shift), scale: tensor(&scale) }
    }

    fn undo(&self, prepared: &Tensor) -> Tensor {
        prepared * &self.scale + &self.shift
    }

    fn apply(&self, logarithm: &Tensor) -> Tensor {
        (logarithm - &self.shift) / &self.scale
    }

    /// The logarithm of a rate.
    fn log_rate(&self, output: &Tensor) -> Tensor {
        self.undo(output).clamp(-LOG_RATE, LOG_RATE)
    }

    /// The count that was prepared.
    fn count(&self, prepared: &Tensor) -> Tensor {
        self.undo(prepared).clamp_max(LOG_RATE).expm1().round()
    }

    /// A count or a rate, prepared.
    fn prepare_count(&self, count: &Tensor) -> Tensor {
        self.apply(&count.log1p())
    }
}

impl Density {
    /// The density of columns that were treated so.
    pub fn build(
        kind: LikelihoodKind,
        spec: &LikelihoodSpec,
        treatments: &[&Treatment],
        builder: &mut Builder,
    ) -> Self {
        let columns = treatments.len() as i64;
        let drift = |prefix: &str, builder: &mut Builder| {
            let name = format!("{prefix}log_variance_drift");
            match spec.variance {
                Variance::Fixed | Variance::Auto => None,
                Variance::Shared => Some(builder.constant(&name, &[1], 0.0)),
                Variance::PerColumn => Some(builder.constant(&name, &[columns], 0.0)),
            }
        };
        match kind {
            LikelihoodKind::Auto | LikelihoodKind::Gaussian => Self::Gaussian { drift: drift("", builder) },
            LikelihoodKind::Bernoulli => Self::Bernoulli,
            LikelihoodKind::Categorical => {
                Self::Categorical { sizes: treatments.iter().map(|treatment| treatment.slots() as i64).collect() }
            }
            LikelihoodKind::StudentT => Self::StudentT {
                drift: drift("student_t.", builder),
                freedom: builder.constant("student_t.freedom_drift", &[columns], 0.0),
            },
            LikelihoodKind::Poisson => Self::Poisson { log: LogScale::of(treatments, builder) },
            LikelihoodKind::NegativeBinomial => Self::NegativeBinomial {
                log: LogScale::of(treatments, builder),
                dispersion: builder.constant("negative_binomial.dispersion_drift", &[columns], 0.0),
            },
            LikelihoodKind::LogNormal => {
                Self::LogNormal { log: LogScale::of(treatments, builder), drift: drift("log_normal.", builder) }
            }
            LikelihoodKind::Ordinal => Self::Ordinal {
                steps: treatments
                    .iter()
                    .enumerate()
                    .map(|(column, treatment)| {
                        let levels = match treatment {
                            Treatment::Rank { levels } => levels.len() as i64,
                            _ => 2,
                        };
                        builder.constant(&format!("ordinal.{column}.steps"), &[(levels - 1).max(1)], 0.0)
                    })
                    .collect(),
            },
            LikelihoodKind::DiscretizedLogistic => {
                let shape = if spec.variance == Variance::PerColumn { columns } else { 1 };
                Self::DiscretizedLogistic {
                    drift: builder.constant("discretized_logistic.log_scale_drift", &[shape], 0.0),
                    levels: f64::from(spec.levels.unwrap_or(256).max(2)),
                }
            }
        }
    }

    /// The density as the loops of `native/` take it, of so many columns; `None` where it is none of theirs.
    pub fn simple(&self, columns: i64) -> Option<Simple> {
        match self {
            Self::Bernoulli => Some(Simple { bernoulli: true, constant: 0.0 }),
            Self::Gaussian { drift: None } => {
                Some(Simple { bernoulli: false, constant: 0.5 * LN_2_PI * columns as f64 })
            }
            _ => None,
        }
    }

    /// The sum of `negative_log` over the columns of each row in one node of the graph, where the density is simple enough, a
    /// gradient is wanted, and of the output alone.
    pub fn row_negative_log(&self, output: &Tensor, x: &Tensor) -> Option<Tensor> {
        let simple = self.simple(*x.size().last()?)?;
        let wanted = output.requires_grad() && !x.requires_grad();
        wanted.then(|| fused::row_loss(output, x, simple.bernoulli) + simple.constant)
    }

    /// -log p(x given h) of each number.
    pub fn negative_log(&self, output: &Tensor, x: &Tensor) -> Tensor {
        match self {
            Self::Gaussian { drift } => half_square(output, x, drift.as_ref()),
            // H(x; p) = softplus(logit) - x * logit, which never takes the logarithm of a rounded probability.
            Self::Bernoulli => output.softplus() - x * output,
            Self::Categorical { sizes } => {
                let logs = blocks(output, sizes, |block| block.log_softmax(-1, Kind::Float));
                -(logs * x)
            }
            Self::StudentT { drift, freedom } => {
                let log_scale = log_variance(drift.as_ref(), output) * 0.5;
                let freedom = degrees(freedom);
                let half: Tensor = (&freedom + 1.0) * 0.5;
                let square = ((x - output) * (-&log_scale).exp()).square();
                let constant: Tensor =
                    (&freedom * 0.5).lgamma() - half.lgamma() + (&freedom * std::f64::consts::PI).log() * 0.5;
                constant + log_scale + half * (square / &freedom).log1p()
            }
            Self::Poisson { log } => {
                let (log_rate, count) = (log.log_rate(output), log.count(x));
                log_rate.exp() - &count * log_rate + (count + 1.0).lgamma()
            }
            Self::NegativeBinomial { log, dispersion } => {
                let (log_rate, count) = (log.log_rate(output), log.count(x));
                let log_failures = failures(dispersion);
                let failures = log_failures.exp();
                // With mean m and r failures: log Γ(k + r) - log Γ(r) - log k! - r log(1 + m/r) - k log(1 + r/m).
                let apart: Tensor = log_rate - log_failures;
                let combinations = failures.lgamma() + (&count + 1.0).lgamma() - (&count + &failures).lgamma();
                combinations + failures * apart.softplus() + count * (-apart).softplus()
            }
            Self::LogNormal { log, drift } => {
                // p(x) = N(y) / |dx/dy| with x = exp(scale * y + shift), so that log |dx/dy| = log x + log scale.
                half_square(output, x, drift.as_ref()) + log.undo(x) + log.scale.log()
            }
            Self::Ordinal { steps } => {
                let columns: Vec<Tensor> = steps
                    .iter()
                    .enumerate()
                    .map(|(column, steps)| {
                        let logs = level_logs(&output.select(-1, column as i64), steps); // [..., rows, levels]
                        let last = steps.size()[0];
                        let rank = (x.select(-1, column as i64) * last as f64).round();
                        let levels = Tensor::arange(last + 1, (Kind::Float, x.device()));
                        let is = rank.unsqueeze(-1).eq_tensor(&levels).to_kind(Kind::Float);
                        -(logs * is).sum_dim_intlist([-1].as_slice(), false, Kind::Float)
                    })
                    .collect();
                Tensor::stack(&columns, -1)
            }
            Self::DiscretizedLogistic { drift, levels } => {
                let (mean, inverse, half) = (output.sigmoid(), (-logistic_scale(drift)).exp(), 0.5 / (levels - 1.0));
                let (above, below) = ((x + half - &mean) * &inverse, (x - half - &mean) * &inverse);
                // σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)); the first and the last bin have an open end.
                let between = log_minus_exp(&(inverse * (2.0 * half)));
                let inner = above.log_sigmoid() + (-&below).log_sigmoid() + between;
                let first = x.lt(half);
                let last = x.gt(1.0 - half);
                -above.log_sigmoid().where_self(&first, &(-&below).log_sigmoid().where_self(&last, &inner))
            }
        }
    }

    /// The mean, as prepared numbers.
    pub fn mean(&self, output: &Tensor) -> Tensor {
        match self {
            Self::Gaussian { .. } | Self::StudentT { .. } => output.shallow_clone(),
            Self::Bernoulli | Self::DiscretizedLogistic { .. } => output.sigmoid(),
            Self::Categorical { sizes } => blocks(output, sizes, |block| block.softmax(-1, Kind::Float)),
            Self::Poisson { log } | Self::NegativeBinomial { log, .. } => {
                log.prepare_count(&log.log_rate(output).exp())
            }
            // The mean of exp(scale * y + shift) lies half of its log-variance above the exponential of the mean.
            Self::LogNormal { log, drift } => output + log_variance(drift.as_ref(), output).exp() * 0.5 * &log.scale,
            Self::Ordinal { steps } => ordinal_moments(output, steps).0,
        }
    }

    /// The standard deviation; [`super::likelihood::Likelihood::spread`] says in which units.
    pub fn spread(&self, output: &Tensor) -> Tensor {
        match self {
            Self::Gaussian { drift } => (log_variance(drift.as_ref(), output) * 0.5).exp().expand_as(output),
            Self::Bernoulli => {
                let p = output.sigmoid();
                let variance: Tensor = &p * (1.0 - &p);
                variance.sqrt()
            }
            Self::Categorical { .. } => self.mean(output),
            Self::StudentT { drift, freedom } => {
                let freedom = degrees(freedom);
                let widened = (&freedom / (&freedom - 2.0)).sqrt();
                ((log_variance(drift.as_ref(), output) * 0.5).exp() * widened).expand_as(output)
            }
            Self::Poisson { log } => (log.log_rate(output) * 0.5).exp(),
            Self::NegativeBinomial { log, dispersion } => {
                let rate = log.log_rate(output).exp();
                (&rate + rate.square() / failures(dispersion).exp()).sqrt()
            }
            Self::LogNormal { log, drift } => {
                let variance = log_variance(drift.as_ref(), output).exp() * log.scale.square();
                (log.undo(output) + &variance * 0.5).exp() * variance.expm1().sqrt()
            }
            Self::Ordinal { steps } => ordinal_moments(output, steps).1,
            Self::DiscretizedLogistic { drift, .. } => {
                (logistic_scale(drift).exp() * (std::f64::consts::PI / 3_f64.sqrt())).expand_as(output)
            }
        }
    }

    /// The standard deviation of an even mixture over the first axis.
    pub fn spread_over(&self, outputs: &Tensor) -> Tensor {
        let spread = self.spread(outputs);
        let average = |x: &Tensor| x.mean_dim([0].as_slice(), false, Kind::Float);
        if let Self::Categorical { .. } = self {
            return average(&spread);
        }
        // Means in the units that the spread is in.
        let means = match self {
            Self::Poisson { log } | Self::NegativeBinomial { log, .. } => log.log_rate(outputs).exp(),
            Self::LogNormal { log, .. } => log.undo(&self.mean(outputs)).exp(),
            _ => self.mean(outputs),
        };
        let between = means.var_dim([0].as_slice(), false, false);
        (average(&spread.square()) + between).sqrt()
    }

    /// A draw, as prepared numbers.
    pub fn draw(&self, output: &Tensor, noise: &Noise) -> Tensor {
        let size = output.size();
        match self {
            Self::Gaussian { drift } => {
                output + noise.normal(&size) * (log_variance(drift.as_ref(), output) * 0.5).exp()
            }
            Self::Bernoulli => noise.bernoulli(&output.sigmoid()),
            Self::Categorical { sizes } => {
                // The greatest of logits plus Gumbel noise is a draw of their softmax.
                let noisy = output - (-noise.uniform(&size).clamp_min(1e-20).log()).log();
                blocks(&noisy, sizes, |block| {
                    block.argmax(-1, false).one_hot(*block.size().last().expect("a block")).to_kind(Kind::Float)
                })
            }
            Self::StudentT { drift, freedom } => {
                // A normal over the root of a chi-squared by its degrees, which is a gamma of half as many.
                let freedom = degrees(freedom).expand_as(output);
                let chi: Tensor = noise.gamma(&(&freedom * 0.5)) * 2.0 / freedom;
                let scale = (log_variance(drift.as_ref(), output) * 0.5).exp();
                output + noise.normal(&size) * scale / chi.clamp_min(1e-20).sqrt()
            }
            Self::Poisson { log } => log.prepare_count(&noise.poisson(&log.log_rate(output).exp())),
            Self::NegativeBinomial { log, dispersion } => {
                // A poisson whose rate is a gamma.
                let failures = failures(dispersion).exp().expand_as(output);
                let rate = noise.gamma(&failures) * log.log_rate(output).exp() / failures;
                log.prepare_count(&noise.poisson(&rate))
            }
            Self::LogNormal { drift, .. } => {
                output + noise.normal(&size) * (log_variance(drift.as_ref(), output) * 0.5).exp()
            }
            Self::Ordinal { steps } => {
                let columns: Vec<Tensor> = steps
                    .iter()
                    .enumerate()
                    .map(|(column, steps)| {
                        let logs = level_logs(&output.select(-1, column as i64), steps);
                        let noisy = &logs - (-noise.uniform(&logs.size()).clamp_min(1e-20).log()).log();
                        noisy.argmax(-1, false).to_kind(Kind::Float) / steps.size()[0] as f64
                    })
                    .collect();
                Tensor::stack(&columns, -1)
            }
            Self::DiscretizedLogistic { drift, levels } => {
                let u = noise.uniform(&size).clamp(1e-6, 1.0 - 1e-6);
                let odds: Tensor = &u / (1.0 - &u);
                let logistic = odds.log() * logistic_scale(drift).exp();
                let bin = ((output.sigmoid() + logistic) * (levels - 1.0)).round() / (levels - 1.0);
                bin.clamp(0.0, 1.0)
            }
        }
    }
}

/// The logarithm of a variance: of 1 where none is learned.
fn log_variance(drift: Option<&Tensor>, like: &Tensor) -> Tensor {
    match drift {
        Some(drift) => (drift * UNIT + START).clamp(-LOG_VARIANCE, LOG_VARIANCE),
        None => Tensor::zeros([1], (Kind::Float, like.device())),
    }
}

fn half_square(output: &Tensor, x: &Tensor, drift: Option<&Tensor>) -> Tensor {
    let square = (x - output).square();
    match drift {
        None => (square + LN_2_PI) * 0.5,
        Some(_) => {
            let log_variance = log_variance(drift, output);
            (square * (-&log_variance).exp() + log_variance + LN_2_PI) * 0.5
        }
    }
}

fn degrees(freedom: &Tensor) -> Tensor {
    (freedom * UNIT + LOG_FREEDOM).clamp(-6.0, 8.0).exp() + 2.0
}

fn failures(dispersion: &Tensor) -> Tensor {
    (dispersion * UNIT + LOG_DISPERSION).clamp(-LOG_VARIANCE, LOG_VARIANCE)
}

/// The logarithm of a logistic scale, which starts at e^-2.
fn logistic_scale(drift: &Tensor) -> Tensor {
    (drift * UNIT + START).clamp(-7.0, 2.0)
}

/// log(1 - e^-x) for x above 0 (Mächler, 2012).
fn log_minus_exp(x: &Tensor) -> Tensor {
    (-(-x).expm1()).clamp_min(1e-30).log()
}

/// The log-probabilities of all levels of one column, `[...]` to `[..., levels]`. With thresholds t, P(level ≤ k) = σ(t_k - h).
fn level_logs(output: &Tensor, steps: &Tensor) -> Tensor {
    let count = steps.size()[0];
    // Thresholds start a unit apart, around 0.
    let first = steps.narrow(0, 0, 1) * UNIT - (count - 1) as f64 / 2.0;
    let further = (steps.narrow(0, 1, count - 1) * UNIT).clamp(-10.0, 5.0).exp();
    let thresholds = Tensor::cat(&[first, further], 0).cumsum(0, Kind::Float);
    let far = Tensor::full([1], FAR, (Kind::Float, steps.device()));
    let padded = Tensor::cat(&[&(-&far), &thresholds, &far], 0); // [levels + 1]
    let h = output.unsqueeze(-1);
    let upper = padded.narrow(0, 1, count + 1);
    let lower = padded.narrow(0, 0, count + 1);
    (&upper - &h).log_sigmoid() + (h - &lower).log_sigmoid() + log_minus_exp(&(upper - lower))
}

/// Mean and deviation of the rank, from 0 to 1, of each column.
fn ordinal_moments(output: &Tensor, steps: &[Tensor]) -> (Tensor, Tensor) {
    let (means, deviations): (Vec<Tensor>, Vec<Tensor>) = steps
        .iter()
        .enumerate()
        .map(|(column, steps)| {
            let p = level_logs(&output.select(-1, column as i64), steps).exp();
            let last = steps.size()[0];
            let ranks = Tensor::arange(last + 1, (Kind::Float, output.device())) / last as f64;
            let sum = |x: Tensor| x.sum_dim_intlist([-1].as_slice(), false, Kind::Float);
            let mean = sum(&p * &ranks);
            let square = sum(p * ranks.square());
            let variance = (square - mean.square()).clamp_min(0.0);
            (mean, variance.sqrt())
        })
        .unzip();
    (Tensor::stack(&means, -1), Tensor::stack(&deviations, -1))
}

/// Applies a function to each block of numbers and joins what it gives.
fn blocks(x: &Tensor, sizes: &[i64], one: impl Fn(&Tensor) -> Tensor) -> Tensor {
    if let [_] = sizes {
        return one(x);
    }
    let parts: Vec<Tensor> = x.split_with_sizes(sizes, -1).iter().map(one).collect();
    Tensor::cat(&parts, -1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::Purpose;
    use crate::models::parameters::values;
    use serde::Deserialize;
    use tch::Device;

    /// A value worked out by scipy; tests/reference/densities.py makes the file.
    #[derive(Deserialize)]
    struct Case {
        density: String,
        parameters: std::collections::BTreeMap<String, f64>,
        output: f64,
        x: f64,
        nll: f64,
        gradient: f64,
        mean: f64,
        spread: f64,
    }

    fn cases() -> Vec<Case> {
        serde_json::from_str(include_str!("../../tests/reference/densities.json")).unwrap()
    }

    fn one(value: f64) -> Tensor {
        Tensor::from_slice(&[value as f32])
    }

    impl Case {
        fn density(&self) -> Density {
            let get = |name: &str| self.parameters.get(name).copied();
            let drift = |name: &str, start: f64| one((get(name).unwrap().ln() - start) / UNIT);
            let variance = || Some(drift("variance", START));
            let log = || LogScale { shift: one(get("shift").unwrap()), scale: one(get("scale").unwrap()) };
            match self.density.as_str() {
                "gaussian" => Density::Gaussian { drift: variance() },
                "student_t" => Density::StudentT {
                    drift: variance(),
                    freedom: one(((get("freedom").unwrap() - 2.0).ln() - LOG_FREEDOM) / UNIT),
                },
                "log_normal" => Density::LogNormal { log: log(), drift: variance() },
                "bernoulli" => Density::Bernoulli,
                "poisson" => Density::Poisson { log: log() },
                "negative_binomial" => {
                    Density::NegativeBinomial { log: log(), dispersion: drift("failures", LOG_DISPERSION) }
                }
                "ordinal" => Density::Ordinal { steps: vec![Tensor::zeros([4], tch::kind::FLOAT_CPU)] },
                "discretized_logistic" => {
                    Density::DiscretizedLogistic { drift: drift("variance", 2.0 * START) * 0.5, levels: 17.0 }
                }
                other => panic!("{other}"),
            }
        }
    }

    fn near(found: f64, expected: f64, tolerance: f64) -> bool {
        (found - expected).abs() <= tolerance * expected.abs().max(1.0)
    }

    #[test]
    fn losses_gradients_means_and_spreads_are_those_of_scipy() {
        for case in cases() {
            let density = case.density();
            let output = one(case.output).set_requires_grad(true);
            let loss = density.negative_log(&output, &one(case.x));
            let gradient = Tensor::run_backward(&[&loss], &[&output], false, false);
            let found = [&loss, &gradient[0], &density.mean(&output), &density.spread(&output)]
                .map(|tensor| f64::from(values(tensor)[0]));
            let expected = [case.nll, case.gradient, case.mean, case.spread];
            for (what, (found, expected)) in
                ["nll", "gradient", "mean", "spread"].iter().zip(found.iter().zip(expected))
            {
                assert!(
                    near(*found, expected, 2e-4),
                    "{} {:?} output {} x {}: {what} {found} is not {expected}",
                    case.density,
                    case.parameters,
                    case.output,
                    case.x
                );
            }
        }
    }

    #[test]
    fn a_mixture_spreads_by_what_its_parts_do_and_how_far_they_lie_apart() {
        for case in cases() {
            let density = case.density();
            let alone = Tensor::stack(&[one(case.output), one(case.output)], 0);
            let found = f64::from(values(&density.spread_over(&alone))[0]);
            assert!(near(found, case.spread, 2e-4), "{}: {found} {}", case.density, case.spread);
        }
        let apart = Tensor::from_slice(&[1.0_f32, 5.0]).view([2, 1]);
        let found = values(&Density::Gaussian { drift: None }.spread_over(&apart))[0];
        assert!((found - 5_f32.sqrt()).abs() < 1e-6, "variance 1 and means 2 from the middle: {found}");
    }

    #[test]
    fn draws_have_the_moments_that_are_told() {
        let mut seen = std::collections::BTreeSet::new();
        for case in cases() {
            // One case a density; a wide one has moments that draws cannot show.
            let wide = case.spread > 20.0 || case.parameters.get("freedom").is_some_and(|freedom| *freedom < 5.0);
            if wide || !seen.insert(case.density.clone()) {
                continue;
            }
            let density = case.density();
            let output = one(case.output).expand([40_000, 1], false);
            let drawn = density.draw(&output, &Noise::new(7, Purpose::Training, 0, Device::Cpu));
            let in_own_units = |prepared: &Tensor| match &density {
                Density::Poisson { log } | Density::NegativeBinomial { log, .. } => log.undo(prepared).expm1(),
                Density::LogNormal { log, .. } => log.undo(prepared).exp(),
                _ => prepared.shallow_clone(),
            };
            let own = in_own_units(&drawn).to_kind(Kind::Double);
            let mean = own.mean(Kind::Double).double_value(&[]);
            let deviation = own.std(false).double_value(&[]);
            let expected = f64::from(values(&in_own_units(&one(case.mean)))[0]);
            // Cutting into bins and holding between 0 and 1 moves a discretized logistic a little.
            let tolerance = if case.density == "discretized_logistic" { 0.05 } else { 0.04 };
            assert!((mean - expected).abs() < tolerance * case.spread.max(0.3), "{}: {mean} {expected}", case.density);
            assert!(near(deviation / case.spread, 1.0, 0.06), "{}: {deviation} {}", case.density, case.spread);
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_category_is_the_cross_entropy_of_its_levels_and_drawn_by_their_probabilities() {
        let density = Density::Categorical { sizes: vec![2, 3] };
        let output = Tensor::from_slice(&[0.3_f32, -0.4, 1.0, 0.0, -1.0]).view([1, 5]);
        let x = Tensor::from_slice(&[0.0_f32, 1.0, 0.0, 0.0, 1.0]).view([1, 5]);
        let softmax =
            |logits: &[f64], level: usize| logits[level].exp() / logits.iter().map(|logit| logit.exp()).sum::<f64>();
        let expected = [softmax(&[0.3, -0.4], 1), softmax(&[1.0, 0.0, -1.0], 2)];
        let loss = values(&density.negative_log(&output, &x));
        assert!(near(f64::from(loss[1]), -expected[0].ln(), 1e-5) && near(f64::from(loss[4]), -expected[1].ln(), 1e-5));
        assert_eq!((loss[0], loss[2], loss[3]), (0.0, 0.0, 0.0));
        let drawn = density.draw(&output.expand([20_000, 5], false), &Noise::new(7, Purpose::Training, 0, Device::Cpu));
        let shares = values(&drawn.mean_dim([0].as_slice(), false, Kind::Float));
        for (share, expected) in shares.iter().zip(values(&density.mean(&output))) {
            assert!((share - expected).abs() < 0.02, "{shares:?}");
        }
    }

    #[test]
    fn bernoulli_and_logistic_stay_finite_far_out() {
        let loss =
            |density: &Density, output: f64, x: f64| f64::from(values(&density.negative_log(&one(output), &one(x)))[0]);
        assert!(near(loss(&Density::Bernoulli, 200.0, 0.0), 200.0, 1e-6));
        assert!(loss(&Density::Bernoulli, -200.0, 0.0).abs() < 1e-6);
        let logistic = Density::DiscretizedLogistic { drift: one(-1.0), levels: 256.0 };
        for x in [0.0, 0.5, 1.0] {
            for output in [-50.0, 0.0, 50.0] {
                assert!(loss(&logistic, output, x).is_finite());
            }
        }
    }

    #[test]
    fn probabilities_of_bins_and_levels_sum_to_one() {
        let logistic = Density::DiscretizedLogistic { drift: one(0.1), levels: 17.0 };
        let ordinal = Density::Ordinal { steps: vec![Tensor::from_slice(&[0.03_f32, -0.1, 0.05])] };
        for (density, levels) in [(logistic, 17), (ordinal, 4)] {
            let total: f64 = (0..levels)
                .map(|level| {
                    let x = f64::from(level) / f64::from(levels - 1);
                    (-f64::from(values(&density.negative_log(&one(0.4).view([1, 1]), &one(x).view([1, 1])))[0])).exp()
                })
                .sum();
            assert!((total - 1.0).abs() < 1e-4, "{total}");
        }
    }
}
