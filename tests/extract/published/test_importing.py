"""Trees of `.pt` files become stores and trees again; what is missing or broken is named and counted."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli import main
from extract.audit.unreadable import drop_repaired
from extract.errors import ExtractError, ImagesError
from extract.images.listing import list_images
from extract.job.progress import Report
from extract.published.exporting import export_tree
from extract.published.importing import import_tree
from extract.settings import ImportOptions
from store import MapStore, StoreError, StoreMismatch, verify
from store.fingerprint import fingerprint_of_bytes
from store.spec import shard_name

GRID, TOP, CLASSES = (3, 4), 5, 12
NAMES = [f"c{i:02d}" for i in range(CLASSES)]


def scored(seed: int, label: int, outputs: int = CLASSES) -> torch.Tensor:
    """[2, k, h, w] as TokenLabeling's script makes it; the label is the first class of every token."""
    logits = torch.randn(*GRID, outputs, generator=torch.Generator().manual_seed(seed))
    logits[..., label] += 9
    values, classes = logits.topk(TOP)
    return torch.stack([values.half(), classes.half()]).permute(0, 3, 1, 2)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`images` of 12 classes and `maps` parallel to it, 24 of each."""
    for i in range(24):
        name = f"{NAMES[i % CLASSES]}/img_{i}"
        for folder in ("images", "maps"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + i, 30)).save(tmp_path / "images" / f"{name}.JPEG")
        torch.save(scored(i, i % CLASSES), tmp_path / "maps" / f"{name}.pt", _use_new_zipfile_serialization=i % 2 == 0)
    return tmp_path


def run(
    tree: Path, store: str = "store", form: str = "tokenlabeling", classes: tuple[Any, ...] = (), **options: Any
) -> MapStore:
    report = fill(tree, store, form, *classes, **options)
    assert report.complete
    return MapStore(tree / store)


def fill(tree: Path, store: str, form: str, *classes: Any, **options: Any) -> Report:
    options = {"shard_rows": 7, "max_errors": 9} | options
    return import_tree(
        form, tree / "maps", list_images(tree / "images"), tree / store, ImportOptions(**options), *classes
    )


def test_images_are_not_what_was_unreadable(tree: Path) -> None:
    (tree / "maps" / NAMES[0] / "img_0.pt").unlink()
    assert run(tree).statuses.any()
    with pytest.raises(ExtractError, match="expected maps made by `tokenmix extract`, found imported.*by hand"):
        drop_repaired(list_images(tree / "images"), tree / "store")


def test_what_is_in_the_files_is_in_the_store(tree: Path) -> None:
    store = run(tree)
    assert (store.kind, store.grid, store.header.depth, store.header.dtype) == ("topk", GRID, TOP, "float16")
    assert verify(tree / "store").problems == ()
    for row, key in enumerate(store.keys):
        values, classes = torch.load(tree / "maps" / key.replace(".JPEG", ".pt"), weights_only=True).numpy()
        np.testing.assert_array_equal(store.read_topk([row])[0][0], values, strict=True)
        np.testing.assert_array_equal(store.read_topk([row])[1][0], classes)
        width, height = 40 + int(key.split("_")[1].split(".")[0]), 30
        assert store.sizes[row].tolist() == [width, height]
        np.testing.assert_allclose(store.views([row])[0], [0.5 - 15 / width, 0, 0.5 + 15 / width, 1], atol=1e-6)
    assert "imported" in str(store.header.teacher["name"])
    with pytest.raises(StoreError, match="read_logsumexp: expected the logits of all classes, found maps imported"):
        store.read_logsumexp([0])


def test_a_tree_and_back(tree: Path) -> None:
    store = run(tree)
    seen: list[int] = []
    assert export_tree(tree / "store", tree / "out", on_progress=seen.append) == 24
    assert seen == [24]
    for file in sorted((tree / "maps").rglob("*.pt")):
        ours = torch.load(tree / "out" / file.relative_to(tree / "maps"), weights_only=True)
        theirs = torch.load(file, weights_only=True)
        assert ours.dtype == torch.half
        assert torch.equal(ours, theirs)
    shutil.move(tree / "out", tree / "maps2")
    shutil.rmtree(tree / "maps")
    (tree / "maps2").rename(tree / "maps")
    again = run(tree, "again")
    for ours, theirs in zip(again.read_topk(range(24)), store.read_topk(range(24)), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    np.testing.assert_array_equal(again.views(range(24)), store.views(range(24)))


def test_relabel_is_float_and_saw_the_whole_image(tree: Path) -> None:
    for file in (tree / "maps").rglob("*.pt"):
        torch.save(torch.load(file).float() / 3 * torch.tensor([1.0, 3.0])[:, None, None, None], file)
    store = run(tree, form="relabel")
    assert store.header.dtype == "float32"
    np.testing.assert_array_equal(store.views([0]), [[0, 0, 1, 1]])
    expected = torch.load(tree / "maps" / store.keys[5].replace(".JPEG", ".pt"), weights_only=True)[0]
    np.testing.assert_array_equal(store.read_topk([5])[0][0], expected.numpy(), strict=True)


def broken(tree: Path) -> dict[str, str]:
    """Damage one map in each way; key -> what is said of it."""
    maps = tree / "maps"
    good = scored(0, 0)
    (maps / "c01/img_1.pt").unlink()
    (maps / "c02/img_2.pt").write_bytes((maps / "c02/img_2.pt").read_bytes()[:-900])
    torch.save(good[:, :, :2], maps / "c03/img_3.pt")
    torch.save(good.long(), maps / "c04/img_4.pt")
    for name, place, value in (("c05/img_5", 0, float("inf")), ("c06/img_6", 1, 12), ("c07/img_7", 1, 0.5)):
        bad = good.clone()
        bad[place, 0, 0, 0] = value
        torch.save(bad, maps / f"{name}.pt")
    good[1, 1] = good[1, 0]
    torch.save(good, maps / "c09/img_9.pt")
    (tree / "images/c08/img_8.JPEG").write_bytes(b"no image")
    return {
        "c01/img_1": "map: expected c01/img_1.pt, found no such file",
        "c02/img_2": "map: expected a complete file",
        "c03/img_3": "map: expected float [2, 5, 3, 4], found float16 [2, 5, 2, 4]",
        "c04/img_4": "map: expected float [2, 5, 3, 4], found int64",
        "c05/img_5": "map: expected finite logits",
        "c06/img_6": "map: expected class numbers below 12 (of a teacher of more: --class-map)",
        "c07/img_7": "map: expected class numbers below 12",
        "c08/img_8": "image: no image format",
        "c09/img_9": "map: expected every class once per token",
    }


def test_what_is_broken_is_named_counted_and_stored_as_such(tree: Path) -> None:
    expected = broken(tree)
    with pytest.raises(ImagesError, match=r"expected at most 8 unreadable images, found 9 in 21.*--max-errors"):
        run(tree, max_errors=8)
    store = run(tree, max_errors=9)
    assert verify(tree / "store").problems == ()
    found = {store.keys[row].removesuffix(".JPEG"): reason for row, reason in store.errors.items()}
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert found[name].startswith(reason), found[name]
    assert export_tree(tree / "store", tree / "out") == 15


def test_unsorted_maps_are_sorted(tree: Path) -> None:
    file = tree / "maps/c00/img_0.pt"
    torch.save(torch.load(file, weights_only=True).flip(1), file)
    np.testing.assert_array_equal(run(tree).read_topk([0])[0][0], scored(0, 0)[0].numpy())


def test_a_teacher_of_other_classes_in_another_order(tree: Path) -> None:
    """The files number the outputs of a teacher of 50 classes, of which the dataset's twelve are the odd ones."""
    outputs = [2 * label + 1 for label in range(CLASSES)]
    for i in range(24):
        file = tree / "maps" / NAMES[i % CLASSES] / f"img_{i}.pt"
        torch.save(scored(i, outputs[i % CLASSES], 50), file)
    report = fill(tree, "store", "tokenlabeling", outputs, 50)
    assert (report.progress.top1, report.progress.confusion.judged) == (1.0, 24)
    store = MapStore(tree / "store")
    assert (store.header.outputs, store.header.teacher_class.tolist()) == (50, outputs)
    assert store.labels.tolist() == [NAMES.index(key.split("/")[0]) for key in store.keys]
    assert export_tree(tree / "store", tree / "out") == 24
    for file in (tree / "maps").rglob("*.pt"):
        exported = torch.load(tree / "out" / file.relative_to(tree / "maps"), weights_only=True)
        assert torch.equal(exported, torch.load(file, weights_only=True))
    with pytest.raises(StoreMismatch, match=r"dataset\.teacher_class"):
        fill(tree, "store", "tokenlabeling", outputs[::-1], 50)
    nowhere = fill(tree, "few", "tokenlabeling", outputs, 30, max_errors=24)
    assert all("expected class numbers below 30" in reason for _, reason in nowhere.progress.errors)
    assert nowhere.progress.errors


