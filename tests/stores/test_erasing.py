"""What stores do for an erasure: ours destroy payloads so that no file holds them, others say what to run."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from chains import Clock, begin, checked, seal, sealing
from eventchain_reference import open_backend
from nats_server import NatsServer
from oracle import check_chain
from postgres import Server, connected, execute

from eventchain.chain.feed import sealed_events
from eventchain.chainstores import open_chain_store
from eventchain.contracts.event_store import NewEvent
from eventchain.erasure.erase import Outcome, complete, record
from eventchain.erasure.plan import plan_erasure
from eventchain.erasure.remove import Remover, as_sealed, finish, plan_removal, purge
from eventchain.errors import StoreError
from eventchain.eventstores import open_event_store
from eventchain.mining.engine import Engine

ORIGIN = "example.com/orders"


def secret(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).hexdigest().encode()


def erase(chain: Any, events: Any, clock: Clock, *positions: int) -> Outcome:
    plan = plan_erasure(chain, events, np.array(positions))
    with sealing(chain, events, clock) as sealer:
        record(sealer, plan, "a request", "dpo", 48)
    with chain.writer():
        return complete(chain, events)


# -- our own


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Of an event store and a chain store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db", f"sqlite:///{tmp_path}/chain.db"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database(), server.new_database()


def test_payloads_are_destroyed_and_rows_stay(urls: tuple[str, str]) -> None:
    with closing(open_event_store(urls[0], create=True)) as events:
        events.append("s", -1, [NewEvent(f"e{n}", "t", secret(n), b"{}", 7) for n in range(9)])
        before = events.read(None, 100).to_pylist()
        for _ in range(2):
            events.erase(np.array([2, 5, 6, 99]))
            bare = {"data": None, "metadata": None}
            expected = [row | (bare if row["position"] in (2, 5, 6) else {}) for row in before]
            assert events.read(None, 100).to_pylist() == expected
        assert events.append("s", 8, [NewEvent("e9", "t", b"")]) == [10]
        events.erase(np.empty(0, np.int64))
        assert events.head() == 10
        assert events.find("e4").to_pylist()[0]["data"] is None
        check = events.index_check()
        check.work()
        check.show(events.read(None, 100))
        assert check.faults() == []


def test_events_that_are_removed_are_gone_and_their_positions_are_not_given_again(
    urls: tuple[str, str],
) -> None:
    with closing(open_event_store(urls[0], create=True)) as events:
        events.append("s", -1, [NewEvent(f"e{n}", "t", secret(n), b"{}", 7) for n in range(9)])
        before = events.read(None, 100).to_pylist()
        for _ in range(2):
            events.remove(np.array([2, 5, 6, 9, 99]))
            expected = [row for row in before if row["position"] not in (2, 5, 6, 9)]
            assert events.read(None, 100).to_pylist() == expected
        assert events.head() in (8, 9)
        assert events.append("s", 7, [NewEvent("e9", "t", b"")]) == [10]
        assert events.find("e4").num_rows == 0
        check = events.index_check()
        check.work()
        check.show(events.read(None, 100))
        assert check.faults() == []


def remove(chain: Any, events: Any, clock: Clock, *positions: int) -> Any:
    """How many events were deleted, and those that wait for their administrator."""
    with chain.writer(), Engine(open_backend().devices, clock=clock) as engine:
        remover = Remover(chain, events, engine, clock)
        remover.record(plan_removal(chain, events, np.array(positions)), "a request", "dpo", 48)
        remover.rebuild()
        return finish(chain, events)


def payload(number: int) -> bytes:
    """Every other one too long for a row, and not to be compressed; the rest short enough for statistics."""
    return b"".join(secret(number + at) for at in range(0, 90_000, 1000)) if number % 2 else secret(number)


def test_no_byte_of_payload_or_salt_is_left_in_postgresql_files(postgres: Server) -> None:
    store, chain_url, clock = postgres.new_database(), postgres.new_database(), Clock()
    with (
        closing(open_event_store(store, create=True)) as events,
        closing(open_chain_store(chain_url, create=True)) as chain,
    ):
        for first in range(0, 300, 100):
            rows = [NewEvent(f"e{n}", "t", payload(1000 + n)) for n in range(first, first + 100)]
            events.append(f"s{first}", -1, rows)
            (seal if first else begin)(chain, events, clock)
            execute(store, "ANALYZE")
            execute(chain_url, "ANALYZE")
        erased = [1, 2, 77, 100, 256, 257, 300]
        wanted = {}
        for position in erased:
            (row,) = events.read(position - 1, 1).to_pylist()
            wanted[f"data of {position}"] = row["data"][:64]
            salts = chain.pieces(1, (position - 1) // 256, 1)[0].salts
            wanted[f"salt of {position}"] = salts[16 * ((position - 1) % 256) :][:16]
        assert len(postgres.holding(wanted)) >= len(wanted)
        assert erase(chain, events, clock, *erased).erased.tolist() == erased
        assert postgres.holding(wanted) == []
        check_chain(chain, events, now=clock() + 7200)
        report = checked(chain, events)
        assert (report.wrong, report.erased) == ([], len(erased))


def test_no_byte_of_removed_events_is_left_in_postgresql_files(postgres: Server) -> None:
    store, chain_url, clock = postgres.new_database(), postgres.new_database(), Clock()
    with (
        closing(open_event_store(store, create=True)) as events,
        closing(open_chain_store(chain_url, create=True)) as chain,
    ):
        events.append("s", -1, [NewEvent(f"e{n}", "t", payload(2000 + n)) for n in range(300)])
        begin(chain, events, clock)
        for url in (store, chain_url):
            execute(url, "ANALYZE")
        wanted, leaves = {}, {}
        for position in (1, 77, 256, 300):
            (row,) = events.read(position - 1, 1).to_pylist()
            wanted[f"data of {position}"] = row["data"][:64]
            at, place = divmod(position - 1, 256)
            wanted[f"salt of {position}"] = chain.pieces(1, at, 1)[0].salts[16 * place :][:16]
            leaves[f"leaf of {position}"] = chain.tiles(1, 0, at, 1)[0].hashes[32 * place :][:32]
        assert remove(chain, events, clock, 1, 77, 256, 300)[0] == 4
        assert postgres.holding(wanted) == []
        assert postgres.holding(leaves)
        check_chain(chain, events, now=clock() + 7200)
        report = checked(chain, events)
        assert report.wrong == []
        with chain.writer():
            purge(chain, report.newest)
        assert postgres.holding(wanted | leaves) == []
        assert checked(chain, events).wrong == []


def test_statistics_that_were_taken_are_dropped(postgres: Server) -> None:
    """A table from before statistics of payloads were ruled out."""
    url = postgres.new_database()
    with closing(open_event_store(url, create=True)) as events:
        events.append("s", -1, [NewEvent(f"e{n}", "t", secret(-n)) for n in range(50)])
        execute(url, "ALTER TABLE events ALTER data SET STATISTICS 100", "ANALYZE events")
        wanted = {"data": secret(-7)}
        assert len(postgres.holding(wanted)) >= 2
        events.erase(np.array([8]))
        assert postgres.holding(wanted) == []
        execute(url, "ANALYZE events")
        assert execute(url, "SELECT attname FROM pg_stats WHERE attname = 'data'") == []


def test_an_open_transaction_is_in_the_way(postgres: Server) -> None:
    url = postgres.new_database()
    with closing(open_event_store(url, create=True)) as events:
        events.append("s", -1, [NewEvent(f"e{n}", "t", secret(-100 - n)) for n in range(5)])
        with connected(url) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            with pytest.raises(StoreError, match="an open transaction still sees"):
                events.erase(np.array([3]))
            other.execute("COMMIT")
        events.erase(np.array([3]))
        assert postgres.holding({"data": secret(-102)}) == []


def test_a_role_that_may_not_rewrite_is_told_so(postgres: Server) -> None:
    url = postgres.new_database()
    open_event_store(url, create=True).close()
    name = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
    postgres.execute("CREATE ROLE clerk LOGIN")
    postgres.execute("GRANT SELECT, UPDATE, INSERT ON events TO clerk", url=url)
    with closing(open_event_store(postgres.url(name, user="clerk"))) as events:
        events.append("s", -1, [NewEvent("e", "t", b"x")])
        with pytest.raises(StoreError, match="was not rewritten") as refused:
            events.erase(np.array([1]))
        assert "owner" in refused.value.hint


def test_scrubbing_belongs_to_the_writer(urls: tuple[str, str]) -> None:
    with closing(open_chain_store(urls[1], create=True)) as chain:
        with pytest.raises(RuntimeError):
            chain.scrub()
        with chain.writer():
            chain.scrub()
            with chain.transaction(), pytest.raises(RuntimeError):
                chain.scrub()


# -- other applications'


def eventsourcing_file(path: Path, more: str = "") -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, "
            f"state BLOB{more}, PRIMARY KEY (originator_id, originator_version))"
        )
        add = "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        for n in range(100):
            db.execute(f"{add} VALUES (?, ?, ?, ?)", (f"{n % 5:032x}", n // 5, "app:Happened", secret(n)))
        db.commit()


@pytest.mark.parametrize("more", ["", ", note TEXT DEFAULT 'x'"])
def test_an_eventsourcing_file(tmp_path: Path, more: str) -> None:
    eventsourcing_file(tmp_path / "app.db", more)
    clock = Clock()
    with (
        closing(open_event_store(f"eventsourcing+sqlite:///{tmp_path}/app.db")) as events,
        closing(open_chain_store(f"sqlite:///{tmp_path}/chain.db", create=True)) as chain,
    ):
        begin(chain, events, clock)
        outcome = erase(chain, events, clock, 8, 9, 10, 50, 100)
        assert outcome.waiting.tolist() == [8, 9, 10, 50, 100]
        assert not len(outcome.erased)
        assert {f.kind for f in checked(chain, events).wrong} == {"unerased"}
        sql = events.how_to_erase([(8, 10), (50, 50), (100, 100)])
        with closing(sqlite3.connect(tmp_path / "app.db")) as db:
            db.executescript(sql)
            db.commit()
        with chain.writer():
            assert not len(complete(chain, events).waiting)
        report = checked(chain, events)
        assert (report.wrong, report.erased) == ([], 5)
        rows = [row for batch in sealed_events(chain, events) for row in batch.to_pylist()]
        assert len(rows) == (95 if more else 100)
        assert sum(row["data"] is None for row in rows) == (0 if more else 5)
        seal(chain, events, clock)  # though the last event's row may be gone
        assert all(secret(n) not in (tmp_path / "app.db").read_bytes() for n in (7, 8, 9, 49, 99))


def test_events_removed_from_the_log_of_an_eventsourcing_file(tmp_path: Path) -> None:
    eventsourcing_file(tmp_path / "app.db")
    clock = Clock()
    with (
        closing(open_event_store(f"eventsourcing+sqlite:///{tmp_path}/app.db")) as events,
        closing(open_chain_store(f"sqlite:///{tmp_path}/chain.db", create=True)) as chain,
    ):
        begin(chain, events, clock)
        deleted, waiting = remove(chain, events, clock, 8, 9, 50, 100)
        assert (deleted, waiting.tolist()) == (0, [8, 9, 50, 100])
        assert [(f.kind, f.count) for f in checked(chain, events).wrong] == [("unerased", 4)]
        with sealing(chain, as_sealed(chain, events), clock) as sealer:  # they are not sealed again
            sealer.seal_backlog(48)
        assert [(f.kind, f.count) for f in checked(chain, events).wrong] == [("unerased", 4)]
        assert as_sealed(chain, events).read(7, 3)["position"].to_pylist() == [10, 11, 12]
        with closing(sqlite3.connect(tmp_path / "app.db")) as db:
            db.executescript(events.how_to_erase([(8, 9), (50, 50), (100, 100)], rows=True))
            db.commit()
        with chain.writer():
            assert not len(finish(chain, events)[1])
        assert checked(chain, events).wrong == []
        check_chain(chain, events, now=clock() + 7200)
        rows = [row for batch in sealed_events(chain, events) for row in batch.to_pylist()]
        assert len(rows) == 96
        assert all(secret(n) not in (tmp_path / "app.db").read_bytes() for n in (7, 8, 49, 99))


def test_a_stream_of_nats(nats_server: NatsServer, tmp_path: Path) -> None:
    async def publish() -> None:
        import nats

        connection = await nats.connect(nats_server.url)
        js = connection.jetstream()
        await js.add_stream(name="ORDERS", subjects=["orders.*"])
        for n in range(30):
            await js.publish(f"orders.{n % 3}", secret(n))
        await connection.close()

    async def remove(sequences: list[int]) -> None:
        import nats

        connection = await nats.connect(nats_server.url)
        for sequence in sequences:
            await connection.jetstream().delete_msg("ORDERS", sequence)
        await connection.close()

    asyncio.run(publish())
    clock = Clock()
    with (
        closing(open_event_store(f"{nats_server.url}/ORDERS")) as events,
        closing(open_chain_store(f"sqlite:///{tmp_path}/chain.db", create=True)) as chain,
    ):
        begin(chain, events, clock)
        assert erase(chain, events, clock, 5, 6, 30).waiting.tolist() == [5, 6, 30]
        told = events.how_to_erase([(5, 6), (30, 30)]).splitlines()
        assert told == [f"nats stream rmm ORDERS {n} --force" for n in (5, 6, 30)]
        asyncio.run(remove([5, 6, 30]))
        with chain.writer():
            assert not len(complete(chain, events).waiting)
        report = checked(chain, events)
        assert (report.wrong, report.erased) == ([], 3)
        asyncio.run(remove([7]))  # and one without a record
        assert [(f.kind, f.position) for f in checked(chain, events).wrong] == [("missing", 7)]


@pytest.mark.parametrize(
    ("kind", "schema", "expected"),
    [
        (
            "message-db+postgresql",
            "CREATE SCHEMA message_store; CREATE TABLE message_store.messages (id uuid NOT NULL, "
            "stream_name text NOT NULL, type text NOT NULL, position bigint NOT NULL, "
            "global_position bigint PRIMARY KEY, data jsonb, metadata jsonb, "
            "time timestamp without time zone NOT NULL)",
            "data = NULL, metadata = NULL",
        ),
        (
            "eventsourcing+postgresql",
            "CREATE TABLE stored_events (originator_id uuid NOT NULL, originator_version bigint NOT NULL, "
            "topic text, state bytea, notification_id bigint PRIMARY KEY)",
            "state = NULL",
        ),
    ],
)
def test_tables_of_postgresql(postgres: Server, kind: str, schema: str, expected: str) -> None:
    url = postgres.new_database()
    postgres.execute(schema, url=url)
    with closing(open_event_store(f"{kind}{url.removeprefix('postgresql')}")) as events:
        sql = events.how_to_erase([(3, 4), (7, 7), (9, 9)])
    assert expected in sql
    for statement in sql.split(";\n"):
        postgres.execute(statement, url=url)
