"""Events with every kind of payload for tests of projections, and what they mean, read the plain way."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN
from eventchain.projections.filter import Filter
from eventchain.projections.fold import Fold, Run
from eventchain.projections.projection import Projection

NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False).map(lambda value: format(value, "f")),
    st.sampled_from(
        [
            "0",
            "-0",
            "1.50",
            "-0.001",
            "1e3",
            "2.5E-4",
            "9223372036854775807",
            "9007199254740993",
            "1" * 40,
            "0.1",
        ]
    ),
)
VALUES = st.one_of(
    NUMBERS,
    NUMBERS.map(lambda text: f'"{text}"'),
    st.sampled_from(
        ["null", "true", "[1, 2]", '{"b": 3}', '"Internet"', '"Desk"', '"Caf\\u00e9"', '"a\\u0000b"']
    ),
)
NAMES = st.sampled_from(["amount", "channel", "case", "org:group", "x"])


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects as text, names also twice, with or without white space."""
    pairs = st.lists(st.tuples(NAMES, values), max_size=4)
    space = st.sampled_from(["", " ", "\n\t"])
    return st.builds(
        lambda pairs, space: "{" + f",{space}".join(f'"{k}":{space}{v}' for k, v in pairs) + space + "}",
        pairs,
        space,
    )


PAYLOADS = st.one_of(
    st.none(),
    objects(st.one_of(VALUES, objects(VALUES))).map(str.encode),
    st.sampled_from(
        [b"", b" ", b"{}", b"{} {}", b'{"amount":1}{"amount":2}', b'{"amount":', b"1}", b"[1]", b"7"]
    ),
    st.sampled_from([b'{"amount":1,"x":"\xff"}', b" {}", b"null", b'{"amount":1}\n', b'"text"']),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "stream": st.sampled_from(["order-1", "order-2", "Ångström", "", "a\0b"]),
            "version": st.sampled_from([UNKNOWN, 0, 1, 7]),
            "id": st.sampled_from(["e1", "e2"]),
            "type": st.sampled_from(["permit.Opened", "permit.Closed", "order.Paid", "a"]),
            "time": st.sampled_from([UNKNOWN, 0, 1_285_000_000_000_000, 2**62]),
            "data": PAYLOADS,
            "metadata": PAYLOADS,
        }
    ),
    max_size=25,
)


def batch_of(rows: Iterable[dict[str, Any]]) -> Any:
    """A record batch with positions of their own, with gaps."""
    numbered = [{"position": 3 * index + 1, **row} for index, row in enumerate(rows)]
    return pa.RecordBatch.from_pylist(numbered, schema=EVENT_SCHEMA)


def simple(stream: str, data: Any, type: str = "a", **more: Any) -> dict[str, Any]:
    """A row; data as JSON unless it is bytes or None."""
    payload = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    row = {"stream": stream, "version": 0, "id": "e", "type": type, "time": 0, "metadata": None}
    return {**row, "data": payload, **more}


def run_of(projection: Projection[Any], filter: Filter | None = None, name: str = "totals") -> Run:
    return Run(name, projection, filter or Filter(), projection.initial())


def folded(projection: Projection[Any], batch: Any, filter: Filter | None = None) -> bytes:
    """The state after a whole batch."""
    run = run_of(projection, filter)
    Fold([run]).feed(batch, 0)
    return run.dump()


class Written(str):
    """A JSON number as it is written."""


def _refuse(text: str) -> Any:
    raise ValueError(text)


def object_in(payload: bytes | None, numbers: Any = Written) -> dict[str, Any]:
    """The JSON object that a payload is, else an empty one."""
    try:
        value = json.loads(
            (payload or b"").decode(), parse_int=numbers, parse_float=numbers, parse_constant=_refuse
        )
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def at(row: dict[str, Any], *members: str) -> Any:
    """What the data has at a path, None for nothing."""
    value: Any = object_in(row["data"])
    for name in members:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def moment(microseconds: int) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
