"""``eventchain erase`` as its user meets it: what it prints, asks, refuses, and its exit codes."""

from __future__ import annotations

import getpass
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from commands import run

from eventchain.assembly import open_chain
from eventchain.chainstores import open_chain_store
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store

REASON = ("--reason", "request of 3 May")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTCHAIN_CONFIG", raising=False)
    run(
        "init",
        "--origin",
        "example.com/bank",
        "--difficulty",
        8,
        "--block-events",
        16,
        "--backend",
        "reference",
    )
    append(0, 60)
    run("mine")
    return tmp_path


def append(first: int, count: int) -> None:
    with closing(open_event_store("sqlite:///events.db")) as store:
        for n in range(first, first + count):
            store.append(f"account-{n % 3}", None, [NewEvent(f"e{n}", "Deposited", b'{"n":%d}' % n, b"m")])


def test_an_erasure_from_the_plan_to_what_readers_see(folder: Path) -> None:
    append(60, 5)
    planned = run("erase", "e7", "--position", 21, "--dry-run")
    assert planned.stdout == ""
    assert "to erase: 2 events in 2 blocks, at positions 8, 21" in planned.stderr
    assert "mining on reference: about" in planned.stderr
    assert "not reached: backups" in planned.stderr
    told = json.loads(run("erase", "e7", "--dry-run", "--json").stdout)
    assert (told["blocks_to_mine"], told["hashes"]) == (2, 512)
    assert told["seconds"]["reference"] > 0
    assert "verdict: clean" in run("verify").stdout
    done = run("erase", "e7", "--position", 21, *REASON, "--actor", "the officer", "--yes")
    assert done.stdout == "erased 2 events\n"
    verified = run("verify")
    assert "65 events" not in verified.stdout  # the record is one more
    assert "66 events (2 lawfully erased)" in verified.stdout
    assert "erased by the officer: request of 3 May" in verified.stderr
    assert json.loads(run("verify", "--json").stdout.splitlines()[-1])["erased"] == 2

    (event,) = json.loads(run("show", "e7", "--json").stdout)
    assert (event["data"], event["metadata"], event["as_sealed"]) == (None, None, True)
    assert event["erased"]["record"] == "example.com/bank/erasures/0"
    assert (event["erased"]["actor"], event["erased"]["reason"]) == ("the officer", "request of 3 May")
    shown = run("show", "e7").stdout
    assert "by the officer: request of 3 May (example.com/bank/erasures/0)" in shown
    assert "erased" not in json.loads(run("show", "e8", "--json").stdout)[0]
    assert "at position 8, erased: sealed in block 1" in run("receipt", "e7").stdout
    assert json.loads(run("receipt", "e7", "--json").stdout)["erased"] is True
    proof = run("show", "e7", "--proof")
    assert "The proof holds" in proof.stderr
    assert json.loads(proof.stdout)["salt"] is None
    lines = run("export", "-").stdout.splitlines()
    assert ["data" in json.loads(line) for line in lines].count(False) == 2
    with open_chain("eventchain.toml") as chain:
        rows = [row for batch in chain.sealed_events() for row in batch.to_pylist()]
        assert [row["id"] for row in rows if row["data"] is None] == ["e7", "e20"]
        record = chain.erasures().of(21)
        assert record is not None
        assert record.erasure.reason == "request of 3 May"
        assert chain.erasures().of(22) is None


def test_it_is_done_once_and_by_default_in_your_name(folder: Path) -> None:
    run("erase", "e7", *REASON, "--yes")
    again = run("erase", "e7", *REASON, "--yes")
    assert again.stdout == "nothing is left to erase\n"
    assert "1 event on record already as erased" in again.stderr
    assert run("erase", "--resume", "--backend", "reference").stdout == "nothing is left to erase\n"
    told = json.loads(run("erase", "--stream", "account-1", *REASON, "--yes", "--json").stdout)
    assert told["complete"] is True
    assert len(told["erased"]) == 19  # of 20, one was erased before
    with open_chain("eventchain.toml") as chain:
        assert [record.erasure.actor for record in chain.erasures()] == [getpass.getuser()] * 2
    assert "clean" in run("verify").stdout


