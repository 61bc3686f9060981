//! Models as files for other programs: every part of every family gives what the model itself gives, whatever the number of
//! rows.

use super::onnx::File;
use super::*;
use latente::models::network::{Activation, NetworkKind};
use latente::models::parameters::values;
use latente::training::export::{ExportError, Form, Part, export};
use tch::{CModule, IValue, Kind, Tensor};

/// A table with a column for every density, some gaps, and a label.
fn mixed() -> (tempfile::TempDir, RowFile, Schema) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("in.csv");
    let mut text = "plain,heavy,share,count,events,size,grade,kind,shade,label\n".to_owned();
    for row in 0..120_i32 {
        let u = f64::from(row * 37 % 120) / 120.0;
        let gap = |column: i32, value: String| if (row + column * 7) % 23 == 0 { String::new() } else { value };
        let cells = [
            gap(0, format!("{:.4}", 20.0 + 5.0 * (u * 9.0).sin())),
            gap(1, format!("{:.4}", (u - 0.5) * if row % 17 == 0 { 900.0 } else { 4.0 })),
            gap(2, format!("{}", i32::from(u > 0.4))),
            gap(3, format!("{}", (u * 7.0) as i32)),
            gap(4, format!("{}", if row % 9 == 0 { 140 } else { (u * 5.0) as i32 })),
            gap(5, format!("{:.4}", (u * 6.0).exp())),
            gap(6, format!("{}", row % 4)),
            gap(7, ["red", "green", "blue"][(row % 3) as usize].to_owned()),
            gap(8, format!("{}", row * 5 % 17)),
            ["yes", "no"][(row % 2) as usize].to_owned(),
        ];
        text += &cells.join(",");
        text.push('\n');
    }
    std::fs::write(&source, text).unwrap();
    let target = directory.path().join("rows");
    let ingest_spec = IngestSpec::default().with_role(Role::Label, ["label"]);
    let ingested = ingest(&source, &target, &ingest_spec, 1 << 20).unwrap();
    let rows = RowFile::open(&target, ingested.schema.kept().count(), 120).unwrap();
    (directory, rows, ingested.schema)
}

/// Each column has a density of its own; one of them goes with some scalings alone.
fn densities(scaling: ScalingSpec) -> LikelihoodSpec {
    let kinds = [
        ("plain", LikelihoodKind::Gaussian),
        ("heavy", LikelihoodKind::StudentT),
        ("share", LikelihoodKind::Bernoulli),
        ("count", LikelihoodKind::Poisson),
        ("events", LikelihoodKind::NegativeBinomial),
        ("size", LikelihoodKind::LogNormal),
        ("grade", LikelihoodKind::Ordinal),
        ("kind", LikelihoodKind::Categorical),
        ("shade", LikelihoodKind::DiscretizedLogistic),
    ];
    let held = scaling == ScalingSpec::Minmax;
    let kinds = kinds.into_iter().filter(|(_, kind)| held || *kind != LikelihoodKind::DiscretizedLogistic);
    let columns = kinds.map(|(name, kind)| (name.to_owned(), kind)).collect();
    LikelihoodSpec { columns, variance: Variance::PerColumn, levels: held.then_some(17), ..LikelihoodSpec::default() }
}

fn near(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().filter(|value| value.is_finite()).fold(1.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let same = found == expected || found.is_nan() && expected.is_nan();
        assert!(same || (found - expected).abs() <= 1e-5 * size, "{what}: {found} is not {expected}");
    }
}

/// What the model itself answers, in the order of the file's outputs.
fn answers(model: &TrainedModel, part: Part, input: &[f32]) -> Vec<Vec<f32>> {
    match part {
        Part::Encoder => {
            let (codes, spread) = model.encode(input);
            std::iter::once(codes).chain(spread).collect()
        }
        Part::Decoder => vec![model.decode(input, false).0],
        Part::Reconstructor => {
            let (rows, errors) = model.reconstruct(input);
            vec![rows, errors]
        }
        Part::Scorer => {
            let scores = model.scores(input, 0, (0, 0), false).unwrap();
            let anomaly = anomaly(model, &scores.reconstruction);
            [scores.reconstruction, scores.errors].into_iter().chain(anomaly).collect()
        }
        Part::Predictor => {
            let (told, spread) = model.predict(input).unwrap();
            vec![told, spread]
        }
    }
}

/// How unusual the model holds such scores, where it was calibrated.
fn anomaly(model: &TrainedModel, scores: &[f32]) -> Option<Vec<f32>> {
    let known = model.header.calibration.as_ref()?;
    Some(scores.iter().map(|nats| known.probability(Measure::Reconstruction, *nats).unwrap()).collect())
}

fn tensors(value: IValue) -> Vec<Tensor> {
    match value {
        IValue::Tensor(one) => vec![one],
        IValue::Tuple(several) => several.into_iter().flat_map(tensors).collect(),
        other => panic!("{other:?}"),
    }
}

