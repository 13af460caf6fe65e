"""Puzzle Mix and Co-Mixup in training: the same by TokenMix, by TokenMixCollate and with any workers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from tests.tokenmix_loader.conftest import StoreMaker, keys_and_labels
from tests.tokenmix_loader.mixing.test_mixup import LABELS, WHOLE
from tokenmix_loader import CoMixSettings, MapDataset, MapStore, MapTarget, PuzzleSettings, TokenMix, TokenMixCollate
from tokenmix_loader.batch import Draw, TokenSources
from tokenmix_loader.compiled import door
from tokenmix_loader.mixing import recipe
from tokenmix_loader.mixing.chance import BatchChance
from tokenmix_loader.mixing.guide import evidence_guide
from tokenmix_loader.mixing.pixels import mix_batch, mix_sources

GRID = (6, 6)
KINDS = ("puzzle", "comix")
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture
def store(make_store: StoreMaker) -> MapStore:
    """Row i has label i % 3; the evidence of class k lies in quadrant k."""
    return make_store({f"{i}.jpg": label for i, label in enumerate(LABELS)})


def settings(kind: str, **changed: Any) -> dict[str, Any]:
    return {"kind": kind, "num_classes": 3, "switch_prob": 1.0, "label_smoothing": 0.0} | changed


def numbered(size: int = 6, side: int = 24) -> tuple[torch.Tensor, MapTarget]:
    """Image i shows the numbers 40 i to 40 i + 35 in its 36 tokens, in row order."""
    token = torch.arange(36, dtype=torch.uint8).view(6, 6).repeat_interleave(side // 6, 0)
    images = 40 * torch.arange(size, dtype=torch.uint8)[:, None, None, None] + token.repeat_interleave(side // 6, 1)
    targets = MapTarget(torch.tensor(LABELS[:size]), torch.arange(size), WHOLE.expand(size, 10))
    return images.expand(size, 3, side, side).clone(), targets


def collated(collate: TokenMixCollate, images: torch.Tensor, targets: MapTarget) -> tuple[torch.Tensor, torch.Tensor]:
    parts = zip(*(part for part in targets if isinstance(part, torch.Tensor)), strict=True)
    mixed, dense = collate([(image, MapTarget(*each)) for image, each in zip(images, parts, strict=True)])
    return mixed, dense


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("supervision", ["tokenmix", "area"])
def test_pixels_and_targets_tell_the_same_story(store: MapStore, kind: str, supervision: str) -> None:
    """What a hard token shows says which token of which image it is; evidence of class k is all in quadrant k."""
    images, targets = numbered()
    for seed in range(5):
        collate = TokenMixCollate(store, GRID, seed=seed, **settings(kind, supervision=supervision))
        mixed, dense = collated(collate, images, targets)
        assert (mixed.dtype, mixed.shape) == (torch.uint8, images.shape)
        draw = collate._recipe.draw(
            BatchChance(seed, 6).rng_of(targets), images, collate._recipe.tokens(store, targets)
        )
        assert draw.sources is not None
        expected = torch.zeros(6, 3)
        for i in range(6):
            for s in range(2):
                for at in range(36):
                    y, x = divmod(at, 6)
                    image, token = int(draw.sources.image[i, s, y, x]), int(draw.sources.token[i, s, y, x])
                    weight = float(draw.sources.weight[i, s, y, x])
                    if weight == 1:
                        assert (mixed[i, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] == 40 * image + token).all()
                    row, column = divmod(LABELS[image], 2)
                    seen = token // 6 // 3 == row and token % 6 // 3 == column
                    expected[i, LABELS[image]] += weight * (seen / 9 if supervision == "tokenmix" else 1 / 36)
        torch.testing.assert_close(dense, expected.clamp(max=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 6])
def test_tokenmix_and_the_collate_mix_alike(store: MapStore, kind: str, size: int) -> None:
    """Bytes in a worker and normalised floats on the device, from the same random numbers."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (size, 3, 24, 24), np.uint8))
    _, targets = numbered(size)
    in_worker, dense = collated(TokenMixCollate(store, GRID, **settings(kind)), images, targets)
    on_device = TokenMix(store, grid=GRID, rng=BatchChance(0, 6).rng_of(targets), **settings(kind))
    mixed, again = on_device((images / 255 - 0.45) / STD, targets)
    torch.testing.assert_close(again, dense, atol=1e-6, rtol=0)
    assert ((mixed * STD + 0.45) * 255 - in_worker).abs().max() <= 0.501  # bytes are rounded


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_workers(images: Path, make_store: StoreMaker, kind: str) -> None:
    store = make_store(keys_and_labels(images))
    dataset = MapDataset(ImageFolder(images), store, tv.Compose([tv.Resize((24, 24)), tv.PILToTensor()]))
    runs = []
    for workers in (0, 2):
        collate = TokenMixCollate(store, GRID, **settings(kind))
        loader = DataLoader(dataset, 8, num_workers=workers, collate_fn=collate)
        runs.append([part for pair in loader for part in pair])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:TokenMix. kind .comix.. expected numba")
