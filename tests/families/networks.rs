//! What all families share: networks, likelihoods of mixed tables, samplers, pre-training, penalties, diagnostics.

use super::*;
use latente::domain::treatment::Treatment;
use latente::models::network::{Activation, Init, InitDistribution, NetworkKind};
use latente::models::sampler::{SamplerKind, SamplerSpec};
use latente::training::pretraining::PretrainingSpec;
use latente::training::rate::LearningRate;
use latente::training::spec::Binarize;

fn conv() -> NetworkSpec {
    NetworkSpec {
        kind: NetworkKind::Conv,
        channels: Some(vec![4, 6]),
        hidden: Some(vec![]),
        activation: Activation::Silu,
        ..NetworkSpec::default()
    }
}

/// Trains, and again with an interruption; gives the model when both are the same to the byte.
fn train_twice(digits: &Digits, spec: &TrainSpec, what: &str) -> (Finished, Watcher) {
    let (whole, watched) = digits.finish(spec);
    let mut first = Watcher { stop_after_steps: Some(7), ..Watcher::default() };
    assert!(matches!(digits.train(spec, None, &mut first).unwrap(), Outcome::Stopped));
    let checkpoint = Checkpoint::from_bytes(&first.checkpoint.unwrap()).unwrap();
    let mut second = Watcher::default();
    let Outcome::Finished(resumed) = digits.train(spec, Some(checkpoint), &mut second).unwrap() else { panic!() };
    assert_eq!(resumed.artifact, whole.artifact, "{what}: a resumed run has other bytes");
    assert_eq!([first.epochs, second.epochs].concat(), watched.epochs, "{what}");
    (whole, watched)
}

#[test]
fn every_family_trains_on_every_kind_of_network() {
    let digits = Digits::read();
    every(|model| {
        for (what, network) in [
            ("conv", NetworkSpec { norm: Norm::Batch, ..conv() }),
            ("tied conv", NetworkSpec { tied: true, residual: true, norm: Norm::Layer, dropout: 0.1, ..conv() }),
            (
                "tied mlp",
                NetworkSpec {
                    hidden: Some(vec![16, 12]),
                    tied: true,
                    residual: true,
                    norm: Norm::Layer,
                    init: Init::Orthogonal,
                    ..NetworkSpec::default()
                },
            ),
            (
                "linear",
                NetworkSpec {
                    hidden: Some(vec![]),
                    init: Init::Lecun,
                    init_distribution: InitDistribution::Normal,
                    ..NetworkSpec::default()
                },
            ),
        ] {
            let what = format!("{} {what}", model.family());
            let spec = digits.spec(model.clone(), |spec| {
                spec.network = network.clone();
                spec.training.epochs = 2;
            });
            let (finished, _) = train_twice(&digits, &spec, &what);
            let trained = TrainedModel::read(&finished.artifact, Device::Cpu).unwrap();
            let rows: Vec<f32> = (0..3).flat_map(|row| digits.rows.row(row)[..64].to_vec()).collect();
            let (codes, _) = trained.encode(&rows);
            for (index, row) in rows.chunks(64).enumerate() {
                let latent = model.latent() as usize;
                close(&trained.encode(row).0, &codes[index * latent..(index + 1) * latent], 1e-3);
            }
            let (restored, spread) = trained.decode(&codes, true);
            assert_eq!(restored.len(), 3 * 64, "{what}");
            assert!(spread.unwrap().iter().all(|value| value.is_finite() && *value >= 0.0), "{what}");
            for draw in [trained.decode_draws(&codes, 1), trained.decode_draws(&codes, 2)] {
                assert!(draw.len() == 3 * 64 && draw.iter().all(|value| value.is_finite()));
            }
        }
    });
}

/// A table with a column of every kind, and some structure: most columns follow a hidden number.
struct Table {
    _directory: tempfile::TempDir,
    rows: RowFile,
    schema: Schema,
}

const TABLE_ROWS: usize = 240;

