#!/usr/bin/env python3
"""How fast files become rows, and in how much memory, beside pandas and polars; written into BENCHMARKS.md.

Each reading is a process of its own, in turns, on the same files: `latente inspect`, which reads as an upload does (canonical rows
are written to the disk and every column is profiled), and pandas and polars, which read into memory. Peak memory is what the
system reports of the whole process (VmHWM), pages of mapped files included. Then a trainer with a limit of memory trains on a
file three times that size.

    python3 bench/ingest.py                as `make bench` does
    python3 bench/ingest.py --dry          print only; leave BENCHMARKS.md alone
    python3 bench/ingest.py --mib 256      smaller files
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import harness
from harness import ENVIRONMENT, say

ROUNDS = 3
LIMIT_MIB = 256
BLOCK_ROWS = 200_000

PEERS = {
    "pandas": "import sys, pandas; f = sys.argv[1]; t = pandas.read_parquet(f) if f.endswith('parquet') else pandas.read_csv(f); print(len(t))",
    "polars": "import sys, polars; f = sys.argv[1]; t = polars.read_parquet(f) if f.endswith('parquet') else polars.read_csv(f); print(len(t))",
}

# Ten columns of numbers as sensors write them, one of whole numbers and one of texts.
MAKE = """
import sys, numpy, polars
directory, rows, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random = numpy.random.default_rng(0)
table = {f"x{i}": numpy.round(random.normal(20 * i, 3 + i, rows), 4) for i in range(10)}
table["count"] = random.poisson(7, rows)
table["site"] = random.choice(["north", "south", "east", "west", "harbour"], rows)
block = polars.DataFrame(table)
block.write_csv(f"{directory}/block.csv")
import os
size = os.path.getsize(f"{directory}/block.csv")
copies = max(1, mib * 2**20 // size)
text = open(f"{directory}/block.csv", "rb").read()
head, body = text.split(b"\\n", 1)
with open(f"{directory}/data.csv", "wb") as sink:
    sink.write(head + b"\\n")
    for _ in range(copies):
        sink.write(body)
polars.concat([block] * copies).write_parquet(f"{directory}/data.parquet", row_group_size=rows)
os.remove(f"{directory}/block.csv")
print(copies * rows)
"""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--mib", type=int, default=2048, help="MiB of the CSV file (2048)")
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="how often each reading is measured (3)")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with("numpy", "pandas", "polars", "pyarrow")
    machine = harness.Machine()
    machine.look()
    harness.HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=harness.HOME) as directory:
        rows = int(harness.run([python, "-c", MAKE, directory, BLOCK_ROWS, options.mib])[0])
        lines = [["file", "read by", "MB/s, median", "lowest to highest", "latente is", "peak memory"]]
        for name in ("data.csv", "data.parquet"):
            lines += readings(options, python, Path(directory) / name, directory)
        limited = limited_training(options.latente, python, Path(directory))
    versions = ", ".join(f"{name} {harness.version(python, name)}" for name in PEERS)
    text = [
        f"{version}; {versions}. {machine.sentence()}", "",
        f"{rows:,} rows of ten columns of numbers, one of whole numbers and one of five texts. MB are millions of bytes of the file "
        "as it lies on the disk, which was read once before. latente writes its rows to the disk and profiles each column on the way; "
        "the others end with a table in memory.", "",
        *harness.table(lines), "", limited,
    ]
    say("\n".join(text))
    if not options.dry:
        harness.write_section("ingest", text)


def readings(options, python, path, directory):
    """Rows of the table for one file."""
    megabytes = path.stat().st_size / 1e6
    commands = {"latente": [options.latente, "inspect", path]}
    commands.update({name: [python, "-c", code, path] for name, code in PEERS.items()})
    seen = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0)
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
    for _ in range(options.rounds):
        for name, command in commands.items():
            seconds, peak = measured(command, directory)
            seen[name].append(megabytes / seconds)
            peaks[name] = max(peaks[name], peak)
            say(f"{path.name}  {name:<8} {megabytes / seconds:8.1f} MB/s  {peak / 2**20:6.0f} MiB")
    ours = statistics.median(seen["latente"])
    rows = []
    for name, rates in seen.items():
        median = statistics.median(rates)
        ratio = "" if name == "latente" else f"{ours / median:.2f} times as fast"
        rows.append([f"{path.suffix[1:]}, {megabytes:,.0f} MB", name, f"{median:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", ratio,
                     f"{peaks[name] / 2**20:,.0f} MiB"])
    return rows


def measured(command, directory):
    """Seconds and peak bytes of a process."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as complaint:
        child = subprocess.Popen([str(word) for word in command], env={**ENVIRONMENT, "TMPDIR": str(directory)},
                                 stdout=subprocess.DEVNULL, stderr=complaint)
        peak = 0
        while child.poll() is None:
            try:
                seen = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child.pid}/status").read_text())
                peak = max(peak, int(seen[1]) * 1024 if seen else 0)
            except OSError:
                pass  # It has just ended.
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if child.returncode:
            complaint.seek(0)
            harness.fail(f"{command[0]} ended with {child.returncode}: {complaint.read().decode().strip()}")
    return seconds, peak


def limited_training(latente, python, directory):
    """Trains under a limit, on rows three times as large; a sentence about the memory of the trainer."""
    width, rows = 256, LIMIT_MIB * 3 * 2**20 // (256 * 4)
    path = directory / "large.npy"
    code = ("import sys, numpy; n, d = int(sys.argv[2]), int(sys.argv[3]); "
            "a = numpy.lib.format.open_memmap(sys.argv[1], 'w+', 'float32', (n, d)); r = numpy.random.default_rng(0); "
            "[a.__setitem__(slice(i, i + 4096), r.normal(size=(min(4096, n - i), d))) for i in range(0, n, 4096)]")
    harness.run([python, "-c", code, path, rows, width])
    os.environ["LATENTE_TRAINER_MIB"] = str(LIMIT_MIB)
    try:
        with harness.server(latente) as server, Watch() as watch:
            dataset = server.upload(path, "name=large")
            server.train(dataset, {"model": {"family": "autoencoder", "settings": {"latent": 16}}, "network": {"hidden": [64]},
                                   "training": {"epochs": 1, "batch_size": 256, "device": "cpu"}})
    finally:
        del os.environ["LATENTE_TRAINER_MIB"]
    size = path.stat().st_size / 2**20
    return (f"A trainer with `--trainer-mib {LIMIT_MIB}` trained an epoch on {size:,.0f} MiB of rows: at its peak it had "
            f"{watch.own / 2**20:,.0f} MiB of its own (RssAnon) and {watch.mapped / 2**20:,.0f} MiB of mapped rows and libraries, which the "
            "system takes back when others need memory.")


class Watch:
    """Looks at the memory of trainers while they run."""

    def __enter__(self):
        self.own = self.mapped = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()

    def look(self):
        while not self.ending.wait(0.05):
            for process in Path("/proc").iterdir():
                try:
                    if process.name.isdigit() and b"\0trainer\0" in (process / "cmdline").read_bytes():
                        status = (process / "status").read_text()
                        own, mapped = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 for name in ("RssAnon", "RssFile"))
                        self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)
                except (OSError, TypeError):
                    pass  # It has just ended.


if __name__ == "__main__":
    main()
