"""``eventchain erase --remine`` and ``--purge`` as their user meets them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import run

from eventchain.chainstores import open_chain_store
from eventchain.contracts.event_store import NewEvent
from eventchain.erasure.remove import Remover
from eventchain.eventstores import open_event_store

REASON = ("--reason", "request of 3 May", "--actor", "the officer")
PROJECTION = """
[projection.types]
use = "count"
every = "20 events"

[projection.history]
use = "latest"
of = "types"
every = "1 event"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTCHAIN_CONFIG", raising=False)
    run("init", "--origin", "example.com/bank", "--difficulty", 8, "--block-events", 16,
        "--backend", "reference")  # fmt: skip
    append(0, 60)
    run("mine")
    return tmp_path


def append(first: int, count: int) -> None:
    with closing(open_event_store("sqlite:///events.db")) as store:
        for n in range(first, first + count):
            store.append(f"account-{n % 3}", None, [NewEvent(f"e{n}", f"t{n % 2}", b'{"n":%d}' % n, b"m")])


def test_a_removal_from_the_plan_to_the_purge(folder: Path) -> None:
    run("verify", "--anchor", "anchors.txt")
    planned = run("erase", "e20", "--position", 41, "--remine", "--dry-run")
    assert planned.stdout == ""
    assert "to remove: 2 events, at positions 21, 41" in planned.stderr
    assert "3 blocks from block 2 on, with 42 other events; to mine: 4 blocks" in planned.stderr
    assert "mining on reference: about" in planned.stderr
    told = json.loads(run("erase", "e20", "--remine", "--dry-run", "--json").stdout)
    assert (told["events"], told["from_block"], told["closed"]) == (1, 2, {})
    assert told["seconds"]["reference"] > 0
    assert "59 events" not in run("verify").stdout

    append(60, 5)  # is sealed before
    done = run("erase", "e20", "--position", 41, "--remine", *REASON, "--yes")
    assert done.stdout == "removed 2 events\n"
    verified = run("verify", "--anchor", "anchors.txt")
    assert "removed by the officer: request of 3 May" in verified.stderr
    assert "replaced lawfully, as the record example.com/bank/erasures/0 says" in verified.stderr
    assert "verdict: clean, anchored at block 1" in verified.stdout
    run("show", "e20", code=2)
    assert json.loads(run("show", 2, "--json").stdout)["origin"] == "example.com/bank@2"
    proof = json.loads(run("show", "e21", "--proof").stdout)
    assert proof["block"]["origin"] == "example.com/bank@2"
    assert "chain       example.com/bank@2" in run("status").stdout
    assert run("tree").stdout.startswith("example.com/bank@2  6 blocks, 63 events, sealed")
    append(65, 20)
    run("mine")
    assert "sealed in block 7" in run("receipt", "e84").stdout

    refused = run("erase", "--purge", "--yes", code=2)
    assert "no anchor of example.com/bank@2 is given" in refused.stderr
    purge = ["erase", "--purge", "--anchor", "anchors.txt"]
    planned = json.loads(run(*purge, "--yes", "--dry-run", "--json").stdout)
    assert planned == {"archives": [{"origin": "example.com/bank", "from_block": 2, "blocks": 4}]}
    asked = run(*purge, code=2).stderr
    assert "to purge: the archive of example.com/bank, 4 blocks from block 2 on" in asked
    assert "wants to be confirmed" in asked
    assert "unproven" not in run("verify").stderr
    assert run(*purge, "--yes").stdout == "purged 1 archive\n"
    assert run(*purge, "--yes").stdout == "there is no archive\n"
    assert "unproven: example.com/bank@2 block 2" in run("verify", "--anchor", "anchors.txt").stderr


def test_what_is_refused_or_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs a reason" in run("erase", "e1", "--remine", code=2).stderr
    assert "no events are chosen" in run("erase", "--remine", *REASON, code=2).stderr
    assert "--purge stands alone" in run("erase", "e1", "--purge", code=2).stderr
    assert "wants to be confirmed" in run("erase", "e1", "--remine", *REASON, code=2).stderr
    monkeypatch.setattr("eventchain.cli.erase.is_terminal", lambda: True)
    assert "nothing was erased" in run("erase", "e1", "--remine", *REASON, code=2, input="n\n").stderr
    assert run("erase", "e1", "--remine", *REASON, input="y\n").stdout == "removed 1 event\n"
    assert "there is no event e1" in run("erase", "e1", "--remine", *REASON, "--yes", code=2).stderr


def test_a_removal_that_was_broken_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Remover, "_switch", broken)
        stopped = run("erase", "e1", "--remine", *REASON, "--yes", code=130)
    assert "on record and not complete; `eventchain erase --resume` goes on" in stopped.stderr
    assert "the chain still has what the record removed" in run("verify", code=1).stdout
    again = ["erase", "e5", *REASON, "--yes"]
    link, purge = ["mine", "--link-only"], ["erase", "--purge", "--yes"]
    for command in (["mine"], link, purge, again, [*again, "--remine"]):
        refused = run(*command, code=2)
        assert "a removal of events is under way" in refused.stderr
        assert "erase --resume" in refused.stderr
    assert run("erase", "--resume").stdout == "removed 1 event\n"
    assert run("erase", "--resume").stdout == "nothing is left to erase\n"
    assert "verdict: self-consistent" in run("verify").stdout or "clean" in run("verify").stdout
    run("mine")


def test_snapshots_are_closed_and_taken_anew(folder: Path) -> None:
    with Path("eventchain.toml").open("a") as file:
        file.write(PROJECTION)
    append(60, 40)
    run("mine")
    planned = json.loads(run("erase", "e50", "--remine", "--dry-run", "--json").stdout)
    assert set(planned["closed"]) == {"example.com/bank/types", "example.com/bank/types/history"}
    run("verify", "--anchor", "anchors.txt")
    assert json.loads(run("erase", "e50", "--remine", *REASON, "--yes", "--json").stdout) == {
        "removed": 1, "to_remove": [], "complete": True,
    }  # fmt: skip
    with closing(open_chain_store("sqlite:///chain.db")) as store:
        assert [branch.origin for branch in store.branches()] == [
            "example.com/bank@2", "example.com/bank/erasures",
        ]  # fmt: skip
    append(100, 40)
    run("mine")
    with closing(open_chain_store("sqlite:///chain.db")) as store:
        assert [branch.origin for branch in store.branches()][2:] == [
            "example.com/bank/types@2", "example.com/bank/types/history@2",
        ]  # fmt: skip
    verified = run("verify", "--anchor", "anchors.txt")
    assert (
        "of a branch that was closed lawfully, by the record example.com/bank/erasures/0" in verified.stderr
    )
    run("snapshot", "verify")
