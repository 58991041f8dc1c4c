"""Replay: events a second into each projection, and ten projections in one pass, beside plain Python.

    python bench/replay.py [--events 200000] [--streams 10000] [--rounds 3] [--log events.jsonl]

Events are made up, of about 120 bytes of JSON, in an SQLite event store of ours, or those of a log file. Each
projection takes all of them alone; then ten take them in one pass. All is measured twice: from batches in
memory, which is the fold alone, and from the store, which is what a replay costs. Rounds alternate over
everything; medians are printed. The states are compared with the peer's.

The peer is a loop in plain Python: json.loads with exact decimals, and a dict of sums. The limit is the JSON
parser going through the payloads and keeping nothing; the share of the parts of a pass is given too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from _results import heading, write

from eventchain.eventstores import open_event_store
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.interchange.files import read_events
from eventchain.projections import Event, Projection
from eventchain.projections.filter import Filter
from eventchain.projections.fold import PAGE, Fold, Run
from eventchain.projections.page import Page
from eventchain.projections.ready import Count, Latest, Sum

CHUNK = 50_000
Chosen = dict[str, tuple[Projection[Any], str]]
"""By name: a projection and the condition of its filter."""


class Balances(Projection[dict[str, int]]):
    """A projection as anybody writes it."""

    def initial(self) -> dict[str, int]:
        return {}

    def apply(self, state: dict[str, int], event: Event) -> dict[str, int]:
        state[event.stream] = state.get(event.stream, 0) + len(event.json)
        return state


MADE_UP: Chosen = {
    "latest": (Latest(), ""),
    "count by type": (Count("type"), ""),
    "count by stream": (Count("stream"), ""),
    "count by member": (Count("data.case.channel"), ""),
    "sum by stream": (Sum("data.amount"), ""),
    "sum by type": (Sum("data.amount", "type"), ""),
    "sum by member": (Sum("data.amount", "data.account"), ""),
    "sum, type filtered": (Sum("data.amount"), 'type.startsWith("bank.D")'),
    "sum, member filtered": (Sum("data.amount"), 'data.case.channel == "Internet"'),
    "sum, both filtered": (Sum("data.amount", "type"), 'type != "bank.Sent" && data.case.channel != "Post"'),
}
PERMITS: Chosen = {
    "latest": (Latest(), ""),
    "count by type": (Count("type"), ""),
    "count by stream": (Count("stream"), ""),
    "count by member": (Count('data["org:group"]'), ""),
    "count, type filtered": (Count("stream"), 'type.startsWith("permit.T0")'),
    "count, member filtered": (Count("stream"), 'data["org:group"] == "Group 1"'),
    "count, both filtered": (Count(), 'type != "permit.T06" && data.case.channel == "Internet"'),
    "latest, filtered": (Latest(), "has(data.case)"),
    "count by resource": (Count('data["org:resource"]'), ""),
    "count by channel": (Count("data.case.channel"), ""),
}


def made_up(events: int, streams: int) -> Iterator[Any]:
    """Movements on accounts: amounts with two decimals, as JSON numbers."""
    for first in range(0, events, CHUNK):
        rng = np.random.default_rng(first)
        count = min(CHUNK, events - first)
        stream = rng.integers(0, streams, count).tolist()
        account, amount = rng.integers(0, streams, count).tolist(), rng.integers(0, 10**6, count).tolist()
        channel, kind = rng.integers(0, 3, count).tolist(), rng.integers(0, 4, count).tolist()
        data = [
            b'{"account":"acc-%05d","amount":%d.%02d,"currency":"EUR","case":{"channel":"%s",'
            b'"department":"General"},"lines":[%d,%d]}'
            % (account[i], *divmod(amount[i], 100), (b"Internet", b"Desk", b"Post")[channel[i]], i, first)
            for i in range(count)
        ]
        numbers = np.arange(first, first + count)
        yield pa.record_batch(
            [
                pa.array(numbers + 1),
                pa.array([f"account-{one:05d}" for one in stream]),
                pa.array(numbers),
                pa.array([f"{number:032x}" for number in numbers]),
                pa.array([f"bank.{('Deposited', 'Withdrawn', 'Sent', 'Opened')[one]}" for one in kind]),
                pa.array(1_700_000_000_000_000 + numbers),
                pa.array(data, pa.binary()),
                pa.nulls(count, pa.binary()),
            ],
            schema=EVENT_SCHEMA,
        )


def batches_of(store: Any) -> Iterator[Any]:
    after = None
    while (batch := store.read(after, PAGE)).num_rows:
        yield batch
        after = batch.column("position")[-1].as_py()


def replay(chosen: Chosen, batches: Iterable[Any]) -> dict[str, Run]:
    runs = {
        name: Run(name, projection, Filter(where=where), projection.initial())
        for name, (projection, where) in chosen.items()
    }
    fold, size = Fold(list(runs.values())), 0
    for batch in batches:
        fold.feed(batch, size)
        size += batch.num_rows
    for run in runs.values():
        if run.error:
            raise run.error
    return runs


def plain_python(batches: Iterable[Any]) -> dict[str, Decimal]:
    """The sum by stream as one writes it without any of this."""
    totals: dict[str, Decimal] = {}
    for batch in batches:
        streams, payloads = batch.column("stream").to_pylist(), batch.column("data").to_pylist()
        for stream, payload in zip(streams, payloads, strict=True):
            amount = json.loads(payload, parse_float=Decimal).get("amount", 0)
            totals[stream] = totals.get(stream, Decimal(0)) + amount
    return totals


def parser_alone(batches: Iterable[Any]) -> None:
    """The JSON parser goes through all payloads and keeps nothing."""
    nothing = msgspec.json.Decoder(msgspec.defstruct("Nothing", [("nothing", msgspec.Raw, msgspec.Raw())]))
    for payloads in batches:
        for lines in payloads:
            nothing.decode_lines(lines)


def lines_of(batch: Any) -> list[bytes]:
    payloads = batch.column("data").to_pylist()
    return [b"\n".join(payloads[first : first + 8192]) for first in range(0, len(payloads), 8192)]


def members_alone(batches: Iterable[Any], ten: Chosen) -> None:
    """What the ten read out of payloads, and nothing done with it."""
    paths = {path for projection, _ in ten.values() for path in projection.paths if path.members}
    for batch in batches:
        page = Page(batch, tuple(paths))
        for path in paths:
            page.texts(path, np.arange(batch.num_rows))


def measured(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of each, after one round that does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for counts in range(rounds + 1):
        for name, one in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            one()
            if counts:
                found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in times),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
        }
        for name, times in found.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=200_000)
    arguments.add_argument("--streams", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--log", type=Path, help="a file of events, in place of made-up ones")
    chosen = arguments.parse_args()
    figures = heading("replay")
    with tempfile.TemporaryDirectory() as folder:
        store = open_event_store(f"sqlite:///{folder}/events.db", create=True)
        store.append_batches(
            read_events(chosen.log) if chosen.log else made_up(chosen.events, chosen.streams)
        )
        figures |= measure(PERMITS if chosen.log else MADE_UP, store, chosen.rounds)
        store.close()
    write(figures, chosen.log.name.partition(".")[0] if chosen.log else str(chosen.events))


def measure(ten: Chosen, store: Any, rounds: int) -> dict[str, Any]:
    memory = list(batches_of(store))
    lines = [lines_of(batch) for batch in memory]
    events, size = sum(batch.num_rows for batch in memory), sum(len(one) for each in lines for one in each)
    usual = "sum by stream" if "sum by stream" in ten else "count by member"
    if usual == "sum by stream":
        state = replay({usual: ten[usual]}, memory)[usual].state
        assert {name: state[name] for name in state.units} == plain_python(memory)
    singles = {name: {name: one} for name, one in ten.items()} | {"in Python": {"": (Balances(), "")}}
    found = measured(
        {
            "the parser alone": lambda: parser_alone(lines),
            "members alone": lambda: members_alone(memory, ten),
            "plain Python": lambda: plain_python(memory),
            **{name: partial(replay, one, memory) for name, one in singles.items()},
            "ten in one pass": lambda: replay(ten, memory),
            "the store alone": lambda: sum(batch.num_rows for batch in batches_of(store)),
            f"{usual}, from the store": lambda: replay({usual: ten[usual]}, batches_of(store)),
            "ten in one pass, from the store": lambda: replay(ten, batches_of(store)),
        },
        rounds,
    )
    print(f"{events} events, {size / events:.0f} bytes of data each; CPU time a pass")
    for name, one in found.items():
        print(f"  {name:40} {one['cpu_seconds']:8.3f} s {events / one['cpu_seconds'] / 1e6:8.2f} M events/s")
    cost = {name: one["cpu_seconds"] for name, one in found.items()}
    mean = statistics.mean(cost[name] for name in ten)
    ratios = {
        f"ten in one pass / one {usual}": cost["ten in one pass"] / cost[usual],
        "ten in one pass / the mean of the ten alone": cost["ten in one pass"] / mean,
        f"the same from the store / one {usual}": cost["ten in one pass, from the store"]
        / cost[f"{usual}, from the store"],
        f"plain Python / {usual}": cost["plain Python"] / cost[usual],
        f"{usual} / the parser alone": cost[usual] / cost["the parser alone"],
        "members alone / ten in one pass": cost["members alone"] / cost["ten in one pass"],
    }
    for name, ratio in ratios.items():
        print(f"  {name:60} {ratio:6.2f}")
    return {"events": events, "bytes_of_data": size, "rounds": rounds, "passes": found, "ratios": ratios}


if __name__ == "__main__":
    main()
