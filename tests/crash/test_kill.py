"""kill -9 at random moments of a mine: what was sealed stays sealed, and the next mine goes on.

The mine runs as its user runs it, a process with everything it starts. Half of the kills hit only that
process, half its whole process group.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import Blocks
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.verify import Report, verify

KILLS = 50
EVENTS = 12_000
BLOCK_EVENTS = 20
DIFFICULTY = 16
"""600 blocks of 65,536 hashes: a few seconds of mining on a small machine."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    eventchain(tmp_path, "init", "--origin", "crash.test/log", "--difficulty", str(DIFFICULTY))
    with closing(open_event_store(f"sqlite:///{tmp_path}/events.db")) as store:
        for first in range(0, EVENTS, 1000):
            events = [NewEvent(f"e{n}", "tick", b"%d" % n) for n in range(first, first + 1000)]
            store.append(f"s{first}", -1, events)
    return tmp_path


def eventchain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eventchain", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def mine(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "eventchain", "mine", "--backend", "cpu"]
    command += ["--block-events", str(BLOCK_EVENTS)]
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)


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


def test_a_killed_mine_loses_no_sealed_block_and_goes_on(folder: Path, tmp_path: Path) -> None:
    chance = random.Random(time.time_ns())
    log = tmp_path / "mine.log"
    before: dict[int, bytes] = {}
    sealed = [0]
    for kill in range(KILLS):
        process = mine(folder, log)
        try:
            process.wait(chance.uniform(0.3, 1.5))
        except subprocess.TimeoutExpired:
            if kill % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        assert process.wait() in (0, -signal.SIGKILL), log.read_text()
        report, mined = check(folder)
        assert report.clean, report.wrong
        assert before.items() <= mined.items(), "a solution was lost or replaced"
        assert report.sealed_blocks >= sealed[-1]
        before = mined
        sealed.append(report.sealed_blocks)
    assert mine(folder, log).wait() == 0, log.read_text()
    report, mined = check(folder)
    assert report.clean
    assert not report.notices  # no unsealed tail, no backlog
    assert before.items() <= mined.items()
    assert report.sealed_blocks == 1 + EVENTS // BLOCK_EVENTS
    assert len(set(sealed)) > 5, "the kills did not hit the mine at work"
