"""The lines of a batch as OpenAI writes them, and how each is answered: by the endpoint's own handler."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from inference_engine.adapters.http.decoding import field_error
from inference_engine.adapters.http.endpoints import Handler
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.adapters.http.inside import answer_inside
from inference_engine.adapters.http.openai import errors
from inference_engine.domain.errors import (
    DeadlineExceeded,
    ModelNotReady,
    QueueFull,
    ShuttingDown,
    Unavailable,
    UnknownField,
)
from inference_engine.domain.files import new_id
from inference_engine.domain.jobs import Ending, LineProblem, Outcome, Task
from inference_engine.domain.requests import Call

_BUSY = (QueueFull, ShuttingDown)
_FLAKY = (ModelNotReady, DeadlineExceeded, Unavailable)
_WHY = {
    "expired": ("batch_expired", "This line was not answered before the batch's completion window closed."),
    "cancelled": ("batch_cancelled", "This line was not answered before the batch was cancelled."),
    "failed": ("batch_failed", "This line was not answered: the batch failed, its errors say why."),
}


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One request. `custom_id` comes back with its answer; `url` is the batch's endpoint."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    """What is looked at before the body is given to its endpoint."""

    stream: bool | None = None


class Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct):
    code: str
    message: str


class Result(msgspec.Struct):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: Response | None
    error: LineError | None


class BatchWork:
    """The `Work` of one endpoint."""

    def __init__(self, endpoint: str, handler: Handler) -> None:
        self._endpoint = endpoint
        self._handler = handler
        self._line = msgspec.json.Decoder(Line)
        self._body = msgspec.json.Decoder(_Body)

    def read(self, line: bytes) -> Task | LineProblem:
        try:
            found = self._line.decode(line)
            if found.method != "POST":
                return LineProblem("invalid_method", f"method is {found.method[:80]!r}, it must be POST", "method")
            if found.url != self._endpoint:
                message = f"url is {found.url[:80]!r}, but this batch is for {self._endpoint}"
                return LineProblem("mismatched_url", message, "url")
            if self._body.decode(found.body).stream:
                return LineProblem("unsupported_stream", "a batch has no streams: leave stream out", "body.stream")
        except msgspec.ValidationError as error:
            problem = field_error(error)
            code = "unknown_parameter" if isinstance(problem, UnknownField) else "invalid_line"
            return LineProblem(code, problem.message, problem.param)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return LineProblem("invalid_json_line", f"the line is not valid JSON: {error}")
        return Task(found.custom_id, bytes(found.body))

    async def run(self, task: Task, call: Call) -> Outcome:
        answer = await answer_inside(self._handler, errors.render, self._endpoint, task.body, call)
        again: Literal["busy", "flaky"] | None = None
        if isinstance(answer.error, _BUSY) or (isinstance(answer.error, HttpError) and answer.status == 429):
            again = "busy"
        elif isinstance(answer.error, _FLAKY):
            again = "flaky"
        return Outcome(call.id, answer.status, answer.body, again)

    def written(self, task: Task, outcome: Outcome) -> bytes:
        body = msgspec.Raw(outcome.body.replace(b"\n", b" "))  # a line feed in JSON is white space
        return msgspec.json.encode(
            Result(new_id("batch_req_"), task.key, Response(outcome.status, outcome.id, body), None)
        )

    def unfinished(self, task: Task, ending: Ending) -> bytes:
        return msgspec.json.encode(Result(new_id("batch_req_"), task.key, None, LineError(*_WHY[ending])))
