"""One log line for each call, where the operator wants them. The fields are those of the HTTP access log."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from inference_engine.adapters.grpc.admission import Admission
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import AccessError

Unary = Callable[[Any, Any], Awaitable[Any]]
Stream = Callable[[AsyncIterator[Any], Any], AsyncGenerator[Any]]
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_log = get_logger(__name__)


class AccessLog:
    """Puts a line after every call of the handlers it is put around."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def unary(self, path: str, handle: Unary) -> Unary:
        async def handled(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                return await handle(request, context)
            finally:
                self._write(path, context, started)

        return handled

    def stream(self, path: str, handle: Stream) -> Stream:
        async def handled(requests: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any]:
            started = time.perf_counter()
            try:
                async with aclosing(handle(requests, context)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                self._write(path, context, started)

        return handled

    def _write(self, path: str, context: Any, started: float) -> None:
        try:
            caller = self._admission.admit(context)
            request_id, key = caller.id, caller.principal.key_id
        except AccessError:
            request_id = key = ""
        code = context.code()
        _log.info(
            "request",
            method="gRPC",
            path=path,
            status=code.name if isinstance(code, grpc.StatusCode) else _NAMES.get(code or 0, "UNKNOWN"),
            seconds=round(time.perf_counter() - started, 6),
            request_id=request_id,
            key=key,
            client=context.peer(),
        )
