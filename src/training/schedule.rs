//! How the learning rate goes over the steps of a job: its warm-up, its schedule, and what a plateau has made of it.
//!
//! All of it is a function of the position in the run and of a [`Plateau`], which is in every checkpoint. Schedules give
//! shares of the learning rate, which are multiplied.

use std::f64::consts::PI;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::limits::EPOCHS;
use crate::domain::refusal::Faults;

/// How the learning rate goes over the steps of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The same in every step.
    #[default]
    Constant,
    /// Multiplied by `factor` every so many epochs.
    Step,
    /// From the learning rate down to `floor` along half a cosine (Loshchilov and Hutter, 2017).
    Cosine,
    /// Up from `start` to the learning rate over the share `rise` of the steps, then down to `end`, both along half a cosine
    /// (Smith and Topin, 2018).
    OneCycle,
    /// Multiplied by `factor` when the validation loss, or without validation that of training, has not fallen by more than
    /// `min_delta` for more than `patience` epochs.
    ReduceOnPlateau,
}

impl ScheduleKind {
    const ALL: [Self; 5] = [Self::Constant, Self::Step, Self::Cosine, Self::OneCycle, Self::ReduceOnPlateau];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Step => "step",
            Self::Cosine => "cosine",
            Self::OneCycle => "one_cycle",
            Self::ReduceOnPlateau => "reduce_on_plateau",
        }
    }
}

/// A schedule: a name such as `"cosine"`, or an object with the details. A detail that is left out has its default; one that
/// does not belong to the kind is refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct ScheduleDetails {
    /// Which.
    kind: ScheduleKind,
    /// Of `step`: epochs between two changes; 10 when it is left out.
    #[schema(minimum = 1, maximum = 100000)]
    every_epochs: Option<u32>,
    /// Of `step` and `reduce_on_plateau`: what the learning rate is multiplied by; 0.1 when it is left out.
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    factor: Option<f64>,
    /// Of `reduce_on_plateau`: epochs without a lower loss that are borne; 10 when it is left out.
    #[schema(minimum = 0, maximum = 100000)]
    patience: Option<u32>,
    /// Of `reduce_on_plateau`: by how many nats per row a loss must be lower to count; 0 when it is left out.
    #[schema(minimum = 0.0)]
    min_delta: Option<f64>,
    /// Of `cosine` and `reduce_on_plateau`: the least share of the learning rate; 0 when it is left out.
    #[schema(minimum = 0.0, maximum = 1.0)]
    floor: Option<f64>,
    /// Of `one_cycle`: the share of the steps in which the learning rate rises; 0.3 when it is left out.
    #[schema(minimum = 0.0, maximum = 1.0)]
    rise: Option<f64>,
    /// Of `one_cycle`: the share of the learning rate in the first step; 0.04 when it is left out.
    #[schema(minimum = 0.0, maximum = 1.0)]
    start: Option<f64>,
    /// Of `one_cycle`: the share of the learning rate in the last step; 0.000004 when it is left out.
    #[schema(minimum = 0.0, maximum = 1.0)]
    end: Option<f64>,
}

/// A schedule and its details.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleSpec(ScheduleDetails);

impl From<ScheduleKind> for ScheduleSpec {
    fn from(kind: ScheduleKind) -> Self {
        Self(ScheduleDetails { kind, ..ScheduleDetails::default() })
    }
}

impl ScheduleSpec {
    /// Which schedule.
    pub fn kind(&self) -> ScheduleKind {
        self.0.kind
    }

