"""URLs of NATS servers, and the login in them."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from eventchain.errors import ConfigError

FORM = "write it as nats://localhost:4222, or tls://; in a password %XX stands for other characters"


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
