//! What was asked of each model since the server started, and which models are in memory. Counters that nobody waits for: the
//! inference thread adds to them, whoever wants to know reads them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::id::ModelId;
use crate::domain::limits::BATCH_SIZES;

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

impl Total {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.ns += nanoseconds(took);
    }
}

/// What was asked of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Requests that were answered, from the question to the answer.
    pub success: Total,
    /// Requests that were not, although they were questions that the model takes.
    pub failure: Total,
    /// What questions waited for the inference thread.
    pub queue: Total,
    /// Joining the rows of questions that go through the model together, counted for each question.
    pub input: Total,
    /// Going through the model.
    pub infer: Total,
    /// Dividing the answer among those who asked.
    pub output: Total,
    /// Rows that went through the model.
    pub rows: u64,
    /// Passes, each of the rows of one question or of several.
    pub executions: u64,
    /// When the last one was, in milliseconds since 1970; 0 when there was none.
    pub last_ms: u64,
    /// Passes by their number of rows.
    pub batches: BTreeMap<u64, Batch>,
}

/// Passes of one size: joining, going through the model, dividing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Joining rows.
    pub input: Total,
    /// Going through the model.
    pub infer: Total,
    /// Dividing the answer.
    pub output: Total,
}

/// One pass through a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Execution<'a> {
    /// How long each of its questions had waited.
    pub waits: &'a [Duration],
    pub rows: usize,
    pub input: Duration,
    pub infer: Duration,
    pub output: Duration,
}

#[derive(Default)]
struct Timed {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Timed {
    fn add(&self, times: u64, took: Duration) {
        self.count.fetch_add(times, Relaxed);
        self.ns.fetch_add(nanoseconds(took).saturating_mul(times), Relaxed);
    }

    fn read(&self) -> Total {
        Total { count: self.count.load(Relaxed), ns: self.ns.load(Relaxed) }
    }
}

#[derive(Default)]
struct Counters {
    success: Timed,
    failure: Timed,
    queue: Timed,
    input: Timed,
    infer: Timed,
    output: Timed,
    rows: AtomicU64,
    executions: AtomicU64,
    last_ms: AtomicU64,
    batches: Mutex<BTreeMap<u64, Batch>>,
}

impl Counters {
    fn read(&self) -> Activity {
        Activity {
            success: self.success.read(),
            failure: self.failure.read(),
            queue: self.queue.read(),
            input: self.input.read(),
            infer: self.infer.read(),
            output: self.output.read(),
            rows: self.rows.load(Relaxed),
            executions: self.executions.load(Relaxed),
            last_ms: self.last_ms.load(Relaxed),
            batches: held(&self.batches).clone(),
        }
    }
}

/// The counters of all models. Cheap to clone.
#[derive(Clone, Default)]
pub struct Statistics {
    models: Arc<Mutex<HashMap<ModelId, Arc<Counters>>>>,
    loaded: Arc<Mutex<BTreeMap<ModelId, u64>>>,
}

impl Statistics {
    /// What was asked of a model.
    pub fn activity(&self, model: ModelId) -> Activity {
        let counters = held(&self.models).get(&model).cloned();
        counters.map(|counters| counters.read()).unwrap_or_default()
    }

    /// Models in memory, and the bytes that each takes there.
    pub fn loaded(&self) -> BTreeMap<ModelId, u64> {
        held(&self.loaded).clone()
    }

    pub(super) fn set_loaded(&self, sizes: BTreeMap<ModelId, u64>) {
        *held(&self.loaded) = sizes;
    }

    /// A request has ended, whatever the number of its questions.
    pub(super) fn ended(&self, model: ModelId, answered: bool, took: Duration) {
        let counters = self.of(model);
        let timed = if answered { &counters.success } else { &counters.failure };
        timed.add(1, took);
    }

    /// Questions have gone through a model together.
    pub(super) fn executed(&self, model: ModelId, execution: &Execution<'_>) {
        let Execution { waits, rows, input, infer, output } = *execution;
        let counters = self.of(model);
        let (questions, rows) = (waits.len() as u64, rows as u64);
        waits.iter().for_each(|wait| counters.queue.add(1, *wait));
        counters.input.add(questions, input);
        counters.infer.add(questions, infer);
        counters.output.add(questions, output);
        counters.rows.fetch_add(rows, Relaxed);
        counters.executions.fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        counters.last_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
        let mut batches = held(&counters.batches);
        // Beyond so many different sizes they are told apart only by the power of two above them.
        let is_new = !batches.contains_key(&rows) && batches.len() >= BATCH_SIZES;
        let batch = batches.entry(if is_new { rows.next_power_of_two() } else { rows }).or_default();
        batch.input.add(input);
        batch.infer.add(infer);
        batch.output.add(output);
    }

    /// A model is gone.
    pub(super) fn forget(&self, model: ModelId) {
        held(&self.models).remove(&model);
    }

    fn of(&self, model: ModelId) -> Arc<Counters> {
        held(&self.models).entry(model).or_default().clone()
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is done under these locks that could leave anything half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(waits: &[Duration], rows: usize) -> Execution<'_> {
        let [input, infer, output] = [1, 10, 2].map(Duration::from_nanos);
        Execution { waits, rows, input, infer, output }
    }

    #[test]
    fn questions_of_one_pass_count_for_themselves_and_the_pass_once() {
        let statistics = Statistics::default();
        let model = ModelId::new();
        statistics.executed(model, &execution(&[Duration::from_nanos(3), Duration::from_nanos(4)], 5));
        statistics.executed(model, &execution(&[Duration::from_nanos(5)], 5));
        statistics.ended(model, true, Duration::from_nanos(50));
        statistics.ended(model, false, Duration::from_nanos(7));
        let activity = statistics.activity(model);
        assert_eq!((activity.rows, activity.executions), (10, 2));
        assert_eq!(activity.queue, Total { count: 3, ns: 12 });
        assert_eq!(activity.infer, Total { count: 3, ns: 30 });
        assert_eq!((activity.success, activity.failure), (Total { count: 1, ns: 50 }, Total { count: 1, ns: 7 }));
        assert_eq!(activity.batches[&5].infer, Total { count: 2, ns: 20 });
        assert!(activity.last_ms > 0);
        statistics.forget(model);
        assert_eq!(statistics.activity(model), Activity::default());
    }

    #[test]
    fn sizes_of_batches_take_bounded_memory() {
        let statistics = Statistics::default();
        let model = ModelId::new();
        for rows in 1..=2 * BATCH_SIZES {
            statistics.executed(model, &execution(&[Duration::ZERO], rows));
        }
        let batches = statistics.activity(model).batches;
        assert!(batches.len() <= BATCH_SIZES + 32);
        assert_eq!(batches.values().map(|batch| batch.infer.count).sum::<u64>(), 2 * BATCH_SIZES as u64);
    }
}
