"""The Stratum server: real connections over TCP, miners that mine, and all that may come instead."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import eventchain
from eventchain_stratum import StratumMiner, open_backend
from eventchain_stratum.allowance import BURST, LINES_A_SECOND, Allowance
from eventchain_stratum.jobs import LEASE_SECONDS, Blocks, Job, difficulty_of, target_at
from eventchain_stratum.protocol import MAX_LINE, prevhash
from eventchain_stratum.server import MAX_STRANGERS
from eventchain_stratum.vardiff import FIRST_WORK, LEAST_WORK, SPACING, Vardiff
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import command_line
from ports import free_ports
from stratum_client import MASK, Client, Mining, sha256d
from waiting import wait_for

from eventchain.contracts.backend import MAX_AHEAD, Sealed, Solutions, Task, Work
from eventchain.errors import BackendError, ConfigError
from eventchain.formats.header import (
    HEADER,
    ROLL_MASK,
    VERSION,
    bits_for_difficulty,
    meets_target,
    merkle_root,
    target_of,
    unmined,
)
from eventchain.mining.backends import choose, measure
from eventchain.mining.backends import open_backend as open_by_name
from eventchain.mining.check import check_sealed
from eventchain.mining.engine import Engine, Mined

BUILT = 1_700_000_000
HARD = 60  # bits: nobody solves it
PASSWORD = "s3cret"


class Chain:
    """An engine with a Stratum server, and the blocks that were submitted to it."""

    def __init__(self, engine: Engine, port: int) -> None:
        self.engine, self.port = engine, port
        self.headers = np.zeros(0, HEADER)
        self.manifests: list[bytes] = []

    def submit(self, count: int, difficulty: float, length: int = 0) -> None:
        """length: of manifests, in bytes, at least."""
        first = len(self.manifests)
        manifests = [(b"manifest %d\n" % n * (1 + n % 5)).ljust(length) for n in range(first, first + count)]
        bits = bits_for_difficulty(difficulty)
        raw = b"".join(unmined(sha256d(b"%d" % len(m)), m, bits) for m in manifests)
        headers = np.frombuffer(raw, HEADER)
        self.engine.submit(np.arange(first, first + count), headers, manifests, np.full(count, BUILT))
        self.headers = np.concatenate([self.headers, headers])
        self.manifests += manifests

    def collect(self, count: int, seconds: float = 120) -> Mined:
        """So many solved blocks, each of them right."""
        parts: list[Mined] = []
        deadline = time.monotonic() + seconds
        while sum(map(len, parts)) < count:
            parts.append(self.engine.collect(1))
            assert time.monotonic() < deadline, self.engine.benched
        mined = Mined.join(parts)
        assert len(set(mined.keys.tolist())) == len(mined) == count
        assert meets_target(mined.headers).all()
        assert (mined.headers["prev"] == self.headers["prev"][mined.keys]).all()
        assert (mined.headers["bits"] == self.headers["bits"][mined.keys]).all()
        assert (mined.headers["version"] & ~np.uint32(MASK) == VERSION).all()
        assert (mined.headers["time"] >= BUILT).all()
        for key, header, extranonce in zip(
            mined.keys, mined.headers, mined.extranonces.tolist(), strict=True
        ):
            assert header["merkle_root"].tobytes() == merkle_root(self.manifests[key], extranonce)
        return mined


def port_of(miner: StratumMiner) -> int:
    """Once it listens."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(BackendError):
            return miner.port
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def served(password: str | None = PASSWORD) -> Iterator[Chain]:
    miner = StratumMiner("127.0.0.1", 0, password)
    with Engine([miner]) as engine:
        yield Chain(engine, port_of(miner))
        assert engine.benched == {}


@pytest.fixture
def chain() -> Iterator[Chain]:
    with served() as chain:
        yield chain


@pytest.fixture
def connect(chain: Chain) -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def connected(worker: str = "rig", *, roll: bool = False) -> Client:
            client = stack.enter_context(Client(chain.port, worker))
            assert client.login(PASSWORD, roll=roll) is True
            return client

        yield connected


# -- mining -------------------------------------------------------------------------------------------