/// Exports every part that a model has, and compares.
fn check(what: &str, artifact: &[u8], rows: &[f32]) {
    let model = TrainedModel::read(artifact, Device::Cpu).unwrap();
    let (width, latent) = (model.header.shape.width, model.latent());
    let directory = tempfile::tempdir().unwrap();
    for part in Part::ALL {
        let what = format!("{what}, {}", part.as_str());
        let path = directory.path().join("part");
        match export(artifact, part, Form::TorchScript, &path) {
            Ok(()) => {}
            Err(ExportError::NoLabels) if part == Part::Predictor && model.header.labels.is_empty() => continue,
            Err(error) => panic!("{what}: {error}"),
        }
        let script = CModule::load(&path).unwrap();
        export(artifact, part, Form::Onnx, &path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let file = File::read(&std::fs::read(&path).unwrap());
        for count in [1, 3, 7] {
            let rows = &rows[..count * width];
            let codes = model.encode(rows).0;
            let (input, wide) = if part == Part::Decoder { (&codes[..], latent) } else { (rows, width) };
            let expected = answers(&model, part, input);
            let x = Tensor::from_slice(input).view([count as i64, wide as i64]);
            let by_script = tensors(tch::no_grad(|| script.forward_is(&[IValue::Tensor(x.shallow_clone())])).unwrap());
            let by_file = tch::no_grad(|| file.run(&x));
            for (form, told) in [("TorchScript", by_script), ("ONNX", by_file)] {
                assert_eq!(told.len(), expected.len(), "{what}");
                let mut expected = expected.clone();
                if part == Part::Scorer && expected.len() == 3 {
                    // Quantiles may lie so close together that a score that was rounded otherwise is another share of rows.
                    expected[2] = anomaly(&model, &values(&told[0])).unwrap();
                }
                for (place, (told, expected)) in told.iter().zip(&expected).enumerate() {
                    assert_eq!(told.kind(), Kind::Float, "{what}");
                    near(&format!("{what} as {form}, {count} rows, output {place}"), &values(told), expected);
                }
            }
        }
    }
}

#[test]
fn exported_tables_of_every_family_answer_as_their_models_do() {
    let (_directory, file, schema) = mixed();
    let width = schema.feature_columns().count();
    let mut rows: Vec<f32> = (0..7).flat_map(|row| file.row(row)[..width].to_vec()).collect();
    // A level that training did not see, and values beyond the extremes.
    (rows[7], rows[8], rows[width + 1], rows[width + 5]) = (9.0, -40.0, 1e5, 0.0);
    let scalings =
        [ScalingSpec::Standard, ScalingSpec::Minmax, ScalingSpec::Robust, ScalingSpec::Quantile, ScalingSpec::None];
    for (number, family) in ModelSpec::FAMILIES.iter().enumerate() {
        let mut spec = TrainSpec::new(DatasetId::new(), ModelSpec::default_of(family).unwrap());
        spec.scaling = scalings[number % scalings.len()];
        spec.likelihood = densities(spec.scaling);
        spec.training.epochs = 2;
        spec.check().unwrap();
        let spec = spec.resolve(&schema, 120).unwrap();
        let assignment = Assignment { spec: &spec, schema: &schema, rows: &file, device: Device::Cpu };
        let outcome = train(&assignment, None, &mut Watcher::default(), &StopFlag::default()).unwrap();
        let Outcome::Finished(finished) = outcome else { panic!("nobody asked it to stop") };
        check(&format!("{family}, {:?}", spec.scaling), &finished.artifact, &rows);
    }
}

#[test]
fn exported_images_answer_as_their_models_do_whatever_the_layers() {
    let digits = Digits::read();
    let rows: Vec<f32> = (0..7).flat_map(|row| digits.rows.row(row)[..64].to_vec()).collect();
    let activations = [
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Relu,
        Activation::LeakyRelu,
        Activation::Elu,
        Activation::Selu,
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ];
    let mut number = 0;
    for family in ModelSpec::FAMILIES {
        let model = ModelSpec::default_of(family).unwrap();
        for (kind, norm, residual, tied) in [
            (NetworkKind::Conv, Norm::Batch, false, false),
            (NetworkKind::Conv, Norm::Layer, true, true),
            (NetworkKind::Mlp, Norm::Batch, true, false),
            (NetworkKind::Mlp, Norm::Layer, true, true),
        ] {
            number += 1;
            let activation = activations[number % activations.len()];
            let spec = digits.spec(model.clone(), |spec| {
                spec.network = NetworkSpec {
                    kind,
                    channels: (kind == NetworkKind::Conv).then(|| vec![4, 6]),
                    hidden: Some(vec![24, 12]),
                    activation,
                    norm,
                    residual,
                    tied,
                    ..NetworkSpec::default()
                };
                spec.training.epochs = 1;
            });
            let (finished, _) = digits.finish(&spec);
            check(&format!("{family}, {activation:?}, {:?}", spec.network), &finished.artifact, &rows);
        }
    }
}
