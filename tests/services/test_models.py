"""The life of models: loaded once, kept while used, drained, remembered when they failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from inference_engine.domain.errors import ModelLoadFailed, ModelNotFound, ShuttingDown
from inference_engine.domain.model import Execution, ModelRef
from inference_engine.domain.ports import Executor, Loaded, StoredModel
from inference_engine.services.models import ModelService
from inference_engine.testing import (
    ECHO_SIGNATURE,
    FakeClock,
    FakeExecutor,
    FakeRepository,
    FakeRoutes,
    NullTelemetry,
    manifest,
)

ECHO = ModelRef("echo", "1")


class SlowExecutor(FakeExecutor):
    """Takes as long to load as the test wants, and may fail."""

    def __init__(self, error: ModelLoadFailed | None = None) -> None:
        super().__init__(ECHO_SIGNATURE)
        self.error = error
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.stopped = 0

    async def start(self) -> Loaded:
        await self.may_load.wait()
        if self.error:
            raise self.error
        return await super().start()

    async def stop(self, grace_s: float) -> None:
        self.stopped += 1
        await super().stop(grace_s)


class Workshop:
    """Makes executors and remembers them."""

    def __init__(self) -> None:
        self.made: list[SlowExecutor] = []
        self.error: ModelLoadFailed | None = None
        self.hold = False

    def __call__(self, model: StoredModel) -> Executor:
        executor = SlowExecutor(self.error)
        if self.hold:
            executor.may_load.clear()
        self.made.append(executor)
        return executor


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
def repository() -> FakeRepository:
    return FakeRepository(manifest("echo", "1", ECHO_SIGNATURE), manifest("echo", "10", ECHO_SIGNATURE))


@pytest.fixture
async def models(repository: FakeRepository, workshop: Workshop, clock: FakeClock) -> AsyncIterator[ModelService]:
    service = ModelService(repository, workshop, FakeRoutes(), NullTelemetry(), clock, drain_s=0.2)
    await service.open()
    yield service
    await service.close()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_a_model_is_loaded_once_however_many_ask(models: ModelService, workshop: Workshop) -> None:
    async def use() -> None:
        async with models.lease(ECHO) as live:
            assert live.signature == ECHO_SIGNATURE

    await asyncio.gather(*(use() for _ in range(20)))
    assert len(workshop.made) == 1
    assert models.status(ECHO).state == "ready"


async def test_loading_goes_on_when_the_first_who_asked_has_left(models: ModelService, workshop: Workshop) -> None:
    workshop.hold = True
    first = asyncio.create_task(models.load(ECHO))
    await turns()
    assert models.status(ECHO).state == "loading"
    first.cancel()
    second = asyncio.create_task(models.load(ECHO))
    await turns()
    workshop.made[0].may_load.set()
    assert (await second).state == "ready"
    assert len(workshop.made) == 1


async def test_a_failure_is_remembered_for_a_while_and_told_again(
    models: ModelService, workshop: Workshop, clock: FakeClock
) -> None:
    workshop.error = ModelLoadFailed("model.fake is damaged")
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="damaged"):
            async with models.lease(ECHO):
                pass
    assert len(workshop.made) == 1
    status = models.status(ECHO)
    assert status.state == "failed"
    assert status.error is not None
    assert "damaged" in status.error.message
    clock.advance(11)
    workshop.error = None
    async with models.lease(ECHO):
        assert models.status(ECHO).state == "ready"


async def test_an_explicit_load_tries_again_at_once(models: ModelService, workshop: Workshop) -> None:
    workshop.error = ModelLoadFailed("damaged")
    with pytest.raises(ModelLoadFailed):
        await models.load(ECHO)
    workshop.error = None
    assert (await models.load(ECHO)).state == "ready"


async def test_files_that_do_not_match_their_digest_are_not_loaded(
    models: ModelService, repository: FakeRepository, workshop: Workshop
) -> None:
    repository.refuse[ECHO] = ModelLoadFailed("model.fake differs from its digest")
    with pytest.raises(ModelLoadFailed, match="digest"):
        await models.load(ECHO)
    assert workshop.made == []


async def test_unloading_waits_for_work_in_flight_and_newcomers_load_anew(
    models: ModelService, workshop: Workshop
) -> None:
    lease = models.lease(ECHO)
    await lease.__aenter__()
    unloading = asyncio.create_task(models.unload(ECHO))
    await turns()
    assert models.status(ECHO).state == "draining"
    newcomer = asyncio.create_task(models.load(ECHO))
    await turns()
    assert not unloading.done()
    await lease.__aexit__(None, None, None)
    await unloading
    assert (await newcomer).state == "ready"
    assert workshop.made[0].stopped == 1
    assert len(workshop.made) == 2


async def test_draining_has_an_end(models: ModelService, workshop: Workshop) -> None:
    lease = models.lease(ECHO)
    await lease.__aenter__()
    async with asyncio.timeout(5):
        await models.unload(ECHO)
    assert workshop.made[0].stopped == 1
    await lease.__aexit__(None, None, None)
    assert models.status(ECHO).state == "unloaded"


async def test_a_closing_server_loads_nothing_any_more(models: ModelService) -> None:
    await models.close()
    with pytest.raises(ShuttingDown):
        await models.load(ECHO)


async def test_models_come_and_go_with_the_repository(models: ModelService, repository: FakeRepository) -> None:
    repository.models.append(manifest("new", "1", ECHO_SIGNATURE))
    del repository.models[0]
    models.refresh()
    assert {status.name + status.version for status in models.statuses()} == {"echo10", "new1"}
    with pytest.raises(ModelNotFound):
        models.status(ECHO)


async def test_what_is_marked_is_preloaded_and_what_is_broken_does_not_stop_the_start(workshop: Workshop) -> None:
    from inference_engine.domain.model import Execution

    repository = FakeRepository(manifest("echo", "1", ECHO_SIGNATURE, execution=Execution(preload=True)))
    service = ModelService(repository, workshop, FakeRoutes(), NullTelemetry(), FakeClock())
    workshop.error = ModelLoadFailed("damaged")
    await service.open()
    assert service.status(ECHO).state == "failed"
    await service.close()


async def test_routes_are_written_to_the_store(models: ModelService) -> None:
    assert models.resolve("echo").ref.version == "10"
    models.pin_route("echo", ECHO)
    assert models.resolve("echo").rule == "pinned"
    models.unpin_route("echo")
    assert models.resolve("echo").ref.version == "10"


async def test_keep_alive_replaces_the_manifests_until_it_is_unloaded(models: ModelService, workshop: Workshop) -> None:
    await models.load(ECHO)
    status = models.status(ECHO)
    assert status.expires_at is not None
    models.keep_alive(ECHO, -1)
    assert models.status(ECHO).expires_at is None
    models.keep_alive(ECHO, 3600)
    later = models.status(ECHO).expires_at
    assert later is not None
    assert later > status.expires_at
    await models.unload(ECHO)
    await models.load(ECHO)
    again = models.status(ECHO).expires_at
    assert again is not None
    assert again < later
    models.keep_alive(ModelRef("nobody", "1"), 5)


async def test_keep_alive_of_nothing_unloads_after_the_last_use(models: ModelService, workshop: Workshop) -> None:
    async with models.lease(ECHO):
        models.keep_alive(ECHO, 0)
        async with models.lease(ECHO):
            pass
        assert models.is_ready(ECHO)
    for _ in range(10):
        await asyncio.sleep(0)
    assert models.status(ECHO).state == "unloaded"
    assert await models.ready(ECHO)
    assert models.loaded(ECHO) is not None
    models.keep_alive(ECHO, 0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert models.loaded(ECHO) is None


async def test_a_pinned_model_stays_whatever_is_asked(workshop: Workshop) -> None:
    pinned = manifest("echo", signature=ECHO_SIGNATURE, execution=Execution(pin=True))
    models = ModelService(FakeRepository(pinned), workshop, FakeRoutes(), NullTelemetry(), FakeClock())
    await models.open()
    await models.load(ECHO)
    models.keep_alive(ECHO, 0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert models.is_ready(ECHO)
    assert models.status(ECHO).expires_at is None
    await models.close()
