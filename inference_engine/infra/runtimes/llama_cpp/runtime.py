"""Loads a GGUF model into llama.cpp (xllamacpp) and answers chats and completions; the map of this folder.

load: `infra/formats/gguf.py` checks the file, `options` decides sizes, the Server is started with a private socket
(`http_side`).
generate: `prompts` renders the prompt, `infra/text` binds and reads the answer, `generation` builds the request,
`stream` turns its chunks (`chunks`) into deltas.
beside these: `embedding` (vectors and rankings), `adapters` (LoRA), `media` (images), `speculation` (guessing ahead),
`kept_cache` (prompts kept on disk), `slots` (gauges).

The process that loads a model should be started with OMP_WAIT_POLICY=passive (else OpenMP's threads spin, and on busy
cores one stream was ten times slower) and GGML_NO_BACKTRACE=1 (else an abort starts a debugger that writes to stdout).
"""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
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
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.llama_cpp import embedding
from inference_engine.infra.runtimes.llama_cpp import options as sizes
from inference_engine.infra.runtimes.llama_cpp.adapters import Adapters, load_adapters
from inference_engine.infra.runtimes.llama_cpp.embedding import Role, TextRows, role_of
from inference_engine.infra.runtimes.llama_cpp.generation import (
    completion_body,
    delivered_ids,
    prompt_field,
)
from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSide, HttpSideError
from inference_engine.infra.runtimes.llama_cpp.kept_cache import SAVE_S, KeptCache, open_kept_cache
from inference_engine.infra.runtimes.llama_cpp.media import MediaDesk, as_chunk, load_projector, media_body
from inference_engine.infra.runtimes.llama_cpp.options import LlamaCppOptions, SamplingDefaults
from inference_engine.infra.runtimes.llama_cpp.prompts import Prompt, Prompts
from inference_engine.infra.runtimes.llama_cpp.slots import Gauges
from inference_engine.infra.runtimes.llama_cpp.speculation import check_guessing, set_speculation
from inference_engine.infra.runtimes.llama_cpp.stream import Plan, Stream, reader_after
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.threads import thread_count
from inference_engine.infra.text.answers import answer_form
from inference_engine.infra.text.grammar import Language, MismatchError
from inference_engine.infra.text.tool_syntax import ChatStyle, detect_style


