"""kill -9 at random moments of forgetting: no key is destroyed before the record is sealed, and the same
command ends with the subject's data gone. The same for a change of the wrapping key."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from killing import SPARE, Killer, begun, command_line
from oracle import check_chain

from eventchain.assembly import open_chain
from eventchain.contracts.event_store import NewEvent
from eventchain.erasure.records import Records

KILLS = int(os.environ.get("EVENTCHAIN_KILLS", "3"))
"""50 for a thorough run."""
SUBJECTS = KILLS + SPARE + 2
EACH = 60


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*arguments), cwd=folder, capture_output=True, text=True, check=False)


def new_wrapping_key(path: Path) -> None:
    path.write_text(base64.b64encode(os.urandom(32)).decode())


def secret(number: int) -> bytes:
    return b"<secret %d>" % number * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A chain of the events of all subjects, in turn."""
    init = ("init", "--origin", "crash.test/log", "--difficulty", "12", "--backend", "cpu")
    assert run(tmp_path, *init).returncode == 0
    with (tmp_path / "eventchain.toml").open("a") as file:
        file.write('[encryption]\nkeys = "sqlite:///keys.db"\nwrapping_key = "file:wrapping.key"\n')
    assert run(tmp_path, "keys", "init").returncode == 0
    with open_chain(tmp_path / "eventchain.toml") as chain:
        for subject in range(SUBJECTS):
            numbers = range(subject, EACH * SUBJECTS, SUBJECTS)
            new = [NewEvent(f"e{n}", "t", secret(n)) for n in numbers]
            chain.events.append(f"s{subject}", -1, new, subject=f"subject {subject}")
    assert run(tmp_path, "mine", "--backend", "cpu").returncode == 0
    return tmp_path


def check(folder: Path) -> tuple[set[str], set[str]]:
    """The streams, one a subject, that are on sealed record, and those that can be read, each as a whole."""
    with open_chain(folder / "eventchain.toml") as chain:
        report = chain.verify()
        assert {finding.kind for finding in report.wrong} <= {"unerased"}, report.wrong
        stored = chain.events.read(None, 100_000)
        recorded_rows = Records(chain.store).cover(stored["position"].to_numpy(), sealed=True)
        readable, forgotten = chain.events.decrypted(stored)
        streams = readable["stream"].to_pylist()
        recorded = {stream for stream, row in zip(streams, recorded_rows, strict=True) if row}
        clear = {s for s, data in zip(streams, readable["data"].to_pylist(), strict=True) if data is not None}
        gone = {s for s, data in zip(streams, readable["data"].to_pylist(), strict=True) if data is None}
        assert gone <= recorded, "destroyed before its record was sealed"
        assert not gone & clear  # the key goes first: all of a subject or nothing
        assert all(row for row, lost in zip(recorded_rows, forgotten, strict=True) if lost)
        if report.clean:
            check_chain(chain.store, chain.events)
            assert gone == recorded
    return recorded, clear


def test_forgetting_that_was_killed_is_gone_on_with(folder: Path) -> None:
    kill = Killer()
    how = ("--reason", "a request", "--yes", "--backend", "cpu")
    for n in kill.turns(KILLS):
        kill(begun(folder, "forget", f"subject {n}", *how, saying=("to erase",)))
        check(folder)
        done = run(folder, "forget", f"subject {n}", *how)
        if done.returncode:  # it was over: nothing leads to the subject any more
            assert "there is no key of" in done.stderr
        recorded, clear = check(folder)
        assert recorded == {f"s{m}" for m in range(n + 1)}
        assert clear == {f"s{m}" for m in range(n + 1, SUBJECTS)}
    assert "clean" in run(folder, "verify").stdout
    files = [file.read_bytes() for file in folder.iterdir()]
    assert not any(secret(n) in text for n in range(EACH * SUBJECTS) for text in files)
    with closing(sqlite3.connect(folder / "keys.db")) as db:
        assert db.execute(
            "SELECT count(*), count(wrapped), count(subject), count(closing) FROM subject_keys"
        ).fetchone() == (SUBJECTS + 1, SUBJECTS - n, SUBJECTS - n - 1, 0)


def test_a_rotation_that_was_killed_is_gone_on_with(folder: Path) -> None:
    kill, config = Killer(), folder / "eventchain.toml"
    text = config.read_text()
    with open_chain(config) as chain:
        before = chain.events.decrypted(chain.events.read(None, 100_000)).batch
        for n in range(1000):
            with chain.events.keys.held(f"more {n}"):
                pass
    for n in range(KILLS):
        new_wrapping_key(folder / f"new{n}.key")
        old = "wrapping.key" if n == 0 else f"new{n - 1}.key"
        both = f'"file:new{n}.key"\nold_wrapping_key = "file:{old}"'
        config.write_text(text.replace('\nwrapping_key = "file:wrapping.key"', f"\nwrapping_key = {both}"))
        kill(begun(folder, "keys", "rotate"))
        with open_chain(config) as chain:
            assert chain.events.decrypted(chain.events.read(None, 100_000)).batch.equals(before)
        assert run(folder, "keys", "rotate").returncode == 0
        config.write_text(text.replace("file:wrapping.key", f"file:new{n}.key"))
        (folder / old).unlink()
        with open_chain(config) as chain:
            assert chain.events.decrypted(chain.events.read(None, 100_000)).batch.equals(before)
