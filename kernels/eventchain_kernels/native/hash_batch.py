"""Generates ``hash_joined``: SHA-256 of many messages, several at a time, each joined from parts.

Each lane works on one message and takes the next one when it has finished, so that lanes stay busy
whatever the lengths are. A message never lies anywhere as a whole: its parts are copied into the lane's own
window, a kilobyte at a time, and hashed from there while they are in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, VOID, Code, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, Lanes, ShaExtensions

ARGUMENTS = ("parts", "part_count", "first", "stop", "padded", "out", "lengths")
"""parts: address of part_count descriptions (below); first, stop: messages; padded: 1, or 0 to leave padding
out (messages are whole blocks); out: address of 32 bytes a message; lengths: of an i64 a message, set to its
length in bytes, or 0."""

DATA, STRIDE, SIZE, OFFSETS, OFFSET_SIZE, VALID, FIRST, FIELD, SHIFT, PART_SIZE = range(0, 80, 8)
"""A part of every message, in i64. Rows: message i has ``size`` bytes at ``data + i·stride``. With a field of
4 or 8 bytes: what an Arrow array has as value ``first + i``, its length before it, big-endian in so many
bytes; ``offsets`` (an address) of ``offset_size`` 4 or 8; where the bitmap ``valid`` (an address, or 0) says
null, the length is all ones and nothing follows. No offsets: an i64, big-endian. Shift: 64 − 8·field,
or 0 without one."""

ITEM, PART, TAKEN, TOTAL, BLOCK, END, DONE, LANE_SIZE = range(0, 64, 8)
"""What is known of a lane, in i64. item: its message, or −1; part, taken: part to be copied next, and how
much of it has been; total: bytes of the message up to there; block, end: addresses of the block to hash next,
and of what follows the window's last; done: whether that is the message's last."""

WINDOW = 1024
SPARE = 192
"""Bytes beyond a window for what begins in it: 64 of data, then a block and a half of padding."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_joined", ARGUMENTS)
    parts, part_count, first, stop, padded, out, lengths = code.args()
    b = code.builder
    known = code.array(I8, LANE_SIZE * lanes)
    windows = code.array(I8, (WINDOW + SPARE) * lanes)
    state = code.array(I32, 8 * lanes)
    compress, place = (_with_extensions if sha_extensions else _with_vectors)(code, lanes, state, known)
    fill = _fill(module)

    following = code.variable(first)
    live = code.variable(I64(lanes))

    def begin(lane: Any) -> None:
        """The lane takes the next message, if there is one."""
        mine = following.get()
        me, window = code.at(known, lane, LANE_SIZE), code.at(windows, lane, WINDOW + SPARE)
        code.store(window, b.add(me, I64(BLOCK)), 8)
        with b.if_else(code.less(mine, stop)) as (some, none):
            with some:
                following.set(b.add(mine, I64(1)))
                code.store(mine, b.add(me, I64(ITEM)), 8)
                for word in (PART, TAKEN, TOTAL):
                    code.store(I64(0), b.add(me, I64(word)), 8)
                code.store(window, b.add(me, I64(END)), 8)
                for word, value in enumerate(INITIAL):
                    code.store(I32(value), code.at(state, place(lane, word), 4), 4)
                b.call(fill, [me, window, parts, part_count, padded])
            with none:  # it has nothing more to do and works on its window, unheeded
                code.store(I64(-1), b.add(me, I64(ITEM)), 8)
                live.set(b.sub(live.get(), I64(1)))

    with code.count(I64(lanes)) as (lane, _):
        begin(lane)
    with code.forever() as work:
        work.leave_unless(code.less(I64(0), live.get()))
        compress()
        with code.count(I64(lanes)) as (lane, loop):
            me = code.at(known, lane, LANE_SIZE)
            mine = code.load(I64, b.add(me, I64(ITEM)), 8)
            loop.next_unless(b.icmp_signed("!=", mine, I64(-1)))
            block = b.add(code.load(I64, b.add(me, I64(BLOCK)), 8), I64(64))
            code.store(block, b.add(me, I64(BLOCK)), 8)
            loop.next_unless(b.icmp_unsigned("==", block, code.load(I64, b.add(me, I64(END)), 8)))
            done = b.icmp_unsigned("!=", code.load(I64, b.add(me, I64(DONE)), 8), I64(0))
            with b.if_else(done) as (over, more):
                with over:
                    for word in range(8):
                        value = swap(b, code.load(I32, code.at(state, place(lane, word), 4), 4))
                        code.store(value, b.add(code.at(out, mine, 32), I64(4 * word)))
                    with b.if_then(b.icmp_unsigned("!=", lengths, I64(0))):
                        code.store(code.load(I64, b.add(me, I64(TOTAL)), 8), code.at(lengths, mine), 8)
                    begin(lane)
                with more:
                    b.call(fill, [me, code.at(windows, lane, WINDOW + SPARE), parts, part_count, padded])
    b.ret_void()


