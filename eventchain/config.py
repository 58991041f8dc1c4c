"""The configuration file: which event store, which chain, the anchor of its genesis, and how to mine.

Paths in SQLite URLs are relative to the file's own folder, so a folder with its file can be moved and a
command means the same wherever it is typed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventchain.erasure.retention import Rule, rules
from eventchain.errors import ConfigError
from eventchain.formats.anchor import Anchor
from eventchain.projections.spec import Spec, specs
from eventchain.toml_reader import TomlReader

DEFAULT_FILE = "eventchain.toml"
DEFAULT_BACKEND = "auto"
DEFAULT_BLOCK_SECONDS = 1.0
DEFAULT_SUBJECT = "eventchain.sealed"

_TEMPLATE = """\
# EventChain. Paths in sqlite URLs are relative to this file's folder.

# Where the events are.
store = {store}

# Where the chain that seals them is. Better not in the same hands as the events.
chain = {chain}

# The genesis: `eventchain verify` requires the chain to begin with it. Whoever can edit this file can forge
# the chain's beginning, so keep a copy of this line where the stores' administrators cannot reach.
anchor = {anchor}

[mining]
# auto (the fastest that works here), reference, cpu, opencl, cuda, fleet, stratum or another one;
# --backend and EVENTCHAIN_BACKEND come before it.
backend = {backend}

# Which devices of the backend: indices as "0,2" or a part of the name; all when absent.
# --device and EVENTCHAIN_DEVICE come before it.
{device}

# The percentage of the time that devices work, from 1 to 100; --duty and EVENTCHAIN_DUTY come before it.
# Less than 100 leaves the rest to the database and whatever else the host is for.
duty = {duty}

# Events in a block, at most; --block-events comes before it. The chain's policy may allow fewer.
block_events = {block_events}

[run]
# `eventchain run` closes a block after so many seconds, also one that is not full.
block_seconds = 1.0

# Where it serves /metrics and /healthz.
# listen = "127.0.0.1:9464"

[fleet]
# With backend = "fleet" workers on other hosts mine: docs/fleet.md
# nats = "nats://localhost:4222"
# creds = "coordinator.creds"
# fallback = "cpu"

[stratum]
# `eventchain stratum`, or backend = "stratum": SHA-256d miners mine that connect there: docs/stratum.md
# listen = "0.0.0.0:3333"
# password = "…"

[announce]
# Who is told what is sealed: docs/run.md
# webhook = "https://example.com/sealed"
# nats = "nats://localhost:4222"
# postgresql = "postgresql:///orders"

# The keys that payloads of subjects are encrypted with, and rules of when events are erased: docs/erasure.md
# [encryption]
# keys = "sqlite:///keys.db"
# wrapping_key = "file:wrapping.key"
#
# [retention.visits]
# types = ["PageViewed"]
# older_than = "365 days"

