//! Asynchronous successive halving (ASHA: Li et al., 2020): which trials go on from a rung, and which end there.
//!
//! Pure: from where the trials stand and what they brought to the rungs follows what is to be done. The best 1/reduction of those that
//! came to a rung go on, as soon as they are seen to be among them; nobody waits for all. Here the number of trials is known from the
//! start, so two things are added. Once nobody can come to a rung any more, those that rest there have lost, and end. And of such a
//! rung at least one goes on, however few came, so that a sweep ends with a model.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::domain::sweep::Goal;

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a worker, trains, or was paused by somebody: it will come to its rung.
    Active,
    /// It rests at its rung.
    Resting,
    /// It has a model.
    Finished,
    /// It ended without one.
    Lost,
}

/// A trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Its number.
    pub number: u32,
    /// The rung that it rests at or is on its way to, from 0; the number of rungs on its way to the end.
    pub rung: usize,
    /// Where it stands.
    pub standing: Standing,
}

/// What a trial brought to a rung.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// The number of the trial.
    pub number: u32,
    /// The rung, from 0.
    pub rung: usize,
    /// The figure; absent where it was not recorded, which is worse than any.
    pub value: Option<f64>,
}

/// What is to be done with trials that rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// These go on to the next rung.
    pub promoted: Vec<u32>,
    /// These end.
    pub dropped: Vec<u32>,
}

/// Epochs of the rungs: `first`, and `reduction` times as many each time, as long as they are fewer than `epochs`.
pub fn rungs(first: u32, reduction: u32, epochs: u32) -> Vec<u32> {
    std::iter::successors(Some(first), |rung| rung.checked_mul(reduction)).take_while(|rung| *rung < epochs).collect()
}

