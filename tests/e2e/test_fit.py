"""Stores that do not belong together are not sealed on."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from chains import Chain, genesis_anchor, newest_anchors

from eventchain.chain.fit import misfit, require_fit
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import StoreError
from eventchain.eventstores import open_event_store


def reason(chain: Chain, *, anchored: bool = True) -> str | None:
    with chain.opened() as (store, events):
        return misfit(store, events, [genesis_anchor(chain)] if anchored else [])


@pytest.fixture
def chain(grown: Chain, tmp_path: Path) -> Chain:
    return grown.copy(tmp_path / "copy")


def test_stores_that_belong_together(chain: Chain) -> None:
    assert reason(chain) is None
    chain.sql(chain.events_file, "INSERT INTO events VALUES (9000, 'new', 0, 'new', 't', 0, x'', NULL)")
    assert reason(chain) is None


def test_an_older_copy_of_the_events(chain: Chain) -> None:
    chain.sql(chain.events_file, "DELETE FROM events WHERE position > 100")
    said = reason(chain)
    assert said is not None
    assert said.startswith("the event store ends at position 100, the chain reaches to position")
    with chain.opened() as (store, events), pytest.raises(StoreError, match="do not belong together"):
        require_fit(store, events, ())


def test_an_empty_event_store(chain: Chain) -> None:
    chain.sql(chain.events_file, "DELETE FROM events")
    said = reason(chain)
    assert said is not None
    assert said.startswith("the event store is empty")


def test_another_event_store_of_the_same_kind(chain: Chain, tmp_path: Path) -> None:
    with chain.opened() as (store, _), closing(open_event_store(f"sqlite:///{chain.events_file}")) as events:
        every = events.read(None, 10_000)
        with closing(open_event_store(f"sqlite:///{tmp_path}/other.db", create=True)) as other:
            changed = every.to_pylist()
            for row in changed:
                row["data"] = b"of another company"
            other.append_batches([type(every).from_pylist(changed, schema=every.schema)])
            said = misfit(store, other, ())
    assert said is not None
    assert "is not the one in the chain" in said or "reaches to position" in said


def test_another_chain(chain: Chain) -> None:
    genesis = genesis_anchor(chain)
    with chain.opened() as (store, events):
        assert misfit(store, events, [replace(genesis, origin="other.example/log")]) == (
            f"the chain is {genesis.origin}, the anchor is of other.example/log"
        )
        assert misfit(store, events, [replace(genesis, link=bytes(32))]) == (
            "block 0 of the chain is not the anchored one"
        )
        newest = newest_anchors(chain)[0]
        assert misfit(store, events, [genesis, newest]) is None
        assert misfit(store, events, [replace(newest, height=newest.height + 1)]) is not None


def test_mine_refuses_and_status_warns(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eventchain", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    run("init", "--origin", "fit.test/log", "--difficulty", "4", "--backend", "reference")
    with closing(open_event_store(f"sqlite:///{tmp_path}/events.db")) as store:
        store.append("s", -1, [NewEvent(f"e{n}", "t", b"") for n in range(20)])
    assert run("mine", "--backend", "reference").returncode == 0
    with closing(sqlite3.connect(tmp_path / "events.db")) as db:
        db.execute("DELETE FROM events WHERE position > 10")
        db.commit()
    mined = run("mine", "--backend", "reference")
    assert mined.returncode == 2
    assert "these stores do not belong together: the event store ends at position 10" in mined.stderr
    status = run("status", "--json", "--backend", "reference")
    assert status.returncode == 0
    assert "warning: these stores do not belong together" in status.stderr
    assert json.loads(status.stdout)["misfit"].startswith("the event store ends")
