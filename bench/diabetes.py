"""Writes scikit-learn's diabetes in the order of a seed, the test rows last. Runs in .bench/venv.

Prints JSON: how many test rows there are, the error of a linear regression on them, the test rows themselves (`near`) and the same
moved by ten standard deviations of each column (`far`).

    python bench/diabetes.py FILE.csv SEED
"""

import csv
import json
import sys

import numpy
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression


def main():
    path, seed = sys.argv[1], int(sys.argv[2])
    data = load_diabetes(scaled=False)
    order = numpy.random.default_rng(seed).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    test_rows = len(y) // 5
    cut = len(y) - test_rows
    with open(path, "w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow([*data.feature_names, "target"])
        writer.writerows([*row, label] for row, label in zip(x.tolist(), y.tolist()))
    linear = LinearRegression().fit(x[:cut], y[:cut])
    rmse = float(numpy.sqrt(numpy.mean((linear.predict(x[cut:]) - y[cut:]) ** 2)))
    far = x[cut:] + 10 * x[:cut].std(0)
    print(json.dumps({"test_rows": test_rows, "rmse": rmse, "near": x[cut:].tolist(), "far": far.tolist()}))


if __name__ == "__main__":
    main()
