//! A recording as an ONNX file. What each operation becomes is in `operations`.

use std::collections::HashMap;

use prost::Message;
use tch::{Kind, Tensor};

use super::graph::{Constant, Graph, Node, TensorType, ValueId};
use super::passes::Signature;
use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute, element,
};
use super::recording::Recording;
use super::{ExportError, Part, operations};
use crate::training::artifact::ModelHeader;

/// Versions of the format and of its operators, which onnxruntime 1.12 (2022) and later read.
const IR_VERSION: i64 = 8;
const OPERATORS: i64 = 17;
/// The name of the side that is as long as there are rows.
const BATCH: &str = "batch";

/// The bytes of an ONNX file.
///
/// # Errors
/// An operation has no counterpart.
pub fn translate(
    recording: &Recording,
    signature: &Signature,
    header: &ModelHeader,
    part: Part,
) -> Result<Vec<u8>, ExportError> {
    let graph = recording.graph().map_err(ExportError::Recording)?;
    let mut writer = Writer::of(recording, &graph, signature)?;
    for node in &graph.nodes {
        operations::translate(&mut writer, node).map_err(|fault| {
            ExportError::Operation(format!("{} cannot be written as ONNX: {fault}", node.operation))
        })?;
    }
    writer.finish(&graph, signature)?;
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("latente".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        doc_string: Some(format!("The {} of a {} model.", part.as_str(), header.spec.model.family())),
        graph: Some(GraphProto {
            node: writer.nodes,
            name: Some(part.as_str().to_owned()),
            initializer: writer.tensors,
            input: vec![value_info(signature.input.0, Some(signature.input.1))],
            output: signature.outputs.iter().map(|(name, width)| value_info(name, *width)).collect(),
        }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPERATORS) }],
        metadata_props: metadata(header, part),
    };
    Ok(model.encode_to_vec())
}

/// What who uses the file must know beside the graph: the columns in their order, with the levels of those of texts.
fn metadata(header: &ModelHeader, part: Part) -> Vec<StringStringEntryProto> {
    let json = |columns: &[crate::data::dataset::Column]| serde_json::to_string(columns).unwrap_or_default();
    let notes = [
        ("part", part.as_str().to_owned()),
        ("family", header.spec.model.family().to_owned()),
        ("columns", json(&header.columns)),
        ("labels", json(&header.labels)),
    ];
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    notes.into_iter().map(entry).collect()
}

fn value_info(name: &str, width: Option<usize>) -> ValueInfoProto {
    let batch = DimensionProto { dim_value: None, dim_param: Some(BATCH.to_owned()) };
    let width = width.map(|width| DimensionProto { dim_value: Some(width as i64), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(width).collect() };
    let tensor_type = Some(TensorTypeProto { elem_type: Some(element::FLOAT), shape: Some(shape) });
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type }), doc_string: None }
}

/// A setting of an operation.
pub enum Setting<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Real(f64),
}

/// Gathers operations and constants.
pub struct Writer<'a> {
    recording: &'a Recording,
    graph: &'a Graph,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    /// The name of each value that is a tensor.
    names: HashMap<ValueId, String>,
    /// The names of the tensors that a list holds.
    lists: HashMap<ValueId, Vec<String>>,
    made: usize,
}

impl<'a> Writer<'a> {
    fn of(recording: &'a Recording, graph: &'a Graph, signature: &Signature) -> Result<Self, ExportError> {
        let [_, input] = graph.inputs[..] else {
            return Err(ExportError::Recording("it has not one input".to_owned()));
        };
        let names = HashMap::from([(input, signature.input.0.to_owned())]);
        Ok(Self { recording, graph, nodes: Vec::new(), tensors: Vec::new(), names, lists: HashMap::new(), made: 0 })
    }

    /// Gives the outputs their names.
    fn finish(&mut self, graph: &Graph, signature: &Signature) -> Result<(), ExportError> {
        let outputs = match graph.outputs[..] {
            [one] => match self.lists.get(&one) {
                Some(names) => names.clone(),
                None => vec![self.tensor(one).map_err(ExportError::Operation)?],
            },
            _ => Vec::new(),
        };
        if outputs.len() != signature.outputs.len() {
            return Err(ExportError::Recording("it has other outputs than the part".to_owned()));
        }
        for (output, (name, _)) in outputs.iter().zip(&signature.outputs) {
            self.push("Identity", &[output], &[(*name).to_owned()], &[]);
        }
        Ok(())
    }

