"""Telling a URL from a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from store.folder.files import StrPath

# fsspec's protocols, chains of them too; pathlib makes `s3:/bucket` of `s3://bucket`
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+(?:::[a-z][a-z0-9+.-]+)*):(?P<slashes>//?)(?P<rest>.*)", re.DOTALL)


def url_of(place: StrPath) -> str | None:
    """The URL, without slashes at its end, also where it was made a `Path`; None for a path."""
    text = os.fspath(place)
    match = _URL.fullmatch(text)
    if match is None or (match["slashes"] == "/" and (isinstance(place, str) or os.path.lexists(text))):
        return None
    rest = match["rest"].rstrip("/")
    if match["protocol"] in ("file", "local"):  # as fsspec has it, relative where no slash begins it
        return f"file://{os.path.abspath(rest if match['slashes'] == '//' else '/' + rest)}"
    return f"{match['protocol']}://{rest}"


def without_secrets(url: str) -> str:
    """As it may be shown and published: without the user and password before a host."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def path_of(place: StrPath) -> Path | None:
    """The path of a path or of a URL `file://`; None for other URLs."""
    url = url_of(place)
    if url is None:
        return Path(place)
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None
