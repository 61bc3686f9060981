//! The tables of sweeps: what was asked for, the trials, and what each brought to its rungs.
//!
//! Trials are jobs; what happens to a job of a sweep is told here within the transaction in which it happens (`arrive`,
//! `decide`, `trial_ended`). So the server may be killed at any time: what was decided is done, and what was not follows from
//! what is kept.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{FromRow, Row, SqliteConnection};

use super::jobs::{Asked, Job, NewJob, Trial, end_alone, end_cancelled, enqueue, mark_cancelling, require_room};
use super::life::find;
use super::{Page, Paged, Store, StoreError, events, from_json, gone, now_ms, parse, phases, refused, to_json};
use crate::domain::id::{JobId, ModelId, SweepId};
use crate::domain::job::{JobStatus, Phase, RunOptions, StopReason};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::sweep::{Goal, SweepStatus, TrialCounts};
use crate::training::spec::TrainSpec;
use crate::training::sweeps::SweepSpec;
use crate::training::sweeps::halving::{self, Arrival, Contender, Standing};
use crate::training::sweeps::space::Point;

/// A sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Its id.
    pub id: SweepId,
    /// What was asked for.
    pub spec: SweepSpec,
    /// The epochs after which trials are compared; none without successive halving.
    pub rungs: Vec<u32>,
    /// Where it stands.
    pub status: SweepStatus,
    /// Where its trials stand.
    pub counts: TrialCounts,
    /// When it was asked for.
    pub created_at: i64,
    /// When its first job began.
    pub started_at: Option<i64>,
    /// When its last job ended.
    pub finished_at: Option<i64>,
}

/// A trial of a sweep.
#[derive(Clone, Debug)]
pub struct TrialRow {
    /// Counts from 1.
    pub number: u32,
    /// Its job.
    pub job: JobId,
    /// The values that were set.
    pub chosen: Point,
    /// Where the job stands.
    pub status: JobStatus,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
    /// The metric: of the finished model, else the best of the epochs so far.
    pub value: Option<f64>,
    /// Its model, unless that was deleted.
    pub model: Option<ModelId>,
    /// The rung that it rests at, is on its way to or ended at, from 0.
    pub rung: usize,
    /// Whether it rests there.
    pub is_resting: bool,
    /// Epochs it has recorded.
    pub epochs: u32,
}

/// A new sweep.
#[derive(Clone, Debug)]
pub struct NewSweep {
    /// What was asked for, with what was left out.
    pub spec: SweepSpec,
    /// The epochs after which trials are compared.
    pub rungs: Vec<u32>,
    /// The values of each trial, and its resolved spec.
    pub trials: Vec<(Point, TrainSpec)>,
    /// With as many deaths a job fails.
    pub max_deaths: u32,
    /// Of its jobs.
    pub priority: i32,
    /// What each job may use up, and what stays of it.
    pub options: RunOptions,
    /// The key of the request, when it has one.
    pub idempotency_key: Option<String>,
}

/// Sweeps `s`, of which the caller says which, with where their jobs stand.
fn sweeps(which: &str) -> sqlx::AssertSqlSafe<String> {
    let count = |name: &str, condition: &str| format!("sum({condition}) AS {name}");
    let counts = [
        count("queued", "j.status = 'queued'"),
        count("running", "j.status IN ('running', 'cancelling')"),
        count("paused", "j.status = 'paused'"),
        count("succeeded", "j.status = 'succeeded'"),
        count("failed", "j.status = 'failed'"),
        count("not_promoted", "j.status = 'cancelled' AND j.stop_reason = 'not_promoted'"),
        count("cancelled", "j.status = 'cancelled' AND j.stop_reason <> 'not_promoted'"),
    ];
    sqlx::AssertSqlSafe(format!(
        "SELECT s.*, count(*) AS total, {}, min(j.started_at) AS started_at, max(j.finished_at) AS finished_at
         FROM (SELECT * FROM sweeps {which}) s JOIN trials t ON t.sweep_id = s.id JOIN jobs j ON j.id = t.job_id
         GROUP BY s.id ORDER BY s.id DESC",
        counts.join(", ")
    ))
}

