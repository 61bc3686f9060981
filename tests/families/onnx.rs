//! Does what an ONNX file says, operator by operator, with libtorch: a check that files are whole and mean what they should.
//! `make exports` is the check by another runtime.

use std::collections::HashMap;

use latente::training::export::proto::{AttributeProto, ModelProto, NodeProto, TensorProto, element};
use prost::Message;
use tch::{Device, Kind, Tensor};

pub struct File(ModelProto);

impl File {
    pub fn read(bytes: &[u8]) -> Self {
        let model = ModelProto::decode(bytes).unwrap();
        assert_eq!((model.ir_version, model.opset_import[0].version), (Some(8), Some(17)));
        Self(model)
    }

    /// The outputs, in their order.
    pub fn run(&self, input: &Tensor) -> Vec<Tensor> {
        let graph = self.0.graph.as_ref().unwrap();
        let [only] = &graph.input[..] else { panic!("{:?}", graph.input) };
        let sides = &only.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap().dim;
        assert_eq!((sides[0].dim_param.as_deref(), sides[1].dim_value), (Some("batch"), Some(input.size()[1])));
        let mut values: HashMap<&str, Tensor> = HashMap::from([(only.name(), input.shallow_clone())]);
        values.extend(graph.initializer.iter().map(|tensor| (tensor.name(), constant(tensor))));
        for node in &graph.node {
            let inputs: Vec<&Tensor> = node.input.iter().map(|name| &values[name.as_str()]).collect();
            let outputs = operate(node, &inputs);
            assert_eq!(outputs.len(), node.output.len(), "{node:?}");
            for (name, output) in node.output.iter().zip(outputs) {
                assert!(values.insert(name, output).is_none(), "{name} is made twice");
            }
        }
        graph
            .output
            .iter()
            .map(|output| {
                let told = values[output.name()].shallow_clone();
                let sides = &output.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap().dim;
                assert_eq!(told.size().len(), sides.len(), "{}", output.name());
                assert_eq!(told.size()[0], input.size()[0], "{}", output.name());
                assert!(sides.get(1).is_none_or(|side| side.dim_value == Some(told.size()[1])), "{}", output.name());
                told
            })
            .collect()
    }
}

fn constant(tensor: &TensorProto) -> Tensor {
    let kind = kind(tensor.data_type().into());
    let count = tensor.dims.iter().product::<i64>() as usize;
    assert_eq!(tensor.raw_data().len(), count * kind.elt_size_in_bytes(), "{}", tensor.name());
    #[expect(clippy::disallowed_methods, reason = "the length was compared above")]
    Tensor::from_data_size(tensor.raw_data(), &tensor.dims, kind)
}

fn kind(element: i64) -> Kind {
    match i32::try_from(element).unwrap() {
        element::FLOAT => Kind::Float,
        element::DOUBLE => Kind::Double,
        element::INT32 => Kind::Int,
        element::INT64 => Kind::Int64,
        element::BOOL => Kind::Bool,
        other => panic!("element {other}"),
    }
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    assert_eq!(tensor.kind(), Kind::Int64);
    Vec::<i64>::try_from(tensor.reshape([-1])).unwrap()
}

/// Attributes by name; what is asked for and not there has the default of the operator.
struct Settings<'a>(&'a NodeProto);

impl Settings<'_> {
    fn find(&self, name: &str) -> Option<&AttributeProto> {
        self.0.attribute.iter().find(|one| one.name() == name)
    }

    fn int(&self, name: &str, otherwise: i64) -> i64 {
        self.find(name).map_or(otherwise, AttributeProto::i)
    }

    fn real(&self, name: &str, otherwise: f64) -> f64 {
        self.find(name).map_or(otherwise, |one| one.f().into())
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        self.find(name).map_or_else(Vec::new, |one| one.ints.clone())
    }

    fn keeps(&self) -> bool {
        self.int("keepdims", 1) == 1
    }

    /// Padding of the beginnings, which must be that of the ends.
    fn pads(&self) -> Vec<i64> {
        let pads = self.ints("pads");
        let (begins, ends) = pads.split_at(pads.len() / 2);
        assert_eq!(begins, ends);
        begins.to_vec()
    }
}

/// ONNX makes no number of one kind into another by itself.
fn same_kind(inputs: &[&Tensor]) {
    assert!(inputs.iter().all(|input| input.kind() == inputs[0].kind()), "{inputs:?}");
}