def test_miners_solve_every_block(chain, connect):
    miners = [Mining(connect("plain")), Mining(connect("rolling", roll=True)), Mining(connect("late"))]
    chain.submit(40, 8)
    mined = chain.collect(40)
    chain.submit(3, 10)  # into connections that have waited
    chain.collect(3)
    for miner in miners:
        miner.stop()
    assert sum(answer is True for miner in miners for answer in miner.answers) == 43
    assert {answer[0] for miner in miners for answer in miner.answers if answer is not True} <= {21}
    assert chain.engine.hashes >= 43  # as far as shares prove them
    used = set((mined.extranonces >> np.uint64(32)).tolist())
    assert used <= {int.from_bytes(miner.client.extranonce1, "big") for miner in miners}
    assert all(0 < one < 2**31 for one in used)


def test_what_a_miner_rolls_is_in_the_seal(chain, connect):
    client = connect(roll=True)
    assert client.mask == ROLL_MASK
    chain.submit(1, 8)
    job = client.job()
    extranonce2, at = b"\xff\x00\xaa\x01", job.time + 60
    rolled = 0x1555 << 13
    nonce = next(n for n in range(2**20) if solves(job.header(extranonce2, at, n, rolled), job.bits))
    assert client.submit(job, extranonce2, at, nonce, rolled) is True
    mined = chain.collect(1)
    assert mined.extranonces[0] == int.from_bytes(client.extranonce1 + extranonce2, "big")
    assert mined.headers[0].tobytes() == job.header(extranonce2, at, nonce, rolled)


def solves(header: bytes, bits: int) -> bool:
    return int.from_bytes(sha256d(header), "little") <= target_of(bits)


def test_a_miner_mines_after_it_connects_again(chain, connect):
    chain.submit(2, 8)
    first = connect()
    assert first.mine_one() is True
    first.close()
    again = connect()
    assert again.extranonce1 != first.extranonce1
    assert again.mine_one() is True
    chain.collect(2)


def test_shares_of_a_hard_block_count_and_solve_nothing(chain, connect):
    chain.submit(1, HARD)
    client = connect()
    client.job()
    # Make shares easy enough for hashlib: nothing came for a minute, again and again.
    assert client.difficulty == pytest.approx(FIRST_WORK / 2**32, rel=1e-4)
    found = client.search(client.job(), count=2**12)
    assert found is None or client.submit(client.job(), *found[:3]) is True
    assert chain.engine.outstanding == 1


# -- who works on what --------------------------------------------------------------------------------


def test_each_connection_works_on_another_block(chain, connect):
    chain.submit(4, HARD)
    clients = [connect(f"rig{n}") for n in range(4)]
    assert {client.job().coinbase1 for client in clients} == set(chain.manifests)
    fifth = connect("fifth")
    assert fifth.job().coinbase1 in chain.manifests  # shared, and yet no work overlaps
    assert len({client.extranonce1 for client in [*clients, fifth]}) == 5


def test_a_solved_block_is_called_off_everywhere(chain, connect):
    chain.submit(1, 8)
    one, other = connect("one"), connect("other")
    job, late = one.job(), other.job()
    assert job.prev == late.prev
    found = other.search(late)
    assert one.mine_one() is True
    chain.submit(1, 8)
    assert one.next_job().clean
    other_job = other.next_job()
    assert other_job.clean
    assert other_job.coinbase1 == chain.manifests[1]
    assert other.submit(late, *found[:3]) == (21, "this job is over")
    assert other.mine_one() is True
    chain.collect(2)


def test_silent_miners_stall_nothing(chain, connect):
    """Each holds a block and says nothing. With none left that nobody holds, the first is given out again."""
    chain.submit(8, 8)
    silent = [connect(f"silent{n}") for n in range(8)]
    for client in silent:
        client.job()
    Mining(connect("busy"))
    chain.collect(8)


def test_a_block_that_is_withheld_is_given_to_another():
    blocks = Blocks()
    raw = b"".join(unmined(bytes(32), b"%d" % n, bits_for_difficulty(8)) for n in range(3))
    headers = np.frombuffer(raw, HEADER)
    blocks.keep(Task(headers, [b"0", b"1", b"2"], np.full(3, BUILT), BUILT), [])
    assert [blocks.draw(holder, 0.0).manifest for holder in "abc"] == [b"0", b"1", b"2"]
    assert blocks.draw("d", 1.0).manifest == b"0"  # all have one holder: the first in order
    assert blocks.draw("e", 1.0).manifest == b"1"
    assert blocks.draw("f", LEASE_SECONDS).manifest == b"2"  # c has had it too long
    blocks.keep(Task(headers[1:], [b"1", b"2"], np.full(2, BUILT), BUILT), [(bytes(32), b"1")])
    assert len(blocks) == 1
    assert blocks.draw("g", 99.0).manifest == b"2"


