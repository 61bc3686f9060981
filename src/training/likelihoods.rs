//! Which density each column has: what a spec may say of it, what the data decide, and what a density needs of a column.

use std::collections::BTreeMap;

use super::spec::TrainSpec;
use crate::data::dataset::{Column, Kind, Schema};
use crate::data::preparation::{ScalingSpec, Wanted};
use crate::domain::limits::LEVELS;
use crate::domain::refusal::Faults;
use crate::domain::treatment::Treatment;
use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled, Variance};

/// Label columns of whole numbers with up to so many values are classes, when the spec leaves that open.
const CLASSES: u64 = 100;

/// Reports what is not allowed, whatever the data.
pub(super) fn check(spec: &LikelihoodSpec, pointer: &str, faults: &mut Faults) {
    if let Some(levels) = spec.levels {
        faults.require_within(&format!("{pointer}/levels"), levels, 2..=65_536);
        if !spec.any(|kind| kind == LikelihoodKind::DiscretizedLogistic) {
            faults.push(format!("{pointer}/levels"), "conflict", "goes with discretized_logistic");
        }
    }
    if spec.variance != Variance::Auto && !spec.any(LikelihoodKind::has_variance) {
        let detail = format!("goes with a likelihood that has one; {} has no variance of its own", spec.kind.as_str());
        faults.push(format!("{pointer}/variance"), "conflict", detail);
    }
    let discretized = spec.any(|kind| kind == LikelihoodKind::DiscretizedLogistic);
    if discretized && spec.variance == Variance::Fixed {
        faults.push(
            format!("{pointer}/variance"),
            "conflict",
            "is fixed, and the scale of discretized_logistic is learned",
        );
    }
}

/// Fills in what is left open.
pub(super) fn settle(spec: &mut TrainSpec, schema: &Schema) {
    let variance = spec.model.variance();
    let has_density = variance != Variance::Fixed;
    let is_image = schema.image.is_some();
    let features: Vec<&Column> = schema.feature_columns().collect();
    let binary = features.iter().all(|column| column.kind == Kind::Binary);
    settle_one(&mut spec.likelihood, &features, variance, |column| {
        let skewed = column.profile.as_ref().is_some_and(
            |profile| matches!((profile.deviation, profile.mean), (Some(deviation), Some(mean)) if deviation > mean),
        );
        match column.kind {
            Kind::Categorical => LikelihoodKind::Categorical,
            Kind::Ordinal => LikelihoodKind::Ordinal,
            _ if is_image && !binary => LikelihoodKind::Gaussian,
            Kind::Binary => LikelihoodKind::Bernoulli,
            Kind::Count if has_density && !is_narrow(column) => LikelihoodKind::NegativeBinomial,
            Kind::Positive if has_density && skewed => LikelihoodKind::LogNormal,
            _ => LikelihoodKind::Gaussian,
        }
    });
    let labels: Vec<&Column> = schema.label_columns().collect();
    if spec.learns_labels(schema) {
        settle_one(&mut spec.target, &labels, Variance::Shared, |column| {
            let few = column.profile.as_ref().is_some_and(|profile| profile.distinct <= CLASSES);
            match column.kind {
                Kind::Categorical => LikelihoodKind::Categorical,
                Kind::Ordinal => LikelihoodKind::Ordinal,
                Kind::Binary | Kind::Count if few => LikelihoodKind::Categorical,
                _ => LikelihoodKind::Gaussian,
            }
        });
    }
}

/// Counts of events vary by about the root of their mean or more; a sample of fifty from a Poisson distribution has a variance
/// above half its mean.
const DISPERSION: f64 = 0.5;

/// Whether whole numbers vary so little that they are no counts of events. A negative binomial is at least as wide as its mean:
/// of a code, such as 1 and 2 for the sexes, or of grades it would explain nothing, and a model would learn nothing of the column.
fn is_narrow(column: &Column) -> bool {
    column.profile.as_ref().is_some_and(|profile| {
        matches!((profile.deviation, profile.mean), (Some(deviation), Some(mean)) if deviation.powi(2) < DISPERSION * mean)
    })
}

