"""The contract of a mining backend: the same tests for every one that is registered here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from eventchain_cpu import VARIANTS, CpuDevice
from eventchain_kernels.native import search_variants
from fleet_hosts import fleet_in
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import BITCOIN

from eventchain.contracts.backend import NONCES, Device, Solutions, Work
from eventchain.errors import BackendError
from eventchain.formats.header import (
    HEADER,
    ROLL_MASK,
    ROLL_SHIFT,
    bits_for_difficulty,
    meets_target,
    with_counters,
)
from eventchain.mining.backends import available, open_backend

IMPOSSIBLE = 0x01010000  # target 1
EVERYWHERE = {"reference", "cpu", "opencl", "fleet"}  # work on every host with the extra `dev`
MINERS = {"stratum"}  # have another contract: they roll by themselves
NAMES = [*(name for name in available() if name not in MINERS), *(f"cpu:{variant}" for variant in VARIANTS)]


@cache
def devices_of(name: str) -> Sequence[Device] | str:
    """The devices, or why there are none."""
    if name.startswith("cpu:"):
        variant = name.removeprefix("cpu:")
        return [CpuDevice(variant)] if variant in search_variants() else f"this CPU has no {variant}"
    try:
        return open_backend(name).devices
    except BackendError as error:
        return str(error)


@pytest.fixture(params=NAMES, scope="module")
def devices(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[Device]]:
    if request.param == "fleet":  # with a worker; all of its devices are one fleet
        with fleet_in(tmp_path_factory.mktemp("fleet"), 1) as fleet:
            yield fleet.open().devices[:1]
        return
    found = devices_of(request.param)
    if isinstance(found, str):
        (pytest.fail if request.param in EVERYWHERE else pytest.skip)(f"{request.param}: {found}")
    yield found


def work_of(headers: np.ndarray, start: Sequence[int] | int, count: int, rolls: int = 1) -> Work:
    starts = np.empty(len(headers), np.uint64)
    starts[:] = start
    headers.flags.writeable = starts.flags.writeable = False  # a device that writes into its input fails
    return Work(headers, starts, count, rolls)


def random_headers(seed: int, n: int, bits: int | Sequence[int]) -> np.ndarray:
    headers = np.frombuffer(np.random.default_rng(seed).bytes(80 * n), HEADER).copy()
    headers["bits"] = bits
    return headers


def all_hits(work: Work, index: int) -> list[int]:
    """Every counter of the header's range that meets its target."""
    start = int(work.start[index])
    stop = min(start + work.count, work.rolls * NONCES)
    counters = start + np.arange(max(stop - start, 0), dtype=np.uint64)
    headers = np.repeat(work.headers[index : index + 1], len(counters))
    return counters[meets_target(with_counters(headers, counters, work.rolls))].tolist()


def check(work: Work, found: Solutions) -> dict[int, int]:
    """What every answer must be: complete, valid, in range, at most one for a header."""
    assert found.index.dtype == np.uint32
    assert found.counter.dtype == np.uint64
    assert found.index.shape == found.counter.shape
    answer = dict(zip(found.index.tolist(), found.counter.tolist(), strict=True))
    assert len(answer) == len(found.index)
    for index in range(len(work.headers)):
        hits = all_hits(work, index)
        assert (answer[index] in hits) if hits else (index not in answer), (index, hits)
    return answer


def answer_of(device: Device, work: Work) -> dict[int, int]:
    return check(work, device.search(work))


def header_won_by(counter: int, rolls: int, window: range, seed: int) -> np.ndarray:
    """A header, mined on the spot, for which ``counter`` is the only hit in ``window``."""
    headers = random_headers(seed, 20_000, bits_for_difficulty(10))
    counters = np.full(len(headers), counter, np.uint64)
    for index in np.flatnonzero(meets_target(with_counters(headers, counters, rolls))):
        one = headers[index : index + 1].copy()
        if all_hits(work_of(one, window.start, len(window), rolls), 0) == [counter]:
            return one
    raise AssertionError("no such header among 20,000")


# -- known answers ------------------------------------------------------------------------------------


def blocks() -> np.ndarray:
    return np.frombuffer(b"".join(bytes.fromhex(raw) for raw in BITCOIN.values()), HEADER).copy()


