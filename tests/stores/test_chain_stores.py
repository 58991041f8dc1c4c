"""What every chain store promises, whatever keeps it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import execute
from sqlalchemy import create_engine, text

from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import (
    TILE,
    Blocks,
    Branch,
    ChainStore,
    Extent,
    Incarnation,
    Piece,
    Tile,
)
from eventchain.errors import ConfigError, LockedError, StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import HEADER

fresh = multiprocessing.get_context("forkserver")  # children that share nothing, and start fast
fresh.set_forkserver_preload(["eventchain.chainstores.sql", "eventchain.chainstores.sqlite"])

I64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URLs where nothing is yet."""
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        return (postgres.new_database() for _ in itertools.count())
    folder = tmp_path_factory.mktemp("chain stores")
    return (f"sqlite:///{folder}/chain {n}.db" for n in itertools.count())


@pytest.fixture
def url(urls: Iterator[str]) -> str:
    return next(urls)


@pytest.fixture
def store(url: str) -> Iterator[ChainStore]:
    with closing(open_chain_store(url, create=True)) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(urls: Iterator[str]) -> Iterator[ChainStore]:
    """One store for all examples of a property; each takes a new branch."""
    with closing(open_chain_store(next(urls), create=True)) as opened:
        yield opened


def new_branch(store: ChainStore, origin: str = "") -> int:
    with store.writer(), store.transaction():
        return store.add_branch(origin or f"example.com/{len(store.branches())}").id


def some_blocks(first: int, count: int, *, time: int = 0, size: int = 40) -> Blocks:
    headers = np.zeros(count, HEADER)
    headers["version"], headers["time"], headers["nonce"] = 0x20000000, time, np.arange(count) * bool(time)
    heights = np.arange(first, first + count, dtype=np.int64)
    manifests = [f"height {height}\n".encode().ljust(size, b".") for height in heights]
    return Blocks(heights, headers, np.zeros(count, np.int64), manifests)


def same(left: Blocks, right: Blocks) -> bool:
    return (
        left.heights.tolist() == right.heights.tolist()
        and left.headers.tobytes() == right.headers.tobytes()
        and left.extranonces.tolist() == right.extranonces.tolist()
        and left.manifests == right.manifests
    )


def some_piece(index: int, leaves: int = TILE) -> Piece:
    return Piece(index, bytes([index % 256]) * 16 * leaves, bytes(8 * leaves), bytes(32))


def edit(url: str, *statements: str) -> None:
    """What someone with rights in the database does."""
    if url.startswith("postgresql"):
        execute(url, *(re.sub(r"x'(\w*)'", r"'\\x\1'::bytea", statement) for statement in statements))
        return
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


# -- what is written is read back ----------------------------------------------------------------------


def test_a_new_store_is_empty(store: ChainStore) -> None:
    assert store.branches() == []
    assert len(store.blocks(1, 0, 10)) == len(store.last_block(1)) == 0
    assert store.blocks(1, 0, 10).headers.dtype == HEADER
    assert not store.tiles(1, 0, 0, 10)
    assert not store.pieces(1, 0, 10)
    assert not store.strays()
    assert store.events(1, None, 10).schema == EVENT_SCHEMA


def test_branches_in_the_order_they_were_added(store: ChainStore, url: str) -> None:
    assert store.url == url
    with store.writer():
        with store.transaction():
            added = [store.add_branch(origin) for origin in ("z.example", "a.example/x", "z.example@2")]
        with pytest.raises(StoreError), store.transaction():
            store.add_branch("z.example")
    assert store.branches() == added
    assert added == sorted(added)
    assert isinstance(added[0], Branch)
    with closing(open_chain_store(url)) as again:
        assert again.branches() == added


