//! The inference thread: owns the models, joins what waits, answers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tch::Device;
use tokio::sync::{mpsc, oneshot};

use super::batcher::{Pass, Width, share};
use super::residency::Residency;
use super::statistics::{Execution, Statistics};
use super::{Answer, Measure, Question, Reply, Request, Scored, ServingConfig, ServingError};
use crate::domain::id::ModelId;
use crate::domain::limits::INFERENCE_BATCH_ROWS;
use crate::domain::refusal::{Code, Refusal};
use crate::training::artifact::TrainedModel;

/// Rows whose densities are estimated at once.
const SCORED_ROWS: usize = 256;

/// A question that is ready to go through its model.
struct Waiting {
    model: ModelId,
    question: Question,
    rows: usize,
    asked: Instant,
    reply: oneshot::Sender<Reply>,
}

/// Answers until every handle is gone.
pub(super) fn run(mut requests: mpsc::Receiver<Request>, config: &ServingConfig, statistics: &Statistics) {
    tch::set_num_threads(i32::try_from(config.threads.max(1)).unwrap_or(1));
    let mut models: Residency<TrainedModel> = Residency::new(config.resident_bytes);
    while let Some(first) = requests.blocking_recv() {
        let mut waiting = VecDeque::new();
        let mut rows = take(first, &mut models, &mut waiting, statistics);
        // Whatever has arrived meanwhile leaves together with it.
        while rows < INFERENCE_BATCH_ROWS {
            let Ok(next) = requests.try_recv() else { break };
            rows += take(next, &mut models, &mut waiting, statistics);
        }
        while let Some(head) = waiting.pop_front() {
            let mut group = vec![head];
            let (model, pass) = (group[0].model, group[0].question.pass());
            if pass.is_some() {
                let (joined, rest): (VecDeque<_>, VecDeque<_>) =
                    waiting.into_iter().partition(|other| (other.model, other.question.pass()) == (model, pass));
                group.extend(joined);
                waiting = rest;
            }
            if !answer(&mut models, model, group, statistics) {
                models.remove(model);
                statistics.set_loaded(models.sizes().collect());
            }
        }
    }
}

/// Handles a request at once, or puts it among those that wait; says how many rows it added.
fn take(
    request: Request,
    models: &mut Residency<TrainedModel>,
    waiting: &mut VecDeque<Waiting>,
    statistics: &Statistics,
) -> usize {
    match request {
        Request::Ask { reply, .. } if reply.is_closed() => 0,
        Request::Ask { model, question, asked, reply } => {
            let Some(loaded) = models.get(model) else {
                let _ = reply.send(Reply::NotLoaded);
                return 0;
            };
            let rows = match question.values() {
                None => 1,
                Some((values, width)) => {
                    let width = width_of(loaded, width);
                    if values.is_empty() || values.len() % width != 0 {
                        let fault = "rows of the wrong width reached the inference thread";
                        let _ = reply.send(Reply::Failed(fault.to_owned()));
                        return 0;
                    }
                    values.len() / width
                }
            };
            waiting.push_back(Waiting { model, question, rows, asked, reply });
            rows
        }
        Request::Load { model, bytes, reply } => {
            let read = catch_unwind(AssertUnwindSafe(|| TrainedModel::read(&bytes, Device::Cpu)));
            let outcome = match read {
                Ok(Ok(loaded)) => {
                    let size = loaded.bytes() as u64;
                    models.insert(model, size, loaded);
                    statistics.set_loaded(models.sizes().collect());
                    Ok(())
                }
                Ok(Err(fault)) => Err(ServingError::Failed(fault.to_string())),
                Err(panic) => Err(ServingError::Failed(words(&*panic))),
            };
            let _ = reply.send(outcome);
            0
        }
        Request::TryOut { bytes, reply } => {
            let tried = catch_unwind(AssertUnwindSafe(|| {
                TrainedModel::read(&bytes, Device::Cpu).map_err(|fault| fault.to_string())?.try_out()
            }));
            let outcome = tried.unwrap_or_else(|panic| {
                tracing::warn!(fault = words(&*panic), "A model file from elsewhere does not answer");
                Err("its network does not take its own rows".to_owned())
            });
            let _ = reply.send(outcome.map_err(|fault| {
                let detail = format!("describes a model that does not answer: {fault}");
                Refusal::at(Code::InvalidModel, "/header", "conflict", detail).into()
            }));
            0
        }
        Request::Forget(model) => {
            models.remove(model);
            statistics.set_loaded(models.sizes().collect());
            0
        }
    }
}

