"""What `eventchain run` and its PostgreSQL server cost while nothing happens, in percent of a core.

    python bench/idle.py [--seconds 20]

CPU time as the system counts it, after ten seconds of settling: of a leader, and of a standby beside it. The
stores that tell of new events are held against one that tells nobody, so that it is looked at every 20 ms
where `block_seconds` is as small as here, 0.05.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import heading, write
from latency import event_store

SETTLE_SECONDS = 10.0
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Of a process, 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def servers(url: str) -> list[int]:
    """The processes of the PostgreSQL server behind the URL: its first, and what that started."""
    import psycopg

    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    first = str(found[0]).splitlines()[0] if found else ""
    children = Path(f"/proc/{first}/task/{first}/children").read_text()
    return [int(pid) for pid in (first, *children.split())]


def spent(watched: dict[str, list[int]]) -> dict[str, float]:
    return {who: sum(map(cpu_seconds, pids)) for who, pids in watched.items()}


def started(folder: Path, message: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eventchain", "run", "--backend", "cpu", "--block-seconds", "0.05"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while f'"{message}"' not in process.stderr.readline():
        if process.poll() is not None:
            raise SystemExit("the service ended")
    return process


def measured(kind: str, options: str, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name, event_store(kind) as url:
        folder = Path(name)
        command = [sys.executable, "-m", "eventchain", "init", "--backend", "cpu", "--difficulty", "12"]
        more = ["--origin", "bench.example/idle", "--store", url + options]
        subprocess.run([*command, *more], cwd=folder, capture_output=True, check=True)
        leader, standby = started(folder, "sealing"), started(folder, "standby")
        try:
            time.sleep(SETTLE_SECONDS)
            watched = {"leader": [leader.pid], "standby": [standby.pid]}
            if kind == "postgresql":
                watched["server"] = servers(url)
            before = {who: sum(map(cpu_seconds, pids)) for who, pids in watched.items()}
            began = time.monotonic()
            time.sleep(seconds)
            wall = time.monotonic() - began
            return {
                who: 100 * (sum(map(cpu_seconds, pids)) - before[who]) / wall for who, pids in watched.items()
            }
        finally:
            for process in (leader, standby):
                process.terminate()
                process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    figures = heading("idle") | vars(options)
    for name, kind, more in (
        ("sqlite", "sqlite", ""),
        ("postgresql, told", "postgresql", ""),
        ("postgresql, not told", "postgresql", "&notify="),
    ):
        found = figures[name] = measured(kind, more, options.seconds)
        print(f"{name}: " + ", ".join(f"{who} {share:.2f} %" for who, share in found.items()) + " of a core")
    write(figures)


if __name__ == "__main__":
    main()
