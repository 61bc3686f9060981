"""log p(x) of rows by importance samples, from the weights of a model file, for `likelihoods.py`.

Runs in .bench/venv. Shares no code with the program: plain layers of tanh, a `vae` with bernoulli or gaussian columns, and a `helmholtz`
machine. Prints JSON: of each row the estimate and its standard error, both in nats.

    python bench/densities.py MODEL.safetensors ROWS.npy DRAWS
"""

import json
import math
import sys

import numpy
import torch
from safetensors import safe_open
from torch.distributions import Bernoulli, Independent, Normal

torch.set_default_dtype(torch.float64)
torch.manual_seed(20)
AT_ONCE = 50


def main():
    with safe_open(sys.argv[1], "pt") as file:
        weights = {name: file.get_tensor(name).double() for name in file.keys()}
        header = json.loads(file.metadata()["latente"])
    treatments = [column["linear"] for column in header["preparation"]]
    shift, scale = (torch.tensor([treatment[key] for treatment in treatments], dtype=torch.float64) for key in ("shift", "scale"))
    rows = torch.from_numpy(numpy.load(sys.argv[2])).double()[:, :len(treatments)]
    # The program keeps prepared values in 32 bits.
    x = ((rows - shift) / scale).float().double()
    family = header["spec"]["model"]["family"]
    weigh = {"vae": vae, "helmholtz": helmholtz}[family](weights, header["spec"])
    draws = int(sys.argv[3])
    with torch.no_grad():
        logs = torch.cat([weigh(x, min(AT_ONCE, draws - start)) for start in range(0, draws, AT_ONCE)])  # [draws, rows]
    estimate = logs.logsumexp(0) - math.log(draws)
    # The relative standard deviation of a mean of weights is that of its logarithm.
    relative = (logs - logs.max(0).values).exp()
    error = relative.std(0) / relative.mean(0) / math.sqrt(draws)
    print(json.dumps({"log_likelihood": estimate.tolist(), "standard_error": error.tolist()}))


def layers(weights, prefix):
    """Linear layers with tanh between them."""
    count = sum(name.startswith(f"{prefix}.") and name.endswith(".weight") for name in weights)

    def forward(x):
        for layer in range(count):
            x = torch.nn.functional.linear(x.tanh() if layer else x, weights[f"{prefix}.{layer}.weight"], weights[f"{prefix}.{layer}.bias"])
        return x

    return forward


def rows_given(weights, spec):
    """log p(x given the decoder's output)."""
    likelihood = spec["likelihood"]
    kind = likelihood if isinstance(likelihood, str) else likelihood["kind"]
    if kind == "bernoulli":
        # Shades between 0 and 1 count by cross-entropy, which is no density of torch's own for them.
        return lambda output, x: -torch.nn.functional.binary_cross_entropy_with_logits(output, x.expand_as(output), reduction="none").sum(-1)
    assert kind == "gaussian"
    # The file keeps how far the logarithm of the variance has gone from where it started.
    deviation = ((weights["likelihood.log_variance_drift"] * DRIFT + START).clamp(-12, 12) / 2).exp()
    return lambda output, x: Normal(output, deviation).log_prob(x).sum(-1)


# Where the logarithm of a variance starts, and what a drift of 1 is; see `START` and `UNIT` in src/models/densities.rs.
START, DRIFT = -2.0, 10.0


def vae(weights, spec):
    encode, decode, given = layers(weights, "encoder"), layers(weights, "decoder"), rows_given(weights, spec)

    def weigh(x, draws):
        mean, log_variance = encode(x).chunk(2, -1)
        q = Independent(Normal(mean, (log_variance / 2).exp()), 1)
        prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        z = q.sample((draws,))
        return given(decode(z), x) + prior.log_prob(z) - q.log_prob(z)

    return weigh


def helmholtz(weights, spec):
    """Two binary layers: `low` next to the rows, `top` above it."""
    to_low, to_rows, given = layers(weights, "recognition.rows"), layers(weights, "generative.rows"), rows_given(weights, spec)
    to_top, down = layers(weights, "recognition.0"), layers(weights, "generative.0")

    def binary(logits):
        return Independent(Bernoulli(logits=logits), 1)

    def weigh(x, draws):
        q_low = binary(to_low(x))
        low = q_low.sample((draws,))
        q_top = binary(to_top(low))
        top = q_top.sample()
        log_q = q_low.log_prob(low) + q_top.log_prob(top)
        log_p = binary(weights["generative.prior"]).log_prob(top) + binary(down(top)).log_prob(low) + given(to_rows(low), x)
        return log_p - log_q

    return weigh


if __name__ == "__main__":
    main()
