"""The runtime behind PyTorch models: loads one, and computes batches without gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    RuntimeMissing,
)
from inference_engine.domain.model import Manifest, Signature
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.signatures import declared_over_found
from inference_engine.infra.runtimes.threads import thread_count
from inference_engine.infra.runtimes.torch.artifacts import Format, format_of, load_module, load_program, load_script
from inference_engine.infra.runtimes.torch.calling import (
    Call,
    module_call,
    named_outputs,
    program_call,
    program_signature,
)
from inference_engine.infra.runtimes.torch.options import TorchOptions

_TRIAL_ROWS = 2
"""The size that a free dimension has in the trial run of a compiled model: 1 would be compiled as a constant."""


class TorchRuntime(RuntimeDefaults):
    """One PyTorch module. Tensors are copied on their way in, because modules may change them in place."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._module: Any = None
        self._program: Any = None
        self._device: Any = None
        self._dtypes: dict[str, Any] = {}
        self._outputs: tuple[str, ...] = ()
        self._output_dtypes: dict[str, str] = {}
        self._own: frozenset[int] = frozenset()

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, TorchOptions, "torch")
        path = artifact_path(folder, manifest.artifact)
        torch = _library()
        self._device = _device(manifest.execution.device)
        threads = thread_count(manifest.execution.threads)
        torch.set_num_threads(threads)
        kind = format_of(path)
        if options.class_ is not None and kind in ("program", "script"):
            raise InvalidManifest(
                f"options.class: {path.name} is a whole program and needs no class: leave it out", param="options.class"
            )
        signature = self._open(path, kind, folder, manifest, options)
        self._output_dtypes = {spec.name: spec.dtype for spec in signature.outputs}
        self._dtypes = self._input_dtypes(signature, kind, options)
        self._own = frozenset(
            tensor.untyped_storage().data_ptr() for tensor in (*self._module.parameters(), *self._module.buffers())
        )
        if options.compile:
            self._try(signature, path)
        details = {
            "format": kind,
            "device": str(self._device),
            "threads": threads,
            "compiled": options.compile,
            "size_bytes": path.stat().st_size,
            "library": f"torch {torch.__version__}",
        }
        return Loaded(("predict",), signature, details=details)

    def run(self, batch: Tensors) -> Tensors:
        import torch

        assert self._call is not None
        try:
            with torch.inference_mode():
                result = self._call({name: self._tensor(name, array) for name, array in batch.items()})
                found = named_outputs(result, self._outputs)
                return {name: self._array(name, value) for name, value in found.items()}
        except EngineError:
            raise
        except Exception as error:  # the border to foreign code: anything may come
            raise _run_error(error) from error

    def close(self) -> None:
        self._call = self._module = self._program = None
        if self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _open(self, path: Path, kind: Format, folder: Path, manifest: Manifest, options: TorchOptions) -> Signature:
        """Set module and call; return the signature that clients see."""
        declared = manifest.signature or options.signature
        if kind == "program":
            if options.dtype is not None:
                raise InvalidManifest(
                    "options.dtype: an exported program has its dtypes written into it: export it in that dtype",
                    param="options.dtype",
                )
            program = load_program(path, self._device, manifest)
            self._program = program
            found = program_signature(program, str(path))
            self._module = program.module()
            self._call = program_call(program, self._compiled(options))
            self._outputs = tuple(spec.name for spec in found.outputs)
            return declared_over_found(declared, found, path)
        if declared is None:
            raise InvalidManifest(
                f"{path.name} does not tell its tensors: declare signature.inputs (name, dtype, shape) in model.yaml, "
                "or options.signature where a pipeline stands around it",
                param="signature",
            )
        _no_texts(declared)
        self._outputs = tuple(spec.name for spec in declared.outputs)
        if kind == "script":
            if options.compile:
                raise InvalidManifest(
                    "options.compile: TorchScript cannot be compiled further", param="options.compile"
                )
            module = load_script(path, self._device, manifest)
        else:
            module = load_module(path, kind, folder, options.class_, options.init, manifest)
        dtype = getattr(_library(), options.dtype) if options.dtype else None
        self._module = module.to(self._device, dtype) if dtype is not None else module.to(self._device)
        names = [spec.name for spec in declared.inputs]
        call = module_call(self._module, names)  # checked before compile hides the parameters
        self._call = call if kind == "script" or not options.compile else module_call(self._compiled(options), names)
        return declared

    def _compiled(self, options: TorchOptions) -> Any:
        if not options.compile:
            return self._module
        mode = None if options.compile is True else options.compile
        return _library().compile(self._module, dynamic=True, mode=mode)

    def _input_dtypes(self, signature: Signature, kind: Format, options: TorchOptions) -> dict[str, Any]:
        """The dtype that each input gets inside, where it differs from the client's."""
        torch = _library()
        if kind == "program":
            given = {node.name: node.meta.get("val") for node in self._program.graph.nodes if node.op == "placeholder"}
            inner = {spec.name: given[spec.name].dtype for spec in signature.inputs}
        elif options.dtype:
            floating = [spec for spec in signature.inputs if spec.dtype.startswith("float")]
            inner = {spec.name: getattr(torch, options.dtype) for spec in floating}
        else:
            inner = {}
        outer = {spec.name: getattr(torch, spec.dtype) for spec in signature.inputs}
        return {name: dtype for name, dtype in inner.items() if dtype != outer[name]}

    def _tensor(self, name: str, array: Array) -> Any:
        import torch

        return torch.tensor(array, dtype=self._dtypes.get(name), device=self._device)

    def _array(self, name: str, value: Any) -> Array:
        import torch

        if not isinstance(value, torch.Tensor):
            raise InferenceFailed(f"output {name!r} is a {type(value).__name__}, not a tensor", param=name)
        wanted = self._output_dtypes.get(name)
        if wanted is not None and wanted != "bytes" and value.dtype != getattr(torch, wanted):
            value = value.to(getattr(torch, wanted)) if value.is_floating_point() and wanted.startswith("f") else value
        if value.dtype == torch.bfloat16:
            value = value.float()
        array: Array = value.resolve_conj().cpu().numpy()
        if wanted is not None and array.dtype.name != wanted:
            raise InferenceFailed(
                f"output {name!r} is {array.dtype.name}, the signature says {wanted}: correct the signature", param=name
            )
        return array.copy() if value.untyped_storage().data_ptr() in self._own else array

    def _try(self, signature: Signature, path: Path) -> None:
        """Compile now, on zeros, rather than within the first request."""
        zeros = {
            spec.name: np.zeros([_TRIAL_ROWS if size == -1 else size for size in spec.shape], spec.dtype)
            for spec in signature.inputs
        }
        try:
            self.run(zeros)
        except EngineError as error:
            raise ModelLoadFailed(
                f"{path} could not be compiled with options.compile: {error.message}. A C++ compiler is needed; "
                "without options.compile the model runs as it is",
                param="options.compile",
            ) from None


