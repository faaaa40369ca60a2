"""Puts the v2 endpoints together, with what the documentation says of them."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.v2 import errors, wire
from inference_engine.adapters.http.v2.generation import Generate, GenerateRequest, GenerateResponse
from inference_engine.adapters.http.v2.infer import Infer
from inference_engine.adapters.http.v2.model_config import ModelConfig
from inference_engine.adapters.http.v2.repository import Repository
from inference_engine.adapters.http.v2.server_settings import ServerSettings
from inference_engine.adapters.http.v2.shared_memory import RegionStatus, RegisterRequest, SharedMemory
from inference_engine.adapters.http.v2.statistics import AllStats, Statistics
from inference_engine.adapters.shared_memory import Regions
from inference_engine.services.health import HealthService
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

_FLOWER: dict[str, Any] = {
    "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]
}
_ANSWER: dict[str, Any] = {
    "model_name": "iris",
    "model_version": "1",
    "parameters": {"route": "iris", "rule": "latest"},
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [0]}],
}
_METADATA: dict[str, Any] = {
    "name": "iris",
    "versions": ["1"],
    "platform": "onnx",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
}
_INFER = Doc(
    summary="Run a model on tensors",
    description="JSON tensors, flat or nested, or the binary tensor extension in both directions.",
    request=wire.InferRequest,
    request_examples={"one flower": _FLOWER},
    response=wire.InferResponse,
    response_example=_ANSWER,
    errors=(400, 401, 404, 413, 429, 500, 503, 504),
)
_INFER_STREAM = Doc(
    summary="Run a model that may give several responses, each a server-sent event",
    request=wire.InferRequest,
    request_examples={"one flower": _FLOWER},
    response=wire.InferResponse,
    response_example=_ANSWER,
    response_type="text/event-stream",
    errors=(400, 401, 404, 413, 429, 500, 503, 504),
)
_PROMPT: dict[str, Any] = {"text_input": "Once upon a time", "parameters": {"max_tokens": 8}}
_TEXT: dict[str, Any] = {"model_name": "guide", "model_version": "1", "text_output": " there was a server"}
_GENERATE = Doc(
    summary="Continue a text",
    request=GenerateRequest,
    request_examples={"a text": _PROMPT},
    response=GenerateResponse,
    response_example=_TEXT,
    errors=(400, 404, 429, 500, 503, 504),
)
_GENERATE_STREAM = Doc(
    summary="Continue a text, as server-sent events",
    request=GenerateRequest,
    request_examples={"a text": _PROMPT},
    response=GenerateResponse,
    response_example=_TEXT,
    response_type="text/event-stream",
    errors=(400, 404, 429, 500, 503, 504),
)
_SPENT = {"count": 1, "ns": 100_000}
_STATS: dict[str, Any] = {
    "model_stats": [
        {
            "name": "iris",
            "version": "1",
            "last_inference": 1_790_000_000_000,
            "inference_count": 1,
            "execution_count": 1,
            "inference_stats": dict.fromkeys(
                (
                    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
                    *("cache_hit", "cache_miss"),
                ),
                _SPENT,
            ),
            "batch_stats": [
                {"batch_size": 1, **dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _SPENT)}
            ],
        }
    ]
}
_INDEX_EXAMPLE = [{"name": "iris", "version": "1", "state": "READY", "reason": ""}]


def dialect(
    models: ModelService,
    inference: InferenceService,
    health: HealthService,
    calls: Calls,
    version: str,
    regions: Regions,
) -> Dialect:
    """The Open Inference Protocol v2. `regions` is the shared memory of local clients."""
    repository = Repository(models, health, version)
    infer = Infer(inference, models, calls, regions)
    memory = SharedMemory(regions)
    statistics, server_settings, config = Statistics(models), ServerSettings(models), ModelConfig(models)
    generate = Generate(inference, calls)
    metadata = Doc(
        summary="A model's tensors",
        response=wire.ModelMetadata,
        response_example=_METADATA,
        errors=(404,),
    )
    ready = Doc(summary="Whether a model would answer without being loaded first", errors=(404, 503))
    model = "/v2/models/{model}"
    version_of = model + "/versions/{version}"
    stored = "/v2/repository/models/{model}"
    stats_doc = Doc(
        "What models have done, and where the time went", response=AllStats, response_example=_STATS, errors=(404,)
    )
    config_doc = Doc("A model's configuration in Triton's words", response=dict[str, Any], errors=(404,))
    trace_doc = Doc("Trace settings", response=dict[str, Any], errors=(400, 404))
    set_trace_doc = Doc(
        "Change trace settings: only what is so already can be set",
        request=dict[str, Any],
        request_examples={"off": {"trace_level": ["OFF"]}},
        response=dict[str, Any],
        errors=(400, 404),
    )
    return Dialect(
        "v2",
        "Open Inference Protocol v2",
        ("/v2/",),
        errors.render,
        (
            Endpoint("POST", model + "/infer", infer, _INFER, hot=True, prompt=True),
            Endpoint("POST", version_of + "/infer", infer, _INFER, hot=True, prompt=True),
            Endpoint("GET", "/v2/health/live", repository.live, Doc("The server runs"), hot=True, public=True),
            Endpoint(
                "GET", "/v2/health/ready", repository.ready, Doc("The server takes requests"), hot=True, public=True
            ),
            Endpoint("GET", "/v2", repository.server, Doc("The server", response=wire.ServerMetadata)),
            Endpoint("GET", "/v2/models/stats", statistics.all, stats_doc),
            Endpoint("GET", model + "/stats", statistics.of_model, stats_doc),
            Endpoint("GET", version_of + "/stats", statistics.of_model, stats_doc),
            Endpoint("GET", model + "/config", config, config_doc),
            Endpoint("GET", version_of + "/config", config, config_doc),
            Endpoint("GET", "/v2/trace/setting", server_settings.trace, trace_doc),
            Endpoint("POST", "/v2/trace/setting", server_settings.set_trace, set_trace_doc),
            Endpoint("GET", model + "/trace/setting", server_settings.trace, trace_doc),
            Endpoint("POST", model + "/trace/setting", server_settings.set_trace, set_trace_doc),
            Endpoint("GET", "/v2/logging", server_settings.logging, Doc("Log settings", response=dict[str, Any])),
            Endpoint(
                "POST",
                "/v2/logging",
                server_settings.set_logging,
                Doc(
                    "Change the log level",
                    request=dict[str, Any],
                    request_examples={
                        "debug": {"log_verbose_level": 1, "log_info": True, "log_warning": True, "log_error": True}
                    },
                    response=dict[str, Any],
                    errors=(400,),
                ),
            ),
            Endpoint("POST", model + "/infer_stream", infer.stream, _INFER_STREAM),
            Endpoint("POST", version_of + "/infer_stream", infer.stream, _INFER_STREAM),
            *(
                Endpoint("POST", base + end, handler, doc)
                for base in (model, version_of)
                for end, handler, doc in (
                    ("/generate", generate.whole, _GENERATE),
                    ("/generate_stream", generate.stream, _GENERATE_STREAM),
                )
            ),
            *_shared_memory(memory),
            Endpoint("GET", model, repository.metadata, metadata),
            Endpoint("GET", version_of, repository.metadata, metadata),
            Endpoint("GET", model + "/ready", repository.model_ready, ready),
            Endpoint("GET", version_of + "/ready", repository.model_ready, ready),
            Endpoint(
                "POST",
                "/v2/repository/index",
                repository.index,
                Doc(
                    "All models and their states",
                    request=wire.IndexRequest,
                    request_examples={"loaded ones only": {"ready": True}},
                    response=list[wire.IndexEntry],
                    response_example=_INDEX_EXAMPLE,
                ),
            ),
            Endpoint(
                "POST",
                stored + "/load",
                repository.load,
                Doc("Load a model", request=wire.LoadRequest, request_examples={"plain": {}}, errors=(400, 404, 500)),
            ),
            Endpoint(
                "POST",
                stored + "/unload",
                repository.unload,
                Doc("Unload a model", request=wire.LoadRequest, request_examples={"plain": {}}, errors=(400, 404)),
            ),
        ),
    )


def _shared_memory(memory: SharedMemory) -> tuple[Endpoint, ...]:
    system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
    region = "/region/{region}"
    listed = Doc("Registered regions", response=list[RegionStatus], errors=(400, 403))
    register = Doc(
        "Register a region of shared memory",
        request=RegisterRequest,
        request_examples={"a kilobyte": {"key": "/tensors", "offset": 0, "byte_size": 1024}},
        errors=(400, 403),
    )
    unregister = Doc("Forget a region", errors=(403,))
    none = Doc("CUDA regions: there are none")
    return (
        Endpoint("GET", system + "/status", memory.status, listed),
        Endpoint("GET", system + region + "/status", memory.status, listed),
        Endpoint("POST", system + region + "/register", memory.register, register),
        Endpoint("POST", system + "/unregister", memory.unregister, unregister),
        Endpoint("POST", system + region + "/unregister", memory.unregister, unregister),
        Endpoint("GET", cuda + "/status", memory.cuda_status, none),
        Endpoint("GET", cuda + region + "/status", memory.cuda_status, none),
        Endpoint("POST", cuda + region + "/register", memory.cuda_register, Doc("Refused", errors=(400,))),
        Endpoint("POST", cuda + "/unregister", memory.cuda_unregister, none),
        Endpoint("POST", cuda + region + "/unregister", memory.cuda_unregister, none),
    )
