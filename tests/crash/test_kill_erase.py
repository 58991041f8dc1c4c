"""kill -9 at random moments of an erasure: nothing is destroyed before its record is sealed, what is on
record and not gone is found, and a resumed run ends with the data gone."""

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
from eventchain.erasure.records import Records
from eventchain.eventstores import open_event_store
from eventchain.verify import verify

KILLS = int(os.environ.get("EVENTCHAIN_KILLS", "3"))
"""50 for a thorough run."""
EVENTS = 3000
EACH = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init = command_line("init", "--origin", "crash.test/log", "--difficulty", "12", "--backend", "cpu")
    subprocess.run(init, cwd=tmp_path, capture_output=True, check=True)
    with closing(open_event_store(f"sqlite:///{tmp_path}/events.db")) as store:
        store.append("s", -1, [NewEvent(f"e{n}", "t", secret(n), b"") for n in range(EVENTS)])
    subprocess.run(command_line("mine", "--backend", "cpu"), cwd=tmp_path, capture_output=True, check=True)
    return tmp_path


def secret(number: int) -> bytes:
    return b"<secret %d>" % number * 20


def erase(folder: Path, numbers: list[int]) -> subprocess.Popen[str]:
    chosen = [word for number in numbers for word in ("--position", str(number + 1))]
    how = ("--reason", "a request", "--yes", "--backend", "cpu")
    return begun(folder, "erase", *chosen, *how, saying=("to erase",))


def check(folder: Path) -> tuple[set[int], set[int]]:
    """Numbers of the events that are on sealed record, and of those whose payload a reader still gets."""
    with (
        closing(open_chain_store(f"sqlite:///{folder}/chain.db")) as chain,
        closing(open_event_store(f"sqlite:///{folder}/events.db")) as events,
    ):
        report = verify(chain, events, now=time.time())
        assert {finding.kind for finding in report.wrong} <= {"unerased"}, report.wrong
        sealed = [record.erasure for record in Records(chain) if record.sealed]
        recorded = {
            at - 1 for erasure in sealed for first, last in erasure.ranges for at in range(first, last + 1)
        }
        rows = [row for batch in sealed_events(chain, events) for row in batch.to_pylist()]
        assert len(rows) == EVENTS
        readable = {row["position"] - 1 for row in rows if row["data"] is not None}
        assert all(row["data"] in (None, secret(row["position"] - 1)) for row in rows)
        assert readable >= set(range(EVENTS)) - recorded, "destroyed before its record was sealed"
        if report.clean:
            check_chain(chain, events)
            assert readable == set(range(EVENTS)) - recorded
    return recorded, readable


def test_a_killed_erasure_is_completed(folder: Path) -> None:
    chance = random.Random(time.time_ns())
    numbers = list(range(EVENTS))
    chance.shuffle(numbers)
    groups = [numbers[first : first + EACH] for first in range(0, EVENTS, EACH)]
    kill, gone = Killer(), set[int]()
    for turn in kill.turns(KILLS):
        group = groups[turn]
        kill(erase(folder, group))
        recorded, _ = check(folder)
        assert gone <= recorded
        # All of an erasure or nothing; one whose block was only built is sealed with the next one's.
        assert all(recorded >= set(one) or not recorded & set(one) for one in groups)
        if recorded >= set(group) and chance.random() < 0.5:  # else the next erasure completes it
            resume = command_line("erase", "--resume", "--backend", "cpu")
            subprocess.run(resume, cwd=folder, capture_output=True, check=True)
        gone = recorded
    done = subprocess.run(
        command_line("erase", "--resume", "--backend", "cpu"), cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    recorded, readable = check(folder)
    assert readable == set(range(EVENTS)) - recorded
    files = [file.read_bytes() for file in folder.iterdir() if file.is_file()]
    left = [number for number in recorded if any(secret(number)[:24] in text for text in files)]
    assert not left, "a payload is still in the files"
    with (
        closing(open_chain_store(f"sqlite:///{folder}/chain.db")) as chain,
        closing(open_event_store(f"sqlite:///{folder}/events.db")) as events,
    ):
        assert verify(chain, events, now=time.time()).wrong == []
