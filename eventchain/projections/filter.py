"""Which events a projection sees: ranges of positions and times, and a condition."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from eventchain.errors import ProjectionError
from eventchain.formats.event import MAX_POSITION, UNKNOWN
from eventchain.projections.cel import EPOCH, MICROSECOND, Expression
from eventchain.projections.page import Events
from eventchain.projections.path import Path

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
        return (moment.replace(tzinfo=UTC) - EPOCH) // MICROSECOND + rest_of_day
    if moment.tzinfo is None:
        raise ProjectionError(f"{text!r} is in no time zone", hint=f"as {text}Z")
    return (moment - EPOCH) // MICROSECOND


def _checked(range: Range, text: str) -> Range:
    if range.first is not None and range.last is not None and range.first > range.last:
        raise ProjectionError(f"the range {text!r} ends before it begins")
    if max(range.first or 0, range.last or 0) > MAX_POSITION:
        raise ProjectionError(f"{text!r}: the highest position is {MAX_POSITION}")
    return range


def _moment(microseconds: int | None) -> str:
    if microseconds is None:
        return ""
    return (EPOCH + microseconds * MICROSECOND).isoformat().replace("+00:00", "Z")


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
            _ = self._expression  # wrong ones are found at once

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
            events = events.where(self.positions.mask(events.integers("position")))
        if self.times:
            times = events.integers("time")
            events = events.where((times != UNKNOWN) & self.times.mask(times))
        return self._expression.chosen(events) if self.where else events

    @property
    def paths(self) -> tuple[Path, ...]:
        """What it looks at in payloads."""
        return self._expression.paths if self.where else ()

    @cached_property
    def _expression(self) -> Expression:
        return Expression(self.where)
