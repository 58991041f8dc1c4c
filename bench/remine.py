"""Mining what a removal rebuilds as one batch, against the same blocks one by one.

    python bench/remine.py [--blocks 100] [--block-events 100] [--bits 12 16] [--backends cpu opencl]

The first event is removed, so that all blocks are built anew. Of the same linked headers, both ways are
measured in turns: all given to the engine at once, which is what a removal does, and each after the one
before it is found, which is what a chain needs whose links hold the solutions. Medians are printed. The
limit is the hashes that the batch took, at the rate that `eventchain bench` measures for many headers of that
difficulty. At last the removal is carried out as a user has it: record, linking, mining, the switch,
deletion and scrubbing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _results import heading, write

from eventchain.chain.sealing import Sealer
from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import Blocks
from eventchain.erasure.remove import Remover, finish, pending, plan_removal
from eventchain.eventstores import open_event_store
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy
from eventchain.mining.backends import Choice, choose, measure
from eventchain.mining.engine import Engine
from eventchain.verify import verify


def append_events(url: str, count: int) -> None:
    """About 200 bytes each."""
    with closing(open_event_store(url, create=True)) as events:
        rows = (
            {
                "position": number, "stream": f"account-{number % 1000}", "version": number // 1000,
                "id": f"event-{number}", "type": "deposited", "time": number,
                "data": b'{"amount":%d,"note":"%d"}' % (number, number * 12345) * 3, "metadata": None,
            }
            for number in range(count)
        )  # fmt: skip
        events.append_batches(batched(rows))


def batched(rows: Iterator[dict[str, Any]]) -> Iterator[Any]:
    while held := [row for row, _ in zip(rows, range(10_000), strict=False)]:
        yield pa.RecordBatch.from_pylist(held, schema=EVENT_SCHEMA)


@contextmanager
def mining(choice: Choice) -> Iterator[Engine]:
    with Engine(choice.devices, clock=time.time) as engine:
        yield engine


def mined(choice: Choice, blocks: Blocks, *, at_once: bool) -> tuple[float, int]:
    """Seconds, and hashes, to find all of them."""
    count = len(blocks)
    steps = [np.arange(count)] if at_once else np.arange(count).reshape(-1, 1)
    with mining(choice) as engine:
        began = time.perf_counter()
        for rows in steps:
            engine.submit(
                rows,
                blocks.headers[rows],
                [blocks.manifests[row] for row in rows],
                np.zeros(len(rows), np.int64),
            )
            left = len(rows)
            while left:
                left -= len(engine.collect(1.0))
        return time.perf_counter() - began, engine.hashes


def compare(choice: Choice, blocks: Blocks, bits: int, rounds: int) -> dict[str, Any]:
    few = Blocks(blocks.heights[:9], blocks.headers[:9], blocks.extranonces[:9], blocks.manifests[:9])
    mined(choice, few, at_once=True)  # compiles, allocates
    batch, single = [], []
    for _ in range(rounds):
        batch.append(mined(choice, blocks, at_once=True))
        single.append(mined(choice, blocks, at_once=False))
    rate = sum(measure(device, 1.0, difficulty=bits) for device in choice.devices)
    seconds = {
        "batch": statistics.median(one for one, _ in batch),
        "one_by_one": statistics.median(one for one, _ in single),
    }
    hashes = statistics.median(count for _, count in batch)
    return {
        "seconds": {"batch": batch, "one_by_one": single},
        "median_seconds": seconds,
        "hashes": {"batch": hashes, "one_by_one": statistics.median(count for _, count in single)},
        "ratio": seconds["one_by_one"] / seconds["batch"],
        "rate": rate,
        "limit_seconds": hashes / rate,
        "of_the_limit": hashes / rate / seconds["batch"],
    }


def measured(
    events_url: str, folder: Path, names: list[str], bits: int, options: Any
) -> list[dict[str, Any]]:
    results = []
    choices = [choose(name, None) for name in names]
    with (
        closing(open_event_store(events_url)) as events,
        closing(open_chain_store(f"sqlite:///{folder}/chain-{bits}.db", create=True)) as store,
        store.writer(),
        mining(choices[0]) as engine,
    ):
        sealer = Sealer(store, engine, time.time, events)
        policy = Policy(bits_for_difficulty(bits), options.block_events, 2**20, 0, events.source)
        with store.transaction():
            genesis = sealer.builder.add_genesis("bench/remine", policy)
        sealer.build(genesis)
        sealer.seal_all()
        sealer.seal_backlog(options.block_events)
        remover = Remover(store, events, engine, time.time)
        began = time.perf_counter()
        first = events.read(None, 1)["position"].to_numpy()
        plan = plan_removal(store, events, first)
        planned = time.perf_counter()
        remover.record(plan, "a benchmark", "nobody", options.block_events)
        recorded = time.perf_counter()
        record = pending(store)
        assert record is not None
        rebuilder = remover._rebuilder(record)
        rebuilder.link()
        linked = time.perf_counter()
        assert rebuilder.incarnation is not None
        blocks = store.blocks(rebuilder.incarnation.id, 0, 2**31)
        for choice in choices:
            results.append(
                {"backend": choice.name, "bits": bits, **compare(choice, blocks, bits, options.rounds)}
            )
        resumed = time.perf_counter()
        remover.rebuild()
        rebuilt = time.perf_counter()
        finish(store, events)
        finished = time.perf_counter()
        assert verify(store, events, now=time.time()).wrong == []
        steps = {
            "plan": planned - began, "record": recorded - planned, "link": linked - recorded,
            "mine and switch": rebuilt - resumed, "delete and scrub": finished - rebuilt,
        }  # fmt: skip
        results.append({"backend": choices[0].name, "bits": bits, "blocks": len(blocks), "steps": steps})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--block-events", type=int, default=100)
    parser.add_argument("--bits", type=int, nargs="+", default=[12, 16])
    parser.add_argument("--backends", nargs="+", default=["cpu", "opencl"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.blocks * options.block_events
    figures: dict[str, Any] = heading("remine") | {"events": count, "blocks": options.blocks, "results": []}
    with tempfile.TemporaryDirectory(prefix="eventchain-bench-") as name:
        folder = Path(name)
        for bits in options.bits:
            url = f"sqlite:///{folder}/events-{bits}.db"
            append_events(url, count)
            for result in measured(url, folder, options.backends, bits, options):
                figures["results"].append(result)
                if "steps" in result:
                    told = ", ".join(f"{step} {took:.2f} s" for step, took in result["steps"].items())
                    told += f" on {result['backend']}"
                    print(f"{bits} bits, a whole removal of 1 of {count:,} events: {told}")
                    continue
                median = result["median_seconds"]
                print(
                    f"{bits} bits, {result['backend']}: one batch {median['batch']:.3f} s, one by one "
                    f"{median['one_by_one']:.3f} s, ratio {result['ratio']:.2f}; limit "
                    f"{result['limit_seconds']:.3f} s at {result['rate'] / 1e6:.1f} MH/s"
                )
    write(figures, "-".join(map(str, [count, *options.bits])))


if __name__ == "__main__":
    main()
