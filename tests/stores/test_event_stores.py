"""One contract for all event stores, and what only some of them promise."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa
import pytest
from click.testing import CliRunner
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import eventsourcing_env
from postgres import execute as execute_postgres

from eventchain.cli import cli
from eventchain.config import Config
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConfigError, ConflictError, FormatError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.eventstores.sqlite_arrow import CHUNK
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN, id_for_people


def execute(path, *statements, parameters=()):
    """Play the administrator of an SQLite file: a connection of one's own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.execute(statements[-1], parameters).fetchall()


class Own:
    """One of the project's own stores, as the contract suite drives it."""

    table = "events"
    columns = ("stream", "version", "id", "type", "data")

    def produce(self, stream, count):
        """Append events to a stream; returns what is expected of each: stream, version, data."""
        versions = [r["version"] for r in self.writer.read(None, 1000).to_pylist() if r["stream"] == stream]
        version = max(versions, default=-1)
        new = [NewEvent(f"{stream}-{version + n + 1}", "tested", b"%d" % n) for n in range(count)]
        self.writer.append(stream, version, new)
        return [(stream, version + n + 1, event.data) for n, event in enumerate(new)]

    def close(self):
        self.writer.close()


class File:
    """What the stores in SQLite files share."""

    options = ""  # of the URL

    @staticmethod
    def blob(digits):
        return f"x'{digits}'"

    @staticmethod
    def text(value):
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"  # a literal can hold no NUL

    def execute(self, *statements):
        return execute(self.path, *statements)


class Database:
    """What the stores in PostgreSQL databases share."""

    @staticmethod
    def blob(digits):
        return f"'\\x{digits}'"

    @staticmethod
    def text(value):
        return f"'{value}'"

    def execute(self, *statements):
        return execute_postgres(self.server_url, *statements)


class Embedded(File, Own):
    def __init__(self, folder, postgres=None):
        self.path = folder / "events of 100% people.db"
        self.url = f"sqlite:///{str(self.path).replace('%', '%25')}"
        self.writer = open_event_store(self.url, create=True)


class PostgreSQL(Database, Own):
    def __init__(self, folder, postgres=None):
        self.url = self.server_url = postgres().new_database()
        self.writer = open_event_store(self.url, create=True)


class Mapped:
    """An application with a table of its own, and a mapping."""

    table = "log"
    columns = ("shop", "revision", "uid", "kind", "body")
    mapping = """
table = "log"
position = "number"
stream = "shop"
version = "revision"
id = "uid"
type = "kind"
data = "body"
metadata = ["note"]
"""

    def __init__(self, folder, key, integer, blob):
        self.made: dict[str, int] = {}
        (folder / "log.toml").write_text(self.mapping)
        self.execute(
            f"CREATE TABLE log (number {key}, shop text NOT NULL, revision {integer} NOT NULL, "
            f"uid text NOT NULL UNIQUE, kind text NOT NULL, body {blob}, note text, UNIQUE (shop, revision))"
        )

    def produce(self, stream, count):
        first = self.made.get(stream, 0)
        self.made[stream] = first + count
        rows = [(stream, n, b"%d" % n) for n in range(first, first + count)]
        for name, n, data in rows:
            values = (
                self.text(name),
                n,
                self.text(f"{name}-{n}"),
                "'tested'",
                self.blob(data.hex()),
                "'by hand'",
            )
            self.execute(
                "INSERT INTO log (shop, revision, uid, kind, body, note) "
                f"VALUES ({', '.join(map(str, values))})"
            )
        return rows

    def close(self):
        pass


class MappedFile(File, Mapped):
    def __init__(self, folder, postgres=None):
        self.path = folder / "application.db"
        self.options = f"?mapping={folder}/log.toml"
        self.url = f"table+sqlite:///{self.path}{self.options}"
        self.execute("PRAGMA journal_mode = WAL")
        super().__init__(folder, "INTEGER PRIMARY KEY", "INTEGER", "BLOB")


class MappedDatabase(Database, Mapped):
    def __init__(self, folder, postgres):
        self.server_url = postgres().new_database()
        self.url = f"table+{self.server_url}&mapping={folder}/log.toml"
        super().__init__(folder, "bigserial PRIMARY KEY", "integer", "bytea")


class Counter(Aggregate):
    @event("Started")
    def __init__(self, name):
        self.name, self.count = name, 0

    @event("Counted")
    def add(self, amount):
        self.count += amount

    @staticmethod
    def create_id(name):
        return uuid5(NAMESPACE_URL, name)


class Eventsourcing:
    """An application written with the `eventsourcing` library."""

    table = "stored_events"
    columns = ("originator_id", "originator_version", "topic", "state")

    def __init__(self, **env):
        self.application = Application(env=env)
        self.known: set[str] = set()

    def produce(self, stream, count):
        made = []
        for _ in range(count):
            if stream in self.known:
                aggregate = self.application.repository.get(Counter.create_id(stream))
                aggregate.add(1)
            else:
                aggregate = Counter(stream)
                self.known.add(stream)
            for recording in self.application.save(aggregate):
                stored = self.application.mapper.to_stored_event(recording.domain_event)
                made.append((self.text_of(stored.originator_id), stored.originator_version, stored.state))
        return made

    def close(self):
        self.application.close()