def test_resume_refuses_other_trees_and_views(tree: Path) -> None:
    run(tree)
    (tree / "store" / shard_name(1)).unlink()
    for options, name in (
        ({"view": "squash"}, "crop_mode"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"dtype": "float32"}, "dtype"),
    ):
        with pytest.raises(StoreMismatch, match=name):
            run(tree, **options)
    torch.save(scored(99, 0), tree / "maps/c00/img_0.pt")
    with pytest.raises(StoreMismatch, match=r"teacher\.files"):
        run(tree)
    torch.save(scored(0, 0), tree / "maps/c00/img_0.pt")
    assert len(run(tree)) == 24


def test_class_numbers_that_half_cannot_hold(tree: Path) -> None:
    for i in range(CLASSES, 2050):
        (tree / "images" / f"d{i}").mkdir()
        (tree / "images" / f"d{i}" / "x.jpg").write_bytes(b"")
    with pytest.raises(ImagesError, match=r"at most 2049 classes, whose numbers float16 can hold, found 2050"):
        run(tree)


def test_two_images_of_one_map(tree: Path) -> None:
    shutil.copy(tree / "images/c00/img_0.JPEG", tree / "images/c00/img_0.b.JPEG")
    with pytest.raises(StoreError, match=r"c00/img_0\.pt: expected one image per map, found 'c00/img_0"):
        run(tree)


