"""Announcing the watermark, after the commit and at least once.

Each announcer has a thread of its own, so that a slow or dead receiver holds back neither sealing nor the
others. A watermark covers every one before it, so only the newest is kept: a receiver that was away gets one
announcement, not thousands. At the start the watermark of before is announced again, since the process may
have died between a commit and its announcement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from eventchain.errors import EventChainError
from eventchain.service.watermark import Watermark

FIRST_RETRY, LAST_RETRY = 0.5, 60.0
"""Seconds before an announcement is tried again: doubled each time, from the first to the last."""
DRAIN_SECONDS = 1.0
"""How long a stop waits for what has not been announced; the next start announces it again."""


class Announcer(Protocol):
    name: str

    def announce(self, mark: Watermark) -> None:
        """Tell the receiver; durable there, or whatever it offers, on return. Any exception is a failure
        that is tried again."""
        ...

    def close(self) -> None: ...


class Herald:
    """Drives one announcer. ``failed`` is called with its name and the reason."""

    def __init__(self, announcer: Announcer, failed: Callable[[str, str], None]) -> None:
        self._announcer, self._failed = announcer, failed
        self._changed = threading.Condition()
        self._mark: Watermark | None = None
        self._told: Watermark | None = None
        self._stopping = False
        self._thread = threading.Thread(
            target=self._work, name=f"announcing by {announcer.name}", daemon=True
        )
        self._thread.start()

    def tell(self, mark: Watermark) -> None:
        with self._changed:
            self._mark = mark
            self._changed.notify()

    def stop(self) -> None:
        """Stop when the newest watermark is told, or cannot be."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait until it has stopped, but no longer."""
        self._thread.join(max(0.0, seconds))

    def _work(self) -> None:
        retry = FIRST_RETRY
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._mark is not self._told or self._stopping)
                    mark = self._mark
                    if mark is None or mark is self._told:
                        return
                try:
                    self._announcer.announce(mark)
                except Exception as error:  # whatever a receiver, a driver or the network comes up with
                    ours = isinstance(error, EventChainError)
                    said = str(error) if ours else f"{type(error).__name__}: {error}"
                    self._failed(self._announcer.name, said)
                    with self._changed:
                        if self._stopping:
                            return
                        self._changed.wait_for(lambda: self._stopping, retry)
                    retry = min(2 * retry, LAST_RETRY)
                else:
                    self._told, retry = mark, FIRST_RETRY
        finally:
            self._announcer.close()
