//! The families of autoencoders and the networks they are made of.
//!
//! Everything here is synchronous and touches no file, database or socket. A family is one file: its settings, its network
//! and its loss. The table below is the only list of families; the job spec, `/v1/families`, the API document and the
//! contract tests are made from it. Losses are in nats per row: summed over columns, averaged over rows.
//!
//! Start reading with [`Family`] and [`Network`], then [`vae`].

pub mod adversarial;
pub mod contractive;
pub mod conv;
pub mod deep_gp;
pub mod denoising;
mod densities;
pub mod feed_forward;
pub mod fused;
pub mod gan;
pub mod gsn;
pub mod helmholtz;
pub mod importance;
pub mod likelihood;
pub mod losses;
pub mod mlp;
pub mod network;
pub mod noise;
pub mod parameters;
pub mod plain;
pub mod sampler;
pub mod sparse;
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
use likelihood::{Likelihood, Variance};
use network::{Body, Plan};
use noise::Noise;
use parameters::Builder;

/// The settings of a family, and the network they stand for.
pub trait Family: Clone + PartialEq + Default + Serialize + DeserializeOwned + ToSchema {
    /// What it minimises, in one line.
    const FORMULA: &'static str;
    /// Where it is described.
    const PAPER: &'static str;
    /// Where new rows come from.
    const SAMPLING: Sampling;
    /// The variance of a gaussian likelihood when the job leaves it open.
    const VARIANCE: Variance;
    /// What it does with label columns.
    const LABELS: Labels = Labels::Unused;
    /// Whether its networks tell log p(x) of a row.
    const DENSITY: bool = false;
    /// Whether its encoder is stochastic, so that codes have a spread.
    const STOCHASTIC: bool = false;

    /// Width of the code.
    fn latent(&self) -> u32;

    /// How often a row goes through the network in one step, about; what it takes of memory depends on it.
    fn passes(&self) -> u32 {
        1
    }

    /// Reports settings that are not allowed. Pointers are relative to the settings: `/latent`.
    fn check(&self, faults: &mut Faults);

    /// Makes the network, its parameters drawn from `builder`.
    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network>;
}

/// Where a family's new rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Codes drawn from the family's own prior, decoded.
    Prior,
    /// Codes drawn from a sampler that was fitted to the codes of the training rows, decoded.
    Fitted,
    /// A Markov chain over rows, which starts at rows drawn as with `fitted`.
    Chain,
}

/// What a family does with label columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Nothing: it learns from features alone.
    Unused,
    /// It learns to tell them where there are some.
    Optional,
    /// It learns to tell them, and cannot do without.
    Required,
}

/// A network that encodes and decodes. It keeps no counters; its parameters live in [`parameters::Parameters`]. Rows are
/// prepared: `[rows, width]`.
pub trait Network: Send {
    /// Codes of rows `x` `[rows, width]`, without noise.
    fn encode(&self, x: &Tensor) -> Code;

    /// The decoder's output, which the likelihood gives a meaning: `[..., latent]` to `[..., width]`. Without noise.
    fn outputs(&self, z: &Tensor) -> Tensor;

    /// What the decoder's output means.
    fn likelihood(&self) -> &Likelihood;

    /// The loss of rows `x` `[rows, width]` in the turn `step.turn`.
    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss;

