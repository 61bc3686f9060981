//! What a decoder's output means: the density p(x given h) of a row.
//!
//! A decoder gives one number per column. `gaussian` takes it for the mean, `bernoulli` for the logit. Negative
//! log-likelihoods are in nats per row, from logits, with every constant, so that families can be compared.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::losses::{LN_2_PI, sum_columns};
use super::parameters::Builder;

/// The density of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LikelihoodKind {
    /// `bernoulli` when every feature column is binary, else `gaussian`.
    #[default]
    Auto,
    /// Normal around the decoder's output. With a fixed variance of 1 its loss is half the squared error plus a constant.
    Gaussian,
    /// Cross-entropy between the column, from 0 to 1, and the decoder's probability.
    Bernoulli,
}

/// The variance of a gaussian likelihood, in scaled units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// `shared` for families with a density, else `fixed`.
    #[default]
    Auto,
    /// 1.
    Fixed,
    /// One, learned.
    Shared,
    /// One for each column, learned.
    PerColumn,
}

/// The likelihood of a model: a name such as `"bernoulli"`, or an object with the details.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LikelihoodSpec {
    /// The density.
    pub kind: LikelihoodKind,
    /// The variance; only a gaussian has one.
    pub variance: Variance,
}

#[derive(Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct LikelihoodDetails {
    /// The density.
    kind: LikelihoodKind,
    /// The variance; only a gaussian has one.
    variance: Variance,
}

impl<'de> Deserialize<'de> for LikelihoodSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrDetails;

        impl<'de> Visitor<'de> for NameOrDetails {
            type Value = LikelihoodSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a likelihood (`auto`, `gaussian`, `bernoulli`) or an object with `kind` and `variance`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<LikelihoodSpec, E> {
                let kind = LikelihoodKind::deserialize(name.into_deserializer())?;
                Ok(LikelihoodSpec { kind, variance: Variance::Auto })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<LikelihoodSpec, M::Error> {
                let LikelihoodDetails { kind, variance } = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LikelihoodSpec { kind, variance })
            }
        }

        deserializer.deserialize_any(NameOrDetails)
    }
}

impl PartialSchema for LikelihoodSpec {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .description(Some("The likelihood of a model: a name, or an object with the details."))
            .item(LikelihoodKind::schema())
            .item(LikelihoodDetails::schema())
            .into()
    }
}

impl ToSchema for LikelihoodSpec {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((LikelihoodKind::name().into_owned(), LikelihoodKind::schema()));
        schemas.push((Variance::name().into_owned(), Variance::schema()));
        LikelihoodDetails::schemas(schemas);
    }
}

/// A likelihood at work.
pub enum Likelihood {
    /// Normal around the decoder's output.
    Gaussian {
        /// Says how far the log-variance has moved from where it starts, `[1]` or `[width]`; absent when the variance is 1.
        drift: Option<Tensor>,
    },
    /// From logits.
    Bernoulli,
}

/// Where a learned log-variance starts. Well below 0, because a decoder that is thought to be noisy at first lets the KL term
/// win before it has learned anything, and the code collapses.
const START: f64 = -2.0;
/// A log-variance travels several units while weights travel hundredths, and Adam moves each by about the learning rate a
/// step: so what is learned is its drift in units of this.
const UNIT: f64 = 10.0;
/// Learned variances stay above e^-12 and below e^12 of a scaled unit, so that a column without noise cannot run away.
const LOG_VARIANCE: f64 = 12.0;

impl Likelihood {
    /// Makes the likelihood of rows of `width` columns. `auto` must be resolved; it counts as gaussian with variance 1.
    pub fn build(spec: &LikelihoodSpec, width: i64, builder: &mut Builder) -> Self {
        match spec.kind {
            LikelihoodKind::Bernoulli => Self::Bernoulli,
            LikelihoodKind::Gaussian | LikelihoodKind::Auto => builder.within("likelihood", |builder| Self::Gaussian {
                drift: match spec.variance {
                    Variance::Fixed | Variance::Auto => None,
                    Variance::Shared => Some(builder.constant("log_variance_drift", &[1], 0.0)),
                    Variance::PerColumn => Some(builder.constant("log_variance_drift", &[width], 0.0)),
                },
            }),
        }
    }

