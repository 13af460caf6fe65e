"""docs/timm.md's lines, put into a script of timm's own calls, and each row of its table run."""

import gc
import logging
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data import FastCollateMixup, create_dataset, create_loader

from store import StoreError
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tokenmix_loader import MapDataset, MapStore, TokenMixCollate, UntraceableTransform

PAGE = Path(__file__).parents[3] / "docs" / "timm.md"
SCRIPT = Path(__file__).with_name("timm_train.py")
Train = Callable[..., list[list[tuple[torch.Tensor, torch.Tensor]]]]


def with_the_page_s_lines(script: str) -> str:
    """The script, changed as the diff of the page says; each part of it has to fit in one place."""
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.S)
    imports, *parts = diff.split("...\n")
    for part in parts:
        lines = part.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        assert script.count(before) == 1, f"timm's script: expected once: {before}"
        script = script.replace(before, after)
    return "".join(line[1:] for line in imports.splitlines(keepends=True)) + script


@pytest.fixture
def store(images: Path, make_store: StoreMaker) -> MapStore:
    return make_store(keys_and_labels(images))


@pytest.fixture
def train(images: Path, store: MapStore) -> Train:
    def run(*options: str, maps: Path | str = store._folder, settings: str = "min_tokens=4") -> Any:
        script = with_the_page_s_lines(SCRIPT.read_text())
        script = script.replace('"MAPS"', repr(str(maps))).replace("(14, 14)", f"(6, 6), {settings}")
        names: dict[str, Any] = {"__name__": "train"}
        exec(compile(script, SCRIPT.name, "exec"), names)
        return names["main"](["--data-dir", str(images), "--num-classes", "3", *options])

    return run


def classes_of(targets: torch.Tensor) -> torch.Tensor:
    """How many classes each target has, beside what smoothing gives to all."""
    return (targets > 0.1 / 3 + 1e-3).sum(dim=1)


@pytest.mark.parametrize(
    "options",
    [
        ("--mixup", "0.8", "--cutmix", "1.0"),
        ("--mixup", "0.8"),
        ("--mixup", "0", "--cutmix", "1.0"),
        ("--mixup", "0.8", "--mixup-switch-prob", "0.9", "--bce-loss"),
        ("--mixup", "0.8", "--mixup-prob", "0.9", "-j", "1"),
        ("--mixup", "0.8", "--aa", "rand-m9-mstd0.5-inc1", "--reprob", "0.25", "--train-crop-mode", "rkrc"),
        ("--mixup", "0.8", "--no-prefetcher"),
        ("--mixup", "0.8", "--cutmix", "1.0", "--no-prefetcher", "--reprob", "0.25"),
    ],
)
def test_the_table_s_options_train_with_maps(train: Train, options: tuple[str, ...]) -> None:
    (batches,) = train(*options)
    assert len(batches) == 3  # of 30 images in batches of 8
    for images, targets in batches:
        assert (images.shape, images.dtype) == ((8, 3, 48, 48), torch.float32)
        assert (targets.shape, targets.dtype) == ((8, 3), torch.float32)
    assert any((classes_of(targets) == 2).any() for _, targets in batches)


TOKENMIX_ALONE = ("--mixup", "0", "--cutmix", "1.0", "--smoothing", "0", "--batch-size", "30")


@pytest.mark.parametrize("prefetcher", [True, False])
def test_scores_are_those_of_the_maps(train: Train, prefetcher: bool) -> None:
    """Half of the tokens are kept, so by area both labels of a pair would have 0.5."""
    options = (*TOKENMIX_ALONE, *([] if prefetcher else ["--no-prefetcher"]))
    scores = []
    for settings in ("min_tokens=4", "min_tokens=4, supervision='area'"):
        (((_, targets),),) = train(*options, settings=settings)
        pairs = targets[classes_of(targets) == 2]
        assert len(pairs)
        scores.append(pairs[pairs > 0])
    assert (scores[0] - 0.5).abs().max() > 0.2
    torch.testing.assert_close(scores[1], torch.full_like(scores[1], 0.5))