@settings(deadline=None, max_examples=25)
@given(data=st.data(), count=st.integers(0, 20), first=st.integers(0, 2**63 - 21))
def test_any_blocks_come_back_as_they_were(shared: ChainStore, data: Any, count: int, first: int) -> None:
    raw = data.draw(st.binary(min_size=80 * count, max_size=80 * count))
    blocks = Blocks(
        np.arange(first, first + count, dtype=np.int64),
        np.frombuffer(raw, HEADER),
        np.array(data.draw(st.lists(I64, min_size=count, max_size=count)), np.int64),
        data.draw(st.lists(st.binary(max_size=500), min_size=count, max_size=count)),
    )
    branch = new_branch(shared)
    with shared.writer(), shared.transaction():
        shared.add_blocks(branch, blocks)
    assert same(shared.blocks(branch, 0, 100), blocks)
    assert same(shared.blocks(branch, first + 1, 3), cut(blocks, 1, 4))
    assert same(shared.last_block(branch), cut(blocks, max(count - 1, 0), count))


def cut(blocks: Blocks, start: int, stop: int) -> Blocks:
    at = slice(start, stop)
    return Blocks(blocks.heights[at], blocks.headers[at], blocks.extranonces[at], blocks.manifests[at])


def test_headers_that_were_read_can_be_written_in(store: ChainStore) -> None:
    branch = new_branch(store)
    with store.writer(), store.transaction():
        store.add_blocks(branch, some_blocks(0, 3))
    blocks = store.blocks(branch, 0, 3)
    blocks.headers["nonce"] = 7
    assert blocks.headers.flags.c_contiguous


def test_a_height_is_taken_once(store: ChainStore) -> None:
    branch = new_branch(store)
    with store.writer():
        with store.transaction():
            store.add_blocks(branch, some_blocks(0, 3))
        with pytest.raises(StoreError) as caught, store.transaction():
            store.add_blocks(branch, some_blocks(2, 3))
    assert caught.value.hint
    assert same(store.blocks(branch, 0, 9), some_blocks(0, 3))


def test_partial_tiles_and_pieces_grow(store: ChainStore) -> None:
    branch = new_branch(store)
    tiles = [Tile(0, 0, b"a" * 8192), Tile(0, 1, b"b" * 32), Tile(1, 0, b"c" * 64)]
    pieces = [some_piece(0), some_piece(1, 1)]
    with store.writer(), store.transaction():
        store.put_tiles(branch, tiles)
        store.put_pieces(branch, pieces)
    assert store.tiles(branch, 0, 0, 10) == tiles[:2]
    assert store.tiles(branch, 1, 0, 10) == tiles[2:]
    assert store.tiles(branch, 0, 1, 10) == tiles[1:2]
    assert store.pieces(branch, 0, 1) == pieces[:1]
    with store.writer(), store.transaction():
        store.put_tiles(branch, [Tile(0, 1, b"d" * 64), Tile(0, 2, b"e" * 32)])
        store.put_pieces(branch, [some_piece(1, 2)])
    assert store.tiles(branch, 0, 1, 10) == [Tile(0, 1, b"d" * 64), Tile(0, 2, b"e" * 32)]
    assert store.tiles(branch, 1, 0, 10) == tiles[2:]
    assert store.pieces(branch, 1, 10) == [some_piece(1, 2)]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
EVENT = st.fixed_dictionaries(
    {
        "stream": TEXT,
        "version": I64,
        "id": TEXT,
        "type": TEXT,
        "time": I64,
        "data": st.none() | st.binary(max_size=100),
        "metadata": st.none() | st.binary(max_size=100),
    }
)


@settings(deadline=None, max_examples=25)
@given(events=st.dictionaries(st.integers(0, 2**63 - 1), EVENT, max_size=5))
def test_any_events_come_back_as_they_were(shared: ChainStore, events: dict[int, dict[str, Any]]) -> None:
    rows = [{"position": position, **events[position]} for position in sorted(events)]
    batch = pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)
    branch = new_branch(shared)
    with shared.writer(), shared.transaction():
        shared.add_events(branch, batch)
    assert shared.events(branch, None, 100).equals(batch)
    for i, position in enumerate(sorted(events)):
        assert shared.events(branch, position, 2).equals(batch.slice(i + 1, 2))


