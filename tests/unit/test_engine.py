"""The engine with real devices, and with devices that lie, crash and answer garbage."""

from __future__ import annotations

import itertools
import signal
import threading
import time

import numpy as np
import pytest
from waiting import PATIENCE, wait_for

from eventchain.contracts.backend import Solutions, Work
from eventchain.errors import BackendError, FormatError
from eventchain.formats.header import (
    HEADER,
    ROLL_MASK,
    VERSION,
    bits_for_difficulty,
    meets_target,
    merkle_root,
)
from eventchain.mining.backends import open_backend
from eventchain.mining.engine import Engine, Mined

IMPOSSIBLE = 190  # bits


class Task:
    """Headers to mine, and the oracle of what comes back."""

    def __init__(self, difficulties, first: int = 0, built: int = 1_700_000_000) -> None:
        self.keys = np.arange(first, first + len(difficulties))
        self.manifests = [b"block %d\n" % key for key in self.keys]
        self.not_before = built + np.arange(len(difficulties))
        self.headers = np.zeros(len(difficulties), HEADER)
        self.headers["version"] = VERSION
        prev = np.random.default_rng(first).integers(0, 256, (len(difficulties), 32), np.uint8)
        self.headers["prev"] = prev
        self.headers["bits"] = [bits_for_difficulty(difficulty) for difficulty in difficulties]
        for row, manifest in enumerate(self.manifests):
            self.headers["merkle_root"][row] = np.frombuffer(merkle_root(manifest), np.uint8)

    def submit(self, engine: Engine) -> Task:
        engine.submit(self.keys, self.headers, self.manifests, self.not_before)
        return self

    def check(self, mined: Mined) -> None:
        """Every header is there once, mined, and otherwise as it was submitted."""
        order = np.argsort(mined.keys)
        assert mined.keys[order].tolist() == self.keys.tolist()
        headers, extranonces = mined.headers[order], mined.extranonces[order]
        assert meets_target(headers).all()
        assert (headers["time"] >= self.not_before).all()
        assert (headers["prev"] == self.headers["prev"]).all()
        assert (headers["bits"] == self.headers["bits"]).all()
        assert (headers["version"] & ~np.uint32(ROLL_MASK) == VERSION).all()
        for header, extranonce, manifest in zip(headers, extranonces.tolist(), self.manifests, strict=True):
            assert header["merkle_root"].tobytes() == merkle_root(manifest, extranonce)


def collect_all(engine: Engine) -> Mined:
    """Collect until nothing is outstanding."""
    parts = []
    deadline = time.monotonic() + PATIENCE
    while engine.outstanding:
        parts.append(engine.collect(1))
        assert time.monotonic() < deadline
    parts.append(engine.collect(0))
    return Mined.join(parts)


def collect_all_of(engine: Engine, task: Task) -> Mined:
    task.submit(engine)
    mined = collect_all(engine)
    task.check(mined)
    return mined


@pytest.fixture(params=["reference", "cpu"])
def device(request):
    return open_backend(request.param).devices[0]


@pytest.fixture
def reference():
    return open_backend("reference").devices[0]


class Wrapped:
    """A real device under another name that records what it is asked."""

    def __init__(self, device, name: str = "wrapped") -> None:
        self.device, self.name = device, name
        self.asked: list[Work] = []

    def search(self, work: Work) -> Solutions:
        self.asked.append(work)
        return self.device.search(work)


class Patient(Wrapped):
    """Answers nothing before another one was asked, however late that one's thread is."""

    other: Wrapped

    def search(self, work: Work) -> Solutions:
        found = super().search(work)
        wait_for(lambda: self.other.asked)
        return found


# -- real devices -------------------------------------------------------------------------------------


def test_mines_headers_of_mixed_difficulty(device):
    released = threading.Event()
    held = spoilt(lambda work, right: released.wait(PATIENCE) and right)(device, device.name)
    with Engine([held]) as engine:
        task = Task([8, 4, 8, 12, 4, 0] * 10).submit(engine)
        assert engine.expected_hashes == 10 * (256 * 2 + 16 * 2 + 4096 + 1)
        released.set()
        task.check(collect_all(engine))
        assert engine.outstanding == engine.expected_hashes == 0
        assert engine.hashes >= 60
        assert engine.rate()[device.name] > 0


