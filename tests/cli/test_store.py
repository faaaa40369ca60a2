"""The commands that change models, and both clients behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_engine.adapters.cli.client import Client, NewModel, Step
from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidRequest, ModelNotFound
from tests.cli.conftest import Result
from tests.cli.fakes import FakeComposition, FakeEngine, FakeServer
from tests.cli.test_clients import client, engine, server  # noqa: F401 - fixtures: local and over HTTP


def test_pull(client: Client) -> None:  # noqa: F811
    steps = list(client.pull("tiny"))
    assert steps[1] == Step("pulling abc", "sha256:abc", 10, 4)
    assert steps[-1].status == "success"
    with pytest.raises(ModelNotFound, match="nobody"):
        list(client.pull("nobody"))
    with pytest.raises(EngineError, match="broke off"):
        list(client.pull("broken"))


def test_create_copy_and_delete(client: Client, engine: FakeEngine, tmp_path: Path) -> None:  # noqa: F811
    client.copy("guide", "twin")
    assert engine.made[-1] == ("twin", {"base": "guide"})
    list(client.create("brief", NewModel(base="guide", system="Be brief.", parameters={"top_k": 3})))
    name, what = engine.made[-1]
    assert (name, what["base"], what["changes"].system) == ("brief", "guide", "Be brief.")
    assert what["changes"].parameters == {"top_k": 3}
    client.delete("guide")
    assert engine.deleted == ["guide"]
    with pytest.raises(ModelNotFound):
        client.delete("nobody")


def test_files_are_uploaded_once(server: FakeServer, engine: FakeEngine, tmp_path: Path) -> None:  # noqa: F811
    import httpx

    from inference_engine.adapters.cli.http_client import HttpClient

    (tmp_path / "a.gguf").write_bytes(b"weights")
    with HttpClient("http://test", transport=httpx.MockTransport(server)) as http:
        for _ in range(2):
            list(http.create("mine", NewModel(files=(tmp_path / "a.gguf",))))
        with pytest.raises(InvalidRequest, match="cannot be read"):
            list(http.create("mine", NewModel(files=(tmp_path / "b.gguf",))))
    assert len(server.blobs) == 1
    assert engine.made[-1][1]["files"] == ("a.gguf",)


def test_a_server_that_breaks_off_is_no_success(server: FakeServer) -> None:  # noqa: F811
    import httpx

    from inference_engine.adapters.cli.http_client import HttpClient

    half = httpx.MockTransport(lambda request: httpx.Response(200, content=b'{"status": "pulling manifest"}\n'))
    with HttpClient("http://test", transport=half) as http, pytest.raises(InferenceFailed, match="broke off"):
        list(http.pull("tiny"))


def test_the_commands(call: Any, composition: FakeComposition, tmp_path: Path) -> None:
    pulled: Result = call("pull", "tiny", "--local")
    assert pulled.code == 0
    assert pulled.err.splitlines()[-3:] == ["pulling manifest", "pulling abc", "success"]
    lines = [json.loads(line) for line in call("pull", "tiny", "--local", "--json").out.splitlines()]
    assert lines[1] == {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": 4}
    assert call("cp", "guide", "twin", "--local").code == 0
    assert call("rm", "guide", "iris", "--local").code == 0
    assert composition.fake.deleted == ["guide", "iris"]
    made = call("create", "brief", "--from", "guide", "--parameter", "temperature=0.2", "--parameter", "stop=A",
                "--parameter", "stop=B", "--system", "Be brief.", "--local")  # fmt: skip
    assert made.code == 0
    changes = composition.fake.made[-1][1]["changes"]
    assert changes.parameters == {"temperature": 0.2, "stop": ["A", "B"]}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["pull", "nobody", "--local"], 1, "not found"),
        (["pull", "broken", "--local"], 1, "broke off"),
        (["rm", "nobody", "--local"], 1, "nobody"),
        (["rm", "--local"], 2, "Missing argument"),
        (["create", "x", "--local"], 2, "either --from"),
        (["create", "x", "--from", "guide", "--parameter", "hot", "--local"], 2, "NAME=VALUE"),
        (["create", "x", "--from", "guide", "--template", "/nowhere", "--local"], 2, "cannot be read"),
    ],
)
def test_what_goes_wrong(call: Any, argv: list[str], code: int, words: str) -> None:
    result = call(*argv)
    assert result.code == code
    assert words in result.err
