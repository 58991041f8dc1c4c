"""Snapshots beside sealing: a thread looks for what is due whenever more is sealed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from eventchain.chain.build import Snapshot
from eventchain.errors import EventChainError
from eventchain.snapshots.take import Taker

READY = 4
"""States kept until the sealer takes them, so that memory stays flat."""
RETRY = 10.0
"""Seconds before it is tried again after a store failed."""


class Beside:
    """Gives a sealer the snapshots that become due by what it seals. ``failed`` is told, in the thread, when
    a store fails; it is tried again when more is sealed. Any other error is the sealer's, who would wait for
    ever."""

    def __init__(self, taker: Taker, failed: Callable[[EventChainError], None]) -> None:
        self._taker, self._failed = taker, failed
        self.replayed = 0
        self._ready: queue.Queue[Snapshot] = queue.Queue(READY)
        self._news = threading.Condition()
        self._told: dict[str, int] = {}  # sealed heights by origin
        self._seen: dict[str, int] = {}  # those up to which all that is due has been given
        self._stopped = False
        self._broken: BaseException | None = None

    def ready(self) -> list[Snapshot]:
        """Snapshots to be built now."""
        found = []
        while True:
            try:
                found.append(self._ready.get_nowait())
            except queue.Empty:
                return found

    def settled(self, sealed: Mapping[str, int]) -> bool:
        """Whether all that these sealed heights make due has been given. Where not, it is looked for."""
        if self._broken is not None:
            raise self._broken
        with self._news:
            if sealed != self._told:
                self._told = dict(sealed)
                self._news.notify()
            return self._seen == self._told and self._ready.empty()

    def _work(self) -> None:
        not_before = 0.0
        while True:
            with self._news:
                self._news.wait_for(lambda: self._stopped or self._seen != self._told)
                told = self._told
            try:
                if time.monotonic() >= not_before:
                    for snapshot in self._taker.look(self._go_on):
                        self._give(snapshot)
                self._go_on()
            except _Stopped:
                return
            except EventChainError as error:
                self._failed(error)
                not_before = time.monotonic() + RETRY
            except BaseException as error:  # raised where it is waited for
                self._broken = error
                return
            with self._news:
                self._seen = told

    def _go_on(self, events: int = 0) -> None:
        self.replayed += events
        if self._stopped:
            raise _Stopped

    def _give(self, snapshot: Snapshot) -> None:
        while True:
            self._go_on()
            try:
                self._ready.put(snapshot, timeout=0.1)
                return
            except queue.Full:
                continue

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work, name="taking snapshots", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._news:
                self._stopped = True
                self._news.notify()
            thread.join()


class _Stopped(Exception):
    pass
