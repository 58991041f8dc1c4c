"""What somebody with write access to the database can do: three edits by plain SQL, none of which the
application notices when it replays its events.

Everything here uses Python's own sqlite3, never while EventChain has the file open in the same process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tampering:
    """``kind`` is the finding that it must lead to, at ``position``."""

    kind: str
    position: int
    story: str
    sql: str


def count(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM stored_events").fetchone()
        return int(rows)


def plan(database: Path) -> list[Tampering]:
    """Pick three events, of three accounts, and write the statements."""
    with closing(sqlite3.connect(database)) as connection:
        return list(_plan(connection))


def run(database: Path, tampering: Tampering) -> int:
    """Run the statement; returns how many rows it changed."""
    with closing(sqlite3.connect(database)) as connection, connection:
        return connection.execute(tampering.sql).rowcount


def copy(database: Path, to: Path) -> None:
    """A copy page by page, rowids included."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _plan(connection: sqlite3.Connection) -> Iterator[Tampering]:
    (events,) = connection.execute("SELECT max(rowid) FROM stored_events").fetchone()

    edited, account, state = connection.execute(
        "SELECT rowid, originator_id, state FROM stored_events"
        " WHERE topic LIKE '%.Deposited' AND rowid > ? ORDER BY rowid LIMIT 1",
        (events // 3,),
    ).fetchone()
    amount = json.loads(state)["amount"]
    yield Tampering(
        "altered",
        edited,
        f"A deposit of {_money(amount)} becomes one of {_money(amount + 9_000_000)}:",
        "UPDATE stored_events\n"
        f"   SET state = {_with_amount(amount, amount + 9_000_000)}\n"
        f" WHERE rowid = {edited}",
    )

    # The last event of its account: an earlier one would leave a gap in the versions and stop the replay.
    deleted, other, state = connection.execute(
        "SELECT rowid, originator_id, state FROM stored_events AS event"
        " WHERE topic LIKE '%.Withdrawn' AND originator_id != ? AND originator_version ="
        " (SELECT max(originator_version) FROM stored_events WHERE originator_id = event.originator_id)"
        " ORDER BY rowid LIMIT 1",
        (account,),
    ).fetchone()
    yield Tampering(
        "missing",
        deleted,
        f"A withdrawal of {_money(json.loads(state)['amount'])} never happened:",
        f"DELETE FROM stored_events WHERE rowid = {deleted}",
    )

    template, third, state = connection.execute(
        "SELECT rowid, originator_id, state FROM stored_events"
        " WHERE topic LIKE '%.Deposited' AND originator_id NOT IN (?, ?) ORDER BY rowid LIMIT 1",
        (account, other),
    ).fetchone()
    (version,) = connection.execute(
        "SELECT max(originator_version) FROM stored_events WHERE originator_id = ?", (third,)
    ).fetchone()
    yield Tampering(
        "inserted",
        0,
        f"A deposit of {_money(2_500_000)} that nobody made, put first so that it does not look new:",
        "INSERT INTO stored_events (rowid, originator_id, originator_version, topic, state)\n"
        f"SELECT 0, originator_id, {version + 1}, topic,\n"
        f"       {_with_amount(json.loads(state)['amount'], 2_500_000)}\n"
        f"  FROM stored_events WHERE rowid = {template}",
    )


def _with_amount(old: int, new: int) -> str:
    """SQL for the JSON bytes of ``state`` with another amount."""
    return f"CAST(replace(state, '\"amount\":{old}', '\"amount\":{new}') AS BLOB)"


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"
