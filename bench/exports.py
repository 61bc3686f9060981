#!/usr/bin/env python3
"""Models in other programs: exported files of every preset beside the server's answers; written into BENCHMARKS.md.

A server of its own trains every preset for a few epochs, on a mixed table with gaps or on digits. Every part of every model is then
run by onnxruntime and by PyTorch, for several numbers of rows, and compared with what the server answers. The Python of
docs/exports.md runs as it stands there. Ends with 1 when anything is further apart than allowed.

    python3 bench/exports.py                 as `make exports` does
    python3 bench/exports.py --dry           print only; leave BENCHMARKS.md alone
    python3 bench/exports.py --only vae      presets whose names begin so
"""

import argparse
import json
import math
import random
import sys
import tempfile
from pathlib import Path

import harness
from harness import ROOT, say

EPOCHS, ROWS = 3, 64
# As a part of the greatest value of a column or an answer.
ALLOWED = 1e-5
SCALINGS = ("standard", "minmax", "robust", "quantile", "auto")
PARTS = ("encoder", "decoder", "reconstructor", "scorer", "predictor")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to measure")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    arguments.add_argument("--only", default="", help="presets whose names begin so")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with("torch==2.11.0", "onnxruntime", "onnx", "safetensors", "numpy")
    machine = harness.Machine()
    machine.look()
    with tempfile.TemporaryDirectory() as directory, harness.server(options.latente) as server:
        work = Path(directory)
        manifest = {"cases": [], "documented": None, "allowed": ALLOWED}
        datasets = {"tables": server.upload(table(work / "table.csv"), "name=table&label=outcome"),
                    "images": server.upload(ROOT / "demo" / "digits.csv.gz", "name=digits&label=digit&shape=8x8")}
        for number, preset in enumerate(server.client.get("/v1/presets")["data"]):
            if not preset["name"].startswith(options.only):
                continue
            spec = {**preset["spec"], "scaling": SCALINGS[number % len(SCALINGS)]}
            if preset["for"] == "images":
                spec["scaling"] = "auto"
            spec["training"] = {**spec.get("training", {}), "epochs": EPOCHS}
            spec.pop("pretraining", None)
            dataset = datasets[preset["for"]]
            _, model = server.train(dataset, spec)
            say(f"trained {preset['name']}")
            manifest["cases"] += cases(server, dataset, model, preset["name"], spec["scaling"], work)
        manifest["documented"] = documented(server, work)
        (work / "manifest.json").write_text(json.dumps(manifest))
        out, seconds = harness.run([python, ROOT / "bench" / "runtimes.py", work / "manifest.json"])
        found = json.loads(out.splitlines()[-1])
    versions = ", ".join(f"{name} {harness.version(python, package)}" for name, package in
                         (("onnxruntime", "onnxruntime"), ("PyTorch", "torch"), ("onnx", "onnx")))
    heading = ["preset", "scaling", *PARTS, "operations"]
    rows = [heading]
    for name in dict.fromkeys(case["preset"] for case in manifest["cases"]):
        own = {case["part"]: (case, one) for case, one in zip(manifest["cases"], found["cases"]) if case["preset"] == name}
        scaling = next(iter(own.values()))[0]["scaling"]
        cells = [f"{max(own[part][1]['onnx'], own[part][1]['torchscript']):.0e}" if part in own else "" for part in PARTS]
        rows.append([name, scaling, *cells, max(one["operations"] for _, one in own.values())])
    worst = max(max(one["onnx"], one["torchscript"]) for one in found["cases"])
    text = [f"{version}; {versions}. {machine.sentence()}", "",
            f"Every preset, trained for {EPOCHS} epochs on a mixed table with gaps or on digits, and each of its parts as ONNX and as "
            f"TorchScript. The figure is the greatest difference between what onnxruntime or `torch.jit` gives and what the server "
            f"answers over {ROWS} rows, in one batch, in batches of 7 and one by one, as a part of the greatest value of its column (of all "
            f"values, for pixels, codes and scores); at most {ALLOWED:.0e} is allowed. An anomaly probability is compared with those of the "
            f"answered score and what is so allowed around it, because it may climb by a step where ordinary rows agree. The worst is {worst:.1e}. Files pass the checker of "
            f"`onnx`. The Python of docs/exports.md, run as it stands there, is {found['documented']:.1e} apart.", "",
            *harness.table(rows)]
    say("\n".join(text))
    if not options.dry and not options.only:
        harness.write_section("exports", text)
    if found["missed"]:
        sys.exit("further apart than allowed: " + ", ".join(found["missed"]))


