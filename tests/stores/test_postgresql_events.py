"""What only the event stores in PostgreSQL promise: the fence, passwords kept to themselves, the catalogs."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from gaps import everything, watch
from postgres import connected, execute

from eventchain.cli import cli
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConfigError, FormatError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.eventstores.postgresql import NOTIFY_SECONDS
from eventchain.eventstores.postgresql_arrow import ROWS
from eventchain.eventstores.postgresql_fence import Fence, Look
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN, id_for_people
from eventchain.urls import without_password

INSERT = "INSERT INTO events (stream, version, id, type, time) VALUES ('s', {0}, 'e{0}', 't', 0)"


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def store(url):
    with closing(open_event_store(url, create=True)) as opened:
        yield opened


@contextmanager
def writer(url):
    """A writer of one's own, inside a transaction; it commits on leaving."""
    with connected(url) as connection, connection.transaction():
        yield connection


def ids(batch):
    return batch["id"].to_pylist()


# -- waiting ------------------------------------------------------------------------------------------


def test_who_waits_hears_again_after_the_connection_was_lost(store, url):
    with closing(open_event_store(url)) as follower:
        for number in range(3):
            execute(
                url,
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'",
            )
            store.append("s", None, [NewEvent(f"e{number}", "t", b"")])
            while follower.head() != number + 1:
                follower.wait(60)
            follower.wait(0)


def test_appends_notify_few_times_and_only_where_a_channel_is_left(url):
    with closing(open_event_store(url, create=True)) as store, connected(url) as listener:
        listener.execute("LISTEN eventchain_events")
        began = time.monotonic()
        for number in range(50):
            store.append("s", None, [NewEvent(f"e{number}", "t", b"")])
        most = 1 + (time.monotonic() - began) / NOTIFY_SECONDS
        assert 1 <= heard(url, listener) <= most
        with closing(open_event_store(f"{url}&notify=")) as silent:
            silent.append("s", None, [NewEvent("last", "t", b"")])
            assert not silent.told
        assert heard(url, listener) == 0


def heard(url, listener):
    """How many notices have come by now: all that come before one of our own."""
    execute(url, "NOTIFY eventchain_events, 'ours'")
    for number, notice in enumerate(listener.notifies(timeout=60)):
        if notice.payload == "ours":
            return number
    raise AssertionError("nothing comes")


# -- the fence ----------------------------------------------------------------------------------------


def test_a_lower_position_that_commits_later_is_awaited(store, url):
    store.append("a", -1, [NewEvent("first", "t", b"")])
    assert store.head() == 1
    with writer(url) as lower:
        lower.execute(INSERT.format(0))
        store.append("a", 0, [NewEvent("third", "t", b"")])
        assert store.read(None, 10)["position"].to_pylist() == [1, 3]
        assert store.head() == 1
    assert store.head() == 3
    assert ids(store.read(1, 10)) == ["e0", "third"]


def test_transaction_numbers_do_not_tell(store, url):
    """Position 2 is visible and no transaction below pg_snapshot_xmax is open: it looks safe and is not.
    Nothing but the locks shows the writer of position 1."""
    with ExitStack() as stack:
        older, younger = (stack.enter_context(connected(url)) for _ in range(2))
        older.execute("BEGIN")
        older.execute("SELECT pg_current_xact_id()")
        younger.execute("BEGIN")
        younger.execute(INSERT.format(0))
        older.execute(INSERT.format(1))
        older.execute("COMMIT")
        snapshot = "pg_snapshot_xmin(pg_current_snapshot()) >= pg_snapshot_xmax(pg_current_snapshot())"
        assert execute(url, f"SELECT max(position), {snapshot} FROM events") == [(2, True)]
        assert store.read(None, 10)["position"].to_pylist() == [2]
        assert store.head() is None
        younger.execute("COMMIT")
        assert store.head() == 2
        assert store.read(None, 10)["position"].to_pylist() == [1, 2]


