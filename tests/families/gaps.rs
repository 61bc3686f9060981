//! Rows with missing values: every family trains on what is there, and a gap pulls nothing and breaks nothing.

use super::*;
use latente::data::dataset::Kind;
use latente::domain::treatment::Treatment;
use latente::models::parameters::values;
use latente::training::pretraining::PretrainingSpec;
use latente::training::spec::Binarize;

/// Digits of which about a sixth of the pixels are missing, and of some rows all of them.
fn gapped() -> Digits {
    let mut digits = Digits::read();
    let width = digits.schema.kept().count();
    let mut rows: Vec<f32> = (0..180).flat_map(|row| digits.rows.row(row).to_vec()).collect();
    for (row, values) in rows.chunks_exact_mut(width).enumerate() {
        for (column, value) in values[..64].iter_mut().enumerate() {
            if row % 60 == 7 || (row * 31 + column * 17) % 6 == 0 {
                *value = f32::NAN;
            }
        }
    }
    let path = digits._directory.path().join("gapped");
    std::fs::write(&path, rows.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    digits.rows = RowFile::open(&path, width, 180).unwrap();
    for (column, described) in digits.schema.columns.iter_mut().enumerate() {
        let missing = rows.iter().skip(column).step_by(width).filter(|value| value.is_nan()).count();
        described.profile.as_mut().unwrap().missing = missing as u64;
    }
    digits
}

fn finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

#[test]
fn every_family_learns_from_rows_with_gaps() {
    let digits = gapped();
    every(|model| {
        for network in [
            NetworkSpec { hidden: Some(vec![24, 16]), norm: Norm::Batch, dropout: 0.1, ..NetworkSpec::default() },
            NetworkSpec {
                kind: latente::models::network::NetworkKind::Conv,
                channels: Some(vec![4]),
                hidden: Some(vec![]),
                ..NetworkSpec::default()
            },
        ] {
            let family = model.family();
            let spec = digits.spec(model.clone(), |spec| spec.network = network.clone());
            let (whole, watched) = digits.finish(&spec);
            assert!(whole.metrics.iter().all(|metric| metric.value.is_finite()), "{family}: {:?}", whole.metrics);
            let mut first = Watcher { stop_after_steps: Some(7), ..Watcher::default() };
            assert!(matches!(digits.train(&spec, None, &mut first).unwrap(), Outcome::Stopped));
            let checkpoint = Checkpoint::from_bytes(&first.checkpoint.unwrap()).unwrap();
            let mut second = Watcher::default();
            let Outcome::Finished(resumed) = digits.train(&spec, Some(checkpoint), &mut second).unwrap() else {
                panic!()
            };
            assert_eq!(resumed.artifact, whole.artifact, "{family}: a resumed run has other bytes");
            assert_eq!([first.epochs, second.epochs].concat(), watched.epochs, "{family}");

            let trained = TrainedModel::read(&whole.artifact, Device::Cpu).unwrap();
            assert!(trained.header.gaps);
            let latent = model.latent() as usize;
            let rows: Vec<f32> = (4..10).flat_map(|row| digits.rows.row(row)[..64].to_vec()).collect();
            assert!(rows[3 * 64..4 * 64].iter().all(|value| value.is_nan()), "one row has no value at all");
            let (codes, spread) = trained.encode(&rows);
            assert!(finite(&codes) && spread.is_none_or(|spread| finite(&spread)), "{family}");
            let (restored, errors) = trained.reconstruct(&rows);
            assert!(finite(&restored) && finite(&errors), "{family}");
            assert_eq!(errors[3], 0.0, "{family}: there is nothing to be wrong about");
            for (index, row) in rows.chunks(64).enumerate() {
                close(&trained.encode(row).0, &codes[index * latent..(index + 1) * latent], 1e-4);
                close(&trained.reconstruct(row).0, &restored[index * 64..(index + 1) * 64], 1e-3);
            }
            // Pixels are prepared to lie between 0 and 1; the error is over those that are there.
            for ((row, restored), error) in rows.chunks(64).zip(restored.chunks(64)).zip(&errors) {
                let off: Vec<f32> = row
                    .iter()
                    .zip(restored)
                    .filter(|(x, _)| !x.is_nan())
                    .map(|(x, r)| ((r - x) / 16.0).powi(2))
                    .collect();
                let expected = off.iter().sum::<f32>() / off.len().max(1) as f32;
                assert!((error - expected).abs() < 1e-4, "{family}: {error} is not {expected}");
            }
            let filled = trained.impute(&rows, 3, 1);
            assert!(finite(&filled));
            assert!(rows.iter().zip(&filled).all(|(x, filled)| x.is_nan() || x == filled), "{family}");
            if let Some(estimates) = trained.score_estimate(&rows) {
                assert!(
                    rows.iter().zip(&estimates).all(|(x, slope)| slope.is_finite() && (!x.is_nan() || *slope == 0.0))
                );
            }
            if let Some((told, spread)) = trained.predict(&rows) {
                assert!(finite(&told) && finite(&spread), "{family}");
            }
        }
    });
}

#[test]
fn the_loss_falls_on_rows_with_gaps_and_its_gradient_is_finite() {
    let digits = gapped();
    every(|model| {
        let family = model.family();
        let spec = digits.spec(model.clone(), |_| {});
        let rows: Vec<u32> = (0..8).collect();
        let batches = Batches::fit(&digits.rows, &digits.schema, &spec, &rows, Device::Cpu);
        let header = ModelHeader::new(&spec, &digits.schema, batches.preparation().clone(), batches.target().clone());
        let mut built = header.build(Device::Cpu, Some(&batches.means(&rows)));
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
                whole += loss.reported.double_value(&[]);
                let part = built.parameters.part(turn.moves);
                let gradient = built.parameters.gradient(&loss.total, &part);
                assert!(finite(&values(&gradient)), "{family}: {} in step {number}", turn.name);
                optimizer.step(&mut built.parameters, &gradient, &part, turn.rate);
            }
            losses.push(whole);
        }
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(&losses[..20]), mean(&losses[280..]));
        assert!(late < early - 1.0, "{family}: {early} became {late}");
    });
}

