"""Runs ONNX models with ONNX Runtime. Knows sessions and their tensors, not how batches are formed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import (
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    InvalidTensor,
    ModelLoadFailed,
    RuntimeMissing,
)
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.files import artifact_path
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
_LEVELS = {"all": "ORT_ENABLE_ALL", "basic": "ORT_ENABLE_BASIC", "off": "ORT_DISABLE_ALL"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SILENT = 4  # log severity "fatal": errors come as exceptions


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an onnx model.

    intra_op_threads: threads of one operator, instead of execution.threads. graph_optimization: how far the graph is
    rewritten at load. spinning: idle threads keep a core busy for a little less latency.
    """

    intra_op_threads: Annotated[int, msgspec.Meta(ge=0)] | None = None
    graph_optimization: Literal["all", "basic", "off"] = "all"
    spinning: bool = False


class OnnxRuntime(RuntimeDefaults):
    """One ONNX session. Tensors go in and out as numpy arrays; strings are object arrays of bytes outside."""

    def __init__(self) -> None:
        self._session: Any = None
        self._signature = Signature(())
        self._texts: frozenset[str] = frozenset()
        self._wanted: list[str] = []

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, OnnxOptions, "onnx")
        path = artifact_path(folder, manifest.artifact)
        wanted = manifest.execution.threads if options.intra_op_threads is None else options.intra_op_threads
        threads = thread_count(wanted)
        self._session = _open(path, options, threads, _providers(manifest.execution.device))
        self._signature = Signature(
            tuple(_spec(node, path) for node in self._session.get_inputs()),
            tuple(_spec(node, path) for node in self._session.get_outputs()),
        )
        signature = declared_over_found(manifest.signature, self._signature, path)
        self._wanted = [spec.name for spec in self._signature.outputs]
        self._texts = frozenset(spec.name for spec in self._signature.inputs if spec.dtype == "bytes")
        return Loaded(("predict",), signature, details=self._details(path, threads))

    def run(self, batch: Tensors) -> Tensors:
        feed = dict(batch)
        for name in self._texts:
            feed[name] = _text(name, feed[name])
        try:
            outputs = self._session.run(self._wanted, feed)
        except Exception as error:  # ONNX Runtime's exception types share no base class below Exception
            raise _run_error(error) from error
        return {
            spec.name: _bytes(array) if spec.dtype == "bytes" else array
            for spec, array in zip(self._signature.outputs, outputs, strict=True)
        }

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


def _open(path: Path, options: OnnxOptions, threads: int, providers: list[str]) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _SILENT
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[options.graph_optimization])
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # ONNX Runtime's exception types share no base class below Exception
        raise ModelLoadFailed(
            f"{path} cannot be loaded by ONNX Runtime: {error}. The file may be damaged, or lack its external data",
            param="artifact",
        ) from None


def _providers(device: str) -> list[str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error

    there = onnxruntime.get_available_providers()
    kind = device.partition(":")[0]
    if kind == "auto":
        return [provider for provider in (_PROVIDERS["cuda"], _PROVIDERS["cpu"]) if provider in there]
    if kind not in _PROVIDERS:
        raise InvalidManifest(
            f"execution.device {device!r} is unknown to the onnx runtime: use auto, cpu or cuda",
            param="execution.device",
        )
    if _PROVIDERS[kind] not in there:
        raise RuntimeMissing(
            f"ONNX Runtime here has no {_PROVIDERS[kind]}, only {', '.join(there)}: pip install onnxruntime-gpu"
        )
    return list(dict.fromkeys((_PROVIDERS[kind], _PROVIDERS["cpu"])))


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
