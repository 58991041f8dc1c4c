"""Projections that need no code: the last data of every stream, counts, and exact sums."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from eventchain.projections.numbers import short_numbers
from eventchain.projections.page import Events
from eventchain.projections.path import Path
from eventchain.projections.projection import Projection, canonical

State = TypeVar("State")


class ReadyMade(Projection[State]):
    """Versioned by hand, so that snapshots survive a release that changes nothing in what they hold."""

    version: ClassVar[str]

    def code(self) -> str:
        return self.version


class Latest(ReadyMade[dict[str, bytes]]):
    """The data of every stream's last event.

    Dumped as a JSON object, streams in the order of their code points, the data as it stands in the store;
    no data is null, and data that is not JSON ``{"base64":"…"}``.
    """

    version = "eventchain latest 1"

    def initial(self) -> dict[str, bytes]:
        return {}

    def apply_events(self, state: dict[str, bytes], events: Events) -> dict[str, bytes]:
        codes, streams = events.values(Path("stream"))
        last = np.full(len(streams), -1)
        last[codes] = np.arange(len(codes))  # of equal indices the last one stays
        (there,) = np.nonzero(last >= 0)
        payloads = Events(events.page, events.rows[last[there]]).column(Path("data"))
        for code, payload in zip(there.tolist(), payloads, strict=True):
            state[streams[code]] = b"null" if payload is None else payload
        return state

    def dump(self, state: dict[str, bytes]) -> bytes:
        members = (
            encode_basestring(stream).encode() + b":" + _json(state[stream]) for stream in sorted(state)
        )
        return b"{" + b",".join(members) + b"}"

    def load(self, data: bytes) -> dict[str, bytes]:
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        return {stream: bytes(value) for stream, value in members.items()}


class Count(ReadyMade[dict[str, int]]):
    """How many events there are for each ``by``: ``type``, ``stream``, or a member as ``data.channel``.
    Events without one are not counted."""

    version = "eventchain count 1"

    def __init__(self, by: str = "type") -> None:
        self._by = Path.parse(by)

    @property
    def options(self) -> dict[str, str]:
        return {"by": str(self._by)}

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self._by,)

    def initial(self) -> dict[str, int]:
        return {}

    def apply_events(self, state: dict[str, int], events: Events) -> dict[str, int]:
        codes, names = events.groups(self._by)
        counts = np.bincount(codes, minlength=len(names))
        (there,) = np.nonzero(counts)
        for code, number in zip(there.tolist(), counts[there].tolist(), strict=True):
            if (name := names[code]) is not None:
                state[name] = state.get(name, 0) + number
        return state


@dataclass(slots=True)
class Totals:
    """The total of each name is units / 10^scale."""

    units: dict[str, int] = field(default_factory=dict)
    scale: int = 0

    def __getitem__(self, name: str) -> Decimal:
        return Decimal(self.units[name]).scaleb(-self.scale)


class Sum(ReadyMade[Totals]):
    """The exact sum of the numbers at ``path``, as ``data.amount``, for each ``by``.

    Numbers are JSON numbers or strings that hold one. Events without, or with null, add nothing; with
    anything else they are an error. Dumped as a JSON object of decimals in strings, ``"12.5"``.
    """

    version = "eventchain sum 1"

    def __init__(self, path: str, by: str = "stream") -> None:
        self._path = Path.parse(path)
        self._by = Path.parse(by)

    @property
    def options(self) -> dict[str, str]:
        return {"path": str(self._path), "by": str(self._by)}

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self._path, self._by)

    def initial(self) -> Totals:
        return Totals()

    def apply_events(self, state: Totals, events: Events) -> Totals:
        present, found = events.numbers(self._path)
        codes, names = events.where(present).groups(self._by)
        if found.scale > state.scale:
            factor = 10 ** (found.scale - state.scale)
            state = Totals({name: units * factor for name, units in state.units.items()}, found.scale)
        sums, there = _sums(codes, found.at(state.scale).units, len(names))
        totals = state.units
        for code, units in zip(there.tolist(), sums[there].tolist(), strict=True):
            if (name := names[code]) is not None:
                totals[name] = totals.get(name, 0) + units
        return state

    def dump(self, state: Totals) -> bytes:
        return canonical({name: _decimal(units, state.scale) for name, units in state.units.items()})

    def load(self, data: bytes) -> Totals:
        values: dict[str, str] = msgspec.json.decode(data, type=dict[str, str])
        short = short_numbers(pa.array(list(values.values()), pa.binary()))
        if short is not None:
            return Totals(dict(zip(values, short.units.tolist(), strict=True)), short.scale)
        places = {name: len(value.partition(".")[2]) for name, value in values.items()}
        scale = max(places.values(), default=0)
        units = {
            name: int(value.replace(".", "")) * 10 ** (scale - places[name]) for name, value in values.items()
        }
        return Totals(units, scale)


def _sums(codes: Any, units: Any, groups: int) -> tuple[Any, Any]:
    """The sum of each group, exact, and the groups that occur."""
    if units.dtype != object and len(units) and int(abs(units).max()) * len(units) >= 2**63:
        units = units.astype(object)
    sums = np.zeros(groups, units.dtype)
    np.add.at(sums, codes, units)
    return sums, np.nonzero(np.bincount(codes, minlength=groups))[0]


def _decimal(units: int, scale: int) -> str:
    """Plain notation: no exponent, no zeros at the end."""
    digits = str(abs(units)).rjust(scale + 1, "0")
    whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :].rstrip("0")
    return ("-" if units < 0 else "") + whole + ("." + fraction if fraction else "")


def _json(data: bytes) -> bytes:
    """The data if it is JSON, without white space around it."""
    try:
        msgspec.json.decode(data.decode(), type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return b'{"base64":"' + base64.b64encode(data) + b'"}'
    return data.strip(b" \t\n\r")
