"""CTC decoding against the definition, label decoding, and the other steps on classes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from tests.pipeline.conftest import spec, step

LABELS = "-\na\nb\n|\n<s>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labels")
    (made / "labels.txt").write_text(LABELS)
    (made / "three.txt").write_text("-\na\nb\n")
    (made / "pieces.txt").write_text("<blank>\n\u2581hi\n\u2581th\nere\n")
    return made


def path(*classes: int, count: int = 5) -> np.ndarray:
    """Logits [1, time, classes] that name these classes."""
    return np.where(np.arange(count) == np.array(classes)[:, None], 9.0, 0.0).astype(np.float32)[None]


def texts(folder: Path, logits: np.ndarray, **options: Any) -> list[bytes]:
    made = step("ctc.decode", folder, **{"labels": "labels.txt", **options})
    return list(made.apply({"y": logits})["texts"].tolist())


def test_repeats_are_one_and_blanks_stand_between(folder: Path) -> None:
    logits = path(1, 1, 0, 1, 2, 2, 0, 0, 3, 3, 4, 2)
    assert texts(folder, logits) == [b"aab|<s>b"]
    assert texts(folder, logits, delimiter="|", ignore=["<s>"]) == [b"aab b"]
    assert texts(folder, path(0, 0)) == [b""]
    assert texts(folder, path(2, 2, 2), blank=2) == [b""]
    pieces = path(1, 0, 2, 3, count=4)
    assert texts(folder, pieces, labels="pieces.txt", delimiter="\u2581") == [b"hi there"]


def _by_definition(likely: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of every text: the sum over all paths that give it."""
    found: dict[tuple[int, ...], float] = {}
    for classes in itertools.product(range(likely.shape[1]), repeat=len(likely)):
        text = tuple(kind for kind, _ in itertools.groupby(classes) if kind)
        odds = math.exp(sum(likely[at, kind] for at, kind in enumerate(classes)))
        found[text] = found.get(text, 0.0) + odds
    return found


@given(logits=hnp.arrays("float32", (4, 3), elements=st.floats(-3, 3, width=32)))
@settings(max_examples=60, deadline=None)
def test_a_beam_wide_enough_finds_the_likeliest_text(folder: Path, logits: np.ndarray) -> None:
    likely = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = _by_definition(likely)
    made = step("ctc.decode", folder, labels="three.txt", beam=200, scores=True).apply({"y": logits[None]})
    text = tuple(b"-ab".index(bytes([letter])) for letter in made["texts"][0])
    assert expected[text] == pytest.approx(max(expected.values()), rel=1e-4)
    assert math.exp(made["scores"][0]) == pytest.approx(expected[text], rel=1e-4)
    greedy = step("ctc.decode", folder, labels="three.txt", scores=True).apply({"y": logits[None]})
    assert greedy["scores"][0] == pytest.approx(likely.max(axis=1).sum(), rel=1e-4)


