//! What was recorded: operations on values, each made once. The other side writes it in `native/trace_shim.cpp`.

use std::collections::HashMap;

use serde::Deserialize;

/// Names a value of a graph.
pub type ValueId = u64;

/// Recorded operations, in an order in which they can be done.
#[derive(Debug, Deserialize)]
pub struct Graph {
    /// The module itself, then what goes in.
    pub inputs: Vec<ValueId>,
    /// The result, which may be a tuple.
    pub outputs: Vec<ValueId>,
    /// Values that are known.
    #[serde(deserialize_with = "by_id")]
    pub constants: HashMap<ValueId, Constant>,
    /// What is known of tensors, with the rows that were recorded with.
    #[serde(deserialize_with = "types")]
    pub types: HashMap<ValueId, TensorType>,
    /// The operations.
    pub nodes: Vec<Node>,
}

/// One operation.
#[derive(Debug, Deserialize)]
pub struct Node {
    /// Its name, such as `aten::linear`.
    pub operation: String,
    /// What it takes, constants among it.
    pub inputs: Vec<ValueId>,
    /// What it makes.
    pub outputs: Vec<ValueId>,
}

/// A value that is known.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Constant {
    /// Nothing, for an argument that is left out.
    None,
    /// A tensor, by its number.
    Tensor(usize),
    /// A flag.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Real(#[serde(deserialize_with = "real")] f64),
    /// A word.
    Text(String),
    /// Whole numbers, such as a shape.
    Ints(Vec<i64>),
    /// Something else, which is named.
    Other(String),
}

/// Kind and sides of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    /// Such as `Float`.
    pub kind: String,
    /// Its sides.
    pub sides: Vec<i64>,
}

fn by_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HashMap<ValueId, Constant>, D::Error> {
    Ok(Vec::<(ValueId, Constant)>::deserialize(deserializer)?.into_iter().collect())
}

fn types<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HashMap<ValueId, TensorType>, D::Error> {
    let all = Vec::<(ValueId, String, Vec<i64>)>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|(id, kind, sides)| (id, TensorType { kind, sides })).collect())
}

/// JSON knows neither infinities nor NaN, so numbers come as texts.
fn real<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
