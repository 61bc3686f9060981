//! What each recorded operation of libtorch becomes in ONNX.
//!
//! A row of the table below is an operation. One that is not there is refused, and the tests of all families say so. What
//! ONNX leaves open is pinned down: a limit lets NaN through, as libtorch does, and logarithms of the gamma function are
//! computed with 64 bits.

use super::graph::{Constant, Node, ValueId};
use super::onnx::{Setting, Writer, element_of};

type Outcome = Result<(), String>;

/// Appends what an operation becomes.
///
/// # Errors
/// It has no counterpart, or is used in a way that has none.
pub fn translate(w: &mut Writer<'_>, node: &Node) -> Outcome {
    match node.operation.as_str() {
        "prim::TupleConstruct" | "prim::ListConstruct" => {
            let items: Result<_, _> = node.inputs.iter().map(|item| w.tensor(*item)).collect();
            w.set_list(node.outputs[0], items?);
            Ok(())
        }
        "prim::ListUnpack" => {
            let items = w.list(w.argument(node, 0)?)?.to_vec();
            node.outputs.iter().zip(items).for_each(|(output, item)| w.set(*output, item));
            Ok(())
        }
        "aten::detach" | "aten::contiguous" | "aten::clone" | "aten::alias" => {
            let same = tensor(w, node, 0)?;
            made(w, node, same)
        }
        "aten::to" | "aten::_to_copy" | "aten::type_as" => {
            let kind = output_kind(w, node)?;
            let cast = operand(w, w.argument(node, 0)?, &kind)?;
            made(w, node, cast)
        }
        "aten::relu" => plain(w, node, "Relu"),
        "aten::tanh" => plain(w, node, "Tanh"),
        "aten::sigmoid" => plain(w, node, "Sigmoid"),
        "aten::selu" => plain(w, node, "Selu"),
        "aten::softplus" => plain(w, node, "Softplus"),
        "aten::exp" => plain(w, node, "Exp"),
        "aten::log" => plain(w, node, "Log"),
        "aten::sqrt" => plain(w, node, "Sqrt"),
        "aten::abs" => plain(w, node, "Abs"),
        "aten::neg" => plain(w, node, "Neg"),
        "aten::floor" => plain(w, node, "Floor"),
        "aten::round" => plain(w, node, "Round"),
        "aten::cos" => plain(w, node, "Cos"),
        "aten::sin" => plain(w, node, "Sin"),
        "aten::isnan" => plain(w, node, "IsNaN"),
        "aten::logical_not" => plain(w, node, "Not"),
        "aten::elu" => elu(w, node),
        "aten::leaky_relu" => {
            let slope = real(w, node, 1)?;
            one(w, node, "LeakyRelu", &[("alpha", Setting::Real(slope))])
        }
        "aten::gelu" => gelu(w, node),
        "aten::silu" => {
            let x = tensor(w, node, 0)?;
            let gate = w.add("Sigmoid", &[&x], &[]);
            let y = w.add("Mul", &[&x, &gate], &[]);
            made(w, node, y)
        }
        "aten::log_sigmoid" => {
            let x = tensor(w, node, 0)?;
            let turned = w.add("Neg", &[&x], &[]);
            let soft = w.add("Softplus", &[&turned], &[]);
            let y = w.add("Neg", &[&soft], &[]);
            made(w, node, y)
        }
        "aten::log1p" => {
            let x = tensor(w, node, 0)?;
            let one = w.number(1.0, "Float");
            let more = w.add("Add", &[&x, &one], &[]);
            let y = w.add("Log", &[&more], &[]);
            made(w, node, y)
        }
        "aten::expm1" => {
            let x = tensor(w, node, 0)?;
            let one = w.number(1.0, "Float");
            let more = w.add("Exp", &[&x], &[]);
            let y = w.add("Sub", &[&more, &one], &[]);
            made(w, node, y)
        }
        "aten::square" => {
            let x = tensor(w, node, 0)?;
            let y = w.add("Mul", &[&x, &x], &[]);
            made(w, node, y)
        }
        "aten::lgamma" => log_gamma(w, node),
        "aten::add" => sum(w, node, "Add", [0, 1]),
        "aten::sub" => sum(w, node, "Sub", [0, 1]),
        "aten::rsub" => sum(w, node, "Sub", [1, 0]),
        "aten::mul" => pair(w, node, "Mul"),
        "aten::div" if node.inputs.len() == 2 => pair(w, node, "Div"),
        "aten::maximum" => pair(w, node, "Max"),
        "aten::minimum" => pair(w, node, "Min"),
        "aten::gt" => comparison(w, node, "Greater"),
        "aten::ge" => comparison(w, node, "GreaterOrEqual"),
        "aten::lt" => comparison(w, node, "Less"),
        "aten::le" => comparison(w, node, "LessOrEqual"),
        "aten::eq" => comparison(w, node, "Equal"),
        "aten::clamp" => limits(w, node, Some(1), Some(2)),
        "aten::clamp_min" => limits(w, node, Some(1), None),
        "aten::clamp_max" => limits(w, node, None, Some(1)),
        "aten::nan_to_num" => nan_to_num(w, node),
        "aten::where" => choice(w, node, [0, 1, 2]),
        "aten::masked_fill" => choice(w, node, [1, 2, 0]),
        "aten::linear" => linear(w, node),
        "aten::matmul" => pair(w, node, "MatMul"),
        "aten::_convolution" => convolution(w, node),
        "aten::batch_norm" => batch_norm(w, node),
        "aten::layer_norm" => layer_norm(w, node),
        "aten::group_norm" => group_norm(w, node),
        "aten::softmax" => along(w, node, "Softmax"),
        "aten::log_softmax" => along(w, node, "LogSoftmax"),
        "aten::sum" => reduction(w, node, "ReduceSum"),
        "aten::mean" => reduction(w, node, "ReduceMean"),
        "aten::amax" => reduction(w, node, "ReduceMax"),
        "aten::var" => variance(w, node),
        "aten::argmax" => {
            let (axis, keep) = (int(w, node, 1)?, flag(w, node, 2)?);
            one(w, node, "ArgMax", &[("axis", Setting::Int(axis)), ("keepdims", Setting::Int(keep.into()))])
        }
        "aten::topk" => {
            let (x, count) = (tensor(w, node, 0)?, int(w, node, 1)?);
            let count = w.ints(&[count]);
            let axis = ("axis", Setting::Int(int(w, node, 2)?));
            let largest = ("largest", Setting::Int(flag(w, node, 3)?.into()));
            let sorted = ("sorted", Setting::Int(flag(w, node, 4)?.into()));
            let outputs = w.add_several("TopK", &[&x, &count], 2, &[axis, largest, sorted]);
            node.outputs.iter().zip(outputs).for_each(|(value, name)| w.set(*value, name));
            Ok(())
        }
        "aten::scatter" => {
            let (x, places, source) = (tensor(w, node, 0)?, tensor(w, node, 2)?, tensor(w, node, 3)?);
            let axis = int(w, node, 1)?;
            let y = w.add("ScatterElements", &[&x, &places, &source], &[("axis", Setting::Int(axis))]);
            made(w, node, y)
        }
        "aten::take" => {
            let (x, places) = (tensor(w, node, 0)?, tensor(w, node, 1)?);
            let x = if kind_and_rank(w, w.argument(node, 0)?)?.1 == 1 {
                x
            } else {
                let whole = w.ints(&[-1]);
                w.add("Reshape", &[&x, &whole], &[])
            };
            let y = w.add("Gather", &[&x, &places], &[("axis", Setting::Int(0))]);
            made(w, node, y)
        }
        "aten::index_select" => {
            let (x, axis, places) = (tensor(w, node, 0)?, int(w, node, 1)?, tensor(w, node, 2)?);
            let y = w.add("Gather", &[&x, &places], &[("axis", Setting::Int(axis))]);
            made(w, node, y)
        }
        "aten::select" => {
            let (x, axis, place) = (tensor(w, node, 0)?, int(w, node, 1)?, int(w, node, 2)?);
            let place = w.number(place as f64, "Long");
            let y = w.add("Gather", &[&x, &place], &[("axis", Setting::Int(axis))]);
            made(w, node, y)
        }
        "aten::narrow" => {
            let (axis, start, length) = (int(w, node, 1)?, int(w, node, 2)?, int(w, node, 3)?);
            slice(w, node, axis, start, start + length)
        }
        "aten::slice" => {
            if int(w, node, 4)? != 1 {
                return Err("it leaves some out".to_owned());
            }
            let (axis, start, end) = (int(w, node, 1)?, int(w, node, 2)?, int(w, node, 3)?);
            slice(w, node, axis, start, end)
        }
        "aten::cat" => {
            let (items, axis) = (w.list(w.argument(node, 0)?)?.to_vec(), int(w, node, 1)?);
            let items: Vec<&str> = items.iter().map(String::as_str).collect();
            let y = w.add("Concat", &items, &[("axis", Setting::Int(axis))]);
            made(w, node, y)
        }
        "aten::stack" => {
            let (items, axis) = (w.list(w.argument(node, 0)?)?.to_vec(), int(w, node, 1)?);
            let axes = w.ints(&[axis]);
            let items: Vec<String> = items.iter().map(|item| w.add("Unsqueeze", &[item, &axes], &[])).collect();
            let items: Vec<&str> = items.iter().map(String::as_str).collect();
            let y = w.add("Concat", &items, &[("axis", Setting::Int(axis))]);
            made(w, node, y)
        }
        "aten::split_with_sizes" => {
            let (x, sizes, axis) = (tensor(w, node, 0)?, ints(w, node, 1)?, int(w, node, 2)?);
            let given = w.ints(&sizes);
            let items = w.add_several("Split", &[&x, &given], sizes.len(), &[("axis", Setting::Int(axis))]);
            w.set_list(node.outputs[0], items);
            Ok(())
        }
        "aten::zeros_like" => {
            let x = tensor(w, node, 0)?;
            let sides = w.add("Shape", &[&x], &[]);
            let zeros = w.add("ConstantOfShape", &[&sides], &[]);
            let kind = output_kind(w, node)?;
            let y = if kind == "Float" { zeros } else { cast(w, &zeros, &kind)? };
            made(w, node, y)
        }
        "aten::unsqueeze" => reshaped(w, node, "Unsqueeze"),
        "aten::squeeze" => reshaped(w, node, "Squeeze"),
        "aten::view" | "aten::reshape" => {
            let (x, sides) = (tensor(w, node, 0)?, ints(w, node, 1)?);
            let sides = w.ints(&sides);
            let y = w.add("Reshape", &[&x, &sides], &[]);
            made(w, node, y)
        }
        "aten::flatten" => {
            if (int(w, node, 1)?, int(w, node, 2)?) != (1, -1) {
                return Err("it joins other sides than all but the first".to_owned());
            }
            one(w, node, "Flatten", &[("axis", Setting::Int(1))])
        }
        "aten::view_as" | "aten::reshape_as" => like(w, node, "Reshape"),
        "aten::expand_as" => like(w, node, "Expand"),
        "aten::expand" => {
            // A side of -1 stays as it is; a side of 1 does so in ONNX.
            let (x, mut sides) = (tensor(w, node, 0)?, ints(w, node, 1)?);
            sides.iter_mut().filter(|side| **side == -1).for_each(|side| *side = 1);
            let sides = w.ints(&sides);
            let y = w.add("Expand", &[&x, &sides], &[]);
            made(w, node, y)
        }
        "aten::transpose" => {
            let rank = kind_and_rank(w, w.argument(node, 0)?)?.1;
            let place = |axis: i64| if axis < 0 { axis + rank } else { axis } as usize;
            let mut order: Vec<i64> = (0..rank).collect();
            order.swap(place(int(w, node, 1)?), place(int(w, node, 2)?));
            one(w, node, "Transpose", &[("perm", Setting::Ints(&order))])
        }
        _ => Err("no counterpart is known".to_owned()),
    }
}

