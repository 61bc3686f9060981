//! The database keeps its promises: leases fence, transactions are whole, damage is seen.

use std::path::Path;

use latente::data::{IngestSpec, ingest};
use latente::domain::id::UploadId;
use latente::domain::job::{JobStatus, Phase, Retention, RetryFrom, RunOptions, StopReason};
use latente::domain::metric::Metric;
use latente::domain::refusal::{Code, Refusal};
use latente::domain::sweep::SweepStatus;
use latente::models::ModelSpec;
use latente::store::checkpoints::CheckpointRecord;
use latente::store::datasets::Origin;
use latente::store::jobs::{EpochRecord, Gathered, Interruption, JobFilter, Lease, NewJob};
use latente::store::logs::LogLine;
use latente::store::sweeps::NewSweep;
use latente::store::uploads::UploadWriter;
use latente::store::{Page, Store, StoreError};
use latente::training::spec::TrainSpec;

use crate::support::change;

fn gathered(epochs: &[EpochRecord]) -> Gathered {
    Gathered { epochs: epochs.to_vec(), ..Gathered::default() }
}

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
    spec: TrainSpec,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap();
        let scratch = store.scratch().unwrap();
        std::fs::write(scratch.path("upload"), "a,b\n1,2\n3,4\n5,6\n").unwrap();
        let ingested = ingest(&scratch.path("upload"), &scratch.path("rows"), &IngestSpec::default(), 1 << 20).unwrap();
        let dataset = store.insert_dataset("d", &ingested, &scratch.path("rows"), &Origin::default()).await.unwrap();
        let spec = TrainSpec::new(dataset.id, ModelSpec::default_of("vae").unwrap())
            .resolve(&dataset.schema, dataset.rows)
            .unwrap();
        Self { directory, store, spec }
    }

    /// A new job.
    fn asked(&self) -> NewJob {
        NewJob {
            spec: self.spec.clone(),
            max_deaths: 3,
            priority: 0,
            register: None,
            options: RunOptions::default(),
            idempotency_key: None,
        }
    }

    async fn claimed(&self) -> Lease {
        self.claimed_with(RunOptions::default()).await
    }

    async fn claimed_with(&self, options: RunOptions) -> Lease {
        self.store.insert_job(&NewJob { options, ..self.asked() }).await.unwrap();
        self.store.claim_next("w", |_, _| true).await.unwrap().unwrap().1
    }

    async fn status(&self, lease: &Lease) -> JobStatus {
        self.store.job(lease.job).await.unwrap().status
    }

    fn database(&self) -> std::path::PathBuf {
        self.directory.path().join("latente.db")
    }
}

fn epoch(epoch: u32, value: f64) -> EpochRecord {
    EpochRecord { epoch, metrics: vec![Metric { name: "train/loss".into(), value }] }
}

fn checkpoint(epoch: u32, data: &[u8]) -> Option<CheckpointRecord<'_>> {
    Some(CheckpointRecord { epoch, step: 0, best: false, data })
}

async fn query(path: &Path, sql: &'static str) -> i64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_can_write_nothing() {
    let bench = Bench::new().await;
    let old = bench.claimed().await;
    assert_eq!(bench.store.reap(true, &[]).await.unwrap(), [(old.job, JobStatus::Queued)]);
    let (_, new) = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap();
    assert_eq!(new.attempt, old.attempt + 1);
    let store = &bench.store;
    let schema = store.dataset(bench.spec.dataset).await.unwrap().schema;
    let lost = [
        store.heartbeat(&old, None).await.err(),
        store.record(&old, &gathered(&[epoch(1, 1.0)]), checkpoint(1, b"x")).await.err(),
        store.record_event(&old, "warning", &serde_json::json!({})).await.err(),
        store.succeed(&old, StopReason::Completed, &[], &schema, b"model").await.err(),
        store.fail(&old, &Refusal::new(Code::Internal, "x")).await.err(),
        store.interrupt(&old, Interruption::Death, "x").await.err(),
    ];
    for error in lost {
        assert!(matches!(error, Some(StoreError::LeaseLost)), "{error:?}");
    }
    assert_eq!(bench.status(&new).await, JobStatus::Running);
    assert!(store.series(new.job, 10).await.unwrap().is_empty());
    assert_eq!(query(&bench.database(), "SELECT count(*) FROM artifacts").await, 0, "a fenced write left bytes behind");
    store.succeed(&new, StopReason::Completed, &[], &schema, b"model").await.unwrap();
    assert_eq!(bench.status(&new).await, JobStatus::Succeeded);
    assert!(
        matches!(store.fail(&new, &Refusal::new(Code::Internal, "x")).await, Err(StoreError::LeaseLost)),
        "a job ends once"
    );
}

