"""The python runtime with classes as users write them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    RunnerLost,
    UnsupportedTask,
)
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import (
    Chat,
    Complete,
    ImagePart,
    JsonSchema,
    Message,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
    Transcribe,
)
from inference_engine.domain.results import Delivered, Delta, Done, Usage
from inference_engine.domain.text_tensors import DOCUMENT, EMBEDDING, QUERY, SCORE, TEXT, TOKENS, text_tensor
from inference_engine.infra.runtimes.python import PythonRuntime
from tests.fixtures.python_models import ACTOR, ECHO, PARROT, python_model
from tests.runtimes.conftest import Recorder, answer, delivered_of

X = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("y", "float32", (-1,)),))
ROW = {"x": np.ones((1, 2), np.float32)}


def load(
    folder: Path, source: str, signature: Signature | None = None, artifact: str = "model.py:Model", **options: object
) -> tuple[PythonRuntime, Loaded]:
    python_model(folder, source)
    runtime = PythonRuntime()
    return runtime, runtime.load(Manifest("m", "1", "python", artifact, signature=signature, options=options), folder)


def predicting(body: str) -> str:
    return f"import numpy as np\nclass Model:\n    def predict(self, inputs):\n        {body}\n"


def test_a_class_predicts_with_its_own_signature_and_gives_copies(tmp_path: Path) -> None:
    runtime, loaded = load(tmp_path, ECHO)
    assert loaded.kinds == ("predict",)
    assert loaded.signature == Signature(*[(TensorSpec("x", "float32", (-1, 2)),)] * 2)
    outputs = runtime.run(ROW)
    np.testing.assert_array_equal(outputs["x"], ROW["x"])
    assert not np.may_share_memory(outputs["x"], ROW["x"])


def test_load_gets_folder_and_options_and_siblings_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text("LABEL = 'sibling'\n")
    source = """
import pathlib
from names import LABEL
class Model:
    inputs = [{"name": "x", "dtype": "bytes", "shape": [-1]}]
    def load(self, folder, options):
        assert isinstance(folder, pathlib.Path)
        self.text = f"{LABEL} {options['greeting']} {(folder / 'model.py').exists()}"
    def predict(self, inputs):
        return {"y": [self.text] * len(inputs["x"])}
