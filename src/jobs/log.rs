//! The log of a job at work: gathered here, written to the database now and then.

use crate::domain::id::JobId;
use crate::domain::limits::LOG_LINES;
use crate::store::logs::LogLine;
use crate::store::{Store, now_ms};

/// Lines that are not yet written.
pub(super) struct JobLog {
    job: JobId,
    lines: Vec<LogLine>,
}

impl JobLog {
    /// That of a job.
    pub(super) fn new(job: JobId) -> Self {
        Self { job, lines: Vec::new() }
    }

    /// A line of the worker.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.push("worker", text.into());
    }

    /// Lines of the trainer.
    pub(super) fn quote(&mut self, said: Vec<String>) {
        for text in said {
            self.push("trainer", text);
        }
    }

    fn push(&mut self, source: &str, text: String) {
        // What would be thrown away at once need not be written.
        if self.lines.len() >= LOG_LINES as usize {
            self.lines.remove(0);
        }
        self.lines.push(LogLine { at: now_ms(), source: source.to_owned(), text });
    }

    /// Writes what was gathered. What the disk does not take is tried again the next time.
    pub(super) async fn flush(&mut self, store: &Store) {
        if self.lines.is_empty() {
            return;
        }
        match store.append_log(self.job, &self.lines).await {
            Ok(()) => self.lines.clear(),
            Err(error) => {
                tracing::warn!(job.id = %self.job, %error, "The log of job {} could not be written", self.job)
            }
        }
    }
}
