#!/usr/bin/env python3
"""Training speed beside PyTorch, process start, memory and size; written into BENCHMARKS.md.

Speed is that of the 784-512-16-512-784 autoencoder on MNIST. Both sides run as whole processes of a short and of a long
training, in turns; the rate is the difference of the rows divided by the difference of the wall times, so that whatever is
done once (starting, reading the data, measuring the finished model) cancels out.

    python3 bench/train.py                 as `make bench` does
    python3 bench/train.py --dry           print only; leave BENCHMARKS.md alone
    python3 bench/train.py --anyway        measure although the machine does other work, too
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import harness
import mnist
from harness import CORES, ENVIRONMENT, say

TORCH = "2.11.0"
EPOCHS = (1, 4)
HIDDEN, LATENT, BATCH, RATE = [512], 16, 100, 1e-3
STARTS = 10
SERVER_STARTS = 5
SETTLING_SECONDS = 3
PATIENCE_SECONDS = 60
QUIET_SECONDS = 60

# The shape makes the pixels share one scale, so that minmax is pixel / 255.
SHAPE = ["--shape", "28x28", "--threads", str(CORES)]
SPEC = {
    "model": {"family": "autoencoder", "settings": {"latent": LATENT}},
    "network": {"hidden": HIDDEN, "activation": "relu"},
    "likelihood": "bernoulli",
    "scaling": "minmax",
    "training": {"batch_size": BATCH, "optimizer": {"kind": "adam", "lr": RATE}, "device": "cpu"},
    "split": {"validation": 0.0},
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each speed is measured (3)")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    arguments.add_argument("--anyway", action="store_true", help="measure even while other work disturbs it")
    options = arguments.parse_args()
    if sys.platform != "linux":
        harness.fail("memory is read from /proc, so this needs Linux")
    version = harness.check(options.latente)
    python = harness.python_with(f"torch=={TORCH}", "numpy")
    data, content = mnist.training_images()
    machine = harness.Machine()

    def look():
        see_quiet(machine, options.anyway)

    look()
    say(f"{version} beside PyTorch {TORCH}, {CORES} threads, {content}")

    sides = {
        version: lambda epochs: latente_run(options.latente, data, epochs),
        f"PyTorch {TORCH}, DataLoader": lambda epochs: pytorch_run(python, data, epochs),
        f"PyTorch {TORCH}, slices": lambda epochs: pytorch_run(python, data, epochs, "--slices"),
    }
    single = singles(options.latente, version)
    peak = trainer_peak(options.latente, data)
    say(f"{'peak memory of the trainer':<40} {mib(peak)}")
    measured = measure(sides, options.rounds, look)
    peaks = {name: figures.get("peak_kib", peak) for name, figures in measured.items()}
    machine.look()
    lines = [machine.sentence(), "", *speed_lines(measured, peaks, content), "", *single]
    if options.dry:
        say("\n".join(lines))
    else:
        harness.write_section("train", lines)


def see_quiet(machine, anyway):
    """Looks how busy others keep the machine; gives up when they keep it busy. PyTorch's threads wait for each other by
    spinning, so beside other work they lose far more than their share, and a ratio would say nothing."""
    if not machine.look(attempts=1 if anyway else QUIET_SECONDS) and not anyway:
        harness.fail("other work keeps this machine busy; nothing was written. Run this again when it is quiet, or with --anyway")


def latente_run(latente, data, epochs):
    metrics, seconds = harness.train(latente, data, spec_of(epochs), SHAPE)
    return seconds, {"loss": metrics["train/loss"]}


def spec_of(epochs):
    return {**SPEC, "training": {**SPEC["training"], "epochs": epochs}}


def pytorch_run(python, data, epochs, *arguments):
    program = Path(__file__).with_name("pytorch.py")
    out, seconds = harness.run([python, program, data, epochs, BATCH, RATE, LATENT, CORES, *HIDDEN, *arguments])
    return seconds, json.loads(out)


def measure(sides, rounds, look):
    """What each side took for the epochs between a short and a long run, and what its last long run said. All sides in turns;
    every second round goes backwards."""
    short, long = EPOCHS
    measured = {name: {"seconds": []} for name in sides}
    for number in range(rounds):
        for name, side in (list(sides.items())[::-1] if number % 2 else sides.items()):
            look()
            short_seconds, _ = side(short)
            long_seconds, figures = side(long)
            seconds = long_seconds - short_seconds
            measured[name].update(figures, seconds=[*measured[name]["seconds"], seconds])
            inside = f" (by its own clock {rate_of(long * statistics.median(figures['epoch_seconds']), long)})" if "epoch_seconds" in figures else ""
            say(f"round {number + 1}  {name:<28} {rate_of(seconds):>7} rows/s{inside}, loss {figures['loss']:.3f}, "
                f"whole processes {short_seconds:.1f} s and {long_seconds:.1f} s")
    return measured


def rate_of(seconds, epochs=EPOCHS[1] - EPOCHS[0]):
    """Rows per second, in words. On a busy machine a long run may end before a short one did."""
    return f"{epochs * mnist.ROWS / seconds:,.0f}" if seconds > 0 else "unknown"


def speed_lines(measured, peaks, content):
    """The first side is latente; the others are compared with it."""
    first = statistics.median(next(iter(measured.values()))["seconds"])
    rows = [["", "rows/s, median", "lowest to highest", "latente is", "loss at the end", "peak memory"]]
    for name, figures in measured.items():
        seconds = sorted(figures["seconds"])
        middle = statistics.median(seconds)
        if min(first, middle) <= 0:
            harness.fail("the machine is too busy to measure speed; run this again when it is not")
        ratio = "" if len(rows) == 1 else f"{middle / first:.2f} times as fast"
        rows.append([name, rate_of(middle), f"{rate_of(seconds[-1])} to {rate_of(seconds[0])}", ratio, f"{figures['loss']:.2f}", mib(peaks[name])])
        say(f"{name:<28} {rate_of(middle):>7} rows/s  {ratio and 'latente is ' + ratio}")
    short, long = EPOCHS
    rounds = len(seconds)
    return [
        f"{content[0].upper()}{content[1:]}; autoencoder 784-512-16-512-784, ReLU, cross-entropy summed over the pixels, Adam at "
        f"{RATE:g}, batches of {BATCH}, 32-bit floats, {CORES} threads on the CPU. Each rate is the difference of whole "
        f"processes with {long} epochs and with {short}, {rounds} times in turns, so it holds neither the start, nor the reading "
        "of the data, nor the final evaluation; latente's holds a checkpoint per epoch. `DataLoader` is the ordinary loop "
        "(TensorDataset, shuffled, no workers); `slices` indexes one tensor by hand. The loss is in nats per row, over all "
        f"training rows after {long} epochs; first weights differ (latente: He, PyTorch: its default), so it agrees only "
        "roughly. Memory is VmHWM of the process that trains; latente's includes the rows, which it maps from a file.",
        "",
        *harness.table(rows),
        "",
        "```",
        f"latente train train.npy {' '.join(SHAPE)} --spec '{json.dumps(spec_of(long))}'",
        "```",
    ]


def singles(latente, version):
    """Start, idle memory and size."""
    starts = [harness.run([latente, "--version"])[1] for _ in range(STARTS)]
    servers = [server_start(latente, settle=number == 0) for number in range(SERVER_STARTS)]
    library = Path(os.environ.get("LIBTORCH") or harness.ROOT / ".libtorch") / "lib"
    rows = [
        [version, "figure", "how"],
        ["start of the process, libtorch loaded", f"{statistics.median(starts) * 1000:.0f} ms", f"`latente --version`, median of {STARTS}"],
        ["start of the server", f"{statistics.median(seconds for seconds, _ in servers) * 1000:.0f} ms",
         f"`latente serve` on an empty directory until `listening on`, median of {SERVER_STARTS}"],
        ["memory of an idle server", mib(servers[0][1]), f"VmHWM {SETTLING_SECONDS} s after the start"],
        ["size of the executable", f"{Path(latente).stat().st_size / 2**20:.1f} MiB", "as `make build` leaves it"],
        ["size of libtorch for the CPU", f"{sum(path.stat().st_size for path in library.glob('*')) / 2**20:.0f} MiB", "`.libtorch/lib`"],
    ]
    for row in rows[1:]:
        say(f"{row[0]:<40} {row[1]}")
    return harness.table(rows)


def server_start(latente, settle):
    """Seconds until the server listens, and its peak memory once it has settled."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as log:
        command = [str(latente), "serve", "--listen", "127.0.0.1:0", "--data", directory]
        start = time.perf_counter()
        server = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=log, text=True)
        overdue = threading.Timer(PATIENCE_SECONDS, server.kill)
        overdue.start()
        try:
            line = server.stdout.readline()
            seconds = time.perf_counter() - start
            if not line.startswith("listening on "):
                log.seek(0)
                harness.fail(f"the server did not start: {line}{log.read()}")
            if settle:
                time.sleep(SETTLING_SECONDS)
            return seconds, peak_kib(server.pid)
        finally:
            overdue.cancel()
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()


def trainer_peak(latente, data):
    """Peak memory of the process that `latente train` starts. A high-water mark, so looking now and then is enough."""
    peak = 0
    with tempfile.TemporaryDirectory() as directory:
        command = harness.train_command(latente, data, spec_of(1), directory, SHAPE)
        front = subprocess.Popen([str(word) for word in command], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while front.poll() is None:
            for child in children(front.pid):
                peak = max(peak, peak_kib(child))
            time.sleep(0.02)
    if front.returncode != 0 or peak == 0:
        harness.fail("the memory of the trainer could not be seen")
    return peak


def children(parent):
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program comes second, in brackets, and may itself hold spaces and brackets.
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(path.parent.name)
        except (OSError, IndexError, ValueError):
            continue  # It ended while it was looked at.


def peak_kib(pid):
    for line in harness.lines_of(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return 0


def mib(kib):
    return f"{kib / 1024:.0f} MiB"


if __name__ == "__main__":
    main()
