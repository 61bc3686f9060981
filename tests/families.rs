//! The contract that every family passes, over the whole table. A new family is tested by being in it.

#[path = "families/engine.rs"]
mod engine;
#[path = "families/exports.rs"]
mod exports;
#[path = "families/gaps.rs"]
mod gaps;
#[path = "families/networks.rs"]
mod networks;
#[path = "families/onnx.rs"]
mod onnx;
#[path = "families/scaling.rs"]
mod scaling;

use std::path::PathBuf;

use latente::data::dataset::Role;
use latente::data::dataset::Schema;
use latente::data::preparation::ScalingSpec;
use latente::data::rows::RowFile;
use latente::data::{IngestSpec, ingest};
use latente::domain::id::DatasetId;
use latente::domain::job::StopReason;
use latente::domain::refusal::{Code, Faults};
use latente::domain::shape::ImageShape;
use latente::models::likelihood::{LikelihoodKind, LikelihoodSpec, Variance};
use latente::models::network::{NetworkSpec, Norm};
use latente::models::noise::{Noise, Purpose};
use latente::models::{ModelSpec, Step, families};
use latente::training::artifact::{Draw, ModelHeader, TrainedModel};
use latente::training::batches::Batches;
use latente::training::checkpoint::Checkpoint;
use latente::training::observer::{Chosen, Observer, Report};
use latente::training::optimizer::Optimizer;
use latente::training::presets::{Rows, presets};
use latente::training::rate::LearningRate;
use latente::training::scoring::Measure;
use latente::training::spec::{Precision, TrainSpec};
use latente::training::stopping::StopFlag;
use latente::training::{Assignment, Finished, Outcome, TrainError, train};
use serde_json::json;
use tch::Device;

/// Some digits as canonical rows.
struct Digits {
    _directory: tempfile::TempDir,
    rows: RowFile,
    schema: Schema,
}

impl Digits {
    fn read() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("rows");
        let spec = IngestSpec {
            image: Some(ImageShape { channels: 1, height: 8, width: 8 }),
            ..IngestSpec::default().with_role(Role::Label, ["digit"])
        };
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/digits.csv.gz");
        let ingested = ingest(&source, &target, &spec, 1 << 30).unwrap();
        // A tenth is enough here, and keeps the tests short.
        let width = ingested.schema.kept().count();
        let short = directory.path().join("short");
        std::fs::write(&short, &std::fs::read(&target).unwrap()[..180 * width * 4]).unwrap();
        Self { rows: RowFile::open(&short, width, 180).unwrap(), schema: ingested.schema, _directory: directory }
    }

    fn spec(&self, model: ModelSpec, change: impl FnOnce(&mut TrainSpec)) -> TrainSpec {
        let mut spec = TrainSpec::new("ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071".parse().unwrap(), model);
        spec.network.hidden = Some(vec![32]);
        spec.training.epochs = 4;
        spec.training.batch_size = Some(32);
        change(&mut spec);
        spec.resolve(&self.schema, self.rows.len() as u64).unwrap()
    }

    fn train(
        &self,
        spec: &TrainSpec,
        resume: Option<Checkpoint>,
        watcher: &mut Watcher,
    ) -> Result<Outcome, TrainError> {
        let assignment = Assignment { spec, schema: &self.schema, rows: &self.rows, device: Device::Cpu };
        let stop = watcher.stop.clone();
        train(&assignment, resume, watcher, &stop)
    }

    fn finish(&self, spec: &TrainSpec) -> (Finished, Watcher) {
        let mut watcher = Watcher::default();
        match self.train(spec, None, &mut watcher).unwrap() {
            Outcome::Finished(finished) => (finished, watcher),
            Outcome::Stopped => panic!("nobody asked it to stop"),
        }
    }
}

/// Remembers what a run reported, and stops it after so many steps.
#[derive(Default)]
struct Watcher {
    stop: StopFlag,
    stop_after_steps: Option<u64>,
    steps: u64,
    epochs: Vec<(u32, Vec<(String, f64)>)>,
    checkpoint: Option<Vec<u8>>,
    warnings: Vec<String>,
    chosen: Option<Chosen>,
}

