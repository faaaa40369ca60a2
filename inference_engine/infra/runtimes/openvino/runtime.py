"""The openvino runtime: one model behind the `Runtime` port, decoded by OpenVINO GenAI's continuous batching.

load: `model_files` reads and checks the files, `options` decides sizes, the pipeline is built in a `Stepper`.
generate: the request becomes token ids (`template`, `vocabulary`) and a generation config (`sampling`); `infra/text`
binds and reads the answer; the stepping thread decodes all generations together, each `Stream` makes deltas of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    RunnerLost,
    RuntimeMissing,
    UnsupportedTask,
)
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Chat, Complete, Generate, Transcribe
from inference_engine.domain.results import Delivered, Done, Usage
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.infra.runtimes.files import artifact_path, file_inside
from inference_engine.infra.runtimes.openvino import options as sizes
from inference_engine.infra.runtimes.openvino.model_files import ModelFacts, read_facts
from inference_engine.infra.runtimes.openvino.options import LAST, OpenvinoOptions, SamplingDefaults
from inference_engine.infra.runtimes.openvino.sampling import check_bound, check_sampling, generation_values
from inference_engine.infra.runtimes.openvino.stepper import Stepper
from inference_engine.infra.runtimes.openvino.stream import Plan, Stream
from inference_engine.infra.runtimes.openvino.template import ChatTemplate
from inference_engine.infra.runtimes.openvino.vocabulary import GgufVocabulary, IrVocabulary, Vocabulary, prompt_ids
from inference_engine.infra.runtimes.openvino.xgrammar import to_xgrammar
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.threads import thread_count
from inference_engine.infra.text.answers import answer_form
from inference_engine.infra.text.grammar import Language, MismatchError
from inference_engine.infra.text.prompting import finished_prompt, template_input
from inference_engine.infra.text.reading import AnswerReader
from inference_engine.infra.text.tool_syntax import ChatStyle, detect_style


class OpenvinoRuntime(RuntimeDefaults):
    """One GGUF file or OpenVINO IR. `generate` may be called from `Loaded.concurrency` threads together."""

    def __init__(self) -> None:
        self._stepper: Stepper
        self._vocabulary: Vocabulary
        self._template: ChatTemplate | None = None
        self._style: ChatStyle | None = None
        self._context = 0
        self._defaults: dict[str, Any] = {}

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, OpenvinoOptions, "openvino")
        if manifest.execution.device not in ("auto", "cpu"):
            raise InvalidManifest(
                f"execution.device is {manifest.execution.device!r}, the openvino runtime computes on the cpu",
                param="execution.device",
            )
        if manifest.execution.executor == "thread":
            raise InvalidManifest(
                "execution.executor is 'thread': OpenVINO holds the interpreter while it computes, which would stop "
                "the whole server; leave it at 'runner'",
                param="execution.executor",
            )
        facts = read_facts(artifact_path(folder, manifest.artifact))
        template = _template_text(options, folder) or facts.template
        self._context = sizes.context_length(options, facts.trained_context)
        self._defaults = _defaults(options.sampling, facts.defaults)
        parallel = options.parallel or sizes.DEFAULT_PARALLEL
        threads = thread_count(manifest.execution.threads)
        plan = _BuildPlan(
            facts.path,
            threads,
            sizes.batched_tokens(options, parallel, facts.parameters, threads),
            sizes.cache_blocks(options, facts.cache, self._context, parallel, _free_bytes()),
            parallel,
            options,
        )
        pipeline = plan.build()
        self._vocabulary = _vocabulary(facts, pipeline, self._context)
        if template is not None:
            self._style = detect_style(template)
            self._template = ChatTemplate(template, bos=_first(facts), eos=self._vocabulary.eos)
        self._stepper = Stepper(plan.build, self._vocabulary.endings, pipeline)
        return Loaded(
            kinds=("chat", "complete") if self._template else ("complete",),
            concurrency=parallel,
            context_length=self._context,
            details=facts.details
            | {
                "threads": threads,
                "library": f"openvino-genai {_version()}",
                "precision": options.precision,
                "kv_cache_precision": options.kv_cache_precision,
                "kv_cache_tokens": plan.blocks * sizes.BLOCK_TOKENS,
                "max_num_batched_tokens": plan.batched_tokens,
            },
        )

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        _check(request)
        prompt, thinking = self._prompt(request)
        echo = self._echo(request)
        given = delivered.text[len(echo) :]
        form = answer_form(request, self._style or ChatStyle(), thinking=thinking)
        done = self._delivered_ids(delivered, len(echo))
        limit = self._limit(request, len(prompt), len(done))
        if limit == 0:
            usage = Usage(len(prompt), len(done), reasoning_tokens=delivered.reasoning_tokens)
            sink.emit(Done("length", usage))
            return
        values = generation_values(request.sampling, self._defaults, delivered=len(done), limit=limit)
        if form.language is not None:
            check_bound(request.sampling)
            values["structured_output_config"] = _structured(form.language, given)
        reader = AnswerReader(form)
        reader.skip(given)
        plan = Plan(
            len(prompt),
            len(done),
            delivered.reasoning_tokens,
            request.sampling.logprobs is not None,
            "" if delivered.text else echo,
            frozenset(token for token in map(self._vocabulary.control, form.markers) if token is not None),
        )
        self._stepper.generate(prompt + done, values, Stream(plan, self._vocabulary, reader, sink), sink)

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        return tuple(self._prompt(request)[0])

    def gauges(self) -> Mapping[str, float]:
        return {"kv_cache_usage_ratio": self._stepper.cache_usage, "requests_processing": float(self._stepper.running)}

    def close(self) -> None:
        self._stepper.close()

    # -- the request as tokens ----------------------------------------------------------------------------------------

    def _prompt(self, request: Chat | Complete) -> tuple[list[int], bool]:
        """The prompt's ids, and whether it has opened the model's thought."""
        if isinstance(request, Chat):
            text, thinking = self._rendered(request)
            return prompt_ids(self._vocabulary, text), thinking
        if isinstance(request.prompt, str):
            ids = prompt_ids(self._vocabulary, request.prompt)
        else:
            ids = list(request.prompt)
            outside = next((token for token in ids if not 0 <= token < self._vocabulary.size), None)
            if outside is not None:
                raise InvalidRequest(
                    f"prompt holds token {outside}, the model's tokens are 0 to {self._vocabulary.size - 1}",
                    param="prompt",
                )
        if not ids:
            raise InvalidRequest("prompt holds no tokens", param="prompt")
        return ids, False

    def _rendered(self, request: Chat) -> tuple[str, bool]:
        if self._template is None or self._style is None:
            raise UnsupportedTask(
                "this model has no chat template: use completions, or set options.chat_template in model.yaml"
            )
        return finished_prompt(self._template.render(template_input(request, self._style)), request, self._style)

    def _echo(self, request: Chat | Complete) -> str:
        if not isinstance(request, Complete) or not request.echo:
            return ""
        if isinstance(request.prompt, str):
            return request.prompt
        return b"".join(self._vocabulary.piece(token) for token in request.prompt).decode(errors="replace")

    def _delivered_ids(self, delivered: Delivered, skip: int) -> list[int]:
        """The tokens of the delivered answer; `skip` characters of it are the echoed prompt."""
        ids: list[int] = []
        for piece in delivered.pieces:
            if isinstance(piece, str):
                cut = min(skip, len(piece))
                skip -= cut
                ids += self._vocabulary.encode(piece[cut:], special=False) if cut < len(piece) else []
            else:
                ids += piece
        return ids

    def _limit(self, request: Chat | Complete, prompt: int, delivered: int) -> int:
        """How many tokens may still be generated.

        Raises:
            ContextLengthExceeded: prompt and answer do not fit.
        """
        field = "prompt" if isinstance(request, Complete) else "messages"
        wanted = request.sampling.max_tokens
        if prompt >= self._context:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens, the model's context holds {self._context}: "
                "shorten the prompt or raise context_length in model.yaml",
                param=field,
            )
        if wanted is not None and prompt + wanted > self._context:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens and max_tokens is {wanted}, together more than the "
                f"{self._context} tokens of the model's context: shorten the prompt or lower max_tokens",
                param=field,
            )
        return max(0, (self._context - prompt if wanted is None else wanted) - delivered)


def _check(request: Chat | Complete) -> None:
    """Refuse what this runtime cannot do, by name."""
    if request.adapter is not None:
        raise UnsupportedTask("the openvino runtime has no adapters: leave the adapter out of the name", param="model")
    if isinstance(request, Complete) and request.suffix is not None:
        raise UnsupportedTask("suffix is not supported by the openvino runtime", param="suffix")
    if isinstance(request, Chat):
        for message in request.messages:
            if not isinstance(message.content, str) and any(not hasattr(part, "text") for part in message.content):
                raise UnsupportedTask("this model takes text only: leave images and audio out", param="messages")
    check_sampling(request.sampling)


def _structured(language: Language, given: str) -> Any:
    """GenAI's structured output for `language` after `given`, the part of the answer that is there already."""
    import openvino_genai

    try:
        grammar = to_xgrammar(language.after(given))
    except MismatchError as error:
        raise RunnerLost(f"a bound answer cannot be continued: {error}") from error
    return openvino_genai.StructuredOutputConfig(grammar=grammar)


