"""What is SQLite's own: the file, its rights, its damage, its size and its speed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import TILE, Blocks, ChainStore, Piece, Tile
from eventchain.errors import StoreError
from eventchain.formats.header import HEADER

NOBODY = 65534
fresh = multiprocessing.get_context("forkserver")


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def blocks_of(count: int, manifest: int = 400) -> Blocks:
    headers = np.zeros(count, HEADER)
    manifests = [os.urandom(manifest) for _ in range(count)]
    return Blocks(np.arange(count), headers, np.zeros(count, np.int64), manifests)


def fill(store: ChainStore, leaves: int, block: int = 1000) -> None:
    """A branch with random tiles, pieces and blocks, as they come for so many leaves."""
    tiles = -(-leaves // TILE)
    with store.writer(), store.transaction():
        branch = store.add_branch(f"example.com/{len(store.branches())}").id
        store.put_tiles(branch, [Tile(0, i, os.urandom(32 * TILE)) for i in range(tiles)])
        store.put_tiles(branch, [Tile(1, i, os.urandom(32 * TILE)) for i in range(-(-tiles // TILE))])
        sizes = (16 * TILE, 8 * TILE, 32)
        store.put_pieces(branch, [Piece(i, *map(os.urandom, sizes)) for i in range(tiles)])
        store.add_blocks(branch, blocks_of(leaves // block))


def read_all(store: ChainStore) -> tuple[int, int, int]:
    return len(store.blocks(1, 0, 2**31)), len(store.tiles(1, 0, 0, 2**31)), len(store.pieces(1, 0, 2**31))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A closed chain file of 20,000 leaves."""
    path = tmp_path / "chain.db"
    with closing(open_chain_store(url_of(path), create=True)) as store:
        fill(store, 20_000)
    return path


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


# -- the file ------------------------------------------------------------------------------------------


def test_a_commit_is_on_the_disk_and_readers_are_not_blocked(chain: Path) -> None:
    edit(chain, "PRAGMA journal_mode = DELETE")  # as a copy made by VACUUM INTO comes
    with closing(open_chain_store(url_of(chain))) as store, store.writer(), store.transaction():
        connection: Any = store._own.connection  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_relative_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    for name in ("chain.db", "a folder/ch#a in?.db", "schön 100%25.db"):
        url = f"sqlite:///{name.replace('?', '%3F')}"
        with closing(open_chain_store(url, create=True)) as store, store.writer(), store.transaction():
            store.add_branch(f"example.com/{len(name)}")
            monkeypatch.chdir("/")  # a path is meant from where the store was opened
            assert len(store.branches()) == 1
        monkeypatch.chdir(tmp_path)
        with closing(open_chain_store(url)) as store:
            assert len(store.branches()) == 1
    found = {path.name for path in tmp_path.rglob("*.db")}
    assert found == {"chain.db", "ch#a in?.db", "schön 100%.db"}


