//! Everything a run needs to go on as if it had never been interrupted.
//!
//! Noise and shuffles are keyed by step, so a position stands for the state of every generator. What remains are the
//! weights, the optimizer's memory, the best epoch, and the sums of the epoch that is under way.

use serde::{Deserialize, Serialize};
use tch::Device;

use super::bundle::{Bundle, BundleError, flat};
use super::device::Fingerprint;
use super::optimizer::OptimizerState;
use super::schedule::Plateau;
use super::stopping::Best;
use super::sums::Sums;
use crate::models::parameters::Snapshot;

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What is small.
    pub state: RunState,
    /// Weights and statistics.
    pub current: Snapshot,
    /// Those of the best epoch; absent before the first.
    pub best: Option<Snapshot>,
    /// What the optimizer remembers.
    pub optimizer: OptimizerState,
    /// The average of the weights, where the job keeps one.
    pub average: Option<Vec<f32>>,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the epoch under way.
    pub step: u64,
    /// Sums over those steps.
    pub sums: Sums,
    /// The best epoch.
    pub best: Best,
    /// What the schedule remembers of the losses of epochs.
    #[serde(default)]
    pub plateau: Plateau,
    /// The size of the loss of the first step.
    #[serde(default)]
    pub first_loss: Option<f64>,
    /// The learning rate, where it was found by a range test.
    #[serde(default)]
    pub chosen_rate: Option<f64>,
    /// What must be equal for the bytes to be equal.
    pub fingerprint: Fingerprint,
}

impl RunState {
    /// Before the first step.
    pub fn start(device: Device) -> Self {
        Self {
            epoch: 0,
            step: 0,
            sums: Sums::default(),
            best: Best::default(),
            plateau: Plateau::default(),
            first_loss: None,
            chosen_rate: None,
            fingerprint: Fingerprint::here(device),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    optimizer_steps: u64,
    run: RunState,
}

const FORMAT: &str = "latente.checkpoint";
const VERSION: u32 = 2;

impl Checkpoint {
    /// The bytes of a checkpoint file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            optimizer_steps: self.optimizer.steps,
            run: self.state.clone(),
        };
        let mut tensors = vec![
            flat("current.trained", self.current.trained.clone()),
            flat("current.buffers", self.current.buffers.clone()),
            flat("optimizer.first", self.optimizer.first.clone()),
            flat("optimizer.second", self.optimizer.second.clone()),
        ];
        if let Some(best) = &self.best {
            tensors.push(flat("best.trained", best.trained.clone()));
            tensors.push(flat("best.buffers", best.buffers.clone()));
        }
        if let Some(average) = &self.average {
            tensors.push(flat("average.trained", average.clone()));
        }
        Bundle { header: serde_json::to_string(&header).expect("a header is JSON"), tensors }.to_bytes()
    }

    /// Reads a checkpoint file.
    ///
    /// # Errors
    /// The bytes are damaged or of another format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut bundle = Bundle::from_bytes(bytes)?;
        let header: Header = serde_json::from_str(&bundle.header)?;
        if header.format != FORMAT || header.version != VERSION {
            return Err(BundleError::Content("the checkpoint is of another format or version".to_owned()));
        }
        let current = Snapshot { trained: bundle.take("current.trained")?, buffers: bundle.take("current.buffers")? };
        let (first, second) = (bundle.take("optimizer.first")?, bundle.take("optimizer.second")?);
        let best = match bundle.take("best.trained") {
            Ok(trained) => Some(Snapshot { trained, buffers: bundle.take("best.buffers")? }),
            Err(_) => None,
        };
        let average = bundle.take("average.trained").ok();
        let whole = current.trained.len();
        // An optimizer may do without a memory.
        let memories = [&first, &second].into_iter().all(|memory| [0, whole].contains(&memory.len()));
        if !memories
            || average.as_ref().is_some_and(|average| average.len() != whole)
            || best.as_ref().is_some_and(|best| best.trained.len() != whole)
        {
            return Err(BundleError::Content("the parts of the checkpoint have different lengths".to_owned()));
        }
        let optimizer = OptimizerState { steps: header.optimizer_steps, first, second };
        Ok(Self { state: header.run, current, best, optimizer, average })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(best: bool) -> Checkpoint {
        let snapshot = |value: f32| Snapshot { trained: vec![value; 3], buffers: vec![value] };
        let mut sums = Sums::default();
        sums.add(7, 0.1 + 0.2, &[("kl", 1.0 / 3.0)], 2.5);
        Checkpoint {
            state: RunState {
                epoch: 4,
                step: 17,
                sums,
                best: Best { epoch: 3, loss: Some(0.1_f64.sqrt()), stale: 1 },
                plateau: Plateau::default(),
                chosen_rate: Some(0.02),
                first_loss: Some(0.1 + 0.7),
                fingerprint: Fingerprint::here(Device::Cpu),
            },
            current: snapshot(1.0),
            best: best.then(|| snapshot(2.0)),
            optimizer: OptimizerState { steps: 99, first: vec![3.0; 3], second: vec![f32::MIN_POSITIVE; 3] },
            average: best.then(|| vec![0.25; 3]),
        }
    }

    #[test]
    fn a_checkpoint_survives_its_bytes_to_the_last_bit() {
        for best in [false, true] {
            let checkpoint = checkpoint(best);
            assert_eq!(Checkpoint::from_bytes(&checkpoint.to_bytes()).unwrap(), checkpoint);
        }
    }

    #[test]
    fn a_damaged_checkpoint_is_refused() {
        let bytes = checkpoint(true).to_bytes();
        assert!(Checkpoint::from_bytes(&bytes[..bytes.len() - 4]).is_err());
        let mut odd = checkpoint(true);
        odd.optimizer.first.pop();
        assert!(Checkpoint::from_bytes(&odd.to_bytes()).is_err());
    }
}
