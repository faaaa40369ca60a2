"""The lines that are written, seen from outside: what a reader of the log, or of its JSON, finds."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from inference_engine.core.logging import configure, get_logger, request_context


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_has_the_event_its_fields_and_the_request() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    with request_context(request_id="r-1"):
        get_logger("inference_engine.x").info("model.loaded", model="iris:1")
    get_logger("inference_engine.x").debug("not.written")
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {
        "event": "model.loaded",
        "model": "iris:1",
        "request_id": "r-1",
        "level": "info",
        "logger": "inference_engine.x",
    }


def test_standard_logging_goes_the_same_way() -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(io.StringIO()))
    stream = io.StringIO()
    configure(level="warning", stream=stream)
    logging.getLogger("uvicorn.error").warning("port %d", 80)
    logging.getLogger("uvicorn.error").info("not written")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("port 80", "uvicorn.error", "warning")


def test_an_exception_is_one_line() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("x").exception("failed")
    (line,) = lines(stream)
    assert "ValueError: boom" in str(line["exception"])


def test_a_log_for_people_is_text() -> None:
    stream = io.StringIO()
    configure(format="console", stream=stream)
    get_logger("x").info("server.listening", port=8000)
    assert "server.listening" in stream.getvalue()
    assert "port=8000" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_masked_wherever_they_come_from(format: str) -> None:
    secret = 'k3y-with-"quote'
    stream = io.StringIO()
    configure(format=format, secrets=[secret], stream=stream)  # type: ignore[arg-type] # parametrize gives str
    get_logger("x").info("asked", Authorization="Bearer other", url=f"/?key={secret}")
    logging.getLogger("uvicorn.access").warning("GET /?key=%s", secret)
    try:
        raise ValueError(f"bad key {secret}")
    except ValueError:
        get_logger("x").exception("failed")
    text = stream.getvalue()
    assert text.count("***") >= 4
    assert "k3y" not in text
    assert "Bearer" not in text


def test_the_import_of_rich_is_left_out() -> None:
    code = (
        "import sys; from inference_engine.core.logging import configure, get_logger; configure();"
        "get_logger('x').info('up'); assert 'rich' not in sys.modules; import rich; assert rich"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
