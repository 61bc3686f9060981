//! Job specs to begin with: of each family one for tables and one for small images.
//!
//! Pure data. A preset says only what differs from the defaults; with a dataset it is a job as it is. A new family adds two
//! rows to `table`; the tests ask for them.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// What rows a preset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Columns of any meaning.
    Tables,
    /// The pixels of small images; the dataset has a shape.
    Images,
}

/// A job spec to begin with.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Preset {
    /// What it is called: the family and what it is for.
    pub name: String,
    /// The family.
    pub family: &'static str,
    /// What rows it is for.
    #[serde(rename = "for")]
    pub rows: Rows,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// The job spec, without `dataset`.
    #[schema(value_type = Object)]
    pub spec: Value,
}

/// Every preset.
pub fn presets() -> Vec<Preset> {
    let preset = |(family, rows, summary, mut spec): (&'static str, Rows, &'static str, Value)| {
        spec["model"]["family"] = family.into();
        let suffix = match rows {
            Rows::Tables => "tables",
            Rows::Images => "images",
        };
        Preset { name: format!("{family}-{suffix}"), family, rows, summary, spec }
    };
    table().into_iter().map(preset).collect()
}

/// Family, what rows it is for, a sentence, and the job spec without `dataset` and `model.family`.
fn table() -> Vec<(&'static str, Rows, &'static str, Value)> {
    use Rows::{Images, Tables};
    vec![
        (
            "autoencoder",
            Tables,
            "Squeezes rows into 8 numbers, with the least squared error of what comes back.",
            json!({"model": {"settings": {"latent": 8}}, "training": {"epochs": 200}}),
        ),
        (
            "autoencoder",
            Images,
            "Squeezes images into 16 numbers by convolutions, with the least squared error of what comes back.",
            json!({
                "model": {"settings": {"latent": 16}},
                "network": {"kind": "conv", "channels": [32, 64]},
                "training": {"epochs": 50},
            }),
        ),
        (
            "denoising",
            Tables,
            "Restores rows that normal noise of three tenths of a deviation was added to; points to likelier rows.",
            json!({
                "model": {"settings": {"latent": 16, "corruption": "gaussian", "level": 0.3}},
                "training": {"epochs": 200},
            }),
        ),
        (
            "denoising",
            Images,
            "Restores images of which three tenths of the pixels were blanked, and fills in what is missing of others.",
            json!({
                "model": {"settings": {"latent": 32, "corruption": "masking", "level": 0.3}},
                "network": {"kind": "conv", "channels": [32, 64]},
                "training": {"epochs": 50},
            }),
        ),
        (
            "vae",
            Tables,
            "Learns a density of rows, each column by its kind, and draws new ones from 8 normal numbers.",
            json!({
                "model": {"settings": {"latent": 8, "kl_warmup_epochs": 20}},
                "training": {"epochs": 200},
            }),
        ),
        (
            "vae",
            Images,
            "Learns a density of images by convolutions, and draws new ones from 16 normal numbers.",
            json!({
                "model": {"settings": {"latent": 16}},
                "network": {"kind": "conv", "channels": [32, 64]},
                "likelihood": "bernoulli",
                "training": {"epochs": 50},
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelSpec;

    #[test]
    fn every_family_has_one_for_tables_and_one_for_images() {
        let mut wanted: Vec<String> = ModelSpec::FAMILIES
            .iter()
            .flat_map(|family| [format!("{family}-images"), format!("{family}-tables")])
            .collect();
        let mut found: Vec<String> = presets().into_iter().map(|preset| preset.name).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }

    #[test]
    fn presets_are_told_in_a_sentence() {
        for preset in presets() {
            assert!(preset.summary.ends_with('.') && preset.spec.get("dataset").is_none(), "{preset:?}");
        }
    }
}