# -- a solution is never replaced ----------------------------------------------------------------------


def test_only_unmined_blocks_are_solved(store: ChainStore) -> None:
    branch, other = new_branch(store), new_branch(store)
    first, second = some_blocks(0, 5, time=1_700_000_000), some_blocks(0, 8, time=1_800_000_000)
    first.extranonces[:] = 2**63 - 1
    with store.writer():
        with store.transaction():
            for each in (branch, other):
                store.add_blocks(each, some_blocks(0, 8))
            without = Blocks(first.heights, first.headers, first.extranonces, manifests=[])
            assert store.solve_blocks(branch, without) == 5
        with store.transaction():
            assert store.solve_blocks(branch, second) == 3  # and the five stay as they are
        with store.transaction():
            assert store.solve_blocks(branch, second) == 0
            assert store.solve_blocks(branch, some_blocks(8, 2, time=1)) == 0  # no such heights
            assert store.solve_blocks(branch, some_blocks(0, 0)) == 0
    assert same(store.blocks(branch, 0, 5), first)
    assert same(store.blocks(branch, 5, 9), cut(second, 5, 8))
    assert same(store.blocks(other, 0, 9), some_blocks(0, 8))


@pytest.mark.parametrize("mined", [1, 1 << 8, 1 << 16, 1 << 24])
def test_every_byte_of_the_time_counts(store: ChainStore, mined: int) -> None:
    branch = new_branch(store)
    with store.writer(), store.transaction():
        store.add_blocks(branch, some_blocks(0, 1, time=mined))
        assert store.solve_blocks(branch, some_blocks(0, 1, time=5)) == 0
    assert store.last_block(branch).headers["time"].tolist() == [mined]


# -- transactions and writers --------------------------------------------------------------------------


def write_and_fail(store: ChainStore, branch: int) -> None:
    with store.transaction():
        store.add_branch("example.com/never")
        store.add_blocks(branch, some_blocks(0, 3))
        store.put_pieces(branch, [some_piece(0)])
        assert len(store.blocks(branch, 0, 9)) == 3  # who writes sees it
        raise ZeroDivisionError


def test_an_exception_takes_everything_back(store: ChainStore) -> None:
    branch = new_branch(store)
    with store.writer():
        with pytest.raises(ZeroDivisionError):
            write_and_fail(store, branch)
        assert len(store.branches()) == 1
        assert len(store.blocks(branch, 0, 9)) == len(store.pieces(branch, 0, 9)) == 0
        with store.transaction():
            store.add_blocks(branch, some_blocks(0, 2))
    assert len(store.blocks(branch, 0, 9)) == 2


def test_writing_elsewhere_than_in_a_writers_transaction_is_a_bug(store: ChainStore) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        pass
    with pytest.raises(RuntimeError):
        store.add_branch("example.com")
    with store.writer():
        with pytest.raises(RuntimeError):
            store.put_tiles(1, [Tile(0, 0, b"")])
        with store.transaction(), pytest.raises(RuntimeError), store.transaction():
            pass
    with pytest.raises(RuntimeError), store.transaction():
        pass
    assert store.branches() == []


def test_a_snapshot_sees_one_commit_whoever_writes_meanwhile(store: ChainStore, url: str) -> None:
    reader = open_chain_store(url)
    with store.writer(), store.transaction():
        store.add_branch("first")
    with reader.snapshot():
        assert len(reader.branches()) == 1
        with store.writer(), store.transaction():
            store.add_branch("second")
        assert len(reader.branches()) == 1
    assert len(reader.branches()) == 2
    reader.close()


