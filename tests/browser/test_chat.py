"""The chat page against a running server; where the words of an answer matter, against chosen ones."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chat_page import FINISHED, RECORD_ANSWER, SLOW_STREAMS, ChatPage, answer_with, body_of, piece
from tests.browser.conftest import OpenPage


def test_an_answer_is_streamed(open_page: OpenPage) -> None:
    page = open_page(before=lambda page: page.add_init_script(SLOW_STREAMS + RECORD_ANSWER))
    chat = ChatPage(page)
    expect(page.get_by_role("combobox", name="Model")).not_to_have_value("")
    with page.expect_request("**/v1/chat/completions") as sent:
        answer = chat.ask("What can you do?")
    expect(chat.stop_button).to_be_visible()
    chat.wait_for_end()
    expect(answer).to_contain_text(re.compile(r"\w+"))
    body = body_of(sent.value)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "What can you do?"}]
    shown = [text.strip() for text in page.evaluate("window.shown") if text.strip()]
    grown = [later for earlier, later in pairwise(shown) if later.startswith(earlier) and later != earlier]
    assert len(grown) >= 2


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_keeps_what_was_received_and_ends_the_work(open_page: OpenPage, server_url: str, how: str) -> None:
    page = open_page(before=lambda page: page.add_init_script(SLOW_STREAMS))
    chat = ChatPage(page)
    answer = chat.ask("Tell me a long story about loading models.")
    expect(answer).to_contain_text(re.compile(r"\w{2}"))
    if how == "button":
        chat.stop_button.click()
    else:
        page.keyboard.press("Escape")
    expect(chat.notes).to_contain_text("stopped")
    expect(chat.send_button).to_be_visible()
    kept = answer.inner_text()
    page.wait_for_timeout(300)
    assert answer.inner_text() == kept
    expect(chat.field).to_be_focused()
    for _ in range(50):
        models = page.request.get(f"{server_url}/admin/models").json()["models"]
        if sum(model["in_flight"] for model in models if model["name"] == "guide") == 0:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the server still works on the stopped answer")


def test_stop_works_before_the_first_word(open_page: OpenPage) -> None:
    def never_answer(route: Route) -> None:
        """Leave the request open."""

    page = open_page(before=lambda page: page.route("**/v1/chat/completions", never_answer))
    chat = ChatPage(page)
    with page.expect_request("**/v1/chat/completions"):
        chat.ask("One")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/chat/completions")):
        chat.stop_button.click()
    expect(chat.notes).to_have_text("stopped")
    expect(chat.send_button).to_be_visible()


def test_the_next_message_carries_the_conversation(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("First "), piece("answer."), FINISHED))
    chat = ChatPage(page)
    chat.ask("One")
    chat.wait_for_end()
    with page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("Two")
    assert body_of(sent.value)["messages"] == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "First answer."},
        {"role": "user", "content": "Two"},
    ]


def test_a_suggestion_is_sent_by_a_click_and_a_new_chat_forgets_it(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("Yes."), FINISHED))
    chat = ChatPage(page)
    page.get_by_role("button", name="How do I load a model?").click()
    chat.wait_for_end()
    expect(chat.questions).to_have_text("How do I load a model?")
    page.get_by_role("button", name="New chat").click()
    expect(chat.questions).to_have_count(0)
    expect(page.get_by_role("button", name="How do I load a model?")).to_be_visible()


def test_enter_sends_and_shift_enter_breaks_the_line(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("Yes."), FINISHED))
    chat = ChatPage(page)
    expect(chat.field).to_be_focused()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Two")
    expect(chat.field).to_have_value("One\nTwo")
    page.keyboard.press("Enter")
    expect(chat.questions).to_have_text("One\nTwo", use_inner_text=True)
    expect(chat.field).to_have_value("")


def test_regenerate_keeps_the_earlier_answer_within_reach(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("An answer."), FINISHED))
    chat = ChatPage(page)
    chat.ask("One")
    chat.wait_for_end()
    page.get_by_role("button", name="Regenerate").click()
    expect(chat.answers).to_contain_text("2 / 2")
    page.get_by_role("button", name="Previous version").click()
    expect(chat.answers).to_contain_text("1 / 2")


def test_an_edited_question_is_asked_again(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("An answer."), FINISHED))
    chat = ChatPage(page)
    chat.ask("One")
    chat.wait_for_end()
    chat.questions.hover()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit the message").fill("Two")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send", exact=True).first.click()
    assert body_of(sent.value)["messages"] == [{"role": "user", "content": "Two"}]
    expect(chat.questions).to_contain_text("Two")


@pytest.mark.parametrize("secure", [True, False], ids=["secure context", "plain HTTP"])
def test_answers_and_code_can_be_copied(open_page: OpenPage, secure: bool) -> None:
    def prepare(page: Page) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if not secure:  # as on a server's address in the local network, where the clipboard API is missing
            page.add_init_script("navigator.clipboard.writeText = undefined")
        answer_with(piece("Run:\n\n```bash\nls -l\n```\n"), FINISHED)(page)

    page = open_page(before=prepare)
    chat = ChatPage(page)
    chat.ask("How?")
    chat.wait_for_end()
    page.get_by_role("button", name="Copy the code").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "ls -l"
    chat.answers.get_by_role("button", name="Copy", exact=True).click()
    expect(chat.answers.get_by_role("button", name="Copied", exact=True)).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Run:\n\n```bash")


def test_markdown_runs_no_script_and_fetches_no_picture(open_page: OpenPage) -> None:
    text = (
        "<script>window.broken = 1</script> <img src=x onerror='window.broken = 1'>\n\n"
        "![a picture](https://elsewhere.example/p.png) [bad](javascript:window.broken=1)\n\n"
        "```python\nprint('hello')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    page = open_page(before=answer_with(piece(text), FINISHED))
    chat = ChatPage(page)
    answer = chat.ask("Show me")
    expect(answer.locator("pre")).to_contain_text("print('hello')")
    expect(answer.locator("table td").first).to_have_text("1")
    expect(answer.get_by_role("link", name="a picture")).to_be_visible()
    assert answer.locator("img, script").count() == 0
    assert answer.locator("a[href^=javascript]").count() == 0
    assert page.evaluate("window.broken") is None


def test_an_error_answer_is_shown_in_the_conversation(open_page: OpenPage) -> None:
    error = {"error": {"message": "The context is too long.", "type": "invalid_request_error", "param": None}}

    def refuse(route: Route) -> None:
        route.fulfill(status=400, json=error)

    page = open_page(expected="status of 400", before=lambda page: page.route("**/v1/chat/completions", refuse))
    chat = ChatPage(page)
    answer = chat.ask("One")
    expect(answer.get_by_role("alert")).to_contain_text("The context is too long.")
    expect(chat.send_button).to_be_visible()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"error": {"message": "The runner died.", "type": "server_error", "code": "runner_died"}}, "The runner died."),
        ({"error": "Out of memory."}, "Out of memory."),
    ],
)
def test_an_error_inside_the_stream_keeps_the_text_before_it(
    open_page: OpenPage, last: dict[str, Any], message: str
) -> None:
    page = open_page(before=answer_with(piece("Half an "), piece("answer"), last))
    answer = ChatPage(page).ask("One")
    expect(answer).to_contain_text("Half an answer")
    expect(answer.get_by_role("alert")).to_contain_text(message)


def test_settings_survive_a_reload_and_reach_the_server(open_page: OpenPage) -> None:
    page = open_page()
    chat = ChatPage(page)
    chat.open_settings()
    chat.settings.get_by_label("System prompt").fill("Answer in one word.")
    chat.settings.get_by_label("Temperature").fill("0.3")
    chat.settings.get_by_label("Max tokens").fill("8")
    chat.settings.get_by_label("Seed").fill("7")
    chat.settings.get_by_label("Top P").fill("3")
    expect(chat.settings.get_by_text("Give a number from 0 to 1.")).to_be_visible()
    chat.close_settings()

    page.reload()
    with page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("Hello")
    body = body_of(sent.value)
    assert body["messages"][0] == {"role": "system", "content": "Answer in one word."}
    assert {name: body.get(name) for name in ("temperature", "max_tokens", "seed", "top_p")} == {
        "temperature": 0.3,
        "max_tokens": 8,
        "seed": 7,
        "top_p": None,
    }
    chat.wait_for_end()

    chat.open_settings()
    expect(chat.settings.get_by_label("Temperature")).to_have_value("0.3")
    chat.settings.get_by_role("button", name="Reset").click()
    expect(chat.settings.get_by_label("Temperature")).to_have_value("")
    expect(chat.settings.get_by_label("System prompt")).to_have_value("")


def test_the_conversation_outlives_a_look_at_another_page(open_page: OpenPage) -> None:
    page = open_page(before=answer_with(piece("An answer."), FINISHED))
    chat = ChatPage(page)
    chat.ask("One")
    chat.wait_for_end()
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.get_by_role("link", name="Chat", exact=True).first.click()
    expect(chat.answers).to_contain_text("An answer.")


def test_thoughts_are_asked_for_and_stand_apart(open_page: OpenPage) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see."}, "finish_reason": None}]}
    page = open_page(before=answer_with(thought, piece("An answer."), FINISHED))
    chat = ChatPage(page)
    chat.open_settings()
    chat.settings.get_by_label("Reasoning").select_option("low")
    chat.close_settings()
    with page.expect_request("**/v1/chat/completions") as sent:
        answer = chat.ask("One")
    assert body_of(sent.value)["reasoning_effort"] == "low"
    expect(answer).to_contain_text("An answer.")
    expect(answer.get_by_text("Let me see.")).to_be_hidden()
    answer.get_by_text("Thoughts").click()
    expect(answer.get_by_text("Let me see.")).to_be_visible()
