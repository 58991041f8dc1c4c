"""One writer at a time over all processes: a lock file that the system releases when its holder dies."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from eventchain.errors import LockedError, StoreError


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the file at ``path`` (its name with ``.lock`` added). The lock file names its holder
    for people; the lock itself is the system's and ends with the process, whatever the file says.

    Raises LockedError at once when it is held, by another process or by this one; StoreError when the lock
    file cannot be made.
    """
    file = path.with_name(path.name + ".lock")
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LockedError(
            f"another writer holds {path}{_holder(file)}",
            hint="wait until it is done or stop it; its lock ends with its process",
        ) from None
    except (OSError, NotImplementedError) as error:
        raise StoreError(
            f"cannot lock {path} for writing: {error}",
            hint="a writer needs to write in the folder of the chain file; reading works without",
        ) from error
    try:
        _write(file, f"pid {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        _write(file, "")
        lock.release()


def _write(file: Path, text: str) -> None:
    with suppress(OSError):  # only for people: the holder stays unnamed where this fails
        file.write_text(text)


def _holder(file: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if found := re.fullmatch(r"(pid \d{1,10} on [\w.-]{1,255})\n", file.read_text()):
            return f" ({found[1]})"
    return ""
