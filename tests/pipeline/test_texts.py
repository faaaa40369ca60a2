"""Text steps and the steps on embeddings, against the library itself and plain numpy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidTensor, RuntimeMissing
from inference_engine.domain.model import PipelineSpec, TensorSpec
from tests.fixtures.tiny_steps import HIDDEN, VOCABULARY, text_onnx, tiny_tokenizer
from tests.pipeline.conftest import Start, onnx_manifest, spec, step

MODEL = spec("input_ids", "int64", -1, -1) | spec("attention_mask", "int64", -1, -1)
TYPES = spec("token_type_ids", "int64", -1, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(made / "tokenizer.json")
    (made / "vocab.txt").write_text("\n".join(VOCABULARY))
    (made / "bad.json").write_text('{"model": {}}')
    (made / "deep.json").write_text("[" * 100_000)
    (made / "empty.json").write_text("")
    return made


def batch(*texts: bytes, **others: tuple[bytes, ...]) -> dict[str, np.ndarray]:
    return {name: np.array(given, dtype=object) for name, given in {"text": texts, **others}.items()}


def tokenize(folder: Path, /, **options: Any) -> Any:
    return step("text.tokenize", folder, **{"file": "tokenizer.json", "max_length": 16, **options})


@given(texts=st.lists(st.text(alphabet="thecatsdog mz ", max_size=30), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_tokens_are_the_library_s(folder: Path, texts: list[str]) -> None:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = tokenize(folder, max_length=64, types="token_type_ids").apply(batch(*(text.encode() for text in texts)))
    longest = max(len(library.encode(text).ids) for text in texts)
    for row, text in enumerate(texts):
        ids = library.encode(text).ids
        assert found["input_ids"][row].tolist() == ids + [0] * (longest - len(ids))
        assert found["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (longest - len(ids))
        assert found["@text:lengths"][row].tolist() == [len(ids), longest]
    assert found["input_ids"].dtype == np.int64
    assert not found["token_type_ids"].any()


def test_pairs_have_types_and_padding_may_be_fixed(folder: Path) -> None:
    made = tokenize(folder, types="token_type_ids", pair="second", pad="max_length", max_length=9, dtype="int32")
    fixed = {name: TensorSpec(name, "int32", (-1, 9)) for name in (MODEL | TYPES)}
    client = made.preview(fixed)
    assert {name for name in client if not name.startswith("@")} == {"text", "second"}
    found = made.apply(batch(b"the cat", second=(b"dogs",)))
    assert [VOCABULARY[i] for i in found["input_ids"][0]] == [
        "[CLS]", "the", "cat", "[SEP]", "dog", "##s", "[SEP]", "[PAD]", "[PAD]",
    ]  # fmt: skip
    assert found["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert found["input_ids"].dtype == np.int32


def test_a_text_that_is_too_long_is_refused_by_its_row_or_cut_if_the_manifest_says_so(folder: Path) -> None:
    long = b"the cat " * 20
    with pytest.raises(InvalidTensor, match=r"input 'text' row 1 has 42 tokens, the model takes 16: .*truncate: true"):
        tokenize(folder).apply(batch(b"cat", long))
    found = tokenize(folder, truncate=True).apply(batch(b"cat", long))
    assert found["input_ids"].shape == (2, 16)
    assert VOCABULARY[found["input_ids"][1, -1]] == "[SEP]"
    assert tokenize(folder, special=False).apply(batch(b"cat"))["input_ids"].tolist() == [[VOCABULARY.index("cat")]]


def test_what_is_no_text_is_refused_by_its_row(folder: Path) -> None:
    with pytest.raises(InvalidTensor, match=r"input 'text' row 1 is not UTF-8 text"):
        tokenize(folder).apply(batch(b"cat", b"\xff\xfe"))
    with pytest.raises(InvalidTensor, match=r"input 'text' row 0 has 30 bytes, a text may have 10"):
        tokenize(folder, max_bytes=10).apply(batch(b"x" * 30))


def test_a_vocabulary_of_wordpiece_is_a_tokenizer(folder: Path) -> None:
    mine = tokenize(folder, file="vocab.txt").apply(batch(b"The CATS"))["input_ids"]
    assert [VOCABULARY[i] for i in mine[0]] == ["[CLS]", "the", "cat", "##s", "[SEP]"]
    cased = tokenize(folder, file="vocab.txt", lowercase=False).apply(batch(b"The cat"))["input_ids"]
    assert VOCABULARY[cased[0, 1]] == "[UNK]"


def test_the_file_s_own_truncation_is_not_used_but_its_padding_token_is(tmp_path: Path) -> None:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(tiny_tokenizer(tmp_path / "tokenizer.json")))
    library.enable_truncation(4)
    library.enable_padding(pad_id=9, length=12)
    library.save(str(tmp_path / "tokenizer.json"))
    texts = batch(b"the cat sat ?", b"dog")
    found = tokenize(tmp_path).apply(texts)
    assert found["input_ids"].shape == (2, 6)
    assert found["input_ids"][1, 3:].tolist() == [9, 9, 9]
    assert tokenize(tmp_path, pad_id=5).apply(texts)["input_ids"][1, 3:].tolist() == [5, 5, 5]
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    plain.save(str(tmp_path / "plain.json"))
    with pytest.raises(InvalidManifest, match=r"plain.json does not tell which token is for padding: give pad_id"):
        tokenize(tmp_path, file="plain.json").preview(MODEL)


def test_detokenize_undoes_it(folder: Path) -> None:
    made = step("text.detokenize", folder, file="tokenizer.json")
    ids = tokenize(folder).apply(batch(b"the cats", b"dog"))["input_ids"]
    assert made.apply({"y": ids})["texts"].tolist() == [b"the cats", b"dog"]
    assert made.apply({"y": np.array([[-1, 4, -1]])})["texts"].tolist() == [b"the"]
    with pytest.raises(InferenceFailed, match=r"holds token 999, tokenizer.json ends at"):
        made.apply({"y": np.array([[999]])})
    assert made.preview(spec("y", "int64", -1, -1)) == spec("texts", "bytes", -1)


@pytest.mark.parametrize(
    ("options", "specs", "words"),
    [
        ({}, spec("input_ids", "int64", -1, -1), "takes no 'attention_mask': give mask: null"),
        ({}, MODEL | TYPES, "also takes 'token_type_ids': add types: token_type_ids"),
        ({"mask": None}, MODEL, "also takes 'attention_mask': add mask"),
        ({}, spec("input_ids", "int32", -1, -1), "'input_ids' is int32, it must be int64"),
        ({"mask": None}, spec("input_ids", "int64", -1, 128), "give max_length: 128 and pad: max_length"),
        ({"mask": None, "max_length": 128}, spec("input_ids", "int64", -1, 128), "give max_length: 128 and pad"),
        ({"mask": None}, spec("input_ids", "int64", -1), r"must be \[-1, tokens\]"),
        ({"file": "bad.json"}, MODEL, "cannot be read as a tokenizer"),
        ({"file": "deep.json"}, MODEL, "cannot be read as a tokenizer"),
        ({"file": "empty.json"}, MODEL, "cannot be read as a tokenizer"),
        ({"truncate": True, "max_length": 2}, MODEL, "max_length is 2, the tokenizer adds 2 tokens"),
        ({"input": "@text"}, MODEL, "'@text' cannot be a tensor's name"),
        ({"pair": "text"}, MODEL, "there would be two tensors 'text'"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    folder: Path, options: dict[str, Any], specs: dict[str, TensorSpec], words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        tokenize(folder, **options).preview(specs)


@pytest.mark.parametrize("file", ["../tokenizer.json", "/etc/passwd", "loop"])
def test_a_tokenizer_outside_the_folder_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InvalidManifest, match=r"must be a path inside|does not exist|loop"):
        tokenize(tmp_path, file=file)


def test_without_tokenizers_the_load_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'inference-engine\[text\]'"):
        tokenize(folder).preview(MODEL)


async def test_both_executors_make_vectors_of_texts(kind: str, start: Start, folder: Path) -> None:
    """Merged requests are padded together, and each gets what it gets alone."""
    text_onnx(folder / "model.onnx")
    steps = PipelineSpec(
        ({"use": "text.tokenize", "file": "tokenizer.json", "max_length": 16},),
        ({"use": "pool", "output": "hidden"}, {"use": "normalize", "output": "hidden"}),
    )
    executor, loaded = await start(kind, onnx_manifest(steps), folder)
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("text", "bytes", (-1,)),)
    short, long = batch(b"cat"), batch(b"the cat sat ?", b"good dogs")
    merged = await executor.run([short, long], [1, 2])
    alone = await executor.run([short], [1])
    np.testing.assert_allclose(merged.outputs[0]["hidden"], alone.outputs[0]["hidden"], rtol=1e-6)
    assert merged.outputs[1]["hidden"].shape == (2, HIDDEN)
    with pytest.raises(InvalidTensor, match="input 'text' row 0 has 22 tokens") as caught:
        await executor.run([batch(b"cat " * 20)], [1])
    assert caught.value.param == "text"


# -- pool, normalize -------------------------------------------------------------------------------------------------


@given(
    values=hnp.arrays("float32", (3, 5, 2), elements=st.floats(-9, 9, width=32)),
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
)
@settings(deadline=None)
def test_pooling_leaves_padding_out(values: np.ndarray, sizes: tuple[int, ...]) -> None:
    tensors = {"y": values, "@text:lengths": np.array([[size, 5] for size in sizes])}
    expected = {
        "mean": [values[row, :size].mean(axis=0) for row, size in enumerate(sizes)],
        "max": [values[row, :size].max(axis=0) for row, size in enumerate(sizes)],
        "first": values[:, 0],
        "last": [values[row, size - 1] for row, size in enumerate(sizes)],
    }
    for method, rows in expected.items():
        found = step("pool", method=method).apply(tensors)["y"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, rows, atol=1e-5)
    np.testing.assert_allclose(step("pool").apply({"y": values})["y"], values.mean(axis=1), atol=1e-5)


def test_normalize_gives_length_one() -> None:
    found = step("normalize").apply({"y": np.array([[3, 4], [0, 0]], np.float32)})["y"]
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    with pytest.raises(InvalidManifest, match=r"must be \[-1, places, values\]"):
        step("pool").preview(spec("y", "float32", -1, 3))
    assert step("pool").preview(spec("y", "float32", -1, -1, 3)) == spec("y", "float32", -1, 3)
