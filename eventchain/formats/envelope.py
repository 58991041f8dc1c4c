"""An encrypted payload: what stands in ``data`` or ``metadata`` of an event that belongs to a subject.

    envelope   = magic (8) ‖ handle (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)
    magic      = ff 45 56 43 53 55 42 01                        ("EVCSUB" and the version)
    associated = magic ‖ handle ‖ field(stream) ‖ field(id) ‖ field(type) ‖ field(column)
    field(x)   = u32(length of x) ‖ x

AES-256-GCM (NIST SP 800-38D) under the key of the subject whom the handle stands for. The handle is random
and means something only in the key store. What is associated is authenticated with the payload, so that no
ciphertext can be put into another event or column. The first byte begins no text in UTF-8.
"""

from __future__ import annotations

from typing import NamedTuple

from eventchain.errors import FormatError

MARK = b"\xffEVCSUB"
VERSION = 1
MAGIC = MARK + bytes([VERSION])
HANDLE = 16
NONCE = 12
TAG = 16
SHORTEST = len(MAGIC) + HANDLE + NONCE + TAG


class Envelope(NamedTuple):
    """handle: 16 bytes; nonce: 12 bytes; ciphertext: with its tag, 16 bytes longer than the payload."""

    handle: bytes
    nonce: bytes
    ciphertext: bytes

    def __bytes__(self) -> bytes:
        return MAGIC + self.handle + self.nonce + self.ciphertext

    @classmethod
    def parse(cls, raw: bytes) -> Envelope:
        """Raises FormatError for what is no envelope, or one of another version."""
        if not is_envelope(raw):
            raise FormatError("a payload that is not encrypted")
        if not raw.startswith(MAGIC) and len(raw) > len(MARK):
            raise FormatError(
                "a payload that is encrypted in a way that is not known", hint="by a newer EventChain?"
            )
        if len(raw) < SHORTEST:
            raise FormatError("an encrypted payload that is cut off")
        return cls(raw[8:24], raw[24:36], raw[36:])


def is_envelope(raw: bytes) -> bool:
    """Whether a payload is encrypted, in whatever version."""
    return raw.startswith(MARK)


def associated(handle: bytes, stream: bytes, event_id: bytes, type_: bytes, column: str) -> bytes:
    """What is authenticated beside the payload: text as UTF-8, ``column`` is ``data`` or ``metadata``."""
    fields = (stream, event_id, type_, column.encode())
    return MAGIC + handle + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
