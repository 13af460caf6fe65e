from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.loss import SoftTargetCrossEntropy
from torch.utils.data import DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from store import StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels, small_blocks
from tokenmix_loader import MapDataset, MapStore, MapTarget, TokenMix, mix_images, read_tokens, sample_masks

WHOLE = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)
LABELS = [0, 1, 2, 0, 1, 2]


@pytest.fixture
def store(make_store: StoreMaker) -> MapStore:
    """Row i has label i % 3; the evidence of class k lies in quadrant k."""
    return make_store({f"{i}.jpg": label for i, label in enumerate(LABELS)})


def batch(size: int = 6, side: int = 12) -> tuple[torch.Tensor, MapTarget]:
    """Image i shows the number i everywhere; whole images, none flipped."""
    images = torch.arange(float(size))[:, None, None, None].expand(size, 3, side, side).clone()
    rows = torch.arange(size)
    return images, MapTarget(torch.tensor(LABELS[:size]), rows, WHOLE.expand(size, 10), torch.zeros_like(rows))


def tokenmix(store: MapStore, seed: int = 0, **options: Any) -> TokenMix:
    settings: dict[str, Any] = {"num_classes": 3, "grid": (6, 6), "switch_prob": 1.0, "label_smoothing": 0.0}
    settings |= small_blocks(options) | options
    return TokenMix(store, rng=np.random.default_rng(seed), **settings)


