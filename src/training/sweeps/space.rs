//! The space of a sweep: which fields of the spec it varies, by JSON pointer, and what each may be.
//!
//! Nothing here knows what a field means. Each number is drawn by a generator of its own, keyed by seed, trial and pointer: more
//! trials, or another field, leave the draws of the others as they are.

use std::collections::{BTreeMap, HashSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::limits::{SWEEP_POINTER_CHARS, SWEEP_TRIALS};
use crate::domain::refusal::Faults;

/// What is drawn again when it was drawn before, before the first free point is taken.
const REDRAWS: u32 = 1_000;

/// What one field may be. Exactly one of the ranges is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Choices {
    /// One of these values, of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Value>>,
    /// A number between two, each as likely as any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<[f64; 2]>,
    /// A number between two positive ones, its logarithm evenly spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uniform: Option<[f64; 2]>,
    /// A whole number from the first to the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int: Option<[i64; 2]>,
    /// A whole number from the first to the last, both positive, its logarithm evenly spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_int: Option<[i64; 2]>,
    /// In a grid: so many numbers of the range, evenly spaced, both ends among them. A range of whole numbers goes without: each is
    /// taken then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 2, maximum = 1000)]
    pub steps: Option<u32>,
}

/// The values of one trial, by JSON pointer.
pub type Point = BTreeMap<String, Value>;

/// The fields of a sweep.
pub type Space = BTreeMap<String, Choices>;

#[derive(Clone, Copy, Debug)]
enum Range<'a> {
    Values(&'a [Value]),
    Uniform([f64; 2]),
    LogUniform([f64; 2]),
    Int([i64; 2]),
    LogInt([i64; 2]),
}

impl Choices {
    fn ranges(&self) -> Vec<(&'static str, Range<'_>)> {
        let given = [
            self.values.as_deref().map(|values| ("values", Range::Values(values))),
            self.uniform.map(|ends| ("uniform", Range::Uniform(ends))),
            self.log_uniform.map(|ends| ("log_uniform", Range::LogUniform(ends))),
            self.int.map(|ends| ("int", Range::Int(ends))),
            self.log_int.map(|ends| ("log_int", Range::LogInt(ends))),
        ];
        given.into_iter().flatten().collect()
    }

