//! Batches that a thread gathers ahead of the step, where that makes steps faster.
//!
//! Rows that lie in memory and are only scaled take a few hundredths of a step, which all threads share; another thread would be in
//! their way. It pays where rows have to come from a disk, where their columns take more than scaling, where processors are free, and
//! beside a GPU. Nothing of that is known beforehand, so it is tried: where gathering takes much of the time of a step, some steps
//! are done with the thread, and it stays if they were faster. The numbers are the same in any case.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::batches::{Batches, Gathered, Source};

/// Steps whose time is compared, or as many as begin within [`LONG`], after some whose time is not looked at.
const WINDOW: u32 = 64;
const BEFORE_WINDOW: u32 = 16;
const LONG: Duration = Duration::from_secs(2);
/// The share of a step that gathering must take for the thread to be tried. Less is not worth a thread that other jobs may need.
const SHARE: f64 = 0.2;
/// What a step may take with the thread, of what it took without.
const FASTER: f64 = 0.95;
/// Steps whose batches wait, and the bytes that they may have.
const WAITING: usize = 8;
const WAITING_BYTES: u64 = 16 << 20;
/// Rows are announced to the system this many steps before they are gathered.
const ANNOUNCED: usize = 16;

/// What is known of whether a thread pays.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Knowledge {
    /// Nothing yet: it is looked at without.
    Nothing,
    /// What a step took without; it is tried with.
    Without(Duration),
    /// It pays, or does not.
    Settled(bool),
}

/// Gathers the batches of steps, by the thread that trains or by another.
pub(super) struct Gathering {
    knowledge: Knowledge,
    /// Whether the steps under way are those that are compared, how many there were, what they took, and what of that was gathering
    /// or waiting for it.
    counts: bool,
    steps: u32,
    taken: Duration,
    gathering: Duration,
    since: Instant,
    ahead: Option<Receiver<Vec<Gathered>>>,
}

impl Gathering {
    pub fn new() -> Self {
        Self {
            knowledge: Knowledge::Nothing,
            counts: false,
            steps: 0,
            taken: Duration::ZERO,
            gathering: Duration::ZERO,
            since: Instant::now(),
            ahead: None,
        }
    }

    /// Before each step of `groups`, of which those in `left` are to come: begins or ends to gather ahead.
    pub fn prepare<'scope, 'a: 'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        batches: &Batches<'a>,
        left: &'scope [&'scope [&'scope [u32]]],
    ) {
        let wants = matches!(self.knowledge, Knowledge::Without(_) | Knowledge::Settled(true));
        if !wants {
            self.ahead = None;
        } else if self.ahead.is_none()
            && let Some(source) = batches.source()
        {
            self.ahead = begin(scope, source, left);
        }
        self.since = Instant::now();
    }

    /// The batches of a step.
    pub fn gather(&mut self, batches: &Batches<'_>, group: &[&[u32]]) -> Vec<Gathered> {
        let since = Instant::now();
        let gathered = match &self.ahead {
            Some(ahead) => ahead.recv().expect("the thread that gathers goes on to the last step; this is a bug"),
            None => group.iter().map(|rows| batches.gathered(rows)).collect(),
        };
        self.gathering += since.elapsed();
        gathered
    }

    /// After each step.
    pub fn note(&mut self) {
        if matches!(self.knowledge, Knowledge::Settled(_)) {
            return;
        }
        self.steps += 1;
        self.taken += self.since.elapsed();
        let ends = |steps| self.steps == steps || self.taken >= LONG;
        if !self.counts {
            if ends(BEFORE_WINDOW) {
                self.begin_window(true);
            }
        } else if ends(WINDOW) {
            self.knowledge = self.knowledge.after(self.taken / self.steps, self.gathering / self.steps);
            self.begin_window(false);
        }
    }

    fn begin_window(&mut self, counts: bool) {
        (self.counts, self.steps, self.taken, self.gathering) = (counts, 0, Duration::ZERO, Duration::ZERO);
    }

    /// Has the thread end, for which its scope waits.
    pub fn end(&mut self) {
        self.ahead = None;
    }
}

impl Knowledge {
    /// What is known after steps that took so long, with so much of it for gathering.
    fn after(self, step: Duration, gathering: Duration) -> Self {
        match self {
            Self::Nothing if gathering.as_secs_f64() < SHARE * step.as_secs_f64() => Self::Settled(false),
            Self::Nothing => Self::Without(step),
            Self::Without(before) => Self::Settled(step.as_secs_f64() < FASTER * before.as_secs_f64()),
            Self::Settled(pays) => Self::Settled(pays),
        }
    }
}

