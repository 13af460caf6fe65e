"""The page in a real browser: it asks for nothing, fits every screen, and is reached by keyboard.

Needs Chromium, Debian's or the one that $CHROMIUM names; run by `make test-browser`.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from extract.images.listing import list_images
from tests.tokenmix_loader.conftest import GRID, StoreMaker, keys_and_labels
from tokenmix_loader.figures.report import write_report

SCREENS = {"desktop": (1280, 900), "phone": (390, 844), "small phone": (320, 600)}
LONG = "a_class_whose_name_is_one_word_of_a_hundred_letters_" * 2

pytest_plugins = ["tests.chromium"]
pytestmark = pytest.mark.browser


@pytest.fixture
def report(images: Path, make_store: StoreMaker, tmp_path: Path) -> Path:
    """Of a store with everything that a page can show: many classes, long names, wrong, empty and bad ones."""
    rows = {key: row for row, key in enumerate(keys_and_labels(images))}
    names = [f"{LONG}{k}" for k in rows.values()]
    maps = np.broadcast_to(np.arange(30, dtype=np.float16)[:, None, None], (30, *GRID)).copy()
    predictions = np.arange(30, dtype=np.int32)
    predictions[::2] += 1
    make_store(
        rows, ("ant/img3.jpg",), payload={"label_logit": maps}, class_names=names, other={"prediction": predictions}
    )
    (store,) = tmp_path.glob("maps-*")
    listed = list_images(images)
    given = type(listed)(listed.root, listed.keys, np.arange(30, dtype=np.int32)[_order(listed.keys, rows)], names)
    return write_report(given, store, tmp_path / "page.html")


def _order(keys: object, rows: dict[str, int]) -> list[int]:
    return [rows[key] for key in keys]  # type: ignore[attr-defined]


def open_page(browser: Browser, report: Path, screen: str, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page with all that was said in the console or asked for, beyond the page itself."""
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page, events = context.new_page(), list[str]()
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(report.as_uri())
    assert events.pop(0) == report.as_uri()
    return page, events


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_and_asks_for_nothing(browser: Browser, report: Path, screen: str, scheme: str) -> None:
    page, events = open_page(browser, report, screen, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert events == []
    assert page.evaluate("[...document.images].filter(image => image.naturalWidth == 0).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
    sticking_out = """[...document.querySelectorAll('main *, nav *')]
        .filter(one => !one.closest('svg, .hidden') && one.getBoundingClientRect().right > innerWidth + 1)
        .map(one => one.outerHTML)"""
    assert page.evaluate(sticking_out) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, report: Path, scheme: str) -> None:
    """A contrast of 4.5 or more, as WCAG 2.2 asks of text (AA)."""
    page, _ = open_page(browser, report, "desktop", scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    contrasts = page.evaluate(
        """() => {
          const light = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(c => c / 255)
              .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = one => {
            for (; one; one = one.parentElement) {
              const colour = getComputedStyle(one).backgroundColor;
              if (!/, 0\\)$/.test(colour)) return colour;
            }
          };
          return [...document.querySelectorAll('body *')]
            .filter(one => [...one.childNodes].some(child => child.nodeType == 3 && child.data.trim()))
            .map(one => {
              const style = getComputedStyle(one), svg = one.closest('svg');
              const [a, b] = [light(svg ? style.fill : style.color), light(ground(svg || one))].sort((x, y) => y - x);
              return [(a + 0.05) / (b + 0.05), one.outerHTML.slice(0, 80)];
            });
        }"""
    )
    assert len(contrasts) > 200
    assert [found for found in contrasts if found[0] < 4.5] == []


def test_every_link_and_every_fold_is_reached_by_keyboard(browser: Browser, report: Path) -> None:
    page, _ = open_page(browser, report, "desktop")
    focusable = page.evaluate("document.querySelectorAll('a[href], summary').length")
    reached = []
    for _ in range(focusable):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached[:2] == ["Skip to the report", "Store"]
    assert len(reached) == len(set(reached)) == focusable > 11
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    was_open = page.evaluate("document.activeElement.parentElement.open")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is not was_open


def test_links_lead_to_their_sections(browser: Browser, report: Path) -> None:
    page, _ = open_page(browser, report, "phone")
    for link in page.query_selector_all("nav a"):
        link.click()
        target = page.query_selector(str(link.get_attribute("href")))
        assert target is not None
        assert target.query_selector("h2").is_visible()  # type: ignore[union-attr]
    assert page.evaluate("scrollY") > 1000


def test_it_has_landmarks_and_headings_in_order(browser: Browser, report: Path) -> None:
    page, _ = open_page(browser, report, "desktop")
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1, landmark
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.images].filter(image => !image.alt).length") == 0
    assert page.evaluate("document.querySelectorAll('svg:not([role=img][aria-label])').length") == 0
    assert page.evaluate("document.querySelectorAll('table:not(:has(caption))').length") == 0
