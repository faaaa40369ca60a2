"""Loads a GGUF model into llama.cpp (xllamacpp) and answers chats and completions; the map of this folder.

load: `gguf_file` checks the file, `options` decides sizes, the Server is started with a private socket (`http_side`).
generate: `prompts` renders the prompt, `infra/text` binds and reads the answer, `generation` builds the request,
`stream` turns its chunks (`chunks`) into deltas.

The process that loads a model should be started with OMP_WAIT_POLICY=passive (else OpenMP's threads spin, and on busy
cores one stream was ten times slower) and GGML_NO_BACKTRACE=1 (else an abort starts a debugger that writes to stdout).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import (
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
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.llama_cpp import options as sizes
from inference_engine.infra.runtimes.llama_cpp.generation import (
    completion_body,
    delivered_ids,
    prompt_field,
)
from inference_engine.infra.runtimes.llama_cpp.gguf_file import GgufHead, read_head
from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSide, HttpSideError
from inference_engine.infra.runtimes.llama_cpp.options import LlamaCppOptions, SamplingDefaults
from inference_engine.infra.runtimes.llama_cpp.prompts import Prompt, Prompts
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
        self._start(params, path)
        properties = self._properties()
        self._context = int(properties["default_generation_settings"]["n_ctx"])
        self._vocabulary = head.length("tokenizer.ggml.tokens")
        self._spaced = head.metadata.get("tokenizer.ggml.model") != "gpt2"
        template = template or head.metadata.get("tokenizer.chat_template")
        self._style = None if template is None else detect_style(template)
        self._prompts = Prompts(self._http, self._style, self._vocabulary)
        return Loaded(
            kinds=("complete",) if self._style is None else ("chat", "complete"),
            concurrency=parallel,
            context_length=self._context,
            details=_details(head, properties, threads),
        )

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
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
        plan = Plan(
            prompt_field(request),
            self._context,
            limit,
            delivered=len(ids),
            reasoning_tokens=delivered.reasoning_tokens,
            logprobs=request.sampling.logprobs,
            echo="" if delivered.text else echo,
        )
        self._complete(body, Stream(plan, reader, sink))

    def close(self) -> None:
        self._server = None  # its destructor ends the decoding loop and joins its threads
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def size(self) -> int:
        """How many tokens the vocabulary has."""
        return self._vocabulary

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
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
            self._server.handle_completions(msgspec.json.encode(body), stream)
        except (RuntimeError, ValueError) as error:
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
    params.endpoint_slots = False
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


def _free_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


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
        "library": f"xllamacpp {xllamacpp.__version__}",
        "processor_features": str(xllamacpp.get_system_info()).strip(" |"),
    }