    fn range(&self) -> Range<'_> {
        self.ranges().first().expect("what was checked has a range").1
    }

    /// Reports what is not allowed. `at` points to these choices.
    pub fn check(&self, at: &str, is_grid: bool, faults: &mut Faults) {
        let ranges = self.ranges();
        let [(name, range)] = ranges.as_slice() else {
            let names: Vec<&str> = ranges.iter().map(|(name, _)| *name).collect();
            let given =
                if names.is_empty() { "has no range".to_owned() } else { format!("has {}", names.join(" and ")) };
            faults.push(
                at,
                "ambiguous",
                format!("{given}; exactly one of values, uniform, log_uniform, int, log_int goes"),
            );
            return;
        };
        let at_range = format!("{at}/{name}");
        let ends = |low: f64, high: f64, is_positive: bool, faults: &mut Faults| {
            if low >= high || !low.is_finite() || !high.is_finite() {
                faults.push(
                    &at_range,
                    "out_of_range",
                    format!("goes from {low} to {high}; the first must be the lower"),
                );
            } else if is_positive && low <= 0.0 {
                faults.push(&at_range, "out_of_range", format!("begins at {low}; logarithms need positive numbers"));
            }
        };
        match *range {
            Range::Values(values) => {
                faults.require_within(&at_range, values.len() as u64, 1..=u64::from(SWEEP_TRIALS));
                let mut seen = HashSet::new();
                for (index, value) in values.iter().enumerate() {
                    if !seen.insert(value.to_string()) {
                        faults.push(format!("{at_range}/{index}"), "duplicate", "is there twice");
                    }
                }
            }
            Range::Uniform([low, high]) => ends(low, high, false, faults),
            Range::LogUniform([low, high]) => ends(low, high, true, faults),
            Range::Int([low, high]) => ends(low as f64, high as f64, false, faults),
            Range::LogInt([low, high]) => ends(low as f64, high as f64, true, faults),
        }
        let continuous = matches!(range, Range::Uniform(_) | Range::LogUniform(_));
        match self.steps {
            Some(_) if !is_grid => faults.push(format!("{at}/steps"), "conflict", "goes with a grid alone"),
            Some(_) if matches!(range, Range::Values(_)) => {
                faults.push(format!("{at}/steps"), "conflict", "goes with a range, and these are values");
            }
            Some(steps) => faults.require_within(&format!("{at}/steps"), steps, 2..=SWEEP_TRIALS),
            None if is_grid && continuous => {
                faults.push(format!("{at}/steps"), "missing", "says how many numbers of the range a grid has");
            }
            None => {}
        }
    }

    /// How many different values there are; `None` for any number.
    fn count(&self) -> Option<u64> {
        match self.range() {
            Range::Values(values) => Some(values.len() as u64),
            Range::Int([low, high]) | Range::LogInt([low, high]) => Some(high.abs_diff(low).saturating_add(1)),
            Range::Uniform(_) | Range::LogUniform(_) => None,
        }
    }

    /// How many of them a grid has, at most.
    fn grid_count(&self) -> u64 {
        self.steps.map(u64::from).or_else(|| self.count()).unwrap_or(u64::MAX)
    }

    /// One of so many values that there are, in their order.
    fn nth(&self, index: u64) -> Value {
        match self.range() {
            Range::Values(values) => values[index as usize].clone(),
            Range::Int([low, _]) | Range::LogInt([low, _]) => low.saturating_add_unsigned(index).into(),
            Range::Uniform(_) | Range::LogUniform(_) => unreachable!("there are any number of these"),
        }
    }

    /// The values of a grid.
    fn grid(&self) -> Vec<Value> {
        let Some(steps) = self.steps else {
            return (0..self.grid_count()).map(|index| self.nth(index)).collect();
        };
        let mut values: Vec<Value> =
            (0..steps).map(|step| self.between(f64::from(step) / f64::from(steps - 1))).collect();
        // Whole numbers fall together where there are fewer of them than steps.
        values.dedup();
        values
    }

    /// What stands at a share of the range.
    fn between(&self, share: f64) -> Value {
        let linear = |low: f64, high: f64| (low + share * (high - low)).clamp(low, high);
        let curved = |low: f64, high: f64| {
            // The ends are what was given, not what comes back from a logarithm.
            if share == 0.0 {
                low
            } else if share == 1.0 {
                high
            } else {
                linear(low.ln(), high.ln()).exp().clamp(low, high)
            }
        };
        match self.range() {
            Range::Values(values) => values[(share * values.len() as f64) as usize % values.len()].clone(),
            Range::Uniform([low, high]) => linear(low, high).into(),
            Range::LogUniform([low, high]) => curved(low, high).into(),
            Range::Int([low, high]) => (linear(low as f64, high as f64).round() as i64).clamp(low, high).into(),
            Range::LogInt([low, high]) => (curved(low as f64, high as f64).round() as i64).clamp(low, high).into(),
        }
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> Value {
        match self.range() {
            Range::Values(values) => values[random.random_range(0..values.len())].clone(),
            Range::Int([low, high]) => random.random_range(low..=high).into(),
            Range::LogInt([low, high]) => {
                // Each number has the stretch up to the next one, so that the last is drawn like any other.
                let (from, to) = ((low as f64).ln(), (high as f64 + 1.0).ln());
                let drawn = (from + random.random::<f64>() * (to - from)).exp().floor() as i64;
                drawn.clamp(low, high).into()
            }
            Range::Uniform(_) | Range::LogUniform(_) => self.between(random.random()),
        }
    }

    /// The values that a check of the choices looks at, with where they stand: each of a list, the ends of a range.
    pub fn probes(&self) -> Vec<(String, Value)> {
        match self.range() {
            Range::Values(values) => {
                values.iter().enumerate().map(|(index, value)| (format!("/values/{index}"), value.clone())).collect()
            }
            _ => {
                let name = self.ranges()[0].0;
                [0.0, 1.0].into_iter().map(|share| (format!("/{name}"), self.between(share))).collect()
            }
        }
    }
}

/// Reports pointers that are none, and those that lead into each other.
pub fn check_pointers(space: &Space, faults: &mut Faults) {
    for pointer in space.keys() {
        let at = place(pointer);
        if !pointer.starts_with('/') || pointer.chars().count() > SWEEP_POINTER_CHARS {
            let detail = format!(
                "is no JSON pointer to a field of the job spec, such as /training/optimizer/lr, of up to {SWEEP_POINTER_CHARS} characters"
            );
            faults.push(at, "invalid_pointer", detail);
            continue;
        }
        let outer = space.keys().find(|other| other.starts_with('/') && is_within(pointer, other) && *other != pointer);
        if let Some(outer) = outer {
            faults.push(at, "conflict", format!("lies within {outer}, which the space varies as a whole"));
        }
    }
}

