"""How a request's body comes: as JSON, or as a form with files."""

from __future__ import annotations

from inference_engine.adapters.http.exchange import Exchange, HttpError

_JSON = (b"", b"application/json", b"text/plain", b"application/x-www-form-urlencoded")
"""What is read as JSON: clients that say nothing send one of these."""


def is_form(exchange: Exchange) -> bool:
    """True for multipart/form-data. Raises `HttpError` for a file that was sent as the whole body."""
    kind = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        return True
    if kind in _JSON or kind.endswith(b"+json"):
        return False
    shown = kind.decode("latin-1")[:80]
    raise HttpError(
        415,
        "unknown_content_type",
        f"a body of type {shown} is not read here: send JSON with the file in base64, or a form (multipart/form-data)",
    )
