"""FastAPI as most people write it: a plain handler, a pydantic body, lists in and out.

    uvicorn ordinary:app        with MODEL=model.safetensors
"""

import os

import torch
from fastapi import FastAPI
from network import encoder
from pydantic import BaseModel

app = FastAPI()
model = encoder(os.environ["MODEL"], int(os.environ["THREADS"]))


class Rows(BaseModel):
    rows: list[list[float]]


@app.post("/encode")
def encode(body: Rows):
    with torch.no_grad():
        return {"codes": model(torch.tensor(body.rows)).tolist()}
