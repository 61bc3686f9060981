//! What a decoder's output means: the density p(x given h) of a row.
//!
//! A decoder gives one number for each number of a prepared row. `gaussian` takes it for the mean, `bernoulli` for a logit,
//! `poisson` for the logarithm of a rate, and so on; `densities` has the formulas. Negative log-likelihoods are in nats per
//! row, with every constant, so that families can be compared. Columns may each have their own. Of a row with gaps only the
//! values that are there count: what is missing (NaN) has 0 nats and pulls no gradient, which is right where values are missing
//! at random given those that are there (Rubin, 1976).

use std::collections::BTreeMap;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::densities::Density;
use super::fused::Simple;
use super::losses::sum_columns;
use super::noise::Noise;
use super::parameters::Builder;
use crate::domain::treatment::Treatment;

/// The density of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LikelihoodKind {
    /// `bernoulli` for binary columns; in tables, for families with a density, `negative_binomial` for counts of events (not for
    /// whole numbers that vary less), and `log_normal` for skewed positive numbers; else `gaussian`.
    #[default]
    Auto,
    /// Normal around the decoder's output. With a fixed variance of 1 its loss is half the squared error plus a constant.
    Gaussian,
    /// Cross-entropy between the column, from 0 to 1, and the decoder's probability.
    Bernoulli,
    /// One probability a level, for columns of codes such as 0, 1, 2 that have no order.
    Categorical,
    /// Student's t around the decoder's output, with learned degrees of freedom: like gaussian, but at ease with outliers.
    StudentT,
    /// Counts whose variance is their mean.
    Poisson,
    /// Counts whose variance exceeds their mean, by a dispersion learned for each column.
    NegativeBinomial,
    /// Positive numbers whose logarithm is normal.
    LogNormal,
    /// Levels that have an order: a latent number falls between learned thresholds.
    Ordinal,
    /// Whole numbers within bounds, such as the shades of pixels: a logistic distribution cut into bins.
    DiscretizedLogistic,
}

impl LikelihoodKind {
    /// Every density, without `auto`.
    pub const ALL: [Self; 9] = [
        Self::Gaussian,
        Self::Bernoulli,
        Self::Categorical,
        Self::StudentT,
        Self::Poisson,
        Self::NegativeBinomial,
        Self::LogNormal,
        Self::Ordinal,
        Self::DiscretizedLogistic,
    ];

    /// Whether it is held between 0 and 1, so that columns are scaled to that range.
    pub fn is_unit(self) -> bool {
        matches!(self, Self::Bernoulli | Self::DiscretizedLogistic)
    }

    /// Whether it is one of levels.
    pub fn is_class(self) -> bool {
        matches!(self, Self::Categorical | Self::Ordinal)
    }

    /// Whether `variance` applies to it.
    pub fn has_variance(self) -> bool {
        matches!(self, Self::Auto | Self::Gaussian | Self::StudentT | Self::LogNormal | Self::DiscretizedLogistic)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gaussian => "gaussian",
            Self::Bernoulli => "bernoulli",
            Self::Categorical => "categorical",
            Self::StudentT => "student_t",
            Self::Poisson => "poisson",
            Self::NegativeBinomial => "negative_binomial",
            Self::LogNormal => "log_normal",
            Self::Ordinal => "ordinal",
            Self::DiscretizedLogistic => "discretized_logistic",
        }
    }
}

/// The variance of a likelihood that has one, in scaled units; of `student_t` and `discretized_logistic` the squared scale.
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
    /// The density of the columns that `columns` does not name.
    pub kind: LikelihoodKind,
    /// The variance, of densities that have one.
    pub variance: Variance,
    /// How many shades `discretized_logistic` tells apart; those there can be between the extremes of the data when it is
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
    /// Densities of single columns, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, LikelihoodKind>,
}

/// The details of a likelihood.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct LikelihoodDetails {
    /// The density of the columns that `columns` does not name.
    kind: LikelihoodKind,
    /// The variance, of densities that have one.
    variance: Variance,
    /// How many shades `discretized_logistic` tells apart; those there can be between the extremes of the data when it is
    /// left out.
    #[schema(minimum = 2, maximum = 65536)]
    levels: Option<u32>,
    /// Densities of single columns, by name.
    columns: BTreeMap<String, LikelihoodKind>,
}

