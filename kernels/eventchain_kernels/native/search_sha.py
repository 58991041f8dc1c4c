"""The hot code of the search on x86's SHA instructions, a few nonces side by side: the latency of two rounds
is longer than what one of them keeps the unit busy."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I32, I64, Code, swap
from eventchain_kernels.native.search_job import (
    DIGEST_BITS,
    HEADER_BITS,
    PADDING,
    ROWS,
    TARGET,
    tail_of,
)
from eventchain_kernels.native.search_vectors import Hit, Search
from eventchain_kernels.native.sha256 import INITIAL, QUAD, K, ShaExtensions

ABEF, CDGH = (5, 4, 1, 0), (7, 6, 3, 2)  # the words of a state in its two quads, from the low element up


def with_extensions(code: Code, job: Any, rows: Any, lanes: int, versions: int) -> Search:
    """``lanes`` nonces at a time; the job's ``rows`` are those of ``search_job.prepare``."""
    b = code.builder
    sha = ShaExtensions(b)
    target = code.load(I32, b.add(job, I64(TARGET + 28)), 4)
    zero = QUAD([0] * 4)
    padded = [QUAD([PADDING, 0, 0, 0]), zero, QUAD([0, 0, 0, HEADER_BITS])]
    keyed, states = code.array(QUAD, 16 * lanes), code.array(QUAD, 4 * versions)

    def quad(*words: Any) -> Any:
        whole = ir.Constant(QUAD, ir.Undefined)
        for i, word in enumerate(words):
            whole = b.insert_element(whole, word, I32(i))
        return whole

    head = quad(*tail_of(code, job), I32(0))
    initial = QUAD([INITIAL[i] for i in ABEF]), QUAD([INITIAL[i] for i in CDGH])

    # The rows as the instructions want them.
    with code.count(I64(versions)) as (version, _):
        row = [code.load(I32, code.at(rows, version, 4, 4 * versions * i), 4) for i in range(ROWS)]
        here = code.at(states, version, 4 * 16)
        for i, (state, order) in enumerate((s, o) for s in (row[:8], row[8:]) for o in (ABEF, CDGH)):
            code.store(quad(*(state[word] for word in order)), b.add(here, I64(16 * i)), 16)

    def two_words(address: Any) -> Any:
        """A quad of which only the low half counts."""
        low = b.insert_element(
            ir.Constant(ir.VectorType(I64, 2), ir.Undefined), code.load(I64, address, 8), I32(0)
        )
        return b.bitcast(low, QUAD)

    def first_words(lane: int, t: int) -> Any:
        """Of the first block's rounds 2·t and 2·t + 1, constants added."""
        if t >= 8:
            return two_words(b.add(keyed, I64(16 * 16 * lane + 8 * t)))
        words = b.add(padded[t // 2 - 1], QUAD(K[2 * t & ~3 : (2 * t & ~3) + 4]))
        return sha.pick(words, words, 2, 3, 2, 3) if t % 2 else words

    def search(first: Any, hit: Hit) -> None:
        nonces = [swap(b, b.add(first, I32(lane))) for lane in range(lanes)]
        firsts = [[b.insert_element(head, nonce, I32(3)), *padded] for nonce in nonces]
        if versions > 1:
            for lane, m in enumerate(firsts):
                for t in range(4, 16):
                    m.append(sha.schedule(m))
                    place = b.add(keyed, I64(16 * (16 * lane + t)))
                    code.store(b.add(m[t], QUAD(K[4 * t : 4 * t + 4])), place, 16)
        with code.count(I64(versions)) as (version, next_version):
            here = code.at(states, version, 4 * 16)
            *midstate, abef, cdgh = (code.load(QUAD, b.add(here, I64(16 * i)), 16) for i in range(4))
            state = [(b.add(abef, quad(I32(0), nonce, I32(0), nonce)), cdgh) for nonce in nonces]
            if versions > 1:
                for t in range(2, 32):
                    for lane in range(lanes):
                        state[lane] = sha.two_rounds(*state[lane], first_words(lane, t))
            else:
                *_, state = zip(
                    *(sha.rounds(s, m, 2) for s, m in zip(state, firsts, strict=True)), strict=True
                )
            blocks = []
            for abef, cdgh in state:
                abef, cdgh = b.add(midstate[0], abef), b.add(midstate[1], cdgh)
                abcd, efgh = sha.pick(abef, cdgh, 3, 2, 7, 6), sha.pick(abef, cdgh, 1, 0, 5, 4)
                blocks.append([abcd, efgh, padded[0], QUAD([0, 0, 0, DIGEST_BITS])])
            # What is e after round 60 is f after round 61, and would be h after the last.
            *_, after_61, _ = zip(*(sha.rounds(initial, block) for block in blocks), strict=True)
            sevens = [
                swap(b, b.add(b.extract_element(abef, I32(0)), I32(INITIAL[7]))) for abef, _ in after_61
            ]

            def bits(relation: str, sevens: list[Any] = sevens) -> Any:
                every: Any = I64(0)
                for lane, seven in enumerate(sevens):
                    met = b.zext(b.icmp_unsigned(relation, seven, target), I64)
                    every = b.or_(every, b.shl(met, I64(lane)))
                return every

            candidates = bits("<=")
            next_version.next_unless(b.icmp_unsigned("!=", candidates, I64(0)))
            next_version.next_unless(hit(version, candidates, bits("<")))
            next_version.leave()

    return search
