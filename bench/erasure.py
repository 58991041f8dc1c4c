"""Erasing in place 1, a thousandth and a tenth of a log's events of about 200 bytes: seconds and bytes.

    python bench/erasure.py [--events 100000] [--difficulty 8] [--block-events 1024] [--rounds 3]

The events are chosen by chance over the whole log. Each round erases on fresh copies of both SQLite files:
first only what the law asks for, on a copy of the event store (payloads set null, VACUUM, the log emptied),
then all of it, from the plan to scrubbed files: payloads, salts, commitments and the sealed record. That pair
is measured in turns; medians are printed. Nothing can be faster than writing both files once, which is the
limit: a copy of them with fsync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from _results import heading, write
from throughput import write_events

from eventchain.assembly import open_chain
from eventchain.erasure.erase import complete, record
from eventchain.erasure.plan import plan_erasure

FILES = ("events.db", "chain.db")


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def destroy_only(folder: Path, positions: list[int]) -> None:
    """What an application without a chain does to be rid of the payloads."""
    with closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        change = "UPDATE events SET data = NULL, metadata = NULL WHERE position = ?"
        db.executemany(change, [(position,) for position in positions])
        db.execute("COMMIT")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def erase(folder: Path, positions: list[int], steps: dict[str, list[float]]) -> None:
    with open_chain(folder / "eventchain.toml") as chain:
        began = time.perf_counter()
        plan = plan_erasure(chain.store, chain.events, np.array(positions))
        planned = time.perf_counter()
        with chain.sealing() as sealer:
            record(sealer, plan, "a benchmark", "nobody", 1024)
        sealed = time.perf_counter()
        with chain.store.writer():
            outcome = complete(chain.store, chain.events)
        destroyed = time.perf_counter()
    assert outcome.erased.tolist() == positions
    for name, value in (
        ("plan", planned - began),
        ("record", sealed - planned),
        ("destroy", destroyed - sealed),
    ):
        steps.setdefault(name, []).append(value)


def copy_files(source: Path, folder: Path) -> None:
    for name in FILES:
        shutil.copy(source / name, folder / name)
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())


def sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in FILES}


def run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "eventchain", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(source: Path, folder: Path, count: int, total: int, rounds: int) -> dict[str, Any]:
    chance = np.random.default_rng(count)
    positions = np.sort(chance.choice(total, count, replace=False) + 1).tolist()
    steps: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {"limit": [], "payloads_only": [], "erase": []}
    shutil.copy(source / "eventchain.toml", folder)
    for _ in range(rounds):
        seconds["limit"].append(seconds_of(lambda: copy_files(source, folder)))
        seconds["payloads_only"].append(seconds_of(lambda: destroy_only(folder, positions)))
        copy_files(source, folder)
        before = sizes(folder)
        seconds["erase"].append(seconds_of(lambda: erase(folder, positions, steps)))
    after = sizes(folder)
    run(folder, "verify")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "erased": count,
        "seconds": seconds,
        "median_seconds": median,
        "steps": {name: statistics.median(values) for name, values in steps.items()},
        "ratio_to_payloads_only": median["erase"] / median["payloads_only"],
        "of_the_limit": median["limit"] / median["erase"],
        "bytes_before": before,
        "bytes_after": after,
        "chain_bytes_an_erased_event": (after["chain.db"] - before["chain.db"]) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--difficulty", type=int, default=8)
    parser.add_argument("--block-events", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, Any] = heading("erasure") | {
        "events": options.events,
        "difficulty": options.difficulty,
    }
    with tempfile.TemporaryDirectory(prefix="eventchain-bench-") as name:
        source, folder = Path(name) / "source", Path(name) / "copy"
        source.mkdir()
        folder.mkdir()
        write_events(source / "events.parquet", options.events)
        run(source, "init", "--origin", "bench/erasure", "--difficulty", str(options.difficulty),
            "--block-events", str(options.block_events), "--backend", "cpu")  # fmt: skip
        run(source, "import", "events.parquet")
        run(source, "mine")
        for file in FILES:
            with closing(sqlite3.connect(source / file)) as db:
                db.execute("VACUUM")  # as an erasure leaves it, so that sizes can be compared
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        figures["results"] = []
        for count in sorted({1, max(1, options.events // 1000), max(1, options.events // 10)}):
            result = measure(source, folder, count, options.events, options.rounds)
            figures["results"].append(result)
            median, steps = result["median_seconds"], result["steps"]
            told = ", ".join(f"{step} {value:.2f}" for step, value in steps.items())
            print(
                f"{count:>9,} of {options.events:,} erased in {median['erase']:.2f} s ({told}); "
                f"payloads only {median['payloads_only']:.2f} s, "
                f"ratio {result['ratio_to_payloads_only']:.2f}; limit {median['limit']:.2f} s; "
                f"{result['chain_bytes_an_erased_event']:.1f} bytes each in the chain store"
            )
    write(figures, str(options.events))


if __name__ == "__main__":
    main()
