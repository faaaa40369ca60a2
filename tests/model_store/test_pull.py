"""Pulls against a mirror: whole, broken off, resumed, damaged, cancelled, together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from inference_engine.domain.errors import (
    Forbidden,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Unavailable,
)
from inference_engine.domain.model import ModelRef
from inference_engine.infra.model_store import depot as depot_module
from inference_engine.infra.model_store.depot import FolderDepot
from tests.fixtures.mirror import Mirror, digest_of
from tests.fixtures.tiny_gguf import tiny_gguf
from tests.model_store.conftest import ME, Shop


async def test_a_model_comes_from_the_registry_with_all_that_belongs_to_it(shop: Shop, gguf: bytes) -> None:
    shop.mirror.add(
        "library/tiny",
        "8b",
        gguf,
        system="You are a pirate.",
        license="MIT",
        params='{"temperature": 0.3, "stop": ["END"], "num_ctx": 256, "num_gpu": 4, "mirostat": 2}',
        messages='[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "arr"}]',
        template="{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}",
    )
    steps = await shop.pull("tiny:8b")
    statuses = [step.status for step in steps]
    assert statuses[0] == "pulling manifest"
    assert statuses[-1] == "success"
    assert any("mirostat" in status for status in statuses)
    assert any("template" in status and "Jinja" in status for status in statuses)
    last = next(step for step in reversed(steps) if step.digest)
    assert last.completed == last.total == len(gguf)
    manifest = shop.models.stored(ModelRef("tiny", "8b")).manifest
    assert manifest.options == {"sampling": {"temperature": 0.3}, "context_length": 256}
    assert manifest.conversation.system == "You are a pirate."
    assert manifest.conversation.stop == ("END",)
    assert [turn.content for turn in manifest.conversation.messages] == ["hi", "arr"]
    assert manifest.licence == "MIT"
    assert manifest.digests == {"model.gguf": digest_of(gguf)}
    assert (shop.root / "tiny" / "8b" / "model.gguf").read_bytes() == gguf
    assert shop.leftovers()["drafts"] == shop.leftovers()["partial"] == []


async def test_a_name_without_a_tag_is_the_latest_and_leads_the_route(shop: Shop) -> None:
    await shop.pull("tiny")
    assert shop.models.resolve("tiny").ref == ModelRef("tiny", "latest")


async def test_a_second_pull_fetches_nothing_again(shop: Shop) -> None:
    await shop.pull("tiny")
    shop.mirror.asked.clear()
    await shop.pull("registry.ollama.ai/library/tiny:latest")
    assert [path for path, _ in shop.mirror.asked] == ["/v2/library/tiny/manifests/latest"]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_connection_is_taken_up_where_it_broke(shop: Shop, gguf: bytes, ranges: bool) -> None:
    shop.mirror.ranges = ranges
    shop.mirror.cuts = [100_000, 50_000]
    await shop.pull("tiny")
    wanted = [asked for path, asked in shop.mirror.asked if "blobs" in path]
    assert wanted[0] is None
    assert wanted[1] == "bytes=100000-"
    if ranges:
        assert wanted[2] == "bytes=150000-"
    assert (shop.root / "tiny" / "latest" / "model.gguf").read_bytes() == gguf


async def test_what_an_earlier_server_left_is_used(shop: Shop, gguf: bytes) -> None:
    shop.mirror.cuts = [70_000, 0, 0, 0, 0, 0]
    with pytest.raises(Unavailable, match=r"broke off|broken"):
        await shop.pull("tiny")
    assert shop.names() == []
    assert shop.leftovers()["partial"] == [digest_of(gguf).replace(":", "-")]
    again = Shop(shop.root, shop.mirror, gguf)
    shop.mirror.asked.clear()
    await again.pull("tiny")
    assert ("bytes=70000-") in [asked for _, asked in shop.mirror.asked]
    assert again.names() == ["tiny:latest"]


async def test_a_wrong_digest_is_thrown_away(shop: Shop, gguf: bytes) -> None:
    path = f"/v2/library/tiny/blobs/{digest_of(gguf)}"
    shop.mirror.spoiled[path] = gguf[:-1] + b"x"
    with pytest.raises(ModelLoadFailed, match="digest"):
        await shop.pull("tiny")
    assert shop.names() == []
    assert shop.leftovers()["blobs"] == []
    del shop.mirror.spoiled[path]
    await shop.pull("tiny")
    assert shop.names() == ["tiny:latest"]


async def test_a_damaged_beginning_is_fetched_anew(shop: Shop, gguf: bytes) -> None:
    shop.depot.check_writable()
    partial = shop.root / ".store" / "partial" / digest_of(gguf).replace(":", "-")
    partial.write_bytes(b"\0" * 100_000)
    await shop.pull("tiny")
    assert (shop.root / "tiny" / "latest" / "model.gguf").read_bytes() == gguf


async def test_a_longer_answer_than_promised_is_refused(shop: Shop, gguf: bytes) -> None:
    shop.mirror.spoiled[f"/v2/library/tiny/blobs/{digest_of(gguf)}"] = gguf + b"more"
    with pytest.raises(ModelLoadFailed, match="longer"):
        await shop.pull("tiny")


async def test_a_file_that_is_no_model_is_never_installed(shop: Shop) -> None:
    shop.mirror.add("library/bad", "latest", b"GGUF" + b"\xff" * 20_000)
    with pytest.raises(ModelLoadFailed, match=r"model\.gguf is not a usable GGUF"):
        await shop.pull("bad")
    assert shop.names() == []
    assert not (shop.root / "bad").exists()


async def test_a_cancelled_pull_stops_and_can_go_on(shop: Shop, gguf: bytes) -> None:
    shop.mirror.hold = True
    pull = asyncio.create_task(shop.pull("tiny"))
    await asyncio.to_thread(shop.mirror.held.wait, 10)
    await asyncio.sleep(0.2)  # what the mirror has sent arrives
    pull.cancel()
    await asyncio.wait([pull])
    assert pull.cancelled()
    kept = shop.root / ".store" / "partial" / digest_of(gguf).replace(":", "-")
    size = kept.stat().st_size
    assert 0 < size < len(gguf)
    shop.mirror.hold = False
    shop.mirror.go.set()
    shop.mirror.asked.clear()
    await shop.pull("tiny")
    assert f"bytes={size}-" in [asked for _, asked in shop.mirror.asked]


async def test_two_who_pull_the_same_model_share_one_fetch(shop: Shop, gguf: bytes) -> None:
    shop.mirror.hold = True
    first = asyncio.create_task(shop.pull("tiny"))
    second = asyncio.create_task(shop.pull("tiny"))
    await asyncio.to_thread(shop.mirror.held.wait, 10)
    leaving = shop.store.pull("tiny", ME)
    await anext(leaving)
    await leaving.aclose()  # one of three leaves: the others go on
    shop.mirror.go.set()
    for steps in await asyncio.gather(first, second):
        assert steps[0].status == "pulling manifest"
        assert steps[-1].status == "success"
    assert len([path for path, _ in shop.mirror.asked if "blobs" in path]) == 1


async def test_two_models_with_the_same_file_share_it(shop: Shop, gguf: bytes) -> None:
    shop.mirror.add("library/other", "latest", gguf)
    await asyncio.gather(shop.pull("tiny"), shop.pull("other"))
    files = [shop.root / name / "latest" / "model.gguf" for name in ("tiny", "other")]
    assert files[0].samefile(files[1])
    assert len([path for path, _ in shop.mirror.asked if "blobs" in path]) == 1


async def test_a_newer_model_takes_the_place_of_the_old_while_it_is_loaded(shop: Shop, tmp_path: Path) -> None:
    await shop.pull("tiny")
    executor = await shop.load("tiny")
    newer = tiny_gguf(tmp_path / "newer.gguf", seed=7).read_bytes()
    shop.mirror.add("library/tiny", "latest", newer)
    await shop.pull("tiny")
    assert executor.state == "stopped"
    assert (shop.root / "tiny" / "latest" / "model.gguf").read_bytes() == newer
    assert shop.models.stored(ModelRef("tiny", "latest")).manifest.digests == {"model.gguf": digest_of(newer)}
    assert shop.leftovers()["blobs"] == [digest_of(newer).replace(":", "-")]


async def test_a_full_disk_is_told_before_anything_is_written(shop: Shop, mirror: Mirror) -> None:
    manifest = mirror.manifests["/v2/library/tiny/manifests/latest"]
    manifest["layers"][0]["size"] = 1 << 60
    with pytest.raises(Unavailable, match="disk is full") as caught:
        await shop.pull("tiny")
    assert caught.value.retry_after_s is None
    assert shop.names() == []


async def test_a_disk_that_fills_up_while_writing_keeps_what_is_there(shop: Shop) -> None:
    """`/dev/full` is a disk that is always full."""
    with Path("/dev/full").open("ab", buffering=0) as full:
        partial = depot_module.Partial(Path("/dev/null"), full, Path("/nowhere"), "sha256:0")
        with pytest.raises(Unavailable, match="disk is full"):
            partial.append(b"x" * 4096)


async def test_another_process_that_fetches_the_same_file_is_not_disturbed(shop: Shop, gguf: bytes) -> None:
    with (
        FolderDepot(shop.root).partial(digest_of(gguf), len(gguf)),
        pytest.raises(Unavailable, match="another process"),
    ):
        await shop.pull("tiny")


async def test_a_folder_that_cannot_be_written(shop: Shop, gguf: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Shop(tmp_path / "file" / "models", shop.mirror, gguf)
    with pytest.raises(Forbidden, match="setting models"):
        await broken.pull("tiny")


# -- hosts ----------------------------------------------------------------------------------------------------------


async def test_what_is_not_there(shop: Shop) -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        await shop.pull("nobody")
    shop.mirror.statuses["/v2/library/secret/manifests/latest"] = 401
    with pytest.raises(Forbidden, match="HF_TOKEN"):
        await shop.pull("secret")
    shop.mirror.statuses["/v2/library/tired/manifests/latest"] = 503
    with pytest.raises(Unavailable, match="503"):
        await shop.pull("tired")


@pytest.mark.parametrize("name", ["", "a/b/c/d", "../etc", "tiny:../x", "a b", "127.0.0.1:1/x/y/z:1", "x" * 200])
async def test_names_that_are_none(shop: Shop, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await shop.pull(name)
    assert shop.mirror.asked == []


async def test_other_hosts_are_asked_only_when_they_are_configured(shop: Shop, mirror: Mirror) -> None:
    host = mirror.url.removeprefix("http://").replace("127.0.0.1", "localhost")
    mirror.add("me/tiny", "latest", shop.gguf)
    with pytest.raises(Forbidden, match="pull_origins"):
        await shop.pull(f"{host}/me/tiny")
    assert mirror.asked == []
    shop.store._source = shop.make_sources(f"http://{host}")
    await shop.pull(f"{host}/me/tiny")
    assert shop.names() == ["localhost--me--tiny:latest"]


@pytest.mark.parametrize(
    "target",
    ["https://127.0.0.1:9/secret", "https://localhost/secret", "http://169.254.169.254/latest", "file:///etc/passwd"],
)
async def test_a_registry_cannot_lead_into_the_private_network(shop: Shop, gguf: bytes, target: str) -> None:
    shop.mirror.redirects[f"/v2/library/tiny/blobs/{digest_of(gguf)}"] = target
    with pytest.raises(Forbidden, match=r"private network|not encrypted"):
        await shop.pull("tiny")


async def test_a_redirect_within_what_is_configured_is_followed(shop: Shop, gguf: bytes) -> None:
    shop.mirror.redirects[f"/v2/library/tiny/blobs/{digest_of(gguf)}"] = f"/v2/cdn/blobs/{digest_of(gguf)}"
    await shop.pull("tiny")
    assert shop.names() == ["tiny:latest"]


async def test_redirects_in_circles_end(shop: Shop) -> None:
    shop.mirror.redirects["/v2/library/tiny/manifests/latest"] = "/v2/library/tiny/manifests/latest"
    with pytest.raises(Unavailable, match="circles"):
        await shop.pull("tiny")


async def test_a_registry_that_is_not_there(shop: Shop, gguf: bytes, tmp_path: Path) -> None:
    shop.mirror.url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match="cannot be reached"):
        await Shop(tmp_path / "m", shop.mirror, gguf).pull("tiny")


# -- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(shop: Shop, tmp_path: Path) -> Shop:
    small = tiny_gguf(tmp_path / "q8.gguf", q8=True, seed=2).read_bytes()
    shop.mirror.repositories["org/Tiny-GGUF"] = {
        "README.md": b"# Tiny",
        "Tiny-F16.gguf": shop.gguf,
        "Tiny-Q8_0.gguf": small,
    }
    return shop


async def test_a_model_comes_from_the_hub(hub: Shop) -> None:
    await hub.pull("hf.co/org/Tiny-GGUF")
    manifest = hub.models.stored(ModelRef("hf.co--org--Tiny-GGUF", "latest")).manifest
    assert manifest.artifact == "Tiny-Q8_0.gguf"
    assert manifest.licence == "mit"
    assert "revision abc123" in manifest.description
    paths = [path for path, _ in hub.mirror.asked]
    assert paths == ["/api/models/org/Tiny-GGUF?blobs=true", "/org/Tiny-GGUF/resolve/abc123/Tiny-Q8_0.gguf"]
    assert set(hub.mirror.tokens) == {"Bearer hf_x"}


async def test_the_tag_names_a_quantization(hub: Shop) -> None:
    await hub.pull("hf.co/org/Tiny-GGUF:f16")
    assert hub.names() == ["hf.co--org--Tiny-GGUF:f16"]
    with pytest.raises(ModelNotFound, match="F16, Q8_0"):
        await hub.pull("hf.co/org/Tiny-GGUF:Q2_K")
    with pytest.raises(ModelNotFound, match="org/Nothing"):
        await hub.pull("hf.co/org/Nothing")


async def test_a_repository_without_gguf_is_refused(hub: Shop) -> None:
    hub.mirror.repositories["org/Torch"] = {"model.safetensors": b"x"}
    with pytest.raises(InvalidRequest, match="no GGUF"):
        await hub.pull("hf.co/org/Torch")


async def test_the_token_is_for_the_hub_alone(hub: Shop, mirror: Mirror) -> None:
    elsewhere = mirror.url.replace("127.0.0.1", "localhost")
    hub.store._source = hub.make_sources(elsewhere)
    path = "/org/Tiny-GGUF/resolve/abc123/Tiny-Q8_0.gguf"
    mirror.redirects[path] = f"{elsewhere}/cdn/resolve/abc123/Tiny-Q8_0.gguf"
    mirror.repositories["cdn"] = mirror.repositories["org/Tiny-GGUF"]
    await hub.pull("hf.co/org/Tiny-GGUF")
    assert mirror.tokens == ["Bearer hf_x", "Bearer hf_x", None]


def test_the_mirror_is_real(mirror: Mirror) -> None:
    assert httpx.get(f"{mirror.url}/nothing").status_code == 404
