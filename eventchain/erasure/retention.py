"""The tables ``[retention.NAME]`` of the configuration: which events are erased when they are old enough."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventchain.errors import ConfigError, ProjectionError
from eventchain.toml_reader import TomlReader

if TYPE_CHECKING:
    from eventchain.contracts.event_store import EventStore
    from eventchain.erasure.plan import Matches

_KEYS = ("where", "types", "older_than")
_AGE = re.compile(r"([1-9][0-9]{0,5}) days?")
DAY = 86_400 * 10**6
"""Microseconds."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Events that meet all of it: where: a CEL condition; types: one of these types; older_than: days by the
    event's own time, which an event without a time never is. Each may be absent, not all."""

    name: str
    where: str = ""
    types: tuple[str, ...] = ()
    older_than: int | None = None

    @property
    def reason(self) -> str:
        """What the record of an erasure says."""
        told = [
            f"older than {self.older_than} days" if self.older_than is not None else "",
            f"of type {', '.join(self.types)}" if self.types else "",
            f"where {self.where}" if self.where else "",
        ]
        return f"retention rule {self.name}: events {', '.join(filter(None, told))}"

    def matches(self, events: EventStore, now: float) -> Matches:
        """Its events at a time, unix seconds. Raises ProjectionError for a condition that is wrong."""
        from eventchain.erasure.plan import chosen_by
        from eventchain.projections.filter import Filter, Range

        last = None if self.older_than is None else int(now * 10**6) - self.older_than * DAY - 1
        try:
            filter = Filter(times=Range(last=last), where=self.where)
        except ProjectionError as error:
            raise ProjectionError(f"retention rule {self.name}: {error.message}", hint=error.hint) from error
        return chosen_by(events, filter, self.types)


def rules(reader: TomlReader, tables: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules of ``[retention.NAME]`` tables, by name. Raises ConfigError with file and line."""
    return {name: _rule(reader, name, reader.take(tables, name, dict, table="retention")) for name in tables}


def _rule(reader: TomlReader, name: str, values: dict[str, Any]) -> Rule:
    table = f"retention.{name}"
    reader.check_keys(values, _KEYS, table)
    types = reader.take(values, "types", list, [], table)
    if not all(isinstance(one, str) for one in types) or ("types" in values and not types):
        raise ConfigError(f"{reader.at('types', table)}: 'types' must be a list of names of types")
    rule = Rule(
        name=name,
        where=reader.take(values, "where", str, "", table).strip(),
        types=tuple(types),
        older_than=reader.parsed(values, "older_than", _days, table),
    )
    if not (rule.where or rule.types or rule.older_than):
        raise ConfigError(
            f"{reader.at(table)}: the rule {name!r} would erase every event",
            hint=f"it needs one of {', '.join(_KEYS)}",
        )
    return rule


def _days(text: str) -> int:
    match = _AGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no age", hint='as "365 days"')
    return int(match[1])