def test_a_writer_that_has_no_transaction_number_yet_is_awaited(store, url):
    """It has drawn its position, and waits in a trigger before it writes anything."""
    execute(
        url,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.version = 0 THEN PERFORM pg_advisory_lock(1); PERFORM pg_advisory_unlock(1); END IF; "
        "RETURN NEW; END $$",
        "CREATE TRIGGER waits BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    with connected(url) as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        slow = threading.Thread(target=execute, args=(url, INSERT.format(0)))
        slow.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while execute(url, waiting) != [(1,)]:
            time.sleep(0.01)
        execute(url, INSERT.format(1))
        assert store.read(None, 10)["position"].to_pylist() == [2]
        assert store.head() is None
        holder.execute("SELECT pg_advisory_unlock(1)")
        slow.join()
    assert store.head() == 2


def test_a_position_drawn_by_hand_is_awaited(store, url):
    """As some applications do it: the number first, the row later in the same transaction."""
    execute(url, "ALTER TABLE events ALTER position SET GENERATED BY DEFAULT")
    with writer(url) as other:
        drawn = other.execute("SELECT nextval('events_position_seq')").fetchone()
        assert drawn == (1,)
        store.append("a", -1, [NewEvent("second", "t", b"")])
        assert store.head() is None
        other.execute("INSERT INTO events VALUES (1, 's', 0, 'e0', 't', 0)")
    assert store.head() == 2


def test_a_prepared_transaction_is_awaited(store, url):
    with connected(url) as other:
        other.execute("BEGIN")
        other.execute(INSERT.format(0))
        other.execute("PREPARE TRANSACTION 'later'")
    store.append("a", -1, [NewEvent("second", "t", b"")])
    assert store.head() is None
    assert store.fence().holders == ("a prepared transaction",)
    execute(url, "COMMIT PREPARED 'later'")
    assert store.head() == 2


def test_what_does_not_write_events_holds_nothing_up(store, url):
    store.append("a", -1, [NewEvent("first", "t", b"")])
    with connected(url) as reader, writer(url) as other:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT * FROM events")
        other.execute("CREATE TABLE unrelated (a serial)")
        other.execute("INSERT INTO unrelated DEFAULT VALUES")
        store.append("a", 0, [NewEvent("second", "t", b"")])
        assert store.head() == 2
        assert store.fence() is None


def test_what_holds_the_head_back_is_told(store, url):
    store.append("a", -1, [NewEvent("first", "t", b"")])
    assert store.head() == 1
    assert store.fence() is None
    with writer(f"{url}&application_name=shop") as other:
        other.execute(INSERT.format(0))
        store.append("a", 0, [NewEvent("third", "t", b"")])
        assert store.head() == 1
        assert store.head() == 1
        fence = store.fence()
        assert (fence.head, fence.newest) == (1, 3)
        assert fence.holders == (f"pid {other.info.backend_pid} (idle in transaction, shop)",)
        assert 0 < fence.seconds < 100
    assert store.head() == 3
    assert store.fence() is None


def test_how_the_fence_goes_on():
    """Its rules without a server, and with a clock that stands still until someone sleeps."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    def head(*looks):
        looks = iter(looks)
        return fence.head(lambda: Look(*next(looks)), sleep)

    a, b, none = frozenset("a"), frozenset("b"), frozenset()
    fence = Fence(lambda: now[0])
    assert head((None, none)) is None
    assert head((5, none)) == 5
    assert head((7, a), (8, a), (9, b)) == 7  # b began later, and cannot be below 7
    assert head((9, b), (9, none)) == 9
    assert head(*[(10, a)] * 100) == 9
    before = now[0]
    assert head((12, a)) == 9  # a was waited for already
    assert now[0] == before
    assert head((12, b), (12, b), (13, a)) == 12
    assert head((3, none)) == 3  # somebody deleted events
    assert head((None, none)) is None


def test_nothing_is_missed_with_many_writers(store, url):
    number = count()
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(url)) for _ in range(6)]

        def writing(connection):
            def write(dice):
                with connection.transaction(force_rollback=dice.random() < 0.3):
                    for _ in range(dice.randint(1, 3)):
                        connection.execute(INSERT.format(next(number)))
                        time.sleep(dice.uniform(0, 0.005))

            return write

        @contextmanager
        def idle():
            with writer(url) as other:
                other.execute(INSERT.format(next(number)))
                yield

        assert watch(store, [writing(one) for one in connections], idle(), 4) > 0


def test_the_status_tells_what_it_waits_for(store, url, tmp_path):
    config = ["-C", str(tmp_path / "eventchain.toml")]
    init = ["init", *config, "--origin", "a", "--difficulty", "1", "--backend", "reference", "--store", url]
    for command in (init, ["mine", *config]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    store.append("a", -1, [NewEvent("first", "t", b"1"), NewEvent("second", "t", b"")])
    assert CliRunner().invoke(cli, ["mine", *config]).exit_code == 0
    with writer(url) as other:
        other.execute(INSERT.format(0))
        store.append("a", 1, [NewEvent("fourth", "t", b"")])
        status = CliRunner().invoke(cli, ["status", *config, "--rate", "1M"]).output
        assert "fence       events wait for 1 open transaction, the oldest of " in status
        said = json.loads(CliRunner().invoke(cli, ["status", *config, "--rate", "1M", "--json"]).stdout)
        assert (said["fence"]["head"], said["fence"]["newest"], said["misfit"]) == (None, 4, None)
        mine = CliRunner().invoke(cli, ["mine", *config])
        assert (mine.exit_code, "nothing to seal" in mine.output) == (0, True)
    assert "sealed 2 events" in CliRunner().invoke(cli, ["mine", *config]).output
    assert CliRunner().invoke(cli, ["verify", *config]).exit_code == 0


# -- what the catalogs say ----------------------------------------------------------------------------


def test_a_server_that_comes_back(store, url):
    store.append("a", -1, [NewEvent("first", "t", b"")])
    for _ in range(2):
        execute(
            url,
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
            "WHERE application_name = 'eventchain'",
        )
        assert store.head() == 1
    assert ids(store.read(None, 10)) == ["first"]


def test_the_schema_is_written_down(url, postgres, tmp_path):
    execute(url, "CREATE SCHEMA shop", "CREATE ROLE keeper LOGIN", "GRANT ALL ON SCHEMA shop TO keeper")
    execute(url, "ALTER ROLE keeper SET search_path = shop")
    database = url.partition("@/")[2].partition("?")[0]
    theirs = postgres.url(database, "keeper")
    with closing(open_event_store(theirs, create=True)) as store:
        store.append("a", -1, [NewEvent("first", "t", b"")])
        assert store.pinned_url == f"{theirs}&schema=shop"
    execute(url, "ALTER ROLE keeper SET search_path = public")
    with pytest.raises(StoreError, match="no table events"):
        open_event_store(theirs)
    with closing(open_event_store(f"{theirs}&schema=shop")) as store:
        assert store.head() == 1
        assert store.pinned_url == store.url
    with closing(open_event_store(f"{url}&schema=public&table=other%20events", create=True)) as store:
        assert store.head() is None
        assert store.pinned_url == store.url


def test_our_functions_come_first(store, url):
    """A role's search path may put somebody's functions before PostgreSQL's own."""
    store.append("a", -1, [NewEvent("first", "t", b"")])
    execute(
        url, "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.int8send(int8) RETURNS bytea LANGUAGE sql AS $$ SELECT '\\x00'::bytea $$",
        "CREATE ROLE victim LOGIN SUPERUSER", "ALTER ROLE victim SET search_path = evil, pg_catalog, public",
    )  # fmt: skip
    with closing(open_event_store(url.replace("postgres@", "victim@"))) as other:
        assert other.read(None, 10) == store.read(None, 10)


def test_rows_that_are_withheld_are_an_error(store, url):
    store.append("a", -1, [NewEvent("first", "t", b""), NewEvent("second", "t", b"")])
    execute(
        url, "CREATE ROLE auditor LOGIN", "GRANT SELECT ON events TO auditor",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON events USING (position = 1)",
    )  # fmt: skip
    with closing(open_event_store(url.replace("postgres@", "auditor@"))) as other:
        with pytest.raises(StoreError, match="row-level security"):
            other.read(None, 10)
        execute(url, "ALTER TABLE events DISABLE ROW LEVEL SECURITY")
        assert ids(other.read(None, 10)) == ["first", "second"]
        with pytest.raises(StoreError, match="permission denied") as caught:
            other.append("a", 1, [NewEvent("third", "t", b"")])
        assert caught.value.hint


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE events ALTER data TYPE text USING ''",
        "ALTER TABLE events ALTER time TYPE numeric",
        "ALTER TABLE events DROP CONSTRAINT events_pkey",
        "ALTER TABLE events DROP CONSTRAINT events_pkey, ADD PRIMARY KEY (position, id)",
        "ALTER TABLE events ADD note text",
    ],
)
def test_an_edited_schema_is_refused(store, url, statement):
    execute(url, statement)
    with pytest.raises(StoreError) as caught:
        store.read(None, 10)
    assert caught.value.hint