# -- what is refused ----------------------------------------------------------------------------------


def test_wrong_shares_are_refused_and_counted_for_nothing(chain, connect):
    chain.submit(2, 8)
    client = connect(roll=True)
    job = client.job()
    extranonce2, at, nonce, rolled = client.search(job)
    wrong = next(n for n in range(2**20) if not solves(job.header(extranonce2, at, n, rolled), job.bits))
    assert client.submit(job, extranonce2, at, wrong, rolled)[0] == 23
    assert client.submit(job, extranonce2, BUILT - 1, nonce, rolled)[0] == 20
    assert client.submit(job, extranonce2, job.time + MAX_AHEAD, nonce, rolled)[0] == 20
    assert client.submit(job, extranonce2, at, nonce, 1)[0] == 20  # outside the mask
    assert client.submit(job, b"\0\0\0", at, nonce)[0] == 20
    for params in ([], ["rig"], ["rig", job.id, "zz", "zz", "zz"], ["rig", job.id, 1, 2, 3], [None] * 5):
        assert client.call("mining.submit", *params)[0] == 20
    assert client.call("mining.submit", "who", job.id, "00" * 4, "00" * 4, "00" * 4)[0] == 24
    assert client.call("mining.submit", "rig", "nojob", "00" * 4, "00" * 4, "00" * 4)[0] == 21
    assert client.call("mining.no_such_thing")[0] == 20
    assert chain.engine.outstanding == 2
    assert client.submit(job, extranonce2, at, nonce, rolled) is True
    assert client.submit(job, extranonce2, at, nonce, rolled)[0] == 21  # solved: over
    chain.collect(1)


def test_a_share_counts_once():
    (header,) = np.frombuffer(unmined(bytes(32), b"m", bits_for_difficulty(HARD)), HEADER)
    blocks = Blocks()
    blocks.keep(Task(np.array([header]), [b"m"], np.array([BUILT]), BUILT), [])
    job = Job("1", blocks.draw("a", 0.0), b"\0\0\0\1", 1, 0, BUILT)  # any hash is a share
    from eventchain_stratum.protocol import Refused, Submission

    share = Submission("rig", "1", bytes(4), BUILT, 7, None)
    right = job.check(share, BUILT)
    assert not right.solves
    assert right.extranonce == 1 << 32
    with pytest.raises(Refused) as refused:
        job.check(share, BUILT)
    assert refused.value.code == 22


def test_a_wrong_password_gets_no_work(chain):
    chain.submit(1, 8)
    with Client(chain.port) as stranger:
        assert stranger.login("guess") == (24, "wrong password")
        assert stranger.call("mining.submit", "rig", "1", "00" * 4, "00" * 4, "00" * 4)[0] == 24
        assert not stranger.jobs
        assert stranger.login(PASSWORD) is True
        assert stranger.mine_one() is True
    chain.collect(1)


def test_without_a_password_anything_will_do():
    with served(None) as chain, Client(chain.port) as client:
        chain.submit(1, 8)
        assert client.login("whatever") is True
        assert client.mine_one() is True
        chain.collect(1)


def test_a_miner_must_subscribe_and_authorize(chain):
    chain.submit(1, 8)
    with Client(chain.port) as client:
        assert client.call("mining.submit", "rig", "1", "00" * 4, "00" * 4, "00" * 4)[0] == 25
        assert client.call("mining.authorize", "rig", PASSWORD) is True
        assert client.call("mining.authorize", "", PASSWORD)[0] == 20
        assert client.call("mining.authorize", "rig" * 100, PASSWORD)[0] == 20
        assert client.call("mining.authorize", 5)[0] == 20


