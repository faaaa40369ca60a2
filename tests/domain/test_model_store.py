"""Names of models elsewhere and here."""

from __future__ import annotations

import pytest

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model import ModelRef
from inference_engine.domain.model_store import RemoteName, check_digest, new_ref


@pytest.mark.parametrize(
    ("text", "parts", "local"),
    [
        ("tiny", ("", "", "tiny", "latest"), "tiny:latest"),
        ("tiny:8b-q4", ("", "", "tiny", "8b-q4"), "tiny:8b-q4"),
        ("me/tiny", ("", "me", "tiny", "latest"), "me--tiny:latest"),
        ("library/tiny:1", ("", "", "tiny", "1"), "tiny:1"),
        ("registry.ollama.ai/library/tiny", ("", "", "tiny", "latest"), "tiny:latest"),
        ("hf.co/org/Tiny-GGUF:Q8_0", ("hf.co", "org", "Tiny-GGUF", "Q8_0"), "hf.co--org--Tiny-GGUF:Q8_0"),
        ("https://hf.co/org/T", ("hf.co", "org", "T", "latest"), "hf.co--org--T:latest"),
        ("box:5000/me/tiny:1", ("box:5000", "me", "tiny", "1"), "box--me--tiny:1"),
    ],
)
def test_names(text: str, parts: tuple[str, ...], local: str) -> None:
    name = RemoteName.parse(text)
    assert (name.host, name.namespace, name.name, name.tag) == parts
    assert str(name.local) == local
    assert RemoteName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "/", "a/", "//a", "a//b", "..", "a/..", "h/../a", "a b", "a\0", "ä", "a:b:c/d"]
)
def test_names_that_are_none(text: str) -> None:
    if text == "a:":  # a colon without a tag says nothing
        assert RemoteName.parse(text).tag == "latest"
        return
    with pytest.raises(InvalidRequest):
        RemoteName.parse(text)


def test_a_new_model_without_a_version_is_the_latest() -> None:
    assert new_ref("mine") == ModelRef("mine", "latest")
    assert new_ref("mine:2") == ModelRef("mine", "2")
    assert new_ref("me/mine:2") == ModelRef("me--mine", "2")
    with pytest.raises(InvalidRequest, match="destination"):
        new_ref("", "destination")


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "0" * 63, "sha256:../" + "0" * 61, "md5:" + "0" * 64]
)
def test_digests_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        check_digest(text)


def test_both_spellings_of_a_digest() -> None:
    assert check_digest("sha256-" + "a" * 64) == check_digest("sha256:" + "a" * 64) == "sha256:" + "a" * 64
