"""How a request's body comes: as JSON, or as a form with files, whose fields and files have names."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.forms import Form
from inference_engine.domain.errors import InvalidRequest, UnknownField

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


@contextmanager
def words(**known: Sequence[str]) -> Generator[None]:
    """Around decoding: an error at a field that takes one of a few words says which. Fields go by their last name."""
    try:
        yield
    except InvalidRequest as error:
        field = re.sub(r"\[[^]]*\]", "", error.param or "").rpartition(".")[2]
        if field not in known or "invalid" not in error.message:
            raise
        may = ", ".join(known[field])
        raise type(error)(f"{error.message}: it may be {may}", param=error.param) from None


def single_fields(form: Form) -> dict[str, str]:
    """The text fields of a form. Raises `InvalidRequest`: one came several times."""
    for name, found in form.fields.items():
        if len(found) > 1:
            raise InvalidRequest(f"{name[:80]} came several times: send it once", param=name[:80])
    return {name: found[0] for name, found in form.fields.items()}


def check_files(form: Form, names: tuple[str, ...]) -> None:
    """Raises `UnknownField`: a file came under another name than these."""
    for name in form.files:
        if name not in names:
            raise UnknownField(
                f"{name[:80]} is not a file that is taken here: upload files as {' or '.join(names)}", param=name[:80]
            )
