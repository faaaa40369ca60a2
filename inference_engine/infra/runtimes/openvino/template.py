"""Renders a model's chat template (Jinja) into the prompt, in a sandbox: templates come with models."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed
from inference_engine.domain.requests import Chat


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """
        Raises:
            ModelLoadFailed: the template is not valid Jinja.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}  # noqa: DTZ005  the template's own idea of today
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelLoadFailed(f"the model's chat template cannot be compiled: {error}", param="artifact") from None
        self._words = {"bos_token": bos, "eos_token": eos}

    def render(self, request: Chat, **options: Any) -> str:
        """The prompt up to where the assistant begins.

        Raises:
            InvalidRequest: the template refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            return str(
                self._template.render(messages=_messages(request), add_generation_prompt=True, **self._words, **options)
            )
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages"
            ) from error


def _messages(request: Chat) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": message.text, **({"name": message.name} if message.name else {})}
        for message in request.messages
    ]


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
