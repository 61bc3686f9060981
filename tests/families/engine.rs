//! What goes on around the steps: averages of weights, several batches a step, ends before the last epoch, half precision.

use latente::domain::job::StopReason;
use latente::models::ModelSpec;
use latente::training::TrainError;
use latente::training::rate::LearningRate;
use latente::training::spec::{Precision, TrainSpec};
use serde_json::json;

use super::{Digits, Watcher, ends_as_if_never_stopped};

fn plain(digits: &Digits, change: impl FnOnce(&mut TrainSpec)) -> TrainSpec {
    digits.spec(ModelSpec::default_of("autoencoder").unwrap(), change)
}

fn figure(metrics: &[(String, f64)], name: &str) -> f64 {
    metrics.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no figure {name}")).1
}

#[test]
fn averages_groups_limits_and_half_precision_go_on_where_they_were() {
    let digits = Digits::read();
    for family in ["autoencoder", "adversarial", "vae"] {
        let spec = digits.spec(ModelSpec::default_of(family).unwrap(), |spec| {
            spec.training.ema = Some(0.9);
            spec.training.accumulate = 2;
            spec.training.max_steps = Some(8);
            spec.training.precision = Precision::Bf16;
            spec.training.batch_size = Some(16);
        });
        // 162 rows in batches of 16 are eleven batches, which are six steps an epoch.
        ends_as_if_never_stopped(&digits, &spec, &[1, 4, 6, 7]);
    }
    let pretrained = plain(&digits, |spec| {
        spec.training.ema = Some(0.9);
        spec.training.pretraining = serde_json::from_value(json!({"epochs": 1})).unwrap();
    });
    ends_as_if_never_stopped(&digits, &pretrained, &[3, 7, 15]);
}

#[test]
fn several_batches_make_the_step_that_one_large_batch_makes() {
    let digits = Digits::read();
    let first_epoch = |batch, accumulate| {
        let spec = plain(&digits, |spec| {
            spec.training.batch_size = Some(batch);
            spec.training.accumulate = accumulate;
            spec.training.epochs = 3;
        });
        let (_, watcher) = digits.finish(&spec);
        let last = &watcher.epochs.last().unwrap().1;
        (
            watcher.steps,
            figure(last, "train/loss"),
            figure(last, "validation/loss"),
            figure(last, "train/gradient_norm"),
        )
    };
    let (large, grouped) = (first_epoch(54, 1), first_epoch(18, 3));
    assert_eq!(large.0, grouped.0, "both take as many steps");
    for (large, grouped) in [(large.1, grouped.1), (large.2, grouped.2), (large.3, grouped.3)] {
        assert!((large - grouped).abs() < 1e-4 * large.abs(), "{large} is not {grouped}");
    }
    assert!((first_epoch(18, 1).2 - large.2).abs() > 1e-2, "small steps would not be told from large ones");
}

#[test]
fn training_ends_after_as_many_steps_as_it_may_take() {
    let digits = Digits::read();
    let spec = plain(&digits, |spec| {
        spec.training.max_steps = Some(9);
        spec.training.epochs = 50;
    });
    let (finished, watcher) = digits.finish(&spec);
    assert_eq!((finished.stop_reason, watcher.steps), (StopReason::MaxSteps, 9));
    // Six steps an epoch: the second is half done, and measured as it is.
    assert_eq!(watcher.epochs.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [1, 2]);
    assert!(figure(&watcher.epochs[1].1, "validation/loss") < figure(&watcher.epochs[0].1, "validation/loss"));
}

#[test]
fn the_average_of_the_weights_is_what_is_measured_and_kept() {
    let digits = Digits::read();
    let rough = |ema| {
        plain(&digits, |spec| {
            spec.training.ema = ema;
            spec.training.epochs = 40;
            spec.training.optimizer.lr = Some(LearningRate::Set(0.03));
            spec.training.batch_size = Some(8);
            spec.training.early_stopping.patience = 0;
        })
    };
    let (averaged, watcher) = digits.finish(&rough(Some(0.99)));
    let (last, single) = digits.finish(&rough(None));
    assert_ne!(averaged.artifact, last.artifact);
    // At a rate that is too high for single weights to settle, their average lies lower.
    let late = |watcher: &Watcher| {
        watcher.epochs[30..].iter().map(|(_, metrics)| figure(metrics, "validation/loss")).sum::<f64>()
    };
    assert!(late(&watcher) < late(&single), "{} is not below {}", late(&watcher), late(&single));
    let loss = |finished: &latente::training::Finished| {
        finished.metrics.iter().find(|metric| metric.name == "validation/loss").unwrap().value
    };
    let best = watcher.epochs.iter().map(|(_, metrics)| figure(metrics, "validation/loss")).fold(f64::MAX, f64::min);
    assert!((best - loss(&averaged)).abs() < 1e-9 * best.abs(), "the kept weights are those that were measured");
}

