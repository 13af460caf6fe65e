"""What a page says of a store as a whole: how it was made, how far it is, how large and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenmix_loader.store_access import (
    HEADER_FILE,
    STATUS_OK,
    Header,
    MapStore,
    list_shards,
    unreadable_rows,
    without_secrets,
)

MOST_BAD = 200  # unreadable images that are listed
LEAST_S = 0.5  # between the first file and the last of a store that was made here
KINDS = {
    "label": "the logit of the image's label in each token",
    "cam": "LayerCAM of the image's label",
    "topk": "the largest logits of each token",
    "features": "the last features before pooling",
    "activation": "how active each token is, whatever the class",
}


class Speed(NamedTuple):
    """By the times of files: images per second from the header to the last shard, how long, and the longest pause."""

    rate: float
    seconds: float
    pause_s: float


class Facts(NamedTuple):
    """Of a store, as it is now."""

    path: str
    header: Header
    kind: str
    teacher: str
    seen: str
    rows: int  # finished
    shards: int  # finished
    at_work: int  # processes that are writing shards
    nbytes: int
    speed: Speed | None
    bad: list[tuple[str, str]]  # key and reason of unreadable images, the first MOST_BAD

    @property
    def complete(self) -> bool:
        """Whether every shard is in place."""
        return self.shards == self.header.sharding.shards


def facts_of(store: str | Path, maps: MapStore) -> Facts:
    """Look at the folder and the header; of the shards only whose images were unreadable."""
    path, header = Path(str(maps)), maps.header  # of a URL the folder that it was pulled into
    listing, rows = list_shards(path, header, times=True), int(maps.finished.sum())
    return Facts(
        path=without_secrets(str(store)),
        header=header,
        kind=KINDS.get(header.kind, header.kind),
        teacher=_teacher(header.teacher),
        seen=_seen(header.preprocessing),
        rows=rows,
        shards=len(listing.finished),
        at_work=len({(claim.host, claim.pid) for claim in listing.claims if not claim.dead}),
        nbytes=sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        speed=_speed(rows, (path / HEADER_FILE).stat().st_mtime, list(listing.finished.values())),
        bad=list(islice(unreadable_rows(path), MOST_BAD)) if (maps.statuses[maps.finished] != STATUS_OK).any() else [],
    )


def _teacher(teacher: Mapping[str, object]) -> str:
    parts = [str(teacher.get("name", "unknown"))]
    if "source" in teacher:
        parts.append(f"{teacher['source']} weights")
    if isinstance(count := teacher.get("parameters"), int):
        parts.append(f"{count:,} parameters")
    return ", ".join(parts)


def _seen(preprocessing: Mapping[str, object]) -> str:
    """What the teacher saw of an image."""
    size = preprocessing.get("input_size")
    parts = [" x ".join(map(str, size)) + " px"] if isinstance(size, list | tuple) and size else []
    parts += [str(value) for name in ("crop_mode", "interpolation") if (value := preprocessing.get(name)) is not None]
    if isinstance(share := preprocessing.get("crop_pct"), int | float):
        parts.append(f"{100 * share:.4g} % of the side")
    return ", ".join(parts)


def _speed(rows: int, begun: float, finished: list[float]) -> Speed | None:
    """None where files say nothing: all are of about one time, as those of a copy are."""
    times = np.sort([min(begun, *finished), *finished])
    seconds = float(times[-1] - times[0])
    return Speed(rows / seconds, seconds, float(np.diff(times).max())) if seconds > LEAST_S else None
