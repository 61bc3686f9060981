"""How well a logistic regression and five nearest neighbours tell digits by codes, and by as many principal components. Runs in
.bench/venv.

Prints JSON: the accuracy on the last TEST_ROWS rows by codes and by components, all fitted on the rows before; and `within` and
`within_neighbours`, the accuracies by codes under cross-validation within those.

    python bench/probe.py DIGITS.csv CODES.npy TEST_ROWS
"""

import csv
import json
import sys

import numpy
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main():
    data, codes, test_rows = sys.argv[1], numpy.load(sys.argv[2]), int(sys.argv[3])
    with open(data, newline="") as lines:
        rows = list(csv.DictReader(lines))
    y = numpy.array([row.pop("digit") for row in rows])
    pixels = numpy.array([[float(value) for value in row.values()] for row in rows])
    cut = len(y) - test_rows
    components = PCA(codes.shape[1]).fit(pixels[:cut]).transform(pixels)

    def probe():
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, C=10.0))

    def accuracy(model, x):
        return float(model.fit(x[:cut], y[:cut]).score(x[cut:], y[cut:]))

    print(json.dumps({
        "codes": accuracy(probe(), codes),
        "pca": accuracy(probe(), components),
        "codes_neighbours": accuracy(KNeighborsClassifier(), codes),
        "pca_neighbours": accuracy(KNeighborsClassifier(), components),
        "within": float(cross_val_score(probe(), codes[:cut], y[:cut], cv=5).mean()),
        "within_neighbours": float(cross_val_score(KNeighborsClassifier(), codes[:cut], y[:cut], cv=5).mean()),
    }))


if __name__ == "__main__":
    main()
