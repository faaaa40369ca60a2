"""The vision page against a running server with the built-in models `shapes` and `shapes-detector`."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.conftest import OpenPage

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def png(draw: Callable[[ImageDraw.ImageDraw], object], size: tuple[int, int] = (480, 320)) -> FilePayload:
    image = Image.new("RGB", size, "white")
    draw(ImageDraw.Draw(image))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"name": "drawn.png", "mimeType": "image/png", "buffer": file.getvalue()}


def choose(page: Page, file: FilePayload) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files([file])


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_chosen_image_gets_its_box_and_its_class(open_page: OpenPage, viewport: dict[str, int]) -> None:
    page = open_page("/console/vision", viewport=viewport)
    choose(page, png(lambda pen: pen.rectangle((150, 80, 300, 230), fill="teal")))
    expect(page.get_by_test_id("labels").locator("li").first).to_contain_text("square", timeout=60_000)
    expect(page.get_by_test_id("objects")).to_have_text(re.compile(r"^square . 1$"))
    overlay = page.get_by_test_id("overlay")
    expect(overlay.locator("text")).to_have_text(re.compile(r"^square \d+%$"))
    box = overlay.locator("rect").first
    assert float(box.get_attribute("x") or 0) == pytest.approx(150, abs=15)
    assert float(box.get_attribute("width") or 0) == pytest.approx(150, abs=25)
    image, drawn = page.get_by_role("img", name="drawn.png").bounding_box(), overlay.bounding_box()
    assert image is not None
    assert drawn is not None
    assert drawn["width"] == pytest.approx(image["width"], abs=2), "the boxes lie on the image"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_drawn_image_is_looked_at(open_page: OpenPage) -> None:
    page = open_page("/console/vision")
    page.get_by_role("button", name="Draw an image").click()
    expect(page.get_by_test_id("labels").locator("li")).to_have_count(4, timeout=60_000)
    expect(page.get_by_text("shapes-detector:1")).to_be_visible()


def test_what_is_no_image_is_said(open_page: OpenPage) -> None:
    page = open_page("/console/vision", expected="400")
    choose(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(page.get_by_role("alert")).to_contain_text("“notes.txt” is neither an image nor a video.")
    choose(page, {"name": "cut.png", "mimeType": "image/png", "buffer": b"hello"})
    expect(page.get_by_role("alert")).to_contain_text("PNG")
    choose(page, png(lambda pen: pen.ellipse((150, 80, 300, 230), fill="teal")))
    expect(page.get_by_test_id("objects")).to_have_text(re.compile(r"^circle . 1$"))
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_drawn_video_gets_scenes_and_tracks(open_page: OpenPage) -> None:
    page = open_page("/console/vision")
    page.get_by_role("button", name="Draw a video").click()
    expect(page.get_by_role("progressbar", name="Drawing")).to_be_visible()
    scenes = page.get_by_test_id("scenes").get_by_role("button")
    expect(scenes).to_have_count(2, timeout=90_000)
    assert page.get_by_test_id("tracks").get_by_role("button").count() >= 3
    scenes.nth(1).click()
    expect(page.get_by_test_id("overlay").locator("text").first).to_have_text(re.compile(r"^\w+ #\d+$"))
    assert page.evaluate("document.querySelector('video').currentTime") > 1


def test_a_video_that_is_none_is_said(open_page: OpenPage) -> None:
    page = open_page("/console/vision", expected="400|ERR_")
    choose(page, {"name": "cut.mp4", "mimeType": "video/mp4", "buffer": b"hello"})
    expect(page.get_by_role("alert")).to_contain_text("video")
