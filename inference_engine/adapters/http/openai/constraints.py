"""The many ways in which clients ask for bound answers, as one `Constraint`. Knows no grammar engine.

OpenAI has `response_format`, vLLM `structured_outputs` and before it `guided_*`, llama-server `json_schema` and
`grammar`. A request may use one of them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.openai import wire
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Constraint, Grammar, JsonSchema, Regex

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_MAX_CHOICES = 1024


def constraint(body: wire.Common) -> Constraint | None:
    """What binds the answer, None for free text.

    Raises:
        InvalidRequest: a part is missing, or it is asked for in two ways.
    """
    found: dict[str, Constraint] = {}
    if body.response_format is not None and body.response_format.type != "text":
        found["response_format"] = _format(body.response_format)
    if body.structured_outputs is not None:
        found["structured_outputs"] = _structured(body.structured_outputs)
    if body.guided_json is not None:
        found["guided_json"] = JsonSchema(_schema(body.guided_json, "guided_json"))
    if body.guided_regex is not None:
        found["guided_regex"] = Regex(body.guided_regex)
    if body.guided_choice is not None:
        found["guided_choice"] = one_of(body.guided_choice, "guided_choice")
    if body.guided_grammar is not None:
        found["guided_grammar"] = Grammar(body.guided_grammar)
    if body.json_schema is not None:
        found["json_schema"] = JsonSchema(body.json_schema)
    if body.grammar:
        found["grammar"] = Grammar(body.grammar)
    if len(found) > 1:
        names = " and ".join(found)
        raise InvalidRequest(f"{names} both bind the answer: send one of them", param=list(found)[1])
    return next(iter(found.values()), None)


def _format(wanted: wire.ResponseFormat) -> Constraint:
    if wanted.type == "json_object":
        return JsonSchema(wanted.schema or _ANY_OBJECT)
    if wanted.type == "json_schema":
        schema = wanted.json_schema.schema if wanted.json_schema else wanted.schema
        return JsonSchema(_needed(schema, "json_schema", "json_schema.schema"))
    if wanted.type == "regex":
        return Regex(_needed(wanted.regex if wanted.pattern is None else wanted.pattern, "regex", "regex"))
    return Grammar(_needed(wanted.grammar, "grammar", "grammar"))


def _needed(value: Any, kind: str, field: str) -> Any:
    if value is None:
        raise InvalidRequest(f"response_format of type {kind} needs {field}", param=f"response_format.{kind}")
    return value


def _structured(wanted: wire.StructuredOutputs) -> Constraint:
    given = [name for name in wanted.__struct_fields__ if getattr(wanted, name) not in (None, False)]
    if len(given) != 1:
        raise InvalidRequest(
            f"structured_outputs needs exactly one of {', '.join(wanted.__struct_fields__)}", param="structured_outputs"
        )
    if wanted.json is not None:
        return JsonSchema(_schema(wanted.json, "structured_outputs.json"))
    if wanted.regex is not None:
        return Regex(wanted.regex)
    if wanted.choice is not None:
        return one_of(wanted.choice, "structured_outputs.choice")
    return JsonSchema(_ANY_OBJECT) if wanted.grammar is None else Grammar(wanted.grammar)


def _schema(given: dict[str, Any] | str, place: str) -> dict[str, Any]:
    """A schema as it is, or written as JSON text."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"{place} is not a JSON schema: {error}", param=place) from None


def one_of(choices: list[str], place: str) -> Grammar:
    """The answer is one of these texts."""
    if not choices or not all(choices) or len(choices) > _MAX_CHOICES:
        raise InvalidRequest(f"{place} takes 1 to {_MAX_CHOICES} texts, none of them empty", param=place)
    return Grammar("root ::= " + " | ".join(_literal(choice) for choice in choices))


def _literal(text: str) -> str:
    """A text as a GBNF literal."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
