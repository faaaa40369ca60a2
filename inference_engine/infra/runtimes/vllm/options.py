"""The options of the vllm runtime."""

from __future__ import annotations

from typing import Annotated

import msgspec

from inference_engine.infra.huggingface.folder import Trust
from inference_engine.infra.huggingface.options import SamplingDefaults

Positive = Annotated[int, msgspec.Meta(ge=1)]


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a vllm model. None leaves the choice to vLLM.

    dtype, quantization: vLLM's words (bfloat16; fp8, awq, gptq, bitsandbytes). context_length: tokens one request may
    use, prompt included; default: the trained length, at most 8192. parallel: sequences decoded together.
    batched_tokens: most tokens computed in one step: small keeps streams even while prompts arrive.
    gpu_memory_utilization: share of each GPU's memory that is taken. kv_cache_mib: memory for keys and values instead.
    tensor_parallel: GPUs that one model is spread over. prefix_cache: reuse what equal beginnings of prompts have in
    common. eager: no compilation: a quicker start, slower answers.
    adapters: LoRA adapters by the name a request chooses them with, each a folder in the model's folder.
    adapter_rank: the largest rank among them. images: most images of one request. max_pixels: the largest of them.
    chat_template: Jinja text, or the name of a file in the model's folder, instead of the model's own.
    trust: `pickle` reads weights that are not SafeTensors, `code` runs the folder's own Python code.
    sampling: values for what requests leave open.
    """

    dtype: str = "auto"
    quantization: str | None = None
    context_length: Positive | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    batched_tokens: Positive | None = None
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    kv_cache_mib: Positive | None = None
    tensor_parallel: Positive = 1
    prefix_cache: bool = True
    eager: bool = False
    adapters: dict[str, str] = {}
    adapter_rank: Positive = 16
    images: Positive = 8
    max_pixels: Positive = 40_000_000
    chat_template: str | None = None
    trust: tuple[Trust, ...] = ()
    sampling: SamplingDefaults = SamplingDefaults()
