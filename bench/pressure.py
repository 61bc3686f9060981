#!/usr/bin/env python3
"""A server under pressure: a queue that is kept full, clients that stall, more models than fit; written into BENCHMARKS.md. Needs wrk.

What is answered must be what a call by itself is answered, what is refused must be refused as 503 with Retry-After, and memory must
not grow: it is compared between the middle and the end of each part, and a part that fails is said to.

    python3 bench/pressure.py              as `make bench` does
    python3 bench/pressure.py --dry        print only; leave BENCHMARKS.md alone
    python3 bench/pressure.py --seconds 5 --models 30
"""

import argparse
import array
import contextlib
import json
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import harness
import serve
from harness import ENVIRONMENT, say

JSON = "application/json"
CALLERS = 400
STALLED = 200
# With what it is counted for beside its numbers, so many models take the MiB that the server is given.
FIT, HIDDEN = 20, 56
SPEC = {
    "model": {"family": "autoencoder", "settings": {"latent": 16}}, "network": {"hidden": [HIDDEN]},
    "training": {"epochs": 1, "device": "cpu"}, "split": {"validation": 0.0},
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--seconds", type=int, default=60, help="how long the queue is kept full (60)")
    arguments.add_argument("--models", type=int, default=200, help="models that are used in turn (200)")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    if not shutil.which("wrk"):
        harness.fail("wrk is missing (Debian: apt-get install wrk)")
    machine = harness.Machine()
    machine.look()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        directory = Path(directory)
        command = [options.latente, "serve", "--listen", "127.0.0.1:0", "--data", directory / "data", "--resident-mib", 1]
        process = running.enter_context(serve.server(command, {**ENVIRONMENT, "LATENTE_LOG": "error"}))
        base = process.stdout.readline().strip()[len("listening on "):]
        target = Target(process, base, directory, options)
        rows = [["what", "came of it", "memory", "verdict"]]
        rows += [target.full_queue(), target.stalled_clients(), target.many_models()]
    text = [f"{version}. {machine.sentence()}", "",
            "The server keeps one MiB of models loaded (`--resident-mib 1`). Memory is VmRSS of its process in the middle and at the end of a "
            "part; it may be a tenth and 16 MiB more at the end. Answers are compared byte for byte with those of a single caller.", "",
            *harness.table(rows)]
    say("\n".join(text))
    if not options.dry:
        harness.write_section("pressure", text)


class Target:
    def __init__(self, process, base, directory, options):
        self.process, self.base, self.directory, self.options = process, base, directory, options
        self.client = harness.Server(serve.harness_client(base))
        digits = harness.ROOT / "demo" / "digits.csv.gz"
        self.dataset = self.client.upload(digits, "name=digits&shape=8x8&label=digit")
        _, self.vae = self.client.train(self.dataset, {**SPEC, "model": {"family": "vae", "settings": {"latent": 8}}})
        self.row = json.dumps({"rows": [[float(number % 17) for number in range(64)]]}).encode()

    def post(self, path, body=None):
        request = urllib.request.Request(self.base + path, body or self.row, {"Content-Type": JSON})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return (error.code if error.headers.get("Retry-After") else -error.code), b""

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def full_queue(self):
        """Far more callers than may wait, whose questions take a thread some milliseconds each."""
        seconds, wanted = self.options.seconds, self.post(f"{self.vae}/encode")[1]
        draw = random.Random(5).randrange
        body = self.directory / "body"
        body.write_bytes(json.dumps({"rows": [[draw(17) for _ in range(64)] for _ in range(64)], "samples": 100}).encode())
        command = ["wrk", "-t1", f"-c{CALLERS}", f"-d{seconds}s", "--timeout", "60s", "-s", serve.PEERS / "statuses.lua",
                   f"{self.base}{self.vae}/score"]
        crowd = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                                 env={**ENVIRONMENT, "BODY": str(body), "TYPE": JSON})
        seen, memory, same = {}, [], True
        while crowd.poll() is None:
            status, answer = self.post(f"{self.vae}/encode")
            seen[status] = seen.get(status, 0) + 1
            same &= status != 200 or answer == wanted
            memory.append(self.memory())
            time.sleep(0.1)
        told = json.loads(crowd.communicate()[0].strip().splitlines()[-1])
        same &= self.post(f"{self.vae}/encode")[1] == wanted
        honest = not (told["other"] or told["broken"] or told["without_retry_after"]) and set(seen) <= {200, 503}
        full = told["overloaded"] > 0
        figure = (f"{told['answered']:,} answered, {told['overloaded']:,} refused with 503 and Retry-After, {told['other']} otherwise, "
                  f"{told['broken']} broken; beside them {seen.get(200, 0)} single calls answered and {seen.get(503, 0)} refused")
        return self.line(f"{CALLERS} callers ask for {seconds} s without a pause, where 256 may wait", figure, memory, honest and same and full)

    def stalled_clients(self):
        """Half a body and no more; a large answer that is not fetched; gone before the answer."""
        address = urllib.parse.urlsplit(self.base)
        body = digits(4000)
        wanted = self.post(f"{self.vae}/encode")[1]
        sockets, memory, same, statuses = [], [], True, set()
        for round_ in range(4):
            for number in range(STALLED // 4):
                client = socket.create_connection((address.hostname, address.port))
                question = "encode" if number % 3 == 0 else "reconstruct"
                head = (f"POST {self.vae}/{question} HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-npy\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n").encode()
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    client.sendall(head + (body[:len(body) // 2] if number % 3 == 0 else body))
                if number % 3 == 2:
                    client.close()
                else:
                    sockets.append(client)
            for _ in range(50):
                status, answer = self.post(f"{self.vae}/encode")
                statuses.add(status)
                same &= status != 200 or answer == wanted
            for client in sockets if round_ % 2 else []:
                client.close()
            sockets = [] if round_ % 2 else sockets
            memory.append(self.memory())
        for client in sockets:
            client.close()
        figure = f"{STALLED} such clients, 50 at a time; 200 single calls beside them were answered {'alike' if same else 'otherwise'}"
        return self.line("clients that stop in their body, do not fetch their answer, or leave", figure, memory,
                         same and statuses <= {200, 503} and 200 in statuses)

    def many_models(self):
        """More models than fit, one after the other, and some at once."""
        say(f"training {self.options.models} models")
        models = [self.client.train(self.dataset, SPEC)[1] for _ in range(self.options.models)]
        wanted = {model: self.post(f"{model}/encode")[1] for model in models}
        memory, wrong, statuses = [], [], {}

        def use(order):
            for model in order:
                status, answer = self.post(f"{model}/encode")
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200 and answer != wanted[model]:
                    wrong.append(model)

        for number in range(6):
            orders = [random.Random(number * 10 + caller).sample(models, len(models)) for caller in range(4)]
            callers = [threading.Thread(target=use, args=(order,)) for order in orders]
            start = time.monotonic()
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            memory.append(self.memory())
            say(f"round {number + 1}: {4 * len(models) / (time.monotonic() - start):,.0f} answers/s, {memory[-1]:.0f} MiB")
        figure = f"{statuses.get(200, 0):,} answered, {statuses.get(503, 0):,} refused with 503 and Retry-After, {len(wrong)} otherwise than at first"
        return self.line(f"{len(models)} models in turn by four callers, with room for {FIT}", figure, memory,
                         not wrong and set(statuses) <= {200, 503})

    def line(self, what, figure, memory, is_right):
        middle, end = memory[len(memory) // 2], memory[-1]
        flat = end <= middle * 1.1 + 16
        row = [what, figure, f"{middle:.0f} MiB, then {end:.0f} MiB", "reached" if is_right and flat else "missed"]
        say("  ".join(row))
        return row


def digits(count):
    """As NPY."""
    draw = random.Random(3).randrange
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 64), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    values = array.array("f", (draw(17) for _ in range(count * 64)))
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values.tobytes()


if __name__ == "__main__":
    main()
