"""A block's manifest: what the block says, in lines of printable ASCII.

The first three lines are exactly a C2SP tlog-checkpoint body. A manifest that does not print back to its
own bytes is invalid, so there is one spelling for everything that can be said.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import NamedTuple

from eventchain.errors import FormatError
from eventchain.formats.policy import MAX_NUMBER, TOKEN, Policy

MAX_MANIFEST = 64 * 1024

_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*(@([2-9]|[1-9][0-9]{1,17}))?")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_KEYS = (
    "height",
    "leaves",
    "position",
    "late",
    "built",
    "sealed",
    "fork",
    "pin",
    "child",
    "policy",
    "replaces",
)


class Sealed(NamedTuple):
    """The newest sealed block on a block's own path when it was built."""

    height: int
    seal: bytes


class Fork(NamedTuple):
    origin: str
    height: int


class Pointer(NamedTuple):
    """A block of another branch, by its link (``pin`` and ``child`` lines)."""

    origin: str
    height: int
    link: bytes


class Replaced(NamedTuple):
    """The sealed head of the incarnation that this one replaces."""

    origin: str
    height: int
    seal: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """root, leaves: 32 raw bytes; size, height, position, late: counts; built: unix seconds."""

    origin: str
    size: int
    root: bytes
    height: int
    leaves: bytes
    built: int
    position: int | None = None
    late: int = 0
    sealed: Sealed | None = None
    fork: Fork | None = None
    pin: Pointer | None = None
    children: tuple[Pointer, ...] = ()
    policy: Policy | None = None
    replaces: Replaced | None = None

    def __bytes__(self) -> bytes:
        """The one spelling. Raises FormatError for more than 64 KiB (of ``child`` lines)."""
        lines = [self.origin, str(self.size), encode_digest(self.root)]
        lines += [f"height {self.height}", f"leaves {encode_digest(self.leaves)}"]
        if self.position is not None:
            lines.append(f"position {self.position}")
        if self.late:
            lines.append(f"late {self.late}")
        lines.append(f"built {self.built}")
        if self.sealed is not None:
            lines.append(f"sealed {self.sealed.height} {encode_digest(self.sealed.seal)}")
        if self.fork is not None:
            lines.append(f"fork {self.fork.origin} {self.fork.height}")
        if self.pin is not None:
            lines.append("pin " + _pointer_text(self.pin))
        lines += ["child " + _pointer_text(child) for child in self.children]
        if self.policy is not None:
            lines.append(f"policy {self.policy}")
        if self.replaces is not None:
            old = self.replaces
            lines.append(f"replaces {old.origin} {old.height} {encode_digest(old.seal)} {old.reason}")
        raw = ("\n".join(lines) + "\n").encode("ascii")
        if len(raw) > MAX_MANIFEST:
            raise FormatError(f"a manifest of {len(raw)} bytes is longer than 64 KiB")
        return raw

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Raises FormatError, naming the line, for anything that does not print back to the same bytes."""
        if len(raw) > MAX_MANIFEST:
            raise FormatError(f"a manifest of {len(raw)} bytes is longer than 64 KiB")
        try:
            lines = raw.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise FormatError(f"a manifest with a byte that is not ASCII at {error.start}") from None
        if len(lines) < 6 or lines[-1]:
            raise FormatError("a manifest that is cut short")
        values: dict[str, list[str]] = {key: [] for key in _KEYS}
        for line in lines[3:-1]:
            key, _, value = line.partition(" ")
            if key not in values:
                raise FormatError(f"a manifest with the unknown line {line[:80]!r}")
            if values[key] and key != "child":
                raise FormatError(f"a manifest with two lines {key!r}")
            values[key].append(value)
        for key in ("height", "leaves", "built"):
            if not values[key]:
                raise FormatError(f"a manifest without a line {key!r}")
        manifest = cls(
            origin=_origin(lines[0]),
            size=_number(lines[1]),
            root=decode_digest(lines[2]),
            height=_number(values["height"][0]),
            leaves=decode_digest(values["leaves"][0]),
            built=_number(values["built"][0]),
            position=_number(values["position"][0]) if values["position"] else None,
            late=_number(values["late"][0]) if values["late"] else 0,
            sealed=_sealed(values["sealed"][0]) if values["sealed"] else None,
            fork=_fork(values["fork"][0]) if values["fork"] else None,
            pin=_pointer(values["pin"][0]) if values["pin"] else None,
            children=tuple(map(_pointer, values["child"])),
            policy=Policy.parse(values["policy"][0]) if values["policy"] else None,
            replaces=_replaced(values["replaces"][0]) if values["replaces"] else None,
        )
        if bytes(manifest) != raw:
            raise FormatError("a manifest that does not print back to its own bytes")
        origins = [child.origin for child in manifest.children]
        if origins != sorted(set(origins)):
            raise FormatError("a manifest whose children are not sorted by origin, each once")
        if (manifest.position is None) != (manifest.size == 0):
            raise FormatError("a manifest whose position does not fit its size")
        return manifest

    @property
    def checkpoint_body(self) -> bytes:
        """The three lines of a C2SP tlog-checkpoint."""
        return f"{self.origin}\n{self.size}\n{encode_digest(self.root)}\n".encode("ascii")


def check_origin(origin: str) -> str:
    """The origin itself. Raises FormatError for one that a manifest may not carry."""
    return _origin(origin)


def base_origin(origin: str) -> str:
    """The origin without its incarnation: ``a/b@3`` to ``a/b``."""
    return origin.partition("@")[0]


def incarnation_of(origin: str) -> int:
    """``a/b@3`` to 3, ``a/b`` to 1; what is no origin to 1, too."""
    number = origin.partition("@")[2]
    return int(number) if _NUMBER.fullmatch(number) else 1


def next_incarnation(origin: str) -> str:
    """The origin of what replaces this one: ``a/b`` to ``a/b@2``."""
    return f"{base_origin(origin)}@{incarnation_of(origin) + 1}"


def encode_digest(digest: bytes) -> str:
    """RFC 4648 section 4 with padding, of the raw digest."""
    return base64.b64encode(digest).decode("ascii")


def decode_digest(text: str) -> bytes:
    """32 bytes. Raises FormatError for anything but their one base64 spelling."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32 or encode_digest(digest) != text:
        raise FormatError(f"{text[:60]!r} is not a digest in base64")
    return digest


