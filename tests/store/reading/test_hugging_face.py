"""Shards are plain HDF5: Hugging Face's `datasets` reads a store's folder as it is."""

from pathlib import Path

import numpy as np
import pytest

from store import MapStore

datasets = pytest.importorskip("datasets")


def test_a_store_is_a_dataset(tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(str(pristine), cache_dir=str(tmp_path))["train"].with_format("numpy")
    store = MapStore(pristine)
    assert len(list(pristine.glob("shard-*.h5"))) == 3
    np.testing.assert_array_equal(loaded["label_logit"][:], store.read(range(17)))
    np.testing.assert_array_equal(loaded["label"][:], store.labels)
    np.testing.assert_array_equal(loaded["orientation"][:], store.orientations)
    np.testing.assert_array_equal(loaded["view"][:], store.views(range(17)))
