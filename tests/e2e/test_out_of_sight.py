"""What an administrator may try to keep out of verify's sight, though the application sees it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import Chain, new_chain

from eventchain.chain import build
from eventchain.errors import ConfigError
from eventchain.eventstores import open_event_store
from eventchain.formats.leaf import MAX_ENTRY, leaf_hashes


@pytest.mark.parametrize("stream", ["account-3", "s" * MAX_ENTRY], ids=["event", "too long for an entry"])
def test_a_leaf_that_no_event_can_have(stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miner who commits to a leaf of zeros could put any event there afterwards: zero is how verify marks
    a leaf that it cannot read, and an event that is too long for one."""

    def forged(batch: Any, salts: Any) -> Any:
        hashes = np.array(leaf_hashes(batch, salts))
        hashes[3] = 0
        return hashes

    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 20)
        monkeypatch.setattr(build, "leaf_hashes", forged)
        work.sealer.seal_backlog(20)
    chain.sql(chain.events_file, "UPDATE events SET stream = ? WHERE position = 4", parameters=(stream,))
    (finding,) = chain.verify().wrong
    assert (finding.kind, finding.height, finding.position) == ("altered", 1, 4)


def test_many_events_inserted_are_named_quickly_and_by_block(tmp_path: Path) -> None:
    """One finding, and the block in whose range they stand."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 200)
        chain.sql(chain.events_file, "UPDATE events SET position = position + 100000 WHERE position > 100")
        work.sealer.seal_backlog(20)
    with closing(sqlite3.connect(chain.events_file)) as db:
        db.executemany(
            "INSERT INTO events SELECT ?, 'x', ?, ?, 't', 0, NULL, NULL",
            [(position, position, f"x{position}") for position in range(1000, 60_000)],
        )
        db.commit()
    (finding,) = chain.verify().wrong
    assert (finding.kind, finding.height, finding.count) == ("inserted", 6, 59_000)


EVENTS = "(originator_id TEXT, originator_version INTEGER, topic TEXT, state BLOB, PRIMARY KEY ({key}))"
EVENTS = EVENTS.format(key="originator_id, originator_version")


@pytest.mark.parametrize(
    "other",
    [
        "VIEW stored_events AS SELECT originator_id AS Originator_ID, originator_version, topic, state "
        "FROM kept",
        f"TABLE stored_events {EVENTS} WITHOUT ROWID",
        f"TABLE stored_events {EVENTS.replace('state BLOB', 'edited BLOB, state BLOB AS (edited)')}",
    ],
    ids=["capitals", "no row ids", "generated"],
)
def test_a_table_put_in_the_place_of_the_sealed_one(other: str, tmp_path: Path) -> None:
    """The sealed table is kept as it was under another name; the application reads what is called as ever."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE stored_events {EVENTS}")
        db.execute("INSERT INTO stored_events VALUES ('a', 1, 't', x'31')")
        db.commit()
    with closing(open_event_store(f"eventsourcing+sqlite:///{path}")) as store:
        assert store.head() == 1
        with closing(sqlite3.connect(path)) as db:
            db.execute("ALTER TABLE stored_events RENAME TO kept")
            db.execute(f"CREATE {other}")
        with pytest.raises(ConfigError, match="several event tables: kept, stored_events"):
            store.read(None, 1)


def test_an_index_that_gives_other_events_than_the_table(tmp_path: Path) -> None:
    """Plain SQL is enough: an index made on an edited copy is hung under the table of the events. The rows
    stay as they were sealed, and a query that the index covers never sees them."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 100)
        work.sealer.seal_backlog(20)
    columns = "stream, version, position, id, type, time, data, metadata"
    with closing(sqlite3.connect(chain.events_file)) as db:
        (create,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'events'").fetchone()
        db.execute(create.replace("TABLE events", "TABLE edited"))
        db.execute("INSERT INTO edited SELECT * FROM events")
        db.execute("UPDATE edited SET data = x'39' WHERE position = 25")
        db.execute(f"CREATE INDEX forged ON edited ({columns})")
        db.execute("PRAGMA writable_schema = ON")
        forged = f"CREATE INDEX forged ON events ({columns})"
        db.execute("UPDATE sqlite_schema SET tbl_name = 'events', sql = ? WHERE name = 'forged'", (forged,))
        db.commit()
    chain.sql(chain.events_file, "DROP TABLE edited")
    with closing(sqlite3.connect(chain.events_file)) as db:
        assert db.execute("SELECT data FROM events WHERE position = 25").fetchone() == (b'{"amount":240}',)
        seen = dict(
            db.execute("SELECT position, data FROM events WHERE stream = 'account-3' ORDER BY version")
        )
    assert seen[25] == b"9"
    (finding,) = chain.verify().wrong
    assert finding.kind == "index"
    assert "missing from index forged" in finding.message


def test_an_index_that_still_holds_what_was_sealed(tmp_path: Path) -> None:
    """The other way round: the rows are edited, and forged statistics make an index that still holds the
    sealed events look like the cheapest way to read them all."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 100)
        work.sealer.seal_backlog(20)
    columns = "position, stream, version, id, type, time, data, metadata"
    with closing(sqlite3.connect(chain.events_file)) as db:
        db.execute(f"CREATE INDEX kept ON events ({columns})")
        db.execute("ANALYZE")
        db.execute("DELETE FROM sqlite_stat1")
        db.execute("INSERT INTO sqlite_stat1 VALUES ('events', 'kept', '5000 1 1 1 1 1 1 1 1 sz=1')")
        db.execute("INSERT INTO sqlite_stat1 VALUES ('events', NULL, '5000 sz=100000')")
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'kept'").fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_schema WHERE name = 'kept'")  # so that the edit passes it by
        db.commit()
    edit = "UPDATE events SET data = x'39' WHERE position = 25"
    chain.sql(chain.events_file, edit)
    with closing(sqlite3.connect(chain.events_file)) as db:
        db.execute("PRAGMA writable_schema = ON")
        kept = f"CREATE INDEX kept ON events ({columns})"
        db.execute("INSERT INTO sqlite_schema VALUES ('index', 'kept', 'events', ?, ?)", (root, kept))
        db.commit()
    with closing(sqlite3.connect(chain.events_file)) as db:
        trap = f"SELECT {columns} FROM events WHERE position > 0 ORDER BY position"
        assert {row[0]: row[6] for row in db.execute(trap)}[25] == b'{"amount":240}'
    found = {(finding.kind, finding.position) for finding in chain.verify().wrong}
    assert found == {("altered", 25), ("index", None)}


def test_events_put_beside_the_trunk(grown: Chain, tmp_path: Path) -> None:
    """The chain store keeps the events of child branches; nothing ever reads any for the trunk."""
    chain = grown.copy(tmp_path / "copy")
    chain.sql(chain.chain_file, "INSERT INTO branch_events VALUES (1, 7, 's', 0, 'i', 't', 0, NULL, NULL)")
    assert [(finding.kind, finding.count) for finding in chain.verify().wrong] == [("stray", 1)]