impl Table {
    fn read() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("in.csv");
        let mut text = "real,skewed,count,binary,class,grade,shade\n".to_owned();
        for row in 0..TABLE_ROWS {
            let hidden = (row as f64 * 0.37).sin();
            let wobble = (row as f64 * 1.91).cos();
            let real = hidden * 3.0 + wobble * 0.3;
            let skewed = (hidden * 1.5 + wobble * 0.9).exp();
            let count = (hidden * 8.0 + 9.0 + wobble).round().max(0.0);
            let binary = u8::from(hidden > 0.0);
            let class = [7, 2, 9][((hidden + 1.0) * 1.49) as usize];
            let grade = ((hidden + 1.0) * 2.49) as u8;
            let shade = ((hidden + 1.0) * 7.49) as u8;
            text += &format!("{real},{skewed},{count},{binary},{class},{grade},{shade}\n");
        }
        std::fs::write(&source, text).unwrap();
        let target = directory.path().join("rows");
        let ingested = ingest(&source, &target, &IngestSpec::default(), 1 << 20).unwrap();
        let rows = RowFile::open(&target, 7, TABLE_ROWS as u64).unwrap();
        Self { rows, schema: ingested.schema, _directory: directory }
    }

    fn spec(&self, model: ModelSpec, change: impl FnOnce(&mut TrainSpec)) -> TrainSpec {
        let mut spec = TrainSpec::new(DatasetId::new(), model);
        spec.network.hidden = Some(vec![24]);
        spec.training.epochs = 40;
        spec.training.batch_size = Some(32);
        spec.training.optimizer.lr = Some(LearningRate::Set(0.005));
        spec.likelihood = serde_json::from_value(json!({"kind": "auto", "columns": {
            "count": "poisson", "class": "categorical", "grade": "ordinal", "shade": "discretized_logistic"
        }}))
        .unwrap();
        change(&mut spec);
        spec.resolve(&self.schema, TABLE_ROWS as u64).unwrap()
    }

    fn finish(&self, spec: &TrainSpec) -> (Finished, Watcher) {
        let assignment = Assignment { spec, schema: &self.schema, rows: &self.rows, device: Device::Cpu };
        let mut watcher = Watcher::default();
        match train(&assignment, None, &mut watcher, &StopFlag::default()).unwrap() {
            Outcome::Finished(finished) => (finished, watcher),
            Outcome::Stopped => panic!(),
        }
    }

    fn row(&self, row: usize) -> Vec<f32> {
        self.rows.row(row).to_vec()
    }
}

/// Families that learn from labels alone are left out: this table has none.
fn every_unlabelled(check: impl Fn(ModelSpec)) {
    every(|model| {
        if model.labels() != latente::models::Labels::Required {
            check(model);
        }
    });
}

#[test]
fn a_table_of_mixed_columns_is_learned_and_answered_in_its_own_units() {
    let table = Table::read();
    every_unlabelled(|model| {
        let family = model.family();
        let spec = table.spec(model, |_| {});
        let (finished, watcher) = table.finish(&spec);
        let losses: Vec<f64> = watcher.epochs.iter().map(|(_, metrics)| metrics[0].1).collect();
        assert!(losses.last().unwrap() < &losses[0], "{family}: {losses:?}");
        let trained = TrainedModel::read(&finished.artifact, Device::Cpu).unwrap();
        let rows: Vec<f32> = (0..20).flat_map(|row| table.row(row)).collect();
        let (codes, _) = trained.encode(&rows);
        let (restored, spread) = trained.decode(&codes, true);
        assert!(spread.unwrap().iter().all(|value| *value >= 0.0 && value.is_finite()), "{family}");
        let samples =
            trained.sample(&Draw { count: 50, seed: 3, temperature: 1.0, chain_steps: 3, drawn: false, given: None });
        let draws = trained.decode_draws(&codes, 5);
        for row in restored.chunks(7).chain(samples.chunks(7)).chain(draws.chunks(7)) {
            let [_, skewed, count, binary, class, grade, shade] = row else { panic!() };
            assert!(row.iter().all(|value| value.is_finite()), "{family} {row:?}");
            assert!(
                *skewed > 0.0 || spec.likelihood.kind_of("skewed") != LikelihoodKind::LogNormal,
                "{family} {row:?}"
            );
            assert!(*count > -1e-3 && (-1e-3..=1.001).contains(binary), "{family} {row:?}");
            assert!([7.0, 2.0, 9.0].contains(class) && (0.0..=4.0).contains(grade), "{family} {row:?}");
            assert!((-1e-3..=14.001).contains(shade), "{family} {row:?}");
        }
        for row in draws.chunks(7) {
            let whole = |value: f32| (value - value.round()).abs() < 1e-2 * value.abs().max(1.0);
            assert!(whole(row[2]) && whole(row[3]) && whole(row[5]) && whole(row[6]), "{family} {row:?}");
        }
    });
}