def test_a_partitioned_table_is_read(url):
    names = ["position bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY", "stream text", "version bigint"]
    names += ["id text", "type text", "time bigint", "data bytea", "metadata bytea"]
    execute(
        url, f"CREATE TABLE events ({', '.join(names)}) PARTITION BY RANGE (position)",
        "CREATE TABLE early PARTITION OF events FOR VALUES FROM (0) TO (3)",
        "CREATE TABLE late PARTITION OF events FOR VALUES FROM (3) TO (100)",
    )  # fmt: skip
    with closing(open_event_store(url)) as store:
        store.append("a", -1, [NewEvent(str(n), "t", b"") for n in range(5)])
        assert ids(store.read(None, 10)) == list("01234")
        with writer(url) as other:
            other.execute("INSERT INTO late OVERRIDING SYSTEM VALUE VALUES (9, 's', 0, 'e', 't', 0)")
            assert store.fence().head is None
        assert store.head() == 9


def test_irregular_rows_are_read_and_no_two_alike(store, url):
    store.append("s", -1, [NewEvent(f"e{n}", "t", b"d", None, 5) for n in range(6)])
    before = store.read(None, 10).to_pylist()
    execute(url, *(f"ALTER TABLE events ALTER {name} DROP NOT NULL" for name in ("version", "time", "type")))
    execute(url, "UPDATE events SET version = NULL WHERE position = 1")
    execute(url, "UPDATE events SET time = NULL WHERE position = 2")
    execute(url, "UPDATE events SET type = NULL WHERE position = 3")
    execute(url, "UPDATE events SET id = U&'\\FDD0 5' WHERE position = 4")
    # Text that is not UTF-8 can only be there since bytea became text in the catalogs.
    execute(
        url, "ALTER TABLE events ALTER type TYPE bytea USING convert_to(type, 'UTF8')",
        "UPDATE events SET type = '\\xff' WHERE position = 5",
        "UPDATE pg_attribute SET atttypid = 'text'::regtype, attcollation = 100 "
        "WHERE attrelid = 'events'::regclass AND attname = 'type'",
    )  # fmt: skip
    after = store.read(None, 10)
    after.validate(full=True)
    rows = after.to_pylist()
    assert [id_for_people(row["id"]) for row in rows] == [
        ("e0", ["version"]), ("e1", ["time"]), ("e2", ["type"]), ("", ["id"]), ("e4", ["type"]), ("e5", []),
    ]  # fmt: skip
    assert rows[5] == before[5]
    assert (rows[0]["version"], rows[1]["time"], rows[2]["type"], rows[4]["type"]) == (
        UNKNOWN,
        UNKNOWN,
        "",
        "\\xff",
    )
    assert all(row["id"].startswith(IRREGULAR) for row in rows[:5])
    assert len(store.find("e5")) == 1