/// A thread that gathers these batches, as far as some may wait; `None` where those of one step are too many bytes for that.
fn begin<'scope, 'a: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: &Arc<Source<'a>>,
    groups: &'scope [&'scope [&'scope [u32]]],
) -> Option<Receiver<Vec<Gathered>>> {
    let rows: u64 = groups.first()?.iter().map(|rows| rows.len() as u64).sum();
    let waiting = WAITING_BYTES / (rows * source.row_bytes()).max(1);
    if waiting == 0 {
        return None;
    }
    let (give, ahead) = sync_channel((waiting as usize).min(WAITING));
    let source = Arc::clone(source);
    let expect = |source: &Source<'_>, group: &[&[u32]]| group.iter().for_each(|rows| source.expect(rows));
    scope.spawn(move || {
        source.jumps(true);
        groups.iter().take(ANNOUNCED).for_each(|group| expect(&source, group));
        for (step, group) in groups.iter().enumerate() {
            if let Some(later) = groups.get(step + ANNOUNCED) {
                expect(&source, later);
            }
            if give.send(group.iter().map(|rows| source.gather(rows)).collect()).is_err() {
                break;
            }
        }
        source.jumps(false);
    });
    Some(ahead)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde_json::json;

    use super::*;
    use crate::training::observer::Report;
    use crate::training::stopping::StopFlag;
    use crate::training::tests::{Digits, Watcher};

    #[test]
    fn the_thread_stays_where_steps_are_faster_with_it() {
        let ms = Duration::from_millis;
        let after = |knowledge: Knowledge, step, gathering| knowledge.after(ms(step), ms(gathering));
        assert_eq!(after(Knowledge::Nothing, 100, 15), Knowledge::Settled(false), "there is little to gain");
        assert_eq!(after(Knowledge::Nothing, 100, 30), Knowledge::Without(ms(100)));
        assert_eq!(after(Knowledge::Without(ms(100)), 80, 1), Knowledge::Settled(true));
        assert_eq!(after(Knowledge::Without(ms(100)), 99, 60), Knowledge::Settled(false));
        for pays in [false, true] {
            assert_eq!(after(Knowledge::Settled(pays), 100, 50), Knowledge::Settled(pays));
        }
    }

    #[test]
    fn what_is_known_follows_from_steps_that_were_done() {
        let digits = Digits::read();
        let spec = digits.spec(
            json!({"model": {"family": "autoencoder"}, "training": {"batch_size": 4, "epochs": 1, "max_steps": null}}),
            &digits.schema,
        );
        let mut run = digits.run(&spec, &digits.schema);
        assert_eq!(run.gathering.knowledge, Knowledge::Nothing);
        run.epoch(&mut Watcher::default(), &StopFlag::default()).unwrap();
        assert!(run.steps > u64::from(2 * (BEFORE_WINDOW + WINDOW)), "{} steps are too few", run.steps);
        assert!(matches!(run.gathering.knowledge, Knowledge::Settled(_)), "{:?}", run.gathering.knowledge);
        assert!(run.gathering.ahead.is_none(), "no thread outlives an epoch");
    }

    #[test]
    fn batches_are_the_same_whoever_gathers_them() {
        let digits = Digits::read();
        let sets = [
            json!({"model": {"family": "autoencoder"}, "training": {"accumulate": 2}}),
            json!({"model": {"family": "feed_forward"}, "training": {}, "scaling": "quantile"}),
        ];
        for spec in sets {
            let spec = digits.spec(spec, &digits.schema);
            let run = |pays| {
                let (mut run, mut watcher) = (digits.run(&spec, &digits.schema), Watcher::default());
                run.gathering.knowledge = Knowledge::Settled(pays);
                for _ in 0..2 {
                    run.epoch(&mut watcher, &StopFlag::default()).unwrap();
                }
                (run.built.parameters.snapshot(), watcher.metrics)
            };
            assert_eq!(run(false), run(true));
        }
    }

    #[test]
    fn a_step_that_panics_does_not_leave_the_thread_waiting() {
        let digits = Digits::read();
        let spec = digits.spec(
            json!({"model": {"family": "autoencoder"}, "training": {"batch_size": 8, "max_steps": null}}),
            &digits.schema,
        );
        struct Panics;
        impl crate::training::Observer for Panics {
            fn observe(&mut self, report: Report<'_>) {
                assert!(!matches!(report, Report::Progress(_)), "as a step without memory");
            }
            fn takes_checkpoint(&self) -> bool {
                false
            }
        }
        let mut run = digits.run(&spec, &digits.schema);
        run.gathering.knowledge = Knowledge::Settled(true);
        let end = catch_unwind(AssertUnwindSafe(|| run.epoch(&mut Panics, &StopFlag::default()).is_ok()));
        assert!(end.is_err());
    }
}
