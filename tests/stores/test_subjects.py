"""Payloads encrypted for a subject, and the store of the keys: in SQLite and in PostgreSQL."""

from __future__ import annotations

import base64
import hashlib
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chains import Clock, begin, checked, seal, sealing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import check_chain
from postgres import Server, connected, execute

from eventchain.chain.feed import sealed_events
from eventchain.chainstores import open_chain_store
from eventchain.contracts.event_store import NewEvent
from eventchain.erasure.plan import positions_where
from eventchain.erasure.records import Records
from eventchain.errors import ConfigError, ConflictError, EventChainError, FormatError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.envelope import is_envelope
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.subjects import Encrypted, KeyStore
from eventchain.subjects.forget import finish_forgetting, of_handles, record_forgetting

WRAPPING = "env:EVENTCHAIN_TEST_WRAPPING"
OTHER = "env:EVENTCHAIN_TEST_OTHER_WRAPPING"


@pytest.fixture(autouse=True)
def wrapping_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (WRAPPING, OTHER):
        monkeypatch.setenv(place.removeprefix("env:"), base64.b64encode(os.urandom(32)).decode())


class Place:
    """Where the stores of one test are: of one kind, all empty."""

    def __init__(self, kind: str, folder: Path, server: Server | None) -> None:
        self.kind, self.folder, self.server = kind, folder, server
        self.urls = {
            name: server.new_database() if server else f"sqlite:///{folder}/{name}.db"
            for name in ("events", "chain", "keys")
        }

    def keys(self, wrapping: str = WRAPPING, old: str | None = None) -> KeyStore:
        return KeyStore(self.urls["keys"], wrapping, old)

    def events(self, **options: Any) -> Encrypted:
        return Encrypted(open_event_store(self.urls["events"], create=True), self.keys(), **options)

    def sql(self, name: str, statement: str) -> list[Any]:
        """Play the administrator."""
        if self.server:
            return execute(self.urls[name], statement)
        with closing(sqlite3.connect(self.folder / f"{name}.db")) as db, db:
            return db.execute(statement).fetchall()

    def holding(self, wanted: dict[str, bytes]) -> list[str]:
        if self.server:
            return self.server.holding(wanted)
        texts = [(file, file.read_bytes()) for file in self.folder.iterdir()]
        return [f"{what} in {file}" for what, raw in wanted.items() for file, text in texts if raw in text]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    place = Place(request.param, tmp_path, server)
    with closing(place.keys()) as keys:
        assert not keys.exists()
        keys.create()
        assert keys.exists()
    return place


def told(events: Encrypted) -> list[tuple[bytes | None, bytes | None]]:
    batch = events.decrypted(events.read(None, 1000)).batch
    return list(zip(batch["data"].to_pylist(), batch["metadata"].to_pylist(), strict=True))


# -- encrypting


@pytest.mark.parametrize("metadata", [False, True])
def test_payloads_are_stored_encrypted_and_read_decrypted(place: Place, metadata: bool) -> None:
    with closing(place.events(metadata=metadata)) as events:
        new = [
            NewEvent("e1", "t", b"secret data", b"secret more", 7),
            NewEvent("e2", "t", None),
            NewEvent("e3", "t", b""),
        ]
        assert events.append("s", -1, new, subject="müller") == [1, 2, 3]
        assert events.append("s", 2, [NewEvent("e4", "t", b"plain", b"plain")]) == [4]
        stored = events.read(None, 10)
        row = stored.to_pylist()[0]
        assert row["data"].startswith(b"\xffEVCSUB\x01")
        assert (row["metadata"] == b"secret more") is not metadata
        assert {name: row[name] for name in ("stream", "id", "type", "time")} == {
            "stream": "s",
            "id": "e1",
            "type": "t",
            "time": 7,
        }
        assert stored["data"][1].as_py() is None
        assert len(stored["data"][2].as_py()) == 52
        readable, forgotten = events.decrypted(stored)
        assert readable.schema == EVENT_SCHEMA
        assert not forgotten.any()
        assert told(events) == [(b"secret data", b"secret more"), (None, None), (b"", None), (b"plain",) * 2]
        assert events.decrypted(events.find("e1")).batch["data"][0].as_py() == b"secret data"
        assert place.sql("keys", "SELECT count(*) FROM subject_keys") == [(2,)]  # the index key is one
        assert place.holding({"data": b"secret data", "name": "müller".encode()}) == []