def _fill(module: ir.Module) -> ir.Function:
    """Copies what comes next of a lane's message into its window, with the padding after the last part."""
    code = Code(module, "fill", ("me", "window", "parts", "part_count", "padded"), VOID)
    code.function.linkage = "internal"
    me, window, parts, part_count, padded = code.args()
    b = code.builder

    def get(word: int) -> Any:
        return code.load(I64, b.add(me, I64(word)), 8)

    def put(word: int, value: Any) -> None:
        code.store(value, b.add(me, I64(word)), 8)

    before, item = get(TOTAL), get(ITEM)
    code.copy(window, get(END), I64(64))  # what was no whole block any more
    kept = b.and_(before, I64(63))
    used, part, taken = code.variable(kept), code.variable(get(PART)), code.variable(get(TAKEN))
    with code.forever() as loop:
        loop.leave_unless(code.less(used.get(), I64(WINDOW)))
        loop.leave_unless(code.less(part.get(), part_count))
        it = code.at(parts, part.get(), PART_SIZE)
        source, size, said = _value(code, it, item)
        with b.if_then(b.icmp_unsigned("==", taken.get(), I64(0))):
            field = swap(b, b.shl(said, code.load(I64, b.add(it, I64(SHIFT)), 8)))
            code.store(field, b.add(window, used.get()))
            used.set(b.add(used.get(), code.load(I64, b.add(it, I64(FIELD)), 8)))
        rest = b.sub(size, taken.get())
        share = code.minimum(rest, b.sub(I64(WINDOW + 64), used.get()))
        _copy(code, b.add(window, used.get()), b.add(source, taken.get()), share)
        used.set(b.add(used.get(), share))
        over = b.icmp_unsigned("==", rest, share)
        part.set(b.add(part.get(), b.zext(over, I64)))
        taken.set(b.select(over, I64(0), b.add(taken.get(), share)))

    total = b.add(before, b.sub(used.get(), kept))
    done = b.icmp_unsigned("==", part.get(), part_count)
    with b.if_then(b.and_(done, b.icmp_unsigned("!=", padded, I64(0)))):
        end = b.add(window, used.get())
        for at in (0, 64):
            code.store(ir.Constant(ir.VectorType(I64, 8), [0] * 8), b.add(end, I64(at)))
        code.store(I8(0x80), end)
        used.set(b.and_(b.add(used.get(), I64(9 + 63)), I64(-64)))
        code.store(swap(b, b.shl(total, I64(3))), b.sub(b.add(window, used.get()), I64(8)))
    put(PART, part.get())
    put(TAKEN, taken.get())
    put(TOTAL, total)
    put(BLOCK, window)
    put(END, b.add(window, b.and_(used.get(), I64(-64))))
    put(DONE, b.zext(done, I64))
    b.ret_void()
    return code.function