def cases(server, dataset, model, name, scaling, work):
    """What each part of a model takes and what the server answers, in files."""
    columns = server.client.get(model)["columns"]
    reference = f"dataset={dataset}&rows=0-{ROWS - 1}"
    ask = lambda question, more="": server.client.get(f"{model}/{question}?{reference}{more}")
    npy = lambda question: server.bytes(f"{model}/{question}?{reference}")
    stored = server.client.get(f"/v1/datasets/{dataset}")["columns"]
    ordinary = calibration(server.client.fetch(f"{model}/artifacts/safetensors"))
    kept = [column for column in stored if column["role"] != "ignored"]
    features = [place for place, column in enumerate(kept) if column["role"] == "feature"]
    told = []
    for part in PARTS:
        place = work / f"{name}-{part}"
        rows = server.bytes(f"/v1/datasets/{dataset}/rows?limit={ROWS}")
        (work / f"{place.name}.rows.npy").write_bytes(rows)
        case = {"preset": name, "scaling": scaling, "part": part, "place": str(place), "features": features, "answers": {},
                "columns": len(columns), "image": name.endswith("-images"), "ordinary": ordinary}
        if part == "encoder":
            answer = ask("encode")
            case["answers"] = {key: answer[key] for key in ("codes", "spread") if key in answer}
        elif part == "decoder":
            codes = npy("encode")
            Path(f"{place}.codes.npy").write_bytes(codes)
            Path(f"{place}.answer.npy").write_bytes(server.bytes(f"{model}/decode", codes))
            case["answers"] = {"rows": None}
        elif part == "reconstructor":
            Path(f"{place}.answer.npy").write_bytes(npy("reconstruct"))
            case["answers"] = {"reconstruction": None, "error": ask("reconstruct")["errors"]}
        elif part == "scorer":
            scores = ask("score", "&samples=0")["scores"]
            case["answers"] = {key: [score[key] for score in scores] for key in ("score", "error", "anomaly") if key in scores[0]}
        else:
            if not predicts(name):
                continue
            Path(f"{place}.answer.npy").write_bytes(npy("predict"))
            case["answers"] = {"labels": None, "spread": ask("predict")["spread"]}
        for form, ending in (("onnx", "onnx"), ("torchscript", "pt")):
            Path(f"{place}.{ending}").write_bytes(server.client.fetch(f"{model}/artifacts/{form}?part={part}"))
        told.append(case)
    return told


def calibration(artifact):
    """What a model file knows of ordinary rows: 8 bytes say how long the JSON is whose metadata has it."""
    length = int.from_bytes(artifact[:8], "little")
    return json.loads(json.loads(artifact[8:8 + length])["__metadata__"]["latente"])["calibration"]


def predicts(name):
    return name.startswith(("deep_gp", "feed_forward"))


def documented(server, work):
    """The files that the Python of docs/exports.md reads, and what the server answers."""
    generator = random.Random(2)
    path = work / "numbers.csv"
    rows = [[generator.gauss(0, 1) for _ in range(3)] for _ in range(200)]
    path.write_text("a,b,c,d\n" + "".join(f"{a * 3 + 7},{b},{a + 0.1 * c},{c * 100}\n" for a, b, c in rows))
    dataset = server.upload(path, "name=numbers")
    _, model = server.train(dataset, {"model": {"family": "autoencoder", "settings": {"latent": 2}}, "scaling": "standard",
                                      "likelihood": "gaussian", "network": {"hidden": [16, 8]}, "training": {"epochs": EPOCHS}})
    place = work / "documented"
    place.mkdir()
    for name, address in (("encoder.onnx", "onnx"), ("encoder.pt", "torchscript"), ("model.safetensors", "safetensors")):
        (place / name).write_bytes(server.client.fetch(f"{model}/artifacts/{address}"))
    reference = f"dataset={dataset}&rows=0-{ROWS - 1}"
    for name, address in (("rows", f"/v1/datasets/{dataset}/rows?limit={ROWS}"), ("codes", f"{model}/encode?{reference}"),
                          ("restored", f"{model}/reconstruct?{reference}")):
        (place / f"{name}.npy").write_bytes(server.bytes(address))
    return {"place": str(place), "document": str(ROOT / "docs" / "exports.md")}


def table(path):
    """Numbers, counts, skewed numbers, yes or no, categories and gaps, with a label."""
    generator = random.Random(1)
    lines = ["age,income,visits,smoker,colour,level,balance,outcome"]
    for _ in range(500):
        hidden = generator.gauss(0, 1)
        cells = [f"{45 + 12 * hidden:.1f}", f"{math.exp(8 + hidden + generator.gauss(0, 0.5)):.2f}", str(generator.randrange(int(4 + 3 * abs(hidden)))),
                 str(int(hidden + generator.gauss(0, 1) > 0)), generator.choice(("red", "green", "blue") if hidden > 0 else ("red", "grey")),
                 str(min(4, max(0, int(2 + hidden)))), f"{-200 * hidden + generator.gauss(0, 40):.2f}"]
        cells = ["" if generator.random() < 0.05 else cell for cell in cells]
        lines.append(",".join([*cells, "yes" if hidden + generator.gauss(0, 0.5) > 0.3 else "no"]))
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    main()