def test_version_rolling_is_negotiated(chain):
    with Client(chain.port) as client:
        assert client.call("mining.configure", ["minimum-difficulty", "version-rolling"], {}) == {
            "minimum-difficulty": False,
            "version-rolling": True,
            "version-rolling.mask": "1fffe000",
        }
        narrow = client.call("mining.configure", ["version-rolling"], {"version-rolling.mask": "00ffffff"})
        assert narrow["version-rolling.mask"] == "00ffe000"
        for wrong in ([5], [["version-rolling"], []], [["version-rolling"], {"version-rolling.mask": 3}], []):
            assert client.call("mining.configure", *wrong)[0] == 20


# -- what must not take it down -----------------------------------------------------------------------


def still_mines(chain: Chain) -> None:
    chain.submit(1, 8)
    with Client(chain.port, "good") as client:
        assert client.login(PASSWORD) is True
        assert client.mine_one() is True
    chain.collect(1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
methods = st.sampled_from(["subscribe", "authorize", "configure", "submit", "notify"]).map("mining.{}".format)
requests = st.fixed_dictionaries(
    {"id": json_values, "method": methods | st.text(max_size=9), "params": json_values}
)
lines = st.binary(max_size=200) | (requests | json_values).map(lambda one: json.dumps(one).encode())


def test_no_input_takes_it_down(chain):
    @settings(max_examples=150, deadline=None)
    @given(st.lists(lines, max_size=4), st.booleans(), st.booleans())
    def poke(garbage: list[bytes], logged_in: bool, cut: bool) -> None:
        with Client(chain.port) as client:
            if logged_in:
                assert client.login(PASSWORD) is True
            with suppress(OSError):
                client.send(b"\n".join(garbage) + (b"" if cut else b"\n"))

    poke()
    still_mines(chain)


def test_a_line_without_an_end_is_cut_off(chain):
    with Client(chain.port) as client:
        with suppress(OSError):
            client.send(b"x" * 10 * MAX_LINE)
        with pytest.raises(OSError):  # noqa: PT011  (reset or closed: both are ConnectionErrors)
            client.read()
    with Client(chain.port) as client:
        client.send(b"[" * (MAX_LINE - 100) + b"\n")
        with pytest.raises(ConnectionError):
            client.read()
    still_mines(chain)


def test_strangers_make_room_for_each_other(chain):
    with ExitStack() as stack:
        strangers = [stack.enter_context(Client(chain.port)) for _ in range(3 * MAX_STRANGERS)]
        still_mines(chain)
        with pytest.raises(OSError):  # noqa: PT011
            strangers[0].read()


def test_a_miner_that_does_not_read_is_cut_off(chain, connect):
    """All that the system takes for it is filled by jobs with long manifests."""
    deaf = connect()
    miner = Mining(connect("good"))
    for _ in range(120):  # of 200 KB
        chain.submit(1, 4, length=100_000)
        chain.collect(1)
    miner.stop()
    deaf.socket.settimeout(60)
    with suppress(ConnectionResetError):
        while deaf.socket.recv(2**20):  # until the end; TimeoutError where there is none
            pass
    still_mines(chain)


def test_many_connections(chain, connect):
    chain.submit(200, 8)
    clients = [connect(f"rig{n}") for n in range(150)]
    assert len({client.job().coinbase1 for client in clients}) == 150
    miners = [Mining(client) for client in clients[:3]]
    chain.collect(200)
    for miner in miners:
        miner.stop()


def test_who_sends_more_than_is_allowed_waits():
    allowance, now, lines = Allowance(0.0), 0.0, 0
    while now < 60:  # as fast as it is read
        now += allowance.spend(now)
        lines += 1
    assert BURST + 59 * LINES_A_SECOND < lines < BURST + 61 * LINES_A_SECOND
    for _ in range(10_000):  # shares that are right
        allowance.spend(now)
        allowance.give_back()
    assert allowance.spend(now + 1) == 0


# -- difficulty ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2e4, 5e6, 1e9, 1e14])
def test_shares_come_every_few_seconds(rate):
    """By the clock of the miner: one share each ``work / rate`` seconds, whatever the work is."""
    vardiff, now = Vardiff(0.0), 0.0
    while now < 600:
        step = vardiff.work / rate
        if step > 1.0:  # looked at each second
            now += 1.0
            if now % step < 1.0:
                vardiff.share(vardiff.work)
        else:
            now += step
            vardiff.share(vardiff.work)
        vardiff.adjust(now)
    assert vardiff.work == LEAST_WORK or 1 / 4 <= vardiff.work / (rate * SPACING) <= 4
    assert vardiff.rate(now) == pytest.approx(rate, rel=0.5)


@given(st.floats(0, 200))
def test_difficulties_are_rounded_to_the_easier_side(bits):
    target = target_of(bits_for_difficulty(bits))
    difficulty = difficulty_of(target)
    assert target_at(difficulty) >= target
    assert difficulty < 1 or difficulty == int(difficulty)


def test_the_previous_hash_has_the_order_that_miners_expect():
    """Bitcoin's genesis hash in the order of its bytes, and as pools send it for block 1."""
    genesis = bytes.fromhex("6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000")
    assert prevhash(genesis) == "0a8ce26f72b3f1b646a2a6c14ff763ae65831e939c085ae10019d66800000000"


# -- the engine's side --------------------------------------------------------------------------------


def right_answer() -> tuple[Task, dict[str, Any]]:
    task = Task(
        np.frombuffer(unmined(bytes(range(32)), b"m", bits_for_difficulty(4)), HEADER),
        [b"m"], np.array([BUILT]), BUILT + 5,
    )  # fmt: skip
    header = task.headers.copy()
    header["time"] = BUILT
    header["merkle_root"][0] = np.frombuffer(merkle_root(b"m", 77), np.uint8)
    while not meets_target(header).all():
        header["nonce"] += 1
    return task, {
        "index": np.array([0], np.uint32), "headers": header,
        "extranonces": np.array([77], np.uint64), "hashes": 1, "rate": 1.0,
    }  # fmt: skip


def mined_again(header: np.ndarray) -> np.ndarray:
    while not meets_target(header).all():
        header["nonce"] += 1
    return header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nonce", None),
        ("prev", np.uint8(9)),
        ("bits", bits_for_difficulty(2)),
        ("version", 0x20000001),
        ("version", 0x00000000),
        ("time", 0),
        ("time", BUILT - 1),
        ("time", BUILT + 5 + MAX_AHEAD + 1),
        ("merkle_root", np.uint8(1)),
    ],
)
def test_the_engine_believes_no_miner(field, value):
    task, answer = right_answer()
    assert len(check_sealed(task, Sealed(**answer)).index) == 1
    header = answer["headers"].copy()
    if value is None:
        while meets_target(header).all():
            header["nonce"] += 1
    else:
        header[field] = value
        mined_again(header)
    with pytest.raises(BackendError):
        check_sealed(task, Sealed(**answer | {"headers": header}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": np.array([1], np.uint32)},
        {"index": np.array([0, 0], np.uint32)},
        {"index": np.array([0], np.int64)},
        {"extranonces": np.array([78], np.uint64)},
        {"extranonces": np.array([2**63], np.uint64)},
        {"rate": "fast"},
        {"headers": None},
    ],
)
def test_the_engine_takes_no_other_answer(wrong):
    task, answer = right_answer()
    with pytest.raises(BackendError):
        check_sealed(task, Sealed(**answer | wrong))