payloads = st.none() | st.binary().filter(lambda payload: not is_envelope(payload))
subjects = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(subjects, payloads), max_size=6))
def test_any_payload_for_any_subject(tmp_path_factory: pytest.TempPathFactory, given: list[Any]) -> None:
    place = Place("sqlite", tmp_path_factory.mktemp("any"), None)
    with closing(place.events(metadata=True)) as events:
        events.keys.create()
        for n, (subject, payload) in enumerate(given):
            events.append("s", n - 1, [NewEvent(f"e{n}", "t", payload, payload)], subject=subject)
        assert told(events) == [(payload, payload) for _, payload in given]


def test_the_store_refuses_what_it_refuses_without_keys(place: Place) -> None:
    with closing(place.events()) as events:
        events.append("s", -1, [NewEvent("e1", "t", b"x")], subject="a")
        for expected, event in ((-1, NewEvent("e2", "t", b"x")), (0, NewEvent("e1", "t", b"x"))):
            with pytest.raises(ConflictError):
                events.append("s", expected, [event], subject="a")
        stored = events.read(None, 1)["data"][0].as_py()
        for subject in (None, "a"):
            with pytest.raises(FormatError, match="encrypted already"):
                events.append("s", 0, [NewEvent("e2", "t", stored)], subject=subject)
        with pytest.raises(FormatError, match="surrogates"):
            events.append("s", 0, [NewEvent("\ud800", "t", b"")], subject="a")
        for name in ("", "\ud800"):
            with pytest.raises(ConfigError, match="cannot be the name of a subject"):
                events.append("s", 0, [NewEvent("e2", "t", b"")], subject=name)
        assert events.read(None, 10).num_rows == 1


def test_another_applications_store_is_refused(tmp_path: Path) -> None:
    class Foreign:
        url = "eventsourcing+sqlite:///app.db"

    with pytest.raises(ConfigError, match="another application's store"):
        Encrypted(Foreign(), KeyStore("sqlite:///keys.db", WRAPPING))


# -- altered


def altered(batch: Any, column: str, values: list[Any]) -> Any:
    at = batch.schema.get_field_index(column)
    return batch.set_column(at, batch.schema.field(at), pa.array(values, batch.schema.field(at).type))


def test_ciphertexts_cannot_be_exchanged(place: Place) -> None:
    with closing(place.events(metadata=True)) as events:
        new = [NewEvent(f"e{n}", "t", b"data%d" % n, b"more%d" % n) for n in range(2)]
        events.append("s", -1, new, subject="a")
        batch = events.read(None, 10)
        data, metadata = batch["data"].to_pylist(), batch["metadata"].to_pylist()
        for lie in (
            altered(batch, "data", data[::-1]),
            altered(batch, "data", metadata),
            altered(batch, "stream", ["s", "other"]),
            altered(batch, "id", ["e0", "e9"]),
            altered(batch, "type", ["t", "u"]),
            altered(batch, "data", [data[0], data[1][:-1] + bytes([data[1][-1] ^ 1])]),
        ):
            with pytest.raises(StoreError, match=r"is not what was encrypted"):
                events.decrypted(lie)
        with pytest.raises(StoreError, match=r"at position 2 has .* cut off"):
            events.decrypted(altered(batch, "data", [data[0], data[1][:30]]))
        with pytest.raises(StoreError, match="not known"):
            events.decrypted(altered(batch, "data", [data[0], data[1][:7] + b"\x02" + data[1][8:]]))
        with pytest.raises(StoreError, match="knows no key of the event at position 1"):
            events.decrypted(
                altered(batch, "data", [data[0][:8] + bytes(15) + b"\1" + data[0][24:], data[1]])
            )


def test_keys_in_the_key_store_cannot_be_exchanged_or_made_up(place: Place) -> None:
    with closing(place.events()) as events:
        for subject in ("a", "b"):
            events.append(subject, -1, [NewEvent(subject, "t", b"x")], subject=subject)
        zero, _, _ = (row[0] for row in place.sql("keys", "SELECT handle FROM subject_keys ORDER BY handle"))
        assert bytes(zero) == bytes(16)
        place.sql(
            "keys",
            "UPDATE subject_keys SET wrapped = (SELECT max(o.wrapped) FROM subject_keys AS o "
            "WHERE o.handle <> subject_keys.handle AND o.subject IS NOT NULL) WHERE subject IS NOT NULL"
            if place.kind == "sqlite"
            else "UPDATE subject_keys AS k SET wrapped = o.wrapped FROM subject_keys AS o "
            "WHERE o.handle <> k.handle AND o.subject IS NOT NULL AND k.subject IS NOT NULL",
        )
        with pytest.raises(StoreError, match="was altered"):
            told(events)


