"""One process of a machine at a time. The kernel frees the lock when its holder ends, however that happens."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def locked(file: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file, which is removed at the end; `on_wait` is called once where another process holds it.

    On file systems without locks nothing is waited for: then two processes do the same work, which harms nothing.
    """
    handle = _acquire(file, on_wait)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is freed, so that whoever waits sees that it is gone
        os.close(handle)


def _acquire(file: Path, on_wait: Callable[[], object]) -> int:
    waited = False
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    waited = True
                    on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            return handle
        except BaseException:
            os.close(handle)
            raise
        if _is_still(handle, file):
            return handle
        os.close(handle)


def _is_still(handle: int, file: Path) -> bool:
    """Whether the locked file is the one of that name, and not one that was removed while it was waited for."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False
