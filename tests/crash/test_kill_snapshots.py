"""kill -9 at random moments while snapshots are taken and mined, by ``mine`` and by ``run``: what is sealed
is clean and stays, and in the end there is every snapshot that is due, once."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from killing import Killer, begun, command_line
from oracle import check_chain

import eventchain
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.formats.manifest import Manifest

KILLS = int(os.environ.get("EVENTCHAIN_KILLS", "4"))
"""50 for a thorough run."""
EVENTS = 300
"""Appended before each run."""
ORIGIN = "crash.test/log"
EVERY = {f"{ORIGIN}/slow": 40, f"{ORIGIN}/kinds": 25, f"{ORIGIN}/kinds/history": 3}
PROJECTIONS = """
[projection.slow]
use = "slow_projection:Slow"
every = "40 events"

[projection.kinds]
use = "count"
every = "25 events"

[projection.history]
use = "latest"
of = "kinds"
every = "3 events"
"""
SLOW = """
import time

from eventchain.projections import Projection


class Slow(Projection[int]):
    def initial(self):
        return 0

    def apply(self, state, event):
        time.sleep(0.001)
        return state + int(event.json)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_projection", raising=False)
    command = command_line("init", "--origin", ORIGIN, "--difficulty", "14", "--backend", "cpu")
    subprocess.run(command, capture_output=True, check=True)
    (tmp_path / "slow_projection.py").write_text(SLOW)
    with (tmp_path / "eventchain.toml").open("a") as config:
        config.write(PROJECTIONS)
    return tmp_path


def append(folder: Path, number: int) -> None:
    with closing(open_event_store(f"sqlite:///{folder}/events.db")) as store:
        new = [NewEvent(f"{number}/{n}", f"tick-{n % 3}", b"%d" % n) for n in range(EVENTS)]
        store.append(f"s{number}", -1, new)


def sealing(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A process that has just begun to seal."""
    how = ("--backend", "cpu", "--block-events", "10")
    return begun(folder, *command, *how, saying=("backend cpu", '"sealing"'))


def check(folder: Path) -> tuple[dict[tuple[str, int], bytes], dict[str, list[int]], dict[str, list[int]]]:
    """Every mined header by branch and height; by branch the blocks that its snapshots are of, and those of
    which there should be snapshots when all is done, by the sizes that the parent's blocks state."""
    headers: dict[tuple[str, int], bytes] = {}
    said: dict[str, list[Manifest]] = {}
    with eventchain.open_chain(folder / "eventchain.toml") as chain:
        report = chain.verify()
        assert report.clean, report.wrong
        check_chain(chain.store, chain.events)
        for branch in chain.store.branches():
            blocks = chain.store.blocks(branch.id, 0, 10**6)
            said[branch.origin] = list(map(Manifest.parse, blocks.manifests))
            headers |= {
                (branch.origin, int(height)): header.tobytes()
                for height, header in zip(blocks.heights, blocks.headers, strict=True)
                if header["time"]
            }
        checked = list(chain.check_snapshots(list(chain.projections)))
        assert not [one for one in checked if one.fault or one.notice]
    pins = {origin: [one.pin.height for one in said.get(origin, []) if one.pin] for origin in EVERY}
    return headers, pins, {origin: due(origin, said) for origin in EVERY}


def due(origin: str, said: dict[str, list[Manifest]]) -> list[int]:
    heights, last = [], 0
    for block in said.get(origin.rpartition("/")[0], []):
        if block.size >= last + EVERY[origin]:
            heights.append(block.height)
            last = block.size
    return heights


def test_killed_sealers_take_every_snapshot_once(folder: Path) -> None:
    kill = Killer()
    append(folder, 0)
    kill(sealing(folder, "mine"))
    before, pins, wanted = check(folder)
    assert pins == wanted
    assert all(pins.values())
    for number in range(1, KILLS + 1):
        append(folder, number)
        kill(sealing(folder, "mine" if number % 2 else "run"))
        mined, pins, wanted = check(folder)
        assert before.items() <= mined.items(), "a solution was lost or replaced"
        for origin in EVERY:
            assert pins[origin] == wanted[origin][: len(pins[origin])], origin
        before = mined
    assert kill.hits, "no kill hit a process at work"
    with sealing(folder, "mine") as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    mined, pins, wanted = check(folder)
    assert before.items() <= mined.items()
    assert pins == wanted
    with eventchain.open_chain(folder / "eventchain.toml") as chain:
        assert chain.state("slow") == (KILLS + 1) * EVENTS * (EVENTS - 1) // 2
        assert chain.verify().notices == []