/// Names the only output.
fn made(w: &mut Writer<'_>, node: &Node, name: String) -> Outcome {
    let [output] = node.outputs[..] else { return Err("it makes several".to_owned()) };
    w.set(output, name);
    Ok(())
}

/// An operator that takes the first argument and nothing else.
fn one(w: &mut Writer<'_>, node: &Node, operator: &str, settings: &[(&str, Setting<'_>)]) -> Outcome {
    let x = tensor(w, node, 0)?;
    let y = w.add(operator, &[&x], settings);
    made(w, node, y)
}

fn plain(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    one(w, node, operator, &[])
}

fn tensor(w: &mut Writer<'_>, node: &Node, place: usize) -> Result<String, String> {
    w.tensor(w.argument(node, place)?)
}

fn int(w: &Writer<'_>, node: &Node, place: usize) -> Result<i64, String> {
    match w.constant(w.argument(node, place)?)? {
        Constant::Int(number) => Ok(number),
        other => Err(format!("{other:?} is no whole number")),
    }
}

fn ints(w: &Writer<'_>, node: &Node, place: usize) -> Result<Vec<i64>, String> {
    match w.constant(w.argument(node, place)?)? {
        Constant::Ints(numbers) => Ok(numbers),
        Constant::Int(number) => Ok(vec![number]),
        other => Err(format!("{other:?} is no list of whole numbers")),
    }
}