struct SweepRow(Result<Sweep, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for SweepRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let text = |column: &str| row.try_get::<String, _>(column);
        let count = |column: &str| row.try_get::<i64, _>(column).map(|count| count as u64);
        let (id, spec, rungs) = (text("id")?, text("spec")?, text("rungs")?);
        let is_cancelled = row.try_get::<Option<i64>, _>("cancelled_at")?.is_some();
        let counts = TrialCounts {
            total: count("total")?,
            queued: count("queued")?,
            running: count("running")?,
            paused: count("paused")?,
            succeeded: count("succeeded")?,
            failed: count("failed")?,
            not_promoted: count("not_promoted")?,
            cancelled: count("cancelled")?,
        };
        let (created_at, started_at) = (row.try_get("created_at")?, row.try_get("started_at")?);
        let ended_at: Option<i64> = row.try_get("finished_at")?;
        let read = || {
            let status = SweepStatus::of(&counts, is_cancelled);
            Ok(Sweep {
                id: parse(&id)?,
                spec: from_json(&spec)?,
                rungs: from_json(&rungs)?,
                status,
                counts,
                created_at,
                started_at,
                finished_at: ended_at.filter(|_| status.is_terminal()),
            })
        };
        Ok(Self(read()))
    }
}

impl Store {
    /// Puts a sweep and all of its jobs into the queue. With a key that was used before, answers with that sweep.
    ///
    /// # Errors
    /// A dataset is gone, the queue has not so much room, or the key was used for another sweep.
    pub async fn insert_sweep(&self, new: &NewSweep) -> Result<Sweep, StoreError> {
        let mut tx = self.begin().await?;
        let asked = Asked::New { priority: new.priority, options: new.options, register: None };
        if let Some(key) = &new.idempotency_key {
            let known: Option<(String, String, String)> =
                sqlx::query_as("SELECT id, spec, asked FROM sweeps WHERE idempotency_key = ?")
                    .bind(key)
                    .fetch_optional(&mut *tx)
                    .await?;
            if let Some((id, spec, before)) = known {
                if from_json::<SweepSpec>(&spec)? != new.spec || from_json::<Asked>(&before)? != asked {
                    let detail = format!("was used before for another sweep, {id}");
                    return Err(Refusal::at(Code::InvalidRequest, "Idempotency-Key", "conflict", detail).into());
                }
                return self.sweep(parse(&id)?).await;
            }
        }
        require_room(&mut tx, new.trials.len() as u64).await?;
        let id = SweepId::new();
        sqlx::query("INSERT INTO sweeps (id, name, spec, asked, rungs, parallel, idempotency_key, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(id.to_string())
            .bind(&new.spec.name)
            .bind(to_json(&new.spec))
            .bind(to_json(&asked))
            .bind(to_json(&new.rungs))
            .bind(new.spec.parallel)
            .bind(&new.idempotency_key)
            .bind(now_ms())
            .execute(&mut *tx)
            .await?;
        for (number, (chosen, spec)) in (1_i64..).zip(&new.trials) {
            let rest_at = new.rungs.first().map(|epochs| spec.pretraining_epochs() + epochs);
            let (max_deaths, priority, options) = (new.max_deaths, new.priority, new.options);
            let job =
                NewJob { spec: spec.clone(), max_deaths, priority, register: None, options, idempotency_key: None };
            let job = enqueue(&mut tx, &job, &asked).await?;
            sqlx::query("INSERT INTO trials (job_id, sweep_id, number, chosen, rest_at) VALUES (?, ?, ?, ?, ?)")
                .bind(job.to_string())
                .bind(id.to_string())
                .bind(number)
                .bind(to_json(chosen))
                .bind(rest_at)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        self.sweep(id).await
    }

    /// One sweep.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn sweep(&self, id: SweepId) -> Result<Sweep, StoreError> {
        let row: Option<SweepRow> =
            sqlx::query_as(sweeps("WHERE id = ?")).bind(id.to_string()).fetch_optional(&self.readers).await?;
        row.ok_or_else(|| gone("sweep", id))?.0
    }

    /// Sweeps, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sweeps(&self, page: &Page<SweepId>) -> Result<Paged<Sweep>, StoreError> {
        let rows: Vec<SweepRow> = sqlx::query_as(sweeps("WHERE (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"))
            .bind(page.after.map(|id| id.to_string()))
            .bind(i64::from(page.limit) + 1)
            .fetch_all(&self.readers)
            .await?;
        Ok(Paged::from_one_more(rows.into_iter().map(|row| row.0).collect::<Result<_, _>>()?, page.limit))
    }

