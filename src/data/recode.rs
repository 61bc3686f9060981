//! Values of one column become those of another of the same name: levels stand for each other by their texts.

use super::dataset::Column;

/// How values of one column become those of another.
#[derive(Clone, Debug, PartialEq)]
pub enum Recode {
    /// They are the same.
    Same,
    /// The value of each level; NaN of one that the other column does not know.
    Levels(Vec<f32>),
}

impl Recode {
    /// From the values of one column to those of another.
    pub fn between(theirs: &Column, ours: &Column) -> Self {
        if theirs.levels == ours.levels {
            return Self::Same;
        }
        let known = |level: &String| ours.value_of(level).unwrap_or(f32::NAN);
        Self::Levels(theirs.levels.iter().map(known).collect())
    }

    /// What a value becomes.
    pub fn apply(&self, value: f32) -> f32 {
        match self {
            Self::Levels(values) if value >= 0.0 => values.get(value as usize).copied().unwrap_or(f32::NAN),
            _ => value,
        }
    }
}
