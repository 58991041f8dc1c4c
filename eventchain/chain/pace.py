"""Whether sealing keeps up: how fast events arrive, beside how fast a host can seal them."""

from __future__ import annotations

from dataclasses import dataclass

from eventchain.chain.view import ChainView
from eventchain.formats.header import work_of

WINDOW = 600
"""Seconds over which arrival is measured."""
LEAST = 60
"""A shorter time says nothing of it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Events a second. ``arriving`` is None while too little is known."""

    arriving: float | None
    capacity: float

    @property
    def falling_behind(self) -> float:
        """Events a second by which the backlog grows; 0 while sealing keeps up."""
        return max(0.0, (self.arriving or 0.0) - self.capacity)


def pace_of(view: ChainView, waiting: int, rate: float, block_events: int, now: float) -> Pace:
    """The trunk's pace at ``rate`` hashes a second in blocks of ``block_events``.

    waiting: events that are in no block yet; now: unix seconds, by the clock that blocks are built by
    """
    policy = view.trunk.policy
    capacity = rate / work_of(policy.bits) * min(block_events, policy.events)
    # The newest block that was built before the window; the genesis at least.
    base = view.said(max(0, view.built_by(now - WINDOW)))
    seconds = now - base.built
    arriving = (view.log_size + waiting - base.size) / seconds if seconds >= LEAST else None
    return Pace(arriving, capacity)
