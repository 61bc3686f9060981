#!/usr/bin/env python3
"""The main job on real data, over HTTP and with nothing but Python's standard library.

Starts a server on a temporary directory, uploads 1,797 handwritten digits, trains a variational autoencoder on them while
showing how far it is, then encodes, decodes, reconstructs and samples. Pictures go to demo-output/. Everything here is what
a program of your own would do.

    python3 scripts/demo.py [--epochs 150] [--latent 8] [--server http://127.0.0.1:8080]
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LATENTE = ROOT / "target" / "release" / "latente"
DIGITS = ROOT / "demo" / "digits.csv.gz"
OUTPUT = ROOT / "demo-output"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--epochs", type=int, default=150)
    arguments.add_argument("--latent", type=int, default=8)
    arguments.add_argument("--server", help="use a server that runs already")
    options = arguments.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    if options.server:
        walk(Client(options.server), options)
        return
    with tempfile.TemporaryDirectory(prefix="latente-demo-") as directory, serving(LATENTE, Path(directory)) as base:
        walk(Client(base), options)
    print("\nThis server and its data are gone now. To keep one running:  make serve")
    print("It listens on http://127.0.0.1:8080 with its data in latente-data/; http://127.0.0.1:8080/docs lists every address.")


@contextlib.contextmanager
def serving(latente, directory):
    """A server of its own on a directory; gives its address, and stops it in the end."""
    if not latente.exists():
        sys.exit(f"{latente} is missing: run `make build` first")
    log = open(directory / "server.log", "w+")
    server = subprocess.Popen(
        [str(latente), "serve", "--listen", "127.0.0.1:0", "--data", str(directory / "data")],
        stdout=subprocess.PIPE, stderr=log, text=True,
    )
    try:
        first = server.stdout.readline().strip()
        if not first.startswith("listening on "):
            server.wait(10)
            log.seek(0)
            sys.exit(f"the server did not start:\n{log.read()}")
        yield first[len("listening on "):]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(15)


def walk(client, options):
    say("The server", f"is at {client.base}, version {client.get('/version')['version']}")

    dataset = client.post_bytes(f"/v1/datasets?name=digits&shape=8x8&label=digit", DIGITS.read_bytes())
    pixels = sum(column["role"] == "feature" for column in dataset["columns"])
    say("Uploaded", f"{DIGITS.name}: {dataset['rows']} rows, {pixels} pixels and the label `digit`, as {dataset['id']}")

    job = client.post("/v1/jobs", {
        "dataset": dataset["id"],
        "name": "digits",
        "model": {"family": "vae", "settings": {"latent": options.latent, "beta": 0.5}},
        "likelihood": "bernoulli",
        "training": {"epochs": options.epochs, "seed": 7, "optimizer": {"lr": 0.002}},
        "split": {"validation": 0.1, "test": 0.2, "stratify": True, "seed": 7},
    })
    say("Training", f"a VAE with a code of {options.latent} numbers, as {job['id']}")
    job = follow(client, job["id"])
    if job["status"] != "succeeded":
        sys.exit(f"the job {job['status']}: {json.dumps(job['error'])}")
    metrics, model = job["metrics"], job["model_id"]
    say("Trained", f"{model} ({job['stop_reason']}, best epoch {metrics['best_epoch']:.0f})")

    print("\n  Mean squared error of reconstruction on the 20 % of digits kept for the test (pixels from 0 to 1):")
    print(f"    this model, {options.latent} numbers a digit          {metrics['test/mse']:.5f}")
    print(f"    principal components, {options.latent} numbers a digit {metrics['test/pca_mse']:.5f}")
    print(f"    ratio                                {metrics['test/mse'] / metrics['test/pca_mse']:.2f}\n")

    at = f"/v1/models/{model}"
    encoded = client.get(f"{at}/encode?dataset={dataset['id']}&rows=0-4")
    say("Encoded", "digit 0 is [" + ", ".join(f"{value:.2f}" for value in encoded["codes"][0]) + "]")
    decoded = client.post(f"{at}/decode", {"codes": encoded["codes"]})["rows"]
    rebuilt = client.get(f"{at}/reconstruct?dataset={dataset['id']}&rows=0-4")["rows"]
    apart = max(abs(a - b) for one, other in zip(decoded, rebuilt) for a, b in zip(one, other))
    say("Decoded", f"5 codes; reconstruct answers the same to {apart:.0e}")
    samples = client.get(f"{at}/sample?n=64&seed=7")["rows"]
    say("Sampled", f"{len(samples)} digits that nobody wrote")

    for name, path in [
        ("reconstructions.png", f"{at}/reconstruct?dataset={dataset['id']}&rows=0-31&format=png"),
        ("samples.png", f"{at}/sample?n=64&seed=7&format=png"),
    ]:
        (OUTPUT / name).write_bytes(client.fetch(path))
        say("Wrote", f"{(OUTPUT / name).relative_to(ROOT)}" + (" (originals over reconstructions)" if name.startswith("r") else ""))


def follow(client, job):
    """Shows progress from the job's event stream until it has ended."""
    bar = sys.stdout.isatty()
    with client.open(f"/v1/jobs/{job}/events", {"Accept": "text/event-stream"}) as stream:
        kind, loss, shown = None, None, 0.0
        for line in stream:
            line = line.decode().rstrip("\n")
            if line.startswith("event:"):
                kind = line[6:].strip()
            elif line.startswith("data:"):
                data = json.loads(line[5:])
                if kind == "epoch":
                    loss = data["data"]["metrics"].get("validation/loss", loss)
                elif kind == "warning":
                    print(f"  warning: {data['data']['message']}")
                elif kind == "progress" and (bar or time.monotonic() - shown > 1):
                    shown = time.monotonic()
                    show(data, loss, bar)
    if bar:
        print()
    return client.get(f"/v1/jobs/{job}?wait=30s")


def show(progress, loss, bar):
    done = progress["step"] / max(1, progress["steps"])
    width = 28
    parts = [f"  [{'#' * int(done * width):<{width}}] epoch {progress['epoch']}/{progress['epochs']}"]
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.2f}")
    if loss is not None:
        parts.append(f"validation {loss:.2f}")
    if progress.get("rows_per_second"):
        parts.append(f"{progress['rows_per_second']:,.0f} rows/s")
    if progress.get("eta_seconds") is not None:
        parts.append(f"{progress['eta_seconds']:.0f} s left")
    text = "  ".join(parts)
    print(f"\r{text:<110}" if bar else text, end="" if bar else "\n", flush=True)


def say(what, text):
    print(f"{what:>12}  {text}", flush=True)


class Client:
    """What a program needs of HTTP here."""

    def __init__(self, base):
        self.base = base.rstrip("/")

    def open(self, path, headers=None, body=None):
        request = urllib.request.Request(self.base + path, data=body, headers=headers or {})
        try:
            return urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            sys.exit(f"{path} answered {error.code}: {error.read().decode()}")
        except urllib.error.URLError as error:
            sys.exit(f"{self.base} does not answer: {error.reason}")

    def fetch(self, path):
        with self.open(path) as response:
            return response.read()

    def get(self, path):
        return json.loads(self.fetch(path))

    def post(self, path, body):
        with self.open(path, {"Content-Type": "application/json"}, json.dumps(body).encode()) as response:
            return json.load(response)

    def post_bytes(self, path, body):
        with self.open(path, {"Content-Type": "application/octet-stream"}, body) as response:
            return json.load(response)


if __name__ == "__main__":
    main()
