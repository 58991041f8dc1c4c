"""What the generated search does once a job, in small code: the midstates of a job's versions, and the whole
hash of a candidate. A job is laid out as ``eventchain.mining.jobs.JOB``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I32, I64, Code, swap
from eventchain_kernels.native.sha256 import INITIAL, K, Lanes

TAIL, TARGET, FIRST, INDEX, ROLL, ROLLS, COUNT, BEGIN, END, SIZE = (
    64, 80, 112, 116, 120, 124, 128, 136, 144, 152,
)  # fmt: skip
ROWS = 16
"""Rows that :func:`prepare` makes, a word a version each."""

ROLL_MASK, ROLL_SHIFT = 0x1FFFE000, 13  # as in eventchain.formats.header
PADDING, HEADER_BITS, DIGEST_BITS = 0x80000000, 640, 256


def second_block(tail: Sequence[Any], nonce: Any, word: Callable[[int], Any]) -> list[Any]:
    """The header's last 16 bytes, padded."""
    return [*tail, nonce, word(PADDING), *[word(0)] * 10, word(HEADER_BITS)]


def digest_block(digest: Sequence[Any], word: Callable[[int], Any]) -> list[Any]:
    """A digest to be hashed again, padded."""
    return [*digest, word(PADDING), *[word(0)] * 6, word(DIGEST_BITS)]


def tail_of(code: Code, job: Any) -> list[Any]:
    """Words 0 to 2 of the header's second block."""
    b = code.builder
    return [swap(b, code.load(I32, b.add(job, I64(TAIL + 4 * i)), 4)) for i in range(3)]


def prepare(module: ir.Module, versions: int) -> ir.Function:
    """A function of a job and a place for the rows: for each version the midstate, then the state after
    round 3 of the second block as it would be with a nonce of zero. The nonce is to be added to a and e,
    the only words that it reaches in that round."""
    code = _small(module, "prepare", ("job", "rows"))
    job, rows = code.args()
    b = code.builder
    sha = Lanes(b, versions)
    size = 4 * versions
    block, state = code.array(sha.type, 16), code.array(sha.type, 8)

    version = sha.splat(b.and_(code.load(I32, job, 4), I32(0xFFFFFFFF ^ ROLL_MASK)))
    roll = sha.splat(code.load(I32, b.add(job, I64(ROLL)), 4))
    if versions > 1:
        roll = sha.add(roll, sha.type(list(range(versions))))
    first = swap(b, b.or_(version, b.shl(roll, sha.constant(ROLL_SHIFT))))
    others = [sha.splat(swap(b, code.load(I32, b.add(job, I64(4 * i)), 4))) for i in range(1, 16)]
    _fill(code, block, [first, *others], size)
    _fill(code, state, [sha.constant(word) for word in INITIAL], size)
    b.call(_compress(module, versions), [state, block])
    midstate = _words(code, sha.type, state, 8, size)
    ahead = midstate
    for k, word in zip(K, [*tail_of(code, job), I32(0)], strict=False):
        ahead = sha.round(ahead, sha.constant(k), sha.splat(word))
    _fill(code, rows, [*midstate, *ahead], size)
    b.ret_void()
    return code.function