#[test]
fn rows_that_may_have_gaps_and_have_none_train_as_rows_without() {
    // What is masked where nothing is missing changes no number to speak of: only the means are saved beside the weights.
    let digits = Digits::read();
    let mut open = Digits::read();
    open.schema.columns[3].profile.as_mut().unwrap().missing = 1;
    every(|model| {
        let losses = |digits: &Digits| digits.finish(&digits.spec(model.clone(), |_| {})).1.epochs;
        for ((epoch, closed), (_, open)) in losses(&digits).iter().zip(&losses(&open)) {
            for ((name, one), (other_name, other)) in closed.iter().zip(open) {
                // Without gaps a loss is summed in one pass, and with them in several.
                let far = (one - other).abs() > 1e-3 * (1.0 + one.abs());
                assert!(name == other_name && !far, "{}, epoch {epoch}, {name}: {one} and {other}", model.family());
            }
        }
        let header = digits.spec(model.clone(), |_| {});
        let trained = TrainedModel::read(&digits.finish(&header).0.artifact, Device::Cpu).unwrap();
        assert!(!trained.header.gaps);
    });
}

#[test]
fn gaps_go_through_pretraining_binarising_and_importance_samples() {
    let digits = gapped();
    for (family, binarize) in [("autoencoder", Binarize::Threshold), ("vae", Binarize::Dynamic)] {
        let model: ModelSpec = match family {
            "vae" => serde_json::from_value(json!({"family": "vae", "settings": {"latent": 3, "samples": 4}})).unwrap(),
            _ => ModelSpec::default_of(family).unwrap(),
        };
        let spec = digits.spec(model, |spec| {
            spec.likelihood.kind = LikelihoodKind::Bernoulli;
            spec.training.binarize = binarize;
            spec.evaluation.importance_samples = 20;
            if family == "autoencoder" {
                spec.training.pretraining = Some(PretrainingSpec { epochs: 2, masking: 0.2 });
            }
        });
        let (finished, watched) = digits.finish(&spec);
        let of = |name: &str| finished.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        // Of 64 pixels a sixth is missing: chance is about 53 coins.
        assert!((1.0..45.0).contains(&of("validation/loss").unwrap()), "{family}: {:?}", finished.metrics);
        assert_eq!(of("validation/log_likelihood").is_some(), family == "vae");
        assert!(watched.epochs.iter().flat_map(|(_, metrics)| metrics).all(|(_, value)| value.is_finite()));
    }
}

#[test]
fn a_level_that_training_did_not_see_is_a_gap() {
    // The level 9 is in one row alone; in whatever part that row falls, nothing breaks.
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("in.csv");
    let text: String =
        (0..60).map(|row| format!("{},{}\n", if row == 17 { 9 } else { row % 3 }, f64::from(row) / 7.0)).collect();
    std::fs::write(&source, text).unwrap();
    let target = directory.path().join("rows");
    let ingested = ingest(&source, &target, &IngestSpec::default(), 1 << 20).unwrap();
    assert_eq!(ingested.schema.columns[0].kind, Kind::Count);
    let rows = RowFile::open(&target, 2, 60).unwrap();
    for (seed, kind) in (0..8).zip([LikelihoodKind::Categorical, LikelihoodKind::Ordinal].into_iter().cycle()) {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("vae").unwrap());
        spec.likelihood.columns = [("c0".to_owned(), kind)].into();
        (spec.training.epochs, spec.split.seed, spec.split.validation) = (2, seed, 0.5);
        let spec = spec.resolve(&ingested.schema, 60).unwrap();
        let assignment = Assignment { spec: &spec, schema: &ingested.schema, rows: &rows, device: Device::Cpu };
        let Outcome::Finished(finished) =
            train(&assignment, None, &mut Watcher::default(), &StopFlag::default()).unwrap()
        else {
            panic!()
        };
        let trained = TrainedModel::read(&finished.artifact, Device::Cpu).unwrap();
        let (Treatment::OneHot { levels } | Treatment::Rank { levels }) = &trained.header.preparation.columns[0] else {
            panic!()
        };
        let (strange, missing) = (trained.encode(&[25.0, 1.0]).0, trained.encode(&[f32::NAN, 1.0]).0);
        assert!(finite(&strange) && strange == missing, "seed {seed}, levels {levels:?}");
    }
}

#[test]
fn a_column_without_any_value_is_refused_by_its_name() {
    let mut digits = gapped();
    digits.schema.columns[5].profile.as_mut().unwrap().missing = 180;
    let name = digits.schema.columns[5].name.clone();
    let spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("vae").unwrap());
    let refusal = spec.resolve(&digits.schema, 180).unwrap_err();
    assert_eq!(refusal.code, Code::MissingValues);
    assert!(refusal.errors.len() == 1 && refusal.errors[0].detail.contains(&format!("`{name}`")), "{refusal:?}");
}