def test_no_maps_there(tree: Path) -> None:
    for file in (tree / "maps").rglob("*.pt"):
        file.write_bytes(b"")
    with pytest.raises(ImagesError, match=r"expected maps \[2, k, h, w\] such as .*found an empty file"):
        run(tree)
    shutil.rmtree(tree / "maps")
    with pytest.raises(ImagesError, match="no such files"):
        run(tree)
    assert not (tree / "store").exists()


def test_export_refuses_what_it_would_overwrite_or_lose(tree: Path) -> None:
    run(tree)
    export_tree(tree / "store", tree / "out")
    export_tree(tree / "store", tree / "out")  # again: goes on
    torch.save(scored(99, 0), tree / "out/c00/img_0.pt")
    with pytest.raises(StoreError, match=r"img_0\.pt: expected this map or no file, found another"):
        export_tree(tree / "store", tree / "out")


def test_the_commands(tree: Path) -> None:
    def tokenmix(*given: object) -> str:
        done = CliRunner().invoke(main, [str(part) for part in given], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    output = tokenmix("import", "tokenlabeling", tree / "maps", tree / "images", tree / "store", "--shard-size", 9)
    assert "3 shards written" in output
    assert "label leads most tokens of 100.0 %" in output  # no prediction of the teacher, so not called so
    assert "imported from tokenlabeling files" in tokenmix("info", tree / "store")
    exported = tokenmix("export", "tokenlabeling", tree / "store", tree / "out")
    assert "24 maps" in exported
    assert "--view center --crop-pct 1.0" in exported
    into = CliRunner().invoke(main, ["export", "tokenlabeling", str(tree / "store"), str(tree / "store")])
    assert into.exit_code == 1
    assert "expected a folder for .pt files, found a store" in into.output
    tokenmix("import", "tokenlabeling", tree / "out", tree / "images", tree / "again", "--worker", "1/2")
    label = CliRunner().invoke(main, ["export", "tokenlabeling", str(tree / "none"), str(tree / "out")])
    assert label.exit_code == 1
    assert "not a store" in label.output


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_import_goes_on(tree: Path, number: signal.Signals) -> None:
    for i in range(24, 300):
        name = f"{NAMES[i % CLASSES]}/img_{i}"
        Image.new("RGB", (40, 30)).save(tree / "images" / f"{name}.JPEG")
        torch.save(scored(i, i % CLASSES), tree / "maps" / f"{name}.pt")
    command = ["import", "tokenlabeling", "maps", "images", "killed", "--shard-size", "10"]
    job = subprocess.Popen([sys.executable, "-m", "cli", *command], cwd=tree, stderr=subprocess.DEVNULL)
    while not (tree / "killed" / shard_name(0)).exists():
        time.sleep(0.001)
    job.send_signal(number)
    assert job.wait() == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    left = len(list((tree / "killed").glob("shard-*.h5")))
    assert 0 < left < 30
    run(tree, "killed", shard_rows=10, max_errors=None)
    assert not verify(tree / "killed").problems
    run(tree, "whole", shard_rows=10, max_errors=None)
    for shard in range(30):
        ours, theirs = (tree / name / shard_name(shard) for name in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_images_are_told_by_their_files(tree: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = f"{NAMES[1]}/img_1.JPEG"
    Image.new("RGB", (41, 30)).save(tree / "images" / turned, exif=exif)
    store = run(tree)
    expected = [fingerprint_of_bytes((tree / "images" / key).read_bytes()) for key in store.keys]
    assert store.fingerprints.tolist() == expected
    assert store.orientations.tolist() == [8 if key == turned else 1 for key in store.keys]
    (tree / "store" / shard_name(0)).unlink()
    Image.new("RGB", (41, 30), "red").save(tree / "images" / store.keys[20])
    with pytest.raises(StoreMismatch, match="of 17 files compared 1 are not those that its maps were made from"):
        fill(tree, "store", "tokenlabeling")
