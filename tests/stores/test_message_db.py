"""message-db: its table and its function, made here from its documented behaviour, on a real server."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing, contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner
from gaps import watch
from postgres import connected, execute

from eventchain.cli import cli
from eventchain.errors import StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.event import id_for_people

TABLE = """
CREATE TABLE message_store.messages (
    id UUID NOT NULL DEFAULT gen_random_uuid(), stream_name text NOT NULL, type text NOT NULL,
    position bigint NOT NULL, global_position bigserial NOT NULL PRIMARY KEY, data jsonb, metadata jsonb,
    time TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL)
"""
# A lock for each category, so that within one category messages commit in order; none across categories.
WRITE = """
CREATE FUNCTION message_store.write_message(id varchar, stream_name varchar, type varchar, data jsonb,
    metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE latest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(split_part(write_message.stream_name, '-', 1)));
    SELECT coalesce(max(m.position), -1) INTO latest FROM message_store.messages AS m
        WHERE m.stream_name = write_message.stream_name;
    IF expected_version IS NOT NULL AND expected_version <> latest THEN
        RAISE EXCEPTION 'Wrong expected version: % (Stream: %, Stream Version: %)',
            expected_version, stream_name, latest;
    END IF;
    INSERT INTO message_store.messages (id, stream_name, type, position, data, metadata)
        VALUES (write_message.id::uuid, write_message.stream_name, write_message.type, latest + 1,
                write_message.data, write_message.metadata);
    RETURN latest + 1;
END $$
"""


@pytest.fixture
def url(postgres):
    url = postgres.new_database()
    execute(
        url, "CREATE SCHEMA message_store", TABLE, WRITE,
        "CREATE UNIQUE INDEX messages_id ON message_store.messages (id)",
        "CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position)",
    )  # fmt: skip
    return url


@pytest.fixture
def store(url):
    with closing(open_event_store(f"message-db+{url}")) as opened:
        yield opened


def write(connection, stream, data, metadata=None, expected=None):
    message = uuid4()
    connection.execute(
        "SELECT message_store.write_message(%s, %s, 'Placed', %s, %s, %s)",
        (str(message), stream, json.dumps(data), metadata and json.dumps(metadata), expected),
    )
    return message


def test_the_declaration(store, url):
    with connected(url) as connection:
        first = write(connection, "order-1", {"b": 1.50, "a": "ä"}, {"user": "u"})
        second = write(connection, "order-1", None)
    execute(url, "UPDATE message_store.messages SET data = NULL, time = '2024-01-02 03:04:05.678901' "
            "WHERE position = 1")  # fmt: skip
    batch = store.read(None, 10)
    one, two = batch.to_pylist()
    assert [one[name] for name in ("position", "stream", "version", "id", "type")] == [
        1, "order-1", 0, str(first), "Placed",
    ]  # fmt: skip
    assert (one["data"], one["metadata"]) == ('{"a": "ä", "b": 1.5}'.encode(), b'{"user": "u"}')
    assert (two["time"], two["data"], two["metadata"]) == (1704164645678901, None, None)
    assert store.find(str(second)) == batch.slice(1, 1)
    assert store.find("nobody").num_rows == store.find(str(UUID(int=1))).num_rows == 0
    assert store.head() == 2
    assert store.source == "message-db-postgresql/1"
    assert store.pinned_url == store.url
    assert store.faults() == []
    assert not hasattr(store, "append")


def test_a_time_that_is_no_moment(store, url):
    with connected(url) as connection:
        first, second = (write(connection, "order-1", n) for n in range(2))
    execute(url, "UPDATE message_store.messages SET time = 'infinity' WHERE position = 0")
    execute(url, "UPDATE message_store.messages SET time = '-infinity' WHERE position = 1")
    rows = store.read(None, 10).to_pylist()
    assert [id_for_people(row["id"]) for row in rows] == [(str(first), ["time"]), (str(second), ["time"])]
    for time in ("infinity", "293000-01-01", "293000-01-02"):  # no two alike
        execute(url, f"UPDATE message_store.messages SET time = '{time}' WHERE position = 1")
        changed = store.read(None, 10).to_pylist()
        assert changed[1] not in rows
        rows.append(changed[1])


@pytest.mark.parametrize(
    "change", ["ADD note text", "DROP metadata", "ALTER data TYPE json", "DROP CONSTRAINT messages_pkey"]
)
def test_an_edited_schema_is_refused(store, url, change):
    execute(url, f"ALTER TABLE message_store.messages {change}")
    with pytest.raises(StoreError) as caught:
        store.read(None, 10)
    assert caught.value.hint


def test_init_mine_and_verify(url, tmp_path):
    with connected(url) as connection:
        messages = [write(connection, f"order-{n % 3}", {"n": n}) for n in range(10)]
    config = ["-C", str(tmp_path / "eventchain.toml")]
    init = ["init", *config, "--difficulty", "1", "--backend", "reference", "--origin", "a"]
    for command in ([*init, "--store", f"message-db+{url}"], ["mine", *config], ["verify", *config]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    execute(url, "UPDATE message_store.messages SET metadata = '{}' WHERE global_position = 3")
    result = CliRunner().invoke(cli, ["verify", *config])
    assert (result.exit_code, str(messages[2]) in result.output) == (1, True)


def test_nothing_is_missed_across_categories(store, url):
    """Within a category its lock keeps the order; a message of another category can come too late."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(url)) for _ in range(6)]

        def writing(number, connection):
            def once(dice):
                try:
                    with connection.transaction(force_rollback=dice.random() < 0.2):
                        for _ in range(dice.randint(1, 3)):
                            expected = 10**6 if dice.random() < 0.1 else None
                            write(connection, f"category{number % 4}-{dice.randint(0, 2)}", 1, None, expected)
                            connection.execute("SELECT pg_sleep(%s)", (dice.uniform(0, 0.01),))
                except psycopg.errors.RaiseException:
                    pass  # the wrong version: rolled back

            return once

        @contextmanager
        def idle():
            with connected(url) as other, other.transaction():
                write(other, "idle-1", 1)
                yield

        assert watch(store, [writing(*pair) for pair in enumerate(connections)], idle(), 3) > 0