def test_the_vectors_are_blocks_of_many_years():
    headers = blocks()
    assert meets_target(headers).all()
    assert len(set((headers["time"] // (365 * 86400)).tolist())) >= 11
    assert np.count_nonzero(headers["version"] & ROLL_MASK) >= 5


def test_bitcoin_blocks(devices):
    headers = blocks()
    headers = headers[headers["version"] & ROLL_MASK == 0]  # rolls = 1 sets these bits to zero
    assert len(headers) >= 10
    nonces = headers["nonce"].astype(np.uint64)
    headers["nonce"] = 0
    work = work_of(headers, nonces - np.uint64(250), 500)
    for device in devices:
        found = device.search(work)
        assert dict(zip(found.index, found.counter, strict=True)) == dict(enumerate(nonces))


def test_bitcoin_blocks_with_rolled_version_bits(devices):
    headers = blocks()
    rolled = (headers["version"] & ROLL_MASK) >> ROLL_SHIFT
    counters = headers["nonce"].astype(np.uint64) << np.uint64(16) | rolled.astype(np.uint64)
    headers["nonce"] = 0xFFFFFFFF
    headers["version"] ^= ROLL_MASK  # what the search overwrites
    work = work_of(headers, counters - np.uint64(250), 500, 2**16)
    for device in devices:
        found = device.search(work)
        assert dict(zip(found.index, found.counter, strict=True)) == dict(enumerate(counters))


# -- the ends of the range ----------------------------------------------------------------------------


@pytest.mark.parametrize("rolls", [1, 8, 2**16])
@pytest.mark.parametrize("where", ["first", "last", "end of a roll", "start of a roll"])
def test_a_winner_at_the_edge(devices, rolls, where):
    end = rolls * NONCES
    turn = 77 * rolls
    counter = {"first": 0, "last": end - 1, "end of a roll": turn - 1, "start of a roll": turn}[where]
    window = range(max(counter - 40, 0), min(counter + 40, end))
    header = header_won_by(counter, rolls, window, seed=rolls)
    wide = work_of(header, window.start, len(window), rolls)
    alone = work_of(header, counter, 1, rolls)
    for device in devices:
        assert answer_of(device, wide) == {0: counter}
        assert answer_of(device, alone) == {0: counter}
        if counter > window.start:  # the range ends just before the winner
            before = work_of(header, window.start, counter - window.start, rolls)
            assert answer_of(device, before) == {}
        after = work_of(header, counter + 1, 39, rolls)  # and begins just after it
        assert answer_of(device, after) == {}


@pytest.mark.parametrize("rolls", [1, 32])
def test_nothing_wraps_and_nothing_is_tried_beyond_the_end(devices, rolls):
    end = rolls * NONCES
    header = header_won_by(0, rolls, range(100), seed=5)
    tail = next(n for n in range(40, 0, -1) if not all_hits(work_of(header, end - n, n, rolls), 0))
    for device in devices:
        for start in (end - tail, end, end + 5, 2**63, 2**64 - 1):
            for count in (100, 2**40):
                work = work_of(header, start, count, rolls)
                assert len(device.search(work).index) == 0, (start, count)


def test_a_count_beyond_all_bounds(devices):
    work = work_of(random_headers(1, 3, bits_for_difficulty(6)), 0, 2**70)
    for device in devices:
        found = device.search(work)
        assert sorted(found.index.tolist()) == [0, 1, 2]
        assert meets_target(with_counters(work.headers[found.index], found.counter, 1)).all()


@pytest.mark.parametrize("rolls", [1, 2**16])
def test_nothing_to_do(devices, rolls):
    easy = random_headers(2, 3, bits_for_difficulty(0))
    for device in devices:
        assert answer_of(device, work_of(easy, 0, 0, rolls)) == {}
        assert answer_of(device, work_of(easy[:0], 0, 1000, rolls)) == {}


def test_the_easiest_target_takes_any_counter(devices):
    work = work_of(random_headers(3, 50, bits_for_difficulty(0)), 12345, 3, 4)
    for device in devices:
        assert len(answer_of(device, work)) == 50


# -- many headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rolls", [1, 64])
def test_many_headers_of_mixed_difficulty(devices, rolls):
    n = 400
    mixed = [bits_for_difficulty(3), IMPOSSIBLE, bits_for_difficulty(7), bits_for_difficulty(40)]
    work = work_of(random_headers(4, n, mixed * (n // 4)), [i * 1_000_003 for i in range(n)], 100, rolls)
    for device in devices:
        answer = answer_of(device, work)
        assert n // 4 < len(answer) < n // 2


def test_it_can_be_called_from_several_threads(devices):
    works = [work_of(random_headers(10 + i, 20, bits_for_difficulty(8)), i, 600, 2**i) for i in range(8)]
    for device in devices:
        with ThreadPoolExecutor(4) as pool:
            for work, found in zip(works, pool.map(device.search, works), strict=True):
                check(work, found)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_it_finds_what_the_reference_finds(devices, data):
    rolls = 2 ** data.draw(st.integers(0, 16), "log2 rolls")
    count = data.draw(st.integers(0, 2000), "count")
    end = rolls * NONCES
    anywhere = st.integers(0, end - 1) | st.integers(0, 3000) | st.integers(end - 3000, end + 10)
    starts = data.draw(st.lists(anywhere, max_size=4), "starts")
    difficulty = st.sampled_from([2, 8, 10, 11, 12, 60])
    bits = [bits_for_difficulty(data.draw(difficulty, "difficulty")) for _ in starts]
    work = work_of(random_headers(data.draw(st.integers(0, 2**32)), len(starts), bits), starts, count, rolls)
    (reference,) = open_backend("reference").devices
    definition = answer_of(reference, work)
    for device in devices:
        answer = answer_of(device, work)
        assert answer.keys() == definition.keys()
        for index, counter in answer.items():
            if len(all_hits(work, index)) == 1:
                assert counter == definition[index]
