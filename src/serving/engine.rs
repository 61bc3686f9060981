//! The inference thread: owns the models, joins what waits, answers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Device;
use tokio::sync::{mpsc, oneshot};

use super::batcher::{Pass, prepare, share};
use super::residency::Residency;
use super::{Answer, Reply, Request, ServingConfig, ServingError};
use crate::domain::id::ModelId;
use crate::domain::limits::INFERENCE_BATCH_ROWS;
use crate::training::artifact::TrainedModel;

/// A question that is ready to go through its model.
struct Waiting {
    model: ModelId,
    pass: Pass,
    values: Vec<f32>,
    rows: usize,
    reply: oneshot::Sender<Reply>,
}

/// Answers until every handle is gone.
pub(super) fn run(mut requests: mpsc::Receiver<Request>, config: &ServingConfig) {
    tch::set_num_threads(i32::try_from(config.threads.max(1)).unwrap_or(1));
    let mut models: Residency<TrainedModel> = Residency::new(config.resident_bytes);
    while let Some(first) = requests.blocking_recv() {
        let mut waiting = VecDeque::new();
        let mut rows = take(first, &mut models, &mut waiting);
        // Whatever has arrived meanwhile leaves together with it.
        while rows < INFERENCE_BATCH_ROWS {
            let Ok(next) = requests.try_recv() else { break };
            rows += take(next, &mut models, &mut waiting);
        }
        while let Some(head) = waiting.pop_front() {
            let mut group = vec![head];
            let (model, pass) = (group[0].model, group[0].pass);
            let (joined, rest): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|other| (other.model, other.pass) == (model, pass));
            group.extend(joined);
            waiting = rest;
            if !answer(&mut models, model, pass, group) {
                models.remove(model);
            }
        }
    }
}

/// Handles a request at once, or puts it among those that wait; says how many rows it added.
fn take(request: Request, models: &mut Residency<TrainedModel>, waiting: &mut VecDeque<Waiting>) -> usize {
    match request {
        Request::Ask { reply, .. } if reply.is_closed() => 0,
        Request::Ask { model, question, reply } => {
            let Some(loaded) = models.get(model) else {
                let _ = reply.send(Reply::NotLoaded);
                return 0;
            };
            let (pass, values) =
                prepare(question, |count, seed, temperature| loaded.sampler.draw(count, seed, temperature));
            let width = if pass == Pass::Decode { loaded.latent() } else { loaded.header.shape.width };
            if values.is_empty() || values.len() % width != 0 {
                let _ = reply.send(Reply::Failed("rows of the wrong width reached the inference thread".to_owned()));
                return 0;
            }
            let rows = values.len() / width;
            waiting.push_back(Waiting { model, pass, values, rows, reply });
            rows
        }
        Request::Load { model, bytes, reply } => {
            let read = catch_unwind(AssertUnwindSafe(|| TrainedModel::read(&bytes, Device::Cpu)));
            let outcome = match read {
                Ok(Ok(loaded)) => {
                    let size = loaded.bytes() as u64;
                    models.insert(model, size, loaded);
                    Ok(())
                }
                Ok(Err(fault)) => Err(ServingError::Failed(fault.to_string())),
                Err(panic) => Err(ServingError::Failed(words(&*panic))),
            };
            let _ = reply.send(outcome);
            0
        }
        Request::Forget(model) => {
            models.remove(model);
            0
        }
    }
}

/// Answers questions of one kind to one model. False when the model failed and should be read again before its next use.
fn answer(models: &mut Residency<TrainedModel>, model: ModelId, pass: Pass, group: Vec<Waiting>) -> bool {
    let Some(loaded) = models.get(model) else {
        group.into_iter().for_each(|one| drop(one.reply.send(Reply::NotLoaded)));
        return true;
    };
    let total: usize = group.iter().map(|one| one.rows).sum();
    let outcome = if let [one] = &group[..] {
        pass_through(loaded, pass, &one.values)
    } else {
        let joint: Vec<f32> = group.iter().flat_map(|one| one.values.iter().copied()).collect();
        pass_through(loaded, pass, &joint)
    };
    match outcome {
        Ok(joint) => {
            let mut from = 0;
            for one in group {
                let rows = one.rows;
                let _ = one.reply.send(Reply::Answer(share(&joint, total, from, rows)));
                from += rows;
            }
            true
        }
        Err(fault) => {
            tracing::error!(model.id = %model, fault, "Model {model} failed");
            group.into_iter().for_each(|one| drop(one.reply.send(Reply::Failed(fault.clone()))));
            false
        }
    }
}

fn pass_through(model: &TrainedModel, pass: Pass, values: &[f32]) -> Result<Answer, String> {
    let width = if pass == Pass::Decode { model.latent() } else { model.header.shape.width };
    let mut whole = Answer { values: Vec::new(), beside: None };
    for chunk in values.chunks(INFERENCE_BATCH_ROWS * width) {
        let part = catch_unwind(AssertUnwindSafe(|| match pass {
            Pass::Encode => model.encode(chunk),
            Pass::Decode => (model.decode(chunk), None),
            Pass::Reconstruct => {
                let (rows, errors) = model.reconstruct(chunk);
                (rows, Some(errors))
            }
        }));
        let (part, beside) = part.map_err(|panic| words(&*panic))?;
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
