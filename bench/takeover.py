"""How long a standby takes to take over from a leader that was killed, with the chain store in SQLite and in
PostgreSQL.

    python bench/takeover.py [--rounds 20] [--store sqlite|postgresql|both]

Two `eventchain run` stand for one chain while a writer appends an event every 20 ms. The one that seals is
killed with SIGKILL at a random moment. Measured is the time until the other says that it seals, and until the
next block is durable in the chain store: for so long nothing was sealed. Then another standby is started, and
it begins anew. The peer is a supervisor that starts a new process when it sees the old one end, measured in
the same rounds: the time until its first sealed block. The chain is verified at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from _results import heading, write
from latency import event_store

from eventchain.chain.prefix import SealedPrefix
from eventchain.chainstores import open_chain_store
from eventchain.config import Config
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store

EVERY = 0.02
LIMIT_SECONDS = 60.0


class Service:
    """A process that seals or stands by, and when it began to."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "eventchain", "run", "--backend", "cpu", "--block-seconds", "0.05"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.said: dict[str, float] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.setdefault(json.loads(line)["message"], time.monotonic())

    def when(self, message: str) -> float:
        deadline = time.monotonic() + LIMIT_SECONDS
        while message not in self.said:
            if time.monotonic() > deadline:
                raise SystemExit(f"nobody said {message!r}")
            time.sleep(0.002)
        return self.said[message]

    def kill(self) -> float:
        self.process.kill()
        killed = time.monotonic()
        self.process.wait()
        return killed


def arrive(url: str, stop: threading.Event) -> None:
    with closing(open_event_store(url)) as events:
        number = 0
        while not stop.is_set():
            events.append("orders", None, [NewEvent(f"{number}", "order.changed", b"x" * 200)])
            number += 1
            stop.wait(EVERY)


def next_block(chain: Any, prefix: SealedPrefix) -> float:
    """When a block more is sealed."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not prefix.advance():
        if time.monotonic() > deadline:
            raise SystemExit("nothing is sealed")
        time.sleep(0.002)
    return time.monotonic()


def measured(kind: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, event_store(kind) as url:
        folder = Path(name)
        begin = [sys.executable, "-m", "eventchain", "init", "--origin", "bench.example/takeover"]
        stores = ["--store", url, *(["--chain", url] if kind == "postgresql" else [])]
        options = {"cwd": folder, "capture_output": True, "check": True}
        subprocess.run([*begin, *stores, "--difficulty", "16", "--backend", "cpu"], **options)
        config = Config.load(folder / "eventchain.toml")
        stop = threading.Event()
        writer = threading.Thread(target=arrive, args=(config.store, stop))
        writer.start()
        leader = Service(folder)
        leader.when("sealed")
        takeovers, gaps, restarts = [], [], []
        with closing(open_chain_store(config.chain)) as chain:
            prefix = SealedPrefix(chain)
            for number in range(rounds):
                standby = Service(folder)
                standby.when("standby")
                time.sleep(random.uniform(1, 2))
                killed = leader.kill()
                prefix.advance()
                gaps.append(next_block(chain, prefix) - killed)
                takeovers.append(standby.when("sealing") - killed)
                leader = standby
                if number % 2:  # the peer
                    time.sleep(random.uniform(0, 1))
                    killed = leader.kill()
                    prefix.advance()
                    leader = Service(folder)
                    restarts.append(next_block(chain, prefix) - killed)
        stop.set()
        writer.join()
        leader.process.terminate()
        leader.process.wait()
        subprocess.run([*begin[:3], "mine"], **options)
        subprocess.run([*begin[:3], "verify"], **options)
    return {
        "rounds": rounds,
        "takeover_seconds": summary(takeovers),
        "nothing_sealed_seconds": summary(gaps),
        "peer_restart_seconds": summary(restarts),
    }


def summary(seconds: list[float]) -> dict[str, Any]:
    return {"n": len(seconds), "median": statistics.median(seconds), "max": max(seconds), "all": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--store", choices=["sqlite", "postgresql", "both"], default="both")
    options = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if options.store == "both" else [options.store]
    figures = heading("takeover")
    for kind in kinds:
        found = figures[kind] = measured(kind, options.rounds)
        for name, text in (
            ("takeover_seconds", "kill of the leader to the standby sealing"),
            ("nothing_sealed_seconds", "kill of the leader to the next sealed block"),
            ("peer_restart_seconds", "peer, a supervisor's restart, to the next sealed block"),
        ):
            one = found[name]
            print(f"{kind}: {text}: median {one['median']:.2f} s, longest {one['max']:.2f} s, n {one['n']}")
    write(figures, options.store if options.store != "both" else "")


if __name__ == "__main__":
    main()