    /// The trials of a sweep, the best first: those with a model, then those that came further, each by the metric.
    ///
    /// # Errors
    /// The database failed.
    pub async fn trials(&self, sweep: &Sweep) -> Result<Vec<TrialRow>, StoreError> {
        let goal = sweep.spec.goal();
        let rows: Vec<sqlx::sqlite::SqliteRow> = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT t.number, t.job_id, t.chosen, t.rung, t.resting, j.status, j.stop_reason, m.id AS model_id,
                 coalesce(t.value, (SELECT {}(value) FROM metrics WHERE job_id = t.job_id AND name = ?2)) AS value,
                 coalesce((SELECT max(step) FROM metrics WHERE job_id = t.job_id AND name = 'train/loss'), 0) AS epochs
             FROM trials t JOIN jobs j ON j.id = t.job_id LEFT JOIN models m ON m.job_id = j.id AND m.deleted_at IS NULL
             WHERE t.sweep_id = ?1 ORDER BY t.number",
            best(goal)
        )))
        .bind(sweep.id.to_string())
        .bind(sweep.spec.metric())
        .fetch_all(&self.readers)
        .await?;
        let mut trials = rows.iter().map(trial).collect::<Result<Vec<_>, _>>()?;
        trials.sort_by(|one, other| {
            let further = other.model.is_some().cmp(&one.model.is_some()).then(other.rung.cmp(&one.rung));
            let has_both = one.model.is_some() && other.model.is_some();
            // Models are compared by nothing but the metric, however they came to be.
            let by_value = goal.order(one.value, other.value);
            if has_both { by_value } else { further.then(by_value) }
        });
        Ok(trials)
    }

    /// Asks all jobs of a sweep to end. Those that wait end at once; gives those whose trainer is to stop.
    ///
    /// # Errors
    /// There is none of this id, or it has ended.
    pub async fn request_sweep_cancel(&self, id: SweepId) -> Result<Vec<JobId>, StoreError> {
        let sweep = self.sweep(id).await?;
        let mut tx = self.begin().await?;
        let jobs = jobs_of(&mut tx, id).await?;
        let mut running = Vec::new();
        let mut ended = 0;
        // Set first: nothing is promoted while its trials end one by one.
        sqlx::query("UPDATE sweeps SET cancelled_at = coalesce(cancelled_at, ?) WHERE id = ?")
            .bind(now_ms())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        for job in &jobs {
            let job = find(&mut tx, *job).await?;
            match job.status {
                JobStatus::Queued | JobStatus::Paused => end_cancelled(&mut tx, &job).await?,
                JobStatus::Running => {
                    mark_cancelling(&mut tx, &job).await?;
                    running.push(job.id);
                }
                JobStatus::Cancelling => running.push(job.id),
                JobStatus::Succeeded | JobStatus::Failed | JobStatus::Cancelled => ended += 1,
            }
        }
        if ended == jobs.len() {
            // Nothing was changed: the transaction is dropped.
            return Err(refused(
                Code::SweepEnded,
                format!("the sweep {id} has already ended; it has {} trials", sweep.counts.total),
            ));
        }
        tx.commit().await?;
        Ok(running)
    }

    /// The jobs of a sweep.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sweep_jobs(&self, id: SweepId) -> Result<Vec<JobId>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        jobs_of(&mut connection, id).await
    }
}

async fn jobs_of(connection: &mut SqliteConnection, sweep: SweepId) -> Result<Vec<JobId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT job_id FROM trials WHERE sweep_id = ? ORDER BY number")
        .bind(sweep.to_string())
        .fetch_all(connection)
        .await?;
    ids.iter().map(|id| parse(id)).collect()
}

