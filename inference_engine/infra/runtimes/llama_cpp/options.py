"""The options of the llama_cpp runtime and what they default to on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from inference_engine.domain.errors import InvalidManifest
from inference_engine.infra.formats.gguf import GgufHead
from inference_engine.infra.runtimes.files import file_inside

DEFAULT_CONTEXT = 8192
MAX_PARALLEL = 16
CONTEXT_STEP = 256  # llama.cpp rounds each sequence's context up to this

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
_CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}

Pooling = Literal["mean", "cls", "last"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken where a request leaves a sampling value open; None leaves it to llama.cpp."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None


class AdapterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One LoRA adapter: its GGUF file in the model's folder, and how strongly it is applied."""

    file: str
    scale: Annotated[float, msgspec.Meta(ge=-100, le=100)] = 1.0


class DraftOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small model in the model's folder that guesses ahead.

    Between `min_tokens` and `max_tokens` are guessed at once, as long as the draft gives each at least
    `min_probability`.
    """

    artifact: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    min_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class NgramOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Guesses from the text itself: where the last `match` tokens stood before, up to `max_tokens` that followed."""

    match: Annotated[int, msgspec.Meta(ge=1, le=64)] = 6
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16


class LlamaCppOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a llama_cpp model. None is decided when the model is loaded.

    context_length: tokens one request may use, prompt included; default: the model's trained length, at most 8192.
    parallel: sequences decoded together; default: up to 16, as a quarter of the free memory allows.
    n_batch: prompt tokens computed between two decode steps of the others: small keeps streams even, large is faster.
    gpu_layers: layers on the accelerator, -1 as many as fit. cache_ram_mib: memory for prompts of past conversations.
    chat_template: Jinja text, or the name of a file in the model's folder, instead of the model's own.
    sampling: values for what requests leave open.
    pooling: how an embedding model's token vectors become one; default: the file's own, else mean for encoders and last
    for models that write. normalize: scale embeddings to length 1.
    mmproj: the file of a projector, with which messages may hold images (or sounds).
    draft: a small model of the same vocabulary that guesses ahead. ngram: guesses from repetitions in the text.
    keep_cache: write the prompts' KV cache to disk when the model is unloaded, read it when it is loaded again.
    adapters: LoRA adapters by name, a file or {file, scale}; a request for `model@name` is answered with that one.
    """

    context_length: Positive | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    n_batch: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] = -1
    flash_attention: Literal["auto", "on", "off"] = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    mmap: bool = True
    chat_template: str | None = None
    cache_ram_mib: Annotated[int, msgspec.Meta(ge=0)] = 256
    sampling: SamplingDefaults = SamplingDefaults()
    pooling: Pooling | None = None
    normalize: bool = True
    keep_cache: bool = False
    mmproj: str | None = None
    draft: DraftOptions | None = None
    ngram: NgramOptions | None = None
    adapters: dict[str, str | AdapterOptions] = {}


def context_length(options: LlamaCppOptions, head: GgufHead) -> int:
    """Tokens per sequence: the option, else the trained length within reason; a multiple of `CONTEXT_STEP`.

    Raises:
        InvalidManifest: the option is more than the model was trained for.
    """
    trained = head.of_architecture("context_length")
    if not isinstance(trained, int) or trained < 1:
        trained = DEFAULT_CONTEXT
    wanted = options.context_length or min(trained, DEFAULT_CONTEXT)
    if wanted > trained:
        raise InvalidManifest(
            f"options.context_length is {wanted}, this model was trained for {trained}: lower it",
            param="options.context_length",
        )
    return max(1, -(-wanted // CONTEXT_STEP)) * CONTEXT_STEP


def parallel(options: LlamaCppOptions, head: GgufHead, context: int, free_bytes: int) -> int:
    """Sequences decoded together: the option, else as many as keep the KV cache within a quarter of `free_bytes`."""
    if options.parallel is not None:
        return options.parallel
    per_sequence = max(1, context * _cache_bytes_per_token(options, head))
    return max(1, min(MAX_PARALLEL, free_bytes // 4 // per_sequence))


def chat_template(options: LlamaCppOptions, folder: Path) -> str | None:
    """The text of the template that replaces the model's own, or None.

    Raises:
        InvalidManifest: the option names a file that is not there or is not text.
    """
    value = options.chat_template
    if value is None or "{" in value:
        return value
    path = file_inside(folder, value, "options.chat_template")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{path} cannot be read as a template: {error}", param="options.chat_template") from None


def _cache_bytes_per_token(options: LlamaCppOptions, head: GgufHead) -> int:
    def number(key: str, default: int) -> int:
        value = head.of_architecture(key)
        if isinstance(value, list):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1)
    width = number("embedding_length", 1) // max(1, heads)
    kv_heads, layers = number("attention.head_count_kv", heads), number("block_count", 1)
    key = number("attention.key_length", width) * _CACHE_BYTES.get(options.cache_type_k, 1.0)
    value = number("attention.value_length", width) * _CACHE_BYTES.get(options.cache_type_v, 1.0)
    return int(layers * kv_heads * (key + value))
