"""The page says what is in the store, whatever is in it, and reads little of it."""

import html
import math
import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from extract.images.image_list import ImageList
from extract.images.listing import list_images
from store import MapStore, StoreError, StoreMismatch, push
from store.folder.head import Head, write_head
from store.format.rows import list_digest
from tests.tokenmix_loader.conftest import GRID, StoreMaker, keys_and_labels, size_of
from tokenmix_loader.figures.report import MIXES, write_report
from tokenmix_loader.figures.samples import Join, draw_samples, join
from tokenmix_loader.scoring.evidence import evidence_for

SECTIONS = ["attention", "store", "accuracy", "samples", "spread", "average", "run", "bad", "mixes"]
KINDS = ("label", "cam", "activation", "topk", "features")
N = 30


class _Page(HTMLParser):
    """Titles of sections in order, how many pictures there are, tags, and what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "section":
            self.sections.append(str(given["aria-labelledby"]).removesuffix("-title"))
        if tag == "img":
            self.pictures.append(given)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of SVG: opened and closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def payload_of(kind: str, rng: np.random.Generator, rows: int = N) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """Maps of a kind, and its depth."""
    maps = rng.standard_normal((rows, 3, *GRID)).astype(np.float16)
    if kind == "topk":
        classes = rng.random((rows, 3, *GRID)).argsort(axis=1).astype(np.uint16)
        return {"topk_logit": -np.sort(-maps, axis=1), "topk_class": classes, "logsumexp": maps[:, 0] + 9}, 3
    if kind == "features":
        return {"features": maps}, 3
    name = {"label": "label_logit", "cam": "label_cam", "activation": "activation"}[kind]
    return {name: maps[:, 0] if kind == "label" else np.abs(maps[:, 0])}, 1


def make_kind(kind: str, images: Path, make_store: StoreMaker, **changes: Any) -> Path:
    payload, depth = payload_of(kind, np.random.default_rng(0))
    store = make_store(keys_and_labels(images), payload=payload, kind=kind, depth=depth, **changes)
    if kind == "features":
        write_head(Path(str(store)), store.header, Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)))
    return Path(str(store))


def report(images: Path | Any, store: Path, out: Path, **options: Any) -> tuple[_Page, str]:
    listed = list_images(images) if isinstance(images, Path) else images
    text = write_report(listed, store, out, **options).read_text("utf-8")
    return _Page(text), text


@pytest.mark.parametrize(
    ("kind", "evidence"),
    [*((kind, "auto") for kind in KINDS), ("label", "contrast"), ("cam", "logit")],
)
def test_every_kind_and_every_evidence(
    kind: str, evidence: str, images: Path, make_store: StoreMaker, tmp_path: Path
) -> None:
    page, text = report(images, make_kind(kind, images, make_store), tmp_path / "page.html", evidence=evidence)
    assert page.sections == SECTIONS
    assert page.open == []
    assert len(page.pictures) == N + 6 * MIXES
    assert len(set(page.ids)) == len(page.ids)
    assert f"evidence {evidence_for(kind, evidence)}." in text
    assert "script" not in page.tags


def test_every_map_is_shown_once_and_nothing_is_loaded(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    page, text = report(images, make_kind("label", images, make_store), tmp_path / "page.html")
    shown = [str(picture["alt"]).rpartition(" ")[2] for picture in page.pictures if "photograph" in str(picture["alt"])]
    assert sorted(shown) == sorted(keys_and_labels(images))
    assert all(str(picture["src"]).startswith("data:image/") and picture["alt"] for picture in page.pictures)
    addresses = re.findall(r'(?:src|href)="([^"]{5})', text)
    assert {address for address in addresses if not address.startswith("#")} == {"data:"}
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_same_store_gives_the_same_page(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    store = make_kind("label", images, make_store)
    pages = [report(images, store, tmp_path / name, samples=9, seed=4)[1] for name in ("a.html", "b.html")]
    assert pages[0] == pages[1] != report(images, store, tmp_path / "c.html", samples=9, seed=5)[1]


def test_figures_of_known_maps(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    """Evidence of 1 in a quarter of the tokens: mass 1/4, of which the central quarter has 1/4 of its cells: 1/4."""
    make_store(keys_and_labels(images))
    (store,) = tmp_path.glob("maps-*")
    drawn = draw_samples(join(list_images(images), store, same_files=True), 500, "logit", np.random.default_rng(0))
    assert len(drawn.image) == N
    np.testing.assert_allclose(drawn.mass, 0.25)
    np.testing.assert_allclose(drawn.peak, 1)
    np.testing.assert_allclose(drawn.central, 0.25)
    assert drawn.average.sum() == pytest.approx(1)
    quadrants = drawn.average.reshape(2, 3, 2, 3).sum(axis=(1, 3))
    np.testing.assert_allclose(quadrants, [[1 / 3, 1 / 3], [1 / 3, 0]], atol=1e-6)
    _, text = report(images, store, tmp_path / "page.html")
    assert "<strong>25.0 %</strong>" in text
    assert "<strong>100.0 %</strong> <span>of 30 images" in text


def test_sorted_into_groups(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    """The first has no evidence, the second is taken for a bee; of the others each has more than the one before."""
    rows = keys_and_labels(images)
    maps = np.broadcast_to(np.arange(N, dtype=np.float16)[:, None, None], (N, *GRID)).copy()
    predictions = np.array([*rows.values()], np.int32)
    predictions[1] = 1
    make_store(rows, payload={"label_logit": maps}, other={"prediction": predictions})
    (store,) = tmp_path.glob("maps-*")
    _, text = report(images, store, tmp_path / "page.html")
    groups = re.split(r"<h3>", text[text.index('id="samples"') : text.index('id="spread"')])[1:]
    shown = {
        group.split(" <span")[0]: [html.unescape(key) for key in re.findall(r'<bdi class="key">(.*?)<', group)]
        for group in groups
    }
    keys = list(rows)
    assert shown == {
        "Most evidence": keys[:17:-1],
        "Least evidence": keys[2:14],
        "The teacher takes them for something else": [keys[1]],
        "Empty maps": [keys[0]],
        "All others": keys[17:13:-1],
    }
    assert "taken for <bdi>bee</bdi>" in text


def test_evidence_is_that_of_a_training(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    import torch

    from tokenmix_loader import MapTarget, read_tokens

    store = MapStore(make_kind("cam", images, make_store))
    joined = join(list_images(images), str(store), same_files=True)
    drawn = draw_samples(joined, N, evidence_for("cam"), np.random.default_rng(0))
    whole = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64).expand(N, 10)
    labels = torch.from_numpy(store.labels[drawn.row].astype(np.int64))
    tokens = read_tokens(store, MapTarget(labels, torch.from_numpy(drawn.row), whole, torch.zeros(N).long()), GRID)
    np.testing.assert_allclose(drawn.share.reshape(N, *GRID), tokens, atol=1e-6)


def test_an_unfinished_store_says_so(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    store = make_kind("label", images, make_store)
    (store / "shard-00001.h5").unlink()
    page, text = report(images, store, tmp_path / "page.html")
    assert len(page.pictures) == 22 + 6 * MIXES
    assert "The store is not finished: 3 of 4 shards are in place." in text
    assert "<strong>not finished</strong>: 3 of 4 shards, 22 of 30 images" in text
    for shard in (0, 2, 3):
        (store / f"shard-0000{shard}.h5").unlink()
    with pytest.raises(StoreError, match="expected a finished shard or more, found none yet; run `tokenmix extract`"):
        write_report(list_images(images), store, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_an_unfinished_store_of_images_in_another_order(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    """Then they are found by key, and images whose shard is missing have none yet."""
    store, listed = make_kind("label", images, make_store), list_images(images)
    (store / "shard-00001.h5").unlink()
    rows = keys_and_labels(images)
    backwards = Renamed(list(rows)[::-1], np.array([*rows.values()], np.int32)[::-1], listed.class_names, listed)
    page, _ = report(backwards, store, tmp_path / "page.html")
    shown = [str(picture["alt"]).rpartition(" ")[2] for picture in page.pictures if "photograph" in str(picture["alt"])]
    assert sorted(shown) == sorted([*list(rows)[:8], *list(rows)[16:]])


def test_without_predictions_nothing_is_said_to_be_right(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    rows = keys_and_labels(images)
    payload, _ = payload_of("activation", np.random.default_rng(0))
    dataset = {"root_name": "images", "class_names": ["ant", "bee", "cat"], "teacher_class": [],
               "digest": list_digest(list(rows), np.array([*rows.values()], np.int32))}  # fmt: skip
    store = make_store(rows, payload=payload, kind="activation", teacher={"name": "saliency"}, dataset=dataset,
                       other={"prediction": np.full(N, -1, np.int32)})  # fmt: skip
    _, text = report(images, Path(str(store)), tmp_path / "page.html", samples=1)
    assert "there are no predictions that could be compared with the classes" in text
    assert "The store has no predictions" in text
    assert "taken for" not in text
    assert "1 images were drawn" not in text


def test_a_store_at_a_url(
    images: Path, make_store: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of its folder is asked of the one that it was pulled into; no password stands on the page."""
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
    store = make_kind("label", images, make_store)
    push(store, "memory://there")
    text = write_report(list_images(images), "memory://there", tmp_path / "page.html").read_text("utf-8")
    assert '<bdi class="path">memory://there</bdi>' in text
    assert "finished: 4 of 4 shards, 30 of 30 images" in text
    monkeypatch.setattr("store.reading.map_store.local_store", lambda _: store)
    text = write_report(list_images(images), "ftp://me:secret@there/maps", tmp_path / "page.html").read_text("utf-8")
    assert "there/maps" in text
    assert "secret" not in text


