//! What `tch` does not offer: the other side of `native/torch_shim.cpp`. Steps of optimizers in one pass, stacks of linear layers and
//! losses that are one node of the graph each, and gradients that are written where they are wanted.

mod layers;
mod steps;

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

pub use layers::{
    Divergence, Layers, Moves, Simple, biased, convolution, gaussian_code, restored, row_loss, stack, variational,
};
pub use steps::{AdamStep, Rule, RuleStep, adamw, by_rule, norm, scaled};

/// How long a message of the other side may be.
const MESSAGE_BYTES: usize = 1024;

/// Whether what this thread computes is recorded for other programs, which know libtorch's own operations and none of these.
pub fn is_recorded() -> bool {
    // SAFETY: it takes nothing and only looks at what the thread has.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        latente_is_recorded()
    }
}

/// Has tensors of this thread count as those of another device while `work` runs, and gives how often it asked a tensor for a number,
/// or for places that it holds: a GPU would have been waited for.
#[cfg(test)]
pub fn as_elsewhere<T>(work: impl FnOnce() -> T) -> (T, u64) {
    // SAFETY: both set switches of this thread.
    #[expect(unsafe_code, reason = "calls into C++")]
    unsafe {
        latente_pretend_elsewhere(true);
        latente_watch(true);
        let done = work();
        latente_pretend_elsewhere(false);
        (done, latente_watch(false))
    }
}

/// Lets this process take products and convolutions on a GPU in TensorFloat-32.
pub fn allow_tf32() {
    // SAFETY: it takes nothing and sets a switch of libtorch.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        latente_allow_tf32();
    }
}

/// Whether it is 32-bit floats of the host, one after the other.
fn is_plain(tensor: &Tensor) -> bool {
    // SAFETY: the pointer is that of a live tensor.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        latente_is_plain(tensor.as_ptr().cast())
    }
}

/// Writes the gradient of `loss` over `leaves` to `views`, which have their shapes; zeros where there is none.
///
/// # Panics
/// libtorch fails, for want of memory for example.
pub fn backward(loss: &Tensor, leaves: &[&Tensor], views: &[&Tensor]) {
    assert_eq!(leaves.len(), views.len(), "each leaf has a view; this is a bug");
    let (leaves, views) = (pointers(leaves.iter().copied()), pointers(views.iter().copied()));
    // SAFETY: all pointers are those of live tensors, and as many as is said.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_backward(loss.as_ptr().cast(), leaves.as_ptr(), views.as_ptr(), leaves.len(), message, capacity)
        })
    }
    .unwrap_or_else(|fault| panic!("the gradient: {fault}"));
}

fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const c_void> {
    tensors.into_iter().map(|tensor| tensor.as_ptr().cast()).collect()
}

/// Calls a function of the other side; its message is the error.
fn call(function: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), String> {
    let mut message: [c_char; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
    if function(message.as_mut_ptr(), MESSAGE_BYTES) == 0 { Ok(()) } else { Err(text(&message)) }
}

fn text(message: &[c_char]) -> String {
    let bytes: Vec<u8> = message.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

// SAFETY: as native/torch_shim.h declares it; the tensors are handles that the other side does not keep.
#[expect(unsafe_code, reason = "functions of native/torch_shim.cpp")]
unsafe extern "C" {
    fn latente_is_plain(tensor: *const c_void) -> bool;
    #[cfg(test)]
    fn latente_pretend_elsewhere(pretend: bool);
    #[cfg(test)]
    fn latente_watch(watch: bool) -> u64;
    fn latente_is_recorded() -> bool;
    fn latente_allow_tf32();
    fn latente_backward(
        loss: *const c_void,
        leaves: *const *const c_void,
        views: *const *const c_void,
        count: usize,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
}
