"""The network by itself, without a server: rows a second of batches of 4,096, in one process.

    python bare.py MODEL THREADS SECONDS
"""

import sys
import time

import torch
from network import encoder

model = encoder(sys.argv[1], int(sys.argv[2]))
rows = torch.rand(4096, 784)
with torch.inference_mode():
    for _ in range(5):
        model(rows)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < float(sys.argv[3]):
        model(rows)
        count += 1
    print(count * len(rows) / (time.perf_counter() - start))
