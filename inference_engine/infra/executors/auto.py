"""`runtime: auto`: measures the runtimes that can run a model on this machine, keeps the result, runs on the best one.

llama_cpp is the reference. Another runtime is chosen only when it is faster for the declared aim and its greedy
choices agree with the reference's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.choices import Aim, Candidate, ChoiceStore, RuntimeChoice
from inference_engine.domain.errors import EngineError, InvalidManifest, ModelError, ModelNotReady
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import BatchResult, Executor, ExecutorStatus, Loaded, RuntimeCatalog, StoredModel
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delta
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.executors.measuring import Probe, agreement, measure_speed, reference_answers
from inference_engine.infra.hardware import detect

REFERENCE = "llama_cpp"
CANDIDATES = (REFERENCE, "openvino")
STREAMS: dict[Aim, int] = {"latency": 1, "throughput": 16}
_LIMIT_S = 8.0
_PROBE_S = 4.0
_STOP_S = 5.0
_LEAST_ALIKE = 0.75
_WORTHWHILE = 1.05  # less gain than this may be noise
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_TUNED: dict[tuple[Aim, str], dict[str, Any]] = {("throughput", "openvino"): {"parallel": 64}}
"""Other defaults for an aim. 64 streams together gave a tenth more than 32; llama_cpp is best at its own 16."""
_log = get_logger(__name__)

Positive = Annotated[int, msgspec.Meta(ge=1)]


class AutoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a model with `runtime: auto`.

    aim: latency is one stream as fast as possible, throughput is 16 together. tolerance: the mean difference of
    logprobs up to which another runtime's answers count as the same. context_length, parallel, chat_template and
    sampling are given to whichever runtime; llama_cpp and openvino hold options of that runtime alone.
    """

    aim: Aim = "latency"
    tolerance: Annotated[float, msgspec.Meta(gt=0)] = 0.1
    context_length: Positive | None = None
    parallel: Positive | None = None
    chat_template: str | None = None
    sampling: dict[str, Any] | None = None
    llama_cpp: dict[str, Any] = {}
    openvino: dict[str, Any] = {}

    def of(self, runtime: str) -> dict[str, Any]:
        """The options for one runtime."""
        shared = {
            name: getattr(self, name)
            for name in ("context_length", "parallel", "chat_template", "sampling")
            if getattr(self, name) is not None
        }
        return _TUNED.get((self.aim, runtime), {}) | shared | dict(getattr(self, runtime))


class _Reference(msgspec.Struct, frozen=True):
    """What the others are held to: what it offers, and what it answers."""

    loaded: Loaded
    probes: list[Probe]


