"""Embedding and reranking with the llama_cpp runtime, against numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from inference_engine.domain.errors import ContextLengthExceeded, InvalidManifest, InvalidRequest, UnsupportedTask
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Complete
from inference_engine.domain.results import Delivered
from inference_engine.domain.tensors import Array
from inference_engine.domain.text_tensors import (
    DOCUMENT,
    EMBEDDING,
    QUERY,
    RERANK_SIGNATURE,
    SCORE,
    TEXT,
    TOKENS,
    embed_signature,
    text_tensor,
)
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_bert import CONTEXT, HIDDEN, Floats, classified, hidden_states, tiny_bert, weights
from tests.fixtures.tiny_gguf import tiny_gguf
from tests.runtimes.conftest import Recorder, llama_manifest

TEXTS = ("the cat sat on the mat", "dog runs fast!", "what is x9?", "the")
Load = Callable[..., tuple[LlamaCppRuntime, Loaded]]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Loads a model of the folder and closes it in the end."""
    runtimes: list[LlamaCppRuntime] = []

    def loader(task: str = "", artifact: str = "model.gguf", **options: object) -> tuple[LlamaCppRuntime, Loaded]:
        runtime = LlamaCppRuntime()
        manifest = msgspec.structs.replace(llama_manifest(artifact, **options), task=task)
        loaded = runtime.load(manifest, tmp_path)
        runtimes.append(runtime)
        return runtime, loaded

    yield loader
    for runtime in runtimes:
        runtime.close()


def embed(runtime: LlamaCppRuntime, *texts: str) -> tuple[Array, Array]:
    outputs = runtime.run({TEXT: text_tensor(texts)})
    return outputs[EMBEDDING], outputs[TOKENS]


def pooled(states: Floats, pooling: str) -> Floats:
    return {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]


@pytest.mark.parametrize(("own", "option"), [("mean", None), ("cls", None), (None, None), ("mean", "last")])
def test_vectors_equal_numpy_s(load: Load, tmp_path: Path, own: str | None, option: str | None) -> None:
    tiny_bert(tmp_path / "model.gguf", pooling=own)  # type: ignore[arg-type]
    runtime, loaded = load(pooling=option)
    vectors, tokens = embed(runtime, *TEXTS)
    assert loaded.kinds == ("embed", "predict")
    assert loaded.signature == embed_signature(HIDDEN)
    assert loaded.details["pooling"] == (option or own or "mean")
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(TEXTS), HIDDEN))
    for text, vector, count in zip(TEXTS, vectors, tokens, strict=True):
        ids = runtime._http.tokenize(text, prompt=True)
        expected = pooled(hidden_states(ids, weights()), option or own or "mean")
        assert count == len(ids)
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-3)