class Liar:
    """A miner that says that it solved what it did not."""

    name, width = "liar", 4

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def mine(self, task: Task) -> Sealed:
        headers = task.headers[:1].copy()
        return Sealed(np.zeros(1, np.uint32), headers, np.zeros(1, np.uint64), 1, 1e9)


def test_a_miner_that_lies_is_benched_and_its_blocks_go_to_others():
    reference = open_by_name("reference").devices[0]

    class Other:
        """Does not solve everything before the liar was asked, however late that one's thread is."""

        name = "other"

        def search(self, work: Work) -> Solutions:
            wait_for(lambda: engine.benched)
            return reference.search(work)

    with Engine([Liar(), Other()]) as engine:
        chain = Chain(engine, 0)
        chain.submit(20, 8)
        chain.collect(20)
        assert engine.benched == {
            "liar": "a header's time is before its block was built, or ahead of the clock"
        }


def test_a_miner_and_a_device_share_the_blocks():
    reference = open_by_name("reference").devices[0]
    miner = StratumMiner("127.0.0.1", 0, None)
    with Engine([miner, reference]) as engine:
        chain = Chain(engine, 0)
        chain.submit(300, 6)
        chain.collect(300)
        with Client(port_of(miner)) as client:
            client.login()
            chain.submit(10, 6)
            chain.collect(10)


