#!/usr/bin/env python3
"""Trainers that are killed and paused at random instants end with the bytes of one that was not; written into BENCHMARKS.md.

For every preset, and with one family for every optimizer and schedule: a job runs undisturbed. Then the same job runs while its
trainer is killed by SIGKILL at random instants, from its start to the writing of the model, and once more while it is paused and
resumed. Model file, figures and curves must be equal. Instants come from a seed, which is printed with what went wrong.

    python3 bench/resume.py                          as `make resume` does
    python3 bench/resume.py --dry                    print only; leave BENCHMARKS.md alone
    python3 bench/resume.py vae-tables 'adam*'       only these; nothing is written
    python3 bench/resume.py --kills 5 --seed 7
"""

import argparse
import contextlib
import fnmatch
import os
import queue
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import serve
from harness import ENVIRONMENT, say

ENDED = ("succeeded", "failed", "cancelled")
# Two in a row may meet a trainer before its first checkpoint; a third would end the job, as it should.
UNLUCKY = 2

OPTIMIZERS = {
    "sgd": {"kind": "sgd"}, "sgd, momentum": {"kind": "sgd", "momentum": 0.9},
    "sgd, Nesterov": {"kind": "sgd", "momentum": 0.9, "nesterov": True},
    "adam": {"kind": "adam"}, "adamw": {"kind": "adamw"}, "rmsprop": {"kind": "rmsprop"}, "lion": {"kind": "lion"},
}
SCHEDULES = {
    "constant, warmup": {"schedule": "constant", "warmup": {"epochs": 1.5}}, "step": {"schedule": {"kind": "step", "every_epochs": 2}},
    "cosine": {"schedule": "cosine"}, "one_cycle": {"schedule": "one_cycle"},
    "reduce_on_plateau": {"schedule": {"kind": "reduce_on_plateau", "patience": 0}},
}
SMALL = {"model": {"family": "vae", "settings": {"latent": 4}}, "network": {"hidden": [32]}}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", help="only these, with `*` and `?`; all when none is named")
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--kills", type=int, default=20, help="instants at which a trainer is killed, of each job (20)")
    arguments.add_argument("--pauses", type=int, default=4, help="instants at which it is paused (4)")
    arguments.add_argument("--seconds", type=float, default=2.5, help="how long a job trains, about (2.5)")
    arguments.add_argument("--seed", type=int, default=1, help="of the instants (1)")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    machine = harness.Machine()
    machine.look()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        # One worker each, so that it is clear whose trainer is whose.
        free = queue.SimpleQueue()
        for number in range(2):
            command = [options.latente, "serve", "--listen", "127.0.0.1:0", "--data", Path(directory) / str(number), "--workers", 1, "--threads", 1]
            process = running.enter_context(serve.server(command, {**ENVIRONMENT, "LATENTE_LOG": "error"}))
            client = serve.harness_client(process.stdout.readline().strip()[len("listening on "):])
            dataset = harness.Server(client).upload(harness.ROOT / "demo" / "digits.csv.gz", "name=digits&shape=8x8&label=digit")
            free.put((process.pid, client, dataset))

        def run(trial):
            server = free.get()
            try:
                return Trial(*server, *trial, options).run()
            finally:
                free.put(server)

        trials = [(name, spec) for name, spec in specs(client) if not options.names or any(fnmatch.fnmatch(name, wanted) for wanted in options.names)]
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(run, trials))
    rows = [["what", "epochs", "killed", "paused", "processes in all", "model, figures, curves"], *(row for row, _ in results)]
    faults = [fault for _, faults in results for fault in faults]
    text = [f"{version}. {machine.sentence()}", "",
            f"Digits; jobs of about {options.seconds:g} s. Each trainer is killed by SIGKILL at {options.kills} instants and paused at {options.pauses}, at random by "
            f"the seed {options.seed}; what was cut off goes on from its last checkpoint. Compared with a job that nothing happened to, byte for byte. `make resume`", "",
            *harness.table(rows), "", f"{len(results)} kinds of jobs, {len(faults)} differences: {'missed' if faults else 'reached'}."]
    say("\n".join([*text, *faults]))
    if not options.dry and not options.names:
        harness.write_section("resume", text)
    return 1 if faults else 0


def specs(client):
    for preset in client.get("/v1/presets")["data"]:
        yield preset["name"], preset["spec"]
    for name, optimizer in OPTIMIZERS.items():
        yield f"optimizer {name}", {**SMALL, "training": {"optimizer": optimizer}}
    for name, optimizer in SCHEDULES.items():
        yield f"schedule {name}", {**SMALL, "training": {"optimizer": optimizer}}
    more = {"ema": 0.99, "accumulate": 2, "clip_norm": 1.0, "weight_l2": 1e-4, "batch_size": 32}
    yield "average, accumulation, clipping, penalty", {**SMALL, "training": more}