def _copy(code: Code, target: Any, source: Any, size: Any) -> None:
    """Sixteen bytes at a time, the last ones overlapping: parts are short, a call of memcpy is long."""
    b = code.builder
    wide = ir.VectorType(I8, 16)
    with b.if_else(code.less(size, I64(16))) as (short, long):
        with long:
            last = b.sub(size, I64(16))
            with code.count(last, 16) as (i, _):
                code.store(code.load(wide, b.add(source, i)), b.add(target, i))
            code.store(code.load(wide, b.add(source, last)), b.add(target, last))
        with short:
            done: Any = I64(0)
            for kind in (I64, I32, ir.IntType(16), I8):
                width = I64(kind.width // 8)
                has = b.icmp_unsigned("!=", b.and_(size, width), I64(0))
                with b.if_then(has):
                    code.store(code.load(kind, b.add(source, done)), b.add(target, done))
                done = b.add(done, b.and_(size, width))


def _value(code: Code, part: Any, item: Any) -> tuple[Any, Any, Any]:
    """Where the part of this message lies, its size, and what its field says."""
    b = code.builder

    def get(word: int) -> Any:
        return code.load(I64, b.add(part, I64(word)), 8)

    source = code.variable(b.add(get(DATA), b.mul(item, get(STRIDE))))
    size = code.variable(get(SIZE))
    said = code.variable(size.get())
    offsets = get(OFFSETS)
    nothing = b.icmp_unsigned("==", offsets, I64(0))
    with b.if_then(b.and_(nothing, b.icmp_unsigned("!=", get(FIELD), I64(0)))):
        said.set(code.load(I64, source.get()))
    with b.if_then(b.not_(nothing)):
        index = b.add(item, get(FIRST))
        begin, end = code.variable(I64(0)), code.variable(I64(0))
        with b.if_else(b.icmp_unsigned("==", get(OFFSET_SIZE), I64(4))) as (narrow, wide):
            for kind, branch in ((I32, narrow), (I64, wide)):
                with branch:
                    width = kind.width // 8
                    here = code.at(offsets, index, width)
                    for variable, place in ((begin, here), (end, b.add(here, I64(width)))):
                        value = code.load(kind, place)
                        variable.set(b.zext(value, I64) if kind is I32 else value)
        source.set(b.add(get(DATA), begin.get()))
        size.set(b.sub(end.get(), begin.get()))
        said.set(size.get())
        valid = get(VALID)
        with b.if_then(b.icmp_unsigned("!=", valid, I64(0))):
            byte = code.load(I8, b.add(valid, b.lshr(index, I64(3))))
            bit = b.and_(b.lshr(byte, b.trunc(b.and_(index, I64(7)), I8)), I8(1))
            with b.if_then(b.icmp_unsigned("==", bit, I8(0))):
                size.set(I64(0))
                said.set(I64(-1))
    return source.get(), size.get(), said.get()


Compress = tuple[Callable[[], None], Callable[[Any, int], Any]]
"""Emits one compression of all lanes; and where in ``state`` a word of a lane lies."""


def _with_vectors(code: Code, lanes: int, state: Any, known: Any) -> Compress:
    b = code.builder
    sha = Lanes(b, lanes)

    def place(lane: Any, word: int) -> Any:
        return b.add(I64(word * lanes), lane)

    def compress() -> None:
        blocks = [code.load(I64, code.at(known, lane, LANE_SIZE, BLOCK), 8) for lane in range(lanes)]
        words = []
        for t in range(16):
            word = ir.Constant(sha.type, ir.Undefined)
            for lane, address in enumerate(blocks):
                word = b.insert_element(word, code.load(I32, b.add(address, I64(4 * t)), 4), I32(lane))
            words.append(swap(b, word))
        rows = [b.add(state, I64(4 * lanes * word)) for word in range(8)]
        after = sha.compress([code.load(sha.type, row, align=4 * lanes) for row in rows], words)
        for row, value in zip(rows, after, strict=True):
            code.store(value, row, align=4 * lanes)

    return compress, place


def _with_extensions(code: Code, lanes: int, state: Any, known: Any) -> Compress:
    b = code.builder
    sha = ShaExtensions(b)
    order = "FEBAHGDC"

    def place(lane: Any, word: int) -> Any:
        return b.add(b.mul(lane, I64(8)), I64(order.index("ABCDEFGH"[word])))

    def compress() -> None:
        rows = [code.at(state, lane, 32) for lane in range(lanes)]
        states = [(code.load(QUAD, r, align=16), code.load(QUAD, b.add(r, I64(16)), align=16)) for r in rows]
        addresses = [code.load(I64, code.at(known, lane, LANE_SIZE, BLOCK), 8) for lane in range(lanes)]
        blocks = [[swap(b, code.load(QUAD, b.add(a, I64(16 * q)), 16)) for q in range(4)] for a in addresses]
        for row, (abef, cdgh) in zip(rows, sha.compress(states, blocks), strict=True):
            code.store(abef, row, align=16)
            code.store(cdgh, b.add(row, I64(16)), align=16)

    return compress, place
