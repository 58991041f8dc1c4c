"""Cutting work: every counter is handed out once until its header is solved; who is trusted with how much."""

from __future__ import annotations

import math

import numpy as np
import pytest
from eventchain_fleet.messages import Here
from eventchain_fleet.pieces import Cutter
from eventchain_fleet.roster import (
    DEPTH,
    FIRST_SIZE,
    FIRST_WINDOW,
    GROWTH,
    MAX_WORKERS,
    SILENT_SECONDS,
    Queue,
    Roster,
    Worker,
)
from hypothesis import given
from hypothesis import strategies as st

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.formats.header import HEADER, bits_for_difficulty


def work_of(difficulties, start, count, rolls=1):
    headers = np.zeros(len(difficulties), HEADER)
    headers["bits"] = [bits_for_difficulty(difficulty) for difficulty in difficulties]
    return Work(headers, np.array(start, np.uint64), count, rolls)


@given(data=st.data())
def test_every_counter_is_handed_out_once(data):
    n, rolls = data.draw(st.integers(0, 8)), 2 ** data.draw(st.integers(0, 4))
    end, count = rolls * NONCES, data.draw(st.integers(0, 5000))
    anywhere = st.integers(0, 3000) | st.integers(end - 3000, end + 9)
    starts = data.draw(st.lists(anywhere, min_size=n, max_size=n))
    difficulties = data.draw(st.lists(st.sampled_from([0, 4, 8, 40]), min_size=n, max_size=n))
    work = work_of(difficulties, starts, count, rolls)
    cutter, seen = Cutter(work), [[] for _ in range(n)]
    while (part := cutter.draw(data.draw(st.floats(0.5, 4000)), data.draw(st.integers(1, 4)))) is not None:
        assert 1 <= len(part.rows) <= 4
        if data.draw(st.integers(0, 5)) == 0:
            cutter.put_back(part)
            continue
        for row, first in zip(part.rows.tolist(), part.start.tolist(), strict=True):
            seen[row].append((first, min(first + part.count, end)))
    assert cutter.exhausted
    for row, start in enumerate(starts):
        at = start
        for first, last in sorted(seen[row]):
            assert first == at
            at = last
        assert at == max(start, min(start + count, end))


def test_parts_are_of_the_wanted_size():
    easy = Cutter(work_of([10] * 1000, [0] * 1000, 4 * 1024))
    part = easy.draw(100_000, 8192)
    assert part is not None
    assert 90 <= len(part.rows) <= 110  # 1,024 hashes each, less the one in 50 that is not solved
    assert part.hashes == pytest.approx(100_000, rel=0.02)
    assert easy.odds(part) == pytest.approx(len(part.rows) * (1 - math.exp(-4)), rel=0.01)
    hard = Cutter(work_of([60], [5], 2**40, rolls=16))
    part = hard.draw(100_000, 8192)
    assert part is not None
    assert (part.start.tolist(), part.count) == ([5], 100_000)
    part = hard.draw(3, 8192)  # never less than one nonce
    assert part is not None
    assert (part.start.tolist(), part.count) == ([100_005], 16)


def test_what_is_solved_or_abandoned_is_not_handed_out():
    cutter = Cutter(work_of([8] * 4, [0] * 4, 64))
    part = cutter.draw(60, 1)
    assert part is not None
    assert cutter.solve(part, Solutions(np.zeros(1, np.uint32), np.array([7], np.uint64))).tolist() == [0]
    again = Solutions(np.zeros(1, np.uint32), np.array([9], np.uint64))
    assert cutter.solve(part, again).tolist() == []  # the first one counts
    cutter.put_back(part)
    cutter.abandon(np.array([0, 2]))
    rest = cutter.draw(1e9, 8192)
    assert rest is not None
    assert rest.rows.tolist() == [1, 3]
    assert cutter.draw(1e9, 8192) is None
    solutions = cutter.solutions()
    assert (solutions.index.tolist(), solutions.counter.tolist()) == ([0], [7])


# -- trust


def here(size_class: int, number: int = 0, rate: float = 1e9) -> Here:
    return Here(number, size_class, rate, 0, 0, "a device")


def test_a_queue_is_given_more_only_as_it_answers():
    roster = Roster()
    for worker in range(1000):  # whoever may say so may claim any number of workers of any speed
        roster.heard("workers", f"host.{worker}", here(60), 0.0)
    queue = roster.queues["workers", 60]
    assert queue.devices == 1000
    assert queue.size == FIRST_SIZE
    for _ in range(FIRST_WINDOW):
        assert queue.has_room(0.0)
        queue.out += 1
    assert not queue.has_room(0.0)
    queue.answered(FIRST_SIZE, 0.0)
    assert queue.has_room(0.0)
    assert queue.size == GROWTH * FIRST_SIZE
    assert not queue.has_room(1000.0)  # answers of long ago say nothing


