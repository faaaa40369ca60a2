"""Keeps calls of ModelInfer outstanding and counts their answers: h2load, or Python clients where it is missing.

`python -m benchmarks.load_grpc PORT OUTSTANDING SECONDS REQUEST_FILE` is one of the clients: prints `{"answers": N}`.
They need as much CPU time as the server: with them only the server's own CPU time tells anything.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from benchmarks.processes import HOST, BenchmarkError, Process
from inference_engine.adapters.grpc.protocol import SERVICE, InferRequest, InferResponse
from inference_engine.domain.tensors import Array

METHOD = f"/{SERVICE}/ModelInfer"
_CONNECTIONS = 4
_SPARE_S = 20.0
_ODD_SIZES = 0.02  # of an answer: calls that the end of a measurement cuts
_FOUND = re.compile(
    r"finished in (?P<seconds>[\d.]+)(?P<unit>m?s).*\b(?P<answers>\d+) succeeded.*\((?P<data_bytes>\d+)\) data",
    re.DOTALL,
)


def request_bytes(model: str, inputs: int) -> bytes:
    """A ModelInferRequest of one row of float32 numbers, as raw contents."""
    array = np.random.default_rng(1).standard_normal((1, inputs)).astype(np.float32)
    request = InferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    encoded: bytes = request.SerializeToString()
    return encoded


def generator() -> str:
    """Which load generator this machine has."""
    return "h2load" if has_h2load() else f"{_CONNECTIONS} clients in Python, which are the limit"


def has_h2load() -> bool:
    return shutil.which("h2load") is not None


def answer_of(port: int, request: bytes) -> tuple[Array, int]:
    """The first output of one call, and the size of the answer's message in bytes."""
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.unary_unary(METHOD)
        try:
            encoded = call(request, timeout=_SPARE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise BenchmarkError(f"gRPC on port {port}: {error}") from None
    return np.frombuffer(InferResponse.FromString(encoded).raw_output_contents[0], np.float32), len(encoded)


def load(
    folder: Path, port: int, request: bytes, outstanding: int, seconds: float, core_ids: Collection[int]
) -> tuple[int, float]:
    """How many calls were answered, and in how many seconds, with `outstanding` of them all the time.

    Raises:
        BenchmarkError: an answer was an error or was lost.
    """
    return (_h2load if has_h2load() else _clients)(folder, port, request, outstanding, seconds, core_ids)


def _h2load(
    folder: Path, port: int, request: bytes, outstanding: int, seconds: float, core_ids: Collection[int]
) -> tuple[int, float]:
    _, expected = answer_of(port, request)
    body = folder / "request.grpc"
    body.write_bytes(_framed(request))
    command = ["h2load", "-t1", f"-c{_CONNECTIONS}", f"-m{outstanding // _CONNECTIONS}", f"-D{round(seconds * 1000)}ms"]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    with Process([*command, f"http://{HOST}:{port}{METHOD}"], folder / "load.log", core_ids, answers=True) as process:
        output = process.popen.communicate(timeout=seconds + _SPARE_S)[0].decode()
    found = _FOUND.search(output)
    if found is None or not int(found["answers"]):
        raise BenchmarkError(f"h2load: {output[-1000:]}")
    answers = int(found["answers"])
    mean = int(found["data_bytes"]) / answers  # gRPC's errors are answers of status 200 without a message
    if abs(mean / (expected + len(_framed(b""))) - 1) > _ODD_SIZES:
        raise BenchmarkError(f"answers of {expected} bytes were expected, those that came have {mean:.1f}: {output}")
    return answers, float(found["seconds"]) / (1000 if found["unit"] == "ms" else 1)


def _framed(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _clients(
    folder: Path, port: int, request: bytes, outstanding: int, seconds: float, core_ids: Collection[int]
) -> tuple[int, float]:
    body = folder / "request.bin"
    body.write_bytes(request)
    command = [sys.executable, "-m", "benchmarks.load_grpc", str(port), str(outstanding // _CONNECTIONS), str(seconds)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Process([*command, str(body)], folder / "load.log", core_ids, answers=True))
            for _ in range(_CONNECTIONS)
        ]
        answers = 0
        for client in clients:
            output, _ = client.popen.communicate(timeout=seconds + _SPARE_S)
            if client.popen.returncode:
                client.check_alive()
            answers += int(json.loads(output)["answers"])
    return answers, seconds


async def _keep_busy(port: int, outstanding: int, seconds: float, request: bytes) -> int:
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.unary_unary(METHOD)
        await call(request, wait_for_ready=True)
        give_up = time.monotonic() + seconds

        async def calls() -> int:
            count = 0
            while time.monotonic() < give_up:
                await call(request)
                count += 1
            return count

        return sum(await asyncio.gather(*[calls() for _ in range(outstanding)]))


def main() -> None:
    port, outstanding, seconds, file = sys.argv[1:]
    answers = asyncio.run(_keep_busy(int(port), int(outstanding), float(seconds), Path(file).read_bytes()))
    print(json.dumps({"answers": answers}))


if __name__ == "__main__":
    main()
