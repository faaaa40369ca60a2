"""Health, metadata, configuration, statistics, the repository and the settings of the protocol."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.grpc.admission import Admission
from inference_engine.adapters.grpc.generation import TEXT_INPUT, TEXT_OUTPUT
from inference_engine.adapters.grpc.infer import target_of
from inference_engine.adapters.grpc.protocol import message
from inference_engine.adapters.instance_groups import instance_groups
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.datatypes import DATATYPES
from inference_engine.domain.ensembles import name_and_number
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.model import ModelRef, TensorSpec
from inference_engine.domain.routing import version_key
from inference_engine.domain.statistics import Spent
from inference_engine.services.health import HealthService
from inference_engine.services.models import ModelService, ModelStatus

EXTENSIONS = (
    *("classification", "model_repository", "model_configuration", "parameters", "sequence", "statistics"),
    "system_shared_memory",
)
_STATES = {"ready": "READY", "loading": "LOADING", "draining": "UNLOADING"}
_TYPES = {"BYTES": "TYPE_STRING"}
_GENERATION = (
    [TensorSpec(TEXT_INPUT, "bytes", (1,)), TensorSpec("stream", "bool", (1,))],
    [TensorSpec(TEXT_OUTPUT, "bytes", (-1,))],
)
_UNLOAD_DEPENDENTS = "unload_dependents"
_TRACE = {"trace_level": "OFF", "trace_rate": "0", "trace_count": "-1", "log_frequency": "0", "trace_file": ""}


_COMPUTE = ("compute_input", "compute_infer", "compute_output")


class Repository:
    """Every method beside infer; each takes a request message and gives its answer.

    Who may call is asked in `answered`, except for `ServerLive` and `ServerReady`, which are open as over HTTP.
    """

    open_methods = ("ServerLive", "ServerReady")

    def __init__(
        self,
        models: ModelService,
        health: HealthService,
        admission: Admission,
        regions: Regions,
        version: str,
        log_level: str,
    ) -> None:
        self._models = models
        self._health = health
        self._admission = admission
        self._regions = regions
        self._version = version
        self._log_level = log_level

    async def answered(self, method: str, request: Any, context: Any) -> Any:
        """The answer to one call. Raises `EngineError`."""
        if method not in self.open_methods:
            self._admission.admit(context)
        return await getattr(self, f"_{method}")(request)

    async def _ServerLive(self, _: Any) -> Any:  # noqa: N802 - the protocol's names
        return message("ServerLiveResponse")(live=True)

    async def _ServerReady(self, _: Any) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._health.ready)

    async def _ServerMetadata(self, _: Any) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(name="inference-engine", version=self._version, extensions=EXTENSIONS)

    async def _ModelReady(self, request: Any) -> Any:  # noqa: N802
        return message("ModelReadyResponse")(ready=self._models.is_ready(self._ref(request.name, request.version)))

    async def _ModelMetadata(self, request: Any) -> Any:  # noqa: N802
        ref = self._ref(request.name, request.version)
        status = self._models.status(ref)
        inputs, outputs = self._tensors(status)
        tensor = message("ModelMetadataResponse.TensorMetadata")
        versions = {other.version for other in self._models.statuses() if other.name == ref.name}
        return message("ModelMetadataResponse")(
            name=ref.name,
            versions=sorted(versions, key=version_key),
            platform=status.runtime,
            inputs=[tensor(name=spec.name, datatype=_datatype(spec), shape=spec.shape) for spec in inputs],
            outputs=[tensor(name=spec.name, datatype=_datatype(spec), shape=spec.shape) for spec in outputs],
        )

    async def _ModelConfig(self, request: Any) -> Any:  # noqa: N802
        ref = self._ref(request.name, request.version)
        status = self._models.status(ref)
        manifest = self._models.stored(ref).manifest
        inputs, outputs = self._tensors(status)
        batched = status.signature is not None and status.signature.batched
        ensemble = manifest.ensemble
        config = message("ModelConfig")(
            name=ref.name,
            platform=status.runtime,
            backend=status.runtime if ensemble is None else "",
            max_batch_size=manifest.execution.max_batch_size if batched else 0,
            default_model_filename=manifest.artifact,
            input=[_config(message("ModelInput"), spec, batched) for spec in inputs],
            output=[_config(message("ModelOutput"), spec, batched) for spec in outputs],
        )
        if ensemble is not None:
            for stage in ensemble.stages:
                name, number = name_and_number(stage.model)
                config.ensemble_scheduling.step.add(
                    model_name=name, model_version=number, input_map=stage.inputs, output_map=stage.outputs
                )
            return message("ModelConfigResponse")(config=config)
        for group in instance_groups(manifest.execution):
            config.instance_group.add(name=ref.name, **group)
        sequences = manifest.execution.sequences
        if sequences is not None:
            batching = config.sequence_batching
            batching.max_sequence_idle_microseconds = int(sequences.max_idle_s * 1e6)
            if sequences.strategy == "direct":
                batching.direct.SetInParent()
            else:
                batching.oldest.max_candidate_sequences = sequences.max_sequences
        elif batched:
            config.dynamic_batching.max_queue_delay_microseconds = int(manifest.execution.max_delay_ms * 1000)
        config.model_transaction_policy.decoupled = self._generates(status) or self._streams(ref)
        return message("ModelConfigResponse")(config=config)

    def _streams(self, ref: ModelRef) -> bool:
        loaded = self._models.loaded(ref)
        return loaded is not None and "predict_stream" in loaded.kinds

    async def _ModelStatistics(self, request: Any) -> Any:  # noqa: N802
        if request.name:
            refs = [self._ref(request.name, request.version)]
            if not request.version:
                refs = [ModelRef(one.name, one.version) for one in self._models.statuses() if one.name == refs[0].name]
        else:
            refs = [ModelRef(one.name, one.version) for one in self._models.statuses()]
        return message("ModelStatisticsResponse")(model_stats=[self._statistics(ref) for ref in refs])

    def _statistics(self, ref: ModelRef) -> Any:
        status = self._models.status(ref)
        counts = self._models.statistics(ref)
        counted = message("ModelStatistics")(
            name=ref.name, version=ref.version, inference_count=counts.inferences, execution_count=counts.executions
        )
        for name in ("success", "fail", "queue", *_COMPUTE, "cache_hit", "cache_miss"):
            _spend(getattr(counted.inference_stats, name), getattr(counts, name))
        for rows, size in sorted(counts.batches.items()):
            batch = counted.batch_stats.add(batch_size=rows)
            for name in _COMPUTE:
                _spend(getattr(batch, name), getattr(size, name))
        if status.last_used_at is not None:
            counted.last_inference = int(status.last_used_at.timestamp() * 1000)
        if status.memory_bytes:
            counted.memory_usage.add(type="CPU", byte_size=status.memory_bytes)
        return counted

    async def _RepositoryIndex(self, request: Any) -> Any:  # noqa: N802
        _only_repository(request.repository_name)
        entry = message("RepositoryIndexResponse.ModelIndex")
        return message("RepositoryIndexResponse")(
            models=[
                entry(
                    name=status.name,
                    version=status.version,
                    state=_STATES.get(status.state, "UNAVAILABLE"),
                    reason=status.error.message if status.error else "" if status.state == "ready" else status.state,
                )
                for status in self._models.statuses()
                if status.state == "ready" or not request.ready
            ]
        )

    async def _RepositoryModelLoad(self, request: Any) -> Any:  # noqa: N802
        _refuse(request.parameters, ())
        ref = self._named(request)
        await self._models.load(ref)
        return message("RepositoryModelLoadResponse")(model_name=ref.name, is_loaded=True)

    async def _RepositoryModelUnload(self, request: Any) -> Any:  # noqa: N802
        _refuse(request.parameters, (_UNLOAD_DEPENDENTS,))
        ref = self._named(request)
        await self._models.unload(ref, stages=request.parameters[_UNLOAD_DEPENDENTS].bool_param)
        return message("RepositoryModelUnloadResponse")(model_name=ref.name, is_unloaded=True)

    async def _SystemSharedMemoryStatus(self, request: Any) -> Any:  # noqa: N802
        answer = message("SystemSharedMemoryStatusResponse")()
        for region in self._regions.status(request.name):
            entry = answer.regions[region.name]
            entry.name, entry.key, entry.offset, entry.byte_size = (
                region.name,
                region.key,
                region.offset,
                region.size_bytes,
            )
        return answer

    async def _SystemSharedMemoryRegister(self, request: Any) -> Any:  # noqa: N802
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return message("SystemSharedMemoryRegisterResponse")()

    async def _SystemSharedMemoryUnregister(self, request: Any) -> Any:  # noqa: N802
        self._regions.unregister(request.name)
        return message("SystemSharedMemoryUnregisterResponse")()

    async def _TraceSetting(self, request: Any) -> Any:  # noqa: N802
        if request.model_name:
            self._ref(request.model_name, "")
        for name in request.settings:
            raise UnknownField(f"trace setting {name[:80]!r} cannot be set: requests are not traced", param=name[:80])
        answer = message("TraceSettingResponse")()
        for name, value in _TRACE.items():
            answer.settings[name].value.append(value)
        return answer

    async def _LogSettings(self, request: Any) -> Any:  # noqa: N802
        for name in request.settings:
            raise UnknownField(
                f"log setting {name[:80]!r} cannot be changed while the server runs: start it with --log-level",
                param=name[:80],
            )
        answer = message("LogSettingsResponse")()
        level = self._log_level
        answer.settings["log_file"].string_param = ""
        answer.settings["log_info"].bool_param = level in ("debug", "info")
        answer.settings["log_warning"].bool_param = level in ("debug", "info", "warning")
        answer.settings["log_error"].bool_param = level != "critical"
        answer.settings["log_verbose_level"].uint32_param = int(level == "debug")
        answer.settings["log_format"].string_param = "default"
        return answer

    def _ref(self, name: str, version: str) -> ModelRef:
        return self._models.resolve(target_of(name, version)).ref

    def _named(self, request: Any) -> ModelRef:
        """KServe's clients put the model's name where Triton's put the repository's."""
        if not request.model_name:
            return self._ref(request.repository_name, "")
        _only_repository(request.repository_name)
        return self._ref(request.model_name, "")

    def _generates(self, status: ModelStatus) -> bool:
        """Whether it writes text: known of a loaded model, told by the task of another."""
        loaded = self._models.loaded(ModelRef(status.name, status.version))
        if loaded is None:
            return status.task == "text-generation"
        return "complete" in loaded.kinds or "chat" in loaded.kinds

    def _tensors(self, status: ModelStatus) -> Any:
        if status.signature is not None:
            return status.signature.inputs, status.signature.outputs
        return _GENERATION if self._generates(status) else ((), ())


def _datatype(spec: TensorSpec) -> str:
    return DATATYPES.get(spec.dtype, spec.dtype.upper())


def _config(kind: Any, spec: TensorSpec, batched: bool) -> Any:
    """Triton leaves the batch dimension out of `dims`."""
    datatype = _datatype(spec)
    return kind(
        name=spec.name,
        data_type=_TYPES.get(datatype, f"TYPE_{datatype}"),
        dims=spec.shape[1:] if batched else spec.shape,
    )


def _only_repository(name: str) -> None:
    if name:
        raise InvalidRequest(
            f"repository_name is {name[:80]!r}: there is one repository, leave it out", param="repository_name"
        )


def _refuse(parameters: Any, harmless: tuple[str, ...]) -> None:
    """Triton may change a model's configuration while loading it; here the manifest is the one truth."""
    for name in parameters:
        if name not in harmless:
            raise UnknownField(
                f"the parameter {name[:80]!r} is not supported: change the model's manifest, then load it",
                param=name[:80],
            )


def _spend(duration: Any, spent: Spent) -> None:
    duration.count, duration.ns = spent.count, spent.ns