#[test]
fn densities_are_chosen_by_what_columns_hold() {
    let table = Table::read();
    let kinds = |model: &str| {
        let spec =
            table.spec(ModelSpec::default_of(model).unwrap(), |spec| spec.likelihood = LikelihoodSpec::default());
        let names = ["real", "skewed", "count", "binary"];
        names.map(|name| spec.likelihood.kind_of(name))
    };
    use LikelihoodKind::{Bernoulli, Gaussian, LogNormal, NegativeBinomial};
    assert_eq!(kinds("vae"), [Gaussian, LogNormal, NegativeBinomial, Bernoulli]);
    assert_eq!(kinds("autoencoder"), [Gaussian, Gaussian, Gaussian, Bernoulli]);
}

#[test]
fn whole_numbers_that_are_no_counts_of_events_are_not_taken_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("in.csv"), directory.path().join("rows"));
    let mut text = "sex,grade,events,steady\n".to_owned();
    for row in 0..60 {
        // Sexes are 1 and 2, grades mostly 3; the variance of the steady column is about its mean, as Poisson has it.
        text += &format!(
            "{},{},{},{}\n",
            1 + row % 2,
            [3, 3, 2, 4, 3, 5][row % 6],
            row * row % 41,
            [1, 2, 2, 3, 4, 7][row % 6]
        );
    }
    std::fs::write(&source, text).unwrap();
    let schema = ingest(&source, &target, &IngestSpec::default(), 1 << 20).unwrap().schema;
    let kinds = |family: &str| {
        let spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of(family).unwrap());
        let spec = spec.resolve(&schema, 60).unwrap();
        ["sex", "grade", "events", "steady"].map(|name| spec.likelihood.kind_of(name))
    };
    use LikelihoodKind::{Gaussian, NegativeBinomial};
    assert_eq!(kinds("deep_gp"), [Gaussian, Gaussian, NegativeBinomial, NegativeBinomial]);
    assert_eq!(kinds("autoencoder"), [Gaussian; 4]);
}

#[test]
fn a_trained_vae_puts_classes_and_counts_where_they_belong() {
    let table = Table::read();
    let spec = table.spec(ModelSpec::default_of("vae").unwrap(), |spec| spec.training.epochs = 150);
    let trained = TrainedModel::read(&table.finish(&spec).0.artifact, Device::Cpu).unwrap();
    let rows: Vec<f32> = (0..TABLE_ROWS).flat_map(|row| table.row(row)).collect();
    let (restored, _) = trained.reconstruct(&rows);
    let right = |column: usize| {
        let pairs = rows.chunks(7).zip(restored.chunks(7));
        pairs.filter(|(row, restored)| (row[column] - restored[column]).abs() < 0.5).count() as f64 / TABLE_ROWS as f64
    };
    for (column, least) in [(3, 0.9), (4, 0.8), (5, 0.7)] {
        assert!(right(column) > least, "column {column}: {}", right(column));
    }
    // What is missing is found from the rest of its row: the class from the other columns.
    let mut gaps = rows.clone();
    gaps.iter_mut().skip(4).step_by(7).for_each(|class| *class = f32::NAN);
    let filled = trained.impute(&gaps, 20, 1);
    let found = filled.iter().zip(&rows).skip(4).step_by(7).filter(|(filled, row)| filled == row).count();
    assert!(found as f64 > 0.7 * TABLE_ROWS as f64, "{found}");
    for (index, (filled, given)) in filled.iter().zip(&gaps).enumerate() {
        assert!(given.is_nan() || filled == given, "the known value {index} was changed");
    }
}

#[test]
fn likelihoods_that_columns_cannot_have_are_refused_by_name() {
    let table = Table::read();
    let check = |likelihood: serde_json::Value, pointer: &str| {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("vae").unwrap());
        spec.likelihood = serde_json::from_value(likelihood.clone()).unwrap();
        let refusal = spec.resolve(&table.schema, TABLE_ROWS as u64).expect_err(pointer);
        assert!(refusal.errors.iter().any(|fault| fault.pointer == pointer), "{likelihood}: {refusal:?}");
    };
    check(json!("poisson"), "/likelihood");
    check(json!({"columns": {"real": "poisson"}}), "/likelihood/columns/real");
    check(json!({"columns": {"real": "log_normal"}}), "/likelihood/columns/real");
    check(json!({"columns": {"real": "discretized_logistic"}}), "/likelihood/columns/real");
    check(json!({"columns": {"nothing": "gaussian"}}), "/likelihood/columns/nothing");
    check(json!({"kind": "bernoulli", "variance": "shared"}), "/likelihood/variance");
    check(json!({"kind": "gaussian", "levels": 8}), "/likelihood/levels");
    check(
        json!({"kind": "gaussian", "columns": {"shade": "discretized_logistic"}, "variance": "fixed"}),
        "/likelihood/variance",
    );
}

