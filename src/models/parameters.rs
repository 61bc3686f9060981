//! The parameters of a network, in one flat buffer.
//!
//! Layers hold tensors that are views into the buffer. So the gradient norm is one operation, an optimizer step is a few
//! over one tensor, and a checkpoint is one contiguous block. Statistics that are not trained (those of batch norm) are
//! kept beside it as buffers.

use std::cell::OnceCell;
use std::collections::HashMap;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::{Device, Kind, Tensor};

use super::fused;
use super::noise::{Purpose, generator};

/// A tensor by name, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Such as `encoder.0.weight`.
    pub name: String,
    /// Its sides.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f32>,
}

/// Why saved parameters do not fit a network.
#[derive(Debug, thiserror::Error)]
pub enum MismatchError {
    /// A tensor is not there.
    #[error("the tensor `{0}` is missing")]
    Missing(String),
    /// There are others, too.
    #[error("there are tensors that the network does not have")]
    Foreign,
    /// A tensor belongs to another network.
    #[error("the tensor `{name}` has the shape {found:?}; this network has {expected:?}")]
    Shape {
        /// Which one.
        name: String,
        /// Sides in the file.
        found: Vec<usize>,
        /// Sides in the network.
        expected: Vec<usize>,
    },
}

/// Collects parameters while a network is built.
pub struct Builder {
    random: ChaCha8Rng,
    device: Device,
    prefix: String,
    /// Counts only: tensors have their shapes and take no memory.
    counts: bool,
    filling: Filling,
    trained: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
    held: Option<Held>,
}

/// Tensors that are there before the network is.
struct Held {
    tensors: HashMap<String, Tensor>,
    taken: usize,
    mismatch: Option<MismatchError>,
}

/// What stands for a missing value (NaN) where a network looks at a prepared row: the mean of its column over the training rows.
/// Of data without gaps there is none, and rows are seen as they are.
#[derive(Debug, Default)]
pub struct Filling(Option<Tensor>);

impl Filling {
    /// Rows `[..., width]` without gaps.
    pub fn fill(&self, x: &Tensor) -> Tensor {
        match &self.0 {
            Some(means) => means.where_self(&x.isnan(), x),
            None => x.shallow_clone(),
        }
    }

    /// Rows that have the gaps of `x`, filled in like those of `x`; both `[rows, width]`.
    pub fn fill_like(&self, rows: &Tensor, x: &Tensor) -> Tensor {
        match &self.0 {
            Some(means) => means.where_self(&x.isnan(), rows),
            None => rows.shallow_clone(),
        }
    }

    /// Whether there may be gaps.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Clone for Filling {
    fn clone(&self) -> Self {
        Self(self.0.as_ref().map(Tensor::shallow_clone))
    }
}

impl Builder {
    /// A builder whose first weights depend on `seed` alone.
    pub fn new(seed: u64, device: Device) -> Self {
        Self {
            random: generator(seed, Purpose::Initial, 0),
            device,
            prefix: String::new(),
            counts: false,
            filling: Filling::default(),
            trained: Vec::new(),
            buffers: Vec::new(),
            held: None,
        }
    }

    /// A builder of a network over these tensors, by name, which it shares: nothing is drawn or copied. Ends with
    /// [`Self::finish_held`].
    pub fn holding(tensors: HashMap<String, Tensor>, device: Device) -> Self {
        Self { held: Some(Held { tensors, taken: 0, mismatch: None }), ..Self::new(0, device) }
    }

    /// Says whether the tensors were those of the network.
    ///
    /// # Errors
    /// One is missing, has another shape or is too many. The network must not be used then.
    pub fn finish_held(self) -> Result<(), MismatchError> {
        let held = self.held.expect("this ends what began with `holding`; this is a bug");
        match held.mismatch {
            Some(mismatch) => Err(mismatch),
            None if held.taken != held.tensors.len() => Err(MismatchError::Foreign),
            None => Ok(()),
        }
    }

    /// A builder that only finds out how large a network would be. What it builds cannot compute.
    pub fn counting() -> Self {
        Self { counts: true, ..Self::new(0, Device::Cpu) }
    }

    /// How many trained numbers were asked for so far.
    pub fn count(&self) -> u64 {
        let sides = |tensor: &Tensor| tensor.size().into_iter().map(|side| side as u64).product::<u64>();
        self.trained.iter().map(|(_, tensor)| sides(tensor)).sum()
    }