impl Observer for Watcher {
    fn observe(&mut self, report: Report<'_>) {
        match report {
            Report::Progress(progress) if progress.step != self.steps => {
                self.steps = progress.step;
                if self.stop_after_steps == Some(self.steps) {
                    self.stop.raise();
                }
            }
            Report::Epoch { epoch, metrics } => {
                self.epochs.push((epoch, metrics.into_iter().map(|metric| (metric.name, metric.value)).collect()));
            }
            Report::Checkpoint(checkpoint) => self.checkpoint = Some(checkpoint.to_bytes()),
            Report::Warning(text) => self.warnings.push(text),
            Report::Chosen(chosen) => self.chosen = Some(chosen),
            Report::Progress(_) | Report::Started(_) | Report::Split(_) | Report::Phase(_) => {}
        }
    }

    fn takes_checkpoint(&self) -> bool {
        true
    }
}

#[test]
fn every_preset_is_a_job_on_the_rows_it_is_for() {
    let digits = Digits::read();
    let table = Schema { image: None, ..digits.schema.clone() };
    for preset in presets() {
        let mut whole = preset.spec.clone();
        whole["dataset"] = json!(DatasetId::new());
        let spec: TrainSpec = serde_json::from_value(whole).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        let schema = if preset.rows == Rows::Images { &digits.schema } else { &table };
        let resolved = spec.resolve(schema, 180).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", preset.name));
        assert_eq!(resolved.model.family(), preset.family);
    }
}

fn every(check: impl Fn(ModelSpec)) {
    for family in ModelSpec::FAMILIES {
        check(ModelSpec::default_of(family).unwrap());
    }
}

#[test]
fn defaults_fit_the_published_schema_and_survive_their_json() {
    for view in families() {
        let validator = jsonschema::validator_for(&view.settings).unwrap();
        assert!(
            validator.is_valid(&view.defaults),
            "{}: {} does not fit {}",
            view.family,
            view.defaults,
            view.settings
        );
        assert!(!validator.is_valid(&json!({"latent": "wide"})), "{}: the schema takes anything", view.family);
        assert!(
            !validator.is_valid(&json!({"no_such_setting": 1})),
            "{}: the schema takes unknown settings",
            view.family
        );
        let spec: ModelSpec =
            serde_json::from_value(json!({"family": view.family, "settings": view.defaults})).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap()["settings"], view.defaults);
    }
}

