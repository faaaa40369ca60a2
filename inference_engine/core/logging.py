"""Logs: one line of JSON, or of text for people, on stderr. Knows how lines are written, not what is worth a line.

The project logs with `get_logger(__name__).info("model.loaded", model="iris:1")`; what libraries log through the
standard `logging` module (uvicorn) goes the same way. `request_context(request_id=...)` adds fields to each line in it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TextIO, cast

from inference_engine.core.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
_SECRET_FIELDS = ("authorization", "api_key", "api_keys", "x-api-key", "cookie", "password", "secret", "token_secret")
_SHORTEST_SECRET = 6  # masking a shorter key wherever its letters occur would only garble the log


def configure(
    level: LogLevel = "info",
    format: LogFormat = "auto",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (stderr); called once, by the composition root.

    `auto` writes for people when the stream is a terminal and JSON otherwise. `secrets` never appear in a line.
    """
    structlog = _structlog()
    stream = stream or sys.stderr
    for_people = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
        _mask_fields,
    ]
    renderers: list[Processor] = (
        # plain tracebacks: the other styles print local variables, which may hold secrets
        [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _MaskingFormatter(
            secrets,
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=shared,
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            ),
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # they bring handlers of their own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def as_library() -> None:
    """Hand log lines to the standard `logging` module, for programs that only use the Python API.

    What they show of it is theirs to say; a structlog configuration of their own is left alone.
    """
    structlog = _structlog()
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `name`; cheap, may be called at import, before `configure`."""
    return cast("structlog.stdlib.BoundLogger", _structlog().stdlib.get_logger(name))


@contextmanager
def request_context(**fields: object) -> Iterator[None]:
    """Add `fields` (a request id, a model) to every line logged inside, also across `await`."""
    with _structlog().contextvars.bound_contextvars(**fields):
        yield


def _structlog() -> ModuleType:
    """structlog without rich: with it installed, structlog imports it for tracebacks, which costs 60 ms at start."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = cast(ModuleType, None)  # the documented way to make an import fail
        try:
            import structlog
        finally:
            del sys.modules["rich"]
        return structlog
    import structlog

    return structlog


def _mask_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in event:
        if name.lower() in _SECRET_FIELDS:
            event[name] = MASK
    return event


class _MaskingFormatter(logging.Formatter):
    """Takes known secrets out of the finished line, wherever they came from: a URL, a traceback, a library."""

    def __init__(self, secrets: Iterable[str], inner: logging.Formatter) -> None:
        super().__init__()
        kept = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        self._secrets = sorted(kept | {json.dumps(secret)[1:-1] for secret in kept}, key=len, reverse=True)
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        for secret in self._secrets:
            line = line.replace(secret, MASK)
        return line


def level() -> LogLevel:
    """From which severity on lines are written now."""
    names: dict[int, LogLevel] = {10: "debug", 20: "info", 30: "warning", 40: "error"}
    return names.get(logging.getLogger().getEffectiveLevel(), "error")


def set_level(level: LogLevel) -> None:
    """Change it while the process runs."""
    logging.getLogger().setLevel(level.upper())
