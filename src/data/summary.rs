//! A closer look at a dataset: distributions, correlations, and what is worth a warning.
//!
//! Figures that need every row were counted when the rows were written ([`super::dataset::Profile`]). The rest is taken from rows
//! spread evenly over the file, as many as `LOOKED_AT` allows, so that a file of any size is answered in a moment. Start
//! reading with [`summarize`].

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};

use serde::Serialize;
use utoipa::ToSchema;

use super::dataset::{Column, Kind, Role, Schema};
use super::quantiles::quantile;
use super::rows::RowFile;

/// Values that are looked at, at most.
const LOOKED_AT: usize = 20_000_000;
/// Rows that are, whatever their width.
const ROWS: usize = 100_000;
/// Bars of a histogram.
const BINS: usize = 20;
/// Columns up to which all correlations are worked out.
const CORRELATED: usize = 128;
/// Correlations that are told of one column.
const STRONGEST: usize = 5;
/// Numbers that people write for a missing value.
const MARKERS: [f32; 10] = [-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99_999.0, -99_999.0];

/// A dataset, looked at closely.
#[derive(Debug, Serialize, ToSchema)]
pub struct Summary {
    /// Rows of the dataset.
    pub rows: u64,
    /// Rows that quantiles, histograms, correlations and duplicates were taken from, spread evenly.
    pub looked_at: u64,
    /// Rows among those that are the same as an earlier one.
    pub duplicates: u64,
    /// What is kept, column by column.
    pub columns: Vec<ColumnSummary>,
    /// What may need a second thought, in plain words.
    pub warnings: Vec<Warning>,
}

/// One column, looked at closely.
#[derive(Debug, Serialize, ToSchema)]
pub struct ColumnSummary {
    /// Its name.
    pub name: String,
    /// Share of the rows that have no value here.
    pub missing_share: f64,
    /// How often each range of numbers occurs; absent for categories and where no row has a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
    /// How often each level of a category occurs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<LevelCount>,
    /// Values below which 1, 5, 25, 50, 75, 95 and 99 % of the others are; absent for categories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantiles: Option<Quantiles>,
    /// The columns of numbers that go with it most, by Pearson's correlation over the rows where both have a value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub correlations: Vec<Correlation>,
}

/// Counts over bins of one width.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Histogram {
    /// Where the first bin begins.
    pub low: f64,
    /// Where the last bin ends; a value at the end belongs to it.
    pub high: f64,
    /// Rows in each bin.
    pub counts: Vec<u64>,
}

/// How often a level occurs.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct LevelCount {
    /// Its text or number.
    pub level: String,
    /// Rows.
    pub count: u64,
}

/// Quantiles of a column, interpolated between values.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "the names are the shares in percent")]
pub struct Quantiles {
    pub p01: f32,
    pub p05: f32,
    pub p25: f32,
    pub p50: f32,
    pub p75: f32,
    pub p95: f32,
    pub p99: f32,
}

/// How much two columns go together.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Correlation {
    /// The other column.
    pub column: String,
    /// From -1 to 1.
    pub r: f64,
}

/// Something worth a second thought.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Warning {
    /// What it is, in one word for programs.
    pub code: &'static str,
    /// The column it is about; absent when it is about the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What was seen and what could be done.
    pub detail: String,
}

/// Looks at the rows of a dataset.
pub fn summarize(file: &RowFile, schema: &Schema) -> Summary {
    let kept: Vec<&Column> = schema.kept().collect();
    let count = file.len().min(ROWS).min(LOOKED_AT / kept.len().max(1)).max(1);
    let rows = spread(file.len(), count);
    let duplicates = duplicates(file, &rows);
    let mut columns = Vec::with_capacity(kept.len());
    let mut warnings = Vec::new();
    let mut values = Vec::with_capacity(count);
    for (position, column) in kept.iter().enumerate() {
        values.clear();
        values.extend(rows.iter().map(|row| file.row(*row)[position]).filter(|value| !value.is_nan()));
        values.sort_unstable_by(f32::total_cmp);
        // Pixels are one quantity: what is odd about one of them is no news.
        if schema.image.is_none() {
            warn_of_column(column, &values, file.len() as u64, &mut warnings);
        }
        columns.push(summary_of(column, &values, file.len() as u64));
    }
    correlate(file, &rows, &kept, &mut columns);
    warn_of_rows(schema, &columns, duplicates, count as u64, &mut warnings);
    Summary { rows: file.len() as u64, looked_at: count as u64, duplicates, columns, warnings }
}

