"""The KV cache kept over unloading: found again by the same model, by no other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from inference_engine.bootstrap import Application
from inference_engine.core.settings import Settings
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Call, Chat, Complete, Message, Principal, Sampling
from inference_engine.domain.results import Done, Usage
from inference_engine.infra.executors.environment import CACHE_DIR as TOLD
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from inference_engine.infra.runtimes.llama_cpp.kept_cache import CACHE_DIR
from tests.fixtures.tiny_gguf import Size, tiny_gguf, tiny_lora
from tests.runtimes.conftest import Recorder, answer, llama_manifest

PROMPTS = ("a long prompt that is worth keeping, " * 8, "quite another conversation that was held meanwhile; " * 6)
SIZE = Size(context=1024)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_DIR, str(tmp_path / "cache"))
    tiny_gguf(tmp_path / "model.gguf", SIZE)
    return tmp_path


def asked(folder: Path, **options: object) -> tuple[list[Usage], list[str], Loaded]:
    """Load, ask everything once, unload."""
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(**{"keep_cache": True, **options}), folder)
    sinks: list[Recorder] = [
        answer(runtime, Complete(prompt, Sampling(max_tokens=8, temperature=0))) for prompt in PROMPTS
    ]
    runtime.close()
    return [sink.done.usage for sink in sinks], [sink.text for sink in sinks], loaded


def cached(usages: list[Usage]) -> list[bool]:
    return [usage.cached_tokens > 0.9 * usage.prompt_tokens for usage in usages]


def test_the_same_model_finds_its_cache_again(folder: Path) -> None:
    assert CACHE_DIR == TOLD
    first, texts, loaded = asked(folder)
    assert loaded.closing_s > 1
    assert cached(first) == [False, False]
    for _ in range(2):
        again, same, _ = asked(folder)
        assert cached(again) == [True, True]
        assert same == texts
    (key,) = (folder / "cache" / "llama_cpp" / "m" / "1").iterdir()
    assert sorted(file.name for file in key.iterdir()) == ["slot-0.bin", "slot-1.bin", "slots.json"]
    assert key.stat().st_mode & 0o077 == 0


def test_without_the_option_nothing_is_kept(folder: Path) -> None:
    assert cached(asked(folder, keep_cache=False)[0]) == cached(asked(folder, keep_cache=False)[0]) == [False, False]
    assert not (folder / "cache").exists()


def test_a_changed_model_or_option_never_reads_an_old_cache(folder: Path) -> None:
    asked(folder)
    before = (folder / "model.gguf").stat()
    other = tiny_gguf(folder / "other.gguf", SIZE, seed=5)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(folder / "model.gguf")
    usages, texts, _ = asked(folder)
    assert cached(usages) == [False, False]
    assert asked(folder, keep_cache=False)[1] == texts
    assert cached(asked(folder, cache_type_k="f32", cache_type_v="f32")[0]) == [False, False]
    assert len(list((folder / "cache" / "llama_cpp" / "m" / "1").iterdir())) == 1  # old ones do not pile up


@pytest.mark.parametrize("damage", ["cut", "flip", "list", "gone"])
def test_a_damaged_cache_is_left_out(folder: Path, damage: str) -> None:
    _, texts, _ = asked(folder)
    (key,) = (folder / "cache" / "llama_cpp" / "m" / "1").iterdir()
    for file in key.glob("*.bin"):
        data = bytearray(file.read_bytes())
        if damage == "cut":
            file.write_bytes(data[:-100])
        elif damage == "flip":
            data[len(data) // 2] ^= 0xFF
            file.write_bytes(data)
        elif damage == "gone":
            file.unlink()
    if damage == "list":
        (key / "slots.json").write_text("[{]")
    usages, same, _ = asked(folder)
    assert cached(usages) == [False, False]
    assert same == texts
    assert cached(asked(folder)[0]) == [True, True]


@pytest.mark.parametrize(
    "options", [{"adapters": {"a": "a.gguf"}}, {"draft": {"artifact": "draft.gguf"}}], ids=["adapters", "draft"]
)
def test_what_does_not_go_together_is_named(folder: Path, options: dict[str, object]) -> None:
    tiny_lora(folder / "a.gguf", SIZE)
    shutil.copy(folder / "model.gguf", folder / "draft.gguf")
    with pytest.raises(InvalidManifest, match=f"cannot go with options.{next(iter(options))}"):
        asked(folder, **options)


def test_in_the_server_s_own_process_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_DIR)
    with pytest.raises(InvalidManifest, match="executor to runner"):
        asked(folder)


async def test_over_the_unloading_of_a_server(tmp_path: Path) -> None:
    home = tmp_path / "models" / "m" / "1"
    home.mkdir(parents=True)
    tiny_gguf(home / "model.gguf", SIZE)
    (home / "model.yaml").write_text(
        'name: m\nversion: "1"\nruntime: llama_cpp\nartifact: model.gguf\noptions: {keep_cache: true, parallel: 2}\n'
    )
    application = Application(
        Settings(models=(tmp_path / "models",), state_dir=tmp_path / "state", builtin_models=False)
    )
    request = Chat((Message("user", PROMPTS[0]),), Sampling(max_tokens=4, temperature=0))
    await application.models.open()
    seen = []
    try:
        for _ in range(2):
            generation = await application.inference.generate("m", request, Call("x", Principal("t", "k")))
            seen += [delta.usage async for delta in generation.deltas if isinstance(delta, Done)]
            await application.models.unload(application.models.resolve("m").ref)
    finally:
        await application.models.close()
    assert cached(seen) == [False, True]
