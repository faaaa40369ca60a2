"""Each runtime serves a trained model by every way in, with the numbers that its framework computes itself.

The tolerances are those of `tests/fixtures/trained.py` and stand in `docs/runtimes/README.md`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from inference_engine import Engine
from tests.conftest import ROOT, LiveServer, free_port
from tests.fixtures import trained
from tests.fixtures.trained import HEAVY, QUICK, Trained

NEEDS = {"keras": "tensorflow"}
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
PARAMETERS = [
    *QUICK,
    *(
        pytest.param(
            name,
            marks=[
                pytest.mark.slow,
                pytest.mark.timeout(300),
                pytest.mark.skipif(not find_spec(NEEDS.get(name, name)), reason=f"{name} is not installed"),
            ],
        )
        for name in HEAVY
    ),
]


class World(NamedTuple):
    live: LiveServer
    grpc: str
    models: Path
    engine: Engine


def opened(folder: Path, put: Callable[[Path], None]) -> Iterator[World]:
    """A server with the models that `put` makes, and a Python engine over the same folder."""
    put(folder / "models")
    port = free_port()
    live = LiveServer(folder, "--models", str(folder / "models"), "--grpc-port", str(port))
    live.start()
    with Engine(models=folder / "models", state_dir=folder / "engine") as engine:
        yield World(live, f"127.0.0.1:{port}", folder / "models", engine)
    assert live.stop() == 0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def put(models: Path) -> None:
        for name in QUICK:
            trained.put(name, models)

    yield from opened(tmp_path_factory.mktemp("quick"), put)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def put(models: Path) -> None:
        for name in HEAVY:
            if find_spec(NEEDS.get(name, name)):
                command = [sys.executable, "-W", "ignore", "-m", "tests.fixtures.trained", name, str(models)]
                subprocess.run(command, cwd=ROOT, check=True, timeout=200, env=os.environ | ENVIRONMENT)

    yield from opened(tmp_path_factory.mktemp("heavy"), put)


@pytest.fixture
def world(request: pytest.FixtureRequest, name: str) -> World:
    found: World = request.getfixturevalue("quick" if name in QUICK else "heavy")
    return found


def inputs_of(library: Any, rows: np.ndarray[Any, Any], name: str = "input") -> list[Any]:
    made = library.InferInput(name, list(rows.shape), {"float32": "FP32", "float64": "FP64"}[rows.dtype.name])
    made.set_data_from_numpy(rows)
    return [made]


def over_rest(world: World, name: str, model: Trained, rows: Any) -> Any:
    address = world.live.url.removeprefix("http://")
    with tritonclient.http.InferenceServerClient(address, network_timeout=120, connection_timeout=120) as client:
        return client.infer(name, inputs_of(tritonclient.http, rows)).as_numpy(model.output)


def over_grpc(world: World, name: str, model: Trained, rows: Any) -> Any:
    with tritonclient.grpc.InferenceServerClient(world.grpc) as client:
        return client.infer(name, inputs_of(tritonclient.grpc, rows), client_timeout=120).as_numpy(model.output)


def by_command(world: World, name: str, model: Trained, rows: Any) -> Any:
    asked = json.dumps({"input": rows.tolist()})
    command = [
        sys.executable,
        "-m",
        "inference_engine",
        "predict",
        name,
        "--json",
        "--server",
        world.live.url,
        "-i",
        "-",
    ]
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    answered: Mapping[str, Any] = {output["name"]: output for output in json.loads(ended.stdout)["outputs"]}
    return np.array(answered[model.output]["data"]).reshape(answered[model.output]["shape"])


def in_python(world: World, name: str, model: Trained, rows: Any) -> Any:
    return world.engine.predict(name, {"input": rows})[model.output]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_way_in_gives_the_numbers_of_the_framework(world: World, name: str) -> None:
    model = (QUICK | HEAVY)[name]
    wanted = np.load(world.models / name / "1" / trained.EXPECTED)
    given = trained.rows(model.dtype)
    for ask in (over_rest, over_grpc, by_command, in_python):
        found = ask(world, name, model, given)
        assert found.shape == wanted.shape, ask.__name__
        np.testing.assert_allclose(found, wanted, rtol=model.rtol, atol=model.rtol, err_msg=ask.__name__)


def test_a_language_model_says_the_same_by_every_way_in(quick: World) -> None:
    """Greedy answers of the built-in chat model, over REST, gRPC, the command line and Python."""
    question, length = "What is iris?", 24
    asked = {"model": "guide", "messages": [{"role": "user", "content": question}], "temperature": 0}
    answer = httpx.post(f"{quick.live.url}/v1/chat/completions", json=asked | {"max_tokens": length}, timeout=60)
    wanted = answer.json()["choices"][0]["message"]["content"]
    assert len(wanted) > 20
    assert quick.engine.chat("guide", question, temperature=0.0, max_tokens=length) == wanted
    command = [sys.executable, "-m", "inference_engine", "run", "guide", question, "--server", quick.live.url]
    command += ["--temperature", "0", "--max-tokens", str(length)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == wanted.strip()
    with tritonclient.grpc.InferenceServerClient(quick.grpc) as client:
        text = tritonclient.grpc.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([question.encode()], object))
        parameters = {"chat": True, "temperature": 0.0, "max_tokens": length}
        said = client.infer("guide", [text], parameters=parameters).as_numpy("text_output")
    assert b"".join(said.ravel().tolist()).decode().strip() == wanted.strip()