def test_a_miner_cannot_be_measured():
    with pytest.raises(BackendError, match="cannot be measured"):
        measure(StratumMiner("127.0.0.1", 0, None))


# -- as it is used ------------------------------------------------------------------------------------


def test_configured_wrongly():
    with pytest.raises(BackendError, match="no address to listen on is named"):
        open_backend()
    for listen in ("3333", ":3333", "localhost:", "localhost:65536", "localhost:x"):
        with pytest.raises(ConfigError, match="no address to listen on"):
            open_by_name("stratum", {"listen": listen})
    (device,) = choose("stratum", settings={"listen": "127.0.0.1:0"}).devices
    assert device.name == "stratum on 127.0.0.1:0"
    (device,) = choose("stratum", settings={"listen": "[::1]:0"}).devices
    assert device.name == "stratum on [::1]:0"


def test_an_address_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            Engine([StratumMiner("127.0.0.1", port, None)]) as engine,
            pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1:{port}"),
        ):
            engine.collect(60)


def connected(port: int) -> Client:
    """A miner that has logged in, once the server is there."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(ConnectionError):
            client = Client(port)
            assert client.login(PASSWORD) is True
            return client
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begin(folder: Path, count: int) -> None:
    """A chain with a backlog of so many events, and the password in its configuration."""
    init = ("init", "--difficulty", "10", "--block-events", "5", "--backend", "cpu")
    assert eventchain(folder, *init).returncode == 0
    config = folder / "eventchain.toml"
    config.write_text(config.read_text().replace("[stratum]", f'[stratum]\npassword = "{PASSWORD}"'))
    more(folder, 0, count)


def more(folder: Path, first: int, count: int) -> None:
    events = [
        {"specversion": "1.0", "id": f"{n}", "source": f"/shop/{n}", "type": "sold", "data": n}
        for n in range(first, first + count)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    assert eventchain(folder, "import", "events.jsonl").returncode == 0


def test_the_command_seals_what_arrives(tmp_path):
    begin(tmp_path, 10)
    (port,) = free_ports(1)
    arguments = ["stratum", "--listen", f"127.0.0.1:{port}", "--block-seconds", "0"]
    with subprocess.Popen(
        command_line(*arguments),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        miner = Mining(connected(port))
        try:
            more(tmp_path, 10, 10)
            assert eventchain(tmp_path, "wait", "19").returncode == 0
        finally:
            process.terminate()
            _, log = process.communicate()
        miner.stop()
    assert process.returncode == 0, log
    done = eventchain(tmp_path, "verify")
    assert done.returncode == 0, done.stdout
    assert "20 events" in done.stdout


def test_the_command_says_where_it_cannot_listen(tmp_path):
    """Also while there is nothing to mine."""
    begin(tmp_path, 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        done = eventchain(tmp_path, "stratum", "--listen", taken)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on {taken}" in done.stderr
    done = eventchain(tmp_path, "stratum", "--listen", "nonsense")
    assert done.returncode == 2
    assert "'nonsense' is no address to listen on" in done.stderr
    done = eventchain(tmp_path, "stratum")
    assert done.returncode == 2
    assert "no address to listen on is named" in done.stderr


def test_a_chain_is_mined_also_when_it_is_killed(tmp_path):
    """`eventchain mine` with backend "stratum", killed in the middle; verify is clean in the end."""
    begin(tmp_path, 100)
    (port,) = free_ports(1)
    config = tmp_path / "eventchain.toml"
    config.write_text(
        config.read_text()
        .replace('backend = "cpu"', 'backend = "stratum"')
        .replace("[stratum]", f'[stratum]\nlisten = "127.0.0.1:{port}"')
    )

    def mining() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command_line("mine", "--json"),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    process = mining()
    with connected(port) as client:
        for _ in range(5):
            job = client.job()
            assert client.mine_one() is True
            while client.jobs[-1] is job:
                client.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = mining()
    miner = Mining(connected(port))
    stdout, stderr = process.communicate(timeout=120)
    miner.stop()
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["blocks_unsealed"] == 0
    done = eventchain(tmp_path, "verify")
    assert done.returncode == 0, done.stdout
    assert "verdict: clean" in done.stdout
    assert "100 events" in done.stdout