"""
    runtime, _ = load(tmp_path, source, greeting="hi")
    assert runtime.run({"x": np.array([b"a"], dtype=object)})["y"].tolist() == [b"sibling hi True"]


def test_two_models_with_the_same_file_names_do_not_meet(tmp_path: Path) -> None:
    before = set(sys.modules)
    runtimes = []
    for name in ("one", "two"):
        python_model(tmp_path / name, f"NAME = {name!r}\n", "names.py")
        source = "from names import NAME\n" + predicting("return {'y': np.array([len(inputs)]), 'name': [NAME]}")
        runtimes.append(load(tmp_path / name, source, Signature(X.inputs))[0])
    assert [runtime.run(ROW)["name"].tolist() for runtime in runtimes] == [[b"one"], [b"two"]]
    assert "names" not in sys.modules
    for runtime in runtimes:
        runtime.close()
    assert not [name for name in set(sys.modules) - before if name.startswith("_model_")]


@pytest.mark.parametrize(
    ("source", "artifact", "error", "message"),
    [
        (ECHO, "model.py", InvalidManifest, "must be FILE.py:ClassName"),
        (ECHO, "model.txt:Model", InvalidManifest, "must be FILE.py:ClassName"),
        (ECHO, "../model.py:Model", InvalidManifest, "inside the model's folder"),
        (ECHO, "other.py:Model", ModelLoadFailed, "other.py does not exist"),
        (ECHO, "model.py:Missing", ModelLoadFailed, "has no class Missing"),
        ("class Model: pass", "model.py:Model", ModelLoadFailed, "neither a predict nor a stream"),
        (predicting("return {}"), "model.py:Model", InvalidManifest, "needs a signature"),
        ("class Model:\n  def oops(:", "model.py:Model", ModelLoadFailed, r"SyntaxError.*model.py, line 2"),
        ("import nothing_like_it", "model.py:Model", ModelLoadFailed, r"ModuleNotFoundError.*model.py, line 1"),
        ("class Model:\n  def __init__(self):\n    exit(3)", "model.py:Model", ModelLoadFailed, "SystemExit: 3"),
        ("class Model:\n  inputs = [1]\n  predict = 1", "model.py:Model", InvalidManifest, "inputs and outputs"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    tmp_path: Path, source: str, artifact: str, error: type[EngineError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(tmp_path, source, artifact=artifact)


def test_options_need_a_load_method(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="no load method to take the options"):
        load(tmp_path, ECHO, size=3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", r"ZeroDivisionError: division by zero \(model.py, line 4, in predict\)"),
        ("return np.zeros((2, 3)) @ np.zeros(2)", r"ValueError: matmul.*\(model.py, line 4, in predict\)"),
        ("return [1]", "must return a dict of arrays, it returned list"),
        ("return {'z': [1.0]}", r"returned \['z'\], the signature says \['y'\]"),
        ("return {'y': np.zeros(1)}", r"output 'y' is float64 \[1\], the signature says float32 \[-1\]"),
        ("return {'y': [[1.0]]}", r"output 'y' is float32 \[1, 1\]"),
        ("return {'y': ['a']}", "output 'y' cannot be made an array"),
        ("return {'y': np.array([object()])}", "neither text nor bytes"),
    ],
)
def test_a_failing_predict_names_the_user_s_line_or_output(tmp_path: Path, body: str, message: str) -> None:
    runtime, _ = load(tmp_path, predicting(body), X)
    with pytest.raises(InferenceFailed, match=message):
        runtime.run(ROW)


def test_lists_become_arrays_of_the_declared_dtype(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, predicting("return {'y': [1, 2.5]}"), X)
    assert runtime.run(ROW)["y"].dtype == np.float32


def chat(text: str, **sampling: object) -> Chat:
    return Chat((Message("user", text),), Sampling(**sampling))  # type: ignore[arg-type]


def test_a_stream_answers_chats_and_completions(tmp_path: Path) -> None:
    runtime, loaded = load(tmp_path, PARROT)
    assert loaded.kinds == ("chat", "complete")
    assert loaded.concurrency == 2
    sink = answer(runtime, chat("a b c"))
    assert [delta.text for delta in sink.texts] == ["a ", "b ", "c "]
    assert (sink.done.reason, sink.done.usage.completion_tokens) == ("stop", 3)
    assert answer(runtime, Complete("a b", echo=True)).text == "a ba b "
    with pytest.raises(UnsupportedTask, match="no predict method"):
        runtime.run(ROW)


@pytest.mark.parametrize(
    ("sampling", "text", "reason", "count"),
    [
        ({"max_tokens": 2}, "one two ", "length", 2),
        ({"max_tokens": 4}, "one two three four ", "length", 4),
        ({"stop": ("three",)}, "one two ", "stop", 3),
        ({"stop": ("o t",)}, "one tw", "stop", 3),
        ({"stop": ("four five",)}, "one two three four ", "stop", 4),
    ],
)
def test_length_and_stop_are_enforced_and_cuts_continue(
    tmp_path: Path, sampling: dict[str, object], text: str, reason: str, count: int
) -> None:
    runtime, _ = load(tmp_path, PARROT)
    request = chat("one two three four", **sampling)
    whole = answer(runtime, request)
    assert (whole.text, whole.done.reason, whole.done.usage.completion_tokens) == (text, reason, count)
    stop = request.sampling.stop
    assert whole.done.stop == (stop[0] if stop and stop[0] in "one two three four " else None)
    for cut in range(len(whole.texts) + 1):
        rest = answer(runtime, request, delivered_of(whole.texts[:cut]))
        assert (rest.texts, rest.done) == (whole.texts[cut:], whole.done)


def test_a_stream_that_may_differ_is_not_continued(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, PARROT.replace("= True", "= False"))
    assert answer(runtime, chat("a")).text == "a "
    with pytest.raises(RunnerLost, match="deterministic_stream"):
        answer(runtime, chat("a b"), Delivered("a ", ("a ",)))


def test_what_a_class_cannot_do_is_refused(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, PARROT)
    with pytest.raises(InvalidRequest, match="schema or grammar"):
        answer(runtime, Chat((Message("user", "a"),), constraint=JsonSchema({})))
    with pytest.raises(InvalidRequest, match="log probabilities"):
        answer(runtime, chat("a", logprobs=0))
    predictor, _ = load(tmp_path / "p", ECHO)
    with pytest.raises(UnsupportedTask, match="no stream method"):
        answer(predictor, chat("a"))


def test_a_cancelled_stream_closes_the_user_s_generator(tmp_path: Path) -> None:
    source = """