def test_a_queue_that_does_not_answer_is_asked_ever_more_rarely():
    queue = Queue("workers", 30)
    queue.devices = 10
    queue.answered(2.0**25, 0.0)
    queue.missed(0.0, 10.0)  # something else was answered since
    assert queue.has_room(10.0)
    queue.missed(1.0, 10.0)
    queue.missed(1.0, 10.1)  # together with the one before
    assert queue.size == 2.0**25 / GROWTH  # each of them is a reason to give less
    assert not queue.has_room(11.9)
    assert queue.has_room(12.0)
    queue.out += 1
    assert not queue.has_room(12.0)  # one at a time
    queue.out -= 1
    queue.missed(12.0, 12.0)
    assert not queue.has_room(15.9)
    assert queue.has_room(16.0)
    for _ in range(10):
        queue.missed(12.0, 1000.0 * (_ + 1))
    assert queue.has_room(10_060.0)  # never longer than a minute
    queue.answered(2.0**20, 10_060.0)
    queue.out = FIRST_WINDOW
    assert queue.has_room(10_060.0)


def test_an_answer_is_due_after_all_that_was_given_before():
    queue = Queue("workers", 30)
    queue.devices = 2
    queue.load = 4 * 2.0**30  # two pieces of two seconds for each device: four seconds, and as much to spare
    assert queue.due(100.0) == 100.0 + 2 + 8


def test_what_is_called_off_was_searched_as_far_as_there_was_time():
    queue = Queue("workers", 30)
    queue.devices, queue.load = 1, 2 * 2.0**30  # a piece of two seconds goes before this one
    due = queue.due(100.0)
    searched = [queue.searched(2.0**30, 100.0, due, 100.0 + seconds) for seconds in (1, 2, 3, 4, 9)]
    assert searched == [0, 0, 2.0**29, 2.0**30, 2.0**30]


def test_workers_are_believed_to_be_as_fast_as_they_say_within_reason():
    roster = Roster()
    roster.heard("workers", "a.1", here(20, rate=3e5), 0.0)
    roster.heard("workers", "liar.1", here(60, rate=1e18), 0.0)
    assert 3e5 < roster.rate < 3e6


def test_a_queue_holds_a_few_pieces_for_each_device():
    queue = Queue("workers", 30)
    queue.devices = 2
    for _ in range(50):
        queue.answered(2.0**30, 0.0)
    queue.out = 2 * DEPTH - 1
    assert queue.has_room(0.0)
    queue.out += 1
    assert not queue.has_room(0.0)
    assert queue.size == 2.0**30


def test_workers_come_change_and_go():
    roster = Roster()
    roster.heard("workers", "a.1", here(20, 0), 0.0)
    roster.heard("workers", "a.1", here(25, 1), 0.0)
    roster.heard("workers", "a.1", here(21, 0), 1.0)
    assert {key: queue.devices for key, queue in roster.queues.items()} == {
        ("workers", 20): 0, ("workers", 21): 1, ("workers", 25): 1,
    }  # fmt: skip
    roster.forget_silent(1.0 + SILENT_SECONDS)
    assert roster.workers
    roster.forget_silent(1.1 + SILENT_SECONDS)
    assert not roster.workers
    assert not any(queue.devices for queue in roster.queues.values())


def test_who_is_shut_out_stays_out():
    roster = Roster()
    roster.heard("workers", "a.1", here(20), 0.0)
    roster.shut_out("workers", "a.1", "it lied")
    roster.heard("workers", "a.1", here(20), 1.0)
    assert not roster.workers
    assert roster.queues["workers", 20].devices == 0


def test_there_is_an_end_to_what_is_remembered():
    roster = Roster()
    for worker in range(MAX_WORKERS + 10):
        roster.heard("workers", f"a.{worker}", here(20), 0.0)
    roster.heard("workers", "a.1", here(20, number=9999), 0.0)
    assert len(roster.workers) == MAX_WORKERS
    assert len(roster.workers["workers", "a.1"].devices) == 1


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_who_hides_solutions_is_noticed_and_who_has_no_luck_is_not(due, share):
    bad_luck = due - 5.9 * math.sqrt(due)
    assert not Worker(0.0, due=due, found=math.ceil(max(0.0, bad_luck))).hides
    if due > 40 and share < 1 - 6.1 / math.sqrt(due):
        assert Worker(0.0, due=due, found=math.floor(due * share)).hides
