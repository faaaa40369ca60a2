"""The model configuration extension of v2: a manifest in the words of Triton's ModelConfig."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.instance_groups import instance_groups
from inference_engine.domain.datatypes import DATATYPES
from inference_engine.domain.ensembles import ENSEMBLE, name_and_number
from inference_engine.domain.model import Manifest, Sequences, Signature, Stage, TensorSpec
from inference_engine.services.models import ModelService

_ENCODER = msgspec.json.Encoder()
_PLATFORMS = {"onnx": "onnxruntime_onnx", "torch": "pytorch_libtorch", "tensorflow": "tensorflow_savedmodel"}
_BACKENDS = {"onnx": "onnxruntime", "torch": "pytorch"}


class ModelConfig:
    """The endpoint."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        params = exchange.path_params
        target = f"{params['model']}:{params['version']}" if "version" in params else params["model"]
        ref = self._models.resolve(target).ref
        config = config_of(self._models.stored(ref).manifest, self._models.signature(ref))
        loaded = self._models.loaded(ref)
        if loaded is not None:
            config["model_transaction_policy"] = {"decoupled": "predict_stream" in loaded.kinds}
        await exchange.respond(200, _ENCODER.encode(config))


def config_of(manifest: Manifest, signature: Signature | None) -> dict[str, Any]:
    """What Triton would call this model's configuration, as plain values."""
    execution = manifest.execution
    batched = signature is not None and signature.batched
    config: dict[str, Any] = {
        "name": manifest.name,
        "platform": _PLATFORMS.get(manifest.runtime, ""),
        "backend": _BACKENDS.get(manifest.runtime, manifest.runtime),
        "version_policy": {"all": {}},
        "max_batch_size": execution.max_batch_size if batched else 0,
        "input": [_tensor(spec, batched) for spec in signature.inputs] if signature else [],
        "output": [_tensor(spec, batched) for spec in signature.outputs] if signature else [],
        "default_model_filename": manifest.artifact.partition(":")[0],
        "parameters": {},
    }
    if manifest.ensemble is not None:
        return config | {
            "platform": ENSEMBLE,
            "backend": "",
            "ensemble_scheduling": {"step": [_step(stage) for stage in manifest.ensemble.stages]},
        }
    config["instance_group"] = [{"name": manifest.name, **group} for group in instance_groups(execution)]
    if execution.sequences is not None:
        config["sequence_batching"] = _sequences(execution.sequences)
    elif batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": int(execution.max_delay_ms * 1000)}
    return config


def _sequences(sequences: Sequences) -> dict[str, Any]:
    if sequences.strategy == "direct":
        strategy: dict[str, Any] = {"direct": {}}
    else:
        strategy = {"oldest": {"max_candidate_sequences": sequences.max_sequences}}
    return {"max_sequence_idle_microseconds": int(sequences.max_idle_s * 1e6), **strategy}


def _step(stage: Stage) -> dict[str, Any]:
    name, number = name_and_number(stage.model)
    return {"model_name": name, "model_version": number, "input_map": stage.inputs, "output_map": stage.outputs}


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    datatype = DATATYPES.get(spec.dtype, spec.dtype.upper())
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": "TYPE_" + ("STRING" if datatype == "BYTES" else datatype), "dims": dims}
