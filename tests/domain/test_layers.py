"""The layers hold at run time too: the core of the system loads no web framework and no ML library."""

from __future__ import annotations

import subprocess
import sys

import pytest

FOREIGN = ["fastapi", "starlette", "pydantic", "uvicorn", "httpx", "onnxruntime", "xllamacpp", "torch", "click", "rich"]


@pytest.mark.parametrize(
    "layer", ["core.settings", "domain.ports", "domain.routing", "services.inference", "services.models"]
)
def test_a_layer_imports_nothing_of_the_outside(layer: str) -> None:
    code = f"import sys, inference_engine.{layer}; print(*[name for name in {FOREIGN} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
