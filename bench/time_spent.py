#!/usr/bin/env python3
"""Where the time of training goes, by samples of `perf`; written into BENCHMARKS.md. Needs perf (Debian: apt-get install linux-perf).

The jobs are those of `speed.py`, in the midst of training: neither start nor final figures are sampled. A sample of a thread that waits
for another one, or for its turn, counts as waiting.

    python3 bench/time_spent.py                 as `make profile` does
    python3 bench/time_spent.py conv digits     only these; nothing is written
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import harness
import mnist
import speed
from harness import ENVIRONMENT, say

SETTLED, SECONDS = 5.0, 10.0
# The first that fits the name of a function, or the library it is in, has the sample.
PARTS = (
    ("matrix products", r"sgemm|gblock|multiply<|pack_(lines|columns)|brgemm|half_|^\[JIT\]|perf-\d+\.map"),
    ("windows of convolutions", r"gather_patches|scatter_patches|let_above|add_rows|latente::(repeat|clip)"),
    ("step of Adam", r"adamw"),
    ("losses, biases, functions", r"(bernoulli|gaussian)_row|row_loss|add_bias|let_through|latente::scale|gaussian_code|(tanh|sigmoid|relu|clamp|threshold)_?\w*kernel"),
    ("preparation of batches", r"latente::prepare|latente_scaled"),
    ("threads that wait for each other", r"libgomp|libiomp"),
    ("memory and copies", r"malloc|_int_free|cfree|memmove|memset|unlink_chunk|direct_copy|memalign|operator (new|delete)"),
    ("system", r"\[kernel|\[k\]|\[vdso\]"),
    ("else in libtorch", r"libtorch|libc10"),
    ("else", r""),
)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", help="jobs of speed.py, and `bf16`; all when none is named")
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    if not shutil.which("perf"):
        harness.fail("perf is missing (Debian: apt-get install linux-perf)")
    python = harness.python_with("numpy")
    images, content = mnist.training_images()
    machine = harness.Machine()
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        digits, some = directory / "digits.npy", directory / "some.npy"
        harness.run([python, "-c", speed.PREPARE, harness.ROOT / "demo" / "digits.csv.gz", digits, images, some])
        asked = {}
        for name, job in speed.jobs(images, digits).items():
            job["file"] = some if job["file"] == "some" else job["file"]
            asked[name] = (job["what"], job, job["spec"])
            if "half" in job:
                asked["bf16"] = ("the same in bf16", job, job["half"])
        rows = []
        for name, (what, job, spec) in asked.items():
            if options.names and name not in options.names:
                continue
            machine.look()
            shares = sampled(options.latente, job, spec, directory)
            rows.append([what, *(f"{shares.get(part, 0):.1%}" for part, _ in PARTS)])
            say(f"{name}: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.most_common()))
    text = [machine.sentence(), "",
            f"{version}, by samples of perf over {SECONDS:g} s of training on {harness.CORES} threads; {content}. Shares of the time of all its threads. `make profile`", "",
            *harness.table([["job", *(part for part, _ in PARTS)], *rows])]
    say("\n".join(text))
    if not options.names:
        harness.write_section("profile", text)


def sampled(program, job, spec, directory):
    """Shares of the parts, in the midst of a job that is stopped then."""
    endless = {**spec, "training": {**spec["training"], "epochs": 100_000}}
    command = harness.train_command(program, job["file"], endless, directory, job["arguments"])
    train = subprocess.Popen([str(word) for word in command], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
    data = directory / "perf.data"
    try:
        time.sleep(SETTLED)
        child = trainer_of(train.pid)
        harness.run(["perf", "record", "--quiet", "--freq", "999", "--pid", child, "--output", data, "--", "sleep", SECONDS])
    finally:
        for process in (trainer_of(train.pid), train.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        train.wait()
    out, _ = harness.run(["perf", "script", "--input", data, "--fields", "ip,sym,dso"])
    counts = Counter(part_of(line.strip()) for line in out.splitlines() if line.strip())
    total = sum(counts.values())
    if not total:
        harness.fail("perf saw nothing; may this user take samples (kernel.perf_event_paranoid)?")
    return Counter({part: count / total for part, count in counts.items()})


def trainer_of(parent):
    """The process that trains for a command, or the command itself."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = children.read_text().split() if children.exists() else []
    return int(found[0]) if found else parent


def part_of(sample):
    return next(part for part, pattern in PARTS if re.search(pattern, sample))


if __name__ == "__main__":
    sys.exit(main())
