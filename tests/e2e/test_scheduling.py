"""Streamed predictions, sequences and shared resources through a real server, driven by Triton's official clients."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
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
from tests.fixtures.scheduled_models import lay_out


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
    live = LiveServer(
        folder, "--models", str(folder / "models"), "--grpc-port", str(port), "--drain-s", "2", "--resources", "unit=3"
    )
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


async def settled(trace: Path) -> int:
    """The number in the file, once it has stopped to grow."""
    before = ""
    for _ in range(100):
        await asyncio.sleep(0.15)
        now = trace.read_text()
        if now and now == before:
            break
        before = now
    return int(before)


async def test_leaving_a_stream_ends_the_computation(served: Served) -> None:
    async with triton_aio.InferenceServerClient(served.grpc) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "square", "inputs": [tensor("IN", [1_000_000], triton_aio)]}
            await asyncio.sleep(60)

        results = client.stream_infer(requests())
        async for _ in results:
            break
        results.cancel()
    assert 0 < await settled(served.models / "square" / "1" / "made") < 1_000_000


async def test_leaving_server_sent_events_ends_the_computation(served: Served) -> None:
    trace = served.models / "square" / "1" / "made"
    async with httpx.AsyncClient(timeout=20) as client:
        url = f"{served.url}/v2/models/square/infer_stream"
        async with client.stream("POST", url, json=numbers([900_000])) as response:
            async for _ in response.aiter_lines():
                break
    assert 0 < await settled(trace) < 900_000


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


def test_a_decoupled_folder_of_triton_is_served_unchanged(served: Served) -> None:
    found: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(served.grpc) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        client.async_stream_infer("triton_repeat", [tensor("IN", [4, 7])], enable_empty_final_response=True)
        answers = [found.get(timeout=20) for _ in range(3)]
        client.stop_stream()
        assert client.get_model_config("triton_repeat").config.model_transaction_policy.decoupled
    assert [int(answer.as_numpy("OUT")[0]) for answer in answers[:2]] == [4, 7]
    assert answers[2].get_response().parameters["triton_final_response"].bool_param


# -- sequences ----------------------------------------------------------------------------------------------------


def floats(value: float, client: Any) -> Any:
    made = client.InferInput("x", [1, 1], "FP32")
    made.set_data_from_numpy(np.array([[value]], np.float32))
    return made


class Step:
    """The same request through each of Triton's clients."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def ask(self, wire: str, model: str, value: int, id: int | str, **flags: bool) -> list[int]:
        url, client = (self.served.grpc, triton) if wire == "grpc" else (self.served.http, triton_http)
        with client.InferenceServerClient(url) as connection:
            if model == "total":
                given, wanted = tensor("IN", [value], client), ("OUT", "PID")
            else:
                given, wanted = floats(value, client), ("y",)
            names = {f"sequence_{name}": flag for name, flag in flags.items()}
            answer = connection.infer(model, [given], sequence_id=id, **names)
            return [int(answer.as_numpy(name).ravel()[0]) for name in wanted]


@pytest.fixture
def step(served: Served) -> Step:
    return Step(served)


@pytest.mark.parametrize("wire", ["http", "grpc"])
@pytest.mark.parametrize("id", [7, "seven"])
def test_a_sequence_through_the_official_clients(step: Step, wire: str, id: int | str) -> None:
    first = step.ask(wire, "total", 1, id, start=True)
    second = step.ask(wire, "total", 10, id)
    third = step.ask(wire, "total", 100, id, end=True)
    assert [first[0], second[0], third[0]] == [1, 11, 111]
    assert first[1] == second[1] == third[1]
    with pytest.raises(InferenceServerException, match=r"it has ended.*sequence_start"):
        step.ask(wire, "total", 1, id)


async def test_interleaved_clients_never_mix(served: Served) -> None:
    pids: dict[int, set[int]] = {}

    async def one(client: Any, id: int) -> None:
        total = 0
        for index in range(8):
            answer = await client.infer(
                "total",
                [tensor("IN", [id], triton_aio)],
                sequence_id=id,
                sequence_start=index == 0,
                sequence_end=index == 7,
            )
            total += id
            assert int(answer.as_numpy("OUT")[0]) == total
            pids.setdefault(id, set()).add(int(answer.as_numpy("PID")[0]))

    async with triton_aio.InferenceServerClient(served.grpc) as client:
        await asyncio.gather(*(one(client, id) for id in range(1, 41)))
    assert {len(seen) for seen in pids.values()} == {1}
    assert len(set.union(*pids.values())) == 2


def test_a_stream_carries_sequences(served: Served) -> None:
    found: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(served.grpc) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        for index in range(4):
            for id in (51, 52):
                client.async_stream_infer(
                    "total",
                    [tensor("IN", [id])],
                    sequence_id=id,
                    sequence_start=index == 0,
                    sequence_end=index == 3,
                )
        totals = [int(found.get(timeout=20).as_numpy("OUT")[0]) for _ in range(8)]
        client.stop_stream()
    assert totals == [51, 52, 102, 104, 153, 156, 204, 208]