# -- the key store


def test_what_is_not_there_is_said(place: Place, tmp_path: Path) -> None:
    place.sql("keys", "DROP TABLE subject_keys")
    with closing(place.keys()) as keys, pytest.raises(StoreError) as refused:
        keys.handles("a")
    assert "keys init" in refused.value.hint
    with closing(KeyStore(f"sqlite:///{tmp_path}/nowhere.db", WRAPPING)) as keys:
        with pytest.raises(StoreError, match="there is no key store"):
            keys.handles("a")
        assert not (tmp_path / "nowhere.db").exists()
    with pytest.raises(ConfigError, match="no kind of key store"):
        KeyStore("mysql://x/y", WRAPPING).handles("a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no wrapping key"),
        ("", "is not 32 bytes"),
        ("QUJD", "is not 32 bytes"),
        ("?", "is not 32 bytes"),
    ],
)
def test_wrapping_keys_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    name = OTHER.removeprefix("env:")
    monkeypatch.delenv(name) if text is None else monkeypatch.setenv(name, text)
    keys = KeyStore(f"sqlite:///{tmp_path}/keys.db", OTHER)
    with closing(keys), pytest.raises(ConfigError, match=said):
        keys.create()
    assert not (tmp_path / "keys.db").exists()
    if text is not None:
        (tmp_path / "file").write_text(text)
        keys = KeyStore(f"sqlite:///{tmp_path}/keys.db", f"file:{tmp_path}/file")
        with closing(keys), pytest.raises(ConfigError, match=said):
            keys.create()


def test_many_make_a_subjects_key_at_once_and_get_the_same(place: Place) -> None:
    stores = [place.keys() for _ in range(4)]

    def held(store: KeyStore) -> list[tuple[bytes, bytes]]:
        found = []
        for n in range(10):
            with store.held(f"subject {n}") as key:
                found.append(tuple(key))
        return found

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(held, [*stores, *stores])
    assert all(other == first for other in others)
    assert len({key for _, key in first}) == 10
    assert place.sql("keys", "SELECT count(*) FROM subject_keys") == [(11,)]
    for store in stores:
        store.close()


def test_a_key_that_is_held_is_not_closed(place: Place) -> None:
    with closing(place.keys()) as ours, closing(place.keys()) as theirs:
        closed: list[list[bytes]] = []
        forgetting = threading.Thread(target=lambda: closed.append(theirs.begin_forgetting("a")))
        with ours.held("a") as key:
            forgetting.start()
            forgetting.join(0.3)
            assert not closed
        forgetting.join(60)
        assert closed == [[key.handle]] == [ours.handles("a")]
        with ours.held("a") as new:
            assert new.handle != key.handle
        assert ours.keys([key.handle]) == {key.handle: key.key}  # closed, and it still opens what is there


def test_rotation_is_gone_on_with_where_it_was_broken_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventchain.subjects.keys.AT_ONCE", 3)
    with closing(place.events()) as events:
        for n in range(10):
            events.append(f"s{n}", -1, [NewEvent(f"e{n}", "t", b"%d" % n)], subject=f"subject {n}")
        before = told(events)
        old = {
            str(n): bytes(row[0])
            for n, row in enumerate(place.sql("keys", "SELECT wrapped FROM subject_keys"))
        }

        def stop(count: int) -> None:
            raise KeyboardInterrupt

        with closing(place.keys(OTHER, WRAPPING)) as both:
            with pytest.raises(KeyboardInterrupt):
                both.rotate(stop)
            with closing(events.keys), pytest.raises(StoreError, match="another wrapping key") as refused:
                told(events)
            assert "old_wrapping_key" in refused.value.hint
            events.keys = both
            assert told(events) == before  # with a part of them wrapped by each
            with both.held("subject 10"):
                pass
            assert both.rotate() == 8
            assert both.rotate() == 0
        assert place.holding(old) == []
        with closing(place.keys(OTHER)) as keys:
            events.keys = keys
            assert told(events) == before


