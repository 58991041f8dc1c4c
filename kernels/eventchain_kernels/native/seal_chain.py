"""Generates ``chain_seals``: the seals of consecutive blocks, each hashed over the one before.

    seal = H(0x02 ‖ previous seal ‖ link ‖ header ‖ u64 extranonce)          153 bytes, three compressions

A seal cannot begin before the one below it is done, so there is nothing to put side by side: what counts is
how long a compression takes, not how many go at once. Everything but the previous seal is known beforehand,
and so are the schedules of the second and third block, which the CPU works out while it waits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I32, I64, Code, external, suffix, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, Lanes, ShaExtensions

ARGUMENTS = ("previous", "links", "headers", "extranonces", "count", "out")
"""Addresses: of the 32 bytes of the seal below the first block; of 32 bytes a block; of 80; of an i64; then
the number of blocks; and the address of 32 bytes a block for their seals."""

LENGTH = 8 * 153
HEADER_SIZE = 80


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "chain_seals", ARGUMENTS)
    previous, links, headers, extranonces, count, out = code.args()
    b = code.builder
    chain = _Quads(code) if sha_extensions else _Words(code)
    seal = [code.variable(part) for part in chain.load(previous, 32)]
    with code.count(count) as (index, _):
        # The message one byte early, without the 0x02 at its front: every part begins with a word.
        known = chain.load(code.at(links, index, 32), 32)
        known += chain.load(code.at(headers, index, HEADER_SIZE), HEADER_SIZE)
        extranonce = code.load(I64, code.at(extranonces, index))
        after = chain.hash([part.get() for part in seal], known, extranonce)
        for variable, part in zip(seal, after, strict=True):
            variable.set(part)
        chain.store(after, code.at(out, index, 32))
    b.ret_void()


class _Words:
    """By words in plain registers."""

    kind: Any = I32

    def __init__(self, code: Code) -> None:
        self._code, self._b = code, code.builder

    def load(self, address: Any, size: int) -> list[Any]:
        """So many bytes as the words of a message."""
        width = 4 * getattr(self.kind, "count", 1)
        places = [self._b.add(address, I64(at)) for at in range(0, size, width)]
        return [swap(self._b, self._code.load(self.kind, place)) for place in places]

    def store(self, words: list[Any], address: Any) -> None:
        width = 32 // len(words)
        for number, word in enumerate(words):
            self._code.store(swap(self._b, word), self._b.add(address, I64(width * number)))

    def hash(self, seal: list[Any], known: list[Any], extranonce: Any) -> list[Any]:
        b = self._b
        numbers = [b.trunc(b.lshr(extranonce, I64(32)), I32), b.trunc(extranonce, I32)]
        early = [I32(0x02), *seal, *known, *numbers, I32(0x80000000)]
        message = [self._behind(*pair) for pair in pairwise(early)]
        message += [I32(0)] * (47 - len(message)) + [I32(LENGTH)]
        sha = Lanes(b, 1)
        state: list[Any] = [I32(word) for word in INITIAL]
        for block in range(0, 48, 16):
            state = sha.compress(state, message[block : block + 16])
        return state

    def _behind(self, before: Any, word: Any) -> Any:
        """The word and the one before it, the last byte of that one first."""
        shift = external(self._code.module, f"llvm.fshr.{suffix(word.type)}", word.type, [word.type] * 3)
        eight = ir.Constant(word.type, [8] * word.type.count if word.type is QUAD else 8)
        return self._b.call(shift, [before, word, eight])


class _Quads(_Words):
    """By four words in a vector, with x86's own instructions."""

    kind = QUAD

    def hash(self, seal: list[Any], known: list[Any], extranonce: Any) -> list[Any]:
        b, sha = self._b, ShaExtensions(self._b)
        halves = [b.trunc(b.lshr(extranonce, I64(32)), I32), b.trunc(extranonce, I32)]
        end: Any = QUAD([0, 0, 0x80000000, 0])
        for number, half in enumerate(halves):
            end = b.insert_element(end, half, I32(number))
        early = [QUAD([0, 0, 0, 0x02]), *seal, *known, end]
        message = [self._behind(sha.pick(x, y, 3, 4, 5, 6), y) for x, y in pairwise(early)]
        message += [QUAD([0] * 4), QUAD([0, 0, 0, LENGTH])]
        state = QUAD([INITIAL[i] for i in (5, 4, 1, 0)]), QUAD([INITIAL[i] for i in (7, 6, 3, 2)])
        for block in range(0, 12, 4):
            (state,) = sha.compress([state], [message[block : block + 4]])
        return [sha.pick(*state, 3, 2, 7, 6), sha.pick(*state, 1, 0, 5, 4)]