/// Whether what a pointer leads to is another's or a part of it.
pub fn is_within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where the choices of a field stand in the body.
pub fn place(pointer: &str) -> String {
    format!("/space/{}", pointer.replace('~', "~0").replace('/', "~1"))
}

/// What of a pointer leads on from a field; nothing of one that ends above it, where a fault of the field may be told, too.
pub fn rest_within<'a>(pointer: &'a str, field: &str) -> Option<&'a str> {
    if is_within(pointer, field) {
        return Some(&pointer[field.len()..]);
    }
    (!pointer.is_empty() && is_within(field, pointer)).then_some("")
}

/// Where a fault of the spec of a trial stands in the sweep: with the values of the field that it is about, or in the base.
pub fn home(space: &Space, pointer: &str, point: &Point) -> String {
    for (varied, choices) in space {
        let Some(rest) = rest_within(pointer, varied) else { continue };
        let listed = choices.values.as_deref().unwrap_or_default();
        return match listed.iter().position(|value| Some(value) == point.get(varied)) {
            Some(index) => format!("{}/values/{index}{rest}", place(varied)),
            None => {
                let (at, _) = choices.probes().swap_remove(0);
                format!("{}{at}", place(varied))
            }
        };
    }
    format!("/base{pointer}")
}

/// How many points a grid has, at most.
pub fn grid_count(space: &Space) -> u64 {
    space.values().map(Choices::grid_count).fold(1, u64::saturating_mul)
}

/// How many different points there are; `None` for any number.
pub fn count(space: &Space) -> Option<u64> {
    space.values().map(Choices::count).try_fold(1_u64, |all, count| Some(all.saturating_mul(count?)))
}

/// Every point of a grid; the last field changes fastest.
pub fn grid(space: &Space) -> Vec<Point> {
    let mut points = vec![Point::new()];
    for (pointer, choices) in space {
        let values = choices.grid();
        let with = |point: &Point, value: &Value| {
            let mut point = point.clone();
            point.insert(pointer.clone(), value.clone());
            point
        };
        points = points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect();
    }
    points
}

/// So many points, drawn at random, no two the same as long as there are so many. The first ones do not depend on their number.
pub fn draws(space: &Space, trials: u32, seed: u64) -> Vec<Point> {
    let mut seen = HashSet::new();
    (0..trials)
        .map(|trial| {
            let drawn = (0..REDRAWS).map(|attempt| draw(space, seed, trial, attempt));
            let free = (0..count(space).unwrap_or(0)).map(|index| nth(space, index));
            let new = drawn.chain(free).find(|point| seen.insert(text(point)));
            new.unwrap_or_else(|| draw(space, seed, trial, 0))
        })
        .collect()
}

fn text(point: &Point) -> String {
    serde_json::to_string(point).expect("values are JSON")
}

fn draw(space: &Space, seed: u64, trial: u32, attempt: u32) -> Point {
    let value = |(pointer, choices): (&String, &Choices)| {
        let mut key = Sha256::new_with_prefix(b"latente.sweep");
        key.update(seed.to_le_bytes());
        key.update(trial.to_le_bytes());
        key.update(attempt.to_le_bytes());
        key.update(pointer.as_bytes());
        let mut random = ChaCha8Rng::from_seed(key.finalize().into());
        (pointer.clone(), choices.draw(&mut random))
    };
    space.iter().map(value).collect()
}

/// One of so many points that there are.
fn nth(space: &Space, mut index: u64) -> Point {
    let value = |(pointer, choices): (&String, &Choices)| {
        let count = choices.count().expect("a space that can be counted has fields that can be");
        let value = choices.nth(index % count);
        index /= count;
        (pointer.clone(), value)
    };
    space.iter().map(value).collect()
}

/// Sets a field of a spec, and makes the objects around it that are not there.
///
/// # Errors
/// The way leads through something that has no fields.
pub fn set(spec: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    let mut at = spec;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if at.is_null() {
            *at = Value::Object(serde_json::Map::new());
        }
        at = match at {
            Value::Object(map) => map.entry(token).or_insert(Value::Null),
            Value::Array(items) => {
                let length = items.len();
                let found = token.parse().ok().and_then(|index: usize| items.get_mut(index));
                found.ok_or_else(|| format!("names the element `{token}` of a list that has {length} in `base`"))?
            }
            _ => return Err(format!("looks for `{token}` in something that is no object in `base`")),
        };
    }
    *at = value;
    Ok(())
}

#[cfg(test)]
mod tests;
