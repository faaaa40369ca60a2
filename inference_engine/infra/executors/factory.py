"""Chooses the executor a manifest asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from inference_engine.domain.choices import ChoiceStore
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Execution, Manifest, ModelRef
from inference_engine.domain.ports import Executor, Runtime, RuntimeCatalog, StoredModel
from inference_engine.infra.executors.auto import AutoExecutor, machine_busy
from inference_engine.infra.executors.instances import Instance, InstancesExecutor
from inference_engine.infra.executors.interpreters import REQUIREMENTS
from inference_engine.infra.executors.resources import LimitedInstance, ResourcePool
from inference_engine.infra.executors.runner import RunnerExecutor, Supervision
from inference_engine.infra.executors.thread import ThreadExecutor

_DEFAULTS = Execution()


class Executors:
    """`ExecutorFactory`: thread for small trusted models, else a runner process; before it the choice of `auto`."""

    def __init__(
        self,
        create_runtime: Callable[[Manifest], Runtime],
        clock: Callable[[], float],
        on_restart: Callable[[ModelRef], None],
        supervision: Supervision,
        catalog: RuntimeCatalog,
        choices: ChoiceStore,
        environment: Callable[[Manifest], Mapping[str, str]] = lambda _: {},
        interpreter: Callable[[StoredModel], Awaitable[str]] | None = None,
        resources: ResourcePool | None = None,
    ) -> None:
        """`environment` gives variables for the runner of a model, `interpreter` the Python that runs it.

        `resources` is what models share on this server.
        """
        self._resources = resources or ResourcePool()
        self._interpreter = interpreter
        self._environment = environment
        self._create_runtime = create_runtime
        self._clock = clock
        self._on_restart = on_restart
        self._supervision = supervision
        self._catalog = catalog
        self._choices = choices
        self._measuring = asyncio.Lock()

    def __call__(self, model: StoredModel) -> Executor:
        manifest = model.manifest
        execution = manifest.execution
        if manifest.runtime == "auto":
            for field in ("instances", "resources"):
                if getattr(execution, field) != getattr(_DEFAULTS, field):
                    raise InvalidManifest(
                        f"{manifest.ref}: execution.{field}: `runtime: auto` measures one instance on a machine of its "
                        f"own: name the runtime, or leave {field} out",
                        param=f"execution.{field}",
                    )
            return AutoExecutor(
                model, self, self._catalog, self._choices, self._measuring, self._clock, machine_busy, self._environment
            )
        devices = [group.device for group in execution.groups for _ in range(group.count)]
        instances = [self._one(_on(model, device)) for device in devices]
        if len(instances) == 1:
            return instances[0]
        return InstancesExecutor(instances, devices if len(set(devices)) > 1 else ())

    def _one(self, model: StoredModel) -> Instance:
        instance = self._unlimited(model)
        execution = model.manifest.execution
        if not execution.resources:
            return instance
        return LimitedInstance(instance, self._resources, self._resources.claim(model.manifest, execution.device))

    def _unlimited(self, model: StoredModel) -> Instance:
        manifest = model.manifest
        if manifest.execution.executor == "thread":
            if manifest.runtime == "python" and (model.folder / REQUIREMENTS).is_file():
                raise InvalidManifest(
                    f"{manifest.ref}: a model with a {REQUIREMENTS} runs in a process of its own: remove "
                    "execution.executor: thread",
                    param="execution.executor",
                )
            return ThreadExecutor(model, self._create_runtime(manifest))
        return RunnerExecutor(
            model,
            self._clock,
            lambda: self._on_restart(manifest.ref),
            self._supervision,
            lambda: self._environment(manifest),
            partial(self._interpreter, model) if self._interpreter is not None else None,
        )


def _on(model: StoredModel, device: str) -> StoredModel:
    """The model as one instance on that device is told of it."""
    execution = msgspec.structs.replace(model.manifest.execution, instances=1, device=device)
    return msgspec.structs.replace(model, manifest=msgspec.structs.replace(model.manifest, execution=execution))
