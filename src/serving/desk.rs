//! What the inference threads share: the questions that wait and the models that are loaded. A thread that is free takes from
//! here whatever can go through one model together.
//!
//! Nobody waits for a batch to fill. But while a thread is at questions to a model, few more of the same kind wait for that
//! thread, and leave together when it is back: many small batches side by side would each read all of the model's weights.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::batcher::{Pass, Width};
use super::pending::Pending;
use super::residency::Residency;
use super::statistics::Statistics;
use super::{Question, Reply};
use crate::domain::id::ModelId;
use crate::domain::limits::{INFERENCE_QUEUE, MODEL_OVERHEAD_BYTES};
use crate::training::artifact::TrainedModel;

/// Questions that can go through a model together.
type Lane = (ModelId, Pass);

/// See the module.
pub(super) struct Desk {
    state: Mutex<State>,
    news: Condvar,
    threads: usize,
    statistics: Statistics,
}

struct State {
    waiting: VecDeque<Waiting>,
    models: Residency<Loaded>,
    /// Lanes that a thread is at; twice in the list where two are.
    busy: Vec<Lane>,
    /// Threads that are at a question that shares with nobody, which may take long.
    alone: usize,
    /// Threads that wait for news.
    idle: usize,
    loads: u64,
    has_ended: bool,
}

/// The rows of a question from `from` on.
struct Waiting {
    question: Arc<Pending>,
    from: usize,
}

struct Loaded {
    /// Tells it from what was loaded under the same id before or after.
    number: u64,
    /// One for each thread, less those that are in use. They share their numbers.
    copies: Vec<TrainedModel>,
    block_rows: usize,
    row: usize,
    latent: usize,
}

/// What a thread takes: rows of one question or of several, and the model they go through.
pub(super) struct Work {
    pub model: ModelId,
    pub copy: TrainedModel,
    pub pass: Option<Pass>,
    pub pieces: Vec<Piece>,
    number: u64,
}

/// Rows `from` up to `to` of a question.
pub(super) struct Piece {
    pub question: Arc<Pending>,
    pub from: usize,
    pub to: usize,
}

/// Why a question was not put on the desk.
pub(super) enum Turned {
    /// The model is not loaded; the question comes back.
    NotLoaded(Question),
    /// Too many wait.
    Full,
    /// Its rows are not as wide as the model's.
    WrongWidth,
}

impl Desk {
    pub fn new(resident_bytes: u64, threads: usize, statistics: Statistics) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            models: Residency::new(resident_bytes),
            busy: Vec::new(),
            alone: 0,
            idle: 0,
            loads: 0,
            has_ended: false,
        };
        Self { state: Mutex::new(state), news: Condvar::new(), threads, statistics }
    }

    /// Puts a question among those that wait.
    pub fn ask(&self, model: ModelId, question: Question) -> Result<(Arc<Pending>, oneshot::Receiver<Reply>), Turned> {
        let mut state = self.state();
        let Some(loaded) = state.models.get(model) else { return Err(Turned::NotLoaded(question)) };
        let rows = match question.values() {
            None => 1,
            Some((values, width)) => {
                let width = match width {
                    Width::Code => loaded.latent,
                    Width::Row => loaded.row,
                };
                if values.is_empty() || !values.len().is_multiple_of(width) {
                    return Err(Turned::WrongWidth);
                }
                values.len() / width
            }
        };
        let block_rows = loaded.block_rows;
        if state.waiting.len() >= INFERENCE_QUEUE {
            state.waiting.retain(|waiting| !waiting.question.is_abandoned());
            if state.waiting.len() >= INFERENCE_QUEUE {
                return Err(Turned::Full);
            }
        }
        let (pending, answer) = Pending::new(model, question, rows);
        let pending = Arc::new(pending);
        state.waiting.push_back(Waiting { question: pending.clone(), from: 0 });
        // A thread that is at such questions takes this one, too, when it is back.
        let is_taken_care_of = rows < block_rows && pending.lane().is_some_and(|lane| state.busy.contains(&lane));
        if state.idle > 0 && !is_taken_care_of {
            self.news.notify_one();
        }
        Ok((pending, answer))
    }

    /// Whether a model is loaded.
    pub fn holds(&self, model: ModelId) -> bool {
        self.state().models.get(model).is_some()
    }

    /// Adds a model that was loaded, and drops others until all fit.
    pub fn add(&self, id: ModelId, model: TrainedModel) {
        let bytes = model.bytes() as u64 + MODEL_OVERHEAD_BYTES;
        let (block_rows, row, latent) = (model.block_rows(), model.header.shape.width, model.latent());
        let mut copies: Vec<TrainedModel> = (1..self.threads).map(|_| model.share()).collect();
        copies.push(model);
        let mut state = self.state();
        state.loads += 1;
        let number = state.loads;
        let gone = state.models.insert(id, bytes, Loaded { number, copies, block_rows, row, latent });
        self.note_loaded(&state);
        // Giving memory back takes a while, and others need the desk.
        drop(state);
        drop(gone);
    }

    /// Drops a model.
    pub fn forget(&self, model: ModelId) {
        let mut state = self.state();
        let gone = state.models.remove(model);
        self.note_loaded(&state);
        drop(state);
        drop(gone);
    }

    /// Waits for work; `None` when there will be none any more.
    pub fn take(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(work) = state.next(self.threads) {
                if state.idle > 0 && !state.waiting.is_empty() {
                    self.news.notify_one();
                }
                return Some(work);
            }
            state.idle += 1;
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Brings back what was taken. A model that failed is read again at its next use.
    pub fn done(&self, work: Work, has_failed: bool) {
        let Work { model, copy, pass, number, pieces } = work;
        drop(pieces);
        let mut state = self.state();
        match pass {
            None => state.alone -= 1,
            Some(pass) => {
                if let Some(at) = state.busy.iter().position(|lane| *lane == (model, pass)) {
                    state.busy.swap_remove(at);
                }
            }
        }
        let loaded = state.models.peek(model).filter(|loaded| loaded.number == number);
        let gone = match loaded {
            Some(_) if has_failed => {
                let gone = state.models.remove(model);
                self.note_loaded(&state);
                (gone, Some(copy))
            }
            Some(loaded) => {
                loaded.copies.push(copy);
                (None, None)
            }
            None => (None, Some(copy)),
        };
        drop(state);
        drop(gone);
    }

    /// Lets the threads end. What waits is not answered.
    pub fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        state.waiting.clear();
        self.news.notify_all();
    }

    fn note_loaded(&self, state: &State) {
        self.statistics.set_loaded(state.models.sizes().collect());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn lane(&self) -> Option<Lane> {
        self.question.pass().map(|pass| (self.model, pass))
    }
}

