"""Stratum v1 as miners speak it: lines of JSON, one object each.

Sources: the protocol's description by Slush Pool (2012), BIP 310 for ``mining.configure``, and what pooler's
cpuminer reads and writes. Numbers of the header travel as eight hexadecimal digits, the most significant
first. The previous hash travels with the bytes of each of its eight words reversed; it is the one oddity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from eventchain.errors import FormatError
from eventchain.formats.header import ROLL_MASK

MAX_LINE = 4096
"""Bytes of a line from a miner; a submission has about 150."""
MAX_NAME = 128
"""Characters of a worker's name."""
EXTRANONCE1_SIZE = EXTRANONCE2_SIZE = 4
"""Bytes: together the eight of a block's extranonce, the first of them below 2^31."""

OTHER, STALE, DUPLICATE, LOW_DIFFICULTY, UNAUTHORIZED, NOT_SUBSCRIBED = range(20, 26)
"""Stratum's codes of refusals."""


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Request(msgspec.Struct):
    method: str
    id: int | str | None = None
    params: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A share. ``version``: the version bits that were rolled, None from a miner that rolls none."""

    worker: str
    job: str
    extranonce2: bytes
    time: int
    nonce: int
    version: int | None


_request = msgspec.json.Decoder(Request)
_encode = msgspec.json.Encoder().encode


def request(line: bytes) -> Request:
    """Raises FormatError for anything that is not a request."""
    try:
        return _request.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a request: {error}") from None


def answer(id: int | str | None, result: Any) -> bytes:
    return _encode({"id": id, "result": result, "error": None}) + b"\n"


def refusal(id: int | str | None, refused: Refused) -> bytes:
    return _encode({"id": id, "result": None, "error": [refused.code, refused.reason, None]}) + b"\n"


def notification(method: str, params: list[Any]) -> bytes:
    return _encode({"id": None, "method": method, "params": params}) + b"\n"


def prevhash(prev: bytes) -> str:
    """The bytes of each of its eight words reversed, in hexadecimal."""
    return np.frombuffer(prev, "<u4").astype(">u4").tobytes().hex()


def login(params: list[Any]) -> tuple[str, str]:
    """Worker and password of ``mining.authorize``. Raises Refused."""
    worker = params[0] if params else None
    password = params[1] if len(params) > 1 else ""
    if not isinstance(worker, str) or not isinstance(password, str | None) or not 0 < len(worker) <= MAX_NAME:
        raise Refused(OTHER, "authorize with a worker's name and a password")
    return worker, password or ""


def submission(params: list[Any]) -> Submission:
    """``mining.submit``. Raises Refused."""
    if len(params) not in (5, 6) or not all(isinstance(one, str) for one in params):
        raise Refused(OTHER, "submit worker, job, extranonce2, time, nonce and perhaps version bits")
    worker, job, extranonce2, time, nonce, *version = params
    return Submission(
        worker,
        job,
        _digits(extranonce2, "extranonce2").to_bytes(EXTRANONCE2_SIZE, "big"),
        _digits(time, "time"),
        _digits(nonce, "nonce"),
        _digits(version[0], "version bits") if version else None,
    )


def _digits(text: str, what: str) -> int:
    if not re.fullmatch("[0-9a-fA-F]{8}", text):
        raise Refused(OTHER, f"{what}: eight hexadecimal digits")
    return int(text, 16)


def configured(params: list[Any]) -> tuple[dict[str, Any], int | None]:
    """The answer to ``mining.configure`` (BIP 310), and the mask of the version bits that the miner may roll
    from now on, None where it did not ask. Raises Refused."""
    extensions = params[0] if params else None
    options = params[1] if len(params) > 1 else {}
    if not isinstance(extensions, list) or not isinstance(options, dict):
        raise Refused(OTHER, "configure with a list of extensions and their options")
    answered: dict[str, Any] = {one: False for one in extensions if isinstance(one, str)}
    if "version-rolling" not in answered:
        return answered, None
    wanted = options.get("version-rolling.mask", "ffffffff")
    if not isinstance(wanted, str):
        raise Refused(OTHER, "version-rolling.mask: eight hexadecimal digits")
    mask = _digits(wanted, "version-rolling.mask") & ROLL_MASK
    return answered | {"version-rolling": True, "version-rolling.mask": f"{mask:08x}"}, mask
