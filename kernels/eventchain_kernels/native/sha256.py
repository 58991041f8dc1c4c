"""SHA-256 (FIPS 180-4) described once and emitted as LLVM IR: on vectors of any width, or on x86's own
SHA instructions. Everything is unrolled; what a caller does not use of a result, LLVM drops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I32, external, suffix

QUAD = ir.VectorType(I32, 4)

_PRIMES = [p for p in range(2, 312) if all(p % q for q in range(2, p))]


def _cube_root(n: int) -> int:
    root = 1 << -(-n.bit_length() // 3)
    while (smaller := (2 * root + n // root**2) // 3) < root:  # Newton's method from above
        root = smaller
    return root


INITIAL = [isqrt(p << 64) & 0xFFFFFFFF for p in _PRIMES[:8]]
"""First 32 fraction bits of the square roots of the first 8 primes."""
K = [_cube_root(p << 96) & 0xFFFFFFFF for p in _PRIMES]
"""First 32 fraction bits of the cube roots of the first 64 primes."""


class Lanes:
    """SHA-256's operations on ``lanes`` messages side by side, one 32-bit word of each in a vector."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder = builder
        self.lanes = lanes
        self.type = I32 if lanes == 1 else ir.VectorType(I32, lanes)
        name = f"llvm.fshr.{suffix(self.type)}"
        self._rotate = external(builder.module, name, self.type, [self.type] * 3)

    def constant(self, word: int) -> Any:
        return ir.Constant(self.type, word if self.lanes == 1 else [word] * self.lanes)

    def splat(self, word: Any) -> Any:
        """A scalar in every lane."""
        if self.lanes == 1:
            return word
        undefined = ir.Constant(self.type, ir.Undefined)
        one = self.builder.insert_element(undefined, word, I32(0))
        return self.builder.shuffle_vector(one, undefined, ir.VectorType(I32, self.lanes)([0] * self.lanes))

    def add(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def xor(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.xor(total, term)
        return total

    def rotations(self, x: Any, *by: int) -> Any:
        return self.xor(*(self.builder.call(self._rotate, [x, x, self.constant(n)]) for n in by))

    def shifted(self, x: Any, by: int) -> Any:
        return self.builder.lshr(x, self.constant(by))

    def schedule(self, w: list[Any], t: int) -> Any:
        """Word ``t`` of the message schedule from the sixteen before it."""
        s0 = self.xor(self.rotations(w[t - 15], 7, 18), self.shifted(w[t - 15], 3))
        s1 = self.xor(self.rotations(w[t - 2], 17, 19), self.shifted(w[t - 2], 10))
        return self.add(w[t - 16], w[t - 7], s0, s1)

    def compress(self, state: Sequence[Any], block: Sequence[Any]) -> list[Any]:
        """The compression function: state of 8 words and block of 16 words to the next state."""
        w = list(block)
        a, b, c, d, e, f, g, h = state
        same_ab = self.xor(b, c)
        for t in range(64):
            if t >= 16:
                w.append(self.schedule(w, t))
            choose = self.xor(g, self.builder.and_(e, self.xor(f, g)))
            t1 = self.add(h, self.constant(K[t]), w[t], choose, self.rotations(e, 6, 11, 25))
            ab = self.xor(a, b)  # next round's b ^ c
            majority = self.xor(b, self.builder.and_(ab, same_ab))
            t2 = self.add(self.rotations(a, 2, 13, 22), majority)
            same_ab = ab
            a, b, c, d, e, f, g, h = self.add(t1, t2), a, b, c, self.add(d, t1), e, f, g
        return [self.add(old, new) for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


class ShaExtensions:
    """x86's SHA instructions, one message a register set. State is kept as they want it: two vectors,
    (F, E, B, A) and (H, G, D, C) from the low element up."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        module = builder.module
        self._two_rounds = external(module, "llvm.x86.sha256rnds2", QUAD, [QUAD] * 3)
        self._message1 = external(module, "llvm.x86.sha256msg1", QUAD, [QUAD] * 2)
        self._message2 = external(module, "llvm.x86.sha256msg2", QUAD, [QUAD] * 2)

    def pick(self, x: Any, y: Any, *elements: int) -> Any:
        """A vector of four elements of x (0 to 3) and y (4 to 7)."""
        return self.builder.shuffle_vector(x, y, QUAD(list(elements)))

    def two_rounds(self, abef: Any, cdgh: Any, keyed: Any) -> tuple[Any, Any]:
        """Two rounds with the two low elements of ``keyed`` (schedule word + constant)."""
        return self.builder.call(self._two_rounds, [cdgh, abef, keyed]), abef

    def schedule(self, m: list[Any]) -> Any:
        """The next four words of the message schedule from the four quads before."""
        part = self.builder.call(self._message1, [m[-4], m[-3]])
        part = self.builder.add(part, self.pick(m[-2], m[-1], 1, 2, 3, 4))
        return self.builder.call(self._message2, [part, m[-1]])

    def rounds(
        self, state: tuple[Any, Any], block: Sequence[Any], skip: int = 0
    ) -> Iterator[tuple[Any, Any]]:
        """The state after each pair of rounds, without the final addition; the first ``skip`` pairs are
        already in ``state``. A generator, so that several messages can be emitted in lockstep."""
        m = list(block)
        for quad in range(16):
            if quad >= 4:
                m.append(self.schedule(m))
            keyed = self.builder.add(m[quad], QUAD(K[4 * quad : 4 * quad + 4]))
            for pair in range(2):
                if 2 * quad + pair >= skip:
                    state = self.two_rounds(*state, self.pick(keyed, keyed, 2, 3, 2, 3) if pair else keyed)
                    yield state

    def compress(
        self, states: Sequence[tuple[Any, Any]], blocks: Sequence[Sequence[Any]]
    ) -> list[tuple[Any, Any]]:
        """The compression function on several messages, interleaved: the instructions' latency is long."""
        last: list[tuple[Any, Any]] = []
        for step in zip(*(self.rounds(s, b) for s, b in zip(states, blocks, strict=True)), strict=True):
            last = list(step)
        return [
            (self.builder.add(old[0], new[0]), self.builder.add(old[1], new[1]))
            for old, new in zip(states, last, strict=True)
        ]
