"""Appending and reading events of 200 bytes encrypted under a key for each subject, beside plain ones.

    python bench/encryption.py [--events 20000] [--subjects 100] [--rounds 5]

Into an SQLite event store, keys in an SQLite file: one event an append (a twentieth of the events), a hundred
an append, and reading all of them. Plain and encrypted are measured in turns; medians are printed. The limit
of encryption is the cipher alone: AES-256-GCM of the same payloads, a call each.
"""

from __future__ import annotations

import argparse
import base64
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from _results import heading, write
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.subjects import Encrypted, KeyStore

PAYLOAD = b'{"amount":1999,"text":"%s"}' % (b"x" * 174)
AT_ONCE = 100


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def append(store: Any, first: int, count: int, at_once: int, subjects: int) -> None:
    for start in range(first, first + count, at_once):
        events = [NewEvent(f"e{n}", "Deposited", PAYLOAD, None, n) for n in range(start, start + at_once)]
        name = start // at_once % (subjects or 100)
        more = {"subject": f"customer {name}"} if subjects else {}
        store.append(f"account-{name}", None, events, **more)


def read(store: Any) -> None:
    after = None
    while (batch := store.read(after, 16_384)).num_rows:
        after = batch["position"][-1].as_py()
        if isinstance(store, Encrypted):
            store.decrypted(batch)


def cipher_alone(count: int) -> None:
    cipher, nonce, beside = AESGCM(bytes(32)), bytes(12), bytes(60)
    for _ in range(count):
        cipher.encrypt(nonce, PAYLOAD, beside)


def measure(folder: Path, count: int, subjects: int) -> dict[str, float]:
    """Events a second of each step, on new stores."""
    with closing(open_event_store(f"sqlite:///{folder}/events.db", create=True)) as store:
        if subjects:
            keys = KeyStore(f"sqlite:///{folder}/keys.db", "env:EVENTCHAIN_BENCH_WRAPPING")
            keys.create()
            for number in range(subjects):
                with keys.held(f"customer {number}"):
                    pass  # to make a key is another matter
            store = Encrypted(store, keys)
        few = max(1, count // 20)
        found = {
            "append_1": few / seconds_of(lambda: append(store, count, few, 1, subjects)),
            "append_100": count / seconds_of(lambda: append(store, 0, count, AT_ONCE, subjects)),
            "read": (count + few) / seconds_of(lambda: read(store)),
        }
        store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["EVENTCHAIN_BENCH_WRAPPING"] = base64.b64encode(os.urandom(32)).decode()
    figures: dict[str, Any] = heading("encryption") | {"events": options.events, "subjects": options.subjects}
    rounds: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        one: dict[str, Any] = {"cipher": options.events / seconds_of(lambda: cipher_alone(options.events))}
        for kind, subjects in (("plain", 0), ("encrypted", options.subjects)):
            with tempfile.TemporaryDirectory(prefix="eventchain-bench-") as name:
                one[kind] = measure(Path(name), options.events, subjects)
        rounds.append(one)
    figures["rounds"] = rounds
    limit = figures["cipher_events_per_second"] = statistics.median(one["cipher"] for one in rounds)
    figures["median_events_per_second"] = {}
    for step in rounds[0]["plain"]:
        plain, encrypted = (
            statistics.median(one[kind][step] for one in rounds) for kind in ("plain", "encrypted")
        )
        figures["median_events_per_second"][step] = {"plain": plain, "encrypted": encrypted}
        more = 1e6 * (1 / encrypted - 1 / plain)
        print(
            f"{step:<11} plain {plain:>10,.0f}/s, encrypted {encrypted:>10,.0f}/s, "
            f"ratio {encrypted / plain:.2f}, {more:.1f} µs more an event"
        )
    print(f"cipher alone {limit:,.0f}/s, {1e6 / limit:.1f} µs an event")
    write(figures, str(options.events))


if __name__ == "__main__":
    main()