# A projection, whose states are sealed as snapshots: docs/snapshots.md
# [projection.totals]
# use = "sum"
# path = "data.amount"
# every = "10000 events"
"""


@dataclass(frozen=True, slots=True)
class Mining:
    """``device``: see ``eventchain.mining.backends.choose``; ``block_events`` None: as many as the chain's
    policy allows; ``duty``: percentage of the time that devices work, 1 to 100."""

    backend: str = DEFAULT_BACKEND
    device: str | None = None
    block_events: int | None = None
    duty: int = 100


@dataclass(frozen=True, slots=True)
class Run:
    """``eventchain run``. block_seconds: how long an event waits for a block to fill; listen: where /metrics
    and /healthz are served, ``host:port``; nowhere when None."""

    block_seconds: float = DEFAULT_BLOCK_SECONDS
    listen: str | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """Who is told what is sealed, each None for nobody: URLs of a webhook, a NATS server, a PostgreSQL
    database."""

    webhook: str | None = None
    nats: str | None = None
    nats_subject: str = DEFAULT_SUBJECT
    postgresql: str | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Mining on other hosts. nats: URL of a server, or several with commas; creds, nkey: a credentials file,
    or one with an nkey's seed; tls_*: PEM files; groups: of workers that are given work, the usual one when
    None; fallback: the backend that mines here while there is no worker, none when None."""

    nats: str | None = None
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    groups: tuple[str, ...] | None = None
    fallback: str | None = None

    def settings(self) -> dict[str, Any]:
        """What is given, as the backend ``fleet`` takes it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Stratum:
    """Mining by SHA-256d miners that exist. listen: ``host:port`` where they connect; password: what they
    must know, nothing when None."""

    listen: str | None = None
    password: str | None = None

    def settings(self) -> dict[str, Any]:
        """What is given, as the backend ``stratum`` takes it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Encryption:
    """keys: URL of the key store; wrapping_key, old_wrapping_key: ``file:PATH`` or ``env:NAME``; metadata:
    whether that is encrypted too."""

    keys: str
    wrapping_key: str
    old_wrapping_key: str | None = None
    metadata: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """``store`` and ``chain`` are URLs; ``anchor`` is of the genesis; ``retention`` by name, rules of what is
    erased; ``projections`` by name, those that get snapshots."""

    store: str
    chain: str
    anchor: Anchor | None = None
    mining: Mining = field(default_factory=Mining)
    run: Run = field(default_factory=Run)
    announce: Announce = field(default_factory=Announce)
    fleet: Fleet = field(default_factory=Fleet)
    stratum: Stratum = field(default_factory=Stratum)
    encryption: Encryption | None = None
    retention: Mapping[str, Rule] = field(default_factory=dict)
    projections: Mapping[str, Spec] = field(default_factory=dict)

    @property
    def backends(self) -> dict[str, dict[str, Any]]:
        """The settings of the backends that have a table of their own, by name."""
        return {"fleet": self.fleet.settings(), "stratum": self.stratum.settings()}

    @classmethod
    def load(cls, file: str | Path = DEFAULT_FILE) -> Config:
        """Read a file; relative SQLite paths come out absolute. Raises ConfigError naming the line and key
        of whatever is wrong."""
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                f"there is no configuration file {path}",
                hint="`eventchain init` writes one; -C names one elsewhere",
            ) from None
        except IsADirectoryError:
            raise ConfigError(f"{path} is a folder", hint=f"name the file: {path / DEFAULT_FILE}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}", hint="it is a TOML file in UTF-8") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Config:
        """The configuration that ``text``, the content of ``path``, states. Raises ConfigError."""
        reader = TomlReader(text, path, "a new one")
        values = reader.values
        reader.check_keys(values, [*_names(cls)[:-1], "projection"], "")
        mining = reader.take(values, "mining", dict, {})
        reader.check_keys(mining, _names(Mining), "mining")
        run = reader.take(values, "run", dict, {})
        reader.check_keys(run, _names(Run), "run")
        announce = reader.take(values, "announce", dict, {})
        reader.check_keys(announce, _names(Announce), "announce")
        fleet = reader.take(values, "fleet", dict, {})
        reader.check_keys(fleet, _names(Fleet), "fleet")
        stratum = reader.take(values, "stratum", dict, {})
        reader.check_keys(stratum, _names(Stratum), "stratum")
        folder = path.resolve().parent
        return cls(
            store=resolve(reader.take(values, "store", str), folder),
            chain=resolve(reader.take(values, "chain", str), folder),
            anchor=reader.parsed(values, "anchor", Anchor.parse),
            mining=Mining(
                backend=reader.take(mining, "backend", str, DEFAULT_BACKEND),
                device=reader.take(mining, "device", str, None),
                block_events=reader.positive(mining, "block_events"),
                duty=reader.positive(mining, "duty", 100) or 100,
            ),
            run=Run(
                block_seconds=reader.seconds(run, "block_seconds", DEFAULT_BLOCK_SECONDS),
                listen=reader.take(run, "listen", str, None),
            ),
            announce=Announce(
                webhook=reader.take(announce, "webhook", str, None),
                nats=reader.take(announce, "nats", str, None),
                nats_subject=reader.take(announce, "nats_subject", str, DEFAULT_SUBJECT),
                postgresql=reader.take(announce, "postgresql", str, None),
            ),
            fleet=Fleet(
                nats=reader.take(fleet, "nats", str, None),
                creds=reader.file(fleet, "creds", folder),
                nkey=reader.file(fleet, "nkey", folder),
                tls_ca=reader.file(fleet, "tls_ca", folder),
                tls_cert=reader.file(fleet, "tls_cert", folder),
                tls_key=reader.file(fleet, "tls_key", folder),
                groups=reader.names(fleet, "groups"),
                fallback=reader.take(fleet, "fallback", str, None),
            ),
            encryption=_encryption(reader, folder),
            retention=rules(reader, reader.take(values, "retention", dict, {})),
            stratum=Stratum(
                listen=reader.take(stratum, "listen", str, None),
                password=reader.take(stratum, "password", str, None),
            ),
            projections=specs(reader, reader.take(values, "projection", dict, {})),
        )