class LlamaCppRuntime(RuntimeDefaults):
    """One GGUF model. `generate` may be called from `Loaded.concurrency` threads together.

    Close it before the process ends: an exit with work running aborts the process.
    """

    def __init__(self) -> None:
        self._server: Any = None
        self._http: HttpSide
        self._folder: Path | None = None
        self._context = 0
        self._defaults = SamplingDefaults()
        self._vocabulary = 0
        self._style: ChatStyle | None = None
        self._prompts: Prompts
        self._rows: TextRows | None = None
        self._adapters = Adapters({})
        self._media: MediaDesk | None = None
        self._guesses = False
        self._gauges: Gauges | None = None
        self._kept: KeptCache | None = None
        self._spaced = False  # SentencePiece puts a space before every text, also in the middle of an answer

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, LlamaCppOptions, "llama_cpp")
        self._defaults = options.sampling
        path = artifact_path(folder, manifest.artifact)
        head = read_head(path)
        template = sizes.chat_template(options, folder)
        context = sizes.context_length(options, head)
        parallel = sizes.parallel(options, head, context, _free_bytes())
        threads = thread_count(manifest.execution.threads)
        params = _params(options, path, device=manifest.execution.device, threads=threads)
        params.n_parallel = parallel
        params.n_ctx = parallel * context
        if template is not None:
            params.chat_template = template
        role = role_of(manifest.task, head)
        if role == "generate":
            return self._load_writer(manifest, folder, options, head, params, template)
        return self._load_texts(role, manifest, options, head, params, path)

    def _load_writer(
        self,
        manifest: Manifest,
        folder: Path,
        options: LlamaCppOptions,
        head: GgufHead,
        params: Any,
        template: str | None,
    ) -> Loaded:
        """Load a model that generates, with its adapters, projector and draft."""
        path = artifact_path(folder, manifest.artifact)
        self._adapters = load_adapters(params, options, head, folder)
        if options.mmproj is not None:
            load_projector(params, options.mmproj, head, folder)
        self._guesses = set_speculation(params, options, head, folder)
        self._kept = open_kept_cache(params, manifest, options, _files(options, path, folder), _library())
        self._start(params, path)
        properties = self._properties()
        if self._kept is not None:
            self._kept.restore(self._http)
        self._context = int(properties["default_generation_settings"]["n_ctx"])
        self._media = None if options.mmproj is None else MediaDesk(properties)
        self._gauges = Gauges(self._server.handle_metrics, self._http, self._context)
        self._vocabulary = head.length("tokenizer.ggml.tokens")
        self._spaced = head.metadata.get("tokenizer.ggml.model") != "gpt2"
        template = template or head.metadata.get("tokenizer.chat_template")
        self._style = None if template is None else detect_style(template)
        self._prompts = Prompts(self._http, self._style, self._vocabulary)
        return Loaded(
            kinds=("complete",) if self._style is None else ("chat", "complete"),
            concurrency=params.n_parallel,
            context_length=self._context,
            adapters=self._adapters.names,
            media=self._media.kinds if self._media else (),
            closing_s=SAVE_S if self._kept else 0.0,
            details=_details(head, properties, params.cpuparams.n_threads) | _style_details(self._style),
        )

    def _load_texts(
        self, role: Role, manifest: Manifest, options: LlamaCppOptions, head: GgufHead, params: Any, path: Path
    ) -> Loaded:
        """Load a model that embeds or reranks."""
        embedding.check_options(options)
        pooling = embedding.pooling_of(role, options, head)
        limit = embedding.longest(options, head)
        embedding.prepare(params, pooling, limit, manifest.execution.max_batch_size)
        self._start(params, path)
        details = _details(head, self._properties(), thread_count(manifest.execution.threads)) | {"pooling": pooling}
        self._gauges = Gauges(self._server.handle_metrics, self._http, 0)
        self._rows = TextRows(role, self._server, self._http, head, limit, normalize=options.normalize)
        try:
            return self._rows.loaded(details)
        except EngineError:
            self.close()
            raise

    def run(self, batch: Tensors) -> Tensors:
        if self._rows is None:
            return super().run(batch)
        return self._rows.run(batch)

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        if self._rows is not None:
            raise UnsupportedTask("this model embeds or reranks texts, it does not write", param="model")
        if self._guesses:
            check_guessing(request)
        request, media = self._media.taken(request) if self._media else (request, [])
        prompt = self._prompt(request)
        form = answer_form(request, self._style or ChatStyle(), thinking=prompt.thinking)
        echo = prompt.echo
        ids = delivered_ids(delivered, echo, self)
        reader = reader_after(form, delivered, echo)
        limit = request.sampling.max_tokens
        if limit is not None and len(ids) >= limit:
            usage = Usage(len(self._ids(prompt)), len(ids), reasoning_tokens=delivered.reasoning_tokens)
            sink.emit(Done("length", usage))
            return
        grammar = _grammar(form.language, delivered.text[len(echo) :])
        body = completion_body(prompt.content, request, ids, grammar, form.markers, self, self._defaults)
        body |= self._adapters.chosen(request.adapter)
        plan = Plan(
            prompt_field(request),
            self._context,
            limit,
            delivered=len(ids),
            reasoning_tokens=delivered.reasoning_tokens,
            logprobs=request.sampling.logprobs,
            echo="" if delivered.text else echo,
        )
        if self._media:
            body = media_body(body, prompt.content, delivered.text[len(echo) :], media)
        self._complete(body, Stream(plan, reader, sink))

    def close(self) -> None:
        if self._gauges is not None:
            self._gauges.close()
            self._gauges = None
        if self._kept is not None and self._server is not None:
            self._kept.save(self._http)
        self._rows = None
        self._server = None  # its destructor ends the decoding loop and joins its threads
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def gauges(self) -> Mapping[str, float]:
        return {} if self._gauges is None else self._gauges.read()

    @property
    def size(self) -> int:
        """How many tokens the vocabulary has."""
        return self._vocabulary

    @property
    def context(self) -> int:
        """The most tokens one generation may use."""
        return self._context

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        request, media = self._media.taken(request) if self._media else (request, [])
        if media:
            raise UnsupportedTask("the tokens of images and sounds cannot be told: send text only", param="messages")
        return self._ids(self._prompt(request))

    def token_ids(self, text: str) -> list[int]:
        """The ids of plain text in the middle of an answer."""
        if not self._spaced:
            return self._tokenize(text, prompt=False)
        anchor = self._tokenize("\n", prompt=False)
        ids = self._tokenize("\n" + text, prompt=False)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids

    def _tokenize(self, text: str, *, prompt: bool) -> list[int]:
        try:
            return self._http.tokenize(text, prompt=prompt)
        except HttpSideError as error:
            raise InferenceFailed(f"llama.cpp cannot tokenize: {error}") from error

    def _start(self, params: Any, path: Path) -> None:
        import xllamacpp

        self._folder = Path(tempfile.mkdtemp(prefix="ie-"))  # readable by this user only
        socket = self._folder / "llama.sock"
        params.hostnames = [str(socket)]
        self._http = HttpSide(socket)
        try:
            self._server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            self.close()
            raise ModelLoadFailed(
                f"llama.cpp cannot load {path}: {error} The file may be damaged, of an unknown architecture, or "
                "too large for the memory",
                param="artifact",
            ) from None
        self._server.handle_metrics()  # passes through the decoding loop: closing before that has begun would hang

    def _properties(self) -> dict[str, Any]:
        try:
            return self._http.properties()
        except HttpSideError as error:
            self.close()
            raise ModelLoadFailed(f"llama.cpp loaded the model but does not answer: {error}") from error

    def _prompt(self, request: Chat | Complete) -> Prompt:
        try:
            return self._prompts.of(request)
        except HttpSideError as error:
            raise InferenceFailed(f"llama.cpp cannot make the prompt: {error}") from error

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        try:
            return self._prompts.ids(prompt)
        except HttpSideError as error:
            raise InferenceFailed(f"llama.cpp cannot tokenize: {error}") from error

    def _complete(self, body: dict[str, Any], stream: Stream) -> None:
        try:
            if self._media:
                self._http.stream("/completion", body, lambda event: stream(as_chunk(event)))
            else:
                self._server.handle_completions(msgspec.json.encode(body), stream)
        except (RuntimeError, ValueError, HttpSideError) as error:
            raise InferenceFailed(f"llama.cpp failed: {error}") from error
        if stream.error is not None:
            raise stream.error
        if not stream.finished and not stream.cancelled:
            raise InferenceFailed("llama.cpp ended the answer without a final chunk")


