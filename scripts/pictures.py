#!/usr/bin/env python3
"""One picture for each family: originals, their reconstructions, and samples. Trains every family on the digits in demo/.

    python3 scripts/pictures.py              all, into docs/pictures, as `make pictures` does
    python3 scripts/pictures.py vae gan      some of them

Standard library only. The models are the families' presets for images.
"""

import argparse
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

from demo import DIGITS, ROOT, Client, serving

OUTPUT = ROOT / "docs" / "pictures"
ACROSS = 16
SCALE = 4
GAP = 6
SIDE = 8


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("families", nargs="*", metavar="FAMILY", help="which ones; all when left out")
    arguments.add_argument("--output", type=Path, default=OUTPUT, help="the directory for the pictures")
    arguments.add_argument("--latente", type=Path, default=ROOT / "target" / "release" / "latente", help="the program")
    options = arguments.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, serving(options.latente, Path(directory)) as base:
        client = Client(base)
        dataset = client.post_bytes("/v1/datasets?name=digits&shape=8x8&label=digit", DIGITS.read_bytes())["id"]
        presets = {preset["family"]: preset for preset in client.get("/v1/presets")["data"] if preset["for"] == "images"}
        for family in options.families or presets:
            draw(client, dataset, family, presets[family]["spec"], options.output / f"{family}.png")


def draw(client, dataset, family, spec, path):
    start = time.perf_counter()
    job = client.post("/v1/jobs", {**spec, "dataset": dataset})
    while job["status"] not in ("succeeded", "failed", "cancelled"):
        job = client.get(f"/v1/jobs/{job['id']}?wait=30s")
    if job["status"] != "succeeded":
        sys.exit(f"{family} {job['status']}: {job['error']}")
    at = f"/v1/models/{job['model_id']}"
    rows = f"dataset={dataset}&rows=0-{ACROSS - 1}"
    originals = client.get(f"/v1/datasets/{dataset}/rows?limit={ACROSS}")
    pixels = [row[: SIDE * SIDE] for row in originals["rows"]]
    restored = client.get(f"{at}/reconstruct?{rows}")["rows"]
    samples = client.get(f"{at}/sample?n={2 * ACROSS}&seed=7")["rows"]
    path.write_bytes(png([pixels, restored, samples[:ACROSS], samples[ACROSS:]]))
    metrics = job["metrics"]
    figures = {name: f"{metrics[name]:.4f}" for name in ("validation/mse", "validation/pca_mse", "code/active_units") if name in metrics}
    print(f"{family:<14} {time.perf_counter() - start:5.1f} s  {figures}  {path.name}", flush=True)


def png(lines):
    """Lines of images as a grey PNG: the first two, originals and reconstructions, stand close; samples apart."""
    tile = SIDE * SCALE + 2
    tops, height = [], 2
    for number in range(len(lines)):
        height += GAP if number in (2,) else 0
        tops.append(height)
        height += tile
    width = 2 + ACROSS * tile
    canvas = [bytearray([255] * width) for _ in range(height)]
    for top, line in zip(tops, lines):
        for column, image in enumerate(line):
            for place, value in enumerate(image):
                shade = 255 - round(255 * min(max(value / 16, 0), 1))
                y, x = top + place // SIDE * SCALE, 2 + column * tile + place % SIDE * SCALE
                for row in canvas[y : y + SCALE]:
                    row[x : x + SCALE] = bytes([shade] * SCALE)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    pixels = b"".join(b"\0" + bytes(row) for row in canvas)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()
