"""Wrapping keys: what the keys of subjects are encrypted with where they lie.

    wrapped = nonce (12) ‖ AES-256-GCM(key (32), associated: "eventchain.subject-key/1" ‖ handle) with its tag

A wrapping key is 32 random bytes, in base64, in a file or an environment variable.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eventchain.errors import ConfigError, StoreError

KEY = 32
NONCE = 12
LABEL = b"eventchain.subject-key/1"
FILE, ENV = "file:", "env:"
MAKE = "openssl rand -base64 32"


def aead(key: bytes) -> Any:
    """AES-256-GCM under a key of 32 bytes. Raises ConfigError where the library is missing."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigError(
            "encryption needs the package cryptography", hint='pip install "eventchain[encryption]"'
        ) from error
    return AESGCM(key)


@dataclass(frozen=True)
class WrappingKey:
    """``where`` it came from, for messages; its 32 bytes are not shown."""

    where: str
    key: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """8 bytes that tell wrapping keys apart, and nothing about them."""
        return hashlib.sha256(b"eventchain.wrapping-key/1" + self.key).digest()[:8]

    def wrap(self, handle: bytes, key: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + bytes(self._aead.encrypt(nonce, key, LABEL + handle))

    def unwrap(self, handle: bytes, wrapped: bytes) -> bytes:
        """Raises StoreError for what was not wrapped by this key for this handle."""
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._aead.decrypt(wrapped[:NONCE], wrapped[NONCE:], LABEL + handle))
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                "a key in the key store was altered", hint="restore the key store from a copy"
            ) from error

    @cached_property
    def _aead(self) -> Any:
        return aead(self.key)


def read_wrapping_key(where: str) -> WrappingKey:
    """``file:PATH`` or ``env:NAME``. Raises ConfigError where there is none."""
    name = _name(where)
    if where.startswith(ENV):
        text = os.environ.get(name)
        if text is None:
            raise ConfigError(
                f"the environment has no wrapping key {name}", hint=f"`{MAKE}` prints a new one"
            )
    else:
        try:
            text = Path(name).read_text(encoding="ascii")
        except FileNotFoundError:
            raise ConfigError(
                f"there is no wrapping key {name}", hint="`eventchain keys init` makes a new one"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the wrapping key {name} cannot be read: {error}") from None
    try:
        key = b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY:
        raise ConfigError(
            f"the wrapping key {where} is not {KEY} bytes in base64", hint=f"as `{MAKE}` prints"
        )
    return WrappingKey(where, key)


def wrapping_key_file(where: str) -> Path | None:
    """The file that ``where`` means, None for a variable."""
    return Path(_name(where)) if where.startswith(FILE) else None


def new_wrapping_key() -> str:
    """The text of a new one."""
    return b64encode(os.urandom(KEY)).decode("ascii") + "\n"


def _name(where: str) -> str:
    for scheme in (FILE, ENV):
        if where.startswith(scheme) and len(where) > len(scheme):
            return where[len(scheme) :]
    raise ConfigError(
        f"{where!r} is no place of a wrapping key", hint='as "file:wrapping.key" or "env:WRAPPING_KEY"'
    )
