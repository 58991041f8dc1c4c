"""The hot code of the search on vectors of nonces.

What was measured, on a processor whose vector instructions take two clocks: a round's chain of dependent
instructions takes longer than its work, so two vectors are worked on side by side where registers suffice
(``lanes`` is twice a register's, LLVM splits the vectors), and the longer way round (one addition more) that
keeps the chain short is faster. Rounds are in loops, unrolled by 8 (then no word of the state has to move):
unrolled as a whole they outgrow the cache of decoded instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I32, I64, Code, external, swap
from eventchain_kernels.native.search_job import ROWS, TARGET, constants, digest_block, second_block, tail_of
from eventchain_kernels.native.sha256 import INITIAL, K, Lanes

UNROLLED = 8
Hit = Callable[[Any, Any, Any], Any]
"""Emits what is done with candidates, given a version (i64) and the nonces of the vector whose word 7 is at
most the target's, and those where it is less (bits of an i64). Returns whether one of them is a hit (i1)."""
Search = Callable[[Any, Hit], None]
"""Emits the search of a vector of nonces from the first one (i32) on."""


def with_vectors(code: Code, job: Any, rows: Any, lanes: int, versions: int, ternary: bool) -> Search:
    """``lanes`` nonces at a time; the job's ``rows`` are those of ``search_job.prepare``."""
    b = code.builder
    sha = SearchLanes(b, lanes, ternary)
    size = 4 * lanes
    keyed, words = code.array(sha.type, 64), code.array(sha.type, 64)
    target = sha.splat(code.load(I32, b.add(job, I64(TARGET + 28)), 4))
    tail = tail_of(code, job)
    order = sha.type(list(range(lanes)))

    def at(base: Any, t: int) -> Any:
        return b.add(base, I64(size * t))

    def bits(x: Any) -> Any:
        return b.zext(b.bitcast(x, ir.IntType(lanes)), I64)

    def many_rounds(state: list[Any], rounds: int, body: Callable[[list[Any], Any], list[Any]]) -> list[Any]:
        now = [code.variable(word) for word in state]
        with code.count(I64(rounds), UNROLLED) as (t, _):
            for variable, value in zip(now, body([it.get() for it in now], t), strict=True):
                variable.set(value)
        return [it.get() for it in now]

    def second_word_seven(digest: list[Any]) -> Any:
        """Word 7 of the hash of the digest: what is e after round 60 is h after the last."""
        block = digest_block(digest, sha.constant)
        state = [sha.constant(word) for word in INITIAL]
        for t in range(16):
            state = sha.round(state, sha.constant(K[t]), block[t])
            code.store(block[t], at(words, t), size)

        def one(state: list[Any], here: Any, k: Any) -> list[Any]:
            before = [code.load(sha.type, at(here, 16 - back), size) for back in (16, 15, 7, 2)]
            word = sha.schedule(*before)
            code.store(word, at(here, 16), size)
            return sha.round(state, k, word)

        def body(state: list[Any], t: Any) -> list[Any]:
            here, k = code.at(words, t, size), code.at(constants(code.module), t, 4, 4 * 16)
            for i in range(UNROLLED):
                state = one(state, at(here, i), sha.splat(code.load(I32, b.add(k, I64(4 * i)), 4)))
            return state

        state = many_rounds(state, 40, body)
        for t in range(56, 61):
            state = one(state, at(words, t - 16), sha.constant(K[t]))
        return sha.add(state[4], sha.constant(INITIAL[7]))

    def search(first: Any, hit: Hit) -> None:
        nonce = swap(b, sha.add(sha.splat(first), order))
        w = second_block(tail, nonce, I32)
        for t in range(16, 64):
            w.append(sha.mixed_schedule(w[t - 16], w[t - 15], w[t - 7], w[t - 2]))
            code.store(sha.add(sha.wide(w[t]), sha.constant(K[t])), at(keyed, t), size)
        with code.count(I64(versions)) as (version, next_version):
            row = [code.load(I32, code.at(rows, version, 4, 4 * versions * i), 4) for i in range(ROWS)]
            midstate, state = [sha.splat(x) for x in row[:8]], [sha.splat(x) for x in row[8:]]
            state[0], state[4] = sha.add(state[0], nonce), sha.add(state[4], nonce)
            for t in range(4, 16):
                state = sha.round(state, sha.constant(K[t]), sha.wide(w[t]))

            def body(state: list[Any], t: Any) -> list[Any]:
                here = code.at(keyed, t, size, 16 * size)
                for i in range(UNROLLED):
                    state = sha.round(state, code.load(sha.type, at(here, i), size))
                return state

            state = many_rounds(state, 48, body)
            digest = [sha.add(old, new) for old, new in zip(midstate, state, strict=True)]
            seven = swap(b, second_word_seven(digest))
            candidates = bits(b.icmp_unsigned("<=", seven, target))
            next_version.next_unless(b.icmp_unsigned("!=", candidates, I64(0)))
            next_version.next_unless(hit(version, candidates, bits(b.icmp_unsigned("<", seven, target))))
            next_version.leave()

    return search


