"""The models page against a running server that has the built-in models `guide` and `iris`."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import OpenPage

PHONE = {"width": 390, "height": 844}


def row(page: Page, key: str) -> Locator:
    """The table row, or on a phone the card, of the model `name:version`."""
    return page.locator(f'[data-model="{key}"]')


def ensure_unloaded(page: Page, key: str) -> None:
    load = page.get_by_role("button", name=f"Load {key}")
    unload = page.get_by_role("button", name=f"Unload {key}")
    expect(load.or_(unload)).to_be_visible()
    if unload.is_visible():
        unload.click()
    expect(row(page, key)).to_contain_text("Unloaded")


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["wide", "phone"])
def test_a_model_is_loaded_and_unloaded(open_page: OpenPage, viewport: dict[str, int]) -> None:
    page = open_page("/console/models", viewport=viewport)
    ensure_unloaded(page, "iris:1")
    page.get_by_role("button", name="Load iris:1").click()
    expect(row(page, "iris:1")).to_contain_text("Ready", timeout=60_000)
    page.get_by_role("button", name="Unload iris:1").click()
    expect(row(page, "iris:1")).to_contain_text("Unloaded", timeout=60_000)
    expect(row(page, "iris:1").get_by_role("alert")).to_have_count(0)


def test_a_failed_load_says_why(open_page: OpenPage) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=507, json={"error": {"code": "out_of_memory", "message": "Not enough memory."}})

    page = open_page(
        "/console/models",
        expected="status of 507",
        before=lambda page: page.route("**/admin/models/iris/1/load", refuse),
    )
    ensure_unloaded(page, "iris:1")
    page.get_by_role("button", name="Load iris:1").click()
    expect(row(page, "iris:1").get_by_role("alert")).to_have_text("Not enough memory.")


def test_iris_can_be_tried(open_page: OpenPage) -> None:
    page = open_page("/console/models", expected="status of 4")
    row(page, "iris:1").get_by_title("Show the details").click()
    details = page.get_by_role("dialog")
    expect(details).to_contain_text(re.compile("any . 4"))
    expect(details).to_contain_text("tabular-classification")
    trial = details.get_by_role("region", name="Try it")
    field = trial.get_by_role("textbox", name="Inputs as JSON")
    name = re.search(r'"([^"]+)":', field.input_value())
    assert name is not None
    field.fill(f'{{"{name[1]}": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}}')
    with page.expect_request("**/v2/models/iris/versions/1/infer") as sent:
        trial.get_by_role("button", name="Run").click()
    assert sent.value.post_data_json == {
        "inputs": [
            {"name": name[1], "shape": [2, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]}
        ]
    }
    expect(trial.get_by_test_id("outputs")).to_be_visible(timeout=60_000)

    field.fill("{")
    trial.get_by_role("button", name="Run").click()
    expect(trial).to_contain_text("This is not JSON")
    field.fill(f'{{"{name[1]}": [[1, 2, 3]]}}')
    trial.get_by_role("button", name="Run").click()
    expect(trial.locator('[id$="-error"]')).to_have_text(re.compile(r"\w+"))
    expect(trial.get_by_test_id("outputs")).to_have_count(0)


def test_details_have_an_address_of_their_own(open_page: OpenPage) -> None:
    page = open_page("/console/models?open=guide%3A1")
    details = page.get_by_role("dialog", name="guide:1")
    expect(details).to_contain_text("Manifest")
    expect(details.locator("pre")).to_contain_text('"name": "guide"')
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    expect(page).to_have_url(re.compile(r"/console/models$"))


def test_the_list_can_be_filtered(open_page: OpenPage) -> None:
    page = open_page("/console/models")
    expect(row(page, "guide:1")).to_be_visible()
    field = page.get_by_role("searchbox", name="Filter the models")
    field.fill("tabular")
    expect(row(page, "iris:1")).to_be_visible()
    expect(row(page, "guide:1")).to_be_hidden()
    field.fill("no such model")
    expect(page.get_by_text("No model matches")).to_be_visible()


def test_the_page_follows_what_others_do(open_page: OpenPage, server_url: str) -> None:
    page = open_page("/console/models")
    ensure_unloaded(page, "iris:1")
    page.request.post(f"{server_url}/admin/models/iris/1/load")
    expect(row(page, "iris:1")).to_contain_text("Ready")


def test_a_chat_with_a_model_starts_from_its_row(open_page: OpenPage) -> None:
    page = open_page("/console/models")
    row(page, "guide:1").get_by_role("link", name="Chat").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(re.compile("guide"))
