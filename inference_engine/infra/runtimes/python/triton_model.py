"""Classes written for Triton's Python backend, with the methods that the `python` runtime calls.

Knows what such a class is given and gives back; the module it imports is `triton_utils.py`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inference_engine.domain.datatypes import DATATYPES
from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidManifest, InvalidRequest
from inference_engine.domain.model import Manifest, TensorSpec
from inference_engine.domain.ports import TensorSink
from inference_engine.domain.sequences import client_signature
from inference_engine.domain.tensors import Array, Tensors, concatenate
from inference_engine.infra.runtimes.python import triton_utils as utils

CLASS = "TritonPythonModel"
STREAMS_TOGETHER = 64
_WAIT_S = 0.1


class TritonOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of such a model: the `parameters` of its configuration, and whether it is decoupled."""

    parameters: dict[str, str] = {}
    decoupled: bool = False


def provide_utils() -> None:
    """Let `import triton_python_backend_utils` find our module."""
    sys.modules["triton_python_backend_utils"] = utils


def triton_model(cls: type[Any], manifest: Manifest, folder: Path) -> TritonModel:
    """The class as the `python` runtime sees one.

    Raises:
        InvalidManifest: the options are wrong.
    """
    try:
        options = msgspec.convert(manifest.options, TritonOptions)
    except msgspec.ValidationError as error:
        raise InvalidManifest(f"options: {error}", param="options") from None
    kind = DecoupledModel if options.decoupled else PlainModel
    return kind(cls, manifest, options, folder)


class TritonModel:
    """What both kinds share: configuration, `initialize` and `finalize`."""

    def __init__(self, cls: type[Any], manifest: Manifest, options: TritonOptions, folder: Path) -> None:
        self._manifest = manifest
        self._folder = folder
        self._config = _config(manifest, options)
        if manifest.signature is None:
            if hasattr(cls, "auto_complete_config"):
                cls.auto_complete_config(utils.ModelConfig(self._config))
            self.inputs, self.outputs = (self._found(side) for side in ("input", "output"))
        self._model = cls()
        self._names = _Names.of(manifest)

    def _found(self, side: str) -> list[dict[str, Any]]:
        batch = [-1] if self._config["max_batch_size"] > 0 else []
        dtypes = {"TYPE_" + ("STRING" if word == "BYTES" else word): dtype for dtype, word in DATATYPES.items()}
        return [
            {"name": one["name"], "dtype": dtypes[one["data_type"]], "shape": batch + list(one["dims"])}
            for one in self._config[side]
        ]

    def load(self, folder: Path, _options: dict[str, Any], device: str = "cpu") -> None:
        """Call `initialize` with what Triton gives: texts only."""
        kind, _, index = device.partition(":")
        if hasattr(self._model, "initialize"):
            self._model.initialize(
                {
                    "model_config": json.dumps(self._config),
                    "model_name": self._manifest.name,
                    "model_version": self._manifest.version,
                    "model_repository": str(folder.parent),
                    "model_instance_name": f"{self._manifest.name}_0",
                    "model_instance_kind": "GPU" if kind == "cuda" else "CPU",
                    "model_instance_device_id": index or "0",
                }
            )

    def close(self) -> None:
        if hasattr(self._model, "finalize"):
            self._model.finalize()

    def _requests(self, inputs: Tensors, sender: Any = None) -> Iterator[Any]:
        """The batch as one request; of a model that keeps sequences as one for each row, with its sequence."""
        if self._names is None:
            yield utils.InferenceRequest(
                [utils.Tensor(name, array) for name, array in inputs.items()],
                [one["name"] for one in self._config["output"]],
                sender=sender,
            )
            return
        for row in range(len(next(iter(inputs.values())))):
            own = {name: array[row : row + 1] for name, array in inputs.items()}
            yield self._names.request(own, [one["name"] for one in self._config["output"]])


class PlainModel(TritonModel):
    """One response to each request."""

    def predict(self, inputs: dict[str, Array]) -> dict[str, Array]:
        requests = list(self._requests(inputs))
        responses = self._model.execute(requests)
        if not isinstance(responses, list) or len(responses) != len(requests):
            raise InferenceFailed(f"execute must return a list of {len(requests)} responses")
        return concatenate([outputs_of(response) for response in responses])