    /// Who moves in a step, one after the other. No two move the same parameters.
    fn turns(&self) -> &'static [Turn] {
        &[Turn { name: "all", moves: &[], rate: 1.0 }]
    }

    /// Whether a lower validation loss means a better model. Otherwise every epoch is done and the last is kept.
    fn loss_judges(&self) -> bool {
        true
    }

    /// The mean of p(x given z), as prepared rows.
    fn decode(&self, z: &Tensor) -> Tensor {
        self.likelihood().mean(&self.outputs(z))
    }

    /// The spread of p(x given z), as [`Likelihood::spread`] has it.
    fn spread(&self, z: &Tensor) -> Tensor {
        self.likelihood().spread(&self.outputs(z))
    }

    /// A draw of p(x given z), as prepared rows.
    fn draw(&self, z: &Tensor, noise: &Noise) -> Tensor {
        self.likelihood().draw(&self.outputs(z), noise)
    }

    /// Codes from the family's prior, `[rows, latent]`; `None` where it has none. A temperature below 1 gives more typical
    /// codes, above 1 more varied ones.
    fn prior(&self, _rows: i64, _temperature: f64, _noise: &Noise) -> Option<Tensor> {
        None
    }

    /// Where a Markov chain that starts at prepared rows `[rows, width]` is after so many steps, as the means that its last
    /// step drew from; `None` where the family has no chain. Where `known` `[rows, width]` is 1 a row keeps its value all along.
    fn chain(&self, _start: &Tensor, _steps: u32, _known: Option<&Tensor>, _noise: &Noise) -> Option<Tensor> {
        None
    }

    /// log p(x, z) - log q(z given x) of so many draws for each row, `[samples, rows]`; `None` where the family has no density.
    fn log_weights(&self, _x: &Tensor, _samples: u32, _noise: &Noise) -> Option<Tensor> {
        None
    }

    /// Estimates log p(x) of each row by importance samples; `None` where the family has no density.
    fn log_likelihood(&self, x: &Tensor, samples: u32, noise: &Noise) -> Option<Tensor> {
        self.log_weights(x, samples, noise).map(|weights| importance::log_mean(&weights))
    }

    /// An estimate of the gradient of log p(x) at each row, up to a positive factor; `None` where the family has none.
    fn score_estimate(&self, _x: &Tensor) -> Option<Tensor> {
        None
    }

    /// KL(q(z given x) || p(z)) of each unit, in nats, as the mean over rows: `[latent]`; `None` without such a term.
    fn unit_kl(&self, _x: &Tensor) -> Option<Tensor> {
        None
    }

    /// What tells labels, where the family does: the output of its head for rows `[rows, width]`, and what that means.
    fn predict(&self, _x: &Tensor) -> Option<(Tensor, &Likelihood)> {
        None
    }

    /// The spread of what is told of labels, as [`Likelihood::spread`] has it.
    fn predict_spread(&self, x: &Tensor) -> Option<Tensor> {
        self.predict(x).map(|(output, likelihood)| likelihood.spread(&output))
    }

    /// The stack that layer-wise pre-training goes through; `None` where there is none.
    fn stack(&self) -> Option<Stack<'_>> {
        None
    }
}

/// One player's move within a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Whose it is.
    pub name: &'static str,
    /// The parameters that move: those whose names begin with one of these; all, when there are none.
    pub moves: &'static [&'static str],
    /// Multiplies the learning rate.
    pub rate: f64,
}

/// An encoder and the decoder that mirrors it, to be trained layer by layer.
pub struct Stack<'a> {
    /// From rows to codes.
    pub encoder: &'a Body,
    /// From codes to the likelihood's parameters.
    pub decoder: &'a Body,
    /// The names that their parameters begin with.
    pub names: [&'static str; 2],
    /// What the decoder's output means.
    pub likelihood: &'a Likelihood,
    /// Whether the code has the activation of hidden layers.
    pub activates_code: bool,
}

/// Codes of some rows.
pub struct Code {
    /// `[rows, latent]`.
    pub mean: Tensor,
    /// The standard deviation of each unit, `[rows, latent]`, where the encoder is stochastic.
    pub spread: Option<Tensor>,
}

/// What a loss is told beside the rows.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Dropout and batch statistics are on, and weights that warm up may be below their goal.
    pub training: bool,
    /// Epochs that are done, with the fraction of the current one.
    pub epoch: f64,
    /// Whose turn it is: an index of [`Network::turns`].
    pub turn: usize,
    /// How many rows there are to train on; what is once for all rows counts with one part in so many.
    pub train_rows: f64,
    /// Prepared labels of the rows, `[rows, labels]`, NaN where one is missing; where the job has labels.
    pub labels: Option<&'a Tensor>,
    /// Whether fully connected layers take their matrix products in bfloat16.
    pub half: bool,
    /// Where random numbers come from.
    pub noise: &'a Noise,
}