fn flag(w: &Writer<'_>, node: &Node, place: usize) -> Result<bool, String> {
    match w.constant(w.argument(node, place)?)? {
        Constant::Bool(flag) => Ok(flag),
        other => Err(format!("{other:?} is no flag")),
    }
}

fn real(w: &Writer<'_>, node: &Node, place: usize) -> Result<f64, String> {
    number(&w.constant(w.argument(node, place)?)?).ok_or_else(|| "an argument is no number".to_owned())
}

fn number(constant: &Constant) -> Option<f64> {
    match constant {
        Constant::Int(number) => Some(*number as f64),
        Constant::Real(number) => Some(*number),
        Constant::Bool(flag) => Some(f64::from(u8::from(*flag))),
        _ => None,
    }
}

fn output_kind(w: &Writer<'_>, node: &Node) -> Result<String, String> {
    Ok(w.tensor_type(node.outputs[0])?.kind)
}

fn kind_and_rank(w: &Writer<'_>, value: ValueId) -> Result<(String, i64), String> {
    let known = w.tensor_type(value)?;
    Ok((known.kind, known.sides.len() as i64))
}

fn cast(w: &mut Writer<'_>, name: &str, kind: &str) -> Result<String, String> {
    Ok(w.add("Cast", &[name], &[("to", Setting::Int(element_of(kind)?))]))
}