# -- loading ----------------------------------------------------------------------------------------------------------


class _BuildPlan(msgspec.Struct, frozen=True):
    """How the pipeline is built, the first time and after a failure."""

    path: Path
    threads: int
    batched_tokens: int
    blocks: int
    parallel: int
    options: OpenvinoOptions

    def build(self) -> Any:
        """
        Raises:
            ModelLoadFailed; RuntimeMissing: the library is not installed.
        """
        try:
            import openvino_genai
        except ImportError as error:
            raise RuntimeMissing(
                f"openvino_genai cannot be imported ({error}): pip install 'inference-engine[openvino]'"
            ) from error
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = self.batched_tokens
        scheduler.max_num_seqs = self.parallel
        scheduler.num_kv_blocks = self.blocks
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = self.options.prefix_caching
        properties = {
            "INFERENCE_PRECISION_HINT": self.options.precision,
            "KV_CACHE_PRECISION": self.options.kv_cache_precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "sampler_num_threads": self.threads,
        }
        try:
            # Properties count only in the fourth place; elsewhere they are ignored without a word.
            return openvino_genai.ContinuousBatchingPipeline(str(self.path), scheduler, "CPU", properties)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise ModelLoadFailed(
                f"OpenVINO cannot load {self.path}: {str(error).strip()[-500:]}. The file may be damaged or too large "
                "for the memory",
                param="artifact",
            ) from None