def check(module: ir.Module, versions: int) -> ir.Function:
    """A function of a job, its rows, a version, the first nonce of a vector, its candidates as bits, those
    that need no second look, and how many of the nonces are to be tried: the counter of the first candidate
    whose whole hash meets the whole target and that the job asks for; or −1."""
    code = _small(module, "check", ("job", "rows", "version", "first", "hits", "sure", "left"), I64)
    job, rows, version, first, hits, sure, left = code.args()
    b = code.builder
    compress = _compress(module, 1)
    block, state = code.array(I32, 16), code.array(I32, 8)
    midstate = [code.load(I32, code.at(rows, version, 4, 4 * versions * i), 4) for i in range(8)]
    roll, rolls = (b.zext(code.load(I32, b.add(job, I64(at)), 4), I64) for at in (ROLL, ROLLS))
    begin, end = (code.load(I64, b.add(job, I64(at)), 8) for at in (BEGIN, END))
    tail, limits = tail_of(code, job), _words(code, I32, b.add(job, I64(TARGET)), 8, 4)

    candidates = code.variable(hits)
    answer = code.variable(I64(-1))
    with code.forever() as loop:
        rest = candidates.get()
        loop.leave_unless(b.icmp_unsigned("!=", rest, I64(0)))
        lane = b.cttz(rest, ir.IntType(1)(1))
        loop.leave_unless(code.less(lane, left))
        candidates.set(b.and_(rest, b.sub(rest, I64(1))))
        nonce = b.add(first, lane)
        counter = b.add(b.mul(nonce, rolls), b.add(roll, version))
        loop.next_unless(b.icmp_unsigned(">=", counter, begin))
        loop.next_unless(code.less(counter, end))
        answer.set(counter)
        loop.leave_unless(b.icmp_unsigned("==", b.and_(b.lshr(sure, lane), I64(1)), I64(0)))
        answer.set(I64(-1))
        _fill(code, state, midstate, 4)
        _fill(code, block, second_block(tail, swap(b, b.trunc(nonce, I32)), I32), 4)
        b.call(compress, [state, block])
        _fill(code, block, digest_block(_words(code, I32, state, 8, 4), I32), 4)
        _fill(code, state, [I32(word) for word in INITIAL], 4)
        b.call(compress, [state, block])
        met: Any = ir.IntType(1)(1)
        for word, limit in zip(_words(code, I32, state, 8, 4), limits, strict=True):
            mine = swap(b, word)  # from the least significant up: a higher word overrules
            met = b.select(b.icmp_unsigned("==", mine, limit), met, code.less(mine, limit))
        loop.next_unless(met)
        answer.set(counter)
        loop.leave()
    b.ret(answer.get())
    return code.function


def constants(module: ir.Module) -> Any:
    """Address of the round constants in memory, for loops over rounds."""
    table = module.globals.get("K")
    if table is None:
        table = ir.GlobalVariable(module, ir.ArrayType(I32, 64), "K")
        table.global_constant, table.linkage = True, "internal"
        table.initializer = ir.Constant(table.value_type, K)
    return table.ptrtoint(I64)


def _compress(module: ir.Module, lanes: int) -> ir.Function:
    """One compression of ``lanes`` messages side by side, looping over schedule and rounds. A function of
    the addresses of state (8 vectors, replaced) and block (16)."""
    name = f"compress_{lanes}"
    if name in module.globals:
        return module.globals[name]
    code = _small(module, name, ("state", "block"))
    state, block = code.args()
    b = code.builder
    sha = Lanes(b, lanes)
    size = 4 * lanes
    w = code.array(sha.type, 64)
    code.copy(w, block, I64(16 * size))
    with code.count(I64(48)) as (t, _):
        here = code.at(w, t, size)
        before = [code.load(sha.type, b.add(here, I64(size * (16 - back))), size) for back in (16, 15, 7, 2)]
        code.store(sha.schedule(*before), b.add(here, I64(16 * size)), size)
    before = _words(code, sha.type, state, 8, size)
    now = [code.variable(word) for word in before]
    with code.count(I64(64), 8) as (t, _):  # after eight rounds every word is back in its place
        current = [it.get() for it in now]
        for i in range(8):
            k = sha.splat(code.load(I32, code.at(constants(module), t, 4, 4 * i), 4))
            current = sha.round(current, k, code.load(sha.type, code.at(w, t, size, size * i), size))
        for variable, value in zip(now, current, strict=True):
            variable.set(value)
    _fill(code, state, [b.add(old, new.get()) for old, new in zip(before, now, strict=True)], size)
    b.ret_void()
    return code.function


def _small(module: ir.Module, name: str, arguments: Sequence[str], *result: Any) -> Code:
    code = Code(module, name, arguments, *result)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    return code


def _fill(code: Code, address: Any, words: Sequence[Any], size: int) -> None:
    for i, word in enumerate(words):
        code.store(word, code.builder.add(address, I64(size * i)), 4)


def _words(code: Code, kind: Any, address: Any, n: int, size: int) -> list[Any]:
    return [code.load(kind, code.builder.add(address, I64(size * i)), 4) for i in range(n)]
