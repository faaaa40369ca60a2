"""What runner processes are told through their environment: where they may keep things, and which library they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from inference_engine.domain.model import Manifest
from inference_engine.infra.native_build import path_with

CACHE_DIR = "INFERENCE_ENGINE_CACHE_DIR"
"""Names a folder that a runtime may create and fill; what lies there survives unloading and restarts."""
_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
"""Quiet, and the backend that Keras files are run with whatever the user's keras.json says; read at import."""

TRUSTED_DIGESTS = "INFERENCE_ENGINE_TRUSTED_DIGESTS"
"""Lists, separated by commas, the digests of files that the operator trusts to run code while they are read."""

_ASK_FOR_TRUST = frozenset(("sklearn", "mlflow", "torch", "tensorflow"))
"""The runtimes that may read such a file; nobody else needs to know."""


class RunnerEnvironment:
    """The variables for the runner of a model, beside those of the server."""

    def __init__(
        self, state_dir: Path, native_llama: Callable[[], Path | None], trusted_digests: Sequence[str] = ()
    ) -> None:
        """`native_llama` gives the folder of a llama.cpp built for this machine, or None.

        `trusted_digests` are those of files that may run code while they are read.
        """
        self._trusted = ",".join(trusted_digests)
        self._cache = state_dir / "cache"
        self._native_llama = native_llama

    def __call__(self, manifest: Manifest) -> Mapping[str, str]:
        told = {CACHE_DIR: str(self._cache)}
        if manifest.runtime in _ASK_FOR_TRUST:
            told[TRUSTED_DIGESTS] = self._trusted
        if manifest.runtime == "tensorflow":
            told |= _TENSORFLOW
        folder = self._native_llama() if manifest.runtime == "llama_cpp" else None
        return told if folder is None else told | {"PYTHONPATH": path_with(folder)}
