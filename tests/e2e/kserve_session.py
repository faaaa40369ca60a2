"""What KServe's own inference clients do with a server: `python kserve_session.py HTTP_URL GRPC_ADDRESS`.

Runs in KServe's environment (`make build/kserve/test.stamp`), whose dependencies are not ours. Fails by an assertion.
"""

import asyncio
import sys
from collections.abc import Awaitable

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)


def flowers(*, binary: bool, name: str = "iris", request_id: str = "flowers") -> InferRequest:
    tensor = InferInput("input", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS, binary_data=binary)
    parameters = {"binary_data_output": True} if binary else None
    return InferRequest(name, [tensor], request_id=request_id, parameters=parameters)


async def refused(answer: Awaitable[object], says: str) -> None:
    (error,) = await asyncio.gather(answer, return_exceptions=True)
    assert isinstance(error, Exception), "a model that is not there was answered"
    assert says in str(error), error


async def over_rest(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=30))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    answers = []
    for binary in (False, True):
        headers: dict[str, str] = {}
        answer = await client.infer(url, flowers(binary=binary), model_name="iris", response_headers=headers)
        assert (answer.model_name, answer.id) == ("iris", "flowers"), answer
        assert headers["x-model-version"] == "1", headers
        answers.append({output.name: output.as_numpy() for output in answer.outputs})
    assert answers[0]["label"].tolist() == answers[1]["label"].tolist() == [0, 2], answers
    assert await client.is_model_ready(url, "iris")
    as_dict = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": FLOWERS[0].tolist()}]}
    answer = await client.infer(url, as_dict, model_name="iris")
    assert answer.outputs[0].as_numpy().shape[0] == 1
    await refused(client.infer(url, flowers(binary=True, name="nothing"), model_name="nothing"), "404")
    await client.close()


async def over_grpc(address: str) -> None:
    async with InferenceGRPCClient(address, timeout=30, retries=2) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("iris")
        for binary in (True, False):
            answer = await client.infer(flowers(binary=binary))
            labels = {output.name: output.as_numpy() for output in answer.outputs}["label"]
            assert (answer.id, labels.tolist()) == ("flowers", [0, 2]), answer
        await refused(client.infer(flowers(binary=True, name="nothing")), "NOT_FOUND")


async def main() -> None:
    await over_rest(sys.argv[1])
    await over_grpc(sys.argv[2])
    print("served KServe's clients")


if __name__ == "__main__":
    asyncio.run(main())
