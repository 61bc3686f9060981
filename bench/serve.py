#!/usr/bin/env python3
"""Answers a second beside FastAPI, LitServe and the bare network; written into BENCHMARKS.md. Needs wrk (Debian: apt-get install wrk).

One 784-512-16 encoder is trained here and served by each side from the same numbers. All sides are asked by wrk on this machine, in
turns; while one is asked the others are stopped (SIGSTOP), so that none of them takes time by waiting. Before anything is
measured their answers are compared.

    python3 bench/serve.py                 as `make bench` does
    python3 bench/serve.py --dry           print only; leave BENCHMARKS.md alone
    python3 bench/serve.py --only json     a part: json, rows, binary
"""

import argparse
import array
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import harness
from harness import CORES, ENVIRONMENT, say

TORCH = "2.11.0"
PACKAGES = (f"torch=={TORCH}", "numpy", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "litserve")
PEERS = Path(__file__).with_name("peers")
WIDTH, HIDDEN, LATENT = 784, 512, 16
CONNECTIONS = (1, 16, 64)
MANY, BINARY = 256, 4096
SPEC = {
    "model": {"family": "autoencoder", "settings": {"latent": LATENT}},
    "network": {"hidden": [HIDDEN], "activation": "relu"},
    "likelihood": "gaussian", "scaling": "none",
    "training": {"epochs": 1, "device": "cpu"},
}
JSON, NPY = "application/json", "application/x-npy"
OURS, ORDINARY, TUNED, RAW, LIT = "latente", "FastAPI, ordinary", "FastAPI, tuned", "FastAPI, raw bytes", "LitServe"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each figure is measured (3)")
    arguments.add_argument("--seconds", type=float, default=4, help="how long each time (4)")
    arguments.add_argument("--only", choices=("json", "rows", "binary"), help="one part; BENCHMARKS.md stays as it is")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    if not shutil.which("wrk"):
        harness.fail("wrk is missing (Debian: apt-get install wrk)")
    python = harness.python_with(*PACKAGES)
    machine = harness.Machine()
    machine.look()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        directory = Path(directory)
        sides = start(options, python, directory, running)
        compare(sides)
        rig = Rig(options, machine, sides, directory)
        parts = {"json": single_rows, "rows": many_rows, "binary": lambda rig: binary(rig, python)}
        text = []
        for name, part in parts.items():
            if options.only in (None, name):
                text += [*part(rig), ""]
    versions = ", ".join(f"{name} {harness.version(python, name)}" for name in ("torch", "fastapi", "uvicorn", "litserve"))
    text = [f"{version}; {versions}. {machine.sentence()}", "",
            f"An encoder {WIDTH}-{HIDDEN}-{LATENT} with ReLU, the same numbers behind every side, whose answers agree. wrk, with one thread of "
            f"its own on the same {CORES} cores, asks each side in turns, {options.rounds} times for {options.seconds:g} s; figures are "
            "medians, and the other sides are stopped meanwhile. FastAPI runs in one process of uvicorn with uvloop and httptools: ordinary "
            "is a plain handler with a pydantic body; tuned is an asynchronous one that parses with orjson and does not validate. LitServe "
            "gathers up to 64 requests within 2 ms. latente checks every body against the model's columns.", "", *text[:-1]]
    say("\n".join(text))
    if not options.dry and options.only is None:
        harness.write_section("serve", text)


class Side:
    """A server that is stopped but for its turns."""

    def __init__(self, name, process, base, encode, raw=None):
        self.name, self.process, self.base, self.encode, self.raw = name, process, base, encode, raw

    def post(self, path, body, kind):
        request = urllib.request.Request(self.base + path, body, {"Content-Type": kind, "Accept": kind})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    @contextlib.contextmanager
    def turn(self):
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


