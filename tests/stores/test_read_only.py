"""An auditor may read the events and nothing else: every kind of read-only file and folder."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner

from eventchain.cli import cli
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import StoreError
from eventchain.eventstores import open_event_store

NOBODY = 65534
fresh = multiprocessing.get_context("forkserver")
fresh.set_forkserver_preload(["click.testing", "pyarrow.compute", "eventchain.eventstores.sqlite_file"])
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def append(path: Path, *ids: str) -> None:
    with closing(open_event_store(url_of(path))) as store:
        store.append("s", None, [NewEvent(name, "t", b"data") for name in ids])


def ids(store: Any) -> list[str]:
    return list(store.read(None, 100)["id"].to_pylist())


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others may look. Another run of pytest makes the folders of all of pytest's private again."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def events(place: Path) -> Path:
    """A store of three events in a folder of its own, not open anywhere."""
    folder = place / "events"
    folder.mkdir()
    path = folder / "events.db"
    open_event_store(url_of(path), create=True).close()
    append(path, "e1", "e2", "e3")
    return path


def modes(path: Path, file: int, folder: int) -> None:
    path.chmod(file)
    path.parent.chmod(folder)


def beside(path: Path) -> dict[str, tuple[int, int]]:
    """The folder's files: whose they are and what they may."""
    return {file.name: (file.stat().st_uid, file.stat().st_mode) for file in path.parent.iterdir()}


# -- the auditor, in a process of its own -------------------------------------------------------------

Task = Callable[[Path, Any], None]


def _child(task: Task, path: Path, pipe: Any) -> None:
    try:
        if os.geteuid() == 0:  # whom rights do not bind
            if task is _run:
                _run(path, None)  # imports all that is needed, before the rights to do so are gone
            else:
                _warm()
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        task(path, pipe)
    except StoreError as error:
        pipe.send(("refused", error.message, error.hint))
    except BaseException as error:
        pipe.send(repr(error))
        raise
    finally:
        pipe.close()


def _warm() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "events.db")
        open_event_store(url_of(path), create=True).close()
        append(path, "e1")
        _read(path, None)


@contextmanager
def auditor(task: Task, path: Path) -> Iterator[Any]:
    for folder in path.parents[1:]:  # let others through to it
        state = folder.stat()
        if state.st_uid == os.geteuid() and state.st_mode & 0o011 != 0o011:
            folder.chmod(state.st_mode & 0o777 | 0o011)
    here, there = fresh.Pipe()
    child = fresh.Process(target=_child, args=(task, path, there))
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        child.join(60)
        path.parent.chmod(0o755)
        path.chmod(0o644)


def _read(path: Path, pipe: Any) -> None:
    """All ways to read."""
    with closing(open_event_store(url_of(path))) as store:
        found = ids(store), store.head(), ids_of(store.find("e1")), store.faults(), store.now() > 0
        if pipe:
            pipe.send(found)


def ids_of(batch: Any) -> list[str]:
    return list(batch["id"].to_pylist())


def _append(path: Path, pipe: Any) -> None:
    with closing(open_event_store(url_of(path))) as store:
        pipe.send(ids(store))
        store.append("s", None, [NewEvent("mine", "t", b"")])


def _read_when_told(path: Path, pipe: Any) -> None:
    with closing(open_event_store(url_of(path))) as store:
        while True:
            pipe.send(ids(store))
            if not pipe.recv():
                return


def _read_slowly(path: Path, pipe: Any) -> None:
    with closing(open_event_store(url_of(path))) as store, store._snapshot():
        pipe.send("reading")
        pipe.recv()


EXPECTED: Any = (["e1", "e2", "e3"], 3, ["e1"], [], True)


