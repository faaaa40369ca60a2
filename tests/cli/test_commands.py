"""The commands, run as a user runs them: arguments in; stdout, stderr and an exit code out."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from inference_engine.adapters.cli.options import SETTING_HELP, server_runs, server_url
from inference_engine.core.settings import Settings, flag_name
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import BrokenModel, StoredModel
from tests.cli.fakes import FakeComposition

ROOT = Path(__file__).parents[2]


def test_serve_gets_the_settings_of_its_flags(call: Any, composition: FakeComposition, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    flags = "--models a --models b --host 0.0.0.0 --port 9000 --api-key first-key --api-key second-key --no-access-log"
    result = call("serve", *flags.split(), "--drain-s", "2", "--json")
    assert (result.code, result.err) == (0, "")
    (settings,) = composition.served
    assert settings.models == (tmp_path / "a", tmp_path / "b")
    assert (settings.host, settings.port, settings.drain_s) == ("0.0.0.0", 9000, 2.0)
    assert settings.api_keys == ("first-key", "second-key")
    assert settings.log_format == "json"


def test_a_bad_setting_is_a_usage_error_without_a_traceback(call: Any) -> None:
    result = call("serve", "--port", "many")
    assert result.code == 2
    assert result.err == "error: flag --port: port is 'many': Expected `int`, got `str`\n"
    result = call("serve", "--host", "0.0.0.0", "--json")
    assert result.code == 2
    assert "no API key is set" in result.json["error"]["message"]


def test_every_setting_has_a_flag_with_help(call: Any) -> None:
    assert set(SETTING_HELP) == set(Settings.__struct_fields__)
    text = call("serve", "--help").out
    for field in Settings.__struct_fields__:
        assert flag_name(field) in text


def test_config_show_tells_values_and_where_they_came_from(
    call: Any, composition: FakeComposition, tmp_path: Path
) -> None:
    (tmp_path / "inference-engine.yaml").write_text("drain_s: 5\napi_keys: [very-secret]\n")
    composition.environ["LOG_LEVEL"] = "debug"
    result = call("config", "show", "--port", "81")
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert rows["port"] == ["81", "flag", "--port"]
    assert rows["log_level"] == ["debug", "environment", "LOG_LEVEL"]
    assert rows["drain_s"] == ["5", f"{tmp_path}/inference-engine.yaml:1"]
    assert rows["host"] == ["127.0.0.1", "default"]
    shown = call("config", "show", "--json").json
    assert shown["settings"]["drain_s"] == {"value": 5.0, "origin": f"{tmp_path}/inference-engine.yaml:1"}
    assert shown["settings"]["api_keys"]["value"] == ["***"]
    assert "very-secret" not in result.out


def test_version(call: Any) -> None:
    assert call("version").out == "1.2.3\n"
    assert call("version", "--json").json == {"version": "1.2.3"}


def test_list(call: Any, composition: FakeComposition) -> None:
    result = call("list")
    assert result.err == "no server at http://127.0.0.1:1: working in this process\n"
    assert [line.split() for line in result.out.splitlines()] == [
        ["MODEL", "RUNTIME", "TASK", "STATE", "FILES", "MEMORY", "ANSWERS", "TO"],
        ["guide:1", "llama_cpp", "text-generation", "unloaded", "1.5", "KB", "-", "guide"],
        ["iris:1", "onnx", "tabular-classification", "unloaded", "1.5", "KB", "-", "iris"],
    ]
    assert call("list", "--quiet").err == ""
    assert call("list", "--local").err == "working in this process\n"
    assert [model["name"] for model in call("list", "--json").json["models"]] == ["guide", "iris"]
    composition.broken = [BrokenModel(Path("x"), "x/1/model.yaml:3: bad")]
    assert "cannot be used: x/1/model.yaml:3: bad\n" in call("list").err
    assert call("list", "--json").json["broken"] == ["x/1/model.yaml:3: bad"]


def test_show(call: Any) -> None:
    text = call("show", "iris").out
    assert "input float32[-1, 4]" in text
    assert "tabular-classification" in text
    assert call("show", "iris", "--manifest").out == "name: iris\n"
    assert call("show", "iris:1", "--json").json["manifest"]["runtime"] == "onnx"


def test_predict(call: Any, tmp_path: Path) -> None:
    table = call("predict", "iris", "--input", '{"input": [[1, 2, 3, 4.5], [0, 0, 0, 1]]}').out
    assert [line.split() for line in table.splitlines()] == [
        ["ROW", "sum", "float32", "label", "bytes", "twice", "float32[4]"],
        ["0", "10.5", "big", "[2,", "4,", "6,", "9]"],
        ["1", "1", "small", "[0,", "0,", "0,", "2]"],
    ]
    file = tmp_path / "in.json"
    file.write_text('{"input": [[1, 2, 3, 4.5]]}')
    result = call("predict", "iris", "--input", f"@{file}", "--json").json
    assert result["model"] == "iris:1"
    assert result["outputs"][1] == {"name": "label", "dtype": "bytes", "shape": [1], "data": ["big"]}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "must name every input"),
        ("{}", "must name every input"),
        ('{"input": [[NaN]]}', "NaN is not a JSON number"),
        ("@/nowhere.json", "cannot be read"),
    ],
)
def test_inputs_that_cannot_be_used_are_usage_errors(call: Any, source: str, words: str) -> None:
    result = call("predict", "iris", "--input", source)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_images_need_a_model_that_takes_bytes(call: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"any")
    for argv, words in (
        ([], "say what MODEL is to compute: --input"),
        (["--image", str(file)], "a model with one input of bytes, iris:1 has none"),
        (["--image", str(tmp_path / "no.png")], "--image: cannot be read"),
        (["--image", str(tmp_path)], "--image: cannot be read"),
    ):
        result = call("predict", "iris", *argv)
        assert result.code == 2
        assert words in " ".join(result.err.split())


def test_analyze(call: Any, tmp_path: Path, composition: FakeComposition) -> None:
    one, empty = tmp_path / "one.png", tmp_path / "empty.png"
    one.write_bytes(b"one")
    empty.write_bytes(b"empty")
    result = call("analyze", str(one), str(empty), "--task", "classify", "--task", "detect", "--top-k", "3")
    assert [line.split() for line in result.out.splitlines()] == [
        ["FILE", "TASK", "FOUND", "SCORE", "BOX"],
        [str(one), "classify", "cat", "0.750"],
        [str(one), "detect", "cat", "0.500", "1", "2", "30", "40"],
        [str(empty), "detect", "nothing"],
        [str(empty), "describe", "Nothing[2J", "here."],
        [str(empty), "embed", "2", "values"],
    ]
    assert "classify by guide:1" in result.err
    assert composition.fake.heard[0][1] == {"tasks": ["classify", "detect"], "top_k": 3}
    answer = call("analyze", str(one), "--json").json
    assert answer["models"] == {"classify": {"model": "guide", "version": "1"}}
    assert answer["results"] == [
        {
            "file": str(one),
            "labels": [{"label": "cat", "score": 0.75}],
            "objects": [{"label": "cat", "score": 0.5, "box": [1, 2, 30, 40]}],
        }
    ]
    for argv, words in (
        ((), "Missing argument 'FILE...'"),
        ((str(tmp_path / "no.png"),), "cannot be read"),
        ((str(one), "--task", "paint"), "'paint' is not one of"),
    ):
        result = call("analyze", *argv)
        assert result.code == 2
        assert words in " ".join(result.err.split())


def test_analyze_a_video(call: Any, tmp_path: Path, composition: FakeComposition) -> None:
    film, image = tmp_path / "film.mp4", tmp_path / "one.png"
    film.write_bytes(b"film")
    image.write_bytes(b"one")
    result = call("analyze", str(film), "--every", "0.5")
    assert [line.split() for line in result.out.splitlines()] == [
        ["FILE", "TASK", "FOUND", "FROM", "TO"],
        [str(film), "scenes", "scene", "1", "0.00", "s", "2.00", "s"],
        [str(film), "track", "cat", "1", "0.00", "s", "1.00", "s"],
    ]
    assert composition.fake.heard == [(b"film", {"tasks": ["scenes", "track"], "sampling": {"every_s": 0.5}})]
    answer = call("analyze", str(film), str(image), "--json").json
    assert [result["file"] for result in answer["results"]] == [str(image), str(film)]
    assert answer["results"][1]["tracks"] == [{"id": 1, "label": "cat", "first_s": 0.0, "last_s": 1.0}]
    for argv, words in (
        ((str(film), "--task", "embed"), "embed is not for videos"),
        ((str(image), "--task", "track"), "track is not for images"),
        ((str(film), "--every", "0"), "x>0"),
    ):
        result = call("analyze", *argv)
        assert result.code == 2
        assert words in " ".join(result.err.split())


def test_an_error_of_the_engine_is_one_line_or_one_object(call: Any) -> None:
    result = call("show", "gide", "--quiet")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: there is no model 'gide': did you mean 'guide'?\n"
    result = call("predict", "iris", "-i", '{"x": [[1]]}', "--json")
    assert result.code == 1
    assert result.json["error"]["code"] == "invalid_tensor"
    assert call("nonsense").code == 2
    assert call("run", "--json").json["error"]["code"] == "usage"


def test_doctor_is_content_or_fails(call: Any, composition: FakeComposition, tmp_path: Path) -> None:
    manifest = Manifest(name="iris", version="1", runtime="onnx", artifact="m.onnx")
    composition.stored = [StoredModel(manifest, tmp_path, assumed=True, size_bytes=10)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        composition.port = free.getsockname()[1]
    result = call("doctor")
    assert result.code == 0, result.out
    assert "iris:1, 10 B, adopted without a manifest" in result.out
    assert "-> pip install torch" in result.out
    found = call("doctor", "--json").json
    assert found["ok"] is True
    assert found["hardware"]["cpu"]["model"] == "Test CPU"

    composition.broken = [BrokenModel(tmp_path, "x/model.yaml:3: bad")]
    result = call("doctor")
    assert result.code == 1
    assert "FAIL  model       x/model.yaml:3: bad" in result.out


def test_doctor_names_a_port_that_is_taken_and_a_runtime_that_is_needed(
    call: Any, composition: FakeComposition, tmp_path: Path
) -> None:
    manifest = Manifest(name="net", version="1", runtime="torch", artifact="m.pt")
    composition.stored = [StoredModel(manifest, tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        composition.port = taken.getsockname()[1]
        checks = call("doctor", "--json").json["checks"]
    broken = {check["name"]: check["remedy"] for check in checks if check["state"] == "broken"}
    assert broken == {"port": "end the other program, or choose another --port", "runtime": "pip install torch"}


def test_doctor_tells_of_bad_settings(call: Any, composition: FakeComposition) -> None:
    composition.environ["API_HOST"] = "0.0.0.0"
    result = call("doctor")
    assert result.code == 1
    assert "FAIL  settings    environment API_HOST" in result.out


@pytest.mark.parametrize(
    ("head", "ours"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Inference-Engine: 1\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_our_own_server_is_taken_for_one(head: bytes, ours: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(head)

        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=answer)
        thread.start()
        assert server_runs(url) is ours
        thread.join()
    assert not server_runs(url)


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("[::1]", "http://[::1]:80"), ("h", "http://h:80")],
)
def test_a_server_on_every_address_is_asked_on_this_machine(host: str, url: str) -> None:
    assert server_url(Settings(host=host, port=80)) == url


def test_a_named_server_must_be_there(call: Any) -> None:
    result = call("list", "--server", "http://127.0.0.1:1")
    assert result.code == 1
    assert "http://127.0.0.1:1 cannot be reached" in result.err
    assert call("list", "--server", "localhost:8000").code == 2


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from inference_engine.adapters.cli import main
assert main(None, ["--help"]) == main(None, ["run", "--help"]) == 0
heavy = {"numpy", "httpx", "rich", "yaml", "asyncio", "structlog", "fastapi"} & set(sys.modules)
assert not heavy, heavy
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr


def test_embed_prints_a_table_or_json(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("embed", "guide", "one", "two words", "--local")
    assert result.code == 0
    assert result.out.splitlines()[1:] == [
        "one        5       [3, 1, 1, 0, …]",
        "two words  5       [9, 2, 1, 0, …]",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo words\r\n"))
    result = call("embed", "guide", "--dimensions", "2", "--json", "--local")
    assert result.json == {"model": "guide:1", "embeddings": [[3, 1], [9, 2]], "usage": {"prompt_tokens": 7}}
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    result = call("embed", "guide", "--local")
    assert (result.code, "no text" in result.err) == (2, True)


def test_rerank_prints_the_best_first(call: Any) -> None:
    result = call("rerank", "guide", "sky", "grass", "blue sky", "--local")
    assert result.out.splitlines() == [
        "SCORE   INDEX  DOCUMENT",
        "1.0000  1      blue sky",
        "0.0000  0      grass",
    ]
    result = call("rerank", "guide", "sky", "grass", "blue sky", "--top-n", "1", "--json", "--local")
    assert result.json == {
        "model": "guide:1",
        "results": [{"index": 1, "score": 1.0, "document": "blue sky"}],
        "usage": {"prompt_tokens": 9},
    }


def test_transcribe_reads_a_file(call: Any, composition: FakeComposition, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF")
    assert call("transcribe", "guide", str(file), "--language", "en", "--local").out == "one two\n"
    assert composition.fake.heard == [(b"RIFF", {"timestamps": False, "translate": False, "language": "en"})]
    timed = call("transcribe", "guide", str(file), "--timestamps", "--local").out
    assert timed == "[00:00.00 - 00:01.00] one\n[00:01.00 - 00:02.00] two\n"
    assert call("transcribe", "guide", str(file), "--json", "--local").json == {
        "model": "guide:1",
        "text": "one two",
        "segments": [],
    }
    assert call("transcribe", "guide", "nothing.wav", "--local").code == 2
    assert call("transcribe", "guide", str(file), "--translate", "--language", "en", "--local").code == 2
