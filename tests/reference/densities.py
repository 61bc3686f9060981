#!/usr/bin/env python3
"""Values of densities by scipy, in 64 bits, for the tests of src/models/densities.rs.

    pip install numpy scipy && python3 tests/reference/densities.py > tests/reference/densities.json

`output` is what a decoder gives, `x` a prepared value, `nll` = -log p(x), `mean` and `spread` those of the density, in the
units that the module documents. `gradient` is d nll / d output by central differences.
"""

import json

import numpy as np
from scipy import stats
from scipy.special import expit

CASES = []


def add(name, parameters, output, x, nll, mean, spread):
    step = 1e-5
    gradient = (nll(output + step) - nll(output - step)) / (2 * step)
    CASES.append({"density": name, "parameters": parameters, "output": output, "x": x, "nll": float(nll(output)),
                  "gradient": float(gradient), "mean": float(mean), "spread": float(spread)})


for output, x in [(0.3, -1.2), (2.0, 2.5), (-0.7, 4.0)]:
    for variance in [1.0, 0.25, 4.0]:
        add("gaussian", {"variance": variance}, output, x, lambda o: -stats.norm.logpdf(x, o, np.sqrt(variance)), output,
            np.sqrt(variance))
        for freedom in [3.0, 10.0]:
            t = stats.t(freedom, output, np.sqrt(variance))
            add("student_t", {"variance": variance, "freedom": freedom}, output, x,
                lambda o: -stats.t.logpdf(x, freedom, o, np.sqrt(variance)), t.mean(), t.std())
        # A log-normal of the value v = exp(scale * x + shift); its logarithm has mean scale * output + shift.
        shift, scale = 1.5, 0.6
        value, sigma = np.exp(scale * x + shift), scale * np.sqrt(variance)
        law = stats.lognorm(sigma, scale=np.exp(scale * output + shift))
        add("log_normal", {"variance": variance, "shift": shift, "scale": scale}, output, x,
            lambda o: -stats.lognorm.logpdf(value, sigma, scale=np.exp(scale * o + shift)), (np.log(law.mean()) - shift) / scale,
            law.std())

for output in [-2.0, 0.4, 3.0]:
    for x in [0.0, 1.0]:
        add("bernoulli", {}, output, x, lambda o: -stats.bernoulli.logpmf(x, expit(o)), expit(output),
            np.sqrt(expit(output) * (1 - expit(output))))

for output in [-1.0, 0.5, 1.2]:
    for count in [0, 1, 7, 300]:
        shift, scale = 1.1, 0.8
        x = (np.log1p(count) - shift) / scale
        rate = lambda o: np.exp(scale * o + shift)
        prepared = (np.log1p(rate(output)) - shift) / scale
        add("poisson", {"shift": shift, "scale": scale}, output, x, lambda o: -stats.poisson.logpmf(count, rate(o)), prepared,
            stats.poisson(rate(output)).std())
        for failures in [0.5, 3.0]:
            law = lambda o: stats.nbinom(failures, failures / (failures + rate(o)))
            add("negative_binomial", {"shift": shift, "scale": scale, "failures": failures}, output, x,
                lambda o: -law(o).logpmf(count), prepared, law(output).std())

for output in [-1.0, 0.2, 1.5]:
    thresholds = np.array([-1.5, -0.5, 0.5, 1.5])  # as they start for five levels
    probabilities = lambda o: np.diff(np.concatenate([[0.0], expit(thresholds - o), [1.0]]))
    ranks = np.arange(5) / 4
    mean = probabilities(output) @ ranks
    spread = np.sqrt(probabilities(output) @ (ranks - mean) ** 2)
    for rank in range(5):
        add("ordinal", {"levels": 5}, output, rank / 4, lambda o: -np.log(probabilities(o)[rank]), mean, spread)

for output in [-1.0, 0.2, 2.0]:
    levels, scale = 17, 0.08
    for level in [0, 5, 16]:
        def mass(o):
            law, half, x = stats.logistic(expit(o), scale), 0.5 / (levels - 1), level / (levels - 1)
            low = 0.0 if level == 0 else law.cdf(x - half)
            high = 1.0 if level == levels - 1 else law.cdf(x + half)
            return -np.log(high - low)
        add("discretized_logistic", {"levels": levels, "variance": scale**2}, output, level / (levels - 1), mass, expit(output),
            stats.logistic(expit(output), scale).std())

print("[\n" + ",\n".join(json.dumps(case) for case in CASES) + "\n]")