    /// Every detail: its name, its value where there is one, and the kinds it belongs to with their default.
    fn details(&mut self) -> [(&'static str, Detail<'_>, &'static [ScheduleKind]); 8] {
        use ScheduleKind::{Cosine, OneCycle, ReduceOnPlateau, Step};
        let own = &mut self.0;
        [
            ("every_epochs", Detail::Count(&mut own.every_epochs, 10, 1), &[Step]),
            ("factor", Detail::Number(&mut own.factor, 0.1), &[Step, ReduceOnPlateau]),
            ("patience", Detail::Count(&mut own.patience, 10, 0), &[ReduceOnPlateau]),
            ("min_delta", Detail::Number(&mut own.min_delta, 0.0), &[ReduceOnPlateau]),
            ("floor", Detail::Number(&mut own.floor, 0.0), &[Cosine, ReduceOnPlateau]),
            ("rise", Detail::Number(&mut own.rise, 0.3), &[OneCycle]),
            ("start", Detail::Number(&mut own.start, 0.04), &[OneCycle]),
            ("end", Detail::Number(&mut own.end, 4e-6), &[OneCycle]),
        ]
    }

    /// Fills in the details that belong to the kind and were left out.
    pub fn settle(&mut self) {
        let kind = self.kind();
        for (_, detail, kinds) in self.details() {
            match detail {
                _ if !kinds.contains(&kind) => {}
                Detail::Count(value, default, _) => *value = value.or(Some(default)),
                Detail::Number(value, default) => *value = value.or(Some(default)),
            }
        }
    }

    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        let kind = self.kind();
        for (name, detail, kinds) in self.clone().details() {
            let pointer = format!("/training/optimizer/schedule/{name}");
            if detail.is_given() && !kinds.contains(&kind) {
                let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                faults.push(
                    pointer,
                    "conflict",
                    format!("goes with {}; this schedule is {}", names.join(" and "), kind.as_str()),
                );
                continue;
            }
            match (name, detail) {
                (_, Detail::Count(Some(value), _, least)) => {
                    faults.require_within(&pointer, *value, least..=EPOCHS);
                }
                ("factor", Detail::Number(Some(value), _)) => {
                    faults.require_within(&pointer, *value, f64::MIN_POSITIVE..=1.0 - f64::EPSILON);
                }
                ("min_delta", Detail::Number(Some(value), _)) => faults.require_within(&pointer, *value, 0.0..=1e12),
                (_, Detail::Number(Some(value), _)) => faults.require_within(&pointer, *value, 0.0..=1.0),
                _ => {}
            }
        }
    }
}

enum Detail<'a> {
    /// A whole number, its default and the least that is allowed.
    Count(&'a mut Option<u32>, u32, u32),
    Number(&'a mut Option<f64>, f64),
}

impl Detail<'_> {
    fn is_given(&self) -> bool {
        match self {
            Self::Count(value, ..) => value.is_some(),
            Self::Number(value, _) => value.is_some(),
        }
    }
}

impl Serialize for ScheduleSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut own = self.clone();
        let given: Vec<_> = own.details().into_iter().filter(|(_, detail, _)| detail.is_given()).collect();
        if given.is_empty() {
            return self.kind().serialize(serializer);
        }
        let mut map = serializer.serialize_struct("ScheduleSpec", given.len() + 1)?;
        map.serialize_field("kind", &self.kind())?;
        for (name, detail, _) in given {
            match detail {
                Detail::Count(value, ..) => map.serialize_field(name, value)?,
                Detail::Number(value, _) => map.serialize_field(name, value)?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ScheduleSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrDetails;

        impl<'de> Visitor<'de> for NameOrDetails {
            type Value = ScheduleSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let names: Vec<&str> = ScheduleKind::ALL.iter().map(|kind| kind.as_str()).collect();
                write!(f, "the name of a schedule ({}) or an object with `kind` and its details", names.join(", "))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ScheduleSpec, E> {
                ScheduleKind::deserialize(name.into_deserializer()).map(ScheduleSpec::from)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<ScheduleSpec, M::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(ScheduleSpec)
            }
        }

        deserializer.deserialize_any(NameOrDetails)
    }
}

impl PartialSchema for ScheduleSpec {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .description(Some("How the learning rate goes over the steps: a name, or an object with the details."))
            .item(ScheduleKind::schema())
            .item(ScheduleDetails::schema())
            .into()
    }
}

impl ToSchema for ScheduleSpec {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ScheduleKind::name().into_owned(), ScheduleKind::schema()));
        ScheduleDetails::schemas(schemas);
    }
}

/// How long the learning rate rises in a straight line at the beginning: `{"steps": 500}` or `{"epochs": 2}`. It multiplies
/// what the schedule gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Over so many steps.
    Steps(u32),
    /// Over so many epochs, of which parts are allowed.
    Epochs(f64),
}

