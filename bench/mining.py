"""Mining rates of every backend and device of this host, beside their peers and the computed limit.

    python bench/mining.py [--seconds 2] [--rounds 3] [--only WORD]

Rates are in MH/s of double SHA-256 over 80-byte headers: one header that is never solved, with one version
and with 16 rolled versions, and 10,000 headers of 12 bits that all are. Every solution is checked. The CPU is
measured with each variant of its code that it can run, each beside the peer that uses the same instructions
(see _peers.py for the peers, and what they count). On all cores the wall clock counts; on one core, where
other processes may take their share of it, CPU time does. Rounds alternate, medians are printed.

The limit is the clock over the fewest clocks that a hash can take (see _limits.py), times the cores. The
clock is measured, with a chain of multiplications that takes four clocks a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from _limits import clocks, this_core
from _peers import HASHLIB, Peer, Rate, peers
from _results import clock, heading, write
from eventchain_cpu import CpuDevice
from eventchain_kernels.native import cores, search_variants

from eventchain.contracts.backend import NONCES, Device, Work
from eventchain.errors import BackendError
from eventchain.formats.header import (
    HEADER,
    VERSION,
    bits_for_difficulty,
    work_of,
)
from eventchain.mining.backends import available, open_backend
from eventchain.mining.check import check
from eventchain.mining.schedule import ROLLED_FROM, ROLLS

EASY, EASY_BITS = 10_000, 12
FAIR = 1000
"""Headers after which luck is worth three hundredths."""
ONE, ROLLED, MANY = "one header", f"{ROLLS} versions", f"{EASY:,} of {EASY_BITS} bits"


class Subject(NamedTuple):
    """kind: the variant of the CPU's code, or the backend; a peer names it as what it is measured beside
    limited_by: the variant whose limit holds, if one does
    """

    name: str
    device: Device
    kind: str
    limited_by: str = ""


def subjects() -> list[Subject]:
    found = []
    variants = search_variants()
    for name in available():
        if name == "cpu":
            cpus = [CpuDevice(variant) for variant in variants]
            found += [Subject(f"cpu: {cpu.name}", cpu, cpu.variant, cpu.variant) for cpu in cpus]
            continue
        try:
            for device in open_backend(name).devices:
                on_cpu = "Portable Computing Language" in device.name
                found.append(Subject(f"{name}: {device.name}", device, name, variants[0] if on_cpu else ""))
        except BackendError as error:
            print(f"{name} is left out: {error.message}")
    return found


def headers(count: int, bits: int) -> Any:
    made = np.frombuffer(os.urandom(80 * count), HEADER).copy()
    made["version"], made["bits"] = VERSION, bits
    return made


def one_header(device: Device, seconds: float, rolls: int = 1) -> Rate:
    work, count = headers(1, 0x01010000), 2**16
    while True:
        began, worked = time.perf_counter(), time.process_time()
        device.search(Work(work, np.zeros(1, np.uint64), count, rolls))
        taken = time.perf_counter() - began
        if taken > seconds / 2 or count >= rolls * NONCES:
            return Rate(count / taken, count / (time.process_time() - worked))
        count = min(rolls * NONCES, int(count * min(16, seconds / taken)))


def warmed_up(subject: Subject) -> bool:
    """Compiled; a line is printed for a device that cannot."""
    try:
        one_header(subject.device, 0.05)
        if subject.kind != "reference":
            one_header(subject.device, 0.05, ROLLS)
    except BackendError as error:
        print(f"{subject.name} is left out: {error.message.splitlines()[0]}")
        return False
    return True


def solved_rate(device: Device, size: int, difficulty: int, seconds: float = 0.0) -> Rate:
    """Of batches that are solved as the engine has them solved: rolled where that is worth it. Counted is the
    expected work. Small batches are repeated until it is near the real one, or for so many seconds."""
    rolls = ROLLS if 2**difficulty >= ROLLED_FROM else 1
    expected = work_of(bits_for_difficulty(difficulty))
    solved, taken = 0, 0.0
    while not solved or (solved < FAIR and taken < seconds):
        work = Work(headers(size, bits_for_difficulty(difficulty)), np.zeros(size, np.uint64), NONCES, rolls)
        began = time.perf_counter()
        found = device.search(work)
        taken += time.perf_counter() - began
        assert len(check(work, found).index) == size
        solved += size
    return Rate(solved * expected / taken)


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and the programs it starts, on one core where the system can tell them so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Rates:
    """Of each subject or peer, on all cores or one, the rates of each measurement, in hashes a second."""

    def __init__(self) -> None:
        self.all_cores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.one_core: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def measure(self, subject: Subject, beside: list[Peer], seconds: float) -> None:
        device, ours = subject.device, self.all_cores[subject.name]
        ours[ONE].append(one_header(device, seconds).wall)
        for peer in beside:
            if peer is not HASHLIB:  # uses one core only
                self.all_cores[peer.name][ONE].append(peer.rate(cores(), seconds).wall)
        if subject.kind == "reference":  # would take a minute
            return
        ours[ROLLED].append(one_header(device, seconds, ROLLS).wall)
        ours[MANY].append(solved_rate(device, EASY, EASY_BITS).wall)

    def measure_on_one_core(self, subject: Subject, beside: list[Peer], seconds: float) -> None:
        device, ours = subject.device, self.one_core[subject.name]
        with one_core():
            ours[ONE].append(one_header(device, seconds).cpu or 0)
            for peer in beside:
                if rate := peer.rate(1, seconds).cpu:
                    self.one_core[peer.name][ONE].append(rate)
            ours[ROLLED].append(one_header(device, seconds, ROLLS).cpu or 0)


def print_rows(title: str, ours: dict[str, list[float]], theirs: dict[str, Any], limits: list[float]) -> None:
    """Ours, and its share of the limits for one version and for rolled ones; under it the peers."""
    median = {what: statistics.median(rates) for what, rates in ours.items()}
    columns = "".join(f"{median[what] / 1e6:{w}.2f}" if what in median else " " * w for what, w in COLUMNS)
    shares = [f"{median[what] / limit:.0%}" for what, limit in zip((ONE, ROLLED), limits, strict=False)]
    print(f"{title[:57]:58}{columns}  {', '.join(shares)}")
    for name, rates in theirs.items():
        rate = statistics.median(rates[ONE])
        ratios = [f"{median[what] / rate:.2f}x" for what in (ONE, ROLLED) if what in median]
        print(f"    {name:54}{rate / 1e6:12.2f}{ratios[0]:>13}{ratios[-1]:>13}")


COLUMNS = ((ONE, 12), (ROLLED, 13), (MANY, 19))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="only what has this in its name or kind")
    options = parser.parse_args()
    figures = heading("mining")
    core, there = this_core(), peers()
    found = [subject for subject in subjects() if options.only in f"{subject.name} {subject.kind}"]
    found = [subject for subject in found if warmed_up(subject)]
    beside = {subject: [peer for peer in there if peer.beside == subject.kind] for subject in found}
    rates, hertz = Rates(), []
    for _ in range(options.rounds):
        hertz.append(clock())
        for subject in found:
            rates.measure(subject, beside[subject], options.seconds)
            if subject.limited_by == subject.kind:  # the CPU's own
                rates.measure_on_one_core(subject, [*beside[subject], HASHLIB], options.seconds)
    speed = statistics.median(hertz)
    limits = {
        variant: [speed / clocks(core, variant, rolls) for rolls in (1, ROLLS)]
        for variant in search_variants()
    }
    figures |= {
        "clock_hz": hertz, "core": core.name, "limits_of_a_core": limits,
        "all_cores": rates.all_cores, "one_core_cpu_time": rates.one_core,
    }  # fmt: skip
    print(f"{'MH/s':58}{''.join(f'{what:>{width}}' for what, width in COLUMNS)}  of the limit")
    print(f"{'':58}{'peer':>12}{'ours of it':>13}{'rolled':>13}")
    for subject in found:
        limit = limits.get(subject.limited_by, [])
        theirs = {peer.name: rates.all_cores[peer.name] for peer in beside[subject] if peer is not HASHLIB}
        print_rows(subject.name, rates.all_cores[subject.name], theirs, [cores() * each for each in limit])
        if ours := rates.one_core.get(subject.name):
            names = [peer.name for peer in [*beside[subject], HASHLIB]]
            theirs = {name: rates.one_core[name] for name in names if name in rates.one_core}
            print_rows("  a core, of CPU time", ours, theirs, limit)
    print(f"limits at {speed / 1e9:.2f} GHz; the core: {core.name}")
    write(figures)


if __name__ == "__main__":
    main()
