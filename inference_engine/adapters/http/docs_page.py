"""GET /docs: a page that renders /openapi.json without asking any other server for anything."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path

from inference_engine.adapters.http.exchange import Exchange, Header

_PAGE = Path(__file__).parent / "docs_page.html"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


@cache
def _page() -> tuple[bytes, Header]:
    """The page, and the policy that lets it run its own script and nothing else."""
    body = _PAGE.read_bytes()
    scripts = [b"'sha256-%b'" % b64encode(hashlib.sha256(text).digest()) for text in _SCRIPT.findall(body)]
    policy = (
        b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'; script-src " + b" ".join(scripts)
    )
    return body, (b"content-security-policy", policy)


async def docs_page(exchange: Exchange) -> None:
    """Answer with the page."""
    body, policy = _page()
    await exchange.respond(
        200, body, b"text/html; charset=utf-8", (policy, (b"cache-control", b"no-cache")), compress=True
    )
