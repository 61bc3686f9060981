"""The Parzen-window log-likelihood of test images, in nats, pixels from 0 to 1. Runs in .bench/venv.

A normal around each sample, all of one width, which is the best of some for 1,000 training images.

    python bench/parzen.py ALL.npy TEST_ROWS SAMPLES.npy
"""

import sys

import numpy


def main():
    everything, test_rows = numpy.load(sys.argv[1], mmap_mode="r"), int(sys.argv[2])
    samples = numpy.load(sys.argv[3]).astype(numpy.float64) / 255
    images = lambda rows: rows[:, :-1].astype(numpy.float64) / 255
    judges, test = images(everything[:1000]), images(everything[-test_rows:])
    width = max(numpy.linspace(0.1, 0.3, 21), key=lambda width: density(judges, samples, width))
    print(float(density(test, samples, width)))


def density(rows, samples, width):
    """The mean over rows of log mean_s N(row; s, width^2)."""
    columns, total = rows.shape[1], 0.0
    own = (samples**2).sum(1)
    for part in numpy.array_split(rows, max(1, len(rows) // 500)):
        squares = (part**2).sum(1)[:, None] - 2 * part @ samples.T + own
        logs = -squares / (2 * width**2)
        most = logs.max(1)
        total += (most + numpy.log(numpy.exp(logs - most[:, None]).mean(1))).sum()
    return total / len(rows) - columns * numpy.log(width * numpy.sqrt(2 * numpy.pi))


if __name__ == "__main__":
    main()