fn trial(row: &sqlx::sqlite::SqliteRow) -> Result<TrialRow, StoreError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let maybe = |column: &str| row.try_get::<Option<String>, _>(column);
    let status = text("status")?;
    Ok(TrialRow {
        number: row.try_get("number")?,
        job: parse(&text("job_id")?)?,
        chosen: from_json(&text("chosen")?)?,
        status: JobStatus::parse(&status).ok_or_else(|| StoreError::Damaged(format!("the status {status}")))?,
        stop_reason: maybe("stop_reason")?.map(|text| from_json(&format!("\"{text}\""))).transpose()?,
        value: row.try_get("value")?,
        model: maybe("model_id")?.as_deref().map(parse).transpose()?,
        rung: row.try_get::<u32, _>("rung")? as usize,
        is_resting: row.try_get("resting")?,
        epochs: row.try_get("epochs")?,
    })
}

/// The aggregate that picks the best.
fn best(goal: Goal) -> &'static str {
    match goal {
        Goal::Minimize => "min",
        Goal::Maximize => "max",
    }
}

async fn spec_of(tx: &mut SqliteConnection, sweep: SweepId) -> Result<(SweepSpec, Vec<u32>, bool), StoreError> {
    let (spec, rungs, cancelled_at): (String, String, Option<i64>) =
        sqlx::query_as("SELECT spec, rungs, cancelled_at FROM sweeps WHERE id = ?")
            .bind(sweep.to_string())
            .fetch_one(tx)
            .await?;
    Ok((from_json(&spec)?, from_json(&rungs)?, cancelled_at.is_some()))
}

/// Takes note that a trial recorded epochs up to `epoch`: when it came to its rung it rests there, and brings the best that the metric
/// has been, because the best epoch is the one whose weights are kept. Its trainer stops by itself.
pub(super) async fn arrive(tx: &mut SqliteConnection, job: JobId, trial: &Trial, epoch: u32) -> Result<(), StoreError> {
    let Some(rest_at) = trial.rest_at.filter(|rest_at| epoch >= *rest_at && !trial.is_resting) else { return Ok(()) };
    let (spec, ..) = spec_of(tx, trial.sweep).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO arrivals (job_id, rung, value) SELECT ?1, (SELECT rung FROM trials WHERE job_id = ?1), {}(value)
             FROM metrics WHERE job_id = ?1 AND name = ?2 AND step <= ?3
         ON CONFLICT (job_id, rung) DO UPDATE SET value = excluded.value",
        best(spec.goal())
    )))
    .bind(job.to_string())
    .bind(spec.metric())
    .bind(rest_at)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE trials SET resting = 1 WHERE job_id = ?").bind(job.to_string()).execute(tx).await?;
    Ok(())
}

/// Takes note that a trial has ended. One that has a model before it came to the last rung stands in all that were left with it.
pub(super) async fn trial_ended(
    tx: &mut SqliteConnection,
    job: JobId,
    sweep: SweepId,
    figures: Option<&BTreeMap<String, f64>>,
) -> Result<(), StoreError> {
    let (spec, rungs, _) = spec_of(tx, sweep).await?;
    if let Some(figures) = figures {
        let value: Option<f64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "UPDATE trials SET value = coalesce(?1, (SELECT {}(value) FROM metrics WHERE job_id = ?2 AND name = ?3))
             WHERE job_id = ?2 RETURNING value",
            best(spec.goal())
        )))
        .bind(figures.get(spec.metric()).copied())
        .bind(job.to_string())
        .bind(spec.metric())
        .fetch_one(&mut *tx)
        .await?;
        for rung in 0..rungs.len() as i64 {
            sqlx::query(
                "INSERT INTO arrivals (job_id, rung, value) VALUES (?, ?, ?) ON CONFLICT (job_id, rung) DO NOTHING",
            )
            .bind(job.to_string())
            .bind(rung)
            .bind(value)
            .execute(&mut *tx)
            .await?;
        }
    }
    decide(tx, sweep).await
}

