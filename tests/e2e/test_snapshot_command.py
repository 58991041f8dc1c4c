"""``eventchain snapshot`` as its users run it, and snapshots by policy in ``mine`` and ``run``."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from commands import run
from waiting import wait_for

from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store

CONFIG = """
[projection.types]
use = "count"
every = "20 events"

[projection.even]
use = "count"
filter = 'data.n % 2 == 0'

[projection.history]
use = "latest"
of = "types"
every = "2 events"

[projection.mine]
use = "mine:Names"
"""
CODE = """
from eventchain.projections import Projection

class Names(Projection):
    def initial(self):
        return []

    def apply(self, state, event):
        return [*state, event.id][-3:]
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.run("init", "--origin", "example.com/log", "--difficulty", "4", "--block-events", "10")
        with (path / "eventchain.toml").open("a") as file:
            file.write(CONFIG)
        (path / "mine.py").write_text(CODE)

    def run(self, *arguments: str, code: int = 0) -> Result:
        return run(*arguments, code=code)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def append(self, count: int) -> None:
        with closing(open_event_store(f"sqlite:///{self.path}/events.db")) as store:
            numbers = range(self.count, self.count + count)
            events = [NewEvent(f"e{n}", f"t{n % 3}", b'{"n":%d}' % n) for n in numbers]
            store.append(f"s{self.count}", -1, events)
        self.count += count

    def counts(self, end: int) -> dict[str, int]:
        return dict(Counter(f"t{n % 3}" for n in range(end)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    return Folder(tmp_path)


def test_mine_takes_what_is_due_and_the_commands_use_it(folder: Folder) -> None:
    folder.append(95)
    mined = folder.json("mine", "--backend", "cpu")
    assert mined["snapshots_sealed"] == 4 + 2
    assert folder.json("verify")["verdict"] == "clean"
    listed = {row["name"]: row for row in folder.json("snapshot", "list")}
    assert [(name, row["snapshots"], row["newest"]) for name, row in listed.items()] == [
        ("types", 4, 8), ("even", 0, None), ("history", 2, 6), ("mine", 0, None),
    ]  # fmt: skip
    assert [row["every"] for row in listed.values()] == ["20 events", "", "2 events", ""]
    rows = folder.json("snapshot", "list", "types")
    assert [(row["height"], row["events"]) for row in rows] == [(2, 20), (4, 40), (6, 60), (8, 80)]

    shown = folder.json("snapshot", "show", "types", "--at", "7")
    assert (shown["of"], shown["events"], shown["fits"]) == ("example.com/log 6", 60, "yes")
    restored = folder.run("snapshot", "restore", "types", "--at", "7")
    assert json.loads(restored.stdout) == folder.counts(70)
    assert "types at block 7: the snapshot of block 6 and 10 events" in restored.stderr
    folder.run("snapshot", "restore", "types", "-o", "state.json")
    assert json.loads((folder.path / "state.json").read_bytes()) == folder.counts(95)
    assert json.loads(folder.run("snapshot", "restore", "types", "--at", "2100-01-01").stdout)

    difference = folder.json("snapshot", "diff", "types", "1", "2")
    assert difference["changes"] == [
        {"path": "/t0", "before": 4, "after": 7},
        {"path": "/t1", "before": 3, "after": 7},
        {"path": "/t2", "before": 3, "after": 6},
    ]
    assert "/t0: 4 to 7\n" in folder.run("snapshot", "diff", "types", "1", "2").stdout
    assert "6 snapshots right, 0 wrong" in folder.run("snapshot", "verify").stdout
    assert "4 snapshots right, 0 wrong" in folder.run("snapshot", "verify", "types", "types").stdout


def test_show_and_prove_what_is_on_a_branch(folder: Folder) -> None:
    folder.append(95)
    folder.run("mine", "--backend", "cpu")
    block = folder.json("show", "--branch", "types", "4")
    assert (block["origin"], block["height"], block["leaves"]) == ("example.com/log/types", 4, 1)
    assert any(line.startswith("pin example.com/log 4 ") for line in block["manifest"])
    (event,) = folder.json("show", "--branch", "types", "example.com/log/4")
    assert json.loads(event["data"]) == folder.counts(40)
    assert (event["state"], event["block"], event["as_sealed"]) == ("sealed", 4, True)
    proof = folder.run("show", "--branch", "history", "--proof", "0")
    assert "The proof holds against block" in proof.stderr
    assert json.loads(proof.stdout)
    for branch, told in [("type", "did you mean"), ("nothing/x", "there is no branch nothing/x")]:
        assert told in folder.run("show", "--branch", branch, "1", code=2).stderr
    assert "there is no block" in folder.run("show", "--branch", "types", "99", code=2).stderr


def test_take_and_what_one_may_not_take(folder: Folder) -> None:
    folder.append(30)
    folder.run("mine", "--backend", "cpu")
    taken = folder.run("snapshot", "take", "even", "mine", "--backend", "cpu")
    assert taken.stdout.startswith("took 2 snapshots in ")
    assert "nothing to take" in folder.run("snapshot", "take", "even", "--backend", "cpu").stdout
    assert folder.run("snapshot", "restore", "mine").stdout == '["e27","e28","e29"]'
    assert folder.json("verify")["verdict"] == "clean"
    for wrong, told in [
        (("take", "nothing"), "there is no projection 'nothing'"),
        (("restore", "nothing"), "there is no projection 'nothing'"),
        (("show", "history"), "there is no snapshot of history"),
        (("show", "even", "--at", "2"), "hint: its first is of block 4"),
        (("restore", "types", "-o", "nowhere/state"), "cannot write nowhere/state: No such file"),
        (("restore", "types", "--at", "99"), "block 99 of example.com/log is not sealed"),
        (("restore", "types", "--at", "yesterday"), "neither a height nor a time"),
        (("restore", "types", "--at", "1999-01-01"), "had no sealed block yet"),
        (("restore", "history"), ""),
    ]:
        code = 2 if told else 0
        assert told in folder.run("snapshot", *wrong, code=code).stderr
    config = folder.path / "eventchain.toml"
    config.write_text(config.read_text().replace("data.n % 2 == 0", "data.n % == 0"))
    folder.append(10)
    failed = folder.run("snapshot", "take", "types", "even", "--backend", "cpu", code=2)
    assert "projection even: the filter is wrong at line 1, column 10: " in failed.stderr
    assert "\nhint: it is CEL" in failed.stderr


def test_a_projection_that_fails_does_not_stop_sealing(folder: Folder) -> None:
    (folder.path / "mine.py").write_text(
        CODE.replace("return [*", "assert event.position < 20\n        return [*")
    )
    folder.append(30)
    folder.run("mine", "--backend", "cpu")
    failed = folder.run("snapshot", "take", "mine", "types", "--backend", "cpu", code=1)
    assert failed.stdout.startswith("took 1 snapshot in ")
    assert "no snapshot of mine: projection mine: failed at the event at position 20 (e19)" in failed.stderr
    assert "position 20" in folder.run("snapshot", "restore", "mine", code=2).stderr
    config = folder.path / "eventchain.toml"
    config.write_text(
        config.read_text().replace('use = "mine:Names"', 'use = "mine:Names"\nevery = "5 events"')
    )
    folder.append(10)
    mined = folder.run("mine", "--backend", "cpu", code=1)
    assert "sealed 10 events" in mined.stdout
    assert "no more snapshots of mine: " in mined.stderr
    assert folder.json("verify")["verdict"] == "clean"


def test_verify_names_an_altered_state(folder: Folder) -> None:
    folder.append(50)
    folder.run("mine", "--backend", "cpu")
    with closing(sqlite3.connect(folder.path / "chain.db")) as connection:
        connection.execute("UPDATE branch_events SET data = x'7b7d' WHERE position = 1 AND branch = 2")
        connection.commit()
    found = folder.run("snapshot", "verify", "types", code=1)
    told = "types at block 4: the event at position 1 of example.com/log/types is not what was sealed"
    assert told in found.stdout
    assert "altered" in folder.run("verify", code=1).stdout


def test_run_takes_snapshots_and_names_them_on_the_trunk(folder: Folder) -> None:
    folder.append(45)
    command = [sys.executable, "-m", "eventchain", "run", "--backend", "cpu", "--block-seconds", "0.1"]
    service = subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: _counts(folder) == [2, 0, 1], every=0.2)
        folder.append(30)
        wait_for(lambda: _counts(folder) == [3, 0, 1], every=0.2)
        wait_for(lambda: _named(folder, "example.com/log/types/history"), every=0.2)
        wait_for(lambda: _named(folder, "example.com/log/types"), every=0.2)
    finally:
        service.send_signal(signal.SIGTERM)
        _, log = service.communicate(timeout=60)
    assert service.returncode == 0, log
    assert folder.json("verify")["verdict"] == "clean"
    mined = folder.json("mine", "--backend", "cpu")
    assert (mined["blocks_built"], mined["snapshots_sealed"]) == (0, 0)


def _counts(folder: Folder) -> list[int]:
    """Of the snapshots of the first three projections."""
    return [row["snapshots"] for row in folder.json("snapshot", "list")][:3]


def _named(folder: Folder, origin: str) -> bool:
    """Whether a block of its parent names the newest block of a branch."""
    with closing(sqlite3.connect(folder.path / "chain.db")) as connection:
        blocks = "FROM blocks JOIN branches ON branch = id WHERE origin = ?"
        ((newest,),) = connection.execute(f"SELECT max(height) {blocks}", (origin,))
        said = connection.execute(f"SELECT manifest {blocks}", (origin.rpartition("/")[0],)).fetchall()
    return any(f"\nchild {origin} {newest} ".encode() in manifest for (manifest,) in said)
