#!/usr/bin/env python3
"""Training speed beside PyTorch, scikit-learn and the machine's own limit, job by job; written into BENCHMARKS.md.

Latente runs as whole processes of a short and of a long training; its rate is the difference of the rows divided by the
difference of the times, so that start, reading and the final evaluation cancel out. The peers tell the time of their epochs by
their own clock, their first epoch left out. All sides in turns, so that a busy minute meets all of them.

    python3 bench/speed.py                 as `make bench` does
    python3 bench/speed.py digits conv     only these jobs; nothing is written
    python3 bench/speed.py --anyway        measure although the machine does other work, too
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import harness
import mnist
from harness import CORES, say

TORCH = "2.11.0"
ROUNDS = 3
QUIET_SECONDS = 60
SWEEP_JOBS, SWEEP_EPOCHS = 16, 100


def jobs(images, digits):
    """Each job: what it is called, latente's spec, what a peer is told, short and long epochs, and what is wanted of the ratios."""
    mlp = {"network": "mlp", "data": str(images), "scale": 255, "lr": 1e-3, "loss": "bernoulli", "threads": CORES}
    small = {**mlp, "data": str(digits), "scale": 16, "columns": 64, "loss": "gaussian"}
    shape = ["--shape", "28x28", "--threads", str(CORES)]
    spec = {"likelihood": "bernoulli", "scaling": "minmax", "split": {"validation": 0.0}}
    net = {"activation": "relu"}

    def training(batch, **more):
        return {"batch_size": batch, "optimizer": {"kind": "adam", "lr": 1e-3}, "device": "cpu", **more}

    wide = {"model": {"family": "autoencoder", "settings": {"latent": 16}}, "network": {"hidden": [512], **net}, **spec}
    return {
        "mnist": {
            "what": "784-512-16-512-784, batch 100, Adam, f32, MNIST",
            "spec": {**wide, "training": training(100)},
            "half": {**wide, "training": training(100, precision="bf16")},
            "file": images, "arguments": shape, "rows": 60_000, "epochs": (1, 7),
            "peer": {**mlp, "hidden": [512], "latent": 16, "batch": 100},
            "beside": [("eager", "eager with DataLoader", 2.0), ("products", "its matrix products alone", 0.75)],
        },
        "vae": {
            "what": "VAE 784-512-256-(16), batch 128, MNIST",
            "spec": {**spec, "model": {"family": "vae", "settings": {"latent": 16}}, "network": {"hidden": [512, 256], **net}, "training": training(128)},
            "file": images, "arguments": shape, "rows": 60_000, "epochs": (1, 5),
            "peer": {**mlp, "network": "vae", "hidden": [512, 256], "latent": 16, "batch": 128},
            "beside": [("eager", "eager with DataLoader", 2.0)],
        },
        "digits": {
            "what": "64-32-8-32-64, batch 64, digits",
            "spec": {**spec, "likelihood": "gaussian", "model": {"family": "autoencoder", "settings": {"latent": 8}}, "network": {"hidden": [32], **net},
                     "training": training(64)},
            "file": digits, "arguments": ["--shape", "8x8", "--ignore", "c64", "--threads", str(CORES)], "rows": 1797, "epochs": (50, 1050),
            "peer": {**small, "hidden": [32], "latent": 8, "batch": 64}, "peer_epochs": 60,
            "beside": [("eager", "eager with DataLoader", 4.0), ("sklearn", "scikit-learn's MLPRegressor", 1.5)],
        },
        "conv": {
            "what": "conv 28 x 28, channels 32 and 64, latent 16, batch 128, the first 10,000 of MNIST",
            "spec": {**spec, "model": {"family": "autoencoder", "settings": {"latent": 16}}, "network": {"kind": "conv", "hidden": [], **net},
                     "training": training(128)},
            "file": "some", "arguments": shape, "rows": 10_000, "epochs": (1, 7),
            "peer": {**mlp, "network": "conv", "hidden": [], "latent": 16, "batch": 128, "rows": 10_000},
            "beside": [("eager", "eager with DataLoader", 1.3)],
        },
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", help="jobs; all when none is named")
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each speed is measured ({ROUNDS})")
    arguments.add_argument("--anyway", action="store_true", help="measure even while other work disturbs it")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with(f"torch=={TORCH}", "numpy", "scikit-learn")
    images, content = mnist.training_images()
    machine = harness.Machine()

    def look():
        if not machine.look(attempts=1 if options.anyway else QUIET_SECONDS) and not options.anyway:
            harness.fail("other work keeps this machine busy; nothing was written. Run this again when it is quiet, or with --anyway")

    with tempfile.TemporaryDirectory() as directory:
        digits, some = Path(directory) / "digits.npy", Path(directory) / "some.npy"
        harness.run([python, "-c", PREPARE, harness.ROOT / "demo" / "digits.csv.gz", digits, images, some])
        rows = [["job", "beside", "latente", "the other", "ratio, median", "lowest to highest", "wanted", "verdict", "losses"]]
        for name, job in jobs(images, digits).items():
            if options.names and name not in options.names:
                continue
            job["file"] = some if job["file"] == "some" else job["file"]
            rows += compare(name, job, options, python, look)
        if not options.names or "sweep" in options.names:
            rows += sweep(options, python, digits, look)
    lines = [
        machine.sentence(), "",
        f"{version} beside PyTorch {TORCH} and scikit-learn, {CORES} threads, 32-bit floats on the CPU; {content}. Rows per second of "
        "training. Latente's are the difference of whole processes of a long and a short run, a checkpoint an epoch included; the others' "
        "by their own clock, their first epoch left out. Losses are in nats per row over the training rows "
        "(a gaussian's without its constant); first weights and shuffles differ. `make bench`", "",
        *harness.table(rows),
    ]
    say("\n".join(lines))
    if not options.names:
        harness.write_section("speed", lines)


PREPARE = """
import gzip, sys, numpy
rows = numpy.loadtxt(gzip.open(sys.argv[1]), delimiter=",", skiprows=1)
numpy.save(sys.argv[2], rows.astype(numpy.float32))
numpy.save(sys.argv[4], numpy.load(sys.argv[3])[:10000])
"""


def compare(name, job, options, python, look):
    sides = {"latente": lambda: latente(options.latente, job, job["spec"])}
    if "half" in job:
        sides["bf16"] = lambda: latente(options.latente, job, job["half"])
    for peer, _, _ in job["beside"]:
        sides[peer] = lambda peer=peer: other(python, peer, job)
    speeds, losses = {side: [] for side in sides}, {}
    for number in range(options.rounds):
        for side, run in list(sides.items())[:: -1 if number % 2 else 1]:
            look()
            speed, losses[side] = run()
            speeds[side].append(speed)
            say(f"{name}, round {number + 1}  {side:<10} {speed:>10,.0f} rows/s" + ("" if losses[side] is None else f", loss {losses[side]:.3f}"))
    long = job["epochs"][1]
    rows = [row(job["what"], beside, speeds["latente"], speeds[peer], wanted, (losses["latente"], long), (losses[peer], peer_epochs(job)))
            for peer, beside, wanted in job["beside"]]
    if "half" in job:
        rows.append(row("the same in bf16", "latente in f32", speeds["bf16"], speeds["latente"], 1.6, (losses["bf16"], long), (losses["latente"], long)))
    return rows


def row(what, beside, own, others, wanted, loss, other_loss):
    ratios = sorted(one / other for one, other in zip(own, others))
    middle = statistics.median(ratios)
    verdict = "reached" if middle >= wanted else "missed"
    losses = "" if other_loss[0] is None else f"{loss[0]:.2f} after {loss[1]} epochs, {other_loss[0]:.2f} after {other_loss[1]}"
    return [what, beside, f"{statistics.median(own):,.0f}", f"{statistics.median(others):,.0f}", f"{middle:.2f}",
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}", f"{wanted:g}", verdict, losses]


def latente(program, job, spec):
    """Rows per second, and the loss at the end."""
    short, long = job["epochs"]
    seconds = {}
    for epochs in (short, long):
        one = {**spec, "training": {**spec["training"], "epochs": epochs}}
        metrics, seconds[epochs] = harness.train(program, job["file"], one, job["arguments"])
    loss = metrics["train/loss"]
    if spec["likelihood"] == "gaussian":
        loss -= 64 * 0.9189385332046727
    return (long - short) * job["rows"] / max(seconds[long] - seconds[short], 1e-9), loss


def other(python, peer, job):
    epochs = peer_epochs(job)
    told = {**job["peer"], "peer": peer, "epochs": epochs}
    out, _ = harness.run([python, Path(__file__).with_name("pytorch_jobs.py"), json.dumps(told)])
    said = json.loads(out)
    return job["rows"] / statistics.median(said["epoch_seconds"][1:]), said["loss"]


def peer_epochs(job):
    """As many as latente's long run has, but where that would take long."""
    return job.get("peer_epochs", job["epochs"][1])


def sweep(options, python, digits, look):
    """Sixteen small jobs over HTTP, from the first request to the last model, beside as many in one PyTorch process."""
    rates = [1e-4 * 10 ** (place / 8) for place in range(SWEEP_JOBS)]
    own, others, joint = [], [], []
    for number in range(options.rounds):
        look()
        with harness.server(options.latente) as server:
            dataset = server.upload(digits, "shape=8x8&ignore=c64")
            start = time.perf_counter()
            asked = server.client.post("/v1/sweeps", {
                "base": {"dataset": dataset, "model": {"family": "autoencoder", "settings": {"latent": 8}}, "network": {"hidden": [32]},
                         "likelihood": "gaussian", "scaling": "minmax", "split": {"validation": 0.0},
                         "training": {"epochs": SWEEP_EPOCHS, "batch_size": 64, "device": "cpu"}},
                "search": {"kind": "grid"}, "space": {"/training/optimizer/lr": {"values": rates}},
                "metric": "train/loss", "parallel": CORES,
            })
            while asked["status"] in ("queued", "running"):
                time.sleep(0.05)
                asked = server.client.get(f"/v1/sweeps/{asked['id']}")
            own.append(SWEEP_JOBS / (time.perf_counter() - start))
            if asked["status"] != "succeeded":
                harness.fail(f"the sweep {asked['status']}")
        look()
        told = {"peer": "eager", "network": "mlp", "data": str(digits), "scale": 16, "columns": 64, "epochs": SWEEP_EPOCHS, "batch": 64,
                "lr": 1e-3, "rates": rates, "hidden": [32], "latent": 8, "threads": CORES, "loss": "gaussian"}
        for peer, speeds in (("eager", others), ("together", joint)):
            look()
            out, seconds = harness.run([python, Path(__file__).with_name("pytorch_jobs.py"), json.dumps({**told, "peer": peer})])
            # One pass for all is measured by its own clock: only how fast it trains is of interest.
            speeds.append(SWEEP_JOBS / (seconds if peer == "eager" else sum(json.loads(out)["epoch_seconds"])))
        say(f"sweep, round {number + 1}  {own[-1]:.2f} jobs/s beside {others[-1]:.2f}, and {joint[-1]:.2f} of one pass for all")

    def beside(what, speeds, wanted):
        ratios = sorted(one / other for one, other in zip(own, speeds))
        middle = statistics.median(ratios)
        reached = "" if wanted is None else "reached" if middle >= wanted else "missed"
        return [f"{SWEEP_JOBS} small jobs of a sweep (digits, {SWEEP_EPOCHS} epochs each), over HTTP", what,
                f"{statistics.median(own):.2f} jobs/s", f"{statistics.median(speeds):.2f} jobs/s", f"{middle:.2f}",
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}", str(wanted or ""), reached, ""]

    return [beside("the same one after the other in one eager process", others, 6),
            beside("the same in one pass, weights stacked, in one process of PyTorch (`together`)", joint, None)]


if __name__ == "__main__":
    sys.exit(main())