def parse_number(text: str) -> int:
    """A decimal from 0 to 2^63−1 without leading zeros. Raises FormatError."""
    return _number(text)


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > MAX_NUMBER:
        raise FormatError(f"{text[:60]!r} is not a decimal from 0 to 2^63-1")
    return int(text)


def _origin(text: str) -> str:
    parts = text.partition("@")[0].split("/")
    if not _ORIGIN.fullmatch(text) or "tile" in parts or "checkpoint" in parts:
        raise FormatError(
            f"{text[:80]!r} is not an origin",
            hint="lower-case letters, digits, '.', '_' and '-' in parts joined by '/', as example.com/orders",
        )
    return text


def _fields(text: str, count: int) -> list[str]:
    fields = text.split(" ")
    if len(fields) != count or not all(TOKEN.fullmatch(field) for field in fields):
        raise FormatError(f"{text[:80]!r} does not have {count} fields with one space between them")
    return fields


def _sealed(text: str) -> Sealed:
    height, seal = _fields(text, 2)
    return Sealed(_number(height), decode_digest(seal))


def _fork(text: str) -> Fork:
    origin, height = _fields(text, 2)
    return Fork(_origin(origin), _number(height))


def _pointer(text: str) -> Pointer:
    origin, height, link = _fields(text, 3)
    return Pointer(_origin(origin), _number(height), decode_digest(link))


def _pointer_text(pointer: Pointer) -> str:
    return f"{pointer.origin} {pointer.height} {encode_digest(pointer.link)}"


def _replaced(text: str) -> Replaced:
    origin, height, seal, reason = _fields(text, 4)
    return Replaced(_origin(origin), _number(height), decode_digest(seal), reason)
