"""Damages test images, or says how far restored ones are from the clean. Runs in .bench/venv.

    python bench/damage.py ALL.npy TEST_ROWS DAMAGED.npy               sets three tenths of the pixels to 0
    python bench/damage.py ALL.npy TEST_ROWS DAMAGED.npy RESTORED.npy  prints the mean squared error, pixels from 0 to 1
"""

import sys

import numpy


def main():
    everything, test_rows, damaged = numpy.load(sys.argv[1], mmap_mode="r"), int(sys.argv[2]), sys.argv[3]
    clean = everything[-test_rows:, :-1].astype(numpy.float32)
    if len(sys.argv) == 4:
        kept = numpy.random.default_rng(0).random(clean.shape) >= 0.3
        numpy.save(damaged, clean * kept)
        return
    restored = numpy.load(sys.argv[4])
    print(float(numpy.mean(((restored - clean) / 255) ** 2)))


if __name__ == "__main__":
    main()
