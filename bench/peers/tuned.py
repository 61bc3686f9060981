"""FastAPI as far as one goes by hand: an asynchronous handler that neither validates nor leaves its thread, orjson both ways,
and raw 32-bit floats for who sends many rows.

    uvicorn tuned:app           with MODEL=model.safetensors
"""

import os

import numpy
import orjson
import torch
from fastapi import FastAPI, Request, Response
from network import encoder

app = FastAPI()
model = encoder(os.environ["MODEL"], int(os.environ["THREADS"]))


@app.post("/encode")
async def encode(request: Request):
    rows = numpy.array(orjson.loads(await request.body())["rows"], dtype=numpy.float32)
    with torch.inference_mode():
        codes = model(torch.from_numpy(rows)).numpy()
    return Response(orjson.dumps({"codes": codes}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.post("/raw")
async def raw(request: Request):
    rows = numpy.frombuffer(await request.body(), dtype="<f4").reshape(-1, 784)
    with torch.inference_mode():
        codes = model(torch.from_numpy(rows)).numpy()
    return Response(codes.tobytes(), media_type="application/octet-stream")
