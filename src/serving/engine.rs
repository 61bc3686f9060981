//! What an inference thread does: takes what waits, puts it through the model, answers.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tch::Device;

use super::batcher::{Pass, Width, share};
use super::desk::{Desk, Work};
use super::statistics::{Execution, Statistics};
use super::{Answer, Measure, Question, Reply, Scored};
use crate::domain::id::ModelId;
use crate::domain::limits::INFERENCE_BATCH_ROWS;
use crate::domain::refusal::{Code, Refusal};
use crate::training::artifact::TrainedModel;

/// Rows whose densities are estimated at once.
const SCORED_ROWS: usize = 256;

/// Answers until the desk has ended.
pub(super) fn run(desk: &Desk, statistics: &Statistics) {
    // Threads of an operation wait for each other by spinning. Each of ours is at rows of its own, and waits for nobody.
    tch::set_num_threads(1);
    while let Some(work) = desk.take() {
        let has_failed = !answer(&work, statistics);
        desk.done(work, has_failed);
    }
}

/// Reads a model file and puts the model on the desk.
///
/// # Errors
/// The bytes are no model; in words.
pub(super) fn load(desk: &Desk, id: ModelId, bytes: &[u8]) -> Result<(), String> {
    tch::set_num_threads(1);
    let read = catch_unwind(AssertUnwindSafe(|| TrainedModel::read(bytes, Device::Cpu)));
    let model = read.map_err(|panic| words(&*panic))?.map_err(|fault| fault.to_string())?;
    desk.add(id, model);
    Ok(())
}

/// Whether a model file from elsewhere is a model that answers.
///
/// # Errors
/// It is not; in words.
pub(super) fn try_out(bytes: &[u8]) -> Result<(), String> {
    tch::set_num_threads(1);
    let tried = catch_unwind(AssertUnwindSafe(|| {
        TrainedModel::read(bytes, Device::Cpu).map_err(|fault| fault.to_string())?.try_out()
    }));
    tried.unwrap_or_else(|panic| {
        tracing::warn!(fault = words(&*panic), "A model file from elsewhere does not answer");
        Err("its network does not take its own rows".to_owned())
    })
}

/// Answers what was taken. False when the model failed.
fn answer(work: &Work, statistics: &Statistics) -> bool {
    let began = Instant::now();
    let rows = work.pass.map(|pass| rows_of(work, pass));
    let joined = Instant::now();
    let outcome = match (work.pass, &rows) {
        (Some(pass), Some(rows)) => pass_through(&work.copy, pass, rows),
        _ => alone(&work.copy, &work.pieces[0].question.question),
    };
    let passed = Instant::now();
    match outcome {
        Ok(joint) => {
            let total = work.pieces.iter().map(|piece| piece.to - piece.from).sum();
            let mut at = 0;
            let mut share_of = |rows: usize| {
                at += rows;
                share(&joint, total, at - rows, rows)
            };
            let answers: Vec<Answer> = match &work.pieces[..] {
                [_] => vec![joint],
                pieces => pieces.iter().map(|piece| share_of(piece.to - piece.from)).collect(),
            };
            let first_rows = work.pieces.iter().filter(|piece| piece.from == 0);
            let waits: Vec<Duration> = first_rows.map(|piece| began - piece.question.asked).collect();
            let rows = match &work.pieces[0].question.question {
                Question::Sample(draw) => draw.count,
                _ => total,
            };
            let (input, infer, output) = (joined - began, passed - joined, passed.elapsed());
            // Counted before it is told, so that whoever has an answer finds it in the statistics.
            statistics.executed(work.model, &Execution { waits: &waits, rows, input, infer, output });
            for (piece, answer) in work.pieces.iter().zip(answers) {
                piece.question.tell(piece.from, piece.to - piece.from, answer);
            }
        }
        Err(Fault::Refused(refusal)) => {
            work.pieces.iter().for_each(|piece| piece.question.end(Reply::Refused(refusal.clone())));
        }
        Err(Fault::Failed(fault)) => {
            tracing::error!(model.id = %work.model, fault, "Model {} failed", work.model);
            work.pieces.iter().for_each(|piece| piece.question.end(Reply::Failed(fault.clone())));
            return false;
        }
    }
    true
}

/// The rows that were taken, one after the other.
fn rows_of(work: &Work, pass: Pass) -> Cow<'_, [f32]> {
    let width = match pass {
        Pass::Decode | Pass::DecodeSpread => width_of(&work.copy, Width::Code),
        _ => width_of(&work.copy, Width::Row),
    };
    let mut pieces = work.pieces.iter().map(|piece| {
        let values = piece.question.question.values().map_or(&[][..], |(values, _)| values);
        &values[piece.from * width..piece.to * width]
    });
    match (pieces.next(), work.pieces.len()) {
        (Some(only), 1) => Cow::Borrowed(only),
        (first, _) => Cow::Owned(first.into_iter().chain(pieces).flatten().copied().collect()),
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
    if let Question::InUnits { question, units } = question {
        let model = catch_unwind(AssertUnwindSafe(|| model.in_units(*units)));
        let model = model.map_err(|panic| Fault::Failed(words(&*panic)))?;
        return match (question.pass(), question.values()) {
            (Some(pass), Some((values, _))) => pass_through(&model, pass, values),
            _ => alone(&model, question),
        };
    }
    let plain = |values| Some(Answer { values, beside: None });
    let answer = catch_unwind(AssertUnwindSafe(|| match question {
        Question::DecodeDraw { codes, seed } => plain(model.decode_draws(codes, *seed)),
        Question::Sample(draw) => match &draw.given {
            Some(given) => {
                let (values, effective) = model.sample_given(draw, given);
                Some(Answer { values, beside: Some(vec![effective]) })
            }
            None => plain(model.sample(draw)),
        },
        Question::Codes { count, seed } => plain(model.sample_codes(*count, *seed)),
        Question::Slots => {
            let (values, levels) = model.slots();
            Some(Answer { values, beside: Some(levels) })
        }
        Question::Impute { rows, rounds, seed } => plain(model.impute(rows, *rounds, *seed)),
        Question::ImputeDraws { rows, rounds, draws, seed } => plain(model.impute_draws(rows, *rounds, *draws, *seed)),
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
    let at_once = if samples > 0 { SCORED_ROWS } else { INFERENCE_BATCH_ROWS } * model.width();
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
    let told = catch_unwind(AssertUnwindSafe(|| match pass {
        Pass::Encode => Some(model.encode(values)),
        Pass::Decode => Some(model.decode(values, false)),
        Pass::DecodeSpread => Some(model.decode(values, true)),
        Pass::Reconstruct => {
            let (rows, errors) = model.reconstruct(values);
            Some((rows, Some(errors)))
        }
        Pass::Predict => model.predict(values).map(|(told, spread)| (told, Some(spread))),
        Pass::ScoreEstimate => model.score_estimate(values).map(|scores| (scores, None)),
    }));
    let what = match pass {
        Pass::Predict => "labels, because it learned none",
        Pass::ScoreEstimate => "an estimate of the gradient of log p(x)",
        Pass::Encode | Pass::Decode | Pass::DecodeSpread | Pass::Reconstruct => "that",
    };
    let told = told.map_err(|panic| Fault::Failed(words(&*panic)))?;
    let (values, beside) = told.ok_or_else(|| unable(model, what))?;
    Ok(Answer { values, beside })
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned())
}