HOSTILE = "<script>alert('1')</script> & \"<b>\" {{ 7 * 7 }} \u202e"


def test_texts_of_files_are_texts(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    """Class names, keys, errors, the teacher's and the folder's name, in any place where they stand."""
    rows, listed = keys_and_labels(images), list_images(images)
    keys = [f"{key}{HOSTILE.replace('/', '')}" for key in rows]
    names = [f"{HOSTILE}{k}" for k in range(3)]
    labels = np.array([*rows.values()], np.int32)
    predictions = labels.copy()
    predictions[labels == 1] = 2
    store = make_store(
        dict(zip(keys, labels.tolist(), strict=True)), (keys[2],), class_names=names,
        teacher={"name": HOSTILE, "classes": 3, "source": HOSTILE}, preprocessing={"crop_mode": HOSTILE},
        other={
            "prediction": predictions, "size": np.array([size_of(key) for key in rows], np.int32),
            "error": np.array([HOSTILE if key == keys[2] else "" for key in keys], object),
        },
    )  # fmt: skip
    images_of = Renamed(keys, labels, names, listed)
    page, text = report(images_of, Path(str(store)), tmp_path / "page.html")
    assert page.open == []
    assert not {"script", "b"} & page.tags
    for given in (names[0], keys[5], HOSTILE):
        assert html.escape(given).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


class Renamed:
    """Images under other keys and class names."""

    def __init__(
        self, keys: Sequence[str], labels: npt.NDArray[np.int32], names: Sequence[str], inner: ImageList
    ) -> None:
        self.keys, self.labels, self.class_names, self._inner = keys, labels, names, inner

    def open(self, row: int) -> BinaryIO:
        return self._inner.open([*self._inner.keys].index(self.keys[row].partition("<")[0]))


def test_bad_images_with_their_errors(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    make_store(keys_and_labels(images), ("ant/img3.jpg", "bee/img4.jpg"))
    (store,) = tmp_path.glob("maps-*")
    page, text = report(images, store, tmp_path / "page.html")
    assert len(page.pictures) == 28 + 6 * MIXES
    assert "2 of 30 could not be read at extraction" in text
    assert re.findall(r'<bdi class="path">(\w+/\w+\.jpg)</bdi> <span class="soft"><bdi>(.*?)<', text) == [
        ("ant/img3.jpg", "cut off"),
        ("bee/img4.jpg", "cut off"),
    ]


def test_images_that_can_no_longer_be_read(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    listed, store = list_images(images), make_kind("label", images, make_store)
    damaged = Damaged(listed, {3})
    page, text = report(damaged, store, tmp_path / "page.html")
    assert len(page.pictures) == 29 + 6 * MIXES
    assert "1 of the samples had a map, but cannot be read now" in text
    assert html.escape(f"'{listed.keys[3]}': expected an image that can be decoded").replace("&#x27;", "&#39;") in text
    with pytest.raises(OSError, match="none of 30 sampled images can be read; the first: 'ant/img10.jpg': expected an"):
        write_report(Damaged(listed, range(N)), store, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


class Damaged:
    """Images of which some were cut off."""

    def __init__(self, inner: ImageList, rows: Any) -> None:
        self.keys, self.labels, self.class_names = inner.keys, inner.labels, inner.class_names
        self._inner, self._rows = inner, rows

    def open(self, row: int) -> BinaryIO:
        return BytesIO(b"") if row in self._rows else self._inner.open(row)


def test_other_images_are_refused(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    rows = keys_and_labels(images)
    sizes = np.full((N, 2), (60, 300), np.int32)
    make_store(
        rows, other={"size": sizes, "fingerprint": np.full(N, 7, np.uint64)}, columns=("orientation", "fingerprint")
    )
    (store,) = tmp_path.glob("maps-*")
    listed = list_images(images)
    with pytest.raises(StoreMismatch, match="of 30 files compared 30 are not those"):
        write_report(listed, store, tmp_path / "page.html")
    with pytest.raises(StoreMismatch, match="expected an image of 60 x 300 px"):
        write_report(listed, store, tmp_path / "page.html", same_files=False)
    assert [*tmp_path.glob("page*")] == []


class Drawn:
    """Any number of images that are made when they are opened."""

    def __init__(self, rows: int) -> None:
        self.keys = [f"{['ant', 'bee', 'cat'][i % 3]}/{i:06d}.png" for i in range(rows)]
        self.labels = np.arange(rows, dtype=np.int32) % 3
        self.class_names = ["ant", "bee", "cat"]

    def open(self, row: int) -> BinaryIO:
        file = BytesIO()
        Image.new("RGB", (8, 8), (row % 256, 9, 9)).save(file, "PNG")
        file.seek(0)
        return file


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of a store's reader gave."""
    counts: list[int] = []
    read = MapStore.read

    def counted(self: MapStore, rows: Any) -> Any:
        counts.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(MapStore, "read", counted)
    return counts


def test_no_more_rows_are_read_of_more(make_store: StoreMaker, tmp_path: Path, rows_read: list[int]) -> None:
    totals = []
    for rows in (60, 6000):
        listed = Drawn(rows)
        ones = np.ones((rows, 2, 2), np.float16)
        store = make_store(
            dict(zip(listed.keys, listed.labels.tolist(), strict=True)), payload={"label_logit": ones}, grid=(2, 2),
            shard_rows=max(20, rows // 6), other={"size": np.full((rows, 2), 8, np.int32)},
        )  # fmt: skip
        rows_read.clear()
        write_report(listed, str(store), tmp_path / f"{rows}.html", samples=40)
        totals.append(sum(rows_read))
    assert totals == [40 + 2 * MIXES] * 2


def test_samples_are_drawn_evenly(images: Path, make_store: StoreMaker) -> None:
    listed = list_images(images)
    joined = join(listed, str(make_store(keys_and_labels(images))), same_files=True)
    for seed in range(5):
        drawn = draw_samples(joined, 10, "logit", np.random.default_rng(seed))
        assert (drawn.row // 3).tolist() == list(range(10))
    reverse = Join(listed, joined.maps, joined.rows, joined.usable[::-1])
    again = draw_samples(reverse, 10, "logit", np.random.default_rng(4))
    assert again.row.tolist() == drawn.row.tolist()


def test_many_classes_stay_readable(images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    classes = 1000
    rows = {key: row * classes // N for row, key in enumerate(keys_and_labels(images))}
    names = [f"class {k}" for k in range(classes)]
    payload = {"label_logit": np.ones((N, *GRID), np.float16)}
    listed = list_images(images)
    predictions = np.array([*rows.values()], np.int32)
    predictions[:10] += 1
    store = make_store(rows, payload=payload, class_names=names, other={"prediction": predictions})
    given = Renamed(list(rows), np.array([*rows.values()], np.int32), names, listed)
    _, text = report(given, Path(str(store)), tmp_path / "page.html")
    table = text[text.index('<table class="classes">') : text.index("<details>")]
    assert table.count("<tr>") == 1 + 12
    assert "<summary>18 more classes</summary>" in text
    assert f"{classes - N:,} classes without any image so far" in text
    assert math.isclose(float(re.findall(r"<strong>([\d.]+) %", text)[0]), 66.7)


@pytest.mark.parametrize("options", [{"samples": 0}, {"evidence": "probability"}, {"seed": -1}])
def test_arguments(options: dict[str, Any], images: Path, make_store: StoreMaker, tmp_path: Path) -> None:
    store = make_kind("label", images, make_store)
    with pytest.raises(ValueError, match="expected"):
        write_report(list_images(images), store, tmp_path / "page.html", **options)
    assert not os.path.lexists(tmp_path / "page.html")
