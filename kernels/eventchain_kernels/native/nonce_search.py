"""Generates ``search_jobs``: tries the nonces of many jobs for a double SHA-256 that meets a target.

A job is laid out as ``eventchain.mining.jobs.JOB``. The hot loop has no branch but its own: it computes
word 7 of the second digest (the most significant of the hash as a little-endian integer) for a whole
vector of nonces and compares once. Whatever depends on the job alone LLVM moves out of the loop: rounds 0
to 2, schedule words 16 and 17 and parts of later ones; what word 7 does not need (rounds 61 to 63, half of
57 to 60) it drops. Only a candidate is hashed again, alone, and compared over all 256 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, Code, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, K, Lanes, ShaExtensions

ARGUMENTS = ("jobs", "n", "stop", "part", "next", "solved", "found")
"""jobs: address of n jobs, each cut into parts of ``part`` nonces; work item k < stop is part k // n of job
k % n; next: address of the i64 counter from which all threads take items; solved: u8 a header, set on a hit,
and jobs of that header are passed over from then on; found: i64 a job, nonce of its hit (not set if none)."""

MIDSTATE, TAIL, TARGET, FIRST, HEADER, COUNT, JOB_SIZE = 0, 32, 44, 76, 80, 88, 96
PADDING, HEADER_BITS, DIGEST_BITS = 0x80000000, 640, 256

WordSeven = Callable[[Any], Any]
"""From the first nonce of a vector (i32) to a bit (i1) a nonce in an integer (i64): the candidates."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    check = _check(module)
    code = Code(module, "search_jobs", ARGUMENTS)
    jobs, n, stop, part, counter, solved, found = code.args()
    b = code.builder
    counter_pointer = b.inttoptr(counter, I64.as_pointer())
    with code.forever() as work:
        k = b.atomic_rmw("add", counter_pointer, I64(1), "monotonic")
        work.leave_unless(code.less(k, stop))
        index = b.urem(k, n)
        job = code.at(jobs, index, JOB_SIZE)
        header = b.zext(code.load(I32, b.add(job, I64(HEADER)), 4), I64)
        mark = b.inttoptr(b.add(solved, header), I8.as_pointer())
        work.next_unless(b.icmp_unsigned("==", b.load_atomic(mark, "monotonic", 1), I8(0)))
        begin = b.mul(b.udiv(k, n), part)
        count = code.load(I64, b.add(job, I64(COUNT)), 8)
        work.next_unless(code.less(begin, count))
        size = code.minimum(part, b.sub(count, begin))
        first = b.add(code.load(I32, b.add(job, I64(FIRST)), 4), b.trunc(begin, I32))
        candidates = (_with_extensions if sha_extensions else _with_vectors)(code, job, lanes)
        with code.count(size, lanes) as (i, nonces):
            nonce = b.add(first, b.trunc(i, I32))
            hits = candidates(nonce)
            nonces.next_unless(b.icmp_unsigned("!=", hits, I64(0)))
            answer = b.call(check, [job, b.zext(nonce, I64), hits, b.sub(size, i)])
            nonces.next_unless(b.icmp_signed(">=", answer, I64(0)))
            code.store(answer, code.at(found, index), 8)
            b.store_atomic(I8(1), mark, "monotonic", 1)
            nonces.leave()
    b.ret_void()


def _with_vectors(code: Code, job: Any, lanes: int) -> WordSeven:
    b = code.builder
    sha = Lanes(b, lanes)
    midstate = [sha.splat(code.load(I32, b.add(job, I64(MIDSTATE + 4 * i)), 4)) for i in range(8)]
    tail = [sha.splat(code.load(I32, b.add(job, I64(TAIL + 4 * i)), 4)) for i in range(3)]
    target = sha.splat(code.load(I32, b.add(job, I64(TARGET + 28)), 4))

    initial = [sha.constant(word) for word in INITIAL]

    def candidates(first: Any) -> Any:
        nonce = swap(b, sha.add(sha.splat(first), sha.type(list(range(lanes)))))
        digest = sha.compress(midstate, second_block(tail, nonce, sha.constant))
        seven = sha.compress(initial, digest_block(digest, sha.constant))[7]
        met = b.icmp_unsigned("<=", swap(b, seven), target)
        return b.zext(b.bitcast(met, ir.IntType(lanes)), I64)

    return candidates


def second_block(tail: list[Any], nonce: Any, word: Callable[[int], Any]) -> list[Any]:
    """The header's last 16 bytes, padded."""
    return [*tail, nonce, word(PADDING), *[word(0)] * 10, word(HEADER_BITS)]


def digest_block(digest: list[Any], word: Callable[[int], Any]) -> list[Any]:
    """A digest to be hashed again, padded."""
    return [*digest, word(PADDING), *[word(0)] * 6, word(DIGEST_BITS)]


