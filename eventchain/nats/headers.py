"""Headers of messages, as they were sent."""

from __future__ import annotations


class Headers(dict[str, str]):
    """As nats-py gives them, and in ``raw`` the bytes that they were sent as. nats-py keeps the last of
    several with one name, and puts U+FFFD for what is not UTF-8."""

    raw: bytes


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
