"""What a fleet achieves of the sum of its workers' own rates, at a distance, and what a kill -9 costs.

    python bench/fleet.py [--workers 8] [--rate 2M] [--difficulty 16] [--seconds 45] [--delays 0 50 200]
                          [--losses 0 1] [--only WORD]

Each worker is a process with the `cpu` backend, held to --rate by resting, so that a few cores carry eight
workers. Each is on a host of its own (a network namespace; this takes root), with a line to the host of NATS
and the coordinator that holds every packet back by the delay, in each direction, so that a round trip takes
twice as long, and loses a share of them. Two loads: one header that is never solved, for --seconds, counted
by the workers; and 10,000 headers of --difficulty, counted as their expected work until the last is solved
(luck is worth 1%). Starting up counts in both.

The peer and limit is the sum of the workers' own rates: as many processes with the same throttled device,
each searching for itself with an engine of its own, before and after each pair of loads.

Then 10,000 headers again, with something killed by kill -9 or lost once a third of the time is over: the
time that it costs is that run's time less one without, measured before and after. A killed worker or
coordinator is replaced at once; NATS is away for a second and comes back empty, or loses all messages while a
worker dies that held some, or the consumer, or the stream; of a cluster of three, the stream's leader or a
follower stays away. Then with three workers in ten that lie, beside the others alone. Last, what a piece
costs a coordinator in CPU time, with workers that answer at once: this bounds the size of a fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from _results import ROOT, heading, write

from eventchain.cli.common import Rate
from eventchain.contracts.backend import Device, Solutions, Work
from eventchain.formats.header import HEADER, VERSION, bits_for_difficulty, merkle_root, work_of
from eventchain.mining.backends import Choice, open_backend
from eventchain.mining.check import check
from eventchain.mining.engine import Engine

sys.path.append(str(ROOT / "tests"))  # its server, and its workers that do not play by the rules

EASY = 10_000
HARD = 200
DOWN_SECONDS = 1.0
STREAM = "EVENTCHAIN_FLEET_workers"


class Throttled:
    """A device of the `cpu` backend that rests after each search, so that it comes to ``rate`` on average. It
    counts its hashes in a file of eight bytes, if it has one."""

    def __init__(self, rate: float, counter: Path | None = None) -> None:
        (self._device,) = open_backend("cpu").devices
        self._rate, self._hashes = rate, 0
        self._counter = counter and os.open(counter, os.O_CREAT | os.O_WRONLY)
        self._free_at = 0.0
        self.name = f"{self._device.name}, held to {rate / 1e6:g} MH/s"

    def search(self, work: Work) -> Solutions:
        began = max(time.perf_counter(), self._free_at)
        solutions = self._device.search(work)
        hashes = check(work, solutions).hashes
        self._free_at = began + hashes / self._rate
        time.sleep(max(0.0, self._free_at - time.perf_counter()))
        self._hashes += hashes
        if self._counter is not None:
            os.pwrite(self._counter, self._hashes.to_bytes(8, "big"), 0)
        return solutions


def work_for(url: str, rate: float, counter: Path) -> None:
    """A worker process."""
    from eventchain_fleet.connection import Login
    from eventchain_fleet.worker import Worker

    Worker(Login(url), "workers", Choice("cpu", (Throttled(rate, counter),))).run()


def headers_to_mine(count: int, difficulty: float) -> tuple[np.ndarray, list[bytes]]:
    manifests = [b"a block of a benchmark, number %d\n" % number for number in range(count)]
    headers = np.zeros(count, HEADER)
    headers["version"], headers["bits"] = VERSION, bits_for_difficulty(difficulty)
    for row, manifest in enumerate(manifests):
        headers["merkle_root"][row] = np.frombuffer(merkle_root(manifest), np.uint8)
    return headers, manifests


def drive(devices: tuple[Device, ...], count: int, difficulty: float, solved: Path, seconds: float) -> None:
    """Mine what is not noted as solved, and note it; for at most so many seconds."""
    headers, manifests = headers_to_mine(count, difficulty)
    done = np.frombuffer(solved.read_bytes() if solved.exists() else b"", np.int64)
    keys = np.setdiff1d(np.arange(count), done)
    with Engine(devices) as engine, solved.open("ab", buffering=0) as file:
        engine.submit(
            keys, headers[keys], [manifests[key] for key in keys.tolist()], np.full(len(keys), 1_700_000_000)
        )
        stop = time.monotonic() + seconds
        while engine.outstanding and time.monotonic() < stop:
            mined = engine.collect(min(0.1, max(0.0, stop - time.monotonic())))
            file.write(mined.keys.tobytes())
        file.write(engine.collect(0).keys.tobytes())


def coordinate(url: str, count: int, difficulty: float, solved: Path, seconds: float) -> None:
    """A coordinator process."""
    drive(tuple(open_backend("fleet", {"nats": url}).devices), count, difficulty, solved, seconds)


def search_alone(rate: float, counter: Path, seconds: float) -> None:
    """A process that searches without a fleet."""
    device = Throttled(rate, counter)
    drive((device,), 1, HARD, counter.with_suffix(".solved"), seconds)


class Bench:
    """A NATS server or a cluster of three, and workers, as processes; ``line``: with seconds of delay and a
    share of loss between each worker and the rest."""

    def __init__(
        self, folder: Path, workers: int, rate: float, line: tuple[float, float] | None, cluster: bool
    ) -> None:
        from links import Host
        from nats_server import NatsCluster, NatsServer

        self._context = get_context("spawn")
        self.folder, self._rate = folder, rate
        self._line, self._network = line, ExitStack()
        options: tuple[str, ...] = ()
        if line:
            self._hub = Host()
            self._network.enter_context(self._hub.inside())
            options = ("-a", "0.0.0.0")  # on all addresses of the hub
        self.server: Any = NatsCluster(folder) if cluster else NatsServer(folder, *options)
        self._down: Any = None  # the node that was killed
        self.counters: list[Path] = []
        self.workers: list[SpawnProcess] = []
        for _ in range(workers):
            self.hire()
        deadline = time.monotonic() + 120
        while not all(counter.exists() for counter in self.counters) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(5)

    def start(self, target: Callable[..., None], *arguments: Any) -> SpawnProcess:
        process = self._context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def hire(self) -> None:
        from links import Host, Link

        self.counters.append(self.folder / f"hashes-{len(self.counters)}")
        with ExitStack() as there:
            url = self.server.url
            if self._line:
                delay, loss = self._line
                link = Link(Host(), self._hub, delay=delay, loss=loss)
                self._network.callback(link.close)
                there.enter_context(link.near_host.inside())
                url = f"nats://{link.far}:{self.server.port}"
            self.workers.append(self.start(work_for, url, self._rate, self.counters[-1]))

    def hashes(self) -> int:
        return total_of(self.counters)

    def coordinator(self, count: int, difficulty: float, seconds: float = 1e6) -> SpawnProcess:
        solved = self.folder / "solved"
        return self.start(coordinate, self.server.url, count, difficulty, solved, seconds)

    def kill_node(self, *, leading: bool) -> None:
        """The one that leads the stream, or another."""
        info = asyncio.run(with_jetstream(self, lambda jetstream: jetstream.stream_info(STREAM)))
        name = next(name for name in self.server.nodes if (name == info.cluster.leader) == leading)
        self._down = self.server.nodes[name]
        self._down.kill()

    def mend(self) -> None:
        """Start it again."""
        if self._down is not None:
            self._down.start(self._down.port)
            self._down = None

    def forget(self) -> None:
        (self.folder / "solved").unlink(missing_ok=True)

    def close(self) -> None:
        for process in self.workers:
            process.kill()
            process.join()
        self.server.kill()
        self._network.close()


def total_of(counters: list[Path]) -> int:
    return sum(int.from_bytes(one.read_bytes(), "big") for one in counters if one.exists())


@contextmanager
def bench(
    workers: int, rate: float, line: tuple[float, float] | None = None, *, cluster: bool = False
) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        one = Bench(Path(folder), workers, rate, line, cluster)
        try:
            yield one
        finally:
            one.close()


def hard_rate(one: Bench, seconds: float) -> float:
    """Hashes a second that the workers tried, from when the first of them was given some."""
    before = one.hashes()
    process = one.coordinator(1, HARD, 1e6)
    while one.hashes() == before:
        time.sleep(0.01)
    before, began = one.hashes(), time.monotonic()
    time.sleep(seconds)
    rate = (one.hashes() - before) / (time.monotonic() - began)
    process.kill()
    process.join()
    time.sleep(7)  # the workers let go of what is left
    return rate


def easy_seconds(
    one: Bench,
    difficulty: float,
    upset: Callable[[Bench, SpawnProcess], SpawnProcess] | None = None,
    after: float = 0.0,
) -> float:
    """How long 10,000 headers take, from the first piece that is searched; ``upset`` does something to it all
    ``after`` so many seconds, and returns the coordinator."""
    one.forget()
    before = one.hashes()
    process = one.coordinator(EASY, difficulty)
    while one.hashes() == before:
        time.sleep(0.01)
    began = time.monotonic()
    if upset is not None:
        time.sleep(after)
        process = upset(one, process)
    process.join()
    return time.monotonic() - began


def own_rates(one: Bench, workers: int, rate: float, seconds: float) -> float:
    """The sum of what so many processes come to at the same time, each alone."""
    counters = [one.folder / f"alone-{number}" for number in range(workers)]
    processes = [one.start(search_alone, rate, counter, 1e6) for counter in counters]
    while not all(counter.exists() and counter.stat().st_size for counter in counters):
        time.sleep(0.1)
    time.sleep(2)
    before, began = total_of(counters), time.monotonic()
    time.sleep(seconds)
    total = (total_of(counters) - before) / (time.monotonic() - began)
    for process in processes:
        process.kill()
        process.join()
    for counter in counters:
        counter.unlink()
    return total


def efficiencies(options: argparse.Namespace) -> dict[str, Any]:
    work = EASY * work_of(bits_for_difficulty(options.difficulty))
    found: dict[str, Any] = {}
    for loss, delay in itertools.product(options.losses, options.delays):
        with bench(options.workers, options.rate, (delay / 1000, loss / 100)) as one:
            own = [own_rates(one, options.workers, options.rate, 15)]
            hard = hard_rate(one, options.seconds)
            easy = work / easy_seconds(one, options.difficulty)
            own.append(own_rates(one, options.workers, options.rate, 15))
        total = statistics.mean(own)
        found[f"{delay} ms, {loss:g} %"] = {
            "own_rates": own, "one_hard_header": hard, "easy_headers": easy,
            "one_hard_header_of_own": hard / total, "easy_headers_of_own": easy / total,
        }  # fmt: skip
        print(
            f"{delay:4} ms each way, {loss:g} % lost: own rates {total / 1e6:.2f} MH/s; "
            f"one hard header {hard / 1e6:.2f}, {hard / total:.1%}; "
            f"{EASY:,} easy headers {easy / 1e6:.2f}, {easy / total:.1%}",
            flush=True,
        )
    return found


Upset = Callable[[Bench, SpawnProcess], SpawnProcess]


def replace_worker(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    one.workers[0].kill()
    one.hire()
    return coordinator


def restart_nats(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    one.server.kill()
    time.sleep(DOWN_SECONDS)
    one.server.start(one.server.port)
    return coordinator


def lose_messages(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    asyncio.run(with_jetstream(one, lambda jetstream: jetstream.purge_stream(STREAM)))
    return replace_worker(one, coordinator)  # what it held is nowhere now


def lose_consumer(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    async def delete(jetstream: Any) -> None:
        for consumer in await jetstream.consumers_info(STREAM):
            await jetstream.delete_consumer(STREAM, consumer.name)

    asyncio.run(with_jetstream(one, delete))
    return coordinator


def lose_stream(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    asyncio.run(with_jetstream(one, lambda jetstream: jetstream.delete_stream(STREAM)))
    return coordinator


def kill_leader(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    one.kill_node(leading=True)
    return coordinator


def kill_follower(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
    one.kill_node(leading=False)
    return coordinator


async def with_jetstream(one: Bench, do: Callable[[Any], Any]) -> Any:
    import nats

    connection = await nats.connect(one.server.url.split(","))
    try:
        return await do(connection.jetstream())
    finally:
        await connection.close()


def kills(options: argparse.Namespace) -> dict[str, Any]:
    def replace_coordinator(one: Bench, coordinator: SpawnProcess) -> SpawnProcess:
        coordinator.kill()
        coordinator.join()
        return one.coordinator(EASY, options.difficulty)

    upsets: dict[str, Upset] = {
        "a worker": replace_worker,
        "the coordinator": replace_coordinator,
        "NATS": restart_nats,
        "a worker and all messages": lose_messages,
        "the consumer": lose_consumer,
        "the stream": lose_stream,
    }
    return seconds_lost(options, upsets)


def nodes(options: argparse.Namespace) -> dict[str, Any]:
    return seconds_lost(options, {"the leader": kill_leader, "a follower": kill_follower}, cluster=True)


def seconds_lost(
    options: argparse.Namespace, upsets: dict[str, Upset], *, cluster: bool = False
) -> dict[str, Any]:
    expected = EASY * work_of(bits_for_difficulty(options.difficulty)) / options.workers / options.rate
    with bench(options.workers, options.rate, cluster=cluster) as one:
        undisturbed = [easy_seconds(one, options.difficulty)]
        upset = {}
        for name, what in upsets.items():
            upset[name] = easy_seconds(one, options.difficulty, what, expected / 3)
            one.mend()
        undisturbed.append(easy_seconds(one, options.difficulty))
    usual = statistics.mean(undisturbed)
    lost = {name: seconds - usual for name, seconds in upset.items()}
    print(f"undisturbed: {usual:.1f} s for {EASY:,} headers ({', '.join(f'{s:.1f}' for s in undisturbed)})")
    for name, seconds in lost.items():
        print(f"without {name}: {seconds:+.1f} s", flush=True)
    return {"undisturbed": usual, "undisturbed_runs": undisturbed, "lost": lost}


def liars(options: argparse.Namespace) -> dict[str, float]:
    """The rate that honest workers come to with three liars beside them, and without, before and after."""
    from fleet_hosts import Rogue, lie

    honest, lying = 7, 3
    size_class = round(np.log2(2 * options.rate))
    with bench(honest, options.rate) as one:
        alone = [easy_seconds(one, options.difficulty)]
        rogues = [
            Rogue(one.server.url, lie, size_class=size_class, name=f"liar.{number}")
            for number in range(lying)
        ]
        seconds = easy_seconds(one, options.difficulty)
        pieces = sum(rogue.pieces for rogue in rogues)
        for rogue in rogues:
            rogue.close()
        alone.append(easy_seconds(one, options.difficulty))
    share = statistics.mean(alone) / seconds
    print(
        f"{lying} of {honest + lying} lie: {share:6.1%} of the honest ones' rate without them; "
        f"the liars took {pieces} pieces"
    )
    return {
        "seconds": seconds, "seconds_without_liars": alone,
        "share_of_the_honest": share, "pieces_taken_by_liars": pieces,
    }  # fmt: skip


def answer_at_once(url: str, counter: Path, number: int) -> None:
    """A worker process that searches nothing, and counts."""
    from fleet_hosts import Rogue, find_nothing

    answered = 0
    file = os.open(counter, os.O_CREAT | os.O_WRONLY)

    def answer(piece: Any) -> bytes:
        nonlocal answered
        answered += 1
        os.pwrite(file, answered.to_bytes(8, "big"), 0)
        return find_nothing(piece)

    Rogue(url, answer, name=f"quick.{number}")
    time.sleep(1e6)


def cost_of_a_piece(options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of a coordinator for each piece: cut, published, acknowledged, answered, checked; with a
    word from the worker for each, as in a fleet whose pieces take two seconds."""
    seconds = 15.0
    with bench(0, options.rate) as one:
        counters = [one.folder / f"answered-{number}" for number in range(4)]
        quick = [one.start(answer_at_once, one.server.url, file, n) for n, file in enumerate(counters)]
        time.sleep(3)
        backend = open_backend("fleet", {"nats": one.server.url})
        header = np.zeros(1, HEADER)
        header["bits"] = bits_for_difficulty(HARD)
        device: Any = backend.devices[0]
        searching = threading.Thread(
            target=device.search, args=(Work(header, np.zeros(1, np.uint64), 2**47, 2**16),)
        )
        searching.start()
        time.sleep(5)
        before, cpu = total_of(counters), time.process_time()
        time.sleep(seconds)
        pieces, cpu = total_of(counters) - before, time.process_time() - cpu
        device.interrupt()
        searching.join()
        for process in quick:
            process.kill()
            process.join()
    print(
        f"a piece costs the coordinator {1e3 * cpu / pieces:.2f} ms of CPU time "
        f"({pieces / seconds:.0f} pieces/s)"
    )
    return {"cpu_seconds": cpu / pieces, "pieces_per_second": pieces / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rate", type=lambda text: Rate().convert(text, None, None), default=2e6)
    parser.add_argument("--difficulty", type=float, default=16)
    parser.add_argument("--seconds", type=float, default=45.0, help="on the hard header")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 50, 200], metavar="MS")
    parser.add_argument("--losses", type=float, nargs="+", default=[0, 1], metavar="PERCENT")
    parser.add_argument("--only", default="", metavar="WORD",
                        help="efficiency, kills, nodes, liars or pieces")  # fmt: skip
    options = parser.parse_args()
    figures = heading("fleet") | {
        "workers": options.workers, "rate_of_each": options.rate, "difficulty": options.difficulty,
    }  # fmt: skip
    if options.only in {"", "efficiency"}:
        figures["efficiency"] = efficiencies(options)
    if options.only in {"", "kills"}:
        figures["kills"] = kills(options)
    if options.only in {"", "nodes"}:
        figures["nodes"] = nodes(options)
    if options.only in {"", "liars"}:
        figures["liars"] = liars(options)
    if options.only in {"", "pieces"}:
        figures["piece"] = cost_of_a_piece(options)
    figures["machine"]["load_after"] = os.getloadavg()[0]
    write(figures, options.only)


if __name__ == "__main__":
    main()
