//! An average of the weights over steps, which often generalises better than the weights of any one step (Polyak and Juditsky,
//! 1992).

use tch::Tensor;

use crate::models::parameters::{MismatchError, Parameters, values};

/// An exponential moving average of all trained numbers.
pub struct Average {
    /// The share that stays at each step.
    decay: f64,
    flat: Tensor, // [parameters]
}

impl Average {
    /// An average that begins at the weights as they are.
    pub fn new(decay: f64, parameters: &mut Parameters) -> Self {
        let _guard = tch::no_grad_guard();
        Self { decay, flat: parameters.flat().copy() }
    }

    /// Begins again at the weights as they are.
    pub fn restart(&mut self, parameters: &mut Parameters) {
        let _guard = tch::no_grad_guard();
        self.flat.copy_(parameters.flat());
    }

    /// Takes the weights in after a step, of which `done` came before. At first the share that stays is (1 + done) / (10 + done),
    /// so that the first weights are soon forgotten.
    pub fn note(&mut self, parameters: &mut Parameters, done: u64) {
        let _guard = tch::no_grad_guard();
        let stays = self.decay.min((1 + done) as f64 / (10 + done) as f64);
        let _ = self.flat.lerp_(parameters.flat(), 1.0 - stays);
    }

    /// Puts the average in the place of the weights, and the weights in its own.
    pub fn swap(&mut self, parameters: &mut Parameters) {
        let _guard = tch::no_grad_guard();
        let weights = parameters.flat().copy();
        parameters.flat().copy_(&self.flat);
        self.flat.copy_(&weights);
    }

    /// A copy for a checkpoint.
    pub fn state(&self) -> Vec<f32> {
        values(&self.flat)
    }

    /// Puts a copy back.
    ///
    /// # Errors
    /// The copy is of another network.
    pub fn restore(&mut self, state: &[f32]) -> Result<(), MismatchError> {
        let _guard = tch::no_grad_guard();
        if state.len() != self.flat.numel() {
            let (found, expected) = (vec![state.len()], vec![self.flat.numel()]);
            return Err(MismatchError::Shape { name: "average".to_owned(), found, expected });
        }
        self.flat.copy_(&Tensor::from_slice(state));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::Builder;
    use tch::Device;

    #[test]
    fn the_average_follows_the_weights_and_changes_places_with_them() {
        let mut builder = Builder::new(1, Device::Cpu);
        let weight = builder.constant("weight", &[2], 1.0);
        let mut parameters = builder.finish();
        let mut average = Average::new(0.75, &mut parameters);
        let _ = tch::no_grad(|| parameters.flat().fill_(2.0));
        average.note(&mut parameters, 0); // a tenth stays
        assert!((average.state()[0] - 1.9).abs() < 1e-6);
        average.note(&mut parameters, 1000); // three quarters stay
        assert!((average.state()[0] - (0.75 * 1.9 + 0.25 * 2.0)).abs() < 1e-6);
        let before = average.state();
        average.swap(&mut parameters);
        assert_eq!((values(&weight), average.state()), (before.clone(), vec![2.0; 2]));
        average.swap(&mut parameters);
        assert_eq!((values(&weight), average.state()), (vec![2.0; 2], before));
        assert!(average.restore(&[0.0; 3]).is_err());
    }
}