#[tokio::test]
async fn a_living_worker_keeps_its_job_whatever_the_clock_says() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    change(&bench.database(), "UPDATE jobs SET lease_expires_at = 1").await;
    assert_eq!(bench.store.reap(false, &[lease.job]).await.unwrap(), []);
    assert_eq!(bench.store.reap(false, &[]).await.unwrap(), [(lease.job, JobStatus::Queued)]);
}

#[tokio::test]
async fn an_epoch_that_is_trained_again_replaces_its_numbers_and_is_no_second_event() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    bench.store.record(&lease, &gathered(&[epoch(1, 5.0), epoch(2, 4.0)]), None).await.unwrap();
    bench.store.record(&lease, &gathered(&[epoch(2, 3.5), epoch(3, 3.0)]), None).await.unwrap();
    let series = bench.store.series(lease.job, 100).await.unwrap();
    assert_eq!((series[0].steps.clone(), series[0].values.clone()), (vec![1, 2, 3], vec![5.0, 3.5, 3.0]));
    let events = bench.store.events_after(lease.job, 0, 100).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "epoch").count(), 3);
}

#[tokio::test]
async fn the_last_two_checkpoints_are_kept_and_a_damaged_one_falls_back() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    // The last one is larger than one piece.
    let large = vec![3; 3 << 20];
    for (number, data) in [(1, &b"first"[..]), (2, b"second"), (3, &large)] {
        bench.store.record(&lease, &gathered(&[epoch(number, 1.0)]), checkpoint(number, data)).await.unwrap();
    }
    assert_eq!(query(&bench.database(), "SELECT count(*) FROM artifacts").await, 2);
    assert_eq!(bench.store.latest_checkpoint(lease.job).await.unwrap(), (Some(large), 0));
    let damaged = change(&bench.database(), "UPDATE artifact_chunks SET data = x'00' WHERE position = 1").await;
    assert_eq!(damaged, 1);
    assert_eq!(bench.store.latest_checkpoint(lease.job).await.unwrap(), (Some(b"second".to_vec()), 1));
}

#[tokio::test]
async fn three_deaths_without_progress_fail_a_job_and_a_checkpoint_forgives() {
    let bench = Bench::new().await;
    let mut lease = bench.claimed().await;
    for death in 1..=2 {
        assert_eq!(bench.store.interrupt(&lease, Interruption::Death, "Died.").await.unwrap(), JobStatus::Queued);
        lease = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap().1;
        assert_eq!(bench.store.job(lease.job).await.unwrap().deaths, death);
    }
    bench.store.record(&lease, &gathered(&[]), checkpoint(1, b"x")).await.unwrap();
    for _ in 0..2 {
        bench.store.interrupt(&lease, Interruption::Death, "Died.").await.unwrap();
        lease = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap().1;
    }
    // A shutdown of the server is nobody's fault.
    bench.store.interrupt(&lease, Interruption::Shutdown, "Shutting down.").await.unwrap();
    lease = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap().1;
    assert_eq!(bench.store.interrupt(&lease, Interruption::Death, "Died.").await.unwrap(), JobStatus::Failed);
    let job = bench.store.job(lease.job).await.unwrap();
    assert_eq!(job.error.unwrap().code, Code::TrainerDied);
}

