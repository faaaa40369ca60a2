"""What an answer is bound to, as a language: one way for JSON schemas, regular expressions and GBNF."""

from __future__ import annotations

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Constraint, JsonSchema, Regex
from inference_engine.infra.text.gbnf import GbnfError, parse_gbnf
from inference_engine.infra.text.grammar import Language
from inference_engine.infra.text.json_schema import compile_schema
from inference_engine.infra.text.regex import RegexError, compile_regex


def compile_constraint(constraint: Constraint) -> Language:
    """The texts that fit `constraint`.

    Raises:
        InvalidRequest: it is malformed, contradictory, too large, or not supported; the message tells where.
    """
    if isinstance(constraint, JsonSchema):
        return compile_schema(constraint.schema)
    if isinstance(constraint, Regex):
        try:
            return Language(compile_regex(constraint.pattern), {})
        except RegexError as error:
            raise InvalidRequest(f"the regular expression cannot be used: {error}", param="response_format") from None
    try:
        return parse_gbnf(constraint.text)
    except GbnfError as error:
        raise InvalidRequest(f"the grammar cannot be used: {error}", param="response_format") from None