def test_text_that_postgresql_cannot_keep(store):
    for event in (
        NewEvent("a\0", "t", b""),
        NewEvent("a", "\0", b""),
        NewEvent("a", "t" * 10, b"", time=2**63),
    ):
        with pytest.raises(FormatError):
            store.append("s", -1, [event])
    with pytest.raises(FormatError, match="NUL"):
        store.append("\0", -1, [NewEvent("a", "t", b"")])
    noise = random.Random(1).randbytes(5000).hex()
    with pytest.raises(FormatError, match="too large"):
        store.append("s", -1, [NewEvent(noise, "t", b"")])
    assert store.find("a\0").num_rows == store.find("\ud800").num_rows == 0
    assert store.head() is None


def test_positions_of_0_and_below_are_read(store, url):
    for position in (0, -7):
        execute(
            url, "INSERT INTO events OVERRIDING SYSTEM VALUE VALUES (%s, 'x', %s, %s, 't', 0)",
            parameters=(position, position, str(position)),
        )  # fmt: skip
    assert store.read(None, 10)["position"].to_pylist() == [-7, 0]
    assert store.read(-1, 10)["position"].to_pylist() == [0]


def test_large_events_are_read_a_few_at_a_time(store):
    store.append("s", -1, [NewEvent(str(n), "t", bytes([n]) * 5_000_000) for n in range(12)])
    batch = store.read(None, ROWS)
    assert [set(data) for data in batch["data"].to_pylist()] == [{n} for n in range(12)]


