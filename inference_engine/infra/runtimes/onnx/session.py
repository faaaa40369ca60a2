"""Opens sessions of ONNX Runtime: which providers compute, and how. Knows no tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.infra.runtimes.onnx.options import OnnxOptions

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""ONNX Runtime's providers by the words that `execution.device` may use."""
_AUTO = ("cuda", "migraphx", "rocm", "directml", "cpu")
"""What `auto` takes, in this order, of what is there. The others take minutes to compile, or run parts of a graph."""
_BACKED = {"tensorrt": ("cuda",)}
"""What computes the operators that a provider lacks, before the CPU does."""
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_SILENT = 4  # log severity "fatal": errors come as exceptions
_UNKNOWN_OPERATOR = ("is not a registered function/op", "No Op registered", "Could not find an implementation")
_OPSET = re.compile(r"(Opset \d+) is under development.* till opset (\d+)", re.DOTALL)
_IR = re.compile(r"Unsupported model (IR version: \d+), max supported IR version: (\d+)")

Provider = tuple[str, dict[str, str]]


def chosen_providers(device: str, options: OnnxOptions) -> list[Provider]:
    """The providers for `execution.device`, first the one that computes what it can, with their options.

    Raises:
        InvalidManifest: the device or a provider of `provider_options` is unknown. RuntimeMissing: it is not here.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissing(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error

    for word in options.provider_options:
        if word not in PROVIDERS:
            raise InvalidManifest(
                f"options.provider_options: {word!r} is unknown; known are {', '.join(PROVIDERS)}",
                param="options.provider_options",
            )
    there = onnxruntime.get_available_providers()
    kind, colon, index = device.partition(":")
    words = _AUTO if kind == "auto" else tuple(dict.fromkeys((kind, *_BACKED.get(kind, ()), "cpu")))
    if (kind != "auto" and kind not in PROVIDERS) or (colon and (kind in ("auto", "cpu") or not index.isdigit())):
        raise InvalidManifest(
            f"execution.device {device!r} is unknown to the onnx runtime: use auto, {', '.join(PROVIDERS)}, "
            "or a number as in cuda:1",
            param="execution.device",
        )
    if kind != "auto" and PROVIDERS[kind] not in there:
        raise _missing(kind, there)
    return [(PROVIDERS[word], _provider_options(word, index, options)) for word in words if PROVIDERS[word] in there]


def open_session(path: Path, options: OnnxOptions, threads: int, device: str) -> Any:
    """A session over the model at `path`.

    Raises:
        ModelLoadFailed: ONNX Runtime cannot read it. RuntimeMissing: the device that was asked for cannot be used.
        What `chosen_providers` raises.
    """
    providers = chosen_providers(device, options)
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), _settings(options, threads), providers=providers)
    except Exception as error:  # ONNX Runtime's exception types share no base class below Exception
        raise _load_error(path, error) from None
    kind = device.partition(":")[0]
    if kind != "auto" and PROVIDERS[kind] not in session.get_providers():
        raise _missing(kind, session.get_providers())  # the library goes on without a provider that fails to start
    return session


def _settings(options: OnnxOptions, threads: int) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = options.inter_op_threads
    if options.inter_op_threads > 1:
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    settings.log_severity_level = _SILENT
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[options.graph_optimization])
    settings.enable_cpu_mem_arena = options.session.memory_arena
    settings.enable_mem_pattern = options.session.memory_pattern
    settings.use_deterministic_compute = options.session.deterministic
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    settings.add_session_config_entry("session.set_denormal_as_zero", str(int(options.session.denormals_as_zero)))
    settings.add_session_config_entry("session.disable_prepacking", str(int(not options.session.prepacking)))
    for name, size in options.session.free_dimensions.items():
        settings.add_free_dimension_override_by_name(name, size)
    return settings


def _provider_options(word: str, index: str, options: OnnxOptions) -> dict[str, str]:
    given = {name: str(value) for name, value in options.provider_options.get(word, {}).items()}
    return {"device_id": index} | given if index and word != "cpu" else given


def _missing(kind: str, there: list[str]) -> RuntimeMissing:
    package = "onnxruntime-gpu" if kind in ("cuda", "tensorrt") else f"the build of onnxruntime for {kind}"
    return RuntimeMissing(
        f"ONNX Runtime here has no usable {PROVIDERS[kind]}, only {', '.join(there)}: pip install {package}"
    )


def _load_error(path: Path, error: Exception) -> ModelLoadFailed:
    text = str(error)
    if any(words in text for words in _UNKNOWN_OPERATOR):
        return ModelLoadFailed(
            f"{path} cannot be loaded by ONNX Runtime: it uses an operator that is missing here: {text}. Libraries of "
            "custom operators are not loaded: export the model with standard operators",
            param="artifact",
        )
    if newer := _OPSET.search(text) or _IR.search(text):
        import onnxruntime

        return ModelLoadFailed(
            f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: it has {newer[1]}, which is newer "
            f"than {newer[2]}, the last that is known here. Export it with a lower opset, or update onnxruntime",
            param="artifact",
        )
    return ModelLoadFailed(
        f"{path} cannot be loaded by ONNX Runtime: {text}. The file may be damaged, or lack its external data",
        param="artifact",
    )
