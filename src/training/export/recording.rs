//! Records what is computed of tensors, by libtorch's own tracer: the other side of `native/trace_shim.cpp`.
//!
//! A recording is made of the very code that answers requests, so that the two cannot drift apart. Whatever depends on the
//! number of rows must be computed by operations, because a number that was read from a tensor's shape is recorded as it was.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use tch::Tensor;

use super::graph::Graph;

/// How long a message of the other side may be.
const MESSAGE_BYTES: usize = 1024;

/// Operations on one tensor, and what came of them.
pub struct Recording(*mut c_void);

impl Recording {
    /// Records what `work` does with `input`. Tensors that it makes of numbers of its own must be there before.
    ///
    /// # Errors
    /// libtorch cannot record it; in its own words.
    pub fn of(input: &Tensor, name: &str, work: impl FnOnce(&Tensor) -> Vec<Tensor>) -> Result<Self, String> {
        let _guard = tch::no_grad_guard();
        let name = CString::new(name).map_err(|error| error.to_string())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the tensor is a live `at::Tensor*` of torch-sys and the name ends with a zero; the handle is written before
        // the call returns 0.
        #[expect(unsafe_code, reason = "a call into C++")]
        call(|message, capacity| unsafe {
            latente_trace_begin(input.as_ptr().cast(), name.as_ptr(), &raw mut handle, message, capacity)
        })?;
        // From here on the recording ends with this value, even where the work panics.
        let recording = Self(handle);
        let outputs = work(input);
        let pointers: Vec<*const c_void> = outputs.iter().map(|tensor| tensor.as_ptr().cast()).collect();
        // SAFETY: the handle is that of the recording, and the pointers are those of live tensors, as many as is said.
        #[expect(unsafe_code, reason = "a call into C++")]
        call(|message, capacity| unsafe {
            latente_trace_end(recording.0, pointers.as_ptr(), pointers.len(), message, capacity)
        })?;
        Ok(recording)
    }

    /// Writes it as a TorchScript file, whose method `forward` does the same again.
    ///
    /// # Errors
    /// libtorch cannot write it there; in its own words.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the handle is that of the recording, and the path ends with a zero.
        #[expect(unsafe_code, reason = "a call into C++")]
        call(|message, capacity| unsafe { latente_trace_save(self.0, path.as_ptr(), message, capacity) })
    }

    /// The operations.
    ///
    /// # Errors
    /// They are not what was expected.
    pub fn graph(&self) -> Result<Graph, String> {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the handle is that of the recording; the text is written before the call returns 0.
        #[expect(unsafe_code, reason = "a call into C++")]
        call(|message, capacity| unsafe { latente_trace_graph(self.0, &raw mut text, message, capacity) })?;
        // SAFETY: the text ends with a zero and stays as it is while the recording lives, which is borrowed here.
        #[expect(unsafe_code, reason = "a text of C++")]
        let text = unsafe { CStr::from_ptr(text) };
        serde_json::from_slice(text.to_bytes()).map_err(|error| error.to_string())
    }

    /// A tensor that is a constant of [`Recording::graph`].
    ///
    /// # Errors
    /// There is none of this number.
    pub fn constant(&self, number: usize) -> Result<Tensor, String> {
        let mut tensor: *mut c_void = std::ptr::null_mut();
        // SAFETY: the handle is that of the recording; the tensor is written before the call returns 0.
        #[expect(unsafe_code, reason = "a call into C++")]
        call(|message, capacity| unsafe {
            latente_trace_constant(self.0, number, &raw mut tensor, message, capacity)
        })?;
        // SAFETY: it is a new `at::Tensor*`, which nobody else frees.
        #[expect(unsafe_code, reason = "a tensor of C++")]
        Ok(unsafe { Tensor::from_ptr(tensor.cast()) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: the handle is that of the recording, and this is its last use.
        #[expect(unsafe_code, reason = "a call into C++")]
        unsafe {
            latente_trace_free(self.0);
        }
    }
}

/// Makes a call; its message becomes the error.
fn call(one: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), String> {
    let mut message: [c_char; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
    if one(message.as_mut_ptr(), MESSAGE_BYTES) == 0 {
        return Ok(());
    }
    let bytes: Vec<u8> = message.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    Err(CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned()))
}

// SAFETY: as native/torch_shim.h declares it; tensors are handles that the other side does not keep.
#[expect(unsafe_code, reason = "functions of native/trace_shim.cpp")]
unsafe extern "C" {
    fn latente_trace_begin(
        input: *const c_void,
        name: *const c_char,
        trace: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_trace_end(
        trace: *mut c_void,
        outputs: *const *const c_void,
        count: usize,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_trace_save(trace: *mut c_void, path: *const c_char, message: *mut c_char, capacity: usize) -> c_int;
    fn latente_trace_graph(
        trace: *mut c_void,
        text: *mut *const c_char,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_trace_constant(
        trace: *mut c_void,
        number: usize,
        tensor: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_trace_free(trace: *mut c_void);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;
    use tch::{CModule, Kind};

    #[test]
    fn what_was_recorded_can_be_done_again_with_other_rows() {
        let weight = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let input = Tensor::ones([3, 2], tch::kind::FLOAT_CPU);
        let work = |x: &Tensor| {
            let y = x.linear(&(&weight * 2.0), None::<Tensor>).tanh();
            vec![y.sum_dim_intlist([-1].as_slice(), false, Kind::Float), y]
        };
        let recording = Recording::of(&input, "rows", work).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.pt");
        recording.save(&path).unwrap();
        let loaded = CModule::load(&path).unwrap();
        let rows = Tensor::from_slice(&[0.1_f32, -0.2]).view([1, 2]);
        let told = loaded.forward_is(&[tch::IValue::Tensor(rows.shallow_clone())]).unwrap();
        let tch::IValue::Tuple(told) = told else { panic!("{told:?}") };
        for (told, own) in told.iter().zip(work(&rows)) {
            let tch::IValue::Tensor(told) = told else { panic!("{told:?}") };
            assert_eq!(values(told), values(&own));
        }
        let graph = recording.graph().unwrap();
        let operations: Vec<&str> = graph.nodes.iter().map(|node| node.operation.as_str()).collect();
        assert_eq!(operations, ["aten::linear", "aten::tanh", "aten::sum", "prim::TupleConstruct"]);
        let folded = graph.constants.values().find_map(|constant| match constant {
            super::super::graph::Constant::Tensor(number) => Some(recording.constant(*number).unwrap()),
            _ => None,
        });
        assert_eq!(values(&folded.unwrap()), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(graph.types[&graph.inputs[1]].sides, [3, 2]);
    }

    #[test]
    fn a_panic_or_a_fault_ends_the_recording() {
        let input = Tensor::ones([3, 2], tch::kind::FLOAT_CPU);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Recording::of(&input, "rows", |_| panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        let trained = Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Recording::of(&input, "rows", |x| vec![x * &trained]).map(|_| ())
        }));
        assert!(!matches!(refused, Ok(Ok(()))), "a trained tensor is no constant");
        assert!(Recording::of(&input, "rows", |x| vec![x * 2.0]).is_ok());
    }
}
