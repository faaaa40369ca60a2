"""A loaded model that writes: chats and completions, with images where it sees. Read `generate` first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InferenceFailed, InvalidRequest, UnsupportedTask
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Chat, Complete, Generate, Transcribe
from inference_engine.domain.results import Delivered, Done, PositionLogprobs, Usage
from inference_engine.infra.huggingface.folder import HfFolder
from inference_engine.infra.huggingface.options import chat_template, context_length, end_tokens
from inference_engine.infra.huggingface.prompts import Prompt, Prompts
from inference_engine.infra.huggingface.vocabulary import Vocabulary
from inference_engine.infra.huggingface.writing import AnswerWriter, check_context, delivered_ids, token_logprob
from inference_engine.infra.runtimes.transformers.batching import BatchLoop
from inference_engine.infra.runtimes.transformers.constraint import Grammars
from inference_engine.infra.runtimes.transformers.joint_cache import why_not_joint
from inference_engine.infra.runtimes.transformers.loading import LoadedModel
from inference_engine.infra.runtimes.transformers.options import TransformersOptions
from inference_engine.infra.runtimes.transformers.sampling import Chosen, Sampler
from inference_engine.infra.runtimes.transformers.sequences import SequenceRun
from inference_engine.infra.runtimes.transformers.single import SingleFile
from inference_engine.infra.text.answers import AnswerForm, answer_form
from inference_engine.infra.text.tool_syntax import ChatStyle


class TextModel:
    """Answers chats and completions with one model. `processor` is of a model that sees, else None."""

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Any,
        processor: Any,
        folder: HfFolder,
        options: TransformersOptions,
        root: Path,
    ) -> None:
        """`root` is the model's own folder, where a template's file is looked for."""
        self._model = loaded
        self._options = options
        self._processor = processor
        self._config = folder.generation_defaults()
        self._vocabulary = Vocabulary(tokenizer, int(loaded.model.config.get_text_config().vocab_size))
        self._ends = end_tokens(folder, tokenizer)
        template = chat_template(options.chat_template, root, processor, tokenizer)
        self._prompts = Prompts(self._vocabulary, template, options.max_pixels, processor)
        self._grammars = Grammars(self._vocabulary, self._ends)
        self._context = context_length(options.context_length, folder)
        self._single_because = (
            "it sees" if processor is not None else why_not_joint(loaded.model, self._vocabulary.size)
        )
        self._engine: BatchLoop | SingleFile = (
            SingleFile(loaded.model, loaded.switch)
            if self._single_because
            else BatchLoop(loaded.model, options.parallel, options.prefill_chunk, loaded.switch)
        )

    def loaded(self, details: dict[str, Any]) -> Loaded:
        alone = {"one_at_a_time_because": self._single_because} if self._single_because else {}
        return Loaded(
            kinds=("complete",) if self._prompts.style is None else ("chat", "complete"),
            concurrency=1 if self._single_because else self._options.parallel,
            context_length=self._context,
            adapters=self._model.adapters,
            media=("image",) if self._processor is not None else (),
            details=details | {"vocabulary": self._vocabulary.size} | alone,
        )

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        prompt = self._prompts.of(request)
        form = answer_form(request, self._prompts.style or ChatStyle(), thinking=prompt.thinking)
        ids, inputs = self._inputs(prompt)
        limit = check_context(request, len(ids), self._context)
        given = delivered_ids(delivered, prompt.echo, self._vocabulary)
        if len(given) >= limit:
            usage = Usage(len(ids), len(given), reasoning_tokens=delivered.reasoning_tokens)
            sink.emit(Done("length", usage))
            return
        sampler = self._sampler(request, form, ids, given, delivered.text[len(prompt.echo) :])
        run = SequenceRun([*ids, *given], sampler, limit - len(given), sink, request.adapter, inputs)
        writer = AnswerWriter(form, prompt, len(ids), delivered, given, self._vocabulary, sink)
        self._engine.start(run)
        try:
            for event in run.events():
                if isinstance(event, str):
                    writer.finish(event)
                elif not writer.token(event.token, self._logprobs(event)):
                    return
        finally:
            run.drop()

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes text, it hears nothing: ask it for a chat", param="model")
        return tuple(self._inputs(self._prompts.of(request))[0])

    def gauges(self) -> Mapping[str, float]:
        return self._engine.gauges()

    def close(self) -> None:
        self._engine.close()

    def _sampler(
        self, request: Chat | Complete, form: AnswerForm, ids: list[int], given: list[int], text: str
    ) -> Sampler:
        follower = None if form.language is None else self._grammars.follower(form.language, text)
        return Sampler(
            request.sampling, self._options.sampling, self._config, self._ends, self._vocabulary.size,
            ids, given, follower,
        )  # fmt: skip

    def _inputs(self, prompt: Prompt) -> tuple[list[int], dict[str, Any]]:
        """The prompt's ids, and what else the model's first step is given."""
        if prompt.ids is not None:
            return list(prompt.ids), {}
        try:
            made = self._processor(text=[prompt.text], images=list(prompt.images), return_tensors="pt")
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(f"the images do not fit the messages: {error}", param="messages") from error
        except RuntimeError as error:
            raise InferenceFailed(f"the images cannot be prepared: {error}") from error
        ids = [int(token) for token in made.pop("input_ids")[0]]
        made.pop("attention_mask", None)
        device, dtype = self._model.model.device, self._model.model.dtype
        return ids, {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in made.items()
            if hasattr(value, "is_floating_point")
        }

    def _logprobs(self, chosen: Chosen) -> PositionLogprobs | None:
        if chosen.logprob is None:
            return None
        top = tuple([token_logprob(self._vocabulary, token, logprob) for token, logprob in chosen.top])
        return PositionLogprobs(token_logprob(self._vocabulary, chosen.token, chosen.logprob), top)