impl LikelihoodSpec {
    /// The same density for all columns.
    pub fn of(kind: LikelihoodKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// The density of a column.
    pub fn kind_of(&self, column: &str) -> LikelihoodKind {
        self.columns.get(column).copied().unwrap_or(self.kind)
    }

    /// Whether any of `columns` has this density.
    pub fn any(&self, what: impl Fn(LikelihoodKind) -> bool) -> bool {
        what(self.kind) || self.columns.values().copied().any(what)
    }
}

impl<'de> Deserialize<'de> for LikelihoodSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrDetails;

        impl<'de> Visitor<'de> for NameOrDetails {
            type Value = LikelihoodSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let names: Vec<&str> = LikelihoodKind::ALL.iter().map(|kind| kind.as_str()).collect();
                write!(
                    f,
                    "the name of a likelihood (auto, {}) or an object with `kind`, `variance`, `levels` and `columns`",
                    names.join(", ")
                )
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<LikelihoodSpec, E> {
                Ok(LikelihoodSpec::of(LikelihoodKind::deserialize(name.into_deserializer())?))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<LikelihoodSpec, M::Error> {
                let LikelihoodDetails { kind, variance, levels, columns } =
                    Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LikelihoodSpec { kind, variance, levels, columns })
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

/// Frequencies that a decoder starts from are at least this far from 0 and 1.
const LEAST_MEAN: f32 = 1e-3;

/// A column as a model knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Modelled {
    /// Its density; never `auto`.
    pub kind: LikelihoodKind,
    /// What was done to its values.
    pub treatment: Treatment,
    /// The means of its prepared values, one a slot, for a network that is yet to be trained; empty where they are not known.
    pub means: Vec<f32>,
}

impl Modelled {
    /// A column that is left as it is.
    pub fn linear(kind: LikelihoodKind) -> Self {
        Self { kind, treatment: Treatment::Linear { shift: 0.0, scale: 1.0, unit: kind.is_unit() }, means: Vec::new() }
    }

    /// Outputs of a decoder that say no more than the mean of the column, one a slot; 0 where that is not known.
    ///
    /// A decoder that starts there need not learn first which columns are nearly always the same, which takes a logit many
    /// steps.
    fn start(&self) -> Vec<f32> {
        let output = |mean: f32| match self.kind {
            LikelihoodKind::Bernoulli => {
                let mean = mean.clamp(LEAST_MEAN, 1.0 - LEAST_MEAN);
                (mean / (1.0 - mean)).ln()
            }
            LikelihoodKind::Categorical => mean.max(LEAST_MEAN).ln(),
            // Thresholds are learned around 0.
            LikelihoodKind::Ordinal => 0.0,
            _ => mean,
        };
        let known = self.means.iter().copied().map(output);
        known.chain(std::iter::repeat(0.0)).take(self.treatment.slots()).collect()
    }