def start(options, python, directory, running):
    """Trains the network and starts every side with it; all are stopped then."""
    data = directory / "rows.npy"
    data.write_bytes(npy(2000, 1))
    first = running.enter_context(server([options.latente, "serve", "--listen", "127.0.0.1:0", "--data", directory / "data"]))
    base = first.stdout.readline().strip()[len("listening on "):]
    with_demo = harness.Server(harness_client(base))
    dataset = with_demo.upload(data, "name=rows")
    _, model = with_demo.train(dataset, SPEC)
    file = directory / "model.safetensors"
    file.write_bytes(urllib.request.urlopen(f"{base}{model}/artifacts/safetensors").read())
    sides = [Side(OURS, first, base, f"{model}/encode", f"{model}/encode")]
    environment = {**ENVIRONMENT, "MODEL": str(file), "PYTHONPATH": str(PEERS)}
    # Whoever tunes gives small products one thread; large ones have all.
    for name, module, threads in ((ORDINARY, "ordinary", CORES), (TUNED, "tuned", 1), (RAW, "tuned", CORES)):
        port = free_port()
        command = [python, "-m", "uvicorn", f"{module}:app", "--port", port, "--log-level", "warning", "--no-access-log",
                   "--loop", "uvloop", "--http", "httptools"]
        process = running.enter_context(server(command, {**environment, "THREADS": str(threads)}))
        sides.append(Side(name, process, f"http://127.0.0.1:{port}", "/encode", "/raw" if name == RAW else None))
    port = free_port()
    process = running.enter_context(server([python, PEERS / "lit.py", port], {**environment, "THREADS": str(CORES)}))
    sides.append(Side(LIT, process, f"http://127.0.0.1:{port}", "/encode"))
    for side in sides:
        await_answer(side)
        os.killpg(side.process.pid, signal.SIGSTOP)
    return sides


def harness_client(base):
    sys.path.insert(0, str(harness.ROOT / "scripts"))
    from demo import Client
    return Client(base)