class EventsourcingFile(File, Eventsourcing):
    def __init__(self, folder, postgres=None):
        self.path = folder / "application.db"
        self.url = f"eventsourcing+sqlite:///{self.path}"
        super().__init__(PERSISTENCE_MODULE="eventsourcing.sqlite", SQLITE_DBNAME=str(self.path))

    @staticmethod
    def text_of(originator):
        return originator.hex


class EventsourcingDatabase(Database, Eventsourcing):
    table = "application_events"  # called after the application
    functions = "no"

    def __init__(self, folder, postgres):
        self.server_url = postgres().new_database()
        self.url = f"eventsourcing+{self.server_url}"
        super().__init__(POSTGRES_ENABLE_DB_FUNCTIONS=self.functions, **eventsourcing_env(self.server_url))

    @staticmethod
    def text_of(originator):
        return str(originator)


class EventsourcingFunctions(EventsourcingDatabase):
    functions = "yes"


FILES = {"sqlite": Embedded, "eventsourcing": EventsourcingFile, "table": MappedFile}
STORES = {
    **FILES,
    "postgresql": PostgreSQL,
    "eventsourcing-postgresql": EventsourcingDatabase,
    "eventsourcing-functions": EventsourcingFunctions,
    "table-postgresql": MappedDatabase,
}
OWN = {"sqlite": Embedded, "postgresql": PostgreSQL}


@contextmanager
def producing(request, folder):
    with closing(request.param(folder, lambda: request.getfixturevalue("postgres"))) as producer:
        yield producer


@pytest.fixture(params=STORES.values(), ids=STORES)
def made(request, tmp_path):
    """A store of any kind, and who writes to it."""
    with producing(request, tmp_path) as producer:
        yield producer


@pytest.fixture(params=FILES.values(), ids=FILES)
def file(request, tmp_path):
    """A store in an SQLite file."""
    with producing(request, tmp_path) as producer:
        yield producer


@pytest.fixture(params=OWN.values(), ids=OWN)
def own(request, tmp_path):
    """A store that is ours to write, opened."""
    with producing(request, tmp_path) as producer:
        producer.writer.execute = producer.execute
        yield producer.writer


@pytest.fixture
def store(made):
    made.produce("first", 1)
    with closing(open_event_store(made.url)) as opened:
        yield opened


@pytest.fixture
def file_store(file):
    file.produce("first", 1)
    with closing(open_event_store(file.url)) as opened:
        yield opened


@pytest.fixture
def embedded(tmp_path):
    with closing(open_event_store(f"sqlite:///{tmp_path}/events.db", create=True)) as opened:
        yield opened


def rows(batch):
    return [tuple(row.values()) for row in batch.to_pylist()]


# -- the contract -------------------------------------------------------------------------------------


def test_events_are_read_as_they_are(made, store):
    expected = made.produce("a", 3) + made.produce("b", 2) + made.produce("a", 1)
    batch = store.read(1, 100)
    assert batch.schema == EVENT_SCHEMA
    batch.validate(full=True)
    assert [(r[1], r[2], r[6]) for r in rows(batch)] == expected
    assert batch["position"].to_pylist() == [2, 3, 4, 5, 6, 7]
    assert store.head() == 7
    assert store.read(7, 10) == store.read(100, 10) == pa.RecordBatch.from_pylist([], EVENT_SCHEMA)
    assert store.read(2, 2) == batch.slice(1, 2)
    assert store.read(None, 0).num_rows == 0
    assert store.read(None, 7).num_rows == 7
    for row in range(6):
        assert store.find(batch["id"][row].as_py()) == batch.slice(row, 1)
    for missing in ("", "nobody", "nobody/1", "nobody/x", "/", "\ud800", "\ud800/1", "a/" + "9" * 30):
        assert store.find(missing).num_rows == 0
    assert store.url == made.url
    before, now, after = time.time(), store.now(), time.time()
    assert before - 1 <= now <= after


def test_an_empty_store(made):
    with closing(open_event_store(made.url)) as store:
        assert store.head() is None
        assert store.read(None, 10).num_rows == 0
        assert store.read(None, 10).schema == EVENT_SCHEMA


