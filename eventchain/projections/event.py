"""One event, as a projection's ``apply`` sees it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from eventchain.formats.event import UNKNOWN

_MISSING: Any = object()
_DECODER = msgspec.json.Decoder()


class Event(msgspec.Struct, gc=False, eq=False):
    """One sealed event.

    position: the store's global order; version: the position within the stream, None when unknown; time:
    microseconds since 1970 UTC, None when unknown; data, metadata: the bytes that the store keeps, or None.
    """

    position: int
    stream: str
    version: int | None
    id: str
    type: str
    time: int | None
    data: bytes | None
    metadata: bytes | None
    _json: Any = _MISSING
    _metadata_json: Any = _MISSING

    @property
    def json(self) -> Any:
        """``data`` parsed as JSON, once for all projections of a pass: do not change it. None for null data.
        Numbers with a fraction or an exponent are floats; whole ones are exact. Raises ValueError for what
        is not JSON in UTF-8."""
        if self._json is _MISSING:
            self._json = parsed(self.data)
        return self._json

    @property
    def metadata_json(self) -> Any:
        """``metadata`` parsed, as ``json`` is."""
        if self._metadata_json is _MISSING:
            self._metadata_json = parsed(self.metadata)
        return self._metadata_json

    def __repr__(self) -> str:
        return f"<Event {self.position} {self.type} {self.id} of {self.stream}>"


def parsed(payload: bytes | None) -> Any:
    """A payload as JSON, None for none. Raises ValueError for what is not JSON."""
    try:
        return None if payload is None else _DECODER.decode(payload)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def events_of(batch: Any) -> Any:
    """A numpy array of :class:`Event`, for a record batch of EVENT_SCHEMA."""
    columns = [column.to_pylist() for column in batch.columns]
    for name in ("version", "time"):
        index = batch.schema.get_field_index(name)
        columns[index] = [None if value == UNKNOWN else value for value in columns[index]]
    events = np.empty(batch.num_rows, object)
    events[:] = list(map(Event, *columns))
    return events
