"""A JetStream stream as an event store, on a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import CliRunner
from nats.js.api import StreamConfig
from nats_server import configured

import eventchain
from eventchain.cli import cli
from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores import nats_jetstream
from eventchain.eventstores.nats_jetstream import JetStreamEventStore
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN, id_for_people


def do(server: Any, work: Callable[[Any, Any], Any]) -> Any:
    """Play an application: a connection of its own."""

    async def connected() -> Any:
        connection = await nats.connect(server.url)
        try:
            return await work(connection, connection.jetstream())
        finally:
            await connection.close()

    return asyncio.run(connected())


def publish(server: Any, first: int, count: int) -> None:
    async def work(_: Any, js: Any) -> None:
        for number in range(first, first + count):
            headers = {"Nats-Msg-Id": f"event-{number}", "ce-type": "changed"} if number % 2 else None
            await js.publish(f"orders.{number % 3}", b"%d" % number, headers=headers)

    do(server, work)


@pytest.fixture
def server(nats_server: Any) -> Any:
    async def work(_: Any, js: Any) -> None:
        await js.add_stream(StreamConfig(name="ORDERS", subjects=["orders.*"], allow_direct=True))

    do(nats_server, work)
    return nats_server


@pytest.fixture
def store(server: Any):
    with closing(JetStreamEventStore(f"{server.url}/ORDERS")) as opened:
        yield opened


def test_messages_are_events(server, store):
    assert store.head() is None
    assert store.read(None, 10).num_rows == 0
    before = time.time()
    publish(server, 0, 5)
    assert store.head() == 5
    batch = store.read(None, 10)
    assert batch.schema == EVENT_SCHEMA
    rows = batch.to_pylist()
    assert [row["position"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["stream"] for row in rows] == [f"orders.{n % 3}" for n in range(5)]
    assert [row["id"] for row in rows] == ["ORDERS/1", "event-1", "ORDERS/3", "event-3", "ORDERS/5"]
    assert [row["type"] for row in rows] == ["", "changed", "", "changed", ""]
    assert [row["data"] for row in rows] == [b"%d" % n for n in range(5)]
    assert {row["version"] for row in rows} == {UNKNOWN}
    for row in rows:
        assert before - 5 < row["time"] / 1e6 < time.time() + 5
        said = json.loads(row["metadata"])
        assert int(said["timestamp"]) // 1000 == row["time"]
        assert bool(said["headers"]) == (row["type"] == "changed")


def publish_raw(server: Any, subject: bytes, headers: bytes, payload: bytes = b"x") -> None:
    """As no client library does: by the protocol's HPUB."""
    block = b"NATS/1.0\r\n" + headers + b"\r\n"
    sizes = b"%d %d" % (len(block), len(block) + len(payload))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b'CONNECT {"headers":true,"verbose":false}\r\n')
        connection.sendall(b"HPUB " + subject + b" " + sizes + b"\r\n" + block + payload + b"\r\nPING\r\n")
        said = b""
        while b"PONG" not in said:
            said += connection.recv(4096)


def test_headers_as_other_clients_write_them(server, store):
    publish_raw(server, b"orders.1", b"A:1\r\nb:  \xc3\xa4 \r\nempty:\r\n")
    said = json.loads(store.read(None, 1)["metadata"][0].as_py())
    assert said["headers"] == {"A": "1", "b": "ä", "empty": ""}
    assert "raw" not in said


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"a: \xff\r\n", b"a: \xfe\r\n"),
        (b"a: 1\r\na: 3\r\n", b"a: 2\r\na: 3\r\n"),
        (b"\xc3\xa4: 1\r\n", b"\xc3\xa4: 2\r\n"),
        (b"a: 1\r\nx\r\n", b"a: 1\r\ny\r\n"),
        (b"Nats-Msg-Id: \xff\r\n", b"Nats-Msg-Id: \xfe\r\n"),
    ],
)
def test_every_difference_of_headers_is_covered(server, store, first, second):
    """Also where nats-py gives the same for both, or nothing."""
    publish_raw(server, b"orders.1", first)
    publish_raw(server, b"orders.1", second)
    publish_raw(server, b"orders.1", b"a: 1\r\n")
    batch = store.read(None, 10)
    assert batch.num_rows == 3
    one, other, plain = (json.loads(value) for value in batch["metadata"].to_pylist())
    assert bytes.fromhex(one["raw"]) == b"NATS/1.0\r\n" + first + b"\r\n"
    assert one["headers"] | {"raw": one["raw"]} != other["headers"] | {"raw": other["raw"]}
    assert list(one) == ["headers", "raw", "timestamp"]
    assert "raw" not in plain


def test_a_subject_that_is_not_utf8(server, store):
    publish_raw(server, b"orders.\xff", b"a: 1\r\n")
    publish_raw(server, b"orders.\xfe", b"a: 1\r\n")
    publish_raw(server, b"orders.1", b"a: 1\r\n")
    batch = store.read(None, 10)
    batch.validate(full=True)
    assert batch["stream"].to_pylist() == ["orders.\ufffd", "orders.\ufffd", "orders.1"]
    first, second, third = batch["id"].to_pylist()
    assert id_for_people(first) == ("ORDERS/1", ["stream"])
    assert first.partition(" ")[0] != second.partition(" ")[0]
    assert third == "ORDERS/3"


