"""kill -9 at random moments of a removal: there is the old chain or the new one, never a mixture, nothing is
destroyed before its record is sealed, and a resumed run ends with the data gone."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from killing import Killer, begun, command_line
from oracle import check_chain

from eventchain.chain.feed import sealed_events
from eventchain.chainstores import open_chain_store
from eventchain.contracts.event_store import NewEvent
from eventchain.erasure.remove import pending
from eventchain.eventstores import open_event_store
from eventchain.formats.anchor import Anchor
from eventchain.verify import verify

KILLS = int(os.environ.get("EVENTCHAIN_KILLS", "6"))
"""50 for a thorough run."""
EVENTS = 3000
EACH = 20


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(command_line(*arguments), cwd=folder, capture_output=True, check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run(tmp_path, "init", "--origin", "crash.test/log", "--difficulty", "16", "--backend", "cpu")
    with closing(open_event_store(f"sqlite:///{tmp_path}/events.db")) as store:
        store.append("s", -1, [NewEvent(f"e{n}", "t", secret(n), b"") for n in range(EVENTS)])
    run(tmp_path, "mine", "--backend", "cpu", "--block-events", "50")
    return tmp_path


def secret(number: int) -> bytes:
    return b"<secret %d>" % number * 20


def remove(folder: Path, numbers: list[int]) -> subprocess.Popen[str]:
    chosen = [word for number in numbers for word in ("--position", str(number + 1))]
    how = ("--remine", "--reason", "a request", "--yes", "--backend", "cpu")
    return begun(folder, "erase", *chosen, *how, saying=("to remove",))


def check(
    folder: Path, before: set[int], group: set[int], anchors: list[Anchor]
) -> tuple[bool, list[Anchor]]:
    """Whether the chain is the new one, and its anchors where nothing is left to do."""
    with (
        closing(open_chain_store(f"sqlite:///{folder}/chain.db")) as chain,
        closing(open_event_store(f"sqlite:///{folder}/events.db")) as events,
    ):
        report = verify(chain, events, anchors, now=time.time())
        assert {finding.kind for finding in report.wrong} <= {"unerased"}, report.wrong
        rows = [row for batch in sealed_events(chain, events) for row in batch.to_pylist()]
        assert all(row["data"] == secret(row["position"] - 1) for row in rows)
        there = {row["position"] - 1 for row in rows}
        assert there in (before, before - group)
        if there == before:
            assert events.read(None, EVENTS).num_rows == len(before), "destroyed before the switch"
        if report.clean and pending(chain) is None:
            check_chain(chain, events)
            return there != before, report.newest
        return there != before, []


def test_a_killed_removal_is_completed(folder: Path) -> None:
    numbers = list(range(EVENTS))
    random.Random(time.time_ns()).shuffle(numbers)
    kill, there, anchors = Killer(), set(numbers), list[Anchor]()
    for turn in kill.turns(KILLS):
        group = numbers[EACH * turn : EACH * (turn + 1)]
        kill(remove(folder, group))
        done, newest = check(folder, there, set(group), anchors)
        run(folder, "erase", "--resume", "--backend", "cpu")
        after, newest = check(folder, there, set(group), anchors)
        assert after >= done
        assert newest
        there -= set(group) if after else set()  # else it was killed before its record was built
        anchors += newest[:1]
        files = [file.read_bytes() for file in folder.iterdir() if file.is_file()]
        gone = set(numbers) - there
        left = [number for number in gone if any(secret(number)[:24] in text for text in files)]
        assert not left, "a payload is still in the files"