#[test]
fn networks_that_rows_cannot_have_are_refused_by_name() {
    let (digits, table) = (Digits::read(), Table::read());
    let check = |schema: &Schema, network: serde_json::Value, pointer: &str| {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("vae").unwrap());
        spec.network = serde_json::from_value(network.clone()).unwrap();
        let refusal = spec.resolve(schema, 180).expect_err(pointer);
        assert!(refusal.errors.iter().any(|fault| fault.pointer == pointer), "{network}: {refusal:?}");
    };
    check(&table.schema, json!({"kind": "conv"}), "/network/kind");
    check(&digits.schema, json!({"kind": "conv", "channels": [4, 4, 4, 4], "kernel": 8}), "/network/channels");
    check(&digits.schema, json!({"kind": "conv", "channels": []}), "/network/channels");
    check(&digits.schema, json!({"kind": "conv", "channels": [0]}), "/network/channels/0");
    check(&digits.schema, json!({"kind": "conv", "kernel": 2, "stride": 3}), "/network/stride");
    check(&digits.schema, json!({"kernel": 3}), "/network/kernel");
    check(&digits.schema, json!({"kind": "conv", "kernel": 12}), "/network/kernel");
}

#[test]
fn layers_are_trained_one_after_the_other_and_then_together() {
    let digits = Digits::read();
    every(|model| {
        let wanted = |spec: &mut TrainSpec| {
            spec.network.hidden = Some(vec![32, 16]);
            spec.training.epochs = 2;
            spec.training.pretraining = Some(PretrainingSpec { epochs: 3, masking: 0.2 });
        };
        let mut bare = TrainSpec::new(DatasetId::new(), model.clone());
        wanted(&mut bare);
        let Ok(_) = bare.resolve(&digits.schema, 180) else {
            let refusal = bare.resolve(&digits.schema, 180).unwrap_err();
            assert!(refusal.errors.iter().all(|fault| fault.pointer == "/training/pretraining"), "{refusal:?}");
            return;
        };
        let spec = digits.spec(model.clone(), wanted);
        let (_, watched) = train_twice(&digits, &spec, model.family());
        let curve: Vec<(&str, f64)> =
            watched.epochs.iter().map(|(_, metrics)| (metrics[0].0.as_str(), metrics[0].1)).collect();
        let names: Vec<&str> = curve.iter().map(|(name, _)| *name).collect();
        assert_eq!(names[..9], ["pretraining/loss"; 9], "{}", model.family());
        assert_eq!(names[9..], ["train/loss"; 2]);
        for layer in 0..3 {
            assert!(curve[layer * 3 + 2].1 < curve[layer * 3].1, "{}: layer {layer} {curve:?}", model.family());
        }
    });
    assert!(
        ["autoencoder", "denoising"].into_iter().all(|family| {
            let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of(family).unwrap());
            spec.training.pretraining = Some(PretrainingSpec::default());
            spec.resolve(&digits.schema, 180).is_ok()
        }),
        "nothing can be trained layer by layer"
    );
}

#[test]
fn penalties_on_weights_make_them_smaller() {
    let digits = Digits::read();
    let size = |change: &dyn Fn(&mut TrainSpec)| {
        let spec = digits.spec(ModelSpec::default_of("autoencoder").unwrap(), |spec| {
            spec.training.epochs = 40;
            spec.training.early_stopping.patience = 0;
            spec.split.validation = 0.0;
            change(spec);
        });
        let (finished, watcher) = digits.finish(&spec);
        let bundle = latente::training::bundle::Bundle::from_bytes(&finished.artifact).unwrap();
        let weights = bundle.tensors.iter().filter(|tensor| tensor.name.ends_with(".weight"));
        let squares: f32 = weights.flat_map(|tensor| &tensor.values).map(|weight| weight * weight).sum();
        let penalty =
            watcher.epochs[0].1.iter().find(|(name, _)| name == "train/weight_penalty").map(|(_, value)| *value);
        (squares, penalty)
    };
    let (free, none) = size(&|_| {});
    assert_eq!(none, None);
    for change in
        [|spec: &mut TrainSpec| spec.training.weight_l1 = 0.01, |spec: &mut TrainSpec| spec.training.weight_l2 = 0.01]
    {
        let (held, penalty) = size(&change);
        assert!(held < 0.8 * free, "{held} is not less than {free}");
        assert!(penalty.unwrap() > 0.0);
    }
}

