"""ReLabel's and TokenLabeling's targets from the k largest logits per cell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from store import StoreMismatch
from tests.tokenmix_loader.conftest import GRID, StoreMaker, small_blocks
from tests.tokenmix_loader.scoring.test_geometry import random_crops
from tokenmix_loader import MapStore, MapTarget, TokenLabelLoss, TokenMix, TokenTargets
from tokenmix_loader.scoring.soft_labels import read_soft_labels

CLASSES, TOP, ROWS = 12, 3, 9
SIZE, TOKENS = (24, 24), (4, 6)
SEEDS = st.integers(0, 2**31)
LABELS = np.arange(ROWS) % CLASSES
MakeTopk = Any


@pytest.fixture
def make_topk(make_store: StoreMaker) -> MakeTopk:
    def make(
        logits: npt.NDArray[np.float32],
        top: int = TOP,
        outputs: Sequence[int] = range(CLASSES),
        labels: npt.NDArray[Any] = LABELS,
        **fields: Any,
    ) -> MapStore:
        """A store of the top k of logits [N, CLASSES, h, w], of a dataset whose class i is `outputs[i]` of them."""
        order = np.argsort(-logits, axis=1)[:, :top]
        payload = {
            "topk_logit": np.take_along_axis(logits, order, 1).astype(np.float32),
            "topk_class": order.astype(np.uint16),
            "logsumexp": np.log(np.exp(logits).sum(1)).astype(np.float32),
        }
        rows = {f"{i}.jpg": int(label) for i, label in enumerate(labels)}
        names, teacher = [f"class {i}" for i in range(len(outputs))], {"name": "random", "classes": CLASSES}
        dataset = {"root_name": "images", "class_names": names, "teacher_class": [*outputs], "digest": ""}
        header: dict[str, Any] = {"teacher": teacher, "dataset": dataset, "depth": top} | fields
        store: MapStore = make_store(rows, payload=payload, kind="topk", dtype="float32", **header)
        return store

    return make


@pytest.fixture
def store(make_topk: MakeTopk) -> Any:
    return make_topk(random_logits(0))


def random_logits(seed: int) -> npt.NDArray[np.float32]:
    return (2 * np.random.default_rng(seed).standard_normal((ROWS, CLASSES, *GRID))).astype(np.float32)


def crops(seed: int, *, oblique: bool = False) -> MapTarget:
    affines = random_crops(seed, ROWS)
    affines[:, 0, 1] += 0.2 * oblique
    place = torch.cat((affines.flatten(1), torch.tensor([0.0, 0, 1, 1]).double().expand(ROWS, 4)), dim=1)
    return MapTarget(torch.from_numpy(LABELS), torch.arange(ROWS), place)


def whole() -> MapTarget:
    place = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)
    return crops(0)._replace(place=place.expand(ROWS, 10))


def probabilities(store: MapStore, targets: MapTarget, grid: tuple[int, int] = TOKENS, **how: Any) -> torch.Tensor:
    """[B, T, K]."""
    return read_soft_labels(store, targets, grid, CLASSES, **{"pooled": False} | how).dense(CLASSES)


def tokenmix(store: MapStore, supervision: str, seed: int = 0, **options: Any) -> TokenMix:
    chosen: dict[str, Any] = {"switch_prob": 1.0, "label_smoothing": 0.1} | small_blocks(options) | options
    if chosen.get("kind") != "cutmix":  # which has one rectangle, of a size that is drawn
        chosen |= {"per": "sample", "kept": 0.25}
    return TokenMix(store, CLASSES, TOKENS, rng=np.random.default_rng(seed), supervision=supervision, **chosen)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_uniform_map_gives_its_own_probabilities(make_topk: MakeTopk, pooled: bool) -> None:
    """Of the classes in the top k, and for all others together."""
    logits = np.broadcast_to(random_logits(1)[:, :, :1, :1], (ROWS, CLASSES, *GRID)).copy()
    expected = torch.from_numpy(logits[:, :, 0, 0]).softmax(1)[:, None]
    inside = torch.tensor([[-0.5, 0, 0.8, 0, 0.6, 0.2, 0, 0, 1, 1], [0.4, 0.2, 0.3, -0.2, 0.4, 0.3, 0, 0, 1, 1]])
    for place in inside.double():
        targets = crops(3)._replace(place=place.expand(ROWS, 10))
        found = probabilities(make_topk(logits), targets, pooled=pooled)
        named = expected >= expected.topk(TOP).values[..., -1:]
        named = named.expand_as(found)
        np.testing.assert_allclose(found[named], expected.expand_as(found)[named], atol=2e-5)
        np.testing.assert_allclose(found.where(~named, 0).sum(2), expected.expand_as(found).where(~named, 0).sum(2),
                                   atol=2e-5)  # fmt: skip


def test_the_teacher_s_own_grid_gives_the_teacher_s_own_cells(make_topk: MakeTopk) -> None:
    logits = random_logits(2)
    found = probabilities(make_topk(logits), whole(), GRID).mT.reshape(logits.shape)
    expected = torch.from_numpy(logits).softmax(1)
    top = expected.topk(TOP, dim=1)
    np.testing.assert_allclose(found.gather(1, top.indices), top.values, atol=2e-5)


@given(SEEDS, st.booleans(), st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_probabilities_are_probabilities(store: MapStore, seed: int, pooled: bool, oblique: bool) -> None:
    found = probabilities(store, crops(seed, oblique=oblique), pooled=pooled)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(2), 1, atol=1e-5)


@given(SEEDS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipping_the_crop_flips_the_tokens(store: MapStore, seed: int) -> None:
    targets = crops(seed)
    mirrored = targets.place.clone()
    mirrored[:, 2] += mirrored[:, 0]
    mirrored[:, 0] *= -1
    plain, flipped = (probabilities(store, targets._replace(place=place)) for place in (targets.place, mirrored))
    as_image = (ROWS, *TOKENS, CLASSES)
    np.testing.assert_allclose(flipped.view(as_image), plain.view(as_image).flip(2), atol=1e-4)


def test_what_no_map_covers_gets_the_label(store: MapStore) -> None:
    targets = whole()
    beside = targets._replace(place=targets.place + torch.tensor([0.0, 0, 2, 0, 0, 0, 0, 0, 0, 0]))
    unmapped = targets._replace(row=torch.full((ROWS,), -1))
    expected = 0.9 * torch.eye(CLASSES)[LABELS][:, None] + 0.1 / CLASSES
    for given_ in (beside, unmapped):
        for pooled in (False, True):
            found = probabilities(store, given_, pooled=pooled)
            np.testing.assert_allclose(found, expected.expand_as(found), atol=1e-6)
    found = probabilities(store, targets._replace(row=torch.tensor([-1, *range(1, ROWS)])), pooled=True)
    np.testing.assert_allclose(found[1:], probabilities(store, targets, pooled=True)[1:])


def test_imported_maps_count_other_classes_as_0(make_topk: MakeTopk) -> None:
    logits = random_logits(4)
    store = make_topk(logits, teacher={"name": "imported", "classes": CLASSES, "logsumexp": "unknown"})
    cut = np.where(logits >= np.sort(logits, axis=1)[:, -TOP, None], logits, 0)
    found = probabilities(store, whole(), pooled=True)[:, 0]
    np.testing.assert_allclose(found, torch.from_numpy(cut.mean((2, 3))).softmax(1), atol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("top", [TOP, CLASSES])
def test_a_subset_of_the_teacher_s_outputs_equals_the_full_logits(make_topk: MakeTopk, pooled: bool, top: int) -> None:
    """Four classes in another order than the teacher's twelve outputs; its other outputs are left out."""
    outputs = [7, 2, 11, 4]
    logits, labels = random_logits(6), np.arange(ROWS) % 4
    store = make_topk(logits, top, outputs, labels)
    targets = whole()._replace(label=torch.from_numpy(labels))
    found = read_soft_labels(store, targets, GRID, 4, pooled=pooled).dense(4)

    exact = logits.astype(np.float64)
    named = exact >= np.sort(exact, axis=1)[:, -top, None]
    if top < CLASSES:  # all other outputs, also those of no class, share what is left
        left = np.where(named, 0, np.exp(exact)).sum(1, keepdims=True) / (CLASSES - top)
        exact = np.where(named, exact, np.log(left))
    cells = torch.from_numpy(exact[:, outputs]).flatten(2)
    expected = cells.mean(2, keepdim=True) if pooled else cells
    np.testing.assert_allclose(found, expected.softmax(1).mT, atol=2e-5)


