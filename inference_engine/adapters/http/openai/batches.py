"""/v1/batches: create, get, list, cancel. The lines are answered in the background by `services/jobs.py`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.endpoints import Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai.batch_lines import BatchWork
from inference_engine.adapters.http.openai.fields import ExpiresAfter, checked_metadata
from inference_engine.adapters.http.queries import page_of, query
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.jobs import Job
from inference_engine.services.files import FileService
from inference_engine.services.jobs import JobService

BATCHED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""Endpoints whose requests may stand in a batch, where this server has them."""
MAX_LISTED = 100
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 30 * 86400
_ENCODER = msgspec.json.Encoder()


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`completion_window` is a number with a unit (`24h`); what is not done by then expires."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(msgspec.Struct):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(msgspec.Struct):
    object: str
    data: list[BatchError]


class RequestCounts(msgspec.Struct):
    total: int
    completed: int
    failed: int


class Batch(msgspec.Struct, kw_only=True):
    id: str
    object: str = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str]


class BatchList(msgspec.Struct):
    object: str
    data: list[Batch]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


_REQUEST = msgspec.json.Decoder(BatchRequest)


class Batches:
    """The endpoints."""

    def __init__(self, jobs: JobService, files: FileService) -> None:
        self._jobs = jobs
        self._files = files

    async def create(self, exchange: Exchange) -> None:
        body = decode(_REQUEST, await exchange.body())
        principal = exchange.principal
        metadata = checked_metadata(body.metadata)
        window_s = _window_s(body.completion_window)
        file = await self._files.get(principal.tenant, body.input_file_id)
        if file.purpose != "batch":
            raise InvalidRequest(
                f"file {file.id} was uploaded with purpose {file.purpose!r}: upload it with purpose 'batch'",
                param="input_file_id",
            )
        lifetime_s = body.output_expires_after.seconds if body.output_expires_after else None
        job = await self._jobs.create(
            principal, body.endpoint, file.id, body.completion_window, window_s, metadata, lifetime_s
        )
        await exchange.respond(200, _ENCODER.encode(_shown(job)))

    async def get(self, exchange: Exchange) -> None:
        job = self._jobs.get(exchange.principal.tenant, exchange.path_params["batch_id"])
        await exchange.respond(200, _ENCODER.encode(_shown(job)))

    async def list(self, exchange: Exchange) -> None:
        asked = query(exchange, "limit", "after")
        jobs = self._jobs.listed(exchange.principal.tenant)
        page = page_of([(job.id, job) for job in jobs], asked, 20, MAX_LISTED, "desc")
        data = [_shown(job) for job in page.data]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        await exchange.respond(200, _ENCODER.encode(BatchList("list", data, page.more, *ends)), compress=True)

    async def cancel(self, exchange: Exchange) -> None:
        job = await self._jobs.cancel(exchange.principal.tenant, exchange.path_params["batch_id"])
        await exchange.respond(200, _ENCODER.encode(_shown(job)))


def _window_s(window: str) -> int:
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST_S:
        raise InvalidRequest(
            f"completion_window is {window[:80]!r}: send a number and a unit such as 24h, at most 30d",
            param="completion_window",
        )
    return seconds


def _shown(job: Job) -> Batch:
    problems = [BatchError(one.code, one.message, one.param, one.line) for one in job.problems]
    return Batch(
        id=job.id,
        endpoint=job.endpoint,
        errors=BatchErrors("list", problems) if problems else None,
        input_file_id=job.input_file_id,
        completion_window=job.window,
        status=job.status,
        output_file_id=job.output_file_id if job.has_output else None,
        error_file_id=job.error_file_id if job.has_errors else None,
        created_at=job.created_at,
        in_progress_at=job.in_progress_at,
        expires_at=job.expires_at,
        finalizing_at=job.finalizing_at,
        completed_at=job.ended_at if job.status == "completed" else None,
        failed_at=job.ended_at if job.status == "failed" else None,
        expired_at=job.ended_at if job.status == "expired" else None,
        cancelling_at=job.cancelling_at,
        cancelled_at=job.ended_at if job.status == "cancelled" else None,
        request_counts=RequestCounts(job.total, job.completed, job.failed),
        metadata=job.metadata,
    )


_EXAMPLE: dict[str, Any] = {
    "id": "batch_0c1d5f2c9a7be14c1f9c3a1d2e4b6f8a",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-5f2c0d9a7be14c1f9c3a1d2e4b6f8a70",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1790000000,
    "in_progress_at": 1790000001,
    "expires_at": 1790086400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 100, "completed": 42, "failed": 1},
    "metadata": {"run": "nightly"},
}


def works(served: tuple[Endpoint, ...]) -> dict[str, BatchWork]:
    """The work that batches can do with these endpoints."""
    return {
        endpoint.path: BatchWork(endpoint.path, endpoint.handler)
        for endpoint in served
        if endpoint.path in BATCHED and endpoint.method == "POST"
    }


def endpoints(jobs: JobService, files: FileService) -> tuple[Endpoint, ...]:
    """The endpoints over the jobs of `jobs`."""
    handlers = Batches(jobs, files)
    answer: dict[str, Any] = {"response": Batch, "response_example": _EXAMPLE}
    return (
        Endpoint(
            "POST",
            "/v1/batches",
            handlers.create,
            Doc(
                "Answer the requests of a file in the background",
                "The file holds one request on each line: `custom_id`, `method` (POST), `url` (the batch's endpoint) "
                "and `body`. Live requests go first. A batch goes on after a restart of the server.",
                BatchRequest,
                {
                    "chat": {
                        "input_file_id": _EXAMPLE["input_file_id"],
                        "endpoint": "/v1/chat/completions",
                        "completion_window": "24h",
                        "metadata": {"run": "nightly"},
                    }
                },
                errors=(400, 401, 404, 429, 503),
                **answer,
            ),
        ),
        Endpoint(
            "GET",
            "/v1/batches",
            handlers.list,
            Doc(
                "List batches, newest first",
                "Query: `limit` (1 to 100), `after` (an id).",
                response=BatchList,
                response_example={"object": "list", "data": [_EXAMPLE], "has_more": False},
                errors=(400, 401),
            ),
        ),
        Endpoint("GET", "/v1/batches/{batch_id}", handlers.get, Doc("How far a batch is", errors=(401, 404), **answer)),
        Endpoint(
            "POST",
            "/v1/batches/{batch_id}/cancel",
            handlers.cancel,
            Doc(
                "Cancel a batch",
                "What is answered already becomes its output.",
                errors=(400, 401, 404),
                **answer,
            ),
        ),
    )
