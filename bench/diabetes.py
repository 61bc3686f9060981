"""Writes scikit-learn's diabetes in the order of a seed, the test rows last. Runs in .bench/venv.

Prints JSON: how many test rows there are, the errors of a linear regression, a Bayesian ridge regression and a Gaussian process on them, the test rows themselves (`near`) and the same
moved by ten standard deviations of each column (`far`).

    python bench/diabetes.py FILE.csv SEED
"""

import csv
import json
import sys

import numpy
from sklearn.datasets import load_diabetes
from sklearn.compose import TransformedTargetRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge, LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def kernel():
    """The kernel of one layer of our own: smooth, plus linear."""
    return ConstantKernel() * RBF(4.0) + ConstantKernel() * DotProduct() + WhiteKernel()


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
    peers = {}
    for name, model in (("bayesian_ridge", BayesianRidge()), ("gaussian_process", GaussianProcessRegressor(kernel()))):
        fitted = TransformedTargetRegressor(make_pipeline(StandardScaler(), model), transformer=StandardScaler()).fit(x[:cut], y[:cut])
        peers[name] = float(numpy.sqrt(numpy.mean((fitted.predict(x[cut:]) - y[cut:]) ** 2)))
    print(json.dumps({**peers, "test_rows": test_rows, "rmse": rmse, "near": x[cut:].tolist(), "far": far.tolist()}))


if __name__ == "__main__":
    main()