def _grammar(language: Language | None, given: str) -> str | None:
    """The grammar that binds an answer after `given`, the part of it that is there already."""
    if language is None:
        return None
    try:
        return language.after(given).gbnf()
    except MismatchError as error:
        raise RunnerLost(f"a bound answer cannot be continued: {error}") from error


def _params(options: LlamaCppOptions, path: Path, *, device: str, threads: int) -> Any:
    """The server's parameters; only what differs from llama.cpp's own defaults is set."""
    try:
        import xllamacpp
    except ImportError as error:
        raise RuntimeMissing(f"xllamacpp cannot be imported ({error}): pip install xllamacpp") from error

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"model"}
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.sse_ping_interval = -1
    params.ctx_shift = False  # a full context ends the answer; nothing is cut silently
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_batch, params.n_ubatch)
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0 if device == "cpu" else options.gpu_layers
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type,
        {"auto": "LLAMA_FLASH_ATTN_TYPE_AUTO", "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED"}.get(
            options.flash_attention, "LLAMA_FLASH_ATTN_TYPE_DISABLED"
        ),
    )
    params.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_k.upper()}")
    params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_v.upper()}")
    if not options.mmap:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.cache_ram_mib = options.cache_ram_mib
    return params


def _files(options: LlamaCppOptions, path: Path, folder: Path) -> list[Path]:
    """The files that a KV cache depends on; of a split model all parts."""
    parts = sorted(path.parent.glob(re.sub(r"-\d{5}-of-", "-*-of-", glob.escape(path.name))))
    return [*parts, *([folder / options.mmproj] if options.mmproj else [])]


def _library() -> str:
    import xllamacpp

    return f"xllamacpp {xllamacpp.__version__}"


def _free_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _style_details(style: ChatStyle | None) -> dict[str, Any]:
    if style is None:
        return {}
    calls = style.syntax.name if style.renders_tools else f"{style.syntax.name}, described by the server"
    return {"tool_calls": calls, "reasoning": style.thought is not None}


def _details(head: GgufHead, properties: dict[str, Any], threads: int) -> dict[str, Any]:
    import xllamacpp

    return {
        "architecture": head.architecture,
        "name": str(head.metadata.get("general.name", "")),
        "parameters": head.parameters,
        "quantization": properties.get("model_ftype", ""),
        "size_bytes": head.size_bytes,
        "trained_context": head.of_architecture("context_length"),
        "vocabulary": head.length("tokenizer.ggml.tokens"),
        "threads": threads,
        "library": _library(),
        "processor_features": str(xllamacpp.get_system_info()).strip(" |"),
    }