def _vocabulary(facts: ModelFacts, pipeline: Any, context: int) -> Vocabulary:
    if facts.head is not None:
        return GgufVocabulary(facts.head)
    found = IrVocabulary(pipeline.get_tokenizer(), facts.ending_ids)
    cut = found.cut_at(context - 1)
    if cut is not None:
        raise InvalidManifest(
            f"the tokenizer in {facts.path} cuts texts at {cut} tokens without a word: set options.context_length to "
            f"at most {cut}",
            param="options.context_length",
        )
    return found


def _first(facts: ModelFacts) -> str:
    """The begin-of-text token's name, which templates may write themselves."""
    if facts.head is None:
        return ""
    token = facts.head.metadata.get("tokenizer.ggml.bos_token_id")
    names = facts.head.metadata["tokenizer.ggml.tokens"]
    return str(names[token]) if isinstance(token, int) and token < len(names) else ""


def _defaults(options: SamplingDefaults, model: dict[str, Any]) -> dict[str, Any]:
    """A value for every sampling default: the option, else the model's own, else llama.cpp's."""
    found = {}
    for name in SamplingDefaults.__struct_fields__:
        option = getattr(options, name)
        found[name] = option if option is not None else model.get(name, getattr(LAST, name))
    return found


def _template_text(options: OpenvinoOptions, folder: Path) -> str | None:
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


def _free_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _version() -> str:
    from importlib.metadata import version

    return version("openvino-genai")