/// A tensor or a number as a tensor of this kind.
fn operand(w: &mut Writer<'_>, value: ValueId, kind: &str) -> Result<String, String> {
    if w.is_constant(value)
        && let Some(number) = number(&w.constant(value)?)
    {
        return Ok(w.number(number, kind));
    }
    let (own, name) = (w.tensor_type(value)?.kind, w.tensor(value)?);
    if own == kind { Ok(name) } else { cast(w, &name, kind) }
}

fn pair(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let kind = output_kind(w, node)?;
    let [first, second] = [0, 1].map(|place| w.argument(node, place).and_then(|value| operand(w, value, &kind)));
    let y = w.add(operator, &[&first?, &second?], &[]);
    made(w, node, y)
}

/// A sum or a difference, of which the second recorded argument may be multiplied.
fn sum(w: &mut Writer<'_>, node: &Node, operator: &str, [first, second]: [usize; 2]) -> Outcome {
    if node.inputs.len() > 2 && real(w, node, 2)? != 1.0 {
        return Err("one side of it is multiplied".to_owned());
    }
    let kind = output_kind(w, node)?;
    let first = operand(w, w.argument(node, first)?, &kind)?;
    let second = operand(w, w.argument(node, second)?, &kind)?;
    let y = w.add(operator, &[&first, &second], &[]);
    made(w, node, y)
}

fn comparison(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let values = [w.argument(node, 0)?, w.argument(node, 1)?];
    let whole = |value: ValueId| match w.constant(value) {
        Ok(Constant::Int(_)) => true,
        Ok(Constant::Real(_)) => false,
        _ => w.tensor_type(value).is_ok_and(|known| known.kind == "Long"),
    };
    let kind = if values.into_iter().all(whole) { "Long" } else { "Float" };
    let [first, second] = values.map(|value| operand(w, value, kind));
    let y = w.add(operator, &[&first?, &second?], &[]);
    made(w, node, y)
}

