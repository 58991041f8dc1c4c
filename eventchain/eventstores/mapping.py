"""How the columns of somebody's table become an event: a mapping, written in TOML.

Every column must be covered, or it could be edited unseen. A column is *exact* where a field of the event is
its value and nothing else. What is not exact stands in ``metadata``, or the table is refused:

- a time that is written as text, as many texts mean one moment;
- of several columns joined with ``/`` all but the last: ``a/b`` and ``c`` give the same as ``a`` and ``b/c``.
  Once these are known, so is the last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from eventchain.errors import ConfigError, StoreError
from eventchain.toml_reader import TomlReader

KEYS = (
    "table", "schema", "sequences", "position", "stream", "version", "id", "type", "time", "time_format",
    "data", "metadata", "nullable",
)  # fmt: skip
UNITS = {"seconds": 10**6, "milliseconds": 10**3, "microseconds": 1}
"""Integers that count these since 1970, in microseconds."""
TIME_FORMATS = ("iso", *UNITS)
NULLABLE = ("stream", "version", "type", "time")
REST = "*"
"""In ``metadata``: all columns that are named nowhere else, in the order of their names' code points."""
_PRESETS = files("eventchain.eventstores") / "mappings"


@dataclass(frozen=True)
class Mapping:
    """Columns by the field of the event that they become; ``stream`` and ``id`` of one or several joined.

    ``metadata``: one column as it is stored; ``listed``: several for a JSON object in its place.
    ``nullable``: fields whose null is no mistake. ``sequences``: those that number the positions, where the
    database does not know it; None where the mapping does not speak of them. Names of the table, schema and
    sequences are no part of the declaration, which is what decides an event's bytes.
    """

    table: str
    position: str
    stream: tuple[str, ...]
    id: tuple[str, ...]
    type: str
    version: str | None = None
    time: str | None = None
    time_format: str | None = None
    data: str | None = None
    metadata: str | None = None
    listed: tuple[str, ...] | None = None
    nullable: frozenset[str] = frozenset()
    schema: str = ""
    sequences: tuple[str, ...] | None = None
    reader: TomlReader | None = field(default=None, compare=False)

    def digest(self) -> str:
        """Sixteen hex digits over the declaration."""
        declared = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name in ("position", "stream", "id", "type", "version", "time", "time_format", "data",
                         "metadata", "listed", "nullable")
            if (value := getattr(self, name)) is not None
        }  # fmt: skip
        canonical = json.dumps(declared, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def covering(self, columns: Sequence[str], inexact: Collection[str], where: str) -> list[str]:
        """The columns that the JSON object holds, in order, for a table of these columns.

        inexact: columns that their fields do not say exactly, as the table's types are; where: the table, for
        messages. Raises StoreError for a column that the table lacks, or that nothing covers.
        """
        listed = [name for name in self.listed or () if name != REST]
        single = {
            "position": self.position, "version": self.version, "type": self.type, "time": self.time,
            "data": self.data, "metadata": self.metadata,
        }  # fmt: skip
        for key, names in (
            *((key, (name,)) for key, name in single.items() if name),
            ("stream", self.stream), ("id", self.id), ("metadata", listed),
        ):  # fmt: skip
            for name in names:
                if name not in columns:
                    raise StoreError(
                        f"{self.at(key)}: {where} has no column {name!r}", hint=f"it has {', '.join(columns)}"
                    )
        joined = [names for names in (self.stream, self.id) if len(names) > 1]
        exact = {name for name in single.values() if name and name not in inexact} | set(listed)
        exact |= {names[0] for names in (self.stream, self.id) if len(names) == 1}
        if REST in (self.listed or ()):
            known_last = {names[-1] for names in joined} - {name for names in joined for name in names[:-1]}
            return [*listed, *sorted(set(columns) - exact - known_last)]
        for names in joined:
            if exact.issuperset(names[:-1]):
                exact.add(names[-1])
        if missing := [name for name in columns if name not in exact]:
            reasons = {name: _reason(self, name) for name in missing}
            raise StoreError(
                f"{self.at('metadata')}: no chain would cover {', '.join(map(repr, missing))} of {where}",
                hint="; ".join(sorted({reason for reason in reasons.values() if reason}))
                or 'add the columns to the list `metadata`, or "*" for all that are named nowhere else',
            )
        return listed

    def at(self, key: str) -> str:
        """Where the mapping says it, for messages."""
        return self.reader.at(key) if self.reader else "the mapping"


def _reason(mapping: Mapping, name: str) -> str:
    if name == mapping.time:
        return f"{name!r} can write one moment in many ways: name it in the list `metadata` too"
    if name in (mapping.data, mapping.metadata):
        return f"{name!r} holds the number of a large object: name it in the list `metadata` too"
    if name in (*mapping.stream, *mapping.id):
        return f"{name!r} is joined with others, which can give the same text: name it in `metadata` too"
    return ""


def load_mapping(value: str) -> Mapping:
    """The mapping of a URL's option ``mapping``: the path of a file that ends in ``.toml``, or the name of a
    preset. Raises ConfigError."""
    if value.endswith(".toml"):
        path = Path(value)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot read the mapping {path}: {why}", hint="a TOML file in UTF-8"
            ) from error
        return parse_mapping(text, path)
    known = sorted(entry.name.removesuffix(".toml") for entry in _PRESETS.iterdir())
    if value not in known:
        raise ConfigError(
            f"{value!r} is neither a file that ends in .toml nor a known mapping"
            if value
            else "the URL names no mapping",
            hint=f"mapping={'|'.join(known)}, or mapping=FILE.toml",
        )
    return parse_mapping((_PRESETS / f"{value}.toml").read_text(encoding="utf-8"), Path(f"{value}.toml"))


