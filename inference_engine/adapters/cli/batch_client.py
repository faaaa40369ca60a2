"""The commands' client for batches: files and batches of a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from inference_engine.adapters.cli.http_client import HttpClient


class Counts(msgspec.Struct):
    total: int
    completed: int
    failed: int


class Problem(msgspec.Struct):
    code: str
    message: str
    line: int | None = None


class Problems(msgspec.Struct):
    data: list[Problem]


class BatchView(msgspec.Struct):
    """A batch as the server shows it."""

    id: str
    status: str
    endpoint: str
    created_at: int
    request_counts: Counts
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Problems | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class _File(msgspec.Struct):
    id: str


class _Batches(msgspec.Struct):
    data: list[BatchView]


class BatchClient(HttpClient):
    """Submits, watches and cancels batches, and fetches their results. Raises what `HttpClient` raises."""

    def submit(self, file: Path, endpoint: str, window: str) -> BatchView:
        with file.open("rb") as stream:
            request = self._http.build_request(
                "POST", "/v1/files", data={"purpose": "batch"}, files={"file": (file.name, stream)}
            )
            uploaded = msgspec.json.decode(self.send(request).content, type=_File)
        body = {"input_file_id": uploaded.id, "endpoint": endpoint, "completion_window": window}
        return self._json("POST", "/v1/batches", body, kind=BatchView)

    def batch(self, id: str) -> BatchView:
        return self._json("GET", f"/v1/batches/{_segment(id)}", kind=BatchView)

    def batches(self) -> list[BatchView]:
        return self._json("GET", "/v1/batches?limit=100", kind=_Batches).data

    def cancel(self, id: str) -> BatchView:
        return self._json("POST", f"/v1/batches/{_segment(id)}/cancel", kind=BatchView)

    def content(self, file_id: str) -> Iterator[bytes]:
        """The bytes of a file in pieces."""
        response = self.send(self._http.build_request("GET", f"/v1/files/{_segment(file_id)}/content"), stream=True)
        try:
            yield from response.iter_bytes()
        finally:
            response.close()


def _segment(id: str) -> str:
    """An id as one segment of a path, whatever was typed."""
    return quote(id, safe="") or "-"
