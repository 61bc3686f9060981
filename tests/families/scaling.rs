//! Scaling by quantiles travels with a model, and rows come back in their own units.

use super::*;
use latente::domain::treatment::Treatment;

/// Two skewed columns that go together, one of them with an outlier and some gaps.
fn skewed() -> (tempfile::TempDir, RowFile, Schema) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("in.csv");
    let line = |row: i32| {
        let z = f64::from(row * 37 % 200) / 40.0 - 2.5;
        let second = match row {
            5 => "1e7".to_owned(),
            row if row % 11 == 0 => String::new(),
            _ => format!("{}", (z * 1.5).exp()),
        };
        format!("{},{second}\n", z.exp())
    };
    std::fs::write(&source, (0..200).map(line).collect::<String>()).unwrap();
    let target = directory.path().join("rows");
    let ingested = ingest(&source, &target, &IngestSpec::default(), 1 << 20).unwrap();
    (directory, RowFile::open(&target, 2, 200).unwrap(), ingested.schema)
}

fn trained(scaling: ScalingSpec) -> TrainedModel {
    let (_directory, rows, schema) = skewed();
    let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of("autoencoder").unwrap());
    (spec.scaling, spec.training.epochs) = (scaling, 40);
    spec.likelihood.kind = LikelihoodKind::Gaussian;
    let spec = spec.resolve(&schema, 200).unwrap();
    let assignment = Assignment { spec: &spec, schema: &schema, rows: &rows, device: Device::Cpu };
    match train(&assignment, None, &mut Watcher::default(), &StopFlag::default()).unwrap() {
        Outcome::Finished(finished) => TrainedModel::read(&finished.artifact, Device::Cpu).unwrap(),
        Outcome::Stopped => panic!("nobody asked it to stop"),
    }
}

#[test]
fn rows_scaled_along_their_quantiles_come_back_in_their_units() {
    let model = trained(ScalingSpec::Quantile);
    for z in [-1.0_f32, 0.0, 1.0] {
        let row = [z.exp(), (z * 1.5).exp()];
        for (restored, value) in model.reconstruct(&row).0.iter().zip(row) {
            assert!((restored / value).ln().abs() < 0.5, "{restored} is not {value}");
        }
    }
    let draw = Draw { count: 200, seed: 1, temperature: 1.0, chain_steps: 0, drawn: false, given: None };
    let drawn = model.sample(&draw);
    // No draw leaves the range of the training rows.
    assert!(drawn.chunks(2).all(|row| (0.0..=12.2).contains(&row[0]) && (0.0..=1.001e7).contains(&row[1])));
    let Treatment::Quantile { knots } = &model.header.preparation.columns[1] else { panic!() };
    assert!(knots.len() > 100 && knots[knots.len() / 2].value < 3.0);
}

#[test]
fn an_outlier_does_not_move_what_is_scaled_by_quartiles() {
    let model = trained(ScalingSpec::Robust);
    let Treatment::Linear { shift, scale, .. } = &model.header.preparation.columns[1] else { panic!() };
    assert!((0.3..3.0).contains(shift) && (1.0..10.0).contains(scale), "{shift} {scale}");
}