#[test]
fn settings_outside_their_schema_are_refused_by_name() {
    for view in families() {
        for (name, property) in view.settings["properties"].as_object().unwrap() {
            let beyond = ["minimum", "maximum"].into_iter().zip([-1.0, 1.0]);
            let beyond = beyond.filter_map(|(bound, step)| Some(property.get(bound)?.as_f64()? + step));
            for value in beyond {
                let value = if property["type"] == "integer" { json!(value as i64) } else { json!(value) };
                let mut settings = view.defaults.clone();
                settings[name] = value.clone();
                let pointer = format!("/model/settings/{name}");
                match serde_json::from_value::<ModelSpec>(json!({"family": view.family, "settings": settings})) {
                    // What does not even fit the type is refused while it is read.
                    Err(fault) => assert!(fault.to_string().contains("invalid value"), "{fault}"),
                    Ok(spec) => {
                        let mut faults = Faults::new();
                        spec.check(&mut faults);
                        let refusal = faults
                            .into_result(Code::InvalidRequest)
                            .expect_err(&format!("{pointer} = {value} was taken"));
                        assert!(refusal.errors.iter().any(|fault| fault.pointer == pointer), "{refusal:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_loss_falls_on_eight_rows() {
    let digits = Digits::read();
    every(|model| {
        let spec = digits.spec(model, |_| {});
        let rows: Vec<u32> = (0..8).collect();
        let batches = Batches::fit(&digits.rows, &digits.schema, &spec, &rows, Device::Cpu);
        let header = ModelHeader::new(&spec, &digits.schema, batches.preparation().clone(), batches.target().clone());
        let mut built = header.build(Device::Cpu, None);
        let mut optimizer = Optimizer::new(&spec.training.optimizer, &built.parameters);
        let batch = batches.batch(&rows, &Noise::new(1, Purpose::Binarize, 0, Device::Cpu));
        let mut losses = Vec::new();
        for number in 0..300 {
            let noise = Noise::new(1, Purpose::Training, number, Device::Cpu);
            let mut whole = 0.0;
            optimizer.begin_step();
            for (index, turn) in built.network.turns().iter().enumerate() {
                let step =
                    Step { turn: index, train_rows: 8.0, labels: batch.labels.as_ref(), ..Step::training(&noise) };
                let loss = built.network.loss(&batch.x, &step);
                assert!(!loss.parts.is_empty());
                whole += loss.reported.double_value(&[]);
                let part = built.parameters.part(turn.moves);
                assert!(part.count() > 0, "{} moves nothing", turn.name);
                let gradient = built.parameters.gradient(&loss.total, &part);
                assert_eq!(gradient.size(), [part.count()]);
                optimizer.step(&mut built.parameters, &gradient, &part, turn.rate);
            }
            losses.push(whole);
        }
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(&losses[..20]), mean(&losses[280..]));
        assert!(late < early - 1.0, "{}: {early} became {late}", spec.model.family());
    });
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let digits = Digits::read();
    every(|model| {
        let run = |seed| digits.finish(&digits.spec(model.clone(), |spec| spec.training.seed = seed)).0.artifact;
        let first = run(3);
        assert_eq!(first, run(3), "{}", model.family());
        let weights = |bytes: &[u8]| {
            TrainedModel::read(bytes, Device::Cpu).unwrap().decode(&vec![0.5; model.latent() as usize], false).0
        };
        assert_ne!(weights(&first), weights(&run(4)), "{}", model.family());
    });
}

#[test]
fn a_run_that_was_interrupted_anywhere_ends_with_the_bytes_of_one_that_was_not() {
    let digits = Digits::read();
    every(|model| {
        for network in [
            NetworkSpec { hidden: Some(vec![32]), ..NetworkSpec::default() },
            NetworkSpec { hidden: Some(vec![24, 16]), norm: Norm::Batch, dropout: 0.2, ..NetworkSpec::default() },
        ] {
            let spec = digits.spec(model.clone(), |spec| {
                spec.network = network.clone();
                spec.training.clip_norm = Some(5.0);
            });
            // 162 rows train in batches of 32: five or six steps an epoch. Stops at a start, within epochs, and at their ends.
            ends_as_if_never_stopped(&digits, &spec, &[1, 4, 6, 7, 13]);
        }
    });
}

/// Stops a run after so many steps, goes on from its checkpoint, and compares all that came of it with an uninterrupted run.
fn ends_as_if_never_stopped(digits: &Digits, spec: &TrainSpec, stops: &[u64]) {
    let (whole, watched) = digits.finish(spec);
    let (family, optimizer) = (spec.model.family(), &spec.training.optimizer);
    for stop_after in stops {
        let mut first = Watcher { stop_after_steps: Some(*stop_after), ..Watcher::default() };
        assert!(matches!(digits.train(spec, None, &mut first).unwrap(), Outcome::Stopped));
        let checkpoint = Checkpoint::from_bytes(&first.checkpoint.expect("a stop makes a checkpoint")).unwrap();
        let mut second = Watcher::default();
        let Outcome::Finished(resumed) = digits.train(spec, Some(checkpoint), &mut second).unwrap() else {
            panic!("stopped")
        };
        assert_eq!(resumed.artifact, whole.artifact, "{family} after {stop_after} steps, {optimizer:?}");
        assert_eq!(resumed.metrics, whole.metrics);
        let curve = [first.epochs, second.epochs].concat();
        assert_eq!(curve, watched.epochs, "{family}: the curve has a gap or a double, {optimizer:?}");
    }
}

#[test]
fn every_optimizer_and_every_schedule_goes_on_where_it_was() {
    let digits = Digits::read();
    let optimizers = [
        json!({"kind": "sgd", "momentum": 0.0}),
        json!({"kind": "sgd", "nesterov": true, "weight_decay": 0.01}),
        json!({"kind": "adam", "weight_decay": 0.1}),
        json!({"kind": "adamw"}),
        json!({"kind": "rmsprop"}),
        json!({"kind": "rmsprop", "momentum": 0.5}),
        json!({"kind": "lion"}),
        json!({"schedule": {"kind": "step", "every_epochs": 1, "factor": 0.5}}),
        json!({"schedule": "cosine", "warmup": {"steps": 9}}),
        json!({"schedule": "one_cycle"}),
        json!({"schedule": {"kind": "reduce_on_plateau", "patience": 0, "min_delta": 1.0, "factor": 0.5}, "warmup": {"epochs": 0.5}}),
    ];
    let mut weights = Vec::new();
    for optimizer in optimizers {
        let model = ModelSpec::default_of("autoencoder").unwrap();
        let spec = digits.spec(model, |spec| {
            spec.training.optimizer = serde_json::from_value(optimizer).unwrap();
            spec.training.clip_value = Some(1.0);
        });
        ends_as_if_never_stopped(&digits, &spec, &[4, 6, 13]);
        let trained = TrainedModel::read(&digits.finish(&spec).0.artifact, Device::Cpu).unwrap();
        weights.push(trained.decode(&vec![0.5; trained.latent()], false).0);
    }
    for (index, one) in weights.iter().enumerate() {
        assert!(weights[..index].iter().all(|other| other != one), "two of them train alike: {index}");
    }
}

#[test]
fn a_cold_start_differs_from_a_resume() {
    let digits = Digits::read();
    every(|model| {
        let spec = digits.spec(model.clone(), |_| {});
        let mut first = Watcher { stop_after_steps: Some(6), ..Watcher::default() };
        let _ = digits.train(&spec, None, &mut first).unwrap();
        let mut checkpoint = Checkpoint::from_bytes(&first.checkpoint.unwrap()).unwrap();
        // A resume that forgets the optimizer's memory must not go unnoticed.
        checkpoint.optimizer.first.fill(0.0);
        let Outcome::Finished(forgetful) = digits.train(&spec, Some(checkpoint), &mut Watcher::default()).unwrap()
        else {
            panic!()
        };
        assert_ne!(forgetful.artifact, digits.finish(&spec).0.artifact, "{}", model.family());
    });
}

#[test]
fn answers_have_the_right_shapes_and_a_batch_answers_like_single_rows() {
    let digits = Digits::read();
    every(|model| {
        for kind in [LikelihoodKind::Gaussian, LikelihoodKind::Bernoulli] {
            let spec = digits.spec(model.clone(), |spec| spec.likelihood = LikelihoodSpec::of(kind));
            let trained = TrainedModel::read(&digits.finish(&spec).0.artifact, Device::Cpu).unwrap();
            let latent = model.latent() as usize;
            let rows: Vec<f32> = (0..5).flat_map(|row| digits.rows.row(row)[..64].to_vec()).collect();
            let (codes, spread) = trained.encode(&rows);
            assert_eq!(spread.is_some(), model.is_stochastic());
            assert_eq!(codes.len(), 5 * latent);
            if let Some(spread) = &spread {
                assert!(spread.len() == codes.len() && spread.iter().all(|value| *value > 0.0));
            }
            let (restored, errors) = trained.reconstruct(&rows);
            assert_eq!((restored.len(), errors.len()), (5 * 64, 5));
            assert!(errors.iter().all(|error| *error >= 0.0));
            close(&trained.decode(&codes, false).0, &restored, 1e-4);
            for (index, row) in rows.chunks(64).enumerate() {
                close(&trained.encode(row).0, &codes[index * latent..(index + 1) * latent], 1e-4);
                close(&trained.reconstruct(row).0, &restored[index * 64..(index + 1) * 64], 1e-3);
            }
            let calibration = trained.header.calibration.as_ref().unwrap();
            let samples = if model.has_density() { 8 } else { 0 };
            let scores = trained.scores(&rows, samples, (1, 0), true).unwrap();
            close(&scores.errors, &errors, 1e-5);
            assert_eq!(trained.scores(&rows, 1, (1, 0), false).is_some(), model.has_density());
            for (row, (nats, shares)) in
                scores.reconstruction.iter().zip(scores.contributions.unwrap().chunks(64)).enumerate()
            {
                let sum: f32 = shares.iter().sum();
                assert!((nats - sum).abs() < 1e-3 * sum.abs().max(1.0), "{nats} is not {sum}");
                let share = calibration.probability(Measure::Reconstruction, *nats).unwrap();
                assert!(share > 0.0 && share < 1.0, "row {row}: {share}");
            }
            let drawn = trained.sample(&Draw {
                count: 7,
                seed: 1,
                temperature: 1.0,
                chain_steps: 3,
                drawn: false,
                given: None,
            });
            assert_eq!(drawn.len(), 7 * 64);
            assert!(drawn.iter().all(|value| value.is_finite()));
            if kind == LikelihoodKind::Bernoulli {
                // In the user's units: pixels from 0 to 16.
                assert!(drawn.iter().all(|value| (0.0..=16.0).contains(value)));
                assert!(drawn.iter().any(|value| *value > 2.0), "samples are in the user's units");
            }
        }
    });
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "{found} is not {expected}");
    }
}

#[test]
fn validation_picks_the_epoch_that_is_kept() {
    let digits = Digits::read();
    every(|model| {
        // What the loss of two players says of a model is nothing to go by: its last epoch is kept.
        let judges = !matches!(model, ModelSpec::Gan(_));
        let spec = digits.spec(model, |spec| {
            spec.training.epochs = 30;
            spec.training.optimizer.lr = Some(LearningRate::Set(0.01));
            spec.training.early_stopping.patience = 3;
        });
        let (finished, watcher) = digits.finish(&spec);
        let losses: Vec<f64> = watcher
            .epochs
            .iter()
            .map(|(_, metrics)| metrics.iter().find(|(name, _)| name == "validation/loss").unwrap().1)
            .collect();
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let kept = if judges { best } else { losses[losses.len() - 1] };
        let figure = |name: &str| finished.metrics.iter().find(|metric| metric.name == name).unwrap().value;
        assert!(
            (figure("validation/loss") - kept).abs() < 1e-9 * kept.abs().max(1.0),
            "{} is not {kept}",
            figure("validation/loss")
        );
        assert_eq!(losses[figure("best_epoch") as usize - 1], kept);
        if finished.stop_reason == StopReason::EarlyStopped {
            assert_eq!(losses.len(), figure("best_epoch") as usize + 3);
        }
    });
}

#[test]
fn what_is_for_a_gpu_alone_changes_nothing_on_the_cpu() {
    let digits = Digits::read();
    let figures = |precision| {
        let spec = digits.spec(ModelSpec::default_of("vae").unwrap(), |spec| {
            spec.training.epochs = 2;
            spec.training.precision = precision;
        });
        digits.finish(&spec).0.metrics
    };
    assert_eq!(figures(Precision::Tf32), figures(Precision::F32));
    assert_ne!(figures(Precision::Bf16), figures(Precision::F32));
}

#[test]
fn divergence_stops_keeps_the_best_epoch_and_says_why() {
    let digits = Digits::read();
    every(|model| {
        let hot = digits.spec(model.clone(), |spec| {
            spec.training.optimizer.lr = Some(LearningRate::Set(100.0));
            spec.training.epochs = 200;
            spec.training.early_stopping.patience = 0;
            spec.likelihood.kind = LikelihoodKind::Gaussian;
            spec.likelihood.variance = Variance::Fixed;
            spec.network.hidden = Some(vec![32, 32, 32, 32]);
        });
        let mut watcher = Watcher::default();
        match digits.train(&hot, None, &mut watcher) {
            Ok(Outcome::Finished(finished)) => {
                assert!(finished.metrics.iter().all(|metric| metric.value.is_finite()));
                let model = TrainedModel::read(&finished.artifact, Device::Cpu).unwrap();
                assert!(model.reconstruct(&digits.rows.row(0)[..64]).0.iter().all(|value| value.is_finite()));
                if finished.stop_reason == StopReason::Diverged {
                    assert!(gave_up(&watcher.warnings[0]), "{:?}", watcher.warnings);
                }
            }
            Ok(Outcome::Stopped) => panic!("nobody asked it to stop"),
            Err(TrainError::Refused(refusal)) => {
                assert_eq!(refusal.code, Code::Diverged);
                assert!(gave_up(&refusal.detail), "{refusal:?}");
            }
            Err(other) => panic!("{other}"),
        }
    });
}

fn gave_up(text: &str) -> bool {
    ["was not finite", "were not finite", "had grown to"].iter().any(|words| text.contains(words))
}

#[test]
fn a_run_without_validation_that_diverges_keeps_the_last_whole_epoch() {
    let digits = Digits::read();
    let (mut kept, mut failed) = (0, 0);
    for lr in [0.5, 3.0, 10.0, 30.0, 100.0] {
        let spec = digits.spec(ModelSpec::default_of("autoencoder").unwrap(), |spec| {
            spec.training.optimizer.lr = Some(LearningRate::Set(lr));
            spec.training.epochs = 400;
            spec.split.validation = 0.0;
            spec.likelihood.kind = LikelihoodKind::Gaussian;
            spec.network.hidden = Some(vec![64; 8]);
        });
        let mut watcher = Watcher::default();
        match digits.train(&spec, None, &mut watcher) {
            Ok(Outcome::Finished(finished)) => {
                assert!(finished.metrics.iter().all(|metric| metric.value.is_finite()));
                kept += u32::from(finished.stop_reason == StopReason::Diverged);
            }
            Err(TrainError::Refused(refusal)) => {
                assert_eq!(
                    (refusal.code, watcher.epochs.len()),
                    (Code::Diverged, 0),
                    "epochs were done and thrown away"
                );
                failed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(kept + failed > 0, "nothing diverged: the test proves nothing");
}

#[test]
fn rows_beyond_the_training_range_leave_a_bernoulli_loss_a_loss() {
    // One outlier among many: wherever it falls, no cross-entropy is below zero.
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("in.csv");
    let text: String = (0..200)
        .map(|row| format!("{},{}\n", f64::from(row % 10), if row == 17 { 1e6 } else { f64::from(row % 7) }))
        .collect();
    std::fs::write(&source, text).unwrap();
    let target = directory.path().join("rows");
    let ingested = ingest(&source, &target, &IngestSpec::default(), 1 << 20).unwrap();
    let rows = RowFile::open(&target, 2, 200).unwrap();
    for seed in 0..12 {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("autoencoder").unwrap());
        spec.likelihood.kind = LikelihoodKind::Bernoulli;
        (spec.training.epochs, spec.split.seed, spec.split.validation) = (1, seed, 0.5);
        let spec = spec.resolve(&ingested.schema, 200).unwrap();
        let assignment = Assignment { spec: &spec, schema: &ingested.schema, rows: &rows, device: Device::Cpu };
        let Outcome::Finished(finished) =
            train(&assignment, None, &mut Watcher::default(), &StopFlag::default()).unwrap()
        else {
            panic!()
        };
        let losses = finished.metrics.iter().filter(|metric| metric.name.ends_with("/loss"));
        for metric in losses {
            assert!(metric.value >= 0.0, "{metric:?}");
        }
    }
}

#[test]
fn an_overflow_is_seen_in_the_step_it_happens() {
    let digits = Digits::read();
    // A loss beyond 32 bits from the first step on: nothing can be kept.
    let spec = digits.spec(ModelSpec::default_of("autoencoder").unwrap(), |spec| {
        spec.training.optimizer.lr = Some(LearningRate::Set(100.0));
        spec.training.optimizer.epsilon = Some(f64::MIN_POSITIVE);
        spec.network.hidden = Some(vec![64; 12]);
        spec.training.epochs = 50;
        spec.split.validation = 0.0;
        spec.likelihood.kind = LikelihoodKind::Gaussian;
    });
    let mut watcher = Watcher::default();
    match digits.train(&spec, None, &mut watcher) {
        Err(TrainError::Refused(refusal)) => assert_eq!(refusal.code, Code::Diverged),
        other => panic!("it should have diverged: {other:?}"),
    }
    for (_, metrics) in &watcher.epochs {
        assert!(metrics.iter().all(|(_, value)| value.is_finite()));
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let digits = Digits::read();
    let wide = digits.spec(ModelSpec::default_of("vae").unwrap(), |_| {});
    let narrow = digits.spec(ModelSpec::default_of("vae").unwrap(), |spec| spec.network.hidden = Some(vec![16]));
    let mut first = Watcher { stop_after_steps: Some(2), ..Watcher::default() };
    let _ = digits.train(&wide, None, &mut first).unwrap();
    let checkpoint = Checkpoint::from_bytes(&first.checkpoint.unwrap()).unwrap();
    assert!(matches!(digits.train(&narrow, Some(checkpoint), &mut Watcher::default()), Err(TrainError::Checkpoint(_))));
}

#[test]
fn principal_components_are_those_of_an_independent_reckoning() {
    // A linear autoencoder trained to its end spans the first components, so its error can only approach theirs from above
    // (on the rows it was trained on).
    let digits = Digits::read();
    let spec = digits.spec(ModelSpec::default_of("autoencoder").unwrap(), |spec| {
        spec.network.hidden = Some(vec![]);
        spec.training.epochs = 1500;
        spec.training.optimizer.lr = Some(LearningRate::Set(0.005));
        spec.split.validation = 0.0;
    });
    let (finished, _) = digits.finish(&spec);
    let figure = |name: &str| finished.metrics.iter().find(|metric| metric.name == name).unwrap().value;
    let ratio = figure("train/mse") / figure("train/pca_mse");
    assert!((0.9999..1.01).contains(&ratio), "{ratio}");
}

#[test]
fn a_model_file_says_what_it_is_and_damaged_ones_are_refused() {
    let digits = Digits::read();
    every(|model| {
        let spec = digits.spec(model, |_| {});
        let (finished, _) = digits.finish(&spec);
        let trained = TrainedModel::read(&finished.artifact, Device::Cpu).unwrap();
        assert_eq!(trained.header.spec, spec);
        assert_eq!(trained.header.columns.len(), 64);
        assert!(TrainedModel::read(&finished.artifact[..finished.artifact.len() - 1], Device::Cpu).is_err());
        // The header says another width of the code then than the weights have.
        let mut other = finished.artifact.clone();
        let latent = br#"\"latent\":"#;
        let position = other.windows(latent.len()).position(|part| part == latent).expect("the header holds the spec");
        let digit = &mut other[position + latent.len()];
        *digit = if *digit == b'1' { b'2' } else { b'1' };
        assert!(TrainedModel::read(&other, Device::Cpu).is_err(), "weights of another network were taken");
    });
}

#[test]
fn specs_refuse_what_the_data_cannot_be() {
    let digits = Digits::read();
    let check = |change: &dyn Fn(&mut TrainSpec), pointer: &str| {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("vae").unwrap());
        change(&mut spec);
        let refusal = spec.resolve(&digits.schema, 180).expect_err(pointer);
        assert!(refusal.errors.iter().any(|fault| fault.pointer == pointer), "{pointer}: {refusal:?}");
    };
    check(&|spec| spec.network.hidden = Some(vec![1_000_000_000]), "/network/hidden/0");
    check(&|spec| spec.network.hidden = Some(vec![65_536, 65_536]), "/network/hidden");
    check(&|spec| spec.training.batch_size = Some(0), "/training/batch_size");
    check(&|spec| spec.training.optimizer.lr = Some(LearningRate::Set(f64::NAN)), "/training/optimizer/lr");
    check(&|spec| spec.training.optimizer.lr = Some(LearningRate::Set(0.0)), "/training/optimizer/lr");
    check(&|spec| spec.training.epochs = 0, "/training/epochs");
    check(&|spec| spec.split.validation = 1.0, "/split/validation");
    check(&|spec| spec.network.dropout = f64::INFINITY, "/network/dropout");
    check(&|spec| spec.name = Some("\u{0}".into()), "/name");
    check(&|spec| (spec.likelihood.kind, spec.scaling) = (LikelihoodKind::Bernoulli, ScalingSpec::None), "/likelihood");
    check(
        &|spec| (spec.likelihood.kind, spec.scaling) = (LikelihoodKind::Bernoulli, ScalingSpec::Standard),
        "/scaling",
    );
}