def resolve(url: str, folder: Path) -> str:
    """The URL with a relative SQLite path (``sqlite:///events.db``, three slashes) made absolute, and with it
    that of a mapping's file. Raises ConfigError for SQLite's name of a database in memory."""
    url = _MAPPING.sub(lambda found: f"{found[1]}{quote(str(folder))}/{found[2]}", url)
    scheme, separator, path = url.partition(":///")
    if separator and scheme.endswith("sqlite") and path.partition("?")[0] == ":memory:":
        raise ConfigError(
            f"{url} would be gone when the command ends", hint="name a file: sqlite:///chain.db"
        )
    if not separator or not scheme.endswith("sqlite") or not path or path.startswith("/"):
        return url
    # SQLAlchemy's reading: % starts an escape, ? the query; everything else may stand as it is.
    return f"{scheme}:///{quote(str(folder), safe=' /' + _PLAIN)}/{path}"


def sqlite_path(url: str) -> Path | None:
    """The file that a ``sqlite:///`` URL means, None for any other URL."""
    from urllib.parse import unquote

    scheme, separator, path = url.partition(":///")
    return Path(unquote(path)) if separator and scheme == "sqlite" and path else None


def render(store: str, chain: str, anchor: Anchor, mining: Mining) -> str:
    """The text of a new configuration file."""
    return _TEMPLATE.format(
        store=_quoted(store),
        chain=_quoted(chain),
        anchor=_quoted(str(anchor)),
        backend=_quoted(mining.backend),
        device='# device = "0"' if mining.device is None else f"device = {_quoted(mining.device)}",
        block_events=mining.block_events,
        duty=mining.duty,
    )


def write_atomically(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Replace the file as a whole, durable on return: a reader sees the old text or the new one. ``private``:
    only its owner may read it, as it holds a password."""
    folder = path.resolve().parent
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        if not private:
            temporary.chmod(0o666 & ~mask)  # mkstemp gives it to its owner alone
        temporary.replace(path.resolve())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# -- reading ------------------------------------------------------------------------------------------

_MAPPING = re.compile(r"(://.*[?&]mapping=)(?!/)([^&]*\.toml)(?=&|$)")
"""The path of a mapping's file; what does not end like one is the name of a preset."""
_PLAIN = "".join(chr(code) for code in range(33, 127) if chr(code) not in "%?#")


def _encryption(reader: TomlReader, folder: Path) -> Encryption | None:
    values = reader.take(reader.values, "encryption", dict, None)
    if values is None:
        return None
    table = "encryption"
    reader.check_keys(values, _names(Encryption), table)

    def place(text: str) -> str:
        scheme, colon, name = text.partition(":")
        if scheme not in ("file", "env") or not name:
            raise ConfigError(
                f"{text!r} is no place of a wrapping key", hint='as "file:wrapping.key" or "env:WRAPPING_KEY"'
            )
        return text if scheme == "env" else f"{scheme}{colon}{folder / name}"

    keys = resolve(reader.take(values, "keys", str, table=table), folder)
    if sqlite_path(keys) is not None and keys in (
        resolve(reader.values[name], folder) for name in ("store", "chain") if name in reader.values
    ):
        raise ConfigError(
            f"{reader.at('keys', table)}: the keys must lie in a file of their own",
            hint="and its copies apart from those of the events",
        )
    wrapping_key = reader.parsed(values, "wrapping_key", place, table)
    return Encryption(
        keys,
        wrapping_key or reader.take(values, "wrapping_key", str, table=table),
        reader.parsed(values, "old_wrapping_key", place, table),
        reader.flag(values, "metadata", table),
    )


def _names(shape: Any) -> list[str]:
    """The keys of a table."""
    return [one.name for one in fields(shape)]


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escape = {'"': '\\"', "\\": "\\\\"}
    return (
        '"'
        + "".join(escape.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in text)
        + '"'
    )