def parse_mapping(text: str, path: Path) -> Mapping:
    """The mapping that ``text``, the content of ``path``, states. Raises ConfigError with the line."""
    reader = TomlReader(text, path, "one of docs/event-stores.md")
    values = reader.values
    reader.check_keys(values, KEYS, "")

    def one(key: str, *default: Any) -> Any:
        name = reader.take(values, key, str, *default)
        if name is not None and not _is_name(name):
            raise ConfigError(f"{reader.at(key)}: {key!r} is no name: {name!r}")
        return name

    def several(key: str, *default: Any) -> Any:
        names = values.get(key)
        if not isinstance(names, list):
            name = one(key, *default)
            return None if name is None else (name,)
        if (not names and key in ("stream", "id")) or not all(map(_is_name, names)):
            raise ConfigError(f"{reader.at(key)}: {key!r} must be a list of names, not {names!r}")
        if len(set(names)) < len(names):
            raise ConfigError(f"{reader.at(key)}: {key!r} names something twice")
        return tuple(names)

    listed = several("metadata") if isinstance(values.get("metadata"), list) else None
    metadata = one("metadata", None) if listed is None else None
    if REST in (listed or ())[:-1] or metadata == REST:
        raise ConfigError(f"{reader.at('metadata')}: '*' stands last in a list", hint='metadata = ["*"]')
    time, time_format = one("time", None), one("time_format", None)
    if time_format is not None and (time is None or time_format not in TIME_FORMATS):
        raise ConfigError(
            f"{reader.at('time_format')}: 'time_format' cannot be {time_format!r}"
            if time
            else f"{reader.at('time_format')}: 'time_format' without 'time'",
            hint=f"one of {', '.join(TIME_FORMATS)}; not for columns of type timestamp",
        )
    nullable = several("nullable", None) or ()
    for key in nullable:
        if key not in NULLABLE or key not in values:
            raise ConfigError(
                f"{reader.at('nullable')}: 'nullable' cannot hold {key!r}",
                hint=f"any of {', '.join(NULLABLE)} that the mapping has",
            )
    return Mapping(
        table=one("table"), position=one("position"), stream=several("stream"), id=several("id"),
        type=one("type"), version=one("version", None), time=time, time_format=time_format,
        data=one("data", None), metadata=metadata, listed=listed, nullable=frozenset(nullable),
        schema=one("schema", None) or "", sequences=several("sequences", None), reader=reader,
    )  # fmt: skip


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value
