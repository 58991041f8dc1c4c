"""How many lines a connection may send."""

from __future__ import annotations

LINES_A_SECOND, BURST = 20.0, 200.0


class Allowance:
    """A token bucket. now: seconds of a clock that only rises."""

    def __init__(self, now: float) -> None:
        self._left = BURST
        self._counted = now

    def spend(self, now: float) -> float:
        """A line came. Returns how many seconds to wait before the next one is read."""
        self._left = min(BURST, self._left + (now - self._counted) * LINES_A_SECOND) - 1
        self._counted = now
        return max(0.0, -self._left / LINES_A_SECOND)

    def give_back(self) -> None:
        """It was a share that is right: vardiff keeps those few."""
        self._left += 1
