"""Serves the built console from one folder, and nothing outside it."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path

from inference_engine.adapters.http.exchange import Exchange, Header, HttpError

CONSOLE_DIST = Path(__file__).parent / "console_dist"
_HASHED = re.compile(r"-[A-Za-z0-9_-]{8,}\.[a-z0-9]+$")
_CACHE_FOREVER: Header = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN: Header = (b"cache-control", b"no-cache")
_POLICY = (
    b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
PAGE_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
HTML = b"text/html; charset=utf-8"
_MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Console not built</title>
<body style="font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem">
<h1>The console is not built</h1><p>The server runs, and its APIs answer: see <a href="/docs">/docs</a>.</p>
<p>To have the console, run <code>make console</code> in the project's folder and reload this page.</p></body></html>
""".encode()


class Console:
    """The console's pages and assets. Paths without a file belong to the client-side router and get `index.html`."""

    def __init__(self, folder: Path, root_path: str = "") -> None:
        self._folder = folder
        self._home = (root_path + "/console/").encode("latin-1")

    async def redirect(self, exchange: Exchange) -> None:
        await exchange.respond(307, b"", HTML, headers=((b"location", self._home),))

    async def favicon(self, exchange: Exchange) -> None:
        for name in ("favicon.ico", "favicon.svg"):
            if (self._folder / name).is_file():
                await self._send(exchange, self._folder / name)
                return
        raise HttpError(404, "not_found", "this server has no icon")

    async def file(self, exchange: Exchange) -> None:
        if not (self._folder / "index.html").is_file():
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
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind.endswith("javascript"):
            kind += "; charset=utf-8"
        cache = _CACHE_FOREVER if _HASHED.search(path.name) and path.parent != self._folder else _ASK_AGAIN
        await exchange.respond(200, body, kind.encode("latin-1"), (*PAGE_HEADERS, cache), compress=True)
