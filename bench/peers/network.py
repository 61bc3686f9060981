"""The network that the peers of `bench/serve.py` serve: the encoder of a model file, read into PyTorch."""

import json
import struct
from pathlib import Path

import numpy
import torch


def encoder(path, threads):
    """784-512-16 with ReLU between, as the file says."""
    torch.set_num_threads(threads)
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    tensors = json.loads(data[8:8 + length])
    tensors.pop("__metadata__", None)

    def tensor(name):
        start, end = tensors[name]["data_offsets"]
        values = numpy.frombuffer(data[8 + length + start:8 + length + end], "<f4").copy()
        return torch.from_numpy(values.reshape(tensors[name]["shape"]))

    count = sum(name.startswith("encoder.") and name.endswith(".weight") for name in tensors)
    layers = []
    for number in range(count):
        weight, bias = tensor(f"encoder.{number}.weight"), tensor(f"encoder.{number}.bias")
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()