impl PartialSchema for Warmup {
    fn schema() -> RefOr<Schema> {
        let over = |name: &str, number: ObjectBuilder| {
            ObjectBuilder::new()
                .property(name, number)
                .required(name)
                .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        };
        let steps = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1.0)).maximum(Some(1e9));
        let epochs = ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0.0)).maximum(Some(1e5));
        OneOfBuilder::new()
            .description(Some(
                "How long the learning rate rises in a straight line at the beginning: over `steps` or over `epochs`. It multiplies what the schedule gives.",
            ))
            .item(over("steps", steps))
            .item(over("epochs", epochs))
            .into()
    }
}

impl ToSchema for Warmup {}

impl Warmup {
    /// Reports what is not allowed.
    pub fn check(self, faults: &mut Faults) {
        match self {
            Self::Steps(steps) => {
                faults.require_within("/training/optimizer/warmup/steps", steps, 1..=1_000_000_000);
            }
            Self::Epochs(epochs) => {
                let most = f64::from(EPOCHS);
                faults.require_within("/training/optimizer/warmup/epochs", epochs, f64::MIN_POSITIVE..=most);
            }
        }
    }
}

/// Where a run is, of those epochs that train all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Steps of one epoch.
    pub epoch_steps: u64,
    /// Steps in all.
    pub steps: u64,
}

/// The share of the learning rate in the step at `at`.
pub fn share(schedule: &ScheduleSpec, warmup: Option<Warmup>, plateau: &Plateau, at: Position) -> f64 {
    let own = &schedule.0;
    let scheduled = match own.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Step => {
            let changes = at.step / at.epoch_steps.max(1) / u64::from(own.every_epochs.unwrap_or(10).max(1));
            own.factor.unwrap_or(0.1).powi(i32::try_from(changes).unwrap_or(i32::MAX))
        }
        ScheduleKind::Cosine => {
            let floor = own.floor.unwrap_or(0.0);
            floor + (1.0 - floor) * descent(at.step as f64 / at.steps.max(1) as f64)
        }
        ScheduleKind::OneCycle => {
            let (start, end) = (own.start.unwrap_or(0.04), own.end.unwrap_or(4e-6));
            let (step, last) = (at.step as f64, at.steps.max(1) as f64 - 1.0);
            let top = own.rise.unwrap_or(0.3) * at.steps as f64 - 1.0;
            if step <= top && top > 0.0 {
                1.0 + (start - 1.0) * descent(step / top)
            } else {
                let top = top.max(0.0);
                end + (1.0 - end) * descent(((step - top) / (last - top).max(1.0)).min(1.0))
            }
        }
        ScheduleKind::ReduceOnPlateau => plateau.share,
    };
    let warmed = match warmup {
        None => 1.0,
        Some(Warmup::Steps(steps)) => (at.step + 1) as f64 / f64::from(steps),
        Some(Warmup::Epochs(epochs)) => (at.step + 1) as f64 / (epochs * at.epoch_steps as f64),
    };
    scheduled * warmed.min(1.0)
}

/// Half a cosine from 1 to 0.
fn descent(part: f64) -> f64 {
    0.5 * (1.0 + (PI * part).cos())
}

/// What `reduce_on_plateau` remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    best: Option<f64>,
    stale: u32,
    share: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self { best: None, stale: 0, share: 1.0 }
    }
}

