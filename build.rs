//! Compiles what is written in C++ against libtorch, and tells the executable where libtorch lies, so that nobody has to
//! export LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys publishes the directory it linked against; it is visible because torch-sys is a direct dependency.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Ok(directory) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys did not say where libtorch is; run `make setup` first");
    };
    let library = PathBuf::from(&directory);
    let library = library.canonicalize().unwrap_or(library);
    compile_shim(&library);
    let cuda = library.with_file_name("cuda");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library.display());
        return;
    }
    // DT_RPATH rather than DT_RUNPATH: it also holds for what libtorch itself loads (NVIDIA's libraries among it).
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    for path in ["$ORIGIN/../lib/latente", &library.display().to_string(), &cuda.display().to_string()] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
}

/// Compiles `native/` as torch-sys compiles its own part: the same headers, standard and layout of the C++ library.
fn compile_shim(library: &Path) {
    for name in ["LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=native");
    let root = std::env::var_os("LIBTORCH_INCLUDE").map_or_else(|| library.with_file_name(""), PathBuf::from);
    let include = root.join("include");
    let layout = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut build = cc::Build::new();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The loops share the threads of libtorch, whose own library of OpenMP is the one that is loaded.
        build.flag("-fopenmp");
        println!("cargo:rustc-link-lib=gomp");
    }
    // Whatever the profile: these loops are what a training step spends its time in.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .flag_if_supported("-mprefer-vector-width=512")
        .define("_GLIBCXX_USE_CXX11_ABI", layout.as_str())
        .includes([include.join("torch/csrc/api/include"), include])
        .warnings(false)
        .files(
            ["convolution", "half", "kernels", "stack", "torch_shim", "trace_shim", "watch"]
                .map(|name| format!("native/{name}.cpp")),
        )
        .compile("latente_torch_shim");
}
