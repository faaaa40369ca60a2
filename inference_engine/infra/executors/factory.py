"""Chooses the executor a manifest asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from inference_engine.domain.choices import ChoiceStore
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.ports import Executor, Runtime, RuntimeCatalog, StoredModel
from inference_engine.infra.executors.auto import AutoExecutor, machine_busy
from inference_engine.infra.executors.interpreters import REQUIREMENTS
from inference_engine.infra.executors.runner import RunnerExecutor, Supervision
from inference_engine.infra.executors.thread import ThreadExecutor


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
    ) -> None:
        """`environment` gives variables for the runner of a model, `interpreter` the Python that runs it."""
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
        if manifest.execution.instances != 1:
            raise InvalidManifest(
                f"{manifest.ref}: execution.instances is {manifest.execution.instances}: one instance is all that can "
                "be run now; raise threads or max_batch_size instead",
                param="execution.instances",
            )
        if manifest.runtime == "auto":
            return AutoExecutor(
                model, self, self._catalog, self._choices, self._measuring, self._clock, machine_busy, self._environment
            )
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
