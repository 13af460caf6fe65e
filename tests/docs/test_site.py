"""The site that `make docs` built, in a real browser: run by `make test-browser`, after `make docs`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

import extract
import store
import tokenmix_loader
from tests.docs.blocks import PAGES, ROOT

SITE = ROOT / "build" / "docs" / "site"
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}

pytest_plugins = ["tests.chromium"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not SITE.exists(), reason="needs the site: make docs"),
]


def built(page: Path) -> Path:
    """The file of the site that a page has become."""
    name = page.relative_to(ROOT).with_suffix(".html")
    return SITE / (name.with_name("index.html") if page.stem == "README" else name)


@pytest.mark.parametrize("screen", SCREENS)
def test_pages_fit_the_screen_and_fetch_nothing_from_elsewhere(browser: Browser, screen: str) -> None:
    width, height = SCREENS[screen]
    tab = browser.new_page(viewport={"width": width, "height": height})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    for page in PAGES:
        tab.goto(built(page).as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
        assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_diagram_follows_the_page_s_colours(browser: Browser) -> None:
    kept = {}
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto((SITE / "docs" / "concepts.html").as_uri())
        picture = Image.open(io.BytesIO(tab.locator("img[src$='concepts.svg']").screenshot())).convert("L")
        kept[scheme] = np.asarray(picture)[picture.height * 310 // 520, picture.width * 340 // 620]  # in the mask
    assert kept["light"] < 80 < 180 < kept["dark"]


def test_the_reference_has_every_public_name() -> None:
    page = (SITE / "docs" / "api.html").read_text("utf-8")
    named = {f"{package.__name__}.{name}" for package in (extract, store, tokenmix_loader) for name in package.__all__}
    absent = {name for name in named if f'id="{name}"' not in page}
    assert absent == {"store.FORMAT_NAME", "tokenmix_loader.MapStore"}  # a text; another name of store.MapStore
