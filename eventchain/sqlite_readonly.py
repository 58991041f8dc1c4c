"""An SQLite file that an auditor may read and not write.

A database in WAL mode is read through two files beside it, ``-wal`` and ``-shm``, which SQLite makes where
they are missing. Where it cannot, nothing is read at all; where it can and the database itself may not be
written, it leaves them behind, the auditor's own, in the way of the application. In both cases the file is
read as *immutable*: without those files, and without locks. So nothing may be waiting in a log that is then
not seen, and the file must be the same after each read as before.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass

from eventchain.errors import StoreError

CREATE, NORMAL, IMMUTABLE = "mode=rwc", "mode=rw", "mode=ro&immutable=1"
"""URI parameters. NORMAL falls back to reading, by SQLite itself, where the file may not be written."""
_WAL_MODE = b"\2\2"  # the two version numbers in the file's header


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> FileState:
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def same_file(self, other: FileState) -> bool:
        return (self.device, self.inode) == (other.device, other.inode)

    def was_changed(self, path: str) -> bool:
        """Whether it is the same file and not as it was. Another one in its place changes nothing for who
        has this one open."""
        try:
            now = FileState.of(path)
        except OSError:
            return False
        return self.same_file(now) and self != now


def is_refused(error: sqlite3.Error) -> bool:
    """Whether SQLite could not make or write what it needs beside the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def awaits_writer(error: sqlite3.Error) -> bool:
    """Whether a log must be worked off before anything can be read, which takes a writer."""
    return getattr(error, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_READONLY_ROLLBACK,
        sqlite3.SQLITE_READONLY_RECOVERY,
    )


def would_leave_files(path: str) -> bool:
    """Whether opening the file as usual would make WAL files that nobody here can remove again."""
    if os.access(path, os.W_OK) or unseen_log(path):
        return False
    beside = [os.path.exists(os.path.realpath(path) + end) for end in ("-wal", "-shm")]
    return not all(beside) and _in_wal_mode(path)


def unseen_log(path: str) -> str | None:
    """The log beside the file that reading it as immutable would pass over: commits in a WAL, or the rest of
    a transaction that was cut off in the midst of writing the file."""
    real = os.path.realpath(path)  # where SQLite looks, when the path is a link
    for log in (f"{real}-wal", f"{real}-journal"):
        try:
            if not os.path.getsize(log):
                continue
            with open(log, "rb") as file:
                first = file.read(1)
        except FileNotFoundError:
            continue
        except OSError:
            return log  # nobody can say what it holds
        if first != b"\0":  # a journal that is done with may stay, its header zeroed
            return log
    return None


def refusal(path: str, log: str) -> StoreError:
    name = os.path.basename(log)
    if log.endswith("-wal"):
        what, worked_off = "its newest commits must be read from", "run `PRAGMA wal_checkpoint(TRUNCATE)`"
    else:
        what, worked_off = "a transaction that was cut off must be undone from", "read it once with `sqlite3`"
    return StoreError(
        f"{path}: {what} {name}, which cannot be done with the rights at hand",
        hint=f"let whoever may write the file {worked_off}, or make a copy with `.backup` in the sqlite3 "
        f"shell; or copy both files, while no program uses them, into a folder that can be written",
    )


def _in_wal_mode(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(20)[18:] == _WAL_MODE
    except OSError:
        return False  # opening it will say why