@pytest.mark.parametrize(("model", "begin"), [("sum", 0), ("sum_from_five", 5)])
def test_a_triton_folder_with_controls_and_a_state(step: Step, model: str, begin: int) -> None:
    assert step.ask("http", model, 1, 3, start=True) == [begin + 1001]
    assert step.ask("grpc", model, 1, 4, start=True) == [begin + 1001]
    assert step.ask("grpc", model, 2, 3) == [begin + 3]
    assert step.ask("http", model, 10, 4) == [begin + 11]
    assert step.ask("http", model, 3, 3, end=True) == [begin + 6]
    assert step.ask("http", model, 5, 4, end=True) == [begin + 16]


async def test_a_stateful_folder_of_triton_is_served_unchanged(served: Served) -> None:
    async def one(client: Any, id: int) -> None:
        for index in range(5):
            given = triton_aio.InferInput("IN", [1, 1], "INT32")
            given.set_data_from_numpy(np.array([[id]], np.int32))
            place = {"sequence_id": id, "sequence_start": index == 0, "sequence_end": index == 4}
            answer = await client.infer("triton_total", [given], **place)
            assert int(answer.as_numpy("OUT")[0, 0]) == id * (index + 1)

    async with triton_aio.InferenceServerClient(served.grpc) as client:
        await asyncio.gather(*(one(client, id) for id in range(1, 31)))


def test_what_clients_see_of_it(served: Served, step: Step) -> None:
    step.ask("http", "sum", 1, 9, start=True, end=True)
    with triton_http.InferenceServerClient(served.http) as client:
        metadata = client.get_model_metadata("sum")
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["x"]
        assert [tensor["name"] for tensor in metadata["outputs"]] == ["y"]
        config = client.get_model_config("sum")
        assert config["sequence_batching"]["oldest"] == {"max_candidate_sequences": 4}
        with pytest.raises(InferenceServerException, match="'state_in' is unknown"):
            state = triton_http.InferInput("state_in", [1, 1], "FP32")
            state.set_data_from_numpy(np.zeros((1, 1), np.float32))
            client.infer("sum", [floats(1, triton_http), state], sequence_id=1, sequence_start=True)


def test_what_is_no_sequence_is_refused_by_name(served: Served, step: Step) -> None:
    with pytest.raises(InferenceServerException, match="give a sequence_id"):
        step.ask("http", "total", 1, 0)
    with pytest.raises(InferenceServerException, match="has no sequence 99"):
        step.ask("grpc", "total", 1, 99)
    with triton_http.InferenceServerClient(served.http) as client:
        with pytest.raises(InferenceServerException, match="keeps nothing between requests"):
            client.infer("repeat", [tensor("IN", [1], triton_http)], sequence_id=5, sequence_start=True)
        with pytest.raises(InferenceServerException, match="2 rows"):
            client.infer("total", [tensor("IN", [1, 2], triton_http)], sequence_id=5, sequence_start=True)
    body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [1]}]}
    for parameters in ({"sequence_start": True}, {"sequence_id": -1}, {"sequence_id": True}, {"sequence_id": 1.5}):
        answer = httpx.post(f"{served.url}/v2/models/total/infer", json=body | {"parameters": parameters})
        assert answer.status_code == 400
        assert "sequence_id" in answer.json()["error"]


def test_what_a_dead_runner_knew_is_lost_and_said_so(served: Served, step: Step) -> None:
    first = step.ask("http", "total", 1, 60, start=True)
    os.kill(first[1], signal.SIGKILL)
    with pytest.raises(InferenceServerException, match=r"instance that knew it died.*sequence_start"):
        step.ask("http", "total", 1, 60)
    assert step.ask("http", "total", 2, 60, start=True)[0] == 2
    step.ask("http", "total", 2, 60, end=True)


def test_unloading_ends_sequences(served: Served, step: Step) -> None:
    step.ask("http", "sum", 1, 70, start=True)
    with triton_http.InferenceServerClient(served.http) as client:
        client.unload_model("sum")
    with pytest.raises(InferenceServerException, match="has no sequence 70"):
        step.ask("http", "sum", 1, 70)


def test_the_python_api_has_sequences(served: Served, tmp_path: Path) -> None:
    code = (
        "from inference_engine import Engine\n"
        f"with Engine(models={str(served.models)!r}) as engine:\n"
        "    for index in range(3):\n"
        "        place = {'sequence_id': 'a', 'sequence_start': index == 0, 'sequence_end': index == 2}\n"
        "        print(engine.predict('sum', {'x': [[1]]}, **place)['y'].tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.splitlines() == ["[[1001.0]]", "[[2.0]]", "[[3.0]]"]


# -- shared resources ---------------------------------------------------------------------------------------------


async def test_models_that_share_a_resource_never_compute_together(served: Served) -> None:
    async with triton_aio.InferenceServerClient(served.grpc) as client:
        await asyncio.gather(
            *(client.infer(name, [tensor("IN", [1], triton_aio)]) for name in ("limited", "limited2") for _ in range(8))
        )
    spans = sorted(tuple(map(float, line.split())) for line in (served.models / "spans").read_text().splitlines())
    assert len(spans) == 16
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_who_needs_more_than_there_is_is_refused(served: Served) -> None:
    words = r"resources.unit is 4, and this server has 3.*unit=4"
    with (
        triton_http.InferenceServerClient(served.http) as client,
        pytest.raises(InferenceServerException, match=words),
    ):
        client.load_model("greedy")
