"""Guessing ahead with the llama_cpp runtime changes no answer."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from inference_engine.domain.errors import InvalidManifest, InvalidRequest, ModelLoadFailed
from inference_engine.domain.requests import Chat, Complete, Generate, JsonSchema, Message, Sampling
from inference_engine.domain.results import Delivered
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import Size, tiny_gguf
from tests.runtimes.conftest import GUIDE, Recorder, answer, delivered_of, llama_manifest

GREEDY = Sampling(max_tokens=60, temperature=0)
SCHEMA = JsonSchema(
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"]}
)
REQUESTS: tuple[Generate, ...] = (
    Chat((Message("user", "How do I add my own model?"),), GREEDY),
    Complete("The server", GREEDY, echo=True),
    Chat((Message("user", "Who are you?"),), GREEDY, constraint=SCHEMA),
    Chat((Message("user", "What is a route?"),), Sampling(max_tokens=40, temperature=0, repeat_penalty=1.2)),
    Chat((Message("user", "What is a route?"),), Sampling(max_tokens=60, temperature=0, stop=("the",))),
)
GUESSING = {
    "draft": {"draft": {"artifact": "draft.gguf"}},
    "ngram": {"ngram": {"match": 2, "max_tokens": 4}},
    "both": {"draft": {"artifact": "draft.gguf", "max_tokens": 3}, "ngram": {}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, which is its own draft: nearly every guess is right."""
    made = tmp_path_factory.mktemp("guessing")
    shutil.copy(GUIDE / "guide.gguf", made / "guide.gguf")
    shutil.copy(GUIDE / "guide.gguf", made / "draft.gguf")
    tiny_gguf(made / "other.gguf", Size())
    return made


@pytest.mark.parametrize("kind", GUESSING)
def test_the_answers_are_those_of_the_model_alone(guide: LlamaCppRuntime, folder: Path, kind: str) -> None:
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest("guide.gguf", **GUESSING[kind]), folder)
    question, first = Message("user", "Who are you?"), answer(guide, Chat((Message("user", "Who are you?"),), GREEDY))
    again = Chat((question, Message("assistant", first.text), question), GREEDY)  # repeats itself, as it was trained to
    for request in (*REQUESTS, again):
        plain, guessed = answer(guide, request), answer(runtime, request)
        assert guessed.text == plain.text
        assert guessed.done.reason == plain.done.reason
        assert guessed.done.usage.completion_tokens == plain.done.usage.completion_tokens
        assert [delta.tokens for delta in guessed.texts] == [delta.tokens for delta in plain.texts]
        rest = answer(runtime, request, delivered_of(plain.texts[:7]))
        assert rest.text == "".join(delta.text for delta in plain.texts[7:])
    assert runtime._gauges is not None
    runtime._gauges.refresh()
    gauges = runtime.gauges()
    runtime.close()
    assert gauges["draft_tokens"] > 0
    assert 0 < gauges["draft_accepted_tokens"] <= gauges["draft_tokens"]
    assert gauges["draft_acceptance_ratio"] == pytest.approx(gauges["draft_accepted_tokens"] / gauges["draft_tokens"])
    if kind == "draft":
        assert gauges["draft_acceptance_ratio"] > 0.8


def test_several_streams_guess_together(guide: LlamaCppRuntime, folder: Path) -> None:
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest("guide.gguf", draft={"artifact": "draft.gguf"}, parallel=3), folder)
    sinks = [Recorder() for _ in REQUESTS]
    room = threading.Semaphore(3)

    def ask(request: Generate, sink: Recorder) -> None:
        with room:
            runtime.generate(request, Delivered(), sink)

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(REQUESTS, sinks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runtime.close()
    for request, sink in zip(REQUESTS, sinks, strict=True):
        assert sink.text == answer(guide, request).text


def test_log_probabilities_are_refused(folder: Path) -> None:
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest("guide.gguf", ngram={}), folder)
    with pytest.raises(InvalidRequest, match="guesses ahead") as caught:
        answer(runtime, Complete("x", Sampling(logprobs=1)))
    runtime.close()
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"draft": {"artifact": "none.gguf"}}, ModelLoadFailed, "does not exist"),
        ({"draft": {"artifact": "other.gguf"}}, ModelLoadFailed, "cannot guess for this model"),
        ({"draft": {"artifact": "../x.gguf"}}, InvalidManifest, "inside the model's folder"),
        ({"draft": {"artifact": "draft.gguf", "max_tokens": 0}}, InvalidManifest, r"options\.draft\.max_tokens"),
        ({"draft": "draft.gguf"}, InvalidManifest, r"options\.draft"),
        ({"ngram": {"match": 0}}, InvalidManifest, r"options\.ngram\.match"),
        ({"ngram": {"match": 9, "max_tokens": 4}}, InvalidManifest, "must not be more than max_tokens"),
    ],
)
def test_bad_options_are_named(folder: Path, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LlamaCppRuntime().load(llama_manifest("guide.gguf", **options), folder)
