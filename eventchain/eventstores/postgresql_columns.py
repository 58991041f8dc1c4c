"""Columns of PostgreSQL as SQL for what an event holds: bytes, moments, and JSON over several of them.

Columns of type ``oid`` name large objects (Hibernate keeps ``@Lob`` there): what is read is the object. The
tables are those of :class:`.postgresql_arrow.EventQuery`, called ``t``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from eventchain.postgresql import quoted

INTEGERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
MOMENTS = ("timestamp with time zone", "timestamp without time zone")
LARGE_OBJECT = "oid"
ISO = (
    "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    "([.][0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})?$"
)


def json_of(columns: Mapping[str, str]) -> str:
    """SQL for the metadata that covers these columns (name to type), as bytea; ``NULL`` for none.

    Declaration: a JSON object, names in the order of their code points; each value null or a string, the
    column's ``::text`` in UTF-8 as PostgreSQL's ``to_json`` escapes it, with the time zone UTC and the date
    style ISO; of bytea, hex.
    """
    if not columns:
        return "NULL"
    pairs = []
    for name in sorted(columns):
        value = f"encode({quoted(name)}, 'hex')" if columns[name] == "bytea" else f"({quoted(name)})::text"
        pairs.append(f"{_key(name)} || coalesce(to_json({value})::text, 'null')")
    return "textsend('{' || " + " || ',' || ".join(pairs) + " || '}')"


def json_of_present(columns: Mapping[str, str], numbers: Collection[str | None] = ()) -> str:
    """The same in the order given, and without the columns that are null, so that one which is added to the
    table later, without a default, changes no row.

    A column of type oid is its number, and where that is a large object's, ``:`` and the object in hex;
    of ``numbers`` the number alone.
    """
    pairs = []
    for name, kind in columns.items():
        value = f"encode({quoted(name)}, 'hex')" if kind == "bytea" else f"({quoted(name)})::text"
        if kind == LARGE_OBJECT and name not in numbers:
            value += f" || coalesce(':' || encode({bytes_of(name, kind)}, 'hex'), '')"
        pairs.append(f"{_key(name)} || to_json({value})::text")
    return "textsend('{' || array_to_string(ARRAY[" + ", ".join(pairs) + "]::text[], ',') || '}')"


def _key(name: str) -> str:
    key = json.dumps(name, ensure_ascii=False).replace("'", "''")
    return f"'{key}:'"


def bytes_of(name: str, kind: str) -> str:
    """Bytes as they are stored; of types that have none, the ``::text`` in UTF-8. Null for a number that is
    no large object's."""
    column = f"t.{quoted(name)}"
    if kind == "bytea":
        return column
    if kind == LARGE_OBJECT:
        known = f"EXISTS (SELECT 1 FROM pg_largeobject_metadata AS m WHERE m.oid = {column})"
        return f"CASE WHEN {known} THEN lo_get({column}) END"
    return f"textsend(({column})::text)"


def has_micros(column: str) -> str:
    """Infinity, and what is beyond 64 bits, has no number."""
    return f"isfinite({column}) AND {column} < '290000-01-01'"


def micros_of(column: str) -> str:
    """Microseconds since 1970 of a timestamp, one without time zone being UTC."""
    return f"(extract(epoch FROM {column}) * 1000000)::int8"


def micros_of_text(text: str) -> str:
    """The same of an ISO 8601 text, null for any other; without a zone it is UTC. A day that its month lacks
    counts on into the next; what is below a microsecond is dropped."""
    date = f"make_date(left({text}, 4)::int, substr({text}, 6, 2)::int, 1) - date '1970-01-01'"
    days = f"({date} + substr({text}, 9, 2)::int - 1)::int8"
    hours, minutes, seconds = (f"substr({text}, {start}, 2)::int" for start in (12, 15, 18))
    clock = f"({hours} * 3600 + {minutes} * 60 + {seconds})::int8"
    fraction = f"rpad(coalesce(substring({text} from '[.]([0-9]{{1,6}})'), ''), 6, '0')::int8"
    zone = f"substring({text} from '[+-][0-9]{{2}}:?[0-9]{{2}}$')"
    ahead = f"(left({zone}, 3)::int * 60 + (left({zone}, 1) || right({zone}, 2))::int)::int8"
    whole = f"(({days} * 86400 + {clock} - coalesce({ahead}, 0) * 60) * 1000000 + {fraction})"
    return f"CASE WHEN {text} ~ '{ISO}' AND left({text}, 4) <> '0000' THEN {whole} END"


def beside(data: str, condition: str, column: str) -> str:
    """The data where the condition holds, else with the column's text behind it. Rows that cannot be told
    apart by a number are told apart by this."""
    return (
        f"CASE WHEN {condition} THEN {data} "
        f"ELSE coalesce({data} || ' '::bytea, ''::bytea) || textsend({column}::text) END"
    )
