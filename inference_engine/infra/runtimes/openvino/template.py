"""Renders a model's chat template (Jinja) into the prompt, in a sandbox: templates come with models."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed
from inference_engine.infra.text.prompting import TemplateInput


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
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelLoadFailed(f"the model's chat template cannot be compiled: {error}", param="artifact") from None
        self._words = {"bos_token": bos, "eos_token": eos}

    def render(self, given: TemplateInput) -> str:
        """The prompt up to where the assistant begins.

        Raises:
            InvalidRequest: the template refuses the messages.
        """
        from jinja2 import TemplateError

        variables = {"messages": given.messages, "add_generation_prompt": True, **self._words, **given.switches}
        if given.tools is not None:
            variables["tools"] = given.tools
        try:
            return str(self._template.render(variables))
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages"
            ) from error


def _now(form: str) -> str:
    """The template's own idea of today."""
    return datetime.now().strftime(form)  # noqa: DTZ005


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
