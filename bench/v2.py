"""Triton's own client against this server, unchanged: everything that it can ask a model by HTTP.

Fetches `tritonclient` and `numpy` into .bench/venv, starts a server of its own, trains two small models (images of digits, and a
table with texts), and compares each answer with that of `/v1`. Fails where one differs.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import say

PACKAGES = ("numpy", "tritonclient", "geventhttpclient", "python-rapidjson", "aiohttp")
DIGITS = harness.ROOT / "demo" / "digits.csv.gz"
INSIDE = "LATENTE_PROTOCOL"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latente", type=Path, default=harness.LATENTE, help="the program to try")
    arguments.add_argument("--dry", action="store_true", help="leave BENCHMARKS.md alone")
    options = arguments.parse_args()
    version = harness.check(options.latente)
    python = harness.python_with(*PACKAGES)
    machine = harness.Machine()
    machine.look()
    with harness.server(options.latente) as server:
        base = server.client.base
        digits = server.upload(DIGITS, "name=digits&label=digit&shape=8x8")
        spec = {"model": {"family": "vae", "settings": {"latent": 8}}, "training": {"epochs": 5, "seed": 7}}
        _, images = server.train(digits, spec)
        lines = [f"{('low', 'middle', 'high')[row % 3]},{row % 3 * 10 + row % 7},{row % 5}" for row in range(200)]
        table = server.client.post_bytes("/v1/datasets?name=table", "\n".join(["level,a,b", *lines]).encode())["id"]
        _, texts = server.train(table, {"model": {"family": "autoencoder", "settings": {"latent": 2}}, "training": {"epochs": 3}})
        asked = {"base": base, "digits": digits, "images": images.rsplit("/", 1)[1], "texts": texts.rsplit("/", 1)[1]}
        done = subprocess.run([str(python), __file__], env={**harness.ENVIRONMENT, INSIDE: json.dumps(asked)}, text=True,
                              stdout=subprocess.PIPE)
    say(done.stdout.rstrip())
    if done.returncode != 0:
        sys.exit("missed: an answer differs, or the client could not ask (above)")
    found = json.loads(done.stdout.splitlines()[-1])
    client = harness.version(python, "tritonclient")
    text = [f"{version} and tritonclient {client}, as it comes from PyPI. {machine.sentence()}", "",
            f"{found['checks']} answers of the client's HTTP interface, the ordinary and the asynchronous one, each as `/v1` gives it: "
            f"{found['names']}.", "",
            *harness.table([["1,797 rows of 64 numbers to 8 codes, median of 20", "milliseconds"], *found["times"]])]
    if not options.dry:
        harness.write_section("v2", text)


class Checks:
    """What was compared."""

    def __init__(self, base):
        self.base, self.count, self.names = base, 0, []

    def name(self, name):
        self.names.append(name)
        say(f"  {name}")

    def holds(self, what, truth):
        self.count += 1
        if not truth:
            sys.exit(f"{self.names[-1]}: {what}")

    def close(self, what, one, other):
        import numpy

        one, other = numpy.asarray(one, dtype=float), numpy.asarray(other, dtype=float).reshape(numpy.shape(one))
        self.holds(f"{what} differs from /v1", numpy.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True))

    def ask(self, path, body=None):
        """An answer of `/v1`."""
        from urllib.request import Request, urlopen

        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.base + path, data, {"Content-Type": "application/json"}), timeout=60) as response:
            return json.load(response)


def inside(base, digits, images, texts):
    """Runs where tritonclient is."""
    import numpy
    import tritonclient.http as triton

    checks = Checks(base)
    client = triton.InferenceServerClient(url=base.partition("//")[2], concurrency=4)
    rows = numpy.array(checks.ask(f"/v1/datasets/{digits}/rows?limit=1797")["rows"], dtype=numpy.float32)[:, :64]
    few = rows[:5]
    encoded = checks.ask(f"/v1/models/{images}/encode", {"rows": few.tolist()})

    def tensor(name, values, datatype, binary=True):
        given = triton.InferInput(name, list(values.shape), datatype)
        return given.set_data_from_numpy(values, binary_data=binary)

    def wanted(*names, binary=True):
        return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]

    def refuses(what, part, ask):
        try:
            ask()
        except triton.InferenceServerException as error:
            checks.holds(f"{what}: {error}", part in str(error))
        else:
            checks.holds(f"{what} is not refused", False)

    say("Health, metadata and configuration")
    checks.name("is_server_live")
    checks.holds("not live", client.is_server_live())
    checks.name("is_server_ready")
    checks.holds("not ready", client.is_server_ready())
    checks.name("is_model_ready")
    checks.holds("not ready", client.is_model_ready(images) and client.is_model_ready(images, "1"))
    checks.holds("an unknown model is ready", not client.is_model_ready("nothing"))
    checks.name("get_server_metadata")
    metadata = client.get_server_metadata()
    checks.holds(metadata, metadata["name"] == "latente" and "binary_tensor_data" in metadata["extensions"])
    checks.name("get_model_metadata")
    metadata = client.get_model_metadata(images)
    checks.holds(metadata, metadata["inputs"][0] == {"name": "rows", "datatype": "FP32", "shape": [-1, 64]})
    checks.holds("with a version it differs", client.get_model_metadata(images, "1") == metadata)
    checks.name("get_model_config")
    config = client.get_model_config(images)
    checks.holds(config, config["name"] == images and config["input"][0]["dims"] == [64])

    say("Inference")
    checks.name("infer, JSON")
    result = client.infer(images, [tensor("rows", few, "FP32", False)], outputs=wanted("codes", "spread", binary=False), request_id="7")
    checks.close("codes", result.as_numpy("codes"), encoded["codes"])
    checks.close("spread", result.as_numpy("spread"), encoded["spread"])
    checks.holds("the id is another", result.get_response()["id"] == "7")
    checks.name("infer, binary")
    for datatype, kind in (("FP32", "float32"), ("FP64", "float64"), ("FP16", "float16"), ("UINT8", "uint8"), ("INT64", "int64")):
        result = client.infer(images, [tensor("rows", few.astype(kind), datatype)])
        checks.close(f"codes of {datatype}", result.as_numpy("codes"), encoded["codes"])
    checks.holds("the version is another", client.infer(images, [tensor("rows", few, "FP32")], "1").get_response()["model_version"] == "1")
    checks.name("infer, several outputs")
    names = ("rows", "errors", "score", "anomaly", "is_anomaly", "log_likelihood", "codes")
    result = client.infer(images, [tensor("rows", few, "FP32")], outputs=wanted(*names))
    rebuilt = checks.ask(f"/v1/models/{images}/reconstruct", {"rows": few.tolist()})
    scored = checks.ask(f"/v1/models/{images}/score", {"rows": few.tolist()})["scores"]
    checks.close("rows", result.as_numpy("rows"), rebuilt["rows"])
    checks.close("errors", result.as_numpy("errors"), rebuilt["errors"])
    checks.close("codes", result.as_numpy("codes"), encoded["codes"])
    for name in ("score", "anomaly", "is_anomaly", "log_likelihood"):
        checks.close(name, result.as_numpy(name), [row[name] for row in scored])
    checks.name("infer, decode, sample and impute")
    codes = numpy.array(encoded["codes"], dtype=numpy.float32)
    result = client.infer(images, [tensor("codes", codes, "FP32")])
    checks.close("decoded rows", result.as_numpy("rows"), checks.ask(f"/v1/models/{images}/decode", {"codes": codes.tolist()})["rows"])
    result = client.infer(images, [], parameters={"question": "sample", "n": 3, "seed": 5})
    checks.close("samples", result.as_numpy("rows"), checks.ask(f"/v1/models/{images}/sample", {"n": 3, "seed": 5})["rows"])
    gappy = few.copy()
    gappy[:, 20:30] = numpy.nan
    result = client.infer(images, [tensor("rows", gappy, "FP32")], parameters={"question": "impute"})
    nulls = [[None if numpy.isnan(value) else float(value) for value in row] for row in gappy]
    checks.close("imputed rows", result.as_numpy("rows"), checks.ask(f"/v1/models/{images}/impute", {"rows": nulls})["rows"])
    checks.name("infer, compressed")
    for way in ("gzip", "deflate"):
        result = client.infer(images, [tensor("rows", few, "FP32")], request_compression_algorithm=way, response_compression_algorithm=way)
        checks.close(f"codes by {way}", result.as_numpy("codes"), encoded["codes"])
        result = client.infer(images, [tensor("rows", few, "FP32", False)], outputs=wanted("codes", binary=False),
                              request_compression_algorithm=way, response_compression_algorithm=way)
        checks.close(f"codes by {way}, JSON", result.as_numpy("codes"), encoded["codes"])
    checks.name("infer, texts")
    cells = numpy.array([["high"], ["low"]], dtype=object)
    numbers = numpy.array([[3], [20]], dtype=numpy.float32)
    body = {"rows": [["high", 3, 1], ["low", 20, 4]]}
    rebuilt = checks.ask(f"/v1/models/{texts}/reconstruct", body)["rows"]
    for binary in (True, False):
        given = [tensor("level", cells, "BYTES", binary), tensor("a", numbers, "FP32", binary),
                 tensor("b", numpy.array([[1], [4]], dtype=numpy.int32), "INT32", binary)]
        result = client.infer(texts, given, outputs=wanted("level", "a", "codes", binary=binary))
        checks.close("codes", result.as_numpy("codes"), checks.ask(f"/v1/models/{texts}/encode", body)["codes"])
        checks.close("a", result.as_numpy("a"), [row[1] for row in rebuilt])
        told = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("level")[:, 0]]
        checks.holds(f"levels are {told}", told == [row[0] for row in rebuilt])
    checks.name("async_infer")
    asked = [client.async_infer(images, [tensor("rows", rows[start:start + 5], "FP32")]) for start in range(0, 40, 5)]
    together = numpy.concatenate([one.get_result().as_numpy("codes") for one in asked])
    checks.close("codes", together, checks.ask(f"/v1/models/{images}/encode", {"rows": rows[:40].tolist()})["codes"])
    checks.name("generate_request_body, parse_response_body")
    made, length = triton.InferenceServerClient.generate_request_body([tensor("rows", few, "FP32")])
    from urllib.request import Request, urlopen
    request = Request(f"{base}/v2/models/{images}/infer", made, {"Inference-Header-Content-Length": str(length)})
    with urlopen(request, timeout=60) as response:
        length = int(response.headers["Inference-Header-Content-Length"])
        result = triton.InferenceServerClient.parse_response_body(response.read(), header_length=length)
    checks.close("codes", result.as_numpy("codes"), encoded["codes"])
    checks.name("tritonclient.http.aio")
    checks.close("codes", asyncio.run(by_asyncio(base, images, few)), encoded["codes"])

    say("Repository and statistics")
    checks.name("get_model_repository_index")
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    checks.holds(index, index[images]["state"] == "READY")
    checks.name("unload_model")
    client.unload_model(images)
    checks.holds("still ready", not client.is_model_ready(images))
    refuses("an unloaded model", "unloaded", lambda: client.infer(images, [tensor("rows", few, "FP32")]))
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    checks.holds(index, index[images]["state"] == "UNAVAILABLE" and index[texts]["state"] == "READY")
    checks.name("load_model")
    client.load_model(images)
    checks.holds("not ready", client.is_model_ready(images))
    checks.close("codes", client.infer(images, [tensor("rows", few, "FP32")]).as_numpy("codes"), encoded["codes"])
    checks.name("get_inference_statistics")
    before = client.get_inference_statistics(images)["model_stats"][0]
    client.infer(images, [tensor("rows", few, "FP32")])
    after = client.get_inference_statistics(images, "1")["model_stats"][0]
    checks.holds(after, after["inference_count"] == before["inference_count"] + 5)
    counts = [one["inference_stats"]["success"]["count"] for one in (before, after)]
    checks.holds(counts, counts[1] == counts[0] + 1)
    checks.holds("models are missing", len(client.get_inference_statistics()["model_stats"]) == 2)

    say("What is wrong or absent is said so that the client understands it")
    checks.name("errors")
    refuses("an unknown model", "nothing", lambda: client.infer("nothing", [tensor("rows", few, "FP32")]))
    refuses("a wrong shape", "/inputs/0/shape", lambda: client.infer(images, [tensor("rows", few[:, :3], "FP32")]))
    refuses("an unknown output", "/outputs/0/name", lambda: client.infer(images, [tensor("rows", few, "FP32")], outputs=wanted("colour")))
    refuses("a timeout of 1 microsecond", "timeout", lambda: client.infer(images, [tensor("rows", rows, "FP32")], outputs=wanted("elbo"), timeout=1))
    refuses("shared memory", "there is nothing at", lambda: client.get_system_shared_memory_status())
    refuses("tracing", "there is nothing at", lambda: client.get_trace_settings())

    def median(ask):
        ask()
        took = []
        for _ in range(20):
            start = time.perf_counter()
            ask()
            took.append(time.perf_counter() - start)
        return f"{sorted(took)[10] * 1000:.1f}"

    times = [
        ["tritonclient, bytes both ways", median(lambda: client.infer(images, [tensor("rows", rows, "FP32")], outputs=wanted("codes")))],
        ["tritonclient, JSON both ways",
         median(lambda: client.infer(images, [tensor("rows", rows, "FP32", False)], outputs=wanted("codes", binary=False)))],
        ["`/v1/models/…/encode`, JSON both ways, Python's own HTTP client",
         median(lambda: checks.ask(f"/v1/models/{images}/encode", {"rows": rows.tolist()}))],
    ]
    client.close()
    say(json.dumps({"checks": checks.count, "names": "; ".join(f"`{name}`" if " " not in name else name for name in checks.names),
                    "times": times}))


async def by_asyncio(base, model, rows):
    import tritonclient.http.aio as triton

    async with triton.InferenceServerClient(url=base.partition("//")[2]) as client:
        assert await client.is_server_ready() and await client.is_model_ready(model)
        await client.get_model_metadata(model)
        given = triton.InferInput("rows", list(rows.shape), "FP32")
        given.set_data_from_numpy(rows)
        await client.infer(model, [given], request_compression_algorithm="gzip", response_compression_algorithm="deflate")
        return (await client.infer(model, [given])).as_numpy("codes")


if __name__ == "__main__":
    if INSIDE in os.environ:
        inside(**json.loads(os.environ[INSIDE]))
    else:
        main()
