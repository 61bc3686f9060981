//! The child process of a job of inference: a whole dataset through a model, block by block, into a file that outlives it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::messages::{ASKED, Answered, InferenceRequest, Message, Request};
use super::trainer::{Reporter, send};
use crate::data::computed::describe;
use crate::data::rows::{RowFile, mapped};
use crate::domain::job::{Phase, Progress};
use crate::domain::refusal::{Code, Refusal};
use crate::training::device::Devices;
use crate::training::inference::{Answering, AnsweringError, Asked};
use crate::training::observer::{Observer, Report};
use crate::training::stopping::StopFlag;

/// Rows are brought to the disk and counted this often.
const COUNTED: Duration = Duration::from_secs(1);
const ANSWERED: &str = "answered.json";
const VALUE_BYTES: u64 = 4;

/// Answers about every row; gives the last message.
pub(super) fn work(
    request: &Request,
    asked: &InferenceRequest,
    directory: &Path,
    reporter: &mut Reporter,
    stop: &StopFlag,
) -> Result<Message, Refusal> {
    let rows = RowFile::open(&request.rows_path, request.schema.kept().count(), request.rows)
        .map_err(|error| internal("The rows of the dataset cannot be read.", &error))?;
    let device = Devices::probe().choose(asked.spec.device())?;
    let about = Asked { spec: &request.spec, schema: &asked.schema };
    let answering = {
        let file = mapped(&directory.join(ASKED)).map_err(|error| internal("The model cannot be read.", &error))?;
        Answering::new(&asked.spec, &file, about, &request.schema, device).map_err(|error| match error {
            AnsweringError::Refused(refusal) => refusal,
            other @ AnsweringError::Model(_) => internal("The model cannot be read.", &other),
        })?
    };
    let written = |error: std::io::Error| internal("The answers cannot be written.", &error);
    let width = answering.answers().columns.len() as u64 * VALUE_BYTES;
    let (mut file, mut first) = open(asked, width, answering.block_rows() as u64, request.rows).map_err(written)?;
    send(&Message::Answering { rows: request.rows, from_row: first });
    let mut pace = Pace { begun: Instant::now(), from: first, rows: request.rows };
    reporter.observe(Report::Phase(Phase::Inference));
    reporter.observe(Report::Progress(pace.progress(first)));
    let mut counted = Instant::now();
    while first < request.rows {
        if stop.is_raised() {
            file.sync_data().map_err(written)?;
            reporter.counted(first);
            return Ok(Message::Stopped);
        }
        let last = (first + answering.block_rows() as u64).min(request.rows);
        let answer = answering.block(first, (first..last).map(|row| rows.row(row as usize)))?;
        write(&mut file, &answer).map_err(written)?;
        first = last;
        reporter.observe(Report::Progress(pace.progress(first)));
        if counted.elapsed() >= COUNTED && reporter.takes_checkpoint() {
            file.sync_data().map_err(written)?;
            reporter.counted(first);
            counted = Instant::now();
        }
    }
    file.sync_all().map_err(written)?;
    let answers = answering.answers();
    let ingested = describe(&asked.result_path, &answers.columns, answers.image, request.rows)
        .map_err(|error| internal("The answers cannot be read again.", &error))?;
    let answered = Answered { rows: ingested.rows, bytes: ingested.bytes, schema: ingested.schema };
    let text = serde_json::to_vec(&answered).map_err(|error| internal("The answers cannot be described.", &error))?;
    std::fs::write(directory.join(ANSWERED), text).map_err(written)?;
    Ok(Message::Answered { file: ANSWERED.to_owned() })
}

/// The file of the answers, cut off after the rows that count, and how many those are.
fn open(asked: &InferenceRequest, width: u64, block: u64, rows: u64) -> std::io::Result<(File, u64)> {
    let mut file = File::options().create(true).truncate(false).write(true).open(&asked.result_path)?;
    // A process of an earlier attempt may still be at its end.
    file.lock()?;
    let there = asked.from_row.min(file.metadata()?.len() / width).min(rows);
    let first = if there == rows { rows } else { there - there % block };
    file.set_len(first * width)?;
    file.seek(SeekFrom::End(0))?;
    Ok((file, first))
}

fn write(file: &mut File, values: &[f32]) -> std::io::Result<()> {
    if cfg!(target_endian = "little") {
        return file.write_all(bytemuck::cast_slice(values));
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    file.write_all(&bytes)
}

/// How fast rows are answered.
struct Pace {
    begun: Instant,
    from: u64,
    rows: u64,
}

impl Pace {
    fn progress(&mut self, done: u64) -> Progress {
        let seconds = self.begun.elapsed().as_secs_f64();
        let speed = Some((done - self.from) as f64 / seconds).filter(|speed| speed.is_finite() && *speed > 0.0);
        Progress {
            step: done,
            steps: self.rows,
            rows_per_second: speed,
            eta_seconds: speed.map(|speed| (self.rows - done) as f64 / speed),
            ..Progress::default()
        }
    }
}

/// Internal words go to the log; the person who asked is told what it means.
fn internal(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    eprintln!("{what}: {error}");
    Refusal::new(Code::Internal, what)
}
