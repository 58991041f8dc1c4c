"""Forgetting a subject, so that it can be broken off at any moment and gone on with.

1. The subject's key is closed: nothing more is encrypted with it.
2. A record of the erasure of all its events is sealed (:func:`record_forgetting`).
3. The key is destroyed, and with it every copy of the payloads, in backups and replicas too.
4. Payloads and salts are destroyed in place, as for any record (:mod:`eventchain.erasure.erase`).
5. What led from the subject's name to the destroyed key is taken away.

Until 5 is done the same call finds what is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.chain.sealing import Progress, Sealer
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.erasure.erase import Outcome, Report, complete, record
from eventchain.erasure.plan import Matches, plan_erasure, positions_where
from eventchain.errors import StoreError
from eventchain.formats.envelope import MAGIC
from eventchain.subjects.encrypted import PAYLOAD, encrypted_rows
from eventchain.subjects.keys import KeyStore

PATIENCE = 60.0
"""Seconds to wait for transactions that may still commit an event."""
LOOK = 0.1


def of_handles(handles: Sequence[bytes]) -> Matches:
    """The events that are encrypted under one of these keys."""

    def matches(batch: Any) -> NDArray[np.bool_]:
        found = np.zeros(batch.num_rows, np.bool_)
        for handle in handles:
            for column in PAYLOAD:
                found[encrypted_rows(batch[column], MAGIC + handle)] = True
        return found

    return matches


def record_forgetting(
    sealer: Sealer,
    events: EventStore,
    keys: KeyStore,
    subject: str,
    reason: str,
    actor: str,
    block_events: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[bytes]:
    """Close the subject's key and seal a record of the erasure of its events, and with them whatever waits.
    The handles of the keys to destroy now. Raises StoreError for an event that is not what was sealed."""
    handles = keys.begin_forgetting(subject)
    _await_all(events)
    sealer.seal_backlog(block_events, report)
    store = sealer.builder.store
    plan = plan_erasure(store, events, positions_where(events, of_handles(handles)))
    record(sealer, plan, reason, actor, block_events, report)
    return handles


def finish_forgetting(
    store: ChainStore,
    events: EventStore,
    keys: KeyStore,
    handles: Sequence[bytes],
    report: Report = lambda what, count: None,
) -> Outcome:
    """Destroy the keys, then the payloads and salts. Inside ``store.writer()``, with no builder at work."""
    keys.destroy(handles)
    outcome = complete(store, events, report)
    keys.end_forgetting(handles)
    return outcome


def _await_all(events: EventStore) -> None:
    """Until all that is in the event store now is safe to seal."""
    fence = getattr(events, "fence", None)
    state = fence() if fence is not None else None
    if state is None or state.newest is None:
        return
    until = time.monotonic() + PATIENCE
    while (head := events.head()) is None or head < state.newest:
        if time.monotonic() > until:
            raise StoreError(
                f"open transactions keep the newest events from being sealed: {', '.join(state.holders)}",
                hint="end them, then run the same command again",
            )
        time.sleep(LOOK)
