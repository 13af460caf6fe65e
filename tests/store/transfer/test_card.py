"""The card: read by Hugging Face's `datasets` and by people, and what a person wrote in it stays."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from store import MapStore, cache_folder, pull, push
from store.transfer.card import BEGIN, END
from tests.store.conftest import make_rows, write_store

datasets = pytest.importorskip("datasets")


@pytest.fixture
def there(tmp_path: Path, whole: Path) -> Path:
    push(whole, tmp_path / "there")
    return tmp_path / "there"


def test_a_pushed_store_is_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with one shard, which is less than there are files of JSON."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    there = tmp_path / "there"
    write_store(tmp_path / "maps", make_rows(17), 17)
    push(tmp_path / "maps", there)
    loaded = datasets.load_dataset(str(there), cache_dir=str(tmp_path / "cache"))
    store = MapStore(there)
    rows = loaded["train"].with_format("numpy")
    assert list(loaded) == ["train"]
    np.testing.assert_array_equal(rows["label_logit"][:], store.read(range(17)))
    np.testing.assert_array_equal(rows["label"][:], store.labels)


def test_it_says_what_the_store_is(there: Path) -> None:
    card = (there / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "shard-*.h5"}]
    assert "license: unknown  # fill in" in card
    for text in ("`resnet26`, random weights", "17 of `animals`, 10 classes", "`label`, float16", "3 x 5", "12.5 %"):
        assert f"| {text} |" in card


def test_what_a_person_wrote_stays(there: Path, before: Path, extended: Path, whole: Path) -> None:
    card = there / "README.md"
    text = card.read_text()
    edited = text.replace("unknown  # fill in, as cc-by-4.0", "cc0-1.0").replace(BEGIN, "Mine.\n" + BEGIN)
    edited = edited.replace("resnet26", "a teacher") + "\nMine, too.\n"
    card.write_text(edited)
    (there / "shard-00000.h5").unlink()
    push(whole, there)
    assert card.read_text() == edited.replace("a teacher", "resnet26")  # between the marks
    card.write_text("no marks: all mine\n")
    (there / "shard-00000.h5").unlink()
    push(whole, there)
    assert card.read_text() == "no marks: all mine\n"
    card.write_bytes(b"\xff\xfe")
    (there / "shard-00000.h5").unlink()
    push(whole, there)
    assert card.read_bytes() == b"\xff\xfe"


def test_the_licence_goes_on_with_the_store(tmp_path: Path, there: Path) -> None:
    card = there / "README.md"
    card.write_text(card.read_text().replace("license: unknown  # fill in, as cc-by-4.0", "license: cc0-1.0"))
    copy = pull(there, tmp_path / "copy").store
    push(copy, tmp_path / "elsewhere")
    assert "license: cc0-1.0" in (tmp_path / "elsewhere" / "README.md").read_text()


def test_names_cannot_break_the_table_or_the_marks(tmp_path: Path) -> None:
    teacher = {"name": f"a|b\n{END}\n# c", "source": "random", "classes": 10}
    write_store(tmp_path / "maps", make_rows(5), 5, teacher=teacher)
    for _ in range(2):
        push(tmp_path / "maps", tmp_path / "there")
        card = (tmp_path / "there" / "README.md").read_text()
        assert card.count(BEGIN) == card.count(END) == 1
        assert "a\\|b &lt;!-- tokenmix: to here --> # c" in card
        (tmp_path / "there" / "manifest.json").unlink()


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://bucket/a/maps"
    monkeypatch.delenv("TOKENMIX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(url).parent == Path("/xdg/tokenmix")
    assert cache_folder(url).name.startswith("maps-")
    assert cache_folder(url + "/") == cache_folder(url) == cache_folder(Path(url))
    assert cache_folder("s3://bucket/b/maps") != cache_folder(url)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder(url).parent == Path("/home/me/.cache/tokenmix")
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path))
    assert cache_folder(url).parent == tmp_path
    assert cache_folder("sftp://me:secret@host").name.startswith("host-")
