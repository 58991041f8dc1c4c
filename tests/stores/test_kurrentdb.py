"""KurrentDB: how a recorded event becomes a row, and what is said without a server. There is no server for
these tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from kurrentdbclient import RecordedEvent

from eventchain.errors import StoreError
from eventchain.eventstores.kurrentdb import KurrentDBEventStore, row_of
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN

EVENT = RecordedEvent(
    type="OrderPlaced",
    data=b'{"total":1}',
    metadata=b"\xffmeta",
    content_type="application/json",
    id=UUID("12345678-1234-5678-1234-567812345678"),
    stream_name="order-7",
    stream_position=3,
    commit_position=4711,
    prepare_position=4710,
    recorded_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)


def test_the_declaration():
    row = dict(zip(EVENT_SCHEMA.names, row_of(EVENT), strict=True))
    metadata = row.pop("metadata")
    assert row == {
        "position": 4711,
        "stream": "order-7",
        "version": 3,
        "id": "12345678-1234-5678-1234-567812345678",
        "type": "OrderPlaced",
        "time": 1_767_323_045_678_901,
        "data": b'{"total":1}',
    }
    assert (
        metadata == b'{"content_type":"application/json","metadata":"ff6d657461","prepare_position":"4710"}'
    )
    assert json.loads(metadata)["metadata"] == b"\xffmeta".hex()


def test_an_unknown_time():
    assert row_of(RecordedEvent(**{**vars(EVENT), "recorded_at": None}))[5] == UNKNOWN


def test_without_a_server_it_says_so_and_keeps_the_password():
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1") as raised:
        KurrentDBEventStore("kurrentdb://admin:secret@127.0.0.1:1?tls=false").head()
    assert "secret" not in str(raised.value)
    assert "KurrentDB" in raised.value.hint