def test_one_lock_by_whatever_name_the_file_is_reached(chain: Path) -> None:
    link = chain.with_name("link.db")
    link.symlink_to(chain)
    with closing(open_chain_store(url_of(chain))) as store, closing(open_chain_store(url_of(link))) as other:
        with store.writer(), pytest.raises(StoreError), other.writer():
            pass
        with other.writer():
            pass


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes, create: bool) -> None:
    path = tmp_path / "chain.db"
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        open_chain_store(url_of(path), create)
    assert caught.value.hint
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("create", [False, True])
def test_another_applications_database_is_left_alone(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "shop.db"
    edit(path, "CREATE TABLE orders (id)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a chain store"):
        open_chain_store(url_of(path), create)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file") as caught:
        open_chain_store(url_of(tmp_path / "chain.db"))
    assert caught.value.hint
    with pytest.raises(StoreError):
        open_chain_store(url_of(tmp_path / "missing" / "chain.db"), create=True)
    with pytest.raises(StoreError):
        open_chain_store(url_of(tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="not a chain store"):
        open_chain_store(url_of(tmp_path / "empty.db"))
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_readers_leave_no_lock_file(tmp_path: Path, chain: Path) -> None:
    (tmp_path / "chain.db.lock").unlink()
    with closing(open_chain_store(url_of(chain))) as store:
        assert read_all(store) == (20, 79, 79)
    assert list(tmp_path.iterdir()) == [chain]


# -- rights: an auditor who may only read --------------------------------------------------------------


def _audit(path: Path, answer: Any) -> None:
    """As a user without rights (when the tests run as root, whom rights do not bind): read, then write."""
    if os.geteuid() == 0:
        warm = path.with_name("warm.db")  # everything is imported before the rights are gone
        with closing(open_chain_store(url_of(warm), create=True)) as store:
            read_all(store)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    else:
        path.parent.chmod(0o555)
    try:
        with closing(open_chain_store(url_of(path))) as store:
            answer.send(read_all(store))
            answer.recv()
            with store.writer(), store.transaction():
                answer.send("written")
    except StoreError as error:
        answer.send((error.message, error.hint))


@contextmanager
def auditor(path: Path) -> Iterator[Any]:
    for folder in path.parents:  # let others through to it: pytest's folders are private
        state = folder.stat()
        if state.st_uid == os.geteuid() and state.st_mode & 0o055 != 0o055:
            folder.chmod(state.st_mode & 0o777 | 0o011)
    here, there = fresh.Pipe()
    child = fresh.Process(target=_audit, args=(path, there))
    child.start()
    there.close()
    try:
        yield here
    finally:
        child.join(30)
        here.close()
        path.parent.chmod(0o755)


def test_a_read_only_folder_can_be_audited(chain: Path) -> None:
    with auditor(chain) as child:
        assert child.recv() == (20, 79, 79)
        child.send("go on")
        message, hint = child.recv()
        assert "reading only" in message
        assert hint
    assert not chain.with_name("chain.db-wal").exists()


def test_a_chain_that_is_being_written_can_be_audited(chain: Path) -> None:
    with closing(open_chain_store(url_of(chain))) as store, store.writer():
        with store.transaction():
            store.add_blocks(1, Blocks(np.array([20]), np.zeros(1, HEADER), np.zeros(1, np.int64), [b"new"]))
        with store.transaction():
            store.put_pieces(1, [Piece(99, b"", b"", b"")])  # not committed yet
            with auditor(chain) as child:
                assert child.recv() == (21, 79, 79)
                child.send("go on")
                message, hint = child.recv()
                assert "lock" in message
                assert hint


def test_commits_that_could_not_be_seen_are_not_passed_over(tmp_path: Path, chain: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    copy = folder / "chain.db"
    with closing(open_chain_store(url_of(chain))) as store, store.writer():
        with store.transaction():
            store.add_blocks(1, Blocks(np.array([20]), np.zeros(1, HEADER), np.zeros(1, np.int64), [b"new"]))
        shutil.copy(chain, copy)
        shutil.copy(f"{chain}-wal", f"{copy}-wal")
    with auditor(copy) as child:
        answer = child.recv()
        if answer != (21, 79, 79):  # a version of SQLite may know how to read it
            assert "chain.db-wal" in answer[0]
            assert "copy both files" in answer[1]
        else:
            child.send("go on")


def test_a_read_only_chain_that_changes_meanwhile(chain: Path) -> None:
    store: Any = open_chain_store(url_of(chain))
    with closing(store):
        store._database._freeze()  # what opening does where the folder cannot be written
        assert read_all(store) == (20, 79, 79)
        edit(chain, "PRAGMA journal_mode = DELETE", "DELETE FROM blocks")
        with pytest.raises(StoreError, match="changed while it was read"):
            store.blocks(1, 0, 5)


# -- damage and edits of the file ----------------------------------------------------------------------


def test_damaged_pages(chain: Path) -> None:
    content = bytearray(chain.read_bytes())
    for page in range(12, len(content) // 4096, 2):
        content[page * 4096 : (page + 1) * 4096] = b"\xee" * 4096
    chain.write_bytes(content)
    with pytest.raises(StoreError) as caught, closing(open_chain_store(url_of(chain))) as store:
        read_all(store)
    assert "damaged" in caught.value.message
    assert caught.value.hint


def test_a_truncated_file(chain: Path) -> None:
    os.truncate(chain, chain.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(StoreError) as caught, closing(open_chain_store(url_of(chain))) as store:
        read_all(store)
    assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        ["CREATE TRIGGER t AFTER UPDATE ON blocks BEGIN DELETE FROM blocks WHERE height = 3; END"],
        ["DROP TABLE pieces", "CREATE VIEW pieces AS SELECT 1 AS branch, 0 AS tile"],
        ["DROP TABLE blocks", "CREATE TABLE blocks (branch, height, header, extranonce, manifest)"],
    ],
)
def test_tables_that_were_replaced(chain: Path, change: list[str]) -> None:
    edit(chain, *change)
    with pytest.raises(StoreError, match=r"blocks|pieces") as caught:
        open_chain_store(url_of(chain))
    assert "schema" in caught.value.hint


def test_text_that_is_no_utf8(chain: Path) -> None:
    edit(
        chain,
        "UPDATE branches SET origin = CAST(x'ff61' AS TEXT)",
        "INSERT INTO branch_events VALUES"
        " (1, 0, CAST(x'80' AS TEXT), 0, CAST(x'00' AS TEXT), CAST(x'eda080' AS TEXT), 0, NULL, NULL)",
    )
    with closing(open_chain_store(url_of(chain))) as store:
        assert store.branches()[0].origin == "\ufffda"
        (event,) = store.events(1, None, 9).to_pylist()
        assert (event["stream"], event["id"]) == ("\ufffd", "\0")
        assert "\ufffd" in event["type"]


def test_values_of_the_wrong_type(chain: Path) -> None:
    """STRICT forbids them, but the schema can be edited, and put back afterwards."""
    with closing(sqlite3.connect(chain)) as connection:
        (strict,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'blocks'").fetchone()
    columns = "branch, height, header, extranonce, manifest"
    loose = f"CREATE TABLE blocks ({columns}, PRIMARY KEY (branch, height)) WITHOUT ROWID"
    for schema, statement in (
        (loose, "UPDATE blocks SET header = 'text', extranonce = NULL, manifest = 4.5 WHERE height = 2"),
        (strict, "SELECT 1"),
    ):
        with closing(sqlite3.connect(chain)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'blocks'", [schema])
            connection.commit()
        edit(chain, statement)
    with closing(open_chain_store(url_of(chain))) as store:
        blocks = store.blocks(1, 2, 1)
        assert not blocks.headers.tobytes().strip(b"\0")
        assert blocks.extranonces.tolist() == [-(2**63)]
        assert blocks.manifests == [b""]


def write_on_a_full_disk(store: Any) -> None:
    with store.writer(), store.transaction():
        store._own.connection.exec_driver_sql("PRAGMA max_page_count = 1")  # as full as it can be
        store.add_blocks(1, Blocks(np.array([20]), np.zeros(1, HEADER), np.zeros(1, np.int64), [b"new"]))
        store.put_tiles(1, [Tile(0, i, bytes(8192)) for i in range(1000, 1100)])


def test_a_full_disk(chain: Path) -> None:
    store: Any = open_chain_store(url_of(chain))
    with closing(store):
        with pytest.raises(StoreError, match="full") as caught:
            write_on_a_full_disk(store)
        assert "make room" in caught.value.hint
        assert read_all(store) == (20, 79, 79)


def test_a_file_that_another_program_holds(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventchain.chainstores.sqlite.BUSY_SECONDS", 0.05)
    with closing(open_chain_store(url_of(chain))) as store, closing(sqlite3.connect(chain)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program"), store.writer(), store.transaction():
            pass
        other.rollback()
        with store.writer(), store.transaction():
            store.add_branch("example.com/x")


# -- size ----------------------------------------------------------------------------------------------


def test_bytes_an_event(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    with closing(open_chain_store(url_of(path), create=True)) as store:
        fill(store, 100_000)
    assert list(tmp_path.glob("chain.db-*")) == []
    assert path.stat().st_size / 100_000 <= 75  # 56 of them are hash, salt and position


def test_reading_leaves_no_file_of_the_auditors_behind(tmp_path: Path, chain: Path) -> None:
    """A chain file that may not be written, in a folder that may."""
    folder = tmp_path / "open to all"
    folder.mkdir()
    copy = folder / "chain.db"
    shutil.copy(chain, copy)
    copy.chmod(0o444)
    folder.chmod(0o777)
    with auditor(copy) as child:
        assert child.recv() == (20, 79, 79)
        child.send("go on")
    assert {file.name for file in folder.iterdir()} <= {"chain.db", "warm.db"}  # the other is the test's
