"""The openvino runtime against the real library, beside llama_cpp on the same files."""

from __future__ import annotations

import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    UnsupportedTask,
)
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.requests import (
    Chat,
    Complete,
    Constraint,
    Grammar,
    JsonSchema,
    Message,
    Regex,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)
from inference_engine.domain.results import Delivered, Delta, Done, ReasoningDelta, ToolCallDelta
from inference_engine.infra.formats.gguf import read_head
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from inference_engine.infra.runtimes.openvino.model_files import read_facts
from inference_engine.infra.runtimes.openvino.stream import Plan, Stream
from inference_engine.infra.runtimes.openvino.vocabulary import MERGES, TOKENS, TYPES, GgufVocabulary
from inference_engine.infra.text.answers import AnswerForm
from inference_engine.infra.text.reading import AnswerReader
from tests.fixtures.agent import AGENT, TOOLS
from tests.fixtures.tiny_gguf import Size, tiny_gguf
from tests.runtimes.conftest import GUIDE, Recorder, answer, delivered_of, llama_manifest

pytest.importorskip(
    "openvino_genai", reason="openvino-genai is not installed: pip install 'inference-engine[openvino]'"
)
from inference_engine.infra.runtimes.openvino import OpenvinoRuntime

pytestmark = pytest.mark.slow

GREEDY = Sampling(max_tokens=40, temperature=0)
QUESTION = (Message("user", "How do I add my own model?"),)
SMALL = Size(hidden=128, head_dim=32, feed_forward=256, context=4096)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
}


def openvino_manifest(artifact: str = "model.gguf", **options: object) -> Manifest:
    return Manifest("m", "1", "openvino", artifact, execution=Execution(threads=1), options={"parallel": 4, **options})


@pytest.fixture(scope="module")
def ours() -> Iterator[OpenvinoRuntime]:
    runtime = OpenvinoRuntime()
    runtime.load(openvino_manifest("guide.gguf"), GUIDE)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    tiny_gguf(folder / "model.gguf", SMALL, q8=True)
    return folder


@pytest.fixture(scope="module")
def small(small_folder: Path) -> Iterator[OpenvinoRuntime]:
    runtime = OpenvinoRuntime()
    runtime.load(openvino_manifest(max_num_batched_tokens=64), small_folder)
    yield runtime
    runtime.close()


# -- the same answers as llama.cpp ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Chat(QUESTION, GREEDY),
        Complete("The server", GREEDY),
        Complete("The server", GREEDY, echo=True),
        Chat(QUESTION, Sampling(max_tokens=40, temperature=0, ignore_eos=True)),
    ],
    ids=["chat", "complete", "echo", "ignore-eos"],
)
def test_greedy_answers_equal_llama_cpp_s(
    ours: OpenvinoRuntime, guide: LlamaCppRuntime, request_: Chat | Complete
) -> None:
    mine, theirs = answer(ours, request_), answer(guide, request_)
    assert mine.text == theirs.text
    assert mine.text
    assert mine.done.reason == theirs.done.reason
    assert mine.done.usage.prompt_tokens == theirs.done.usage.prompt_tokens
    assert mine.done.usage.completion_tokens == theirs.done.usage.completion_tokens


def test_logprobs_are_close_to_llama_cpp_s(ours: OpenvinoRuntime, guide: LlamaCppRuntime) -> None:
    request = Chat(QUESTION, Sampling(max_tokens=40, temperature=0, logprobs=0))
    mine, theirs = ([p for d in answer(runtime, request).texts for p in d.logprobs] for runtime in (ours, guide))
    assert [position.chosen.raw for position in mine] == [position.chosen.raw for position in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=0.05)


@pytest.mark.parametrize(("head_dim", "seed"), [(32, 2), (64, 64)])
def test_a_qwen3_of_other_head_width_answers_as_llama_cpp(tmp_path: Path, head_dim: int, seed: int) -> None:
    tiny_gguf(tmp_path / "model.gguf", Size(hidden=128, head_dim=head_dim, feed_forward=256), q8=True, seed=seed)
    request = Complete("the server and", Sampling(max_tokens=8, temperature=0, logprobs=0))
    positions = []
    for runtime, manifest in ((OpenvinoRuntime(), openvino_manifest()), (LlamaCppRuntime(), llama_manifest())):
        runtime.load(manifest, tmp_path)
        positions.append([p.chosen for d in answer(runtime, request).texts for p in d.logprobs])
        runtime.close()
    assert len(positions[1]) >= 2  # llama.cpp leaves out tokens that end inside a character
    for one, other in zip(*positions, strict=False):
        assert one.raw == other.raw
        assert one.logprob == pytest.approx(other.logprob, abs=0.1)


