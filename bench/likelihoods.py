#!/usr/bin/env python3
"""log p(x) of models as the server tells it, beside an estimate of PyTorch's own; written into BENCHMARKS.md.

A server of its own trains models that have a density. Their weights are then read by `densities.py` out of the model file into
PyTorch, in 64 bits and with draws of its own, and log p(x) of the same rows is estimated anew. Ends with 1 where the two are
further apart than their standard errors allow.

    python3 bench/likelihoods.py            as `make likelihoods` does
    python3 bench/likelihoods.py --dry      print only; leave BENCHMARKS.md alone
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import harness
from harness import ROOT, say

ROWS, DRAWS = 200, 2000
LAYERS = {"network": {"hidden": [64, 32], "activation": "tanh"}}
MODELS = {
    "vae, bernoulli": {"model": {"family": "vae", "settings": {"latent": 6}}, "likelihood": "bernoulli", "scaling": "minmax", **LAYERS},
    "vae, gaussian with a learned variance": {"model": {"family": "vae", "settings": {"latent": 6}}, "likelihood":
                                              {"kind": "gaussian", "variance": "shared"}, "scaling": "standard", **LAYERS},
    "vae with 5 samples, bernoulli": {"model": {"family": "vae", "settings": {"latent": 6, "samples": 5}}, "likelihood": "bernoulli",
                                      "scaling": "minmax", **LAYERS},
    "helmholtz, layers of 24 and 12": {"model": {"family": "helmholtz", "settings": {"layers": [24], "latent": 12}},
                                       "likelihood": "bernoulli", "scaling": "minmax", **LAYERS},
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with("torch==2.11.0", "safetensors", "numpy")
    machine = harness.Machine()
    machine.look()
    rows = [["model", "latente, nats a row", "PyTorch", "difference of the means", "of single rows within two standard errors",
             "effective samples, median", "verdict"]]
    missed = []
    with tempfile.TemporaryDirectory() as directory, harness.server(options.latente) as server:
        dataset = server.upload(ROOT / "demo" / "digits.csv.gz", "name=digits&label=digit")
        given = Path(directory) / "rows.npy"
        given.write_bytes(server.bytes(f"/v1/datasets/{dataset}/rows?limit={ROWS}"))
        for name, spec in MODELS.items():
            _, model = server.train(dataset, {**spec, "training": {"epochs": 60}})
            file = Path(directory) / "model.safetensors"
            file.write_bytes(server.client.fetch(f"{model}/artifacts/safetensors"))
            ours = server.client.get(f"{model}/score?dataset={dataset}&rows=0-{ROWS - 1}&measure=log_likelihood&samples={DRAWS}")["scores"]
            out, _ = harness.run([python, ROOT / "bench" / "densities.py", file, given, str(DRAWS)])
            theirs = json.loads(out.splitlines()[-1])
            row, reached = compared(name, ours, theirs)
            rows.append(row)
            missed += [] if reached else [name]
            say(f"compared {name}")
    text = [f"{version}; PyTorch {harness.version(python, 'torch')}. {machine.sentence()}", "",
            f"log p(x) of the first {ROWS} digits under models that were trained on digits, by {DRAWS:,} importance samples a row. latente's "
            f"is what `/score` answers; PyTorch's is worked out from the weights of the model file by other code, in 64-bit floats and with "
            f"draws of its own. Reached means that the means differ by at most two standard errors of their difference, and that of single "
            f"rows at least nine in ten do, of which 95 in a hundred would if errors were normal and well known.", "",
            *harness.table(rows)]
    say("\n".join(text))
    if not options.dry:
        harness.write_section("likelihoods", text)
    if missed:
        sys.exit("further apart than their standard errors allow: " + "; ".join(missed))


def compared(name, ours, theirs):
    mine = [score["log_likelihood"] for score in ours]
    errors = [math.hypot(score["standard_error"], error) for score, error in zip(ours, theirs["standard_error"])]
    apart = [a - b for a, b in zip(mine, theirs["log_likelihood"])]
    mean, error = statistics.mean(apart), math.sqrt(sum(error**2 for error in errors)) / len(errors)
    within = sum(abs(one) <= 2 * error for one, error in zip(apart, errors)) / len(apart)
    reached = abs(mean) <= 2 * error and within >= 0.9
    effective = statistics.median(score["effective_samples"] for score in ours)
    return [name, f"{statistics.mean(mine):.3f}", f"{statistics.mean(theirs['log_likelihood']):.3f}", f"{mean:+.4f} ± {error:.4f}",
            f"{within:.1%}", f"{effective:,.0f}", "reached" if reached else "missed"], reached


if __name__ == "__main__":
    main()
