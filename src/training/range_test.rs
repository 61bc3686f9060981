//! A learning rate found by trying: the range test of Smith (2017).
//!
//! Before the first step the run takes steps whose rate grows from one to the next, from a thousandth of the optimizer's default
//! to a thousand times it, until the loss comes back to where it was or is lost. The rate at which the loss fell most steeply
//! is taken, and everything else is put back: the run then begins as if nothing had been tried. What is found depends on the
//! spec, the data and the number of threads alone, as the bytes of the model do, and checkpoints keep it.

use super::observer::{Chosen, Observer, Report};
use super::rate::LearningRate;
use super::sums::Sums;
use super::{Run, batch_size, batches};

/// Steps that are tried.
const STEPS: usize = 100;
/// The first rate and the last, as parts of the default.
const RANGE: (f64, f64) = (1e-3, 1e3);
/// What a loss keeps of those before it.
const MEMORY: f64 = 0.9;
/// Slopes are taken over so many steps to either side.
const REACH: usize = 4;
/// Points of the curve that are told.
const TOLD: usize = 4;

impl Run<'_> {
    /// Finds the learning rate where the spec leaves it to the program, and says which it is.
    pub(super) fn find_rate(&mut self, observer: &mut dyn Observer) {
        if self.spec.training.optimizer.lr != Some(LearningRate::Auto) {
            return;
        }
        let usual = self.optimizer.lr();
        let players = self.built.network.turns().len();
        let (found, curve) = if players > 1 { (None, Vec::new()) } else { self.try_rates(usual) };
        let rate = found.unwrap_or(usual);
        let text = match found {
            Some(rate) => format!(
                "The learning rate is {rate}: where the loss fell most steeply over {} steps of growing rates.",
                curve.len()
            ),
            None if players > 1 => format!(
                "The learning rate is {rate}, the optimizer's default: the losses of several players do not tell one."
            ),
            None => format!(
                "The learning rate is {rate}, the optimizer's default: at no rate that was tried did the loss fall."
            ),
        };
        self.optimizer.set_lr(rate);
        self.chosen_rate = Some(rate);
        let curve = curve.into_iter().step_by(TOLD).collect();
        observer.observe(Report::Chosen(Chosen { learning_rate: rate, text, curve }));
    }

    /// Rates and smoothed losses, and the rate that the steepest fall tells.
    fn try_rates(&mut self, usual: f64) -> (Option<f64>, Vec<[f64; 2]>) {
        let before = self.built.parameters.snapshot();
        let order = batches::order(&self.split.train, self.spec.training.seed, 0);
        let batches = batches::cut(&order, batch_size(self.spec));
        let groups: Vec<&[&[u32]]> = batches.chunks(self.spec.training.accumulate as usize).collect();
        self.trying = true;
        let mut curve = Curve::default();
        for step in 0..STEPS {
            let share = step as f64 / (STEPS - 1) as f64;
            let rate = usual * RANGE.0 * (RANGE.1 / RANGE.0).powf(share);
            self.optimizer.set_lr(rate);
            self.step = step as u64;
            self.sums = Sums::default();
            if self.train_step(groups[step % groups.len()], None, &[]).is_err() {
                break;
            }
            let loss = self.sums.loss().unwrap_or(f64::NAN);
            if !curve.note(rate, loss) {
                break;
            }
        }
        self.trying = false;
        self.built.parameters.restore(&before).expect("a snapshot of these parameters fits them; this is a bug");
        self.optimizer.reset();
        if let Some(average) = &mut self.average {
            average.restart(&mut self.built.parameters);
        }
        (self.step, self.sums, self.first_loss) = (0, Sums::default(), None);
        self.speed = super::Speed::new();
        // A rate in two digits is as exact as this is, and is read and written again as it was.
        (curve.steepest().map(two_digits), curve.points)
    }
}

/// Losses by the rate of the step, smoothed.
#[derive(Default)]
struct Curve {
    points: Vec<[f64; 2]>,
    memory: f64,
    weight: f64,
    least: f64,
}

impl Curve {
    /// Adds the loss of a step; false where there is nothing more to see.
    fn note(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.memory = MEMORY * self.memory + (1.0 - MEMORY) * loss;
        self.weight = MEMORY * self.weight + (1.0 - MEMORY);
        let smooth = self.memory / self.weight;
        self.least = if self.points.is_empty() { smooth } else { self.least.min(smooth) };
        self.points.push([rate, smooth]);
        let first = self.points[0][1];
        // It has climbed above where it began by as much as it had fallen.
        let fallen = first - self.least;
        self.points.len() < 2 * REACH || fallen <= 0.0 || smooth < first + fallen
    }

    /// The rate at which the loss fell most steeply over the logarithm of the rate, before it was least.
    fn steepest(&self) -> Option<f64> {
        let losses: Vec<f64> = self.points.iter().map(|point| point[1]).collect();
        let bottom = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b]))?;
        let slope = |at: usize| losses[at + REACH] - losses[at - REACH];
        let last = bottom.min(losses.len().saturating_sub(REACH + 1));
        let steepest = (REACH..=last).min_by(|a, b| slope(*a).total_cmp(&slope(*b)))?;
        (slope(steepest) < 0.0).then(|| self.points[steepest][0])
    }
}

fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_where_the_loss_falls_most_steeply() {
        let mut curve = Curve::default();
        let rates: Vec<f64> = (0..STEPS).map(|step| 1e-6 * 1e6_f64.powf(step as f64 / 99.0)).collect();
        // A logistic fall around 1e-3, and from 1e-1 on up again; losses below 0 are losses too.
        let loss = |rate: f64| -50.0 - 20.0 / (1.0 + (-4.0 * (rate.log10() + 3.0)).exp()) + (rate * 10.0).powi(4);
        let seen = rates.iter().take_while(|rate| curve.note(**rate, loss(**rate))).count();
        assert!(seen < STEPS, "it ends where the loss has come back");
        let found = curve.steepest().unwrap();
        // Smoothing sees a fall some steps after it.
        assert!((1e-3..5e-3).contains(&found), "{found}");
        assert_eq!((two_digits(0.001_234_5), two_digits(0.098_7)), (0.0012, 0.099));
    }

    #[test]
    fn a_loss_that_never_falls_tells_nothing() {
        let mut curve = Curve::default();
        (0..50).for_each(|step| {
            curve.note(1e-5 * f64::from(step + 1), 1.0 + f64::from(step));
        });
        assert_eq!(curve.steepest(), None);
        assert!(!curve.note(1.0, f64::NAN));
        assert_eq!(Curve::default().steepest(), None);
    }
}