fn operate(node: &NodeProto, inputs: &[&Tensor]) -> Vec<Tensor> {
    let settings = Settings(node);
    let x = inputs[0];
    let one = match node.op_type() {
        "Identity" => x.shallow_clone(),
        "Relu" => x.relu(),
        "Tanh" => x.tanh(),
        "Sigmoid" => x.sigmoid(),
        "Selu" => x.selu(),
        "Softplus" => x.softplus(),
        "Elu" => {
            assert_eq!(settings.real("alpha", 1.0), 1.0);
            x.elu()
        }
        "LeakyRelu" => x.maximum(&(x * settings.real("alpha", 0.01))),
        "Exp" => x.exp(),
        "Log" => x.log(),
        "Sqrt" => x.sqrt(),
        "Erf" => x.erf(),
        "Abs" => x.abs(),
        "Neg" => x.neg(),
        "Floor" => x.floor(),
        "Round" => x.round(),
        "Cos" => x.cos(),
        "Sin" => x.sin(),
        "Reciprocal" => x.reciprocal(),
        "IsNaN" => x.isnan(),
        "Not" => x.logical_not(),
        "Cast" => x.to_kind(kind(settings.int("to", 0))),
        "Shape" => Tensor::from_slice(&x.size()),
        "ConstantOfShape" => Tensor::zeros(ints(x), (Kind::Float, Device::Cpu)),
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "MatMul" | "Greater" | "GreaterOrEqual" | "Less"
        | "LessOrEqual" | "Equal" => {
            same_kind(inputs);
            let y = inputs[1];
            match node.op_type() {
                "Add" => x + y,
                "Sub" => x - y,
                "Mul" => x * y,
                "Div" => x / y,
                "Max" => x.maximum(y),
                "Min" => x.minimum(y),
                "MatMul" => x.matmul(y),
                "Greater" => x.gt_tensor(y),
                "GreaterOrEqual" => x.ge_tensor(y),
                "Less" => x.lt_tensor(y),
                "LessOrEqual" => x.le_tensor(y),
                _ => x.eq_tensor(y),
            }
        }
        "Where" => {
            same_kind(&inputs[1..]);
            assert_eq!(x.kind(), Kind::Bool);
            inputs[1].where_self(x, inputs[2])
        }
        "Gemm" => {
            assert_eq!((settings.int("transB", 0), x.dim()), (1, 2));
            x.linear(inputs[1], inputs.get(2).copied())
        }
        "Conv" => x.conv2d(
            inputs[1],
            inputs.get(2).copied(),
            settings.ints("strides"),
            settings.pads(),
            settings.ints("dilations"),
            settings.int("group", 1),
        ),
        "ConvTranspose" => x.conv_transpose2d(
            inputs[1],
            inputs.get(2).copied(),
            settings.ints("strides"),
            settings.pads(),
            settings.ints("output_padding"),
            settings.int("group", 1),
            settings.ints("dilations"),
        ),
        "BatchNormalization" => {
            let epsilon = settings.real("epsilon", 1e-5);
            x.batch_norm(Some(inputs[1]), Some(inputs[2]), Some(inputs[3]), Some(inputs[4]), false, 0.1, epsilon, false)
        }
        "LayerNormalization" => {
            assert_eq!(settings.int("axis", -1), -1);
            x.layer_norm(inputs[1].size(), Some(inputs[1]), Some(inputs[2]), settings.real("epsilon", 1e-5), false)
        }
        "Softmax" => x.softmax(settings.int("axis", -1), Kind::Float),
        "LogSoftmax" => x.log_softmax(settings.int("axis", -1), Kind::Float),
        "ReduceSum" => x.sum_dim_intlist(ints(inputs[1]).as_slice(), settings.keeps(), x.kind()),
        "ReduceMean" => x.mean_dim(settings.ints("axes").as_slice(), settings.keeps(), x.kind()),
        "ReduceMax" => x.amax(settings.ints("axes").as_slice(), settings.keeps()),
        "ArgMax" => x.argmax(settings.int("axis", 0), settings.keeps()),
        "TopK" => {
            let (values, places) = x.topk(
                ints(inputs[1])[0],
                settings.int("axis", -1),
                settings.int("largest", 1) == 1,
                settings.int("sorted", 1) == 1,
            );
            return vec![values, places];
        }
        "ScatterElements" => x.scatter(settings.int("axis", 0), inputs[1], inputs[2]),
        "Gather" => {
            let (axis, places) = (settings.int("axis", 0), inputs[1]);
            let axis = if axis < 0 { axis + x.dim() as i64 } else { axis } as usize;
            let sides = [&x.size()[..axis], &places.size(), &x.size()[axis + 1..]].concat();
            x.index_select(axis as i64, &places.reshape([-1])).reshape(sides)
        }
        "Slice" => {
            let [start, end, axis] = [1, 2, 3].map(|place| ints(inputs[place])[0]);
            x.slice(axis, start, end, 1)
        }
        "Concat" => {
            same_kind(inputs);
            Tensor::cat(inputs, settings.int("axis", 0))
        }
        "Split" => return x.split_with_sizes(ints(inputs[1]), settings.int("axis", 0)),
        "Unsqueeze" => x.unsqueeze(ints(inputs[1])[0]),
        "Squeeze" => x.squeeze_dim(ints(inputs[1])[0]),
        "Reshape" => x.reshape(ints(inputs[1])),
        "Flatten" => x.flatten(settings.int("axis", 1), -1),
        "Expand" => {
            let sides = ints(inputs[1]);
            let like = Tensor::zeros(&sides, (x.kind(), Device::Cpu));
            Tensor::broadcast_tensors(&[x, &like]).swap_remove(0)
        }
        "Transpose" => x.permute(settings.ints("perm")),
        other => panic!("{other} is not known here"),
    };
    vec![one]
}
