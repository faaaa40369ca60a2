"""A headless Chromium for the console's tests, and the rules that hold for every page they open.

Knows the browser, not the server: `server_url` (and `secured_server_url`, whose key is "test-key") come from
the fixtures above this folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

# As root Chromium has no sandbox of its own; the rest keeps it from calling its maker's hosts.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=15_000)


# One browser for this folder only: playwright keeps an event loop in the thread, which asynchronous tests
# elsewhere must not meet.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("the browser tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One page and what happened on it: every request made, every complaint on the browser's console."""

    page: Page
    origin: str
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    # Complaints a test provokes on purpose, as a pattern.
    expected: str | None = None

    def foreign_requests(self) -> list[str]:
        return [url for url in self.requested if not url.startswith((f"{self.origin}/", "data:", "blob:"))]

    def unexpected_complaints(self) -> list[str]:
        return [text for text in self.complaints if not (self.expected and re.search(self.expected, text))]


OpenPage = Callable[..., Page]


@pytest.fixture
def visits(browser: Browser) -> Iterator[list[Visit]]:
    """The pages a test opened. At its end: no request left the origin, and the browser complained of nothing."""
    opened: list[Visit] = []
    yield opened
    for visit in opened:
        visit.page.context.close()
    assert [url for visit in opened for url in visit.foreign_requests()] == []
    assert [text for visit in opened for text in visit.unexpected_complaints()] == []


@pytest.fixture
def open_page(browser: Browser, visits: list[Visit], server_url: str) -> OpenPage:
    """`open_page(path, base=..., expected=..., before=..., **context options)` gives a page at that path.

    `expected` is a pattern of complaints that are no failure; `before` gets the page before it goes anywhere.
    """

    def open_page(
        path: str = "/console/",
        *,
        base: str | None = None,
        expected: str | None = None,
        before: Callable[[Page], object] | None = None,
        **options: Any,
    ) -> Page:
        start = base or server_url
        parts = urlsplit(start)
        page = browser.new_context(**options).new_page()
        visit = Visit(page, f"{parts.scheme}://{parts.netloc}", expected=expected)
        visits.append(visit)
        page.on("request", lambda request: visit.requested.append(request.url))
        page.on("console", lambda said: visit.complaints.append(said.text) if said.type in _COMPLAINTS else None)
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        if before:
            before(page)
        page.goto(start + path)
        return page

    return open_page


_COMPLAINTS = ("error", "warning")