class SearchLanes(Lanes):
    """SHA-256 as the search wants it; ``ternary``: by AVX-512's logic of three operands."""

    def __init__(self, builder: ir.IRBuilder, lanes: int, ternary: bool) -> None:
        super().__init__(builder, lanes)
        self.ternary = ternary

    def wide(self, x: Any) -> Any:
        """A vector, of a scalar too."""
        return self.splat(x) if _same(x) else x

    def round(self, state: Sequence[Any], *keyed: Any) -> list[Any]:
        """``keyed``: constant and schedule word, or their sum. From one e to the next it is three
        instructions one after the other, for an addition more than there would have to be."""
        a, b, c, d, e, f, g, h = state
        choose = self.xor(g, self.builder.and_(e, self.xor(f, g)))
        e_next = self.add(*keyed, h, d, choose, self.rotations(e, 6, 11, 25))
        rest = self.add(self.majority(a, b, c), self.rotations(a, 2, 13, 22))
        return [self.add(self.builder.sub(rest, d), e_next), a, b, c, e_next, e, f, g]

    def majority(self, a: Any, b: Any, c: Any) -> Any:
        if not self.ternary:
            # b ^ c is the round before's a ^ b: LLVM computes it once
            return self.xor(b, self.builder.and_(self.xor(a, b), self.xor(b, c)))
        # LLVM does not see that it is a single instruction.
        one = ir.VectorType(I32, 16)
        name = "llvm.x86.avx512.pternlog.d.512"
        function = external(self.builder.module, name, one, [one, one, one, I32])
        undefined = ir.Constant(self.type, ir.Undefined)
        halves = []
        for at in range(0, self.lanes, 16):
            half = ir.VectorType(I32, 16)(list(range(at, at + 16)))
            operands = [self.builder.shuffle_vector(x, undefined, half) for x in (a, b, c)]
            halves.append(self.builder.call(function, [*operands, I32(0b11101000)]))
        return self.builder.shuffle_vector(*halves, self.type(list(range(self.lanes))))

    def mixed_schedule(self, w16: Any, w15: Any, w7: Any, w2: Any) -> Any:
        """A word of the schedule as ``schedule`` gives it, of scalars and vectors: what is the same in all
        lanes is computed once, and LLVM moves it out of loops."""
        one = Lanes(self.builder, 1)
        x, y = (one if _same(word) else self for word in (w15, w2))
        terms = [
            w16,
            x.xor(x.rotations(w15, 7, 18), x.shifted(w15, 3)),
            w7,
            y.xor(y.rotations(w2, 17, 19), y.shifted(w2, 10)),
        ]
        vectors = [term for term in terms if not _same(term)]
        scalars = [term for term in terms if _same(term)]
        if not vectors:
            return one.add(*scalars)
        return self.add(*([self.splat(one.add(*scalars))] if scalars else []), *vectors)


def _same(x: Any) -> bool:
    """A scalar: the same in all lanes."""
    return isinstance(x.type, ir.IntType)