@contextlib.contextmanager
def server(command, environment=ENVIRONMENT):
    """A process with a group of its own, which ends with all that it started."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], env=environment, stdout=subprocess.PIPE, stderr=log,
                                   text=True, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def await_answer(side):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if side.process.poll() is not None:
            harness.fail(f"{side.name} ended by itself")
        try:
            return side.post(side.encode, rows_as_json(1, 1), JSON)
        except OSError:
            time.sleep(0.2)
    harness.fail(f"{side.name} does not answer")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def floats(count, seed):
    draw = random.Random(seed).random
    return array.array("f", (draw() for _ in range(count * WIDTH)))


def rows_as_json(count, seed):
    """Rows as programs send them: 32-bit floats in as many digits as they need."""
    values = floats(count, seed)
    rows = [[float(f"{value:.8g}") for value in values[at:at + WIDTH]] for at in range(0, len(values), WIDTH)]
    return json.dumps({"rows": rows}).encode()


def npy(count, seed):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {WIDTH}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + floats(count, seed).tobytes()


def compare(sides):
    """Fails unless all sides give the same codes."""
    answers = {}
    for side in sides:
        with side.turn():
            answers[side.name] = json.loads(side.post(side.encode, rows_as_json(1, 7), JSON))["codes"][0]
    ours = answers[OURS]
    for name, codes in answers.items():
        if any(abs(one - other) > 1e-4 * max(1, abs(one)) for one, other in zip(ours, codes)) or len(codes) != LATENT:
            harness.fail(f"{name} gives other codes than latente: {codes} and {ours}")
    say("all sides give the same codes")


class Rig:
    """Asks sides in turns."""

    def __init__(self, options, machine, sides, directory):
        self.options, self.machine, self.sides, self.directory = options, machine, sides, directory

    def measure(self, what, connections, body, kind, sides, path=lambda side: side.encode):
        """Figures of each side, of all rounds."""
        file = self.directory / "body"
        file.write_bytes(body)
        figures = {side.name: [] for side in sides}
        self.machine.look()
        for number in range(self.options.rounds):
            for side in (sides if number % 2 == 0 else sides[::-1]):
                with side.turn():
                    wrk(side.base + path(side), connections, 0.5, file, kind(side))
                    told = wrk(side.base + path(side), connections, self.options.seconds, file, kind(side))
                if told["refused"] or told["broken"]:
                    harness.fail(f"{side.name} refused {told['refused']} and broke {told['broken']} of {told['requests']} requests")
                figures[side.name].append(told)
                say(f"{what}, {connections} connections, round {number + 1}  {side.name:<20} {told['requests'] / told['seconds']:9,.0f}/s  "
                    f"p50 {told['p50_us'] / 1000:8.2f} ms  p99 {told['p99_us'] / 1000:8.2f} ms")
        return {name: Figures(told) for name, told in figures.items()}


class Figures:
    def __init__(self, told):
        rates = [one["requests"] / one["seconds"] for one in told]
        self.rate, self.lowest, self.highest = statistics.median(rates), min(rates), max(rates)
        self.p50 = statistics.median(one["p50_us"] for one in told) / 1000
        self.p99 = statistics.median(one["p99_us"] for one in told) / 1000


def wrk(address, connections, seconds, body, kind):
    # wrk counts whole seconds; a fraction is a warm-up.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", PEERS / "post.lua", address]
    out, _ = harness_run(command, {"BODY": str(body), "TYPE": kind})
    return json.loads(out.strip().splitlines()[-1])


def harness_run(command, more):
    done = subprocess.run([str(word) for word in command], env={**ENVIRONMENT, **more}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        harness.fail(f"{command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout, done.stderr


def single_rows(rig):
    lines = [["connections", "", "answers/s, median", "lowest to highest", "latente is", "p50", "p99"]]
    verdicts = []
    for connections in CONNECTIONS:
        figures = rig.measure("a row of JSON", connections, rows_as_json(1, 1), lambda _: JSON,
                              [side for side in rig.sides if side.name != RAW])
        lines += rows_of(str(connections), figures, lambda one: one.rate)
        ours = figures[OURS]
        if connections == 1:
            verdicts.append(verdict(f"p50 at one connection under 1 ms ({ours.p50:.2f} ms)", ours.p50 < 1))
            continue
        for name, times in ((ORDINARY, 10), (TUNED, 5)):
            ratio = ours.rate / figures[name].rate
            verdicts.append(verdict(f"{times} times {name} at {connections} ({ratio:.1f})", ratio >= times))
        verdicts.append(verdict(f"lowest p99 at {connections}", ours.p99 <= min(one.p99 for one in figures.values())))
    return ["**One row of JSON a request.**", "", *harness.table(lines), "", "; ".join(verdicts) + "."]


def many_rows(rig):
    sides = [side for side in rig.sides if side.name in (OURS, ORDINARY, TUNED)]
    figures = rig.measure(f"{MANY} rows of JSON", 4, rows_as_json(MANY, 2), lambda _: JSON, sides)
    lines = [["", "rows/s, median", "lowest to highest", "latente is", "p50", "p99"]]
    lines += rows_of(None, figures, lambda one: one.rate * MANY, MANY)
    ratio = figures[OURS].rate / figures[ORDINARY].rate
    return [f"**{MANY} rows of JSON a request**, 4 connections.", "", *harness.table(lines), "",
            verdict(f"10 times {ORDINARY} ({ratio:.1f})", ratio >= 10) + "."]


def binary(rig, python):
    sides = [side for side in rig.sides if side.raw]
    plain, framed = floats(BINARY, 3).tobytes(), npy(BINARY, 3)
    bare = []
    for number in range(rig.options.rounds):
        bare.append(float(harness.run([python, PEERS / "bare.py", rig.directory / "model.safetensors", CORES, rig.options.seconds])[0]))
        say(f"the bare network, round {number + 1}: {bare[-1]:,.0f} rows/s")
    figures = {}
    for side, body, kind in ((sides[0], framed, NPY), (sides[1], plain, "application/octet-stream")):
        figures |= rig.measure(f"{BINARY} binary rows", 4, body, lambda _, kind=kind: kind, [side], lambda side: side.raw)
    lines = [["", "rows/s, median", "lowest to highest", "latente is", "p50", "p99"]]
    lines += rows_of(None, figures, lambda one: one.rate * BINARY, BINARY)
    ours, middle = figures[OURS].rate * BINARY, statistics.median(bare)
    lines.append([f"torch {TORCH}, no server", f"{middle:,.0f}", f"{min(bare):,.0f} to {max(bare):,.0f}", f"{ours / middle:.2f} times as fast", "", ""])
    return [f"**{BINARY:,} rows of 32-bit floats a request**, 4 connections: NPY to latente, plain bytes to FastAPI, and the network by itself in "
            f"a loop on {CORES} threads.", "", *harness.table(lines), "",
            verdict(f"60 % of the bare network ({ours / middle:.0%})", ours >= 0.6 * middle) + "; "
            + verdict("more than FastAPI", ours > figures[RAW].rate * BINARY) + "."]


def rows_of(first, figures, rate, each=1):
    ours = rate(figures[OURS])
    for name, one in figures.items():
        ratio = "" if name == OURS else f"{ours / rate(one):.1f} times as fast"
        cells = [name, f"{rate(one):,.0f}", f"{one.lowest * each:,.0f} to {one.highest * each:,.0f}", ratio, f"{one.p50:.2f} ms", f"{one.p99:.2f} ms"]
        yield cells if first is None else [first, *cells]


def verdict(what, reached):
    return f"{what}: {'reached' if reached else 'missed'}"


if __name__ == "__main__":
    main()