def test_many_easy_headers(device):
    with Engine([device], slice_seconds=0.02) as engine:
        collect_all_of(engine, Task([4] * 3000))


def test_rolls_versions(device):
    with Engine([device], rolls=16) as engine:
        mined = collect_all_of(engine, Task([11] * 30 + [8] * 30))
        rolled = mined.headers["version"] != VERSION
        assert rolled[mined.keys < 30].any()
        assert not rolled[mined.keys >= 30].any()  # easy ones are not


def test_rolls_the_extranonce(device):
    with Engine([device], space=64) as engine:
        mined = collect_all_of(engine, Task([9] * 40))
        assert mined.extranonces.max() > 0


def test_the_time_is_the_clocks_or_what_the_block_says_if_later(reference):
    with Engine([reference], clock=lambda: 1_700_000_002.9) as engine:
        mined = collect_all_of(engine, Task([4] * 5))
    by_key = mined.headers["time"][np.argsort(mined.keys)]
    assert (by_key - 1_700_000_000).tolist() == [2, 2, 2, 3, 4]


def test_submitting_while_mining(device):
    with Engine([device], slice_seconds=0.02) as engine:
        parts = []
        for first in range(0, 500, 100):
            Task([8] * 100, first).submit(engine)
            parts.append(engine.collect(PATIENCE))
            assert len(parts[-1])
        parts.append(collect_all(engine))
        mined = Mined.join(parts)
        assert sorted(mined.keys.tolist()) == list(range(500))
        assert meets_target(mined.headers).all()


def test_two_devices_share_one_hard_header_without_overlap(reference):
    pair = [Wrapped(reference, "one"), Wrapped(reference, "two")]
    with Engine(pair, slice_seconds=0.02) as engine:
        Task([IMPOSSIBLE]).submit(engine)
        deadline = time.monotonic() + PATIENCE
        while min(len(device.asked) for device in pair) < 5 and time.monotonic() < deadline:
            assert len(engine.collect(0.05)) == 0
        assert engine.outstanding == 1
    assert min(len(device.asked) for device in pair) >= 5
    ranges = sorted((int(work.start[0]), work.count) for device in pair for work in device.asked)
    assert [start for start, _ in ranges] == [0, *np.cumsum([count for _, count in ranges])[:-1]]


def test_two_devices_share_many_headers(reference):
    one, two = Patient(reference, "one"), Patient(reference, "two")
    one.other, two.other = two, one
    with Engine([one, two], slice_seconds=0.02) as engine:
        collect_all_of(engine, Task([6] * 1000))
        assert set(engine.rate()) == {"one", "two"}
        wait_for(
            lambda: all(rate > 0 for rate in engine.rate().values())
        )  # one may have helped with the rest


def test_nothing_to_do_costs_nothing_and_collect_keeps_its_time(reference):
    looks = itertools.count()  # of the device's thread for something to do
    with Engine([reference], clock=lambda: next(looks)) as engine:
        began, cpu = time.monotonic(), time.thread_time()
        assert len(engine.collect(0.3)) == 0
        assert 0.25 < time.monotonic() - began < PATIENCE
        assert time.thread_time() - cpu < 0.1
        assert engine.collect(0).headers.dtype == HEADER
    assert next(looks) <= 1


class Worker(Wrapped):
    """Takes a second of ``now`` for every search."""

    now = 0.0

    def search(self, work: Work) -> Solutions:
        self.now += 1
        return super().search(work)


@pytest.mark.parametrize(("duty", "rest"), [(1.0, 0.0), (0.5, 1.0), (0.25, 3.0)])
def test_a_device_rests_for_its_duty(reference, monkeypatch, duty, rest):
    device, rests = Worker(reference), []
    monkeypatch.setattr(Engine, "_rest", lambda engine, seconds: rests.append(seconds))
    with Engine([device], duty=duty, timer=lambda: device.now) as engine:
        collect_all_of(engine, Task([4] * 30 + [11] * 30))
        hashes = engine.hashes
    assert rests == [pytest.approx(rest)] * len(device.asked)
    assert len(rests) > 1
    assert 0 < engine.rate()["wrapped"] * 1e6 <= hashes * duty