@pytest.mark.parametrize(
    "text",
    [
        "How do I add 1234 models?",
        "Hello, world! It's 10:30\n\n\tand don't WE'LL   see",
        "é漢🙂 naïve ```py\ndef f(x): return x**2```",
        "<|im_start|>user\nhi<|im_end|>\n",
        "   leading\r\nand  trailing   ",
        "\x00\U0010ffff",
    ],
)
def test_text_is_split_as_llama_cpp_splits_it(ours: OpenvinoRuntime, guide: LlamaCppRuntime, text: str) -> None:
    assert ours.tokenize(Complete(text)) == guide.tokenize(Complete(text))
    assert ours._vocabulary.encode(text, special=False) == guide.token_ids(text)


# -- continuing, cancelling, together ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Chat(QUESTION, GREEDY),
        Complete("The server", GREEDY, echo=True),
        Chat(QUESTION, Sampling(max_tokens=40, temperature=0, repeat_penalty=1.3)),
        Chat(QUESTION, GREEDY, constraint=JsonSchema(PERSON)),
    ],
    ids=["chat", "echo", "penalty", "schema"],
)
def test_an_answer_cut_anywhere_continues_exactly(ours: OpenvinoRuntime, request_: Chat | Complete) -> None:
    whole = answer(ours, request_)
    assert len(whole.texts) > 10
    for cut in range(0, len(whole.texts) + 1, 3):
        rest = answer(ours, request_, delivered_of(whole.texts[:cut]))
        assert rest.texts == whole.texts[cut:]
        assert rest.done == whole.done


def test_every_delta_carries_exactly_the_tokens_of_its_text(small: OpenvinoRuntime) -> None:
    sink = answer(small, Complete("é漢🙂", Sampling(max_tokens=200, temperature=2.0, top_k=0, seed=3)))
    for delta in sink.texts:
        assert b"".join(map(small._vocabulary.piece, delta.tokens)).decode(errors="replace") == delta.text


def test_stop_strings_are_not_given_out_and_cuts_before_them_continue(ours: OpenvinoRuntime) -> None:
    plain = answer(ours, Chat(QUESTION, GREEDY)).text
    stop = plain[20:26]
    request = Chat(QUESTION, Sampling(max_tokens=40, temperature=0, stop=("zzz", stop)))
    whole = answer(ours, request)
    assert whole.text == plain[: plain.index(stop)]
    assert whole.done.reason == "stop"
    for cut in range(len(whole.texts)):
        assert answer(ours, request, delivered_of(whole.texts[:cut])).text == "".join(d.text for d in whole.texts[cut:])


def test_a_seed_repeats_and_another_seed_differs(small: OpenvinoRuntime) -> None:
    def text(seed: int) -> str:
        return answer(
            small, Complete("abc", Sampling(max_tokens=30, temperature=1.5, top_k=0, top_p=1, seed=seed))
        ).text

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, -1, 2**63)}) > 1


@pytest.mark.parametrize("narrowing", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}])
def test_narrowing_sampling_fully_is_greedy(small: OpenvinoRuntime, narrowing: dict[str, float]) -> None:
    greedy = answer(small, Complete("abc", Sampling(max_tokens=12, temperature=0))).text
    sampling = Sampling(max_tokens=12, temperature=2.0, seed=1, **narrowing)  # type: ignore[arg-type]
    assert answer(small, Complete("abc", sampling)).text == greedy


def test_many_generations_run_together_and_answer_alike(ours: OpenvinoRuntime) -> None:
    alone = answer(ours, Chat(QUESTION, GREEDY)).text
    sinks = [Recorder() for _ in range(4)]
    threads = [
        threading.Thread(target=ours.generate, args=(Chat(QUESTION, GREEDY), Delivered(), sink)) for sink in sinks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sink.text for sink in sinks] == [alone] * 4