def test_an_open_transaction_is_in_the_way_of_destroying_a_key(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventchain.postgresql.REWRITE_SECONDS", 0.0)
    place = Place("postgresql", tmp_path, postgres)
    with closing(place.keys()) as keys:
        keys.create()
        with keys.held("a") as (handle, _):
            pass
        wanted = {
            "wrapped": bytes(
                place.sql("keys", "SELECT wrapped FROM subject_keys WHERE subject IS NOT NULL")[0][0]
            )
        }
        keys.begin_forgetting("a")
        with connected(place.urls["keys"]) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            with pytest.raises(StoreError, match="an open transaction still sees") as refused:
                keys.destroy([handle])
            assert "same command" in refused.value.hint
            other.execute("COMMIT")
        assert keys.keys([handle]) == {handle: None}
        keys.destroy([handle])
        assert place.holding(wanted) == []


# -- forgetting


def opened(place: Place) -> Any:
    return closing(open_chain_store(place.urls["chain"], create=True))


def forget(chain: Any, events: Encrypted, clock: Clock, subject: str) -> Any:
    with sealing(chain, events, clock) as sealer:
        handles = record_forgetting(sealer, events, events.keys, subject, "a request", "dpo", 48)
    with chain.writer():
        return finish_forgetting(chain, events, events.keys, handles)


def secret(number: int) -> bytes:
    return hashlib.sha256(b"subject %d" % number).hexdigest().encode()


def test_nothing_of_a_forgotten_subject_is_left_in_any_file(place: Place) -> None:
    clock = Clock()
    with closing(place.events(metadata=True)) as events, opened(place) as chain:
        for n, subject in zip(range(300), cycle(["alice", "bob", None]), strict=False):
            new = NewEvent(f"e{n}", "t", secret(n) * (1 + 200 * (n % 2)), secret(n + 1000))
            events.append(f"s{n % 7}", None, [new], subject=subject)
            if n == 200:
                begin(chain, events, clock)  # the rest waits to be sealed
        before = told(events)
        (handle,) = events.keys.handles("bob")
        stored = events.read(None, 1000)["data"].to_pylist()
        wanted = {
            "key": events.keys.keys([handle])[handle] or b"",
            "wrapped": bytes(
                next(
                    row[1]
                    for row in place.sql("keys", "SELECT handle, wrapped FROM subject_keys")
                    if row[0] == handle
                )
            ),
            **{f"plain {n}": secret(n) for n in (1, 4, 298)},
            **{f"stored {n}": stored[n][24:72] for n in (1, 4, 298)},
        }
        if place.server:
            for url in place.urls.values():
                execute(url, "ANALYZE")
        assert {found.partition(" in ")[0] for found in place.holding(wanted)} >= {
            "wrapped",
            "stored 1",
            "stored 298",
        }
        outcome = forget(chain, events, clock, "bob")
        assert outcome.erased.tolist() == list(range(2, 301, 3))
        assert place.holding(wanted) == []
        assert events.keys.handles("bob") == []
        assert events.keys.keys([handle]) == {handle: None}
        check_chain(chain, events, now=clock() + 7200)
        report = checked(chain, events)
        assert (report.wrong, report.erased) == ([], 100)
        (record,) = Records(chain)
        assert record.erasure.count == 100
        assert b"bob" not in bytes(record.erasure)
        expected = [(None, None) if n % 3 == 1 else one for n, one in enumerate(before)]
        assert told(events) == expected
        rows = [row for batch in sealed_events(chain, events) for row in batch.to_pylist()]
        assert [(row["data"], row["metadata"]) for row in rows] == expected
        # who comes again is somebody new
        events.append("new", -1, [NewEvent("new", "t", b"again")], subject="bob")
        assert told(events)[-1] == (b"again", None)
        seal(chain, events, clock)
        assert checked(chain, events).wrong == []


def test_a_copy_of_forgotten_events_reads_as_tombstones(place: Place) -> None:
    """As in a backup, a replica, or where the erasure in place was broken off."""
    with closing(place.events()) as events:
        for n, subject in enumerate(["a", "b", "a"]):
            events.append("s", n - 1, [NewEvent(f"e{n}", "t", b"%d" % n, b"m")], subject=subject)
        copy = events.read(None, 10)
        handles = events.keys.begin_forgetting("a")
        assert positions_where(events, of_handles(handles)).tolist() == [1, 3]
        events.keys.destroy(handles)
        for _ in range(2):  # the name still leads to the destroyed key, until all is done
            assert events.keys.handles("a") == events.keys.begin_forgetting("a") == handles
            readable, forgotten = events.decrypted(copy)
            assert forgotten.tolist() == [True, False, True]
            assert readable["data"].to_pylist() == [None, b"1", None]
            assert readable["metadata"].to_pylist() == [b"m"] * 3  # it was not encrypted
            assert readable.drop_columns(["data"]).equals(copy.drop_columns(["data"]))
            events.keys.destroy(handles)
        events.keys.end_forgetting(handles)
        assert events.keys.handles("a") == []


@pytest.mark.parametrize("step", ["closed", "recorded", "destroyed"])
def test_forgetting_is_gone_on_with(place: Place, step: str) -> None:
    clock = Clock()
    with closing(place.events()) as events, opened(place) as chain:
        for n in range(6):
            events.append("s", n - 1, [NewEvent(f"e{n}", "t", secret(n))], subject="ab"[n % 2])
        begin(chain, events, clock)
        handles = events.keys.begin_forgetting("a")
        if step != "closed":
            with sealing(chain, events, clock) as sealer:
                assert record_forgetting(sealer, events, events.keys, "a", "r", "dpo", 48) == handles
        if step == "destroyed":
            events.keys.destroy(handles)
        events.append("s", 5, [NewEvent("e6", "t", secret(6))], subject="a")  # under a new key
        assert forget(chain, events, clock, "a").erased.tolist() == [1, 3, 5, 7]
        assert [n for n, (data, _) in enumerate(told(events)) if data is None] == [0, 2, 4, 6]
        assert checked(chain, events).wrong == []
        assert events.keys.handles("a") == []


def test_appending_while_a_subject_is_forgotten_leaves_nothing_unreadable(place: Place) -> None:
    clock, stop, counts = Clock(), threading.Event(), [0, 0]
    with closing(place.events()) as events, opened(place) as chain:
        events.append("s", -1, [NewEvent("first", "t", b"x")], subject="a")
        begin(chain, events, clock)

        def write(number: int) -> None:
            with closing(place.events()) as mine:
                while not stop.is_set():
                    count = counts[number]
                    event = NewEvent(f"{number}-{count}", "t", b"x")
                    mine.append(f"w{number}", count - 1, [event], subject="a")
                    counts[number] += 1
                    time.sleep(0.01)  # waiting for SQLite's lock is not fair

        def both_wrote() -> None:
            before, until = [*counts], time.monotonic() + 60
            while any(now < old + 3 for now, old in zip(counts, before, strict=True)):
                assert time.monotonic() < until
                time.sleep(0.01)

        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(write, number) for number in range(2)]
            try:
                for _ in range(2):
                    both_wrote()
                    forget(chain, events, clock, "a")
                both_wrote()
            finally:
                stop.set()
            for writer in writers:
                writer.result()
        seal(chain, events, clock)
        assert checked(chain, events).wrong == []
        batch = events.read(None, 100_000)
        readable, forgotten = events.decrypted(batch)
        assert batch.num_rows == 1 + sum(counts)
        assert not forgotten.any()  # all that was encrypted under a destroyed key is on record, and erased
        on_record = Records(chain).cover(batch["position"].to_numpy(), sealed=True)
        assert (on_record == readable["data"].is_null().to_numpy(zero_copy_only=False)).all()
        assert 0 < on_record.sum() < batch.num_rows