class FarAway(Worker):
    """It says itself how fast it is, and how much it tried."""

    hashes_per_second = 5e6

    def search(self, work: Work) -> Solutions:
        found = super().search(work)
        return Solutions(found.index, found.counter, min(7, len(work.headers)))


def test_a_device_far_away_says_what_it_did(reference):
    device = FarAway(reference)
    with Engine([device]) as engine:
        collect_all_of(engine, Task([4] * 30))
    assert engine.hashes == sum(min(7, len(work.headers)) for work in device.asked)
    assert engine.rate() == {"wrapped": 5.0}


def test_a_resting_device_can_be_closed(reference):
    device = Worker(reference)
    engine = Engine([device], duty=1e-9, timer=lambda: device.now)
    Task([0, IMPOSSIBLE]).submit(engine)
    assert len(engine.collect(PATIENCE)) == 1
    engine.close()
    assert not any(thread.is_alive() for thread in engine._threads)
    assert len(device.asked) == 1


@pytest.mark.parametrize("duty", [0, -1, 1.01])
def test_a_duty_is_a_share(reference, duty):
    with pytest.raises(ValueError, match="duty"):
        Engine([reference], duty=duty)


def test_close_in_mid_search_stops_and_keeps_what_was_found(device):
    device = Wrapped(device)
    engine = Engine([device], slice_seconds=0.05)
    task = Task([*[4] * 10, IMPOSSIBLE]).submit(engine)
    wait_for(lambda: device.asked and device.asked[-1].headers["bits"][0] == task.headers["bits"][-1])
    engine.close()
    assert not any(thread.is_alive() for thread in engine._threads)
    assert sorted(engine.collect(PATIENCE).keys.tolist()) == list(range(10))
    began = time.monotonic()
    assert len(engine.collect(PATIENCE)) == 0  # at once
    assert time.monotonic() - began < PATIENCE
    assert engine.outstanding == 1


def test_ctrl_c_interrupts_collect(reference):
    main = threading.main_thread().ident
    with Engine([reference], slice_seconds=0.05) as engine:
        Task([IMPOSSIBLE]).submit(engine)
        timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))

        def interrupted() -> None:  # also before it collects, where this thread is late
            timer.start()
            engine.collect(2 * PATIENCE)

        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert time.monotonic() - began < PATIENCE
        timer.join()
        assert len(engine.collect(0)) == 0  # still in working order
    assert not any(thread.is_alive() for thread in engine._threads)


def test_bad_submissions_are_refused(reference):
    task = Task([4, 4])
    with Engine([reference]) as engine:
        with pytest.raises(ValueError, match="one length"):
            engine.submit(task.keys, task.headers[:1], task.manifests, task.not_before)
        task.headers["bits"] = 0
        with pytest.raises(FormatError):
            task.submit(engine)
    with pytest.raises(BackendError, match="no device"):
        Engine([])


def test_a_manifest_that_cannot_be_read_is_not_blamed_on_the_device(reference):
    class Unreadable(list):
        def __getitem__(self, row):
            raise FormatError("the manifest is gone")

    task = Task([IMPOSSIBLE])
    with Engine([reference], space=64) as engine:
        engine.submit(task.keys, task.headers, Unreadable(task.manifests), task.not_before)
        with pytest.raises(FormatError, match="the manifest is gone"):
            engine.collect(PATIENCE)
        assert engine.benched == {}


# -- devices that fail --------------------------------------------------------------------------------


def u32(*values: int):
    return np.array(values, np.uint32)


def u64(*values: int):
    return np.array(values, np.uint64)


def spoilt(change):
    """A device whose right answers go through ``change``."""

    class Spoilt(Wrapped):
        def search(self, work: Work) -> Solutions:
            return change(work, super().search(work))

    return Spoilt


def one_wrong(work: Work, right: Solutions) -> Solutions:
    counter = right.counter.copy()
    counter[-1] = next(c for c in range(int(work.start[right.index[-1]]), 2**32) if c != counter[-1])
    bad = Work(work.headers[right.index[-1:]], counter[-1:], 1)
    while len(open_backend("reference").devices[0].search(bad).index):  # by chance right as well
        counter[-1] += 1
        bad = Work(bad.headers, counter[-1:], 1)
    return Solutions(right.index, counter)


