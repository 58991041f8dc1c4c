"""The service as a process: sealing as events arrive, stopping, standing by, outliving its stores."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from chains import Chain as Files
from chains import Work, new_chain
from click.testing import CliRunner
from oracle import check_chain
from running import Process
from waiting import wait_for

from eventchain.cli import cli
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return new_chain(tmp_path)


def append(files: Files, first: int, count: int) -> None:
    with closing(open_event_store(files.events_url)) as events:
        Work(None, events, None).append(first, count)


def configured(files: Files, more: str = "") -> Path:
    file = files.folder / "eventchain.toml"
    text = 'store = "sqlite:///events.db"\nchain = "sqlite:///chain.db"\n' + more
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def running(files: Files, *arguments: str, config: str = "", forced: bool = True) -> Iterator[Process]:
    with Process(configured(files, config), *arguments, forced=forced).ending() as process:
        yield process


def test_events_are_sealed_as_they_arrive(files):
    with running(files, "--block-seconds", "0.1", forced=False) as service:
        service.says("sealing")
        append(files, 0, 10)
        service.has_sealed(10)
        append(files, 10, 200)  # more than fit a block: closed at once
        service.has_sealed(192)
        service.has_sealed(210)
        assert service.stop() == 0
        assert "stopping" in [line["message"] for line in service.log]
        assert len(service.log) == len(service.text)  # nothing but JSON
    files.check()


def test_a_block_is_closed_when_it_is_full(files):
    """Long before its time is over, and what is left waits."""
    with running(files, "--block-seconds", "100", "--block-events", "20") as service:
        service.says("sealing")
        append(files, 0, 19)
        time.sleep(0.3)
        assert not any(line["message"] == "sealed" and line["position"] for line in service.log)
        append(files, 19, 22)
        service.has_sealed(40)
        service.stop()
    files.check()


def test_a_backlog_is_caught_up_first(files):
    append(files, 0, 3000)
    with running(files) as service:
        service.says("caught up")
        service.has_sealed(3000)
        append(files, 3000, 1)
        service.has_sealed(3001)
        service.stop()
    files.check()


def test_a_standby_takes_over(files):
    with running(files, "--block-seconds", "0") as first, running(files, "--block-seconds", "0") as second:
        leader, standby = first, second
        deadline = time.monotonic() + 60
        while not any(line["message"] == "standby" for line in leader.log + standby.log):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if any(line["message"] == "standby" for line in leader.log):
            leader, standby = standby, leader
        append(files, 0, 5)
        leader.has_sealed(5)
        leader.stop(signal.SIGKILL)
        standby.says("sealing")
        append(files, 5, 5)
        standby.has_sealed(10)
        assert standby.stop(signal.SIGINT) == 0
    files.check()


def test_an_event_store_that_goes_away_is_waited_for(files):
    with running(files, "--block-seconds", "0", "--listen", "0") as service:
        append(files, 0, 5)
        service.has_sealed(5)
        path, aside = files.events_file, files.folder / "aside"
        path.rename(aside)
        service.says("waiting for a store")
        port = service.says("listening")["port"]
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"http://127.0.0.1:{port}/healthz")
        aside.rename(path)
        append(files, 5, 5)
        service.has_sealed(10)
        with urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            assert json.load(answer)["role"] == "sealing"
        service.stop()
    files.check()


def test_metrics(files):
    from prometheus_client.parser import text_string_to_metric_families

    with running(files, "--block-seconds", "0", "--listen", "127.0.0.1:0") as service:
        append(files, 0, 7)
        service.has_sealed(7)
        port = service.says("listening")["port"]
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = {one.name: one for one in text_string_to_metric_families(answer.read().decode())}
        values = {name: one.samples[0].value for name, one in families.items() if one.samples}
        assert values["eventchain_sealed_position"] == 7
        assert values["eventchain_backlog_events"] == 0
        assert values["eventchain_events_sealed"] == 7
        assert values["eventchain_hashes"] > 0
        roles = {one.labels["role"]: one.value for one in families["eventchain_role"].samples}
        assert [role for role, value in roles.items() if value] == ["sealing"]
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{port}/")
        service.stop()


def test_what_an_open_transaction_holds_back_is_shown(tmp_path, postgresql):
    import psycopg

    config = tmp_path / "eventchain.toml"
    options = ["--origin", "a.b/c", "--difficulty", "4", "--backend", "reference", "--store", postgresql]
    assert CliRunner().invoke(cli, ["init", "-C", str(config), *options]).exit_code == 0

    def metric(name: str) -> float:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"eventchain_{name} ")))

    with (
        Process(config, "--block-seconds", "0", "--listen", "0").ending() as service,
        closing(open_event_store(postgresql)) as events,
    ):
        port = service.says("listening")["port"]
        events.append("s", None, [NewEvent("first", "t", b"")])
        service.has_sealed(1)
        with psycopg.connect(postgresql) as writer:
            writer.execute(
                "INSERT INTO events (stream, version, id, type, time) VALUES ('h', 0, 'held', 't', 0)"
            )
            events.append("s", None, [NewEvent("second", "t", b"")])
            wait_for(lambda: metric("fence_age_seconds") > 0 and metric("backlog_seconds") > 0)
            assert metric("backlog_events") == 2
            status = CliRunner().invoke(cli, ["status", "-C", str(config), "--rate", "1M"])
            assert "event store newest at position 3\n" in status.output
            assert "1 open transaction" in status.output
        service.has_sealed(3)
        wait_for(lambda: metric("fence_age_seconds") == metric("backlog_events") == 0)
        assert service.stop() == 0


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_the_pages_on_ipv6(files):
    with running(files, "--listen", "[::1]:0") as service:
        port = service.says("listening")["port"]
        service.says("sealing")
        with urlopen(f"http://[::1]:{port}/healthz") as answer:
            assert json.load(answer)["healthy"]
        service.stop()


def test_killed_at_any_moment(files):
    """Events arrive all the time; ten processes are killed, the last one finishes."""
    done = threading.Event()

    def arrive() -> None:
        for number in range(100):
            append(files, 30 * number, 30)
            time.sleep(0.02)
        done.set()

    writer = threading.Thread(target=arrive)
    writer.start()
    for number in range(10):
        with running(files, "--block-seconds", "0.05") as service:
            service.says("sealing")
            time.sleep(0.03 * number)
            service.stop(signal.SIGKILL)
    with running(files, "--block-seconds", "0.05") as service:
        assert done.wait(120)
        writer.join()
        service.has_sealed(3000)
        service.stop()
    with files.opened() as (store, events):
        check_chain(store, events)  # also: none twice, none missing
    assert files.verify().wrong == []


def test_configured_announcements(files, postgresql):
    import psycopg

    config = f'[announce]\npostgresql = "{postgresql}"\n[run]\nblock_seconds = 0\n'
    with running(files, config=config) as service:
        append(files, 0, 3)
        service.has_sealed(3)
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(postgresql) as connection:
                    rows = connection.execute("SELECT position, size FROM eventchain_watermark").fetchall()
            except psycopg.errors.UndefinedTable:
                rows = []
            if rows == [(3, 3)]:
                break
            assert time.monotonic() < deadline, rows
            time.sleep(0.05)
        service.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "nowhere"], "is not an address"),
        (["--listen", "::1"], "is not an address"),
        (["--backend", "none"], "there is no backend"),
    ],
)
def test_what_cannot_work_is_said_at_once(files, arguments, said):
    service = Process(configured(files), *arguments)
    assert service.ended() == 2
    assert said in "".join(service.text)
