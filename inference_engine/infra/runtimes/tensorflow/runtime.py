"""The runtime behind TensorFlow models: loads one and calls the function of its signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from inference_engine.domain.errors import (
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
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
from inference_engine.infra.runtimes.tensorflow.keras_file import open_keras
from inference_engine.infra.runtimes.tensorflow.saved_model import open_saved_model
from inference_engine.infra.runtimes.threads import thread_count

_DTYPES = {
    "string": "bytes",
    "half": "float16",
    "bfloat16": "float32",
    **{name: name for name in ("bool", "float16", "float32", "float64")},
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class TensorflowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a tensorflow model.

    signature: which of a SavedModel's signatures is served. inter_op_threads: operators that may run side by side.
    """

    signature: str | None = None
    inter_op_threads: Annotated[int, msgspec.Meta(ge=0)] = 1


class TensorflowRuntime(RuntimeDefaults):
    """One function of a SavedModel or Keras file. Texts are object arrays of bytes on both sides."""

    def __init__(self) -> None:
        self._model: Any = None
        self._function: Any = None
        self._device = ""
        self._inputs: dict[str, Any] = {}
        self._outputs: tuple[str, ...] = ()
        self._by_name = True

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, TensorflowOptions, "tensorflow")
        path = artifact_path(folder, manifest.artifact)
        tf = _library()
        threads = _use_threads(thread_count(manifest.execution.threads), options.inter_op_threads)
        self._device = _device(manifest.execution.device)
        with tf.device(self._device):
            inputs, outputs = self._open(path, options, manifest)
        declared = manifest.signature
        found = Signature(_specs(inputs, declared, "inputs", path), _specs(outputs, declared, "outputs", path))
        signature = declared_over_found(declared, found, path)
        self._inputs = {name: spec.dtype for name, spec in inputs.items()}
        self._outputs = tuple(outputs)
        details = {
            "format": "saved_model" if self._by_name else "keras",
            "device": self._device,
            "threads": threads,
            "size_bytes": sum(file.stat().st_size for file in _files(path)),
            "library": f"tensorflow {tf.__version__}",
        }
        return Loaded(("predict",), signature, details=details)

    def run(self, batch: Tensors) -> Tensors:
        import tensorflow as tf

        try:
            with tf.device(self._device):
                feed = {name: tf.constant(batch[name], dtype) for name, dtype in self._inputs.items()}
                found = self._function(**feed) if self._by_name else self._function(*feed.values())
            named = found if self._by_name else dict(zip(self._outputs, found, strict=True))
            return {name: _array(named[name], batch) for name in self._outputs}
        except tf.errors.InvalidArgumentError as error:
            raise InvalidRequest(f"TensorFlow refuses the inputs: {_first_line(error)}") from error
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise InferenceFailed(f"TensorFlow failed: {type(error).__name__}: {_first_line(error)}") from error

    def close(self) -> None:
        self._model = self._function = None

    def _open(
        self, path: Path, options: TensorflowOptions, manifest: Manifest
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Set model and function; return TensorFlow's own specs of inputs and outputs, by name."""
        if path.is_dir():
            self._model, self._function = open_saved_model(path, options.signature, manifest)
            given, made = self._function.structured_input_signature[1], self._function.structured_outputs
            return dict(sorted(given.items())), dict(sorted(made.items()))  # a SavedModel keeps no order
        if path.suffix.lower() != ".keras":
            raise ModelLoadFailed(
                f"{path} is neither the folder of a SavedModel nor a .keras file: convert it with model.save",
                param="artifact",
            )
        if options.signature is not None:
            raise InvalidManifest(
                "options.signature: a .keras file has no signatures: leave it out", param="options.signature"
            )
        self._by_name = False
        self._model, self._function, inputs, outputs = open_keras(path, manifest)
        given = self._function.structured_input_signature[0]
        return dict(zip(inputs, given, strict=True)), dict(zip(outputs, self._function.structured_outputs, strict=True))


def _library() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise RuntimeMissing(
            f"TensorFlow cannot be imported ({error}): pip install 'inference-engine[tensorflow]'", param="runtime"
        ) from error
    return tensorflow


def _use_threads(threads: int, inter_op_threads: int) -> int:
    """Set the threads of this process; they are settled once TensorFlow has computed something in it."""
    tf = _library()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(inter_op_threads)
    except RuntimeError:  # a model in the same process came first: its number holds
        return int(tf.config.threading.get_intra_op_parallelism_threads())
    return threads


def _device(wanted: str) -> str:
    """TensorFlow's name for the device; `auto` is the first GPU where there is one, else the CPU."""
    tf = _library()
    kind, _, index = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda", "gpu") or (index and not index.isdigit()):
        raise InvalidManifest(
            f"execution.device {wanted!r} is unknown to the tensorflow runtime: use auto, cpu, cuda or cuda:1",
            param="execution.device",
        )
    there = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    if kind in ("cuda", "gpu") and int(index or 0) >= len(there):
        raise RuntimeMissing(
            f"TensorFlow here sees {len(there)} GPUs: install its build for GPUs (pip install 'tensorflow[and-cuda]'), "
            "or use device: cpu"
        )
    for gpu in there:
        tf.config.experimental.set_memory_growth(gpu, True)  # else it takes the whole GPU
    return f"/GPU:{index or 0}" if there else "/CPU:0"


def _specs(found: Mapping[str, Any], declared: Signature | None, side: str, path: Path) -> tuple[TensorSpec, ...]:
    written = {spec.name: spec for spec in getattr(declared, side)} if declared else {}
    return tuple(_spec(name, spec, written.get(name), path) for name, spec in found.items())


def _spec(name: str, spec: Any, declared: TensorSpec | None, path: Path) -> TensorSpec:
    dtype = _DTYPES.get(spec.dtype.name)
    if dtype is None:
        raise ModelLoadFailed(f"{path}: {name!r} is {spec.dtype.name}, which is not supported", param=name)
    if spec.shape.rank is None:
        if declared is None:
            raise ModelLoadFailed(f"{path}: {name!r} tells no shape: declare it in model.yaml", param=name)
        return TensorSpec(name, dtype, declared.shape)
    return TensorSpec(name, dtype, tuple(-1 if size is None else int(size) for size in spec.shape))


def _array(tensor: Any, inputs: Tensors) -> Array:
    import tensorflow as tf

    if tensor.dtype == tf.bfloat16:
        tensor = tf.cast(tensor, tf.float32)
    array: Array = np.asarray(tensor.numpy(), dtype=object if tensor.dtype == tf.string else None)
    if any(np.may_share_memory(array, given) for given in inputs.values()):
        return array.copy()  # inputs are gone after the call
    return array


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:1000]
