"""SHA-256 (FIPS 180-4) described once and emitted as LLVM IR: on vectors of any width, or on x86's own
SHA instructions. What a caller does not use of a result, LLVM drops."""

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

    def schedule(self, w16: Any, w15: Any, w7: Any, w2: Any) -> Any:
        """A word of the message schedule from those 16, 15, 7 and 2 places before it."""
        s0 = self.xor(self.rotations(w15, 7, 18), self.shifted(w15, 3))
        s1 = self.xor(self.rotations(w2, 17, 19), self.shifted(w2, 10))
        return self.add(w16, w7, s0, s1)

    def round(self, state: Sequence[Any], k: Any, w: Any) -> list[Any]:
        a, b, c, d, e, f, g, h = state
        choose = self.xor(g, self.builder.and_(e, self.xor(f, g)))
        t1 = self.add(h, k, w, choose, self.rotations(e, 6, 11, 25))
        # b ^ c is the round before's a ^ b: LLVM computes it once
        majority = self.xor(b, self.builder.and_(self.xor(a, b), self.xor(b, c)))
        t2 = self.add(self.rotations(a, 2, 13, 22), majority)
        return [self.add(t1, t2), a, b, c, self.add(d, t1), e, f, g]

    def compress(self, state: Sequence[Any], block: Sequence[Any]) -> list[Any]:
        """The compression function: state of 8 words and block of 16 words to the next state. Unrolled."""
        w = list(block)
        now = list(state)
        for t in range(64):
            if t >= 16:
                w.append(self.schedule(w[t - 16], w[t - 15], w[t - 7], w[t - 2]))
            now = self.round(now, self.constant(K[t]), w[t])
        return [self.add(old, new) for old, new in zip(state, now, strict=True)]


State = tuple[Any, Any]
"""As x86's instructions want it: two vectors, (F, E, B, A) and (H, G, D, C) from the low element up."""


class ShaExtensions:
    """SHA-256 by x86's own instructions."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        module = builder.module
        self._two_rounds = external(module, "llvm.x86.sha256rnds2", QUAD, [QUAD] * 3)
        self._message1 = external(module, "llvm.x86.sha256msg1", QUAD, [QUAD] * 2)
        self._message2 = external(module, "llvm.x86.sha256msg2", QUAD, [QUAD] * 2)

    def pick(self, x: Any, y: Any, *elements: int) -> Any:
        """A vector of four elements of x (0 to 3) and y (4 to 7)."""
        return self.builder.shuffle_vector(x, y, QUAD(list(elements)))

    def two_rounds(self, abef: Any, cdgh: Any, keyed: Any) -> State:
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

    def compress(self, states: Sequence[State], blocks: Sequence[Sequence[Any]]) -> list[State]:
        """The compression function on several messages, interleaved: the instructions' latency is long."""
        *_, last = zip(*(self.rounds(s, b) for s, b in zip(states, blocks, strict=True)), strict=True)
        return [
            (self.builder.add(old[0], new[0]), self.builder.add(old[1], new[1]))
            for old, new in zip(states, last, strict=True)
        ]
