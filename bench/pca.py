"""Principal components by scikit-learn: what the program's own are checked against.

Runs in .bench/venv. Prints JSON: the mean squared error over rows and columns on all rows, and on the test rows of each
stratified split.

    python bench/pca.py FILE.csv.gz LABEL SCALE COMPONENTS SPLITS TEST_SHARE
"""

import csv
import gzip
import json
import sys

import numpy
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedShuffleSplit


def main():
    path, label, scale, components, splits, share = sys.argv[1:]
    with gzip.open(path, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    labels = numpy.array([row.pop(label) for row in rows])
    x = numpy.array([[float(value) for value in row.values()] for row in rows]) / float(scale)

    def error(train, test):
        pca = PCA(int(components), svd_solver="full").fit(train)
        return float(numpy.mean((pca.inverse_transform(pca.transform(test)) - test) ** 2))

    cut = StratifiedShuffleSplit(int(splits), test_size=float(share), random_state=0).split(x, labels)
    print(json.dumps({"all": error(x, x), "test": [error(x[train], x[test]) for train, test in cut]}))


if __name__ == "__main__":
    main()
