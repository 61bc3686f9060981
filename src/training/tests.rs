//! Runs on the digits, for tests that look into them.

use std::path::PathBuf;

use serde_json::{Value, json};
use tch::Device;

use super::observer::{Observer, Report};
use super::spec::TrainSpec;
use super::{Assignment, Run};
use crate::data::dataset::{Role, Schema};
use crate::data::rows::RowFile;
use crate::data::{IngestSpec, ingest};
use crate::domain::id::DatasetId;
use crate::domain::shape::ImageShape;

/// The digits of the demo as canonical rows.
pub struct Digits {
    _directory: tempfile::TempDir,
    rows: RowFile,
    /// With the shape of the images.
    pub schema: Schema,
}

/// Keeps the figures of epochs.
#[derive(Default)]
pub struct Watcher {
    pub metrics: Vec<(String, f64)>,
}

impl Observer for Watcher {
    fn observe(&mut self, report: Report<'_>) {
        if let Report::Epoch { metrics, .. } = report {
            self.metrics.extend(metrics.into_iter().map(|metric| (metric.name, metric.value)));
        }
    }

    fn takes_checkpoint(&self) -> bool {
        true
    }
}

impl Digits {
    pub fn read() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("rows");
        let spec = IngestSpec {
            image: Some(ImageShape { channels: 1, height: 8, width: 8 }),
            ..IngestSpec::default().with_role(Role::Label, ["digit"])
        };
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/digits.csv.gz");
        let ingested = ingest(&source, &target, &spec, 1 << 30).unwrap();
        let width = ingested.schema.kept().count();
        Self { rows: RowFile::open(&target, width, 1797).unwrap(), schema: ingested.schema, _directory: directory }
    }

    /// A resolved spec, which is short where it does not say otherwise.
    pub fn spec(&self, mut whole: Value, schema: &Schema) -> TrainSpec {
        whole["dataset"] = json!(DatasetId::new());
        let training = whole["training"].as_object_mut().unwrap();
        for (name, value) in [("epochs", 2), ("batch_size", 64), ("max_steps", 40)] {
            training.entry(name).or_insert(json!(value));
        }
        let spec: TrainSpec = serde_json::from_value(whole).unwrap();
        spec.resolve(schema, self.rows.len() as u64).unwrap()
    }

    /// A run at its beginning.
    pub fn run<'a>(&'a self, spec: &'a TrainSpec, schema: &'a Schema) -> Run<'a> {
        let assignment = Assignment { spec, schema, rows: &self.rows, device: Device::Cpu };
        Run::begin(&assignment, None, &mut Watcher::default()).unwrap()
    }
}
