"""Looks at the event store beside the sealing thread, which a slow answer would hold up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from eventchain.errors import EventChainError
from eventchain.eventstores import open_event_store
from eventchain.service.state import State

EVERY = 1.0
"""Seconds between two looks."""


@contextmanager
def observed(state: State, url: str) -> Iterator[None]:
    """Keeps ``state.newest`` and ``state.fence``, by a connection of its own. The sealing thread tells of
    errors; here they only leave what was seen last."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            try:
                with closing(open_event_store(url)) as events:
                    fence = getattr(events, "fence", None)
                    while not done.wait(EVERY):
                        head, held = events.head(), fence() if fence else None
                        with state.lock:
                            # What is held back is backlog too.
                            state.newest = held.newest if held else head
                            state.fence = held.seconds if held else 0.0
            except EventChainError:
                continue

    thread = threading.Thread(target=watch, name="observing the event store", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(EVERY)
