"""What surrounds the pages: navigation, colours, sizes, the connection, the API key."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import OpenPage, Visit


def is_dark(page: Page) -> bool:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 300


def test_pages_have_addresses(open_page: OpenPage) -> None:
    page = open_page("/console/")
    expect(page).to_have_url(re.compile(r"/console/chat$"))
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.go_back()
    expect(ChatPage(page).field).to_be_visible()
    page.goto(page.url.replace("/chat", "/nowhere"))
    expect(page.get_by_text("There is no page at this address.")).to_be_visible()


def test_the_server_is_named_with_its_version(open_page: OpenPage, server_url: str) -> None:
    page = open_page()
    version = page.request.get(f"{server_url}/admin/system").json()["version"]
    status = page.get_by_role("status", name="Connected to the server")
    expect(status).to_have_text(f"v{version}")


def test_the_first_page_is_served_by_this_server_alone(open_page: OpenPage, visits: list[Visit]) -> None:
    page = open_page()
    expect(page.get_by_role("status", name="Connected to the server")).to_be_visible()
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    [visit] = visits
    assert len(visit.requested) > 5
    assert visit.foreign_requests() == []
    assert page.locator("script:not([src]), style, [style*='http']").count() == 0


def test_dark_follows_the_system_and_a_choice_outlives_a_reload(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    assert is_dark(page)
    page.get_by_role("button", name="Colour scheme").click()
    page.get_by_role("menuitem", name="Light").click()
    page.wait_for_function("document.documentElement.dataset.mantineColorScheme === 'light'")
    page.reload()
    assert not is_dark(page)
    page.get_by_role("button", name="Colour scheme").click()
    page.get_by_role("menuitem", name="As the system").click()
    page.wait_for_function("document.documentElement.dataset.mantineColorScheme === 'dark'")


@pytest.mark.parametrize("width", [360, 390, 768])
@pytest.mark.parametrize("path", ["/console/chat", "/console/models", "/console/models?open=iris%3A1"])
def test_nothing_scrolls_sideways_or_is_cut_off(open_page: OpenPage, width: int, path: str) -> None:
    page = open_page(path, viewport={"width": width, "height": 800})
    expect(page.get_by_role("status", name="Connected to the server")).to_be_visible()
    page.wait_for_timeout(400)
    too_wide = page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll("main *, [role=dialog], [role=dialog] *")]
            .filter((it) => it.scrollWidth > it.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(it).overflowX))
            .filter((it) => !it.closest("pre"))
            .map((it) => it.outerHTML.slice(0, 120))"""
    )
    assert too_wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = page.evaluate(
        """(width) => [...document.querySelectorAll("a, button, input, textarea, h1, h2, h3, p")]
            .filter((it) => it.checkVisibility() && it.getBoundingClientRect().right > width + 1)
            .map((it) => it.outerHTML.slice(0, 120))""",
        width,
    )
    assert cut_off == []


def test_an_unreachable_server_is_announced_until_it_is_back(open_page: OpenPage) -> None:
    page = open_page(expected="Failed to load resource")
    expect(page.get_by_role("status", name="Connected to the server")).to_be_visible()
    for path in ("**/v1/models", "**/admin/**"):
        page.route(path, lambda route: route.abort())
    page.get_by_role("link", name="Models").click()
    banner = page.get_by_role("alert").filter(has_text="The server cannot be reached")
    expect(banner).to_be_visible()
    page.unroute_all()
    banner.get_by_role("button", name="Retry now").click()
    expect(banner).to_be_hidden()


def test_a_secured_server_asks_for_the_key(open_page: OpenPage, secured_server_url: str) -> None:
    page = open_page(base=secured_server_url, expected="status of 401")
    dialog = page.get_by_role("dialog", name="API key")
    field = dialog.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    field.fill("wrong-key")
    field.press("Enter")
    expect(dialog).to_contain_text("did not accept this key")
    field.fill("test-key")
    field.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("combobox", name="Model")).not_to_have_value("")

    page.reload()
    expect(page.get_by_role("status", name="Connected to the server")).to_be_visible()
    assert page.evaluate("Object.values(localStorage).some((value) => value.includes('test-key'))") is False
    chat = ChatPage(page)
    chat.ask("What can you do?")
    chat.wait_for_end()
