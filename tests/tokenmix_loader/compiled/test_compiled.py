"""Compiled loops are what tensors are; and whatever is wrong with numba ends no training."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad

from tests.tokenmix_loader.conftest import GRID, StoreMaker
from tokenmix_loader import MapTarget, align, mix_images, mix_targets, sample_masks
from tokenmix_loader.batch import NO_MAP, Draw
from tokenmix_loader.compiled import door
from tokenmix_loader.mixing.pixels import mix_batch
from tokenmix_loader.scoring.geometry import refine
from tokenmix_loader.scoring.read_tokens import read_tokens

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 9)
GRIDS = st.tuples(SIDES, SIDES)
LINEAR = {
    "upright": lambda s: [[s[0], 0], [0, s[1]]],
    "turned": lambda s: [[0, s[0]], [s[1], 0]],
    "oblique": lambda s: [[s[0], s[2]], [s[3], s[1]]],
}
# One batch, in a process of its own: what numba does is decided once per process.
SCRIPT = """
import torch

from tokenmix_loader import align
from tokenmix_loader.compiled import door
place = torch.tensor([[0.0, 0, 1, 1]])
tokens = align(torch.ones(1, 2, 2), place, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), (2, 2), refined=True)
print(door.compiled_for() is not None, tokens.flatten().tolist())
"""
GRAPH = """
import torch

