"""One million events of about 200 bytes: import, mine and verify, through the command line, in events/s.

    python bench/throughput.py [--events 1000000] [--difficulty 8] [--backend cpu]

Each step is a process of its own; its peak memory is the operating system's figure for it. The peer for
hashing is the same leaves made with hashlib in a plain loop, measured in the same run. The limit printed is
that of the native hashing alone, on all cores: what remains when reading, storing and Python cost nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _results import heading, write

from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.leaf import leaf_hashes, new_salts

CHUNK = 50_000


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


def hashlib_leaf(row: dict[str, Any], salt: bytes) -> bytes:
    """The peer: one leaf in plain Python."""
    data = row["data"]
    commitment = hashlib.sha256(b"\x03" + salt + struct.pack(">Q", len(data)) + data + b"\xff" * 8).digest()
    stream, name, kind = row["stream"].encode(), row["id"].encode(), row["type"].encode()
    entry = struct.pack(">QqqI", row["position"], row["version"], row["time"], len(stream)) + stream
    entry += struct.pack(">I", len(name)) + name + struct.pack(">I", len(kind)) + kind + commitment
    return hashlib.sha256(b"\x00eventchain/1\n" + entry).digest()


def hashlib_rate(batch: Any) -> float:
    """Leaves of the same events, one by one."""
    rows, salts = batch.to_pylist(), os.urandom(16 * batch.num_rows)
    began = time.perf_counter()
    for index, row in enumerate(rows):
        hashlib_leaf(row, salts[16 * index : 16 * index + 16])
    return len(rows) / (time.perf_counter() - began)


def native_rate(batch: Any) -> float:
    salts = new_salts(batch.num_rows)
    leaf_hashes(batch, salts)
    began = time.perf_counter()
    for _ in range(5):
        leaf_hashes(batch, salts)
    return 5 * batch.num_rows / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--difficulty", default="8")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    sample = batch_of(0, min(options.events, CHUNK))
    figures = heading("throughput") | {
        "events": options.events,
        "difficulty": options.difficulty,
        "backend": options.backend,
        "leaf_hashes_per_second": {"ours": native_rate(sample), "hashlib": hashlib_rate(sample)},
        "steps": {},
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        write_events(folder / "events.parquet", options.events)
        run(
            folder,
            "init",
            "--origin",
            "bench/orders",
            "--difficulty",
            options.difficulty,
            "--backend",
            options.backend,
        )
        steps = {
            "import": ["import", "events.parquet"],
            "mine": ["mine", "--backend", options.backend],
            "verify": ["verify"],
        }
        print(f"{'':8}{'events/s':>12}{'seconds':>10}{'cpu s':>8}{'peak MiB':>10}")
        for step, arguments in steps.items():
            figure = run(folder, *arguments)
            figure["events_per_second"] = options.events / figure["seconds"]
            figures["steps"][step] = figure
            print(
                f"{step:8}{figure['events_per_second']:12,.0f}{figure['seconds']:10.2f}"
                f"{figure['cpu_seconds']:8.2f}{figure['peak_mib']:10.0f}"
            )
        figures["bytes_per_event"] = (folder / "chain.db").stat().st_size / options.events
    rates = figures["leaf_hashes_per_second"]
    print(f"leaf hashes/s: ours {rates['ours']:,.0f}, the limit of mine and verify")
    print(f"leaf hashes/s: hashlib {rates['hashlib']:,.0f}")
    print(f"chain store: {figures['bytes_per_event']:.0f} bytes an event")
    write(figures, f"{options.events}")


if __name__ == "__main__":
    main()