    /// The names and shapes of everything that is saved so far.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let sides = |tensor: &Tensor| tensor.size().into_iter().map(|side| side as usize).collect();
        self.trained.iter().chain(&self.buffers).map(|(name, tensor)| (name.clone(), sides(tensor))).collect()
    }

    /// Numbers that fully connected layers take and give for one row.
    pub fn units(&self) -> u64 {
        let layers = self.trained.iter().map(|(_, tensor)| tensor.size()).filter(|sides| sides.len() == 2);
        layers.flatten().map(|side| side as u64).sum()
    }

    /// Where the parameters will live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Rows may have gaps from here on, which are filled with `means` `[width]`. They are saved with the parameters.
    pub fn expect_gaps(&mut self, means: &[f32]) {
        let tensor = self.buffer("gaps.means", &[means.len() as i64], 0.0);
        if !self.counts && self.held.is_none() {
            tensor.shallow_clone().copy_(&Tensor::from_slice(means));
        }
        self.filling = Filling(Some(tensor));
    }

    /// What the gaps of rows are filled with.
    pub fn filling(&self) -> Filling {
        self.filling.clone()
    }

    /// Builds a part whose names begin with `name.`.
    pub fn within<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.prefix.len();
        self.prefix += name;
        self.prefix.push('.');
        let part = build(self);
        self.prefix.truncate(length);
        part
    }

    /// A trained tensor, uniform within `±bound`.
    pub fn uniform(&mut self, name: &str, shape: &[i64], bound: f64) -> Tensor {
        self.draw(name, shape, |random| (bound * (2.0 * random.random::<f64>() - 1.0)) as f32)
    }

    /// A trained tensor, normal around 0.
    pub fn normal(&mut self, name: &str, shape: &[i64], deviation: f64) -> Tensor {
        self.draw(name, shape, |random| (deviation * random.sample::<f64, _>(StandardNormal)) as f32)
    }

    /// A trained tensor of one value.
    pub fn constant(&mut self, name: &str, shape: &[i64], value: f64) -> Tensor {
        self.draw(name, shape, |_| value as f32)
    }

    /// A trained tensor whose rows, or columns where there are fewer, are orthogonal and of length `gain`. Sides after the
    /// first count as one.
    pub fn orthogonal(&mut self, name: &str, shape: &[i64], gain: f64) -> Tensor {
        let (rows, columns) = (shape[0], shape[1..].iter().product::<i64>());
        if self.counts || self.held.is_some() {
            return self.constant(name, shape, 0.0);
        }
        let count = (rows * columns) as usize;
        let drawn: Vec<f64> = (0..count).map(|_| self.random.sample(StandardNormal)).collect();
        let (long, short) = (rows.max(columns), rows.min(columns));
        let (q, r) = Tensor::linalg_qr(&Tensor::from_slice(&drawn).view([long, short]), "reduced");
        // With the signs of r's diagonal every orthogonal matrix is equally likely (Mezzadri, 2007).
        let q = q * r.diagonal(0, 0, 1).sign();
        let weight = if rows < columns { q.transpose(0, 1) } else { q } * gain;
        self.keep(name, shape, &values(&weight))
    }

    /// A trained tensor of given values.
    pub fn given(&mut self, name: &str, shape: &[i64], values: &[f32]) -> Tensor {
        let needs_none = self.counts || self.held.is_some();
        if needs_none { self.constant(name, shape, 0.0) } else { self.keep(name, shape, values) }
    }

    /// A tensor of standard normal numbers that is saved and not trained.
    pub fn normal_buffer(&mut self, name: &str, shape: &[i64], deviation: f64) -> Tensor {
        let tensor = self.buffer(name, shape, 0.0);
        if !self.counts && self.held.is_none() {
            let values: Vec<f32> = (0..tensor.numel())
                .map(|_| (deviation * self.random.sample::<f64, _>(StandardNormal)) as f32)
                .collect();
            tensor.shallow_clone().copy_(&Tensor::from_slice(&values).view(shape));
        }
        tensor
    }

    /// A tensor that is saved and not trained.
    pub fn buffer(&mut self, name: &str, shape: &[i64], value: f64) -> Tensor {
        if let Some(tensor) = self.hold(name, shape) {
            return tensor;
        }
        let tensor = if self.counts {
            Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand(shape, false)
        } else {
            Tensor::full(shape, value, (Kind::Float, self.device))
        };
        self.buffers.push((format!("{}{name}", self.prefix), tensor.shallow_clone()));
        tensor
    }

    /// The tensor of that name, where they are all there already.
    fn hold(&mut self, name: &str, shape: &[i64]) -> Option<Tensor> {
        let held = self.held.as_mut()?;
        let name = format!("{}{name}", self.prefix);
        held.taken += 1;
        let sides = |shape: &[i64]| shape.iter().map(|side| *side as usize).collect();
        let mismatch = match held.tensors.get(&name) {
            Some(tensor) if tensor.size() == shape => return Some(tensor.shallow_clone()),
            Some(tensor) => MismatchError::Shape { found: sides(&tensor.size()), expected: sides(shape), name },
            None => MismatchError::Missing(name),
        };
        held.mismatch.get_or_insert(mismatch);
        Some(Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand(shape, false))
    }

    fn draw(&mut self, name: &str, shape: &[i64], one: impl Fn(&mut ChaCha8Rng) -> f32) -> Tensor {
        if let Some(tensor) = self.hold(name, shape) {
            return tensor;
        }
        if self.counts {
            let tensor = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand(shape, false);
            self.trained.push((format!("{}{name}", self.prefix), tensor.shallow_clone()));
            return tensor;
        }
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = (0..count).map(|_| one(&mut self.random)).collect();
        self.keep(name, shape, &values)
    }

    fn keep(&mut self, name: &str, shape: &[i64], values: &[f32]) -> Tensor {
        let tensor = Tensor::from_slice(values).view(shape).to_device(self.device).set_requires_grad(true);
        self.trained.push((format!("{}{name}", self.prefix), tensor.shallow_clone()));
        tensor
    }

    /// Moves every trained tensor into one buffer.
    pub fn finish(self) -> Parameters {
        let _guard = tch::no_grad_guard();
        let whole: Vec<Tensor> = self.trained.iter().map(|(_, tensor)| tensor.detach().reshape([-1])).collect();
        let flat =
            if whole.is_empty() { Tensor::zeros([0], (Kind::Float, self.device)) } else { Tensor::cat(&whole, 0) };
        let mut offset = 0;
        let mut trained = self.trained;
        for (_, tensor) in &mut trained {
            let count = tensor.numel() as i64;
            let view = flat.narrow(0, offset, count).view(tensor.size().as_slice());
            tensor.set_data(&view);
            offset += count;
        }
        Parameters { flat, gradient: OnceCell::new(), trained, buffers: self.buffers, device: self.device }
    }
}

