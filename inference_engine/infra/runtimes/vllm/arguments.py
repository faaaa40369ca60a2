"""The engine's words as vLLM's: options as engine arguments, sampling and constraint as sampling parameters."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Sampling
from inference_engine.infra.huggingface.folder import HfFolder, Role
from inference_engine.infra.huggingface.options import SamplingDefaults
from inference_engine.infra.runtimes.vllm.options import VllmOptions
from inference_engine.infra.text.grammar import Language

MAX_LOGPROBS = 20


def engine_arguments(folder: HfFolder, options: VllmOptions, role: Role, context: int, *, adapted: bool) -> Any:
    """vLLM's `EngineArgs`. `adapted`: LoRA adapters will be chosen."""
    from vllm.engine.arg_utils import EngineArgs

    trusted = "pickle" in options.trust
    more: dict[str, Any] = {}
    if options.kv_cache_mib is not None:
        more["kv_cache_memory_bytes"] = options.kv_cache_mib << 20
    if options.batched_tokens is not None:
        more["max_num_batched_tokens"] = options.batched_tokens
    if adapted:
        more |= {
            "enable_lora": True,
            "max_loras": len(options.adapters) + 1,  # and the one that changes nothing
            "max_lora_rank": options.adapter_rank,
        }
    if role == "see":
        more["limit_mm_per_prompt"] = {"image": options.images}
    return EngineArgs(
        model=str(folder.path),
        runner="pooling" if role == "embed" else "generate",
        dtype=options.dtype,
        quantization=options.quantization,
        max_model_len=context,
        max_num_seqs=options.parallel,
        gpu_memory_utilization=options.gpu_memory_utilization,
        tensor_parallel_size=options.tensor_parallel,
        enable_prefix_caching=options.prefix_cache,
        enforce_eager=options.eager,
        load_format="auto" if trusted else "safetensors",
        trust_remote_code=folder.has_code and "code" in options.trust,
        generation_config="vllm",  # what requests leave open is filled in here
        max_logprobs=MAX_LOGPROBS,
        disable_log_stats=True,
        **more,
    )


def sampling_params(
    sampling: Sampling,
    options: SamplingDefaults,
    config: dict[str, Any],
    ends: Collection[int],
    vocabulary: int,
    limit: int,
    delivered: int,
    language: Language | None,
) -> Any:
    """vLLM's `SamplingParams` for at most `limit` more tokens after `delivered` ones.

    Raises:
        UnknownField: a value that vLLM cannot honour. InvalidRequest: a biased token is none.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    for name, neutral in (("typical_p", 1.0), ("repeat_last_n", -1)):
        if getattr(sampling, name) not in (None, neutral):
            raise UnknownField(f"{name} is not possible with this model's runtime: leave it out", param=name)
    for token in sampling.logit_bias:
        if not 0 <= token < vocabulary:
            raise InvalidRequest(
                f"logit_bias names token {token}, the model's tokens are 0 to {vocabulary - 1}", param="logit_bias"
            )
    if sampling.ignore_eos and language is not None:
        raise InvalidRequest("a bound answer ends where it is complete: leave ignore_eos out", param="ignore_eos")

    def value(name: str, default: float) -> float:
        return options.value(sampling, config, name, default)

    return SamplingParams(
        max_tokens=limit,
        temperature=value("temperature", 1.0),
        top_p=max(value("top_p", 1.0), 1e-6),  # vLLM refuses 0, which means the likeliest token
        top_k=int(value("top_k", 0)),
        min_p=value("min_p", 0.0),
        presence_penalty=value("presence_penalty", 0.0),
        frequency_penalty=value("frequency_penalty", 0.0),
        repetition_penalty=value("repeat_penalty", 1.0),
        seed=None if sampling.seed is None else _seed(sampling.seed, delivered),
        logprobs=sampling.logprobs,
        logit_bias=dict(sampling.logit_bias) or None,
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=None if sampling.ignore_eos else sorted(ends),
        structured_outputs=None if language is None else StructuredOutputsParams(grammar=language.gbnf()),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _seed(seed: int, delivered: int) -> int:
    """vLLM's 63-bit seed. A continuation draws from another stream, the same one each time it is made."""
    if not delivered:
        return seed % (1 << 63)
    digest = hashlib.blake2b(f"{seed}/{delivered}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def adapter_requests(folders: dict[str, Path]) -> dict[str | None, Any]:
    """vLLM's request for each adapter; the numbers tell them apart in its caches. None is answered by no adapter."""
    if not folders:
        return {None: None}
    from vllm.lora.request import LoRARequest

    requests: dict[str | None, Any] = {None: None}
    for number, (name, path) in enumerate(folders.items(), 1):
        requests[name] = LoRARequest(name, number, str(path))
    return requests


def null_adapter(like: Path, folder: Path, number: int) -> Any:
    """vLLM's request for an adapter in `folder` that changes nothing, made to the measures of the one in `like`.

    vLLM 0.32 on a CPU answers requests without an adapter by another request's adapter when both are in one step; with
    this one every request has an adapter. Found by the tests.
    """
    from safetensors.torch import load_file, save_file
    from vllm.lora.request import LoRARequest

    shutil.copy(like / "adapter_config.json", folder)
    weights = load_file(like / "adapter_model.safetensors")
    save_file({name: weight * 0 for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    return LoRARequest("no adapter", number, str(folder))
