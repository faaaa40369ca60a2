"""The Python API without a server, and the server's own start and end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from inference_engine import AsyncEngine, Engine
from inference_engine.core.settings import SettingsError
from inference_engine.domain.errors import Forbidden, InvalidRequest, InvalidTensor, ModelNotFound
from inference_engine.domain.model_store import Changes
from inference_engine.domain.results import Done, TextDelta
from tests.conftest import LiveServer
from tests.e2e.conftest import BUILTIN, lay_out


@pytest.fixture
def engine(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Engine(state_dir=tmp_path) as made:
        yield made


def test_predict_takes_lists_and_arrays(engine: Engine) -> None:
    row = [[5.1, 3.5, 1.4, 0.2]]
    assert engine.predict("iris", {"input": row})["label"].tolist() == [0]
    assert engine.predict("iris", {"input": np.array(row, np.float32)})["label"].tolist() == [0]
    with pytest.raises(InvalidTensor, match="'input'"):
        engine.predict("iris", {"input": [["a"]]})
    with pytest.raises(InvalidTensor, match=r"shape \[1, 2\]"):
        engine.predict("iris", {"input": [[1, 2]]})


def test_statistics_count_what_was_done(engine: Engine) -> None:
    before = engine.statistics("iris").inferences
    engine.predict("iris", {"input": [[5.1, 3.5, 1.4, 0.2]] * 3})
    assert engine.statistics("iris:1").inferences == before + 3


def test_chat_and_streams(engine: Engine) -> None:
    whole = engine.chat("guide", "What is iris?", temperature=0.0, max_tokens=30)
    stream = engine.generate("guide", [{"role": "user", "content": "What is iris?"}], temperature=0.0, max_tokens=30)
    assert "".join(stream) == whole
    assert stream.usage is not None
    assert stream.usage.completion_tokens <= 30
    assert engine.chat("guide", "hi", temperature=0.0, max_tokens=3) == engine.chat(
        "guide:1", "hi", temperature=0.0, max_tokens=3
    )


def test_a_stream_that_is_left_stops(engine: Engine) -> None:
    with engine.generate("guide", prompt="The server", ignore_eos=True, max_tokens=1500) as stream:
        assert next(stream)
    assert engine.show("guide")[0].in_flight == 0


def test_mistakes_are_named(engine: Engine) -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        engine.chat("nobody", "hi")
    with pytest.raises(InvalidRequest, match="heat"):
        engine.chat("guide", "hi", heat=3)
    with pytest.raises(InvalidRequest, match="either"):
        engine.generate("guide").__next__()
    with pytest.raises(InvalidRequest, match="role"):
        engine.chat("guide", [{"role": "king", "content": "hi"}])


def test_closing_ends_every_process(tmp_path: Path) -> None:
    with Engine(state_dir=tmp_path) as engine:
        pid = engine.load("guide").pid
        assert pid is not None
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


async def test_the_async_engine(tmp_path: Path) -> None:
    async with AsyncEngine(state_dir=tmp_path) as engine:
        deltas = [delta async for delta in engine.generate("guide", "hello", temperature=0.0, max_tokens=20)]
        assert isinstance(deltas[-1], Done)
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        assert (await engine.predict("iris", {"input": [[6.0, 3.0, 5.0, 2.0]]})).served.rule == "latest"


def test_models_are_made_copied_and_deleted(tmp_path: Path) -> None:
    with Engine(models=_folder(tmp_path / "models"), state_dir=tmp_path / "state") as engine:
        steps = list(engine.create("brief", base="guide", changes=Changes(parameters={"num_predict": 2})))
        assert steps[-1].status == "success"
        stream = engine.generate("brief", "What is iris?")
        assert "".join(stream)
        assert stream.finish_reason == "length"
        engine.copy("brief", "short:2")
        file = BUILTIN / "guide" / "1" / "guide.gguf"
        assert list(engine.create("own", files=[file]))[-1].status == "success"
        assert {"brief", "short", "own"} <= {status.name for status in engine.models()}
        for name in ("brief", "short:2", "own"):
            engine.delete(name)
        assert {status.name for status in engine.models()} == {"guide", "iris", "shapes", "shapes-detector"}
        with pytest.raises(InvalidRequest, match="cannot be read"):
            list(engine.create("own", files=["/nowhere.gguf"]))
        with pytest.raises(Forbidden):
            engine.delete("guide")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_library_prints_nothing(tmp_path: Path) -> None:
    code = "from inference_engine import Engine\nwith Engine() as engine: engine.load('iris')"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_broken_folders_are_reported_not_served(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "slow" / "1" / "model.yaml").write_text("name: slow\nversion: '1'\nruntime: python\nartefact: x")
    with Engine(models=tmp_path, state_dir=tmp_path / "state") as engine:
        names = {status.name for status in engine.models()}
    assert "slow" not in names
    assert "guide" in names


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="wrokers"):
        Engine(wrokers=3)


def test_a_taken_port_is_a_clear_message(server: LiveServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference_engine", "serve", "--port", str(server.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_public_address_without_keys_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference_engine", "serve", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "key" in ended.stderr
