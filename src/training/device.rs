//! Where training happens, and on which CPU: the facts that decide whether two runs give the same bytes.
//!
//! The program is linked against libtorch's CPU library only. Where the CUDA library lies beside it, it is opened before the
//! first question about CUDA, because libtorch remembers the first answer.

use std::sync::Once;

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device};

use super::spec::DeviceSpec;
use crate::domain::refusal::{Code, Refusal};

/// The libtorch that this program is built against.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// What libtorch finds on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// GPUs that CUDA can use.
    pub cuda: u32,
    /// Why there are none.
    pub cuda_absence: Option<String>,
    /// Threads of one operation on the CPU.
    pub threads: u32,
    /// Vector instructions of the CPU.
    pub cpu: String,
}

impl Devices {
    /// Asks libtorch. Call it in a process of its own where the answer may cost: CUDA keeps memory once it was asked.
    pub fn probe() -> Self {
        let opened = open_cuda_library();
        let cuda = Cuda::device_count().max(0) as u32;
        let cuda_absence = match (cuda, opened) {
            (1.., _) => None,
            (0, Ok(())) => Some("libtorch has CUDA, and finds no NVIDIA driver or GPU".to_owned()),
            (0, Err(fault)) => Some(fault),
        };
        Self { cuda, cuda_absence, threads: tch::get_num_threads().max(1) as u32, cpu: cpu_capability().to_owned() }
    }

    /// The device that a spec asks for.
    ///
    /// # Errors
    /// CUDA is asked for and not there.
    pub fn choose(&self, spec: DeviceSpec) -> Result<Device, Refusal> {
        match (spec, self.cuda) {
            (DeviceSpec::Cpu, _) | (DeviceSpec::Auto, 0) => Ok(Device::Cpu),
            (DeviceSpec::Auto | DeviceSpec::Cuda, 1..) => Ok(Device::Cuda(0)),
            (DeviceSpec::Cuda, 0) => {
                let why = self.cuda_absence.as_deref().unwrap_or("none was found");
                let detail =
                    format!("asks for CUDA, which this server does not have: {why}. Allowed are auto and cpu.");
                Err(Refusal::at(Code::DeviceUnavailable, "/training/device", "unavailable", detail))
            }
        }
    }
}

/// Opens libtorch's CUDA library where it is installed; once per process.
fn open_cuda_library() -> Result<(), String> {
    static ONCE: Once = Once::new();
    static RESULT: std::sync::Mutex<Option<String>> = std::sync::Mutex::new(None);
    ONCE.call_once(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the library is libtorch's own, of the version the program is linked against; its initialisers register
        // CUDA with the part that is already loaded. It is never closed.
        #[expect(unsafe_code, reason = "opening a library runs its initialisers")]
        let opened = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        match opened {
            Ok(library) => std::mem::forget(library),
            Err(fault) => {
                use std::error::Error;
                let words = fault.source().map_or_else(|| fault.to_string(), ToString::to_string);
                let absent = words.contains("libtorch_cuda.so: cannot open shared object file");
                let why =
                    if absent { "it was installed for the CPU; `make setup-cuda` adds CUDA".to_owned() } else { words };
                *RESULT.lock().expect("nothing panics while it holds this") =
                    Some(format!("libtorch has no CUDA here: {why}"));
            }
        }
    });
    RESULT.lock().expect("nothing panics while it holds this").clone().map_or(Ok(()), Err)
}

/// The widest vector instructions that libtorch's kernels may choose here.
fn cpu_capability() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if std::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    std::env::consts::ARCH
}

/// What must be equal for a resumed run to give the bytes of an uninterrupted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The version of this program.
    pub program: String,
    /// The version of libtorch.
    pub libtorch: String,
    /// Vector instructions of the CPU.
    pub cpu: String,
    /// Threads of one operation.
    pub threads: u32,
    /// `cpu` or `cuda`.
    pub device: String,
}

impl Fingerprint {
    /// That of this process.
    pub fn here(device: Device) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch: LIBTORCH_VERSION.to_owned(),
            cpu: cpu_capability().to_owned(),
            threads: tch::get_num_threads().max(1) as u32,
            device: device_name(device).to_owned(),
        }
    }
}

/// `cpu` or `cuda`.
pub fn device_name(device: Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_without_a_gpu_is_refused_and_auto_falls_back() {
        let none = Devices { cuda: 0, cuda_absence: Some("no driver".into()), threads: 1, cpu: "avx2".into() };
        assert_eq!(none.choose(DeviceSpec::Auto), Ok(Device::Cpu));
        let refusal = none.choose(DeviceSpec::Cuda).unwrap_err();
        assert_eq!((refusal.code, refusal.errors[0].pointer.as_str()), (Code::DeviceUnavailable, "/training/device"));
        let one = Devices { cuda: 1, cuda_absence: None, ..none };
        assert_eq!(one.choose(DeviceSpec::Auto), Ok(Device::Cuda(0)));
        assert_eq!(one.choose(DeviceSpec::Cpu), Ok(Device::Cpu));
    }
}
