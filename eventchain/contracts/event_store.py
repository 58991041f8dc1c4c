"""The contract of an event store: where the events are that the chain seals.

A store is found by its URL's scheme through the entry-point group ``eventchain.eventstores``; the entry
point is a callable that takes the URL. Batches are Arrow record batches of
:data:`eventchain.formats.event.EVENT_SCHEMA`. Every column that the application can read is covered:
what has no column of its own goes into ``metadata`` in the adapter's declared order and encoding, and
``source`` changes when that declaration does. All failures are :class:`~eventchain.errors.StoreError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class NewEvent(NamedTuple):
    """An event to append. ``data`` and ``metadata`` are kept byte for byte, ``time`` is in microseconds
    since 1970 UTC (``None``: unknown)."""

    id: str
    type: str
    data: bytes | None
    metadata: bytes | None = None
    time: int | None = None


class IndexCheck(Protocol):
    """Whether queries of a store agree with ``read``: an index that was forged or is damaged leads the
    application past its events, or to others. Events may be appended meanwhile."""

    def work(self) -> None:
        """What takes long, once, in any thread; others may read and ``show`` meanwhile."""
        ...

    def show(self, batch: Any) -> None:
        """What ``read`` gave, from the first event to the last, each once."""
        ...

    def faults(self) -> list[str]:
        """When all was done and shown: what disagrees, in words; empty when all is well."""
        ...


class FenceState(NamedTuple):
    """What keeps ``head`` back: writers that may still commit below events that are visible already, or a
    grace for those that cannot be seen.

    head, newest: the newest position that is safe to seal, and the newest there is; seconds: for how long the
    oldest of those transactions has been at it, as far as can be seen; holders: each of them, for people;
    none where it is the grace that is waited for."""

    head: int | None
    newest: int | None
    seconds: float
    holders: tuple[str, ...]


class EventStore(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def source(self) -> str:
        """What the chain's policy states: the adapter and the version of its declaration,
        ``eventchain-sqlite/1``. A token of ``[A-Za-z0-9._/-]``."""
        ...

    def read(self, after: int | None, limit: int) -> Any:
        """A ``pyarrow.RecordBatch`` of at most ``limit`` events with ``position > after`` (``None``: from
        the start), ascending. A value that the column's type does not allow (a store without strict types,
        edited by hand) is read as *some* other value, never as the one that was there before, and never
        raises; the row's id is then an :func:`~eventchain.formats.event.irregular_id`. Fewer than
        ``limit`` rows mean that nothing follows at present."""
        ...

    def head(self) -> int | None:
        """The newest position that is safe to seal: no transaction still open can commit below it. May be
        below what is sealed already, or None, while a writer that was there before this process is at it.

        A store where positions can become visible out of order also has ``fence() -> FenceState | None``:
        None when nothing keeps ``head`` back."""
        ...

    def find(self, event_id: str) -> Any:
        """A ``pyarrow.RecordBatch`` of the events with this id, ascending (an edited store may have more
        than one)."""
        ...

    def index_check(self) -> IndexCheck:
        """Begins a check that queries of the store agree with ``read``."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep until something may have been appended since :meth:`head` was last asked, or for so long.

        A store that is told of new events, or can look for them at next to no cost, returns early and says
        so by an attribute ``told``, True; waits may be longer there."""
        ...

    def now(self) -> int:
        """The store's own clock in unix seconds."""
        ...

    def how_to_erase(self, ranges: Sequence[tuple[int, int]], *, rows: bool = False) -> str:
        """For its administrator, where the store is not ours to write: what to run so that the payloads of
        the events at these positions (ranges, both ends counted) are gone. After that each event is read with
        ``data`` and ``metadata`` null, or not at all; with ``rows`` not at all."""
        ...

    def close(self) -> None: ...


class AppendableEventStore(EventStore, Protocol):
    """A store that is ours to write."""

    def append(self, stream: str, expected_version: int | None, events: Sequence[NewEvent]) -> list[int]:
        """Append to one stream, all or nothing, durable on return; returns the positions.

        ``expected_version`` is the stream's newest version (−1: the stream must be empty; ``None``: any).
        Raises :class:`~eventchain.errors.ConflictError` when the stream is elsewhere or an id exists.
        """
        ...

    def append_batches(self, batches: Any) -> int:
        """Append an iterable of record batches in one transaction, all or nothing; positions are given
        anew, in order, everything else is kept. Returns how many. For imports."""
        ...

    def erase(self, positions: Any) -> None:
        """Set ``data`` and ``metadata`` of the events at these positions, (n,) int64, to null, all or none.
        On return they are nowhere in the store's files. What the database keeps besides (backups, replicas,
        PostgreSQL's WAL) is its administrator's. Doing it again does no harm, and completes what was broken
        off. Raises StoreError where something stands in the way, as a reader of an old state.

        A store whose payloads are encrypted, opened with keys, also has ``decrypted``: see
        :class:`eventchain.subjects.Encrypted`."""
        ...

    def remove(self, positions: Any) -> None:
        """As :meth:`erase`, of whole events: they are deleted. Positions that hold none are passed over, and
        none is given again."""
        ...