def test_faults(store, url):
    store.append("s", -1, [NewEvent(f"e{n}", "t", b"") for n in range(9)])
    execute(url, "CREATE INDEX by_type ON events (type) WHERE position < 3")
    assert store.faults() == []
    execute(url, "UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'by_type'::regclass")
    assert store.faults() == ["index by_type leads to 2 of 9 rows"]
    execute(url, "DROP INDEX by_type", "ALTER TABLE events DROP CONSTRAINT events_pkey")
    execute(
        url,
        "ALTER TABLE events ALTER position DROP IDENTITY",
        "ALTER TABLE events ALTER position DROP NOT NULL",
    )
    execute(url, "UPDATE events SET position = 2 WHERE position = 3")
    execute(url, "UPDATE events SET position = NULL WHERE position = 4")
    # As if nothing had happened, to the catalogs.
    execute(
        url, "CREATE UNIQUE INDEX events_pkey ON events (position) WHERE position > 4",
        "UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'events_pkey'::regclass",
        "UPDATE pg_attribute SET attnotnull = true "
        "WHERE attrelid = 'events'::regclass AND attname = 'position'",
    )  # fmt: skip
    assert store.faults() == [
        "1 rows have no position",
        "1 rows have the position of another",
        "index events_pkey leads to 5 of 9 rows",
    ]


# -- passwords ----------------------------------------------------------------------------------------

SECRETS = [
    "postgresql://u:{}@host.invalid/db",
    "postgresql://u:{}@host.invalid:5432/db?sslmode=require",
    "postgresql://host.invalid/db?user=u&password={}",
    "eventsourcing+postgresql://u:{}@/db?host=/tmp&sslpassword={}",
    "postgresq://u:{}@host.invalid/db",
    "mysql://u:{}@host.invalid/db",
    "postgresql://u:{}@host:wrong/db",
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql://u:{}@/db?wrong=1",
]


@pytest.mark.parametrize("secret", ["hunter2", "hun/ter2", "hun@ter2", "hun?ter2", "hun#ter2", "hun%ter2"])
@pytest.mark.parametrize("url", SECRETS)
def test_a_password_is_never_shown(url, secret, tmp_path, monkeypatch):
    url = url.format(secret, secret)
    assert "ter2" not in without_password(url)
    with pytest.raises((ConfigError, StoreError)) as caught:
        open_event_store(url)
    shown = [str(caught.value), caught.value.hint, repr(caught.value.__cause__)]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["init", "--store", url, "--difficulty", "1", "--backend", "reference"])
    assert result.exit_code == 2
    for text in (*shown, result.output):
        assert "hun" not in text.replace("hung", "")
        assert "ter2" not in text
    assert list(tmp_path.iterdir()) == []


def test_urls_without_passwords_stay_as_they_are():
    for url in (
        "postgresql://", "postgresql:///db", "postgresql://u@h1:1,h2:2/db?options=-cx%3D1",
        "sqlite:////tmp/a:b@c/x.db", "postgresql://h:5432/db?options=a@b", "events.db", "",
    ):  # fmt: skip
        assert without_password(url) == url


