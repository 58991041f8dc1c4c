"""PostgreSQL servers: what their URLs say, connecting to them, and what their errors mean.

Whatever a URL leaves out comes from where every program of PostgreSQL takes it: ``PGPASSWORD`` and the other
variables, ``~/.pgpass``, a service file. No message shows a password.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from eventchain.errors import ConfigError, StoreError
from eventchain.urls import without_password

try:
    import psycopg
    from psycopg import pq
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ConfigError(
        f"PostgreSQL needs the package psycopg: {error}",
        hint='python3 -m pip install "eventchain[postgresql]"',
    ) from error

OLDEST = 130000
"""PostgreSQL 13, the oldest that this is written for."""
CONNECT_SECONDS = 10
REWRITES = 5
"""How often a table is rewritten while others' transactions keep its old rows."""
REWRITE_SECONDS = 0.5
# A host that vanished is noticed after half a minute, by us and by the server, which then ends our session
# with its locks: by default each would wait for hours.
KEEPALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4"}
TCP_TIMEOUT = {"tcp_user_timeout": "30000"}
FORM = "write it as postgresql://user@host:5432/database; in a password %XX stands for other characters"
SETTINGS = {
    "search_path": None,  # below: nobody's schema comes before PostgreSQL's own functions
    "row_security": "off",  # rows withheld are an error, not rows that are missing
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",  # takes longer than the queries here
    "standard_conforming_strings": "on",
    # How values of other types read as text:
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    **{f"tcp_{name}": value for name, value in KEEPALIVE.items()},
    **TCP_TIMEOUT,
}
"""What is set in each session, whatever the server, the database or the role has."""

_HINTS = {
    "23": "the row exists already or breaks the schema; run `eventchain verify`",
    "22": "a value does not fit",
    "28": "check the user, and the password in PGPASSWORD, ~/.pgpass or a service file",
    "3D": "check the name; `createdb` makes a database",
    "42501": "ask for the right: GRANT SELECT on a table that is read; row-level security must not apply",
    "42": "is this the right database? its schema may have been changed",
    "53": "the server is short of memory, disk or connections",
    "54": "a value or a name is larger than PostgreSQL allows",
    "57": "the server is shutting down, starting, or ended the connection; try again",
    "55": "somebody else holds a lock on it",
    "40": "try again",
    "25006": "the server or the role only reads: is it a standby?",
    "08": "is the server running, and does it accept connections at this address?",
}


class ServerURL(NamedTuple):
    """``shown``: the URL without its password; ``conninfo``: for libpq; ``options``: those that are ours."""

    shown: str
    conninfo: str
    options: dict[str, str]


def parse_url(url: str, *known: str) -> ServerURL:
    """``postgresql://user@host:port/database?…``, everything in it optional, maybe with ``kind+`` before it.
    After ``?`` stand libpq's parameters and the ``known`` options. Raises ConfigError."""
    shown = without_password(url)
    location, _, query = url.partition("://")[2].partition("?")
    options: dict[str, str] = {}
    kept = []
    ours = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name in known:
            options[name] = unquote(value)
        elif name in ours or name == "ssl":
            kept.append(part)
        elif name.isidentifier():
            listed = ", ".join(known) or "none"
            raise ConfigError(
                f"{shown!r} has an unknown option {name!r}", hint=f"known: {listed}, and libpq's own"
            )
        else:  # not named: with a question mark in a password it is a part of that
            raise ConfigError(f"{shown!r} is not the URL of a PostgreSQL database", hint=FORM)
    conninfo = f"postgresql://{location}{'?' if kept else ''}{'&'.join(kept)}"
    authority = location.partition("/")[0]
    try:
        ports = str(conninfo_to_dict(conninfo).get("port") or "").split(",")
        if authority.count("@") > 1 or not all(port == "" or port.isdecimal() for port in ports):
            raise psycopg.ProgrammingError  # a password with a character that cannot stand there, most likely
    except (psycopg.ProgrammingError, UnicodeError):
        # libpq's message may hold a part of the password, so it is neither shown nor chained.
        raise ConfigError(f"{shown!r} is not the URL of a PostgreSQL database", hint=FORM) from None
    return ServerURL(shown, conninfo, options)


