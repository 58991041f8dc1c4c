"""What an administrator may try to keep out of verify's sight, though the application sees it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import new_chain

from eventchain.chain import build
from eventchain.formats.leaf import MAX_ENTRY, leaf_hashes


@pytest.mark.parametrize("stream", ["account-3", "s" * MAX_ENTRY], ids=["event", "too long for an entry"])
def test_a_leaf_that_no_event_can_have(stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miner who commits to a leaf of zeros could put any event there afterwards: zero is how verify marks
    a leaf that it cannot read, and an event that is too long for one."""

    def forged(batch: Any, salts: Any) -> Any:
        hashes = np.array(leaf_hashes(batch, salts))
        hashes[3] = 0
        return hashes

    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 20)
        monkeypatch.setattr(build, "leaf_hashes", forged)
        work.sealer.seal_backlog(20)
    chain.sql(chain.events_file, "UPDATE events SET stream = ? WHERE position = 4", parameters=(stream,))
    (finding,) = chain.verify().wrong
    assert (finding.kind, finding.height, finding.position) == ("altered", 1, 4)


def test_many_events_inserted_are_named_quickly_and_by_block(tmp_path: Path) -> None:
    """One finding, and the block in whose range they stand."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 200)
        chain.sql(chain.events_file, "UPDATE events SET position = position + 100000 WHERE position > 100")
        work.sealer.seal_backlog(20)
    with closing(sqlite3.connect(chain.events_file)) as db:
        db.executemany(
            "INSERT INTO events SELECT ?, 'x', ?, ?, 't', 0, NULL, NULL",
            [(position, position, f"x{position}") for position in range(1000, 60_000)],
        )
        db.commit()
    (finding,) = chain.verify().wrong
    assert (finding.kind, finding.height, finding.count) == ("inserted", 6, 59_000)
