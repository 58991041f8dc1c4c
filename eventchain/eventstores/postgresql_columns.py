"""Columns of PostgreSQL that are no event's field, as bytes of one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping

from eventchain.postgresql import quoted


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
        column, key = quoted(name), json.dumps(name, ensure_ascii=False).replace("'", "''")
        value = f"encode({column}, 'hex')" if columns[name] == "bytea" else f"({column})::text"
        pairs.append(f"'{key}:' || coalesce(to_json({value})::text, 'null')")
    return "textsend('{' || " + " || ',' || ".join(pairs) + " || '}')"