def test_an_open_transaction_is_waited_for(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventchain.subjects.forget.PATIENCE", 0.5)
    place, clock = Place("postgresql", tmp_path, postgres), Clock()
    with closing(place.events()) as events, opened(place) as chain:
        events.keys.create()
        events.append("s", -1, [NewEvent("e0", "t", b"0")], subject="a")
        begin(chain, events, clock)
        with connected(place.urls["events"]) as other:
            other.execute("BEGIN")
            other.execute("INSERT INTO events (stream, version, id, type, time) VALUES ('o', 0, 'o', 't', 0)")
            events.append("s", 0, [NewEvent("e1", "t", b"1")], subject="a")
            with pytest.raises(StoreError, match="open transactions keep the newest events"):
                forget(chain, events, clock, "a")
            assert told(events)[0] == (b"0", None)
            other.execute("COMMIT")
        assert forget(chain, events, clock, "a").erased.tolist() == [1, 3]
        assert checked(chain, events).wrong == []


def test_altered_events_stop_it_before_anything_is_destroyed(place: Place) -> None:
    clock = Clock()
    with closing(place.events()) as events, opened(place) as chain:
        for n in range(3):
            events.append("s", n - 1, [NewEvent(f"e{n}", "t", b"x")], subject="a")
        begin(chain, events, clock)
        place.sql("events", "UPDATE events SET type = 'u' WHERE position = 2")
        with pytest.raises(EventChainError, match="position 2 is not what was sealed"):
            forget(chain, events, clock, "a")
        place.sql("events", "UPDATE events SET type = 't' WHERE position = 2")
        assert told(events) == [(b"x", None)] * 3
        assert forget(chain, events, clock, "a").erased.tolist() == [1, 2, 3]
