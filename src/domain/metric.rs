//! Numbers recorded while a model trains.

use serde::{Deserialize, Serialize};

/// One recorded number. `name` is a path such as `validation/loss`; losses are in nats per row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Which series it belongs to.
    pub name: String,
    /// The number; always finite.
    pub value: f64,
}

impl Metric {
    /// A metric, or nothing when the value is not finite: a curve never holds NaN.
    pub fn finite(name: impl Into<String>, value: f64) -> Option<Self> {
        value.is_finite().then(|| Self { name: name.into(), value })
    }
}
