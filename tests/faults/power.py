"""What a disk may hold after a power loss, by the log of a writer's system calls.

Less is promised here than by any file system in use: a file's content is safe after its fsync, a name after the
fsync of its folder. Until then content may be empty, zero or torn; of the names, any prefix of what was done is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from store.folder.files import split_temporary

_PATH = re.compile(r'[<"](/[^>"]*)[>"]')  # of a name, or of an open file


@dataclass(eq=False)
class _Inode:
    full: bytes | None  # None: a folder
    synced: bool = False


Change = dict[str, _Inode | None]  # names that appear, or go


@dataclass(frozen=True)
class State:
    """Files and folders (None) by path, parents first."""

    names: tuple[tuple[str, bytes | None], ...]

    def restore(self, root: Path) -> None:
        """Make this state below `root`."""
        root.mkdir()
        for name, content in self.names:
            place = root / name
            if content is None:
                place.mkdir()
            else:
                place.write_bytes(content)


class Disk:
    """Replays what a log of strace -y says of the folder `root`; `final` has the full content of each file."""

    def __init__(self, root: Path, final: Mapping[str, bytes]) -> None:
        self._root, self._final = root, final
        self._now = {".": _Inode(None)}
        self._durable = dict(self._now)
        self._pending: list[Change] = []

    def replay(self, line: str) -> None:
        """Follow one call that succeeded."""
        found = re.match(r"\d+ +(\w+)\((.*)\) += (\d+)", line)
        if found is None:
            return
        call, arguments = found[1], found[2]
        given = [Path(path) for path in _PATH.findall(arguments)]
        paths = [str(path.relative_to(self._root)) for path in given if path.is_relative_to(self._root)]
        if not paths:
            return
        if call == "openat":
            self._open(paths[0], arguments)
        elif call in ("write", "ftruncate"):
            self._now[paths[0]].synced = False
        elif call == "fsync":
            self._sync(paths[0])
        elif call == "mkdir":
            self._change({paths[0]: _Inode(None)})
        elif call == "link":
            self._change({paths[1]: self._now[paths[0]]})
        elif call == "rename":
            self._change({paths[0]: None, paths[1]: self._now[paths[0]]})
        elif call == "unlink":
            self._change({paths[0]: None})

    def after_power_loss(self) -> Iterator[State]:
        """Every state that may be found now."""
        for kept in range(len(self._pending) + 1):
            names = dict(self._durable)
            for change in self._pending[:kept]:
                _apply(change, names)
            found = [path for path in sorted(names) if all(str(above) in names for above in Path(path).parents)]
            for torn in (0.0, 0.5, None):
                yield State(tuple((path, _content(names[path], torn)) for path in found if path != "."))

    def _open(self, path: str, arguments: str) -> None:
        if "O_CREAT" in arguments and path not in self._now:
            target = split_temporary(Path(path).name)
            assert target is not None, f"{path}: written under its final name"
            self._change({path: _Inode(self._final[target.target])})
        if "O_TRUNC" in arguments:
            self._now[path].synced = False

    def _sync(self, path: str) -> None:
        self._now[path].synced = True
        for change in [change for change in self._pending if str(Path(next(iter(change))).parent) == path]:
            _apply(change, self._durable)
            self._pending.remove(change)

    def _change(self, change: Change) -> None:
        self._pending.append(change)
        _apply(change, self._now)


def _apply(change: Change, names: dict[str, _Inode]) -> None:
    for path, inode in change.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _content(inode: _Inode, torn: float | None) -> bytes | None:
    """`torn`: the share of the content that was written, None for zeros in its place."""
    if inode.full is None or inode.synced:
        return inode.full
    return bytes(len(inode.full)) if torn is None else inode.full[: int(torn * len(inode.full))]
