"""Mining rates of every backend and device of this host, beside a peer and the computed limit.

    python bench/mining.py [--seconds 2] [--rounds 3]

Rates are wall-clock MH/s of double SHA-256 over 80-byte headers: one header that is never solved, and 10,000
headers of 12 bits that all are. Every solution is checked. The peer is hashlib (OpenSSL) in a loop, and
cpuminer where EVENTCHAIN_PEER_MINERD names its program. Rounds alternate, medians are printed.

The limit of a CPU variant is its clock over the fewest clocks a hash can take, times the cores. Of a double
hash of a header, 61.5 pairs of rounds are left after the midstate, the rounds before the nonce and those
after the last word that counts. SHA instructions: two clocks a pair (Zen; three on Ice Lake), which binds.
Vectors: 2,846 operations for a vector of hashes with three-input logic and rotates (AVX-512), about 4,700
with shifts in place of rotates (AVX2, SSE2), two a clock. The clock is measured, with a chain of
multiplications that takes four clocks a step.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import time
from typing import Any

import numpy as np
from _results import clock, heading, write
from eventchain_kernels.native import cores, search_variants

from eventchain.contracts.backend import NONCES, Device, Work
from eventchain.errors import BackendError
from eventchain.formats.header import (
    HEADER,
    VERSION,
    bits_for_difficulty,
    meets_target,
    with_counters,
    work_of,
)
from eventchain.mining.backends import available, open_backend

EASY, EASY_BITS = 10_000, 12
CLOCKS = {"sha": 61.5 * 2, "avx512": 2846 / 2 / 16, "avx2": 4700 / 2 / 8, "generic": 4700 / 2 / 4}
"""Clocks a hash of each CPU variant, at least."""


def headers(count: int, bits: int) -> Any:
    made = np.frombuffer(os.urandom(80 * count), HEADER).copy()
    made["version"], made["bits"] = VERSION, bits
    return made


def one_header(device: Device, seconds: float) -> float:
    work, count = headers(1, 0x01010000), 2**16
    while True:
        began = time.perf_counter()
        device.search(Work(work, np.zeros(1, np.uint64), count))
        taken = time.perf_counter() - began
        if taken > seconds / 2 or count >= NONCES:
            return count / taken
        count = min(NONCES, int(count * min(16, seconds / taken)))


def easy_headers(device: Device) -> float:
    work = headers(EASY, bits_for_difficulty(EASY_BITS))
    began = time.perf_counter()
    found = device.search(Work(work, np.zeros(EASY, np.uint64), NONCES))
    taken = time.perf_counter() - began
    assert len(found.index) == EASY
    assert meets_target(with_counters(work[found.index], found.counter, 1)).all()
    return EASY * work_of(bits_for_difficulty(EASY_BITS)) / taken


def hashlib_rate(seconds: float) -> float:
    head, count, end = bytes(76), 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for nonce in range(10_000):
            hashlib.sha256(hashlib.sha256(head + nonce.to_bytes(4, "little")).digest()).digest()
        count += 10_000
    return count / seconds


def minerd_rate(program: str, seconds: float) -> float:
    """cpuminer's own benchmark on all cores; it prints a rate for each thread and round."""
    command = [program, "-a", "sha256d", "--benchmark"]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=max(8, 4 * seconds))
    except subprocess.TimeoutExpired as stopped:
        said = "".join(part.decode() for part in (stopped.stdout, stopped.stderr) if isinstance(part, bytes))
        totals = re.findall(r"Total: ([\d.]+) ([kM])?hash/s", said)
        if totals:
            return statistics.median(float(n) * {"k": 1e3, "M": 1e6, "": 1}[unit] for n, unit in totals)
    raise SystemExit(f"{program} printed no rate")


def devices() -> dict[str, Device]:
    found: dict[str, Device] = {}
    for name in available():
        try:
            for device in open_backend(name).devices:
                found[f"{name}: {device.name}"] = device
        except BackendError as error:
            print(f"{name} is left out: {error.message}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = heading("mining")
    found = devices()
    for device in found.values():
        one_header(device, 0.05)  # compiles
    peers: dict[str, list[float]] = {"hashlib, one core": []}
    minerd = os.environ.get("EVENTCHAIN_PEER_MINERD")
    if minerd:
        peers["cpuminer, all cores"] = []
    else:
        print("cpuminer is left out: EVENTCHAIN_PEER_MINERD does not name its program")
    one: dict[str, list[float]] = {name: [] for name in found}
    easy: dict[str, list[float]] = {name: [] for name in found}
    clocks = []
    for _ in range(options.rounds):
        clocks.append(clock())
        for name, device in found.items():
            one[name].append(one_header(device, options.seconds))
            if not name.startswith("reference"):  # would take a minute
                easy[name].append(easy_headers(device))
        peers["hashlib, one core"].append(hashlib_rate(options.seconds / 2))
        if minerd:
            peers["cpuminer, all cores"].append(minerd_rate(minerd, options.seconds))
    variant = search_variants()[0]
    limit = cores() * statistics.median(clocks) / CLOCKS[variant]
    figures |= {
        "clock_hz": clocks, "variant": variant, "limit": limit, "one_header": one, "easy_headers": easy,
        "peers": peers,
    }  # fmt: skip
    peer = statistics.median(peers.get("cpuminer, all cores") or peers["hashlib, one core"])
    print(f"{'MH/s':60}{'one header':>12}{'10,000 of 12 bits':>19}{'of the peer':>13}{'of the limit':>14}")
    for name in found:
        rate = statistics.median(one[name])
        many = f"{statistics.median(easy[name]) / 1e6:19.2f}" if easy[name] else " " * 19
        share = f"{rate / limit:13.0%}" if name.startswith("cpu") else ""
        print(f"{name[:59]:60}{rate / 1e6:12.2f}{many}{rate / peer:12.1f}x{share:>14}")
    for name, rates in peers.items():
        print(f"{name:60}{statistics.median(rates) / 1e6:12.2f}")
    ghz = statistics.median(clocks) / 1e9
    print(f"limit of {variant} on {cores()} cores at {ghz:.2f} GHz: {limit / 1e6:.1f} MH/s")
    write(figures)


if __name__ == "__main__":
    main()
