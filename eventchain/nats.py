"""NATS servers: what their URLs say, connecting to them, and the headers of messages as they were sent.

No message shows a user, a password, a token or a seed.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from eventchain.errors import ConfigError

try:
    from nats import errors
    from nats.aio.client import Client as _NatsClient
except ImportError as error:
    raise ConfigError(f"NATS needs a library: {error}", hint="pip install nats-py") from None

WANTED = "it may want a certificate of its own CA: --tls-cert and --tls-key; its log says why"
FORM = "write it as nats://localhost:4222, or tls://; in a password %XX stands for other characters"
_SEED = rb"SU[A-Z2-7]{56}"
_CREDENTIALS = re.compile(
    rb"-----BEGIN NATS USER JWT-----\n[\w.-]+\n-+END NATS USER JWT-+\n.*"
    rb"-----BEGIN USER NKEY SEED-----\n%b\n" % _SEED,
    re.DOTALL,
)
# nats-py does not tell asyncio that a stream goes over TLS; asyncio notes it for every one that ends
logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in str(record.msg))


# -- what URLs and files say --------------------------------------------------------------------------


class ServerURL(NamedTuple):
    """``shown``: the URL without user and password; ``server``: scheme, host and port; ``login``: user and
    password, or a token, as nats-py takes them; ``path``: what stands after the server; ``options``: what
    stands after ``?``; ``secrets``: not to be shown."""

    shown: str
    server: str
    login: dict[str, str]
    path: str
    options: dict[str, str]
    secrets: tuple[str, ...]


def parse_url(url: str, *known: str) -> ServerURL:
    """``nats://user:password@host:port/path?…``, or ``tls://``, with the ``known`` options. Raises
    ConfigError, which says nothing of the URL where it cannot be told what is secret in it."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or url.count("@") > 1 or (url.count("@") and "@" not in parts.netloc):
        raise ConfigError("what is given is no URL of a NATS server", hint=FORM)
    host = parts.netloc.rpartition("@")[2]
    login, secret = {}, parts.password or parts.username or ""
    if parts.password is not None:
        login = {"user": unquote(parts.username or ""), "password": unquote(parts.password)}
    elif parts.username is not None:
        login = {"token": unquote(parts.username)}
    shown = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options.keys() - set(known):
        listed = ", ".join(known) or "none"
        raise ConfigError(f"{shown!r} has an unknown option {name!r}", hint=f"known: {listed}")
    server = f"{parts.scheme}://{host if parts.port else host.rstrip(':') + ':4222'}"
    path = unquote(parts.path.strip("/"))
    return ServerURL(shown, server, login, path, options, (secret, unquote(secret)))


def parse_servers(urls: str) -> list[ServerURL]:
    """Several with commas between them, nothing after the servers, and no more than one login; a comma in a
    password is ``%2C``. Raises ConfigError."""
    found = [parse_url(url.strip()) for url in urls.split(",")]
    for url in found:
        if url.path:
            raise ConfigError(f"{url.shown!r} has a path after the server", hint=FORM)
    if len({tuple(url.login.items()) for url in found if url.login}) > 1:
        raise ConfigError("the URLs of the NATS servers have different logins", hint="a cluster has one")
    return found


def check_seed(file: str) -> None:
    """Raises ConfigError unless the file holds the seed of a user's nkey."""
    if not re.fullmatch(_SEED, _read(file).strip()):
        raise ConfigError(
            f"{file} holds no seed of a user's nkey", hint="one line, which begins with SU: `nk -gen user`"
        )


def check_credentials(file: str) -> None:
    """Raises ConfigError unless the file holds a user's JWT and seed: nats-py looks for them for ever."""
    if not _CREDENTIALS.search(_read(file)):
        raise ConfigError(
            f"{file} is no credentials file of a user",
            hint="it has a JWT and a seed, and no Windows line ends: `nsc generate creds` prints one",
        )


def _read(file: str) -> bytes:
    if re.fullmatch(_SEED, file.encode()):
        raise ConfigError("a seed is given where its file should be", hint="write it into a file, mode 600")
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", hint="it is needed to log in to NATS"
        ) from None


# -- connecting ---------------------------------------------------------------------------------------


def explained(error: BaseException, *urls: ServerURL) -> tuple[str, str]:
    """What a client's error says, for people, and a hint, empty where there is nothing to say."""
    said, hint = _explained(error)
    for secret in filter(None, (secret for url in urls for secret in url.secrets)):
        said = said.replace(secret, "***")
    return f"{', '.join(url.shown for url in urls)}: {said}", hint


def forbids(said: object) -> bool:
    """Whether this says that a login may not publish or subscribe to something."""
    return "permissions violation" in str(said).lower()


