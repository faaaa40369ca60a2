"""What is known of a model before OpenVINO sees it, and the refusal of what OpenVINO would load and answer wrongly.

OpenVINO trusts a GGUF file's sizes, ignores what it does not know (scaled positions), and reads some models wrongly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.runtimes.openvino.options import CacheShape
from inference_engine.infra.runtimes.openvino.vocabulary import MERGES, TOKENS, TYPES

IR_MODEL = "openvino_model.xml"
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_F32 = 0
_MATRICES = {1: "F16", 2: "Q4_0", 8: "Q8_0"}
_TYPE_NAMES = {
    0: "F32", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 30: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """What the files say. `ending_ids` end an answer; `defaults` are the model's own sampling values.

    `parameters` of an IR are guessed from its size.
    """

    path: Path
    parameters: int
    trained_context: int | None
    cache: CacheShape | None
    template: str | None
    head: GgufHead | None
    ending_ids: tuple[int, ...]
    defaults: dict[str, Any]
    details: dict[str, Any]


def read_facts(path: Path) -> ModelFacts:
    """Read and check the artifact: a GGUF file, or a folder (or the `.xml` in it) with an OpenVINO IR.

    Raises:
        ModelLoadFailed: damaged, or not among what OpenVINO computes rightly; the message names the file.
    """
    if path.is_dir() or path.suffix == ".xml":
        return _ir_facts(path if path.is_dir() else path.parent)
    if path.suffix.lower() != ".gguf":
        raise ModelLoadFailed(
            f"{path} is neither a GGUF file nor a folder with {IR_MODEL}: correct artifact in model.yaml",
            param="artifact",
        )
    head = read_head(path, keep=frozenset((TOKENS, TYPES, MERGES)))
    _check_gguf(path, head)
    return ModelFacts(
        path,
        head.parameters,
        head.of_architecture("context_length"),
        _cache_shape(head),
        head.metadata.get("tokenizer.chat_template"),
        head,
        (),
        {},
        {
            "architecture": head.architecture,
            "name": str(head.metadata.get("general.name", "")),
            "parameters": head.parameters,
            "quantization": _quantization(head),
            "size_bytes": head.size_bytes,
            "trained_context": head.of_architecture("context_length"),
            "vocabulary": len(head.metadata[TOKENS]),
        },
    )


# -- GGUF ----------------------------------------------------------------------------------------------------------


def _check_gguf(path: Path, head: GgufHead) -> None:
    def refuse(why: str) -> ModelLoadFailed:
        return ModelLoadFailed(f"{path} cannot be run by OpenVINO: {why}. Use runtime: llama_cpp", param="artifact")

    if head.architecture not in ARCHITECTURES:
        raise refuse(f"its architecture is {head.architecture!r}, only {', '.join(ARCHITECTURES)} are computed rightly")
    if not head.metadata.get(TOKENS):
        raise refuse("it holds no vocabulary")
    for name, shape in head.tensors.items():
        kind = head.types[name]
        if len(shape) > 1 and kind not in _MATRICES:
            word = _TYPE_NAMES.get(kind, f"type {kind}")
            raise refuse(f"{name} is {word}; only F16, Q8_0 and Q4_0 are computed as exactly there")
        if len(shape) == 1 and kind != _F32:
            raise refuse(f"{name} is not stored as F32")
    scaling = head.of_architecture("rope.scaling.type")
    if scaling not in (None, "none") or "rope_freqs.weight" in head.tensors:
        raise refuse("its positions are scaled (RoPE scaling), which would be ignored")
    if head.of_architecture("attention.sliding_window") or head.of_architecture("expert_count"):
        raise refuse("it has a sliding window or experts, which would be ignored")
    _check_sizes(path, head)


def _check_sizes(path: Path, head: GgufHead) -> None:
    """Hold the metadata to the tensors: OpenVINO loads a file whose sizes contradict each other."""
    width, heads = _number(path, head, "embedding_length"), _number(path, head, "attention.head_count")
    kv_heads = head.of_architecture("attention.head_count_kv") or heads
    forward, layers = _number(path, head, "feed_forward_length"), _number(path, head, "block_count")
    if width % heads:
        raise _contradiction(path, f"embedding_length {width} is no multiple of head_count {heads}")
    key = head.of_architecture("attention.key_length") or width // heads
    value = head.of_architecture("attention.value_length") or width // heads
    if head.architecture == "llama" and (key != width // heads or value != width // heads):
        raise _contradiction(path, f"heads of {key} and {value} values are not supported for llama")
    expected = {"token_embd.weight": (width, len(head.metadata[TOKENS])), "output_norm.weight": (width,)}
    for layer in range(layers):
        expected |= {
            f"blk.{layer}.attn_q.weight": (width, heads * key),
            f"blk.{layer}.attn_k.weight": (width, kv_heads * key),
            f"blk.{layer}.attn_v.weight": (width, kv_heads * value),
            f"blk.{layer}.attn_output.weight": (heads * value, width),
            f"blk.{layer}.ffn_gate.weight": (width, forward),
            f"blk.{layer}.ffn_up.weight": (width, forward),
            f"blk.{layer}.ffn_down.weight": (forward, width),
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.ffn_norm.weight": (width,),
        }
    for name, shape in expected.items():
        found = head.tensors.get(name)
        if found is None:
            raise _contradiction(path, f"tensor {name} is missing")
        if found != shape:
            raise _contradiction(path, f"tensor {name} has shape {found}, the metadata says {shape}")


def _contradiction(path: Path, why: str) -> ModelLoadFailed:
    return ModelLoadFailed(f"{path} is damaged or not a plain model: {why}. Fetch it again", param="artifact")


def _number(path: Path, head: GgufHead, key: str) -> int:
    value = head.of_architecture(key)
    if not isinstance(value, int) or value < 1:
        raise _contradiction(path, f"{head.architecture}.{key} is {value!r}, not a positive number")
    return value


def _cache_shape(head: GgufHead) -> CacheShape:
    heads = int(head.of_architecture("attention.head_count"))
    width = int(head.of_architecture("embedding_length")) // heads
    return CacheShape(
        layers=int(head.of_architecture("block_count")),
        kv_heads=int(head.of_architecture("attention.head_count_kv") or heads),
        key_width=int(head.of_architecture("attention.key_length") or width),
        value_width=int(head.of_architecture("attention.value_length") or width),
    )


def _quantization(head: GgufHead) -> str:
    """The type of the largest matrix."""
    name = max(head.tensors, key=lambda name: math.prod(head.tensors[name]))
    return _MATRICES.get(head.types[name], "")


# -- OpenVINO IR ---------------------------------------------------------------------------------------------------


class _Config(msgspec.Struct):
    """`config.json` of a Hugging Face model; only what is read."""

    architectures: list[str] = []
    model_type: str = ""
    max_position_embeddings: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    hidden_size: int | None = None
    head_dim: int | None = None


class _Generation(msgspec.Struct):
    """`generation_config.json`; only what is read."""

    eos_token_id: int | list[int] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[dict[str, str]] | None = None


def _ir_facts(folder: Path) -> ModelFacts:
    for name in (IR_MODEL, "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        if not (folder / name).is_file():
            raise ModelLoadFailed(
                f"{folder} holds no {name}: an OpenVINO IR needs the model and its tokenizer as "
                "`optimum-cli export openvino` writes them",
                param="artifact",
            )
    config = _read(folder / "config.json", _Config)
    generation = _read(folder / "generation_config.json", _Generation)
    ends = generation.eos_token_id
    return ModelFacts(
        folder,
        (folder / "openvino_model.bin").stat().st_size,
        config.max_position_embeddings,
        _ir_cache_shape(config),
        _ir_template(folder),
        None,
        tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        _ir_defaults(generation),
        {
            "architecture": config.model_type or "unknown",
            "quantization": "IR",
            "size_bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
            "trained_context": config.max_position_embeddings,
        },
    )


T = TypeVar("T", bound=msgspec.Struct)


def _read(file: Path, kind: type[T]) -> T:
    if not file.is_file():
        return kind()
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelLoadFailed(f"{file} cannot be read: {error}", param="artifact") from None


def _ir_cache_shape(config: _Config) -> CacheShape | None:
    heads = config.num_attention_heads
    width = config.head_dim or (config.hidden_size // heads if config.hidden_size and heads else None)
    if not config.num_hidden_layers or not heads or not width:
        return None
    return CacheShape(config.num_hidden_layers, config.num_key_value_heads or heads, width, width)


def _ir_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    template = _read(folder / "tokenizer_config.json", _TokenizerConfig).chat_template
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        return named.get("default")
    return template


def _ir_defaults(generation: _Generation) -> dict[str, Any]:
    """The model's own sampling values, by our names."""
    found = {
        "temperature": 0.0 if generation.do_sample is False else generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "repeat_penalty": generation.repetition_penalty,
    }
    return {name: value for name, value in found.items() if value is not None}
