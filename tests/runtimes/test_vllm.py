"""The vllm runtime on tiny random models, with vLLM's build for CPUs, against transformers' own `generate`.

The model's heads have 32 values: vLLM computes no smaller ones on a CPU. `make test-vllm` installs what is needed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    UnknownField,
    UnsupportedTask,
)
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Chat, Complete, JsonSchema, Message, Sampling, Transcribe
from inference_engine.domain.results import Delivered, Delta
from inference_engine.domain.text_tensors import EMBEDDING, TEXT, TOKENS, text_tensor
from inference_engine.infra.runtimes.vllm import VllmRuntime
from tests.runtimes.conftest import Recorder, answer, delivered_of

pytest.importorskip("vllm", reason="vllm is not installed: make test-vllm")
transformers = pytest.importorskip("transformers")

from tests.fixtures import tiny_hf  # noqa: E402  needs the libraries

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Greedy = Sampling(max_tokens=24, temperature=0.0)
PROMPTS = ("The quick brown", "What is", '{"name": "value", "count"')
SMALL = {"eager": True, "kv_cache_mib": 64, "parallel": 4, "dtype": "float32"}


def manifest(task: str = "", **options: Any) -> Manifest:
    return Manifest("m", "1", "vllm", ".", task=task, execution=Execution(threads=1), options={**SMALL, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_hf.tiny_causal(tmp_path_factory.mktemp("vllm") / "llama", hidden_size=128)
    tiny_hf.tiny_adapter(path, path / "en", 1)
    tiny_hf.tiny_adapter(path, path / "de", 2)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[tuple[VllmRuntime, Loaded]]:
    runtime = VllmRuntime()
    yield runtime, runtime.load(manifest(adapters={"english": "en", "german": "de"}, adapter_rank=8), folder)
    runtime.close()


@pytest.fixture
def runtime(opened: tuple[VllmRuntime, Loaded]) -> VllmRuntime:
    return opened[0]


def reference(folder: Path, prompt: str, adapter: str | None = None) -> list[int]:
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if adapter:
        model.load_adapter(str(folder / adapter), adapter_name=adapter)
    ids = words(prompt, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    return output[: output.index(words.eos_token_id)] if words.eos_token_id in output else output


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas if not hasattr(delta, "reason") for token in delta.tokens]


def test_greedy_answers_together_are_those_of_transformers_with_every_adapter(
    opened: tuple[VllmRuntime, Loaded], folder: Path
) -> None:
    runtime, loaded = opened
    assert loaded.kinds == ("chat", "complete")
    assert loaded.adapters == ("english", "german")
    answers: dict[Any, list[int]] = {}

    def ask(adapter: str | None, prompt: str) -> None:
        answers[adapter, prompt] = tokens_of(answer(runtime, Complete(prompt, Greedy, adapter=adapter)).deltas)

    wanted = [(adapter, prompt) for prompt in PROMPTS for adapter in (None, "english", "german")]
    threads = [threading.Thread(target=ask, args=one) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {None: None, "english": "en", "german": "de"}
    for adapter, prompt in wanted:
        assert answers[adapter, prompt] == reference(folder, prompt, names[adapter]), (adapter, prompt)


def test_a_continuation_is_the_rest_of_the_same_answer(runtime: VllmRuntime) -> None:
    request = Complete("The quick", Sampling(max_tokens=24, temperature=0.0, logprobs=2), echo=True)
    whole = answer(runtime, request)
    for cut in (1, 4, 9):
        rest = answer(runtime, request, delivered_of(whole.texts[:cut]))
        assert [delta.tokens for delta in rest.texts] == [delta.tokens for delta in whole.texts[cut:]]
        assert rest.done.usage.completion_tokens == whole.done.usage.completion_tokens
    assert all(len(position.top) == 2 for delta in whole.texts for position in delta.logprobs)


def test_a_schema_binds_the_answer_also_after_a_cut(runtime: VllmRuntime) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    request = Chat((Message("user", "Go"),), Sampling(max_tokens=80, temperature=0.0), JsonSchema(schema))
    whole = answer(runtime, request)
    assert 0 <= json.loads(whole.text)["n"] <= 99
    rest = answer(runtime, request, delivered_of(whole.texts[:2]))
    assert "".join(delta.text for delta in whole.texts[:2]) + rest.text == whole.text


def test_stop_strings_and_cancelling_end_an_answer(runtime: VllmRuntime) -> None:
    whole = answer(runtime, Complete("The quick", Greedy)).text
    stop = whole[6:9]
    cut = answer(runtime, Complete("The quick", Sampling(max_tokens=24, temperature=0.0, stop=(stop,))))
    assert cut.text == whole[: whole.index(stop)]
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    runtime.generate(Complete("The", Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)), Delivered(), sink)
    assert len(sink.deltas) <= 5


def test_what_cannot_be_answered_is_refused_by_name(runtime: VllmRuntime) -> None:
    for request, error, problem in (
        (Complete("word " * 300, Greedy), ContextLengthExceeded, "512"),
        (Complete("a", Sampling(typical_p=0.5)), UnknownField, "typical_p"),
        (Complete("a", Sampling(repeat_last_n=5)), UnknownField, "repeat_last_n"),
        (Complete("a", Sampling(logit_bias={99999: 1.0})), InvalidRequest, "99999"),
        (Transcribe(b""), UnsupportedTask, "generate"),
    ):
        with pytest.raises(error, match=problem):
            runtime.generate(request, Delivered(), Recorder())


def test_embeddings_are_those_of_transformers(tmp_path: Path) -> None:
    import numpy as np
    import torch

    path = tiny_hf.tiny_causal(tmp_path / "embedder", "Qwen3", head_dim=32)
    tiny_hf.sentence_files(path, "lasttoken")
    runtime = VllmRuntime()
    loaded = runtime.load(manifest("feature-extraction"), path)
    assert loaded.kinds == ("embed", "predict")
    texts = ["The dog", "a quick fox"]
    outputs = runtime.run({TEXT: text_tensor(texts)})
    with pytest.raises(ContextLengthExceeded, match="takes 64"):
        runtime.run({TEXT: text_tensor(["word " * 100])})
    runtime.close()
    words = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path)
    for row, text in enumerate(texts):
        ids = words(text, return_tensors="pt")
        state = torch.nn.functional.normalize(model(**ids).last_hidden_state[0, -1], dim=0)
        np.testing.assert_allclose(outputs[EMBEDDING][row], state.detach().numpy(), atol=1e-5)
        assert outputs[TOKENS][row] == ids["input_ids"].shape[1]


def test_only_what_is_trusted_and_fits_is_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="runtime: transformers"):
        VllmRuntime().load(manifest("text-ranking"), folder)
    with pytest.raises(InvalidManifest, match="trained for 512"):
        VllmRuntime().load(manifest(context_length=4096), folder)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelLoadFailed, match=r"options\.trust: \[pickle\]"):
        VllmRuntime().load(manifest(), tmp_path)
