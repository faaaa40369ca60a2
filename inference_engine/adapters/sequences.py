"""The parameters `sequence_id`, `sequence_start` and `sequence_end` of the Open Inference Protocol, over any wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import SequenceStep

SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_MAX_ID = 128


def sequence_step(parameters: Mapping[str, Any]) -> SequenceStep | None:
    """The place in a sequence that `parameters` name; None without one, which the id 0 or an empty text say too.

    Raises:
        InvalidRequest: a value is of a wrong type, or there is a start or an end and no sequence.
    """
    id = parameters.get("sequence_id", 0)
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise InvalidRequest("parameters: sequence_id must be a whole number or a text", param="sequence_id")
    if isinstance(id, str) and len(id) > _MAX_ID:
        raise InvalidRequest(f"parameters: sequence_id is longer than {_MAX_ID} characters", param="sequence_id")
    if isinstance(id, int) and not 0 <= id < 2**64:
        raise InvalidRequest("parameters: sequence_id must be from 0 to 2^64 - 1", param="sequence_id")
    flags = [parameters.get(name, False) for name in SEQUENCE[1:]]
    for name, flag in zip(SEQUENCE[1:], flags, strict=True):
        if not isinstance(flag, bool):
            raise InvalidRequest(f"parameters: {name} must be true or false", param=name)
        if flag and not id:
            raise InvalidRequest(f"parameters: {name} needs a sequence_id other than 0", param="sequence_id")
    return SequenceStep(id, *flags) if id else None