#[test]
fn binarised_rows_are_zeros_and_ones_and_drawn_anew() {
    let digits = Digits::read();
    let batch = |binarize, key| {
        let spec = digits.spec(ModelSpec::default_of("vae").unwrap(), |spec| {
            spec.likelihood.kind = LikelihoodKind::Bernoulli;
            spec.training.binarize = binarize;
        });
        let rows: Vec<u32> = (0..180).collect();
        let batches = Batches::fit(&digits.rows, &digits.schema, &spec, &rows, Device::Cpu);
        latente::models::parameters::values(
            &batches.batch(&rows, &Noise::new(0, Purpose::Binarize, key, Device::Cpu)).x,
        )
    };
    let grey = batch(Binarize::Off, 0);
    assert!(grey.iter().any(|value| *value > 0.0 && *value < 1.0));
    let (first, second) = (batch(Binarize::Dynamic, 0), batch(Binarize::Dynamic, 1));
    assert_ne!(first, second);
    assert!(first.iter().all(|value| *value == 0.0 || *value == 1.0));
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    assert!((mean(&first) - mean(&grey)).abs() < 0.02);
    let cut = batch(Binarize::Threshold, 0);
    assert!(cut.iter().zip(&grey).all(|(cut, grey)| *cut == f32::from(u8::from(*grey >= 0.5))));
}

#[test]
fn every_sampler_is_saved_and_draws() {
    let digits = Digits::read();
    for kind in [SamplerKind::Gaussian, SamplerKind::Mixture, SamplerKind::KernelDensity] {
        let spec = digits.spec(ModelSpec::default_of("autoencoder").unwrap(), |spec| {
            spec.sampler = SamplerSpec { kind, components: None };
            spec.training.epochs = 20;
        });
        let trained = TrainedModel::read(&digits.finish(&spec).0.artifact, Device::Cpu).unwrap();
        let draw = |seed| {
            trained.sample(&Draw { count: 9, seed, temperature: 1.0, chain_steps: 0, drawn: false, given: None })
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).len(), 9 * 64);
    }
}

#[test]
fn codes_are_looked_at_and_a_collapse_is_said() {
    let digits = Digits::read();
    every(|model| {
        let (finished, watcher) = digits.finish(&digits.spec(model.clone(), |_| {}));
        let names: Vec<&str> = finished.metrics.iter().map(|metric| metric.name.as_str()).collect();
        for name in ["code/active_units", "code/dead_units", "train/loss", "validation/mse"] {
            assert!(names.contains(&name), "{}: {name} is not among {names:?}", model.family());
        }
        let units: f64 = ["code/active_units", "code/dead_units"]
            .iter()
            .map(|name| finished.metrics.iter().find(|metric| metric.name == *name).unwrap().value)
            .sum();
        assert_eq!(units, f64::from(model.latent()), "{}", model.family());
        assert!(watcher.epochs[0].1.iter().any(|(name, _)| name == "train/gradient_norm"));
    });
    let collapsed = digits.spec(
        serde_json::from_value(json!({"family": "vae", "settings": {"latent": 4, "beta": 1000.0}})).unwrap(),
        |spec| spec.training.epochs = 30,
    );
    let (finished, watcher) = digits.finish(&collapsed);
    assert!(
        watcher.warnings.iter().any(|text| text.contains("collapsed") && text.contains("beta")),
        "{:?}",
        watcher.warnings
    );
    let kl: Vec<f64> = finished
        .metrics
        .iter()
        .filter(|metric| metric.name.starts_with("code/kl/"))
        .map(|metric| metric.value)
        .collect();
    assert!(kl.len() == 4 && kl.iter().all(|kl| *kl < 0.1), "{kl:?}");
    let sound = digits.spec(ModelSpec::default_of("vae").unwrap(), |spec| spec.training.epochs = 30);
    assert!(digits.finish(&sound).1.warnings.iter().all(|text| !text.contains("collapsed")));
}

#[test]
fn treatments_travel_with_the_model() {
    let table = Table::read();
    let spec = table.spec(ModelSpec::default_of("vae").unwrap(), |spec| spec.training.epochs = 1);
    let trained = TrainedModel::read(&table.finish(&spec).0.artifact, Device::Cpu).unwrap();
    let Treatment::OneHot { levels } = &trained.header.preparation.columns[4] else { panic!() };
    assert_eq!(levels, &[2.0, 7.0, 9.0]);
    assert!(matches!(trained.header.preparation.columns[2], Treatment::LogCount { .. }));
    assert!(matches!(trained.header.preparation.columns[5], Treatment::Rank { .. }));
    assert_eq!(trained.header.spec.likelihood.levels, Some(15));
}
