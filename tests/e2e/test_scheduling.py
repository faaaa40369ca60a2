"""Streamed predictions, sequences and shared resources through a real server, driven by Triton's official clients."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import LiveServer, free_port

REPEAT = '''
import numpy as np

class Repeat:
    """Gives each number of IN back in a response of its own, with its place."""

    inputs = [{"name": "IN", "dtype": "int32", "shape": [-1]}]
    outputs = [{"name": "OUT", "dtype": "int32", "shape": [1]}, {"name": "IDX", "dtype": "uint32", "shape": [1]}]
    concurrency = 2

    def predict_stream(self, inputs):
        for index, number in enumerate(inputs["IN"]):
            if number == 13:
                raise ValueError("thirteen")
            yield {"OUT": np.array([number], np.int32), "IDX": np.array([index], np.uint32)}
'''
SQUARE = '''
import pathlib
import numpy as np

class Square:
    """Gives IN as many times as IN says."""

    inputs = [{"name": "IN", "dtype": "int32", "shape": [1]}]
    outputs = [{"name": "OUT", "dtype": "int32", "shape": [1]}]

    def load(self, folder, options):
        self.trace = pathlib.Path(folder) / "made"

    def predict_stream(self, inputs):
        for number in range(int(inputs["IN"][0])):
            self.trace.write_text(str(number + 1))
            yield {"OUT": inputs["IN"]}
'''


def lay_out(models: Path) -> None:
    for name, source, more in (("repeat", REPEAT, ""), ("square", SQUARE, "")):
        folder = models / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(source)
        (folder / "model.yaml").write_text(
            f'name: {name}\nversion: "1"\nruntime: python\nartifact: model.py:{name.capitalize()}\n{more}'
        )


class Served:
    def __init__(self, live: LiveServer, grpc: str, models: Path) -> None:
        self.live = live
        self.url = live.url
        self.http = live.url.removeprefix("http://")
        self.grpc = grpc
        self.models = models


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("scheduling")
    lay_out(folder / "models")
    port = free_port()
    live = LiveServer(folder, "--models", str(folder / "models"), "--grpc-port", str(port), "--drain-s", "2")
    live.start()
    yield Served(live, f"127.0.0.1:{port}", folder / "models")
    assert live.stop() == 0
    assert "unexpected error" not in live.log.read_text()


def tensor(name: str, values: list[int], client: Any = triton) -> Any:
    made = client.InferInput(name, [len(values)], "INT32")
    made.set_data_from_numpy(np.array(values, np.int32))
    return made


# -- predictions with several responses ---------------------------------------------------------------------------


def streamed(address: str, requests: list[list[int]], count: int, **parameters: Any) -> list[Any]:
    """What the stream of a blocking client gives: `count` results or errors, in order."""
    found: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        for index, values in enumerate(requests):
            client.async_stream_infer("repeat", [tensor("IN", values)], request_id=f"r{index}", **parameters)
        answers = [found.get(timeout=30) for _ in range(count)]
        client.stop_stream()
    assert found.empty()
    return answers


def test_each_response_carries_its_request_and_whether_it_is_the_last(served: Served) -> None:
    answers = streamed(served.grpc, [[4, 7, 9], [], [5]], 7, enable_empty_final_response=True)
    heads = [
        (answer.get_response().id, answer.get_response().parameters["triton_final_response"].bool_param)
        for answer in answers
    ]
    assert heads == [
        *(("r0", False), ("r0", False), ("r0", False), ("r0", True)),
        *(("r1", True), ("r2", False), ("r2", True)),
    ]
    assert [int(answer.as_numpy("OUT")[0]) for answer in answers[:3]] == [4, 7, 9]
    assert [int(answer.as_numpy("IDX")[0]) for answer in answers[:3]] == [0, 1, 2]
    assert len(answers[3].get_response().outputs) == 0


def test_without_the_wish_there_is_no_empty_response(served: Served) -> None:
    answers = streamed(served.grpc, [[4, 7], [5]], 3)
    assert [int(answer.as_numpy("OUT")[0]) for answer in answers] == [4, 7, 5]


def test_a_failure_ends_its_request_and_not_the_stream(served: Served) -> None:
    answers = streamed(served.grpc, [[1, 13, 2], [6]], 3)
    assert int(answers[0].as_numpy("OUT")[0]) == 1
    assert isinstance(answers[1], InferenceServerException)
    assert "thirteen" in str(answers[1])
    assert int(answers[2].as_numpy("OUT")[0]) == 6


async def test_the_asyncio_client_streams(served: Served) -> None:
    async with triton_aio.InferenceServerClient(served.grpc) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for values in ([3], [2]):
                yield {"model_name": "square", "inputs": [tensor("IN", values, triton_aio)]}

        found: list[int] = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            found.append(int(result.as_numpy("OUT")[0]))
    assert found == [3, 3, 3, 2, 2]


async def test_leaving_a_stream_ends_the_computation(served: Served) -> None:
    async with triton_aio.InferenceServerClient(served.grpc) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "square", "inputs": [tensor("IN", [1_000_000], triton_aio)]}
            await asyncio.sleep(60)

        results = client.stream_infer(requests())
        async for _ in results:
            break
        results.cancel()
    trace = served.models / "square" / "1" / "made"
    before = ""
    for _ in range(100):
        await asyncio.sleep(0.1)
        if trace.read_text() == before:
            break
        before = trace.read_text()
    assert 0 < int(before) < 1_000_000


def test_one_response_fits_where_one_is_expected(served: Served) -> None:
    with triton.InferenceServerClient(served.grpc) as client:
        assert int(client.infer("repeat", [tensor("IN", [8])]).as_numpy("OUT")[0]) == 8
        with pytest.raises(InferenceServerException, match="ModelStreamInfer"):
            client.infer("repeat", [tensor("IN", [8, 9])])
    with triton_http.InferenceServerClient(served.http) as client:
        assert int(client.infer("repeat", [tensor("IN", [8], triton_http)]).as_numpy("OUT")[0]) == 8
        with pytest.raises(InferenceServerException, match="infer_stream"):
            client.infer("repeat", [tensor("IN", [8, 9], triton_http)])
        with pytest.raises(InferenceServerException, match="gave no response"):
            client.infer("repeat", [tensor("IN", [], triton_http)])


def events(url: str, body: dict[str, Any], status: int = 200) -> list[dict[str, Any]]:
    with httpx.stream("POST", url, json=body, timeout=30) as response:
        assert response.status_code == status, response.read()
        return [json.loads(line.removeprefix("data:")) for line in response.iter_lines() if line.startswith("data:")]


def numbers(values: list[int]) -> dict[str, Any]:
    return {"id": "7", "inputs": [{"name": "IN", "shape": [len(values)], "datatype": "INT32", "data": values}]}


def test_responses_as_server_sent_events(served: Served) -> None:
    url = f"{served.url}/v2/models/repeat/infer_stream"
    found = events(url, numbers([4, 7]) | {"outputs": [{"name": "OUT"}]})
    assert [[output["data"] for output in event["outputs"]] for event in found] == [[[4]], [[7]]]
    assert {(event["id"], event["model_name"], event["model_version"]) for event in found} == {("7", "repeat", "1")}
    assert events(url.replace("/infer", "/versions/1/infer"), numbers([])) == []
    assert "thirteen" in events(url, numbers([1, 13]))[1]["error"]
    answer = httpx.post(url, json=numbers([13]), timeout=30)
    assert (answer.status_code, "thirteen" in answer.json()["error"]) == (500, True)
    answer = httpx.post(url, json=numbers([1]) | {"parameters": {"binary_data_output": True}}, timeout=30)
    assert (answer.status_code, "JSON" in answer.json()["error"]) == (400, True)


def test_a_model_of_one_response_streams_one(served: Served) -> None:
    flower = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
    (event,) = events(f"{served.url}/v2/models/iris/infer_stream", flower)
    assert event["outputs"][0]["name"] == "label"


def test_more_streams_than_fit_wait_their_turn(served: Served) -> None:
    async def all_of_them() -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as client:
            url = f"{served.url}/v2/models/repeat/infer_stream"
            answers = await asyncio.gather(*(client.post(url, json=numbers(list(range(20, 60)))) for _ in range(6)))
            return [answer.text.count("data:") for answer in answers]

    assert asyncio.run(all_of_them()) == [40] * 6


def test_the_commands_and_python_stream_too(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference_engine", "predict", "repeat", "--stream", "-i", '{"IN": [4, 7]}']
    for where in (("--server", served.url), ("--models", str(served.models))):
        run = subprocess.run(
            [*command, "--json", *where], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        assert [line["outputs"][0]["data"] for line in lines] == [[4], [7]]
    code = (
        "from inference_engine import Engine\n"
        f"with Engine(models={str(served.models)!r}) as engine:\n"
        "    print([int(outputs['OUT'][0]) for outputs in engine.predict_stream('repeat', {'IN': [4, 7]})])\n"
        "    for outputs in engine.predict_stream('square', {'IN': [1000000]}):\n"
        "        break\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "[4, 7]\n"
