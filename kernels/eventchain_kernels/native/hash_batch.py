"""Generates ``hash_spans``: SHA-256 of many messages of any lengths, several at a time.

Each lane works on one message and takes the next one when it has finished, so that lanes stay busy
whatever the lengths are. Blocks that lie wholly in the data are read where they are; those that touch the
prefix or the padding are put together in the lane's own buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, VOID, Code, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, Lanes, ShaExtensions

ARGUMENTS = ("data", "offsets", "first", "stop", "prefix", "prefix_length", "padded", "out")
"""data: address of the bytes; offsets: of i64; first, stop: messages; prefix and its length; padded: 1, or 0
to leave padding out (messages are whole blocks); out: address of 32 bytes a message, indexed like offsets."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_spans", ARGUMENTS)
    data, offsets, first, stop, prefix, prefix_length, padded, out = code.args()
    b = code.builder
    item, position, length, end, source, block = (code.array(I64, lanes) for _ in range(6))
    buffers = code.array(I8, 64 * lanes)
    state = code.array(I32, 8 * lanes)
    compress, place = (_with_extensions if sha_extensions else _with_vectors)(code, lanes, state, block)
    take = _take(module)

    nothing = I64(-1)
    following = code.variable(first)
    live = code.variable(I64(lanes))

    def refill(lane: Any) -> None:
        mine = following.get()
        with b.if_else(code.less(mine, stop)) as (some, none):
            with some:
                following.set(b.add(mine, I64(1)))
                begin = code.load(I64, code.at(offsets, mine))
                size = b.sub(code.load(I64, code.at(offsets, b.add(mine, I64(1)))), begin)
                total = b.add(size, prefix_length)
                whole = b.and_(b.add(total, I64(9 + 63)), I64(-64))
                code.store(mine, code.at(item, lane))
                code.store(I64(0), code.at(position, lane))
                code.store(total, code.at(length, lane))
                code.store(b.select(b.icmp_unsigned("==", padded, I64(0)), total, whole), code.at(end, lane))
                code.store(b.sub(b.add(data, begin), prefix_length), code.at(source, lane))
                for word, value in enumerate(INITIAL):
                    code.store(I32(value), code.at(state, place(lane, word), 4))
            with none:  # this lane has nothing more to do and works on its buffer, unheeded
                code.store(nothing, code.at(item, lane))
                code.store(code.at(buffers, lane, 64), code.at(block, lane))
                live.set(b.sub(live.get(), I64(1)))

    with code.count(I64(lanes)) as (lane, _):
        refill(lane)
    with code.forever() as work:
        work.leave_unless(code.less(I64(0), live.get()))
        with code.count(I64(lanes)) as (lane, loop):
            loop.next_unless(b.icmp_signed("!=", code.load(I64, code.at(item, lane)), nothing))
            here = code.load(I64, code.at(position, lane))
            total = code.load(I64, code.at(length, lane))
            base = code.load(I64, code.at(source, lane))
            inside = b.and_(
                b.icmp_unsigned(">=", here, prefix_length),
                b.icmp_unsigned("<=", b.add(here, I64(64)), total),
            )
            with b.if_else(inside) as (direct, staged):
                with direct:
                    code.store(b.add(base, here), code.at(block, lane))
                with staged:
                    buffer = code.at(buffers, lane, 64)
                    code.store(buffer, code.at(block, lane))
                    last = code.load(I64, code.at(end, lane))
                    b.call(take, [buffer, here, total, last, prefix, prefix_length, base])
        compress()
        with code.count(I64(lanes)) as (lane, loop):
            mine = code.load(I64, code.at(item, lane))
            loop.next_unless(b.icmp_signed("!=", mine, nothing))
            here = b.add(code.load(I64, code.at(position, lane)), I64(64))
            code.store(here, code.at(position, lane))
            loop.next_unless(b.icmp_unsigned("==", here, code.load(I64, code.at(end, lane))))
            for word in range(8):
                value = swap(b, code.load(I32, code.at(state, place(lane, word), 4)))
                code.store(value, b.add(code.at(out, mine, 32), I64(4 * word)))
            refill(lane)
    b.ret_void()


def _take(module: ir.Module) -> ir.Function:
    """A block with prefix, data and padding, put together in ``buffer``."""
    code = Code(module, "take", ("buffer", "here", "total", "last", "prefix", "prefix_length", "base"), VOID)
    code.function.linkage = "internal"
    buffer, here, total, last, prefix, prefix_length, base = code.args()
    b = code.builder
    code.store(ir.Constant(ir.VectorType(I64, 8), [0] * 8), buffer, align=8)
    beyond = b.add(here, I64(64))
    with b.if_then(code.less(here, prefix_length)):
        stop = code.minimum(beyond, prefix_length)
        code.copy(buffer, b.add(prefix, here), b.sub(stop, here))
    begin = code.maximum(here, prefix_length)
    stop = code.minimum(beyond, total)
    with b.if_then(code.less(begin, stop)):
        code.copy(b.add(buffer, b.sub(begin, here)), b.add(base, begin), b.sub(stop, begin))
    with b.if_then(b.and_(b.icmp_unsigned("<=", here, total), code.less(total, beyond))):
        code.store(I8(0x80), b.add(buffer, b.sub(total, here)))
    with b.if_then(b.icmp_unsigned("==", beyond, last)):
        code.store(swap(b, b.shl(total, I64(3))), b.add(buffer, I64(56)), align=8)
    b.ret_void()
    return code.function


Compress = tuple[Callable[[], None], Callable[[Any, int], Any]]
"""Emits one compression of all lanes; and where in ``state`` a word of a lane lies."""


def _with_vectors(code: Code, lanes: int, state: Any, block: Any) -> Compress:
    b = code.builder
    sha = Lanes(b, lanes)

    def place(lane: Any, word: int) -> Any:
        return b.add(I64(word * lanes), lane)

    def compress() -> None:
        blocks = [code.load(I64, code.at(block, lane)) for lane in range(lanes)]
        words = []
        for t in range(16):
            word = ir.Constant(sha.type, ir.Undefined)
            for lane, address in enumerate(blocks):
                word = b.insert_element(word, code.load(I32, b.add(address, I64(4 * t))), I32(lane))
            words.append(swap(b, word))
        rows = [b.add(state, I64(4 * lanes * word)) for word in range(8)]
        after = sha.compress([code.load(sha.type, row, align=4 * lanes) for row in rows], words)
        for row, value in zip(rows, after, strict=True):
            code.store(value, row, align=4 * lanes)

    return compress, place


def _with_extensions(code: Code, lanes: int, state: Any, block: Any) -> Compress:
    b = code.builder
    sha = ShaExtensions(b)
    order = "FEBAHGDC"

    def place(lane: Any, word: int) -> Any:
        return b.add(b.mul(lane, I64(8)), I64(order.index("ABCDEFGH"[word])))

    def compress() -> None:
        rows = [code.at(state, lane, 32) for lane in range(lanes)]
        states = [(code.load(QUAD, r, align=16), code.load(QUAD, b.add(r, I64(16)), align=16)) for r in rows]
        addresses = [code.load(I64, code.at(block, lane)) for lane in range(lanes)]
        blocks = [[swap(b, code.load(QUAD, b.add(a, I64(16 * q)))) for q in range(4)] for a in addresses]
        for row, (abef, cdgh) in zip(rows, sha.compress(states, blocks), strict=True):
            code.store(abef, row, align=16)
            code.store(cdgh, b.add(row, I64(16)), align=16)

    return compress, place