/// Holds values between limits. NaN is neither above nor below, so it stays.
fn limits(w: &mut Writer<'_>, node: &Node, least: Option<usize>, most: Option<usize>) -> Outcome {
    let kind = output_kind(w, node)?;
    let mut x = operand(w, w.argument(node, 0)?, &kind)?;
    for (place, operator) in [(least, "Less"), (most, "Greater")] {
        let Some(place) = place else { continue };
        let limit = w.argument(node, place)?;
        if w.constant(limit)? == Constant::None {
            continue;
        }
        let limit = operand(w, limit, &kind)?;
        let beyond = w.add(operator, &[&x, &limit], &[]);
        x = w.add("Where", &[&beyond, &limit, &x], &[]);
    }
    made(w, node, x)
}

fn nan_to_num(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let x = tensor(w, node, 0)?;
    let given = |place: usize, otherwise: f64| -> Result<f64, String> {
        Ok(number(&w.constant(w.argument(node, place)?)?).unwrap_or(otherwise))
    };
    let (nan, most, least) = (given(1, 0.0)?, given(2, f64::from(f32::MAX))?, given(3, f64::from(f32::MIN))?);
    let missing = w.add("IsNaN", &[&x], &[]);
    let instead = w.number(nan, "Float");
    let mut x = w.add("Where", &[&missing, &instead, &x], &[]);
    for (operator, limit, instead) in [("Greater", f32::MAX, most), ("Less", f32::MIN, least)] {
        let limit = w.number(limit.into(), "Float");
        let beyond = w.add(operator, &[&x, &limit], &[]);
        let instead = w.number(instead, "Float");
        x = w.add("Where", &[&beyond, &instead, &x], &[]);
    }
    made(w, node, x)
}

/// One of two by a condition; given are their places.
fn choice(w: &mut Writer<'_>, node: &Node, [condition, yes, no]: [usize; 3]) -> Outcome {
    let kind = output_kind(w, node)?;
    let condition = tensor(w, node, condition)?;
    let yes = operand(w, w.argument(node, yes)?, &kind)?;
    let no = operand(w, w.argument(node, no)?, &kind)?;
    let y = w.add("Where", &[&condition, &yes, &no], &[]);
    made(w, node, y)
}

fn elu(w: &mut Writer<'_>, node: &Node) -> Outcome {
    if (real(w, node, 2)?, real(w, node, 3)?) != (1.0, 1.0) {
        return Err("it is scaled".to_owned());
    }
    let alpha = real(w, node, 1)?;
    one(w, node, "Elu", &[("alpha", Setting::Real(alpha))])
}

fn gelu(w: &mut Writer<'_>, node: &Node) -> Outcome {
    if w.constant(w.argument(node, 1)?)? != Constant::Text("none".to_owned()) {
        return Err("it is approximated".to_owned());
    }
    let x = tensor(w, node, 0)?;
    let [root, one, half] = [std::f64::consts::SQRT_2, 1.0, 0.5].map(|number| w.number(number, "Float"));
    let scaled = w.add("Div", &[&x, &root], &[]);
    let error = w.add("Erf", &[&scaled], &[]);
    let share = w.add("Add", &[&error, &one], &[]);
    let part = w.add("Mul", &[&x, &share], &[]);
    let y = w.add("Mul", &[&part, &half], &[]);
    made(w, node, y)
}

/// How far Stirling's series is from its argument, so that it is exact to more than 32 bits.
const SHIFT: u8 = 8;