def test_another_order_of_the_classes_gives_the_same_in_that_order(store: MapStore, make_topk: MakeTopk) -> None:
    order = np.random.default_rng(0).permutation(CLASSES)
    labels = np.argsort(order)[LABELS]
    permuted = make_topk(random_logits(0), outputs=order.tolist(), labels=labels)
    found = probabilities(permuted, crops(8)._replace(label=torch.from_numpy(labels)))
    np.testing.assert_allclose(found, probabilities(store, crops(8))[..., order], atol=1e-6)


def test_classes_that_share_an_output_are_refused(make_topk: MakeTopk) -> None:
    store = make_topk(random_logits(0), outputs=[3, 5, 3], labels=np.zeros(ROWS, int))
    targets = crops(0)._replace(label=torch.zeros(ROWS, dtype=torch.int64))
    with pytest.raises(StoreMismatch, match="found output 3 for both 'class 0' and 'class 2'"):
        read_soft_labels(store, targets, TOKENS, 3, pooled=True)
    for supervision in ("relabel", "tokenlabeling"):
        with pytest.raises(StoreMismatch, match="expected an output of the teacher for each class"):
            TokenMix(store, 3, TOKENS, rng=np.random.default_rng(0), supervision=supervision)
    assert TokenMix(store, 3, TOKENS, rng=np.random.default_rng(0), supervision="tokenmix")


