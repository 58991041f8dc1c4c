"""Snapshots: what restoring from one saves, and what taking and checking them costs.

    python bench/snapshots.py [--events 200000] [--streams 10000] [--rounds 3] [--difficulty 8]
                              [--every "50000 events"] [--backend cpu]

Events are made up, of about 120 bytes of JSON, in an SQLite event store of ours. `--events 1000000` is the
figure to quote.

- restore: the state of a sum by account at the head, from a snapshot at 99 % of the events, beside the same
  from the first event, in a process that has the chain open. The limit is the replay's own pace over the last
  1 %. Whole processes are measured too: there a start of Python comes on top, and its state is printed.
- together: what ten projections that are due cost in one pass, from the store to their states' bytes, beside
  each alone.
- mine: the whole backlog as a process, without projections, with one, and with ten of them by `every`.
- verify: every snapshot of these ten against a replay, beside a replay of one projection without any.

Rounds alternate over what is compared; medians are printed, of wall and of CPU time, which is what others on
the machine do not change. The states are compared, and the chain is verified at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _results import heading, write
from replay import MADE_UP, made_up
from throughput import run

from eventchain.assembly import Chain, open_chain
from eventchain.eventstores import open_event_store
from eventchain.projections.spec import Spec
from eventchain.snapshots.series import all_series
from eventchain.snapshots.take import Taker, at_the_head

USUAL = 'use = "sum"\npath = "data.amount"\nby = "data.account"'
"""The projection that is restored: 10,000 balances."""
Measured = dict[str, dict[str, float]]


def tables(every: str) -> dict[str, str]:
    """MADE_UP as tables of the configuration, by name."""
    found = {}
    for number, (projection, where) in enumerate(MADE_UP.values()):
        lines = [f'use = "{type(projection).__name__.lower()}"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in projection.options.items()]
        lines += [f"filter = {json.dumps(where)}"] if where else []
        lines += [f'every = "{every}"'] if every else []
        found[f"p{number}"] = "\n".join(lines)
    return found


def configure(folder: Path, projections: Mapping[str, str]) -> None:
    """These tables in place of those that the configuration has."""
    file = folder / "eventchain.toml"
    begun = file.read_text(encoding="utf-8").partition("\n[projection.")[0]
    more = "".join(f"\n[projection.{name}]\n{lines}\n" for name, lines in projections.items())
    file.write_text(begun + more, encoding="utf-8")


def measured(work: Mapping[str, Callable[[], object]], rounds: int) -> Measured:
    """Median wall and CPU seconds of each, those of its processes included, after one round that does not
    count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for counts in range(rounds + 1):
        for name, one in work.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            one()
            if counts:
                found[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in times),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
        }
        for name, times in found.items()
    }


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# -- the parts


def restoring(folder: Path, rounds: int) -> tuple[Measured, int]:
    """``balances`` has a snapshot, ``replayed``, which is the same, has none. Gives the seconds, and how many
    events came after the snapshot."""
    replayed = 0
    with open_chain(folder / "eventchain.toml") as chain:

        def restore(name: str) -> None:
            nonlocal replayed
            restored = chain.restore(name)
            assert restored.state
            if name == "balances":
                replayed = restored.replayed
            assert (restored.snapshot is not None) == (name == "balances")

        inside: dict[str, Callable[[], object]] = {
            "from the snapshot": lambda: restore("balances"),
            "from the first event": lambda: restore("replayed"),
        }
        whole: dict[str, Callable[[], object]] = {
            "from the snapshot, a process": lambda: run(folder, "snapshot", "restore", "balances"),
            "from the first event, a process": lambda: run(folder, "snapshot", "restore", "replayed"),
        }
        # Apart, and oftener: a process in between would leave nothing of ours in the processor's caches.
        seconds = measured(inside, 5 * rounds) | measured(whole, rounds)
        states = {chain.restore(name).dump for name in ("balances", "replayed")}
    assert len(states) == 1, "restored and replayed states differ"
    return seconds, replayed


def together(folder: Path, rounds: int) -> Measured:
    """Ten in one pass, and each of them alone."""
    names = dict(zip((f"p{number}" for number in range(len(MADE_UP))), MADE_UP, strict=True))
    with open_chain(folder / "eventchain.toml") as chain:

        def take(*chosen: str) -> None:
            specs: dict[str, Spec] = {name: chain.projections[name] for name in chosen}
            taker = Taker(
                chain.store, chain.events, all_series(chain.store, specs).values(), at_the_head, dropped=_fail
            )
            assert len(list(taker.look())) == len(chosen)

        alone = {what: lambda name=name: take(name) for name, what in names.items()}  # type: ignore[misc]
        return measured(alone | {"ten in one pass": lambda: take(*names)}, rounds)


def _fail(series: Any, error: Exception) -> None:
    raise error


