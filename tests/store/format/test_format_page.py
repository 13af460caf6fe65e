"""docs/format.md is the format: its script runs, and its digests are those of real stores."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from store import MapStore, RowBatch
from store.spec import KINDS
from tests.store.conftest import ALL_COLUMNS, make_rows, write_store
from tests.store.reading.test_kinds import batch_of, header_of, payload_of

PAGE = (Path(__file__).parents[3] / "docs" / "format.md").read_text("utf-8")


def script() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
    assert len(script().splitlines()) <= 20


def run_script(maps: Path, key: str) -> str:
    command = [sys.executable, "-c", script(), str(maps), key]
    return subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout


@pytest.mark.parametrize("row", [1, 2, 16])
def test_its_script_reads_a_row(maps: Path, rows: RowBatch, row: int) -> None:
    first, _, array = run_script(maps, rows.key[row]).partition("\n")
    assert first == f"label {rows.label[row]} view {rows.view[row]} status 0"
    assert array == f"{rows.payload['label_logit'][row]}\n"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "label"])
def test_its_script_reads_every_kind(tmp_path: Path, kind: str) -> None:
    write_store(tmp_path, batch_of(kind), 3, **header_of(kind))
    first = next(iter(payload_of(kind).values()))
    assert run_script(tmp_path, batch_of(kind).key[5]).endswith(f"\n{first[5]}\n")


def test_its_script_reads_uint8(tmp_path: Path) -> None:
    batch = make_rows(6, dtype="float32")
    write_store(tmp_path, batch, 6, dtype="uint8")
    assert run_script(tmp_path, batch.key[2]).endswith(f"\n{MapStore(tmp_path).read([2])[0]}\n")


def test_its_digests(maps: Path) -> None:
    raw = (maps / "store.json").read_bytes()
    header = json.loads(raw)
    zeros = raw.replace(header["file_digest"].encode(), b"0" * 64)
    assert hashlib.sha256(zeros).hexdigest() == header["file_digest"]
    content = {name: header[name] for name in header if name not in ("versions", "content_digest", "file_digest")}
    del content["dataset"]["root_name"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
    assert hashlib.sha256(canonical).hexdigest() == header["content_digest"]
    listed = b""
    for path in sorted(maps.glob("shard-*.h5")):
        assert xxh3_128_digest(path.read_bytes()[:-16]) == path.read_bytes()[-16:]
        with h5py.File(path) as shard:
            columns = {name: shard[name][()] for name in shard}
        for row, key in enumerate(columns["key"].tolist()):
            parts = [
                columns[name][row].tobytes()
                for name in ("label_logit", "label", "prediction", "size", "view", "status", *header["columns"])
            ]
            error = columns["error"].tolist()[row]
            digest = xxh3_64_intdigest(b"".join(parts) + key + (b"\0" + error if error else b""))
            assert digest == columns["digest"][row]
            listed += key + b"\0" + columns["label"][row].tobytes()
    assert hashlib.sha256(listed).hexdigest() == header["dataset"]["digest"]


def test_its_uint8(tmp_path: Path) -> None:
    batch = make_rows(6, dtype="float32")
    write_store(tmp_path, batch, 6, dtype="uint8")
    with h5py.File(tmp_path / "shard-00000.h5") as shard:
        columns = {name: shard[name][()] for name in shard}
    assert columns.keys() >= {"label_logit", "scale_offset"} <= set(re.findall(r"`(\w+)`", PAGE))
    scale, offset = columns["scale_offset"].astype(np.float32).T[..., None, None]
    found = scale * columns["label_logit"] + offset
    np.testing.assert_allclose(found, batch.payload["label_logit"], atol=float(scale.max()) * 0.51)
    names = ("label_logit", "scale_offset", "label", "prediction", "size", "view", "status", *ALL_COLUMNS, "key")
    assert xxh3_64_intdigest(b"".join(columns[name][0].tobytes() for name in names[:-1]) + columns["key"][0]) == int(
        columns["digest"][0]
    )


def test_its_tables_name_every_dataset_and_attribute(maps: Path) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    with h5py.File(maps / "shard-00000.h5") as shard:
        assert set(shard) | set(shard.attrs) <= named
        assert {shard.attrs[name].dtype for name in ("version", "shard", "row_start", "rows")} == {np.dtype("<i8")}
    assert json.loads((maps / "store.json").read_text("utf-8")).keys() <= named
