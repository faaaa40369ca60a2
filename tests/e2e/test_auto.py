"""`runtime: auto` with the real runtimes, from a folder to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from inference_engine import Engine
from tests.fixtures.tiny_gguf import Size, tiny_gguf

pytest.importorskip(
    "openvino_genai", reason="openvino-genai is not installed: pip install 'inference-engine[openvino]'"
)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("aim", ["latency", "throughput"])
def test_auto_measures_chooses_shows_and_answers(tmp_path: Path, aim: str) -> None:
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    tiny_gguf(folder / "m.gguf", Size(hidden=128, head_dim=32, feed_forward=256, context=2048), q8=True)
    options = {"aim": aim, "context_length": 1024, "parallel": 16}
    manifest = {"name": "m", "version": "1", "runtime": "auto", "artifact": "m.gguf", "options": options}
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest | {"execution": {"threads": 1}}))
    settings = {"models": tmp_path / "models", "builtin_models": False, "state_dir": tmp_path / "state"}
    with Engine(**settings) as engine:
        status = engine.load("m")
        about = status.details["auto"]
        assert about["chosen"] in ("llama_cpp", "openvino")
        assert [candidate["runtime"] for candidate in about["candidates"]] == ["llama_cpp", "openvino"]
        for candidate in about["candidates"]:
            assert candidate["tokens_per_s"] > 0
        assert about["candidates"][1]["difference"] < 0.1
        assert about["candidates"][1]["alike"] > 0.9
        assert "".join(engine.generate("m", "Hello", temperature=0.0, max_tokens=8))
    with Engine(**settings) as engine:
        again = engine.load("m").details["auto"]
        assert again == about or about["busy"]  # kept, and not measured again unless the machine has become quiet