@pytest.mark.parametrize("folder", [0o555, 0o777], ids=["closed folder", "open folder"])
@pytest.mark.parametrize("file", [0o444, 0o666], ids=["closed file", "open file"])
@pytest.mark.parametrize("journal", ["wal", "delete", "persist"])
def test_reading_needs_read_access_only(events: Path, journal: str, file: int, folder: int) -> None:
    with closing(sqlite3.connect(events)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("PRAGMA user_version = 1")  # so that a journal stays
    modes(events, file, folder)
    before, content = beside(events), events.read_bytes()
    with auditor(_read, events) as child:
        assert child.recv() == EXPECTED
        with pytest.raises(EOFError):
            child.recv()
        assert beside(events) == before
        assert events.read_bytes() == content


@pytest.mark.parametrize("folder", [0o555, 0o777], ids=["closed folder", "open folder"])
def test_a_store_that_the_application_has_open(events: Path, folder: int) -> None:
    with closing(open_event_store(url_of(events))) as store:
        store.append("s", None, [NewEvent("e4", "t", b"")])
        modes(events, 0o444, folder)
        before = beside(events)
        assert len(before) == 3
        with auditor(_read, events) as child:
            assert child.recv() == ([*EXPECTED[0], "e4"], 4, *EXPECTED[2:])
            with pytest.raises(EOFError):
                child.recv()
            assert beside(events) == before


def test_a_link_to_the_file_elsewhere(events: Path, place: Path) -> None:
    """The files of the WAL lie beside the file itself, not beside the link."""
    (place / "links").mkdir()
    link = place / "links" / "events.db"
    link.symlink_to(events)
    with closing(open_event_store(url_of(events))) as store:
        store.append("s", None, [NewEvent("e4", "t", b"")])
        shutil.copy(events, place / "copy")
        shutil.copy(f"{events}-wal", place / "copy-wal")
    shutil.copy(place / "copy", events)
    shutil.copy(place / "copy-wal", f"{events}-wal")
    modes(events, 0o444, 0o555)
    with auditor(_read, link) as child:
        assert child.recv()[0] == "refused"
    events.parent.chmod(0o755)


def test_appending_needs_write_access(events: Path) -> None:
    for file, folder in ((0o444, 0o555), (0o444, 0o777), (0o666, 0o555)):
        modes(events, file, folder)
        with auditor(_append, events) as child:
            assert child.recv() == EXPECTED[0]
            refused, message, hint = child.recv()
            assert (refused, message.endswith("readonly database")) == ("refused", True)
            assert "must be writable" in hint


def test_commits_that_could_not_be_seen_are_not_passed_over(events: Path, place: Path) -> None:
    copy = place / "copy" / "events.db"
    copy.parent.mkdir()
    with closing(open_event_store(url_of(events))) as store:
        store.append("s", None, [NewEvent("e4", "t", b"")])
        shutil.copy(events, copy)
        shutil.copy(f"{events}-wal", f"{copy}-wal")
    modes(copy, 0o444, 0o555)
    with auditor(_read, copy) as child:
        refused, message, hint = child.recv()
        assert (refused, "events.db-wal" in message) == ("refused", True)
        assert "wal_checkpoint" in hint
        assert "copy both files" in hint
    append(copy, "e5")  # whoever may write it works the log off
    modes(copy, 0o444, 0o555)
    with auditor(_read, copy) as child:
        assert child.recv()[0] == ["e1", "e2", "e3", "e4", "e5"]


def test_a_transaction_cut_off_is_not_read(events: Path, place: Path) -> None:
    copy = place / "copy" / "events.db"
    copy.parent.mkdir()
    with closing(sqlite3.connect(events, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")  # so that the file is written before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE events SET data = zeroblob(100000)")
        shutil.copy(events, copy)
        shutil.copy(f"{events}-journal", f"{copy}-journal")
        connection.execute("ROLLBACK")
    modes(copy, 0o444, 0o555)
    with auditor(_read, copy) as child:
        refused, message, hint = child.recv()
        assert (refused, "events.db-journal" in message) == ("refused", True)
        assert "read it once" in hint
    assert Path(f"{copy}-journal").exists()


def test_what_comes_while_an_auditor_has_it_open_is_read(events: Path) -> None:
    if os.geteuid() == 0:  # others cannot give it to someone else, and write it themselves
        modes(events, 0o444, 0o555)
    with auditor(_read_when_told, events) as child:
        assert child.recv() == ["e1", "e2", "e3"]
        append(events, "e4")  # opened, committed and closed: all in the file
        child.send(True)
        assert child.recv() == ["e1", "e2", "e3", "e4"]
        with closing(open_event_store(url_of(events))) as store:
            store.append("s", None, [NewEvent("e5", "t", b"")])  # in the WAL
            child.send(True)
            assert child.recv() == ["e1", "e2", "e3", "e4", "e5"]
            store.append("s", None, [NewEvent("e6", "t", b"")])
            child.send(True)
            assert child.recv()[-1] == "e6"
        child.send(False)


@needs_root
def test_a_read_that_met_a_write_fails(events: Path) -> None:
    modes(events, 0o444, 0o555)
    with auditor(_read_slowly, events) as child:
        assert child.recv() == "reading"
        append(events, "e4")
        child.send("go on")
        assert "changed while it was read" in child.recv()[1]


def test_a_file_that_may_not_be_read(events: Path) -> None:
    modes(events, 0o200, 0o755)
    with auditor(_read, events) as child:
        refused, _, hint = child.recv()
        assert (refused, "rights" in hint) == ("refused", True)
    modes(events, 0o644, 0o000)
    with auditor(_read, events) as child:
        refused, message, hint = child.recv()
        assert "cannot be reached: Permission denied" in message
        assert "folders" in hint


# -- the commands -------------------------------------------------------------------------------------

COMMANDS = (
    ("status", "--rate", "1M"),
    ("verify",),
    ("show", "1"),
    ("show", "--event", "e1"),
    ("export", "-"),
)


def _run(path: Path, pipe: Any) -> None:
    for command, *arguments in COMMANDS:
        config = str(path.with_name("eventchain.toml"))
        result = CliRunner().invoke(cli, [command, "-C", config, *arguments])
        if pipe:
            pipe.send((command, result.exit_code, result.output))


def test_the_commands_of_an_auditor(events: Path) -> None:
    config = str(events.with_name("eventchain.toml"))
    setup = [
        "init",
        "-C",
        config,
        "--origin",
        "example.com/read",
        "--difficulty",
        "4",
        "--backend",
        "reference",
    ]
    for arguments in (setup, ["mine", "-C", config]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    for file in events.parent.iterdir():
        file.chmod(0o444)
    modes(events, 0o444, 0o555)
    before = beside(events)
    with auditor(_run, events) as child:
        for command, *_ in COMMANDS:
            name, code, output = child.recv()
            assert (name, code) == (command, 0), output
        assert '"id":"e3"' in output.replace('": ', '":')
        with pytest.raises(EOFError):
            child.recv()
        assert beside(events) == before
