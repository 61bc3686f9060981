#!/usr/bin/env python3
"""Hundreds of short jobs through the queue of one server; written into BENCHMARKS.md.

None may be lost or run twice, the server's memory must stay as it is, and little may go by beside training: the wall time of a
job, with one worker, minus what the job itself says it trained.

    python3 bench/queued.py              as `make bench` does
    python3 bench/queued.py --dry        print only; leave BENCHMARKS.md alone
    python3 bench/queued.py --jobs 60
"""

import argparse
import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path

import harness
import serve
from harness import ENVIRONMENT, say

JOBS, WANTED_SECONDS = 500, 0.4
ENDED = ("succeeded", "failed", "cancelled")


def spec(dataset, number):
    return {
        "dataset": dataset, "model": {"family": "autoencoder", "settings": {"latent": 8}}, "network": {"hidden": [32]},
        "training": {"epochs": 5, "seed": number, "batch_size": 64, "device": "cpu"},
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--jobs", type=int, default=JOBS, help=f"how many jobs there are ({JOBS})")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    machine = harness.Machine()
    rows = [["jobs", "done", "lost, run twice", "memory", "jobs/s", "trained, a job", "beside it, a job", "verdict"]]
    for arguments, words in [((), "trainers as copies"), (("--trainer-copies", "false"), "each trainer loads libtorch")]:
        machine.look()
        # The other way is there to be compared with: fewer jobs tell its speed as well.
        count = options.jobs if not arguments else max(options.jobs // 10, 5)
        rows.append(through(options.latente, arguments, words, count))
    text = [f"{version}. {machine.sentence()}", "",
            "Digits (1,797 rows of 64), an autoencoder 64-32-8-32-64 trained for 5 epochs, all jobs asked for at once, one worker. `Trained` is what the "
            "job's own phases `training` say, `beside it` the rest of the wall time of all jobs, divided by their number: claim, start of the process, "
            f"preparation, last figures, sampler, model, transactions. It is to be under {WANTED_SECONDS} s. Memory is VmRSS of the server when half of the "
            "jobs are done and at the end; it may be a tenth and 16 MiB more at the end.", "",
            *harness.table(rows)]
    say("\n".join(text))
    if not options.dry:
        harness.write_section("queue", text)


def through(latente, arguments, words, count):
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        command = [latente, "serve", "--listen", "127.0.0.1:0", "--data", Path(directory) / "data", "--workers", 1, *arguments]
        process = running.enter_context(serve.server(command, {**ENVIRONMENT, "LATENTE_LOG": "error"}))
        client = serve.harness_client(process.stdout.readline().strip()[len("listening on "):])
        server = harness.Server(client)
        dataset = server.upload(harness.ROOT / "demo" / "digits.csv.gz", "name=digits&shape=8x8&label=digit")
        server.train(dataset, spec(dataset, 0))
        start = time.perf_counter()
        asked = [client.post("/v1/jobs", spec(dataset, number + 1))["id"] for number in range(count)]
        wait(client, asked[: count // 2])
        middle = memory(process)
        wait(client, asked)
        seconds, end = (time.perf_counter() - start) / count, memory(process)
        jobs = [client.get(f"/v1/jobs/{job}") for job in asked]
        done = [job for job in jobs if job["status"] == "succeeded"]
        twice = [job for job in jobs if job["attempt"] != 1]
        # One model more, of the job that went before.
        models = everything(client, "/v1/models")
        extra = len(models) - 1 - len({job["model_id"] for job in done})
    trained = statistics.mean(harness.training_seconds(job) for job in done) if done else 0.0
    beside = seconds - trained
    right = len(done) == count and not twice and extra == 0 and end <= middle * 1.1 + 16
    verdict = "reached" if right and beside < WANTED_SECONDS else "missed"
    row = [f"{count}, {words}", len(done), f"{count - len(done)}, {len(twice) + abs(extra)}", f"{middle:.0f} MiB, then {end:.0f} MiB", f"{1 / seconds:.2f}",
           f"{trained:.3f} s", f"{beside:.3f} s", verdict if not arguments else ""]
    say("  ".join(map(str, row)))
    return row


def wait(client, jobs):
    for job in jobs:
        while client.get(f"/v1/jobs/{job}?wait=60s")["status"] not in ENDED:
            pass


def memory(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024


def everything(client, path):
    items, after = [], ""
    while True:
        page = client.get(f"{path}?limit=100{after}")
        items += page["data"]
        if not page["has_more"]:
            return items
        after = f"&after={items[-1]['id']}"


if __name__ == "__main__":
    main()
