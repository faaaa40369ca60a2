"""The page at /docs: every endpoint can be tried, those that take a form too."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import OpenPage


def test_a_form_is_sent_with_its_file(open_page: OpenPage) -> None:
    page = open_page("/docs", expected="404")
    endpoint = page.locator("details").filter(has_text="/v1/audio/transcriptions")
    endpoint.locator("summary").click()
    sound = {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"RIFF"}
    endpoint.get_by_label("file").set_input_files([sound])  # type: ignore[list-item] # a plain dict is what it takes
    endpoint.get_by_role("button", name="Send").click()
    expect(endpoint).to_contain_text("model 'your-listener' does not exist")


def test_an_endpoint_is_tried_with_its_example(open_page: OpenPage) -> None:
    page = open_page("/docs")
    endpoint = page.locator("details").filter(has_text="/tokenize")
    endpoint.locator("summary").click()
    endpoint.get_by_role("button", name="Send").click()
    expect(endpoint).to_contain_text('"count": 3')