#[tokio::test]
async fn an_interrupted_cancel_is_a_cancel() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    assert_eq!(bench.store.request_cancel(lease.job).await.unwrap().status, JobStatus::Cancelling);
    assert_eq!(bench.store.heartbeat(&lease, None).await.unwrap(), JobStatus::Cancelling);
    assert_eq!(bench.store.reap(true, &[]).await.unwrap(), [(lease.job, JobStatus::Cancelled)]);
}

#[tokio::test]
async fn a_server_that_is_killed_while_a_job_pauses_leaves_it_paused_and_a_cancel_overrides_a_pause() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    assert!(bench.store.request_pause(lease.job).await.unwrap().pausing);
    assert_eq!(bench.store.heartbeat(&lease, None).await.unwrap(), JobStatus::Paused);
    // What the next start of the server does.
    assert_eq!(bench.store.reap(true, &[]).await.unwrap(), [(lease.job, JobStatus::Paused)]);
    assert!(bench.store.claim_next("w", |_, _| true).await.unwrap().is_none());
    assert_eq!(bench.store.resume(lease.job).await.unwrap().status, JobStatus::Queued);
    let (_, lease) = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap();
    bench.store.request_pause(lease.job).await.unwrap();
    bench.store.resume(lease.job).await.unwrap();
    assert_eq!(bench.store.heartbeat(&lease, None).await.unwrap(), JobStatus::Running);
    bench.store.request_pause(lease.job).await.unwrap();
    bench.store.request_cancel(lease.job).await.unwrap();
    let StoreError::Refused(refusal) = bench.store.request_pause(lease.job).await.unwrap_err() else { panic!() };
    assert_eq!(refusal.code, Code::JobStatus);
    assert!(bench.store.resume(lease.job).await.is_err());
    assert_eq!(bench.store.interrupt(&lease, Interruption::Shutdown, "x").await.unwrap(), JobStatus::Cancelled);
}

#[tokio::test]
async fn finishing_is_one_transaction_and_frees_the_checkpoints() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    bench.store.record(&lease, &gathered(&[epoch(1, 1.0)]), checkpoint(1, b"x")).await.unwrap();
    let schema = bench.store.dataset(bench.spec.dataset).await.unwrap().schema;
    let figures = [Metric { name: "test/loss".into(), value: 0.1 + 0.2 }];
    let model = bench.store.succeed(&lease, StopReason::EarlyStopped, &figures, &schema, &[7; 1 << 20]).await.unwrap();
    let job = bench.store.job(lease.job).await.unwrap();
    assert_eq!(
        (job.model_id, job.stop_reason, job.metrics.unwrap()["test/loss"]),
        (Some(model), Some(StopReason::EarlyStopped), 0.1 + 0.2)
    );
    let model = bench.store.model(model).await.unwrap();
    assert_eq!(bench.store.artifact(model.artifact_id).await.unwrap(), [7; 1 << 20]);
    assert_eq!(query(&bench.database(), "SELECT count(*) FROM artifacts").await, 1, "the checkpoint is needless now");
    bench.store.delete_model(model.id, false).await.unwrap();
    assert_eq!(query(&bench.database(), "SELECT count(*) FROM artifact_chunks").await, 0);
    assert_eq!(query(&bench.database(), "PRAGMA freelist_count").await, 0, "deleted bytes go back to the disk");
}

