"""What a pushed store consists of: `manifest.json`, written after everything else, makes a push visible."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from store.errors import StoreError
from store.format.header import Header
from store.spec import HEAD_FILE, header_name, keys_name, shard_name

FORMAT = "tokenmix-maps-manifest"
VERSION = 1
# Nothing else may come out of a manifest, as its names become files here.
_STORE_FILE = re.compile(
    r"store(?:-(?P<extension>[1-9]\d{0,5}))?\.json|store-[1-9]\d{0,5}\.keys|head\.h5|shard-\d{5,}\.h5", re.ASCII
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_NBYTES = 1 << 22
_BEGIN, _END = f'{{\n "format": "{FORMAT}"'.encode("ascii"), b"\n}\n"
Stamp = tuple[int, int, int]  # inode, time of the last change in ns, length


class FileDigest(NamedTuple):
    """Length and SHA-256 (in hex) of a file."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Which files a store at a URL has; while `complete` is false a push is under way, or was stopped."""

    content_digest: str  # the header's
    files: Mapping[str, FileDigest]
    complete: bool = True

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(digest.nbytes for digest in self.files.values())

    def to_json(self) -> bytes:
        """The text of `manifest.json`."""
        files = {name: digest._asdict() for name, digest in self.files.items()}
        document = {"format": FORMAT, "version": VERSION, "complete": self.complete}
        document |= {"content_digest": self.content_digest, "files": files}
        return (json.dumps(document, indent=1) + "\n").encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Read `manifest.json` strictly; StoreError without the URL, which the caller knows."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"expected JSON, found {error}; push the store again") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StoreError(f"expected a JSON object with format {FORMAT!r}, found another file of that name")
        if (version := document.get("version")) != VERSION or type(version) is not int:
            raise StoreError(f"version: expected {VERSION}, found {version!r}; a newer tokenmix-maps may read it")
        digest, complete, files = (document.get(name) for name in ("content_digest", "complete", "files"))
        if not (_is_sha256(digest) and type(complete) is bool and isinstance(files, dict)):
            raise StoreError("expected content_digest, complete and files, found others; push the store again")
        found = {name: _file_digest(name, value) for name, value in files.items()}
        return cls(str(digest), {name: found[name] for name in in_order(found)}, complete)


def is_torn(text: bytes) -> bool:
    """Whether a manifest's end is missing: where files do not appear whole, a push was killed while it wrote that."""
    return _BEGIN.startswith(text[: len(_BEGIN)]) and not text.endswith(_END)


def store_files(header: Header) -> list[str]:
    """The names of all files of a complete store, in the order in which they may become visible."""
    extensions = len(header.earlier)
    names = [shard_name(shard) for shard in range(header.sharding.shards)]
    names += [HEAD_FILE] if header.kind == "features" else []
    names += [keys_name(number) for number in range(1, extensions + 1)]
    return names + [header_name(number) for number in range(extensions + 1)]


def is_store_file(name: str) -> bool:
    """Whether a store may have a file of this name."""
    return _STORE_FILE.fullmatch(name) is not None


def header_number(name: str) -> int | None:
    """The number of extensions in the name of a header; None for other files."""
    match = _STORE_FILE.fullmatch(name)
    return int(match["extension"] or 0) if match and name.endswith(".json") else None


def in_order(names: Iterable[str]) -> list[str]:
    """Headers last, the oldest first, so that at every moment a folder is no store, or a whole one."""
    numbers = {name: header_number(name) for name in names}
    return sorted(numbers, key=lambda name: (-1 if numbers[name] is None else numbers[name], name))


def digest_file(path: Path) -> FileDigest:
    """Read a file; OSError where that is not possible."""
    digest, nbytes = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_NBYTES):
            digest.update(chunk)
            nbytes += len(chunk)
    return FileDigest(nbytes, digest.hexdigest())


def stamps(folder: Path, names: Iterable[str]) -> dict[str, Stamp | None]:
    """What tells without reading them whether files are those that were looked at before; None where there is none."""
    return {name: _stamp(folder / name) for name in names}


def changed(folder: Path, before: Mapping[str, Stamp | None]) -> list[str]:
    """The files that are not as they were when `stamps` said this."""
    now = stamps(folder, before)
    return [name for name, stamp in before.items() if now[name] != stamp]


def _stamp(file: Path) -> Stamp | None:
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _file_digest(name: str, value: Any) -> FileDigest:
    if is_store_file(name) and isinstance(value, dict) and value.keys() == set(FileDigest._fields):
        nbytes, sha256 = value["nbytes"], value["sha256"]
        if type(nbytes) is int and nbytes >= 0 and _is_sha256(sha256):
            return FileDigest(nbytes, sha256)
    raise StoreError(f"expected files of a store with nbytes and sha256, found {name!r}: {value!r}; push it again")


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
