"""The jobs of `speed.py` in ordinary PyTorch and scikit-learn: what latente's training speed is compared with.

Runs in .bench/venv. Reads one job as JSON from the command line, trains, and prints JSON: the seconds of each epoch, and the
loss over the training rows at the end, in nats per row.

    python bench/pytorch_jobs.py '{"peer": "eager", "network": "mlp", "data": "train.npy", "scale": 255, "epochs": 2,
        "batch": 100, "lr": 0.001, "hidden": [512], "latent": 16, "threads": 2, "loss": "bernoulli"}'

Peers: `eager` (TensorDataset and a shuffling DataLoader without workers: the ordinary loop), `products` (the matrix products
of an mlp alone, at the shapes of its steps, and nothing else), `sklearn` (MLPRegressor), `together` (jobs of several rates as one
network of stacked weights, each layer one batched product, without a DataLoader). Networks: `mlp`, `vae`, `conv`.
"""

import json
import sys
import time

import numpy


def main():
    job = json.loads(sys.argv[1])
    rows = (numpy.load(job["data"])[: job.get("rows")].astype(numpy.float32) / job["scale"])[:, : job.get("columns")]
    peer = {"eager": eager, "products": products, "sklearn": sklearn, "together": together}[job["peer"]]
    print(json.dumps(peer(job, rows)))


def eager(job, rows):
    import torch
    from torch import nn

    torch.set_num_threads(job["threads"])
    rows = torch.from_numpy(rows)
    outcomes = []
    # Several rates are several jobs, one after the other.
    for rate in job.get("rates", [job["lr"]]):
        torch.manual_seed(0)
        model = {"mlp": mlp, "vae": Variational, "conv": Convolutional}[job["network"]](job, rows.shape[1])
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)

        def loss_of(x):
            if job["network"] == "vae":
                return model.loss(x)
            if job["loss"] == "bernoulli":
                return nn.functional.binary_cross_entropy_with_logits(model(x), x, reduction="sum") / len(x)
            return 0.5 * nn.functional.mse_loss(model(x), x, reduction="sum") / len(x)

        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=job["batch"], shuffle=True)
        seconds = []
        for _ in range(job["epochs"]):
            start = time.perf_counter()
            for (x,) in loader:
                optimizer.zero_grad()
                loss = loss_of(x)
                loss.backward()
                optimizer.step()
            seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            total = sum(loss_of(x).item() * len(x) for x in rows.split(1024))
        outcomes.append({"epoch_seconds": seconds, "loss": total / len(rows)})
    return outcomes[-1]


def stack(widths):
    """Linear layers with ReLU between them."""
    from torch import nn

    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def mlp(job, width):
    from torch import nn

    widths = [width, *job["hidden"], job["latent"]]
    return nn.Sequential(*stack(widths), *stack(widths[::-1]))


def Variational(job, width):
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(*stack([width, *job["hidden"], 2 * job["latent"]]))
            self.decoder = nn.Sequential(*stack([job["latent"], *job["hidden"][::-1], width]))

        def loss(self, x):
            mean, log_variance = self.encoder(x).chunk(2, dim=1)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            missed = nn.functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
            return (missed + kl) / len(x)

    return Model()


def Convolutional(job, width):
    """28 x 28, two convolutions of stride 2 with 32 and 64 channels, a linear code, and the same back."""
    from torch import nn

    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 7 * 7, job["latent"]),
        nn.Linear(job["latent"], 64 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 3, 2, 1, 1), nn.Flatten(),
    )


