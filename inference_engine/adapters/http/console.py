"""Serves the built console from one folder, and nothing outside it."""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
import re
from pathlib import Path

from inference_engine.adapters.http.exchange import Exchange, Header, HttpError

CONSOLE_DIST = Path(__file__).parent / "console_dist"
_HASHED = re.compile(r"-[A-Za-z0-9_-]{8,}\.[a-z0-9]+$")
_CACHE_FOREVER: Header = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN: Header = (b"cache-control", b"no-cache")
_POLICY = (
    b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
PAGE_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
HTML = b"text/html; charset=utf-8"
_MISSING = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Console not built</title>
<meta name="color-scheme" content="light dark"><body>
<h1>The console is not built</h1><p>The server runs, and its APIs answer: see <a href="/docs">/docs</a>.</p>
<p>To have the console, run <code>make console</code> in the project's folder and reload this page.</p></body></html>
"""


class Console:
    """The console's pages and assets. Paths without a file belong to the client-side router and get `index.html`."""

    def __init__(self, folder: Path, root_path: str = "") -> None:
        self._folder = folder
        self._files: dict[Path, tuple[int, tuple[bytes, bytes, bytes]]] = {}
        self._home = (root_path + "/console/").encode("latin-1")

    async def redirect(self, exchange: Exchange) -> None:
        await exchange.respond(307, b"", HTML, headers=((b"location", self._home),))

    async def favicon(self, exchange: Exchange) -> None:
        path = self._inside("favicon.ico") or self._inside("favicon.svg")
        if path is None:
            raise HttpError(404, "not_found", "this server has no icon")
        await self._send(exchange, path)

    async def file(self, exchange: Exchange) -> None:
        if self._inside("index.html") is None:
            await exchange.respond(404, _MISSING, HTML, headers=(*PAGE_HEADERS, _ASK_AGAIN))
            return
        name = exchange.path_params["file"]
        path = self._inside(name)
        if path is None:
            if "." in name.rsplit("/", 1)[-1]:
                raise HttpError(404, "not_found", f"the console has no file {name[:200]}")
            path = self._folder / "index.html"
        await self._send(exchange, path)

    def _inside(self, name: str) -> Path | None:
        """The file of that name, None when there is none in the folder."""
        if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            return None
        path = self._folder / name
        try:
            found = path.is_file() and path.resolve().is_relative_to(self._folder.resolve())
        except OSError:  # a name too long for the file system
            return None
        return path if found else None

    async def _send(self, exchange: Exchange, path: Path) -> None:
        kind, body, packed = await asyncio.to_thread(self._read, path)
        cache = _CACHE_FOREVER if _HASHED.search(path.name) and path.parent != self._folder else _ASK_AGAIN
        headers = (*PAGE_HEADERS, cache)
        if packed and b"gzip" in exchange.headers.get(b"accept-encoding", b""):
            body = packed
            headers = (*headers, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding"))
        await exchange.respond(200, body, kind, headers)

    def _read(self, path: Path) -> tuple[bytes, bytes, bytes]:
        """Content type, bytes, and compressed bytes where that pays. Kept as long as the file does not change."""
        changed = path.stat().st_mtime_ns
        known = self._files.get(path)
        if known is not None and known[0] == changed:
            return known[1]
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind.endswith(("javascript", "json", "svg+xml"))
        if text:
            kind += "; charset=utf-8"
        file = (kind.encode("latin-1"), body, gzip.compress(body, 6) if text else b"")
        self._files[path] = (changed, file)
        return file
