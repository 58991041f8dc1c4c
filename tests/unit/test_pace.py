"""Whether sealing keeps up, from what blocks say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from chains import Chain, new_chain

from eventchain.chain.pace import WINDOW, pace_of
from eventchain.chain.view import ChainView


@pytest.fixture
def steady(tmp_path: Path) -> Chain:
    """A block of 30 events a minute, for half an hour."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        for minute in range(30):
            chain.clock.tick(60)
            work.append(30 * minute, 30)
            work.sealer.seal_backlog(64)
    return chain


def test_arrival_and_capacity(steady: Chain) -> None:
    with steady.opened() as (store, _):
        view = ChainView(store)
        pace = pace_of(view, 0, rate=160.0, block_events=64, now=steady.clock())
        assert pace.arriving == pytest.approx(0.5)
        assert pace.capacity == pytest.approx(160 / 16 * 64)  # 4 bits: 16 hashes a block
        assert pace.falling_behind == 0
        slow = pace_of(view, 0, rate=0.0625, block_events=64, now=steady.clock())
        assert slow.capacity == pytest.approx(0.25)
        assert slow.falling_behind == pytest.approx(0.25)
        # What waits has arrived too, and a policy's blocks are no larger than it allows.
        waiting = pace_of(view, 300, rate=160.0, block_events=10**6, now=steady.clock())
        assert waiting.arriving == pytest.approx(1.0)
        assert waiting.capacity == pytest.approx(640)


def test_too_young_to_say(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    with chain.opened() as (store, _):
        view = ChainView(store)
        assert pace_of(view, 5, 1.0, 64, chain.clock() + 59).arriving is None
        assert pace_of(view, 60, 1.0, 64, chain.clock() + 60).arriving == pytest.approx(1.0)
        assert pace_of(view, 60, 1.0, 64, chain.clock() + 6 * WINDOW).arriving == pytest.approx(60 / 3600)
        assert time.time() > chain.clock()