/// log Γ(x) for x above 0: Stirling's series at x + 8 less the logarithms of x to x + 7, with 64 bits.
fn log_gamma(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let x = tensor(w, node, 0)?;
    let x = cast(w, &x, "Double")?;
    let constant = |w: &mut Writer<'_>, number: f64| w.number(number, "Double");
    let mut product = x.clone();
    for step in 1..SHIFT {
        let step = constant(w, f64::from(step));
        let factor = w.add("Add", &[&x, &step], &[]);
        product = w.add("Mul", &[&product, &factor], &[]);
    }
    let below = w.add("Log", &[&product], &[]);
    let shift = constant(w, f64::from(SHIFT));
    let z = w.add("Add", &[&x, &shift], &[]);
    let (log, half) = (w.add("Log", &[&z], &[]), constant(w, 0.5));
    let factor = w.add("Sub", &[&z, &half], &[]);
    let main = w.add("Mul", &[&factor, &log], &[]);
    let mut sum = w.add("Sub", &[&main, &z], &[]);
    let start = constant(w, 0.5 * (2.0 * std::f64::consts::PI).ln());
    sum = w.add("Add", &[&sum, &start], &[]);
    let square = w.add("Mul", &[&z, &z], &[]);
    let mut power = z;
    for divisor in [12.0, -360.0, 1260.0] {
        let divisor = constant(w, divisor);
        let scaled = w.add("Mul", &[&power, &divisor], &[]);
        let term = w.add("Reciprocal", &[&scaled], &[]);
        sum = w.add("Add", &[&sum, &term], &[]);
        power = w.add("Mul", &[&power, &square], &[]);
    }
    let y = w.add("Sub", &[&sum, &below], &[]);
    let y = cast(w, &y, "Float")?;
    made(w, node, y)
}

