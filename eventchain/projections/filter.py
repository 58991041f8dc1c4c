"""Which events a projection sees: ranges of positions and times, and a CEL expression over the event.

CEL is Google's Common Expression Language (https://cel.dev), checked when it is compiled. It sees
``position``, ``stream``, ``version``, ``id``, ``type``, ``time`` (a timestamp), and ``data`` and ``metadata``
parsed as JSON. An event for which the expression has no value is not taken: a member that the event lacks, a
comparison of things that do not compare, data that is not JSON.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from eventchain.errors import ProjectionError
from eventchain.formats.event import MAX_POSITION, UNKNOWN
from eventchain.projections.event import Event, Events

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TEXT = re.compile(
    r"(?:positions (?P<positions>\S+))?(?:(?:^| and )times (?P<times>\S+))?(?:(?:^| and )(?P<where>.*))?",
    re.S,
)
_POSITIONS = re.compile(r"([0-9]{1,19})?\.\.([0-9]{1,19})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Range:
    """From first to last, both included; None: open."""

    first: int | None = None
    last: int | None = None

    def __bool__(self) -> bool:
        return self.first is not None or self.last is not None

    def mask(self, values: Any) -> Any:
        """Booleans for an array of integers."""
        mask = np.ones(len(values), bool)
        if self.first is not None:
            mask &= values >= self.first
        if self.last is not None:
            mask &= values <= self.last
        return mask


def parse_positions(text: str) -> Range:
    """``1000..2000``, ``1000..`` or ``..2000``, both ends included. Raises ProjectionError."""
    match = _POSITIONS.fullmatch(text)
    first, last = (None, None) if match is None else (int(end) if end else None for end in match.groups())
    if match is None or (first is None and last is None):
        raise ProjectionError(f"{text!r} is not a range of positions", hint='as "1000..2000" or "1000.."')
    return _checked(Range(first, last), text)


def parse_times(text: str) -> Range:
    """``2010-10-01..2010-12-31``, with times of day ``2010-10-01T09:00:00Z..``; both ends included, a day
    alone as a whole, in UTC. Microseconds since 1970 UTC. Raises ProjectionError."""
    first, separator, last = text.partition("..")
    if not separator or not (first or last):
        raise ProjectionError(f"{text!r} is not a range of times", hint='as "2010-10-01..2010-12-31"')
    return _checked(
        Range(_time(first, 0) if first else None, _time(last, 86_400_000_000 - 1) if last else None), text
    )


def _time(text: str, rest_of_day: int) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ProjectionError(
            f"{text!r} is not a time", hint="as 2010-10-01 or 2010-10-01T09:00:00Z"
        ) from None
    if _DAY.fullmatch(text):
        return (moment.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND + rest_of_day
    if moment.tzinfo is None:
        raise ProjectionError(f"{text!r} is in no time zone", hint=f"as {text}Z")
    return (moment - _EPOCH) // _MICROSECOND


def _checked(range: Range, text: str) -> Range:
    if range.first is not None and range.last is not None and range.first > range.last:
        raise ProjectionError(f"the range {text!r} ends before it begins")
    if max(range.first or 0, range.last or 0) > MAX_POSITION:
        raise ProjectionError(f"{text!r}: the highest position is {MAX_POSITION}")
    return range


def _moment(microseconds: int | None) -> str:
    if microseconds is None:
        return ""
    return (_EPOCH + microseconds * _MICROSECOND).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Filter:
    """positions: of the store; times: microseconds since 1970 UTC; where: a CEL expression, or nothing.

    ``str()`` is its one spelling, which :meth:`parse` reads; empty when it takes every event."""

    positions: Range = Range()
    times: Range = Range()
    where: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", self.where.strip())
        if self.where:
            _ = self._program

    def __str__(self) -> str:
        parts = []
        if self.positions:
            first, last = self.positions.first, self.positions.last
            parts.append(f"positions {'' if first is None else first}..{'' if last is None else last}")
        if self.times:
            parts.append(f"times {_moment(self.times.first)}..{_moment(self.times.last)}")
        return " and ".join([*parts, self.where] if self.where else parts)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises ProjectionError for what is no filter's text."""
        match = _TEXT.fullmatch(text)
        assert match is not None
        found = match.groupdict()
        return cls(
            parse_positions(found["positions"]) if found["positions"] else Range(),
            parse_times(found["times"]) if found["times"] else Range(),
            found["where"] or "",
        )

    def chosen(self, events: Events) -> Events:
        """The events that it takes."""
        if self.positions:
            events = events.where(self.positions.mask(events.positions))
        if self.times:
            events = events.where((events.times != UNKNOWN) & self.times.mask(events.times))
        if self.where and len(events):
            program = self._program
            mask = np.fromiter((_true(program, event) for event in events), bool, len(events))
            events = events.where(mask)
        return events

    @cached_property
    def _program(self) -> Any:
        return _compiled(self.where)


def _compiled(where: str) -> Any:
    """The checked program. Raises ProjectionError with the place where it is wrong."""
    try:
        from cel_expr_python import cel
    except ImportError:
        raise ProjectionError(
            "filters need the package cel-expr-python", hint='pip install "eventchain[filters]"'
        ) from None
    kinds = {
        "position": cel.Type.INT,
        "stream": cel.Type.STRING,
        "version": cel.Type.INT,
        "id": cel.Type.STRING,
        "type": cel.Type.STRING,
        "time": cel.Type.TIMESTAMP,
        "data": cel.Type.DYN,
        "metadata": cel.Type.DYN,
    }
    # `type` is a function of CEL; in a container of its own the variable of that name comes first.
    environment = cel.NewEnv(
        container="event", variables={f"event.{name}": kind for name, kind in kinds.items()}
    )
    try:
        program = environment.compile(where)
    except RuntimeError as error:
        raise ProjectionError(_complaint(str(error))) from None
    if program.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        raise ProjectionError(f"the filter {where!r} is neither true nor false")
    return program


def _complaint(said: str) -> str:
    text = said.removeprefix("INVALID_ARGUMENT: ").replace(" (in container 'event')", "")
    text = re.sub(r" \[[A-Z_]+\]$", "", text)
    return re.sub(r"ERROR: <input>:([0-9]+):([0-9]+): ", r"the filter is wrong at line \1, column \2: ", text)


def _true(program: Any, event: Event) -> bool:
    known: dict[str, Any] = {
        "event.position": event.position,
        "event.stream": event.stream,
        "event.id": event.id,
        "event.type": event.type,
    }
    if event.version is not None:
        known["event.version"] = event.version
    if event.time is not None:
        known["event.time"] = _EPOCH + event.time * _MICROSECOND
    for name in ("json", "metadata_json"):
        with contextlib.suppress(ValueError):
            known["event.data" if name == "json" else "event.metadata"] = getattr(event, name)
    return program.eval(data=known).plain_value() is True