#[tokio::test]
async fn a_trial_rests_with_the_record_of_its_epoch_and_the_last_to_come_decides() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let json = r#"{"base": {}, "search": {"kind": "asha", "trials": 3, "reduction": 3}, "space": {}, "parallel": 1}"#;
    let point = |number: i64| std::iter::once(("/training/seed".to_owned(), number.into())).collect();
    let sweep = NewSweep {
        spec: serde_json::from_str(json).unwrap(),
        rungs: vec![2],
        trials: (1..=3).map(|number| (point(number), bench.spec.clone())).collect(),
        max_deaths: 3,
        priority: 0,
        options: RunOptions::default(),
        idempotency_key: None,
    };
    let sweep = store.insert_sweep(&sweep).await.unwrap();
    let jobs = store.sweep_jobs(sweep.id).await.unwrap();
    let loss = |epoch: u32, value: f64| {
        let metric = |name: &str| Metric { name: name.into(), value };
        EpochRecord { epoch, metrics: vec![metric("train/loss"), metric("validation/loss")] }
    };
    let claim = async |expected: usize| {
        let (job, lease) = store.claim_next("w", |_, _| true).await.unwrap().unwrap();
        assert_eq!(job.id, jobs[expected]);
        assert!(store.claim_next("w", |_, _| true).await.unwrap().is_none(), "only one of the sweep runs at once");
        (job.trial.unwrap().rest_at, lease)
    };
    let (rest_at, first) = claim(0).await;
    assert_eq!(rest_at, Some(2));
    store.record(&first, &gathered(&[loss(1, 1.0), loss(2, 1.5)]), checkpoint(2, b"x")).await.unwrap();
    // The server is killed before the trainer has stopped, and somebody wants the trial to stay where it is.
    assert_eq!(store.reap(true, &[]).await.unwrap(), [(first.job, JobStatus::Paused)]);
    store.request_pause(first.job).await.unwrap();
    store.resume(first.job).await.unwrap();
    let StoreError::Refused(refusal) = store.resume(first.job).await.unwrap_err() else { panic!() };
    assert_eq!(refusal.code, Code::JobStatus);
    store.request_pause(first.job).await.unwrap();
    for (number, value) in [(1, 2.0), (2, 3.0)] {
        let (_, lease) = claim(number).await;
        store.record(&lease, &gathered(&[loss(1, value)]), None).await.unwrap();
        assert_eq!(store.interrupt(&lease, Interruption::Shutdown, "x").await.unwrap(), JobStatus::Queued);
        let (_, lease) = claim(number).await;
        store.record(&lease, &gathered(&[loss(2, value)]), None).await.unwrap();
        assert_eq!(store.interrupt(&lease, Interruption::Shutdown, "x").await.unwrap(), JobStatus::Paused);
    }
    for job in &jobs[1..] {
        let job = store.job(*job).await.unwrap();
        assert_eq!((job.status, job.stop_reason), (JobStatus::Cancelled, Some(StopReason::NotPromoted)));
    }
    assert_eq!(store.job(first.job).await.unwrap().status, JobStatus::Paused, "it was promoted, and still is to wait");
    assert_eq!(store.resume(first.job).await.unwrap().status, JobStatus::Queued);
    let (rest_at, first) = claim(0).await;
    assert_eq!(rest_at, None, "it trains to its end");
    let schema = store.dataset(bench.spec.dataset).await.unwrap().schema;
    let figures = [Metric { name: "validation/loss".into(), value: 0.5 }];
    store.succeed(&first, StopReason::Completed, &figures, &schema, b"model").await.unwrap();
    let sweep = store.sweep(sweep.id).await.unwrap();
    assert_eq!((sweep.status, sweep.counts.not_promoted), (SweepStatus::Succeeded, 2));
    let trials = store.trials(&sweep).await.unwrap();
    let facts: Vec<_> = trials.iter().map(|trial| (trial.number, trial.value, trial.rung)).collect();
    assert_eq!(facts, [(1, Some(0.5), 1), (2, Some(2.0), 0), (3, Some(3.0), 0)]);
    assert!(store.request_sweep_cancel(sweep.id).await.is_err());
}

#[tokio::test]
async fn a_data_directory_has_one_owner_and_forgets_half_done_uploads() {
    let bench = Bench::new().await;
    assert!(matches!(Store::open(bench.directory.path()).await, Err(StoreError::InUse(_))));
    let (path, dataset) = (bench.directory.path().to_owned(), bench.spec.dataset);
    bench.store.close().await;
    std::fs::create_dir(path.join("datasets/ds_orphan")).unwrap();
    std::fs::write(path.join("tmp/left"), "x").unwrap();
    let Bench { store, directory, .. } = bench;
    drop(store);
    let again = Store::open(&path).await.unwrap();
    assert!(!path.join("datasets/ds_orphan").exists() && !path.join("tmp/left").exists());
    assert!(again.rows_path(dataset).exists());
    drop((again, directory));
}