/// Decides about all trials that rest.
pub fn decide(rungs: usize, reduction: u32, goal: Goal, trials: &[Contender], arrivals: &[Arrival]) -> Decision {
    let mut trials: HashMap<u32, Contender> = trials.iter().map(|trial| (trial.number, *trial)).collect();
    let mut decision = Decision::default();
    for rung in 0..rungs {
        let mut came: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.rung == rung).collect();
        let all = came.len();
        // One that was cancelled or failed makes room for the next, but has taken part.
        came.retain(|arrival| trials.get(&arrival.number).is_some_and(|trial| trial.standing != Standing::Lost));
        came.sort_by(|one, other| match goal.order(one.value, other.value) {
            Ordering::Equal => one.number.cmp(&other.number),
            order => order,
        });
        let is_closed = !trials.values().any(|trial| trial.standing == Standing::Active && trial.rung <= rung);
        let going_on = (all / reduction as usize).max(usize::from(is_closed));
        for (place, arrival) in came.into_iter().enumerate() {
            let trial = trials.get_mut(&arrival.number).expect("others were left out");
            if trial.standing != Standing::Resting || trial.rung != rung {
                continue;
            }
            if place < going_on {
                (trial.standing, trial.rung) = (Standing::Active, rung + 1);
                decision.promoted.push(trial.number);
            } else if is_closed {
                trial.standing = Standing::Lost;
                decision.dropped.push(trial.number);
            }
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Active, Finished, Lost, Resting};

    fn contender(number: u32, rung: usize, standing: Standing) -> Contender {
        Contender { number, rung, standing }
    }

    fn arrival(number: u32, rung: usize, value: f64) -> Arrival {
        Arrival { number, rung, value: value.is_finite().then_some(value) }
    }

    #[track_caller]
    fn check(trials: &[Contender], arrivals: &[Arrival], promoted: &[u32], dropped: &[u32]) {
        let decision = decide(2, 3, Goal::Minimize, trials, arrivals);
        assert_eq!((decision.promoted.as_slice(), decision.dropped.as_slice()), (promoted, dropped));
    }

    #[test]
    fn rungs_are_below_the_whole() {
        assert_eq!(rungs(1, 3, 27), [1, 3, 9]);
        assert_eq!(rungs(1, 3, 28), [1, 3, 9, 27]);
        assert!(rungs(5, 2, 5).is_empty());
        assert_eq!(rungs(1 << 30, 4, u32::MAX), [1 << 30]);
    }

    #[test]
    fn the_best_third_goes_on_as_soon_as_three_have_come() {
        let two =
            [contender(1, 0, Resting), contender(2, 0, Resting), contender(3, 0, Active), contender(4, 0, Active)];
        check(&two, &[arrival(1, 0, 2.0), arrival(2, 0, 1.0)], &[], &[]);
        let mut three = two;
        three[2].standing = Resting;
        let came = [arrival(1, 0, 2.0), arrival(2, 0, 1.0), arrival(3, 0, 3.0)];
        check(&three, &came, &[2], &[]);
        // It has gone on. The fourth is not among the best third of four, and nobody else will come.
        let mut four = three;
        (four[1].rung, four[1].standing) = (1, Active);
        let mut later = came.to_vec();
        later.push(arrival(4, 0, 5.0));
        four[3].standing = Resting;
        check(&four, &later, &[], &[1, 3, 4]);
        let maximum = decide(2, 3, Goal::Maximize, &three, &came);
        assert_eq!(maximum.promoted, [3]);
    }

    #[test]
    fn the_last_to_come_closes_a_rung_and_one_goes_on_however_few_they_are() {
        let rest = [contender(1, 0, Resting), contender(2, 0, Resting)];
        check(&rest, &[arrival(1, 0, 2.0), arrival(2, 0, 1.0)], &[2], &[1]);
        // Alone at the second rung, after the others lost: it goes on to the end.
        let trials = [contender(1, 0, Lost), contender(2, 1, Resting)];
        check(&trials, &[arrival(1, 0, 2.0), arrival(2, 0, 1.0), arrival(2, 1, 0.5)], &[2], &[]);
    }

    #[test]
    fn a_rung_is_open_while_somebody_below_may_come() {
        let trials = [contender(1, 1, Resting), contender(2, 1, Resting), contender(3, 0, Active)];
        let came = [arrival(1, 0, 1.0), arrival(2, 0, 2.0), arrival(1, 1, 1.0), arrival(2, 1, 2.0)];
        check(&trials, &came, &[], &[]);
        let mut closed = trials;
        closed[2].standing = Lost;
        check(&closed, &came, &[1], &[2]);
    }

    #[test]
    fn a_figure_that_is_not_there_is_worse_than_any_and_equal_ones_go_by_number() {
        let rest =
            [contender(1, 0, Resting), contender(2, 0, Resting), contender(3, 0, Resting), contender(4, 0, Active)];
        check(&rest, &[arrival(1, 0, f64::NAN), arrival(3, 0, 2.0), arrival(2, 0, 2.0)], &[2], &[]);
    }

    #[test]
    fn one_that_was_cancelled_makes_room_and_one_with_a_model_keeps_its_place() {
        let came = [arrival(1, 0, 1.0), arrival(2, 0, 2.0), arrival(3, 0, 3.0)];
        let trials = [contender(1, 0, Lost), contender(2, 0, Resting), contender(3, 0, Resting)];
        check(&trials, &came, &[2], &[3]);
        // It stopped early and stands in every rung with what it has.
        let trials = [contender(1, 0, Finished), contender(2, 0, Resting), contender(3, 0, Resting)];
        let early = [came.as_slice(), &[arrival(1, 1, 1.0)]].concat();
        check(&trials, &early, &[], &[2, 3]);
    }

    #[test]
    fn every_sweep_comes_to_an_end_with_a_trial_that_trained_to_its_own() {
        // Workers take the oldest trial; what a trial brings is its number, turned round by a prime.
        for (count, reduction, levels) in [(1, 2, 3), (2, 3, 1), (9, 3, 2), (27, 3, 3), (50, 4, 3), (7, 2, 5)] {
            let mut trials: Vec<Contender> = (1..=count).map(|number| contender(number, 0, Active)).collect();
            let mut arrivals = Vec::new();
            let mut steps = 0;
            while let Some(at) = trials.iter().position(|trial| trial.standing == Active) {
                let trial = &mut trials[at];
                if trial.rung == levels {
                    trial.standing = Finished;
                } else {
                    trial.standing = Resting;
                    arrivals.push(arrival(trial.number, trial.rung, f64::from(trial.number * 7 % 53)));
                }
                let decision = decide(levels, reduction, Goal::Minimize, &trials, &arrivals);
                for trial in &mut trials {
                    if decision.promoted.contains(&trial.number) {
                        (trial.standing, trial.rung) = (Active, trial.rung + 1);
                    } else if decision.dropped.contains(&trial.number) {
                        trial.standing = Lost;
                    }
                }
                steps += 1;
                assert!(steps <= count as usize * (levels + 1));
            }
            assert!(trials.iter().all(|trial| matches!(trial.standing, Finished | Lost)), "{count}: {trials:?}");
            let best = trials.iter().min_by_key(|trial| trial.number * 7 % 53).unwrap();
            assert_eq!(best.standing, Finished, "the best one at every rung goes through all of them");
        }
    }
}
