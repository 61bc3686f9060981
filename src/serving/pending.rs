//! A question that waits, and its answer while it comes together: many rows are answered in parts, by whichever thread is free.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Answer, Question, Reply};
use crate::domain::id::ModelId;

/// A question on its way.
pub(super) struct Pending {
    pub model: ModelId,
    pub question: Question,
    /// How many rows it has; 1 where it brings none.
    pub rows: usize,
    pub asked: Instant,
    begun: AtomicBool,
    told: Mutex<Told>,
}

struct Told {
    /// Gone once there is an answer.
    reply: Option<oneshot::Sender<Reply>>,
    /// Answers of some rows, and the first of these.
    parts: Vec<(usize, Answer)>,
    /// Rows that are not answered yet.
    left: usize,
}

impl Pending {
    /// A question, and where its answer comes.
    pub fn new(model: ModelId, question: Question, rows: usize) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        let told = Mutex::new(Told { reply: Some(reply), parts: Vec::new(), left: rows });
        (Self { model, question, rows, asked: Instant::now(), begun: AtomicBool::new(false), told }, answer)
    }

    /// Notes that a thread is at it.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether a thread is at it, or was.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.told().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Takes the answer of `rows` rows from row `from` on; hands over the whole when it was the last.
    pub fn tell(&self, from: usize, rows: usize, answer: Answer) {
        let mut told = self.told();
        told.left = told.left.saturating_sub(rows);
        let is_last = told.left == 0;
        if !is_last || !told.parts.is_empty() {
            told.parts.push((from, answer));
            if is_last {
                let whole = joined(std::mem::take(&mut told.parts));
                told.end(Reply::Answer(whole));
            }
        } else {
            told.end(Reply::Answer(answer));
        }
    }

    /// Ends it, whatever else comes.
    pub fn end(&self, reply: Reply) {
        self.told().end(reply);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn end(&mut self, reply: Reply) {
        if let Some(to) = self.reply.take() {
            let _ = to.send(reply);
        }
        self.parts = Vec::new();
    }
}

/// Parts in the order of their rows.
fn joined(mut parts: Vec<(usize, Answer)>) -> Answer {
    parts.sort_unstable_by_key(|(from, _)| *from);
    let count = parts.iter().map(|(_, part)| part.values.len()).sum();
    let mut whole = Answer { values: Vec::with_capacity(count), beside: None };
    for (_, part) in parts {
        whole.values.extend(part.values);
        if let Some(beside) = part.beside {
            whole.beside.get_or_insert_default().extend(beside);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: f32) -> Answer {
        Answer { values: vec![first, first + 1.0], beside: Some(vec![-first]) }
    }

    #[test]
    fn parts_are_put_in_order_and_told_once() {
        let (pending, mut answer) = Pending::new(ModelId::new(), Question::Encode(vec![0.0; 4]), 4);
        pending.tell(2, 2, part(2.0));
        assert!(answer.try_recv().is_err() && !pending.is_abandoned());
        pending.tell(0, 2, part(0.0));
        let whole = Answer { values: vec![0.0, 1.0, 2.0, 3.0], beside: Some(vec![0.0, -2.0]) };
        assert!(matches!(answer.try_recv().unwrap(), Reply::Answer(told) if told == whole));
        assert!(pending.is_abandoned(), "there is nothing left to tell");
        pending.end(Reply::NotLoaded);
    }

    #[test]
    fn a_caller_that_left_is_seen() {
        let (pending, answer) = Pending::new(ModelId::new(), Question::Encode(vec![0.0; 4]), 4);
        drop(answer);
        assert!(pending.is_abandoned());
        pending.tell(0, 4, part(0.0));
    }
}