def test_reading_on_and_anywhere(server, store):
    publish(server, 0, 50)
    seen: list[int] = []
    while (batch := store.read(seen[-1] if seen else None, 7)).num_rows:
        seen += batch["position"].to_pylist()
    assert seen == list(range(1, 51))
    assert store.read(10, 3)["position"].to_pylist() == [11, 12, 13]
    assert store.read(48, 100)["position"].to_pylist() == [49, 50]
    assert store.read(50, 100).num_rows == store.read(4711, 1).num_rows == 0
    assert store.read(10, 3)["position"].to_pylist() == [11, 12, 13]


def test_deleted_messages_are_gaps(server, store):
    publish(server, 0, 10)

    async def work(_: Any, js: Any) -> None:
        for sequence in (1, 4, 5, 10):
            await js.delete_msg("ORDERS", sequence)

    do(server, work)
    assert store.read(None, 100)["position"].to_pylist() == [2, 3, 6, 7, 8, 9]
    assert store.read(3, 2)["position"].to_pylist() == [6, 7]
    assert store.read(9, 2).num_rows == 0


def test_a_consumer_that_the_server_forgot(server, store, monkeypatch):
    monkeypatch.setattr(nats_jetstream, "QUIET_SECONDS", 0.5)
    publish(server, 0, 10)
    assert store.read(None, 3)["position"].to_pylist() == [1, 2, 3]

    async def consumers(_: Any, js: Any) -> int:
        return (await js.stream_info("ORDERS")).state.consumer_count

    deadline = time.monotonic() + 60
    while do(server, consumers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    monkeypatch.undo()
    assert store.read(3, 3)["position"].to_pylist() == [4, 5, 6]
    assert store.read(6, 100)["position"].to_pylist() == [7, 8, 9, 10]
    assert store.read(2, 1)["position"].to_pylist() == [3]
    assert do(server, consumers) == 1  # the one before is gone


def test_finding(server, store):
    publish(server, 0, 6)
    assert store.find("event-3")["position"].to_pylist() == [4]
    assert store.find("ORDERS/3")["position"].to_pylist() == [3]
    assert store.find("nothing").num_rows == 0
    assert store.find("nothing").schema == EVENT_SCHEMA
    assert store.index_check().faults() == []


def test_the_clock_is_the_servers(store):
    assert abs(store.now() - time.time()) < 60


def test_several_threads(server, store):
    publish(server, 0, 40)
    found: list[list[int]] = []

    def read(after: int) -> None:
        found.append(store.read(after, 5)["position"].to_pylist())

    threads = [threading.Thread(target=read, args=(5 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(position for positions in found for position in positions) == list(range(1, 41))


def test_a_server_that_goes_away_and_comes_back(server, store):
    publish(server, 0, 3)
    assert store.head() == 3
    server.kill()
    with pytest.raises(StoreError, match="ORDERS"):
        store.read(None, 5)
    server.start(server.port)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert store.read(None, 5)["position"].to_pylist() == [1, 2, 3]
            return
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("nats://localhost", ConfigError, "names no stream"),
        ("nats://user:secret@localhost/A/B", ConfigError, "nats://localhost/A/B"),
        ("nats://localhost/A?color=red", ConfigError, "unknown option 'color'"),
        ("nats://user:secret@127.0.0.1:1/A", StoreError, "nats://127.0.0.1:1/A"),
    ],
)
def test_urls_that_are_wrong(url, error, said):
    with pytest.raises(error) as raised:
        JetStreamEventStore(url)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_stream_that_is_not_there(nats_server):
    with pytest.raises(StoreError, match="no stream NOBODY"):
        JetStreamEventStore(f"{nats_server.url}/NOBODY")


def test_sealed_deleted_and_found(server, tmp_path: Path, monkeypatch):
    """From end to end: the stream is sealed, a message is deleted, verify names it."""
    monkeypatch.chdir(tmp_path)
    publish(server, 0, 30)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, list(arguments))

    options = ["--difficulty", "4", "--backend", "reference"]
    begun = run("init", "--origin", "example.com/orders", "--store", f"{server.url}/ORDERS", *options)
    assert begun.exit_code == 0, begun.output
    assert run("mine", "--backend", "reference").exit_code == 0
    assert run("verify").exit_code == 0
    with eventchain.open_chain("eventchain.toml") as chain:
        assert chain.receipt("event-7").sealed

    async def work(_: Any, js: Any) -> None:
        await js.delete_msg("ORDERS", 12)

    do(server, work)
    found = run("verify", "--json")
    assert found.exit_code == 1
    findings = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(one.get("kind"), one.get("position")) for one in findings[:-1] if one.get("kind")] == [
        ("missing", 12)
    ]


def test_a_password_has_any_characters_and_is_not_shown(tmp_path):
    with configured(tmp_path, 'authorization { user: "m:e", password: "p@s/s,%" }\n') as server:
        url = server.url.replace("//", "//m%3Ae:p%40s%2Fs%2C%25@") + "/ORDERS"
        with pytest.raises(StoreError, match="there is no stream ORDERS") as caught:
            JetStreamEventStore(url)
        assert "p%40s" not in str(caught.value)
        with pytest.raises(StoreError, match="it does not let us in") as caught:
            JetStreamEventStore(url.replace("p%40s", "s3cret"))
        assert "s3cret" not in str(caught.value)


def test_credentials_that_are_none_are_refused(server, tmp_path):
    (tmp_path / "half.creds").write_text("-----BEGIN USER NKEY SEED-----\nSUA\n")
    with pytest.raises(ConfigError, match="no credentials file"):
        JetStreamEventStore(f"{server.url}/ORDERS?credentials={tmp_path / 'half.creds'}")
