"""Telling a URL from a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from store.folder.files import StrPath

# fsspec's protocols, chains of them too; pathlib makes `s3:/bucket` of `s3://bucket`
_NAME = "[a-z][a-z0-9+.-]+"
_URL = re.compile(rf"(?P<protocol>{_NAME}(?:::{_NAME})*):(?P<slashes>//?)(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/:@\s]*:[^/\s]*@")  # a name alone is no secret, and may be a container's
_QUERY = re.compile(r"(://[^?\s]*)\?\S*")  # where signatures are


def url_of(place: StrPath) -> str | None:
    """The URL, without slashes at its end, also where it was made a `Path`; None for a path."""
    text = os.fspath(place)
    match = _URL.fullmatch(text)
    if match is None or (match["slashes"] == "/" and (isinstance(place, str) or os.path.lexists(text))):
        return None
    protocol, rest = match["protocol"].lower(), match["rest"].rstrip("/")
    if protocol in ("file", "local"):  # as fsspec has it, relative where no slash begins it
        rest = rest or match["rest"][:1]
        return f"file://{os.path.abspath(rest if match['slashes'] == '//' else '/' + rest)}"
    return f"{protocol}://{rest}"


def without_secrets(text: str) -> str:
    """URLs, or a text with some in it, as may be shown and published: without passwords and signatures."""
    return _QUERY.sub(r"\1", _USER_AND_PASSWORD.sub("", text))


def path_of(place: StrPath) -> Path | None:
    """The path of a path or of a URL `file://`; None for other URLs."""
    url = url_of(place)
    if url is None:
        return Path(place)
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None
