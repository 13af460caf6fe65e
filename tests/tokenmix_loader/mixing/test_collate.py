import pickle
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import FastCollateMixup, ImageDataset, create_loader
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.loader import fast_collate
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from tests.tokenmix_loader.conftest import CLASSES, StoreMaker, keys_and_labels, small_blocks
from tests.tokenmix_loader.mixing.test_mixup import LABELS, batch
from tokenmix_loader import MapDataset, MapStore, MapTarget, TokenMix, TokenMixCollate

Samples = list[tuple[Any, MapTarget]]
WHOLE_IMAGE = tv.Compose([tv.Resize((48, 48)), tv.PILToTensor()])


@pytest.fixture
def store(make_store: StoreMaker) -> MapStore:
    """Row i has label i % 3; the evidence of class k lies in quadrant k."""
    return make_store({f"{i}.jpg": label for i, label in enumerate(LABELS)})


def samples(size: int = 6, side: int = 12) -> Samples:
    """Image i shows the number 40 i everywhere."""
    images, targets = batch(size, side)
    pixels = (40 * images).byte()
    return [(pixels[i], MapTarget(*(part[i] for part in targets))) for i in range(size)]


def collate(store: MapStore, **settings: Any) -> TokenMixCollate:
    own: dict[str, Any] = {"num_classes": 3, "switch_prob": 1.0, "label_smoothing": 0.0}
    return TokenMixCollate(store, (6, 6), **own | small_blocks(settings) | settings)


@pytest.mark.parametrize("kind", ["block", "random", "region", "cutmix", "attentive", "saliencymix"])
@pytest.mark.parametrize("side", [12, 18, 24, 48])
@pytest.mark.parametrize("size", [5, 6])
def test_pixels_and_targets_tell_the_same_story(store: MapStore, kind: str, side: int, size: int) -> None:
    """Evidence of class k is quadrant k: a label's score is the share of that quadrant that shows its image."""
    for seed in range(5):
        mixed, dense = collate(store, kind=kind, seed=seed)(samples(size, side))
        assert (mixed.dtype, mixed.shape, dense.dtype) == (torch.uint8, (size, 3, side, side), torch.float32)
        assert (mixed == mixed[:, :1]).all()
        for i in range(size):
            expected = torch.zeros(3)
            for label, number in {(LABELS[i], i), (LABELS[size - 1 - i], size - 1 - i)}:
                row, column = divmod(label, 2)
                half = side // 2
                quadrant = mixed[i, 0, half * row : half * (row + 1), half * column : half * (column + 1)]
                expected[label] += (quadrant == 40 * number).float().mean()
            np.testing.assert_allclose(dense[i], expected.clamp(max=1), atol=1e-5)


def test_cutmix_s_rectangle_is_timm_s_in_the_mean(store: MapStore) -> None:
    shares = [
        float((collate(store, kind="cutmix", seed=seed)(samples(2, 48))[0][0] == 0).float().mean())
        for seed in range(400)
    ]
    np.random.seed(0)  # noqa: NPY002 -- timm draws from it
    timm_s = FastCollateMixup(mixup_alpha=0, cutmix_alpha=1, num_classes=3)
    pairs = [(image.numpy(), 0) for image, _ in samples(2, 48)]
    theirs = [float((timm_s(pairs)[0][0] == 0).float().mean()) for _ in range(400)]
    assert abs(np.mean(shares) - np.mean(theirs)) < 0.05
    assert abs(np.std(shares) - np.std(theirs)) < 0.03


def test_mixup_is_timm_s(store: MapStore) -> None:
    rng = np.random.default_rng(0)
    given = [(torch.from_numpy(rng.integers(0, 256, (3, 12, 12), np.uint8)), target) for _, target in samples()]
    mixed, dense = collate(store, switch_prob=0.0, label_smoothing=0.1, seed=2)(given)
    timm_s = FastCollateMixup(mixup_alpha=1, num_classes=3, label_smoothing=0.1)
    share = 1 - float(dense[0, LABELS[5]] - 0.1 / 3) / 0.9
    timm_s._params_per_batch = lambda: (share, False)
    expected, targets = timm_s([(image, target.label) for image, target in given])
    assert 0.05 < share < 0.95
    assert (mixed.int() - expected.int()).abs().max() <= 1  # the share went through float32
    assert (mixed == expected).float().mean() > 0.99
    np.testing.assert_allclose(dense, targets, atol=1e-6)


