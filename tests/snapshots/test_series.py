"""Snapshots of projections: when they are due, what they hold, and what comes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from chains import ORIGIN, Chain as Files, Work, manifests, new_chain, new_event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventchain.assembly import Chain
from eventchain.errors import ProjectionError, StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.projections.spec import Every, Spec
from eventchain.snapshots.beside import Beside
from eventchain.snapshots.series import all_series
from eventchain.snapshots.take import Taker, by_policy

COUNT = Spec("types", "count", {"by": "type"}, every=Every(events=20))
SUM = Spec("amounts", "sum", {"path": "data.amount"}, every=Every(events=50))


def append(work: Work, first: int, count: int) -> None:
    work.append(first, count)


class Taking:
    """A chain of 10 events a block, and whoever takes snapshots of it."""

    def __init__(self, folder: Path, *specs: Spec) -> None:
        self.files = new_chain(folder)
        self.specs = {spec.name: spec for spec in specs}
        self.dropped: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def seal(self, first: int, count: int) -> int:
        """Append so many events and seal them; gives the number of snapshots."""
        with self.files.working() as work:
            taker = Taker(
                work.store,
                work.events,
                all_series(work.store, self.specs).values(),
                by_policy,
                dropped=lambda series, error: self.dropped.append((series.name, str(error))),
                notice=self.notices.append,
            )
            beside = Beside(taker, lambda error: self.dropped.append(("", str(error))))
            work.sealer._snapshots = beside
            with beside.working():
                work.append(first, count)
                work.sealer.resume()
                work.sealer.seal_backlog(10)
            return work.sealer.progress.snapshots_sealed

    def opened(self):
        return self.files.opened()

    def chain(self, store, events) -> Chain:
        return Chain(events, store, projections=self.specs)

    def pins(self, name: str) -> list[int]:
        return [m.pin.height for m in manifests(self.files, f"{ORIGIN}/{name}") if m.pin]


def counts(end: int) -> dict[str, int]:
    return dict(Counter(new_event(number)["type"] for number in range(end)))


def test_snapshots_are_taken_by_policy_while_sealing(tmp_path):
    taking = Taking(tmp_path, COUNT, SUM)
    assert taking.seal(0, 65) == 3 + 1
    taking.files.check()
    assert (taking.pins("types"), taking.pins("amounts")) == ([2, 4, 6], [5])
    assert taking.seal(65, 60) == 2 + 1
    taking.files.check()
    # 65 events end block 7, the next blocks end at 75, 85, …: 80 and 100 are reached by blocks 9 and 11.
    assert (taking.pins("types"), taking.pins("amounts")) == ([2, 4, 6, 9, 11], [5, 11])
    assert not taking.dropped
    with taking.opened() as (store, events):
        chain = taking.chain(store, events)
        restored = chain.restore("types")
        assert restored.state == counts(125)
        assert (restored.snapshot.height, restored.replayed, restored.size) == (11, 20, 125)
        assert restored.dump == json.dumps(counts(125), sort_keys=True, separators=(",", ":")).encode()
        assert chain.state("types", at=6) == counts(60)
        assert chain.state("types", at=1) == counts(10)
        assert chain.state("types", at=0) == {}
        with pytest.raises(ProjectionError, match="block 99"):
            chain.state("types", at=99)
        with pytest.raises(ProjectionError, match="no projection 'nothing'"):
            chain.state("nothing")