from tokenmix_loader import align
from tokenmix_loader.compiled import door
place = torch.tensor([[0.0, 0, 1, 1]])
affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
graph = torch.compile(lambda maps: align(maps, place, affine, (2, 2)), backend="eager")
print(graph(torch.ones(1, 2, 2)).flatten().tolist(), door.compiled_for() is not None)
"""


@given(SEEDS, GRIDS, GRIDS, st.lists(st.sampled_from([*LINEAR]), min_size=1, max_size=5), st.booleans())
def test_tokens_are_those_of_tensors(
    seed: int, size: tuple[int, int], grid: tuple[int, int], kinds: list[str], refined: bool
) -> None:
    rng = np.random.default_rng(seed)
    batch = len(kinds)
    maps = torch.from_numpy(rng.gamma(0.3, size=(batch, *size)).astype(np.float32))
    views, bounds = (torch.from_numpy(np.sort(rng.random((batch, 2, 2)), axis=1).reshape(batch, 4)) for _ in range(2))
    views[:, 2:] += 0.1
    linear = [LINEAR[kind](rng.uniform(0.1, 1, 4) * rng.choice([-1, 1], 4)) for kind in kinds]
    affines = torch.from_numpy(np.concatenate([np.array(linear), rng.uniform(0, 1, (batch, 2, 1))], axis=2))
    ours = align(maps, views, affines, grid, bounds=bounds, refined=refined)
    theirs = align(maps.requires_grad_(), views, affines, grid, bounds=bounds, refined=refined).detach()
    # A sample on the border of two cells may fall to either: one of a token's four, so much of the heavier cell.
    per_cell = (affines[:, :, :2].det().abs() / ((views[:, 2] - views[:, 0]) * (views[:, 3] - views[:, 1]))).numpy()
    cells = np.prod(size) * (4 if refined else 1) / np.prod(grid)
    heaviest = refine(maps.detach()).amax((1, 2)).numpy() * (1 if refined else 4)
    one = np.where(np.array(kinds) == "oblique", per_cell * cells * heaviest / 4, 0)[:, None, None]
    difference = (ours - theirs).abs().numpy()
    small = 1e-5 * float(maps.detach().amax()) + 1e-7
    assert (difference <= one + small).all()
    assert (difference > small).mean() <= 0.05


@given(SEEDS, GRIDS, st.integers(1, 6), st.booleans())
def test_targets_are_those_of_tensors(seed: int, grid: tuple[int, int], batch: int, shared: bool) -> None:
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy((rng.gamma(0.2, size=(batch, *grid)) * rng.choice([0, 1e-3, 1])).astype(np.float32))
    masks = sample_masks(rng, batch, grid, "random", beta=(1, 1), per="batch" if shared else "sample")
    labels, partner = torch.from_numpy(rng.integers(3, size=batch)), torch.from_numpy(rng.permutation(batch))
    ours = mix_targets(tokens, masks, labels, partner, 3, smoothing=0.2)
    theirs = mix_targets(tokens.requires_grad_(), masks, labels, partner, 3, smoothing=0.2).detach()
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert ours.dtype == theirs.dtype
    assert ours.max() <= 1


@given(
    SEEDS,
    st.integers(1, 5),
    st.integers(1, 4),
    GRIDS,
    GRIDS,
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8]),
    st.booleans(),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_mixed_images_are_those_of_tensors(
    seed: int,
    batch: int,
    channels: int,
    grid: tuple[int, int],
    token: tuple[int, int],
    dtype: torch.dtype,
    shared: bool,
    memory_format: torch.memory_format,
) -> None:
    rng = np.random.default_rng(seed)
    size = (batch, channels, grid[0] * token[0], grid[1] * token[1])
    images = torch.from_numpy(rng.integers(0, 255, size)).to(dtype).contiguous(memory_format=memory_format)
    masks = sample_masks(rng, batch, grid, "random", beta=(1, 1), per="batch" if shared else "sample")
    before = images.clone()
    ours = mix_images(images, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "_load", lambda: None)
        theirs = mix_images(images, masks)
        in_place = mix_batch(images.clone(), Draw(masks=masks))  # where they are uint8
    assert torch.equal(ours, mix_batch(images.clone(), Draw(masks=masks)))
    assert torch.equal(ours, in_place)
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
    assert torch.equal(images, before)


def test_a_batch_of_none_is_none() -> None:
    none = torch.zeros(0, 3, 3)
    assert align(none, torch.zeros(0, 4), torch.zeros(0, 2, 3), (2, 2)).shape == (0, 2, 2)
    labels = torch.zeros(0, dtype=torch.int64)
    assert mix_targets(none, none.bool(), labels, labels, 5).shape == (0, 5)


@pytest.mark.parametrize("partner", [[0, 2], [0, -3]])
def test_partners_outside_of_the_batch_are_refused(partner: list[int]) -> None:
    tokens, labels = torch.ones(2, 2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(IndexError, match="partner: expected 0 to 1, found"):
        mix_targets(tokens, tokens.bool(), labels, torch.tensor(partner), 3)


def whole_image(maps: torch.Tensor) -> torch.Tensor:
    views = torch.tensor([[0.0, 0, 1, 1]])
    return align(maps, views, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), (2, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # by torch's own forward_ad
def test_what_torch_follows_it_can_follow() -> None:
    maps, other = torch.rand(1, 2, 2), torch.rand(1, 2, 2)
    assert whole_image(maps.clone().requires_grad_()).requires_grad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(maps, other)  # type: ignore[no-untyped-call]
        tangent = forward_ad.unpack_dual(whole_image(dual)).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tangent, other)
    torch.testing.assert_close(torch.func.jvp(whole_image, (maps,), (other,))[1], other)
    torch.testing.assert_close(whole_image(torch._neg_view(-maps)), maps)
    torch.testing.assert_close(whole_image(maps.bfloat16()), maps.bfloat16().float())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.zeros(1).long()}, r"labels: expected shape \[2\], found \[1\]"),
        ({"labels": torch.zeros(2, 3)}, r"labels: expected shape \[2\], found \[2, 3\]"),
        ({"partner": torch.tensor([1.0, 0])}, "partner: expected whole numbers, found torch.float32"),
        ({"partner": torch.tensor([True, False])}, "partner: expected whole numbers, found torch.bool"),
    ],
)
def test_other_shapes_and_types_reach_no_compiled_loop(changed: dict[str, torch.Tensor], message: str) -> None:
    tokens = torch.ones(2, 2, 2)
    given = {"labels": torch.zeros(2).long(), "partner": torch.tensor([1, 0])} | changed
    with pytest.raises(ValueError, match=message):
        mix_targets(tokens, tokens.bool(), given["labels"], given["partner"], 3)


def run(script: str = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=True
    )


def test_what_is_compiled_is_kept_and_a_torn_file_of_it_ends_nothing(tmp_path: Path) -> None:
    assert run(NUMBA_CACHE_DIR=str(tmp_path)).stdout == "True [1.0, 1.0, 1.0, 1.0]\n"
    kept = [*tmp_path.rglob("*align_arrays*.nbc")]
    assert len(kept) == 1
    again = run(NUMBA_CACHE_DIR=str(tmp_path), NUMBA_DEBUG_CACHE="1").stdout
    assert "data saved" not in again
    kept[0].write_bytes(b"")
    torn = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert torn.stdout == "False [1.0, 1.0, 1.0, 1.0]\n"
    assert "expected numba to compile, found EOFError" in torn.stderr
    assert "NUMBA_CACHE_DIR" in torn.stderr


def test_nothing_is_compiled_where_that_is_turned_off() -> None:
    assert run(NUMBA_DISABLE_JIT="1").stdout == "False [1.0, 1.0, 1.0, 1.0]\n"


ABSENT, TOO_OLD = "raise ModuleNotFoundError('no', name='numba')", "raise ImportError('Numba needs NumPy 2.3 or less')"


@pytest.mark.parametrize(("code", "warned"), [(ABSENT, False), (TOO_OLD, True)])
def test_without_numba_tensors_do_the_same(tmp_path: Path, code: str, warned: bool) -> None:
    (tmp_path / "numba.py").write_text(code)
    done = run(PYTHONPATH=str(tmp_path))
    assert done.stdout == "False [1.0, 1.0, 1.0, 1.0]\n"
    assert ("Numba needs NumPy 2.3 or less" in done.stderr) == warned


@pytest.mark.parametrize("lost", [(), ("1",), ("0", "1", "2")])
def test_a_store_s_tokens_are_those_of_tensors(make_store: StoreMaker, lost: tuple[str, ...]) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *GRID)).astype(np.float16)
    maps[2] = -1  # no evidence
    store = make_store({"0": 0, "1": 1, "2": 2}, payload={"label_logit": maps})
    rows = torch.tensor([NO_MAP if key in lost else int(key) for key in "012"])
    given_affines = torch.tensor([[0.5, 0, 0.1, 0, -0.7, 0.9]] * 3, dtype=torch.float64)
    bounds = torch.tensor([[0.0, 0, 1, 1]] * 3, dtype=torch.float64)
    targets = MapTarget(torch.arange(3), rows, torch.cat((given_affines, bounds), dim=1))
    ours = read_tokens(store, targets, (4, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "_load", lambda: None)
        theirs = read_tokens(store, targets, (4, 4))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert [bool(tokens.any()) for tokens in ours] == ["0" not in lost, "1" not in lost, False]


def test_targets_of_another_batch_are_refused(make_store: StoreMaker) -> None:
    store = make_store({"0": 0, "1": 1})
    place = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1]], dtype=torch.float64)
    targets = MapTarget(torch.arange(2), torch.arange(2), place)
    with pytest.raises(ValueError, match=r"targets.place: expected shape \[2, 10\], found \[1, 10\]"):
        read_tokens(store, targets, (2, 2))
    targets = targets._replace(place=place.repeat(2, 1))
    with pytest.raises(ValueError, match=r"read_tokens: grid: expected \(gh, gw\) of at least 1"):
        read_tokens(store, targets, (2, 0))
    assert read_tokens(store, targets, tuple(np.array([2, 2]))).shape == (2, 2, 2)


@pytest.mark.parametrize("number", [np.inf, np.nan, -np.inf])
def test_logits_that_are_not_finite_are_refused_all_the_same(
    make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    store = make_store({"0": 0})
    monkeypatch.setattr(store, "read", lambda _: np.full((1, *GRID), number, np.float16))
    place = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1]], dtype=torch.float64)
    with pytest.raises(ValueError, match="maps: expected finite values, found inf or nan"):
        read_tokens(store, MapTarget(torch.zeros(1).long(), torch.zeros(1).long(), place), (2, 2))


def test_a_graph_of_torch_compile_turns_nothing_off() -> None:
    done = run(GRAPH)
    assert done.stdout == "[1.0, 1.0, 1.0, 1.0] True\n"
    assert "expected numba to compile" not in done.stderr