LONG = 120
"""Seconds that nothing here takes, unless nobody is told of anything."""
NOTIFY = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY "Events!"; RETURN NULL; END $$;
CREATE TRIGGER tells AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION tell()
"""


@pytest.mark.parametrize("seconds", [0, 0.1], ids=["before the wait", "during the wait"])
def test_a_wait_ends_when_something_is_appended(made, seconds):
    url = made.url
    if isinstance(made, EventsourcingDatabase | MappedDatabase):  # its application notifies nobody by itself
        made.execute(NOTIFY.format(table=made.table))
        url += "&notify=Events%21"
    with closing(open_event_store(url)) as store:
        assert store.told
        began = time.monotonic()
        for _ in range(4):
            head = store.head()
            writer = threading.Timer(seconds, made.produce, ("a", 1))
            writer.start()
            if not seconds:
                writer.join()
            while store.head() == head:
                store.wait(LONG)
            writer.join()
        assert time.monotonic() < began + LONG


def test_a_wait_for_nothing_ends_too(made, store):
    store.head()
    for _ in range(3):
        store.wait(0.01)
    assert store.head() == 1


def test_reading_sees_each_commit(made, store):
    for n in range(3):
        made.execute(f"UPDATE {made.table} SET {made.columns[-1]} = {made.blob(f'0{n}')}")
        assert rows(store.read(None, 1))[0][6] == bytes([n])


def test_reading_sees_each_commit_whoever_closes_what(file, file_store):
    """No stale snapshot: neither after another process wrote, nor when a last connection closed and took the
    write-ahead log with it."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    data = file.columns[-1]
    file.close()  # the writer's connections
    for n in range(3):
        statement = f"UPDATE {file.table} SET {data} = x'0{n}'"
        if n % 2:
            subprocess.run([sys.executable, "-c", script, file.path, statement], check=True)
        else:
            execute(file.path, statement)
        assert rows(file_store.read(None, 1))[0][6] == bytes([n])