    /// Outputs of a decoder that say no more than the means of `columns`, `[width]`.
    pub fn starts(columns: &[Self]) -> Vec<f32> {
        columns.iter().flat_map(Self::start).collect()
    }
}

/// A likelihood at work. All tensors of rows and outputs are of prepared rows, `[..., width]`.
pub struct Likelihood {
    /// Columns of one density each.
    groups: Vec<Group>,
    /// Where each number of a prepared row stands in the groups, one after the other; absent when that is its own place.
    order: Option<Tensor>,
    width: i64,
    /// Whether rows may have gaps.
    gaps: bool,
}

struct Group {
    /// The places of its numbers in a prepared row; absent when they are all.
    places: Option<Tensor>,
    density: Density,
}

impl Likelihood {
    /// Makes the likelihood of rows of these columns. `auto` must be resolved; it counts as gaussian with variance 1.
    pub fn build(spec: &LikelihoodSpec, columns: &[Modelled], builder: &mut Builder) -> Self {
        let mut members: BTreeMap<LikelihoodKind, (Vec<&Treatment>, Vec<i64>)> = BTreeMap::new();
        let mut width = 0;
        for Modelled { kind, treatment, .. } in columns {
            let (treatments, places) = members.entry(*kind).or_default();
            let slots = treatment.slots() as i64;
            places.extend(width..width + slots);
            treatments.push(treatment);
            width += slots;
        }
        let alone = members.len() == 1;
        let device = builder.device();
        let mut order = vec![0; width as usize];
        let mut position = 0;
        let groups = members
            .into_iter()
            .map(|(kind, (treatments, places))| {
                for place in &places {
                    order[*place as usize] = position;
                    position += 1;
                }
                let index = || Tensor::from_slice(&places).to_device(device);
                Group { places: (!alone).then(index), density: Density::build(kind, spec, &treatments, builder) }
            })
            .collect();
        let order = (!alone).then(|| Tensor::from_slice(&order).to_device(device));
        Self { groups, order, width, gaps: builder.filling().is_some() }
    }

    /// Numbers of a prepared row.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// The one density of all columns as the loops of `native/` take it, where rows have no gaps.
    pub fn simple(&self) -> Option<Simple> {
        match &self.groups[..] {
            [Group { places: None, density }] if !self.gaps => density.simple(self.width),
            _ => None,
        }
    }

    /// -log p(x given h) of each row; `output` is the decoder's, `[..., rows, width]`, and `x` is `[rows, width]`.
    pub fn negative_log(&self, output: &Tensor, x: &Tensor) -> Tensor {
        if let [Group { places: None, density }] = &self.groups[..]
            && !self.gaps
            && let Some(sums) = density.row_negative_log(output, x)
        {
            return sums;
        }
        let each = |group: &Group| sum_columns(&self.observed(group, output, x));
        let (first, rest) = self.groups.split_first().expect("rows have columns; this is a bug");
        rest.iter().fold(each(first), |sum, group| sum + each(group))
    }

    /// The same for each number of a row, `[..., rows, width]`. A category's nats stand at the level that it is.
    pub fn negative_log_each(&self, output: &Tensor, x: &Tensor) -> Tensor {
        self.gather(|group| self.observed(group, output, x))
    }

    /// -log p of the numbers of a group, 0 where they are missing. A gap has a harmless value before the density sees it: the
    /// gradient of a NaN is NaN, even times 0.
    fn observed(&self, group: &Group, output: &Tensor, x: &Tensor) -> Tensor {
        let (output, x) = (group.pick(output), group.pick(x));
        if !self.gaps {
            return group.density.negative_log(&output, &x);
        }
        let missing = x.isnan();
        group.density.negative_log(&output, &x.masked_fill(&missing, 0.0)).masked_fill(&missing, 0.0)
    }

    /// The mean of p(x given h), as a prepared row: of a category the probabilities.
    pub fn mean(&self, output: &Tensor) -> Tensor {
        self.gather(|group| group.density.mean(&group.pick(output)))
    }

    /// The spread of p(x given h): a standard deviation, in scaled units where a column is scaled and in its own where its
    /// logarithm is; of a category the probabilities again. [`Treatment::restore_spread`] makes it one number a column.
    pub fn spread(&self, output: &Tensor) -> Tensor {
        self.gather(|group| group.density.spread(&group.pick(output)))
    }

    /// The spread of an even mixture of what several outputs say, `[draws, rows, width]` to `[rows, width]`: the mean of their
    /// variances and the variance of their means.
    pub fn spread_over(&self, outputs: &Tensor) -> Tensor {
        self.gather(|group| group.density.spread_over(&group.pick(outputs)))
    }

    /// A draw of p(x given h), as a prepared row.
    pub fn draw(&self, output: &Tensor, noise: &Noise) -> Tensor {
        self.gather(|group| group.density.draw(&group.pick(output), noise))
    }

