"""LitServe, which gathers requests into batches as this program does.

    python lit.py PORT          with MODEL=model.safetensors
"""

import os
import sys

import litserve
import torch
from network import encoder


class Encoder(litserve.LitAPI):
    def setup(self, device):
        self.model = encoder(os.environ["MODEL"], int(os.environ["THREADS"]))

    def decode_request(self, request):
        return torch.tensor(request["rows"])[0]

    def batch(self, inputs):
        return torch.stack(inputs)

    def predict(self, rows):
        with torch.inference_mode():
            return self.model(rows)

    def unbatch(self, codes):
        return list(codes)

    def encode_response(self, code):
        return {"codes": [code.tolist()]}


if __name__ == "__main__":
    api = Encoder(max_batch_size=64, batch_timeout=0.002, api_path="/encode")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False)
