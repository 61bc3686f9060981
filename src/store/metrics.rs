//! The table of metrics: one row a number.

use std::collections::{BTreeSet, HashSet};

use sqlx::{QueryBuilder, SqliteConnection};

use super::jobs::EpochRecord;
use super::{Store, StoreError};
use crate::domain::id::JobId;
use crate::domain::metric::Metric;

/// Numbers of one statement. SQLite binds some 32,000 values at most, and there are four in a row.
const AT_ONCE: usize = 1_000;

/// One curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Such as `validation/loss`.
    pub name: String,
    /// Epochs, from 1.
    pub steps: Vec<i64>,
    /// The number at each.
    pub values: Vec<f64>,
}

/// Records the numbers of epochs within the caller's transaction; says of each epoch whether its numbers are new.
pub(super) async fn upsert(
    tx: &mut SqliteConnection,
    job: JobId,
    epochs: &[EpochRecord],
) -> Result<Vec<bool>, StoreError> {
    let id = job.to_string();
    // Epochs of a layer that is trained by itself have other names than those of all.
    let mut known = HashSet::new();
    let names: BTreeSet<&str> =
        epochs.iter().filter_map(|record| Some(record.metrics.first()?.name.as_str())).collect();
    let first = epochs.iter().map(|record| record.epoch).min().unwrap_or(0);
    for name in names {
        let steps: Vec<i64> =
            sqlx::query_scalar("SELECT step FROM metrics WHERE job_id = ? AND name = ? AND step >= ?")
                .bind(&id)
                .bind(name)
                .bind(i64::from(first))
                .fetch_all(&mut *tx)
                .await?;
        known.extend(steps);
    }
    let rows: Vec<(i64, &Metric)> = epochs
        .iter()
        .flat_map(|record| record.metrics.iter().map(move |metric| (i64::from(record.epoch), metric)))
        .collect();
    for rows in rows.chunks(AT_ONCE) {
        let mut insert = QueryBuilder::new("INSERT INTO metrics (job_id, name, step, value) ");
        insert.push_values(rows, |mut row, (step, metric)| {
            row.push_bind(&id).push_bind(&metric.name).push_bind(*step).push_bind(metric.value);
        });
        insert.push(" ON CONFLICT (job_id, name, step) DO UPDATE SET value = excluded.value");
        insert.build().execute(&mut *tx).await?;
    }
    Ok(epochs.iter().map(|record| !known.contains(&i64::from(record.epoch))).collect())
}

impl Store {
    /// The curves of a job, each of at most `most` points: evenly spaced ones, the first and the last among them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn series(&self, job: JobId, most: u32) -> Result<Vec<Series>, StoreError> {
        let rows: Vec<(String, i64, f64)> =
            sqlx::query_as("SELECT name, step, value FROM metrics WHERE job_id = ? ORDER BY name, step")
                .bind(job.to_string())
                .fetch_all(&self.readers)
                .await?;
        let mut all: Vec<Series> = Vec::new();
        for (name, step, value) in rows {
            if all.last().is_none_or(|series| series.name != name) {
                all.push(Series { name, ..Series::default() });
            }
            let series = all.last_mut().expect("one was pushed");
            series.steps.push(step);
            series.values.push(value);
        }
        Ok(all.into_iter().map(|series| thin(series, most as usize)).collect())
    }
}

fn thin(series: Series, most: usize) -> Series {
    let count = series.steps.len();
    if count <= most || most < 2 {
        let from = if most < 2 { count.saturating_sub(most.max(1)) } else { 0 };
        return Series { steps: series.steps[from..].to_vec(), values: series.values[from..].to_vec(), ..series };
    }
    let picked = (0..most).map(|point| point * (count - 1) / (most - 1));
    Series {
        steps: picked.clone().map(|at| series.steps[at]).collect(),
        values: picked.map(|at| series.values[at]).collect(),
        ..series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinned_curves_keep_both_ends() {
        let series =
            Series { name: "a".into(), steps: (1..=100).collect(), values: (1..=100).map(f64::from).collect() };
        let thinned = thin(series.clone(), 7);
        assert_eq!((thinned.steps.len(), thinned.steps[0], thinned.steps[6]), (7, 1, 100));
        assert!(thinned.steps.iter().zip(&thinned.values).all(|(step, value)| *step as f64 == *value));
        assert_eq!(thin(series.clone(), 100), series);
        assert_eq!(thin(series, 1).steps, [100]);
    }
}
