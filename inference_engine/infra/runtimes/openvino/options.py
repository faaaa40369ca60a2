"""The options of the openvino runtime and what they default to on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from inference_engine.domain.errors import InvalidManifest

DEFAULT_CONTEXT = 8192
DEFAULT_PARALLEL = 32
BLOCK_TOKENS = 32  # of a KV cache block of OpenVINO's CPU plugin
_PREFILL_TOKENS = (16, 64)  # beside `parallel`, at least and at most
_EVEN_TOKENS = 96  # a step of so many keeps the gaps of running streams short
_STEP_S = 0.5
_FLOPS = 250e9  # of one thread, roughly
_ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "u8": 1}
_SCALE_BYTES = 8  # a quantized row of the cache carries its scale and zero point

Precision = Literal["f32", "f16", "bf16"]
CachePrecision = Literal["f32", "f16", "bf16", "u8"]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken where a request leaves a sampling value open; None leaves it to the model, then to `LAST`."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None


LAST = SamplingDefaults(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=1.0)
"""llama.cpp's own values, so that a model behaves alike on both runtimes."""


class OpenvinoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an openvino model. None is decided when the model is loaded.

    context_length: tokens one request may use, prompt included; default: the model's trained length, at most 8192.
    parallel: sequences decoded together; default: 32.
    max_num_batched_tokens: tokens computed in one step, those of running streams included: small keeps streams even
    while a prompt is read, large reads prompts faster; default: `parallel` and 16 to 64 more.
    precision: of the computation. kv_cache_precision: of the cache; u8 halves it and costs a little quality and speed.
    kv_cache_mib: memory for the cache, filled as it is used; default: what `parallel` full contexts need, at most a
    quarter of the free memory.
    prefix_caching: keep the cache of finished requests, so that a shared beginning is not computed again.
    chat_template: Jinja text, or the name of a file in the model's folder, instead of the model's own.
    sampling: values for what requests leave open.
    """

    context_length: Positive | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    max_num_batched_tokens: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None
    precision: Precision = "f32"
    kv_cache_precision: CachePrecision = "f16"
    kv_cache_mib: Positive | None = None
    prefix_caching: bool = True
    chat_template: str | None = None
    sampling: SamplingDefaults = SamplingDefaults()


class CacheShape(msgspec.Struct, frozen=True):
    """What one token costs in the KV cache: `layers` times `kv_heads` rows of `key_width` and of `value_width`."""

    layers: int
    kv_heads: int
    key_width: int
    value_width: int


def context_length(options: OpenvinoOptions, trained: int | None) -> int:
    """Tokens per request: the option, else the trained length within reason.

    Raises:
        InvalidManifest: the option is more than the model was trained for, or neither is known.
    """
    if trained is None and options.context_length is None:
        raise InvalidManifest(
            "the model does not tell how long its context is: set options.context_length in model.yaml",
            param="options.context_length",
        )
    if options.context_length is None:
        return min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if trained is not None and options.context_length > trained:
        raise InvalidManifest(
            f"options.context_length is {options.context_length}, this model was trained for {trained}: lower it",
            param="options.context_length",
        )
    return options.context_length


def batched_tokens(options: OpenvinoOptions, parallel: int, parameters: int, threads: int) -> int:
    """Tokens of one step. By default few enough for a step of about half a second: the library holds the interpreter
    while it computes one, so that a long step would silence the heartbeat of its process.

    Raises:
        InvalidManifest: fewer than `parallel`, so that running streams would wait for each other.
    """
    least, most = _PREFILL_TOKENS
    quick = int(_STEP_S * threads * _FLOPS / (2 * max(1, parameters)))
    tokens = options.max_num_batched_tokens or parallel + max(least, min(most, _EVEN_TOKENS - parallel, quick))
    if tokens <= parallel:
        raise InvalidManifest(
            f"options.max_num_batched_tokens is {tokens}, it must be more than options.parallel ({parallel}): "
            "every running stream takes one token of a step",
            param="options.max_num_batched_tokens",
        )
    return tokens


def cache_blocks(options: OpenvinoOptions, shape: CacheShape | None, context: int, parallel: int, free: int) -> int:
    """KV cache blocks: `kv_cache_mib`, else for `parallel` full contexts within a quarter of `free` bytes.

    Raises:
        InvalidManifest: `kv_cache_mib` cannot hold one full context.
    """
    one = -(-context // BLOCK_TOKENS) + 1
    if shape is None:
        return one * parallel
    scale = _SCALE_BYTES if options.kv_cache_precision == "u8" else 0
    size = _ELEMENT_BYTES[options.kv_cache_precision]
    row = (shape.key_width + shape.value_width) * size + 2 * scale
    block = BLOCK_TOKENS * shape.layers * shape.kv_heads * row
    if options.kv_cache_mib is None:
        return max(one, min(one * parallel, free // 4 // block))
    blocks = (options.kv_cache_mib << 20) // block
    if blocks < one:
        raise InvalidManifest(
            f"options.kv_cache_mib is {options.kv_cache_mib}, a context of {context} tokens needs "
            f"{-(-one * block >> 20)}: raise it or lower options.context_length",
            param="options.kv_cache_mib",
        )
    return blocks
