"""One million events of about 200 bytes: import, mine and verify, through the command line, in events/s.

    python bench/throughput.py [--events 1000000] [--difficulty 8] [--backend cpu] [--block-events 1024]
                               [--rounds 3]

Each step is a process of its own, from its start to its end, with machine code from the cache; its peak
memory is the operating system's figure for it. Each round mines anew; medians are printed.

The peer is the same leaves, read from the same table and made in plain Python (sqlite3 and hashlib), on one
core, with no log, no chain and no store. The limit is what remains when everything else costs nothing: a
start with nothing to do, then all cores at fetching rows, hashing leaves and hashing the log's nodes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _results import heading, write
from eventchain_kernels.native import cores

from eventchain.eventstores import open_event_store
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.leaf import leaf_hashes, new_salts
from eventchain.formats.log import Frontier

CHUNK = 50_000
BATCH = 32_768


def batch_of(first: int, count: int) -> Any:
    """Made-up orders: 200 bytes of data that do not compress, 10,000 streams."""
    rng = np.random.default_rng(first)
    payload = rng.integers(32, 127, (count, 200), np.uint8)
    offsets = pa.py_buffer(np.arange(0, (count + 1) * 200, 200, np.int32))
    numbers = np.arange(first, first + count)
    return pa.record_batch(
        [
            pa.array(numbers + 1, pa.int64()),
            pa.array([f"order-{number % 10_000}" for number in numbers]),
            pa.array(numbers // 10_000, pa.int64()),
            pa.array([f"{number:032x}" for number in numbers]),
            pa.array(["order.changed"] * count),
            pa.array(1_700_000_000_000_000 + numbers, pa.int64()),
            pa.Array.from_buffers(pa.binary(), count, [None, offsets, pa.py_buffer(payload)]),
            pa.nulls(count, pa.binary()),
        ],
        schema=EVENT_SCHEMA,
    )


def write_events(path: Path, count: int) -> None:
    with pq.ParquetWriter(path, EVENT_SCHEMA) as writer:
        for first in range(0, count, CHUNK):
            writer.write_batch(batch_of(first, min(CHUNK, count - first)))


def run(folder: Path, *arguments: str) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory (MiB) of one eventchain process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "eventchain", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{errors.decode()}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def hashlib_leaf(row: Any, salt: bytes) -> bytes:
    """One leaf in plain Python."""
    data = row["data"]
    commitment = hashlib.sha256(b"\x03" + salt + struct.pack(">Q", len(data)) + data + b"\xff" * 8).digest()
    stream, name, kind = row["stream"].encode(), row["id"].encode(), row["type"].encode()
    entry = struct.pack(">QqqI", row["position"], row["version"], row["time"], len(stream)) + stream
    entry += struct.pack(">I", len(name)) + name + struct.pack(">I", len(kind)) + kind + commitment
    return hashlib.sha256(b"\x00eventchain/1\n" + entry).digest()


def peer_rate(path: Path, count: int) -> float:
    """Leaves a second, of the first events, by Python's own modules."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    salts = os.urandom(16 * count)
    began = time.perf_counter()
    rows = connection.execute("SELECT * FROM events ORDER BY position LIMIT ?", (count,))
    for index, row in enumerate(rows):
        hashlib_leaf(row, salts[16 * index : 16 * index + 16])
    seconds = time.perf_counter() - began
    connection.close()
    return count / seconds


def floors(path: Path) -> dict[str, float]:
    """CPU seconds an event that cannot be saved: for its row, its leaf, its node of the log."""
    store = open_event_store(f"sqlite:///{path}")
    batch = store.read(None, BATCH)
    salts = new_salts(batch.num_rows)
    leaves = leaf_hashes(batch, salts)
    row = batch.slice(0, 1).to_pylist()[0]
    assert leaves[0].tobytes() == hashlib_leaf(row, salts[0].tobytes())

    def each(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(20):
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
        return statistics.median(seconds) / batch.num_rows

    found = {
        "row": each(lambda: store.read(None, BATCH)),
        "leaf": each(lambda: leaf_hashes(batch, salts)),
        "node": each(lambda: Frontier().extend(leaves, [len(leaves)])),
    }
    store.close()
    return found


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def mined(folder: Path, command: list[str], rounds: int) -> list[dict[str, float]]:
    """Rounds of mining, each on the chain as it is now; the last one's stays."""
    shutil.copy(folder / "chain.db", folder / "begun.db")
    runs = []
    for _ in range(rounds):
        shutil.copy(folder / "begun.db", folder / "chain.db")
        runs.append(run(folder, *command))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--difficulty", default="8")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--block-events", default="1024")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    events = options.events
    figures = heading("throughput") | vars(options)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        write_events(folder / "events.parquet", events)
        begin = ["init", "--origin", "bench/orders", "--difficulty", options.difficulty]
        run(folder, *begin, "--backend", options.backend)
        mine = ["mine", "--backend", options.backend, "--block-events", options.block_events]
        steps = {"import": run(folder, "import", "events.parquet")}
        costs = floors(folder / "events.db")
        peer = peer_rate(folder / "events.db", min(events, CHUNK))
        steps["mine"] = middle(mined(folder, mine, options.rounds))
        start = middle([run(folder, *mine) for _ in range(options.rounds)])
        steps["verify"] = middle([run(folder, "verify") for _ in range(options.rounds)])
        size = (folder / "chain.db").stat().st_size / events
    limit = events / (start["seconds"] + events * sum(costs.values()) / cores())
    columns = f"{'events/s':>12}{'seconds':>9}{'cpu s':>8}{'peak MiB':>10}{'peer':>10}{'ratio':>7}"
    print(f"{'':8}{columns}{'limit':>12}{'of it':>7}")
    for step, figure in steps.items():
        rate = figure["events_per_second"] = events / figure["seconds"]
        beside = f"{peer:10,.0f}{rate / peer:6.1f}x{limit:12,.0f}{rate / limit:7.0%}"
        print(
            f"{step:8}{rate:12,.0f}{figure['seconds']:9.2f}{figure['cpu_seconds']:8.2f}"
            f"{figure['peak_mib']:10.0f}{'' if step == 'import' else beside}"
        )
    parts = ", ".join(f"{what} {seconds * 1e6:.2f} µs" for what, seconds in costs.items())
    print(f"the limit: a start of {start['seconds']:.2f} s, then on {cores()} cores {parts} an event")
    print(f"chain store: {size:.0f} bytes an event")
    figures |= {
        "steps": steps,
        "start": start,
        "cpu_seconds_per_event": costs,
        "peer_per_second": peer,
        "limit_per_second": limit,
        "bytes_per_event": size,
    }
    blocks = "" if options.block_events == "1024" else f"{options.block_events}-a-block"
    write(figures, "-".join(part for part in (str(events), blocks) if part))


if __name__ == "__main__":
    main()
