"""Leaves of 200-byte events and Merkle nodes a second, beside hashlib and the limit of the processor.

    python bench/hashing.py [--rounds 7]

Leaves and nodes in batches of 32,768, on one core and on all; a log of a million leaves made in blocks of
1,024, which is too little at a time to share; what a batch of 10 events costs, as live sealing has them; and
how long the first use of each function takes. The peer is hashlib (OpenSSL) in a loop, on one core. Rates of
one core are those of CPU time, so that a busy machine tells nearly the truth. Rounds alternate, medians are
printed; results are checked.

The limit counts the operations of the compressions alone: 7 compressions a leaf (233 and 137 bytes), 2 a node
(65 bytes). With SHA instructions 32 pairs of rounds a compression; with vectors of several messages 1,624
operations (three-input logic and rotates: AVX-512), or about 3,250 with shifts in place of rotates (AVX2,
SSE2, NEON). How many of those this processor does at most is measured beside: Zen 5 does four vector
operations a clock at any width (two of them at most rotates or shifts, which binds less) and a pair of rounds
every two clocks. Zen 4 and Intel are said to do two of 512 bits; they were not measured here.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from _results import clock, heading, write
from eventchain_kernels.native import cores, hashing_variant, jit
from throughput import batch_of, hashlib_leaf

from eventchain.formats.leaf import leaf_hashes, new_salts
from eventchain.formats.log import Frontier, node_hash, pair_up

BATCH, BLOCK, BLOCKS, FEW, PEER = 32_768, 1024, 1000, 10, 2_000
COMPRESSIONS = {"leaves": 7, "nodes": 2, "log": 2}
UNITS = {"sha": ("", 32), "avx512": ("<16 x i32>", 1624 / 16), "avx2": ("<8 x i32>", 3250 / 8)}
GENERIC = ("<4 x i32>", 3250 / 4)
"""The type of a vector, and operations a compression."""
SECONDS = 0.2


def operations_a_second(variant: str) -> float:
    """What this core does of the operation that binds: vector additions, or pairs of SHA rounds."""
    kind, _ = UNITS.get(variant, GENERIC)
    chains = range(12)  # more than latency times operations a clock
    word = kind or "<4 x i32>"
    step = "add {0} {1}, {1}" if kind else "call {0} @llvm.x86.sha256rnds2({0} {1}, {0} {1}, {0} {1})"
    lines = [
        "declare <4 x i32> @llvm.x86.sha256rnds2(<4 x i32>, <4 x i32>, <4 x i32>)" if not kind else "",
        f"define void @run(i64 %n, {word}* %at) {{",
        f"entry: %seed = load {word}, {word}* %at\n br label %loop",
        "loop: %i = phi i64 [0, %entry], [%j, %loop]",
        *(f"%x{c} = phi {word} [%seed, %entry], [%y{c}, %loop]" for c in chains),
        *(f"%y{c} = " + step.format(word, f"%x{c}") for c in chains),
        "%j = add i64 %i, 1\n %more = icmp ult i64 %j, %n\n br i1 %more, label %loop, label %done",
        "done:",
        *(f"store volatile {word} %y{c}, {word}* %at" for c in chains),
        "ret void }",
    ]
    run = compiled("\n".join(lines), variant)
    space = np.ones(128, np.uint8)
    address = (space.ctypes.data + 63) // 64 * 64
    best, n = 0.0, 100_000
    for _ in range(30):
        began = time.process_time()
        run(n, address)
        best = max(best, n * len(chains) / (time.process_time() - began))
    return best


def compiled(text: str, variant: str) -> Callable[[int, int], None]:
    from llvmlite import binding

    machine = jit.machine(variant)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(text), machine)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("run"))

    def keep(n: int, address: int, engine: object = engine) -> None:  # the code lives as long as its engine
        run(n, address)

    return keep


def first_use(name: str) -> tuple[float, float]:
    """Seconds until a function can be called in a new process: compiled, and found in the cache."""
    code = (
        "import time; from eventchain_kernels.native import hashing_variant, jit\n"
        "began = time.perf_counter()\n"
        f"jit.function({name!r}, hashing_variant()); print(time.perf_counter() - began)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"EVENTCHAIN_CACHE": cache}
        command = [sys.executable, "-c", code]
        cold, warm = (float(subprocess.check_output(command, env=environment)) for _ in range(2))
    return cold, warm


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

    blocks = [leaves[first : first + BLOCK] for first in range(0, BATCH, BLOCK)]

    def log() -> Frontier:
        frontier = Frontier()
        for number in range(BLOCKS):
            frontier.append(blocks[number % len(blocks)])
        return frontier

    whole = Frontier()
    whole.append(np.concatenate([blocks[number % len(blocks)] for number in range(BLOCKS)]))
    assert log().root() == whole.root()
    nodes_of_log = BLOCKS * BLOCK - 1

    work: dict[str, tuple[Callable[[], object], int]] = {
        "leaves": (lambda: leaf_hashes(batch, salts), BATCH),
        "nodes": (lambda: pair_up(leaves), BATCH // 2),
        "log": (log, nodes_of_log),
    }
    node_peer = (lambda: [node_hash(raw[i], raw[i + 1]) for i in range(0, PEER, 2)], PEER // 2)
    peers: dict[str, tuple[Callable[[], object], int]] = {
        "leaves": (lambda: [hashlib_leaf(*pair) for pair in zip(rows, raw_salts, strict=True)], PEER),
        "nodes": node_peer,
        "log": node_peer,
    }
    figures = heading("hashing")
    variant = hashing_variant()
    starts = {name: first_use(name) for name in ("hash_joined", "hash_levels")}
    clocks: list[float] = []
    operations: list[float] = []
    found: dict[str, dict[str, list[float]]] = {
        what: {"one core": [], "all cores": [], "hashlib": []} for what in work
    }
    seconds: list[float] = []
    for _ in range(rounds):
        clocks.append(clock())
        operations.append(operations_a_second(variant))
        for what in work:
            if hasattr(os, "sched_setaffinity"):
                found[what]["one core"].append(on_one_core(*work[what]))
            found[what]["hashlib"].append(rate(*peers[what]))
            if what != "log":
                found[what]["all cores"].append(rate(*work[what], timer=time.perf_counter))
        seconds.append(FEW / rate(lambda: leaf_hashes(few, few_salts), FEW))
    hertz, per_second = max(clocks), max(operations)
    _, needed = UNITS.get(variant, GENERIC)
    limits = {what: per_second / needed / number for what, number in COMPRESSIONS.items()}
    figures |= {
        "clock_hz": clocks, "variant": variant, "operations_a_second": operations, "limit_one_core": limits,
        "per_second": found, "seconds_for_10_events": seconds, "seconds_to_first_use": starts,
    }  # fmt: skip
    print(f"{'million a second':28}{'ours':>8}{'hashlib':>9}{'ratio':>8}{'limit':>8}{'of it':>7}")
    for what, measured in found.items():
        peer = statistics.median(measured["hashlib"])
        for where, number in (("one core", 1), ("all cores", cores())):
            if measured[where]:
                our, limit = statistics.median(measured[where]), limits[what] * number
                label = f"log by blocks of {BLOCK}" if what == "log" else f"{what}, {where}"
                print(
                    f"{label:28}{our / 1e6:8.2f}{peer / 1e6:9.2f}{our / peer:7.1f}x"
                    f"{limit / 1e6:8.2f}{our / limit:7.0%}"
                )
    print(f"{FEW} events: {statistics.median(seconds) * 1e6:.0f} µs")
    for name, (cold, warm) in starts.items():
        print(f"first use of {name}: {cold:.2f} s, {warm:.2f} s from the cache")
    what = "pairs of SHA rounds" if variant == "sha" else "vector operations"
    print(
        f"limit of {variant}: {per_second / hertz:.2f} {what} a clock at {hertz / 1e9:.2f} GHz, "
        f"{cores()} cores; hashlib on one"
    )
    write(figures)


if __name__ == "__main__":
    main()
