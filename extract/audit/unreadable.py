"""Images that could not be read, and have been repaired since: their shards are to be done again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from extract.errors import ExtractError
from extract.images.image_list import ImageList
from extract.images.stored_order import in_stored_order
from extract.job.decoding import Decoder
from extract.teacher.preprocess import Preprocessing
from store import read_header, unreadable_rows
from store.spec import shard_name


def drop_repaired(images: ImageList, store: Path) -> list[str]:
    """Remove shards with unreadable images that can be decoded now; a line on each shard.

    To be called while no worker runs. Raises StoreMismatch for other images, ShardError for a shard that cannot be
    read, ExtractError for maps that were imported, whose images were never decoded.
    """
    images, _ = in_stored_order(images, store)
    header = read_header(store)
    made: dict[str, Any] = dict(header.preprocessing)
    if "input_size" not in made:
        raise ExtractError(
            f"{store}: expected maps made by `tokenmix extract`, found "
            f"{header.teacher.get('name')}; remove the shards by hand"
        )
    decoder = Decoder(images, Preprocessing(**made))
    unreadable = {key for key, _ in unreadable_rows(store)}
    rows = [row for row, key in enumerate(images.keys) if key in unreadable and decoder[row].pixels is not None]
    repaired = Counter(header.sharding.shard_of(row) for row in rows)
    for shard in repaired:
        (store / shard_name(shard)).unlink(missing_ok=True)
    return [f"{shard_name(shard)}: removed, images that can be read now: {n}" for shard, n in repaired.items()]