def test_readers_see_the_last_commit_while_a_transaction_is_open(store: ChainStore, url: str) -> None:
    branch = new_branch(store)
    seen: list[int] = []

    def read() -> None:
        seen.append(len(store.blocks(branch, 0, 100)))

    with closing(open_chain_store(url)) as reader, store.writer():
        for expected in (0, 4, 8):
            with store.transaction():
                store.add_blocks(branch, some_blocks(expected, 4))
                assert len(reader.blocks(branch, 0, 100)) == expected
                thread = threading.Thread(target=read)  # another thread of the very same store
                thread.start()
                thread.join()
            assert len(reader.blocks(branch, 0, 100)) == expected + 4
    assert seen == [0, 4, 8]


def _try_to_write(url: str, answer: Any) -> None:
    with closing(open_chain_store(url)) as store:
        try:
            with store.writer():
                answer.send(None)
        except LockedError as error:
            answer.send((error.message, error.hint))


def ask(target: Any, url: str) -> Any:
    here, there = fresh.Pipe()
    child = fresh.Process(target=target, args=(url, there))
    child.start()
    there.close()
    try:
        return here.recv()
    finally:
        child.join(30)
        here.close()


def test_a_second_writer_is_refused(store: ChainStore, url: str) -> None:
    with closing(open_chain_store(url)) as second:
        with store.writer():
            for other in (store, second):
                with pytest.raises(LockedError) as caught, other.writer():
                    pass
                assert caught.value.hint
            message, hint = ask(_try_to_write, url)
            assert f"pid {os.getpid()}" in message
            assert hint
            with store.transaction():  # the refusals have not harmed the one who holds it
                store.add_branch("example.com")
        assert ask(_try_to_write, url) is None
        with second.writer(), second.transaction():
            second.add_branch("example.com/second")


PER_TRANSACTION = 10


def _write_until_killed(url: str, answer: Any) -> None:
    with closing(open_chain_store(url)) as store, store.writer():
        n = len(store.pieces(1, 0, 2**31))
        while True:
            with store.transaction():
                store.add_blocks(1, some_blocks(n * PER_TRANSACTION, PER_TRANSACTION, size=3000))
                store.put_tiles(1, [Tile(0, n, bytes(8192))])
                store.put_pieces(1, [some_piece(n)])
                store.solve_blocks(1, some_blocks(n * PER_TRANSACTION, PER_TRANSACTION, time=9))
            n += 1
            answer.send(n)


