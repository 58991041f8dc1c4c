"""The tables ``[projection.NAME]`` of the configuration: which projections get snapshots, and how often."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventchain.errors import ConfigError, ProjectionError
from eventchain.toml_reader import TomlReader

if TYPE_CHECKING:
    from eventchain.projections.filter import Filter
    from eventchain.projections.fold import Run
    from eventchain.projections.projection import Projection

READY: dict[str, dict[str, bool]] = {"latest": {}, "count": {"by": False}, "sum": {"path": True, "by": False}}
"""The ready-made projections with the options of each, and whether one must be given."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_RESERVED = ("tile", "checkpoint", "erasures")
_EVERY = re.compile(r"([1-9][0-9]{0,17}) ?(events?|s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEYS = ("use", "filter", "positions", "times", "every", "of")


@dataclass(frozen=True, slots=True)
class Every:
    """When the next snapshot is due: after so many events, or so many seconds; the other is None."""

    events: int | None = None
    seconds: int | None = None

    @classmethod
    def parse(cls, text: str) -> Every:
        """``10000 events``, ``90s``, ``30m``, ``1h`` or ``1d``. Raises ProjectionError."""
        match = _EVERY.fullmatch(text)
        if match is None:
            raise ProjectionError(f"{text!r} is no interval", hint='as "10000 events", "30m", "1h" or "1d"')
        if match[2].startswith("event"):
            return cls(events=int(match[1]))
        return cls(seconds=int(match[1]) * _SECONDS[match[2]])

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        if self.events is not None:
            return f"{self.events} event{'' if self.events == 1 else 's'}"
        seconds = self.seconds or 0
        unit = next(unit for unit in "dhms" if seconds % _SECONDS[unit] == 0)
        return f"{seconds // _SECONDS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Spec:
    """One projection as configured.

    name: the last part of its branch's origin; use: a ready-made one or an import string; options: of
    either; where, positions, times: the filter's text; every: None for snapshots by hand only; of: the
    projection whose snapshots are its events, None for the trunk's.
    """

    name: str
    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    positions: str = ""
    times: str = ""
    every: Every | None = None
    of: str | None = None

    def projection(self) -> Projection[Any]:
        """Raises ProjectionError when there is none of that name or it takes no such options."""
        try:
            if self.use in READY:
                from eventchain.projections import ready

                made: Projection[Any] = getattr(ready, self.use.capitalize())(**self.options)
                return made
            from eventchain.projections.projection import imported

            return imported(self.use, self.options)
        except ProjectionError as error:
            raise ProjectionError(f"projection {self.name}: {error.message}", hint=error.hint) from error

    def filter(self) -> Filter:
        """Raises ProjectionError for one that is wrong, with its column."""
        from eventchain.projections.filter import Filter, Range, parse_positions, parse_times

        try:
            return Filter(
                parse_positions(self.positions) if self.positions else Range(),
                parse_times(self.times) if self.times else Range(),
                self.where,
            )
        except ProjectionError as error:
            raise ProjectionError(f"projection {self.name}: {error.message}", hint=error.hint) from error

    def run(self, state: bytes | None = None, size: int = 0) -> Run:
        """A run from a dumped state that covers so many events, or from the beginning. Raises
        ProjectionError, as ``projection`` and ``filter`` do."""
        from eventchain.projections.fold import Run

        return Run.begin(self.name, self.projection(), self.filter(), state, size)


def check_name(name: str) -> str:
    """The name itself. Raises ProjectionError for one that cannot be part of an origin."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ProjectionError(
            f"{name!r} cannot be the name of a projection",
            hint=f"lower-case letters, digits, '.', '_' and '-', and not {', '.join(_RESERVED)}",
        )
    return name


def specs(reader: TomlReader, tables: Mapping[str, Any]) -> dict[str, Spec]:
    """The projections of ``[projection.NAME]`` tables, by name. Raises ConfigError with file and line."""
    found = {name: _spec(reader, name, reader.take(tables, name, dict)) for name in tables}
    for name, spec in found.items():
        table = f"projection.{name}"
        if spec.of is not None and spec.of not in found:
            raise ConfigError(
                f"{reader.at('of', table)}: there is no projection {spec.of!r}",
                hint=f"there are {', '.join(found)}",
            )
        seen, at = {name}, spec.of
        while at is not None and at in found:
            if at in seen:
                raise ConfigError(f"{reader.at('of', table)}: {name!r} would be a projection of itself")
            seen.add(at)
            at = found[at].of
    return found


def _spec(reader: TomlReader, name: str, values: dict[str, Any]) -> Spec:
    table = f"projection.{name}"
    try:
        check_name(name)
    except ProjectionError as error:
        raise ConfigError(f"{reader.at(table)}: {error.message}", hint=error.hint) from None
    use = reader.take(values, "use", str, table=table)
    if use not in READY and ":" not in use:
        raise ConfigError(
            f"{reader.at('use', table)}: there is no projection {use!r}",
            hint=f"{', '.join(READY)}, or an import string, as shop.totals:OrderTotals",
        )
    own = READY.get(use, {"options": False})
    reader.check_keys(values, (*_KEYS, *own), table)
    if use in READY:
        wanted = [key for key, needed in own.items() if needed or key in values]
        options = {key: reader.take(values, key, str, table=table) for key in wanted}
    else:
        options = reader.take(values, "options", dict, {}, table)
    return Spec(
        name=name,
        use=use,
        options=options,
        where=reader.take(values, "filter", str, "", table),
        positions=reader.take(values, "positions", str, "", table),
        times=reader.take(values, "times", str, "", table),
        every=reader.parsed(values, "every", Every.parse, table),
        of=reader.take(values, "of", str, None, table),
    )
