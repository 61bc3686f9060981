//! A learning rate found by trying: the range test of Smith (2017).
//!
//! Before the first step the run takes steps whose rate grows from one to the next, from a thousandth of the optimizer's default
//! to a thousand times it, until the loss comes back to where it was or is lost. After each step the loss of the same few training
//! rows is taken, so that steps on small batches are not judged by which rows they had. The rate in the middle between the one at which it
//! fell most steeply and the one at which it was least is taken, and everything else is put back: the run then begins as if nothing had been tried. What is found depends on the
//! spec, the data and the number of threads alone, as the bytes of the model do, and checkpoints keep it.

use super::observer::{Chosen, Observer, Report};
use super::rate::LearningRate;
use super::sums::Sums;
use super::{Run, batch_size, batches, evaluation};

/// Steps that are tried.
const STEPS: usize = 100;
/// The first rate and the last, as parts of the default.
const RANGE: (f64, f64) = (1e-3, 1e3);
/// Training rows that judge.
const JUDGES: usize = 256;
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
                "The learning rate is {rate}: between where the loss fell most steeply and where it was least, over {} steps of growing rates.",
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
        let judges = batches::some(&self.split.train, JUDGES, self.spec.training.seed).into_owned();
        let epoch = f64::from(self.spec.training.epochs);
        let judged = |run: &Self| evaluation::loss(run.subject(), &judges, epoch).loss().unwrap_or(f64::NAN);
        self.trying = true;
        let mut curve = Curve::from(judged(self));
        for step in 0..STEPS {
            let share = step as f64 / (STEPS - 1) as f64;
            let rate = usual * RANGE.0 * (RANGE.1 / RANGE.0).powf(share);
            self.optimizer.set_lr(rate);
            self.step = step as u64;
            let done = self.train_step(groups[step % groups.len()], None, &[]).and_then(|()| self.catch_up());
            if done.is_err() || !curve.note(rate, judged(self)) {
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
        (curve.middle().map(two_digits), curve.points)
    }
}

/// Losses by the rate of the step.
struct Curve {
    points: Vec<[f64; 2]>,
    first: f64,
    least: f64,
}

impl Curve {
    /// Begins where the loss is before the first step.
    fn from(loss: f64) -> Self {
        Self { points: Vec::new(), first: loss, least: loss }
    }

    /// Adds the loss after a step; false where there is nothing more to see.
    fn note(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.points.push([rate, loss]);
        self.least = self.least.min(loss);
        // It has climbed above where it began by as much as it had fallen; or it never fell, and the rates are not small any more.
        let fallen = self.first - self.least;
        loss < self.first + fallen || (fallen <= 0.0 && self.points.len() < STEPS / 2)
    }

    /// The rate in the middle, by its logarithm, between that at which the loss fell most steeply and that at which it was least:
    /// at the first it is safe and slow, at the second on the edge.
    fn middle(&self) -> Option<f64> {
        let losses: Vec<f64> = self.points.iter().map(|point| point[1]).collect();
        let bottom = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b]))?;
        let slope = |at: usize| losses[at + REACH] - losses[at - REACH];
        let last = bottom.min(losses.len().saturating_sub(REACH + 1));
        let steepest = (REACH..=last).min_by(|a, b| slope(*a).total_cmp(&slope(*b)))?;
        (slope(steepest) < 0.0).then(|| (self.points[steepest][0] * self.points[bottom][0]).sqrt())
    }
}

fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_between_the_steepest_fall_and_the_least_loss() {
        // A logistic fall around 1e-3, and from 1e-1 on up again; losses below 0 are losses too.
        let loss = |rate: f64| -50.0 - 20.0 / (1.0 + (-4.0 * (rate.log10() + 3.0)).exp()) + (rate * 10.0).powi(4);
        let mut curve = Curve::from(-50.0);
        let rates = (0..STEPS).map(|step| 1e-6 * 1e6_f64.powf(step as f64 / 99.0));
        let seen = rates.take_while(|rate| curve.note(*rate, loss(*rate))).count();
        assert!(seen < STEPS, "it ends where the loss has come back");
        let found = curve.middle().unwrap();
        // Steepest at 1e-3, least where the fourth power begins to outweigh what is left of the fall, near 2e-2.
        assert!((2.5e-3..8e-3).contains(&found), "{found}");
        assert_eq!((two_digits(0.001_234_5), two_digits(0.098_7)), (0.0012, 0.099));
    }

    #[test]
    fn a_loss_that_never_falls_tells_nothing() {
        let mut curve = Curve::from(1.0);
        let seen = (0..STEPS).take_while(|step| curve.note(1e-5, 1.0 + *step as f64)).count();
        assert_eq!((curve.middle(), seen), (None, STEPS / 2 - 1));
        assert!(!curve.note(1.0, f64::NAN));
        assert_eq!(Curve::from(1.0).middle(), None);
    }
}