    /// Appends an operation, and tells the name of what it makes.
    pub fn add(&mut self, operator: &str, inputs: &[&str], settings: &[(&str, Setting<'_>)]) -> String {
        let output = self.name();
        self.push(operator, inputs, std::slice::from_ref(&output), settings);
        output
    }

    /// Appends an operation that makes several tensors.
    pub fn add_several(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: usize,
        settings: &[(&str, Setting<'_>)],
    ) -> Vec<String> {
        let outputs: Vec<String> = (0..outputs).map(|_| self.name()).collect();
        self.push(operator, inputs, &outputs, settings);
        outputs
    }

    fn push(&mut self, operator: &str, inputs: &[&str], outputs: &[String], settings: &[(&str, Setting<'_>)]) {
        let attribute = settings.iter().map(|(name, setting)| written(name, setting)).collect();
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.to_vec(),
            name: Some(format!("{operator}_{}", self.nodes.len())),
            op_type: Some(operator.to_owned()),
            attribute,
        });
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("t{}", self.made)
    }

    /// Says that a value has this name.
    pub fn set(&mut self, value: ValueId, name: String) {
        self.names.insert(value, name);
    }

    /// Says that a value is a list of tensors of these names.
    pub fn set_list(&mut self, value: ValueId, items: Vec<String>) {
        self.lists.insert(value, items);
    }

    /// The name of a tensor; of a number a tensor is made, of the kind that libtorch would take it for.
    pub fn tensor(&mut self, value: ValueId) -> Result<String, String> {
        if let Some(name) = self.names.get(&value) {
            return Ok(name.clone());
        }
        let name = match self.constant(value)? {
            Constant::Tensor(number) => {
                let tensor = self.recording.constant(number)?;
                self.keep(&tensor)?
            }
            Constant::Int(number) => self.keep(&Tensor::from(number))?,
            Constant::Real(number) => self.keep(&Tensor::from(number as f32))?,
            other => return Err(format!("{other:?} is no tensor")),
        };
        self.names.insert(value, name.clone());
        Ok(name)
    }

    /// Keeps a tensor as a constant, and tells its name.
    pub fn keep(&mut self, tensor: &Tensor) -> Result<String, String> {
        let name = format!("c{}", self.tensors.len());
        self.tensors.push(tensor_proto(tensor, &name)?);
        Ok(name)
    }

    /// Keeps whole numbers as a constant, such as axes.
    pub fn ints(&mut self, numbers: &[i64]) -> String {
        let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.raw(vec![numbers.len() as i64], element::INT64, data)
    }

    /// Keeps one number as a constant of this kind.
    pub fn number(&mut self, number: f64, kind: &str) -> String {
        match kind {
            "Double" => self.raw(Vec::new(), element::DOUBLE, number.to_le_bytes().to_vec()),
            "Long" => self.raw(Vec::new(), element::INT64, (number as i64).to_le_bytes().to_vec()),
            _ => self.raw(Vec::new(), element::FLOAT, (number as f32).to_le_bytes().to_vec()),
        }
    }

    fn raw(&mut self, dims: Vec<i64>, kind: i32, data: Vec<u8>) -> String {
        // The same number again is the same constant.
        let same = self.tensors.iter().rev().take(64).find(|one| {
            data.len() <= 64 && one.dims == dims && one.data_type == Some(kind) && one.raw_data.as_ref() == Some(&data)
        });
        if let Some(name) = same.and_then(|one| one.name.clone()) {
            return name;
        }
        let name = format!("c{}", self.tensors.len());
        self.tensors.push(TensorProto { dims, data_type: Some(kind), name: Some(name.clone()), raw_data: Some(data) });
        name
    }

    /// A value that is known.
    pub fn constant(&self, value: ValueId) -> Result<Constant, String> {
        self.graph.constants.get(&value).cloned().ok_or_else(|| "a value depends on the rows".to_owned())
    }

    /// Whether a value is known.
    pub fn is_constant(&self, value: ValueId) -> bool {
        self.graph.constants.contains_key(&value)
    }

    /// The names of a list of tensors.
    pub fn list(&self, value: ValueId) -> Result<&[String], String> {
        self.lists.get(&value).map(Vec::as_slice).ok_or_else(|| "an argument is no list".to_owned())
    }

    /// Kind and sides of a tensor, with the rows that were recorded with.
    pub fn tensor_type(&self, value: ValueId) -> Result<TensorType, String> {
        if let Some(known) = self.graph.types.get(&value) {
            return Ok(known.clone());
        }
        match self.constant(value)? {
            Constant::Tensor(number) => {
                let tensor = self.recording.constant(number)?;
                Ok(TensorType { kind: kind_name(tensor.kind())?.to_owned(), sides: tensor.size() })
            }
            other => Err(format!("{other:?} is no tensor")),
        }
    }

    /// The recorded node's argument of this place, where it is there.
    pub fn argument(&self, node: &Node, place: usize) -> Result<ValueId, String> {
        node.inputs.get(place).copied().ok_or_else(|| format!("the argument {place} is missing"))
    }
}

fn written(name: &str, setting: &Setting<'_>) -> AttributeProto {
    let mut one = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    one.r#type = Some(match setting {
        Setting::Int(number) => {
            one.i = Some(*number);
            attribute::INT
        }
        Setting::Ints(numbers) => {
            one.ints = numbers.to_vec();
            attribute::INTS
        }
        Setting::Real(number) => {
            one.f = Some(*number as f32);
            attribute::FLOAT
        }
    });
    one
}

fn kind_name(kind: Kind) -> Result<&'static str, String> {
    match kind {
        Kind::Float => Ok("Float"),
        Kind::Double => Ok("Double"),
        Kind::Int64 => Ok("Long"),
        Kind::Int => Ok("Int"),
        Kind::Bool => Ok("Bool"),
        other => Err(format!("tensors of the kind {other:?} are not known here")),
    }
}

/// The number of a kind of tensor in the format.
pub fn element_of(kind: &str) -> Result<i64, String> {
    match kind {
        "Float" => Ok(element::FLOAT.into()),
        "Double" => Ok(element::DOUBLE.into()),
        "Long" => Ok(element::INT64.into()),
        "Int" => Ok(element::INT32.into()),
        "Bool" => Ok(element::BOOL.into()),
        other => Err(format!("tensors of the kind {other} are not known here")),
    }
}

fn tensor_proto(tensor: &Tensor, name: &str) -> Result<TensorProto, String> {
    let tensor = tensor.contiguous();
    let count = tensor.numel();
    let flat = tensor.reshape([-1]);
    let data = match tensor.kind() {
        Kind::Float => {
            let mut values = vec![0_f32; count];
            flat.copy_data(&mut values, count);
            bytemuck::cast_slice::<_, u8>(&values).to_vec()
        }
        Kind::Double => {
            let mut values = vec![0_f64; count];
            flat.copy_data(&mut values, count);
            bytemuck::cast_slice::<_, u8>(&values).to_vec()
        }
        Kind::Int => {
            let mut values = vec![0_i32; count];
            flat.copy_data(&mut values, count);
            bytemuck::cast_slice::<_, u8>(&values).to_vec()
        }
        Kind::Int64 => {
            let mut values = vec![0_i64; count];
            flat.copy_data(&mut values, count);
            bytemuck::cast_slice::<_, u8>(&values).to_vec()
        }
        Kind::Bool => {
            let mut values = vec![false; count];
            flat.copy_data(&mut values, count);
            values.into_iter().map(u8::from).collect()
        }
        other => return Err(format!("tensors of the kind {other:?} are not known here")),
    };
    let data_type = i32::try_from(element_of(kind_name(tensor.kind())?)?).map_err(|error| error.to_string())?;
    Ok(TensorProto {
        dims: tensor.size(),
        data_type: Some(data_type),
        name: Some(name.to_owned()),
        raw_data: Some(data),
    })
}