def test_cutmix_s_rectangle_takes_timm_s_number(train: Train) -> None:
    assert len(train("--cutmix", "1.0", settings="kind='cutmix'")[0]) == 3
    with pytest.raises(ValueError, match=r"cutmix_alpha: expected a number above 0 .*--cutmix 1.0"):
        train("--mixup", "0.8", settings="kind='cutmix'")


@pytest.mark.parametrize("prefetcher", [True, False])
def test_mixing_ends_when_timm_says_so(train: Train, prefetcher: bool) -> None:
    options = [] if prefetcher else ["--no-prefetcher"]
    mixed, plain = train("--mixup", "0.8", "--epochs", "2", "--mixup-off-epoch", "1", *options)
    assert any((classes_of(targets) == 2).any() for _, targets in mixed)
    assert all((classes_of(targets) == 1).all() for _, targets in plain)


@pytest.mark.parametrize("options", [(), ("--smoothing", "0"), ("--mixup", "0", "--cutmix", "0"), ("-j", "1")])
@pytest.mark.parametrize("prefetcher", [True, False])
def test_without_mixing_nothing_trains_in_silence(train: Train, options: tuple[str, ...], prefetcher: bool) -> None:
    """timm's default: it takes the targets for labels."""
    with pytest.raises(
        (AttributeError, TypeError), match=r"(?s)MapTarget: expected TokenMix or TokenMixCollate .*--mixup or --cutmix"
    ):
        train(*options, *([] if prefetcher else ["--no-prefetcher"]))


@pytest.mark.parametrize("options", [(), ("--mixup", "0.8"), ("--mixup", "0.8", "--no-prefetcher")])
def test_a_store_that_is_not_there_stops_every_run(train: Train, tmp_path: Path, options: tuple[str, ...]) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        train(*options, maps=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--mixup-mode", "elem"), ValueError, "expected mode 'batch'"),
        (("--cutmix-minmax", "0.2", "0.8"), ValueError, "cutmix_minmax"),
        (("--aa", "augmix-m3-w3"), UntraceableTransform, "AugMixAugment"),
        (("--aug-splits", "3"), AssertionError, None),
    ],
)
def test_what_the_page_calls_refused_is_refused(
    train: Train, options: tuple[str, ...], error: type[Exception], message: str | None
) -> None:
    with pytest.raises(error, match=message):
        train("--mixup", "0.8", *options)


def test_fewer_images_than_a_batch_are_said(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert train("--mixup", "0.8", "--batch-size", "64") == [[]]
        gc.collect()
    assert [text for text in caplog.messages if text.startswith("TokenMixCollate: expected batches, found none")]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_lines_are_needed_together(images: Path, store: MapStore) -> None:
    """A mixer without the dataset, whose images timm leaves open, and the dataset with timm's mixer."""
    plain, mapped = create_dataset("", str(images)), MapDataset(create_dataset("", str(images)), store)
    ours = TokenMixCollate(store, (6, 6), num_classes=3, min_tokens=4)
    for dataset, collate_fn, message in (
        (plain, ours, "wrap the dataset"),
        (mapped, FastCollateMixup(num_classes=3), "MapTarget: expected TokenMix or TokenMixCollate"),
    ):
        loader = create_loader(
            dataset, (3, 48, 48), 8, is_training=True, collate_fn=collate_fn, num_workers=0, device=torch.device("cpu")
        )
        with pytest.raises((TypeError, AttributeError), match=message):
            next(iter(loader))


def test_transforms_that_come_after_the_dataset_are_refused(images: Path, store: MapStore) -> None:
    """timm's scheduled input sizes: create_loader takes the transform away from the dataset, and wraps it."""
    if "input_size_choices" not in signature(create_loader).parameters:
        pytest.skip("this timm has no scheduled input sizes")
    dataset = MapDataset(create_dataset("", str(images)), store)
    loader = create_loader(
        dataset, (3, 48, 48), 8, is_training=True, num_workers=0, device=torch.device("cpu"), input_size_choices=(48,),
        collate_fn=TokenMixCollate(store, (6, 6), num_classes=3, min_tokens=4),
    )  # fmt: skip
    with pytest.raises(ValueError, match="found 8 of 8 images that it gave as they are, and that were transformed"):
        next(iter(loader))