@pytest.mark.parametrize("switch_prob", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["block", "cutmix"])
def test_mixed_targets_still_sum_to_1(store: MapStore, switch_prob: float, kind: str) -> None:
    images = torch.rand(ROWS, 3, *SIZE)
    for seed in range(5):
        for supervision in ("relabel", "tokenlabeling"):
            mix = tokenmix(store, supervision, seed, switch_prob=switch_prob, kind=kind)
            _, found = mix(images, crops(seed))
            if isinstance(found, TokenTargets):
                assert found.share.shape == (ROWS, 24)
                np.testing.assert_allclose(found.dense().sum(2), 1, atol=1e-5)
                np.testing.assert_allclose(found.label.sum(1), 1, atol=1e-5)
            else:
                assert found.shape == (ROWS, CLASSES)
                np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_a_token_has_the_probabilities_of_the_image_that_it_shows(store: MapStore) -> None:
    numbers = torch.arange(float(ROWS))[:, None, None, None].expand(ROWS, 3, *SIZE)
    targets = crops(7)
    mixed, found = tokenmix(store, "tokenlabeling")(numbers, targets)
    assert isinstance(found, TokenTargets)
    shown = mixed[:, 0, ::6, ::4].flatten(1).long()  # the image of each token
    own = probabilities(store, targets)
    assert 0 < (shown != torch.arange(ROWS)[:, None]).float().mean() < 1
    np.testing.assert_allclose(found.dense(), own[shown, torch.arange(24)], atol=1e-6)
    share = (shown == torch.arange(ROWS)[:, None]).float().mean(1)
    classes = torch.eye(CLASSES)[LABELS]
    expected = share[:, None] * classes + (1 - share)[:, None] * classes.flip(0)
    np.testing.assert_allclose(found.label, 0.9 * expected + 0.1 / CLASSES, atol=1e-6)


def test_relabel_mixes_both_crops_by_area(store: MapStore) -> None:
    _, found = tokenmix(store, "relabel")(torch.rand(ROWS, 3, *SIZE), crops(5))
    pooled = probabilities(store, crops(5), pooled=True)[:, 0]
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, 0.25 * pooled + 0.75 * pooled.flip(0), atol=1e-6)


@pytest.mark.parametrize("switch_prob", [0.0, 1.0])
def test_the_loss_is_that_of_dense_targets(store: MapStore, switch_prob: float) -> None:
    _, targets = tokenmix(store, "tokenlabeling", switch_prob=switch_prob)(torch.rand(ROWS, 3, *SIZE), crops(1))
    assert isinstance(targets, TokenTargets)
    logits, token_logits = torch.randn(ROWS, CLASSES), torch.randn(ROWS, 24, CLASSES, requires_grad=True)
    loss = TokenLabelLoss(0.25)(logits, token_logits, targets)
    expected = functional.cross_entropy(logits, targets.label)
    expected = expected + 0.25 * functional.cross_entropy(token_logits.flatten(0, 1), targets.dense().flatten(0, 1))
    np.testing.assert_allclose(loss.detach(), expected.detach(), rtol=1e-5)
    loss.backward()
    assert token_logits.grad is not None
    with pytest.raises(ValueError, match=r"token_logits: expected shape \[9, 24, 12\], found \[9, 25, 12\]"):
        TokenLabelLoss()(logits, torch.randn(ROWS, 25, CLASSES), targets)


def test_other_kinds_and_other_classes_are_refused(make_store: StoreMaker, store: MapStore, tmp_path: Path) -> None:
    labels = make_store({"a.jpg": 0})
    for supervision in ("relabel", "tokenlabeling"):
        with pytest.raises(StoreMismatch, match=f"expected kind topk for supervision '{supervision}', found label"):
            tokenmix(labels, supervision)
    for found in (lambda: read_soft_labels(store, crops(0), TOKENS, 5, pooled=True),
                  lambda: TokenMix(store, 5, TOKENS, rng=np.random.default_rng(0), supervision="relabel")):  # fmt: skip
        with pytest.raises(StoreMismatch, match="expected num_classes=12, the classes of its dataset, found 5"):
            found()
