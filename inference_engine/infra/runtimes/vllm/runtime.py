"""Runs Hugging Face model folders with vLLM, for GPUs under load; the map of this folder.

load: `infra/huggingface/folder` tells what the model is for, `arguments` translates the options, `engine` steps it.
generate: the prompt and the reading of the answer are those of every runtime on such folders (`infra/huggingface`);
`arguments` turns sampling and constraint into vLLM's. Embeddings go through the same engine as pooling requests.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    EngineError,
    InvalidManifest,
    ModelLoadFailed,
    RunnerLost,
    RuntimeMissing,
    UnsupportedTask,
)
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Generate, Transcribe
from inference_engine.domain.results import Delivered, Done, FinishReason, PositionLogprobs, Usage
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Tensors
from inference_engine.domain.text_tensors import EMBEDDING, TEXT, TOKENS, embed_signature, texts_of
from inference_engine.infra.huggingface.folder import HfFolder, Role
from inference_engine.infra.huggingface.options import adapter_folders, chat_template, context_length, end_tokens
from inference_engine.infra.huggingface.prompts import Prompts
from inference_engine.infra.huggingface.vocabulary import Vocabulary
from inference_engine.infra.huggingface.writing import AnswerWriter, check_context, delivered_ids, token_logprob
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.vllm.arguments import (
    adapter_requests,
    engine_arguments,
    null_adapter,
    sampling_params,
)
from inference_engine.infra.runtimes.vllm.engine import SteppedEngine
from inference_engine.infra.runtimes.vllm.options import VllmOptions
from inference_engine.infra.text.answers import answer_form
from inference_engine.infra.text.grammar import Language, MismatchError
from inference_engine.infra.text.tool_syntax import ChatStyle

_ROLES: tuple[Role, ...] = ("generate", "see", "embed")


class VllmRuntime(RuntimeDefaults):
    """One model folder on one or more GPUs."""

    def __init__(self) -> None:
        self._engine: SteppedEngine | None = None
        self._role: Role = "generate"
        self._options = VllmOptions()
        self._config: dict[str, Any] = {}
        self._ends: frozenset[int] = frozenset()
        self._context = 0
        self._vocabulary: Vocabulary
        self._prompts: Prompts
        self._adapters: dict[str | None, Any] = {}

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = self._options = decode_options(manifest.options, VllmOptions, "vllm")
        path = artifact_path(folder, manifest.artifact)
        hf = HfFolder(path if path.is_dir() else path.parent)
        self._role = hf.role(manifest.task)
        if self._role not in _ROLES:
            raise InvalidManifest(
                "vllm writes, sees and embeds: use runtime: transformers for this model", param="runtime"
            )
        _check_trust(hf, options)
        adapters = adapter_folders(options.adapters, folder)
        self._context = context_length(options.context_length, hf)
        if self._role == "embed":
            self._context = min(self._context, hf.sentence_settings().max_tokens or self._context)
        self._config = hf.generation_defaults()
        engine = self._started(hf, adapted=bool(adapters))
        try:
            loaded = self._described(engine, hf, folder, adapters)
        except EngineError:
            engine.engine_core.shutdown()
            raise
        self._engine = SteppedEngine(engine)
        return loaded

    def _started(self, hf: HfFolder, *, adapted: bool) -> Any:
        try:
            from vllm.v1.engine.llm_engine import LLMEngine
            from vllm.v1.executor import Executor
        except ImportError as error:
            raise RuntimeMissing(
                f'vllm cannot be imported ({error}): pip install "inference-engine[vllm]" on a machine with a GPU'
            ) from error
        try:
            config = engine_arguments(
                hf, self._options, self._role, self._context, adapted=adapted
            ).create_engine_config()
            return LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
        except Exception as error:  # vLLM raises what it likes
            text = "; ".join([line.strip() for line in str(error).splitlines() if line.strip()][:3])
            raise ModelLoadFailed(
                f"vLLM cannot load {hf.path}: {type(error).__name__}: {text}", param="artifact"
            ) from error

    def _described(self, engine: Any, hf: HfFolder, root: Path, adapters: dict[str, Path]) -> Loaded:
        import vllm

        model = engine.model_config
        details = {
            "architecture": hf.architecture,
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": model.quantization or "",
            "tensor_parallel": self._options.tensor_parallel,
            "device": str(engine.vllm_config.device_config.device_type),
            "library": f"vllm {vllm.__version__}",
        }
        tokenizer = engine.get_tokenizer()
        self._vocabulary = Vocabulary(tokenizer, model.get_vocab_size())
        if self._role == "embed":
            size = model.get_hidden_size()
            return Loaded(("embed", "predict"), embed_signature(size), context_length=self._context, details=details)
        self._ends = end_tokens(hf, tokenizer)
        self._adapters = adapter_requests(adapters)
        if adapters and details["device"] == "cpu":
            with tempfile.TemporaryDirectory(prefix="ie-") as made:
                self._adapters[None] = null_adapter(next(iter(adapters.values())), Path(made), len(adapters) + 1)
                engine.add_lora(self._adapters[None])
                engine.pin_lora(len(adapters) + 1)
        template = chat_template(self._options.chat_template, root, tokenizer)
        self._prompts = Prompts(self._vocabulary, template, self._options.max_pixels)
        return Loaded(
            kinds=("complete",) if self._prompts.style is None else ("chat", "complete"),
            concurrency=self._options.parallel,
            context_length=self._context,
            adapters=tuple(adapters),
            media=("image",) if self._role == "see" else (),
            details=details,
        )

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if self._role == "embed" or self._engine is None or isinstance(request, Transcribe):
            raise UnsupportedTask(
                f"this model does not answer such a request: it is loaded to {self._role}", param="model"
            )
        prompt = self._prompts.of(request)
        form = answer_form(request, self._prompts.style or ChatStyle(), thinking=prompt.thinking)
        ids = list(self._vocabulary.ids(prompt.text) if prompt.ids is None else prompt.ids)
        limit = check_context(request, len(ids), self._context)
        given = delivered_ids(delivered, prompt.echo, self._vocabulary)
        if len(given) >= limit:
            usage = Usage(len(ids), len(given), reasoning_tokens=delivered.reasoning_tokens)
            sink.emit(Done("length", usage))
            return
        language = None if form.language is None else _after(form.language, delivered.text[len(prompt.echo) :])
        params = sampling_params(
            request.sampling, self._options.sampling, self._config, self._ends, self._vocabulary.size,
            limit - len(given), len(given), language,
        )  # fmt: skip
        writer = AnswerWriter(form, prompt, len(ids), delivered, given, self._vocabulary, sink)
        media = {"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {}
        stopped = False
        answering = self._engine.submit(
            lambda: not (stopped or sink.cancelled),
            prompt={"prompt_token_ids": [*ids, *given], **media},
            params=params,
            lora_request=self._adapters[request.adapter],
        )
        try:
            with _blamed(request):
                for output in answering.outputs():
                    if not self._written(output, writer, len(given)):
                        return
        finally:
            stopped = True

    def _written(self, output: Any, writer: AnswerWriter, given: int) -> bool:
        """Write down one step's tokens; False once the answer is finished by a stop string."""
        part = output.outputs[0]
        cached = max(0, min(output.num_cached_tokens or 0, len(output.prompt_token_ids) - given))
        writer.prompt_tokens = len(output.prompt_token_ids) - given  # images have become tokens by now
        for place, token in enumerate(part.token_ids):
            if token in self._ends and output.finished and part.finish_reason == "stop":
                continue
            position = None if part.logprobs is None else self._position(token, part.logprobs[place])
            if not writer.token(int(token), position, cached):
                return False
        if output.finished:
            reason: FinishReason = "length" if part.finish_reason == "length" else "stop"
            writer.finish(reason, cached)
        return True

    def _position(self, token: int, found: Mapping[int, Any]) -> PositionLogprobs:
        best = sorted(found.items(), key=lambda item: item[1].rank)
        top = [(id_, value) for id_, value in best if value.rank <= max(1, len(found) - (token != best[0][0]))]
        return PositionLogprobs(
            token_logprob(self._vocabulary, token, found[token].logprob),
            tuple([token_logprob(self._vocabulary, id_, value.logprob) for id_, value in top]),
        )

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if self._role == "embed" or isinstance(request, Transcribe):
            return super().tokenize(request)
        prompt = self._prompts.of(request)
        if prompt.ids is None:
            raise UnsupportedTask("the tokens of images cannot be told: send text only", param="messages")
        return prompt.ids

    def run(self, batch: Tensors) -> Tensors:
        if self._role != "embed" or self._engine is None:
            return super().run(batch)
        from vllm import PoolingParams

        rows = [self._vocabulary.ids(text, start=True) for text in texts_of(batch[TEXT])]
        longest = max(map(len, rows))
        if longest > self._context:
            raise ContextLengthExceeded(
                f"a text has {longest} tokens, this model takes {self._context}: shorten it", param=TEXT
            )
        running = [
            self._engine.submit(lambda: True, prompt={"prompt_token_ids": ids}, params=PoolingParams(task="embed"))
            for ids in rows
        ]
        vectors = [output.outputs.data.float().cpu().numpy() for one in running for output in one.outputs()]
        return {EMBEDDING: np.stack(vectors), TOKENS: np.asarray([len(ids) for ids in rows], np.int32)}

    def gauges(self) -> Mapping[str, float]:
        return {} if self._engine is None else self._engine.gauges()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _check_trust(hf: HfFolder, options: VllmOptions) -> None:
    hf.check_trust(options.trust)
    if hf.has_code and "code" not in options.trust:
        raise ModelLoadFailed(
            f"{hf.path} brings Python code of its own, which can do anything: if you trust who wrote it, set "
            "options.trust: [code] in model.yaml",
            param="options.trust",
        )


def _after(language: Language, given: str) -> Language:
    try:
        return language.after(given)
    except MismatchError as error:
        raise RunnerLost(f"a bound answer cannot be continued: {error}") from error


@contextlib.contextmanager
def _blamed(request: Generate) -> Iterator[None]:
    """An over-long prompt with images is only known to vLLM: its words, as the engine's error."""
    try:
        yield
    except EngineError as error:
        if "maximum model length" in error.message or "max_model_len" in error.message:
            field = "prompt" if hasattr(request, "prompt") else "messages"
            raise ContextLengthExceeded(error.message, param=field) from None
        raise
