"""What the benchmarks share: running latente, a Python with packages of its own, and the sections of BENCHMARKS.md.

Standard library only; Python 3.8 or later. Nothing here measures: the programs beside it do.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench"
REPORT = ROOT / "BENCHMARKS.md"
LATENTE = ROOT / "target" / "release" / "latente"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

# Of a bar: `figure` and `wanted` are words; `reached` is the verdict; `reason` says why a bar is missed, as far as is known.
Row = namedtuple("Row", "what figure wanted reached reason", defaults=("",))

# Up to this share of the cores, other work is no matter.
QUIET = 0.1

# Settings of a user's own shell would change the figures of one side or the other.
SETTINGS = ("LATENTE_", "OMP_", "MKL_", "GOMP_", "KMP_")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}

HEADER = """# Benchmarks

Figures of this program, written by the commands below and by nothing else: run them to have your own. They hold for
the machine and the day that each section names. Speeds on a machine that does other work at the same time are too low and
noisy, so each section says how busy it was.
"""
TITLES = {
    "train": "## Training speed, start, memory, size: `make bench`",
    "serve": "## Answers of models: `make bench`",
    "pressure": "## A server under pressure: `make bench`",
    "queue": "## Many short jobs: `make bench`",
    "resume": "## Killed at any instant: `make resume`",
    "files": "## Files as packages carry them: `make files`",
    "speed": "## Training speed beside others, job by job: `make bench`",
    "profile": "## Where the time of training goes: `make profile`",
    "beyond_memory": "## Rows that do not fit into memory: `make beyond-memory`",
    "exports": "## Models in other programs: `make exports`",
    "likelihoods": "## Densities beside PyTorch's: `make likelihoods`",
    "ingest": "## Reading files: `make bench`",
    "v2": "## Triton's own client: `make v2`",
    "quality": "## Quality: `make bench-quality`",
}


def say(text=""):
    print(text, flush=True)


def fail(text):
    sys.exit(f"bench: {text}")


def run(command, **options):
    """Runs a program to its end; gives its standard output and the seconds it took."""
    start = time.perf_counter()
    try:
        done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, **options)
    except OSError as error:
        fail(f"{command[0]} cannot be started: {error}")
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout, seconds


def train_command(latente, data, spec, directory, arguments=()):
    """`latente train`, with everything that it writes in `directory`."""
    return [latente, "train", data, "--quiet", "--spec", json.dumps(spec), "--metrics", Path(directory) / "metrics.json",
            "--output", Path(directory) / "model.safetensors", *arguments]


def train(latente, data, spec, arguments=()):
    """Trains without a server; gives the figures of the model and the seconds that the whole command took."""
    with tempfile.TemporaryDirectory() as directory:
        _, seconds = run(train_command(latente, data, spec, directory, arguments))
        return json.loads((Path(directory) / "metrics.json").read_text()), seconds


class Server:
    """A server of its own, to ask models that it trained."""

    def __init__(self, client):
        self.client = client

    def upload(self, path, query):
        return self.client.post_bytes(f"/v1/datasets?{query}", Path(path).read_bytes())["id"]

    def train(self, dataset, spec):
        """Figures of the model, and its address."""
        job = self.client.post("/v1/jobs", {**spec, "dataset": dataset})
        while job["status"] not in ("succeeded", "failed", "cancelled"):
            job = self.client.get(f"/v1/jobs/{job['id']}?wait=60s")
        if job["status"] != "succeeded":
            fail(f"a job {job['status']}: {job['error']}")
        return job["metrics"], f"/v1/models/{job['model_id']}"

    def bytes(self, path, body=None):
        """An answer as NPY; with a body, which is NPY too."""
        headers = {"Accept": "application/x-npy", "Content-Type": "application/x-npy"}
        with self.client.open(path, headers, body) as response:
            return response.read()


def training_seconds(job):
    """How long a job was in the phases in which it trains."""
    phases = job["phases"]
    at = [datetime.datetime.fromisoformat(phase["started_at"].replace("Z", "+00:00")) for phase in phases]
    return sum((after - before).total_seconds() for phase, before, after in zip(phases, at, at[1:]) if phase["name"] in ("pretraining", "training"))


@contextmanager
def server(latente):
    sys.path.insert(0, str(ROOT / "scripts"))
    from demo import Client, serving

    with tempfile.TemporaryDirectory() as directory, serving(Path(latente), Path(directory)) as base:
        yield Server(Client(base))


def check(latente):
    """Fails early, and in words, where there is no program to measure; gives its version."""
    if not Path(latente).is_file():
        fail("the program is not built; run `make build` first")
    return run([latente, "--version"])[0].strip()


def python_with(*packages):
    """A Python of the benchmarks' own in .bench/venv that has these packages, such as `torch==2.11.0`."""
    directory = HOME / "venv"
    python = directory / "bin" / "python"
    if not answers(python):
        HOME.mkdir(exist_ok=True)
        try:
            venv.create(directory, with_pip=True, clear=True)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"a virtual environment could not be made (Debian: apt-get install python3-venv): {error}")
    missing = [package for package in packages if not has(python, package)]
    if missing:
        say(f"fetching {', '.join(missing)} into .bench/venv" + (" (some 2.7 GB)" if missing[0].startswith("torch") else ""))
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *missing]
        if subprocess.run([str(word) for word in command]).returncode != 0:
            fail("pip could not fetch the packages above. Is a package index reachable, and is this Python new enough for "
                 f"them (it is {sys.version.split()[0]})?")
    return python