def test_reading_while_another_process_writes(file, file_store):
    script = f"""
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
c.execute("DELETE FROM {file.table}")
print("deleted", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, file.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"deleted\n"
        assert file_store.read(None, 10).num_rows == 1  # not committed, and nobody waits
        assert process.stdin is not None
        process.stdin.close()
    assert file_store.read(None, 10).num_rows == 1


def test_a_file_put_in_its_place_is_noticed(file, file_store, tmp_path):
    before = file_store.read(None, 10)
    file.close()
    file_store.close()
    old = tmp_path / "old copy"
    shutil.copy(file.path, old)
    assert file_store.read(None, 10) == before
    execute(old, f"DELETE FROM {file.table}")
    os.replace(old, file.path)
    assert file_store.read(None, 10).num_rows == 0
    file.path.unlink()
    with pytest.raises(StoreError, match="no event store"):
        file_store.head()


def test_several_threads_read_one_store(made, store):
    expected = [(r[1], r[2]) for r in rows(store.read(None, 10))] + [e[:2] for e in made.produce("many", 50)]
    wrong: list[Any] = []

    def reading():
        for _ in range(20):
            found = [(r[1], r[2]) for r in rows(store.read(None, 100))]
            if found != expected or store.head() != 51:
                wrong.append(found)

    threads = [threading.Thread(target=reading) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_table_that_is_gone_or_lacks_columns(made, store):
    made.execute(f"ALTER TABLE {made.table} RENAME COLUMN {made.columns[-1]} TO other")
    with pytest.raises(StoreError):
        store.read(None, 10)
    made.execute(f"DROP TABLE {made.table}")
    for call in (lambda: store.read(None, 10), store.head, lambda: store.find("a/1")):
        with pytest.raises(StoreError) as caught:
            call()
        assert caught.value.hint
    with pytest.raises(StoreError):
        open_event_store(made.url)


def test_a_view_in_place_of_the_table(made, store):
    made.execute(
        f"ALTER TABLE {made.table} RENAME TO hidden",
        f"CREATE VIEW {made.table} AS SELECT * FROM hidden",
    )
    with pytest.raises((StoreError, ConfigError)):  # the adapter finds two tables, and asks which
        store.read(None, 10)


def test_files_that_are_no_store(file, tmp_path):
    scheme = file.url.partition(":")[0]
    missing = tmp_path / "none.db"
    with pytest.raises(StoreError, match="there is no event store") as caught:
        open_event_store(f"{scheme}:///{missing}{file.options}")
    assert str(missing) in caught.value.message
    assert ("eventchain init" in caught.value.hint) == (scheme == "sqlite")
    assert "backup" in caught.value.hint
    assert not missing.exists()
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(StoreError, match=r"no (event )?table"):
        open_event_store(f"{scheme}:///{empty}{file.options}")
    assert empty.stat().st_size == 0
    text = tmp_path / "text.db"
    text.write_text("this is no database, however long it gets\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_event_store(f"{scheme}:///{text}{file.options}")
    with pytest.raises(StoreError):
        open_event_store(f"{scheme}:///{tmp_path}{file.options}")
    wide = tmp_path / "wide.db"
    execute(wide, "PRAGMA encoding = 'UTF-16'", "CREATE TABLE events (a)")
    with pytest.raises(StoreError, match="UTF-16"):
        open_event_store(f"{scheme}:///{wide}{file.options}")


# -- rows that no table should hold -------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False).map(lambda value: value + 0.0),  # for SQLite -0.0 is 0.0
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
    st.binary(max_size=5).map(lambda raw: ("text", raw)),  # text of any bytes
    st.sampled_from(
        ["\ufdd0", "\x1f", "\0", "5", "", b"", ("text", b"\xff"), 5, 5.0, 0, -1, b"5", 2**62, 1e300]
    ),
)


KEYED = ("events", "log")
"""Tables whose rows are numbered by a column."""


@pytest.fixture(params=FILES.values(), ids=FILES, scope="module")
def loose(request, tmp_path_factory):
    """A store whose table was rebuilt without any type or constraint, as an administrator can."""
    with closing(request.param(tmp_path_factory.mktemp("loose"))) as producer:
        listed = execute(producer.path, f"SELECT name, pk FROM pragma_table_info('{producer.table}')")
        key = "".join(
            f"{name} INTEGER PRIMARY KEY, " for name, pk in listed if pk and producer.table in KEYED
        )
        names = [name for name, pk in listed if not (pk and producer.table in KEYED)]
        execute(
            producer.path,
            f"DROP TABLE {producer.table}",
            f"CREATE TABLE {producer.table} ({key}{', '.join(names)})",
        )
        producer.names = names
        with closing(open_event_store(producer.url)) as opened:
            producer.store = opened
            yield producer


def stored(value):
    """A value as SQLite keeps it: its class, and what tells it from others of the class."""
    return (
        ("text", value.encode())
        if isinstance(value, str)
        else value
        if isinstance(value, tuple)
        else (type(value).__name__, repr(value))
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_is_stored_is_read_and_no_two_rows_alike(loose, data):
    count = len(loose.names)
    row = st.lists(VALUES, min_size=count, max_size=count)
    some = data.draw(st.lists(row, min_size=1, max_size=6))
    # Neighbours: the same row with one value changed.
    at, value = data.draw(st.integers(0, count - 1)), data.draw(VALUES)
    some += [[*r[:at], value, *r[at + 1 :]] for r in some]
    marks = [["CAST(? AS TEXT)" if isinstance(v, tuple) else "?" for v in r] for r in some]
    with closing(sqlite3.connect(loose.path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(f"DELETE FROM {loose.table}")
        for r, m in zip(some, marks, strict=True):
            plain = [v[1] if isinstance(v, tuple) else v for v in r]
            connection.execute(
                f"INSERT INTO {loose.table} ({', '.join(loose.names)}) VALUES ({', '.join(m)})", plain
            )
        connection.execute("COMMIT")
    batch = loose.store.read(None, 100)
    batch.validate(full=True)
    read = [r[1:] for r in rows(batch)]
    assert len(read) == len(some)
    for i in range(len(some)):
        for j in range(i):
            assert (read[i] == read[j]) == ([*map(stored, some[i])] == [*map(stored, some[j])]), (
                some[i],
                some[j],
            )


def test_wrong_types_in_a_strict_table(embedded):
    """The schema may be edited under the table, and back."""
    embedded.append("s", -1, [NewEvent(f"e{n}", "t", b"data", b"meta", 5) for n in range(9)])
    before = rows(embedded.read(None, 10))
    path = embedded._path
    loosened = "UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'events'"
    execute(path, loosened)
    changes = {
        "stream": "CAST('s' AS BLOB)", "version": "0.5", "id": "CAST('e2' AS BLOB)", "type": "x'74'",
        "time": "'five'", "data": "'data'", "metadata": "'meta'",
    }  # fmt: skip
    for position, (column, value) in enumerate(changes.items(), 1):
        execute(path, f"UPDATE events SET {column} = {value} WHERE position = {position}")
    execute(path, "UPDATE events SET data = CAST(x'ff' AS TEXT) WHERE position = 8")
    execute(path, "UPDATE sqlite_schema SET sql = replace(sql, ')\n)', ')\n) STRICT') WHERE name = 'events'")
    after = rows(embedded.read(None, 10))
    assert len(after) == 9
    for old, new in zip(before[:8], after[:8], strict=True):
        assert old != new
        assert new[0] == old[0]
        assert new[3].startswith(IRREGULAR)
    assert after[8] == before[8]
    assert len({row[3] for row in after}) == 9
    named = [id_for_people(row[3]) for row in after]
    assert named[:2] == [("e0", ["stream"]), ("e1", ["version"])]
    assert named[2:4] == [("", ["id"]), ("e3", ["type"])]
    assert named[7:] == [("e7", ["data"]), ("e8", [])]


def test_text_that_is_not_utf8(embedded):
    embedded.append(
        "s", -1, [NewEvent("good", "t", b""), NewEvent("bad", "t", b""), NewEvent("bad?", "t", b"")]
    )
    execute(embedded._path, "UPDATE events SET id = CAST(x'626164ff' AS TEXT) WHERE position = 2")
    execute(embedded._path, "UPDATE events SET id = 'bad\\xff' WHERE position = 3")
    first, second, third = rows(embedded.read(None, 10))
    assert first[3] == "good"
    assert second[3].startswith(IRREGULAR)
    assert id_for_people(second[3]) == ("", ["id"])
    assert third[3] == "bad\\xff"


# -- the eventsourcing adapter ------------------------------------------------------------------------


def test_the_declaration_for_eventsourcing(tmp_path):
    with closing(EventsourcingFile(tmp_path)) as made:
        made.produce("a", 2)
        with closing(open_event_store(made.url)) as store:
            originator = uuid5(NAMESPACE_URL, "a").hex
            position, stream, version, id_, type_, time_, _, metadata = rows(store.read(1, 1))[0]
            assert (position, stream, version, id_) == (2, originator, 2, f"{originator}/2")
            assert type_.endswith("Counter.Counted")
            assert (time_, metadata) == (UNKNOWN, None)
            assert store.source == "eventsourcing-sqlite/1"
            assert not hasattr(store, "append")
            assert store.head() == made.application.recorder.max_notification_id()


def test_further_columns_are_covered(tmp_path):
    with closing(EventsourcingFile(tmp_path)) as made:
        made.produce("a", 5)
        execute(made.path, 'ALTER TABLE stored_events ADD COLUMN "it\'s" ', "ALTER TABLE stored_events ADD b")
        with closing(open_event_store(made.url)) as store:
            for n, value in enumerate(["1", "0.1", "'1'", "x'31'", "NULL"], 1):
                execute(made.path, f"UPDATE stored_events SET b = {value} WHERE rowid = {n}")
            assert store.read(None, 10)["metadata"].to_pylist() == [
                b'{"b":"%b","it\'s":"null:"}' % value
                for value in (b"integer:1", b"real:0.1", b"text:31", b"blob:31", b"null:")
            ]
            execute(made.path, "ALTER TABLE stored_events ADD COLUMN _rowid_")
            with pytest.raises(StoreError, match="_rowid_"):
                store.head()


def test_the_table_is_chosen(tmp_path):
    with closing(EventsourcingFile(tmp_path)) as made:
        made.produce("a", 1)
        made.application.factory.aggregate_recorder(purpose="snapshots")  # has no order: not a candidate
        with closing(open_event_store(made.url)) as store:
            assert store.head() == 1
            pinned = store.pinned_url
        assert pinned == made.url + "?table=stored_events"
        execute(made.path, 'CREATE TABLE "other events" AS SELECT * FROM stored_events WHERE 0')
        with pytest.raises(ConfigError, match="other events, stored_events") as caught:
            open_event_store(made.url)
        assert "?table=other%20events, ?table=stored_events" in caught.value.hint
        with closing(open_event_store(made.url + "?table=other%20events")) as store:
            assert store.head() is None
        with closing(open_event_store(pinned)) as store:
            assert store.head() == 1
            assert store.pinned_url == pinned
        with pytest.raises(StoreError, match="WITHOUT ROWID"):
            open_event_store(made.url + "?table=stored_snapshots")
        with pytest.raises(StoreError, match="no table none"):
            open_event_store(made.url + "?table=none")
        with pytest.raises(ConfigError, match="its own application"):
            open_event_store(made.url, create=True)


def test_init_writes_down_the_table_that_was_found(tmp_path):
    with closing(EventsourcingFile(tmp_path)) as made:
        made.produce("a", 1)
        config = tmp_path / "eventchain.toml"
        options = ["-C", str(config), "--difficulty", "1", "--backend", "reference", "--origin", "a"]
        url = f"eventsourcing+sqlite:///{made.path.name}"
        result = CliRunner().invoke(cli, ["init", *options, "--store", url])
        assert result.exit_code == 0, result.output
        assert f'store = "{url}?table=stored_events"' in config.read_text()
        execute(made.path, "CREATE TABLE later AS SELECT * FROM stored_events WHERE 0")
        with closing(open_event_store(Config.load(config).store)) as store:
            assert store.head() == 1


# -- the embedded store: appending --------------------------------------------------------------------


def test_append_and_conflict(own):
    assert own.append("s", -1, []) == []
    assert own.append("s", -1, [NewEvent("a", "t", b"1"), NewEvent("b", "t", None, b"m", -5)]) == [1, 2]
    assert own.append("s", None, [NewEvent("c", "t", b"")]) == [3]
    assert own.append("s", 2, []) == []
    assert rows(own.read(None, 10)) == [
        (1, "s", 0, "a", "t", UNKNOWN, b"1", None),
        (2, "s", 1, "b", "t", -5, None, b"m"),
        (3, "s", 2, "c", "t", UNKNOWN, b"", None),
    ]
    with pytest.raises(ConflictError, match="'s' is at version 2, not 1"):
        own.append("s", 1, [NewEvent("d", "t", b"")])
    with pytest.raises(ConflictError, match="'n' is at version -1, not 0"):
        own.append("n", 0, [NewEvent("d", "t", b"")])
    with pytest.raises(ConflictError, match=r"'a' exists already, in stream 's' at version 0; .* version 2"):
        own.append("s", 2, [NewEvent("d", "t", b""), NewEvent("a", "t", b"")])
    assert own.head() == 3
    for new in (
        NewEvent("\ufdd0", "t", b""),
        NewEvent("\ud800", "t", b""),
        NewEvent("x", "t", b"", time=2**63),
    ):
        with pytest.raises(FormatError):
            own.append("s", 2, [new])
    assert own.head() == 3


def test_a_position_is_never_given_twice(own):
    own.append("s", -1, [NewEvent("a", "t", b""), NewEvent("b", "t", b"")])
    own.execute("DELETE FROM events WHERE position = 2")
    assert own.append("s", 0, [NewEvent("b", "t", b"")]) == [3]


def test_a_position_of_0_or_below_is_read(embedded):
    embedded.append("s", -1, [NewEvent("a", "t", b"")])
    for position in (0, -7):
        execute(
            embedded._path, "INSERT INTO events VALUES (?, 'x', ?, ?, 't', 0, NULL, NULL)",
            parameters=(position, position, str(position)),
        )  # fmt: skip
    assert embedded.read(None, 10)["position"].to_pylist() == [-7, 0, 1]
    assert embedded.read(-1, 10)["position"].to_pylist() == [0, 1]


WRITER = """
import sys
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConflictError
from eventchain.eventstores import open_event_store
url, me = sys.argv[1:]
store = open_event_store(url)
version = conflicts = 0
print("ready", flush=True)
sys.stdin.readline()
version = -1
for n in range(250):
    while True:
        try:
            store.append("shared", version, [NewEvent(f"{me}-{n}", "counted", b"%d" % n)])
            version += 1
            break
        except ConflictError as conflict:
            version = int(str(conflict).split("is at version ")[1].split(",")[0])
            conflicts += 1
