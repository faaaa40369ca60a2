"""The HTTP side over fakes: the real services, the real application, no model behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import msgspec
import uvicorn

from inference_engine.adapters.http.app import create_app
from inference_engine.adapters.http.protocol import ShortWayProtocol
from inference_engine.bootstrap import analysis_of, stateful
from inference_engine.core.settings import Settings
from inference_engine.domain.errors import EngineError, ModelLoadFailed
from inference_engine.domain.model import ModelRef, Signature, TensorSpec
from inference_engine.domain.ports import BrokenModel
from inference_engine.domain.requests import Chat, Generate, Transcribe
from inference_engine.domain.results import Delta, ReasoningDelta, SegmentDelta, TextDelta, ToolCallDelta
from inference_engine.services.access import AccessService
from inference_engine.services.health import HealthService
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService
from inference_engine.services.reuse import ReuseService
from inference_engine.testing import (
    ECHO_SIGNATURE,
    FakeDepot,
    FakeExecutor,
    FakeExecutors,
    FakeFacts,
    FakeRepository,
    FakeRoutes,
    FakeSource,
    RecordingTelemetry,
    manifest,
)

VERSION = "0.1.0-test"
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "bytes"),
)


def echo_of(dtype: str) -> Signature:
    return Signature((TensorSpec("x", dtype, (-1, -1)),), (TensorSpec("y", dtype, (-1, -1)),))


def scene(request: Generate) -> Iterator[Delta]:
    """What `actor` does: it thinks if told so, calls every tool it may for every word, or says what a tool answered."""
    assert isinstance(request, Chat)
    if request.reasoning not in (None, "none"):
        yield ReasoningDelta("Let me ")
        yield ReasoningDelta("think.")
    last, choice = request.messages[-1], request.tool_choice
    names = [tool.name for tool in request.tools if choice.name in (None, tool.name)]
    if last.role == "tool" or choice.mode == "none" or not names:
        yield TextDelta("It is ")
        yield TextDelta(last.text)
        return
    yield TextDelta("One moment. ")
    for call, word in enumerate(last.text.split()[: None if choice.parallel else 1]):
        yield ToolCallDelta("", call=call, id=f"call_{call}", name=names[0])
        yield ToolCallDelta('{"city": ', call=call)
        yield ToolCallDelta(json.dumps(word) + "}", call=call)


def speech(request: Generate) -> Iterator[Delta]:
    """What `listener` hears: three words, as segments where times are asked for."""
    assert isinstance(request, Transcribe)
    for second, word in enumerate((" one", " two", " three")):
        timed = SegmentDelta(word, (second,), start_s=second, end_s=second + 0.5)
        yield timed if request.timestamps else TextDelta(word)


class World:
    """Everything of one server: change its executors and repository before or between requests.

    Models: `echo` (1 and 2, float32 [-1,4]), `echo-DTYPE` for every dtype, `any` (no signature), `chatty` (generates),
    `actor` (thinks and calls tools, see `scene`), `vectors` (embeds and reranks), `listener` (transcribes), `failing`
    (its files are refused).
    """

    def __init__(
        self, settings: Settings | None = None, console_dist: Path | None = None, *, cache: bool = False
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # of the thread it listens in
        self.settings = settings or Settings()
        self.exposition: Callable[[], tuple[bytes, str]] = lambda: (b"# metrics\n", "text/plain; version=0.0.4")
        self.system: Callable[[], Any] = lambda: {"version": VERSION}
        self.chatty = FakeExecutor(kinds=("chat", "complete"))
        self.echo = FakeExecutor(ECHO_SIGNATURE)
        self.actor = FakeExecutor(
            kinds=("chat",), script=scene, adapters=("pirate",), media=("image", "audio"), concurrency=8
        )
        self.vectors = FakeExecutor(kinds=("embed", "rerank"))
        self.listener = FakeExecutor(kinds=("transcribe",), script=speech)
        executors = {"actor:1": self.actor, "vectors:1": self.vectors, "listener:1": self.listener}
        executors |= {"chatty:1": self.chatty, "echo:1": self.echo, "echo:2": FakeExecutor(ECHO_SIGNATURE)}
        executors |= {f"echo-{dtype}:1": FakeExecutor(echo_of(dtype)) for dtype in DTYPES}
        executors |= {"any:1": FakeExecutor(), "failing:1": FakeExecutor()}
        self.executors = FakeExecutors(executors)
        self.repository = FakeRepository(
            *(self._manifest(target) for target in executors),
            broken=[BrokenModel(Path("models/bad/1"), "models/bad/1/model.yaml:1: name is missing")],
        )
        self.repository.refuse[ModelRef("failing", "1")] = ModelLoadFailed("model.fake is damaged: fetch it again")
        self.routes = FakeRoutes()
        self.telemetry = RecordingTelemetry()
        self.models = ModelService(self.repository, self.executors, self.routes, self.telemetry, time.monotonic)
        reuse = ReuseService(self.telemetry, time.monotonic, enabled=cache, max_bytes=1 << 20)
        self.inference = InferenceService(self.models, self.telemetry, time.monotonic, reuse)
        self.health = HealthService(self.models)
        self.access = AccessService(
            self.settings.api_keys, self.settings.api_key_header, model_changes=self.settings.model_changes
        )
        self.facts = FakeFacts()
        self.depot = FakeDepot(self.repository)
        self.source = FakeSource(self.depot)
        self.store = ModelStore(self.models, self.depot, self.source, self.access.permit_model_changes)
        self.folder = Path(tempfile.gettempdir()) / f"inference-engine-test-{token_hex(8)}"
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.stateful = stateful(msgspec.structs.replace(self.settings, state_dir=self.folder))
        self.app = create_app(
            self.settings,
            self.models,
            self.inference,
            self.store,
            self.facts,
            self.access,
            self.health,
            self._exposition,
            self._system,
            VERSION,
            self.stateful,
            analysis_of(self.settings, self.models, self.inference, time.monotonic),
            time.monotonic,
            *((console_dist,) if console_dist else ()),
        )

    @staticmethod
    def _manifest(target: str) -> Any:
        name, _, version = target.partition(":")
        tasks = {"chatty": "text-generation", "actor": "text-generation", "vectors": "feature-extraction"}
        task = tasks.get(name, "tabular-regression")
        signature = ECHO_SIGNATURE if name == "echo" else None
        return manifest(name, version, signature, task=task, description=f"The {name} fake")

    def _exposition(self) -> tuple[bytes, str]:
        return self.exposition()

    def _system(self) -> Any:
        return self.system()

    async def open(self) -> None:
        await self.models.open()
        await self.stateful.jobs.open()
        self.health.opened()

    async def close(self) -> None:
        await self.stateful.jobs.close()
        await self.models.close()

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Talks to the application in this process; what escapes the application is raised."""
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    def fail_with(self, error: EngineError, after: int | None = None) -> None:
        """Let generations fail, at once or after some words."""
        self.chatty.fail, self.chatty.fail_after = error, after


@contextlib.contextmanager
def listening(world: World, keep_alive_s: int = 5) -> Iterator[str]:
    """The application on a real socket, in a thread of its own; gives the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        world.app,
        http=ShortWayProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    started = threading.Event()

    async def run() -> None:
        world.loop = asyncio.get_running_loop()
        await world.open()
        started.set()
        try:
            await server.serve(sockets=[listener])
        finally:
            await world.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