class Trial:
    def __init__(self, server, client, dataset, name, spec, options):
        self.server, self.client, self.name, self.options = server, client, name, options
        self.random = random.Random(f"{options.seed} {name}")
        training = {"seed": 3, **spec.get("training", {}), "device": "cpu", "early_stopping": {"patience": 0}}
        self.spec = {**spec, "dataset": dataset, "training": training}
        self.faults, self.instants, self.killed = [], [], None

    def run(self):
        self.spec["training"]["epochs"] = 3
        job, _ = self.end(self.ask())
        each = max(harness.training_seconds(job) / 3, 1e-4)
        self.spec["training"]["epochs"] = epochs = max(3, min(5000, round(self.options.seconds / each)))
        job, wanted = self.end(self.ask())
        self.length = job["runtime_seconds"]
        kills, pauses, attempts = 0, 0, 0
        while kills < self.options.kills:
            done, job = self.disturbed(self.kill, self.options.kills - kills, wanted)
            kills, attempts = kills + done, attempts + job["attempt"]
        while pauses < self.options.pauses:
            done, job = self.disturbed(self.pause, self.options.pauses - pauses, wanted)
            pauses, attempts = pauses + done, attempts + job["attempt"]
        verdict = "equal" if not self.faults else "differ"
        say(f"{self.name}: {epochs} epochs, killed {kills} times, paused {pauses} times, {attempts} processes: {verdict}")
        return [self.name, epochs, kills, pauses, attempts, verdict], self.faults

    def ask(self):
        return self.client.post("/v1/jobs", self.spec)["id"]

    def view(self, job):
        return self.client.get(f"/v1/jobs/{job}")

    def end(self, job):
        """The job once it has ended, and all that must be equal."""
        view = self.view(job)
        while view["status"] not in ENDED:
            view = self.client.get(f"/v1/jobs/{job}?wait=60s")
        if view["status"] != "succeeded":
            return view, {"status": view["status"], "error": view["error"]}
        model = self.client.fetch(f"/v1/models/{view['model_id']}/artifacts/safetensors")
        series = self.client.get(f"/v1/jobs/{job}/metrics?max_points=10000")["series"]
        return view, {"model": model, "figures": view["metrics"], "curves": series, "stop_reason": view["stop_reason"]}

    def disturbed(self, how, most, wanted):
        """A job that is disturbed so often, unless it ends before; how often it was, and the job."""
        job, self.instants = self.ask(), []
        done, unlucky, place = 0, 0, self.place(job)
        while done < most:
            if self.place(job) != place:
                # It came before the last kill or after it.
                unlucky, place = min(unlucky, 1), self.place(job)
            if unlucky >= UNLUCKY:
                if not self.until(job, lambda place=place: self.place(job) != place):
                    break
                unlucky, place = 0, self.place(job)
            if not how(job, self.random.uniform(0, self.length / 6)):
                break
            done, unlucky = done + 1, unlucky + 1
        view, found = self.end(job)
        for what, value in wanted.items():
            if found.get(what) != value:
                detail = found.get("error") or f"{what} {'differs' if what in found else 'is missing'}"
                self.faults.append(f"{self.name}: {how.__name__}, seed {self.options.seed}, job {job}: {detail}; "
                                   f"instants {', '.join(f'{instant:.4f}' for instant in self.instants)} s after each start")
        # A job that ended before anything happened to it is no reason to go on for ever.
        return max(done, 1), view

    def kill(self, job, after):
        found = []

        def started():
            found[:] = [child for template in children(self.server) for child in children(template) if child != self.killed]
            return found

        if not self.until(job, started):
            return False
        attempt = self.view(job)["attempt"]
        time.sleep(after)
        self.instants.append(after)
        try:
            os.kill(found[0], signal.SIGKILL)
        except ProcessLookupError:
            return False  # It had ended.
        self.killed = found[0]

        def is_recorded():
            view = self.view(job)
            return view["status"] != "running" or view["attempt"] != attempt

        # A checkpoint that was on its way is recorded before that.
        self.until(job, is_recorded)
        return True

    def pause(self, job, after):
        if not self.until(job, lambda: self.view(job)["status"] == "running"):
            return False
        time.sleep(after)
        self.instants.append(after)
        try:
            self.client.post(f"/v1/jobs/{job}/pause", {})
        except SystemExit:
            return False  # It had ended.
        if not self.until(job, lambda: self.view(job)["status"] == "paused"):
            return False
        self.client.post(f"/v1/jobs/{job}/resume", {})
        return True

    def place(self, job):
        """The last checkpoint."""
        kept = self.client.get(f"/v1/jobs/{job}/checkpoints")["data"]
        return (kept[0]["epoch"], kept[0]["step"]) if kept else None

    def until(self, job, happened):
        """Waits for something; false when the job ends before."""
        while not happened():
            if self.view(job)["status"] in ENDED:
                return False
            time.sleep(0.01)
        return True


def children(parent):
    """Processes that it started and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of = path.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # It ended while it was looked at.
        if int(of) == parent and state != "Z":
            found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
