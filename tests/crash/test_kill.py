"""kill -9 at random moments of a mine: what was sealed stays sealed, and the next mine goes on.

The mine runs as its user runs it, a process with everything it starts. Half of the kills hit only that
process, half its whole process group.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from killing import Killer, begun, command_line

from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import Blocks
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.verify import Report, verify

KILLS = 50
EVENTS = 400
"""Appended before each mine."""
BLOCK_EVENTS = 10
DIFFICULTY = 15
"""40 blocks of 32,768 hashes: work for some hundredths of a second, and more where kills left some."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    how = ("--difficulty", str(DIFFICULTY), "--backend", "cpu")
    command = command_line("init", "--origin", "crash.test/log", *how)
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    return tmp_path


def append(folder: Path, number: int) -> None:
    with closing(open_event_store(f"sqlite:///{folder}/events.db")) as store:
        store.append(f"s{number}", -1, [NewEvent(f"{number}/{n}", "tick", b"%d" % n) for n in range(EVENTS)])


def mine(folder: Path) -> subprocess.Popen[str]:
    """A mine that has just said which devices it uses, and begins."""
    command = ("mine", "--backend", "cpu", "--block-events", str(BLOCK_EVENTS))
    return begun(folder, *command, saying=("backend cpu",))


def check(folder: Path) -> tuple[Report, dict[int, bytes]]:
    """The report, and every mined header by its height."""
    with (
        closing(open_chain_store(f"sqlite:///{folder}/chain.db")) as chain,
        closing(open_event_store(f"sqlite:///{folder}/events.db")) as events,
    ):
        report = verify(chain, events, now=time.time())
        blocks = all_blocks(chain.blocks(1, 0, 10**6))
    return report, blocks


def all_blocks(blocks: Blocks) -> dict[int, bytes]:
    mined = np.flatnonzero(blocks.headers["time"])
    return {int(blocks.heights[row]): blocks.headers[row].tobytes() for row in mined}


def test_a_killed_mine_loses_no_sealed_block_and_goes_on(folder: Path) -> None:
    kill = Killer()
    before: dict[int, bytes] = {}
    sealed = 0
    for number in kill.turns(KILLS, hits=KILLS // 4):
        append(folder, number)
        kill(mine(folder), group=number % 2 == 1)
        report, mined = check(folder)
        assert report.clean, report.wrong
        assert before.items() <= mined.items(), "a solution was lost or replaced"
        assert report.sealed_blocks >= sealed
        before, sealed = mined, report.sealed_blocks
    with mine(folder) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    report, mined = check(folder)
    assert report.clean
    assert not report.notices  # no unsealed tail, no backlog
    assert report.events == (number + 1) * EVENTS
    assert before.items() <= mined.items()
