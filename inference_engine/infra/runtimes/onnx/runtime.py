"""Runs ONNX models with ONNX Runtime. Knows sessions and their tensors, not how batches are formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inference_engine.domain.errors import (
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    InvalidTensor,
    ModelLoadFailed,
)
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.onnx.options import OnnxOptions
from inference_engine.infra.runtimes.onnx.session import open_session
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.signatures import declared_over_found
from inference_engine.infra.runtimes.threads import thread_count

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "bytes",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxRuntime(RuntimeDefaults):
    """One ONNX session. Tensors go in and out as numpy arrays; strings are object arrays of bytes outside."""

    def __init__(self) -> None:
        self._session: Any = None
        self._signature = Signature(())
        self._texts: frozenset[str] = frozenset()
        self._wanted: list[str] = []
        self._binding = False

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, OnnxOptions, "onnx")
        path = artifact_path(folder, manifest.artifact)
        self._binding = options.io_binding
        wanted = manifest.execution.threads if options.intra_op_threads is None else options.intra_op_threads
        threads = thread_count(wanted)
        self._session = open_session(path, options, threads, manifest.execution.device)
        self._signature = Signature(
            tuple(_spec(node, path) for node in self._session.get_inputs()),
            tuple(_spec(node, path) for node in self._session.get_outputs()),
        )
        signature = declared_over_found(manifest.signature, self._signature, path)
        texts = [spec.name for spec in (*self._signature.inputs, *self._signature.outputs) if spec.dtype == "bytes"]
        if options.io_binding and texts:
            raise InvalidManifest(
                f"options.io_binding: {texts[0]!r} holds texts, which cannot be bound: leave it out",
                param="options.io_binding",
            )
        self._wanted = [spec.name for spec in self._signature.outputs]
        self._texts = frozenset(spec.name for spec in self._signature.inputs if spec.dtype == "bytes")
        return Loaded(("predict",), signature, details=self._details(path, threads))

    def run(self, batch: Tensors) -> Tensors:
        feed = dict(batch)
        for name in self._texts:
            feed[name] = _text(name, feed[name])
        try:
            outputs = self._bound(feed) if self._binding else self._session.run(self._wanted, feed)
        except Exception as error:  # ONNX Runtime's exception types share no base class below Exception
            raise _run_error(error) from error
        return {
            spec.name: _bytes(array) if spec.dtype == "bytes" else array
            for spec, array in zip(self._signature.outputs, outputs, strict=True)
        }

    def _bound(self, feed: dict[str, Array]) -> list[Array]:
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.asarray(array, order="C"))
        for name in self._wanted:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def close(self) -> None:
        self._session = None

    def _details(self, path: Path, threads: int) -> dict[str, Any]:
        import onnxruntime

        meta = self._session.get_modelmeta()
        return {
            "producer": meta.producer_name,
            "graph": meta.graph_name,
            "size_bytes": path.stat().st_size,
            "threads": threads,
            "providers": self._session.get_providers(),
            "library": f"onnxruntime {onnxruntime.__version__}",
        }


def _spec(node: Any, path: Path) -> TensorSpec:
    if not node.type.startswith("tensor("):
        raise ModelLoadFailed(
            f"{path}: {node.name!r} is a {node.type}, not a tensor. For scikit-learn models, convert with "
            "options={id(model): {'zipmap': False}}",
            param=node.name,
        )
    if node.type not in _DTYPES:
        raise ModelLoadFailed(f"{path}: {node.name!r} is a {node.type}, which is not supported", param=node.name)
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _text(name: str, array: Array) -> Array:
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidTensor(f"input {name!r} holds bytes that are not UTF-8 text: {error}", param=name) from None
    return np.array(flat, dtype=object).reshape(array.shape)


def _bytes(array: Array) -> Array:
    return np.array([str(item).encode() for item in array.ravel()], dtype=object).reshape(array.shape)


def _run_error(error: Exception) -> InvalidRequest | InferenceFailed:
    text = str(error)
    if type(error).__name__ == "InvalidArgument":
        return InvalidRequest(f"ONNX Runtime refuses the inputs: {text}")
    return InferenceFailed(f"ONNX Runtime failed: {text}")