fn settle_one(
    spec: &mut LikelihoodSpec,
    columns: &[&Column],
    variance: Variance,
    auto: impl Fn(&Column) -> LikelihoodKind,
) {
    let kinds: Vec<LikelihoodKind> = columns
        .iter()
        .map(|column| match spec.kind_of(&column.name) {
            LikelihoodKind::Auto => auto(column),
            // A density of numbers that was asked for the whole table does not reach columns of texts.
            kind if !column.levels.is_empty() && !spec.columns.contains_key(&column.name) && !kind.is_class() => {
                auto(column)
            }
            kind => kind,
        })
        .collect();
    let mut counts: BTreeMap<LikelihoodKind, usize> = BTreeMap::new();
    for kind in &kinds {
        *counts.entry(*kind).or_default() += 1;
    }
    if spec.kind == LikelihoodKind::Auto {
        spec.kind = counts.iter().max_by_key(|(_, count)| **count).map_or(LikelihoodKind::Gaussian, |(kind, _)| *kind);
    }
    // Names of no column stay, so that they are refused.
    let unknown = |name: &String| !columns.iter().any(|column| column.name == *name);
    let mut named: BTreeMap<String, LikelihoodKind> =
        spec.columns.iter().filter(|(name, _)| unknown(name)).map(|(name, kind)| (name.clone(), *kind)).collect();
    named.extend(
        columns
            .iter()
            .zip(&kinds)
            .filter(|(_, kind)| **kind != spec.kind)
            .map(|(column, kind)| (column.name.clone(), *kind)),
    );
    spec.columns = named;
    if spec.variance == Variance::Auto && spec.any(LikelihoodKind::has_variance) {
        spec.variance = variance;
    }
    if spec.any(|kind| kind == LikelihoodKind::DiscretizedLogistic) {
        if spec.variance == Variance::Fixed {
            spec.variance = Variance::Shared;
        }
        if spec.levels.is_none() {
            let range = columns
                .iter()
                .filter(|column| spec.kind_of(&column.name) == LikelihoodKind::DiscretizedLogistic)
                .filter_map(|column| column.profile.as_ref())
                .map(|profile| (profile.minimum.unwrap_or(0.0), profile.maximum.unwrap_or(0.0)))
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
                .map_or(255.0, |(low, high)| high - low);
            spec.levels = Some((range as u32).saturating_add(1));
        }
    }
}

/// Reports columns that cannot have the density that a settled spec gives them.
pub(super) fn check_columns(spec: &TrainSpec, schema: &Schema, faults: &mut Faults) {
    let features: Vec<&Column> = schema.feature_columns().collect();
    check_kinds(&spec.likelihood, &features, "/likelihood", spec.scaling, faults);
    if spec.learns_labels(schema) {
        let labels: Vec<&Column> = schema.label_columns().collect();
        check_kinds(&spec.target, &labels, "/target", ScalingSpec::Auto, faults);
    }
}

fn check_kinds(spec: &LikelihoodSpec, columns: &[&Column], pointer: &str, scaling: ScalingSpec, faults: &mut Faults) {
    for name in spec.columns.keys().filter(|name| !columns.iter().any(|column| column.name == **name)) {
        let some: Vec<&str> = columns.iter().take(12).map(|column| column.name.as_str()).collect();
        let detail = format!("names no column that is modelled; there are {}", some.join(", "));
        faults.push(format!("{pointer}/columns/{name}"), "unknown_column", detail);
    }
    if let Some(levels) = spec.levels.filter(|levels| !(2..=65_536).contains(levels)) {
        let detail = format!("would be {levels} for these columns; allowed is 2 to 65536, of whole numbers");
        faults.push(format!("{pointer}/levels"), "out_of_range", detail);
    }
    for column in columns {
        let kind = spec.kind_of(&column.name);
        if let Some(need) = unmet(kind, column, scaling) {
            let place = match spec.columns.contains_key(&column.name) {
                true => format!("{pointer}/columns/{}", column.name),
                false => pointer.to_owned(),
            };
            faults.push(
                place,
                "out_of_range",
                format!("is {}, and the column `{}` {need}", kind.as_str(), column.name),
            );
        }
        if faults.is_full() {
            return;
        }
    }
}

