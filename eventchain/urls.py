"""URLs of stores, as they may be shown, and addresses to listen on."""

from __future__ import annotations

import re

_MASK = "***"


def without_password(url: str) -> str:
    """The URL with its password masked: for messages, output, whatever somebody else may read. A password
    with characters that should have been escaped is masked as well, with more than itself if need be."""
    scheme, mark, rest = url.partition("://")
    if not mark or rest.startswith("/"):  # a file's
        return url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, colon, after = rest.partition(":")
    if "@" in authority:
        user, colon, _ = authority.rpartition("@")[0].partition(":")
        rest = f"{user}{colon and ':' + _MASK}{rest[len(authority.rpartition('@')[0]) :]}"
    elif colon and "@" in after and len(user) < len(authority) and not re.match(r"\d*(,|/|\?|$)", after):
        rest = f"{user}:{_MASK}@{after.rpartition('@')[2]}"
    return scheme + mark + re.sub(r"([?&](?:ssl)?password=)[^&]*", rf"\1{_MASK}", rest)


def address(listen: str) -> tuple[str, int] | None:
    """Host and port of ``host:port``, ``[::1]:port`` or ``port``, whose host is empty; None for what is no
    address."""
    host, _, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        return None
    return host.strip("[]"), int(port)
