"""One order for the same names, whoever lists them; suffixes as people write them."""

import os
import random
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.utils.misc import natural_key

from extract.errors import ImagesError
from extract.images.file_names import LeftOut, natural_order, parse_suffixes, spell_suffixes
from extract.images.listing import list_images
from tests.extract.conftest import MakeFolder

NAMES = st.text(st.sampled_from("aAbB019٣²é/._-"), max_size=8)
TIED = ["x1.jpg", "x01.jpg", "X1.jpg", "x2.jpg", "x10.jpg"]


@given(st.lists(NAMES, unique=True), st.randoms())
def test_the_order_is_that_of_the_set(names: list[str], chance: random.Random) -> None:
    shuffled = chance.sample(names, len(names))
    assert sorted(shuffled, key=natural_order) == sorted(names, key=natural_order)


@given(st.lists(NAMES.filter(lambda name: "²" not in name), unique=True))  # in which timm's own key fails
def test_the_order_is_timms_but_for_ties(names: list[str]) -> None:
    assert [natural_key(name) for name in sorted(names, key=natural_order)] == sorted(map(natural_key, names))


def turn_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, folders list their entries the other way round."""
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: nullcontext(list(real(path))[::-1]))


def test_a_copied_folder_lists_the_same(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"b": TIED, "a": TIED})
    before = list_images(root)
    turn_listings(monkeypatch)
    after = list_images(root)
    assert list(after.keys) == list(before.keys)
    assert [key for key in before.keys if key.startswith("a/")] == [
        f"a/{name}" for name in ("X1.jpg", "x01.jpg", "x1.jpg", "x2.jpg", "x10.jpg")
    ]
    assert after.digest == before.digest


def test_a_tar_lists_the_same_whatever_its_order(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": TIED})
    for number, names in enumerate((TIED, TIED[::-1])):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for name in names:
                tar.add(root / "a" / name, f"a/{name}")
    one, other = (list_images(tmp_path / f"{number}.tar") for number in range(2))
    assert list(one.keys) == list(other.keys) == list(list_images(root).keys)


@pytest.mark.parametrize("tied", [("Cat", "cat"), ("01", "1"), ("n٣", "n3")])
def test_classes_that_timm_would_number_by_chance_are_refused(
    make_folder: MakeFolder, tmp_path: Path, tied: tuple[str, str]
) -> None:
    root = make_folder({name: ["x.jpg"] for name in (*tied, "other")})
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root, ".")
    for place in (root, tmp_path / "x.tar"):
        with pytest.raises(ImagesError, match="one order, found .* and .*; rename one") as caught:
            list_images(place)
        assert all(repr(name) in str(caught.value) for name in tied)
        assert str(place) in str(caught.value)


def test_the_refusal_does_not_depend_on_hashes(make_folder: MakeFolder) -> None:
    root = make_folder({name: ["x.jpg"] for name in ("Cat", "cat", "1", "01")})
    code = (
        "import sys; from extract.images import list_images\n"
        "try: list_images(sys.argv[1])\n"
        "except Exception as error: print(error)"
    )
    said = {
        subprocess.run([sys.executable, "-c", code, root], env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(said) == 1
    assert "found '01' and '1'" in said.pop()


def test_digits_that_are_no_numbers(make_folder: MakeFolder) -> None:
    root = make_folder({"m²": ["1²3.jpg", "2.jpg", "①.jpg"]})
    assert list(list_images(root).keys) == ["m²/1²3.jpg", "m²/2.jpg", "m²/①.jpg"]


@pytest.mark.parametrize("text", ["jpg;png", ".jpg;.PNG", " jpg ; .png;;jpg"])
def test_suffixes(text: str) -> None:
    assert parse_suffixes(text) == (".jpg", ".png")
    assert spell_suffixes(parse_suffixes(text)) == "jpg;png"


@pytest.mark.parametrize("text", ["", ";", " . "])
def test_no_suffix(text: str) -> None:
    with pytest.raises(ImagesError, match="--input-key .*found none"):
        parse_suffixes(text)


def test_what_is_left_out_is_counted() -> None:
    left_out: Any = LeftOut((".jpg",))
    assert not left_out
    assert left_out.line() == ""
    for name in ("b/x.GIF", "a/x.gif", "a/Thumbs"):
        left_out.add(name)
    assert str(left_out) == "2 .gif, 1 without suffix, such as 'a/Thumbs'"
    assert "--input-key 'jpg'" in left_out.line()


@pytest.mark.parametrize("text", ["jpg,png", "jpg png", "*.jpg", "jpg;a/b"])
def test_suffixes_that_no_file_has_are_refused(text: str) -> None:
    with pytest.raises(ImagesError, match="expected suffixes with semicolons between, as jpg;png, found"):
        parse_suffixes(text)
