//! The families of autoencoders and the networks they are made of.
//!
//! Everything here is synchronous and touches no file, database or socket. A family is one file: its settings, its network
//! and its loss. The table below is the only list of families; the job spec, `/v1/families`, the API document and the
//! contract tests are made from it. Losses are in nats per row: summed over columns, averaged over rows.
//!
//! Start reading with [`Family`] and [`Network`], then [`vae`].

pub mod denoising;
pub mod likelihood;
pub mod losses;
pub mod mlp;
pub mod noise;
pub mod parameters;
pub mod plain;
pub mod sampler;
pub mod vae;

use std::borrow::Cow;

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::limits::LAYER_UNITS;
use crate::domain::refusal::Faults;
use crate::domain::shape::RowShape;
use likelihood::{LikelihoodSpec, Variance};
use mlp::NetworkSpec;
use noise::Noise;
use parameters::Builder;

/// The settings of a family, and the network they stand for.
pub trait Family: Clone + PartialEq + Default + Serialize + DeserializeOwned + ToSchema {
    /// What it minimises, in one line.
    const FORMULA: &'static str;
    /// Where it is described.
    const PAPER: &'static str;
    /// Whether codes can be drawn from a prior; without one a sampler is fitted to the codes after training.
    const HAS_PRIOR: bool;
    /// The variance of a gaussian likelihood when the job leaves it open.
    const VARIANCE: Variance;

    /// Width of the code.
    fn latent(&self) -> u32;

    /// Reports settings that are not allowed. Pointers are relative to the settings: `/latent`.
    fn check(&self, faults: &mut Faults);

    /// Makes the network, its parameters drawn from `builder`.
    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network>;
}

/// What a family builds its network from. Every `auto` was resolved before.
pub struct Plan<'a> {
    /// The rows that the network takes and gives.
    pub shape: RowShape,
    /// The layers between input and code.
    pub network: &'a NetworkSpec,
    /// What the decoder's output means.
    pub likelihood: &'a LikelihoodSpec,
}

/// A network that encodes and decodes. It keeps no counters; its parameters live in [`parameters::Parameters`].
pub trait Network {
    /// Codes of scaled rows `x` `[rows, width]`, without noise.
    fn encode(&self, x: &Tensor) -> Code;

    /// The mean of p(x given z), in scaled units: `[rows, latent]` to `[rows, width]`.
    fn decode(&self, z: &Tensor) -> Tensor;

    /// The loss of scaled rows `x` `[rows, width]`.
    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss;

    /// Estimates log p(x) of each row by importance samples; `None` where the family has no density.
    fn log_likelihood(&self, _x: &Tensor, _samples: u32, _noise: &Noise) -> Option<Tensor> {
        None
    }
}

/// Codes of some rows.
pub struct Code {
    /// `[rows, latent]`.
    pub mean: Tensor,
    /// The standard deviation of each unit, `[rows, latent]`, where the encoder is stochastic.
    pub spread: Option<Tensor>,
}

/// What a loss is told beside the rows.
pub struct Step<'a> {
    /// Dropout and batch statistics are on, and weights that warm up may be below their goal.
    pub training: bool,
    /// Epochs that are done, with the fraction of the current one.
    pub epoch: f64,
    /// Where random numbers come from.
    pub noise: &'a Noise,
}

/// A loss in nats per row, and the parts it is made of.
pub struct Loss {
    /// What is minimised; a scalar.
    pub total: Tensor,
    /// Scalars by name, all recorded. Weights are not applied to them.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A family as `/v1/families` shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FamilyView {
    /// The value of `model.family`.
    pub family: &'static str,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// What it minimises.
    pub formula: &'static str,
    /// Where it is described.
    pub paper: &'static str,
    /// Whether samples come from a prior; otherwise a sampler is fitted to the codes after training.
    pub has_prior: bool,
    /// JSON Schema of `model.settings`.
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
    /// The settings that apply where a job names none.
    #[schema(value_type = Object)]
    pub defaults: serde_json::Value,
}

