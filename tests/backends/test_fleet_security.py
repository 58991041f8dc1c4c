"""The fleet over TLS and with logins, on real NATS servers: as it should be, and everything that is wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import run
from eventchain_fleet.connection import Login
from eventchain_fleet.watch import Watch
from fleet_hosts import WorkerProcess
from nats_logins import Authority, Nkey, Operator
from nats_server import configured

from eventchain.assembly import open_chain
from eventchain.chain.view import ChainView
from eventchain.errors import BackendError
from eventchain.mining.backends import open_backend

PASSWORD = "s3cret/p@ss,word"
USER = "me:s3cret%2Fp%40ss%2Cword"


@dataclass
class World:
    """A folder with all that one needs to log in to servers, and with what does not help.

    logins: URLs, with what is needed in them, by what is at the other end
    """

    folder: Path
    operator: Operator
    logins: dict[str, str]
    secrets: list[str]

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    ca, other = Authority(folder), Authority(folder, "other")
    ca.issue("server")
    ca.issue("expired", days=-1)
    ca.issue("client", "client.example.com")
    ca.issue("locked", "client.example.com", password=b"locked")
    other.issue("stranger", "client.example.com")
    known, unknown = (Nkey().written(folder / f"{name}.seed") for name in ("known", "unknown"))
    (folder / "two.seed").write_text(f"{known.seed.decode()}\n{known.public}\n")
    operator = Operator()
    users = [
        operator.credentials(folder / "known.creds"),
        operator.credentials(folder / "expired.creds", exp=int(time.time()) - 60),
        Operator().credentials(folder / "unknown.creds"),
    ]
    text = (folder / "known.creds").read_text()
    (folder / "windows.creds").write_bytes(text.replace("\n", "\r\n").encode())
    (folder / "half.creds").write_text(text[text.index("-----BEGIN USER NKEY") :])
    certificate = tls(folder, "server")
    configurations = {
        "plain": "max_payload: 1MB\n",
        "password": f'authorization {{ user: me, password: "{PASSWORD}" }}\n',
        "tls": certificate,
        "certificates": tls(folder, "server", verify=True),
        "nkey": f"{certificate} authorization {{ users: [ {{ nkey: {known.public} }} ] }}\n",
        "operator": certificate + operator.configuration,
        "expired": tls(folder, "expired"),
    }
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(configured(folder / name, configuration)).url
            for name, configuration in configurations.items()
        }
        urls |= {
            "tls at localhost": urls["tls"].replace("127.0.0.1", "localhost"),
            "plain over TLS": urls["plain"].replace("nats:", "tls:"),
            "tls as plain": urls["tls"].replace("tls:", "nats:"),
            "password": urls["password"].replace("//", f"//{USER}@"),
            "wrong password": urls["password"].replace("//", f"//{USER}x@"),
            "bare password": urls["password"].replace("//", f"//me:{PASSWORD}@"),
        }
        secrets = [key.seed.decode() for key in (known, unknown, *users)]
        yield World(folder, operator, urls, [*secrets, "s3cret", "p@ss", "p%40ss"])


def tls(folder: Path, name: str, *, verify: bool = False) -> str:
    """In a server's configuration: its certificate, and whether it wants to see the clients'."""
    more = f'ca_file: "{folder}/ca.pem"\n verify: true\n' if verify else ""
    return f'tls {{\n cert_file: "{folder}/{name}.pem"\n key_file: "{folder}/{name}.key"\n {more}}}\n'


# -- as it should be

WAYS = {
    "a private CA": ("tls", {"tls_ca": "ca.pem"}),
    "certificates of both": (
        "certificates",
        {"tls_ca": "ca.pem", "tls_cert": "client.pem", "tls_key": "client.key"},
    ),
    "an nkey over TLS": ("nkey", {"tls_ca": "ca.pem", "nkey": "known.seed"}),
    "credentials over TLS": ("operator", {"tls_ca": "ca.pem", "creds": "known.creds"}),
    "a password": ("password", {}),
}


@dataclass
class Way:
    """A worker, somebody who looks on, and a coordinator that mines a chain."""

    folder: Path
    worker: WorkerProcess
    fleet: subprocess.Popen[str]
    mine: subprocess.Popen[str]


def eventchain(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eventchain", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ways(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    """All at the same time."""
    text = _new_chain(chain := tmp_path_factory.mktemp("chain"))
    workers: dict[str, WorkerProcess] = {}
    ways: dict[str, Way] = {}
    try:
        for name, (server, files) in WAYS.items():
            options = [
                option
                for key, file in files.items()
                for option in (f"--{key.replace('_', '-')}", world.file(file))
            ]
            workers[name] = WorkerProcess(world.logins[server], "--backend", "reference", *options)
        for name, (server, files) in WAYS.items():
            folder = chain.with_name(f"{chain.name} {name}")
            shutil.copytree(chain, folder)
            for file in files.values():  # they lie beside the configuration, which names them so
                shutil.copy(world.folder / file, folder)
            lines = [f'{key} = "{value}"\n' for key, value in {"nats": world.logins[server], **files}.items()]
            (folder / "eventchain.toml").write_text(text.replace("[fleet]\n", "[fleet]\n" + "".join(lines)))
            workers[name].ready()
            ways[name] = Way(
                folder, workers[name], eventchain(folder, "fleet", "--json"), eventchain(folder, "mine")
            )
        yield ways
    finally:
        for way in ways.values():
            for process in (way.fleet, way.mine):
                process.kill()
                process.communicate()
        for worker in workers.values():
            worker.kill()


def _new_chain(folder: Path) -> str:
    """A chain with some events in a folder. Returns its configuration, with the backend ``fleet``."""
    event = {"specversion": "1.0", "source": "/s", "type": "T", "subject": "s"}
    (folder / "events.jsonl").write_text(
        "".join(json.dumps({**event, "id": f"e{number}"}) + "\n" for number in range(20))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("init", "--origin", "example.com/f", "--difficulty", "10", "--backend", "reference")
        run("import", "events.jsonl")
    return (folder / "eventchain.toml").read_text().replace('backend = "reference"', 'backend = "fleet"')


@pytest.mark.parametrize("name", WAYS)
def test_a_worker_mines_for_a_coordinator_and_is_seen(world: World, ways: dict[str, Way], name):
    way = ways[name]
    _, said = way.mine.communicate(timeout=60)
    assert way.mine.returncode == 0, said
    assert "backend fleet: 1 worker at " in said
    facts, _ = way.fleet.communicate(timeout=60)
    for _ in range(10):  # where the machine is busy, it says late that it is there
        if json.loads(facts)["workers"]:
            break
        facts, _ = eventchain(way.folder, "fleet", "--json").communicate(timeout=60)
    assert [row["worker"] for row in json.loads(facts)["workers"]] == [way.worker.said[0]["worker"]]
    with open_chain(way.folder / "eventchain.toml") as chain:
        assert chain.verify().verdict == "clean"
        assert ChainView(chain.store).sealed_height > 0
    said += way.worker.kill()
    assert not any(secret in said + facts for secret in world.secrets)


# -- what is wrong: an exit code, a reason and what to do

NOT_TRUSTED = "certificate is not accepted: unable to get local issuer certificate"
REFUSED = "refuses TLS with us | ends the connection"  # the server's word may be lost on the way
WRONG: dict[str, tuple[str, dict[str, str], str, str]] = {
    "no CA": ("tls", {}, NOT_TRUSTED, "--tls-ca"),
    "no word of TLS": ("tls as plain", {}, NOT_TRUSTED, "--tls-ca"),
    "another CA": ("tls", {"tls-ca": "other.pem"}, NOT_TRUSTED, "--tls-ca"),
    "another host's certificate": (
        "tls at localhost", {"tls-ca": "ca.pem"}, "Hostname mismatch", "a name that stands in the certificate"
    ),
    "an expired certificate": ("expired", {"tls-ca": "ca.pem"}, "certificate has expired", "clock"),
    "no certificate": ("certificates", {"tls-ca": "ca.pem"}, REFUSED, "--tls-cert"),
    "a stranger's certificate": (
        "certificates", {"tls-ca": "ca.pem", "tls-cert": "stranger.pem", "tls-key": "stranger.key"},
        REFUSED, "--tls-cert",
    ),
    "another's key": (
        "certificates", {"tls-ca": "ca.pem", "tls-cert": "client.pem", "tls-key": "server.key"},
        "client.pem and ", "the one of its key",
    ),
    "an encrypted key": (
        "certificates", {"tls-ca": "ca.pem", "tls-cert": "locked.pem", "tls-key": "locked.key"},
        "locked.key", "not encrypted",
    ),
    "a CA that is none": ("tls", {"tls-ca": "known.seed"}, "known.seed: no certificate or crl", "PEM"),
    "a missing CA": ("tls", {"tls-ca": "nowhere"}, "nowhere: no such file", "PEM"),
    "a missing certificate": ("tls", {"tls-cert": "nowhere"}, "nowhere: no such file", "PEM"),
    "a missing seed": ("tls", {"nkey": "nowhere"}, "nowhere cannot be read: No such file", "log in"),
    "missing credentials": ("tls", {"creds": "nowhere"}, "nowhere cannot be read: No such file", "log in"),
    "a folder for a seed": ("tls", {"nkey": "."}, "cannot be read: Is a directory", "log in"),
    "a server without TLS": ("plain over TLS", {}, "the server offers no TLS", "nats://"),
    "a CA and a server without TLS": (
        "plain", {"tls-ca": "ca.pem"}, "the server offers no TLS", "no TLS files"
    ),
    "no login": ("nkey", {"tls-ca": "ca.pem"}, "does not let us in: Authorization Violation", "nkey"),
    "an unknown seed": (
        "nkey", {"tls-ca": "ca.pem", "nkey": "unknown.seed"}, "Authorization Violation", "nkey"
    ),
    "two lines for a seed": ("nkey", {"nkey": "two.seed"}, "two.seed holds no seed", "one line"),
    "an unknown operator's credentials": (
        "operator", {"tls-ca": "ca.pem", "creds": "unknown.creds"}, "Authorization Violation", "JWT"
    ),
    "expired credentials": (
        "operator", {"tls-ca": "ca.pem", "creds": "expired.creds"}, "Authorization Violation", "still hold"
    ),
    "half of credentials": ("operator", {"creds": "half.creds"}, "no credentials file", "a JWT and"),
    "credentials from Windows": ("operator", {"creds": "windows.creds"}, "no credentials file", "Windows"),
    "a wrong password": ("wrong password", {}, "Authorization Violation", "this user"),
    "a password that is not escaped": ("bare password", {}, "no URL of a NATS server", "%XX"),
}  # fmt: skip


def options_of(world: World, server: str, files: dict[str, str]) -> list[str]:
    return ["--nats", world.logins[server], *(
        part for name, file in files.items() for part in (f"--{name}", world.file(file))
    )]  # fmt: skip


def assert_said(world: World, output: str, reason: str, hint: str) -> None:
    (error,) = (line for line in output.splitlines() if line.startswith("error: "))
    (advice,) = (line for line in output.splitlines() if line.startswith("hint: "))
    assert any(one in error for one in reason.split(" | "))
    assert hint in advice
    assert not any(secret in output for secret in world.secrets)


@pytest.mark.parametrize(("server", "files", "reason", "hint"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(world: World, server, files, reason, hint):
    done = run("fleet", *options_of(world, server, files), code=2)
    assert_said(world, done.output, reason, hint)


def test_a_seed_in_place_of_its_file_is_not_shown(world: World):
    seed = (world.folder / "known.seed").read_text().strip()
    done = run("fleet", "--nats", world.logins["nkey"], "--nkey", seed, code=2)
    assert_said(world, done.output, "a seed is given where its file should be", "into a file")


def test_workers_and_coordinators_say_the_same(world: World, ways: dict[str, Way]):
    _, _, reason, hint = WRONG["another CA"]
    options = options_of(world, "tls", {"tls-ca": "other.pem"})
    worker = eventchain(world.folder, "worker", "--backend", "reference", *options)
    folder = ways["a private CA"].folder
    shutil.copy(world.folder / "other.pem", folder / "ca.pem")
    coordinator = eventchain(folder, "mine")
    for process in (worker, coordinator):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "Traceback" not in said
        assert_said(world, said, reason, hint)


# -- while it runs


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "eventchain")
    return caplog


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def connected(login: Login, work: Callable[[Any], Any]) -> None:
    connection = await login.connect("test")
    try:
        await work(connection)
        await connection.flush()
        assert connection.is_connected
    finally:
        await connection.close()


def test_credentials_are_read_again_when_they_expire(world: World, tmp_path, warnings):
    file = tmp_path / "mine.creds"

    async def work(connection: Any) -> None:
        world.operator.credentials(file)
        await until(lambda: "NATS is there again" in warnings.text)
        assert warnings.text.lower().count("expired") == 1
        assert connection.stats["reconnects"] == 1

    for seconds in (5, 60):
        world.operator.credentials(file, exp=int(time.time()) + seconds)
        login = Login(world.logins["operator"], str(file), tls_ca=world.file("ca.pem"))
        try:
            asyncio.run(connected(login, work))
            break
        except BackendError:  # they expired while the machine stood still
            if seconds == 60:
                raise


def test_a_login_that_is_taken_away_may_be_given_back(tmp_path, warnings):
    user, other = Nkey().written(tmp_path / "seed"), Nkey()

    def allowing(who: Nkey) -> str:
        return f"authorization {{ users: [ {{ nkey: {who.public} }} ] }}\n"

    async def work(connection: Any) -> None:
        (tmp_path / "nats.conf").write_text(allowing(other))
        server.reload()
        await until(lambda: "it does not let us in" in warnings.text)
        await asyncio.sleep(1.2)  # two more attempts
        assert warnings.text.count("it does not let us in") == 1
        (tmp_path / "nats.conf").write_text(allowing(user))
        server.reload()
        await until(lambda: "NATS is there again" in warnings.text)

    with configured(tmp_path, allowing(user)) as server:
        asyncio.run(connected(Login(server.url, nkey=str(tmp_path / "seed")), work))


def test_certificates_are_read_again(tmp_path, warnings):
    """All of them renewed by another CA, as when the old one is withdrawn."""

    def issue() -> None:
        ca = Authority(tmp_path)
        ca.issue("server")
        ca.issue("client")

    async def work(connection: Any) -> None:
        server.kill()
        issue()
        await asyncio.to_thread(server.start, server.port)
        await until(lambda: "NATS is there again" in warnings.text)

    issue()
    files = [str(tmp_path / name) for name in ("ca.pem", "client.pem", "client.key")]
    with configured(tmp_path, tls(tmp_path, "server", verify=True)) as server:
        asyncio.run(connected(Login(server.url, None, None, *files), work))


def test_whoever_takes_tls_away_is_told_nothing():
    """Somebody between us and the server, who says that it wants no TLS."""
    told = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"auth_required":true}\r\n'
        )
        told.extend(await reader.read())
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BackendError, match="offers no TLS"):
                await Login(f"tls://{USER}@127.0.0.1:{port}").connect("test")

    asyncio.run(work())
    assert told == b""


# -- permissions


@contextmanager
def allowed(folder: Path, permissions: str) -> Iterator[str]:
    """The URL of a server whose user may do no more than that."""
    user = f"{{ user: me, password: s3cret, permissions: {{ {permissions} }} }}"
    with configured(folder, f"authorization {{ users: [ {user} ] }}\n") as server:
        yield server.url.replace("//", "//me:s3cret@")


def assert_forbidden(said: str, what: str) -> None:
    assert f"not allowed: permissions violation for {what}" in said
    assert "the user's permissions name subjects" in said
    assert "s3cret" not in said


def test_what_a_worker_is_not_allowed_ends_it(tmp_path):
    """As with the name of another host in them."""
    with allowed(tmp_path, 'publish: ["eventchain.fleet.here.workers.another.*"]') as url:
        worker = eventchain(tmp_path, "worker", "--backend", "reference", "--nats", url)
        _, said = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert "Traceback" not in said
    assert_forbidden(said, 'publish to "eventchain.fleet.here.')


def test_what_a_coordinator_is_not_allowed_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("eventchain_fleet.streams.TIMEOUT", 1.0)
    with allowed(tmp_path, 'publish: ["eventchain.>"]') as url, pytest.raises(BackendError) as caught:
        open_backend("fleet", {"nats": url})
    assert_forbidden(str(caught.value), 'publish to "$js.api.stream.info.')


def test_who_may_not_look_on_is_told(tmp_path):
    def look(watch: Watch) -> None:
        while True:
            watch.rows()
            time.sleep(0.02)

    permissions = 'subscribe: ["eventchain.fleet.alive"]'
    with (
        allowed(tmp_path, permissions) as url,
        closing(Watch(Login(url))) as watch,
        pytest.raises(BackendError) as caught,
    ):
        look(watch)
    assert_forbidden(str(caught.value), 'subscription to "eventchain.fleet.here.')