/// `count` of `rows` rows, in runs of neighbours that are spread evenly: a run lies in few pages of the file.
fn spread(rows: usize, count: usize) -> Vec<usize> {
    const RUN: usize = 1000;
    if count >= rows {
        return (0..rows).collect();
    }
    let runs = count.div_ceil(RUN);
    let starts = (0..runs).map(|run| (run as u128 * rows as u128 / runs as u128) as usize);
    starts.flat_map(|start| start..(start + RUN).min(rows)).take(count).collect()
}

/// Whether it is told by its levels rather than by a range.
fn is_class(column: &Column) -> bool {
    column.kind.is_class() || column.kind == Kind::Binary
}

fn summary_of(column: &Column, sorted: &[f32], rows: u64) -> ColumnSummary {
    let missing = column.profile.as_ref().map_or(0, |profile| profile.missing);
    let class = is_class(column);
    ColumnSummary {
        name: column.name.clone(),
        missing_share: missing as f64 / rows.max(1) as f64,
        histogram: (!class).then(|| histogram(sorted)).flatten(),
        levels: if class { levels(column, sorted) } else { Vec::new() },
        quantiles: (!class).then(|| quantiles(sorted)).flatten(),
        correlations: Vec::new(),
    }
}

fn histogram(sorted: &[f32]) -> Option<Histogram> {
    let (low, high) = (f64::from(*sorted.first()?), f64::from(*sorted.last()?));
    let bins = if high > low { BINS } else { 1 };
    let mut counts = vec![0; bins];
    for value in sorted {
        let at = if bins == 1 { 0.0 } else { (f64::from(*value) - low) / (high - low) * bins as f64 };
        counts[(at as usize).min(bins - 1)] += 1;
    }
    Some(Histogram { low, high, counts })
}

fn levels(column: &Column, sorted: &[f32]) -> Vec<LevelCount> {
    let counted =
        |value: f32| sorted.partition_point(|other| *other <= value) - sorted.partition_point(|other| *other < value);
    if !column.levels.is_empty() {
        let each = column.levels.iter().enumerate();
        return each
            .map(|(level, text)| LevelCount { level: text.clone(), count: counted(level as f32) as u64 })
            .collect();
    }
    let mut counts: Vec<LevelCount> = Vec::new();
    let mut rest = sorted;
    while let Some(value) = rest.first() {
        let count = counted(*value);
        counts.push(LevelCount { level: value.to_string(), count: count as u64 });
        rest = &rest[count.max(1)..];
    }
    counts
}

fn quantiles(sorted: &[f32]) -> Option<Quantiles> {
    if sorted.is_empty() {
        return None;
    }
    let at = |share: f64| quantile(sorted, share) as f32;
    Some(Quantiles {
        p01: at(0.01),
        p05: at(0.05),
        p25: at(0.25),
        p50: at(0.5),
        p75: at(0.75),
        p95: at(0.95),
        p99: at(0.99),
    })
}

/// Fills in the strongest correlations of each column of numbers.
fn correlate(file: &RowFile, rows: &[usize], kept: &[&Column], columns: &mut [ColumnSummary]) {
    let numbers: Vec<usize> = (0..kept.len())
        .filter(|position| kept[*position].levels.is_empty() && kept[*position].role != Role::Id)
        .collect();
    if !(2..=CORRELATED).contains(&numbers.len()) {
        return;
    }
    // Values around their means and by their deviations, so that sums stay small.
    let centered: Vec<Vec<f32>> = (numbers.iter())
        .map(|position| {
            let profile = kept[*position].profile.as_ref();
            let mean = profile.and_then(|profile| profile.mean).unwrap_or(0.0);
            let scale = profile.and_then(|profile| profile.deviation).filter(|scale| *scale > 0.0).unwrap_or(1.0);
            rows.iter().map(|row| ((f64::from(file.row(*row)[*position]) - mean) / scale) as f32).collect()
        })
        .collect();
    for first in 0..numbers.len() {
        let mut found: Vec<Correlation> = (0..numbers.len())
            .filter(|second| *second != first)
            .filter_map(|second| {
                let r = pearson(&centered[first], &centered[second])?;
                Some(Correlation { column: kept[numbers[second]].name.clone(), r })
            })
            .collect();
        found.sort_by(|a, b| b.r.abs().total_cmp(&a.r.abs()));
        found.truncate(STRONGEST);
        columns[numbers[first]].correlations = found;
    }
}

