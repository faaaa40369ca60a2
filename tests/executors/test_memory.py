"""What models leave in the server's process is given back after they were unloaded."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import ModuleType

import pytest

from inference_engine.infra.memory import MemoryReturn


@pytest.fixture(autouse=True)
def _no_collector_of_its_own() -> object:
    gc.disable()
    yield
    gc.enable()


async def test_what_refers_to_itself_goes_once_for_all_unloads() -> None:
    module = ModuleType("a_model")
    module.myself = module  # type: ignore[attr-defined]
    gone = weakref.ref(module)
    del module
    unloaded = MemoryReturn(delay_s=0.01)
    for _ in range(3):
        unloaded("a model")
    assert gone() is not None
    for _ in range(200):
        if gone() is None:
            break
        await asyncio.sleep(0.01)
    assert gone() is None