def test_without_numba_the_same_is_mixed(store: MapStore, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = numbered()
    with_numba = collated(TokenMixCollate(store, GRID, **settings(kind)), images, targets)
    monkeypatch.setattr(door, "_load", lambda: None)
    without = collated(TokenMixCollate(store, GRID, **settings(kind)), images, targets)
    assert torch.equal(with_numba[0], without[0])
    torch.testing.assert_close(with_numba[1], without[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixels_come_from_their_sources(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, 8, 12), np.uint8))
    laid_out = images.to(dtype).contiguous(memory_format=memory_format)
    image, token = (torch.from_numpy(rng.integers(0, end, (3, 2, 4, 3))) for end in (3, 12))
    weight = torch.from_numpy(rng.choice([0, 0.5, 1], (3, 4, 3))).float()
    sources = TokenSources(image, token, torch.stack((weight, 1 - weight), dim=1))
    mixed = mix_sources(laid_out, sources)
    assert (mixed.dtype, mixed.is_contiguous(memory_format=memory_format)) == (dtype, True)
    assert torch.equal(mixed, mix_batch(laid_out, Draw(sources=sources)))
    assert torch.equal(laid_out, images.to(dtype))
    expected = np.zeros((3, 3, 8, 12), np.float32)
    for i, s, y, x in np.ndindex(3, 2, 4, 3):
        top, left = divmod(int(token[i, s, y, x]), 3)
        part = images[int(image[i, s, y, x]), :, 2 * top : 2 * top + 2, 4 * left : 4 * left + 4].numpy()
        expected[i, :, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4] += part * float(sources.weight[i, s, y, x])
    expected = np.rint(expected) if dtype == torch.uint8 else expected
    np.testing.assert_allclose(mixed.float(), expected, atol=1 if dtype == torch.bfloat16 else 0)


def test_too_little_evidence_guides_nothing() -> None:
    tokens = torch.tensor([[[0.001, 0.0005]], [[0.002, 0.002]]])
    assert torch.equal(evidence_guide(tokens, 0.003), torch.tensor([[[0.0, 0]], [[0.002, 0.002]]]))


def quadrant_0(images: torch.Tensor) -> torch.Tensor:
    """A saliency that finds everything in the upper left."""
    found = torch.zeros(len(images), 12, 12)
    found[:, :6, :6] = 1
    return found


@pytest.mark.parametrize("kind", ["attentive", "puzzle", "comix"])
def test_a_saliency_decides_the_mask_and_the_maps_the_labels(store: MapStore, kind: str) -> None:
    images, targets = numbered()
    chosen = settings(kind, saliency=quadrant_0, **({"kept": 0.25} if kind == "attentive" else {}))
    mix = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **chosen)
    mixed, dense = mix(images.float(), targets)
    recipe = mix._recipe
    draw = recipe.draw(np.random.default_rng(0), images.float(), recipe.tokens(store, targets))
    if kind == "attentive":
        assert draw.masks is not None
        assert draw.masks[:, :3, :3].all()
        assert dense[0].tolist() == [
            1,
            0,
            1,
        ]  # label 0 lies in quadrant 0; image 5's, label 2, in another that is shown
    plain = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **settings(kind))(images.float(), targets)[0]
    assert not torch.equal(mixed, plain)
    again = pickle.loads(pickle.dumps(TokenMixCollate(store, GRID, **chosen)))
    assert collated(again, images, targets)[0].shape == images.shape