def test_kill_9_leaves_whole_transactions_and_loses_none(
    store: ChainStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventchain.chainstores.postgresql.LOCK_SECONDS", 60.0)  # a busy server hears late
    new_branch(store)
    dice = random.Random(2)
    done = 0
    for _ in range(10):
        here, there = fresh.Pipe()
        child = fresh.Process(target=_write_until_killed, args=(url, there))
        child.start()
        there.close()
        done = max(done, here.recv())
        time.sleep(dice.uniform(0, 0.05))
        child.kill()
        child.join(30)
        try:
            while here.poll():
                done = here.recv()
        except EOFError:
            pass
        here.close()

        with store.writer():  # the lock died with its holder, and a server has heard of it
            pass
        whole = len(store.pieces(1, 0, 2**31))
        assert done <= whole <= done + 1  # killed after the commit and before it could tell
        assert [tile.index for tile in store.tiles(1, 0, 0, 2**31)] == list(range(whole))
        blocks = store.blocks(1, 0, 2**31)
        assert blocks.heights.tolist() == list(range(whole * PER_TRANSACTION))
        assert set(blocks.headers["time"].tolist()) == {9}
    assert done >= 10


# -- rows that were edited by hand ---------------------------------------------------------------------


def test_edited_rows_are_read_as_they_stand(store: ChainStore, url: str) -> None:
    branch = new_branch(store)
    event = {"position": 0, "stream": "s", "version": 0, "id": "i", "type": "t", "time": 0, "data": b"d"}
    with store.writer(), store.transaction():
        store.add_blocks(branch, some_blocks(0, 6, time=5))
        store.put_tiles(branch, [Tile(0, 0, bytes(32))])
        store.put_pieces(branch, [some_piece(0)])
        store.add_events(branch, pa.RecordBatch.from_pylist([event], schema=EVENT_SCHEMA))
    edit(
        url,
        "UPDATE blocks SET header = x'00' WHERE height = 1",
        f"UPDATE blocks SET header = x'{'05' * 81}', extranonce = -9223372036854775808 WHERE height = 2",
        "UPDATE blocks SET manifest = x'' WHERE height = 3",
        "DELETE FROM blocks WHERE height = 4",
        "UPDATE blocks SET height = 9223372036854775807 WHERE height = 5",
        "UPDATE tiles SET hashes = x'ff'",
        "UPDATE pieces SET salts = x'', positions = x'01', digest = x'02'",
        "UPDATE branch_events SET version = -9223372036854775808, data = NULL, stream = '', id = '☃'",
        "UPDATE branches SET origin = 'no such/ORIGIN\n'",
    )
    blocks = store.blocks(branch, 0, 10)
    assert blocks.heights.tolist() == [0, 1, 2, 3, 2**63 - 1]
    assert blocks.headers["time"].tolist() == [5, 0, 0, 5, 5]
    assert not blocks.headers[1:3].tobytes().strip(b"\0")
    assert blocks.extranonces.tolist() == [0, 0, -(2**63), 0, 0]
    assert blocks.manifests[3] == b""
    assert store.last_block(branch).heights.tolist() == [2**63 - 1]
    assert store.tiles(branch, 0, 0, 9) == [Tile(0, 0, b"\xff")]
    assert store.pieces(branch, 0, 9) == [Piece(0, b"", b"\x01", b"\x02")]
    (row,) = store.events(branch, None, 9).to_pylist()
    assert (row["stream"], row["id"], row["version"], row["data"]) == ("", "☃", -(2**63), None)
    assert store.branches() == [Branch(branch, "no such/ORIGIN\n")]
    with store.writer(), store.transaction():  # a header of the wrong length is not unmined
        assert store.solve_blocks(branch, some_blocks(1, 2, time=7)) == 0


def test_rows_that_no_reader_returns_are_named(store: ChainStore, url: str) -> None:
    branch = new_branch(store)
    with store.writer(), store.transaction():
        store.add_blocks(branch, some_blocks(0, 2))
        store.put_tiles(branch, [Tile(0, 0, b""), Tile(7, 0, b"")])
        store.put_pieces(branch, [some_piece(0)])
    assert store.strays() == []
    edit(
        url,
        "INSERT INTO blocks VALUES (77, 3, x'', 0, x'')",
        "UPDATE blocks SET height = -1 WHERE height = 1",
        "INSERT INTO tiles VALUES (1, -1, 0, x''), (1, 8, 0, x''), (1, 0, -5, x''), (-2, 0, 0, x'')",
        "INSERT INTO pieces VALUES (1, -1, x'', x'', x''), (2, 0, x'', x'', x'')",
        "INSERT INTO branch_events VALUES (1, -1, '', 0, '', '', 0, NULL, NULL)",
        "INSERT INTO branch_events VALUES (9, 0, '', 0, '', '', 0, x'', x'')",
    )
    assert store.strays() == [
        "blocks: branch 1, height -1: out of range",
        "blocks: branch 77, height 3: there is no such branch",
        "tiles: branch -2, level 0, tile 0: there is no such branch",
        "tiles: branch 1, level -1, tile 0: out of range",
        "tiles: branch 1, level 0, tile -5: out of range",
        "tiles: branch 1, level 8, tile 0: out of range",
        "pieces: branch 1, tile -1: out of range",
        "pieces: branch 2, tile 0: there is no such branch",
        "branch_events: branch 1, position -1: out of range",
        "branch_events: branch 9, position 0: there is no such branch",
    ]
    assert store.blocks(branch, -5, 9).heights.tolist() == [0]
    assert [tile.index for tile in store.tiles(branch, 0, -9, 9)] == [0]
    assert [piece.index for piece in store.pieces(branch, -9, 9)] == [0]
    assert store.events(branch, -9, 9).num_rows == 0


def test_marked_blocks_and_extents(store: ChainStore, url: str) -> None:
    said = [b"x\npolicy a", b"x\0\npin b\xff", b"", b"\npolicy", b"a\npolicy \npin "]
    branch = new_branch(store)
    rows = some_blocks(3, len(said))
    with store.writer(), store.transaction():
        store.add_blocks(branch, Blocks(rows.heights, rows.headers, rows.extranonces, said))
    marked = lambda marks, first=0, limit=9: store.marked(branch, marks, first, limit)  # noqa: E731
    assert marked([b"\npolicy "]).heights.tolist() == [3, 7]
    assert marked([b"\npin ", b"\npolicy "]).manifests == [said[0], said[1], said[4]]
    assert marked([b"\npin ", b"\npolicy "], 4, 1).heights.tolist() == [4]
    assert len(marked([b"\nfork "])) == 0
    assert len(store.marked(branch + 1, [b"x"], 0, 9)) == 0
    edit(url, "INSERT INTO blocks VALUES (77, -4, x'', 0, x'')", "DELETE FROM blocks WHERE height = 5")
    assert store.extents() == [Extent(branch, 3, 7, 4), Extent(77, -4, -4, 1)]


def test_an_incarnation_takes_the_place_of_what_it_was_built_for(store: ChainStore) -> None:
    branch, other = new_branch(store, "a/b"), new_branch(store, "a/c")
    with store.writer(), store.transaction():
        for owner in (branch, other):
            store.add_blocks(owner, some_blocks(0, 6))
            store.put_tiles(owner, [Tile(level, at, b"old" * 9) for level in (0, 1) for at in range(3)])
            store.put_pieces(owner, [some_piece(at) for at in range(3)])
        new = store.add_incarnation(branch, "a/b@2", 4)
        store.add_blocks(new.id, some_blocks(4, 1, size=99))
        store.put_tiles(new.id, [Tile(0, 1, b"new"), Tile(1, 0, b"root")])
        store.put_pieces(new.id, [some_piece(1, 7)])
    before = [store.blocks(other, 0, 9).manifests, store.tiles(other, 1, 0, 9), store.pieces(other, 0, 9)]
    assert store.incarnations() == [new]
    assert [extent.branch for extent in store.extents()] == [branch, other]
    assert store.strays() == []
    with store.writer(), store.transaction():
        store.swap(new, TILE + 5)
    assert store.branches() == [Branch(branch, "a/b@2"), Branch(other, "a/c")]
    assert store.incarnations() == [Incarnation(new.id, branch, "a/b", 4, True)]
    assert [len(raw) for raw in store.blocks(branch, 0, 9).manifests] == [40, 40, 40, 40, 99]
    assert store.blocks(new.id, 0, 9).heights.tolist() == [4, 5]
    assert store.tiles(branch, 0, 0, 9) == [Tile(0, 0, b"old" * 9), Tile(0, 1, b"new")]
    assert store.tiles(branch, 1, 0, 9) == [Tile(1, 0, b"root")]
    assert [tile.index for tile in store.tiles(new.id, 0, 0, 9)] == [1, 2]
    assert store.tiles(new.id, 1, 0, 9) == []
    assert store.pieces(branch, 0, 9) == [some_piece(0), some_piece(1, 7)]
    bare = [some_piece(at)._replace(salts=b"", digest=b"") for at in (1, 2)]
    assert store.pieces(new.id, 0, 9) == bare
    assert before == [
        store.blocks(other, 0, 9).manifests,
        store.tiles(other, 1, 0, 9),
        store.pieces(other, 0, 9),
    ]
    with store.writer():
        store.scrub(rows=True)
        with store.transaction():
            store.put_incarnation(store.incarnations()[0]._replace(unfinished=False))
        assert not store.incarnations()[0].unfinished
        with store.transaction():
            store.drop(store.incarnations()[0])
        assert store.incarnations() == [Incarnation(new.id, branch, "a/b", 4, True)]
        assert not len(store.blocks(new.id, 0, 9)) + len(store.pieces(new.id, 0, 9))
        with store.transaction():
            assert store.add_branch("a/d").id > new.id


def test_a_branch_that_is_closed(store: ChainStore) -> None:
    branch = new_branch(store, "a/b")
    with store.writer(), store.transaction():
        store.add_blocks(branch, some_blocks(3, 2))
        store.put_tiles(branch, [Tile(0, 0, b"leaf"), Tile(1, 0, b"root")])
        store.put_pieces(branch, [some_piece(0)])
        store.add_events(branch, pa.RecordBatch.from_pylist([some_event(0)], schema=EVENT_SCHEMA))
    with store.writer(), store.transaction():
        store.close_branch(store.branches()[0])
    assert store.branches() == store.extents() == store.strays() == []
    assert store.incarnations() == [Incarnation(branch, branch, "a/b", 0, True)]
    assert not len(store.blocks(branch, 0, 9)) + len(store.pieces(branch, 0, 9))
    assert not len(store.tiles(branch, 0, 0, 9)) + store.events(branch, None, 9).num_rows
    assert new_branch(store, "a/c") > branch


def some_event(position: int) -> dict[str, Any]:
    return {
        "position": position, "stream": "s", "version": 0, "id": "i", "type": "t", "time": 0,
        "data": b"state", "metadata": None,
    }  # fmt: skip


def test_many_strays_are_counted_and_not_all_listed(store: ChainStore, url: str) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
    edit(url, f"INSERT INTO pieces {numbers} SELECT 5, i, x'', x'', x'' FROM n")
    strays = store.strays()
    assert len(strays) == 1001
    assert strays[-1] == "pieces: 3000 such rows in all"


def test_a_branch_at_the_end_of_the_numbers(store: ChainStore, url: str) -> None:
    edit(url, "INSERT INTO branches VALUES (9223372036854775807, 'x'), (-3, 'y')")
    assert [branch.id for branch in store.branches()] == [-3, 2**63 - 1]
    with pytest.raises(StoreError), store.writer(), store.transaction():
        store.add_branch("z")
    edit(url, "DELETE FROM branches WHERE id > 0")
    assert new_branch(store, "z") == 1


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP TABLE pieces", "pieces"),
        ("ALTER TABLE blocks RENAME TO bloks", "blocks"),
        ("ALTER TABLE blocks DROP COLUMN manifest", "manifest"),
        ("ALTER TABLE tiles ADD COLUMN more BIGINT", "more"),
        ("ALTER TABLE tiles RENAME COLUMN hashes TO hash", "hash"),
    ],
)
def test_an_edited_schema_is_named(store: ChainStore, url: str, damage: str, named: str) -> None:
    branch = new_branch(store)
    edit(url, damage.replace("BIGINT", "INTEGER") if url.startswith("sqlite") else damage)
    with pytest.raises(StoreError, match=named) as caught:
        open_chain_store(url)
    assert caught.value.hint
    if "ADD" not in damage:  # a store that is open already
        with pytest.raises(StoreError):
            _ = store.blocks(branch, 0, 9), store.tiles(branch, 0, 0, 9), store.pieces(branch, 0, 9)


# -- opening -------------------------------------------------------------------------------------------


def test_creating_an_existing_store_opens_it(store: ChainStore, url: str) -> None:
    branch = new_branch(store, "example.com")
    with closing(open_chain_store(url, create=True)) as again:
        assert again.branches() == [Branch(branch, "example.com")]


@pytest.mark.parametrize(
    "url", ["", "chain.db", "redis://localhost", "sqlite://", "sqlite:///:memory:", "sqlite:///c.db?mode=ro"]
)
def test_what_is_no_url_of_a_chain_store(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_chain_store(url, create=True)
    assert caught.value.hint


def test_numbers_beyond_64_bits(store: ChainStore) -> None:
    with pytest.raises(StoreError):
        store.blocks(1, 2**64, 1)
