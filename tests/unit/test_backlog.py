"""How far behind, in events and in seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.service.backlog import SAMPLE_SECONDS, WINDOW_SECONDS, Backlog


def test_the_oldest_waiting_event_sets_the_age():
    backlog = Backlog()
    backlog.observe(10.0, None, None)
    assert (backlog.events, backlog.seconds) == (0, 0.0)
    backlog.observe(11.0, 5, None)
    backlog.observe(13.0, 9, None)
    assert (backlog.events, backlog.seconds) == (10, 2.0)
    backlog.observe(14.0, 9, 5)  # up to 5 is sealed: the rest was seen first at 13
    assert (backlog.events, backlog.seconds) == (4, 1.0)
    backlog.observe(15.0, 9, 9)
    assert (backlog.events, backlog.seconds) == (0, 0.0)


def test_arrival_over_the_window():
    backlog = Backlog()
    for second in range(100):
        backlog.observe(float(second), 50 * second, None)
    assert backlog.arrival == pytest.approx(50)
    for second in range(100, 1000):  # nothing more arrives
        backlog.observe(float(second), 50 * 99, None)
    assert backlog.arrival == 0
    assert len(backlog._samples) <= WINDOW_SECONDS / SAMPLE_SECONDS + 2


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_the_age_is_never_younger_than_the_oldest(steps):
    """Against the plain record of when each position was first seen."""
    backlog, now, head, sealed = Backlog(), 0.0, -1, -1
    seen: dict[int, float] = {}
    for wait, more, less in steps:
        now += wait
        for position in range(head + 1, head + 1 + more):
            seen[position] = now
        head += more
        sealed = min(head, sealed + less)
        backlog.observe(now, head if head >= 0 else None, sealed if sealed >= 0 else None)
        waiting = [at for position, at in seen.items() if position > sealed]
        assert backlog.events == head - sealed
        if waiting:
            assert now - min(waiting) - 1e-9 <= backlog.seconds <= now - min(waiting) + SAMPLE_SECONDS
        else:
            assert backlog.seconds == 0