/// Pearson's correlation over the pairs that have both values; `None` where one side does not vary.
fn pearson(a: &[f32], b: &[f32]) -> Option<f64> {
    let (mut n, mut sums, mut squares, mut product) = (0.0, [0.0; 2], [0.0; 2], 0.0);
    for (a, b) in a.iter().zip(b).filter(|(a, b)| !a.is_nan() && !b.is_nan()) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        n += 1.0;
        sums = [sums[0] + a, sums[1] + b];
        squares = [squares[0] + a * a, squares[1] + b * b];
        product += a * b;
    }
    let varies = |side: usize| squares[side] - sums[side] * sums[side] / n;
    let scale = (varies(0) * varies(1)).sqrt();
    (n > 2.0 && scale > 1e-9).then(|| ((product - sums[0] * sums[1] / n) / scale).clamp(-1.0, 1.0))
}

fn duplicates(file: &RowFile, rows: &[usize]) -> u64 {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut seen: HashMap<u64, usize> = HashMap::with_capacity(rows.len());
    let bits = |row: usize| file.row(row).iter().map(|value| value.to_bits());
    let mut count = 0;
    for row in rows {
        let mut state = hasher.build_hasher();
        bits(*row).for_each(|value| value.hash(&mut state));
        match seen.entry(state.finish()) {
            std::collections::hash_map::Entry::Occupied(other) => count += u64::from(bits(*other.get()).eq(bits(*row))),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(*row);
            }
        }
    }
    count
}

fn warn_of_column(column: &Column, sorted: &[f32], rows: u64, warnings: &mut Vec<Warning>) {
    let Some(profile) = &column.profile else { return };
    let mut warn = |code: &'static str, detail: String| {
        warnings.push(Warning { code, column: Some(column.name.clone()), detail });
    };
    if column.role == Role::Id || column.role == Role::Ignore {
        return;
    }
    if profile.missing == rows {
        return warn("empty", "No row has a value here; ignore the column.".to_owned());
    }
    if profile.distinct == 1 {
        return warn("constant", "Every row has the same value here, so a model learns nothing from it.".to_owned());
    }
    let share = profile.missing as f64 / rows as f64;
    if share > 0.5 {
        warn("mostly_missing", format!("{:.0} % of the rows have no value here.", share * 100.0));
    }
    if profile.whole && profile.distinct == rows && column.levels.is_empty() && rows >= 10 {
        warn(
            "id_like",
            "Every row has another whole number here: if it only says which row this is, give it the role id."
                .to_owned(),
        );
    }
    if let Some((marker, count)) = marker(column, sorted) {
        warn(
            "missing_marker",
            format!(
                "{marker} occurs {count} times, far from all other values: if it stands for a missing value, upload again with missing={marker}."
            ),
        );
    }
}

/// A value at an end of the column that looks like it stands for a missing one.
fn marker(column: &Column, sorted: &[f32]) -> Option<(f32, usize)> {
    if is_class(column) {
        return None;
    }
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    [first, last].into_iter().filter(|end| MARKERS.contains(end)).find_map(|end| {
        let others: Vec<f32> = sorted.iter().copied().filter(|value| *value != end).collect();
        let count = sorted.len() - others.len();
        let (low, high) = (*others.first()?, *others.last()?);
        let gap = if end < low { low - end } else { end - high };
        // A gap as wide as all other values together, or a lone -1 under values that are never negative.
        let lone = end == -1.0 && low >= 0.0 && high > 10.0;
        (count >= 2 && gap > 0.0 && (gap > high - low || lone)).then_some((end, count))
    })
}