class Model:
    closed = False
    def stream(self, messages, sampling):
        try:
            while True:
                yield "x"
        finally:
            self.closed = True
"""
    runtime, _ = load(tmp_path, source)
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    runtime.generate(chat("a"), Delivered(), sink)
    assert sink.text == "xxx"
    assert runtime._model.closed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield 'a'; raise KeyError('k')", r"KeyError: 'k' \(model.py, line 3, in stream\)"),
        ("yield 5", "must yield strings or dicts, it yielded int"),
        ("return 5", "TypeError: 'int' object is not iterable"),
    ],
)
def test_a_failing_stream_says_why(tmp_path: Path, body: str, message: str) -> None:
    runtime, _ = load(tmp_path, f"class Model:\n    def stream(self, messages, sampling):\n        {body}\n")
    with pytest.raises(InferenceFailed, match=message):
        runtime.generate(chat("a"), Delivered(), Recorder())


def test_sampling_arrives_as_what_was_set(tmp_path: Path) -> None:
    source = "class Model:\n    def stream(self, messages, sampling):\n        return repr((messages, sampling))\n"
    runtime, _ = load(tmp_path, source)
    assert answer(runtime, chat("a", temperature=0.5)).text == repr(
        ([{"role": "user", "content": "a"}], {"temperature": 0.5})
    )


TOOL = Tool("weather", "The weather", {"type": "object", "properties": {"city": {"type": "string"}}})


def ask(text: str, **fields: object) -> Chat:
    return Chat((Message("user", text),), **fields)  # type: ignore[arg-type]


def gathered(deltas: list[Delta]) -> Answer:
    whole = Answer()
    for delta in deltas:
        whole.add(delta)
    return whole


def written(deltas: list[Delta]) -> Delivered:
    """What a client has after these deltas, as an executor would note it."""
    raws = [delta.raw or delta.text for delta in deltas if not isinstance(delta, Done)]
    return Delivered("".join(raws), tuple(raws))


def test_reasoning_and_tool_calls_come_typed_and_continue_after_a_cut(tmp_path: Path) -> None:
    runtime, loaded = load(tmp_path, ACTOR)
    assert loaded.kinds == ("chat", "complete", "embed", "rerank", "transcribe")
    assert loaded.media == ("image", "audio")
    request = ask("What of Rome and Oslo?", tools=(TOOL,), reasoning="low")
    sink = answer(runtime, request)
    whole = gathered(sink.deltas)
    assert whole.reasoning == "let me think"
    assert [(call.name, call.arguments) for call in whole.tool_calls] == [
        ("weather", '{"city": "Rome"}'),
        ("weather", '{"city": "Oslo"}'),
    ]
    assert len({call.id for call in whole.tool_calls}) == 2
    assert (whole.reason, whole.usage.reasoning_tokens, whole.usage.prompt_tokens) == ("tool_calls", 2, 5)
    for cut in range(len(sink.deltas)):
        rest = gathered(sink.deltas[:cut] + answer(runtime, request, written(sink.deltas[:cut])).deltas)
        assert [call.arguments for call in rest.tool_calls] == [call.arguments for call in whole.tool_calls], cut
        assert (rest.reasoning, rest.done) == (whole.reasoning, whole.done)


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        (ToolChoice("none"), 0),
        (ToolChoice("auto"), 2),
        (ToolChoice("auto", parallel=False), 1),
        (ToolChoice("required", "weather"), 2),
    ],
)
def test_the_tool_choice_reaches_the_class(tmp_path: Path, choice: ToolChoice, calls: int) -> None:
    runtime, _ = load(tmp_path, ACTOR)
    sink = answer(runtime, ask("What of Rome and Oslo?", tools=(TOOL,), tool_choice=choice))
    assert len(gathered(sink.deltas).tool_calls) == calls


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield {'tool_call': {'name': 'other'}}", "'other', which the request does not allow"),
        ("yield {'tool_call': {'name': 'weather', 'arguments': '{'}}", "no JSON object"),
        ("yield {'tool_call': {'name': 'weather'}}", "no JSON object"),
        ("yield {'tool_call': {'nam': 1}}", "wrong tool_call"),
        ("yield {'arguments': '{}'}", "before a tool_call"),
        ("yield {'surprise': 1}", r"\['surprise'\]: give it one of text, reasoning"),
        ("yield {'text': 5}", "wrong text"),
        ("yield 'no call'", "demanded"),
    ],
)
def test_wrong_pieces_say_what_is_wrong(tmp_path: Path, body: str, message: str) -> None:
    source = f"class Model:\n    def stream(self, messages, sampling, tools):\n        {body}\n"
    runtime, _ = load(tmp_path, source)
    request = ask("a", tools=(TOOL,), tool_choice=ToolChoice("required"))
    with pytest.raises(InferenceFailed, match=message):
        runtime.generate(request, Delivered(), Recorder())


def test_what_the_stream_method_has_no_parameter_for_is_refused(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, PARROT)
    for request, param in (
        (ask("a", tools=(TOOL,)), "tools"),
        (ask("a", reasoning="high"), "reasoning"),
        (Complete((1, 2)), "prompt"),
        (Complete("a", suffix="b"), "suffix"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            answer(runtime, request)
        assert caught.value.param == param
    with pytest.raises(UnsupportedTask, match="tokenize"):
        runtime.tokenize(ask("a"))


def test_images_reach_the_class_as_bytes(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, ACTOR)
    message = Message("user", (TextPart("see"), ImagePart(b"1234", "image/png")))
    assert gathered(answer(runtime, Chat((message,))).deltas).text == "You said: see, image of 4 bytes"


def test_embed_and_rerank_compute_batches(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, ACTOR)
    found = runtime.run({TEXT: text_tensor(["one", "two words"])})
    assert found[EMBEDDING].tolist() == [[3, 1, 1], [9, 2, 1]]
    assert found[TOKENS].tolist() == [1, 2]
    batch = {QUERY: text_tensor(["a", "b", "a"]), DOCUMENT: text_tensor(["a b", "a", "x"])}
    assert runtime.run(batch)[SCORE].tolist() == [1, 0, 0]
    broken, _ = load(tmp_path / "broken", "class Model:\n    def embed(self, texts):\n        return [1]\n")
    with pytest.raises(InferenceFailed, match=r"shape \[1\], expected \[1, -1\]"):
        broken.run({TEXT: text_tensor(["x"])})


def test_speech_is_written_down(tmp_path: Path) -> None:
    runtime, _ = load(tmp_path, ACTOR)
    assert gathered(answer(runtime, Transcribe(b"RIFF")).deltas).text == "one two three"
    segments = gathered(answer(runtime, Transcribe(b"RIFF", timestamps=True)).deltas).segments
    assert [(segment.text, segment.start_s, segment.end_s) for segment in segments][1] == (" two", 1, 2)


def test_usage_that_the_class_counted_is_given_on(tmp_path: Path) -> None:
    body = "yield 'a'; yield {'usage': {'prompt_tokens': 7, 'completion_tokens': 9, 'cached_tokens': 2}}"
    runtime, _ = load(tmp_path, f"class Model:\n    def stream(self, messages, sampling):\n        {body}\n")
    assert answer(runtime, chat("a")).done.usage == Usage(7, 9, 2, 0)