def test_passwords_come_from_where_libpq_takes_them(store, url, tmp_path, monkeypatch, postgres):
    execute(url, "CREATE ROLE careful LOGIN PASSWORD 'hunter2'", "GRANT SELECT ON events TO careful")
    database = url.partition("@/")[2].partition("?")[0]
    theirs = postgres.url(database, "careful")
    with pytest.raises(StoreError, match="password") as caught:
        open_event_store(theirs)
    assert "PGPASSWORD" in caught.value.hint
    with monkeypatch.context() as env:
        env.setenv("PGPASSWORD", "hunter2")
        open_event_store(theirs).close()
        env.setenv("PGPASSWORD", "hunter3")
        with pytest.raises(StoreError, match="authentication failed"):
            open_event_store(theirs)
    with monkeypatch.context() as env:
        passwords = tmp_path / "pgpass"
        passwords.write_text("*:*:*:careful:hunter2\n")
        passwords.chmod(0o600)
        env.setenv("PGPASSFILE", str(passwords))
        open_event_store(theirs).close()
    services = tmp_path / "services"
    services.write_text(
        f"[shop]\nhost={postgres.sockets}\ndbname={database}\nuser=careful\npassword=hunter2\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with closing(open_event_store("postgresql://?service=shop")) as other:
        assert other.url == "postgresql://?service=shop"
        assert everything(other) == []
    with_password = theirs.replace("careful@", "careful:hunter2@")
    with closing(open_event_store(with_password)) as other:
        assert other.url == theirs.replace("careful@", "careful:***@")
    config = tmp_path / "eventchain.toml"
    options = ["-C", str(config), "--difficulty", "1", "--backend", "reference", "--origin", "a"]
    execute(
        url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO careful", "GRANT ALL ON SCHEMA public TO careful"
    )
    for more in ([], ["--json"]):
        Path(config).unlink(missing_ok=True)
        (tmp_path / "chain.db").unlink(missing_ok=True)
        result = CliRunner().invoke(cli, ["init", *options, "--store", with_password, *more])
        assert result.exit_code == 0, result.output
        assert "hunter2" not in result.output
        assert config.stat().st_mode & 0o077 == 0
    for command in ("status", "mine", "verify"):
        result = CliRunner().invoke(cli, [command, "-C", str(config)])
        assert (result.exit_code, "hunter2" in result.output) == (0, False)


# -- init ---------------------------------------------------------------------------------------------


def test_init_leaves_nothing_behind_when_it_fails(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--store", url, "--difficulty", "1", "--origin", "a"]
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert CliRunner().invoke(cli, ["init", *options, "--backend", "nonesuch"]).exit_code == 2
    assert execute(url, tables) == [(0,)]
    open_event_store(url, create=True).close()
    assert CliRunner().invoke(cli, ["init", *options, "--backend", "nonesuch"]).exit_code == 2
    assert execute(url, tables) == [(1,)]  # it was there before
    assert CliRunner().invoke(cli, ["init", *options, "--backend", "reference"]).exit_code == 0
    line = '{"specversion":"1.0","source":"/shop","id":"a1","type":"t","subject":"s","data":1}'
    Path("orders.jsonl").write_text(line)
    assert CliRunner().invoke(cli, ["import", "orders.jsonl"]).exit_code == 0
    assert "is in the store already" in CliRunner().invoke(cli, ["import", "orders.jsonl"]).output
    assert CliRunner().invoke(cli, ["mine"]).exit_code == 0
    assert CliRunner().invoke(cli, ["verify"]).exit_code == 0
    exported = CliRunner().invoke(cli, ["export", "-"]).stdout
    assert json.loads(exported)["data"] == 1
    execute(url, "UPDATE events SET data = '2'")
    result = CliRunner().invoke(cli, ["verify"])
    assert (result.exit_code, "altered" in result.output) == (1, True)


def test_a_table_of_the_same_name(url):
    execute(url, "CREATE TABLE events (id int)")
    with pytest.raises(StoreError, match="lacks position, stream"):
        open_event_store(url, create=True)


def test_batches_of_every_size(store):
    rows = [
        {"position": 0, "stream": "s", "version": n, "id": f"e{n}", "type": "t", "time": n,
         "data": b"x" * (n % 50)}
        for n in range(2 * ROWS + 5)
    ]  # fmt: skip
    store.append_batches([pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)])
    for limit in (1, 255, 256, 257, ROWS, 2 * ROWS + 5, 10**6):
        batch = store.read(None, limit)
        assert batch["version"].to_pylist() == list(range(min(limit, len(rows))))