def easier(work: Work, right: Solutions) -> Solutions:
    work.headers["bits"] = bits_for_difficulty(0)
    work.headers["prev"] = 0
    work.start[:] = 0
    return Solutions(np.arange(len(work.headers), dtype=np.uint32), np.zeros(len(work.headers), np.uint64))


def crash(work: Work, right: Solutions) -> Solutions:
    raise ZeroDivisionError("the fan fell off")


def exhausted(work: Work, right: Solutions) -> Solutions:
    raise BackendError("out of device memory")


def leave(work: Work, right: Solutions) -> Solutions:
    raise SystemExit(3)


FAILURES = [
    (one_wrong, "does not meet its header's target"),
    (easier, "does not meet its header's target"),
    (crash, "ZeroDivisionError: the fan fell off"),
    (exhausted, "out of device memory"),
    (leave, "SystemExit: 3"),
    (lambda work, right: None, "no solutions but NoneType"),
    (lambda work, right: Solutions(right.index, right.counter[:-1]), "have the shapes"),
    (lambda work, right: Solutions(right.index[:, None], right.counter[:, None]), "have the shapes"),
    (lambda work, right: Solutions(right.index.astype(np.int64), right.counter), "not uint32 and uint64"),
    (lambda work, right: Solutions(right.index, right.counter.astype(np.float64)), "not uint32 and uint64"),
    (lambda work, right: Solutions(u32(len(work.headers)), u64(0)), "is said to be solved"),
    (
        lambda work, right: Solutions(np.repeat(right.index, 2), np.repeat(right.counter, 2)),
        "solved twice in one answer",
    ),
    (lambda work, right: Solutions(u32(0), work.start[:1] + u64(work.count)), "was not asked for"),
    (lambda work, right: Solutions(u32(0), u64(2**64 - 1)), "was not asked for"),
    (lambda work, right: Solutions(u32(0), u64(2**32)), "was not asked for"),
]


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
def test_a_failing_device_is_benched_and_its_work_goes_to_the_others(reference, failure, reason):
    told = []
    bad, good = spoilt(failure)(reference, "bad one"), Patient(reference, reference.name)
    good.other = bad
    with Engine([good, bad], slice_seconds=0.02, on_benched=lambda *news: told.append(news)) as engine:
        # More than the good device takes at first, so that the bad one has its share.
        mined = collect_all_of(engine, Task([8] * 300))
        wait_for(lambda: engine.benched)  # the good one may have helped with all that the bad one holds
        engine.collect(0)  # tells the news, if it came last
        assert list(engine.rate()) == [reference.name]
        assert list(engine.benched) == ["bad one"]
    assert len(mined) == 300
    ((name, said),) = told
    assert name == "bad one"
    assert reason in said
    assert len(bad.asked) == 1


def test_right_solutions_beside_a_wrong_one_are_discarded(reference):
    with Engine([spoilt(one_wrong)(reference)]) as engine:
        Task([6] * 100).submit(engine)
        with pytest.raises(BackendError, match=r"wrapped: counter .* does not meet"):
            engine.collect(PATIENCE)
        assert engine.outstanding == 100


def test_when_every_device_is_benched_collect_names_each(reference):
    told = []
    bad = [spoilt(crash)(reference, "first"), spoilt(exhausted)(reference, "second")]
    with Engine(bad, on_benched=lambda *news: told.append(news)) as engine:
        Task([6] * 100).submit(engine)
        with pytest.raises(BackendError) as error:
            engine.collect(PATIENCE)
        assert sorted(told) == [
            ("first", "ZeroDivisionError: the fan fell off"),
            ("second", "out of device memory"),
        ]
        for name, reason in told:
            assert f"{name}: {reason}" in str(error.value)
        with pytest.raises(BackendError):  # and says so again
            engine.collect(PATIENCE)


def test_a_device_that_never_comes_back_does_not_keep_its_headers(reference):
    release = threading.Event()

    stuck = spoilt(lambda work, right: release.wait(PATIENCE) and right)(reference, "stuck")
    other = Patient(reference, "other")
    other.other = stuck
    with Engine([stuck, other], slice_seconds=0.02) as engine:
        task = Task([6] * 1000)
        mined = collect_all_of(engine, task)
        assert len(mined) == 1000
        assert len(stuck.asked) == 1
        release.set()
    assert len(engine.collect(0)) == 0  # what it found in the end was solved before
