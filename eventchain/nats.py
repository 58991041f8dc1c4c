"""NATS servers: what their URLs say, connecting to them, and the headers of messages as they were sent.

No message shows a user, a password or a token of a URL.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from eventchain.errors import ConfigError

try:
    from nats.aio.client import Client
except ImportError as error:
    raise ConfigError(f"NATS needs a library: {error}", hint="pip install nats-py") from None

FORM = "write it as nats://localhost:4222; in a password %XX stands for other characters"


class ServerURL(NamedTuple):
    """``shown``: the URL without user and password; ``server``: what is connected to, with them; ``path``:
    what stands after the server; ``options``: what stands after ``?``; ``secrets``: not to be shown."""

    shown: str
    server: str
    path: str
    options: dict[str, str]
    secrets: tuple[str, ...]


def parse_url(url: str, *known: str) -> ServerURL:
    """``nats://user:password@host:port/path?…`` with the ``known`` options. Raises ConfigError, which says
    nothing of the URL where it cannot be told what is secret in it."""
    try:
        parts = urlsplit(url)
        sound = bool(parts.scheme and parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or url.count("@") > 1 or (url.count("@") and "@" not in parts.netloc):
        raise ConfigError("the URL of the NATS server is none", hint=FORM)
    secret = parts.password or parts.username or ""  # a user alone is a token
    host = parts.netloc.rpartition("@")[2]
    shown = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options.keys() - set(known):
        listed = ", ".join(known) or "none"
        raise ConfigError(f"{shown!r} has an unknown option {name!r}", hint=f"known: {listed}")
    server = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    return ServerURL(shown, server, unquote(parts.path.strip("/")), options, (secret, unquote(secret)))


def explained(error: BaseException, url: ServerURL) -> str:
    """What a client's error says, for people."""
    said = str(error) or type(error).__name__
    for secret in filter(None, url.secrets):
        said = said.replace(secret, "***")
    return f"{url.shown}: {said}"


async def connect(url: ServerURL, timeout: float, credentials: str | None = None) -> Any:
    """A client that does not reconnect by itself: who uses it tries again at a pace of his own."""
    client = _Client()
    await client.connect(
        url.server, user_credentials=credentials, connect_timeout=timeout, allow_reconnect=False,
        max_reconnect_attempts=1, error_cb=_ignore,
    )  # fmt: skip
    return client


async def _ignore(error: Exception) -> None:
    """What fails is raised where it was asked for."""


class Headers(dict[str, str]):
    """As nats-py gives them, and in ``raw`` the bytes that they were sent as. nats-py keeps the last of
    several with one name, and puts U+FFFD for what is not UTF-8."""

    raw: bytes


class _Client(Client):  # type: ignore[misc]  # nats-py has no types
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