def connect(url: ServerURL, *, read_only: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection in autocommit mode. Raises StoreError."""
    given: Mapping[str, Any] = conninfo_to_dict(url.conninfo)
    more: dict[str, Any] = {"fallback_application_name": "eventchain", "client_encoding": "utf8"}
    elsewhere = given.get("service") or os.environ.get("PGSERVICE") or os.environ.get("PGCONNECT_TIMEOUT")
    if "connect_timeout" not in given and not elsewhere:
        more["connect_timeout"] = CONNECT_SECONDS
    more |= {name: value for name, value in {**KEEPALIVE, **TCP_TIMEOUT}.items() if name not in given}
    try:
        # No prepared statements: they do not get on with connection poolers.
        connection = psycopg.connect(url.conninfo, autocommit=True, prepare_threshold=None, **more)
    except (psycopg.Error, UnicodeError) as error:
        raise explained(error, url) from None  # a traceback would show the arguments
    try:
        version = connection.info.server_version
        if version < OLDEST:
            raise StoreError(f"{url.shown}: PostgreSQL {version // 10000} is too old", hint="13 or newer")
        settings = {**SETTINGS, "default_transaction_read_only": "on" if read_only else "off"}
        path = "'pg_catalog, ' || pg_catalog.current_setting('search_path')"
        values = [path if value is None else f"'{value}'" for value in settings.values()]
        sets = (
            f"pg_catalog.set_config('{name}', {value}, false)"
            for name, value in zip(settings, values, strict=True)
        )
        connection.execute(f"SELECT {', '.join(sets)}")
        encoding = connection.info.parameter_status("server_encoding")
        if encoding == "SQL_ASCII":
            raise StoreError(
                f"{url.shown}: the database keeps text in no encoding (SQL_ASCII)",
                hint="only text in an encoding that PostgreSQL checks can be read",
            )
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise explained(error, url) from error
        raise
    return connection


def is_alive(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server still has this idle connection; asks it only where something has come from it."""
    try:
        if not connection.closed and select.select([connection], [], [], 0)[0]:
            connection.execute("SELECT 1")
    except (psycopg.Error, OSError, ValueError):
        return False
    return not connection.closed


def home_schema(connection: psycopg.Connection[Any], url: ServerURL) -> str:
    """Where an unqualified name would be made, if PostgreSQL's own schema were not put first. Raises
    StoreError where the role's path names no schema."""
    found = connection.execute(
        "SELECT s FROM unnest(current_schemas(false)) AS s WHERE s <> 'pg_catalog' LIMIT 1"
    ).fetchone()
    if found is None:
        raise StoreError(
            f"{url.shown}: the role's search_path has no schema", hint="name one: ?schema=public"
        )
    return str(found[0])


def explained(error: Exception, url: ServerURL) -> StoreError:
    """What a driver's error means and what to do about it."""
    state = getattr(error, "sqlstate", None) or ""
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error).strip()
    said = said.splitlines()[0] if said else type(error).__name__
    given = conninfo_to_dict(url.conninfo)
    for secret in (given.get("password"), given.get("sslpassword"), os.environ.get("PGPASSWORD")):
        if secret:
            said = said.replace(str(secret), "***")
    hint = _HINTS.get(state) or _HINTS.get(state[:2]) or ("" if state else _refused(said))
    return StoreError(f"{url.shown}: {said}", hint=hint)


def _refused(said: str) -> str:
    """What to do where no connection came about; its errors have no codes."""
    return _HINTS["28" if "password" in said else "3D" if "database" in said else "08"]


def fits(text: str) -> bool:
    """Whether PostgreSQL can keep the text: it is UTF-8 without NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


UNSAMPLED = """
SELECT bool_and(attstattarget = 0) FROM pg_catalog.pg_attribute
WHERE attrelid = %s::regclass AND attname = ANY(%s)
"""


def unsampled(table: str, columns: Sequence[str]) -> str:
    """SQL so that ANALYZE never copies values of these columns of the table (its name quoted) into the
    server's statistics."""
    return f"ALTER TABLE {table} " + ", ".join(
        f"ALTER COLUMN {quoted(column)} SET STATISTICS 0" for column in columns
    )


def rewrite(connection: psycopg.Connection[Any], url: ServerURL, table: str, columns: Sequence[str]) -> None:
    """Write a table (its name quoted) anew, so that nothing of what was changed or deleted in it is left in
    the server's data files, nor values of these bytea columns in its statistics. The table is locked
    meanwhile.

    Plain VACUUM leaves the bytes of what it frees in the pages. It is done again where short transactions of
    others still saw the old rows. Raises StoreError where the role may not do it, or one stays open.
    """
    said: list[tuple[str, str]] = []

    def listen(notice: Any) -> None:
        message = f"{notice.message_primary}; {notice.message_detail}"
        said.append((notice.severity_nonlocalized or "", message))

    def vacuum(name: str) -> None:
        for _ in range(REWRITES):
            said.clear()
            connection.execute(f"VACUUM (FULL, VERBOSE) {name}")
            if not _keeps_rows(url, name, said):
                return
            time.sleep(REWRITE_SECONDS)
        raise StoreError(
            f"{url.shown}: an open transaction still sees rows of {name} as they were",
            hint="end it (pg_stat_activity, pg_prepared_xacts and pg_replication_slots name it), then run "
            "`eventchain erase --resume`",
        )

    connection.add_notice_handler(listen)
    try:
        if connection.execute(UNSAMPLED, (table, list(columns))).fetchone() == (True,):
            vacuum(table)
            return
        for column in columns:  # to alter the type, be it to what it is, drops a column's statistics
            connection.execute(f"ALTER TABLE {table} ALTER COLUMN {quoted(column)} TYPE bytea")
        vacuum(table)
        vacuum("pg_catalog.pg_statistic")
        connection.execute(unsampled(table, columns))
    finally:
        connection.remove_notice_handler(listen)


def _keeps_rows(url: ServerURL, name: str, said: list[tuple[str, str]]) -> bool:
    """Whether dead rows had to be kept: by what VACUUM says their number is the first of its details. Raises
    StoreError where it warns that it passes the table over."""
    if warning := next((text for severity, text in said if severity == "WARNING"), None):
        raise StoreError(
            f"{url.shown}: {name} was not rewritten: {warning.partition(';')[0]}",
            hint="let the owner of the database do it: what was erased may still be in its files",
        )
    kept = [re.search(r"; (\d+)", text) for severity, text in said if severity == "INFO"]
    return any(found is not None and int(found[1]) for found in kept)
