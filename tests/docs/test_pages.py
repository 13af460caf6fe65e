"""Each page is in the navigation, each link leads to a file, the diagram is what its script draws."""

from __future__ import annotations

import re
from pathlib import Path

from docs.diagram import MASK, draw
from tests.docs.blocks import PAGES, ROOT

NAVIGATION = re.findall(r'= "([\w/.-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8"))


def test_every_page_is_in_the_navigation_once() -> None:
    """One that fails here is new: give it a line in zensical.toml, where a reader would look for it."""
    assert sorted(NAVIGATION) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


def test_links_lead_to_files() -> None:
    """Those to anchors are checked by `make docs`, for pages only; these may be files of the repository, too."""
    links = 0
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path = link.partition("#")[0]
            if path and not re.match(r"\w+:", path):
                links += 1
                assert (page.parent / path).exists(), f"{page.relative_to(ROOT)}: {link}"
    assert links > 60


def test_what_the_site_copies_has_all_that_pages_link() -> None:
    """make docs copies some folders of the repository; a link to another place would be broken on the site only."""
    copied = re.search(r"-cf - (.*?) \|", (ROOT / "Makefile").read_text())
    assert copied is not None
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text("utf-8")):
            target = (page.parent / link).resolve()
            if target.exists():
                assert target.relative_to(ROOT).parts[0] in copied[1].split(), f"{page.relative_to(ROOT)}: {link}"


def test_pictures_say_what_they_show() -> None:
    for page in PAGES:
        for words, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8")):
            assert len(words.split()) >= 5, f"{page.name}: {link}"


def test_the_diagram_is_drawn_by_its_script() -> None:
    assert len(MASK) == 18  # half of its tokens, as the page says
    assert Path(ROOT / "docs" / "concepts.svg").read_text("utf-8") == draw() + "\n", "python -m docs.diagram"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_make_takes_no_folder_for_a_target() -> None:
    """`docs` and `demo` are folders, too: without a line of .PHONY make would find them up to date and do nothing."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    assert set(re.findall(r"^([a-z][\w-]*):", makefile, re.M)) <= set(" ".join(phony).split())