/// Sends those on that rest and are among the best, and ends those that cannot be among them any more.
pub(super) async fn decide(tx: &mut SqliteConnection, sweep: SweepId) -> Result<(), StoreError> {
    let (spec, rungs, is_cancelled) = spec_of(tx, sweep).await?;
    if rungs.is_empty() || is_cancelled {
        return Ok(());
    }
    let rows: Vec<(u32, String, u32, bool, String)> = sqlx::query_as(
        "SELECT t.number, t.job_id, t.rung, t.resting, j.status FROM trials t JOIN jobs j ON j.id = t.job_id WHERE t.sweep_id = ?",
    )
    .bind(sweep.to_string())
    .fetch_all(&mut *tx)
    .await?;
    let arrivals: Vec<(u32, u32, Option<f64>)> = sqlx::query_as(
        "SELECT t.number, a.rung, a.value FROM trials t JOIN arrivals a ON a.job_id = t.job_id WHERE t.sweep_id = ?",
    )
    .bind(sweep.to_string())
    .fetch_all(&mut *tx)
    .await?;
    let contender = |(number, _, rung, resting, status): &(u32, String, u32, bool, String)| {
        let standing = match JobStatus::parse(status) {
            Some(JobStatus::Succeeded) => Standing::Finished,
            Some(JobStatus::Failed | JobStatus::Cancelled) => Standing::Lost,
            // One whose trainer has not ended yet may still be cancelled or succeed.
            Some(JobStatus::Paused) if *resting => Standing::Resting,
            _ => Standing::Active,
        };
        Contender { number: *number, rung: *rung as usize, standing }
    };
    let contenders: Vec<Contender> = rows.iter().map(contender).collect();
    let arrivals: Vec<Arrival> =
        arrivals.into_iter().map(|(number, rung, value)| Arrival { number, rung: rung as usize, value }).collect();
    let decision = halving::decide(rungs.len(), spec.search.reduction(), spec.goal(), &contenders, &arrivals);
    for (number, job, rung, ..) in rows {
        if decision.promoted.contains(&number) {
            promote(tx, parse(&job)?, rung as usize, &rungs).await?;
        } else if decision.dropped.contains(&number) {
            drop_trial(tx, parse(&job)?).await?;
        }
    }
    Ok(())
}

async fn promote(tx: &mut SqliteConnection, job: JobId, rung: usize, rungs: &[u32]) -> Result<(), StoreError> {
    // Epochs of pre-training are not counted in rungs, and may differ from trial to trial.
    let further = rungs.get(rung + 1).map(|epochs| epochs - rungs[rung]);
    let next: Option<i64> = sqlx::query_scalar(
        "UPDATE trials SET rung = rung + 1, resting = 0, rest_at = rest_at + ? WHERE job_id = ? RETURNING rest_at",
    )
    .bind(further)
    .bind(job.to_string())
    .fetch_one(&mut *tx)
    .await?;
    let (attempt, is_paused): (i64, bool) = sqlx::query_as(
        "UPDATE jobs SET status = CASE WHEN pausing THEN 'paused' ELSE 'queued' END, pausing = 0 WHERE id = ?
         RETURNING attempt, status = 'paused'",
    )
    .bind(job.to_string())
    .fetch_one(&mut *tx)
    .await?;
    phases::enter(tx, job, attempt, if is_paused { Phase::Paused } else { Phase::Waiting }).await?;
    let goal = next.map_or_else(|| "the end".to_owned(), |epoch| format!("epoch {epoch}"));
    let message = format!("It is among the best of its sweep here, and goes on to {goal}.");
    events::append(tx, job, "promoted", &json!({"message": message, "rest_at": next, "is_paused": is_paused})).await
}

async fn drop_trial(tx: &mut SqliteConnection, job: JobId) -> Result<(), StoreError> {
    let job: Job = find(tx, job).await?;
    end_alone(tx, &job, JobStatus::Cancelled, Some(StopReason::NotPromoted), None, None).await?;
    let after = job.trial.and_then(|trial| trial.rest_at).unwrap_or(0);
    let message = format!("Others of its sweep were better after epoch {after}.");
    let data: Value = json!({"message": message, "stop_reason": StopReason::NotPromoted});
    events::append(tx, job.id, "cancelled", &data).await
}
