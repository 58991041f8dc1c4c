"""Leaves of 200-byte events and Merkle nodes a second, beside hashlib and the computed limit.

    python bench/hashing.py [--rounds 7]

On one core and on all, in batches of 32,768; and what a batch of 10 events costs, as live sealing has them.
The peer is hashlib (OpenSSL) in a loop, on one core. Rates of one core are those of CPU time, so that a
busy machine tells nearly the truth. Rounds alternate, medians are printed; results are checked.

The limit is the clock over the fewest clocks that the compressions of SHA-256 can take, times the cores: 7
of them a leaf (233 and 137 bytes), 2 a node (65 bytes). A compression has 32 pairs of rounds. SHA
instructions: two clocks a pair (Zen; three on Ice Lake). Vectors: 1,624 operations for a vector of
compressions with three-input logic and rotates (AVX-512), about 3,250 with shifts in place of rotates (AVX2,
SSE2), two a clock.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from _results import clock, heading, write
from eventchain_kernels.native import cores, hashing_variant
from throughput import batch_of, hashlib_leaf

from eventchain.formats.leaf import leaf_hashes, new_salts
from eventchain.formats.log import node_hash, pair_up

BATCH, FEW, PEER = 32_768, 10, 2_000
COMPRESSIONS = {"leaves": 7, "nodes": 2}
CLOCKS = {"sha": 64.0, "avx512": 1624 / 2 / 16, "avx2": 3250 / 2 / 8, "generic": 3250 / 2 / 4}
"""Clocks a compression of each variant, at least."""
SECONDS = 0.2


def rate(work: Callable[[], object], count: int, timer: Callable[[], float] = time.process_time) -> float:
    """Items a second of a call that does ``count``."""
    calls, began = 0, timer()
    while (taken := timer() - began) < SECONDS:
        work()
        calls += 1
    return calls * count / taken


def on_one_core(work: Callable[[], object], count: int) -> float:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        return rate(work, count)
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    batch, salts = batch_of(0, BATCH), new_salts(BATCH)
    few, few_salts = batch.slice(BATCH // 2, FEW), salts[:FEW]
    rows = batch.slice(0, PEER).to_pylist()
    raw_salts = [salt.tobytes() for salt in salts[:PEER]]
    leaves = leaf_hashes(batch, salts)
    raw = [leaf.tobytes() for leaf in leaves[:PEER]]
    assert raw == [hashlib_leaf(row, salt) for row, salt in zip(rows, raw_salts, strict=True)]
    nodes = [hashlib.sha256(b"\x01" + raw[i] + raw[i + 1]).digest() for i in range(0, PEER, 2)]
    assert nodes == [node_hash(raw[i], raw[i + 1]) for i in range(0, PEER, 2)]
    assert np.array_equal(pair_up(leaves[:PEER]), np.frombuffer(b"".join(nodes), np.uint8).reshape(-1, 32))

    work: dict[str, tuple[Callable[[], object], int]] = {
        "leaves": (lambda: leaf_hashes(batch, salts), BATCH),
        "nodes": (lambda: pair_up(leaves), BATCH // 2),
    }
    peers: dict[str, tuple[Callable[[], object], int]] = {
        "leaves": (lambda: [hashlib_leaf(*pair) for pair in zip(rows, raw_salts, strict=True)], PEER),
        "nodes": (lambda: [node_hash(raw[i], raw[i + 1]) for i in range(0, PEER, 2)], PEER // 2),
    }
    figures = heading("hashing")
    clocks: list[float] = []
    found: dict[str, dict[str, list[float]]] = {
        what: {"one core": [], "all cores": [], "hashlib": []} for what in work
    }
    seconds: list[float] = []
    for _ in range(rounds):
        clocks.append(clock())
        for what in work:
            if hasattr(os, "sched_setaffinity"):
                found[what]["one core"].append(on_one_core(*work[what]))
            found[what]["hashlib"].append(rate(*peers[what]))
            found[what]["all cores"].append(rate(*work[what], timer=time.perf_counter))
        seconds.append(FEW / rate(lambda: leaf_hashes(few, few_salts), FEW))
    variant = hashing_variant()
    hertz = statistics.median(clocks)
    limits = {what: hertz / CLOCKS[variant] / number for what, number in COMPRESSIONS.items()}
    figures |= {
        "clock_hz": clocks, "variant": variant, "limit_one_core": limits, "per_second": found,
        "seconds_for_10_events": seconds,
    }  # fmt: skip
    print(f"{'million a second':24}{'ours':>8}{'hashlib':>9}{'ratio':>8}{'limit':>8}{'of it':>7}")
    for what, measured in found.items():
        peer = statistics.median(measured["hashlib"])
        for where, number in (("one core", 1), ("all cores", cores())):
            if measured[where]:
                our, limit = statistics.median(measured[where]), limits[what] * number
                print(
                    f"{what + ', ' + where:24}{our / 1e6:8.2f}{peer / 1e6:9.2f}{our / peer:7.1f}x"
                    f"{limit / 1e6:8.2f}{our / limit:7.0%}"
                )
    print(f"{FEW} events: {statistics.median(seconds) * 1e6:.0f} µs")
    print(f"limit of {variant} at {hertz / 1e9:.2f} GHz, {cores()} cores; hashlib on one")
    write(figures)


if __name__ == "__main__":
    main()
