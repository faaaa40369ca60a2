"""A store over a real folder, fetching from a mirror on this machine, with models that are never loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_engine.domain.model_store import Progress
from inference_engine.domain.requests import Principal
from inference_engine.infra.model_store.depot import FolderDepot
from inference_engine.infra.model_store.sources import Sources
from inference_engine.infra.repository import FolderRepository
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService
from inference_engine.testing import FakeClock, FakeExecutor, FakeExecutors, FakeRoutes, NullTelemetry
from tests.fixtures.mirror import Mirror, running_mirror
from tests.fixtures.tiny_gguf import tiny_gguf

ME = Principal("default", "local")


class Shop:
    """Everything a change of models touches. `executors` answer for every model that is asked to load."""

    def __init__(self, root: Path, mirror: Mirror, gguf: bytes) -> None:
        self.root = root
        self.mirror = mirror
        self.gguf = gguf
        self.repository = FolderRepository((root,), root)
        self.executors = FakeExecutors({})
        self.models = ModelService(self.repository, self.executors, FakeRoutes(), NullTelemetry(), FakeClock())
        self.depot = FolderDepot(root)
        self.sources = self.make_sources()
        self.store = ModelStore(self.models, self.depot, self.sources, lambda principal: None)
        self.models.refresh()

    def make_sources(self, *others: str) -> Sources:
        url = self.mirror.url
        return Sources(self.depot, "0-test", registry=url, hub=url, others=others, hub_token="hf_x", pause_s=0)

    async def pull(self, name: str) -> list[Progress]:
        return [step async for step in self.store.pull(name, ME)]

    async def load(self, target: str) -> FakeExecutor:
        executor = FakeExecutor(kinds=("chat",))
        ref = self.models.resolve(target).ref
        self.executors.executors[str(ref)] = executor
        await self.models.load(ref)
        return executor

    def names(self) -> list[str]:
        return [f"{status.name}:{status.version}" for status in self.models.statuses()]

    def leftovers(self) -> dict[str, list[str]]:
        """What lies in the store beside the models."""
        store = self.root / ".store"
        return {
            name: sorted(path.name for path in (store / name).iterdir())
            for name in ("blobs", "partial", "drafts")
            if (store / name).is_dir()
        }


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole model of about half a megabyte."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as mirror:
        yield mirror


@pytest.fixture
def shop(tmp_path: Path, mirror: Mirror, gguf: bytes) -> Shop:
    mirror.add("library/tiny", "latest", gguf)
    return Shop(tmp_path / "models", mirror, gguf)