def _library() -> Any:
    try:
        import torch
    except ImportError as error:
        raise RuntimeMissing(
            f"PyTorch cannot be imported ({error}): pip install 'inference-engine[torch]'", param="runtime"
        ) from error
    return torch


def _device(wanted: str) -> Any:
    """The device of that name; `auto` is the first GPU where there is one, else the CPU."""
    torch = _library()
    accelerators = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    kind = wanted.partition(":")[0]
    if kind == "auto":
        return torch.device(next((name for name, place in accelerators.items() if place.is_available()), "cpu"))
    if kind != "cpu" and kind not in accelerators:
        raise InvalidManifest(
            f"execution.device {wanted!r} is unknown to the torch runtime: use auto, cpu, cuda, cuda:1, mps or xpu",
            param="execution.device",
        )
    if kind != "cpu" and not accelerators[kind].is_available():
        raise RuntimeMissing(f"PyTorch here sees no {kind} device: install its build for it, or use device: cpu")
    try:
        return torch.device(wanted)
    except RuntimeError as error:
        raise InvalidManifest(f"execution.device {wanted!r}: {error}", param="execution.device") from None


def _no_texts(signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype == "bytes":
            raise InvalidManifest(
                f"signature: {spec.name!r} is bytes, PyTorch has no tensors of texts", param=spec.name
            )


def _run_error(error: Exception) -> InvalidRequest | InferenceFailed:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, AssertionError) and text.startswith("Guard failed"):
        return InvalidRequest(f"the exported program refuses these shapes: {text}")
    return InferenceFailed(f"PyTorch failed: {type(error).__name__}: {text[:1000]}")
