"""The trace and logging extensions of v2: what is set, and changing what can be changed while the server runs."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.decoding import decode, shown
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.core import logging
from inference_engine.core.settings import LogLevel
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.services.models import ModelService

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ENCODER = msgspec.json.Encoder()
_TRACE: dict[str, Any] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
"""Nothing is traced in Triton's way; these are Triton's own values for that."""
_FLAGS: tuple[tuple[str, LogLevel], ...] = (("log_error", "error"), ("log_warning", "warning"), ("log_info", "info"))
_ORDER: tuple[LogLevel, ...] = ("error", "warning", "info", "debug")


class ServerSettings:
    """The endpoints."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    # -- traces ----------------------------------------------------------------------------------------------------

    async def trace(self, exchange: Exchange) -> None:
        self._check_model(exchange)
        await exchange.respond(200, _ENCODER.encode(_TRACE))

    async def set_trace(self, exchange: Exchange) -> None:
        """`null` resets a setting, which leaves it as it is; only what is so already can be set."""
        self._check_model(exchange)
        for name, value in decode(_OBJECT, await exchange.body()).items():
            if name not in _TRACE:
                raise UnknownField(f"{shown(name)} is not a trace setting: {', '.join(_TRACE)}", param=name[:80])
            if value is not None and value not in (_TRACE[name], [_TRACE[name]]):
                raise InvalidRequest(
                    f"{name} cannot be {shown(value)}: this server writes no traces of that kind, see /metrics and "
                    "/v2/models/stats",
                    param=name,
                )
        await exchange.respond(200, _ENCODER.encode(_TRACE))

    def _check_model(self, exchange: Exchange) -> None:
        if "model" in exchange.path_params:
            self._models.resolve(exchange.path_params["model"])

    # -- logs ------------------------------------------------------------------------------------------------------

    async def logging(self, exchange: Exchange) -> None:
        await exchange.respond(200, _ENCODER.encode(_log_settings()))

    async def set_logging(self, exchange: Exchange) -> None:
        wanted = decode(_OBJECT, await exchange.body())
        now = _log_settings()
        for name, value in wanted.items():
            if name not in now:
                raise UnknownField(f"{shown(name)} is not a log setting: {', '.join(now)}", param=name[:80])
            if name in ("log_file", "log_format") and value != now[name]:
                raise InvalidRequest(
                    f"{name} cannot be changed while the server runs: see log_format in docs/configuration.md",
                    param=name,
                )
        logging.set_level(_level({**now, **wanted}))
        await exchange.respond(200, _ENCODER.encode(_log_settings()))


def _log_settings() -> dict[str, Any]:
    reached = _ORDER.index(logging.level())
    flags = {name: _ORDER.index(level) <= reached for name, level in _FLAGS}
    return {"log_file": "", **flags, "log_verbose_level": int(reached == len(_ORDER) - 1), "log_format": "default"}


def _level(settings: dict[str, Any]) -> LogLevel:
    """The one threshold that a set of flags amounts to.

    Raises:
        InvalidRequest: a value of the wrong type, or flags that no threshold amounts to.
    """
    verbose: object = settings["log_verbose_level"]
    if type(verbose) is not int or verbose < 0:
        raise InvalidRequest("log_verbose_level must be a whole number from 0", param="log_verbose_level")
    for name, _ in _FLAGS:
        if type(settings[name]) is not bool:
            raise InvalidRequest(f"{name} must be true or false", param=name)
    if verbose and all(settings[name] for name, _ in _FLAGS):
        return "debug"
    on: list[bool] = [settings[name] for name, _ in _FLAGS]
    count = on.count(True)
    if verbose or count == 0 or on != [True] * count + [False] * (len(on) - count):
        raise InvalidRequest(
            "logs have one level here: a flag needs all that are more severe (log_verbose_level needs log_info, "
            "log_info needs log_warning, that needs log_error), and errors are always logged",
            param="log_verbose_level" if verbose else "log_info",
        )
    return _ORDER[count - 1]