def test_pixels_and_targets_tell_the_same_story(store: MapStore) -> None:
    """Evidence of class k is quadrant k: a label's score is the share of that quadrant that shows its image."""
    images, targets = batch()
    for seed in range(20):
        mixed, dense = tokenmix(store, seed)(images, targets)
        for i in range(6):
            a, b = LABELS[i], LABELS[5 - i]
            expected = torch.zeros(3)
            for label, number in ((a, i), (b, 5 - i)):
                row, column = divmod(label, 2)
                quadrant = mixed[i, 0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
                expected[label] += (quadrant == number).float().mean()
            np.testing.assert_allclose(dense[i], expected.clamp(max=1), atol=1e-5)


def test_the_crop_and_the_flip_move_the_evidence(store: MapStore) -> None:
    """A mirrored view of the upper half: label 0's quadrant is on the right, label 2's is out of sight."""
    upper_half_mirrored = torch.tensor([-1.0, 0, 1, 0, 0.5, 0, 0, 0, 1, 1], dtype=torch.float64)
    targets = MapTarget(torch.tensor([0, 1, 2]), torch.arange(3), upper_half_mirrored.expand(3, 10))
    tokens = read_tokens(store, targets, (2, 2))
    np.testing.assert_allclose(tokens[0], [[0, 0.5], [0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(tokens[1], [[0.5, 0], [0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(tokens[2], np.zeros((2, 2)), atol=1e-6)


def test_images_without_a_map_are_scored_by_area(store: MapStore) -> None:
    images, targets = batch()
    unmapped = targets._replace(row=torch.full((6,), -1))
    by_area = tokenmix(store, supervision="area")(images, targets)
    without_maps = tokenmix(store)(images, unmapped)
    assert torch.equal(by_area[0], without_maps[0])
    np.testing.assert_allclose(by_area[1], without_maps[1])
    np.testing.assert_allclose(by_area[1].sum(1), 1, atol=1e-6)


def test_an_unreadable_first_row_stands_in_for_nobody(make_store: StoreMaker) -> None:
    rows = {f"{i}.jpg": label for i, label in enumerate(LABELS)}
    targets = batch()[1]._replace(row=torch.tensor([-1, 1, 2, 3, 4, -1]))
    tokens = read_tokens(make_store(rows, unreadable=("0.jpg",)), targets, (6, 6))
    np.testing.assert_allclose(tokens.sum((1, 2)), [0.0, 1, 1, 1, 1, 0], atol=1e-6)


def test_switched_batches_get_mixup(store: MapStore) -> None:
    images, targets = batch()
    mixed, dense = tokenmix(store, switch_prob=0.0)(images, targets)
    share = float(mixed[0, 0, 0, 0]) / -5 + 1  # image 0 of 0s with image 5 of 5s
    assert 0 < share < 1
    numbers = share * torch.arange(6.0) + (1 - share) * torch.arange(6.0).flip(0)
    np.testing.assert_allclose(mixed, numbers[:, None, None, None].expand_as(mixed), atol=1e-5)
    one_hot = torch.eye(3)[LABELS]
    np.testing.assert_allclose(dense, share * one_hot + (1 - share) * one_hot.flip(0), atol=1e-5)


def test_batches_are_shared_out_as_asked(store: MapStore) -> None:
    images, targets = batch()
    mix = tokenmix(store, prob=0.75, switch_prob=0.6)
    kinds = {"plain": 0, "mixup": 0, "tokenmix": 0}
    for _ in range(600):
        mixed, _ = mix(images, targets)
        whole_numbers = bool((mixed == mixed.round()).all())
        kinds["plain" if torch.equal(mixed, images) else "tokenmix" if whole_numbers else "mixup"] += 1
    assert abs(kinds["plain"] / 600 - 0.25) < 0.06
    assert abs(kinds["mixup"] / 600 - 0.75 * 0.4) < 0.06


def test_no_alpha_no_mixup(store: MapStore) -> None:
    images, targets = batch()
    mixed, _ = tokenmix(store, mixup_alpha=0, switch_prob=0)(images, targets)
    assert (mixed == mixed.round()).all()
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("option", [{"switched_off": True}, {"prob": 0.0}])
def test_without_mixing_images_stay_and_targets_are_smoothed(store: MapStore, option: dict[str, Any]) -> None:
    images, targets = batch()
    off = option.pop("switched_off", False)
    mix = tokenmix(store, label_smoothing=0.3, **option)
    mix.mixup_enabled = not off
    mixed, dense = mix(images, targets)
    assert torch.equal(mixed, images)
    np.testing.assert_allclose(dense, 0.7 * torch.eye(3)[LABELS] + 0.1, atol=1e-6)


@pytest.mark.parametrize("switch_prob", [0.0, 1.0])
def test_the_middle_of_an_odd_batch_meets_itself(store: MapStore, switch_prob: float) -> None:
    images, targets = batch(5)
    mixed, dense = tokenmix(store, switch_prob=switch_prob)(images, targets)
    assert torch.equal(mixed[2], images[2])
    np.testing.assert_allclose(dense[2], torch.eye(3)[LABELS[2]], atol=1e-5)


def test_results_depend_on_the_generator_alone(store: MapStore) -> None:
    images, targets = batch()
    results: list[list[torch.Tensor]] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))
        mix = tokenmix(store, seed, switch_prob=0.5, prob=0.9, beta=(1, 1))
        results.append([part for _ in range(4) for part in mix(images, targets)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("switch_prob", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_and_dtype_are_kept(store: MapStore, switch_prob: float, dtype: torch.dtype) -> None:
    images, targets = batch()
    for memory_format in (torch.channels_last, torch.contiguous_format):
        laid_out = images.to(dtype, memory_format=memory_format)
        mixed, dense = tokenmix(store, switch_prob=switch_prob)(laid_out, targets)
        assert mixed.is_contiguous(memory_format=memory_format)
        assert mixed.dtype == dtype
        assert dense.dtype == torch.float32


def test_mix_images_cuts_along_tokens() -> None:
    images = torch.stack((torch.zeros(1, 4, 6), torch.ones(1, 4, 6)))
    masks = torch.tensor([[[True, False, True], [False, True, True]]] * 2)
    mixed = mix_images(images, masks)
    np.testing.assert_array_equal(mixed[0, 0, ::2, ::2], [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(mixed[1], 1 - mixed[0])
    np.testing.assert_array_equal(mixed[0, 0, ::2], mixed[0, 0, 1::2])


def test_mask_options_reach_the_masks(store: MapStore) -> None:
    images, targets = batch()
    mixed, _ = tokenmix(store, 5, kind="region", kept=0.75, per="batch")(images, targets)
    rng = np.random.default_rng(5)
    rng.random()  # whether to mix
    rng.random()  # with what
    masks = sample_masks(rng, 6, (6, 6), "region", kept=0.75, per="batch", min_tokens=4)
    assert torch.equal(mixed, mix_images(images, masks))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evidence": "loud"}, "evidence: expected one of auto, logit, contrast"),
        ({"supervision": "none"}, "supervision: expected one of tokenmix, area"),
        ({"prob": 2}, "prob: expected a share from 0 to 1, found 2"),
        ({"label_smoothing": -0.1}, "label_smoothing: expected a share"),
        ({"kind": "blob"}, "kind: expected one of block"),
        ({"min_tokens": 0}, "min_tokens: expected at least 1"),
        ({"kind": "attentive", "beta": (1, 1)}, "beta: expected kind block, random, region with it, found 'attentive'"),
        ({"kind": "cutmix", "min_tokens": 3}, "min_tokens: expected kind"),
        ({"grid": 6}, r"grid: expected \(gh, gw\) of at least 1, found 6"),
    ],
)
def test_wrong_settings_are_refused_at_once(store: MapStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenmix(store, **options)


def test_wrong_batches_are_refused(store: MapStore) -> None:
    images, targets = batch()
    mix = tokenmix(store)
    for bad, message in (
        (images.byte(), "expected a float dtype, found torch.uint8"),
        (images[:4], r"label: expected shape \[4\], found \[6\]"),
        (images[0], "images: expected shape"),
        (images[..., 1:], "multiples of the 6 x 6 grid, found 12 x 11"),
    ):
        for one in (mix, tokenmix(store, switch_prob=0.0)):  # also where Mixup needs no grid
            with pytest.raises(ValueError, match=message):
                one(bad, targets)
    with pytest.raises(ValueError, match="labels: expected 0 to 1, found 0 to 2"):
        tokenmix(store, num_classes=2)(images, targets)
    with pytest.raises(TypeError, match="TokenMix: images: expected a tensor, found ndarray"):
        mix(images.numpy(), targets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mix_images: images: expected shape \[any, any, any, any\]"):
        mix_images(images[0], torch.ones(3, 6, 6, dtype=torch.bool))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_loop(images: Path, make_store: StoreMaker, workers: int) -> None:
    """Files, workers, store, mixing, loss and a step, with everything real."""
    store = make_store(keys_and_labels(images))
    transform = tv.Compose([tv.RandomResizedCrop(24), tv.RandomHorizontalFlip(), tv.ToTensor()])
    dataset = MapDataset(ImageFolder(images), store, transform)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    mix = TokenMix(store, 3, (6, 6), rng=np.random.default_rng(0), evidence="contrast")
    steps = 0
    for pixels, targets in DataLoader(dataset, 7, shuffle=True, num_workers=workers):
        mixed, dense = mix(pixels, targets)
        assert ((dense >= 0) & (dense <= 1)).all()
        loss = SoftTargetCrossEntropy()(model(mixed), dense)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    assert steps == 5
    assert torch.isfinite(loss)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_another_store_than_the_datasets_is_refused(make_store: StoreMaker) -> None:
    """Rows of one store mean nothing in another: without a word, every target would be another image's."""
    images, targets = batch()
    rows = {f"ant/img{i}.jpg": (int(label) + 1) % 3 for i, label in enumerate(LABELS)}
    with pytest.raises(StoreMismatch, match=r"expected label 0 in row 0, found 1 and \d more.*MapDataset"):
        tokenmix(make_store(rows), switch_prob=1.0)(images, targets)


@pytest.mark.parametrize(
    "setting",
    [
        {"kept": 1.5},
        {"min_evidence": float("nan")},
        {"mixup_alpha": -1},
        {"mixup_alpha": float("inf")},
        {"cutmix_alpha": -1},
        {"cutmix_alpha": 0, "kind": "cutmix"},
        {"num_classes": 0},
        {"beta": (0, 1)},
        {"beta": ()},
    ],
)
def test_settings_that_would_be_ignored_are_refused(store: MapStore, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f": {next(iter(setting))}: expected"):
        tokenmix(store, **setting)


NUMBERS = ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob", "label_smoothing", "kept", "min_evidence",
           "num_classes", "min_tokens")  # fmt: skip


@pytest.mark.parametrize("name", [*NUMBERS, "grid", "beta", "aspect"])
@pytest.mark.parametrize("wrong", ["1", True, None])
def test_other_types_than_numbers_are_refused_by_name(store: MapStore, name: str, wrong: object) -> None:
    """Texts, as from a file of settings, would fail in the first batch, in a worker, or compare as something else."""
    value: Any = wrong if name in NUMBERS else (wrong, wrong)
    with pytest.raises(TypeError, match=rf": {name}: expected .*, found .*{wrong!r}"):
        tokenmix(store, **{name: value})


@pytest.mark.parametrize("setting", [{"grid": "66"}, {"grid": (6.5, 6)}, {"num_classes": 3.0}, {"min_tokens": 4.5}])
def test_counts_are_whole_numbers(store: MapStore, setting: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f": {next(iter(setting))}: expected"):
        tokenmix(store, **setting)


def test_numpy_s_numbers_are_numbers(store: MapStore) -> None:
    images, targets = batch()
    ours: dict[str, Any] = {"num_classes": 3, "grid": (6, 6), "kept": 0.25, "label_smoothing": 0.5, "min_tokens": 4}
    theirs: dict[str, Any] = {"num_classes": np.int64(3), "grid": np.array((6, 6)), "kept": np.float32(0.25),
              "label_smoothing": np.float16(0.5), "min_tokens": np.uint8(4)}  # fmt: skip
    for one, other in zip(tokenmix(store, **ours)(images, targets), tokenmix(store, **theirs)(images, targets)):  # noqa: B905
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("setting", "meant"),
    [({"kind": "blok"}, "block"), ({"kind": "attentiv"}, "attentive"), ({"supervision": "mixtoken"}, "tokenmix"),
     ({"evidence": "logits"}, "logit"), ({"per": "samples"}, "sample"), ({"variant": "realeased"}, "released")],
)  # fmt: skip
def test_the_nearest_choice_is_named(store: MapStore, setting: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean '{meant}'\?"):
        tokenmix(store, **setting)


@pytest.mark.parametrize(
    ("unknown", "meant"), [("smoothing", "label_smoothing"), ("alpha", "mixup_alpha"), ("num_class", "num_classes")]
)
def test_the_nearest_setting_is_named(store: MapStore, unknown: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"TokenMix: {unknown}: expected a setting, .*did you mean '{meant}'\?"):
        tokenmix(store, **{unknown: 1})


def test_timm_s_default_of_no_cutmix_is_no_setting_of_ours(store: MapStore) -> None:
    """timm's `--cutmix` is 0 unless given; other kinds than cutmix do not read it."""
    images, targets = batch()
    for one, other in zip(tokenmix(store, cutmix_alpha=0.0)(images, targets), tokenmix(store)(images, targets)):  # noqa: B905
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["block", "cutmix"])
def test_unknown_settings_are_refused(store: MapStore, kind: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        tokenmix(store, kind=kind, nonsense=1)


def test_plain_labels_are_refused(store: MapStore) -> None:
    images, targets = batch()
    with pytest.raises(TypeError, match="expected a batch of MapTarget, found Tensor"):
        tokenmix(store)(images, targets.label)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(3, 2, 2, dtype=torch.bool), r"masks: expected shape \[2, any, any\], found \[3, 2, 2\]"),
        (torch.ones(2, 2, 2), "masks: expected bool, found torch.float32; compare with 0"),
        (torch.ones(2, 3, 2, dtype=torch.bool), "expected height and width in multiples of the 3 x 2 grid"),
    ],
)
def test_mix_images_refuses_other_masks(masks: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix_images(torch.zeros(2, 3, 4, 4), masks)