macro_rules! families {
    ($($(#[doc = $doc:literal])+ $settings:ident => $file:ident as $name:literal;)*) => {
        $(pub use $file::$settings;)*

        /// A family and its settings: `{"family": "vae", "settings": {"latent": 16}}`. Settings that are left out have their
        /// defaults.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "family", content = "settings")]
        pub enum ModelSpec {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $settings($settings),)*
        }

        impl ModelSpec {
            /// The names of all families.
            pub const FAMILIES: &'static [&'static str] = &[$($name,)*];

            /// The family's default settings.
            pub fn default_of(family: &str) -> Option<Self> {
                match family {
                    $($name => Some(Self::$settings($settings::default())),)*
                    _ => None,
                }
            }

            /// The name of the family.
            pub fn family(&self) -> &'static str {
                match self { $(Self::$settings(_) => $name,)* }
            }

            /// Width of the code.
            pub fn latent(&self) -> u32 {
                match self { $(Self::$settings(settings) => settings.latent(),)* }
            }

            /// Whether codes can be drawn from a prior.
            pub fn has_prior(&self) -> bool {
                match self { $(Self::$settings(_) => $settings::HAS_PRIOR,)* }
            }

            /// The variance of a gaussian likelihood when the job leaves it open.
            pub fn variance(&self) -> Variance {
                match self { $(Self::$settings(_) => $settings::VARIANCE,)* }
            }

            /// Reports settings that are not allowed.
            pub fn check(&self, faults: &mut Faults) {
                let mut own = Faults::new();
                own.require_within("/latent", self.latent(), 1..=LAYER_UNITS);
                match self { $(Self::$settings(settings) => settings.check(&mut own),)* }
                faults.extend_under("/model/settings", own);
            }

            /// Makes the network, its parameters drawn from `builder`.
            pub fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
                match self { $(Self::$settings(settings) => settings.build(plan, builder),)* }
            }

            fn read_settings<'de, M: MapAccess<'de>>(family: &str, map: &mut M) -> Result<Self, M::Error> {
                match family {
                    $($name => map.next_value().map(Self::$settings),)*
                    _ => unreachable!("families are checked when their name is read; this is a bug"),
                }
            }
        }

        /// Every family, described.
        pub fn families() -> Vec<FamilyView> {
            vec![$(FamilyView {
                family: $name,
                summary: concat!($($doc),+).trim_ascii(),
                formula: $settings::FORMULA,
                paper: $settings::PAPER,
                has_prior: $settings::HAS_PRIOR,
                settings: standalone::<$settings>(),
                defaults: serde_json::to_value($settings::default()).expect("settings are JSON"),
            },)*]
        }

        impl PartialSchema for ModelSpec {
            fn schema() -> RefOr<Schema> {
                let variants = OneOfBuilder::new()
                    .description(Some("A family and its settings. Settings that are left out have their defaults."));
                variants$(.item(variant($name, $settings::name(), concat!($($doc),+).trim_ascii())))*.into()
            }
        }

        impl ToSchema for ModelSpec {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed("ModelSpec")
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(
                    schemas.push(($settings::name().into_owned(), $settings::schema()));
                    $settings::schemas(schemas);
                )*
            }
        }
    };
}

families! {
    /// Plain autoencoder: squeezes rows through a narrow code and back, with nothing else asked of the code.
    PlainAutoencoder => plain as "autoencoder";
    /// Denoising autoencoder: restores rows that were damaged on purpose, so that the code keeps what is robust.
    Denoising => denoising as "denoising";
    /// Variational autoencoder: a probabilistic code with a prior, for sampling, likelihoods and smooth interpolation.
    Vae => vae as "vae";
}

/// The JSON Schema of a type, with what it refers to under `$defs`.
fn standalone<T: ToSchema>() -> serde_json::Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let whole = serde_json::json!({"schema": T::schema(), "$defs": parts.into_iter().collect::<std::collections::BTreeMap<_, _>>()});
    let text = whole.to_string().replace("#/components/schemas/", "#/$defs/");
    let mut whole: serde_json::Value = serde_json::from_str(&text).expect("a schema is JSON");
    let mut schema = whole["schema"].take();
    if whole["$defs"].as_object().is_some_and(|parts| !parts.is_empty()) {
        schema["$defs"] = whole["$defs"].take();
    }
    schema
}

fn variant(family: &str, settings: Cow<'static, str>, summary: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some(summary))
        .property(
            "family",
            ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String).enum_values(Some([family])),
        )
        .property("settings", Ref::from_schema_name(settings))
        .required("family")
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(false)))
}

impl<'de> Deserialize<'de> for ModelSpec {
    /// Reads the family first and its settings then, straight from the deserializer, so that the path of a fault stays exact.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = ModelSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with `family` and, where wanted, `settings`")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ModelSpec, M::Error> {
                let mut spec: Option<ModelSpec> = None;
                while let Some(key) = map.next_key::<String>()? {
                    match (key.as_str(), &spec) {
                        ("family", None) => spec = Some(map.next_value::<FamilyName>()?.0),
                        ("settings", Some(named)) => spec = Some(ModelSpec::read_settings(named.family(), &mut map)?),
                        // Bodies are read from a map in the order of the alphabet, so the family always comes first there.
                        ("settings", None) => return Err(de::Error::custom("`family` must come before `settings`")),
                        ("family", Some(_)) => return Err(de::Error::duplicate_field("family")),
                        (other, _) => return Err(de::Error::unknown_field(other, &["family", "settings"])),
                    }
                }
                spec.ok_or_else(|| de::Error::missing_field("family"))
            }
        }

        deserializer.deserialize_map(Both)
    }
}

struct FamilyName(ModelSpec);

impl<'de> Deserialize<'de> for FamilyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        ModelSpec::default_of(&name).map(Self).ok_or_else(|| de::Error::unknown_variant(&name, ModelSpec::FAMILIES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_left_out_have_their_defaults() {
        let bare: ModelSpec = serde_json::from_str(r#"{"family": "vae"}"#).unwrap();
        assert_eq!(bare, ModelSpec::Vae(Vae::default()));
        let some: ModelSpec = serde_json::from_str(r#"{"family": "vae", "settings": {"latent": 3}}"#).unwrap();
        assert_eq!(some, ModelSpec::Vae(Vae { latent: 3, ..Vae::default() }));
    }

    #[test]
    fn specs_survive_their_json() {
        for family in ModelSpec::FAMILIES {
            let spec = ModelSpec::default_of(family).unwrap();
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(serde_json::from_value::<ModelSpec>(json).unwrap(), spec);
        }
    }

    #[test]
    fn an_unknown_family_is_answered_with_the_known_ones() {
        let fault = serde_json::from_str::<ModelSpec>(r#"{"family": "vea"}"#).unwrap_err().to_string();
        for family in ModelSpec::FAMILIES {
            assert!(fault.contains(family), "{fault}");
        }
    }
}