def test_cancelling_in_decode_stops_within_a_token(small: OpenvinoRuntime) -> None:
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    small.generate(Complete("abc", Sampling(temperature=0, ignore_eos=True)), Delivered(), sink)
    assert 3 <= len(sink.deltas) <= 4
    assert not any(type(delta).__name__ == "Done" for delta in sink.deltas)
    assert answer(small, Complete("abc", Sampling(max_tokens=1))).done.usage.completion_tokens == 1


def test_cancelling_in_prefill_stops_between_batches(small: OpenvinoRuntime) -> None:
    looks: list[int] = []

    def after_five(_: list[Delta]) -> bool:
        looks.append(1)
        return len(looks) >= 5

    sink = Recorder(after_five)
    small.generate(Complete("xq" * 1900, Sampling(max_tokens=1)), Delivered(), sink)  # 60 batches of 64 tokens
    assert sink.deltas == []
    assert len(looks) == 5


def test_what_the_sink_raises_reaches_the_caller_and_others_go_on(small: OpenvinoRuntime) -> None:
    class Broken(Recorder):
        def emit(self, *deltas: Delta) -> None:
            raise OSError("the pipe is closed")

    with pytest.raises(OSError, match="the pipe is closed"):
        small.generate(Complete("abc", GREEDY), Delivered(), Broken())
    assert answer(small, Complete("abc", GREEDY)).done.usage.completion_tokens == 40


def test_a_failed_step_fails_its_request_and_the_next_is_answered(small: OpenvinoRuntime) -> None:
    import openvino_genai

    stepper = small._stepper
    broken = openvino_genai.StructuredOutputConfig(grammar='root ::= "never closed')
    values = {"max_new_tokens": 4, "structured_output_config": broken, "apply_chat_template": False}
    stream = Stream(Plan(3, 0, 0, logprobs=False), small._vocabulary, AnswerReader(AnswerForm()), Recorder())
    with pytest.raises(InferenceFailed, match="OpenVINO failed"):
        stepper.generate([40, 41, 42], values, stream, Recorder())
    assert answer(small, Complete("abc", GREEDY)).done.usage.completion_tokens == 40


def test_a_failed_step_leaves_the_running_answers_whole(small: OpenvinoRuntime) -> None:
    import openvino_genai

    request = Complete("the server", Sampling(max_tokens=400, temperature=0, ignore_eos=True))
    whole = answer(small, request)
    sink = Recorder()
    running = threading.Thread(target=small.generate, args=(request, Delivered(), sink))
    running.start()
    while len(sink.deltas) < 20:
        time.sleep(0.001)
    broken = openvino_genai.StructuredOutputConfig(grammar='root ::= "never closed')
    values = {"max_new_tokens": 4, "structured_output_config": broken, "apply_chat_template": False}
    stream = Stream(Plan(3, 0, 0, logprobs=False), small._vocabulary, AnswerReader(AnswerForm()), Recorder())
    with pytest.raises(InferenceFailed, match="OpenVINO failed"):
        small._stepper.generate([40, 41, 42], values, stream, Recorder())
    running.join(60)
    assert sink.text == whole.text
    assert sink.done == whole.done


# -- limits and refusals ----------------------------------------------------------------------------------------------


def test_over_long_requests_are_refused_before_anything_is_computed(small: OpenvinoRuntime) -> None:
    started = time.monotonic()
    with pytest.raises(ContextLengthExceeded, match=r"prompt has \d+ tokens.*4096") as caught:
        answer(small, Complete("xq" * 9000))
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthExceeded, match="max_tokens is 4096") as caught:
        answer(small, Chat(QUESTION, Sampling(max_tokens=4096)))
    assert caught.value.param == "messages"
    assert time.monotonic() - started < 2