def test_it_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--yes does not ask" in run("erase", "e7", *REASON, code=2).stderr
    monkeypatch.setattr("eventchain.cli.erase.is_terminal", lambda: True)
    asked = run("erase", "e7", *REASON, "--json", code=2, input="n\n").stderr
    assert "to erase: 1 event" in asked  # before the question
    assert "nothing was erased" in asked
    assert "interrupted" in run("erase", "e7", *REASON, code=130, input="").stderr
    with open_chain("eventchain.toml") as chain:
        assert list(chain.erasures()) == []
    assert run("erase", "e7", *REASON, input="y\n").stdout == "erased 1 event\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no events are chosen"),
        (("--resume", "e7"), "--resume takes no events"),
        (("--resume", "--dry-run"), "was planned before"),
        (("e7", "--yes"), "needs a reason"),
        (("e7", "--yes", "--reason", " "), "needs a reason"),
        (("nobody", *REASON), "there is no event nobody"),
        (("--position", "999", *REASON), "there is no event at position 999"),
        (("--position", "-1", *REASON), "-1 is not in the range"),
        (("--stream", "nobody's", *REASON), "there is no event in the stream"),
        (("e7", "--yes", "--reason", "\ud800"), "surrogates"),
    ],
)
def test_what_is_refused(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    before = [file.read_bytes() for file in sorted(folder.glob("*.db"))]
    assert message in run("erase", *arguments, code=2).stderr
    assert [file.read_bytes() for file in sorted(folder.glob("*.db"))] == before


def test_events_that_are_not_sealed_or_altered_are_refused(folder: Path) -> None:
    append(60, 1)
    refused = run("erase", "e60", *REASON, "--yes", code=2).stderr
    assert "the event at position 61 is not sealed" in refused
    assert "eventchain mine" in refused
    with closing(sqlite3.connect("events.db")) as db:
        db.execute("UPDATE events SET data = x'00' WHERE id = 'e7'")
        db.commit()
    assert "position 8 is not what was sealed" in run("erase", "e7", *REASON, "--yes", code=2).stderr
    with open_chain("eventchain.toml") as chain:
        assert list(chain.erasures()) == []


def test_a_writer_at_work_is_not_disturbed(folder: Path) -> None:
    with closing(open_chain_store("sqlite:///chain.db")) as store, store.writer():
        assert "another writer holds" in run("erase", "e7", *REASON, "--yes", code=2).stderr
    assert "lawfully" not in run("verify").stdout


def test_another_applications_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("app.db")) as db:
        db.execute(
            "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, "
            "state BLOB, PRIMARY KEY (originator_id, originator_version))"
        )
        db.executemany(
            "INSERT INTO stored_events VALUES (?, ?, ?, ?)",
            [("a" * 32, n, "t", b"x%d" % n) for n in range(9)],
        )
        db.commit()
    run("init", "--origin", "example.com/app", "--difficulty", 8, "--backend", "reference",
        "--store", "eventsourcing+sqlite:///app.db")  # fmt: skip
    run("mine")
    pending = run("erase", "--position", 3, "--position", 4, *REASON, "--yes", code=1)
    assert "another application's store" in pending.stderr
    assert 'UPDATE main."stored_events" SET state = NULL\nWHERE _rowid_ BETWEEN 3 AND 4;' in pending.stdout
    assert run("verify", code=1).stdout.count("unerased") == 2
    assert json.loads(run("erase", "--resume", "--json", code=1).stdout)["waiting"] == [3, 4]
    with closing(sqlite3.connect("app.db")) as db:
        db.executescript(pending.stdout)
        db.commit()
    run("erase", "--resume")
    assert "(2 lawfully erased)" in run("verify").stdout
