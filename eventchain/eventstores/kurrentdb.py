"""KurrentDB's ``$all`` as an event store, through kurrentdbclient; read only. Experimental: no server was to
be had for the tests, which check the mapping and the errors alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import sleep, time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa

from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.index_check import PlainCheck
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN

try:
    from kurrentdbclient import KurrentDBClient, RecordedEvent
    from kurrentdbclient.exceptions import InvalidCommitPositionError, KurrentDBClientError
except ImportError as error:
    raise ConfigError(f"KurrentDB needs a library: {error}", hint="pip install kurrentdbclient") from None

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SYSTEM = (r"\$.+",)
"""Types that are the server's own."""
TIMEOUT = 30.0
HINT = "is KurrentDB running there, and does it let this user read $all?"


class KurrentDBEventStore:
    """``kurrentdb://host:2113?tls=false``, and whatever else the client understands.

    Declaration 1: position = the commit position, stream = the stream's name, version = the position in it,
    id = the event's UUID with its hyphens, type and data as recorded, time = when it was recorded, in whole
    microseconds; metadata = a JSON object with sorted keys and no spaces: ``content_type``, ``metadata`` (its
    bytes in hex) and ``prepare_position`` (a decimal string). Events of the server's own types, which begin
    with ``$``, are left out.

    Everything that ``$all`` gives is committed, in the order of its positions. Failures are StoreError.
    """

    source = "kurrentdb/1"
    creatable = False

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        try:
            self._client = KurrentDBClient(url)
        except (KurrentDBClientError, ValueError) as error:
            raise self._failed(error) from error

    @property
    def url(self) -> str:
        return self._url

    def read(self, after: int | None, limit: int) -> Any:
        if after is None:
            return _batch(self._all(None, limit))
        try:
            return _batch(_above(self._all(after, limit + 1), after, limit))
        except _NoSuchPositionError:
            pass
        try:  # the server begins only at positions that there are: perhaps at the next one
            return _batch(self._all(after + 1, limit))
        except _NoSuchPositionError:
            return _batch(_above(self._all(None, 2**62), after, limit))

    def head(self) -> int | None:
        """Commit positions rise in the order in which they become visible."""
        for event in self._all(None, 1, backwards=True):
            return int(event.commit_position)
        return None

    def wait(self, seconds: float) -> None:
        sleep(seconds)

    def find(self, event_id: str) -> Any:
        """By reading everything: there is no index of ids."""
        return _batch(event for event in self._all(None, 2**62) if str(event.id) == event_id)

    def index_check(self) -> PlainCheck:
        """None: the server's indexes cannot be read from outside."""
        return PlainCheck()

    def how_to_erase(self, ranges: Sequence[tuple[int, int]], *, rows: bool = False) -> str:
        """KurrentDB lets go of whole streams, or of their beginnings."""
        listed = ", ".join(f"{first} to {last}" if first != last else str(first) for first, last in ranges)
        return (
            f"Delete the streams of the events at the commit positions {listed}, or set $tb in the metadata "
            "of these streams, and start a scavenge."
        )

    def now(self) -> int:
        """This host's clock: the server does not tell its own."""
        return int(time())

    def close(self) -> None:
        self._client.close()

    def _all(self, begin: int | None, limit: int, backwards: bool = False) -> Iterable[RecordedEvent]:
        try:
            yield from self._client.read_all(
                commit_position=begin,
                backwards=backwards,
                filter_exclude=SYSTEM,
                limit=limit,
                timeout=TIMEOUT,
            )
        except InvalidCommitPositionError as error:
            raise _NoSuchPositionError from error
        except KurrentDBClientError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"{self._url}: {str(error) or type(error).__name__}", hint=HINT)


class _NoSuchPositionError(Exception):
    pass


def _above(events: Iterable[RecordedEvent], after: int, limit: int) -> Iterable[RecordedEvent]:
    return islice((event for event in events if event.commit_position > after), limit)


def _batch(events: Iterable[RecordedEvent]) -> Any:
    rows = [dict(zip(EVENT_SCHEMA.names, row_of(event), strict=True)) for event in events]
    return pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)


def row_of(event: RecordedEvent) -> tuple[Any, ...]:
    """The values of EVENT_SCHEMA's columns."""
    recorded = event.recorded_at
    metadata = {
        "content_type": event.content_type,
        "metadata": event.metadata.hex(),
        "prepare_position": str(event.prepare_position),
    }
    return (
        event.commit_position,
        event.stream_name,
        event.stream_position,
        str(event.id),
        event.type,
        UNKNOWN if recorded is None else (recorded - EPOCH) // timedelta(microseconds=1),
        event.data,
        json.dumps(metadata, separators=(",", ":")).encode(),
    )
