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
            "Squeezes images into 16 numbers by convolutions.",
            json!({"model": {"settings": {"latent": 16}}, "network": {"kind": "conv", "channels": [16, 32], "activation": "silu"}, "likelihood": "bernoulli", "training": {"epochs": 100}}),
        ),
        (
            "sparse",
            Tables,
            "Describes rows by 64 features of which each row has a few.",
            json!({"model": {"settings": {"latent": 64, "penalty": "l1", "weight": 0.05}}, "training": {"epochs": 200}}),
        ),
        (
            "sparse",
            Images,
            "Takes images apart into 128 strokes of which each image has at most 16.",
            json!({"model": {"settings": {"latent": 128, "penalty": "top_k", "active": 16}}, "network": {"hidden": []}, "training": {"epochs": 150, "optimizer": {"lr": 0.002}}}),
        ),
        (
            "denoising",
            Tables,
            "Restores rows that normal noise of three tenths of a deviation was added to; points to likelier rows.",
            json!({"model": {"settings": {"latent": 16, "corruption": "gaussian", "level": 0.3}}, "training": {"epochs": 200}}),
        ),
        (
            "denoising",
            Images,
            "Restores images of which three tenths of the pixels were blanked, and fills in what is missing of others.",
            json!({"model": {"settings": {"latent": 32, "corruption": "masking", "level": 0.3}}, "network": {"hidden": [256, 128], "activation": "gelu"}, "likelihood": "bernoulli", "training": {"epochs": 150}}),
        ),
        (
            "contractive",
            Tables,
            "Finds 8 features that hold still under small changes of a row.",
            json!({"model": {"settings": {"latent": 8, "weight": 0.1}}, "training": {"epochs": 200}}),
        ),
        (
            "contractive",
            Images,
            "Finds 16 features of images that hold still under small changes of pixels.",
            json!({"model": {"settings": {"latent": 16, "weight": 0.1}}, "network": {"hidden": [128], "activation": "softplus"}, "likelihood": "bernoulli", "training": {"epochs": 60, "optimizer": {"lr": 0.002}}}),
        ),
        (
            "vae",
            Tables,
            "Learns a density of rows, each column by its kind, and draws new ones from 8 normal numbers.",
            json!({"model": {"settings": {"latent": 8, "kl_warmup_epochs": 20}}, "training": {"epochs": 200}}),
        ),
        (
            "vae",
            Images,
            "Learns a density of images by convolutions, and draws new ones from 16 normal numbers.",
            json!({"model": {"settings": {"latent": 16, "beta": 0.5}}, "network": {"kind": "conv", "channels": [16, 32], "activation": "silu"}, "likelihood": "bernoulli", "training": {"epochs": 100}}),
        ),
        (
            "helmholtz",
            Tables,
            "Describes rows by 32 yes-or-no features with a prior of their own, and draws new rows from them.",
            json!({"model": {"settings": {"latent": 32}}, "training": {"epochs": 200, "optimizer": {"lr": 0.003}}}),
        ),
        (
            "helmholtz",
            Images,
            "Describes images by 64 yes-or-no features with a prior of their own, and draws new ones from them.",
            json!({"model": {"settings": {"latent": 64}}, "network": {"hidden": []}, "likelihood": "bernoulli", "training": {"epochs": 300, "binarize": "dynamic", "optimizer": {"lr": 0.005}}}),
        ),
        (
            "gsn",
            Tables,
            "Walks among rows like yours, and fills in what is missing of others.",
            json!({"model": {"settings": {"latent": 64, "corruption": "gaussian", "level": 0.5}}, "training": {"epochs": 150}}),
        ),
        (
            "gsn",
            Images,
            "Walks among images like yours, and paints in what is missing of others.",
            json!({"model": {"settings": {"latent": 200, "corruption": "salt_and_pepper", "level": 0.3}}, "network": {"hidden": []}, "likelihood": "bernoulli", "training": {"epochs": 150, "optimizer": {"lr": 0.002}}}),
        ),
        (
            "adversarial",
            Tables,
            "Shapes the codes of rows like a normal distribution by a judge, and draws new rows from it.",
            json!({"model": {"settings": {"latent": 8}}, "training": {"epochs": 200}}),
        ),
        (
            "adversarial",
            Images,
            "Shapes the codes of images like ten heaps on a circle by a judge, and draws new images from them.",
            json!({"model": {"settings": {"latent": 8, "prior": "mixture"}}, "network": {"hidden": [256, 128], "activation": "gelu"}, "likelihood": "bernoulli", "training": {"epochs": 150}}),
        ),
        (
            "gan",
            Tables,
            "Generates rows that a judge takes for real, and finds the code of any row.",
            json!({"model": {"settings": {"latent": 8}}, "training": {"epochs": 200, "optimizer": {"beta1": 0.5}}}),
        ),
        (
            "gan",
            Images,
            "Generates images that a judge takes for real, and finds the code of any image.",
            json!({"model": {"settings": {"latent": 16}}, "network": {"hidden": [256, 128], "activation": "gelu"}, "likelihood": "bernoulli", "training": {"epochs": 300, "optimizer": {"lr": 0.0005, "beta1": 0.5}}}),
        ),
        (
            "deep_gp",
            Tables,
            "Finds a code of small tables and says how sure it is; with label columns it tells those too.",
            json!({"model": {"settings": {"latent": 4}}, "training": {"epochs": 150, "optimizer": {"lr": 0.005}}}),
        ),
        (
            "deep_gp",
            Images,
            "Finds a code of small images and says how sure it is of every pixel.",
            json!({"model": {"settings": {"latent": 8, "features": 128}}, "training": {"epochs": 150, "optimizer": {"lr": 0.01}}}),
        ),
        (
            "feed_forward",
            Tables,
            "Learns to tell the label columns of rows: classes or numbers.",
            json!({"model": {"settings": {"latent": 32}}, "training": {"epochs": 100}}),
        ),
        (
            "feed_forward",
            Images,
            "Learns to tell the labels of images by convolutions.",
            json!({"model": {"settings": {"latent": 64}}, "network": {"kind": "conv", "channels": [16, 32], "dropout": 0.1}, "likelihood": "bernoulli", "training": {"epochs": 40}}),
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
