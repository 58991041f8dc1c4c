"""The ``reference`` backend: hashlib in a loop. Slow and obvious; it is the definition of a search."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Sequence

import numpy as np

from eventchain.contracts.backend import NONCES, Device, Solutions, Work
from eventchain.formats.header import ROLL_MASK, ROLL_SHIFT, target_of

SWITCH_SECONDS = 0.0005
"""How long a search keeps the interpreter from a thread that waits for it. Python's own 5 ms are too long
here: who writes a thousand rows to a database lets go of the interpreter, and waits, a thousand times."""


class ReferenceDevice:
    name = "hashlib, one core"

    def search(self, work: Work) -> Solutions:
        found: list[tuple[int, int]] = []
        for index, (header, start) in enumerate(zip(work.headers, work.start.tolist(), strict=True)):
            target = target_of(int(header["bits"]))
            version = int(header["version"]) & ~ROLL_MASK
            middle = header.tobytes()[4:76]
            for counter in range(start, min(start + work.count, work.rolls * NONCES)):
                nonce, roll = divmod(counter, work.rolls)
                raw = struct.pack("<I", version | roll << ROLL_SHIFT) + middle + struct.pack("<I", nonce)
                digest = hashlib.sha256(hashlib.sha256(raw).digest()).digest()
                if int.from_bytes(digest, "little") <= target:
                    found.append((index, counter))
                    break
        return Solutions(
            np.array([index for index, _ in found], np.uint32),
            np.array([counter for _, counter in found], np.uint64),
        )


class ReferenceBackend:
    name = "reference"
    devices: Sequence[Device] = (ReferenceDevice(),)


def open_backend() -> ReferenceBackend:
    sys.setswitchinterval(SWITCH_SECONDS)
    return ReferenceBackend()
