"""The fidelity benchmark on a store whose maps are the truth itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.fidelity import format_table, run
from recipes.context_digits.generate import generate
from store import Header, RowBatch, ShardWriter, create_store
from store.format.rows import list_digest

ROWS, GRID = 60, (18, 18)


def write_perfect_maps(store: Path, images: Path, *, topk: bool = False) -> None:
    """Every map is the mean of the pixel mask over its cells; `topk`: as logits 0 to 10, with 0 for all others."""
    keys = sorted(path.relative_to(images).as_posix() for path in images.glob("*/*.jpg"))
    labels = np.array([int(key[0]) for key in keys], np.int32)
    masks = [Image.open(images.parent / "masks" / key.replace(".jpg", ".png")) for key in keys]
    maps = np.stack([np.asarray(mask.resize(GRID, Image.Resampling.BOX), np.float16) for mask in masks])
    names = [str(i) for i in range(10)]
    digest = list_digest(keys, labels)
    dataset: dict[str, Any] = {
        "root_name": "images",
        "class_names": names,
        "teacher_class": list(range(10)),
        "digest": digest,
    }
    kind, depth = ("topk", 2) if topk else ("label", 1)
    header = Header(kind, {"name": "perfect", "classes": 10}, {}, GRID, "float16", ROWS, ROWS, dataset, {}, depth)
    create_store(store, header)
    two = np.stack((labels, (labels + 1) % 10), axis=1)[:, :, None, None] + np.zeros(GRID)
    logits = maps.astype(np.float32) / 25.5
    sharp = {
        "topk_logit": np.stack((logits, 0 * logits), axis=1).astype(np.float16),
        "topk_class": two.astype(np.uint16),
        "logsumexp": np.log(np.exp(logits) + 9).astype(np.float16),
    }
    batch = RowBatch(
        payload=sharp if topk else {"label_logit": maps},
        label=labels,
        prediction=labels,
        size=np.array([mask.size for mask in masks], np.int32),
        view=np.tile(np.array([0, 0, 1, 1], np.float32), (ROWS, 1)),
        status=np.zeros(ROWS, np.uint8),
        key=keys,
        error=[""] * ROWS,
    )
    with ShardWriter(store, header, 0) as writer:
        writer.append(batch)
        writer.publish()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("fidelity")
    generate(root / "data", ROWS, seed=0, split="test")
    write_perfect_maps(root / "maps", root / "data" / "images")
    return root / "data" / "images", root / "maps"


@pytest.fixture(scope="module")
def result(folders: tuple[Path, Path]) -> dict[str, Any]:
    return run(*folders, pairs=100, seed=1)


def test_perfect_maps_score_as_the_ideal_does(result: dict[str, Any]) -> None:
    for view in result["views"].values():
        targets = view["targets"]
        assert targets["TokenMix, logit"]["error"] == pytest.approx(targets["ideal 18 x 18"]["error"], abs=2e-4)


def test_what_is_left_is_the_grid(result: dict[str, Any]) -> None:
    """The truth knows nothing of `align` and the affines: a slip in either would show here."""
    for view, bound in (("whole image", 0.06), ("random crop", 0.14)):
        targets = result["views"][view]["targets"]
        assert targets["ideal 18 x 18"]["ratio_to_area"] < bound
        assert targets["ideal 18 x 18"]["error"] < targets["ideal 12 x 12"]["error"]
        assert 0.15 < targets["area"]["error"] < 0.5


def test_views_without_a_digit_are_counted(result: dict[str, Any]) -> None:
    whole, crop = result["views"]["whole image"], result["views"]["random crop"]
    assert (whole["scores"], whole["left_out"]) == (200, 0)
    assert crop["scores"] + crop["left_out"] == 200
    assert crop["left_out"] > 0


def test_seed_decides_all(folders: tuple[Path, Path], result: dict[str, Any]) -> None:
    assert run(*folders, pairs=100, seed=1)["views"] == result["views"]
    assert run(*folders, pairs=100, seed=2)["views"] != result["views"]


def test_table_and_json(result: dict[str, Any]) -> None:
    table = format_table(result)
    assert table.count("TokenMix, contrast") == len(result["views"])
    assert json.loads(json.dumps(result)) == result
    assert result["store"]["teacher_top1"] == 1.0


def test_missing_mask_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"masks/\d/test-\d+\.png: expected the pixel mask"):
        run(tmp_path / "images", folders[1], pairs=10)
