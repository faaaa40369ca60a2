"""Makes the prompt of a request: renders chats, takes token ids, puts a suffix behind the gap to be filled.

Chats are rendered by llama.cpp's own template engine, over its private socket: that is the rendering every GGUF file is
tested with, it runs no Python of a model's author, and it adapts past tool calls to what each template expects.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_engine.domain.errors import InvalidRequest, UnsupportedTask
from inference_engine.domain.requests import Chat, Complete
from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSide, HttpSideError
from inference_engine.infra.text.prompting import finished_prompt, template_input
from inference_engine.infra.text.tool_syntax import ChatStyle

_GAP_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001  their own characters
    ("<PRE>", "<SUF>", "<MID>"),
)


@dataclass(frozen=True)
class Prompt:
    """What llama.cpp is given: text, in which special tokens are recognised, or ids.

    `echo` is what is given back before the answer; `thinking`: the prompt has opened the model's thought.
    """

    content: str | tuple[int, ...]
    echo: str = ""
    thinking: bool = False


class Prompts:
    """Makes prompts for one loaded model. `style` is None where it has no chat template."""

    def __init__(self, http: HttpSide, style: ChatStyle | None, vocabulary: int) -> None:
        self._http = http
        self._style = style
        self._vocabulary = vocabulary
        self._gap: tuple[int, ...] | None = None

    def of(self, request: Chat | Complete) -> Prompt:
        """The prompt of `request`.

        Raises:
            InvalidRequest: the template refuses the messages, or a token id is not one.
            UnsupportedTask: the model has no chat template, or no tokens for filling gaps.
        """
        if isinstance(request, Chat):
            return self._chat(request)
        if request.suffix is not None:
            return self._around_gap(request, request.suffix)
        if isinstance(request.prompt, str):
            return Prompt(request.prompt, request.prompt if request.echo else "")
        if not request.prompt:
            raise InvalidRequest("prompt holds no tokens", param="prompt")
        self._check_ids(request.prompt)
        return Prompt(request.prompt, self._http.text_of(request.prompt) if request.echo else "")

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt. Raises HttpSideError."""
        if isinstance(prompt.content, str):
            return tuple(self._http.tokenize(prompt.content, prompt=True))
        return prompt.content

    def _chat(self, request: Chat) -> Prompt:
        if self._style is None:
            raise UnsupportedTask(
                "this model has no chat template: use completions, or set options.chat_template in model.yaml"
            )
        given = template_input(request, self._style, arguments=str)
        try:
            text = self._http.apply_template(given.messages, given.switches, given.tools)
        except HttpSideError as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages"
            ) from error
        text, thinking = finished_prompt(text, request, self._style)
        return Prompt(text, thinking=thinking)

    def _check_ids(self, ids: tuple[int, ...]) -> None:
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise InvalidRequest(
                    f"prompt names token {token}, the model's tokens are 0 to {self._vocabulary - 1}", param="prompt"
                )

    def _around_gap(self, request: Complete, suffix: str) -> Prompt:
        if not isinstance(request.prompt, str):
            raise InvalidRequest("a suffix needs the prompt as text, not as token ids", param="suffix")
        if self._gap is None:
            self._gap = self._gap_tokens()
        if not self._gap:
            raise UnsupportedTask(
                "this model has no tokens for filling in between prompt and suffix: leave suffix out", param="suffix"
            )
        before, after, middle = self._gap
        ids = (
            *self._http.tokenize("", prompt=True),
            before,
            *self._http.tokenize(request.prompt),
            after,
            *self._http.tokenize(suffix),
            middle,
        )
        return Prompt(ids, request.prompt if request.echo else "")

    def _gap_tokens(self) -> tuple[int, ...]:
        """The ids of the marks before the prompt, before the suffix, and before what stands between; or nothing."""
        for marks in _GAP_MARKS:
            found = [self._http.split(mark, add_special=False, parse_special=True) for mark in marks]
            if all(len(ids) == 1 for ids in found):
                return tuple([ids[0] for ids in found])
        return ()