    /// -log p(x given h) of each row; `output` is the decoder's, `[..., width]`, and `x` is `[rows, width]`.
    pub fn negative_log(&self, output: &Tensor, x: &Tensor) -> Tensor {
        match self {
            Self::Gaussian { drift: None } => sum_columns(&(((x - output).square() + LN_2_PI) * 0.5)),
            Self::Gaussian { drift: Some(drift) } => {
                let log_variance: Tensor = drift * UNIT + START;
                let log_variance = log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE);
                sum_columns(&(((x - output).square() * (-&log_variance).exp() + log_variance + LN_2_PI) * 0.5))
            }
            // H(x; p) = softplus(logit) - x * logit, which never takes the logarithm of a rounded probability.
            Self::Bernoulli => sum_columns(&(output.softplus() - x * output)),
        }
    }

    /// The mean of p(x given h), in scaled units.
    pub fn mean(&self, output: &Tensor) -> Tensor {
        match self {
            Self::Gaussian { .. } => output.shallow_clone(),
            Self::Bernoulli => output.sigmoid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;
    use tch::Device;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([1, -1])
    }

    fn built(kind: LikelihoodKind, variance: Variance) -> Likelihood {
        Likelihood::build(&LikelihoodSpec { kind, variance }, 2, &mut Builder::new(0, Device::Cpu))
    }

    #[test]
    fn gaussian_is_half_the_squared_error_and_its_constant() {
        let fixed = built(LikelihoodKind::Gaussian, Variance::Fixed);
        let loss = values(&fixed.negative_log(&row(&[1.0, 2.0]), &row(&[0.0, 4.0])));
        assert!((f64::from(loss[0]) - (0.5 * (1.0 + 4.0) + LN_2_PI)).abs() < 1e-6);
    }

    #[test]
    fn a_learned_variance_enters_the_density() {
        let drift = [0.25_f64, 4.0].map(|variance| ((variance.ln() - START) / UNIT) as f32);
        let likelihood = Likelihood::Gaussian { drift: Some(Tensor::from_slice(&drift)) };
        let loss = values(&likelihood.negative_log(&row(&[1.0, 2.0]), &row(&[0.0, 4.0])));
        // (1/0.25 + 4/4 + ln 0.25 + ln 4)/2 + ln 2π: the two logarithms cancel.
        assert!((f64::from(loss[0]) - (2.5 + LN_2_PI)).abs() < 1e-6, "{loss:?}");
    }

    #[test]
    fn bernoulli_is_the_cross_entropy_even_far_out() {
        let loss =
            |logit: f32, x: f32| f64::from(values(&Likelihood::Bernoulli.negative_log(&row(&[logit]), &row(&[x])))[0]);
        let p = 1.0 / (1.0 + (-0.7_f64).exp());
        for x in [0.0, 0.3, 1.0] {
            let expected = -(x * p.ln() + (1.0 - x) * (1.0 - p).ln());
            assert!((loss(0.7, x as f32) - expected).abs() < 1e-6);
        }
        assert!((loss(200.0, 0.0) - 200.0).abs() < 1e-4);
        assert!(loss(-200.0, 0.0).abs() < 1e-6);
    }

    #[test]
    fn a_name_or_an_object_may_be_written() {
        let read = |text: &str| serde_json::from_str::<LikelihoodSpec>(text);
        assert_eq!(read(r#""bernoulli""#).unwrap().kind, LikelihoodKind::Bernoulli);
        let spec = read(r#"{"kind": "gaussian", "variance": "per_column"}"#).unwrap();
        assert_eq!(spec, LikelihoodSpec { kind: LikelihoodKind::Gaussian, variance: Variance::PerColumn });
        assert_eq!(read(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        assert!(read(r#""laplace""#).unwrap_err().to_string().contains("gaussian"));
        assert!(read(r#"{"sigma": 1}"#).is_err());
        assert!(read("3").is_err());
    }
}