/// A part of the parameters, such as those of one player.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Start and length of each stretch of the flat buffer.
    pub ranges: Vec<(i64, i64)>,
    tensors: Vec<usize>,
}

impl Part {
    /// How many numbers it has.
    pub fn count(&self) -> i64 {
        self.ranges.iter().map(|(_, length)| length).sum()
    }
}

/// The parameters of a built network.
pub struct Parameters {
    flat: Tensor,
    /// Room for the gradient of `flat`, and views of it for each trained tensor; made at the first gradient.
    gradient: OnceCell<(Tensor, Vec<Tensor>)>,
    trained: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
    device: Device,
}

impl Parameters {
    /// Where they live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.flat.numel()
    }

    /// All trained numbers, `[count]`. Writing to it (without gradients) changes the network.
    pub fn flat(&mut self) -> &mut Tensor {
        &mut self.flat
    }

    /// The part of the buffer that holds the tensors whose names begin with one of `prefixes`; all of it when there are
    /// none.
    pub fn part(&self, prefixes: &[impl AsRef<str>]) -> Part {
        let mut part = Part { ranges: Vec::new(), tensors: Vec::new() };
        let mut offset = 0;
        for (index, (name, tensor)) in self.trained.iter().enumerate() {
            let count = tensor.numel() as i64;
            if prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_ref())) {
                match part.ranges.last_mut() {
                    Some((start, length)) if *start + *length == offset => *length += count,
                    _ => part.ranges.push((offset, count)),
                }
                part.tensors.push(index);
            }
            offset += count;
        }
        part
    }

    /// The gradient of `loss` over a part of the trained numbers, in their order, `[part.count()]`. The next gradient takes its
    /// room.
    pub fn gradient(&self, loss: &Tensor, part: &Part) -> Tensor {
        let (flat, views) = self.gradient.get_or_init(|| self.room());
        let leaves: Vec<&Tensor> = part.tensors.iter().map(|index| &self.trained[*index].1).collect();
        let views: Vec<&Tensor> = part.tensors.iter().map(|index| &views[*index]).collect();
        fused::backward(loss, &leaves, &views);
        match part.ranges[..] {
            [(start, length)] => flat.narrow(0, start, length),
            _ => {
                let ranges: Vec<Tensor> =
                    part.ranges.iter().map(|(start, length)| flat.narrow(0, *start, *length)).collect();
                Tensor::cat(&ranges, 0)
            }
        }
    }

    fn room(&self) -> (Tensor, Vec<Tensor>) {
        let _guard = tch::no_grad_guard();
        let flat = self.flat.zeros_like();
        let mut offset = 0;
        let view = |(_, tensor): &(String, Tensor)| {
            let count = tensor.numel() as i64;
            offset += count;
            flat.narrow(0, offset - count, count).view(tensor.size().as_slice())
        };
        let views = self.trained.iter().map(view).collect();
        (flat, views)
    }

    /// Ones where the numbers of a part are weights of layers, zeros where they are biases, gains or the like,
    /// `[part.count()]`.
    pub fn weights(&self, part: &Part) -> Tensor {
        let flags: Vec<Tensor> = part
            .tensors
            .iter()
            .map(|index| {
                let (name, tensor) = &self.trained[*index];
                let is_weight = name.ends_with(".weight") && tensor.dim() > 1;
                Tensor::full([tensor.numel() as i64], f64::from(u8::from(is_weight)), (Kind::Float, self.device))
            })
            .collect();
        Tensor::cat(&flags, 0)
    }

    /// A copy of everything that is saved.
    pub fn snapshot(&self) -> Snapshot {
        let _guard = tch::no_grad_guard();
        let buffers = self.buffers.iter().map(|(_, tensor)| tensor.reshape([-1])).collect::<Vec<_>>();
        let buffers = if buffers.is_empty() { Vec::new() } else { values(&Tensor::cat(&buffers, 0)) };
        Snapshot { trained: values(&self.flat), buffers }
    }

    /// Puts a copy back.
    ///
    /// # Errors
    /// The copy was taken from another network.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MismatchError> {
        let _guard = tch::no_grad_guard();
        let held: usize = self.buffers.iter().map(|(_, tensor)| tensor.numel()).sum();
        for (name, found, expected) in
            [("parameters", snapshot.trained.len(), self.count()), ("buffers", snapshot.buffers.len(), held)]
        {
            if found != expected {
                return Err(MismatchError::Shape {
                    name: name.to_owned(),
                    found: vec![found],
                    expected: vec![expected],
                });
            }
        }
        self.flat.copy_(&Tensor::from_slice(&snapshot.trained));
        let mut rest = &snapshot.buffers[..];
        for (_, tensor) in &mut self.buffers {
            let (own, left) = rest.split_at(tensor.numel());
            tensor.copy_(&Tensor::from_slice(own).view_as(tensor));
            rest = left;
        }
        Ok(())
    }

    /// How many tensors are saved.
    pub fn named_count(&self) -> usize {
        self.trained.len() + self.buffers.len()
    }

    /// Every tensor that is saved, by name.
    pub fn named(&self) -> Vec<Named> {
        self.all()
            .map(|(name, tensor)| Named {
                name: name.clone(),
                shape: tensor.size().into_iter().map(|side| side as usize).collect(),
                values: values(&tensor.detach().reshape([-1])),
            })
            .collect()
    }

    /// Fills every tensor from `find`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape. The network must not be used then.
    pub fn load(&mut self, find: impl Fn(&str) -> Option<(Vec<usize>, Vec<f32>)>) -> Result<(), MismatchError> {
        let _guard = tch::no_grad_guard();
        for (name, tensor) in self.all() {
            let (found, values) = find(name).ok_or_else(|| MismatchError::Missing(name.clone()))?;
            let expected: Vec<usize> = tensor.size().into_iter().map(|side| side as usize).collect();
            if found != expected || values.len() != tensor.numel() {
                return Err(MismatchError::Shape { name: name.clone(), found, expected });
            }
            tensor.detach().copy_(&Tensor::from_slice(&values).view_as(tensor));
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &(String, Tensor)> {
        self.trained.iter().chain(&self.buffers)
    }
}

/// A copy of the numbers of a network, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The flat buffer.
    pub trained: Vec<f32>,
    /// The buffers, one after the other.
    pub buffers: Vec<f32>,
}

