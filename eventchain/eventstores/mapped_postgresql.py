"""Any append-only table of a PostgreSQL database, by a mapping."""

from __future__ import annotations

import re
from typing import Any

import psycopg

from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.erasing import Ranges, among
from eventchain.eventstores.mapping import UNITS, load_mapping
from eventchain.eventstores.postgresql_arrow import EventQuery
from eventchain.eventstores.postgresql_columns import (
    INTEGERS,
    LARGE_OBJECT,
    MOMENTS,
    beside,
    bytes_of,
    has_micros,
    json_of_present,
    micros_of,
    micros_of_text,
)
from eventchain.eventstores.postgresql_table import PostgreSQLTable, TableInfo
from eventchain.formats.event import UNKNOWN
from eventchain.postgresql import fits, parse_url, quoted

SEQUENCES = """
SELECT c.oid::int8 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname = %s AND c.relname = ANY(%s)
"""
TEXTS = ("text", "character varying")
FORMS = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    **dict.fromkeys(INTEGERS, re.compile(r"0|-?[1-9][0-9]{0,18}")),
}
"""How the ``::text`` of these types looks; none has a slash."""
MAX_GRACE = 86_400.0


class MappedPostgreSQLStore(PostgreSQLTable):
    """``table+postgresql://user@host/database?mapping=FILE.toml``, read only; or a preset's name in place of
    the file. ``?table=`` and ``?schema=`` come before what the mapping says. ``?grace=SECONDS``: see
    :mod:`.postgresql_fence`.

    Declaration 1, for the mapping whose digest stands in ``source``. Text fields are the columns' ``::text``,
    several joined with ``/``. Numbers and moments become the number that an event has; a moment that has none
    (infinity) or none in 64 bits makes an irregular row. Data: bytea as it is stored; what a column of type
    oid names, a large object; of all other types the ``::text`` in UTF-8. Metadata: one column, as data; or
    a JSON object (:func:`.postgresql_columns.json_of_present`).
    """

    def __init__(self, url: str) -> None:
        options = parse_url(url, "schema", "table", "notify", "mapping", "grace").options
        self._mapping = load_mapping(options.get("mapping", ""))
        self.default_table, self.default_schema = self._mapping.table, self._mapping.schema
        self.source = f"table-postgresql/1-{self._mapping.digest()}"
        super().__init__(url, "mapping", "grace", grace=_seconds(options.get("grace", "0")))

    def _sequences(self, connection: psycopg.Connection[Any], schema: str) -> list[int]:
        names = list(self._mapping.sequences or ())
        return [oid for (oid,) in connection.execute(SEQUENCES, (schema, names))] if names else []

    def _query(self, info: TableInfo) -> EventQuery:
        mapping, types = self._mapping, info.types
        where = f"the table {info.table} in {self.url}"
        large = [
            name for name in (mapping.data, mapping.metadata) if name and types.get(name) == LARGE_OBJECT
        ]
        texts = [mapping.time] if mapping.time and mapping.time_format == "iso" else []
        listed = mapping.covering(list(types), [*large, *texts], where)
        if types[mapping.position] not in INTEGERS or mapping.position not in info.required & info.unique:
            raise StoreError(
                f"{mapping.at('position')}: {mapping.position!r} does not number the rows of {where}",
                hint="a position is an integer column, NOT NULL, with a unique index of its own",
            )
        if not info.sequences and mapping.sequences != ():
            named = " or ".join(mapping.sequences or ())
            raise StoreError(
                f"no sequence is known that numbers {where}" + (f": there is no {named}" if named else ""),
                hint='name it in the mapping: sequences = ["…"]; sequences = [] where the application gives '
                "the numbers itself",
            )
        if mapping.listed is not None:
            metadata = json_of_present({name: types[name] for name in listed}, {mapping.data})
        else:
            metadata = bytes_of(mapping.metadata, types[mapping.metadata]) if mapping.metadata else "NULL"
        time, numbered = self._time(types, where)
        if numbered:
            metadata = beside(metadata, f"({numbered}) IS NOT FALSE", quoted(mapping.time or ""))
        return EventQuery(
            table=info.name,
            position=quoted(mapping.position),
            stream=self._text("stream", mapping.stream),
            version=self._version(types, where),
            id=self._text("id", mapping.id),
            type=self._text("type", (mapping.type,)),
            time=time,
            data=bytes_of(mapping.data, types[mapping.data]) if mapping.data else "NULL",
            metadata=metadata,
        )

    def how_to_erase(self, ranges: Ranges, *, rows: bool = False) -> str:
        """Whole rows are deleted, as every column is covered and may hold anything, and the large objects
        that they name."""
        with self._described() as (_, info, query):
            where = among(query.position, ranges)
            columns = [quoted(name) for name, kind in info.types.items() if kind == LARGE_OBJECT]
        objects = "".join(
            f"SELECT lo_unlink({column}) FROM {query.table} WHERE {column} <> 0 AND {where};\n"
            for column in columns
        )
        vacuum = "\nVACUUM (FULL) pg_largeobject;" if objects else ""
        return objects + super().how_to_erase(ranges, rows=rows) + vacuum

    def _text(self, key: str, names: tuple[str, ...]) -> str:
        """Several columns are known by the last and what ``metadata`` holds; a null is one of the last."""
        *first, last = (f"{quoted(name)}::text" for name in names)
        text = " || '/' || ".join([*(f"coalesce({name}, '')" for name in first), last])
        if key not in self._mapping.nullable:
            return text
        return f"CASE WHEN ({text}) IS NULL THEN '' WHEN ({text}) <> '' THEN {text} END"

    def _version(self, types: dict[str, str], where: str) -> str:
        name = self._mapping.version
        if name is None:
            return str(UNKNOWN)
        if types[name] not in INTEGERS:
            raise StoreError(
                f"{self._mapping.at('version')}: {name!r} of {where} is of type {types[name]}",
                hint="a version is an integer; leave `version` out and put the column into `metadata`",
            )
        return self._known("version", f"{quoted(name)}::int8", f"{quoted(name)} <> {UNKNOWN}")

    def _time(self, types: dict[str, str], where: str) -> tuple[str, str]:
        """Microseconds, and the condition under which the column's value has any; empty: always, or the
        column stands in ``metadata`` anyway."""
        name, kind = self._mapping.time, self._mapping.time_format
        if name is None:
            return str(UNKNOWN), ""
        column, of = quoted(name), types[name]
        if kind is None and of in MOMENTS:
            return self._known("time", micros_of(column), has_micros(column)), has_micros(column)
        if kind == "iso" and of in ("text", "character varying", "character"):
            text = f"coalesce({micros_of_text(f'{column}::text')}, {UNKNOWN})"
            return self._known("time", text, "true"), ""
        if kind in UNITS and of in INTEGERS:
            factor = UNITS[kind]
            most = (2**63 - 1) // factor
            inside = f"{column} BETWEEN {-most} AND {most}"
            return self._known("time", f"{column}::int8 * {factor}", inside), inside
        raise StoreError(
            f"{self._mapping.at('time')}: {name!r} of {where} is of type {of}"
            + (f", which is not {kind}" if kind else ""),
            hint='timestamps need no time_format, text has "iso", integers the unit in which they count; '
            "leave `time` out and put the column into `metadata` where it is something else",
        )

    def _known(self, key: str, number: str, condition: str) -> str:
        """A number where the condition holds, else null: an irregular row. A null that is no mistake is
        UNKNOWN, which nothing else is."""
        name = quoted(getattr(self._mapping, key))
        null = f"WHEN {name} IS NULL THEN {UNKNOWN} " if key in self._mapping.nullable else ""
        return f"CASE {null}WHEN {name} IS NOT NULL AND {condition} THEN {number} END"

    def _find(self, event_id: str, info: TableInfo) -> tuple[str, tuple[Any, ...]] | None:
        if not fits(event_id):
            return None
        names, types = self._mapping.id, info.types
        if not all(types[name] in FORMS for name in names[1:]):  # slashes may be anywhere
            return f"({self._text('id', names).replace('%', '%%')}) = %s", (event_id,)
        parts = event_id.rsplit("/", len(names) - 1)
        if len(parts) < len(names) or not all(map(_is_a, (types[name] for name in names), parts)):
            return None
        return " AND ".join(_equals(name, types[name]) for name in names), tuple(parts)


def _is_a(kind: str, text: str) -> bool:
    """Whether it is the ``::text`` of a value of the type."""
    if kind not in FORMS:
        return True
    return bool(FORMS[kind].fullmatch(text)) and (kind not in INTEGERS or abs(int(text)) < INTEGERS[kind])


def _equals(name: str, kind: str) -> str:
    """The condition that the column's ``::text`` is the parameter, so that an index helps where it can."""
    column = quoted(name).replace("%", "%%")
    if kind in FORMS:
        return f"{column} = %s::{kind}"
    return f"{column if kind in TEXTS else f'{column}::text'} = %s"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_GRACE:
        raise ConfigError(f"grace={text} is no number of seconds", hint=f"0 to {MAX_GRACE:.0f}: ?grace=5")
    return seconds
