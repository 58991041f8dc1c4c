"""How far a PostgreSQL table may be sealed while others write to it.

A sequence gives numbers in order, and transactions commit in any order: position 7 may become visible
after position 8. What was sealed up to 8 would then lack 7 for ever.

Every transaction that has taken a number holds a ``RowExclusiveLock`` on the sequence, every one that has
begun to insert holds one on the table, both until it has ended and what it did is visible. Everybody may
read ``pg_locks``. So: note the newest position M that is visible, *then* the transactions that hold such
locks. A position up to M that is not visible yet is of one of them, or of one that ended in between and is
visible to whoever looks now. When all of them have ended, everything up to M is final. It takes no lock,
writes nothing, and a long transaction that writes to other tables holds nothing up.

Comparing transaction numbers does not do: ``pg_snapshot_xmax`` is one above the newest transaction that
*ended*, so that a younger one, still open, with a lower position, counts neither as running nor as awaited;
and a transaction has no number yet when it draws its first position.

What no lock can show are numbers drawn in an earlier transaction than the one that inserts them: a sequence
with ``CACHE`` above 1, an application that reserves ranges. Those events can come late (policy ``late``).
Where the two transactions follow each other closely, a *grace* helps: M is final only so many seconds after
it was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

WAIT_SECONDS = 1.0
"""How long to wait for writers that are at it; transactions of an application mostly take milliseconds."""
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05

LOCKS = """
SELECT l.virtualtransaction, l.pid FROM pg_locks AS l
WHERE l.granted AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation = ANY({relations}::oid[]) AND l.pid IS DISTINCT FROM pg_backend_pid()
"""
LOOK = """
SELECT (SELECT max({position}) FROM {table}), ARRAY(SELECT DISTINCT w.virtualtransaction FROM ({locks}) AS w)
"""
HOLDERS = """
SELECT w.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8, a.state, a.application_name
FROM (SELECT DISTINCT virtualtransaction, pid FROM ({locks}) AS l) AS w
LEFT JOIN pg_stat_activity AS a ON a.pid = w.pid ORDER BY a.xact_start NULLS LAST
"""


class Look(NamedTuple):
    """The newest position visible, and the transactions that may still commit below it."""

    newest: int | None
    writers: frozenset[str]


class Mark(NamedTuple):
    """A position that was the newest one, since when it waits, and for which transactions; None until the
    grace is over: they are not all known before."""

    newest: int | None
    since: float
    writers: frozenset[str] | None = None


class Fence:
    """Remembers what it waits for between calls, so that :meth:`head` waits for each writer once. ``grace``
    in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, grace: float = 0.0) -> None:
        self._clock = clock
        self._grace = grace
        self._safe: int | None = None
        self._mark: Mark | None = None

    def head(self, look: Callable[[], Look], sleep: Callable[[float], None] = time.sleep) -> int | None:
        """The newest position below which nothing can appear any more. Where writers are at it, waits up to
        WAIT_SECONDS for those that are there now; they may hold it back for longer. The grace is waited for
        when nothing is known yet."""
        began, pause = self._clock(), FIRST_PAUSE
        patience = WAIT_SECONDS + (self._grace if self._safe is None else 0)
        seen = look()
        newest = seen.newest
        while True:
            self._note(seen)
            safe, now = self._safe, self._clock()
            reached = newest is None or (safe is not None and safe >= newest)
            if self._mark is None or reached or now - min(began, self._mark.since) >= patience:
                return None if safe is None or newest is None else min(safe, newest)
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            seen = look()

    def waiting(self) -> float | None:
        """For how many seconds the newest position noted has been waiting; None when none has to."""
        return None if self._mark is None else self._clock() - self._mark.since

    def _note(self, seen: Look) -> None:
        now = self._clock()
        while self._mark or seen.writers or seen.newest != self._safe:
            mark = self._mark or Mark(seen.newest, now)
            if mark.writers is None and now - mark.since >= self._grace:
                mark = mark._replace(writers=seen.writers)
            self._mark = mark
            if mark.writers is None or mark.writers & seen.writers:
                return
            self._safe, self._mark = mark.newest, None


def look_sql(table: str, position: str, relations: list[int]) -> str:
    """One statement: its snapshot, which fixes the newest position, is older than the locks it reads."""
    return LOOK.format(position=position, table=table, locks=locks_sql(relations))


def holders_sql(relations: list[int]) -> str:
    return HOLDERS.format(locks=locks_sql(relations))


def locks_sql(relations: list[int]) -> str:
    return LOCKS.format(relations="'{" + ",".join(map(str, relations)) + "}'")


def described(row: tuple[Any, ...]) -> str:
    """A holder for people: ``pid 4711 (idle in transaction, shop)``."""
    pid, _, state, name = row
    if pid is None:
        return "a prepared transaction"
    more = ", ".join(text for text in (state, name) if text)
    return f"pid {pid} ({more})" if more else f"pid {pid}"