/// What a density needs that the column has not.
fn unmet(kind: LikelihoodKind, column: &Column, scaling: ScalingSpec) -> Option<String> {
    let profile = column.profile.as_ref()?;
    let (low, high) = (profile.minimum?, profile.maximum?);
    let whole = matches!(column.kind, Kind::Count | Kind::Binary) || (profile.whole && low >= 0.0);
    match kind {
        _ if !column.levels.is_empty() && !kind.is_class() => {
            Some("holds texts, which are categorical or ordinal".to_owned())
        }
        LikelihoodKind::Bernoulli | LikelihoodKind::DiscretizedLogistic
            if scaling == ScalingSpec::None && (low < 0.0 || high > 1.0) =>
        {
            Some("has values outside 0 to 1; leave `scaling` on auto or minmax".to_owned())
        }
        LikelihoodKind::DiscretizedLogistic if !whole => {
            Some("has values that are no whole numbers from zero up".to_owned())
        }
        LikelihoodKind::Categorical | LikelihoodKind::Ordinal
            if !profile.distinct_is_exact || profile.distinct > LEVELS =>
        {
            Some(format!("has {} or more different values; allowed are up to {LEVELS}", profile.distinct))
        }
        LikelihoodKind::Poisson | LikelihoodKind::NegativeBinomial if !whole => {
            Some("has values that are no counts (whole numbers from zero up)".to_owned())
        }
        LikelihoodKind::LogNormal if low <= 0.0 => Some(format!("has values down to {low}; it needs them above zero")),
        _ => None,
    }
}

/// The treatment that the density of a column asks for.
pub(super) fn wanted(kind: LikelihoodKind) -> Wanted {
    match kind {
        LikelihoodKind::Auto | LikelihoodKind::Gaussian | LikelihoodKind::StudentT => Wanted::Scaled,
        LikelihoodKind::Bernoulli | LikelihoodKind::DiscretizedLogistic => Wanted::Unit,
        LikelihoodKind::Categorical => Wanted::OneHot,
        LikelihoodKind::Ordinal => Wanted::Rank,
        LikelihoodKind::Poisson | LikelihoodKind::NegativeBinomial => Wanted::LogCount,
        LikelihoodKind::LogNormal => Wanted::Log,
    }
}

/// Columns with treatments of the right number of slots, before any is fitted.
pub(super) fn sketched<'a>(spec: &LikelihoodSpec, columns: impl Iterator<Item = &'a Column>) -> Vec<Modelled> {
    columns
        .map(|column| {
            let kind = spec.kind_of(&column.name);
            let distinct = column.profile.as_ref().map_or(1, |profile| profile.distinct).clamp(1, LEVELS);
            let levels = || (0..distinct).map(|level| level as f32).collect();
            let treatment = match wanted(kind) {
                Wanted::OneHot => Treatment::OneHot { levels: levels() },
                Wanted::Rank => Treatment::Rank { levels: levels() },
                Wanted::Log => Treatment::Log { shift: 0.0, scale: 1.0 },
                Wanted::LogCount => Treatment::LogCount { shift: 0.0, scale: 1.0 },
                Wanted::Scaled | Wanted::Unit => Treatment::Linear { shift: 0.0, scale: 1.0, unit: false },
            };
            Modelled { kind, treatment, means: Vec::new() }
        })
        .collect()
}

/// Columns with their fitted treatments.
pub(super) fn modelled<'a>(
    spec: &LikelihoodSpec,
    columns: impl Iterator<Item = &'a Column>,
    treatments: &[Treatment],
) -> Vec<Modelled> {
    columns
        .zip(treatments)
        .map(|(column, treatment)| Modelled {
            kind: spec.kind_of(&column.name),
            treatment: treatment.clone(),
            means: Vec::new(),
        })
        .collect()
}