def mining(folder: Path, mine: list[str], rounds: int, every: str) -> Measured:
    """The backlog from the genesis on, each time anew. The last chain, with the snapshots of ten, stays."""
    begun = folder / "begun.db"

    def mined(projections: Mapping[str, str]) -> None:
        configure(folder, projections)
        shutil.copy(begun, folder / "chain.db")
        run(folder, *mine)

    ten = tables(every)
    work: dict[str, Callable[[], object]] = {
        "without projections": lambda: mined({}),
        "one projection": lambda: mined({"balances": f'{USUAL}\nevery = "{every}"'}),
        "ten projections": lambda: mined(ten),
    }
    return measured(work, rounds)


def checking(folder: Path, rounds: int) -> tuple[Measured, int]:
    """Measured, and how many snapshots there were."""
    with open_chain(folder / "eventchain.toml") as chain:
        names = list(chain.projections)
        count = sum(len(chain.snapshots(name)) for name in names)

        def check(*chosen: str) -> None:
            checked = list(chain.check_snapshots(chosen))
            assert checked
            assert not [one for one in checked if one.fault or one.notice]

        def replay() -> None:
            with _without_snapshots(chain) as bare:
                bare.restore("replayed")

        found = measured(
            {
                "all of ten": lambda: check(*names),
                "those of one": lambda: check(names[6]),
                "a replay of that one": replay,
            },
            rounds,
        )
        return found, count


@contextmanager
def _without_snapshots(chain: Chain) -> Iterator[Chain]:
    spec = chain.projections["p6"]
    yield Chain(
        chain.events,
        chain.store,
        projections={"replayed": Spec("replayed", spec.use, spec.options, spec.where)},
    )


def show(what: str, found: Measured, unit: str, events: int) -> None:
    """A table; ``unit`` is what the others are times of."""
    print(what)
    for name, one in found.items():
        wall, cpu = one["seconds"], one["cpu_seconds"]
        print(
            f"  {name:34}{wall * 1e3:11,.1f} ms{cpu * 1e3:11,.1f} ms{events / wall / 1e6:9.2f} M events/s"
            f"{wall / found[unit]['seconds']:8.2f}x{cpu / found[unit]['cpu_seconds']:8.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--difficulty", default="8")
    parser.add_argument("--every", help="default: a twentieth of the events")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    events, rounds = options.events, options.rounds
    options.every = options.every or f"{events // 20} events"
    figures = heading("snapshots") | vars(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = ["init", "--origin", "bench/accounts", "--difficulty", options.difficulty]
        run(folder, *begin, "--backend", options.backend)
        shutil.copy(folder / "chain.db", folder / "begun.db")
        mine = ["mine", "--backend", options.backend]
        batches = list(made_up(events, options.streams))
        store = open_event_store(f"sqlite:///{folder}/events.db")
        late = max(1, events // 100)  # the last 1 %, which come after the snapshot
        store.append_batches([*batches[:-1], batches[-1].slice(0, batches[-1].num_rows - late)])
        configure(folder, tables("") | {"balances": USUAL, "replayed": USUAL})
        run(folder, *mine)
        run(folder, "snapshot", "take", "balances", "--backend", options.backend)
        store.append_batches([batches[-1].slice(batches[-1].num_rows - late)])
        store.close()
        run(folder, *mine)
        restored, since = restoring(folder, rounds)
        passes = together(folder, rounds)
        mined = mining(folder, mine, rounds, options.every)
        checked, snapshots = checking(folder, rounds)
        run(folder, "verify")

    first, fast = restored["from the first event"], restored["from the snapshot"]
    print(
        f"{events:,} events, {options.streams:,} streams, {since:,} of them after the snapshot; wall and CPU"
    )
    show("restore", restored, "from the first event", events)
    ratio = {kind: first[kind] / fast[kind] for kind in first}
    print(
        f"  {ratio['seconds']:.0f} times as fast from the snapshot, by CPU {ratio['cpu_seconds']:.0f} times; "
        f"the limit, when nothing but its {since:,} events cost anything: {events / since:.0f} times"
    )
    ten = passes.pop("ten in one pass")
    mean = {kind: statistics.mean(one[kind] for one in passes.values()) for kind in ten}
    show("take", passes | {"one on average": mean, "ten in one pass": ten}, "one on average", events)
    show(f"mine, a snapshot every {options.every}", mined, "without projections", events)
    show(f"verify {snapshots} snapshots of ten projections", checked, "a replay of that one", events)
    figures |= {
        "events_after_snapshot": since,
        "restore": restored,
        "restore_ratio": ratio,
        "restore_ratio_limit": events / since,
        "take": passes | {"ten in one pass": ten},
        "ten_in_single_passes": {kind: ten[kind] / mean[kind] for kind in ten},
        "mine": mined,
        "check": checked,
        "snapshots_checked": snapshots,
    }
    write(figures, str(events))


if __name__ == "__main__":
    main()