def _explained(error: BaseException) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not accepted: {error.verify_message.rstrip('.')}"
        if "mismatch" in said:
            return said, "connect by a name that stands in the certificate"
        if "expired" in said or "not yet valid" in said:
            return said, "renew it, or set the clock of this host"
        return said, "trust its CA: --tls-ca, or tls_ca in [fleet], or the variable SSL_CERT_FILE"
    if isinstance(error, ssl.SSLError):
        said = (error.reason or str(error)).replace("_", " ").lower()
        if "alert" in said:  # what the other side says
            return f"the server refuses TLS with us: {said}", WANTED
        return f"TLS fails: {said}", "does the server speak TLS there?"
    if isinstance(error, ConnectionResetError | BrokenPipeError):  # its alert may be lost on the way
        return "the server ends the connection", WANTED
    if isinstance(error, NoTLSError):
        return str(error), "write nats:// and no TLS files, if it may be in the clear"
    said = str(error).removeprefix("nats: ").strip("'") or "it does not answer"
    if forbids(error):
        return (
            f"not allowed: {said}",
            "the user's permissions name subjects, and in them this host: docs/fleet.md",
        )
    if "authorization violation" in said.lower() or "authentication" in said.lower():
        return (
            f"it does not let us in: {said}",
            "does it know this user, nkey or JWT, and does that still hold?",
        )
    return said, ""


async def connect(url: ServerURL, timeout: float, credentials: str | None = None) -> Any:
    """A client that does not reconnect by itself: who uses it tries again at a pace of his own."""
    if credentials is not None:
        check_credentials(credentials)
    client = Client(url)
    await client.open(
        user_credentials=credentials, connect_timeout=timeout, allow_reconnect=False,
        max_reconnect_attempts=1, error_cb=_ignore,
    )  # fmt: skip
    return client


async def _ignore(error: Exception) -> None:
    """What fails is raised where it was asked for."""


class NoTLSError(errors.Error):  # type: ignore[misc]  # nats-py has no types
    def __str__(self) -> str:
        return "the server offers no TLS"


class Headers(dict[str, str]):
    """As nats-py gives them, and in ``raw`` the bytes that they were sent as. nats-py keeps the last of
    several with one name, and puts U+FFFD for what is not UTF-8."""

    raw: bytes


class Client(_NatsClient):  # type: ignore[misc]  # nats-py has no types
    """nats-py's client of these servers, which have one login. ``prepare`` is called before each login, also
    when it reconnects; it may raise ConfigError, and returns how to set up TLS. Where it does, or one of the
    URLs is ``tls://``, nothing is sent in the clear."""

    def __init__(self, *urls: ServerURL, prepare: Callable[[], ssl.SSLContext | None] = lambda: None) -> None:
        super().__init__()
        self._urls, self._prepare = urls, prepare

    async def open(self, **options: Any) -> None:
        """Connect, with nats-py's options. The login of the URLs goes to servers that are found later too, as
        it does not with nats-py, and with what ``%XX`` stands for."""
        login = next((url.login for url in self._urls if url.login), {})
        await self.connect([url.server for url in self._urls], **login, **options)

    @property
    def has_tried_all(self) -> bool:
        """Every server that is known."""
        return all(server.last_attempt is not None for server in self._server_pool)

    async def _process_connect_init(self) -> None:
        try:
            if (context := self._prepare()) is not None:
                self.options["tls"] = context
            await super()._process_connect_init()
        except BaseException as error:
            # nats-py leaves it open, and closing would wait for an answer where it is TLS
            self._transport._io_writer.transport.abort()
            if isinstance(error, ConfigError):
                raise errors.Error(str(error)) from None  # the kind that does not end its attempts
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py would log in without TLS where the server, or who stands between, asks for none."""
        wanted = "tls" in self.options or any(url.server.startswith("tls:") for url in self._urls)
        if initial_connection and wanted:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTLSError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        """nats-py would close the connection for good, also where a login only expired."""
        if forbids(err_msg):
            await super()._process_err(err_msg)
        else:
            error = errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _process_headers(self, headers: bytes) -> Headers | None:
        if not headers:
            return None
        found = Headers(await super()._process_headers(headers) or {})
        found.raw = bytes(headers)
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Headers | None
    ) -> Any:
        """nats-py loses the connection over a subject that is not UTF-8, which any publisher can send; here
        it has surrogates in it (PEP 383)."""
        message = super()._build_message(sid, b"", reply, data, headers)
        message.subject = subject.decode(errors="surrogateescape")
        return message


def headers_of(raw: bytes) -> dict[str, str] | None:
    """Names and values of a message's block of headers (NATS client protocol, HMSG), without the space
    round values. None where that would not say all of it: a name that occurs twice or is not ASCII, a value
    that is not UTF-8, a line that is none."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found: dict[str, str] = {}
    try:
        for line in lines:
            name, colon, value = line.partition(b":")
            found[name.decode("ascii")] = value.strip().decode()
            if not colon or not name or name != name.strip():
                return None
    except UnicodeDecodeError:
        return None
    return found if first == b"NATS/1.0" and len(found) == len(lines) else None
