"""Finds runtimes by their entry points; imports one only when a model needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import cast

from inference_engine.domain.errors import InvalidManifest, RuntimeMissing
from inference_engine.domain.ports import Runtime, RuntimeInfo

GROUP = "inference_engine.runtimes"

LIBRARIES = {
    "identity": "",
    "lightgbm": "lightgbm",
    "llama_cpp": "xllamacpp",
    "mlflow": "",  # native files inside an MLflow folder need only their own library
    "onnx": "onnxruntime",
    "openvino": "openvino_genai",
    "python": "",
    "sklearn": "sklearn",
    "tensorflow": "tensorflow",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
    "xgboost": "xgboost",
}
"""The library behind each runtime of this package; another package's runtime stands for itself."""
_EXTRAS = frozenset(("lightgbm", "openvino", "sklearn", "tensorflow", "torch", "transformers", "vllm", "xgboost"))
"""Runtimes whose libraries come with an extra of this package, of the same name."""
_DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "xgboost": ("xgboost-cpu",)}
"""Names under which a library may be installed, where they are not its own."""


class EntryPointCatalog:
    """Every runtime an installed package offers in the group `inference_engine.runtimes`, by the manifest's word."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        """`points` replaces what is installed."""
        found = entry_points(group=GROUP) if points is None else points
        self._points: dict[str, EntryPoint] = {point.name: point for point in found}

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._points))

    def create(self, name: str) -> Runtime:
        """A fresh runtime, nothing loaded yet.

        Raises:
            InvalidManifest: no such runtime; the message lists those there are.
            RuntimeMissing: its package cannot be imported.
        """
        point = self._find(name)
        try:
            factory = point.load()
        except ImportError as error:
            raise RuntimeMissing(f"runtime {name!r} cannot be imported from {point.value}: {error}") from error
        return cast(Runtime, factory())

    def describe(self, name: str) -> RuntimeInfo:
        """Whether the runtime's library is installed, found without importing it.

        Raises:
            InvalidManifest: no such runtime.
        """
        point = self._find(name)
        library = LIBRARIES.get(name, point.module.partition(".")[0])
        if not library:
            return RuntimeInfo(name, available=True)
        if find_spec(library) is None:
            wanted = f"'inference-engine[{name}]'" if name in _EXTRAS else library
            return RuntimeInfo(name, available=False, remedy=f"pip install {wanted}")
        for distribution in (library, *_DISTRIBUTIONS.get(library, ())):
            with contextlib.suppress(PackageNotFoundError):  # importable, installed under another name
                return RuntimeInfo(name, available=True, version=version(distribution))
        return RuntimeInfo(name, available=True)

    def _find(self, name: str) -> EntryPoint:
        try:
            return self._points[name]
        except KeyError:
            known = ", ".join(self.names()) or "none is installed"
            raise InvalidManifest(f"runtime {name!r} is unknown; known here: {known}", param="runtime") from None