/// Answers questions of one kind to one model. False when the model failed and should be read again before its next use.
fn answer(models: &mut Residency<TrainedModel>, model: ModelId, group: Vec<Waiting>, statistics: &Statistics) -> bool {
    let Some(loaded) = models.get(model) else {
        group.into_iter().for_each(|one| drop(one.reply.send(Reply::NotLoaded)));
        return true;
    };
    let total: usize = group.iter().map(|one| one.rows).sum();
    let began = Instant::now();
    let joint: Vec<f32> = match &group[..] {
        [_] => Vec::new(),
        several => {
            several.iter().filter_map(|one| one.question.values()).flat_map(|(values, _)| values).copied().collect()
        }
    };
    let joined = Instant::now();
    let outcome = match (&group[..], group[0].question.pass()) {
        ([one], None) => alone(loaded, &one.question),
        ([one], Some(pass)) => pass_through(loaded, pass, one.question.values().map_or(&[], |(values, _)| values)),
        (_, pass) => pass_through(loaded, pass.expect("only passes that can be shared are joined"), &joint),
    };
    let passed = Instant::now();
    match outcome {
        Ok(joint) => {
            let mut from = 0;
            let mut share_of = |rows: usize| {
                from += rows;
                share(&joint, total, from - rows, rows)
            };
            let answers: Vec<Answer> = group.iter().map(|one| share_of(one.rows)).collect();
            let waits: Vec<Duration> = group.iter().map(|one| began - one.asked).collect();
            let (input, infer, output) = (joined - began, passed - joined, passed.elapsed());
            // Counted before it is sent, so that whoever has an answer finds it in the statistics.
            let rows = match &group[0].question {
                Question::Sample(draw) => draw.count,
                _ => total,
            };
            statistics.executed(model, &Execution { waits: &waits, rows, input, infer, output });
            for (one, answer) in group.into_iter().zip(answers) {
                let _ = one.reply.send(Reply::Answer(answer));
            }
            true
        }
        Err(Fault::Refused(refusal)) => {
            group.into_iter().for_each(|one| drop(one.reply.send(Reply::Refused(refusal.clone()))));
            true
        }
        Err(Fault::Failed(fault)) => {
            tracing::error!(model.id = %model, fault, "Model {model} failed");
            group.into_iter().for_each(|one| drop(one.reply.send(Reply::Failed(fault.clone()))));
            false
        }
    }
}

enum Fault {
    /// The model cannot answer that.
    Refused(Refusal),
    Failed(String),
}

fn width_of(model: &TrainedModel, width: Width) -> usize {
    match width {
        Width::Code => model.latent(),
        Width::Row => model.header.shape.width,
    }
}

/// A question that shares its pass with nobody.
fn alone(model: &TrainedModel, question: &Question) -> Result<Answer, Fault> {
    let plain = |values| Some(Answer { values, beside: None });
    let answer = catch_unwind(AssertUnwindSafe(|| match question {
        Question::DecodeDraw { codes, seed } => plain(model.decode_draws(codes, *seed)),
        Question::Sample(draw) => plain(model.sample(draw)),
        Question::Impute { rows, rounds, seed } => plain(model.impute(rows, *rounds, *seed)),
        Question::Score { rows, measure, threshold, samples, seed, contributions } => {
            score(model, rows, (*measure, *threshold), (*samples, *seed), *contributions)
        }
        shared => unreachable!("{shared:?} goes through a shared pass; this is a bug"),
    }));
    let answer = answer.map_err(|panic| Fault::Failed(words(&*panic)))?;
    answer.ok_or_else(|| unable(model, "log p(x)"))
}

/// Rows go in pieces, because their draws take memory; each piece has draws of its own.
fn score(
    model: &TrainedModel,
    rows: &[f32],
    (measure, threshold): (Measure, f32),
    (samples, seed): (u32, u64),
    contributions: bool,
) -> Option<Answer> {
    let mut whole = Answer { values: Vec::new(), beside: None };
    let at_once = if samples > 0 { SCORED_ROWS } else { INFERENCE_BATCH_ROWS } * model.header.shape.width;
    for (piece, chunk) in rows.chunks(at_once).enumerate() {
        let scores = model.scores(chunk, samples, (seed, piece as u64), contributions)?;
        whole.values.extend(Scored::numbers(model, &scores, measure, threshold));
        if let Some(shares) = scores.contributions {
            whole.beside.get_or_insert_default().extend(shares);
        }
    }
    Some(whole)
}

fn unable(model: &TrainedModel, what: &str) -> Fault {
    let family = model.header.spec.model.family();
    Fault::Refused(Refusal::new(Code::InvalidRequest, format!("a model of the family {family} cannot tell {what}")))
}

fn pass_through(model: &TrainedModel, pass: Pass, values: &[f32]) -> Result<Answer, Fault> {
    let width =
        width_of(model, if matches!(pass, Pass::Decode | Pass::DecodeSpread) { Width::Code } else { Width::Row });
    let mut whole = Answer { values: Vec::new(), beside: None };
    for chunk in values.chunks(INFERENCE_BATCH_ROWS * width) {
        let part = catch_unwind(AssertUnwindSafe(|| match pass {
            Pass::Encode => Some(model.encode(chunk)),
            Pass::Decode => Some(model.decode(chunk, false)),
            Pass::DecodeSpread => Some(model.decode(chunk, true)),
            Pass::Reconstruct => {
                let (rows, errors) = model.reconstruct(chunk);
                Some((rows, Some(errors)))
            }
            Pass::Predict => model.predict(chunk).map(|(told, spread)| (told, Some(spread))),
            Pass::ScoreEstimate => model.score_estimate(chunk).map(|scores| (scores, None)),
        }));
        let part = part.map_err(|panic| Fault::Failed(words(&*panic)))?;
        let what = match pass {
            Pass::Predict => "labels, because it learned none",
            Pass::ScoreEstimate => "an estimate of the gradient of log p(x)",
            Pass::Encode | Pass::Decode | Pass::DecodeSpread | Pass::Reconstruct => "that",
        };
        let (part, beside) = part.ok_or_else(|| unable(model, what))?;
        whole.values.extend(part);
        if let Some(beside) = beside {
            whole.beside.get_or_insert_default().extend(beside);
        }
    }
    Ok(whole)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned())
}
