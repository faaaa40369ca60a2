"""Reading Hugging Face folders, and text from ids, without any of the libraries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    RuntimeMissing,
)
from inference_engine.domain.model import Manifest
from inference_engine.domain.requests import Chat, Complete, Message, Sampling
from inference_engine.domain.results import Delivered
from inference_engine.infra.huggingface.folder import HfFolder
from inference_engine.infra.huggingface.options import SamplingDefaults, adapter_folders, context_length, end_tokens
from inference_engine.infra.huggingface.prompts import Prompts
from inference_engine.infra.huggingface.vocabulary import Detokenizer, Vocabulary
from inference_engine.infra.huggingface.writing import AnswerWriter, check_context, delivered_ids
from inference_engine.infra.manifest_files import read_manifest
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.transformers import TransformersRuntime
from inference_engine.infra.runtimes.transformers.options import TransformersOptions
from inference_engine.infra.runtimes.transformers.sequences import SequenceRun
from inference_engine.infra.runtimes.vllm import VllmRuntime
from inference_engine.infra.runtimes.vllm.options import VllmOptions
from inference_engine.infra.text.answers import answer_form
from inference_engine.infra.text.tool_syntax import ChatStyle
from tests.runtimes.conftest import Recorder, delivered_of

DOCS = Path(__file__).parents[2] / "docs/runtimes"


def folder(path: Path, **config: Any) -> HfFolder:
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return HfFolder(path)


# -- folders


def test_the_task_decides_and_an_unknown_one_lists_those_there_are(tmp_path: Path) -> None:
    found = folder(tmp_path, architectures=["LlamaForCausalLM"])
    assert found.role("") == "generate"
    assert found.role("feature-extraction") == "embed"
    with pytest.raises(InvalidManifest, match="text-generation"):
        found.role("painting")
    with pytest.raises(InvalidManifest, match="set task"):
        folder(tmp_path, architectures=["T5ForConditionalGeneration"]).role("")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": 3}'])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadFailed, match=r"config\.json"):
        HfFolder(tmp_path)


def test_pickles_need_trust_and_missing_weights_are_named(tmp_path: Path) -> None:
    found = folder(tmp_path)
    with pytest.raises(ModelLoadFailed, match=r"model\.safetensors is missing"):
        found.check_trust(("pickle", "code"))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelLoadFailed, match=r"options\.trust: \[pickle\]") as caught:
        found.check_trust(("code",))
    assert caught.value.param == "options.trust"
    assert found.check_trust(("pickle",)) is True
    (tmp_path / "model.safetensors").touch()
    assert found.check_trust(()) is False


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None),
    ],
)
def test_pooling_is_what_sentence_transformers_say(tmp_path: Path, config: dict[str, Any], pooling: str | None) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in ("Transformer", "Pooling")]
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"type": "x.Normalize"}]))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling/config.json").write_text(json.dumps(config))
    if pooling is None:
        with pytest.raises(ModelLoadFailed, match="pooling"):
            folder(tmp_path).sentence_settings()
        return
    settings = folder(tmp_path).sentence_settings()
    assert (settings.pooling, settings.normalize, settings.max_tokens) == (pooling, True, None)


def test_contexts_ends_and_adapters_come_from_all_places(tmp_path: Path) -> None:
    found = folder(tmp_path, text_config={"max_position_embeddings": 100, "eos_token_id": [1, 2]})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3, "temperature": 0.5}')
    assert context_length(None, found) == 100
    assert end_tokens(found, SimpleNamespace(eos_token_id=4)) == {1, 2, 3, 4}
    with pytest.raises(InvalidManifest, match="trained for 100"):
        context_length(101, found)
    with pytest.raises(InvalidManifest, match=r"options\.adapters\.a"):
        adapter_folders({"a": "../elsewhere"}, tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ModelLoadFailed, match="adapter_config"):
        adapter_folders({"a": "a"}, tmp_path)


def test_a_sampling_value_is_the_request_s_then_the_option_s_then_the_model_s() -> None:
    config = {"temperature": 0.5, "repetition_penalty": 1.2}
    options = SamplingDefaults(top_p=0.3)
    assert options.value(Sampling(temperature=0.1), config, "temperature", 1.0) == 0.1
    assert options.value(Sampling(), config, "temperature", 1.0) == 0.5
    assert options.value(Sampling(), config, "repeat_penalty", 1.0) == 1.2
    assert options.value(Sampling(), config, "top_p", 1.0) == 0.3
    assert options.value(Sampling(), {"do_sample": False}, "temperature", 1.0) == 0.0


def test_a_missing_library_says_what_to_install(tmp_path: Path) -> None:
    folder(tmp_path, architectures=["LlamaForCausalLM"], max_position_embeddings=64)
    (tmp_path / "model.safetensors").touch()
    for name, runtime in (("transformers", TransformersRuntime()), ("vllm", VllmRuntime())):
        try:
            __import__(name)
        except ImportError:
            with pytest.raises(RuntimeMissing, match=rf"inference-engine\[{name}\]"):
                runtime.load(Manifest("m", "1", name, "."), tmp_path)


# -- text from ids


class FakeTokenizer:
    """One token per byte; 256 and on are control tokens."""

    _CONTROL = ("<end>", "<tool_call>")
    backend_tokenizer = None
    chat_template = None
    eos_token_id = 256
    all_special_ids = (256,)

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        class Added(str):
            special = True

        return {256 + place: Added(text) for place, text in enumerate(self._CONTROL)}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int], **_options: Any) -> str:
        return bytes(ids).decode(errors="replace")

    def get_vocab(self) -> dict[str, int]:
        return {text: 256 + place for place, text in enumerate(self._CONTROL)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<0x{token:02X}>"


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(FakeTokenizer(), 258)


def test_characters_wait_until_they_are_whole_and_carry_exactly_their_ids(vocabulary: Vocabulary) -> None:
    detokenizer = Detokenizer(vocabulary, {})
    found = [piece for token in "aü🙂".encode() if (piece := detokenizer.add(token))]
    assert found == [("a", (97,)), ("ü", tuple("ü".encode())), ("🙂", tuple("🙂".encode()))]
    assert detokenizer.end() is None
    detokenizer.add(0xC3)
    assert detokenizer.end() == ("�", (0xC3,))


def test_control_tokens_have_no_text_unless_the_answer_needs_it(vocabulary: Vocabulary) -> None:
    hidden = Detokenizer(vocabulary, {})
    assert hidden.add(257) is None
    assert hidden.add(97) == ("a", (257, 97))
    shown = Detokenizer(vocabulary, vocabulary.marks(("<tool_call>",)))
    assert shown.add(257) == ("<tool_call>", (257,))


def test_the_bytes_of_a_token_may_be_half_a_character(vocabulary: Vocabulary) -> None:
    assert vocabulary.token_bytes(0xC3) == b"\xc3"
    assert vocabulary.token_bytes(257) == b"<tool_call>"


def written(vocabulary: Vocabulary, request: Complete, ids: list[int], delivered: Delivered) -> Recorder:
    sink = Recorder()
    prompt = Prompts(vocabulary, None, 1).of(request)
    given = delivered_ids(delivered, prompt.echo, vocabulary)
    writer = AnswerWriter(answer_form(request, ChatStyle()), prompt, 2, delivered, given, vocabulary, sink)
    for token in ids[len(given) :]:
        if not writer.token(token):
            return sink
    writer.finish("length")
    return sink


def test_an_answer_written_on_is_the_rest_of_the_same(vocabulary: Vocabulary) -> None:
    request = Complete("ab", Sampling(stop=("END",)), echo=True)
    ids = list("Grüße 🙂 E EN ENDE".encode())
    whole = written(vocabulary, request, ids, Delivered())
    assert whole.text == "abGrüße 🙂 E EN "
    assert whole.done.reason == "stop"
    for cut in range(1, len(whole.texts)):
        rest = written(vocabulary, request, ids, delivered_of(whole.texts[:cut]))
        assert rest.deltas == whole.deltas[cut:]


def test_what_does_not_fit_is_refused_before_it_is_computed(vocabulary: Vocabulary) -> None:
    assert check_context(Complete("a"), 10, 64) == 54
    with pytest.raises(ContextLengthExceeded, match="holds 64") as caught:
        check_context(Chat((Message("user", "a"),)), 64, 64)
    assert caught.value.param == "messages"
    with pytest.raises(ContextLengthExceeded, match="max_tokens is 60"):
        check_context(Complete("a", Sampling(max_tokens=60)), 10, 64)
    with pytest.raises(InvalidRequest, match="token 999"):
        Prompts(vocabulary, None, 1).of(Complete((1, 999)))
    with pytest.raises(InvalidRequest, match="no tokens"):
        Prompts(vocabulary, None, 1).of(Complete(""))


def test_a_running_sequence_tells_its_end_once() -> None:
    sampler = SimpleNamespace(ends=frozenset((9,)), take=lambda token: SimpleNamespace(token=token))
    sink = Recorder()
    run = SequenceRun([1], sampler, 3, sink)  # type: ignore[arg-type]
    for token in (4, 5, 6):
        run.took(token)
    run.end("stop")
    assert [getattr(event, "token", event) for event in run.events()] == [4, 5, 6, "length"]
    ended = SequenceRun([1], sampler, 3, sink)  # type: ignore[arg-type]
    ended.took(9)
    assert list(ended.events()) == ["stop"]
    ended.drop()
    assert ended.cancelled


# -- the manual


@pytest.mark.parametrize(("page", "options"), [("transformers", TransformersOptions), ("vllm", VllmOptions)])
def test_the_manual_s_manifest_is_valid_and_every_option_is_there(tmp_path: Path, page: str, options: Any) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        (tmp_path / "model.yaml").write_text(block)
        manifest = read_manifest(tmp_path / "model.yaml", re.findall(r"name: (.*)", block)[0], "1")
        assert manifest.runtime == page
        decode_options(manifest.options, options, page)
    for field in options.__struct_fields__:
        assert re.search(rf"^\| `{field}` \|", text, re.MULTILINE), f"{field} is missing in {page}.md"
