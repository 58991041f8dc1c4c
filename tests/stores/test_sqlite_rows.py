"""Rows taken by SQLite's C functions: the same events as by SQL, whatever is stored."""

from __future__ import annotations

import ctypes
import gc
import mmap
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.eventstores import open_event_store, sqlite_arrow, sqlite_rows
from eventchain.formats.event import EVENT_SCHEMA

# What cannot be reached here cannot be tested here: builds of Python that hide SQLite's functions.
pytestmark = pytest.mark.skipif(sqlite_rows._library() is None, reason="this Python hides SQLite's functions")

LOOSE = f"CREATE TABLE events (position INTEGER PRIMARY KEY, {', '.join(EVENT_SCHEMA.names[1:])})"


def write(path, rows, *, create=LOOSE):
    """A table without types, which takes any row: (stream, version, id, type, time, data, metadata)."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE IF EXISTS events")
        connection.execute(create)
        for row in rows:
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(v, tuple) else "?" for v in row)
            values = [v[0] if isinstance(v, tuple) else v for v in row]
            connection.execute(f"INSERT INTO events VALUES (NULL, {marks})", values)
        connection.commit()


def regular(count, data=b"x"):
    return [
        (f"s{n % 7}", n, f"e{n}", "tested", -n, data * (n % 50), b"" if n % 3 else None) for n in range(count)
    ]


def opened(path):
    store = open_event_store(f"sqlite:///{path}")
    assert store._rows is not None
    return closing(store)


def by_query(path, after=None, limit=100_000):
    """What the store reads without a reader of rows."""
    with opened(path) as store:
        store._rows = None
        return store.read(after, limit)


@pytest.fixture
def only_rows(monkeypatch):
    """No help from the query."""

    def refuse(*arguments):
        raise AssertionError("asked the query")

    monkeypatch.setattr(sqlite_arrow, "_packed", refuse)


@pytest.fixture
def cramped(monkeypatch):
    """Everything that happens with many rows happens with a few."""
    for name, value in {"ROWS": 5, "MIN_BYTES": 1, "FIRST_WIDTH": 1, "LEARN": 2, "MAX_WIDTH": 3}.items():
        monkeypatch.setattr(sqlite_rows, name, value)


def test_regular_rows_need_no_query(tmp_path, only_rows):
    path = tmp_path / "events.db"
    some = regular(1000)
    write(path, some)
    with opened(path) as store:
        batch = store.read(None, 5000)
        batch.validate(full=True)
        assert batch.schema == EVENT_SCHEMA
        assert [tuple(row.values()) for row in batch.to_pylist()] == [(n, *r) for n, r in enumerate(some, 1)]
        for after, limit in ((None, 1), (None, 0), (998, 10), (1000, 10), (3, 500), (None, 1000)):
            assert store.read(after, limit) == batch.slice(after or 0, limit)


def test_values_of_every_size_with_little_room(tmp_path, only_rows, cramped):
    path = tmp_path / "events.db"
    sizes = [0, 1, 2, 3, 10, 100, 5000, 0, 300_000, 1, *range(40), 70_000]
    some = [("s" * (n % 4), n, f"{n}" * (n + 1), "t", n, b"d" * size, None) for n, size in enumerate(sizes)]
    write(path, some)
    with opened(path) as store:
        for _ in range(2):
            batch = store.read(None, 1000)
            assert [tuple(row.values())[1:] for row in batch.to_pylist()] == some
        for limit in range(1, 20):
            assert store.read(5, limit) == batch.slice(5, limit)


def test_room_is_made_after_the_rows_that_were_read(tmp_path, only_rows):
    """Not for the longest there ever was: one large event must not make all later reads dear."""
    path = tmp_path / "events.db"
    write(path, [*regular(3000), ("s", 0, "large", "t", 0, b"x" * 5_000_000, None), *regular(3000)])
    with opened(path) as store:
        assert store.read(None, 10_000).num_rows == 6001
        assert store.read(None, 2000).num_rows == 2000
        assert max(store._rows._widths) < 100


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=9),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.tuples(st.binary(max_size=3)),
    st.sampled_from(["\ufdd0x", "\x1f", "a\0b", "", b"", (b"\xff",), (b"\xed\xa0\x80",), 5.0, "5"]),
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
NUMBER = st.integers(-(2**63), 2**63 - 1)
BYTES = st.none() | st.binary(max_size=9)
ROW = st.tuples(TEXT, NUMBER, TEXT, TEXT, NUMBER, BYTES, BYTES) | st.tuples(*[VALUES] * 7)


@settings(deadline=None, max_examples=100)
@given(st.lists(ROW, max_size=14), st.integers(0, 14), st.integers(0, 15))
def test_the_same_as_by_query(tmp_path_factory, some, after, limit):
    path = tmp_path_factory.mktemp("same") / "events.db"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROWS": 4, "MIN_BYTES": 1, "FIRST_WIDTH": 2, "LEARN": 2}.items():
            patch.setattr(sqlite_rows, name, value)
        patch.setattr(sqlite_arrow, "CHUNK", 3)
        write(path, some)
        with opened(path) as store:
            found = store.read(None, 100)
            found.validate(full=True)
            assert found == by_query(path)
            assert store.read(after, limit) == by_query(path, after, limit)


def test_rows_around_irregular_ones_need_no_query(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    some = regular(300)
    some[100] = ("s", 1.5, "real", "t", 0, b"", b"")
    some[200] = ("s", 1, (b"\xff",), "t", 0, b"", b"")
    some[250] = ("s", 2, "\ufdd0", "t", 0, b"", b"")
    write(path, some)
    expected = by_query(path)
    monkeypatch.setattr(sqlite_arrow, "CHUNK", 10)
    asked = []
    packed = sqlite_arrow._packed
    monkeypatch.setattr(sqlite_arrow, "_packed", lambda *a: asked.append(a[2]) or packed(*a))
    with opened(path) as store:
        assert store.read(None, 1000) == expected
    assert [where.rpartition(" ")[2] for where in asked] == ["100", "200", "250"]


def test_a_failure_is_left_to_the_query(tmp_path):
    path = tmp_path / "events.db"
    write(path, regular(10))
    with opened(path) as store:
        broken = "SELECT nothing FROM events", "SELECT abs(-9223372036854775807 - 1), 1, 1, 1, 1, 1, 1, 1"
        for query in broken:  # one that cannot be prepared, one that fails at its first step
            assert store._rows.read(query, 5) == ([], False)
        with pytest.raises(sqlite3.OperationalError, match="integer overflow"):
            store._connection.execute(broken[1])
        assert store.read(None, 10).num_rows == 10


def test_without_the_functions_of_sqlite(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    write(path, regular(100))
    expected = by_query(path)
    monkeypatch.setattr(sqlite_rows, "_library", lambda: None)
    with closing(open_event_store(f"sqlite:///{path}")) as store:
        assert store._rows is None
        assert store.read(None, 100) == expected


def test_another_copy_of_sqlite_is_not_used(tmp_path, monkeypatch):
    maps = Path("/proc/self/maps")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    files = [Path(name) for name in loaded if "libsqlite3.so" in name]
    if not files:
        pytest.skip("SQLite is no library of its own here, so there is no copy to be made of it")
    copy = sqlite_rows._load(str(shutil.copy(files[0], tmp_path / "another.so")))
    monkeypatch.setattr(sqlite_rows, "_library", lambda: copy)
    path = tmp_path / "events.db"
    write(path, regular(10))
    with closing(open_event_store(f"sqlite:///{path}")) as store:
        assert store._rows is None
        assert store.read(None, 100).num_rows == 10


def test_each_thread_gets_the_reader_of_its_own_connection(tmp_path, only_rows):
    wrong = []

    def work(me):
        for n in range(20):
            path = tmp_path / f"{me}-{n}.db"
            write(path, [(f"{me}-{n}", 0, "e", "t", 0, b"", b"")] * 3)
            with opened(path) as store:
                if store.read(None, 10)["stream"].to_pylist() != [f"{me}-{n}"] * 3:
                    wrong.append(path)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def statements(store):
    """How many prepared statements the connection has, Python's cached ones among them."""
    following = store._rows._library.sqlite3_next_stmt
    following.argtypes, following.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_void_p
    count, at = 0, None
    while at := following(store._rows._connection, at):
        count += 1
    return count


def test_nothing_is_left_behind(tmp_path):
    memory = Path("/proc/self/statm")
    if not memory.exists():
        pytest.skip("this system does not say how much memory is in use")
    path = tmp_path / "events.db"
    write(path, [*regular(400, b"12345678"), ("s", 1.5, "real", "t", 0, b"", b"")])
    with opened(path) as store:

        def used():
            for n in range(500):
                assert store.read(None, 400 if n % 20 else 401).num_rows >= 400  # every 20th meets the real
            gc.collect()
            pages = int(memory.read_text().split()[1])
            return statements(store), pa.total_allocated_bytes(), pages * mmap.PAGESIZE

        before, after = used(), used()
        assert after[:2] == before[:2]
        assert after[2] - before[2] < 10_000_000  # of the 50 MB that were read
