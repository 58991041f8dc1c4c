"""What only a chain store in PostgreSQL promises."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import psycopg
import pytest
from click.testing import CliRunner
from postgres import execute

from eventchain.chainstores import open_chain_store
from eventchain.cli import cli
from eventchain.contracts.chain_store import Tile
from eventchain.errors import ConfigError, LockedError, StoreError

WRITERS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'eventchain, pid %'"


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def store(url):
    with closing(open_chain_store(url, create=True)) as opened:
        yield opened


def wait_for_server(url):
    """It takes a moment to recover from a backend that was killed."""
    for _ in range(600):
        try:
            return execute(url, "SELECT 1")
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("the server did not come back")


def test_kill_9_of_the_backend_in_a_transaction_loses_nothing_that_was_committed(store, url):
    with store.writer(), store.transaction():
        store.add_branch("example.com")
        store.put_tiles(1, [Tile(0, 0, b"kept")])
    with pytest.raises(StoreError), store.writer(), store.transaction():  # noqa: PT012  (fails where it may)
        store.put_tiles(1, [Tile(0, 0, b"not kept"), Tile(0, 1, b"neither")])
        ((pid,),) = execute(url, WRITERS)
        os.kill(pid, signal.SIGKILL)
        store.put_tiles(1, [Tile(0, 2, b"neither")])
    wait_for_server(url)
    assert store.tiles(1, 0, 0, 9) == [Tile(0, 0, b"kept")]
    with store.writer(), store.transaction():
        store.put_tiles(1, [Tile(0, 1, b"later")])
    assert len(store.tiles(1, 0, 0, 9)) == 2


def test_who_lost_the_lock_cannot_write_on(store, url):
    """Its connection ends between two transactions, and another writer takes over."""
    with closing(open_chain_store(url)) as other:
        with pytest.raises(StoreError), store.writer():  # noqa: PT012  (the last of them)
            with store.transaction():
                store.add_branch("first")
            ((pid,),) = execute(url, WRITERS)
            execute(url, f"SELECT pg_terminate_backend({pid}, 5000)")
            with other.writer(), other.transaction():
                other.add_branch("second")
            with store.transaction():
                store.add_branch("third")
        assert [branch.origin for branch in other.branches()] == ["first", "second"]


def test_a_failed_write_is_not_passed_over(store):
    """PostgreSQL answers COMMIT after an error with a silent ROLLBACK."""
    with store.writer():
        with pytest.raises(StoreError, match="taken back"), store.transaction():  # noqa: PT012  (on leaving)
            store.add_branch("first")
            with pytest.raises(StoreError, match="exists already"):
                store.add_branch("first")
        assert store.branches() == []
        with store.transaction():
            store.add_branch("first")
    assert len(store.branches()) == 1


def test_locks_are_of_one_store(url, postgres):
    """Two chain stores in two schemas of a database have a writer each."""
    execute(url, "CREATE SCHEMA a", "CREATE SCHEMA b")
    with (
        closing(open_chain_store(f"{url}&schema=a", create=True)) as first,
        closing(open_chain_store(f"{url}&schema=b", create=True)) as second,
        closing(open_chain_store(f"{url}&schema=b")) as third,
        first.writer(),
        second.writer(),
        pytest.raises(LockedError, match=f"pid {os.getpid()} on "),
        third.writer(),
    ):
        pass


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("ALTER TABLE blocks SET UNLOGGED", "blocks"),
        ("CREATE INDEX more ON pieces (digest)", "index more"),
        ("CREATE RULE quiet AS ON UPDATE TO blocks DO INSTEAD NOTHING", "rule quiet"),
        ("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
         "CREATE TRIGGER quiet BEFORE INSERT ON tiles FOR EACH ROW EXECUTE FUNCTION f()", "trigger quiet"),
        ("ALTER TABLE tiles DROP CONSTRAINT tiles_pkey", "branch, level, tile"),
        ("ALTER TABLE pieces ALTER salts DROP NOT NULL", "salts"),
        ("DROP TABLE branches; CREATE VIEW branches AS SELECT 1 AS id, '' AS origin", "branches was altered"),
    ],
)  # fmt: skip
def test_an_edited_schema_is_named(store, url, damage, named):
    execute(url, damage)
    with pytest.raises(StoreError, match=named):
        open_chain_store(url)


def test_what_is_no_chain_store(url):
    with pytest.raises(StoreError, match="no chain store") as caught:
        open_chain_store(url)
    assert "eventchain init" in caught.value.hint
    with pytest.raises(StoreError, match="does not exist"):
        open_chain_store(url.replace("/test_", "/none_"))
    with pytest.raises(ConfigError, match="tabel"):
        open_chain_store(f"{url}&tabel=a")


@pytest.mark.parametrize("apart", [True, False], ids=["two databases", "one database"])
def test_both_stores_in_postgresql(url, postgres, tmp_path, monkeypatch, apart):
    monkeypatch.chdir(tmp_path)

    def run(*command, code=0):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == code, result.output
        return result.output

    chain = postgres.new_database() if apart else url
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    init = (
        "init",
        "--store",
        url,
        "--chain",
        chain,
        "--difficulty",
        "4",
        "--block-events",
        "8",
        "--origin",
        "a",
    )
    run(*init, "--backend", "nonesuch", code=2)
    assert execute(url, tables) == execute(chain, tables) == [(0,)]  # nothing is left behind
    run(*init, "--backend", "reference")
    (tmp_path / "eventchain.toml").rename("other.toml")
    assert "holds a chain already" in run(*init, "--backend", "reference", code=2)
    (tmp_path / "other.toml").rename("eventchain.toml")
    line = '{"specversion":"1.0","source":"/shop","id":"a%d","type":"t","subject":"s","data":%d}\n'
    (tmp_path / "orders.jsonl").write_text("".join(line % (n, n) for n in range(50)))
    run("import", "orders.jsonl")
    assert "sealed 50 events in 7 blocks" in run("mine")
    run("verify", "--anchor", "anchor.txt")
    run("verify", "--anchor", "anchor.txt")
    assert "through block 7" in run("status", "--rate", "1M")
    assert "a7" in run("show", "a7")
    execute(url, "UPDATE events SET data = '8' WHERE id = 'a7'")
    assert "altered" in run("verify", code=1)
    execute(chain, "UPDATE blocks SET header = set_byte(header, 4, get_byte(header, 4) # 1) WHERE height = 3")
    assert "block 3" in run("verify", code=1)
