"""Generates ``hash_joined``: SHA-256 of many messages, several at a time, each joined from parts.

Each lane works on one message and takes the next one when it has finished, so that lanes stay busy
whatever the lengths are. A message never lies anywhere as a whole: its parts are copied into the lane's own
window, a kilobyte at a time, and hashed from there while they are in the nearest cache.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, Code, Variable, swap
from eventchain_kernels.native.multi_buffer import multi_buffer

ARGUMENTS = ("parts", "part_count", "first", "stop", "padded", "out", "longest")
"""parts: address of part_count descriptions (below); first, stop: messages; padded: 1, or 0 to leave padding
out (messages are whole blocks, one at least); out: address of 32 bytes a message, which may also be a row of
it; longest: address of two i64, set to the length in bytes of a longest message and to its number."""

KIND, DATA, STRIDE, SIZE, OFFSETS, VALID, FIRST, FIELD, PART_SIZE = range(0, 72, 8)
ROW, INTEGER, VALUE_32, VALUE_64 = range(4)
"""A part of every message, in i64, and its kinds. Row: message i has ``size`` bytes at ``data + i·stride``.
Integer: the i64 at ``data + 8·i``, big-endian. Value: what an Arrow array has between its 32 or 64-bit
``offsets`` i and i + 1 (an address) of ``data``, after its length, big-endian in ``field`` bytes (0, 4 or 8);
where bit ``first + i`` of the bitmap ``valid`` (an address, or 0) says null, the length is all ones and
nothing follows."""

ITEM, PART, TAKEN, TOTAL, LANE_SIZE = range(0, 40, 8)
"""What is known of a lane, in i64. item: its message, or −1; part, taken: part to be copied next, and how
much of it has been; total: bytes of the message in the windows so far."""

WINDOW = 1024
SPARE = 192
"""Bytes beyond a window for what begins in it: 64 of data, then a block and a half of padding."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_joined", ARGUMENTS)
    parts, part_count, first, stop, padded, out, longest = code.args()
    b = code.builder
    known, windows = code.array(I8, LANE_SIZE * lanes), code.array(I8, (WINDOW + SPARE) * lanes)
    # Of each lane: where its next block lies, how many there are in its window, and whether they end it.
    blocks, left, last = code.array(I64, lanes), code.array(I32, lanes), code.array(I32, lanes)
    pointers, counts = ir.VectorType(I64, lanes), ir.VectorType(I32, lanes)
    engine = multi_buffer(code, lanes, sha_extensions)
    following, live = code.variable(first), code.variable(I64(0))
    most, which = code.variable(I64(0)), code.variable(first)

    def begin(lane: Any, me: Any) -> None:
        """The lane hands out its digest and takes the next message, if there is one."""
        done = code.load(I64, b.add(me, I64(ITEM)), 8)
        with b.if_then(b.icmp_signed(">=", done, I64(0))):
            live.set(b.sub(live.get(), I64(1)))
            for half, quad in enumerate(engine.digest(lane)):
                code.store(quad, b.add(code.at(out, done, 32), I64(16 * half)))
            total = code.load(I64, b.add(me, I64(TOTAL)), 8)
            with b.if_then(code.less(most.get(), total)):
                most.set(total)
                which.set(done)
        mine = following.get()
        some = code.less(mine, stop)
        following.set(b.add(mine, b.zext(some, I64)))
        live.set(b.add(live.get(), b.zext(some, I64)))
        code.store(b.select(some, mine, I64(-1)), b.add(me, I64(ITEM)), 8)
        for word in (PART, TAKEN, TOTAL):
            code.store(I64(0), b.add(me, I64(word)), 8)

    def serve(lane: Any) -> None:
        """The lane has hashed its window."""
        me, window = code.at(known, lane, LANE_SIZE), code.at(windows, lane, WINDOW + SPARE)
        with b.if_then(b.icmp_unsigned("!=", code.load(I32, code.at(last, lane, 4), 4), I32(0))):
            begin(lane, me)
        count, ends = code.variable(I64(WINDOW // 64)), code.variable(I32(1))
        # A lane with nothing more to do works on its window, unheeded.
        with b.if_then(b.icmp_signed(">=", code.load(I64, b.add(me, I64(ITEM)), 8), I64(0))):
            rest = code.load(I64, code.at(blocks, lane), 8)
            used, done = _fill(code, me, window, rest, parts, part_count, padded)
            count.set(b.lshr(used, I64(6)))
            ends.set(b.zext(done, I32))
        code.store(window, code.at(blocks, lane), 8)
        code.store(b.trunc(count.get(), I32), code.at(left, lane, 4), 4)
        code.store(ends.get(), code.at(last, lane, 4), 4)

    ones, nothing = ir.Constant(counts, [1] * lanes), ir.Constant(counts, [0] * lanes)
    with code.count(I64(lanes)) as (lane, _):
        code.store(I64(-1), code.at(known, lane, LANE_SIZE), 8)
        code.store(code.at(windows, lane, WINDOW + SPARE), code.at(blocks, lane), 8)
    code.store(nothing, left, 64)
    code.store(ones, last, 64)
    with code.forever() as work:
        empty = b.icmp_unsigned("==", code.load(counts, left, 64), nothing)
        ready = code.variable(b.zext(b.bitcast(empty, ir.IntType(lanes)), I64))
        with b.if_then(b.icmp_unsigned("!=", ready.get(), I64(0))):
            engine.settle(b.and_(empty, b.icmp_unsigned("!=", code.load(counts, last, 64), nothing)))
            with code.forever() as each:
                some = ready.get()
                each.leave_unless(b.icmp_unsigned("!=", some, I64(0)))
                ready.set(b.and_(some, b.sub(some, I64(1))))
                serve(b.cttz(some, ir.IntType(1)(1)))
        work.leave_unless(b.icmp_unsigned("!=", live.get(), I64(0)))
        engine.compress(blocks)
        code.store(b.sub(code.load(counts, left, 64), ones), left, 64)
        step = ir.Constant(pointers, [64] * lanes)
        code.store(b.add(code.load(pointers, blocks, 64), step), blocks, 64)
    for place, value in enumerate((most.get(), which.get())):
        code.store(value, code.at(longest, place), 8)
    b.ret_void()


def _fill(
    code: Code, me: Any, window: Any, rest: Any, parts: Any, part_count: Any, padded: Any
) -> tuple[Any, Any]:
    """Copies what comes next of a lane's message into its window, with the padding after the last part, and
    gives how much is there and whether that is all. ``rest``: where the last whole block ended."""
    b = code.builder

    def get(word: int) -> Any:
        return code.load(I64, b.add(me, I64(word)), 8)

    before, item = get(TOTAL), get(ITEM)
    wide = ir.VectorType(I8, 64)
    code.store(code.load(wide, rest), window)  # what was no whole block any more
    kept = b.and_(before, I64(63))
    used, part, taken = code.variable(kept), code.variable(get(PART)), code.variable(get(TAKEN))

    def put(value: Any, size: Any) -> None:
        code.store(value, b.add(window, used.get()))
        used.set(b.add(used.get(), size))

    with code.forever() as loop:
        loop.leave_unless(code.less(part.get(), part_count))
        loop.leave_unless(code.less(used.get(), I64(WINDOW)))
        it = code.at(parts, part.get(), PART_SIZE)
        kind = code.load(I64, it, 8)
        source, size = code.variable(I64(0)), code.variable(I64(0))
        with b.if_else(b.icmp_unsigned("==", kind, I64(ROW))) as (row, other):
            with row:
                source.set(b.add(_of(code, it, DATA), b.mul(item, _of(code, it, STRIDE))))
                size.set(_of(code, it, SIZE))
            with other, b.if_else(b.icmp_unsigned("==", kind, I64(INTEGER))) as (integer, value):
                with integer:
                    put(swap(b, code.load(I64, code.at(_of(code, it, DATA), item))), I64(8))
                with value:
                    said = _value(code, it, kind, item, source, size)
                    with b.if_then(b.icmp_unsigned("==", taken.get(), I64(0))):
                        field = _of(code, it, FIELD)
                        shift = b.and_(b.sub(I64(64), b.shl(field, I64(3))), I64(63))
                        put(swap(b, b.shl(said, shift)), field)
        # Branches, not selections: what follows of a message should not wait for the sizes before it.
        ahead, room = b.sub(size.get(), taken.get()), b.sub(I64(WINDOW + 64), used.get())
        target, begin = b.add(window, used.get()), b.add(source.get(), taken.get())
        with b.if_then(code.less(room, ahead)):
            _copy(code, target, begin, room)
            used.set(I64(WINDOW + 64))
            taken.set(b.add(taken.get(), room))
            loop.leave()
        _copy(code, target, begin, ahead)
        used.set(b.add(used.get(), ahead))
        taken.set(I64(0))
        part.set(b.add(part.get(), I64(1)))

    total = b.add(before, b.sub(used.get(), kept))
    done = b.icmp_unsigned("==", part.get(), part_count)
    with b.if_then(b.and_(done, b.icmp_unsigned("!=", padded, I64(0)))):
        end = b.add(window, used.get())
        for at in (0, 64):
            code.store(ir.Constant(wide, [0] * 64), b.add(end, I64(at)))
        code.store(I8(0x80), end)
        used.set(b.and_(b.add(used.get(), I64(9 + 63)), I64(-64)))
        code.store(swap(b, b.shl(total, I64(3))), b.sub(b.add(window, used.get()), I64(8)))
    for word, value in ((PART, part.get()), (TAKEN, taken.get()), (TOTAL, total)):
        code.store(value, b.add(me, I64(word)), 8)
    return used.get(), done


def _of(code: Code, part: Any, word: int) -> Any:
    return code.load(I64, code.builder.add(part, I64(word)), 8)


def _value(code: Code, part: Any, kind: Any, item: Any, source: Variable, size: Variable) -> Any:
    """Where an Arrow array's value lies, its size, and what its field says."""
    b = code.builder
    offsets, valid = _of(code, part, OFFSETS), _of(code, part, VALID)
    with b.if_else(b.icmp_unsigned("==", kind, I64(VALUE_32))) as branches:
        for integer, branch in zip((I32, I64), branches, strict=True):
            with branch:
                width = integer.width // 8
                here = code.at(offsets, item, width)
                begin, end = code.load(integer, here), code.load(integer, b.add(here, I64(width)))
                source.set(b.add(_of(code, part, DATA), b.zext(begin, I64) if width == 4 else begin))
                size.set(b.zext(b.sub(end, begin), I64) if width == 4 else b.sub(end, begin))
    said = code.variable(size.get())
    with b.if_then(b.icmp_unsigned("!=", valid, I64(0))):
        index = b.add(item, _of(code, part, FIRST))
        byte = code.load(I8, b.add(valid, b.lshr(index, I64(3))))
        bit = b.and_(b.lshr(byte, b.trunc(b.and_(index, I64(7)), I8)), I8(1))
        with b.if_then(b.icmp_unsigned("==", bit, I8(0))):
            size.set(I64(0))
            said.set(I64(-1))
    return said.get()


def _copy(code: Code, target: Any, source: Any, size: Any, width: int = 32) -> None:
    """The widest pieces that fit, the last one overlapping: parts are short, a call of memcpy is long."""
    b = code.builder
    kind = ir.IntType(8 * width) if width <= 8 else ir.VectorType(I8, width)

    def move(at: Any) -> None:
        code.store(code.load(kind, b.add(source, at)), b.add(target, at))

    with b.if_else(code.less(size, I64(width))) as (short, long):
        with long:
            end = b.sub(size, I64(width))
            if width == 32:
                with code.count(end, width) as (i, _):
                    move(i)
            else:
                move(I64(0))
            move(end)
        with short:
            if width > 4:
                _copy(code, target, source, size, width // 2)
            else:
                with b.if_then(b.icmp_unsigned("!=", size, I64(0))):
                    kind = I8
                    for at in (I64(0), b.lshr(size, I64(1)), b.sub(size, I64(1))):
                        move(at)
