"""The engine's searches that a coordinator has begun, and the pieces of them that are out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eventchain_fleet.messages import tags_of
from eventchain_fleet.pieces import Cutter, Part
from eventchain_fleet.roster import Queue

MAX_SHARED = 1024
"""Headers of a search that is looked through for what another one has solved."""


@dataclass(eq=False, slots=True)
class Search:
    id: int
    cutter: Cutter
    since: float
    over: asyncio.Event
    pieces: dict[int, Lent] = field(default_factory=dict)  # by token; those not answered
    on_lease: int = 0  # of these
    answered: bool = False
    hashes: float = 0.0  # that were tried, as far as it is known
    cut: bool = False  # a header may be cut in several pieces
    twice: bool = False  # a piece may be out twice

    def rows_of(self, tags: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Which of its headers have these tags. Searches of many headers share none: the engine gives one
        header to several only when it has few."""
        if len(self.cutter.headers) > MAX_SHARED:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.isin(tags_of(self.cutter.headers), tags))


@dataclass(eq=False, slots=True)
class Lent:
    """A piece that is out, by the token that its answer must have."""

    search: Search
    token: int
    part: Part
    queue: Queue
    since: float
    due: float
    on_lease: bool = True
