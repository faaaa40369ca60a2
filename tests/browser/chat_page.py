"""The chat page as its tests speak of it, and a stand-in for the server's answer where a test must choose the words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, Request, Route, expect


class ChatPage:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.field = page.get_by_role("textbox", name="Message", exact=True)
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)
        self.answers = page.get_by_role("article", name="Answer")
        self.questions = page.get_by_role("article", name="You")
        self.notes = page.get_by_test_id("answer-notes")
        self.settings = page.get_by_role("dialog", name="Chat settings")

    def ask(self, text: str) -> Locator:
        """Send `text` and give the place where its answer appears."""
        before = self.answers.count()
        self.field.fill(text)
        expect(self.send_button).to_be_enabled()
        self.field.press("Enter")
        return self.answers.nth(before)

    def wait_for_end(self) -> None:
        expect(self.notes.last).to_contain_text("first token", timeout=60_000)
        expect(self.send_button).to_be_visible()

    def open_settings(self) -> None:
        self.page.get_by_role("button", name="Settings").click()
        expect(self.settings).to_be_visible()

    def close_settings(self) -> None:
        self.page.keyboard.press("Escape")
        expect(self.settings).to_be_hidden()


def body_of(request: Request) -> dict[str, Any]:
    body = request.post_data_json
    assert isinstance(body, dict)
    return body


def piece(content: str) -> dict[str, Any]:
    return {"model": "guide", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}


FINISHED: dict[str, Any] = {"model": "guide", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def answer_with(*events: dict[str, Any]) -> Callable[[Page], object]:
    """Let the page's chat requests be answered by these events, and not by the server."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    if "error" not in events[-1]:
        body += "data: [DONE]\n\n"

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    return lambda page: page.route("**/v1/chat/completions", answer)


# Hands the body of a streamed answer on in small pieces with pauses, so that a fast model's answer lasts.
SLOW_STREAMS = """
const fetchAtOnce = window.fetch;
window.fetch = async (...call) => {
  const response = await fetchAtOnce(...call);
  if (!String(response.headers.get("Content-Type")).startsWith("text/event-stream")) return response;
  const slow = new TransformStream({
    async transform(chunk, controller) {
      for (let at = 0; at < chunk.length; at += 200) {
        controller.enqueue(chunk.slice(at, at + 200));
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    },
  });
  return new Response(response.body.pipeThrough(slow), response);
};
"""

# Notes each text the last answer has shown, as `window.shown`.
RECORD_ANSWER = """
window.shown = [];
new MutationObserver(() => {
  const answers = document.querySelectorAll('[aria-label="Answer"]');
  const text = answers.length ? answers[answers.length - 1].innerText : "";
  if (text !== window.shown.at(-1)) window.shown.push(text);
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
