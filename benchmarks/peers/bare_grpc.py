"""The bare gRPC peer: grpc.aio with the messages of the same protocol: `python -m benchmarks.peers.bare_grpc PORT`.

It gives back the tensors it gets and prints `{"ready": true}` when it listens. It checks nothing, queues nothing and
knows no models: the least code that does the same work for a good request.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import grpc.aio
import numpy as np
import uvloop

from inference_engine.adapters.grpc.protocol import SERVICE, InferRequest, InferResponse


async def _echo(request: Any, _: Any) -> Any:
    """Raw contents to arrays, as a model would get them, and back."""
    answer = InferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        array = np.frombuffer(raw, np.float32).reshape(tuple(tensor.shape))
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    return answer


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler = grpc.unary_unary_rpc_method_handler(_echo, InferRequest.FromString, InferResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(json.dumps({"ready": True}), flush=True)
    await server.wait_for_termination()


def main() -> None:
    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
