"""Makes the prompt of a request with the model's own tokenizer: renders chats, takes token ids, asks to fill a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_engine.domain.errors import InvalidRequest, UnsupportedTask
from inference_engine.domain.requests import AudioPart, Chat, Complete, Generate, ImagePart, Message
from inference_engine.infra.huggingface.images import decode_image
from inference_engine.infra.huggingface.vocabulary import Vocabulary
from inference_engine.infra.text.prompting import finished_prompt, template_input
from inference_engine.infra.text.tool_syntax import ChatStyle, detect_style

_GAP_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)


@dataclass(frozen=True)
class Prompt:
    """What the model is given. `ids` is None where images stand in `text`: the processor must make both together.

    `echo` is given back before the answer; `thinking`: the prompt has opened the model's thought.
    """

    text: str
    ids: tuple[int, ...] | None
    images: tuple[Any, ...] = ()
    echo: str = ""
    thinking: bool = False


class Prompts:
    """Makes prompts for one loaded model."""

    def __init__(self, vocabulary: Vocabulary, template: str | None, max_pixels: int, renderer: Any = None) -> None:
        """`renderer` renders templates where the tokenizer does not: the processor of a model that sees."""
        self._vocabulary = vocabulary
        self._template = template
        self._max_pixels = max_pixels
        self._renderer = renderer or vocabulary.tokenizer
        self.style: ChatStyle | None = None if template is None else detect_style(template)

    def of(self, request: Chat | Complete) -> Prompt:
        """The prompt of `request`.

        Raises:
            InvalidRequest: the template refuses the messages, an image is none, or a token id is none.
            UnsupportedTask: the model has no chat template, or no tokens for filling gaps.
        """
        prompt = self._chat(request) if isinstance(request, Chat) else self._completion(request)
        if prompt.ids is not None and not prompt.ids:
            field = prompt_field(request)
            raise InvalidRequest(f"{field} holds no tokens", param=field)
        return prompt

    def _completion(self, request: Complete) -> Prompt:
        if request.suffix is not None:
            return self._around_gap(request, request.suffix)
        if isinstance(request.prompt, str):
            ids = self._vocabulary.ids(request.prompt, start=True)
            return Prompt(request.prompt, tuple(ids), echo=request.prompt if request.echo else "")
        self._vocabulary.check_ids(request.prompt, "prompt")
        text = self._vocabulary.text(request.prompt)
        return Prompt(text, request.prompt, echo=text if request.echo else "")

    def _chat(self, request: Chat) -> Prompt:
        if self.style is None:
            raise UnsupportedTask(
                "this model has no chat template: use completions, or set options.chat_template in model.yaml"
            )
        images = self._images(request.messages)
        given = template_input(request, self.style, content=_with_images if images else _text_of)
        try:
            text = str(
                self._renderer.apply_chat_template(
                    given.messages,
                    tools=given.tools,
                    chat_template=self._template,
                    add_generation_prompt=True,
                    tokenize=False,
                    **given.switches,
                )
            )
        except Exception as error:  # templates are programs: what they raise has no common class
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {type(error).__name__}: {error}", param="messages"
            ) from error
        text, thinking = finished_prompt(text, request, self.style)
        ids = None if images else tuple(self._vocabulary.ids(text))
        return Prompt(text, ids, images, thinking=thinking)

    def _images(self, messages: tuple[Message, ...]) -> tuple[Any, ...]:
        images: list[Any] = []
        for index, message in enumerate(messages):
            for part in message.content if isinstance(message.content, tuple) else ():
                field = f"messages[{index}].content"
                if isinstance(part, AudioPart):
                    raise UnsupportedTask(f"{field} holds audio, which this model does not take", param=field)
                if isinstance(part, ImagePart):
                    images.append(decode_image(part.data, self._max_pixels, field))
        return tuple(images)

    def _around_gap(self, request: Complete, suffix: str) -> Prompt:
        if not isinstance(request.prompt, str):
            raise InvalidRequest("a suffix needs the prompt as text, not as token ids", param="suffix")
        known = self._vocabulary.tokenizer.get_vocab()
        marks = next((marks for marks in _GAP_MARKS if all(mark in known for mark in marks)), None)
        if marks is None:
            raise UnsupportedTask(
                "this model has no tokens for filling in between prompt and suffix: leave suffix out", param="suffix"
            )
        before, after, middle = [known[mark] for mark in marks]
        ids = self._vocabulary.ids
        start = ids("", start=True)
        whole = (*start, before, *ids(request.prompt), after, *ids(suffix), middle)
        return Prompt(request.prompt, whole, echo=request.prompt if request.echo else "")


def prompt_field(request: Generate) -> str:
    """The request's field that holds the prompt, for errors."""
    return "prompt" if isinstance(request, Complete) else "messages"


def _text_of(message: Message) -> str:
    return message.text


def _with_images(message: Message) -> Any:
    """A message's content as templates of models that see take it: a list of parts."""
    parts = message.content if isinstance(message.content, tuple) else (message.content,)
    return [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": _plain(part)} for part in parts
    ]


def _plain(part: Any) -> str:
    return part if isinstance(part, str) else str(getattr(part, "text", ""))