def test_the_gradient_is_a_saliency(store: MapStore) -> None:
    """As on the page of masks: a model that looks at the right half alone gives masks that keep to it."""
    images, targets = numbered()

    def saliency(images: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            best = images[..., 12:].square().flatten(1).amax(dim=1).sum()
        return torch.autograd.grad(best, images)[0].square().mean(dim=1).sqrt()

    with torch.no_grad():
        mix = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **settings("saliencymix", saliency=saliency))
        draw = mix._recipe.draw(np.random.default_rng(0), images.float(), mix._recipe.tokens(store, targets))
    assert draw.masks is not None
    assert not draw.masks[:, 5, 5].any()  # the brightest token of all images


def test_by_area_and_a_saliency_no_map_is_read(store: MapStore, monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = numbered()
    chosen = settings("puzzle", saliency=quadrant_0, supervision="area")
    mix = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **chosen)
    monkeypatch.setattr(mix._store, "read", lambda _: pytest.fail("a map was read"))
    mix(images.float(), targets)


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        (lambda images: images, r"saliency: expected shape \[6, any, any\], found \[6, 3, 24, 24\]"),
        (lambda images: -quadrant_0(images), "saliency: expected finite values of at least 0"),
        (lambda images: quadrant_0(images) * torch.nan, "saliency: expected finite values"),
    ],
)
def test_saliencies_that_cannot_be_followed_are_refused(store: MapStore, saliency: Any, message: str) -> None:
    images, targets = numbered()
    mix = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **settings("puzzle", saliency=saliency))
    with pytest.raises(ValueError, match=message):
        mix(images.float(), targets)
    mix = TokenMix(store, grid=GRID, rng=np.random.default_rng(0), **settings("puzzle", saliency=lambda _: None))
    with pytest.raises(TypeError, match="saliency: expected a tensor, found NoneType"):
        mix(images.float(), targets)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"kind": "puzzle", "kept": 0.3}, ValueError, "kept: expected kind block.*found 'puzzle', which has no such"),
        ({"kind": "comix", "beta": (1, 1)}, ValueError, "beta: expected kind block, random, region with it"),
        ({"kind": "block", "saliency": quadrant_0}, ValueError, "saliency: expected kind attentive, .* found 'block'"),
        ({"kind": "comix", "puzzle": PuzzleSettings(xi=0)}, ValueError, "puzzle: expected kind puzzle with it"),
        ({"kind": "puzzle", "comix": CoMixSettings(eta=0)}, ValueError, "comix: expected kind comix with it"),
        ({"kind": "puzzle", "supervision": "relabel"}, ValueError, "supervision of kind puzzle: expected one of token"),
        ({"kind": "puzzle", "puzzle": PuzzleSettings(blocks=4)}, ValueError, "puzzle: blocks: expected divisors of"),
        ({"kind": "cutmix", "per": "sample"}, ValueError, "per: expected kind block.*found 'cutmix', which has no"),
        ({"kind": "cutmix", "kept": 0.25}, ValueError, "kept: expected kind block.*found 'cutmix', which has no"),
        ({"kind": "puzzle", "puzzle": {"xi": 0}}, TypeError, "puzzle: expected a PuzzleSettings, found {'xi': 0}"),
        ({"kind": "puzzle", "saliency": 3}, TypeError, "saliency: expected a function, found 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(
    store: MapStore, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TokenMixCollate(store, GRID, **settings(**changed))


def test_without_numba_co_mixup_says_that_it_is_slow(store: MapStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "optimal_loops", lambda: None)
    with pytest.warns(UserWarning, match="kind 'comix': expected numba, found none.*install the extra `fast`"):
        TokenMixCollate(store, GRID, **settings("comix"))
    assert TokenMixCollate(store, GRID, **settings("puzzle"))  # which is slower, too, but of use
