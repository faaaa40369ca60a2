"""The command `bench` on real models: on a running server, on one of its own, and in this process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.adapters.cli import main
from inference_engine.bootstrap import BUILTIN_MODELS, CommandComposition
from inference_engine.infra.manifest_files import read_manifest
from tests.cli.conftest import Result
from tests.conftest import LiveServer

QUICK = ("--window", "0.1", "--windows", "3", "--quiet")

SLEEPER = '''
import time

class Sleeper:
    """Takes as long for many rows as for one."""

    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    outputs = [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]

    def predict(self, inputs):
        time.sleep(0.02)
        return {"x": inputs["x"]}

class Open(Sleeper):
    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 3, -1, -1]}]
    outputs = [{"name": "x", "dtype": "float32", "shape": [-1, 3, -1, -1]}]

class Searcher:
    def embed(self, texts):
        return [[len(text), text.count(" ")] for text in texts]

    def rerank(self, query, documents):
        return [float(query in document) for document in documents]
'''


def put(models: Path, name: str, kind: str, execution: str = "") -> Path:
    folder = models / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SLEEPER)
    head = f'name: {name}  # ours\nversion: "1"\nruntime: python\nartifact: model.py:{kind}\n'
    (folder / "model.yaml").write_text(head + execution)
    return folder / "model.yaml"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "models"
    for name, kind in (("open", "Open"), ("searcher", "Searcher")):
        put(folder, name, kind)
    put(folder, "narrow", "Sleeper", "execution: {max_batch_size: 1, queue_limit: 2}\n")
    shutil.copytree(BUILTIN_MODELS / "iris", folder / "iris")
    shutil.copytree(BUILTIN_MODELS / "guide", folder / "guide")
    return folder


@pytest.fixture(scope="module")
def live(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path_factory.mktemp("bench-server"), "--models", str(models))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("INFERENCE_ENGINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("INFERENCE_ENGINE_PORT", "1")
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Result:
        code = main(CommandComposition(), ["bench", *argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def test_tensors_on_a_running_server(bench: Any, live: LiveServer, tmp_path: Path) -> None:
    files = [
        f"--{option}={tmp_path / file}" for option, file in (("save", "a.csv"), ("save", "a.json"), ("plot", "a.svg"))
    ]
    result = bench("iris", "--server", live.url, "-c", "1,4", "-b", "1,2", *QUICK, "--json", *files)
    assert result.code == 0, result.err
    found = result.json
    assert (found["model"], found["kind"], found["unit"]) == ("iris:1", "predict", "rows/s")
    assert [(level["concurrency"], level["rows"]) for level in found["levels"]] == [(1, 1), (4, 1), (1, 2), (4, 2)]
    for level in found["levels"]:
        assert level["errors"] == {}
        assert 0 < level["p50_ms"] <= level["p90_ms"] <= level["p99_ms"]
        assert level["rows_per_s"] == pytest.approx(level["requests_per_s"] * level["rows"])
        assert 0 < level["compute_ms"] < level["mean_ms"]
        assert level["batch_rows"] >= level["rows"]
        assert level["server_cpu"] > 0, "the process of a server on this machine is found"
        assert level["generator_cpu"] > 0
    assert found["recommended"] in found["levels"]
    assert json.loads((tmp_path / "a.json").read_text()) == found
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


def test_a_table_and_lines_for_people(bench: Any, live: LiveServer) -> None:
    result = bench("iris:1", "--url", live.url, "-c", "1:2", "--window", "0.1", "--windows", "3")
    assert result.code == 0, result.err
    head, *rows = result.out.splitlines()
    assert head.split()[:4] == ["AT", "ONCE", "REQ/S", "P50"]
    assert [row.split()[0] for row in rows[:2]] == ["1", "2"]
    assert "most throughput: " in result.out
    assert f"iris:1 at {live.url} over HTTP" in result.err
    assert "[2/2] 2 at once: " in result.err


@pytest.mark.parametrize("kind", [(), ("--kind", "complete")])
def test_a_language_model(bench: Any, live: LiveServer, kind: tuple[str, ...]) -> None:
    argv = (
        "-c",
        "2",
        "--prompt-tokens",
        "40",
        "--max-tokens",
        "8",
        "--window",
        "0.3",
        "--windows",
        "3",
        "-q",
        "--json",
    )
    result = bench("guide", "--server", live.url, *kind, *argv)
    assert result.code == 0, result.err
    (level,) = result.json["levels"]
    assert level["tokens_per_s"] > 0
    assert level["answer_tokens"] == 8
    assert abs(level["prompt_tokens"] - 40) <= 6
    assert 0 < level["first_token_p50_ms"] <= level["first_token_p99_ms"]
    assert level["stream_tokens_per_s"] > 0
    assert bench("guide", "--server", live.url, "--prompt-tokens", "3000", "-q").code == 2
    assert "--batch is for tensors and texts" in bench("guide", "--server", live.url, "-b", "2", "-q").err


@pytest.mark.parametrize("kind", [(), ("--kind", "embed"), ("--kind", "rerank")])
def test_texts(bench: Any, live: LiveServer, kind: tuple[str, ...]) -> None:
    result = bench("searcher", "--server", live.url, *kind, "-c", "2", "-b", "3", *QUICK, "--json")
    assert result.code == 0, result.err
    (level,) = result.json["levels"]
    assert level["errors"] == {}
    assert level["rows_per_s"] > level["requests_per_s"] > 0


def test_a_full_queue_is_reported_as_rejected(bench: Any, live: LiveServer) -> None:
    result = bench("narrow", "--server", live.url, "-c", "16", *QUICK[:-1], "--json")
    assert result.code == 0, result.err
    (level,) = result.json["levels"]
    assert level["errors"]["rejected"] > 0
    assert level["requests"] > 0
    assert result.json["recommended"] is None
    assert "first rejected: " in result.err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["irs"], 1, "did you mean 'iris'"),
        (["open"], 2, "--shape x=3,128,128"),
        (["open", "--shape", "x=4,8,8"], 2, "does not fit: the model declares [3, -1, -1] without the rows"),
        (["open", "--shape", "y=3,8,8"], 2, "--shape y: the model's inputs are x"),
        (["open", "--shape", "3,8,8"], 2, "does not name the input"),
        (["open", "--shape", "x=a"], 2, "sizes are whole numbers"),
        (["iris", "--range", "input=4"], 2, "is not LOW,HIGH"),
        (["iris", "--image", "nothing.png"], 2, "a model with one input of bytes"),
        (["iris", "--data", "nothing.json"], 2, "cannot be used"),
        (["iris", "-c", "0"], 2, "numbers from 1 to 4096"),
        (["iris", "-c", "8:2"], 2, "the smaller first"),
        (["iris", "-c", "many"], 2, "neither a list"),
        (["iris", "--save", "a.txt"], 2, "must end in .json, .csv"),
        (["iris", "--plot", "nowhere/a.svg"], 2, "there is no folder nowhere"),
        (["iris", "--write"], 2, "--write goes with --tune"),
        (["iris", "--tune", "--protocol", "inside"], 2, "on servers that it starts itself"),
        (["guide", "--protocol", "grpc"], 1, "over gRPC only tensors are measured"),
    ],
)
def test_what_is_asked_wrongly(bench: Any, live: LiveServer, argv: list[str], code: int, words: str) -> None:
    server = [] if "--tune" in argv else ["--server", live.url]
    result = bench(*argv, *server, "-q")
    assert result.code == code, result.err
    assert words in " ".join(result.err.split())


def test_no_server_and_no_key(bench: Any, secured_server_url: str) -> None:
    result = bench("iris", "--server", "http://127.0.0.1:1", "-q")
    assert (result.code, "is it running?" in result.err) == (1, True)
    assert "wants an API key" in bench("iris", "--server", secured_server_url, "-q").err
    result = bench("iris", "--server", secured_server_url, "--api-key", "test-key", "-c", "1", *QUICK)
    assert result.code == 0, result.err
    assert bench("iris", "--server", "localhost:8000", "-q").code == 2


def test_inputs_from_files(bench: Any, live: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"input": [[1.5, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]}')
    np.savez(tmp_path / "in.npz", input=np.ones((3, 4), np.float32))
    np.savez(tmp_path / "other.npz", x=np.ones((3, 4), np.float32))
    for file in ("in.json", "in.npz"):
        result = bench("iris", "--server", live.url, "--data", file, "-c", "1", "-b", "2", *QUICK, "--json")
        assert result.code == 0, result.err
        assert result.json["levels"][0]["errors"] == {}
    result = bench("iris", "--server", live.url, "--data", "other.npz", "-q")
    assert (result.code, "'input' is missing" in " ".join(result.err.split())) == (2, True)
    wide = bench("open", "--server", live.url, "--shape", "x=3,8,8", "-c", "1", *QUICK, "--json")
    assert wide.json["levels"][0]["requests"] > 0


@pytest.mark.parametrize("protocol", ["inside", "http", "grpc"])
def test_without_a_server(bench: Any, models: Path, protocol: str) -> None:
    if protocol == "grpc":
        pytest.importorskip("grpc", reason="grpcio is not installed")
    result = bench("iris", "--models", str(models), "--protocol", protocol, "-c", "2", *QUICK, "--json")
    assert result.code == 0, result.err
    (level,) = result.json["levels"]
    assert level["requests"] > 0
    assert level["compute_ms"] > 0
    assert level["server_bytes"] > 1 << 20


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_language_model_inside(bench: Any, models: Path, kind: str) -> None:
    argv = ("--protocol", "inside", "-c", "2", "--max-tokens", "8", "--window", "0.3", "--windows", "3", "-q", "--json")
    result = bench("guide", "--models", str(models), "--kind", kind, *argv)
    assert result.code == 0, result.err
    assert result.json["levels"][0]["answer_tokens"] == 8


def test_an_image_model_gets_images(bench: Any) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    result = bench("shapes", "--local", "-c", "2", *QUICK, "--json")
    assert result.code == 0, result.err
    assert result.json["levels"][0]["errors"] == {}
    assert result.json["levels"][0]["requests"] > 0


def test_a_search_without_time_keeps_the_settings(bench: Any, models: Path) -> None:
    argv = (
        "--tune",
        "--try",
        "max_delay_ms",
        "-c",
        "2",
        "--window",
        "0.1",
        "--windows",
        "3",
        "--max-time",
        "0.1",
        "-q",
    )
    result = bench("iris", "--models", str(models), *argv)
    assert result.code == 0, result.err
    head, first, second, *_ = result.out.splitlines()
    assert head.split()[:3] == ["MAX_DELAY_MS", "AT", "ONCE"]
    assert first.split()[0] == "0"
    assert second.split()[0] == "0.5"
    assert "for throughput" in result.out


@pytest.mark.slow
def test_the_search_finds_and_writes_what_helps(bench: Any, tmp_path: Path) -> None:
    file = put(tmp_path / "models", "sleeper", "Sleeper", "execution:\n  max_batch_size: 1  # few\n")
    argv = ("--tune", "--write", "--try", "max_batch_size", "-c", "16", "--window", "0.1", "--windows", "3")
    result = bench(
        "sleeper", "--models", str(tmp_path / "models"), *argv, "--max-time", "60", "--json", "--save", "t.csv"
    )
    assert result.code == 0, result.err
    found = result.json
    best = found["changes"]["max_batch_size"]
    assert best >= 4
    assert found["gain"] > 0.3
    assert found["trials"][0]["settings"]["max_batch_size"] == 1
    assert found["yaml"] == f"execution:\n  max_batch_size: {best}\n"
    assert f"  max_batch_size: {best}  # few\n" in file.read_text()
    assert "# ours" in file.read_text()
    assert read_manifest(file, "sleeper", "1").execution.max_batch_size == best
    assert f"written to {file}" in result.err
    assert (tmp_path / "t.csv").read_text().startswith("executor,threads")


def test_what_the_search_refuses(bench: Any, models: Path, tmp_path: Path) -> None:
    result = bench("shapes", "--tune", "--write", "-q")
    assert (result.code, "comes with the engine" in " ".join(result.err.split())) == (2, True)
    result = bench("nobody", "--tune", "--models", str(models), "-q")
    assert (result.code, "there is no model 'nobody'" in result.err) == (1, True)


def test_ctrl_c_prints_what_is_there(live: LiveServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference_engine", "bench", "iris", "--server", live.url, "--json"]
    command += ["-c", "1,2,3", "--window", "0.1", "--windows", "3", "--tolerance", "1000"]
    command = [*command[:-2], "-b", "1,2,3,4,5,6,7,8"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    seen = ""
    give_up = time.monotonic() + 60
    while "[1/24]" not in seen and time.monotonic() < give_up:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert 1 <= len(found["levels"]) < 24