impl State {
    /// The first questions that a thread may take now.
    fn next(&mut self, threads: usize) -> Option<Work> {
        let mut passed_over: Vec<Lane> = Vec::new();
        let mut at = 0;
        while let Some(waiting) = self.waiting.get(at) {
            if waiting.question.is_abandoned() {
                self.waiting.remove(at);
                continue;
            }
            let (model, lane) = (waiting.question.model, waiting.question.lane());
            let Some(loaded) = self.models.peek(model) else {
                waiting.question.end(Reply::NotLoaded);
                self.waiting.remove(at);
                continue;
            };
            let block_rows = loaded.block_rows;
            let is_free = match lane {
                // One thread is left for the questions of others.
                None => self.alone < threads.saturating_sub(1).max(1),
                Some(lane) if passed_over.contains(&lane) => false,
                Some(lane) => !self.busy.contains(&lane) || self.fills(at, lane, block_rows),
            };
            let copy = if is_free {
                self.models.peek(model).and_then(|loaded| Some((loaded.number, loaded.copies.pop()?)))
            } else {
                None
            };
            let Some((number, copy)) = copy else {
                passed_over.extend(lane);
                at += 1;
                continue;
            };
            let pieces = match lane {
                None => self.waiting.remove(at).map(Piece::whole).into_iter().collect(),
                Some(lane) => self.gather(at, lane, block_rows),
            };
            match lane {
                None => self.alone += 1,
                Some(lane) => self.busy.push(lane),
            }
            pieces.iter().for_each(|piece: &Piece| piece.question.begin());
            return Some(Work { model, copy, pass: lane.map(|(_, pass)| pass), pieces, number });
        }
        None
    }

    /// Whether there are as many rows of this lane as go through a model at once.
    fn fills(&self, from: usize, lane: Lane, rows: usize) -> bool {
        let mut count = 0;
        self.waiting.iter().skip(from).filter(|waiting| waiting.question.lane() == Some(lane)).any(|waiting| {
            count += waiting.question.rows - waiting.from;
            count >= rows
        })
    }

    /// Takes rows of this lane, up to so many.
    fn gather(&mut self, from: usize, lane: Lane, most: usize) -> Vec<Piece> {
        let (mut pieces, mut room, mut at) = (Vec::new(), most, from);
        while room > 0
            && let Some(waiting) = self.waiting.get_mut(at)
        {
            if waiting.question.lane() != Some(lane) {
                at += 1;
                continue;
            }
            let to = waiting.question.rows.min(waiting.from + room);
            if !waiting.question.is_abandoned() {
                pieces.push(Piece { question: waiting.question.clone(), from: waiting.from, to });
                room -= to - waiting.from;
                waiting.from = to;
                if to < waiting.question.rows {
                    break;
                }
            }
            self.waiting.remove(at);
        }
        pieces
    }
}

impl Piece {
    fn whole(waiting: Waiting) -> Self {
        let to = waiting.question.rows;
        Self { question: waiting.question, from: 0, to }
    }
}