def test_arrays_are_as_good_as_tensors(store: MapStore) -> None:
    arrays = [(image.numpy(), target) for image, target in samples()]
    for ours, theirs in zip(collate(store)(samples()), collate(store)(arrays), strict=True):
        assert torch.equal(ours, theirs)


def test_samples_are_not_written_to(store: MapStore) -> None:
    given = samples()
    for settings in ({}, {"switch_prob": 0.0}, {"kind": "cutmix"}):
        collate(store, **settings)(given)
    assert all(torch.equal(image, again) for (image, _), (again, _) in zip(given, samples(), strict=True))


def loader(images: Path, store: MapStore, collate_fn: TokenMixCollate, workers: int, **options: Any) -> DataLoader[Any]:
    dataset = MapDataset(ImageFolder(images), store, WHOLE_IMAGE)
    shuffle = torch.Generator().manual_seed(5)
    return DataLoader(
        dataset, 8, shuffle=True, generator=shuffle, num_workers=workers, collate_fn=collate_fn, **options
    )


def test_results_do_not_depend_on_the_number_of_workers(images: Path, make_store: StoreMaker) -> None:
    store = make_store(keys_and_labels(images))
    runs = [
        [part for epoch in range(2) for pair in batches for part in pair]
        for batches in ([*loader(images, store, collate(store, prob=0.8, switch_prob=0.5), n)] for n in (0, 1, 2))
    ]
    for other in runs[1:]:
        assert len(other) == len(runs[0])
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_the_seed_decides(store: MapStore) -> None:
    first, again, other = (collate(store, seed=seed)(samples())[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_other_orders_get_other_masks(store: MapStore) -> None:
    assert not torch.equal(collate(store)(samples())[1], collate(store)(samples()[::-1])[1].flip(0))


def test_batches_without_maps_differ_too(store: MapStore) -> None:
    unmapped = [(image, target._replace(row=torch.tensor(-1))) for image, target in samples()]
    first, second = (collate(store)(given)[0] for given in (unmapped, unmapped[1:] + unmapped[:1]))
    assert not torch.equal(first, second.roll(1, 0))


@pytest.mark.parametrize("persistent", [True, False])
def test_timm_s_loader_and_its_off_switch(images: Path, make_store: StoreMaker, persistent: bool) -> None:
    """The calls of timm's train.py, with its prefetcher; workers live on from epoch to epoch."""
    store = make_store(keys_and_labels(images))
    dataset = MapDataset(ImageDataset(str(images)), store)
    collate_fn = TokenMixCollate(
        store, (6, 6), num_classes=3, mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, mode="batch"
    )
    train = create_loader(
        dataset, (3, 48, 48), 8, is_training=True, collate_fn=collate_fn, num_workers=2, device=torch.device("cpu"),
        persistent_workers=persistent, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25,
    )  # fmt: skip
    assert train.mixup_enabled
    two_labels = 0
    for epoch in range(4):
        if epoch == 2:
            train.mixup_enabled = False
        for pixels, dense in train:
            assert (pixels.dtype, pixels.shape, dense.shape) == (torch.float32, (8, 3, 48, 48), (8, len(CLASSES)))
            hits = (dense > 0.05).sum(dim=1)
            two_labels += int((hits == 2).sum()) if epoch < 2 else 0
            assert epoch < 2 or (hits == 1).all()
    assert two_labels
    assert not train.mixup_enabled


def test_timm_s_arguments_go_to_both_as_they_are(store: MapStore) -> None:
    mixup_args: dict[str, Any] = {
        "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "cutmix_minmax": None, "prob": 0.9, "switch_prob": 0.3,
        "mode": "batch", "label_smoothing": 0.2, "num_classes": 3,
    }  # fmt: skip
    timm_s = FastCollateMixup(**mixup_args)
    ours = TokenMixCollate(store, (6, 6), **mixup_args)
    assert {name: vars(ours)[name] for name in vars(timm_s) if name != "mixup_enabled"} == {
        name: value for name, value in vars(timm_s).items() if name != "mixup_enabled"
    }
    on_device = TokenMix(store, grid=(6, 6), rng=np.random.default_rng(0), **mixup_args)
    shared = signature(TokenMix).parameters.keys() & signature(TokenMixCollate).parameters.keys() - {"store"}
    assert shared > mixup_args.keys()
    assert all(getattr(on_device, name) == getattr(ours, name) for name in shared)


def test_off_is_timm_s_plain_collate(store: MapStore) -> None:
    ours = collate(store, label_smoothing=0.3)
    ours.mixup_enabled = False
    mixed, dense = ours(samples())
    expected, labels = fast_collate([(image, int(target.label)) for image, target in samples()])
    assert torch.equal(mixed, expected)
    np.testing.assert_allclose(dense, 0.7 * torch.eye(3)[labels] + 0.1, atol=1e-6)


def test_it_pickles_for_spawned_workers(store: MapStore) -> None:
    again = pickle.loads(pickle.dumps(collate(store)))
    assert torch.equal(again(samples())[1], collate(store)(samples())[1])


def test_wrong_settings_and_batches_are_refused(store: MapStore) -> None:
    for settings, message in (
        ({"mode": "elem"}, "expected mode 'batch' and no cutmix_minmax, found 'elem'"),
        ({"cutmix_minmax": (0.2, 0.8)}, "cutmix_minmax"),
        ({"kind": "blob"}, "kind: expected one of block, random, region, attentive, saliencymix, peak, cutmix"),
    ):
        with pytest.raises(ValueError, match=message):
            collate(store, **settings)
    with pytest.raises(TypeError, match="wat"):
        collate(store, wat=1)
    with pytest.raises(TypeError, match=r"found int; wrap the dataset: MapDataset\(dataset, store\)"):
        collate(store)([(image, 3) for image, _ in samples()])  # type: ignore[misc]
    with pytest.raises(TypeError, match="expected pairs of an image and a MapDataset's target, found int"):
        collate(store)([*samples()[:2], (samples()[0][0], 3)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="found samples of Tensor, MapTarget, int"):
        collate(store)([(*sample, 3) for sample in samples()])  # type: ignore[misc]
    with pytest.raises(TypeError, match="found samples of dict"):
        collate(store)([{"image": image} for image, _ in samples()])  # type: ignore[misc]
    with pytest.raises(ValueError, match="expected samples, found an empty batch"):
        collate(store)([])
    with pytest.raises(ValueError, match="multiples of the 6 x 6 grid, found 13 x 13"):
        collate(store)(samples(side=13))


def test_float_images_are_refused_not_rounded(store: MapStore) -> None:
    given = [(pixels.float() / 255, target) for pixels, target in samples()]
    with pytest.raises(TypeError, match=r"expected uint8 images \[3, H, W\], found torch.float32"):
        collate(store)(given)


@pytest.mark.parametrize("repeated", [False, True])
def test_ranks_share_out_the_images_and_draw_on_their_own(images: Path, make_store: StoreMaker, repeated: bool) -> None:
    """Both of timm's samplers for several processes: every image finds its own map, and ranks get other masks."""
    store = make_store(keys_and_labels(images))
    dataset = MapDataset(ImageFolder(images), store, WHOLE_IMAGE)
    mixed: list[list[torch.Tensor]] = []
    seen: list[int] = []
    for rank in range(2):
        sampler: Any = DistributedSampler(dataset, 2, rank)
        if repeated:
            sampler = RepeatAugSampler(dataset, 2, rank, num_repeats=3, selected_round=0)
        plain = [pair for pairs in DataLoader(dataset, 5, sampler=sampler, collate_fn=list) for pair in pairs]
        for pixels, target in plain:
            assert torch.equal(pixels, WHOLE_IMAGE(ImageFolder(images)[int(target.row)][0]))
        seen += [int(target.row) for _, target in plain]
        batches = DataLoader(dataset, 5, sampler=sampler, collate_fn=collate(store, kind="random", per="sample"))
        mixed.append([dense for _, dense in batches])
    assert len(set(seen)) == (10 if repeated else 30)
    assert not any(torch.equal(a, b) for a, b in zip(*mixed, strict=True))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed: expected at least 0, found -1"),
        ({"seed": None}, TypeError, "seed: expected a whole number"),
        ({"seed": "0"}, TypeError, "seed: expected a whole number"),
        ({"seed": True}, TypeError, "seed: expected a whole number"),
        ({"smoothing": 0.3}, TypeError, "smoothing: expected a setting, found none .* did you mean 'label_smoothing'?"),
        ({"batch": 3}, TypeError, r"batch: expected a setting, found none .* \(known: store, grid, kind"),
    ],
)
def test_settings_that_would_fail_in_a_worker(
    store: MapStore, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        collate(store, **settings)


def test_pil_images_are_told_where_the_transform_belongs(store: MapStore, images: Path) -> None:
    image, _ = ImageFolder(images)[0]
    with pytest.raises(TypeError, match="found Image; give MapDataset a transform, and wrap a Subset"):
        collate(store)([(image, samples()[0][1])] * 2)
