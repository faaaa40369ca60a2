"""Damaged GGUF files, loaded in a process of their own because llama.cpp may abort on what the check cannot see."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed
from inference_engine.infra.formats.gguf import read_head
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import tiny_gguf
from tests.runtimes.conftest import GUIDE, llama_manifest

LOAD = """
import sys
from pathlib import Path
from inference_engine.domain.errors import ModelError
from inference_engine.domain.model import Execution, Manifest
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
for name in sys.argv[2:]:
    runtime = LlamaCppRuntime()
    try:
        runtime.load(Manifest("m", "1", "llama_cpp", name, execution=Execution(threads=1)), Path(sys.argv[1]))
        print(name, "loaded")
    except ModelError as error:
        assert str(Path(sys.argv[1]) / name) in str(error), error
        print(name, error.code)
    runtime.close()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf(tmp_path_factory.mktemp("whole") / "model.gguf").read_bytes()


def test_the_head_of_a_good_file_is_read() -> None:
    head = read_head(GUIDE / "guide.gguf")
    assert head.architecture
    assert head.parameters > 1_000_000
    assert head.length("tokenizer.ggml.tokens") > 256
    assert head.of_architecture("block_count") >= 1


def _with(whole: bytes, key: str, value: int) -> bytes:
    """The file with a 32-bit metadata value replaced."""
    at = whole.index(f"qwen3.{key}".encode()) + len(f"qwen3.{key}") + 4
    return whole[:at] + struct.pack("<I", value) + whole[at + 4 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty file"),
    "random": (lambda _: random.Random(1).randbytes(5000), "not with 'GGUF'"),
    "magic": (lambda b: b"GGML" + b[4:], "not with 'GGUF'"),
    "version": (lambda b: b[:4] + b"\x09" + b[5:], "version 9"),
    "big-endian": (lambda b: b[:4] + b"\x00\x00\x00\x03" + b[8:], "version 50331648"),
    "tensors": (lambda b: b[:8] + b"\xff" * 8 + b[16:], "declares 18446744073709551615 tensors"),
    "entries": (lambda b: b[:16] + b"\xff" * 8 + b[24:], "metadata entries"),
    "key-length": (lambda b: b[:24] + b"\xff" * 8 + b[32:], "outside the file"),
    "array": (
        lambda b: b.replace(struct.pack("<IQ", 8, 512), struct.pack("<IQ", 8, 2**62), 1),
        "more than the file has bytes",
    ),
    **{f"cut-{size}": (lambda b, size=size: b[:size], "truncated") for size in (20, 30, 200, 5000, 20000)},  # type: ignore[misc]
    "layers": (lambda b: _with(b, "block_count", 0), "block_count is 0"),
    "many-layers": (lambda b: _with(b, "block_count", 2**32 - 1), "block_count is 4294967295"),
    "context": (lambda b: _with(b, "context_length", 0), "context_length is 0"),
    "cut-last-byte": (lambda b: b[:-40], "truncated"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(kind: str, whole: bytes, tmp_path: Path) -> None:
    damage, reason = DAMAGE[kind]
    path = tmp_path / "model.gguf"
    path.write_bytes(damage(whole))
    with pytest.raises(ModelLoadFailed, match=reason) as caught:
        LlamaCppRuntime().load(llama_manifest(), tmp_path)
    assert str(path) in caught.value.message


def test_a_missing_file_and_one_outside_the_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model\.gguf does not exist"):
        LlamaCppRuntime().load(llama_manifest(), tmp_path)
    with pytest.raises(InvalidManifest, match="inside the model's folder"):
        LlamaCppRuntime().load(llama_manifest("../model.gguf"), tmp_path)


def test_wrong_sizes_that_llama_cpp_notices_are_load_errors(whole: bytes, tmp_path: Path) -> None:
    for key in ("embedding_length", "feed_forward_length", "attention.key_length", "block_count"):
        (tmp_path / key).write_bytes(_with(whole, key, 7))
    names = [path.name for path in tmp_path.iterdir()]
    ended = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), *names], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.split("\n")[:-1]) == sorted(f"{name} model_load_failed" for name in names)