def _with_extensions(code: Code, job: Any, lanes: int) -> WordSeven:
    b = code.builder
    sha = ShaExtensions(b)
    midstate = [code.load(I32, b.add(job, I64(MIDSTATE + 4 * i)), 4) for i in range(8)]
    tail = [code.load(I32, b.add(job, I64(TAIL + 4 * i)), 4) for i in range(3)]
    target = code.load(I32, b.add(job, I64(TARGET + 28)), 4)

    def quad(*words: Any) -> Any:
        whole = ir.Constant(QUAD, ir.Undefined)
        for i, word in enumerate(words):
            whole = b.insert_element(whole, word, I32(i))
        return whole

    h = midstate
    before = (quad(h[5], h[4], h[1], h[0]), quad(h[7], h[6], h[3], h[2]))
    initial = (QUAD([INITIAL[i] for i in (5, 4, 1, 0)]), QUAD([INITIAL[i] for i in (7, 6, 3, 2)]))
    words = quad(*tail, I32(0))
    padding = [QUAD([PADDING, 0, 0, 0]), QUAD([0] * 4)]
    rest = [*padding, QUAD([0, 0, 0, HEADER_BITS])]
    # Rounds 0 and 1 do not see the nonce: done once a job.
    ahead = next(sha.rounds(before, [words, *rest]))

    def candidates(first: Any) -> Any:
        firsts = []
        for lane in range(lanes):
            nonce = swap(b, b.add(first, I32(lane)))
            firsts.append([b.insert_element(words, nonce, I32(3)), *rest])
        *_, middle = zip(*(sha.rounds(ahead, block, skip=1) for block in firsts), strict=True)
        seconds = []
        for abef, cdgh in middle:
            abef, cdgh = b.add(before[0], abef), b.add(before[1], cdgh)
            abcd, efgh = sha.pick(abef, cdgh, 3, 2, 7, 6), sha.pick(abef, cdgh, 1, 0, 5, 4)
            seconds.append([abcd, efgh, padding[0], QUAD([0, 0, 0, DIGEST_BITS])])
        # What is E after round 60 is F after round 61, and would be H after the last.
        *_, ahead_61, _ = zip(*(sha.rounds(initial, block) for block in seconds), strict=True)
        hits: Any = I64(0)
        for lane, (abef, _) in enumerate(ahead_61):
            seven = b.add(b.extract_element(abef, I32(0)), I32(INITIAL[7]))
            met = b.icmp_unsigned("<=", swap(b, seven), target)
            hits = b.or_(hits, b.shl(b.zext(met, I64), I64(lane)))
        return hits

    return candidates


def _check(module: ir.Module) -> ir.Function:
    """The first candidate whose whole hash meets the whole target, among those below ``left``; or −1."""
    code = Code(module, "check", ("job", "first", "hits", "left"), I64)
    code.function.linkage = "internal"
    job, first, hits, left = code.args()
    b = code.builder
    compress = _compress(module)
    block, state = code.array(I32, 16), code.array(I32, 8)

    def fill(address: Any, words: list[Any]) -> None:
        for i, word in enumerate(words):
            code.store(word, b.add(address, I64(4 * i)), 4)

    def words_at(address: Any, n: int) -> list[Any]:
        return [code.load(I32, b.add(address, I64(4 * i)), 4) for i in range(n)]

    candidates = code.variable(hits)
    answer = code.variable(I64(-1))
    with code.forever() as loop:
        rest = candidates.get()
        loop.leave_unless(b.icmp_unsigned("!=", rest, I64(0)))
        lane = b.cttz(rest, ir.IntType(1)(1))
        loop.leave_unless(code.less(lane, left))
        candidates.set(b.and_(rest, b.sub(rest, I64(1))))
        nonce = b.add(first, lane)
        fill(state, words_at(b.add(job, I64(MIDSTATE)), 8))
        tail = words_at(b.add(job, I64(TAIL)), 3)
        fill(block, second_block(tail, swap(b, b.trunc(nonce, I32)), I32))
        b.call(compress, [state, block])
        fill(block, digest_block(words_at(state, 8), I32))
        fill(state, [I32(word) for word in INITIAL])
        b.call(compress, [state, block])
        met: Any = ir.IntType(1)(1)
        limits = words_at(b.add(job, I64(TARGET)), 8)
        for word, limit in zip(words_at(state, 8), limits, strict=True):
            mine = swap(b, word)  # from the least significant up: a higher word overrules
            met = b.select(b.icmp_unsigned("==", mine, limit), met, code.less(mine, limit))
        loop.next_unless(met)
        answer.set(nonce)
        loop.leave()
    b.ret(answer.get())
    return code.function


def _compress(module: ir.Module) -> ir.Function:
    """One compression in small code, for what is seldom called: loops over schedule and rounds."""
    code = Code(module, "compress", ("state", "block"))
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    state, block = code.args()
    b = code.builder
    sha = Lanes(b, 1)
    table = ir.GlobalVariable(module, ir.ArrayType(I32, 64), "K")
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(table.value_type, K)
    constants = b.ptrtoint(table, I64)
    w = code.array(I32, 64)
    code.copy(w, block, I64(64))

    with code.count(I64(48)) as (t, _):
        here = code.at(w, t, 4)
        before = [code.load(I32, b.add(here, I64(4 * (16 - distance))), 4) for distance in (16, 15, 7, 2)]
        code.store(sha.schedule(*before), b.add(here, I64(64)), 4)
    before = [code.load(I32, b.add(state, I64(4 * i)), 4) for i in range(8)]
    now = [code.variable(word) for word in before]
    with code.count(I64(64)) as (t, _):
        k, word = (code.load(I32, code.at(base, t, 4), 4) for base in (constants, w))
        for variable, value in zip(now, sha.round([it.get() for it in now], k, word), strict=True):
            variable.set(value)
    for i, (old, new) in enumerate(zip(before, now, strict=True)):
        code.store(b.add(old, new.get()), b.add(state, I64(4 * i)), 4)
    b.ret_void()
    return code.function
