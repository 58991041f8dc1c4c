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

ARGUMENTS = ("parts", "first", "stop", "padded", "out", "longest")
"""parts: address of their descriptions (below); first, stop: messages; padded: 1, or 0 to leave padding
out (messages are whole blocks, one at least); out: address of 32 bytes a message, which may also be a row of
it; longest: address of two i64, set to the length in bytes of a longest message and to its number."""

KIND, DATA, STRIDE, SIZE, OFFSETS, VALID, FIRST, FIELD, SHIFT, PART_SIZE = range(0, 80, 8)
ROW, INTEGER, VALUE_32, VALUE_64, END = range(5)
"""A part of every message, in i64, and its kinds. Row: message i has ``size`` bytes at ``data + i·stride``.
Integer: the i64 at ``data + 8·i``, big-endian. Value: what an Arrow array has between its 32 or 64-bit
``offsets`` i and i + 1 (an address) of ``data``, after its length, big-endian in ``field`` bytes (0, 4 or 8;
``shift``: 64 − 8·field, or 0 without); where bit ``first + i`` of the bitmap ``valid`` (an address, or 0)
says null, the length is all ones and nothing follows. End: there are no more."""

ITEM, PART, TAKEN, TOTAL, LANE_SIZE = range(0, 40, 8)
"""What is known of a lane, in i64. item: its message, or −1; part, taken: address of the part to be copied
next, and how much of it has been; total: bytes of the message in the windows so far."""

WINDOW = 1024
SPARE = 192
"""Bytes beyond a window for what begins in it: 64 of data, then a block and a half of padding."""
WIDE = ir.VectorType(I8, 64)


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_joined", ARGUMENTS)
    parts, first, stop, padded, out, longest = code.args()
    b = code.builder
    known, windows = code.array(I8, LANE_SIZE * lanes), code.array(I8, (WINDOW + SPARE) * lanes)
    # Of each lane: where its next block lies, how many there are in its window, and whether they end it.
    blocks, left, last = code.array(I64, lanes), code.array(I32, lanes), code.array(I32, lanes)
    pointers, counts = ir.VectorType(I64, lanes), ir.VectorType(I32, lanes)
    engine = multi_buffer(code, lanes, sha_extensions)
    unread, live = code.variable(first), code.variable(I64(0))
    most, which = code.variable(I64(0)), code.variable(first)

    def finish(lane: Any, done: Any, total: Any) -> None:
        live.set(b.sub(live.get(), I64(1)))
        for half, quad in enumerate(engine.digest(lane)):
            code.store(quad, b.add(code.at(out, done, 32), I64(16 * half)))
        with b.if_then(code.less(most.get(), total)):
            most.set(total)
            which.set(done)

    def following() -> Any:
        """The next message, or −1."""
        mine = unread.get()
        some = code.less(mine, stop)
        unread.set(b.add(mine, b.zext(some, I64)))
        live.set(b.add(live.get(), b.zext(some, I64)))
        return b.select(some, mine, I64(-1))

    def serve(lane: Any) -> None:
        """The lane has hashed its window."""
        me, window = code.at(known, lane, LANE_SIZE), code.at(windows, lane, WINDOW + SPARE)
        item, part, taken, total = (
            code.variable(code.load(I64, b.add(me, I64(word)), 8)) for word in (ITEM, PART, TAKEN, TOTAL)
        )
        ended = b.icmp_unsigned("!=", code.load(I32, code.at(last, lane, 4), 4), I32(0))
        with b.if_else(ended) as (over, on):
            with over:
                with b.if_then(b.icmp_signed(">=", item.get(), I64(0))):
                    finish(lane, item.get(), total.get())
                item.set(following())
                for variable, value in ((part, parts), (taken, I64(0)), (total, I64(0))):
                    variable.set(value)
            with on:  # what was no whole block any more
                code.store(code.load(WIDE, code.load(I64, code.at(blocks, lane), 8)), window)
        count, ends = code.variable(I64(WINDOW // 64)), code.variable(I32(1))
        # A lane with nothing more to do works on its window, unheeded.
        with b.if_then(b.icmp_signed(">=", item.get(), I64(0))):
            used, done = _fill(code, window, item.get(), part, taken, total, padded)
            count.set(b.lshr(used, I64(6)))
            ends.set(b.zext(done, I32))
        for word, variable in ((ITEM, item), (PART, part), (TAKEN, taken), (TOTAL, total)):
            code.store(variable.get(), b.add(me, I64(word)), 8)
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
    code: Code, window: Any, item: Any, part: Variable, taken: Variable, total: Variable, padded: Any
) -> tuple[Any, Any]:
    """Copies what comes next of a message into its lane's window, behind what was left of the one before,
    with the padding after the last part. Gives how much is there, and whether that is all."""
    b = code.builder
    kept = b.and_(total.get(), I64(63))
    used = code.variable(kept)

    def put(value: Any, size: Any) -> None:
        code.store(value, b.add(window, used.get()))
        used.set(b.add(used.get(), size))

    with code.forever() as loop:
        it = part.get()
        kind = _of(code, it, KIND)
        source, size = code.variable(I64(0)), code.variable(I64(0))
        with b.if_else(b.icmp_unsigned("==", kind, I64(ROW))) as (row, other):
            with row:
                source.set(b.add(_of(code, it, DATA), b.mul(item, _of(code, it, STRIDE))))
                size.set(_of(code, it, SIZE))
            with other, b.if_else(b.icmp_unsigned("==", kind, I64(INTEGER))) as (integer, more):
                with integer:
                    put(swap(b, code.load(I64, code.at(_of(code, it, DATA), item))), I64(8))
                with more:
                    loop.leave_unless(b.icmp_unsigned("!=", kind, I64(END)))
                    said = _value(code, it, kind, item, source, size)
                    with b.if_then(b.icmp_unsigned("==", taken.get(), I64(0))):
                        put(swap(b, b.shl(said, _of(code, it, SHIFT))), _of(code, it, FIELD))
        # Branches, not selections: what follows of a message should not wait for the sizes before it.
        ahead, room = b.sub(size.get(), taken.get()), b.sub(I64(WINDOW), used.get())
        target, begin = b.add(window, used.get()), b.add(source.get(), taken.get())
        with b.if_then(b.icmp_signed("<", room, ahead)):
            share = code.minimum(ahead, b.add(room, I64(64)))
            _copy(code, target, begin, share)
            used.set(b.add(used.get(), share))
            over = b.icmp_unsigned("==", share, ahead)
            part.set(b.select(over, b.add(it, I64(PART_SIZE)), it))
            taken.set(b.select(over, I64(0), b.add(taken.get(), share)))
            loop.leave()
        _copy(code, target, begin, ahead)
        used.set(b.add(used.get(), ahead))
        taken.set(I64(0))
        part.set(b.add(it, I64(PART_SIZE)))

    total.set(b.add(total.get(), b.sub(used.get(), kept)))
    done = b.icmp_unsigned("==", _of(code, part.get(), KIND), I64(END))
    with b.if_then(b.and_(done, b.icmp_unsigned("!=", padded, I64(0)))):
        end = b.add(window, used.get())
        for at in (0, 64):
            code.store(ir.Constant(WIDE, [0] * 64), b.add(end, I64(at)))
        code.store(I8(0x80), end)
        used.set(b.and_(b.add(used.get(), I64(9 + 63)), I64(-64)))
        code.store(swap(b, b.shl(total.get(), I64(3))), b.sub(b.add(window, used.get()), I64(8)))
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
