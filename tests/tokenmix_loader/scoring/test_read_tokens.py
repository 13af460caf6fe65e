import numpy as np
import pytest
import torch

from tests.tokenmix_loader.conftest import GRID, StoreMaker
from tokenmix_loader import MapTarget, read_tokens

pytestmark = pytest.mark.usefixtures("arithmetic")

WHOLE = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)


@pytest.mark.parametrize("evidence", ["logit", "contrast"])
@pytest.mark.parametrize("mass", [6e-8, 1e-3, 1.0, 1e4])
def test_any_evidence_above_zero_counts_as_1(make_store: StoreMaker, mass: float, evidence: str) -> None:
    """Down to the smallest float16; a map without any stays zero, whatever stands beside it in the batch."""
    maps = np.zeros((2, *GRID), np.float16)
    maps[1, 2, 3] = mass
    store = make_store({"empty": 0, "one cell": 1}, payload={"label_logit": maps})
    tokens = read_tokens(store, MapTarget(torch.arange(2), torch.arange(2), WHOLE.expand(2, 10)), (3, 3), evidence)
    np.testing.assert_allclose(tokens.sum((1, 2)), [0, 1], rtol=1e-5)
    np.testing.assert_allclose(tokens[1, 1, 1], 1, rtol=1e-5)


@pytest.mark.parametrize("evidence", ["logit", "contrast"])
def test_a_map_of_zeros_and_one_of_negative_logits_give_zeros_not_nan(make_store: StoreMaker, evidence: str) -> None:
    maps = np.stack((np.zeros(GRID), np.full(GRID, -1))).astype(np.float16)
    store = make_store({"zeros": 0, "negative": 1}, payload={"label_logit": maps})
    tokens = read_tokens(store, MapTarget(torch.arange(2), torch.arange(2), WHOLE.expand(2, 10)), (3, 3), evidence)
    assert not tokens.any()


@pytest.mark.parametrize(
    ("kind", "dataset", "means"),
    [("label", "label_logit", "logit"), ("cam", "label_cam", "contrast"), ("activation", "activation", "logit")],
)
def test_auto_is_what_suits_the_kind_of_the_maps(make_store: StoreMaker, kind: str, dataset: str, means: str) -> None:
    """By default too; each choice by name stays what it is."""
    maps = np.random.default_rng(0).random((2, *GRID)).astype(np.float16)
    maps[:, 0, 0] += 3
    store = make_store({"one": 0, "two": 1}, kind=kind, payload={dataset: maps})
    targets = MapTarget(torch.arange(2), torch.arange(2), WHOLE.expand(2, 10))
    by_name = {name: read_tokens(store, targets, (3, 3), name) for name in ("logit", "contrast")}
    assert not torch.allclose(by_name["logit"], by_name["contrast"])
    for found in (read_tokens(store, targets, (3, 3)), read_tokens(store, targets, (3, 3), "auto")):
        torch.testing.assert_close(found, by_name[means], rtol=0, atol=0)


def test_anything_but_a_store_and_a_batch_of_targets_is_refused(make_store: StoreMaker) -> None:
    store = make_store({"one": 0, "two": 1})
    batch, single = MapTarget(torch.arange(2), torch.arange(2), WHOLE.expand(2, 10)), (0, 0, WHOLE)
    for where, given, error, message in (
        (str(store), batch, TypeError, r"store: expected a MapStore, found str; open a store by MapStore\(path\)"),
        (store, [batch], TypeError, "targets: expected a MapTarget, found list"),
        (store, MapTarget(*single), TypeError, "targets.row: expected a tensor, found int; collate the targets"),  # type: ignore[arg-type]
        (store, MapTarget(*map(torch.as_tensor, single)), ValueError, r"targets.row: expected shape \[any\], found"),
    ):
        with pytest.raises(error, match=message):
            read_tokens(where, given, (3, 3))  # type: ignore[arg-type]