fn linear(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let x = tensor(w, node, 0)?;
    let bias = w.argument(node, 2)?;
    let bias = if w.constant(bias) == Ok(Constant::None) { None } else { Some(w.tensor(bias)?) };
    if kind_and_rank(w, w.argument(node, 0)?)?.1 == 2 {
        let weight = tensor(w, node, 1)?;
        let inputs: Vec<&str> = [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let y = w.add("Gemm", &inputs, &[("transB", Setting::Int(1))]);
        return made(w, node, y);
    }
    let weight = tensor(w, node, 1)?;
    let weight = w.add("Transpose", &[&weight], &[("perm", Setting::Ints(&[1, 0]))]);
    let mut y = w.add("MatMul", &[&x, &weight], &[]);
    if let Some(bias) = bias {
        y = w.add("Add", &[&y, &bias], &[]);
    }
    made(w, node, y)
}

fn convolution(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let (x, weight, bias) = (tensor(w, node, 0)?, tensor(w, node, 1)?, tensor(w, node, 2)?);
    let (strides, padding, dilations) = (ints(w, node, 3)?, ints(w, node, 4)?, ints(w, node, 5)?);
    let (transposed, added, groups) = (flag(w, node, 6)?, ints(w, node, 7)?, int(w, node, 8)?);
    let pads = [&padding[..], &padding[..]].concat();
    let mut settings = vec![
        ("strides", Setting::Ints(&strides)),
        ("pads", Setting::Ints(&pads)),
        ("dilations", Setting::Ints(&dilations)),
        ("group", Setting::Int(groups)),
    ];
    if transposed {
        settings.push(("output_padding", Setting::Ints(&added)));
    }
    let y = w.add(if transposed { "ConvTranspose" } else { "Conv" }, &[&x, &weight, &bias], &settings);
    made(w, node, y)
}

fn batch_norm(w: &mut Writer<'_>, node: &Node) -> Outcome {
    if flag(w, node, 5)? {
        return Err("it looks at the rows beside a row".to_owned());
    }
    let x = tensor(w, node, 0)?;
    let inputs: Result<Vec<String>, String> = (1..5).map(|place| tensor(w, node, place)).collect();
    let inputs = inputs?;
    let inputs: Vec<&str> = std::iter::once(x.as_str()).chain(inputs.iter().map(String::as_str)).collect();
    let epsilon = real(w, node, 7)?;
    let y = w.add("BatchNormalization", &inputs, &[("epsilon", Setting::Real(epsilon))]);
    made(w, node, y)
}

fn layer_norm(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let (x, sides) = (tensor(w, node, 0)?, ints(w, node, 1)?);
    let (gain, shift, epsilon) = (tensor(w, node, 2)?, tensor(w, node, 3)?, real(w, node, 4)?);
    let settings = [("axis", Setting::Int(-(sides.len() as i64))), ("epsilon", Setting::Real(epsilon))];
    let y = w.add("LayerNormalization", &[&x, &gain, &shift], &settings);
    made(w, node, y)
}

/// Of one group, which all channels and pixels are.
fn group_norm(w: &mut Writer<'_>, node: &Node) -> Outcome {
    if int(w, node, 1)? != 1 {
        return Err("it has several groups".to_owned());
    }
    let x = tensor(w, node, 0)?;
    let rank = kind_and_rank(w, w.argument(node, 0)?)?.1;
    let axes: Vec<i64> = (1..rank).collect();
    let mean = w.add("ReduceMean", &[&x], &[("axes", Setting::Ints(&axes))]);
    let centered = w.add("Sub", &[&x, &mean], &[]);
    let square = w.add("Mul", &[&centered, &centered], &[]);
    let variance = w.add("ReduceMean", &[&square], &[("axes", Setting::Ints(&axes))]);
    let epsilon = w.number(real(w, node, 4)?, "Float");
    let variance = w.add("Add", &[&variance, &epsilon], &[]);
    let deviation = w.add("Sqrt", &[&variance], &[]);
    let standard = w.add("Div", &[&centered, &deviation], &[]);
    let sides: Vec<i64> = std::iter::once(-1).chain(std::iter::repeat_n(1, rank as usize - 2)).collect();
    let sides = w.ints(&sides);
    let [gain, shift] = [2, 3].map(|place| tensor(w, node, place));
    let gain = w.add("Reshape", &[&gain?, &sides], &[]);
    let shift = w.add("Reshape", &[&shift?, &sides], &[]);
    let scaled = w.add("Mul", &[&standard, &gain], &[]);
    let y = w.add("Add", &[&scaled, &shift], &[]);
    made(w, node, y)
}

fn along(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let axis = int(w, node, 1)?;
    one(w, node, operator, &[("axis", Setting::Int(axis))])
}

fn reduction(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let kind = output_kind(w, node)?;
    let x = operand(w, w.argument(node, 0)?, &kind)?;
    let (axes, keep) = (ints(w, node, 1)?, ("keepdims", Setting::Int(flag(w, node, 2)?.into())));
    let y = if operator == "ReduceSum" {
        let axes = w.ints(&axes);
        w.add(operator, &[&x, &axes], &[keep])
    } else {
        w.add(operator, &[&x], &[("axes", Setting::Ints(&axes)), keep])
    };
    made(w, node, y)
}

fn variance(w: &mut Writer<'_>, node: &Node) -> Outcome {
    let (x, axes) = (tensor(w, node, 0)?, ints(w, node, 1)?);
    let (unbiased, keep) = (flag(w, node, 2)?, flag(w, node, 3)?);
    if unbiased {
        return Err("it is that of a sample".to_owned());
    }
    let mean = w.add("ReduceMean", &[&x], &[("axes", Setting::Ints(&axes))]);
    let centered = w.add("Sub", &[&x, &mean], &[]);
    let square = w.add("Mul", &[&centered, &centered], &[]);
    let settings = [("axes", Setting::Ints(&axes)), ("keepdims", Setting::Int(keep.into()))];
    let y = w.add("ReduceMean", &[&square], &settings);
    made(w, node, y)
}

fn slice(w: &mut Writer<'_>, node: &Node, axis: i64, start: i64, end: i64) -> Outcome {
    let x = tensor(w, node, 0)?;
    let [start, end, axis] = [start, end, axis].map(|number| w.ints(&[number]));
    let y = w.add("Slice", &[&x, &start, &end, &axis], &[]);
    made(w, node, y)
}

fn reshaped(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let (x, axes) = (tensor(w, node, 0)?, ints(w, node, 1)?);
    let axes = w.ints(&axes);
    let y = w.add(operator, &[&x, &axes], &[]);
    made(w, node, y)
}

/// An operator that takes the sides of the second argument.
fn like(w: &mut Writer<'_>, node: &Node, operator: &str) -> Outcome {
    let (x, other) = (tensor(w, node, 0)?, tensor(w, node, 1)?);
    let sides = w.add("Shape", &[&other], &[]);
    let y = w.add(operator, &[&x, &sides], &[]);
    made(w, node, y)
}