class AutoExecutor:
    """`Executor` that stands before the one it has chosen. Measuring holds `gate`: one model at a time."""

    def __init__(
        self,
        model: StoredModel,
        make: Callable[[StoredModel], Executor],
        catalog: RuntimeCatalog,
        choices: ChoiceStore,
        gate: asyncio.Lock,
        clock: Callable[[], float],
        busy: Callable[[], bool],
        environment: Callable[[Manifest], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """`make` gives the executor of a model whose runtime is named; `busy` tells whether others use the machine.

        `environment` gives a runner's variables: they tell which build of a library it uses.
        """
        self._model = model
        self._make = make
        self._catalog = catalog
        self._choices = choices
        self._gate = gate
        self._clock = clock
        self._busy = busy
        self._environment = environment
        self._options = _decode(model.manifest)
        self._inner: Executor | None = None
        self._stopped = False

    # -- choosing -----------------------------------------------------------------------------------------------------

    async def start(self) -> Loaded:
        candidates = self._installed()
        key = await asyncio.to_thread(self._key, candidates)
        choice = self._kept(key)
        if choice is not None:
            try:
                return await self._run_on(choice)
            except ModelError as error:
                _log.warning("the chosen runtime fails: measuring again", chosen=choice.chosen, error=error.message)
        async with self._gate:
            choice = self._kept(key) if choice is None else None  # measured while this one waited
            if choice is None:
                choice = await self._measure(key, candidates)
                self._choices.keep(choice)
            return await self._run_on(choice)

    def _kept(self, key: str) -> RuntimeChoice | None:
        """The kept choice, unless it was measured on a busy machine that is quiet now."""
        choice = self._choices.find(key)
        return None if choice is not None and choice.busy and not self._busy() else choice

    def _installed(self) -> list[str]:
        """The runtimes to be measured, the reference first.

        Raises:
            InvalidManifest: the artifact is of a kind that only one runtime reads.
        """
        if not self._model.manifest.artifact.lower().endswith(".gguf"):
            raise InvalidManifest(
                f"runtime auto chooses between runtimes of GGUF files, artifact is {self._model.manifest.artifact!r}: "
                "name the runtime",
                param="runtime",
            )
        known = self._catalog.names()
        return [name for name in CANDIDATES if name in known]

    def _key(self, candidates: Sequence[str]) -> str:
        """What a measurement holds for: these bytes, libraries, processor, threads and options."""
        manifest, cpu = self._model.manifest, detect().cpu
        digest = manifest.digests.get(manifest.artifact) or _fingerprint(self._model.folder / manifest.artifact)
        parts = (
            digest,
            [(name, self._catalog.describe(name).version) for name in candidates],
            [sorted(self._environment(self._for(name).manifest).items()) for name in candidates],
            (cpu.model, cpu.features, cpu.threads),
            manifest.execution.threads,
            self._options,
        )
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    async def _measure(self, key: str, candidates: Sequence[str]) -> RuntimeChoice:
        streams, busy = STREAMS[self._options.aim], self._busy()
        measured: list[Candidate] = []
        reference: _Reference | None = None
        for name in candidates:
            _log.info("measuring a runtime", model=str(self._model.manifest.ref), runtime=name, aim=self._options.aim)
            candidate, found = await self._measure_one(name, streams, reference)
            reference = reference or found
            measured.append(candidate)
        choice = RuntimeChoice(
            key=key,
            model=str(self._model.manifest.ref),
            aim=self._options.aim,
            streams=streams,
            chosen=_best(measured),
            candidates=tuple(measured),
            measured_at=datetime.now(UTC),
            busy=busy,
        )
        _log.info("auto has chosen", model=choice.model, runtime=choice.chosen, why=choice.why)
        return choice

    async def _measure_one(
        self, name: str, streams: int, reference: _Reference | None
    ) -> tuple[Candidate, _Reference | None]:
        """One candidate's figures; the first is the reference for the others. What fails is refused with its reason.

        Raises:
            ModelError: the reference cannot load the model, so that nothing can be compared with it.
        """
        info = self._catalog.describe(name)
        if not info.available:
            return Candidate(name, refused=f"not installed: {info.remedy}"), None
        executor = self._make(self._for(name))
        try:
            loaded = await executor.start()
            if reference is not None and (lacking := _lacking(loaded, reference.loaded)):
                return Candidate(name, info.version, refused=f"it does not offer {lacking}"), None
            speed = await measure_speed(executor, min(streams, loaded.concurrency), _LIMIT_S, self._clock)
            figures = Candidate(name, info.version, round(speed.tokens_per_s, 1), round(speed.first_token_s, 3))
            if reference is None:
                return figures, _Reference(loaded, await reference_answers(executor, _PROBE_S, self._clock))
            return await self._compared(figures, executor, reference.probes), None
        except EngineError as error:
            if reference is None:
                raise
            return Candidate(name, info.version, refused=error.message), None
        finally:
            await executor.stop(_STOP_S)

    async def _compared(self, figures: Candidate, executor: Executor, probes: list[Probe]) -> Candidate:
        found = await agreement(executor, probes, _PROBE_S, self._clock)
        refused = ""
        if found.difference > self._options.tolerance or found.alike < _LEAST_ALIKE:
            refused = (
                f"its answers differ from {REFERENCE}'s: {found.difference:.3f} mean difference of logprobs "
                f"(tolerance {self._options.tolerance:g}), {found.alike:.0%} of the tokens alike "
                f"(at least {_LEAST_ALIKE:.0%})"
            )
        return msgspec.structs.replace(
            figures, difference=round(found.difference, 4), alike=round(found.alike, 3), refused=refused
        )

    # -- the chosen one -----------------------------------------------------------------------------------------------

    def _for(self, runtime: str) -> StoredModel:
        manifest = msgspec.structs.replace(self._model.manifest, runtime=runtime, options=self._options.of(runtime))
        return msgspec.structs.replace(self._model, manifest=manifest)

    async def _run_on(self, choice: RuntimeChoice) -> Loaded:
        if self._stopped:
            raise ModelNotReady(f"{self._model.manifest.ref} has been unloaded")
        executor = self._make(self._for(choice.chosen))
        loaded = await executor.start()
        self._inner = executor
        about = {
            "chosen": choice.chosen,
            "aim": choice.aim,
            "why": choice.why,
            "candidates": msgspec.to_builtins(choice.candidates),
            "measured_at": choice.measured_at.isoformat(timespec="seconds"),
            "busy": choice.busy,
        }
        return msgspec.structs.replace(loaded, details=loaded.details | {"auto": about})

    def _chosen(self) -> Executor:
        if self._inner is None:
            raise ModelNotReady(f"{self._model.manifest.ref} is not loaded")
        return self._inner

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:
        return self._chosen().run(parts, rows)

    def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        return self._chosen().run_stream(inputs)

    def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        return self._chosen().generate(request)

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        return await self._chosen().tokenize(request)

    async def stop(self, grace_s: float) -> None:
        self._stopped = True
        if self._inner is not None:
            await self._inner.stop(grace_s)

    def status(self) -> ExecutorStatus:
        if self._inner is None:
            return ExecutorStatus(
                kind=self._model.manifest.execution.executor, state="stopped" if self._stopped else "starting"
            )
        return self._inner.status()

    @property
    def batches_in_flight(self) -> int:
        return self._chosen().batches_in_flight


def _lacking(loaded: Loaded, reference: Loaded) -> str:
    """What the reference offers with these options and this one does not, for people."""
    offers = (
        ("kinds", reference.kinds, loaded.kinds),
        ("adapters", reference.adapters, loaded.adapters),
        ("media", reference.media, loaded.media),
    )
    missing = [f"{word} {', '.join(sorted(lost))}" for word, theirs, ours in offers if (lost := {*theirs} - {*ours})]
    return "; ".join(missing)


def machine_busy() -> bool:
    """Whether, over the last minute, more work waited than half of the processors could do."""
    return os.getloadavg()[0] > 0.5 * detect().cpu.logical


def _best(measured: Sequence[Candidate]) -> str:
    """The fastest that was not refused; the reference unless another is worth the change."""
    fit = [candidate for candidate in measured if not candidate.refused]
    reference = next(candidate for candidate in fit if candidate.runtime == REFERENCE)
    best = max(fit, key=lambda candidate: candidate.tokens_per_s)
    return best.runtime if best.tokens_per_s >= reference.tokens_per_s * _WORTHWHILE else REFERENCE


def _decode(manifest: Manifest) -> AutoOptions:
    """
    Raises:
        InvalidManifest: an option is unknown or of a wrong type.
    """
    known = AutoOptions.__struct_fields__
    for name in manifest.options:
        if name not in known:
            raise InvalidManifest(
                f"options.{name} is not an option of runtime auto; it takes: {', '.join(known)}. Options of one "
                f"runtime stand under its name, as in `options: {{{REFERENCE}: {{{name}: ...}}}}`",
                param=f"options.{name}",
            )
    try:
        return msgspec.convert(manifest.options, AutoOptions)
    except msgspec.ValidationError as error:
        raise InvalidManifest(f"options: {error} (runtime auto)", param="options") from None


def _fingerprint(path: Path) -> str:
    """Stands for a file's content without reading all of it: its size, and pieces from all over it.

    Raises:
        InvalidManifest: there is no such file.
    """
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES):
                file.seek(index * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise InvalidManifest(f"{path} cannot be read: {error.strerror}", param="artifact") from None
    return digest.hexdigest()
