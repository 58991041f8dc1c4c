"""Generates ``fetch_rows``: the rows of an SQLite statement, column by column into memory.

SQLite's own functions are called by their addresses, so that nothing is linked: they must be those of the
one copy of SQLite in the process.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, VOID, Code

ARGUMENTS = ("functions", "statement", "mutex", "columns", "width", "rows", "state")
"""functions: address of the addresses of FUNCTIONS, in that order; statement: ``sqlite3_stmt *``; mutex: of
its connection, or 0; columns: address of ``width`` records of COLUMN, in i64; rows: how many to fetch at
most; state: address of i64 of STATE."""
FUNCTIONS = (
    "sqlite3_mutex_enter", "sqlite3_mutex_leave", "sqlite3_step", "sqlite3_column_value",
    "sqlite3_value_type", "sqlite3_value_int64", "sqlite3_value_blob", "sqlite3_value_bytes",
)  # fmt: skip
COLUMN = ("class", "values", "offsets", "present", "capacity")
"""class: INTEGER, TEXT or BLOB; values: address of i64 a row, or of ``capacity`` bytes; for bytes also
offsets: address of i32 a row and one more, the first set to 0; present: address of u8 a row, 0 where null.
capacity is below 2³¹."""
STATE = ("count", "pending", "status", "column")
"""count: rows filled so far; pending: 1 when the statement stands on a row that has not been taken; status:
why it returned; column: the one looked at last. A caller sets count and pending."""
INTEGER, TEXT, BLOB, NULL = 1, 3, 4, 5  # SQLite's storage classes; a blob may be null
NO_MEMORY, ROW, DONE = 7, 100, 101  # SQLite's result codes; ROW: as many rows as asked for
FULL, IRREGULAR = -1, -2
"""The pending row does not fit into a column's bytes, or has a value of another class than its column."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "fetch_rows", ARGUMENTS)
    functions, statement, mutex, columns, width, rows, state = code.args()
    b = code.builder
    addresses = {name: code.load(I64, code.at(functions, n)) for n, name in enumerate(FUNCTIONS)}

    def sqlite(name: str, result: Any, *operands: Any) -> Any:
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        return b.call(b.inttoptr(addresses[f"sqlite3_{name}"], kind.as_pointer()), operands)

    def field(record: Any, names: tuple[str, ...], name: str) -> Any:
        return code.at(record, names.index(name))

    count = code.variable(code.load(I64, field(state, STATE, "count")))
    pending = code.variable(code.load(I64, field(state, STATE, "pending")))
    status = code.variable(I64(ROW))
    last = code.variable(I64(0))

    def leave_with(loop: Any, result: int, condition: Any) -> None:
        status.set(b.select(condition, I64(result), I64(ROW)))
        loop.leave_unless(b.not_(condition))

    # Values may be looked at where they lie only while the connection's mutex is held.
    sqlite("mutex_enter", VOID, mutex)
    with code.forever() as each_row:
        row = count.get()
        each_row.leave_unless(code.less(row, rows))
        with b.if_then(b.icmp_unsigned("==", pending.get(), I64(0))):
            status.set(b.sext(sqlite("step", I32, statement), I64))
        each_row.leave_unless(b.icmp_unsigned("==", status.get(), I64(ROW)))
        pending.set(I64(1))
        with code.count(width) as (index, each_column):
            last.set(index)
            column = code.at(columns, index, 8 * len(COLUMN))
            wanted = code.load(I64, field(column, COLUMN, "class"))
            values = code.load(I64, field(column, COLUMN, "values"))
            value = sqlite("column_value", I64, statement, b.trunc(index, I32))
            found = b.zext(sqlite("value_type", I32, value), I64)
            null = b.and_(b.icmp_unsigned("==", found, I64(NULL)), b.icmp_unsigned("==", wanted, I64(BLOB)))
            regular = b.or_(null, b.icmp_unsigned("==", found, wanted))
            leave_with(each_column, IRREGULAR, b.not_(regular))
            with b.if_then(b.icmp_unsigned("==", wanted, I64(INTEGER))):
                code.store(sqlite("value_int64", I64, value), code.at(values, row))
            each_column.next_unless(b.icmp_unsigned("!=", wanted, I64(INTEGER)))
            # The pointer first, then the length: asking for it may make the value whole. Null has neither.
            source = sqlite("value_blob", I64, value)
            size = b.zext(sqlite("value_bytes", I32, value), I64)
            missing = b.and_(b.icmp_unsigned("==", source, I64(0)), b.icmp_unsigned("!=", size, I64(0)))
            leave_with(each_column, NO_MEMORY, missing)
            offset = code.at(code.load(I64, field(column, COLUMN, "offsets")), row, 4)
            begin = b.zext(code.load(I32, offset), I64)
            end = b.add(begin, size)
            leave_with(each_column, FULL, code.less(code.load(I64, field(column, COLUMN, "capacity")), end))
            code.copy(b.add(values, begin), source, size)
            code.store(b.trunc(end, I32), b.add(offset, I64(4)))
            present = b.add(code.load(I64, field(column, COLUMN, "present")), row)
            code.store(b.zext(b.not_(null), I8), present)
        each_row.leave_unless(b.icmp_unsigned("==", status.get(), I64(ROW)))
        pending.set(I64(0))
        count.set(b.add(row, I64(1)))
    sqlite("mutex_leave", VOID, mutex)
    for name, variable in {"count": count, "pending": pending, "status": status, "column": last}.items():
        code.store(variable.get(), field(state, STATE, name))
    b.ret_void()