def test_a_beam_finds_what_the_best_path_misses(folder: Path) -> None:
    likely = np.log(np.array([[[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]], np.float32))
    assert texts(folder, likely, labels="three.txt") == [b""]
    assert texts(folder, likely, labels="three.txt", beam=8) == [b"a"]  # 0.36 against 0.16


def test_padding_is_left_out_by_a_note_or_by_an_output(folder: Path) -> None:
    logits = np.concatenate([path(1, 0, 2, 2), path(1, 0, 2, 2)])
    note = np.array([[320, 640], [640, 640]])
    made = step("ctc.decode", folder, labels="labels.txt")
    assert made.apply({"y": logits, "@x:lengths": note})["texts"].tolist() == [b"a", b"ab"]
    both = {"y": logits, "@x:lengths": note, "@z:lengths": note[::-1]}
    assert texts_of(step("ctc.decode", folder, labels="labels.txt", of="z"), both) == [b"ab", b"a"]
    told = step("ctc.decode", folder, labels="labels.txt", lengths="n", keep=True).apply(
        {"y": logits, "n": np.array([[4], [1]])}
    )
    assert told["texts"].tolist() == [b"ab", b"a"]
    assert set(told) == {"y", "n", "texts"}


def texts_of(made: Any, tensors: dict[str, np.ndarray]) -> list[bytes]:
    return list(made.apply(tensors)["texts"].tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("beam", [1, 4])
def test_numbers_that_are_no_logits_are_the_model_s_fault(folder: Path, value: float, beam: int) -> None:
    with pytest.raises(InferenceFailed, match="output 'y' holds numbers that are no logits"):
        texts(folder, np.full((1, 3, 5), value, np.float32), beam=beam)
    never = path(1, 2)
    never[never == 0] = -np.inf
    assert texts(folder, never, beam=beam) == [b"ab"]


def test_no_time_at_all_is_an_empty_text(folder: Path) -> None:
    for beam in (1, 4):
        made = step("ctc.decode", folder, labels="labels.txt", beam=beam, scores=True)
        found = made.apply({"y": np.zeros((1, 0, 5), np.float32)})
        assert (found["texts"].tolist(), found["scores"].tolist()) == ([b""], [0.0])


Y = spec("y", "float32", -1, -1, 5)


@pytest.mark.parametrize(
    ("options", "specs", "words"),
    [
        ({}, spec("y", "float32", -1, 5), r"must be \[-1, time, classes\]"),
        ({}, spec("y", "int64", -1, -1, 5), "'y' is int64"),
        ({}, spec("y", "float32", -1, -1, 6), "labels has 5 lines, tensor 'y' has 6 classes"),
        ({"blank": 5}, Y, "blank is 5, tensor 'y' has 5 classes"),
        ({"delimiter": "_"}, Y, "no label has '_' in it"),
        ({"ignore": ["<x>"]}, Y, "no label has '<x>' in it"),
        ({"lengths": "n"}, Y, "there is no tensor 'n'"),
        ({"lengths": "n"}, Y | spec("n", "float32", -1), "'n' is float32, lengths are"),
        ({"of": "z"}, Y | spec("@x:lengths", "int64", -1, 2), "inputs that a step has padded: 'x'"),
        ({}, Y | spec("@x:lengths", "int64", -1, 2) | spec("@z:lengths", "int64", -1, 2), "'x', 'z'"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    folder: Path, options: dict[str, Any], specs: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        step("ctc.decode", folder, labels="labels.txt", **options).preview(specs)


def test_ctc_says_what_it_makes(folder: Path) -> None:
    made = step("ctc.decode", folder, labels="labels.txt", scores=True).preview(Y)
    assert made == spec("texts", "bytes", -1) | spec("scores", "float32", -1)


# -- sigmoid, argmax, labels.decode ----------------------------------------------------------------------------------


@given(
    values=hnp.arrays(
        st.sampled_from(["float16", "float32", "float64"]), (3, 4), elements=st.floats(-60000, 60000, width=16)
    )
)
def test_sigmoid_is_the_formula(values: np.ndarray) -> None:
    found = step("sigmoid").apply({"y": values})["y"]
    assert found.dtype == values.dtype
    expected = [[1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in row] for row in values.tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-3 if values.dtype == np.float16 else 1e-6)


def test_argmax_and_labels(folder: Path) -> None:
    found = step("argmax").apply({"y": np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0]])})
    assert found["y"].dtype == np.int64
    assert found["y"].tolist() == [1, 0]
    named = step("labels.decode", folder, file="three.txt")
    assert {name: array.tolist() for name, array in named.apply(found).items()} == {"labels": [b"a", b"-"]}
    assert set(step("labels.decode", folder, file="three.txt", keep=True).apply(found)) == {"y", "labels"}
    for wrong in (3, -1):
        with pytest.raises(InferenceFailed, match="does not name"):
            named.apply({"y": np.array([wrong])})
    assert step("argmax").preview(spec("y", "float32", -1, 3)) == spec("y", "int64", -1)
    assert named.preview(spec("y", "int32", -1, 3)) == spec("labels", "bytes", -1, 3)
    with pytest.raises(InvalidManifest, match="put argmax before this step"):
        named.preview(spec("y", "float32", -1, 3))