fn warn_of_rows(
    schema: &Schema,
    columns: &[ColumnSummary],
    duplicates: u64,
    looked_at: u64,
    warnings: &mut Vec<Warning>,
) {
    if duplicates * 100 > looked_at {
        let detail = format!(
            "{duplicates} of {looked_at} rows are the same as an earlier one; such rows may be both trained on and tested with."
        );
        warnings.push(Warning { code: "duplicate_rows", column: None, detail });
    }
    for column in schema.columns.iter().filter(|column| column.kind == Kind::Text) {
        let reason = column.reason.as_deref().unwrap_or("free text");
        let detail = format!("The column is not used: {reason}.");
        warnings.push(Warning { code: "free_text", column: Some(column.name.clone()), detail });
    }
    for (column, summary) in schema.kept().zip(columns) {
        let (total, largest) = summary
            .levels
            .iter()
            .fold((0, 0), |(total, largest), level| (total + level.count, level.count.max(largest)));
        let smallest =
            summary.levels.iter().filter(|level| level.count > 0).map(|level| level.count).min().unwrap_or(0);
        if column.role == Role::Label && summary.levels.len() > 1 && smallest * 20 < largest {
            let detail = format!(
                "The largest class has {largest} of {total} rows and the smallest {smallest}; split with `stratify`, and look at each class."
            );
            warnings.push(Warning { code: "imbalanced", column: Some(column.name.clone()), detail });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IngestSpec, ingest};

    fn summary(text: &str, spec: &IngestSpec) -> Summary {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        std::fs::write(&source, text).unwrap();
        let ingested = ingest(&source, &target, spec, 1 << 24).unwrap();
        let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).unwrap();
        summarize(&file, &ingested.schema)
    }

    fn table(rows: usize, row: impl Fn(usize) -> String) -> String {
        (0..rows).map(|index| row(index) + "\n").collect()
    }

    #[test]
    fn distributions_are_those_of_the_rows() {
        let text =
            format!("a,b,s\n{}", table(101, |row| format!("{},{},{}", row, 200 - 2 * row, ["x", "y", "x"][row % 3])));
        let spec = IngestSpec { kinds: vec![("a".into(), Kind::Real)], ..IngestSpec::default() };
        let found = summary(&text, &spec);
        let a = &found.columns[0];
        assert_eq!(a.quantiles.as_ref().map(|q| (q.p05, q.p50, q.p99)), Some((5.0, 50.0, 99.0)));
        let histogram = a.histogram.as_ref().unwrap();
        assert_eq!((histogram.low, histogram.high, histogram.counts.iter().sum::<u64>()), (0.0, 100.0, 101));
        assert_eq!((histogram.counts[0], histogram.counts[19]), (5, 6));
        assert_eq!(a.correlations.len(), 1);
        assert!((a.correlations[0].r + 1.0).abs() < 1e-9, "{:?}", a.correlations);
        let levels: Vec<(&str, u64)> =
            found.columns[2].levels.iter().map(|level| (level.level.as_str(), level.count)).collect();
        assert_eq!(levels, [("x", 67), ("y", 34)]);
        assert!(found.columns[2].histogram.is_none());
    }

    #[test]
    fn each_warning_has_its_cause() {
        fn check(text: &str, spec: &IngestSpec, expected: &[(&str, Option<&str>)]) {
            let found = summary(text, spec);
            let codes: Vec<(&str, Option<&str>)> =
                found.warnings.iter().map(|warning| (warning.code, warning.column.as_deref())).collect();
            assert_eq!(codes, expected, "{:?}", found.warnings);
        }
        let plain = IngestSpec::default();
        let x = |row: usize| (row * 7 % 50) as f64 + 0.5;
        check(&format!("x,c\n{}", table(50, |row| format!("{},4.5", x(row)))), &plain, &[("constant", Some("c"))]);
        let sparse = format!(
            "x,m\n{}",
            table(50, |row| format!("{},{}", x(row), if row < 20 { row.to_string() } else { String::new() }))
        );
        check(&sparse, &plain, &[("mostly_missing", Some("m"))]);
        let marked =
            format!("x,m\n{}", table(50, |row| format!("{},{}", x(row), if row % 9 == 0 { -999.0 } else { x(row) })));
        check(&marked, &plain, &[("missing_marker", Some("m"))]);
        check(
            &format!("x,y\n{}", table(50, |row| format!("{},{}.5", row % 10, row % 5))),
            &plain,
            &[("duplicate_rows", None)],
        );
        let text = format!("x,y,who\n{}", table(50, |row| format!("{},{},n{row}", x(row), x(row) * 1.7)));
        check(&text, &plain, &[("free_text", Some("who"))]);
        let rare = format!(
            "x,y,k\n{}",
            table(90, |row| format!("{},{},{}", row as f64 / 3.0, x(row), if row == 7 { "rare" } else { "often" }))
        );
        check(&rare, &IngestSpec::default().with_role(Role::Label, ["k"]), &[("imbalanced", Some("k"))]);
        let ids = format!("x,y,n\n{}", table(50, |row| format!("{},{},{}", x(row), x(row + 3), row * 31 % 1009)));
        check(&ids, &plain, &[("id_like", Some("n"))]);
    }

    #[test]
    fn rows_are_spread_over_the_file_and_none_comes_twice() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        let rows = spread(1_000_000, 100_000);
        assert_eq!((rows.len(), rows[0], rows[999], rows[1000]), (100_000, 0, 999, 10_000));
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]) && *rows.last().unwrap() < 1_000_000);
    }

    #[test]
    fn columns_that_go_together_are_found_over_the_pairs_there_are() {
        let a = [1.0, 2.0, f32::NAN, 4.0, 5.0];
        let b = [2.0, 4.0, 6.0, f32::NAN, 10.5];
        // Over the pairs (1, 2), (2, 4), (5, 10.5), worked out by hand.
        let r = pearson(&a, &b).unwrap();
        assert!((r - 0.999_878).abs() < 1e-5, "{r}");
        assert_eq!(pearson(&[1.0; 5], &b), None);
    }
}
