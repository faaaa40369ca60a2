"""Create, copy, delete and upload in a real folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from inference_engine.domain.errors import (
    EngineError,
    Forbidden,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Unavailable,
)
from inference_engine.domain.model import ModelRef, Turn
from inference_engine.domain.model_store import Changes
from inference_engine.domain.requests import Principal
from inference_engine.services.access import AccessService
from inference_engine.services.model_store import ModelStore
from tests.fixtures.mirror import digest_of
from tests.model_store.conftest import ME, Shop

TINY = ModelRef("tiny", "latest")


@pytest.fixture
async def stocked(shop: Shop) -> Shop:
    await shop.pull("tiny")
    return shop


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


async def create(shop: Shop, name: str, **what: Any) -> list[str]:
    return [step.status async for step in shop.store.create(name, ME, **what)]


# -- copy -----------------------------------------------------------------------------------------------------------


async def test_a_copy_shares_its_bytes_and_has_a_manifest_of_its_own(stocked: Shop) -> None:
    await stocked.store.copy("tiny", "other:2", ME)
    files = [stocked.root / folder / "model.gguf" for folder in ("tiny/latest", "other/2")]
    assert files[0].samefile(files[1])
    manifest = stocked.models.stored(ModelRef("other", "2")).manifest
    assert (manifest.name, manifest.version) == ("other", "2")
    assert manifest.digests == stocked.models.stored(TINY).manifest.digests


async def test_a_model_without_a_manifest_gets_one_when_it_is_copied(shop: Shop, gguf: bytes) -> None:
    shop.root.mkdir(exist_ok=True)
    (shop.root / "loose.gguf").write_bytes(gguf)
    shop.models.refresh()
    await shop.store.copy("loose", "kept", ME)
    stored = shop.models.stored(ModelRef("kept", "latest"))
    assert not stored.assumed
    assert stored.manifest.artifact == "loose.gguf"


@pytest.mark.parametrize(
    ("source", "destination", "error"),
    [
        ("nobody", "x", ModelNotFound),
        ("tiny", "", InvalidRequest),
        ("tiny", "../x", InvalidRequest),
        ("tiny", "tiny:latest", InvalidRequest),
    ],
)
async def test_copies_that_cannot_be(stocked: Shop, source: str, destination: str, error: type[EngineError]) -> None:
    with pytest.raises(error):
        await stocked.store.copy(source, destination, ME)
    assert stocked.names() == ["tiny:latest"]


async def test_a_copy_takes_the_place_of_a_model_that_runs(stocked: Shop) -> None:
    await stocked.store.copy("tiny", "busy", ME)
    executor = await stocked.load("busy")
    await stocked.store.copy("tiny", "busy", ME)
    assert executor.state == "stopped"


async def test_a_file_without_a_manifest_is_not_hidden_by_a_new_model(stocked: Shop, gguf: bytes) -> None:
    (stocked.root / "loose.gguf").write_bytes(gguf)
    stocked.models.refresh()
    with pytest.raises(InvalidRequest, match="delete it first"):
        await stocked.store.copy("tiny", "loose:1", ME)


# -- delete ---------------------------------------------------------------------------------------------------------


async def test_a_deleted_model_is_gone_with_its_bytes(stocked: Shop) -> None:
    executor = await stocked.load("tiny")
    await stocked.store.delete(TINY, ME)
    assert stocked.names() == []
    assert executor.state == "stopped"
    assert not (stocked.root / "tiny").exists()
    assert stocked.leftovers() == {"blobs": [], "partial": [], "drafts": []}
    with pytest.raises(ModelNotFound):
        await stocked.store.delete(TINY, ME)


async def test_of_two_who_delete_one_finds_it_gone(stocked: Shop) -> None:
    await stocked.load("tiny")
    done = await asyncio.gather(*(stocked.store.delete(TINY, ME) for _ in range(2)), return_exceptions=True)
    assert sorted(type(result) for result in done if result is not None) == [ModelNotFound]


async def test_a_request_waits_while_its_model_is_replaced(stocked: Shop, gguf: bytes) -> None:
    await stocked.load("tiny")
    async with stocked.models.replacing(TINY):
        waiting = asyncio.create_task(stocked.models.ready(TINY))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    assert (await waiting).kinds == ("chat",)
    async with stocked.models.replacing(TINY):
        waiting = asyncio.create_task(stocked.models.ready(TINY))
        await asyncio.sleep(0.01)
        stocked.depot.remove(stocked.models.stored(TINY))
    with pytest.raises(ModelNotFound, match="deleted"):
        await waiting


async def test_a_change_is_finished_when_its_client_leaves(stocked: Shop) -> None:
    leaving = asyncio.create_task(stocked.store.copy("tiny", "other", ME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await asyncio.gather(*stocked.store._changing)
    assert stocked.names() == ["other:latest", "tiny:latest"]
    assert stocked.leftovers()["drafts"] == []


async def test_what_another_model_shares_stays(stocked: Shop, gguf: bytes) -> None:
    await stocked.store.copy("tiny", "other", ME)
    await stocked.store.delete(TINY, ME)
    assert (stocked.root / "other" / "latest" / "model.gguf").read_bytes() == gguf
    assert stocked.leftovers()["blobs"] == [digest_of(gguf).replace(":", "-")]


async def test_a_loose_file_is_deleted_and_its_neighbours_stay(shop: Shop, gguf: bytes) -> None:
    shop.root.mkdir(exist_ok=True)
    for name in ("a.gguf", "b.gguf"):
        (shop.root / name).write_bytes(gguf)
    shop.models.refresh()
    await shop.store.delete(ModelRef("a", "1"), ME)
    assert shop.names() == ["b:1"]


async def test_models_of_other_folders_are_left_alone(shop: Shop, gguf: bytes, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs.gguf").write_bytes(gguf)
    shop.repository._roots = (shop.root, elsewhere)
    shop.models.refresh()
    with pytest.raises(Forbidden, match="by hand"):
        await shop.store.delete(ModelRef("theirs", "1"), ME)
    assert (elsewhere / "theirs.gguf").exists()
    await shop.store.copy("theirs", "mine", ME)
    assert "mine:latest" in shop.names()


# -- create ---------------------------------------------------------------------------------------------------------


async def test_a_model_from_another_one(stocked: Shop) -> None:
    changes = Changes(
        system="Be brief.",
        licence="MIT",
        template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
        messages=(Turn("user", "hi"),),
        parameters={"temperature": 0, "top_k": 3, "stop": "END", "num_predict": 7, "num_ctx": 256, "num_thread": 9},
    )
    statuses = await create(stocked, "brief", base="tiny", changes=changes)
    assert statuses[-1] == "success"
    manifest = stocked.models.stored(ModelRef("brief", "latest")).manifest
    assert manifest.options["sampling"] == {"temperature": 0, "top_k": 3}
    assert manifest.options["context_length"] == 256
    assert manifest.conversation.system == "Be brief."
    assert (manifest.conversation.stop, manifest.conversation.max_tokens) == (("END",), 7)
    assert manifest.licence == "MIT"
    second = Changes(parameters={"temperature": 1.5})
    await create(stocked, "warm", base="brief", changes=second)
    inherited = stocked.models.stored(ModelRef("warm", "latest")).manifest
    assert inherited.options["sampling"] == {"temperature": 1.5, "top_k": 3}
    assert inherited.conversation == manifest.conversation


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (Changes(template="{{ .System }} {{ .Prompt }}"), "written for Go"),
        (Changes(parameters={"mirostat": 2}), "parameters.mirostat"),
        (Changes(parameters={"temperature": 99}), "parameters"),
        (Changes(parameters={"temperature": "hot"}), "parameters.temperature"),
        (Changes(parameters={"num_ctx": 10**6}), "trained for"),
        (Changes(parameters={"stop": ""}), "stop"),
        (Changes(parameters={"num_predict": 0}), "max_tokens"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_and_nothing_is_left(
    stocked: Shop, changes: Changes, words: str
) -> None:
    with pytest.raises((InvalidRequest, ModelLoadFailed), match=words):
        await create(stocked, "new", base="tiny", changes=changes)
    assert stocked.names() == ["tiny:latest"]
    assert stocked.leftovers()["drafts"] == []


async def test_a_model_from_an_uploaded_file(shop: Shop, gguf: bytes) -> None:
    digest = digest_of(gguf)
    assert not await shop.store.has_blob(digest)
    with pytest.raises(InvalidRequest, match="upload it first"):
        await create(shop, "mine", files={"my.gguf": digest})
    await shop.store.put_blob(digest, len(gguf), in_pieces(gguf), ME)
    assert await shop.store.has_blob(digest)
    await create(shop, "mine:3", files={"/home/me/my.gguf": digest})
    stored = shop.models.stored(ModelRef("mine", "3"))
    assert stored.manifest.artifact == "my.gguf"
    assert stored.manifest.task == "text-generation"


async def test_an_upload_with_another_digest_is_forgotten(shop: Shop, gguf: bytes) -> None:
    with pytest.raises(InvalidRequest, match="has the digest"):
        await shop.store.put_blob(digest_of(b"other"), None, in_pieces(gguf), ME)
    assert shop.leftovers() == {"blobs": [], "partial": [], "drafts": []}
    with pytest.raises(InvalidRequest, match="is not a digest"):
        await shop.store.put_blob("sha256:../../x", None, in_pieces(gguf), ME)
    with pytest.raises(Unavailable, match="disk is full"):
        await shop.store.put_blob(digest_of(gguf), 1 << 60, in_pieces(gguf), ME)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, "either from"),
        ({"base": "tiny", "files": {"a.gguf": "sha256:" + "0" * 64}}, "either from"),
        ({"files": {"a.safetensors": "sha256:" + "0" * 64}}, "only GGUF"),
        ({"files": {"a.gguf": "md5:1"}}, "is not a digest"),
        ({"files": {"x/a.gguf": "sha256:" + "0" * 64, "y/a.gguf": "sha256:" + "0" * 64}}, "twice"),
    ],
)
async def test_recipes_that_are_none(stocked: Shop, what: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await create(stocked, "new", **what)


async def test_two_models_in_one_recipe_are_refused(shop: Shop, gguf: bytes) -> None:
    other = gguf + b"\0"
    for data in (gguf, other):
        await shop.store.put_blob(digest_of(data), None, in_pieces(data), ME)
    with pytest.raises(InvalidRequest, match="one GGUF file"):
        await create(shop, "two", files={"a.gguf": digest_of(gguf), "b.gguf": digest_of(other)})


# -- who may, and what is cleared away --------------------------------------------------------------------------------


async def test_changes_can_be_switched_off(stocked: Shop) -> None:
    locked = AccessService(model_changes=False)
    store = ModelStore(stocked.models, stocked.depot, stocked.sources, locked.permit_model_changes)
    principal = locked.authenticate({})
    with pytest.raises(Forbidden, match="model_changes"):
        await store.delete(TINY, principal)
    with pytest.raises(Forbidden):
        await store.copy("tiny", "x", principal)
    with pytest.raises(Forbidden):
        await anext(store.pull("tiny", principal))
    with pytest.raises(Forbidden):
        await anext(store.create("x", principal, base="tiny"))
    with pytest.raises(Forbidden):
        await store.put_blob(digest_of(b""), 0, in_pieces(b""), principal)


async def test_nobody_gets_past_the_door(stocked: Shop) -> None:
    store = ModelStore(stocked.models, stocked.depot, stocked.sources, AccessService().permit_model_changes)
    with pytest.raises(Forbidden):
        await store.delete(TINY, Principal("", ""))


async def test_what_nobody_uses_is_cleared_away_in_time(stocked: Shop, gguf: bytes) -> None:
    store = stocked.root / ".store"
    long_ago = time.time() - 30 * 24 * 3600
    for place in ("blobs/sha256-unused", "partial/sha256-given-up", "drafts/half-made"):
        (store / place).write_bytes(b"x")
        os.utime(store / place, (long_ago, long_ago))
    (store / "blobs" / "sha256-new").write_bytes(b"x")
    stocked.depot.prune()
    blob = digest_of(gguf).replace(":", "-")
    assert stocked.leftovers() == {"blobs": sorted([blob, "sha256-new"]), "partial": [], "drafts": []}