print(conflicts)
"""


def test_four_processes_append_and_nothing_is_lost(own):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, own.url, str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    seen = []
    while any(process.poll() is None for process in processes):  # what is once seen stays
        found = own.read(None, 2000)
        assert set(seen) <= set(found["position"].to_pylist())
        seen = found["position"].to_pylist()
        assert seen == sorted(set(seen))
    conflicts = sum(int(process.communicate()[0]) for process in processes)
    assert [process.returncode for process in processes] == [0] * 4
    found = own.read(None, 2000)
    assert found["version"].to_pylist() == list(range(1000))
    for n in range(4):
        mine = [i for i in found["id"].to_pylist() if i.startswith(f"{n}-")]
        assert mine == [f"{n}-{i}" for i in range(250)]
    assert conflicts > 0


# -- the embedded store: imports ----------------------------------------------------------------------


def batch_of(count, *, data=b"x", start=0):
    values = [
        {"position": 0, "stream": f"s{n % 7}", "version": n // 7, "id": f"e{n}", "type": "t", "time": n,
         "data": None if n % 5 == 0 else data * (n % 3), "metadata": b"" if n % 2 else None}
        for n in range(start, start + count)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(values, schema=EVENT_SCHEMA)


def test_batches_are_appended_and_read_in_any_size(own):
    count = 2 * CHUNK + 100
    whole = batch_of(count)
    assert own.append_batches([whole.slice(0, 10), whole.slice(10, 0), whole.slice(10)]) == count
    expected = pa.Table.from_batches([whole]).drop(["position"])
    for limit in (count, count + 1, 100_000):
        batch = own.read(None, limit)
        assert pa.Table.from_batches([batch]).drop(["position"]) == expected
        assert batch["position"].to_pylist() == list(range(1, count + 1))
    for limit in (1000, CHUNK, CHUNK + 1):
        batches, after = [], None
        while (batch := own.read(after, limit)).num_rows:
            assert batch.num_rows == limit or after is None or after + batch.num_rows == count
            batches.append(batch)
            after = batch["position"][-1].as_py()
        assert pa.Table.from_batches(batches).drop(["position"]) == expected


@pytest.mark.parametrize("kind", OWN)
@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.integers(-(2**63), 2**63 - 1), st.none() | st.binary(), st.none() | st.binary(),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_every_value_comes_back(tmp_path_factory, postgres, kind, values):
    if kind == "postgresql":  # whose text holds no NUL
        values = [(a.replace("\0", "0"), b.replace("\0", "0"), *more) for a, b, *more in values]
    folder = tmp_path_factory.mktemp("values")
    url = postgres.new_database() if kind == "postgresql" else f"sqlite:///{folder}/events.db"
    with closing(open_event_store(url, create=True)) as store:
        given_rows = [
            {"position": n, "stream": stream, "version": n, "id": f"{n}{type_}", "type": type_, "time": time_,
             "data": data, "metadata": metadata}
            for n, (stream, type_, time_, data, metadata) in enumerate(values, 1)
        ]  # fmt: skip
        batch = pa.RecordBatch.from_pylist(given_rows, schema=EVENT_SCHEMA)
        store.append_batches([batch])
        assert store.read(None, 10) == batch
        for n, row in enumerate(given_rows):
            assert store.find(row["id"]) == batch.slice(n, 1)


def test_an_import_is_all_or_nothing(own):
    own.append("s0", -1, [NewEvent("mine", "t", b"")])
    with pytest.raises(ConflictError, match="'s0' already has an event at version 0"):
        own.append_batches([batch_of(10, start=1), batch_of(20)])
    twice = [batch_of(9000, start=7), batch_of(1, start=5000)]
    with pytest.raises(ConflictError, match="event id 'e5000' exists already"):
        own.append_batches(twice)

    def failing():
        yield batch_of(10, start=7)
        raise FormatError("line 11 is broken")

    with pytest.raises(FormatError, match="line 11"):
        own.append_batches(failing())
    for wrong in (
        batch_of(3).drop_columns(["type"]),
        pa.RecordBatch.from_arrays(
            [pa.array(["x"]) if name != "data" else pa.array([b""]) for name in EVENT_SCHEMA.names],
            names=EVENT_SCHEMA.names,
        ),
        batch_of(1, start=9).set_column(3, "id", pa.array(["\ufdd0"])),
        batch_of(1, start=9).set_column(3, "id", pa.array([None], pa.string())),
        batch_of(1, start=9).set_column(3, "id", pa.array([b"\xff"]).view(pa.string())),
    ):
        with pytest.raises(FormatError):
            own.append_batches([wrong])
    assert own.head() == 1
    (position,) = own.append("s0", 0, [NewEvent("next", "t", b"")])
    assert position > 1


def test_a_store_may_be_copied_into_itself_in_reverse_terms(own, tmp_path):
    """Batches may come from a reader of the store that is being appended to."""
    own.append_batches([batch_of(50)])

    def renamed():
        after = None
        while (batch := own.read(after, 10)).num_rows and (after or 0) < 50:
            after = batch["position"][-1].as_py()
            yield batch.set_column(
                3, "id", pa.array([f"copy of {i}" for i in batch["id"].to_pylist()])
            ).set_column(1, "stream", pa.array([f"copy of {i}" for i in batch["stream"].to_pylist()]))

    assert own.append_batches(renamed()) == 50
    assert own.head() == 100


def test_large_events(own):
    own.append("s", -1, [NewEvent(str(n), "t", bytes([n]) * 3_000_000) for n in range(5)])
    batch = own.read(None, 10)
    assert [len(data) for data in batch["data"].to_pylist()] == [3_000_000] * 5


def test_a_chunk_beyond_the_limit_of_sqlite_is_read_in_smaller_ones(embedded):
    embedded.append("s", -1, [NewEvent(str(n), "t", b"%d" % n * 100) for n in range(50)])
    expected = embedded.read(None, 100)
    assert embedded._connection is not None
    embedded._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 3000)  # stands for 10⁹ bytes
    assert embedded.read(None, 100) == expected
    embedded._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 150)
    with pytest.raises(StoreError, match="too large"):
        embedded.read(None, 100)


def test_a_damaged_file_is_our_error(tmp_path):
    url = f"sqlite:///{tmp_path}/events.db"
    with closing(open_event_store(url, create=True)) as store:
        store.append_batches([batch_of(2000)])
    path = tmp_path / "events.db"
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = os.urandom(len(content) - 4096 * 3)
    path.write_bytes(content)
    with closing(open_event_store(url)) as store, pytest.raises(StoreError) as caught:
        store.read(None, 10_000)
    assert "damaged" in caught.value.hint


def test_columns_that_no_chain_covers(own):
    own.execute("ALTER TABLE events ADD COLUMN note TEXT")
    with pytest.raises(StoreError, match="note"):
        own.read(None, 10)


def test_a_key_that_is_not_the_row_number(tmp_path):
    path = tmp_path / "events.db"
    columns = ", ".join(EVENT_SCHEMA.names[1:])
    for key in ("position INTEGER PRIMARY KEY DESC", "position INT PRIMARY KEY", "position INTEGER"):
        execute(path, "DROP TABLE IF EXISTS events", f"CREATE TABLE events ({key}, {columns})")
        with pytest.raises(StoreError, match="PRIMARY KEY"):
            open_event_store(f"sqlite:///{path}")


# -- URLs ---------------------------------------------------------------------------------------------


def test_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    for url, file in {
        "sqlite:///plain.db": "plain.db",
        "sqlite:///a folder/x.db": "a folder/x.db",
        "sqlite:///a%20folder/y%3F%23%25.db": "a folder/y?#%.db",
        f"sqlite:///{tmp_path}/ä#b.db": "ä#b.db",
        "sqlite:///:memory:": ":memory:",  # a file like any other
    }.items():
        with closing(open_event_store(url, create=True)) as store:
            store.append("s", None, [NewEvent(url, "t", b"")])
            assert store.url == url
        assert Path(tmp_path / file).exists()
        with closing(open_event_store(url, create=True)) as store:  # kept as it is
            assert store.head() == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("events.db", "known"),
        ("", "known"),
        ("postgres://x/y", "eventsourcing\\+sqlite://, .*sqlite://"),
        ("sqlite://", "three slashes"),
        ("sqlite://host/x.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///x.db?mode=ro", "unknown option 'mode'"),
        ("sqlite:///x.db?mode", "options"),
        ("sqlite:///x%00.db", "NUL"),
        ("eventsourcing+sqlite:///x.db?tabel=a", "known: table"),
        ("postgresql:///db?tabel=a", "known: schema, table, notify, and libpq's own"),
        ("postgresql://host:port/db", "user@host:5432"),
    ],
)
def test_urls_that_are_wrong(url, says):
    with pytest.raises(ConfigError, match=says):
        open_event_store(url)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreError) as caught:
        open_event_store(f"sqlite:///{tmp_path}/no/events.db", create=True)
    assert caught.value.hint


def test_faults_are_of_indexes_only(file, file_store):
    """What stands in the rows is for ``read`` to give; an index that differs from them is a fault."""
    file.produce("a", 5)
    assert file_store.faults() == []
    index, column = "by_type", file.columns[-2]
    execute(file.path, f"CREATE INDEX {index} ON {file.table} ({column}) WHERE rowid < 3")
    assert file_store.faults() == []
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("PRAGMA writable_schema = ON")
        whole = "UPDATE sqlite_schema SET sql = replace(sql, ' WHERE rowid < 3', '') WHERE name = ?"
        db.execute(whole, (index,))
        db.commit()
    assert file_store.faults()[0] == f"row 3 missing from index {index}"


# -- indexes against rows


def checked(store, *, meanwhile=lambda: None):
    """What an index check says, and whether it needed SQLite's own."""
    thorough = []
    check = store.index_check()
    faults = check._thorough
    check._thorough = lambda: thorough.append(1) or faults()
    meanwhile()
    check.work()
    after = None
    while (batch := store.read(after, 3)).num_rows:
        check.show(batch)
        after = batch["position"][-1].as_py()
    return check.faults(), bool(thorough)


