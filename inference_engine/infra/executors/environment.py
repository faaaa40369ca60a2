"""What runner processes are told through their environment: where they may keep things, and which library they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from inference_engine.domain.model import Manifest
from inference_engine.infra.native_build import path_with

CACHE_DIR = "INFERENCE_ENGINE_CACHE_DIR"
"""Names a folder that a runtime may create and fill; what lies there survives unloading and restarts."""
_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
"""Quiet, and the backend that Keras files are run with whatever the user's keras.json says; read at import."""


class RunnerEnvironment:
    """The variables for the runner of a model, beside those of the server."""

    def __init__(self, state_dir: Path, native_llama: Callable[[], Path | None]) -> None:
        """`native_llama` gives the folder of a llama.cpp built for this machine, or None."""
        self._cache = state_dir / "cache"
        self._native_llama = native_llama

    def __call__(self, manifest: Manifest) -> Mapping[str, str]:
        told = {CACHE_DIR: str(self._cache)}
        if manifest.runtime == "tensorflow":
            told |= _TENSORFLOW
        folder = self._native_llama() if manifest.runtime == "llama_cpp" else None
        return told if folder is None else told | {"PYTHONPATH": path_with(folder)}