def products(job, rows):
    """One product forward and two back for each layer, but one for the first, whose input has no gradient."""
    import torch

    torch.set_num_threads(job["threads"])
    kind = torch.bfloat16 if job.get("half") else torch.float32
    batch, widths = job["batch"], [rows.shape[1], *job["hidden"], job["latent"], *job["hidden"][::-1], rows.shape[1]]
    values = [torch.randn(batch, width).to(kind) for width in widths]
    weights = [torch.randn(outputs, inputs).to(kind) for inputs, outputs in zip(widths, widths[1:])]
    forward = [torch.empty(batch, width, dtype=kind) for width in widths[1:]]
    slopes = [torch.empty_like(weight) for weight in weights]
    back = [torch.empty(batch, width, dtype=kind) for width in widths[:-1]]
    seconds = []
    with torch.no_grad():
        for _ in range(job["epochs"]):
            start = time.perf_counter()
            for _ in range(len(rows) // batch):
                for layer, weight in enumerate(weights):
                    torch.mm(values[layer], weight.t(), out=forward[layer])
                for layer in reversed(range(len(weights))):
                    torch.mm(values[layer + 1].t(), values[layer], out=slopes[layer])
                    if layer:
                        torch.mm(values[layer + 1], weights[layer], out=back[layer])
            seconds.append(time.perf_counter() - start)
    return {"epoch_seconds": seconds, "loss": None}


def together(job, rows):
    """Mlps of one shape that differ in their rate, in one pass; all see the same batches."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    rows = torch.from_numpy(rows)
    widths = [rows.shape[1], *job["hidden"], job["latent"], *job["hidden"][::-1], rows.shape[1]]
    rates = torch.tensor(job["rates"]).view(-1, 1, 1)
    models, parameters = len(job["rates"]), []
    for inputs, outputs in zip(widths, widths[1:]):
        bound = inputs**-0.5
        parameters += [torch.empty(models, inputs, outputs).uniform_(-bound, bound), torch.empty(models, 1, outputs).uniform_(-bound, bound)]
    means, squares = [torch.zeros_like(one) for one in parameters], [torch.zeros_like(one) for one in parameters]
    for one in parameters:
        one.requires_grad_()
    code = len(job["hidden"])

    def losses_of(x):
        values = x.expand(models, *x.shape)
        for layer in range(len(widths) - 1):
            values = torch.baddbmm(parameters[2 * layer + 1], values, parameters[2 * layer])
            if layer not in (code, len(widths) - 2):
                values = values.relu()
        return 0.5 * (values - x).square().sum((1, 2)) / len(x)

    seconds, step = [], 0
    for _ in range(job["epochs"]):
        start = time.perf_counter()
        for places in torch.randperm(len(rows)).split(job["batch"]):
            step += 1
            slopes = torch.autograd.grad(losses_of(rows[places]).sum(), parameters)
            with torch.no_grad():
                torch._foreach_lerp_(means, slopes, 0.1)
                torch._foreach_mul_(squares, 0.999)
                torch._foreach_addcmul_(squares, slopes, slopes, 0.001)
                spreads = torch._foreach_sqrt(squares)
                torch._foreach_div_(spreads, (1 - 0.999**step) ** 0.5)
                torch._foreach_add_(spreads, 1e-8)
                for one, change in zip(parameters, torch._foreach_div(means, spreads)):
                    one.addcmul_(change, rates, value=-1 / (1 - 0.9**step))
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        return {"epoch_seconds": seconds, "loss": losses_of(rows)[-1].item()}


def sklearn(job, rows):
    import warnings

    from sklearn.neural_network import MLPRegressor

    warnings.filterwarnings("ignore")
    hidden = [*job["hidden"], job["latent"], *job["hidden"][::-1]]

    def fit(epochs):
        model = MLPRegressor(hidden_layer_sizes=hidden, batch_size=job["batch"], learning_rate_init=job["lr"],
                             max_iter=epochs, alpha=0.0, n_iter_no_change=10**6, tol=0.0, random_state=0)
        start = time.perf_counter()
        model.fit(rows, rows)
        return model, time.perf_counter() - start

    model, seconds = fit(job["epochs"])
    loss = 0.5 * float(numpy.square(model.predict(rows) - rows).sum(axis=1).mean())
    return {"epoch_seconds": [seconds / job["epochs"]] * job["epochs"], "loss": loss}


if __name__ == "__main__":
    main()
