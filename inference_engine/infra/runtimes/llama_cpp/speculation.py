"""Guessing ahead: tokens proposed by a small draft model or by repetitions in the text, which the model then checks.

The answer stays the model's own: a guess is kept only where the model would have written the same. llama.cpp computes
no log probabilities for guessed tokens, so requests that want them are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InvalidManifest, InvalidRequest, ModelLoadFailed
from inference_engine.domain.requests import Generate
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.runtimes.files import file_inside
from inference_engine.infra.runtimes.llama_cpp.options import DraftOptions, LlamaCppOptions

_MAX_VOCABULARY_DIFFERENCE = 128  # llama.cpp's limit; beyond it the draft is refused


def set_speculation(params: Any, options: LlamaCppOptions, base: GgufHead, folder: Path) -> bool:
    """Have `params` guess ahead as `options` say; False when they do not ask for it.

    Raises:
        InvalidManifest: the draft's name leads out of the folder, or the values contradict each other.
        ModelLoadFailed: the draft is missing, damaged, or does not share the model's vocabulary.
    """
    import xllamacpp

    kinds = xllamacpp.common_speculative_type
    types = []
    if options.ngram is not None:
        if options.ngram.match > options.ngram.max_tokens:
            raise InvalidManifest(
                f"options.ngram.match is {options.ngram.match}, it must not be more than max_tokens "
                f"({options.ngram.max_tokens}): llama.cpp guesses at least as many tokens as it has matched",
                param="options.ngram.match",
            )
        types.append(kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE)
        ngram = params.speculative.ngram_simple
        ngram.size_n, ngram.size_m = options.ngram.match, options.ngram.max_tokens
    if options.draft is not None:
        types.append(kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)
        _set_draft(params, options.draft, base, folder)
    if types:
        params.speculative.types = types
    return bool(types)


def _set_draft(params: Any, chosen: DraftOptions, base: GgufHead, folder: Path) -> None:
    field = "options.draft.artifact"
    path = file_inside(folder, chosen.artifact, field)
    try:
        head = read_head(path)
    except ModelLoadFailed as error:
        error.param = field
        raise
    _check_vocabulary(path, head, base, field)
    draft = params.speculative.draft
    draft.mparams.path = str(path)
    draft.n_max, draft.n_min, draft.p_min = chosen.max_tokens, chosen.min_tokens, chosen.min_probability
    draft.n_gpu_layers = params.n_gpu_layers
    draft.cpuparams.n_threads = params.cpuparams.n_threads
    draft.cpuparams_batch.n_threads = params.cpuparams_batch.n_threads


def _check_vocabulary(path: Path, draft: GgufHead, base: GgufHead, field: str) -> None:
    kinds = [head.metadata.get("tokenizer.ggml.model") for head in (draft, base)]
    sizes = [head.length("tokenizer.ggml.tokens") for head in (draft, base)]
    if kinds[0] != kinds[1] or abs(sizes[0] - sizes[1]) > _MAX_VOCABULARY_DIFFERENCE:
        raise ModelLoadFailed(
            f"{path} cannot guess for this model: its vocabulary is {kinds[0]} with {sizes[0]} tokens, the model's "
            f"{kinds[1]} with {sizes[1]}. Take a small model of the same family",
            param=field,
        )


def check_guessing(request: Generate) -> None:
    """Refuse what a model that guesses ahead cannot do.

    Raises:
        InvalidRequest: the request wants log probabilities.
    """
    if request.sampling.logprobs is not None:
        raise InvalidRequest(
            "logprobs cannot be told by this model, because it guesses ahead: leave them out, or take options.draft "
            "and options.ngram out of model.yaml",
            param="logprobs",
        )