impl<'a> Step<'a> {
    /// A step of training at the start of a run over one row.
    pub fn training(noise: &'a Noise) -> Self {
        Self { training: true, epoch: 0.0, turn: 0, train_rows: 1.0, labels: None, half: false, noise }
    }

    /// The same in validation.
    pub fn validation(noise: &'a Noise) -> Self {
        Self { training: false, ..Self::training(noise) }
    }
}

/// A loss in nats per row, and the parts it is made of.
pub struct Loss {
    /// What is minimised in this turn; a scalar.
    pub total: Tensor,
    /// What the curve shows and validation compares; a scalar. Steps with several turns show the sum of theirs.
    pub reported: Tensor,
    /// Scalars by name, all recorded. Weights are not applied to them.
    pub parts: Vec<(&'static str, Tensor)>,
}

impl Loss {
    /// A loss that is what it minimises.
    pub fn new(total: Tensor, parts: Vec<(&'static str, Tensor)>) -> Self {
        Self { reported: total.shallow_clone(), total, parts }
    }

    /// The loss of a player whose gain is another's loss: the curve leaves it out, and shows it as a part.
    pub fn opponent(total: Tensor, parts: Vec<(&'static str, Tensor)>) -> Self {
        Self { reported: total.detach() * 0.0, total, parts }
    }
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
    /// Where new rows come from.
    pub sampling: Sampling,
    /// What it does with label columns.
    pub labels: Labels,
    /// Whether it tells log p(x) of a row.
    pub density: bool,
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

            /// How often a row goes through the network in one step, about.
            pub fn passes(&self) -> u32 {
                match self { $(Self::$settings(settings) => settings.passes(),)* }
            }

            /// Where new rows come from.
            pub fn sampling(&self) -> Sampling {
                match self { $(Self::$settings(_) => $settings::SAMPLING,)* }
            }

            /// What the family does with label columns.
            pub fn labels(&self) -> Labels {
                match self { $(Self::$settings(_) => $settings::LABELS,)* }
            }

            /// Whether the family tells log p(x) of a row.
            pub fn has_density(&self) -> bool {
                match self { $(Self::$settings(_) => $settings::DENSITY,)* }
            }

            /// Whether codes have a spread.
            pub fn is_stochastic(&self) -> bool {
                match self { $(Self::$settings(_) => $settings::STOCHASTIC,)* }
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
                sampling: $settings::SAMPLING,
                labels: $settings::LABELS,
                density: $settings::DENSITY,
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
    /// Sparse autoencoder: a wide code of which each row uses little, so that single units mean something.
    Sparse => sparse as "sparse";
    /// Denoising autoencoder: restores rows that were damaged on purpose, so that the code keeps what is robust.
    Denoising => denoising as "denoising";
    /// Contractive autoencoder: a code that hardly moves under small changes of a row, for features that hold still.
    Contractive => contractive as "contractive";
    /// Variational autoencoder: a probabilistic code with a prior, for sampling, likelihoods and smooth interpolation.
    Vae => vae as "vae";
    /// Helmholtz machine: binary codes with a learned prior, for yes-or-no features, likelihoods and sampling.
    Helmholtz => helmholtz as "helmholtz";
    /// Generative stochastic network: a Markov chain that walks among rows like yours, for sampling and filling gaps.
    Gsn => gsn as "gsn";
    /// Adversarial autoencoder: a code shaped like the prior you choose, for sampling, clusters and categories.
    Adversarial => adversarial as "adversarial";
    /// Bidirectional GAN: a generator that must fool a judge, and an encoder that undoes it, for sharp samples.
    Gan => gan as "gan";
    /// Deep Gaussian process: a code and predictions that know how sure they are, for small tables with or without labels.
    DeepGp => deep_gp as "deep_gp";
    /// Feed-forward network: learns to tell the label columns, and what of the row that takes, for classes and numbers.
    FeedForward => feed_forward as "feed_forward";
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
