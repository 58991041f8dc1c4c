"""Sealing as events arrive, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from chains import BITS, SOURCE, Work, manifests, new_chain

from eventchain.chain import arrivals
from eventchain.chain.sealing import Progress
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy


class Enough(Exception):
    pass


def follow(
    work: Work, each_turn: Callable[[int], bool], block_events: int = 10, seconds: float = 0.0
) -> None:
    """Follow until ``each_turn``, given the number of the turn, says that it is enough."""
    turn = 0

    def report(_: Progress) -> None:
        nonlocal turn
        turn += 1
        if each_turn(turn):
            raise Enough

    with pytest.raises(Enough):
        work.sealer.follow(block_events, seconds, report)


def sealed(work: Work) -> int:
    return work.sealer.sealed.size


def test_a_late_event_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(arrivals, "LATE_SHARE", 0)
    chain = new_chain(tmp_path, Policy(BITS, 64, 1000, 5, SOURCE))
    with chain.working() as work:
        work.append(0, 20)
        chain.sql(chain.events_file, "CREATE TABLE aside AS SELECT * FROM events WHERE position < 4")
        chain.sql(chain.events_file, "DELETE FROM events WHERE position < 4")
        follow(work, lambda turn: sealed(work) == 17)
        chain.sql(chain.events_file, "INSERT INTO events SELECT * FROM aside", "DROP TABLE aside")
        follow(work, lambda turn: sealed(work) == 20)  # no other event has to arrive for it
    chain.check()


def test_blocks_fill_while_mining_is_behind(tmp_path: Path) -> None:
    """At a difficulty that nobody meets, a block a turn would be built for every single event."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        hard = Policy(bits_for_difficulty(60), 64, 1000, 0, SOURCE)
        with work.store.transaction():
            built = work.builder.tighten(work.builder.trunk, hard)
        work.sealer.build(built)

        def one_more(turn: int) -> bool:
            work.append(turn, 1)
            return turn == 60

        follow(work, one_more)
        # The hard policy's block, and one for each ten events: none is closed by time.
        assert work.builder.trunk.height <= 1 + 6


def test_a_full_block_is_closed_before_its_time(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 25)
        follow(work, lambda turn: sealed(work) == 20, seconds=1e6)
        follow(work, lambda turn: turn == 20, seconds=1e6)
        assert sealed(work) == 20  # the rest waits
        follow(work, lambda turn: sealed(work) == 25)
    chain.check()
    assert [said.size for said in manifests(chain)] == [0, 10, 20, 25]