class DecoupledModel(TritonModel):
    """Any number of responses to each request, also after `execute` has returned."""

    concurrency = STREAMS_TOGETHER

    def __init__(self, cls: type[Any], manifest: Manifest, options: TritonOptions, folder: Path) -> None:
        super().__init__(cls, manifest, options, folder)
        self._executing = threading.Lock()  # Triton calls an instance by one thread at a time

    def predict_stream(
        self, inputs: Tensors, sink: TensorSink, checked: Callable[[dict[str, Array]], dict[str, Array]]
    ) -> None:
        """Send every response of the model to `sink`, `checked`, until the final flag or `sink.cancelled`."""
        ended = threading.Event()
        failed: list[EngineError] = []

        def send(response: utils.InferenceResponse) -> None:
            try:
                sink.send(checked(outputs_of(response)))
            except EngineError as error:
                failed.append(error)
                ended.set()

        sender = utils.InferenceResponseSender(send, ended.set, lambda: sink.cancelled)
        own = {name: np.array(array) for name, array in inputs.items()}  # a thread of the model may use them later
        with self._executing:
            self._model.execute(list(self._requests(own, sender)))
        while not (ended.wait(_WAIT_S) or sink.cancelled):
            pass
        if failed:
            raise failed[0]


class _Names(msgspec.Struct, frozen=True):
    """Where the inputs of a model that keeps sequences say what a row belongs to."""

    start: str
    end: str
    id: str
    plain: bool

    @classmethod
    def of(cls, manifest: Manifest) -> _Names | None:
        sequences = manifest.execution.sequences
        if sequences is None:
            return None
        controls = sequences.controls
        if controls.start or controls.end or controls.ready or controls.id:
            return cls(controls.start, controls.end, controls.id, False)
        return cls("sequence_start", "sequence_end", "sequence_id", True)

    def request(self, row: dict[str, Array], outputs: Sequence[str]) -> Any:
        flags = 0
        if self.start in row and row[self.start].any():
            flags |= utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
        if self.end in row and row[self.end].any():
            flags |= utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
        id: Any = row[self.id].ravel()[0] if self.id in row else 0
        if isinstance(id, bytes):
            id = int(id) if id.isdigit() and self.plain else id.decode()
        hidden = {self.start, self.end, self.id} if self.plain else set()
        tensors = [utils.Tensor(name, array) for name, array in row.items() if name not in hidden]
        return utils.InferenceRequest(
            tensors, outputs, correlation_id=id if isinstance(id, str) else int(id), flags=flags
        )


def outputs_of(response: Any) -> dict[str, Array]:
    """The arrays of a response by name.

    Raises:
        InvalidRequest: the model says that the request is at fault. InferenceFailed: it failed, or is no response.
    """
    if not isinstance(response, utils.InferenceResponse):
        raise InferenceFailed(f"the model gave {type(response).__name__} where an InferenceResponse is expected")
    error = response.error()
    if error is not None:
        kind = InvalidRequest if error.code() == utils.TritonError.INVALID_ARG else InferenceFailed
        raise kind(error.message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _config(manifest: Manifest, options: TritonOptions) -> dict[str, Any]:
    """The configuration as the model gets it in JSON."""
    signature = client_signature(manifest.signature, manifest.execution.sequences)
    batched = signature is not None and signature.batched
    return {
        "name": manifest.name,
        "platform": "",
        "backend": "python",
        "max_batch_size": manifest.execution.max_batch_size if batched else 0,
        "input": [_tensor(spec, batched=batched) for spec in signature.inputs] if signature else [],
        "output": [_tensor(spec, batched=batched) for spec in signature.outputs] if signature else [],
        "parameters": {name: {"string_value": value} for name, value in options.parameters.items()},
        "model_transaction_policy": {"decoupled": options.decoupled},
        "default_model_filename": manifest.artifact.partition(":")[0],
    }


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    word = DATATYPES[spec.dtype]
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": "TYPE_" + ("STRING" if word == "BYTES" else word), "dims": list(dims)}
