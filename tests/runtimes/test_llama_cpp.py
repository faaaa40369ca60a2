"""The llama_cpp runtime against the real library."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InvalidManifest,
    InvalidRequest,
    UnsupportedTask,
)
from inference_engine.domain.requests import Chat, Complete, JsonSchema, Message, Sampling
from inference_engine.domain.results import Delivered, Delta, TextDelta
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import tiny_gguf
from tests.runtimes.conftest import GUIDE, Recorder, answer, delivered_of, llama_manifest

GREEDY = Sampling(max_tokens=60, temperature=0)
QUESTION = (Message("user", "How do I add my own model?"),)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
        "scores": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "scores"],
}


def test_load_reports_what_the_model_can_do() -> None:
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest("guide.gguf", context_length=500, parallel=3), GUIDE)
    runtime.close()
    assert loaded.kinds == ("chat", "complete")
    assert loaded.concurrency == 3
    assert loaded.context_length == 512  # rounded up by llama.cpp to a multiple of 256
    assert loaded.details["parameters"] > 1_000_000
    assert loaded.details["library"].startswith("xllamacpp ")


def test_greedy_chat_equals_llama_cpp_s_own_chat_completions(guide: LlamaCppRuntime) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION[0].content}], "max_tokens": 60, "temperature": 0}
    theirs = guide._server.handle_chat_completions(body)
    ours = answer(guide, Chat(QUESTION, GREEDY))
    assert ours.text == theirs["choices"][0]["message"]["content"]
    assert ours.text
    assert ours.done.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]
    assert ours.done.usage.completion_tokens == theirs["usage"]["completion_tokens"]
    assert ours.done.reason == theirs["choices"][0]["finish_reason"]


def test_every_delta_of_plain_text_carries_its_token_ids(guide: LlamaCppRuntime) -> None:
    sink = answer(guide, Chat(QUESTION, GREEDY))
    for delta in sink.texts:
        assert delta.tokens
    detokenized = guide._http._call("POST", "/detokenize", {"tokens": [t for d in sink.texts for t in d.tokens]})
    assert detokenized["content"] == sink.text


@pytest.mark.parametrize(
    "request_",
    [
        Chat(QUESTION, GREEDY),
        Complete("The server", GREEDY),
        Complete("The server", GREEDY, echo=True),
        Chat(QUESTION, Sampling(max_tokens=60, temperature=0, repeat_penalty=1.3, presence_penalty=0.5)),
        Chat(QUESTION, GREEDY, constraint=JsonSchema(PERSON)),
        Complete("A person: ", GREEDY, constraint=JsonSchema(PERSON)),
    ],
    ids=["chat", "complete", "echo", "penalties", "chat-schema", "complete-schema"],
)
def test_an_answer_cut_anywhere_continues_exactly(guide: LlamaCppRuntime, request_: Chat | Complete) -> None:
    whole = answer(guide, request_)
    assert len(whole.texts) > 10
    for cut in range(len(whole.texts) + 1):
        rest = answer(guide, request_, delivered_of(whole.texts[:cut]))
        assert rest.texts == whole.texts[cut:]
        assert rest.done.reason == whole.done.reason
        assert rest.done.usage.completion_tokens == whole.done.usage.completion_tokens
        assert rest.done.usage.prompt_tokens == whole.done.usage.prompt_tokens


def test_stop_strings_are_not_given_out_and_cuts_before_them_continue(guide: LlamaCppRuntime) -> None:
    plain = answer(guide, Chat(QUESTION, GREEDY)).text
    stop = plain[20:26]
    request = Chat(QUESTION, Sampling(max_tokens=60, temperature=0, stop=("zzz", stop)))
    whole = answer(guide, request)
    assert whole.text == plain[: plain.index(stop)]
    assert whole.done.reason == "stop"
    for cut in range(len(whole.texts)):
        assert answer(guide, request, delivered_of(whole.texts[:cut])).text == "".join(
            delta.text for delta in whole.texts[cut:]
        )


def test_a_seed_repeats_and_another_seed_differs(guide: LlamaCppRuntime) -> None:
    def text(seed: int, delivered: Delivered = Delivered()) -> str:  # noqa: B008  frozen
        request = Chat(QUESTION, Sampling(max_tokens=30, temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed))
        return answer(guide, request, delivered).text

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, -1, 2**63)}) > 1
    cut = Delivered("Put", (tuple(guide.token_ids("Put")),))
    assert text(7, cut) == text(7, cut)


def test_logprobs_name_the_chosen_token_and_the_best_others(guide: LlamaCppRuntime) -> None:
    sink = answer(guide, Chat(QUESTION, Sampling(max_tokens=8, temperature=0, logprobs=3)))
    positions = [position for delta in sink.texts for position in delta.logprobs]
    assert b"".join(position.chosen.raw for position in positions).decode() == sink.text
    for position in positions:
        assert len(position.top) == 3
        assert position.top[0].logprob == pytest.approx(position.chosen.logprob)  # greedy takes the best
        assert position.top[0].logprob >= position.top[1].logprob >= position.top[2].logprob
        assert sum(math.exp(top.logprob) for top in position.top) <= 1.0001
    chosen_only = answer(guide, Chat(QUESTION, Sampling(max_tokens=8, temperature=0, logprobs=0)))
    assert [p.chosen for d in chosen_only.texts for p in d.logprobs] == [p.chosen for p in positions]
    assert not any(p.top for d in chosen_only.texts for p in d.logprobs)


def test_logit_bias_forces_and_bans_tokens(guide: LlamaCppRuntime) -> None:
    first = answer(guide, Chat(QUESTION, Sampling(max_tokens=1, temperature=0))).texts[0].tokens[0]
    other = (first + 1) % guide.size
    forced = answer(guide, Chat(QUESTION, Sampling(max_tokens=1, temperature=0, logit_bias={other: 100.0})))
    assert forced.done.usage.completion_tokens == 1
    banned = answer(guide, Chat(QUESTION, Sampling(max_tokens=1, temperature=0, logit_bias={first: -100.0})))
    assert banned.texts[0].tokens != (first,)
    with pytest.raises(InvalidRequest, match="logit_bias names token") as caught:
        answer(guide, Chat(QUESTION, Sampling(logit_bias={guide.size: 1.0})))
    assert caught.value.param == "logit_bias"


def test_ignore_eos_fills_the_length(guide: LlamaCppRuntime) -> None:
    sink = answer(guide, Chat(QUESTION, Sampling(max_tokens=200, temperature=0, ignore_eos=True)))
    assert (sink.done.reason, sink.done.usage.completion_tokens) == ("length", 200)


def test_without_max_tokens_the_answer_ends_with_the_context(random_folder: Path) -> None:
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(context_length=256), random_folder)
    sink = answer(runtime, Complete("abc", Sampling(temperature=0, ignore_eos=True)))
    runtime.close()
    usage = sink.done.usage
    assert sink.done.reason == "length"
    assert usage.prompt_tokens + usage.completion_tokens == loaded.context_length


@pytest.mark.parametrize("max_tokens", [None, 5])
def test_a_prompt_that_is_too_long_names_its_size_and_the_limit(
    random_model: LlamaCppRuntime, max_tokens: int | None
) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"(?s)prompt has \d+ tokens.*8192") as caught:
        answer(random_model, Complete("abc " * 9000, Sampling(max_tokens=max_tokens)))
    assert caught.value.param == "prompt"


def test_prompt_and_max_tokens_must_fit_together(random_model: LlamaCppRuntime) -> None:
    with pytest.raises(ContextLengthExceeded, match="max_tokens is 8192") as caught:
        answer(random_model, Chat(QUESTION, Sampling(max_tokens=8192)))
    assert caught.value.param == "messages"


def test_a_shared_prompt_is_found_in_the_cache(guide: LlamaCppRuntime) -> None:
    request = Complete("A rather long prompt that will be asked twice in a row, word for word.", Sampling(max_tokens=1))
    answer(guide, request)
    usage = answer(guide, request).done.usage
    assert usage.cached_tokens >= usage.prompt_tokens - 1


def test_cancelling_in_decode_stops_at_once(random_model: LlamaCppRuntime) -> None:
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    started = time.monotonic()
    random_model.generate(Complete("abc", Sampling(temperature=0, ignore_eos=True)), Delivered(), sink)
    assert len(sink.deltas) == 3
    assert not any(type(delta).__name__ == "Done" for delta in sink.deltas)
    assert time.monotonic() - started < 2


def test_cancelling_in_prefill_stops_between_batches(random_model: LlamaCppRuntime) -> None:
    prompt = Complete("xq" * 3900, Sampling(max_tokens=1))  # 122 batches of 64 tokens
    looks: list[int] = []

    def after_ten(_: list[Delta]) -> bool:
        looks.append(1)
        return len(looks) >= 10

    sink = Recorder(after_ten)
    random_model.generate(prompt, Delivered(), sink)
    assert sink.deltas == []
    assert 10 <= len(looks) <= 12
    assert answer(random_model, prompt).done.usage.cached_tokens < 2000  # the rest was never computed


def test_generations_run_together(guide: LlamaCppRuntime) -> None:
    alone = answer(guide, Chat(QUESTION, GREEDY)).text
    sinks = [Recorder() for _ in range(2)]
    threads = [
        threading.Thread(target=guide.generate, args=(Chat(QUESTION, GREEDY), Delivered(), sink)) for sink in sinks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sink.text for sink in sinks] == [alone, alone]


def test_what_the_sink_raises_reaches_the_caller(guide: LlamaCppRuntime) -> None:
    class Broken(Recorder):
        def emit(self, *deltas: Delta) -> None:
            raise OSError("the pipe is closed")

    with pytest.raises(OSError, match="the pipe is closed"):
        guide.generate(Chat(QUESTION, GREEDY), Delivered(), Broken())


@pytest.mark.parametrize(
    "messages",
    [
        (Message("system", ""), Message("user", "")),
        (Message("tool", "42", "calculator"), Message("user", "and?")),
        (Message("user", "x"), Message("assistant", "The answer")),
        (Message("assistant", "one"), Message("user", "two", "ann")),
        (Message("user", "\x00\ud7ff\U0010ffff{{ 1/0 }}{% raw %}<|im_end|>"),),
    ],
)
def test_odd_messages_are_answered(guide: LlamaCppRuntime, messages: tuple[Message, ...]) -> None:
    assert answer(guide, Chat(messages, Sampling(max_tokens=4))).done.usage.prompt_tokens > 0


def test_an_empty_prompt_is_refused(random_model: LlamaCppRuntime) -> None:
    with pytest.raises(InvalidRequest, match="prompt holds no tokens") as caught:
        answer(random_model, Complete(""))
    assert caught.value.param == "prompt"


def test_a_template_that_refuses_is_the_request_s_fault(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words here') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    tiny_gguf(tmp_path / "model.gguf", template=None)
    (tmp_path / "chat.jinja").write_text(template)
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(chat_template="chat.jinja"), tmp_path)
    assert "chat" in loaded.kinds
    with pytest.raises(InvalidRequest, match="no bad words here") as caught:
        answer(runtime, Chat((Message("user", "a bad word"),)))
    assert caught.value.param == "messages"
    assert answer(runtime, Chat((Message("user", "y"),), Sampling(max_tokens=1))).done.usage.prompt_tokens == 1
    runtime.close()


def test_a_model_without_template_only_completes(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf", template=None)
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(), tmp_path)
    with pytest.raises(UnsupportedTask, match="no chat template"):
        answer(runtime, Chat(QUESTION))
    with pytest.raises(UnsupportedTask, match="generates text"):
        runtime.run({})
    runtime.close()
    assert loaded.kinds == ("complete",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctx": 5}, "options.ctx is not an option"),
        ({"context_length": 0}, "options.context_length"),
        ({"context_length": "big"}, "options.context_length"),
        ({"context_length": 100000}, "trained for 8192"),
        ({"flash_attention": "maybe"}, "options.flash_attention"),
        ({"chat_template": "../x.jinja"}, "options.chat_template"),
    ],
)
def test_a_bad_option_is_named(random_folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        LlamaCppRuntime().load(llama_manifest(**options), random_folder)


def test_answers_bound_to_a_schema_are_valid(guide: LlamaCppRuntime) -> None:
    for schema in (PERSON, {}, {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}):
        request = Chat(
            QUESTION, Sampling(max_tokens=300, temperature=0, repeat_penalty=1.2), constraint=JsonSchema(schema)
        )
        sink = answer(guide, request)
        value = json.loads(sink.text) if sink.done.reason == "stop" else {}
        if schema == PERSON:
            assert value.keys() == PERSON["properties"].keys()
            assert 0 <= value["age"] <= 120


def test_a_process_that_closed_its_runtime_ends_cleanly() -> None:
    code = f"""
from pathlib import Path
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from inference_engine.domain.model import Manifest
from inference_engine.domain.requests import Complete
from inference_engine.domain.results import Delivered
class Sink:
    cancelled = False
    def emit(self, *deltas): pass
runtime = LlamaCppRuntime()
runtime.load(Manifest("m", "1", "llama_cpp", "guide.gguf", options={{"parallel": 1}}), Path({str(GUIDE)!r}))
runtime.generate(Complete("Hello"), Delivered(), Sink())
folder = runtime._folder
assert folder.stat().st_mode & 0o777 == 0o700
runtime.close()
assert not folder.exists()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_characters_of_several_tokens_come_whole(random_model: LlamaCppRuntime) -> None:
    text = "é漢🙂"
    assert len(random_model.token_ids(text)) > len(text)
    sink = answer(random_model, Complete(text, Sampling(max_tokens=40, temperature=0)))
    assert all(isinstance(delta, TextDelta) and delta.text for delta in sink.texts)
    assert sink.done.usage.completion_tokens == 40
