//! News of jobs for whoever waits: long polls and event streams.
//!
//! Events themselves are read from the database; the feed says that there are new ones, and carries the latest progress,
//! which is too frequent to be kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::id::JobId;
use crate::domain::job::Progress;

/// What is known of a job beside the database.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Grows with every change in the database.
    pub version: u64,
    /// The latest progress.
    pub progress: Option<Progress>,
}

/// News of all jobs.
#[derive(Default)]
pub struct Feed {
    jobs: Mutex<HashMap<JobId, watch::Sender<Live>>>,
    /// Grows whenever a job of a sweep begins or ends.
    sweeps: watch::Sender<u64>,
}

impl Feed {
    /// Follows a job. The receiver sees every change after this call.
    pub fn follow(&self, job: JobId) -> watch::Receiver<Live> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody follows and that are not at work are forgotten here, where the map grows.
        jobs.retain(|id, sender| *id == job || sender.receiver_count() > 0 || sender.borrow().progress.is_some());
        jobs.entry(job).or_insert_with(|| watch::channel(Live::default()).0).subscribe()
    }

    /// The latest progress of a job at work.
    pub fn progress(&self, job: JobId) -> Option<Progress> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&job).and_then(|sender| sender.borrow().progress.clone())
    }

    /// Says that the database has news of a job. Nothing is kept of it where nobody follows.
    pub fn announce(&self, job: JobId) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = jobs.get(&job) {
            sender.send_modify(|live| live.version += 1);
        }
    }

    /// Follows all sweeps. The receiver sees every change after this call.
    pub fn follow_sweeps(&self) -> watch::Receiver<u64> {
        self.sweeps.subscribe()
    }

    /// Says that the database has news of a sweep.
    pub fn announce_sweep(&self) {
        self.sweeps.send_modify(|version| *version += 1);
    }

    /// Says how far a job is.
    pub fn report(&self, job: JobId, progress: Progress) {
        self.change(job, |live| live.progress = Some(progress));
    }

    /// Says that a job is no longer at work.
    pub fn close(&self, job: JobId) {
        self.change(job, |live| {
            live.version += 1;
            live.progress = None;
        });
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(&job).is_some_and(|sender| sender.receiver_count() == 0) {
            jobs.remove(&job);
        }
    }

    fn change(&self, job: JobId, change: impl FnOnce(&mut Live)) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.entry(job).or_insert_with(|| watch::channel(Live::default()).0).send_modify(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_hear_of_changes_and_idle_jobs_are_forgotten() {
        let feed = Feed::default();
        let (followed, idle) = (JobId::new(), JobId::new());
        let mut receiver = feed.follow(followed);
        feed.announce(idle);
        feed.report(followed, Progress { epoch: 3, ..Progress::default() });
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow_and_update().progress.as_ref().unwrap().epoch, 3);
        feed.close(followed);
        receiver.changed().await.unwrap();
        assert!(feed.progress(followed).is_none());
        drop(receiver);
        let _other = feed.follow(JobId::new());
        assert_eq!(feed.jobs.lock().unwrap().len(), 1);
    }
}
