"""Where a page is written: whole or not at all, and never over a file that is something else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tokenmix_loader.store_access import write_whole

MARK = '<meta name="generator" content="tokenmix report">'
PAGE_NAME = "index.html"
_HEAD_NBYTES = 4096  # of a file, in which the mark is looked for
_SUFFIXES = (".html", ".htm")


def page_path(output: str | Path) -> Path:
    """The file that a page goes to: `output` if it ends in .html, else index.html in the folder of that name.

    Raises FileExistsError where something that is no page of ours is in the way, FileNotFoundError where the folder to
    write in is missing, NotADirectoryError where it is a file.
    """
    output = Path(output)
    is_file = output.suffix.lower() in _SUFFIXES
    target = output if is_file else output / PAGE_NAME
    folder = output.parent
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        kind = NotADirectoryError if folder.exists() else FileNotFoundError
        raise kind(f"{output}: expected a folder {str(folder)!r} to write in, found {found}; make it, or give another")
    if not is_file and not output.is_dir() and (output.exists() or output.suffix[1:].isalpha()):
        found = "a file of that name" if output.exists() else f"one that ends in {output.suffix}"
        raise NotADirectoryError(f"{output}: expected a name that ends in .html, or a folder, found {found}")
    if os.path.lexists(target) and not _is_ours(target):
        raise FileExistsError(
            f"{target}: expected nothing or an earlier report, found something else; give another name, or remove it"
        )
    require_writable(output if output.is_dir() else folder)
    return target


def require_writable(folder: Path) -> None:
    """Raise PermissionError now, and not after minutes of work."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def write_page(target: Path, page: str) -> None:
    """Put the page in place by one rename; OSError where the file system refuses, and nothing is left then."""
    made = not target.parent.exists()
    target.parent.mkdir(exist_ok=True)
    try:
        # a path from the command line may hold bytes that are no text
        write_whole(target, page.encode("utf-8", errors="replace"))
    except OSError:
        if made:
            target.parent.rmdir()
        raise


def _is_ours(target: Path) -> bool:
    if not target.is_file():
        return False
    with open(target, "rb") as file:
        return MARK.encode("ascii") in file.read(_HEAD_NBYTES)
