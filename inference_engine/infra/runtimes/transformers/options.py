"""The options of the transformers runtime."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from inference_engine.infra.huggingface.folder import Pooling, Trust
from inference_engine.infra.huggingface.options import SamplingDefaults

Positive = Annotated[int, msgspec.Meta(ge=1)]


class TransformersOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a transformers model. None is decided when the model is loaded.

    dtype: of the weights; auto takes what the file holds, float32 where the processor computes that faster.
    quantization: weights rounded to 8 or 4 bits when the model is loaded (bitsandbytes on a GPU, torchao on a CPU).
    context_length: tokens one request may use, prompt included; default: the trained length, at most 8192.
    parallel: sequences decoded together. prefill_chunk: prompt tokens computed between two decode steps of the others.
    adapters: LoRA adapters by the name a request chooses them with, each a folder in the model's folder.
    chat_template: Jinja text, or the name of a file in the model's folder, instead of the model's own.
    pooling, normalize: how an embedding is made, where sentence-transformers' files do not say it.
    max_pixels: the largest image that is decoded. max_audio_s, max_audio_mib: the longest and largest recording.
    trust: `pickle` reads weights that are not SafeTensors, `code` runs the folder's own Python code.
    sampling: values for what requests leave open.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["8bit", "4bit"] | None = None
    context_length: Positive | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    prefill_chunk: Positive = 256
    adapters: dict[str, str] = {}
    chat_template: str | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    max_pixels: Positive = 40_000_000
    max_audio_s: Positive = 3600
    max_audio_mib: Positive = 100
    trust: tuple[Trust, ...] = ()
    sampling: SamplingDefaults = SamplingDefaults()
