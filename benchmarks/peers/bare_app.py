"""The bare web peer: Starlette, uvicorn and msgspec, with the requests and answers of our infer endpoint.

`python -m benchmarks.peers.bare_app PORT [FILE.onnx ...]`. It checks nothing, queues nothing and knows no models: the
least code that does the same work for a good request.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferRequest(msgspec.Struct):
    inputs: list[Tensor]


class BinaryTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, int]


class BinaryRequest(msgspec.Struct):
    inputs: list[BinaryTensor]
    parameters: dict[str, bool] = {}


class BinaryResponse(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[BinaryTensor]


class InferResponse(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[Tensor]


_decode = msgspec.json.Decoder(InferRequest).decode
_decode_head = msgspec.json.Decoder(BinaryRequest).decode
_encode = msgspec.json.Encoder().encode


def _answer(model: str, outputs: list[Tensor]) -> Response:
    return Response(_encode(InferResponse(model, "1", outputs)), media_type="application/json")


def _array(tensor: Tensor) -> Any:
    return np.array(tensor.data, np.float32).reshape(tensor.shape)


def _tensor(name: str, array: Any) -> Tensor:
    return Tensor(name, list(array.shape), "FP32", array.ravel().tolist())


async def _live(_: Request) -> Response:
    return Response(b'{"status":"live"}', media_type="application/json")


async def _echo(request: Request) -> Response:
    """JSON to arrays, as a model would get them, and back."""
    body = _decode(await request.body())
    return _answer("echo", [_tensor(tensor.name, _array(tensor)) for tensor in body.inputs])


async def _echo_lists(request: Request) -> Response:
    """JSON to Python lists and back: no arrays at all."""
    return _answer("echo", _decode(await request.body()).inputs)


async def _means(request: Request) -> Response:
    """The mean of each channel of a binary image, in binary where that is asked for."""
    body = await request.body()
    length = int(request.headers["inference-header-content-length"])
    head = _decode_head(memoryview(body)[:length])
    (tensor,) = head.inputs
    image = np.frombuffer(body, np.float32, offset=length).reshape(tensor.shape)
    means = image.mean(axis=(2, 3))
    if not head.parameters.get("binary_data_output"):
        return _answer("means", [_tensor("y", means)])
    outputs = [BinaryTensor("y", list(means.shape), "FP32", {"binary_data_size": means.nbytes})]
    answer = _encode(BinaryResponse("means", "1", outputs))
    headers = {"inference-header-content-length": str(len(answer))}
    return Response(answer + means.tobytes(), media_type="application/octet-stream", headers=headers)


def _onnx(file: Path) -> Handler:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]

    async def infer(request: Request) -> Response:
        body = _decode(await request.body())
        outputs = session.run(None, {tensor.name: _array(tensor) for tensor in body.inputs})
        return _answer(file.stem, [_tensor(name, array) for name, array in zip(names, outputs, strict=True)])

    return infer


def main() -> None:
    port, files = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    routes = [
        Route("/health/live", _live),
        Route("/v2/models/echo/infer", _echo, methods=["POST"]),
        Route("/v2/models/echo-lists/infer", _echo_lists, methods=["POST"]),
        *(Route(f"/v2/models/means-{executor}/infer", _means, methods=["POST"]) for executor in ("thread", "runner")),
        *(Route(f"/v2/models/{file.stem}/infer", _onnx(file), methods=["POST"]) for file in files),
    ]
    uvicorn.run(
        Starlette(routes=routes),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