def index_of(made):
    """The index that came with the table, and an expression in place of each of its columns."""
    key = ", ".join(made.columns[:2])
    with closing(sqlite3.connect(made.path)) as db:
        for (name,) in db.execute("SELECT name FROM pragma_index_list(?)", (made.table,)).fetchall():
            found = db.execute("SELECT name FROM pragma_index_info(?)", (name,)).fetchall()
            if ", ".join(column for (column,) in found) == key:
                return name, key
    raise AssertionError(key)


def hang_under(made, key, change):
    """Put an index that was made over an edited copy of the table in the place of its own."""
    own, _ = index_of(made)
    with closing(sqlite3.connect(made.path)) as db:
        db.execute(f"CREATE TABLE copy AS SELECT rowid AS n, * FROM {made.table}")
        db.execute(f"CREATE TABLE edited AS SELECT * FROM {made.table} WHERE 0")
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(edited)")]
        db.execute(f"INSERT INTO edited (rowid, {', '.join(names)}) SELECT n, {', '.join(names)} FROM copy")
        db.execute("DROP TABLE copy")
        for statement in change:
            db.execute(statement)
        db.execute(f"CREATE INDEX forged ON edited ({key})")
        db.execute("PRAGMA writable_schema = ON")
        roots = dict(
            db.execute("SELECT name, rootpage FROM sqlite_schema WHERE name IN ('forged', ?)", (own,))
        )
        swap = "UPDATE sqlite_schema SET rootpage = ? WHERE name = ?"
        db.execute(swap, (roots["forged"], own))
        db.execute(swap, (roots[own], "forged"))
        db.commit()
    execute(made.path, "DROP TABLE edited")