def answers(python):
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def has(python, package):
    name, _, wanted = package.partition("==")
    found = version(python, name)
    return found is not None and wanted in ("", found)


def version(python, name):
    """The installed version of a package, without what follows a `+`."""
    program = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([str(python), "-c", program, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip().split("+")[0] if done.returncode == 0 else None


class Machine:
    """The machine that is measured. `look` sees how much of it others use, so it is called while nothing of ours runs."""

    def __init__(self):
        self.looks = []

    def look(self, attempts=1):
        """Notes what others use; takes more looks, one a second, while that is too much. Says whether it is little now."""
        for attempt in range(attempts):
            share = used_by_others()
            if share <= QUIET:
                break
            if attempt == 0:
                say(f"other work takes {share:.0%} of this machine" + (f"; waiting up to {attempts} s for it to end" if attempts > 1 else ""))
        self.looks.append(share)
        return share <= QUIET

    def sentence(self):
        """Where, when and how undisturbed; no names."""
        model, memory = "unknown CPU", ""
        for line in lines_of("/proc/cpuinfo"):
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
        for line in lines_of("/proc/meminfo"):
            if line.startswith("MemTotal"):
                memory = f", {int(line.split()[1]) / 2**20:.0f} GiB of memory"
        looks = f"{len(self.looks)} looks of one second between the runs" if len(self.looks) > 1 else "one look of one second beforehand"
        return (f"Measured on {datetime.date.today().isoformat()}: {model}, {CORES} cores{memory}. In {looks}, other work took "
                f"{statistics.mean(self.looks):.0%} of it, at most {max(self.looks):.0%}; what else ran during the runs is not seen.")


def used_by_others():
    """Share of the cores that is in use while this program sleeps."""
    (busy, total), _, (later_busy, later_total) = ticks(), time.sleep(1), ticks()
    return (later_busy - busy) / max(later_total - total, 1)


def ticks():
    """Busy time and all time of the cores since the machine started."""
    fields = next(iter(lines_of("/proc/stat")), "").split()[1:9]  # user nice system idle iowait irq softirq steal
    values = [int(field) for field in fields] or [0] * 8
    return sum(values) - values[3] - values[4], sum(values)


def lines_of(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def table(rows):
    """Markdown; the first row is the heading."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0])] + lines[1:]


def read_section(name):
    """The lines between the markers of a section of BENCHMARKS.md; none where it is not there."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else ""
    return text.partition(marker(name, "begin"))[2].partition(marker(name, "end"))[0].splitlines()


def write_section(name, lines):
    """Puts lines between the markers of a section of BENCHMARKS.md; makes what is missing."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else HEADER
    for section, title in TITLES.items():
        if marker(section, "begin") not in text:
            text = f"{text.rstrip()}\n\n{title}\n\n{marker(section, 'begin')}\nNot measured yet.\n{marker(section, 'end')}\n"
    begin, end = marker(name, "begin"), marker(name, "end")
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        fail(f"BENCHMARKS.md has `{begin}` and no `{end}` after it")
    text = "\n".join([before + begin, *lines, end]) + after
    aside = REPORT.with_suffix(".md.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(REPORT)
    say(f"written to BENCHMARKS.md, section {name}")


def marker(name, side):
    return f"<!-- bench:{name} {side} -->"
