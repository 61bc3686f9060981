"""Runs exported files by onnxruntime and PyTorch and compares what they give with what the server answered, for `exports.py`.

Runs in .bench/venv. Prints JSON: for each case the greatest difference of either, and what is further apart than allowed.

    python bench/runtimes.py MANIFEST.json
"""

import json
import os
import re
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch

# As rows are asked about: all at once, some at a time, one by one.
BATCHES = (None, 7, 1)


def main():
    manifest = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    found, missed = [], []
    for case in manifest["cases"]:
        one = compared(case, manifest["allowed"])
        found.append(one)
        for form in ("onnx", "torchscript"):
            if not one[form] <= manifest["allowed"]:
                missed.append(f"{case['preset']} {case['part']} as {form} ({one[form]:.1e} in {one['worst'][form]})")
    documented = run_documented(manifest["documented"])
    if not documented <= manifest["allowed"]:
        missed.append(f"docs/exports.md ({documented:.1e})")
    print(json.dumps({"cases": found, "documented": documented, "missed": missed}))


def compared(case, allowed):
    place = case["place"]
    if case["part"] == "decoder":
        rows = numpy.load(f"{place}.codes.npy")
    else:
        rows = numpy.load(f"{place}.rows.npy")[:, case["features"]]
    rows = numpy.ascontiguousarray(rows, dtype=numpy.float32)
    expected = {name: numpy.asarray(numpy.load(f"{place}.answer.npy") if told is None else told, dtype=numpy.float64)
                for name, told in case["answers"].items()}
    model = onnx.load(f"{place}.onnx")
    onnx.checker.check_model(model, full_check=True)
    columns = json.loads({note.key: note.value for note in model.metadata_props}["columns"])
    assert len(columns) == case["columns"], "the metadata has other columns"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(f"{place}.onnx", options)
    names = [output.name for output in session.get_outputs()]
    assert names == list(expected), f"{place}: outputs are {names}, not {list(expected)}"
    assert session.get_inputs()[0].shape[0] == "batch"
    script = torch.jit.load(f"{place}.pt")

    def by_onnx(rows):
        return session.run(names, {session.get_inputs()[0].name: rows})

    def by_torch(rows):
        with torch.no_grad():
            given = script(torch.from_numpy(rows))
        return [one.numpy() for one in (given if isinstance(given, tuple) else (given,))]

    result = {"operations": len(model.graph.node), "worst": {}}
    for form, run in (("onnx", by_onnx), ("torchscript", by_torch)):
        worst = (0.0, "")
        for batch in BATCHES:
            pieces = [run(rows[start:start + (batch or len(rows))]) for start in range(0, len(rows), batch or len(rows))]
            for name, *parts in zip(names, *pieces):
                given = numpy.concatenate(parts).astype(numpy.float64)
                if name == "anomaly":
                    off = beyond(given, expected["score"], case["ordinary"], allowed)
                else:
                    # Pixels of an image have one unit; columns of a table have their own.
                    by_column = name in ("rows", "reconstruction", "labels") and not case["image"]
                    off = apart(given, expected[name], by_column)
                worst = max(worst, (off, f"{name}, batches of {batch}"), key=lambda one: one[0])
        result[form], result["worst"][form] = worst
    return result


def apart(found, expected, by_column=False):
    """The greatest difference, as a part of the greatest value."""
    if found.shape != expected.shape:
        return float("inf")
    scale = numpy.abs(expected).max(axis=0 if by_column else None)
    scale = numpy.where(scale > 0, scale, 1.0)
    off = numpy.abs(found - expected) / scale
    return float("inf") if numpy.isnan(off).any() else float(off.max())


def beyond(found, scores, ordinary, allowed):
    """How far probabilities lie outside of those of the answered scores and of what is allowed around these. Where two
    quantiles of ordinary rows all but agree the probability climbs a whole step between them, so a score that is right to the
    last digit but one may lie anywhere on it."""
    quantiles, rows = numpy.asarray(ordinary["reconstruction"]), ordinary["rows"]

    def probability(score):
        share = numpy.interp(score, quantiles, numpy.linspace(0, 1, len(quantiles)))
        return (share * rows + 0.5) / (rows + 1)

    around = allowed * numpy.abs(scores).max()
    low, high = probability(scores - around), probability(scores + around)
    return float(numpy.maximum(0, numpy.maximum(low - found, found - high)).max())


def run_documented(documented):
    """Runs the Python of the document, block by block, where its files are."""
    os.chdir(documented["place"])
    rows, codes, restored = (numpy.load(f"{name}.npy").astype(numpy.float32) for name in ("rows", "codes", "restored"))
    worst = 0.0
    blocks = re.findall(r"```python\n(.*?)```", Path(documented["document"]).read_text(), re.DOTALL)
    assert len(blocks) == 3, "the document has other examples"
    for block in blocks:
        own = {"rows": rows}
        exec(block, own)
        for name, expected in (("codes", codes), ("restored", restored)):
            if name in own:
                worst = max(worst, apart(numpy.asarray(own[name], dtype=numpy.float64), expected.astype(numpy.float64)))
    return worst


if __name__ == "__main__":
    main()
