"""The rate of ccminer's Bitcoin kernel (KlausT's) on a GPU, where EVENTCHAIN_PEER_CUBIN names a cubin of it.

The kernel takes what the host can compute before the nonce: the state after three rounds of the header's
second block, and the parts of its schedule that no nonce changes. Each thread tries 32 nonces.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from eventchain_kernels.native import compress_rows

from eventchain.errors import BackendError

KERNEL = "bitcoin_gpu_hash"
BLOCK, NONCES_A_THREAD = 512, 32
CONSTANTS = (0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5)
GENESIS = bytes.fromhex(
    "01000000" + "00" * 32 + "3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a"
    "29ab5f49ffff001d1dac2b7c"
)
"""Bitcoin's first block: its hash ends in 40 zero bits, and the kernel looks for 32."""


def cubin() -> str | None:
    """The path of the first cubin named that holds the kernel; a line is printed when there is none."""
    for path in filter(None, os.environ.get("EVENTCHAIN_PEER_CUBIN", "").split(os.pathsep)):
        if KERNEL.encode() in Path(path).read_bytes():
            return path
    print(f"ccminer is left out: EVENTCHAIN_PEER_CUBIN names no cubin of {KERNEL}")
    return None


def ccminer_rate(path: str, seconds: float) -> float:
    """In hashes a second, of the current GPU. Raises BackendError when the cubin is not for this GPU, or does
    not find the genesis block's nonce."""
    import cupy

    try:
        kernel = cupy.RawModule(path=path).get_function(KERNEL)
    except cupy.cuda.driver.CUDADriverError as error:
        raise BackendError(f"{path} cannot be used: {error}") from error
    given = arguments(GENESIS)
    result = cupy.full(2, 0xFFFFFFFF, np.uint32)

    def launch(first: int, blocks: int) -> None:
        sizes = np.uint32(blocks * BLOCK), np.uint32(first % 2**32)
        kernel((blocks,), (BLOCK,), (*sizes, result, *given))
        cupy.cuda.get_current_stream().synchronize()

    (nonce,) = struct.unpack(">I", GENESIS[76:])
    launch(nonce - 2**20, 2**21 // (BLOCK * NONCES_A_THREAD))
    if nonce not in result.get():
        raise BackendError(f"{path} does not find a known nonce")
    blocks = 2**14  # 2**28 nonces: some ten milliseconds
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        launch(count, blocks)
        count += blocks * BLOCK * NONCES_A_THREAD
    return count / taken


def arguments(header: bytes) -> list[Any]:
    """What the kernel takes after the number of threads, the first nonce and the result."""
    midstate = compress_rows(np.frombuffer(header, np.uint8, 64).reshape(1, 64))[0].tolist()
    merkle, when, bits = struct.unpack(">3I", header[64:76])
    a, b, c, d, e, f, g, h = midstate
    for constant, word in zip(CONSTANTS, (merkle, when, bits), strict=False):
        t = h + _sigma(e, 6, 11, 25) + (g ^ e & (f ^ g)) + constant + word
        s = _sigma(a, 2, 13, 22) + (a & b | c & (a | b))
        a, b, c, d, e, f, g, h = (t + s) % 2**32, a, b, c, (d + t) % 2**32, e, f, g
    t = h + _sigma(e, 6, 11, 25) + (g ^ e & (f ^ g)) + CONSTANTS[3]
    s = _sigma(a, 2, 13, 22) + (a & b | c & (a | b))
    w16 = (merkle + (_rotated(when, 7) ^ _rotated(when, 18) ^ when >> 3)) % 2**32
    w17 = (when + (_rotated(bits, 7) ^ _rotated(bits, 18) ^ bits >> 3) + 0x01100000) % 2**32
    w18 = (_rotated(w16, 17) ^ _rotated(w16, 19) ^ w16 >> 10) + bits
    w19 = (_rotated(w17, 17) ^ _rotated(w17, 19) ^ w17 >> 10) + 0x11002000
    numbers = (t, s, w16, w18, w17, w19, e, f, g, a, b, c, *midstate, bits)
    return [np.uint32(number % 2**32) for number in numbers]


def _rotated(word: int, by: int) -> int:
    return (word >> by | word << 32 - by) % 2**32


def _sigma(word: int, *by: int) -> int:
    one, two, three = (_rotated(word, each) for each in by)
    return one ^ two ^ three