def test_indexes_in_order_need_no_thorough_check(file, file_store):
    assert checked(file_store) == ([], False)
    file.produce("a", 5)
    file.produce("b\0c", 3)
    file.produce("b", 70)
    assert checked(file_store) == ([], False)
    assert checked(file_store, meanwhile=lambda: file.produce("a", 4)) == ([], False)
    execute(file.path, f"CREATE INDEX more ON {file.table} ({file.columns[-2]})")  # many alike
    assert checked(file_store) == ([], False)


@pytest.mark.parametrize(
    "index",
    ["({0}) WHERE {1} > 2", "(lower({0}))", "({0} DESC)", "({0} COLLATE NOCASE)", "({0}, {2})"],
    ids=["partial", "expression", "descending", "collation", "payload"],
)
def test_unusual_indexes_are_left_to_sqlite(file, file_store, index):
    file.produce("a", 5)
    text, number, payload = *file.columns[:2], file.columns[-1]
    execute(file.path, f"CREATE INDEX more ON {file.table} {index.format(text, number, payload)}")
    assert checked(file_store) == ([], True)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM edited WHERE rowid = 3",
        "UPDATE edited SET {0} = {0} + 100 WHERE rowid = 3",
        "INSERT INTO edited (rowid, {1}, {0}) VALUES (77, 'zz', 1)",
        "UPDATE edited SET rowid = 77 WHERE rowid = 3",
        "UPDATE edited SET {1} = CAST({1} AS BLOB) WHERE rowid = 3",
        "UPDATE edited SET {0} = NULL WHERE rowid = 3",
        "UPDATE edited SET {0} = CASE {0} WHEN 2 THEN 3 ELSE 2 END WHERE {0} IN (2, 3)",
    ],
    ids=["lacks one", "another version", "one more", "another row", "a blob", "a null", "exchanged"],
)
def test_an_index_that_was_put_in_the_place_of_another(file, file_store, change):
    file.produce("a", 6)
    file.produce("b", 6)
    own, key = index_of(file)
    stream, version = key.split(", ")
    hang_under(file, key, [change.format(version, stream)])
    faults, thorough = checked(file_store)
    assert thorough
    assert faults == file_store.faults() != []
    assert any(own in fault for fault in faults)


def test_an_index_out_of_order(file, file_store):
    """All entries are there, and looking one up goes astray: the order of two is changed in the file."""
    file.produce("a", 2)
    own, _ = index_of(file)
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (own,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with open(file.path, "r+b") as file:
        file.seek((root - 1) * size + 8)  # the cells' places, in order
        places = file.read(4)
        file.seek(-4, 1)
        file.write(places[2:] + places[:2])
    with closing(open_event_store(file_store.url)) as again:
        faults, thorough = checked(again)
        assert thorough
        assert faults == again.faults() != []


def test_a_row_that_was_not_shown(file, file_store):
    file.produce("a", 5)
    check = file_store.index_check()
    check.work()
    check.show(file_store.read(None, 4))
    found = []
    check._thorough = lambda: found.append(1) or []
    assert check.faults() == []
    assert found
