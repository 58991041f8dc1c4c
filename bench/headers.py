"""Headers verified a second: links, work and seals, beside hashlib in a loop and the computed limit.

    python bench/headers.py [--headers 262144] [--rounds 7]

The chain is made up: manifests like those of a real one (about 280 bytes), difficulty 1. Each part alone on
one core, by CPU time, so that a busy machine tells nearly the truth; then on all cores, by the clock on the
wall and as CPU time would allow: *links, work, seals* of headers whose manifests are hashed already, and
*with manifests*, which is all that ``eventchain verify`` does with a header before it reads what the block
says. The peer does the latter with hashlib (OpenSSL), block by block, on one core. Rounds alternate, medians
are printed; results are checked.

The limit counts compressions of SHA-256: work and link 3 each, a manifest of 280 bytes 6 (all by vectors:
1,624 operations for sixteen compressions, two a clock), a seal 3. Seals follow one another, so what counts
there is latency: 32 pairs of rounds of 4 clocks each (``sha256rnds2`` on Zen), on one core. The whole takes
the sum of all on all cores, and at least the seals' time.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import statistics
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from _results import clock, heading, write
from eventchain_kernels.native import cores

from eventchain.ahead import ahead
from eventchain.contracts.chain_store import Blocks
from eventchain.formats import header as fmt
from eventchain.formats.hashing import equal_rows
from eventchain.formats.log import Hashes
from eventchain.verify.headers import derived

RUN, PEER, BITS = 16_384, 5_000, 0x207FFFFF
COMPRESSION, PAIR = 1624 / 2 / 16, 4
CLOCKS = {"work": 3 * COMPRESSION, "links": 3 * COMPRESSION, "manifests": 6 * COMPRESSION, "seals": 96 * PAIR}


def made_up(count: int) -> Blocks:
    """A chain of mined blocks."""
    digests = [base64.b64encode(hashlib.sha256(b"%d" % n).digest()).decode() for n in range(count)]
    manifests = [
        f"example.com/orders\n{1024 * n + 1024}\n{one}\nheight {n}\nleaves {one}\nposition {1024 * n}\n"
        f"built {1_700_000_000 + n}\nsealed {max(n - 4, 0)} {one}\n".encode()
        for n, one in enumerate(digests)
    ]
    headers = np.zeros(count, fmt.HEADER)
    headers["version"], headers["time"], headers["bits"] = fmt.VERSION, 1_700_000_000, BITS
    prev, packed = fmt.ZERO, struct.pack("<I", BITS)
    for number, manifest in enumerate(manifests):
        root = fmt.merkle_root(manifest)
        headers[number] = np.frombuffer(fmt.unmined(prev, manifest, BITS), fmt.HEADER)[0]
        prev = fmt.sha256d(b"\0\0\0\x20", prev, root, bytes(4), packed, bytes(4))
    headers["time"] = 1_700_000_000
    while len(left := np.flatnonzero(~fmt.meets_target(headers))):
        headers["nonce"][left] += 1
    return Blocks(np.arange(count), headers, np.zeros(count, np.int64), manifests)


def runs(blocks: Blocks) -> Iterator[Blocks]:
    for first in range(0, len(blocks), RUN):
        cut = slice(first, first + RUN)
        yield Blocks(blocks.heights[cut], blocks.headers[cut], blocks.extranonces[cut], blocks.manifests[cut])


def verified(blocks: Blocks) -> bytes:
    """The last seal, once everything is in order."""
    seal, link = fmt.ZERO, np.zeros((1, 32), np.uint8)
    for rows, found in derived(runs(blocks)):
        linked = np.concatenate([link, found.links[:-1]])
        assert found.fits.all()
        assert found.met.all()
        assert equal_rows(rows.headers["prev"], linked).all()
        seal = fmt.seals_of(seal, found.links, rows.headers, rows.extranonces)[-1].tobytes()
        link = found.links[-1:]
    return seal


def linked(blocks: Blocks, roots: Hashes) -> bytes:
    """Links, work and seals alone, the seals beside the rest."""
    headers = blocks.headers

    def vectors() -> Iterator[tuple[slice, Hashes]]:
        for first in range(0, len(blocks), RUN):
            cut = slice(first, first + RUN)
            assert fmt.meets_target(headers[cut]).all()
            yield cut, fmt.links_of(headers["prev"][cut], roots[cut], headers["bits"][cut])

    seal, link = fmt.ZERO, np.zeros((1, 32), np.uint8)
    with ahead(vectors()) as items:
        for cut, links in items:
            assert equal_rows(headers["prev"][cut], np.concatenate([link, links[:-1]])).all()
            seal = fmt.seals_of(seal, links, headers[cut], blocks.extranonces[cut])[-1].tobytes()
            link = links[-1:]
    return seal


def by_hashlib(blocks: Blocks) -> bytes:
    """The peer: the same, one block at a time."""
    sha256 = hashlib.sha256
    seal = link = bytes(32)
    target, bits = fmt.target_of(BITS), struct.pack("<I", BITS)
    raw = blocks.headers.tobytes()
    for number, manifest in enumerate(blocks.manifests):
        header, extranonce = raw[80 * number : 80 * number + 80], bytes(8)
        assert header[4:36] == link
        root = sha256(sha256(manifest + extranonce).digest()).digest()
        assert header[36:68] == root
        link = sha256(sha256(b"\0\0\0\x20" + link + root + bytes(4) + bits + bytes(4)).digest()).digest()
        assert int.from_bytes(sha256(sha256(header).digest()).digest(), "little") <= target
        seal = sha256(b"\x02" + seal + link + header + extranonce).digest()
    return seal


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock on the wall, and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def on_one_core(work: Callable[[], object]) -> float:
    """CPU seconds."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        return seconds(work)[1]
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--headers", type=int, default=2**18)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    count = options.headers
    blocks = made_up(count)
    few = made_up(PEER)
    assert verified(few) == by_hashlib(few)
    manifests, headers, none = pa.array(blocks.manifests), blocks.headers, blocks.extranonces
    roots = fmt.merkle_roots(manifests, none)
    links = fmt.links_of(headers["prev"], roots, headers["bits"])
    parts: dict[str, Callable[[], object]] = {
        "work": lambda: fmt.meets_target(headers),
        "links": lambda: fmt.links_of(headers["prev"], roots, headers["bits"]),
        "manifests": lambda: fmt.merkle_roots(manifests, none),
        "seals": lambda: fmt.seals_of(fmt.ZERO, links, headers, none),
    }
    whole: dict[str, Callable[[], object]] = {
        "links, work, seals": lambda: linked(blocks, roots),
        "with manifests": lambda: verified(blocks),
    }
    assert linked(blocks, roots) == verified(blocks)
    figures = heading("headers") | {"headers": count, "manifest_bytes": len(blocks.manifests[-1])}
    clocks: list[float] = []
    found: dict[str, list[float]] = {what: [] for what in (*parts, "hashlib")}
    on_all: dict[str, list[tuple[float, float]]] = {what: [] for what in whole}
    for _ in range(options.rounds):
        clocks.append(clock())
        for what, work in whole.items():
            on_all[what].append(seconds(work))
        found["hashlib"].append(on_one_core(lambda: by_hashlib(few)) / PEER)
        for what, work in parts.items():
            found[what].append(on_one_core(work) / count)
    hertz = max(clocks)  # a busy machine makes it seem lower
    median = {what: statistics.median(taken) for what, taken in found.items()}
    print(f"{'million headers a second':32}{'ours':>8}{'limit':>8}{'of it':>7}{'clocks':>8}{'limit':>7}")
    for what in parts:
        our, limit = median[what], CLOCKS[what] / hertz
        print(
            f"{what + ', one core':32}{1e-6 / our:8.2f}{1e-6 / limit:8.2f}{limit / our:7.0%}"
            f"{hertz * our:8.0f}{CLOCKS[what]:7.0f}"
        )
    print(f"{'':32}{'wall':>8}{'CPU':>8}{'limit':>8}{'of it':>7}{'hashlib':>9}{'ratio':>8}")
    for what, taken in on_all.items():
        wall, cpu = (statistics.median(times) / count for times in zip(*taken, strict=True))
        needed = sum(CLOCKS.values()) - (0 if what == "with manifests" else CLOCKS["manifests"])
        limit = max(needed / cores(), CLOCKS["seals"]) / hertz
        print(
            f"{f'{what}, {cores()} cores':32}{1e-6 / wall:8.2f}{1e-6 * cores() / cpu:8.2f}{1e-6 / limit:8.2f}"
            f"{limit / wall:7.0%}{1e-6 / median['hashlib']:9.2f}{median['hashlib'] / wall:7.1f}x"
        )
    print(f"at {hertz / 1e9:.2f} GHz; hashlib on one core, manifests hashed")
    figures |= {"clock_hz": clocks, "clocks": CLOCKS, "seconds_on_one_core": found, "wall_and_cpu": on_all}
    write(figures)


if __name__ == "__main__":
    main()
