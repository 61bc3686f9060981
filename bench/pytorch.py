"""The autoencoder of `train.py` in ordinary PyTorch: what latente's training speed is compared with.

Runs in .bench/venv. Prints JSON: the loss over the training rows after the last epoch, the seconds of each epoch, and the
most memory that the process held.

    python bench/pytorch.py FILE.npy EPOCHS BATCH LEARNING_RATE LATENT THREADS HIDDEN... [--slices]

`--slices` takes batches by indexing one tensor, without a DataLoader: the tightest loop one would write by hand.
"""

import json
import sys
import time

import numpy
import torch
from torch import nn


def main():
    words = [word for word in sys.argv[1:] if word != "--slices"]
    path, epochs, batch, rate, latent, threads = words[:6]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    rows = torch.from_numpy(numpy.load(path)).to(torch.float32) / 255
    model = autoencoder([rows.shape[1], *map(int, words[6:]), int(latent)])
    optimizer = torch.optim.Adam(model.parameters(), lr=float(rate))
    loss_function = nn.BCEWithLogitsLoss(reduction="sum")
    batches = slices if "--slices" in sys.argv else loader
    seconds = []
    for _ in range(int(epochs)):
        start = time.perf_counter()
        for x in batches(rows, int(batch)):
            optimizer.zero_grad()
            loss = loss_function(model(x), x) / len(x)
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        total = sum(loss_function(model(x), x).item() for x in rows.split(1024))
    print(json.dumps({"loss": total / len(rows), "epoch_seconds": seconds, "peak_kib": peak_kib()}))


def autoencoder(widths):
    """Linear layers with ReLU between them, down to the code and back; code and output are linear."""
    def stack(widths):
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return layers[:-1]

    return nn.Sequential(*stack(widths), *stack(widths[::-1]))


def loader(rows, batch):
    dataset = torch.utils.data.TensorDataset(rows)
    return (x for (x,) in torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=0))


def slices(rows, batch):
    return (rows[picked] for picked in torch.randperm(len(rows)).split(batch))


def peak_kib():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
