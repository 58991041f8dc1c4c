"""The fleet with real NATS servers and worker processes: killed, lied to, robbed, flooded and left alone."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import pty
import re
import secrets
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import nats
import nkeys
import numpy as np
import pytest
from click.testing import CliRunner
from commands import eventchain
from eventchain_fleet import FleetBackend
from eventchain_fleet.connection import Login, this_host, worker_subject
from eventchain_fleet.messages import Shut
from eventchain_fleet.roster import Queue
from eventchain_fleet.watch import Watch
from fleet_hosts import (
    Fleet,
    Rogue,
    WorkerProcess,
    documented,
    find_nothing,
    fleet_in,
    keep_silent,
    lie,
)
from nats_server import NatsCluster, NatsServer
from waiting import wait_for

from eventchain.assembly import open_chain
from eventchain.chain.view import ChainView
from eventchain.chainstores import open_chain_store
from eventchain.cli import cli
from eventchain.config import Config
from eventchain.contracts.backend import Work
from eventchain.errors import BackendError, ConfigError
from eventchain.formats.header import HEADER, VERSION, bits_for_difficulty, meets_target, merkle_root
from eventchain.mining.backends import open_backend
from eventchain.mining.check import check
from eventchain.mining.engine import Engine
from eventchain.service.pages import served_pages

HARD = 200  # bits: never solved


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with fleet_in(tmp_path_factory.mktemp("fleet"), 2) as fleet:
        yield fleet


def submit(engine: Engine, count: int, difficulty: float) -> None:
    salt = secrets.token_bytes(8)
    manifests = [salt + b"block %d\n" % key for key in range(count)]
    headers = np.zeros(count, HEADER)
    headers["version"], headers["bits"] = VERSION, bits_for_difficulty(difficulty)
    for row, manifest in enumerate(manifests):
        headers["merkle_root"][row] = np.frombuffer(merkle_root(manifest), np.uint8)
    engine.submit(np.arange(count), headers, manifests, np.full(count, 1_700_000_000))


def collect(engine: Engine, count: int, seconds: float = 120) -> None:
    """Wait for so many, each of them right and there once."""
    keys: list[int] = []
    deadline = time.monotonic() + seconds
    while len(keys) < count:
        mined = engine.collect(0.5)
        assert meets_target(mined.headers).all()
        keys += mined.keys.tolist()
        assert time.monotonic() < deadline, f"{len(keys)} of {count}"
    assert len(set(keys)) == len(keys)


def mine(backend: FleetBackend, count: int, difficulty: float) -> None:
    with Engine(backend.devices) as engine:
        submit(engine, count, difficulty)
        collect(engine, count)


def one_work(difficulty: float, count: int, rolls: int = 16) -> Work:
    headers = np.frombuffer(secrets.token_bytes(80), HEADER).copy()
    headers["bits"] = bits_for_difficulty(difficulty)
    return Work(headers, np.zeros(1, np.uint64), count, rolls)


# -- as it should be


def test_easy_and_hard_headers_are_mined_by_two_workers(fleet: Fleet):
    backend = fleet.open()
    before = [worker.said[-1]["pieces"] for worker in fleet.workers]
    mine(backend, 3000, 10)
    mine(backend, 4, 22)
    deadline = time.monotonic() + 120
    while not all(w.said[-1]["pieces"] > b for w, b in zip(fleet.workers, before, strict=True)):
        mine(backend, 1, 21)
        assert time.monotonic() < deadline
    backend.close()


def test_a_header_that_is_found_ends_its_search(fleet: Fleet):
    """Its range would take hours."""
    backend = fleet.open()
    work = one_work(16, 2**44)
    found = backend.devices[0].search(work)
    assert check(work, found).index.tolist() == [0]
    backend.close()


def test_what_is_called_off_counts_as_far_as_it_was_tried(fleet: Fleet, monkeypatch):
    """A header after the other, each in all searches at once, and solved by one of them."""
    given, counted = [], []
    searched = Queue.searched

    def noted(queue: Queue, hashes: float, *when: float) -> float:
        given.append(hashes)
        counted.append(searched(queue, hashes, *when))
        return counted[-1]

    monkeypatch.setattr(Queue, "searched", noted)
    backend = fleet.open()
    with Engine(backend.devices) as engine:
        for _ in range(30):
            submit(engine, 1, 18)
            collect(engine, 1)
        rates = [unit["hashes_per_second"] for worker in fleet.workers for unit in worker.said]
        assert 0 < sum(engine.rate().values()) * 1e6 <= 2 * max(rates)
    backend.close()
    assert 0 < sum(counted) < sum(given)
    assert engine.hashes < sum(counted) + 4 * 30 * 2**18  # and what was answered: that much is no bad luck


def test_what_was_called_off_can_be_searched_again(fleet: Fleet):
    """A coordinator may die with a solution that nobody has: the next one asks for the same header."""
    backend = fleet.open()
    work = one_work(16, 2**44)
    for _ in range(5):
        for device in backend.devices:
            assert check(work, device.search(work)).index.tolist() == [0]
    backend.close()


def test_an_interrupted_search_returns_at_once(fleet: Fleet):
    backend = fleet.open()
    device = backend.devices[0]
    answers = []
    thread = threading.Thread(target=lambda: answers.append(device.search(one_work(HARD, 2**44))))
    thread.start()
    wait_for(lambda: backend._coordinator._searches)
    device.interrupt()  # type: ignore[attr-defined]
    thread.join(60)
    assert [len(answer.index) for answer in answers] == [0]
    backend.close()


def test_two_coordinators_share_the_workers(fleet: Fleet):
    one, two = fleet.open(), fleet.open()
    with Engine(one.devices) as first, Engine(two.devices) as second:
        submit(first, 500, 12)
        submit(second, 500, 12)
        collect(first, 500)
        collect(second, 500)
    one.close()
    two.close()


def test_eventchain_fleet_shows_it(fleet: Fleet):
    backend = fleet.open()
    rogue = Rogue(fleet.server.url, lie, name="liar.7")
    try:
        while not rogue.shut:
            mine(backend, 50, 10)
        command = [sys.executable, "-m", "eventchain", "fleet", "--nats", fleet.server.url]
        for _ in range(10):  # where the machine is busy, one says late that it is there
            shown = [
                subprocess.Popen([*command, *option], stdout=subprocess.PIPE, text=True)
                for option in ([], ["--json"])
            ]
            text, in_json = (one.communicate(timeout=60)[0] for one in shown)
            facts = json.loads(in_json)
            there = {row["worker"]: row for row in facts["workers"] if row["there"]}
            if len(there) == 2 and "2 workers" in text:
                break
    finally:
        rogue.close()
    backend.close()
    assert there.keys() == {worker.said[0]["worker"] for worker in fleet.workers}
    assert facts["rate"] == sum(row["rate"] for row in there.values()) > 0
    assert len(facts["coordinators"]) >= 1
    (liar,) = (row for row in facts["workers"] if row["worker"] == "liar.7")
    assert "does not meet its header's target" in liar["shut_out"]
    assert "2 workers" in text
    assert "shut out: counter" in text


def test_eventchain_fleet_watches_on_a_terminal(fleet: Fleet):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (12, 60))
    watching = subprocess.Popen(
        [sys.executable, "-m", "eventchain", "fleet", "--watch", "--nats", fleet.server.url],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while seen.count(b"2 workers") < 2:  # drawn twice
            seen += os.read(ours, 65536)
        os.killpg(watching.pid, signal.SIGINT)
        with suppress(OSError):  # the other end is closed
            while more := os.read(ours, 65536):
                seen += more
        assert watching.wait(30) == 130
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    before, _, after = seen.decode().partition("\x1b[?1049l")  # the screen as it was
    assert before.count("\x1b[?1049h") == 1
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", after).splitlines()
    assert lines[0].startswith("2 workers, ")
    assert lines[1].startswith("worker ")
    assert {line.split()[0] for line in lines[2:4]} == {worker.said[0]["worker"] for worker in fleet.workers}
    assert lines[-1] == "interrupted"
    assert max(map(len, lines)) <= 60
    assert "Traceback" not in after


# -- workers that are killed, lie, hide, steal


def test_a_worker_is_killed(tmp_path):
    with fleet_in(tmp_path, 2) as fleet, Engine(fleet.open().devices) as engine:
        submit(engine, 100, 17)
        collect_some(engine, 1)
        fleet.workers[0].kill()
        fleet.workers.append(WorkerProcess(fleet.server.url))  # and another joins
        while engine.outstanding:
            engine.collect(0.5)


def collect_some(engine: Engine, count: int) -> int:
    got = 0
    while got < count:
        got += len(engine.collect(0.5))
    return got


@pytest.mark.parametrize("answer", [lie, keep_silent], ids=lambda answer: answer.__name__)
def test_rogues_among_the_workers_stop_nothing(fleet: Fleet, answer, caplog, monkeypatch):
    """In the very queue that the others pull from: whatever it is given is lost there."""
    monkeypatch.setattr("eventchain_fleet.coordinator.LEASE_SECONDS", 5.0)
    monkeypatch.setattr("eventchain_fleet.roster.LONGEST_PAUSE", 1.0)  # however often it is the rogue's turn
    backend = fleet.open()
    classes = {q.size_class for q in backend._coordinator._roster.queues.values() if q.devices}
    rogues = [
        Rogue(fleet.server.url, answer, size_class=size_class, name=f"rogue.{size_class}")
        for size_class in classes
    ]
    try:
        with caplog.at_level(logging.WARNING, "eventchain"), Engine(backend.devices) as engine:
            submit(engine, 300, 12)
            collect(engine, 300)
            deadline = time.monotonic() + 120
            while not any(rogue.shut if answer is lie else rogue.pieces for rogue in rogues):
                submit(engine, 100, 12)
                collect(engine, 100)
                assert time.monotonic() < deadline
            assert not engine.benched
        if answer is lie:
            (reason, *_) = (Shut.decode(rogue.shut[0]).reason for rogue in rogues if rogue.shut)
            assert reason.startswith("counter")
            assert f"({rogues[0].group}) is shut out: counter" in caplog.text
            assert "worker rogue." in caplog.text
    finally:
        for rogue in rogues:
            rogue.close()
    backend.close()


def test_who_never_finds_anything_is_shut_out(tmp_path):
    with fleet_in(tmp_path, 0) as fleet:
        rogue = Rogue(fleet.server.url, find_nothing)
        try:
            backend = fleet.open(fallback="cpu")
            with Engine(backend.devices) as engine:
                submit(engine, 100, 8)
                while not rogue.shut:
                    engine.collect(0.1)
                    if not engine.outstanding:
                        submit(engine, 100, 8)
            assert "it should have solved" in Shut.decode(rogue.shut[0]).reason
        finally:
            rogue.close()


def test_a_group_that_only_takes_is_of_no_harm_to_another(fleet: Fleet):
    backend = fleet.open(groups=["workers", "guests"])
    thief = Rogue(fleet.server.url, keep_silent, size_class=50, group="guests")
    try:
        mine(backend, 1000, 12)
    finally:
        thief.close()
    backend.close()


def test_any_bytes_may_be_published(fleet: Fleet):
    """To every subject that a worker may publish to, while it mines."""
    backend = fleet.open()
    stop = threading.Event()

    async def flood() -> None:
        connection = await nats.connect(fleet.server.url)
        while not stop.is_set():
            for kind in ("here", "done"):
                for magic in (b"", b"ECh1", b"ECd1"):
                    worker = f"flood.{secrets.randbelow(50)}"
                    data = magic + secrets.token_bytes(secrets.randbelow(100))
                    await connection.publish(worker_subject(kind, "workers", worker), data)
            await asyncio.sleep(0.001)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(flood()))
    thread.start()
    try:
        mine(backend, 500, 12)
    finally:
        stop.set()
        thread.join()
    backend.close()


def test_a_worker_refuses_what_is_no_piece(tmp_path):
    with fleet_in(tmp_path, 1) as fleet:
        backend = fleet.open()
        (queue,) = backend._coordinator._roster.queues.values()

        async def publish() -> None:
            connection = await nats.connect(fleet.server.url)
            subject = f"eventchain.fleet.work.workers.{queue.size_class}"
            for data in (b"", b"rm -rf /", b"ECp1" + bytes(40), secrets.token_bytes(500)):
                await connection.jetstream().publish(subject, data)
            await connection.close()

        asyncio.run(publish())
        mine(backend, 100, 12)
        deadline = time.monotonic() + 120
        while fleet.workers[0].said[-1]["errors"] != 4:
            time.sleep(0.1)
            assert time.monotonic() < deadline


# -- without NATS, without workers


def test_nats_is_killed_and_comes_back_empty(tmp_path):
    with fleet_in(tmp_path, 1) as fleet, Engine(fleet.open().devices) as engine:
        submit(engine, 80, 17)
        collect_some(engine, 1)
        fleet.server.kill()
        time.sleep(0.5)
        fleet.server.start(fleet.server.port)  # the stream was in its memory
        while engine.outstanding:
            engine.collect(0.5)
        assert not engine.benched


def test_this_host_mines_while_there_is_no_worker(tmp_path, caplog):
    with fleet_in(tmp_path, 0) as fleet, caplog.at_level(logging.WARNING, "eventchain"):
        backend = fleet.open(fallback="reference")
        mine(backend, 20, 6)
        assert "the fleet has no worker: mining on hashlib, one core" in caplog.text
        fleet.workers.append(WorkerProcess(fleet.server.url).ready())
        wait_for(lambda: "the fleet has a worker again" in caplog.text)
        mine(backend, 20, 12)


def test_without_anybody_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("eventchain_fleet.coordinator.FIRST_WORKER_SECONDS", 0.5)
    with (
        fleet_in(tmp_path, 0) as fleet,
        pytest.raises(BackendError, match="no worker of group workers") as said,
    ):
        fleet.open()
    assert "eventchain worker" in said.value.hint
    with pytest.raises(BackendError, match=r"NATS at nats://127\.0\.0\.1:9: "):
        open_backend("fleet", {"nats": "nats://me:secret@127.0.0.1:9"})
    with pytest.raises(BackendError, match="no NATS server is named"):
        open_backend("fleet")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nats": "localhost"}, "no URL of a NATS server"),
        ({"nats": "nats://h:4222", "creds": "a", "nkey": "b"}, "both"),
        ({"nats": "nats://h:4222", "creds": "/no/such.creds"}, "/no/such.creds cannot be read: No such file"),
        ({"nats": "nats://h:4222", "tls_key": "a"}, "without its certificate"),
        ({"nats": "nats://h:4222", "groups": ["a.b"]}, "'a.b' cannot name a group"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        open_backend("fleet", settings)


# -- through the command line: the coordinator is killed


def test_a_coordinator_is_killed_and_the_next_one_goes_on(fleet: Fleet, tmp_path):
    events = "".join(
        json.dumps({"specversion": "1.0", "source": "/s", "id": f"e{n}", "type": "T", "subject": "s"}) + "\n"
        for n in range(60)
    )
    (tmp_path / "events.jsonl").write_text(events)
    rate = sum(worker.said[-1]["hashes_per_second"] for worker in fleet.workers)
    difficulty = math.log2(3 * rate / 60)  # three seconds for all, so that it is killed before their end
    origin = ("--origin", "example.com/f", "--difficulty", f"{difficulty:.2f}")
    assert eventchain(tmp_path, "init", *origin, "--backend", "cpu").returncode == 0
    file = tmp_path / "eventchain.toml"
    text = file.read_text().replace("[fleet]\n", f'[fleet]\nnats = "{fleet.server.url}"\n')
    file.write_text(text.replace('backend = "cpu"', 'backend = "fleet"'))
    assert Config.load(file).fleet.nats == fleet.server.url
    assert eventchain(tmp_path, "import", "events.jsonl").returncode == 0
    mining = subprocess.Popen(
        [sys.executable, "-m", "eventchain", "mine", "--block-events", "1"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with closing(open_chain_store(Config.load(file).chain)) as store:
        while ChainView(store).trunk.height < 60:  # all are linked, and few are mined
            time.sleep(0.02)
    os.killpg(mining.pid, signal.SIGKILL)
    mining.wait()
    mining.stderr.close()  # type: ignore[union-attr]
    shown = json.loads(eventchain(tmp_path, "fleet", "--json").stdout)
    assert shown["hashes_left"] > 0
    done = eventchain(tmp_path, "mine", "--block-events", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(f"backend fleet: [12] workers? at {fleet.server.url}", done.stderr)  # heard of by then
    with open_chain(file) as chain:
        assert chain.verify().verdict == "clean"
        assert ChainView(chain.store).sealed_height == 60


def test_a_worker_can_be_stopped_at_any_moment(tmp_path):
    with fleet_in(tmp_path, 1, "--nice") as fleet:
        (worker,) = fleet.workers
        with Engine(fleet.open(fallback="cpu").devices) as engine:
            submit(engine, 1, HARD)
            time.sleep(1)
            said = worker.kill(signal.SIGINT)
        assert worker.process.returncode == 130
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Name the NATS server"),
        (["--nats", "nats://127.0.0.1:9"], "NATS at nats://127.0.0.1:9"),
        (["--nats", "http://x"], "no URL of a NATS server"),
        (["--nats", "nats://x:4222", "--creds", "nowhere"], "nowhere cannot be read: No such file"),
        (["--nats", "nats://x:4222", "--group", "a b"], "cannot name a group"),
        (["--nats", "nats://x:4222", "--backend", "fleet"], "a backend of its own host"),
        (["--nats", "nats://x:4222", "--backend", "stratum"], "a backend of its own host"),
    ],
)
def test_a_worker_that_cannot_start_says_why(monkeypatch, options, said):
    logger = logging.getLogger("eventchain")  # which a worker sets up: as it was, afterwards
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    monkeypatch.setattr(logger, "level", logger.level)
    done = CliRunner().invoke(cli, ["worker", "--backend", "reference", *options])
    assert done.exit_code == 2
    assert said in done.stderr


# -- logins, and a cluster, as docs/fleet.md has them


def nkey(file: Path) -> str:
    """A new seed in the file; returns its public key."""
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    file.write_bytes(seed)
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


def test_the_documented_logins_are_enough_and_no_more(tmp_path):
    configuration = documented("{ nkey: COORDINATOR }").replace("web7", this_host())
    for name in ("COORDINATOR", "WORKER", "WATCHER"):
        configuration = configuration.replace(name, nkey(tmp_path / name))
    (tmp_path / "nats.conf").write_text(configuration)
    server = NatsServer(tmp_path, "-c", str(tmp_path / "nats.conf"))
    worker = WorkerProcess(server.url, "--nkey", str(tmp_path / "WORKER")).ready()
    try:
        backend = open_backend("fleet", {"nats": server.url, "nkey": str(tmp_path / "COORDINATOR")})
        mine(backend, 100, 10)  # type: ignore[arg-type]
        with closing(Watch(Login(server.url, nkey=str(tmp_path / "WATCHER")))) as watch:
            while not watch.rows():
                time.sleep(0.1)
            assert watch.rows()[0].worker == worker.said[0]["worker"]
            with served_pages(watch, lambda: (True, {}), "0") as port:
                metrics = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            assert "eventchain_fleet_workers 1.0" in metrics
            (rate,) = re.findall(
                r'^eventchain_fleet_mhs{device="0: .*",group="workers",.*} (.*)$', metrics, re.M
            )
            assert float(rate) > 0
        refused = asyncio.run(_refused(server.url, tmp_path / "WORKER"))
        assert len(refused) == len(NOT_FOR_WORKERS), refused
        with pytest.raises(BackendError, match="Authorization"):
            open_backend("fleet", {"nats": server.url})
        backend.close()  # type: ignore[attr-defined]
    finally:
        worker.kill()
        server.kill()


NOT_FOR_WORKERS = (
    "eventchain.fleet.work.workers.20",
    "eventchain.fleet.over",
    "eventchain.fleet.alive",
    "eventchain.fleet.done.workers.another.1",
    "eventchain.fleet.shut.workers.another.1",
    "$JS.API.STREAM.PURGE.EVENTCHAIN_FLEET_workers",
    "$JS.API.CONSUMER.MSG.NEXT.EVENTCHAIN_FLEET_guests.size-20",
)


async def _refused(url: str, seed: Path) -> list[str]:
    """What the server says to a worker that publishes what it must not."""
    said: list[str] = []

    async def note(error: Exception) -> None:
        said.append(str(error))

    connection = await nats.connect(url, nkeys_seed=str(seed), error_cb=note)
    for subject in NOT_FOR_WORKERS:
        await connection.publish(subject, b"")
        await connection.flush()
    await asyncio.sleep(0.2)
    await connection.close()
    return [one for one in said if "permissions violation" in one.lower()]


def test_a_node_of_a_cluster_of_three_is_killed(tmp_path):
    cluster = NatsCluster(tmp_path)
    worker = WorkerProcess(cluster.url).ready()
    try:
        backend = open_backend("fleet", {"nats": cluster.url})
        with Engine(backend.devices) as engine:
            submit(engine, 60, 16)
            collect_some(engine, 1)
            info = asyncio.run(_stream(cluster.url))
            assert len(info.cluster.replicas) == 2
            cluster.nodes[info.cluster.leader].kill()
            while engine.outstanding:
                engine.collect(0.5)
            assert not engine.benched
        backend.close()  # type: ignore[attr-defined]
    finally:
        worker.kill()
        cluster.kill()


async def _stream(url: str):
    connection = await nats.connect(url.split(","))
    info = await connection.jetstream().stream_info("EVENTCHAIN_FLEET_workers")
    await connection.close()
    return info
