"""Events as projections see them: one at a time as objects, or many as columns, made only when asked for.

Every projection of a pass sees the same page of events, so what one of them had made (objects, parsed JSON,
members of the payloads, keys) is there for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from eventchain.formats.event import UNKNOWN

_MISSING: Any = object()
_DECODER = msgspec.json.Decoder()


class Event:
    """One sealed event.

    position: the store's global order; version: the position within the stream, None when unknown; time:
    microseconds since 1970 UTC, None when unknown; data, metadata: the bytes that the store keeps, or None.
    """

    __slots__ = (
        "_json",
        "_metadata_json",
        "data",
        "id",
        "metadata",
        "position",
        "stream",
        "time",
        "type",
        "version",
    )

    def __init__(
        self,
        position: int,
        stream: str,
        version: int | None,
        id: str,
        type: str,
        time: int | None,
        data: bytes | None,
        metadata: bytes | None,
    ) -> None:
        self.position = position
        self.stream = stream
        self.version = version
        self.id = id
        self.type = type
        self.time = time
        self.data = data
        self.metadata = metadata
        self._json = _MISSING
        self._metadata_json = _MISSING

    @property
    def json(self) -> Any:
        """``data`` parsed as JSON, once for all projections of a pass: do not change it. None for null data.
        Numbers with a fraction or an exponent are floats; whole ones are exact. Raises ValueError for what
        is not JSON."""
        if self._json is _MISSING:
            self._json = None if self.data is None else _DECODER.decode(self.data)
        return self._json

    @property
    def metadata_json(self) -> Any:
        """``metadata`` parsed, as ``json`` is."""
        if self._metadata_json is _MISSING:
            self._metadata_json = None if self.metadata is None else _DECODER.decode(self.metadata)
        return self._metadata_json

    def __repr__(self) -> str:
        return f"<Event {self.position} {self.type} {self.id} of {self.stream}>"


class Page:
    """A record batch of EVENT_SCHEMA with everything that was made of it so far."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self._objects = np.empty(batch.num_rows, object)
        self._made = np.zeros(batch.num_rows, bool)

    def objects(self, rows: Any) -> list[Event]:
        missing = rows[~self._made[rows]]
        if len(missing):
            self._objects[missing] = _objects(self.batch.take(missing))
            self._made[missing] = True
        made: list[Event] = self._objects[rows].tolist()
        return made


class Events:
    """Some rows of a page, ascending: a sequence of :class:`Event`, and columns for who needs no objects.

    page: shared by all projections of a pass; rows: int64 indices into it.
    """

    def __init__(self, page: Page, rows: Any) -> None:
        self.page = page
        self.rows = rows

    @classmethod
    def of(cls, batch: Any) -> Events:
        """All rows of a record batch of EVENT_SCHEMA."""
        return cls(Page(batch), np.arange(batch.num_rows))

    def where(self, mask: Any) -> Events:
        """Those for which a boolean array, one value for each event here, is true."""
        return self if mask.all() else Events(self.page, self.rows[mask])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.objects)

    @cached_property
    def objects(self) -> Sequence[Event]:
        return self.page.objects(self.rows)

    @cached_property
    def positions(self) -> Any:
        """int64."""
        return self.page.batch.column(0).to_numpy()[self.rows]

    @cached_property
    def times(self) -> Any:
        """int64, microseconds since 1970 UTC or UNKNOWN."""
        return self.page.batch.column(5).to_numpy()[self.rows]

    def event(self, index: int) -> Event:
        return self.page.objects(self.rows[index : index + 1])[0]


def _objects(batch: Any) -> Any:
    columns = [column.to_pylist() for column in batch.columns]
    for index in (2, 5):
        columns[index] = [None if value == UNKNOWN else value for value in columns[index]]
    made = np.empty(batch.num_rows, object)
    made[:] = list(map(Event, *columns))
    return made
