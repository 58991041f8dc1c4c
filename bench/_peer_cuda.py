"""KlausT's ccminer on the same card: its SHA-256d kernel, launched from here.

The kernel is not part of this project. EVENTCHAIN_PEER_CUDA names `cuda_bitcoin.cu` of a checkout of
https://github.com/KlausT/ccminer; NVRTC compiles the part of it that runs on the device.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from eventchain_kernels.native import compress_rows
from eventchain_kernels.native.sha256 import K

VARIABLE = "EVENTCHAIN_PEER_CUDA"
KERNEL = "bitcoin_gpu_hash"
THREADS, NONCES_A_THREAD = 512, 32  # TPB and NONCES_PER_THREAD there
LAUNCH = 2**29
"""Nonces in a launch, at any of the kernel's rates at least a twentieth of a second."""
PRELUDE = """
typedef unsigned int uint32_t;
#define ROTR32(x, n) __funnelshift_r(x, x, n) /* as its cuda_helper.h has it */
"""
MASK = 0xFFFFFFFF


def path() -> Path | None:
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def device_text(source: str) -> str:
    """The kernel alone. Raises ValueError when the file is another."""
    text = source[source.find("#define TPB") : source.find("__host__")]
    numbers = [re.findall(rf"#define {name} (\d+)", text) for name in ("TPB", "NONCES_PER_THREAD")]
    if KERNEL not in text or numbers != [[str(THREADS)], [str(NONCES_A_THREAD)]]:
        raise ValueError(f"{VARIABLE} names another file, or another version of it")
    return PRELUDE + text.replace("__global__", 'extern "C" __global__')


def _rotr(x: int, n: int) -> int:
    return (x >> n | x << 32 - n) & MASK


def _round(state: list[int], kw: int) -> list[int]:
    a, b, c, d, e, f, g, h = state
    t = h + (_rotr(e, 6) ^ _rotr(e, 11) ^ _rotr(e, 25)) + (g ^ e & (f ^ g)) + kw
    u = (_rotr(a, 2) ^ _rotr(a, 13) ^ _rotr(a, 22)) + (a & b | c & (a | b))
    return [(t + u) & MASK, a, b, c, (d + t) & MASK, e, f, g]


def _s0(x: int) -> int:
    return _rotr(x, 7) ^ _rotr(x, 18) ^ x >> 3


def _s1(x: int) -> int:
    return _rotr(x, 17) ^ _rotr(x, 19) ^ x >> 10


def arguments(header: bytes) -> list[int]:
    """The kernel's 21 arguments from `t1c` to `compacttarget` for an 80-byte header, whose nonce is ignored:
    the state after the third round of the second block, what the fourth adds up without the nonce, the
    schedule's constant words and the midstate."""
    midstate = compress_rows(np.frombuffer(header, np.uint8, 64).reshape(1, 64))[0].tolist()
    words = [int.from_bytes(header[i : i + 4], "big") for i in (64, 68, 72)]
    state = midstate
    for constant, word in zip(K, words, strict=False):
        state = _round(state, constant + word)
    f2, g2, h2, _, b2, c2, d2, _ = state
    fourth = _round(state, K[3])  # with a nonce of 0
    t1 = (fourth[4] - midstate[0]) & MASK
    w16 = (words[0] + _s0(words[1])) & MASK
    w17 = (words[1] + _s0(words[2]) + 0x01100000) & MASK
    constant = [w16, (_s1(w16) + words[2]) & MASK, w17, (_s1(w17) + 0x11002000) & MASK]
    return [t1, (fourth[0] - t1) & MASK, *constant, b2, c2, d2, f2, g2, h2, *midstate, words[2]]


class Peer:
    """Compiled on the current device. Raises what CuPy raises."""

    def __init__(self, file: Path) -> None:
        import cupy

        self._cupy = cupy
        self.text = device_text(file.read_text(encoding="utf-8"))
        self._kernel = cupy.RawKernel(self.text, KERNEL)
        self._result = cupy.empty(2, cupy.uint32)

    def launch(self, header: bytes, first: int, nonces: int = LAUNCH) -> None:
        """Starts a search from nonce `first`, as the kernel counts: with its bytes in reverse order."""
        uint32 = self._cupy.uint32
        self._result.fill(uint32(MASK))
        self._kernel(
            (nonces // THREADS // NONCES_A_THREAD,),
            (THREADS,),
            (uint32(nonces), uint32(first), self._result, *map(uint32, arguments(header))),
        )

    def found(self) -> int:
        """The nonce, once the launch is over; 2**32 - 1 for none."""
        return int(self._result.get()[0])

    def registers(self) -> int:
        return int(self._kernel.num_regs)

    def rate(self, header: bytes, seconds: float) -> float:
        """Nonces a second, launches queued back to back and timed by the device."""
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        self.launch(header, 0)
        self._cupy.cuda.get_current_stream().synchronize()
        launches = 1
        while True:
            begin.record()
            for i in range(launches):
                self.launch(header, i * LAUNCH & MASK)
            end.record()
            end.synchronize()
            taken = self._cupy.cuda.get_elapsed_time(begin, end) / 1000
            if taken >= seconds:
                return launches * LAUNCH / taken
            launches = int(launches * 1.2 * seconds / taken) + 1