def test_without_max_tokens_the_answer_ends_with_the_context(small_folder: Path) -> None:
    runtime = OpenvinoRuntime()
    loaded = runtime.load(openvino_manifest(context_length=100), small_folder)
    usage = answer(runtime, Complete("abc", Sampling(temperature=0, ignore_eos=True))).done.usage
    runtime.close()
    assert usage.prompt_tokens + usage.completion_tokens == loaded.context_length == 100


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(presence_penalty=0.5), "presence_penalty"),
        (Sampling(frequency_penalty=0.5), "frequency_penalty"),
        (Sampling(logit_bias={1: 1.0}), "logit_bias"),
        (Sampling(logprobs=2), "top_logprobs"),
        (Sampling(typical_p=0.5), "typical_p"),
        (Sampling(repeat_last_n=64), "repeat_last_n"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(small: OpenvinoRuntime, sampling: Sampling, field: str) -> None:
    with pytest.raises(UnsupportedTask, match=field) as caught:
        answer(small, Complete("abc", sampling))
    assert caught.value.param == field


def test_other_requests_are_refused_by_name(small: OpenvinoRuntime) -> None:
    for request, field in (
        (Complete("abc", suffix="xyz"), "suffix"),
        (Complete("abc", adapter="a"), "model"),
        (Complete(""), "prompt"),
        (Complete((1, 2, 512)), "prompt"),
        (Chat(QUESTION, Sampling(ignore_eos=True), constraint=JsonSchema(PERSON)), "ignore_eos"),
        (Chat(QUESTION, constraint=Grammar('root ::= "never closed')), "response_format"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            answer(small, request)
        assert caught.value.param == field


def test_token_ids_are_a_prompt(small: OpenvinoRuntime) -> None:
    ids = small.tokenize(Complete("the server"))
    by_ids, by_text = (answer(small, Complete(prompt, GREEDY, echo=True)) for prompt in (ids, "the server"))
    assert by_ids.text == by_text.text
    assert by_ids.text.startswith("the server")


def test_answers_bound_to_a_schema_are_valid(ours: OpenvinoRuntime) -> None:
    for schema in (PERSON, {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}):
        request = Chat(
            QUESTION, Sampling(max_tokens=300, temperature=0, repeat_penalty=1.2), constraint=JsonSchema(schema)
        )
        sink = answer(ours, request)
        value = json.loads(sink.text) if sink.done.reason == "stop" else {}
        if schema == PERSON:
            assert value.keys() == PERSON["properties"].keys()


@pytest.mark.parametrize(
    ("constraint", "matches"),
    [
        (Regex(r"[A-Z]{2}-\d{3}(a|b\")?"), r'[A-Z]{2}-\d{3}(a|b")?'),
        (Grammar('root ::= "yes" | "no" tail\ntail ::= "\\x22a" [0-9]{2}'), r'yes|no"a\d{2}'),
    ],
)
def test_answers_fit_regular_expressions_and_grammars(
    small: OpenvinoRuntime, constraint: Constraint, matches: str
) -> None:
    for seed in range(4):
        sampling = Sampling(max_tokens=60, temperature=2.0, top_k=0, top_p=1, min_p=0, seed=seed)
        sink = answer(small, Complete("abc", sampling, constraint=constraint))
        assert re.fullmatch(matches, sink.text), sink.text
        assert sink.done.reason == "stop"


# -- tools and thoughts: the weights are random, all is by force -------------------------------------------------------

TOOLS_TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool.function | tojson }}
{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == "tool" %}<tool_response>
{{ message.content }}
</tool_response>{% else %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}{% endif %}"""
ADD = Tool(
    "add",
    "A sum.",
    {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ['x"y', "é"]}}, "required": ["a", "b"]},
)


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenvinoRuntime]:
    folder = tmp_path_factory.mktemp("tooled")
    tiny_gguf(folder / "model.gguf", SMALL, q8=True, template=TOOLS_TEMPLATE)
    runtime = OpenvinoRuntime()
    runtime.load(openvino_manifest(), folder)
    yield runtime
    runtime.close()


def test_a_forced_tool_call_fits_its_schema_and_continues_when_cut(tooled: OpenvinoRuntime) -> None:
    request = Chat(
        QUESTION,
        Sampling(max_tokens=120, temperature=0),
        tools=(ADD,),
        tool_choice=ToolChoice("required", parallel=False),
        reasoning="none",
    )
    whole = answer(tooled, request)
    calls = [delta for delta in whole.deltas if isinstance(delta, ToolCallDelta)]
    assert whole.done.reason == "tool_calls"
    assert calls[0].name == "add"
    arguments = json.loads("".join(delta.text for delta in calls))
    assert arguments["a"] in (1, 2)
    assert arguments["b"] in ('x"y', "é")
    written = [delta for delta in whole.deltas if not isinstance(delta, Done)]
    for cut in range(len(written) + 1):
        pieces = tuple(delta.tokens or delta.raw or delta.text for delta in written[:cut])
        before = Delivered("".join(delta.raw or delta.text for delta in written[:cut]), pieces)
        rest = answer(tooled, request, before)
        both = [delta.text for delta in (*written[:cut], *rest.deltas) if isinstance(delta, ToolCallDelta)]
        assert json.loads("".join(both)) == arguments
        assert rest.done.reason == "tool_calls"


def test_a_thought_is_read_as_one_and_counted(tooled: OpenvinoRuntime) -> None:
    request = Chat(QUESTION, Sampling(max_tokens=40, temperature=0), constraint=Regex("(yes|no)"))
    thought = answer(tooled, request)
    assert all(isinstance(delta, ReasoningDelta) for delta in thought.deltas[:-1])
    assert thought.done.usage.reasoning_tokens > 30
    silent = answer(tooled, Chat(QUESTION, GREEDY, constraint=Regex("(yes|no)"), reasoning="none"))
    assert silent.text in ("yes", "no")
    assert silent.done.usage.reasoning_tokens == 0


@pytest.mark.parametrize("choice", [ToolChoice(), ToolChoice("required"), ToolChoice("required", name="calculate")])
def test_a_trained_model_calls_tools_as_on_llama_cpp(choice: ToolChoice) -> None:
    request = Chat((Message("user", "What is the weather in Rome?"),), GREEDY, tools=TOOLS, tool_choice=choice)
    answers = []
    for runtime, manifest in (
        (OpenvinoRuntime(), openvino_manifest("agent.gguf")),
        (LlamaCppRuntime(), llama_manifest("agent.gguf")),
    ):
        runtime.load(manifest, AGENT.parent)
        gathered = Answer()
        for delta in answer(runtime, request).deltas:
            gathered.add(delta)
        runtime.close()
        calls = [(call.name, call.arguments) for call in gathered.tool_calls]
        answers.append((gathered.text, gathered.reasoning, calls, gathered.reason))
    assert answers[0] == answers[1]
    assert answers[0][2] or choice.mode == "auto" or answers[0][3] == "length"  # a thought may use up all tokens


def test_a_template_is_given_tools_and_past_calls(tooled: OpenvinoRuntime) -> None:
    past = (
        *QUESTION,
        Message("assistant", "", tool_calls=(ToolCall("1", "add", '{"a": 1, "b": "é"}'),)),
        Message("tool", "2", tool_call_id="1"),
    )
    text, _ = tooled._rendered(Chat(past, tools=(ADD,)))
    assert '{"name": "add", "arguments": {"a": 1, "b": "é"}}' in text
    assert '"description": "A sum."' in text
    assert "<tool_response>\n2\n</tool_response>" in text


def test_the_cache_shows_in_the_gauges(small: OpenvinoRuntime) -> None:
    answer(small, Complete("xq" * 500, Sampling(max_tokens=2)))
    assert 0 < small.gauges()["kv_cache_usage_ratio"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctx": 5}, "options.ctx is not an option"),
        ({"context_length": 100000}, "trained for 4096"),
        ({"max_num_batched_tokens": 4}, "more than options.parallel"),
        ({"precision": "i4"}, "options.precision"),
        ({"kv_cache_mib": 1}, "needs 3"),
        ({"chat_template": "../x.jinja"}, "options.chat_template"),
    ],
)
def test_a_bad_option_is_named(small_folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises((InvalidManifest), match=message):
        OpenvinoRuntime().load(openvino_manifest(**options), small_folder)


def test_it_does_not_run_in_the_server_s_own_process(small_folder: Path) -> None:
    manifest = msgspec.structs.replace(openvino_manifest(), execution=Execution(executor="thread"))
    with pytest.raises(InvalidManifest, match=r"execution\.executor"):
        OpenvinoRuntime().load(manifest, small_folder)


def test_templates_are_sandboxed_and_may_refuse(small_folder: Path) -> None:
    runtime = OpenvinoRuntime()
    template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    runtime.load(openvino_manifest(chat_template=template), small_folder)
    with pytest.raises(InvalidRequest, match="no bad words") as caught:
        answer(runtime, Chat((Message("user", "a bad word"),)))
    assert caught.value.param == "messages"
    runtime.close()
    with pytest.raises(ModelLoadFailed, match="template"):
        OpenvinoRuntime().load(openvino_manifest(chat_template="{% for %}"), small_folder)
    escape = "{{ messages.__class__.__mro__ }}"
    runtime = OpenvinoRuntime()
    runtime.load(openvino_manifest(chat_template=escape), small_folder)
    with pytest.raises(InvalidRequest, match="template refuses"):
        answer(runtime, Chat(QUESTION))
    runtime.close()


# -- files that OpenVINO would load and answer wrongly ----------------------------------------------------------------


def _with(whole: bytes, key: str, value: int) -> bytes:
    at = whole.index(f"qwen3.{key}".encode()) + len(f"qwen3.{key}") + 4
    return whole[:at] + struct.pack("<I", value) + whole[at + 4 :]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("block_count", 1000),
        ("attention.head_count", 0),
    ],
)
def test_sizes_that_contradict_the_tensors_are_refused(
    small_folder: Path, tmp_path: Path, key: str, value: int
) -> None:
    whole = (small_folder / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(_with(whole, key, value))
    with pytest.raises(ModelLoadFailed) as caught:
        OpenvinoRuntime().load(openvino_manifest(), tmp_path)
    assert str(tmp_path / "model.gguf") in caught.value.message


def test_other_architectures_types_and_tokenizers_are_refused(small_folder: Path, tmp_path: Path) -> None:
    whole = (small_folder / "model.gguf").read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(whole.replace(b"qwen3", b"gemma"))
    with pytest.raises(ModelLoadFailed, match="architecture is 'gemma'"):
        read_facts(path)
    tiny_gguf(path, SMALL)
    with pytest.raises(ModelLoadFailed, match="is F32"):
        read_facts(path)
    path.write_bytes(whole.replace(b"qwen2", b"tekkn"))
    head = read_head(path, keep=frozenset((TOKENS, TYPES, MERGES)))
    with pytest.raises(ModelLoadFailed, match="tekkn"):
        GgufVocabulary(head)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelLoadFailed, match="neither a GGUF file"):
        read_facts(tmp_path / "model.bin")
    with pytest.raises(ModelLoadFailed, match=r"holds no openvino_model\.xml"):
        read_facts(tmp_path)


def test_an_ir_folder_answers_as_the_file_it_came_from(
    small: OpenvinoRuntime, small_folder: Path, tmp_path: Path
) -> None:
    import openvino_genai

    (tmp_path / "model.gguf").write_bytes((small_folder / "model.gguf").read_bytes())
    openvino_genai.LLMPipeline(str(tmp_path / "model.gguf"), "CPU", enable_save_ov_model=True)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "model_type": "qwen3"}))
    runtime = OpenvinoRuntime()
    loaded = runtime.load(openvino_manifest(".", chat_template="{{ messages[0].content }}"), tmp_path)
    assert loaded.context_length == 4096
    request = Complete("the server and", Sampling(max_tokens=5, temperature=0))
    assert answer(runtime, request).text == answer(small, request).text
    runtime.close()


def test_an_ir_whose_tokenizer_cuts_texts_refuses_longer_ones(tmp_path: Path) -> None:
    """What GenAI makes of a GGUF file cuts at 8,192 tokens."""
    import openvino_genai

    tiny_gguf(tmp_path / "model.gguf", Size(hidden=128, head_dim=32, feed_forward=256, context=16384), q8=True)
    openvino_genai.LLMPipeline(str(tmp_path / "model.gguf"), "CPU", enable_save_ov_model=True)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 16384}))
    with pytest.raises(InvalidManifest, match="cuts texts at 8192"):
        OpenvinoRuntime().load(openvino_manifest(".", context_length=10000), tmp_path)
    runtime = OpenvinoRuntime()
    runtime.load(openvino_manifest("."), tmp_path)
    with pytest.raises(ContextLengthExceeded):
        answer(runtime, Complete("xq" * 9000, Sampling(max_tokens=1)))
    runtime.close()