    fn gather(&self, one: impl Fn(&Group) -> Tensor) -> Tensor {
        let parts: Vec<Tensor> = self.groups.iter().map(one).collect();
        match &self.order {
            None => parts.into_iter().next().expect("rows have columns; this is a bug"),
            Some(order) => Tensor::cat(&parts, -1).index_select(-1, order),
        }
    }
}

impl Group {
    fn pick(&self, rows: &Tensor) -> Tensor {
        match &self.places {
            None => rows.shallow_clone(),
            Some(places) => rows.index_select(-1, places),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;
    use tch::Device;

    #[test]
    fn a_decoder_starts_at_the_means_of_its_columns() {
        let unit = Treatment::Linear { shift: 0.0, scale: 1.0, unit: true };
        let one_hot = Treatment::OneHot { levels: vec![0.0, 1.0, 2.0] };
        let column = |kind, treatment: &Treatment, means: &[f32]| Modelled {
            kind,
            treatment: treatment.clone(),
            means: means.to_vec(),
        };
        let columns = [
            column(LikelihoodKind::Bernoulli, &unit, &[0.2]),
            column(LikelihoodKind::Categorical, &one_hot, &[0.5, 0.3, 0.2]),
            column(LikelihoodKind::Gaussian, &unit, &[0.7]),
            column(LikelihoodKind::Categorical, &one_hot, &[]),
        ];
        let starts = Modelled::starts(&columns);
        assert_eq!(starts.len(), 8);
        let likelihood = Likelihood::build(&LikelihoodSpec::default(), &columns, &mut Builder::new(0, Device::Cpu));
        let told = values(&likelihood.mean(&Tensor::from_slice(&starts).view([1, 8])));
        let expected = [0.2, 0.5, 0.3, 0.2, 0.7, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
        assert!(told.iter().zip(expected).all(|(told, expected)| (told - expected).abs() < 1e-6), "{told:?}");
        let always = column(LikelihoodKind::Bernoulli, &unit, &[1.0]);
        assert!(Modelled::starts(&[always])[0].is_finite());
    }

    #[test]
    fn a_gap_counts_nothing_and_pulls_nothing_whatever_the_density() {
        let log = Treatment::LogCount { shift: 0.3, scale: 0.7 };
        for kind in LikelihoodKind::ALL {
            let treatment = match kind {
                LikelihoodKind::Categorical => Treatment::OneHot { levels: vec![0.0, 1.0, 2.0] },
                LikelihoodKind::Ordinal => Treatment::Rank { levels: vec![0.0, 1.0, 2.0] },
                LikelihoodKind::LogNormal => Treatment::Log { shift: 0.3, scale: 0.7 },
                LikelihoodKind::Poisson | LikelihoodKind::NegativeBinomial => log.clone(),
                _ => Treatment::Linear { shift: 0.0, scale: 1.0, unit: kind.is_unit() },
            };
            let slots = treatment.slots() as i64;
            let columns = vec![Modelled { kind, treatment: treatment.clone(), means: Vec::new() }; 2];
            let spec = LikelihoodSpec { variance: Variance::PerColumn, ..LikelihoodSpec::of(kind) };
            let mut builder = Builder::new(0, Device::Cpu);
            let plain = Likelihood::build(&spec, &columns, &mut builder);
            let mut expecting = Builder::new(0, Device::Cpu);
            expecting.expect_gaps(&vec![0.0; 2 * slots as usize]);
            let likelihood = Likelihood::build(&spec, &columns, &mut expecting);
            let parameters = expecting.finish();
            // Two rows of two columns; the second column of the second row is missing.
            let mut prepared = Vec::new();
            for value in [1.0, 2.0, 0.5, f32::NAN] {
                treatment.prepare(if treatment.is_class() && value == 0.5 { 0.0 } else { value }, &mut prepared);
            }
            let x = Tensor::from_slice(&prepared).view([2, 2 * slots]);
            let gap = x.isnan();
            assert_eq!(gap.sum(tch::Kind::Int64).int64_value(&[]), slots);
            let output = Tensor::arange(4 * slots, (tch::Kind::Float, Device::Cpu)).view([2, 2 * slots]) * 0.1 - 0.2;
            let output = output.set_requires_grad(true);
            let each = likelihood.negative_log_each(&output, &x);
            let known = plain.negative_log_each(&output, &x.nan_to_num(1.0, None, None));
            for ((told, known), missing) in values(&each).iter().zip(values(&known)).zip(values(&gap)) {
                assert_eq!(*told, if missing > 0.0 { 0.0 } else { known }, "{kind:?}");
            }
            let rows = likelihood.negative_log(&output, &x);
            let sums: Vec<f32> = values(&each).chunks(2 * slots as usize).map(|row| row.iter().sum()).collect();
            assert!(values(&rows).iter().zip(&sums).all(|(row, sum)| (row - sum).abs() < 1e-5), "{kind:?}");
            let total = rows.sum(tch::Kind::Float);
            let slopes = values(&Tensor::run_backward(&[&total], &[&output], true, false)[0]);
            for (slope, missing) in slopes.iter().zip(values(&gap)) {
                assert!(slope.is_finite() && (missing == 0.0 || *slope == 0.0), "{kind:?}: {slopes:?}");
            }
            if parameters.count() > 0 {
                let own = values(&parameters.gradient(&total, &parameters.part(&[""; 0])));
                assert!(own.iter().all(|slope| slope.is_finite()), "{kind:?}: {own:?}");
            }
        }
    }

    #[test]
    fn a_name_or_an_object_may_be_written() {
        let read = |text: &str| serde_json::from_str::<LikelihoodSpec>(text);
        assert_eq!(read(r#""bernoulli""#).unwrap().kind, LikelihoodKind::Bernoulli);
        let spec = read(r#"{"kind": "gaussian", "variance": "per_column", "columns": {"a": "poisson"}}"#).unwrap();
        assert_eq!((spec.kind_of("a"), spec.kind_of("b")), (LikelihoodKind::Poisson, LikelihoodKind::Gaussian));
        assert_eq!(read(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        let fault = read(r#""laplace""#).unwrap_err().to_string();
        for kind in LikelihoodKind::ALL {
            assert!(fault.contains(kind.as_str()), "{fault}");
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert!(read(r#"{"sigma": 1}"#).is_err());
        assert!(read("3").is_err());
    }

    #[test]
    fn columns_of_different_densities_keep_their_places() {
        let linear = Treatment::Linear { shift: 0.0, scale: 1.0, unit: false };
        let column = |kind, treatment: &Treatment| Modelled { kind, treatment: treatment.clone(), means: Vec::new() };
        let columns = [
            column(LikelihoodKind::Bernoulli, &linear),
            column(LikelihoodKind::Gaussian, &linear),
            column(LikelihoodKind::Categorical, &Treatment::OneHot { levels: vec![1.0, 2.0, 3.0] }),
            column(LikelihoodKind::Bernoulli, &linear),
        ];
        let spec = LikelihoodSpec::default();
        let likelihood = Likelihood::build(&spec, &columns, &mut Builder::new(0, Device::Cpu));
        assert_eq!(likelihood.width(), 6);
        let output = Tensor::from_slice(&[0.3_f32, -1.0, 0.5, 0.1, -0.2, 2.0]).view([1, 6]);
        let x = Tensor::from_slice(&[1.0_f32, 0.5, 0.0, 1.0, 0.0, 0.0]).view([1, 6]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let total: f64 = [0.5, 0.1, -0.2].iter().map(|x: &f64| x.exp()).sum();
        let expected = [
            -sigmoid(0.3).ln(),
            0.5 * 2.25 + 0.5 * (2.0 * std::f64::consts::PI).ln(),
            0.0,
            -(0.1_f64.exp() / total).ln(),
            0.0,
            -(1.0 - sigmoid(2.0)).ln(),
        ];
        let each = values(&likelihood.negative_log_each(&output, &x));
        for (found, expected) in each.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{each:?}");
        }
        let whole = values(&likelihood.negative_log(&output, &x))[0];
        assert!((f64::from(whole) - expected.iter().sum::<f64>()).abs() < 1e-5);
        let mean = values(&likelihood.mean(&output));
        assert!((mean[1] + 1.0).abs() < 1e-6 && (mean[2..5].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
