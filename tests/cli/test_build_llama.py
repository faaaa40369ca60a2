"""The command `build-llama`, and what `doctor` says of the library in use."""

from __future__ import annotations

from typing import Any

from inference_engine.domain.errors import RuntimeMissing
from inference_engine.domain.native import NativeStatus
from inference_engine.domain.ports import RuntimeInfo
from tests.cli.fakes import FakeComposition


def test_it_builds_and_takes_away(call: Any, composition: FakeComposition) -> None:
    built = call("build-llama", "--jobs", "2", "--source", "x.tar.gz")
    assert built.code == 0
    assert composition.native.asked == [("x.tar.gz", 2)]
    assert "built 1.0 in /state/native; its answers are the same" in built.out
    assert built.err.splitlines() == ["compiling", "compiling 0%", "compiling 50%", "compiling"]
    removed = call("build-llama", "--remove", "--json")
    assert removed.json == {"removed": True}
    assert "there is no build" in call("build-llama", "--remove").out
    assert call("build-llama", "--json").json["state"] == "active"


def test_a_missing_tool_is_told_in_one_line(call: Any, composition: FakeComposition) -> None:
    composition.native.fail = RuntimeMissing("cmake is needed: apt install cmake")
    result = call("build-llama")
    assert result.code == 1
    assert "error: cmake is needed: apt install cmake" in result.err
    assert call("build-llama", "--json").json["error"]["code"] == "runtime_missing"


def test_doctor_says_which_library_is_in_use(call: Any, composition: FakeComposition) -> None:
    composition.known.append(RuntimeInfo("llama_cpp", True, "1.0"))

    def line() -> str:
        return next(line for line in call("doctor").out.splitlines() if "  llama.cpp  " in line)

    assert "published build is in use; `inference-engine build-llama` makes one that also uses avx512_vnni" in line()
    composition.native.current = NativeStatus("absent", "/f")
    assert "offers nothing beyond it" in line()
    composition.native.current = NativeStatus("active", "/f", "1.0", features=("avx512f",))
    assert "1.0 built for this processor is in use, with avx512f" in line()
    composition.native.current = NativeStatus("stale", "/f", "1.0", "it was built for another processor")
    assert line().startswith("warn")