#[tokio::test]
async fn the_queue_goes_by_age() {
    let bench = Bench::new().await;
    let new = bench.asked();
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(bench.store.insert_job(&new).await.unwrap().0.id);
    }
    let mut claimed = Vec::new();
    while let Some((job, _)) = bench.store.claim_next("w", |_, _| true).await.unwrap() {
        claimed.push(job.id);
    }
    assert_eq!(claimed, asked);
    let running = JobFilter { status: Some(JobStatus::Running), ..JobFilter::default() };
    let listed = bench.store.jobs(&Page { limit: 3, after: None }, &running).await.unwrap();
    assert!(listed.has_more && listed.items.len() == 3);
    assert_eq!(bench.store.queue_length().await.unwrap(), (0, 4));
}

#[tokio::test]
async fn uploads_outlive_a_start_and_files_follow_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let upload = store.create_upload(10, "filename YQ==").await.unwrap();
        let mut writer = UploadWriter::open(&store, upload.id).await.unwrap();
        writer.write(b"12345").await.unwrap();
        writer.acknowledge().await.unwrap();
        ids.push(upload.id);
    }
    let paths: Vec<_> = ids.iter().map(|id| store.upload_path(*id)).collect();
    let stray = store.upload_path(UploadId::new());
    store.close().await;
    drop(store);
    // Bytes that were never counted; bytes that a disk lost; a time that is over; a file that nobody knows.
    std::fs::write(&paths[1], b"12345678").unwrap();
    std::fs::write(&paths[2], b"123").unwrap();
    std::fs::write(&stray, b"1").unwrap();
    let old = format!("UPDATE uploads SET expires_at = 1 WHERE id = '{}'", ids[3]);
    assert_eq!(change(&directory.path().join("latente.db"), old.leak()).await, 1);

    let store = Store::open(directory.path()).await.unwrap();
    let received: Vec<_> = store.uploads().await.unwrap().iter().map(|upload| upload.received).collect();
    assert_eq!(received, [5, 5, 3]);
    assert!(!paths[3].exists() && !stray.exists());
    for id in &ids[..3] {
        let mut writer = UploadWriter::open(&store, *id).await.unwrap();
        let from = writer.upload().received as usize;
        writer.write(&b"12345abcde"[from..]).await.unwrap();
        writer.acknowledge().await.unwrap();
        assert!(writer.upload().is_complete());
        assert_eq!(std::fs::read(store.upload_path(*id)).unwrap(), b"12345abcde");
    }
}

