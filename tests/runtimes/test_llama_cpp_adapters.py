"""LoRA adapters of the llama_cpp runtime: what a request names is what answers, whatever was asked before."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_engine.domain.errors import InvalidManifest, InvalidRequest, ModelLoadFailed
from inference_engine.domain.requests import Complete, Sampling
from inference_engine.domain.results import Delivered
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import Size, tiny_gguf, tiny_lora
from tests.runtimes.conftest import Recorder, answer, delivered_of, llama_manifest

PROMPT = "the long prompt that all of them share, word for word, so that it would be found in a cache "
SIZE = Size(context=2048)
ADAPTERS = {"a": "a.gguf", "b": {"file": "b.gguf", "scale": 0.5}}
WHO = (None, "a", "b", None, "b", "a", "a", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    tiny_gguf(made / "model.gguf", SIZE)
    tiny_lora(made / "a.gguf", SIZE, seed=1)
    tiny_lora(made / "b.gguf", SIZE, seed=2)
    return made


def opened(folder: Path, **options: object) -> LlamaCppRuntime:
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(**{"adapters": ADAPTERS, "parallel": 3, **options}), folder)
    assert loaded.adapters == ("a", "b")
    return runtime


def asked(adapter: str | None, prompt: str = PROMPT) -> Complete:
    return Complete(prompt, Sampling(max_tokens=16, temperature=0, ignore_eos=True, logprobs=3), adapter=adapter)


def told(sink: Recorder) -> tuple[str, list[float]]:
    """The answer and its log probabilities, which would differ even where the words do not."""
    return sink.text, [round(p.chosen.logprob, 3) for delta in sink.texts for p in delta.logprobs]


@pytest.fixture(scope="module")
def fresh(folder: Path) -> dict[str | None, tuple[str, list[float]]]:
    """What each says on a server that was asked nothing before."""
    answers = {}
    for adapter in (None, "a", "b"):
        runtime = opened(folder)
        answers[adapter] = told(answer(runtime, asked(adapter)))
        runtime.close()
    bare = LlamaCppRuntime()
    bare.load(llama_manifest(), folder)
    assert told(answer(bare, asked(None))) == answers[None]  # without adapter the base is bare
    bare.close()
    assert len({text for text, _ in answers.values()}) == 3
    return answers


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LlamaCppRuntime]:
    runtime = opened(folder)
    yield runtime
    runtime.close()


def same(got: tuple[str, list[float]], wanted: tuple[str, list[float]]) -> None:
    assert got[0] == wanted[0]
    assert got[1] == pytest.approx(wanted[1], abs=0.02)


def test_in_turn_each_answers_as_on_a_fresh_server(
    shared: LlamaCppRuntime, fresh: dict[str | None, tuple[str, list[float]]]
) -> None:
    for adapter in WHO:
        same(told(answer(shared, asked(adapter))), fresh[adapter])


def test_other_prompts_in_between_bring_back_no_foreign_cache(
    folder: Path, fresh: dict[str | None, tuple[str, list[float]]]
) -> None:
    """The order that fails with llama.cpp's RAM cache: a prompt is put away under one adapter, wanted by another."""
    runtime = opened(folder, parallel=1)
    for before, after in itertools.permutations((None, "a", "b"), 2):
        answer(runtime, asked(before))
        answer(runtime, asked(after, f"Q{before}{after}: quite another text, as different as can be " * 3))
        same(told(answer(runtime, asked(after))), fresh[after])
    runtime.close()


def test_together_each_answers_as_on_a_fresh_server(
    shared: LlamaCppRuntime, fresh: dict[str | None, tuple[str, list[float]]]
) -> None:
    sinks = [(adapter, Recorder()) for adapter in WHO * 2]
    room = threading.Semaphore(3)

    def ask(adapter: str | None, sink: Recorder) -> None:
        with room:
            shared.generate(asked(adapter), Delivered(), sink)

    threads = [threading.Thread(target=ask, args=pair) for pair in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for adapter, sink in sinks:
        same(told(sink), fresh[adapter])


def test_the_same_prompt_is_found_in_the_cache_of_its_own_adapter(shared: LlamaCppRuntime) -> None:
    answer(shared, asked("a"))
    usage = answer(shared, asked("a")).done.usage
    assert usage.cached_tokens >= usage.prompt_tokens - 1
    assert answer(shared, asked("b")).done.usage.cached_tokens == 0


def test_a_cut_answer_is_continued_by_its_adapter(shared: LlamaCppRuntime) -> None:
    whole = answer(shared, asked("b"))
    answer(shared, asked(None))
    rest = answer(shared, asked("b"), delivered_of(whole.texts[:5]))
    assert rest.text == "".join(delta.text for delta in whole.texts[5:])


def test_an_unknown_adapter_is_refused(shared: LlamaCppRuntime) -> None:
    with pytest.raises(InvalidRequest, match="known adapters: a, b"):
        answer(shared, asked("c"))


def test_scale_0_is_the_base(folder: Path, fresh: dict[str | None, tuple[str, list[float]]]) -> None:
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(adapters={"off": {"file": "a.gguf", "scale": 0}}), folder)
    same(told(answer(runtime, asked("off"))), fresh[None])
    runtime.close()


@pytest.mark.parametrize(
    ("adapters", "error", "message"),
    [
        ({"x": "missing.gguf"}, ModelLoadFailed, "does not exist"),
        ({"x": "../a.gguf"}, InvalidManifest, "inside the model's folder"),
        ({"x y": "a.gguf"}, InvalidManifest, "not a valid name"),
        ({"x": {"file": "a.gguf", "strength": 1}}, InvalidManifest, "options.adapters"),
        (["a.gguf"], InvalidManifest, "options.adapters"),
        ({"x": "model.gguf"}, ModelLoadFailed, "not a LoRA adapter"),
        ({"x": "cut.gguf"}, ModelLoadFailed, "truncated"),
        ({"x": "noise.gguf"}, ModelLoadFailed, "not a usable GGUF"),
        ({"x": "wide.gguf"}, ModelLoadFailed, "made for another base model"),
        ({"x": "deep.gguf"}, ModelLoadFailed, "the base has no tensor 'blk.2"),
        ({"x": "llama.gguf"}, ModelLoadFailed, "it is of llama, the base of qwen3"),
    ],
)
def test_bad_adapters_are_named(
    folder: Path, tmp_path: Path, adapters: object, error: type[Exception], message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    whole = (folder / "a.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.gguf").write_bytes(b"no model")
    tiny_lora(tmp_path / "wide.gguf", Size(hidden=96))
    tiny_lora(tmp_path / "deep.gguf", Size(layers=3))
    tiny_lora(tmp_path / "llama.gguf", SIZE, architecture="llama")
    with pytest.raises(error, match=message) as caught:
        LlamaCppRuntime().load(llama_manifest(adapters=adapters), tmp_path)
    assert "adapters" in (getattr(caught.value, "param", "") or "")
