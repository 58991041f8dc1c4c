"""The gap problem: positions are given in order and become visible in any order. A watcher for any store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

Write = Callable[[random.Random], Any]
PASSED = 200
"""Positions that writers may have drawn, or lost with what they rolled back, and not shown yet."""


def watch(store: Any, writers: Sequence[Write], idle: AbstractContextManager[Any], seconds: float) -> int:
    """Seal up to ``head`` again and again while threads write, one each, and while ``idle``, one more writer,
    holds an event that it has not committed yet; it commits on leaving. Asserts that what was once sealed is
    always the complete beginning of the store, and in the end all of it.

    Returns how many events came too late for whoever had sealed up to the newest position instead.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def writing(number: int, write: Write) -> None:
        dice = random.Random(number)
        while not stop.is_set():
            try:
                write(dice)
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=writing, args=pair) for pair in enumerate(writers)]
    sealed: list[Any] = []
    naive: set[int] = set()
    reach, too_late = -1, 0

    def look() -> None:
        """As somebody who takes the newest position for the end."""
        nonlocal reach, too_late
        rows = everything(store)
        late = {position for position, *_ in rows if position <= reach} - naive
        too_late += len(late)
        naive.update(position for position, *_ in rows)
        reach = max(naive, default=-1)

    def seal() -> None:
        look()
        head = store.head()
        found = [row for row in everything(store) if head is not None and row[0] <= head]
        if len(found) >= len(sealed):  # the head may stay below what is sealed, as in a new process
            assert found[: len(sealed)] == sealed
            sealed[:] = found

    def seal_for(duration: float, until: Callable[[], bool]) -> None:
        """So long, and on a busy machine longer, until it is so."""
        end = time.monotonic() + duration
        while (time.monotonic() < end or not until()) and not failures:
            assert time.monotonic() < end + 60
            seal()

    for thread in threads:
        thread.start()
    try:
        seal_for(seconds / 3, lambda: bool(sealed))
        with idle:
            look()
            begun = reach
            seal_for(seconds / 3, lambda: reach > begun + PASSED)  # the others go past what it holds
            held = len(sealed)
            look()  # a head that waits for the idle writer leaves time for few of them
        seal_for(seconds / 3, lambda: len(sealed) > held)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    seal()
    assert sealed == everything(store)
    assert len(sealed) > held > 0
    return too_late


def everything(store: Any) -> list[Any]:
    """(position, id, data) of every event that is visible now."""
    rows: list[Any] = []
    while True:
        batch = store.read(rows[-1][0] if rows else None, 1000)
        rows += zip(*(batch[name].to_pylist() for name in ("position", "id", "data")), strict=True)
        if batch.num_rows < 1000:
            return rows
