"""What several folders of tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from chains import Chain, grown_chain
from hypothesis import HealthCheck, settings
from nats_server import NatsServer
from postgres import Server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(  # no test fails for a busy machine
    "eventchain", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("eventchain")


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One chain with everything in it. Copy it before you change anything."""
    return grown_chain(tmp_path_factory.mktemp("grown"))


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, started when a test asks for it first."""
    server = Server()
    yield server
    server.close()
