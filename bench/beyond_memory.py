#!/usr/bin/env python3
"""Training on rows that do not fit into memory, beside PyTorch; written into BENCHMARKS.md.

Every process is in a control group whose memory, the system's copies of files included, is half of the file's size. Rows come in
random order, so nearly every second one has to come from the disk. Latente's rate is the difference of whole processes of one and of
two epochs; PyTorch's, a memory-mapped array behind a shuffling DataLoader with two workers, that of the batches it does in half a minute.

    python3 bench/beyond_memory.py              as `make beyond-memory` does; needs the right to make control groups
    python3 bench/beyond_memory.py --dry        print only; leave BENCHMARKS.md alone
"""

import argparse
import atexit
import os
import statistics
import sys
import tempfile
from pathlib import Path

import harness
from harness import say

ROWS, COLUMNS = 600_000, 1024
SECONDS = 30
TORCH = "2.11.0"
LIMIT_BYTES = ROWS * COLUMNS * 4 // 2

MAKE = """
import sys, numpy
random = numpy.random.default_rng(0)
block = random.standard_normal((20_000, {columns}), dtype=numpy.float32)
rows = numpy.lib.format.open_memmap(sys.argv[1], mode="w+", dtype=numpy.float32, shape=({rows}, {columns}))
for start in range(0, {rows}, len(block)):
    rows[start : start + len(block)] = block
rows.flush()
import os
place = os.open(sys.argv[1], os.O_RDONLY)
os.fsync(place)
os.posix_fadvise(place, 0, 0, os.POSIX_FADV_DONTNEED)  # it is to come from the disk
"""

PEER = """
import sys, time, numpy, torch
torch.set_num_threads({cores})
file = sys.argv[1]

class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.rows = numpy.load(file, mmap_mode="r")
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, place):
        return numpy.array(self.rows[place])

model = torch.nn.Sequential(torch.nn.Linear({columns}, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16), torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, {columns}))
optimizer = torch.optim.Adam(model.parameters())
loader = torch.utils.data.DataLoader(Rows(), batch_size=128, shuffle=True, num_workers=2)
done, start = 0, None
for x in loader:
    optimizer.zero_grad()
    (0.5 * (model(x) - x).square().sum() / len(x)).backward()
    optimizer.step()
    if start is None:
        start = time.perf_counter()
        continue
    done += len(x)
    if time.perf_counter() - start > {seconds}:
        break
print(done / (time.perf_counter() - start))
"""


class Group:
    """A control group with a limit of memory, of either kind that Linux has."""

    def __init__(self):
        old = Path("/sys/fs/cgroup/memory")
        root, limit = (old, "memory.limit_in_bytes") if old.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
        self.place = root / f"latente-{os.getpid()}"
        try:
            self.place.mkdir()
            atexit.register(self.place.rmdir)
            (self.place / limit).write_text(str(LIMIT_BYTES))
        except OSError as error:
            harness.fail(f"a control group with a limit of memory cannot be made here: {error}; run this as root")

    def enter(self):
        (self.place / "cgroup.procs").write_text(str(os.getpid()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latente", default=harness.ROOT / "target/release/latente", help="the program to measure")
    parser.add_argument("--rounds", type=int, default=2, help="how often each speed is measured (2)")
    parser.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = parser.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with(f"torch=={TORCH}", "numpy")
    machine, group, cores = harness.Machine(), Group(), os.cpu_count()
    own, others = [], []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "rows.npy"
        harness.run([python, "-c", MAKE.format(rows=ROWS, columns=COLUMNS), file])
        for number in range(options.rounds):
            machine.look()
            seconds = {}
            for epochs in (1, 2):
                spec = {"model": {"family": "autoencoder", "settings": {"latent": 16}}, "network": {"hidden": [64]}, "scaling": "none",
                        "likelihood": "gaussian", "split": {"validation": 0.0}, "training": {"epochs": epochs, "batch_size": 128, "device": "cpu"}}
                command = harness.train_command(options.latente, file, spec, directory, ["--threads", cores])
                _, seconds[epochs] = harness.run(command, preexec_fn=group.enter)
            own.append(ROWS / (seconds[2] - seconds[1]))
            say(f"round {number + 1}  latente {own[-1]:10,.0f} rows/s (whole runs: {seconds[1]:.0f} s and {seconds[2]:.0f} s)")
            harness.run([python, "-c", "import os, sys; os.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)", file])
            peer = PEER.format(columns=COLUMNS, cores=cores, seconds=SECONDS)
            out, _ = harness.run([python, "-c", peer, file], preexec_fn=group.enter)
            others.append(float(out))
            say(f"round {number + 1}  PyTorch {others[-1]:10,.0f} rows/s")
    ratios = sorted(one / other for one, other in zip(own, others))
    lines = [
        machine.sentence(), "",
        f"{version} beside PyTorch {TORCH}, {cores} threads: an autoencoder 1024-64-16-64-1024, batches of 128, on {ROWS:,} rows of "
        f"{COLUMNS:,} numbers ({ROWS * COLUMNS * 4 / 2**20:,.0f} MiB) in {LIMIT_BYTES / 2**20:,.0f} MiB of memory. What the system reads beside a row "
        "that is missing (`read_ahead_kb`) is left as it is; latente turns that off while it announces rows. `make beyond-memory`", "",
        *harness.table([
            ["", "latente", "PyTorch, DataLoader with 2 workers on a memory map", "ratio, median", "lowest to highest"],
            ["rows/s", f"{statistics.median(own):,.0f}", f"{statistics.median(others):,.0f}", f"{statistics.median(ratios):.1f}",
             f"{ratios[0]:.1f} to {ratios[-1]:.1f}"],
        ]),
    ]
    say("\n".join(lines))
    if not options.dry:
        harness.write_section("beyond_memory", lines)


if __name__ == "__main__":
    sys.exit(main())