#[test]
fn bfloat16_ends_near_32_bits() {
    let digits = Digits::read();
    let at = |precision| {
        let spec = plain(&digits, |spec| {
            spec.training.precision = precision;
            spec.training.epochs = 30;
        });
        let (finished, watcher) = digits.finish(&spec);
        (finished.artifact, figure(&watcher.epochs.last().unwrap().1, "validation/loss"))
    };
    let (full, half) = (at(Precision::F32), at(Precision::Bf16));
    assert_ne!(full.0, half.0);
    assert!((full.1 - half.1).abs() < 0.02 * full.1.abs(), "{} and {}", full.1, half.1);
}

#[test]
fn another_figure_than_the_loss_may_pick_the_epoch() {
    let digits = Digits::read();
    let by = |metric: &str| {
        digits.spec(ModelSpec::default_of("feed_forward").unwrap(), |spec| {
            spec.training.epochs = 12;
            spec.training.optimizer.lr = Some(LearningRate::Set(0.01));
            spec.training.early_stopping.metric = Some(metric.to_owned());
            spec.training.early_stopping.warmup_epochs = 2;
        })
    };
    let mut watcher = Watcher::default();
    let Err(TrainError::Refused(refusal)) = digits.train(&by("beauty"), None, &mut watcher) else {
        panic!("there is no such figure")
    };
    assert_eq!(refusal.errors[0].pointer, "/training/early_stopping/metric");
    assert!(refusal.detail.contains("accuracy"), "{refusal:?}");
    let (finished, watcher) = digits.finish(&by("accuracy"));
    let found: Vec<f64> = watcher.epochs.iter().map(|(_, metrics)| figure(metrics, "validation/accuracy")).collect();
    let best = finished.metrics.iter().find(|metric| metric.name == "best_epoch").unwrap().value as usize;
    let most = found[2..].iter().copied().fold(0.0, f64::max);
    assert_eq!(found[best - 1], most, "{found:?}");
    assert!(best > 2, "the warm-up keeps no epoch");
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let digits = Digits::read();
    let refused = |change: &dyn Fn(&mut TrainSpec)| {
        let mut spec = TrainSpec::new(
            "ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071".parse().unwrap(),
            ModelSpec::default_of("autoencoder").unwrap(),
        );
        change(&mut spec);
        let refusal = spec.resolve(&digits.schema, 180).unwrap_err();
        refusal.errors.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
    };
    assert_eq!(refused(&|spec| spec.training.max_steps = Some(0)), ["/training/max_steps"]);
    assert_eq!(refused(&|spec| spec.training.accumulate = 0), ["/training/accumulate"]);
    assert_eq!(refused(&|spec| spec.training.ema = Some(1.0)), ["/training/ema"]);
    let half = |spec: &mut TrainSpec| {
        spec.training.precision = Precision::Bf16;
        spec.network.dropout = 0.5;
    };
    assert_eq!(refused(&half), ["/training/precision"]);
}

#[test]
fn a_rate_that_is_left_to_the_program_trains_about_as_well_as_the_best_of_several() {
    let digits = Digits::read();
    for family in ["autoencoder", "vae"] {
        let run = |rate| {
            let spec = digits.spec(ModelSpec::default_of(family).unwrap(), |spec| {
                spec.training.optimizer.lr = Some(rate);
                spec.training.epochs = 12;
            });
            let (_, watcher) = digits.finish(&spec);
            let loss = |epoch: &(u32, Vec<(String, f64)>)| figure(&epoch.1, "validation/loss");
            (watcher.epochs.iter().map(loss).fold(f64::MAX, f64::min), watcher.chosen)
        };
        let (auto, chosen) = run(LearningRate::Auto);
        let chosen = chosen.unwrap();
        assert!((3e-4..0.2).contains(&chosen.learning_rate) && chosen.curve.len() > 5, "{chosen:?}");
        let rates = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
        let mut losses = rates.map(|rate| run(LearningRate::Set(rate)).0);
        println!("{family}: {auto} at {} beside {losses:?}", chosen.learning_rate);
        losses.sort_by(f64::total_cmp);
        assert!(auto < losses[1], "{family}: {auto} at {} beside {losses:?}", chosen.learning_rate);
    }
}

#[test]
fn a_rate_that_was_found_is_kept_by_checkpoints_and_players_have_the_default() {
    let digits = Digits::read();
    let auto = |family| {
        digits.spec(ModelSpec::default_of(family).unwrap(), |spec| {
            spec.training.optimizer.lr = Some(LearningRate::Auto);
            spec.training.ema = Some(0.9);
            spec.training.optimizer.warmup = serde_json::from_value(json!({"steps": 5})).unwrap();
        })
    };
    ends_as_if_never_stopped(&digits, &auto("denoising"), &[1, 5, 8]);
    // Nothing of the trial is left: the same rate said outright ends with the same weights.
    let (_, watcher) = digits.finish(&auto("denoising"));
    let rate = watcher.chosen.unwrap().learning_rate;
    let told = |rate| {
        let mut spec = auto("denoising");
        spec.training.optimizer.lr = Some(rate);
        digits.finish(&spec).1.epochs
    };
    assert_eq!(told(LearningRate::Auto), told(LearningRate::Set(rate)));
    let (_, watcher) = digits.finish(&auto("adversarial"));
    let chosen = watcher.chosen.unwrap();
    assert!(chosen.learning_rate == 1e-3 && chosen.text.contains("players"), "{chosen:?}");
}
