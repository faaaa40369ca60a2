"""A llama.cpp built for this machine: what is checked before, when it is used, and (slowly) a real build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference_engine.bootstrap import BUILTIN_MODELS, Application
from inference_engine.core.settings import Settings
from inference_engine.domain.errors import RuntimeMissing
from inference_engine.domain.model import Manifest
from inference_engine.domain.requests import Call, Complete, Principal, Sampling
from inference_engine.infra import native_build
from inference_engine.infra.executors.environment import CACHE_DIR, RunnerEnvironment
from inference_engine.infra.native_build import NativeBuild, machine

GUIDE = BUILTIN_MODELS / "guide" / "1" / "guide.gguf"


def no_progress(_: str, __: float) -> None:
    pass


def build_at(state: Path) -> NativeBuild:
    return NativeBuild(state, GUIDE, lambda: ("avx2", "avx512f", "amx_int8"))


def stamped(build: NativeBuild, **changed: object) -> None:
    version = build.folder.name.removeprefix("xllamacpp-")
    build.folder.mkdir(parents=True)
    stamp = {"version": version, "machine": machine()} | changed
    (build.folder / "stamp.json").write_text(json.dumps(stamp))


def test_nothing_is_used_before_it_is_built(tmp_path: Path) -> None:
    build = build_at(tmp_path)
    status = build.status()
    assert (status.state, status.features) == ("absent", ("avx512f", "amx_int8"))
    assert build.active_folder() is None
    assert build.remove() is False


def test_a_build_is_used_by_runners_of_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    build = build_at(tmp_path)
    stamped(build)
    assert build.status().state == "active"
    environment = RunnerEnvironment(tmp_path, build.active_folder)
    told = environment(Manifest("m", "1", "llama_cpp", "m.gguf"))
    assert told == {CACHE_DIR: str(tmp_path / "cache"), "PYTHONPATH": f"{build.folder}{os.pathsep}/elsewhere"}
    assert "PYTHONPATH" not in environment(Manifest("m", "1", "onnx", "m.onnx"))
    assert build.remove() is True
    assert build.active_folder() is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"version": "0.1"}, "it is of version 0.1"), ({"machine": "other"}, "it was built for another processor")],
)
def test_a_build_for_something_else_is_left_alone(tmp_path: Path, changed: dict[str, str], reason: str) -> None:
    build = build_at(tmp_path)
    stamped(build, **changed)
    assert build.active_folder() is None
    assert build.status().state == "stale"
    assert reason in build.status().reason


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissing, match=r"cmake is needed.*apt install cmake"):
        build_at(tmp_path).build(no_progress)
    for tool in ("cmake", "make"):
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(RuntimeMissing, match=r"C\+\+ compiler is needed"):
        build_at(tmp_path).build(no_progress)


@pytest.mark.slow
def test_sources_that_do_not_compile_are_an_error_and_change_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "setup.py").write_text("raise SystemExit('error: the compiler has a bad day')")
    build = build_at(tmp_path / "state")
    with pytest.raises(RuntimeMissing, match=r"could not be built: .*build\.log"):
        build.build(no_progress, source=str(source))
    assert [path.name for path in (tmp_path / "state" / "native").iterdir()] in (
        ["lock", "build.log"],
        ["build.log", "lock"],
    )
    assert build.status().state == "absent"


def test_answers_are_compared_and_near_ties_allowed() -> None:
    wheel = [[["a", -0.1, 2.0], ["b", -0.2, 1.0]], [["c", -0.3, 0.01], ["d", -0.1, 3.0]]]
    tie = [[["a", -0.11, 2.0], ["b", -0.2, 1.0]], [["x", -0.3, 0.01], ["y", -9.0, 3.0]]]
    assert native_build._difference(wheel, wheel) == ""
    assert native_build._difference(wheel, tie) == ""
    other = [[["a", -0.1, 2.0], ["x", -0.2, 1.0]], wheel[1]]
    assert native_build._difference(wheel, other) == "answer 1, token 2: 'b' against 'x'"
    short = [wheel[0][:1], wheel[1]]
    assert native_build._difference(wheel, short) == "answer 1, token 2: 'b' against 'the end'"
    off = [[["a", -0.9, 2.0], ["b", -0.2, 1.0]], wheel[1]]
    assert "logprob -0.100 against -0.900" in native_build._difference(wheel, off)


def test_the_check_answers_and_tells_the_library() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "inference_engine.infra.native_check", str(GUIDE.parent), GUIDE.name],
        env=os.environ | {"GOMP_SPINCOUNT": "5000"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = json.loads(ended.stdout)
    assert "xllamacpp" in found["library"]
    assert all(len(answer) > 10 for answer in found["answers"])
    assert native_build._difference(found["answers"], found["answers"]) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_real_build(tmp_path: Path) -> None:
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: llama.cpp cannot be built here")
    build = build_at(tmp_path)
    seen: list[tuple[str, float]] = []
    status = build.build(lambda doing, share: seen.append((doing, share)))
    assert status.state == "active"
    assert len({round(share, 1) for doing, share in seen if doing == "compiling"}) > 5
    settings = Settings(state_dir=tmp_path)
    application = Application(settings)
    await application.models.open()
    try:
        generation = await application.inference.generate(
            "guide", Complete("The server", Sampling(max_tokens=3)), Call("x", Principal("t", "k"))
        )
        assert [delta async for delta in generation.deltas]
        (pid,) = [status.pid for status in application.models.statuses() if status.pid]
        assert str(build.folder) in Path(f"/proc/{pid}/maps").read_text()
    finally:
        await application.models.close()
    assert build.remove()