impl Plateau {
    /// Takes note of the loss of an epoch.
    pub fn note(&mut self, loss: f64, schedule: &ScheduleSpec) {
        let own = &schedule.0;
        if own.kind != ScheduleKind::ReduceOnPlateau {
            return;
        }
        if self.best.is_none_or(|best| loss < best - own.min_delta.unwrap_or(0.0)) {
            (self.best, self.stale) = (Some(loss), 0);
            return;
        }
        self.stale += 1;
        if self.stale > own.patience.unwrap_or(10) {
            self.share = (self.share * own.factor.unwrap_or(0.1)).max(own.floor.unwrap_or(0.0));
            self.stale = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::refusal::Code;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> ScheduleSpec {
        serde_json::from_value(value).unwrap()
    }

    fn faults(schedule: &ScheduleSpec) -> Vec<String> {
        let mut faults = Faults::new();
        schedule.check(&mut faults);
        let refusal = faults.into_result(Code::InvalidRequest).err();
        refusal.into_iter().flat_map(|refusal| refusal.errors).map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_name_is_a_schedule_and_stays_one() {
        for kind in ScheduleKind::ALL {
            let named = spec(json!(kind.as_str()));
            assert_eq!((named.kind(), serde_json::to_value(&named).unwrap()), (kind, json!(kind.as_str())));
            let mut settled = named.clone();
            settled.settle();
            assert_eq!(spec(serde_json::to_value(&settled).unwrap()), settled);
            assert!(faults(&settled).is_empty());
            let at = Position { step: 33, epoch_steps: 10, steps: 100 };
            let shares = [&named, &settled].map(|schedule| share(schedule, None, &Plateau::default(), at));
            assert_eq!(shares[0], shares[1], "the defaults that are filled in are those that apply");
        }
        assert_eq!(
            serde_json::to_value(spec(json!({"kind": "step", "factor": 0.5}))).unwrap(),
            json!({"kind": "step", "factor": 0.5})
        );
        assert!(serde_json::from_value::<ScheduleSpec>(json!("linear")).is_err());
        assert!(serde_json::from_value::<ScheduleSpec>(json!({"kind": "step", "gamma": 0.5})).is_err());
    }

    #[test]
    fn details_out_of_place_or_range_are_named() {
        let place = |name: &str| vec![format!("/training/optimizer/schedule/{name}")];
        assert_eq!(faults(&spec(json!({"kind": "cosine", "factor": 0.5}))), place("factor"));
        assert_eq!(faults(&spec(json!({"kind": "step", "factor": 1.0}))), place("factor"));
        assert_eq!(faults(&spec(json!({"kind": "step", "every_epochs": 0}))), place("every_epochs"));
        assert_eq!(faults(&spec(json!({"kind": "one_cycle", "rise": 1.5}))), place("rise"));
        assert_eq!(faults(&spec(json!({"kind": "reduce_on_plateau", "min_delta": -1}))), place("min_delta"));
        let mut found = Faults::new();
        Warmup::Epochs(0.0).check(&mut found);
        Warmup::Steps(0).check(&mut found);
        let refusal = found.into_result(Code::InvalidRequest).unwrap_err();
        let pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/training/optimizer/warmup/epochs", "/training/optimizer/warmup/steps"]);
    }

    #[test]
    fn schedules_are_those_of_the_reference() {
        let reference: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/reference/optimizers.json")).unwrap();
        let cases = reference["schedules"].as_array().unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let schedule = spec(case["schedule"].clone());
            let warmup: Option<Warmup> = serde_json::from_value(case["warmup"].clone()).unwrap();
            let epoch_steps = case["epoch_steps"].as_u64().unwrap();
            let losses: Vec<f64> = serde_json::from_value(case["losses"].clone()).unwrap();
            let shares: Vec<f64> = serde_json::from_value(case["shares"].clone()).unwrap();
            let mut plateau = Plateau::default();
            for (step, expected) in (0..).zip(&shares) {
                let at = Position { step, epoch_steps, steps: shares.len() as u64 };
                let found = share(&schedule, warmup, &plateau, at);
                assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-3), "{case}: step {step}: {found}");
                let loss = losses.get((step / epoch_steps) as usize).filter(|_| (step + 1) % epoch_steps == 0);
                if let Some(loss) = loss {
                    plateau.note(*loss, &schedule);
                }
            }
        }
    }

    #[test]
    fn a_short_run_has_shares_within_reason() {
        for kind in ScheduleKind::ALL {
            for steps in 1..5 {
                for step in 0..steps {
                    let at = Position { step, epoch_steps: 1, steps };
                    let found = share(&kind.into(), Some(Warmup::Epochs(0.5)), &Plateau::default(), at);
                    assert!((0.0..=1.0).contains(&found), "{kind:?}: {step} of {steps}: {found}");
                }
            }
        }
    }
}
