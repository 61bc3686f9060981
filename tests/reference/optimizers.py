#!/usr/bin/env python3
"""Steps of optimizers and courses of learning rates by PyTorch, in 64 bits, for the tests of src/training.

    pip install torch && python3 tests/reference/optimizers.py > tests/reference/optimizers.json

A weight decay of latente is apart from the gradient in every optimizer: beside AdamW, which does the same, weights are
shrunk by hand before PyTorch's step. PyTorch has no Lion; it is written out here from the paper (Chen et al., 2023).
"""

import json
import math

import torch

torch.set_default_dtype(torch.float64)
START = [0.5, -1.25, 2.0]
GRADIENTS = [[1.0, -2.0, 0.001], [0.5, 0.1, 0.0], [-3.0, 2.0, 0.2], [1e-4, 1.0, -1.0], [0.3, -0.3, 5.0], [0.3, 0.0, -4.0],
             [-0.2, -1.5, 0.25], [2.0, 0.75, -0.01]]


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, betas):
        super().__init__(params, dict(lr=lr, betas=betas))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p -= group["lr"] * torch.sign(first * m + (1 - first) * p.grad)
                m.copy_(second * m + (1 - second) * p.grad)


def steps(make, decay=0.0, lr=0.0):
    w = torch.nn.Parameter(torch.tensor(START))
    optimizer, found = make([w]), []
    for gradient in GRADIENTS:
        w.grad = torch.tensor(gradient)
        with torch.no_grad():
            w *= 1 - lr * decay
        optimizer.step()
        found.append(w.tolist())
    return found


OPTIMIZERS = []


def add(optimizer, make, decay=0.0):
    OPTIMIZERS.append({"optimizer": optimizer, "weights": steps(make, decay, optimizer.get("lr", 0.0))})


O = torch.optim
add({"kind": "adam"}, lambda p: O.Adam(p))
add({"kind": "adam", "lr": 0.02, "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3},
    lambda p: O.Adam(p, lr=0.02, betas=(0.5, 0.9), eps=1e-3))
add({"kind": "adam", "lr": 0.02, "weight_decay": 0.1}, lambda p: O.AdamW(p, lr=0.02, weight_decay=0.1))
add({"kind": "adamw"}, lambda p: O.AdamW(p))
add({"kind": "adamw", "lr": 0.05, "weight_decay": 0.5}, lambda p: O.AdamW(p, lr=0.05, weight_decay=0.5))
add({"kind": "sgd"}, lambda p: O.SGD(p, lr=0.01, momentum=0.9))
add({"kind": "sgd", "lr": 0.05, "momentum": 0.0}, lambda p: O.SGD(p, lr=0.05))
add({"kind": "sgd", "lr": 0.05, "momentum": 0.8, "nesterov": True}, lambda p: O.SGD(p, lr=0.05, momentum=0.8, nesterov=True))
add({"kind": "sgd", "lr": 0.05, "momentum": 0.8, "weight_decay": 0.3}, lambda p: O.SGD(p, lr=0.05, momentum=0.8), decay=0.3)
add({"kind": "rmsprop"}, lambda p: O.RMSprop(p, lr=0.001))
add({"kind": "rmsprop", "lr": 0.01, "beta2": 0.9, "epsilon": 1e-6, "momentum": 0.7},
    lambda p: O.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-6, momentum=0.7))
add({"kind": "rmsprop", "lr": 0.01, "weight_decay": 0.2}, lambda p: O.RMSprop(p, lr=0.01), decay=0.2)
add({"kind": "lion"}, lambda p: Lion(p, 1e-4, (0.9, 0.99)))
add({"kind": "lion", "lr": 0.03, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.2}, lambda p: Lion(p, 0.03, (0.8, 0.95)), decay=0.2)

SCHEDULES = []
S = torch.optim.lr_scheduler


def course(schedule, warmup, epoch_steps, epochs, make, by_epoch=False, losses=()):
    optimizer = O.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, shares = make(optimizer), []
    for step in range(epoch_steps * epochs):
        shares.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not by_epoch:
            scheduler.step()
        elif (step + 1) % epoch_steps == 0:
            scheduler.step(*([losses[step // epoch_steps]] if losses else []))
    SCHEDULES.append({"schedule": schedule, "warmup": warmup, "epoch_steps": epoch_steps, "losses": list(losses), "shares": shares})


course("constant", None, 3, 2, lambda o: S.ConstantLR(o, 1.0))
course({"kind": "step", "every_epochs": 3, "factor": 0.4}, None, 4, 10, lambda o: S.StepLR(o, 3, 0.4), by_epoch=True)
course("step", None, 2, 25, lambda o: S.StepLR(o, 10, 0.1), by_epoch=True)
course("cosine", None, 5, 8, lambda o: S.CosineAnnealingLR(o, 40))
course({"kind": "cosine", "floor": 0.2}, None, 5, 8, lambda o: S.CosineAnnealingLR(o, 40, eta_min=0.2))
course("one_cycle", None, 5, 10, lambda o: S.OneCycleLR(o, max_lr=1.0, total_steps=50, cycle_momentum=False))
course({"kind": "one_cycle", "rise": 0.5, "start": 0.1, "end": 0.01}, None, 5, 10,
       lambda o: S.OneCycleLR(o, max_lr=1.0, total_steps=50, pct_start=0.5, div_factor=10, final_div_factor=10, cycle_momentum=False))
LOSSES = [5.0, 4.0, 4.0, 4.1, 3.95, 3.9, 3.9, 3.9, 3.9, 3.0, 3.1, 3.1, 3.1, 3.1, 3.1, 3.1, 3.1, 3.1, 3.1, 3.1]
course({"kind": "reduce_on_plateau", "patience": 2, "factor": 0.5, "min_delta": 0.2, "floor": 0.1}, None, 3, 20,
       lambda o: S.ReduceLROnPlateau(o, factor=0.5, patience=2, threshold=0.2, threshold_mode="abs", min_lr=0.1, eps=0.0),
       by_epoch=True, losses=LOSSES)
course({"kind": "reduce_on_plateau", "patience": 0}, None, 3, 20,
       lambda o: S.ReduceLROnPlateau(o, factor=0.1, patience=0, threshold=0.0, threshold_mode="abs", eps=0.0),
       by_epoch=True, losses=LOSSES)
course("constant", {"steps": 8}, 4, 5, lambda o: S.LinearLR(o, 1 / 8, 1.0, 7))
course("constant", {"epochs": 1.5}, 4, 5, lambda o: S.LinearLR(o, 1 / 6, 1.0, 5))
course("cosine", {"epochs": 2}, 5, 8,
       lambda o: S.LambdaLR(o, lambda s: min(1.0, (s + 1) / 10) * (1 + math.cos(math.pi * s / 40)) / 2))

print(json.dumps({"start": START, "gradients": GRADIENTS, "optimizers": OPTIMIZERS, "schedules": SCHEDULES}, indent=1))
