"""The scheduler alone: what it hands out, whatever order slices come back in."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.contracts.backend import NONCES
from eventchain.errors import FormatError
from eventchain.formats.header import (
    HEADER,
    MAX_EXTRANONCE,
    VERSION,
    bits_for_difficulty,
    merkle_root,
    work_of,
)
from eventchain.mining.schedule import FIRST_RATE, MAX_HEADERS, PATIENCE, Schedule, Slice

FIRST_BUDGET = FIRST_RATE // 4  # for a quarter of a second
NOW = 1_800_000_000
NOTHING = np.empty(0, np.uint32)


def headers_at(difficulties):
    headers = np.zeros(len(difficulties), HEADER)
    headers["version"] = VERSION
    headers["bits"] = [bits_for_difficulty(difficulty) for difficulty in difficulties]
    return headers


def add(schedule: Schedule, first: int, difficulties) -> None:
    """Headers with the keys ``first``, ``first + 1``, … and manifests that say their key."""
    keys = np.arange(first, first + len(difficulties))
    headers = headers_at(difficulties)
    manifests = [b"%d\n" % key for key in keys]
    for row, manifest in enumerate(manifests):
        headers["merkle_root"][row] = np.frombuffer(merkle_root(manifest), np.uint8)
    schedule.add(keys, headers, manifests, np.full(len(keys), NOW - 5))


def solve(schedule: Schedule, piece: Slice, index) -> list[int]:
    index = np.array(index, np.uint32)
    return schedule.report(piece, index, piece.work.headers[index]).keys.tolist()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.sampled_from([0, 4, 4, 8, 40]), max_size=12)),
        st.tuples(st.just("next"), st.integers(0, 2)),
        st.tuples(st.just("report"), st.integers(0, 5), st.integers(0, 2**12 - 1), st.floats(1e-6, 10)),
        st.tuples(st.just("give back"), st.integers(0, 5)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.sampled_from([64, 1000, NONCES]))
def test_every_header_is_solved_once_and_no_counter_is_tried_twice(steps, space):
    schedule = Schedule(3, space=space)
    added, solved, flying = 0, [], []
    tried = defaultdict(list)

    def take(device: int) -> None:
        piece = schedule.next(device, NOW)
        assert (piece is None) == (schedule.outstanding == 0)
        if piece is None:
            return
        flying.append(piece)
        work = piece.work
        assert work.headers["time"].min() == NOW
        assert 0 < work.count <= space
        assert int(work.start.max()) < space
        assert len(np.unique(piece.ids)) == len(piece.ids)
        for key, extranonce, start, header in zip(
            piece.ids.tolist(), piece.extranonces.tolist(), work.start.tolist(), work.headers, strict=True
        ):  # a key is its id here
            tried[key, extranonce].append((start, start + work.count))
            assert header["merkle_root"].tobytes() == merkle_root(b"%d\n" % key, extranonce)

    def report(piece: Slice, index, seconds: float) -> None:
        flying.remove(piece)
        schedule.paces[piece.device].update(piece.work.count * len(piece.ids), seconds)
        solved.extend(solve(schedule, piece, index))

    for step in steps:
        match step:
            case ("add", difficulties):
                add(schedule, added, difficulties)
                added += len(difficulties)
            case ("next", device):
                take(device)
            case ("report", which, mask, seconds) if flying:
                piece = flying[which % len(flying)]
                report(piece, [i for i in range(len(piece.ids)) if mask >> i % 12 & 1], seconds)
            case ("give back", which) if flying:
                schedule.give_back(flying.pop(which % len(flying)))
        assert schedule.outstanding == added - len(solved)

    while schedule.outstanding:
        take(0)
        report(flying[-1], range(len(flying[-1].ids)), 0.01)
    while flying:  # these come too late
        report(flying[-1], range(len(flying[-1].ids)), 0.01)
    assert sorted(solved) == list(range(added))
    assert schedule.expected_hashes == 0
    for ranges in tried.values():
        ranges.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_the_first_headers_come_first_and_leftovers_before_new_ones():
    schedule = Schedule(1)
    add(schedule, 0, [12] * 100)
    first = schedule.next(0, NOW)
    assert first.ids.tolist() == list(range(FIRST_BUDGET >> 12))
    assert first.work.count == PATIENCE << 12
    schedule.paces[0].update(FIRST_BUDGET, 0.25)
    assert solve(schedule, first, range(2, 16)) == list(range(2, 16))
    second = schedule.next(0, NOW)
    assert second.ids.tolist() == [0, 1, *range(16, 30)]
    assert second.work.start.tolist() == [PATIENCE << 12] * 2 + [0] * 14


def test_hard_headers_get_large_ranges_one_at_a_time():
    schedule = Schedule(1)
    add(schedule, 0, [60, 60])
    start, count = 0, FIRST_BUDGET
    for _ in range(10):
        piece = schedule.next(0, NOW)
        assert piece.ids.tolist() == [0]
        assert (int(piece.work.start[0]), piece.work.count) == (start, count)
        schedule.paces[0].update(count, count / 2**30)  # so many a second
        solve(schedule, piece, NOTHING)
        start, count = start + count, min(8 * count, 2**28)
    assert count == 2**28


def test_two_devices_share_plenty_by_speed_and_one_header_by_counters():
    schedule = Schedule(2)
    add(schedule, 0, [4] * 1000)
    schedule.paces[0].update(3_000_000, 1)
    schedule.paces[1].update(1_000_000, 1)
    fast, slow = schedule.next(0, NOW), schedule.next(1, NOW)
    assert fast.ids.tolist() == list(range(750))
    assert slow.ids.tolist() == list(range(750, 750 + 63))
    assert len(solve(schedule, slow, range(63))) == 63

    hard = Schedule(2)
    add(hard, 0, [60])
    pieces = [hard.next(device, NOW) for device in (0, 1, 0)]
    assert [piece.ids.tolist() for piece in pieces] == [[0]] * 3
    assert [int(piece.work.start[0]) for piece in pieces] == [0, FIRST_BUDGET, 2 * FIRST_BUDGET]
    assert solve(hard, pieces[1], [0]) == [0]
    assert solve(hard, pieces[0], [0]) == []  # right, and too late
    assert hard.outstanding == 0
    assert hard.next(1, NOW) is None


def test_extranonce_rolls_when_the_counters_are_used_up():
    schedule = Schedule(1, space=64)
    add(schedule, 0, [60])
    piece = schedule.next(0, NOW)
    assert piece.work.count == 64
    solve(schedule, piece, NOTHING)
    again = schedule.next(0, NOW + 9)
    assert again.extranonces.tolist() == [1]
    assert again.work.start.tolist() == [0]
    assert again.work.headers["time"].tolist() == [NOW + 9]
    assert again.work.headers["merkle_root"].tobytes() == merkle_root(b"0\n", 1)
    assert piece.work.headers["merkle_root"].tobytes() == merkle_root(b"0\n", 0)
    # The earlier slice's solution is of the earlier extranonce.
    schedule._table["extranonce"][0] = MAX_EXTRANONCE
    solve(schedule, again, NOTHING)
    assert schedule.next(0, NOW).extranonces.tolist() == [0]


def test_the_time_is_not_before_what_the_block_says():
    schedule = Schedule(1)
    schedule.add(np.arange(2), headers_at([4, 4]), [b"", b""], np.array([NOW - 100, NOW + 100]))
    assert schedule.next(0, NOW).work.headers["time"].tolist() == [NOW, NOW + 100]


def test_expected_hashes_are_the_work_of_the_unsolved():
    schedule = Schedule(1)
    add(schedule, 0, [4, 4, 190])
    assert schedule.expected_hashes == sum(work_of(bits_for_difficulty(d)) for d in (4, 4, 190))
    solve(schedule, schedule.next(0, NOW), [0])
    assert schedule.expected_hashes == sum(work_of(bits_for_difficulty(d)) for d in (4, 190))


def test_solved_headers_leave_the_table_and_a_slice_is_bounded():
    schedule = Schedule(1)
    schedule.paces[0].budget = 1e12
    largest = 0
    for batch in range(50):
        add(schedule, batch * 1000, [4] * 1000)
        piece = schedule.next(0, NOW)
        assert solve(schedule, piece, range(len(piece.ids))) == list(range(batch * 1000, batch * 1000 + 1000))
        largest = max(largest, len(schedule._table))
    assert largest <= 2000
    assert len(schedule._manifests) <= 2
    headers = np.repeat(headers_at([0]), MAX_HEADERS + 1)
    keys = np.arange(len(headers))
    schedule.add(keys, headers, [b""] * len(keys), np.zeros(len(keys), np.int64))
    assert len(schedule.next(0, NOW).ids) == MAX_HEADERS


def test_a_bad_addition_changes_nothing():
    schedule = Schedule(1)
    headers = headers_at([4, 4])
    with pytest.raises(ValueError, match="one length"):
        schedule.add(np.arange(2), headers, [b""], np.zeros(2, np.int64))
    headers["bits"][1] = 0x04800001
    with pytest.raises(FormatError):
        schedule.add(np.arange(2), headers, [b"", b""], np.zeros(2, np.int64))
    assert schedule.outstanding == 0
    assert schedule.next(0, NOW) is None
