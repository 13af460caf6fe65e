"""A page appears whole, and over nothing that is not a page."""

import os
from pathlib import Path

import pytest

from tokenmix_loader.figures.page_file import MARK, page_path, write_page


def test_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert page_path(tmp_path / "a.html") == tmp_path / "a.html"
    assert page_path(tmp_path / "new") == tmp_path / "new" / "index.html"
    assert page_path(tmp_path / "there") == tmp_path / "there" / "index.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]  # nothing is made before there is a page


@pytest.mark.parametrize(
    ("output", "error", "found"),
    [
        ("other.html", FileExistsError, "found something else"),
        ("folder.html", FileExistsError, "found something else"),
        ("site", FileExistsError, "site/index.html: expected nothing or an earlier report"),
        ("link.html", FileExistsError, "found something else"),
        ("other", NotADirectoryError, "found a file of that name"),
        ("new.pdf", NotADirectoryError, r"found one that ends in \.pdf"),
        ("no/a.html", FileNotFoundError, "found nothing"),
        ("other/a.html", NotADirectoryError, "found a file"),
    ],
)
def test_what_is_in_the_way_stays(output: str, error: type[Exception], found: str, tmp_path: Path) -> None:
    for name in ("other", "other.html"):
        (tmp_path / name).write_text("mine")
    for name in ("folder.html", "site"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    (tmp_path / "link.html").symlink_to("nowhere")
    with pytest.raises(error, match=found):
        page_path(tmp_path / output)
    assert (tmp_path / "other.html").read_text() == (tmp_path / "site" / "index.html").read_text() == "mine"


def test_an_earlier_page_is_replaced(tmp_path: Path) -> None:
    target = page_path(tmp_path / "new")
    write_page(target, f"<!doctype html>{MARK} one")
    again = page_path(tmp_path / "new")
    write_page(again, f"<!doctype html>{MARK} \udcff two")
    assert again.read_bytes().endswith(b" ? two")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.html"]


def test_nothing_is_left_of_a_page_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.html").write_text(f"{MARK} old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    for output in ("new", "old.html", "first.html"):
        with pytest.raises(OSError, match="No space left"):
            write_page(page_path(tmp_path / output), "half")
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]
    assert (tmp_path / "old.html").read_text().endswith("old")


def test_a_folder_without_the_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    for output in ("a.html", "new"):
        with pytest.raises(PermissionError):
            page_path(tmp_path / output)