def test_vectors_as_they_are(load: Load, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model.gguf")
    runtime, _ = load(normalize=False)
    ids = runtime._http.tokenize(TEXTS[0], prompt=True)
    np.testing.assert_allclose(embed(runtime, TEXTS[0])[0][0], hidden_states(ids, weights()).mean(0), atol=5e-3)


def test_many_texts_together_give_what_each_gives_alone(load: Load, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model.gguf")
    runtime, _ = load(parallel=16)
    texts = [" ".join(TEXTS[i % 4].split()[: 1 + i % 5]) for i in range(40)]
    together, _ = embed(runtime, *texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(embed(runtime, text)[0][0], vector, atol=2e-3)


def test_a_text_that_is_too_long_is_refused_not_cut(load: Load, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model.gguf")
    runtime, loaded = load()
    assert loaded.context_length == CONTEXT
    assert embed(runtime, "cat " * (CONTEXT - 2))[1].tolist() == [CONTEXT]
    with pytest.raises(ContextLengthExceeded, match="has 65 tokens, this model takes 64") as caught:
        embed(runtime, "cat", "cat " * (CONTEXT - 1))
    assert caught.value.param == "input"
    with pytest.raises(UnsupportedTask, match="embeds or reranks"):
        runtime.generate(Complete("the"), Delivered(), Recorder())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_model_that_writes_also_embeds(load: Load, tmp_path: Path, pooling: str) -> None:
    tiny_gguf(tmp_path / "model.gguf")
    runtime, loaded = load("feature-extraction", pooling=pooling, context_length=300)
    vectors, tokens = embed(runtime, "hello there", "hello there", "something else", "x " * 150)
    assert loaded.kinds == ("embed", "predict")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.05
    assert tokens[3] == 300
    with pytest.raises(ContextLengthExceeded):
        embed(runtime, "x " * 151)
    with pytest.raises(InvalidRequest, match="without any token"):
        embed(runtime, "")


def test_pooling_differs_and_none_is_refused(load: Load, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf")
    mean, last = (embed(load("sentence-similarity", pooling=pool)[0], "hello you")[0] for pool in ("mean", "last"))
    assert np.abs(mean - last).max() > 0.01
    with pytest.raises(InvalidManifest, match=r"options\.pooling"):
        load("feature-extraction", pooling="none")
    with pytest.raises(InvalidManifest, match="first token of a model that reads forward"):
        load("feature-extraction", pooling="cls")


def test_reranking_scores_equal_numpy_s(load: Load, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model.gguf", pooling="rank", labels=1)
    runtime, loaded = load()
    assert (loaded.kinds, loaded.signature) == (("rerank", "predict"), RERANK_SIGNATURE)
    pairs = [("who sat", "the cat"), ("who runs", "dog runs fast"), ("who sat", "mat"), ("who runs", "mat")]
    outputs = runtime.run(
        {QUERY: text_tensor([pair[0] for pair in pairs]), DOCUMENT: text_tensor([pair[1] for pair in pairs])}
    )
    cls, sep = 2, 3
    for (query, document), score, tokens in zip(pairs, outputs[SCORE], outputs[TOKENS], strict=True):
        ids = [cls, *runtime._http.tokenize(query), sep, *runtime._http.tokenize(document), sep]
        logit = classified(ids, weights(1))[0]
        assert tokens == len(ids)
        assert score == pytest.approx(1 / (1 + np.exp(-logit)), abs=2e-3)
        assert 0 <= score <= 1
    with pytest.raises(ContextLengthExceeded) as caught:
        runtime.run({QUERY: text_tensor(["who"]), DOCUMENT: text_tensor(["cat " * 61])})
    assert caught.value.param == "documents"


def test_a_template_of_the_file_is_used_and_counted(load: Load, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model.gguf", pooling="rank", labels=1, template="[CLS] {query} what {document} [SEP]")
    runtime, _ = load()
    outputs = runtime.run({QUERY: text_tensor(["who"]), DOCUMENT: text_tensor(["the cat"])})
    ids = runtime._http.split("[CLS] who what the cat [SEP]", add_special=False, parse_special=True)
    assert outputs[TOKENS].tolist() == [len(ids)]
    logit = classified(ids, weights(1))[0]
    assert outputs[SCORE][0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=2e-3)


@pytest.mark.parametrize(
    "options",
    [{"adapters": {"a": "a"}}, {"mmproj": "x"}, {"draft": {"artifact": "x"}}, {"ngram": {}}, {"keep_cache": True}],
)
def test_what_only_writers_use_is_refused(load: Load, tmp_path: Path, options: dict[str, object]) -> None:
    tiny_bert(tmp_path / "model.gguf")
    with pytest.raises(InvalidManifest, match=rf"options\.{next(iter(options))} is for models that write"):
        load(**options)


def test_what_cannot_rerank_says_so(load: Load, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf")
    with pytest.raises(InvalidManifest, match="no classifier head"):
        load("text-ranking")
    tiny_bert(tmp_path / "bert.gguf", labels=3)
    with pytest.raises(InvalidManifest, match="3 labels"):
        load("text-ranking", "bert.gguf")
    tiny_bert(tmp_path / "rank.gguf", labels=1)
    with pytest.raises(InvalidManifest, match=r"options\.pooling"):
        load("text-classification", "rank.gguf", pooling="mean")