/// A tensor of the host on a device. To a GPU it goes from pinned memory, while this thread goes on; libtorch keeps that memory until it
/// has arrived.
pub fn sent(tensor: &Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor.shallow_clone(),
        device => tensor.pin_memory(device).to_device_(device, tensor.kind(), true, false),
    }
}

/// The values of a tensor of floats, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; flat.numel()];
    let count = values.len();
    flat.copy_data(&mut values, count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built() -> (Tensor, Tensor, Tensor, Parameters) {
        let mut builder = Builder::new(1, Device::Cpu);
        let (weight, bias) =
            builder.within("layer", |b| (b.uniform("weight", &[2, 3], 0.5), b.constant("bias", &[2], 0.0)));
        let buffer = builder.buffer("statistics", &[2], 1.0);
        (weight, bias, buffer, builder.finish())
    }

    #[test]
    fn layers_see_what_is_written_to_the_buffer() {
        let (weight, bias, _, mut parameters) = built();
        let _ = tch::no_grad(|| parameters.flat().fill_(2.0));
        assert_eq!(values(&weight), [2.0; 6]);
        assert_eq!(values(&bias), [2.0; 2]);
    }

    #[test]
    fn the_gradient_lies_in_the_order_of_the_parameters() {
        let (weight, bias, _, parameters) = built();
        let loss = (&weight * 3.0).sum(Kind::Float) + (&bias * 5.0).sum(Kind::Float);
        let whole = parameters.part(&[""; 0]);
        assert_eq!((whole.count(), whole.ranges.len()), (8, 1));
        assert_eq!(values(&parameters.gradient(&loss, &whole)), [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 5.0, 5.0]);
        let unused = (&bias * 2.0).sum(Kind::Float);
        assert_eq!(values(&parameters.gradient(&unused, &whole)), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]);
        let part = parameters.part(&["layer.bias"]);
        assert_eq!(part.ranges, [(6, 2)]);
        assert_eq!(values(&parameters.gradient(&(&bias * 2.0).sum(Kind::Float), &part)), [2.0, 2.0]);
        assert_eq!(values(&parameters.weights(&whole)), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn counting_takes_no_memory_and_counts_what_building_makes() {
        let mut builder = Builder::counting();
        let weight = builder.normal("weight", &[1 << 20, 1 << 20], 1.0);
        let _ = (builder.orthogonal("other", &[1 << 20, 3], 1.0), builder.buffer("b", &[1 << 40], 1.0));
        assert_eq!(weight.size(), [1 << 20, 1 << 20]);
        assert_eq!(builder.count(), (1 << 40) + 3 * (1 << 20));
    }

    #[test]
    fn snapshots_and_named_tensors_are_put_back() {
        let (weight, _, buffer, mut parameters) = built();
        let (before, named) = (parameters.snapshot(), parameters.named());
        assert_eq!(named[0].name, "layer.weight");
        let scramble = |parameters: &mut Parameters| {
            let _ = tch::no_grad(|| (parameters.flat().fill_(9.0), buffer.shallow_clone().fill_(9.0)));
        };
        scramble(&mut parameters);
        parameters.restore(&before).unwrap();
        assert_eq!(parameters.snapshot(), before);
        scramble(&mut parameters);
        let find =
            |name: &str| named.iter().find(|one| one.name == name).map(|one| (one.shape.clone(), one.values.clone()));
        parameters.load(find).unwrap();
        assert_eq!(values(&weight), named[0].values);
        assert_eq!(parameters.snapshot(), before);
    }

    #[test]
    fn a_network_is_built_over_tensors_that_are_there() {
        let of = |names: &[&str]| -> HashMap<String, Tensor> {
            names.iter().map(|name| ((*name).to_owned(), Tensor::from_slice(&[1.0_f32, 2.0]))).collect()
        };
        let build = |tensors: &HashMap<String, Tensor>, shape: &[i64]| {
            let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
            let mut builder = Builder::holding(tensors, Device::Cpu);
            let built =
                builder.within("layer", |b| (b.orthogonal("weight", shape, 1.0), b.normal_buffer("b", &[2], 1.0)));
            (built, builder.finish_held())
        };
        let tensors = of(&["layer.weight", "layer.b"]);
        let ((weight, buffer), outcome) = build(&tensors, &[2]);
        assert!(outcome.is_ok() && values(&buffer) == [1.0, 2.0]);
        assert_eq!(weight.data_ptr(), tensors["layer.weight"].data_ptr(), "it is the same memory");
        assert!(matches!(build(&tensors, &[3]).1, Err(MismatchError::Shape { .. })));
        assert!(
            matches!(build(&of(&["layer.b"]), &[2]).1, Err(MismatchError::Missing(name)) if name == "layer.weight")
        );
        assert!(matches!(build(&of(&["layer.weight", "layer.b", "c"]), &[2]).1, Err(MismatchError::Foreign)));
    }

    #[test]
    fn parameters_of_another_network_are_refused() {
        let (_, _, _, mut parameters) = built();
        assert!(matches!(parameters.load(|_| None), Err(MismatchError::Missing(name)) if name == "layer.weight"));
        assert!(matches!(parameters.load(|_| Some((vec![6], vec![0.0; 6]))), Err(MismatchError::Shape { .. })));
        assert!(parameters.restore(&Snapshot { trained: vec![0.0; 3], buffers: vec![] }).is_err());
    }
}
