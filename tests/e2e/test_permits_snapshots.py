"""Snapshots of a real event log, held against folds in plain Python over the file that it came from."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from oracle import check_chain

import eventchain
from eventchain.cli import cli

PERMITS = Path(__file__).parents[3] / "shared" / "data" / "permits.cloudevents.jsonl.gz"
ORIGIN = "example.com/permits"
PROJECTIONS = """
[projection.internet]
use = "latest"
filter = 'type.startsWith("permit.") && data.case.channel == "Internet"'
every = "2000 events"

[projection.workers]
use = "count"
by = 'data["org:resource"]'
filter = 'data["org:group"] == "Group 1"'
every = "1000 events"

[projection.winter]
use = "count"
times = "2010-12-01..2011-02-28"
every = "1500 events"

[projection.growth]
use = "permits_growth:Growth"
of = "workers"
every = "3 events"
"""
GROWTH = '''
from eventchain.projections import Event, Projection


class Growth(Projection[list[list[int]]]):
    """Of each snapshot the block that it is of, and how many events it counts."""

    def initial(self) -> list[list[int]]:
        return []

    def apply(self, state: list[list[int]], event: Event) -> list[list[int]]:
        return [*state, [event.version, sum(event.json.values())]]
'''
Lines = list[dict[str, Any]]


def internet(lines: Lines) -> Any:
    found = {}
    for line in lines:
        if line["data"].get("case", {}).get("channel") == "Internet":
            found[line["subject"]] = line["data"]
    return found


def workers(lines: Lines) -> Any:
    return dict(
        Counter(
            line["data"]["org:resource"]
            for line in lines
            if line["data"].get("org:group") == "Group 1" and "org:resource" in line["data"]
        )
    )


def winter(lines: Lines) -> Any:
    """All times in the file are of the zone of the Netherlands, so one bound lies an hour from UTC's."""
    return dict(
        Counter(
            line["type"]
            for line in lines
            if "2010-12-01T01:00:00+01:00" <= line["time"] < "2011-03-01T01:00:00+01:00"
        )
    )


PLAIN: dict[str, Callable[[Lines], Any]] = {"internet": internet, "workers": workers, "winter": winter}


def run(folder: Path, *arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments), "-C", str(folder / "eventchain.toml")])
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log in blocks of 100 events, with the snapshots that its configuration makes due."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "init", "--origin", ORIGIN, "--difficulty", 8, "--block-events", 100, "--backend", "cpu")
    run(tmp_path, "import", PERMITS)
    (tmp_path / "permits_growth.py").write_text(GROWTH)
    with (tmp_path / "eventchain.toml").open("a") as config:
        config.write(PROJECTIONS)
    run(tmp_path, "mine")
    return tmp_path


@pytest.mark.skipif(not PERMITS.exists(), reason="the permits log is not part of the project")
def test_states_of_the_permits_log_are_those_of_plain_python(folder: Path) -> None:
    lines = [json.loads(line) for line in gzip.decompress(PERMITS.read_bytes()).splitlines()]
    with eventchain.open_chain(folder / "eventchain.toml") as chain:
        head = chain.restore("internet").height
        heights = [7, head // 4, head // 2, head - 9, head]
        began = set()
        for name, plain in PLAIN.items():
            pins = [pin.height for pin in chain.snapshots(name)]
            assert len(pins) == {"internet": 4, "workers": 8, "winter": 5}[name]
            for height in heights:
                restored = chain.restore(name, at=height)
                assert json.loads(restored.dump) == plain(lines[: restored.size]), (name, height)
                newest = max((pin for pin in pins if pin <= height), default=None)
                assert (restored.snapshot.height if restored.snapshot else None) == newest
                began.add(newest)
        assert len(began) > 6  # from nothing, and from snapshots old and new
        assert chain.restore("internet").size == len(lines) == 8577
        assert len(internet(lines)) > 900
        assert sum(winter(lines).values()) > 1000

        sizes = {height: chain.restore("workers", at=height).size for height in pins_of(chain, "workers")}
        expected = [[height, sum(workers(lines[:size]).values())] for height, size in sizes.items()]
        assert chain.state("growth") == expected
        assert [pin.parent for pin in chain.snapshots("growth")] == [f"{ORIGIN}/workers"] * 2
        third = chain.snapshots("workers")[2]
        assert chain.state("growth", at=third.block) == expected[:3]

        check_chain(chain.store, chain.events)
    assert "verdict: clean" in run(folder, "verify")
    assert run(folder, "snapshot", "verify") == "19 snapshots right, 0 wrong\n"


def pins_of(chain: eventchain.Chain, name: str) -> list[int]:
    return [pin.height for pin in chain.snapshots(name)]
