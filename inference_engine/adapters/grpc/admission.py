"""What every call meets: who asks, until when, and errors as gRPC says them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import count
from secrets import token_hex
from typing import Any, NamedTuple, NoReturn

import grpc

from inference_engine.adapters.grpc.statuses import STATUS
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError
from inference_engine.domain.requests import Call, Principal
from inference_engine.services.access import LOCAL, AccessService

_REQUEST_ID_NAME = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_log = get_logger(__name__)


class Caller(NamedTuple):
    """Who calls, and the id that logs and traces share."""

    principal: Principal
    id: str


class Admission:
    """Makes the `Call` of a request from its metadata and its deadline. `limit_s` bounds every request."""

    def __init__(self, access: AccessService, clock: Callable[[], float], limit_s: float) -> None:
        self._access = access
        self._clock = clock
        self._ids = count()
        self._id_prefix = token_hex(8)
        self._limit_s = limit_s

    def admit(self, context: Any) -> Caller:
        """Who calls; asked before anything else is looked at.

        Raises:
            Unauthenticated.
        """
        metadata = context.invocation_metadata() or ()
        principal = self._access.authenticate(_headers(metadata)) if self._access.has_keys else LOCAL
        for name, value in metadata:
            if name == _REQUEST_ID_NAME and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
                return Caller(principal, value)
        return Caller(principal, f"{self._id_prefix}{next(self._ids):08x}")

    def call(self, caller: Caller, context: Any, own_limit_s: float | None, priority: int) -> Call:
        """The call of one request: the client's deadline, its own `timeout` and our limit, whichever is first."""
        limit_s = self._limit_s if own_limit_s is None else min(self._limit_s, own_limit_s)
        left_s = context.time_remaining()
        if left_s is not None and left_s < limit_s:
            limit_s = left_s
        return Call(caller.id, caller.principal, self._clock() + limit_s, priority)


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> dict[bytes, bytes]:
    return {
        name.encode("latin-1"): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        for name, value in metadata
    }


def told(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """The status and the message of any error; one that was not raised on purpose is logged."""
    if isinstance(error, EngineError):
        return STATUS[type(error)], error.message
    _log.error("unexpected error", method=method, exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed unexpectedly; its log says more"


async def abort(context: Any, error: Exception, method: str) -> NoReturn:
    """End a call with an error. The field at fault and the time to come back are in the trailing metadata."""
    code, text = told(error, method)
    trailing: list[tuple[str, str]] = []
    if isinstance(error, EngineError):
        trailing.append(("error-code", error.code))
        if error.param is not None and error.param.isascii() and error.param.isprintable():
            trailing.append(("error-param", error.param[:200]))
        if error.retry_after_s is not None:
            trailing.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    await context.abort(code, text, tuple(trailing))
    raise AssertionError("abort returns never")