#[tokio::test]
async fn a_database_of_the_first_tables_is_brought_up_to_date_and_loses_no_row() {
    let home = tempfile::tempdir().unwrap();
    let (old, data) = (home.path().join("migrations"), home.path().join("data"));
    std::fs::create_dir_all(&old).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    for name in ["0001_initial.sql", "0002_uploads.sql", "0003_splits.sql"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(name);
        std::fs::copy(file, old.join(name)).unwrap();
    }
    let path = data.join("latente.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::migrate::Migrator::new(old.as_path()).await.unwrap().run(&mut connection).await.unwrap();
    let rows = [
        "INSERT INTO datasets (id, name, format, rows, bytes, schema, created_at) VALUES ('ds', 'd', 'csv', 1, 4, '{}', 1)",
        "INSERT INTO artifacts VALUES ('art', 0, '', 1)",
        "INSERT INTO jobs (id, dataset_id, family, spec, status, max_deaths, created_at, priority) VALUES
         ('one', 'ds', 'vae', '{}', 'cancelled', 3, 1, 7), ('two', 'ds', 'vae', '{}', 'succeeded', 3, 2, 0)",
        "INSERT INTO job_events VALUES ('one', 1, 1, 'queued', '{}'), ('two', 1, 1, 'queued', '{}')",
        "INSERT INTO metrics VALUES ('two', 'train/loss', 1, 0.5)",
        "INSERT INTO checkpoints VALUES ('one', 1, 0, 'art', 1)",
        "INSERT INTO splits VALUES ('two', 1, 1, 1, 'art')",
    ];
    for sql in rows {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    sqlx::Connection::close(connection).await.unwrap();

    let store = Store::open(&data).await.unwrap();
    for (sql, count) in [
        ("SELECT count(*) FROM jobs WHERE parent_job_id IS NULL AND pausing = 0", 2),
        ("SELECT priority FROM jobs WHERE id = 'one'", 7),
        ("SELECT count(*) FROM job_events", 2),
        ("SELECT count(*) FROM metrics", 1),
        ("SELECT count(*) FROM checkpoints", 1),
        ("SELECT count(*) FROM splits", 1),
    ] {
        assert_eq!(query(&path, sql).await, count, "{sql}");
    }
    drop(store);
}

#[tokio::test]
async fn a_key_finds_its_job_even_where_an_earlier_version_left_settings_open() {
    let bench = Bench::new().await;
    let mut spec = bench.spec.clone();
    spec.training.optimizer = serde_json::from_str(r#"{"schedule": "cosine"}"#).unwrap();
    spec.training.optimizer.settle();
    let new = NewJob { spec, idempotency_key: Some("k".to_owned()), ..bench.asked() };
    let (job, is_new) = bench.store.insert_job(&new).await.unwrap();
    assert!(is_new);
    let sql =
        "UPDATE jobs SET spec = json_set(spec, '$.training.optimizer.schedule', 'cosine') WHERE idempotency_key = 'k'";
    assert_eq!(change(&bench.database(), sql).await, 1);
    let (again, is_new) = bench.store.insert_job(&new).await.unwrap();
    assert_eq!((again.id, is_new), (job.id, false));
    let mut other = new;
    other.spec.training.epochs += 1;
    assert!(matches!(bench.store.insert_job(&other).await, Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn checkpoints_are_kept_as_the_job_asked() {
    let bench = Bench::new().await;
    let keep = Retention { best: 2, latest: 1, after_success: true };
    let lease = bench.claimed_with(RunOptions { keep, ..RunOptions::default() }).await;
    for (epoch, best) in [(1, true), (2, true), (3, true), (4, false), (5, false), (6, false)] {
        let record = CheckpointRecord { epoch, step: 0, best, data: &[epoch as u8] };
        bench.store.record(&lease, &gathered(&[]), Some(record)).await.unwrap();
    }
    let kept = async || -> Vec<(u32, bool)> {
        let kept = bench.store.checkpoints(lease.job).await.unwrap();
        kept.iter().map(|checkpoint| (checkpoint.epoch, checkpoint.is_best)).collect()
    };
    // One more than was asked for, should the last be damaged.
    assert_eq!(kept().await, [(6, false), (5, false), (3, true), (2, false)]);
    let schema = bench.store.dataset(bench.spec.dataset).await.unwrap().schema;
    bench.store.succeed(&lease, StopReason::Completed, &[], &schema, b"model").await.unwrap();
    assert_eq!(kept().await, [(6, false), (3, true), (2, false)]);
    assert_eq!(query(&bench.database(), "SELECT count(*) FROM artifacts").await, 4, "three checkpoints and the model");
    let plan = "SELECT count(*) FROM pragma_index_info('checkpoints_by_artifact') WHERE name = 'artifact_id'";
    assert_eq!(query(&bench.database(), plan).await, 1);
}

#[tokio::test]
async fn time_counts_over_attempts_and_not_while_a_job_waits() {
    let bench = Bench::new().await;
    let mut lease = bench.claimed().await;
    let mut least = 0;
    for (back, wait) in [(2_000, "beat_at - 2000"), (3_000, "beat_at - 3000")] {
        let sql = format!("UPDATE jobs SET beat_at = {wait}");
        change(&bench.database(), sql.leak()).await;
        bench.store.heartbeat(&lease, None).await.unwrap();
        least += back;
        // The time in the queue does not count.
        bench.store.interrupt(&lease, Interruption::Shutdown, "x").await.unwrap();
        change(&bench.database(), "UPDATE jobs SET beat_at = beat_at - 3600000").await;
        lease = bench.store.claim_next("w", |_, _| true).await.unwrap().unwrap().1;
        let ran = bench.store.job(lease.job).await.unwrap().ran_ms;
        assert!(ran >= least && ran < 1_800_000, "{ran}");
    }
}

#[tokio::test]
async fn phases_and_the_log_have_a_history_that_is_bounded() {
    let bench = Bench::new().await;
    let lease = bench.claimed().await;
    for phase in [Phase::Preparing, Phase::Preparing, Phase::Training] {
        let phases = vec![(phase, 0)];
        bench.store.record(&lease, &Gathered { phases, ..Gathered::default() }, None).await.unwrap();
    }
    bench.store.interrupt(&lease, Interruption::Shutdown, "x").await.unwrap();
    let told = async || -> Vec<(String, i64)> {
        let phases = bench.store.phases(lease.job).await.unwrap();
        phases.into_iter().map(|phase| (phase.name, phase.attempt)).collect()
    };
    let expected = [("waiting", 0), ("starting", 1), ("preparing", 1), ("training", 1), ("waiting", 1)];
    assert_eq!(told().await, expected.map(|(name, attempt)| (name.to_owned(), attempt)));
    for _ in 0..110 {
        bench.store.request_pause(lease.job).await.unwrap();
        bench.store.resume(lease.job).await.unwrap();
    }
    let phases = told().await;
    assert_eq!((phases.len(), phases[199].0.as_str()), (200, "waiting"));

    let line =
        |number: usize| LogLine { at: number as i64, source: "trainer".to_owned(), text: format!("line {number}") };
    let lines: Vec<LogLine> = (0..1_500).map(line).collect();
    for _ in 0..2 {
        bench.store.append_log(lease.job, &lines).await.unwrap();
    }
    let tail = bench.store.log_tail(lease.job, 3).await.unwrap();
    assert_eq!((tail.before, &tail.lines[2]), (2_997, &lines[1_499]));
    let all = bench.store.log_tail(lease.job, 10_000).await.unwrap();
    assert_eq!((all.before, all.lines.len()), (1_000, 2_000));
}

#[tokio::test]
async fn a_key_stands_for_one_request_whatever_it_asked_for() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let keyed = |key: &str| NewJob { idempotency_key: Some(key.to_owned()), ..bench.asked() };
    let job = store.insert_job(&keyed("k")).await.unwrap().0;
    let options = RunOptions { max_runtime_seconds: Some(5), ..RunOptions::default() };
    for other in [NewJob { priority: 1, ..keyed("k") }, NewJob { options, ..keyed("k") }] {
        let Err(StoreError::Refused(refusal)) = store.insert_job(&other).await else { panic!("{other:?}") };
        assert_eq!(refusal.errors[0].pointer, "Idempotency-Key");
    }
    // What is changed later was not asked for by the request.
    let change = latente::store::life::JobChange { priority: Some(9), ..Default::default() };
    store.change_job(job.id, &change).await.unwrap();
    assert_eq!(store.insert_job(&keyed("k")).await.unwrap().0.id, job.id);

    store.request_cancel(job.id).await.unwrap();
    let child = store.retry(job.id, RetryFrom::Start, 3, Some("r")).await.unwrap();
    assert_ne!(child.id, job.id);
    assert_eq!(store.retry(job.id, RetryFrom::Start, 3, Some("r")).await.unwrap().id, child.id);
    assert_ne!(store.retry(job.id, RetryFrom::Start, 3, None).await.unwrap().id, child.id);
    for lost in [
        store.retry(job.id, RetryFrom::Checkpoint, 3, Some("r")).await.err(),
        store.retry(job.id, RetryFrom::Start, 3, Some("k")).await.err(),
        store.insert_job(&keyed("r")).await.err(),
    ] {
        assert!(matches!(lost, Some(StoreError::Refused(_))), "{lost:?}");
    }
}
